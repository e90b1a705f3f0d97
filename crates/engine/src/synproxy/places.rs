//! What is known of each connection that SYNPROXY has opened, in a bounded table beside the records, found by the
//! flow's number and birth as [labels](crate::labels) are.
//!
//! Nobody gives a place back: it is free for the next flow once its record is gone. With no place left no
//! connection is opened.

use crate::helper::state::is_owned;
use crate::host::{FlowMemory, Repeat, Words};
use crate::limits::{SYNPROXY_BUCKETS, SYNPROXY_PER_BUCKET};
use crate::table::Place;
use crate::tuple::Family;

// The owner's word: lock (1), in use (1), birth (16), family (1 of 12), number of the flow (32).
const WORD_OWNER: u32 = 0;
const LOCK: u64 = 1 << 63;
const IN_USE: u64 = 1 << 62;
/// Place of the flow's record: family (1), slot (3), bucket (32).
const WORD_PLACE: u32 = 1;
/// Two numbers, see [`super::Numbers`].
pub(super) const WORD_NUMBERS: u32 = 2;
/// What was agreed on with the client, see [`super::Agreed`].
pub(super) const WORD_AGREED: u32 = 3;

const fn owner_word(id: u32, family: Family, born: u16) -> u64 {
    IN_USE | (born as u64) << 44 | (family as u64) << 32 | id as u64
}

const fn place_word(place: Place) -> u64 {
    (place.family as u64) << 35 | (place.slot as u64) << 32 | place.bucket as u64
}

const NOWHERE: u32 = u32::MAX;

/// A search of a bucket, in scratch memory.
#[derive(Clone, Copy, Debug)]
pub(super) struct Search {
    owner: u64,
    bucket: u32,
    next: u32,
    found: u32,
    /// A place that nobody has, and what its word was.
    room: u32,
    room_word: u64,
    /// One where no other flow's place is taken: its record may lie in the other of two tables.
    keeps_all: u32,
}

impl Search {
    pub(super) const NOTHING: Self = Self {
        owner: 0,
        bucket: 0,
        next: 0,
        found: NOWHERE,
        room: NOWHERE,
        room_word: 0,
        keeps_all: 0,
    };

    fn begin(&mut self, id: u32, family: Family, born: u16, keeps_all: bool) {
        *self = Self {
            owner: owner_word(id, family, born),
            bucket: id % SYNPROXY_BUCKETS,
            keeps_all: u32::from(keeps_all),
            ..Self::NOTHING
        };
    }
}

struct Find<'a, M> {
    flows: &'a M,
    search: &'a mut Search,
}

impl<M: FlowMemory> Repeat for Find<'_, M> {
    fn step(&mut self) -> bool {
        let slot = self.search.next;
        self.search.next = slot.wrapping_add(1);
        let Some(words) = self.flows.synproxy(self.search.bucket, slot) else {
            return false;
        };
        let word = words.load(WORD_OWNER);
        if word == self.search.owner {
            self.search.found = slot;
            return false;
        }
        let is_free = word & IN_USE == 0
            || (word & LOCK == 0
                && self.search.keeps_all == 0
                && !is_owned(self.flows, words.load(WORD_PLACE), (word >> 44) as u16));
        if is_free {
            self.search.room = slot;
            self.search.room_word = word;
        }
        true
    }
}

/// The words of a flow's place.
#[cfg_attr(target_arch = "bpf", inline(never))]
fn look<M: FlowMemory>(flows: &M, search: &mut Search) {
    flows.repeat(SYNPROXY_PER_BUCKET, &mut Find { flows, search });
}

/// The words of a flow's place.
#[inline(always)]
pub(super) fn find<M: FlowMemory>(
    flows: &M,
    search: &mut Search,
    (id, family, born): (u32, Family, u16),
) -> Option<M::Words> {
    search.begin(id, family, born, true);
    look(flows, search);
    found(flows, search)
}

/// The words of the place that the last search has found.
#[inline(always)]
pub(super) fn found<M: FlowMemory>(flows: &M, search: &Search) -> Option<M::Words> {
    match search.found {
        NOWHERE => None,
        slot => flows.synproxy(search.bucket, slot),
    }
}

/// Gives a flow whose record is new a place, with this in it; `false` where there is no room.
#[inline(always)]
pub(super) fn lease<M: FlowMemory>(
    flows: &M,
    search: &mut Search,
    (id, family, born): (u32, Family, u16),
    place: Place,
    (words, keeps_all): ([u64; 2], bool),
) -> bool {
    search.begin(id, family, born, keeps_all);
    look(flows, search);
    let [numbers, agreed] = words;
    // One of an earlier flow of the same name, which began within the same sixteenth of a second.
    if let Some(words) = found(flows, search) {
        words.store(WORD_NUMBERS, numbers);
        words.store(WORD_AGREED, agreed);
        words.store(WORD_PLACE, place_word(place));
        return true;
    }
    if search.room == NOWHERE {
        return false;
    }
    let Some(words) = flows.synproxy(search.bucket, search.room) else {
        return false;
    };
    let locked = search.owner | LOCK | IN_USE;
    if words.compare_exchange(WORD_OWNER, search.room_word, locked) != search.room_word {
        return false;
    }
    words.store(WORD_NUMBERS, numbers);
    words.store(WORD_AGREED, agreed);
    words.store(WORD_PLACE, place_word(place));
    words.store(WORD_OWNER, search.owner);
    true
}

/// What is known of a connection, to be [`put`] where another daemon has it. Not for packets.
pub fn told<M: FlowMemory>(flows: &M, name: (u32, Family, u16)) -> Option<[u64; 2]> {
    let mut search = Search::NOTHING;
    let words = find(flows, &mut search, name)?;
    Some([words.load(WORD_NUMBERS), words.load(WORD_AGREED)])
}

/// Notes what was [`told`] of a connection whose record has just been made; `false` where there is no room.
pub fn put<M: FlowMemory>(
    flows: &M,
    name: (u32, Family, u16),
    place: Place,
    told: [u64; 2],
) -> bool {
    let mut search = Search::NOTHING;
    lease(flows, &mut search, name, place, (told, false))
}

/// A record was moved to another table.
pub(crate) fn moved<M: FlowMemory>(flows: &M, id: u32, born: u16, place: Place) {
    let mut search = Search::NOTHING;
    if let Some(words) = find(flows, &mut search, (id, place.family, born)) {
        words.store(WORD_PLACE, place_word(place));
    }
}
