//! What the search for expired flows costs: a server over a table of a million IPv4 flows in plain memory, for a
//! while. Deadlines lie anywhere in the next ten minutes.
//!
//! ```text
//! cargo run --release -p keepstate-daemon --example expiry -- [SECONDS] [FLOWS]
//! ```

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use keepstate_api::Shutdown;
use keepstate_daemon::server::memory::MemoryPlane;
use keepstate_daemon::server::{Access, Origin, Plane as _, Rules, Server};
use keepstate_engine::host::FlowMemory as _;
use keepstate_engine::host::Words as _;
use keepstate_engine::record::{Record, Warm};
use keepstate_engine::table::{self, Displaced, HalfOpen, Insert, NewFlow, Opening, gauges};
use keepstate_engine::time::{TICKS_PER_SECOND, Tick};
use keepstate_engine::tuple::{Family, Tuple};

const LONGEST_SECONDS: u32 = 600;

fn main() {
    let mut arguments = std::env::args().skip(1);
    let mut number = |default: u32| {
        let given = arguments.next();
        given.map_or(default, |text| text.parse().expect("a number"))
    };
    let (seconds, flows) = (number(60), number(1_000_000));
    let plane = Arc::new(MemoryPlane::new(flows));
    fill(&plane, flows);
    let directory = std::env::temp_dir().join(format!("keepstate-expiry-{}", std::process::id()));
    std::fs::create_dir_all(&directory).expect("a directory can be made");
    let rules = Arc::new(Rules::new(directory.clone()));
    let instance = "expiry".parse().expect("it is a name");
    let socket = directory.join("socket");
    let server = Server::start(
        instance,
        &socket,
        Arc::clone(&plane) as Arc<_>,
        rules,
        Origin::Fresh,
        Access::ROOT,
    );
    let server = server.expect("the server starts");
    let stopper = server.stopper();

    let (begun, used) = (Instant::now(), cpu_time());
    run_clock(&plane, begun + Duration::from_secs(u64::from(seconds)));
    let (lasted, used) = (begun.elapsed(), cpu_time() - used);
    let late = oldest(&plane, begun);
    stopper.stop(Shutdown::Filtering);
    let _ = server.wait();
    let _ = std::fs::remove_dir_all(&directory);
    println!(
        "{flows} flows, {:.1} s: {:.0} ms of processor time, {:.2} % of a core; {} expired, the oldest left for {late} ms",
        lasted.as_secs_f64(),
        used.as_secs_f64() * 1000.0,
        used.as_secs_f64() / lasted.as_secs_f64() * 100.0,
        u64::from(flows) - count(&plane),
    );
}

/// Makes the flows, which are confirmed.
fn fill(plane: &MemoryPlane, flows: u32) {
    let table = plane.table();
    let (memory, settings) = (table.flows(), plane.settings());
    // Numbers without an order, from a generator of Lehmer's.
    static STATE: AtomicU32 = AtomicU32::new(1);
    let random = || {
        let next = u64::from(STATE.load(Ordering::Relaxed)) * 48271 % 0x7fff_ffff;
        STATE.store(next as u32, Ordering::Relaxed);
        next as u32
    };
    for flow in 0..flows {
        let tuple = Tuple {
            family: Family::V4,
            source: [0x0a00_0000 + flow, 0, 0, 0],
            destination: [0xc000_0201, 0, 0, 0],
            source_port: 40_000,
            destination_port: 443,
            protocol: 17,
            zone: 0,
        };
        let oriented = tuple.orient();
        let ticks = 1 + random() % (LONGEST_SECONDS * TICKS_PER_SECOND);
        let record = Record {
            deadline: Tick(ticks),
            ..Record::EMPTY
        };
        let new = NewFlow {
            key: &oriented.key,
            hash: &table.hash(&oriented.key, &settings),
            record: &record,
            warm: &Warm::default(),
            half_open: HalfOpen::No,
            opening: Opening::NONE,
        };
        let mut displaced = Displaced::NOTHING;
        let inserted = table::insert(&memory, &new, &settings, Tick(0), &mut displaced);
        assert!(matches!(inserted, Insert::Done(_)), "{inserted:?}");
    }
}

fn run_clock(plane: &MemoryPlane, end: Instant) {
    let begun = Instant::now();
    while Instant::now() < end {
        let ticks = begun.elapsed().as_millis() as u64 * u64::from(TICKS_PER_SECOND) / 1000;
        plane.set_clock(Tick(ticks as u32));
        std::thread::sleep(Duration::from_millis(1000 / u64::from(TICKS_PER_SECOND)));
    }
}

/// How long the time of the oldest record that is still there has been up, in milliseconds.
fn oldest(plane: &MemoryPlane, begun: Instant) -> u64 {
    let now = begun.elapsed().as_millis() as u64 * u64::from(TICKS_PER_SECOND) / 1000;
    let table = plane.table();
    let mut late = 0;
    for (family, buckets) in table.families() {
        // From before the first of them was made: none of them has expired there.
        let then = Tick(0);
        table::visit(&table.flows(), family, 0..buckets, then, |entry| {
            late = late.max(now.saturating_sub(u64::from(entry.record.deadline.0)));
        });
    }
    late * 1000 / u64::from(TICKS_PER_SECOND)
}

fn count(plane: &MemoryPlane) -> u64 {
    let table = plane.table();
    let memory = table.flows();
    memory.gauges().map_or(0, |words| words.load(gauges::COUNT))
}

/// Processor time of this process, in user and kernel mode.
fn cpu_time() -> Duration {
    let stat = std::fs::read_to_string("/proc/self/stat").expect("this is Linux");
    let (_, fields) = stat.rsplit_once(')').expect("a name in brackets");
    let mut fields = fields.split_whitespace().skip(11);
    let mut ticks = || -> u64 {
        let field = fields.next().expect("there are more fields");
        field.parse().expect("a number")
    };
    // Hundredths of a second, on every platform.
    Duration::from_millis((ticks() + ticks()) * 10)
}
