//! The flow table against a map of the standard library: the same records after each operation.

use std::collections::HashMap;

use keepstate_engine::conntrack::tcp::{SegmentKind, TcpState};
use keepstate_engine::host::{FlowMemory, Words};
use keepstate_engine::limits::EARLY_DROP_HALF_OPEN_SHARE;
use keepstate_engine::record::{ASSURED, Record, Warm, Window};
use keepstate_engine::settings::{Settings, TimeoutPolicy};
use keepstate_engine::table::{
    self, Displaced, Found, HalfOpen, Hash, Insert, Lookup, NewFlow, Opening, gauges,
};
use keepstate_engine::time::Tick;
use keepstate_engine::tuple::{Direction, Family, FlowKey, Tuple};
use keepstate_flowmemory::{Accounting, OwnedTable, SliceTable, WordsAt};

/// Bytes of one operation: what to do, which key, which value.
const OPERATION_BYTES: usize = 3;
const BUCKETS: [u32; 2] = [3, 2];

pub(crate) fn run(data: &[u8]) {
    let memory = OwnedTable::new(BUCKETS, Accounting::No);
    let mut settings = Settings::defaults(40, BUCKETS);
    settings.half_open_max = 16;
    for (key, number) in settings.hash_keys.iter_mut().zip(0x9e37_79b9_u32..) {
        *key = number.wrapping_mul(0x85eb_ca6b);
    }
    let mut check = Check {
        memory: memory.as_slices(),
        settings,
        model: HashMap::new(),
    };
    for operation in data.chunks_exact(OPERATION_BYTES) {
        check.operate(operation[0], key(operation[1]), operation[2]);
    }
    check.compare_all();
}

pub(crate) fn seeds() -> Vec<Vec<u8>> {
    let filling = (0..96_u8).flat_map(|key| [0, key, key]).collect();
    let churning = (0..96_u8).flat_map(|key| [key % 5, key / 4, key]).collect();
    vec![filling, churning]
}

#[derive(Clone, Copy, Debug, PartialEq)]
struct Known {
    record: Record,
    half_open: bool,
}

struct Check<'a> {
    memory: SliceTable<'a>,
    settings: Settings,
    model: HashMap<[u64; 5], (FlowKey, Known)>,
}

const NOW: Tick = Tick(1_000);

impl<'a> Check<'a> {
    fn operate(&mut self, what: u8, key: FlowKey, value: u8) {
        match what % 5 {
            0 => self.insert(key, value, HalfOpen::Yes),
            1 => self.insert(key, value, HalfOpen::No),
            2 => self.update(key, value),
            3 => self.confirm(key),
            _ => self.remove(key),
        }
        self.compare(&key);
        self.compare_gauges();
    }

    fn insert(&mut self, key: FlowKey, value: u8, half_open: HalfOpen) {
        let record = record(value);
        let hash = Hash::of(&key, &self.settings);
        let flow = NewFlow {
            key: &key,
            hash: &hash,
            record: &record,
            warm: &Warm::default(),
            half_open,
            opening: Opening::NONE,
        };
        let known = Known {
            record,
            half_open: half_open == HalfOpen::Yes,
        };
        let may_drop_confirmed = self.half_open() < self.half_open_share();
        let mut displaced = Displaced::NOTHING;
        let inserted = table::insert(&self.memory, &flow, &self.settings, NOW, &mut displaced);
        if displaced.control.0 != 0 {
            let (_, evicted) = self
                .model
                .remove(&displaced.key.words)
                .expect("what made room was there");
            assert!(
                evicted.half_open || (may_drop_confirmed && may_be_dropped_early(&evicted.record)),
                "this record may not make room: {evicted:?}"
            );
        }
        match inserted {
            Insert::Done(_) => {
                let before = self.model.insert(key.words, (key, known));
                assert!(before.is_none(), "a second record of one key was made");
            }
            Insert::Exists => assert!(self.model.contains_key(&key.words)),
            // Room is looked for first, so that a key that is there may be told so too.
            Insert::Full => {}
            Insert::Contended => panic!("contended without another CPU"),
        }
    }

