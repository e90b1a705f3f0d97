//! Numbers as the kernel reads them from files below `/proc/sys`.

/// Longest text of a number that the kernel looks at.
const BYTES_MAX: usize = 21;

/// The first number of a text: decimal, octal after `0`, hexadecimal after `0x`. What follows it
/// after white space is not read, and anything else after it makes it wrong.
pub(super) fn parse(text: &str) -> Option<i64> {
    let word = text.split_ascii_whitespace().next()?;
    if word.len() > BYTES_MAX {
        return None;
    }
    let (negative, digits) = match word.strip_prefix('-') {
        Some(digits) => (true, digits),
        None => (false, word),
    };
    let (radix, digits) = match digits.strip_prefix("0x").or(digits.strip_prefix("0X")) {
        Some(digits) => (16, digits),
        None if digits.starts_with('0') => (8, digits),
        None => (10, digits),
    };
    // The standard library takes a sign, the kernel not.
    if !digits.starts_with(|first: char| first.is_digit(radix)) {
        return None;
    }
    let number = i64::from_str_radix(digits, radix).ok()?;
    Some(if negative { -number } else { number })
}
