//! From a packet's state to its verdict: the remembered outcome, or a walk through the rules.

use crate::asked::{Asked, Asker};
use crate::cookie;
use crate::foreseen::{self, Fate};
use crate::host::{Host, Route};
use crate::labels;
use crate::policy::{
    Answer, DecidedBy, DependsOn, NO_RULE, POLICY_NONE, PolicyHeader, target, walk_in,
};
use crate::process::{self, Path, Scratch, Stage};
use crate::record::CachedOutcomes;
use crate::synproxy;
use crate::trace::Step;
use crate::track::Flow;
use crate::tuple::{Direction, Family};
use crate::verdict::{Hook, Reason, State, Verdict};
use crate::wire::PacketInfo;

/// What the rules say.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Judgement {
    pub(crate) verdict: Verdict,
    /// Set for every drop.
    pub(crate) reason: Option<Reason>,
    pub(crate) hook: Hook,
    /// Rule that gave the verdict, [`NO_RULE`] where there are no rules.
    pub(crate) rule: u32,
    /// Number of the outcome, if the record may remember it.
    pub(crate) cacheable: Option<u8>,
}

impl Judgement {
    pub(crate) const NOTHING: Self = Self {
        verdict: Verdict::Accept,
        reason: None,
        hook: Hook::Input,
        rule: NO_RULE,
        cacheable: None,
    };
}

/// Judges a tracked packet; what comes next.
#[inline(always)]
pub(crate) fn judge<H: Host>(host: &H, path: Path, scratch: &mut Scratch) -> Stage {
    if synproxy::is_judged(scratch) {
        return judged(host, scratch);
    }
    if let Some(direction) = established(scratch)
        && let Some(judgement) = remembered(host, path, scratch, direction)
    {
        scratch.judgement = judgement;
        return judged(host, scratch);
    }
    if !ask(host, path, scratch) {
        return judged(host, scratch);
    }
    walk_in(host, scratch);
    if scratch.walk.is_weighing() {
        return Stage::Weigh;
    }
    answered(host, scratch)
}

const fn established(scratch: &Scratch) -> Option<Direction> {
    match (scratch.tracked.flow, scratch.tracked.state) {
        (Flow::Known(direction), State::Established) => Some(direction),
        _ => None,
    }
}

/// Puts together what the rules are asked; `false` where there are none.
#[cfg_attr(target_arch = "bpf", inline(never))]
#[cfg_attr(not(target_arch = "bpf"), inline)]
fn ask<H: Host>(host: &H, path: Path, scratch: &mut Scratch) -> bool {
    let Scratch {
        info,
        tracked,
        judgement,
        asked,
        ..
    } = scratch;
    let route = route(host, path, info);
    if host.policy().flags & POLICY_NONE != 0 {
        *judgement = Judgement {
            hook: route.hook,
            ..Judgement::NOTHING
        };
        return false;
    }
    host.trace(Step::Chain(route.hook));
    let settled = host.policy().settled_for(info.in_interfaces);
    let sides = Sides::of(path, info.in_interfaces, settled.unwrap_or(0));
    *asked = Asked {
        table: Asker::Filter,
        hook: route.hook,
        is_settled: settled.is_some(),
        state: tracked.state,
        entry: entry(host.policy(), info.family, route.hook),
        after: after(host.policy(), info.family, route.hook),
        out_index: route.out_index,
        in_interfaces: sides.incoming,
        out_interfaces: route.out_interfaces,
        settled_in: sides.settled_in,
        settled_out: sides.settled_out,
    };
    true
}

/// What the answer of the rules means; what comes next.
#[inline(always)]
pub(crate) fn answered<H: Host>(host: &H, scratch: &mut Scratch) -> Stage {
    let answer = scratch.walk.answer;
    scratch.judgement = judgement_of(&answer, scratch.asked.hook);
    let is_settled = scratch.asked.is_settled && matches!(answer.depends_on, DependsOn::Flow);
    // A flow with a helper goes past it with every packet, and not by the steady path.
    let is_plain = scratch.given.helper() == 0 && Judgement::is_settled_by_raw(scratch);
    if established(scratch).is_some() && is_settled && is_plain {
        scratch.judgement.cacheable = number_of(host.policy(), answer.rule);
    }
    judged(host, scratch)
}

/// What comes after the rules.
#[inline(always)]
fn judged<H: Host>(host: &H, scratch: &mut Scratch) -> Stage {
    let refused = match scratch.judgement.verdict {
        Verdict::Accept => None,
        Verdict::Drop if matches!(scratch.judgement.reason, Some(Reason::SynproxySent)) => {
            Some(Stage::Synproxy)
        }
        Verdict::Drop => Some(Stage::Conclude),
        Verdict::Reject => Some(Stage::Answer),
    };
    foresee(host, scratch);
    match (scratch.tracked.flow, refused) {
        (Flow::Begins, None) if cookie::is_due(host, scratch) => Stage::Cookie,
        (Flow::Begins, None) => Stage::Insert,
        (Flow::Known(_), None) => {
            let next = process::helped(scratch);
            labels::before(scratch, next)
        }
        // What rules have set stays, whatever becomes of the packet.
        (Flow::Known(_), Some(next)) => labels::before(scratch, next),
        (_, Some(next)) => next,
        _ => Stage::Conclude,
    }
}

