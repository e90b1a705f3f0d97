//! What is known of a connection that SYNPROXY has opened, and the options of the rule.

use crate::cookie::{self, Kept};
use crate::wire::PacketInfo;

/// Two numbers of 32 bits. Until the server has answered: the cookie, and the timestamp that the client was
/// answered with. From then on how far the client's idea of them is from the server's: the cookie less the
/// server's number, and the server's timestamp less that one.
#[derive(Clone, Copy, Debug)]
pub(super) struct Numbers(pub(super) u64);

impl Numbers {
    pub(super) const fn new(sequence: u32, timestamp: u32) -> Self {
        Self((sequence as u64) << 32 | timestamp as u64)
    }

    pub(super) const fn sequence(self) -> u32 {
        (self.0 >> 32) as u32
    }

    pub(super) const fn timestamp(self) -> u32 {
        self.0 as u32
    }
}

/// What was agreed on with the client, and what is known of the connection: size of segments (16),
/// options as the cookie kept them (6), timestamps (1), bits, the window scale that the client was told (4), and the
/// server's (4).
#[derive(Clone, Copy, Debug)]
pub(super) struct Agreed(pub(super) u64);

/// The server has answered.
pub(super) const READY: u64 = 1 << 0;
/// The rule has named no options: what the server says is learned.
pub(super) const LEARNS: u64 = 1 << 3;
/// Segments of the client, and of the server, come with checksums that are partial.
pub(super) const PARTIAL: u64 = 1 << 1;
const KEPT_SHIFT: u32 = 8;
pub(super) const TIMESTAMPS: u64 = 1 << 14;
const SIZE_SHIFT: u32 = 16;
const TOLD_SHIFT: u32 = 32;
const SCALE_SHIFT: u32 = 36;
/// In place of the server's scale: it scales nothing.
const UNSCALED: u64 = 0xf;

impl Agreed {
    pub(super) const fn new(mss: u16, kept: u32, has_timestamps: bool, told: u8) -> Self {
        let timestamps = if has_timestamps { TIMESTAMPS } else { 0 };
        Self(
            (mss as u64) << SIZE_SHIFT
                | (kept as u64 & 0x3f) << KEPT_SHIFT
                | timestamps
                | (told as u64 & 0xf) << TOLD_SHIFT,
        )
    }

    /// The same, of a connection whose server is learned from.
    pub(super) const fn learning(self) -> Self {
        Self(self.0 | LEARNS)
    }

    /// The same, now that the server has answered.
    pub(super) const fn ready(self, scale: Option<u8>) -> Self {
        let scale = match scale {
            Some(scale) => scale as u64 & 0xf,
            None => UNSCALED,
        };
        Self(self.0 & !(0xf << SCALE_SHIFT) | scale << SCALE_SHIFT | READY)
    }

    /// The scale that the client was told, zero if none.
    pub(super) const fn told(self) -> u32 {
        match self.kept().scale {
            Some(_) => (self.0 >> TOLD_SHIFT) as u32 & 0xf,
            None => 0,
        }
    }

    /// How windows of the server are shifted to be what the client was told.
    pub(super) const fn server_windows(self) -> [u32; 2] {
        let scale = match self.0 >> SCALE_SHIFT & 0xf {
            UNSCALED => 0,
            scale => scale as u32,
        };
        [scale, self.told()]
    }

    /// How windows of the client are shifted: a server that scales nothing reads them as they are.
    pub(super) const fn client_windows(self) -> [u32; 2] {
        match (self.0 >> SCALE_SHIFT & 0xf, self.kept().scale) {
            (UNSCALED, Some(scale)) => [scale as u32, 0],
            _ => [0; 2],
        }
    }

    pub(super) const fn has(self, bit: u64) -> bool {
        self.0 & bit != 0
    }

    pub(super) const fn mss(self) -> u16 {
        (self.0 >> SIZE_SHIFT) as u16
    }

    pub(super) const fn kept(self) -> Kept {
        Kept::of((self.0 >> KEPT_SHIFT) as u32)
    }
}

/// A window shifted to the left and then to the right, at most the largest that there is.
#[inline(always)]
pub(super) const fn window(window: u32, left: u32, right: u32) -> u32 {
    let window = window << (left & 0xf) >> (right & 0xf);
    if window > 0xffff { 0xffff } else { window }
}

/// The options of a rule, as [`crate::policy::Rule::assigned`] holds them: bits, the window scale from bit 8 on, and
/// the size of segments from bit 16 on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RuleOptions(pub u64);

/// Bits of [`RuleOptions`] (`XT_SYNPROXY_OPT_*`).
pub const OPTION_MSS: u64 = 0x01;
pub const OPTION_SCALE: u64 = 0x02;
pub const OPTION_SACK: u64 = 0x04;
pub const OPTION_TIMESTAMPS: u64 = 0x08;
pub const OPTION_ECN: u64 = 0x10;

impl RuleOptions {
    /// What is agreed on with who has sent a SYN, as cookies keep it. Of no `Option`, whose payload would be undefined.
    pub(super) fn kept(self, syn: &PacketInfo) -> u32 {
        let options = &syn.options.syn;
        let mut kept = match options.scale {
            Some(scale) if self.has(OPTION_SCALE) => u32::from(scale),
            _ => cookie::OPTION_SCALE,
        };
        if options.sack_permitted && self.has(OPTION_SACK) {
            kept |= cookie::OPTION_SACK;
        }
        if cookie::is_ecn_setup(syn) && self.has(OPTION_ECN) {
            kept |= cookie::OPTION_ECN;
        }
        kept
    }

    pub const fn new(bits: u64, scale: u8, mss: u16) -> Self {
        Self(bits | (scale as u64) << 8 | (mss as u64) << 16)
    }

    pub(super) const fn scale(self) -> u8 {
        (self.0 >> 8) as u8
    }

    pub(super) const fn has(self, bit: u64) -> bool {
        self.0 & bit != 0
    }
}

/// The window of a SYN, which is never scaled (RFC 7323 section 2.2), made of that of a later segment.
pub(super) const fn unscaled(shifted: u16, kept: &Kept) -> u16 {
    let scale = match kept.scale {
        Some(scale) => scale as u32,
        None => 0,
    };
    window(shifted as u32, scale, 0) as u16
}
