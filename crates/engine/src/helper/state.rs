//! What a helper remembers of a flow between two packets: a place in a bounded table that all CPUs
//! share, found by the place of the flow's record.
//!
//! A place is used by one packet at a time, which locks it by compare-and-swap; another that finds it
//! locked goes unread, as if it had been lost on its way here. A place belongs to a record until that is
//! gone, and is free for the next one then: nobody has to give it back. With no place left a flow is
//! tracked as ever, but unread, which is counted.

use crate::host::{FlowMemory, Repeat, Words};
use crate::limits::{HELPER_STATE_BUCKETS, HELPER_STATE_WORDS, HELPER_STATES_PER_BUCKET};
use crate::process::Scratch;
use crate::record::{ASSIGNED, CONTROL_WORD, Control, SlotState, Warm};
use crate::table::{Place, gauges};
use crate::track::count;
use crate::tuple::Family;

/// No place.
pub(crate) const NOWHERE: u32 = u32::MAX;

// The owner's word: lock (1), in use (1), birth (16), family (8), slot (3 of 8), bucket (32).
const WORD_OWNER: u32 = 0;
const LOCK: u64 = 1 << 63;
const IN_USE: u64 = 1 << 62;
/// Version (16) and index (32) of an expectation of the flow, and that there is one (1).
const WORD_EXPECTED: u32 = 1;
const NOTED: u64 = 1 << 63;
/// Which of the notes is the oldest.
const WORD_CURSOR: u32 = 8;
/// Expectations that can be noted; a power of two.
pub(crate) const NOTES_MAX: u32 = 8;
/// The note of a lasting expectation, where the helper has such.
const WORD_LASTING: u32 = 7;
/// First word that is the helper's own.
pub(crate) const WORD_OWN: u32 = 2;

/// Finds the flow's place, or gives it one, and locks it. The place is in `scratch.state`.
#[inline(always)]
pub(crate) fn acquire<M: FlowMemory>(flows: &M, scratch: &mut Scratch) {
    let owner = owner_word(scratch.seen.place, scratch.given.born());
    let place = scratch.seen.place;
    let number = place.bucket.wrapping_mul(8) ^ place.slot ^ (place.family as u32) << 9;
    let bucket = number.wrapping_mul(0x9e37_79b9) >> 16;
    scratch.lease = Lease {
        at: (bucket % HELPER_STATE_BUCKETS) * HELPER_STATES_PER_BUCKET,
        owner,
        room: NOWHERE,
        room_word: 0,
    };
    scratch.state = NOWHERE;
    flows.repeat(HELPER_STATES_PER_BUCKET, &mut Find { flows, scratch });
    let Lease {
        room, room_word, ..
    } = scratch.lease;
    if scratch.state == NOWHERE && room != NOWHERE {
        scratch.state = lease(flows, room, room_word, owner);
    }
    if scratch.state == NOWHERE {
        count(flows, gauges::UNREAD);
    }
}

/// Where a search has come to, in scratch memory.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Lease {
    at: u32,
    owner: u64,
    /// A place that nobody has.
    room: u32,
    room_word: u64,
}

impl Lease {
    pub(crate) const NOTHING: Self = Self {
        at: 0,
        owner: 0,
        room: NOWHERE,
        room_word: 0,
    };
}

struct Find<'a, M> {
    flows: &'a M,
    scratch: &'a mut Scratch,
}

impl<M: FlowMemory> Repeat for Find<'_, M> {
    fn step(&mut self) -> bool {
        let Lease { at, owner, .. } = self.scratch.lease;
        self.scratch.lease.at = at.wrapping_add(1);
        let Some(words) = self.flows.helper_state(at) else {
            return false;
        };
        let word = words.load(WORD_OWNER);
        if word & !LOCK == owner {
            let locked = words.compare_exchange(WORD_OWNER, owner, owner | LOCK) == owner;
            if locked {
                self.scratch.state = at;
            }
            // Where another packet of the flow has it, there must not be a second place.
            self.scratch.lease.room = NOWHERE;
            return false;
        }
        if word & IN_USE == 0 || !is_owned(self.flows, word) {
            self.scratch.lease.room = at;
            self.scratch.lease.room_word = word;
        }
        true
    }
}

