//! One rule and one packet.

use crate::policy::{
    Question, RULE_DESTINATION_PORT, RULE_IN_INTERFACE, RULE_NOT_DESTINATION,
    RULE_NOT_DESTINATION_PORT, RULE_NOT_IN_INTERFACE, RULE_NOT_OUT_INTERFACE, RULE_NOT_PROTOCOL,
    RULE_NOT_SOURCE, RULE_NOT_SOURCE_PORT, RULE_NOT_STATES, RULE_OUT_INTERFACE, RULE_PROTOCOL,
    RULE_SOURCE_PORT, RULE_STATES, Rule,
};
use crate::trace::RuleTrial;
use crate::tuple::Address;
use crate::wire::PacketInfo;

/// Holds a packet against one rule: the first thing that differs, cheapest first.
#[inline(always)]
pub(crate) fn try_rule(rule: &Rule, question: &Question<'_>) -> RuleTrial {
    let info = question.info;
    let flags = rule.flags;
    let has = |flag| flags & flag != 0;
    if has(RULE_STATES) {
        let matches = rule.states & u32::from(question.state.bit()) != 0;
        if matches == has(RULE_NOT_STATES) {
            return RuleTrial::State;
        }
    }
    if has(RULE_PROTOCOL) && (rule.protocol == info.protocol) == has(RULE_NOT_PROTOCOL) {
        return RuleTrial::Protocol;
    }
    if let Some(trial) = try_ports(rule, info) {
        return trial;
    }
    if is_within(&info.source, &rule.source, &rule.source_mask) == has(RULE_NOT_SOURCE) {
        return RuleTrial::Source;
    }
    if is_within(&info.destination, &rule.destination, &rule.destination_mask)
        == has(RULE_NOT_DESTINATION)
    {
        return RuleTrial::Destination;
    }
    // Interfaces come last, so that a rule which cannot match any packet of a flow says nothing of them.
    if has(RULE_IN_INTERFACE) {
        let matches = question.in_interfaces >> (rule.in_interface & 63) & 1 != 0;
        if matches == has(RULE_NOT_IN_INTERFACE) {
            return RuleTrial::InInterface;
        }
    }
    if has(RULE_OUT_INTERFACE) {
        let matches = question.out_interfaces >> (rule.out_interface & 63) & 1 != 0;
        if matches == has(RULE_NOT_OUT_INTERFACE) {
            return RuleTrial::OutInterface;
        }
    }
    RuleTrial::Matched
}

/// Ports match only where there are some: a later fragment or a cut header has none.
#[inline(always)]
fn try_ports(rule: &Rule, info: &PacketInfo) -> Option<RuleTrial> {
    let flags = rule.flags;
    if flags & (RULE_SOURCE_PORT | RULE_DESTINATION_PORT) == 0 {
        return None;
    }
    let [source_low, source_high] = rule.source_port;
    let source = info.source_port >= source_low && info.source_port <= source_high;
    let is_inverted = flags & RULE_NOT_SOURCE_PORT != 0;
    if flags & RULE_SOURCE_PORT != 0 && (!info.has_ports() || source == is_inverted) {
        return Some(RuleTrial::SourcePort);
    }
    let [low, high] = rule.destination_port;
    let destination = info.destination_port >= low && info.destination_port <= high;
    let is_inverted = flags & RULE_NOT_DESTINATION_PORT != 0;
    if flags & RULE_DESTINATION_PORT != 0 && (!info.has_ports() || destination == is_inverted) {
        return Some(RuleTrial::DestinationPort);
    }
    None
}

fn is_within(address: &Address, value: &Address, mask: &Address) -> bool {
    let [a, b, c, d] = *address;
    let [mask_a, mask_b, mask_c, mask_d] = *mask;
    let [value_a, value_b, value_c, value_d] = *value;
    (a & mask_a) ^ value_a
        | (b & mask_b) ^ value_b
        | (c & mask_c) ^ value_c
        | (d & mask_d) ^ value_d
        == 0
}
