//! `keepstate web`: see [`crate::web`].

use std::net::{Ipv4Addr, SocketAddr};
use std::process::ExitCode;

use clap::Args;

use crate::config::ConfigArgument;
use crate::running::InstanceArgument;
use crate::web::{Access, NOBODY, Pages, Settings, keep, serve};

const PORT: u16 = 9477;

/// Serve the dashboard, and /metrics, from a process without rights.
///
/// Without options as `[web]` in keepstate.toml says. See docs/operating.md.
#[derive(Debug, Args)]
pub(crate) struct Arguments {
    /// Where to listen; 127.0.0.1:9477 unless told otherwise.
    ///
    /// Everybody who can connect there sees all flows.
    #[arg(long, value_name = "ADDRESS:PORT")]
    listen: Option<SocketAddr>,

    /// Let who has the token that is printed at the start change things.
    ///
    /// Remove flows, ban sources, confirm or undo rules and steps of the defence.
    #[arg(long)]
    allow_changes: bool,

    /// Number of the user and group that the process that serves becomes.
    #[arg(long, value_name = "UID", default_value_t = NOBODY)]
    user: u32,

    /// Be that process: the standard input is a socket of the one that connects.
    #[arg(long, hide = true)]
    worker: bool,

    #[command(flatten)]
    config: ConfigArgument,

    #[command(flatten)]
    instance: InstanceArgument,
}

pub(crate) fn run(arguments: &Arguments) -> anyhow::Result<ExitCode> {
    let usual = SocketAddr::from((Ipv4Addr::LOCALHOST, PORT));
    if arguments.worker {
        // It was told all that it needs, and may not be able to read the file.
        let access = access(arguments.allow_changes);
        serve(arguments.listen.unwrap_or(usual), Pages::All(access))?;
        return Ok(ExitCode::SUCCESS);
    }
    let said = arguments.config.read()?.web;
    keep(&Settings {
        instance: arguments.instance.instance.clone(),
        listen: arguments.listen.or(said.listen).unwrap_or(usual),
        pages: Pages::All(access(arguments.allow_changes || said.allow_changes)),
        user: arguments.user,
    })
}

const fn access(may_change: bool) -> Access {
    match may_change {
        true => Access::Change,
        false => Access::Ask,
    }
}
