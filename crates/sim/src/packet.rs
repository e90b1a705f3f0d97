//! A packet in user space: a slice.

use keepstate_engine::host::{Header, Packet, Payload};

/// The bytes of a packet, from its link-layer header (or IP header where there is none).
#[derive(Clone, Copy, Debug)]
pub struct Bytes<'a>(pub &'a [u8]);

/// Some bytes of a packet. Reads beyond them give zero, as [`Header`] asks for.
#[derive(Clone, Copy, Debug)]
pub struct View<'a>(&'a [u8]);

impl<'a> Packet for Bytes<'a> {
    type Header = View<'a>;
    type Payload = View<'a>;

    #[inline(always)]
    fn len(&self) -> u32 {
        self.0.len() as u32
    }

    #[inline(always)]
    fn header(&self, offset: u32, size: u32) -> Option<View<'a>> {
        range(self.0, offset, size).map(View)
    }

    #[inline]
    fn payload(&self, offset: u32, length: u32) -> Option<View<'a>> {
        range(self.0, offset, length).map(View)
    }

    #[inline]
    fn sum(&self, offset: u32, length: u32) -> Option<u16> {
        range(self.0, offset, length).map(ones_complement_sum)
    }
}

impl Payload for View<'_> {
    #[inline(always)]
    fn byte(self, at: u32) -> u8 {
        self.u8(at)
    }
}

impl Header for View<'_> {
    #[inline(always)]
    fn u8(self, at: u32) -> u8 {
        self.0.get(at as usize).copied().unwrap_or(0)
    }

    #[inline(always)]
    fn u16(self, at: u32) -> u16 {
        match self.0.get(at as usize..at as usize + 2) {
            Some(&[high, low]) => u16::from_be_bytes([high, low]),
            _ => u16::from(self.u8(at)) << 8,
        }
    }

    #[inline(always)]
    fn u32(self, at: u32) -> u32 {
        match self.0.get(at as usize..at as usize + 4) {
            Some(&[a, b, c, d]) => u32::from_be_bytes([a, b, c, d]),
            _ => (u32::from(self.u16(at)) << 16) | u32::from(self.u16(at.wrapping_add(2))),
        }
    }
}

/// RFC 1071: the ones' complement sum of 16-bit words, not complemented.
///
/// Adds 32-bit words in the machine's order: their carries come back when the sum is folded, a packet
/// has too few of them for 64 bits, and the order of bytes is put right at the end (section 2, B).
pub fn ones_complement_sum(bytes: &[u8]) -> u16 {
    let halves = |word: u64| (word >> 32) + (word & 0xffff_ffff);
    let (words, rest) = bytes.as_chunks::<8>();
    let mut sum: u64 = words
        .iter()
        .map(|word| halves(u64::from_ne_bytes(*word)))
        .sum();
    let (words, rest) = rest.as_chunks::<4>();
    sum += words
        .iter()
        .map(|word| u64::from(u32::from_ne_bytes(*word)))
        .sum::<u64>();
    let last = match *rest {
        [] => [0; 4],
        [a] => [a, 0, 0, 0],
        [a, b] => [a, b, 0, 0],
        [a, b, c, ..] => [a, b, c, 0],
    };
    sum += u64::from(u32::from_ne_bytes(last));
    sum = halves(sum);
    sum = (sum & 0xffff) + (sum >> 16);
    sum = (sum & 0xffff) + (sum >> 16);
    sum = (sum & 0xffff) + (sum >> 16);
    u16::from_be(sum as u16)
}

#[inline(always)]
fn range(bytes: &[u8], offset: u32, size: u32) -> Option<&[u8]> {
    let end = offset.checked_add(size)?;
    bytes.get(offset as usize..end as usize)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sums_like_rfc_1071() {
        assert_eq!(
            ones_complement_sum(&[0x00, 0x01, 0xf2, 0x03, 0xf4, 0xf5, 0xf6, 0xf7]),
            0xddf2
        );
        assert_eq!(ones_complement_sum(&[0xff]), 0xff00);
        assert_eq!(ones_complement_sum(&[]), 0);
        assert_eq!(ones_complement_sum(&[0xff; 40]), 0xffff);
    }

    #[test]
    fn reads_only_what_is_there() {
        let bytes = [1, 2, 3, 4, 5];
        let packet = Bytes(&bytes);
        assert!(packet.header(0, 6).is_none());
        assert!(packet.header(u32::MAX, 2).is_none());
        assert_eq!(
            packet.header(1, 4).map(|view| view.u32(0)),
            Some(0x0203_0405)
        );
        assert_eq!(packet.header(4, 1).map(|view| view.u16(0)), Some(0x0500));
    }
}
