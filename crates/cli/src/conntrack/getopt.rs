//! Options as `getopt_long` of the C library finds them, abbreviations and all.

use super::problem::Problem;

/// Whether an option has a value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Takes {
    Nothing,
    /// Only where it is written together with the option.
    Optional,
    Value,
}

/// A long option.
#[derive(Clone, Copy, Debug)]
pub(super) struct Long {
    pub(super) name: &'static str,
    pub(super) takes: Takes,
    pub(super) key: Key,
}

/// What an option means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Key {
    /// Its short form.
    Letter(char),
    /// An option of a protocol.
    Detail(super::protocol::Detail),
}

/// Looks through the arguments; those that are no options are passed over.
pub(super) struct Scanner<'a> {
    arguments: &'a [String],
    /// The argument after those that were used up.
    next: usize,
    /// What is left of a group of short options.
    group: &'a str,
    shorts: fn(char) -> Option<Takes>,
}

impl<'a> Scanner<'a> {
    /// The first argument is the program's name.
    pub(super) const fn new(arguments: &'a [String], shorts: fn(char) -> Option<Takes>) -> Self {
        Self {
            arguments,
            next: 1,
            group: "",
            shorts,
        }
    }

    /// The next option and its value. Long options are asked for each time: a protocol adds some.
    pub(super) fn option(
        &mut self,
        longs: &mut dyn Iterator<Item = Long>,
    ) -> Result<Option<(Key, Option<&'a str>)>, Problem> {
        if !self.group.is_empty() {
            return self.short().map(Some);
        }
        while let Some(argument) = self.arguments.get(self.next) {
            if argument == "--" {
                return Ok(None);
            }
            if let Some(long) = argument.strip_prefix("--") {
                self.next += 1;
                return self.long(long, longs).map(Some);
            }
            match argument.strip_prefix('-') {
                Some(group) if !group.is_empty() => {
                    self.group = group;
                    return self.short().map(Some);
                }
                _ => self.next += 1,
            }
        }
        Ok(None)
    }

    /// The argument after an option, if it is none itself: `-L expect`.
    pub(super) fn following(&mut self) -> Option<&'a str> {
        let argument = self.arguments.get(self.next)?;
        if argument.starts_with(['-', '!']) {
            return None;
        }
        self.next += 1;
        Some(argument)
    }

    fn short(&mut self) -> Result<(Key, Option<&'a str>), Problem> {
        let mut letters = self.group.chars();
        let letter = letters.next().unwrap_or_default();
        self.group = letters.as_str();
        if self.group.is_empty() {
            self.next += 1;
        }
        let key = Key::Letter(letter);
        match (self.shorts)(letter) {
            None => Err(self.unknown()),
            Some(Takes::Nothing) => Ok((key, None)),
            Some(_) if !self.group.is_empty() => {
                self.next += 1;
                let value = std::mem::take(&mut self.group);
                Ok((key, Some(value)))
            }
            Some(Takes::Optional) => Ok((key, None)),
            Some(Takes::Value) => self.value().map(|value| (key, Some(value))),
        }
    }

    fn long(
        &mut self,
        text: &'a str,
        longs: &mut dyn Iterator<Item = Long>,
    ) -> Result<(Key, Option<&'a str>), Problem> {
        let (name, value) = match text.split_once('=') {
            Some((name, value)) => (name, Some(value)),
            None => (text, None),
        };
        let fitting: Vec<Long> = longs.filter(|long| long.name.starts_with(name)).collect();
        let exact = fitting.iter().find(|long| long.name == name);
        let Some(long) = exact.or(fitting.first()) else {
            return Err(self.unknown());
        };
        let is_ambiguous = fitting.iter().any(|other| other.key != long.key);
        if exact.is_none() && is_ambiguous {
            return Err(self.unknown());
        }
        match (long.takes, value) {
            (Takes::Nothing, Some(_)) => Err(self.unknown()),
            (Takes::Value, None) => self.value().map(|value| (long.key, Some(value))),
            (_, value) => Ok((long.key, value)),
        }
    }

    fn value(&mut self) -> Result<&'a str, Problem> {
        let Some(value) = self.arguments.get(self.next) else {
            let message = format!("option `{}' requires an argument", self.last());
            return Err(Problem::Usage(message));
        };
        self.next += 1;
        Ok(value)
    }

    fn unknown(&self) -> Problem {
        Problem::Usage(format!("unknown option `{}'", self.last()))
    }

    fn last(&self) -> &str {
        match self.next {
            // conntrack names itself there, however it was called.
            0 | 1 => "conntrack",
            next => self.arguments.get(next - 1).map_or("", String::as_str),
        }
    }
}
