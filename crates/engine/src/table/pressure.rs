//! How many TCP connections to each destination are half-open, and how many flows of each source network.
//!
//! A destination is an address and a port: one listener. Each counts in one of a few thousand cells, which it may share
//! with others by chance. The cell is found without the table's keys: who made destinations share one would gain that
//! cookies are sent for both.
//!
//! A source network is what one sender may have to itself: a /24 of IPv4, a /48 of IPv6. It counts in a cell of each of
//! two rows, and the smaller count is believed (a count-min sketch): never too low, and too high only where both
//! cells are shared with networks that have much. While half-open flows take much of the table, a new one of a network that has
//! its share of them takes the place of another, as at the limit of half-open flows: so none fills the table alone. Most
//! of what is there is its own, and of that the oldest goes first; who is answered is safe. Forged senders spread over all
//! networks, and count in none.
//!
//! Counted is whatever sets or clears the half-open bit of a tag, in the cells of the record that lies there. A slot may
//! pass to another flow between the two reads: then one cell has one too many, and another one too few. The daemon
//! does not put that right; marks are in the thousands.

use super::{Place, gauges, load_control};
use crate::host::{FlowMemory, Words};
use crate::limits::{
    ORIGIN_CELLS, ORIGIN_FLOWS_MIN, ORIGIN_PRESSURE_SHARE, ORIGIN_SHARE, PRESSURE_CELLS,
};
use crate::record::KEY_WORD;
use crate::settings::{Settings, checked_index};
use crate::tuple::{Address, Family, FlowKey, Side};
use crate::wire::transport::TCP;

/// Where a destination counts.
#[derive(Clone, Copy)]
pub(crate) struct Cell(u32);

// Words of a cell.
const COUNT: u32 = 0;
const STATE: u32 = 1;

impl Cell {
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
}

/// Where a flow counts, in one number so that programs hand it on in a register: in three times 16 bits its
/// destination and both cells of its source network.
#[derive(Clone, Copy)]
pub(super) struct Cells(u64);

/// Of what is not counted.
const NO_CELL: u64 = 0xffff;
const _: () = assert!((PRESSURE_CELLS as u64) < NO_CELL && (ORIGIN_CELLS as u64) < NO_CELL);

impl Cells {
    const NONE: Self = Self(u64::MAX);

    #[inline(always)]
    pub(super) fn of_flow(key: &FlowKey, originator: Side) -> Self {
        let [word0, word1, word2, word3, word4] = key.words;
        let to_first = matches!(originator, Side::Second);
        let port = if to_first { word0 >> 48 } else { word0 >> 32 } as u16;
        let (address, network) = match key.family {
            Family::V4 if to_first => (word1 >> 32 << 32, word1 << 32 & NETWORK_V4),
            Family::V4 => (word1 << 32, word1 & NETWORK_V4),
            Family::V6 if to_first => (word1 ^ word2, word3 & NETWORK_V6),
            Family::V6 => (word3 ^ word4, word1 & NETWORK_V6),
        };
        let destination = match is_tcp(word0) {
            true => u64::from(Cell::mixed(address, port).0),
            false => NO_CELL,
        };
        let mixed = network.wrapping_mul(MULTIPLIER);
        let cells = u64::from(ORIGIN_CELLS);
        let [first, second] = [(mixed >> 52) % cells, (mixed >> 40) % cells];
        Self(destination | first << 16 | second << 32)
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
        let Some(words) = memory.gauges() else {
            return;
        };
        let destination = self.0 & NO_CELL;
        if destination != NO_CELL {
            words.add(Cell(destination as u32).word(COUNT), amount);
        }
        if self.0 != Self::NONE.0 {
            let [first, second] = self.origins();
            words.add(first, amount);
            words.add(second, amount);
        }
    }

    /// The words of both cells of the source network.
    #[inline(always)]
    fn origins(self) -> [u32; 2] {
        let cell = |part: u64| checked_index(part as usize) as u32 % ORIGIN_CELLS;
        [
            gauges::ORIGINS + cell(self.0 >> 16),
            gauges::ORIGINS + ORIGIN_CELLS + cell(self.0 >> 32),
        ]
    }
}

/// The bits of a network of one sender, in the words of a key.
const NETWORK_V4: u64 = 0xffff_ff00 << 32;
const NETWORK_V6: u64 = !0xffff;

/// Whether a source network has its share of half-open flows, while there are many: it may have no more.
#[cfg_attr(target_arch = "bpf", inline(never))]
pub(super) fn has_its_share<M: FlowMemory>(memory: &M, settings: &Settings, cells: Cells) -> bool {
    let Some(words) = memory.gauges() else {
        return false;
    };
    let half_open = words.load(gauges::HALF_OPEN) as i64;
    if half_open < i64::from(settings.half_open_max / ORIGIN_PRESSURE_SHARE) {
        return false;
    }
    let share = (settings.half_open_max / ORIGIN_SHARE).max(ORIGIN_FLOWS_MIN);
    let [first, second] = cells.origins();
    let own = (words.load(first) as i64).min(words.load(second) as i64);
    own >= i64::from(share)
}

/// An odd number with bits well spread (digits of the golden ratio).
const MULTIPLIER: u64 = 0x9e37_79b9_7f4a_7c15;

/// Where the record of a slot counts, to be asked while the slot has its tag.
#[inline(always)]
pub(super) fn cells_of_slot<M: FlowMemory>(memory: &M, place: Place) -> Cells {
    cells_at(memory, place.family, place.bucket, place.slot)
}

/// In registers: Linux 7.3 does not let a program read its place from the stack of a caller's caller.
#[cfg_attr(target_arch = "bpf", inline(never))]
fn cells_at<M: FlowMemory>(memory: &M, family: Family, bucket: u32, slot: u32) -> Cells {
    let place = Place {
        family,
        bucket,
        slot,
    };
    let Some(words) = place.words(memory) else {
        return Cells::NONE;
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
    Cells::of_flow(&key, load_control(words).originator())
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
