//! Both planes side by side.

use std::cell::RefCell;
use std::sync::atomic::{AtomicU64, Ordering::SeqCst};

use keepstate_daemon::twin::{Entry, Twin};
use keepstate_engine::event::{Event, EventKind};
use keepstate_engine::limits::{
    ACCOUNTING_WORDS, EXPECTATION_SLOTS, EXPECTATION_WORDS, HELPER_STATE_WORDS, HELPER_STATES,
    METER_SLOTS, METER_WORDS, SLOT_WORDS_V4, SLOT_WORDS_V6, SLOTS_PER_BUCKET, WARM_WORDS,
};
use keepstate_engine::process::{Arrival, Checksums, Outcome, Path};
use keepstate_engine::record::{ASSIGNED, CONTROL_WORD, Control, SlotState};
use keepstate_engine::settings::{
    SETTING_ACCOUNTING, SETTING_DROP_EVENTS, SETTING_FLOW_EVENTS, SETTING_TIMESTAMP, Settings,
};
use keepstate_engine::table::{self, gauges};
use keepstate_engine::time::Tick;
use keepstate_engine::tuple::Family;
use keepstate_engine::verdict::{Hook, Verdict};
use keepstate_engine::wire::Link;
use keepstate_flowmemory::{
    FRAGMENT_TABLE_WORDS, FamilySlices, HelperSlices, MeterSlices, SliceTable, buckets_for,
};
use keepstate_plane::{METER_HEADS, REPORT_NONE, Report};
use keepstate_policy::Compiled;
use keepstate_sim::locals::Locals;
use keepstate_sim::plane::{LoadedPolicy, Observer, Plane};

/// Small, so that tables fill up and records make room for others.
const FLOWS_MAX: u32 = 512;

/// Conditions whose memory is compared; more than the rules here have.
const CONDITIONS_COMPARED: u32 = 256;

/// Longest frame that a test run holds in one piece; longer ones lie in fragments, whose checksum
/// the programs do not verify.
const FRAME_BYTES_MAX: usize = 3_000;

/// Shortest frame that a test run of XDP takes, and of TC: there the IP header must be whole.
const XDP_FRAME_BYTES_MIN: usize = 14;
pub(crate) const TC_FRAME_BYTES_MIN: usize = 14 + 40;

const XDP_DROP: u32 = 1;
const XDP_PASS: u32 = 2;
const TC_SHOT: u32 = 2;
/// `TC_ACT_UNSPEC`, minus one.
const TC_NEXT: u32 = u32::MAX;

/// After so many packets those that wear another VLAN tag, or none, match other patterns.
const PACKETS_PER_INTERFACE: usize = 7;

/// How often the memory of unfinished datagrams is compared: it is large, and what differed once
/// will not agree later.
const PACKETS_PER_LOOK: usize = 32;

/// The word of accounting that holds a start time, which cannot be the same in both.
const ACCOUNTING_START: usize = 4;

pub(crate) fn settings() -> Settings {
    let buckets = buckets_for(FLOWS_MAX);
    let mut settings = Settings::defaults(FLOWS_MAX, [buckets, buckets]);
    settings.flags |= SETTING_ACCOUNTING | SETTING_TIMESTAMP;
    settings.flags |= SETTING_FLOW_EVENTS | SETTING_DROP_EVENTS;
    for (index, key) in settings.hash_keys.iter_mut().enumerate() {
        *key = 0x9e37_79b9_u32.wrapping_mul(index as u32 * 2 + 1);
    }
    settings
}

/// A flow table's memory, as the kernel lays it out.
pub(crate) struct Memory {
    tags: [Vec<AtomicU64>; 2],
    slots: [Vec<AtomicU64>; 2],
    warm: [Vec<AtomicU64>; 2],
    accounting: [Vec<AtomicU64>; 2],
    gauges: Vec<AtomicU64>,
    fragments: Vec<AtomicU64>,
    expectations: Vec<AtomicU64>,
    helper_states: Vec<AtomicU64>,
    condition_states: Vec<AtomicU64>,
    meters: Vec<AtomicU64>,
    meter_heads: Vec<AtomicU64>,
}

