//! The flow table under every order of steps that shuttle can think of: each load, store and swap
//! is a point where it may switch to another thread.

mod common;

use common::{checked_contents, gauge, insert, key_v4, key_v6, record, settings};
use keepstate_engine::host::{FlowMemory, Words};
use keepstate_engine::limits::{SLOT_WORDS_V6, SLOTS_PER_BUCKET, WARM_WORDS};
use keepstate_engine::record::{Record, SEEN_REPLY};
use keepstate_engine::settings::Settings;
use keepstate_engine::table::{self, Found, HalfOpen, Hash, Insert, Lookup, gauges};
use keepstate_engine::time::Tick;
use keepstate_engine::tuple::{Family, FlowKey};
use shuttle::sync::Arc;
use shuttle::sync::atomic::{AtomicU64, Ordering};
use shuttle::thread;

const NOW: Tick = Tick(1000);
const LATER: u32 = 2000;
/// Schedules tried at random, and with few switches at the worst places.
const RANDOM_SCHEDULES: usize = 3000;
const PCT_SCHEDULES: usize = 1500;
const PCT_DEPTH: usize = 4;

const BUCKETS: u32 = 4;

/// A table whose words shuttle watches.
struct Watched {
    tags: Vec<AtomicU64>,
    slots: Vec<AtomicU64>,
    warm: Vec<AtomicU64>,
    gauges: Vec<AtomicU64>,
    settings: Settings,
}

#[derive(Clone, Copy)]
struct WatchedWords<'a>(&'a [AtomicU64]);

impl Words for WatchedWords<'_> {
    fn load(self, word: u32) -> u64 {
        self.0[word as usize].load(Ordering::SeqCst)
    }

    fn store(self, word: u32, value: u64) {
        self.0[word as usize].store(value, Ordering::SeqCst);
    }

    fn compare_exchange(self, word: u32, old: u64, new: u64) -> u64 {
        self.0[word as usize]
            .compare_exchange(old, new, Ordering::SeqCst, Ordering::SeqCst)
            .unwrap_or_else(|found| found)
    }

    fn add(self, word: u32, amount: u64) {
        self.0[word as usize].fetch_add(amount, Ordering::SeqCst);
    }
}

/// Both families share the arrays: a test uses one of them.
#[derive(Clone, Copy)]
struct Borrowed<'a>(&'a Watched);

impl<'a> FlowMemory for Borrowed<'a> {
    type Words = WatchedWords<'a>;

    fn tags(&self, _: Family, bucket: u32) -> Option<WatchedWords<'a>> {
        part(&self.0.tags, bucket, 1)
    }

    fn slot(&self, _: Family, bucket: u32, slot: u32) -> Option<WatchedWords<'a>> {
        part(
            &self.0.slots,
            bucket * SLOTS_PER_BUCKET + slot,
            SLOT_WORDS_V6,
        )
    }

    fn warm(&self, _: Family, bucket: u32, slot: u32) -> Option<WatchedWords<'a>> {
        part(&self.0.warm, bucket * SLOTS_PER_BUCKET + slot, WARM_WORDS)
    }

    fn accounting(&self, _: Family, _: u32, _: u32) -> Option<WatchedWords<'a>> {
        None
    }

    fn gauges(&self) -> Option<WatchedWords<'a>> {
        part(&self.0.gauges, 0, gauges::WORDS)
    }

    fn relax(&self) {
        thread::yield_now();
    }
}

fn part(words: &[AtomicU64], number: u32, size: u32) -> Option<WatchedWords<'_>> {
    let start = (number * size) as usize;
    words.get(start..start + size as usize).map(WatchedWords)
}

