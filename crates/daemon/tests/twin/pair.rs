//! Both planes side by side.

use std::cell::RefCell;
use std::ops::{Deref, DerefMut};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering::SeqCst};

use keepstate_daemon::kernel::Maps;
use keepstate_daemon::table_maps::TableMaps;
use keepstate_daemon::twin::{Entry, Run, Twin};
use keepstate_engine::event::{Event, EventKind};
use keepstate_engine::limits::{
    ACCOUNTING_WORDS, ANSWER_RATES, BAN_BUCKET_WORDS, EXPECTATION_SLOTS, EXPECTATION_WORDS,
    HELPER_STATE_WORDS, HELPER_STATES, LABEL_BUCKETS, LABEL_WORDS, LABELS_PER_BUCKET, METER_SLOTS,
    METER_WORDS, SET_BUCKET_WORDS, SET_HEAD_WORDS, SETS_MAX, SLOT_WORDS_V4, SLOT_WORDS_V6,
    SLOTS_PER_BUCKET, SYNPROXY_PER_BUCKET, SYNPROXY_TABLE_BUCKETS, SYNPROXY_WORDS, WARM_WORDS,
};
use keepstate_engine::notice::{Notice, NoticeKind};
use keepstate_engine::process::{Arrival, Checksums, Outcome, Path};
use keepstate_engine::record::{ASSIGNED, CONTROL_WORD, Control, SlotState};
use keepstate_engine::reject::build;
use keepstate_engine::settings::{
    SETTING_ACCOUNTING, SETTING_DROP_EVENTS, SETTING_FLOW_EVENTS, SETTING_SAMPLES,
    SETTING_TIMESTAMP, Settings,
};
use keepstate_engine::table::{self, gauges};
use keepstate_engine::time::Tick;
use keepstate_engine::tuple::Family;
use keepstate_engine::verdict::{Hook, Verdict};
use keepstate_engine::wire::{Link, parse};
use keepstate_flowmemory::{
    FRAGMENT_TABLE_WORDS, FamilySlices, HelperSlices, MeterSlices, SetSlices, SliceTable,
    buckets_for,
};
use keepstate_plane::{METER_HEADS, REPORT_NONE, Report};
use keepstate_policy::Compiled;
use keepstate_sim::cookies::Cookies;
use keepstate_sim::locals::Locals;
use keepstate_sim::packet::Bytes;
use keepstate_sim::plane::{Observer, Plane};
use rustix::thread::{CpuSet, sched_setaffinity};

use crate::cpus::cpus;
use crate::loaded::loaded;

/// Small, so that tables fill up and records make room for others.
const FLOWS_MAX: u32 = 512;

/// Conditions whose memory is compared; more than the rules here have.
const CONDITIONS_COMPARED: u32 = 1024;

/// Longest frame that a test run holds in one piece; longer ones lie in fragments, whose checksum
/// the programs do not verify.
const FRAME_BYTES_MAX: usize = 3_000;

/// Shortest frame that a test run of XDP takes, and of TC: there the IP header must be whole.
const XDP_FRAME_BYTES_MIN: usize = 14;
pub(crate) const TC_FRAME_BYTES_MIN: usize = 14 + 40;

const XDP_DROP: u32 = 1;
const XDP_PASS: u32 = 2;
const XDP_TX: u32 = 3;

/// Buckets of bans.
pub(crate) const BAN_BUCKETS: u32 = 8;
/// Buckets of sets.
const SET_BUCKETS: u32 = 16;
const TC_SHOT: u32 = 2;
/// `TC_ACT_UNSPEC`, minus one.
const TC_NEXT: u32 = u32::MAX;

/// After so many packets those that wear another VLAN tag, or none, match other patterns.
const PACKETS_PER_INTERFACE: usize = 7;

/// So many packets come by one CPU.
const PACKETS_PER_CPU: usize = 3;

/// How often the memory of unfinished datagrams is compared: it is large, and what differed once
/// will not agree later.
const PACKETS_PER_LOOK: usize = 32;

/// The word of accounting that holds a start time, which cannot be the same in both.
const ACCOUNTING_START: usize = 4;

/// Where this variable is set, one in so many of the packets is enough: emulated processors are slow.
const SHARE: &str = "KEEPSTATE_TWIN_SHARE";

/// How many of `count` packets, or of what they bring about, are asked for.
pub(crate) fn part(count: usize) -> usize {
    let share = std::env::var(SHARE).ok().and_then(|text| text.parse().ok());
    count / share.unwrap_or(1).max(1)
}

