//! Packets whose record other CPUs are at: nothing waits, and every drop says why.

use std::cell::Cell;

use keepstate_engine::host::{FlowMemory, Words};
use keepstate_engine::process::{Arrival, Checksums, Outcome, Path};
use keepstate_engine::record::CONTROL_WORD;
use keepstate_engine::settings::Settings;
use keepstate_engine::table::{self, gauges};
use keepstate_engine::time::Tick;
use keepstate_engine::tuple::Family;
use keepstate_engine::verdict::{Reason, State, Verdict};
use keepstate_engine::wire::Link;
use keepstate_flowmemory::{Accounting, OwnedTable, SliceTable, buckets_for};
use keepstate_sim::build::{Body, Packet, Udp};
use keepstate_sim::plane::{LoadedPolicy, Plane};

const FLOWS_MAX: u32 = 100;
const NOW: Tick = Tick(1000);
const LATER: Tick = Tick(1100);

/// A table that another CPU can be let loose on.
struct Shared<'a> {
    table: SliceTable<'a>,
    /// Whether each swap finds that somebody else was faster.
    is_contended: &'a Cell<bool>,
}

#[derive(Clone, Copy)]
struct SharedWords<'a, W> {
    words: W,
    is_contended: &'a Cell<bool>,
}

impl<W: Words> Words for SharedWords<'_, W> {
    fn load(self, word: u32) -> u64 {
        self.words.load(word)
    }

    fn store(self, word: u32, value: u64) {
        self.words.store(word, value);
    }

    fn compare_exchange(self, word: u32, old: u64, new: u64) -> u64 {
        if self.is_contended.get() {
            return !old;
        }
        self.words.compare_exchange(word, old, new)
    }

    fn add(self, word: u32, amount: u64) {
        self.words.add(word, amount);
    }
}

impl<'a> Shared<'a> {
    fn share<W>(&self, words: Option<W>) -> Option<SharedWords<'a, W>> {
        words.map(|words| SharedWords {
            words,
            is_contended: self.is_contended,
        })
    }
}

impl<'a> FlowMemory for Shared<'a> {
    type Words = SharedWords<'a, <SliceTable<'a> as FlowMemory>::Words>;

    fn tags(&self, family: Family, bucket: u32) -> Option<Self::Words> {
        self.share(self.table.tags(family, bucket))
    }

    fn slot(&self, family: Family, bucket: u32, slot: u32) -> Option<Self::Words> {
        self.share(self.table.slot(family, bucket, slot))
    }

    fn warm(&self, family: Family, bucket: u32, slot: u32) -> Option<Self::Words> {
        self.share(self.table.warm(family, bucket, slot))
    }

    fn accounting(&self, family: Family, bucket: u32, slot: u32) -> Option<Self::Words> {
        self.share(self.table.accounting(family, bucket, slot))
    }

    fn gauges(&self) -> Option<Self::Words> {
        self.share(self.table.gauges())
    }
}

/// Runs a test on an empty table that is shared with nobody yet.
fn on_a_table(test: impl FnOnce(&Plane<Shared<'_>>, &Cell<bool>)) {
    let buckets = [buckets_for(FLOWS_MAX); 2];
    let owned = OwnedTable::new(buckets, Accounting::No);
    let is_contended = Cell::new(false);
    let shared = Shared {
        table: owned.as_slices(),
        is_contended: &is_contended,
    };
    let settings = Settings::defaults(FLOWS_MAX, buckets);
    let plane = Plane::new(shared, settings, LoadedPolicy::NONE, ());
    test(&plane, &is_contended);
}

fn judge(plane: &Plane<Shared<'_>>, from: &str, to: &str, now: Tick) -> Outcome {
    let datagram = Udp {
        source_port: 5000,
        destination_port: 5000,
        payload: Vec::new(),
    };
    let address = |text: &str| text.parse().expect("an address");
    let packet = Packet::new(address(from), address(to), Body::Udp(datagram));
    let arrival = Arrival {
        link: Link::Ipv4,
        path: Path::Ingress,
        checksums: Checksums::Unverified,
        zone: 0,
        interfaces: 0,
    };
    plane.judge(&packet.ip(), &arrival, now)
}

fn gauge(plane: &Plane<Shared<'_>>, gauge: u32) -> u64 {
    plane.flows.gauges().map_or(0, |words| words.load(gauge))
}

#[test]
fn a_record_that_keeps_changing_drops_with_a_reason() {
    on_a_table(|plane, is_contended| {
        judge(plane, "10.0.0.1", "10.0.0.2", NOW);
        is_contended.set(true);
        let outcome = judge(plane, "10.0.0.2", "10.0.0.1", LATER);
        assert_eq!(outcome.verdict, Verdict::Drop);
        assert_eq!(outcome.reason, Some(Reason::RecordBusy));
        assert_eq!(gauge(plane, gauges::CONTENDED), 1);
        is_contended.set(false);
        let again = judge(plane, "10.0.0.2", "10.0.0.1", LATER);
        assert_eq!(
            (again.state, again.verdict),
            (State::Established, Verdict::Accept)
        );
    });
}

#[test]
fn a_bucket_that_keeps_changing_drops_with_a_reason() {
    on_a_table(|plane, is_contended| {
        is_contended.set(true);
        let outcome = judge(plane, "10.0.0.1", "10.0.0.2", NOW);
        assert_eq!(outcome.verdict, Verdict::Drop);
        assert_eq!(outcome.reason, Some(Reason::InsertContended));
        assert_eq!(gauge(plane, gauges::COUNT), 0);
    });
}

#[test]
fn a_record_that_is_being_written_holds_up_nobody() {
    on_a_table(|plane, _| {
        judge(plane, "10.0.0.1", "10.0.0.2", NOW);
        let [v4, _] = plane.settings.buckets;
        table::visit(&plane.flows, Family::V4, 0..v4, NOW, |entry| {
            let (family, place) = (entry.place.family, entry.place);
            let words = plane.flows.slot(family, place.bucket, place.slot);
            let words = words.expect("a record has words");
            words.store(CONTROL_WORD, entry.control.locked().0);
        });
        let outcome = judge(plane, "10.0.0.2", "10.0.0.1", LATER);
        assert_eq!(
            (outcome.state, outcome.verdict, outcome.reason),
            (State::Established, Verdict::Accept, None)
        );
        assert_eq!(gauge(plane, gauges::BUSY), 1);
        assert_eq!(gauge(plane, gauges::CONTENDED), 0);
    });
}
