//! Ports, flags and lengths of the protocols that have them, and their checksums.

use super::{Fragment, PacketInfo};
use crate::host::{Header, Packet};
use crate::process::Checksums;
use crate::tuple::Family;
use crate::verdict::Reason;

pub const ICMP: u8 = 1;
pub const TCP: u8 = 6;
pub const UDP: u8 = 17;
pub const DCCP: u8 = 33;
pub const GRE: u8 = 47;
pub const ICMPV6: u8 = 58;
pub const SCTP: u8 = 132;
pub const UDPLITE: u8 = 136;

const TCP_HEADER_BYTES: u32 = 20;
const UDP_HEADER_BYTES: u32 = 8;
const ICMP_HEADER_BYTES: u32 = 8;
/// Ports, verification tag, checksum.
pub(crate) const SCTP_HEADER_BYTES: u32 = 12;
/// Flags, version and protocol (RFC 2784).
const GRE_HEADER_BYTES: u32 = 4;
/// As far as the call's identifier (RFC 2637 section 4.1).
const GRE_CALL_BYTES: u32 = 8;
const GRE_VERSION: u16 = 0x0007;
const GRE_VERSION_PPTP: u16 = 1;
const ETHERTYPE_PPP: u16 = 0x880b;

/// TCP flags of [`PacketInfo::tcp_flags`].
pub mod tcp_flag {
    pub const FIN: u8 = 0x01;
    pub const SYN: u8 = 0x02;
    pub const RST: u8 = 0x04;
    pub const PSH: u8 = 0x08;
    pub const ACK: u8 = 0x10;
    pub const URG: u8 = 0x20;
    pub const ECE: u8 = 0x40;
    pub const CWR: u8 = 0x80;
}

/// Fills in what the transport header says. The error is what is wrong with it; fields read
/// before that are set.
#[inline(always)]
pub(super) fn read<P: Packet>(packet: &P, info: &mut PacketInfo) -> Result<(), Reason> {
    match info.protocol {
        TCP => tcp(packet, info),
        UDP => udp(packet, info),
        ICMP if matches!(info.family, Family::V4) => icmp(packet, info),
        ICMPV6 if matches!(info.family, Family::V6) => icmp(packet, info),
        UDPLITE => udplite(packet, info),
        SCTP => sctp(packet, info),
        GRE => gre(packet, info),
        _ => Ok(()),
    }
}

/// Verifies the checksum of a header that was [`read`], and what only a header with a right one is
/// held against.
#[inline(always)]
pub(super) fn verify<P: Packet>(
    packet: &P,
    info: &PacketInfo,
    checksums: Checksums,
) -> Result<(), Reason> {
    let (at, reason) = match info.protocol {
        TCP => (16, Reason::TcpBadChecksum),
        UDP => (6, Reason::UdpBadChecksum),
        UDPLITE => (6, Reason::UdpliteBadChecksum),
        ICMP if matches!(info.family, Family::V4) => (2, Reason::IcmpBadChecksum),
        ICMPV6 if matches!(info.family, Family::V6) => (2, Reason::IcmpBadChecksum),
        _ => return Ok(()),
    };
    if !matches!(checksums, Checksums::Trusted) && matches!(info.fragment, Fragment::Whole) {
        let stored = packet.header(info.transport_offset + at, 2).ok_or(reason)?;
        let stored = stored.u16(0);
        // A sender of UDP that computed none writes zero.
        let is_there = stored != 0 || info.protocol != UDP;
        let sum = (stored, covered(packet, info));
        if is_there && !is_checksum_right(packet, info, sum, checksums) {
            return Err(reason);
        }
    }
    if info.protocol == TCP && !is_legal(info.tcp_flags) {
        return Err(Reason::TcpBadFlags);
    }
    Ok(())
}

/// Bytes that a checksum is over, from the transport header on.
#[inline(always)]
fn covered<P: Packet>(packet: &P, info: &PacketInfo) -> u32 {
    if info.protocol != UDPLITE {
        return info.transport_length;
    }
    match packet.header(info.transport_offset + 4, 2) {
        Some(coverage) if coverage.u16(0) != 0 => u32::from(coverage.u16(0)),
        _ => info.transport_length,
    }
}