pub(crate) fn settings() -> Settings {
    let buckets = buckets_for(FLOWS_MAX);
    let mut settings = Settings::defaults(FLOWS_MAX, [buckets, buckets]);
    settings.bans.buckets = BAN_BUCKETS;
    settings.sets.buckets = SET_BUCKETS;
    settings.flags |= SETTING_ACCOUNTING | SETTING_TIMESTAMP;
    settings.flags |= SETTING_FLOW_EVENTS | SETTING_DROP_EVENTS | SETTING_SAMPLES;
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
    labels: Vec<AtomicU64>,
    synproxy: Vec<AtomicU64>,
    condition_states: Vec<AtomicU64>,
    meters: Vec<AtomicU64>,
    meter_heads: Vec<AtomicU64>,
    bans: Vec<AtomicU64>,
    sets: Vec<AtomicU64>,
    set_heads: Vec<AtomicU64>,
    answer_rates: Vec<AtomicU64>,
}

impl Memory {
    pub(crate) fn new() -> Self {
        Self::sized(settings().buckets)
    }

    /// Of so many buckets for each family.
    pub(crate) fn sized(buckets: [u32; 2]) -> Self {
        let words = |count: u32| (0..count).map(|_| AtomicU64::new(0)).collect::<Vec<_>>();
        let slots = buckets.map(|buckets| buckets * SLOTS_PER_BUCKET);
        let [v4, v6] = slots;
        Self {
            tags: buckets.map(words),
            slots: [words(v4 * SLOT_WORDS_V4), words(v6 * SLOT_WORDS_V6)],
            warm: slots.map(|slots| words(slots * WARM_WORDS)),
            accounting: slots.map(|slots| words(slots * ACCOUNTING_WORDS)),
            gauges: words(gauges::WORDS),
            fragments: words(FRAGMENT_TABLE_WORDS as u32),
            expectations: words(EXPECTATION_SLOTS * EXPECTATION_WORDS),
            helper_states: words(HELPER_STATES * HELPER_STATE_WORDS),
            labels: words(LABEL_BUCKETS * LABELS_PER_BUCKET * LABEL_WORDS),
            synproxy: words(SYNPROXY_TABLE_BUCKETS * SYNPROXY_PER_BUCKET * SYNPROXY_WORDS),
            condition_states: words(CONDITIONS_COMPARED),
            meters: words(METER_SLOTS * METER_WORDS),
            meter_heads: words(METER_HEADS),
            bans: words(BAN_BUCKETS * BAN_BUCKET_WORDS),
            sets: words(SET_BUCKETS * SET_BUCKET_WORDS),
            set_heads: words(SETS_MAX * SET_HEAD_WORDS),
            answer_rates: words(ANSWER_RATES),
        }
    }

    pub(crate) fn table(&self) -> SliceTable<'_> {
        self.beside(self)
    }

    /// With all that is not a record's from another.
    pub(crate) fn beside<'a>(&'a self, common: &'a Self) -> SliceTable<'a> {
        let family = |index: usize| FamilySlices {
            tags: &self.tags[index],
            slots: &self.slots[index],
            warm: &self.warm[index],
            accounting: &self.accounting[index],
        };
        let table = SliceTable::new([family(0), family(1)], &common.gauges);
        table
            .with_fragments(&common.fragments)
            .with_conditions(&common.condition_states)
            .with_answers(&common.answer_rates)
            .with_bans(&common.bans)
            .with_sets(SetSlices {
                buckets: &common.sets,
                heads: &common.set_heads,
            })
            .with_meters(MeterSlices {
                slots: &common.meters,
                heads: &common.meter_heads,
            })
            .with_helpers(HelperSlices {
                expectations: &common.expectations,
                states: &common.helper_states,
                labels: &common.labels,
                synproxy: &common.synproxy,
            })
    }
}

impl Memory {
    /// Records, and what lies beside them.
    #[track_caller]
    pub(crate) fn compare(&self, kernel: &TableMaps, what: &str) {
        for family in 0..2 {
            same(&self.tags[family], kernel.tags[family].words(), what);
            same(&self.slots[family], kernel.slots[family].words(), what);
            same(&self.warm[family], kernel.warm[family].words(), what);
            let accounting = kernel.families()[family].accounting;
            same_accounting(&self.accounting[family], accounting, what);
        }
    }

