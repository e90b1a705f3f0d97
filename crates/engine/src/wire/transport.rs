//! Ports, flags and lengths of TCP, UDP, ICMP and ICMPv6, and their checksums.

use super::{Fragment, PacketInfo};
use crate::host::{Header, Packet};
use crate::process::Checksums;
use crate::tuple::Family;
use crate::verdict::Reason;

pub const ICMP: u8 = 1;
pub const TCP: u8 = 6;
pub const UDP: u8 = 17;
pub const ICMPV6: u8 = 58;

const TCP_HEADER_BYTES: u32 = 20;
const UDP_HEADER_BYTES: u32 = 8;
const ICMP_HEADER_BYTES: u32 = 8;

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
#[cfg_attr(target_arch = "bpf", inline(never))]
#[cfg_attr(not(target_arch = "bpf"), inline)]
pub(super) fn read<P: Packet>(
    packet: &P,
    info: &mut PacketInfo,
    checksums: Checksums,
) -> Result<(), Reason> {
    match info.protocol {
        TCP => tcp(packet, info, checksums),
        UDP => udp(packet, info, checksums),
        ICMP if matches!(info.family, Family::V4) => icmp(packet, info, checksums),
        ICMPV6 if matches!(info.family, Family::V6) => icmp(packet, info, checksums),
        _ => Ok(()),
    }
}

/// RFC 9293 section 3.1.
fn tcp<P: Packet>(packet: &P, info: &mut PacketInfo, checksums: Checksums) -> Result<(), Reason> {
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
    let stored = header.u16(16);
    if !is_checksum_right(packet, info, stored, checksums) {
        return Err(Reason::TcpBadChecksum);
    }
    if !is_legal(info.tcp_flags) {
        return Err(Reason::TcpBadFlags);
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
fn udp<P: Packet>(packet: &P, info: &mut PacketInfo, checksums: Checksums) -> Result<(), Reason> {
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
    let stored = header.u16(6);
    // Zero: the sender computed none.
    if stored != 0 && !is_checksum_right(packet, info, stored, checksums) {
        return Err(Reason::UdpBadChecksum);
    }
    Ok(())
}

/// RFC 792 and RFC 4443 section 2.1.
fn icmp<P: Packet>(packet: &P, info: &mut PacketInfo, checksums: Checksums) -> Result<(), Reason> {
    if info.transport_length < ICMP_HEADER_BYTES {
        return Err(Reason::IcmpTruncated);
    }
    let header = packet
        .header(info.transport_offset, ICMP_HEADER_BYTES)
        .ok_or(Reason::IcmpTruncated)?;
    info.destination_port = header.u16(0);
    info.source_port = header.u16(4);
    if !is_checksum_right(packet, info, header.u16(2), checksums) {
        return Err(Reason::IcmpBadChecksum);
    }
    Ok(())
}

/// Verifies the checksum over the transport header and what follows, if there is reason to.
///
/// Fragments cannot be verified, and what is out of direct reach is not: the receiver will.
fn is_checksum_right<P: Packet>(
    packet: &P,
    info: &PacketInfo,
    stored: u16,
    checksums: Checksums,
) -> bool {
    if matches!(checksums, Checksums::Trusted) || !matches!(info.fragment, Fragment::Whole) {
        return true;
    }
    let pseudo = if info.protocol == ICMP {
        0
    } else {
        pseudo_header_sum(info)
    };
    if matches!(checksums, Checksums::UnverifiedOrPartial) && stored == fold(pseudo) {
        return true;
    }
    match packet.sum(info.transport_offset, info.transport_length) {
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
