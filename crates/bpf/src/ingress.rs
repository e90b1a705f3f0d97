//! Packets that arrive.

use core::ffi::c_void;

use aya_ebpf::bindings::xdp_action::{XDP_DROP, XDP_PASS};
use aya_ebpf::helpers::generated::bpf_xdp_get_buff_len;
use aya_ebpf::macros::{classifier, xdp};
use aya_ebpf::programs::{TcContext, XdpContext};
use keepstate_engine::host::{Header as _, Packet as _};
use keepstate_engine::process::{Checksums, Path};
use keepstate_engine::wire::Link;

use crate::egress::{self, SkbContext, TC_NEXT, TC_SHOT};
use crate::host::Context;
use crate::judge::{Fate, Way, judge};
use crate::packet::PacketView;

/// A packet whose first piece is shorter lies in one piece: drivers fill a first buffer, which
/// holds at least a full Ethernet frame with two tags, before they begin a second.
const FIRST_PIECE_BYTES_MIN: usize = 1536;

/// Offset of the type in an Ethernet header, and of the tag after it.
const ETHERNET_TYPE: u32 = 12;
const TYPE_VLAN: u16 = 0x8100;
const TYPE_VLAN_OUTER: u16 = 0x88a8;

#[xdp(frags)]
pub fn ingress_xdp(context: XdpContext) -> u32 {
    let (start, end) = (context.data(), context.data_end());
    let mut length = end.wrapping_sub(start) as u32;
    if length as usize >= FIRST_PIECE_BYTES_MIN {
        // SAFETY: the context is the program's own.
        length = unsafe { bpf_xdp_get_buff_len(context.ctx) } as u32;
    }
    let packet = PacketView::new(start, end, length);
    let way = Way {
        link: Link::Ethernet,
        path: Path::Ingress,
    };
    let frame = Frame {
        context: &context,
        packet,
    };
    match judge(&frame, &packet, way, Checksums::UnverifiedOrPartial) {
        Fate::Pass => XDP_PASS,
        Fate::Drop => XDP_DROP,
    }
}

#[classifier]
pub fn ingress_tc(context: TcContext) -> i32 {
    let Some(link) = egress::bare_link(&context) else {
        return TC_NEXT;
    };
    let way = Way {
        link,
        path: Path::Ingress,
    };
    let packet = egress::reach_received(&context);
    let checksums = egress::checksums(&context);
    match judge(&SkbContext(&context), &packet, way, checksums) {
        Fate::Pass => TC_NEXT,
        Fate::Drop => TC_SHOT,
    }
}

/// A frame as XDP sees it: VLAN tags are in the bytes.
struct Frame<'a> {
    context: &'a XdpContext,
    packet: PacketView,
}

impl Context for Frame<'_> {
    #[inline(always)]
    fn raw(&self) -> *mut c_void {
        self.context.ctx.cast()
    }

    #[inline(always)]
    fn interface(&self) -> u32 {
        self.context.ingress_ifindex() as u32
    }

    #[inline(always)]
    fn vlan(&self) -> u32 {
        let Some(header) = self.packet.header(ETHERNET_TYPE, 4) else {
            return 0;
        };
        match header.u16(0) {
            TYPE_VLAN | TYPE_VLAN_OUTER => header.u16(2) as u32 & 0xfff,
            _ => 0,
        }
    }
}
