//! A flow table that owns its words.

use std::ops::Range;
use std::sync::atomic::AtomicU64;

use keepstate_engine::limits::{
    ACCOUNTING_WORDS, ANSWER_RATES, BAN_BUCKET_WORDS, EXPECTATION_SLOTS, EXPECTATION_WORDS,
    HELPER_STATE_WORDS, HELPER_STATES, LABEL_BUCKETS, LABEL_WORDS, LABELS_PER_BUCKET,
    METER_BUCKETS, METER_LIST_BUCKETS, METER_SLOTS, METER_WORDS, SET_BUCKET_WORDS, SET_HEAD_WORDS,
    SETS_MAX, SLOT_WORDS_V4, SLOT_WORDS_V6, SLOTS_PER_BUCKET, SYNPROXY_PER_BUCKET,
    SYNPROXY_TABLE_BUCKETS, SYNPROXY_WORDS, WARM_WORDS,
};
use keepstate_engine::table::gauges;
use rustix::mm::{Advice, madvise};

use crate::slices::{
    FRAGMENT_TABLE_WORDS, FamilySlices, HelperSlices, MeterSlices, SetSlices, SliceTable,
};

/// Whether a table has room for counters and start times.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Accounting {
    Yes,
    No,
}

/// A flow table in plain memory, all slots empty at first.
#[derive(Debug)]
pub struct OwnedTable {
    /// All arrays of both families.
    flows: Lines,
    families: [FamilyRanges; 2],
    gauges: Lines,
    fragments: Lines,
    expectations: Lines,
    helper_states: Lines,
    labels: Lines,
    synproxy: Lines,
    condition_states: Lines,
    meters: Lines,
    meter_heads: Lines,
    bans: Lines,
    sets: Lines,
    set_heads: Lines,
    answer_rates: Lines,
}

/// Where the arrays of a family lie.
#[derive(Debug)]
struct FamilyRanges {
    tags: Range<usize>,
    slots: Range<usize>,
    warm: Range<usize>,
    accounting: Range<usize>,
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

/// Words of what is known of connections that SYNPROXY has opened.
const SYNPROXY_TABLE_WORDS: usize =
    (SYNPROXY_TABLE_BUCKETS * SYNPROXY_PER_BUCKET * SYNPROXY_WORDS) as usize;

impl OwnedTable {
    /// A table with this many buckets for IPv4 and for IPv6.
    pub fn new(buckets: [u32; 2], accounting: Accounting) -> Self {
        let [v4, v6] = buckets;
        let mut used = 0;
        let families = [
            FamilyRanges::after(&mut used, v4, SLOT_WORDS_V4, accounting),
            FamilyRanges::after(&mut used, v6, SLOT_WORDS_V6, accounting),
        ];
        Self {
            flows: Lines::new(used),
            families,
            gauges: Lines::new(gauges::WORDS as usize),
            fragments: Lines::new(FRAGMENT_TABLE_WORDS),
            expectations: Lines::new(0),
            helper_states: Lines::new(0),
            labels: Lines::new(0),
            synproxy: Lines::new(0),
            condition_states: Lines::new(0),
            meters: Lines::new(0),
            meter_heads: Lines::new(0),
            bans: Lines::new(0),
            sets: Lines::new(0),
            set_heads: Lines::new(0),
            answer_rates: Lines::new(0),
        }
    }

