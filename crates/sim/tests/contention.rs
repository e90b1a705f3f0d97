//! Packets whose record other CPUs are at: nothing waits, and every drop says why.

use std::cell::Cell;

use keepstate_engine::host::{FlowMemory, Words};
use keepstate_engine::limits::SLOTS_PER_BUCKET;
use keepstate_engine::process::{Arrival, Checksums, Outcome, Path};
use keepstate_engine::record::{CONTROL_WORD, Control};
use keepstate_engine::settings::Settings;
use keepstate_engine::table::gauges;
use keepstate_engine::time::{TICKS_PER_SECOND, Tick};
use keepstate_engine::tuple::Family;
use keepstate_engine::verdict::{Reason, State, Verdict};
use keepstate_engine::wire::Link;
use keepstate_flowmemory::{Accounting, OwnedTable, SliceTable, buckets_for};
use keepstate_sim::build::{ACK, Body, Packet, SYN, Tcp, Udp};
use keepstate_sim::plane::{LoadedPolicy, Plane};

const FLOWS_MAX: u32 = 100;
const NOW: Tick = Tick(1000);
const LATER: Tick = Tick(1100);
/// When nothing is forgiven any more.
const AFTERWARDS: Tick = Tick(NOW.0 + 6 * TICKS_PER_SECOND);

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
    judge_packet(plane, &packet, now)
}

fn judge_packet(plane: &Plane<Shared<'_>>, packet: &Packet, now: Tick) -> Outcome {
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
fn a_packet_whose_record_keeps_changing_passes() {
    on_a_table(|plane, is_contended| {
        judge(plane, "10.0.0.1", "10.0.0.2", NOW);
        is_contended.set(true);
        let outcome = judge(plane, "10.0.0.2", "10.0.0.1", LATER);
        assert_eq!(
            (outcome.state, outcome.verdict, outcome.reason),
            (State::Established, Verdict::Accept, None)
        );
        assert_eq!(gauge(plane, gauges::BUSY), 1);
        assert_eq!(gauge(plane, gauges::CONTENDED), 0);
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

/// Whether another CPU is in the middle of writing the only record.
fn set_locked(plane: &Plane<Shared<'_>>, is_locked: bool) {
    let [v4, _] = plane.settings.buckets;
    for place in (0..v4).flat_map(|bucket| (0..SLOTS_PER_BUCKET).map(move |slot| (bucket, slot))) {
        let Some(words) = plane.flows.slot(Family::V4, place.0, place.1) else {
            continue;
        };
        let control = Control(words.load(CONTROL_WORD));
        if control.holds_record() {
            let unlocked = control.0 & !Control(0).locked().0;
            let locked = control.locked().0;
            words.store(CONTROL_WORD, if is_locked { locked } else { unlocked });
        }
    }
}

#[test]
fn a_record_that_is_being_written_holds_up_nobody() {
    on_a_table(|plane, _| {
        judge(plane, "10.0.0.1", "10.0.0.2", NOW);
        set_locked(plane, true);
        let outcome = judge(plane, "10.0.0.2", "10.0.0.1", LATER);
        assert_eq!(
            (outcome.state, outcome.verdict, outcome.reason),
            (State::Established, Verdict::Accept, None)
        );
        assert_eq!(gauge(plane, gauges::BUSY), 1);
        assert_eq!(gauge(plane, gauges::CONTENDED), 0);
    });
}

/// One end of a connection, and what it says.
fn segment(
    plane: &Plane<Shared<'_>>,
    from_client: bool,
    flags: u8,
    (sequence, acknowledgement, bytes): (u32, u32, usize),
    now: Tick,
) -> (State, Option<Reason>) {
    let (mut from, mut to) = (("10.0.0.1", 4000), ("10.0.0.2", 80));
    if !from_client {
        (from, to) = (to, from);
    }
    let segment = Tcp {
        source_port: from.1,
        destination_port: to.1,
        sequence,
        acknowledgement,
        flags,
        window: 60_000,
        options: Vec::new(),
        payload: vec![b'x'; bytes],
    };
    let address = |text: &str| text.parse().expect("an address");
    let packet = Packet::new(address(from.0), address(to.0), Body::Tcp(segment));
    let outcome = judge_packet(plane, &packet, now);
    (outcome.state, outcome.reason)
}

#[test]
fn an_answer_to_what_passed_unseen_is_not_refused() {
    const UNSEEN: Option<Reason> = Some(Reason::TcpAckOfUnseenData);
    on_a_table(|plane, is_contended| {
        segment(plane, true, SYN, (1000, 0, 0), NOW);
        segment(plane, false, SYN | ACK, (5000, 1001, 0), NOW);
        segment(plane, true, ACK, (1001, 5001, 0), NOW);
        let established = (State::Established, None);
        // A forger's guess, while nothing has passed unseen.
        let guess = segment(plane, false, ACK, (5001, 1101, 0), NOW);
        assert_eq!(guess, (State::Invalid, UNSEEN));
        // The request passes while the record is locked, or keeps changing.
        for (at, is_locked) in [(1001, true), (1201, false)] {
            set_locked(plane, is_locked);
            is_contended.set(!is_locked);
            let request = segment(plane, true, ACK, (at, 5001, 200), NOW);
            assert_eq!(request, established);
            set_locked(plane, false);
            is_contended.set(false);
            let answer = segment(plane, false, ACK, (5001, at + 200, 0), NOW);
            assert_eq!(answer, established);
            // What was learned is held against the next ones.
            let guess = segment(plane, false, ACK, (5001, at + 900, 0), AFTERWARDS);
            assert_eq!(guess, (State::Invalid, UNSEEN));
        }
        assert_eq!(gauge(plane, gauges::BUSY), 2);
        let more = segment(plane, true, ACK, (1401, 5001, 200), AFTERWARDS);
        assert_eq!(more, established);
        let answer = segment(plane, false, ACK, (5001, 1601, 200), AFTERWARDS);
        assert_eq!(answer, established);
    });
}
