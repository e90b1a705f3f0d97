//! The maps of one flow table, with their memory.

use std::path::Path;
use std::sync::OnceLock;
use std::sync::atomic::Ordering::SeqCst;

use aya::maps::MapData;
use keepstate_flowmemory::FamilySlices;
use keepstate_plane::{BUCKET_ACCOUNTING_WORDS, Plane, names};

use crate::kernel::{KernelError, map_memory, write};
use crate::mapped::{Mapping, bytes_of, from_bytes};

/// The maps of one flow table.
pub struct TableMaps {
    pub plane: Mapping,
    /// By family, as the next three.
    pub tags: [Mapping; 2],
    pub slots: [Mapping; 2],
    pub warm: [Mapping; 2],
    /// Empty where the table has no room for counters.
    pub accounting: [OnceLock<Mapping>; 2],
}

impl TableMaps {
    pub fn new(plane: Mapping, [tags, slots, warm, accounting]: [[Mapping; 2]; 4]) -> Self {
        let table = Self {
            plane,
            tags,
            slots,
            warm,
            accounting: [OnceLock::new(), OnceLock::new()],
        };
        table.keep_accounting(accounting);
        table
    }

    /// Opens what is pinned in a directory under these names.
    pub fn from_pins(directory: &Path, pin: impl Fn(&str) -> String) -> Result<Self, KernelError> {
        let one = |name: &str| map_memory(name, &MapData::from_pin(directory.join(pin(name)))?);
        let pair = |names: [&str; 2]| -> Result<[Mapping; 2], KernelError> {
            let [v4, v6] = names;
            Ok([one(v4)?, one(v6)?])
        };
        let lists = [names::TAGS, names::SLOTS, names::WARM, names::ACCOUNTING];
        let [tags, slots, warm, accounting] = lists.map(pair);
        let lists = [tags?, slots?, warm?, accounting?];
        Ok(Self::new(one(names::PLANE)?, lists))
    }

    /// Keeps what has room for the counters of all flows. A table without counters has one bucket of
    /// them, since a map cannot be empty.
    pub fn keep_accounting(&self, mappings: [Mapping; 2]) {
        let own = self.accounting.iter().zip(mappings).zip(&self.tags);
        for ((slot, mapping), tags) in own {
            if mapping.words().len() >= tags.words().len() * BUCKET_ACCOUNTING_WORDS {
                // One that is there already is as good.
                let _ = slot.set(mapping);
            }
        }
    }

    pub fn families(&self) -> [FamilySlices<'_>; 2] {
        [0, 1].map(|index| FamilySlices {
            tags: self.tags[index].words(),
            slots: self.slots[index].words(),
            warm: self.warm[index].words(),
            accounting: self.accounting[index].get().map_or(&[], Mapping::words),
        })
    }

    pub fn store(&self, plane: &Plane) {
        write(self.plane.words(), bytes_of(plane));
    }

    pub fn plane_words(&self) -> Plane {
        let bytes: Vec<u8> = self
            .plane
            .words()
            .iter()
            .flat_map(|word| word.load(SeqCst).to_ne_bytes())
            .collect();
        from_bytes(&bytes).expect("the map holds a whole plane: its value is that type")
    }

    /// Notes how far the table has come.
    pub fn set_table(&self, table: u32) {
        let mut plane = self.plane_words();
        plane.table = table;
        self.store(&plane);
    }
}
