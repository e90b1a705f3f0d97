//! Samples of the packets that floods are made of: those that begin flows, that no flow answers, and that are
//! refused. Never the packets of flows that are established.
//!
//! One packet in so many is told of, by chance, as an [`Event`]; so the cost of a flood stays the
//! same however large it is. The daemon says one in how many, and counts each for as many.

use crate::conntrack;
use crate::cookie;
use crate::event::{Event, EventKind};
use crate::host::Host;
use crate::process::Scratch;
use crate::settings::SETTING_SAMPLES;
use crate::tuple::Direction;
use crate::verdict::State;
use crate::wire::Fragment;
use crate::wire::transport::TCP;

/// What a packet was, for whoever counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Noted {
    /// Let through; its flow begins, or was never answered.
    New = 1,
    /// The first answer of its flow.
    Replied = 2,
    /// It made its flow ASSURED: for TCP the end of the handshake.
    Completed = 3,
    /// Dropped or INVALID, for the reason that the event has.
    Refused = 4,
}

impl Noted {
    pub const fn from_number(number: u8) -> Option<Self> {
        match number {
            1 => Some(Self::New),
            2 => Some(Self::Replied),
            3 => Some(Self::Completed),
            4 => Some(Self::Refused),
            _ => None,
        }
    }
}

/// [`Event::detail`] of a sample: what it was (bits 0-7), the TCP flags (8-15), what of its datagram it is (16-23,
/// [`crate::wire::Fragment`]), and whether it went against its flow's direction (bit 24); then how many
/// packets it stands for, its TTL or hop limit, and the sequence number of a TCP segment.
pub const AGAINST: u32 = 1 << 24;

/// Without options.
const TCP_HEADER_BYTES: u32 = 20;

/// Notes a packet, if its turn has come.
#[inline(always)]
pub(crate) fn note<H: Host>(host: &H, scratch: &Scratch, noted: Noted) {
    if host.settings().has(SETTING_SAMPLES) {
        draw(host, scratch, noted, host.random());
    }
}

/// As [`note`], of a SYN that was answered. Its cookie is as good as a random number, and costs nothing more; but its low
/// bits hold the segment size.
#[inline(always)]
pub(crate) fn note_answered<H: Host>(host: &H, scratch: &Scratch, cookie: u32) {
    if host.settings().has(SETTING_SAMPLES) {
        let random = cookie.swap_bytes() ^ cookie >> 8;
        draw(host, scratch, Noted::Refused, random);
    }
}

#[inline(always)]
fn draw<H: Host>(host: &H, scratch: &Scratch, noted: Noted, random: u32) {
    if random & host.settings().samples.mask == 0 {
        tell(host, scratch, noted);
    }
}

/// As [`note`], of a packet whose way has ended: what it was to whoever counts new flows.
#[inline(always)]
pub(crate) fn note_passed<H: Host>(host: &H, scratch: &Scratch) {
    if scratch.outcome.reason.is_some() {
        return;
    }
    match (scratch.cookie, scratch.outcome.state) {
        (cookie::Part::Proven, _) => note(host, scratch, Noted::Completed),
        (_, State::New) => note(host, scratch, Noted::New),
        _ => {}
    }
}

#[cfg_attr(target_arch = "bpf", inline(never))]
fn tell<H: Host>(host: &H, scratch: &Scratch, noted: Noted) {
    let Scratch { info, outcome, .. } = scratch;
    let oriented = conntrack::tuple_of(info, 0).orient();
    let has_flags = info.protocol == TCP
        && !matches!(info.fragment, Fragment::Later)
        && info.transport_length >= TCP_HEADER_BYTES;
    let flags = if has_flags { info.tcp_flags } else { 0 };
    let mut what = noted as u32 | (flags as u32) << 8 | (info.fragment as u32) << 16;
    // Of a packet that was refused before its flow was looked for, an earlier one has left zone and direction.
    let is_progress = matches!(noted, Noted::Replied | Noted::Completed);
    if is_progress && matches!(scratch.tracked.direction(), Some(Direction::Reply)) {
        what |= AGAINST;
    }
    let mut event = Event {
        key: oriented.key.words,
        kind: EventKind::Sample as u8,
        family: info.family as u8,
        side: oriented.side as u8,
        length: info.ip_length,
        detail: [
            what,
            host.settings().samples.mask.wrapping_add(1),
            info.hop_limit.into(),
            info.tcp_sequence,
        ],
        ..Event::default()
    };
    // Progress is noted before there is an outcome.
    if matches!(noted, Noted::New | Noted::Refused) {
        event.reason = outcome.reason.map_or(0, |reason| reason as u8);
        event.state = outcome.state as u8;
        event.verdict = outcome.verdict as u8;
        event.hook = outcome.hook.map_or(0, |hook| hook as u8);
        event.rule = outcome.rule;
    }
    host.emit(&event);
}
