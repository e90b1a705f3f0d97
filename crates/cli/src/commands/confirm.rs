//! `keepstate confirm`: keeps rules that were applied for a time.

use std::process::ExitCode;

use clap::Args;
use keepstate_api::{Reply, Request};

use crate::running::{InstanceArgument, unexpected};

/// Keep the rules that `keepstate apply --confirm` has put in force.
#[derive(Debug, Args)]
pub(crate) struct Arguments {
    /// Bring the rules before them back now instead.
    #[arg(long)]
    rollback: bool,

    #[command(flatten)]
    instance: InstanceArgument,
}

pub(crate) fn run(arguments: &Arguments) -> anyhow::Result<ExitCode> {
    let (request, done) = if arguments.rollback {
        (Request::RollBack, "The rules before are in force again.")
    } else {
        (Request::Confirm, "The rules in force stay.")
    };
    match arguments.instance.connect()?.ask(&request)? {
        Reply::Done => println!("{done}"),
        _ => return Err(unexpected()),
    }
    Ok(ExitCode::SUCCESS)
}
