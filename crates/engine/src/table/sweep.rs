//! Work on many records at a time, for user space: the daemon's on the kernel's table, the
//! simulator's on its own. Nothing here takes a lock, so the process may be killed at any point.

use core::ops::Range;

use super::remove::{release, remove};
use super::tags::Tags;
use super::{NOT_COUNTED, Place, count_down, count_up, gauges, load_control, pressure};
use crate::host::{FlowMemory, Words};
use crate::limits::{ACCOUNTING_WORDS, SLOTS_PER_BUCKET, WRITER_WAITS_MAX};
use crate::record::{CONTROL_WORD, Control, KEY_WORD, Record, SlotState, Warm};
use crate::time::Tick;
use crate::tuple::{Family, FlowKey, KEY_WORD0_FOREIGN_BITS};

/// A record with its key and all that lies apart from it.
#[derive(Clone, Copy, Debug)]
pub struct Entry {
    pub place: Place,
    /// The control word the record was read under: what [`remove`] asks for.
    pub control: Control,
    pub key: FlowKey,
    /// Low byte of key word 0.
    pub cached: u8,
    pub record: Record,
    /// Read apart from the record: another CPU may have changed it in between.
    pub warm: Warm,
    /// As [`Entry::warm`]; `None` where the table was made without.
    pub accounting: Option<[u64; ACCOUNTING_WORDS as usize]>,
}

impl Entry {
    /// Packets and bytes of the original and of the reply direction; `None` for a flow that is not
    /// counted.
    pub fn counters(&self) -> Option<[u64; 4]> {
        let [counters @ .., _started] = self.accounting?;
        let [packets, ..] = counters;
        (packets & NOT_COUNTED == 0).then_some(counters)
    }
}

/// Removes the expired records of some buckets, and shows each one that was removed. A record
/// that is renewed at the same moment stays. Returns the ticks until the first of those that stay expires,
/// the largest number where none stays.
pub fn sweep<M: FlowMemory>(
    memory: &M,
    family: Family,
    buckets: Range<u32>,
    now: Tick,
    mut removed: impl FnMut(&Entry),
) -> u32 {
    let mut first = u32::MAX;
    for_each_slot(memory, family, buckets, |place, control| {
        if control.slot_state() != SlotState::Live {
            return;
        }
        let left = control.deadline().ticks_left(now);
        if left > 0 {
            first = first.min(left);
            return;
        }
        let Some(entry) = entry(memory, place) else {
            return;
        };
        if entry.control.deadline().has_passed(now) && remove(memory, place, entry.control) {
            removed(&entry);
        }
    });
    first
}

/// Shows the records of some buckets that have not expired. One that is removed and made again
/// elsewhere meanwhile may be shown twice or not at all.
pub fn visit<M: FlowMemory>(
    memory: &M,
    family: Family,
    buckets: Range<u32>,
    now: Tick,
    mut show: impl FnMut(&Entry),
) {
    for_each_slot(memory, family, buckets, |place, control| {
        if control.slot_state() != SlotState::Live {
            return;
        }
        if let Some(entry) = entry(memory, place)
            && !entry.control.deadline().has_passed(now)
        {
            show(&entry);
        }
    });
}

/// Shows the places of some buckets that have a live record, expired ones included.
pub fn places<M: FlowMemory>(
    memory: &M,
    family: Family,
    buckets: Range<u32>,
    mut show: impl FnMut(Place),
) {
    for_each_slot(memory, family, buckets, |place, control| {
        if control.slot_state() == SlotState::Live {
            show(place);
        }
    });
}

/// Clears the cached outcomes that a policy with this number left in some buckets, before the number
/// is given to another policy. Packets must no longer be judged by the old one.
pub fn forget_outcomes<M: FlowMemory>(memory: &M, family: Family, buckets: Range<u32>, epoch: u32) {
    for_each_slot(memory, family, buckets, |place, _| {
        let Some(words) = place.words(memory) else {
            return;
        };
        // A word that changes meanwhile was written for the policy in force.
        let word = words.load(KEY_WORD);
        let cached = word & KEY_WORD0_FOREIGN_BITS;
        if cached != 0 && (cached >> 6) as u32 == epoch {
            words.compare_exchange(KEY_WORD, word, word & !KEY_WORD0_FOREIGN_BITS);
        }
    });
}

