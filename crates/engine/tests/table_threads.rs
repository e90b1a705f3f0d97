//! The flow table under real threads, for about a second.

mod common;

use std::thread;
use std::time::{Duration, Instant};

use common::{Random, checked_contents, insert, key_v4, key_v6, record, settings};
use keepstate_engine::record::Record;
use keepstate_engine::settings::Settings;
use keepstate_engine::table::{self, Found, HalfOpen, Hash, Lookup};
use keepstate_engine::time::Tick;
use keepstate_engine::tuple::{Family, FlowKey};
use keepstate_flowmemory::{Accounting, OwnedTable, SliceTable, WordsAt};

const THREADS: u64 = 4;
const DURATION: Duration = Duration::from_millis(500);
const NOW: Tick = Tick(1000);
const LATER: u32 = 2000;

fn found<'a>(
    table: &SliceTable<'a>,
    key: &FlowKey,
    settings: &Settings,
) -> Option<(Found<WordsAt<'a>>, Record)> {
    let mut record = Record::EMPTY;
    match table::lookup(table, key, &Hash::of(key, settings), NOW, &mut record) {
        Lookup::Found(found) => Some((found, record)),
        Lookup::Missing | Lookup::Busy(_) => None,
    }
}

/// Few keys in few buckets, so that everything meets everything.
#[test]
fn churn_leaves_no_duplicate_and_right_gauges() {
    let settings = settings(48, [4, 4], 1);
    let owned = OwnedTable::new(settings.buckets, Accounting::Yes);
    thread::scope(|scope| {
        for seed in 0..THREADS {
            let (table, settings) = (owned.as_slices(), &settings);
            scope.spawn(move || churn(&table, settings, Random(seed)));
        }
    });
    let contents = checked_contents(&owned.as_slices(), &settings, NOW);
    assert!(contents.len() as u64 <= u64::from(settings.flows_max) + THREADS);
}

fn churn(table: &SliceTable<'_>, settings: &Settings, mut random: Random) {
    let start = Instant::now();
    while start.elapsed() < DURATION {
        for _ in 0..200 {
            let number = random.below(64);
            let key = match number % 2 {
                0 => key_v4(number, 1),
                _ => key_v6([number, 0, 0, 1], 1),
            };
            // Some are born expired, and so in everyone's way.
            let deadline = if random.below(8) == 0 { NOW.0 } else { LATER };
            let action = random.below(8);
            if action < 4 {
                insert(table, &key, &record(deadline), HalfOpen::Yes, settings, NOW);
                continue;
            }
            let Some((found, mut record)) = found(table, &key, settings) else {
                continue;
            };
            match action {
                4 | 5 => {
                    record.last_end += 1;
                    record.windows[0].max_ack = record.last_end;
                    if action == 5 {
                        table::confirm(table, found.place);
                    }
                    table::update(table, &found, &record, None, action as u8);
                }
                6 => {
                    table::remove(table, found.place, found.control);
                }
                _ => {
                    table::sweep(table, Family::V4, 0..settings.buckets[0], NOW, |_| {});
                }
            }
        }
    }
}

#[test]
fn updates_add_up() {
    let settings = settings(48, [4, 4], 1);
    let owned = OwnedTable::new(settings.buckets, Accounting::No);
    let key = key_v6([1, 2, 3, 4], 1);
    insert(
        &owned.as_slices(),
        &key,
        &record(LATER),
        HalfOpen::No,
        &settings,
        NOW,
    );
    let total: u32 = thread::scope(|scope| {
        let threads: Vec<_> = (0..THREADS)
            .map(|_| scope.spawn(|| count_up(&owned.as_slices(), &key, &settings)))
            .collect();
        let counts = threads
            .into_iter()
            .map(|thread| thread.join().expect("no panic"));
        counts.sum()
    });
    let (_, last) = found(&owned.as_slices(), &key, &settings).expect("the record");
    assert_eq!(last.last_end, total);
}

/// Adds one to two fields as often as it can, and says how often.
fn count_up(table: &SliceTable<'_>, key: &FlowKey, settings: &Settings) -> u32 {
    let start = Instant::now();
    let mut done = 0;
    while start.elapsed() < DURATION {
        for _ in 0..200 {
            let Some((found, mut record)) = found(table, key, settings) else {
                continue;
            };
            assert_eq!(record.last_end, record.windows[1].end, "read in two pieces");
            record.last_end += 1;
            record.windows[1].end += 1;
            if table::update(table, &found, &record, None, 0).is_some() {
                done += 1;
            }
        }
    }
    done
}
