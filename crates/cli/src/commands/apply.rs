//! `keepstate apply`: changes the rules in force.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;
use keepstate_api::{Applied, ApplyMode, Reply, Request};

use super::daemon::rule_files;
use crate::running::{InstanceArgument, unexpected};

/// Put rules in force, all at once or none.
///
/// FILE is what iptables-save prints, or a script of iptables commands. No packet sees half of it,
/// and flows stay. A family that the files say nothing of keeps its rules. Counters begin with
/// what the file says.
#[derive(Debug, Args)]
pub(crate) struct Arguments {
    /// Rules for IPv4, or for both when the file says so.
    file: PathBuf,

    /// Rules for IPv6.
    file6: Option<PathBuf>,

    /// Say what is wrong, and change nothing.
    #[arg(long)]
    check: bool,

    #[command(flatten)]
    instance: InstanceArgument,
}

pub(crate) fn run(arguments: &Arguments) -> anyhow::Result<ExitCode> {
    let files = rule_files(Some(&arguments.file), arguments.file6.as_deref())?;
    let mode = if arguments.check {
        ApplyMode::Check
    } else {
        ApplyMode::Swap
    };
    let mut client = arguments.instance.connect()?;
    match client.ask(&Request::Apply { files, mode })? {
        Reply::Applied(applied) => {
            for note in &applied.notes {
                eprintln!("{}", note.rendered);
            }
            println!("{}", summary(&applied));
            Ok(ExitCode::SUCCESS)
        }
        Reply::Refused { problems } => {
            for problem in &problems {
                eprintln!("{}", problem.rendered);
            }
            let errors = if problems.len() == 1 {
                "error"
            } else {
                "errors"
            };
            eprintln!(
                "keepstate: {} {errors}; nothing was changed",
                problems.len()
            );
            Ok(ExitCode::FAILURE)
        }
        _ => Err(unexpected()),
    }
}

fn summary(applied: &Applied) -> String {
    let named = ["IPv4", "IPv6"].into_iter().zip(applied.rules);
    let counts: Vec<String> = named
        .filter_map(|(family, count)| count.map(|count| format!("{count} rules for {family}")))
        .collect();
    let counts = if counts.is_empty() {
        "no rules".to_owned()
    } else {
        counts.join(", ")
    };
    match applied.mode {
        ApplyMode::Check => format!("Nothing is wrong with {counts}; nothing was changed."),
        ApplyMode::Swap => format!("In force: {counts}."),
    }
}
