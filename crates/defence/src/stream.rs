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

/// A flow that grows fast.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Fast {
    pub(crate) stream: Stream,
    /// Packets a second of its originator, and answers.
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
    since: Option<u64>,
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
        if packets < self.least || self.now.len() >= REMEMBERED_MAX {
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
            None if self.was_complete => Some([self.least, bytes * self.least / packets, 0, 0]),
            None => None,
        };
        let mut seen = Seen {
            counters: stream.counters,
            since: None,
        };
        if let (Some(base), Some(ticks)) = (base, self.ticks)
            && ticks >= TICKS_MIN
            && packets - base[0] >= GROWN_MIN
        {
            let of_second = weight * f64::from(TICKS_PER_SECOND) / f64::from(ticks);
            let grown = [packets - base[0], answers - base[2]].map(|it| it as f64);
            let mean = |bytes: u64, packets: f64| bytes as f64 / packets.max(1.0);
            let rate = grown[0] * of_second;
            if rate >= FAST {
                let since = before.and_then(|it| it.since).unwrap_or(self.second);
                seen.since = Some(since);
                if self.fast.len() < FAST_MAX {
                    self.fast.push(Fast {
                        stream: *stream,
                        rate,
                        answers: grown[1] * of_second,
                        length: mean(bytes - base[1].min(bytes), grown[0]),
                        answer_length: mean(answer_bytes - base[3].min(answer_bytes), grown[1]),
                        since,
                    });
                }
            }
        }
        self.now.insert(name, seen);
    }

    /// These flows were ended.
    pub(crate) fn forget(&mut self, keys: &[FlowKey]) {
        self.fast.retain(|fast| !keys.contains(&fast.stream.key));
        for key in keys {
            // Should one begin again, it began with nothing.
            if let Some(seen) = self.now.get_mut(&name(key)) {
                seen.counters = [0; 4];
            }
        }
    }
}
