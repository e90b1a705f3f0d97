//! Which flow a packet names, read leniently: also from packets that the engine refuses.
//!
//! The engine looks up nothing for a damaged packet. A report on a capture still wants to say how
//! the connection that such a packet names stands, and which side of the host it came from.

use keepstate_engine::tuple::{Address, Family, Tuple};

const ICMP: u8 = 1;
const TCP: u8 = 6;
const ICMPV6: u8 = 58;

const IPV4_HEADER_BYTES: usize = 20;
const IPV6_HEADER_BYTES: usize = 40;
const ICMP_HEADER_BYTES: usize = 8;

/// IPv6 extension headers that are passed over.
const EXTENSIONS_MAX: u32 = 16;

/// The addresses of a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Endpoints {
    pub family: Family,
    pub source: Address,
    pub destination: Address,
}

/// The addresses of the IP packet that `bytes` are.
pub fn endpoints(bytes: &[u8]) -> Option<Endpoints> {
    Packet::read(bytes).map(|packet| packet.endpoints)
}

/// The tuple of a TCP segment, or of the TCP segment that an ICMP error quotes.
pub fn tcp_tuple(bytes: &[u8]) -> Option<Tuple> {
    let packet = Packet::read(bytes)?;
    packet.tcp_tuple().or_else(|| {
        let quoted = Packet::read(packet.quoted()?)?;
        quoted.tcp_tuple()
    })
}

struct Packet<'a> {
    endpoints: Endpoints,
    protocol: u8,
    /// Not the first fragment: what follows the IP header is no transport header.
    is_later_fragment: bool,
    transport: &'a [u8],
}

impl<'a> Packet<'a> {
    fn read(bytes: &'a [u8]) -> Option<Self> {
        match bytes.first()? >> 4 {
            4 => Self::read_v4(bytes),
            6 => Self::read_v6(bytes),
            _ => None,
        }
    }

    fn read_v4(bytes: &'a [u8]) -> Option<Self> {
        let header_bytes = usize::from(bytes.first()? & 0xf) * 4;
        if header_bytes < IPV4_HEADER_BYTES {
            return None;
        }
        let endpoints = Endpoints {
            family: Family::V4,
            source: [u32_at(bytes, 12)?, 0, 0, 0],
            destination: [u32_at(bytes, 16)?, 0, 0, 0],
        };
        Some(Self {
            endpoints,
            protocol: *bytes.get(9)?,
            is_later_fragment: u16_at(bytes, 6)? & 0x1fff != 0,
            transport: bytes.get(header_bytes..).unwrap_or_default(),
        })
    }

    fn read_v6(bytes: &'a [u8]) -> Option<Self> {
        let endpoints = Endpoints {
            family: Family::V6,
            source: address_v6(bytes, 8)?,
            destination: address_v6(bytes, 24)?,
        };
        let mut protocol = *bytes.get(6)?;
        let mut at = IPV6_HEADER_BYTES;
        let mut is_later_fragment = false;
        for _ in 0..EXTENSIONS_MAX {
            let length = match protocol {
                0 | 43 | 60 | 135 => (usize::from(*bytes.get(at + 1)?) + 1) * 8,
                44 => {
                    is_later_fragment = u16_at(bytes, at + 2)? & 0xfff8 != 0;
                    8
                }
                51 => (usize::from(*bytes.get(at + 1)?) + 2) * 4,
                _ => break,
            };
            protocol = *bytes.get(at)?;
            at += length;
        }
        Some(Self {
            endpoints,
            protocol,
            is_later_fragment,
            transport: bytes.get(at..).unwrap_or_default(),
        })
    }

    fn tcp_tuple(&self) -> Option<Tuple> {
        if self.protocol != TCP || self.is_later_fragment {
            return None;
        }
        Some(Tuple {
            family: self.endpoints.family,
            source: self.endpoints.source,
            destination: self.endpoints.destination,
            source_port: u16_at(self.transport, 0)?,
            destination_port: u16_at(self.transport, 2)?,
            protocol: TCP,
            zone: 0,
        })
    }

    /// The packet that an ICMP error quotes.
    fn quoted(&self) -> Option<&'a [u8]> {
        let kind = *self.transport.first()?;
        let is_error = match self.protocol {
            ICMP => matches!(kind, 3 | 4 | 5 | 11 | 12),
            ICMPV6 => kind < 128,
            _ => false,
        };
        if !is_error || self.is_later_fragment {
            return None;
        }
        self.transport.get(ICMP_HEADER_BYTES..)
    }
}

fn address_v6(bytes: &[u8], at: usize) -> Option<Address> {
    Some([
        u32_at(bytes, at)?,
        u32_at(bytes, at + 4)?,
        u32_at(bytes, at + 8)?,
        u32_at(bytes, at + 12)?,
    ])
}

fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    let pair = bytes.get(at..)?.first_chunk::<2>()?;
    Some(u16::from_be_bytes(*pair))
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    let word = bytes.get(at..)?.first_chunk::<4>()?;
    Some(u32::from_be_bytes(*word))
}
