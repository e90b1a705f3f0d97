//! The options that a protocol adds.

use super::getopt::{Key, Long, Takes};
use super::options::{Command, illegal, needs};
use super::problem::Problem;

/// An option of a protocol. Ports stand for the keys of GRE too.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Detail {
    SourcePort,
    DestinationPort,
    ReplySourcePort,
    ReplyDestinationPort,
    MaskSourcePort,
    MaskDestinationPort,
    State,
    TupleSourcePort,
    TupleDestinationPort,
    OriginalTag,
    ReplyTag,
    Role,
    IcmpType,
    IcmpCode,
    IcmpId,
}

/// The protocols that have options of their own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Tcp,
    Udp,
    UdpLite,
    Sctp,
    Dccp,
    Gre,
    Icmp,
    Icmpv6,
    Other,
}

const PORTS: &[(&str, Detail)] = &[
    ("orig-port-src", Detail::SourcePort),
    ("orig-port-dst", Detail::DestinationPort),
    ("reply-port-src", Detail::ReplySourcePort),
    ("reply-port-dst", Detail::ReplyDestinationPort),
    ("mask-port-src", Detail::MaskSourcePort),
    ("mask-port-dst", Detail::MaskDestinationPort),
    ("tuple-port-src", Detail::TupleSourcePort),
    ("tuple-port-dst", Detail::TupleDestinationPort),
    ("sport", Detail::SourcePort),
    ("dport", Detail::DestinationPort),
];
const KEYS: &[(&str, Detail)] = &[
    ("orig-key-src", Detail::SourcePort),
    ("orig-key-dst", Detail::DestinationPort),
    ("reply-key-src", Detail::ReplySourcePort),
    ("reply-key-dst", Detail::ReplyDestinationPort),
    ("mask-key-src", Detail::MaskSourcePort),
    ("mask-key-dst", Detail::MaskDestinationPort),
    ("tuple-key-src", Detail::TupleSourcePort),
    ("tuple-key-dst", Detail::TupleDestinationPort),
    ("srckey", Detail::SourcePort),
    ("dstkey", Detail::DestinationPort),
];
const STATE: &[(&str, Detail)] = &[("state", Detail::State)];
const TAGS: &[(&str, Detail)] = &[
    ("orig-vtag", Detail::OriginalTag),
    ("reply-vtag", Detail::ReplyTag),
];
const ROLE: &[(&str, Detail)] = &[("role", Detail::Role)];
const ICMP: &[(&str, Detail)] = &[
    ("icmp-type", Detail::IcmpType),
    ("icmp-code", Detail::IcmpCode),
    ("icmp-id", Detail::IcmpId),
];
const ICMPV6: &[(&str, Detail)] = &[
    ("icmpv6-type", Detail::IcmpType),
    ("icmpv6-code", Detail::IcmpCode),
    ("icmpv6-id", Detail::IcmpId),
];

/// In the order in which conntrack complains about them.
const ORDER: [Detail; 15] = [
    Detail::SourcePort,
    Detail::DestinationPort,
    Detail::ReplySourcePort,
    Detail::ReplyDestinationPort,
    Detail::MaskSourcePort,
    Detail::MaskDestinationPort,
    Detail::State,
    Detail::TupleSourcePort,
    Detail::TupleDestinationPort,
    Detail::OriginalTag,
    Detail::ReplyTag,
    Detail::Role,
    Detail::IcmpType,
    Detail::IcmpCode,
    Detail::IcmpId,
];

/// Whether a command needs an option of a protocol.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Need {
    Forbidden,
    Required,
    Optional,
}

impl Kind {
    pub(super) const fn of(protocol: u8) -> Self {
        match protocol {
            1 => Self::Icmp,
            6 => Self::Tcp,
            17 => Self::Udp,
            33 => Self::Dccp,
            47 => Self::Gre,
            58 => Self::Icmpv6,
            132 => Self::Sctp,
            136 => Self::UdpLite,
            _ => Self::Other,
        }
    }

