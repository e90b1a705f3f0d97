//! Fragment headers: which part of which datagram a packet is (RFC 791 section 3.2, RFC 8200
//! section 4.5).

use super::ipv6::{self, FRAGMENT};
use super::transport::{ICMP, ICMPV6, TCP, UDP};
use super::{Fragment, PacketInfo};
use crate::host::{Header, Packet};
use crate::limits::{DATAGRAM_BYTES_MAX, FRAGMENT_UNIT_BYTES, IPV6_EXTENSIONS_MAX};
use crate::tuple::Family;
use crate::verdict::Reason;

const IPV4_HEADER_BYTES: u32 = 20;
const IPV6_HEADER_BYTES: u32 = 40;
const FRAGMENT_HEADER_BYTES: u32 = 8;
const TCP_HEADER_BYTES: u32 = 20;
const AUTHENTICATION: u8 = 51;

const GRE: u8 = 47;
const DCCP: u8 = 33;
const SCTP: u8 = 132;
const UDP_LITE: u8 = 136;

/// A part of a datagram.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Piece {
    /// Identification, 16 bits in IPv4.
    pub id: u32,
    /// What the fragment header says comes after it.
    pub protocol: u8,
    /// Bytes of the datagram's payload that it holds: from, and up to.
    pub start: u32,
    pub end: u32,
    pub rest: Rest,
}

/// What comes behind a fragment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Rest {
    /// Nothing: it is the last one.
    None = 0,
    More = 1,
}

impl Piece {
    /// Of no packet.
    pub(crate) const EMPTY: Self = Self {
        id: 0,
        protocol: 0,
        start: 0,
        end: 0,
        rest: Rest::None,
    };
}

/// Reads what a fragment says of itself. The error is why no honest sender makes such a one.
#[inline(always)]
pub(crate) fn read<P: Packet>(
    packet: &P,
    info: &PacketInfo,
    piece: &mut Piece,
) -> Result<(), Reason> {
    let before = match info.family {
        Family::V4 => read_v4(packet, info, piece),
        Family::V6 => read_v6(packet, info, piece),
    }
    .ok_or(Reason::FragmentBadLength)?;
    let length = piece.end - piece.start;
    let is_ragged = matches!(piece.rest, Rest::More) && !length.is_multiple_of(FRAGMENT_UNIT_BYTES);
    if length == 0 || is_ragged {
        return Err(Reason::FragmentBadLength);
    }
    if before + piece.end > DATAGRAM_BYTES_MAX {
        return Err(Reason::FragmentTooLong);
    }
    let least = header_bytes_min(piece.protocol);
    if piece.start != 0 {
        // RFC 3128: what a first fragment has shown is not to be written over.
        return if piece.start < least {
            Err(Reason::FragmentOverHeader)
        } else {
            Ok(())
        };
    }
    if holds_transport_header(packet, info, piece) {
        Ok(())
    } else {
        Err(Reason::FragmentTiny)
    }
}

/// Bytes before the payload that count towards the largest datagram.
#[inline(always)]
fn read_v4<P: Packet>(packet: &P, info: &PacketInfo, piece: &mut Piece) -> Option<u32> {
    const MORE_FRAGMENTS: u16 = 0x2000;
    const FRAGMENT_OFFSET: u16 = 0x1fff;
    let header = packet.header(info.ip_offset, IPV4_HEADER_BYTES)?;
    let fragment = header.u16(6);
    piece.id = u32::from(header.u16(4));
    piece.protocol = header.u8(9);
    piece.start = u32::from(fragment & FRAGMENT_OFFSET) * FRAGMENT_UNIT_BYTES;
    piece.end = piece.start + info.transport_length;
    piece.rest = rest(fragment & MORE_FRAGMENTS);
    Some(info.transport_offset.saturating_sub(info.ip_offset))
}

/// As [`read_v4`]. The first fragment header counts: what is inside of one is not looked at before the
/// datagram is whole.
#[inline(always)]
fn read_v6<P: Packet>(packet: &P, info: &PacketInfo, piece: &mut Piece) -> Option<u32> {
    let begin = info.ip_offset + IPV6_HEADER_BYTES;
    let mut protocol = packet.header(info.ip_offset, IPV6_HEADER_BYTES)?.u8(6);
    let mut at = begin;
    for _ in 0..IPV6_EXTENSIONS_MAX {
        if protocol == FRAGMENT {
            break;
        }
        let header = packet.header(at, 8)?;
        at += match protocol {
            AUTHENTICATION => (u32::from(header.u8(1)) + 2) * 4,
            _ => (u32::from(header.u8(1)) + 1) * 8,
        };
        protocol = header.u8(0);
    }
    let header = packet.header(at, FRAGMENT_HEADER_BYTES)?;
    let fragment = header.u16(2);
    piece.id = header.u32(4);
    piece.protocol = header.u8(0);
    piece.start = u32::from(fragment & 0xfff8);
    let payload = at + FRAGMENT_HEADER_BYTES;
    let length = (info.ip_offset + info.ip_length).saturating_sub(payload);
    piece.end = piece.start + length;
    piece.rest = rest(fragment & 1);
    Some(at.saturating_sub(begin))
}

const fn rest(more: u16) -> Rest {
    if more == 0 { Rest::None } else { Rest::More }
}

/// Whether a first fragment shows all that a datagram is judged by (RFC 1858 section 3, RFC 7112).
#[inline(always)]
fn holds_transport_header<P: Packet>(packet: &P, info: &PacketInfo, piece: &Piece) -> bool {
    let is_first = matches!(info.fragment, Fragment::First) && matches!(piece.rest, Rest::More);
    let end = info.ip_offset + info.ip_length;
    if !is_first || ipv6::is_extension(info.protocol) || info.transport_offset > end {
        return false;
    }
    let least = header_bytes_min(info.protocol);
    if info.transport_length < least {
        return false;
    }
    if info.protocol != TCP {
        return true;
    }
    match packet.header(info.transport_offset, TCP_HEADER_BYTES) {
        // Options too: without a window scale all that follows would be misread.
        Some(header) => u32::from(header.u8(12) >> 4) * 4 <= info.transport_length,
        None => false,
    }
}

/// What of a transport header must be there.
const fn header_bytes_min(protocol: u8) -> u32 {
    match protocol {
        TCP => TCP_HEADER_BYTES,
        SCTP | DCCP => 12,
        // With checksum, key and sequence number.
        GRE => 16,
        UDP | UDP_LITE | ICMP | ICMPV6 => 8,
        _ => 1,
    }
}
