//! Sets of addresses, networks and ports, which rules ask (`-m set`), and change (`-j SET`).
//!
//! The entries of all sets lie in one table, where content, network and port hash to, in one of a few
//! buckets, as bans do (see [`crate::ban`]): a packet asks once for each length of prefix that the set has.
//! Beside it is a list of heads. A head with a name says which content its set has now, so that two sets
//! are swapped by two stores; the content's own head has the same layout and says what it is.
//!
//! # Races
//!
//! Lookups take no lock and wait for nobody. Packets and the daemon write at the same time, each entry by
//! compare-and-swap of its own head word: a slot is taken, filled, and shown. Whoever has shown an entry looks
//! again, and takes out the second of two that are alike. A packet that reads an entry while it is written misses
//! it or finds it, as if it had come a moment earlier or later.
//!
//! # No room
//!
//! A set that has its `maxelem`, or an entry whose buckets are all full: the entry is refused and counted in
//! the content's [`head::REFUSED`]; the packet goes on. So it does where other CPUs were in its way at each of
//! a few attempts.

mod edit;
mod entry;
pub mod head;
mod lookup;

pub use self::edit::{Put, Wish, get, put, remove};
pub use self::entry::{Entry, Place, clear, take_out, visit};
pub use self::head::{Shape, Type};
pub use self::lookup::{Target, find, longest};
pub(crate) use self::lookup::{add, ask, delete};

use crate::settings::Settings;
use crate::table::{leading, next_bucket, words_hash};
use crate::time::Tick;
use crate::tuple::{Address, Family};

/// Which addresses and ports of a packet a rule means: second word of its conditions.
pub mod side {
    /// The address is the sender's.
    pub const SOURCE: u32 = 1 << 0;
    /// A second side is named, for the port.
    pub const SECOND: u32 = 1 << 1;
    /// The port is the sender's.
    pub const SECOND_SOURCE: u32 = 1 << 2;
    /// `--return-nomatch`.
    pub const NOMATCH: u32 = 1 << 3;
    /// An entry that is there begins anew (`--exist`).
    pub const EXIST: u32 = 1 << 4;
}

/// No `--timeout`: the set's own.
pub const TIMEOUT_OF_SET: u32 = u32::MAX;

/// A search, in memory of its own, since the kernel's verifier follows every value of what a loop keeps on
/// the stack.
#[derive(Clone, Copy, Debug)]
pub struct Search {
    address: Address,
    family: Family,
    /// As in [`Name::rest`]; and as it is in the names of the content at hand.
    port: u64,
    own_port: u64,
    has_port: bool,
    sides: u32,
    now: Tick,
    /// One more than the content of the list at hand, and its member that comes next.
    list: u32,
    member: u32,
    content: u32,
    /// Lengths that are still to be asked for, as in [`head::LENGTHS`].
    lengths: [u64; 2],
    name: Name,
    bucket: u32,
    probe: u32,
    /// Head of what was found, zero for nothing.
    found: u64,
    /// Where that is, where there is a second one, and the first free slot: [`Place`] numbers.
    place: u32,
    second: u32,
    free: u32,
    /// What is to be inserted, and what that has come to. Here, since the programs have no stack left for it.
    wish: Wish,
    inserts: bool,
    put: Put,
}

impl Search {
    pub const NOTHING: Self = Self {
        address: [0; 4],
        family: Family::V4,
        port: 0,
        own_port: 0,
        has_port: false,
        sides: 0,
        now: Tick(0),
        list: 0,
        member: 0,
        content: 0,
        lengths: [0; 2],
        name: Name {
            high: 0,
            low: 0,
            rest: 0,
            fingerprint: 0,
        },
        bucket: 0,
        probe: 0,
        found: 0,
        place: entry::NOWHERE,
        second: entry::NOWHERE,
        free: entry::NOWHERE,
        wish: Wish {
            content: 0,
            length: 0,
            deadline: None,
            is_nomatch: false,
            changes: false,
        },
        inserts: false,
        put: Put::Busy,
    };
}

/// What an entry is found by.
#[derive(Clone, Copy, Debug)]
struct Name {
    high: u64,
    low: u64,
    /// Content (16 bits), length of the prefix (8), protocol (8), port (16).
    rest: u64,
    /// In place, as in a head.
    fingerprint: u64,
}

const CONTENT_SHIFT: u32 = 48;
const LENGTH_SHIFT: u32 = 40;
const PROTOCOL_SHIFT: u32 = 32;

impl Name {
    #[inline(always)]
    const fn words(&self) -> [u64; 3] {
        [self.high, self.low, self.rest]
    }
}

impl Search {
    /// Names the entry of this length in the content at hand, and finds its first bucket.
    #[inline(always)]
    fn name_as(&mut self, length: u32, settings: &Settings) {
        let [a, b, c, d] = self.address;
        self.name.high = (u64::from(a) << 32 | u64::from(b)) & leading(length);
        self.name.low = (u64::from(c) << 32 | u64::from(d)) & leading(length.saturating_sub(64));
        let content = u64::from(self.content) << CONTENT_SHIFT;
        self.name.rest = content | u64::from(length) << LENGTH_SHIFT | self.own_port;
        let (bucket, bits) = words_hash(self.name.words(), settings, settings.sets.buckets);
        self.name.fingerprint = u64::from(bits) << 32 & entry::FINGERPRINT;
        self.bucket = bucket;
        self.probe = 0;
    }
}

#[inline(always)]
const fn next(settings: &Settings, bucket: u32, name: &Name) -> u32 {
    let fingerprint = (name.fingerprint >> 48) as u16;
    next_bucket(settings.sets.buckets, bucket, fingerprint)
}