/// RFC 9293 section 3.1.
fn tcp<P: Packet>(packet: &P, info: &mut PacketInfo) -> Result<(), Reason> {
    if info.transport_length < TCP_HEADER_BYTES {
        return Err(Reason::TcpTruncated);
    }
    let header = packet
        .header(info.transport_offset, TCP_HEADER_BYTES)
        .ok_or(Reason::TcpTruncated)?;
    info.source_port = header.u16(0);
    info.destination_port = header.u16(2);
    info.tcp_sequence = header.u32(4);
    info.tcp_ack = header.u32(8);
    info.tcp_flags = header.u8(13);
    info.tcp_window = header.u16(14);
    info.tcp_header_length = u16::from(header.u8(12) >> 4) * 4;
    let header_length = u32::from(info.tcp_header_length);
    if header_length < TCP_HEADER_BYTES || header_length > info.transport_length {
        return Err(Reason::TcpBadHeaderLength);
    }
    Ok(())
}

/// Whether a combination of flags is ever sent by a TCP. PSH, ECE and CWR go with anything.
const fn is_legal(flags: u8) -> bool {
    use tcp_flag::{ACK, FIN, RST, SYN, URG};
    const SYN_URG: u8 = SYN | URG;
    const SYN_ACK: u8 = SYN | ACK;
    const RST_ACK: u8 = RST | ACK;
    const FIN_ACK: u8 = FIN | ACK;
    const FIN_ACK_URG: u8 = FIN | ACK | URG;
    const ACK_URG: u8 = ACK | URG;
    matches!(
        flags & (FIN | SYN | RST | ACK | URG),
        SYN | SYN_URG | SYN_ACK | RST | RST_ACK | FIN_ACK | FIN_ACK_URG | ACK | ACK_URG
    )
}

/// RFC 768.
fn udp<P: Packet>(packet: &P, info: &mut PacketInfo) -> Result<(), Reason> {
    if info.transport_length < UDP_HEADER_BYTES {
        return Err(Reason::UdpTruncated);
    }
    let header = packet
        .header(info.transport_offset, UDP_HEADER_BYTES)
        .ok_or(Reason::UdpTruncated)?;
    info.source_port = header.u16(0);
    info.destination_port = header.u16(2);
    let length = u32::from(header.u16(4));
    let is_whole = matches!(info.fragment, Fragment::Whole);
    if length < UDP_HEADER_BYTES || (is_whole && length > info.transport_length) {
        return Err(Reason::UdpBadLength);
    }
    Ok(())
}

/// RFC 3828 section 3.1: in place of a length stands how many bytes the checksum covers.
fn udplite<P: Packet>(packet: &P, info: &mut PacketInfo) -> Result<(), Reason> {
    if info.transport_length < UDP_HEADER_BYTES {
        return Err(Reason::UdpliteTruncated);
    }
    let header = packet
        .header(info.transport_offset, UDP_HEADER_BYTES)
        .ok_or(Reason::UdpliteTruncated)?;
    info.source_port = header.u16(0);
    info.destination_port = header.u16(2);
    let coverage = u32::from(header.u16(4));
    let is_whole = matches!(info.fragment, Fragment::Whole);
    let is_too_long = is_whole && coverage > info.transport_length;
    // Zero: all of it.
    if coverage != 0 && (coverage < UDP_HEADER_BYTES || is_too_long) {
        return Err(Reason::UdpliteBadCoverage);
    }
    if header.u16(6) == 0 {
        return Err(Reason::UdpliteNoChecksum);
    }
    Ok(())
}

