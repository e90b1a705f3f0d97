//! The flow table in the kernel, with all CPUs at it at once: they insert the same flows from both
//! sides, evict, confirm and reset, while another thread lets time pass and removes what has
//! expired, as the daemon does.

use std::collections::HashSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::thread;

use aya::programs::{TestRun as _, TestRunOptions, Xdp};
use keepstate_daemon::kernel::{Kernel, Maps};
use keepstate_daemon::twin::Twin;
use keepstate_engine::host::{FlowMemory as _, Words as _};
use keepstate_engine::settings::Settings;
use keepstate_engine::table::{self, gauges};
use keepstate_engine::time::Tick;
use keepstate_engine::tuple::Family;
use keepstate_engine::verdict::Hook;
use keepstate_flowmemory::{FamilySlices, SliceTable};
use keepstate_plane::{PLANE_TEST_CLOCK, PLANE_TEST_HOOK};
use keepstate_sim::build::{ACK, Body, Packet, RST, SYN, Tcp};
use keepstate_sim::traffic::{Mood, Random, Traffic};
use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};

use crate::pair::settings;
use crate::{ethernet, policy};

/// Frames of all kinds that the CPUs draw from.
const FRAMES: usize = 500;
/// Connections that are opened and reset from both sides: their records come and go.
const DUELS: u16 = 12;

const RUNS: usize = 100_000;

/// A table that is crowded: most inserts meet others in their buckets.
const BUCKETS: u32 = 8;
const FLOWS_MAX: u32 = 24;
const HALF_OPEN_MAX: u32 = 20;

/// Every so many rounds the thread that removes takes all records, for each packet to find none.
const ROUNDS_PER_CLEARING: usize = 3;
/// More than any timeout.
const AGES: u32 = 1 << 30;

#[test]
fn the_table_withstands_all_cpus_at_once() {
    if !keepstate_testkit::root_or_skip("the_table_withstands_all_cpus_at_once") {
        return;
    }
    let mut settings = settings();
    settings.buckets = [BUCKETS; 2];
    settings.flows_max = FLOWS_MAX;
    settings.half_open_max = HALF_OPEN_MAX;
    let mut twin = Twin::new(&settings).expect("the programs load");
    twin.set_hook(Hook::Forward);
    twin.load_policy(&policy()).expect("the policy fits");
    let Kernel { maps, programs } = &mut twin.kernel;
    maps.change_plane(|plane| {
        plane.flags = PLANE_TEST_CLOCK | PLANE_TEST_HOOK;
        plane.test_tick = 1;
    });
    let program: &Xdp = programs.xdp().expect("the program is there");
    let traffic = Traffic::new(6, Mood::Lossy).take(FRAMES);
    let mut frames: Vec<Vec<u8>> = traffic.map(|packet| ethernet(&packet.ip)).collect();
    frames.extend((0..DUELS).flat_map(duel));
    let cpus = cpus();
    let maps: &Maps = maps;
    let is_over = AtomicBool::new(false);
    let removed = thread::scope(|scope| {
        let remover = scope.spawn(|| remove_until(maps, &settings, &is_over));
        let senders: Vec<_> = cpus
            .iter()
            .enumerate()
            .map(|(number, cpu)| {
                let frames = &frames;
                scope.spawn(move || send(program, frames, *cpu, number as u64))
            })
            .collect();
        for sender in senders {
            sender.join().expect("no panic");
        }
        is_over.store(true, SeqCst);
        remover.join().expect("no panic")
    });
    let flows = flows(maps);
    let gauge = |gauge| flows.gauges().map_or(0, |words| words.load(gauge));
    println!(
        "{} CPUs: {} inserted, {} evicted, {} contended, {} busy; {removed} removed meanwhile",
        cpus.len(),
        gauge(gauges::INSERTED),
        gauge(gauges::EVICTED),
        gauge(gauges::CONTENDED),
        gauge(gauges::BUSY),
    );
    assert!(gauge(gauges::INSERTED) > 1_000);
    assert!(gauge(gauges::EVICTED) > 0);
    assert!(removed > 0);
    // The limit is read before it is counted up.
    assert!(gauge(gauges::COUNT) <= u64::from(FLOWS_MAX) + cpus.len() as u64);
    check(&flows, &settings);
}

/// The CPUs that this process may use, two at least, be it twice the same.
fn cpus() -> Vec<usize> {
    let allowed = sched_getaffinity(None).expect("a process may ask for its CPUs");
    let mut cpus: Vec<usize> = (0..CpuSet::MAX_CPU)
        .filter(|cpu| allowed.is_set(*cpu))
        .collect();
    if let [only] = cpus[..] {
        cpus.push(only);
    }
    cpus
}

