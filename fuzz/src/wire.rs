//! The packet parser: never panics, reads only what it has checked, and gives lengths that are
//! consistent with each other.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use keepstate_engine::host::{Header, Packet, Payload};
use keepstate_engine::limits::HELPER_BYTES_MAX;
use keepstate_engine::process::{Arrival, Checksums, Path};
use keepstate_engine::settings::Settings;
use keepstate_engine::tuple::Family;
use keepstate_engine::wire::{Fragment, Link, PacketInfo, parse, quoted, transport};
use keepstate_sim::build::{self, Body, Icmp, Tcp, Udp};
use keepstate_sim::packet::ones_complement_sum;

/// The verifier of the kernel programs knows no larger views.
const HEADER_BYTES_MAX: u32 = 64;

pub(crate) fn run(data: &[u8]) {
    let Some((how, bytes)) = data.split_first() else {
        return;
    };
    let packet = Strict(bytes);
    let arrival = arrival(*how);
    let settings = Settings::defaults(16, [2, 2]);
    if let Ok(info) = parse(&packet, &arrival, &settings) {
        check(&packet, &arrival, &info);
        // Whatever the protocol: the bytes may be a packet that an error quotes.
        let _ = quoted(&packet, info.family, info.transport_offset + 8);
    }
}

/// How a packet came, chosen by some bits.
pub(crate) fn arrival(how: u8) -> Arrival {
    Arrival {
        link: match how & 3 {
            0 | 3 => Link::Ethernet,
            1 => Link::Ipv4,
            _ => Link::Ipv6,
        },
        path: if how & 4 == 0 {
            Path::Ingress
        } else {
            Path::Local
        },
        checksums: match (how >> 3) & 3 {
            0 => Checksums::Unverified,
            1 => Checksums::UnverifiedOrPartial,
            _ => Checksums::Trusted,
        },
        zone: u16::from(how >> 6),
        interfaces: 1,
    }
}

fn check(packet: &Strict<'_>, arrival: &Arrival, info: &PacketInfo) {
    let header = match info.family {
        Family::V4 => 20,
        Family::V6 => 40,
    };
    assert_eq!(info.in_interfaces, arrival.interfaces);
    assert!(info.ip_length >= header, "{info:?}");
    let end = info.ip_offset + info.ip_length;
    if arrival.path == Path::Ingress {
        assert!(end <= packet.len(), "beyond the packet: {info:?}");
    }
    if info.damage.is_some() {
        return;
    }
    assert!(info.transport_offset >= info.ip_offset + header, "{info:?}");
    assert_eq!(
        info.transport_offset + info.transport_length,
        end,
        "{info:?}"
    );
    assert_ne!(
        info.fragment,
        Fragment::Later,
        "a later fragment without damage"
    );
    if info.protocol == transport::TCP {
        assert!((20..=60).contains(&info.tcp_header_length), "{info:?}");
        if info.fragment == Fragment::Whole {
            assert!(
                u32::from(info.tcp_header_length) <= info.transport_length,
                "{info:?}"
            );
        }
    }
}

pub(crate) fn seeds() -> Vec<Vec<u8>> {
    let mut seeds = Vec::new();
    for packet in packets() {
        let link = if packet.source.is_ipv4() { 1 } else { 2 };
        seeds.push([&[0][..], &packet.ethernet()].concat());
        seeds.push([&[link][..], &packet.ip()].concat());
        seeds.push([&[0][..], &tagged(&packet.ethernet())].concat());
    }
    seeds.extend(extended());
    seeds
}

/// One packet of each kind and family.
pub(crate) fn packets() -> Vec<build::Packet> {
    let v4 = [Ipv4Addr::new(10, 0, 0, 5), Ipv4Addr::new(10, 0, 0, 1)].map(IpAddr::V4);
    let v6 = [5, 1].map(|last| IpAddr::V6(Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, last)));
    let syn = Tcp {
        source_port: 5_000,
        destination_port: 22,
        sequence: 1,
        flags: build::SYN,
        window: 64_240,
        options: vec![
            2, 4, 5, 180, 4, 2, 8, 10, 0, 0, 0, 1, 0, 0, 0, 0, 1, 3, 3, 7,
        ],
        ..Tcp::default()
    };
    // Two SACK blocks.
    let sack = [
        1, 1, 5, 18, 0, 0, 0, 1, 0, 0, 0, 9, 0, 0, 0, 20, 0, 0, 0, 30,
    ];
    let ack = Tcp {
        flags: build::ACK,
        options: sack.to_vec(),
        ..syn.clone()
    };
    let udp = Udp {
        source_port: 5_000,
        destination_port: 53,
        payload: vec![1; 9],
    };
    let echo = |kind| Icmp {
        kind,
        rest: [0, 7, 0, 1],
        ..Icmp::default()
    };
    let mut packets = Vec::new();
    for ([source, destination], icmp) in [
        (v4, [Body::Icmp(echo(8)), Body::Icmp(echo(0))]),
        (v6, [Body::Icmpv6(echo(128)), Body::Icmpv6(echo(129))]),
    ] {
        let rest = [
            Body::Tcp(syn.clone()),
            Body::Tcp(ack.clone()),
            Body::Udp(udp.clone()),
            Body::Other {
                protocol: 47,
                payload: vec![0; 8],
            },
        ];
        for body in icmp.into_iter().chain(rest) {
            packets.push(build::Packet::new(source, destination, body));
        }
        packets.push(error_about(&packets[packets.len() - 3].clone()));
    }
    packets
}

