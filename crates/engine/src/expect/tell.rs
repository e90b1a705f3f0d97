//! Events of expectations.

use super::{
    BY_HAND, ExpectationControl, QUIET_END, WORD_DESTINATION, WORD_KIND, WORD_MASTER, WORD_NAME,
};
use crate::event::{Event, EventKind};
use crate::host::{Host, Words};
use crate::policy::NO_RULE;
use crate::settings::SETTING_FLOW_EVENTS;

/// Tells of an expectation.
#[cfg_attr(target_arch = "bpf", inline(never))]
#[cfg_attr(not(target_arch = "bpf"), inline)]
pub(super) fn tell<H: Host, W: Words>(
    host: &H,
    kind: EventKind,
    words: W,
    control: u64,
    index: u32,
) {
    if !host.settings().has(SETTING_FLOW_EVENTS) {
        return;
    }
    let (name, traits) = (words.load(WORD_NAME), words.load(WORD_KIND));
    if matches!(kind, EventKind::Unexpected) && traits & QUIET_END as u64 != 0 {
        return;
    }
    let family = (name >> 24) as u8;
    let first = words.load(WORD_MASTER + 1);
    let destination = words.load(WORD_DESTINATION);
    let is_first = match family {
        0 => first >> 32 == destination >> 32,
        _ => {
            first == destination && words.load(WORD_MASTER + 2) == words.load(WORD_DESTINATION + 1)
        }
    };
    host.emit(&Event {
        key: [
            words.load(WORD_MASTER),
            first,
            words.load(WORD_MASTER + 2),
            words.load(WORD_MASTER + 3),
            words.load(WORD_MASTER + 4),
        ],
        control,
        kind: kind as u8,
        family,
        side: (traits >> 8) as u8 & 1,
        helper: ExpectationControl(control).helper(),
        rule: NO_RULE,
        detail: [
            (name >> 48 << 16) as u32 | (name >> 32) as u32 & 0xffff,
            name as u32 & 0xff,
            traits as u32 & 0xff | (!is_first as u32) << 8,
            match traits & BY_HAND as u64 {
                0 => 0,
                _ => index.wrapping_add(1),
            },
        ],
        ..Event::default()
    });
}
