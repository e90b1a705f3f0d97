//! `keepstate timeout`: timeout policies, in the words of `nfct timeout`.

use std::collections::BTreeMap;
use std::io::Write;
use std::process::ExitCode;

use anyhow::{Context, bail};
use clap::{Args, Subcommand, ValueEnum};
use keepstate_api::{Reply, Request, TimeoutPolicy};
use keepstate_listing::timeout::{self as listing, protocol_number};

use crate::output::stdout;
use crate::running::{InstanceArgument, unexpected};

/// List, make and remove timeout policies: what `-j CT --timeout NAME` gives to flows.
#[derive(Debug, Args)]
pub(crate) struct Arguments {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// List all policies.
    List {
        #[command(flatten)]
        options: ListOptions,
    },
    /// Show one policy.
    Get {
        name: String,

        #[command(flatten)]
        options: ListOptions,
    },
    /// Make a policy, or change one: `add NAME inet tcp established 100 close 10`.
    ///
    /// A state that is not named keeps what its sysctl says now.
    Add {
        name: String,

        #[arg(value_enum)]
        family: Family,

        /// tcp, udp, icmp, icmpv6 or generic, and others that are tracked.
        protocol: String,

        /// States with their seconds.
        #[arg(value_name = "STATE N")]
        seconds: Vec<String>,

        #[command(flatten)]
        instance: InstanceArgument,
    },
    /// Remove a policy; flows that have it are left with the timeouts of the sysctls.
    Delete {
        name: String,

        #[command(flatten)]
        instance: InstanceArgument,
    },
    /// Remove all policies.
    Flush {
        #[command(flatten)]
        instance: InstanceArgument,
    },
}

#[derive(Debug, Args)]
struct ListOptions {
    /// Print a JSON object for each policy.
    #[arg(long)]
    json: bool,

    #[command(flatten)]
    instance: InstanceArgument,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Family {
    Inet,
    Inet6,
}

pub(crate) fn run(arguments: &Arguments) -> anyhow::Result<ExitCode> {
    match &arguments.action {
        Action::List { options } => list(options, None),
        Action::Get { name, options } => list(options, Some(name)),
        Action::Add {
            name,
            family,
            protocol,
            seconds,
            instance,
        } => {
            let policy = TimeoutPolicy {
                name: name.clone(),
                version: match family {
                    Family::Inet => 4,
                    Family::Inet6 => 6,
                },
                protocol: protocol_number(protocol)
                    .with_context(|| format!("protocol {protocol} has no timeouts of its own"))?,
                seconds: by_state(seconds)?,
            };
            ask(instance, &Request::AddTimeoutPolicy { policy })
        }
        Action::Delete { name, instance } => {
            let name = Some(name.clone());
            ask(instance, &Request::RemoveTimeoutPolicy { name })
        }
        Action::Flush { instance } => ask(instance, &Request::RemoveTimeoutPolicy { name: None }),
    }
}

/// Pairs of words; the last of two that name the same state counts.
fn by_state(words: &[String]) -> anyhow::Result<BTreeMap<String, u32>> {
    let mut seconds = BTreeMap::new();
    for pair in words.chunks(2) {
        let [state, number] = pair else {
            bail!("how many seconds for {}?", pair.concat());
        };
        let number = number
            .parse()
            .with_context(|| format!("{state}: `{number}` is no number of seconds"))?;
        seconds.insert(state.to_lowercase(), number);
    }
    Ok(seconds)
}

fn ask(instance: &InstanceArgument, request: &Request) -> anyhow::Result<ExitCode> {
    match instance.connect()?.ask(request)? {
        Reply::Done => Ok(ExitCode::SUCCESS),
        _ => Err(unexpected()),
    }
}

fn list(options: &ListOptions, wanted: Option<&str>) -> anyhow::Result<ExitCode> {
    let mut client = options.instance.connect()?;
    let Reply::TimeoutPolicies { mut policies } = client.ask(&Request::TimeoutPolicies)? else {
        return Err(unexpected());
    };
    if let Some(wanted) = wanted {
        policies.retain(|policy| policy.name == wanted);
        if policies.is_empty() {
            bail!("there is no timeout policy {wanted}");
        }
    }
    let mut out = stdout();
    for policy in policies {
        if options.json {
            serde_json::to_writer(&mut out, &policy)?;
            writeln!(out)?;
            continue;
        }
        let TimeoutPolicy {
            name,
            version,
            protocol,
            seconds,
        } = policy;
        let text = listing::TimeoutPolicy {
            name,
            version,
            protocol,
            seconds,
        };
        writeln!(out, "{text}")?;
    }
    out.flush()?;
    Ok(ExitCode::SUCCESS)
}
