//! The maps of the programs, those with memory mapped.

use std::collections::HashMap as Named;
use std::sync::atomic::{AtomicU64, Ordering::SeqCst};

use aya::maps::{Array, HashMap, Map, MapData, PerCpuArray};
use keepstate_engine::policy::PolicyHeader;
use keepstate_engine::settings::Settings;
use keepstate_plane::{Counters, Interface, InterfaceKey, Plane, RuleCounter, names};

use crate::kernel::{KernelError, layout, missing, object_number};
use crate::locals::Locals;
use crate::mapped::{Mapping, Raw, from_bytes};
use crate::routes::Routes;
use crate::table_maps::TableMaps;

/// The maps, those with memory mapped.
pub struct Maps {
    pub table: TableMaps,
    pub gauges: Mapping,
    pub fragments: Mapping,
    pub expectations: Mapping,
    pub helper_states: Mapping,
    pub labels: Mapping,
    pub synproxy: Mapping,
    pub rules: Mapping,
    pub conditions: Mapping,
    pub index: Mapping,
    pub condition_states: Mapping,
    pub meters: Mapping,
    pub meter_heads: Mapping,
    pub report: Mapping,
    pub bans: Mapping,
    pub sets: Mapping,
    pub set_heads: Mapping,
    pub policies: Array<MapData, Raw<PolicyHeader>>,
    pub rule_counters: PerCpuArray<MapData, Raw<RuleCounter>>,
    pub counters: PerCpuArray<MapData, Raw<Counters>>,
    pub interfaces: HashMap<MapData, Raw<InterfaceKey>, Raw<Interface>>,
    pub answer_rates: Array<MapData, u64>,
    pub locals: Locals,
    pub routes: Routes,
    /// These three are taken by whoever reads them.
    pub events: Option<Map>,
    pub notices: Option<Map>,
    pub answers: Option<Map>,
    pub witnesses: Option<Map>,
}

impl Maps {
    pub(crate) fn open(mut data: Named<&'static str, Map>) -> Result<Self, KernelError> {
        let mut take = |name: &str| data.remove(name).ok_or_else(|| missing(name));
        let mut pair = |names: [&'static str; 2]| -> Result<[Mapping; 2], KernelError> {
            Ok([
                map_array(names[0], take(names[0])?)?,
                map_array(names[1], take(names[1])?)?,
            ])
        };
        let tags = pair(names::TAGS)?;
        let slots = pair(names::SLOTS)?;
        let warm = pair(names::WARM)?;
        let accounting = pair(names::ACCOUNTING)?;
        let mut one = |name: &'static str| map_array(name, take(name)?);
        Ok(Self {
            table: TableMaps::new(one(names::PLANE)?, [tags, slots, warm, accounting]),
            gauges: one(names::GAUGES)?,
            fragments: one(names::FRAGMENTS)?,
            expectations: one(names::EXPECTATIONS)?,
            helper_states: one(names::HELPER_STATES)?,
            labels: one(names::LABELS)?,
            synproxy: one(names::SYNPROXY)?,
            rules: one(names::RULES)?,
            conditions: one(names::CONDITIONS)?,
            index: one(names::INDEX)?,
            condition_states: one(names::CONDITION_STATES)?,
            meters: one(names::METERS)?,
            meter_heads: one(names::METER_HEADS)?,
            report: one(names::REPORT)?,
            bans: one(names::BANS)?,
            sets: one(names::SETS)?,
            set_heads: one(names::SET_HEADS)?,
            policies: take(names::POLICIES)?.try_into()?,
            rule_counters: take(names::RULE_COUNTERS)?.try_into()?,
            counters: take(names::COUNTERS)?.try_into()?,
            interfaces: take(names::INTERFACES)?.try_into()?,
            answer_rates: take(names::ANSWER_RATES)?.try_into()?,
            locals: Locals::new(take(names::LOCALS)?.try_into()?),
            routes: Routes::new(take(names::ROUTES)?.try_into()?),
            events: Some(take(names::EVENTS)?),
            notices: Some(take(names::NOTICES)?),
            answers: Some(take(names::ANSWERS)?),
            witnesses: Some(take(names::WITNESSES)?),
        })
    }

    /// Writes the first contents of maps that were just made.
    pub(crate) fn begin(&self, settings: &Settings) {
        self.store_plane(&Plane {
            layout: layout(),
            active: 0,
            object: object_number(),
            tick_multiplier: 0,
            wall_offset: 0,
            answerers: [0; 2],
            flags: 0,
            test_tick: 0,
            test_hook: 0,
            table: 0,
            settings: *settings,
        });
    }

    pub fn plane(&self) -> Plane {
        let mut bytes = Vec::with_capacity(size_of::<Plane>());
        for word in self.table.plane.words() {
            bytes.extend(word.load(SeqCst).to_ne_bytes());
        }
        from_bytes(&bytes).expect("the map holds a whole plane: its value is that type")
    }

    /// Changes the plane. The daemon is its only writer, and each word changes at once.
    pub fn change_plane(&self, change: impl FnOnce(&mut Plane)) {
        let mut plane = self.plane();
        change(&mut plane);
        self.store_plane(&plane);
    }

    fn store_plane(&self, plane: &Plane) {
        self.table.store(plane);
    }
}

/// Writes bytes into words, those that differ alone.
pub fn write(words: &[AtomicU64], bytes: &[u8]) {
    for (word, chunk) in words.iter().zip(bytes.chunks(8)) {
        let mut value = [0; 8];
        value[..chunk.len()].copy_from_slice(chunk);
        let value = u64::from_ne_bytes(value);
        if word.load(SeqCst) != value {
            word.store(value, SeqCst);
        }
    }
}

fn map_array(name: &str, map: Map) -> Result<Mapping, KernelError> {
    match map {
        Map::Array(data) => map_memory(name, &data),
        _ => Err(missing(name)),
    }
}

pub(crate) fn map_memory(name: &str, data: &MapData) -> Result<Mapping, KernelError> {
    let info = data.info()?;
    let bytes = info.value_size().next_multiple_of(8) as usize * info.max_entries() as usize;
    Mapping::new(data.fd(), bytes).map_err(|error| KernelError::Mapping(name.to_owned(), error))
}
