//! Fragments: each goes the way of the first one of its datagram.
//!
//! Linux reassembles before it tracks. A program at XDP can hold nothing back, so what is known of a
//! datagram is remembered instead (`datagram`): what became of its first fragment, and which parts
//! of it were seen. The first fragment is tracked and judged as a packet is, by the transport header
//! that it must hold whole; later ones follow it without being judged again.
//!
//! **What is safe about it.** No datagram can be put together without its first fragment, and each
//! of those was judged by all that the rules look at. Nothing that comes later can write over
//! what was judged: a fragment that begins within the transport header, or that overlaps another, is
//! dropped before any rule sees it, whatever the rules say of INVALID packets, and with it all that
//! is left of its datagram. So fragments that pass make up what the rules let through, or nothing. (A datagram
//! that had to be forgotten before it was whole can be overlapped beyond its transport header. Receivers
//! throw such ones away: RFC 5722, and Linux for IPv4 too.)
//!
//! **A later fragment that comes ahead of its first one** is INVALID (`fragment_without_ports`) and the
//! rules see it, unless the last datagram in fragments of the same sender, receiver and protocol was let
//! through a moment ago, none of it twice (`sender`): then it passes, in the state of that one. The datagram
//! is complete only with its first fragment, which will be judged.
//!
//! **What cannot be seen in flight**: whether the rest ever comes, and whether the checksum of the whole is right. The
//! fragment that completes a datagram answers for it (`whole`): it is INVALID
//! (`fragment_bad_datagram`) where Linux would call the whole so, and without it there is none.

mod bucket;
mod datagram;
mod decision;
mod runs;
mod sender;
mod whole;

pub use self::bucket::sweep;
pub(crate) use self::datagram::Datagram;

use self::datagram::Admission;
use self::decision::Decision;
use self::whole::{Share, Whole};
use crate::account;
use crate::conntrack::tcp;
use crate::host::{Host, Packet};
use crate::judge::Judgement;
use crate::policy::NO_RULE;
use crate::process::{self, Outcome, Run, Scratch, Stage};
use crate::raw;
use crate::trace::Step;
use crate::track::{self, Flow, Purpose, Sight, Tracked, WarmUse};
use crate::tuple::Direction;
use crate::verdict::{Reason, State, Verdict};
use crate::wire;
use crate::wire::transport::TCP;

/// Finds the datagram of a fragment, and what becomes of the fragment.
#[inline(always)]
pub(crate) fn enter<P: Packet, H: Host>(run: &Run<'_, P, H>, scratch: &mut Scratch) -> Stage {
    let Scratch { info, datagram, .. } = scratch;
    if let Err(reason) = wire::fragment::read(run.packet, info, &mut datagram.piece) {
        return refuse(run.host, scratch, reason);
    }
    let settings = run.host.settings();
    datagram.name(info, run.arrival, settings);
    datagram.share = Share::of(run.packet, info, run.arrival, settings, datagram);
    if scratch.datagram.is_first() && sender::is_flooding(run.host, &scratch.datagram, run.now) {
        return refuse(run.host, scratch, Reason::FragmentFlood);
    }
    match datagram::admit(run.host, scratch) {
        Admission::First => Stage::First,
        Admission::Later => {
            sender::goes_on(run.host, &scratch.datagram);
            show_ports(scratch);
            if matches!(scratch.datagram.whole, Whole::Faulty) {
                return to_rules(run.host, scratch, Reason::FragmentBadDatagram);
            }
            follow(run, scratch)
        }
        Admission::Ahead => ahead(run, scratch),
        Admission::Orphan => to_rules(run.host, scratch, Reason::FragmentWithoutPorts),
        Admission::Refused(reason) => refuse(run.host, scratch, reason),
    }
}

/// Reads the transport header of a first fragment and goes on with it as with any packet.
#[inline(always)]
pub(crate) fn begin<P: Packet, H: Host>(run: &Run<'_, P, H>, scratch: &mut Scratch) -> Stage {
    // What came ahead of it counts as its own: TCP's end is where the bytes end.
    let ahead = scratch
        .datagram
        .reach
        .saturating_sub(scratch.datagram.piece.end);
    scratch.info.transport_length += ahead;
    wire::read_first_fragment(run.packet, run.host, &mut scratch.info);
    if matches!(scratch.datagram.whole, Whole::Faulty) && scratch.info.damage.is_none() {
        scratch.info.damage = Some(Reason::FragmentBadDatagram);
    }
    run.host.trace(Step::Parsed(scratch.info));
    let stage = track::name(run, scratch);
    raw::before(run.host, scratch, stage)
}

/// Remembers what became of a first fragment.
#[inline(always)]
pub(crate) fn settle<H: Host>(host: &H, scratch: &Scratch) -> Stage {
    if matches!(scratch.datagram.seen_before, SeenBefore::Yes) {
        return Stage::Done;
    }
    let decision = Decision::of(scratch, host.policy().epoch);
    datagram::decide(host, &scratch.datagram, &decision);
    sender::begins(host, &scratch.datagram, &decision, scratch.now);
    Stage::Done
}

