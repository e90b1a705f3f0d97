//! IPv6 and its extension headers (RFC 8200).

use super::{Fragment, Network, PacketInfo};
use crate::host::{Header, Packet};
use crate::limits::IPV6_EXTENSIONS_MAX;
use crate::tuple::Address;
use crate::verdict::Reason;

const HEADER_BYTES: u32 = 40;

const HOP_BY_HOP: u8 = 0;
const ROUTING: u8 = 43;
pub(super) const FRAGMENT: u8 = 44;
const AUTHENTICATION: u8 = 51;
const NO_NEXT_HEADER: u8 = 59;
const DESTINATION_OPTIONS: u8 = 60;

/// Reads the header at `info.ip_offset` of a packet, as if the transport header followed it.
/// `lenient` is for packets of this host: a payload length of zero means "to the end".
#[inline(always)]
pub(super) fn network<P: Packet>(
    packet: &P,
    info: &mut PacketInfo,
    lenient: bool,
) -> Result<(), Reason> {
    let offset = info.ip_offset;
    let header = packet
        .header(offset, HEADER_BYTES)
        .ok_or(Reason::Ip6Truncated)?;
    if header.u8(0) >> 4 != 6 {
        return Err(Reason::IpBadVersion);
    }
    let available = packet.len().saturating_sub(offset);
    let stated = u32::from(header.u16(4)) + HEADER_BYTES;
    let length = if stated == HEADER_BYTES && lenient {
        available
    } else {
        stated
    };
    if length > available {
        return Err(Reason::Ip6BadPayloadLength);
    }
    info.protocol = header.u8(6);
    info.hop_limit = header.u8(7);
    info.source = address(header, 8);
    info.destination = address(header, 24);
    info.fragment = Fragment::Whole;
    info.transport_offset = offset + HEADER_BYTES;
    info.ip_length = length;
    info.transport_length = length - HEADER_BYTES;
    Ok(())
}

/// Whether something else than the transport header follows a header that was read.
pub(super) const fn has_extensions(info: &PacketInfo) -> bool {
    is_extension(info.protocol)
}

/// Goes on from the header to the transport header.
#[inline(always)]
pub(super) fn read_extensions<P: Packet>(packet: &P, info: &mut PacketInfo) {
    let end = info.ip_offset + info.ip_length;
    let mut chain = Chain::new(info.protocol, info.transport_offset);
    info.damage = skip_extensions(packet, &mut chain, end).err();
    info.protocol = chain.protocol;
    info.fragment = chain.fragment;
    info.transport_offset = chain.at;
    info.transport_length = end.saturating_sub(chain.at);
}

/// As [`super::ipv4::quoted`].
pub(super) fn quoted<P: Packet>(packet: &P, offset: u32) -> Option<Network> {
    let header = packet.header(offset, HEADER_BYTES)?;
    let mut chain = Chain::new(header.u8(6), offset + HEADER_BYTES);
    if is_extension(chain.protocol) {
        skip_extensions(packet, &mut chain, packet.len()).ok()?;
    }
    if matches!(chain.fragment, Fragment::Later) {
        return None;
    }
    Some(Network {
        protocol: chain.protocol,
        source: address(header, 8),
        destination: address(header, 24),
        transport_offset: chain.at,
    })
}

/// A walk along extension headers.
struct Chain {
    /// Of the header at `at`.
    protocol: u8,
    at: u32,
    fragment: Fragment,
}

impl Chain {
    const fn new(protocol: u8, at: u32) -> Self {
        Self {
            protocol,
            at,
            fragment: Fragment::Whole,
        }
    }
}

fn address<H: Header>(header: H, at: u32) -> Address {
    [
        header.u32(at),
        header.u32(at + 4),
        header.u32(at + 8),
        header.u32(at + 12),
    ]
}

pub(super) const fn is_extension(protocol: u8) -> bool {
    matches!(
        protocol,
        HOP_BY_HOP | ROUTING | FRAGMENT | AUTHENTICATION | NO_NEXT_HEADER | DESTINATION_OPTIONS
    )
}

/// Follows the chain to the transport header. ESP ends it: what follows is encrypted.
#[cfg_attr(target_arch = "bpf", inline(never))]
#[cfg_attr(not(target_arch = "bpf"), inline)]
fn skip_extensions<P: Packet>(packet: &P, chain: &mut Chain, end: u32) -> Result<(), Reason> {
    for _ in 0..IPV6_EXTENSIONS_MAX {
        if chain.protocol == NO_NEXT_HEADER {
            return Err(Reason::Ip6Truncated);
        }
        if !is_extension(chain.protocol) {
            return Ok(());
        }
        if chain.at + 8 > end {
            return Err(Reason::Ip6Truncated);
        }
        let header = packet.header(chain.at, 8).ok_or(Reason::Ip6Truncated)?;
        let size = match chain.protocol {
            FRAGMENT => {
                // No host sends a fragment of a fragment.
                if !matches!(chain.fragment, Fragment::Whole) {
                    return Err(Reason::Ip6TooManyExtensions);
                }
                chain.fragment = fragment(header.u16(2));
                8
            }
            // RFC 4302 section 2.2: in 4-byte units, less two.
            AUTHENTICATION => (u32::from(header.u8(1)) + 2) * 4,
            _ => (u32::from(header.u8(1)) + 1) * 8,
        };
        chain.protocol = header.u8(0);
        chain.at += size;
        if matches!(chain.fragment, Fragment::Later) {
            return Ok(());
        }
        if chain.at > end {
            return Err(Reason::Ip6Truncated);
        }
    }
    if is_extension(chain.protocol) {
        Err(Reason::Ip6TooManyExtensions)
    } else {
        Ok(())
    }
}

const fn fragment(offset_and_more: u16) -> Fragment {
    if offset_and_more & 0xfff8 != 0 {
        Fragment::Later
    } else if offset_and_more & 1 != 0 {
        Fragment::First
    } else {
        // RFC 6946: an atomic fragment is a whole datagram.
        Fragment::Whole
    }
}
