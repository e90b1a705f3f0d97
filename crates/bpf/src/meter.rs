//! What rules remember of sources, changed by the daemon.
//!
//! Run by it, never attached: buckets are held only by programs, which nobody takes off their CPU.

use aya_ebpf::helpers::generated::bpf_skb_load_bytes;
use aya_ebpf::macros::classifier;
use aya_ebpf::programs::TcContext;
use keepstate_engine::host::Host as _;
use keepstate_engine::meter::{Change, Edit, edit, let_go, sweep};
use keepstate_engine::tuple::Family;
use keepstate_plane::{METER_FAILED, METER_LET_GO, METER_NOW, METER_SWEEP, MeterOrder};

use crate::egress::SkbContext;
use crate::host::{self, KernelHost};
use crate::judge;
use crate::maps;
use crate::packet::PacketView;

#[classifier]
pub fn meter(context: TcContext) -> i32 {
    carry_out(&context).unwrap_or(METER_FAILED) as i32
}

#[inline(always)]
fn carry_out(context: &TcContext) -> Option<u32> {
    let buffer = maps::PAYLOAD.get_ptr_mut(0)?;
    // SAFETY: the buffer is longer than what is copied.
    let copied = unsafe {
        let size = size_of::<MeterOrder>() as u32;
        bpf_skb_load_bytes(context.skb.skb.cast(), 0, buffer.cast(), size)
    };
    if copied != 0 {
        return None;
    }
    // SAFETY: map values are aligned, and any bytes are an order.
    let order = unsafe { &*buffer.cast::<MeterOrder>() };
    let plane = host::plane()?;
    let now = host::now(plane);
    let packet = PacketView::new(context.data(), context.data_end(), 0);
    let host = KernelHost::new(packet, SkbContext(context.skb.skb), plane, 0)?;
    let meter = judge::memory()?.scratch.meter();
    if order.what == METER_SWEEP {
        let gone = sweep(&host, order.first, order.buckets, order.list, now, meter);
        return Some(gone);
    }
    if order.what == METER_LET_GO {
        let_go(&host, order.first, order.buckets, now, meter);
        return Some(0);
    }
    if order.what == METER_NOW {
        return Some(host.jiffies(now) as u32);
    }
    let family = match order.family {
        0 => Family::V4,
        _ => Family::V6,
    };
    let change = Edit {
        list: order.list,
        family,
        address: order.address,
        what: Change::from_number(order.what as u8),
        ring: order.ring,
    };
    edit(&host, &change, now, meter).then_some(0)
}
