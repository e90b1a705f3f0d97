//! From a packet and its context to the engine, and from its outcome to the counters.

use keepstate_engine::policy::POLICY_USES_INTERFACES;
use keepstate_engine::process::{Arrival, Checksums, Outcome, Path, process};
use keepstate_engine::verdict::Verdict;
use keepstate_engine::wire::Link;
use keepstate_plane::{PLANE_TEST_REPORT, REPORT_NONE};

use crate::host::{Context, KernelHost};
use crate::maps;
use crate::packet::PacketView;

/// What a program knows of every packet that it sees.
#[derive(Clone, Copy)]
pub struct Way {
    pub link: Link,
    pub path: Path,
}

/// What becomes of a packet.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Fate {
    Pass,
    Drop,
}

#[inline(always)]
pub fn judge<C: Context>(
    context: &C,
    packet: &PacketView,
    way: Way,
    checksums: Checksums,
) -> Fate {
    let Some(host) = KernelHost::new(context) else {
        return Fate::Pass;
    };
    let interfaces = if host.policy.flags & POLICY_USES_INTERFACES != 0 {
        host.patterns(&host.interface_key())
    } else {
        0
    };
    let arrival = Arrival {
        link: way.link,
        path: way.path,
        checksums,
        zone: 0,
        interfaces,
    };
    let Some(scratch) = maps::SCRATCH.get_ptr_mut(0) else {
        return Fate::Pass;
    };
    // SAFETY: this CPU's element, used by one program at a time; the engine writes each part of it
    // before it reads it.
    let scratch = unsafe { &mut *scratch };
    let outcome = process(packet, &arrival, &host, scratch, host.now());
    count(&outcome);
    if host.plane.flags & PLANE_TEST_REPORT != 0 {
        report(&outcome);
    }
    match outcome.verdict {
        Verdict::Accept => Fate::Pass,
        Verdict::Drop | Verdict::Reject => Fate::Drop,
    }
}

#[inline(always)]
fn count(outcome: &Outcome) {
    let Some(counters) = maps::COUNTERS.get_ptr_mut(0) else {
        return;
    };
    // SAFETY: this CPU's element, which lives as long as the map. Programs are not preempted by
    // others that count on the same CPU but for interrupts, and then one count is lost.
    let counters = unsafe { &mut *counters };
    if let Some(counter) = counters.states.get_mut(outcome.state as usize & 7) {
        *counter += 1;
    }
    if let Some(counter) = counters.verdicts.get_mut(outcome.verdict as usize & 3) {
        *counter += 1;
    }
    let Some(reason) = outcome.reason else {
        return;
    };
    if let Some(counter) = counters.reasons.get_mut(reason as usize & 63) {
        *counter += 1;
    }
}

#[inline(never)]
fn report(outcome: &Outcome) {
    let Some(report) = maps::REPORT.get_ptr_mut(0) else {
        return;
    };
    // SAFETY: the element lives as long as the map; only tests, which run one packet at a time,
    // ask for reports.
    let report = unsafe { &mut *report };
    report.count = report.count.wrapping_add(1);
    report.state = outcome.state as u32;
    report.verdict = outcome.verdict as u32;
    report.reason = number(outcome.reason.map(|reason| reason as u32));
    report.hook = number(outcome.hook.map(|hook| hook as u32));
    report.rule = outcome.rule;
    report.has_flow = outcome.flow.is_some() as u32;
    report.flow = outcome.flow.unwrap_or(0);
    report.direction = number(outcome.direction.map(|direction| direction as u32));
    report.tcp_state = number(outcome.tcp_state.map(|state| state as u32));
}

#[inline(always)]
fn number(value: Option<u32>) -> u32 {
    value.unwrap_or(REPORT_NONE)
}
