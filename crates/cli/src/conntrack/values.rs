//! Numbers and addresses as the C library reads them: leniently.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// `strtoul` with base 0: what is read, and what is left.
pub(super) fn unsigned(text: &str) -> (u64, &str) {
    let trimmed = text.trim_start_matches(|c: char| c.is_ascii_whitespace());
    let (negative, digits) = match trimmed.strip_prefix('-') {
        Some(digits) => (true, digits),
        None => (false, trimmed.strip_prefix('+').unwrap_or(trimmed)),
    };
    let lower = digits.get(..2).map(str::to_ascii_lowercase);
    let is_hex = lower.as_deref() == Some("0x")
        && digits.chars().nth(2).is_some_and(|c| c.is_ascii_hexdigit());
    let (base, digits) = match digits.strip_prefix('0') {
        Some(_) if is_hex => (16, &digits[2..]),
        Some(_) => (8, digits),
        None => (10, digits),
    };
    let end = digits
        .find(|c: char| !c.is_digit(base))
        .unwrap_or(digits.len());
    if end == 0 {
        return (0, text);
    }
    let (number, rest) = digits.split_at(end);
    let value = u64::from_str_radix(number, base).unwrap_or(u64::MAX);
    let value = if negative {
        value.wrapping_neg()
    } else {
        value
    };
    (value, rest)
}

/// `atol`: what is no number is zero.
pub(super) fn signed(text: &str) -> i64 {
    let trimmed = text.trim_start_matches(|c: char| c.is_ascii_whitespace());
    let unsigned = trimmed.strip_prefix(['-', '+']).unwrap_or(trimmed);
    let end = unsigned
        .find(|c: char| !c.is_ascii_digit())
        .unwrap_or(unsigned.len());
    let value = unsigned[..end].parse::<i64>();
    let value = value.unwrap_or(if end == 0 { 0 } else { i64::MAX });
    if trimmed.starts_with('-') {
        value.wrapping_neg()
    } else {
        value
    }
}

/// An address as `inet_aton` and `inet_pton` take it.
pub(super) fn address(text: &str) -> Option<IpAddr> {
    if let Some(address) = lenient_v4(text) {
        return Some(address.into());
    }
    text.parse::<Ipv6Addr>().ok().map(Into::into)
}

/// One to four numbers, of which the last fills what is left.
fn lenient_v4(text: &str) -> Option<Ipv4Addr> {
    let text = text.split_ascii_whitespace().next()?;
    let parts: Vec<&str> = text.split('.').collect();
    let (last, first) = parts.split_last()?;
    let mut bits = 0_u32;
    for (index, part) in first.iter().enumerate() {
        let value = u32::try_from(number(part)?)
            .ok()
            .filter(|value| *value < 256)?;
        bits |= value << 24_u32.checked_sub(index as u32 * 8)?;
    }
    let left = 32_u32
        .checked_sub(first.len() as u32 * 8)
        .filter(|left| *left > 0)?;
    let value = number(last)?;
    if value >= 1 << left {
        return None;
    }
    Some(Ipv4Addr::from_bits(bits | value as u32))
}

fn number(text: &str) -> Option<u64> {
    if !text.starts_with(|c: char| c.is_ascii_digit()) {
        return None;
    }
    let (value, rest) = unsigned(text);
    rest.is_empty().then_some(value)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers() {
        for (text, value, rest) in [
            ("12x", 12, "x"),
            ("0x1f/3", 31, "/3"),
            ("010", 8, ""),
            ("0x", 0, "x"),
            ("09", 0, "9"),
            ("", 0, ""),
            ("x", 0, "x"),
            ("-1", u64::MAX, ""),
            ("99999999999999999999", u64::MAX, ""),
        ] {
            assert_eq!(unsigned(text), (value, rest), "{text}");
        }
        for (text, value) in [("12x", 12), (" -5", -5), ("x", 0), ("", 0), ("0x10", 0)] {
            assert_eq!(signed(text), value, "{text}");
        }
    }

    #[test]
    fn addresses() {
        for (text, shown) in [
            ("10.0.0.1", "10.0.0.1"),
            ("10.1", "10.0.0.1"),
            ("10.0.258", "10.0.1.2"),
            ("0x0a000001", "10.0.0.1"),
            ("010.0.0.1", "8.0.0.1"),
            ("fd00::1", "fd00::1"),
        ] {
            assert_eq!(address(text).map(|a| a.to_string()).as_deref(), Some(shown));
        }
        for text in [
            "",
            "10.0.0.256",
            "1.2.3.4.5",
            "x",
            "1..2",
            "::g",
            "10.",
            "-1",
        ] {
            assert_eq!(address(text), None, "{text}");
        }
    }
}
