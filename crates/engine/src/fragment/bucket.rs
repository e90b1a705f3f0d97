//! Buckets and their slots: who holds them, who gives way, whose time is over.

use super::datagram::Datagram;
use crate::host::{FlowMemory, Repeat, Words};
use crate::limits::{FRAGMENT_SLOTS, FRAGMENT_WAITS_MAX};
use crate::table::gauges;
use crate::time::Tick;
use crate::tuple::FlowKey;

// Words of a slot, see `datagram`.
pub(super) const CONTROL: u32 = 0;
pub(super) const KEY: u32 = 1;
pub(super) const DECISION: u32 = 6;
pub(super) const RULE: u32 = 7;
pub(super) const SHARES: u32 = 8;
pub(super) const RUNS: u32 = 9;

/// Word of a bucket: zero, or one while a CPU works on it.
pub(super) const LOCK: u32 = 0;

/// What is known of a datagram.
pub(super) mod phase {
    pub(in crate::fragment) const FREE: u64 = 0;
    /// Some fragments, and not the first.
    pub(in crate::fragment) const HEADLESS: u64 = 1;
    /// The first one is with the rules.
    pub(in crate::fragment) const JUDGING: u64 = 2;
    /// What becomes of it is known.
    pub(in crate::fragment) const DECIDED: u64 = 3;
    /// Fragments overlapped: nothing more of it passes.
    pub(in crate::fragment) const BROKEN: u64 = 4;
    /// All of it was seen.
    pub(in crate::fragment) const COMPLETE: u64 = 5;
    /// Beside [`JUDGING`]: all of it was seen.
    pub(in crate::fragment) const ALL_SEEN: u64 = 0x80;
    pub(in crate::fragment) const MASK: u64 = 0x7f;
}

/// No slot, no run.
pub(super) const NONE: u32 = u32::MAX;

pub(super) const fn is_live(control: u64, now: Tick) -> bool {
    control & phase::MASK != phase::FREE && !Tick((control >> 32) as u32).has_passed(now)
}

pub(super) fn is_key<W: Words>(words: W, key: &FlowKey) -> bool {
    let [word0, word1, word2, word3, word4] = key.words;
    let difference = (words.load(KEY) ^ word0)
        | (words.load(KEY + 1) ^ word1)
        | (words.load(KEY + 2) ^ word2)
        | (words.load(KEY + 3) ^ word3)
        | (words.load(KEY + 4) ^ word4);
    difference == 0
}

pub(super) fn add<M: FlowMemory>(flows: &M, gauge: u32, amount: u64) {
    if let Some(words) = flows.gauges() {
        words.add(gauge, amount);
    }
}

/// Frees the slots of some buckets whose time is over.
pub fn sweep<M: FlowMemory>(flows: &M, buckets: core::ops::Range<u32>, now: Tick) {
    for bucket in buckets {
        for slot in 0..FRAGMENT_SLOTS {
            let Some(words) = flows.fragment(bucket, slot) else {
                return;
            };
            let control = words.load(CONTROL);
            let is_over = control & phase::MASK != phase::FREE && !is_live(control, now);
            if is_over && words.compare_exchange(CONTROL, control, 0) == control {
                note_end(flows, control, now);
            }
        }
    }
}

/// Counts that what a control word tells of is no more.
pub(super) fn note_end<M: FlowMemory>(flows: &M, control: u64, now: Tick) {
    let phase = control & phase::MASK;
    if phase == phase::FREE || phase == phase::COMPLETE {
        return;
    }
    add(flows, gauges::FRAGMENTS, u64::MAX);
    if !is_live(control, now) {
        add(flows, gauges::FRAGMENTS_EXPIRED, 1);
    }
}

/// What goes first when there is no room: the class above the ticks that are left.
pub(super) mod rank {
    pub(in crate::fragment) const OVER: u64 = 0;
    pub(in crate::fragment) const HEADLESS: u64 = 1 << 32;
    pub(in crate::fragment) const DECIDED: u64 = 2 << 32;
}

const fn rank_by(control: u64, now: Tick) -> u64 {
    let left = Tick((control >> 32) as u32).ticks_left(now) as u64;
    match control & phase::MASK {
        phase::HEADLESS if is_live(control, now) => rank::HEADLESS | left,
        phase::JUDGING | phase::DECIDED if is_live(control, now) => rank::DECIDED | left,
        _ => rank::OVER | left,
    }
}

/// Rank of a bucket's first slot.
pub(super) fn rank_of<M: FlowMemory>(flows: &M, datagram: &Datagram, now: Tick) -> u64 {
    match flows.fragment(datagram.bucket, 0) {
        Some(words) => rank_by(words.load(CONTROL), now),
        None => rank::OVER,
    }
}

/// Looks for a datagram in its bucket, and for the slot that a new one would take.
pub(super) struct Search<'a, M> {
    pub(super) flows: &'a M,
    pub(super) datagram: &'a Datagram,
    pub(super) now: Tick,
    pub(super) at: u32,
    pub(super) found: u32,
    pub(super) victim: u32,
    pub(super) rank: u64,
}

impl<M: FlowMemory> Repeat for Search<'_, M> {
    fn step(&mut self) -> bool {
        let Some(words) = self.flows.fragment(self.datagram.bucket, self.at) else {
            return false;
        };
        let control = words.load(CONTROL);
        let is_live = is_live(control, self.now);
        // One family is as good as another: keys of IPv4 have zeros where those of IPv6 have none.
        if is_live && is_key(words, &self.datagram.key) {
            self.found = self.at;
            return false;
        }
        let rank = rank_by(control, self.now);
        if rank < self.rank {
            self.rank = rank;
            self.victim = self.at;
        }
        self.at += 1;
        self.at < FRAGMENT_SLOTS
    }
}

/// Takes a bucket; false when it stays taken.
#[inline(always)]
pub(super) fn lock<M: FlowMemory>(flows: &M, bucket: u32) -> bool {
    let Some(words) = flows.fragment_bucket(bucket) else {
        return false;
    };
    if words.compare_exchange(LOCK, 0, 1) == 0 {
        return true;
    }
    let mut wait = Wait {
        flows,
        bucket,
        is_taken: 0,
    };
    flows.repeat(FRAGMENT_WAITS_MAX, &mut wait);
    wait.is_taken != 0
}

#[inline(always)]
pub(super) fn unlock<M: FlowMemory>(flows: &M, bucket: u32) {
    if let Some(words) = flows.fragment_bucket(bucket) {
        words.compare_exchange(LOCK, 1, 0);
    }
}

pub(super) struct Wait<'a, M> {
    flows: &'a M,
    bucket: u32,
    is_taken: u32,
}

impl<M: FlowMemory> Repeat for Wait<'_, M> {
    fn step(&mut self) -> bool {
        self.flows.relax();
        let Some(words) = self.flows.fragment_bucket(self.bucket) else {
            return false;
        };
        if words.compare_exchange(LOCK, 0, 1) == 0 {
            self.is_taken = 1;
            return false;
        }
        true
    }
}
