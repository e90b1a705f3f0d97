//! Packets as the recogniser sees them.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use keepstate_engine::event::{Event, EventKind};
use keepstate_engine::sample::{AGAINST, Noted};
use keepstate_engine::tuple::{Family, FlowKey, Side};
use keepstate_engine::verdict::{Hook, Reason, State, Verdict};
use serde::{Deserialize, Serialize};

/// What a packet that no flow answers may be a part of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Signal {
    Syn,
    SynAck,
    Ack,
    Rst,
    Udp,
    /// UDP that comes from a port of services that answer more than they are asked.
    Reflected,
    Icmp,
    Fragment,
    Other,
}

/// How many signals there are.
pub(crate) const SIGNALS: usize = 9;

impl Signal {
    pub const ALL: [Self; SIGNALS] = [
        Self::Syn,
        Self::SynAck,
        Self::Ack,
        Self::Rst,
        Self::Udp,
        Self::Reflected,
        Self::Icmp,
        Self::Fragment,
        Self::Other,
    ];
}

/// Services that answer more than they are asked: chargen, DNS, NTP, SNMP, CLDAP, SSDP, WS-Discovery, mDNS, memcached.
const REFLECTORS: [u16; 9] = [19, 53, 123, 161, 389, 1900, 3702, 5353, 11211];

/// What happened to the packet's flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Progress {
    /// It was let through; its flow begins or is not answered.
    Passed,
    /// It was dropped, answered with a cookie, or found INVALID.
    Refused,
    /// Its flow was answered.
    Replied,
    /// Its flow is complete: after a handshake, for TCP.
    Completed,
}

/// A packet that was sampled.
#[derive(Clone, Copy, Debug)]
pub struct Sample {
    /// For [`Progress::Replied`] and [`Progress::Completed`] who began the flow; else the sender.
    pub source: IpAddr,
    pub destination: IpAddr,
    pub source_port: u16,
    pub destination_port: u16,
    pub protocol: u8,
    /// Bytes of the IP packet.
    pub length: u32,
    /// TTL or hop limit.
    pub hop_limit: u8,
    pub signal: Signal,
    pub progress: Progress,
    pub is_invalid: bool,
    /// Sequence number of a TCP segment.
    pub sequence: u32,
    /// Packets that it stands for.
    pub weight: f64,
}

pub(crate) const TCP: u8 = 6;
const UDP: u8 = 17;
const ICMP: [u8; 2] = [1, 58];

impl Sample {
    /// `None` for an event of another kind, and for packets that this host has sent.
    pub fn of(event: &Event) -> Option<Self> {
        if event.kind != EventKind::Sample as u8 {
            return None;
        }
        let noted = Noted::from_number(event.detail[0] as u8)?;
        let is_refused = event.verdict != Verdict::Accept as u8;
        let progress = match noted {
            Noted::New => Progress::Passed,
            Noted::Replied => Progress::Replied,
            Noted::Completed => Progress::Completed,
            Noted::Refused if is_refused => Progress::Refused,
            // INVALID, and the rules let it in.
            Noted::Refused => Progress::Passed,
        };
        let is_judged = matches!(noted, Noted::New | Noted::Refused);
        if is_judged && event.hook == Hook::Output as u8 {
            return None;
        }
        let family = if event.family == 0 {
            Family::V4
        } else {
            Family::V6
        };
        let key = FlowKey {
            family,
            words: event.key,
        };
        let first = (address(family, key.first_address()), key.first_port());
        let second = (address(family, key.second_address()), key.second_port());
        let is_sender_first = event.side == Side::First as u8;
        let is_against = !is_judged && event.detail[0] & AGAINST != 0;
        let (source, destination) = if is_sender_first != is_against {
            (first, second)
        } else {
            (second, first)
        };
        let protocol = key.protocol();
        Some(Self {
            source: source.0,
            destination: destination.0,
            source_port: source.1,
            destination_port: destination.1,
            protocol,
            length: event.length,
            hop_limit: event.detail[2] as u8,
            sequence: event.detail[3],
            signal: signal(event, protocol, source.1),
            progress,
            is_invalid: event.state == State::Invalid as u8,
            weight: f64::from(event.detail[1].max(1)),
        })
    }
}

/// Samples a second that are asked for.
const SAMPLES_WANTED: u64 = 2000;
/// One packet in a million is the least.
const MASK_MAX: u32 = (1 << 20) - 1;

/// The mask of [`keepstate_engine::settings::SampleSettings`] for the next second, by the one there is and how many
/// samples it gave, those that were lost included.
pub const fn next_mask(mask: u32, samples: u64) -> u32 {
    let mut mask = mask;
    let mut expected = samples;
    while expected > SAMPLES_WANTED && mask < MASK_MAX {
        mask = mask << 1 | 1;
        expected /= 2;
    }
    // Half of what is wanted: it must not swing.
    if expected < SAMPLES_WANTED / 4 {
        mask >>= 1;
    }
    mask
}

fn signal(event: &Event, protocol: u8, source_port: u16) -> Signal {
    const RST: u8 = 4;
    const SYN: u8 = 2;
    const ACK: u8 = 16;
    let is_part = event.detail[0] >> 16 & 0xff != 0;
    let reason = Reason::from_number(event.reason);
    if is_part || reason.is_some_and(|reason| reason.name().starts_with("fragment")) {
        return Signal::Fragment;
    }
    let flags = (event.detail[0] >> 8) as u8;
    match protocol {
        TCP if flags & RST != 0 => Signal::Rst,
        TCP if flags & (SYN | ACK) == SYN | ACK => Signal::SynAck,
        TCP if flags & SYN != 0 => Signal::Syn,
        TCP => Signal::Ack,
        UDP if REFLECTORS.contains(&source_port) => Signal::Reflected,
        UDP => Signal::Udp,
        _ if ICMP.contains(&protocol) => Signal::Icmp,
        _ => Signal::Other,
    }
}

pub(crate) fn address(family: Family, words: [u32; 4]) -> IpAddr {
    match family {
        Family::V4 => Ipv4Addr::from_bits(words[0]).into(),
        Family::V6 => {
            let bits = words
                .iter()
                .fold(0, |bits, word| bits << 32 | u128::from(*word));
            Ipv6Addr::from_bits(bits).into()
        }
    }
}
