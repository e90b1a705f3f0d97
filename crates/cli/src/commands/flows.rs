//! `keepstate flows`: what the firewall remembers.

use std::io::Write;
use std::process::ExitCode;

use clap::{Args, ValueEnum};
use keepstate_api::{AddressFilter, Expression, Filter, Flow, Replied, Request};
use keepstate_policy::Protocol;

use crate::expression;
use crate::output::stdout;
use crate::running::InstanceArgument;

/// List the flows, in the words of `conntrack -L`.
#[derive(Debug, Args)]
pub(crate) struct Arguments {
    /// Which flows, such as `dst port 22 and state established`.
    ///
    /// The language: docs/filters.md.
    #[arg(value_name = "FILTER", num_args = 0..)]
    expression: Vec<String>,

    /// Flows of this family.
    #[arg(long, short = 'f', value_enum)]
    family: Option<FamilyArgument>,

    /// Flows of this protocol, by name or number.
    #[arg(long, short = 'p', value_name = "PROTO", value_parser = protocol)]
    proto: Option<u8>,

    /// From this address or network.
    #[arg(long, short = 's', value_name = "ADDRESS")]
    src: Option<AddressFilter>,

    /// To this address or network.
    #[arg(long, short = 'd', value_name = "ADDRESS")]
    dst: Option<AddressFilter>,

    /// From this port.
    #[arg(long, value_name = "PORT")]
    sport: Option<u16>,

    /// To this port.
    #[arg(long, value_name = "PORT")]
    dport: Option<u16>,

    /// TCP connections in this state, such as ESTABLISHED.
    #[arg(long, value_name = "STATE")]
    state: Option<String>,

    /// Flows of this zone.
    #[arg(long, short = 'w', value_name = "ZONE")]
    zone: Option<u16>,

    /// Flows that are not given up early.
    #[arg(long, conflicts_with = "unreplied")]
    assured: bool,

    /// Flows without an answer.
    #[arg(long)]
    unreplied: bool,

    /// The form of the lines: conntrack, or proc as the kernel's file.
    #[arg(
        long,
        short = 'o',
        value_enum,
        default_value = "conntrack",
        hide_possible_values = true,
        hide_default_value = true
    )]
    output: OutputArgument,

    /// Print a JSON object for each flow.
    #[arg(long)]
    json: bool,

    #[command(flatten)]
    instance: InstanceArgument,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum FamilyArgument {
    Ipv4,
    Ipv6,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum OutputArgument {
    /// As `conntrack -L`.
    Conntrack,
    /// As /proc/net/nf_conntrack.
    Proc,
}

fn protocol(text: &str) -> Result<u8, String> {
    match Protocol::parse(text) {
        Ok(Protocol(number)) => Ok(number),
        Err(problem) => Err(problem.to_string()),
    }
}

pub(crate) fn run(arguments: &Arguments) -> anyhow::Result<ExitCode> {
    let expression = expression::of_flows(&arguments.expression)?;
    let mut client = arguments.instance.connect()?;
    let mut out = stdout();
    let request = Request::Flows {
        filter: arguments.filter(expression),
    };
    let shown = client.flows(&request, |flow| arguments.print(&mut out, &flow))?;
    out.flush()?;
    if !arguments.json && arguments.output == OutputArgument::Conntrack {
        eprintln!("keepstate: {shown} flow entries have been shown.");
    }
    Ok(ExitCode::SUCCESS)
}

impl Arguments {
    fn filter(&self, expression: Option<Expression>) -> Filter {
        Filter {
            family: self.family.map(|family| match family {
                FamilyArgument::Ipv4 => "ipv4".to_owned(),
                FamilyArgument::Ipv6 => "ipv6".to_owned(),
            }),
            protocol: self.proto,
            source: self.src,
            destination: self.dst,
            source_port: self.sport,
            destination_port: self.dport,
            state: self.state.as_ref().map(|name| name.to_uppercase()),
            zone: self.zone,
            replied: match (self.assured, self.unreplied) {
                (true, _) => Some(Replied::Assured),
                (_, true) => Some(Replied::Unreplied),
                _ => None,
            },
            expression,
            ..Filter::default()
        }
    }

    fn print(&self, out: &mut impl Write, flow: &Flow) -> anyhow::Result<()> {
        if self.json {
            serde_json::to_writer(&mut *out, flow)?;
            writeln!(out)?;
            return Ok(());
        }
        let entry = flow.to_listing();
        match self.output {
            OutputArgument::Conntrack => writeln!(out, "{}", entry.conntrack())?,
            OutputArgument::Proc => writeln!(out, "{}", entry.proc())?,
        }
        Ok(())
    }
}
