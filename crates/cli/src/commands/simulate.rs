//! `keepstate simulate`: attacks on the virtual clock.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, anyhow};
use clap::Args;
use keepstate_simulate::{CapturePlan, Scenario, html, run_watched, text};

use crate::output::stdout;
use crate::progress::Progress;
use crate::rules::read;

/// Play attacks and honest traffic through the engine, without rights and without packets.
///
/// The recogniser and the steps are those of the daemon. Scenarios are in examples/attacks.
#[derive(Debug, Args)]
pub(crate) struct Arguments {
    /// A scenario (TOML); `-` for standard input.
    scenario: PathBuf,

    /// Play a capture (pcap, pcapng) as honest traffic too, over and over, to the servers of the scenario.
    #[arg(long, value_name = "FILE")]
    capture: Vec<String>,

    /// Take these rules instead of the scenario's (iptables-save, or a script).
    #[arg(long, value_name = "FILE")]
    rules: Option<PathBuf>,

    /// The same seed gives the same report.
    #[arg(long, default_value_t = 1)]
    seed: u64,

    /// Print JSON.
    #[arg(long)]
    json: bool,

    /// Write a page with plots too.
    #[arg(long, value_name = "FILE")]
    html: Option<PathBuf>,
}

pub(crate) fn run(arguments: &Arguments) -> anyhow::Result<ExitCode> {
    let name = arguments.scenario.display().to_string();
    let scenario = Scenario::parse(&read(&arguments.scenario)?);
    let mut scenario = scenario.map_err(|error| anyhow!("{name}: {error}"))?;
    if let Some(path) = &arguments.rules {
        scenario.rules = read(path)?;
    }
    let directory = arguments.scenario.parent().unwrap_or(Path::new(""));
    let opened = scenario.open_captures(directory);
    opened.with_context(|| format!("{name}: a capture cannot be played"))?;
    let named = scenario.capture.len();
    let more = arguments.capture.iter().cloned();
    scenario.capture.extend(more.map(CapturePlan::of_file));
    scenario.open_captures_from(named, Path::new(""))?;
    let progress = Progress::of("playing seconds", scenario.seconds as usize);
    let report = run_watched(&scenario, arguments.seed, || progress.advance(1));
    progress.end();
    let report = report.with_context(|| name)?;
    if let Some(path) = &arguments.html {
        std::fs::write(path, html(&report)).with_context(|| path.display().to_string())?;
    }
    let mut out = stdout();
    if arguments.json {
        serde_json::to_writer_pretty(&mut out, &report)?;
        writeln!(out)?;
    } else {
        write!(out, "{}", text(&report))?;
    }
    out.flush()?;
    Ok(ExitCode::SUCCESS)
}
