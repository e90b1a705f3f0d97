//! A flow table over borrowed words.

use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;

use keepstate_engine::host::{FlowMemory, Words};
use keepstate_engine::limits::{
    ACCOUNTING_WORDS, BAN_BUCKET_WORDS, EXPECTATION_WORDS, FRAGMENT_BUCKET_WORDS, FRAGMENT_BUCKETS,
    FRAGMENT_SLOTS, FRAGMENT_WORDS, HELPER_STATE_WORDS, LABEL_WORDS, LABELS_PER_BUCKET,
    METER_WORDS, SET_BUCKET_WORDS, SET_HEAD_WORDS, SLOT_WORDS_V4, SLOT_WORDS_V6, SLOTS_PER_BUCKET,
    SYNPROXY_PER_BUCKET, SYNPROXY_WORDS, WARM_WORDS,
};
use keepstate_engine::table::gauges;
use keepstate_engine::tuple::Family;

/// Words of a bucket of unfinished datagrams: its slots, and what it has beside them.
const FRAGMENT_VALUE_WORDS: u32 = FRAGMENT_SLOTS * FRAGMENT_WORDS + FRAGMENT_BUCKET_WORDS;

/// Words of the table of unfinished datagrams.
pub const FRAGMENT_TABLE_WORDS: usize = (FRAGMENT_BUCKETS * FRAGMENT_VALUE_WORDS) as usize;

/// Some words in memory that is shared with other CPUs.
#[derive(Clone, Copy, Debug)]
pub struct WordsAt<'a>(&'a [AtomicU64]);

/// The arrays of one family. Words beyond the last whole bucket are not used; a bucket exists when
/// all arrays have it, except that `accounting` may be empty.
#[derive(Clone, Copy, Debug)]
pub struct FamilySlices<'a> {
    pub tags: &'a [AtomicU64],
    pub slots: &'a [AtomicU64],
    pub warm: &'a [AtomicU64],
    pub accounting: &'a [AtomicU64],
}

/// A flow table over borrowed words.
#[derive(Clone, Copy, Debug)]
pub struct SliceTable<'a> {
    families: [FamilySlices<'a>; 2],
    gauges: &'a [AtomicU64],
    fragments: &'a [AtomicU64],
    helpers: HelperSlices<'a>,
    condition_states: &'a [AtomicU64],
    meters: MeterSlices<'a>,
    bans: &'a [AtomicU64],
    sets: SetSlices<'a>,
    answer_rates: &'a [AtomicU64],
}

/// What helpers work with, labels, and connections that SYNPROXY has opened. May be empty: then nothing is expected,
/// no flow has labels, and no such connection is opened.
#[derive(Clone, Copy, Debug)]
pub struct HelperSlices<'a> {
    pub expectations: &'a [AtomicU64],
    pub states: &'a [AtomicU64],
    pub labels: &'a [AtomicU64],
    pub synproxy: &'a [AtomicU64],
}

/// Buckets of sets, and their heads. May be empty: then there are none.
#[derive(Clone, Copy, Debug)]
pub struct SetSlices<'a> {
    pub buckets: &'a [AtomicU64],
    pub heads: &'a [AtomicU64],
}

/// What rules remember of sources, and its buckets. May be empty: then such rules drop.
#[derive(Clone, Copy, Debug)]
pub struct MeterSlices<'a> {
    pub slots: &'a [AtomicU64],
    pub heads: &'a [AtomicU64],
}

impl FamilySlices<'_> {
    /// A family without buckets.
    pub const NONE: Self = Self {
        tags: &[],
        slots: &[],
        warm: &[],
        accounting: &[],
    };
}

