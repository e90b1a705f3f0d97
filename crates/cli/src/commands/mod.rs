//! The subcommands, one file each.

mod apply;
mod daemon;
mod demo;
mod down;
pub(crate) mod events;
mod explain;
mod flows;
mod profile;
mod replay;
mod status;
mod timeout;
mod up;

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
    Demo(demo::Arguments),
    Up(up::Arguments),
    Down(down::Arguments),
    Apply(apply::Arguments),
    Status(status::Arguments),
    Flows(flows::Arguments),
    Events(events::Arguments),
    Explain(explain::Arguments),
    Replay(replay::Arguments),
    Daemon(daemon::Arguments),
    /// List, make, change, remove and follow flows, with the command line of conntrack.
    #[command(disable_help_flag = true)]
    Conntrack {
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        options: Vec<String>,
    },
    Profile(profile::Arguments),
    Timeout(timeout::Arguments),
    /// Read and set the knobs of the tracker, with the command line of sysctl.
    #[command(disable_help_flag = true)]
    Sysctl {
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        options: Vec<String>,
    },
}

/// Runs the subcommand that the command line names.
pub(crate) fn run() -> anyhow::Result<ExitCode> {
    match Arguments::parse().command {
        Command::Demo(arguments) => demo::run(&arguments),
        Command::Up(arguments) => up::run(&arguments),
        Command::Down(arguments) => down::run(&arguments),
        Command::Apply(arguments) => apply::run(&arguments),
        Command::Status(arguments) => status::run(&arguments),
        Command::Flows(arguments) => flows::run(&arguments),
        Command::Events(arguments) => events::run(&arguments),
        Command::Daemon(arguments) => daemon::run(&arguments),
        Command::Explain(arguments) => explain::run(arguments),
        Command::Replay(arguments) => replay::run(arguments),
        Command::Profile(arguments) => profile::run(&arguments),
        Command::Timeout(arguments) => timeout::run(&arguments),
        Command::Sysctl { options } => {
            let name = std::iter::once("sysctl".to_owned());
            Ok(crate::sysctl::run(&name.chain(options).collect::<Vec<_>>()))
        }
        Command::Conntrack { options } => {
            let name = std::iter::once("conntrack".to_owned());
            Ok(crate::conntrack::run(
                &name.chain(options).collect::<Vec<_>>(),
            ))
        }
    }
}
