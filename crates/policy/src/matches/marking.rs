//! The targets MARK and CONNMARK.

use keepstate_engine::condition::{SHIFT_RIGHT, kind};

use super::{Context, Extension, Form, Given, Module, OptionSpec, Refusal, Value};
use crate::problem::Problem;

const WORD: Form = Form::Number {
    least: 0,
    most: u32::MAX as u64,
};

const OTHERS_OF_MARK: &[&str] = &["set-xmark", "set-mark", "and-mark", "or-mark", "xor-mark"];

pub(super) static MARK: Module = Module::new(
    "MARK",
    &[
        OptionSpec::new("set-xmark", Form::Mark)
            .excludes(&["set-mark", "and-mark", "or-mark", "xor-mark"]),
        OptionSpec::new("set-mark", Form::Mark).excludes(&["and-mark", "or-mark", "xor-mark"]),
        OptionSpec::new("and-mark", WORD).excludes(&["or-mark", "xor-mark"]),
        OptionSpec::new("or-mark", WORD).excludes(&["xor-mark"]),
        OptionSpec::new("xor-mark", WORD),
    ],
    |mark, _| format!(" MARK {}", listed(mark)),
    |mark, lowered| {
        if let Some((value, mask)) = mark.exclusive_mark() {
            lowered.ask_packet(kind::SET_MARK, 0, &[mask, value]);
        }
    },
)
.check(|mark, _| match mark.is_empty() {
    true => {
        let text = "MARK: One of the --set-xmark, --{and,or,xor,set}-mark options is required";
        Err(Problem::Match(text.into()))
    }
    false => Ok(()),
})
.complete(|mark, _| mark.unite());

const SAVES: &[&str] = &["save-mark", "restore-mark"];

pub(super) static CONNMARK: Module = Module::new(
    "CONNMARK",
    &[
        OptionSpec::new("set-xmark", Form::Mark).excludes(&[
            "set-mark",
            "and-mark",
            "or-mark",
            "xor-mark",
            "save-mark",
            "restore-mark",
        ]),
        OptionSpec::new("set-mark", Form::Mark).excludes(&[
            "and-mark",
            "or-mark",
            "xor-mark",
            "save-mark",
            "restore-mark",
        ]),
        OptionSpec::new("and-mark", WORD).excludes(&[
            "or-mark",
            "xor-mark",
            "save-mark",
            "restore-mark",
        ]),
        OptionSpec::new("or-mark", WORD).excludes(&["xor-mark", "save-mark", "restore-mark"]),
        OptionSpec::new("xor-mark", WORD).excludes(SAVES),
        OptionSpec::new("save-mark", Form::Nothing).excludes(&["restore-mark"]),
        OptionSpec::new("restore-mark", Form::Nothing),
        OptionSpec::new("nfmask", WORD).excludes(&["mask"]),
        OptionSpec::new("ctmask", WORD).excludes(&["mask"]),
        OptionSpec::new("mask", WORD),
        OptionSpec::new("left-shift-mark", SHIFT),
        OptionSpec::new("right-shift-mark", SHIFT),
    ],
    list_flow_mark,
    |mark, lowered| {
        if let Some((value, mask)) = mark.exclusive_mark() {
            lowered.ask_packet(kind::SET_FLOW_MARK, 0, &[mask, value, mark.shift()]);
            return;
        }
        let (of_packet, of_flow) = mark.masks();
        let kind = match mark.has("save-mark") {
            true => kind::SAVE_MARK,
            false => kind::RESTORE_MARK,
        };
        lowered.ask_packet(kind, 0, &[of_packet, of_flow, mark.shift()]);
    },
)
.check(|mark, _| {
    let operations = OTHERS_OF_MARK.iter().chain(SAVES);
    match operations.into_iter().any(|name| mark.has(name)) {
        true => Ok(()),
        false => {
            let text = "CONNMARK target: No operation specified";
            Err(Problem::Match(text.into()))
        }
    }
})
.refuse(|mark, _| {
    let is_too_far = SHIFTS.iter().any(|name| mark.number(name) == Some(32));
    is_too_far.then(|| Refusal {
        error: "Invalid argument",
        hint: "a mark of 32 bits is shifted by 31 at most".into(),
    })
})
.complete(complete_flow_mark);

const SHIFT: Form = Form::Number { least: 0, most: 32 };

const SHIFTS: [&str; 2] = ["left-shift-mark", "right-shift-mark"];

