//! INPUT or FORWARD, as the routing table says.

use core::mem::{MaybeUninit, size_of};

use aya_ebpf::bindings::{
    BPF_FIB_LKUP_RET_FRAG_NEEDED, BPF_FIB_LKUP_RET_NO_NEIGH, BPF_FIB_LKUP_RET_SUCCESS,
    bpf_fib_lookup as FibLookup,
};
use aya_ebpf::helpers::generated::bpf_fib_lookup;
use keepstate_engine::host::Route;
use keepstate_engine::tuple::{Address, Family};
use keepstate_engine::verdict::Hook;
use keepstate_engine::wire::PacketInfo;
use keepstate_plane::{InterfaceKey, PLANE_TEST_HOOK};

use crate::host::{self, Context, KernelHost};
use crate::maps;

const AF_INET: u8 = 2;
const AF_INET6: u8 = 10;

const HERE: Route = Route {
    hook: Hook::Input,
    out_interfaces: 0,
    out_index: 0,
};

/// Where the kernel will take a packet from outside.
///
/// What the routing table does not forward is INPUT: addresses of this host, broadcasts, and what
/// the stack will throw away.
#[inline(always)]
pub fn route<C: Context>(host: &KernelHost<C>, packet: &PacketInfo) -> Route {
    if let Some(plane) = host::plane()
        && plane.flags & PLANE_TEST_HOOK != 0
    {
        return fixed(plane.test_hook);
    }
    if is_for_many(packet) {
        return HERE;
    }
    match out_interface(host, packet) {
        Some(index) => {
            let key = InterfaceKey { index, vlan: 0 };
            Route {
                hook: Hook::Forward,
                out_interfaces: host.patterns(&key),
                out_index: index,
            }
        }
        None => HERE,
    }
}

#[inline(always)]
fn fixed(hook: u32) -> Route {
    Route {
        hook: match hook {
            1 => Hook::Forward,
            2 => Hook::Output,
            _ => Hook::Input,
        },
        out_interfaces: 0,
        out_index: 0,
    }
}

/// Multicast, or broadcast on whatever network.
#[inline(always)]
fn is_for_many(packet: &PacketInfo) -> bool {
    match packet.family {
        Family::V4 => packet.destination[0] >> 28 == 0xe || packet.destination[0] == u32::MAX,
        Family::V6 => packet.destination[0] >> 24 == 0xff,
    }
}

/// Index of the interface that a forwarded packet leaves by, `None` if it is not forwarded.
#[inline(never)]
fn out_interface<C: Context>(host: &KernelHost<C>, packet: &PacketInfo) -> Option<u32> {
    let mut lookup = MaybeUninit::<FibLookup>::zeroed();
    // SAFETY: all fields are numbers, for which zero is a value.
    let lookup = unsafe { lookup.assume_init_mut() };
    lookup.ifindex = incoming(host);
    lookup.l4_protocol = packet.protocol;
    match packet.family {
        Family::V4 => {
            lookup.family = AF_INET;
            lookup.__bindgen_anon_3.ipv4_src = packet.source[0].to_be();
            lookup.__bindgen_anon_4.ipv4_dst = packet.destination[0].to_be();
        }
        Family::V6 => {
            lookup.family = AF_INET6;
            lookup.__bindgen_anon_3.ipv6_src = in_network_order(&packet.source);
            lookup.__bindgen_anon_4.ipv6_dst = in_network_order(&packet.destination);
        }
    }
    // SAFETY: the context is the program's own, the other pointer and size are of `lookup`.
    let result = unsafe {
        bpf_fib_lookup(
            host.raw_context(),
            &raw mut *lookup,
            size_of::<FibLookup>() as i32,
            0,
        )
    };
    match result as u32 {
        BPF_FIB_LKUP_RET_SUCCESS | BPF_FIB_LKUP_RET_NO_NEIGH | BPF_FIB_LKUP_RET_FRAG_NEEDED => {
            Some(lookup.ifindex)
        }
        _ => None,
    }
}

/// Index of the interface that the stack will see the packet on: the VLAN's, if it has one.
#[inline(always)]
pub fn incoming<C: Context>(host: &KernelHost<C>) -> u32 {
    let key = host.interface_key();
    if key.vlan == 0 {
        return key.index;
    }
    // SAFETY: an element may be replaced while it is read; the word is read whole.
    match unsafe { maps::INTERFACES.get(&key) } {
        Some(interface) => interface.index,
        None => key.index,
    }
}

#[inline(always)]
fn in_network_order(address: &Address) -> [u32; 4] {
    let [a, b, c, d] = *address;
    [a.to_be(), b.to_be(), c.to_be(), d.to_be()]
}
