//! Networks: an address and a mask, as `-s` and `-d` take them.

use std::fmt;
use std::net::{Ipv4Addr, Ipv6Addr};

use keepstate_engine::tuple::{Address, Family};

use crate::problem::Problem;

/// An address under its mask. Bits outside of the mask are zero.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Network {
    pub family: Family,
    /// In host order, most significant word first; IPv4 uses the first alone.
    pub address: Address,
    pub mask: Address,
}

impl Network {
    pub fn parse(family: Family, text: &str) -> Result<Self, Problem> {
        let (host, mask) = match text.split_once('/') {
            Some((host, mask)) => (host, Some(mask)),
            None => (text, None),
        };
        let mask = match mask {
            Some(mask) => {
                parse_mask(family, mask).ok_or_else(|| Problem::MaskInvalid(mask.into()))?
            }
            None => mask_of_length(family, length_max(family)),
        };
        let address =
            parse_host(family, host).ok_or_else(|| Problem::AddressInvalid(host.into()))?;
        Ok(Self::new(family, address, mask))
    }

    pub fn new(family: Family, address: Address, mask: Address) -> Self {
        let mut masked = [0; 4];
        for (to, (address, mask)) in masked.iter_mut().zip(address.iter().zip(mask)) {
            *to = address & mask;
        }
        Self {
            family,
            address: masked,
            mask,
        }
    }

    pub fn is_any(&self) -> bool {
        self.mask == [0; 4]
    }

    pub fn contains(&self, address: &Address) -> bool {
        (0..4).all(|word| address[word] & self.mask[word] == self.address[word])
    }

    fn length(&self) -> Option<u32> {
        let ones: u32 = self.mask.iter().map(|word| word.count_ones()).sum();
        (mask_of_length(self.family, ones) == self.mask).then_some(ones)
    }

    /// The mask's length, where it is a prefix.
    pub fn prefix(&self) -> Option<u32> {
        self.length()
    }

    /// Whether it is a single address.
    pub fn is_single(&self) -> bool {
        self.mask == mask_of_length(self.family, length_max(self.family))
    }

    /// As `-L` shows it: no mask for a single address.
    pub fn for_listing(&self) -> String {
        let mut text = self.to_string();
        let whole = match self.family {
            Family::V4 => "/32",
            Family::V6 => "/128",
        };
        if text.ends_with(whole) {
            text.truncate(text.len() - whole.len());
        }
        text
    }
}

/// As `-S` and iptables-save print it: always with a mask.
impl fmt::Display for Network {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_address(f, self.family, &self.address)?;
        f.write_str("/")?;
        match self.length() {
            Some(length) => write!(f, "{length}"),
            None => write_address(f, self.family, &self.mask),
        }
    }
}

/// An address as iptables prints it.
pub(crate) fn address_text(family: Family, address: &Address) -> String {
    let network = Network {
        family,
        address: *address,
        mask: mask_of_length(family, length_max(family)),
    };
    network.for_listing()
}

fn write_address(f: &mut fmt::Formatter<'_>, family: Family, words: &Address) -> fmt::Result {
    match family {
        Family::V4 => write!(f, "{}", Ipv4Addr::from(words[0])),
        Family::V6 => {
            let bits = words
                .iter()
                .fold(0u128, |bits, word| bits << 32 | u128::from(*word));
            // Unlike Rust, glibc also writes IPv4-compatible addresses with a dotted tail.
            if bits >> 32 == 0 && bits >> 16 != 0 {
                return write!(f, "::{}", Ipv4Addr::from(words[3]));
            }
            write!(f, "{}", Ipv6Addr::from(bits))
        }
    }
}

const fn length_max(family: Family) -> u32 {
    match family {
        Family::V4 => 32,
        Family::V6 => 128,
    }
}

fn mask_of_length(family: Family, length: u32) -> Address {
    let mut mask = [0; 4];
    let words = length_max(family) as usize / 32;
    for (index, word) in mask.iter_mut().take(words).enumerate() {
        let ones = length.saturating_sub(index as u32 * 32).min(32);
        *word = u32::MAX.checked_shl(32 - ones).unwrap_or(0);
    }
    mask
}

fn parse_mask(family: Family, text: &str) -> Option<Address> {
    if !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit()) {
        let length: u32 = text.parse().ok()?;
        return (length <= length_max(family)).then(|| mask_of_length(family, length));
    }
    match family {
        Family::V4 => {
            let mask: Ipv4Addr = text.parse().ok()?;
            Some([mask.to_bits(), 0, 0, 0])
        }
        Family::V6 => parse_v6(text),
    }
}

fn parse_host(family: Family, text: &str) -> Option<Address> {
    match family {
        Family::V4 => parse_v4_loose(text),
        Family::V6 => parse_v6(text),
    }
}

fn parse_v6(text: &str) -> Option<Address> {
    let bits = text.parse::<Ipv6Addr>().ok()?.to_bits();
    Some([96, 64, 32, 0].map(|shift| (bits >> shift) as u32))
}

/// One to four decimal parts; those left out are zero (`10/8`). Octal and hexadecimal parts, which
/// iptables takes by way of the C library, are refused: `010.1.1.1` rarely means `8.1.1.1`.
fn parse_v4_loose(text: &str) -> Option<Address> {
    let mut octets = [0u8; 4];
    for (index, part) in text.split('.').enumerate() {
        let plain = part == "0" || !part.starts_with('0');
        if !plain || !part.bytes().all(|byte| byte.is_ascii_digit()) {
            return None;
        }
        *octets.get_mut(index)? = part.parse().ok()?;
    }
    Some([u32::from_be_bytes(octets), 0, 0, 0])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(family: Family, text: &str, printed: &str) {
        assert_eq!(Network::parse(family, text).unwrap().to_string(), printed);
    }

    #[test]
    fn networks_print_as_iptables_prints_them() {
        check(Family::V4, "10.0.0.1/255.255.0.0", "10.0.0.0/16");
        check(Family::V4, "1.1.1.1/255.0.255.0", "1.0.1.0/255.0.255.0");
        check(Family::V4, "10/8", "10.0.0.0/8");
        check(Family::V4, "1.2.3", "1.2.3.0/32");
        check(Family::V6, "2001:db8::1/ffff:ffff::", "2001:db8::/32");
        check(
            Family::V6,
            "2001:db8::/ffff:0:ffff::",
            "2001::/ffff:0:ffff::",
        );
        check(Family::V6, "::ffff:1.2.3.4", "::ffff:1.2.3.4/128");
        check(Family::V6, "::1.2.3.4", "::1.2.3.4/128");
        check(Family::V6, "::1", "::1/128");
        check(Family::V6, "fe80::1/0", "::/0");
    }

    #[test]
    fn damaged_networks_are_refused() {
        for text in ["", "1.2.3.4.5", "256.1.1.1", "010.1.1.1", "1..2", "::1"] {
            assert!(Network::parse(Family::V4, text).is_err(), "{text}");
        }
        for text in ["1.2.3.4/", "1.2.3.4/33", "1.2.3.4/-1", "1.2.3.4/+8"] {
            let error = Network::parse(Family::V4, text).unwrap_err();
            assert!(matches!(error, Problem::MaskInvalid(_)), "{text}");
        }
        for text in ["1::/129", "1::g", "fe80::1%eth0", "1.2.3.4"] {
            assert!(Network::parse(Family::V6, text).is_err(), "{text}");
        }
    }
}
