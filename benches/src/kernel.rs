//! The engine in the kernel: the loaded programs, run by `BPF_PROG_TEST_RUN` on another packet
//! each time.
//!
//! A test run hands the same frame to a program again and again. So a small program of ours
//! (`peers/generator.bpf.c`) writes the next flow into the frame and calls the program under test;
//! what the generator costs is measured with a program that drops at once, and taken off.

use std::sync::atomic::Ordering::SeqCst;

use anyhow::{Context as _, ensure};
use aya::Ebpf;
use aya::maps::{Array, ProgramArray};
use aya::programs::{ProgramFd, TestRun as _, TestRunOptions};
use keepstate_daemon::kernel::{Kernel, write};
use keepstate_daemon::mapped::{Raw, bytes_of};
use keepstate_engine::index::IndexLine;
use keepstate_engine::limits::{INDEX_LINES_MAX, RULES_MAX};
use keepstate_engine::settings::{
    SETTING_ACCOUNTING, SETTING_SAMPLES, SETTING_TIMESTAMP, Settings,
};
use keepstate_engine::table::gauges;
use keepstate_engine::verdict::{State, Verdict};
use keepstate_flowmemory::{FamilySlices, SliceTable, buckets_for, random_hash_keys};
use keepstate_plane::PLANE_TEST_HOOK;
use keepstate_sim::plane::LoadedPolicy;

use crate::engine::policy;
use crate::frames::Kind;
use crate::peers::{self, RANDOM, program};
use crate::sample::sample;
use crate::template::{Segment, Template};

/// Packets in one measurement.
pub(crate) const PACKETS: u32 = 500_000;
/// New flows are timed so many at a time, and so often at most.
const NEW_FLOWS: u32 = 8_192;
const NEW_FLOW_ROUNDS: u32 = 8;
/// Numbers of flows that are only begun, and of flows that are refused: none is filled in.
const BEGUN_FROM: u32 = 1 << 22;
pub(crate) const REFUSED_FROM: u32 = 1 << 23;
/// As the daemon would have it at a million new flows a second.
const SAMPLES_MASK: u32 = 511;

/// Which flows a run's packets are of.
#[derive(Clone, Copy)]
enum Order {
    Random,
    From(u32),
}

/// A table in the kernel, the programs around it, and the generator.
pub(crate) struct KernelEngine {
    kernel: Kernel,
    generator: Ebpf,
    /// Slot of the policy in force.
    slot: u32,
    kind: Kind,
    /// Established flows, numbered from zero.
    flows: u32,
    begun: u32,
    /// TCP sequence number of the next packet.
    sequence: u32,
    /// Cost of making a packet.
    nothing_ns: f64,
}

impl KernelEngine {
    /// An empty table rated for `flows`, with accounting, start times and samples.
    pub(crate) fn start(kind: Kind, flows: u32) -> anyhow::Result<Self> {
        Self::start_with(kind, flows, |_| {})
    }

    /// As [`Self::start`], with other settings.
    pub(crate) fn start_with(
        kind: Kind,
        flows: u32,
        set: impl FnOnce(&mut Settings),
    ) -> anyhow::Result<Self> {
        let room = flows + NEW_FLOWS * NEW_FLOW_ROUNDS;
        let mut settings = Settings::defaults(room, [buckets_for(room), 2]);
        settings.half_open_max = settings.flows_max;
        settings.flags |= SETTING_ACCOUNTING | SETTING_TIMESTAMP | SETTING_SAMPLES;
        settings.samples.mask = SAMPLES_MASK;
        settings.hash_keys = random_hash_keys().map_err(|error| anyhow::anyhow!("{error}"))?;
        set(&mut settings);
        let mut kernel = Kernel::private(&settings)?;
        // What the routing table costs is no part of tracking.
        kernel
            .maps
            .change_plane(|plane| plane.flags = PLANE_TEST_HOOK);
        let mut generator = peers::load("generator", &["generate", "nothing"])?;
        let judging = kernel.programs.xdp()?.fd()?.try_clone()?;
        lead_to(&mut generator, &judging)?;
        let mut engine = Self {
            kernel,
            generator,
            slot: 0,
            kind,
            flows: 0,
            begun: BEGUN_FROM,
            sequence: Template::FIRST_SEQUENCE,
            nothing_ns: 0.0,
        };
        engine.load_policy(1)?;
        engine.calibrate(&judging)?;
        Ok(engine)
    }

