//! `keepstate alerts`: tells somebody what is wrong, when it begins and when it is over.

use std::process::ExitCode;
use std::time::Duration;

use clap::Args;

use crate::alerts::{self, Receiver};
use crate::config::{self, ConfigArgument, EVERY_MAX};
use crate::running::InstanceArgument;

/// Send what goes wrong to a web hook or a program: when it begins, and when it is over.
///
/// Without options as [alerts] in keepstate.toml says. What is told of has the names of `keepstate doctor`
/// (table-full, flows-refused, events-lost, ...), and besides `flood` for an attack that was recognised, `step` for a
/// step against it, and `daemon` for a daemon that does not answer. See docs/operating.md for what is sent.
#[derive(Debug, Args)]
pub(crate) struct Arguments {
    /// Post a JSON object to this address; https by the host's curl.
    #[arg(long, value_name = "URL", value_parser = config::http_or_https)]
    url: Option<String>,

    /// Who signs the certificate of an https address, where this host does not know them.
    ///
    /// A file of certificates (PEM), one of which must have signed it; one that signed itself is such a file too.
    #[arg(long, value_name = "FILE", value_parser = config::whole_path)]
    ca: Option<String>,

    /// Start this program, with the JSON object on its standard input.
    ///
    /// One that fails is started again.
    #[arg(long = "command", value_name = "PROGRAM", value_parser = config::whole_path)]
    program: Option<String>,

    /// Only what has one of these names.
    #[arg(long, value_name = "NAME", value_delimiter = ',', value_parser = config::alert_name)]
    only: Vec<String>,

    /// Seconds between two looks; 5 unless told otherwise.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..=EVERY_MAX))]
    every: Option<u64>,

    #[command(flatten)]
    config: ConfigArgument,

    #[command(flatten)]
    instance: InstanceArgument,
}

const EVERY: u64 = 5;

pub(crate) fn run(arguments: &Arguments) -> anyhow::Result<ExitCode> {
    let said = arguments.config.read()?.alerts;
    let ca = arguments.ca.clone().or(said.ca);
    let (url, program) = match (&arguments.url, &arguments.program) {
        (None, None) => (said.url, said.command),
        (url, program) => (url.clone(), program.clone()),
    };
    let receivers = [
        url.map(|url| Receiver::Url { url, ca }),
        program.map(Receiver::Program),
    ];
    let receivers: Vec<_> = receivers.into_iter().flatten().collect();
    if receivers.is_empty() {
        let config = &arguments.config;
        return Err(config
            .lacks("--url or --command", "`url` or `command` below [alerts]")
            .into());
    }
    let only = match arguments.only.is_empty() {
        true => &said.only,
        false => &arguments.only,
    };
    let every = arguments.every.or(said.every).unwrap_or(EVERY);
    alerts::watch(
        &arguments.instance.instance,
        only,
        Duration::from_secs(every),
        receivers,
    )
}