impl<'a> SliceTable<'a> {
    /// A table of these arrays, by [`Family`], and [`gauges::WORDS`] words of gauges.
    pub const fn new(families: [FamilySlices<'a>; 2], gauges: &'a [AtomicU64]) -> Self {
        let helpers = HelperSlices {
            expectations: &[],
            states: &[],
            labels: &[],
            synproxy: &[],
        };
        Self {
            families,
            gauges,
            fragments: &[],
            helpers,
            condition_states: &[],
            meters: MeterSlices {
                slots: &[],
                heads: &[],
            },
            bans: &[],
            sets: SetSlices {
                buckets: &[],
                heads: &[],
            },
            answer_rates: &[],
        }
    }

    /// The same with [`FRAGMENT_TABLE_WORDS`] words for unfinished datagrams.
    #[must_use]
    pub const fn with_fragments(self, fragments: &'a [AtomicU64]) -> Self {
        Self { fragments, ..self }
    }

    /// The same table with memory for helpers.
    #[must_use]
    pub const fn with_helpers(self, helpers: HelperSlices<'a>) -> Self {
        Self { helpers, ..self }
    }

    /// The same table with a word for each condition of the rules to remember.
    #[must_use]
    pub const fn with_conditions(self, condition_states: &'a [AtomicU64]) -> Self {
        Self {
            condition_states,
            ..self
        }
    }

    /// The same table with memory for what rules remember of sources.
    #[must_use]
    pub const fn with_meters(self, meters: MeterSlices<'a>) -> Self {
        Self { meters, ..self }
    }

    /// The same table with buckets of bans, of [`BAN_BUCKET_WORDS`] words each.
    #[must_use]
    pub const fn with_bans(self, bans: &'a [AtomicU64]) -> Self {
        Self { bans, ..self }
    }

    /// The same table with sets.
    #[must_use]
    pub const fn with_sets(self, sets: SetSlices<'a>) -> Self {
        Self { sets, ..self }
    }

    /// The same table with the rates of answers.
    #[must_use]
    pub const fn with_answers(self, answer_rates: &'a [AtomicU64]) -> Self {
        Self {
            answer_rates,
            ..self
        }
    }

    const fn family(&self, family: Family) -> &FamilySlices<'a> {
        let [v4, v6] = &self.families;
        match family {
            Family::V4 => v4,
            Family::V6 => v6,
        }
    }
}

impl Words for WordsAt<'_> {
    fn load(self, word: u32) -> u64 {
        // Sequentially consistent, so that a load after a compare-and-swap of another word is
        // never done before it: inserts rely on this. Costs nothing on x86.
        self.0[word as usize].load(Ordering::SeqCst)
    }

    fn store(self, word: u32, value: u64) {
        self.0[word as usize].store(value, Ordering::Release);
    }

    fn compare_exchange(self, word: u32, old: u64, new: u64) -> u64 {
        self.0[word as usize]
            .compare_exchange(old, new, Ordering::SeqCst, Ordering::SeqCst)
            .unwrap_or_else(|found| found)
    }

    fn add(self, word: u32, amount: u64) {
        self.0[word as usize].fetch_add(amount, Ordering::SeqCst);
    }

    #[cfg(target_arch = "x86_64")]
    #[inline(always)]
    fn prefetch(self, word: u32) {
        use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
        #[allow(
            unsafe_code,
            reason = "the intrinsic takes a pointer, though it reads nothing"
        )]
        // SAFETY: the instruction is there on every x86-64, reads nothing, and faults nowhere.
        unsafe {
            _mm_prefetch::<_MM_HINT_T0>((&raw const self.0[word as usize]).cast())
        }
    }
}

impl<'a> FlowMemory for SliceTable<'a> {
    type Words = WordsAt<'a>;

