//! CRC32c, the checksum of SCTP (RFC 9260 appendix A).

use super::{Fragment, PacketInfo, effective_checksums, transport};
use crate::conntrack::sctp::chunks::Walk;
use crate::host::{Header, Host, Packet, Repeat};
use crate::limits::CRC_ROUNDS_MAX;
use crate::process::{Checksums, Run};
use crate::settings::checked_index;

/// The polynomial, bits reversed.
const POLYNOMIAL: u32 = 0x82f6_3b78;

/// Bytes that one round takes while there are as many.
const STRIDE: u32 = 16;

/// What a byte contributes.
static TABLE: [u32; 256] = table();

const fn table() -> [u32; 256] {
    let mut table = [0; 256];
    let mut byte = 0;
    while byte < 256 {
        let mut crc = byte as u32;
        let mut bit = 0;
        while bit < 8 {
            crc = (crc >> 1) ^ (POLYNOMIAL & 0_u32.wrapping_sub(crc & 1));
            bit += 1;
        }
        table[byte] = crc;
        byte += 1;
    }
    table
}

#[inline(always)]
fn with_byte(crc: u32, byte: u8) -> u32 {
    let own = TABLE.get(checked_index(usize::from(crc as u8 ^ byte)));
    own.copied().unwrap_or_default() ^ (crc >> 8)
}

/// Four bytes, as they are read in network order.
#[inline(always)]
fn with_word(crc: u32, word: u32) -> u32 {
    let [a, b, c, d] = word.to_be_bytes();
    with_byte(with_byte(with_byte(with_byte(crc, a), b), c), d)
}

/// Whether the checksum of an SCTP packet is right, or there is no reason to look.
///
/// Fragments cannot be verified, and what is out of direct reach is not: the receiver will.
#[inline(always)]
pub(crate) fn is_right<P: Packet, H: Host>(
    run: &Run<'_, P, H>,
    info: &PacketInfo,
    walk: &mut Walk,
) -> bool {
    let checksums = effective_checksums(run.arrival, run.host.settings());
    if matches!(checksums, Checksums::Trusted) || !matches!(info.fragment, Fragment::Whole) {
        return true;
    }
    let Some(header) = run
        .packet
        .header(info.transport_offset, transport::SCTP_HEADER_BYTES)
    else {
        return true;
    };
    // The least significant byte is sent first.
    let stored = header.u32(8).swap_bytes();
    // A local peer that leaves the sum to hardware writes none.
    if matches!(checksums, Checksums::UnverifiedOrPartial) && stored == 0 {
        return true;
    }
    let crc = with_word(with_word(u32::MAX, header.u32(0)), header.u32(4));
    walk.crc = with_word(crc, 0);
    walk.at = info.transport_offset + transport::SCTP_HEADER_BYTES;
    walk.end = info.transport_offset + info.transport_length;
    let mut sum = Sum {
        packet: run.packet,
        walk,
    };
    run.host.repeat(CRC_ROUNDS_MAX, &mut sum);
    walk.at < walk.end || !walk.crc == stored
}

/// The checksum under way: a stride, a word or a byte a round.
struct Sum<'a, P> {
    packet: &'a P,
    walk: &'a mut Walk,
}

impl<P: Packet> Repeat for Sum<'_, P> {
    #[inline(always)]
    fn step(&mut self) -> bool {
        let at = self.walk.at;
        let left = self.walk.end.saturating_sub(at);
        if left >= STRIDE {
            let Some(bytes) = self.packet.header(at, STRIDE) else {
                return false;
            };
            let crc = with_word(with_word(self.walk.crc, bytes.u32(0)), bytes.u32(4));
            self.walk.crc = with_word(with_word(crc, bytes.u32(8)), bytes.u32(12));
            self.walk.at = at + STRIDE;
            return true;
        }
        if left == 0 {
            return false;
        }
        let Some(byte) = self.packet.header(at, 1) else {
            return false;
        };
        self.walk.crc = with_byte(self.walk.crc, byte.u8(0));
        self.walk.at = at + 1;
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn check_value() {
        let crc = b"123456789"
            .iter()
            .fold(u32::MAX, |crc, byte| with_byte(crc, *byte));
        assert_eq!(!crc, 0xe306_9283);
    }
}
