//! What follows the options of matches.

use std::fmt;

use super::{Context, Form, OptionSpec};
use crate::model::{PortProtocol, PortRange};
use crate::problem::Problem;

/// A value as it is kept: what is printed alike is alike.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Value {
    Nothing,
    Number(u64),
    /// Of eight bits, in two hexadecimal digits.
    Hexadecimal(u8),
    Range(u64, u64),
    /// The same, with an end that goes without saying.
    OpenRange(u64, u64),
    /// Value and mask.
    Mark(u32, u32),
    /// The same, with the mask in any case.
    ExclusiveMark(u32, u32),
    HexadecimalWord(u32),
    /// Type of service, value and mask.
    Service(u8, u8),
    /// With the protocol whose services are named.
    Ports(Option<PortProtocol>, Vec<PortRange>),
    /// Addresses from and to.
    Addresses([u32; 4], [u32; 4], keepstate_engine::tuple::Family),
    /// ICMP type, and the code where one is meant.
    Icmp(u8, Option<u8>),
    Mac([u8; 6]),
    /// One of a few words, with the number that it stands for.
    Word(&'static str, u32),
    /// Several of them.
    Words(String, u32),
    /// Quoted where iptables quotes.
    Text(String),
    /// In double quotes, always.
    Quoted(Vec<u8>),
    /// Bytes in hexadecimal.
    Bytes(Vec<u8>),
    /// A share of 2^31.
    Probability(u32),
    /// Ten thousandths of a second.
    Rate(u32),
    /// Burst of a rate, which goes without saying when it is five.
    Burst(u32),
    /// Seconds of a day.
    TimeOfDay(u32),
    /// Seconds since 1970.
    Date(u32),
    Address([u32; 4], keepstate_engine::tuple::Family),
    SourceRate(super::rate::Rate),
    /// How many seconds' worth of bytes, and of which rate.
    ByteBurst(u64, super::rate::Rate),
    /// A number that goes without saying.
    Silent(u64),
    /// Of a flow, by its number.
    Label(u32),
    Chunks(super::chunks::Chunks),
    /// An address of a flow with the length of its network, as it was written.
    FlowNetwork([u32; 4], crate::network::Network),
    /// Name of a set, the sides, and their bits.
    Set(String, String, u32),
}

impl Value {
    /// What a value is printed as that is not printed.
    pub(super) const UNSAVED: &'static str = "\0";
}

impl fmt::Display for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Nothing => Ok(()),
            Self::Number(number) => write!(f, "{number}"),
            Self::Hexadecimal(number) => write!(f, "{number:#04x}"),
            Self::Range(low, high) if low == high => write!(f, "{low}"),
            Self::Range(low, high) => write!(f, "{low}:{high}"),
            Self::OpenRange(low, u64::MAX) => write!(f, "{low}"),
            Self::OpenRange(low, high) => write!(f, "{low}:{high}"),
            Self::Mark(value, u32::MAX) => write!(f, "{value:#x}"),
            Self::Mark(value, mask) => write!(f, "{value:#x}/{mask:#x}"),
            Self::ExclusiveMark(value, mask) => write!(f, "{value:#x}/{mask:#x}"),
            Self::HexadecimalWord(word) => write!(f, "{word:#x}"),
            Self::Service(value, mask) => write!(f, "{value:#04x}/{mask:#04x}"),
            Self::Ports(_, ranges) => {
                let ranges: Vec<_> = ranges.iter().map(port_text).collect();
                f.write_str(&ranges.join(","))
            }
            Self::Addresses(from, to, family) => {
                let from = crate::network::address_text(*family, from);
                let to = crate::network::address_text(*family, to);
                write!(f, "{from}-{to}")
            }
            Self::Icmp(255, None | Some(255)) => f.write_str("any"),
            Self::Icmp(kind, None) => write!(f, "{kind}"),
            Self::Icmp(kind, Some(code)) => write!(f, "{kind}/{code}"),
            Self::Mac(bytes) => {
                let bytes: Vec<_> = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
                f.write_str(&bytes.join(":"))
            }
            Self::Word(word, _) => f.write_str(word),
            Self::Words(words, _) => f.write_str(words),
            Self::Text(text) => f.write_str(&crate::print::save::quote(text)),
            Self::Quoted(bytes) => write!(f, "\"{}\"", quoted(bytes)),
            Self::Bytes(bytes) => write!(f, "\"|{}|\"", hexadecimal(bytes)),
            Self::Probability(share) => {
                write!(f, "{:.11}", f64::from(*share) / f64::from(1u32 << 31))
            }
            Self::Rate(period) => f.write_str(&super::counted::rate_text(*period)),
            Self::Burst(5) => f.write_str(Self::UNSAVED),
            Self::Burst(packets) => write!(f, "{packets}"),
            Self::TimeOfDay(seconds) => f.write_str(&super::time::time_text(*seconds)),
            Self::Date(seconds) => f.write_str(&super::time::date_text(*seconds, 'T')),
            Self::Address(address, family) => {
                f.write_str(&crate::network::address_text(*family, address))
            }
            Self::SourceRate(rate) => f.write_str(&rate.text()),
            Self::ByteBurst(times, rate) => {
                f.write_str(&super::rate::byte_burst_text(*times, *rate))
            }
            Self::Silent(_) => f.write_str(Self::UNSAVED),
            Self::Set(name, sides, _) => write!(f, "{} {sides}", crate::print::save::quote(name)),
            Self::Chunks(chunks) => write!(f, "{chunks}"),
            Self::FlowNetwork(address, network) => {
                let text = crate::network::address_text(network.family, address);
                let whole = super::sources::prefix_max(network.family);
                match network.prefix() {
                    Some(length) if length != u32::from(whole) => write!(f, "{text}/{length}"),
                    _ => f.write_str(&text),
                }
            }
            Self::Label(number) => write!(f, "\"{}\"", super::label::text(*number)),
        }
    }
}

