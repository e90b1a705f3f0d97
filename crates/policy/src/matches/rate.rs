//! `-m hashlimit`: a rate for each source, destination or port.

use keepstate_engine::condition::{flag, kind, rate};
use keepstate_engine::tuple::Family;

use super::sources::{length, list_words, prefix_max, rate_list, turn};
use super::{Context, Extension, Form, Lowered, Module, OptionSpec, Refusal, Value, value};
use crate::problem::Problem;

/// What the cost of a packet is kept in: millionths of a second.
const SCALE: u64 = 1_000_000;

/// Credit of more than a day and a half does not fit into 64 bits, at most rates of jiffies.
const CREDIT_MAX: u64 = 36 * 60 * 60 * SCALE;

/// Bytes are counted in these.
const BYTE_SHIFT: u32 = 4;

const UNITS: [(&str, u64); 4] = [
    ("day", 24 * 60 * 60),
    ("hour", 60 * 60),
    ("min", 60),
    ("sec", 1),
];

const BYTE_UNITS: [(&str, u64); 3] = [("mb", 1024 * 1024), ("kb", 1024), ("b", 1)];

const BURST_DEFAULT: u64 = 5;
const BURST_MAX: u64 = 1_000_000;

/// Seconds for which an entry is kept that counts bytes, without and with a burst.
const BYTE_SECONDS: u64 = 15;
const BYTE_BURST_SECONDS: u64 = 60;

const GC_MILLISECONDS: u64 = 1000;

/// Buckets that a table has, as Linux has them on a machine with a gigabyte or more; each stands for eight
/// entries that there may be.
const BUCKETS: u64 = 8192;
const ENTRIES_PER_BUCKET: u64 = 8;

const NAME_BYTES_MAX: usize = 254;

const U32_MAX: u64 = u32::MAX as u64;

const MODES: [(&str, u32); 4] = [
    ("srcip", rate::SOURCE),
    ("srcport", rate::SOURCE_PORT),
    ("dstip", rate::DESTINATION),
    ("dstport", rate::DESTINATION_PORT),
];

const fn number(name: &'static str, least: u64) -> OptionSpec {
    OptionSpec::new(
        name,
        Form::Number {
            least,
            most: U32_MAX,
        },
    )
}

pub(super) static HASHLIMIT: Module = Module::new(
    "hashlimit",
    &[
        OptionSpec::new(
            "hashlimit-upto",
            Form::Own(|_, text| rate_of("hashlimit-upto", text)),
        )
        .aliases(&["hashlimit"])
        .negatable()
        .excludes(&["hashlimit-above"]),
        OptionSpec::new(
            "hashlimit-above",
            Form::Own(|_, text| rate_of("hashlimit-above", text)),
        )
        .negatable()
        .excludes(&["hashlimit-upto"]),
        OptionSpec::new("hashlimit-burst", Form::Own(burst)),
        OptionSpec::new("hashlimit-mode", Form::Own(mode)),
        OptionSpec::new("hashlimit-name", Form::Own(name)).must(),
        number("hashlimit-htable-size", 0),
        number("hashlimit-htable-max", 0),
        number("hashlimit-htable-gcinterval", 0),
        number("hashlimit-htable-expire", 0),
        OptionSpec::new(
            "hashlimit-srcmask",
            Form::Own(|context, text| length(context, "hashlimit", "hashlimit-srcmask", text)),
        ),
        OptionSpec::new(
            "hashlimit-dstmask",
            Form::Own(|context, text| length(context, "hashlimit", "hashlimit-dstmask", text)),
        ),
        OptionSpec::new("hashlimit-rate-match", Form::Nothing),
        number("hashlimit-rate-interval", 1),
    ],
    list,
    lower,
)
.check(check)
.refuse(|hashlimit, _| {
    for name in ["hashlimit-htable-expire", "hashlimit-htable-gcinterval"] {
        if said(hashlimit, name) == Some(0) {
            return Some(Refusal {
                error: "Invalid argument",
                hint: format!("`--{name}' must be more than zero"),
            });
        }
    }
    let rate = rate_given(hashlimit).filter(|rate| !rate.is_bytes)?;
    let burst = said(hashlimit, "hashlimit-burst").unwrap_or(BURST_DEFAULT);
    (rate.cost.saturating_mul(burst) > CREDIT_MAX).then(|| Refusal {
        error: "Numerical result out of range",
        hint: "a burst may stand for a day and a half at most".into(),
    })
})
.complete(complete);

