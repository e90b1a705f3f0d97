//! The table raw: rules that a packet meets before its flow is looked up. They may drop it, say that
//! it has no flow (UNTRACKED), or say in which zone it is looked for and which helper a new flow gets.
//!
//! Packets of the steady path pass by them. Such a packet was let through by an outcome that its
//! record remembers for its direction, and only a packet of that direction has put it there that was
//! itself accepted and tracked by these rules, under the same policy, in a walk that looked at
//! nothing but the flow and settled interfaces ([`Scratch::raw_depends_on`]). So the walk of this one
//! would end alike. What is missing is one count in the rules that it would have passed.

use crate::asked::{Asked, Asker};
use crate::host::Host;
use crate::judge::{self, Judgement};
use crate::policy::{Assigned, DependsOn, NO_RULE, POLICY_RAW, PolicyHeader, target, walk_in};
use crate::process::{Path, Scratch, Stage};
use crate::record::FlowAssigned;
use crate::table::Hash;
use crate::trace::Step;
use crate::track::Tracked;
use crate::tuple::Family;
use crate::verdict::{Hook, State, Verdict};

/// The stage that comes before `next`: this one, where the policy has such rules.
#[inline(always)]
pub(crate) fn before<H: Host>(host: &H, scratch: &mut Scratch, next: Stage) -> Stage {
    forget(host, scratch);
    let Scratch { trail, info, .. } = scratch;
    trail.begin(host, info);
    if host.policy().flags & POLICY_RAW == 0 {
        return next;
    }
    scratch.next = next;
    Stage::Raw
}

/// Forgets what rules have said of another packet.
#[inline(always)]
pub(crate) fn forget<H: Host>(host: &H, scratch: &mut Scratch) {
    scratch.mark = host.mark();
    scratch.assigned = Assigned::NOTHING;
    scratch.given = FlowAssigned::default();
    scratch.labels = [0; 2];
    scratch.raw_depends_on = DependsOn::Flow;
}

/// Walks the rules; what comes next.
#[inline(always)]
pub(crate) fn ask<H: Host>(host: &H, path: Path, scratch: &mut Scratch) -> Stage {
    prepare(host, path, scratch);
    walk_in(host, scratch);
    if scratch.walk.is_weighing() {
        return Stage::Weigh;
    }
    answered(host, scratch)
}

/// Puts together what the rules are asked.
#[cfg_attr(target_arch = "bpf", inline(never))]
#[cfg_attr(not(target_arch = "bpf"), inline)]
fn prepare<H: Host>(host: &H, path: Path, scratch: &mut Scratch) {
    let Scratch { info, asked, .. } = scratch;
    let interfaces = info.in_interfaces;
    let settled = host.policy().settled_for(interfaces);
    let hook = match path {
        Path::Ingress => Hook::Prerouting,
        Path::Local => Hook::Output,
    };
    host.trace(Step::Chain(hook));
    let sides = judge::Sides::of(path, interfaces, settled.unwrap_or(0));
    *asked = Asked {
        table: Asker::Raw,
        hook,
        is_settled: settled.is_some(),
        // There is no flow yet, which `-m conntrack` calls INVALID, here as in Linux.
        state: State::Invalid,
        entry: entry(host.policy(), info.family, path),
        after: NO_RULE,
        out_index: 0,
        in_interfaces: sides.incoming,
        out_interfaces: sides.outgoing,
        settled_in: sides.settled_in,
        settled_out: sides.settled_out,
    };
}

/// What the answer of the rules means; what comes next.
#[inline(always)]
pub(crate) fn answered<H: Host>(host: &H, scratch: &mut Scratch) -> Stage {
    scratch.assigned = scratch.walk.assigned;
    let answer = scratch.walk.answer;
    if !scratch.asked.is_settled || matches!(answer.depends_on, DependsOn::Packet) {
        scratch.raw_depends_on = DependsOn::Packet;
    }
    if answer.target != target::ACCEPT {
        scratch.judgement = judge::judgement_of(&answer, scratch.asked.hook);
        scratch.tracked = Tracked::UNTRACKED;
        host.trace(Step::Verdict(Verdict::Drop));
        return Stage::Conclude;
    }
    if scratch.assigned.is_notrack() {
        scratch.tracked = Tracked::UNTRACKED;
        return Stage::Judge;
    }
    if scratch.assigned.zone() != 0 {
        move_to_zone(host, scratch);
    }
    scratch.next
}

/// The flow, which was named before the rules were asked, is that of another zone.
fn move_to_zone<H: Host>(host: &H, scratch: &mut Scratch) {
    scratch.zone = scratch.assigned.zone();
    host.trace(Step::Zone(scratch.zone));
    scratch.oriented.key.set_zone(scratch.zone);
    scratch.hash = Hash::of(&scratch.oriented.key, host.settings());
}

fn entry(policy: &PolicyHeader, family: Family, path: Path) -> u32 {
    let [v4, v6] = &policy.raw_entry;
    let [prerouting, output] = match family {
        Family::V4 => *v4,
        Family::V6 => *v6,
    };
    match path {
        Path::Ingress => prerouting,
        Path::Local => output,
    }
}

impl Judgement {
    /// Whether the outcome may be remembered as far as the table raw is concerned.
    pub(crate) const fn is_settled_by_raw(scratch: &Scratch) -> bool {
        matches!(scratch.raw_depends_on, DependsOn::Flow)
    }
}