/// Remembers what was said of a SYN, where it holds of all to its destination.
#[inline(always)]
fn foresee<H: Host>(host: &H, scratch: &mut Scratch) {
    let is_accepted = matches!(scratch.judgement.verdict, Verdict::Accept);
    let is_untracked = matches!(scratch.tracked.state, State::Untracked);
    let begins = matches!(scratch.tracked.flow, Flow::Begins) && scratch.assigned.0 == 0;
    if begins && is_accepted && cookie::is_due(host, scratch) {
        foreseen::learn(host, scratch, Fate::Cookie);
    } else if is_untracked && scratch.judgement.is_synproxy_ahead() {
        foreseen::learn(host, scratch, Fate::Synproxy);
    }
}

/// Which interface patterns a packet matches that has not been routed, on its way in and out, and
/// which of these are settled.
pub(crate) struct Sides {
    pub(crate) incoming: u64,
    pub(crate) outgoing: u64,
    pub(crate) settled_in: u64,
    pub(crate) settled_out: u64,
}

impl Sides {
    #[inline(always)]
    pub(crate) const fn of(path: Path, interfaces: u64, settled: u64) -> Self {
        match path {
            // What is made here comes by no interface, ever.
            Path::Local => Self {
                incoming: 0,
                outgoing: interfaces,
                settled_in: u64::MAX,
                settled_out: settled,
            },
            // Where a packet leaves that is forwarded is for the routing table to say, from packet
            // to packet.
            Path::Ingress => Self {
                incoming: interfaces,
                outgoing: 0,
                settled_in: settled,
                settled_out: 0,
            },
        }
    }
}

/// The outcome that an earlier packet of this direction met under the policy in force.
fn remembered<H: Host>(
    host: &H,
    path: Path,
    scratch: &Scratch,
    direction: Direction,
) -> Option<Judgement> {
    let judgement = recall(host, path, scratch, direction)?;
    host.count_rule(judgement.rule, scratch.info.ip_length);
    host.trace(Step::Cached(judgement.rule));
    Some(judgement)
}

/// The outcome that the low byte of a record's key tells of, if it is this packet's too.
#[inline(always)]
pub(crate) fn recall<H: Host>(
    host: &H,
    path: Path,
    scratch: &Scratch,
    direction: Direction,
) -> Option<Judgement> {
    let policy = host.policy();
    policy.settled_for(scratch.info.in_interfaces)?;
    let number = CachedOutcomes(scratch.seen.cached).outcome(policy.epoch, direction);
    if number == 0 {
        return None;
    }
    let index = *policy.cached.get(usize::from(number) - 1)?;
    let rule = host.rule(index)?;
    let hook = Hook::from_number(rule.hook.wrapping_sub(1))?;
    // A loopback packet passes OUTPUT and then INPUT in one direction of one flow.
    if matches!(path, Path::Local) != matches!(hook, Hook::Output) {
        return None;
    }
    let answer = Answer {
        target: rule.target,
        decided_by: DecidedBy::Rule,
        rule: index,
        depends_on: DependsOn::Flow,
    };
    Some(judgement_of(&answer, hook))
}

fn route<H: Host>(host: &H, path: Path, info: &PacketInfo) -> Route {
    match path {
        Path::Local => Route {
            hook: Hook::Output,
            out_interfaces: info.in_interfaces,
            out_index: host.interface(),
        },
        Path::Ingress => host.route(info),
    }
}

fn entry(policy: &PolicyHeader, family: Family, hook: Hook) -> u32 {
    let [v4, v6] = &policy.entry;
    let entries = match family {
        Family::V4 => v4,
        Family::V6 => v6,
    };
    let [input, forward, output] = *entries;
    match hook {
        Hook::Input => input,
        Hook::Forward => forward,
        Hook::Output => output,
        // Of other tables.
        Hook::Prerouting | Hook::Postrouting => NO_RULE,
    }
}

fn after(policy: &PolicyHeader, family: Family, hook: Hook) -> u32 {
    let [v4, v6] = policy.after;
    match (hook, family) {
        (Hook::Forward | Hook::Output, Family::V4) => v4,
        (Hook::Forward | Hook::Output, Family::V6) => v6,
        _ => NO_RULE,
    }
}

/// Number of a rule among those whose outcome a record can hold.
fn number_of(policy: &PolicyHeader, rule: u32) -> Option<u8> {
    let mut number = 0;
    for cached in policy
        .cached
        .iter()
        .take(crate::limits::CACHED_OUTCOMES_MAX as usize)
    {
        number += 1;
        if *cached == rule {
            return Some(number);
        }
    }
    None
}

pub(crate) const fn judgement_of(answer: &Answer, hook: Hook) -> Judgement {
    let (verdict, reason) = match (answer.target, answer.decided_by) {
        (target::ACCEPT, _) => (Verdict::Accept, None),
        (target::SYNPROXY, _) => (Verdict::Drop, Some(Reason::SynproxySent)),
        (target::REJECT, _) => (Verdict::Reject, Some(Reason::RuleReject)),
        (target::DROP, DecidedBy::Rule) => (Verdict::Drop, Some(Reason::RuleDrop)),
        (target::DROP, DecidedBy::NoRoom) => (Verdict::Drop, Some(Reason::MeterFull)),
        (target::DROP, DecidedBy::Busy) => (Verdict::Drop, Some(Reason::MeterBusy)),
        (target::DROP, DecidedBy::ChainPolicy) => (Verdict::Drop, Some(Reason::PolicyDrop)),
        _ => (Verdict::Drop, Some(Reason::RuleStepsExceeded)),
    };
    Judgement {
        verdict,
        reason,
        hook,
        rule: answer.rule,
        cacheable: None,
    }
}
