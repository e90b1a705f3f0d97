//! Flows in the words that administrators and their scripts know: the lines of `conntrack -L`
//! (conntrack-tools 1.4.7) and of `/proc/net/nf_conntrack`, and settings by their sysctl names.

#![forbid(unsafe_code)]

pub mod calendar;
mod expectation;
mod forms;
mod packet_log;
pub mod pcapng;
pub mod sysctl;
pub mod timeout;

use std::fmt::{self, Display, Formatter};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use keepstate_engine::conntrack::gre;
use keepstate_engine::conntrack::sctp::SctpState;
use keepstate_engine::helper;
use keepstate_engine::labels::Labels;
use keepstate_engine::record::{ASSIGNED, ASSURED, Record, SEEN_REPLY, Warm};
use keepstate_engine::table;
use keepstate_engine::time::Tick;
use keepstate_engine::tuple::{Address, Direction, Family, FlowKey, Tuple};
use keepstate_engine::wire::transport::{GRE, ICMP, ICMPV6, SCTP, TCP, UDP, UDPLITE};

pub use self::expectation::{Expectation, ExpectationLine, ExpectationXml, Packet};
pub use self::forms::{Line, Save, Style, Telling, Xml};
pub use self::packet_log::{LoggedPacket, log_flag};

const DCCP: u8 = 33;

/// A flow, ready to be printed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry {
    /// By [`Direction`].
    pub tuples: [Tuple; 2],
    pub record: Record,
    pub mark: u32,
    /// Name of its helper.
    pub helper: Option<&'static str>,
    pub seconds_left: u32,
    /// Zero where it is not known.
    pub id: u32,
    /// Nanoseconds since 1970, where start times are kept.
    pub started_ns: Option<u64>,
    /// By [`Direction`]; `None` where flows are not counted.
    pub counters: Option<[Counters; 2]>,
    pub labels: Labels,
}

/// Traffic of one direction of a flow.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    pub packets: u64,
    pub bytes: u64,
}

impl Entry {
    pub fn new(key: &FlowKey, record: &Record, warm: &Warm, now: Tick) -> Self {
        let originator = record.originator();
        Self {
            tuples: [key.tuple(originator), key.tuple(originator.other())],
            record: *record,
            mark: warm.mark,
            helper: helper_name(record, warm),
            seconds_left: record.deadline.seconds_left(now),
            id: 0,
            started_ns: None,
            counters: None,
            labels: [0; 2],
        }
    }

    /// A record of the flow table.
    pub fn from_table(entry: &table::Entry, now: Tick) -> Self {
        let started = entry.accounting.map(|[.., started]| started);
        let counters = entry.counters().map(|words| {
            let [packets, bytes, reply_packets, reply_bytes] = words;
            let reply = Counters {
                packets: reply_packets,
                bytes: reply_bytes,
            };
            [Counters { packets, bytes }, reply]
        });
        Self {
            counters,
            started_ns: started.filter(|started| *started != 0),
            ..Self::new(&entry.key, &entry.record, &entry.warm, now)
        }
    }

    /// The tuple of packets in the original direction.
    pub const fn original(&self) -> &Tuple {
        let [original, _] = &self.tuples;
        original
    }

    /// The line of `conntrack -L`, without a line feed.
    pub const fn conntrack(&self) -> ConntrackLine<'_> {
        ConntrackLine(self)
    }

    /// What `conntrack -E` prints of a flow after the kind of event.
    pub const fn event(&self, timeout: ShowTimeout) -> EventLine<'_> {
        EventLine(self, timeout)
    }

    /// The addresses of a packet in the original direction.
    pub const fn packet(&self) -> PacketLine<'_> {
        PacketLine(self)
    }

    /// The line of `/proc/net/nf_conntrack`, without a line feed.
    pub const fn proc(&self) -> ProcLine<'_> {
        ProcLine(self)
    }

    /// Name of the state of a connection or association.
    pub fn protocol_state(&self) -> Option<&'static str> {
        match self.original().protocol {
            TCP => Some(self.record.tcp_state.name()),
            SCTP => Some(SctpState::of(&self.record).name()),
            _ => None,
        }
    }

    fn write_directions(&self, f: &mut Formatter<'_>, form: AddressForm) -> fmt::Result {
        let [original, reply] = &self.tuples;
        self.write_direction(f, original, Direction::Original, form)?;
        if !self.record.has(SEEN_REPLY) {
            f.write_str(" [UNREPLIED]")?;
        }
        self.write_direction(f, reply, Direction::Reply, form)?;
        if self.record.has(ASSURED) {
            f.write_str(" [ASSURED]")?;
        }
        Ok(())
    }

    fn write_direction(
        &self,
        f: &mut Formatter<'_>,
        tuple: &Tuple,
        direction: Direction,
        form: AddressForm,
    ) -> fmt::Result {
        f.write_str(" src=")?;
        form.write(f, tuple.family, &tuple.source)?;
        f.write_str(" dst=")?;
        form.write(f, tuple.family, &tuple.destination)?;
        match tuple.protocol {
            DCCP if matches!(form, AddressForm::Full) => {}
            TCP | UDP | SCTP | DCCP | UDPLITE => write!(
                f,
                " sport={} dport={}",
                tuple.source_port, tuple.destination_port
            )?,
            ICMP | ICMPV6 => {
                let kind = icmp_type(tuple, direction);
                let code = tuple.destination_port & 0xff;
                write!(f, " type={kind} code={code} id={}", tuple.source_port)?;
            }
            GRE => write!(
                f,
                " srckey={:#x} dstkey={:#x}",
                tuple.source_port, tuple.destination_port
            )?,
            _ => {}
        }
        if let Some(counters) = &self.counters {
            let [original, reply] = counters;
            let counters = match direction {
                Direction::Original => original,
                Direction::Reply => reply,
            };
            write!(f, " packets={} bytes={}", counters.packets, counters.bytes)?;
        }
        Ok(())
    }
}

