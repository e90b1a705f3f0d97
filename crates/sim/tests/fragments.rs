//! Datagrams in fragments: what each is, and what is remembered of them.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::ops::Range;

use keepstate_engine::fragment::sweep;
use keepstate_engine::host::{FlowMemory, Words};
use keepstate_engine::limits::{FRAGMENT_BUCKETS, FRAGMENT_FIRSTS_MAX, FRAGMENT_RUNS_MAX};
use keepstate_engine::process::{Arrival, Checksums, Outcome, Path};
use keepstate_engine::settings::{SETTING_ACCOUNTING, Settings};
use keepstate_engine::table::{self, gauges};
use keepstate_engine::time::Tick;
use keepstate_engine::tuple::Family;
use keepstate_engine::verdict::{Reason, State, Verdict};
use keepstate_engine::wire::Link;
use keepstate_flowmemory::{Accounting, OwnedTable, SliceTable, buckets_for};
use keepstate_sim::build::{ACK, Body, Icmp, PSH, Packet, Rest, SYN, Tcp, Udp, fragment};
use keepstate_sim::plane::{LoadedPolicy, Plane};
use keepstate_sim::traffic::{Mood, Traffic};

const FLOWS_MAX: u32 = 64;
const NOW: Tick = Tick(1_000);

struct Bench<'a> {
    plane: Plane<SliceTable<'a>>,
    now: Tick,
}

fn memory() -> OwnedTable {
    OwnedTable::new([buckets_for(FLOWS_MAX); 2], Accounting::Yes)
}

impl<'a> Bench<'a> {
    fn new(memory: &'a OwnedTable) -> Self {
        let mut settings = Settings::defaults(FLOWS_MAX, [buckets_for(FLOWS_MAX); 2]);
        settings.flags |= SETTING_ACCOUNTING;
        for (number, key) in (1_u32..).zip(&mut settings.hash_keys) {
            *key = number.wrapping_mul(0x9e37_79b9);
        }
        let plane = Plane::new(memory.as_slices(), settings, LoadedPolicy::NONE, ());
        Self { plane, now: NOW }
    }

    fn judge(&self, ip: &[u8]) -> Outcome {
        let is_v4 = ip[0] >> 4 == 4;
        let arrival = Arrival {
            link: if is_v4 { Link::Ipv4 } else { Link::Ipv6 },
            path: Path::Ingress,
            checksums: Checksums::Unverified,
            zone: 0,
            interfaces: 0,
        };
        self.plane.judge(ip, &arrival, self.now)
    }

    /// Parts of a packet, `true` for the last one of the datagram.
    #[track_caller]
    fn parts(&self, ip: &[u8], id: u16, parts: &[(Range<usize>, Rest)]) -> Vec<Outcome> {
        let each = parts.iter().cloned();
        each.map(|(part, rest)| self.judge(&fragment(ip, id, part, rest)))
            .collect()
    }

    fn gauge(&self, gauge: u32) -> u64 {
        let words = self.plane.flows.gauges().expect("there are gauges");
        words.load(gauge)
    }

    /// Packets and bytes of the only flow, in its original direction.
    fn counted(&self, family: Family) -> (u64, u64) {
        let mut counted = Vec::new();
        let buckets = 0..buckets_for(FLOWS_MAX);
        table::visit(&self.plane.flows, family, buckets, self.now, |flow| {
            let counters = flow.accounting.expect("the table has counters");
            counted.push((counters[0], counters[1]));
        });
        let [counted] = counted[..] else {
            panic!("{} flows", counted.len());
        };
        counted
    }
}

fn ends(family: Family) -> [IpAddr; 2] {
    [1, 2].map(|last| match family {
        Family::V4 => Ipv4Addr::new(10, 0, 0, last).into(),
        Family::V6 => Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, last.into()).into(),
    })
}

fn datagram(family: Family, port: u16, length: usize) -> Vec<u8> {
    let [from, to] = ends(family);
    let udp = Udp {
        source_port: port,
        destination_port: 53,
        payload: (0..length).map(|at| at as u8).collect(),
    };
    Packet::new(from, to, Body::Udp(udp)).ip()
}

