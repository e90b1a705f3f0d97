//! Matches that remember something of each source: `recent` and `connlimit`.

use keepstate_engine::condition::{flag, kind, recent};
use keepstate_engine::limits::RECENT_STAMPS_MAX;
use keepstate_engine::tuple::Family;

use super::{Context, Extension, Form, Lowered, Module, OptionSpec, Refusal, Value, not, value};
use crate::network::Network;
use crate::problem::Problem;

const U32_MAX: u64 = u32::MAX as u64;

/// Bytes of the name of a list (`XT_RECENT_NAME_LEN`, less the end).
const RECENT_NAME_BYTES_MAX: usize = 199;

const NAME_DEFAULT: &str = "DEFAULT";

const OPERATIONS: [(&str, &str, u32); 4] = [
    ("set", "SET", recent::SET),
    ("rcheck", "CHECK", recent::CHECK),
    ("update", "UPDATE", recent::UPDATE),
    ("remove", "REMOVE", recent::REMOVE),
];

pub(super) static RECENT: Module = Module::new(
    "recent",
    &[
        OptionSpec::new("set", Form::Nothing)
            .negatable()
            .excludes(&["rcheck", "update", "remove"]),
        OptionSpec::new("rcheck", Form::Nothing)
            .negatable()
            .excludes(&["set", "update", "remove"]),
        OptionSpec::new("update", Form::Nothing)
            .negatable()
            .excludes(&["set", "rcheck", "remove"]),
        OptionSpec::new("remove", Form::Nothing)
            .negatable()
            .excludes(&["set", "rcheck", "update"]),
        OptionSpec::new(
            "seconds",
            Form::Number {
                least: 1,
                most: U32_MAX,
            },
        ),
        OptionSpec::new("reap", Form::Nothing).also("seconds"),
        OptionSpec::new(
            "hitcount",
            Form::Number {
                least: 0,
                most: U32_MAX,
            },
        ),
        OptionSpec::new("rttl", Form::Nothing).excludes(&["set", "remove"]),
        OptionSpec::new("name", Form::Own(name)),
        OptionSpec::new("mask", Form::Own(mask)),
        OptionSpec::new("rsource", Form::Nothing),
        OptionSpec::new("rdest", Form::Nothing),
    ],
    list_recent,
    lower_recent,
)
.check(|recent, _| match operation(recent) {
    Some(_) => Ok(()),
    None => Err(Problem::Match(
        "recent: you must specify one of `--set', `--rcheck' `--update' or `--remove'".into(),
    )),
})
.refuse(|recent, _| {
    let refusal = |hint: String| {
        Some(Refusal {
            error: "Invalid argument",
            hint,
        })
    };
    let only_asks = ["seconds", "hitcount", "reap"]
        .into_iter()
        .find(|option| recent.has(option));
    if let (true, Some(option)) = (recent.has("set") || recent.has("remove"), only_asks) {
        return refusal(format!(
            "\"--{option}\" goes with \"--rcheck\" and \"--update\" alone"
        ));
    }
    match recent.number("hitcount") {
        Some(hits) if hits > u64::from(RECENT_STAMPS_MAX) => refusal(format!(
            "of each address the last {RECENT_STAMPS_MAX} packets are remembered"
        )),
        _ => None,
    }
})
.complete(|recent, context| {
    if recent.number("hitcount") == Some(0) {
        recent.given.retain(|given| given.name != "hitcount");
    }
    // The last one counts.
    let side = |given: &&super::Given| matches!(given.name, "rsource" | "rdest");
    let last = recent.given.iter().rfind(side).map(|given| given.name);
    let last = last.unwrap_or("rsource");
    recent
        .given
        .retain(|given| !matches!(given.name, "rsource" | "rdest"));
    recent.default(last, Value::Nothing);
    recent.default("name", Value::Text(NAME_DEFAULT.into()));
    let all = match context.family {
        Family::V4 => [u32::MAX, 0, 0, 0],
        Family::V6 => [u32::MAX; 4],
    };
    recent.default("mask", Value::Address(all, context.family));
});

fn operation(extension: &Extension) -> Option<(&'static str, u32, bool)> {
    OPERATIONS.into_iter().find_map(|(name, listed, bit)| {
        let given = extension.find(name)?;
        Some((listed, bit, given.negated))
    })
}

