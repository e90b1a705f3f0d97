//! Connection tracking: what a packet means to its flow, protocol by protocol.

pub mod gre;
pub mod icmp;
pub mod sctp;
pub mod tcp;
pub mod udp;

use crate::host::{Host, Packet};
use crate::process::{Run, Scratch};
use crate::record::{ASSURED, FIXED_TIMEOUT, Record, SEEN_REPLY, Warm};
use crate::settings::{Settings, Timeout, TimeoutPolicy};
use crate::table::HalfOpen;
use crate::time::Tick;
use crate::tuple::{Direction, Family, Oriented, Side, Tuple};
use crate::verdict::Reason;
use crate::wire::PacketInfo;
use crate::wire::transport::{GRE, ICMP, ICMPV6, SCTP, TCP, UDP, UDPLITE};

use self::tcp::Advance;

/// Which machine tracks a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tracker {
    Tcp,
    Udp,
    UdpLite,
    Icmp,
    Sctp,
    Gre,
    /// Any other protocol, by addresses.
    Generic,
}

impl Tracker {
    pub const fn of(protocol: u8, family: Family) -> Self {
        match (protocol, family) {
            (TCP, _) => Self::Tcp,
            (UDP, _) => Self::Udp,
            (UDPLITE, _) => Self::UdpLite,
            (SCTP, _) => Self::Sctp,
            (GRE, _) => Self::Gre,
            (ICMP, Family::V4) | (ICMPV6, Family::V6) => Self::Icmp,
            _ => Self::Generic,
        }
    }
}

/// The tuple of a packet as it was sent.
pub const fn tuple_of(info: &PacketInfo, zone: u16) -> Tuple {
    Tuple {
        family: info.family,
        source: info.source,
        destination: info.destination,
        source_port: info.source_port,
        destination_port: info.destination_port,
        protocol: info.protocol,
        zone,
    }
}

/// Brings a tuple as it was sent into canonical order. An ICMP message that is neither request
/// nor reply has no name.
#[cfg_attr(not(target_arch = "bpf"), inline(always))]
pub fn orient(tuple: Tuple) -> Option<Oriented> {
    match Tracker::of(tuple.protocol, tuple.family) {
        Tracker::Icmp => icmp::orient(tuple),
        Tracker::Tcp
        | Tracker::Udp
        | Tracker::UdpLite
        | Tracker::Sctp
        | Tracker::Gre
        | Tracker::Generic => Some(tuple.orient()),
    }
}

/// Writes the record that the first packet of a flow makes; the error says why it makes none.
#[inline(always)]
pub(crate) fn begin<P: Packet, H: Host>(
    run: &Run<'_, P, H>,
    info: &PacketInfo,
    oriented: &Oriented,
    record: &mut Record,
    warm: &mut Warm,
) -> Result<(), Reason> {
    let (settings, now) = (run.host.settings(), run.now);
    let policy = record.timeouts;
    *warm = Warm::default();
    match Tracker::of(info.protocol, info.family) {
        Tracker::Tcp => tcp::begin(run, info, record, warm)?,
        Tracker::Udp => *record = udp::begin(settings, now),
        Tracker::Icmp => *record = icmp::begin(settings, info, oriented, now)?,
        Tracker::UdpLite => *record = unanswered(settings, Timeout::Udp, now),
        Tracker::Gre => *record = gre::begin(settings, now),
        // An association has a stage of its own, see `begin_association`.
        Tracker::Sctp => return Err(Reason::SctpNoAssociation),
        Tracker::Generic => *record = unanswered(settings, Timeout::Generic, now),
    }
    if policy != TimeoutPolicy::DEFAULT {
        assign_timeouts(settings, policy, info, record, now);
    }
    note_originator(oriented, record);
    Ok(())
}

/// As [`begin`], for SCTP.
#[inline(always)]
pub(crate) fn begin_association<P: Packet, H: Host>(
    run: &Run<'_, P, H>,
    scratch: &mut Scratch,
) -> Result<(), Reason> {
    scratch.warm = Warm::default();
    sctp::begin(run, scratch)?;
    note_originator(&scratch.oriented, &mut scratch.record);
    Ok(())
}

/// Linux finds a flow from an address to itself in its reply direction first.
pub(crate) fn note_originator(oriented: &Oriented, record: &mut Record) {
    if matches!(oriented.side, Side::Second) || oriented.key.is_reflexive() {
        record.status |= crate::record::ORIGINATOR_IS_SECOND;
    }
}

/// Gives a new record the timeouts of a policy. A TCP connection knows them already.
#[inline(always)]
fn assign_timeouts(
    settings: &Settings,
    policy: TimeoutPolicy,
    info: &PacketInfo,
    record: &mut Record,
    now: Tick,
) {
    record.timeouts = policy;
    let first = match Tracker::of(info.protocol, info.family) {
        // GRE keeps its timeouts in the record; an association has a stage of its own.
        Tracker::Tcp | Tracker::Gre | Tracker::Sctp => return,
        Tracker::Udp | Tracker::UdpLite => Timeout::Udp,
        Tracker::Icmp => icmp::timeout(info.family),
        Tracker::Generic => Timeout::Generic,
    };
    renew(settings, first, record, now);
}

/// Advances a flow by one packet.
#[cfg_attr(target_arch = "bpf", inline(never))]
#[cfg_attr(not(target_arch = "bpf"), inline)]
pub(crate) fn advance<P: Packet, H: Host>(
    run: &Run<'_, P, H>,
    info: &PacketInfo,
    direction: Direction,
    record: &mut Record,
    warm: &mut Warm,
) -> Advance {
    let (settings, now) = (run.host.settings(), run.now);
    let timeout = match Tracker::of(info.protocol, info.family) {
        Tracker::Tcp => return tcp::advance(run, info, direction, record, warm),
        Tracker::Udp => {
            udp::advance(settings, record, now);
            return Advance::Pass;
        }
        Tracker::UdpLite => {
            udp::advance_lite(settings, record, now);
            return Advance::Pass;
        }
        Tracker::Gre => {
            gre::advance(record, now);
            return Advance::Pass;
        }
        Tracker::Sctp => return Advance::Refuse(Reason::SctpBadTransition),
        Tracker::Icmp => icmp::timeout(info.family),
        Tracker::Generic => Timeout::Generic,
    };
    renew(settings, timeout, record, now);
    Advance::Pass
}

/// Whether a flow may still be given up for another: a SYN or INIT without its handshake, a
/// datagram without an answer.
pub const fn half_open(status: u8, protocol: u8) -> HalfOpen {
    let completed = if matches!(protocol, TCP | SCTP) {
        ASSURED
    } else {
        SEEN_REPLY
    };
    if status & completed != 0 {
        HalfOpen::No
    } else {
        HalfOpen::Yes
    }
}

/// A record without windows.
fn unanswered(settings: &Settings, timeout: Timeout, now: Tick) -> Record {
    Record {
        deadline: now.after_seconds(settings.seconds(timeout)),
        ..Record::EMPTY
    }
}

fn renew(settings: &Settings, timeout: Timeout, record: &mut Record, now: Tick) {
    renew_under(settings, timeout, record.timeouts, record, now);
}

/// As [`renew`], where the caller knows the policy.
#[inline(always)]
fn renew_under(
    settings: &Settings,
    timeout: Timeout,
    policy: TimeoutPolicy,
    record: &mut Record,
    now: Tick,
) {
    if !record.has(FIXED_TIMEOUT) {
        record.deadline = now.after_seconds(settings.seconds_under(timeout, policy));
    }
}
