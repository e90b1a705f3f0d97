//! `keepstate recent` and `keepstate hashlimit`: what rules remember of sources.

use std::io::Write;
use std::net::IpAddr;
use std::process::ExitCode;

use clap::{Args, Subcommand};
use keepstate_api::{Client, MeterKind, MeterList, RecentChange, Reply, Request};

use crate::output::stdout;
use crate::running::{InstanceArgument, Options, unexpected};

/// List and change what rules with `-m recent` remember of addresses.
#[derive(Debug, Args)]
pub(crate) struct Arguments {
    #[command(subcommand)]
    action: Action,
}

/// List what rules with `-m hashlimit` remember of sources.
#[derive(Debug, Args)]
pub(crate) struct RateArguments {
    #[command(subcommand)]
    action: RateAction,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// Print a list as /proc/net/xt_recent does, the address longest unseen first; the names of all lists if
    /// none is named.
    List {
        name: Option<String>,

        #[command(flatten)]
        options: Options,
    },
    /// Put addresses on a list, or stamp those that are there.
    Add {
        #[command(flatten)]
        change: Change,
    },
    /// Take addresses off a list.
    Remove {
        #[command(flatten)]
        change: Change,
    },
    /// Empty a list.
    Flush {
        name: String,

        #[command(flatten)]
        instance: InstanceArgument,
    },
}

#[derive(Debug, Subcommand)]
enum RateAction {
    /// Print a list as /proc/net/ipt_hashlimit does; the names of all lists if none is named.
    List {
        name: Option<String>,

        /// The list of the rules for IPv6.
        #[arg(long, short = '6')]
        ipv6: bool,

        #[command(flatten)]
        options: Options,
    },
}

#[derive(Debug, Args)]
struct Change {
    /// Name of the list; rules that name none mean DEFAULT.
    name: String,

    #[arg(required = true, value_name = "ADDRESS")]
    addresses: Vec<IpAddr>,

    #[command(flatten)]
    instance: InstanceArgument,
}

pub(crate) fn run(arguments: &Arguments) -> anyhow::Result<ExitCode> {
    match &arguments.action {
        Action::List { name, options } => show(MeterKind::Recent, name.as_deref(), options),
        Action::Add { change } => alter(change, |address| RecentChange::Add { address }),
        Action::Remove { change } => alter(change, |address| RecentChange::Remove { address }),
        Action::Flush { name, instance } => {
            tell(&mut instance.connect()?, name, RecentChange::Flush)?;
            Ok(ExitCode::SUCCESS)
        }
    }
}

pub(crate) fn run_rates(arguments: &RateArguments) -> anyhow::Result<ExitCode> {
    let RateAction::List {
        name,
        ipv6,
        options,
    } = &arguments.action;
    let kind = match ipv6 {
        true => MeterKind::Hashlimit6,
        false => MeterKind::Hashlimit,
    };
    show(kind, name.as_deref(), options)
}

fn alter(change: &Change, what: impl Fn(IpAddr) -> RecentChange) -> anyhow::Result<ExitCode> {
    let mut client = change.instance.connect()?;
    for address in &change.addresses {
        tell(&mut client, &change.name, what(*address))?;
    }
    Ok(ExitCode::SUCCESS)
}

fn tell(client: &mut Client, name: &str, change: RecentChange) -> anyhow::Result<()> {
    let name = name.to_owned();
    match client.ask(&Request::ChangeRecent { name, change })? {
        Reply::Done => Ok(()),
        _ => Err(unexpected()),
    }
}

fn show(kind: MeterKind, name: Option<&str>, options: &Options) -> anyhow::Result<ExitCode> {
    let mut client = options.instance.connect()?;
    let mut out = stdout();
    let Some(name) = name else {
        let Reply::MeterLists { lists } = client.ask(&Request::MeterLists)? else {
            return Err(unexpected());
        };
        for list in lists.iter().filter(|list| list.kind == kind) {
            match options.json {
                true => writeln!(out, "{}", serde_json::to_string(list)?)?,
                false => writeln!(out, "{}", list.name)?,
            }
        }
        out.flush()?;
        return Ok(ExitCode::SUCCESS);
    };
    let list = MeterList {
        kind,
        name: name.to_owned(),
    };
    client.meter(list, |entry| -> anyhow::Result<()> {
        match options.json {
            true => writeln!(out, "{}", serde_json::to_string(&entry)?)?,
            false => writeln!(out, "{}", entry.proc())?,
        }
        Ok(())
    })?;
    out.flush()?;
    Ok(ExitCode::SUCCESS)
}
