//! Making a record.
//!
//! # Why a key never has two live records
//!
//! An insert goes through three steps, each a full barrier before the next:
//!
//! 1. *Claim*: put the tag into an empty slot by compare-and-swap of the tags word, and see to it
//!    that the slot's control word is `Free`, by compare-and-swap if it was not.
//! 2. *Scan* the four buckets of the key, except the own slot, for its tag.
//! 3. *Publish*: write the record, then make the control word `Live`.
//!
//! Take two inserts of one key. One of them finished its claim later; its scan therefore sees the
//! other's slot, unless that was withdrawn or removed since. If that slot is `Live`, the scanner
//! withdraws. If it is `Free`, it is not published yet (or belongs to another key with the same
//! tag: the key may not be written yet, so this is not known), and the scanner does not publish
//! before this is settled. So of two inserts at most one gets past its scan while the other is
//! claimed or live. `Dead` slots hold nothing any more: their tag is about to be cleared. A slot
//! that was claimed, but is not `Free` yet, looks the same; its claimer has yet to scan, and will
//! see the one who took it for dead.
//!
//! Both may see each other. Then places decide: who has the higher one (bucket, then slot) withdraws
//! and tries again, who has the lower one waits. The order is the same for all, so there is no
//! circle of waiters: whoever waits, waits for a higher place, and the highest never waits.
//!
//! A record that was published is live until someone removes it: claims only ever take empty slots,
//! and a tag is cleared only by who claimed its slot and did not publish, or made its record dead.
//!
//! Worst cases: an insert that met others in each of its tries is [`Insert::Contended`]. Two inserts of
//! different keys may hold each other up like two of the same key, when they share a bucket and
//! the seven bits of the tag. A CPU that is held up between claim and publication holds up others
//! that insert that key, by a bounded number of tries; it never holds up a lookup.

use super::remove::{release, remove};
use super::room::{Room, make_room};
use super::tags::Tags;
use super::{
    Displaced, HalfOpen, Hash, Insert, Kind, NewFlow, Opening, Place, V4, V6, count_down, count_up,
    gauges, key_matches, load_control, load_tags, pressure,
};
use crate::host::{FlowMemory, Repeat, Words};
use crate::limits::{
    CLAIMER_WAITS_MAX, HALF_OPEN_MARGIN_SHARE, INSERT_ROUNDS_MAX, SLOTS_PER_BUCKET,
};
use crate::record::{CONTROL_WORD, Control, KEY_WORD, SlotState};
use crate::settings::Settings;
use crate::time::Tick;
use crate::tuple::{Family, FlowKey, KEY_WORD0_FOREIGN_BITS};

/// Makes a record.
#[inline]
pub fn insert<M: FlowMemory>(
    memory: &M,
    flow: &NewFlow<'_>,
    settings: &Settings,
    now: Tick,
    displaced: &mut Displaced,
) -> Insert {
    displaced.control = Control(0);
    displaced.predecessor = Control(0);
    match flow.key.family {
        Family::V4 => insert_kind::<V4, M>(memory, flow, settings, now, displaced),
        Family::V6 => insert_kind::<V6, M>(memory, flow, settings, now, displaced),
    }
}

/// Puts a copy of another table's record in: it is [`SlotState::Coming`], no limit is asked, and
/// nothing makes room for it.
pub(super) fn insert_copy<M: FlowMemory>(
    memory: &M,
    flow: &NewFlow<'_>,
    now: Tick,
    displaced: &mut Displaced,
) -> Insert {
    match flow.key.family {
        Family::V4 if has_room::<V4, M>(memory, flow.hash) => {
            place_kind::<V4, Copied, M>(memory, flow, now, displaced)
        }
        Family::V6 if has_room::<V6, M>(memory, flow.hash) => {
            place_kind::<V6, Copied, M>(memory, flow, now, displaced)
        }
        _ => Insert::Full,
    }
}

/// What a record is when it is published. A type, so that packets have nothing to do with copies.
trait Published {
    const STATE: SlotState;
}

struct Begun;
struct Copied;

impl Published for Begun {
    const STATE: SlotState = SlotState::Live;
}

impl Published for Copied {
    const STATE: SlotState = SlotState::Coming;
}

