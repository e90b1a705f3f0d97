//! The flow table against a hash map that does the same, over random operations.

mod common;

use std::collections::HashMap;

use common::{Random, checked_contents, gauge, insert, key_v4, key_v6, lookup, record, settings};
use keepstate_engine::host::FlowMemory;
use keepstate_engine::record::ASSURED;
use keepstate_engine::settings::Settings;
use keepstate_engine::table::{self, HalfOpen, Insert, gauges};
use keepstate_engine::time::Tick;
use keepstate_engine::tuple::{Family, FlowKey};
use keepstate_flowmemory::{Accounting, OwnedTable, SliceTable, buckets_for};

const KEYS: u32 = 300;
const STEPS: u32 = 20_000;
const STEPS_BETWEEN_CHECKS: u32 = 500;
/// Close to the end of the range, so that the clock wraps on the way.
const START: u32 = u32::MAX - 2000;

/// What the model knows of a record.
#[derive(Clone, Copy, Debug)]
struct Known {
    deadline: Tick,
    last_end: u32,
    cached: u8,
    is_confirmed: bool,
}

struct Run<'a> {
    table: SliceTable<'a>,
    settings: Settings,
    random: Random,
    now: Tick,
    model: HashMap<[u64; 5], Known>,
}

#[test]
fn the_table_does_what_a_map_does() {
    for seed in 0..8 {
        run(seed, KEYS * 2, |run| run.step_with_room());
    }
}

/// With too little room, half-open records go; those that are confirmed stay until they expire.
#[test]
fn a_table_that_is_too_small_keeps_what_is_confirmed() {
    for seed in 0..8 {
        run(seed, KEYS / 4, |run| run.step_without_room());
    }
}

fn run(seed: u64, flows_max: u32, step: fn(&mut Run<'_>)) {
    let buckets = [buckets_for(flows_max), buckets_for(flows_max)];
    let owned = OwnedTable::new(buckets, Accounting::Yes);
    let mut run = Run {
        table: owned.as_slices(),
        settings: settings(flows_max, buckets, seed),
        random: Random(seed),
        now: Tick(START),
        model: HashMap::new(),
    };
    run.settings.half_open_max = flows_max / 2;
    for number in 0..STEPS {
        step(&mut run);
        if number % STEPS_BETWEEN_CHECKS == 0 {
            checked_contents(&run.table, &run.settings, run.now);
        }
    }
}

impl Run<'_> {
    fn key(&mut self) -> FlowKey {
        let number = self.random.below(KEYS);
        if number.is_multiple_of(2) {
            key_v4(number, 1)
        } else {
            key_v6([number, 0, 0, 1], 1)
        }
    }

    /// What the model knows of a key, unless it has expired.
    fn known(&self, key: &FlowKey) -> Option<Known> {
        let known = self.model.get(&key.words).copied();
        known.filter(|known| !known.deadline.has_passed(self.now))
    }

    fn step_with_room(&mut self) {
        let key = self.key();
        let known = self.known(&key);
        let found = lookup(&self.table, &key, &self.settings, self.now);
        assert_eq!(found.is_some(), known.is_some(), "{key:?}");
        if let (Some(found), Some(known)) = (found, known) {
            assert_eq!(found.record.deadline, known.deadline);
            assert_eq!(found.record.last_end, known.last_end);
            assert_eq!(found.cached, known.cached);
        }
        match self.random.below(16) {
            0..6 => {
                let result = self.insert(&key);
                assert_eq!(
                    matches!(result, Insert::Done(_)),
                    known.is_none(),
                    "{result:?}"
                );
            }
            6..11 => self.update(&key),
            11..13 => self.remove(&key),
            13 => self.sweep(),
            _ => self.now = Tick(self.now.0.wrapping_add(self.random.below(40))),
        }
    }

    fn step_without_room(&mut self) {
        let key = self.key();
        if let Some(known) = self.known(&key).filter(|known| known.is_confirmed) {
            let found = lookup(&self.table, &key, &self.settings, self.now);
            let found = found.expect("a confirmed record is still there");
            assert_eq!(found.record.last_end, known.last_end);
        }
        match self.random.below(16) {
            0..10 => {
                self.insert(&key);
            }
            10..13 => self.update(&key),
            13 => self.remove(&key),
            _ => self.now = Tick(self.now.0.wrapping_add(self.random.below(20))),
        }
        let count = gauge(&self.table, gauges::COUNT);
        assert!(
            count <= u64::from(self.settings.flows_max),
            "{count} records"
        );
    }

    fn insert(&mut self, key: &FlowKey) -> Insert {
        let deadline = Tick(self.now.0.wrapping_add(1 + self.random.below(400)));
        let (half_open, is_confirmed) = match self.random.below(3) {
            0 => (HalfOpen::No, true),
            _ => (HalfOpen::Yes, false),
        };
        let new = record(deadline.0);
        let result = insert(&self.table, key, &new, half_open, &self.settings, self.now);
        if matches!(result, Insert::Done(_)) {
            let known = Known {
                deadline,
                last_end: 0,
                cached: 0,
                is_confirmed,
            };
            self.model.insert(key.words, known);
        }
        result
    }

    fn update(&mut self, key: &FlowKey) {
        let Some(found) = lookup(&self.table, key, &self.settings, self.now) else {
            return;
        };
        let mut new = found.record;
        let known = self
            .model
            .get_mut(&key.words)
            .expect("the table has no more than the model");
        if self.random.below(2) == 0 {
            known.deadline = Tick(self.now.0.wrapping_add(1 + self.random.below(400)));
            new.deadline = known.deadline;
        }
        if self.random.below(2) == 0 {
            known.last_end += 1;
            new.last_end = known.last_end;
        }
        if self.random.below(4) == 0 {
            known.cached = self.random.below(256) as u8;
        }
        if self.random.below(4) == 0 {
            known.is_confirmed = true;
            new.status |= ASSURED;
            table::confirm(&self.table, found.place);
        }
        let written = table::update(&self.table, &found, &new, None, known.cached);
        assert!(written.is_some());
    }

    fn remove(&mut self, key: &FlowKey) {
        if let Some(found) = lookup(&self.table, key, &self.settings, self.now) {
            assert!(table::remove(&self.table, found.place, found.control));
            self.model.remove(&key.words);
        }
    }

    fn sweep(&mut self) {
        let [buckets_v4, buckets_v6] = self.settings.buckets;
        for (family, buckets) in [(Family::V4, buckets_v4), (Family::V6, buckets_v6)] {
            table::sweep(&self.table, family, 0..buckets, self.now, |entry| {
                let known = self.model.remove(&entry.key.words).expect("swept once");
                assert!(known.deadline.has_passed(self.now));
                assert_eq!(known.deadline, entry.record.deadline);
            });
        }
        self.model
            .retain(|_, known| !known.deadline.has_passed(self.now));
        let count = self
            .table
            .gauges()
            .map(|_| gauge(&self.table, gauges::COUNT));
        assert_eq!(count, Some(self.model.len() as u64));
    }
}
