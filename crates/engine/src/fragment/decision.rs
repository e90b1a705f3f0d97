//! What was decided about a first fragment, and how it lies in two words.

use super::bucket::{DECISION, RULE};
use super::direction_of;
use crate::host::Words;
use crate::limits::RULES_MAX;
use crate::policy::NO_RULE;
use crate::process::Scratch;
use crate::tuple::Direction;
use crate::verdict::{Hook, State, Verdict};
#[cfg(doc)]
use crate::wire::PacketInfo;

/// What was decided about a first fragment.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Decision {
    /// As in [`PacketInfo`], the source's in the upper half.
    pub(super) ports: u32,
    pub(super) state: State,
    pub(super) verdict: Verdict,
    pub(super) hook: Hook,
    pub(super) zone: u16,
    /// Set where it belongs to a flow.
    pub(super) direction: Option<Direction>,
    pub(super) rule: u32,
    /// Of the policy that has the rule.
    pub(super) epoch: u32,
    /// The sequence number that byte 0 would have, were there no header. Meaningful for TCP.
    pub(super) sequence: u32,
}

impl Decision {
    pub(super) const NOTHING: Self = Self {
        ports: 0,
        state: State::None,
        verdict: Verdict::Drop,
        hook: Hook::Input,
        zone: 0,
        direction: None,
        rule: NO_RULE,
        epoch: 0,
        sequence: 0,
    };

    pub(super) const fn of(scratch: &Scratch, epoch: u32) -> Self {
        let (info, outcome) = (&scratch.info, &scratch.outcome);
        Self {
            ports: ((info.source_port as u32) << 16) | info.destination_port as u32,
            state: outcome.state,
            verdict: outcome.verdict,
            hook: match outcome.hook {
                Some(hook) => hook,
                None => Hook::Input,
            },
            zone: scratch.zone,
            direction: direction_of(scratch),
            rule: outcome.rule,
            epoch,
            sequence: scratch.datagram.sequence_of_start(info),
        }
    }

    /// Word [`DECISION`] of a datagram that ends at `end`, zero where that is not known.
    pub(super) const fn word(&self, end: u32) -> u64 {
        let direction = match self.direction {
            None => 0,
            Some(Direction::Original) => 1,
            Some(Direction::Reply) => 2,
        };
        ((self.ports as u64) << 32)
            | ((end as u64 & 0xffff) << 16)
            | ((self.epoch as u64 & 3) << 9)
            | (direction << 7)
            | ((self.hook as u64 & 3) << 5)
            | ((self.verdict as u64 & 3) << 3)
            | (self.state as u64 & 7)
    }

    /// Word [`RULE`]: rule (16), zone (16), sequence (32).
    pub(super) const fn rule_word(&self) -> u64 {
        ((self.rule as u64 & 0xffff) << 48) | ((self.zone as u64) << 32) | self.sequence as u64
    }

    pub(super) fn read<W: Words>(words: W) -> Self {
        let (word, rule) = (words.load(DECISION), words.load(RULE));
        Self {
            ports: (word >> 32) as u32,
            state: state_of(word & 7),
            verdict: verdict_of((word >> 3) & 3),
            hook: hook_of((word >> 5) & 3),
            direction: match (word >> 7) & 3 {
                1 => Some(Direction::Original),
                2 => Some(Direction::Reply),
                _ => None,
            },
            zone: (rule >> 32) as u16,
            rule: match (rule >> 48) as u32 {
                0xffff => NO_RULE,
                rule => rule,
            },
            epoch: (word >> 9) as u32 & 3,
            sequence: rule as u32,
        }
    }
}

const _: () = assert!(RULES_MAX < 0xffff);

pub(super) const fn state_of(number: u64) -> State {
    match number {
        2 => State::New,
        3 => State::Established,
        4 => State::Related,
        5 => State::Untracked,
        _ => State::Invalid,
    }
}

const fn verdict_of(number: u64) -> Verdict {
    match number {
        0 => Verdict::Accept,
        2 => Verdict::Reject,
        _ => Verdict::Drop,
    }
}

pub(super) const fn hook_of(number: u64) -> Hook {
    match number {
        1 => Hook::Forward,
        2 => Hook::Output,
        _ => Hook::Input,
    }
}
