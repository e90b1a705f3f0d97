//! A flow table that owns its words.

use std::sync::atomic::AtomicU64;

use keepstate_engine::limits::{
    ACCOUNTING_WORDS, EXPECTATION_SLOTS, EXPECTATION_WORDS, HELPER_STATE_WORDS, HELPER_STATES,
    SLOT_WORDS_V4, SLOT_WORDS_V6, SLOTS_PER_BUCKET, WARM_WORDS,
};
use keepstate_engine::table::gauges;

use crate::slices::{FRAGMENT_TABLE_WORDS, FamilySlices, HelperSlices, SliceTable};

/// Whether a table has room for counters and start times.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Accounting {
    Yes,
    No,
}

/// A flow table in plain memory, all slots empty at first.
#[derive(Debug)]
pub struct OwnedTable {
    families: [FamilyLines; 2],
    gauges: Lines,
    fragments: Lines,
    expectations: Lines,
    helper_states: Lines,
    condition_states: Lines,
}

#[derive(Debug)]
struct FamilyLines {
    tags: Lines,
    slots: Lines,
    warm: Lines,
    accounting: Lines,
}

/// Words whose first one begins a cache line, so that a slot never straddles two.
#[derive(Debug)]
struct Lines {
    words: Vec<AtomicU64>,
    /// Words before the first one that begins a line.
    skipped: usize,
    used: usize,
}

const WORDS_PER_LINE: usize = 8;

impl OwnedTable {
    /// A table with this many buckets for IPv4 and for IPv6.
    pub fn new(buckets: [u32; 2], accounting: Accounting) -> Self {
        let [v4, v6] = buckets;
        Self {
            families: [
                FamilyLines::new(v4, SLOT_WORDS_V4, accounting),
                FamilyLines::new(v6, SLOT_WORDS_V6, accounting),
            ],
            gauges: Lines::new(gauges::WORDS as usize),
            fragments: Lines::new(FRAGMENT_TABLE_WORDS),
            expectations: Lines::new(0),
            helper_states: Lines::new(0),
            condition_states: Lines::new(0),
        }
    }

    /// The same table with memory for helpers, which is much more than a small table takes.
    #[must_use]
    pub fn with_helpers(self) -> Self {
        Self {
            expectations: Lines::new((EXPECTATION_SLOTS * EXPECTATION_WORDS) as usize),
            helper_states: Lines::new((HELPER_STATES * HELPER_STATE_WORDS) as usize),
            ..self
        }
    }

    /// The same table with memory for so many conditions of rules.
    #[must_use]
    pub fn with_conditions(self, conditions: usize) -> Self {
        Self {
            condition_states: Lines::new(conditions),
            ..self
        }
    }

    /// The table's arrays, borrowed.
    pub fn as_slices(&self) -> SliceTable<'_> {
        let [v4, v6] = &self.families;
        let table = SliceTable::new([v4.as_slices(), v6.as_slices()], self.gauges.as_slice());
        table
            .with_fragments(self.fragments.as_slice())
            .with_conditions(self.condition_states.as_slice())
            .with_helpers(HelperSlices {
                expectations: self.expectations.as_slice(),
                states: self.helper_states.as_slice(),
            })
    }
}

impl FamilyLines {
    fn new(buckets: u32, slot_words: u32, accounting: Accounting) -> Self {
        let slots = buckets as usize * SLOTS_PER_BUCKET as usize;
        let accounting_words = match accounting {
            Accounting::Yes => ACCOUNTING_WORDS as usize,
            Accounting::No => 0,
        };
        Self {
            tags: Lines::new(buckets as usize),
            slots: Lines::new(slots * slot_words as usize),
            warm: Lines::new(slots * WARM_WORDS as usize),
            accounting: Lines::new(slots * accounting_words),
        }
    }

    fn as_slices(&self) -> FamilySlices<'_> {
        FamilySlices {
            tags: self.tags.as_slice(),
            slots: self.slots.as_slice(),
            warm: self.warm.as_slice(),
            accounting: self.accounting.as_slice(),
        }
    }
}

impl Lines {
    fn new(used: usize) -> Self {
        let allocated = used + WORDS_PER_LINE - 1;
        let words: Vec<AtomicU64> = (0..allocated).map(|_| AtomicU64::new(0)).collect();
        // Where no alignment can be told the table is slower, but right.
        let skipped = words
            .as_ptr()
            .align_offset(WORDS_PER_LINE * size_of::<u64>());
        Self {
            words,
            skipped: skipped.min(WORDS_PER_LINE - 1),
            used,
        }
    }

    fn as_slice(&self) -> &[AtomicU64] {
        &self.words[self.skipped..][..self.used]
    }
}