    fn tags(&self, family: Family, bucket: u32) -> Option<WordsAt<'a>> {
        part(self.family(family).tags, u64::from(bucket), 1)
    }

    fn slot(&self, family: Family, bucket: u32, slot: u32) -> Option<WordsAt<'a>> {
        let words = match family {
            Family::V4 => SLOT_WORDS_V4,
            Family::V6 => SLOT_WORDS_V6,
        };
        part(self.family(family).slots, slot_number(bucket, slot), words)
    }

    fn warm(&self, family: Family, bucket: u32, slot: u32) -> Option<WordsAt<'a>> {
        part(
            self.family(family).warm,
            slot_number(bucket, slot),
            WARM_WORDS,
        )
    }

    fn accounting(&self, family: Family, bucket: u32, slot: u32) -> Option<WordsAt<'a>> {
        let number = slot_number(bucket, slot);
        part(self.family(family).accounting, number, ACCOUNTING_WORDS)
    }

    fn expectation(&self, index: u32) -> Option<WordsAt<'a>> {
        part(
            self.helpers.expectations,
            u64::from(index),
            EXPECTATION_WORDS,
        )
    }

    fn helper_state(&self, index: u32) -> Option<WordsAt<'a>> {
        part(self.helpers.states, u64::from(index), HELPER_STATE_WORDS)
    }

    fn labels(&self, bucket: u32, slot: u32) -> Option<WordsAt<'a>> {
        let number = u64::from(bucket) * u64::from(LABELS_PER_BUCKET) + u64::from(slot);
        part(self.helpers.labels, number, LABEL_WORDS)
    }

    fn synproxy(&self, bucket: u32, slot: u32) -> Option<WordsAt<'a>> {
        let number = u64::from(bucket) * u64::from(SYNPROXY_PER_BUCKET) + u64::from(slot);
        part(self.helpers.synproxy, number, SYNPROXY_WORDS)
    }

    fn answer_rate(&self, index: u32) -> Option<WordsAt<'a>> {
        part(self.answer_rates, u64::from(index), 1)
    }

    fn condition_state(&self, index: u32) -> Option<WordsAt<'a>> {
        part(self.condition_states, u64::from(index), 1)
    }

    fn meter(&self, slot: u32) -> Option<WordsAt<'a>> {
        part(self.meters.slots, u64::from(slot), METER_WORDS)
    }

    fn meter_head(&self, bucket: u32) -> Option<WordsAt<'a>> {
        part(self.meters.heads, u64::from(bucket), 1)
    }

    fn gauges(&self) -> Option<WordsAt<'a>> {
        part(self.gauges, 0, gauges::WORDS)
    }

    fn fragment(&self, bucket: u32, slot: u32) -> Option<WordsAt<'a>> {
        let WordsAt(bucket) = part(self.fragments, u64::from(bucket), FRAGMENT_VALUE_WORDS)?;
        part(bucket, u64::from(slot), FRAGMENT_WORDS)
    }

    fn fragment_bucket(&self, bucket: u32) -> Option<WordsAt<'a>> {
        let WordsAt(bucket) = part(self.fragments, u64::from(bucket), FRAGMENT_VALUE_WORDS)?;
        let start = (FRAGMENT_SLOTS * FRAGMENT_WORDS) as usize;
        bucket.get(start..).map(WordsAt)
    }

    fn bans(&self, bucket: u32) -> Option<WordsAt<'a>> {
        part(self.bans, u64::from(bucket), BAN_BUCKET_WORDS)
    }

    fn sets(&self, bucket: u32) -> Option<WordsAt<'a>> {
        part(self.sets.buckets, u64::from(bucket), SET_BUCKET_WORDS)
    }

    fn set_head(&self, set: u32) -> Option<WordsAt<'a>> {
        part(self.sets.heads, u64::from(set), SET_HEAD_WORDS)
    }

    /// A writer of this process may have lost its processor within its few words: it is given one, or a record would look
    /// too busy to be read.
    fn relax(&self) {
        thread::yield_now();
    }
}

fn slot_number(bucket: u32, slot: u32) -> u64 {
    u64::from(bucket) * u64::from(SLOTS_PER_BUCKET) + u64::from(slot)
}

/// The `number`th run of `size` words.
fn part(words: &[AtomicU64], number: u64, size: u32) -> Option<WordsAt<'_>> {
    let start = usize::try_from(number.checked_mul(u64::from(size))?).ok()?;
    let end = start.checked_add(size as usize)?;
    words.get(start..end).map(WordsAt)
}
