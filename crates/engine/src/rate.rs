//! How many flows somebody may begin, in one word with what was counted.
//!
//! A period is so many whole seconds; in each, the first so many are let in. Whoever sends around the end of a period is
//! let in twice as often as the rate says, and over a long time never more often.

use crate::host::Words;
use crate::time::{TICKS_PER_SECOND, Tick};
use crate::wire::transport::{ICMP, ICMPV6, TCP, UDP};

/// So many in a period.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rate {
    /// 1 to [`RATE_FLOWS_MAX`].
    pub flows: u32,
    /// Binary logarithm of the period's seconds, 0 to [`RATE_PERIOD_MAX`].
    pub period: u32,
    /// Flows of which protocols count, bits `RATE_*`.
    pub kinds: u32,
}

/// The word has 16 bits for it.
pub const RATE_FLOWS_MAX: u32 = (1 << 16) - 1;
/// Nine hours.
pub const RATE_PERIOD_MAX: u32 = 15;

/// [`Rate::kinds`]
pub const RATE_TCP: u32 = 1 << 0;
pub const RATE_UDP: u32 = 1 << 1;
/// Both families'.
pub const RATE_ICMP: u32 = 1 << 2;
pub const RATE_OTHER: u32 = 1 << 3;
pub const RATE_ALL: u32 = 0xf;

// A word: what was counted, in which period, how many may be, of what, how long a period is.
const COUNT: u64 = (1 << 24) - 1;
const PERIOD_SHIFT: u32 = 24;
const PERIOD: u64 = 0xffff;
const FLOWS_SHIFT: u32 = 40;
const KINDS_SHIFT: u32 = 56;
const LENGTH_SHIFT: u32 = 60;
const SAID: u64 = !0 << FLOWS_SHIFT;

const _: () = assert!(TICKS_PER_SECOND.is_power_of_two());
const _: () = assert!((RATE_FLOWS_MAX as u64) < COUNT / 2);

impl Rate {
    /// Flows a second; what is out of bounds becomes the nearest that is not.
    pub const fn per_second(flows: u32) -> Self {
        let flows = if flows > RATE_FLOWS_MAX {
            RATE_FLOWS_MAX
        } else if flows == 0 {
            1
        } else {
            flows
        };
        Self {
            flows,
            period: 0,
            kinds: RATE_ALL,
        }
    }

    pub(crate) const fn word(self) -> u64 {
        let Self {
            flows,
            period,
            kinds,
        } = self;
        (flows as u64 & RATE_FLOWS_MAX as u64) << FLOWS_SHIFT
            | (kinds as u64 & RATE_ALL as u64) << KINDS_SHIFT
            | (period as u64 & RATE_PERIOD_MAX as u64) << LENGTH_SHIFT
    }

    pub(crate) const fn of_word(word: u64) -> Self {
        Self {
            flows: (word >> FLOWS_SHIFT) as u32 & RATE_FLOWS_MAX,
            period: (word >> LENGTH_SHIFT) as u32,
            kinds: (word >> KINDS_SHIFT) as u32 & RATE_ALL,
        }
    }

    /// Whether two words say the same, whatever was counted.
    pub(crate) const fn is_same(one: u64, other: u64) -> bool {
        (one ^ other) & SAID == 0
    }
}

/// Counts a flow of a protocol; `false` where there are as many already. CPUs that count at the same moment may let in one more each.
#[inline(always)]
pub(crate) fn take<W: Words>(words: W, at: u32, protocol: u8, now: Tick) -> bool {
    let word = words.load(at);
    let Rate {
        flows,
        period,
        kinds,
    } = Rate::of_word(word);
    if kinds & kind_of(protocol) == 0 {
        return true;
    }
    let current = u64::from(now.0 >> (TICKS_PER_SECOND.trailing_zeros() + period)) & PERIOD;
    if word >> PERIOD_SHIFT & PERIOD != current {
        // Another CPU may begin the period as well: then this one is not counted.
        words.compare_exchange(at, word, word & SAID | current << PERIOD_SHIFT | 1);
        return true;
    }
    if word & COUNT >= u64::from(flows) {
        return false;
    }
    words.add(at, 1);
    true
}

#[inline(always)]
const fn kind_of(protocol: u8) -> u32 {
    match protocol {
        TCP => RATE_TCP,
        UDP => RATE_UDP,
        ICMP | ICMPV6 => RATE_ICMP,
        _ => RATE_OTHER,
    }
}
