//! A capture judged by two rulesets, and the flows that fare otherwise under the second.

use std::collections::HashMap;
use std::collections::hash_map::Entry;

use keepstate_engine::process::Outcome;
use keepstate_engine::tuple::{Address, Family};
use keepstate_engine::verdict::{Reason, State, Verdict};
use keepstate_flowmemory::OwnedTable;

use crate::capture::{Frame, NetworkPacket, network_packet};
use crate::expression;
use crate::naming;
use crate::plane::LoadedPolicy;
use crate::replay::{Options, Replay};

/// Flows that are listed; beyond them packets are only counted. A listed flow takes some 300 bytes.
pub const FLOWS_LISTED_MAX: usize = 1 << 20;

/// Two replays of the same capture, packet by packet.
pub struct Backtest<'t> {
    replays: [Replay<'t>; 2],
    by_key: HashMap<Key, usize>,
    changed: Vec<Changed>,
    packets_changed: u64,
    not_listed: u64,
}

/// A flow of which a packet at least got another verdict.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Changed {
    /// The first such packet, in words.
    pub packet: String,
    /// Its number, from one.
    pub number: u64,
    /// How many such packets the flow has.
    pub packets: u64,
    /// What became of the first one, under either ruleset.
    pub sides: [Side; 2],
}

/// A verdict and where it comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Side {
    pub verdict: Verdict,
    pub state: State,
    pub reason: Option<Reason>,
    /// For [`LoadedPolicy::deciding`].
    pub rule: u32,
}

/// Both directions of a flow have the same; ICMP goes by addresses alone.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Key {
    is_v6: bool,
    protocol: u8,
    ends: [(Address, u16); 2],
}

impl<'t> Backtest<'t> {
    /// The tables are those that [`Options::table`] makes, one for each ruleset.
    pub fn new(tables: &'t [OwnedTable; 2], options: [Options; 2]) -> Self {
        let [current, candidate] = options;
        let [first, second] = tables;
        let replay = |table, options: Options| Replay::new(table, options.settings(), options, ());
        Self {
            replays: [replay(first, current), replay(second, candidate)],
            by_key: HashMap::new(),
            changed: Vec::new(),
            packets_changed: 0,
            not_listed: 0,
        }
    }

    pub fn judge(&mut self, frame: &Frame<'_>) {
        let [current, candidate] = &mut self.replays;
        let outcomes = [current.judge(frame).outcome, candidate.judge(frame).outcome];
        let [old, new] = outcomes;
        if old.verdict == new.verdict {
            return;
        }
        self.packets_changed += 1;
        let Some(key) = Key::of(frame) else {
            self.not_listed += 1;
            return;
        };
        let is_full = self.changed.len() >= FLOWS_LISTED_MAX;
        match self.by_key.entry(key) {
            Entry::Occupied(known) => self.changed[*known.get()].packets += 1,
            Entry::Vacant(_) if is_full => self.not_listed += 1,
            Entry::Vacant(place) => {
                place.insert(self.changed.len());
                self.changed.push(Changed {
                    packet: expression::describe(frame),
                    number: frame.number,
                    packets: 1,
                    sides: outcomes.map(Side::of),
                });
            }
        }
    }

    /// In the order in which the flows first fared otherwise.
    pub fn changed(&self) -> &[Changed] {
        &self.changed
    }

    /// Frames that were judged.
    pub const fn packets(&self) -> u64 {
        self.replays[0].totals().packets
    }

    /// Packets whose verdict is another one.
    pub const fn packets_changed(&self) -> u64 {
        self.packets_changed
    }

    /// Of these, packets of flows that are not listed.
    pub const fn not_listed(&self) -> u64 {
        self.not_listed
    }

    /// The rules of a side: 0 for the current ones, 1 for the candidate.
    pub fn policy(&self, side: usize) -> &LoadedPolicy {
        self.replays[side].plane().policy()
    }
}

impl Side {
    const fn of(outcome: Outcome) -> Self {
        Self {
            verdict: outcome.verdict,
            state: outcome.state,
            reason: outcome.reason,
            rule: outcome.rule,
        }
    }
}

impl Key {
    fn of(frame: &Frame<'_>) -> Option<Self> {
        let NetworkPacket::Packet { bytes, network, .. } = network_packet(frame) else {
            return None;
        };
        let packet = naming::Packet::read(bytes.get(network..)?)?;
        let (source, destination) = packet.ports().unwrap_or_default();
        let endpoints = packet.endpoints;
        let mut ends = [
            (endpoints.source, source),
            (endpoints.destination, destination),
        ];
        ends.sort_unstable();
        Some(Self {
            is_v6: endpoints.family == Family::V6,
            protocol: packet.protocol,
            ends,
        })
    }
}
