//! The flow table.
//!
//! Buckets of eight slots; beside the slots, a word for each bucket holds eight one-byte tags:
//! seven bits of the hash (never zero) and one bit that says "half-open". An empty slot has tag
//! zero. A key may lie in either of two buckets, one in the lower and one in the upper half of
//! the table, or in the neighbour of one of them. Neighbours' tags share a cache line. So a lookup reads
//! one or two lines of tags, which are small enough to stay in cache, and then the one slot whose
//! tag fits; a wrong slot is touched once in twenty words of tags.
//!
//! A new record goes to the emptier pair of buckets, the lower one when both are equal. That holds
//! more than 85 % load at eight million slots before the first record finds no place (two choices of
//! single buckets: 67 %; measured by `tests/table_load.rs`).
//!
//! # Who may write what
//!
//! A slot goes round through four stages; the tag and the control word say which one:
//!
//! | stage   | tag | control | what may happen                                                  |
//! | ------- | --- | ------- | ---------------------------------------------------------------- |
//! | empty   | 0   | Free, Dead | anyone claims it by compare-and-swap of the tags word          |
//! | claimed | set | Free (Dead for a moment) | only the claimer writes; it publishes or withdraws |
//! | live    | set | Live, Coming | anyone changes it by compare-and-swap of the control word          |
//! | dead    | set | Dead    | only who made it so; it clears the tag                             |
//!
//! The version in the control word counts on through all of them and is never reset, so a control
//! word that was read once comes back only after 256 changes.
//!
//! # Races, and the worst that each can do
//!
//! * **Two inserts of one key.** Exactly one record is left; the argument stands in `insert.rs`. At
//!   worst one of the two gives up as [`Insert::Contended`].
//! * **Two updates of one record.** The second's compare-and-swap fails, and its caller looks the
//!   record up again. A multiple of 256 changes may fall between the read and the write of one
//!   packet (whose CPU a hypervisor took away, say) and leave the other 56 bits as they were. The
//!   swap then succeeds, and the writer, which holds the lock now, sees by a digest of all `end`s
//!   and `max_end`s that they have moved, and gives up as if it had failed. Where none has moved,
//!   it may set the largest window and acknowledgement back by those 256 packets. Where nothing
//!   but the control word is written, the other words are compared with those it goes with.
//! * **Update against removal.** Both are a compare-and-swap of the control word: one fails. A
//!   record that is being written (locked) is not removed.
//! * **Lookup against anything.** A lookup reads again while the control word moves, a bounded
//!   number of times, and then says [`Lookup::Busy`]. It never waits for a lock. A record that was
//!   removed and made again during the lookup may be reported missing: for a moment it was.
//! * **Eviction against confirmation.** See [`confirm`]: a confirmed record is never evicted.
//! * **Many inserts at the limit.** Limits are read before they are counted up, so the table may
//!   hold as many records more than [`Settings::flows_max`] as CPUs insert at the same instant.
//! * **A killed user-space process** can leave a claimed or dead slot with its tag. That costs one
//!   slot until [`recover`] is called for it; it hides no record and blocks no other key, except
//!   that a claimed slot makes inserts of keys with the same tag and bucket contended. No operation
//!   meant for user space ([`remove()`], [`confirm`], [`sweep()`], [`visit`], [`recover`]) takes a lock.

mod hash;
pub(crate) use self::hash::{leading, next_bucket, words_hash};
mod insert;
mod lookup;
pub(crate) mod pressure;
mod remove;
mod room;
mod steady;
mod sweep;
mod tags;
mod transfer;

use self::tags::Tags;

pub use self::insert::insert;
pub use self::lookup::{lookup, lookup_at, update};
pub(crate) use self::lookup::{may_hold, peek};
pub use self::pressure::survey as pressure;
pub use self::remove::{confirm, remove};
pub(crate) use self::steady::{glance, see, update_steady};
pub(crate) use self::steady::{likely_slots, prefetch_slot, prefetch_tags, renew_steady};
pub use self::sweep::{Entry, census, forget_outcomes, leftovers, places, recover, sweep, visit};
pub use self::transfer::{Moved, settle_copies, transfer};

use crate::host::{FlowMemory, Words};
use crate::record::{CONTROL_WORD, Control, KEY_WORD, Record, Warm};
#[cfg(doc)]
use crate::settings::Settings;
use crate::tuple::{Family, FlowKey, KEY_WORD0_FOREIGN_BITS, Oriented};

/// Set in the first word of the accounting of a flow that began while accounting was off, and has
/// no counters: what else stands there is of no meaning.
pub const NOT_COUNTED: u64 = 1 << 63;

