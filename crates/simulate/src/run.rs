//! The scenario from its begin to its end.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, BinaryHeap};
use std::net::IpAddr;
use std::sync::Arc;

use keepstate_defence::{
    Attack, Defence, Exemption, Exemptions, Gauges, Order, SURVEY_SECONDS, Sample, WALK_SECONDS,
    Why, held, next_mask, stream,
};
use keepstate_engine::settings::SETTING_ACCOUNTING;
use keepstate_engine::table;
use keepstate_engine::tuple::Family;
use keepstate_policy::{FileKind, Policy, Style, parse_rules};
use keepstate_sim::traffic::Random;

use crate::attacker::{Attacker, within};
use crate::client::{Conversation, Manner, Next, Of};
use crate::hands::Hands;
use crate::recorded::Playback;
use crate::report::{Report, Row, Tally};
use crate::scenario::{LegitimateKind, PlanKind, Scenario};
use crate::world::{SECOND, World, settings, table as flow_table};

/// Packets of attacks that are judged in a virtual second, at most. Of more, one in so many is judged, and
/// stands for all of them.
const PACKETS_PER_SECOND: f64 = 20_000.0;

/// Attack packets are spread evenly within such a time, and between them come the others at theirs.
const SLICE: u64 = 10_000_000;

/// Between two rounds of a capture, in nanoseconds.
const ROUND_PAUSE: u64 = SECOND;

/// A connection costs about as many packets.
const PACKETS_OF_CONNECTION: f64 = 5.0;

#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SimulateError {
    /// What is wrong with the rules, a line each.
    #[error("the rules cannot be used:\n{0}")]
    Rules(String),
    #[error("{0}")]
    Settings(String),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Due {
    /// Somebody honest begins.
    Arrive(usize),
    /// A flow of a capture does: which capture, for which time, and which flow.
    Play(usize, u32, usize),
    /// A conversation goes on.
    Step(usize),
}

/// Whoever has something to say.
enum Speaker {
    Model(Conversation),
    Recorded(Playback),
}

impl Speaker {
    fn step(&mut self, world: &World<'_>) -> Next {
        match self {
            Self::Model(conversation) => conversation.step(world),
            Self::Recorded(playback) => playback.step(world),
        }
    }

    /// Of whom, and since when.
    const fn of(&self) -> (Of, u64) {
        match self {
            Self::Model(conversation) => (conversation.of, conversation.began),
            Self::Recorded(playback) => (playback.of, playback.began),
        }
    }

    const fn client(&self) -> IpAddr {
        match self {
            Self::Model(conversation) => conversation.client,
            Self::Recorded(playback) => playback.ends[0],
        }
    }
}

struct Run<'s, 't> {
    scenario: &'s Scenario,
    world: World<'t>,
    random: Random,
    attackers: Vec<Attacker>,
    /// Where those are who do not forge their address.
    attacking: BTreeSet<IpAddr>,
    due: BinaryHeap<Reverse<(u64, u64, Due)>>,
    order: u64,
    conversations: Vec<Option<Speaker>>,
    free: Vec<usize>,
    thinned: f64,
    tally: Tally,
}

/// Plays a scenario. The same seed gives the same report.
///
/// Where attacks send more than can be judged, everything is made smaller by the same factor: one packet in so many
/// of the attacks, one connection in so many of the honest, a table and limits of as much less.
/// Shares (loss, how full the table is, who is heavy) stay what they would be; numbers in the report are
/// multiplied again.
pub fn run(scenario: &Scenario, seed: u64) -> Result<Report, SimulateError> {
    run_watched(scenario, seed, || ())
}

/// As [`run`]; `passed` is called after each virtual second.
pub fn run_watched(
    scenario: &Scenario,
    seed: u64,
    passed: impl Fn(),
) -> Result<Report, SimulateError> {
    let thinned = (peak_rate(scenario) / PACKETS_PER_SECOND).max(1.0);
    let policy = policy(&scenario.rules)?;
    let settings = settings(scenario, thinned).map_err(SimulateError::Settings)?;
    let table = flow_table(&settings);
    let mut world = World::new(&table, settings, scenario);
    let mut hands = Hands::new(policy, thinned, scenario.cookies);
    let begun = hands.begin(&mut world, &scenario.never_ban);
    begun.map_err(SimulateError::Rules)?;
    let mut random = Random::new(seed);
    let attackers = scenario.attack.iter();
    let attackers = attackers.map(|plan| Attacker::new(plan, scenario, &mut random));
    let attackers: Vec<Attacker> = attackers.collect();
    let sources = attackers.iter().flat_map(Attacker::sources);
    let mut run = Run {
        scenario,
        world,
        attacking: sources.copied().collect(),
        attackers,
        random,
        due: BinaryHeap::new(),
        order: 0,
        conversations: Vec::new(),
        free: Vec::new(),
        thinned,
        tally: Tally::new(scenario),
    };
    run.begin();
    let mut defence = Defence::new(scenario.mode);
    defence.set_exemptions(exemptions(scenario));
    let mut told = Vec::new();
    for second in 1..=u64::from(scenario.seconds) {
        run.second(second, &mut defence);
        let orders = run.measure(second, &mut defence);
        told.extend(orders.iter().filter_map(|order| match order {
            // One that comes back is told of again.
            Order::Tell(attack) if !attack.is_over => Some(Attack {
                began: second,
                ..Attack::clone(attack)
            }),
            _ => None,
        }));
        hands.carry_out(&mut run.world, &mut defence, &orders);
        run.tally.orders(second, &orders);
        passed();
    }
    Ok(run.report(seed, &defence, &hands, &told))
}