    /// The same table with memory for helpers and labels, which is much more than a small table takes.
    #[must_use]
    pub fn with_helpers(self) -> Self {
        Self {
            expectations: Lines::new((EXPECTATION_SLOTS * EXPECTATION_WORDS) as usize),
            helper_states: Lines::new((HELPER_STATES * HELPER_STATE_WORDS) as usize),
            labels: Lines::new((LABEL_BUCKETS * LABELS_PER_BUCKET * LABEL_WORDS) as usize),
            synproxy: Lines::new(SYNPROXY_TABLE_WORDS),
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

    /// The same table with memory for what rules remember of sources: 8 MiB.
    #[must_use]
    pub fn with_meters(self) -> Self {
        Self {
            meters: Lines::new((METER_SLOTS * METER_WORDS) as usize),
            meter_heads: Lines::new((METER_BUCKETS + METER_LIST_BUCKETS) as usize),
            ..self
        }
    }

    /// The same table with so many buckets of bans.
    #[must_use]
    pub fn with_bans(self, buckets: u32) -> Self {
        Self {
            bans: Lines::new((buckets * BAN_BUCKET_WORDS) as usize),
            ..self
        }
    }

    /// The same table with so many buckets of sets, and all heads of sets.
    #[must_use]
    pub fn with_sets(self, buckets: u32) -> Self {
        Self {
            sets: Lines::new(buckets as usize * SET_BUCKET_WORDS as usize),
            set_heads: Lines::new((SETS_MAX * SET_HEAD_WORDS) as usize),
            ..self
        }
    }

    /// The same table with memory for the rates of answers.
    #[must_use]
    pub fn with_answers(self) -> Self {
        Self {
            answer_rates: Lines::new(ANSWER_RATES as usize),
            ..self
        }
    }

    /// The table's arrays, borrowed.
    pub fn as_slices(&self) -> SliceTable<'_> {
        self.beside(self)
    }

    /// The same with all that is not a record's (gauges, fragments, what helpers keep) from another table: as
    /// it is while records are moved from one to the other.
    pub fn beside<'a>(&'a self, other: &'a Self) -> SliceTable<'a> {
        let [v4, v6] = &self.families;
        let flows = self.flows.as_slice();
        let families = [v4.of(flows), v6.of(flows)];
        let table = SliceTable::new(families, other.gauges.as_slice());
        table
            .with_fragments(other.fragments.as_slice())
            .with_conditions(other.condition_states.as_slice())
            .with_meters(MeterSlices {
                slots: other.meters.as_slice(),
                heads: other.meter_heads.as_slice(),
            })
            .with_bans(other.bans.as_slice())
            .with_sets(SetSlices {
                buckets: other.sets.as_slice(),
                heads: other.set_heads.as_slice(),
            })
            .with_answers(other.answer_rates.as_slice())
            .with_helpers(HelperSlices {
                expectations: other.expectations.as_slice(),
                states: other.helper_states.as_slice(),
                labels: other.labels.as_slice(),
                synproxy: other.synproxy.as_slice(),
            })
    }
}

impl FamilyRanges {
    /// Ranges behind the first `used` words, each of whole cache lines.
    fn after(used: &mut usize, buckets: u32, slot_words: u32, accounting: Accounting) -> Self {
        let slots = buckets as usize * SLOTS_PER_BUCKET as usize;
        let accounting_words = match accounting {
            Accounting::Yes => ACCOUNTING_WORDS as usize,
            Accounting::No => 0,
        };
        let mut next = |words: usize| {
            let start = *used;
            *used += words.next_multiple_of(WORDS_PER_LINE);
            start..start + words
        };
        Self {
            tags: next(buckets as usize),
            slots: next(slots * slot_words as usize),
            warm: next(slots * WARM_WORDS as usize),
            accounting: next(slots * accounting_words),
        }
    }

    fn of<'a>(&self, flows: &'a [AtomicU64]) -> FamilySlices<'a> {
        FamilySlices {
            tags: &flows[self.tags.clone()],
            slots: &flows[self.slots.clone()],
            warm: &flows[self.warm.clone()],
            accounting: &flows[self.accounting.clone()],
        }
    }
}

impl Lines {
    fn new(used: usize) -> Self {
        let allocated = used + WORDS_PER_LINE - 1;
        let mut words: Vec<AtomicU64> = Vec::with_capacity(allocated);
        ask_for_huge_pages(&words);
        words.extend((0..allocated).map(|_| AtomicU64::new(0)));
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

/// What a page of the larger kind takes, on x86-64 and where arm64 has the usual ones.
const HUGE_PAGE_BYTES: usize = 2 << 20;

/// A packet's record lies anywhere: with pages of 4 KiB each of its four reads would miss the
/// processor's memory of translations as well as its caches. To be called before the memory is touched.
fn ask_for_huge_pages(words: &Vec<AtomicU64>) {
    let start = words.as_ptr();
    let skipped = start
        .align_offset(HUGE_PAGE_BYTES)
        .saturating_mul(size_of::<u64>());
    let whole = (words.capacity() * size_of::<u64>()).saturating_sub(skipped);
    if whole < HUGE_PAGE_BYTES {
        return;
    }
    #[allow(unsafe_code, reason = "advice about memory is given by a pointer")]
    // SAFETY: the range lies within the vector's allocation, and this advice changes nothing of what
    // is in memory.
    let advised = unsafe {
        let first = start.cast::<u8>().cast_mut().add(skipped);
        madvise(first.cast(), whole, Advice::LinuxHugepage)
    };
    // A kernel built without them serves as well, slower.
    let _ = advised;
}
