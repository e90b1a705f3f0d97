//! Events of flows, told to whoever listens.

use crate::event::{Event, EventKind, told};
use crate::host::Host;
use crate::labels;
use crate::process::Scratch;
use crate::record::{ASSURED, Control, SEEN_REPLY};
use crate::settings::SETTING_FLOW_EVENTS;
use crate::table::Displaced;
use crate::tuple::FlowKey;

/// Tells of the records that an insert took out.
#[inline(always)]
pub(crate) fn emit_displaced<H: Host>(host: &H, scratch: &Scratch) {
    let Displaced {
        key,
        control,
        predecessor,
    } = &scratch.displaced;
    if control.0 != 0 && host.settings().has(SETTING_FLOW_EVENTS) {
        emit_of(host, EventKind::Destroy, key, scratch, *control);
    }
    if predecessor.0 != 0 && host.settings().has(SETTING_FLOW_EVENTS) {
        emit_of(
            host,
            EventKind::Destroy,
            &scratch.oriented.key,
            scratch,
            *predecessor,
        );
    }
}

/// Which events a change of a record is.
pub(crate) const fn changed(status: u8, state: bool) -> u8 {
    let mut events = if state { told::PROTOCOL } else { told::OTHER };
    if status & SEEN_REPLY != 0 {
        events |= told::REPLY;
    }
    if status & ASSURED != 0 {
        events |= told::ASSURED;
    }
    events
}

/// Tells of the packet's flow, if somebody listens and the flow tells any of these events.
#[inline(always)]
pub(crate) fn emit<H: Host>(
    host: &H,
    kind: EventKind,
    scratch: &Scratch,
    control: Control,
    events: u8,
) {
    if host.settings().has(SETTING_FLOW_EVENTS) && scratch.given.tells(events) {
        emit_of(host, kind, &scratch.oriented.key, scratch, control);
    }
}

#[cfg_attr(target_arch = "bpf", inline(never))]
#[cfg_attr(not(target_arch = "bpf"), inline)]
fn emit_of<H: Host>(host: &H, kind: EventKind, key: &FlowKey, scratch: &Scratch, control: Control) {
    host.emit(&Event {
        key: key.words,
        control: control.0,
        kind: kind as u8,
        family: key.family as u8,
        side: scratch.oriented.side as u8,
        helper: match kind {
            EventKind::Destroy => 0,
            _ => scratch.given.helper(),
        },
        rule: crate::policy::NO_RULE,
        length: scratch.info.ip_length,
        detail: labels::told_as(&scratch.labels),
        ..Event::default()
    });
}