/// See [`Entry::conntrack`].
#[derive(Clone, Copy, Debug)]
pub struct ConntrackLine<'a>(&'a Entry);

impl Display for ConntrackLine<'_> {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let style = Style {
            references: 1,
            ..Style::default()
        };
        self.0.line(style).fmt(f)
    }
}

/// A flow that ended has no timeout any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ShowTimeout {
    Yes,
    No,
}

/// See [`Entry::event`].
#[derive(Clone, Copy, Debug)]
pub struct EventLine<'a>(&'a Entry, ShowTimeout);

impl Display for EventLine<'_> {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let Self(entry, timeout) = self;
        let protocol = entry.original().protocol;
        write!(f, "{:<8} {protocol}", protocol_name(protocol))?;
        if *timeout == ShowTimeout::Yes {
            write!(f, " {}", entry.seconds_left)?;
        }
        if let Some(state) = entry.protocol_state() {
            write!(f, " {state}")?;
        }
        entry.write_directions(f, AddressForm::Short)?;
        if entry.mark != 0 {
            write!(f, " mark={}", entry.mark)?;
        }
        if entry.original().zone != 0 {
            write!(f, " zone={}", entry.original().zone)?;
        }
        Ok(())
    }
}

/// See [`Entry::packet`].
#[derive(Clone, Copy, Debug)]
pub struct PacketLine<'a>(&'a Entry);

impl Display for PacketLine<'_> {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let tuple = self.0.original();
        let protocol = tuple.protocol;
        write!(f, "{:<8} {protocol}", protocol_name(protocol))?;
        let form = AddressForm::Short;
        self.0.write_direction(f, tuple, Direction::Original, form)
    }
}

/// See [`Entry::proc`].
#[derive(Clone, Copy, Debug)]
pub struct ProcLine<'a>(&'a Entry);

impl Display for ProcLine<'_> {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let entry = self.0;
        let tuple = entry.original();
        let (family, family_number) = match tuple.family {
            Family::V4 => ("ipv4", 2),
            Family::V6 => ("ipv6", 10),
        };
        let protocol = tuple.protocol;
        // The kernel has forgotten DCCP, and conntrack has not.
        let name = match protocol {
            DCCP => "unknown",
            _ => protocol_name(protocol),
        };
        write!(
            f,
            "{family:<8} {family_number} {name:<8} {protocol} {}",
            entry.seconds_left
        )?;
        if protocol == GRE {
            let (unanswered, stream) = gre::timeouts(&entry.record);
            write!(f, " timeout={unanswered}, stream_timeout={stream}")?;
        }
        if let Some(state) = entry.protocol_state() {
            write!(f, " {state}")?;
        }
        entry.write_directions(f, AddressForm::Full)?;
        write!(f, " mark={} zone={} use=2", entry.mark, tuple.zone)
    }
}

/// How IPv6 addresses are written: conntrack shortens them, the kernel does not.
#[derive(Clone, Copy)]
enum AddressForm {
    Short,
    Full,
}

impl AddressForm {
    fn write(self, f: &mut Formatter<'_>, family: Family, words: &Address) -> fmt::Result {
        match (self, address(family, words)) {
            (Self::Full, IpAddr::V6(address)) => {
                let [a, b, c, d, e, g, h, i] = address.segments();
                write!(
                    f,
                    "{a:04x}:{b:04x}:{c:04x}:{d:04x}:{e:04x}:{g:04x}:{h:04x}:{i:04x}"
                )
            }
            (_, address) => write!(f, "{address}"),
        }
    }
}

/// The name that conntrack and the kernel give a protocol; `unknown` for those without a tracker.
pub const fn protocol_name(protocol: u8) -> &'static str {
    match protocol {
        ICMP => "icmp",
        TCP => "tcp",
        UDP => "udp",
        DCCP => "dccp",
        GRE => "gre",
        ICMPV6 => "icmpv6",
        SCTP => "sctp",
        UDPLITE => "udplite",
        _ => "unknown",
    }
}

/// The helper that reads along a flow.
fn helper_name(record: &Record, warm: &Warm) -> Option<&'static str> {
    let number = warm.assigned.helper();
    let helper = helper::numbered(number).filter(|_| record.has(ASSIGNED))?;
    Some(helper.name)
}

/// An address of the engine as the standard library has it.
pub fn address(family: Family, address: &Address) -> IpAddr {
    let [a, b, c, d] = *address;
    match family {
        Family::V4 => Ipv4Addr::from_bits(a).into(),
        Family::V6 => {
            let high = (u128::from(a) << 96) | (u128::from(b) << 64);
            let low = (u128::from(c) << 32) | u128::from(d);
            Ipv6Addr::from_bits(high | low).into()
        }
    }
}

/// The ICMP type of a direction: a tuple names the request in both.
const fn icmp_type(tuple: &Tuple, direction: Direction) -> u16 {
    let request = tuple.destination_port >> 8;
    match (direction, tuple.protocol, request) {
        (Direction::Original, _, _) => request,
        // Echo answers with zero; timestamp, information and mask with the next number.
        (Direction::Reply, ICMP, 8) => 0,
        (Direction::Reply, ICMP, 13 | 15 | 17) => request + 1,
        (Direction::Reply, ICMPV6, 128 | 139) => request + 1,
        (Direction::Reply, _, _) => request,
    }
}

#[cfg(test)]
mod tests;