impl Watched {
    fn new(family: Family, flows_max: u32) -> Arc<Self> {
        let words = |count| (0..count).map(|_| AtomicU64::new(0)).collect();
        let slots = BUCKETS * SLOTS_PER_BUCKET;
        let mut buckets = [0; 2];
        buckets[family as usize] = BUCKETS;
        Arc::new(Self {
            tags: words(BUCKETS),
            slots: words(slots * SLOT_WORDS_V6),
            warm: words(slots * WARM_WORDS),
            gauges: words(gauges::WORDS),
            settings: settings(flows_max, buckets, 1),
        })
    }

    fn insert(&self, key: &FlowKey, deadline: u32, half_open: HalfOpen, now: Tick) -> Insert {
        insert(
            &Borrowed(self),
            key,
            &record(deadline),
            half_open,
            &self.settings,
            now,
        )
    }

    fn lookup(&self, key: &FlowKey) -> Lookup<WatchedWords<'_>> {
        let mut ignored = Record::EMPTY;
        let hash = Hash::of(key, &self.settings);
        table::lookup(&Borrowed(self), key, &hash, NOW, &mut ignored)
    }

    fn found(&self, key: &FlowKey) -> Option<(Found<WatchedWords<'_>>, Record)> {
        let mut record = Record::EMPTY;
        let hash = Hash::of(key, &self.settings);
        match table::lookup(&Borrowed(self), key, &hash, NOW, &mut record) {
            Lookup::Found(found) => Some((found, record)),
            Lookup::Missing | Lookup::Busy(_) => None,
        }
    }

    fn contents(&self, now: Tick) -> Vec<FlowKey> {
        checked_contents(&Borrowed(self), &self.settings, now)
    }
}

fn explore(test: impl Fn() + Copy + Send + Sync + 'static) {
    shuttle::check_random(test, RANDOM_SCHEDULES);
    shuttle::check_pct(test, PCT_SCHEDULES, PCT_DEPTH);
}

fn spawn<R: Send + 'static>(
    table: &Arc<Watched>,
    body: impl FnOnce(&Watched) -> R + Send + 'static,
) -> thread::JoinHandle<R> {
    let table = Arc::clone(table);
    thread::spawn(move || body(&table))
}

#[test]
fn inserts_of_one_key_leave_one_record() {
    for key in [key_v4(1, 1), key_v6([1, 2, 3, 4], 1)] {
        explore(move || {
            let table = Watched::new(key.family, 100);
            let threads = [0, 1, 2].map(|_| {
                spawn(&table, move |table| {
                    table.insert(&key, LATER, HalfOpen::Yes, NOW)
                })
            });
            let results = threads.map(|thread| thread.join().expect("no panic"));
            let made = results
                .iter()
                .filter(|result| matches!(result, Insert::Done(_)));
            assert!(made.count() <= 1, "{results:?}");
            let contended = results.iter().all(|result| *result == Insert::Contended);
            let expected = if contended { 0 } else { 1 };
            assert_eq!(table.contents(NOW).len(), expected, "{results:?}");
        });
    }
}

/// The pairs are filled so that a claim of one thread turns the other's choice to the other pair.
#[test]
fn inserts_into_different_pairs_see_each_other() {
    explore(|| {
        let table = Watched::new(Family::V4, 100);
        let key = key_v4(1, 1);
        let threads = [0, 1].map(|number| {
            spawn(&table, move |table| {
                let other = table.insert(&key_v4(100 + number, 1), LATER, HalfOpen::No, NOW);
                (table.insert(&key, LATER, HalfOpen::No, NOW), other)
            })
        });
        let results = threads.map(|thread| thread.join().expect("no panic"));
        let contents = table.contents(NOW);
        let copies = contents.iter().filter(|found| **found == key).count();
        let made = results
            .iter()
            .filter(|(own, _)| matches!(own, Insert::Done(_)))
            .count();
        assert_eq!(copies, made, "{results:?}");
        assert!(copies == 1 || results.iter().all(|(own, _)| *own == Insert::Contended));
    });
}