    const fn option_sets(self) -> &'static [&'static [(&'static str, Detail)]] {
        match self {
            Self::Tcp => &[PORTS, STATE],
            Self::Udp | Self::UdpLite => &[PORTS],
            Self::Sctp => &[PORTS, STATE, TAGS],
            Self::Dccp => &[PORTS, STATE, ROLE],
            Self::Gre => &[KEYS],
            Self::Icmp => &[ICMP],
            Self::Icmpv6 => &[ICMPV6],
            Self::Other => &[],
        }
    }

    pub(super) fn longs(self) -> impl Iterator<Item = Long> {
        let options = self.option_sets().iter().flat_map(|set| set.iter());
        options.map(|&(name, detail)| Long {
            name,
            takes: Takes::Value,
            key: Key::Detail(detail),
        })
    }

    /// The name of an option in complaints: the last that it has.
    fn name(self, detail: Detail) -> Option<&'static str> {
        let options = self.option_sets().iter().flat_map(|set| set.iter());
        let names = options.filter(|(_, other)| *other == detail);
        names.fold(None, |_, (name, _)| Some(*name))
    }

    const fn has_ports(self) -> bool {
        !matches!(self, Self::Icmp | Self::Icmpv6 | Self::Other)
    }

    /// Complains about options that do not go with the command.
    pub(super) fn check(self, command: Command, given: &[Detail]) -> Result<(), Problem> {
        for detail in ORDER {
            let Some(name) = self.name(detail) else {
                continue;
            };
            match (self.need(command, detail), given.contains(&detail)) {
                (Need::Required, false) => return Err(needs(name)),
                (Need::Forbidden, true) => return Err(illegal(name)),
                _ => {}
            }
        }
        if !command.names_a_flow() || !self.has_ports() {
            return Ok(());
        }
        let has = |detail| given.contains(&detail);
        let original = [has(Detail::SourcePort), has(Detail::DestinationPort)];
        let reply = [
            has(Detail::ReplySourcePort),
            has(Detail::ReplyDestinationPort),
        ];
        if original == [true; 2] || reply == [true; 2] {
            return Ok(());
        }
        let reply_alone = original == [false; 2] && reply != [false; 2];
        Err(Problem::usage(match (self, reply_alone) {
            (Self::Gre, false) => "you have to specify `--srckey' and `--dstkey'",
            (Self::Gre, true) => "you have to specify `--reply-src-key' and `--reply-dst-key'",
            (_, false) => "you have to specify `--sport' and `--dport'",
            (Self::Dccp, true) => "you have to specify `--reply-port-src' and `--report-port-dst'",
            (_, true) => "you have to specify `--reply-src-port' and `--reply-dst-port'",
        }))
    }

    const fn need(self, command: Command, detail: Detail) -> Need {
        match command {
            Command::List | Command::Update | Command::Delete | Command::Event => match detail {
                Detail::MaskSourcePort
                | Detail::MaskDestinationPort
                | Detail::TupleSourcePort
                | Detail::TupleDestinationPort
                | Detail::Role => Need::Forbidden,
                Detail::OriginalTag | Detail::ReplyTag => match command {
                    Command::Update => Need::Optional,
                    _ => Need::Forbidden,
                },
                _ => Need::Optional,
            },
            Command::Create | Command::Add | Command::Get => match detail {
                Detail::MaskSourcePort
                | Detail::MaskDestinationPort
                | Detail::TupleSourcePort
                | Detail::TupleDestinationPort => Need::Forbidden,
                Detail::IcmpType | Detail::IcmpCode => Need::Required,
                Detail::State | Detail::OriginalTag | Detail::ReplyTag | Detail::Role => {
                    match (command, detail) {
                        (Command::Get, Detail::Role) => Need::Forbidden,
                        (Command::Get, _) => Need::Optional,
                        _ => Need::Required,
                    }
                }
                _ => Need::Optional,
            },
            Command::CreateExpected => match detail {
                Detail::SourcePort
                | Detail::DestinationPort
                | Detail::MaskSourcePort
                | Detail::MaskDestinationPort
                | Detail::TupleSourcePort
                | Detail::TupleDestinationPort => Need::Required,
                _ => Need::Forbidden,
            },
            Command::DeleteExpected | Command::GetExpected => match detail {
                Detail::SourcePort
                | Detail::DestinationPort
                | Detail::ReplySourcePort
                | Detail::ReplyDestinationPort => Need::Required,
                _ => Need::Forbidden,
            },
            _ => Need::Forbidden,
        }
    }
}

/// TCP states as `--state` names them. The kernel shows the last two as one.
pub(super) const TCP_STATES: [&str; 11] = [
    "NONE",
    "SYN_SENT",
    "SYN_RECV",
    "ESTABLISHED",
    "FIN_WAIT",
    "CLOSE_WAIT",
    "LAST_ACK",
    "TIME_WAIT",
    "CLOSE",
    "SYN_SENT2",
    "LISTEN",
];
