//! Flows that were answered. Their packets go the short way and are not sampled; what they are known by is how their counters
//! grow from one walk through the table to the next.

use std::collections::HashMap;
use std::net::IpAddr;

use keepstate_engine::record::SEEN_REPLY;
use keepstate_engine::table::Entry;
use keepstate_engine::time::{TICKS_PER_SECOND, Tick};
use keepstate_engine::tuple::FlowKey;
use keepstate_engine::wire::transport::{ICMP, ICMPV6, UDP};

use crate::network::Network;
use crate::sample::address;

/// How often flows are looked at, in seconds, where they are counted and none is watched.
pub const WALK_SECONDS: u64 = 2;

/// A flow that was answered, with what was counted of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stream {
    pub key: FlowKey,
    /// Who began it, and with whom.
    pub source: IpAddr,
    pub destination: IpAddr,
    pub source_port: u16,
    pub destination_port: u16,
    pub protocol: u8,
    /// Packets and bytes of its originator, then of the answers.
    pub counters: [u64; 4],
}

impl Stream {
    const fn turned(&self) -> Self {
        Self {
            source: self.destination,
            destination: self.source,
            source_port: self.destination_port,
            destination_port: self.source_port,
            counters: turned(self.counters),
            ..*self
        }
    }
}

const fn turned([packets, bytes, answers, answer_bytes]: [u64; 4]) -> [u64; 4] {
    [answers, answer_bytes, packets, bytes]
}

fn mean(bytes: u64, packets: u64) -> f64 {
    bytes as f64 / packets.max(1) as f64
}

/// Of a record; `None` where it is not counted, not answered, or of a protocol whose numbers each packet must know.
pub fn stream(entry: &Entry) -> Option<Stream> {
    let (key, control) = (entry.key, entry.control);
    let protocol = key.protocol();
    let is_open = matches!(protocol, UDP | ICMP | ICMPV6);
    if !is_open || control.status() & SEEN_REPLY == 0 {
        return None;
    }
    let tuple = key.tuple(control.originator());
    Some(Stream {
        key,
        source: address(key.family, tuple.source),
        destination: address(key.family, tuple.destination),
        source_port: tuple.source_port,
        destination_port: tuple.destination_port,
        protocol,
        counters: entry.counters()?,
    })
}

/// Packets that a flow must have had before it is remembered: none that has fewer grows fast.
const LEAST: u64 = 1000;

/// Flows that are remembered between two walks. Where there are more, those that have had more packets are.
const REMEMBERED_MAX: usize = 16_384;

/// Fast ones that are told of, and from how many packets a second on a flow is one.
const FAST_MAX: usize = 1024;
const FAST: f64 = 2000.0;

/// Packets that a flow must have grown by for its rate to be believed.
const GROWN_MIN: u64 = 16;

/// Ticks between two walks below which nothing is said of rates.
const TICKS_MIN: u32 = TICKS_PER_SECOND / 2;

/// A side of a flow that grows fast. Its stream is turned so that this side is the source.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Fast {
    pub(crate) stream: Stream,
    /// It is the other that has begun the flow.
    pub(crate) is_asked: bool,
    /// Packets a second of its source, and answers.
    pub(crate) rate: f64,
    pub(crate) answers: f64,
    /// Bytes of one packet of each.
    pub(crate) length: f64,
    pub(crate) answer_length: f64,
    /// Second in which it was first found fast.
    pub(crate) since: u64,
}

impl Fast {
    /// What its sender is counted by.
    pub(crate) fn network(&self) -> Network {
        let length = if self.stream.source.is_ipv4() { 32 } else { 64 };
        Network::of(self.stream.source, length)
    }
}

#[derive(Clone, Copy, Debug)]
struct Seen {
    counters: [u64; 4],
    /// Second in which either side was first found fast.
    since: [Option<u64>; 2],
}

/// A key that can be looked up.
type Name = (u8, [u64; 5]);

const fn name(key: &FlowKey) -> Name {
    (key.family as u8, key.words)
}

