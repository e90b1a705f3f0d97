//! Finding a record and writing it back.

use super::tags::Tags;
use super::{Found, Hash, Kind, Lookup, Place, V4, V6, key_matches, load_control, load_tags};
use crate::host::{FlowMemory, Repeat, Words};
use crate::limits::{RECORD_READS_MAX, SLOTS_PER_BUCKET, WRITER_WAITS_MAX};
use crate::record::{CONTROL_WORD, Control, KEY_WORD, Record, StateWords, Warm};
use crate::time::Tick;
use crate::tuple::{Family, FlowKey, KEY_WORD0_FOREIGN_BITS};

/// Finds the live record of a key and writes it to `record`. One that has expired is not found.
#[inline(always)]
pub fn lookup<M: FlowMemory>(
    memory: &M,
    key: &FlowKey,
    hash: &Hash,
    now: Tick,
    record: &mut Record,
) -> Lookup<M::Words> {
    match key.family {
        Family::V4 => lookup_kind::<V4, M>(memory, key, hash, now, record),
        Family::V6 => lookup_kind::<V6, M>(memory, key, hash, now, record),
    }
}

#[inline(always)]
fn lookup_kind<K: Kind, M: FlowMemory>(
    memory: &M,
    key: &FlowKey,
    hash: &Hash,
    now: Tick,
    record: &mut Record,
) -> Lookup<M::Words> {
    match find::<K, M>(memory, key, hash) {
        Some(place) => read::<K, M>(memory, key, place, now, record),
        None => Lookup::Missing,
    }
}

/// The slot that holds a live record of the key, by a first look.
///
/// This is apart from [`read`], since the verifier walks the reading once for each slot that it
/// is reached from.
#[inline(always)]
fn find<K: Kind, M: FlowMemory>(memory: &M, key: &FlowKey, hash: &Hash) -> Option<Place> {
    for bucket in hash.candidates() {
        let mut matching = Tags(memory.tags(K::FAMILY, bucket)?.load(0)).matching(hash.tag);
        for _ in 0..SLOTS_PER_BUCKET {
            if matching.is_none() {
                break;
            }
            let place = Place {
                family: K::FAMILY,
                bucket,
                slot: matching.lowest(),
            };
            matching = matching.rest();
            let words = K::words(memory, place)?;
            if load_control(words).holds_record() && key_matches::<K, _>(words, key) {
                return Some(place);
            }
        }
    }
    None
}

/// Whether a record of a key may be there: its tag is.
#[inline(always)]
pub(crate) fn may_hold<M: FlowMemory>(memory: &M, family: Family, hash: &Hash) -> bool {
    let tags = match family {
        Family::V4 => load_tags::<V4, M>(memory, hash),
        Family::V6 => load_tags::<V6, M>(memory, hash),
    };
    let Some([first, second, third, fourth]) = tags else {
        return true;
    };
    let is_free = |tags: Tags| tags.matching(hash.tag).is_none();
    !(is_free(first) && is_free(second) && is_free(third) && is_free(fourth))
}

/// The control word of a key's live record, by a first look.
#[inline(always)]
pub(crate) fn peek<M: FlowMemory>(
    memory: &M,
    key: &FlowKey,
    hash: &Hash,
    now: Tick,
) -> Option<Control> {
    let control = match key.family {
        Family::V4 => peek_kind::<V4, M>(memory, key, hash),
        Family::V6 => peek_kind::<V6, M>(memory, key, hash),
    };
    let is_live = control.holds_record() && !control.deadline().has_passed(now);
    is_live.then_some(control)
}

/// Zero for none.
#[cfg_attr(target_arch = "bpf", inline(never))]
#[cfg_attr(not(target_arch = "bpf"), inline)]
fn peek_kind<K: Kind, M: FlowMemory>(memory: &M, key: &FlowKey, hash: &Hash) -> Control {
    let place = find::<K, M>(memory, key, hash);
    let words = place.and_then(|place| K::words(memory, place));
    words.map_or(Control(0), load_control)
}

/// As [`lookup`], in one slot alone.
#[inline(always)]
pub fn lookup_at<M: FlowMemory>(
    memory: &M,
    key: &FlowKey,
    place: Place,
    now: Tick,
    record: &mut Record,
) -> Lookup<M::Words> {
    match key.family {
        Family::V4 => read::<V4, M>(memory, key, place, now, record),
        Family::V6 => read::<V6, M>(memory, key, place, now, record),
    }
}

