//! TCP segments without payload.

use super::{Answer, Writer, checksum};
use crate::limits::{COOKIE_HOP_LIMIT, COOKIE_TCP_OPTION_BYTES_MAX};
use crate::tuple::{Address, Family};
use crate::wire::PacketInfo;
use crate::wire::transport::TCP;

/// Where a segment goes that takes the place of another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Heading {
    /// To the sender of the other.
    Back,
    /// To its receiver.
    Onward,
}

/// In place of a window scale.
pub const NO_SCALE: u8 = u8::MAX;

/// A segment to be sent. Nothing in it is undefined where it is not there: Linux 6.1 does not let programs pass on
/// what it does not know.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Segment {
    pub heading: Heading,
    pub sequence: u32,
    pub acknowledgement: u32,
    pub flags: u8,
    /// Not scaled.
    pub window: u16,
    /// In an answer to a SYN zero, for none, where the client sent none; likewise below: so it is never longer than that.
    pub mss: u16,
    pub has_timestamps: bool,
    /// Value and echo (RFC 7323 section 3.2).
    pub timestamps: [u32; 2],
    /// Or [`NO_SCALE`].
    pub scale: u8,
    pub sack_permitted: bool,
    /// One byte of zero, which the receiver has had: it answers at once (RFC 9293 section 3.8.4).
    pub probes: bool,
    /// The checksum is that of the pseudo-header, and the rest is added on the way out.
    pub is_partial: bool,
}

/// Bytes of a TCP header without options, and of the headers before it.
const TCP_HEADER_BYTES: u32 = 20;
const IPV4_HEADER_BYTES: u32 = 20;
const IPV6_HEADER_BYTES: u32 = 40;

const DONT_FRAGMENT: u32 = 0x4000;

// Options with their padding (RFC 9293 section 3.1, RFC 2018, RFC 7323).
const MSS: u32 = 0x0204_0000;
const SACK_PERMITTED_AND_TIMESTAMPS: u32 = 0x0402_080a;
const SACK_PERMITTED: u32 = 0x0101_0402;
const TIMESTAMPS: u32 = 0x0101_080a;
const SCALE: u32 = 0x0103_0300;

/// Writes a segment in place of a packet, from its IP header on.
#[inline(always)]
pub fn write(info: &PacketInfo, segment: &Segment, answer: &mut Answer) {
    let tcp_length = TCP_HEADER_BYTES + option_bytes(segment) + u32::from(segment.probes);
    let (source, destination) = match segment.heading {
        Heading::Back => (info.destination, info.source),
        Heading::Onward => (info.source, info.destination),
    };
    let mut writer = Writer {
        answer,
        at: 0,
        sum: 0,
    };
    match info.family {
        Family::V4 => ipv4(source[0], destination[0], tcp_length, &mut writer),
        Family::V6 => ipv6(&source, &destination, tcp_length, &mut writer),
    }
    tcp(info, segment, &mut writer);
    // What lies behind the packet's end is padding.
    answer.length = answer.length.next_multiple_of(4);
}

const fn option_bytes(segment: &Segment) -> u32 {
    let mut bytes = 0;
    if segment.mss != 0 {
        bytes += 4;
    }
    if segment.has_timestamps {
        bytes += 12;
    } else if segment.sack_permitted {
        bytes += 4;
    }
    if segment.scale != NO_SCALE {
        bytes += 4;
    }
    bytes
}

const _: () = assert!(4 + 12 + 4 == COOKIE_TCP_OPTION_BYTES_MAX);

/// Leaves in the sum what TCP's pseudo-header has of it (RFC 9293 section 3.1).
#[inline(always)]
fn ipv4(source: u32, destination: u32, tcp_length: u32, writer: &mut Writer<'_>) {
    let total = IPV4_HEADER_BYTES + tcp_length;
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
fn ipv6(source: &Address, destination: &Address, tcp_length: u32, writer: &mut Writer<'_>) {
    writer.answer.length = IPV6_HEADER_BYTES + tcp_length;
    writer.put(0x6000_0000);
    writer.put(tcp_length << 16 | u32::from(TCP) << 8 | COOKIE_HOP_LIMIT);
    writer.sum = u64::from(TCP) + u64::from(tcp_length);
    for word in *source {
        writer.put(word);
    }
    for word in *destination {
        writer.put(word);
    }
}

#[inline(always)]
fn tcp(info: &PacketInfo, segment: &Segment, writer: &mut Writer<'_>) {
    let pseudo = writer.sum;
    let header = (TCP_HEADER_BYTES + option_bytes(segment)) / 4;
    let (source, destination) = match segment.heading {
        Heading::Back => (info.destination_port, info.source_port),
        Heading::Onward => (info.source_port, info.destination_port),
    };
    writer.put(u32::from(source) << 16 | u32::from(destination));
    writer.put(segment.sequence);
    writer.put(segment.acknowledgement);
    writer.put(header << 28 | u32::from(segment.flags) << 16 | u32::from(segment.window));
    let of_checksum = writer.at;
    writer.put(0);
    if segment.mss != 0 {
        writer.put(MSS | u32::from(segment.mss));
    }
    if segment.has_timestamps {
        let [value, echo] = segment.timestamps;
        writer.put(if segment.sack_permitted {
            SACK_PERMITTED_AND_TIMESTAMPS
        } else {
            TIMESTAMPS
        });
        writer.put(value);
        writer.put(echo);
    } else if segment.sack_permitted {
        writer.put(SACK_PERMITTED);
    }
    if segment.scale != NO_SCALE {
        writer.put(SCALE | u32::from(segment.scale));
    }
    if segment.probes {
        writer.put(0);
    }
    writer.at = of_checksum;
    let checksum = match segment.is_partial {
        true => !checksum(pseudo),
        false => checksum(writer.sum),
    };
    writer.put(u32::from(checksum) << 16);
}
