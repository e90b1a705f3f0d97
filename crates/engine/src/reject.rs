//! What REJECT answers: whether a packet is answered at all, how often, and with which bytes.
//!
//! Programs decide the first two and hand the packet over; [`build`] makes the answer of it in user space,
//! the same in both planes. It is what Linux's nf_reject_ipv4 and nf_reject_ipv6 send.

mod build;

pub use build::{Answer, build, needs_source};

use crate::host::{FlowMemory, Header, Host, Packet, Words};
use crate::limits::{
    ANSWER_ERRORS_BURST, ANSWER_PEERS, ANSWER_RESETS_PER_SECOND, ANSWER_TRIES_MAX,
    ANSWERS_PER_SECOND, NOTICE_BYTES_MAX,
};
use crate::notice::{self, NoticeKind};
use crate::process::{Path, Run, Scratch, Stage};
use crate::tuple::{Address, Family};
use crate::verdict::Reason;
use crate::wire::transport::{ICMP, ICMPV6, TCP, tcp_flag};
use crate::wire::{Fragment, Link, PacketInfo};

/// Number of an answer: a TCP reset. Others are codes of "destination unreachable", ICMP type 3 (RFC 792)
/// and ICMPv6 type 1 (RFC 4443 section 3.1).
pub const RESET: u32 = 255;

/// Code 1 of ICMPv6: communication is prohibited.
pub const ADMIN_PROHIBITED_V6: u32 = 1;

/// Hands a rejected packet over to be answered, if it may be; what comes next.
#[inline(always)]
pub(crate) fn ask<P: Packet, H: Host>(run: &Run<'_, P, H>, scratch: &mut Scratch) -> Stage {
    let rule = run.host.rule(scratch.judgement.rule);
    let number = rule.map_or(0, |rule| rule.assigned.0 as u32);
    if !is_answered(run, &scratch.info, number) {
        scratch.judgement.reason = Some(Reason::RejectSilent);
    } else if !is_allowed(run, scratch, number) {
        scratch.judgement.reason = Some(Reason::RejectLimited);
    } else {
        notice::send(run, scratch, (NoticeKind::Answer, number), NOTICE_BYTES_MAX);
    }
    Stage::Conclude
}

/// Whether a packet is of a kind that is answered (RFC 1122 section 3.2.2, RFC 4443 section 2.4 e).
#[inline(always)]
fn is_answered<P: Packet, H: Host>(run: &Run<'_, P, H>, info: &PacketInfo, number: u32) -> bool {
    let is_sound = matches!(info.damage, None | Some(Reason::TcpBadFlags));
    if !is_sound || !matches!(info.fragment, Fragment::Whole) {
        return false;
    }
    if number == RESET && (info.protocol != TCP || info.tcp_flags & tcp_flag::RST != 0) {
        return false;
    }
    !is_icmp_error(info) && is_between_two(info) && !is_frame_for_many(run)
}

/// Whether a packet is an ICMP error, or of a type that is not known.
#[inline(always)]
const fn is_icmp_error(info: &PacketInfo) -> bool {
    let kind = info.destination_port >> 8;
    match info.protocol {
        ICMP => matches!(kind, 3..=5 | 11 | 12 | 19..),
        ICMPV6 => kind < 128 || kind == REDIRECT_V6,
        _ => false,
    }
}

const REDIRECT_V6: u16 = 137;

/// Whether both addresses are those of one host.
#[inline(always)]
fn is_between_two(info: &PacketInfo) -> bool {
    let [source, .., source_end] = info.source;
    let [destination, ..] = info.destination;
    match info.family {
        Family::V4 => {
            let many = |address: u32| address >> 28 == 0xe || address == u32::MAX;
            source != 0 && !many(source) && !many(destination)
        }
        Family::V6 => {
            let [_, b, c, _] = info.source;
            let is_none = source | b | c | source_end == 0;
            !is_none && source >> 24 != 0xff && destination >> 24 != 0xff
        }
    }
}

/// Whether the frame was sent to more than one: then so was a packet whose address does not tell, a
/// broadcast of the network.
#[inline(always)]
fn is_frame_for_many<P: Packet, H: Host>(run: &Run<'_, P, H>) -> bool {
    if !matches!(run.arrival.path, Path::Ingress) || !matches!(run.arrival.link, Link::Ethernet) {
        return false;
    }
    run.packet
        .header(0, 6)
        .is_none_or(|header| header.u8(0) & 1 != 0)
}

/// Milliseconds between two answers, and those that may be ahead of their time.
#[derive(Clone, Copy)]
struct Rate {
    interval: u64,
    ahead: u64,
}

const ALL: Rate = Rate {
    interval: 1000 / ANSWERS_PER_SECOND as u64,
    ahead: 999,
};

const ERRORS: Rate = Rate {
    interval: 1000,
    ahead: (ANSWER_ERRORS_BURST as u64 - 1) * 1000,
};

const RESETS: Rate = Rate {
    interval: 1000 / ANSWER_RESETS_PER_SECOND as u64,
    ahead: 999,
};

/// Counts an answer; `false` when there were too many. The peer's rate comes first: what it refuses does
/// not count for the others.
#[inline(always)]
fn is_allowed<P: Packet, H: Host>(run: &Run<'_, P, H>, scratch: &mut Scratch, number: u32) -> bool {
    let hertz = run.host.hertz();
    if hertz == 0 {
        return false;
    }
    let now = run.host.jiffies(run.now) * 1000 / hertz as u64;
    let is_reset = number == RESET;
    let rate = if is_reset { RESETS } else { ERRORS };
    let peer = 1 + peer_of(run.host, &scratch.info.source, is_reset);
    count(run.host, peer, now, rate) && count(run.host, 0, now, ALL)
}

/// A word holds the time at which all that was answered has become due.
#[inline(always)]
fn count<H: Host>(host: &H, index: u32, now: u64, rate: Rate) -> bool {
    let Some(word) = host.flows().answer_rate(index) else {
        return false;
    };
    for _ in 0..ANSWER_TRIES_MAX {
        let old = word.load(0);
        let due = if old > now { old } else { now };
        if due - now > rate.ahead {
            return false;
        }
        if word.compare_exchange(0, old, due + rate.interval) == old {
            return true;
        }
    }
    false
}

/// A number below [`ANSWER_PEERS`] for an address, which strangers cannot foresee.
#[inline(always)]
fn peer_of<H: Host>(host: &H, address: &Address, is_reset: bool) -> u32 {
    let [a, b, c, d] = *address;
    let [k0, k1, k2, k3, k4, ..] = host.settings().hash_keys;
    let mix = |word: u32, key: u32, key2: u32| {
        (word.wrapping_add(key) as u64).wrapping_mul((key2 | 1) as u64)
    };
    let sum = mix(a, k0, k1)
        .wrapping_add(mix(b, k1, k2))
        .wrapping_add(mix(c, k2, k3))
        .wrapping_add(mix(d, k3, k4))
        .wrapping_add(is_reset as u64)
        .wrapping_mul(0x9e37_79b9_7f4a_7c15);
    (sum >> 40) as u32 & (ANSWER_PEERS - 1)
}
