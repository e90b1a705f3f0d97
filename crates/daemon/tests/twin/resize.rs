//! A change of the table's size in both planes: the same packets, with the change at the same points.

use std::path::{Path, PathBuf};

use keepstate_daemon::twin::{Entry, Twin};
use keepstate_engine::between::Table;
use keepstate_engine::process::{Arrival, Checksums, Path as Way};
use keepstate_engine::table::{self, gauges};
use keepstate_engine::time::Tick;
use keepstate_engine::tuple::Family;
use keepstate_engine::verdict::Hook;
use keepstate_engine::wire::Link;
use keepstate_sim::locals::Locals;
use keepstate_sim::plane::Plane;
use keepstate_sim::traffic::{Mood, Traffic};

use crate::loaded::loaded;
use crate::pair::{Listener, Memory, part, report_of, settings};
use crate::{compiled, ethernet};

const PACKETS: usize = 9_000;
const PACKETS_PER_CHANGE: usize = 3_000;
const PACKETS_PER_PART: usize = 40;
/// Parts in which records move, one after the other.
const PARTS: u32 = 16;
/// How often whatever finds no place in the newer table is tried again.
const ROUNDS_MAX: u32 = 2;

const RULES: &str = "*raw
-A PREROUTING -p tcp --dport 21 -j CT --helper ftp
-A PREROUTING -p udp --dport 1:9000 -j CT --helper tftp
-A PREROUTING -p tcp --dport 9000:20000 -j CT --ctevents destroy
COMMIT
*filter
-A FORWARD -m conntrack --ctstate INVALID -j DROP
-A FORWARD -p tcp -m connlabel --label 70 --set
-A FORWARD -m connlabel --label 70 -m length --length 1200: -j DROP
COMMIT
";

/// A directory of pins that goes with its test.
struct Pins(PathBuf);

impl Pins {
    fn new() -> Self {
        let name = format!("/sys/fs/bpf/keepstate-twin-{}", std::process::id());
        std::fs::create_dir(&name).expect("a file system of pins");
        Self(name.into())
    }
}

impl Drop for Pins {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

#[test]
fn a_change_of_size_fares_alike() {
    let test = "a_change_of_size_fares_alike";
    if !keepstate_testkit::root_or_skip(test) {
        return;
    }
    if !Path::new("/sys/fs/bpf").join(".").exists() {
        keepstate_testkit::skip(test, "there is no file system for pins");
        return;
    }
    let kinds = [
        (41, Mood::Hostile),
        (42, Mood::Lossy),
        (43, Mood::Fragmented),
    ];
    for (seed, mood) in kinds.into_iter().take(part(kinds.len()).max(1)) {
        fares_alike(seed, mood);
    }
}

fn fares_alike(seed: u64, mood: Mood) {
    let pins = Pins::new();
    let policy = compiled(RULES);
    let first = settings().buckets[0];
    let sizes = [first * 2, first + 4, first * 3];
    let common = Memory::new();
    let tables: Vec<Memory> = sizes.map(|buckets| Memory::sized([buckets; 2])).into();
    let loaded = loaded(&policy);
    let mut native = Plane::new(common.table(), settings(), loaded, Listener::default());
    native.set_wall_clock(1);
    native.locals = Locals::default();
    let mut kernel = Twin::pinned(&pins.0, &settings()).expect("the programs load");
    kernel.set_hook(Hook::Forward);
    kernel.load_policy(&policy).expect("the policy fits");

    let mut current = &common;
    let mut changes = tables.iter().zip(sizes);
    // The older of two tables, and how many parts of it were moved.
    let mut older: Option<(&Memory, u32)> = None;
    let (mut moved, mut ended) = (0, 0);
    for (index, packet) in Traffic::new(seed, mood).take(PACKETS).enumerate() {
        let now = Tick::from_nanoseconds(packet.time_ns);
        kernel.set_clock(now);
        let what = format!("packet {index} of {mood:?}");
        if index % PACKETS_PER_CHANGE == PACKETS_PER_CHANGE / 3 {
            let (memory, buckets) = changes.next().expect("there are enough");
            kernel
                .begin_resize(&pins.0, buckets)
                .expect("there is memory");
            native.begin_resize(memory.beside(&common), [buckets; 2]);
            older = Some((current, 0));
            current = memory;
        }
        if let Some((memory, part)) = older
            && index % PACKETS_PER_PART == 0
        {
            let round = part / PARTS;
            let stay = move_part(&native, &kernel, memory.beside(&common), part % PARTS, now);
            moved += 1;
            older = Some((memory, part + 1));
            memory.compare(&kernel.kernel.maps.table, &what);
            let newer = kernel.kernel.newer.as_ref().expect("there are two tables");
            current.compare(&newer.maps, &what);
            common.compare_common(&kernel.kernel.maps, &what);
            if part % PARTS == PARTS - 1 && (stay == 0 || round == ROUNDS_MAX) {
                kernel.end_resize(&pins.0).expect("the older table goes");
                native.end_resize();
                older = None;
                ended += 1;
            }
        }
        let frame = ethernet(&packet.ip);
        if !(14..=3_000).contains(&frame.len()) {
            continue;
        }
        let begins = match index % 3 {
            0 => Table::Older,
            _ => Table::Newer,
        };
        let arrival = Arrival {
            link: Link::Ethernet,
            path: Way::Ingress,
            checksums: Checksums::UnverifiedOrPartial,
            zone: 0,
            interfaces: 0,
        };
        let outcome = native.judge_beginning(begins, &frame, &arrival, now);
        let run = kernel
            .run_beginning(begins, Entry::IngressXdp, &frame)
            .expect("a test run");
        let expected = report_of(&outcome, run.report.count);
        assert_eq!(run.report, expected, "{what}: {frame:02x?}");
        assert_eq!(kernel.events(), native.observer.0.take(), "{what}");
        if older.is_none() && index % 64 == 0 {
            current.compare(&kernel.kernel.maps.table, &what);
            common.compare_common(&kernel.kernel.maps, &what);
        }
    }
    assert_eq!(ended, sizes.len(), "{mood:?}: {moved} parts were moved");
    let inserted = kernel.tables()[0];
    let inserted = keepstate_engine::host::FlowMemory::gauges(&inserted).expect("gauges");
    let inserted = keepstate_engine::host::Words::load(inserted, gauges::INSERTED);
    assert!(inserted > 300, "{inserted}");
}

/// Moves a part of the older table in both planes; how many records stay in it.
fn move_part(
    native: &Plane<keepstate_flowmemory::SliceTable<'_>, Listener>,
    kernel: &Twin,
    memory: keepstate_flowmemory::SliceTable<'_>,
    part: u32,
    now: Tick,
) -> u32 {
    let tables = kernel.tables();
    let [older, newer] = tables[..] else {
        panic!("there are not two tables");
    };
    let mut stay = 0;
    let buckets = kernel.kernel.maps.table.tags[0].words().len() as u32;
    let range = part * buckets / PARTS..(part + 1) * buckets / PARTS;
    for family in [Family::V4, Family::V6] {
        for flows in [&memory, &older] {
            table::sweep(flows, family, range.clone(), now, |_| {});
        }
        let stays = native.move_records(family, range.clone(), now);
        let mut kernel_stays = 0;
        table::places(&older, family, range.clone(), |place| {
            let moved = table::transfer(&older, &newer, &native.settings, place, now);
            let is_there = matches!(moved, table::Moved::Full | table::Moved::Busy);
            kernel_stays += u32::from(is_there);
        });
        assert_eq!(kernel_stays, stays, "part {part}");
        stay += stays;
    }
    stay
}
