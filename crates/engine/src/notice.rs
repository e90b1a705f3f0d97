//! What the engine hands to user space together with a packet's bytes: what LOG and NFLOG tell of, and
//! packets that are to be answered.

use crate::asked::Asker;
use crate::host::{Host, Packet};
use crate::process::{Path, Run, Scratch};

/// What a notice is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum NoticeKind {
    /// A line of text is to be written.
    Log = 1,
    /// The packet is to be kept.
    Capture = 2,
    /// The packet was rejected, and [`crate::reject::build`] makes what is to be sent.
    Answer = 3,
}

/// One notice. Without padding: it crosses from the kernel as bytes, and those of the packet follow it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Notice {
    /// Rule that asked for it.
    pub rule: u32,
    /// Number of the note, or of the answer.
    pub number: u32,
    /// Indexes of the interfaces, zero for none.
    pub in_index: u32,
    pub out_index: u32,
    /// Mark of the packet.
    pub mark: u32,
    /// Where the IP header begins, and the transport header.
    pub ip_offset: u32,
    pub transport_offset: u32,
    /// Length of the IP packet.
    pub ip_length: u32,
    /// Bytes that follow.
    pub captured: u32,
    /// [`NoticeKind`].
    pub kind: u8,
    /// 0 for IPv4, 1 for IPv6.
    pub family: u8,
    /// [`crate::verdict::Hook`].
    pub hook: u8,
    /// [`crate::verdict::State`].
    pub state: u8,
    /// IP protocol, after extension headers.
    pub protocol: u8,
    /// [`crate::wire::Link`] that the bytes begin with.
    pub link: u8,
    pub reserved: [u8; 2],
}

const _: () = assert!(size_of::<Notice>() == 44);

impl Notice {
    pub(crate) const NOTHING: Self = Self {
        rule: 0,
        number: 0,
        in_index: 0,
        out_index: 0,
        mark: 0,
        ip_offset: 0,
        transport_offset: 0,
        ip_length: 0,
        captured: 0,
        kind: 0,
        family: 0,
        hook: 0,
        state: 0,
        protocol: 0,
        link: 0,
        reserved: [0; 2],
    };
}

/// Hands the packet over, with `wanted` bytes from its IP header on, if it has them.
#[cfg_attr(target_arch = "bpf", inline(never))]
#[cfg_attr(not(target_arch = "bpf"), inline)]
pub(crate) fn send<P: Packet, H: Host>(
    run: &Run<'_, P, H>,
    scratch: &mut Scratch,
    (kind, number): (NoticeKind, u32),
    wanted: u32,
) {
    use crate::limits::NOTICE_BYTES_MAX;
    let Scratch {
        info,
        asked,
        walk,
        notice,
        mark,
        tracked,
        ..
    } = scratch;
    let there = info
        .ip_offset
        .saturating_add(smaller(info.ip_length, wanted));
    let there = smaller(there, run.packet.len());
    let (in_index, out_index) = match run.arrival.path {
        Path::Ingress => (run.host.interface(), asked.out_index),
        Path::Local => (0, run.host.interface()),
    };
    let rule = match kind {
        NoticeKind::Answer => walk.answer.rule,
        _ => walk.rule(),
    };
    let state = match asked.table {
        Asker::Raw => asked.state,
        Asker::Filter => tracked.state,
    };
    *notice = Notice {
        rule,
        number,
        in_index,
        out_index,
        mark: *mark,
        ip_offset: info.ip_offset,
        transport_offset: info.transport_offset,
        ip_length: info.ip_length,
        captured: smaller(there, NOTICE_BYTES_MAX),
        kind: kind as u8,
        family: info.family as u8,
        hook: asked.hook as u8,
        state: state as u8,
        protocol: info.protocol,
        link: run.arrival.link as u8,
        reserved: [0; 2],
    };
    run.host.notify(run.packet, notice);
}

/// `min`, as the programs can have it: the library's takes a call.
#[inline(always)]
const fn smaller(a: u32, b: u32) -> u32 {
    if a < b { a } else { b }
}
