//! Which interfaces the programs hang on, while interfaces come and go.

use std::collections::HashSet;
use std::path::Path;

use crate::attach::{self, AttachError};
use crate::kernel::{AttachMode, Programs};
use crate::netlink::{Interface, LinkLayer, Role};

/// Which interfaces are to be filtered on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Choice {
    /// Nothing is attached any more, or not yet.
    Nothing,
    Named(Vec<String>),
    /// All on which the IP stack takes Ethernet frames.
    All,
}

impl Choice {
    /// Names that a user gave; none of them means all.
    pub(crate) fn of(names: &[String]) -> Self {
        if names.is_empty() {
            Self::All
        } else {
            Self::Named(names.to_vec())
        }
    }

    /// Whether an interface is one of those. A VLAN is seen on the interface below it, unless that
    /// is left alone.
    fn includes(&self, interface: &Interface, all: &[Interface]) -> bool {
        match self {
            Self::Nothing => false,
            Self::Named(names) => names.contains(&interface.name),
            Self::All => {
                let below = interface.vlan.map(|(_, below)| below);
                let is_covered = all
                    .iter()
                    .any(|other| Some(other.index) == below && self.includes(other, all));
                interface.layer == LinkLayer::Ethernet
                    && interface.role == Role::Station
                    && !is_covered
            }
        }
    }

    /// Whether an interface that may have been attached earlier is to be left alone: a port of a
    /// bridge, say, whose packets would be judged here and on the bridge.
    fn excludes(&self, interface: &Interface) -> bool {
        *self == Self::All && interface.role != Role::Station
    }
}

/// Whether there are all that a user named.
pub(crate) fn all_there(names: &[String], interfaces: &[Interface]) -> Result<(), AttachError> {
    let is_there = |name: &&String| interfaces.iter().any(|known| known.name == **name);
    match names.iter().find(|name| !is_there(name)) {
        Some(missing) => Err(AttachError::NoInterface(missing.clone())),
        None => Ok(()),
    }
}

/// What is attached and to be attached.
#[derive(Debug)]
pub(crate) struct Follower {
    choice: Choice,
    mode: AttachMode,
    /// Interfaces that could not be attached, for each to be told of once.
    failed: HashSet<u32>,
}

impl Follower {
    pub(crate) fn new(choice: Choice, mode: AttachMode) -> Self {
        Self {
            choice,
            mode,
            failed: HashSet::new(),
        }
    }

    /// Attaches for the first time: an interface that is missing or cannot be attached is an error.
    pub(crate) fn begin(&self, programs: &mut Programs, pins: &Path) -> Result<(), AttachError> {
        let interfaces = attach::interfaces()?;
        if let Choice::Named(names) = &self.choice {
            all_there(names, &interfaces)?;
        }
        for interface in &interfaces {
            if self.choice.includes(interface, &interfaces) {
                attach::attach(programs, pins, interface, self.mode)?;
            }
        }
        self.let_go(pins, &interfaces)
    }

    /// Attaches what came since, and lets go of what went or became a part of another interface.
    pub(crate) fn follow(
        &mut self,
        programs: &mut Programs,
        pins: &Path,
    ) -> Result<(), AttachError> {
        if self.choice == Choice::Nothing {
            return Ok(());
        }
        let interfaces = attach::interfaces()?;
        self.failed
            .retain(|index| interfaces.iter().any(|known| known.index == *index));
        let attached = attach::attached_indexes(pins);
        for interface in &interfaces {
            let is_wanted = self.choice.includes(interface, &interfaces);
            if !is_wanted || attached.contains(&interface.index) {
                continue;
            }
            if let Err(error) = attach::attach(programs, pins, interface, self.mode) {
                if self.failed.insert(interface.index) {
                    crate::complain!("keepstate: {}: {error}", interface.name);
                }
                // One way alone would be worse than none: answers would not be known.
                attach::detach(pins, interface.index)?;
            }
        }
        self.let_go(pins, &interfaces)
    }

    fn let_go(&self, pins: &Path, interfaces: &[Interface]) -> Result<(), AttachError> {
        for index in attach::attached_indexes(pins) {
            let found = interfaces.iter().find(|known| known.index == index);
            if found.is_none_or(|interface| self.choice.excludes(interface)) {
                attach::detach(pins, index)?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn interface(index: u32, name: &str) -> Interface {
        Interface {
            index,
            name: name.to_owned(),
            layer: LinkLayer::Ethernet,
            role: Role::Station,
            vlan: None,
        }
    }

    fn chosen(choice: &Choice, all: &[Interface]) -> Vec<String> {
        let included = all.iter().filter(|one| choice.includes(one, all));
        included.map(|one| one.name.clone()).collect()
    }

    #[test]
    fn each_packet_is_seen_once() {
        let mut tunnel = interface(2, "wg0");
        tunnel.layer = LinkLayer::Other;
        let mut port = interface(4, "port");
        port.role = Role::Port;
        let mut vlan = interface(5, "eth0.5");
        vlan.vlan = Some((5, 3));
        let mut vlan_of_port = interface(6, "port.6");
        vlan_of_port.vlan = Some((6, 4));
        let mut router = interface(8, "red");
        router.role = Role::Vrf;
        let all = [
            tunnel,
            interface(3, "eth0"),
            port,
            vlan,
            vlan_of_port,
            interface(7, "br0"),
            router,
        ];
        assert_eq!(chosen(&Choice::of(&[]), &all), ["eth0", "port.6", "br0"]);
        let names = ["port".to_owned(), "wg0".to_owned()];
        assert_eq!(chosen(&Choice::of(&names), &all), ["wg0", "port"]);
        assert!(chosen(&Choice::Nothing, &all).is_empty());
        let let_go = all.iter().filter(|one| Choice::All.excludes(one));
        let let_go: Vec<&str> = let_go.map(|one| one.name.as_str()).collect();
        assert_eq!(let_go, ["port", "red"]);
    }
}
