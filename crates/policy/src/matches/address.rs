//! `-m iprange`.

use keepstate_engine::condition::{flag, kind};

use super::{Context, Extension, Form, Given, Lowered, Module, OptionSpec, Value};
use crate::network::Network;
use crate::problem::Problem;

pub(super) static IPRANGE: Module = Module::new(
    "iprange",
    &[
        OptionSpec::new(
            "src-range",
            Form::Own(|context, text| range(context, "src", text)),
        )
        .negatable(),
        OptionSpec::new(
            "dst-range",
            Form::Own(|context, text| range(context, "dst", text)),
        )
        .negatable(),
    ],
    list,
    lower,
)
.check(|iprange, _| match iprange.given.is_empty() {
    true => Err(Problem::Match(
        "iprange match: You must specify `--src-range' or `--dst-range'".into(),
    )),
    false => Ok(()),
});

fn range(context: &Context<'_>, side: &str, text: &str) -> Result<Value, Problem> {
    let (from, to) = text.split_once('-').unwrap_or((text, text));
    let address = |text: &str| {
        let network = Network::parse(context.family, text).ok();
        let whole = network.filter(|network| network.is_single() && !text.contains('/'));
        whole.map(|network| network.address).ok_or_else(|| {
            Problem::Match(format!(
                "iprange: Bad value for \"--{side}-range\" option: \"{text}\""
            ))
        })
    };
    Ok(Value::Addresses(
        address(from)?,
        address(to)?,
        context.family,
    ))
}

fn list(iprange: &Extension, _: bool) -> String {
    let line = |given: &Given| {
        let side = if given.name == "src-range" {
            "source"
        } else {
            "destination"
        };
        let sign = if given.negated { " !" } else { "" };
        format!(" {side} IP range{sign} {}", given.value)
    };
    iprange.given.iter().map(line).collect()
}

fn lower(iprange: &Extension, lowered: &mut Lowered) {
    for given in &iprange.given {
        let Value::Addresses(from, to, _) = &given.value else {
            continue;
        };
        let side = if given.name == "dst-range" {
            flag::DESTINATION
        } else {
            0
        };
        let not = super::not(given.negated);
        let first = lowered.conditions.len();
        lowered.ask_flow(kind::ADDRESS_FROM, side | not, from);
        lowered.ask_flow(kind::ADDRESS_TO, side | not, to);
        if given.negated {
            lowered.join_since(first);
        }
    }
}
