//! Conditions with a memory of their own: one word for each, kept from packet to packet.

use super::{Held, kind};
use crate::host::{FlowMemory, Host, Packet, Words};
use crate::limits::CONDITION_TRIES_MAX;
use crate::policy::Condition;
use crate::process::Run;

/// What `--limit` counts in: ten thousandths (`XT_LIMIT_SCALE`).
const LIMIT_SCALE: u64 = 10_000;

const SECONDS_PER_DAY: u32 = 24 * 60 * 60;

#[cfg_attr(target_arch = "bpf", inline(never))]
#[cfg_attr(not(target_arch = "bpf"), inline)]
pub(super) fn ask<P: Packet, H: Host>(
    run: &Run<'_, P, H>,
    condition: &Condition,
    index: u32,
) -> Held {
    let [first, second, ..] = condition.data;
    if condition.kind == kind::RANDOM {
        return Held::of(run.host.random() & 0x7fff_ffff < first);
    }
    let at = run.host.condition_base().wrapping_add(index);
    let Some(state) = run.host.flows().condition_state(at) else {
        return Held::Neither;
    };
    match condition.kind {
        kind::NTH => nth(state, first, second),
        kind::LIMIT => limit(run, state, first, second),
        _ => Held::Neither,
    }
}

/// The word is zero before the first packet, and then one more than the number of the last in its
/// round.
#[inline(always)]
fn nth<W: Words>(state: W, last: u32, wanted: u32) -> Held {
    for _ in 0..CONDITION_TRIES_MAX {
        let old = state.load(0);
        let number = if old == 0 { 0 } else { old as u32 };
        let next = if number >= last { 0 } else { number + 1 };
        let new = if old == 0 {
            1 << 32
        } else {
            1 << 32 | u64::from(next)
        };
        if state.compare_exchange(0, old, new) == old {
            return Held::of(new as u32 == wanted);
        }
    }
    Held::No
}

/// As xt_limit of Linux 6.18, jiffy for jiffy: credit grows with time up to that of a burst, and a
/// packet takes some of it. The word is the time, counted in credit, at which there was none: what
/// there is now is what has grown since. So one word says what Linux keeps two for, and nothing wraps.
#[inline(always)]
fn limit<P: Packet, H: Host, W: Words>(
    run: &Run<'_, P, H>,
    state: W,
    average: u32,
    burst: u32,
) -> Held {
    let scale = Scale::of(run.host.hertz());
    let cost = scale.credits(u64::from(average));
    let full = scale.credits(u64::from(average) * u64::from(burst));
    let now = LONG_AGO + run.host.jiffies(run.now) * u64::from(scale.credits_per_jiffy);
    for _ in 0..CONDITION_TRIES_MAX {
        // Zero before the first packet, which is long ago.
        let old = state.load(0);
        let (new, holds) = taken(old, now, cost, full);
        if state.compare_exchange(0, old, new) == old {
            return Held::of(holds);
        }
    }
    Held::No
}

/// The time without credit after a packet at `now`, and whether there was enough for it.
#[inline(always)]
const fn taken(old: u64, now: u64, cost: u64, full: u64) -> (u64, bool) {
    // Another CPU may be a jiffy ahead.
    let grown = now.saturating_sub(old);
    let (empty, credit) = if grown > full {
        (now - full, full)
    } else {
        (old, grown)
    };
    let holds = credit >= cost;
    (if holds { empty + cost } else { empty }, holds)
}

/// Added to the time, so that a burst can have grown before the clock began.
const LONG_AGO: u64 = 1 << 60;

/// How much credit a jiffy gives.
struct Scale {
    credits_per_jiffy: u32,
    /// The same for a second.
    credits_per_second: u32,
}

impl Scale {
    /// The largest power of two with which the credit of a day fits into 32 bits.
    #[inline(always)]
    const fn of(hertz: u32) -> Self {
        let most = match u32::MAX.checked_div(hertz.wrapping_mul(SECONDS_PER_DAY)) {
            Some(most) if most != 0 => most,
            _ => 1,
        };
        let credits_per_jiffy = 1 << (31 - most.leading_zeros());
        Self {
            credits_per_jiffy,
            credits_per_second: hertz.wrapping_mul(credits_per_jiffy),
        }
    }

    #[inline(always)]
    const fn credits(&self, user: u64) -> u64 {
        let per_second = self.credits_per_second as u64;
        let most = match u32::MAX.checked_div(self.credits_per_second) {
            Some(most) => most as u64,
            None => u64::MAX,
        };
        // Long ones lose their fraction of a second, as in Linux, where they would not fit otherwise.
        if user > most {
            return user / LIMIT_SCALE * per_second;
        }
        user * per_second / LIMIT_SCALE
    }
}

#[cfg(test)]
mod tests {
    extern crate std;

    use super::*;

    /// What the macros of xt_limit.c give for the rates that kernels are built with.
    #[test]
    fn credit_is_scaled_as_in_linux() {
        for (hertz, credits) in [(100, 256), (250, 128), (300, 128), (1000, 32)] {
            assert_eq!(Scale::of(hertz).credits_per_jiffy, credits);
        }
        let scale = Scale::of(250);
        // One a second, three an hour, one a day.
        assert_eq!(scale.credits(10_000), 32_000);
        assert_eq!(scale.credits(12_000_000), 38_400_000);
        assert_eq!(scale.credits(864_000_000), 2_764_800_000);
    }

    /// The credit and the time of the last packet, as xt_limit keeps them.
    struct Linux {
        credit: u32,
        last: u32,
    }

    impl Linux {
        fn takes(&mut self, jiffies: u32, scale: &Scale, cost: u32, full: u32) -> bool {
            let passed = jiffies - std::mem::replace(&mut self.last, jiffies);
            self.credit = full.min(self.credit + passed * scale.credits_per_jiffy);
            let holds = self.credit >= cost;
            if holds {
                self.credit -= cost;
            }
            holds
        }
    }

    /// The very packet that is refused is the one that Linux refuses.
    #[test]
    fn a_limit_takes_and_refuses_as_xt_limit() {
        for hertz in [100, 250, 1000] {
            let scale = Scale::of(hertz);
            for (average, burst) in [
                (10_000, 5),
                (400, 1),
                (600_000, 7),
                (12_000_000, 5),
                (3, 20),
            ] {
                let cost = scale.credits(average);
                let full = scale.credits(average * burst);
                let mut linux = Linux {
                    credit: full as u32,
                    last: 1_000,
                };
                let (mut word, mut jiffies, mut random) = (0, 1_000u32, 1u32);
                let mut refused = 0;
                for _ in 0..20_000 {
                    random = random.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                    // Mostly at once, sometimes after about as long as one packet takes.
                    jiffies += match random >> 28 {
                        0 => (random >> 8) % (cost as u32 / scale.credits_per_jiffy * 2 + 2),
                        1..=4 => 1,
                        _ => 0,
                    };
                    let now = LONG_AGO + u64::from(jiffies) * u64::from(scale.credits_per_jiffy);
                    let (new, holds) = taken(word, now, cost, full);
                    word = new;
                    let theirs = linux.takes(jiffies, &scale, cost as u32, full as u32);
                    assert_eq!(holds, theirs, "{average} {burst} at {jiffies}");
                    refused += u32::from(!holds);
                }
                assert!(refused > 0 || average == 3);
            }
        }
    }
}