impl Memory {
    pub(crate) fn new() -> Self {
        let words = |count: u32| (0..count).map(|_| AtomicU64::new(0)).collect::<Vec<_>>();
        let slots = settings().buckets.map(|buckets| buckets * SLOTS_PER_BUCKET);
        let [v4, v6] = slots;
        Self {
            tags: settings().buckets.map(words),
            slots: [words(v4 * SLOT_WORDS_V4), words(v6 * SLOT_WORDS_V6)],
            warm: slots.map(|slots| words(slots * WARM_WORDS)),
            accounting: slots.map(|slots| words(slots * ACCOUNTING_WORDS)),
            gauges: words(gauges::WORDS),
            fragments: words(FRAGMENT_TABLE_WORDS as u32),
            expectations: words(EXPECTATION_SLOTS * EXPECTATION_WORDS),
            helper_states: words(HELPER_STATES * HELPER_STATE_WORDS),
            condition_states: words(CONDITIONS_COMPARED),
            meters: words(METER_SLOTS * METER_WORDS),
            meter_heads: words(METER_HEADS),
        }
    }

    fn table(&self) -> SliceTable<'_> {
        let family = |index: usize| FamilySlices {
            tags: &self.tags[index],
            slots: &self.slots[index],
            warm: &self.warm[index],
            accounting: &self.accounting[index],
        };
        let table = SliceTable::new([family(0), family(1)], &self.gauges);
        table
            .with_fragments(&self.fragments)
            .with_conditions(&self.condition_states)
            .with_meters(MeterSlices {
                slots: &self.meters,
                heads: &self.meter_heads,
            })
            .with_helpers(HelperSlices {
                expectations: &self.expectations,
                states: &self.helper_states,
            })
    }
}

/// Keeps the events of the native plane.
#[derive(Default)]
struct Listener(RefCell<Vec<Event>>);

impl Observer for Listener {
    fn event(&self, event: &Event) {
        self.0.borrow_mut().push(*event);
    }
}

pub(crate) struct Twins<'a> {
    memory: &'a Memory,
    native: Plane<SliceTable<'a>, Listener>,
    pub(crate) kernel: Twin,
    pub(crate) compared: usize,
    pub(crate) left_out: usize,
    /// Events that told of a record's end.
    pub(crate) ended: usize,
}

impl<'a> Twins<'a> {
    pub(crate) fn new(memory: &'a Memory, policy: &Compiled) -> Self {
        let settings = settings();
        let loaded = LoadedPolicy {
            header: policy.header,
            rules: policy.rules.clone(),
            conditions: policy.conditions.clone(),
            names: Vec::new(),
        };
        let mut native = Plane::new(memory.table(), settings, loaded, Listener::default());
        native.set_wall_clock(1);
        // Without local addresses every packet is forwarded.
        native.locals = Locals::default();
        let mut kernel = Twin::new(&settings).expect("the programs load");
        kernel.set_hook(Hook::Forward);
        kernel.load_policy(policy).expect("the policy fits");
        Self {
            memory,
            native,
            kernel,
            compared: 0,
            left_out: 0,
            ended: 0,
        }
    }

    pub(crate) fn compare(&mut self, frame: &[u8], entry: Entry, now: Tick, what: &str) {
        let shortest = match entry {
            Entry::IngressXdp => XDP_FRAME_BYTES_MIN,
            _ => TC_FRAME_BYTES_MIN,
        };
        let link = link(entry, frame);
        let (true, Some(link)) = ((shortest..=FRAME_BYTES_MAX).contains(&frame.len()), link) else {
            self.left_out += 1;
            return;
        };
        let path = match entry {
            Entry::IngressXdp | Entry::IngressTc => Path::Ingress,
            Entry::EgressEthernet | Entry::EgressBare => Path::Local,
        };
        let arrival = Arrival {
            link,
            path,
            checksums: match path {
                Path::Ingress => Checksums::UnverifiedOrPartial,
                Path::Local => Checksums::Trusted,
            },
            zone: 0,
            interfaces: self.interface(entry, frame),
        };
        let outcome = self.native.judge(frame, &arrival, now);
        self.kernel.set_clock(now);
        let run = self.kernel.run(entry, frame).expect("a test run");
        self.compared += 1;
        let expected = report_of(&outcome, self.compared as u32);
        assert_eq!(
            run.report, expected,
            "{what}, packet {} of the test, {entry:?}: {frame:02x?}",
            self.compared
        );
        let returned = match (entry, outcome.verdict) {
            (Entry::IngressXdp, Verdict::Accept) => XDP_PASS,
            (Entry::IngressXdp, _) => XDP_DROP,
            (_, Verdict::Accept) => TC_NEXT,
            (_, _) => TC_SHOT,
        };
        assert_eq!(run.returned, returned, "{what}");
        let told = self.native.observer.0.take();
        assert_eq!(self.kernel.events(), told, "{what}");
        let is_end = |event: &&Event| event.kind == EventKind::Destroy as u8;
        self.ended += told.iter().filter(is_end).count();
        self.compare_tables(what);
    }

