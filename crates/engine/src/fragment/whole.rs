//! What only a whole datagram shows: its checksum, and whether UDP's length fits. Each fragment adds its share to
//! a word of the datagram; the one that completes it answers for all.
//!
//! ```text
//! bytes before the transport header (16) | length that UDP states (16) | flags (16) | sum (16)
//! ```
//!
//! The sum is that of RFC 1071, pseudo-header included but for its length.

use super::datagram::Datagram;
use crate::host::{Header, Packet};
use crate::process::{Arrival, Checksums};
use crate::settings::{SETTING_CHECKSUM, Settings};
use crate::wire::PacketInfo;
use crate::wire::transport::{ICMP, ICMPV6, TCP, UDP, fold, pseudo_header_sum};

const SUM: u64 = 0xffff;
/// There is a checksum to verify.
const HAS_CHECKSUM: u64 = 1 << 16;
/// The checksum covers a pseudo-header.
const HAS_PSEUDO_HEADER: u64 = 1 << 17;
/// Some fragment is not to be summed, or could not.
const UNSUMMED: u64 = 1 << 18;
const FLAGS: u64 = HAS_CHECKSUM | HAS_PSEUDO_HEADER | UNSUMMED;
const UDP_LENGTH_SHIFT: u32 = 32;
const BEFORE_SHIFT: u32 = 48;

/// A share, or several in one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Share(pub(super) u64);

/// Whether a complete datagram is what it says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Whole {
    Sound = 0,
    Faulty = 1,
}

impl Share {
    /// Of the fragment at hand.
    #[inline(always)]
    pub(super) fn of<P: Packet>(
        packet: &P,
        info: &PacketInfo,
        arrival: &Arrival,
        settings: &Settings,
        datagram: &Datagram,
    ) -> Self {
        let is_summed =
            settings.has(SETTING_CHECKSUM) && !matches!(arrival.checksums, Checksums::Trusted);
        let sum = if is_summed {
            packet.sum(info.transport_offset, info.transport_length)
        } else {
            None
        };
        let share = match sum {
            Some(sum) => u64::from(sum),
            None => UNSUMMED,
        };
        if datagram.is_first() {
            Self(share).and(Self::of_header(packet, info, datagram))
        } else {
            Self(share)
        }
    }

    /// What a transport header adds.
    #[inline(always)]
    fn of_header<P: Packet>(packet: &P, info: &PacketInfo, datagram: &Datagram) -> Self {
        let piece = &datagram.piece;
        let before =
            u64::from(piece.end - piece.start).saturating_sub(info.transport_length.into());
        let share = before << BEFORE_SHIFT;
        // The length of the whole is not known yet.
        let pseudo = u64::from(fold(
            pseudo_header_sum(info) + (!info.transport_length & 0xffff),
        ));
        Self(match info.protocol {
            ICMP => share | HAS_CHECKSUM,
            TCP | ICMPV6 => share | HAS_CHECKSUM | HAS_PSEUDO_HEADER | pseudo,
            UDP => match packet.header(info.transport_offset, 8) {
                Some(header) => {
                    let length = u64::from(header.u16(4)) << UDP_LENGTH_SHIFT;
                    // Zero: the sender computed none.
                    let flag = if header.u16(6) == 0 { 0 } else { HAS_CHECKSUM };
                    share | length | flag | HAS_PSEUDO_HEADER | pseudo
                }
                None => share,
            },
            _ => share,
        })
    }

    /// This and another one.
    pub(super) fn and(self, other: Self) -> Self {
        let sum = fold((self.0 & SUM) as u32 + (other.0 & SUM) as u32);
        Self(((self.0 | other.0) & !SUM) | u64::from(sum))
    }

    /// All shares of a datagram that ends at `end`.
    pub(super) fn judge(self, end: u32) -> Whole {
        let before = (self.0 >> BEFORE_SHIFT) as u32;
        let length = end.saturating_sub(before);
        let udp_length = (self.0 >> UDP_LENGTH_SHIFT) as u32 & 0xffff;
        let is_summed = self.0 & FLAGS & !HAS_PSEUDO_HEADER == HAS_CHECKSUM;
        let pseudo_length = if self.0 & HAS_PSEUDO_HEADER == 0 {
            0
        } else {
            length & 0xffff
        };
        let sum = fold((self.0 & SUM) as u32 + pseudo_length);
        if udp_length > length || (is_summed && sum != 0xffff) {
            Whole::Faulty
        } else {
            Whole::Sound
        }
    }
}
