//! SYN cookies of this host's TCP (helpers of Linux 6.0).
//!
//! The cookie itself needs no socket. But TCP looks at what a segment acknowledges only where a listener
//! has lately had more connections than it could take, which it notes when it makes a cookie itself. So once
//! a cookie has come back the listener is made to make one more, which nobody sees: `net.ipv4.tcp_syncookies`
//! of 2 lets it do so at any time.

use core::ffi::c_void;
use core::mem::{MaybeUninit, size_of_val};

use aya_ebpf::bindings::{BPF_F_CURRENT_NETNS, bpf_sock_tuple};
use aya_ebpf::helpers::generated::{
    bpf_sk_release, bpf_skc_lookup_tcp, bpf_tcp_gen_syncookie, bpf_tcp_raw_check_syncookie_ipv4,
    bpf_tcp_raw_check_syncookie_ipv6, bpf_tcp_raw_gen_syncookie_ipv4,
    bpf_tcp_raw_gen_syncookie_ipv6,
};
use keepstate_engine::cookie::Check;
use keepstate_engine::tuple::Family;
use keepstate_engine::wire::PacketInfo;

/// `TCP_LISTEN` among the states of a socket.
const LISTEN: u32 = 10;

/// A TCP header of 24 bytes, with SYN or ACK.
const SYN: u32 = 6 << 28 | 0x02 << 16;
const ACK: u32 = 6 << 28 | 0x10 << 16;

/// The option of the segment size, of four bytes.
const SEGMENT_SIZE: u32 = 0x0204_0000;

/// Where a packet says nothing of it (RFC 9293 section 3.7.1), for IPv4 and IPv6.
const MSS_DEFAULT_V4: u16 = 536;
const MSS_DEFAULT_V6: u16 = 1220;

/// The cookie that answers a SYN.
#[inline(never)]
pub fn make(syn: &PacketInfo, mss: u16) -> Option<u32> {
    let mut tcp = tcp(syn, SYN, mss);
    // SAFETY: the headers are as long as is said.
    let result = unsafe {
        match syn.family {
            Family::V4 => {
                let mut ip = ipv4(syn);
                let tcp = (&raw mut tcp).cast();
                bpf_tcp_raw_gen_syncookie_ipv4((&raw mut ip).cast(), tcp, TCP_BYTES)
            }
            Family::V6 => {
                let mut ip = ipv6(syn);
                let tcp = (&raw mut tcp).cast();
                bpf_tcp_raw_gen_syncookie_ipv6((&raw mut ip).cast(), tcp, TCP_BYTES)
            }
        }
    };
    (result >= 0).then_some(result as u32)
}

/// Whether a segment acknowledges a cookie. Its listener then knows too.
#[inline(never)]
pub fn check(context: *mut c_void, segment: &PacketInfo) -> Check {
    let is_right = is_right(segment);
    // SAFETY: the context is the program's own, and the tuple as long as is said. What is found is
    // released.
    unsafe {
        let socket = socket(context, segment);
        if socket.is_null() {
            return if is_right { Check::Right } else { Check::Wrong };
        }
        let listens = (*socket).state == LISTEN;
        if is_right && listens {
            note(socket.cast(), segment);
        }
        bpf_sk_release(socket.cast());
        match (is_right, listens) {
            (true, _) => Check::Right,
            (false, true) => Check::Wrong,
            (false, false) => Check::Connected,
        }
    }
}

#[inline(always)]
fn is_right(segment: &PacketInfo) -> bool {
    let mut tcp = tcp(segment, ACK, 0);
    // SAFETY: as in `make`.
    let result = unsafe {
        match segment.family {
            Family::V4 => {
                let mut ip = ipv4(segment);
                let tcp = (&raw mut tcp).cast();
                bpf_tcp_raw_check_syncookie_ipv4((&raw mut ip).cast(), tcp)
            }
            Family::V6 => {
                let mut ip = ipv6(segment);
                let tcp = (&raw mut tcp).cast();
                bpf_tcp_raw_check_syncookie_ipv6((&raw mut ip).cast(), tcp)
            }
        }
    };
    result == 0
}