fn name(_: &Context<'_>, text: &str) -> Result<Value, Problem> {
    let is_file = !text.is_empty() && text != "." && text != ".." && !text.contains('/');
    if !is_file || text.len() > RECENT_NAME_BYTES_MAX {
        return Err(Problem::Match(format!(
            "recent: bad value for option \"--name\": a list is named by 1 to {RECENT_NAME_BYTES_MAX} bytes without \"/\"."
        )));
    }
    Ok(Value::Text(text.into()))
}

fn mask(context: &Context<'_>, text: &str) -> Result<Value, Problem> {
    let network = Network::parse(context.family, text).ok();
    // Of IPv4 in four parts: `24` would stand for 0.0.0.24.
    let is_whole = context.family == Family::V6 || text.split('.').count() == 4;
    let whole = network.filter(|network| is_whole && network.is_single() && !text.contains('/'));
    match whole {
        Some(network) => Ok(Value::Address(network.address, context.family)),
        None => Err(Problem::Match(format!(
            "recent: bad value for option \"--mask\": \"{text}\" is no mask"
        ))),
    }
}

fn list_recent(extension: &Extension, _: bool) -> String {
    let Some((operation, _, negated)) = operation(extension) else {
        return String::new();
    };
    let sign = if negated { " !" } else { "" };
    let mut text = format!("{sign} recent: {operation}");
    if let Some(seconds) = extension.number("seconds") {
        text += &format!(" seconds: {seconds}");
    }
    if extension.has("reap") {
        text += " reap";
    }
    if let Some(hits) = extension.number("hitcount") {
        text += &format!(" hit_count: {hits}");
    }
    if extension.has("rttl") {
        text += " TTL-Match";
    }
    let side = match extension.has("rdest") {
        true => "dest",
        false => "source",
    };
    let mask = extension.find("mask").map(|given| given.value.to_string());
    text + &format!(
        " name: {} side: {side} mask: {}",
        recent_name(extension),
        mask.unwrap_or_default()
    )
}

/// The list that a match names.
pub(crate) fn recent_name(extension: &Extension) -> &str {
    match extension.find("name").map(|given| &given.value) {
        Some(Value::Text(name)) => name,
        _ => NAME_DEFAULT,
    }
}

fn lower_recent(extension: &Extension, lowered: &mut Lowered) {
    let Some((_, mut what, negated)) = operation(extension) else {
        return;
    };
    for (option, bit) in [("rttl", recent::TTL), ("reap", recent::REAP)] {
        if extension.has(option) {
            what |= bit;
        }
    }
    if negated {
        what |= recent::NOT;
    }
    let side = match extension.has("rdest") {
        true => flag::DESTINATION,
        false => 0,
    };
    let seconds = extension.number("seconds").unwrap_or(0) as u32;
    let hits = extension.number("hitcount").unwrap_or(0) as u32;
    let [low, high] = list_words(recent_list(recent_name(extension)));
    let data = [low, high, what, seconds, hits, recent_ring(hits)];
    let count = 1 << flag::COUNT_SHIFT;
    lowered.ask_packet(kind::RECENT, not(negated) | side | count, &data);
    let Some(Value::Address(mask, _)) = extension.find("mask").map(|given| &given.value) else {
        return;
    };
    lowered.ask_packet(kind::DATA, 0, mask);
}

/// Stamps that an entry keeps, less one, if one rule alone named its list.
fn recent_ring(hits: u32) -> u32 {
    match hits {
        0 => 31,
        hits => hits.next_power_of_two() - 1,
    }
}

/// The number of a list of `recent`, which both families share.
pub fn recent_list(name: &str) -> u64 {
    number("recent", name)
}

/// The number of a list of `hashlimit`, of which each family has its own.
pub fn rate_list(name: &str) -> u64 {
    number("hashlimit", name)
}

/// The number of what a rule with `connlimit` counts.
pub(crate) fn connections_list(rule: &str) -> u64 {
    number("connlimit", rule)
}

/// FNV-1a (Fowler, Noll, Vo), so that a list has the same number in each policy.
fn number(module: &str, name: &str) -> u64 {
    let bytes = module.bytes().chain([0]).chain(name.bytes());
    let hash = bytes.fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    });
    let number = hash & !keepstate_engine::meter::content::MASK;
    if number == 0 { 8 } else { number }
}

