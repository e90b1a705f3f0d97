//! Makes packets, with right lengths and checksums unless told otherwise.

use std::net::IpAddr;
use std::ops::Range;

pub use keepstate_engine::wire::transport::tcp_flag::{ACK, CWR, ECE, FIN, PSH, RST, SYN, URG};

use crate::packet::ones_complement_sum;

const ETHERNET_HEADER_BYTES: usize = 14;
const IPV4_HEADER_BYTES: usize = 20;
const IPV6_HEADER_BYTES: usize = 40;
const FRAGMENT: u8 = 44;
const TTL: u8 = 64;

/// A packet to be made. Both addresses are of one family.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Packet {
    pub source: IpAddr,
    pub destination: IpAddr,
    pub body: Body,
    pub checksum: Checksum,
}

/// The transport checksum of a packet.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Checksum {
    #[default]
    Right,
    Wrong,
}

/// What a packet carries.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Body {
    Tcp(Tcp),
    Udp(Udp),
    UdpLite(UdpLite),
    Sctp(Sctp),
    Icmp(Icmp),
    Icmpv6(Icmp),
    Other { protocol: u8, payload: Vec<u8> },
}

/// A TCP segment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tcp {
    pub source_port: u16,
    pub destination_port: u16,
    pub sequence: u32,
    pub acknowledgement: u32,
    pub flags: u8,
    pub window: u16,
    /// A multiple of four bytes, at most 40.
    pub options: Vec<u8>,
    pub payload: Vec<u8>,
}

/// A UDP datagram.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Udp {
    pub source_port: u16,
    pub destination_port: u16,
    pub payload: Vec<u8>,
}

/// A UDP-Lite datagram (RFC 3828).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct UdpLite {
    pub source_port: u16,
    pub destination_port: u16,
    /// Bytes that the checksum covers, as the header states it: zero for all.
    pub coverage: u16,
    pub payload: Vec<u8>,
}

/// An SCTP packet (RFC 9260 section 3).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Sctp {
    pub source_port: u16,
    pub destination_port: u16,
    pub tag: u32,
    pub chunks: Vec<Chunk>,
}

/// A chunk of it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Chunk {
    pub kind: u8,
    pub flags: u8,
    pub value: Vec<u8>,
}

/// Types of chunks.
pub mod chunk {
    pub const DATA: u8 = 0;
    pub const INIT: u8 = 1;
    pub const INIT_ACK: u8 = 2;
    pub const SACK: u8 = 3;
    pub const HEARTBEAT: u8 = 4;
    pub const HEARTBEAT_ACK: u8 = 5;
    pub const ABORT: u8 = 6;
    pub const SHUTDOWN: u8 = 7;
    pub const SHUTDOWN_ACK: u8 = 8;
    pub const ERROR: u8 = 9;
    pub const COOKIE_ECHO: u8 = 10;
    pub const COOKIE_ACK: u8 = 11;
    pub const SHUTDOWN_COMPLETE: u8 = 14;
}

impl Chunk {
    /// A chunk of this type with as many bytes of value as such have.
    pub fn new(kind: u8) -> Self {
        let bytes = match kind {
            chunk::DATA => 16,
            chunk::SACK => 12,
            chunk::SHUTDOWN | chunk::COOKIE_ECHO => 4,
            chunk::HEARTBEAT | chunk::HEARTBEAT_ACK => 8,
            _ => 0,
        };
        Self {
            kind,
            flags: 0,
            value: vec![0; bytes],
        }
    }

    /// INIT or INIT ACK, which introduces its sender's tag.
    pub fn introducing(kind: u8, tag: u32) -> Self {
        let mut value = tag.to_be_bytes().to_vec();
        value.extend([0, 1, 0, 0, 0, 10, 0, 10, 0, 0, 0, 1]);
        Self {
            kind,
            flags: 0,
            value,
        }
    }
}

/// An ICMP or ICMPv6 message.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Icmp {
    pub kind: u8,
    pub code: u8,
    /// Identifier and sequence number of queries.
    pub rest: [u8; 4],
    pub payload: Vec<u8>,
}

impl Packet {
    pub const fn new(source: IpAddr, destination: IpAddr, body: Body) -> Self {
        Self {
            source,
            destination,
            body,
            checksum: Checksum::Right,
        }
    }

