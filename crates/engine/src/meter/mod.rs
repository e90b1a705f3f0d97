//! What rules remember of sources: `recent`, `hashlimit` and `connlimit`.
//!
//! All of it lies in one memory of [`METER_SLOTS`] slots, which the two families and all lists share. A slot
//! is found by the list it belongs to and by its key through a chain of its bucket, or hangs on another slot.
//! A list is named by 64 bits that the compiler made of its name, so that it goes on where a policy takes
//! the place of another.
//!
//! # Races
//!
//! * A bucket is held by one CPU while it looks for an entry, adds or removes one; what `hashlimit` and
//!   `connlimit` keep changes only then.
//! * A list of `recent` has an order, and is held as a whole, as xt_recent holds all of its lists. While it is
//!   held, buckets are, one after the other. So no two CPUs wait for each other.
//! * Who waits longer than [`METER_WAITS_MAX`] looks gives up, and the packet is dropped and counted. What was
//!   held for [`METER_STALE_JIFFIES`] was held by a program that is no more.
//!
//! # No room
//!
//! A packet that needs a slot where none is free is dropped, as Linux drops it at `htable-max` and when
//! memory is short, and counted in [`WORD_FULL`].

mod connections;
mod memory;
mod rate;
mod recent;
mod survey;

pub use self::memory::{WORD_BUSY, WORD_EVICTED, WORD_FULL, WORD_LIST_MAX, WORD_USED};
pub use self::survey::{Change, Edit, RateEntry, RecentEntry, edit, is_used};
pub use self::survey::{let_go, rate_entries, recent_entries, sweep};

use crate::condition::{Held, kind};
use crate::host::{Host, Packet};
use crate::limits::METER_BUCKETS;
#[cfg(doc)]
use crate::limits::{METER_SLOTS, METER_STALE_JIFFIES, METER_WAITS_MAX};
use crate::policy::Condition;
use crate::process::{Run, Scratch};
use crate::settings::Settings;
use crate::table::Hash;
use crate::tuple::{Address, Family, FlowKey, Oriented};

/// What lies in a list: the low bits of its number.
pub mod content {
    pub const MASK: u64 = 0b111;
    pub const RECENT: u64 = 0b000;
    pub const RATE: u64 = 0b010;
    pub const CONNECTIONS: u64 = 0b100;
    /// A list itself.
    pub const LIST: u64 = 0b110;
    /// Of IPv6.
    pub const V6: u64 = 0b001;
}

/// A search in this memory, and what it is about.
#[derive(Clone, Copy, Debug)]
pub struct Meter {
    /// The list, with what lies in it.
    pub(crate) list: u64,
    pub(crate) key: [u64; 5],
    /// TTL that an entry must have, zero for any.
    pub(crate) ttl: u8,
    /// Whether the last word of the key is one.
    pub(crate) is_long: bool,
    /// Jiffies.
    pub(crate) now: u64,
    pub(crate) bucket: u32,
    /// First of the chain.
    pub(crate) first: u32,
    pub(crate) at: u32,
    pub(crate) previous: u32,
    pub(crate) found: u32,
    /// One that was taken out of the chain on the way, since its time was over.
    pub(crate) stale: u32,
    /// The list's own slot.
    pub(crate) header: u32,
    /// Loops over stamps and connections.
    pub(crate) index: u32,
    pub(crate) count: u32,
    pub(crate) wanted: u32,
    pub(crate) span: u32,
    pub(crate) kept: [u64; 2],
    /// The flow of the packet at hand, how far it has come, and whether it was met among those that are counted.
    pub(crate) name: [u64; 5],
    pub(crate) standing: Standing,
    pub(crate) is_counted: bool,
    pub(crate) cpu: u32,
    /// A flow that may be no more, and where it would be.
    pub(crate) flow: FlowKey,
    pub(crate) hash: Hash,
    /// Of `recent`: what is asked (bits of [`crate::condition::recent`]), the packet's TTL, and how many
    /// stamps an entry keeps, less one.
    pub(crate) what: u32,
    pub(crate) hops: u8,
    pub(crate) ring: u32,
    /// What is still to be done: an entry to be taken out, one to be stamped, whether one begins.
    pub(crate) victim: u32,
    pub(crate) entry: u32,
    pub(crate) begins: bool,
    /// The list that was asked for, while another entry is at hand.
    pub(crate) own: u64,
}

/// How far a flow has come that `connlimit` asks about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Standing {
    /// It has no record yet.
    Begins,
    /// It has one that is not ASSURED.
    Known,
    Assured,
}

