//! Which flows to list.

use std::fmt::{self, Display, Formatter};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

use keepstate_engine::tuple::Family;
use serde::{Deserialize, Serialize};

use crate::expression::{Expression, Subject};
use crate::flow::{Endpoints, Flow, Icmp};

/// All conditions that are set must hold. Those without a direction in their name look at the
/// original one, as with conntrack.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Filter {
    /// `ipv4` or `ipv6`.
    pub family: Option<String>,
    pub protocol: Option<u8>,
    pub source: Option<AddressFilter>,
    pub destination: Option<AddressFilter>,
    pub source_port: Option<u16>,
    pub destination_port: Option<u16>,
    pub reply_source: Option<IpAddr>,
    pub reply_destination: Option<IpAddr>,
    pub reply_source_port: Option<u16>,
    pub reply_destination_port: Option<u16>,
    pub icmp_type: Option<u8>,
    pub icmp_code: Option<u8>,
    pub icmp_id: Option<u16>,
    /// Name of a state of TCP or SCTP.
    pub state: Option<String>,
    pub replied: Option<Replied>,
    pub status: StatusFilter,
    pub mark: Option<MarkFilter>,
    pub zone: Option<u16>,
    pub id: Option<u32>,
    pub seconds_left: Option<u32>,
    /// Numbers of labels that must be set.
    pub labels: Vec<u16>,
    /// What no record has: such a filter fits no flow.
    pub foreign: Vec<Foreign>,
    /// In the filter language.
    pub expression: Option<Expression>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Replied {
    Assured,
    Unreplied,
}

/// A bit of a flow's status, by the names that conntrack has for them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FlowStatus {
    SeenReply,
    Assured,
    Expected,
    FixedTimeout,
    /// Handed to a network card or a fast path: no flow of ours is.
    Offload,
}

/// Bits that must be set and bits that must not be.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct StatusFilter {
    pub set: Vec<FlowStatus>,
    pub unset: Vec<FlowStatus>,
}

/// The mark's bits in `mask` must be `value`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MarkFilter {
    pub value: u32,
    pub mask: u32,
}

/// What flows of the kernel may have and records do not hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Foreign {
    Nat,
    /// A zone of one direction alone.
    DirectionZone,
    SecurityMark,
    /// A state of a protocol that is followed by its addresses alone.
    ProtocolDetail,
}

impl Filter {
    pub fn matches(&self, flow: &Flow) -> bool {
        self.foreign.is_empty()
            && is_or_any(self.family.as_deref(), flow.family.as_str())
            && is_or_any(self.protocol, flow.protocol)
            && self.original_matches(&flow.original)
            && self.reply_matches(&flow.reply)
            && (self.state.is_none() || self.state.as_deref() == flow.protocol_state())
            && match self.replied {
                None => true,
                Some(Replied::Assured) => flow.assured,
                Some(Replied::Unreplied) => !flow.replied,
            }
            && self.status.matches(flow)
            && self
                .mark
                .is_none_or(|mark| flow.mark & mark.mask == mark.value)
            && is_or_any(self.zone, flow.zone)
            && is_or_any(self.id, flow.id)
            && is_or_any(self.seconds_left, flow.seconds_left)
            && self.labels.iter().all(|label| flow.labels.contains(label))
            && (self.expression.is_none() || self.expression_fits(&flow.to_listing()))
    }

    /// Whether the expression, if there is one, fits a flow: what can be known of it at little cost.
    pub fn expression_fits(&self, entry: &keepstate_listing::Entry) -> bool {
        let expression = self.expression.as_ref();
        expression.is_none_or(|expression| expression.matches(&Subject::of_flow(entry)))
    }

    /// The family that all fitting flows are of, where that is known.
    pub fn only_family(&self) -> Option<Family> {
        match self.family.as_deref()? {
            "ipv4" => Some(Family::V4),
            "ipv6" => Some(Family::V6),
            _ => None,
        }
    }

    fn original_matches(&self, original: &Endpoints) -> bool {
        let fits = |filter: &Option<AddressFilter>, address: IpAddr| {
            filter
                .as_ref()
                .is_none_or(|filter| filter.contains(address))
        };
        fits(&self.source, original.source)
            && fits(&self.destination, original.destination)
            && port_fits(
                self.source_port,
                original.source_port.or(original.source_key),
            )
            && port_fits(
                self.destination_port,
                original.destination_port.or(original.destination_key),
            )
            && self.icmp_matches(original.icmp.as_ref())
    }

    fn icmp_matches(&self, icmp: Option<&Icmp>) -> bool {
        let Some(icmp) = icmp else {
            return self.icmp_type.is_none() && self.icmp_code.is_none() && self.icmp_id.is_none();
        };
        is_or_any(self.icmp_type, icmp.kind)
            && is_or_any(self.icmp_code, icmp.code)
            && is_or_any(self.icmp_id, icmp.id)
    }

    fn reply_matches(&self, reply: &Endpoints) -> bool {
        is_or_any(self.reply_source, reply.source)
            && is_or_any(self.reply_destination, reply.destination)
            && port_fits(
                self.reply_source_port,
                reply.source_port.or(reply.source_key),
            )
            && port_fits(
                self.reply_destination_port,
                reply.destination_port.or(reply.destination_key),
            )
    }
}

impl StatusFilter {
    fn matches(&self, flow: &Flow) -> bool {
        self.set.iter().all(|status| status.is_of(flow))
            && !self.unset.iter().any(|status| status.is_of(flow))
    }
}

