//! `keepstate ban` and `keepstate never-ban`.

use std::io::{BufRead, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, bail};
use clap::{Args, Subcommand};
use keepstate_api::{
    Ban, BanList, Banned, Client, ClientError, PREFIXES_MAX, Prefix, Reply, Request,
};

use crate::duration::{in_words, seconds};
use crate::output::stdout;
use crate::progress::Progress;
use crate::running::{Options, unexpected};

/// Refuse all packets from addresses and networks, before anything else is asked.
///
/// Flows that have an end in a banned network are ended.
#[derive(Debug, Args)]
pub(crate) struct Arguments {
    #[command(subcommand)]
    action: Action,
}

/// Name addresses and networks that are never banned, whatever bans say.
#[derive(Debug, Args)]
pub(crate) struct NeverArguments {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// Put networks on the list; those that are there get this time and cause.
    Add {
        #[command(flatten)]
        networks: Networks,

        /// How long: 90s, 10m, 1h30m, 2d. For ever unless said.
        #[arg(long = "for", value_name = "TIME", value_parser = seconds)]
        time: Option<u32>,

        /// Why; shown by `list`.
        #[arg(long, value_name = "TEXT")]
        cause: Option<String>,

        /// Do not ban: let each of them begin so many flows a second (of `ban` alone). For IPv6 a /64 or shorter.
        #[arg(long, value_name = "FLOWS")]
        limit: Option<u32>,

        #[command(flatten)]
        options: Options,
    },
    /// Take networks off the list.
    Del {
        #[command(flatten)]
        networks: Networks,

        #[command(flatten)]
        options: Options,
    },
    /// Show the list.
    List {
        #[command(flatten)]
        options: Options,
    },
    /// Empty the list.
    Flush {
        #[command(flatten)]
        options: Options,
    },
}

#[derive(Debug, Args)]
#[group(required = true, multiple = true)]
struct Networks {
    /// Addresses, or ADDRESS/LENGTH.
    #[arg(value_name = "NETWORK")]
    named: Vec<Prefix>,

    /// A file of them, one on each line (`-` for the standard input). What follows a `#` or a `;` is not read.
    #[arg(long, short = 'f', value_name = "FILE")]
    file: Option<PathBuf>,
}

/// Of a ban by a screen, in seconds: long enough to think of what else to do.
pub(crate) const BAN_SECONDS: u32 = 3600;

pub(crate) fn run(arguments: &Arguments) -> anyhow::Result<ExitCode> {
    act(BanList::Banned, &arguments.action)
}

pub(crate) fn run_never(arguments: &NeverArguments) -> anyhow::Result<ExitCode> {
    act(BanList::Never, &arguments.action)
}

fn act(list: BanList, action: &Action) -> anyhow::Result<ExitCode> {
    match action {
        Action::Add {
            networks,
            time,
            cause,
            limit,
            options,
        } => {
            let terms = (*time, *limit, cause.as_deref());
            add(list, &networks.read()?, terms, options)
        }
        Action::Del { networks, options } => delete(list, &networks.read()?, options),
        Action::List { options } => show(list, options),
        Action::Flush { options } => flush(list, options),
    }
}

impl Networks {
    fn read(&self) -> anyhow::Result<Vec<Prefix>> {
        let mut networks = self.named.clone();
        match &self.file {
            None => {}
            Some(path) if path == Path::new("-") => {
                networks.extend(read_lines("standard input", std::io::stdin().lock())?);
            }
            Some(path) => {
                let name = path.display().to_string();
                let file = std::fs::File::open(path).with_context(|| name.clone())?;
                networks.extend(read_lines(&name, std::io::BufReader::new(file))?);
            }
        }
        if networks.is_empty() {
            bail!("no network is named");
        }
        Ok(networks)
    }
}

fn read_lines(name: &str, input: impl BufRead) -> anyhow::Result<Vec<Prefix>> {
    let mut networks = Vec::new();
    for (number, line) in (1..).zip(input.lines()) {
        let line = line.with_context(|| format!("{name}:{number}"))?;
        let text = line.split(['#', ';']).next().unwrap_or_default().trim();
        if text.is_empty() {
            continue;
        }
        let column = line.len() - line.trim_start().len() + 1;
        let network = text.parse();
        networks.push(network.with_context(|| format!("{name}:{number}:{column}"))?);
    }
    Ok(networks)
}

