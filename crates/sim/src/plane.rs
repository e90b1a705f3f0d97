//! The native plane: what the engine asks of its host, answered from plain memory.

use std::cell::{Cell, RefCell};
use std::ops::Range;

use keepstate_engine::answer::Answer;
use keepstate_engine::between::{Table, process_between};
use keepstate_engine::cookie::Check;
use keepstate_engine::event::Event;
use keepstate_engine::host::{FlowMemory, Host, Local, Packet, Payload, Route, Way};
use keepstate_engine::index::IndexLine;
use keepstate_engine::limits::POLICY_EPOCHS;
use keepstate_engine::notice::Notice;
use keepstate_engine::policy::{Condition, PolicyHeader, Rule};
use keepstate_engine::process::{Arrival, Outcome, Scratch, Stage, finish, prepare, process};
use keepstate_engine::settings::{SETTING_NEWER_TABLE, SETTING_OLDER_TABLE, Settings};
use keepstate_engine::table::{self, Moved};
use keepstate_engine::time::Tick;
use keepstate_engine::trace::Step;
use keepstate_engine::tuple::{Address, Family};
use keepstate_engine::wire::PacketInfo;

use crate::cookies::Cookies;
use crate::locals::Locals;
use crate::packet::Bytes;
use crate::routes::KnownRoute;
use crate::traffic::Random;

/// A policy in memory.
#[derive(Clone, Debug)]
pub struct LoadedPolicy {
    pub header: PolicyHeader,
    pub rules: Vec<Rule>,
    pub conditions: Vec<Condition>,
    /// The indexes of long chains; without them rules are tried one by one.
    pub index: Vec<IndexLine>,
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
        index: Vec::new(),
        names: Vec::new(),
    };

    /// A rule as iptables-save prints it.
    pub fn text(&self, index: u32) -> &str {
        self.names
            .get(index as usize)
            .map_or("", |name| name.text.as_str())
    }

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
    /// Of a packet that LOG, NFLOG or REJECT matched, with its first bytes.
    fn notice(&self, _notice: &Notice, _packet: &[u8]) {}
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
    /// What `rpfilter` knows of the routes; `None` for nothing, which lets every sender pass.
    pub routes: Option<Vec<KnownRoute>>,
    /// Index of the interface that packets come by.
    pub interface: u32,
    pub observer: O,
    /// Bit of each interface pattern that the outgoing interface matches.
    pub out_interfaces: u64,
    /// Where SYN cookies come from, if packets come in a way that lets them be answered.
    pub cookies: Option<Cookies>,
    /// Number of the CPU that packets are judged on.
    pub cpu: u32,
    /// The table before this one, while its records are moved.
    older: Option<Older<M>>,
    policy: LoadedPolicy,
    counters: Vec<Cell<RuleCounter>>,
    wall_ns: Cell<u64>,
    random: RefCell<Random>,
    answer: Cell<Option<Answer>>,
    /// What took the packet's place, and at which offset.
    changed: Cell<Option<(u32, Answer)>>,
    /// What lies behind it stays.
    keeps_rest: Cell<bool>,
}

impl<M: FlowMemory, O: Observer> Plane<M, O> {
    pub fn new(flows: M, settings: Settings, policy: LoadedPolicy, observer: O) -> Self {
        let counters = vec![Cell::default(); policy.rules.len()];
        Self {
            flows,
            settings,
            locals: Locals::default(),
            routes: None,
            interface: 0,
            observer,
            out_interfaces: 0,
            cookies: Some(Cookies::Keyed(0)),
            cpu: 0,
            older: None,
            policy,
            counters,
            wall_ns: Cell::new(0),
            // The same each time.
            random: RefCell::new(Random::new(0)),
            answer: Cell::new(None),
            changed: Cell::new(None),
            keeps_rest: Cell::new(false),
        }
    }

    pub const fn policy(&self) -> &LoadedPolicy {
        &self.policy
    }