/// A later fragment goes the way of its first one.
#[inline(always)]
fn follow<P: Packet, H: Host>(run: &Run<'_, P, H>, scratch: &mut Scratch) -> Stage {
    let decision = scratch.datagram.decision;
    let is_clean =
        matches!(decision.verdict, Verdict::Accept) && !matches!(decision.state, State::Invalid);
    let reason = if is_clean {
        None
    } else {
        Some(Reason::FragmentOfRefused)
    };
    scratch.tracked = Tracked {
        state: decision.state,
        reason,
        flow: match decision.direction {
            Some(direction) => Flow::Passing(direction),
            None => Flow::None,
        },
    };
    scratch.judgement = Judgement {
        verdict: decision.verdict,
        reason,
        hook: decision.hook,
        rule: decision.rule,
        cacheable: None,
    };
    scratch.info.damage = None;
    scratch.info.tcp_sequence = decision.sequence.wrapping_add(scratch.datagram.reach);
    run.host.trace(Step::Parsed(scratch.info));
    scratch.purpose = Purpose::Fragment;
    scratch.zone = decision.zone;
    let is_of_flow = decision.direction.is_some() && track::name_flow(run, scratch).is_ok();
    if !is_of_flow {
        scratch.tracked.flow = Flow::None;
    }
    if matches!(scratch.datagram.seen_before, SeenBefore::Yes) {
        sender::repeats(run.host, &scratch.datagram);
        scratch.tracked.reason = Some(Reason::FragmentDuplicate);
        scratch.judgement.verdict = Verdict::Drop;
        return Stage::Conclude;
    }
    if decision.rule != NO_RULE && decision.epoch == run.host.policy().epoch {
        run.host.count_rule(decision.rule, scratch.info.ip_length);
    }
    if is_of_flow {
        Stage::Look
    } else {
        Stage::Conclude
    }
}

/// Counts a later fragment to its flow. Its `tcp_sequence` is where the bytes seen so far end.
#[inline(always)]
pub(crate) fn join<H: Host>(host: &H, scratch: &mut Scratch, sight: Sight) {
    if let (Sight::Found, Some(direction)) = (sight, scratch.tracked.direction()) {
        host.trace(Step::Found(scratch.record, direction));
        scratch.tracked.flow = Flow::Known(direction);
        if !matches!(scratch.tracked.state, State::Invalid) {
            if scratch.info.protocol == TCP {
                tcp::reach(&mut scratch.record, direction, scratch.info.tcp_sequence);
                scratch.uses_warm = WarmUse::No;
                // Lost against another CPU: an acknowledgement of this may then be INVALID.
                let _ = track::write_back(host, scratch);
            }
            let place = scratch.seen.place;
            account::count_packet(host, place, direction, scratch.info.ip_length);
        }
    }
}

/// A later fragment whose first one has not come, or is being judged.
#[inline(always)]
fn ahead<P: Packet, H: Host>(run: &Run<'_, P, H>, scratch: &mut Scratch) -> Stage {
    let Some(expected) = sender::expects(run.host, &scratch.datagram, run.now) else {
        return to_rules(run.host, scratch, Reason::FragmentWithoutPorts);
    };
    run.host.trace(Step::Parsed(scratch.info));
    scratch.tracked = Tracked {
        state: expected.state,
        reason: None,
        flow: Flow::None,
    };
    scratch.judgement = Judgement {
        hook: expected.hook,
        ..Judgement::NOTHING
    };
    Stage::Conclude
}

/// A later fragment has the ports of its first one.
#[inline(always)]
fn show_ports(scratch: &mut Scratch) {
    let ports = scratch.datagram.decision.ports;
    scratch.info.source_port = (ports >> 16) as u16;
    scratch.info.destination_port = ports as u16;
}

/// The rules see the fragment as an INVALID one.
#[inline(always)]
fn to_rules<H: Host>(host: &H, scratch: &mut Scratch, reason: Reason) -> Stage {
    scratch.info.damage = Some(reason);
    scratch.mark = host.mark();
    host.trace(Step::Parsed(scratch.info));
    scratch.tracked = Tracked {
        state: State::Invalid,
        reason: Some(reason),
        flow: Flow::None,
    };
    Stage::Judge
}

/// Dropped, whatever the rules say of INVALID packets: Linux's reassembly does not show them either.
#[inline(always)]
fn refuse<H: Host>(host: &H, scratch: &mut Scratch, reason: Reason) -> Stage {
    scratch.info.damage = Some(reason);
    host.trace(Step::Parsed(scratch.info));
    scratch.outcome = Outcome::refused(reason);
    process::tell_refusal(host, scratch);
    Stage::Done
}

/// Whether what a fragment holds was in another one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum SeenBefore {
    No = 0,
    Yes = 1,
}

/// The way of a datagram in its flow, for [`Decision`].
const fn direction_of(scratch: &Scratch) -> Option<Direction> {
    match scratch.outcome.flow {
        Some(_) => scratch.outcome.direction,
        None => None,
    }
}
