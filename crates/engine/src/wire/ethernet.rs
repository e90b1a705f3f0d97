//! Ethernet II with 802.1Q and 802.1ad tags.

use crate::host::{Header, Packet};
use crate::limits::VLAN_TAGS_MAX;
use crate::tuple::Family;

const HEADER_BYTES: u32 = 14;
const TAG_BYTES: u32 = 4;

const TYPE_IPV4: u16 = 0x0800;
const TYPE_IPV6: u16 = 0x86dd;
const TYPE_VLAN: u16 = 0x8100;
const TYPE_VLAN_SERVICE: u16 = 0x88a8;

/// What an Ethernet header leads to.
pub(super) enum Payload {
    Ip {
        family: Family,
        offset: u32,
        vlan: u16,
    },
    Other,
    Truncated,
}

/// Reads the header and up to [`VLAN_TAGS_MAX`] tags.
#[inline(always)]
pub(super) fn payload<P: Packet>(packet: &P) -> Payload {
    let Some(header) = packet.header(0, HEADER_BYTES) else {
        return Payload::Truncated;
    };
    let mut ethertype = header.u16(12);
    let mut offset = HEADER_BYTES;
    let mut vlan = 0;
    for _ in 0..VLAN_TAGS_MAX {
        if ethertype != TYPE_VLAN && ethertype != TYPE_VLAN_SERVICE {
            break;
        }
        let Some(tag) = packet.header(offset, TAG_BYTES) else {
            return Payload::Truncated;
        };
        vlan = tag.u16(0) & 0x0fff;
        ethertype = tag.u16(2);
        offset += TAG_BYTES;
    }
    match ethertype {
        TYPE_IPV4 => Payload::Ip {
            family: Family::V4,
            offset,
            vlan,
        },
        TYPE_IPV6 => Payload::Ip {
            family: Family::V6,
            offset,
            vlan,
        },
        _ => Payload::Other,
    }
}
