//! The runs of bytes that were seen of a datagram, a word each: from (32), up to (32), zero for none.

use super::bucket::{NONE, RUNS};
use crate::host::{Repeat, Words};
use crate::limits::{FRAGMENT_RUNS_MAX, FRAGMENT_UNIT_BYTES};

pub(super) const fn run(start: u32, end: u32) -> u64 {
    ((start as u64) << 32) | end as u64
}

/// Offsets count in units, so a last fragment is as good as one that fills its last unit.
pub(super) const fn rounded(end: u32) -> u32 {
    end.next_multiple_of(FRAGMENT_UNIT_BYTES)
}

/// How a fragment lies to what was seen.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Meets {
    Nothing,
    /// A run that holds all of it.
    Holds,
    /// A run that holds a part of it.
    Part,
}

/// Holds a fragment against the runs of its datagram.
pub(super) struct Fit<W> {
    pub(super) words: W,
    pub(super) at: u32,
    pub(super) start: u32,
    pub(super) end: u32,
    pub(super) meets: Meets,
    /// The run that ends where the fragment starts.
    pub(super) left: u32,
    /// The run that starts where the fragment ends.
    pub(super) right: u32,
    pub(super) free: u32,
    /// Where the last run ends.
    pub(super) highest: u32,
}

impl<W: Words> Repeat for Fit<W> {
    fn step(&mut self) -> bool {
        let at = self.at & (FRAGMENT_RUNS_MAX - 1);
        let word = self.words.load(RUNS + at);
        let (start, end) = ((word >> 32) as u32, word as u32);
        self.at += 1;
        if end == 0 {
            self.free = at;
            return true;
        }
        if end > self.highest {
            self.highest = end;
        }
        if start < self.end && self.start < end {
            let is_held = start <= self.start && self.end <= end;
            if is_held && matches!(self.meets, Meets::Nothing) {
                self.meets = Meets::Holds;
            } else {
                self.meets = Meets::Part;
            }
        } else if end == self.start {
            self.left = at;
        } else if start == self.end {
            self.right = at;
        }
        true
    }
}

impl<W: Words> Fit<W> {
    /// Writes the fragment down, as one with its neighbours; `start` and `end` are then those of the
    /// run that holds it.
    #[inline(always)]
    pub(super) fn place(&mut self) -> bool {
        let mut to = self.free;
        if self.left != NONE {
            let at = self.left & (FRAGMENT_RUNS_MAX - 1);
            self.start = (self.words.load(RUNS + at) >> 32) as u32;
            self.words.store(RUNS + at, 0);
            to = at;
        }
        if self.right != NONE {
            let at = self.right & (FRAGMENT_RUNS_MAX - 1);
            self.end = self.words.load(RUNS + at) as u32;
            self.words.store(RUNS + at, 0);
            to = at;
        }
        if to == NONE {
            return false;
        }
        let to = to & (FRAGMENT_RUNS_MAX - 1);
        self.words.store(RUNS + to, run(self.start, self.end));
        true
    }
}
