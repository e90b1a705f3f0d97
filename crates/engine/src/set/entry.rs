//! Entries, and how they lie in the words of a bucket.

use core::ops::Range;

use super::{CONTENT_SHIFT, LENGTH_SHIFT, Name, PROTOCOL_SHIFT, head};
use crate::host::{FlowMemory, Words};
use crate::limits::SET_BUCKET_SLOTS;
use crate::settings::checked_index;
use crate::time::Tick;
use crate::tuple::Address;

// A head word: deadline in the low half, above it what follows.
pub(super) const USED: u64 = 1 << 32;
/// Somebody is filling the slot, since the moment in the low half.
pub(super) const TAKEN: u64 = 1 << 33;
pub(super) const FOR_EVER: u64 = 1 << 34;
pub(super) const NOMATCH: u64 = 1 << 35;
/// In slot 0: some entry that belongs here, or further down, lies in a later bucket. Stays.
pub(super) const SPILLED: u64 = 1 << 36;
pub(super) const FINGERPRINT: u64 = 0xffff << 48;

// Words of a bucket: heads of all slots first, which are all that a packet reads that finds nothing.
pub(super) const RESTS: u32 = SET_BUCKET_SLOTS;
pub(super) const HIGHS: u32 = 2 * SET_BUCKET_SLOTS;
pub(super) const LOWS: u32 = 3 * SET_BUCKET_SLOTS;

/// No [`Place`].
pub(super) const NOWHERE: u32 = u32::MAX;

/// Time after which a slot that is being filled was taken by a daemon that is no more: a second.
const TAKEN_TICKS_MAX: u32 = 16;

/// An entry of a content.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry {
    pub content: u32,
    pub address: Address,
    /// Bits that count.
    pub length: u8,
    pub protocol: u8,
    /// For ICMP `type << 8 | code`.
    pub port: u16,
    /// `None` for ever.
    pub deadline: Option<Tick>,
    /// What is in it is not in the set.
    pub is_nomatch: bool,
}

impl Entry {
    pub const fn is_over(&self, now: Tick) -> bool {
        match self.deadline {
            Some(deadline) => deadline.has_passed(now),
            None => false,
        }
    }
}

/// Where an entry lies, and what its head was when it was read.
#[derive(Clone, Copy, Debug)]
pub struct Place {
    bucket: u32,
    slot: u32,
    seen: u64,
}

pub(super) const fn is_over(head: u64, now: Tick) -> bool {
    head & FOR_EVER == 0 && Tick(head as u32).has_passed(now)
}

/// Whether the entry in a slot is this one.
#[inline(always)]
pub(super) fn is_same<W: Words>(words: W, slot: u32, head: u64, name: &Name) -> bool {
    if (head ^ name.fingerprint) & FINGERPRINT != 0 || head & USED == 0 {
        return false;
    }
    let rest = words.load(RESTS + slot) ^ name.rest;
    let high = words.load(HIGHS + slot) ^ name.high;
    let low = words.load(LOWS + slot) ^ name.low;
    // Another entry may have come meanwhile.
    rest | high | low == 0 && words.load(slot) & !SPILLED == head & !SPILLED
}

/// The slot of a place.
#[inline(always)]
pub(super) fn at<M: FlowMemory>(flows: &M, place: u32) -> Option<(M::Words, u32)> {
    if place == NOWHERE {
        return None;
    }
    let words = flows.sets(place / SET_BUCKET_SLOTS)?;
    let slot = checked_index((place % SET_BUCKET_SLOTS) as usize) as u32 & (SET_BUCKET_SLOTS - 1);
    Some((words, slot))
}

/// Changes a head that is as it was seen, but for the mark of slot 0, which stays.
#[inline(always)]
pub(super) fn exchange<W: Words>(words: W, slot: u32, seen: u64, new: u64) -> bool {
    let mark = words.load(slot) & SPILLED;
    let old = seen & !SPILLED | mark;
    words.compare_exchange(slot, old, new | mark) == old
}

/// Shows all entries of some buckets, those that are over included.
pub fn visit<M: FlowMemory>(flows: &M, buckets: Range<u32>, mut show: impl FnMut(Place, &Entry)) {
    for bucket in buckets {
        let Some(words) = flows.sets(bucket) else {
            return;
        };
        for slot in 0..SET_BUCKET_SLOTS {
            let seen = words.load(slot);
            if seen & USED != 0 {
                let entry = read(words, slot, seen);
                if words.load(slot) & !SPILLED == seen & !SPILLED {
                    show(Place { bucket, slot, seen }, &entry);
                }
            }
        }
    }
}

fn read<W: Words>(words: W, slot: u32, head: u64) -> Entry {
    let rest = words.load(RESTS + slot);
    let (high, low) = (words.load(HIGHS + slot), words.load(LOWS + slot));
    let length = (rest >> LENGTH_SHIFT) as u8;
    let halves = [high >> 32, high, low >> 32, low];
    Entry {
        content: (rest >> CONTENT_SHIFT) as u32,
        address: halves.map(|half| half as u32),
        length,
        protocol: (rest >> PROTOCOL_SHIFT) as u8,
        port: rest as u16,
        deadline: (head & FOR_EVER == 0).then_some(Tick(head as u32)),
        is_nomatch: head & NOMATCH != 0,
    }
}

/// Takes out an entry that is still as it was shown, and counts it no more.
pub fn take_out<M: FlowMemory>(flows: &M, place: Place, content: u32) -> bool {
    let Some(words) = flows.sets(place.bucket) else {
        return false;
    };
    let gone = exchange(words, place.slot, place.seen, 0);
    if gone && let Some(head) = flows.set_head(content) {
        head.add(head::COUNT, u64::MAX);
    }
    gone
}

/// Makes buckets as they were at first: slots that a daemon took which is no more, and with no entry in any of
/// them the marks. For buckets that nobody writes to.
pub fn clear<M: FlowMemory>(flows: &M, buckets: Range<u32>, are_empty: bool, now: Tick) {
    for bucket in buckets {
        let Some(words) = flows.sets(bucket) else {
            return;
        };
        for slot in 0..SET_BUCKET_SLOTS {
            let seen = words.load(slot);
            let age = now.0.wrapping_sub(seen as u32);
            if seen & TAKEN != 0 && age > TAKEN_TICKS_MAX {
                exchange(words, slot, seen, 0);
            }
            if are_empty && seen & !SPILLED == 0 && seen != 0 {
                words.compare_exchange(slot, seen, 0);
            }
        }
    }
}
