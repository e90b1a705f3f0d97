//! What targets do that let the walk go on.

use super::{CAPTURE_WHOLE, Held, flow, kind};
use crate::host::{FlowMemory, Host, Packet, Words};
use crate::limits::{CONDITION_TRIES_MAX, LOG_BYTES, NOTICE_BYTES_MAX};
use crate::notice::{self, NoticeKind};
use crate::policy::Condition;
use crate::process::{Run, Scratch};
use crate::track::Flow;

/// Does it, and holds.
#[cfg_attr(target_arch = "bpf", inline(never))]
#[cfg_attr(not(target_arch = "bpf"), inline)]
pub(super) fn act<P: Packet, H: Host>(
    run: &Run<'_, P, H>,
    scratch: &mut Scratch,
    condition: &Condition,
) -> Held {
    let [first, second, ..] = condition.data;
    match condition.kind {
        kind::LOG => notice::send(run, scratch, (NoticeKind::Log, first), LOG_BYTES),
        kind::CAPTURE => {
            let bytes = match second {
                CAPTURE_WHOLE => NOTICE_BYTES_MAX,
                bytes => bytes,
            };
            notice::send(run, scratch, (NoticeKind::Capture, first), bytes);
        }
        kind::SET_MARK => scratch.mark = (scratch.mark & !first) ^ second,
        kind::SET_FLOW_MARK => set_flow_mark(run.host, scratch, first, second),
        kind::SAVE_MARK => {
            let mark = scratch.mark & first;
            set_flow_mark(run.host, scratch, second, mark);
        }
        _ => {
            if flow::originator(scratch).is_some() {
                let mark = flow::mark(run.host, scratch) & second;
                scratch.mark = (scratch.mark & !first) ^ mark;
            }
        }
    }
    Held::Yes
}

/// Clears some bits of the flow's mark and turns over others. The mark shares a word with what the TCP
/// machine keeps there, so it is exchanged as long as another packet comes in between.
#[inline(always)]
fn set_flow_mark<H: Host>(host: &H, scratch: &mut Scratch, clear: u32, flip: u32) {
    if flow::originator(scratch).is_none() {
        return;
    }
    if matches!(scratch.tracked.flow, Flow::Begins) {
        scratch.warm.mark = (scratch.warm.mark & !clear) ^ flip;
        return;
    }
    let place = scratch.seen.place;
    let family = scratch.oriented.key.family;
    let Some(words) = host.flows().warm(family, place.bucket, place.slot) else {
        return;
    };
    for _ in 0..CONDITION_TRIES_MAX {
        let old = words.load(0);
        let mark = ((old >> 32) as u32 & !clear) ^ flip;
        let new = (u64::from(mark) << 32) | (old & 0xffff_ffff);
        if new == old || words.compare_exchange(0, old, new) == old {
            return;
        }
    }
}