    /// Sets, and what they are.
    #[track_caller]
    pub(crate) fn compare_sets(&self, maps: &Maps, what: &str) {
        same(&self.sets, maps.sets.words(), what);
        same(&self.set_heads, maps.set_heads.words(), what);
    }

    /// What all tables have in common, but what conditions remember.
    #[track_caller]
    pub(crate) fn compare_common(&self, maps: &Maps, what: &str) {
        same(&self.gauges, maps.gauges.words(), what);
        same(&self.expectations, maps.expectations.words(), what);
        same(&self.helper_states, maps.helper_states.words(), what);
        same(&self.labels, maps.labels.words(), what);
        same(&self.synproxy, maps.synproxy.words(), what);
    }
}

/// Keeps the events and notices of the native plane.
#[derive(Default)]
pub(crate) struct Listener(
    pub(crate) RefCell<Vec<Event>>,
    pub(crate) RefCell<Vec<(Notice, Vec<u8>)>>,
);

impl Observer for Listener {
    fn event(&self, event: &Event) {
        self.0.borrow_mut().push(*event);
    }

    fn notice(&self, notice: &Notice, packet: &[u8]) {
        self.1.borrow_mut().push((*notice, packet.to_vec()));
    }
}

/// Loaded programs that no test works with now.
static LOADED: Mutex<Vec<Twin>> = Mutex::new(Vec::new());

/// Programs that another test can have afterwards.
pub(crate) struct Borrowed(Option<Twin>);

impl Borrowed {
    fn new(settings: &Settings) -> Self {
        let found = LOADED.lock().expect("nobody panics with it").pop();
        let twin = match found {
            Some(mut twin) => {
                twin.reset(settings).expect("the maps can be written");
                twin
            }
            None => Twin::new(settings).expect("the programs load"),
        };
        Self(Some(twin))
    }
}

impl Deref for Borrowed {
    type Target = Twin;

    fn deref(&self) -> &Twin {
        self.0.as_ref().expect("it is given back when dropped")
    }
}

impl DerefMut for Borrowed {
    fn deref_mut(&mut self) -> &mut Twin {
        self.0.as_mut().expect("it is given back when dropped")
    }
}

impl Drop for Borrowed {
    fn drop(&mut self) {
        if let (Some(twin), Ok(mut loaded)) = (self.0.take(), LOADED.lock()) {
            loaded.push(twin);
        }
    }
}

pub(crate) struct Twins<'a> {
    memory: &'a Memory,
    pub(crate) native: Plane<SliceTable<'a>, Listener>,
    pub(crate) kernel: Borrowed,
    pub(crate) compared: usize,
    pub(crate) left_out: usize,
    /// Events that told of a record's end.
    pub(crate) ended: usize,
    /// Packets that were answered.
    pub(crate) answered: usize,
    /// Packets that went on otherwise than they came.
    pub(crate) changed: usize,
    pub(crate) last_answer: Option<Vec<u8>>,
    cpus: Vec<usize>,
    /// Packets that were told of, kept and answered.
    pub(crate) noted: [usize; 3],
}

