//! The command lines of iptables, iptables-save and iptables-restore (1.8.9) and their namesakes for
//! IPv6, for the rules of Keepstate.
//!
//! A command is carried out by the daemon, so that two of them at once do not undo each other.

mod restore;
mod save;

use std::io::Write;
use std::path::Path;
use std::process::ExitCode;

use keepstate_api::{Client, ClientError, Instance, Printed, Reply, Request, RuleFamily};
use keepstate_engine::tuple::Family;
use keepstate_policy::{IPTABLES_VERSION, Policy};

use crate::progress::while_waiting;
use crate::running::unexpected;

/// Names the daemon that is meant, where several run: these programs have no option for it.
const INSTANCE_VARIABLE: &str = "KEEPSTATE_INSTANCE";

/// iptables' exit codes: a wrong command line, and a table that cannot be had.
const WRONG: u8 = 2;
const NO_TABLE: u8 = 3;

/// One of the programs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Program {
    family: Family,
    task: Task,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Task {
    Command,
    Save,
    Restore,
}

impl Program {
    /// The program of this name; `iptables-legacy` and `iptables-nft` are the same.
    pub(crate) fn named(name: &str) -> Option<Self> {
        let (family, rest) = match name.strip_prefix("ip6tables") {
            Some(rest) => (Family::V6, rest),
            None => (Family::V4, name.strip_prefix("iptables")?),
        };
        let variant = rest
            .strip_prefix("-legacy")
            .or_else(|| rest.strip_prefix("-nft"));
        let task = match variant.unwrap_or(rest) {
            "" => Task::Command,
            "-save" => Task::Save,
            "-restore" => Task::Restore,
            _ => return None,
        };
        Some(Self { family, task })
    }

    /// As messages name it.
    const fn name(self) -> &'static str {
        match (self.family, self.task) {
            (Family::V4, Task::Command) => "iptables",
            (Family::V4, Task::Save) => "iptables-save",
            (Family::V4, Task::Restore) => "iptables-restore",
            (Family::V6, Task::Command) => "ip6tables",
            (Family::V6, Task::Save) => "ip6tables-save",
            (Family::V6, Task::Restore) => "ip6tables-restore",
        }
    }

    const fn rule_family(self) -> RuleFamily {
        match self.family {
            Family::V4 => RuleFamily::V4,
            Family::V6 => RuleFamily::V6,
        }
    }

    /// Runs a command line; the arguments begin after the program's name.
    pub(crate) fn run(self, arguments: &[String]) -> ExitCode {
        let done = match self.task {
            Task::Command => self.command(arguments),
            Task::Save => save::run(self, arguments),
            Task::Restore => restore::run(self, arguments),
        };
        match done {
            Ok(code) => code,
            Err(failed) => {
                eprint!("{}", failed.message);
                ExitCode::from(failed.exit_code)
            }
        }
    }

    fn command(self, arguments: &[String]) -> Result<ExitCode, Failed> {
        // What can be said without a daemon is said without one.
        let alone = match Policy::default().apply_command(self.family, arguments) {
            Ok(output) if !output.stdout.is_empty() && asks_for_help(arguments) => {
                print!("{}", output.stdout);
                return Ok(ExitCode::SUCCESS);
            }
            Err(error) => Some(error),
            Ok(_) => None,
        };
        let mut client = match self.connect() {
            Ok(client) => client,
            Err(failed) => {
                return Err(match alone {
                    // It is wrong whatever the rules are.
                    Some(error) if error.exit_code() == WRONG => Failed {
                        message: error.iptables_text(self.name()),
                        exit_code: WRONG,
                    },
                    _ => failed,
                });
            }
        };
        let request = Request::Iptables {
            family: self.rule_family(),
            arguments: arguments.to_vec(),
        };
        self.print(&mut client, &request)
    }

    fn connect(self) -> Result<Client, Failed> {
        let name = std::env::var(INSTANCE_VARIABLE);
        let instance: Instance = match &name {
            Ok(name) => name
                .parse()
                .map_err(|error: keepstate_api::InstanceError| self.failed(&error.to_string()))?,
            Err(_) => Instance::default(),
        };
        Client::connect(&instance).map_err(|error| match error {
            ClientError::NotRunning(_) => {
                self.failed("no daemon is running: start one with `keepstate up'")
            }
            error => self.failed(&format!("{:#}", anyhow::Error::from(error))),
        })
    }

    /// Asks, and prints what the program would have printed.
    fn print(self, client: &mut Client, request: &Request) -> Result<ExitCode, Failed> {
        let reply = while_waiting("waiting for the rules", || client.ask(request))
            .map_err(|error| self.failed(&format!("{:#}", anyhow::Error::from(error))))?;
        let Reply::Printed(Printed {
            stdout,
            stderr,
            exit_code,
        }) = reply
        else {
            return Err(self.failed(&unexpected().to_string()));
        };
        eprint!("{stderr}");
        self.write(&stdout)?;
        Ok(ExitCode::from(exit_code))
    }

    /// A reader that went away is no failure.
    fn write(self, text: &str) -> Result<(), Failed> {
        match std::io::stdout().lock().write_all(text.as_bytes()) {
            Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => {
                Err(self.failed(&error.to_string()))
            }
            _ => Ok(()),
        }
    }

    /// The daemon could not be asked.
    fn failed(self, message: &str) -> Failed {
        Failed {
            message: format!("{} {IPTABLES_VERSION}: {message}\n", self.name()),
            exit_code: NO_TABLE,
        }
    }
}

