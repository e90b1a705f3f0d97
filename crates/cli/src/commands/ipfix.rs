//! `keepstate ipfix`: ended flows for a collector.

use std::net::{ToSocketAddrs, UdpSocket};
use std::process::ExitCode;

use anyhow::{Context, bail};
use clap::Args;
use keepstate_api::{EventKinds, Reply, Request};

use crate::ipfix;
use crate::running::{InstanceArgument, unexpected};

/// Export flows that end to an IPFIX collector (RFC 7011, by UDP), both directions in one record (RFC 5103).
///
/// Packets, bytes and start times are there where flows are counted (nf_conntrack_acct, nf_conntrack_timestamp).
#[derive(Debug, Args)]
pub(crate) struct Arguments {
    /// The collector; the usual port is 4739.
    #[arg(long, value_name = "HOST:PORT")]
    to: String,

    /// Observation domain: tells exporters apart that send from one address.
    #[arg(long, value_name = "N", default_value_t = 0)]
    domain: u32,

    /// End after so many flows.
    #[arg(long, value_name = "N")]
    count: Option<u64>,

    #[command(flatten)]
    instance: InstanceArgument,
}

pub(crate) fn run(arguments: &Arguments) -> anyhow::Result<ExitCode> {
    let to = &arguments.to;
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
    let sender = ipfix::Sender::new(socket, arguments.domain);
    ipfix::export(client, sender, arguments.count)?;
    Ok(ExitCode::SUCCESS)
}
