//! Conditions on what SCTP and DCCP carry beside ports: chunks of SCTP as xt_sctp of Linux 6.18 asks for them, types and
//! options of DCCP as xt_dccp does.

use super::options::NOT_FOUND;
use super::{Held, Scan, chunk, kind};
use crate::host::{Header, Host, Packet, Repeat};
use crate::limits::{DCCP_OPTION_BYTES_MAX, SCTP_CHUNKS_ASKED_MAX};
use crate::policy::Condition;
use crate::process::{Run, Scratch};
use crate::wire::transport::{DCCP, SCTP};
use crate::wire::{Fragment, PacketInfo};

const SCTP_HEADER_BYTES: u32 = 12;
const CHUNK_HEADER_BYTES: u32 = 4;
const DCCP_HEADER_BYTES: u32 = 12;
/// With a sequence number of 48 bits (RFC 4340 section 5.1).
const DCCP_LONG_HEADER_BYTES: u32 = 16;

/// What follows the general header of a DCCP packet, by its type, in words (RFC 4340 sections 5.1 to 5.9).
const DCCP_MORE_WORDS: u64 = 0x3333_3322_3222_2031;

#[cfg_attr(target_arch = "bpf", inline(never))]
#[cfg_attr(not(target_arch = "bpf"), inline)]
pub(super) fn ask<P: Packet, H: Host>(
    run: &Run<'_, P, H>,
    scratch: &mut Scratch,
    condition: &Condition,
) -> Held {
    let Scratch { info, scan, .. } = scratch;
    if matches!(info.fragment, Fragment::Later) {
        return Held::Neither;
    }
    match (condition.kind, info.protocol) {
        (kind::SCTP_CHUNKS, SCTP) => chunks(run, info, scan, condition),
        (kind::DCCP_TYPES | kind::DCCP_OPTION, DCCP) => dccp(run, info, scan, condition),
        _ => Held::Neither,
    }
}

/// `scan.wanted` is what has not been met yet of the chunks that must all be there.
#[inline(always)]
fn chunks<P: Packet, H: Host>(
    run: &Run<'_, P, H>,
    info: &PacketInfo,
    scan: &mut Scan,
    condition: &Condition,
) -> Held {
    let [wanted, mode, ..] = condition.data;
    *scan = Scan {
        at: info.transport_offset + SCTP_HEADER_BYTES,
        end: info.ip_offset + info.ip_length,
        wanted,
        found: NOT_FOUND,
    };
    let packet = run.packet;
    run.host.repeat(
        SCTP_CHUNKS_ASKED_MAX,
        &mut Chunks {
            packet,
            condition,
            scan,
        },
    );
    match (scan.found, mode) {
        (BROKEN, _) => Held::Neither,
        (DECIDED, chunk::ANY) => Held::Yes,
        (DECIDED, _) | (_, chunk::ANY) => Held::No,
        (_, chunk::ALL) => Held::of(scan.wanted == 0),
        _ => Held::Yes,
    }
}

/// The packet has what ends the search: a chunk that is enough, or one too many.
const DECIDED: u32 = 0;
/// A chunk is cut off, or there are more than are looked at.
const BROKEN: u32 = 1;

struct Chunks<'a, P> {
    packet: &'a P,
    condition: &'a Condition,
    scan: &'a mut Scan,
}

impl<P: Packet> Repeat for Chunks<'_, P> {
    fn step(&mut self) -> bool {
        let Some(header) = self.packet.header(self.scan.at, CHUNK_HEADER_BYTES) else {
            self.scan.found = BROKEN;
            return false;
        };
        let (number, flags, length) = (header.u8(0), header.u8(1), header.u16(2));
        if length == 0 {
            self.scan.found = BROKEN;
            return false;
        }
        let class = chunk::class(number);
        let [wanted, mode, own @ ..] = self.condition.data;
        let mut fits = wanted >> class & 1;
        for flagged in own {
            let is_it = (flagged >> 16) & 0xff == class + 1;
            let (mask, bits) = (flagged & 0xff, flagged >> 8 & 0xff);
            fits &= u32::from(!is_it || u32::from(flags) & mask == bits);
        }
        match (mode, fits) {
            (chunk::ANY, 1) | (chunk::ONLY, 0) => {
                self.scan.found = DECIDED;
                return false;
            }
            (chunk::ALL, 1) => self.scan.wanted &= !(1 << class),
            _ => {}
        }
        // RFC 9260 section 3.2: a multiple of four bytes, that the length does not count.
        self.scan.at += (u32::from(length) + 3) & !3;
        if self.scan.at >= self.scan.end {
            return false;
        }
        true
    }
}

#[inline(always)]
fn dccp<P: Packet, H: Host>(
    run: &Run<'_, P, H>,
    info: &PacketInfo,
    scan: &mut Scan,
    condition: &Condition,
) -> Held {
    let Some(header) = run.packet.header(info.transport_offset, DCCP_HEADER_BYTES) else {
        return Held::Neither;
    };
    let [wanted, ..] = condition.data;
    let (words, packed) = (u32::from(header.u8(4)), u32::from(header.u8(8)));
    let number = packed >> 1 & 0xf;
    if condition.kind == kind::DCCP_TYPES {
        return Held::of(wanted >> number & 1 != 0);
    }
    let general = match packed & 1 {
        0 => DCCP_HEADER_BYTES,
        _ => DCCP_LONG_HEADER_BYTES,
    };
    let more = 4 * (DCCP_MORE_WORDS >> (4 * number) & 0xf) as u32;
    if 4 * words < general + more {
        return Held::Neither;
    }
    *scan = Scan {
        at: info.transport_offset + general + more,
        end: info.transport_offset + 4 * words,
        wanted,
        found: NOT_FOUND,
    };
    let packet = run.packet;
    run.host
        .repeat(DCCP_OPTION_BYTES_MAX, &mut Options { packet, scan });
    match scan.found {
        BROKEN => Held::Neither,
        found => Held::of(found == DECIDED),
    }
}

/// Steps as Linux does, which takes all options but the first two for long ones.
struct Options<'a, P> {
    packet: &'a P,
    scan: &'a mut Scan,
}

impl<P: Packet> Repeat for Options<'_, P> {
    fn step(&mut self) -> bool {
        if self.scan.at >= self.scan.end {
            return false;
        }
        let Some(option) = self.packet.header(self.scan.at, 1) else {
            self.scan.found = BROKEN;
            return false;
        };
        let option = option.u8(0);
        if u32::from(option) == self.scan.wanted {
            self.scan.found = DECIDED;
            return false;
        }
        let length = match self.packet.header(self.scan.at, 2) {
            Some(pair) if option > 1 && pair.u8(1) != 0 => u32::from(pair.u8(1)),
            _ => 1,
        };
        self.scan.at += length;
        true
    }
}