#[test]
fn an_expired_record_is_replaced_once() {
    explore(|| {
        let table = Watched::new(Family::V4, 100);
        let key = key_v4(1, 1);
        table.insert(&key, LATER, HalfOpen::Yes, NOW);
        let now = Tick(LATER + 1);
        let threads = [0, 1].map(|_| {
            spawn(&table, move |table| {
                table.insert(&key, LATER + 100, HalfOpen::Yes, now)
            })
        });
        let results = threads.map(|thread| thread.join().expect("no panic"));
        let made = results
            .iter()
            .filter(|result| matches!(result, Insert::Done(_)))
            .count();
        assert!(made <= 1, "{results:?}");
        assert_eq!(table.contents(now).len(), made, "{results:?}");
    });
}

#[test]
fn insert_removal_and_lookup_of_one_key() {
    explore(|| {
        let table = Watched::new(Family::V4, 100);
        let key = key_v4(1, 1);
        table.insert(&key, LATER, HalfOpen::Yes, NOW);
        let remover = spawn(&table, move |table| match table.lookup(&key) {
            Lookup::Found(found) => table::remove(&Borrowed(table), found.place, found.control),
            Lookup::Missing | Lookup::Busy(_) => false,
        });
        let inserter = spawn(&table, move |table| {
            table.insert(&key, LATER + 1, HalfOpen::No, NOW)
        });
        let reader = spawn(&table, move |table| {
            table.found(&key).map(|(_, record)| record)
        });
        let removed = remover.join().expect("no panic");
        let inserted = inserter.join().expect("no panic");
        let seen = reader.join().expect("no panic");
        assert!(seen.is_none_or(|seen| seen == record(LATER) || seen == record(LATER + 1)));
        let made = matches!(inserted, Insert::Done(_));
        assert!(made || inserted == Insert::Exists || inserted == Insert::Contended);
        let expected = usize::from(made) + usize::from(!removed);
        assert_eq!(
            table.contents(NOW).len(),
            expected,
            "{inserted:?} {removed}"
        );
    });
}

#[test]
fn two_removals_of_one_record() {
    explore(|| {
        let table = Watched::new(Family::V4, 100);
        let key = key_v4(1, 1);
        table.insert(&key, LATER, HalfOpen::Yes, NOW);
        let threads = [0, 1].map(|_| {
            spawn(&table, move |table| match table.lookup(&key) {
                Lookup::Found(found) => {
                    table::confirm(&Borrowed(table), found.place);
                    table::remove(&Borrowed(table), found.place, found.control)
                }
                Lookup::Missing | Lookup::Busy(_) => false,
            })
        });
        let removed = threads.map(|thread| thread.join().expect("no panic"));
        assert_eq!(removed.iter().filter(|removed| **removed).count(), 1);
        assert!(table.contents(NOW).is_empty());
        assert_eq!(gauge(&Borrowed(&table), gauges::REMOVED), 1);
    });
}

/// Some updates write one word, others lock the record and write several.
#[test]
fn no_update_is_lost() {
    explore(|| {
        let table = Watched::new(Family::V4, 100);
        let key = key_v4(1, 1);
        table.insert(&key, LATER, HalfOpen::No, NOW);
        let threads = [0, 1, 2].map(|number: u32| {
            spawn(&table, move |table| {
                let mut done = [0, 0];
                for _ in 0..2 {
                    let Some((found, old)) = table.found(&key) else {
                        continue;
                    };
                    let mut new = old;
                    if number == 0 {
                        new.deadline = Tick(old.deadline.0 + 1);
                    } else {
                        new.last_end = old.last_end + 1;
                        new.windows[1].end = old.last_end + 1;
                    }
                    let written = table::update(&Borrowed(table), &found, &new, None, 0);
                    if written.is_some() {
                        done[usize::from(number != 0)] += 1;
                    }
                }
                done
            })
        });
        let done = threads.map(|thread| thread.join().expect("no panic"));
        let total = |index: usize| done.iter().map(|done| done[index]).sum::<u32>();
        let (_, last) = table.found(&key).expect("the record");
        assert_eq!(last.deadline.0, LATER + total(0));
        assert_eq!((last.last_end, last.windows[1].end), (total(1), total(1)));
        assert!(total(0) + total(1) > 0);
    });
}

