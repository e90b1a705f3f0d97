//! Helpers: they read what the two ends of a flow say to each other, and foretell flows that these
//! are about to open. A helper reads only flows to which a rule has assigned it (`-j CT --helper`).
//!
//! The next helper is one more file beside these, a line in [`HELPERS`], and an arm where packets
//! are handed to it.

mod address;
pub mod ftp;
mod irc;
pub mod line;
pub(crate) mod message;
mod session;
pub mod sip;
pub(crate) mod state;
mod tftp;

use crate::host::{FlowMemory, Host, Packet};
use crate::process::{Run, Scratch, Stage};
use crate::record::{ASSIGNED, FlowAssigned, Record, Warm};
use crate::table::Place;
use crate::wire::transport::{TCP, UDP};

/// A helper, and what its flows may expect.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Helper {
    /// In records and rules; never zero, never used for another.
    pub number: u8,
    pub name: &'static str,
    pub protocol: u8,
    /// Port of the flows that it is made for. Rules assign it to whatever they match.
    pub default_port: u16,
    /// Flows that one flow may expect at a time; one more takes the place of the oldest.
    pub expectations_max: u32,
    /// How long a flow is expected, in seconds.
    pub timeout: u32,
}

pub const FTP: u8 = 1;
pub const TFTP: u8 = 2;
pub const IRC: u8 = 3;
pub const SIP: u8 = 4;
pub const SIP_TCP: u8 = 5;

/// How long flows of FTP, TFTP and IRC are expected, in seconds.
const EXPECTED_SECONDS: u32 = 300;

/// All helpers.
pub const HELPERS: &[Helper] = &[
    Helper {
        number: FTP,
        name: "ftp",
        protocol: TCP,
        default_port: 21,
        expectations_max: 1,
        timeout: EXPECTED_SECONDS,
    },
    Helper {
        number: TFTP,
        name: "tftp",
        protocol: UDP,
        default_port: 69,
        expectations_max: 1,
        timeout: EXPECTED_SECONDS,
    },
    Helper {
        number: IRC,
        name: "irc",
        protocol: TCP,
        default_port: 6667,
        expectations_max: 8,
        timeout: EXPECTED_SECONDS,
    },
    Helper {
        number: SIP,
        name: "sip",
        protocol: UDP,
        default_port: message::DEFAULT_PORT,
        expectations_max: 8,
        timeout: sip::MEDIA_SECONDS,
    },
    Helper {
        number: SIP_TCP,
        name: "sip",
        protocol: TCP,
        default_port: message::DEFAULT_PORT,
        expectations_max: 8,
        timeout: sip::MEDIA_SECONDS,
    },
];

/// The helper of this name for a protocol.
pub fn named(name: &str, protocol: u8) -> Option<&'static Helper> {
    let mut helpers = HELPERS.iter();
    helpers.find(|helper| helper.name == name && helper.protocol == protocol)
}

/// The helper with this number.
pub fn numbered(number: u8) -> Option<&'static Helper> {
    HELPERS.iter().find(|helper| helper.number == number)
}

/// How many flows a helper's flow may expect at a time. By arms and not by the list, which the kernel's
/// programs would have to search.
pub(crate) const fn expectations_max(number: u8) -> u32 {
    match number {
        IRC | SIP | SIP_TCP => 8,
        _ => 1,
    }
}

/// What rules have assigned to the flow of a record.
#[inline(always)]
pub(crate) fn given<H: Host>(host: &H, place: Place, record: &Record) -> FlowAssigned {
    if !record.has(ASSIGNED) {
        return FlowAssigned::default();
    }
    let words = host.flows().warm(place.family, place.bucket, place.slot);
    words.map(Warm::read).unwrap_or_default().assigned
}

/// The stage in which the helper of this number reads.
pub(crate) const fn stage_of(number: u8) -> Stage {
    match number {
        0 => Stage::Conclude,
        SIP | SIP_TCP => Stage::Message,
        _ => Stage::Help,
    }
}

/// Hands a packet that the rules let pass to its flow's helper.
#[cfg_attr(target_arch = "bpf", inline(never))]
#[cfg_attr(not(target_arch = "bpf"), inline)]
pub(crate) fn read<P: Packet, H: Host>(run: &Run<'_, P, H>, scratch: &mut Scratch) -> Stage {
    scratch.state = state::NOWHERE;
    scratch.message.wanted = 0;
    match scratch.given.helper() {
        FTP => ftp::read(run, scratch, ftp::Protocol::Ftp),
        IRC => ftp::read(run, scratch, ftp::Protocol::Irc),
        TFTP => tftp::read(run, scratch),
        _ => Stage::Conclude,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_list_says_what_the_arms_do() {
        for helper in HELPERS {
            assert_eq!(expectations_max(helper.number), helper.expectations_max);
            assert!(helper.expectations_max <= state::NOTES_MAX);
            assert_eq!(named(helper.name, helper.protocol), Some(helper));
        }
    }
}
