//! Targets with options of their own, in the same form as the matches: REJECT, LOG and NFLOG.

use keepstate_engine::condition::{CAPTURE_WHOLE, kind};
use keepstate_engine::reject::{ADMIN_PROHIBITED_V6, RESET};
use keepstate_engine::tuple::Family;

use super::{Context, Extension, Form, Module, OptionSpec, Refusal, Value};
use crate::problem::Problem;

/// Longest prefix of LOG, in bytes; iptables cuts what is longer.
const LOG_PREFIX_BYTES_MAX: usize = 29;

/// Longest prefix of NFLOG, in bytes (`NF_LOG_PREFIXLEN`, less its end).
const NFLOG_PREFIX_BYTES_MAX: usize = 127;

const LEVEL_WARNING: u64 = 4;

/// The option `--reject-with` says it, the first whose name or alias begins so.
type Kind = (&'static str, &'static str, u32);

const KINDS_V4: [Kind; 8] = [
    ("icmp-net-unreachable", "net-unreach", 0),
    ("icmp-host-unreachable", "host-unreach", 1),
    ("icmp-proto-unreachable", "proto-unreach", 2),
    ("icmp-port-unreachable", "port-unreach", 3),
    ("icmp-net-prohibited", "net-prohib", 9),
    ("icmp-host-prohibited", "host-prohib", 10),
    ("tcp-reset", "tcp-rst", RESET),
    ("icmp-admin-prohibited", "admin-prohib", 13),
];

const KINDS_V6: [Kind; 7] = [
    ("icmp6-no-route", "no-route", 0),
    (
        "icmp6-adm-prohibited",
        "adm-prohibited",
        ADMIN_PROHIBITED_V6,
    ),
    ("icmp6-addr-unreachable", "addr-unreach", 3),
    ("icmp6-port-unreachable", "port-unreach", 4),
    ("tcp-reset", "tcp-reset", RESET),
    ("icmp6-policy-fail", "policy-fail", 5),
    ("icmp6-reject-route", "reject-route", 6),
];

const fn kinds(family: Family) -> &'static [Kind] {
    match family {
        Family::V4 => &KINDS_V4,
        Family::V6 => &KINDS_V6,
    }
}

pub(super) static REJECT: Module = Module::new(
    "REJECT",
    &[OptionSpec::new("reject-with", Form::Own(reject_kind))],
    listed,
    |_, _| {},
)
.complete(|reject, context| {
    let name = match context.family {
        Family::V4 => "icmp-port-unreachable",
        Family::V6 => "icmp6-port-unreachable",
    };
    let mut known = kinds(context.family).iter();
    if let Some((name, _, number)) = known.find(|(known, ..)| *known == name) {
        reject.default("reject-with", Value::Word(name, *number));
    }
})
.refuse(|reject, context| {
    let resets = reject.reject_kind() == Some(RESET);
    (resets && !context.is(6)).then(|| Refusal {
        error: "Invalid argument",
        hint: "a reset answers TCP alone: `-p tcp'".into(),
    })
});

fn reject_kind(context: &Context<'_>, text: &str) -> Result<Value, Problem> {
    let begins = |name: &str| {
        let beginning = name.get(..text.len());
        beginning.is_some_and(|beginning| beginning.eq_ignore_ascii_case(text))
    };
    let mut known = kinds(context.family).iter();
    let found = known.find(|(name, alias, _)| begins(name) || begins(alias));
    match found {
        Some((name, _, number)) => Ok(Value::Word(name, *number)),
        None => Err(Problem::Match(format!("unknown reject type \"{text}\""))),
    }
}

/// Name and number of the level, and as `-L` and `--log-level` may call it.
const LEVELS: [(&str, &str, u64); 9] = [
    ("emerg", "emerg", 0),
    ("alert", "alert", 1),
    ("crit", "crit", 2),
    ("err", "error", 3),
    ("warn", "warning", 4),
    ("notice", "notice", 5),
    ("info", "info", 6),
    ("debug", "debug", 7),
    ("emerg", "panic", 0),
];

pub(super) static LOG: Module = Module::new(
    "LOG",
    &[
        OptionSpec::new("log-prefix", Form::Own(log_prefix)),
        OptionSpec::new("log-level", Form::Own(log_level)),
        OptionSpec::new("log-tcp-sequence", Form::Nothing),
        OptionSpec::new("log-tcp-options", Form::Nothing),
        OptionSpec::new("log-ip-options", Form::Nothing),
        OptionSpec::new("log-uid", Form::Nothing),
        OptionSpec::new("log-macdecode", Form::Nothing),
    ],
    list_log,
    |log, lowered| {
        lowered.ask_packet(kind::LOG, 0, &[log.name_number()]);
    },
)
.complete(|log, _| {
    // The default goes without saying.
    log.given
        .retain(|given| given.value != Value::Number(LEVEL_WARNING));
});

/// The options that are flags, with their bits in the kernel and how `-L` names them.
const LOG_FLAGS: [(&str, u8, &str); 5] = [
    ("log-tcp-sequence", 0x01, "tcp-sequence"),
    ("log-tcp-options", 0x02, "tcp-options"),
    ("log-ip-options", 0x04, "ip-options"),
    ("log-uid", 0x08, "uid"),
    ("log-macdecode", 0x20, "macdecode"),
];

fn log_prefix(_: &Context<'_>, text: &str) -> Result<Value, Problem> {
    prefix(text, LOG_PREFIX_BYTES_MAX)
}

