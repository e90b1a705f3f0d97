//! Conditions on the options of a TCP segment.

use super::header::within;
use super::{Held, kind};
use crate::host::{Header, Host, Packet, Repeat};
use crate::limits::TCP_OPTION_BYTES_MAX;
use crate::policy::Condition;
use crate::process::{Run, Scratch};
use crate::wire::transport::TCP;
use crate::wire::{Fragment, PacketInfo};

const HEADER_BYTES: u32 = 20;
const NOP: u8 = 1;
const SEGMENT_SIZE: u8 = 2;
const SEGMENT_SIZE_BYTES: u8 = 4;

/// A search through a packet's bytes. In scratch memory, since the kernel's verifier follows every
/// value of what a loop keeps on the stack.
#[derive(Clone, Copy, Debug)]
pub struct Scan {
    pub(super) at: u32,
    pub(super) end: u32,
    pub(super) wanted: u32,
    pub(super) found: u32,
}

impl Scan {
    pub(crate) const NOTHING: Self = Self {
        at: 0,
        end: 0,
        wanted: 0,
        found: NOT_FOUND,
    };
}

pub(super) const NOT_FOUND: u32 = u32::MAX;

#[cfg_attr(target_arch = "bpf", inline(never))]
#[cfg_attr(not(target_arch = "bpf"), inline)]
pub(super) fn ask<P: Packet, H: Host>(
    run: &Run<'_, P, H>,
    scratch: &mut Scratch,
    condition: &Condition,
) -> Held {
    let Scratch { info, scan, .. } = scratch;
    if !has_header(info) {
        return Held::Neither;
    }
    *scan = Scan {
        at: info.transport_offset + HEADER_BYTES,
        end: info.transport_offset + u32::from(info.tcp_header_length),
        wanted: condition.data[0],
        found: NOT_FOUND,
    };
    if condition.kind == kind::SEGMENT_SIZE {
        scan.wanted = u32::from(SEGMENT_SIZE) | u32::from(SEGMENT_SIZE_BYTES) << 8;
    }
    let packet = run.packet;
    run.host
        .repeat(TCP_OPTION_BYTES_MAX, &mut Search { packet, scan });
    if condition.kind != kind::SEGMENT_SIZE {
        return Held::of(scan.found != NOT_FOUND);
    }
    if scan.found == NOT_FOUND {
        return Held::No;
    }
    match packet.header(scan.found, u32::from(SEGMENT_SIZE_BYTES)) {
        Some(option) => within(u32::from(option.u16(2)), condition),
        None => Held::No,
    }
}

const fn has_header(info: &PacketInfo) -> bool {
    info.protocol == TCP
        && !matches!(info.fragment, Fragment::Later)
        && info.has_ports()
        && info.tcp_header_length as u32 >= HEADER_BYTES
}

/// Steps from option to option as Linux does: what has no length is a single byte. What is wanted is
/// a kind and, in the bits above, the length that it must have.
struct Search<'a, P> {
    packet: &'a P,
    scan: &'a mut Scan,
}

impl<P: Packet> Repeat for Search<'_, P> {
    fn step(&mut self) -> bool {
        if self.scan.at >= self.scan.end {
            return false;
        }
        let Some(kind) = self.packet.header(self.scan.at, 1) else {
            return false;
        };
        let kind = kind.u8(0);
        let length = match self.packet.header(self.scan.at, 2) {
            Some(pair) => u32::from(pair.u8(1)),
            None => 0,
        };
        let (wanted, needed) = (self.scan.wanted & 0xff, self.scan.wanted >> 8);
        let fits = length == needed && self.scan.at + needed <= self.scan.end;
        if u32::from(kind) == wanted && (needed == 0 || fits) {
            self.scan.found = self.scan.at;
            return false;
        }
        self.scan.at += if kind > NOP && length != 0 { length } else { 1 };
        true
    }
}
