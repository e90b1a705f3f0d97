//! Policies and interfaces, in maps that are reached by system calls.

use std::path::Path;
use std::time::Instant;

use aya::maps::{Array, HashMap, MapData, PerCpuArray};
use keepstate_engine::policy::{PolicyHeader, SettledInterfaces};
use keepstate_plane::{Counters, Interface, InterfaceKey, RuleCounter};

use crate::kernel::KernelError;
use crate::locals::Locals;
use crate::mapped::Raw;
use crate::patterns::{matching, settled};
use crate::remembered::Places;
use crate::routes::Routes;
use crate::server::PlaneError;
use crate::{attach, netlink};

/// Maps that are reached by system calls, and the policies that they hold.
pub(crate) struct Tables {
    pub(crate) policies: Array<MapData, Raw<PolicyHeader>>,
    pub(crate) rule_counters: PerCpuArray<MapData, Raw<RuleCounter>>,
    pub(crate) counters: PerCpuArray<MapData, Raw<Counters>>,
    pub(crate) interfaces: HashMap<MapData, Raw<InterfaceKey>, Raw<Interface>>,
    pub(crate) locals: Locals,
    pub(crate) routes: Routes,
    /// Interface patterns of each policy slot; `None` where a daemon before this one wrote them
    /// and their text is lost.
    pub(crate) patterns: [Option<Vec<String>>; 2],
    /// Where the conditions of each policy lie, likewise.
    pub(crate) places: [Option<Places>; 2],
    pub(crate) flipped: Instant,
}

impl Tables {
    pub(crate) fn header(&self, slot: u32) -> Result<PolicyHeader, KernelError> {
        let Raw(header) = self.policies.get(&slot, 0)?;
        Ok(header)
    }

    pub(crate) fn set_header(
        &mut self,
        slot: u32,
        header: PolicyHeader,
    ) -> Result<(), KernelError> {
        Ok(self.policies.set(slot, Raw(header), 0)?)
    }

    /// What the attached interfaces have in common, for the policy in a slot.
    pub(crate) fn settled(&self, slot: u32, pins: &Path) -> Result<SettledInterfaces, PlaneError> {
        let Some(patterns) = &self.patterns[slot as usize] else {
            return Ok(SettledInterfaces::NONE);
        };
        if patterns.is_empty() {
            return Ok(SettledInterfaces::NONE);
        }
        let present = attach::interfaces()?;
        Ok(settled(patterns, &attach::attached_indexes(pins), &present))
    }

    /// Writes which patterns each interface matches.
    pub(crate) fn tell_interfaces(&mut self) -> Result<(), PlaneError> {
        let present = attach::interfaces()?;
        let keys: Vec<Raw<InterfaceKey>> = self.interfaces.keys().flatten().collect();
        let mut told = Vec::new();
        for interface in &present {
            let (vlan, index) = interface.vlan.unwrap_or((0, interface.index));
            let key = Raw(InterfaceKey {
                index,
                vlan: u32::from(vlan),
            });
            // A forwarded packet is looked up by the interface that it leaves through.
            let own = Raw(InterfaceKey {
                index: interface.index,
                vlan: 0,
            });
            for key in [key, own] {
                self.tell(key, interface)?;
                told.push(key);
            }
        }
        for key in keys.iter().filter(|key| !told.contains(key)) {
            // It may be gone already.
            let _ = self.interfaces.remove(key);
        }
        Ok(())
    }

    fn tell(
        &mut self,
        key: Raw<InterfaceKey>,
        interface: &netlink::Interface,
    ) -> Result<(), PlaneError> {
        let before = self.interfaces.get(&key, 0).ok().map(|Raw(value)| value);
        let mut value = Interface {
            index: interface.index,
            ..before.unwrap_or_default()
        };
        for (bits, patterns) in value.patterns.iter_mut().zip(&self.patterns) {
            if let Some(patterns) = patterns {
                *bits = matching(patterns, &interface.name);
            }
        }
        if before != Some(value) {
            let inserted = self.interfaces.insert(key, Raw(value), 0);
            inserted.map_err(KernelError::from)?;
        }
        Ok(())
    }
}
