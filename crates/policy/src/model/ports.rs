//! What `-m tcp` and `-m udp` say.

use super::Test;
use crate::matches::TcpFlags;
use crate::protocol::Protocol;

/// `-m tcp` and `-m udp`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ports {
    pub protocol: PortProtocol,
    pub source: Option<Test<PortRange>>,
    pub destination: Option<Test<PortRange>>,
    /// Of TCP alone, as the next.
    pub flags: Option<Test<TcpFlags>>,
    /// Kind of an option that a segment has.
    pub option: Option<Test<u8>>,
}

impl Ports {
    /// Says nothing but the protocol.
    pub(crate) const fn of(protocol: PortProtocol) -> Self {
        Self {
            protocol,
            source: None,
            destination: None,
            flags: None,
            option: None,
        }
    }
}

/// A protocol whose ports can be matched.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PortProtocol {
    Tcp,
    Udp,
}

impl PortProtocol {
    pub const fn name(self) -> &'static str {
        match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
        }
    }

    pub const fn protocol(self) -> Protocol {
        match self {
            Self::Tcp => Protocol(6),
            Self::Udp => Protocol(17),
        }
    }

    pub fn named(name: &str) -> Option<Self> {
        [Self::Tcp, Self::Udp]
            .into_iter()
            .find(|protocol| protocol.name() == name)
    }
}

/// Ports from `first` to `last`, both included.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PortRange {
    pub first: u16,
    pub last: u16,
}

impl PortRange {
    pub const ALL: Self = Self {
        first: 0,
        last: u16::MAX,
    };
}