fn policy(text: &str) -> Result<Policy, SimulateError> {
    let parsed = parse_rules(text, FileKind::Detect);
    if parsed.has_errors() {
        let told = parsed.diagnostics.iter();
        let told: Vec<String> = told.map(|it| it.render("rules", Style::Plain)).collect();
        return Err(SimulateError::Rules(told.join("\n")));
    }
    let mut policy = Policy::default();
    policy.merge(parsed);
    Ok(policy)
}

fn exemptions(scenario: &Scenario) -> Exemptions {
    let never = scenario.never_ban.iter().map(|network| Exemption {
        network: *network,
        why: Why::NeverBan,
    });
    let own = scenario.servers.iter().map(|address| Exemption {
        network: keepstate_defence::Network::of(*address, 128),
        why: Why::Own,
    });
    Exemptions(never.chain(own).collect())
}

/// Packets a second that all attacks together send at most.
fn peak_rate(scenario: &Scenario) -> f64 {
    let rate_at = |second: u32| -> f64 {
        let active = scenario.attack.iter();
        let active = active.filter(|plan| (plan.begin..plan.end).contains(&second));
        let rates = active.map(|plan| match plan.kind.makes_connections() {
            true => plan.rate * PACKETS_OF_CONNECTION,
            false => plan.rate,
        });
        rates.sum()
    };
    let begins = scenario.attack.iter().map(|plan| rate_at(plan.begin));
    begins.fold(0.0, f64::max)
}

impl Run<'_, '_> {
    fn begin(&mut self) {
        for index in 0..self.scenario.capture.len() {
            self.schedule_play(index, 0, 0);
        }
        for index in 0..self.scenario.legitimate.len() {
            let plan = &self.scenario.legitimate[index];
            let begin = u64::from(plan.begin) * SECOND;
            if plan.kind != LegitimateKind::Session {
                let pause = self.pause(index);
                self.schedule(begin + pause, Due::Arrive(index));
                continue;
            }
            let sessions = (plan.rate / self.thinned).ceil().max(1.0) as u64;
            for number in 0..sessions {
                // Within five seconds, so that they do not all speak at once.
                let at = begin + number * 5 * SECOND / sessions;
                self.schedule(at, Due::Arrive(index));
            }
        }
    }

    /// The next flow of a capture that is played, in this round or the next.
    fn schedule_play(&mut self, index: usize, round: u32, flow: usize) {
        let plan = &self.scenario.capture[index];
        let flows = &plan.recording.flows;
        let (round, flow) = match flow < flows.len() {
            true => (round, flow),
            false if plan.is_looped && !flows.is_empty() => (round + 1, 0),
            false => return,
        };
        let real = u64::from(round) * (plan.recording.span + ROUND_PAUSE) + flows[flow].begin;
        let at = u64::from(plan.begin) * SECOND + (real as f64 / plan.speed) as u64;
        let end = plan.end.unwrap_or(self.scenario.seconds);
        if at < u64::from(end) * SECOND {
            self.schedule(at, Due::Play(index, round, flow));
        }
    }

    fn play(&mut self, index: usize, round: u32, number: usize) {
        self.schedule_play(index, round, number + 1);
        let plan = &self.scenario.capture[index];
        let flow = &plan.recording.flows[number];
        let servers = self.scenario.servers.iter().copied();
        let servers = servers.filter(|server| server.is_ipv4() == flow.server.is_ipv4());
        let servers: Vec<IpAddr> = servers.collect();
        let is_moved = plan
            .network
            .is_some_and(|it| it.is_v4() == flow.client.is_ipv4());
        if !plan.as_is && servers.is_empty() || plan.copies > 1 && !is_moved {
            self.tally.unplayed += 1;
            return;
        }
        let server = match plan.as_is {
            true => flow.server,
            false => servers[spread(flow.server, 0) as usize % servers.len()],
        };
        for copy in 0..plan.copies {
            // One in so many.
            if self.random.below(1 << 32) as f64 * self.thinned >= (1_u64 << 32) as f64 {
                continue;
            }
            let client = match (plan.network, is_moved) {
                (Some(network), true) => client_of(network, spread(flow.client, copy)),
                _ => flow.client,
            };
            let of = Of::Legitimate(self.scenario.legitimate.len() + index);
            let recorded = (Arc::clone(&plan.recording), number, plan.speed);
            // A client that comes again takes other ports.
            let port_shift = (round.wrapping_mul(7919) % 64_512) as u16;
            let playback =
                Playback::new((of, self.world.now), recorded, [client, server], port_shift);
            self.speak(Speaker::Recorded(playback));
        }
    }

