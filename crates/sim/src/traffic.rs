//! Generated traffic: connections that mostly behave, neighbours that do not, and damage.
//!
//! The same seed gives the same packets. Used where engine and kernel, or engine and Linux's own
//! tracker, are held against each other.

mod association;
mod fragments;
mod other;

use std::collections::VecDeque;

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use self::association::Association;
use crate::build::{ACK, Body, Checksum, FIN, Icmp, PSH, Packet, RST, SYN, Tcp, Udp};
use crate::packet::ones_complement_sum;

const MILLISECOND_NS: u64 = 1_000_000;
const SECOND_NS: u64 = 1_000_000_000;
const START_NS: u64 = 1_700_000_000 * SECOND_NS;

/// Connections that are under way at once. Few, so that packets meet.
const CONNECTIONS: usize = 12;
/// SCTP associations.
const ASSOCIATIONS: usize = 4;
/// Earlier packets that ICMP errors quote from.
const REMEMBERED: usize = 64;

/// A stream of random numbers (SplitMix64).
#[derive(Clone, Debug)]
pub struct Random(u64);

impl Random {
    pub const fn new(seed: u64) -> Self {
        Self(seed)
    }

    pub const fn number(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// A number below `bound`, which is not zero.
    pub const fn below(&mut self, bound: u64) -> u64 {
        self.number() % bound
    }

    /// True `percent` times in a hundred.
    pub const fn happens(&mut self, percent: u64) -> bool {
        self.below(100) < percent
    }

    fn one_of<T: Copy>(&mut self, choices: &[T]) -> T {
        choices[self.below(choices.len() as u64) as usize]
    }
}

/// An IP packet and when it comes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Timed {
    pub time_ns: u64,
    pub ip: Vec<u8>,
}

/// What traffic is like.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Mood {
    /// A fifth of the segments fit nothing, and some packets are damaged.
    #[default]
    Hostile,
    /// Honest ends on a bad line: loss, repetition, late acknowledgements.
    Lossy,
    /// As [`Mood::Hostile`], and a part of it in fragments.
    Fragmented,
}

/// Where the hosts of generated traffic are: their addresses differ from these in the last byte.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Networks {
    pub v4: Ipv4Addr,
    pub v6: Ipv6Addr,
}

impl Default for Networks {
    fn default() -> Self {
        Self {
            v4: Ipv4Addr::new(10, 0, 0, 0),
            v6: Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 0),
        }
    }
}

/// An endless stream of packets.
#[derive(Clone, Debug)]
pub struct Traffic {
    random: Random,
    networks: Networks,
    mood: Mood,
    time_ns: u64,
    connections: Vec<Connection>,
    associations: Vec<Association>,
    remembered: Vec<Vec<u8>>,
    /// Fragments that are under way.
    fragments: VecDeque<Vec<u8>>,
}

/// How two ends of a TCP connection see it.
#[derive(Clone, Debug)]
struct Connection {
    ends: [End; 2],
    /// Segments sent, which decides what comes next.
    age: u32,
}

#[derive(Clone, Debug)]
struct End {
    address: IpAddr,
    port: u16,
    /// Next sequence number.
    next: u32,
    window: u16,
}

impl Iterator for Traffic {
    type Item = Timed;

    fn next(&mut self) -> Option<Timed> {
        self.pass_time();
        if self.mood == Mood::Lossy && self.random.happens(4) && !self.remembered.is_empty() {
            return Some(self.repetition());
        }
        if let Some(ip) = self.fragment() {
            let time_ns = self.time_ns;
            return Some(Timed { time_ns, ip });
        }
        let packet = match self.random.below(100) {
            0..59 => self.segment(),
            59..68 => self.association(),
            68..78 => self.datagram(),
            78..80 => self.lite_datagram(),
            80..87 => self.query(),
            87..96 => self.error(),
            96 => self.tunnelled(),
            _ => self.other(),
        };
        let mut ip = packet.ip();
        if self.mood != Mood::Lossy && self.random.happens(2) {
            self.damage(&mut ip);
        }
        self.remember(&ip);
        Some(Timed {
            time_ns: self.time_ns,
            ip,
        })
    }
}

impl Traffic {
    pub fn new(seed: u64, mood: Mood) -> Self {
        Self::between(Networks::default(), seed, mood)
    }

    /// Traffic of hosts in other networks.
    pub fn between(networks: Networks, seed: u64, mood: Mood) -> Self {
        let mut random = Random::new(seed);
        let connections = (0..CONNECTIONS)
            .map(|_| Connection::new(&mut random, networks))
            .collect();
        let associations = (0..ASSOCIATIONS)
            .map(|_| Association::new(&mut random, networks))
            .collect();
        Self {
            random,
            networks,
            mood,
            time_ns: START_NS,
            connections,
            associations,
            remembered: Vec::new(),
            fragments: VecDeque::new(),
        }
    }