/// What is said of a rate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Rate {
    /// Millionths of a second for a packet; with `is_bytes` 2^32 by the number of sixteen bytes in a second.
    pub(crate) cost: u64,
    pub(crate) is_bytes: bool,
    /// Seconds of the unit that it was written in.
    seconds: u64,
}

/// Rates that are printed alike are alike.
impl Rate {
    pub(super) fn text(self) -> String {
        self.times(1).0
    }

    /// As it is listed for so many seconds together, and the seconds of the unit that it is printed in.
    fn times(self, interval: u64) -> (String, u64) {
        if self.is_bytes {
            let bytes = self.bytes();
            let mut units = BYTE_UNITS.iter();
            // The rate is kept as its inverse, and has lost what is behind a few digits.
            // Above 32 bits iptables' own mask clears what is higher, and it is printed in bytes.
            let whole = |size: u64| bytes & u64::from(!(size as u32 - 1));
            let is_same = |size: u64| bytes_cost(whole(size)) == self.cost;
            let unit = units.find(|(_, size)| bytes >= *size && is_same(*size));
            let (name, size) = unit.unwrap_or(&("b", 1));
            return (format!("{}{name}/s", bytes / size), BYTE_SECONDS);
        }
        let period = self.cost.saturating_mul(interval).max(1);
        let mut unit = 1;
        while unit < UNITS.len() {
            let ticks = UNITS[unit].1 * SCALE;
            if period > ticks || !ticks.is_multiple_of(period) && ticks / period < ticks % period {
                break;
            }
            unit += 1;
        }
        let (name, seconds) = UNITS[unit - 1];
        (format!("{}/{name}", seconds * SCALE / period), seconds)
    }

    /// Bytes in a second.
    fn bytes(self) -> u64 {
        let chunks = U32_MAX.checked_div(self.cost).unwrap_or(U32_MAX);
        (chunks - 1) << BYTE_SHIFT
    }
}

/// `5/min`, `512kb/s`.
fn rate_of(option: &str, text: &str) -> Result<Value, Problem> {
    let bad = || {
        Problem::Match(format!(
            "hashlimit: Bad value for \"--{option}\" option: \"{text}\""
        ))
    };
    let (amount, unit) = text.split_once('/').unwrap_or((text, "second"));
    let unit = unit.to_ascii_lowercase();
    let units = [
        ("second", 1),
        ("minute", 60),
        ("hour", 3600),
        ("day", 86_400),
    ];
    let mut units = units.iter();
    let found = units.find(|(name, _)| !unit.is_empty() && name.starts_with(&unit));
    let (_, seconds) = *found.ok_or_else(bad)?;
    if amount.ends_with('b') {
        let bytes = bytes(amount).filter(|_| seconds == 1).ok_or_else(bad)?;
        let cost = bytes_cost(bytes);
        if cost == 0 {
            return Err(Problem::Match(format!("Rate too high \"{text}\"")));
        }
        return Ok(Value::SourceRate(Rate {
            cost,
            is_bytes: true,
            seconds: BYTE_SECONDS,
        }));
    }
    let packets = value::number(amount)
        .filter(|number| *number > 0)
        .ok_or_else(bad)?;
    if packets / seconds > SCALE {
        return Err(Problem::Match(format!("Rate too fast \"{text}\"")));
    }
    Ok(Value::SourceRate(Rate {
        cost: SCALE * seconds / packets,
        is_bytes: false,
        seconds,
    }))
}

/// What one of so many bytes in a second costs.
const fn bytes_cost(bytes: u64) -> u64 {
    U32_MAX / ((bytes >> BYTE_SHIFT) + 1)
}

/// `10b`, `10kb`, `10mb`.
fn bytes(text: &str) -> Option<u64> {
    let mut units = BYTE_UNITS.iter();
    let (digits, size) = units.find_map(|(name, size)| Some((text.strip_suffix(name)?, size)))?;
    value::number(digits)?.checked_mul(*size)
}

/// In packets, or in bytes: what it is for is known once all options are.
fn burst(_: &Context<'_>, text: &str) -> Result<Value, Problem> {
    let number = match text.ends_with('b') {
        true => bytes(text).filter(|bytes| *bytes <= U32_MAX),
        false => value::number(text).filter(|packets| (1..=BURST_MAX).contains(packets)),
    };
    number.map(Value::Number).ok_or_else(|| {
        Problem::Match(format!(
            "bad value for option \"--hashlimit-burst\", or out of range (1-{BURST_MAX})."
        ))
    })
}