#[cfg_attr(target_arch = "bpf", inline(never))]
fn insert_kind<K: Kind, M: FlowMemory>(
    memory: &M,
    flow: &NewFlow<'_>,
    settings: &Settings,
    now: Tick,
    displaced: &mut Displaced,
) -> Insert {
    // One that has its share gives up another's place, which is most likely one of its own.
    let has_its_share =
        flow.half_open == HalfOpen::Yes && pressure::has_its_share(memory, settings, cells(flow));
    let needs_room = has_its_share
        || is_at_limit(memory, flow.half_open, settings)
        || !has_room::<K, M>(memory, flow.hash);
    if needs_room
        && make_room::<K, M>(memory, flow.hash, settings, now, displaced) == Room::None
        && (has_its_share || !is_within_margin::<K, M>(memory, flow, settings))
    {
        count_up(memory, gauges::REFUSED);
        return Insert::Full;
    }
    place_kind::<K, Begun, M>(memory, flow, now, displaced)
}

#[inline(always)]
fn place_kind<K: Kind, P: Published, M: FlowMemory>(
    memory: &M,
    flow: &NewFlow<'_>,
    now: Tick,
    displaced: &mut Displaced,
) -> Insert {
    // Not an option of a place: without a claim, a register of it would be left undefined, and the
    // verifier refuses to see it stored.
    let mut place = Place {
        family: K::FAMILY,
        bucket: 0,
        slot: 0,
    };
    let mut claim = Claim::None;
    for _ in 0..INSERT_ROUNDS_MAX {
        if claim == Claim::None {
            claim = claim_slot::<K, M>(memory, flow, &mut place);
            if claim == Claim::None {
                continue;
            }
        }
        let settled = if meets_equal_tag::<K, M>(memory, flow.hash) {
            settle::<K, M>(memory, flow, &place, now, displaced)
        } else {
            Settled::Alone
        };
        match settled {
            Settled::Alone => {
                publish::<K, P, M>(memory, flow, place);
                return Insert::Done(place);
            }
            Settled::Exists => {
                withdraw(memory, flow, place);
                return Insert::Exists;
            }
            Settled::KeepsClaim => {}
            Settled::Withdrawn => claim = Claim::None,
        }
    }
    if claim == Claim::Held {
        withdraw(memory, flow, place);
    }
    count_up(memory, gauges::CONTENDED);
    Insert::Contended
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Claim {
    None,
    Held,
}

/// What became of a claim in one round.
enum Settled {
    /// Nobody else has the key or may come to have it.
    Alone,
    Exists,
    KeepsClaim,
    Withdrawn,
}

/// Compares a claim with all others that concern its key.
#[cfg_attr(target_arch = "bpf", inline(never))]
fn settle<K: Kind, M: FlowMemory>(
    memory: &M,
    flow: &NewFlow<'_>,
    place: &Place,
    now: Tick,
    displaced: &mut Displaced,
) -> Settled {
    let place = *place;
    let Some(other) = find_other::<K, M>(memory, flow, place) else {
        return Settled::Alone;
    };
    match judge::<K, M>(memory, flow.key, other, now) {
        Conflict::Gone => Settled::KeepsClaim,
        Conflict::Exists => Settled::Exists,
        Conflict::Expired(control) => {
            if remove(memory, other, control) {
                displaced.predecessor = control;
            }
            Settled::KeepsClaim
        }
        Conflict::Claimed if other.rank() < place.rank() => {
            withdraw(memory, flow, place);
            wait_for_claimer::<K, M>(memory, other, flow.hash.tag);
            Settled::Withdrawn
        }
        Conflict::Claimed => {
            wait_for_claimer::<K, M>(memory, other, flow.hash.tag);
            Settled::KeepsClaim
        }
    }
}

fn wait_for_claimer<K: Kind, M: FlowMemory>(memory: &M, place: Place, tag: u8) {
    let Some(tags) = memory.tags(K::FAMILY, place.bucket) else {
        return;
    };
    let Some(words) = K::words(memory, place) else {
        return;
    };
    let mut wait = WaitForClaimer {
        memory,
        tags,
        words,
        slot: place.slot,
        tag,
    };
    memory.repeat(CLAIMER_WAITS_MAX, &mut wait);
}

/// Looks at a claimed slot until it is published or given back.
struct WaitForClaimer<'a, M: FlowMemory> {
    memory: &'a M,
    tags: M::Words,
    words: M::Words,
    slot: u32,
    tag: u8,
}

impl<M: FlowMemory> Repeat for WaitForClaimer<'_, M> {
    fn step(&mut self) -> bool {
        self.memory.relax();
        Tags(self.tags.load(0)).has(self.slot, self.tag)
            && load_control(self.words).slot_state() == SlotState::Free
    }
}

