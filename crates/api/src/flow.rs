//! Flows, as JSON and as the engine has them.

use std::net::IpAddr;

use keepstate_engine::conntrack::gre;
use keepstate_engine::conntrack::sctp::{self, SctpState};
use keepstate_engine::conntrack::tcp::TcpState;
use keepstate_engine::helper;
use keepstate_engine::labels::{self, Labels};
use keepstate_engine::limits::LABELS_MAX;
use keepstate_engine::record::{
    ASSURED, Control, EXPECTED, FIXED_TIMEOUT, FlowAssigned, Record, SEEN_REPLY, STATE_WORDS,
    StateWords, Warm,
};
use keepstate_engine::table::Entry;
use keepstate_engine::time::Tick;
use keepstate_engine::tuple::{Address, Direction, Family, FlowKey, Tuple, is_icmp};
use keepstate_listing as listing;
use keepstate_listing::{Counters, protocol_name};
use serde::{Deserialize, Serialize};

const TCP: u8 = 6;
const UDP: u8 = 17;
const DCCP: u8 = 33;
const GRE: u8 = 47;
const SCTP: u8 = 132;
const UDPLITE: u8 = 136;

/// A flow: what `keepstate flows --json` prints.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Flow {
    /// `ipv4` or `ipv6`.
    pub family: String,
    pub protocol: u8,
    pub protocol_name: String,
    pub zone: u16,
    /// Of packets in the direction of the first.
    pub original: Endpoints,
    pub reply: Endpoints,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub tcp_state: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub sctp: Option<Association>,
    /// Seconds of an unanswered GRE flow and of an answered one, as they were when it began.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub gre_timeouts: Option<[u32; 2]>,
    /// Packets in both directions were seen.
    pub replied: bool,
    pub assured: bool,
    /// A helper foretold the flow.
    #[serde(skip_serializing_if = "is_false", default)]
    pub expected: bool,
    /// The timeout was set by hand and is not renewed.
    #[serde(skip_serializing_if = "is_false", default)]
    pub fixed_timeout: bool,
    pub mark: u32,
    /// The helper that reads along.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub helper: Option<String>,
    pub seconds_left: u32,
    /// A number for the flow; zero where it is not known. Two flows seldom have the same.
    #[serde(skip_serializing_if = "is_zero", default)]
    pub id: u32,
    /// Nanoseconds since 1970, where start times are kept.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub started_ns: Option<u64>,
    /// Numbers of labels, in order.
    #[serde(skip_serializing_if = "Vec::is_empty", default)]
    pub labels: Vec<u16>,
}

/// A flow as one daemon hands it over to another. Fields may be added, and none changes its meaning: the two may be of
/// different versions.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Handed {
    pub flow: Flow,
    /// Number of the timeout policy that a rule gave it, zero for none.
    #[serde(skip_serializing_if = "is_none", default)]
    pub timeout: u8,
    /// Which events a rule lets be told of it; `None` for all.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub events: Option<u8>,
    /// What SYNPROXY knows of a connection that it has opened: how far its numbers are shifted, and what was agreed on.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub synproxy: Option<[u64; 2]>,
}

/// One direction of a flow.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Endpoints {
    pub source: IpAddr,
    pub destination: IpAddr,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub source_port: Option<u16>,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub destination_port: Option<u16>,
    /// The call that packets of PPTP's GRE are for is the destination's; zero in any other GRE.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub source_key: Option<u16>,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub destination_key: Option<u16>,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub icmp: Option<Icmp>,
    /// Where flows are counted.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub packets: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub bytes: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub window: Option<Window>,
}

/// What is known of an SCTP association.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Association {
    pub state: String,
    /// Verification tags of packets in the original direction and in the reply direction.
    pub original_tag: u32,
    pub reply_tag: u32,
}

/// The query of an ICMP or ICMPv6 flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Icmp {
    /// Of the request, in both directions.
    #[serde(rename = "type")]
    pub kind: u8,
    pub code: u8,
    pub id: u16,
}

/// What is known of the segments of one direction.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Window {
    pub end: u32,
    pub max_end: u32,
    pub max_window: u32,
    pub max_ack: u32,
    pub scale: u8,
    pub flags: u8,
}

#[expect(
    clippy::trivially_copy_pass_by_ref,
    reason = "serde asks for this form"
)]
const fn is_false(value: &bool) -> bool {
    !*value
}

#[expect(
    clippy::trivially_copy_pass_by_ref,
    reason = "serde asks for this form"
)]
const fn is_none(value: &u8) -> bool {
    *value == 0
}

#[expect(
    clippy::trivially_copy_pass_by_ref,
    reason = "serde asks for this form"
)]
const fn is_zero(value: &u32) -> bool {
    *value == 0
}

/// Labels by their numbers, in order.
pub fn label_numbers(labels: &Labels) -> Vec<u16> {
    let all = 0..LABELS_MAX;
    all.filter(|label| labels::has(labels, *label))
        .map(|label| label as u16)
        .collect()
}

