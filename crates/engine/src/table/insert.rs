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
//!
//! # Room
//!
//! When the table or its half-open share is at its limit, or the key's buckets are full, an expired
//! record of these buckets goes, or else the half-open one that would expire first. Deadlines
//! stand in for age: half-open records of one protocol have one timeout, so the order is that of
//! their last packet, and across protocols it is the order in which they would have gone anyway.
//! The buckets are looked at one after the other, and no further than the first that has such a
//! record: this bounds the cost of each packet of a flood. Confirmed records that have not expired never go.
//!
//! At the limit of the table this is an approximation, as is the kernel's (`early_drop` looks at
//! eight buckets): with `h` half-open records in `s` slots, the four buckets have none with a
//! probability of about `exp(-32 h / s)`, and the new flow is refused. That is 2 % for `h = s / 8`
//! and 0.03 % for `h = s / 4`; a limit for half-open records much below an eighth of the slots
//! would refuse new flows before it is of use.

use core::marker::PhantomData;

use super::remove::{release, remove};
use super::tags::Tags;
use super::{
    HalfOpen, Hash, Insert, Kind, NewFlow, Place, V4, V6, count_down, count_up, gauges,
    key_matches, load_control, load_tags,
};
use crate::host::{FlowMemory, Repeat, Words};
use crate::limits::{ACCOUNTING_WORDS, INSERT_ROUNDS_MAX, SLOTS_PER_BUCKET};
use crate::record::{CONTROL_WORD, Control, KEY_WORD, SlotState};
use crate::settings::Settings;
use crate::time::Tick;
use crate::tuple::{Family, FlowKey, KEY_WORD0_FOREIGN_BITS};

/// Makes a record.
pub fn insert<M: FlowMemory>(
    memory: &M,
    flow: &NewFlow<'_>,
    settings: &Settings,
    now: Tick,
) -> Insert {
    match flow.key.family {
        Family::V4 => insert_kind::<V4, M>(memory, flow, settings, now),
        Family::V6 => insert_kind::<V6, M>(memory, flow, settings, now),
    }
}

fn insert_kind<K: Kind, M: FlowMemory>(
    memory: &M,
    flow: &NewFlow<'_>,
    settings: &Settings,
    now: Tick,
) -> Insert {
    let mut rounds = Rounds::<K, M> {
        memory,
        flow,
        settings,
        now,
        claim: None,
        kind: PhantomData,
        end: End::Contended,
    };
    if !rounds.is_done_at_once() {
        memory.repeat(INSERT_ROUNDS_MAX, &mut rounds);
    }
    match (rounds.end, rounds.claim) {
        (End::Publish, Some(place)) => {
            publish::<K, M>(memory, flow, place);
            return Insert::Done(place);
        }
        (_, Some(place)) => release(memory, place),
        (_, None) => {}
    }
    match rounds.end {
        End::Exists => Insert::Exists,
        End::Full => {
            count_up(memory, gauges::REFUSED);
            Insert::Full
        }
        End::Publish | End::Contended => {
            count_up(memory, gauges::CONTENDED);
            Insert::Contended
        }
    }
}

/// An insert under way.
struct Rounds<'a, K, M> {
    memory: &'a M,
    flow: &'a NewFlow<'a>,
    settings: &'a Settings,
    now: Tick,
    claim: Option<Place>,
    end: End,
    kind: PhantomData<K>,
}

/// How the rounds ended.
#[derive(Clone, Copy)]
enum End {
    /// Not by themselves.
    Contended,
    Publish,
    Exists,
    Full,
}

impl<K: Kind, M: FlowMemory> Rounds<'_, K, M> {
    /// What most inserts need: a claim, and a scan that finds no equal tag.
    fn is_done_at_once(&mut self) -> bool {
        let Claim::Done(place) = claim_slot::<K, M>(self.memory, self.flow, self.settings) else {
            return false;
        };
        self.claim = Some(place);
        if meets_equal_tag::<K, M>(self.memory, self.flow.hash) {
            return false;
        }
        self.end = End::Publish;
        true
    }

    fn make_room(&mut self) -> bool {
        let mut room = MakeRoom {
            memory: self.memory,
            buckets: self.flow.hash.candidates(),
            now: self.now,
            room: Room::None,
            kind: PhantomData::<K>,
        };
        self.memory.repeat(room.buckets.len() as u32, &mut room);
        if room.room == Room::None {
            self.end = End::Full;
        }
        room.room != Room::None
    }
}

