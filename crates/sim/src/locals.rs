//! The addresses of the host that a replay stands for.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::num::ParseIntError;
use std::str::FromStr;

use keepstate_engine::condition::address_type;
use keepstate_engine::host::Local;
use keepstate_engine::process::Path;
use keepstate_engine::tuple::{Address, Family};
use keepstate_engine::verdict::Hook;

use crate::naming::Endpoints;

/// An address of the host, with the length of its network where it is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LocalAddress {
    pub address: IpAddr,
    /// With it, the network's broadcast address counts as local too.
    pub prefix: u8,
}

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LocalAddressError {
    #[error("`{0}` is no IPv4 or IPv6 address")]
    Address(String),
    #[error("the network length `{0}` is no number")]
    Prefix(String, #[source] ParseIntError),
    #[error("a network length of {0} is too long")]
    PrefixTooLong(u8),
}

impl FromStr for LocalAddress {
    type Err = LocalAddressError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (address, prefix) = match text.split_once('/') {
            Some((address, prefix)) => (address, Some(prefix)),
            None => (text, None),
        };
        let address: IpAddr = address
            .parse()
            .map_err(|_| LocalAddressError::Address(address.to_owned()))?;
        let bits = if address.is_ipv4() { 32 } else { 128 };
        let prefix = match prefix {
            None => bits,
            Some(prefix) => prefix
                .parse()
                .map_err(|error| LocalAddressError::Prefix(prefix.to_owned(), error))?,
        };
        if prefix > bits {
            return Err(LocalAddressError::PrefixTooLong(prefix));
        }
        Ok(Self { address, prefix })
    }
}

/// Where packets go: a routing table that knows only what is local.
#[derive(Clone, Debug, Default)]
pub struct Locals(Vec<LocalAddress>);

impl Locals {
    /// Without addresses, every packet is forwarded.
    pub const fn new(addresses: Vec<LocalAddress>) -> Self {
        Self(addresses)
    }

    /// Whether a packet between these addresses was made on this host.
    pub fn path_of(&self, endpoints: Option<Endpoints>) -> Path {
        endpoints.map_or(Path::Ingress, |ends| self.path(ends.family, &ends.source))
    }

    /// Whether a packet from `source` was made on this host.
    pub fn path(&self, family: Family, source: &Address) -> Path {
        let source = keepstate_listing::address(family, source);
        if self.0.iter().any(|local| local.address == source) {
            Path::Local
        } else {
            Path::Ingress
        }
    }

    /// What is known of an address for `-m addrtype`.
    pub fn local(&self, family: Family, address: &Address) -> Option<Local> {
        let address = keepstate_listing::address(family, address);
        let kind = if self.0.iter().any(|local| local.address == address) {
            address_type::LOCAL
        } else if self.0.iter().any(|local| local.takes(address)) {
            address_type::BROADCAST
        } else {
            return None;
        };
        // Interfaces have no numbers here.
        Some(Local { kind, interface: 0 })
    }

    /// Chain of a packet from outside, as Linux chooses it: what is for an address of the host,
    /// broadcast, or multicast goes to INPUT.
    pub fn hook(&self, family: Family, destination: &Address) -> Hook {
        if self.0.is_empty() {
            return Hook::Forward;
        }
        let destination = keepstate_listing::address(family, destination);
        let is_local = destination.is_multicast()
            || destination == IpAddr::V4(Ipv4Addr::BROADCAST)
            || self.0.iter().any(|local| local.takes(destination));
        if is_local { Hook::Input } else { Hook::Forward }
    }
}

impl LocalAddress {
    fn takes(&self, destination: IpAddr) -> bool {
        if self.address == destination {
            return true;
        }
        match (self.address, destination) {
            // A network of two addresses has no broadcast address (RFC 3021).
            (IpAddr::V4(local), IpAddr::V4(destination)) if self.prefix < 31 => {
                let host_bits = u32::MAX >> self.prefix;
                destination == Ipv4Addr::from_bits(local.to_bits() | host_bits)
            }
            _ => false,
        }
    }
}

impl From<Ipv4Addr> for LocalAddress {
    fn from(address: Ipv4Addr) -> Self {
        Self {
            address: address.into(),
            prefix: 32,
        }
    }
}

impl From<Ipv6Addr> for LocalAddress {
    fn from(address: Ipv6Addr) -> Self {
        Self {
            address: address.into(),
            prefix: 128,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(text: &str) -> (Family, Address) {
        match text.parse().expect("an address") {
            IpAddr::V4(address) => (Family::V4, [address.to_bits(), 0, 0, 0]),
            IpAddr::V6(address) => {
                let bits = address.to_bits();
                let word = |shift: u32| (bits >> shift) as u32;
                (Family::V6, [word(96), word(64), word(32), word(0)])
            }
        }
    }

    #[track_caller]
    fn check(locals: &[&str], destination: &str, expected: Hook) {
        let locals = locals.iter().map(|text| text.parse().expect("an address"));
        let locals = Locals::new(locals.collect());
        let (family, destination) = words(destination);
        assert_eq!(locals.hook(family, &destination), expected);
    }

    #[test]
    fn chooses_chains_as_linux_would() {
        check(&[], "10.0.0.1", Hook::Forward);
        check(&["10.0.0.1"], "10.0.0.1", Hook::Input);
        check(&["10.0.0.1"], "10.0.0.2", Hook::Forward);
        check(&["10.0.0.1"], "10.0.0.255", Hook::Forward);
        check(&["10.0.0.1/24"], "10.0.0.255", Hook::Input);
        check(&["10.0.0.1"], "255.255.255.255", Hook::Input);
        check(&["10.0.0.1"], "224.0.0.251", Hook::Input);
        check(&["10.0.0.0/31"], "10.0.0.1", Hook::Forward);
        check(&["2001:db8::1"], "2001:db8::1", Hook::Input);
        check(&["2001:db8::1/64"], "2001:db8::2", Hook::Forward);
        check(&["2001:db8::1"], "ff02::1", Hook::Input);
    }

    #[test]
    fn refuses_what_is_no_address() {
        for text in ["", "eth0", "10.0.0.1/33", "10.0.0.1/x", "::1/129", "10.0.0"] {
            assert!(text.parse::<LocalAddress>().is_err(), "{text}");
        }
    }
}