fn states(outcomes: &[Outcome]) -> Vec<State> {
    outcomes.iter().map(|outcome| outcome.state).collect()
}

fn reasons(outcomes: &[Outcome]) -> Vec<Option<Reason>> {
    outcomes.iter().map(|outcome| outcome.reason).collect()
}

/// A datagram of 150 bytes in three.
const THREE: [(Range<usize>, Rest); 3] = [
    (0..64, Rest::More),
    (64..128, Rest::More),
    (128..150, Rest::None),
];

#[test]
fn later_fragments_follow_and_count() {
    for family in [Family::V4, Family::V6] {
        let memory = memory();
        let bench = Bench::new(&memory);
        let ip = datagram(family, 1, 142);
        let outcomes = bench.parts(&ip, 7, &THREE);
        assert_eq!(states(&outcomes), [State::New; 3]);
        let flows: Vec<_> = outcomes.iter().map(|outcome| outcome.flow).collect();
        assert!(flows[0].is_some() && flows == [flows[0]; 3], "{flows:?}");
        let header = match family {
            Family::V4 => 20,
            Family::V6 => 48,
        };
        assert_eq!(bench.counted(family), (3, 150 + 3 * header));
        assert_eq!(bench.gauge(gauges::FRAGMENTS), 0, "it is complete");
    }
}

#[test]
fn an_answer_is_established() {
    let memory = memory();
    let bench = Bench::new(&memory);
    bench.judge(&datagram(Family::V4, 1, 1));
    let [from, to] = ends(Family::V4);
    let udp = Udp {
        source_port: 53,
        destination_port: 1,
        payload: vec![7; 142],
    };
    let answer = Packet::new(to, from, Body::Udp(udp)).ip();
    let outcomes = bench.parts(&answer, 7, &THREE);
    assert_eq!(states(&outcomes), [State::Established; 3]);
}

#[test]
fn what_comes_ahead_goes_by_the_last_datagram() {
    let memory = memory();
    let mut bench = Bench::new(&memory);
    let ip = datagram(Family::V4, 1, 142);
    let [first, middle, last] = THREE;
    let ahead = [last.clone(), middle, first];
    // Nothing is known: the rules see an INVALID packet, and the first one is judged all the same.
    let outcomes = bench.parts(&ip, 1, &ahead);
    assert_eq!(
        states(&outcomes),
        [State::Invalid, State::Invalid, State::New]
    );
    assert_eq!(outcomes[0].reason, Some(Reason::FragmentWithoutPorts));
    assert_eq!(outcomes[0].verdict, Verdict::Accept, "there are no rules");
    let outcomes = bench.parts(&ip, 2, &ahead);
    assert_eq!(states(&outcomes), [State::New; 3]);
    assert_eq!(bench.gauge(gauges::FRAGMENTS), 0);
    // An hour later nothing is known any more.
    bench.now = bench.now.after_seconds(3_600);
    let outcomes = bench.parts(&ip, 3, &[last]);
    assert_eq!(states(&outcomes), [State::Invalid]);
}

#[test]
fn overlapping_ones_end_the_datagram() {
    for family in [Family::V4, Family::V6] {
        let memory = memory();
        let bench = Bench::new(&memory);
        let ip = datagram(family, 1, 142);
        let [first, middle, last] = THREE;
        let outcomes = bench.parts(
            &ip,
            1,
            &[first.clone(), (56..128, Rest::More), middle, last],
        );
        let overlap = Some(Reason::FragmentOverlap);
        assert_eq!(reasons(&outcomes), [None, overlap, overlap, overlap]);
        let dropped = outcomes[1..].iter().all(|it| it.verdict == Verdict::Drop);
        assert!(dropped, "without any rule");
        // The next one with this identification begins anew.
        let outcomes = bench.parts(&ip, 1, &THREE);
        assert_eq!(states(&outcomes), [State::New; 3]);
    }
}