/// RFC 9260 section 3.1. The rest of the packet is read later, see [`crate::conntrack::sctp`].
fn sctp<P: Packet>(packet: &P, info: &mut PacketInfo) -> Result<(), Reason> {
    if info.transport_length < SCTP_HEADER_BYTES {
        return Err(Reason::SctpTruncated);
    }
    let header = packet
        .header(info.transport_offset, SCTP_HEADER_BYTES)
        .ok_or(Reason::SctpTruncated)?;
    info.source_port = header.u16(0);
    info.destination_port = header.u16(2);
    Ok(())
}

fn gre<P: Packet>(packet: &P, info: &mut PacketInfo) -> Result<(), Reason> {
    info.destination_port = gre_call(packet, info.transport_offset, info.transport_length)?;
    Ok(())
}

/// The call that a packet of PPTP's GRE (RFC 2637 section 4.1) is for; zero for any other GRE, whose
/// flows go by addresses. The tuple has it as its destination, since each end chooses the identifier
/// of the packets that it gets.
pub(super) fn gre_call<P: Packet>(packet: &P, offset: u32, length: u32) -> Result<u16, Reason> {
    if length < GRE_HEADER_BYTES {
        return Ok(0);
    }
    let Some(header) = packet.header(offset, GRE_HEADER_BYTES) else {
        return Ok(0);
    };
    if header.u16(0) & GRE_VERSION != GRE_VERSION_PPTP || length < GRE_CALL_BYTES {
        return Ok(0);
    }
    let Some(header) = packet.header(offset, GRE_CALL_BYTES) else {
        return Ok(0);
    };
    if header.u16(2) != ETHERTYPE_PPP {
        return Err(Reason::GreBadProtocol);
    }
    Ok(header.u16(6))
}

/// RFC 792 and RFC 4443 section 2.1.
fn icmp<P: Packet>(packet: &P, info: &mut PacketInfo) -> Result<(), Reason> {
    if info.transport_length < ICMP_HEADER_BYTES {
        return Err(Reason::IcmpTruncated);
    }
    let header = packet
        .header(info.transport_offset, ICMP_HEADER_BYTES)
        .ok_or(Reason::IcmpTruncated)?;
    info.destination_port = header.u16(0);
    info.source_port = header.u16(4);
    Ok(())
}

/// Verifies a checksum over so many bytes, all in one packet. What is out of direct reach is not
/// verified: the receiver will.
#[inline(always)]
fn is_checksum_right<P: Packet>(
    packet: &P,
    info: &PacketInfo,
    (stored, covered): (u16, u32),
    checksums: Checksums,
) -> bool {
    let pseudo = if info.protocol == ICMP {
        0
    } else {
        pseudo_header_sum(info)
    };
    if matches!(checksums, Checksums::UnverifiedOrPartial) && stored == fold(pseudo) {
        return true;
    }
    match packet.sum(info.transport_offset, covered) {
        Some(sum) => fold(pseudo + u32::from(sum)) == 0xffff,
        None => true,
    }
}

/// Sum over the pseudo-header (RFC 9293 section 3.1, RFC 8200 section 8.1), not folded: at most
/// 18 terms of 16 bits.
#[inline(always)]
pub(crate) const fn pseudo_header_sum(info: &PacketInfo) -> u32 {
    let addresses = match info.family {
        Family::V4 => {
            let ([source, ..], [destination, ..]) = (info.source, info.destination);
            (source >> 16) + (source & 0xffff) + (destination >> 16) + (destination & 0xffff)
        }
        Family::V6 => halves(&info.source) + halves(&info.destination),
    };
    addresses
        + info.protocol as u32
        + (info.transport_length >> 16)
        + (info.transport_length & 0xffff)
}

const fn halves(address: &[u32; 4]) -> u32 {
    let [a, b, c, d] = *address;
    (a >> 16)
        + (a & 0xffff)
        + (b >> 16)
        + (b & 0xffff)
        + (c >> 16)
        + (c & 0xffff)
        + (d >> 16)
        + (d & 0xffff)
}

pub(crate) const fn fold(sum: u32) -> u16 {
    let once = (sum & 0xffff) + (sum >> 16);
    ((once & 0xffff) + (once >> 16)) as u16
}
