//! `keepstate`: see [`commands`] for what it can do. Called by the name of `conntrack`, `sysctl` or
//! one of the programs of iptables, it is that.

mod alerts;
mod commands;
mod config;
mod conntrack;
mod demo;
mod doctor;
mod duration;
mod exactly;
mod expression;
mod failure;
mod health;
mod ipfix;
mod ipset;
mod iptables;
mod lockout;
mod metrics;
mod output;
mod progress;
mod rules;
mod ruleset;
mod running;
mod shell;
mod simulation;
mod sysctl;
mod template;
mod top;
mod web;
mod when;

use std::path::Path;
use std::process::ExitCode;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args_os()
        .map(|argument| argument.to_string_lossy().into_owned())
        .collect();
    let program = arguments.first().map(Path::new).and_then(Path::file_name);
    if program.is_some_and(|name| name == "conntrack") {
        return conntrack::run(&arguments);
    }
    if program.is_some_and(|name| name == "ipset") {
        return ipset::run(&arguments[1..]);
    }
    if program.is_some_and(|name| name == "sysctl") {
        return sysctl::run(&arguments);
    }
    if program.is_some_and(|name| name == "service") {
        return shell::service(&arguments[1..]);
    }
    if let Some(program) = arguments
        .first()
        .and_then(|name| iptables::called(name.as_ref()))
    {
        return program.run(&arguments[1..]);
    }
    failure::report(commands::run())
}