#[test]
fn repeated_ones_are_dropped_and_harmless() {
    let memory = memory();
    let bench = Bench::new(&memory);
    let ip = datagram(Family::V4, 1, 142);
    let [first, middle, last] = THREE;
    let twice = [first.clone(), first, middle, (72..88, Rest::More), last];
    let outcomes = bench.parts(&ip, 1, &twice);
    assert_eq!(states(&outcomes), [State::New; 5]);
    let again = Some(Reason::FragmentDuplicate);
    assert_eq!(reasons(&outcomes), [None, again, None, again, None]);
    assert_eq!(outcomes[1].verdict, Verdict::Drop);
}

#[test]
fn what_no_host_sends_is_refused() {
    let memory = memory();
    let bench = Bench::new(&memory);
    let [from, to] = ends(Family::V4);
    let syn = Tcp {
        source_port: 9,
        destination_port: 22,
        flags: SYN,
        ..Tcp::default()
    };
    let tcp = Packet::new(from, to, Body::Tcp(syn)).ip();
    let udp = datagram(Family::V4, 1, 142);
    for (ip, part, reason) in [
        (&tcp, (0..8, Rest::More), Reason::FragmentTiny),
        (&tcp, (0..16, Rest::More), Reason::FragmentTiny),
        (&tcp, (8..20, Rest::None), Reason::FragmentOverHeader),
        (&udp, (0..60, Rest::More), Reason::FragmentBadLength),
        (&udp, (64..64, Rest::More), Reason::FragmentBadLength),
        (&udp, (65_528..65_540, Rest::None), Reason::FragmentTooLong),
    ] {
        let outcome = bench.parts(ip, 1, std::slice::from_ref(&part))[0];
        assert_eq!(outcome.reason, Some(reason), "{part:?}");
        assert_eq!(outcome.state, State::Invalid);
        assert_eq!(outcome.verdict, Verdict::Drop);
    }
    // Two ends.
    let outcomes = bench.parts(&udp, 2, &[(0..64, Rest::More), (128..150, Rest::None)]);
    assert_eq!(states(&outcomes), [State::New; 2]);
    let outcomes = bench.parts(&udp, 2, &[(64..72, Rest::None)]);
    assert_eq!(outcomes[0].reason, Some(Reason::FragmentBadEnd));
}

#[test]
fn the_checksum_of_the_whole_is_verified_at_its_end() {
    for family in [Family::V4, Family::V6] {
        let [from, to] = ends(family);
        let segment = Tcp {
            source_port: 9,
            destination_port: 80,
            flags: SYN,
            payload: vec![3; 130],
            ..Tcp::default()
        };
        let echo = Icmp {
            kind: if family == Family::V4 { 8 } else { 128 },
            payload: vec![3; 142],
            ..Icmp::default()
        };
        let echo = match family {
            Family::V4 => Body::Icmp(echo),
            Family::V6 => Body::Icmpv6(echo),
        };
        let packets = [
            datagram(family, 1, 142),
            Packet::new(from, to, Body::Tcp(segment)).ip(),
            Packet::new(from, to, echo).ip(),
        ];
        for mut ip in packets {
            let memory = memory();
            let bench = Bench::new(&memory);
            let sound = bench.parts(&ip, 1, &THREE);
            assert_eq!(states(&sound), [State::New; 3]);
            let at = ip.len() - 60;
            ip[at] ^= 1;
            let faulty = bench.parts(&ip, 2, &THREE);
            assert_eq!(faulty[2].reason, Some(Reason::FragmentBadDatagram));
            assert_eq!(faulty[2].state, State::Invalid);
            // Whichever comes last.
            let [first, middle, last] = THREE;
            let faulty = bench.parts(&ip, 3, &[middle, last, first]);
            assert_eq!(faulty[2].reason, Some(Reason::FragmentBadDatagram));
        }
    }
}