fn complete_flow_mark(mark: &mut Extension, _: &Context<'_>) {
    // The one that was given last counts.
    let is_shift = |given: &&Given| SHIFTS.contains(&given.name);
    let last = mark.given.iter().rfind(is_shift).map(|given| given.name);
    let is_void = |given: &Given| {
        SHIFTS.contains(&given.name)
            && (Some(given.name) != last || given.value == Value::Number(0))
    };
    mark.given.retain(|given| !is_void(given));
    let shared = mark.number("mask");
    mark.given.retain(|given| given.name != "mask");
    if !SAVES.iter().any(|name| mark.has(name)) {
        let of_flow = shared.or(mark.number("ctmask"));
        mark.given
            .retain(|given| !matches!(given.name, "nfmask" | "ctmask"));
        mark.unite();
        if let (Some(mask), Some((value, u32::MAX))) = (of_flow, mark.exclusive_mark()) {
            mark.set_exclusive(value, mask as u32);
        }
        return;
    }
    for name in ["nfmask", "ctmask"] {
        let given = mark.number(name).or(shared).unwrap_or(u32::MAX.into());
        mark.given.retain(|given| given.name != name);
        mark.default(name, Value::HexadecimalWord(given as u32));
    }
}

fn list_flow_mark(mark: &Extension, _: bool) -> String {
    let shifts = SHIFTS.iter().filter_map(|name| {
        let bits = mark.number(name)?;
        Some(format!(" {name} {bits}"))
    });
    format!("{}{}", list_what_is_set(mark), shifts.collect::<String>())
}

fn list_what_is_set(mark: &Extension) -> String {
    if mark.exclusive_mark().is_some() {
        return format!(" CONNMARK {}", listed(mark));
    }
    let (of_packet, of_flow) = mark.masks();
    let masks = match (mark.has("save-mark"), of_packet, of_flow) {
        (_, u32::MAX, u32::MAX) => String::new(),
        (_, a, b) if a == b => format!(" mask {a:#x}"),
        (true, ..) => format!(" nfmask {of_packet:#x} ctmask ~{of_flow:#x}"),
        (false, ..) => format!(" ctmask {of_flow:#x} nfmask ~{of_packet:#x}"),
    };
    let name = if mark.has("save-mark") {
        "save"
    } else {
        "restore"
    };
    format!(" CONNMARK {name}{masks}")
}

/// `set 0x5`, with the plainest word for it.
fn listed(mark: &Extension) -> String {
    match mark.exclusive_mark() {
        None => String::new(),
        Some((0, mask)) => format!("and {:#x}", !mask),
        Some((value, mask)) if value == mask => format!("or {value:#x}"),
        Some((value, 0)) => format!("xor {value:#x}"),
        Some((value, u32::MAX)) => format!("set {value:#x}"),
        Some((value, mask)) => format!("xset {value:#x}/{mask:#x}"),
    }
}

impl Extension {
    /// The operation in one form for all: bits that are cleared, and then turned over.
    fn unite(&mut self) {
        let number = |name| self.number(name).map(|number| number as u32);
        let of_mark = |name| match self.find(name).map(|given| &given.value) {
            Some(Value::Mark(value, mask)) => Some((*value, *mask)),
            _ => None,
        };
        let united = of_mark("set-xmark")
            .or(of_mark("set-mark").map(|(value, mask)| (value, mask | value)))
            .or(number("and-mark").map(|bits| (0, !bits)))
            .or(number("or-mark").map(|bits| (bits, bits)))
            .or(number("xor-mark").map(|bits| (bits, 0)));
        if let Some((value, mask)) = united {
            self.set_exclusive(value, mask);
        }
    }

    fn set_exclusive(&mut self, value: u32, mask: u32) {
        self.given
            .retain(|given| !OTHERS_OF_MARK.contains(&given.name));
        self.given.push(Given {
            name: "set-xmark",
            negated: false,
            value: Value::ExclusiveMark(value, mask),
        });
    }

    /// As the engine has it.
    fn shift(&self) -> u32 {
        let bits = |name| self.number(name).map(|bits| bits as u32);
        let right = bits("right-shift-mark").map(|bits| bits | SHIFT_RIGHT);
        right.or(bits("left-shift-mark")).unwrap_or(0)
    }

    fn exclusive_mark(&self) -> Option<(u32, u32)> {
        match self.find("set-xmark")?.value {
            Value::ExclusiveMark(value, mask) => Some((value, mask)),
            _ => None,
        }
    }

    /// Masks of packet and flow.
    fn masks(&self) -> (u32, u32) {
        let word = |name| match self.find(name).map(|given| &given.value) {
            Some(Value::HexadecimalWord(word)) => *word,
            _ => u32::MAX,
        };
        (word("nfmask"), word("ctmask"))
    }
}
