//! `keepstate apply`: changes the rules in force.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::bail;
use clap::Args;
use keepstate_api::{Applied, ApplyMode, CONFIRM_SECONDS_MAX, Client, Reply, Request, RuleFile};

use super::daemon::rule_files;
use crate::lockout::{self, What};
use crate::progress::while_waiting;
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

    /// Bring the rules before back after so many seconds, unless `keepstate confirm` comes first.
    ///
    /// The daemon keeps the time, whatever becomes of this terminal. One that dies leaves the new rules
    /// filtering; the next one brings back what is overdue when it starts.
    #[arg(long, value_name = "SECONDS", conflicts_with = "check",
          value_parser = clap::value_parser!(u32).range(1..=i64::from(CONFIRM_SECONDS_MAX)))]
    confirm: Option<u32>,

    /// Apply even what would cut the connection that this command is given over.
    #[arg(long)]
    force: bool,

    #[command(flatten)]
    instance: InstanceArgument,
}

pub(crate) fn run(arguments: &Arguments) -> anyhow::Result<ExitCode> {
    let files = rule_files(Some(&arguments.file), arguments.file6.as_deref())?;
    let mode = match arguments.confirm {
        Some(seconds) => ApplyMode::Guarded { seconds },
        None if arguments.check => ApplyMode::Check,
        None => ApplyMode::Swap,
    };
    put(
        &mut arguments.instance.connect()?,
        files,
        mode,
        arguments.force,
    )
}

/// Puts rules in force, unless that would cut off whoever does it, and says what came of it.
pub(super) fn put(
    client: &mut Client,
    files: Vec<RuleFile>,
    mode: ApplyMode,
    force: bool,
) -> anyhow::Result<ExitCode> {
    let cuts = if force {
        Vec::new()
    } else {
        while_waiting("looking whom the rules would cut off", || {
            lockout::cuts(client, &files)
        })?
    };
    for cut in &cuts {
        eprintln!("keepstate: {cut}");
    }
    if cuts.iter().any(|cut| cut.what == What::Connection) {
        bail!(
            "these rules would cut the connection that you work over; nothing was changed. Apply them \
             all the same with --force, and best with --confirm 60"
        );
    }
    let request = Request::Apply { files, mode };
    match while_waiting("reading the rules, and putting them in force", || {
        client.ask(&request)
    })? {
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
        ApplyMode::Guarded { seconds } => {
            format!("In force for {seconds} seconds: {counts}. Keep them with `keepstate confirm`.")
        }
    }
}
