//! Flows that are expected.

use std::net::IpAddr;

use keepstate_engine::expect::{self, ANY_SOURCE, ANY_SOURCE_PORT, PERMANENT};
use keepstate_engine::helper;
use keepstate_engine::time::Tick;
use keepstate_engine::tuple::Family;
use keepstate_listing as listing;
use serde::{Deserialize, Serialize};

use crate::filter::{AddressFilter, prefix_mask};

/// A flow that a helper expects.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Expectation {
    pub protocol: u8,
    pub zone: u16,
    /// Its first packet.
    pub expected: Ends,
    #[serde(default)]
    pub any_source: bool,
    #[serde(default)]
    pub any_source_port: bool,
    /// Which bits of the source's address and port count, for one that was made by hand.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub source_mask: Option<IpAddr>,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub source_port_mask: Option<u16>,
    #[serde(default)]
    pub permanent: bool,
    /// Of SIP: 1 audio, 2 video, 3 image; else 0.
    #[serde(default)]
    pub class: u8,
    /// The first packet of the flow that it belongs to.
    pub master: Ends,
    pub helper: String,
    pub seconds_left: u32,
}

/// Addresses and ports of a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ends {
    pub source: IpAddr,
    pub destination: IpAddr,
    pub source_port: u16,
    pub destination_port: u16,
}

impl Expectation {
    pub fn new(expectation: &expect::Expectation, now: Tick) -> Self {
        let address = |words| listing::address(expectation.family, words);
        let master = expectation.master.tuple(expectation.master_originator);
        let is_by_hand = expectation.is_by_hand();
        let name = helper::numbered(expectation.helper).map_or("unknown", |helper| helper.name);
        Self {
            protocol: expectation.protocol,
            zone: expectation.zone,
            expected: Ends {
                source: address(&expectation.source),
                destination: address(&expectation.destination),
                source_port: expectation.source_port,
                destination_port: expectation.destination_port,
            },
            any_source: expectation.flags & ANY_SOURCE != 0,
            any_source_port: expectation.flags & ANY_SOURCE_PORT != 0,
            source_mask: is_by_hand.then(|| address(&expectation.source_mask)),
            source_port_mask: is_by_hand.then_some(expectation.port_mask),
            permanent: expectation.flags & PERMANENT != 0,
            class: expectation.class(),
            master: Ends {
                source: address(&master.source),
                destination: address(&master.destination),
                source_port: master.source_port,
                destination_port: master.destination_port,
            },
            helper: name.to_owned(),
            seconds_left: expectation.deadline.seconds_left(now),
        }
    }

    pub const fn family(&self) -> Family {
        match self.expected.destination {
            IpAddr::V4(_) => Family::V4,
            IpAddr::V6(_) => Family::V6,
        }
    }

    /// Whether a packet with these addresses would be the expected one.
    pub fn is_met_by(&self, packet: &Ends, protocol: u8) -> bool {
        let Self { expected, .. } = self;
        protocol == self.protocol
            && expected.destination == packet.destination
            && expected.destination_port == packet.destination_port
            && self.source().contains(packet.source)
            && (expected.source_port ^ packet.source_port) & self.port_mask() == 0
    }

    fn source(&self) -> AddressFilter {
        let source = self.expected.source;
        let whole = AddressFilter::from(source);
        match self.source_mask {
            Some(mask) => AddressFilter::with_mask(source, mask).unwrap_or(whole),
            None if self.any_source => prefix_mask(source.is_ipv4(), 0)
                .and_then(|mask| AddressFilter::with_mask(source, mask))
                .unwrap_or(whole),
            None => whole,
        }
    }

    /// Which bits of the source's address and of its port count.
    pub fn masks(&self) -> (IpAddr, u16) {
        (self.source().mask(), self.port_mask())
    }

    const fn port_mask(&self) -> u16 {
        match self.source_port_mask {
            Some(mask) => mask,
            None if self.any_source_port => 0,
            None => u16::MAX,
        }
    }

    /// What is needed to print it as conntrack does.
    pub fn to_listing(&self) -> listing::Expectation {
        let packet = |ends: &Ends| listing::Packet {
            source: ends.source,
            destination: ends.destination,
            source_port: ends.source_port,
            destination_port: ends.destination_port,
        };
        listing::Expectation {
            protocol: self.protocol,
            expected: packet(&self.expected),
            source_mask: self.source().mask(),
            source_port_mask: self.port_mask(),
            master: packet(&self.master),
            seconds_left: self.seconds_left,
            class: self.class,
            is_permanent: self.permanent,
            helper: self.helper.clone(),
        }
    }
}
