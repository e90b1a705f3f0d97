//! What a helper remembers of a flow between two packets: a place in a bounded table that all CPUs
//! share, found by the number of the flow, which is the same in a table of any size.
//!
//! A place is used by one packet at a time, which locks it by compare-and-swap; another that finds it
//! locked goes unread, as if it had been lost on its way here. A place belongs to a record until that is
//! gone, and is free for the next one then: nobody has to give it back. With no place left a flow is
//! tracked as ever, but unread, which is counted.

use crate::host::{FlowMemory, Host, Repeat, Words};
use crate::limits::{HELPER_STATE_BUCKETS, HELPER_STATE_WORDS, HELPER_STATES_PER_BUCKET};
use crate::process::Scratch;
use crate::record::{ASSIGNED, CONTROL_WORD, Control, Warm};
use crate::table::{Place, gauges};
use crate::track::count;
use crate::tuple::Family;

/// No place.
pub(crate) const NOWHERE: u32 = u32::MAX;

// The owner's word: lock (1), in use (1), birth (16), family (1 of 12), number of the flow (32).
const WORD_OWNER: u32 = 0;
const LOCK: u64 = 1 << 63;
const IN_USE: u64 = 1 << 62;
/// Version (16) and index (32) of an expectation of the flow, and that there is one (1).
const WORD_EXPECTED: u32 = 1;
const NOTED: u64 = 1 << 63;
/// Place of the flow's record: family (1), slot (3), bucket (32); and which of the notes is the oldest (8).
const WORD_CURSOR: u32 = 8;
const PLACE_SHIFT: u32 = 8;
/// Expectations that can be noted; a power of two.
pub(crate) const NOTES_MAX: u32 = 8;
/// The note of a lasting expectation, where the helper has such.
const WORD_LASTING: u32 = 7;
/// First word that is the helper's own.
pub(crate) const WORD_OWN: u32 = 2;

/// Finds the flow's place, or gives it one, and locks it. The place is in `scratch.state`.
#[inline(always)]
pub(crate) fn acquire<H: Host>(host: &H, scratch: &mut Scratch) {
    let flows = host.flows();
    let place = scratch.seen.place;
    let owner = owner_word(scratch.hash.id, place.family, scratch.given.born());
    let bucket = scratch.hash.id % HELPER_STATE_BUCKETS;
    scratch.lease = Lease {
        at: bucket * HELPER_STATES_PER_BUCKET,
        owner,
        place: place_word(place),
        // While there are two tables nobody can tell here whether a record of the other one is gone.
        keeps_all: host.settings().has_two_tables() as u32,
        room: NOWHERE,
        room_word: 0,
    };
    scratch.state = NOWHERE;
    flows.repeat(HELPER_STATES_PER_BUCKET, &mut Find { flows, scratch });
    let Lease {
        room, room_word, ..
    } = scratch.lease;
    if scratch.state == NOWHERE && room != NOWHERE {
        scratch.state = lease(flows, room, room_word, &scratch.lease);
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
    /// Of the flow's record.
    place: u64,
    /// One where no other flow's place is taken.
    keeps_all: u32,
    /// A place that nobody has.
    room: u32,
    room_word: u64,
}

impl Lease {
    pub(crate) const NOTHING: Self = Self {
        at: 0,
        owner: 0,
        place: 0,
        keeps_all: 0,
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
        let stays = self.scratch.lease.keeps_all != 0;
        let is_free = word & IN_USE == 0
            || (!stays
                && !is_owned(
                    self.flows,
                    words.load(WORD_CURSOR) >> PLACE_SHIFT,
                    (word >> 44) as u16,
                ));
        if is_free {
            self.scratch.lease.room = at;
            self.scratch.lease.room_word = word;
        }
        true
    }
}

/// Whether the record is still at a place (as in the word of [`WORD_CURSOR`]) that was born at this moment.
pub(crate) fn is_owned<M: FlowMemory>(flows: &M, place: u64, birth: u16) -> bool {
    let family = match (place >> 35) as u8 & 1 {
        0 => Family::V4,
        _ => Family::V6,
    };
    let (bucket, slot) = (place as u32, (place >> 32) as u32 & 7);
    let (Some(words), Some(warm)) = (
        flows.slot(family, bucket, slot),
        flows.warm(family, bucket, slot),
    ) else {
        return false;
    };
    let control = Control(words.load(CONTROL_WORD));
    let born = Warm::read(warm).assigned.born();
    control.holds_record() && control.status() & ASSIGNED != 0 && born == birth
}

fn lease<M: FlowMemory>(flows: &M, at: u32, word: u64, lease: &Lease) -> u32 {
    let owner = lease.owner;
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
    words.store(WORD_CURSOR, lease.place << PLACE_SHIFT);
    at
}

/// The state of a flow that was read, by its number. For user space.
pub(crate) fn number_of<M: FlowMemory>(
    flows: &M,
    id: u32,
    family: Family,
    born: u16,
) -> Option<u32> {
    let owner = owner_word(id, family, born);
    let first = (id % HELPER_STATE_BUCKETS) * HELPER_STATES_PER_BUCKET;
    let mut numbers = first..first + HELPER_STATES_PER_BUCKET;
    numbers.find(|at| {
        let words = flows.helper_state(*at);
        words.is_some_and(|words| words.load(WORD_OWNER) & !LOCK == owner)
    })
}

/// The record of a flow has another place now. For user space.
pub(crate) fn moved<M: FlowMemory>(flows: &M, id: u32, born: u16, place: Place) {
    let at = number_of(flows, id, place.family, born);
    let Some(words) = at.and_then(|at| flows.helper_state(at)) else {
        return;
    };
    // A packet may move the cursor meanwhile, once for each expectation that it makes.
    for _ in 0..NOTES_MAX {
        let word = words.load(WORD_CURSOR);
        let cursor = word & ((1 << PLACE_SHIFT) - 1);
        let new = place_word(place) << PLACE_SHIFT | cursor;
        if words.compare_exchange(WORD_CURSOR, word, new) == word {
            return;
        }
    }
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
        let word = words.load(WORD_CURSOR);
        let note = NOTED | (version as u64) << 32 | index as u64;
        words.store(place_of_next(words, kind), note);
        if max > 1 && matches!(kind, Kind::Passing) {
            let kept = word >> PLACE_SHIFT << PLACE_SHIFT;
            let next = kept | ((word as u32).wrapping_add(1) & (max - 1)) as u64;
            // Fails where the record is just being moved: then the next note takes this one's place.
            words.compare_exchange(WORD_CURSOR, word, next);
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

const fn owner_word(id: u32, family: Family, born: u16) -> u64 {
    IN_USE | (born as u64) << 44 | (family as u64) << 32 | id as u64
}

const fn place_word(place: Place) -> u64 {
    (place.family as u64) << 35 | (place.slot as u64) << 32 | place.bucket as u64
}
