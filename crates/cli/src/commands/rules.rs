//! `keepstate rules`: the rules in force, with what they counted.

use std::io::Write;
use std::process::ExitCode;

use clap::Args;
use keepstate_api::{Reply, Request};

use crate::output::stdout;
use crate::ruleset;
use crate::running::{self, unexpected};

/// List the rules in force with their counters, both families.
///
/// `keepstate iptables -L -n -v` does it in the form of iptables.
#[derive(Debug, Args)]
pub(crate) struct Arguments {
    #[command(flatten)]
    options: running::Options,
}

pub(crate) fn run(arguments: &Arguments) -> anyhow::Result<ExitCode> {
    let mut client = arguments.options.instance.connect()?;
    let Reply::Policy(policy) = client.ask(&Request::Policy)? else {
        return Err(unexpected());
    };
    let rules = policy.rules.as_ref().map(ruleset::counted);
    let rules = rules.unwrap_or_default();
    let mut out = stdout();
    if arguments.options.json {
        serde_json::to_writer_pretty(&mut out, &rules)?;
        writeln!(out)?;
    } else {
        for rule in &rules {
            let number = rule
                .number
                .map_or("-".to_owned(), |number| number.to_string());
            writeln!(
                out,
                "{:>12} {:>14}  {} {:<6} {:<11} {number:>4}  {}",
                rule.packets, rule.bytes, rule.family, rule.table, rule.chain, rule.text
            )?;
        }
    }
    out.flush()?;
    Ok(ExitCode::SUCCESS)
}
