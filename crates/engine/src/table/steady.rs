//! Finding and writing the record of a flow in steady state, without what is seldom needed.

use super::lookup::{Change, write_here};
use super::{Found, Hash, Kind, Place, key_matches, load_control, load_tags};
use crate::host::{FlowMemory, Words};
use crate::record::{Control, KEY_WORD, SlotState, StateWords};
use crate::tuple::FlowKey;

/// How many slots of a bucket are looked at. A third whose tag fits is one in some ten thousand.
const TRIES: u32 = 2;

/// The slot that holds a record of the key, if a look at the likely ones finds it. The words of
/// its accounting are asked for at once (`early`), so that two misses of the cache overlap.
#[inline(always)]
pub(crate) fn glance<K: Kind, M: FlowMemory>(
    memory: &M,
    key: &FlowKey,
    hash: &Hash,
    early: impl Fn(Place),
) -> Option<Place> {
    let [a, b, c, d] = load_tags::<K, M>(memory, hash)?;
    let [first, first_neighbour, second, second_neighbour] = hash.candidates();
    for (tags, bucket) in [
        (a, first),
        (b, first_neighbour),
        (c, second),
        (d, second_neighbour),
    ] {
        let mut matching = tags.matching(hash.tag);
        for _ in 0..TRIES {
            if matching.is_none() {
                break;
            }
            let place = Place {
                family: K::FAMILY,
                bucket,
                slot: matching.lowest(),
            };
            matching = matching.rest();
            early(place);
            let words = K::words(memory, place)?;
            if key_matches::<K, _>(words, key) {
                return Some(place);
            }
        }
    }
    None
}

/// A slot, if it holds the key's record, and nobody is writing that. Only control word and key
/// are read; that what is read later belongs to them is seen when [`update_steady`] swaps the
/// control word.
#[inline(always)]
pub(crate) fn open<K: Kind, M: FlowMemory>(
    memory: &M,
    key: &FlowKey,
    place: Place,
) -> Option<Found<M::Words>> {
    let words = K::words(memory, place)?;
    let control = load_control(words);
    let is_at_rest = control.slot_state() == SlotState::Live && !control.is_locked();
    // The key after the control word: else the slot could pass to another flow in between.
    if !is_at_rest || !key_matches::<K, _>(words, key) {
        return None;
    }
    Some(Found {
        place,
        words,
        control,
        cached: words.load(KEY_WORD) as u8,
    })
}

/// Writes a record that was [opened](open) back; `None` when another CPU changed it meanwhile.
#[inline(always)]
pub(crate) fn update_steady<W: Words>(
    words: W,
    old: Control,
    new: Control,
    state: StateWords,
) -> Option<()> {
    let change = Change {
        words,
        control: old,
        new,
        state,
        cached: (0, 0),
        warm_words: words,
        warm: None,
    };
    write_here(&change).map(|_| ())
}
