//! A firewall in plain memory that sees no packets, for tests of the server.

use std::io;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use keepstate_api::Attachment;
use keepstate_engine::event::Event;
use keepstate_engine::limits::POLICY_EPOCHS;
use keepstate_engine::policy::{PolicyHeader, Rule};
use keepstate_engine::settings::Settings;
use keepstate_engine::table;
use keepstate_engine::time::Tick;
use keepstate_flowmemory::{Accounting, OwnedTable, SliceTable, buckets_for};
use keepstate_plane::Counters;
use keepstate_policy::Compiled;
use keepstate_policy::model::Counters as RuleCounters;

use super::plane::{EventSource, Plane, PlaneError};
use super::tables::{Table, TableMemory};

/// Buckets of bans.
const BAN_BUCKETS: u32 = 16;

/// Buckets of sets.
const SET_BUCKETS: u32 = 64;

/// See the module.
pub struct MemoryPlane {
    pub counters: Mutex<Counters>,
    now: AtomicU32,
    settings: Mutex<Settings>,
    /// Holds what all tables have in common, and the first one's records.
    first: Arc<OwnedTable>,
    tables: Mutex<Vec<Table>>,
    policy: Mutex<MemoryPolicy>,
    sender: Mutex<Sender<Event>>,
    receiver: Mutex<Option<Receiver<Event>>>,
}

struct MemoryTable {
    own: Arc<OwnedTable>,
    common: Arc<OwnedTable>,
}

impl TableMemory for MemoryTable {
    fn as_slices(&self) -> SliceTable<'_> {
        self.own.beside(&self.common)
    }
}

#[derive(Clone)]
struct MemoryPolicy {
    header: PolicyHeader,
    rules: Vec<Rule>,
    counters: Vec<RuleCounters>,
}

impl MemoryPlane {
    pub fn new(flows_max: u32) -> Self {
        let buckets = buckets_for(flows_max);
        let (sender, receiver) = channel();
        let mut settings = Settings::defaults(flows_max, [buckets; 2]);
        settings.bans.buckets = BAN_BUCKETS;
        settings.sets.buckets = SET_BUCKETS;
        let first = Arc::new(first_table(buckets));
        let memory = MemoryTable {
            own: Arc::clone(&first),
            common: Arc::clone(&first),
        };
        Self {
            counters: Mutex::default(),
            now: AtomicU32::new(0),
            settings: Mutex::new(settings),
            first,
            tables: Mutex::new(vec![Table::new(Arc::new(memory), [buckets; 2])]),
            policy: Mutex::new(MemoryPolicy {
                header: PolicyHeader::NONE,
                rules: Vec::new(),
                counters: Vec::new(),
            }),
            sender: Mutex::new(sender),
            receiver: Mutex::new(Some(receiver)),
        }
    }

    pub fn set_clock(&self, now: Tick) {
        self.now.store(now.0, Ordering::Relaxed);
    }

    /// Takes over the policy of another one, with its counters.
    pub fn copy_policy(&self, other: &Self) {
        let theirs = lock(&other.policy).clone();
        *lock(&self.policy) = theirs;
    }

    /// Lets something happen.
    pub fn emit(&self, event: Event) {
        // Nobody may be there to read.
        let _ = lock(&self.sender).send(event);
    }

    /// Lets a rule match.
    pub fn count_rule(&self, index: usize, packets: u64, bytes: u64) {
        if let Some(counters) = lock(&self.policy).counters.get_mut(index) {
            counters.packets += packets;
            counters.bytes += bytes;
        }
    }
}

impl Plane for MemoryPlane {
    fn now(&self) -> Tick {
        Tick(self.now.load(Ordering::Relaxed))
    }

    fn settings(&self) -> Settings {
        *lock(&self.settings)
    }

    fn store_settings(&self, settings: &Settings) {
        let buckets = self.table().buckets;
        *lock(&self.settings) = Settings {
            buckets,
            ..*settings
        };
    }

    fn tables(&self) -> Vec<Table> {
        lock(&self.tables).clone()
    }

    fn resize(&self, buckets: Option<u32>) -> Result<(), PlaneError> {
        let Some(buckets) = buckets else {
            return Ok(());
        };
        let settings = self.settings();
        let mut tables = lock(&self.tables);
        let old = tables.pop().expect("there is always a table");
        let memory = MemoryTable {
            own: Arc::new(OwnedTable::new([buckets; 2], Accounting::Yes)),
            common: Arc::clone(&self.first),
        };
        let new = Table::new(Arc::new(memory), [buckets; 2]);
        let settings = new.settings(&settings);
        for (family, buckets) in old.families() {
            table::places(&old.flows(), family, 0..buckets, |place| {
                table::transfer(&old.flows(), &new.flows(), &settings, place, self.now());
            });
        }
        *tables = vec![new];
        *lock(&self.settings) = settings;
        Ok(())
    }

    fn make_accounting(&self) -> Result<(), PlaneError> {
        // It always has it.
        Ok(())
    }

    fn counters(&self) -> Result<Counters, PlaneError> {
        Ok(*lock(&self.counters))
    }

    fn policy(&self) -> Result<(PolicyHeader, Vec<Rule>), PlaneError> {
        let policy = lock(&self.policy);
        Ok((policy.header, policy.rules.clone()))
    }

    fn rule_counters(&self) -> Result<Vec<RuleCounters>, PlaneError> {
        Ok(lock(&self.policy).counters.clone())
    }

    fn swap_policy(&self, policy: &Compiled, counters: &[RuleCounters]) -> Result<(), PlaneError> {
        let mut slot = lock(&self.policy);
        let epoch = (slot.header.epoch + 1) % POLICY_EPOCHS;
        *slot = MemoryPolicy {
            header: PolicyHeader {
                epoch,
                generation: slot.header.generation.wrapping_add(1),
                ..policy.header
            },
            rules: policy.rules.clone(),
            counters: counters.to_vec(),
        };
        Ok(())
    }

    fn attachments(&self) -> Vec<Attachment> {
        Vec::new()
    }

    fn events(&self) -> Result<Box<dyn EventSource>, PlaneError> {
        let taken = lock(&self.receiver).take();
        let error = || io::Error::other("somebody reads events already");
        let receiver = taken.ok_or_else(|| PlaneError::Io("events".to_owned(), error()))?;
        Ok(Box::new(MemoryEvents(receiver)))
    }

    fn remove(&self) -> Result<(), PlaneError> {
        Ok(())
    }
}

struct MemoryEvents(Receiver<Event>);

impl EventSource for MemoryEvents {
    fn wait(&mut self, patience: Duration, show: &mut dyn FnMut(&Event)) -> io::Result<()> {
        match self.0.recv_timeout(patience) {
            Ok(event) => show(&event),
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => return Err(io::ErrorKind::BrokenPipe.into()),
        }
        self.0.try_iter().for_each(|event| show(&event));
        Ok(())
    }
}

fn first_table(buckets: u32) -> OwnedTable {
    OwnedTable::new([buckets; 2], Accounting::Yes)
        .with_helpers()
        .with_bans(BAN_BUCKETS)
        .with_sets(SET_BUCKETS)
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
