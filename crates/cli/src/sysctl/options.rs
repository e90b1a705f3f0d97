//! The command line, understood as procps' sysctl does by the C library's `getopt_long`.

use super::pattern::Pattern;

/// What was asked for.
#[derive(Debug, Default)]
pub(super) struct Options {
    pub(super) all: bool,
    pub(super) write: bool,
    pub(super) dry_run: bool,
    pub(super) ignore: bool,
    pub(super) quiet: bool,
    pub(super) show: Show,
    /// `-b`: no line feed after a value.
    pub(super) bare: bool,
    /// `-p`, and the file that was written together with it.
    pub(super) load: Option<Option<String>>,
    pub(super) pattern: Option<Pattern>,
    pub(super) words: Vec<String>,
}

/// What is printed of a knob.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Show {
    #[default]
    Both,
    Values,
    Names,
}

/// What to do.
pub(super) enum Task {
    Run(Options),
    /// `--system`: what stands behind it is not looked at.
    System(Options),
    Help,
    Version,
    /// A wrong option, and what the C library says of it.
    Wrong(String),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Takes {
    Nothing,
    /// Only where it is written together with the option.
    Optional,
    Value,
}

const LONG: &[(&str, char, Takes)] = &[
    ("all", 'a', Takes::Nothing),
    ("deprecated", DEPRECATED, Takes::Nothing),
    ("dry-run", DRY_RUN, Takes::Nothing),
    ("binary", 'b', Takes::Nothing),
    ("ignore", 'e', Takes::Nothing),
    ("names", 'N', Takes::Nothing),
    ("values", 'n', Takes::Nothing),
    ("load", 'p', Takes::Optional),
    ("quiet", 'q', Takes::Nothing),
    ("write", 'w', Takes::Nothing),
    ("system", SYSTEM, Takes::Nothing),
    ("pattern", 'r', Takes::Value),
    ("help", 'h', Takes::Nothing),
    ("version", 'V', Takes::Nothing),
];

// Options without a letter.
const DEPRECATED: char = '\u{1}';
const DRY_RUN: char = '\u{2}';
const SYSTEM: char = '\u{3}';

fn short(letter: char) -> Option<Takes> {
    match letter {
        'b' | 'n' | 'e' | 'N' | 'w' | 'q' | 'o' | 'x' | 'a' | 'A' | 'X' | 'V' | 'd' | 'h' => {
            Some(Takes::Nothing)
        }
        'f' => Some(Takes::Nothing),
        'p' => Some(Takes::Optional),
        'r' => Some(Takes::Value),
        _ => None,
    }
}

/// Reads a command line; the first argument is the program's name.
pub(super) fn parse(arguments: &[String]) -> Task {
    let mut options = Options::default();
    let mut rest = arguments.iter().skip(1);
    while let Some(argument) = rest.next() {
        if argument == "--" {
            options.words.extend(rest.cloned());
            break;
        }
        let done = if let Some(long) = argument.strip_prefix("--") {
            options.long(long, &mut rest)
        } else if argument.len() > 1 && argument.starts_with('-') {
            options.group(&argument[1..], &mut rest)
        } else {
            options.words.push(argument.clone());
            None
        };
        match done {
            None => {}
            Some(Stop::System) => return Task::System(options),
            Some(Stop::Task(task)) => return task,
        }
    }
    Task::Run(options)
}

/// Why the rest of a command line is not looked at.
enum Stop {
    System,
    Task(Task),
}

fn wrong(message: String) -> Option<Stop> {
    Some(Stop::Task(Task::Wrong(message)))
}

impl Options {
    fn group<'a>(
        &mut self,
        group: &str,
        rest: &mut impl Iterator<Item = &'a String>,
    ) -> Option<Stop> {
        for (at, letter) in group.char_indices() {
            let joined = &group[at + letter.len_utf8()..];
            let value = match short(letter) {
                None => return wrong(format!("invalid option -- '{letter}'")),
                Some(Takes::Nothing) => {
                    let stop = self.take(letter, None);
                    if stop.is_some() {
                        return stop;
                    }
                    continue;
                }
                Some(Takes::Optional) => (!joined.is_empty()).then(|| joined.to_owned()),
                Some(Takes::Value) if !joined.is_empty() => Some(joined.to_owned()),
                Some(Takes::Value) => match rest.next() {
                    Some(value) => Some(value.clone()),
                    None => return wrong(format!("option requires an argument -- '{letter}'")),
                },
            };
            return self.take(letter, value);
        }
        None
    }

    fn long<'a>(
        &mut self,
        text: &str,
        rest: &mut impl Iterator<Item = &'a String>,
    ) -> Option<Stop> {
        let (name, value) = match text.split_once('=') {
            Some((name, value)) => (name, Some(value.to_owned())),
            None => (text, None),
        };
        let fitting: Vec<_> = LONG
            .iter()
            .filter(|(long, ..)| long.starts_with(name))
            .collect();
        let exact = fitting.iter().find(|(long, ..)| *long == name);
        let &&(long, letter, takes) = match (exact, fitting.as_slice()) {
            (Some(exact), _) => exact,
            (None, [only]) => only,
            (None, []) => return wrong(format!("unrecognized option '--{text}'")),
            (None, several) => {
                let names: Vec<String> = several
                    .iter()
                    .map(|(long, ..)| format!("'--{long}'"))
                    .collect();
                let names = names.join(" ");
                return wrong(format!(
                    "option '--{text}' is ambiguous; possibilities: {names}"
                ));
            }
        };
        let value = match (takes, value) {
            (Takes::Nothing, Some(_)) => {
                return wrong(format!("option '--{long}' doesn't allow an argument"));
            }
            (Takes::Value, None) => match rest.next() {
                Some(value) => Some(value.clone()),
                None => return wrong(format!("option '--{long}' requires an argument")),
            },
            (_, value) => value,
        };
        self.take(letter, value)
    }

    fn take(&mut self, letter: char, value: Option<String>) -> Option<Stop> {
        match letter {
            'b' => {
                self.bare = true;
                self.show_values();
            }
            'n' => self.show_values(),
            'e' => self.ignore = true,
            'N' => self.show = Show::Names,
            'w' => self.write = true,
            'f' | 'p' => {
                let earlier = self.load.take().flatten();
                self.load = Some(value.or(earlier));
            }
            'q' => self.quiet = true,
            'a' | 'A' | 'X' => self.all = true,
            'r' => self.pattern = value.map(|text| Pattern::new(&text)),
            DRY_RUN => self.dry_run = true,
            SYSTEM => return Some(Stop::System),
            'V' => return Some(Stop::Task(Task::Version)),
            'd' | 'h' => return Some(Stop::Task(Task::Help)),
            _ => {}
        }
        None
    }

    /// `-N` counts for more, wherever it stands.
    fn show_values(&mut self) {
        if self.show != Show::Names {
            self.show = Show::Values;
        }
    }
}
