//! Moving records from one table to another while packets come.
//!
//! A table changes its size by way of a second one: every packet looks into the *older* table first and
//! then into the *newer* one ([`SETTING_NEWER_TABLE`] and [`SETTING_OLDER_TABLE`] tell it which it has at
//! hand), new records are made in the newer one alone, and user space moves what the older one has. So:
//!
//! **While a record is live in the older table, that is the one that counts.** Moving it takes three
//! steps: put a copy into the newer table, whose control word says [`SlotState::Coming`]; take the record
//! out of the older one, if it has not changed since it was read; make the copy live. The second is
//! one compare-and-swap, and it alone decides: before it every packet finds the record, after it none
//! does, and goes on to the copy. Where it fails, the copy is written again, which nobody sees.
//!
//! # Races, and the worst that each can do
//!
//! * **A packet that has read the record.** Its compare-and-swap fails, it looks again and finds the copy.
//! * **A packet that is counted.** Counters are added to after the record was written: what one packet
//!   adds between the last look at the counters and the end of its own way is not in the copy. At
//!   worst each CPU loses one packet of a flow so.
//! * **The short way of established packets** sees one table alone. In the newer one it does not take a
//!   copy that is not live, since its record may still be in the older one.
//! * **An insert.** The newer table may have a live record of the key: it was made by a packet that knew
//!   of both tables, at the moment when one that did not yet made the other in the older table. All later
//!   packets found that one, so it stays and the younger goes.
//! * **Two moments of a flow whose record expires while it is moved.** The copy expires with it.
//! * **A mover that is killed.** Before the second step a copy is left whose record counts on: the
//!   next mover finds and replaces it. After it the copy is found by all packets but the short way, and the
//!   next one makes it live. Between the second step's swap and its end, a tag stays set in the older
//!   table, which is thrown away, and the count of records is wrong by one.
//! * **A mover that is stopped** anywhere holds nobody up: no step takes a lock.
//!
//! Numbers of flows do not depend on the size of a table. What helpers keep for a flow and what it expects
//! name its place, which is [changed](crate::expect::moved) with the second step still to come.

use core::ops::Range;

use super::insert::insert_copy;
use super::remove::{confirm, remove};
use super::sweep::{Entry, entry, key};
use super::tags::Tags;
use super::{
    Displaced, HalfOpen, Hash, Insert, NewFlow, Opening, Place, count_down, count_up, gauges,
    load_control,
};
use crate::expect;
use crate::helper;
use crate::host::{FlowMemory, Words};
use crate::labels;
use crate::limits::{MOVE_TRIES_MAX, SLOTS_PER_BUCKET};
use crate::record::{ASSIGNED, CONTROL_WORD, Control, SlotState};
use crate::settings::Settings;
#[cfg(doc)]
use crate::settings::{SETTING_NEWER_TABLE, SETTING_OLDER_TABLE};
use crate::synproxy;
use crate::time::Tick;
use crate::tuple::Family;

/// What became of a record that was to be moved.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Moved {
    Done,
    /// It is not there any more, or has expired.
    Gone,
    /// Its buckets of the newer table are full.
    Full,
    /// Packets kept changing it, or inserting into its buckets.
    Busy,
}

/// Moves the record of a slot to a table with these settings. Both tables have the same gauges,
/// expectations and states of helpers. To be called by one thread at a time, and only when every packet
/// on its way knows of both tables.
pub fn transfer<M: FlowMemory>(
    from: &M,
    to: &M,
    settings: &Settings,
    place: Place,
    now: Tick,
) -> Moved {
    let Some(first) = entry(from, place) else {
        return absent(from, place);
    };
    if first.control.deadline().has_passed(now) {
        return Moved::Gone;
    }
    // The record is not made, it is there already.
    count_down(from, gauges::COUNT);
    count_down(from, gauges::INSERTED);
    let copied = copy(from, to, settings, &first, now);
    let (mut copied, mut read) = match copied {
        Ok(copied) => (copied, first),
        Err(moved) => {
            count_up(from, gauges::COUNT);
            count_up(from, gauges::INSERTED);
            return moved;
        }
    };
    let mut moved = Moved::Busy;
    for _ in 0..MOVE_TRIES_MAX {
        if remove(from, place, read.control) {
            moved = Moved::Done;
            break;
        }
        let Some(again) = entry(from, place) else {
            if absent(from, place) == Moved::Busy {
                continue;
            }
            moved = Moved::Gone;
            break;
        };
        copied.control = rewrite(to, &copied, &again);
        if !is_half_open(from, place) {
            confirm(to, copied.place);
        }
        read = again;
    }
    match moved {
        Moved::Done => {
            add_late(from, to, &read, copied.place);
            settle(to, copied.place, copied.control);
        }
        // The record counts on, or nothing does.
        _ => {
            let id = Hash::of(&read.key, settings).id;
            tell_helpers(from, id, &read, copied.place, place);
            remove(to, copied.place, copied.control);
        }
    }
    // One of the two was taken out, and that is no end of a flow.
    count_up(from, gauges::COUNT);
    count_down(from, gauges::REMOVED);
    moved
}

/// Makes the copies of some buckets live. For a table that has no older one any more.
pub fn settle_copies<M: FlowMemory>(memory: &M, family: Family, buckets: Range<u32>) {
    for bucket in buckets {
        for slot in 0..SLOTS_PER_BUCKET {
            let place = Place {
                family,
                bucket,
                slot,
            };
            if let Some(words) = place.words(memory) {
                settle(memory, place, load_control(words));
            }
        }
    }
}