    /// Cost of making a packet, which is taken off all others.
    pub(crate) const fn maker_ns(&self) -> f64 {
        self.nothing_ns
    }

    /// Puts a policy of so many rules in force.
    pub(crate) fn load_policy(&mut self, rules: u32) -> anyhow::Result<()> {
        self.load(policy(rules))
    }

    /// Puts a policy without conditions in force.
    pub(crate) fn load(&mut self, mut loaded: LoadedPolicy) -> anyhow::Result<()> {
        let slot = self.slot ^ 1;
        loaded.header.epoch = slot;
        let maps = &mut self.kernel.maps;
        let words = size_of::<keepstate_engine::policy::Rule>() / size_of::<u64>();
        let first = slot as usize * RULES_MAX as usize * words;
        let places = maps.rules.words()[first..].chunks(words);
        for (rule, place) in loaded.rules.iter().zip(places) {
            write(place, bytes_of(rule));
        }
        let words = size_of::<IndexLine>() / size_of::<u64>();
        let first = slot as usize * INDEX_LINES_MAX as usize * words;
        let places = maps.index.words()[first..].chunks(words);
        for (line, place) in loaded.index.iter().zip(places) {
            write(place, bytes_of(line));
        }
        maps.policies.set(slot, Raw(loaded.header), 0)?;
        maps.change_plane(|plane| plane.active = slot);
        self.slot = slot;
        Ok(())
    }

    /// Opens flows until there are so many.
    pub(crate) fn fill(&mut self, flows: u32) -> anyhow::Result<()> {
        for segment in Segment::handshake(self.kind) {
            self.send(*segment, Order::From(self.flows), flows - self.flows)?;
        }
        self.flows = flows;
        let gauge = &self.kernel.maps.gauges.words()[gauges::COUNT as usize];
        let count = gauge.load(SeqCst);
        ensure!(
            count >= u64::from(flows),
            "{count} records where {flows} flows were opened"
        );
        Ok(())
    }

    /// Cost of a packet of a random established flow.
    pub(crate) fn established(&mut self) -> anyhow::Result<f64> {
        self.judged(
            Segment::Later,
            Order::Random,
            PACKETS,
            State::Established,
            Verdict::Accept,
        )
    }

    /// Cost of a packet that begins a flow. Each call leaves its flows half-open.
    pub(crate) fn begun(&mut self) -> anyhow::Result<f64> {
        let order = Order::From(self.begun);
        self.begun += NEW_FLOWS;
        self.judged(
            Segment::Opening,
            order,
            NEW_FLOWS,
            State::New,
            Verdict::Accept,
        )
    }

    /// Cost of a packet that would begin a flow and that the policy drops.
    pub(crate) fn refused(&mut self) -> anyhow::Result<f64> {
        let order = Order::From(REFUSED_FROM);
        self.judged(Segment::Refused, order, PACKETS, State::New, Verdict::Drop)
    }

    /// Cost of a packet that is refused before anything else.
    pub(crate) fn refused_first(&mut self, state: State) -> anyhow::Result<f64> {
        let order = Order::From(REFUSED_FROM);
        self.judged(Segment::Refused, order, PACKETS, state, Verdict::Drop)
    }

