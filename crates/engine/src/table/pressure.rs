//! How many TCP connections to each destination are half-open.
//!
//! A destination is an address and a port: one listener. Each counts in one of a few thousand cells, which it may share
//! with others by chance. The cell is found without the table's keys: who made destinations share one would gain that
//! cookies are sent for both.
//!
//! Counted is whatever sets or clears the half-open bit of a tag, in the cell of the record that lies there. A slot may
//! pass to another flow between the two reads: then one cell has one too many, and another one too few. The daemon
//! does not put that right; marks are in the thousands.

use super::{Place, gauges, load_control};
use crate::host::{FlowMemory, Words};
use crate::limits::PRESSURE_CELLS;
use crate::record::KEY_WORD;
use crate::settings::checked_index;
use crate::tuple::{Address, Family, FlowKey, Side};
use crate::wire::transport::TCP;

/// Where a destination counts.
#[derive(Clone, Copy)]
pub(crate) struct Cell(u32);

// Words of a cell.
const COUNT: u32 = 0;
const STATE: u32 = 1;

impl Cell {
    /// Of what is not counted.
    const NONE: Self = Self(PRESSURE_CELLS);

    /// That of an address and a port.
    #[inline(always)]
    pub(crate) fn of(address: &Address, port: u16) -> Self {
        let [a, b, c, d] = *address;
        let high = u64::from(a ^ c) << 32 | u64::from(b ^ d);
        Self::mixed(high, port)
    }

    #[inline(always)]
    fn mixed(address: u64, port: u16) -> Self {
        let mixed = (address ^ u64::from(port) << 13).wrapping_mul(MULTIPLIER);
        Self((mixed >> 40) as u32 % PRESSURE_CELLS)
    }

    /// That of a flow's responder.
    #[inline(always)]
    pub(super) fn of_flow(key: &FlowKey, originator: Side) -> Self {
        let [word0, word1, word2, word3, word4] = key.words;
        let is_first = matches!(originator, Side::Second);
        let port = if is_first { word0 >> 48 } else { word0 >> 32 } as u16;
        let address = match key.family {
            Family::V4 if is_first => word1 >> 32 << 32,
            Family::V4 => word1 << 32,
            Family::V6 if is_first => word1 ^ word2,
            Family::V6 => word3 ^ word4,
        };
        Self::mixed(address, port)
    }

    /// Whether that is too many: more than `high` where it was not, more than `low` where it was.
    #[inline(always)]
    pub(crate) fn is_pressed<M: FlowMemory>(self, memory: &M, high: u32, low: u32) -> bool {
        let Some(words) = memory.gauges() else {
            return false;
        };
        let was = words.load(self.word(STATE));
        let limit = if was != 0 { low } else { high };
        let is = words.load(self.word(COUNT)) as i64 > i64::from(limit);
        if is != (was != 0) {
            // Another packet that comes in between finds the same.
            words.compare_exchange(self.word(STATE), was, u64::from(is));
        }
        is
    }

    #[inline(always)]
    fn word(self, word: u32) -> u32 {
        let cell = checked_index(self.0 as usize) as u32 % PRESSURE_CELLS;
        gauges::PRESSURE + 2 * cell + word
    }

    #[inline(always)]
    pub(super) fn count_up<M: FlowMemory>(self, memory: &M) {
        self.add(memory, 1);
    }

    #[inline(always)]
    pub(super) fn count_down<M: FlowMemory>(self, memory: &M) {
        self.add(memory, u64::MAX);
    }

    #[inline(always)]
    fn add<M: FlowMemory>(self, memory: &M, amount: u64) {
        if self.0 >= PRESSURE_CELLS {
            return;
        }
        if let Some(words) = memory.gauges() {
            words.add(self.word(COUNT), amount);
        }
    }
}

/// An odd number with bits well spread (digits of the golden ratio).
const MULTIPLIER: u64 = 0x9e37_79b9_7f4a_7c15;

/// Where a flow that begins counts.
#[inline(always)]
pub(super) fn cell_of_flow(key: &FlowKey, originator: Side) -> Cell {
    let [word0, ..] = key.words;
    match is_tcp(word0) {
        true => Cell::of_flow(key, originator),
        false => Cell::NONE,
    }
}

/// Where the record of a slot counts, to be asked while the slot has its tag.
#[cfg_attr(target_arch = "bpf", inline(never))]
pub(super) fn cell_of_slot<M: FlowMemory>(memory: &M, place: Place) -> Cell {
    let Some(words) = place.words(memory) else {
        return Cell::NONE;
    };
    let mut key = FlowKey {
        family: place.family,
        words: [words.load(KEY_WORD), words.load(KEY_WORD + 1), 0, 0, 0],
    };
    if matches!(place.family, Family::V6) {
        key.words[2] = words.load(KEY_WORD + 2);
        key.words[3] = words.load(KEY_WORD + 3);
        key.words[4] = words.load(KEY_WORD + 4);
    }
    cell_of_flow(&key, load_control(words).originator())
}

const fn is_tcp(word0: u64) -> bool {
    (word0 >> 8) as u8 == TCP
}

/// The most that any cell counts, and how many say that it is too many. For user space.
pub fn survey<M: FlowMemory>(memory: &M) -> (u64, u32) {
    let Some(words) = memory.gauges() else {
        return (0, 0);
    };
    let (mut most, mut pressed) = (0, 0);
    for cell in (0..PRESSURE_CELLS).map(Cell) {
        most = most.max(words.load(cell.word(COUNT)) as i64);
        pressed += u32::from(words.load(cell.word(STATE)) != 0);
    }
    (most.max(0) as u64, pressed)
}
