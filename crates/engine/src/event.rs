//! What the engine tells whoever listens: a fixed-size record for a ring buffer.

use crate::conntrack::{self, tcp};
use crate::host::Host;
use crate::process::Scratch;
use crate::verdict::Reason;

/// What happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum EventKind {
    /// A record was made.
    New = 1,
    /// A record's protocol state, or SEEN_REPLY, or ASSURED changed.
    Update = 2,
    /// A record was removed by a packet: one of its flow (a reset of an unanswered connection,
    /// reuse), or one of another flow for which it made room.
    Destroy = 3,
    /// A packet was dropped, or was INVALID.
    Drop = 4,
    /// A helper expects a flow. Key and control word are those of the flow that it belongs to and of
    /// the expectation, `side` is who began that flow, and [`Event::detail`] says what is expected.
    Expected = 5,
    /// An expectation has ended: it was met, or another took its place.
    Unexpected = 6,
    /// A packet whose turn it was, see [`crate::sample`].
    Sample = 7,
}

/// Which events are told of a flow, where a rule has chosen some (`CT --ctevents`, `--expevents`). Linux has
/// three more that never happen here: of the helper, of sequence numbers and of SELinux.
pub mod told {
    pub const NEW: u8 = 1 << 0;
    /// As [`NEW`], of a flow that was expected.
    pub const RELATED: u8 = 1 << 1;
    pub const DESTROY: u8 = 1 << 2;
    /// SEEN_REPLY was set.
    pub const REPLY: u8 = 1 << 3;
    pub const ASSURED: u8 = 1 << 4;
    /// The protocol's state changed.
    pub const PROTOCOL: u8 = 1 << 5;
    pub const MARK: u8 = 1 << 6;
    /// The flow expects another.
    pub const EXPECTED: u8 = 1 << 7;
    /// What a rule cannot choose is not told where it has chosen anything.
    pub const OTHER: u8 = 0;
}

/// One event. Without padding: it crosses from the kernel as bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Event {
    /// Key of the flow, see [`crate::tuple::FlowKey`]; for a drop without a flow, of the packet.
    pub key: [u64; 5],
    /// Control word of the record, see [`crate::record`]; zero without one. For a segment out of
    /// window, which tells of a packet and not of a record: its acknowledgement, and in the lower
    /// half the highest that may be acknowledged.
    pub control: u64,
    /// [`EventKind`].
    pub kind: u8,
    /// 0 for IPv4, 1 for IPv6.
    pub family: u8,
    /// [`crate::verdict::Reason`], zero for none.
    pub reason: u8,
    /// [`crate::verdict::State`].
    pub state: u8,
    /// [`crate::verdict::Verdict`].
    pub verdict: u8,
    /// [`crate::verdict::Hook`].
    pub hook: u8,
    /// [`crate::tuple::Side`] that sent the packet.
    pub side: u8,
    /// Number of the flow's [`crate::helper`], zero for none; not told of a flow that ends.
    pub helper: u8,
    /// Rule that decided, [`crate::policy::NO_RULE`] for none.
    pub rule: u32,
    /// Length of the packet in bytes.
    pub length: u32,
    /// For a segment out of window: sequence number, end, and the bounds it was held against, the
    /// lower first. The lower bound of a RST is what its receiver has acknowledged. For an
    /// expectation: ports of source (high) and destination, protocol, flags (bits 0-7) and which
    /// side of the master the destination is (bit 8), and one more than the number of its place where it
    /// was made by hand, for whose addresses there is no room here; else zero. For a record that was made, or
    /// whose labels have changed: these. Of no meaning for one that ends.
    pub detail: [u32; 4],
}

const _: () = assert!(size_of::<Event>() == 80);

/// Tells of a packet that was dropped or is INVALID.
#[cfg_attr(target_arch = "bpf", inline(never))]
#[cfg_attr(not(target_arch = "bpf"), inline)]
pub(crate) fn tell_refusal<H: Host>(host: &H, scratch: &Scratch, reason: Reason) {
    let outcome = &scratch.outcome;
    let info = &scratch.info;
    let oriented = conntrack::tuple_of(info, 0).orient();
    let (detail, control) = match scratch.tracked.direction() {
        Some(direction) => tcp::arithmetic(reason, info, direction, &scratch.record),
        None => ([0; 4], 0),
    };
    host.emit(&Event {
        key: oriented.key.words,
        control,
        detail,
        kind: EventKind::Drop as u8,
        family: info.family as u8,
        reason: reason as u8,
        state: outcome.state as u8,
        verdict: outcome.verdict as u8,
        hook: outcome.hook.map_or(0, |hook| hook as u8),
        side: oriented.side as u8,
        rule: outcome.rule,
        length: info.ip_length,
        ..Event::default()
    });
}