/// A copy that was put down.
struct Copied {
    place: Place,
    control: Control,
}

fn absent<M: FlowMemory>(memory: &M, place: Place) -> Moved {
    match place.words(memory).map(load_control) {
        // It was locked, or changed, each time it was looked at.
        Some(control) if control.slot_state() == SlotState::Live => Moved::Busy,
        _ => Moved::Gone,
    }
}

fn copy<M: FlowMemory>(
    from: &M,
    to: &M,
    settings: &Settings,
    entry: &Entry,
    now: Tick,
) -> Result<Copied, Moved> {
    let hash = Hash::of(&entry.key, settings);
    let flow = NewFlow {
        key: &entry.key,
        hash: &hash,
        record: &entry.record,
        warm: &entry.warm,
        half_open: match is_half_open(from, entry.place) {
            true => HalfOpen::Yes,
            false => HalfOpen::No,
        },
        opening: Opening::NOT_COUNTED,
    };
    for _ in 0..MOVE_TRIES_MAX {
        let mut displaced = Displaced::NOTHING;
        match insert_copy(to, &flow, now, &mut displaced) {
            Insert::Done(place) => {
                let words = place.words(to).ok_or(Moved::Busy)?;
                let control = load_control(words);
                write_accounting(to, place, entry);
                tell_helpers(from, hash.id, entry, entry.place, place);
                return Ok(Copied { place, control });
            }
            Insert::Exists => drop_younger(to, &hash, entry),
            Insert::Full => return Err(Moved::Full),
            Insert::Contended => {}
        }
    }
    Err(Moved::Busy)
}

/// Takes out what the newer table has of a flow whose record is in the older one.
fn drop_younger<M: FlowMemory>(to: &M, hash: &Hash, entry: &Entry) {
    for bucket in hash.candidates() {
        for slot in 0..SLOTS_PER_BUCKET {
            let place = Place {
                family: entry.key.family,
                bucket,
                slot,
            };
            let has_tag = to
                .tags(place.family, bucket)
                .is_some_and(|tags| Tags(tags.load(0)).has(slot, hash.tag));
            let Some(words) = place.words(to).filter(|_| has_tag) else {
                continue;
            };
            let control = load_control(words);
            if !control.holds_record() || key(words, place.family).0 != entry.key {
                continue;
            }
            let is_copy = control.slot_state() == SlotState::Coming;
            if remove(to, place, control) && is_copy {
                // Of a mover that was killed. It was never counted.
                count_up(to, gauges::COUNT);
                count_down(to, gauges::REMOVED);
            }
        }
    }
}

/// Writes a copy as its record is now. Nobody else looks at it, unless it has expired.
fn rewrite<M: FlowMemory>(to: &M, copied: &Copied, entry: &Entry) -> Control {
    let Some(words) = copied.place.words(to) else {
        return copied.control;
    };
    let live = entry.record.control(copied.control);
    let new = live.with_slot_state(SlotState::Coming);
    if words.compare_exchange(CONTROL_WORD, copied.control.0, new.0) != copied.control.0 {
        return copied.control;
    }
    entry.record.words().store(words);
    if let Some(warm) = to.warm(copied.place.family, copied.place.bucket, copied.place.slot) {
        entry.warm.write(warm);
    }
    write_accounting(to, copied.place, entry);
    new
}

fn write_accounting<M: FlowMemory>(to: &M, place: Place, entry: &Entry) {
    let words = to.accounting(place.family, place.bucket, place.slot);
    let (Some(words), Some(values)) = (words, entry.accounting) else {
        return;
    };
    for (word, value) in (0..).zip(values) {
        words.store(word, value);
    }
}

/// Adds what packets have counted since the copy was made.
fn add_late<M: FlowMemory>(from: &M, to: &M, read: &Entry, place: Place) {
    let old = read.place;
    let (Some(now), Some(then), Some(words)) = (
        from.accounting(old.family, old.bucket, old.slot),
        read.accounting,
        to.accounting(place.family, place.bucket, place.slot),
    ) else {
        return;
    };
    for (word, then) in (0..).zip(then) {
        let late = now.load(word).wrapping_sub(then);
        if late != 0 {
            words.add(word, late);
        }
    }
}

fn settle<M: FlowMemory>(memory: &M, place: Place, control: Control) {
    if control.slot_state() != SlotState::Coming {
        return;
    }
    if let Some(words) = place.words(memory) {
        let live = control.with_slot_state(SlotState::Live);
        words.compare_exchange(CONTROL_WORD, control.0, live.0);
    }
}

/// What helpers keep of the flow, and what it expects, is that of the record at another place.
fn tell_helpers<M: FlowMemory>(flows: &M, id: u32, entry: &Entry, old: Place, new: Place) {
    if entry.control.status() & ASSIGNED == 0 {
        return;
    }
    let born = entry.warm.assigned.born();
    labels::moved(flows, id, born, new);
    if entry.warm.assigned.has_synproxy() {
        synproxy::moved(flows, id, born, new);
    }
    if entry.warm.assigned.helper() == 0 {
        return;
    }
    helper::state::moved(flows, id, born, new);
    expect::moved(flows, &entry.key, old, new);
}

fn is_half_open<M: FlowMemory>(memory: &M, place: Place) -> bool {
    let tags = memory.tags(place.family, place.bucket);
    tags.is_some_and(|tags| Tags(tags.load(0)).is_half_open(place.slot))
}