    /// Turns knobs in both planes.
    pub(crate) fn change_settings(&mut self, change: impl Fn(&mut Settings)) {
        change(&mut self.native.settings);
        let maps = &self.kernel.kernel.maps;
        maps.change_plane(|plane| change(&mut plane.settings));
    }

    /// Gives all flows timeout policies, as rules would, in both planes; returns how many there were.
    pub(crate) fn assign_policies(&self) -> usize {
        const STATUS_SHIFT: u32 = 11;
        let maps = &self.kernel.kernel.maps;
        let mut assigned = 0;
        for (family, slot_words) in [SLOT_WORDS_V4, SLOT_WORDS_V6].into_iter().enumerate() {
            let native = (
                &self.memory.slots[family][..],
                &self.memory.warm[family][..],
            );
            let kernel = (
                maps.table.slots[family].words(),
                maps.table.warm[family].words(),
            );
            for (slots, warm) in [native, kernel] {
                let slots = slots.chunks(slot_words as usize);
                for (number, (slot, warm)) in
                    slots.zip(warm.chunks(WARM_WORDS as usize)).enumerate()
                {
                    let control = &slot[CONTROL_WORD as usize];
                    if Control(control.load(SeqCst)).slot_state() == SlotState::Live {
                        control.fetch_or(u64::from(ASSIGNED) << STATUS_SHIFT, SeqCst);
                        // More numbers than there are policies.
                        warm[1].fetch_or((number as u64 % 20) << 8, SeqCst);
                        assigned += 1;
                    }
                }
            }
        }
        assigned / 2
    }

    /// Puts the packet on an interface; the patterns that it matches.
    fn interface(&mut self, entry: Entry, frame: &[u8]) -> u64 {
        let patterns = (self.compared / PACKETS_PER_INTERFACE) as u64 & 0b11;
        // TC has taken the tag off before it runs a program, but in a test run it stays.
        let vlan = match entry {
            Entry::IngressXdp => vlan(frame),
            _ => 0,
        };
        let told = self.kernel.set_interface(vlan, patterns);
        told.expect("there is room for the interface");
        patterns
    }

    pub(crate) fn gauge(&self, gauge: u32) -> u64 {
        self.memory.gauges[gauge as usize].load(SeqCst)
    }

    /// Live records that remember an outcome.
    pub(crate) fn remembered(&self, now: Tick) -> usize {
        let table = self.memory.table();
        let mut remembered = 0;
        for (family, buckets) in [Family::V4, Family::V6].into_iter().zip(settings().buckets) {
            table::visit(&table, family, 0..buckets, now, |flow| {
                remembered += usize::from(flow.cached != 0);
            });
        }
        remembered
    }

    /// Packets and bytes of all rules; returns how many have matched.
    pub(crate) fn compare_rule_counters(&self) -> usize {
        let count = self.native.policy().rules.len() as u32;
        let mut matched = 0;
        for index in 0..count {
            let native = self.native.rule_counter(index);
            let kernel = self.kernel.rule_counter(index).expect("the rule is there");
            assert_eq!(
                (native.packets, native.bytes),
                (kernel.packets, kernel.bytes),
                "rule {index}"
            );
            matched += usize::from(native.packets != 0);
        }
        matched
    }

