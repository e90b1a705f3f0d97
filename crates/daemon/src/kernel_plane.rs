//! The kernel's programs and maps as the [`Plane`] that the server controls.

use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, RwLock};
use std::time::{Duration, Instant};

use aya::maps::{Map, PerCpuValues};
use aya::util::nr_cpus;
use keepstate_api::Attachment;
use keepstate_engine::index::IndexLine;
use keepstate_engine::limits::{CONDITIONS_MAX, INDEX_LINES_MAX, POLICY_EPOCHS, RULES_MAX};
use keepstate_engine::meter;
use keepstate_engine::policy::{Condition, POLICY_NONE, POLICY_UNSETTLED, PolicyHeader, Rule};
use keepstate_engine::settings::{SETTING_NEWER_TABLE, SETTING_OLDER_TABLE, Settings};
use keepstate_engine::table;
use keepstate_engine::time::Tick;
use keepstate_flowmemory::rated_flows;
use keepstate_plane::{Counters, MeterOrder, Plane as PlaneWords, RuleCounter};
use keepstate_policy::Compiled;
use keepstate_policy::model::Counters as RuleCounters;
use rustix::time::{ClockId, clock_gettime};

use crate::attach::{self, AttachError};
use crate::clock::{self, Clock};
use crate::follow::{Choice, Follower};
use crate::kernel::{
    AttachMode, Counting, Kernel, KernelError, Maps, Programs, adopt_accounting,
    remove_other_stages,
};
use crate::mapped::{Mapping, Raw, read_value, store};
use crate::mapped_table::{CommonMaps, Mapped};
use crate::meters;
use crate::policy_maps::Tables;
use crate::remembered::Places;
use crate::ring;
use crate::server::tables::Table;
use crate::server::{EventSource, Plane, PlaneError, WitnessSource};
use crate::table_maps::TableMaps;
use crate::{lock, read};

/// Packets that were being judged when the policy changed have long been judged after this time:
/// the programs run without being preempted, and the longest walk takes about a millisecond.
pub(crate) const GRACE: Duration = Duration::from_millis(50);

/// Bits that each of two tables has of its own.
const OF_TABLE: u32 = SETTING_OLDER_TABLE | SETTING_NEWER_TABLE;

const RULE_WORDS: usize = size_of::<Rule>() / 8;
const CONDITION_WORDS: usize = size_of::<Condition>() / 8;
const INDEX_LINE_WORDS: usize = size_of::<IndexLine>() / 8;

/// Programs and maps in the kernel, and what the daemon knows of them.
pub struct KernelPlane {
    pub(crate) pins: PathBuf,
    /// One, or two while the table changes its size: the older first. Locked before the plane's words
    /// are changed.
    pub(crate) flow_tables: RwLock<Vec<Arc<TableMaps>>>,
    common: Arc<CommonMaps>,
    /// Held while the size changes. Whether packets know of both tables.
    pub(crate) resizing: Mutex<Known>,
    rules: Mapping,
    conditions: Mapping,
    index: Mapping,
    condition_states: Mapping,
    tables: Mutex<Tables>,
    pub(crate) programs: Mutex<Programs>,
    /// Locked before the programs.
    follower: Mutex<Follower>,
    events: Mutex<Option<Map>>,
    pub(crate) notices: Mutex<Option<[Map; 2]>>,
    witnesses: Mutex<Option<Map>>,
    clock: Clock,
    /// Held while the plane's words are read, changed and written back.
    changing: Mutex<()>,
}

/// Whether packets know that there are two tables.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Known {
    No,
    Yes,
}