/// Claims a slot, unless there is none or another CPU changed the bucket.
#[cfg_attr(target_arch = "bpf", inline(never))]
fn claim_slot<K: Kind, M: FlowMemory>(memory: &M, flow: &NewFlow<'_>, place: &mut Place) -> Claim {
    let Some(tags) = load_tags::<K, M>(memory, flow.hash) else {
        return Claim::None;
    };
    let (bucket, tags) = choose_bucket(flow.hash, tags);
    let Some(words) = memory.tags(K::FAMILY, bucket) else {
        return Claim::None;
    };
    place.bucket = bucket;
    place.slot = tags.empty().or_lowest(flow.hash.preferred_slot());
    if cfg!(target_arch = "bpf") {
        touch::<K, M>(memory, *place);
    }
    let claimed = tags.with(place.slot, tag_byte(flow));
    if tags.empty().is_none() || words.compare_exchange(0, tags.0, claimed.0) != tags.0 {
        return Claim::None;
    }
    if tags.is_half_open(place.slot) {
        // Left behind by `release`.
        count_down(memory, gauges::HALF_OPEN);
    }
    if flow.half_open == HalfOpen::Yes {
        count_up(memory, gauges::HALF_OPEN);
        cells(flow).count_up(memory);
    }
    // Before the record can be seen, so that nobody counts its removal first; and before anything is
    // written of the slot: an atomic operation waits until all that was written before has reached
    // its cache lines, and those of a new record come from memory.
    count_up(memory, gauges::COUNT);
    count_up(memory, gauges::INSERTED);
    free_control::<K, M>(memory, *place);
    Claim::Held
}

/// Reads a word of each line that the record will be written to. An atomic operation waits for what was
/// written before it: without this, one after the other for the slot, the warm words and the accounting to
/// come from memory.
#[inline(always)]
fn touch<K: Kind, M: FlowMemory>(memory: &M, place: Place) {
    if let Some(words) = memory.accounting(K::FAMILY, place.bucket, place.slot) {
        core::hint::black_box(words.load(0));
    }
    if let Some(words) = memory.warm(K::FAMILY, place.bucket, place.slot) {
        core::hint::black_box(words.load(0));
    }
    if let Some(words) = K::words(memory, place) {
        core::hint::black_box(words.load(0));
    }
}

/// Where the flow of a new record counts.
#[inline(always)]
fn cells(flow: &NewFlow<'_>) -> pressure::Cells {
    pressure::Cells::of_flow(flow.key, flow.record.originator())
}

/// Gives a claim back.
fn withdraw<M: FlowMemory>(memory: &M, flow: &NewFlow<'_>, place: Place) {
    if release(memory, place) {
        cells(flow).count_down(memory);
    }
    count_down(memory, gauges::COUNT);
    count_down(memory, gauges::INSERTED);
}

fn has_room<K: Kind, M: FlowMemory>(memory: &M, hash: &Hash) -> bool {
    match load_tags::<K, M>(memory, hash) {
        Some([first, second, third, fourth]) => {
            let are_full = first.empty().is_none()
                && second.empty().is_none()
                && third.empty().is_none()
                && fourth.empty().is_none();
            !are_full
        }
        None => false,
    }
}

/// The bucket for a new record, and its tags: of the pair with more room, the key's own bucket
/// if it has any.
const fn choose_bucket(hash: &Hash, tags: [Tags; 4]) -> (u32, Tags) {
    let [first, second] = hash.buckets;
    let [first_tags, first_neighbour, second_tags, second_neighbour] = tags;
    let first_room = first_tags.empty().count() + first_neighbour.empty().count();
    let second_room = second_tags.empty().count() + second_neighbour.empty().count();
    let (own, own_tags, neighbour_tags) = if second_room > first_room {
        (second, second_tags, second_neighbour)
    } else {
        (first, first_tags, first_neighbour)
    };
    if own_tags.empty().is_none() {
        (own ^ 1, neighbour_tags)
    } else {
        (own, own_tags)
    }
}

const fn tag_byte(flow: &NewFlow<'_>) -> u8 {
    match flow.half_open {
        HalfOpen::Yes => flow.hash.tag | 0x80,
        HalfOpen::No => flow.hash.tag,
    }
}

/// Makes the control word of a claimed slot `Free`. Nobody else changes it, so this cannot fail.
fn free_control<K: Kind, M: FlowMemory>(memory: &M, place: Place) {
    let Some(words) = K::words(memory, place) else {
        return;
    };
    let control = load_control(words);
    if control.slot_state() != SlotState::Free {
        let free = control.with_slot_state(SlotState::Free);
        words.compare_exchange(CONTROL_WORD, control.0, free.0);
    }
}

