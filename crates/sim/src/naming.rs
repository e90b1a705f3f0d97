//! Which flow a packet names, read leniently: also from packets that the engine refuses.
//!
//! The engine looks up nothing for a damaged packet. A report on a capture still wants to say how
//! the connection that such a packet names stands, and which side of the host it came from.

use keepstate_engine::tuple::{Address, Family, Tuple};
use keepstate_engine::wire::transport::{ICMP, ICMPV6, SCTP, TCP, UDP, UDPLITE};

const IPV4_HEADER_BYTES: usize = 20;
const IPV6_HEADER_BYTES: usize = 40;
const ICMP_HEADER_BYTES: usize = 8;

/// A segment that ends before its flags names no connection; what an error quotes may end sooner.
const TCP_BYTES_WITH_FLAGS: usize = 14;
const SCTP_HEADER_BYTES: usize = 12;

/// SCTP chunks that are named.
const CHUNKS_MAX: usize = 8;

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

/// The tuple of a TCP segment or SCTP packet, or of the one that an ICMP error quotes.
pub fn connection_tuple(bytes: &[u8]) -> Option<Tuple> {
    let packet = Packet::read(bytes)?;
    match packet.quoted() {
        Some(quoted) => Packet::read(quoted)?.connection_tuple(),
        None if packet.transport.len() < packet.naming_bytes() => None,
        None => packet.connection_tuple(),
    }
}

/// The headers of a packet, so far as they can be told.
pub(crate) struct Packet<'a> {
    pub(crate) endpoints: Endpoints,
    pub(crate) protocol: u8,
    /// Not the first fragment: what follows the IP header is no transport header.
    pub(crate) is_later_fragment: bool,
    /// From the transport header to the end that the IP header states.
    transport: &'a [u8],
}

impl<'a> Packet<'a> {
    pub(crate) fn read(bytes: &'a [u8]) -> Option<Self> {
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
        let stated = usize::from(u16_at(bytes, 2)?).min(bytes.len());
        let end = if stated < header_bytes {
            bytes.len()
        } else {
            stated
        };
        let endpoints = Endpoints {
            family: Family::V4,
            source: [u32_at(bytes, 12)?, 0, 0, 0],
            destination: [u32_at(bytes, 16)?, 0, 0, 0],
        };
        Some(Self {
            endpoints,
            protocol: *bytes.get(9)?,
            is_later_fragment: u16_at(bytes, 6)? & 0x1fff != 0,
            transport: bytes.get(header_bytes..end).unwrap_or_default(),
        })
    }

    fn read_v6(bytes: &'a [u8]) -> Option<Self> {
        let endpoints = Endpoints {
            family: Family::V6,
            source: address_v6(bytes, 8)?,
            destination: address_v6(bytes, 24)?,
        };
        let end = (IPV6_HEADER_BYTES + usize::from(u16_at(bytes, 4)?)).min(bytes.len());
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
            transport: bytes.get(at..end).unwrap_or_default(),
        })
    }

    /// Bytes of transport header without which a packet names no connection.
    const fn naming_bytes(&self) -> usize {
        match self.protocol {
            SCTP => SCTP_HEADER_BYTES,
            _ => TCP_BYTES_WITH_FLAGS,
        }
    }

    fn connection_tuple(&self) -> Option<Tuple> {
        if !matches!(self.protocol, TCP | SCTP) || self.is_later_fragment {
            return None;
        }
        Some(Tuple {
            family: self.endpoints.family,
            source: self.endpoints.source,
            destination: self.endpoints.destination,
            source_port: u16_at(self.transport, 0)?,
            destination_port: u16_at(self.transport, 2)?,
            protocol: self.protocol,
            zone: 0,
        })
    }

    /// Source and destination port, of protocols that have them.
    pub(crate) fn ports(&self) -> Option<(u16, u16)> {
        if !matches!(self.protocol, TCP | UDP | SCTP | UDPLITE) || self.is_later_fragment {
            return None;
        }
        Some((u16_at(self.transport, 0)?, u16_at(self.transport, 2)?))
    }

    /// Types of the first SCTP chunks.
    pub(crate) fn chunks(&self) -> Vec<u8> {
        let mut kinds = Vec::new();
        if self.protocol != SCTP || self.is_later_fragment {
            return kinds;
        }
        let mut at = SCTP_HEADER_BYTES;
        while let (Some(kind), Some(length)) =
            (self.transport.get(at), u16_at(self.transport, at + 2))
        {
            if length == 0 || kinds.len() == CHUNKS_MAX {
                break;
            }
            kinds.push(*kind);
            at += usize::from(length).next_multiple_of(4);
        }
        kinds
    }

    pub(crate) fn tcp_flags(&self) -> Option<u8> {
        let has_flags = self.protocol == TCP && !self.is_later_fragment;
        self.transport.get(13).copied().filter(|_| has_flags)
    }

    /// Type and code.
    pub(crate) fn icmp_type(&self) -> Option<(u8, u8)> {
        let has_type = matches!(self.protocol, ICMP | ICMPV6) && !self.is_later_fragment;
        let pair = self.transport.first_chunk::<2>().filter(|_| has_type)?;
        Some((pair[0], pair[1]))
    }

    /// Bytes behind the transport header.
    pub(crate) fn payload_length(&self) -> usize {
        let header = match self.protocol {
            TCP => self
                .transport
                .get(12)
                .map_or(20, |byte| usize::from(byte >> 4) * 4),
            UDP | UDPLITE | ICMP | ICMPV6 => 8,
            SCTP => SCTP_HEADER_BYTES,
            _ => 0,
        };
        self.transport.len().saturating_sub(header)
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
