//! `keepstate web`: see [`crate::web`].

use std::net::{Ipv4Addr, SocketAddr};
use std::process::ExitCode;

use clap::Args;

use crate::running::InstanceArgument;
use crate::web::{Access, Settings, keep, serve};

const PORT: u16 = 9477;

/// The user `nobody` on every Linux: owns nothing and may nothing.
const NOBODY: u32 = 65_534;

/// Serve the dashboard, and /metrics for Prometheus, from a process without rights: docs/web.md.
#[derive(Debug, Args)]
pub(crate) struct Arguments {
    /// Where to listen. Everybody who can connect there sees all flows.
    #[arg(long, value_name = "ADDRESS:PORT", default_value_t = SocketAddr::from((Ipv4Addr::LOCALHOST, PORT)))]
    listen: SocketAddr,

    /// Let who has the token remove flows, and confirm or undo rules. The token is printed at the start.
    #[arg(long)]
    allow_changes: bool,

    /// Number of the user and group that the process that serves becomes.
    #[arg(long, value_name = "UID", default_value_t = NOBODY)]
    user: u32,

    /// Be that process: the standard input is a socket of the one that connects.
    #[arg(long, hide = true)]
    worker: bool,

    #[command(flatten)]
    instance: InstanceArgument,
}

pub(crate) fn run(arguments: &Arguments) -> anyhow::Result<ExitCode> {
    let access = match arguments.allow_changes {
        true => Access::Change,
        false => Access::Ask,
    };
    if arguments.worker {
        serve(arguments.listen, access)?;
        return Ok(ExitCode::SUCCESS);
    }
    keep(&Settings {
        instance: arguments.instance.instance.clone(),
        listen: arguments.listen,
        access,
        user: arguments.user,
    })
}
