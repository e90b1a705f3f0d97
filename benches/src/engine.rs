//! The engine in user space: established, new and refused packets at several table sizes. What it costs
//! to make the packets is measured by making as many that nobody judges, and taken off.

use std::cell::Cell;
use std::hint::black_box;
use std::time::Instant;

use keepstate_engine::policy::{
    NO_RULE, POLICY_NONE, PolicyHeader, RULE_DESTINATION_PORT, RULE_FLOW_ONLY, RULE_PROTOCOL,
    RULE_STATES, Rule, target,
};
use keepstate_engine::process::{Arrival, Checksums, Outcome, Path};
use keepstate_engine::settings::{SETTING_ACCOUNTING, SETTING_TIMESTAMP, Settings};
use keepstate_engine::time::Tick;
use keepstate_engine::verdict::{State, Verdict};
use keepstate_engine::wire::Link;
use keepstate_flowmemory::{Accounting, OwnedTable, SliceTable, buckets_for, random_hash_keys};
use keepstate_sim::plane::{BATCH_PACKETS_MAX, Batch, LoadedPolicy, Plane};

use crate::frames::{Frame, Kind};
use crate::sample::{Sample, sample};

/// Packets in one measurement.
const PACKETS: u32 = 1 << 20;
/// How many packets, of all flows, until clients have sent one byte more: so every packet says something
/// new to its record, and no flow leaves its window.
const PACKETS_A_BYTE: u32 = 1024;
const ROUNDS: usize = 5;
const NOW: Tick = Tick(1_000_000);

/// How packets are handed over.
#[derive(Clone, Copy)]
pub(crate) enum Handover {
    Single,
    Batch,
}

/// A table with so many established flows behind so many rules.
pub(crate) struct Engine {
    table: OwnedTable,
    settings: Settings,
    flows: u32,
    /// Established packets so far.
    sent: Cell<u32>,
}

impl Engine {
    /// An empty table rated for `flows`, with counters and start times.
    pub(crate) fn new(flows: u32) -> anyhow::Result<Self> {
        let buckets = [buckets_for(flows), 4];
        let mut settings = Settings::defaults(flows * 2, buckets);
        settings.half_open_max = flows * 2;
        settings.flags |= SETTING_ACCOUNTING | SETTING_TIMESTAMP;
        settings.hash_keys =
            random_hash_keys().map_err(|error| anyhow::anyhow!("no random keys: {error}"))?;
        Ok(Self {
            table: OwnedTable::new(buckets, Accounting::Yes),
            settings,
            flows: 0,
            sent: Cell::new(0),
        })
    }

    /// Bytes of table memory for each of `flows`.
    pub(crate) fn bytes_per_flow(flows: u32) -> f64 {
        let slots = f64::from(buckets_for(flows)) * 8.0;
        slots * f64::from(8 * 8 + 2 * 8 + 5 * 8 + 1) / f64::from(flows)
    }

    /// Opens flows by handshake (TCP) or question and answer (UDP) until there are so many; the
    /// cost of the first packet of one of the last.
    pub(crate) fn fill(&mut self, kind: Kind, flows: u32) -> anyhow::Result<Sample> {
        let plane = self.plane(1);
        let first = self.flows;
        let timed = (flows - first).min(8_192);
        let rest = flows - first - timed;
        for index in first..first + rest {
            open(&plane, kind, index)?;
        }
        let rounds = 4;
        let mut next = first + rest;
        let cost = sample(rounds, || {
            let count = timed / rounds as u32;
            let started = Instant::now();
            for index in next..next + count {
                let outcome = judge(&plane, &Frame::opening(kind, index));
                anyhow::ensure!(outcome.state == State::New, "not new: {outcome:?}");
            }
            let elapsed = started.elapsed();
            for index in next..next + count {
                answer(&plane, kind, index)?;
            }
            next += count;
            Ok(elapsed.as_nanos() as f64 / f64::from(count))
        })?;
        for index in next..flows {
            open(&plane, kind, index)?;
        }
        self.flows = flows;
        Ok(cost)
    }

    /// Cost of a packet of a random established flow.
    pub(crate) fn established(
        &self,
        kind: Kind,
        rules: u32,
        handover: Handover,
    ) -> anyhow::Result<Sample> {
        sample(ROUNDS, || {
            let making = maker_ns(kind, self.flows);
            Ok(self.established_once(kind, rules, handover, PACKETS)? - making)
        })
    }

    /// The same, measured once over so many packets.
    pub(crate) fn established_once(
        &self,
        kind: Kind,
        rules: u32,
        handover: Handover,
        packets: u32,
    ) -> anyhow::Result<f64> {
        let plane = self.plane(rules);
        let mut random = Random::SEEDED;
        let mut packet = self.sent.get();
        let mut next = || {
            packet += 1;
            Frame::established(kind, random.below(self.flows), packet / PACKETS_A_BYTE)
        };
        self.sent.set(self.sent.get() + packets);
        match handover {
            Handover::Single => single(&plane, &mut next, State::Established, packets),
            Handover::Batch => batched(&plane, &mut next, State::Established, packets),
        }
    }

    /// Cost of a packet that would begin a flow and is refused by the rules.
    pub(crate) fn refused(&self, kind: Kind, rules: u32) -> anyhow::Result<Sample> {
        self.refused_by(kind, policy(rules))
    }

    /// The same of a given policy.
    pub(crate) fn refused_by(&self, kind: Kind, policy: LoadedPolicy) -> anyhow::Result<Sample> {
        let plane = Plane::new(self.table.as_slices(), self.settings, policy, ());
        let mut index = 1 << 30;
        let mut next = || {
            index += 1;
            Frame::refused(kind, index)
        };
        sample(ROUNDS, || {
            let making = maker_ns(kind, self.flows);
            Ok(single(&plane, &mut next, State::New, PACKETS)? - making)
        })
    }

