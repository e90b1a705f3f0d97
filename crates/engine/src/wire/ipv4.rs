//! IPv4 (RFC 791).

use super::{Fragment, Network};
use crate::host::{Header, Packet};
use crate::verdict::Reason;

const HEADER_BYTES_MIN: u32 = 20;
const HEADER_BYTES_MAX: u32 = 60;

const MORE_FRAGMENTS: u16 = 0x2000;
const FRAGMENT_OFFSET: u16 = 0x1fff;

/// Reads the header at `offset` of a packet and checks it as the kernel's receive path does.
/// `lenient` is for packets of this host: segmentation offload leaves their length zero.
pub(super) fn network<P: Packet>(
    packet: &P,
    offset: u32,
    lenient: bool,
) -> Result<Network, Reason> {
    let header = packet
        .header(offset, HEADER_BYTES_MIN)
        .ok_or(Reason::IpTruncated)?;
    let (length, header_length) = lengths(packet, header, offset, lenient)?;
    if !lenient && packet.sum(offset, header_length) != Some(0xffff) {
        return Err(Reason::IpBadChecksum);
    }
    let fragment = header.u16(6);
    Ok(Network {
        protocol: header.u8(9),
        source: [header.u32(12), 0, 0, 0],
        destination: [header.u32(16), 0, 0, 0],
        fragment: if fragment & FRAGMENT_OFFSET != 0 {
            Fragment::Later
        } else if fragment & MORE_FRAGMENTS != 0 {
            Fragment::First
        } else {
            Fragment::Whole
        },
        transport_offset: offset + header_length,
        length,
        damage: None,
    })
}

/// Total length and header length, in bytes.
fn lengths<P: Packet>(
    packet: &P,
    header: P::Header,
    offset: u32,
    lenient: bool,
) -> Result<(u32, u32), Reason> {
    let first = header.u8(0);
    if first >> 4 != 4 {
        return Err(Reason::IpBadVersion);
    }
    let header_length = u32::from(first & 0xf) * 4;
    let available = packet.len().saturating_sub(offset);
    if header_length < HEADER_BYTES_MIN || header_length > available {
        return Err(Reason::IpBadHeaderLength);
    }
    debug_assert!(header_length <= HEADER_BYTES_MAX);
    let stated = u32::from(header.u16(2));
    let length = if stated == 0 && lenient {
        available
    } else {
        stated
    };
    if length < header_length || length > available {
        return Err(Reason::IpBadTotalLength);
    }
    Ok((length, header_length))
}

/// Protocol, addresses and transport offset of an IPv4 header that an ICMP error quotes, which may
/// be cut short. `None` for a later fragment or a damaged header.
pub(super) fn quoted<P: Packet>(packet: &P, offset: u32) -> Option<Network> {
    let header = packet.header(offset, HEADER_BYTES_MIN)?;
    let first = header.u8(0);
    let header_length = u32::from(first & 0xf) * 4;
    let is_later = header.u16(6) & FRAGMENT_OFFSET != 0;
    if first >> 4 != 4 || header_length < HEADER_BYTES_MIN || is_later {
        return None;
    }
    Some(Network {
        protocol: header.u8(9),
        source: [header.u32(12), 0, 0, 0],
        destination: [header.u32(16), 0, 0, 0],
        fragment: Fragment::Whole,
        transport_offset: offset + header_length,
        length: u32::from(header.u16(2)),
        damage: None,
    })
}