impl<K: Kind, M: FlowMemory> Repeat for Rounds<'_, K, M> {
    fn step(&mut self) -> bool {
        let Some(place) = self.claim else {
            return match claim_slot::<K, M>(self.memory, self.flow, self.settings) {
                Claim::Done(place) => {
                    self.claim = Some(place);
                    true
                }
                Claim::Lost => true,
                Claim::NoRoom => self.make_room(),
            };
        };
        match scan::<K, M>(self.memory, self.flow, place, self.now) {
            Scan::Clear => self.end = End::Publish,
            Scan::Exists => self.end = End::Exists,
            Scan::Expired(other, control) => {
                remove(self.memory, other, control);
                return true;
            }
            Scan::Claimed(other) => {
                if other.rank() < place.rank() {
                    release(self.memory, place);
                    self.claim = None;
                }
                self.memory.relax();
                return true;
            }
        }
        false
    }
}

enum Claim {
    Done(Place),
    /// Another CPU changed the bucket.
    Lost,
    NoRoom,
}

fn claim_slot<K: Kind, M: FlowMemory>(
    memory: &M,
    flow: &NewFlow<'_>,
    settings: &Settings,
) -> Claim {
    let family = K::FAMILY;
    let Some(tags) = load_tags::<K, M>(memory, flow.hash) else {
        return Claim::NoRoom;
    };
    let (bucket, tags) = choose_bucket(flow.hash, tags);
    if tags.empty().is_none() || is_at_limit(memory, flow.half_open, settings) {
        return Claim::NoRoom;
    }
    let Some(words) = memory.tags(family, bucket) else {
        return Claim::NoRoom;
    };
    let place = Place {
        family,
        bucket,
        slot: tags.empty().lowest(),
    };
    let claimed = tags.with(place.slot, tag_byte(flow));
    if words.compare_exchange(0, tags.0, claimed.0) != tags.0 {
        return Claim::Lost;
    }
    if tags.is_half_open(place.slot) {
        // Left behind by `release`.
        count_down(memory, gauges::HALF_OPEN);
    }
    if flow.half_open == HalfOpen::Yes {
        count_up(memory, gauges::HALF_OPEN);
    }
    free_control::<K, M>(memory, place);
    Claim::Done(place)
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

/// Whether another slot of the key's buckets has the same tag as the one just claimed. Without a
/// loop, and without a look at any slot.
fn meets_equal_tag<K: Kind, M: FlowMemory>(memory: &M, hash: &Hash) -> bool {
    let Some([first, second, third, fourth]) = load_tags::<K, M>(memory, hash) else {
        return true;
    };
    let count = |tags: Tags| tags.matching(hash.tag).count();
    count(first) + count(second) + count(third) + count(fourth) > 1
}

enum Scan {
    Clear,
    /// Live, with the same key.
    Exists,
    /// Live, with the same key, but expired.
    Expired(Place, Control),
    /// Another insert, perhaps of the same key, is under way.
    Claimed(Place),
}

/// Looks for others with the key's tag in its buckets.
fn scan<K: Kind, M: FlowMemory>(memory: &M, flow: &NewFlow<'_>, own: Place, now: Tick) -> Scan {
    let family = K::FAMILY;
    for bucket in flow.hash.candidates() {
        let Some(tags) = memory.tags(family, bucket) else {
            continue;
        };
        let mut matching = Tags(tags.load(0)).matching(flow.hash.tag);
        for _ in 0..SLOTS_PER_BUCKET {
            if matching.is_none() {
                break;
            }
            let slot = matching.lowest();
            matching = matching.rest();
            let place = Place {
                family,
                bucket,
                slot,
            };
            if place == own {
                continue;
            }
            match judge::<K, M>(memory, flow.key, place, now) {
                Scan::Clear => {}
                conflict => return conflict,
            }
        }
    }
    Scan::Clear
}

/// What a slot with the key's tag means for an insert.
///
/// The slot may pass to another flow between the reads. Then it was empty after the caller's
/// claim, and whoever claimed it after that will see the caller.
fn judge<K: Kind, M: FlowMemory>(memory: &M, key: &FlowKey, place: Place, now: Tick) -> Scan {
    let Some(words) = K::words(memory, place) else {
        return Scan::Clear;
    };
    let control = load_control(words);
    match control.slot_state() {
        SlotState::Free => Scan::Claimed(place),
        SlotState::Dead => Scan::Clear,
        SlotState::Live if !key_matches::<K, _>(words, key) => Scan::Clear,
        // A locked one is just being renewed.
        SlotState::Live if control.is_locked() || !control.deadline().has_passed(now) => {
            Scan::Exists
        }
        SlotState::Live => Scan::Expired(place, control),
    }
}

fn publish<K: Kind, M: FlowMemory>(memory: &M, flow: &NewFlow<'_>, place: Place) {
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
    flow.record.write(words);
    if let Some(warm) = memory.warm(K::FAMILY, place.bucket, place.slot) {
        flow.warm.write(warm);
    }
    if let Some(accounting) = memory.accounting(K::FAMILY, place.bucket, place.slot) {
        for word in 0..ACCOUNTING_WORDS {
            accounting.store(word, 0);
        }
    }
    // Counted before it can be seen, so that nobody counts its removal first.
    count_up(memory, gauges::COUNT);
    count_up(memory, gauges::INSERTED);
    let control = flow.record.control(load_control(words));
    words.store(CONTROL_WORD, control.0);
}

/// A search through the key's buckets for a record that may go.
struct MakeRoom<'a, K, M> {
    memory: &'a M,
    /// Those still to be searched, the next one first.
    buckets: [u32; 4],
    now: Tick,
    room: Room,
    kind: PhantomData<K>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Room {
    Made,
    /// What should have gone changed meanwhile.
    Moved,
    None,
}

impl<K: Kind, M: FlowMemory> Repeat for MakeRoom<'_, K, M> {
    fn step(&mut self) -> bool {
        let [bucket, second, third, fourth] = self.buckets;
        self.buckets = [second, third, fourth, bucket];
        self.room = make_room_in::<K, M>(self.memory, bucket, self.now);
        self.room == Room::None
    }
}