    /// Changes settings, and what may be put into the table of bans with them.
    pub(crate) fn change(&mut self, change: impl FnOnce(&mut Settings, &SliceTable<'_>)) {
        let maps = &self.kernel.maps;
        let mut settings = maps.plane().settings;
        let table = SliceTable::new([FamilySlices::NONE; 2], &[]);
        change(&mut settings, &table.with_bans(maps.bans.words()));
        maps.change_plane(|plane| plane.settings = settings);
    }

    /// Cost of a packet, without that of making it; an error unless the packets were judged so.
    fn judged(
        &mut self,
        segment: Segment,
        order: Order,
        packets: u32,
        state: State,
        verdict: Verdict,
    ) -> anyhow::Result<f64> {
        let before = self.counted(state, verdict)?;
        let cost = self.send(segment, order, packets)?;
        let after = self.counted(state, verdict)?;
        let judged = (after.0 - before.0).min(after.1 - before.1);
        // Interrupts may lose a count or two.
        ensure!(
            judged + 16 >= u64::from(packets),
            "{judged} of {packets} packets were {} and {}: {:?}",
            state.name(),
            verdict.name(),
            self.reasons()?
        );
        Ok(cost - self.nothing_ns)
    }

    /// Nanoseconds a packet, generator included.
    fn send(&mut self, segment: Segment, order: Order, packets: u32) -> anyhow::Result<f64> {
        if packets == 0 {
            return Ok(0.0);
        }
        let template = Template::new(self.kind, segment);
        let is_advancing = segment == Segment::Later && matches!(order, Order::Random);
        let sequence = if is_advancing {
            self.sequence
        } else {
            template.sequence
        };
        let (flows, next, in_sequence) = match order {
            Order::Random => (self.flows.max(1), 0, 0),
            Order::From(first) => (1, first, 1),
        };
        let random = RANDOM ^ u64::from(sequence);
        let state: [u32; 12] = [
            random as u32,
            (random >> 32) as u32,
            flows,
            next,
            in_sequence,
            u32::from(segment.is_answer()),
            u32::from(self.kind == Kind::Tcp),
            u32::from(is_advancing),
            sequence,
            template.ip_sum,
            template.transport_sum,
            0,
        ];
        let map = self
            .generator
            .map_mut("states")
            .context("the generator has no state")?;
        Array::<_, [u32; 12]>::try_from(map)?.set(0, state, 0)?;
        if is_advancing {
            self.sequence += packets;
        }
        let options = TestRunOptions {
            data_in: Some(&template.frame),
            repeat: packets,
            ..TestRunOptions::default()
        };
        let result = program(&mut self.generator, "generate")?.test_run(options)?;
        ensure!(
            result.return_value != 0,
            "the generator did not reach the program"
        );
        Ok(result.duration.as_nanos() as f64)
    }

    fn calibrate(&mut self, judging: &ProgramFd) -> anyhow::Result<()> {
        let nothing = program(&mut self.generator, "nothing")?.fd()?.try_clone()?;
        lead_to(&mut self.generator, &nothing)?;
        self.nothing_ns = sample(7, || self.send(Segment::Later, Order::Random, PACKETS))?.median;
        lead_to(&mut self.generator, judging)
    }

    /// Packets of this state and of this verdict, over all CPUs.
    fn counted(&self, state: State, verdict: Verdict) -> anyhow::Result<(u64, u64)> {
        let counters = self.kernel.maps.counters.get(&0, 0)?;
        let states = counters
            .iter()
            .map(|cpu| cpu.0.states[state as usize])
            .sum();
        let verdicts = counters
            .iter()
            .map(|cpu| cpu.0.verdicts[verdict as usize])
            .sum();
        Ok((states, verdicts))
    }

    /// What was counted against each reason, for messages.
    fn reasons(&self) -> anyhow::Result<Vec<(&'static str, u64)>> {
        let counters = self.kernel.maps.counters.get(&0, 0)?;
        let count = |number: usize| counters.iter().map(|cpu| cpu.0.reasons[number]).sum();
        let all = keepstate_engine::verdict::Reason::ALL.iter();
        let counts = all.map(|reason| (reason.name(), count(*reason as usize)));
        Ok(counts.filter(|(_, count)| *count > 0).collect())
    }
}

/// Sets the program that the generator calls.
fn lead_to(generator: &mut Ebpf, to: &ProgramFd) -> anyhow::Result<()> {
    let map = generator
        .map_mut("programs")
        .context("the generator has no array of programs")?;
    Ok(ProgramArray::try_from(map)?.set(0, to, 0)?)
}
