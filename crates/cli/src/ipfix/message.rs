//! IPFIX messages (RFC 7011) with biflow records (RFC 5103). All numbers are in network byte order.

use std::net::IpAddr;

use keepstate_api::{Endpoints, Event};

/// What fits into a packet of an Ethernet with tunnels.
const MESSAGE_BYTES_MAX: usize = 1400;

const VERSION: u16 = 10;
const HEADER_BYTES: usize = 16;
const SET_HEADER_BYTES: usize = 4;
const TEMPLATE_SET: u16 = 2;

/// Templates have numbers from here on: the bits of a [`Shape`] are added.
const FIRST_TEMPLATE: u16 = 256;

/// Elements with this bit are followed by the number of who has defined them.
const OF_ENTERPRISE: u16 = 1 << 15;

/// What makes an element one of the reverse direction (RFC 5103 section 6.1).
const REVERSE: u32 = 29_305;

/// `flowEndReason` (RFC 5102 section 5.11.3).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
enum EndReason {
    Idle = 1,
    EndDetected = 3,
    Forced = 4,
    LackOfResources = 5,
}

/// Which fields a record has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Shape {
    is_v6: bool,
    has_counters: bool,
    has_start: bool,
}

impl Shape {
    fn all() -> impl Iterator<Item = Self> {
        (0..8).map(|bits: u8| Self {
            is_v6: bits & 1 != 0,
            has_counters: bits & 2 != 0,
            has_start: bits & 4 != 0,
        })
    }

    const fn template(self) -> u16 {
        FIRST_TEMPLATE
            + self.is_v6 as u16
            + self.has_counters as u16 * 2
            + self.has_start as u16 * 4
    }

    /// Element, its bytes, and whether it is one of the reverse direction; in the order of [`Record::write`].
    fn fields(self) -> Vec<(u16, u16, bool)> {
        let mut fields = match self.is_v6 {
            // sourceIPv6Address, destinationIPv6Address
            true => vec![(27, 16, false), (28, 16, false)],
            // sourceIPv4Address, destinationIPv4Address
            false => vec![(8, 4, false), (12, 4, false)],
        };
        // sourceTransportPort, destinationTransportPort, protocolIdentifier
        fields.extend([(7, 2, false), (11, 2, false), (4, 1, false)]);
        // flowEndReason, flowEndMilliseconds
        fields.extend([(136, 1, false), (153, 8, false)]);
        if self.has_counters {
            // octetDeltaCount, packetDeltaCount
            fields.extend([(1, 8, false), (2, 8, false), (1, 8, true), (2, 8, true)]);
        }
        if self.has_start {
            // flowStartMilliseconds
            fields.push((152, 8, false));
        }
        fields
    }

    fn bytes(self) -> usize {
        self.fields()
            .iter()
            .map(|(_, bytes, _)| usize::from(*bytes))
            .sum()
    }
}

/// A flow that has ended.
pub(super) struct Record {
    addresses: [IpAddr; 2],
    ports: [u16; 2],
    protocol: u8,
    reason: EndReason,
    ended_ms: u64,
    /// Bytes and packets, of the direction that began and of the other.
    counters: Option<[[u64; 2]; 2]>,
    started_ms: Option<u64>,
}

impl Record {
    pub(super) fn of(event: &Event) -> Self {
        let flow = &event.flow;
        let counted = |ends: &Endpoints| Some([ends.bytes?, ends.packets?]);
        let counters = counted(&flow.original).zip(counted(&flow.reply));
        Self {
            addresses: [flow.original.source, flow.original.destination],
            ports: ports(&flow.original),
            protocol: flow.protocol,
            reason: end_reason(event),
            ended_ms: event.time_ns / 1_000_000,
            counters: counters.map(|(original, reply)| [original, reply]),
            started_ms: flow.started_ns.map(|started| started / 1_000_000),
        }
    }

    fn shape(&self) -> Shape {
        Shape {
            is_v6: self.addresses.iter().any(IpAddr::is_ipv6),
            has_counters: self.counters.is_some(),
            has_start: self.started_ms.is_some(),
        }
    }

    fn write(&self, to: &mut Vec<u8>) {
        for address in &self.addresses {
            match address {
                IpAddr::V4(address) => to.extend(address.octets()),
                IpAddr::V6(address) => to.extend(address.octets()),
            }
        }
        for port in self.ports {
            to.extend(port.to_be_bytes());
        }
        to.extend([self.protocol, self.reason as u8]);
        to.extend(self.ended_ms.to_be_bytes());
        for counter in self.counters.iter().flatten().flatten() {
            to.extend(counter.to_be_bytes());
        }
        if let Some(started) = self.started_ms {
            to.extend(started.to_be_bytes());
        }
    }
}

/// Ports; of ICMP type and code in place of the destination's, as collectors of NetFlow expect it.
fn ports(ends: &Endpoints) -> [u16; 2] {
    if let Some(icmp) = &ends.icmp {
        return [0, u16::from(icmp.kind) << 8 | u16::from(icmp.code)];
    }
    [ends.source_port, ends.destination_port].map(Option::unwrap_or_default)
}