/// Gives up one record of a bucket, if there is one that may go.
fn make_room_in<K: Kind, M: FlowMemory>(memory: &M, bucket: u32, now: Tick) -> Room {
    let Some(tag_words) = memory.tags(K::FAMILY, bucket) else {
        return Room::None;
    };
    let tags = Tags(tag_words.load(0));
    let mut occupied = tags.occupied();
    let mut oldest = None;
    let mut oldest_left = u32::MAX;
    for _ in 0..SLOTS_PER_BUCKET {
        if occupied.is_none() {
            break;
        }
        let place = Place {
            family: K::FAMILY,
            bucket,
            slot: occupied.lowest(),
        };
        occupied = occupied.rest();
        let Some(words) = K::words(memory, place) else {
            return Room::None;
        };
        let control = load_control(words);
        if control.slot_state() != SlotState::Live || control.is_locked() {
            continue;
        }
        if control.deadline().has_passed(now) && remove(memory, place, control) {
            return Room::Made;
        }
        let left = control.deadline().ticks_left(now);
        if tags.is_half_open(place.slot) && left < oldest_left {
            oldest = Some((place, control));
            oldest_left = left;
        }
    }
    match oldest {
        Some((place, control)) => evict(memory, tag_words, place, control),
        None => Room::None,
    }
}

/// Gives up a half-open record, unless it was confirmed or changed since `control` was read; see
/// [`super::confirm`] for why the tag is read again.
fn evict<M: FlowMemory>(memory: &M, tags: M::Words, place: Place, control: Control) -> Room {
    if !Tags(tags.load(0)).is_half_open(place.slot) || !remove(memory, place, control) {
        return Room::Moved;
    }
    count_up(memory, gauges::EVICTED);
    Room::Made
}