/// Labels of these numbers; those that are none are left out.
pub fn labels_of(numbers: &[u16]) -> Labels {
    numbers.iter().fold([0; 2], |[low, high], number| {
        let [more_low, more_high] = labels::only((*number).into());
        [low | more_low, high | more_high]
    })
}

/// The engine's own name of a helper.
fn helper_named(name: &str) -> Option<&'static str> {
    let mut names = helper::HELPERS.iter().map(|helper| helper.name);
    names.find(|known| *known == name)
}

impl Flow {
    /// A record of the flow table.
    pub fn from_table(entry: &Entry, now: Tick) -> Self {
        let mut flow = Self::from_listing(&listing::Entry::from_table(entry, now));
        if flow.protocol == TCP {
            flow.original.window = Some(Window::new(&entry.record.windows[0]));
            flow.reply.window = Some(Window::new(&entry.record.windows[1]));
        }
        flow
    }

    /// Name of the state of the connection or association.
    pub fn protocol_state(&self) -> Option<&str> {
        let association = self.sctp.as_ref().map(|association| &*association.state);
        self.tcp_state.as_deref().or(association)
    }

    pub fn from_listing(entry: &listing::Entry) -> Self {
        let [original, reply] = &entry.tuples;
        let counters = |index: usize| entry.counters.map(|counters| counters[index]);
        let protocol = original.protocol;
        let state = (protocol == TCP).then(|| entry.record.tcp_state.name().to_owned());
        Self {
            family: family_name(original.family).to_owned(),
            protocol,
            protocol_name: protocol_name(protocol).to_owned(),
            zone: original.zone,
            original: Endpoints::new(original, counters(0)),
            reply: Endpoints::new(reply, counters(1)),
            tcp_state: state,
            sctp: (protocol == SCTP).then(|| Association::of(&entry.record)),
            gre_timeouts: (protocol == GRE).then(|| gre::timeouts(&entry.record).into()),
            replied: entry.record.has(SEEN_REPLY),
            assured: entry.record.has(ASSURED),
            expected: entry.record.has(EXPECTED),
            fixed_timeout: entry.record.has(FIXED_TIMEOUT),
            mark: entry.mark,
            helper: entry.helper.map(str::to_owned),
            seconds_left: entry.seconds_left,
            id: entry.id,
            started_ns: entry.started_ns,
            labels: label_numbers(&entry.labels),
        }
    }

    /// What is needed to print the flow as conntrack and `/proc` do.
    pub fn to_listing(&self) -> listing::Entry {
        let state = self.tcp_state.as_deref().and_then(tcp_state_named);
        let status = [
            (self.replied, SEEN_REPLY),
            (self.assured, ASSURED),
            (self.expected, EXPECTED),
            (self.fixed_timeout, FIXED_TIMEOUT),
        ];
        let set = status.into_iter().filter(|(is_set, _)| *is_set);
        let mut record = Record {
            status: set.fold(0, |bits, (_, bit)| bits | bit),
            tcp_state: state.unwrap_or(TcpState::None),
            ..Record::EMPTY
        };
        if let Some(association) = &self.sctp {
            association.fill(&mut record);
        }
        if let Some([unanswered, stream]) = self.gre_timeouts {
            gre::set_timeouts(&mut record, (unanswered, stream));
        }
        listing::Entry {
            tuples: [self.tuple(&self.original), self.tuple(&self.reply)],
            record,
            mark: self.mark,
            helper: self.helper.as_deref().and_then(helper_named),
            seconds_left: self.seconds_left,
            id: self.id,
            started_ns: self.started_ns,
            counters: self
                .original
                .counters()
                .zip(self.reply.counters())
                .map(|(original, reply)| [original, reply]),
            labels: labels_of(&self.labels),
        }
    }

    fn tuple(&self, endpoints: &Endpoints) -> Tuple {
        let (family, source) = engine_address(endpoints.source);
        let (_, destination) = engine_address(endpoints.destination);
        let ports = match endpoints.icmp {
            Some(icmp) => (icmp.id, (u16::from(icmp.kind) << 8) | u16::from(icmp.code)),
            None => {
                let source = endpoints.source_port.or(endpoints.source_key);
                let destination = endpoints.destination_port.or(endpoints.destination_key);
                (source.unwrap_or(0), destination.unwrap_or(0))
            }
        };
        Tuple {
            family,
            source,
            destination,
            source_port: ports.0,
            destination_port: ports.1,
            protocol: self.protocol,
            zone: self.zone,
        }
    }
}

impl Endpoints {
    fn new(tuple: &Tuple, counters: Option<Counters>) -> Self {
        let has_ports = matches!(tuple.protocol, TCP | UDP | DCCP | SCTP | UDPLITE);
        let has_keys = tuple.protocol == GRE;
        let [kind, code] = tuple.destination_port.to_be_bytes();
        let icmp = Icmp {
            kind,
            code,
            id: tuple.source_port,
        };
        Self {
            source: listing::address(tuple.family, &tuple.source),
            destination: listing::address(tuple.family, &tuple.destination),
            source_port: has_ports.then_some(tuple.source_port),
            destination_port: has_ports.then_some(tuple.destination_port),
            source_key: has_keys.then_some(tuple.source_port),
            destination_key: has_keys.then_some(tuple.destination_port),
            icmp: is_icmp(tuple.protocol).then_some(icmp),
            packets: counters.map(|counters| counters.packets),
            bytes: counters.map(|counters| counters.bytes),
            window: None,
        }
    }