/// Words of [`FlowMemory::gauges`].
pub mod gauges {
    /// Records in the table, both families: [`INSERTED`] less [`REMOVED`].
    pub const COUNT: u32 = 0;
    /// Of these, half-open ones.
    pub const HALF_OPEN: u32 = 1;
    /// Records ever made.
    pub const INSERTED: u32 = 2;
    /// Records taken out by packets or by the daemon.
    pub const REMOVED: u32 = 3;
    /// Records that made room for others before their time; they are among [`REMOVED`] too.
    pub const EVICTED: u32 = 4;
    /// New flows refused because there was no room.
    pub const REFUSED: u32 = 5;
    /// Inserts that found other CPUs in their way too often.
    pub const CONTENDED: u32 = 6;
    /// Packets that passed without a look at their numbers, since their record was busy.
    pub const BUSY: u32 = 7;
    /// Expectations in their table, see [`crate::expect`].
    pub const EXPECTATIONS: u32 = 8;
    /// Expectations ever made.
    pub const EXPECTATIONS_CREATED: u32 = 9;
    /// Expectations met, replaced, expired or taken out.
    pub const EXPECTATIONS_DELETED: u32 = 10;
    /// Expectations for which there was no room, or that another flow had already.
    pub const EXPECTATIONS_REFUSED: u32 = 11;
    /// Packets that a helper could not read for want of a place for its flow.
    pub const UNREAD: u32 = 12;
    /// Expectations that were met.
    pub const EXPECTATIONS_MET: u32 = 13;
    /// Datagrams of which some fragments were seen and not all.
    pub const FRAGMENTS: u32 = 14;
    /// Datagrams that were not completed in time.
    pub const FRAGMENTS_EXPIRED: u32 = 15;
    /// Unfinished datagrams that were given up for others, and fragments for which there was no room.
    pub const FRAGMENTS_FULL: u32 = 16;
    /// What is known of SYN cookies, see [`crate::cookie`].
    pub const COOKIES: u32 = 21;
    /// Cookies that came back.
    pub const COOKIES_ACCEPTED: u32 = 22;
    /// Labels that were not written down for want of a place, or since packets kept changing the record.
    pub const LABELS_REFUSED: u32 = 20;
    /// The flows whose packets passed unseen of late, see `unseen`: some words, a power of two.
    pub const UNSEEN: u32 = 24;
    pub const UNSEEN_WORDS: u32 = 8;
    /// How many flows towards some destinations are half-open, and whether that is too many: see `pressure`.
    pub const PRESSURE: u32 = UNSEEN + UNSEEN_WORDS;
    pub const PRESSURE_WORDS: u32 = 2 * crate::limits::PRESSURE_CELLS;
    /// How many half-open flows source networks have: see `pressure`.
    pub const ORIGINS: u32 = PRESSURE + PRESSURE_WORDS;
    pub const ORIGINS_WORDS: u32 = 2 * crate::limits::ORIGIN_CELLS;
    /// Number of words.
    pub const WORDS: u32 = ORIGINS + ORIGINS_WORDS;
}

/// Where a key may lie.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hash {
    /// The two buckets; see [`Hash::candidates`] for their neighbours.
    pub buckets: [u32; 2],
    /// Seven bits, never zero.
    pub tag: u8,
    /// A number for the flow, the same in both directions.
    pub id: u32,
}

/// Where a record lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    pub family: Family,
    pub bucket: u32,
    pub slot: u32,
}

/// Where a record was found.
#[derive(Clone, Copy, Debug)]
pub struct Found<W> {
    pub place: Place,
    /// The words of the slot.
    pub words: W,
    /// The control word the record was read under.
    pub control: Control,
    /// [Digest](crate::record::StateWords::digest) of the words that were read under it, to tell
    /// an equal control word from the same one.
    pub digest: u64,
    /// Low byte of key word 0.
    pub cached: u8,
}

/// Where a record was found, without a pointer: for memory that outlives a look at the table.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Seen {
    pub(crate) place: Place,
    /// The control word under which the record was read.
    pub(crate) control: Control,
    /// See [`Found::digest`].
    pub(crate) digest: u64,
    /// What it remembers of the rules.
    pub(crate) cached: u8,
}

impl Seen {
    pub(crate) const NOTHING: Self = Self {
        place: Place {
            family: Family::V4,
            bucket: 0,
            slot: 0,
        },
        control: Control(0),
        digest: 0,
        cached: 0,
    };
}

/// What a lookup found.
#[derive(Clone, Copy, Debug)]
pub enum Lookup<W> {
    Found(Found<W>),
    Missing,
    /// The record is there, but other CPUs were writing it for longer than a packet waits.
    Busy(Place),
}

