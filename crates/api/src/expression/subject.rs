//! What an expression is held against.

use std::net::IpAddr;

use keepstate_engine::record::{ASSURED, EXPECTED, SEEN_REPLY};
use keepstate_engine::tuple::{Family, Tuple};
use keepstate_engine::verdict::State;
use keepstate_listing as listing;

use super::{Field, Flag, OfSource};
use crate::event::{Event, EventKind, PacketEvent};

/// A flow, or a packet of which an event tells.
#[derive(Clone, Copy, Debug)]
pub struct Subject<'a> {
    pub(super) family: Family,
    pub(super) protocol: u8,
    zone: u16,
    addresses: [IpAddr; 2],
    ports: Option<[u16; 2]>,
    pub(super) protocol_state: Option<&'static str>,
    /// For a flow, that which the next packet of its originator would have.
    pub(super) packet_state: Option<State>,
    status: u8,
    pub(super) mark: u32,
    left: Option<u32>,
    pub(super) helper: Option<&'static str>,
    /// Packets and bytes.
    counters: Option<[u64; 2]>,
    pub(super) event: Option<EventKind>,
    pub(super) verdict: Option<&'a str>,
    pub(super) reason: Option<&'a str>,
    pub(super) chain: Option<&'a str>,
    rule: Option<u32>,
    length: Option<u32>,
}

impl<'a> Subject<'a> {
    pub fn of_flow(entry: &listing::Entry) -> Self {
        let tuple = entry.original();
        Self {
            family: tuple.family,
            protocol: tuple.protocol,
            zone: tuple.zone,
            addresses: [&tuple.source, &tuple.destination]
                .map(|address| listing::address(tuple.family, address)),
            ports: ports(tuple),
            protocol_state: entry.protocol_state(),
            packet_state: Some(packet_state(entry)),
            status: entry.record.status,
            mark: entry.mark,
            left: Some(entry.seconds_left),
            helper: entry.helper,
            counters: entry.counters.map(|[original, reply]| {
                [
                    original.packets.saturating_add(reply.packets),
                    original.bytes.saturating_add(reply.bytes),
                ]
            }),
            event: None,
            verdict: None,
            reason: None,
            chain: None,
            rule: None,
            length: None,
        }
    }

    /// Of a flow that began, changed or ended, or of a packet, which has no more than its addresses
    /// and what became of it.
    pub fn of_event(event: &'a Event) -> Self {
        let flow = Self {
            event: Some(event.kind),
            ..Self::of_flow(&event.flow.to_listing())
        };
        let Some(packet) = &event.packet else {
            return flow;
        };
        Self {
            protocol_state: None,
            packet_state: state_named(&packet.state),
            left: None,
            verdict: Some(&packet.verdict),
            reason: packet.reason.as_deref(),
            chain: packet.chain.as_deref(),
            rule: packet.rule,
            length: Some(packet.length),
            ..flow
        }
    }

    /// Of a packet by its tuple.
    pub fn of_packet(tuple: &Tuple, packet: &'a PacketEvent) -> Self {
        let event = match (&*packet.verdict, state_named(&packet.state)) {
            ("ACCEPT", Some(State::Invalid)) => Some(EventKind::Invalid),
            ("ACCEPT", _) => None,
            _ => Some(EventKind::Drop),
        };
        Self {
            family: tuple.family,
            protocol: tuple.protocol,
            zone: tuple.zone,
            addresses: [&tuple.source, &tuple.destination]
                .map(|address| listing::address(tuple.family, address)),
            ports: ports(tuple),
            protocol_state: None,
            packet_state: state_named(&packet.state),
            status: 0,
            mark: 0,
            left: None,
            helper: None,
            counters: None,
            event,
            verdict: Some(&packet.verdict),
            reason: packet.reason.as_deref(),
            chain: packet.chain.as_deref(),
            rule: packet.rule,
            length: Some(packet.length),
        }
    }

    pub(super) const fn address(&self, of_source: OfSource) -> IpAddr {
        let [source, destination] = self.addresses;
        match of_source {
            OfSource::Yes => source,
            OfSource::No => destination,
        }
    }

    pub(super) fn port(&self, of_source: OfSource) -> Option<u16> {
        let [source, destination] = self.ports?;
        Some(match of_source {
            OfSource::Yes => source,
            OfSource::No => destination,
        })
    }

    pub(super) fn number(&self, field: Field) -> Option<u64> {
        match field {
            Field::Packets => self.counters.map(|[packets, _]| packets),
            Field::Bytes => self.counters.map(|[_, bytes]| bytes),
            Field::Zone => Some(u64::from(self.zone)),
            Field::Left => self.left.map(u64::from),
            Field::Rule => self.rule.map(u64::from),
            Field::Length => self.length.map(u64::from),
        }
    }

    pub(super) const fn has(&self, flag: Flag) -> bool {
        // A packet is neither answered nor unanswered.
        if self.left.is_none() {
            return false;
        }
        match flag {
            Flag::Replied => self.status & SEEN_REPLY != 0,
            Flag::Unreplied => self.status & SEEN_REPLY == 0,
            Flag::Assured => self.status & ASSURED != 0,
            Flag::Expected => self.status & EXPECTED != 0,
        }
    }
}

/// Ports, or calls of PPTP's GRE.
const fn ports(tuple: &Tuple) -> Option<[u16; 2]> {
    const PORTED: [u8; 6] = [6, 17, 33, 47, 132, 136];
    let mut index = 0;
    while index < PORTED.len() {
        if PORTED[index] == tuple.protocol {
            return Some([tuple.source_port, tuple.destination_port]);
        }
        index += 1;
    }
    None
}

const fn packet_state(entry: &listing::Entry) -> State {
    if entry.record.status & SEEN_REPLY != 0 {
        State::Established
    } else if entry.record.status & EXPECTED != 0 {
        State::Related
    } else {
        State::New
    }
}

fn state_named(name: &str) -> Option<State> {
    let states = [
        State::None,
        State::Invalid,
        State::New,
        State::Established,
        State::Related,
        State::Untracked,
    ];
    states.into_iter().find(|state| state.name() == name)
}
