//! Datagrams in fragments: whole ones in any order, and others.

use super::Random;
use crate::packet::ones_complement_sum;

const IPV4_HEADER_BYTES: usize = 20;
const IPV6_HEADER_BYTES: usize = 40;
const FRAGMENT: u8 = 44;
const UNIT: usize = 8;

/// Datagrams that one pair of hosts has under way, by their identification: few, so that they meet.
const IDENTIFICATIONS: u64 = 3;

/// A part of a payload.
#[derive(Clone, Copy)]
struct Part {
    start: usize,
    end: usize,
    is_last: bool,
}

/// Cuts an IP packet without options into fragments, mostly as a host would.
pub(super) fn split(random: &mut Random, ip: &[u8]) -> Vec<Vec<u8>> {
    let is_v4 = ip.first().is_some_and(|byte| byte >> 4 == 4);
    let header = if is_v4 {
        IPV4_HEADER_BYTES
    } else {
        IPV6_HEADER_BYTES
    };
    let length = ip.len().saturating_sub(header);
    let mut parts = parts(random, length);
    if random.happens(25) {
        spoil(random, &mut parts);
    }
    match random.below(10) {
        0 | 1 => parts.reverse(),
        2 | 3 => shuffle(random, &mut parts),
        _ => {}
    }
    let id = random.below(IDENTIFICATIONS) as u16;
    let fragments = parts.into_iter().map(|part| {
        if is_v4 {
            fragment_v4(ip, id, part)
        } else {
            fragment_v6(ip, id, part)
        }
    });
    fragments.collect()
}

fn parts(random: &mut Random, length: usize) -> Vec<Part> {
    // Some too small for a TCP header.
    let units = if random.happens(20) {
        1 + random.below(2)
    } else {
        1 + random.below(80)
    };
    let size = UNIT * units as usize;
    let mut parts = Vec::new();
    let mut start = 0;
    while start < length || start == 0 {
        let end = (start + size).min(length);
        parts.push(Part {
            start,
            end,
            is_last: end == length,
        });
        start += size;
    }
    parts
}

/// Loss, repetition, overlap, and what no host sends.
fn spoil(random: &mut Random, parts: &mut Vec<Part>) {
    let at = random.below(parts.len() as u64) as usize;
    let mut part = parts[at];
    match random.below(8) {
        0 => {
            parts.remove(at);
            return;
        }
        1 => {}
        2 => part.start = part.start.saturating_sub(UNIT),
        3 => part.end += UNIT,
        4 => part.end = part.end.saturating_sub(3).max(part.start),
        5 => part.is_last = !part.is_last,
        6 => part.end = part.start,
        _ => (part.start, part.end) = (65_504, 65_528 + random.below(32) as usize),
    }
    if random.happens(50) {
        parts[at] = part;
    } else {
        parts.insert(at, part);
    }
}

fn shuffle(random: &mut Random, parts: &mut [Part]) {
    for at in (1..parts.len()).rev() {
        parts.swap(at, random.below(at as u64 + 1) as usize);
    }
}

/// The bytes of a part; zeros beyond the packet.
fn payload(ip: &[u8], header: usize, part: Part) -> Vec<u8> {
    let bytes = header + part.start..header + part.end.max(part.start);
    bytes
        .map(|at| ip.get(at).copied().unwrap_or_default())
        .collect()
}

fn fragment_v4(ip: &[u8], id: u16, part: Part) -> Vec<u8> {
    let payload = payload(ip, IPV4_HEADER_BYTES, part);
    let mut fragment = ip[..IPV4_HEADER_BYTES].to_vec();
    let length = (IPV4_HEADER_BYTES + payload.len()) as u16;
    let more = if part.is_last { 0 } else { 0x2000 };
    let offset = (part.start / UNIT) as u16 & 0x1fff;
    fragment[2..4].copy_from_slice(&length.to_be_bytes());
    fragment[4..6].copy_from_slice(&id.to_be_bytes());
    fragment[6..8].copy_from_slice(&(offset | more).to_be_bytes());
    fragment[10..12].fill(0);
    let sum = !ones_complement_sum(&fragment);
    fragment[10..12].copy_from_slice(&sum.to_be_bytes());
    fragment.extend(payload);
    fragment
}

fn fragment_v6(ip: &[u8], id: u16, part: Part) -> Vec<u8> {
    let payload = payload(ip, IPV6_HEADER_BYTES, part);
    let mut fragment = ip[..IPV6_HEADER_BYTES].to_vec();
    let length = (UNIT + payload.len()) as u16;
    let offset = (part.start / UNIT * UNIT) as u16 | u16::from(!part.is_last);
    let next = std::mem::replace(&mut fragment[6], FRAGMENT);
    fragment[4..6].copy_from_slice(&length.to_be_bytes());
    fragment.extend([next, 0]);
    fragment.extend(offset.to_be_bytes());
    fragment.extend([0, 0]);
    fragment.extend(id.to_be_bytes());
    fragment.extend(payload);
    fragment
}
