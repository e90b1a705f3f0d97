//! Flow table memory in maps.

use core::intrinsics::{AtomicOrdering, atomic_cxchg, atomic_xadd};

use aya_ebpf::maps::Array;
use keepstate_engine::host::{FlowMemory, Repeat, Words};
use keepstate_engine::limits::{ACCOUNTING_WORDS, SLOT_WORDS_V4, SLOT_WORDS_V6};
use keepstate_engine::limits::{FRAGMENT_SLOTS, FRAGMENT_WORDS, LABEL_WORDS, SYNPROXY_WORDS, SLOTS_PER_BUCKET, WARM_WORDS};
use keepstate_engine::tuple::Family;

use crate::maps;
use crate::packet::masked;

/// Words in a map's value.
#[derive(Clone, Copy)]
pub struct MapWords(*mut u64);

// Plain reads and writes of aligned words are single accesses, and x86 keeps their order as
// acquire and release ask for. The instruction set of this target has no weaker or stronger ones
// before Linux 6.15.
impl Words for MapWords {
    #[inline(always)]
    fn load(self, word: u32) -> u64 {
        // SAFETY: the engine names words of the kind of memory it asked for, and the verifier
        // refuses the program if one could lie outside of the map's value.
        unsafe { self.0.add(word as usize).read_volatile() }
    }

    #[inline(always)]
    fn store(self, word: u32, value: u64) {
        // SAFETY: as in `load`.
        unsafe { self.0.add(word as usize).write_volatile(value) }
    }

    #[inline(always)]
    fn compare_exchange(self, word: u32, old: u64, new: u64) -> u64 {
        // SAFETY: as in `load`; the word is aligned, since map values are.
        unsafe {
            let word = self.0.add(word as usize);
            atomic_cxchg::<u64, { AtomicOrdering::SeqCst }, { AtomicOrdering::SeqCst }>(
                word, old, new,
            )
            .0
        }
    }

    #[inline(always)]
    fn add(self, word: u32, amount: u64) {
        // SAFETY: as in `compare_exchange`.
        unsafe {
            let word = self.0.add(word as usize);
            atomic_xadd::<u64, u64, { AtomicOrdering::Relaxed }>(word, amount);
        }
    }
}

/// The maps of the flow table.
pub struct MapMemory;

impl FlowMemory for MapMemory {
    type Words = MapWords;

    #[inline(always)]
    fn tags(&self, family: Family, bucket: u32) -> Option<MapWords> {
        match family {
            Family::V4 => maps::TAGS4.get_ptr_mut(bucket).map(MapWords),
            Family::V6 => maps::TAGS6.get_ptr_mut(bucket).map(MapWords),
        }
    }

    #[inline(always)]
    fn slot(&self, family: Family, bucket: u32, slot: u32) -> Option<MapWords> {
        match family {
            Family::V4 => part(&maps::SLOTS4, bucket, slot, SLOT_WORDS_V4),
            Family::V6 => part(&maps::SLOTS6, bucket, slot, SLOT_WORDS_V6),
        }
    }

    #[inline(always)]
    fn warm(&self, family: Family, bucket: u32, slot: u32) -> Option<MapWords> {
        match family {
            Family::V4 => part(&maps::WARM4, bucket, slot, WARM_WORDS),
            Family::V6 => part(&maps::WARM6, bucket, slot, WARM_WORDS),
        }
    }

    #[inline(always)]
    fn accounting(&self, family: Family, bucket: u32, slot: u32) -> Option<MapWords> {
        match family {
            Family::V4 => part(&maps::ACCOUNTING4, bucket, slot, ACCOUNTING_WORDS),
            Family::V6 => part(&maps::ACCOUNTING6, bucket, slot, ACCOUNTING_WORDS),
        }
    }

    #[inline(always)]
    fn expectation(&self, index: u32) -> Option<MapWords> {
        let words = maps::EXPECTATIONS.get_ptr_mut(index)?;
        Some(MapWords(words.cast()))
    }

    #[inline(always)]
    fn helper_state(&self, index: u32) -> Option<MapWords> {
        let words = maps::HELPER_STATES.get_ptr_mut(index)?;
        Some(MapWords(words.cast()))
    }

