//! The subcommands, one file each.

mod alerts;
mod apply;
mod backtest;
pub(crate) mod ban;
mod capture;
mod check;
mod completions;
mod config;
mod confirm;
mod cookies;
pub(crate) mod daemon;
mod defence;
mod demo;
mod diff;
mod doctor;
mod down;
pub(crate) mod events;
pub(crate) mod explain;
mod flows;
mod ipfix;
mod metrics;
mod profile;
mod recent;
mod replay;
mod rules;
mod save;
mod shell;
mod simulate;
mod status;
mod template;
mod timeout;
mod top;
mod trace;
pub(crate) mod tune;
mod up;
mod web;

use std::process::ExitCode;

use clap::{Args, Parser, Subcommand};

use crate::failure::WRONG;
use crate::iptables::Program;

/// A firewall with memory.
#[derive(Debug, Parser)]
#[command(name = "keepstate", version, max_term_width = 100)]
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
    Rules(rules::Arguments),
    Top(top::Arguments),
    Web(web::Arguments),
    Metrics(metrics::Arguments),
    Alerts(alerts::Arguments),
    Ipfix(ipfix::Arguments),
    Doctor(doctor::Arguments),
    Tune(tune::Arguments),
    Flows(flows::Arguments),
    Events(events::Arguments),
    Explain(explain::Arguments),
    Trace(trace::Arguments),
    Capture(capture::Arguments),
    Replay(replay::Arguments),
    Simulate(simulate::Arguments),
    Daemon(daemon::Arguments),
    #[command(hide = true)]
    HandOver(daemon::HandOverArguments),
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
    Config(config::Arguments),
    Completions(completions::Arguments),
    Manual(completions::ManualArguments),
    Profile(profile::Arguments),
    Timeout(timeout::Arguments),
    Recent(recent::Arguments),
    Hashlimit(recent::RateArguments),
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

/// What fits a screen; `--help` has a line for each.
const OVERVIEW: &str = "\
A firewall with memory

Usage: keepstate COMMAND [OPTIONS]

Begin      demo, up, down, template, check, apply, confirm, save
Watch      status, top, web, flows, events, rules, doctor, tune
Ask        explain, trace, capture, diff, replay, backtest, simulate
Attacked   ban, never-ban, cookies, defence
Tell       metrics, alerts, ipfix
Known      conntrack, set (as ipset), sysctl, iptables, ip6tables,
           iptables-save, ip6tables-save, iptables-restore, ip6tables-restore,
           shell (runs scripts that call these)
Settings   profile, timeout, recent, hashlimit, config
Service    daemon, completions, manual

keepstate --help          a line about each command
keepstate COMMAND -h      its options; --help: more of them
keepstate demo            shows what this is, on a network of its own

Exit codes: 0 done, 1 not done or found, 2 used wrongly (docs/exit-codes.md).
";

/// Runs the subcommand that the command line names.
pub(crate) fn run() -> anyhow::Result<ExitCode> {
    let mut words = std::env::args_os().skip(1);
    match (words.next(), words.next()) {
        (None, _) => {
            eprint!("{OVERVIEW}");
            return Ok(ExitCode::from(WRONG));
        }
        (Some(word), None) if word == "-h" || word == "help" => {
            print!("{OVERVIEW}");
            return Ok(ExitCode::SUCCESS);
        }
        _ => {}
    }
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
        Command::Rules(arguments) => rules::run(&arguments),
        Command::Top(arguments) => top::run(&arguments),
        Command::Web(arguments) => web::run(&arguments),
        Command::Alerts(arguments) => alerts::run(&arguments),
        Command::Ipfix(arguments) => ipfix::run(&arguments),
        Command::Metrics(arguments) => metrics::run(&arguments),
        Command::Doctor(arguments) => doctor::run(&arguments),
        Command::Tune(arguments) => tune::run(&arguments),
        Command::Flows(arguments) => flows::run(&arguments),
        Command::Events(arguments) => events::run(&arguments),
        Command::Daemon(arguments) => daemon::run(&arguments),
        Command::HandOver(arguments) => daemon::hand_over(&arguments),
        Command::Explain(arguments) => explain::run(arguments),
        Command::Trace(arguments) => trace::run(&arguments),
        Command::Capture(arguments) => capture::run(&arguments),
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
        Command::Config(arguments) => config::run(&arguments),
        Command::Completions(arguments) => completions::run(&arguments),
        Command::Manual(arguments) => completions::run_manual(&arguments),
        Command::Profile(arguments) => profile::run(&arguments),
        Command::Timeout(arguments) => timeout::run(&arguments),
        Command::Recent(arguments) => recent::run(&arguments),
        Command::Hashlimit(arguments) => recent::run_rates(&arguments),
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

#[cfg(test)]
mod tests;
