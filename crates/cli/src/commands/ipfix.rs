//! `keepstate ipfix`: ended flows for a collector.

use std::net::{ToSocketAddrs, UdpSocket};
use std::process::ExitCode;

use anyhow::{Context, bail};
use clap::Args;
use keepstate_api::{EventKinds, Reply, Request};

use crate::config::{self, ConfigArgument};
use crate::ipfix;
use crate::running::{InstanceArgument, unexpected};

/// Export flows that end to an IPFIX collector (RFC 7011, by UDP), both directions in one record (RFC 5103).
///
/// Without options as [ipfix] in keepstate.toml says. Packets, bytes and start times are there where flows are counted (nf_conntrack_acct, nf_conntrack_timestamp).
#[derive(Debug, Args)]
pub(crate) struct Arguments {
    /// The collector; the usual port is 4739.
    #[arg(long, value_name = "HOST:PORT", value_parser = config::collector)]
    to: Option<String>,

    /// Observation domain: tells exporters apart that send from one address.
    #[arg(long, value_name = "N")]
    domain: Option<u32>,

    /// End after so many flows.
    #[arg(long, value_name = "N")]
    count: Option<u64>,

    #[command(flatten)]
    config: ConfigArgument,

    #[command(flatten)]
    instance: InstanceArgument,
}

pub(crate) fn run(arguments: &Arguments) -> anyhow::Result<ExitCode> {
    let said = arguments.config.read()?.ipfix;
    let Some(to) = &arguments.to.clone().or(said.to) else {
        return Err(arguments
            .config
            .lacks("--to HOST:PORT", "`to` below [ipfix]")
            .into());
    };
    let mut addresses = to.to_socket_addrs().with_context(|| to.clone())?;
    let Some(address) = addresses.next() else {
        bail!("{to} has no address");
    };
    let own = if address.is_ipv4() {
        "0.0.0.0:0"
    } else {
        "[::]:0"
    };
    let socket = UdpSocket::bind(own).context("no socket")?;
    socket.connect(address).with_context(|| to.clone())?;
    let mut client = arguments.instance.connect()?;
    let kinds = EventKinds::Flows;
    match client.ask(&Request::Events { kinds })? {
        Reply::Listening => {}
        _ => return Err(unexpected()),
    }
    let sender = ipfix::Sender::new(socket, arguments.domain.or(said.domain).unwrap_or(0));
    ipfix::export(client, sender, arguments.count)?;
    Ok(ExitCode::SUCCESS)
}
