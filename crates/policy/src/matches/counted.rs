//! Matches that remember something from packet to packet: `statistic` and `limit`.

use keepstate_engine::condition::kind;

use super::{Context, Extension, Form, Module, OptionSpec, Value, not, value};
use crate::problem::Problem;

const MODE_RANDOM: u32 = 0;
const MODE_NTH: u32 = 1;

pub(super) static STATISTIC: Module = Module::new(
    "statistic",
    &[
        OptionSpec::new("mode", Form::Own(mode)).must(),
        OptionSpec::new("probability", Form::Own(probability))
            .negatable()
            .excludes(&["every", "packet"]),
        OptionSpec::new(
            "every",
            Form::Number {
                least: 1,
                most: U32_MAX,
            },
        )
        .negatable()
        .excludes(&["probability"])
        .also("packet"),
        OptionSpec::new(
            "packet",
            Form::Number {
                least: 0,
                most: U32_MAX,
            },
        )
        .excludes(&["probability"])
        .also("every"),
    ],
    |statistic, _| {
        let mut text = " statistic".to_string();
        for given in &statistic.given {
            let sign = if given.negated { " !" } else { "" };
            text += &format!("{sign} {} {}", given.name, given.value);
        }
        text
    },
    |statistic, lowered| {
        if let Some(given) = statistic.find("probability")
            && let Value::Probability(share) = given.value
        {
            lowered.ask_packet(kind::RANDOM, not(given.negated), &[share]);
        }
        if let (Some(every), Some(packet)) = (statistic.number("every"), statistic.number("packet"))
        {
            let negated = statistic.find("every").is_some_and(|given| given.negated);
            let data = [every as u32 - 1, packet as u32];
            lowered.ask_packet(kind::NTH, not(negated), &data);
        }
    },
)
.check(|statistic, _| {
    let said = |text: &str| Err(Problem::Match(text.into()));
    let mode = match statistic.find("mode").map(|given| &given.value) {
        Some(Value::Word(_, mode)) => *mode,
        _ => MODE_RANDOM,
    };
    if mode == MODE_RANDOM && !statistic.has("probability") {
        return said("--probability must be specified when using random mode");
    }
    if mode == MODE_NTH && !statistic.has("every") && !statistic.has("packet") {
        return said("--every and --packet must be specified when using nth mode");
    }
    match (statistic.number("every"), statistic.number("packet")) {
        (Some(every), Some(packet)) if packet >= every => {
            said("the --packet p must be 0 <= p <= n-1")
        }
        _ => Ok(()),
    }
});

const U32_MAX: u64 = u32::MAX as u64;

fn mode(_: &Context<'_>, text: &str) -> Result<Value, Problem> {
    match text {
        "random" => Ok(Value::Word("random", MODE_RANDOM)),
        "nth" => Ok(Value::Word("nth", MODE_NTH)),
        _ => Err(Problem::Match(format!("Bad mode \"{text}\""))),
    }
}

fn probability(_: &Context<'_>, text: &str) -> Result<Value, Problem> {
    let share: Option<f64> = text.parse().ok();
    match share.filter(|share| (0.0..=1.0).contains(share)) {
        Some(share) => {
            let share = (share * f64::from(1u32 << 31)).round_ties_even();
            Ok(Value::Probability(share as u32))
        }
        None => Err(Problem::Match(
            "statistic: bad value for option \"--probability\", or out of range (0-1).".into(),
        )),
    }
}

/// What a rate is kept in.
const RATE_SCALE: u32 = 10_000;

const RATE_UNITS: [(&str, u32); 4] = [
    ("day", 24 * 60 * 60 * RATE_SCALE),
    ("hour", 60 * 60 * RATE_SCALE),
    ("min", 60 * RATE_SCALE),
    ("sec", RATE_SCALE),
];

/// Three an hour, if nothing else is said.
const RATE_DEFAULT: u32 = 60 * 60 * RATE_SCALE / 3;

const BURST_MAX: u64 = 10_000;

pub(super) static LIMIT: Module = Module::new(
    "limit",
    &[
        OptionSpec::new("limit", Form::Own(rate)),
        OptionSpec::new("limit-burst", Form::Own(burst)),
    ],
    |limit, _| {
        let (rate, burst) = rate_and_burst(limit);
        format!(" limit: avg {} burst {burst}", rate_text(rate))
    },
    |limit, lowered| {
        let (rate, burst) = rate_and_burst(limit);
        lowered.ask_packet(kind::LIMIT, 0, &[rate, burst]);
    },
)
.complete(|limit, _| {
    limit.default("limit", Value::Rate(RATE_DEFAULT));
    limit.default("limit-burst", Value::Burst(5));
});

fn rate_and_burst(limit: &Extension) -> (u32, u32) {
    let rate = match limit.find("limit").map(|given| &given.value) {
        Some(Value::Rate(rate)) => *rate,
        _ => RATE_DEFAULT,
    };
    let burst = match limit.find("limit-burst").map(|given| &given.value) {
        Some(Value::Burst(burst)) => *burst,
        _ => 5,
    };
    (rate, burst)
}

/// `5/hour`; a unit may be shortened to its first letter.
fn rate(_: &Context<'_>, text: &str) -> Result<Value, Problem> {
    let bad = || Problem::Match(format!("bad rate \"{text}\"'"));
    let (number, unit) = match text.split_once('/') {
        Some((number, unit)) => (number, unit),
        None => (text, "second"),
    };
    let unit = unit.to_ascii_lowercase();
    let units = [
        ("second", 1),
        ("minute", 60),
        ("hour", 3600),
        ("day", 86_400),
    ];
    let found = units
        .iter()
        .find(|(name, _)| !unit.is_empty() && name.starts_with(&unit));
    let (_, seconds) = found.ok_or_else(bad)?;
    let number = value::number(number)
        .filter(|number| *number > 0)
        .ok_or_else(bad)?;
    if number / seconds > u64::from(RATE_SCALE) {
        return Err(Problem::Match(format!("Rate too fast \"{text}\"")));
    }
    Ok(Value::Rate(
        (u64::from(RATE_SCALE) * seconds / number) as u32,
    ))
}

fn burst(_: &Context<'_>, text: &str) -> Result<Value, Problem> {
    match value::number(text) {
        // As iptables-nft has it: none is the default.
        Some(0) => Ok(Value::Burst(5)),
        Some(number) if number <= BURST_MAX => Ok(Value::Burst(number as u32)),
        _ => Err(Problem::Match(format!(
            "limit: bad value for option \"--limit-burst\", or out of range (0-{BURST_MAX})."
        ))),
    }
}

/// In the largest unit in which the number does not lose much.
pub(super) fn rate_text(period: u32) -> String {
    let mut unit = 1;
    while unit < RATE_UNITS.len() {
        let (_, ticks) = RATE_UNITS[unit];
        if period > ticks || !ticks.is_multiple_of(period) && ticks / period < ticks % period {
            break;
        }
        unit += 1;
    }
    let (name, ticks) = RATE_UNITS[unit - 1];
    format!("{}/{name}", ticks / period)
}

/// Whether the kernel takes a limit: credit must fit into 32 bits.
#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_are_printed_as_they_were_written() {
        for (period, text) in [
            (10_000, "1/sec"),
            (400, "25/sec"),
            (60_000, "10/min"),
            (12_000_000, "3/hour"),
            (172_800_000, "5/day"),
            (864_000_000, "1/day"),
        ] {
            assert_eq!(rate_text(period), text);
        }
    }
}
