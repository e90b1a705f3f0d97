//! Zones: flows of one name in several, told apart by rules of the table raw, and all that belongs to a
//! flow staying in its zone.

use std::net::IpAddr;

use keepstate_engine::expect;
use keepstate_engine::process::{Arrival, Checksums, Outcome, Path};
use keepstate_engine::settings::{SETTING_ACCOUNTING, Settings};
use keepstate_engine::table;
use keepstate_engine::time::Tick;
use keepstate_engine::tuple::Family;
use keepstate_engine::verdict::State;
use keepstate_engine::wire::Link;
use keepstate_flowmemory::{Accounting, OwnedTable, SliceTable, buckets_for};
use keepstate_policy::{FileKind, Policy, compile, parse_rules};
use keepstate_sim::build::{ACK, Body, Icmp, PSH, Packet, Rest, SYN, Tcp, Udp, fragment};
use keepstate_sim::plane::{LoadedPolicy, Plane};

const FLOWS_MAX: u32 = 64;
const NOW: Tick = Tick(1_000);

const RULES: &str = "*raw
-A PREROUTING -i in1 -p tcp --dport 21 -j CT --zone 1 --helper ftp
-A PREROUTING -i in1 -j CT --zone 1
-A PREROUTING -i in2 -j CT --zone 2
COMMIT
";

const CLIENT: &str = "10.0.0.2";
const SERVER: &str = "10.0.0.1";

struct World<'t> {
    plane: Plane<SliceTable<'t>>,
}

impl<'t> World<'t> {
    fn new(memory: &'t OwnedTable) -> Self {
        let parsed = parse_rules(RULES, FileKind::Save(Family::V4));
        assert!(!parsed.has_errors(), "{:?}", parsed.diagnostics);
        let mut policy = Policy::default();
        policy.merge(parsed);
        let compiled = compile(&policy).expect("the rules compile");
        assert_eq!(
            compiled.interface_patterns.len(),
            2,
            "a bit for each, in order"
        );
        let policy = LoadedPolicy {
            header: compiled.header,
            rules: compiled.rules,
            conditions: compiled.conditions,
            index: compiled.index,
            names: Vec::new(),
        };
        let mut settings = settings();
        settings.flags |= SETTING_ACCOUNTING;
        Self {
            plane: Plane::new(memory.as_slices(), settings, policy, ()),
        }
    }

    /// By interface `in1`, `in2`, or another (0).
    fn send(&self, interface: u64, ip: &[u8]) -> Outcome {
        let arrival = Arrival {
            link: Link::Ipv4,
            path: Path::Ingress,
            checksums: Checksums::Trusted,
            zone: 0,
            interfaces: interface,
        };
        self.plane.judge(ip, &arrival, NOW)
    }

    /// Zones, and packets of both directions, of all flows, in order.
    fn flows(&self) -> Vec<(u16, u64, u64)> {
        let mut flows = Vec::new();
        let buckets = 0..buckets_for(FLOWS_MAX);
        table::visit(&self.plane.flows, Family::V4, buckets, NOW, |flow| {
            let counters = flow.accounting.expect("the table has counters");
            flows.push((flow.key.zone(), counters[0], counters[2]));
        });
        flows.sort_unstable();
        flows
    }
}

fn settings() -> Settings {
    Settings::defaults(FLOWS_MAX, [buckets_for(FLOWS_MAX); 2])
}

fn memory() -> OwnedTable {
    OwnedTable::new(settings().buckets, Accounting::Yes).with_helpers()
}

fn address(text: &str) -> IpAddr {
    text.parse().expect("an address")
}

fn datagram(from: (&str, u16), to: (&str, u16), length: usize) -> Packet {
    let body = Body::Udp(Udp {
        source_port: from.1,
        destination_port: to.1,
        payload: vec![1; length],
    });
    Packet::new(address(from.0), address(to.0), body)
}

fn segment(from_client: bool, flags: u8, numbers: [u32; 2], text: &str) -> Vec<u8> {
    let ends = [(CLIENT, 4000), (SERVER, 21)];
    let [from, to] = if from_client {
        ends
    } else {
        [ends[1], ends[0]]
    };
    let body = Body::Tcp(Tcp {
        source_port: from.1,
        destination_port: to.1,
        sequence: numbers[0],
        acknowledgement: numbers[1],
        flags,
        window: 65_535,
        options: Vec::new(),
        payload: text.as_bytes().to_vec(),
    });
    Packet::new(address(from.0), address(to.0), body).ip()
}

