//! `-p sctp` and `-p dccp` beside ports: chunks of SCTP, types and options of DCCP.

use std::fmt;

use keepstate_engine::condition::{chunk, kind};

use super::{Context, Extension, Form, Lowered, OptionSpec, Refusal, Value, not};
use crate::problem::Problem;

pub(super) const CHUNK_TYPES: OptionSpec =
    OptionSpec::new("chunk-types", Form::Pair(chunks)).negatable();

pub(super) const DCCP_TYPES: OptionSpec =
    OptionSpec::new("dccp-types", Form::Own(types)).negatable();

pub(super) const DCCP_OPTION: OptionSpec = OptionSpec::new(
    "dccp-option",
    Form::Number {
        least: 1,
        most: 255,
    },
)
.negatable();

/// Name, number, and letters of the flags from the highest bit that has one, as iptables has them.
struct Kind(&'static str, u8, &'static str);

/// In the order of their numbers: the place of each is its class (`chunk::class`).
const KINDS: [Kind; 22] = [
    Kind("DATA", 0, "IUBE"),
    Kind("INIT", 1, ""),
    Kind("INIT_ACK", 2, ""),
    Kind("SACK", 3, ""),
    Kind("HEARTBEAT", 4, ""),
    Kind("HEARTBEAT_ACK", 5, ""),
    Kind("ABORT", 6, "T"),
    Kind("SHUTDOWN", 7, ""),
    Kind("SHUTDOWN_ACK", 8, ""),
    Kind("ERROR", 9, ""),
    Kind("COOKIE_ECHO", 10, ""),
    Kind("COOKIE_ACK", 11, ""),
    Kind("ECN_ECNE", 12, ""),
    Kind("ECN_CWR", 13, ""),
    Kind("SHUTDOWN_COMPLETE", 14, "T"),
    Kind("I_DATA", 64, "IUBE"),
    Kind("ASCONF_ACK", 128, ""),
    Kind("RE_CONFIG", 130, ""),
    Kind("PAD", 132, ""),
    Kind("FORWARD_TSN", 192, ""),
    Kind("ASCONF", 193, ""),
    Kind("I_FORWARD_TSN", 194, ""),
];

const _: () = {
    let mut class = 0;
    while class < KINDS.len() {
        assert!(chunk::class(KINDS[class].1) as usize == class);
        class += 1;
    }
};

const MODES: [(&str, u32); 3] = [
    ("all", chunk::ALL),
    ("any", chunk::ANY),
    ("only", chunk::ONLY),
];

/// What `--chunk-types` says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Chunks {
    mode: u32,
    which: Which,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Which {
    All,
    None,
    /// Classes in their order, with mask and bits of the flags.
    Some(Vec<(usize, u8, u8)>),
}

fn chunks(_: &Context<'_>, text: &str) -> Result<Value, Problem> {
    let said = |text: String| Err(Problem::Match(text));
    let (mode, list) = text.split_once(' ').unwrap_or((text, ""));
    let Some((_, mode)) = MODES
        .iter()
        .find(|(name, _)| name.eq_ignore_ascii_case(mode))
    else {
        return said("Match type has to be one of \"ALL\", \"ANY\" or \"ONLY\"".into());
    };
    let which = match list {
        _ if list.eq_ignore_ascii_case("ALL") => Which::All,
        _ if list.eq_ignore_ascii_case("NONE") => Which::None,
        _ => Which::Some(listed_kinds(list)?),
    };
    Ok(Value::Chunks(Chunks { mode: *mode, which }))
}

fn listed_kinds(list: &str) -> Result<Vec<(usize, u8, u8)>, Problem> {
    let said = |text: String| Err(Problem::Match(text));
    let mut found: Vec<(usize, u8, u8)> = Vec::new();
    for word in list.split(',').filter(|word| !word.is_empty()) {
        let (name, letters) = word.split_once(':').unwrap_or((word, ""));
        let mut kinds = KINDS.iter();
        let Some(class) = kinds.position(|kind| kind.0.eq_ignore_ascii_case(name)) else {
            return said(format!("Unknown sctp chunk `{name}'"));
        };
        let at = match found.iter().position(|(known, ..)| *known == class) {
            Some(at) => at,
            None => {
                found.push((class, 0, 0));
                found.len() - 1
            }
        };
        let Kind(_, number, flags) = KINDS[class];
        for letter in letters.chars() {
            let Some(place) = flags.find(letter.to_ascii_uppercase()) else {
                return said(format!("Invalid flags for chunk type {number}"));
            };
            let bit = 1 << (flags.len() - 1 - place);
            let (_, mask, bits) = &mut found[at];
            *mask |= bit;
            if letter.is_ascii_uppercase() {
                *bits |= bit;
            }
        }
    }
    found.sort_unstable();
    Ok(found)
}