    /// The IP packet.
    pub fn ip(&self) -> Vec<u8> {
        let transport = self.transport();
        let mut bytes = match (self.source, self.destination) {
            (IpAddr::V4(source), IpAddr::V4(destination)) => {
                let mut header = vec![0x45, 0, 0, 0, 0, 0, 0x40, 0, TTL, self.protocol(), 0, 0];
                header.extend(source.octets());
                header.extend(destination.octets());
                let length = header.len() + transport.len();
                put_u16(&mut header, 2, length as u16);
                let sum = !ones_complement_sum(&header);
                put_u16(&mut header, 10, sum);
                header
            }
            (source, destination) => {
                let mut header = vec![0x60, 0, 0, 0, 0, 0, self.protocol(), TTL];
                header.extend(octets(source));
                header.extend(octets(destination));
                put_u16(&mut header, 4, transport.len() as u16);
                header
            }
        };
        bytes.extend(transport);
        bytes
    }

    /// The IP packet in an Ethernet frame.
    pub fn ethernet(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(ETHERNET_HEADER_BYTES + 60);
        bytes.extend([0x02, 0, 0, 0, 0, 1, 0x02, 0, 0, 0, 0, 2]);
        let ethertype: u16 = if self.source.is_ipv4() {
            0x0800
        } else {
            0x86dd
        };
        bytes.extend(ethertype.to_be_bytes());
        bytes.extend(self.ip());
        bytes
    }

    pub const fn protocol(&self) -> u8 {
        match &self.body {
            Body::Tcp(_) => 6,
            Body::Udp(_) => 17,
            Body::UdpLite(_) => 136,
            Body::Sctp(_) => 132,
            Body::Icmp(_) => 1,
            Body::Icmpv6(_) => 58,
            Body::Other { protocol, .. } => *protocol,
        }
    }

    fn transport(&self) -> Vec<u8> {
        let (mut bytes, checksum_at) = match &self.body {
            Body::Tcp(tcp) => (tcp.bytes(), 16),
            Body::Udp(udp) => (udp.bytes(), 6),
            Body::UdpLite(udp) => (udp.bytes(), 6),
            Body::Sctp(sctp) => return sctp.bytes(self.checksum),
            Body::Icmp(icmp) | Body::Icmpv6(icmp) => (icmp.bytes(), 2),
            Body::Other { payload, .. } => return payload.clone(),
        };
        let mut sum = match &self.body {
            Body::Icmp(_) => !ones_complement_sum(&bytes),
            Body::UdpLite(udp) => {
                let covered = match usize::from(udp.coverage) {
                    0 => bytes.len(),
                    coverage => coverage.min(bytes.len()),
                };
                let pseudo = self.pseudo_header(bytes.len());
                !ones_complement_sum(&[&pseudo, &bytes[..covered]].concat())
            }
            _ => !ones_complement_sum(&[self.pseudo_header(bytes.len()), bytes.clone()].concat()),
        };
        if matches!(self.body, Body::Udp(_) | Body::UdpLite(_)) && sum == 0 {
            sum = 0xffff;
        }
        if self.checksum == Checksum::Wrong {
            // Not the complement either: that would be zero's other form.
            sum = sum.wrapping_add(0x1234);
        }
        put_u16(&mut bytes, checksum_at, sum);
        bytes
    }

    fn pseudo_header(&self, length: usize) -> Vec<u8> {
        let mut bytes = octets(self.source);
        bytes.extend(octets(self.destination));
        bytes.extend((length as u32).to_be_bytes());
        bytes.extend(u32::from(self.protocol()).to_be_bytes());
        bytes
    }
}

impl Tcp {
    fn bytes(&self) -> Vec<u8> {
        let header_words = 5 + self.options.len().div_ceil(4);
        let mut bytes = Vec::with_capacity(header_words * 4 + self.payload.len());
        bytes.extend(self.source_port.to_be_bytes());
        bytes.extend(self.destination_port.to_be_bytes());
        bytes.extend(self.sequence.to_be_bytes());
        bytes.extend(self.acknowledgement.to_be_bytes());
        bytes.extend([(header_words as u8) << 4, self.flags]);
        bytes.extend(self.window.to_be_bytes());
        bytes.extend([0; 4]);
        bytes.extend(&self.options);
        bytes.resize(header_words * 4, 0);
        bytes.extend(&self.payload);
        bytes
    }
}

