//! Numbers as short as a screen wants them.

use std::net::{IpAddr, SocketAddr};

use keepstate_api::{Endpoints, Flow};

/// At most five characters: `999`, `1.2k`, `34k`, `1.2M`.
pub(super) fn count(number: u64) -> String {
    scaled(number as f64, 1000.0, &["", "k", "M", "G", "T", "P", "E"])
}

/// A rate, with a decimal where it is small.
pub(super) fn rate(number: f64) -> String {
    if number > 0.0 && number < 9.95 {
        return format!("{number:.1}");
    }
    count(number.round() as u64)
}

/// `1.2K` and so on, of 1024.
pub(super) fn bytes(number: u64) -> String {
    scaled(number as f64, 1024.0, &["B", "K", "M", "G", "T", "P", "E"])
}

fn scaled(mut number: f64, step: f64, units: &[&str]) -> String {
    let mut unit = 0;
    // Rounded, 999.9 has four digits.
    while number >= 999.5 && unit + 1 < units.len() {
        number /= step;
        unit += 1;
    }
    let unit_name = units[unit];
    if unit > 0 && number < 9.95 {
        format!("{number:.1}{unit_name}")
    } else {
        format!("{number:.0}{unit_name}")
    }
}

/// `90s`, `5m`, `3h`, `2d`.
pub(super) fn seconds(seconds: u32) -> String {
    match seconds {
        0..=99 => format!("{seconds}s"),
        100..=5999 => format!("{}m", seconds / 60),
        6000..=172_799 => format!("{}h", seconds / 3600),
        _ => format!("{}d", seconds / 86_400),
    }
}

pub(super) fn source(endpoints: &Endpoints, width: usize) -> String {
    end(endpoints.source, endpoints.source_port, width)
}

pub(super) fn destination(endpoints: &Endpoints, width: usize) -> String {
    end(endpoints.destination, endpoints.destination_port, width)
}

/// Where the packets of a direction are from, and where they go.
pub(super) fn whole(endpoints: &Endpoints) -> (String, String) {
    let width = usize::MAX;
    (source(endpoints, width), destination(endpoints, width))
}

/// The port whole, the address cut where there is no room.
fn end(address: IpAddr, port: Option<u16>, width: usize) -> String {
    let Some(port) = port else {
        return cut(&address.to_string(), width);
    };
    let whole = SocketAddr::new(address, port).to_string();
    if whole.len() <= width {
        return whole;
    }
    let (left, right) = if address.is_ipv6() {
        ("[", "]")
    } else {
        ("", "")
    };
    let rest = format!("{right}:{port}");
    let room = width.saturating_sub(left.len() + rest.len());
    format!("{left}{}{rest}", cut(&address.to_string(), room))
}

/// TCP's state, or whether there was an answer.
pub(super) fn state(flow: &Flow) -> &str {
    match flow.protocol_state() {
        Some(state) => state,
        None if flow.assured => "assured",
        None if flow.replied => "answered",
        None => "unanswered",
    }
}

/// Cut in the middle, where a long address or rule differs least.
pub(super) fn cut(text: &str, width: usize) -> String {
    let length = text.chars().count();
    if length <= width {
        return text.to_owned();
    }
    let (head, tail) = (
        (width.saturating_sub(1)).div_ceil(2),
        width.saturating_sub(1) / 2,
    );
    let beginning: String = text.chars().take(head).collect();
    let end: String = text.chars().skip(length - tail).collect();
    format!("{beginning}…{end}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_short() {
        let counts = [
            0,
            999,
            1000,
            1234,
            9_960,
            34_000,
            999_499,
            999_500,
            1_250_000,
            u64::MAX,
        ];
        let shown = counts.map(count);
        assert_eq!(
            shown,
            [
                "0", "999", "1.0k", "1.2k", "10k", "34k", "999k", "1.0M", "1.2M", "18E"
            ]
        );
        assert_eq!([0.0, 0.4, 9.94, 12.3].map(rate), ["0", "0.4", "9.9", "12"]);
        assert_eq!([900, 1024, 1 << 30].map(bytes), ["900B", "1.0K", "1.0G"]);
        assert_eq!(
            [99, 100, 7200, 432_000].map(seconds),
            ["99s", "1m", "2h", "5d"]
        );
        assert_eq!(cut("abcdefgh", 5), "ab…gh");
    }

    #[test]
    fn of_an_end_that_is_too_long_the_port_stays() {
        let shown = |address: &str, port, width| end(address.parse().unwrap(), port, width);
        assert_eq!(shown("10.0.0.1", Some(80), 20), "10.0.0.1:80");
        assert_eq!(shown("203.0.113.199", Some(40_004), 16), "203.0….199:40004");
        let long = "2001:db8:aaaa:bbbb:cccc:dddd:eeee:1";
        assert_eq!(shown(long, Some(40_004), 20), "[2001:d…eee:1]:40004");
        assert_eq!(shown(long, None, 20), "2001:db8:a…dd:eeee:1");
    }
}