#[test]
fn a_segment_in_fragments_may_be_acknowledged() {
    let [client, server] = ends(Family::V4);
    let segment = |from, to, ports: [u16; 2], numbers: [u32; 2], flags, length| {
        let tcp = Tcp {
            source_port: ports[0],
            destination_port: ports[1],
            sequence: numbers[0],
            acknowledgement: numbers[1],
            flags,
            window: 8_192,
            payload: vec![0; length],
            ..Tcp::default()
        };
        Packet::new(from, to, Body::Tcp(tcp)).ip()
    };
    let [first, middle, last] = THREE;
    for order in [
        [first.clone(), middle.clone(), last.clone()],
        [first.clone(), last.clone(), middle.clone()],
        [last, middle, first],
    ] {
        let memory = memory();
        let bench = Bench::new(&memory);
        let (out, back) = ([9, 80], [80, 9]);
        bench.judge(&segment(client, server, out, [100, 0], SYN, 0));
        bench.judge(&segment(server, client, back, [500, 101], SYN | ACK, 0));
        bench.judge(&segment(client, server, out, [101, 501], ACK, 0));
        let data = segment(client, server, out, [101, 501], PSH | ACK, 130);
        bench.parts(&data, 1, &order);
        let ack = bench.judge(&segment(server, client, back, [501, 231], ACK, 0));
        assert_eq!(ack.state, State::Established, "{order:?}: {:?}", ack.reason);
        // And no more than was sent.
        let ack = bench.judge(&segment(server, client, back, [501, 232], ACK, 0));
        assert_eq!(ack.reason, Some(Reason::TcpAckOfUnseenData));
    }
}

#[test]
fn a_sender_that_only_begins_is_stopped() {
    let memory = memory();
    let mut bench = Bench::new(&memory);
    let ip = datagram(Family::V4, 1, 142);
    let [first, middle, _] = THREE;
    let begun =
        |bench: &Bench<'_>, id| bench.parts(&ip, id, std::slice::from_ref(&first))[0].reason;
    for id in 0..FRAGMENT_FIRSTS_MAX as u16 {
        assert_eq!(begun(&bench, id), None);
    }
    assert_eq!(begun(&bench, 900), Some(Reason::FragmentFlood));
    // One that goes on, and the next may begin.
    bench.parts(&ip, 1, &[middle]);
    assert_eq!(begun(&bench, 901), None);
    for id in 902..902 + FRAGMENT_FIRSTS_MAX as u16 - 1 {
        assert_eq!(begun(&bench, id), None);
    }
    assert_eq!(begun(&bench, 950), Some(Reason::FragmentFlood));
    bench.now = bench.now.after_seconds(31);
    assert_eq!(begun(&bench, 951), None);
}

#[test]
fn gaps_are_remembered_up_to_a_bound() {
    let memory = memory();
    let bench = Bench::new(&memory);
    let ip = datagram(Family::V4, 1, 1_000);
    let part = |number: usize| (number * 16..number * 16 + 8, Rest::More);
    for number in 0..FRAGMENT_RUNS_MAX as usize {
        let outcome = bench.parts(&ip, 1, &[part(number)])[0];
        assert_eq!(outcome.state, State::New, "{number}: {:?}", outcome.reason);
    }
    let outcome = bench.parts(&ip, 1, &[part(FRAGMENT_RUNS_MAX as usize)])[0];
    assert_eq!(outcome.reason, Some(Reason::FragmentScattered));
    // Filling one makes room for another.
    let outcome = bench.parts(&ip, 1, &[(8..16, Rest::More)])[0];
    assert_eq!(outcome.state, State::New);
    let outcome = bench.parts(&ip, 1, &[part(FRAGMENT_RUNS_MAX as usize)])[0];
    assert_eq!(outcome.state, State::New);
}