    fn plane(&self, rules: u32) -> Plane<SliceTable<'_>> {
        Plane::new(self.table.as_slices(), self.settings, policy(rules), ())
    }
}

/// Established first, then rules that match nothing, then one port; policy DROP.
pub(crate) fn policy(rules: u32) -> LoadedPolicy {
    let established = Rule {
        flags: RULE_STATES | RULE_FLOW_ONLY,
        states: u32::from(State::Established.bit()),
        target: target::ACCEPT,
        number: 1,
        hook: 2,
        ..Rule::ALWAYS
    };
    let port = |port: u16, number: u32| Rule {
        flags: RULE_PROTOCOL | RULE_DESTINATION_PORT | RULE_FLOW_ONLY,
        protocol: 6,
        destination_port: [port, port],
        target: target::ACCEPT,
        number,
        hook: 2,
        ..Rule::ALWAYS
    };
    let any = Rule {
        target: target::ACCEPT,
        number: rules,
        hook: 2,
        ..Rule::ALWAYS
    };
    let end = Rule {
        target: target::DROP,
        hook: 2,
        ..Rule::ALWAYS
    };
    let mut list = Vec::new();
    // As the last of the rules, so that the walk meets all of them unless it is remembered.
    list.extend((1..rules).map(|number| port(60_000, number)));
    list.push(established);
    list.push(Rule {
        flags: RULE_DESTINATION_PORT | RULE_PROTOCOL,
        protocol: 6,
        destination_port: [443, 443],
        ..any
    });
    list.push(Rule {
        flags: RULE_DESTINATION_PORT | RULE_PROTOCOL,
        protocol: 17,
        destination_port: [443, 443],
        ..any
    });
    list.push(end);
    let mut header = PolicyHeader {
        rules: list.len() as u32,
        ..PolicyHeader::NONE
    };
    header.flags &= !POLICY_NONE;
    header.entry = [[0; 3]; 2];
    header.cached = [NO_RULE; 8];
    header.cached[0] = rules - 1;
    LoadedPolicy {
        header,
        rules: list,
        ..LoadedPolicy::NONE
    }
}

const ARRIVAL: Arrival = Arrival {
    link: Link::Ethernet,
    path: Path::Ingress,
    checksums: Checksums::Unverified,
    zone: 0,
    interfaces: 0,
};

type BenchPlane<'a> = Plane<SliceTable<'a>>;

fn judge(plane: &BenchPlane<'_>, frame: &Frame) -> Outcome {
    plane.judge(frame.bytes(), &ARRIVAL, NOW)
}

fn open(plane: &BenchPlane<'_>, kind: Kind, index: u32) -> anyhow::Result<()> {
    let outcome = judge(plane, &Frame::opening(kind, index));
    anyhow::ensure!(
        outcome.verdict == Verdict::Accept,
        "flow {index} was refused: {outcome:?}"
    );
    answer(plane, kind, index)
}

fn answer(plane: &BenchPlane<'_>, kind: Kind, index: u32) -> anyhow::Result<()> {
    judge(plane, &Frame::answer(kind, index));
    let outcome = judge(plane, &Frame::established(kind, index, 0));
    anyhow::ensure!(
        outcome.state == State::Established,
        "flow {index}: {outcome:?}"
    );
    Ok(())
}

fn single(
    plane: &BenchPlane<'_>,
    next: &mut impl FnMut() -> Frame,
    state: State,
    packets: u32,
) -> anyhow::Result<f64> {
    let mut wrong = 0;
    let started = Instant::now();
    for _ in 0..packets {
        let outcome = judge(plane, black_box(&next()));
        wrong += u32::from(outcome.state != state);
    }
    finish(started, wrong, packets)
}

/// Cost of making packets of random flows.
pub(crate) fn maker_ns(kind: Kind, flows: u32) -> f64 {
    let mut random = Random::SEEDED;
    let started = Instant::now();
    for packet in 0..PACKETS {
        let sent = packet / PACKETS_A_BYTE;
        black_box(Frame::established(kind, random.below(flows), sent));
    }
    started.elapsed().as_nanos() as f64 / f64::from(PACKETS)
}

fn batched(
    plane: &BenchPlane<'_>,
    next: &mut impl FnMut() -> Frame,
    state: State,
    packets: u32,
) -> anyhow::Result<f64> {
    let mut batch = Box::<Batch>::default();
    let mut frames = [Frame::EMPTY; BATCH_PACKETS_MAX];
    let mut wrong = 0;
    let started = Instant::now();
    for _ in 0..packets as usize / BATCH_PACKETS_MAX {
        for frame in &mut frames {
            *frame = next();
        }
        let handed = black_box(&frames).iter().map(Frame::bytes);
        plane.judge_batch(&mut batch, handed, &ARRIVAL, NOW, |outcome| {
            wrong += u32::from(outcome.state != state);
        });
    }
    finish(started, wrong, packets)
}

fn finish(started: Instant, wrong: u32, packets: u32) -> anyhow::Result<f64> {
    let elapsed = started.elapsed().as_nanos() as f64 / f64::from(packets);
    anyhow::ensure!(
        wrong == 0,
        "{wrong} packets were not what they were meant to be"
    );
    Ok(elapsed)
}

/// xorshift64.
struct Random(u64);

impl Random {
    const SEEDED: Self = Self(0x2545_f491_4f6c_dd1d);

    fn below(&mut self, limit: u32) -> u32 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        ((u64::from((self.0 >> 32) as u32) * u64::from(limit)) >> 32) as u32
    }
}
