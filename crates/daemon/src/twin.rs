//! The loaded programs as a function of a packet, for tests against the native engine.
//!
//! Programs and maps are private: nothing is pinned or attached, packets are handed in by
//! `BPF_PROG_TEST_RUN`, and the clock stands where the test puts it.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering::SeqCst};
use std::time::Duration;

use aya::maps::{MapData, PerCpuValues, ProgramArray, RingBuf};
use aya::programs::{TestRun as _, TestRunOptions};
use aya::util::nr_cpus;
use keepstate_engine::between::Table;
use keepstate_engine::event::Event;
use keepstate_engine::notice::Notice;
use keepstate_engine::process::Stage;
use keepstate_engine::settings::{SETTING_NEWER_TABLE, SETTING_OLDER_TABLE, Settings};
use keepstate_engine::time::Tick;
use keepstate_engine::verdict::{Hook, Reason};
use keepstate_flowmemory::{HelperSlices, SliceTable};
use keepstate_plane::{
    Counters, Interface, InterfaceKey, PLANE_TEST_CLOCK, PLANE_TEST_HOOK, PLANE_TEST_REPORT,
    Report, RuleCounter, TABLE_NEWER, TABLE_WHOLE, names,
};
use keepstate_policy::Compiled;

use crate::kernel::{Kernel, KernelError, Maps, Programs, write};
use crate::locals::entries;
use crate::mapped::{Raw, bytes_of, from_bytes};
use crate::netlink::HostAddress;
use crate::resize::{self, Beside};
use crate::table_maps::TableMaps;

/// The loopback: test runs take place on it.
const TEST_INTERFACE: u32 = 1;

/// The program that sees a packet first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Entry {
    IngressXdp,
    IngressTc,
    EgressEthernet,
    EgressBare,
}

/// The kernel plane under test.
pub struct Twin {
    pub kernel: Kernel,
    events: RingBuf<MapData>,
    notices: [RingBuf<MapData>; 2],
}

fn set_test_flags(maps: &Maps) {
    maps.change_plane(|plane| {
        plane.flags = PLANE_TEST_CLOCK | PLANE_TEST_HOOK | PLANE_TEST_REPORT;
    });
}

fn clear(words: &[AtomicU64]) {
    for word in words {
        word.store(0, SeqCst);
    }
}

fn slices<'a>(own: &'a TableMaps, common: &'a Maps) -> SliceTable<'a> {
    SliceTable::new(own.families(), common.gauges.words())
        .with_fragments(common.fragments.words())
        .with_helpers(HelperSlices {
            expectations: common.expectations.words(),
            states: common.helper_states.words(),
            labels: common.labels.words(),
            synproxy: common.synproxy.words(),
        })
}

/// What came back from a run.
#[derive(Clone, Debug)]
pub struct Run {
    /// What the program returned, e.g. `XDP_PASS`.
    pub returned: u32,
    /// The engine's outcome.
    pub report: Report,
    /// The frame as the program left it.
    pub frame: Vec<u8>,
    /// How long it took.
    pub duration: Duration,
}

impl Twin {
    pub fn new(settings: &Settings) -> Result<Self, KernelError> {
        Self::over(Kernel::private(settings)?)
    }

    /// As [`Self::new`], with all of it pinned in a directory, so that the table can change its size.
    pub fn pinned(directory: &Path, settings: &Settings) -> Result<Self, KernelError> {
        Self::over(Kernel::pinned(directory, settings)?)
    }

    fn over(mut kernel: Kernel) -> Result<Self, KernelError> {
        set_test_flags(&kernel.maps);
        let events = kernel.maps.events.take();
        let events = events.ok_or_else(|| KernelError::Missing(names::EVENTS.to_owned()))?;
        let missing = |name: &str| KernelError::Missing(name.to_owned());
        let notices = kernel.maps.notices.take();
        let notices = notices.ok_or_else(|| missing(names::NOTICES))?;
        let answers = kernel.maps.answers.take();
        let answers = answers.ok_or_else(|| missing(names::ANSWERS))?;
        Ok(Self {
            kernel,
            events: RingBuf::try_from(events)?,
            notices: [RingBuf::try_from(notices)?, RingBuf::try_from(answers)?],
        })
    }