impl FlowStatus {
    pub const fn is_of(self, flow: &Flow) -> bool {
        match self {
            Self::SeenReply => flow.replied,
            Self::Assured => flow.assured,
            Self::Expected => flow.expected,
            Self::FixedTimeout => flow.fixed_timeout,
            Self::Offload => false,
        }
    }
}

fn is_or_any<T: PartialEq>(wanted: Option<T>, found: T) -> bool {
    wanted.is_none_or(|wanted| wanted == found)
}

fn port_fits(wanted: Option<u16>, port: Option<u16>) -> bool {
    wanted.is_none() || wanted == port
}

/// An address and which of its bits count.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct AddressFilter {
    address: IpAddr,
    mask: IpAddr,
}

/// Not an address, a prefix, or an address with a mask.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is neither an address nor ADDRESS/PREFIX")]
pub struct FilterError(String);

impl AddressFilter {
    /// `None` when one is of IPv4 and the other of IPv6.
    pub const fn with_mask(address: IpAddr, mask: IpAddr) -> Option<Self> {
        match (address, mask) {
            (IpAddr::V4(_), IpAddr::V4(_)) | (IpAddr::V6(_), IpAddr::V6(_)) => {
                Some(Self { address, mask })
            }
            _ => None,
        }
    }

    /// Which bits count.
    pub const fn mask(&self) -> IpAddr {
        self.mask
    }

    pub const fn contains(&self, address: IpAddr) -> bool {
        match (self.address, self.mask, address) {
            (IpAddr::V4(own), IpAddr::V4(mask), IpAddr::V4(other)) => {
                (own.to_bits() ^ other.to_bits()) & mask.to_bits() == 0
            }
            (IpAddr::V6(own), IpAddr::V6(mask), IpAddr::V6(other)) => {
                (own.to_bits() ^ other.to_bits()) & mask.to_bits() == 0
            }
            _ => false,
        }
    }
}

/// The mask of a prefix; `None` when it is longer than an address.
pub fn prefix_mask(is_v4: bool, length: u32) -> Option<IpAddr> {
    if is_v4 {
        let host_bits = 32_u32.checked_sub(length)?;
        let mask = u32::MAX.checked_shl(host_bits).unwrap_or(0);
        return Some(Ipv4Addr::from_bits(mask).into());
    }
    let host_bits = 128_u32.checked_sub(length)?;
    let mask = u128::MAX.checked_shl(host_bits).unwrap_or(0);
    Some(Ipv6Addr::from_bits(mask).into())
}

impl From<IpAddr> for AddressFilter {
    fn from(address: IpAddr) -> Self {
        let mask = match address {
            IpAddr::V4(_) => Ipv4Addr::BROADCAST.into(),
            IpAddr::V6(_) => Ipv6Addr::from_bits(u128::MAX).into(),
        };
        Self { address, mask }
    }
}

impl FromStr for AddressFilter {
    type Err = FilterError;

    fn from_str(text: &str) -> Result<Self, FilterError> {
        let error = || FilterError(text.to_owned());
        let Some((address, mask)) = text.split_once('/') else {
            let address: IpAddr = text.parse().map_err(|_| error())?;
            return Ok(address.into());
        };
        let address: IpAddr = address.parse().map_err(|_| error())?;
        let mask = match mask.parse::<u32>() {
            Ok(length) => prefix_mask(address.is_ipv4(), length),
            Err(_) => mask.parse().ok(),
        };
        let filter = mask.and_then(|mask| Self::with_mask(address, mask));
        filter.ok_or_else(error)
    }
}

impl TryFrom<String> for AddressFilter {
    type Error = FilterError;

    fn try_from(text: String) -> Result<Self, FilterError> {
        text.parse()
    }
}

impl Display for AddressFilter {
    /// As short as it can be: `ADDRESS`, `ADDRESS/PREFIX` or `ADDRESS/MASK`.
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let length = match self.mask {
            IpAddr::V4(mask) => mask.to_bits().leading_ones(),
            IpAddr::V6(mask) => mask.to_bits().leading_ones(),
        };
        let is_v4 = self.address.is_ipv4();
        self.address.fmt(f)?;
        if prefix_mask(is_v4, length) != Some(self.mask) {
            return write!(f, "/{}", self.mask);
        }
        match (is_v4, length) {
            (true, 32) | (false, 128) => Ok(()),
            _ => write!(f, "/{length}"),
        }
    }
}

impl From<AddressFilter> for String {
    fn from(filter: AddressFilter) -> Self {
        format!("{}/{}", filter.address, filter.mask)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prefixes() {
        let check = |filter: &str, address: &str| {
            let filter: AddressFilter = filter.parse().unwrap();
            filter.contains(address.parse().unwrap())
        };
        assert!(check("10.0.0.0/8", "10.255.1.2"));
        assert!(!check("10.0.0.0/8", "11.0.0.0"));
        assert!(check("0.0.0.0/0", "1.2.3.4"));
        assert!(!check("0.0.0.0/0", "::1"));
        assert!(check("fd00::1", "fd00::1"));
        assert!(!check("fd00::/127", "fd00::2"));
        assert!(check("::/0", "fd00::2"));
        assert!(check("10.0.0.1/255.0.0.255", "10.9.8.1"));
        assert!(!check("10.0.0.1/255.0.0.255", "10.9.8.2"));
        for text in [
            "",
            "10.0.0.0/33",
            "::/129",
            "10.0.0.0/x",
            "10.0.0.0/-1",
            "10.0.0.0/ffff::",
            "eth0",
        ] {
            assert!(text.parse::<AddressFilter>().is_err(), "{text}");
        }
    }
}