    /// Until the next of them comes: exponentially distributed.
    fn pause(&mut self, index: usize) -> u64 {
        let rate = self.scenario.legitimate[index].rate / self.thinned;
        let uniform = (self.random.below(1 << 52) as f64 + 1.0) / (1_u64 << 52) as f64;
        (-uniform.ln() / rate * SECOND as f64) as u64
    }

    fn schedule(&mut self, at: u64, due: Due) {
        self.order += 1;
        self.due.push(Reverse((at, self.order, due)));
    }

    /// All that happens in the second that ends then.
    fn second(&mut self, second: u64, defence: &mut Defence) {
        let end = second * SECOND;
        let mut start = end - SECOND;
        while start < end {
            self.slice(start);
            start += SLICE;
            let samples = self.world.plane.observer.0.take();
            self.tally.samples += samples.len() as u64;
            for event in samples {
                if let Some(mut sample) = Sample::of(&event) {
                    sample.weight *= self.thinned;
                    defence.note(&sample);
                }
            }
        }
        self.world.now = end;
    }

    fn slice(&mut self, start: u64) {
        let second = start / SECOND;
        let mut strikes: Vec<(f64, usize)> = Vec::new();
        for (index, attacker) in self.attackers.iter_mut().enumerate() {
            let plan = &attacker.plan;
            if !(u64::from(plan.begin)..u64::from(plan.end)).contains(&second) {
                continue;
            }
            attacker.due += plan.rate / self.thinned * SLICE as f64 / SECOND as f64;
            let count = attacker.due.floor();
            attacker.due -= count;
            strikes.extend((0..count as u64).map(|number| (number as f64 / count, index)));
        }
        strikes.sort_by(|a, b| a.0.total_cmp(&b.0).then(a.1.cmp(&b.1)));
        for (place, index) in strikes {
            let at = start + (place * SLICE as f64) as u64;
            self.run_until(at);
            self.world.now = at;
            self.strike(index);
        }
        self.run_until(start + SLICE);
    }

    fn strike(&mut self, index: usize) {
        let attacker = &mut self.attackers[index];
        if !attacker.plan.kind.makes_connections() {
            let is_in = attacker.strike(&self.world, &mut self.random);
            self.tally.struck(index, is_in);
            return;
        }
        let until = u64::from(attacker.plan.end) * SECOND;
        let manner = match attacker.plan.kind {
            PlanKind::Slow => Manner::Drip { until },
            _ => Manner::Idle {
                until: self.world.now + 3 * SECOND,
            },
        };
        let ends = [
            attacker.source(&mut self.random),
            attacker.target(&mut self.random),
        ];
        let port = attacker.plan.port;
        self.converse(Of::Attack(index), manner, ends, port);
    }

    fn run_until(&mut self, end: u64) {
        while let Some(Reverse((at, _, due))) = self.due.peek().copied()
            && at <= end
        {
            self.due.pop();
            self.world.now = at;
            match due {
                Due::Arrive(index) => self.arrive(index),
                Due::Play(index, round, flow) => self.play(index, round, flow),
                Due::Step(index) => self.step(index),
            }
        }
    }

    fn arrive(&mut self, index: usize) {
        let plan = &self.scenario.legitimate[index];
        let end = u64::from(plan.end.unwrap_or(self.scenario.seconds)) * SECOND;
        let now = self.world.now;
        if now >= end {
            return;
        }
        let server = plan.server.unwrap_or(self.scenario.servers[0]);
        let client = if plan.nat {
            0
        } else {
            self.random.below(plan.clients.into())
        };
        let client = client_of(plan.network, client);
        let manner = match plan.kind {
            LegitimateKind::Web => Manner::Ask,
            LegitimateKind::Dns => Manner::Datagram,
            LegitimateKind::Session => Manner::Stay { until: end },
        };
        if plan.kind != LegitimateKind::Session {
            let pause = self.pause(index);
            self.schedule(now + pause, Due::Arrive(index));
        }
        let port = self.scenario.legitimate[index].port;
        self.converse(Of::Legitimate(index), manner, [client, server], port);
    }

