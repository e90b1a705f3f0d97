//! `keepstate save`: keeps the rules in force for the next start of the machine.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::Path;
use std::process::ExitCode;

use anyhow::{Context, bail};
use clap::Args;
use keepstate_api::{Client, Reply, Request};
use keepstate_policy::{ShowCounters, missing_sets, save, save_tables};

use crate::config::{self, ConfigArgument};
use crate::running::{InstanceArgument, rules_in_force, unexpected};
use crate::when::now_as_date_prints_it;

/// Keep the rules in force: `keepstate up` puts them in force again after the machine was off.
///
/// They lie in rules.v4 and rules.v6 below /etc/keepstate, as iptables-save prints them.
#[derive(Debug, Args)]
pub(crate) struct Arguments {
    #[command(flatten)]
    config: ConfigArgument,

    #[command(flatten)]
    instance: InstanceArgument,
}

pub(crate) fn run(arguments: &Arguments) -> anyhow::Result<ExitCode> {
    let mut client = arguments.instance.connect()?;
    keep(&mut client, &arguments.config.directory())?;
    Ok(ExitCode::SUCCESS)
}

/// Writes both files, and says so.
fn keep(client: &mut Client, directory: &Path) -> anyhow::Result<()> {
    let Reply::Status(status) = client.ask(&Request::Status)? else {
        return Err(unexpected());
    };
    let waiting = status.policy.and_then(|policy| policy.confirm_within);
    if let Some(seconds) = waiting {
        bail!(
            "the rules in force wait for confirmation, {seconds} seconds more: keep them with \
             `keepstate confirm` first"
        );
    }
    let policy = rules_in_force(client)?;
    let named = [&policy.v4, &policy.v6].map(|ruleset| save_tables(ruleset, ShowCounters::No));
    if named
        .iter()
        .any(|text| !missing_sets(text, |_| false).is_empty())
    {
        bail!(
            "the rules name sets, which are not there yet when the machine starts: they would be refused, \
             and nothing would filter. Keep rules without sets, and put these in force behind \
             `keepstate set restore`"
        );
    }
    fs::create_dir_all(directory).with_context(|| directory.display().to_string())?;
    let when = now_as_date_prints_it();
    let rulesets = [&policy.v4, &policy.v6];
    for (ruleset, path) in rulesets.into_iter().zip(config::rule_files(directory)) {
        let text = save(ruleset, ShowCounters::No, &when);
        replace(&path, &text).with_context(|| path.display().to_string())?;
        println!("{}: {} rules", path.display(), ruleset.rule_count());
    }
    Ok(())
}

/// A machine that loses its power meanwhile has the old file or the new one.
fn replace(path: &Path, text: &str) -> io::Result<()> {
    let next = path.with_extension(format!("{}.new", std::process::id()));
    let written = File::create(&next).and_then(|mut file| {
        file.write_all(text.as_bytes())?;
        file.sync_all()
    });
    let moved = written.and_then(|()| fs::rename(&next, path));
    if moved.is_err() {
        let _ = fs::remove_file(&next);
    }
    moved
}