    /// Puts another policy in force. No record knows what an earlier one decided, and what rules have counted is lost.
    pub fn replace_policy(&mut self, policy: LoadedPolicy) {
        let epoch = (self.policy.header.epoch + 1) % POLICY_EPOCHS;
        let generation = self.policy.header.generation.wrapping_add(1);
        let [v4, v6] = self.settings.buckets;
        for (family, buckets) in [(Family::V4, v4), (Family::V6, v6)] {
            table::forget_outcomes(&self.flows, family, 0..buckets, epoch);
        }
        self.counters = vec![Cell::default(); policy.rules.len()];
        self.policy = policy;
        self.policy.header.epoch = epoch;
        self.policy.header.generation = generation;
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

    /// What was sent back since this was last asked, from its IP header on.
    pub fn take_answer(&self) -> Option<Vec<u8>> {
        let answer = self.answer.take()?;
        let bytes = answer.words.iter().flat_map(|word| word.to_ne_bytes());
        Some(bytes.take(answer.length as usize).collect())
    }

    /// The packet as it went on, where it was not as it came: since this was last asked.
    pub fn take_changed(&self, packet: &[u8]) -> Option<Vec<u8>> {
        let (offset, answer) = self.changed.take()?;
        let bytes = answer.words.iter().flat_map(|word| word.to_ne_bytes());
        let bytes = bytes.take(answer.length as usize);
        let mut changed = packet.get(..offset as usize)?.to_vec();
        changed.extend(bytes);
        if self.keeps_rest.get() {
            changed.extend(packet.get(changed.len()..)?);
        }
        Some(changed)
    }

    /// Judges one packet.
    pub fn judge(&self, packet: &[u8], arrival: &Arrival, now: Tick) -> Outcome {
        self.judge_beginning(Table::Newer, packet, arrival, now)
    }

    /// As [`Self::judge`], for a packet that is seen first by whoever has this one of two tables.
    pub fn judge_beginning(
        &self,
        begins: Table,
        packet: &[u8],
        arrival: &Arrival,
        now: Tick,
    ) -> Outcome {
        let (packet, scratch) = (Bytes(packet), &mut Scratch::default());
        let Some(older) = &self.older else {
            return process(&packet, arrival, self, scratch, now);
        };
        let older = BesideOlder { plane: self, older };
        process_between(&packet, arrival, (self, &older), begins, scratch, now)
    }

    /// Begins with another table of this many buckets, that has all but the records in common with the one
    /// there is.
    pub fn begin_resize(&mut self, flows: M, buckets: [u32; 2]) {
        let mut settings = self.settings;
        settings.flags |= SETTING_NEWER_TABLE;
        self.settings.flags |= SETTING_OLDER_TABLE;
        self.settings.buckets = buckets;
        let flows = std::mem::replace(&mut self.flows, flows);
        self.older = Some(Older { flows, settings });
    }

    /// Moves the records of some buckets of the older table; returns how many stay.
    pub fn move_records(&self, family: Family, buckets: Range<u32>, now: Tick) -> u32 {
        let Some(older) = &self.older else {
            return 0;
        };
        let mut stay = 0;
        table::places(&older.flows, family, buckets, |place| {
            let moved = table::transfer(&older.flows, &self.flows, &self.settings, place, now);
            stay += u32::from(matches!(moved, Moved::Full | Moved::Busy));
        });
        stay
    }

    /// Lets the older table go.
    pub fn end_resize(&mut self) {
        self.settings.flags &= !SETTING_OLDER_TABLE;
        self.older = None;
    }
}

/// A table whose records are moved to another.
struct Older<M> {
    flows: M,
    settings: Settings,
}

/// The plane with its older table.
struct BesideOlder<'a, M, O> {
    plane: &'a Plane<M, O>,
    older: &'a Older<M>,
}

impl<M: FlowMemory, O: Observer> Host for BesideOlder<'_, M, O> {
    type Flows = M;

    fn flows(&self) -> &M {
        &self.older.flows
    }

    fn settings(&self) -> &Settings {
        &self.older.settings
    }

    fn policy(&self) -> &PolicyHeader {
        Host::policy(self.plane)
    }

    fn rule(&self, index: u32) -> Option<&Rule> {
        self.plane.rule(index)
    }

    fn condition(&self, index: u32) -> Option<&Condition> {
        self.plane.condition(index)
    }

    fn index(&self, line: u32) -> Option<&IndexLine> {
        self.plane.index(line)
    }

    fn count_rule(&self, index: u32, bytes: u32) {
        self.plane.count_rule(index, bytes);
    }

    fn route(&self, packet: &PacketInfo) -> Route {
        self.plane.route(packet)
    }

    fn cpu(&self) -> u32 {
        self.plane.cpu()
    }

    fn random(&self) -> u32 {
        self.plane.random()
    }

    fn emit(&self, event: &Event) {
        self.plane.emit(event);
    }

    fn can_answer(&self) -> bool {
        self.plane.can_answer()
    }

    fn cookie(&self, syn: &PacketInfo, mss: u16, now: Tick) -> Option<u32> {
        self.plane.cookie(syn, mss, now)
    }

    fn check_cookie(&self, segment: &PacketInfo, now: Tick) -> Check {
        self.plane.check_cookie(segment, now)
    }

    fn answer(&self, packet: &PacketInfo, answer: &Answer) -> bool {
        self.plane.answer(packet, answer)
    }

    fn send_on(&self, packet: &PacketInfo, answer: &Answer) -> bool {
        self.plane.send_on(packet, answer)
    }

    fn rewrite(&self, packet: &PacketInfo, header: &Answer) -> bool {
        self.plane.rewrite(packet, header)
    }

    fn notify<P: Packet>(&self, packet: &P, notice: &Notice) {
        self.plane.notify(packet, notice);
    }

    fn wall_clock(&self) -> u64 {
        self.plane.wall_clock()
    }

    fn is_traced(&self) -> bool {
        self.plane.is_traced()
    }

    fn trace(&self, step: Step) {
        self.plane.trace(step);
    }
}

