//! What settings do to flows: timeouts, their policies, accounting, and what is told of INVALID
//! packets.

use std::cell::RefCell;
use std::net::{IpAddr, Ipv4Addr};

use keepstate_engine::event::{Event, EventKind};
use keepstate_engine::host::{FlowMemory, Words};
use keepstate_engine::process::{Arrival, Checksums, Outcome, Path};
use keepstate_engine::record::{ASSIGNED, CONTROL_WORD};
use keepstate_engine::settings::{
    LOG_INVALID_ALL, SETTING_ACCOUNTING, SETTING_ACCOUNTING_ENDS, SETTING_DROP_EVENTS, Settings,
    Timeout, TimeoutPolicy,
};
use keepstate_engine::table::{self, Entry};
use keepstate_engine::time::Tick;
use keepstate_engine::tuple::Family;
use keepstate_engine::verdict::{Reason, State};
use keepstate_engine::wire::Link;
use keepstate_flowmemory::{Accounting, OwnedTable, SliceTable, buckets_for};
use keepstate_sim::build::{ACK, Body, PSH, Packet, RST, SYN, Tcp, Udp};
use keepstate_sim::plane::{LoadedPolicy, Observer, Plane};

const FLOWS_MAX: u32 = 100;
const BEGUN: Tick = Tick(1000);

/// Keeps events.
#[derive(Default)]
struct Events(RefCell<Vec<Event>>);

impl Observer for Events {
    fn event(&self, event: &Event) {
        self.0.borrow_mut().push(*event);
    }
}

struct Host<'a>(Plane<SliceTable<'a>, Events>);

#[derive(Clone, Copy)]
enum End {
    Client,
    Server,
}

fn with_host(test: impl FnOnce(&mut Host<'_>)) {
    let buckets = [buckets_for(FLOWS_MAX); 2];
    let table = OwnedTable::new(buckets, Accounting::Yes);
    let settings = Settings::defaults(FLOWS_MAX, buckets);
    let plane = Plane::new(
        table.as_slices(),
        settings,
        LoadedPolicy::NONE,
        Events::default(),
    );
    test(&mut Host(plane));
}

impl Host<'_> {
    fn send(&self, end: End, body: Body, now: Tick) -> Outcome {
        let [client, server] = [1, 2].map(|last| IpAddr::V4(Ipv4Addr::new(10, 0, 0, last)));
        let (source, destination) = match end {
            End::Client => (client, server),
            End::Server => (server, client),
        };
        let packet = Packet::new(source, destination, body).ip();
        let arrival = Arrival {
            link: Link::Ipv4,
            path: Path::Ingress,
            checksums: Checksums::Unverified,
            zone: 0,
            interfaces: 0,
        };
        self.0.judge(&packet, &arrival, now)
    }

    fn tcp(&self, end: End, flags: u8, numbers: (u32, u32), payload: usize, now: Tick) -> Outcome {
        let (source_port, destination_port) = ports(end);
        let segment = Tcp {
            source_port,
            destination_port,
            sequence: numbers.0,
            acknowledgement: numbers.1,
            flags,
            window: 1000,
            payload: vec![0; payload],
            ..Tcp::default()
        };
        self.send(end, Body::Tcp(segment), now)
    }

    /// An established connection whose client is at 101 and whose server at 501.
    fn establish(&self, now: Tick) {
        self.tcp(End::Client, SYN, (100, 0), 0, now);
        self.tcp(End::Server, SYN | ACK, (500, 101), 0, now);
        let outcome = self.tcp(End::Client, ACK, (101, 501), 0, now);
        assert_eq!(outcome.state, State::Established);
    }

    fn udp(&self, end: End, now: Tick) -> Outcome {
        let (source_port, destination_port) = ports(end);
        let datagram = Udp {
            source_port,
            destination_port,
            ..Udp::default()
        };
        self.send(end, Body::Udp(datagram), now)
    }

    /// The one flow there is.
    fn flow(&self, now: Tick) -> Entry {
        let [buckets, _] = self.0.settings.buckets;
        let mut flows = Vec::new();
        table::visit(&self.0.flows, Family::V4, 0..buckets, now, |entry| {
            flows.push(*entry);
        });
        let [flow] = flows[..] else {
            panic!("{} flows", flows.len());
        };
        flow
    }

    fn seconds_left(&self, now: Tick) -> u32 {
        self.flow(now).record.deadline.seconds_left(now)
    }

    /// Gives the one flow a timeout policy, as a rule would.
    fn assign(&self, policy: TimeoutPolicy, now: Tick) {
        const STATUS_SHIFT: u32 = 11;
        let place = self.flow(now).place;
        let memory = &self.0.flows;
        let slot = memory.slot(place.family, place.bucket, place.slot).unwrap();
        let warm = memory.warm(place.family, place.bucket, place.slot).unwrap();
        slot.store(
            CONTROL_WORD,
            slot.load(CONTROL_WORD) | u64::from(ASSIGNED) << STATUS_SHIFT,
        );
        warm.store(1, warm.load(1) & !0xff00 | u64::from(policy.0) << 8);
    }

    fn events(&self) -> Vec<Event> {
        self.0.observer.0.take()
    }
}