    fn remember(&mut self, ip: &[u8]) {
        if self.remembered.len() < REMEMBERED {
            self.remembered.push(ip.to_vec());
        } else {
            let at = self.random.below(REMEMBERED as u64) as usize;
            self.remembered[at] = ip.to_vec();
        }
    }

    /// An earlier packet once more, as a network repeats or delays it.
    fn repetition(&mut self) -> Timed {
        let at = self.random.below(self.remembered.len() as u64) as usize;
        Timed {
            time_ns: self.time_ns,
            ip: self.remembered[at].clone(),
        }
    }

    /// Mostly milliseconds; now and then long enough for something to expire.
    fn pass_time(&mut self) {
        self.time_ns += match self.random.below(1000) {
            0..960 => self.random.below(40) * MILLISECOND_NS,
            960..985 => self.random.below(4000) * MILLISECOND_NS,
            985..997 => self.random.below(70_000) * MILLISECOND_NS,
            _ => self.random.below(400_000) * MILLISECOND_NS,
        };
    }

    fn segment(&mut self) -> Packet {
        let random = &mut self.random;
        let at = random.below(CONNECTIONS as u64) as usize;
        if self.connections[at].age > 40 && random.happens(20) {
            self.connections[at] = Connection::new(random, self.networks);
        }
        let connection = &mut self.connections[at];
        match self.mood {
            Mood::Hostile | Mood::Fragmented if random.happens(20) => connection.hostile(random),
            Mood::Hostile | Mood::Fragmented => connection.proper(random),
            Mood::Lossy => {
                // Lost before it came here: the other end never saw it either.
                while random.happens(4) {
                    connection.proper(random);
                }
                connection.proper(random)
            }
        }
    }

    fn association(&mut self) -> Packet {
        let random = &mut self.random;
        let at = random.below(ASSOCIATIONS as u64) as usize;
        if self.associations[at].is_over() && random.happens(50) {
            self.associations[at] = Association::new(random, self.networks);
        }
        let association = &mut self.associations[at];
        if self.mood == Mood::Hostile && random.happens(20) {
            return association.hostile(random);
        }
        while self.mood == Mood::Lossy && random.happens(4) {
            association.proper(random);
        }
        association.proper(random)
    }

    fn datagram(&mut self) -> Packet {
        let length_max = match self.mood {
            Mood::Hostile | Mood::Lossy => 80,
            Mood::Fragmented => 2_000,
        };
        let random = &mut self.random;
        let (from, to) = ends(random, self.networks);
        let ports = [53, 4000, 4001];
        let length = random.below(length_max) as usize;
        let datagram = Udp {
            source_port: random.one_of(&ports),
            destination_port: random.one_of(&ports),
            payload: vec![0x55; length],
        };
        with_checksum(random, Packet::new(from, to, Body::Udp(datagram)))
    }

    fn query(&mut self) -> Packet {
        let random = &mut self.random;
        let (from, to) = ends(random, self.networks);
        let [high, low] = (random.below(3) as u16).to_be_bytes();
        let rest = [high, low, 0, 1];
        let payload = vec![0x61; random.below(40) as usize];
        let v4 = [8, 0, 8, 0, 13, 14, 15, 17, 18, 10, 40, 42];
        let v6 = [128, 129, 128, 129, 130, 133, 135, 136, 139, 140, 160];
        let kind = random.one_of(if from.is_ipv4() { &v4[..] } else { &v6[..] });
        let message = Icmp {
            kind,
            code: if random.happens(90) { 0 } else { 3 },
            rest,
            payload,
        };
        let packet = Packet::new(from, to, icmp_of(from, message));
        with_checksum(random, packet)
    }

