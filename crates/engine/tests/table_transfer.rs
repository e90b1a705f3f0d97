//! Records that move from one table to another while threads work on them.

mod common;

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use common::{Random, checked_contents, gauge, insert, key_v4, key_v6, lookup, record, settings};
use keepstate_engine::host::{FlowMemory, Words};
use keepstate_engine::record::{CONTROL_WORD, Control, Record, SlotState};
use keepstate_engine::settings::Settings;
use keepstate_engine::table::{self, HalfOpen, Hash, Insert, Lookup, Moved, gauges};
use keepstate_engine::time::Tick;
use keepstate_engine::tuple::{Family, FlowKey};
use keepstate_flowmemory::{Accounting, OwnedTable, SliceTable};

const NOW: Tick = Tick(1000);
const LATER: u32 = 2000;
const KEYS: u32 = 64;
const THREADS: u64 = 3;
const DURATION: Duration = Duration::from_millis(700);

fn key(number: u32) -> FlowKey {
    match number % 2 {
        0 => key_v4(number, 1),
        _ => key_v6([number, 0, 0, 1], 1),
    }
}

/// An older and a newer table.
struct Pair<'a> {
    older: (SliceTable<'a>, Settings),
    newer: (SliceTable<'a>, Settings),
}

fn move_all(pair: &Pair<'_>) -> usize {
    let ((from, old), (to, new)) = (&pair.older, &pair.newer);
    let mut stay = 0;
    for (family, buckets) in [Family::V4, Family::V6].into_iter().zip(old.buckets) {
        table::places(from, family, 0..buckets, |place| {
            let moved = table::transfer(from, to, new, place, NOW);
            stay += usize::from(moved != Moved::Done);
        });
    }
    stay
}

/// What packets do: each finds the record in the older table or in the newer one, and changes it.
fn work(pair: &Pair<'_>, mut random: Random, done: &[AtomicU64], ends: &AtomicBool) {
    while !ends.load(Ordering::Relaxed) {
        let number = random.below(KEYS);
        let key = key(number);
        let tables = [&pair.older, &pair.newer];
        let mut is_missing = true;
        for (memory, settings) in tables {
            let mut record = Record::EMPTY;
            let hash = Hash::of(&key, settings);
            match table::lookup(memory, &key, &hash, NOW, &mut record) {
                Lookup::Found(found) => {
                    record.last_end += 1;
                    record.windows[0].end = record.last_end;
                    if random.below(4) == 0 {
                        table::confirm(memory, found.place);
                    }
                    if table::update(memory, &found, &record, None, 0).is_some() {
                        done[number as usize].fetch_add(1, Ordering::Relaxed);
                    }
                    is_missing = false;
                    break;
                }
                Lookup::Missing => {}
                Lookup::Busy(_) => {
                    is_missing = false;
                    break;
                }
            }
        }
        assert!(!is_missing, "flow {number} was lost");
    }
}

/// No change that a packet made is lost, no flow is missing at any moment, and gauges stay right.
#[test]
fn nothing_is_lost_while_records_move() {
    let sizes = [[16, 16], [64, 64], [20, 20]];
    let common = OwnedTable::new([0, 0], Accounting::No);
    let done: Vec<AtomicU64> = (0..KEYS).map(|_| AtomicU64::new(0)).collect();
    let mut rounds = 0;
    let mut older = OwnedTable::new(sizes[0], Accounting::Yes);
    let mut old = settings(10_000, sizes[0], 1);
    for number in 0..KEYS {
        let first = record(LATER);
        let made = insert(
            &older.beside(&common),
            &key(number),
            &first,
            HalfOpen::Yes,
            &old,
            NOW,
        );
        assert!(matches!(made, Insert::Done(_)));
    }
    let begun = Instant::now();
    while begun.elapsed() < DURATION {
        rounds += 1;
        let size = sizes[rounds % sizes.len()];
        let newer = OwnedTable::new(size, Accounting::Yes);
        let new = settings(10_000, size, 1);
        let pair = Pair {
            older: (older.beside(&common), old),
            newer: (newer.beside(&common), new),
        };
        let ends = AtomicBool::new(false);
        thread::scope(|scope| {
            for seed in 0..THREADS {
                let (pair, done, ends) = (&pair, &done[..], &ends);
                scope.spawn(move || work(pair, Random(seed + rounds as u64 * 7), done, ends));
            }
            thread::sleep(Duration::from_millis(5));
            while move_all(&pair) > 0 {}
            thread::sleep(Duration::from_millis(5));
            ends.store(true, Ordering::Relaxed);
        });
        assert!(checked_contents(&pair.newer.0, &new, NOW).len() as u32 == KEYS);
        (older, old) = (newer, new);
    }
    for (number, done) in (0..).zip(&done) {
        let found = lookup(&older.beside(&common), &key(number), &old, NOW).expect("the flow");
        assert_eq!(
            u64::from(found.record.last_end),
            done.load(Ordering::Relaxed)
        );
    }
    println!("{rounds} tables");
    let made = gauge(&older.beside(&common), gauges::INSERTED);
    assert_eq!(
        (made, gauge(&older.beside(&common), gauges::REMOVED)),
        (u64::from(KEYS), 0)
    );
}

/// A mover that was killed has left a copy of a record that went on, and one whose record is gone.
#[test]
fn what_a_killed_mover_left_is_put_right() {
    let (one, two) = (
        OwnedTable::new([4, 4], Accounting::Yes),
        OwnedTable::new([8, 8], Accounting::Yes),
    );
    let (old, new) = (settings(100, [4, 4], 1), settings(100, [8, 8], 1));
    let (from, to) = (one.as_slices(), two.beside(&one));
    let key = key(2);
    insert(&from, &key, &record(LATER), HalfOpen::Yes, &old, NOW);
    // As a mover leaves it before its second step, which counts nothing in the end.
    insert(&to, &key, &record(LATER), HalfOpen::Yes, &new, NOW);
    let copy = lookup(&to, &key, &new, NOW).expect("the copy");
    let coming = copy.control.with_slot_state(SlotState::Coming);
    to.slot(Family::V4, copy.place.bucket, copy.place.slot)
        .expect("a slot")
        .store(CONTROL_WORD, coming.0);
    let gauges = from.gauges().expect("gauges");
    gauges.add(gauges::COUNT, u64::MAX);
    gauges.add(gauges::INSERTED, u64::MAX);

    let original = lookup(&from, &key, &old, NOW).expect("the record");
    let mut changed = original.record;
    changed.last_end = 77;
    table::update(&from, &original, &changed, None, 0).expect("nobody else is at work");
    let place = original.place;
    assert_eq!(table::transfer(&from, &to, &new, place, NOW), Moved::Done);
    let moved = lookup(&to, &key, &new, NOW).expect("the record");
    assert_eq!(moved.record.last_end, 77);
    assert_eq!(moved.control.slot_state(), SlotState::Live);
    assert_eq!(checked_contents(&to, &new, NOW), [key]);
    assert_eq!(table::transfer(&from, &to, &new, place, NOW), Moved::Gone);

    // After its second step the copy is as good as live to all but the short way, and is made live.
    let words = to
        .slot(Family::V4, moved.place.bucket, moved.place.slot)
        .expect("a slot");
    let coming = Control(words.load(CONTROL_WORD)).with_slot_state(SlotState::Coming);
    words.store(CONTROL_WORD, coming.0);
    assert!(lookup(&to, &key, &new, NOW).is_some());
    table::settle_copies(&to, Family::V4, 0..8);
    assert_eq!(
        Control(words.load(CONTROL_WORD)).slot_state(),
        SlotState::Live
    );
    assert_eq!(checked_contents(&to, &new, NOW), [key]);
}

/// A record that a packet made in the newer table, while one that did not know of it made another in the
/// older one, gives way: all others have found the older.
#[test]
fn the_record_of_the_older_table_counts() {
    let (one, two) = (
        OwnedTable::new([4, 4], Accounting::Yes),
        OwnedTable::new([8, 8], Accounting::Yes),
    );
    let (old, new) = (settings(100, [4, 4], 1), settings(100, [8, 8], 1));
    let (from, to) = (one.as_slices(), two.beside(&one));
    let key = key(3);
    let advanced = Record {
        last_end: 9,
        ..record(LATER)
    };
    insert(&from, &key, &advanced, HalfOpen::No, &old, NOW);
    insert(&to, &key, &record(LATER), HalfOpen::Yes, &new, NOW);
    let place = lookup(&from, &key, &old, NOW).expect("the record").place;
    assert_eq!(table::transfer(&from, &to, &new, place, NOW), Moved::Done);
    let kept = lookup(&to, &key, &new, NOW).expect("the record");
    assert_eq!(kept.record.last_end, 9);
    assert_eq!(checked_contents(&to, &new, NOW), [key]);
    assert_eq!(gauge(&to, gauges::REMOVED), 1);
}