fn mode(_: &Context<'_>, text: &str) -> Result<Value, Problem> {
    let mut mask = 0;
    for word in text.split(',') {
        let mut modes = MODES.iter();
        let Some((_, bit)) = modes.find(|(name, _)| *name == word) else {
            return Err(Problem::Match(format!(
                "hashlimit: Bad value for \"--hashlimit-mode\" option: \"{text}\""
            )));
        };
        mask |= bit;
    }
    Ok(Value::Words(mode_text(mask, ","), mask))
}

fn mode_text(mask: u32, between: &str) -> String {
    let named = MODES.iter().filter(|(_, bit)| mask & bit != 0);
    let names: Vec<_> = named.map(|(name, _)| *name).collect();
    names.join(between)
}

fn name(_: &Context<'_>, text: &str) -> Result<Value, Problem> {
    let is_file = !text.is_empty() && text != "." && text != ".." && !text.contains('/');
    if !is_file || text.len() > NAME_BYTES_MAX {
        return Err(Problem::Match(format!(
            "hashlimit: bad value for option \"--hashlimit-name\": a table is named by 1 to {NAME_BYTES_MAX} bytes without \"/\"."
        )));
    }
    Ok(Value::Text(text.into()))
}

fn check(hashlimit: &Extension, _: &Context<'_>) -> Result<(), Problem> {
    let Some(rate) = rate_given(hashlimit) else {
        return Err(Problem::Match("You have to specify --hashlimit".into()));
    };
    match hashlimit.number("hashlimit-burst") {
        Some(burst) if rate.is_bytes && burst < rate.bytes() => Err(Problem::Match(format!(
            "burst cannot be smaller than {}b",
            rate.bytes()
        ))),
        _ => Ok(()),
    }
}

/// Drops what goes without saying.
fn complete(hashlimit: &mut Extension, context: &Context<'_>) {
    let Some(rate) = rate_given(hashlimit) else {
        return;
    };
    let burst = hashlimit.number("hashlimit-burst");
    for given in &mut hashlimit.given {
        turn(given, "hashlimit-upto", "hashlimit-above");
    }
    if let Some(given) = hashlimit
        .given
        .iter_mut()
        .find(|given| given.name == "hashlimit-burst")
        && let (true, Some(burst)) = (rate.is_bytes, burst)
    {
        given.value = Value::ByteBurst(burst.div_ceil(rate.bytes().max(1)), rate);
    }
    if !rate.is_bytes {
        hashlimit.default("hashlimit-burst", Value::Number(BURST_DEFAULT));
    }
    let (_, printed) = rate.times(1);
    let has_byte_burst = rate.is_bytes && burst.is_some();
    let written = if has_byte_burst {
        BYTE_BURST_SECONDS
    } else {
        rate.seconds
    };
    let printed = if has_byte_burst {
        BYTE_BURST_SECONDS
    } else {
        printed
    };
    hashlimit.default("hashlimit-htable-expire", Value::Number(written * 1000));
    let whole = u64::from(prefix_max(context.family));
    let is_match = hashlimit.has("hashlimit-rate-match");
    let plain = [
        ("hashlimit-htable-size", 0),
        ("hashlimit-htable-max", 0),
        ("hashlimit-htable-gcinterval", GC_MILLISECONDS),
        ("hashlimit-htable-expire", printed * 1000),
        ("hashlimit-srcmask", whole),
        ("hashlimit-dstmask", whole),
        ("hashlimit-rate-interval", 1),
    ];
    for given in &mut hashlimit.given {
        let Value::Number(number) = given.value else {
            continue;
        };
        let mut plain = plain.iter();
        let is_plain = plain.any(|(name, value)| *name == given.name && *value == number);
        if is_plain || given.name == "hashlimit-rate-interval" && !is_match {
            given.value = Value::Silent(number);
        }
    }
}

fn rate_given(hashlimit: &Extension) -> Option<Rate> {
    let given = hashlimit
        .find("hashlimit-upto")
        .or_else(|| hashlimit.find("hashlimit-above"))?;
    match given.value {
        Value::SourceRate(rate) => Some(rate),
        _ => None,
    }
}