    /// An ICMP error about an earlier packet, often true to it.
    fn error(&mut self) -> Packet {
        let random = &mut self.random;
        let at = random.below(self.remembered.len().max(1) as u64) as usize;
        let Some(mut quoted) = self.remembered.get(at).cloned() else {
            return self.query();
        };
        let is_v4 = quoted.first().is_some_and(|byte| byte >> 4 == 4);
        let (mut from, mut to) = ends_of(random, self.networks, is_v4);
        if random.happens(80)
            && let Some((source, destination)) = addresses(&quoted)
        {
            (from, to) = (
                if random.happens(50) {
                    destination
                } else {
                    from
                },
                source,
            );
        }
        if from.is_ipv4() != to.is_ipv4() {
            return self.query();
        }
        let header = if is_v4 { 20 } else { 40 };
        match random.below(10) {
            0 => quoted.truncate(header + random.below(12) as usize),
            1 => quoted.truncate(random.below(header as u64 + 1) as usize),
            2..7 => quoted.truncate(header + 8),
            _ => {}
        }
        quoted.truncate(500);
        if random.happens(10) && !quoted.is_empty() {
            let at = random.below(quoted.len() as u64) as usize;
            quoted[at] ^= 1 << random.below(8);
        }
        let v4 = [
            (3, 1),
            (3, 3),
            (3, 4),
            (11, 0),
            (12, 0),
            (4, 0),
            (5, 1),
            (3, 17),
        ];
        let v6 = [(1, 0), (1, 4), (2, 0), (3, 0), (4, 1), (100, 0), (127, 0)];
        let (kind, code) = random.one_of(if is_v4 { &v4[..] } else { &v6[..] });
        let message = Icmp {
            kind,
            code,
            rest: [0; 4],
            payload: quoted,
        };
        let packet = Packet::new(from, to, icmp_of(from, message));
        with_checksum(random, packet)
    }

    fn damage(&mut self, ip: &mut Vec<u8>) {
        let random = &mut self.random;
        for _ in 0..=random.below(3) {
            let at = random.below(ip.len() as u64) as usize;
            ip[at] ^= 1 << random.below(8);
        }
        let is_v4 = ip[0] >> 4 == 4;
        if random.happens(20) {
            let length = random.below(ip.len() as u64) as usize + 1;
            ip.truncate(length);
        }
        // Most damage shall lie deeper than the first checksum.
        if is_v4 && ip.len() >= 20 && random.happens(80) {
            ip[10] = 0;
            ip[11] = 0;
            let header = usize::from(ip[0] & 0xf).max(5) * 4;
            let sum = !ones_complement_sum(&ip[..header.min(ip.len())]);
            ip[10..12].copy_from_slice(&sum.to_be_bytes());
        }
    }
}

impl Connection {
    fn new(random: &mut Random, networks: Networks) -> Self {
        let (from, to) = ends(random, networks);
        let end = |random: &mut Random, address, port| End {
            address,
            port,
            next: random.number() as u32,
            window: random.one_of(&[0, 1, 512, 8192, 64_240, 65_535]),
        };
        let port = 50_000 + random.below(6) as u16;
        let service = random.one_of(&[22, 80]);
        Self {
            ends: [end(random, from, port), end(random, to, service)],
            age: 0,
        }
    }

    /// What an honest end would send next, more or less.
    fn proper(&mut self, random: &mut Random) -> Packet {
        self.age += 1;
        let side = random.below(2) as usize;
        let (side, flags, length) = match self.age {
            1 => (0, SYN, if random.happens(5) { 20 } else { 0 }),
            2 => (1, SYN | ACK, 0),
            3 => (0, ACK, 0),
            age if age > 10 && random.happens(6) => (side, FIN | ACK, 0),
            age if age > 6 && random.happens(3) => (side, RST | ACK, 0),
            _ if random.happens(40) => (side, ACK, 0),
            _ => (side, PSH | ACK, 1 + random.below(1400) as u32),
        };
        if random.happens(10) {
            self.ends[side].window = random.one_of(&[0, 1, 512, 8192, 64_240, 65_535]);
        }
        let sequence = self.ends[side].next;
        let sent = length + u32::from(flags & (SYN | FIN) != 0);
        self.ends[side].next = sequence.wrapping_add(sent);
        // Retransmissions and keepalives.
        let back = match random.below(20) {
            0 => 1,
            1 => length,
            2 => random.below(3000) as u32,
            _ => 0,
        };
        let back = if flags & SYN != 0 { 0 } else { back };
        let late = if flags & SYN == 0 && random.happens(20) {
            random.below(2000) as u32
        } else {
            0
        };
        let beyond = late.wrapping_neg();
        self.segment(
            side,
            flags,
            sequence.wrapping_sub(back),
            beyond,
            length,
            random,
        )
    }

    /// Anything.
    fn hostile(&mut self, random: &mut Random) -> Packet {
        let side = random.below(2) as usize;
        let far = [
            0,
            1,
            u32::MAX,
            1000,
            65_535,
            65_536,
            1 << 20,
            0x4000_0000,
            0x8000_0000,
            0xffff_0000,
        ];
        let flags = match random.below(12) {
            0 => random.number() as u8,
            1 | 2 => RST,
            3 => RST | ACK,
            4 => SYN,
            5 => SYN | ACK,
            6 => FIN | ACK,
            7 => FIN,
            _ => ACK,
        };
        let sequence = self.ends[side].next.wrapping_add(random.one_of(&far));
        let beyond = random.one_of(&far);
        let length = if random.happens(50) {
            0
        } else {
            random.below(1400) as u32
        };
        self.segment(side, flags, sequence, beyond, length, random)
    }

