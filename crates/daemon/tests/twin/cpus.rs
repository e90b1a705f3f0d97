//! The flow table in the kernel, with all CPUs at it at once: they insert the same flows from both
//! sides in the same instant, evict, confirm and reset, while another thread lets time pass and
//! removes what has expired, as the daemon does. In between all stand still, and the table is
//! looked through.

use std::collections::HashSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};
use std::thread;
use std::time::{Duration, Instant};

use aya::programs::{TestRun as _, TestRunOptions, Xdp};
use keepstate_daemon::kernel::{Kernel, Maps};
use keepstate_daemon::twin::Twin;
use keepstate_engine::host::{FlowMemory as _, Words as _};
use keepstate_engine::settings::Settings;
use keepstate_engine::table::{self, gauges};
use keepstate_engine::time::Tick;
use keepstate_engine::tuple::Family;
use keepstate_engine::verdict::Hook;
use keepstate_flowmemory::SliceTable;
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

/// In each round all connections are opened at once, and then come frames of all kinds.
const ROUNDS: usize = 600;
const FRAMES_PER_ROUND: usize = 100;

/// A table that is crowded: most inserts meet others in their buckets.
const BUCKETS: u32 = 8;
const FLOWS_MAX: u32 = 24;
const HALF_OPEN_MAX: u32 = 20;

/// The thread that removes lets most half-open flows live some ten sweeps.
const TICKS_PER_SWEEP: u32 = 200;
const BETWEEN_SWEEPS: Duration = Duration::from_micros(200);
/// More than any timeout but that of a connection at rest.
const AGES: u32 = 1 << 20;

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
    let Kernel { maps, programs, .. } = &mut twin.kernel;
    maps.change_plane(|plane| {
        plane.flags = PLANE_TEST_CLOCK | PLANE_TEST_HOOK;
        plane.test_tick = 1;
    });
    let program: &Xdp = programs.xdp().expect("the program is there");
    let traffic = Traffic::new(6, Mood::Lossy).take(FRAMES);
    let duels: Vec<[Vec<u8>; 4]> = (0..DUELS).map(duel).collect();
    let mut frames: Vec<Vec<u8>> = traffic.map(|packet| ethernet(&packet.ip)).collect();
    // As often as all other frames together.
    frames.extend(duels.iter().flatten().cycle().take(FRAMES).cloned());
    let cpus = cpus();
    let bench = Bench {
        maps,
        settings,
        program,
        duels,
        frames,
        meeting: Meeting {
            members: cpus.len(),
            arrived: AtomicUsize::new(0),
        },
        removing: Mutex::new(()),
        wrong: Mutex::new(String::new()),
        is_over: AtomicBool::new(false),
    };
    let bench = &bench;
    let removed = thread::scope(|scope| {
        let remover = scope.spawn(|| bench.remove());
        let senders: Vec<_> = cpus
            .iter()
            .enumerate()
            .map(|(number, cpu)| scope.spawn(move || bench.send(number, *cpu)))
            .collect();
        let results: Vec<_> = senders.into_iter().map(|sender| sender.join()).collect();
        bench.is_over.store(true, SeqCst);
        assert!(results.iter().all(Result::is_ok), "a sender panicked");
        remover.join().expect("no panic")
    });
    assert_eq!(*bench.wrong.lock().expect("nobody panics with it"), "");
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
}

/// What all threads share.
struct Bench<'a> {
    maps: &'a Maps,
    settings: Settings,
    program: &'a Xdp,
    duels: Vec<[Vec<u8>; 4]>,
    frames: Vec<Vec<u8>>,
    meeting: Meeting,
    /// Held while records are removed.
    removing: Mutex<()>,
    /// What was found to be wrong: the senders end then.
    wrong: Mutex<String>,
    is_over: AtomicBool,
}

/// Where the senders wait for each other: not asleep, so that they leave in the same instant.
struct Meeting {
    members: usize,
    arrived: AtomicUsize,
}

impl Meeting {
    fn meet(&self) {
        /// Looks until the CPU is left to others, one of which may be waited for.
        const LOOKS: u32 = 10_000;
        const PATIENCE: Duration = Duration::from_secs(60);
        let last = (self.arrived.fetch_add(1, SeqCst) / self.members + 1) * self.members;
        let deadline = Instant::now() + PATIENCE;
        let mut looks = 0;
        while self.arrived.load(SeqCst) < last {
            looks += 1;
            if looks % LOOKS == 0 {
                assert!(Instant::now() < deadline, "the other senders are gone");
                thread::yield_now();
            }
            std::hint::spin_loop();
        }
    }
}