/// An ICMP error that quotes a packet.
pub(crate) fn error_about(quoted: &build::Packet) -> build::Packet {
    let message = |kind| Icmp {
        kind,
        code: 3,
        payload: quoted.ip(),
        ..Icmp::default()
    };
    let body = if quoted.source.is_ipv4() {
        Body::Icmp(message(3))
    } else {
        Body::Icmpv6(message(1))
    };
    build::Packet::new(quoted.destination, quoted.source, body)
}

/// The frame with an 802.1ad and an 802.1Q tag.
fn tagged(frame: &[u8]) -> Vec<u8> {
    let (addresses, rest) = frame.split_at(12);
    [addresses, &[0x88, 0xa8, 0, 5, 0x81, 0, 0, 6], rest].concat()
}

/// IPv6 with hop-by-hop options, routing, fragment and destination options before UDP.
fn extended() -> Vec<Vec<u8>> {
    let udp = [0x13, 0x88, 0, 53, 0, 8, 0, 0];
    let headers: [&[u8]; 4] = [
        &[43, 0, 1, 4, 0, 0, 0, 0],
        &[44, 0, 0, 0, 0, 0, 0, 0],
        &[60, 0, 0, 1, 0, 0, 0, 9],
        &[17, 0, 1, 4, 0, 0, 0, 0],
    ];
    let body = [headers.concat(), udp.to_vec()].concat();
    let mut packet = vec![2, 0x60, 0, 0, 0, 0, body.len() as u8, 0, 64];
    packet.extend([0xfd; 32]);
    packet.extend(&body);
    // IPv4 with options: a router alert, padding.
    let with_options = [
        1, 0x47, 0, 0, 36, 0, 0, 0, 0, 64, 17, 0, 0, 10, 0, 0, 5, 10, 0, 0, 1, 0x94, 4, 0, 0, 1, 1,
        1, 0, 0x13, 0x88, 0, 53, 0, 8, 0, 0,
    ];
    vec![packet, with_options.to_vec()]
}

/// A packet that holds its reader to the contract.
pub(crate) struct Strict<'a>(pub(crate) &'a [u8]);

#[derive(Clone, Copy)]
pub(crate) struct StrictView<'a>(&'a [u8]);

impl<'a> Packet for Strict<'a> {
    type Header = StrictView<'a>;
    type Payload = StrictView<'a>;

    fn len(&self) -> u32 {
        self.0.len() as u32
    }

    fn header(&self, offset: u32, size: u32) -> Option<StrictView<'a>> {
        assert!(size <= HEADER_BYTES_MAX, "a view of {size} bytes");
        let end = offset.checked_add(size)?;
        self.0.get(offset as usize..end as usize).map(StrictView)
    }

    fn payload(&self, offset: u32, length: u32) -> Option<StrictView<'a>> {
        assert!(
            (1..=HELPER_BYTES_MAX).contains(&length),
            "{length} bytes of payload"
        );
        let end = offset.checked_add(length)?;
        self.0.get(offset as usize..end as usize).map(StrictView)
    }

    fn sum(&self, offset: u32, length: u32) -> Option<u16> {
        let end = offset.checked_add(length)?;
        self.0
            .get(offset as usize..end as usize)
            .map(ones_complement_sum)
    }
}

impl Payload for StrictView<'_> {
    fn byte(self, at: u32) -> u8 {
        self.u8(at)
    }
}

impl StrictView<'_> {
    fn bytes<const N: usize>(self, at: u32) -> [u8; N] {
        let found = self
            .0
            .get(at as usize..)
            .and_then(|rest| rest.first_chunk());
        *found.expect("read beyond what was checked")
    }
}

impl Header for StrictView<'_> {
    fn u8(self, at: u32) -> u8 {
        let [byte] = self.bytes(at);
        byte
    }

    fn u16(self, at: u32) -> u16 {
        u16::from_be_bytes(self.bytes(at))
    }

    fn u32(self, at: u32) -> u32 {
        u32::from_be_bytes(self.bytes(at))
    }
}
