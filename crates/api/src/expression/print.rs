//! An expression in words that [`super::parse`] reads as the same.

use std::fmt::{self, Display, Formatter};

use keepstate_engine::tuple::Family;
use keepstate_listing::protocol_name;

use super::{End, Expression, Field, Flag, Numbers, Term};
use crate::event::EventKind;

impl Display for Expression {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self {
            Self::Term(term) => term.fmt(f),
            Self::Not(inner) => match **inner {
                Self::Term(_) | Self::Not(_) => write!(f, "not {inner}"),
                Self::And(_) | Self::Or(_) => write!(f, "not ({inner})"),
            },
            Self::And(parts) => joined(f, parts, " and "),
            Self::Or(parts) => joined(f, parts, " or "),
        }
    }
}

fn joined(f: &mut Formatter<'_>, parts: &[Expression], word: &str) -> fmt::Result {
    for (index, part) in parts.iter().enumerate() {
        if index != 0 {
            f.write_str(word)?;
        }
        match part {
            Expression::Term(_) | Expression::Not(_) => part.fmt(f)?,
            Expression::And(_) | Expression::Or(_) => write!(f, "({part})")?,
        }
    }
    Ok(())
}

impl Display for Term {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self {
            Self::Protocol(protocol) => match protocol_name(*protocol) {
                "unknown" => write!(f, "proto {protocol}"),
                name => write!(f, "proto {name}"),
            },
            Self::Family(Family::V4) => f.write_str("ipv4"),
            Self::Family(Family::V6) => f.write_str("ipv6"),
            Self::Address(End::Either, address) => write!(f, "host {address}"),
            Self::Address(end, address) => write!(f, "{end} {address}"),
            Self::Port(End::Either, numbers) => write!(f, "port {numbers}"),
            Self::Port(end, numbers) => write!(f, "{end} port {numbers}"),
            Self::Number(field, numbers) => write!(f, "{field} {numbers}"),
            Self::Mark(mark) if mark.mask == u32::MAX => write!(f, "mark {:#x}", mark.value),
            Self::Mark(mark) => write!(f, "mark {:#x}/{:#x}", mark.value, mark.mask),
            Self::ProtocolState(state) => write!(f, "state {}", state.to_ascii_lowercase()),
            Self::PacketState(state) => write!(f, "ctstate {}", state.name().to_ascii_lowercase()),
            Self::Flag(flag) => flag.fmt(f),
            Self::Helper(name) => write!(f, "helper {name}"),
            Self::Event(kind) => write!(f, "event {}", event_name(*kind)),
            Self::Verdict(verdict) => {
                write!(f, "verdict {}", verdict.name().to_ascii_lowercase())
            }
            Self::Reason(pattern) => write!(f, "reason {pattern}"),
            Self::Chain(chain) => write!(f, "chain {chain}"),
        }
    }
}

const fn event_name(kind: EventKind) -> &'static str {
    match kind {
        EventKind::New | EventKind::Expected => "new",
        EventKind::Update => "update",
        EventKind::Destroy | EventKind::Unexpected => "destroy",
        EventKind::Drop => "drop",
        EventKind::Invalid => "invalid",
    }
}

impl Display for End {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Source => "src",
            Self::Destination => "dst",
            Self::Either => "host",
        })
    }
}

impl Display for Field {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Packets => "packets",
            Self::Bytes => "bytes",
            Self::Zone => "zone",
            Self::Left => "left",
            Self::Rule => "rule",
            Self::Length => "length",
        })
    }
}

impl Display for Flag {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Replied => "replied",
            Self::Unreplied => "unreplied",
            Self::Assured => "assured",
            Self::Expected => "expected",
        })
    }
}

impl Display for Numbers {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ranges(ranges) => {
                for (index, (first, last)) in ranges.iter().enumerate() {
                    let comma = if index == 0 { "" } else { "," };
                    match first == last {
                        true => write!(f, "{comma}{first}")?,
                        false => write!(f, "{comma}{first}-{last}")?,
                    }
                }
                Ok(())
            }
            Self::Not(number) => write!(f, "!= {number}"),
            Self::Below(number) => write!(f, "< {number}"),
            Self::Above(number) => write!(f, "> {number}"),
            Self::AtMost(number) => write!(f, "<= {number}"),
            Self::AtLeast(number) => write!(f, ">= {number}"),
        }
    }
}
