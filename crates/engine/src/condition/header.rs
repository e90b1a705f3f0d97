//! Conditions on the headers of a packet.

use super::{Held, flag, kind, packet_type};
use crate::asked::Asker;
use crate::host::{Header, Host, Packet};
use crate::policy::{Condition, Rule, target};
use crate::process::{Path, Run, Scratch};
use crate::tuple::{Address, Family};
use crate::verdict::{Hook, Reason};
use crate::wire::transport::{DCCP, TCP};
use crate::wire::{Fragment, Link, PacketInfo};

/// Type of [`kind::ICMP`] that fits all.
const ANY_TYPE: u32 = 256;

#[cfg_attr(target_arch = "bpf", inline(never))]
#[cfg_attr(not(target_arch = "bpf"), inline)]
pub(super) fn ask<P: Packet, H: Host>(
    run: &Run<'_, P, H>,
    scratch: &Scratch,
    condition: &Condition,
) -> Held {
    let info = &scratch.info;
    let [first, second, third, ..] = condition.data;
    match condition.kind {
        kind::PORTS => ports(run.packet, info, condition),
        kind::ADDRESS_FROM => Held::of(!is_below(side(info, condition), &condition.data)),
        kind::ADDRESS_TO => Held::of(!is_above(side(info, condition), &condition.data)),
        kind::TCP_FLAGS if info.protocol == TCP && is_start(info) && info.has_ports() => {
            masked(u32::from(info.tcp_flags), condition)
        }
        kind::ICMP if is_start(info) && !is_cut(info) => {
            let (kind, code) = (info.destination_port >> 8, info.destination_port & 0xff);
            let is_code = (second..=third).contains(&u32::from(code));
            Held::of(first == ANY_TYPE || (first == u32::from(kind) && is_code))
        }
        kind::LENGTH => within(info.ip_length, condition),
        kind::HOPS => match network_byte(run.packet, info, [8, 7]) {
            Some(hops) => {
                let taken = u32::from(is_past_routing(run.host, scratch));
                within(hops.saturating_sub(taken), condition)
            }
            None => Held::Neither,
        },
        kind::TOS => match traffic_class(run.packet, info) {
            Some(class) => masked(class, condition),
            None => Held::Neither,
        },
        kind::MAC => mac(run, condition),
        kind::PACKET_TYPE => packet_kind(run, condition),
        kind::FRAGMENT => Held::of(matches!(info.fragment, Fragment::Later)),
        _ => Held::Neither,
    }
}

/// Whether Linux would have taken a hop from the packet by now: it does before FORWARD, and here the packet keeps it.
#[inline(always)]
fn is_past_routing<H: Host>(host: &H, scratch: &Scratch) -> bool {
    let (asked, walk) = (&scratch.asked, &scratch.walk);
    if !matches!((asked.table, asked.hook), (Asker::Filter, Hook::Forward)) {
        return false;
    }
    // On the way through mangle the first jump leads to PREROUTING.
    let is_in_first = walk.outermost_return() == Some(asked.entry.wrapping_add(1));
    let is_way = |rule: &Rule| rule.number == 0 && rule.target == target::JUMP;
    !is_in_first || !host.rule(asked.entry).is_some_and(is_way)
}

/// Whether the bits of a mask are those wanted.
#[inline(always)]
pub(super) const fn masked(value: u32, condition: &Condition) -> Held {
    let [mask, wanted, ..] = condition.data;
    Held::of(value & mask == wanted)
}

#[inline(always)]
pub(super) const fn within(value: u32, condition: &Condition) -> Held {
    let [low, high, ..] = condition.data;
    Held::of(value >= low && value <= high)
}

/// Whether the transport header, if there is one, begins in this packet.
const fn is_start(info: &PacketInfo) -> bool {
    !matches!(info.fragment, Fragment::Later)
}

/// Whether the transport header is not all there.
const fn is_cut(info: &PacketInfo) -> bool {
    matches!(
        info.damage,
        Some(Reason::IcmpTruncated | Reason::Ip6Truncated | Reason::Ip6TooManyExtensions)
    )
}

