//! A look at the whole table that is short however many flows there are.

use std::collections::BTreeMap;
use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use crate::flow::Flow;

/// Flows and sources that one survey may name.
pub const SURVEY_COUNT_MAX: u32 = 1000;

/// Which flows come first.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Order {
    /// Most bytes, both directions together; all are alike where flows are not counted.
    #[default]
    Bytes,
    Packets,
    /// Longest before they end: among flows of one kind, those that last had a packet.
    Left,
    /// Latest began; all are alike where start times are not kept.
    Started,
}

/// What a walk through the table found. While the table changes its size a flow that moves may be
/// met twice or not at all.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Survey {
    /// Flows that the filter fits.
    pub flows: u64,
    /// Of these, such as nothing has answered.
    pub unreplied: u64,
    pub assured: u64,
    /// Sums over them, where flows are counted.
    pub packets: u64,
    pub bytes: u64,
    /// States of TCP and SCTP.
    pub states: BTreeMap<String, u64>,
    /// Protocols by name.
    pub protocols: BTreeMap<String, u64>,
    /// The first flows in the order that was asked for.
    pub top: Vec<Flow>,
    /// The sources with most flows, the first first.
    pub sources: Vec<Source>,
    /// The numbers of `sources` may be lower than the truth by so many flows: where more
    /// sources are in the table than can be told apart, rare ones are forgotten.
    pub sources_slack: u64,
    /// What the walk took.
    pub milliseconds: u64,
}

/// All flows that one address began.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Source {
    pub address: IpAddr,
    pub flows: u64,
    pub unreplied: u64,
    pub packets: u64,
    pub bytes: u64,
}