/// Writes a changed record back and gives its new control word; `None` when it changed since it
/// was found, and the caller looks it up again. `warm` is what shall stand in its warm words, for a
/// caller that has read them.
///
/// A record that differs only in its control word is written by one compare-and-swap; one that
/// does not differ at all is not written.
/// Otherwise the record is locked for the few stores in between, so a process that may be killed
/// at any instruction must not call this with a record that differs in more.
#[inline(always)]
pub fn update<M: FlowMemory>(
    memory: &M,
    found: &Found<M::Words>,
    record: &Record,
    warm: Option<&Warm>,
    cached: u8,
) -> Option<Control> {
    // Not kept together as an option: the pointer would be undefined without one, and the verifier
    // refuses to see that stored.
    let Place {
        family,
        bucket,
        slot,
    } = found.place;
    let (warm_words, warm) = match warm {
        None => (found.words, None),
        Some(_) => match memory.warm(family, bucket, slot) {
            Some(words) => (words, warm),
            None => (found.words, None),
        },
    };
    write_changes(&Change {
        words: found.words,
        control: found.control,
        digest: found.digest,
        new: record.control(found.control),
        state: record.words(),
        cached: (found.cached, cached),
        warm_words,
        warm,
    })
}

/// What [`update`] shall write, and where.
pub(super) struct Change<'a, W> {
    pub(super) words: W,
    pub(super) control: Control,
    pub(super) digest: u64,
    /// Old and new.
    pub(super) cached: (u8, u8),
    /// What the control word shall be, and the words after it.
    pub(super) new: Control,
    pub(super) state: StateWords,
    /// Of the warm words, or anything where there are none to be written.
    pub(super) warm_words: W,
    pub(super) warm: Option<&'a Warm>,
}

#[inline(never)]
fn write_changes<W: Words>(change: &Change<'_, W>) -> Option<Control> {
    write_here(change)
}

#[inline(always)]
pub(super) fn write_here<W: Words>(change: &Change<'_, W>) -> Option<Control> {
    let Change {
        words,
        control: old,
        digest,
        new,
        state,
        cached: (old_cached, cached),
        warm_words,
        warm,
    } = *change;
    let is_same = StateWords::load(words).is_same(state);
    let changed_warm = warm.filter(|warm| Warm::read(warm_words) != **warm);
    // Should another CPU be writing, its words may be among those read here; the control word is
    // then no longer `old`, and the swap fails.
    if is_same && cached == old_cached && changed_warm.is_none() {
        return write_control(words, old, new);
    }
    if words.compare_exchange(CONTROL_WORD, old.0, old.locked().0) != old.0 {
        return None;
    }
    if StateWords::load(words).digest() != digest {
        // The version has come round. Not unlocked to the next one, since nothing has changed.
        words.store(CONTROL_WORD, old.0);
        return None;
    }
    if !is_same {
        state.store(words);
    }
    if let Some(warm) = changed_warm {
        warm.write(warm_words);
    }
    if cached != old_cached {
        let word = words.load(KEY_WORD) & !KEY_WORD0_FOREIGN_BITS;
        words.store(KEY_WORD, word | cached as u64);
    }
    words.store(CONTROL_WORD, new.0);
    Some(new)
}

/// Writes a record that differs in no more than its control word, and gives that as it stands then.
#[inline(always)]
pub(super) fn write_control<W: Words>(words: W, old: Control, new: Control) -> Option<Control> {
    if new.differs_only_in_version(old) {
        // Another packet may have written just these words, starting from the same record.
        return (load_control(words) == old).then_some(old);
    }
    (words.compare_exchange(CONTROL_WORD, old.0, new.0) == old.0).then_some(new)
}

/// Reads the record of a slot in one piece, if it is the key's, live and has not expired. The key
/// is compared again: the slot may have passed to another flow since the first look.
#[inline(always)]
fn read<K: Kind, M: FlowMemory>(
    memory: &M,
    key: &FlowKey,
    place: Place,
    now: Tick,
    record: &mut Record,
) -> Lookup<M::Words> {
    let Some(words) = K::words(memory, place) else {
        return Lookup::Missing;
    };
    for _ in 0..RECORD_READS_MAX {
        let control = load_control(words);
        if !control.holds_record() || !key_matches::<K, _>(words, key) {
            return Lookup::Missing;
        }
        if control.is_locked() {
            let mut wait = WaitForWriter { memory, words };
            memory.repeat(WRITER_WAITS_MAX, &mut wait);
            if load_control(words).is_locked() {
                return Lookup::Busy(place);
            }
            continue;
        }
        let cached = words.load(KEY_WORD) as u8;
        let state = StateWords::load(words);
        *record = Record::from_words(control, state);
        // Key and record are one piece only if nobody changed the slot meanwhile.
        if load_control(words) != control {
            continue;
        }
        if control.deadline().has_passed(now) {
            return Lookup::Missing;
        }
        return Lookup::Found(Found {
            place,
            words,
            control,
            digest: state.digest(),
            cached,
        });
    }
    Lookup::Busy(place)
}

/// Looks at a locked record until it is no longer locked.
struct WaitForWriter<'a, M: FlowMemory> {
    memory: &'a M,
    words: M::Words,
}

impl<M: FlowMemory> Repeat for WaitForWriter<'_, M> {
    fn step(&mut self) -> bool {
        self.memory.relax();
        load_control(self.words).is_locked()
    }
}
