//! Datagrams in fragments: whole ones in any order, and others.

use super::{Mood, Random, Traffic};
use crate::build::{self, Rest};

const IPV4_HEADER_BYTES: usize = 20;
const IPV6_HEADER_BYTES: usize = 40;
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

impl Traffic {
    /// The next fragment under way, or the first of a packet that is cut up.
    pub(super) fn fragment(&mut self) -> Option<Vec<u8>> {
        if self.mood != Mood::Fragmented {
            return None;
        }
        if self.fragments.is_empty() && self.random.happens(15) {
            let packet = match self.random.below(4) {
                0 => self.segment(),
                1 => self.query(),
                _ => self.datagram(),
            };
            let whole = packet.ip();
            self.remember(&whole);
            self.fragments.extend(split(&mut self.random, &whole));
        }
        // Others come in between.
        if self.random.happens(20) {
            return None;
        }
        let mut fragment = self.fragments.pop_front()?;
        if self.random.happens(2) {
            self.damage(&mut fragment);
        }
        self.remember(&fragment);
        Some(fragment)
    }
}

/// Cuts an IP packet without options into fragments, mostly as a host would.
fn split(random: &mut Random, ip: &[u8]) -> Vec<Vec<u8>> {
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
        let rest = if part.is_last { Rest::None } else { Rest::More };
        build::fragment(ip, id, part.start..part.end.max(part.start), rest)
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
