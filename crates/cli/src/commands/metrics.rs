//! `keepstate metrics`: one scrape, printed, or a page of them.

use std::io::Write;
use std::net::{Ipv4Addr, SocketAddr};
use std::process::ExitCode;

use clap::Args;
use keepstate_api::{Reply, Request};

use crate::config::ConfigArgument;
use crate::metrics::Format;
use crate::output::stdout;
use crate::running::{InstanceArgument, unexpected};
use crate::web::{NOBODY, Pages, Settings, keep, serve};
use crate::{metrics, ruleset};

const PORT: u16 = 9478;

/// Print the counters in OpenMetrics, as Prometheus reads them, or serve them.
///
/// There are no addresses among them. See docs/metrics.md for their names.
#[derive(Debug, Args)]
pub(crate) struct Arguments {
    /// Serve /metrics and nothing else, there or where keepstate.toml says.
    ///
    /// Where the file says nothing, on 127.0.0.1:9478. The process that serves has no rights.
    #[arg(long, value_name = "ADDRESS:PORT", num_args = 0..=1)]
    listen: Option<Option<SocketAddr>>,

    /// Be the process that serves: the standard input is a socket of the one that connects.
    #[arg(long, hide = true)]
    worker: bool,

    /// Print Prometheus' older text format, as `promtool check metrics` reads it.
    ///
    /// What is served is in the format that the scraper asks for.
    #[arg(long, conflicts_with = "listen")]
    text: bool,

    #[command(flatten)]
    config: ConfigArgument,

    #[command(flatten)]
    instance: InstanceArgument,
}

pub(crate) fn run(arguments: &Arguments) -> anyhow::Result<ExitCode> {
    let Some(listen) = arguments.listen else {
        print(arguments)?;
        return Ok(ExitCode::SUCCESS);
    };
    let usual = SocketAddr::from((Ipv4Addr::LOCALHOST, PORT));
    if arguments.worker {
        serve(listen.unwrap_or(usual), Pages::Metrics)?;
        return Ok(ExitCode::SUCCESS);
    }
    let said = arguments.config.read()?.metrics;
    keep(&Settings {
        instance: arguments.instance.instance.clone(),
        listen: listen.or(said.listen).unwrap_or(usual),
        pages: Pages::Metrics,
        user: NOBODY,
    })
}

fn print(arguments: &Arguments) -> anyhow::Result<()> {
    let mut client = arguments.instance.connect()?;
    let Reply::Status(status) = client.ask(&Request::Status)? else {
        return Err(unexpected());
    };
    let Reply::Policy(policy) = client.ask(&Request::Policy)? else {
        return Err(unexpected());
    };
    let rules = policy.rules.as_ref().map(ruleset::counted);
    let format = match arguments.text {
        true => Format::Text,
        false => Format::OpenMetrics,
    };
    let scrape = metrics::text(Some(&status), &rules.unwrap_or_default(), format)?;
    let mut out = stdout();
    out.write_all(scrape.as_bytes())?;
    out.flush()?;
    Ok(())
}
