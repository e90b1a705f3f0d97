//! Matches on marks, counters and helper of a flow.

use keepstate_engine::condition::{flag, flow_counted, kind};
use keepstate_engine::helper;

use super::{Context, Extension, Form, Lowered, Module, OptionSpec, Value, not, value};
use crate::problem::Problem;

pub(super) static MARK: Module = Module::new(
    "mark",
    &[OptionSpec::new("mark", Form::Mark).negatable().must()],
    |mark, _| {
        let given = &mark.given[0];
        let sign = if given.negated { " !" } else { "" };
        format!(" mark match{sign} {}", given.value)
    },
    |mark, lowered| ask_mark(mark, kind::MARK, lowered),
);

pub(super) static CONNMARK: Module = Module::new(
    "connmark",
    &[OptionSpec::new("mark", Form::Mark).negatable().must()],
    |mark, _| {
        let given = &mark.given[0];
        let sign = if given.negated { "!" } else { "" };
        format!(" connmark match {sign} {}", given.value)
    },
    |mark, lowered| ask_mark(mark, kind::FLOW_MARK, lowered),
);

fn ask_mark(mark: &Extension, kind: u16, lowered: &mut Lowered) {
    if let Some(given) = mark.given.first()
        && let Value::Mark(value, mask) = given.value
    {
        lowered.ask_packet(kind, not(given.negated), &[mask, value]);
    }
}

pub(super) static CONNBYTES: Module = Module::new(
    "connbytes",
    &[
        OptionSpec::new("connbytes", Form::Own(bounds))
            .negatable()
            .must(),
        OptionSpec::new("connbytes-mode", Form::Own(mode)).must(),
        OptionSpec::new("connbytes-dir", Form::Own(direction)).must(),
    ],
    |connbytes, _| {
        let given = |name| {
            let given = connbytes.find(name);
            given
                .map(|given| given.value.to_string())
                .unwrap_or_default()
        };
        let negated = connbytes
            .find("connbytes")
            .is_some_and(|given| given.negated);
        let sign = if negated { " !" } else { "" };
        format!(
            "{sign} connbytes {} connbytes mode {} connbytes direction {}",
            given("connbytes"),
            given("connbytes-mode"),
            given("connbytes-dir")
        )
    },
    |connbytes, lowered| {
        let word = |name| match connbytes.find(name).map(|given| &given.value) {
            Some(Value::Word(_, number)) => *number,
            _ => 0,
        };
        if let Some(given) = connbytes.find("connbytes")
            && let Value::OpenRange(from, to) = given.value
        {
            let high = |number: u64| (number >> 32) as u32;
            let data = [
                word("connbytes-mode"),
                word("connbytes-dir"),
                high(from),
                from as u32,
                high(to),
                to as u32,
            ];
            lowered.ask_packet(kind::FLOW_COUNTERS, not(given.negated), &data);
        }
    },
);

fn bounds(_: &Context<'_>, text: &str) -> Result<Value, Problem> {
    let bad = |part: &str| {
        Problem::Match(format!(
            "connbytes: bad value for option \"--connbytes\" near \"{part}\", or out of range (0-{}).",
            u64::MAX
        ))
    };
    let number = |part: &str, default: u64| match part {
        "" => Ok(default),
        _ => value::number(part).ok_or_else(|| bad(part)),
    };
    let (from, to) = match text.split_once(':') {
        Some((from, to)) => (number(from, 0)?, number(to, u64::MAX)?),
        None => (number(text, 0)?, u64::MAX),
    };
    if to < from {
        return Err(Problem::Match(format!("{from} should be less than {to}")));
    }
    Ok(Value::OpenRange(from, to))
}

fn mode(_: &Context<'_>, text: &str) -> Result<Value, Problem> {
    let modes = [
        ("packets", flow_counted::PACKETS),
        ("bytes", flow_counted::BYTES),
        ("avgpkt", flow_counted::AVERAGE),
    ];
    word(&modes, text, "Unknown --connbytes-mode")
}

fn direction(_: &Context<'_>, text: &str) -> Result<Value, Problem> {
    let directions = [("original", 1), ("reply", 2), ("both", 3)];
    word(&directions, text, "Unknown --connbytes-dir")
}

fn word(known: &[(&'static str, u32)], text: &str, problem: &str) -> Result<Value, Problem> {
    let found = known.iter().find(|(name, _)| *name == text);
    match found {
        Some((name, number)) => Ok(Value::Word(name, *number)),
        None => Err(Problem::Match(format!("{problem} `{text}'"))),
    }
}

pub(super) static HELPER: Module = Module::new(
    "helper",
    &[OptionSpec::new("helper", Form::Own(helper_name))
        .negatable()
        .must()],
    |helper, _| {
        let given = &helper.given[0];
        let sign = if given.negated { "! " } else { "" };
        let Value::Text(name) = &given.value else {
            return String::new();
        };
        format!(" helper match {sign}\"{name}\"")
    },
    |helper, lowered| {
        if let Some(given) = helper.given.first()
            && let Value::Text(name) = &given.value
        {
            let known = helper::HELPERS.iter().find(|helper| helper.name == name);
            let number = match (name.as_str(), known) {
                ("", _) => 0,
                (_, Some(helper)) => helper.number.into(),
                (_, None) => NO_HELPER,
            };
            // What has no flow has no helper: `!' holds of it.
            let flags = match given.negated {
                true => flag::NOT | flag::WITH_STATE,
                false => 0,
            };
            lowered.ask_packet(kind::FLOW_HELPER, flags, &[number]);
        }
    },
);

/// A number that no helper has.
const NO_HELPER: u32 = 256;

/// Names of helpers have at most 29 bytes in the kernel's match.
const NAME_BYTES_MAX: usize = 29;

fn helper_name(_: &Context<'_>, text: &str) -> Result<Value, Problem> {
    if text.len() > NAME_BYTES_MAX {
        return Err(Problem::Match(format!(
            "helper: option \"--helper\": a name has at most {NAME_BYTES_MAX} characters"
        )));
    }
    Ok(Value::Text(text.into()))
}
