//! Which flows to list.

use std::net::IpAddr;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::flow::Flow;

/// All conditions that are set must hold, in the original direction, as with conntrack.
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
    /// Name of a TCP state.
    pub state: Option<String>,
    pub replied: Option<Replied>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Replied {
    Assured,
    Unreplied,
}

impl Filter {
    pub fn matches(&self, flow: &Flow) -> bool {
        let original = &flow.original;
        let fits = |filter: &Option<AddressFilter>, address: IpAddr| {
            filter
                .as_ref()
                .is_none_or(|filter| filter.contains(address))
        };
        let port_fits = |wanted: Option<u16>, port: Option<u16>| wanted.is_none() || wanted == port;
        self.family.as_ref().is_none_or(|name| *name == flow.family)
            && self.protocol.is_none_or(|number| number == flow.protocol)
            && fits(&self.source, original.source)
            && fits(&self.destination, original.destination)
            && port_fits(self.source_port, original.source_port)
            && port_fits(self.destination_port, original.destination_port)
            && (self.state.is_none() || self.state == flow.tcp_state)
            && match self.replied {
                None => true,
                Some(Replied::Assured) => flow.assured,
                Some(Replied::Unreplied) => !flow.replied,
            }
    }
}

/// An address or a prefix.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct AddressFilter {
    address: IpAddr,
    prefix: u8,
}

/// Not an address or a prefix.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is neither an address nor ADDRESS/PREFIX")]
pub struct FilterError(String);

impl AddressFilter {
    pub fn contains(&self, address: IpAddr) -> bool {
        match (self.address, address) {
            (IpAddr::V4(own), IpAddr::V4(other)) => {
                let shift = 32 - u32::from(self.prefix);
                (own.to_bits() ^ other.to_bits())
                    .checked_shr(shift)
                    .unwrap_or(0)
                    == 0
            }
            (IpAddr::V6(own), IpAddr::V6(other)) => {
                let shift = 128 - u32::from(self.prefix);
                (own.to_bits() ^ other.to_bits())
                    .checked_shr(shift)
                    .unwrap_or(0)
                    == 0
            }
            _ => false,
        }
    }
}

impl FromStr for AddressFilter {
    type Err = FilterError;

    fn from_str(text: &str) -> Result<Self, FilterError> {
        let error = || FilterError(text.to_owned());
        let (address, prefix) = match text.split_once('/') {
            Some((address, prefix)) => (address, Some(prefix)),
            None => (text, None),
        };
        let address: IpAddr = address.parse().map_err(|_| error())?;
        let longest = if address.is_ipv4() { 32 } else { 128 };
        let prefix = match prefix {
            None => longest,
            Some(prefix) => prefix.parse().map_err(|_| error())?,
        };
        if prefix > longest {
            return Err(error());
        }
        Ok(Self { address, prefix })
    }
}

impl TryFrom<String> for AddressFilter {
    type Error = FilterError;

    fn try_from(text: String) -> Result<Self, FilterError> {
        text.parse()
    }
}

impl From<AddressFilter> for String {
    fn from(filter: AddressFilter) -> Self {
        format!("{}/{}", filter.address, filter.prefix)
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
        for text in [
            "",
            "10.0.0.0/33",
            "::/129",
            "10.0.0.0/x",
            "10.0.0.0/-1",
            "eth0",
        ] {
            assert!(text.parse::<AddressFilter>().is_err(), "{text}");
        }
    }
}
