//! What the tests of the table share.

#![allow(dead_code, reason = "each test uses its part")]

use keepstate_engine::conntrack::tcp::{SegmentKind, TcpState};
use keepstate_engine::host::{FlowMemory, Words};
use keepstate_engine::record::{ASSURED, Record, Warm, Window};
use keepstate_engine::settings::{Settings, TimeoutPolicy};
use keepstate_engine::table::{
    self, Displaced, Found, HalfOpen, Hash, Insert, Lookup, NewFlow, Opening, gauges,
};
use keepstate_engine::time::Tick;
use keepstate_engine::tuple::{Direction, Family, FlowKey, Tuple};

/// Small, seeded and good enough for tests (splitmix64).
pub(crate) struct Random(pub(crate) u64);

impl Random {
    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    pub(crate) fn below(&mut self, bound: u32) -> u32 {
        (((self.next() >> 32) * u64::from(bound)) >> 32) as u32
    }
}

pub(crate) fn settings(flows_max: u32, buckets: [u32; 2], seed: u64) -> Settings {
    let mut random = Random(seed);
    let mut settings = Settings::defaults(flows_max, buckets);
    settings.hash_keys = [0; 12].map(|_: u32| random.next() as u32);
    settings
}

pub(crate) fn key_v4(source: u32, source_port: u16) -> FlowKey {
    let tuple = Tuple {
        family: Family::V4,
        source: [source, 0, 0, 0],
        destination: [0xc0a8_0001, 0, 0, 0],
        source_port,
        destination_port: 443,
        protocol: 6,
        zone: 0,
    };
    tuple.orient().key
}

pub(crate) fn key_v6(source: [u32; 4], source_port: u16) -> FlowKey {
    let tuple = Tuple {
        family: Family::V6,
        source,
        destination: [0x2001_0db8, 0, 0, 1],
        source_port,
        destination_port: 443,
        protocol: 6,
        zone: 0,
    };
    tuple.orient().key
}

pub(crate) fn record(deadline: u32) -> Record {
    Record {
        deadline: Tick(deadline),
        // Where it is not half-open, it goes for nobody.
        status: ASSURED,
        tcp_state: TcpState::SynSent,
        last_kind: SegmentKind::from_number(1),
        last_direction: Direction::Original,
        retransmissions: 0,
        last_window_is_zero: false,
        windows: [Window::default(); 2],
        last_end: 0,
        last_ack_hash: 0,
        timeouts: TimeoutPolicy::DEFAULT,
    }
}

pub(crate) fn insert<M: FlowMemory>(
    memory: &M,
    key: &FlowKey,
    record: &Record,
    half_open: HalfOpen,
    settings: &Settings,
    now: Tick,
) -> Insert {
    let flow = NewFlow {
        key,
        hash: &Hash::of(key, settings),
        record,
        warm: &Warm::default(),
        half_open,
        opening: Opening::NONE,
    };
    let mut displaced = Displaced::NOTHING;
    table::insert(memory, &flow, settings, now, &mut displaced)
}

/// A record that was found, and what it holds.
pub(crate) struct Read<W> {
    found: Found<W>,
    pub(crate) record: Record,
}

impl<W> std::ops::Deref for Read<W> {
    type Target = Found<W>;

    fn deref(&self) -> &Found<W> {
        &self.found
    }
}

pub(crate) fn lookup<M: FlowMemory>(
    memory: &M,
    key: &FlowKey,
    settings: &Settings,
    now: Tick,
) -> Option<Read<M::Words>> {
    let mut record = Record::EMPTY;
    match table::lookup(memory, key, &Hash::of(key, settings), now, &mut record) {
        Lookup::Found(found) => Some(Read { found, record }),
        Lookup::Missing => None,
        Lookup::Busy(place) => panic!("busy without another thread: {place:?}"),
    }
}

pub(crate) fn gauge<M: FlowMemory>(memory: &M, gauge: u32) -> u64 {
    memory.gauges().map_or(0, |words| words.load(gauge))
}

/// Keys of all records that have not expired, and the checks that hold whenever nobody is at work: no
/// key twice, every record where its key belongs, gauges equal to contents.
pub(crate) fn checked_contents<M: FlowMemory>(
    memory: &M,
    settings: &Settings,
    now: Tick,
) -> Vec<FlowKey> {
    let mut keys = Vec::new();
    let (mut records, mut half_open) = (0, 0);
    for (family, buckets) in [Family::V4, Family::V6].into_iter().zip(settings.buckets) {
        table::leftovers(memory, family, 0..buckets, |place, control| {
            panic!("neither live nor empty: {place:?} {control:?}");
        });
        table::visit(memory, family, 0..buckets, now, |entry| {
            let hash = Hash::of(&entry.key, settings);
            assert!(
                hash.candidates().contains(&entry.place.bucket),
                "{entry:?} is lost"
            );
            keys.push(entry.key);
        });
        for bucket in 0..buckets {
            let tags = memory.tags(family, bucket).map_or(0, |words| words.load(0));
            for tag in tags.to_le_bytes() {
                records += u64::from(tag & 0x7f != 0);
                half_open += u64::from(tag & 0x80 != 0);
            }
        }
    }
    assert_eq!(gauge(memory, gauges::COUNT), records, "records");
    assert_eq!(
        gauge(memory, gauges::HALF_OPEN),
        half_open,
        "half-open records"
    );
    let counted = gauge(memory, gauges::INSERTED) - gauge(memory, gauges::REMOVED);
    assert_eq!(counted, records, "inserted less removed");
    let mut names: Vec<_> = keys
        .iter()
        .map(|key| (key.family as u8, key.words))
        .collect();
    names.sort_unstable();
    names.dedup();
    assert_eq!(names.len(), keys.len(), "a key has two records");
    keys
}