/// Makes a listener note that it cannot keep up.
#[inline(always)]
unsafe fn note(listener: *mut c_void, segment: &PacketInfo) {
    let mut tcp = tcp(segment, SYN, 0);
    // SAFETY: as in `make`; the caller says that it is a socket.
    unsafe {
        match segment.family {
            Family::V4 => {
                let mut ip = ipv4(segment);
                let bytes = size_of_val(&ip) as u32;
                let (ip, tcp) = ((&raw mut ip).cast(), (&raw mut tcp).cast());
                bpf_tcp_gen_syncookie(listener, ip, bytes, tcp, TCP_BYTES);
            }
            Family::V6 => {
                let mut ip = ipv6(segment);
                let bytes = size_of_val(&ip) as u32;
                let (ip, tcp) = ((&raw mut ip).cast(), (&raw mut tcp).cast());
                bpf_tcp_gen_syncookie(listener, ip, bytes, tcp, TCP_BYTES);
            }
        }
    }
}

/// The socket of this host that a segment comes to; null without one.
#[inline(always)]
unsafe fn socket(
    context: *mut c_void,
    segment: &PacketInfo,
) -> *mut aya_ebpf::bindings::bpf_sock {
    let mut tuple = MaybeUninit::<bpf_sock_tuple>::zeroed();
    // SAFETY: all fields are numbers, for which zero is a value.
    let tuple = unsafe { tuple.assume_init_mut() };
    let (source, destination) = (segment.source_port.to_be(), segment.destination_port.to_be());
    let bytes = match segment.family {
        Family::V4 => {
            tuple.__bindgen_anon_1.ipv4.saddr = segment.source[0].to_be();
            tuple.__bindgen_anon_1.ipv4.daddr = segment.destination[0].to_be();
            tuple.__bindgen_anon_1.ipv4.sport = source;
            tuple.__bindgen_anon_1.ipv4.dport = destination;
            12
        }
        Family::V6 => {
            tuple.__bindgen_anon_1.ipv6.saddr = network_order(&segment.source);
            tuple.__bindgen_anon_1.ipv6.daddr = network_order(&segment.destination);
            tuple.__bindgen_anon_1.ipv6.sport = source;
            tuple.__bindgen_anon_1.ipv6.dport = destination;
            36
        }
    };
    let own = BPF_F_CURRENT_NETNS as i64 as u64;
    // SAFETY: as the caller says.
    unsafe { bpf_skc_lookup_tcp(context, &raw mut *tuple, bytes, own, 0) }
}

const TCP_BYTES: u32 = 24;

#[inline(always)]
fn tcp(packet: &PacketInfo, kind: u32, mss: u16) -> [u32; 6] {
    let mss = match (mss, packet.family) {
        (0, Family::V4) => MSS_DEFAULT_V4,
        (0, Family::V6) => MSS_DEFAULT_V6,
        (mss, _) => mss,
    };
    [
        ((packet.source_port as u32) << 16 | packet.destination_port as u32).to_be(),
        packet.tcp_sequence.to_be(),
        packet.tcp_ack.to_be(),
        kind.to_be(),
        0,
        (SEGMENT_SIZE | mss as u32).to_be(),
    ]
}

#[inline(always)]
fn ipv4(packet: &PacketInfo) -> [u32; 5] {
    let (source, destination) = (packet.source[0].to_be(), packet.destination[0].to_be());
    [0x4500_0000_u32.to_be(), 0, 0, source, destination]
}

#[inline(always)]
fn ipv6(packet: &PacketInfo) -> [u32; 10] {
    let [a, b, c, d] = network_order(&packet.source);
    let [e, f, g, h] = network_order(&packet.destination);
    [0x6000_0000_u32.to_be(), 0, a, b, c, d, e, f, g, h]
}

#[inline(always)]
fn network_order(address: &[u32; 4]) -> [u32; 4] {
    let [a, b, c, d] = *address;
    [a.to_be(), b.to_be(), c.to_be(), d.to_be()]
}
