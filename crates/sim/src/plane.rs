//! The native plane: what the engine asks of its host, answered from plain memory.

use std::cell::{Cell, RefCell};

use keepstate_engine::event::Event;
use keepstate_engine::host::Route;
use keepstate_engine::host::{FlowMemory, Host};
use keepstate_engine::policy::{Condition, PolicyHeader, Rule};
use keepstate_engine::process::{Arrival, Outcome, Scratch, finish, prepare, process};
use keepstate_engine::settings::Settings;
use keepstate_engine::time::Tick;
use keepstate_engine::trace::Step;
use keepstate_engine::wire::PacketInfo;

use crate::locals::Locals;
use crate::packet::Bytes;
use crate::traffic::Random;

/// A policy in memory.
#[derive(Clone, Debug)]
pub struct LoadedPolicy {
    pub header: PolicyHeader,
    pub rules: Vec<Rule>,
    pub conditions: Vec<Condition>,
    /// What the rules are called, by the same index.
    pub names: Vec<RuleName>,
}

/// How to speak of a compiled rule.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RuleName {
    pub chain: String,
    /// As iptables-save prints it.
    pub text: String,
}

/// The rule that gave a verdict.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Deciding<'a> {
    pub chain: &'a str,
    /// Number in its chain; `None` for the chain's policy.
    pub number: Option<u32>,
}

impl LoadedPolicy {
    /// Accepts everything; flows are tracked all the same.
    pub const NONE: Self = Self {
        header: PolicyHeader::NONE,
        rules: Vec::new(),
        conditions: Vec::new(),
        names: Vec::new(),
    };

    /// The chain and number of a rule.
    pub fn deciding(&self, index: u32) -> Option<Deciding<'_>> {
        let rule = self.rules.get(index as usize)?;
        let name = self.names.get(index as usize)?;
        Some(Deciding {
            chain: &name.chain,
            number: (rule.number != 0).then_some(rule.number),
        })
    }
}

/// Packets and bytes that a rule matched.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RuleCounter {
    pub packets: u64,
    pub bytes: u64,
}

/// Is told what happens while a packet is judged.
pub trait Observer {
    /// Whether [`Observer::step`] does anything.
    fn wants_steps(&self) -> bool {
        false
    }
    fn step(&self, _step: Step) {}
    fn event(&self, _event: &Event) {}
}

impl Observer for () {}

/// Keeps the steps of the packets it sees.
#[derive(Debug, Default)]
pub struct Recorder {
    steps: RefCell<Vec<Step>>,
}

impl Recorder {
    /// The steps so far; the recorder begins anew.
    pub fn take(&self) -> Vec<Step> {
        self.steps.take()
    }
}

impl Observer for Recorder {
    fn wants_steps(&self) -> bool {
        true
    }

    fn step(&self, step: Step) {
        self.steps.borrow_mut().push(step);
    }
}

/// Flow table, policy, settings and routes of one host, for one thread.
pub struct Plane<M, O = ()> {
    pub flows: M,
    pub settings: Settings,
    pub locals: Locals,
    pub observer: O,
    /// Bit of each interface pattern that the outgoing interface matches.
    pub out_interfaces: u64,
    policy: LoadedPolicy,
    counters: Vec<Cell<RuleCounter>>,
    wall_ns: Cell<u64>,
    random: RefCell<Random>,
}

impl<M: FlowMemory, O: Observer> Plane<M, O> {
    pub fn new(flows: M, settings: Settings, policy: LoadedPolicy, observer: O) -> Self {
        let counters = vec![Cell::default(); policy.rules.len()];
        Self {
            flows,
            settings,
            locals: Locals::default(),
            observer,
            out_interfaces: 0,
            policy,
            counters,
            wall_ns: Cell::new(0),
            // The same each time.
            random: RefCell::new(Random::new(0)),
        }
    }

    pub const fn policy(&self) -> &LoadedPolicy {
        &self.policy
    }

    /// What the rule with this index has matched.
    pub fn rule_counter(&self, index: u32) -> RuleCounter {
        let counter = self.counters.get(index as usize);
        counter.map(Cell::get).unwrap_or_default()
    }

    /// Sets the wall clock, for start times of flows.
    pub fn set_wall_clock(&self, nanoseconds: u64) {
        self.wall_ns.set(nanoseconds);
    }

    /// Judges one packet.
    pub fn judge(&self, packet: &[u8], arrival: &Arrival, now: Tick) -> Outcome {
        process(&Bytes(packet), arrival, self, &mut Scratch::default(), now)
    }
}

/// Packets that are judged together at most: so many reads of memory a core can have under way
/// twice over, and their scratch memory still fits into its first cache.
pub const BATCH_PACKETS_MAX: usize = 32;

/// Scratch memory for a batch.
#[derive(Debug, Default)]
pub struct Batch {
    scratch: [Scratch; BATCH_PACKETS_MAX],
}

impl<M: FlowMemory, O: Observer> Plane<M, O> {
    /// Judges up to [`BATCH_PACKETS_MAX`] packets, in order, and hands each outcome to `each`. Same
    /// outcomes as one at a time, but the records are fetched together.
    pub fn judge_batch<'p>(
        &self,
        batch: &mut Batch,
        packets: impl Iterator<Item = &'p [u8]> + Clone,
        arrival: &Arrival,
        now: Tick,
        mut each: impl FnMut(Outcome),
    ) {
        let mut prepared = [const { None }; BATCH_PACKETS_MAX];
        let slots = batch.scratch.iter_mut().zip(&mut prepared);
        for ((scratch, prepared), packet) in slots.zip(packets.clone()) {
            *prepared = Some(prepare(&Bytes(packet), arrival, self, scratch, now));
        }
        for (scratch, _) in batch.scratch.iter_mut().zip(prepared.iter().flatten()) {
            scratch.prefetch(self);
        }
        let slots = batch.scratch.iter_mut().zip(prepared.iter().flatten());
        for ((scratch, prepared), packet) in slots.zip(packets) {
            each(finish(&Bytes(packet), arrival, self, scratch, *prepared));
        }
    }
}

impl<M: FlowMemory, O: Observer> Host for Plane<M, O> {
    type Flows = M;

    fn flows(&self) -> &M {
        &self.flows
    }

    fn settings(&self) -> &Settings {
        &self.settings
    }

    fn policy(&self) -> &PolicyHeader {
        &self.policy.header
    }

    fn rule(&self, index: u32) -> Option<&Rule> {
        self.policy.rules.get(index as usize)
    }

    fn condition(&self, index: u32) -> Option<&Condition> {
        self.policy.conditions.get(index as usize)
    }

    fn count_rule(&self, index: u32, bytes: u32) {
        if let Some(cell) = self.counters.get(index as usize) {
            let counter = cell.get();
            cell.set(RuleCounter {
                packets: counter.packets + 1,
                bytes: counter.bytes + u64::from(bytes),
            });
        }
    }

    fn route(&self, packet: &PacketInfo) -> Route {
        Route {
            hook: self.locals.hook(packet.family, &packet.destination),
            out_interfaces: self.out_interfaces,
        }
    }

    fn random(&self) -> u32 {
        self.random.borrow_mut().number() as u32
    }

    fn emit(&self, event: &Event) {
        self.observer.event(event);
    }

    fn wall_clock(&self) -> u64 {
        self.wall_ns.get()
    }

    fn is_traced(&self) -> bool {
        self.observer.wants_steps()
    }

    fn trace(&self, step: Step) {
        self.observer.step(step);
    }
}
