//! What targets do that let the walk go on.

use super::{CAPTURE_WHOLE, Held, SHIFT_RIGHT, flow, kind};
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
    let [first, second, shift, ..] = condition.data;
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
        kind::SET_FLOW_MARK => set_flow_mark(run.host, scratch, [first, second, shift]),
        kind::SAVE_MARK => {
            let mark = shifted(scratch.mark & first, shift);
            set_flow_mark(run.host, scratch, [second, mark, 0]);
        }
        _ => {
            if flow::originator(scratch).is_some() {
                let mark = shifted(flow::mark(run.host, scratch) & second, shift);
                scratch.mark = (scratch.mark & !first) ^ mark;
            }
        }
    }
    Held::Yes
}

/// By [`SHIFT_RIGHT`] and a number of bits.
#[inline(always)]
const fn shifted(mark: u32, shift: u32) -> u32 {
    let bits = shift & 31;
    if shift & SHIFT_RIGHT == 0 {
        mark << bits
    } else {
        mark >> bits
    }
}

/// Clears some bits of the flow's mark, turns over others, and shifts the whole. The mark shares a word with what the TCP
/// machine keeps there, so it is exchanged as long as another packet comes in between.
#[inline(always)]
fn set_flow_mark<H: Host>(host: &H, scratch: &mut Scratch, how: [u32; 3]) {
    let [clear, flip, shift] = how;
    if flow::originator(scratch).is_none() {
        return;
    }
    if matches!(scratch.tracked.flow, Flow::Begins) {
        scratch.warm.mark = shifted((scratch.warm.mark & !clear) ^ flip, shift);
        return;
    }
    let place = scratch.seen.place;
    let family = scratch.oriented.key.family;
    let Some(words) = host.flows().warm(family, place.bucket, place.slot) else {
        return;
    };
    for _ in 0..CONDITION_TRIES_MAX {
        let old = words.load(0);
        let mark = shifted(((old >> 32) as u32 & !clear) ^ flip, shift);
        let new = (u64::from(mark) << 32) | (old & 0xffff_ffff);
        if new == old || words.compare_exchange(0, old, new) == old {
            return;
        }
    }
}
