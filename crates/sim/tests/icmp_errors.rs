//! ICMP errors about TCP connections: who has not seen the connection cannot name its numbers.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use keepstate_engine::process::{Arrival, Checksums, Outcome, Path};
use keepstate_engine::settings::{SETTING_TCP_BE_LIBERAL, Settings};
use keepstate_engine::time::Tick;
use keepstate_engine::verdict::{Reason, State};
use keepstate_engine::wire::Link;
use keepstate_flowmemory::{Accounting, OwnedTable, SliceTable, buckets_for};
use keepstate_sim::build::{ACK, Body, Icmp, PSH, Packet, SYN, Tcp};
use keepstate_sim::plane::{LoadedPolicy, Plane};

const FLOWS_MAX: u32 = 8;
const NOW: Tick = Tick(1_000);
/// What the client has sent is 101 up to this.
const END: u32 = 601;

fn ends(is_v4: bool) -> [IpAddr; 3] {
    [1, 2, 3].map(|last| {
        if is_v4 {
            Ipv4Addr::new(10, 0, 0, last).into()
        } else {
            Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, last.into()).into()
        }
    })
}

/// A segment of the client, or of the server.
fn segment(is_v4: bool, by_client: bool, numbers: [u32; 2], flags: u8, length: usize) -> Vec<u8> {
    let [client, server, _] = ends(is_v4);
    let (from, to, source_port, destination_port) = if by_client {
        (client, server, 1_000, 80)
    } else {
        (server, client, 80, 1_000)
    };
    let tcp = Tcp {
        source_port,
        destination_port,
        sequence: numbers[0],
        acknowledgement: numbers[1],
        flags,
        window: 8_192,
        payload: vec![0; length],
        ..Tcp::default()
    };
    Packet::new(from, to, Body::Tcp(tcp)).ip()
}

fn judge(plane: &Plane<SliceTable<'_>>, ip: &[u8]) -> Outcome {
    let is_v4 = ip[0] >> 4 == 4;
    let arrival = Arrival {
        link: if is_v4 { Link::Ipv4 } else { Link::Ipv6 },
        path: Path::Ingress,
        checksums: Checksums::Unverified,
        zone: 0,
        interfaces: 0,
    };
    plane.judge(ip, &arrival, NOW)
}

/// What becomes of a router's error about a segment of the client's, of which so much is quoted.
fn error(flags: u32, is_v4: bool, sequence: u32, quoted_bytes: usize) -> Outcome {
    let memory = OwnedTable::new([buckets_for(FLOWS_MAX); 2], Accounting::No);
    let mut settings = Settings::defaults(FLOWS_MAX, [buckets_for(FLOWS_MAX); 2]);
    settings.flags |= flags;
    let plane = Plane::new(memory.as_slices(), settings, LoadedPolicy::NONE, ());
    for (by_client, numbers, flags, length) in [
        (true, [100, 0], SYN, 0),
        (false, [500, 101], SYN | ACK, 0),
        (true, [101, 501], PSH | ACK, 500),
    ] {
        let outcome = judge(&plane, &segment(is_v4, by_client, numbers, flags, length));
        assert_eq!(outcome.reason, None);
    }
    let [client, _, router] = ends(is_v4);
    let header = if is_v4 { 20 } else { 40 };
    let mut quoted = segment(is_v4, true, [sequence, 501], ACK, 100);
    quoted.truncate(header + quoted_bytes);
    let message = Icmp {
        kind: if is_v4 { 3 } else { 1 },
        code: 1,
        payload: quoted,
        ..Icmp::default()
    };
    let body = if is_v4 {
        Body::Icmp(message)
    } else {
        Body::Icmpv6(message)
    };
    judge(&plane, &Packet::new(router, client, body).ip())
}

#[test]
fn the_quoted_sequence_number_must_have_been_sent() {
    for is_v4 in [true, false] {
        for sequence in [101, 300, END, END.wrapping_sub(60_000)] {
            assert_eq!(error(0, is_v4, sequence, 20).state, State::Related);
        }
        for sequence in [END + 1, 0x5000_0000, END.wrapping_sub(70_000)] {
            let outcome = error(0, is_v4, sequence, 20);
            assert_eq!(outcome.state, State::Invalid, "{sequence}");
            assert_eq!(outcome.reason, Some(Reason::IcmpErrorBadSequence));
        }
    }
}

#[test]
fn what_is_not_quoted_or_not_asked_for_is_not_held_against_it() {
    assert_eq!(error(0, true, 0x5000_0000, 4).state, State::Related);
    let lenient = error(SETTING_TCP_BE_LIBERAL, true, 0x5000_0000, 20);
    assert_eq!(lenient.state, State::Related);
}