    /// As new, for another test: it takes the verifier seconds to load programs. The tables keep their size, rules
    /// stay until others are loaded, and so does what programs leave in scratch memory.
    pub fn reset(&mut self, settings: &Settings) -> Result<(), KernelError> {
        self.events();
        self.notices();
        let maps = &mut self.kernel.maps;
        let table = &maps.table;
        let families = [&table.tags, &table.slots, &table.warm]
            .into_iter()
            .flatten();
        let counters = table.accounting.iter().filter_map(OnceLock::get);
        let common = [
            &maps.gauges,
            &maps.fragments,
            &maps.expectations,
            &maps.helper_states,
            &maps.labels,
            &maps.synproxy,
            &maps.condition_states,
            &maps.meters,
            &maps.meter_heads,
            &maps.report,
            &maps.bans,
            &maps.sets,
            &maps.set_heads,
        ];
        for mapping in families.chain(counters).chain(common) {
            clear(mapping.words());
        }
        for rate in 0..maps.answer_rates.len() {
            maps.answer_rates.set(rate, 0, 0)?;
        }
        let interfaces: Vec<_> = maps.interfaces.keys().collect::<Result<_, _>>()?;
        for key in interfaces {
            maps.interfaces.remove(&key)?;
        }
        let cpus = nr_cpus().map_err(|(_, error)| KernelError::Cpus(error))?;
        let none = || PerCpuValues::try_from(vec![Raw(Counters::default()); cpus]);
        maps.counters
            .set(0, none().map_err(KernelError::Cpus)?, 0)?;
        maps.locals.put(&entries(&[]))?;
        maps.routes.put(BTreeMap::new())?;
        maps.begin(settings);
        set_test_flags(maps);
        Ok(())
    }

    pub fn set_clock(&self, now: Tick) {
        self.kernel
            .maps
            .change_plane(|plane| plane.test_tick = now.0);
        if let Some(newer) = &self.kernel.newer {
            let mut plane = newer.maps.plane_words();
            plane.test_tick = now.0;
            newer.maps.store(&plane);
        }
    }

    /// Loads another table of this many buckets for each family beside the one there is, as the daemon does,
    /// and lets packets know of both.
    pub fn begin_resize(&mut self, directory: &Path, buckets: u32) -> Result<(), KernelError> {
        let mut words = self.kernel.maps.plane();
        words.settings.buckets = [buckets; 2];
        let newer = resize::make(directory, &words.settings)?;
        words.settings.flags |= SETTING_OLDER_TABLE;
        words.table = TABLE_NEWER;
        newer.maps.store(&words);
        resize::link(directory)?;
        self.kernel
            .maps
            .change_plane(|plane| plane.settings.flags |= SETTING_NEWER_TABLE);
        self.kernel.newer = Some(newer);
        Ok(())
    }

    /// Lets the older of two tables go.
    pub fn end_resize(&mut self, directory: &Path) -> Result<(), KernelError> {
        let Some(Beside { maps, programs }) = self.kernel.newer.take() else {
            return Ok(());
        };
        let mut words = maps.plane_words();
        words.settings.flags &= !SETTING_OLDER_TABLE;
        words.table = TABLE_WHOLE;
        maps.store(&words);
        resize::take_place(directory)?;
        self.kernel.maps.table = maps;
        self.kernel.programs = programs;
        Ok(())
    }

