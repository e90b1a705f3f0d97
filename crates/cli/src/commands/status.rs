//! `keepstate status`: how the firewall stands.

use std::collections::BTreeMap;
use std::io::Write;
use std::process::ExitCode;
use std::time::{SystemTime, UNIX_EPOCH};

use clap::Args;
use keepstate_api::{PolicyStatus, Reply, Request, Status};

use crate::output::stdout;
use crate::running::{InstanceArgument, unexpected};

/// Show what is attached, which rules are in force, and what became of the packets.
#[derive(Debug, Args)]
pub(crate) struct Arguments {
    /// Print JSON.
    #[arg(long)]
    json: bool,

    #[command(flatten)]
    instance: InstanceArgument,
}

pub(crate) fn run(arguments: &Arguments) -> anyhow::Result<ExitCode> {
    let mut client = arguments.instance.connect()?;
    let Reply::Status(status) = client.ask(&Request::Status)? else {
        return Err(unexpected());
    };
    let mut out = stdout();
    if arguments.json {
        serde_json::to_writer_pretty(&mut out, &status)?;
        writeln!(out)?;
    } else {
        print(&mut out, &status)?;
    }
    out.flush()?;
    Ok(ExitCode::SUCCESS)
}

fn print(out: &mut impl Write, status: &Status) -> std::io::Result<()> {
    let Status { version, pid, .. } = status;
    let since = ago(status.started);
    let how = if status.adopted { ", adopted" } else { "" };
    writeln!(
        out,
        "daemon      {version}, process {pid}, started {since}{how}"
    )?;
    if status.interfaces.is_empty() {
        writeln!(out, "interface   none: nothing is filtered")?;
    }
    for attachment in &status.interfaces {
        let (ingress, egress) = (&attachment.ingress, &attachment.egress);
        writeln!(
            out,
            "interface   {}: in by {ingress}, out by {egress}",
            attachment.name
        )?;
    }
    match &status.policy {
        None => writeln!(out, "policy      none: everything passes")?,
        Some(policy) => writeln!(out, "policy      {}", policy_line(policy))?,
    }
    print_table(out, status)?;
    let bans = &status.bans;
    if bans.banned + bans.never != 0 {
        writeln!(
            out,
            "bans        {} networks banned or limited, {} never; room for {}",
            bans.banned, bans.never, bans.room
        )?;
    }
    let defence = &status.defence;
    if !defence.attacks.is_empty() || !defence.steps.is_empty() {
        let named = |names: &[String]| match names {
            [] => "none".to_owned(),
            names => names.join(", "),
        };
        writeln!(
            out,
            "defence     attacks: {}; steps in force: {} (`keepstate defence status`)",
            named(&defence.attacks),
            named(&defence.steps)
        )?;
    }
    let traffic = &status.traffic;
    print_counts(out, "state", &traffic.states)?;
    print_counts(out, "verdict", &traffic.verdicts)?;
    print_counts(out, "reason", &traffic.reasons)?;
    let events = &status.events;
    let lost = events.lost_in_kernel + events.lost_by_listeners;
    writeln!(
        out,
        "events      {} listening, {lost} lost",
        events.listeners
    )?;
    if events.logged + events.not_logged != 0 {
        writeln!(
            out,
            "log         {} INVALID packets, {} more left out",
            events.logged, events.not_logged
        )?;
    }
    let control = &status.control;
    let wrong = control.malformed + control.refused;
    writeln!(
        out,
        "clients     {} requests, {wrong} refused",
        control.requests
    )
}

fn print_table(out: &mut impl Write, status: &Status) -> std::io::Result<()> {
    let table = &status.table;
    let percent = table.flows as f64 * 100.0 / table.flows_max.max(1) as f64;
    writeln!(
        out,
        "flows       {} of {} ({percent:.1} %), {} half-open of {}",
        table.flows, table.flows_max, table.half_open, table.half_open_max
    )?;
    writeln!(
        out,
        "table       {} and {} buckets, {} made, {} ended, {} evicted, {} refused for want of room, \
         {} contended, {} busy",
        table.buckets[0],
        table.buckets[1],
        table.inserted,
        table.removed,
        table.evicted,
        table.refused,
        table.contended,
        table.busy
    )?;
    writeln!(
        out,
        "fragments   {} datagrams unfinished, {} expired, {} given up for want of room",
        table.fragments, table.fragments_expired, table.fragments_full
    )?;
    if table.expectations_created != 0 {
        writeln!(
            out,
            "expected    {} of {}; {} made, {} met, {} refused, {} packets unread",
            table.expectations,
            table.expectations_max,
            table.expectations_created,
            table.expectations_met,
            table.expectations_refused,
            table.unread
        )?;
    }
    if table.labels_refused != 0 {
        writeln!(out, "labels      {} found no place", table.labels_refused)?;
    }
    let expiry = &status.expiry;
    writeln!(
        out,
        "expiry      {} removed, at most {} ms late, a round in {} ms",
        expiry.removed, expiry.lag_ms, expiry.round_ms
    )
}

fn print_counts(
    out: &mut impl Write,
    topic: &str,
    counts: &BTreeMap<String, u64>,
) -> std::io::Result<()> {
    let mut counts: Vec<_> = counts.iter().collect();
    counts.sort_by(|a, b| b.1.cmp(a.1).then(a.0.cmp(b.0)));
    for (name, count) in counts {
        writeln!(out, "{topic:<11} {name} {count}")?;
    }
    Ok(())
}

/// A policy in a few words.
pub(super) fn policy_line(policy: &PolicyStatus) -> String {
    let Some([v4, v6]) = policy.rules else {
        return format!(
            "{} compiled rules of an earlier daemon; their text is lost",
            policy.compiled_rules
        );
    };
    let when = policy.applied.map(ago).unwrap_or_default();
    let origins = policy.origins.join(", ");
    let waiting = policy.confirm_within.map_or(String::new(), |seconds| {
        format!("; undone in {seconds} s without `keepstate confirm`")
    });
    format!("{origins}: {v4} rules for IPv4, {v6} for IPv6, applied {when}{waiting}")
}

fn ago(unix_seconds: u64) -> String {
    let now = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    let seconds = now.as_secs().saturating_sub(unix_seconds);
    match seconds {
        0 => "just now".to_owned(),
        1..120 => format!("{seconds} s ago"),
        120..7200 => format!("{} min ago", seconds / 60),
        7200..172_800 => format!("{} h ago", seconds / 3600),
        _ => format!("{} days ago", seconds / 86_400),
    }
}