fn add(
    list: BanList,
    networks: &[Prefix],
    (time, limit, cause): (Option<u32>, Option<u32>, Option<&str>),
    options: &Options,
) -> anyhow::Result<ExitCode> {
    let mut client = options.instance.connect()?;
    let mut sum = Banned::default();
    let batches = networks.chunks(PREFIXES_MAX);
    let last = batches.len().saturating_sub(1);
    let progress = Progress::of("networks", networks.len());
    for (number, batch) in batches.enumerate() {
        let request = Request::Ban {
            list,
            networks: batch.to_vec(),
            seconds: time,
            cause: cause.map(str::to_owned),
            limit,
            more: number < last,
        };
        let Reply::Banned(banned) = client.ask(&request)? else {
            return Err(unexpected());
        };
        sum.new += banned.new;
        sum.changed += banned.changed;
        sum.refused += banned.refused;
        sum.flows_ended += banned.flows_ended;
        progress.advance(batch.len());
    }
    progress.end();
    let mut out = stdout();
    if options.json {
        serde_json::to_writer(&mut out, &sum)?;
        writeln!(out)?;
    }
    out.flush()?;
    if !options.json {
        eprintln!(
            "keepstate: {} new, {} changed, {} flows ended",
            sum.new, sum.changed, sum.flows_ended
        );
    }
    if sum.refused > 0 {
        bail!(
            "there is no room for {} of them: see --bans-max of `keepstate up`, and `keepstate status`",
            sum.refused
        );
    }
    Ok(ExitCode::SUCCESS)
}

fn delete(list: BanList, networks: &[Prefix], options: &Options) -> anyhow::Result<ExitCode> {
    let mut client = options.instance.connect()?;
    let (mut removed, mut missing) = (0, Vec::new());
    let progress = Progress::of("networks", networks.len());
    for batch in networks.chunks(PREFIXES_MAX) {
        let request = Request::Unban {
            list,
            networks: batch.to_vec(),
        };
        let Reply::Unbanned {
            removed: some,
            missing: others,
        } = client.ask(&request)?
        else {
            return Err(unexpected());
        };
        removed += some;
        missing.extend(others);
        progress.advance(batch.len());
    }
    progress.end();
    if options.json {
        let mut out = stdout();
        let told = serde_json::json!({ "removed": removed, "missing": missing });
        writeln!(out, "{told}")?;
        out.flush()?;
    }
    match missing.as_slice() {
        [] => Ok(ExitCode::SUCCESS),
        [one] => bail!("{one} is not on the list"),
        [first, ..] => bail!(
            "{first} and {} others are not on the list",
            missing.len() - 1
        ),
    }
}

fn show(list: BanList, options: &Options) -> anyhow::Result<ExitCode> {
    let mut client = options.instance.connect()?;
    let mut bans = all(&mut client, list)?;
    bans.sort_by_key(|ban| ban.network);
    let mut out = stdout();
    for ban in &bans {
        if options.json {
            serde_json::to_writer(&mut out, ban)?;
            writeln!(out)?;
            continue;
        }
        let left = match ban.seconds_left {
            Some(seconds) => format!("for {} more", in_words(seconds)),
            None => "for ever".to_owned(),
        };
        let since = format!("since {}", in_words(ban.age));
        let cause = ban.cause.as_deref().unwrap_or_default();
        let limit = ban.limit.map_or_else(String::new, |limit| {
            format!("limited to {limit} new flows a second  ")
        });
        let line = format!(
            "{:<24} {left:<16} {since:<14} {limit}{cause}",
            ban.network.to_string()
        );
        writeln!(out, "{}", line.trim_end())?;
    }
    out.flush()?;
    Ok(ExitCode::SUCCESS)
}

fn all(client: &mut Client, list: BanList) -> anyhow::Result<Vec<Ban>> {
    client.send(&Request::Bans { list })?;
    let mut bans = Vec::new();
    loop {
        match client.reply()? {
            Reply::Ban(ban) => bans.push(ban),
            Reply::FlowsEnd { .. } => return Ok(bans),
            _ => return Err(ClientError::Unexpected.into()),
        }
    }
}

fn flush(list: BanList, options: &Options) -> anyhow::Result<ExitCode> {
    let mut client = options.instance.connect()?;
    let Reply::FlowsEnd { shown } = client.ask(&Request::FlushBans { list })? else {
        return Err(unexpected());
    };
    if options.json {
        let mut out = stdout();
        writeln!(out, "{}", serde_json::json!({ "removed": shown }))?;
        out.flush()?;
    } else {
        eprintln!("keepstate: {shown} taken off the list");
    }
    Ok(ExitCode::SUCCESS)
}
