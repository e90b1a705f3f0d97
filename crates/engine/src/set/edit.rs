//! Entries that come and go.

use super::entry::{
    FOR_EVER, NOMATCH, NOWHERE, SPILLED, TAKEN, USED, at, exchange, is_over, is_same,
};
use super::entry::{HIGHS, LOWS, RESTS};
use super::{Search, TIMEOUT_OF_SET, head, longest, next, side};
use crate::host::{FlowMemory, Repeat, Words};
use crate::limits::{SET_BUCKET_SLOTS, SET_BUCKETS_PROBED_MAX, SET_TRIES_MAX};
use crate::set::head::{Shape, Type};
use crate::settings::Settings;
use crate::time::Tick;

/// What became of an entry that was to be there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Put {
    New,
    /// It was there, and is as it was.
    Exists,
    /// It was there, and is now as wished.
    Changed,
    /// The content has all entries that it may have, or the entry's buckets are full.
    Full,
    /// Other CPUs were in its way each time.
    Busy,
}

/// How an entry is to be.
#[derive(Clone, Copy, Debug)]
pub struct Wish {
    pub content: u32,
    /// Bits that count.
    pub length: u32,
    /// `None` for ever.
    pub deadline: Option<Tick>,
    pub is_nomatch: bool,
    /// Changes one that is there.
    pub changes: bool,
}

/// Adds what a packet has to a set.
#[inline(always)]
pub(super) fn add_packet<M: FlowMemory>(
    flows: &M,
    settings: &Settings,
    set: u32,
    seconds: u32,
    search: &mut Search,
) {
    let Some((words, shape, length)) = search.aim(flows, set) else {
        return;
    };
    let seconds = match seconds {
        TIMEOUT_OF_SET => words.load(head::TIMEOUT) as u32,
        seconds => seconds,
    };
    let is_limited = shape.is_timed && seconds != 0;
    search.wish = Wish {
        content: search.content,
        length,
        deadline: is_limited.then(|| search.now.after_seconds(seconds)),
        is_nomatch: false,
        changes: search.sides & side::EXIST != 0,
    };
    put_wish(flows, settings, search);
}

/// Removes what a packet has from a set.
#[inline(always)]
pub(super) fn remove_packet<M: FlowMemory>(
    flows: &M,
    settings: &Settings,
    set: u32,
    search: &mut Search,
) {
    if let Some((_, _, length)) = search.aim(flows, set) {
        let content = search.content;
        remove(flows, settings, content, length, search);
    }
}

impl Search {
    /// The content of a set, if packets can be put into it, and the length that an entry gets: that of its most
    /// specific ones, as in Linux.
    #[inline(always)]
    fn aim<M: FlowMemory>(&mut self, flows: &M, set: u32) -> Option<(M::Words, Shape, u32)> {
        let (content, words) = head::content(flows, set)?;
        let shape = Shape::of(words.load(head::SHAPE))?;
        let [first, ..] = self.address;
        let is_nobody = first == 0 && matches!(shape.kind, Type::Address) && shape.bits() == 32;
        if matches!(shape.kind, Type::List) || !self.fits(&shape) || is_nobody {
            return None;
        }
        self.content = content;
        let length = match longest([words.load(head::LENGTHS), words.load(head::LENGTHS + 1)]) {
            0 => u32::from(shape.bits()),
            length => length,
        };
        Some((words, shape, length))
    }
}

/// Puts an entry into the table, or changes the one that is there.
pub fn put<M: FlowMemory>(flows: &M, settings: &Settings, wish: &Wish, search: &mut Search) -> Put {
    search.content = wish.content;
    search.wish = *wish;
    put_wish(flows, settings, search);
    search.put
}

#[inline(always)]
fn put_wish<M: FlowMemory>(flows: &M, settings: &Settings, search: &mut Search) {
    search.put = Put::Busy;
    let mut putting = Putting {
        flows,
        settings,
        search,
    };
    flows.repeat(SET_TRIES_MAX, &mut putting);
}

/// Whether an entry is there; if so, whether it says `nomatch`.
pub fn get<M: FlowMemory>(
    flows: &M,
    settings: &Settings,
    content: u32,
    length: u32,
    search: &mut Search,
) -> Option<bool> {
    search.content = content;
    search.name_as(length, settings);
    walk(flows, settings, false, search);
    let is_there = search.place != NOWHERE && !is_over(search.found, search.now);
    is_there.then_some(search.found & NOMATCH != 0)
}

/// Takes an entry out; `false` when it is not there, or its time is over.
#[inline(always)]
pub fn remove<M: FlowMemory>(
    flows: &M,
    settings: &Settings,
    content: u32,
    length: u32,
    search: &mut Search,
) -> bool {
    search.content = content;
    search.name_as(length, settings);
    walk(flows, settings, false, search);
    let (seen, now) = (search.found, search.now);
    take(flows, content, search.place, seen) && !is_over(seen, now)
}

