//! What kind of address source or destination is: `addrtype`, as xt_addrtype of Linux 6.18, but for the kinds that only the
//! whole routing table knows.

use super::{Held, address_type, flag};
use crate::host::{Host, Packet};
use crate::policy::Condition;
use crate::process::{Path, Run, Scratch};
use crate::tuple::{Address, Family};

#[cfg_attr(target_arch = "bpf", inline(never))]
#[cfg_attr(not(target_arch = "bpf"), inline)]
pub(super) fn ask<P: Packet, H: Host>(
    run: &Run<'_, P, H>,
    scratch: &Scratch,
    condition: &Condition,
) -> Held {
    let [wanted, limit, ..] = condition.data;
    let interface = match (limit, run.arrival.path) {
        (address_type::OF_INCOMING, Path::Ingress) => run.host.interface(),
        (address_type::OF_OUTGOING, _) => scratch.asked.out_index,
        _ => 0,
    };
    let info = &scratch.info;
    let address = match condition.flags & flag::DESTINATION {
        0 => &info.source,
        _ => &info.destination,
    };
    let local = match run.host.local(info.family, address) {
        Some(local) if interface == 0 || local.interface == interface => local.kind,
        _ => 0,
    };
    Held::of(match info.family {
        Family::V4 => wanted & v4(address, local) != 0,
        Family::V6 => is_v6(address, local, wanted),
    })
}

/// The kind of an address, which is one alone.
const fn v4(address: &Address, local: u32) -> u32 {
    let [word, ..] = *address;
    match (word, local) {
        (0 | u32::MAX, _) => address_type::BROADCAST,
        _ if word >> 28 == 0xe => address_type::MULTICAST,
        (_, 0) => address_type::UNICAST,
        (_, local) => local,
    }
}

/// Here all that is wanted must hold that can be seen from the address; of the rest one is enough.
const fn is_v6(address: &Address, local: u32, wanted: u32) -> bool {
    let [a, b, c, d] = *address;
    let is_nothing = a | b | c | d == 0;
    let is_for_many = a >> 24 == 0xff;
    // To Linux an IPv4 address that is mapped into IPv6 (RFC 4291 section 2.5.5.2) is none for one.
    let is_mapped = a | b == 0 && c == 0xffff;
    let is_for_one = !is_nothing && !is_for_many && !is_mapped;
    if wanted & address_type::MULTICAST != 0 && !is_for_many
        || wanted & address_type::UNICAST != 0 && !is_for_one
        || wanted & address_type::UNSPEC != 0 && !is_nothing
    {
        return false;
    }
    wanted & address_type::LOCAL == 0 || local & address_type::LOCAL != 0
}