    /// The tables that there are, the older first.
    pub fn tables(&self) -> Vec<SliceTable<'_>> {
        let maps = &self.kernel.maps;
        let newer = self.kernel.newer.iter().map(|newer| &newer.maps);
        let tables = [&maps.table].into_iter().chain(newer);
        tables.map(|own| slices(own, maps)).collect()
    }

    /// The chain that packets from outside meet.
    pub fn set_hook(&self, hook: Hook) {
        self.kernel
            .maps
            .change_plane(|plane| plane.test_hook = hook as u32);
    }

    /// The addresses of the host.
    pub fn set_addresses(&mut self, addresses: &[HostAddress]) -> Result<(), KernelError> {
        self.kernel.maps.locals.put(&entries(addresses))
    }

    /// Puts a policy in force.
    pub fn load_policy(&mut self, policy: &Compiled) -> Result<(), KernelError> {
        let maps = &mut self.kernel.maps;
        let rules: Vec<u8> = policy.rules.iter().flat_map(bytes_of).copied().collect();
        write(maps.rules.words(), &rules);
        let conditions: Vec<u8> = policy
            .conditions
            .iter()
            .flat_map(bytes_of)
            .copied()
            .collect();
        write(maps.conditions.words(), &conditions);
        let lines: Vec<u8> = policy.index.iter().flat_map(bytes_of).copied().collect();
        write(maps.index.words(), &lines);
        maps.policies.set(0, Raw(policy.header), 0)?;
        let cpus = nr_cpus().map_err(|(_, error)| KernelError::Cpus(error))?;
        for rule in 0..policy.rules.len() as u32 {
            let none = PerCpuValues::try_from(vec![Raw(RuleCounter::default()); cpus]);
            let none = none.map_err(KernelError::Cpus)?;
            maps.rule_counters.set(rule, none, 0)?;
        }
        Ok(())
    }

    /// Says which interface patterns the packets that follow match, with a VLAN tag or, for zero,
    /// without one.
    pub fn set_interface(&mut self, vlan: u32, patterns: u64) -> Result<(), KernelError> {
        let key = InterfaceKey {
            index: TEST_INTERFACE,
            vlan,
        };
        let interface = Interface {
            patterns: [patterns; 2],
            index: TEST_INTERFACE,
            reserved: 0,
        };
        let interfaces = &mut self.kernel.maps.interfaces;
        interfaces.insert(Raw(key), Raw(interface), 0)?;
        Ok(())
    }

    /// Hands a frame to a program; to the bare ones, a packet whose bytes 12 and 13 say what it is
    /// as the type of an Ethernet frame would.
    pub fn run(&mut self, entry: Entry, frame: &[u8]) -> Result<Run, KernelError> {
        self.run_beginning(Table::Older, entry, frame)
    }

    /// As [`Self::run`], of two tables' programs those of this one.
    pub fn run_beginning(
        &mut self,
        begins: Table,
        entry: Entry,
        frame: &[u8],
    ) -> Result<Run, KernelError> {
        self.run_programs((begins, entry), frame, 1)
    }

    /// The same, so many times in a row; the duration is that of one. A program that changes the frame meets the
    /// changed one the next time.
    pub fn run_often(
        &mut self,
        entry: Entry,
        frame: &[u8],
        repeat: u32,
    ) -> Result<Run, KernelError> {
        self.run_programs((Table::Older, entry), frame, repeat)
    }

    fn run_programs(
        &mut self,
        (begins, entry): (Table, Entry),
        frame: &[u8],
        repeat: u32,
    ) -> Result<Run, KernelError> {
        // SYNPROXY makes a SYN of an ACK, with up to twenty bytes of options.
        let mut left = vec![0; frame.len() + 20];
        let options = TestRunOptions {
            data_in: Some(frame),
            data_out: Some(&mut left),
            repeat,
            ..TestRunOptions::default()
        };
        let programs = match (&mut self.kernel.newer, begins) {
            (Some(newer), Table::Newer) => &mut newer.programs,
            _ => &mut self.kernel.programs,
        };
        let result = match entry {
            Entry::IngressXdp => programs.xdp()?.test_run(options)?,
            Entry::IngressTc => programs.classifier(names::INGRESS_TC)?.test_run(options)?,
            Entry::EgressEthernet => {
                let program = programs.classifier(names::EGRESS_ETHERNET)?;
                program.test_run(options)?
            }
            Entry::EgressBare => programs.classifier(names::EGRESS_BARE)?.test_run(options)?,
        };
        Ok(Run {
            returned: result.return_value,
            report: self.report(),
            duration: result.duration,
            frame: {
                left.truncate(result.data_size_out as usize);
                left
            },
        })
    }

    /// What a rule has matched.
    pub fn rule_counter(&self, index: u32) -> Result<RuleCounter, KernelError> {
        let values = self.kernel.maps.rule_counters.get(&index, 0)?;
        let mut sum = RuleCounter::default();
        for Raw(each) in values.iter() {
            sum.packets += each.packets;
            sum.bytes += each.bytes;
        }
        Ok(sum)
    }

    /// Packets that were dropped or INVALID for a reason.
    pub fn reason_counter(&self, reason: Reason) -> Result<u64, KernelError> {
        let values = self.kernel.maps.counters.get(&0, 0)?;
        let count = |Raw(each): &Raw<Counters>| each.reasons[reason as usize];
        Ok(values.iter().map(count).sum())
    }

    /// Takes a stage of the packets that come by XDP away.
    pub fn remove_stage(&mut self, stage: Stage) -> Result<(), KernelError> {
        let Programs::Object(object) = &mut self.kernel.programs else {
            return Err(KernelError::Missing(names::STAGES_XDP.to_owned()));
        };
        let map = object
            .map_mut(names::STAGES_XDP)
            .ok_or_else(|| KernelError::Missing(names::STAGES_XDP.to_owned()))?;
        ProgramArray::try_from(map)?.clear_index(&(stage as u32))?;
        Ok(())
    }

    /// The events since this was last asked.
    pub fn events(&mut self) -> Vec<Event> {
        let mut events = Vec::new();
        while let Some(item) = self.events.next() {
            events.extend(from_bytes::<Event>(&item));
        }
        events
    }

    /// What was handed over since this was last asked, with the packets' bytes: what is told of, then what is
    /// to be answered.
    pub fn notices(&mut self) -> Vec<(Notice, Vec<u8>)> {
        let mut notices = Vec::new();
        for ring in &mut self.notices {
            while let Some(item) = ring.next() {
                if let Some(notice) = from_bytes::<Notice>(&item) {
                    notices.push((notice, item[size_of::<Notice>()..].to_vec()));
                }
            }
        }
        notices
    }

    fn report(&self) -> Report {
        let words = self.kernel.maps.report.words().iter();
        let bytes: Vec<u8> = words
            .flat_map(|word| word.load(SeqCst).to_ne_bytes())
            .collect();
        from_bytes(&bytes).expect("the map holds a whole report: its value is that type")
    }
}
