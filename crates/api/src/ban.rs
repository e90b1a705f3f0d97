//! Bans, and networks that are never banned.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// An address with the number of its bits that count; the others are zero. Written
/// `ADDRESS/LENGTH`, or `ADDRESS` where all count.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Prefix {
    address: IpAddr,
    length: u8,
}

/// Not an address or prefix.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PrefixError {
    #[error("`{0}` is neither an address nor ADDRESS/LENGTH")]
    Malformed(String),
    #[error("`{0}` is every address there is")]
    All(String),
}

impl Prefix {
    /// Bits that are not among the first `length` count as zero; `None` where an address has not so many, or
    /// for zero.
    pub fn new(address: IpAddr, length: u8) -> Option<Self> {
        let address = match address {
            IpAddr::V4(address) if (1..=32).contains(&length) => {
                let mask = u32::MAX << (32 - length);
                Ipv4Addr::from_bits(address.to_bits() & mask).into()
            }
            IpAddr::V6(address) if (1..=128).contains(&length) => {
                let mask = u128::MAX << (128 - length);
                Ipv6Addr::from_bits(address.to_bits() & mask).into()
            }
            _ => return None,
        };
        Some(Self { address, length })
    }

    pub const fn address(&self) -> IpAddr {
        self.address
    }

    pub const fn length(&self) -> u8 {
        self.length
    }

    const fn length_max(address: IpAddr) -> u8 {
        if address.is_ipv4() { 32 } else { 128 }
    }
}

impl FromStr for Prefix {
    type Err = PrefixError;

    fn from_str(text: &str) -> Result<Self, PrefixError> {
        let malformed = || PrefixError::Malformed(text.to_owned());
        let (address, length) = match text.split_once('/') {
            Some((address, length)) => (address, Some(length)),
            None => (text, None),
        };
        let address: IpAddr = address.parse().map_err(|_| malformed())?;
        let length = match length {
            Some(length) if length.bytes().all(|byte| byte.is_ascii_digit()) => {
                length.parse().map_err(|_| malformed())?
            }
            Some(_) => return Err(malformed()),
            None => Self::length_max(address),
        };
        if length == 0 {
            return Err(PrefixError::All(text.to_owned()));
        }
        Self::new(address, length).ok_or_else(malformed)
    }
}

impl TryFrom<String> for Prefix {
    type Error = PrefixError;

    fn try_from(text: String) -> Result<Self, PrefixError> {
        text.parse()
    }
}

impl From<Prefix> for String {
    fn from(prefix: Prefix) -> Self {
        prefix.to_string()
    }
}

impl fmt::Display for Prefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.address)?;
        if self.length != Self::length_max(self.address) {
            write!(f, "/{}", self.length)?;
        }
        Ok(())
    }
}

/// Which of the two lists.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum BanList {
    /// Nothing is taken from these networks, or only so many new flows a second.
    Banned,
    /// These are never banned, whatever the other list says.
    Never,
}

/// An entry of a list.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ban {
    pub network: Prefix,
    /// Seconds that are left; `None` for ever.
    pub seconds_left: Option<u32>,
    /// Seconds since it was put there or changed.
    pub age: u32,
    /// Who or what asked for it, and why.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub cause: Option<String>,
    /// New flows a second, of a network that is limited and not banned.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub limit: Option<u32>,
}

/// Longest cause of a ban, in bytes.
pub const CAUSE_BYTES_MAX: usize = 256;

/// Networks that one request may name.
pub const PREFIXES_MAX: usize = 4096;

/// What became of networks that were to be put on a list.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Banned {
    pub new: u64,
    /// They were there, and now have this time and cause.
    pub changed: u64,
    /// There was no room for them.
    pub refused: u64,
    /// Flows that ended with them.
    pub flows_ended: u64,
}

/// How the lists stand.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct BanStatus {
    pub banned: u64,
    pub never: u64,
    /// Entries of both lists that there is room for.
    pub room: u64,
}