impl Meter {
    pub(crate) const NOTHING: Self = Self {
        list: 0,
        key: [0; 5],
        ttl: 0,
        is_long: false,
        now: 0,
        bucket: 0,
        first: 0,
        at: 0,
        previous: 0,
        found: 0,
        stale: 0,
        header: 0,
        index: 0,
        count: 0,
        wanted: 0,
        span: 0,
        kept: [0; 2],
        name: [0; 5],
        standing: Standing::Begins,
        is_counted: false,
        cpu: 0,
        flow: Oriented::EMPTY.key,
        hash: Hash {
            buckets: [0; 2],
            tag: 0,
            id: 0,
        },
        what: 0,
        hops: 0,
        ring: 0,
        victim: 0,
        entry: 0,
        begins: false,
        own: 0,
    };

    /// Begins with a list that a condition names in its first two words.
    #[inline(always)]
    fn begin(&mut self, condition: &Condition, content: u64, family: Family, now: u64) {
        let [low, high, ..] = condition.data;
        *self = Self {
            list: list_number(low, high) | content | family_bit(family),
            now,
            ..Self::NOTHING
        };
    }
}

/// Begins a search in the list of a condition.
#[cfg_attr(target_arch = "bpf", inline(never))]
#[cfg_attr(not(target_arch = "bpf"), inline)]
fn begin_search<P: Packet, H: Host>(
    run: &Run<'_, P, H>,
    scratch: &mut Scratch,
    condition: &Condition,
    content: u64,
) {
    let now = run.host.jiffies(run.now);
    let family = scratch.info.family;
    scratch.meter.begin(condition, content, family, now);
}

/// The number of a list, of the words that a condition names it by.
pub const fn list_number(low: u32, high: u32) -> u64 {
    ((high as u64) << 32 | low as u64) & !content::MASK
}

pub(crate) const fn family_bit(family: Family) -> u64 {
    match family {
        Family::V4 => 0,
        Family::V6 => content::V6,
    }
}

/// Why a packet is dropped whose source could not be looked up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Trouble {
    Full,
    Busy,
}

/// Asks a condition of this kind. In one piece with its caller: calls nest as deep as they may.
#[inline(always)]
pub(crate) fn ask<P: Packet, H: Host>(
    run: &Run<'_, P, H>,
    scratch: &mut Scratch,
    condition: &Condition,
    index: u32,
) -> Held {
    let asked = match condition.kind {
        kind::RECENT => recent::ask(run, scratch, condition, index),
        kind::RATE => rate::ask(run, scratch, condition, index),
        _ => connections::ask(run, scratch, condition),
    };
    match asked {
        Ok(holds) => Held::of(holds),
        Err(Trouble::Full) => {
            memory::count(run.host.flows(), WORD_FULL);
            Held::NoRoom
        }
        Err(Trouble::Busy) => {
            memory::count(run.host.flows(), WORD_BUSY);
            Held::Busy
        }
    }
}

/// The bucket of a list's key. Keyed, as the table's: senders choose what is hashed.
fn bucket_of(settings: &Settings, list: u64, key: &[u64; 5]) -> u32 {
    let [a, b, c, d, e] = *key;
    let named = FlowKey {
        family: Family::V6,
        // The lowest byte of the first word is not hashed.
        words: [(list ^ e) << 8 ^ list >> 56, a, b, c, d],
    };
    Hash::of(&named, settings).id % METER_BUCKETS
}

/// An address under a mask, in two words.
const fn masked(address: &Address, mask: &Address) -> [u64; 2] {
    let [a, b, c, d] = *address;
    let [e, f, g, h] = *mask;
    [
        ((a & e) as u64) << 32 | (b & f) as u64,
        ((c & g) as u64) << 32 | (d & h) as u64,
    ]
}

/// The first `length` bits of an address, in two words.
#[inline(always)]
const fn prefix(address: &Address, length: u32) -> [u64; 2] {
    let [a, b, c, d] = *address;
    let high = (a as u64) << 32 | b as u64;
    let low = (c as u64) << 32 | d as u64;
    if length >= 64 {
        [high, low & high_bits(length - 64)]
    } else {
        [high & high_bits(length), 0]
    }
}

/// A word whose first bits are set.
#[inline(always)]
const fn high_bits(length: u32) -> u64 {
    if length >= 64 {
        return u64::MAX;
    }
    !(u64::MAX >> (length & 63))
}