impl KernelPlane {
    /// Takes over what was loaded. Maps that are new get a clock and an empty policy.
    pub fn new(kernel: Kernel, pins: PathBuf) -> Result<Self, PlaneError> {
        let Kernel {
            maps,
            programs,
            newer,
        } = kernel;
        let Maps {
            table,
            gauges,
            fragments,
            expectations,
            helper_states,
            bans,
            sets,
            set_heads,
            labels,
            synproxy,
            rules,
            conditions,
            index,
            condition_states,
            meters,
            meter_heads,
            policies,
            rule_counters,
            counters,
            interfaces,
            locals,
            routes,
            events,
            notices,
            answers,
            witnesses,
            ..
        } = maps;
        let mut flow_tables = vec![Arc::new(table)];
        let mut programs = programs;
        if let Some(newer) = newer {
            flow_tables.push(Arc::new(newer.maps));
            programs = newer.programs;
        }
        let own = Self {
            pins,
            flow_tables: RwLock::new(flow_tables),
            common: Arc::new(CommonMaps {
                gauges,
                fragments,
                expectations,
                helper_states,
                meters,
                meter_heads,
                bans,
                sets,
                set_heads,
                labels,
                synproxy,
            }),
            resizing: Mutex::new(Known::No),
            rules,
            conditions,
            index,
            condition_states,
            tables: Mutex::new(Tables {
                policies,
                rule_counters,
                counters,
                interfaces,
                locals,
                routes,
                patterns: [None, None],
                places: [None, None],
                flipped: Instant::now(),
            }),
            programs: Mutex::new(programs),
            follower: Mutex::new(Follower::new(Choice::Nothing, AttachMode::default())),
            events: Mutex::new(events),
            notices: Mutex::new(
                notices
                    .zip(answers)
                    .map(|(notices, answers)| [notices, answers]),
            ),
            witnesses: Mutex::new(witnesses),
            clock: Clock::default(),
            changing: Mutex::new(()),
        };
        if own.words().tick_multiplier == 0 {
            own.begin()?;
        }
        own.follow_system()?;
        Ok(own)
    }

    fn begin(&self) -> Result<(), PlaneError> {
        let none = Raw(PolicyHeader::NONE);
        let set = |tables: &mut Tables| tables.policies.set(0, none, 0);
        set(&mut lock(&self.tables)).map_err(KernelError::from)?;
        lock(&self.tables).patterns = [Some(Vec::new()), Some(Vec::new())];
        self.change(|plane| plane.tick_multiplier = clock::JIFFIES);
        let rate = clock::measure_rate(&mut lock(&self.programs))?;
        self.change(|plane| plane.tick_multiplier = clock::multiplier(rate));
        Ok(())
    }

    /// Hangs the programs on interfaces; where none is named on all on which the IP stack takes
    /// Ethernet frames.
    pub fn attach(&self, names: &[String], mode: AttachMode) -> Result<(), AttachError> {
        let mut follower = lock(&self.follower);
        *follower = Follower::new(Choice::of(names), mode);
        follower.begin(&mut lock(&self.programs), &self.pins)
    }

    /// The same for interfaces that came since. To be called when interfaces change.
    pub fn follow_interfaces(&self) -> Result<(), AttachError> {
        let mut follower = lock(&self.follower);
        follower.follow(&mut lock(&self.programs), &self.pins)
    }

    /// Keeps the settled interfaces of the policy in force what the attached ones have in common.
    /// To be called when something was attached or let go.
    ///
    /// No packet's verdict hangs on when this is done: a packet that does not give the settled
    /// answers walks the rules and leaves no trace, so that all that a new interface can cost
    /// before this is a walk for each packet. What was remembered under the old answers does not
    /// fit the new ones, though. So the policy gets a new epoch, and while it changes packets
    /// neither use nor make memories: the two cannot be exchanged in one step.
    pub fn settle_interfaces(&self) -> Result<(), PlaneError> {
        let mut tables = lock(&self.tables);
        let active = self.words().active & 1;
        let old = tables.header(active)?;
        let settled = tables.settled(active, &self.pins)?;
        let is_settled = old.settled == settled && old.flags & POLICY_UNSETTLED == 0;
        if is_settled || old.flags & POLICY_NONE != 0 {
            return Ok(());
        }
        let unsettled = PolicyHeader {
            flags: old.flags | POLICY_UNSETTLED,
            ..old
        };
        tables.set_header(active, unsettled)?;
        std::thread::sleep(GRACE);
        let epoch = (old.epoch + 1) % POLICY_EPOCHS;
        self.forget_outcomes(epoch);
        let changed = PolicyHeader {
            epoch,
            generation: old.generation.wrapping_add(1),
            settled,
            ..unsettled
        };
        tables.set_header(active, changed)?;
        std::thread::sleep(GRACE);
        let flags = changed.flags & !POLICY_UNSETTLED;
        tables.set_header(active, PolicyHeader { flags, ..changed })?;
        Ok(())
    }

