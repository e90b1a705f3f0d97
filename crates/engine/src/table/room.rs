//! Room for a new record.
//!
//! When the table or its half-open share is at its limit, or the key's buckets are full, an expired
//! record of these buckets goes, or else the half-open one that would expire first. Deadlines
//! stand in for age: half-open records of one protocol have one timeout, so the order is that of
//! their last packet, and across protocols it is the order in which they would have gone anyway.
//!
//! Where the buckets have none of these, a confirmed record goes, in the order of Linux's early drop
//! (`early_drop_list` and `gc_worker` of 6.18): first one that is not ASSURED, then one that is closing
//! (TCP after a FIN or RST, SCTP in shutdown). Established flows that are ASSURED never go.
//!
//! **Half-open records do not push out confirmed ones.** A new record is half-open, so a flood could
//! take the place of one confirmed record after the other. It cannot: confirmed ones go only while less
//! than an eighth of what the table may hold is half-open ([`EARLY_DROP_HALF_OPEN_SHARE`]), and never for
//! the limit of half-open records.
//!
//! The buckets are looked at one after the other, and no further than the first that has such a
//! record: this bounds the cost of each packet of a flood.
//!
//! At the limit of the table this is an approximation, as is the kernel's (`early_drop` looks at
//! eight buckets): with `h` half-open records in `s` slots, the four buckets have none with a
//! probability of about `exp(-32 h / s)`, and the new flow is refused if nothing else of these
//! buckets may go, unless only the limit of half-open records stands in its way: that may be exceeded by a little
//! ([`crate::limits::HALF_OPEN_MARGIN_SHARE`]). The probability is 2 % for `h = s / 8` and 0.03 % for `h = s / 4`; a limit for
//! half-open records much below an eighth of the slots would refuse new flows before it is of use.

use core::marker::PhantomData;

use super::remove::remove;
use super::tags::{Slots, Tags};
use super::{Displaced, Hash, Kind, Place, count_up, gauges, load_control};
use crate::conntrack::sctp::SctpState;
use crate::conntrack::tcp::TcpState;
use crate::host::{FlowMemory, Repeat, Words};
use crate::limits::{EARLY_DROP_HALF_OPEN_SHARE, SLOTS_PER_BUCKET};
use crate::record::{ASSURED, Control, KEY_WORD, SlotState};
use crate::settings::Settings;
use crate::time::Tick;
use crate::tuple::{Family, FlowKey, KEY_WORD0_FOREIGN_BITS};
use crate::wire::transport::{SCTP, TCP};

#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Room {
    Made,
    None,
}

/// Buckets of a key.
const BUCKETS: u32 = 4;

/// Which records may go, in the order in which they are looked for.
#[derive(Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
enum Class {
    /// Expired or half-open.
    HalfOpen = 0,
    /// Confirmed, but not ASSURED.
    Unassured = 1,
    /// On their way to their end.
    Closing = 2,
}

/// Gives up one record of the key's buckets, if there is one that may go.
#[cfg_attr(target_arch = "bpf", inline(never))]
pub(super) fn make_room<K: Kind, M: FlowMemory>(
    memory: &M,
    hash: &Hash,
    settings: &Settings,
    now: Tick,
    displaced: &mut Displaced,
) -> Room {
    let mut search = MakeRoom::<K, M> {
        memory,
        buckets: hash.candidates(),
        steps: 0,
        now,
        displaced,
        room: Room::None,
        kind: PhantomData,
    };
    memory.repeat(BUCKETS * classes(memory, settings), &mut search);
    search.room
}

/// How many of the classes may go.
fn classes<M: FlowMemory>(memory: &M, settings: &Settings) -> u32 {
    let share = settings.flows_max / EARLY_DROP_HALF_OPEN_SHARE;
    let few = share.min(settings.half_open_max).max(1);
    let half_open = memory
        .gauges()
        .map_or(0, |words| words.load(gauges::HALF_OPEN));
    if half_open < few as u64 { 3 } else { 1 }
}

struct MakeRoom<'a, K, M> {
    memory: &'a M,
    /// The next one to be searched first.
    buckets: [u32; BUCKETS as usize],
    steps: u32,
    now: Tick,
    displaced: &'a mut Displaced,
    room: Room,
    kind: PhantomData<K>,
}