/// What both ends of a connection send that both of them open and refuse.
fn duel(number: u16) -> Vec<Vec<u8>> {
    const SYN_AT: u32 = 1000;
    let (one, other): (IpAddr, IpAddr) = if number.is_multiple_of(2) {
        (
            Ipv4Addr::new(10, 1, 0, 1).into(),
            Ipv4Addr::new(10, 1, 0, 2).into(),
        )
    } else {
        let host = |last| Ipv6Addr::new(0x2001, 0xdb8, 1, 0, 0, 0, 0, last);
        (host(1).into(), host(2).into())
    };
    let ports = (2000 + number, 80);
    let segment = |is_back: bool, flags, acknowledgement| {
        let ((source, destination), (source_port, destination_port)) = if is_back {
            ((other, one), (ports.1, ports.0))
        } else {
            ((one, other), ports)
        };
        let segment = Tcp {
            source_port,
            destination_port,
            sequence: if flags == SYN { SYN_AT } else { 0 },
            acknowledgement,
            flags,
            window: 1024,
            ..Tcp::default()
        };
        Packet::new(source, destination, Body::Tcp(segment)).ethernet()
    };
    let mut frames = Vec::new();
    for is_back in [false, true] {
        frames.push(segment(is_back, SYN, 0));
        frames.push(segment(!is_back, RST | ACK, SYN_AT + 1));
    }
    // As often as all other frames together.
    let times = FRAMES / (frames.len() * usize::from(DUELS)) + 1;
    std::iter::repeat_n(frames, times).flatten().collect()
}

/// Hands frames to the program on one CPU. All CPUs draw the same ones about half of the time.
fn send(program: &Xdp, frames: &[Vec<u8>], cpu: usize, seed: u64) {
    let mut set = CpuSet::new();
    set.set(cpu);
    sched_setaffinity(None, &set).expect("the CPU is allowed");
    let mut together = Random::new(7);
    let mut apart = Random::new(seed);
    for _ in 0..RUNS {
        let common = together.below(frames.len() as u64);
        let own = apart.below(frames.len() as u64);
        let number = if together.happens(50) { common } else { own };
        let options = TestRunOptions {
            data_in: Some(&frames[number as usize]),
            ..TestRunOptions::default()
        };
        program.test_run(options).expect("a test run");
    }
}

/// Lets time pass and removes what has expired; returns how many records that were.
fn remove_until(maps: &Maps, settings: &Settings, is_over: &AtomicBool) -> usize {
    let flows = flows(maps);
    let mut removed = 0;
    for round in 0.. {
        if is_over.load(SeqCst) {
            break;
        }
        let now = Tick(maps.plane().test_tick + 1);
        maps.change_plane(|plane| plane.test_tick = now.0);
        let now = if round % ROUNDS_PER_CLEARING == 0 {
            Tick(now.0 + AGES)
        } else {
            now
        };
        for (family, buckets) in [Family::V4, Family::V6].into_iter().zip(settings.buckets) {
            table::sweep(&flows, family, 0..buckets, now, |_| removed += 1);
        }
        thread::yield_now();
    }
    removed
}

fn flows(maps: &Maps) -> SliceTable<'_> {
    let family = |index: usize| FamilySlices {
        tags: maps.tags[index].words(),
        slots: maps.slots[index].words(),
        warm: maps.warm[index].words(),
        accounting: maps.accounting[index].words(),
    };
    SliceTable::new([family(0), family(1)], maps.gauges.words())
}

/// What holds whenever nobody is at work: no slot is between two states, no key has two records,
/// and the gauges say what the slots hold.
fn check(flows: &SliceTable<'_>, settings: &Settings) {
    let (mut records, mut half_open) = (0, 0);
    for (family, buckets) in [Family::V4, Family::V6].into_iter().zip(settings.buckets) {
        table::leftovers(flows, family, 0..buckets, |place, control| {
            panic!("neither live nor empty: {place:?} {control:?}");
        });
        let mut keys = HashSet::new();
        // At a time before all deadlines nothing has expired yet.
        table::visit(flows, family, 0..buckets, Tick(0), |entry| {
            assert!(keys.insert(entry.key.words), "two records: {entry:?}");
        });
        for bucket in 0..buckets {
            let tags = flows.tags(family, bucket).map_or(0, |words| words.load(0));
            for tag in tags.to_le_bytes() {
                records += u64::from(tag & 0x7f != 0);
                half_open += u64::from(tag & 0x80 != 0);
            }
        }
    }
    let gauge = |gauge| flows.gauges().map_or(0, |words| words.load(gauge));
    assert_eq!(gauge(gauges::COUNT), records);
    assert_eq!(gauge(gauges::HALF_OPEN), half_open);
    assert_eq!(
        gauge(gauges::INSERTED) - gauge(gauges::REMOVED),
        records,
        "inserted less removed"
    );
}
