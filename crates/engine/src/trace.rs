//! Steps of a packet's way, told to [`crate::host::Host::trace`] for `keepstate explain`.

use crate::conntrack::sctp::SctpState;
use crate::conntrack::tcp::TcpState;
use crate::record::Record;
use crate::tuple::{Direction, Oriented, Tuple};
use crate::verdict::{Hook, Reason, State, Verdict};
use crate::wire::PacketInfo;

/// One step, in the order in which they happen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// The headers were read.
    Parsed(PacketInfo),
    /// Not IP, or damaged.
    NotParsed(Option<Reason>),
    /// Its sender is banned.
    Banned,
    /// It is refused before the rules, by a limit or its form.
    Refused(Reason),
    /// The flow's name.
    Named(Tuple, Oriented),
    /// A record was found, and the packet's direction in it.
    Found(Record, Direction),
    /// There is no record.
    NotFound,
    /// The helper with this number foretold the flow.
    Foretold(u8),
    /// An ICMP error quotes this tuple.
    Quoted(Tuple),
    /// The TCP state machine went on.
    TcpState(TcpState, TcpState),
    /// The SCTP state machine went through a packet's chunks.
    SctpState(SctpState, SctpState),
    /// A segment was held against the windows.
    Windowed(WindowCheck),
    /// State decided.
    State(State, Option<Reason>),
    /// Rules are walked from this chain.
    Chain(Hook),
    /// A rule was tried.
    Rule(u32, RuleTrial),
    /// Rules say that the flow is one of this zone.
    Zone(u16),
    /// The outcome was remembered from an earlier packet.
    Cached(u32),
    /// A record was made.
    Inserted,
    /// The flow's helper expects a flow to this port.
    Expects(u16),
    /// The end.
    Verdict(Verdict),
}

/// The arithmetic of the window check: the conditions are `sequence <= upper`, `end >= lower`,
/// `ack <= ack_upper` and `ack >= ack_lower`, modulo 2^32.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct WindowCheck {
    pub sequence: u32,
    pub end: u32,
    /// Highest right edge of a SACK block, or the acknowledgement.
    pub ack: u32,
    pub upper: u32,
    pub lower: u32,
    pub ack_upper: u32,
    pub ack_lower: u32,
}

/// Why a rule matched or did not: the first field that differed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RuleTrial {
    Matched,
    Source,
    Destination,
    Protocol,
    SourcePort,
    DestinationPort,
    InInterface,
    OutInterface,
    State,
    /// Its own fields matched, and its condition of this number did not hold.
    Condition(u32),
}