impl<'a> Twins<'a> {
    pub(crate) fn new(memory: &'a Memory, policy: &Compiled) -> Self {
        let settings = settings();
        let loaded = loaded(policy);
        let mut native = Plane::new(memory.table(), settings, loaded, Listener::default());
        native.set_wall_clock(1);
        // Without local addresses every packet is forwarded.
        native.locals = Locals::default();
        native.cookies = Some(Cookies::Told(RefCell::default()));
        let mut kernel = Borrowed::new(&settings);
        kernel.set_hook(Hook::Forward);
        kernel.load_policy(policy).expect("the policy fits");
        Self {
            memory,
            native,
            kernel,
            compared: 0,
            left_out: 0,
            ended: 0,
            answered: 0,
            changed: 0,
            last_answer: None,
            cpus: cpus(),
            noted: [0; 3],
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
        self.change_cpu();
        self.kernel.set_clock(now);
        let run = self.kernel.run(entry, frame).expect("a test run");
        self.tell_cookie(frame, &arrival, &run);
        let outcome = self.native.judge(frame, &arrival, now);
        let answer = self.native.take_answer();
        let changed = self.native.take_changed(frame);
        self.compared += 1;
        let expected = report_of(&outcome, self.compared as u32);
        assert_eq!(
            run.report, expected,
            "{what}, packet {} of the test, {entry:?}: {frame:02x?}",
            self.compared
        );
        let returned = match (entry, outcome.verdict) {
            (Entry::IngressXdp, _) if answer.is_some() => XDP_TX,
            (Entry::IngressXdp, Verdict::Accept) => XDP_PASS,
            (Entry::IngressXdp, _) => XDP_DROP,
            (_, Verdict::Accept) => TC_NEXT,
            (_, _) => TC_SHOT,
        };
        assert_eq!(run.returned, returned, "{what}");
        if run.returned == XDP_PASS && entry == Entry::IngressXdp {
            self.changed += usize::from(changed.is_some());
            assert_eq!(
                run.frame,
                changed.unwrap_or_else(|| frame.to_vec()),
                "{what}"
            );
        }
        if let Some(answer) = answer {
            self.answered += 1;
            assert_eq!(run.frame, answered(frame, &answer), "{what}");
            self.last_answer = Some(answer);
        }
        let told = self.native.observer.0.take();
        assert_eq!(self.kernel.events(), told, "{what}");
        let is_end = |event: &&Event| event.kind == EventKind::Destroy as u8;
        self.ended += told.iter().filter(is_end).count();
        self.compare_notices(what);
        self.compare_tables(what);
    }

    /// The kernel's cookies are its own secret: those that it sends are the native plane's too.
    fn tell_cookie(&self, frame: &[u8], arrival: &Arrival, run: &Run) {
        if run.returned != XDP_TX {
            return;
        }
        let settings = &self.native.settings;
        let answer = parse(&Bytes(&run.frame), arrival, settings).expect("a whole answer");
        assert_eq!(answer.damage, None);
        let syn = parse(&Bytes(frame), arrival, settings).expect("a whole SYN");
        let cookies = self.native.cookies.as_ref().expect("set above");
        cookies.tell(&syn, answer.tcp_sequence);
    }

    /// Now and then the packet comes by another CPU, whose scratch memory holds something else.
    fn change_cpu(&mut self) {
        if self.compared.is_multiple_of(PACKETS_PER_CPU) {
            let cpu = self.cpus[self.compared / PACKETS_PER_CPU % self.cpus.len()];
            let mut set = CpuSet::new();
            set.set(cpu);
            sched_setaffinity(None, &set).expect("the CPU is allowed");
            self.native.cpu = cpu as u32;
        }
    }

    fn compare_notices(&mut self, what: &str) {
        let mut native = self.native.observer.1.take();
        let mut kernel = self.kernel.notices();
        // Interfaces are the plane's. Answers have a ring of their own.
        native.sort_by_key(|(notice, _)| notice.kind == NoticeKind::Answer as u8);
        for (notice, _) in native.iter_mut().chain(&mut kernel) {
            (notice.in_index, notice.out_index) = (0, 0);
        }
        assert_eq!(kernel, native, "{what}");
        for ((notice, ours), (_, theirs)) in native.iter().zip(&kernel) {
            self.noted[usize::from(notice.kind) - 1] += 1;
            let source = Some([0x0a01_0101; 4]);
            let bytes = |frame| build(notice, frame, source).map(|answer| answer.bytes().to_vec());
            let answer = bytes(ours);
            assert_eq!(answer, bytes(theirs), "{what}");
            assert_eq!(answer.is_some(), notice.kind == NoticeKind::Answer as u8);
        }
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

    /// Places of labels that some flow has or had.
    pub(crate) fn labelled(&self) -> usize {
        let places = self.memory.labels.chunks(LABEL_WORDS as usize);
        places.filter(|place| place[0].load(SeqCst) != 0).count()
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
        self.memory.compare(&maps.table, what);
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
            labels,
            synproxy,
            ..
        } = self.memory;
        same(expectations, maps.expectations.words(), what);
        same(helper_states, maps.helper_states.words(), what);
        same(labels, maps.labels.words(), what);
        same(synproxy, maps.synproxy.words(), what);
    }
}

/// The frame that carries an answer back.
fn answered(frame: &[u8], answer: &[u8]) -> Vec<u8> {
    let (addresses, rest) = frame.split_at(12);
    let tags = match rest {
        [0x81, 0, ..] | [0x88, 0xa8, ..] => 1 + usize::from(rest[4..6] == [0x81, 0]),
        _ => 0,
    };
    let types = &rest[..tags * 4 + 2];
    [&addresses[6..], &addresses[..6], types, answer].concat()
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

pub(crate) fn report_of(outcome: &Outcome, count: u32) -> Report {
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
