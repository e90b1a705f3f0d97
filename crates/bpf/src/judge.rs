//! From a packet and its context to the engine, and from its outcome to the counters.

use keepstate_engine::policy::POLICY_USES_INTERFACES;
use keepstate_engine::process::{Arrival, Checksums, Outcome, Path, Stage, prepare, step};
use keepstate_engine::verdict::{Reason, Verdict};
use keepstate_engine::wire::Link;
use keepstate_plane::{PLANE_TEST_REPORT, REPORT_NONE};

use crate::host::{self, Context, KernelHost};
use crate::maps::{self, Memory};
use crate::packet::{PacketView, masked};

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
    /// The answer lies where the packet was.
    SendBack,
}

/// The first step: what a program that is attached does with a packet.
#[inline(always)]
pub fn begin<C: Context>(
    context: C,
    packet: &PacketView,
    way: Way,
    checksums: Checksums,
) -> Option<Stage> {
    let plane = host::plane()?;
    let memory = memory()?;
    memory.slot = host::active_slot(plane);
    let host = KernelHost::new(*packet, context, plane, memory.slot)?;
    let interfaces = if host.policy_flags() & POLICY_USES_INTERFACES != 0 {
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
    memory.arrival = arrival;
    // The copy, of which the compiler knows what this program's packets have in common: the way out then has no code
    // that sums packets up, which Linux 6.1's verifier walks a hundred times.
    let scratch = &mut memory.scratch;
    let stage = prepare(&host, &arrival, &host, scratch, host::now(plane));
    if matches!(stage, Stage::Steady) {
        return Some(step(&host, &arrival, &host, scratch, Stage::Steady));
    }
    Some(stage)
}

/// Any later step: what a program that is jumped to does.
#[inline(always)]
pub fn proceed<C: Context>(context: C, packet: &PacketView, stage: Stage) -> Option<Stage> {
    let plane = host::plane()?;
    let memory = memory()?;
    let host = KernelHost::new(*packet, context, plane, memory.slot)?;
    let Memory {
        scratch, arrival, ..
    } = memory;
    let next = step(&host, arrival, &host, scratch, stage);
    if matches!(stage, Stage::Weigh) {
        context.set_mark(scratch.mark());
    }
    // It is short, and comes after these nearly always.
    if matches!(stage, Stage::Judge | Stage::Insert | Stage::Weigh | Stage::Cookie | Stage::Foreseen | Stage::Answer) && matches!(next, Stage::Conclude) {
        return Some(step(&host, arrival, &host, scratch, Stage::Conclude));
    }
    Some(next)
}

/// The end of a packet's way.
#[inline(always)]
pub fn end() -> Fate {
    let (Some(plane), Some(memory)) = (host::plane(), memory()) else {
        return Fate::Pass;
    };
    let outcome = memory.scratch.outcome();
    count(outcome);
    if plane.flags & PLANE_TEST_REPORT != 0 {
        report(outcome);
    }
    if memory.scratch.is_answered() {
        return Fate::SendBack;
    }
    match outcome.verdict {
        Verdict::Accept => Fate::Pass,
        Verdict::Drop | Verdict::Reject => Fate::Drop,
    }
}

/// A program that should have been jumped to is not there: the packet cannot be judged.
#[inline(always)]
pub fn lost() -> Fate {
    if let Some(counters) = maps::COUNTERS.get_ptr_mut(0) {
        // SAFETY: as in `count`.
        let counters = unsafe { &mut *counters };
        counters.verdicts[Verdict::Drop as usize] += 1;
        counters.reasons[Reason::StageMissing as usize] += 1;
    }
    Fate::Drop
}

#[inline(always)]
pub fn memory() -> Option<&'static mut Memory> {
    let memory = maps::SCRATCH.get_ptr_mut(0)?;
    // SAFETY: this CPU's element, used by one packet at a time; the engine writes each part of it
    // before it reads it.
    Some(unsafe { &mut *memory })
}

#[inline(always)]
fn count(outcome: &Outcome) {
    let Some(counters) = maps::COUNTERS.get_ptr_mut(0) else {
        return;
    };
    // SAFETY: this CPU's element, which lives as long as the map. Programs are not preempted by
    // others that count on the same CPU but for interrupts, and then one count is lost.
    let counters = unsafe { &mut *counters };
    if let Some(counter) = counters
        .states
        .get_mut(masked::<7>(outcome.state as u64) as usize)
    {
        *counter += 1;
    }
    if let Some(counter) = counters
        .verdicts
        .get_mut(masked::<3>(outcome.verdict as u64) as usize)
    {
        *counter += 1;
    }
    let Some(reason) = outcome.reason else {
        return;
    };
    if let Some(counter) = counters
        .reasons
        .get_mut(masked::<127>(reason as u64) as usize)
    {
        *counter += 1;
    }
}

#[inline(always)]
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
