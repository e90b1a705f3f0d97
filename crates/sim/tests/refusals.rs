//! Limits of networks and forms of packets, asked before the rules.

use std::net::IpAddr;

use keepstate_engine::ban::{self, Entry, Kind, Network, Put};
use keepstate_engine::process::{Arrival, Checksums, Path};
use keepstate_engine::rate::{RATE_UDP, Rate};
use keepstate_engine::refusal::{FORM_V4, Form, form_range};
use keepstate_engine::settings::{SETTING_BANS, SETTING_FORMS};
use keepstate_engine::time::Tick;
use keepstate_engine::tuple::Family;
use keepstate_engine::verdict::{Reason, Verdict};
use keepstate_engine::wire::Link;
use keepstate_flowmemory::{OwnedTable, SliceTable};
use keepstate_sim::build::{ACK, Body, Packet, SYN, Tcp, Udp};
use keepstate_sim::plane::{LoadedPolicy, Plane};
use keepstate_sim::replay::Options;

const BUCKETS: u32 = 64;
const HOST: &str = "10.0.0.1";

fn table() -> OwnedTable {
    Options::table(&Options::default().settings()).with_bans(BUCKETS)
}

fn plane(table: &OwnedTable) -> Plane<SliceTable<'_>, ()> {
    let mut settings = Options::default().settings();
    settings.bans.buckets = BUCKETS;
    settings.flags |= SETTING_BANS;
    for kind in [Kind::Ban, Kind::Exempt, Kind::Spared] {
        settings.bans.lengths[ban::list(kind, Family::V4)][..2].copy_from_slice(&[24, 32]);
    }
    Plane::new(table.as_slices(), settings, LoadedPolicy::NONE, ())
}

fn put(plane: &Plane<SliceTable<'_>, ()>, kind: Kind, length: u8, rate: Option<Rate>) -> Put {
    let address = [0x0a00_0009 & u32::MAX << (32 - length), 0, 0, 0];
    let entry = Entry {
        network: Network {
            family: Family::V4,
            address,
            length,
        },
        kind,
        rate,
        deadline: None,
        began: Tick(0),
        cause: 0,
    };
    ban::put(&plane.flows, &plane.settings, &entry)
}

fn judge(
    plane: &Plane<SliceTable<'_>, ()>,
    packet: &Packet,
    path: Path,
    now: Tick,
) -> Option<Reason> {
    let arrival = Arrival {
        link: Link::Ipv4,
        path,
        checksums: Checksums::Unverified,
        zone: 0,
        interfaces: 0,
    };
    let outcome = plane.judge(&packet.ip(), &arrival, now);
    assert_eq!(
        outcome.verdict == Verdict::Drop,
        outcome.reason.is_some(),
        "{outcome:?}"
    );
    outcome.reason
}

fn ends(source: &str, destination: &str) -> [IpAddr; 2] {
    [source, destination].map(|address| address.parse().expect("an address"))
}

fn segment(source: &str, ports: [u16; 2], flags: u8) -> Packet {
    let [source, destination] = ends(source, HOST);
    let body = Tcp {
        source_port: ports[0],
        destination_port: ports[1],
        sequence: 1,
        acknowledgement: u32::from(flags & ACK != 0),
        flags,
        window: 500,
        ..Tcp::default()
    };
    Packet::new(source, destination, Body::Tcp(body))
}

fn datagram(from: &str, to: &str, ports: [u16; 2]) -> Packet {
    let [source, destination] = ends(from, to);
    let body = Udp {
        source_port: ports[0],
        destination_port: ports[1],
        payload: vec![0; 8],
    };
    Packet::new(source, destination, Body::Udp(body))
}

#[test]
fn a_network_begins_as_many_flows_as_it_may() {
    let table = table();
    let plane = plane(&table);
    let rate = Rate::per_second(5);
    assert_eq!(put(&plane, Kind::Ban, 24, Some(rate)), Put::New);
    let begun = |second: u32, from: u16| {
        let now = Tick(1600 + second * 16);
        let tries = (0..20).map(|port| {
            // One after the other by SYNs, datagrams, and segments that no flow knows.
            let source = format!("10.0.0.{}", 3 + port % 7);
            let ports = [from + port, 80];
            let packet = match port % 3 {
                0 => segment(&source, ports, SYN),
                1 => datagram(&source, HOST, ports),
                _ => segment(&source, ports, ACK),
            };
            judge(&plane, &packet, Path::Ingress, now)
        });
        let refused = tries.filter(|reason| *reason == Some(Reason::Limited));
        20 - refused.count()
    };
    assert_eq!(begun(0, 1000), 5);
    assert_eq!(begun(0, 2000), 0);
    assert_eq!(begun(1, 3000), 5);
    // Whoever is never banned is not limited.
    put(&plane, Kind::Exempt, 24, None);
    assert_eq!(begun(1, 4000), 20);
    ban::remove(&plane.flows, &plane.settings, &network(24), Kind::Exempt);
    // The longer prefix counts, and a ban for more than any limit.
    put(&plane, Kind::Ban, 32, Some(Rate::per_second(1000)));
    let of_nine = segment("10.0.0.9", [9, 9], SYN);
    assert_eq!(judge(&plane, &of_nine, Path::Ingress, Tick(1616)), None);
    put(&plane, Kind::Ban, 32, None);
    assert_eq!(put(&plane, Kind::Ban, 32, Some(rate)), Put::Outranked);
    let now = Tick(1700);
    assert_eq!(
        judge(&plane, &of_nine, Path::Ingress, now),
        Some(Reason::Banned)
    );
}