impl Chunks {
    /// With numbers in place of names if it is for a listing.
    fn text(&self, numeric: bool) -> String {
        let (mode, _) = MODES[self.mode as usize];
        let list = match &self.which {
            Which::All => "ALL".into(),
            Which::None => "NONE".into(),
            Which::Some(kinds) if kinds.is_empty() => "NONE".into(),
            Which::Some(kinds) => {
                let kinds = kinds.iter().map(|(class, mask, bits)| {
                    let Kind(name, number, flags) = KINDS[*class];
                    let name = match numeric {
                        true => format!("{number:#06X}"),
                        false => name.into(),
                    };
                    let letters = flags.chars().enumerate().filter_map(|(place, letter)| {
                        let bit = 1 << (flags.len() - 1 - place);
                        let is_set = bits & bit != 0;
                        let letter = if is_set {
                            letter
                        } else {
                            letter.to_ascii_lowercase()
                        };
                        (mask & bit != 0).then_some(letter)
                    });
                    let letters: String = letters.collect();
                    match letters.is_empty() {
                        true => name,
                        false => format!("{name}:{letters}"),
                    }
                });
                kinds.collect::<Vec<_>>().join(",")
            }
        };
        format!("{mode} {list}")
    }
}

impl fmt::Display for Chunks {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text(false))
    }
}

const TYPES: [&str; 11] = [
    "REQUEST", "RESPONSE", "DATA", "ACK", "DATAACK", "CLOSEREQ", "CLOSE", "RESET", "SYNC",
    "SYNCACK", "INVALID",
];

/// The last name stands for all numbers that have none.
const INVALID: u32 = 0xfc00;

fn types(_: &Context<'_>, text: &str) -> Result<Value, Problem> {
    let mut mask = 0;
    for word in text.split(',').filter(|word| !word.is_empty()) {
        let mut types = TYPES.iter();
        match types.position(|name| name.eq_ignore_ascii_case(word)) {
            Some(10) => mask |= INVALID,
            Some(number) => mask |= 1 << number,
            None => return Err(Problem::Match(format!("Unknown DCCP type `{word}'"))),
        }
    }
    if mask == 0 {
        return Err(Problem::Match("dccp: --dccp-types needs a type".into()));
    }
    let named = TYPES.iter().enumerate();
    let named = named.filter(|(number, _)| mask >> number & 1 != 0);
    let names: Vec<_> = named.map(|(_, name)| *name).collect();
    Ok(Value::Words(names.join(","), mask))
}

/// What follows the ports in a listing.
pub(super) fn list(own: &Extension, numeric: bool) -> String {
    let mut text = String::new();
    for given in &own.given {
        let sign = if given.negated { " !" } else { "" };
        match (&given.value, given.name) {
            (Value::Chunks(chunks), _) => text += &format!("{sign} {}", chunks.text(numeric)),
            (Value::Words(_, mask), _) if numeric => {
                let set = (0..16).filter(|number| mask >> number & 1 != 0);
                let numbers: Vec<_> = set.map(|number| number.to_string()).collect();
                text += &format!("{sign} {}", numbers.join(","));
            }
            (Value::Words(names, _), _) => text += &format!("{sign} {names}"),
            (Value::Number(number), _) => {
                text += &format!(" option={}{number}", sign.trim_start());
            }
            _ => {}
        }
    }
    text
}

pub(super) fn lower(own: &Extension, lowered: &mut Lowered) {
    for given in &own.given {
        let flags = not(given.negated);
        match &given.value {
            Value::Chunks(chunks) => {
                lowered.ask_packet(kind::SCTP_CHUNKS, flags, &words(chunks));
            }
            Value::Words(_, mask) => lowered.ask_packet(kind::DCCP_TYPES, flags, &[*mask]),
            Value::Number(number) => {
                lowered.ask_packet(kind::DCCP_OPTION, flags, &[*number as u32]);
            }
            _ => {}
        }
    }
}

fn words(chunks: &Chunks) -> [u32; 7] {
    let mut words = [0, chunks.mode, 0, 0, 0, 0, 0];
    match &chunks.which {
        // All 256 in one packet: none has that.
        Which::All => words[0] = u32::MAX >> 1 | 1 << chunk::NEVER,
        Which::None => {}
        Which::Some(kinds) => {
            let mut place = 2;
            for (class, mask, bits) in kinds {
                words[0] |= 1 << class;
                if *mask != 0 && place < words.len() {
                    let class = *class as u32 + 1;
                    words[place] = u32::from(*mask) | u32::from(*bits) << 8 | class << 16;
                    place += 1;
                }
            }
        }
    }
    words
}

/// The kernel asks for the protocol.
pub(super) fn refuse(context: &Context<'_>, number: u8, name: &str) -> Option<Refusal> {
    (!context.is(number)).then(|| Refusal {
        error: "Invalid argument",
        hint: format!("this match needs `-p {name}' before it"),
    })
}