    fn converse(&mut self, of: Of, manner: Manner, ends: [IpAddr; 2], port: u16) {
        let now = self.world.now;
        let conversation = Conversation::new(of, manner, ends, port, now, &mut self.random);
        self.speak(Speaker::Model(conversation));
    }

    fn speak(&mut self, speaker: Speaker) {
        self.tally.begun(speaker.of());
        let index = match self.free.pop() {
            Some(index) => {
                self.conversations[index] = Some(speaker);
                index
            }
            None => {
                self.conversations.push(Some(speaker));
                self.conversations.len() - 1
            }
        };
        self.step(index);
    }

    fn step(&mut self, index: usize) {
        let Some(conversation) = &mut self.conversations[index] else {
            return;
        };
        match conversation.step(&self.world) {
            Next::At(at) => self.schedule(at, Due::Step(index)),
            next => {
                let at_once = match next {
                    Next::Done { at_once } => Some(at_once),
                    _ => None,
                };
                let is_beside = self.attacking.contains(&conversation.client());
                self.tally.ended(conversation.of(), at_once, is_beside);
                self.conversations[index] = None;
                self.free.push(index);
            }
        }
    }

    /// Ends a second for the recogniser.
    fn measure(&mut self, second: u64, defence: &mut Defence) -> Vec<Order> {
        self.world.sweep();
        let is_watching = defence.is_watching_flows();
        if second.is_multiple_of(WALK_SECONDS) || is_watching {
            self.walk(second, defence);
        }
        let [flows, half_open] = self.world.flows();
        let settings = &mut self.world.plane.settings;
        let scaled = |count: u64| (count as f64 * self.thinned) as u64;
        let gauges = Gauges {
            flows: scaled(flows),
            flows_max: scaled(settings.flows_max.into()),
            half_open: scaled(half_open),
            half_open_max: scaled(settings.half_open_max.into()),
        };
        settings.samples.mask = next_mask(settings.samples.mask, self.tally.samples);
        self.tally.end_second(&gauges);
        defence.tick(second, &gauges)
    }

    /// As the daemon does.
    fn walk(&self, second: u64, defence: &mut Defence) {
        let settings = &self.world.plane.settings;
        let is_survey = second.is_multiple_of(SURVEY_SECONDS);
        let is_counted = settings.has(SETTING_ACCOUNTING);
        if is_survey {
            defence.begin_survey();
        }
        if is_counted {
            defence.begin_walk(self.world.tick(), second);
        }
        if !is_survey && !is_counted {
            return;
        }
        let [v4, v6] = settings.buckets;
        let now = self.world.tick();
        for (family, buckets) in [(Family::V4, v4), (Family::V6, v6)] {
            table::visit(&self.world.plane.flows, family, 0..buckets, now, |entry| {
                if is_survey && let Some(held) = held(entry, settings, now) {
                    defence.hold(&held, self.thinned);
                }
                if is_counted && let Some(stream) = stream(entry) {
                    defence.stream(&stream, self.thinned);
                }
            });
        }
    }

    fn report(mut self, seed: u64, defence: &Defence, hands: &Hands, told: &[Attack]) -> Report {
        // What is still under way has not failed.
        self.tally.unfinished = self.conversations.iter().flatten().count() as u64;
        let mut wrong = BTreeMap::new();
        for plan in &self.scenario.legitimate {
            let clients = if plan.nat { 1 } else { plan.clients };
            for number in 0..clients {
                let client = client_of(plan.network, number.into());
                let banned = hands.banned.iter().find(|network| network.contains(client));
                if let Some(network) = banned {
                    wrong.insert(client, *network);
                }
            }
        }
        // Who attacks from an address is rightly banned with it.
        wrong.retain(|client, _| !self.attacking.contains(client));
        let rows: Vec<Row> = std::mem::take(&mut self.tally.rows);
        Report::new(
            (self.scenario, seed, self.thinned),
            defence,
            told,
            (hands.banned.len(), wrong),
            (&self.tally, rows),
        )
    }
}

/// A number for an address and whom it is played for besides: another for each.
fn spread(address: IpAddr, copy: u32) -> u64 {
    let bits = match address {
        IpAddr::V4(address) => u128::from(address.to_bits()),
        IpAddr::V6(address) => address.to_bits(),
    };
    let mixed = (bits as u64 ^ (bits >> 64) as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    (mixed >> 20) + (u64::from(copy) << 44)
}

/// The address of a client by its number: spread over the network.
fn client_of(network: keepstate_defence::Network, number: u64) -> IpAddr {
    within(
        &network,
        &mut Random::new(number.wrapping_mul(0x2545_f491_4f6c_dd1d)),
    )
}
