//! ICMP and ICMPv6: requests with their replies, and errors that belong to other flows.

use super::unanswered;
use crate::record::Record;
use crate::settings::{Settings, Timeout};
use crate::time::Tick;
use crate::tuple::{Family, Oriented, Side, Tuple};
use crate::verdict::Reason;
use crate::wire::PacketInfo;

/// What an ICMP message is to tracking.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Message {
    /// Begins a flow, or belongs to one.
    Request,
    /// The reply to a request of this type.
    ReplyTo(u8),
    /// Quotes a packet of another flow.
    Error,
    /// Neighbour discovery and multicast membership: not tracked.
    Untracked,
    /// None of these.
    Other,
}

/// Largest ICMP type that Linux knows.
const ICMP_TYPE_MAX: u8 = 18;

impl Message {
    pub const fn of(family: Family, kind: u8) -> Self {
        match family {
            Family::V4 => Self::of_v4(kind),
            Family::V6 => Self::of_v6(kind),
        }
    }

    /// RFC 792, RFC 950 (address mask).
    const fn of_v4(kind: u8) -> Self {
        match kind {
            8 | 13 | 15 | 17 => Self::Request,
            0 => Self::ReplyTo(8),
            14 => Self::ReplyTo(13),
            16 => Self::ReplyTo(15),
            18 => Self::ReplyTo(17),
            // Unreachable, source quench, redirect, time exceeded, parameter problem.
            3 | 4 | 5 | 11 | 12 => Self::Error,
            _ => Self::Other,
        }
    }

    /// RFC 4443, RFC 4620 (node information); 130 to 136 and 143 are multicast listener and
    /// neighbour discovery, which Linux leaves out of its table.
    const fn of_v6(kind: u8) -> Self {
        match kind {
            128 | 139 => Self::Request,
            129 => Self::ReplyTo(128),
            140 => Self::ReplyTo(139),
            130..=136 | 143 => Self::Untracked,
            0..=127 => Self::Error,
            _ => Self::Other,
        }
    }
}

/// Type of an ICMP packet.
pub const fn kind(info: &PacketInfo) -> u8 {
    (info.destination_port >> 8) as u8
}

/// Whether Linux calls the type itself unknown.
pub const fn is_unknown_type(info: &PacketInfo) -> bool {
    matches!(info.family, Family::V4) && kind(info) > ICMP_TYPE_MAX
}

/// Canonical order of a request or reply whose `destination_port` is its own type and code.
pub(super) fn orient(mut tuple: Tuple) -> Option<Oriented> {
    let kind = (tuple.destination_port >> 8) as u8;
    match Message::of(tuple.family, kind) {
        Message::Request => Some(tuple.orient_query(Side::First)),
        Message::ReplyTo(request) => {
            tuple.destination_port = (u16::from(request) << 8) | (tuple.destination_port & 0xff);
            Some(tuple.orient_query(Side::Second))
        }
        Message::Error | Message::Untracked | Message::Other => None,
    }
}

pub(super) fn begin(
    settings: &Settings,
    info: &PacketInfo,
    oriented: &Oriented,
    now: Tick,
) -> Result<Record, Reason> {
    match oriented.side {
        Side::First => Ok(unanswered(settings, timeout(info.family), now)),
        Side::Second => Err(Reason::IcmpNoRequest),
    }
}

pub(super) const fn timeout(family: Family) -> Timeout {
    match family {
        Family::V4 => Timeout::Icmp,
        Family::V6 => Timeout::Icmpv6,
    }
}
