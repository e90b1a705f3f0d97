//! `keepstate doctor`: see [`crate::doctor`].

use std::io::Write;
use std::process::ExitCode;

use clap::Args;
use serde_json::json;

use crate::doctor;
use crate::health::{Finding, Severity};
use crate::output::{Colour, Paint, stdout};
use crate::progress::while_waiting;
use crate::running::InstanceArgument;

/// Something to warn of was found.
const FOUND: u8 = 1;

/// No daemon runs: only the host was looked at.
const ALONE: u8 = 3;

/// Look for what is wrong with the firewall that runs: each finding with its cause, its evidence, and the command
/// that mends it.
///
/// Exit code 0: nothing to warn of, notes aside; 1: something; 3: no daemon runs, and only the host was looked at.
#[derive(Debug, Args)]
pub(crate) struct Arguments {
    /// Print JSON.
    #[arg(long)]
    json: bool,

    #[command(flatten)]
    instance: InstanceArgument,
}

pub(crate) fn run(arguments: &Arguments) -> anyhow::Result<ExitCode> {
    let client = arguments.instance.connect_if_running()?;
    let is_alone = client.is_none();
    let findings = match client {
        Some(mut client) => while_waiting("looking", || doctor::examine(&mut client))?,
        None => doctor::examine_host(&arguments.instance.instance),
    };
    let mut out = stdout();
    if arguments.json {
        let findings: Vec<_> = findings.iter().map(Finding::to_json).collect();
        let document = json!({ "daemon": !is_alone, "findings": findings });
        serde_json::to_writer(&mut out, &document)?;
        writeln!(out)?;
    } else {
        print(&mut out, &findings)?;
    }
    out.flush()?;
    if is_alone {
        eprintln!("keepstate: no daemon is running: only the host was looked at");
        return Ok(ExitCode::from(ALONE));
    }
    let warns = findings
        .iter()
        .any(|finding| finding.severity != Severity::Note);
    Ok(if warns {
        ExitCode::from(FOUND)
    } else {
        ExitCode::SUCCESS
    })
}

fn print(out: &mut impl Write, findings: &[Finding]) -> std::io::Result<()> {
    let colour = Colour::of_stdout();
    if findings.is_empty() {
        return writeln!(out, "{}", colour.paint(Paint::Good, "nothing to warn of"));
    }
    for finding in findings {
        let paint = match finding.severity {
            Severity::Error => Paint::Bad,
            Severity::Warning => Paint::Doubtful,
            Severity::Note => Paint::Plain,
        };
        let severity = colour.paint(paint, finding.severity.name());
        writeln!(out, "{severity}: {} [{}]", finding.message, finding.name)?;
        writeln!(out, "  cause     {}", finding.cause)?;
        writeln!(out, "  evidence  {}", finding.evidence)?;
        if let Some(command) = &finding.command {
            writeln!(out, "  try       {command}")?;
        }
    }
    Ok(())
}
