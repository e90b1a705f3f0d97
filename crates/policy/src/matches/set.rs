//! The match on sets, and the target that changes them.

use keepstate_engine::condition::kind;
use keepstate_engine::set::{TIMEOUT_OF_SET, side};

use super::{Context, Extension, Form, Lowered, Module, OptionSpec, Value, not};
use crate::problem::Problem;

/// Longest name of a set, in bytes (`IPSET_MAXNAMELEN`, less its end).
pub const SET_NAME_BYTES_MAX: usize = 31;

/// Sides that an option may name (`IPSET_DIM_MAX`).
const SIDES_MAX: usize = 6;

/// Options that name a set.
pub(crate) const NAMING: [&str; 3] = ["match-set", "add-set", "del-set"];

pub(super) static SET: Module = Module::new(
    "set",
    &[
        OptionSpec::new("match-set", Form::Pair(named))
            .aliases(&["set"])
            .negatable(),
        OptionSpec::new("return-nomatch", Form::Nothing),
        OptionSpec::new("update-counters", Form::Nothing).negatable(),
        OptionSpec::new("update-subcounters", Form::Nothing).negatable(),
        OptionSpec::new("packets-eq", Form::Own(counters)).negatable(),
        OptionSpec::new("packets-lt", Form::Own(counters)),
        OptionSpec::new("packets-gt", Form::Own(counters)),
        OptionSpec::new("bytes-eq", Form::Own(counters)).negatable(),
        OptionSpec::new("bytes-lt", Form::Own(counters)),
        OptionSpec::new("bytes-gt", Form::Own(counters)),
    ],
    |set, _| {
        let mut text = listed(set, "match-set", "");
        if set.has("return-nomatch") {
            text += " return-nomatch";
        }
        text
    },
    |set, lowered| {
        let mut flags = 0;
        if set.has("return-nomatch") {
            flags |= side::NOMATCH;
        }
        lowered.ask_set(set, "match-set", kind::SET, flags, 0);
    },
)
.check(|set, _| {
    if set.has("update-counters") || set.has("update-subcounters") {
        return Err(Problem::Match(NO_COUNTERS.into()));
    }
    let missing = "You must specify `--match-set' with proper arguments";
    needs(set, &["match-set"], missing)
});

pub(super) static TARGET: Module = Module::new(
    "SET",
    &[
        OptionSpec::new("add-set", Form::Pair(named)),
        OptionSpec::new("exist", Form::Nothing),
        OptionSpec::new(
            "timeout",
            Form::Number {
                least: 0,
                most: (u32::MAX - 1) as u64,
            },
        ),
        OptionSpec::new("del-set", Form::Pair(named)),
        OptionSpec::new("map-set", Form::Pair(mapping)),
    ],
    |set, _| {
        let mut text = listed(set, "add-set", "");
        if set.has("exist") {
            text += " exist";
        }
        if let Some(seconds) = set.number("timeout") {
            text += &format!(" timeout {seconds}");
        }
        text + &listed(set, "del-set", "")
    },
    |set, lowered| {
        let flags = if set.has("exist") { side::EXIST } else { 0 };
        let seconds = set
            .number("timeout")
            .map_or(TIMEOUT_OF_SET, |seconds| seconds as u32);
        lowered.ask_set(set, "add-set", kind::SET_ADD, flags, seconds);
        lowered.ask_set(set, "del-set", kind::SET_DEL, 0, 0);
    },
)
.check(|set, _| {
    let given = ["exist", "timeout"].into_iter().find(|name| set.has(name));
    if let Some(name) = given
        && set.has("del-set")
        && !set.has("add-set")
    {
        let text = format!("Flag `--{name}' can be used with `--add-set' only");
        return Err(Problem::Match(text));
    }
    needs(
        set,
        &["add-set", "del-set"],
        "You must specify either `--add-set' or `--del-set' or `--map-set'",
    )
});

fn needs(extension: &Extension, options: &[&str], missing: &str) -> Result<(), Problem> {
    match options.iter().any(|option| extension.has(option)) {
        true => Ok(()),
        false => Err(Problem::Match(missing.into())),
    }
}

fn listed(extension: &Extension, option: &str, before: &str) -> String {
    match extension.find(option) {
        Some(given) => {
            let sign = if given.negated { " !" } else { "" };
            format!("{before}{sign} {option} {}", given.value)
        }
        None => String::new(),
    }
}

const NO_COUNTERS: &str = "set: entries of sets have no counters here; rules have them";

fn counters(_: &Context<'_>, _: &str) -> Result<Value, Problem> {
    Err(Problem::Match(NO_COUNTERS.into()))
}

fn mapping(_: &Context<'_>, _: &str) -> Result<Value, Problem> {
    let text = "SET: entries of sets carry no marks here: `-j MARK --set-mark' behind `-m set'";
    Err(Problem::Match(text.into()))
}

/// A name, and the sides after the last space.
fn named(_: &Context<'_>, text: &str) -> Result<Value, Problem> {
    let said = |text: String| Err(Problem::Match(text));
    let (name, sides) = text.rsplit_once(' ').unwrap_or((text, ""));
    if name.is_empty() || name.len() > SET_NAME_BYTES_MAX {
        return said(format!(
            "setname `{name}' too long, max {SET_NAME_BYTES_MAX} characters."
        ));
    }
    let given: Vec<&str> = sides.split(',').collect();
    if given.len() > SIDES_MAX {
        return said(format!("Can't be more src/dst options than {SIDES_MAX}."));
    }
    if given.iter().any(|side| !matches!(*side, "src" | "dst")) {
        let text = "You must spefify (the comma separated list of) 'src' or 'dst'.";
        return said(text.into());
    }
    let is_source = |index: usize| given.get(index) == Some(&"src");
    let mut bits = 0;
    for (bit, is_set) in [
        (side::SOURCE, is_source(0)),
        (side::SECOND, given.len() > 1),
        (side::SECOND_SOURCE, is_source(1)),
    ] {
        if is_set {
            bits |= bit;
        }
    }
    Ok(Value::Set(name.into(), sides.into(), bits))
}

impl Lowered {
    /// Asks a set that an option names, if it is there.
    fn ask_set(&mut self, extension: &Extension, option: &str, kind: u16, flags: u32, last: u32) {
        let Some(given) = extension.find(option) else {
            return;
        };
        if let Value::Set(name, _, sides) = &given.value {
            self.sets.push((self.conditions.len(), name.clone()));
            // Entries come and go from packet to packet.
            self.ask_packet(kind, not(given.negated), &[0, sides | flags, last]);
        }
    }
}
