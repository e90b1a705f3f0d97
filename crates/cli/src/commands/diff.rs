//! `keepstate diff`: how rulesets differ.

use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;
use keepstate_check::difference::{Change, What, difference};
use keepstate_engine::tuple::Family;
use keepstate_policy::Policy;

use crate::output::{Colour, Paint, stdout};
use crate::progress::while_waiting;
use crate::rules::parsed_file;
use crate::running::{InstanceArgument, rules_in_force};

/// Show what FILE would change of the rules in force, or of OLD.
///
/// Families that neither file speaks of are left out. Exit code 0 when nothing differs, 1 when
/// something does, 2 when that cannot be told.
#[derive(Debug, Args)]
pub(crate) struct Arguments {
    /// One file to compare with the rules in force, or OLD and NEW.
    #[arg(required = true, num_args = 1..=2, value_name = "FILE")]
    files: Vec<PathBuf>,

    /// A JSON document for programs.
    #[arg(long)]
    json: bool,

    #[command(flatten)]
    instance: InstanceArgument,
}

const DIFFERENT: u8 = 1;
const TROUBLE: u8 = 2;

pub(crate) fn run(arguments: &Arguments) -> ExitCode {
    let changes = compare(arguments).and_then(|changes| {
        print(arguments, &changes)?;
        Ok(changes)
    });
    match changes {
        Ok(changes) if changes.is_empty() => ExitCode::SUCCESS,
        Ok(_) => ExitCode::from(DIFFERENT),
        Err(error) => {
            eprintln!("keepstate: {error:#}");
            ExitCode::from(TROUBLE)
        }
    }
}

fn compare(arguments: &Arguments) -> anyhow::Result<Vec<Change>> {
    let mut families: Vec<Family> = Vec::new();
    let mut read = |file: &PathBuf, base: Policy| -> anyhow::Result<Policy> {
        let parsed = parsed_file(file)?;
        families.extend(&parsed.families);
        let mut policy = base;
        policy.merge(parsed);
        Ok(policy)
    };
    let (old, new) = match arguments.files.as_slice() {
        [old, new] => (read(old, Policy::default())?, read(new, Policy::default())?),
        [new, ..] => {
            let running = rules_in_force(&mut arguments.instance.connect()?)?;
            let new = read(new, running.clone())?;
            (running, new)
        }
        [] => (Policy::default(), Policy::default()),
    };
    let changes = while_waiting("comparing the rules", || difference(&old, &new, &families));
    Ok(changes)
}

fn print(arguments: &Arguments, changes: &[Change]) -> anyhow::Result<()> {
    let mut out = stdout();
    if arguments.json {
        serde_json::to_writer(&mut out, &serde_json::json!({ "changes": changes }))?;
        writeln!(out)?;
        out.flush()?;
        return Ok(());
    }
    let colour = Colour::of_stdout();
    let mut chain = None;
    for change in changes {
        let place = (change.family, change.table, change.chain.as_str());
        if chain.replace(place) != Some(place) {
            let (family, table, chain) = place;
            writeln!(out, "{family} {table} {chain}")?;
        }
        let (sign, paint, text) = describe(&change.what);
        let line = format!("{sign} {text}");
        writeln!(out, "  {}", colour.paint(paint, line))?;
    }
    out.flush()?;
    Ok(())
}

fn describe(what: &What) -> (char, Paint, String) {
    match what {
        What::ChainAdded => ('+', Paint::Good, "(the chain)".into()),
        What::ChainRemoved => ('-', Paint::Bad, "(the chain)".into()),
        What::Policy { old, new } => ('~', Paint::Doubtful, format!("policy {old} -> {new}")),
        What::Added { new, rule } => ('+', Paint::Good, format!("{new:<4} {rule}")),
        What::Removed { old, rule } => ('-', Paint::Bad, format!("{old:<4} {rule}")),
        What::Moved { old, new, rule } => ('>', Paint::Doubtful, format!("{old} -> {new}  {rule}")),
    }
}