    /// Puts the loaded programs where those of an earlier build hang.
    pub fn replace_attached(&self) -> Result<(), AttachError> {
        if self.tables().len() > 1 {
            // A daemon was killed that changed the size of the table. The search for expired flows goes on
            // with that, and until then nothing must go that packets go through.
            return Ok(());
        }
        attach::replace(&mut lock(&self.programs), &self.pins)?;
        // Packets that the programs before had begun with.
        std::thread::sleep(GRACE);
        let removed = remove_other_stages(&self.pins);
        removed.map_err(|error| AttachError::Remove(self.pins.display().to_string(), error))
    }

    /// Puts the programs in the place of those of another load whose attachments are pinned elsewhere, and takes the
    /// pins over.
    pub(crate) fn take_attachments(&self, from: &Path) -> Result<(), AttachError> {
        attach::take_over(&mut lock(&self.programs), from, &self.pins)
    }

    /// Changes the flags of each table's settings, those that it has of its own included.
    pub(crate) fn change_flags(&self, change: impl Fn(u32) -> u32) {
        for table in read(&self.flow_tables).iter() {
            self.change_table(table, |plane| {
                plane.settings.flags = change(plane.settings.flags);
            });
        }
    }

    /// Tells the programs what changes without them: interfaces and the wall clock. To be called
    /// again and again.
    pub fn follow_system(&self) -> Result<(), PlaneError> {
        let now = |clock| {
            let time = clock_gettime(clock);
            time.tv_sec as i128 * 1_000_000_000 + i128::from(time.tv_nsec)
        };
        let offset = now(ClockId::Realtime) - now(ClockId::Monotonic);
        let offset = u64::try_from(offset).unwrap_or(0);
        // A packet between two steps of the clock must not see a start time go back: small drift
        // is left alone.
        if self.words().wall_offset.abs_diff(offset) > 10_000_000 {
            self.change(|plane| plane.wall_offset = offset);
        }
        let mut tables = lock(&self.tables);
        tables.locals.follow()?;
        tables.tell_interfaces()?;
        tables.routes.follow()
    }

    /// As they are for the newer table, where there are two.
    pub(crate) fn words(&self) -> PlaneWords {
        let tables = read(&self.flow_tables);
        let newest = tables.last().expect("there is always a table");
        newest.plane_words()
    }

    /// Changes the words of all tables but what each has of its own.
    pub(crate) fn change(&self, change: impl FnOnce(&mut PlaneWords)) {
        let _guard = lock(&self.changing);
        let mut plane = self.words();
        change(&mut plane);
        for table in read(&self.flow_tables).iter() {
            let own = table.plane_words();
            let mut words = plane;
            words.table = own.table;
            words.settings.buckets = own.settings.buckets;
            words.settings.flags &= !OF_TABLE;
            words.settings.flags |= own.settings.flags & OF_TABLE;
            table.store(&words);
        }
    }

    /// Changes what one table has of its own.
    pub(crate) fn change_table(&self, table: &TableMaps, change: impl FnOnce(&mut PlaneWords)) {
        let _guard = lock(&self.changing);
        let mut words = table.plane_words();
        change(&mut words);
        table.store(&words);
    }

    /// Lets no record keep what a policy with this number decided: four policies ago there was one.
    fn forget_outcomes(&self, epoch: u32) {
        for table in self.tables() {
            for (family, buckets) in table.families() {
                table::forget_outcomes(&table.flows(), family, 0..buckets, epoch);
            }
        }
    }

    fn run_meter(&self, order: &MeterOrder) -> Result<Option<u32>, KernelError> {
        meters::run(&mut lock(&self.programs), order)
    }

    /// The lists that the policy in a slot names.
    fn lists(&self, slot: u32, conditions: u32) -> HashSet<u64> {
        let start = (slot * CONDITIONS_MAX) as usize * CONDITION_WORDS;
        let count = conditions.min(CONDITIONS_MAX) as usize;
        let words = &self.conditions.words()[start..start + count * CONDITION_WORDS];
        let conditions: Vec<Condition> = words.chunks(CONDITION_WORDS).map(read_value).collect();
        meters::lists(conditions.iter())
    }