/// What a program ends with.
struct Failed {
    message: String,
    exit_code: u8,
}

fn asks_for_help(arguments: &[String]) -> bool {
    let asks = |word: &String| matches!(word.as_str(), "-h" | "--help" | "-V" | "--version");
    arguments.iter().any(asks)
}

/// Whether the program was called by one of these names.
pub(crate) fn called(program: &Path) -> Option<Program> {
    Program::named(program.file_name()?.to_str()?)
}

/// Options of iptables-save and iptables-restore, as getopt reads them.
struct Options<'a> {
    arguments: std::slice::Iter<'a, String>,
    /// Letters of a word that are still to come.
    letters: &'a str,
}

/// An option, or a word that is none.
enum Item<'a> {
    Letter(char),
    Operand(&'a str),
    Unknown(String),
}

impl<'a> Options<'a> {
    fn new(arguments: &'a [String]) -> Self {
        Self {
            arguments: arguments.iter(),
            letters: "",
        }
    }

    /// The next item; `known` has a letter and a long name for each option.
    fn next(&mut self, known: &[(char, &str)]) -> Option<Item<'a>> {
        if self.letters.is_empty() {
            let word = self.arguments.next()?;
            if let Some(long) = word.strip_prefix("--").filter(|long| !long.is_empty()) {
                return Some(self.long(long, known));
            }
            match word.strip_prefix('-') {
                Some(letters) if !letters.is_empty() => self.letters = letters,
                _ => return Some(Item::Operand(word)),
            }
        }
        let mut letters = self.letters.chars();
        let letter = letters.next()?;
        self.letters = letters.as_str();
        if known.iter().any(|(known, _)| *known == letter) {
            return Some(Item::Letter(letter));
        }
        Some(Item::Unknown(format!("invalid option -- '{letter}'")))
    }

    /// A beginning is enough where only one option has it.
    fn long(&mut self, word: &'a str, known: &[(char, &str)]) -> Item<'a> {
        let (name, value) = match word.split_once('=') {
            Some((name, value)) => (name, Some(value)),
            None => (word, None),
        };
        let exact = known.iter().find(|(_, long)| *long == name);
        let mut begun = known.iter().filter(|(_, long)| long.starts_with(name));
        let only = begun.next().filter(|_| begun.next().is_none());
        match exact.or(only) {
            Some((letter, _)) => {
                // The argument is where that of a letter is.
                self.letters = value.unwrap_or_default();
                Item::Letter(*letter)
            }
            None => Item::Unknown(format!("unrecognized option '--{name}'")),
        }
    }

    /// The argument of the option that was just returned.
    fn argument(&mut self) -> Option<&'a str> {
        let attached = std::mem::take(&mut self.letters);
        if attached.is_empty() {
            return self.arguments.next().map(String::as_str);
        }
        Some(attached)
    }

    /// As [`Self::argument`], of an option that can do without.
    fn optional(&mut self) -> Option<&'a str> {
        let attached = std::mem::take(&mut self.letters);
        if !attached.is_empty() {
            return Some(attached);
        }
        let next = self.arguments.as_slice().first()?;
        let is_number = !next.is_empty() && next.bytes().all(|byte| byte.is_ascii_digit());
        is_number.then(|| self.arguments.next().map(String::as_str))?
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn programs_have_names() {
        let name = |text| Program::named(text).map(Program::name);
        assert_eq!(name("iptables"), Some("iptables"));
        assert_eq!(name("ip6tables-legacy"), Some("ip6tables"));
        assert_eq!(name("iptables-nft-save"), Some("iptables-save"));
        assert_eq!(name("ip6tables-restore"), Some("ip6tables-restore"));
        for other in ["iptables-apply", "keepstate", "iptablesx", "iptables-"] {
            assert_eq!(name(other), None, "{other}");
        }
    }

    #[test]
    fn options_are_read_as_getopt_reads_them() {
        let known = [('c', "counters"), ('t', "table"), ('w', "wait")];
        let words = [
            "-ct",
            "raw",
            "--tab=filter",
            "--coun",
            "-w",
            "5",
            "--wait",
            "file",
            "-x",
        ];
        let words: Vec<String> = words.map(String::from).to_vec();
        let mut options = Options::new(&words);
        let mut seen = String::new();
        while let Some(item) = options.next(&known) {
            seen += &match item {
                Item::Letter(letter @ 't') => format!("{letter}={:?} ", options.argument()),
                Item::Letter(letter @ 'w') => format!("{letter}={:?} ", options.optional()),
                Item::Letter(letter) => format!("{letter} "),
                Item::Operand(word) => format!("<{word}> "),
                Item::Unknown(message) => format!("{message} "),
            };
        }
        assert_eq!(
            seen,
            "c t=Some(\"raw\") t=Some(\"filter\") c w=Some(\"5\") w=None <file> invalid option -- 'x' "
        );
    }
}
