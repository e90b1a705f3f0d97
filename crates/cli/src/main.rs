//! `keepstate`: see [`commands`] for what it can do. Called by the name of `conntrack` or
//! `sysctl`, it is that.

mod commands;
mod config;
mod conntrack;
mod demo;
mod failure;
mod output;
mod rules;
mod running;
mod simulation;
mod sysctl;

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
    if program.is_some_and(|name| name == "sysctl") {
        return sysctl::run(&arguments);
    }
    failure::report(commands::run())
}
