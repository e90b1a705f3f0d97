//! The SYN-ACK that carries a cookie.

use super::{Answer, Writer, checksum};
use crate::limits::{COOKIE_HOP_LIMIT, COOKIE_TCP_OPTION_BYTES_MAX};
use crate::tuple::Family;
use crate::wire::PacketInfo;
use crate::wire::transport::{TCP, tcp_flag};

/// What a SYN is answered with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SynAck {
    /// The cookie.
    pub sequence: u32,
    /// Not scaled.
    pub window: u16,
    /// `None` for what the client did not send: so the answer is never longer than its SYN.
    pub mss: Option<u16>,
    /// Value and echo (RFC 7323 section 3.2).
    pub timestamps: Option<[u32; 2]>,
    pub scale: Option<u8>,
    /// With timestamps alone: where there are none, nobody remembers it.
    pub sack_permitted: bool,
    /// RFC 3168 section 6.1.1.
    pub ecn: bool,
}

/// Bytes of a TCP header without options, and of the headers before it.
const TCP_HEADER_BYTES: u32 = 20;
const IPV4_HEADER_BYTES: u32 = 20;
const IPV6_HEADER_BYTES: u32 = 40;

const DONT_FRAGMENT: u32 = 0x4000;

// Options with their padding (RFC 9293 section 3.1, RFC 2018, RFC 7323).
const MSS: u32 = 0x0204_0000;
const SACK_PERMITTED_AND_TIMESTAMPS: u32 = 0x0402_080a;
const TIMESTAMPS: u32 = 0x0101_080a;
const SCALE: u32 = 0x0103_0300;

/// Writes the answer to a SYN, from its IP header on.
#[inline(always)]
pub fn write(info: &PacketInfo, syn_ack: &SynAck, answer: &mut Answer) {
    let tcp_length = TCP_HEADER_BYTES + option_bytes(syn_ack);
    let mut writer = Writer {
        answer,
        at: 0,
        sum: 0,
    };
    match info.family {
        Family::V4 => ipv4(info, tcp_length, &mut writer),
        Family::V6 => ipv6(info, tcp_length, &mut writer),
    }
    tcp(info, syn_ack, tcp_length, &mut writer);
}

const fn option_bytes(syn_ack: &SynAck) -> u32 {
    let mut bytes = 0;
    if syn_ack.mss.is_some() {
        bytes += 4;
    }
    if syn_ack.timestamps.is_some() {
        bytes += 12;
    }
    if syn_ack.scale.is_some() {
        bytes += 4;
    }
    bytes
}

const _: () = assert!(4 + 12 + 4 == COOKIE_TCP_OPTION_BYTES_MAX);

/// Leaves in the sum what TCP's pseudo-header has of it (RFC 9293 section 3.1).
#[inline(always)]
fn ipv4(info: &PacketInfo, tcp_length: u32, writer: &mut Writer<'_>) {
    let total = IPV4_HEADER_BYTES + tcp_length;
    let (source, destination) = (info.destination[0], info.source[0]);
    let first = 0x4500_0000 | total;
    let third = COOKIE_HOP_LIMIT << 24 | u32::from(TCP) << 16;
    let addresses = u64::from(source) + u64::from(destination);
    let sum = u64::from(first) + u64::from(DONT_FRAGMENT) + u64::from(third) + addresses;
    writer.answer.length = total;
    writer.put(first);
    writer.put(DONT_FRAGMENT);
    writer.put(third | u32::from(checksum(sum)));
    writer.put(source);
    writer.put(destination);
    writer.sum = addresses + u64::from(TCP) + u64::from(tcp_length);
}

/// The same (RFC 8200 section 8.1).
#[inline(always)]
fn ipv6(info: &PacketInfo, tcp_length: u32, writer: &mut Writer<'_>) {
    writer.answer.length = IPV6_HEADER_BYTES + tcp_length;
    writer.put(0x6000_0000);
    writer.put(tcp_length << 16 | u32::from(TCP) << 8 | COOKIE_HOP_LIMIT);
    writer.sum = u64::from(TCP) + u64::from(tcp_length);
    for word in info.destination {
        writer.put(word);
    }
    for word in info.source {
        writer.put(word);
    }
}

#[inline(always)]
fn tcp(info: &PacketInfo, syn_ack: &SynAck, length: u32, writer: &mut Writer<'_>) {
    let flags = if syn_ack.ecn { tcp_flag::ECE } else { 0 } | tcp_flag::SYN | tcp_flag::ACK;
    writer.put(u32::from(info.destination_port) << 16 | u32::from(info.source_port));
    writer.put(syn_ack.sequence);
    writer.put(info.tcp_sequence.wrapping_add(1));
    writer.put((length / 4) << 28 | u32::from(flags) << 16 | u32::from(syn_ack.window));
    let of_checksum = writer.at;
    writer.put(0);
    if let Some(mss) = syn_ack.mss {
        writer.put(MSS | u32::from(mss));
    }
    if let Some([value, echo]) = syn_ack.timestamps {
        writer.put(if syn_ack.sack_permitted {
            SACK_PERMITTED_AND_TIMESTAMPS
        } else {
            TIMESTAMPS
        });
        writer.put(value);
        writer.put(echo);
    }
    if let Some(scale) = syn_ack.scale {
        writer.put(SCALE | u32::from(scale));
    }
    writer.at = of_checksum;
    let checksum = checksum(writer.sum);
    writer.put(u32::from(checksum) << 16);
}
