//! `keepstate top`: see [`crate::top`].

use std::io::IsTerminal;
use std::process::ExitCode;

use anyhow::bail;
use clap::Args;

use crate::expression;
use crate::running::InstanceArgument;
use crate::top;

/// Watch the firewall: health, flows, sources, rules, refusals and alerts on one screen.
#[derive(Debug, Args)]
pub(crate) struct Arguments {
    /// Show only these flows, such as `dst port 22`: see docs/filters.md.
    #[arg(value_name = "FILTER", num_args = 0..)]
    expression: Vec<String>,

    #[command(flatten)]
    instance: InstanceArgument,
}

pub(crate) fn run(arguments: &Arguments) -> anyhow::Result<ExitCode> {
    let filter = expression::of_flows(&arguments.expression)?;
    if !std::io::stdout().is_terminal() {
        bail!("top wants a terminal; `keepstate status` and `keepstate flows` print");
    }
    // Where no daemon runs, that is better said here than on the screen.
    drop(arguments.instance.connect()?);
    top::show(&arguments.instance.instance, filter)?;
    Ok(ExitCode::SUCCESS)
}
