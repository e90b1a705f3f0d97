//! Labels of flows: 128 bits each, which rules (`-m connlabel`) and programs set and ask for. Records have no
//! room for them, so they lie in a bounded table that all CPUs share, found by the number of the flow.
//!
//! A flow has a place in it from its first label on. Which record a place belongs to is told by the flow's
//! number and the moment of its birth; that its record says it has one ([`ASSIGNED`]) is what a packet without
//! labels is spared by. Nobody gives a place back: it is free for the next flow once that record is gone. With
//! no place left a flow stays without labels, which is counted.
//!
//! **Races.** Both words of labels and the word that says whose they are change by compare-and-swap, so no
//! label that is set is lost, and user space may be killed anywhere. A place that is being given to a flow is
//! locked for as long as it takes to write three words; who comes upon it then finds none. A flow that is made
//! again within the same sixteenth of a second as an earlier one of its name begins with no labels all the same
//! if it is given some, and else might show those of the earlier one.

use crate::event::{EventKind, told};
use crate::helper;
use crate::helper::state::is_owned;
use crate::host::{FlowMemory, Host, Repeat, Words};
use crate::limits::{LABEL_BUCKETS, LABEL_TRIES_MAX, LABELS_MAX, LABELS_PER_BUCKET};
use crate::process::{Scratch, Stage};
use crate::record::{ASSIGNED, CONTROL_WORD, Control, FlowAssigned, Warm};
use crate::table::{Place, gauges};
use crate::tell;
use crate::time::Tick;
use crate::track::{Flow, Sight, count};
use crate::tuple::Family;

/// Labels of a flow; label `n` is bit `n % 64` of word `n / 64`.
pub type Labels = [u64; 2];

// The owner's word: lock (1), in use (1), birth (16), family (1 of 12), number of the flow (32).
const WORD_OWNER: u32 = 0;
const LOCK: u64 = 1 << 63;
const IN_USE: u64 = 1 << 62;
/// Place of the flow's record: family (1), slot (3), bucket (32).
const WORD_PLACE: u32 = 1;
const WORD_LABELS: u32 = 2;

/// Word of [`Warm`] that holds what was assigned, in its lower half.
const WARM_ASSIGNED: u32 = 1;

/// Whether this label is among them.
pub const fn has(labels: &Labels, label: u32) -> bool {
    let [low, high] = *labels;
    let word = if label & 64 == 0 { low } else { high };
    label < LABELS_MAX && word >> (label & 63) & 1 != 0
}

/// This label alone; none for a number that is no label.
pub const fn only(label: u32) -> Labels {
    let bit = 1 << (label & 63);
    match label / 64 {
        0 => [bit, 0],
        1 => [0, bit],
        _ => [0, 0],
    }
}

/// As an event tells them.
pub const fn told_as(labels: &Labels) -> [u32; 4] {
    let [low, high] = *labels;
    [
        low as u32,
        (low >> 32) as u32,
        high as u32,
        (high >> 32) as u32,
    ]
}

/// The same, back.
pub const fn told_by(detail: &[u32; 4]) -> Labels {
    let [a, b, c, d] = *detail;
    [a as u64 | (b as u64) << 32, c as u64 | (d as u64) << 32]
}

/// Whose place it is.
const fn owner_word(id: u32, family: Family, born: u16) -> u64 {
    IN_USE | (born as u64) << 44 | (family as u64) << 32 | id as u64
}

const fn place_word(place: Place) -> u64 {
    (place.family as u64) << 35 | (place.slot as u64) << 32 | place.bucket as u64
}

/// A search of a bucket, in scratch memory.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Search {
    owner: u64,
    bucket: u32,
    next: u32,
    found: u32,
    /// A place that nobody has, and what its word was.
    room: u32,
    room_word: u64,
    /// One where no other flow's place is taken: see [`crate::helper::state`].
    keeps_all: u32,
}

const NOWHERE: u32 = u32::MAX;

impl Search {
    pub(crate) const NOTHING: Self = Self::of(0, 0);

    const fn of(owner: u64, bucket: u32) -> Self {
        Self {
            owner,
            bucket,
            next: 0,
            found: NOWHERE,
            room: NOWHERE,
            room_word: 0,
            keeps_all: 0,
        }
    }