impl Bench<'_> {
    /// Hands frames to the program on one CPU.
    fn send(&self, number: usize, cpu: usize) {
        let mut set = CpuSet::new();
        set.set(cpu);
        sched_setaffinity(None, &set).expect("the CPU is allowed");
        let mut random = Random::new(number as u64);
        for _ in 0..ROUNDS {
            for [one_side, _, other_side, _] in &self.duels {
                self.meeting.meet();
                self.run([one_side, other_side][number % 2]);
            }
            if !self.look_through(number, Next::GoOn) {
                return;
            }
            for _ in 0..FRAMES_PER_ROUND {
                self.run(&self.frames[random.below(self.frames.len() as u64) as usize]);
            }
            if !self.look_through(number, Next::Clear) {
                return;
            }
        }
    }

    fn run(&self, frame: &[u8]) {
        let options = TestRunOptions {
            data_in: Some(frame),
            ..TestRunOptions::default()
        };
        self.program.test_run(options).expect("a test run");
    }

    /// Stands still, and lets one of the senders check the table. `false` if something is wrong.
    fn look_through(&self, number: usize, next: Next) -> bool {
        self.meeting.meet();
        if number == 0 {
            let _guard = self.removing.lock().expect("nobody panics with it");
            let flows = flows(self.maps);
            if let Err(wrong) = check(&flows, &self.settings, self.meeting.members) {
                *self.wrong.lock().expect("nobody panics with it") = wrong;
            }
            if next == Next::Clear {
                let now = Tick(self.maps.plane().test_tick + AGES);
                sweep(&flows, &self.settings, now);
            }
        }
        self.meeting.meet();
        let wrong = self.wrong.lock().expect("nobody panics with it");
        wrong.is_empty()
    }

    /// Lets time pass and removes what has expired; returns how many records that were.
    fn remove(&self) -> usize {
        let flows = flows(self.maps);
        let mut removed = 0;
        while !self.is_over.load(SeqCst) {
            {
                let _guard = self.removing.lock().expect("nobody panics with it");
                let now = Tick(self.maps.plane().test_tick + TICKS_PER_SWEEP);
                self.maps.change_plane(|plane| plane.test_tick = now.0);
                removed += sweep(&flows, &self.settings, now);
            }
            thread::sleep(BETWEEN_SWEEPS);
        }
        removed
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Next {
    GoOn,
    /// With an empty table.
    Clear,
}

/// The CPUs that this process may use, two at least, be it twice the same.
pub(crate) fn cpus() -> Vec<usize> {
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
fn duel(number: u16) -> [Vec<u8>; 4] {
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
    [
        segment(false, SYN, 0),
        segment(true, RST | ACK, SYN_AT + 1),
        segment(true, SYN, 0),
        segment(false, RST | ACK, SYN_AT + 1),
    ]
}

/// Removes what has expired; returns how many records that were.
fn sweep(flows: &SliceTable<'_>, settings: &Settings, now: Tick) -> usize {
    let mut removed = 0;
    for (family, buckets) in [Family::V4, Family::V6].into_iter().zip(settings.buckets) {
        table::sweep(flows, family, 0..buckets, now, |_| removed += 1);
    }
    removed
}

fn flows(maps: &Maps) -> SliceTable<'_> {
    SliceTable::new(maps.table.families(), maps.gauges.words())
        .with_fragments(maps.fragments.words())
}

/// What holds whenever nobody is at work: no slot is between two states, no key has two records,
/// the gauges say what the slots hold, and the limit was passed by no more than those who read it
/// at once.
fn check(flows: &SliceTable<'_>, settings: &Settings, cpus: usize) -> Result<(), String> {
    let (mut records, mut half_open) = (0, 0);
    let mut wrong = Vec::new();
    for (family, buckets) in [Family::V4, Family::V6].into_iter().zip(settings.buckets) {
        table::leftovers(flows, family, 0..buckets, |place, control| {
            wrong.push(format!("neither live nor empty: {place:?} {control:?}"));
        });
        let mut keys = HashSet::new();
        // At a time before all deadlines nothing has expired yet.
        table::visit(flows, family, 0..buckets, Tick(0), |entry| {
            if !keys.insert(entry.key.words) {
                wrong.push(format!("a second record: {entry:?}"));
            }
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
    let expected = [
        (gauge(gauges::COUNT), records),
        (gauge(gauges::HALF_OPEN), half_open),
        (gauge(gauges::INSERTED) - gauge(gauges::REMOVED), records),
    ];
    if expected.iter().any(|(counted, there)| counted != there) {
        wrong.push(format!("gauges and what is there: {expected:?}"));
    }
    if records >= u64::from(FLOWS_MAX) + cpus as u64 {
        wrong.push(format!("{records} records"));
    }
    match wrong.is_empty() {
        true => Ok(()),
        false => Err(wrong.join("\n")),
    }
}