#[derive(Clone, Debug)]
pub(crate) struct Streams {
    before: HashMap<Name, Seen>,
    /// Of the walk that goes on, or was the last.
    now: HashMap<Name, Seen>,
    pub(crate) fast: Vec<Fast>,
    /// Networks of this host.
    pub(crate) own: Vec<Network>,
    least: u64,
    walked_at: Option<Tick>,
    /// Ticks since the walk before; none at the first.
    ticks: Option<u32>,
    /// Whether a flow that is not among those [before](Self::before) had fewer than [`Self::least`] packets then.
    was_complete: bool,
    second: u64,
}

impl Default for Streams {
    fn default() -> Self {
        Self {
            before: HashMap::new(),
            now: HashMap::new(),
            fast: Vec::new(),
            own: Vec::new(),
            least: LEAST,
            walked_at: None,
            ticks: None,
            was_complete: false,
            second: 0,
        }
    }
}

impl Streams {
    /// Before the table is walked.
    pub(crate) fn begin(&mut self, tick: Tick, second: u64) {
        let is_full = self.now.len() >= REMEMBERED_MAX;
        self.was_complete = self.walked_at.is_some() && !is_full;
        if is_full {
            self.least *= 2;
        } else if self.now.len() < REMEMBERED_MAX / 4 && self.least > LEAST {
            self.least /= 2;
            // Those in between were not remembered.
            self.was_complete = false;
        }
        self.before = std::mem::take(&mut self.now);
        self.ticks = self.walked_at.map(|at| tick.0.wrapping_sub(at.0));
        self.walked_at = Some(tick);
        self.second = second;
        self.fast.clear();
    }

    /// A flow that was found; `weight` is how many it stands for.
    pub(crate) fn note(&mut self, stream: &Stream, weight: f64) {
        let [packets, bytes, answers, answer_bytes] = stream.counters;
        let least = |of: u64| of.min(self.least);
        if packets.max(answers) < self.least || self.now.len() >= REMEMBERED_MAX {
            return;
        }
        let name = name(&stream.key);
        let before = self.before.get(&name);
        let base = match before {
            Some(seen) if seen.counters[0] <= packets && seen.counters[2] <= answers => {
                Some(seen.counters)
            }
            // Another flow between the same ports.
            Some(_) => Some([0; 4]),
            // It had fewer packets than are remembered.
            None if self.was_complete => Some([
                least(packets),
                bytes / packets.max(1) * least(packets),
                least(answers),
                answer_bytes / answers.max(1) * least(answers),
            ]),
            None => None,
        };
        let mut seen = Seen {
            counters: stream.counters,
            since: [None; 2],
        };
        if let (Some(base), Some(ticks)) = (base, self.ticks)
            && ticks >= TICKS_MIN
        {
            let mut grown = [0; 4];
            for (to, (now, then)) in grown.iter_mut().zip(stream.counters.iter().zip(base)) {
                *to = now.saturating_sub(then);
            }
            let of_second = weight * f64::from(TICKS_PER_SECOND) / f64::from(ticks);
            let since = before.map_or([None; 2], |it| it.since);
            let sides = [(*stream, grown), (stream.turned(), turned(grown))];
            for (place, (stream, grown)) in sides.into_iter().enumerate() {
                let is_own = self.own.iter().any(|it| it.contains(stream.source));
                let rate = grown[0] as f64 * of_second;
                if grown[0] < GROWN_MIN || rate < FAST || is_own {
                    continue;
                }
                let since = since[place].unwrap_or(self.second);
                seen.since[place] = Some(since);
                if self.fast.len() < FAST_MAX {
                    self.fast.push(Fast {
                        stream,
                        is_asked: place == 1,
                        rate,
                        answers: grown[2] as f64 * of_second,
                        length: mean(grown[1], grown[0]),
                        answer_length: mean(grown[3], grown[2]),
                        since,
                    });
                }
            }
        }
        self.now.insert(name, seen);
    }
}