impl<K: Kind, M: FlowMemory> Repeat for MakeRoom<'_, K, M> {
    fn step(&mut self) -> bool {
        let class = match self.steps / BUCKETS {
            0 => Class::HalfOpen,
            1 => Class::Unassured,
            _ => Class::Closing,
        };
        self.steps += 1;
        let [bucket, second, third, fourth] = self.buckets;
        self.buckets = [second, third, fourth, bucket];
        let Some(tags) = self.memory.tags(K::FAMILY, bucket) else {
            return false;
        };
        let victim = find_victim::<K, M>(self.memory, bucket, tags, class, self.now);
        if victim.left == u32::MAX {
            return true;
        }
        let place = Place {
            family: K::FAMILY,
            bucket,
            slot: victim.slot,
        };
        note_key::<K, M>(self.memory, place, &mut self.displaced.key);
        if !give_up(self.memory, tags, place, &victim, class) {
            // It changed meanwhile: another one must go, or none.
            return true;
        }
        self.displaced.control = victim.control;
        self.room = Room::Made;
        false
    }
}

/// The record of a bucket that would go first.
struct Victim {
    slot: u32,
    control: Control,
    /// Ticks until it expires, zero if it has; the largest number if there is none.
    left: u32,
}

/// The record of a bucket that is of a class and would expire first.
fn find_victim<K: Kind, M: FlowMemory>(
    memory: &M,
    bucket: u32,
    tags: M::Words,
    class: Class,
    now: Tick,
) -> Victim {
    let tags = Tags(tags.load(0));
    let mut search = FindVictim::<K, M> {
        memory,
        bucket,
        tags,
        occupied: tags.occupied(),
        class,
        now,
        victim: Victim {
            slot: 0,
            control: Control(0),
            left: u32::MAX,
        },
        kind: PhantomData,
    };
    memory.repeat(SLOTS_PER_BUCKET, &mut search);
    let mut victim = search.victim;
    victim.slot = memory.forget(victim.slot);
    victim.left = memory.forget(victim.left);
    victim
}

struct FindVictim<'a, K, M> {
    memory: &'a M,
    bucket: u32,
    tags: Tags,
    /// Slots that were not looked at yet.
    occupied: Slots,
    class: Class,
    now: Tick,
    victim: Victim,
    kind: PhantomData<K>,
}

impl<K: Kind, M: FlowMemory> Repeat for FindVictim<'_, K, M> {
    fn step(&mut self) -> bool {
        if self.occupied.is_none() {
            return false;
        }
        let slot = self.occupied.lowest();
        self.occupied = self.occupied.rest();
        let Some(words) = self.memory.slot(K::FAMILY, self.bucket, slot) else {
            return false;
        };
        let control = load_control(words);
        let is_settled = control.slot_state() == SlotState::Live && !control.is_locked();
        let left = control.deadline().ticks_left(self.now);
        let may_go = match self.class {
            Class::HalfOpen => left == 0 || self.tags.is_half_open(slot),
            Class::Unassured => control.status() & ASSURED == 0,
            Class::Closing => is_closing(control, words.load(KEY_WORD)),
        };
        if is_settled && may_go && left < self.victim.left {
            self.victim = Victim {
                slot,
                control,
                left,
            };
        }
        true
    }
}

/// Linux's `can_early_drop`. `name` is the first word of the key.
fn is_closing(control: Control, name: u64) -> bool {
    let state = control.tcp_state() as u8;
    match (name >> 8) as u8 {
        TCP => state >= TcpState::FinWait as u8 && state <= TcpState::Close as u8,
        SCTP => state >= SctpState::ShutdownSent as u8 && state <= SctpState::ShutdownAckSent as u8,
        _ => false,
    }
}

/// Removes a record, unless it changed since its control word was read. A half-open one may be
/// confirmed in its tag first; see [`super::confirm`] for why that is read again. What makes a confirmed
/// one stay is a change of the control word.
fn give_up<M: FlowMemory>(
    memory: &M,
    tags: M::Words,
    place: Place,
    victim: &Victim,
    class: Class,
) -> bool {
    if victim.left == 0 {
        return remove(memory, place, victim.control);
    }
    let may_go = class != Class::HalfOpen || Tags(tags.load(0)).is_half_open(place.slot);
    let is_evicted = may_go && remove(memory, place, victim.control);
    if is_evicted {
        count_up(memory, gauges::EVICTED);
    }
    is_evicted
}

/// The key of a record that may go. It is that record's if the removal succeeds after it was read.
fn note_key<K: Kind, M: FlowMemory>(memory: &M, place: Place, key: &mut FlowKey) {
    let Some(words) = K::words(memory, place) else {
        return;
    };
    key.family = K::FAMILY;
    key.words[0] = words.load(KEY_WORD) & !KEY_WORD0_FOREIGN_BITS;
    key.words[1] = words.load(KEY_WORD + 1);
    if K::FAMILY == Family::V6 {
        key.words[2] = words.load(KEY_WORD + 2);
        key.words[3] = words.load(KEY_WORD + 3);
        key.words[4] = words.load(KEY_WORD + 4);
    } else {
        key.words[2] = 0;
        key.words[3] = 0;
        key.words[4] = 0;
    }
}