/// Shows the slots of some buckets that have a tag but no live record: an insert or a removal is
/// under way there, or its process was killed. See [`recover`].
pub fn leftovers<M: FlowMemory>(
    memory: &M,
    family: Family,
    buckets: Range<u32>,
    mut show: impl FnMut(Place, Control),
) {
    for_each_slot(memory, family, buckets, |place, control| {
        if !control.holds_record() {
            show(place, control);
        }
    });
}

/// Gives back a slot that a killed process left behind. `false` if its control word is no longer
/// `control`.
///
/// Only for slots that [`leftovers`] showed with the same control word at least a second earlier,
/// and only when no other user-space process works on the table: the kernel's programs need less
/// than a microsecond for what lies between, and cannot be killed; a process that was merely
/// stopped there would, when it goes on, clear the tag of whatever has the slot by then.
pub fn recover<M: FlowMemory>(memory: &M, place: Place, control: Control) -> bool {
    let Some(words) = place.words(memory) else {
        return false;
    };
    let state = control.slot_state();
    if control.holds_record() {
        return false;
    }
    let free = control.with_slot_state(SlotState::Free);
    let found = words.compare_exchange(CONTROL_WORD, control.0, free.0);
    if found != control.0 {
        return false;
    }
    // Of a slot that was claimed and not published, that of an earlier record.
    let cells = pressure::cells_of_slot(memory, place);
    if release(memory, place) {
        cells.count_down(memory);
    }
    // A claim counts as a record already.
    count_down(memory, gauges::COUNT);
    if state == SlotState::Dead {
        count_up(memory, gauges::REMOVED);
    } else {
        count_down(memory, gauges::INSERTED);
    }
    true
}

/// How many slots of some buckets have a tag, and how many of these are half-open: what the gauges of records
/// and of half-open ones say when nobody is making or removing any. For user space.
pub fn census<M: FlowMemory>(memory: &M, family: Family, buckets: Range<u32>) -> [u64; 2] {
    let mut counted = [0; 2];
    for_each_slot(memory, family, buckets, |place, _| {
        let tags = memory.tags(family, place.bucket);
        let half_open = tags.is_some_and(|words| Tags(words.load(0)).is_half_open(place.slot));
        let [records, halves] = counted;
        counted = [records + 1, halves + u64::from(half_open)];
    });
    counted
}

/// Runs over the slots of some buckets that have a tag.
fn for_each_slot<M: FlowMemory>(
    memory: &M,
    family: Family,
    buckets: Range<u32>,
    mut body: impl FnMut(Place, Control),
) {
    for bucket in buckets {
        let Some(words) = memory.tags(family, bucket) else {
            return;
        };
        let mut occupied = Tags(words.load(0)).occupied();
        for _ in 0..SLOTS_PER_BUCKET {
            if occupied.is_none() {
                break;
            }
            let place = Place {
                family,
                bucket,
                slot: occupied.lowest(),
            };
            occupied = occupied.rest();
            if let Some(words) = place.words(memory) {
                body(place, load_control(words));
            }
        }
    }
}

/// Reads a live record in one piece; `None` if it is gone, or busy for too long.
pub(super) fn entry<M: FlowMemory>(memory: &M, place: Place) -> Option<Entry> {
    let words = place.words(memory)?;
    for _ in 0..WRITER_WAITS_MAX {
        let control = load_control(words);
        if control.slot_state() != SlotState::Live {
            return None;
        }
        if control.is_locked() {
            memory.relax();
            continue;
        }
        let (key, cached) = key(words, place.family);
        let record = Record::read(control, words);
        let warm = memory.warm(place.family, place.bucket, place.slot);
        let accounting = memory.accounting(place.family, place.bucket, place.slot);
        let entry = Entry {
            place,
            control,
            key,
            cached,
            record,
            warm: warm.map(Warm::read).unwrap_or_default(),
            accounting: accounting.map(|words| [0, 1, 2, 3, 4].map(|word| words.load(word))),
        };
        if load_control(words) == control {
            return Some(entry);
        }
    }
    None
}

pub(super) fn key<W: Words>(words: W, family: Family) -> (FlowKey, u8) {
    let [word0, word1, word2, word3, word4] = [0, 1, 2, 3, 4].map(|word| match family {
        Family::V4 if word > 1 => 0,
        _ => words.load(KEY_WORD + word),
    });
    let name = word0 & !KEY_WORD0_FOREIGN_BITS;
    let words = [name, word1, word2, word3, word4];
    (FlowKey { family, words }, word0 as u8)
}