    fn begin(id: u32, family: Family, born: u16) -> Self {
        Self::of(owner_word(id, family, born), id % LABEL_BUCKETS)
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
        let Some(words) = self.flows.labels(self.search.bucket, slot) else {
            return false;
        };
        let word = words.load(WORD_OWNER);
        if word & !LOCK == self.search.owner {
            if word & LOCK == 0 {
                self.search.found = slot;
            }
            // While it is locked there must not be a second place.
            self.search.room = NOWHERE;
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

fn find<M: FlowMemory>(flows: &M, search: &mut Search) {
    flows.repeat(LABELS_PER_BUCKET, &mut Find { flows, search });
}

/// The words of the place that a search found.
fn found<M: FlowMemory>(flows: &M, search: &Search) -> Option<M::Words> {
    match search.found {
        NOWHERE => None,
        slot => flows.labels(search.bucket, slot),
    }
}

/// Gives the flow the place that a search found for it.
fn lease<M: FlowMemory>(flows: &M, search: &Search, place: Place) -> Option<M::Words> {
    if search.room == NOWHERE {
        return None;
    }
    let words = flows.labels(search.bucket, search.room)?;
    let locked = search.owner | LOCK;
    if words.compare_exchange(WORD_OWNER, search.room_word, locked) != search.room_word {
        return None;
    }
    words.store(WORD_LABELS, 0);
    words.store(WORD_LABELS + 1, 0);
    words.store(WORD_PLACE, place_word(place));
    words.store(WORD_OWNER, search.owner);
    Some(words)
}

/// Labels of the packet's flow, those that rules have just set among them.
#[inline(always)]
pub(crate) fn of_packet<H: Host>(host: &H, scratch: &mut Scratch) -> Labels {
    let [low, high] = scratch.labels;
    let is_known = matches!(scratch.sight, Sight::Found);
    if !is_known || !scratch.record.has(ASSIGNED) {
        return [low, high];
    }
    let assigned = helper::given(host, scratch.seen.place, &scratch.record);
    let (id, family) = (scratch.hash.id, scratch.oriented.key.family);
    scratch.label_search = Search::begin(id, family, assigned.born());
    find(host.flows(), &mut scratch.label_search);
    match found(host.flows(), &scratch.label_search) {
        Some(words) => [
            low | words.load(WORD_LABELS),
            high | words.load(WORD_LABELS + 1),
        ],
        None => [low, high],
    }
}

/// The stage that comes before `next`: this one, where rules have set labels.
#[inline(always)]
pub(crate) fn before(scratch: &mut Scratch, next: Stage) -> Stage {
    let [low, high] = scratch.labels;
    if low | high == 0 {
        return next;
    }
    scratch.next = next;
    Stage::Label
}

/// Writes down what rules have set; what comes next.
#[cfg_attr(target_arch = "bpf", inline(never))]
#[cfg_attr(not(target_arch = "bpf"), inline)]
pub(crate) fn write<H: Host>(host: &H, scratch: &mut Scratch) -> Stage {
    let flows = host.flows();
    let place = scratch.seen.place;
    let Some((control, assigned)) = give_birth(flows, place, scratch.now) else {
        count(flows, gauges::LABELS_REFUSED);
        return scratch.next;
    };
    scratch.record.status |= ASSIGNED;
    scratch.seen.control = control;
    scratch.given = assigned;
    let (id, family) = (scratch.hash.id, scratch.oriented.key.family);
    scratch.label_search = Search::begin(id, family, assigned.born());
    scratch.label_search.keeps_all = host.settings().has_two_tables() as u32;
    find(flows, &mut scratch.label_search);
    let search = &scratch.label_search;
    let Some(words) = found(flows, search).or_else(|| lease(flows, search, place)) else {
        count(flows, gauges::LABELS_REFUSED);
        return scratch.next;
    };
    let [low, high] = scratch.labels;
    if matches!(scratch.tracked.flow, Flow::Begins) {
        words.store(WORD_LABELS, low);
        words.store(WORD_LABELS + 1, high);
        return scratch.next;
    }
    let was = [
        change(words, WORD_LABELS, low, 0),
        change(words, WORD_LABELS + 1, high, 0),
    ];
    let is_new = low & !was[0] | high & !was[1] != 0;
    scratch.labels = [low | was[0], high | was[1]];
    if is_new {
        tell::emit(host, EventKind::Update, scratch, control, told::OTHER);
    }
    scratch.next
}

/// Sets and clears labels in a word; what it was before.
fn change<W: Words>(words: W, at: u32, set: u64, clear: u64) -> u64 {
    let mut old = words.load(at);
    for _ in 0..LABEL_TRIES_MAX {
        let new = old & !clear | set;
        let seen = if new == old {
            old
        } else {
            words.compare_exchange(at, old, new)
        };
        if seen == old {
            break;
        }
        old = seen;
    }
    old
}

/// Marks the record of a place as one that something was assigned to, unless it is; what its control word is
/// now, and what was assigned. `None` where it is gone, or changed again and again.
///
/// Takes no lock: first the birth is written, by compare-and-swap of its word, then the status. A packet that
/// has read the word before and writes it back has changed the control word meanwhile, and then the second
/// swap fails; what the first has written says nothing without the second.
fn give_birth<M: FlowMemory>(
    flows: &M,
    place: Place,
    now: Tick,
) -> Option<(Control, FlowAssigned)> {
    let words = flows.slot(place.family, place.bucket, place.slot)?;
    let warm = flows.warm(place.family, place.bucket, place.slot)?;
    for _ in 0..LABEL_TRIES_MAX {
        let control = Control(words.load(CONTROL_WORD));
        if !control.holds_record() {
            return None;
        }
        if control.status() & ASSIGNED != 0 {
            return Some((control, Warm::read(warm).assigned));
        }
        if control.is_locked() {
            flows.relax();
            continue;
        }
        let old = warm.load(WARM_ASSIGNED);
        let born = FlowAssigned::new(crate::policy::Assigned::NOTHING, now);
        let new = old & !0xffff_ffff | born.0;
        if warm.compare_exchange(WARM_ASSIGNED, old, new) != old {
            continue;
        }
        let marked = control.with_status(ASSIGNED);
        if words.compare_exchange(CONTROL_WORD, control.0, marked.0) == control.0 {
            return Some((marked, born));
        }
    }
    None
}

/// Labels of the flow with this number, family and birth. For user space.
pub fn of_flow<M: FlowMemory>(flows: &M, id: u32, family: Family, born: u16) -> Labels {
    let mut search = Search::begin(id, family, born);
    find(flows, &mut search);
    let words = found(flows, &search);
    words.map_or([0; 2], |words| {
        [words.load(WORD_LABELS), words.load(WORD_LABELS + 1)]
    })
}

/// What became of labels that were to be changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Changed {
    Yes,
    No,
    /// No place, or packets kept changing the record.
    Refused,
}

/// Sets labels of the flow whose record is at a place, and clears others. For user space; the flow
/// is not the packet's, so that `id` must be that of the record.
pub fn edit<M: FlowMemory>(
    flows: &M,
    (id, place): (u32, Place),
    set: Labels,
    clear: Labels,
    keeps_all: bool,
    now: Tick,
) -> Changed {
    let refused = || {
        count(flows, gauges::LABELS_REFUSED);
        Changed::Refused
    };
    let Some((_, assigned)) = give_birth(flows, place, now) else {
        return refused();
    };
    let mut search = Search::begin(id, place.family, assigned.born());
    search.keeps_all = keeps_all.into();
    find(flows, &mut search);
    let words = match found(flows, &search) {
        Some(words) => words,
        None if set == [0; 2] => return Changed::No,
        None => match lease(flows, &search, place) {
            Some(words) => words,
            None => return refused(),
        },
    };
    let mut changed = Changed::No;
    for (at, (set, clear)) in (WORD_LABELS..).zip(set.into_iter().zip(clear)) {
        let was = change(words, at, set, clear);
        if was & !clear | set != was {
            changed = Changed::Yes;
        }
    }
    changed
}

/// Gives up the labels of a flow that was taken out, so that one of the same name that is made at once begins
/// without. For user space.
pub fn forget<M: FlowMemory>(flows: &M, id: u32, family: Family, born: u16) {
    let mut search = Search::begin(id, family, born);
    find(flows, &mut search);
    if let Some(words) = found(flows, &search) {
        words.compare_exchange(WORD_OWNER, search.owner, 0);
    }
}

/// The record of a flow has another place now. For user space.
pub(crate) fn moved<M: FlowMemory>(flows: &M, id: u32, born: u16, place: Place) {
    let mut search = Search::begin(id, place.family, born);
    find(flows, &mut search);
    if let Some(words) = found(flows, &search) {
        words.store(WORD_PLACE, place_word(place));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_label_is_a_bit() {
        for label in 0..LABELS_MAX {
            let alone = only(label);
            assert!((0..200).all(|other| has(&alone, other) == (other == label)));
            assert_eq!(told_by(&told_as(&alone)), alone);
        }
        assert_eq!(only(LABELS_MAX), [0; 2]);
        assert_eq!(told_as(&only(100)), [0, 0, 0, 1 << 4]);
    }
}