impl Udp {
    fn bytes(&self) -> Vec<u8> {
        let length = 8 + self.payload.len();
        let mut bytes = Vec::with_capacity(length);
        bytes.extend(self.source_port.to_be_bytes());
        bytes.extend(self.destination_port.to_be_bytes());
        bytes.extend((length as u16).to_be_bytes());
        bytes.extend([0; 2]);
        bytes.extend(&self.payload);
        bytes
    }
}

impl UdpLite {
    fn bytes(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(8 + self.payload.len());
        bytes.extend(self.source_port.to_be_bytes());
        bytes.extend(self.destination_port.to_be_bytes());
        bytes.extend(self.coverage.to_be_bytes());
        bytes.extend([0; 2]);
        bytes.extend(&self.payload);
        bytes
    }
}

impl Sctp {
    fn bytes(&self, checksum: Checksum) -> Vec<u8> {
        let mut bytes = Vec::new();
        bytes.extend(self.source_port.to_be_bytes());
        bytes.extend(self.destination_port.to_be_bytes());
        bytes.extend(self.tag.to_be_bytes());
        bytes.extend([0; 4]);
        for chunk in &self.chunks {
            let length = 4 + chunk.value.len();
            bytes.extend([chunk.kind, chunk.flags]);
            bytes.extend((length as u16).to_be_bytes());
            bytes.extend(&chunk.value);
            bytes.resize(bytes.len().next_multiple_of(4), 0);
        }
        let crc = crc32c(&bytes) ^ u32::from(checksum == Checksum::Wrong);
        // The least significant byte first.
        for (to, from) in bytes.iter_mut().skip(8).zip(crc.to_le_bytes()) {
            *to = from;
        }
        bytes
    }
}

/// CRC32c, bit by bit: the engine has it by table.
fn crc32c(bytes: &[u8]) -> u32 {
    let crc = bytes.iter().fold(u32::MAX, |crc, byte| {
        (0..8).fold(crc ^ u32::from(*byte), |crc, _| {
            (crc >> 1) ^ (if crc & 1 == 1 { 0x82f6_3b78 } else { 0 })
        })
    });
    !crc
}

impl Icmp {
    fn bytes(&self) -> Vec<u8> {
        let mut bytes = vec![self.kind, self.code, 0, 0];
        bytes.extend(self.rest);
        bytes.extend(&self.payload);
        bytes
    }
}

/// What a fragment says of those behind it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rest {
    /// It is the last one.
    None,
    More,
}

/// A fragment of an IP packet without options: the bytes of its payload in `part`, whose start counts in
/// units of eight; zeros beyond the packet.
pub fn fragment(ip: &[u8], identification: u16, part: Range<usize>, rest: Rest) -> Vec<u8> {
    const FRAGMENT_HEADER_BYTES: usize = 8;
    let is_v4 = ip.first().is_some_and(|byte| byte >> 4 == 4);
    let header = if is_v4 {
        IPV4_HEADER_BYTES
    } else {
        IPV6_HEADER_BYTES
    };
    let payload = part.clone().map(|at| ip.get(header + at).copied());
    let payload: Vec<u8> = payload.map(Option::unwrap_or_default).collect();
    let units = (part.start / 8) as u16;
    let has_more = u16::from(rest == Rest::More);
    let mut bytes = ip.get(..header).unwrap_or_default().to_vec();
    if is_v4 {
        put_u16(&mut bytes, 2, (header + payload.len()) as u16);
        put_u16(&mut bytes, 4, identification);
        put_u16(&mut bytes, 6, (units & 0x1fff) | (has_more << 13));
        put_u16(&mut bytes, 10, 0);
        let sum = !ones_complement_sum(&bytes);
        put_u16(&mut bytes, 10, sum);
    } else {
        put_u16(
            &mut bytes,
            4,
            (FRAGMENT_HEADER_BYTES + payload.len()) as u16,
        );
        let next = std::mem::replace(&mut bytes[6], FRAGMENT);
        bytes.extend([next, 0]);
        bytes.extend(((units << 3) | has_more).to_be_bytes());
        bytes.extend(u32::from(identification).to_be_bytes());
    }
    bytes.extend(payload);
    bytes
}

fn octets(address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(address) => address.octets().to_vec(),
        IpAddr::V6(address) => address.octets().to_vec(),
    }
}

fn put_u16(bytes: &mut [u8], at: usize, value: u16) {
    for (to, from) in bytes.iter_mut().skip(at).zip(value.to_be_bytes()) {
        *to = from;
    }
}