/// Whether the record is still there that has a place.
fn is_owned<M: FlowMemory>(flows: &M, word: u64) -> bool {
    let family = match (word >> 40) as u8 & 1 {
        0 => Family::V4,
        _ => Family::V6,
    };
    let (bucket, slot) = (word as u32, (word >> 32) as u32 & 7);
    let (Some(words), Some(warm)) = (
        flows.slot(family, bucket, slot),
        flows.warm(family, bucket, slot),
    ) else {
        return false;
    };
    let control = Control(words.load(CONTROL_WORD));
    let born = Warm::read(warm).assigned.born();
    matches!(control.slot_state(), SlotState::Live)
        && control.status() & ASSIGNED != 0
        && born == (word >> 44) as u16
}

fn lease<M: FlowMemory>(flows: &M, at: u32, word: u64, owner: u64) -> u32 {
    let Some(words) = flows.helper_state(at) else {
        return NOWHERE;
    };
    if words.compare_exchange(WORD_OWNER, word, owner | LOCK) != word {
        return NOWHERE;
    }
    let mut at_word = WORD_EXPECTED;
    while at_word < HELPER_STATE_WORDS {
        words.store(at_word, 0);
        at_word += 1;
    }
    at
}

/// Unlocks the place.
#[inline(always)]
pub(crate) fn release<W: Words>(words: W, scratch: &Scratch) {
    words.store(WORD_OWNER, scratch.lease.owner);
}

/// Notes an expectation that a flow has made, in place of its oldest where it has as many as its
/// helper allows. A lasting one has a place of its own.
pub(crate) fn note<M: FlowMemory>(
    flows: &M,
    state: u32,
    kind: Kind,
    max: u32,
    index: u32,
    version: u16,
) {
    if let Some(words) = flows.helper_state(state) {
        let note = NOTED | (version as u64) << 32 | index as u64;
        words.store(place_of_next(words, kind), note);
        if max > 1 && matches!(kind, Kind::Passing) {
            let cursor = words.load(WORD_CURSOR) as u32;
            words.store(WORD_CURSOR, (cursor.wrapping_add(1) & (max - 1)) as u64);
        }
    }
}

/// Index and version of the expectation whose place the next one takes.
pub(crate) fn noted<M: FlowMemory>(flows: &M, state: u32, kind: Kind) -> Option<(u32, u16)> {
    let words = flows.helper_state(state)?;
    read_note(words.load(place_of_next(words, kind)))
}

/// Index and version of one of the expectations of a flow, which is no longer noted.
pub(crate) fn take_note<M: FlowMemory>(flows: &M, state: u32, cursor: u32) -> Option<(u32, u16)> {
    let words = flows.helper_state(state)?;
    let word = note_word(cursor);
    let note = words.load(word);
    words.store(word, 0);
    read_note(note)
}

const fn read_note(word: u64) -> Option<(u32, u16)> {
    if word & NOTED == 0 {
        return None;
    }
    Some((word as u32, (word >> 32) as u16))
}

/// Whether an expectation ends with its use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Passing,
    Lasting,
}

impl Kind {
    pub(crate) const fn of(flags: u8) -> Self {
        match flags & crate::expect::PERMANENT {
            0 => Self::Passing,
            _ => Self::Lasting,
        }
    }
}

fn place_of_next<W: Words>(words: W, kind: Kind) -> u32 {
    match kind {
        Kind::Passing => note_word(words.load(WORD_CURSOR) as u32),
        Kind::Lasting => WORD_LASTING,
    }
}

/// The first note has a word of its own; the others lie where a second direction would be read,
/// which no helper does that may expect more than one flow.
const fn note_word(cursor: u32) -> u32 {
    match cursor & (NOTES_MAX - 1) {
        0 => WORD_EXPECTED,
        more => WORD_CURSOR + more,
    }
}

const fn owner_word(place: Place, born: u16) -> u64 {
    IN_USE
        | (born as u64) << 44
        | (place.family as u64) << 40
        | (place.slot as u64) << 32
        | place.bucket as u64
}
