//! TCP options that tracking needs: window scale (RFC 7323) and selective acknowledgements
//! (RFC 2018).

use super::PacketInfo;
use crate::host::{Header, Host, Packet, Repeat};
use crate::limits::{TCP_OPTION_BYTES_MAX, TCP_WINDOW_SCALE_MAX};

const END: u8 = 0;
const NOP: u8 = 1;
const SEGMENT_SIZE: u8 = 2;
const WINDOW_SCALE: u8 = 3;
const SACK_PERMITTED: u8 = 4;
const SACK: u8 = 5;
const TIMESTAMPS: u8 = 8;

const HEADER_BYTES: u32 = 20;

/// NOP, NOP, timestamp of ten bytes: what nearly every segment carries, and nothing else.
const TIMESTAMP_ALONE: u32 = 0x0101_080a;
const TIMESTAMP_ALONE_BYTES: u32 = 12;

/// Segment size, SACK permitted, timestamps, window scale, each word of them beside the bits that are given: as Linux
/// and Android begin connections.
const OPENING: [(u32, u32); 5] = [
    (0x0204_0000, 0xffff_0000),
    (0x0402_080a, u32::MAX),
    (0, 0),
    (0, 0),
    (0x0103_0300, 0xffff_ff00),
];
const OPENING_BYTES: u32 = 20;

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

/// Forgets what another packet's options said, where this one has none.
#[inline(always)]
pub(crate) fn forget_others(info: &mut PacketInfo) {
    if !has_options(info) {
        info.options = Options {
            highest: info.options.highest,
            ..Options::NONE
        };
    }
}

/// What a segment's options say, and how far they are read. Part of [`PacketInfo`], since the
/// kernel's verifier follows every value of what a loop keeps on the stack, and none of what it
/// keeps in the memory that packets are read into.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Options {
    /// Window scale and permission, for a SYN.
    pub syn: SynOptions,
    /// The highest right edge of the SACK blocks, or the acknowledgement where that is higher.
    pub highest: u32,
    /// Largest segment, zero where nothing is said of it.
    pub mss: u16,
    /// Value and echo, where they were looked for.
    pub timestamps: Option<[u32; 2]>,
    at: u32,
    end: u32,
}

impl Options {
    pub(crate) const NONE: Self = Self {
        syn: SynOptions {
            scale: None,
            sack_permitted: false,
        },
        highest: 0,
        mss: 0,
        timestamps: None,
        at: 0,
        end: 0,
    };
}

/// Reads the options of a segment whose header was read, if there are none or a timestamp alone.
/// `false` if there are others, and [`read`] has to.
#[inline(always)]
pub(crate) fn read_ordinary<P: Packet>(packet: &P, info: &mut PacketInfo) -> bool {
    if !has_options(info) {
        return true;
    }
    info.options = Options {
        highest: info.tcp_ack,
        ..Options::NONE
    };
    info.tcp_header_length as u32 == HEADER_BYTES + TIMESTAMP_ALONE_BYTES
        && packet
            .header(info.transport_offset + HEADER_BYTES, 4)
            .is_some_and(|word| word.u32(0) == TIMESTAMP_ALONE)
}

/// Reads the options of a segment whose header was read.
#[cfg_attr(target_arch = "bpf", inline(never))]
pub(crate) fn read<P: Packet, H: Host>(packet: &P, host: &H, info: &mut PacketInfo) {
    if read_opening(packet, info) {
        return;
    }
    info.options = Options {
        highest: info.tcp_ack,
        at: info.transport_offset + HEADER_BYTES,
        end: info.transport_offset + u32::from(info.tcp_header_length),
        ..Options::NONE
    };
    host.repeat(TCP_OPTION_BYTES_MAX, &mut Scan { packet, info });
}

/// Reads options that stand as in [`OPENING`], without a loop; `false` if they do not.
#[inline(always)]
pub(super) fn read_opening<P: Packet>(packet: &P, info: &mut PacketInfo) -> bool {
    let at = info.transport_offset + HEADER_BYTES;
    if info.tcp_header_length as u32 != HEADER_BYTES + OPENING_BYTES {
        return false;
    }
    let Some(words) = packet.header(at, OPENING_BYTES) else {
        return false;
    };
    let mut difference = 0;
    for (at, (value, mask)) in (0..OPENING_BYTES).step_by(4).zip(OPENING) {
        difference |= words.u32(at) & mask ^ value;
    }
    if difference != 0 {
        return false;
    }
    let end = at + OPENING_BYTES;
    info.options = Options {
        syn: SynOptions {
            scale: Some(bounded(words.u8(19))),
            sack_permitted: true,
        },
        highest: info.tcp_ack,
        mss: words.u16(2),
        timestamps: Some([words.u32(8), words.u32(12)]),
        at: end,
        end,
    };
    true
}

const fn bounded(scale: u8) -> u8 {
    if scale > TCP_WINDOW_SCALE_MAX {
        TCP_WINDOW_SCALE_MAX
    } else {
        scale
    }
}

/// A walk over options, one a step.
struct Scan<'a, P> {
    packet: &'a P,
    info: &'a mut PacketInfo,
}

impl<P: Packet> Scan<'_, P> {
    fn take(&mut self, kind: u8, length: u32) {
        match (kind, length) {
            (SACK_PERMITTED, 2) => self.info.options.syn.sack_permitted = true,
            (WINDOW_SCALE, 3) => {
                if let Some(option) = self.packet.header(self.info.options.at, 3) {
                    self.info.options.syn.scale = Some(bounded(option.u8(2)));
                }
            }
            (SEGMENT_SIZE, 4) => {
                if let Some(option) = self.packet.header(self.info.options.at, 4) {
                    self.info.options.mss = option.u16(2);
                }
            }
            (TIMESTAMPS, 10) => {
                if let Some(option) = self.packet.header(self.info.options.at, 10) {
                    self.info.options.timestamps = Some([option.u32(2), option.u32(6)]);
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
            let Some(edges) = self.packet.header(self.info.options.at + 2 + block * 8, 8) else {
                return;
            };
            let right = edges.u32(4);
            if (right.wrapping_sub(self.info.options.highest) as i32) > 0 {
                self.info.options.highest = right;
            }
        }
    }
}

impl<P: Packet> Repeat for Scan<'_, P> {
    fn step(&mut self) -> bool {
        if self.info.options.at >= self.info.options.end {
            return false;
        }
        let Some(kind) = self
            .packet
            .header(self.info.options.at, 1)
            .map(|byte| byte.u8(0))
        else {
            return false;
        };
        if kind == END {
            return false;
        }
        if kind == NOP {
            self.info.options.at += 1;
            return true;
        }
        let Some(length) = self
            .packet
            .header(self.info.options.at, 2)
            .map(|pair| u32::from(pair.u8(1)))
        else {
            return false;
        };
        if length < 2 || length > self.info.options.end - self.info.options.at {
            return false;
        }
        if kind == SACK && length >= 10 && (length - 2) & 7 == 0 {
            self.take_blocks(length);
            return false;
        }
        self.take(kind, length);
        self.info.options.at += length;
        true
    }
}
