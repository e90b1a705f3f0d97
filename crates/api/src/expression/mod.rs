//! The filter language: one for flows, for events and for every screen. See `docs/filters.md`.
//!
//! ```text
//! expression := and ("or" and)*
//! and        := not ("and" not)*
//! not        := "not" not | "(" expression ")" | term
//! ```

mod lexer;
mod parse;
mod print;
mod subject;
#[cfg(test)]
mod tests;

use std::str::FromStr;

use keepstate_engine::tuple::Family;
use keepstate_engine::verdict::{State, Verdict};
use serde::{Deserialize, Serialize};

pub use self::subject::Subject;
use crate::event::EventKind;
use crate::filter::{AddressFilter, MarkFilter};

/// Longest expression: some hundred terms, and little work for a flow.
pub const EXPRESSION_BYTES_MAX: usize = 4096;

/// How deep brackets and `not` may lie within each other: each is a frame of the parser's stack.
pub const EXPRESSION_DEPTH_MAX: u32 = 64;

/// What must hold of a flow or of a packet.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum Expression {
    Term(Term),
    Not(Box<Self>),
    /// All of them; never empty.
    And(Vec<Self>),
    /// One of them at least; never empty.
    Or(Vec<Self>),
}

/// One condition. What something does not have fits no condition on it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Term {
    Protocol(u8),
    Family(Family),
    Address(End, AddressFilter),
    Port(End, Numbers),
    Number(Field, Numbers),
    Mark(MarkFilter),
    /// Name of a state of TCP or SCTP.
    ProtocolState(&'static str),
    PacketState(State),
    Flag(Flag),
    Helper(String),
    Event(EventKind),
    Verdict(Verdict),
    /// Name of a reason; with `*` at its end, all that begin so.
    Reason(String),
    Chain(String),
}

/// Whose address or port: for a flow, of its first packet's sender or receiver.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    Source,
    Destination,
    Either,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Field {
    /// Of both directions together, where flows are counted.
    Packets,
    Bytes,
    Zone,
    /// Seconds until the flow ends unless a packet comes.
    Left,
    /// Number of the rule in its chain.
    Rule,
    /// Bytes of the packet.
    Length,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Flag {
    Replied,
    Unreplied,
    Assured,
    Expected,
}

/// Which numbers fit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Numbers {
    /// Within one of these, bounds included.
    Ranges(Vec<(u64, u64)>),
    Not(u64),
    Below(u64),
    Above(u64),
    AtMost(u64),
    AtLeast(u64),
}

/// What is wrong with an expression, and where.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("column {column}: {message}")]
pub struct ExpressionError {
    /// In characters, from 1.
    pub column: u32,
    pub message: String,
}

impl Expression {
    pub fn matches(&self, subject: &Subject<'_>) -> bool {
        match self {
            Self::Term(term) => term.matches(subject),
            Self::Not(inner) => !inner.matches(subject),
            Self::And(parts) => parts.iter().all(|part| part.matches(subject)),
            Self::Or(parts) => parts.iter().any(|part| part.matches(subject)),
        }
    }

    /// The first term that no flow has: it asks for a packet or for what happened.
    pub fn of_packets_alone(&self) -> Option<&Term> {
        match self {
            Self::Term(term) => term.is_of_packets_alone().then_some(term),
            Self::Not(inner) => inner.of_packets_alone(),
            Self::And(parts) | Self::Or(parts) => parts.iter().find_map(Self::of_packets_alone),
        }
    }

    /// Both must hold.
    #[must_use]
    pub fn and(self, other: Self) -> Self {
        Self::And(vec![self, other])
    }
}

impl Term {
    const fn is_of_packets_alone(&self) -> bool {
        matches!(
            self,
            Self::Event(_)
                | Self::Verdict(_)
                | Self::Reason(_)
                | Self::Chain(_)
                | Self::Number(Field::Rule | Field::Length, _)
        )
    }

    fn matches(&self, subject: &Subject<'_>) -> bool {
        match self {
            Self::Protocol(protocol) => subject.protocol == *protocol,
            Self::Family(family) => subject.family == *family,
            Self::Address(end, filter) => {
                end.is_met(|of_source| filter.contains(subject.address(of_source)))
            }
            Self::Port(end, numbers) => {
                end.is_met(|of_source| numbers.fit(subject.port(of_source).map(u64::from)))
            }
            Self::Number(field, numbers) => numbers.fit(subject.number(*field)),
            Self::Mark(filter) => subject.mark & filter.mask == filter.value,
            Self::ProtocolState(state) => subject.protocol_state == Some(*state),
            Self::PacketState(state) => subject.packet_state == Some(*state),
            Self::Flag(flag) => subject.has(*flag),
            Self::Helper(name) => subject.helper == Some(&**name),
            Self::Event(kind) => subject.event == Some(*kind),
            Self::Verdict(verdict) => subject.verdict == Some(verdict.name()),
            Self::Reason(pattern) => subject.reason.is_some_and(|reason| named(pattern, reason)),
            Self::Chain(chain) => subject.chain == Some(&**chain),
        }
    }
}

fn named(pattern: &str, name: &str) -> bool {
    match pattern.strip_suffix('*') {
        Some(beginning) => name.starts_with(beginning),
        None => name == pattern,
    }
}

impl End {
    fn is_met(self, fits: impl Fn(OfSource) -> bool) -> bool {
        match self {
            Self::Source => fits(OfSource::Yes),
            Self::Destination => fits(OfSource::No),
            Self::Either => fits(OfSource::Yes) || fits(OfSource::No),
        }
    }
}

/// Whether the sender's or the receiver's is meant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum OfSource {
    Yes,
    No,
}

impl Numbers {
    fn fit(&self, number: Option<u64>) -> bool {
        let Some(number) = number else {
            return false;
        };
        match self {
            Self::Ranges(ranges) => ranges
                .iter()
                .any(|(first, last)| (*first..=*last).contains(&number)),
            Self::Not(other) => number != *other,
            Self::Below(bound) => number < *bound,
            Self::Above(bound) => number > *bound,
            Self::AtMost(bound) => number <= *bound,
            Self::AtLeast(bound) => number >= *bound,
        }
    }
}

impl FromStr for Expression {
    type Err = ExpressionError;

    fn from_str(text: &str) -> Result<Self, ExpressionError> {
        parse::parse(text)
    }
}

impl TryFrom<String> for Expression {
    type Error = ExpressionError;

    fn try_from(text: String) -> Result<Self, ExpressionError> {
        text.parse()
    }
}

impl From<Expression> for String {
    fn from(expression: Expression) -> Self {
        expression.to_string()
    }
}
