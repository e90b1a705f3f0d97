//! The flow table as the server sees it: one, or two while its size changes.

use std::sync::Arc;

use keepstate_engine::settings::Settings;
use keepstate_engine::table::Hash;
use keepstate_engine::tuple::{Family, FlowKey};
use keepstate_flowmemory::SliceTable;

/// Memory of a flow table.
pub trait TableMemory: Send + Sync {
    fn as_slices(&self) -> SliceTable<'_>;
}

/// A table of flows, whose memory stays for as long as the value lives.
#[derive(Clone)]
pub struct Table {
    memory: Arc<dyn TableMemory>,
    /// Of the IPv4 and of the IPv6 part.
    pub buckets: [u32; 2],
}

impl Table {
    pub fn new(memory: Arc<dyn TableMemory>, buckets: [u32; 2]) -> Self {
        Self { memory, buckets }
    }

    pub fn flows(&self) -> SliceTable<'_> {
        self.memory.as_slices()
    }

    /// Where a key lies in this table.
    pub fn hash(&self, key: &FlowKey, settings: &Settings) -> Hash {
        Hash::of(key, &self.settings(settings))
    }

    /// Settings as they are for this table.
    pub fn settings(&self, settings: &Settings) -> Settings {
        Settings {
            buckets: self.buckets,
            ..*settings
        }
    }

    pub fn families(&self) -> [(Family, u32); 2] {
        let [v4, v6] = self.buckets;
        [(Family::V4, v4), (Family::V6, v6)]
    }
}
