//! The bytes of an answer.

use super::RESET;
use crate::notice::{Notice, NoticeKind};
use crate::tuple::Address;
use crate::verdict::Hook;
use crate::wire::transport::{ICMP, ICMPV6, TCP, tcp_flag};

/// Longest ICMP error with its IP header (RFC 1812 section 4.3.2.3).
const ERROR_BYTES_V4: usize = 576;

/// The same of ICMPv6: the smallest MTU (RFC 4443 section 2.4 c).
const ERROR_BYTES_V6: usize = 1280;

const IPV4_HEADER: usize = 20;
const IPV6_HEADER: usize = 40;
const ICMP_HEADER: usize = 8;
const TCP_HEADER: usize = 20;

/// Hops that an answer may take (`ip_default_ttl`, `hop_limit`).
const HOPS: u8 = 64;

const DONT_FRAGMENT: u16 = 0x4000;
const UNREACHABLE_V4: u8 = 3;
const UNREACHABLE_V6: u8 = 1;

/// Bits of the type of service that an ICMP error takes over, and the precedence that it has
/// (RFC 1812 section 4.3.2.5).
const TOS_KEPT: u8 = 0x1e;
const INTERNET_CONTROL: u8 = 0xc0;

/// An answer, from its IP header on. An IPv4 header's identification is zero, for the sender to fill in.
#[derive(Clone, Debug)]
pub struct Answer {
    bytes: [u8; ERROR_BYTES_V6],
    length: usize,
}

/// Whether the answer comes from an address of this host that is not known from the packet.
pub const fn needs_source(notice: &Notice) -> bool {
    notice.number != RESET && notice.hook != Hook::Input as u8
}

/// The answer to a packet that was handed over with this notice, `frame` being its bytes. `source` is whom
/// it comes from where [`needs_source`] says so. `None` for what cannot be answered.
pub fn build(notice: &Notice, frame: &[u8], source: Option<Address>) -> Option<Answer> {
    if notice.kind != NoticeKind::Answer as u8 {
        return None;
    }
    let begin = notice.ip_offset as usize;
    let end = begin
        .checked_add(notice.ip_length as usize)?
        .min(frame.len());
    let packet = frame.get(begin..end)?;
    let header = notice.transport_offset.checked_sub(notice.ip_offset)? as usize;
    let mut answer = Answer {
        bytes: [0; ERROR_BYTES_V6],
        length: 0,
    };
    match (notice.family, notice.number) {
        (0, RESET) => answer.reset_v4(notice, packet, header)?,
        (0, code) => answer.error_v4(packet, code as u8, source)?,
        (_, RESET) => answer.reset_v6(notice, packet, header)?,
        (_, code) => answer.error_v6(packet, code as u8, source)?,
    }
    Some(answer)
}

impl Answer {
    pub fn bytes(&self) -> &[u8] {
        self.bytes.get(..self.length).unwrap_or_default()
    }

    fn error_v4(&mut self, packet: &[u8], code: u8, source: Option<Address>) -> Option<()> {
        let quoted = packet.get(..packet.len().min(ERROR_BYTES_V4 - IPV4_HEADER - ICMP_HEADER))?;
        let tos = packet.get(1)? & TOS_KEPT | INTERNET_CONTROL;
        let own = match source {
            Some([address, ..]) => address.to_be_bytes(),
            None => packet.get(16..20)?.try_into().ok()?,
        };
        let peer = packet.get(12..16)?.try_into().ok()?;
        let length = IPV4_HEADER + ICMP_HEADER + quoted.len();
        self.header_v4(length, tos, 0, ICMP, (own, peer));
        self.put(&[UNREACHABLE_V4, code, 0, 0, 0, 0, 0, 0]);
        self.put(quoted);
        let sum = sum(0, self.bytes.get(IPV4_HEADER..length)?);
        self.set16(IPV4_HEADER + 2, finish(sum));
        Some(())
    }

    fn error_v6(&mut self, packet: &[u8], code: u8, source: Option<Address>) -> Option<()> {
        let quoted = packet.get(..packet.len().min(ERROR_BYTES_V6 - IPV6_HEADER - ICMP_HEADER))?;
        let own = match source {
            Some(words) => bytes_of(&words),
            None => packet.get(24..40)?.try_into().ok()?,
        };
        let peer = packet.get(8..24)?.try_into().ok()?;
        let length = ICMP_HEADER + quoted.len();
        self.header_v6(length, ICMPV6, (own, peer));
        self.put(&[UNREACHABLE_V6, code, 0, 0, 0, 0, 0, 0]);
        self.put(quoted);
        self.close_v6(ICMPV6, 2, length)
    }

    fn reset_v4(&mut self, notice: &Notice, packet: &[u8], header: usize) -> Option<()> {
        let length = IPV4_HEADER + TCP_HEADER;
        let own = packet.get(16..20)?.try_into().ok()?;
        let peer = packet.get(12..16)?.try_into().ok()?;
        self.header_v4(length, 0, DONT_FRAGMENT, TCP, (own, peer));
        self.reset(notice, packet.get(header..)?, header)?;
        let pseudo = sum(0, self.bytes.get(12..IPV4_HEADER)?);
        let pseudo = pseudo + u32::from(TCP) + TCP_HEADER as u32;
        let sum = sum(pseudo, self.bytes.get(IPV4_HEADER..length)?);
        self.set16(IPV4_HEADER + 16, finish(sum));
        Some(())
    }

