//! The same packets through the native engine and through the loaded programs: same outcome, and
//! the same tables afterwards, word by word.

use std::sync::atomic::{AtomicU64, Ordering::SeqCst};

use keepstate_daemon::twin::Twin;
use keepstate_engine::limits::{SLOT_WORDS_V4, SLOT_WORDS_V6, SLOTS_PER_BUCKET, WARM_WORDS};
use keepstate_engine::process::{Arrival, Checksums, Outcome, Path};
use keepstate_engine::settings::Settings;
use keepstate_engine::table::gauges;
use keepstate_engine::time::Tick;
use keepstate_engine::tuple::Family;
use keepstate_engine::verdict::{Hook, Verdict};
use keepstate_engine::wire::Link;
use keepstate_flowmemory::{FamilySlices, SliceTable, buckets_for};
use keepstate_plane::{REPORT_NONE, Report};
use keepstate_policy::{Compiled, FileKind, Policy, compile, parse_rules};
use keepstate_sim::capture::{NetworkPacket, Reader, network_packet};
use keepstate_sim::locals::Locals;
use keepstate_sim::plane::{LoadedPolicy, Plane};
use keepstate_sim::traffic::{Mood, Traffic};

/// Small, so that tables fill up and records make room for others.
const FLOWS_MAX: u32 = 512;

/// Longest frame that a test run holds in one piece; longer ones lie in fragments, whose checksum
/// the programs do not verify.
const FRAME_BYTES_MAX: usize = 3_000;

/// Shortest frame that a test run of XDP takes, and of TC: there the IP header must be whole.
const XDP_FRAME_BYTES_MIN: usize = 14;
const TC_FRAME_BYTES_MIN: usize = 14 + 40;

const GENERATED: usize = 100_000;

/// Of these, every other one leaves through the egress program.
const GENERATED_BOTH_WAYS: usize = 30_000;

const XDP_DROP: u32 = 1;
const XDP_PASS: u32 = 2;
const TC_SHOT: u32 = 2;
/// `TC_ACT_UNSPEC`, minus one.
const TC_NEXT: u32 = u32::MAX;

const RULES: &str = "*filter
:INPUT DROP [0:0]
:FORWARD DROP [0:0]
:OUTPUT ACCEPT [0:0]
:services - [0:0]
-A FORWARD -m conntrack --ctstate INVALID -j DROP
-A FORWARD -m conntrack --ctstate ESTABLISHED,RELATED -j ACCEPT
-A FORWARD -p tcp -j services
-A FORWARD -p udp --dport 1:40000 -j ACCEPT
-A FORWARD -p icmp -j ACCEPT
-A FORWARD -p ipv6-icmp -j ACCEPT
-A services -p tcp --dport 1:50000 -j ACCEPT
-A services -j RETURN
COMMIT
";

#[test]
fn generated_packets_fare_alike() {
    if !keepstate_testkit::root_or_skip("generated_packets_fare_alike") {
        return;
    }
    let policy = policy();
    for (seed, mood) in [(1, Mood::Hostile), (2, Mood::Lossy)] {
        let memory = Memory::new();
        let mut twins = Twins::new(&memory, &policy);
        for packet in Traffic::new(seed, mood).take(GENERATED / 2) {
            let now = Tick::from_nanoseconds(packet.time_ns);
            twins.compare(
                &ethernet(&packet.ip),
                Path::Ingress,
                now,
                &format!("{mood:?}"),
            );
        }
        println!(
            "{mood:?}: {} compared, {} left out",
            twins.compared, twins.left_out
        );
        assert!(twins.compared > GENERATED / 2 - GENERATED / 20);
        assert!(twins.gauge(gauges::INSERTED) > 1_000);
        assert!(
            twins.gauge(gauges::EVICTED) > 0,
            "no record made room for another"
        );
    }
}

#[test]
fn packets_of_this_host_fare_alike() {
    if !keepstate_testkit::root_or_skip("packets_of_this_host_fare_alike") {
        return;
    }
    let policy = policy();
    let memory = Memory::new();
    let mut twins = Twins::new(&memory, &policy);
    let traffic = Traffic::new(3, Mood::Hostile).take(GENERATED_BOTH_WAYS);
    for (number, packet) in traffic.enumerate() {
        let path = if number % 2 == 0 {
            Path::Local
        } else {
            Path::Ingress
        };
        let now = Tick::from_nanoseconds(packet.time_ns);
        twins.compare(&ethernet(&packet.ip), path, now, "both ways");
    }
    println!(
        "both ways: {} compared, {} left out",
        twins.compared, twins.left_out
    );
    assert!(twins.gauge(gauges::INSERTED) > 1_000);
}

