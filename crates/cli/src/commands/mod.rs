//! The subcommands, one file each.

mod explain;
mod replay;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// A firewall with memory.
#[derive(Debug, Parser)]
#[command(name = "keepstate", version, arg_required_else_help = true)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Explain(explain::Arguments),
    Replay(replay::Arguments),
}

/// Runs the subcommand that the command line names.
pub(crate) fn run() -> anyhow::Result<ExitCode> {
    match Arguments::parse().command {
        Command::Explain(arguments) => explain::run(arguments),
        Command::Replay(arguments) => replay::run(arguments),
    }
}
