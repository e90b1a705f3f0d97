//! `keepstate tune`: how large the table should be.

use std::io::Write;
use std::process::ExitCode;
use std::time::{SystemTime, UNIX_EPOCH};

use clap::Args;
use keepstate_api::{Reply, Request};
use keepstate_engine::limits::{
    ACCOUNTING_WORDS, SLOT_WORDS_V4, SLOT_WORDS_V6, SLOTS_PER_BUCKET, WARM_WORDS,
};
use keepstate_flowmemory::buckets_for;
use serde_json::json;

use crate::duration::in_words;
use crate::output::stdout;
use crate::running::{InstanceArgument, unexpected};

/// What a table should hold beyond what is expected, in percent.
const RESERVE_PERCENT: u64 = 150;

/// A week has its busiest day.
const OBSERVED_SECONDS: u64 = 7 * 24 * 60 * 60;

/// Most flows that a table may be made for: its buckets are numbered by 21 bits.
const FLOWS_MAX: u64 = 13_000_000;

/// Work out the table for a number of flows at a time: half as many again, its buckets and its memory.
#[derive(Debug, Args)]
pub(crate) struct Arguments {
    /// Flows at a time, at the busiest moment.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..=FLOWS_MAX))]
    concurrent: Option<u64>,

    /// Take the most flows that there were at a time since the daemon started.
    #[arg(long, conflicts_with = "concurrent")]
    observe: bool,

    /// Print JSON.
    #[arg(long)]
    json: bool,

    #[command(flatten)]
    instance: InstanceArgument,
}

/// What comes out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Plan {
    concurrent: u64,
    flows_max: u32,
    /// Of each family.
    buckets: u32,
    /// Of both families, without counters and with them.
    bytes: u64,
    bytes_counted: u64,
}

impl Plan {
    fn of(concurrent: u64) -> Self {
        let flows = (concurrent * RESERVE_PERCENT).div_ceil(100);
        let flows_max = u32::try_from(flows).unwrap_or(u32::MAX);
        let buckets = buckets_for(flows_max);
        Self {
            concurrent,
            flows_max,
            buckets,
            bytes: table_bytes([buckets; 2], false),
            bytes_counted: table_bytes([buckets; 2], true),
        }
    }
}

/// Memory of a table with so many buckets for IPv4 and for IPv6.
pub(crate) fn table_bytes(buckets: [u32; 2], is_counted: bool) -> u64 {
    let extra = if is_counted { ACCOUNTING_WORDS } else { 0 };
    let families = buckets.into_iter().zip([SLOT_WORDS_V4, SLOT_WORDS_V6]);
    let words = families.map(|(buckets, slot)| {
        // A word of tags in each bucket.
        u64::from(buckets) * u64::from(1 + SLOTS_PER_BUCKET * (slot + WARM_WORDS + extra))
    });
    words.sum::<u64>() * 8
}

pub(crate) fn run(arguments: &Arguments) -> anyhow::Result<ExitCode> {
    let concurrent = match arguments.concurrent {
        Some(concurrent) => concurrent,
        None if arguments.observe => observed(arguments)?,
        None => anyhow::bail!(
            "say --concurrent N, or --observe to take the most that the daemon has seen"
        ),
    };
    let plan = Plan::of(concurrent);
    let mut out = stdout();
    if arguments.json {
        let document = json!({
            "concurrent": plan.concurrent,
            "nf_conntrack_max": plan.flows_max,
            "nf_conntrack_buckets": plan.buckets,
            "bytes": plan.bytes,
            "bytes_with_accounting": plan.bytes_counted,
        });
        writeln!(out, "{document}")?;
    } else {
        let mebibytes = |bytes: u64| bytes.div_ceil(1 << 20);
        writeln!(out, "flows at a time  {}", plan.concurrent)?;
        writeln!(
            out,
            "table            {} flows, half as many again",
            plan.flows_max
        )?;
        writeln!(out, "buckets          {} of each family", plan.buckets)?;
        writeln!(
            out,
            "memory           {} MiB, with counters (nf_conntrack_acct) {} MiB",
            mebibytes(plan.bytes),
            mebibytes(plan.bytes_counted)
        )?;
        writeln!(
            out,
            "try              keepstate sysctl -w net.netfilter.nf_conntrack_max={}",
            plan.flows_max
        )?;
    }
    out.flush()?;
    Ok(ExitCode::SUCCESS)
}

fn observed(arguments: &Arguments) -> anyhow::Result<u64> {
    match arguments.instance.connect()?.ask(&Request::Status)? {
        Reply::Status(status) => {
            let now = SystemTime::now().duration_since(UNIX_EPOCH);
            let age = now.map_or(0, |now| now.as_secs().saturating_sub(status.started));
            if age < OBSERVED_SECONDS {
                let age = in_words(u32::try_from(age).unwrap_or(u32::MAX));
                eprintln!(
                    "keepstate: this daemon has looked for {age} only, and not for a busy week"
                );
            }
            Ok(status.table.flows_peak.max(1))
        }
        _ => Err(unexpected()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use keepstate_flowmemory::rated_flows;

    #[test]
    fn a_plan_holds_half_as_many_again() {
        for concurrent in [1, 1000, 1_000_000, FLOWS_MAX] {
            let plan = Plan::of(concurrent);
            assert!(u64::from(plan.flows_max) * 2 >= concurrent * 3, "{plan:?}");
            assert!(rated_flows(plan.buckets) >= plan.flows_max, "{plan:?}");
        }
        // Those of README: 101 bytes of IPv4 and 182 of IPv6 for a flow of each at the rated load.
        let plan = Plan::of(1_000_000);
        let a_flow = plan.bytes as f64 / f64::from(plan.flows_max);
        assert!((280.0..285.0).contains(&a_flow), "{a_flow}");
    }
}
