//! Packets, bytes and start time of a flow, where they are wanted.

use crate::host::{FlowMemory, Host, Words};
use crate::settings::{SETTING_ACCOUNTING, SETTING_ACCOUNTING_ENDS, SETTING_TIMESTAMP};
use crate::table::{NOT_COUNTED, Opening, Place};
use crate::tuple::Direction;

/// Asks for the words that [`count_packet`] will write.
#[inline(always)]
pub(crate) fn prefetch<H: Host>(host: &H, place: Place) {
    if !host.settings().has(SETTING_ACCOUNTING) {
        return;
    }
    let words = host
        .flows()
        .accounting(place.family, place.bucket, place.slot);
    if let Some(words) = words {
        if cfg!(target_arch = "bpf") {
            // Programs have no instruction that only asks.
            core::hint::black_box(words.load(0));
        } else {
            // The words of one slot may lie in two lines.
            words.prefetch(0);
            words.prefetch(3);
        }
    }
}

#[inline(always)]
pub(crate) fn count_packet<H: Host>(host: &H, place: Place, direction: Direction, bytes: u32) {
    if !host.settings().has(SETTING_ACCOUNTING) {
        return;
    }
    let Some(words) = host
        .flows()
        .accounting(place.family, place.bucket, place.slot)
    else {
        return;
    };
    let at = direction as u32 * 2;
    words.add(at, 1);
    words.add(at + 1, u64::from(bytes));
}

/// What a record begins with whose first packet is this long.
#[inline(always)]
pub(crate) fn opening<H: Host>(host: &H, bytes: u32) -> Opening {
    let mut opening = Opening::NONE;
    let flags = host.settings().flags & (SETTING_ACCOUNTING | SETTING_ACCOUNTING_ENDS);
    if flags == SETTING_ACCOUNTING {
        opening.packets = 1;
        opening.bytes = u64::from(bytes);
    } else {
        // It gets no counters though there is room for them: what is turned on later counts the
        // flows of later.
        opening.packets = NOT_COUNTED;
    }
    if host.settings().has(SETTING_TIMESTAMP) {
        opening.start = host.wall_clock();
    }
    opening
}