fn is_at_limit<M: FlowMemory>(memory: &M, half_open: HalfOpen, settings: &Settings) -> bool {
    let Some(words) = memory.gauges() else {
        return false;
    };
    words.load(gauges::COUNT) >= settings.flows_max as u64
        || (half_open == HalfOpen::Yes
            && words.load(gauges::HALF_OPEN) >= settings.half_open_max as u64)
}

/// Whether nothing but the limit of half-open records is in the way, and that is not exceeded by much.
fn is_within_margin<K: Kind, M: FlowMemory>(
    memory: &M,
    flow: &NewFlow<'_>,
    settings: &Settings,
) -> bool {
    let Some(words) = memory.gauges() else {
        return false;
    };
    let margin = settings.half_open_max / HALF_OPEN_MARGIN_SHARE;
    let limit = u64::from(settings.half_open_max) + u64::from(margin);
    words.load(gauges::COUNT) < u64::from(settings.flows_max)
        && words.load(gauges::HALF_OPEN) < limit
        && has_room::<K, M>(memory, flow.hash)
}

/// Whether another slot of the key's buckets has the same tag as the one just claimed. Without a
/// loop, and without a look at any slot.
fn meets_equal_tag<K: Kind, M: FlowMemory>(memory: &M, hash: &Hash) -> bool {
    let Some([first, second, third, fourth]) = load_tags::<K, M>(memory, hash) else {
        return true;
    };
    let count = |tags: Tags| tags.matching(hash.tag).count();
    count(first) + count(second) + count(third) + count(fourth) > 1
}

/// A slot with the key's tag, other than the own one, that holds the key or may come to hold it.
///
/// A slot may pass to another flow between the reads. Then it was empty after the caller's
/// claim, and whoever claimed it after that will see the caller.
fn find_other<K: Kind, M: FlowMemory>(memory: &M, flow: &NewFlow<'_>, own: Place) -> Option<Place> {
    for bucket in flow.hash.candidates() {
        let mut matching = Tags(memory.tags(K::FAMILY, bucket)?.load(0)).matching(flow.hash.tag);
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
            if place.rank() == own.rank() {
                continue;
            }
            let words = K::words(memory, place)?;
            let concerns = match load_control(words).slot_state() {
                SlotState::Free => true,
                SlotState::Live | SlotState::Coming => key_matches::<K, _>(words, flow.key),
                SlotState::Dead => false,
            };
            if concerns {
                return Some(place);
            }
        }
    }
    None
}

/// What a slot that [`find_other`] found means for an insert.
enum Conflict {
    /// Nothing: it changed since.
    Gone,
    /// Live, with the same key.
    Exists,
    /// Live, with the same key, but expired.
    Expired(Control),
    /// Another insert, perhaps of the same key, is under way.
    Claimed,
}

fn judge<K: Kind, M: FlowMemory>(memory: &M, key: &FlowKey, place: Place, now: Tick) -> Conflict {
    let Some(words) = K::words(memory, place) else {
        return Conflict::Gone;
    };
    let control = load_control(words);
    match control.slot_state() {
        SlotState::Free => Conflict::Claimed,
        SlotState::Dead => Conflict::Gone,
        _ if !key_matches::<K, _>(words, key) => Conflict::Gone,
        // A locked one is just being renewed.
        _ if control.is_locked() || !control.deadline().has_passed(now) => Conflict::Exists,
        _ => Conflict::Expired(control),
    }
}

#[inline(always)]
fn publish<K: Kind, P: Published, M: FlowMemory>(memory: &M, flow: &NewFlow<'_>, place: Place) {
    let Some(words) = K::words(memory, place) else {
        return;
    };
    let [word0, word1, word2, word3, word4] = flow.key.words;
    words.store(KEY_WORD, word0 & !KEY_WORD0_FOREIGN_BITS);
    words.store(KEY_WORD + 1, word1);
    if K::FAMILY == Family::V6 {
        words.store(KEY_WORD + 2, word2);
        words.store(KEY_WORD + 3, word3);
        words.store(KEY_WORD + 4, word4);
    }
    flow.record.words().store(words);
    if let Some(warm) = memory.warm(K::FAMILY, place.bucket, place.slot) {
        flow.warm.write(warm);
    }
    if let Some(accounting) = memory.accounting(K::FAMILY, place.bucket, place.slot) {
        let Opening {
            packets,
            bytes,
            start,
        } = flow.opening;
        for (word, value) in (0..).zip([packets, bytes, 0, 0, start]) {
            accounting.store(word, value);
        }
    }
    let mut control = flow.record.control(load_control(words));
    if P::STATE as u8 != SlotState::Live as u8 {
        control = control.with_slot_state(P::STATE);
    }
    words.store(CONTROL_WORD, control.0);
}
