//! Packets that are sent back in the place of the one that came.

pub mod segment;

use crate::limits::ANSWER_WORDS;
use crate::settings::checked_index;

/// An IP packet to be sent back: its words in network order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Answer {
    pub words: [u32; ANSWER_WORDS],
    /// Bytes of it, a multiple of four.
    pub length: u32,
}

impl Answer {
    pub(crate) const NOTHING: Self = Self {
        words: [0; ANSWER_WORDS],
        length: 0,
    };
}

/// Writes an answer word by word, and sums what it writes (RFC 1071).
struct Writer<'a> {
    answer: &'a mut Answer,
    /// The word that comes next.
    at: usize,
    sum: u64,
}

impl Writer<'_> {
    #[inline(always)]
    fn put(&mut self, value: u32) {
        self.sum += u64::from(value);
        if let Some(word) = self.answer.words.get_mut(checked_index(self.at)) {
            *word = value.to_be();
        }
        self.at += 1;
    }
}

/// The checksum of what has a sum of 32-bit words: a sum of 16-bit words has the same remainder
/// (RFC 1071 section 2, C).
#[inline(always)]
pub(crate) const fn checksum(sum: u64) -> u16 {
    let sum = (sum >> 32) + (sum & 0xffff_ffff);
    let sum = (sum >> 16) + (sum & 0xffff);
    let sum = (sum >> 16) + (sum & 0xffff);
    let sum = (sum >> 16) + (sum & 0xffff);
    !(sum as u16)
}
