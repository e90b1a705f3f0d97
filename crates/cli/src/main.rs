//! `keepstate`: see [`commands`] for what it can do.

mod commands;
mod demo;
mod failure;
mod output;
mod rules;
mod running;
mod simulation;

use std::process::ExitCode;

fn main() -> ExitCode {
    failure::report(commands::run())
}