    fn write_policy(
        &self,
        tables: &mut Tables,
        slot: u32,
        policy: &Compiled,
        counters: &[RuleCounters],
    ) -> Result<(), KernelError> {
        let rules = self.rules.words().iter();
        let rules = rules.skip((slot * RULES_MAX) as usize * RULE_WORDS);
        store(rules, &policy.rules);
        let conditions = self.conditions.words().iter();
        let conditions = conditions.skip((slot * CONDITIONS_MAX) as usize * CONDITION_WORDS);
        store(conditions, &policy.conditions);
        let lines = self.index.words().iter();
        let lines = lines.skip((slot * INDEX_LINES_MAX) as usize * INDEX_LINE_WORDS);
        store(lines, &policy.index);
        let cpus = nr_cpus().map_err(|(_, error)| KernelError::Cpus(error))?;
        for index in 0..policy.header.rules {
            let counted = counters.get(index as usize).copied().unwrap_or_default();
            let mut values = vec![Raw(RuleCounter::default()); cpus];
            if let Some(first) = values.first_mut() {
                *first = Raw(RuleCounter {
                    packets: counted.packets,
                    bytes: counted.bytes,
                });
            }
            let values = PerCpuValues::try_from(values).map_err(KernelError::Cpus)?;
            tables
                .rule_counters
                .set(slot * RULES_MAX + index, values, 0)?;
        }
        Ok(())
    }
}

impl Plane for KernelPlane {
    fn now(&self) -> Tick {
        self.clock.now(&self.programs)
    }

    fn settings(&self) -> Settings {
        self.words().settings
    }

    fn store_settings(&self, settings: &Settings) {
        let [v4, v6] = self.words().settings.buckets;
        // A daemon that has just made the table smaller has lowered it too.
        let rated = rated_flows(v4.min(v6));
        self.change(|plane| {
            plane.settings = *settings;
            limit_flows(&mut plane.settings, rated);
        });
    }

    fn tables(&self) -> Vec<Table> {
        let tables = read(&self.flow_tables);
        let mapped = tables.iter().map(|own| {
            let (own, common) = (Arc::clone(own), Arc::clone(&self.common));
            let buckets = own.tags.each_ref().map(|tags| tags.words().len() as u32);
            Table::new(Arc::new(Mapped { own, common }), buckets)
        });
        mapped.collect()
    }

    fn resize(&self, buckets: Option<u32>) -> Result<(), PlaneError> {
        self.change_size(buckets)
    }

    fn is_loading(&self) -> bool {
        self.resizing.try_lock().is_err()
    }

    fn make_accounting(&self) -> Result<(), PlaneError> {
        let _guard = self.resizing.try_lock().map_err(|_| PlaneError::Resizing)?;
        if self.tables().len() > 1 {
            return Err(PlaneError::Resizing);
        }
        let Counting {
            programs,
            accounting,
            stages,
        } = Kernel::with_accounting(&self.pins, &self.settings())?;
        let mut current = lock(&self.programs);
        *current = programs;
        attach::replace(&mut current, &self.pins)?;
        drop(current);
        // Packets that the programs before had begun with.
        std::thread::sleep(GRACE);
        adopt_accounting(&self.pins, &stages)
            .map_err(|error| PlaneError::Io(self.pins.display().to_string(), error))?;
        let tables = read(&self.flow_tables);
        let table = tables.last().expect("there is always a table");
        table.keep_accounting(accounting);
        Ok(())
    }

    fn counters(&self) -> Result<Counters, PlaneError> {
        let values = lock(&self.tables).counters.get(&0, 0);
        let mut sum = Counters::default();
        for Raw(each) in values.map_err(KernelError::from)?.iter() {
            let pairs = [
                (&mut sum.reasons[..], &each.reasons[..]),
                (&mut sum.states[..], &each.states[..]),
                (&mut sum.verdicts[..], &each.verdicts[..]),
            ];
            for (total, part) in pairs {
                for (total, part) in total.iter_mut().zip(part) {
                    *total += part;
                }
            }
            sum.events_lost += each.events_lost;
            sum.notices_lost += each.notices_lost;
            sum.witnesses_lost += each.witnesses_lost;
            sum.answers_lost += each.answers_lost;
        }
        Ok(sum)
    }

    fn policy(&self) -> Result<(PolicyHeader, Vec<Rule>), PlaneError> {
        let active = self.words().active & 1;
        let header = lock(&self.tables).header(active)?;
        let start = (active * RULES_MAX) as usize * RULE_WORDS;
        let count = header.rules.min(RULES_MAX) as usize;
        let words = &self.rules.words()[start..start + count * RULE_WORDS];
        Ok((header, words.chunks(RULE_WORDS).map(read_value).collect()))
    }

