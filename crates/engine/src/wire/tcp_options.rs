//! TCP options that tracking needs: window scale (RFC 7323) and selective acknowledgements
//! (RFC 2018).

use super::PacketInfo;
use crate::host::{Header, Host, Packet, Repeat};
use crate::limits::{TCP_OPTION_BYTES_MAX, TCP_WINDOW_SCALE_MAX};
use crate::process::Run;

const END: u8 = 0;
const NOP: u8 = 1;
const WINDOW_SCALE: u8 = 3;
const SACK_PERMITTED: u8 = 4;
const SACK: u8 = 5;

const HEADER_BYTES: u32 = 20;

/// NOP, NOP, timestamp of ten bytes: what nearly every segment carries, and nothing else.
const TIMESTAMP_ALONE: u32 = 0x0101_080a;
const TIMESTAMP_ALONE_BYTES: u32 = 12;

/// What a SYN announces.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SynOptions {
    /// Window scale, at most [`TCP_WINDOW_SCALE_MAX`].
    pub scale: Option<u8>,
    pub sack_permitted: bool,
}

/// Whether a segment has options at all: without any, what was known of its sender stays.
pub const fn has_options(info: &PacketInfo) -> bool {
    info.tcp_header_length as u32 > HEADER_BYTES
}

/// Reads the options of a SYN.
#[cfg_attr(target_arch = "bpf", inline(never))]
#[cfg_attr(not(target_arch = "bpf"), inline)]
pub(crate) fn syn_options<P: Packet, H: Host>(
    run: &Run<'_, P, H>,
    info: &PacketInfo,
) -> SynOptions {
    let mut scan = Scan::new(run.packet, info, 0);
    run.host.repeat(TCP_OPTION_BYTES_MAX, &mut scan);
    scan.syn
}

/// The highest right edge of a segment's SACK blocks, or its acknowledgement where that is higher.
#[cfg_attr(target_arch = "bpf", inline(never))]
#[cfg_attr(not(target_arch = "bpf"), inline)]
pub(crate) fn highest_acknowledged<P: Packet, H: Host>(
    run: &Run<'_, P, H>,
    info: &PacketInfo,
) -> u32 {
    let mut scan = Scan::new(run.packet, info, info.tcp_ack);
    if scan.is_timestamp_alone() {
        return info.tcp_ack;
    }
    run.host.repeat(TCP_OPTION_BYTES_MAX, &mut scan);
    scan.highest
}

/// A walk over options, one a step.
struct Scan<'a, P> {
    packet: &'a P,
    at: u32,
    end: u32,
    highest: u32,
    syn: SynOptions,
}

impl<'a, P: Packet> Scan<'a, P> {
    fn new(packet: &'a P, info: &PacketInfo, ack: u32) -> Self {
        let header = u32::from(info.tcp_header_length);
        Self {
            packet,
            at: info.transport_offset + HEADER_BYTES,
            end: info.transport_offset + header,
            highest: ack,
            syn: SynOptions::default(),
        }
    }

    fn is_timestamp_alone(&self) -> bool {
        let length = self.end.wrapping_sub(self.at);
        length == TIMESTAMP_ALONE_BYTES
            && self
                .packet
                .header(self.at, 4)
                .is_some_and(|word| word.u32(0) == TIMESTAMP_ALONE)
    }

    fn take(&mut self, kind: u8, length: u32) {
        match (kind, length) {
            (SACK_PERMITTED, 2) => self.syn.sack_permitted = true,
            (WINDOW_SCALE, 3) => {
                if let Some(option) = self.packet.header(self.at, 3) {
                    let scale = option.u8(2);
                    self.syn.scale = Some(if scale > TCP_WINDOW_SCALE_MAX {
                        TCP_WINDOW_SCALE_MAX
                    } else {
                        scale
                    });
                }
            }
            _ => {}
        }
    }

    /// At most four blocks fit.
    fn take_blocks(&mut self, length: u32) {
        for block in 0..4 {
            if length < 10 + block * 8 {
                return;
            }
            let Some(edges) = self.packet.header(self.at + 2 + block * 8, 8) else {
                return;
            };
            let right = edges.u32(4);
            if (right.wrapping_sub(self.highest) as i32) > 0 {
                self.highest = right;
            }
        }
    }
}

impl<P: Packet> Repeat for Scan<'_, P> {
    fn step(&mut self) -> bool {
        if self.at >= self.end {
            return false;
        }
        let Some(kind) = self.packet.header(self.at, 1).map(|byte| byte.u8(0)) else {
            return false;
        };
        if kind == END {
            return false;
        }
        if kind == NOP {
            self.at += 1;
            return true;
        }
        let Some(length) = self
            .packet
            .header(self.at, 2)
            .map(|pair| u32::from(pair.u8(1)))
        else {
            return false;
        };
        if length < 2 || length > self.end - self.at {
            return false;
        }
        if kind == SACK && length >= 10 && (length - 2) & 7 == 0 {
            self.take_blocks(length);
            return false;
        }
        self.take(kind, length);
        self.at += length;
        true
    }
}
