//! `-R`: commands of a file, one a line.

use std::io::{BufRead, BufReader};
use std::path::Path;

use super::act::Session;
use super::invocation::Invocation;
use super::options::Command;
use super::problem::Problem;
use crate::progress::{Progress, Watched};

/// Longest line, as for conntrack.
const LINE_BYTES_MAX: usize = 10_240;

/// Carries out the commands of a file, if all of them can be understood.
pub(super) fn run(path: &str, say: &mut dyn FnMut(&str)) -> Result<(), Problem> {
    let path = if path == "-" { "/dev/stdin" } else { path };
    let cannot = || Problem::Usage(format!("Failed to open file {path} for reading"));
    let file = Watched::open("reading", Some(Path::new(path))).map_err(|_| cannot())?;
    let mut invocations = Vec::new();
    for line in BufReader::new(file).lines() {
        let line = line.map_err(|_| cannot())?;
        if line.len() > LINE_BYTES_MAX {
            return Err(Problem::usage("Parameter too long!"));
        }
        let line = line.trim_start_matches([' ', '\t']);
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let arguments = words(line);
        let invocation = Invocation::parse(&arguments, say)?;
        check(invocation.command)?;
        invocations.push(invocation);
    }
    let mut session = Session::default();
    let progress = Progress::of("flows", invocations.len());
    for invocation in &invocations {
        session.run(invocation)?;
        progress.advance(1);
    }
    Ok(())
}

/// Only what changes flows may stand in a file.
fn check(command: Option<Command>) -> Result<(), Problem> {
    let name = match command {
        Some(
            Command::Create | Command::Add | Command::Update | Command::Delete | Command::Flush,
        ) => return Ok(()),
        Some(Command::List) => "-L",
        Some(Command::Get) => "-G",
        Some(Command::Event) => "-E",
        Some(Command::Version) => "-V",
        Some(Command::Help) => "-h",
        Some(Command::ListExpected) => "-L expect",
        Some(Command::CreateExpected) => "-C expect",
        Some(Command::DeleteExpected) => "-D expect",
        Some(Command::GetExpected) => "-G expect",
        Some(Command::FlushExpected) => "-F expect",
        Some(Command::EventExpected) => "-E expect",
        Some(Command::Count) => "-C",
        Some(Command::CountExpected) => "-C expect",
        Some(Command::Stats) => "-S",
        Some(Command::StatsExpected) => "-S expect",
        None => "unknown",
    };
    let message = format!("Cannot use command `{name}' with --load-file");
    Err(Problem::Usage(message))
}

/// The words of a line; one in double quotes may hold blanks, and a backslash there takes the next
/// character as it is.
fn words(line: &str) -> Vec<String> {
    let mut words = vec!["conntrack".to_owned()];
    let mut word = String::new();
    let mut is_quoted = false;
    let mut letters = line.chars();
    while let Some(letter) = letters.next() {
        match letter {
            '"' if is_quoted => {
                is_quoted = false;
                words.push(std::mem::take(&mut word));
            }
            '"' => is_quoted = true,
            '\\' if is_quoted => word.extend(letters.next()),
            ' ' | '\t' | '\n' if !is_quoted => {
                if !word.is_empty() {
                    words.push(std::mem::take(&mut word));
                }
            }
            letter => word.push(letter),
        }
    }
    if !word.is_empty() {
        words.push(word);
    }
    words
}
