//! Networks by their prefix.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// An address and how many of its leading bits count; the others are zero.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Network {
    address: IpAddr,
    length: u8,
}

impl Network {
    /// The network that an address is in; a length beyond the address's bits counts as these.
    pub const fn of(address: IpAddr, length: u8) -> Self {
        match address {
            IpAddr::V4(v4) => {
                let length = if length > 32 { 32 } else { length };
                let address = IpAddr::V4(Ipv4Addr::from_bits(v4.to_bits() & mask_v4(length)));
                Self { address, length }
            }
            IpAddr::V6(v6) => {
                let length = if length > 128 { 128 } else { length };
                let address = IpAddr::V6(Ipv6Addr::from_bits(v6.to_bits() & mask_v6(length)));
                Self { address, length }
            }
        }
    }

    /// The bits that count, as an address.
    pub const fn mask(&self) -> IpAddr {
        match self.address {
            IpAddr::V4(_) => IpAddr::V4(Ipv4Addr::from_bits(mask_v4(self.length))),
            IpAddr::V6(_) => IpAddr::V6(Ipv6Addr::from_bits(mask_v6(self.length))),
        }
    }

    pub const fn address(&self) -> IpAddr {
        self.address
    }

    pub const fn length(&self) -> u8 {
        self.length
    }

    /// Whether it is that of one address alone.
    pub const fn is_one(&self) -> bool {
        self.length == if self.is_v4() { 32 } else { 128 }
    }

    pub const fn is_v4(&self) -> bool {
        self.address.is_ipv4()
    }

    pub fn contains(&self, address: IpAddr) -> bool {
        address.is_ipv4() == self.is_v4() && Self::of(address, self.length) == *self
    }

    /// Whether some address is in both.
    pub fn overlaps(&self, other: &Self) -> bool {
        if self.length <= other.length {
            self.contains(other.address)
        } else {
            other.contains(self.address)
        }
    }
}

const fn mask_v4(length: u8) -> u32 {
    match length {
        0 => 0,
        length => u32::MAX << (32 - length as u32),
    }
}

const fn mask_v6(length: u8) -> u128 {
    match length {
        0 => 0,
        length => u128::MAX << (128 - length as u32),
    }
}

impl fmt::Display for Network {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_one() {
            return f.pad(&self.address.to_string());
        }
        f.pad(&format!("{}/{}", self.address, self.length))
    }
}

impl FromStr for Network {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let bad = || format!("`{text}` is no address or ADDRESS/LENGTH");
        let (address, length) = match text.split_once('/') {
            Some((address, length)) => (address, Some(length)),
            None => (text, None),
        };
        let address: IpAddr = address.parse().map_err(|_| bad())?;
        let whole = if address.is_ipv4() { 32 } else { 128 };
        let length = match length {
            None => whole,
            Some(length) => length.parse().map_err(|_| bad())?,
        };
        if length > whole {
            return Err(bad());
        }
        Ok(Self::of(address, length))
    }
}

impl Serialize for Network {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Network {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prefixes_cover_what_they_should() {
        let network = |text: &str| text.parse::<Network>().unwrap();
        assert!(network("10.0.0.0/24").contains("10.0.0.9".parse().unwrap()));
        assert!(!network("10.0.0.0/24").contains("10.0.1.9".parse().unwrap()));
        assert!(!network("::/0").contains("10.0.1.9".parse().unwrap()));
        assert!(network("10.0.0.7").overlaps(&network("10.0.0.0/8")));
        assert!(network("2001:db8::/48").overlaps(&network("2001:db8:0:1::/64")));
        assert!(!network("10.0.0.0/9").overlaps(&network("10.128.0.0/9")));
        assert_eq!(network("10.1.2.3/16").to_string(), "10.1.0.0/16");
        assert!("10.0.0.0/33".parse::<Network>().is_err());
    }
}
