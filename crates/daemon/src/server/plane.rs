//! What the server needs of the firewall that it controls: the kernel programs' maps, or, in
//! tests, plain memory.

use std::io;
use std::time::Duration;

use keepstate_api::Attachment;
use keepstate_engine::event::Event;
use keepstate_engine::policy::{PolicyHeader, Rule};
use keepstate_engine::settings::Settings;
use keepstate_engine::time::{TICKS_PER_SECOND, Tick};
use keepstate_plane::{Counters, MeterOrder, Witness};
use keepstate_policy::Compiled;
use keepstate_policy::model::Counters as RuleCounters;

use super::tables::Table;
use crate::attach::AttachError;
use crate::kernel::KernelError;

/// Why the firewall could not be changed or asked.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PlaneError {
    #[error(transparent)]
    Kernel(#[from] KernelError),
    #[error(transparent)]
    Attach(#[from] AttachError),
    #[error("{0}")]
    Io(String, #[source] io::Error),
    #[error("{flows} flows of one family are in the table, and {buckets} buckets are for {rated}")]
    TooSmall {
        flows: u64,
        buckets: u32,
        rated: u64,
    },
    #[error(
        "a table of {buckets} buckets takes {needed} MiB beside the one in use, and {available} MiB are free"
    )]
    NoMemory {
        buckets: u32,
        needed: u64,
        available: u64,
    },
    #[error("the table is still changing its size")]
    Resizing,
    #[error(
        "{0} flows find no place in the new table yet: they stay where they are, and move when others end"
    )]
    Unmoved(u64),
}

/// The firewall. All methods may be called from any thread.
pub trait Plane: Send + Sync {
    /// The engine's time.
    fn now(&self) -> Tick;

    fn settings(&self) -> Settings;

    /// Puts settings in force. Callers make sure that only one of them does so at a time.
    fn store_settings(&self, settings: &Settings);

    /// The tables of flows: one, or two while the size changes. New flows are made in the last. Whoever goes
    /// through both in this order meets each flow that stays: some twice, since records move
    /// from the first to the second.
    fn tables(&self) -> Vec<Table>;

    /// The table in which new flows are made. Its gauges, fragments and expectations are those of both.
    fn table(&self) -> Table {
        self.tables().pop().expect("there is always a table")
    }

    /// Makes the table one of this many buckets for each family, while packets come: no flow is lost. Takes
    /// seconds. With `None` it goes on with what an earlier call could not bring to its end.
    fn resize(&self, buckets: Option<u32>) -> Result<(), PlaneError>;

    /// Makes room for the counters and start times of flows in a table that was made without. Those
    /// that are there keep their records and are marked as not counted. May take seconds.
    fn make_accounting(&self) -> Result<(), PlaneError>;

    /// Whether the kernel examines programs for one of these two, which takes as long as it takes.
    fn is_loading(&self) -> bool {
        false
    }

    /// Counters of the whole, over all CPUs.
    fn counters(&self) -> Result<Counters, PlaneError>;

    /// Header and rules of the policy in force.
    fn policy(&self) -> Result<(PolicyHeader, Vec<Rule>), PlaneError>;

    /// Counters of the rules in force, over all CPUs.
    fn rule_counters(&self) -> Result<Vec<RuleCounters>, PlaneError>;

    /// Puts a policy in force: every packet sees the old one or the new one.
    fn swap_policy(&self, policy: &Compiled, counters: &[RuleCounters]) -> Result<(), PlaneError>;

    /// The policy in force is this one, put there by an earlier daemon.
    fn recognize(&self, _policy: &Compiled) {}

    /// Changes what rules remember of sources; `None` where that could not be done.
    fn change_meter(&self, _order: &MeterOrder) -> Result<Option<u32>, PlaneError> {
        Ok(None)
    }

    /// Takes out of that what is over. To be called every second.
    fn sweep_meters(&self) -> Result<(), PlaneError> {
        Ok(())
    }

    /// Jiffies, and how many there are in a second.
    fn jiffies(&self) -> Result<(u64, u32), PlaneError> {
        Ok((u64::from(self.now().0), TICKS_PER_SECOND))
    }

    fn attachments(&self) -> Vec<Attachment>;

    /// The reader of events; there is one.
    fn events(&self) -> Result<Box<dyn EventSource>, PlaneError>;

    /// The reader of judged packets, once; `None` where there is none.
    fn witnesses(&self) -> Result<Option<Box<dyn WitnessSource>>, PlaneError> {
        Ok(None)
    }

    /// Which judged packets are to be handed over: `PLANE_WITNESS_*`, or zero for none.
    fn want_witnesses(&self, _flags: u32) {}

    /// Detaches and removes everything.
    fn remove(&self) -> Result<(), PlaneError>;
}

/// Judged packets, in the order in which each CPU judged them.
pub trait WitnessSource: Send {
    /// As [`EventSource::wait`], each with the first bytes of its frame.
    fn wait(&mut self, patience: Duration, show: &mut dyn FnMut(&Witness, &[u8]))
    -> io::Result<()>;
}

/// Events of the programs, in the order in which they happened on each CPU.
pub trait EventSource: Send {
    /// Shows the events that are there, after having waited for the first one.
    fn wait(&mut self, patience: Duration, show: &mut dyn FnMut(&Event)) -> io::Result<()>;
}
