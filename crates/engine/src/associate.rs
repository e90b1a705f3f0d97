//! The stage of SCTP packets, in place of that which advances all others: their chunks are walked
//! over, and summed, which is more than the kernel's verifier and stack have room for elsewhere.

use crate::conntrack::tcp::Advance;
use crate::conntrack::{self, sctp};
use crate::host::{Host, Packet};
use crate::process::{Run, Scratch, Stage};
use crate::trace::Step;
use crate::track::{Flow, Sight, Tracked, WarmUse, direction_of, state_of, to_rules, tracked_new};

/// Advances the association by the packet, or begins one.
#[inline(always)]
pub(crate) fn advance<P: Packet, H: Host>(run: &Run<'_, P, H>, scratch: &mut Scratch) -> Stage {
    if let Some(reason) = sctp::survey(run, scratch) {
        return to_rules(scratch, Tracked::invalid(reason));
    }
    if !matches!(scratch.sight, Sight::Found) {
        let begun = conntrack::begin_association(run, scratch);
        return to_rules(scratch, tracked_new(begun));
    }
    let direction = direction_of(scratch);
    run.host.trace(Step::Found(scratch.record, direction));
    scratch.uses_warm = WarmUse::No;
    scratch.tracked = Tracked {
        state: state_of(&scratch.record, direction),
        reason: None,
        flow: Flow::Known(direction),
    };
    scratch.advance = match sctp::take_chunks(run, scratch, direction) {
        Ok(()) if scratch.chunks.keeps_timeout => Advance::PassUncounted,
        Ok(()) => Advance::Pass,
        Err(reason) => Advance::Refuse(reason),
    };
    Stage::Write
}
