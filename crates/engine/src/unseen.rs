//! Packets of a flow that passed although nobody held them against its record, since other CPUs kept that
//! busy: they are not to be refused, nor are those that come after them.
//!
//! A hypervisor may take a CPU away in the middle of the few stores for which it holds a record, and give it
//! back milliseconds later. Packets that come meanwhile on other CPUs pass, and what they carried is not
//! known: the answer then acknowledges data that nobody saw. So the flow and the moment are noted, and for a
//! while its windows are learned anew from the first segment that does not fit them, as those of a
//! connection that is met in the middle.

use crate::conntrack::tcp::Advance;
use crate::host::{FlowMemory, Host, Words};
use crate::process::{ROUNDS_MAX, Scratch, Stage};
use crate::table::gauges;
use crate::time::{TICKS_PER_SECOND, Tick};
use crate::track::{Flow, count, direction_of};
use crate::verdict::{Reason, State};

/// How long a flow is forgiven: an acknowledgement is delayed by half a second at most (RFC 1122 section
/// 4.2.3.2), and may be lost once and take a second to come again.
const FORGIVEN_TICKS: u32 = 5 * TICKS_PER_SECOND;

const _: () = assert!(gauges::UNSEEN_WORDS.is_power_of_two());

/// Notes that a packet of the flow passes unseen. The word holds number of the flow (32) and tick (32): a
/// CPU holds one record at a time, so few flows are noted at once, and one that is overwritten is only not
/// forgiven.
#[cfg_attr(target_arch = "bpf", inline(never))]
#[cfg_attr(not(target_arch = "bpf"), inline)]
pub(crate) fn note<H: Host>(host: &H, id: u32, now: Tick) {
    count(host.flows(), gauges::BUSY);
    if let Some(words) = host.flows().gauges() {
        words.store(word_of(id), u64::from(id) << 32 | u64::from(now.0));
    }
}

/// What becomes of a packet whose record other CPUs changed each time that it was to be written: it passes
/// as the record had it. Only one that begins its connection anew needs the place, and is dropped.
#[inline(always)]
pub(crate) fn pass<H: Host>(host: &H, scratch: &mut Scratch) -> Option<Stage> {
    match scratch.advance {
        Advance::Reopen => return None,
        Advance::Refuse(reason) => {
            scratch.tracked.state = State::Invalid;
            scratch.tracked.reason = Some(reason);
        }
        Advance::Pass | Advance::PassUncounted | Advance::PassAndForget => {
            note(host, scratch.hash.id, scratch.now);
        }
    }
    scratch.tracked.flow = Flow::Passing(direction_of(scratch));
    Some(Stage::Judge)
}

/// Whether the windows that refused a segment may not be those of its connection any more. It is then
/// looked up once more, in its last round, and [learns](forgets_windows) them.
#[inline(always)]
pub(crate) fn may_explain<H: Host>(host: &H, scratch: &mut Scratch) -> bool {
    let is_refused = matches!(
        scratch.advance,
        Advance::Refuse(Reason::TcpSequenceOverWindow | Reason::TcpAckOfUnseenData)
    );
    if !is_refused || scratch.rounds >= ROUNDS_MAX {
        return false;
    }
    let id = scratch.hash.id;
    let noted = host
        .flows()
        .gauges()
        .map_or(0, |words| words.load(word_of(id)));
    let age = scratch.now.0.wrapping_sub(noted as u32);
    if noted == 0 || (noted >> 32) as u32 != id || age > FORGIVEN_TICKS {
        return false;
    }
    scratch.rounds = ROUNDS_MAX;
    true
}

/// Makes the windows of the record unknown where the packet is [forgiven](may_explain).
#[inline(always)]
pub(crate) fn forgets_windows(scratch: &mut Scratch) {
    if scratch.rounds < ROUNDS_MAX {
        return;
    }
    let [original, reply] = &mut scratch.record.windows;
    original.max_window = 0;
    reply.max_window = 0;
}

const fn word_of(id: u32) -> u32 {
    gauges::UNSEEN + (id & (gauges::UNSEEN_WORDS - 1))
}
