//! IPv4 (RFC 791).

use super::{Fragment, Network, PacketInfo};
use crate::host::{Header, Packet};
use crate::verdict::Reason;

const HEADER_BYTES_MIN: u32 = 20;

const MORE_FRAGMENTS: u16 = 0x2000;
const FRAGMENT_OFFSET: u16 = 0x1fff;

/// Reads the header at `info.ip_offset` of a packet and checks it as the kernel's receive path
/// does, but for its sum. `lenient` is for packets of this host: segmentation offload leaves their length zero.
#[inline(always)]
pub(super) fn network<P: Packet>(
    packet: &P,
    info: &mut PacketInfo,
    lenient: bool,
) -> Result<(), Reason> {
    let offset = info.ip_offset;
    let header = packet
        .header(offset, HEADER_BYTES_MIN)
        .ok_or(Reason::IpTruncated)?;
    let (length, header_length) = lengths(packet, header, offset, lenient)?;
    let fragment = header.u16(6);
    info.protocol = header.u8(9);
    info.hop_limit = header.u8(8);
    info.source = [header.u32(12), 0, 0, 0];
    info.destination = [header.u32(16), 0, 0, 0];
    info.fragment = if fragment & FRAGMENT_OFFSET != 0 {
        Fragment::Later
    } else if fragment & MORE_FRAGMENTS != 0 {
        Fragment::First
    } else {
        Fragment::Whole
    };
    info.transport_offset = offset + header_length;
    info.transport_length = length - header_length;
    info.ip_length = length;
    Ok(())
}

/// RFC 1071 over the header; nearly all are 20 bytes long and at hand already.
#[inline(always)]
pub(super) fn is_checksum_right<P: Packet>(packet: &P, info: &PacketInfo) -> bool {
    let offset = info.ip_offset;
    let header_length = info.transport_offset.wrapping_sub(offset);
    if header_length != HEADER_BYTES_MIN {
        return packet.sum(offset, header_length) == Some(0xffff);
    }
    let Some(header) = packet.header(offset, HEADER_BYTES_MIN) else {
        return false;
    };
    let mut sum = 0;
    for word in 0..HEADER_BYTES_MIN / 4 {
        sum += u64::from(header.u32(word * 4));
    }
    // Five words of 32 bits: folds into 16 in three steps, zero only where all are zero.
    let sum = (sum >> 32) + (sum & 0xffff_ffff);
    let sum = (sum >> 16) + (sum & 0xffff);
    let sum = (sum >> 16) + (sum & 0xffff);
    (sum >> 16) + (sum & 0xffff) == 0xffff
}

/// Total length and header length, in bytes.
#[inline(always)]
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
    // The version is not looked at, as Linux does not: the error itself says which it must be.
    let header_length = u32::from(header.u8(0) & 0xf) * 4;
    let is_later = header.u16(6) & FRAGMENT_OFFSET != 0;
    if header_length < HEADER_BYTES_MIN || is_later {
        return None;
    }
    Some(Network {
        protocol: header.u8(9),
        source: [header.u32(12), 0, 0, 0],
        destination: [header.u32(16), 0, 0, 0],
        transport_offset: offset + header_length,
    })
}
