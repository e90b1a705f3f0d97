//! Those who speak to the server, honest or not, as far as they wait for answers.

use std::net::IpAddr;

use keepstate_engine::verdict::Verdict;
use keepstate_sim::build::{ACK, Body, FIN, PSH, Packet, SYN, Tcp, Udp};
use keepstate_sim::traffic::Random;

use crate::world::{SECOND, World};

/// There and back.
const ROUND_TRIP: u64 = 40_000_000;
/// How long a client waits for the first answer; twice as long each time (RFC 6298 section 2).
pub(crate) const FIRST_WAIT: u64 = SECOND;
/// Tries before it gives up. A person does after some seconds.
pub(crate) const TRIES: u32 = 4;
/// Between two messages of a connection that lasts.
const PAUSE: u64 = 5 * SECOND;
/// Bytes of a question, an answer, and a segment.
const QUESTION: usize = 200;
const ANSWER: usize = 1200;

/// Who a conversation is of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Of {
    Legitimate(usize),
    Attack(usize),
}

/// How it goes on once it is established.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Manner {
    /// One question.
    Ask,
    /// A datagram.
    Datagram,
    /// A message every five seconds until then.
    Stay { until: u64 },
    /// Says nothing until then, and closes.
    Idle { until: u64 },
    /// Sends a byte now and then until then.
    Drip { until: u64 },
}

#[derive(Clone, Copy, Debug)]
enum Stage {
    Begin,
    Acknowledge,
    Talk,
    Close,
}

/// What came of a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Next {
    /// To be called again then.
    At(u64),
    /// It got what it wanted; whether at the first try of each packet.
    Done {
        at_once: bool,
    },
    Failed,
}

#[derive(Clone, Debug)]
pub(crate) struct Conversation {
    pub(crate) of: Of,
    pub(crate) manner: Manner,
    pub(crate) began: u64,
    pub(crate) client: IpAddr,
    server: IpAddr,
    ports: [u16; 2],
    stage: Stage,
    tries: u32,
    repeated: u32,
    /// Next numbers of client and server.
    numbers: [u32; 2],
}

impl Conversation {
    pub(crate) fn new(
        of: Of,
        manner: Manner,
        ends: [IpAddr; 2],
        port: u16,
        began: u64,
        random: &mut Random,
    ) -> Self {
        Self {
            of,
            manner,
            began,
            client: ends[0],
            server: ends[1],
            ports: [1024 + random.below(64_000) as u16, port],
            stage: Stage::Begin,
            tries: 0,
            repeated: 0,
            numbers: [random.number() as u32, random.number() as u32],
        }
    }

    pub(crate) fn step(&mut self, world: &World<'_>) -> Next {
        match (self.stage, self.manner) {
            (Stage::Begin, Manner::Datagram) => self.ask_once(world),
            (Stage::Begin, _) => self.begin(world),
            (Stage::Acknowledge, _) => self.acknowledge(world),
            (Stage::Talk, _) => self.talk(world),
            (Stage::Close, _) => self.close(world),
        }
    }

    /// The packet got no answer.
    fn again(&mut self, now: u64, wait: u64) -> Next {
        self.tries += 1;
        self.repeated += 1;
        if self.tries >= TRIES {
            return Next::Failed;
        }
        Next::At(now + (wait << (self.tries - 1)))
    }

    fn on(&mut self, stage: Stage, at: u64) -> Next {
        self.stage = stage;
        self.tries = 0;
        Next::At(at)
    }

    const fn done(&self) -> Next {
        Next::Done {
            at_once: self.repeated == 0,
        }
    }

    fn ask_once(&mut self, world: &World<'_>) -> Next {
        let question = self.datagram([0, 1], 40);
        let is_in = world.receive(&question, None).verdict == Verdict::Accept;
        if is_in && world.send(&self.datagram([1, 0], 120)) {
            return self.done();
        }
        self.again(world.now, FIRST_WAIT)
    }