    fn segment(
        &self,
        side: usize,
        flags: u8,
        sequence: u32,
        beyond: u32,
        length: u32,
        random: &mut Random,
    ) -> Packet {
        let (from, to) = (&self.ends[side], &self.ends[1 - side]);
        let acknowledgement = if flags & ACK != 0 || random.happens(10) {
            to.next.wrapping_add(beyond)
        } else {
            0
        };
        let segment = Tcp {
            source_port: from.port,
            destination_port: to.port,
            sequence,
            acknowledgement,
            flags,
            window: from.window,
            options: options(flags, to.next, random),
            payload: vec![0x41; length as usize],
        };
        let packet = Packet::new(from.address, to.address, Body::Tcp(segment));
        with_checksum(random, packet)
    }
}

/// TCP options as hosts send them, and sometimes as they do not.
fn options(flags: u8, acknowledged: u32, random: &mut Random) -> Vec<u8> {
    if random.happens(2) {
        let words = random.below(10) as usize;
        return (0..words * 4).map(|_| random.number() as u8).collect();
    }
    let mut options = Vec::new();
    if flags & SYN != 0 {
        if random.happens(80) {
            options.extend([2, 4, 0x05, 0xb4]);
        }
        if random.happens(70) {
            options.extend([4, 2, 1, 1]);
        }
        if random.happens(70) {
            options.extend([3, 3, random.one_of(&[0, 2, 7, 14, 15]), 1]);
        }
    } else {
        if random.happens(30) {
            options.extend([1, 1, 8, 10, 0, 0, 0, 1, 0, 0, 0, 2]);
        }
        if flags & ACK != 0 && random.happens(15) {
            let left = acknowledged.wrapping_add(random.below(5000) as u32);
            let right = left.wrapping_add(random.below(3000) as u32);
            options.extend([1, 1, 5, 10]);
            options.extend(left.to_be_bytes());
            options.extend(right.to_be_bytes());
        }
    }
    options
}

fn ends(random: &mut Random, networks: Networks) -> (IpAddr, IpAddr) {
    let is_v4 = random.happens(70);
    ends_of(random, networks, is_v4)
}

/// Two of a few hosts, rarely one and the same.
fn ends_of(random: &mut Random, networks: Networks, is_v4: bool) -> (IpAddr, IpAddr) {
    let host = |number: u8| -> IpAddr {
        if is_v4 {
            (networks.v4 | Ipv4Addr::new(0, 0, 0, number)).into()
        } else {
            (networks.v6 | Ipv6Addr::from(u128::from(number))).into()
        }
    };
    let from = 1 + random.below(4) as u8;
    let step = 1 + random.below(3) as u8;
    let to = if random.happens(2) {
        from
    } else {
        (from + step - 1) % 4 + 1
    };
    (host(from), host(to))
}

fn addresses(ip: &[u8]) -> Option<(IpAddr, IpAddr)> {
    match ip.first()? >> 4 {
        4 => {
            let source: [u8; 4] = ip.get(12..16)?.try_into().ok()?;
            let destination: [u8; 4] = ip.get(16..20)?.try_into().ok()?;
            Some((source.into(), destination.into()))
        }
        6 => {
            let source: [u8; 16] = ip.get(8..24)?.try_into().ok()?;
            let destination: [u8; 16] = ip.get(24..40)?.try_into().ok()?;
            Some((source.into(), destination.into()))
        }
        _ => None,
    }
}

const fn icmp_of(source: IpAddr, message: Icmp) -> Body {
    if source.is_ipv4() {
        Body::Icmp(message)
    } else {
        Body::Icmpv6(message)
    }
}

fn with_checksum(random: &mut Random, packet: Packet) -> Packet {
    let checksum = if random.happens(1) {
        Checksum::Wrong
    } else {
        Checksum::Right
    };
    Packet { checksum, ..packet }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_seed_gives_the_same_packets() {
        for mood in [Mood::Hostile, Mood::Lossy, Mood::Fragmented] {
            let of = |seed| Traffic::new(seed, mood).take(500).collect::<Vec<_>>();
            assert_eq!(of(7), of(7));
            assert_ne!(of(7), of(8));
            assert!(of(7).is_sorted_by_key(|timed| timed.time_ns));
        }
    }
}
