//! The same packets through the native engine and through the loaded programs: same outcome, and
//! the same tables afterwards, word by word.

mod addresses;
mod conditions;
mod cpus;
mod floods;
mod helpers;
mod index;
mod labels;
#[path = "../../../sim/tests/support/loaded.rs"]
mod loaded;
#[path = "../../../sim/tests/support/long_chains.rs"]
mod long_chains;
mod pair;
mod resize;
mod sets;
mod synproxy;
mod zones;

use std::net::{Ipv4Addr, Ipv6Addr};

use keepstate_daemon::twin::{Entry, Twin};
use keepstate_engine::policy::SettledInterfaces;
use keepstate_engine::process::Stage;
use keepstate_engine::settings::{
    LOG_INVALID_ALL, SETTING_ACCOUNTING, SETTING_ACCOUNTING_ENDS, SETTING_DROP_EVENTS,
    SETTING_TIMESTAMP, TIMEOUTS,
};
use keepstate_engine::table::gauges;
use keepstate_engine::time::Tick;
use keepstate_engine::tuple::Family;
use keepstate_engine::verdict::Reason;
use keepstate_engine::wire::Link;
use keepstate_policy::{Compiled, FileKind, Policy, compile, parse_rules};
use keepstate_sim::capture::{NetworkPacket, Reader, network_packet};
use keepstate_sim::traffic::{Mood, Networks, Traffic};
use pair::{Memory, TC_FRAME_BYTES_MIN, Twins, part, settings};

const GENERATED: usize = 100_000;

/// Of these, every other one leaves through the egress program.
const GENERATED_BOTH_WAYS: usize = 30_000;

const RULES: &str = "*filter
:INPUT DROP [0:0]
:FORWARD DROP [0:0]
:OUTPUT ACCEPT [0:0]
:services - [0:0]
-A FORWARD -m conntrack --ctstate INVALID -j DROP
-A FORWARD -m conntrack --ctstate ESTABLISHED,RELATED -j ACCEPT
-A FORWARD -i out+ -p udp --dport 53 -j DROP
-A FORWARD -i in0 -p tcp --dport 22 -j services
-A FORWARD -p tcp -j services
-A FORWARD -p udp --dport 1:40000 -j ACCEPT
-A FORWARD -p icmp -j ACCEPT
-A FORWARD -p ipv6-icmp -j ACCEPT
-A OUTPUT -o out+ -p udp --dport 4001 -j DROP
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
        for packet in Traffic::new(seed, mood).take(part(GENERATED / 2)) {
            let now = Tick::from_nanoseconds(packet.time_ns);
            twins.compare(
                &ethernet(&packet.ip),
                Entry::IngressXdp,
                now,
                &format!("{mood:?}"),
            );
        }
        println!(
            "{mood:?}: {} compared, {} left out",
            twins.compared, twins.left_out
        );
        assert!(twins.compared > part(GENERATED / 2 - GENERATED / 20));
        assert!(twins.gauge(gauges::INSERTED) > part(1_000) as u64);
        // It takes most of the packets to fill the table.
        assert!(
            twins.gauge(gauges::EVICTED) > 0 || part(GENERATED) < GENERATED,
            "no record made room for another"
        );
        assert!(twins.compare_rule_counters() > 5);
        let evicted = twins.gauge(gauges::EVICTED);
        assert!(twins.ended as u64 >= evicted, "a record ended in silence");
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
    let traffic = Traffic::new(3, Mood::Hostile).take(part(GENERATED_BOTH_WAYS));
    for (number, packet) in traffic.enumerate() {
        let path = if number % 2 == 0 {
            Entry::EgressEthernet
        } else {
            Entry::IngressXdp
        };
        let now = Tick::from_nanoseconds(packet.time_ns);
        twins.compare(&ethernet(&packet.ip), path, now, "both ways");
    }
    println!(
        "both ways: {} compared, {} left out",
        twins.compared, twins.left_out
    );
    assert!(twins.gauge(gauges::INSERTED) > part(1_000) as u64);
    assert!(twins.compare_rule_counters() > 5);
}

/// Accounting that is switched, INVALID packets that are told of, timeouts by policy.
#[test]
fn knobs_turned_among_packets_fare_alike() {
    if !keepstate_testkit::root_or_skip("knobs_turned_among_packets_fare_alike") {
        return;
    }
    const PACKETS_BETWEEN: usize = 500;
    let policy = policy();
    let memory = Memory::new();
    let mut twins = Twins::new(&memory, &policy);
    let mut assigned = 0;
    for (number, packet) in Traffic::new(8, Mood::Lossy)
        .take(part(GENERATED_BOTH_WAYS))
        .enumerate()
    {
        if number % PACKETS_BETWEEN == 0 {
            let turn = number / PACKETS_BETWEEN;
            twins.change_settings(|settings| {
                settings.flags ^= [
                    SETTING_ACCOUNTING_ENDS,
                    SETTING_DROP_EVENTS,
                    SETTING_TIMESTAMP,
                    SETTING_ACCOUNTING,
                ][turn % 4];
                settings.log_invalid = [0, 6, LOG_INVALID_ALL, 17, 1][turn % 5];
                for (policy, seconds) in settings.policies.iter_mut().zip(1..) {
                    *policy = [seconds * (turn as u32 % 3); TIMEOUTS];
                }
            });
            assigned += twins.assign_policies();
        }
        let now = Tick::from_nanoseconds(packet.time_ns);
        twins.compare(&ethernet(&packet.ip), Entry::IngressXdp, now, "knobs");
    }
    println!(
        "{} compared, {assigned} times a flow got a policy",
        twins.compared
    );
    let many = part(1_000) as u64;
    assert!(assigned as u64 > many && twins.gauge(gauges::INSERTED) > many);
}