#[test]
fn a_record_is_read_in_one_piece() {
    explore(|| {
        let table = Watched::new(Family::V6, 100);
        let key = key_v6([1, 2, 3, 4], 1);
        table.insert(&key, LATER, HalfOpen::No, NOW);
        let writer = spawn(&table, move |table| {
            for number in 1..4 {
                let (found, mut record) = table.found(&key).expect("only this thread writes");
                record.last_end = number;
                record.windows[0].end = number;
                record.windows[1].max_ack = number;
                let cached = number as u8;
                let written = table::update(&Borrowed(table), &found, &record, None, cached);
                assert!(written.is_some());
            }
        });
        let reader = spawn(&table, move |table| {
            for _ in 0..2 {
                let Some((found, record)) = table.found(&key) else {
                    continue;
                };
                let number = record.last_end;
                assert_eq!(record.windows[0].end, number);
                assert_eq!(record.windows[1].max_ack, number);
                assert_eq!(u32::from(found.cached), number);
            }
        });
        writer.join().expect("no panic");
        reader.join().expect("no panic");
    });
}

/// A packet that confirms a flow and writes its record keeps it, whatever makes room meanwhile.
#[test]
fn a_confirmed_record_is_not_evicted() {
    explore(|| {
        let table = Watched::new(Family::V4, 1);
        let key = key_v4(1, 1);
        table.insert(&key, LATER, HalfOpen::Yes, NOW);
        let confirming = spawn(&table, move |table| {
            let Some((found, mut record)) = table.found(&key) else {
                return false;
            };
            record.status |= SEEN_REPLY;
            table::confirm(&Borrowed(table), found.place);
            table::update(&Borrowed(table), &found, &record, None, 0).is_some()
        });
        let inserting = spawn(&table, move |table| {
            table.insert(&key_v4(2, 1), LATER, HalfOpen::Yes, NOW)
        });
        let confirmed = confirming.join().expect("no panic");
        inserting.join().expect("no panic");
        assert_eq!(table.found(&key).is_some(), confirmed);
        table.contents(NOW);
    });
}

/// It was to make room, and changes at that moment: then another goes, or none.
#[test]
fn a_record_that_is_renewed_makes_no_room() {
    explore(|| {
        let table = Watched::new(Family::V4, 1);
        let (old, new) = (key_v4(1, 1), key_v4(2, 1));
        table.insert(&old, LATER, HalfOpen::Yes, NOW);
        let renewing = spawn(&table, move |table| {
            if let Some((found, mut record)) = table.found(&old) {
                record.deadline = Tick(LATER + 1);
                let _ = table::update(&Borrowed(table), &found, &record, None, 0);
            }
        });
        let inserting = spawn(&table, move |table| {
            table.insert(&new, LATER, HalfOpen::Yes, NOW)
        });
        renewing.join().expect("no panic");
        let left = match inserting.join().expect("no panic") {
            Insert::Done(_) => new,
            _ => old,
        };
        assert_eq!(table.contents(NOW), [left]);
    });
}

/// Gauges and tags stay right when buckets change under claims and removals.
#[test]
fn a_small_table_under_many_inserts() {
    explore(|| {
        let table = Watched::new(Family::V4, 3);
        let threads = [0, 1, 2].map(|number: u32| {
            spawn(&table, move |table| {
                for round in 0..2 {
                    table.insert(&key_v4(number * 2 + round, 1), LATER, HalfOpen::Yes, NOW);
                }
            })
        });
        for thread in threads {
            thread.join().expect("no panic");
        }
        // The limit is read before it is counted up: one more for each other thread.
        assert!(table.contents(NOW).len() <= 3 + 2);
    });
}
