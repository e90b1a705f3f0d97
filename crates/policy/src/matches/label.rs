//! The match on labels of a flow.

use keepstate_engine::condition::kind;
use keepstate_engine::limits::LABELS_MAX;

use super::{Context, Form, Module, OptionSpec, Refusal, Value, not, value};
use crate::connlabel::LabelNames;
use crate::problem::Problem;

pub(super) static CONNLABEL: Module = Module::new(
    "connlabel",
    &[
        OptionSpec::new("label", Form::Own(label))
            .negatable()
            .must(),
        OptionSpec::new("set", Form::Nothing),
    ],
    |connlabel, numeric| {
        let given = &connlabel.given[0];
        let Value::Label(number) = given.value else {
            return String::new();
        };
        let sign = if given.negated { " !" } else { "" };
        let set = if connlabel.has("set") { " set" } else { "" };
        let names = LabelNames::read().unwrap_or_default();
        match names.name(number).filter(|_| !numeric) {
            Some(name) => format!(" connlabel{sign} '{name}'{set}"),
            None => format!(" connlabel{sign} {number}{set}"),
        }
    },
    |connlabel, lowered| {
        if let Some(given) = connlabel.given.first()
            && let Value::Label(number) = given.value
        {
            let sets = u32::from(connlabel.has("set"));
            lowered.ask_packet(kind::FLOW_LABEL, not(given.negated), &[number, sets]);
        }
    },
)
.refuse(|connlabel, _| match connlabel.given.first()?.value {
    Value::Label(number) if number >= LABELS_MAX => Some(Refusal {
        error: "Numerical result out of range",
        hint: format!("labels have numbers from 0 to {}", LABELS_MAX - 1),
    }),
    _ => None,
});

/// The largest number that iptables takes; the kernel refuses those from 128 on.
const NUMBER_MAX: u32 = u16::MAX as u32;

fn label(_: &Context<'_>, text: &str) -> Result<Value, Problem> {
    if text.is_empty() {
        let text = "Argument must have a minimum length of 1 characters".to_owned();
        return Err(Problem::Match(text));
    }
    let named = LabelNames::read().unwrap_or_default().number(text);
    let number = named.or_else(|| value::number(text)?.try_into().ok());
    match number.filter(|number| *number <= NUMBER_MAX) {
        Some(number) => Ok(Value::Label(number)),
        None => Err(Problem::Match(format!(
            "label '{text}' not found or invalid value"
        ))),
    }
}

/// The name of a label, or its number.
pub(super) fn text(number: u32) -> String {
    let names = LabelNames::read().unwrap_or_default();
    names
        .name(number)
        .map_or_else(|| number.to_string(), str::to_owned)
}