    fn compare_tables(&self, what: &str) {
        let maps = &self.kernel.kernel.maps;
        for family in 0..2 {
            same(
                &self.memory.tags[family],
                maps.table.tags[family].words(),
                what,
            );
            same(
                &self.memory.slots[family],
                maps.table.slots[family].words(),
                what,
            );
            same(
                &self.memory.warm[family],
                maps.table.warm[family].words(),
                what,
            );
            same_accounting(
                &self.memory.accounting[family],
                maps.table.families()[family].accounting,
                what,
            );
        }
        same(&self.memory.gauges, maps.gauges.words(), what);
        let kernel = &maps.condition_states.words()[..CONDITIONS_COMPARED as usize];
        same(&self.memory.condition_states, kernel, what);
        if self.compared.is_multiple_of(PACKETS_PER_LOOK) {
            same(&self.memory.fragments, maps.fragments.words(), what);
        }
    }

    /// What rules remember of sources, likewise.
    pub(crate) fn compare_meters(&self, what: &str) {
        let maps = &self.kernel.kernel.maps;
        same(&self.memory.meter_heads, maps.meter_heads.words(), what);
        // What a CPU did is not what another does.
        same(&self.memory.meters, maps.meters.words(), what);
    }

    /// What helpers work with; too much to be compared after each packet.
    pub(crate) fn compare_helpers(&self, what: &str) {
        let maps = &self.kernel.kernel.maps;
        let Memory {
            expectations,
            helper_states,
            ..
        } = self.memory;
        same(expectations, maps.expectations.words(), what);
        same(helper_states, maps.helper_states.words(), what);
    }
}

/// What a packet begins with, as the program finds out; `None` for what a bare device does not
/// take for IP.
fn link(entry: Entry, frame: &[u8]) -> Option<Link> {
    match (entry, frame.get(12..14)?) {
        (Entry::IngressXdp | Entry::EgressEthernet, _) => Some(Link::Ethernet),
        (_, [0x08, 0x00]) => Some(Link::Ipv4),
        (_, [0x86, 0xdd]) => Some(Link::Ipv6),
        _ => None,
    }
}

fn vlan(frame: &[u8]) -> u32 {
    match frame.get(12..16) {
        Some([0x81, 0x00, high, low] | [0x88, 0xa8, high, low]) => {
            u32::from(u16::from_be_bytes([*high, *low]) & 0xfff)
        }
        _ => 0,
    }
}

#[track_caller]
fn same(native: &[AtomicU64], kernel: &[AtomicU64], what: &str) {
    assert_eq!(native.len(), kernel.len());
    for (word, (native, kernel)) in native.iter().zip(kernel).enumerate() {
        let (native, kernel) = (native.load(SeqCst), kernel.load(SeqCst));
        assert_eq!(
            native, kernel,
            "{what}: word {word}, {native:#x} and {kernel:#x}"
        );
    }
}

#[track_caller]
fn same_accounting(native: &[AtomicU64], kernel: &[AtomicU64], what: &str) {
    assert_eq!(native.len(), kernel.len());
    let records = native.chunks(ACCOUNTING_WORDS as usize);
    for (native, kernel) in records.zip(kernel.chunks(ACCOUNTING_WORDS as usize)) {
        let (native_start, kernel_start) = (&native[ACCOUNTING_START], &kernel[ACCOUNTING_START]);
        let have_started = [native_start, kernel_start].map(|word| word.load(SeqCst) != 0);
        assert_eq!(have_started[0], have_started[1], "{what}");
        same(
            &native[..ACCOUNTING_START],
            &kernel[..ACCOUNTING_START],
            what,
        );
    }
}

fn report_of(outcome: &Outcome, count: u32) -> Report {
    let number = |value: Option<u32>| value.unwrap_or(REPORT_NONE);
    Report {
        count,
        state: outcome.state as u32,
        verdict: outcome.verdict as u32,
        reason: number(outcome.reason.map(|reason| reason as u32)),
        hook: number(outcome.hook.map(|hook| hook as u32)),
        rule: outcome.rule,
        has_flow: u32::from(outcome.flow.is_some()),
        flow: outcome.flow.unwrap_or(0),
        direction: number(outcome.direction.map(|direction| direction as u32)),
        tcp_state: number(outcome.tcp_state.map(|state| state as u32)),
    }
}