#[test]
fn captured_packets_fare_alike() {
    const NAME: &str = "captured_packets_fare_alike";
    if !keepstate_testkit::root_or_skip(NAME) {
        return;
    }
    let Some(shared) = keepstate_testkit::shared_dir_or_skip(NAME) else {
        return;
    };
    let mut captures = Vec::new();
    collect(&shared.join("captures/public"), &mut captures);
    captures.sort();
    let policy = policy();
    let memory = Memory::new();
    let mut twins = Twins::new(&memory, &policy);
    for path in &captures {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        let Ok(file) = std::fs::File::open(path) else {
            continue;
        };
        let Ok(mut reader) = Reader::new(std::io::BufReader::new(file)) else {
            continue;
        };
        let mut latest = 0;
        while let Ok(Some(frame)) = reader.next_frame() {
            let NetworkPacket::Packet { link, bytes, .. } = network_packet(&frame) else {
                continue;
            };
            latest = frame.time_ns.unwrap_or(latest).max(latest);
            let now = Tick::from_nanoseconds(latest);
            let what = format!("{name} {}", frame.number);
            match link {
                Link::Ethernet => twins.compare(&bytes, Path::Ingress, now, &what),
                Link::Ipv4 | Link::Ipv6 => {
                    twins.compare(&ethernet(&bytes), Path::Ingress, now, &what)
                }
            }
        }
    }
    println!(
        "{} captures: {} compared, {} left out",
        captures.len(),
        twins.compared,
        twins.left_out
    );
    assert!(twins.compared > 0);
}

fn collect(directory: &std::path::Path, captures: &mut Vec<std::path::PathBuf>) {
    let Ok(entries) = std::fs::read_dir(directory) else {
        return;
    };
    for entry in entries.flatten() {
        let path = entry.path();
        if path.is_dir() {
            collect(&path, captures);
        } else {
            captures.push(path);
        }
    }
}

fn policy() -> Compiled {
    let mut policy = Policy::default();
    for kind in [Family::V4, Family::V6].map(FileKind::Save) {
        let parsed = parse_rules(RULES, kind);
        assert!(!parsed.has_errors(), "{:?}", parsed.diagnostics);
        policy.merge(parsed);
    }
    compile(&policy).expect("the rules above compile")
}

fn ethernet(ip: &[u8]) -> Vec<u8> {
    let ethertype: u16 = match ip.first().map(|byte| byte >> 4) {
        Some(6) => 0x86dd,
        _ => 0x0800,
    };
    let mut frame = vec![2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2];
    frame.extend(ethertype.to_be_bytes());
    frame.extend(ip);
    frame
}

fn settings() -> Settings {
    let buckets = buckets_for(FLOWS_MAX);
    let mut settings = Settings::defaults(FLOWS_MAX, [buckets, buckets]);
    for (index, key) in settings.hash_keys.iter_mut().enumerate() {
        *key = 0x9e37_79b9_u32.wrapping_mul(index as u32 * 2 + 1);
    }
    settings
}

/// A flow table's memory, as the kernel lays it out.
struct Memory {
    tags: [Vec<AtomicU64>; 2],
    slots: [Vec<AtomicU64>; 2],
    warm: [Vec<AtomicU64>; 2],
    gauges: Vec<AtomicU64>,
}

impl Memory {
    fn new() -> Self {
        let words = |count: u32| (0..count).map(|_| AtomicU64::new(0)).collect::<Vec<_>>();
        let [v4, v6] = settings().buckets;
        let slots = SLOTS_PER_BUCKET;
        Self {
            tags: [words(v4), words(v6)],
            slots: [
                words(v4 * slots * SLOT_WORDS_V4),
                words(v6 * slots * SLOT_WORDS_V6),
            ],
            warm: [
                words(v4 * slots * WARM_WORDS),
                words(v6 * slots * WARM_WORDS),
            ],
            gauges: words(gauges::WORDS),
        }
    }

