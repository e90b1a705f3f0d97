//! Attacks, by their kinds.

use serde::{Deserialize, Serialize};

use crate::network::Network;
use crate::sample::Signal;

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum AttackKind {
    SynFlood,
    SynAckFlood,
    AckFlood,
    RstFlood,
    UdpFlood,
    Reflection,
    IcmpFlood,
    FragmentFlood,
    OtherFlood,
    ConnectionFlood,
    SlowConnections,
    TableExhaustion,
    PortScan,
    /// Within flows that were answered.
    FlowFlood,
}

impl AttackKind {
    /// The flood that a signal without answers is.
    pub(crate) const fn of(signal: Signal) -> Self {
        match signal {
            Signal::Syn => Self::SynFlood,
            Signal::SynAck => Self::SynAckFlood,
            Signal::Ack => Self::AckFlood,
            Signal::Rst => Self::RstFlood,
            Signal::Udp => Self::UdpFlood,
            Signal::Reflected => Self::Reflection,
            Signal::Icmp => Self::IcmpFlood,
            Signal::Fragment => Self::FragmentFlood,
            Signal::Other => Self::OtherFlood,
        }
    }

    /// The packets that it is made of.
    pub(crate) const fn signal(self) -> Option<Signal> {
        match self {
            Self::SynFlood | Self::ConnectionFlood | Self::SlowConnections | Self::PortScan => {
                Some(Signal::Syn)
            }
            Self::SynAckFlood => Some(Signal::SynAck),
            Self::AckFlood => Some(Signal::Ack),
            Self::RstFlood => Some(Signal::Rst),
            Self::UdpFlood => Some(Signal::Udp),
            Self::Reflection => Some(Signal::Reflected),
            Self::IcmpFlood => Some(Signal::Icmp),
            Self::FragmentFlood => Some(Signal::Fragment),
            Self::OtherFlood => Some(Signal::Other),
            Self::TableExhaustion | Self::FlowFlood => None,
        }
    }

    /// Whether its senders have shown that they are where they say.
    pub(crate) const fn has_real_sources(self) -> bool {
        matches!(self, Self::ConnectionFlood | Self::SlowConnections)
    }

    pub const fn name(self) -> &'static str {
        match self {
            Self::SynFlood => "SYN flood",
            Self::SynAckFlood => "SYN-ACK flood",
            Self::AckFlood => "ACK flood",
            Self::RstFlood => "RST flood",
            Self::UdpFlood => "UDP flood",
            Self::Reflection => "UDP reflection",
            Self::IcmpFlood => "ICMP flood",
            Self::FragmentFlood => "flood of fragments",
            Self::OtherFlood => "flood of another protocol",
            Self::ConnectionFlood => "connection flood",
            Self::SlowConnections => "connections held open",
            Self::TableExhaustion => "scan that fills the table",
            Self::PortScan => "port scan",
            Self::FlowFlood => "flood within answered flows",
        }
    }
}

/// A network that sends much of an attack.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct HeavySource {
    pub network: Network,
    /// Packets a second that it sends for certain; connections, where these are held open; ports, where
    /// these are scanned.
    pub rate: f64,
    /// By how much the sketch may have counted less.
    pub error: f64,
}

/// An attack that was recognised.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Attack {
    pub number: u32,
    pub kind: AttackKind,
    /// What it is aimed at: an address, or a network over which it is spread; `None` for many networks.
    pub destination: Option<Network>,
    /// Seconds of the defence's time.
    pub began: u64,
    pub last_seen: u64,
    pub is_over: bool,
    /// Packets a second (connections that are held, ports that are scanned, percent of the table), now and at most.
    pub rate: f64,
    pub peak: f64,
    /// What of that is let through.
    pub passed: f64,
    /// From what on it is an attack, and what is usual.
    pub threshold: f64,
    pub usual: f64,
    /// How many sources there were at most, with a standard error of 6.5 %.
    pub sources: f64,
    /// The heaviest, if a few send at least half of it; else none, and it is spread or forged.
    pub heavy: Vec<HeavySource>,
    /// In words, what it was recognised by.
    pub evidence: String,
}
