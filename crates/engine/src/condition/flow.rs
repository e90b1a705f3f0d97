//! Conditions on the flow of a packet.

use super::header::{masked, within};
use super::{Held, flag, flow_counted, flow_status, kind};
use crate::asked::Asker;
use crate::host::{FlowMemory, Host, Packet, Words};
use crate::labels;
use crate::policy::Condition;
use crate::process::{Run, Scratch};
use crate::record::{ASSURED, EXPECTED, SEEN_REPLY, Warm};
use crate::table::NOT_COUNTED;
use crate::track::Flow;
use crate::tuple::{Address, Direction, Family, Side, is_icmp};
use crate::verdict::State;

#[cfg_attr(target_arch = "bpf", inline(never))]
#[cfg_attr(not(target_arch = "bpf"), inline)]
pub(super) fn ask<P: Packet, H: Host>(
    run: &Run<'_, P, H>,
    scratch: &mut Scratch,
    condition: &Condition,
) -> Held {
    let Some(originator) = originator(scratch) else {
        if condition.kind == kind::FLOW_LABEL {
            // What has no flow has no label, in Linux too.
            return Held::No;
        }
        // The contrary of a match of states alone, which does hold.
        let is_with_state = condition.flags & flag::WITH_STATE != 0;
        return match (is_with_state, condition.flags & flag::NOT != 0) {
            (false, _) => Held::Neither,
            (true, false) => Held::Yes,
            (true, true) => Held::No,
        };
    };
    let [first, second, ..] = condition.data;
    match condition.kind {
        kind::FLOW_MARK => masked(mark(run.host, scratch), condition),
        kind::FLOW_PROTOCOL => Held::of(u32::from(scratch.oriented.key.protocol()) == first),
        kind::FLOW_ADDRESS => Held::of(address(scratch, originator, condition)),
        kind::FLOW_PORT => within(u32::from(port(scratch, originator, condition)), condition),
        kind::FLOW_STATUS => Held::of(status(scratch) & first != 0),
        kind::FLOW_EXPIRY => {
            // In Linux a flow's time begins to run with the end of its first packet's way.
            let left = if matches!(scratch.tracked.flow, Flow::Begins) {
                0
            } else {
                scratch.record.deadline.seconds_left(run.now)
            };
            within(left, condition)
        }
        kind::FLOW_DIRECTION => {
            let direction = scratch.tracked.direction();
            Held::of(direction.is_some_and(|direction| direction as u32 == first))
        }
        kind::FLOW_HELPER => {
            let helper = u32::from(scratch.given.helper());
            Held::of(helper != 0 && (first == 0 || first == helper))
        }
        kind::FLOW_COUNTERS => counters(run, scratch, condition),
        kind::FLOW_LABEL => label(run.host, scratch, first, second != 0),
        _ => Held::Neither,
    }
}

/// Which endpoint began the packet's flow, if it has one: an INVALID packet belongs to none.
#[inline(always)]
pub(super) fn originator(scratch: &Scratch) -> Option<Side> {
    let is_invalid = matches!(scratch.tracked.state, State::Invalid);
    if is_invalid || matches!(scratch.asked.table, Asker::Raw) {
        return None;
    }
    match scratch.tracked.flow {
        Flow::None => None,
        Flow::Begins => Some(scratch.oriented.side),
        Flow::Known(_) | Flow::Ended(_) | Flow::Passing(_) => {
            Some(scratch.seen.control.originator())
        }
    }
}

/// The mark as it stands in the record: what the packet was tracked with need not have read it.
#[inline(always)]
pub(super) fn mark<H: Host>(host: &H, scratch: &Scratch) -> u32 {
    if matches!(scratch.tracked.flow, Flow::Begins) {
        return scratch.warm.mark;
    }
    let place = scratch.seen.place;
    let family = scratch.oriented.key.family;
    match host.flows().warm(family, place.bucket, place.slot) {
        Some(words) => Warm::read(words).mark,
        None => 0,
    }
}

/// Whether the flow has a label, or has it from now on.
#[cfg_attr(target_arch = "bpf", inline(never))]
#[cfg_attr(not(target_arch = "bpf"), inline)]
fn label<H: Host>(host: &H, scratch: &mut Scratch, label: u32, sets: bool) -> Held {
    if labels::has(&labels::of_packet(host, scratch), label) {
        return Held::Yes;
    }
    if !sets {
        return Held::No;
    }
    let ([low, high], [more_low, more_high]) = (scratch.labels, labels::only(label));
    scratch.labels = [low | more_low, high | more_high];
    Held::Yes
}