#[test]
fn the_same_packets_in_two_zones_are_two_flows() {
    let memory = memory();
    let world = World::new(&memory);
    let request = datagram((CLIENT, 4000), (SERVER, 53), 8).ip();
    let answer = datagram((SERVER, 53), (CLIENT, 4000), 8).ip();
    for interface in [1, 2, 0] {
        assert_eq!(world.send(interface, &request).state, State::New);
    }
    assert_eq!(world.flows(), [(0, 1, 0), (1, 1, 0), (2, 1, 0)]);
    assert_eq!(world.send(1, &answer).state, State::Established);
    assert_eq!(world.send(1, &request).state, State::Established);
    assert_eq!(world.send(2, &request).state, State::New);
    assert_eq!(world.flows(), [(0, 1, 0), (1, 2, 1), (2, 2, 0)]);
}

#[test]
fn the_short_way_does_not_leave_the_zone() {
    let memory = memory();
    let world = World::new(&memory);
    let request = datagram((CLIENT, 4000), (SERVER, 53), 8).ip();
    let answer = datagram((SERVER, 53), (CLIENT, 4000), 8).ip();
    // A flow of zone 0 that goes the short way.
    for _ in 0..4 {
        world.send(0, &request);
        world.send(0, &answer);
    }
    assert_eq!(world.send(0, &request).state, State::Established);
    assert_eq!(world.send(1, &request).state, State::New);
    assert_eq!(world.flows(), [(0, 5, 4), (1, 1, 0)]);
}

#[test]
fn errors_belong_to_flows_of_their_zone() {
    let memory = memory();
    let world = World::new(&memory);
    let request = datagram((CLIENT, 4000), (SERVER, 53), 8).ip();
    assert_eq!(world.send(1, &request).state, State::New);
    let error = Icmp {
        kind: 3,
        code: 3,
        rest: [0; 4],
        payload: request,
    };
    let error = Packet::new(address(SERVER), address(CLIENT), Body::Icmp(error)).ip();
    assert_eq!(world.send(1, &error).state, State::Related);
    assert_eq!(world.send(2, &error).state, State::Invalid);
    assert_eq!(world.send(0, &error).state, State::Invalid);
}

#[test]
fn later_fragments_count_to_the_flow_of_the_first() {
    let memory = memory();
    let world = World::new(&memory);
    let ip = datagram((CLIENT, 4000), (SERVER, 53), 100).ip();
    let first = fragment(&ip, 7, 0..64, Rest::More);
    let last = fragment(&ip, 7, 64..108, Rest::None);
    assert_eq!(world.send(2, &first).state, State::New);
    let outcome = world.send(2, &last);
    assert_eq!((outcome.state, outcome.reason), (State::New, None));
    assert_eq!(world.flows(), [(2, 2, 0)]);
}

#[test]
fn expectations_stay_in_their_zone() {
    let memory = memory();
    let world = World::new(&memory);
    for (from_client, flags, numbers, text) in [
        (true, SYN, [100, 0], ""),
        (false, SYN | ACK, [500, 101], ""),
        (true, ACK, [101, 501], ""),
        (false, PSH | ACK, [501, 101], "220 hello\r\n"),
        (true, PSH | ACK, [101, 512], "USER x\r\n"),
        (true, PSH | ACK, [109, 512], "PORT 10,0,0,2,195,100\r\n"),
    ] {
        let outcome = world.send(1, &segment(from_client, flags, numbers, text));
        assert_ne!(outcome.state, State::Invalid);
    }
    let mut zones = Vec::new();
    expect::visit(&[world.plane.flows], NOW, |_, expected| {
        zones.push(expected.zone)
    });
    assert_eq!(zones, [1]);
    let body = Body::Tcp(Tcp {
        source_port: 20,
        destination_port: 50_020,
        sequence: 1,
        acknowledgement: 0,
        flags: SYN,
        window: 65_535,
        options: Vec::new(),
        payload: Vec::new(),
    });
    let data = Packet::new(address(SERVER), address(CLIENT), body).ip();
    assert_eq!(world.send(2, &data).state, State::New);
    assert_eq!(world.send(0, &data).state, State::New);
    assert_eq!(world.send(1, &data).state, State::Related);
}