    fn update(&mut self, key: FlowKey, value: u8) {
        let Some((found, before)) = self.read(&key) else {
            return;
        };
        let changed = record(value);
        let written = table::update(&self.memory, &found, &changed, None, value);
        assert!(written.is_some(), "nobody else writes");
        if let Some((_, known)) = self.model.get_mut(&key.words) {
            known.record = changed;
        }
        let again = self.find(&key).expect("was just written");
        assert_eq!((again.cached, Some(again.control)), (value, written));
        if again.control != found.control {
            let later = Record {
                deadline: Tick(before.deadline.0 + 7),
                ..changed
            };
            let stale = table::update(&self.memory, &found, &later, None, value);
            assert_eq!(stale, None, "an old view was written");
        }
    }

    fn confirm(&mut self, key: FlowKey) {
        let Some(found) = self.find(&key) else { return };
        table::confirm(&self.memory, found.place);
        if let Some((_, known)) = self.model.get_mut(&key.words) {
            known.half_open = false;
        }
    }

    fn remove(&mut self, key: FlowKey) {
        let Some(found) = self.find(&key) else { return };
        assert!(table::remove(&self.memory, found.place, found.control));
        self.model.remove(&key.words);
    }

    fn find(&self, key: &FlowKey) -> Option<Found<WordsAt<'a>>> {
        self.read(key).map(|(found, _)| found)
    }

    fn read(&self, key: &FlowKey) -> Option<(Found<WordsAt<'a>>, Record)> {
        let hash = Hash::of(key, &self.settings);
        let mut record = Record::EMPTY;
        match table::lookup(&self.memory, key, &hash, NOW, &mut record) {
            Lookup::Found(found) => Some((found, record)),
            Lookup::Missing => None,
            Lookup::Busy(_) => panic!("busy without another CPU"),
        }
    }

    fn compare(&self, key: &FlowKey) {
        let found = self.read(key).map(|(_, record)| record);
        assert_eq!(
            found,
            self.model.get(&key.words).map(|(_, known)| known.record)
        );
    }

    fn compare_all(&self) {
        for number in 0..=u8::MAX {
            self.compare(&key(number));
        }
    }

    fn compare_gauges(&self) {
        let words = self.memory.gauges().expect("this table has gauges");
        assert_eq!(words.load(gauges::COUNT), self.model.len() as u64);
        assert_eq!(words.load(gauges::HALF_OPEN), self.half_open() as u64);
        assert!(self.model.len() as u32 <= self.settings.flows_max);
    }

    fn half_open(&self) -> usize {
        let records = self.model.values();
        records.filter(|(_, known)| known.half_open).count()
    }

    /// With fewer half-open records than this, confirmed ones may make room.
    fn half_open_share(&self) -> usize {
        let share = self.settings.flows_max / EARLY_DROP_HALF_OPEN_SHARE;
        share.min(self.settings.half_open_max).max(1) as usize
    }
}

/// A confirmed record of a TCP flow goes when it is not ASSURED, or is closing.
fn may_be_dropped_early(record: &Record) -> bool {
    record.status & ASSURED == 0
        || matches!(
            record.tcp_state,
            TcpState::FinWait
                | TcpState::CloseWait
                | TcpState::LastAck
                | TcpState::TimeWait
                | TcpState::Close
        )
}

fn key(number: u8) -> FlowKey {
    let family = if number & 1 == 0 {
        Family::V4
    } else {
        Family::V6
    };
    let tuple = Tuple {
        family,
        source: [0x0a00_0000 + u32::from(number), 0, 0, 0],
        destination: [0x0a00_0100, 0, 0, 0],
        source_port: 1_000,
        destination_port: 80,
        protocol: 6,
        zone: 0,
    };
    tuple.orient().key
}

fn record(value: u8) -> Record {
    let word = u32::from(value).wrapping_mul(0x0101_0101);
    let window = Window {
        end: word,
        max_end: !word,
        max_window: word ^ 0xff,
        max_ack: word.rotate_left(7),
        scale: value & 0xf,
        flags: value & 0x3f,
    };
    Record {
        deadline: Tick(NOW.0 + 1 + u32::from(value)),
        status: value & 0x3f,
        tcp_state: TcpState::from_number(value % 10),
        last_kind: SegmentKind::from_number(value % 6),
        last_direction: if value & 1 == 0 {
            Direction::Original
        } else {
            Direction::Reply
        },
        retransmissions: value & 0x3f,
        last_window_is_zero: value & 2 != 0,
        windows: [window; 2],
        last_end: word,
        last_ack_hash: u16::from(value) << 4,
        timeouts: TimeoutPolicy::DEFAULT,
    }
}