#[inline(always)]
fn status(scratch: &Scratch) -> u32 {
    let record = scratch.record.status;
    let bit = |flag: u8, status: u32| if record & flag != 0 { status } else { 0 };
    let confirmed = if matches!(scratch.tracked.flow, Flow::Begins) {
        0
    } else {
        flow_status::CONFIRMED
    };
    confirmed
        | bit(EXPECTED, flow_status::EXPECTED)
        | bit(SEEN_REPLY, flow_status::SEEN_REPLY)
        | bit(ASSURED, flow_status::ASSURED)
}

/// The endpoint that a condition names: what the flow's original direction has as its source is the
/// destination of its reply.
#[inline(always)]
const fn endpoint(originator: Side, condition: &Condition) -> Side {
    let is_reply = condition.flags & flag::REPLY != 0;
    let is_destination = condition.flags & flag::DESTINATION != 0;
    if is_reply == is_destination {
        originator
    } else {
        originator.other()
    }
}

#[inline(always)]
fn address(scratch: &Scratch, originator: Side, condition: &Condition) -> bool {
    let key = &scratch.oriented.key;
    let found = match endpoint(originator, condition) {
        Side::First => key.first_address(),
        Side::Second => key.second_address(),
    };
    let [a, b, c, d, length, ..] = condition.data;
    match key.family {
        Family::V4 => found[0] & b == a,
        Family::V6 => is_prefix(&found, &[a, b, c, d], length),
    }
}

/// Whether the first `length` bits are equal.
#[inline(always)]
const fn is_prefix(found: &Address, wanted: &Address, length: u32) -> bool {
    let mut differs = 0;
    let mut word = 0;
    while word < 4 {
        let before = word as u32 * 32;
        let bits = length.saturating_sub(before);
        let mask = if bits >= 32 {
            u32::MAX
        } else {
            !(u32::MAX >> (bits & 31))
        };
        differs |= (found[word] ^ wanted[word]) & mask;
        word += 1;
    }
    differs == 0
}

#[inline(always)]
fn port(scratch: &Scratch, originator: Side, condition: &Condition) -> u16 {
    let key = &scratch.oriented.key;
    if is_icmp(key.protocol()) {
        // Identifier, and type and code of the request, whoever asks.
        return if condition.flags & flag::DESTINATION != 0 {
            key.second_port()
        } else {
            key.first_port()
        };
    }
    match endpoint(originator, condition) {
        Side::First => key.first_port(),
        Side::Second => key.second_port(),
    }
}

#[inline(always)]
fn counters<P: Packet, H: Host>(
    run: &Run<'_, P, H>,
    scratch: &Scratch,
    condition: &Condition,
) -> Held {
    let [what, directions, from_high, from_low, to_high, to_low, _] = condition.data;
    let (mut packets, mut bytes) = (0u64, 0u64);
    if matches!(scratch.tracked.flow, Flow::Begins) {
        // There is no record yet. Linux has counted its first packet.
        if directions & 1 != 0 {
            packets = 1;
            bytes = u64::from(scratch.info.ip_length);
        }
    } else {
        let place = scratch.seen.place;
        let family = scratch.oriented.key.family;
        let words = run
            .host
            .flows()
            .accounting(family, place.bucket, place.slot);
        let Some(words) = words else {
            return Held::Neither;
        };
        if words.load(0) & NOT_COUNTED != 0 {
            return Held::Neither;
        }
        if directions & 1 != 0 {
            packets += words.load(Direction::Original as u32 * 2);
            bytes += words.load(Direction::Original as u32 * 2 + 1);
        }
        if directions & 2 != 0 {
            packets += words.load(Direction::Reply as u32 * 2);
            bytes += words.load(Direction::Reply as u32 * 2 + 1);
        }
    }
    let found = match what {
        flow_counted::PACKETS => packets,
        flow_counted::BYTES => bytes,
        _ => bytes.checked_div(packets).unwrap_or(0),
    };
    let from = u64::from(from_high) << 32 | u64::from(from_low);
    let to = u64::from(to_high) << 32 | u64::from(to_low);
    // The contrary is written as bounds in the wrong order.
    Held::of(if to >= from {
        found >= from && found <= to
    } else {
        found < to || found > from
    })
}
