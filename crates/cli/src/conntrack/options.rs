//! The options that every protocol has, and which command goes with which.

use super::getopt::{Key, Long, Takes};
use super::problem::Problem;

/// Options in the order in which conntrack complains about them, by their letters.
const LETTERS: &str = "sdrqptuze[]{}amifngocbjwl<>()";

/// The names that it calls them in complaints.
const NAMES: [&str; 29] = [
    "src",
    "dst",
    "reply-src",
    "reply-dst",
    "protonum",
    "timeout",
    "status",
    "zero",
    "event-mask",
    "tuple-src",
    "tuple-dst",
    "mask-src",
    "mask-dst",
    "nat-range",
    "mark",
    "id",
    "family",
    "src-nat",
    "dst-nat",
    "output",
    "secmark",
    "buffer-size",
    "any-nat",
    "zone",
    "label",
    "label-add",
    "label-del",
    "orig-zone",
    "reply-zone",
];

const LONGS: [(&str, char); 43] = [
    ("dump", 'L'),
    ("create", 'I'),
    ("add", 'A'),
    ("delete", 'D'),
    ("update", 'U'),
    ("get", 'G'),
    ("flush", 'F'),
    ("event", 'E'),
    ("counter", 'C'),
    ("stats", 'S'),
    ("version", 'V'),
    ("help", 'h'),
    ("orig-src", 's'),
    ("src", 's'),
    ("orig-dst", 'd'),
    ("dst", 'd'),
    ("reply-src", 'r'),
    ("reply-dst", 'q'),
    ("protonum", 'p'),
    ("timeout", 't'),
    ("status", 'u'),
    ("zero", 'z'),
    ("event-mask", 'e'),
    ("tuple-src", '['),
    ("tuple-dst", ']'),
    ("mask-src", '{'),
    ("mask-dst", '}'),
    ("nat-range", 'a'),
    ("mark", 'm'),
    ("secmark", 'c'),
    ("id", 'i'),
    ("family", 'f'),
    ("src-nat", 'n'),
    ("dst-nat", 'g'),
    ("output", 'o'),
    ("buffer-size", 'b'),
    ("any-nat", 'j'),
    ("zone", 'w'),
    ("label", 'l'),
    ("label-add", '<'),
    ("label-del", '>'),
    ("orig-zone", '('),
    ("reply-zone", ')'),
];

/// Long options of all protocols.
pub(super) fn longs() -> impl Iterator<Item = Long> {
    LONGS.into_iter().map(|(name, letter)| Long {
        name,
        takes: match letter {
            'S' | 'V' | 'h' | 'z' => Takes::Nothing,
            'i' => Takes::Optional,
            letter => takes(letter).unwrap_or(Takes::Nothing),
        },
        key: Key::Letter(letter),
    })
}

/// The name of a letter in complaints about its value.
pub(super) fn long_name(letter: char) -> &'static str {
    let found = LONGS.iter().find(|(_, other)| *other == letter);
    found.map_or("unknown", |(name, _)| name)
}

/// Whether a letter is an option, and has a value.
pub(super) const fn takes(letter: char) -> Option<Takes> {
    match letter {
        'h' | 'V' | 'S' | 'z' => Some(Takes::Nothing),
        'L' | 'I' | 'U' | 'D' | 'G' | 'E' | 'F' | 'A' | 'C' | 'n' | 'g' | 'j' | '>' => {
            Some(Takes::Optional)
        }
        's' | 'd' | 'r' | 'q' | 'p' | 't' | 'u' | 'e' | 'a' | '[' | ']' | '{' | '}' | 'm' | 'i'
        | 'f' | 'o' | 'c' | 'b' | 'w' | 'l' | '<' | '(' | ')' => Some(Takes::Value),
        _ => None,
    }
}

/// What to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Command {
    List,
    Create,
    Add,
    Update,
    Delete,
    Get,
    Flush,
    Event,
    Count,
    Stats,
    Version,
    Help,
    ListExpected,
    CreateExpected,
    DeleteExpected,
    GetExpected,
    FlushExpected,
    EventExpected,
    CountExpected,
    StatsExpected,
}

/// Letters of options that were given.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Given(u32);

impl Given {
    pub(super) fn add(&mut self, letter: char) {
        if let Some(index) = LETTERS.find(letter) {
            self.0 |= 1 << index;
        }
    }

    pub(super) fn has(self, letter: char) -> bool {
        LETTERS
            .find(letter)
            .is_some_and(|index| self.0 & (1 << index) != 0)
    }

    pub(super) fn has_any(self, letters: &str) -> bool {
        letters.chars().any(|letter| self.has(letter))
    }
}

/// Which options a command needs, and which it may have beside them.
struct Rules {
    needed: &'static str,
    allowed: &'static str,
}

impl Command {
    const fn rules(self) -> Rules {
        let (needed, allowed) = match self {
            Self::List => ("", "sdrqpuz{}mfngocjwl()"),
            Self::Create | Self::Add => ("pt", "sdrquamngw<()"),
            Self::Update => ("", "sdrqptu{}mifngol<>"),
            Self::Delete => ("", "sdrqptu{}mifngowl()"),
            Self::Get => ("p", "sdrqiol"),
            Self::Flush => ("", "f"),
            Self::Event => ("", "sdrqpe{}mfngocbjwl()"),
            Self::Help => ("", "p"),
            Self::ListExpected => ("", "fo"),
            Self::CreateExpected => ("sdpt[]{}", "rqu"),
            Self::DeleteExpected | Self::GetExpected => ("sdp", "rq"),
            Self::EventExpected => ("", "o"),
            Self::Version
            | Self::Count
            | Self::Stats
            | Self::FlushExpected
            | Self::CountExpected
            | Self::StatsExpected => ("", ""),
        };
        Rules { needed, allowed }
    }

    /// Whether it names one flow: by both addresses of one direction.
    pub(super) const fn names_a_flow(self) -> bool {
        matches!(self, Self::Create | Self::Add | Self::Get)
    }

    /// Complains about options that do not go with the command.
    pub(super) fn check(self, given: Given) -> Result<(), Problem> {
        let rules = self.rules();
        for (letter, name) in LETTERS.chars().zip(NAMES) {
            if !given.has(letter) && rules.needed.contains(letter) {
                return Err(needs(name));
            }
            let is_known = rules.needed.contains(letter) || rules.allowed.contains(letter);
            if given.has(letter) && !is_known {
                return Err(illegal(name));
            }
        }
        let is_named = |both: &str| both.chars().all(|letter| given.has(letter));
        if !self.names_a_flow() || is_named("sd") || is_named("rq") {
            return Ok(());
        }
        let reply_alone = given.has_any("rq") && !given.has_any("sd");
        Err(Problem::usage(if reply_alone {
            "you have to specify `--reply-src' and `--reply-dst'"
        } else {
            "you have to specify `--src' and `--dst'"
        }))
    }
}

pub(super) fn needs(name: &str) -> Problem {
    Problem::Usage(format!(
        "You need to supply the `--{name}' option for this command"
    ))
}

pub(super) fn illegal(name: &str) -> Problem {
    Problem::Usage(format!("Illegal option `--{name}' with this command"))
}
