//! Packets in words: `tcp 10.0.0.5:5000 > 10.0.0.1:22 syn`.
//!
//! ```text
//! expression = protocol endpoint ">" endpoint word*
//! protocol   = "tcp" | "udp" | "udplite" | "sctp" | "icmp" | "icmpv6" | "proto" NUMBER
//! endpoint   = ADDRESS | ADDRESS ":" PORT | "[" IPV6 "]" | "[" IPV6 "]:" PORT
//! word       = "syn" | "ack" | "fin" | "rst" | "psh" | "urg" | "ece" | "cwr"      tcp
//!            | "seq" NUMBER | "ackno" NUMBER | "win" NUMBER                       tcp
//!            | "init" | "init-ack" | "cookie-echo" | "cookie-ack" | "data" | "sack"
//!            | "heartbeat" | "heartbeat-ack" | "shutdown" | "shutdown-ack"
//!            | "shutdown-complete" | "abort" | "error" | "tag" NUMBER            sctp
//!            | "echo-request" | "echo-reply" | "unreachable" | "port-unreachable"
//!            | "time-exceeded" | "too-big" | "redirect"                           icmp, icmpv6
//!            | "type" NUMBER | "code" NUMBER | "id" NUMBER                        icmp, icmpv6
//!            | "quoting" expression                                               icmp, icmpv6
//!            | "len" NUMBER | "badsum"                                            any
//!            | "in" INTERFACE | "out" INTERFACE                                   any
//!            | "state" ("new" | "established" | "related") | "reply"              any
//! ```
//!
//! `state established` plays what makes the packet belong to a flow; with `reply` it is the other
//! end that began. `state related` plays the packet that an ICMP error quotes.

mod describe;
mod parse;
mod prelude;
mod sctp;

pub use self::describe::{describe, describe_ip, flag_names};

use crate::build::{ACK, Body, Packet, SYN};

/// An expression that was read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Expression {
    pub packet: Packet,
    pub in_interface: Option<String>,
    pub out_interface: Option<String>,
    pub pretended: Pretended,
    pub direction: PretendedDirection,
    /// What an ICMP error quotes.
    pub quoted: Option<Box<Packet>>,
    given: Given,
}

/// The state that a packet is to be in.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Pretended {
    /// Nothing came before.
    #[default]
    New,
    Established,
    Related,
}

/// Which end of a pretended flow sends the packet.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum PretendedDirection {
    #[default]
    Original,
    Reply,
}

/// Which numbers of a segment were written down, and so must not be made to fit the flow.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Given {
    flags: Presence,
    sequence: Presence,
    acknowledgement: Presence,
    tag: Presence,
    chunks: Presence,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Presence {
    #[default]
    Left,
    Written,
}

/// Why an expression could not be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("column {column}: {problem}")]
pub struct ExpressionError {
    /// From one, in characters.
    pub column: usize,
    pub problem: Problem,
}

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Problem {
    #[error("expected {0}, but the expression ends here")]
    Ended(&'static str),
    #[error("expected {expected}, found `{found}`")]
    Unexpected {
        expected: &'static str,
        found: String,
    },
    #[error("`{word}` says nothing about {protocol}")]
    NotForProtocol {
        word: String,
        protocol: &'static str,
    },
    #[error("the two addresses are of different families")]
    MixedFamilies,
    #[error("{0} needs a port at both ends")]
    PortMissing(&'static str),
    #[error("{0} has no ports")]
    PortUnwanted(&'static str),
    #[error("icmp is for IPv4 and icmpv6 for IPv6")]
    WrongIcmp,
    #[error("a quoted packet cannot itself quote, have interfaces or a state")]
    NestedWord,
    #[error("`state related` needs an ICMP error with `quoting`")]
    NothingQuoted,
    #[error("`{0}` stands here twice")]
    Repeated(String),
}

impl Expression {
    /// Pretends another state than the words said.
    pub fn pretend(&mut self, state: Pretended) -> Result<(), Problem> {
        if state == Pretended::Related && self.quoted.is_none() {
            return Err(Problem::NothingQuoted);
        }
        self.pretended = state;
        self.settle();
        Ok(())
    }

    /// What follows from the words together: a segment without flags is the first one of a
    /// connection, or one in its middle.
    fn settle(&mut self) {
        if let Body::Tcp(tcp) = &mut self.packet.body
            && self.given.flags == Presence::Left
        {
            tcp.flags = match self.pretended {
                Pretended::Established => ACK,
                Pretended::New | Pretended::Related => SYN,
            };
        }
    }
}

impl std::str::FromStr for Expression {
    type Err = ExpressionError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        parse::parse(text)
    }
}

#[cfg(test)]
mod tests;
