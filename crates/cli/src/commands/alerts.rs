//! `keepstate alerts`: tells somebody what is wrong, when it begins and when it is over.

use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::bail;
use clap::Args;

use crate::alerts::{self, Receiver};
use crate::running::InstanceArgument;

/// Send what goes wrong to a web hook or a program: when it begins, and when it is over.
///
/// What is told of has the names of `keepstate doctor` (table-full, flows-refused, events-lost, ...), and besides
/// `flood` for an attack that was recognised, `step` for a step against it, and `daemon` for a daemon that does not
/// answer. See docs/operating.md for what is sent.
#[derive(Debug, Args)]
pub(crate) struct Arguments {
    /// Post a JSON object to this address, http:// alone; for TLS use a program such as curl.
    #[arg(long, value_name = "URL", required_unless_present = "program")]
    url: Option<String>,

    /// Start this program, with the JSON object on its standard input. One that fails is started again.
    #[arg(long = "command", value_name = "PROGRAM")]
    program: Option<String>,

    /// Only what has one of these names.
    #[arg(long, value_name = "NAME", value_delimiter = ',')]
    only: Vec<String>,

    /// Seconds between two looks.
    #[arg(long, value_name = "N", default_value_t = 5, value_parser = clap::value_parser!(u64).range(1..=3600))]
    every: u64,

    #[command(flatten)]
    instance: InstanceArgument,
}

pub(crate) fn run(arguments: &Arguments) -> anyhow::Result<ExitCode> {
    let mut receivers = Vec::new();
    if let Some(url) = &arguments.url {
        if !url.starts_with("http://") {
            bail!(
                "`{url}` is no http:// address; for TLS use --command with a program such as curl"
            );
        }
        receivers.push(Receiver::Url(url.clone()));
    }
    if let Some(program) = &arguments.program {
        if !Path::new(program).is_absolute() {
            bail!("`{program}`: name the program by its whole path");
        }
        receivers.push(Receiver::Program(program.clone()));
    }
    let every = Duration::from_secs(arguments.every);
    alerts::watch(
        &arguments.instance.instance,
        &arguments.only,
        every,
        receivers,
    )
}
