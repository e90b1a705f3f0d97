//! `keepstate metrics`: one scrape, printed.

use std::io::Write;
use std::process::ExitCode;

use clap::Args;
use keepstate_api::{Reply, Request};

use crate::output::stdout;
use crate::running::{InstanceArgument, unexpected};
use crate::{metrics, ruleset};

/// Print the counters in OpenMetrics, as Prometheus reads them: docs/metrics.md. `keepstate web` serves them.
#[derive(Debug, Args)]
pub(crate) struct Arguments {
    #[command(flatten)]
    instance: InstanceArgument,
}

pub(crate) fn run(arguments: &Arguments) -> anyhow::Result<ExitCode> {
    let mut client = arguments.instance.connect()?;
    let Reply::Status(status) = client.ask(&Request::Status)? else {
        return Err(unexpected());
    };
    let Reply::Policy(policy) = client.ask(&Request::Policy)? else {
        return Err(unexpected());
    };
    let rules = policy.rules.as_ref().map(ruleset::counted);
    let mut out = stdout();
    out.write_all(metrics::text(Some(&status), &rules.unwrap_or_default())?.as_bytes())?;
    out.flush()?;
    Ok(ExitCode::SUCCESS)
}