/// A prefix as it is kept, `most` bytes of it. iptables names `--log-prefix` for NFLOG's too.
fn prefix(text: &str, most: usize) -> Result<Value, Problem> {
    if text.is_empty() {
        let text = "Argument must have a minimum length of 1 characters";
        return Err(Problem::Match(text.into()));
    }
    if text.contains('\n') {
        let text = "Newlines not allowed in --log-prefix";
        return Err(Problem::Match(text.into()));
    }
    Ok(Value::Text(cut(text, most)))
}

/// The beginning of a text, without half a character at its end.
fn cut(text: &str, most: usize) -> String {
    let mut end = most.min(text.len());
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    text[..end].into()
}

fn log_level(_: &Context<'_>, text: &str) -> Result<Value, Problem> {
    let named = LEVELS.iter().find(|(_, name, _)| *name == text);
    let number = named.map(|(.., number)| *number);
    let number = number.or_else(|| super::value::number(text));
    match number.filter(|number| *number <= 7) {
        Some(number) => Ok(Value::Number(number)),
        None => Err(Problem::Match(format!("log level \"{text}\" unknown"))),
    }
}

fn list_log(log: &Extension, numeric: bool) -> String {
    let (level, flags) = (log.log_level(), log.log_flags());
    let mut text = String::from(" LOG");
    if numeric {
        text += &format!(" flags {flags} level {level}");
    } else {
        let name = LEVELS
            .iter()
            .find(|(.., number)| *number == u64::from(level));
        text += &format!(" level {}", name.map_or("", |(name, ..)| *name));
    }
    if let Some(prefix) = log.prefix() {
        text += &format!(" prefix \"{prefix}\"");
    }
    if !numeric {
        for (option, _, name) in LOG_FLAGS {
            if log.has(option) {
                text += &format!(" {name}");
            }
        }
    }
    text
}

pub(super) static NFLOG: Module = Module::new(
    "NFLOG",
    &[
        OptionSpec::new("nflog-prefix", Form::Own(nflog_prefix)),
        OptionSpec::new("nflog-group", SIXTEEN_BITS),
        OptionSpec::new(
            "nflog-size",
            Form::Number {
                least: 0,
                most: u32::MAX as u64,
            },
        ),
        OptionSpec::new("nflog-threshold", SIXTEEN_BITS),
        OptionSpec::new(
            "nflog-range",
            Form::Own(|_, _| {
                let text =
                    "NFLOG: `--nflog-range' never did anything; `--nflog-size' does what it says";
                Err(Problem::Match(text.into()))
            }),
        ),
    ],
    listed,
    |nflog, lowered| {
        let size = nflog.number("nflog-size");
        let size = size.map_or(CAPTURE_WHOLE, |size| size as u32);
        lowered.ask_packet(kind::CAPTURE, 0, &[nflog.name_number(), size]);
    },
)
.complete(|nflog, _| {
    let is_default = |name| matches!(name, "nflog-group" | "nflog-threshold");
    nflog
        .given
        .retain(|given| !is_default(given.name) || given.value != Value::Number(0));
});

const SIXTEEN_BITS: Form = Form::Number {
    least: 0,
    most: u16::MAX as u64,
};

fn nflog_prefix(_: &Context<'_>, text: &str) -> Result<Value, Problem> {
    prefix(text, NFLOG_PREFIX_BYTES_MAX)
}

/// The options as they are saved, without their dashes.
fn listed(extension: &Extension, _: bool) -> String {
    let mut text = String::new();
    for option in extension.module.options {
        if let Some(given) = extension.find(option.name) {
            text += &format!(" {} {}", option.saved, given.value);
        }
    }
    text
}

impl Extension {
    /// What REJECT answers with: a number that [`keepstate_engine::reject`] knows.
    pub(crate) fn reject_kind(&self) -> Option<u32> {
        match self.find("reject-with")?.value {
            Value::Word(_, number) => Some(number),
            _ => None,
        }
    }

    /// What tells this LOG or NFLOG from others: of its text, so that it outlives a change of the rules
    /// around it.
    pub(crate) fn name_number(&self) -> u32 {
        // FNV-1a: two of a few texts are alike by chance once in four thousand million.
        let text = self.to_string();
        let mix = |hash: u32, byte: u8| (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193);
        text.bytes().fold(0x811c_9dc5, mix)
    }

    /// The notes that LOG and NFLOG ask for.
    pub(crate) fn note(&self) -> Option<Note> {
        let target = match self.module.name {
            "LOG" => NoteTarget::Log {
                level: self.log_level(),
                flags: self.log_flags(),
            },
            "NFLOG" => NoteTarget::Capture {
                group: self.number("nflog-group").unwrap_or(0) as u16,
            },
            _ => return None,
        };
        Some(Note {
            number: self.name_number(),
            prefix: self.prefix().unwrap_or_default().into(),
            target,
        })
    }

    fn prefix(&self) -> Option<&str> {
        let given = self.find("log-prefix").or(self.find("nflog-prefix"))?;
        match &given.value {
            Value::Text(text) => Some(text),
            _ => None,
        }
    }

    fn log_level(&self) -> u8 {
        self.number("log-level").unwrap_or(LEVEL_WARNING) as u8
    }

    fn log_flags(&self) -> u8 {
        let flags = LOG_FLAGS.iter().filter(|(option, ..)| self.has(option));
        flags.fold(0, |bits, (_, bit, _)| bits | bit)
    }
}

/// What a LOG or NFLOG says of the packets that it matches, found by the number that comes with them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Note {
    pub number: u32,
    pub prefix: String,
    pub target: NoteTarget,
}

/// Where it says so.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NoteTarget {
    /// In the log: the level of syslog, and bits of `NF_LOG_*`.
    Log { level: u8, flags: u8 },
    /// In the capture of this number.
    Capture { group: u16 },
}
