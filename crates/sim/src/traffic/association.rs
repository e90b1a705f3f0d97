//! SCTP associations of generated traffic.

use std::net::IpAddr;

use super::{Networks, Random, ends, with_checksum};
use crate::build::{Body, Chunk, Packet, Sctp, chunk};

/// How two ends of an association see it.
#[derive(Clone, Debug)]
pub(super) struct Association {
    ends: [End; 2],
    /// Packets sent, which decides what comes next.
    age: u32,
    /// Steps of the shutdown, and which side began it.
    shutdown: u32,
    closer: usize,
}

#[derive(Clone, Debug)]
struct End {
    address: IpAddr,
    port: u16,
    /// What packets to this end carry.
    tag: u32,
}

/// All types that trackers look at, and one that nobody knows.
const KINDS: [u8; 14] = [
    chunk::DATA,
    chunk::INIT,
    chunk::INIT_ACK,
    chunk::SACK,
    chunk::HEARTBEAT,
    chunk::HEARTBEAT_ACK,
    chunk::ABORT,
    chunk::SHUTDOWN,
    chunk::SHUTDOWN_ACK,
    chunk::ERROR,
    chunk::COOKIE_ECHO,
    chunk::COOKIE_ACK,
    chunk::SHUTDOWN_COMPLETE,
    200,
];

impl Association {
    pub(super) fn new(random: &mut Random, networks: Networks) -> Self {
        let (from, to) = ends(random, networks);
        let port = 7000 + random.below(3) as u16;
        let end = |random: &mut Random, address, port| End {
            address,
            port,
            tag: random.number() as u32 | 1,
        };
        Self {
            ends: [end(random, from, port), end(random, to, 9999)],
            age: 0,
            shutdown: 0,
            closer: 0,
        }
    }

    pub(super) const fn is_over(&self) -> bool {
        self.shutdown > 3 || self.age > 60
    }

    /// The same two ends once more: one of them has lost its memory.
    fn begin_again(&mut self, random: &mut Random) {
        self.ends[0].tag = random.number() as u32 | 1;
        if random.happens(70) {
            self.ends[1].tag = random.number() as u32 | 1;
        }
        self.age = 0;
        self.shutdown = 0;
    }

    /// What an honest end would send next, more or less.
    pub(super) fn proper(&mut self, random: &mut Random) -> Packet {
        if self.age > 4 && random.happens(4) {
            self.begin_again(random);
        }
        self.age += 1;
        let side = random.below(2) as usize;
        let (side, kinds): (usize, &[u8]) = match (self.age, self.shutdown) {
            (1, _) => (0, &[chunk::INIT]),
            // Both ask at once.
            (2, _) if random.happens(10) => (1, &[chunk::INIT]),
            (2, _) => (1, &[chunk::INIT_ACK]),
            (3, _) if random.happens(40) => (0, &[chunk::COOKIE_ECHO, chunk::DATA]),
            (3, _) => (0, &[chunk::COOKIE_ECHO]),
            (4, _) if random.happens(40) => (1, &[chunk::COOKIE_ACK, chunk::SACK]),
            (4, _) => (1, &[chunk::COOKIE_ACK]),
            (age, 0) if age > 8 && random.happens(8) => {
                self.shutdown = 1;
                self.closer = side;
                (side, &[chunk::SHUTDOWN])
            }
            (age, 0) if age > 6 && random.happens(2) => (side, &[chunk::ABORT]),
            (_, 0) => (side, self.talk(random)),
            (_, 1) => {
                self.shutdown = 2;
                (1 - self.closer, &[chunk::SHUTDOWN_ACK])
            }
            _ => {
                self.shutdown += 1;
                (self.closer, &[chunk::SHUTDOWN_COMPLETE])
            }
        };
        let tag = match kinds {
            [chunk::INIT] => 0,
            _ => self.ends[1 - side].tag,
        };
        self.packet(random, side, tag, kinds)
    }

    const fn talk(&self, random: &mut Random) -> &'static [u8] {
        match random.below(8) {
            0 => &[chunk::HEARTBEAT],
            1 => &[chunk::HEARTBEAT_ACK],
            2 => &[chunk::SACK],
            3 => &[chunk::SACK, chunk::DATA, chunk::DATA],
            _ => &[chunk::DATA],
        }
    }

    /// Anything.
    pub(super) fn hostile(&self, random: &mut Random) -> Packet {
        let side = random.below(2) as usize;
        let kinds: Vec<u8> = (0..random.one_of(&[0, 1, 1, 1, 1, 2, 3]))
            .map(|_| random.one_of(&KINDS))
            .collect();
        let tag = match random.below(10) {
            0..3 => 0,
            3..6 => self.ends[1 - side].tag,
            6..8 => self.ends[side].tag,
            8 => 77,
            _ => random.number() as u32,
        };
        self.packet(random, side, tag, &kinds)
    }

    fn packet(&self, random: &mut Random, side: usize, tag: u32, kinds: &[u8]) -> Packet {
        let (from, to) = (&self.ends[side], &self.ends[1 - side]);
        let chunks = kinds.iter().map(|kind| match *kind {
            chunk::INIT | chunk::INIT_ACK => {
                let introduced = if random.happens(90) { from.tag } else { 77 };
                let mut made = Chunk::introducing(*kind, introduced);
                if random.happens(2) {
                    made.value.truncate(random.below(16) as usize);
                }
                made
            }
            kind => {
                let mut made = Chunk::new(kind);
                made.flags = u8::from(random.happens(10));
                made.value.extend(vec![0x43; random.below(30) as usize]);
                made
            }
        });
        let body = Sctp {
            source_port: from.port,
            destination_port: to.port,
            tag,
            chunks: chunks.collect(),
        };
        let packet = Packet::new(from.address, to.address, Body::Sctp(body));
        with_checksum(random, packet)
    }
}
