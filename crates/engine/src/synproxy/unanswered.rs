//! SYNs that go on to their server as they are, although a rule has given them to SYNPROXY.

use super::Part;
use crate::cookie;
use crate::host::Host;
use crate::labels;
use crate::policy::Assigned;
use crate::process::{self, Scratch, Stage};
use crate::settings::COOKIES_AUTO;
use crate::table;
use crate::track::Flow;
use crate::verdict::{State, Verdict};
use crate::wire::PacketInfo;

/// Whether SYNs that a rule has given to SYNPROXY are answered here, or go on to their server. Unless they always are, the
/// SYN of a flow that is known goes where its first one went.
#[inline(always)]
pub(crate) fn is_active<H: Host>(host: &H, syn: &PacketInfo) -> bool {
    is_always(host) || cookie::is_needed(host, syn)
}

#[inline(always)]
pub(crate) fn is_always<H: Host>(host: &H) -> bool {
    host.settings().synproxy.mode != COOKIES_AUTO
}

/// Of two tables one alone is looked into: the SYN is answered, and if it had a flow the client tries again later.
#[inline(always)]
pub(super) fn is_of_no_flow<H: Host>(host: &H, scratch: &Scratch) -> bool {
    let Scratch { oriented, hash, .. } = scratch;
    table::peek(host.flows(), &oriented.key, hash, scratch.now).is_none()
}

/// The SYN is accepted, and its flow tracked, whatever the table raw has said of that.
#[inline(always)]
pub(super) fn let_through(scratch: &mut Scratch) -> Stage {
    scratch.judgement.verdict = Verdict::Accept;
    scratch.judgement.reason = None;
    match (scratch.tracked.flow, scratch.tracked.state) {
        (Flow::Begins, _) => Stage::Insert,
        (Flow::Known(_), _) => {
            let next = process::helped(scratch);
            labels::before(scratch, next)
        }
        (_, State::Untracked) => {
            scratch.assigned = Assigned::NOTHING;
            scratch.synproxy.part = Part::LetThrough;
            Stage::Look
        }
        _ => Stage::Conclude,
    }
}

/// Whether what the rules say of a packet was said before its flow was looked for.
#[inline(always)]
pub(crate) const fn is_judged(scratch: &Scratch) -> bool {
    matches!(scratch.synproxy.part, Part::LetThrough) && matches!(scratch.tracked.state, State::New)
}