    fn rule_counters(&self) -> Result<Vec<RuleCounters>, PlaneError> {
        let active = self.words().active & 1;
        let tables = lock(&self.tables);
        let header = tables.header(active)?;
        let mut list = Vec::with_capacity(header.rules as usize);
        for index in 0..header.rules.min(RULES_MAX) {
            let values = tables.rule_counters.get(&(active * RULES_MAX + index), 0);
            let mut sum = RuleCounters::default();
            for Raw(each) in values.map_err(KernelError::from)?.iter() {
                sum.packets += each.packets;
                sum.bytes += each.bytes;
            }
            list.push(sum);
        }
        Ok(list)
    }

    fn swap_policy(&self, policy: &Compiled, counters: &[RuleCounters]) -> Result<(), PlaneError> {
        let mut tables = lock(&self.tables);
        let active = self.words().active & 1;
        let slot = active ^ 1;
        std::thread::sleep(GRACE.saturating_sub(tables.flipped.elapsed()));
        let old = tables.header(active)?;
        let mut gone = self.lists(active, old.conditions);
        let epoch = (old.epoch + 1) % POLICY_EPOCHS;
        let generation = old.generation.wrapping_add(1);
        self.forget_outcomes(epoch);
        self.write_policy(&mut tables, slot, policy, counters)?;
        tables.patterns[slot as usize] = Some(policy.interface_patterns.clone());
        tables.routes.want(policy.conditions.iter())?;
        tables.tell_interfaces()?;
        let header = PolicyHeader {
            epoch,
            generation,
            settled: tables.settled(slot, &self.pins)?,
            ..policy.header
        };
        tables.set_header(slot, header)?;
        let places = Places::of(policy);
        let old = tables.places[active as usize].as_ref();
        places.carry(self.condition_states.words(), slot, old);
        tables.places[slot as usize] = Some(places);
        self.change(|plane| plane.active = slot);
        tables.flipped = Instant::now();
        for list in meters::lists(policy.conditions.iter()) {
            gone.remove(&list);
        }
        if !gone.is_empty() {
            // Packets that saw the policy before.
            std::thread::sleep(GRACE);
        }
        for list in gone {
            meters::forget(list, |order| self.run_meter(order))?;
        }
        Ok(())
    }

    fn recognize(&self, policy: &Compiled) {
        let active = self.words().active & 1;
        let patterns = policy.interface_patterns.clone();
        let mut tables = lock(&self.tables);
        tables.patterns[active as usize] = Some(patterns);
        tables.places[active as usize] = Some(Places::of(policy));
        if let Err(error) = tables.routes.want(policy.conditions.iter()) {
            crate::complain!("keepstate: {error}");
        }
    }

    fn change_meter(&self, order: &MeterOrder) -> Result<Option<u32>, PlaneError> {
        Ok(self.run_meter(order)?)
    }

    fn sweep_meters(&self) -> Result<(), PlaneError> {
        if meter::is_used(&self.table().flows()) {
            meters::sweep(|order| self.run_meter(order))?;
        }
        Ok(())
    }

    fn jiffies(&self) -> Result<(u64, u32), PlaneError> {
        let multiplier = self.words().tick_multiplier;
        Ok(meters::jiffies(multiplier, self.now(), |order| {
            self.run_meter(order)
        })?)
    }

    fn attachments(&self) -> Vec<Attachment> {
        attach::attachments(&self.pins)
    }

    fn events(&self) -> Result<Box<dyn EventSource>, PlaneError> {
        ring::open_events(lock(&self.events).take())
    }

    fn witnesses(&self) -> Result<Option<Box<dyn WitnessSource>>, PlaneError> {
        ring::open_witnesses(lock(&self.witnesses).take())
    }

    fn want_witnesses(&self, flags: u32) {
        self.set_witnesses(flags);
    }

    fn remove(&self) -> Result<(), PlaneError> {
        // Nothing is made any more where everything goes.
        let _guard = lock(&self.resizing);
        *lock(&self.follower) = Follower::new(Choice::Nothing, AttachMode::default());
        attach::remove_pins(&self.pins)?;
        Ok(())
    }
}

/// No more flows than a table is rated for.
pub(crate) fn limit_flows(settings: &mut Settings, rated: u32) {
    if settings.flows_max > rated {
        settings.flows_max = rated;
        settings.half_open_max = rated - rated / 8;
    }
}

/// Where the pins of an instance are, for what works without a daemon.
pub fn remove(pins: &Path) -> Result<(), AttachError> {
    let ids = attach::remove_pins(pins)?;
    attach::wait_until_gone(&ids)
}
