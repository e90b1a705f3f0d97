//! Addresses of the host, as programs look them up for `-m addrtype`.
//!
//! They are those that interfaces have, with the broadcast addresses of their networks: what the kernel puts into its table of
//! local routes by itself.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr};

use aya::maps::MapData;
use aya::maps::lpm_trie::{Key, LpmTrie};
use keepstate_api::engine_address;
use keepstate_engine::condition::address_type;
use keepstate_engine::tuple::Family;
use keepstate_plane::{LOCAL_KEY_BITS, LOCALS_MAX, local_key};

use crate::attach::AttachError;
use crate::kernel::KernelError;
use crate::netlink::{HostAddress, Netlink};
use crate::server::PlaneError;

/// The map of the programs.
pub struct Locals {
    pub(crate) map: LpmTrie<MapData, [u32; 5], u64>,
    /// Whether it was said that not all of them have room.
    is_told: bool,
}

impl Locals {
    pub(crate) const fn new(map: LpmTrie<MapData, [u32; 5], u64>) -> Self {
        Self {
            map,
            is_told: false,
        }
    }

    /// Writes the addresses that there are now.
    pub(crate) fn follow(&mut self) -> Result<(), PlaneError> {
        let netlink = Netlink::open().and_then(|netlink| netlink.host_addresses());
        let addresses = netlink.map_err(AttachError::Netlink)?;
        Ok(self.put(&entries(&addresses))?)
    }

    /// Makes the map hold this.
    pub(crate) fn put(
        &mut self,
        entries: &BTreeMap<(u32, [u32; 5]), u64>,
    ) -> Result<(), KernelError> {
        let here: BTreeSet<(u32, [u32; 5])> = self
            .map
            .keys()
            .flatten()
            .map(|key| (key.prefix_len(), key.data()))
            .collect();
        for (bits, data) in here.iter().filter(|key| !entries.contains_key(key)) {
            self.map.remove(&Key::new(*bits, *data))?;
        }
        if entries.len() > LOCALS_MAX as usize && !self.is_told {
            self.is_told = true;
            crate::complain!(
                "keepstate: of {} addresses of this host {LOCALS_MAX} are known to `-m addrtype'",
                entries.len()
            );
        }
        for ((bits, data), value) in entries.iter().take(LOCALS_MAX as usize) {
            let key = Key::new(*bits, *data);
            if self.map.get(&key, 0).ok() != Some(*value) || !here.contains(&(*bits, *data)) {
                self.map.insert(&key, value, 0)?;
            }
        }
        Ok(())
    }
}

/// What the map holds for these addresses: by length of the key and key.
pub(crate) fn entries(addresses: &[HostAddress]) -> BTreeMap<(u32, [u32; 5]), u64> {
    let mut entries = BTreeMap::new();
    // What is an address of its own is so, whatever else it may be.
    let (local, broadcast) = (address_type::LOCAL, address_type::BROADCAST);
    for own in addresses {
        for address in broadcasts(own) {
            enter(
                &mut entries,
                (IpAddr::V4(address), 32),
                broadcast,
                own.interface,
            );
        }
    }
    for own in addresses {
        // As the kernel has it for 127.0.0.1/8.
        let bits = match own.address {
            IpAddr::V4(_) if own.is_loopback => u32::from(own.prefix),
            IpAddr::V4(_) => 32,
            IpAddr::V6(_) => 128,
        };
        enter(&mut entries, (own.address, bits), local, own.interface);
    }
    entries
}

fn enter(
    entries: &mut BTreeMap<(u32, [u32; 5]), u64>,
    (address, bits): (IpAddr, u32),
    kind: u32,
    interface: u32,
) {
    let (family, address) = engine_address(address);
    let mut key = local_key(family, &address);
    if matches!(family, Family::V4) && bits < 32 {
        let [_, word, ..] = &mut key;
        let mask = u32::MAX.checked_shl(32 - bits).unwrap_or(0);
        *word &= mask.to_be();
    }
    let value = u64::from(interface) << 32 | u64::from(kind);
    entries.insert((LOCAL_KEY_BITS + bits, key), value);
}

/// The broadcast addresses that come with an address.
fn broadcasts(own: &HostAddress) -> impl Iterator<Item = Ipv4Addr> {
    let of_network = match own.address {
        // A network of two addresses has none (RFC 3021).
        IpAddr::V4(address) if own.prefix < 31 => {
            let host_bits = u32::MAX.checked_shr(u32::from(own.prefix)).unwrap_or(0);
            let is_unnamed = address.to_bits() & !host_bits == 0;
            (!is_unnamed).then(|| Ipv4Addr::from_bits(address.to_bits() | host_bits))
        }
        _ => None,
    };
    of_network.into_iter().chain(own.broadcast)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_bring_their_broadcast_addresses() {
        let own = |address: &str, prefix, broadcast: Option<&str>, is_loopback| HostAddress {
            address: address.parse().expect("an address"),
            prefix,
            broadcast: broadcast.map(|text| text.parse().expect("an address")),
            interface: 7,
            is_loopback,
        };
        let entries = entries(&[
            own("127.0.0.1", 8, None, true),
            own("10.0.0.1", 24, Some("10.0.0.255"), false),
            own("10.1.0.0", 31, None, false),
            own("fd00::1", 64, None, false),
        ]);
        let word = |text: &str| {
            let address: Ipv4Addr = text.parse().expect("an address");
            address.to_bits().to_be()
        };
        let v4 = (Family::V4 as u32).to_be();
        let local = 7 << 32 | u64::from(address_type::LOCAL);
        let broadcast = 7 << 32 | u64::from(address_type::BROADCAST);
        let get = |bits: u32, text| {
            entries
                .get(&(32 + bits, [v4, word(text), 0, 0, 0]))
                .copied()
        };
        assert_eq!(get(8, "127.0.0.0"), Some(local));
        assert_eq!(get(32, "127.255.255.255"), Some(broadcast));
        assert_eq!(get(32, "10.0.0.1"), Some(local));
        assert_eq!(get(32, "10.0.0.255"), Some(broadcast));
        assert_eq!(get(32, "10.1.0.0"), Some(local));
        assert_eq!(get(32, "10.1.0.1"), None);
        assert_eq!(entries.len(), 6);
    }
}