fn end_reason(event: &Event) -> EndReason {
    const CLOSED: [&str; 4] = ["TIME_WAIT", "CLOSE", "LAST_ACK", "SHUTDOWN_ACK_SENT"];
    let flow = &event.flow;
    let state = flow.protocol_state();
    match () {
        () if event.by.is_some() => EndReason::Forced,
        () if state.is_some_and(|state| CLOSED.contains(&state)) => EndReason::EndDetected,
        // It was not over yet: another took its place.
        () if flow.seconds_left != 0 => EndReason::LackOfResources,
        () => EndReason::Idle,
    }
}

/// A message that is being put together.
pub(super) struct Message {
    domain: u32,
    /// Records in all messages so far.
    sequence: u32,
    body: Vec<u8>,
    records: u32,
    /// Template of the set at the end of the body, and where it begins.
    open: Option<(u16, usize)>,
}

impl Message {
    pub(super) const fn new(domain: u32) -> Self {
        Self {
            domain,
            sequence: 0,
            body: Vec::new(),
            records: 0,
            open: None,
        }
    }

    /// Describes all records that there may be.
    pub(super) fn add_templates(&mut self) {
        self.begin(TEMPLATE_SET);
        for shape in Shape::all() {
            let fields = shape.fields();
            self.body.extend(shape.template().to_be_bytes());
            self.body.extend((fields.len() as u16).to_be_bytes());
            for (element, bytes, is_reverse) in fields {
                let flag = if is_reverse { OF_ENTERPRISE } else { 0 };
                self.body.extend((element | flag).to_be_bytes());
                self.body.extend(bytes.to_be_bytes());
                if is_reverse {
                    self.body.extend(REVERSE.to_be_bytes());
                }
            }
        }
        self.end();
    }

    /// Adds a record; `false` when there is no room left.
    pub(super) fn add(&mut self, record: &Record) -> bool {
        let shape = record.shape();
        let is_open = self.open.is_some_and(|(set, _)| set == shape.template());
        let header = if is_open { 0 } else { SET_HEADER_BYTES };
        let bytes = HEADER_BYTES + self.body.len() + header + shape.bytes();
        if bytes > MESSAGE_BYTES_MAX {
            return false;
        }
        if !is_open {
            self.end();
            self.begin(shape.template());
        }
        record.write(&mut self.body);
        self.records += 1;
        true
    }

    /// Records that it holds.
    pub(super) const fn records(&self) -> u32 {
        self.records
    }

    /// The message, unless it is empty; the next one begins. `time` is in seconds since 1970.
    pub(super) fn take(&mut self, time: u32) -> Option<Vec<u8>> {
        self.end();
        if self.body.is_empty() {
            return None;
        }
        let mut message = Vec::with_capacity(HEADER_BYTES + self.body.len());
        message.extend(VERSION.to_be_bytes());
        message.extend(((HEADER_BYTES + self.body.len()) as u16).to_be_bytes());
        message.extend(time.to_be_bytes());
        message.extend(self.sequence.to_be_bytes());
        message.extend(self.domain.to_be_bytes());
        message.append(&mut self.body);
        self.sequence = self.sequence.wrapping_add(self.records);
        self.records = 0;
        Some(message)
    }

    fn begin(&mut self, set: u16) {
        self.open = Some((set, self.body.len()));
        self.body.extend(set.to_be_bytes());
        self.body.extend([0; 2]);
    }

    fn end(&mut self) {
        if let Some((_, begun)) = self.open.take() {
            let length = (self.body.len() - begun) as u16;
            self.body[begun + 2..begun + 4].copy_from_slice(&length.to_be_bytes());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(address: &str) -> Record {
        let address: IpAddr = address.parse().unwrap();
        Record {
            addresses: [address; 2],
            ports: [1000, 53],
            protocol: 17,
            reason: EndReason::Idle,
            ended_ms: 2,
            counters: Some([[3, 4], [5, 6]]),
            started_ms: Some(1),
        }
    }

    #[test]
    fn records_are_as_long_as_their_templates_say() {
        for counters in [None, Some([[3, 4], [5, 6]])] {
            for started_ms in [None, Some(1)] {
                for address in ["10.0.0.1", "2001:db8::1"] {
                    let record = Record {
                        counters,
                        started_ms,
                        ..record(address)
                    };
                    let mut bytes = Vec::new();
                    record.write(&mut bytes);
                    assert_eq!(bytes.len(), record.shape().bytes());
                }
            }
        }
    }

    #[test]
    fn messages_are_bounded_and_say_how_many_records_came_before() {
        let mut message = Message::new(7);
        message.add_templates();
        let mut taken = 0;
        while message.add(&record(["10.0.0.1", "2001:db8::1"][taken % 2])) {
            taken += 1;
        }
        assert!(taken > 5);
        let first = message.take(1).unwrap();
        assert!(first.len() <= MESSAGE_BYTES_MAX);
        let word =
            |bytes: &[u8], at: usize| u32::from_be_bytes(bytes[at..at + 4].try_into().unwrap());
        assert_eq!(
            first[..4],
            [0, 10, (first.len() >> 8) as u8, first.len() as u8]
        );
        assert_eq!([4, 8, 12].map(|at| word(&first, at)), [1, 0, 7]);
        assert!(message.take(1).is_none());
        assert!(message.add(&record("10.0.0.1")));
        let second = message.take(2).unwrap();
        assert_eq!(word(&second, 8), taken as u32);
    }
}