fn network(length: u8) -> Network {
    Network {
        family: Family::V4,
        address: [0x0a00_0000, 0, 0, 0],
        length,
    }
}

#[test]
fn what_is_established_is_not_counted() {
    let table = table();
    let plane = plane(&table);
    put(&plane, Kind::Ban, 24, Some(Rate::per_second(1)));
    let now = Tick(1600);
    let there = datagram("10.0.0.9", HOST, [500, 53]);
    let back = datagram(HOST, "10.0.0.9", [53, 500]);
    assert_eq!(judge(&plane, &there, Path::Ingress, now), None);
    assert_eq!(judge(&plane, &back, Path::Local, now), None);
    for _ in 0..50 {
        assert_eq!(judge(&plane, &there, Path::Ingress, now), None);
    }
    let other = datagram("10.0.0.9", HOST, [501, 53]);
    assert_eq!(
        judge(&plane, &other, Path::Ingress, now),
        Some(Reason::Limited)
    );
    // What is made of other things is not asked.
    let only = Rate {
        kinds: RATE_UDP,
        ..Rate::per_second(1)
    };
    assert_eq!(put(&plane, Kind::Ban, 24, Some(only)), Put::Changed);
    let syns = (0..50).map(|port| segment("10.0.0.9", [900 + port, 80], SYN));
    for syn in syns {
        assert_eq!(judge(&plane, &syn, Path::Ingress, now), None);
    }
}

#[test]
fn forms_are_of_packets_that_belong_to_nothing() {
    let table = table();
    let mut plane = plane(&table);
    let now = Tick(1600);
    let known = datagram("10.0.0.9", HOST, [500, 53]);
    judge(&plane, &known, Path::Ingress, now);
    judge(
        &plane,
        &datagram(HOST, "10.0.0.9", [53, 500]),
        Path::Local,
        now,
    );
    plane.settings.flags |= SETTING_FORMS;
    plane.settings.forms[7] = Form {
        flags: FORM_V4,
        until: 1700,
        destination_ports: form_range(50, 60),
        ..Form::NONE
    };
    let ask = |packet: &Packet, now| judge(&plane, packet, Path::Ingress, now);
    assert_eq!(ask(&known, now), None);
    let refused = Some(Reason::FormRefused);
    assert_eq!(ask(&datagram("10.0.0.9", HOST, [501, 53]), now), refused);
    assert_eq!(ask(&datagram("10.0.0.9", HOST, [501, 61]), now), None);
    assert_eq!(ask(&segment("10.0.0.8", [1, 50], SYN), now), refused);
    assert_eq!(ask(&segment("10.0.0.8", [1, 50], ACK), now), refused);
    // Whoever is spared is not asked; whoever is never banned is.
    put(&plane, Kind::Exempt, 24, None);
    assert_eq!(ask(&segment("10.0.0.8", [2, 50], SYN), now), refused);
    put(&plane, Kind::Spared, 24, None);
    assert_eq!(ask(&segment("10.0.0.8", [2, 50], SYN), now), None);
    ban::remove(&plane.flows, &plane.settings, &network(24), Kind::Spared);
    // It ends by itself.
    assert_eq!(ask(&segment("10.0.0.8", [3, 50], SYN), Tick(1701)), None);
}

#[test]
fn a_form_names_the_network_that_packets_go_to() {
    let table = table();
    let mut plane = plane(&table);
    plane.settings.flags |= SETTING_FORMS;
    let refused = |plane: &Plane<SliceTable<'_>, ()>, to: &str, port: u16| {
        let packet = datagram("10.0.0.9", to, [port, 80]);
        judge(plane, &packet, Path::Ingress, Tick(1600)) == Some(Reason::FormRefused)
    };
    for (length, first, last) in [(32, "10.0.7.0", "10.0.7.0"), (24, "10.0.7.0", "10.0.7.255")] {
        plane.settings.forms[0] = Form {
            flags: FORM_V4,
            until: 1700,
            destination: [0x0a00_0700, 0, 0, 0],
            destination_mask: [u32::MAX << (32 - length), 0, 0, 0],
            ..Form::NONE
        };
        assert!(refused(&plane, first, 1000 + length) && refused(&plane, last, 2000 + length));
        let beside = if length == 32 { "10.0.7.1" } else { "10.0.8.0" };
        assert!(!refused(&plane, beside, 3000 + length));
        assert!(!refused(&plane, "10.0.6.255", 4000 + length));
    }
    let words = plane.settings.forms[0].words();
    assert_eq!(Form::of_words(words), plane.settings.forms[0]);
}
