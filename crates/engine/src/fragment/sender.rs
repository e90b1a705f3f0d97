//! What a sender's last datagram in fragments was like, towards one receiver, in one protocol.
//!
//! One word for each pair, in the bucket that its hash says; another pair of the same bucket takes
//! its place. From the most significant bit:
//!
//! ```text
//! mark (17) | tick (32) | hook (2) | state (2) | datagrams begun in a row (5) | fragments ahead in a row (6)
//! ```
//!
//! It is a guess and no more: a change that loses against another CPU is not made again, and two pairs with
//! equal marks take each other for one. See [`super`] for why a wrong guess lets nothing through.

use super::datagram::Datagram;
use super::decision::{Decision, hook_of, state_of};
use crate::host::{FlowMemory, Host, Words};
use crate::limits::{
    FRAGMENT_BUCKETS, FRAGMENT_EARLY_MAX, FRAGMENT_FIRSTS_MAX, FRAGMENT_SECONDS_V4,
};
use crate::time::Tick;
use crate::verdict::{Hook, State, Verdict};

/// Word of a bucket.
const PAIR: u32 = 1;

const MARK_SHIFT: u32 = 47;
const TICK_SHIFT: u32 = 15;
const HOOK_SHIFT: u32 = 13;
const STATE_SHIFT: u32 = 11;
const FIRSTS_SHIFT: u32 = 6;
const FIRSTS_MASK: u64 = 0x1f << FIRSTS_SHIFT;
const EARLY_MASK: u64 = 0x3f;

/// The state of a pair whose datagrams are let through: its number less one, zero for none.
const STATE_MASK: u64 = 3;

/// What a datagram without its first fragment is taken for.
pub(super) struct Expected {
    pub(super) state: State,
    pub(super) hook: Hook,
}

/// Whether a sender has begun many datagrams and gone on with none.
#[inline(always)]
pub(super) fn is_flooding<H: Host>(host: &H, datagram: &Datagram, now: Tick) -> bool {
    let Some((_, word)) = recall(host, datagram) else {
        return false;
    };
    is_fresh(word, now) && (word & FIRSTS_MASK) >> FIRSTS_SHIFT >= u64::from(FRAGMENT_FIRSTS_MAX)
}

/// A later fragment came: datagrams go on.
#[inline(always)]
pub(super) fn goes_on<H: Host>(host: &H, datagram: &Datagram) {
    if let Some((words, word)) = recall(host, datagram)
        && word & FIRSTS_MASK != 0
    {
        words.compare_exchange(PAIR, word, word & !FIRSTS_MASK);
    }
}

/// Fragments come twice: one without its first is then most likely a repetition, of a datagram that was complete.
#[inline(always)]
pub(super) fn repeats<H: Host>(host: &H, datagram: &Datagram) {
    if let Some((words, word)) = recall(host, datagram) {
        words.compare_exchange(PAIR, word, word & !(STATE_MASK << STATE_SHIFT));
    }
}

/// What a fragment ahead of its first one is taken for, if for anything.
#[inline(always)]
pub(super) fn expects<H: Host>(host: &H, datagram: &Datagram, now: Tick) -> Option<Expected> {
    let (words, word) = recall(host, datagram)?;
    let state = (word >> STATE_SHIFT) & STATE_MASK;
    let early = word & EARLY_MASK;
    if state == 0 || early >= u64::from(FRAGMENT_EARLY_MAX) || !is_fresh(word, now) {
        words.compare_exchange(PAIR, word, word & !FIRSTS_MASK);
        return None;
    }
    words.compare_exchange(PAIR, word, (word & !FIRSTS_MASK) + 1);
    Some(Expected {
        state: state_of(state + 1),
        hook: hook_of((word >> HOOK_SHIFT) & 3),
    })
}

/// A datagram was begun.
#[inline(always)]
pub(super) fn begins<H: Host>(host: &H, datagram: &Datagram, decision: &Decision, now: Tick) {
    let Some(words) = host.flows().fragment_bucket(bucket(datagram)) else {
        return;
    };
    let word = words.load(PAIR);
    let in_a_row = if word >> MARK_SHIFT == mark(datagram) && is_fresh(word, now) {
        (word & FIRSTS_MASK) >> FIRSTS_SHIFT
    } else {
        0
    };
    let firsts = if in_a_row < u64::from(FRAGMENT_FIRSTS_MAX) {
        in_a_row + 1
    } else {
        in_a_row
    };
    let state = match (decision.verdict, decision.state) {
        (Verdict::Accept, State::New | State::Established | State::Related) => {
            decision.state as u64 - 1
        }
        _ => 0,
    };
    let new = (mark(datagram) << MARK_SHIFT)
        | (u64::from(now.0) << TICK_SHIFT)
        | ((decision.hook as u64 & 3) << HOOK_SHIFT)
        | ((state & STATE_MASK) << STATE_SHIFT)
        | (firsts << FIRSTS_SHIFT);
    words.compare_exchange(PAIR, word, new);
}

/// The word of the pair, if it is not another's.
#[inline(always)]
fn recall<H: Host>(
    host: &H,
    datagram: &Datagram,
) -> Option<(<H::Flows as FlowMemory>::Words, u64)> {
    let words = host.flows().fragment_bucket(bucket(datagram))?;
    let word = words.load(PAIR);
    if word >> MARK_SHIFT == mark(datagram) {
        Some((words, word))
    } else {
        None
    }
}

fn is_fresh(word: u64, now: Tick) -> bool {
    let last = Tick((word >> TICK_SHIFT) as u32);
    !last.after_seconds(FRAGMENT_SECONDS_V4).has_passed(now)
}

const fn bucket(datagram: &Datagram) -> u32 {
    datagram.pair & (FRAGMENT_BUCKETS - 1)
}

/// Not zero, which is the mark of no pair.
const fn mark(datagram: &Datagram) -> u64 {
    (datagram.pair >> 15) as u64 | 1
}
