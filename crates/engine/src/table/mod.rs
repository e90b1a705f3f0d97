//! The flow table.
//!
//! Buckets of eight slots; a key may lie in either of two buckets. Beside the slots, a word for
//! each bucket holds eight one-byte tags: seven bits of the hash (never zero) and one bit that
//! says "half-open". An empty slot has tag zero. So a lookup reads one or two tag words, which are
//! small enough to stay in cache, and then the one slot whose tag fits.

use crate::host::{FlowMemory, Words};
use crate::record::{Control, Record, Warm};
use crate::settings::Settings;
use crate::time::Tick;
use crate::tuple::{Family, FlowKey};

/// Words of [`FlowMemory::gauges`].
pub mod gauges {
    /// Records in the table, both families.
    pub const COUNT: u32 = 0;
    /// Of these, half-open ones.
    pub const HALF_OPEN: u32 = 1;
    /// Records ever made.
    pub const INSERTED: u32 = 2;
    /// Records taken out by packets or by the daemon.
    pub const REMOVED: u32 = 3;
    /// Half-open records that made room for others.
    pub const EVICTED: u32 = 4;
    /// New flows refused because there was no room.
    pub const REFUSED: u32 = 5;
    /// Inserts that found other CPUs in their way too often.
    pub const CONTENDED: u32 = 6;
    /// Packets judged without a record's windows, since it was busy.
    pub const BUSY: u32 = 7;
    /// Number of words.
    pub const WORDS: u32 = 8;
}

/// Where a key may lie.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hash {
    /// The two buckets.
    pub buckets: [u32; 2],
    /// Seven bits, never zero.
    pub tag: u8,
    /// A number for the flow, the same in both directions.
    pub id: u32,
}

impl Hash {
    pub fn of(_key: &FlowKey, _settings: &Settings) -> Self {
        todo!()
    }
}

/// Where a record lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    pub family: Family,
    pub bucket: u32,
    pub slot: u32,
}

/// A record in the table, read in one piece.
#[derive(Clone, Copy, Debug)]
pub struct Found<W> {
    pub place: Place,
    /// The words of the slot.
    pub words: W,
    /// The control word the record was read under.
    pub control: Control,
    pub record: Record,
    /// Low byte of key word 0.
    pub cached: u8,
}

/// What a lookup found.
#[derive(Clone, Copy, Debug)]
pub enum Lookup<W> {
    Found(Found<W>),
    Missing,
    /// The record is there, but other CPUs were writing it for longer than a packet waits.
    Busy(Place),
}

/// What became of an insert.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Insert {
    Done(Place),
    /// Another CPU made a record for the key first: look it up.
    Exists,
    /// No room, and nothing half-open to give up.
    Full,
    /// Other CPUs kept inserting into the same buckets.
    Contended,
}

/// Finds the live record of a key. One that has expired is not found.
pub fn lookup<M: FlowMemory>(
    _memory: &M,
    _key: &FlowKey,
    _hash: &Hash,
    _now: Tick,
) -> Lookup<M::Words> {
    todo!()
}

/// Writes a changed record back, unless it changed since it was found: then `false`, and the
/// caller looks it up again.
pub fn update<M: FlowMemory>(
    _memory: &M,
    _found: &Found<M::Words>,
    _record: &Record,
    _cached: u8,
) -> bool {
    todo!()
}

/// Makes a record. `half_open` says whether it may be given up for another.
pub fn insert<M: FlowMemory>(
    _memory: &M,
    _key: &FlowKey,
    _hash: &Hash,
    _settings: &Settings,
    _record: &Record,
    _warm: &Warm,
    _half_open: bool,
    _now: Tick,
) -> Insert {
    todo!()
}

/// The record is no longer half-open: it cannot be given up for another any more.
pub fn confirm<M: FlowMemory>(_memory: &M, _place: Place) {
    todo!()
}

/// Takes a record out, unless it changed since `control` was read. `false` if it did.
pub fn remove<M: FlowMemory>(_memory: &M, _place: Place, _control: Control) -> bool {
    todo!()
}

#[allow(dead_code, reason = "used once the table is written")]
fn words_of<W: Words>(words: W) -> W {
    words
}
