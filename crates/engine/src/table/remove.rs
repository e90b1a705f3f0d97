//! Taking records out, and what else concerns the tag of a single slot.

use super::tags::Tags;
use super::{Place, count_down, count_up, gauges, pressure};
use crate::host::{FlowMemory, Words};
use crate::limits::TAG_RETRIES_MAX;
use crate::record::{CONTROL_WORD, Control, SlotState};

/// Takes a record out, unless it changed since `control` was read. `false` if it did, or if
/// `control` is not that of a live record that nobody is writing.
pub fn remove<M: FlowMemory>(memory: &M, place: Place, control: Control) -> bool {
    let Some(words) = place.words(memory) else {
        return false;
    };
    if !control.holds_record() || control.is_locked() {
        return false;
    }
    let dead = control.with_slot_state(SlotState::Dead);
    let found = words.compare_exchange(CONTROL_WORD, control.0, dead.0);
    if found != control.0 {
        return false;
    }
    // From here on the slot is ours alone, up to the moment when its tag is gone.
    let cells = pressure::cells_of_slot(memory, place);
    if release(memory, place) {
        cells.count_down(memory);
    }
    count_down(memory, gauges::COUNT);
    count_up(memory, gauges::REMOVED);
    true
}

/// The record is no longer half-open: it cannot be given up for another any more. Does nothing
/// when it was not half-open.
///
/// Call it *before* the [`update`](super::update) that completes the handshake. An evicting CPU
/// reads the record's control word, then sees that the half-open bit is still set, and then swaps
/// that control word. If it read the control word before the update, its swap fails; if after,
/// it sees that the bit is gone. So a record whose update succeeded is never evicted.
///
/// Worst case of the race with removal: the slot has passed to another flow since it was looked
/// up, and that one is now exempt from eviction until it expires. The number of half-open records
/// stays right, since it is counted by whoever clears a bit.
pub fn confirm<M: FlowMemory>(memory: &M, place: Place) {
    let Some(words) = memory.tags(place.family, place.bucket) else {
        return;
    };
    // A try fails only when another CPU changed this very bucket in between. Should all of them
    // fail, the record stays exposed to eviction until it is confirmed again or expires.
    for _ in 0..TAG_RETRIES_MAX {
        let tags = Tags(words.load(0));
        if !tags.is_half_open(place.slot) {
            return;
        }
        let cells = pressure::cells_of_slot(memory, place);
        if words.compare_exchange(0, tags.0, tags.confirmed(place.slot).0) == tags.0 {
            count_down(memory, gauges::HALF_OPEN);
            cells.count_down(memory);
            return;
        }
    }
}

/// Clears the tag of a slot that the caller owns: one it claimed, or made dead. Cannot fail.
///
/// The seven hash bits are the owner's alone, so subtracting them always succeeds, whatever other
/// CPUs do to the rest of the word. The half-open bit may be cleared by [`confirm`] at any time,
/// so it takes a compare-and-swap, which may fail. Hence both: first a bounded number of tries to
/// clear the byte, then a subtraction that may leave the half-open bit of an empty slot set. Who
/// claims the slot next takes that bit over, and counts it down (but not in the cells of its flow).
///
/// Whether the slot was half-open: the caller counts it down where its flow was counted.
#[must_use]
pub(super) fn release<M: FlowMemory>(memory: &M, place: Place) -> bool {
    let Some(words) = memory.tags(place.family, place.bucket) else {
        return false;
    };
    for _ in 0..TAG_RETRIES_MAX {
        let tags = Tags(words.load(0));
        if words.compare_exchange(0, tags.0, tags.without(place.slot).0) == tags.0 {
            let was_half_open = tags.is_half_open(place.slot);
            if was_half_open {
                count_down(memory, gauges::HALF_OPEN);
            }
            return was_half_open;
        }
    }
    words.add(0, Tags(words.load(0)).minus_hash_bits(place.slot));
    false
}
