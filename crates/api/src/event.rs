//! Things that happen to packets and flows.

use std::fmt::{self, Display, Formatter};

use serde::{Deserialize, Serialize};

use crate::expectation::Expectation;
use crate::flow::Flow;

/// What happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum EventKind {
    New,
    Update,
    Destroy,
    /// A packet was dropped.
    Drop,
    /// A packet was INVALID, and passed all the same.
    Invalid,
    /// A flow is expected, or is not any more.
    Expected,
    Unexpected,
}

impl EventKind {
    /// As `conntrack -E` marks a line.
    pub const fn mark(self) -> &'static str {
        match self {
            Self::New => "[NEW]",
            Self::Update => "[UPDATE]",
            Self::Destroy => "[DESTROY]",
            Self::Drop => "[DROP]",
            Self::Invalid => "[INVALID]",
            Self::Expected => "[NEW]",
            Self::Unexpected => "[DESTROY]",
        }
    }

    /// Whether an expectation is told of.
    pub const fn is_of_expectation(self) -> bool {
        matches!(self, Self::Expected | Self::Unexpected)
    }

    /// Whether a packet is told of, and not a flow.
    pub const fn is_of_packet(self) -> bool {
        matches!(self, Self::Drop | Self::Invalid)
    }
}

/// Which events a client wants.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum EventKinds {
    All,
    /// New, changed and ended flows.
    Flows,
    /// Dropped and INVALID packets.
    Drops,
    /// Expectations that are made and that end.
    Expectations,
}

impl EventKinds {
    pub const fn includes(self, kind: EventKind) -> bool {
        match self {
            Self::All => !kind.is_of_expectation(),
            Self::Flows => !kind.is_of_packet() && !kind.is_of_expectation(),
            Self::Drops => kind.is_of_packet(),
            Self::Expectations => kind.is_of_expectation(),
        }
    }
}

/// One event.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Event {
    /// Nanoseconds since 1970, when the daemon read it.
    pub time_ns: u64,
    pub kind: EventKind,
    /// The flow; for a packet, the flow it belongs to or would begin, seen from its sender.
    pub flow: Flow,
    /// What the packet that caused this was.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub packet: Option<PacketEvent>,
    /// For an expectation; the flow is then the one that it belongs to.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub expectation: Option<Expectation>,
    /// The program that made, changed or removed the flow by hand.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub by: Option<Program>,
}

/// A client of the daemon.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Program {
    pub pid: u32,
    /// `None` when it was gone before it could be asked for.
    pub name: Option<String>,
}

/// The packet of an event.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PacketEvent {
    pub state: String,
    pub verdict: String,
    pub reason: Option<String>,
    pub chain: Option<String>,
    /// Number of the rule in its chain; `None` for the chain's policy, or no rule at all.
    pub rule: Option<u32>,
    pub length: u32,
    /// For a segment out of window.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub window: Option<WindowEvent>,
}

/// The numbers of a segment that was refused for them, and what they were held against, modulo 2^32:
/// `sequence <= upper`, `end >= lower`, `ack <= ack_upper`. The lower bound of a RST is what its
/// receiver has acknowledged, and its sequence number is held against it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct WindowEvent {
    pub sequence: u32,
    pub end: u32,
    pub lower: u32,
    pub upper: u32,
    /// The highest number acknowledged, selectively or not.
    pub ack: u32,
    pub ack_upper: u32,
}

impl Display for PacketEvent {
    /// As `key=value` words.
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let reason = self.reason.as_deref().unwrap_or("none");
        write!(f, "state={} reason={reason}", self.state)?;
        if let Some(chain) = &self.chain {
            match self.rule {
                Some(rule) => write!(f, " rule={chain}:{rule}")?,
                None => write!(f, " rule={chain}:policy")?,
            }
        }
        write!(f, " len={}", self.length)?;
        if let Some(window) = &self.window {
            let WindowEvent {
                sequence,
                end,
                lower,
                upper,
                ack,
                ack_upper,
            } = window;
            write!(
                f,
                " seq={sequence} end={end} window={lower}..{upper} ack={ack} ack_max={ack_upper}"
            )?;
        }
        Ok(())
    }
}