const fn ports(end: End) -> (u16, u16) {
    match end {
        End::Client => (4000, 80),
        End::Server => (80, 4000),
    }
}

#[test]
fn a_new_timeout_counts_from_the_next_packet_on() {
    with_host(|host| {
        host.establish(BEGUN);
        host.0.settings.timeouts[Timeout::TcpEstablished as usize] = 50;
        assert_eq!(host.seconds_left(BEGUN), 432_000);
        host.tcp(End::Client, ACK, (101, 501), 0, BEGUN);
        assert_eq!(host.seconds_left(BEGUN), 50);
        // On a clock that is none, to the sixteenth of a second.
        let last = Tick(BEGUN.after_seconds(50).0 - 1);
        assert_eq!(host.seconds_left(last), 0);
        let late = host.tcp(End::Client, ACK, (101, 501), 0, BEGUN.after_seconds(50));
        assert_eq!(late.state, State::New);
    });
}

#[test]
fn every_timeout_of_a_policy_counts_for_its_flows_alone() {
    const POLICY: TimeoutPolicy = TimeoutPolicy(2);
    with_host(|host| {
        let own = &mut host.0.settings.policies[1];
        own[Timeout::TcpEstablished as usize] = 50;
        own[Timeout::TcpUnacknowledged as usize] = 20;
        own[Timeout::TcpClose as usize] = 3;
        host.establish(BEGUN);
        host.assign(POLICY, BEGUN);
        // Neither an acknowledgement, which would go the short way, nor data is left to the sysctls.
        host.tcp(End::Client, ACK, (101, 501), 0, BEGUN);
        assert_eq!(host.seconds_left(BEGUN), 50);
        host.tcp(End::Client, ACK | PSH, (101, 501), 10, BEGUN);
        assert_eq!(host.seconds_left(BEGUN), 20);
        host.tcp(End::Server, ACK, (501, 111), 0, BEGUN);
        assert_eq!(host.seconds_left(BEGUN), 50);
        host.tcp(End::Client, RST, (111, 501), 0, BEGUN);
        assert_eq!(host.seconds_left(BEGUN), 3);
    });
    // A policy that is not there, or says nothing, is none.
    for number in [0, 2, 16, 17, 255] {
        with_host(|host| {
            host.establish(BEGUN);
            host.assign(TimeoutPolicy(number), BEGUN);
            host.tcp(End::Client, ACK, (101, 501), 0, BEGUN);
            assert_eq!(host.seconds_left(BEGUN), 432_000, "{number}");
        });
    }
}