#[inline(always)]
fn ports<P: Packet>(packet: &P, info: &PacketInfo, condition: &Condition) -> Held {
    if !is_start(info) {
        return Held::Neither;
    }
    let (source, destination) = if info.protocol == DCCP {
        match packet.header(info.transport_offset, 4) {
            Some(header) => (header.u16(0), header.u16(2)),
            None => return Held::Neither,
        }
    } else if info.has_ports() {
        (info.source_port, info.destination_port)
    } else {
        return Held::Neither;
    };
    // Without branches: the kernel's verifier would follow each way through seven ranges.
    let not_source = u32::from(!condition.flags / flag::SOURCE) & 1;
    let not_destination = u32::from(!condition.flags / flag::DESTINATION) & 1;
    let mut missed = 1;
    for range in condition.data {
        missed &=
            (misses(source, range) | not_source) & (misses(destination, range) | not_destination);
    }
    Held::of(missed == 0)
}

/// One for a port outside of a range, else zero.
#[inline(always)]
const fn misses(port: u16, range: u32) -> u32 {
    let (port, low, high) = (port as u32, range & 0xffff, range >> 16);
    (port.wrapping_sub(low) | high.wrapping_sub(port)) >> 31
}

#[inline(always)]
const fn side<'a>(info: &'a PacketInfo, condition: &Condition) -> &'a Address {
    if condition.flags & flag::DESTINATION != 0 {
        &info.destination
    } else {
        &info.source
    }
}

const fn halves(address: &Address) -> (u64, u64) {
    let [a, b, c, d] = *address;
    ((a as u64) << 32 | b as u64, (c as u64) << 32 | d as u64)
}

#[inline(always)]
const fn bound(data: &[u32; 7]) -> Address {
    let [a, b, c, d, ..] = *data;
    [a, b, c, d]
}

#[inline(always)]
const fn is_below(address: &Address, data: &[u32; 7]) -> bool {
    let ((high, low), (high_bound, low_bound)) = (halves(address), halves(&bound(data)));
    high < high_bound || (high == high_bound && low < low_bound)
}

#[inline(always)]
const fn is_above(address: &Address, data: &[u32; 7]) -> bool {
    let ((high, low), (high_bound, low_bound)) = (halves(address), halves(&bound(data)));
    high > high_bound || (high == high_bound && low > low_bound)
}

/// A byte of the IP header, by family.
#[inline(always)]
fn network_byte<P: Packet>(packet: &P, info: &PacketInfo, at: [u32; 2]) -> Option<u32> {
    let [v4, v6] = at;
    let offset = match info.family {
        Family::V4 => v4,
        Family::V6 => v6,
    };
    let byte = packet.header(info.ip_offset + offset, 1)?;
    Some(u32::from(byte.u8(0)))
}

#[inline(always)]
fn traffic_class<P: Packet>(packet: &P, info: &PacketInfo) -> Option<u32> {
    let start = packet.header(info.ip_offset, 2)?;
    let word = start.u16(0);
    Some(u32::from(match info.family {
        Family::V4 => word & 0xff,
        // RFC 8200 section 3: four bits of version, then eight of traffic class.
        Family::V6 => word >> 4 & 0xff,
    }))
}

/// The address that a frame came from; none where it was made here, or has no Ethernet header.
#[inline(always)]
fn mac<P: Packet, H: Host>(run: &Run<'_, P, H>, condition: &Condition) -> Held {
    let [first, second, ..] = condition.data;
    if !has_frame(run) {
        return Held::Neither;
    }
    match run.packet.header(6, 6) {
        Some(source) => Held::of(source.u32(0) == first && u32::from(source.u16(4)) == second),
        None => Held::Neither,
    }
}

#[inline(always)]
fn packet_kind<P: Packet, H: Host>(run: &Run<'_, P, H>, condition: &Condition) -> Held {
    let [wanted, ..] = condition.data;
    // What is made here has no receiver yet when Linux's rules see it, and counts as for one.
    let destination = if has_frame(run) {
        run.packet.header(0, 6)
    } else {
        None
    };
    let found = match destination {
        Some(to) if to.u32(0) == u32::MAX && to.u16(4) == u16::MAX => packet_type::BROADCAST,
        Some(to) if to.u8(0) & 1 != 0 => packet_type::MULTICAST,
        _ => packet_type::UNICAST,
    };
    Held::of(found == wanted)
}

#[inline(always)]
const fn has_frame<P, H>(run: &Run<'_, P, H>) -> bool {
    matches!(run.arrival.link, Link::Ethernet) && matches!(run.arrival.path, Path::Ingress)
}
