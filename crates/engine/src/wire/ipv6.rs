//! IPv6 and its extension headers (RFC 8200).

use super::{Fragment, Network};
use crate::host::{Header, Packet};
use crate::limits::IPV6_EXTENSIONS_MAX;
use crate::tuple::Address;
use crate::verdict::Reason;

const HEADER_BYTES: u32 = 40;

const HOP_BY_HOP: u8 = 0;
const ROUTING: u8 = 43;
const FRAGMENT: u8 = 44;
const AUTHENTICATION: u8 = 51;
const NO_NEXT_HEADER: u8 = 59;
const DESTINATION_OPTIONS: u8 = 60;

/// Reads the header at `offset` of a packet and what follows it up to the transport header.
/// `lenient` is for packets of this host: a payload length of zero means "to the end".
pub(super) fn network<P: Packet>(
    packet: &P,
    offset: u32,
    lenient: bool,
) -> Result<Network, Reason> {
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
    let mut network = Network {
        protocol: header.u8(6),
        source: address(header, 8),
        destination: address(header, 24),
        fragment: Fragment::Whole,
        transport_offset: offset + HEADER_BYTES,
        length,
        damage: None,
    };
    if !is_extension(network.protocol) {
        return Ok(network);
    }
    network.damage = skip_extensions(packet, &mut network, offset + length).err();
    Ok(network)
}

/// As [`super::ipv4::quoted`].
pub(super) fn quoted<P: Packet>(packet: &P, offset: u32) -> Option<Network> {
    let header = packet.header(offset, HEADER_BYTES)?;
    if header.u8(0) >> 4 != 6 {
        return None;
    }
    let mut network = Network {
        protocol: header.u8(6),
        source: address(header, 8),
        destination: address(header, 24),
        fragment: Fragment::Whole,
        transport_offset: offset + HEADER_BYTES,
        length: u32::from(header.u16(4)) + HEADER_BYTES,
        damage: None,
    };
    if is_extension(network.protocol) {
        skip_extensions(packet, &mut network, packet.len()).ok()?;
    }
    (network.fragment != Fragment::Later).then_some(network)
}

fn address<H: Header>(header: H, at: u32) -> Address {
    [
        header.u32(at),
        header.u32(at + 4),
        header.u32(at + 8),
        header.u32(at + 12),
    ]
}

const fn is_extension(protocol: u8) -> bool {
    matches!(
        protocol,
        HOP_BY_HOP | ROUTING | FRAGMENT | AUTHENTICATION | NO_NEXT_HEADER | DESTINATION_OPTIONS
    )
}

/// Follows the chain of extension headers, moving protocol, fragment and transport offset on.
///
/// ESP ends the chain: what follows is encrypted.
fn skip_extensions<P: Packet>(packet: &P, network: &mut Network, end: u32) -> Result<(), Reason> {
    for _ in 0..IPV6_EXTENSIONS_MAX {
        if network.protocol == NO_NEXT_HEADER {
            return Err(Reason::Ip6Truncated);
        }
        if !is_extension(network.protocol) {
            return Ok(());
        }
        let at = network.transport_offset;
        if at + 8 > end {
            return Err(Reason::Ip6Truncated);
        }
        let header = packet.header(at, 8).ok_or(Reason::Ip6Truncated)?;
        let size = match network.protocol {
            FRAGMENT => {
                network.fragment = fragment(header.u16(2));
                8
            }
            // RFC 4302 section 2.2: in 4-byte units, less two.
            AUTHENTICATION => (u32::from(header.u8(1)) + 2) * 4,
            _ => (u32::from(header.u8(1)) + 1) * 8,
        };
        network.protocol = header.u8(0);
        network.transport_offset = at + size;
        if network.fragment == Fragment::Later {
            return Ok(());
        }
        if network.transport_offset > end {
            return Err(Reason::Ip6Truncated);
        }
    }
    if is_extension(network.protocol) {
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