/// Packets that are handed over together, at most.
pub const BATCH_PACKETS_MAX: usize = 32;

/// Packets whose records are asked for together. One by one each would wait for the processor to find
/// the page that its record is in; of many at once some would be gone again before they are read.
const GROUP_PACKETS: usize = 4;

/// A group is named, one is fetched and one is judged; one more makes it a power of two. So few that
/// their scratch memory stays in a core's first cache.
const PACKETS_UNDER_WAY: usize = 4 * GROUP_PACKETS;

/// Scratch memory for a batch.
#[derive(Debug)]
pub struct Batch {
    scratch: [Scratch; PACKETS_UNDER_WAY],
    stages: [Stage; PACKETS_UNDER_WAY],
}

impl Default for Batch {
    fn default() -> Self {
        Self {
            scratch: Default::default(),
            stages: [Stage::Done; PACKETS_UNDER_WAY],
        }
    }
}

impl<M: FlowMemory, O: Observer> Plane<M, O> {
    /// Judges up to [`BATCH_PACKETS_MAX`] packets, in order, and hands each outcome to `each`. Same
    /// outcomes as one at a time, but while some packets are judged, the records of the next come
    /// from memory, and the tags of those after them.
    pub fn judge_batch<'p>(
        &self,
        batch: &mut Batch,
        packets: impl Iterator<Item = &'p [u8]> + Clone,
        arrival: &Arrival,
        now: Tick,
        mut each: impl FnMut(Outcome),
    ) {
        let Batch { scratch, stages } = batch;
        let mut unjudged = packets.clone();
        let mut unnamed = packets.take(BATCH_PACKETS_MAX);
        let (mut judged, mut fetched, mut named) = (0, 0, 0);
        loop {
            let (known, ready) = (named, fetched);
            for packet in unnamed.by_ref().take(GROUP_PACKETS) {
                let place = named % PACKETS_UNDER_WAY;
                let scratch = &mut scratch[place];
                stages[place] = prepare(&Bytes(packet), arrival, self, scratch, now);
                named += 1;
            }
            for index in fetched..known {
                scratch[index % PACKETS_UNDER_WAY].prefetch(self);
            }
            fetched = known;
            for (index, packet) in (judged..ready).zip(unjudged.by_ref()) {
                let place = index % PACKETS_UNDER_WAY;
                let (scratch, stage) = (&mut scratch[place], stages[place]);
                each(finish(&Bytes(packet), arrival, self, scratch, stage));
            }
            judged = ready;
            if judged == named {
                return;
            }
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

    fn index(&self, line: u32) -> Option<&IndexLine> {
        self.policy.index.get(line as usize)
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
            out_index: 0,
        }
    }

    fn local(&self, family: Family, address: &Address) -> Option<Local> {
        // Which interface has an address is not known.
        let local = self.locals.local(family, address)?;
        Some(Local {
            interface: self.interface,
            ..local
        })
    }

    fn interface(&self) -> u32 {
        self.interface
    }

    fn way(&self, family: Family, address: &Address) -> Option<&Way> {
        let Some(routes) = &self.routes else {
            return Some(&Way::OF_NO_TABLE);
        };
        let takes = |known: &&KnownRoute| known.family == family && known.takes(address);
        let longest = routes.iter().filter(takes).max_by_key(|known| known.bits);
        longest.map(|known| &known.way)
    }

    fn cpu(&self) -> u32 {
        self.cpu
    }

    fn random(&self) -> u32 {
        self.random.borrow_mut().number() as u32
    }

    fn emit(&self, event: &Event) {
        self.observer.event(event);
    }

    fn can_answer(&self) -> bool {
        self.cookies.is_some()
    }

    fn cookie(&self, syn: &PacketInfo, _mss: u16, now: Tick) -> Option<u32> {
        self.cookies.as_ref()?.make(syn, now)
    }

    fn check_cookie(&self, segment: &PacketInfo, now: Tick) -> Check {
        let cookies = self.cookies.as_ref();
        cookies.map_or(Check::Wrong, |cookies| cookies.check(segment, now))
    }

    fn answer(&self, _packet: &PacketInfo, answer: &Answer) -> bool {
        self.answer.set(Some(*answer));
        true
    }

    fn send_on(&self, packet: &PacketInfo, answer: &Answer) -> bool {
        self.changed.set(Some((packet.ip_offset, *answer)));
        self.keeps_rest.set(false);
        true
    }

    fn rewrite(&self, packet: &PacketInfo, header: &Answer) -> bool {
        self.changed.set(Some((packet.transport_offset, *header)));
        self.keeps_rest.set(true);
        true
    }

    fn notify<P: Packet>(&self, packet: &P, notice: &Notice) {
        let Some(bytes) = packet.payload(0, notice.captured) else {
            return;
        };
        let bytes: Vec<u8> = (0..notice.captured).map(|at| bytes.byte(at)).collect();
        self.observer.notice(notice, &bytes);
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