/// A number that was given, whether it is printed or not.
fn said(hashlimit: &Extension, name: &str) -> Option<u64> {
    match hashlimit.find(name)?.value {
        Value::Number(number) | Value::Silent(number) | Value::ByteBurst(number, _) => Some(number),
        _ => None,
    }
}

fn list(hashlimit: &Extension, _: bool) -> String {
    let Some(rate) = rate_given(hashlimit) else {
        return String::new();
    };
    let interval = said(hashlimit, "hashlimit-rate-interval").unwrap_or(1);
    let (shown, mut seconds) = rate.times(interval);
    let sense = match hashlimit.has("hashlimit-above") {
        true => "above",
        false => "up to",
    };
    let mut text = format!(" limit: {sense} {shown}");
    if let Some(burst) = hashlimit.find("hashlimit-burst") {
        text += &format!(" burst {}", burst.value);
        if rate.is_bytes {
            seconds = BYTE_BURST_SECONDS;
        }
    }
    if let Some(Value::Words(_, mask)) = hashlimit.find("hashlimit-mode").map(|given| &given.value)
    {
        text += &format!(" mode {}", mode_text(*mask, "-"));
    }
    for (name, plain) in [
        ("htable-size", 0),
        ("htable-max", 0),
        ("htable-gcinterval", GC_MILLISECONDS),
        ("htable-expire", seconds * 1000),
    ] {
        match said(hashlimit, &format!("hashlimit-{name}")) {
            Some(number) if number != plain => text += &format!(" {name} {number}"),
            _ => {}
        }
    }
    for name in ["srcmask", "dstmask"] {
        if let Some(length) = hashlimit.number(&format!("hashlimit-{name}")) {
            text += &format!(" {name} {length}");
        }
    }
    if hashlimit.has("hashlimit-rate-match") {
        text += " rate-match";
        if interval != 1 {
            text += &format!(" rate-interval {interval}");
        }
    }
    text
}

/// Burst of bytes, in the largest unit that it fills.
pub(super) fn byte_burst_text(times: u64, rate: Rate) -> String {
    let bytes = rate.bytes().saturating_mul(times);
    let mut units = BYTE_UNITS.iter();
    let (name, size) = units.find(|(_, size)| bytes >= *size).unwrap_or(&("b", 1));
    format!("{}{name}", bytes / size)
}

fn lower(hashlimit: &Extension, lowered: &mut Lowered) {
    let Some(rate) = rate_given(hashlimit) else {
        return;
    };
    let number = |name: &str| said(hashlimit, name);
    let mut mode = match hashlimit.find("hashlimit-mode").map(|given| &given.value) {
        Some(Value::Words(_, mask)) => *mask,
        _ => 0,
    };
    for (is_set, bit) in [
        (hashlimit.has("hashlimit-above"), rate::ABOVE),
        (rate.is_bytes, rate::BYTES),
        (hashlimit.has("hashlimit-rate-match"), rate::MATCH),
    ] {
        if is_set {
            mode |= bit;
        }
    }
    let name = match hashlimit.find("hashlimit-name").map(|given| &given.value) {
        Some(Value::Text(name)) => name.as_str(),
        _ => "",
    };
    let [low, high] = list_words(rate_list(name));
    let whole = match lowered.family {
        Family::V4 => 32,
        Family::V6 => 128,
    };
    let length = |name| number(name).unwrap_or(whole) as u32;
    let buckets = match number("hashlimit-htable-size") {
        None | Some(0) => BUCKETS,
        Some(buckets) => buckets,
    };
    let most = match number("hashlimit-htable-max") {
        None | Some(0) => buckets.saturating_mul(ENTRIES_PER_BUCKET),
        Some(most) => most.max(buckets),
    };
    let data = [
        low,
        high,
        mode,
        length("hashlimit-srcmask") | length("hashlimit-dstmask") << 8,
        number("hashlimit-burst").unwrap_or(0) as u32,
        number("hashlimit-htable-expire").unwrap_or(0) as u32,
        most.min(U32_MAX) as u32,
    ];
    lowered.ask_packet(kind::RATE, 1 << flag::COUNT_SHIFT, &data);
    let interval = number("hashlimit-rate-interval").unwrap_or(1) as u32;
    let more = [rate.cost as u32, (rate.cost >> 32) as u32, interval];
    lowered.ask_packet(kind::DATA, 0, &more);
}