#[test]
fn fragments_fare_alike() {
    if !keepstate_testkit::root_or_skip("fragments_fare_alike") {
        return;
    }
    let policy = policy();
    let memory = Memory::new();
    let mut twins = Twins::new(&memory, &policy);
    let traffic = Traffic::new(8, Mood::Fragmented).take(part(GENERATED_BOTH_WAYS));
    for (number, packet) in traffic.enumerate() {
        // Whole datagrams one way or the other, not half of each.
        let path = if number / 512 % 4 == 3 {
            Entry::EgressEthernet
        } else {
            Entry::IngressXdp
        };
        let now = Tick::from_nanoseconds(packet.time_ns);
        twins.compare(&ethernet(&packet.ip), path, now, "fragments");
    }
    // Some are rare.
    let least = if part(10) == 10 { 10 } else { 1 };
    for reason in [
        Reason::FragmentWithoutPorts,
        Reason::FragmentTiny,
        Reason::FragmentOverHeader,
        Reason::FragmentBadLength,
        Reason::FragmentTooLong,
        Reason::FragmentOverlap,
        Reason::FragmentBadEnd,
        Reason::FragmentDuplicate,
        Reason::FragmentOfRefused,
    ] {
        let counted = twins.kernel.reason_counter(reason);
        assert!(counted.expect("there are counters") >= least, "{reason:?}");
    }
    assert!(twins.gauge(gauges::FRAGMENTS_EXPIRED) > part(20) as u64);
    assert!(twins.compare_rule_counters() > 5);
}

/// The interface rule that most rulesets begin with, and packets of which some match it.
#[test]
fn memories_beside_settled_interfaces_fare_alike() {
    if !keepstate_testkit::root_or_skip("memories_beside_settled_interfaces_fare_alike") {
        return;
    }
    let rules = RULES.replacen("-A FORWARD", "-A FORWARD -i lo -j ACCEPT\n-A FORWARD", 1);
    let mut policy = compiled(&rules);
    assert_eq!(policy.interface_patterns[0], "lo");
    let remembered = |policy: &Compiled| {
        let memory = Memory::new();
        let mut twins = Twins::new(&memory, policy);
        let mut now = Tick(0);
        for packet in Traffic::new(6, Mood::Lossy).take(part(GENERATED_BOTH_WAYS)) {
            now = Tick::from_nanoseconds(packet.time_ns);
            twins.compare(&ethernet(&packet.ip), Entry::IngressXdp, now, "settled");
        }
        assert!(twins.compare_rule_counters() > 5);
        twins.remembered(now)
    };
    assert_eq!(remembered(&policy), 0);
    policy.header.settled = SettledInterfaces {
        patterns: 0b01,
        answers: 0,
    };
    assert!(remembered(&policy) > 0);
}

/// As through tun or WireGuard: packets begin with their IP header.
#[test]
fn packets_without_link_layer_fare_alike() {
    if !keepstate_testkit::root_or_skip("packets_without_link_layer_fare_alike") {
        return;
    }
    // A test run reads a type where an Ethernet header has it, which is in the source address.
    let networks = Networks {
        v4: Ipv4Addr::new(8, 0, 0, 0),
        v6: Ipv6Addr::new(0x2001, 0xdb8, 0x86dd, 0, 0, 0, 0, 0),
    };
    let policy = policy();
    let memory = Memory::new();
    let mut twins = Twins::new(&memory, &policy);
    let traffic = Traffic::between(networks, 4, Mood::Hostile).take(part(GENERATED_BOTH_WAYS));
    for (number, packet) in traffic.enumerate() {
        let entry = if number % 3 == 0 {
            Entry::EgressBare
        } else {
            Entry::IngressTc
        };
        let mut ip = packet.ip;
        ip.resize(ip.len().max(TC_FRAME_BYTES_MIN), 0);
        let now = Tick::from_nanoseconds(packet.time_ns);
        twins.compare(&ip, entry, now, "bare");
    }
    println!(
        "bare: {} compared, {} left out",
        twins.compared, twins.left_out
    );
    assert!(twins.compared > part(GENERATED_BOTH_WAYS - GENERATED_BOTH_WAYS / 20));
    assert!(twins.gauge(gauges::INSERTED) > part(1_000) as u64);
    assert!(twins.compare_rule_counters() > 5);
}

