//! Lengths of time as people write them.

/// Seconds of `90`, `90s`, `10m`, `1h30m`, `2d` or `1w`.
pub(crate) fn seconds(text: &str) -> Result<u32, String> {
    let error = || format!("`{text}` is no length of time such as 90s, 10m, 1h30m or 2d");
    let mut total: u32 = 0;
    let mut number: Option<u32> = None;
    for byte in text.bytes() {
        if byte.is_ascii_digit() {
            let digits = number.unwrap_or(0).checked_mul(10);
            let digits = digits.and_then(|digits| digits.checked_add(u32::from(byte - b'0')));
            number = Some(digits.ok_or_else(error)?);
            continue;
        }
        let unit: u32 = match byte {
            b's' => 1,
            b'm' => 60,
            b'h' => 3_600,
            b'd' => 86_400,
            b'w' => 7 * 86_400,
            _ => return Err(error()),
        };
        let part = number.take().and_then(|number| number.checked_mul(unit));
        total = part
            .and_then(|part| total.checked_add(part))
            .ok_or_else(error)?;
    }
    // A number without a unit counts seconds, and stands alone.
    match number {
        Some(number) if total == 0 => total = number,
        Some(_) => return Err(error()),
        None => {}
    }
    if total == 0 { Err(error()) } else { Ok(total) }
}

/// The two largest units that say something.
pub(crate) fn in_words(seconds: u32) -> String {
    let units = [(86_400, "d"), (3_600, "h"), (60, "m"), (1, "s")];
    let mut rest = seconds;
    let mut text = String::new();
    let mut parts = 0;
    for (size, name) in units {
        if rest >= size && parts < 2 {
            text += &format!("{}{name}", rest / size);
            rest %= size;
            parts += 1;
        }
    }
    if text.is_empty() {
        "0s".to_owned()
    } else {
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lengths_of_time_are_read_and_said() {
        for (text, expected) in [
            ("90", 90),
            ("90s", 90),
            ("10m", 600),
            ("1h30m", 5_400),
            ("2d", 172_800),
            ("1w", 604_800),
        ] {
            assert_eq!(seconds(text), Ok(expected), "{text}");
        }
        for text in ["", "0", "m", "10x", "1h30", "-5", "5000000000", "99999999w"] {
            assert!(seconds(text).is_err(), "{text}");
        }
        assert_eq!(in_words(0), "0s");
        assert_eq!(in_words(5_400), "1h30m");
        assert_eq!(in_words(90_061), "1d1h");
    }
}
