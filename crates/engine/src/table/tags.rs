//! The tags of a bucket: eight bytes in one word, handled all at once.

/// Bit 7 of each byte.
const HIGH_BITS: u64 = 0x8080_8080_8080_8080;
/// Bits 0 to 6 of each byte.
const HASH_BITS: u64 = !HIGH_BITS;
const ONES: u64 = 0x0101_0101_0101_0101;
/// Times `256^n`, its most significant byte is `n`.
const BYTE_NUMBERS: u64 = 0x0001_0203_0405_0607;
const HALF_OPEN: u64 = 0x80;

/// The tags word of a bucket.
///
/// A byte without hash bits is an empty slot, even if its half-open bit is set: see
/// [`super::remove()`] for how that can come about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Tags(pub(super) u64);

/// Some slots of a bucket: bit 7 of their bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Slots(u64);

impl Tags {
    /// Slots whose seven hash bits are those of `tag`.
    pub(super) const fn matching(self, tag: u8) -> Slots {
        Slots(zero_bytes((self.0 & HASH_BITS) ^ (tag as u64 * ONES)))
    }

    pub(super) const fn empty(self) -> Slots {
        Slots(zero_bytes(self.0 & HASH_BITS))
    }

    pub(super) const fn occupied(self) -> Slots {
        Slots(self.empty().0 ^ HIGH_BITS)
    }

    pub(super) const fn is_half_open(self, slot: u32) -> bool {
        self.0 & (HALF_OPEN << shift(slot)) != 0
    }

    /// Whether a slot has the seven hash bits of `tag`.
    pub(super) const fn has(self, slot: u32, tag: u8) -> bool {
        ((self.0 >> shift(slot)) ^ tag as u64) & 0x7f == 0
    }

    #[must_use]
    pub(super) const fn with(self, slot: u32, tag: u8) -> Self {
        Self(self.without(slot).0 | ((tag as u64) << shift(slot)))
    }

    #[must_use]
    pub(super) const fn without(self, slot: u32) -> Self {
        Self(self.0 & !(0xff << shift(slot)))
    }

    #[must_use]
    pub(super) const fn confirmed(self, slot: u32) -> Self {
        Self(self.0 & !(HALF_OPEN << shift(slot)))
    }

    /// What to add to the word to take the hash bits of a slot out of it and nothing else.
    pub(super) const fn minus_hash_bits(self, slot: u32) -> u64 {
        (self.0 & (0x7f << shift(slot))).wrapping_neg()
    }
}

impl Slots {
    pub(super) const fn is_none(self) -> bool {
        self.0 == 0
    }

    pub(super) const fn count(self) -> u32 {
        ((self.0 >> 7).wrapping_mul(ONES) >> 56) as u32
    }

    /// The lowest slot; meaningless when there is none.
    pub(super) const fn lowest(self) -> u32 {
        let bit = self.0 & self.0.wrapping_neg();
        ((bit >> 7).wrapping_mul(BYTE_NUMBERS) >> 56) as u32
    }

    /// `preferred`, if it is one of these, or the lowest; meaningless when there is none.
    pub(super) const fn or_lowest(self, preferred: u32) -> u32 {
        if self.0 & (0x80 << shift(preferred)) != 0 {
            preferred
        } else {
            self.lowest()
        }
    }

    /// All but the lowest.
    #[must_use]
    pub(super) const fn rest(self) -> Self {
        Self(self.0 & self.0.wrapping_sub(1))
    }
}

/// Slots of a key's four buckets whose tags fit: byte by slot, bit by bucket.
///
/// All four at once and without a branch: in which of them a record lies nobody can predict, and a
/// CPU that guessed wrong would have to throw away what it has begun meanwhile.
#[derive(Clone, Copy)]
pub(super) struct Matching(u64);

impl Matching {
    #[inline(always)]
    pub(super) const fn of(tags: [Tags; 4], tag: u8) -> Self {
        let [first, first_neighbour, second, second_neighbour] = tags;
        Self(
            (first.matching(tag).0 >> 7)
                | (first_neighbour.matching(tag).0 >> 6)
                | (second.matching(tag).0 >> 5)
                | (second_neighbour.matching(tag).0 >> 4),
        )
    }

    pub(super) const fn is_none(self) -> bool {
        self.0 == 0
    }

    /// Number of the bucket among the key's candidates, and slot; meaningless when there is none.
    #[inline(always)]
    pub(super) const fn lowest(self) -> (u32, u32) {
        let bit = self.0 & self.0.wrapping_neg();
        // All bytes but one are zero: their sum is that byte, one of 1, 2, 4 and 8.
        let bucket_bit = (bit.wrapping_mul(ONES) >> 56) as u32;
        let candidate = ((bucket_bit >> 1) - (bucket_bit >> 3)) & 3;
        let byte = (bit | (bit >> 1) | (bit >> 2) | (bit >> 3)) & ONES;
        let slot = (byte.wrapping_mul(BYTE_NUMBERS) >> 56) as u32;
        (candidate, slot)
    }

    #[must_use]
    pub(super) const fn rest(self) -> Self {
        Self(self.0 & self.0.wrapping_sub(1))
    }

    /// These, or others where there is none.
    #[must_use]
    pub(super) const fn or(self, others: Self) -> Self {
        if self.0 == 0 { others } else { self }
    }
}

/// Bit 7 of each byte that is zero; no byte of `bytes` may have bit 7 set.
const fn zero_bytes(bytes: u64) -> u64 {
    !(bytes + HASH_BITS) & HIGH_BITS
}

/// Masked, so that no slot number can make the shift overflow.
const fn shift(slot: u32) -> u32 {
    (slot & 7) * 8
}