    fn reset_v6(&mut self, notice: &Notice, packet: &[u8], header: usize) -> Option<()> {
        let own = packet.get(24..40)?.try_into().ok()?;
        let peer = packet.get(8..24)?.try_into().ok()?;
        self.header_v6(TCP_HEADER, TCP, (own, peer));
        self.reset(notice, packet.get(header..)?, header)?;
        self.close_v6(TCP, 16, TCP_HEADER)
    }

    /// RFC 9293 section 3.5.2: who speaks of an acknowledgement gets a RST with its number, anybody else
    /// one that acknowledges what came.
    fn reset(&mut self, notice: &Notice, segment: &[u8], header: usize) -> Option<()> {
        let flags = *segment.get(13)?;
        let header_length = usize::from(segment.get(12)? >> 4) * 4;
        let bytes = (notice.ip_length as usize).checked_sub(header)?;
        let payload = bytes.checked_sub(header_length)? as u32;
        let word = |at: usize| {
            let bytes = segment.get(at..at + 4)?.try_into().ok()?;
            Some(u32::from_be_bytes(bytes))
        };
        let (sequence, ack, own_flags) = if flags & tcp_flag::ACK != 0 {
            (word(8)?, 0, tcp_flag::RST)
        } else {
            let syn = u32::from(flags & tcp_flag::SYN != 0);
            let fin = u32::from(flags & tcp_flag::FIN != 0);
            let next = word(4)?.wrapping_add(syn + fin).wrapping_add(payload);
            (0, next, tcp_flag::RST | tcp_flag::ACK)
        };
        self.put(segment.get(2..4)?);
        self.put(segment.get(0..2)?);
        self.put(&u32::to_be_bytes(sequence));
        self.put(&u32::to_be_bytes(ack));
        self.put(&[(TCP_HEADER as u8 / 4) << 4, own_flags, 0, 0, 0, 0, 0, 0]);
        Some(())
    }

    fn header_v4(
        &mut self,
        length: usize,
        tos: u8,
        fragment: u16,
        protocol: u8,
        (own, peer): ([u8; 4], [u8; 4]),
    ) {
        self.put(&[0x45, tos]);
        self.put(&(length as u16).to_be_bytes());
        self.put(&[0, 0]);
        self.put(&fragment.to_be_bytes());
        self.put(&[HOPS, protocol, 0, 0]);
        self.put(&own);
        self.put(&peer);
        let sum = sum(0, self.bytes.get(..IPV4_HEADER).unwrap_or_default());
        self.set16(10, finish(sum));
    }

    fn header_v6(&mut self, length: usize, protocol: u8, (own, peer): ([u8; 16], [u8; 16])) {
        self.put(&[0x60, 0, 0, 0]);
        self.put(&(length as u16).to_be_bytes());
        self.put(&[protocol, HOPS]);
        self.put(&own);
        self.put(&peer);
    }

    /// Writes the checksum of what follows an IPv6 header, at an offset in it.
    fn close_v6(&mut self, protocol: u8, at: usize, length: usize) -> Option<()> {
        let pseudo = sum(0, self.bytes.get(8..IPV6_HEADER)?);
        let pseudo = pseudo + u32::from(protocol) + length as u32;
        let sum = sum(pseudo, self.bytes.get(IPV6_HEADER..IPV6_HEADER + length)?);
        self.set16(IPV6_HEADER + at, finish(sum));
        Some(())
    }

    fn put(&mut self, bytes: &[u8]) {
        let end = self.length + bytes.len();
        if let Some(place) = self.bytes.get_mut(self.length..end) {
            place.copy_from_slice(bytes);
            self.length = end;
        }
    }

    fn set16(&mut self, at: usize, value: u16) {
        if let Some(place) = self.bytes.get_mut(at..at + 2) {
            place.copy_from_slice(&value.to_be_bytes());
        }
    }
}

fn bytes_of(words: &Address) -> [u8; 16] {
    let mut bytes = [0; 16];
    for (place, word) in bytes.chunks_exact_mut(4).zip(words) {
        place.copy_from_slice(&word.to_be_bytes());
    }
    bytes
}

/// Ones' complement sum (RFC 1071), not folded: of less than 64 KiB it does not overflow.
fn sum(begun: u32, bytes: &[u8]) -> u32 {
    bytes.chunks(2).fold(begun, |sum, pair| match pair {
        [high, low] => sum + u32::from(u16::from_be_bytes([*high, *low])),
        [last] => sum + (u32::from(*last) << 8),
        _ => sum,
    })
}

fn finish(sum: u32) -> u16 {
    let folded = (sum & 0xffff) + (sum >> 16);
    !(((folded & 0xffff) + (folded >> 16)) as u16)
}
