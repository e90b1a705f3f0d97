//! Packets for random rulesets, each with a number of its own.

use keepstate_engine::process::Path;
use keepstate_engine::tuple::Family;
use keepstate_sim::traffic::{Mood, Random, Traffic};

use crate::random_rarities::{self, Rarities};

const PACKETS: usize = 300;

pub(crate) const OWN_V4: [u8; 4] = [10, 0, 0, 1];
pub(crate) const OWN_V6: [u8; 16] = [0x20, 0x01, 0x0d, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1];

/// Hops left of what this host sends. What the kernel sends of itself has 64 or 255, and is kept back.
pub(crate) const OWN_HOPS: u8 = 99;

/// A packet that either side judges.
pub(crate) struct Case {
    pub(crate) number: u32,
    pub(crate) path: Path,
    pub(crate) ip: Vec<u8>,
}

/// Half of the rulesets meet a tracker that does not look at sequence numbers.
pub(crate) const fn is_liberal(seed: u64) -> bool {
    seed % 2 == 1
}

pub(crate) fn cases(seed: u64) -> Vec<Case> {
    let mood = if seed.is_multiple_of(3) {
        Mood::Lossy
    } else {
        Mood::Hostile
    };
    let mut random = Random::new(seed);
    let mut rarities = Rarities::new(Family::V4, seed);
    let mut cases = Vec::new();
    for timed in Traffic::new(seed, mood) {
        if cases.len() >= PACKETS {
            break;
        }
        let number = cases.len() as u32 + 1;
        let Some(mut usual) = case(timed.ip, number, &mut random, is_liberal(seed)) else {
            continue;
        };
        let odd = rarities.as_mut();
        let odd = odd.and_then(|rarities| rarities.is_odd().then_some(rarities));
        let Some(rarities) = odd else {
            cases.push(usual);
            continue;
        };
        let beside = message_beside(&usual, rarities);
        if usual.ip[0] >> 4 == 6 {
            extend(&mut usual.ip, rarities);
        }
        cases.push(usual);
        cases.extend(case(beside, number + 1, &mut random, is_liberal(seed)));
    }
    cases
}

/// A packet of another protocol between the same hosts.
fn message_beside(case: &Case, rarities: &mut Rarities) -> Vec<u8> {
    let (protocol, message) = rarities.message();
    let is_v4 = case.ip[0] >> 4 == 4;
    let header = if is_v4 { 20 } else { 40 };
    let mut ip = [&case.ip[..header], &message].concat();
    let (place, length) = if is_v4 { (9, 2) } else { (6, 4) };
    let counted = if is_v4 { ip.len() } else { message.len() };
    ip[place] = protocol;
    ip[length..length + 2].copy_from_slice(&(counted as u16).to_be_bytes());
    if is_v4 {
        ip[10..12].copy_from_slice(&[0, 0]);
        let sum = sum(&ip[..header]);
        ip[10..12].copy_from_slice(&sum.to_be_bytes());
    }
    ip
}

/// Puts an IPv6 header of options, hop-by-hop or for the destination, before all others.
fn extend(ip: &mut Vec<u8>, rarities: &mut Rarities) {
    let next = std::mem::replace(&mut ip[6], rarities.options());
    ip.splice(40..40, [next, 0, 1, 4, 0, 0, 0, 0]);
    let length = (ip.len() - 40) as u16;
    ip[4..6].copy_from_slice(&length.to_be_bytes());
}

/// Gives a packet its number, a class and some hops; `None` for one that both judge otherwise by intent, or that cannot be sent.
fn case(mut ip: Vec<u8>, number: u32, random: &mut Random, is_liberal: bool) -> Option<Case> {
    let is_v4 = ip.first()? >> 4 == 4;
    let path = match is_v4 {
        true => path(ip.get(12..16)?, ip.get(16..20)?, &OWN_V4)?,
        false => path(ip.get(8..24)?, ip.get(24..40)?, &OWN_V6)?,
    };
    let hops = match path {
        Path::Local => OWN_HOPS,
        Path::Ingress => [2, 63, 64, 255][random.below(4) as usize],
    };
    let class = [0, 0, 0x10, 0x28, 0x02, 0xb8][random.below(6) as usize];
    if is_v4 {
        let header = usize::from(ip[0] & 0xf) * 4;
        let total = usize::from(u16::from_be_bytes([ip[2], ip[3]]));
        // What the stack itself may drop, for its addresses or options, is left out.
        let is_within = [12, 16]
            .iter()
            .all(|at| ip.get(*at..at + 3) == Some(&OWN_V4[..3]));
        if !is_within
            || header != 20
            || ip.len() < header
            || total != ip.len()
            || sum(&ip[..header]) != 0
        {
            return None;
        }
        ip[1] = class;
        ip[4..6].copy_from_slice(&(number as u16).to_be_bytes());
        ip[6..8].copy_from_slice(&[0, 0]);
        ip[8] = hops;
        ip[10..12].copy_from_slice(&[0, 0]);
        let sum = sum(&ip[..header]);
        ip[10..12].copy_from_slice(&sum.to_be_bytes());
    } else {
        let length = usize::from(u16::from_be_bytes([*ip.get(4)?, *ip.get(5)?]));
        let is_within = [8, 24]
            .iter()
            .all(|at| ip.get(*at..at + 8) == Some(&OWN_V6[..8]));
        if !is_within || length + 40 != ip.len() {
            return None;
        }
        let word = 6 << 28 | u32::from(class) << 20 | number;
        ip[..4].copy_from_slice(&word.to_be_bytes());
        ip[7] = hops;
    }
    (!differs_by_intent(&ip, is_v4, is_liberal)).then_some(Case { number, path, ip })
}

/// Between one's own addresses nothing leaves the host, and the kernel refuses its own from outside.
fn path(source: &[u8], destination: &[u8], own: &[u8]) -> Option<Path> {
    match (source == own, destination == own) {
        (true, true) => None,
        (true, false) => Some(Path::Local),
        _ => Some(Path::Ingress),
    }
}

/// See docs/differences.md and docs/rules.md.
fn differs_by_intent(ip: &[u8], is_v4: bool, is_liberal: bool) -> bool {
    let (protocol, rest) = match is_v4 {
        true => (ip[9], &ip[usize::from(ip[0] & 0xf) * 4..]),
        false => (ip[6], &ip[40..]),
    };
    match protocol {
        // An error about a segment whose number is beyond its window.
        1 if rest.len() > 17 && matches!(rest[0], 3 | 4 | 5 | 11 | 12) => {
            !is_liberal && rest[17] == 6
        }
        58 if rest.len() > 14 && rest[0] < 128 => !is_liberal && rest[14] == 6,
        // What proves an association, and is counted, differs; not where there is none.
        132 => rest.get(16..20) != Some(&random_rarities::TAG),
        // Messages that end within their header.
        1 | 58 | 17 | 136 => rest.len() < 8,
        6 => !(20..=rest.len()).contains(&(usize::from(*rest.get(12).unwrap_or(&0) >> 4) * 4)),
        _ => false,
    }
}

fn sum(bytes: &[u8]) -> u16 {
    let words = bytes
        .chunks(2)
        .map(|pair| u32::from(pair[0]) << 8 | u32::from(*pair.get(1).unwrap_or(&0)));
    let sum: u32 = words.sum();
    let sum = (sum & 0xffff) + (sum >> 16);
    !((sum & 0xffff) + (sum >> 16)) as u16
}
