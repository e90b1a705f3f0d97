//! The subcommands, one file each.

mod apply;
mod backtest;
mod ban;
mod check;
mod completions;
mod confirm;
mod cookies;
mod daemon;
mod defence;
mod demo;
mod diff;
mod doctor;
mod down;
pub(crate) mod events;
pub(crate) mod explain;
mod flows;
mod metrics;
mod profile;
mod replay;
mod save;
mod shell;
mod simulate;
mod status;
mod template;
mod timeout;
mod top;
mod tune;
mod up;
mod web;

use std::process::ExitCode;

use clap::{Args, Parser, Subcommand};

use crate::iptables::Program;

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
    Confirm(confirm::Arguments),
    Save(save::Arguments),
    Diff(diff::Arguments),
    Backtest(backtest::Arguments),
    Check(check::Arguments),
    Template(template::Arguments),
    Shell(shell::Arguments),
    Status(status::Arguments),
    Top(top::Arguments),
    Web(web::Arguments),
    Metrics(metrics::Arguments),
    Doctor(doctor::Arguments),
    Tune(tune::Arguments),
    Flows(flows::Arguments),
    Events(events::Arguments),
    Explain(explain::Arguments),
    Replay(replay::Arguments),
    Simulate(simulate::Arguments),
    Daemon(daemon::Arguments),
    /// List, make, change, remove and follow flows, with the command line of conntrack.
    #[command(disable_help_flag = true)]
    Conntrack {
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        options: Vec<String>,
    },
    /// Make, change and list sets of addresses and networks, with the command line of ipset.
    #[command(disable_help_flag = true)]
    Set {
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        options: Vec<String>,
    },
    /// Change and list the rules for IPv4, with the command line of iptables.
    #[command(disable_help_flag = true)]
    Iptables(Foreign),
    /// As iptables, for IPv6.
    #[command(disable_help_flag = true)]
    Ip6tables(Foreign),
    /// Print the rules for IPv4, with the command line of iptables-save.
    #[command(disable_help_flag = true)]
    IptablesSave(Foreign),
    /// As iptables-save, for IPv6.
    #[command(disable_help_flag = true)]
    Ip6tablesSave(Foreign),
    /// Read what iptables-save printed, with the command line of iptables-restore.
    #[command(disable_help_flag = true)]
    IptablesRestore(Foreign),
    /// As iptables-restore, for IPv6.
    #[command(disable_help_flag = true)]
    Ip6tablesRestore(Foreign),
    Ban(ban::Arguments),
    NeverBan(ban::NeverArguments),
    Cookies(cookies::Arguments),
    Defence(defence::Arguments),
    Completions(completions::Arguments),
    Manual(completions::ManualArguments),
    Profile(profile::Arguments),
    Timeout(timeout::Arguments),
    /// Read and set the knobs of the tracker, with the command line of sysctl.
    #[command(disable_help_flag = true)]
    Sysctl {
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        options: Vec<String>,
    },
}

/// The command line of another program.
#[derive(Debug, Args)]
struct Foreign {
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    options: Vec<String>,
}

impl Foreign {
    fn run(&self, name: &str) -> anyhow::Result<ExitCode> {
        let program = Program::named(name);
        // The names are those of the subcommands.
        Ok(program.map_or(ExitCode::FAILURE, |program| program.run(&self.options)))
    }
}

/// Runs the subcommand that the command line names.
pub(crate) fn run() -> anyhow::Result<ExitCode> {
    match Arguments::parse().command {
        Command::Demo(arguments) => demo::run(&arguments),
        Command::Up(arguments) => up::run(&arguments),
        Command::Down(arguments) => down::run(&arguments),
        Command::Apply(arguments) => apply::run(&arguments),
        Command::Confirm(arguments) => confirm::run(&arguments),
        Command::Save(arguments) => save::run(&arguments),
        Command::Diff(arguments) => Ok(diff::run(&arguments)),
        Command::Check(arguments) => Ok(check::run(&arguments)),
        Command::Template(arguments) => template::run(&arguments),
        Command::Shell(arguments) => shell::run(&arguments),
        Command::Backtest(arguments) => backtest::run(&arguments),
        Command::Status(arguments) => status::run(&arguments),
        Command::Top(arguments) => top::run(&arguments),
        Command::Web(arguments) => web::run(&arguments),
        Command::Metrics(arguments) => metrics::run(&arguments),
        Command::Doctor(arguments) => doctor::run(&arguments),
        Command::Tune(arguments) => tune::run(&arguments),
        Command::Flows(arguments) => flows::run(&arguments),
        Command::Events(arguments) => events::run(&arguments),
        Command::Daemon(arguments) => daemon::run(&arguments),
        Command::Explain(arguments) => explain::run(arguments),
        Command::Replay(arguments) => replay::run(arguments),
        Command::Simulate(arguments) => simulate::run(&arguments),
        Command::Iptables(words) => words.run("iptables"),
        Command::Ip6tables(words) => words.run("ip6tables"),
        Command::IptablesSave(words) => words.run("iptables-save"),
        Command::Ip6tablesSave(words) => words.run("ip6tables-save"),
        Command::IptablesRestore(words) => words.run("iptables-restore"),
        Command::Ip6tablesRestore(words) => words.run("ip6tables-restore"),
        Command::Ban(arguments) => ban::run(&arguments),
        Command::NeverBan(arguments) => ban::run_never(&arguments),
        Command::Cookies(arguments) => cookies::run(&arguments),
        Command::Defence(arguments) => defence::run(&arguments),
        Command::Completions(arguments) => completions::run(&arguments),
        Command::Manual(arguments) => completions::run_manual(&arguments),
        Command::Profile(arguments) => profile::run(&arguments),
        Command::Timeout(arguments) => timeout::run(&arguments),
        Command::Set { options } => Ok(crate::ipset::run(&options)),
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