pub(crate) const fn list_words(number: u64) -> [u32; 2] {
    [number as u32, (number >> 32) as u32]
}

pub(super) static CONNLIMIT: Module = Module::new(
    "connlimit",
    &[
        OptionSpec::new(
            "connlimit-upto",
            Form::Number {
                least: 0,
                most: U32_MAX,
            },
        )
        .negatable()
        .excludes(&["connlimit-above"]),
        OptionSpec::new(
            "connlimit-above",
            Form::Number {
                least: 0,
                most: U32_MAX,
            },
        )
        .negatable()
        .excludes(&["connlimit-upto"]),
        OptionSpec::new(
            "connlimit-mask",
            Form::Own(|context, text| length(context, "connlimit", "connlimit-mask", text)),
        ),
        OptionSpec::new("connlimit-saddr", Form::Nothing).excludes(&["connlimit-daddr"]),
        OptionSpec::new("connlimit-daddr", Form::Nothing).excludes(&["connlimit-saddr"]),
    ],
    |connlimit, _| {
        let side = match connlimit.has("connlimit-daddr") {
            true => "dst",
            false => "src",
        };
        let (sign, limit) = match connlimit.number("connlimit-above") {
            Some(limit) => (">", limit),
            None => ("<=", connlimit.number("connlimit-upto").unwrap_or(0)),
        };
        let mask = connlimit.number("connlimit-mask").unwrap_or(0);
        format!(" #conn {side}/{mask} {sign} {limit}")
    },
    |connlimit, lowered| {
        let (above, limit) = match connlimit.number("connlimit-above") {
            Some(limit) => (true, limit),
            None => (false, connlimit.number("connlimit-upto").unwrap_or(0)),
        };
        let side = match connlimit.has("connlimit-daddr") {
            true => flag::DESTINATION,
            false => 0,
        };
        let mask = connlimit.number("connlimit-mask").unwrap_or(0);
        // The list is numbered by its rule: see `compile`.
        let data = [0, 0, limit as u32, mask as u32];
        lowered.ask_packet(kind::CONNECTIONS, not(!above) | side, &data);
    },
)
.check(
    |connlimit, _| match connlimit.has("connlimit-upto") || connlimit.has("connlimit-above") {
        true => Ok(()),
        false => Err(Problem::Match(
            "You must specify \"--connlimit-above\" or \"--connlimit-upto\".".into(),
        )),
    },
)
.complete(|connlimit, context| {
    for given in &mut connlimit.given {
        turn(given, "connlimit-upto", "connlimit-above");
    }
    let whole = u64::from(prefix_max(context.family));
    connlimit.default("connlimit-mask", Value::Number(whole));
    if !connlimit.has("connlimit-daddr") {
        connlimit.default("connlimit-saddr", Value::Nothing);
    }
});

/// What is not up to a limit is above it.
pub(super) fn turn(given: &mut super::Given, upto: &'static str, above: &'static str) {
    if !given.negated {
        return;
    }
    given.negated = false;
    given.name = match given.name {
        name if name == upto => above,
        _ => upto,
    };
}

pub(super) const fn prefix_max(family: Family) -> u8 {
    match family {
        Family::V4 => 32,
        Family::V6 => 128,
    }
}

/// Length of a prefix.
pub(super) fn length(
    context: &Context<'_>,
    module: &str,
    option: &str,
    text: &str,
) -> Result<Value, Problem> {
    let most = prefix_max(context.family);
    let number = value::number(text).or_else(|| {
        // A mask of IPv4, as long as it is the same as a length.
        let mask = Network::parse(Family::V4, text).ok();
        let mask = mask.filter(|mask| {
            context.family == Family::V4 && !text.contains('/') && mask.is_single()
        })?;
        let [word, ..] = mask.address;
        (word.leading_ones() == word.count_ones()).then_some(u64::from(word.count_ones()))
    });
    let number = number.filter(|length| *length <= u64::from(most));
    number.map(Value::Number).ok_or_else(|| {
        Problem::Match(format!(
            "{module}: bad value for option \"--{option}\", neither a valid network mask nor valid CIDR (0-{most})."
        ))
    })
}