    fn table(&self) -> SliceTable<'_> {
        let family = |index: usize| FamilySlices {
            tags: &self.tags[index],
            slots: &self.slots[index],
            warm: &self.warm[index],
            accounting: &[],
        };
        SliceTable::new([family(0), family(1)], &self.gauges)
    }
}

struct Twins<'a> {
    memory: &'a Memory,
    native: Plane<SliceTable<'a>>,
    kernel: Twin,
    compared: usize,
    left_out: usize,
}

impl<'a> Twins<'a> {
    fn new(memory: &'a Memory, policy: &Compiled) -> Self {
        let settings = settings();
        let loaded = LoadedPolicy {
            header: policy.header,
            rules: policy.rules.clone(),
            conditions: policy.conditions.clone(),
            names: Vec::new(),
        };
        let mut native = Plane::new(memory.table(), settings, loaded, ());
        // Without local addresses every packet is forwarded.
        native.locals = Locals::default();
        let mut kernel = Twin::new(&settings).expect("the programs load");
        kernel.set_hook(Hook::Forward);
        kernel.load_policy(policy).expect("the policy fits");
        Self {
            memory,
            native,
            kernel,
            compared: 0,
            left_out: 0,
        }
    }

    fn compare(&mut self, frame: &[u8], path: Path, now: Tick, what: &str) {
        let shortest = match path {
            Path::Ingress => XDP_FRAME_BYTES_MIN,
            Path::Local => TC_FRAME_BYTES_MIN,
        };
        if !(shortest..=FRAME_BYTES_MAX).contains(&frame.len()) {
            self.left_out += 1;
            return;
        }
        let arrival = Arrival {
            link: Link::Ethernet,
            path,
            checksums: match path {
                Path::Ingress => Checksums::UnverifiedOrPartial,
                Path::Local => Checksums::Trusted,
            },
            zone: 0,
            interfaces: 0,
        };
        let outcome = self.native.judge(frame, &arrival, now);
        self.kernel.set_clock(now);
        let run = match path {
            Path::Ingress => self.kernel.ingress(frame),
            Path::Local => self.kernel.egress(frame),
        };
        let run = run.expect("a test run");
        self.compared += 1;
        let expected = report_of(&outcome, self.compared as u32);
        assert_eq!(
            run.report, expected,
            "{what}, packet {} of the test: {frame:02x?}",
            self.compared
        );
        let returned = match (path, outcome.verdict) {
            (Path::Ingress, Verdict::Accept) => XDP_PASS,
            (Path::Ingress, _) => XDP_DROP,
            (Path::Local, Verdict::Accept) => TC_NEXT,
            (Path::Local, _) => TC_SHOT,
        };
        assert_eq!(run.returned, returned, "{what}");
        self.compare_tables(what);
    }

    fn gauge(&self, gauge: u32) -> u64 {
        self.memory.gauges[gauge as usize].load(SeqCst)
    }

    fn compare_tables(&self, what: &str) {
        let maps = &self.kernel.kernel.maps;
        for family in 0..2 {
            same(&self.memory.tags[family], maps.tags[family].words(), what);
            same(&self.memory.slots[family], maps.slots[family].words(), what);
            same(&self.memory.warm[family], maps.warm[family].words(), what);
        }
        same(&self.memory.gauges, maps.gauges.words(), what);
    }
}

#[track_caller]
fn same(native: &[AtomicU64], kernel: &[AtomicU64], what: &str) {
    assert_eq!(native.len(), kernel.len());
    for (word, (native, kernel)) in native.iter().zip(kernel).enumerate() {
        let (native, kernel) = (native.load(SeqCst), kernel.load(SeqCst));
        assert_eq!(
            native, kernel,
            "{what}: word {word}, {native:#x} and {kernel:#x}"
        );
    }
}

fn report_of(outcome: &Outcome, count: u32) -> Report {
    let number = |value: Option<u32>| value.unwrap_or(REPORT_NONE);
    Report {
        count,
        state: outcome.state as u32,
        verdict: outcome.verdict as u32,
        reason: number(outcome.reason.map(|reason| reason as u32)),
        hook: number(outcome.hook.map(|hook| hook as u32)),
        rule: outcome.rule,
        has_flow: u32::from(outcome.flow.is_some()),
        flow: outcome.flow.unwrap_or(0),
        direction: number(outcome.direction.map(|direction| direction as u32)),
        tcp_state: number(outcome.tcp_state.map(|state| state as u32)),
    }
}