#[test]
fn a_missing_stage_drops_with_a_reason() {
    const XDP_DROP: u32 = 1;
    if !keepstate_testkit::root_or_skip("a_missing_stage_drops_with_a_reason") {
        return;
    }
    let mut twin = Twin::new(&settings()).expect("the programs load");
    twin.load_policy(&policy()).expect("the policy fits");
    twin.remove_stage(Stage::Judge).expect("the stage is there");
    let mut packets = Traffic::new(5, Mood::Lossy);
    let packet = packets.next().expect("traffic is endless");
    let run = twin.run(Entry::IngressXdp, &ethernet(&packet.ip));
    assert_eq!(run.expect("a test run").returned, XDP_DROP);
    let counted = twin.reason_counter(Reason::StageMissing);
    assert_eq!(counted.expect("there are counters"), 1);
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
        compare_capture(&mut twins, path, 0);
    }
    println!(
        "{} captures: {} compared, {} left out",
        captures.len(),
        twins.compared,
        twins.left_out
    );
    assert!(twins.compared > 0);
    assert!(twins.compare_rule_counters() > 5);
}

/// The written cases, which `crates/sim/tests/attacks.rs` holds against what must come out of them.
#[test]
fn attacks_fare_alike() {
    const NAME: &str = "attacks_fare_alike";
    /// Between two of them, so that no flow of one is there in the next: more than any timeout.
    const PAUSE_NS: u64 = 6 * 24 * 3600 * 1_000_000_000;
    if !keepstate_testkit::root_or_skip(NAME) {
        return;
    }
    let Some(shared) = keepstate_testkit::shared_dir_or_skip(NAME) else {
        return;
    };
    let mut cases = Vec::new();
    collect(&shared.join("attacks"), &mut cases);
    cases.retain(|path| {
        path.extension()
            .is_some_and(|extension| extension == "pcap")
    });
    cases.sort();
    let policy = compiled_for(ATTACKED, ATTACKED);
    let memory = Memory::new();
    let mut twins = Twins::new(&memory, &policy);
    let mut until = 0;
    for path in &cases {
        until = compare_capture(&mut twins, path, until) + PAUSE_NS;
    }
    println!(
        "{} cases: {} compared, {} left out",
        cases.len(),
        twins.compared,
        twins.left_out
    );
    assert!(cases.len() > 30 && twins.compared > 1_000);
    assert!(twins.gauge(gauges::EXPECTATIONS_CREATED) > 5);
}

/// Lets in all that is not INVALID, and reads FTP and TFTP.
const ATTACKED: &str = "*raw
-A PREROUTING -p tcp --dport 21 -j CT --helper ftp
-A PREROUTING -p udp --dport 69 -j CT --helper tftp
COMMIT
*filter
:INPUT ACCEPT [0:0]
:FORWARD ACCEPT [0:0]
:OUTPUT ACCEPT [0:0]
-A FORWARD -m conntrack --ctstate INVALID -j DROP
COMMIT
";

/// Compares what becomes of the packets of a capture, whose first one comes at `begins_ns`, or when the
/// capture says if that is zero. Returns when the last one came.
fn compare_capture(twins: &mut Twins<'_>, path: &std::path::Path, begins_ns: u64) -> u64 {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let file = std::fs::File::open(path).ok();
    let reader = file.and_then(|file| Reader::new(std::io::BufReader::new(file)).ok());
    let Some(mut reader) = reader else {
        return begins_ns;
    };
    let mut shift = None;
    let mut latest = begins_ns;
    while let Ok(Some(frame)) = reader.next_frame() {
        let NetworkPacket::Packet { link, bytes, .. } = network_packet(&frame) else {
            continue;
        };
        let captured = frame.time_ns.unwrap_or(latest);
        let shift = *shift.get_or_insert(match begins_ns {
            0 => 0,
            begins => begins.wrapping_sub(captured),
        });
        latest = captured.wrapping_add(shift).max(latest);
        let now = Tick::from_nanoseconds(latest);
        let what = format!("{name} {}", frame.number);
        match link {
            Link::Ethernet => twins.compare(&bytes, Entry::IngressXdp, now, &what),
            Link::Ipv4 | Link::Ipv6 => {
                twins.compare(&ethernet(&bytes), Entry::IngressXdp, now, &what)
            }
        }
    }
    latest
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
    compiled(RULES)
}

fn compiled(rules: &str) -> Compiled {
    compiled_for(rules, rules)
}

/// Rules for IPv4 and for IPv6.
fn compiled_for(v4: &str, v6: &str) -> Compiled {
    let mut policy = Policy::default();
    for (rules, kind) in [(v4, Family::V4), (v6, Family::V6)] {
        let parsed = parse_rules(rules, FileKind::Save(kind));
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
