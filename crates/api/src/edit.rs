//! Flows that are made and changed by hand.

use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use crate::filter::FlowStatus;
use crate::message::Query;

/// A record to be made.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NewFlow {
    /// The first packet of the flow.
    pub first: Query,
    pub seconds: u32,
    #[serde(default)]
    pub status: Vec<FlowStatus>,
    #[serde(default)]
    pub mark: u32,
    /// Name of a state of TCP or SCTP.
    #[serde(default)]
    pub state: Option<String>,
    /// SCTP's verification tags, of the original direction and of the reply direction.
    #[serde(default)]
    pub tags: [u32; 2],
    /// Numbers of labels.
    #[serde(default)]
    pub labels: Vec<u16>,
}

/// What becomes of records; what is not named stays.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct FlowChange {
    pub seconds: Option<u32>,
    /// Bits to be set; nothing clears one.
    pub status: Vec<FlowStatus>,
    pub mark: Option<MarkChange>,
    /// Name of a state of TCP or SCTP.
    pub state: Option<String>,
    /// SCTP's verification tags.
    pub tags: [Option<u32>; 2],
    /// Numbers of labels that are set, and of those that are cleared.
    pub labels: [Vec<u16>; 2],
}

/// The mark's bits in `clear` are cleared, then those in `flip` are flipped.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MarkChange {
    pub clear: u32,
    pub flip: u32,
}

/// An expectation to be made for a flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NewExpectation {
    /// A packet of the flow that it belongs to.
    pub master: Query,
    /// The packet that is expected.
    pub expected: Query,
    /// Which bits of its source count.
    pub source_mask: IpAddr,
    pub port_mask: u16,
}

/// Why a record was not made, found or changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Unable {
    /// There is one of that name.
    Exists,
    Missing,
    /// Records do not hold it.
    Unsupported,
    /// It cannot be changed by hand, or packets kept changing the record.
    Busy,
    /// The table is full.
    Full,
    /// Not the name of a flow.
    Invalid,
}