    fn counters(&self) -> Option<Counters> {
        Some(Counters {
            packets: self.packets?,
            bytes: self.bytes?,
        })
    }
}

impl Association {
    fn of(record: &Record) -> Self {
        Self {
            state: SctpState::of(record).name().to_owned(),
            original_tag: sctp::tag(record, Direction::Original),
            reply_tag: sctp::tag(record, Direction::Reply),
        }
    }

    fn fill(&self, record: &mut Record) {
        sctp::set_tag(record, Direction::Original, self.original_tag);
        sctp::set_tag(record, Direction::Reply, self.reply_tag);
        if let Some(state) = SctpState::named(&self.state) {
            state.store(record);
        }
    }
}

impl Window {
    fn new(window: &keepstate_engine::record::Window) -> Self {
        Self {
            end: window.end,
            max_end: window.max_end,
            max_window: window.max_window,
            max_ack: window.max_ack,
            scale: window.scale,
            flags: window.flags,
        }
    }
}

fn tcp_state_named(name: &str) -> Option<TcpState> {
    let mut states = (0..=TcpState::SynSent2 as u8).map(TcpState::from_number);
    states.find(|state| state.name() == name)
}

const fn family_name(family: Family) -> &'static str {
    match family {
        Family::V4 => "ipv4",
        Family::V6 => "ipv6",
    }
}

/// An address as the engine has it.
pub fn engine_address(address: IpAddr) -> (Family, Address) {
    match address {
        IpAddr::V4(address) => (Family::V4, [address.to_bits(), 0, 0, 0]),
        IpAddr::V6(address) => {
            let bits = address.to_bits();
            let word = |shift: u32| (bits >> shift) as u32;
            (Family::V6, [word(96), word(64), word(32), word(0)])
        }
    }
}

/// A record with nothing left out, for judging packets elsewhere as the kernel would.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RawRecord {
    pub key: [u64; 5],
    pub is_v6: bool,
    pub control: u64,
    pub state: [u64; STATE_WORDS as usize - 1],
    pub mark: u32,
    pub last_window: u16,
    pub last_scale: u8,
    pub last_flags: u8,
    pub last_ack: u32,
}

impl RawRecord {
    pub fn new(entry: &Entry) -> Self {
        let warm = &entry.warm;
        Self {
            key: entry.key.words,
            is_v6: entry.key.family == Family::V6,
            control: entry.control.0,
            state: entry.record.words().0,
            mark: warm.mark,
            last_window: warm.last_window,
            last_scale: warm.last_scale,
            last_flags: warm.last_flags,
            last_ack: warm.last_ack,
        }
    }

    /// Key, record and the fields apart from it.
    pub fn parts(&self) -> (FlowKey, Record, Warm) {
        let family = if self.is_v6 { Family::V6 } else { Family::V4 };
        let key = FlowKey {
            family,
            words: self.key,
        };
        let record = Record::from_words(Control(self.control), StateWords(self.state));
        let warm = Warm {
            mark: self.mark,
            last_window: self.last_window,
            last_scale: self.last_scale,
            last_flags: self.last_flags,
            last_ack: self.last_ack,
            assigned: FlowAssigned::default(),
        };
        (key, record, warm)
    }
}

#[cfg(test)]
mod tests {
    use keepstate_engine::tuple::Side;

    use super::*;

    fn entry(protocol: u8, destination_port: u16) -> listing::Entry {
        let tuple = Tuple {
            family: Family::V4,
            source: [0x0a00_0001, 0, 0, 0],
            destination: [0x0a00_0005, 0, 0, 0],
            source_port: 4000,
            destination_port,
            protocol,
            zone: 7,
        };
        let oriented = if is_icmp(protocol) {
            tuple.orient_query(Side::First)
        } else {
            tuple.orient()
        };
        let record = Record {
            status: ASSURED | SEEN_REPLY,
            tcp_state: TcpState::CloseWait,
            ..Record::EMPTY
        };
        let warm = Warm {
            mark: 9,
            ..Warm::default()
        };
        listing::Entry::new(&oriented.key, &record, &warm, Tick(0))
    }

    #[test]
    fn the_lines_are_the_same_before_and_after_the_socket() {
        for (protocol, port) in [
            (TCP, 22),
            (UDP, 53),
            (1, 0x0800),
            (GRE, 5),
            (SCTP, 9),
            (50, 0),
        ] {
            let before = entry(protocol, port);
            let flow = Flow::from_listing(&before);
            let text = serde_json::to_string(&flow).unwrap();
            let after: Flow = serde_json::from_str(&text).unwrap();
            let after = after.to_listing();
            // ESP and the like have no state, whatever a record says.
            assert_eq!(
                before.conntrack().to_string(),
                after.conntrack().to_string()
            );
            assert_eq!(before.proc().to_string(), after.proc().to_string());
        }
    }
}