/// Whether a record is the first to be given up for another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HalfOpen {
    Yes,
    No,
}

/// A record to be made.
#[derive(Clone, Copy, Debug)]
pub struct NewFlow<'a> {
    pub key: &'a FlowKey,
    pub hash: &'a Hash,
    pub record: &'a Record,
    pub warm: &'a Warm,
    pub half_open: HalfOpen,
    pub opening: Opening,
}

/// What a new record's counters begin with, where the table has them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Opening {
    /// Packets and bytes of the original direction.
    pub packets: u64,
    pub bytes: u64,
    /// Nanoseconds since 1970, zero if not wanted.
    pub start: u64,
}

impl Opening {
    /// Nothing is counted yet.
    pub const NONE: Self = Self {
        packets: 0,
        bytes: 0,
        start: 0,
    };

    /// Nothing is counted, now or later.
    pub const NOT_COUNTED: Self = Self {
        packets: NOT_COUNTED,
        ..Self::NONE
    };
}

/// Records that an insert took out, for whoever tells of records that end. A control word of zero
/// is none.
#[derive(Clone, Copy, Debug)]
pub struct Displaced {
    /// Key of the record that made room.
    pub key: FlowKey,
    pub control: Control,
    /// An expired record of the new flow's own key.
    pub predecessor: Control,
}

impl Displaced {
    pub const NOTHING: Self = Self {
        key: Oriented::EMPTY.key,
        control: Control(0),
        predecessor: Control(0),
    };
}

/// What became of an insert.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Insert {
    Done(Place),
    /// Another CPU made a record for the key first: look it up.
    Exists,
    /// No room, and nothing that may be given up.
    Full,
    /// Other CPUs kept inserting into the same buckets.
    Contended,
}

impl Place {
    fn words<M: FlowMemory>(self, memory: &M) -> Option<M::Words> {
        memory.slot(self.family, self.bucket, self.slot)
    }

    /// A number that orders all places of a family.
    const fn rank(self) -> u64 {
        ((self.bucket as u64) << 3) | self.slot as u64
    }
}

/// A family as a type: each gets code of its own. Code for both would ask for the memory of one
/// family and then, as far as the kernel's verifier can tell, treat it as memory of the other.
pub(crate) trait Kind {
    const FAMILY: Family;

    fn words<M: FlowMemory>(memory: &M, place: Place) -> Option<M::Words> {
        memory.slot(Self::FAMILY, place.bucket, place.slot)
    }
}

pub(crate) struct V4;
pub(crate) struct V6;

impl Kind for V4 {
    const FAMILY: Family = Family::V4;
}

impl Kind for V6 {
    const FAMILY: Family = Family::V6;
}

fn load_control<W: Words>(words: W) -> Control {
    Control(words.load(CONTROL_WORD))
}

/// Tags of the key's four buckets; `None` where one of them does not exist. All or none, so that
/// there is but one path for the verifier to follow.
fn load_tags<K: Kind, M: FlowMemory>(memory: &M, hash: &Hash) -> Option<[Tags; 4]> {
    let [first, first_neighbour, second, second_neighbour] = hash.candidates();
    Some([
        Tags(memory.tags(K::FAMILY, first)?.load(0)),
        Tags(memory.tags(K::FAMILY, first_neighbour)?.load(0)),
        Tags(memory.tags(K::FAMILY, second)?.load(0)),
        Tags(memory.tags(K::FAMILY, second_neighbour)?.load(0)),
    ])
}

/// All words at once: each branch would be one more path for the verifier, in each slot.
fn key_matches<K: Kind, W: Words>(words: W, key: &FlowKey) -> bool {
    let [word0, word1, word2, word3, word4] = key.words;
    let short = ((words.load(KEY_WORD) ^ word0) & !KEY_WORD0_FOREIGN_BITS)
        | (words.load(KEY_WORD + 1) ^ word1);
    let difference = match K::FAMILY {
        Family::V4 => short,
        Family::V6 => {
            short
                | (words.load(KEY_WORD + 2) ^ word2)
                | (words.load(KEY_WORD + 3) ^ word3)
                | (words.load(KEY_WORD + 4) ^ word4)
        }
    };
    difference == 0
}

fn count_up<M: FlowMemory>(memory: &M, gauge: u32) {
    if let Some(words) = memory.gauges() {
        words.add(gauge, 1);
    }
}

fn count_down<M: FlowMemory>(memory: &M, gauge: u32) {
    if let Some(words) = memory.gauges() {
        words.add(gauge, u64::MAX);
    }
}
