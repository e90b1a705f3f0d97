//! Where a key lies.
//!
//! **The hash.** A sum of products of 32-bit halves, each with a random key added (NH, from UMAC,
//! RFC 4418 section 5.2), then a bijective 64-bit finaliser. This costs a multiplication for each
//! word of the key where SipHash costs several rounds.
//!
//! **Why it stands against a sender who chooses addresses.** Over random keys, two different
//! names have equal sums with a probability of at most 2^-32, whatever names the sender picks: the
//! bound is proven, and needs nothing but that the sender does not know the keys. So equal xors,
//! equal sums or other structure of the names gain nothing. To find out more about the keys he
//! would have to see hashes, or measure them: but neither buckets nor tags show in any packet, and
//! the time of a lookup is bounded at 32 tags, so it tells nothing about how many others share a
//! bucket; what little a cache line more or less shows drowns in the network. The finaliser is
//! keyed as well and spreads sums over buckets and tags. Should he still fill the buckets of some key,
//! then lookups are as fast as ever, and new flows with those buckets take the place of the oldest
//! half-open one or are refused: four buckets of some ten thousand are lost, not the table.

use super::Hash;
use crate::settings::Settings;
use crate::tuple::{Family, FlowKey, KEY_WORD0_FOREIGN_BITS};

impl Hash {
    /// The place of a key. Never fails; a table of less than two buckets has its places outside of it.
    #[inline]
    pub fn of(key: &FlowKey, settings: &Settings) -> Self {
        let hash = finish(sum(key, &settings.hash_keys), &settings.hash_keys);
        let [buckets_v4, buckets_v6] = settings.buckets;
        let buckets = match key.family {
            Family::V4 => buckets_v4,
            Family::V6 => buckets_v6,
        };
        // Halves of pairs of buckets: see `candidates`.
        let half = buckets / 4 * 2;
        // The low bits of the lower half hardly matter to `scale`.
        let low = hash as u8 & 0x7f;
        Self {
            buckets: [
                scale((hash >> 32) as u32, half),
                half + scale(hash as u32, half),
            ],
            tag: if low == 0 { 1 } else { low },
            id: (hash.wrapping_mul(MULTIPLIER_ID) >> 32) as u32,
        }
    }

    /// The four buckets where the key may lie, in the order of search. The second and the fourth
    /// are the neighbours of the other two. All different where there are at least four.
    pub const fn candidates(&self) -> [u32; 4] {
        let [first, second] = self.buckets;
        [first, first ^ 1, second, second ^ 1]
    }

    /// The slot that a record takes in its bucket if that is empty, so that a look at it need not
    /// wait for the tags.
    pub(super) const fn preferred_slot(&self) -> u32 {
        self.id % crate::limits::SLOTS_PER_BUCKET
    }

    /// One of [`Self::candidates`], by its number, without a branch: nobody can predict which.
    #[inline(always)]
    pub(super) fn candidate(&self, number: u32) -> u32 {
        let [first, second] = self.buckets;
        core::hint::select_unpredictable(number & 2 != 0, second, first) ^ (number & 1)
    }
}

/// A place for three words in a table of so many buckets: the bucket, and bits that do not depend on it.
#[inline(always)]
pub(crate) fn words_hash(words: [u64; 3], settings: &Settings, buckets: u32) -> (u32, u32) {
    let [k0, k1, k2, k3, k4, k5, ..] = settings.hash_keys;
    let [a, b, c] = words;
    let sum = product(a, k0, k1).wrapping_add(product(b, k2, k3));
    let sum = sum.wrapping_add(product(c, k4, k5));
    let hash = finish(sum, &settings.hash_keys);
    (scale((hash >> 32) as u32, buckets), hash as u32)
}

/// The bucket after one, for a name with such a fingerprint: by steps of its own, so that full buckets do not grow
/// together.
#[inline(always)]
pub(crate) const fn next_bucket(buckets: u32, bucket: u32, fingerprint: u16) -> u32 {
    let others = buckets.wrapping_sub(1) as u64;
    let step = 1 + ((fingerprint as u64 * others) >> 16) as u32;
    let next = bucket.wrapping_add(step);
    if next < buckets && next >= bucket {
        next
    } else {
        next.wrapping_sub(buckets)
    }
}

/// A mask of this many leading bits; more than 64 count as 64.
#[inline(always)]
pub(crate) const fn leading(bits: u32) -> u64 {
    match bits {
        0 => 0,
        1..64 => u64::MAX << (64 - bits),
        _ => u64::MAX,
    }
}

// Odd numbers with bits well spread (the second and third of splitmix64; digits of the golden
// ratio).
const MULTIPLIER_1: u64 = 0xbf58_476d_1ce4_e5b9;
const MULTIPLIER_2: u64 = 0x94d0_49bb_1331_11eb;
const MULTIPLIER_ID: u64 = 0x9e37_79b9_7f4a_7c15;

fn sum(key: &FlowKey, keys: &[u32; 12]) -> u64 {
    let [k0, k1, k2, k3, k4, k5, k6, k7, k8, k9, ..] = *keys;
    let [word0, word1, word2, word3, word4] = key.words;
    let short =
        product(word0 & !KEY_WORD0_FOREIGN_BITS, k0, k1).wrapping_add(product(word1, k2, k3));
    match key.family {
        Family::V4 => short,
        Family::V6 => short
            .wrapping_add(product(word2, k4, k5))
            .wrapping_add(product(word3, k6, k7))
            .wrapping_add(product(word4, k8, k9)),
    }
}

const fn product(word: u64, key_high: u32, key_low: u32) -> u64 {
    let high = ((word >> 32) as u32).wrapping_add(key_high);
    let low = (word as u32).wrapping_add(key_low);
    high as u64 * low as u64
}

fn finish(sum: u64, keys: &[u32; 12]) -> u64 {
    let [.., k10, k11] = *keys;
    let mut hash = sum ^ (((k10 as u64) << 32) | k11 as u64);
    hash = (hash ^ (hash >> 30)).wrapping_mul(MULTIPLIER_1);
    hash = (hash ^ (hash >> 27)).wrapping_mul(MULTIPLIER_2);
    hash ^ (hash >> 31)
}

/// Maps 32 bits to `0..count` without a division.
const fn scale(bits: u32, count: u32) -> u32 {
    ((bits as u64 * count as u64) >> 32) as u32
}