#[test]
fn datagrams_have_policies_too() {
    with_host(|host| {
        let own = &mut host.0.settings.policies[0];
        own[Timeout::Udp as usize] = 7;
        own[Timeout::UdpStream as usize] = 70;
        host.udp(End::Client, BEGUN);
        assert_eq!(host.seconds_left(BEGUN), 30);
        host.assign(TimeoutPolicy(1), BEGUN);
        host.udp(End::Server, BEGUN);
        assert_eq!(host.seconds_left(BEGUN), 7);
        let later = BEGUN.after_seconds(5);
        host.udp(End::Client, later);
        assert_eq!(host.seconds_left(later), 70);
        // What was assigned stays with the flow, and a change of the policy reaches it.
        host.0.settings.policies[0][Timeout::UdpStream as usize] = 71;
        host.udp(End::Server, later);
        assert_eq!(host.seconds_left(later), 71);
    });
}

#[test]
fn a_flow_keeps_the_counters_it_began_with() {
    with_host(|host| {
        host.udp(End::Client, BEGUN);
        assert_eq!(host.flow(BEGUN).counters(), None);
        host.0.settings.flags |= SETTING_ACCOUNTING;
        host.udp(End::Client, BEGUN);
        assert_eq!(host.flow(BEGUN).counters(), None);
    });
    with_host(|host| {
        host.0.settings.flags |= SETTING_ACCOUNTING;
        host.udp(End::Client, BEGUN);
        host.udp(End::Server, BEGUN);
        assert_eq!(host.flow(BEGUN).counters(), Some([1, 28, 1, 28]));
        host.0.settings.flags |= SETTING_ACCOUNTING_ENDS;
        host.udp(End::Server, BEGUN);
        assert_eq!(host.flow(BEGUN).counters(), Some([1, 28, 2, 56]));
        // The next in its place gets none.
        let later = BEGUN.after_seconds(100);
        host.udp(End::Client, later);
        assert_eq!(host.flow(later).counters(), None);
    });
}

#[test]
fn invalid_packets_are_told_by_protocol_with_their_arithmetic() {
    with_host(|host| {
        host.establish(BEGUN);
        let beyond = |host: &Host<'_>| {
            let outcome = host.tcp(End::Client, ACK, (5000, 501), 30, BEGUN);
            assert_eq!(outcome.reason, Some(Reason::TcpSequenceOverWindow));
        };
        for (protocol, told) in [(0, 0), (17, 0), (6, 1), (LOG_INVALID_ALL, 1)] {
            host.0.settings.log_invalid = protocol;
            beyond(host);
            assert_eq!(host.events().len(), told, "{protocol}");
        }
        beyond(host);
        let [event] = host.events()[..] else {
            panic!("one packet, one event");
        };
        assert_eq!(event.kind, EventKind::Drop as u8);
        assert_eq!(event.state, State::Invalid as u8);
        // The client may go to what the server has acknowledged and its window of 1000, and must
        // not stay further behind than that.
        assert_eq!(event.detail, [5000, 5030, 101_u32.wrapping_sub(1000), 1101]);
        assert_eq!(event.control, 501 << 32 | 501);

        let unseen = host.tcp(End::Server, ACK, (501, 900), 0, BEGUN);
        assert_eq!(unseen.reason, Some(Reason::TcpAckOfUnseenData));
        let [event] = host.events()[..] else {
            panic!("one packet, one event");
        };
        assert_eq!(event.detail[..2], [501, 501]);
        assert_eq!(event.control, 900 << 32 | 101);

        // A RST before what the server has acknowledged.
        let reset = host.tcp(End::Client, RST, (90, 0), 0, BEGUN);
        assert_eq!(reset.reason, Some(Reason::TcpBadReset));
        let [event] = host.events()[..] else {
            panic!("one packet, one event");
        };
        assert_eq!((event.detail[0], event.detail[2]), (90, 101));

        // Others are told without numbers, and those that are not INVALID not at all.
        host.0.settings.flags |= SETTING_DROP_EVENTS;
        let odd = host.tcp(End::Client, SYN | RST, (101, 501), 0, BEGUN);
        assert_eq!(odd.reason, Some(Reason::TcpBadFlags));
        let events = host.events();
        assert!(events.len() == 1 && events[0].detail == [0; 4] && events[0].control == 0);
        host.tcp(End::Client, ACK, (101, 501), 0, BEGUN);
        assert!(host.events().is_empty());
    });
}
