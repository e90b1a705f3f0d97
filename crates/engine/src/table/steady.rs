//! Finding and writing the record of a flow in steady state, without what is seldom needed.

use super::lookup::{Change, write_control, write_here};
use super::tags::Matching;
use super::{Hash, Kind, Place, Seen, V4, V6, key_matches, load_control, load_tags};
use crate::host::{FlowMemory, Words};
use crate::record::{Control, KEY_WORD, SlotState, StateWords};
use crate::tuple::{Family, FlowKey};

/// How many slots are looked at. A wrong one that stands before the right one is met once in some
/// ten lookups, two of them once in two hundred.
const TRIES: u32 = 3;

/// Notes in `seen` where a key's record lies, if a look at the likely slots finds it, and nobody is
/// writing it. What else is to be written of it is asked for at once (`early`), so that two
/// misses of the cache overlap.
#[inline(always)]
pub(crate) fn glance<K: Kind, M: FlowMemory>(
    memory: &M,
    key: &FlowKey,
    hash: &Hash,
    seen: &mut Seen,
    early: impl Fn(Place),
) -> Option<()> {
    if cfg!(target_arch = "bpf") {
        // More than half of the records lie in one of these, if the table has not been full.
        touch_preferred::<K, M>(memory, hash);
    }
    let mut matching = Matching::of(load_tags::<K, M>(memory, hash)?, hash.tag);
    for _ in 0..TRIES {
        if matching.is_none() {
            break;
        }
        let (candidate, slot) = matching.lowest();
        matching = matching.rest();
        let place = Place {
            family: K::FAMILY,
            bucket: hash.candidate(candidate),
            slot,
        };
        early(place);
        if see::<K, M>(memory, key, place, seen).is_some() {
            return Some(());
        }
    }
    None
}

/// Reads where a record may lie before the tags have come that tell where it does.
#[inline(always)]
fn touch_preferred<K: Kind, M: FlowMemory>(memory: &M, hash: &Hash) {
    let slot = hash.preferred_slot();
    for bucket in hash.buckets {
        let place = Place {
            family: K::FAMILY,
            bucket,
            slot,
        };
        if let Some(words) = K::words(memory, place) {
            core::hint::black_box(words.load(0));
        }
    }
}

/// Notes a slot in `seen` if it holds the key's record, and nobody is writing that. Only control
/// word and key are read; that what is read later belongs to them shows when [`update_steady`]
/// swaps the control word.
#[inline(always)]
pub(crate) fn see<K: Kind, M: FlowMemory>(
    memory: &M,
    key: &FlowKey,
    place: Place,
    seen: &mut Seen,
) -> Option<()> {
    let words = K::words(memory, place)?;
    // The control word before the key: else the slot could pass to another flow in between.
    let control = load_control(words);
    let is_at_rest = control.slot_state() == SlotState::Live && !control.is_locked();
    if !is_at_rest || !key_matches::<K, _>(words, key) {
        return None;
    }
    seen.place = place;
    seen.control = control;
    seen.cached = words.load(KEY_WORD) as u8;
    Some(())
}

/// Writes a record that was [seen](see) back; `None` when another CPU changed it meanwhile.
/// `digest` is of the words as they were read.
#[inline(always)]
pub(crate) fn update_steady<W: Words>(
    words: W,
    (old, digest): (Control, u64),
    (new, state): (Control, StateWords),
) -> Option<()> {
    let change = Change {
        words,
        control: old,
        digest,
        new,
        state,
        cached: (0, 0),
        warm_words: words,
        warm: None,
    };
    write_here(&change).map(|_| ())
}

/// As [`update_steady`], where nothing but the control word may change.
#[inline(always)]
pub(crate) fn renew_steady<W: Words>(words: W, old: Control, new: Control) -> Option<()> {
    write_control(words, old, new).map(|_| ())
}

/// Asks for the tags of a key's buckets. Neighbours share a cache line.
#[inline(always)]
pub(crate) fn prefetch_tags<M: FlowMemory>(memory: &M, family: Family, hash: &Hash) {
    let [first, second] = hash.buckets;
    for bucket in [first, second] {
        if let Some(words) = memory.tags(family, bucket) {
            words.prefetch(0);
        }
    }
}

/// The slots that a key's record most likely lies in, by its tags, the likeliest first: twice the same
/// where only one has the tag.
#[inline(always)]
pub(crate) fn likely_slots<M: FlowMemory>(
    memory: &M,
    family: Family,
    hash: &Hash,
) -> Option<[Place; 2]> {
    let tags = match family {
        Family::V4 => load_tags::<V4, M>(memory, hash),
        Family::V6 => load_tags::<V6, M>(memory, hash),
    }?;
    let matching = Matching::of(tags, hash.tag);
    if matching.is_none() {
        return None;
    }
    let place = |matching: Matching| {
        let (candidate, slot) = matching.lowest();
        Place {
            family,
            bucket: hash.candidate(candidate),
            slot,
        }
    };
    Some([place(matching), place(matching.rest().or(matching))])
}

/// Asks for a slot.
#[inline(always)]
pub(crate) fn prefetch_slot<M: FlowMemory>(memory: &M, place: Place) {
    if let Some(words) = place.words(memory) {
        words.prefetch(0);
    }
}
