//! Flows that were told and have not ended, for the case that events are lost.

use std::collections::HashMap;

use keepstate_api::Flow;
use keepstate_listing::Entry;

/// Flows that are remembered: some 70 megabytes.
const KNOWN_MAX: usize = 1 << 18;

/// See the module.
#[derive(Default)]
pub(super) struct Known {
    flows: HashMap<Name, Entry>,
    forgot: bool,
}

/// What tells a flow from others: its number alone has 32 bits.
#[derive(PartialEq, Eq, Hash)]
struct Name {
    id: u32,
    protocol: u8,
    ports: (u16, u16),
}

impl Name {
    const fn of(entry: &Entry) -> Self {
        let tuple = entry.original();
        Self {
            id: entry.id,
            protocol: tuple.protocol,
            ports: (tuple.source_port, tuple.destination_port),
        }
    }
}

impl Known {
    /// A flow was told.
    pub(super) fn add(&mut self, flow: &Flow) {
        let entry = flow.to_listing();
        let name = Name::of(&entry);
        if self.flows.len() < KNOWN_MAX || self.flows.contains_key(&name) {
            self.flows.insert(name, entry);
        } else {
            self.forgot = true;
        }
    }

    /// The end of a flow was told.
    pub(super) fn remove(&mut self, flow: &Flow) {
        self.flows.remove(&Name::of(&flow.to_listing()));
    }

    /// All that is known; nothing is known afterwards.
    pub(super) fn take(&mut self) -> Self {
        let taken = Self {
            flows: std::mem::take(&mut self.flows),
            forgot: self.forgot,
        };
        self.forgot = false;
        taken
    }

    pub(super) fn flows(self) -> impl Iterator<Item = Flow> {
        let entries = self.flows.into_values();
        entries.map(|entry| Flow::from_listing(&entry))
    }

    /// Whether there were more flows than are remembered.
    pub(super) const fn forgotten(&self) -> bool {
        self.forgot
    }
}