#[test]
fn memory_is_bounded_and_swept() {
    let memory = memory();
    let mut bench = Bench::new(&memory);
    let [first, middle, last] = THREE;
    for sender in 0..9_000_u32 {
        let [_, to] = ends(Family::V4);
        let from = IpAddr::V4(Ipv4Addr::from(0x0b00_0000 + sender));
        let udp = Udp {
            source_port: 1,
            destination_port: 53,
            payload: vec![0; 142],
        };
        let ip = Packet::new(from, to, Body::Udp(udp)).ip();
        bench.parts(&ip, 1, std::slice::from_ref(&first));
        // What is ahead of its first one gives nobody's place away.
        bench.parts(&ip, 2, std::slice::from_ref(&middle));
    }
    let unfinished = bench.gauge(gauges::FRAGMENTS);
    assert_eq!(unfinished, u64::from(FRAGMENT_BUCKETS * 8));
    assert!(bench.gauge(gauges::FRAGMENTS_FULL) > 4_000);
    // The newest are there.
    let from = IpAddr::V4(Ipv4Addr::from(0x0b00_0000 + 8_999));
    let [_, to] = ends(Family::V4);
    let udp = Udp {
        source_port: 1,
        destination_port: 53,
        payload: vec![0; 142],
    };
    let ip = Packet::new(from, to, Body::Udp(udp)).ip();
    let outcomes = bench.parts(&ip, 1, &[middle, last]);
    assert!(outcomes.iter().all(|outcome| outcome.reason.is_none()));
    bench.now = bench.now.after_seconds(31);
    sweep(&bench.plane.flows, 0..FRAGMENT_BUCKETS, bench.now);
    assert_eq!(bench.gauge(gauges::FRAGMENTS), 0);
    assert_eq!(bench.gauge(gauges::FRAGMENTS_EXPIRED), unfinished - 1);
}

#[test]
fn a_bucket_that_stays_taken_drops_with_a_reason() {
    let memory = memory();
    let bench = Bench::new(&memory);
    let ip = datagram(Family::V4, 1, 142);
    let flows = &bench.plane.flows;
    let locks = (0..FRAGMENT_BUCKETS).filter_map(|bucket| flows.fragment_bucket(bucket));
    locks.for_each(|words| words.store(0, 1));
    let outcomes = bench.parts(&ip, 1, &THREE);
    assert_eq!(reasons(&outcomes), [Some(Reason::FragmentBusy); 3]);
}

#[test]
fn many_cpus_leave_nothing_behind() {
    let memory = memory();
    let threads = 4;
    let latest = std::thread::scope(|scope| {
        let started: Vec<_> = (0..threads)
            .map(|_| {
                scope.spawn(|| {
                    let mut bench = Bench::new(&memory);
                    // The same packets for all, so that they meet.
                    for packet in Traffic::new(5, Mood::Fragmented).take(20_000) {
                        bench.now = Tick::from_nanoseconds(packet.time_ns);
                        bench.judge(&packet.ip);
                    }
                    bench.now
                })
            })
            .collect();
        let ended = started.into_iter().map(|thread| thread.join());
        ended.map(|now| now.expect("no panic")).last()
    });
    let bench = Bench::new(&memory);
    let later = latest.expect("threads ran").after_seconds(61);
    sweep(&bench.plane.flows, 0..FRAGMENT_BUCKETS, later);
    assert_eq!(bench.gauge(gauges::FRAGMENTS), 0);
    for bucket in 0..FRAGMENT_BUCKETS {
        let words = bench.plane.flows.fragment_bucket(bucket);
        assert_eq!(words.expect("the bucket is there").load(0), 0, "left taken");
    }
}

#[test]
fn sysctls_say_how_long_and_how_many() {
    let memory = memory();
    let mut bench = Bench::new(&memory);
    bench.plane.settings.fragments[0].seconds = 3;
    bench.plane.settings.fragments[0].high_bytes = 2 * 1024 + 5;
    let ip = datagram(Family::V4, 53, 100);
    let begin = |bench: &Bench<'_>, id| bench.parts(&ip, id, &[(0..64, Rest::More)])[0].reason;
    let end = |bench: &Bench<'_>, id| bench.parts(&ip, id, &[(64..108, Rest::None)])[0].reason;
    assert_eq!(begin(&bench, 1), None);
    assert_eq!(begin(&bench, 2), None);
    assert_eq!(begin(&bench, 3), Some(Reason::FragmentTableFull));
    assert_eq!(end(&bench, 1), None);
    assert_eq!(begin(&bench, 3), None, "one is whole");
    bench.now = bench.now.after_seconds(4);
    assert_ne!(end(&bench, 2), None, "it was forgotten");
}
