//! Which rules' outcomes records may remember.

use keepstate_engine::limits::CACHED_OUTCOMES_MAX;
use keepstate_engine::policy::{
    NO_RULE, RULE_DESTINATION_PORT, RULE_FLOW_ONLY, RULE_IN_INTERFACE, RULE_OUT_INTERFACE,
    RULE_PROTOCOL, RULE_SOURCE_PORT, RULE_STATES, Rule, target,
};
use keepstate_engine::verdict::State;

use super::{ChainKind, Compiled};
use crate::model::TableKind;

/// A rule of a built-in chain that may decide about established packets.
struct Candidate {
    rule: u32,
    /// Less is better.
    rank: u8,
}

/// The best rules to remember: of each built-in chain first those that decide about all
/// established packets that come to them, and those that no rule before them may keep from being
/// remembered: one that names an interface does, unless the interface turns out to be settled.
pub(super) fn choose(compiled: &Compiled) -> [u32; 8] {
    let mut candidates = Vec::new();
    for chain in &compiled.chains {
        if chain.table == TableKind::Filter && matches!(chain.kind, ChainKind::Builtin(_)) {
            scan(compiled, chain.first, chain.end, &mut candidates);
        }
    }
    candidates.sort_by_key(|candidate| candidate.rank);
    let mut chosen = [NO_RULE; 8];
    let best = candidates.iter().take(CACHED_OUTCOMES_MAX as usize);
    for (place, candidate) in chosen.iter_mut().zip(best) {
        *place = candidate.rule;
    }
    chosen
}

fn scan(compiled: &Compiled, first: u32, end: u32, candidates: &mut Vec<Candidate>) {
    let mut passed_interfaces = false;
    for index in first..=end {
        let rule = &compiled.rules[index as usize];
        if !meets_established(rule) {
            continue;
        }
        passed_interfaces |= names_interface(rule);
        let is_remembered = rule.flags & RULE_FLOW_ONLY != 0;
        if !is_remembered || !matches!(rule.target, target::ACCEPT | target::DROP) {
            continue;
        }
        let certain = is_bare(rule);
        candidates.push(Candidate {
            rule: index,
            rank: u8::from(passed_interfaces) * 2 + u8::from(!certain),
        });
        if certain {
            return;
        }
    }
}

fn meets_established(rule: &Rule) -> bool {
    rule.flags & RULE_STATES == 0 || rule.states & u32::from(State::Established.bit()) != 0
}

const fn names_interface(rule: &Rule) -> bool {
    rule.flags & (RULE_IN_INTERFACE | RULE_OUT_INTERFACE) != 0
}

/// Whether a rule looks at nothing but the state.
fn is_bare(rule: &Rule) -> bool {
    let looks = RULE_PROTOCOL | RULE_SOURCE_PORT | RULE_DESTINATION_PORT;
    rule.flags & looks == 0
        && rule.condition_count == 0
        && !names_interface(rule)
        && rule.source_mask == [0; 4]
        && rule.destination_mask == [0; 4]
}