fn port_text(range: &PortRange) -> String {
    match range {
        PortRange { first, last } if first == last => first.to_string(),
        PortRange { first, last } => format!("{first}:{last}"),
    }
}

pub(super) fn hexadecimal(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// With a backslash before quotes and backslashes, as iptables has it.
pub(super) fn quoted(bytes: &[u8]) -> String {
    let mut text = String::new();
    for byte in bytes {
        if matches!(byte, b'"' | b'\\') {
            text.push('\\');
        }
        text.push(char::from(*byte));
    }
    text
}

/// Reads what follows an option.
pub(super) fn parse(
    context: &Context<'_>,
    module: &'static str,
    option: &OptionSpec,
    text: &str,
) -> Result<Value, Problem> {
    let name = option.name;
    let said = |text: String| Err(Problem::Match(text));
    match option.form {
        Form::Nothing => Ok(Value::Nothing),
        Form::Number { least, most } => match number(text) {
            Some(number) if (least..=most).contains(&number) => Ok(Value::Number(number)),
            _ => said(format!(
                "{module}: bad value for option \"--{name}\", or out of range ({least}-{most})."
            )),
        },
        Form::Range { most } => match range(text, most) {
            Ok((low, high)) => Ok(Value::Range(low, high)),
            Err(part) => said(format!(
                "{module}: bad value for option \"--{name}\" near \"{part}\", or out of range (0-{most})."
            )),
        },
        Form::Mark => mark(text).ok_or_else(|| {
            Problem::Match(format!(
                "{module}: bad integer value for option \"--{name}\", or out of range."
            ))
        }),
        Form::Own(parse) | Form::Pair(parse) => parse(context, text),
    }
}

/// A decimal or hexadecimal number. Octal ones, which iptables takes, are refused: they are hardly
/// ever meant.
pub(super) fn number(text: &str) -> Option<u64> {
    if let Some(digits) = text.strip_prefix("0x").or(text.strip_prefix("0X")) {
        let plain = digits.bytes().all(|byte| byte.is_ascii_hexdigit());
        return u64::from_str_radix(digits, 16).ok().filter(|_| plain);
    }
    let plain = text == "0" || !text.starts_with('0');
    let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    text.parse().ok().filter(|_| plain && digits)
}

/// The error is the part that is wrong.
fn range(text: &str, most: u64) -> Result<(u64, u64), &str> {
    let part = |part: &str, default| match part {
        "" => Some(default),
        _ => number(part).filter(|number| *number <= most),
    };
    let Some((low, high)) = text.split_once(':') else {
        let number = number(text).filter(|number| *number <= most).ok_or(text)?;
        return Ok((number, number));
    };
    let low = part(low, 0).ok_or(text)?;
    Ok((low, part(high, most).ok_or(high)?))
}

fn mark(text: &str) -> Option<Value> {
    let number = |text: &str| number(text).and_then(|number| u32::try_from(number).ok());
    let (value, mask) = match text.split_once('/') {
        Some((value, mask)) => (number(value)?, number(mask)?),
        None => (number(text)?, u32::MAX),
    };
    Some(Value::Mark(value, mask))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn octal_numbers_are_refused() {
        assert_eq!(number("010"), None);
        assert_eq!(number("0x10"), Some(16));
        assert_eq!(number("0"), Some(0));
        assert_eq!(range("5:", 9), Ok((5, 9)));
        assert_eq!(range("5:10", 9), Err("10"));
    }
}