    fn begin(&mut self, world: &World<'_>) -> Next {
        let syn = self.segment(0, SYN, 0);
        let outcome = world.receive(&syn, None);
        if let Some(answer) = world.plane.take_answer() {
            // A cookie: the number of the SYN-ACK.
            let header = if self.client.is_ipv4() { 20 } else { 40 };
            let number = answer.get(header + 4..header + 8);
            let number = number.and_then(|bytes| bytes.try_into().ok());
            self.numbers[1] = number.map_or(0, u32::from_be_bytes);
            self.numbers = self.numbers.map(|number| number.wrapping_add(1));
            return self.on(Stage::Acknowledge, world.now + ROUND_TRIP);
        }
        if outcome.verdict != Verdict::Accept || !world.send(&self.segment(1, SYN | ACK, 0)) {
            return self.again(world.now, FIRST_WAIT);
        }
        self.numbers = self.numbers.map(|number| number.wrapping_add(1));
        self.on(Stage::Acknowledge, world.now + ROUND_TRIP)
    }

    fn acknowledge(&mut self, world: &World<'_>) -> Next {
        let segment = self.segment(0, ACK, 0);
        if world.receive(&segment, None).verdict != Verdict::Accept {
            return self.again(world.now, FIRST_WAIT / 4);
        }
        let at = match self.manner {
            Manner::Idle { until } => until,
            Manner::Drip { .. } => world.now + 2 * PAUSE,
            _ => world.now,
        };
        let stage = match self.manner {
            Manner::Idle { .. } => Stage::Close,
            _ => Stage::Talk,
        };
        self.on(stage, at)
    }

    fn talk(&mut self, world: &World<'_>) -> Next {
        let is_drop = matches!(self.manner, Manner::Drip { .. });
        let bytes = if is_drop { 1 } else { QUESTION };
        let question = self.segment(0, ACK | PSH, bytes);
        if world.receive(&question, None).verdict != Verdict::Accept {
            return self.again(world.now, FIRST_WAIT / 4);
        }
        self.numbers[0] = self.numbers[0].wrapping_add(bytes as u32);
        let answer = if is_drop { 0 } else { ANSWER };
        let flags = if is_drop { ACK } else { ACK | PSH };
        if !world.send(&self.segment(1, flags, answer)) {
            return self.again(world.now, FIRST_WAIT / 4);
        }
        self.numbers[1] = self.numbers[1].wrapping_add(answer as u32);
        match self.manner {
            Manner::Stay { until } if world.now + PAUSE < until => {
                self.on(Stage::Talk, world.now + PAUSE)
            }
            Manner::Drip { until } if world.now + 2 * PAUSE < until => {
                self.on(Stage::Talk, world.now + 2 * PAUSE)
            }
            _ => self.on(Stage::Close, world.now + ROUND_TRIP),
        }
    }

    /// What happens to these segments is no longer the client's care: it has its answer.
    fn close(&mut self, world: &World<'_>) -> Next {
        world.receive(&self.segment(0, ACK | FIN, 0), None);
        self.numbers[0] = self.numbers[0].wrapping_add(1);
        world.send(&self.segment(1, ACK | FIN, 0));
        self.numbers[1] = self.numbers[1].wrapping_add(1);
        world.receive(&self.segment(0, ACK, 0), None);
        self.done()
    }

    fn segment(&self, from: usize, flags: u8, bytes: usize) -> Vec<u8> {
        let ends = [self.client, self.server];
        let to = 1 - from;
        let options = if flags & SYN != 0 {
            // Segment size, SACK, timestamps, window scale, as a Linux client sends them.
            vec![
                2, 4, 5, 180, 4, 2, 8, 10, 0, 0, 0, 9, 0, 0, 0, 0, 1, 3, 3, 7,
            ]
        } else {
            Vec::new()
        };
        let acknowledgement = if flags & ACK == 0 {
            0
        } else {
            // A SYN-ACK acknowledges the SYN before the numbers go on.
            self.numbers[to].wrapping_add(u32::from(flags & SYN != 0))
        };
        let body = Tcp {
            source_port: self.ports[from],
            destination_port: self.ports[to],
            sequence: self.numbers[from],
            acknowledgement,
            flags,
            window: 64_000,
            options,
            payload: vec![0; bytes],
        };
        Packet::new(ends[from], ends[to], Body::Tcp(body)).ip()
    }

    fn datagram(&self, [from, to]: [usize; 2], bytes: usize) -> Vec<u8> {
        let ends = [self.client, self.server];
        let body = Udp {
            source_port: self.ports[from],
            destination_port: self.ports[to],
            payload: vec![0; bytes],
        };
        Packet::new(ends[from], ends[to], Body::Udp(body)).ip()
    }
}