    #[inline(always)]
    fn labels(&self, bucket: u32, slot: u32) -> Option<MapWords> {
        part(&maps::LABELS, bucket, slot, LABEL_WORDS)
    }

    #[inline(always)]
    fn synproxy(&self, bucket: u32, slot: u32) -> Option<MapWords> {
        part(&maps::SYNPROXY, bucket, slot, SYNPROXY_WORDS)
    }

    #[inline(always)]
    fn foreseen(&self, line: u32) -> Option<MapWords> {
        maps::FORESEEN.get_ptr_mut(line).map(|words| MapWords(words.cast()))
    }

    #[inline(always)]
    fn answer_rate(&self, index: u32) -> Option<MapWords> {
        let words = maps::ANSWER_RATES.get_ptr_mut(index)?;
        Some(MapWords(words))
    }

    #[inline(always)]
    fn condition_state(&self, index: u32) -> Option<MapWords> {
        let words = maps::CONDITION_STATES.get_ptr_mut(index)?;
        Some(MapWords(words))
    }

    #[inline(always)]
    fn meter(&self, slot: u32) -> Option<MapWords> {
        let words = maps::METERS.get_ptr_mut(slot)?;
        Some(MapWords(words.cast()))
    }

    #[inline(always)]
    fn meter_head(&self, bucket: u32) -> Option<MapWords> {
        let words = maps::METER_HEADS.get_ptr_mut(bucket)?;
        Some(MapWords(words))
    }

    #[inline(always)]
    fn gauges(&self) -> Option<MapWords> {
        maps::GAUGES
            .get_ptr_mut(0)
            .map(|words| MapWords(words.cast()))
    }

    #[inline(always)]
    fn fragment(&self, bucket: u32, slot: u32) -> Option<MapWords> {
        part(&maps::FRAGMENTS, bucket, slot, FRAGMENT_WORDS)
    }

    #[inline(always)]
    fn fragment_bucket(&self, bucket: u32) -> Option<MapWords> {
        let base: *mut u64 = maps::FRAGMENTS.get_ptr_mut(bucket)?.cast();
        // SAFETY: within the value of the map, which has these words behind its slots.
        Some(MapWords(unsafe {
            base.add((FRAGMENT_SLOTS * FRAGMENT_WORDS) as usize)
        }))
    }

    #[inline(always)]
    fn bans(&self, bucket: u32) -> Option<MapWords> {
        let words = maps::BANS.get_ptr_mut(bucket)?;
        Some(MapWords(words.cast()))
    }

    #[inline(always)]
    fn sets(&self, bucket: u32) -> Option<MapWords> {
        let words = maps::SETS.get_ptr_mut(bucket)?;
        Some(MapWords(words.cast()))
    }

    #[inline(always)]
    fn set_head(&self, set: u32) -> Option<MapWords> {
        let words = maps::SET_HEADS.get_ptr_mut(set)?;
        Some(MapWords(words.cast()))
    }

    /// Through a map: of what lies there the verifier knows nothing.
    #[inline(always)]
    fn forget(&self, value: u32) -> u32 {
        let Some(place) = maps::FORGOTTEN.get_ptr_mut(0) else {
            return 0;
        };
        // SAFETY: this CPU's element, read where it is written.
        unsafe {
            place.write_volatile(value);
            place.read_volatile()
        }
    }

    #[inline(always)]
    fn repeat<R: Repeat>(&self, limit: u32, body: &mut R) {
        crate::host::repeat(limit, body);
    }
}

/// The words of one slot's part of a bucket.
#[inline(always)]
fn part<T>(map: &Array<T>, bucket: u32, slot: u32, words: u32) -> Option<MapWords> {
    let base: *mut u64 = map.get_ptr_mut(bucket)?.cast();
    // The mask changes nothing, since slots are numbered to seven (those of fragments and labels too), but the verifier believes it.
    let slot = masked::<{ SLOTS_PER_BUCKET as u64 - 1 }>(slot as u64);
    // SAFETY: within the value of the map: `slot` is below the number of slots.
    Some(MapWords(unsafe {
        base.add(slot as usize * words as usize)
    }))
}