/// Takes out the entry at a place that is as it was seen.
#[inline(always)]
fn take<M: FlowMemory>(flows: &M, content: u32, place: u32, seen: u64) -> bool {
    let Some((words, slot)) = at(flows, place) else {
        return false;
    };
    if !exchange(words, slot, seen, 0) {
        return false;
    }
    if let Some(words) = flows.set_head(content) {
        words.add(head::COUNT, u64::MAX);
    }
    true
}

/// An attempt a step; ends with the first that succeeds.
struct Putting<'a, M> {
    flows: &'a M,
    settings: &'a Settings,
    search: &'a mut Search,
}

impl<M: FlowMemory> Repeat for Putting<'_, M> {
    #[inline(always)]
    fn step(&mut self) -> bool {
        let put = self.attempt();
        self.search.put = put;
        if matches!(put, Put::Full)
            && let Some(words) = self.flows.set_head(self.search.content)
        {
            words.add(head::REFUSED, 1);
        }
        matches!(put, Put::Busy)
    }
}

impl<M: FlowMemory> Putting<'_, M> {
    #[inline(always)]
    fn attempt(&mut self) -> Put {
        let Self {
            flows, settings, ..
        } = *self;
        let search = &mut *self.search;
        let Some(words) = flows.set_head(search.content) else {
            return Put::Full;
        };
        let is_full = words.load(head::COUNT) >= words.load(head::ENTRIES_MAX);
        search.name_as(search.wish.length, settings);
        walk(flows, settings, !is_full, search);
        if let Some((words, slot)) = at(flows, search.place) {
            let begins = is_over(search.found, search.now);
            if !begins && !search.wish.changes {
                return Put::Exists;
            }
            return match (exchange(words, slot, search.found, search.head()), begins) {
                (false, _) => Put::Busy,
                (true, true) => Put::New,
                (true, false) => Put::Changed,
            };
        }
        let Some((slots, slot)) = at(flows, search.free).filter(|_| !is_full) else {
            return Put::Full;
        };
        let taken = TAKEN | u64::from(search.now.0);
        if !exchange(slots, slot, 0, taken) {
            return Put::Busy;
        }
        slots.store(RESTS + slot, search.name.rest);
        slots.store(HIGHS + slot, search.name.high);
        slots.store(LOWS + slot, search.name.low);
        // Nobody else changes it but to mark that something was spilled.
        if !exchange(slots, slot, taken, search.head()) {
            exchange(slots, slot, taken, search.head());
        }
        words.add(head::COUNT, 1);
        head::add_length(words, search.wish.length);
        // Another CPU may have put the same entry elsewhere.
        search.name_as(search.wish.length, settings);
        walk(flows, settings, false, search);
        if search.second != NOWHERE {
            take(flows, search.content, search.second, search.head());
        }
        Put::New
    }
}

impl Search {
    /// The head of the entry that is wished for.
    #[inline(always)]
    const fn head(&self) -> u64 {
        let deadline = match self.wish.deadline {
            Some(deadline) => deadline.0 as u64,
            None => FOR_EVER,
        };
        let nomatch = if self.wish.is_nomatch { NOMATCH } else { 0 };
        self.name.fingerprint | USED | nomatch | deadline
    }
}

/// Goes through the buckets where an entry may lie: to the end of them, or to one where nothing was spilled.
/// With `inserts` to the first with a free slot, and full ones are marked.
#[inline(always)]
fn walk<M: FlowMemory>(flows: &M, settings: &Settings, inserts: bool, search: &mut Search) {
    search.place = NOWHERE;
    search.second = NOWHERE;
    search.free = NOWHERE;
    search.found = 0;
    search.inserts = inserts;
    let mut walk = Walk {
        flows,
        settings,
        search,
    };
    flows.repeat(SET_BUCKETS_PROBED_MAX, &mut walk);
}

struct Walk<'a, M> {
    flows: &'a M,
    settings: &'a Settings,
    search: &'a mut Search,
}

impl<M: FlowMemory> Repeat for Walk<'_, M> {
    #[inline(always)]
    fn step(&mut self) -> bool {
        let search = &mut *self.search;
        let Some(words) = self.flows.sets(search.bucket) else {
            return false;
        };
        let base = search.bucket.wrapping_mul(SET_BUCKET_SLOTS);
        for slot in 0..SET_BUCKET_SLOTS {
            let head = words.load(slot);
            if head & (USED | TAKEN) == 0 {
                if search.free == NOWHERE {
                    search.free = base + slot;
                }
            } else if is_same(words, slot, head, &search.name) {
                if search.place == NOWHERE {
                    search.place = base + slot;
                    search.found = head;
                } else if search.place != base + slot {
                    // Steps may lead back to a bucket.
                    search.second = base + slot;
                }
            }
        }
        let first = words.load(0);
        if first & SPILLED == 0 {
            if !search.inserts || search.free != NOWHERE || search.place != NOWHERE {
                return false;
            }
            if words.compare_exchange(0, first, first | SPILLED) != first {
                // Once more: nothing was found in it.
                return true;
            }
        }
        search.bucket = next(self.settings, search.bucket, &search.name);
        true
    }
}
