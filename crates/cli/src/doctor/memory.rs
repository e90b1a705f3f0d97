//! Memory: a table that is larger than what is ever in it.

use std::fs;
use std::time::{SystemTime, UNIX_EPOCH};

use keepstate_api::Status;

use super::knobs::Knobs;
use crate::commands::tune::table_bytes;
use crate::health::{Finding, Severity};

/// Memory of the table that is worth a word: this much, or this part of the host's.
const BYTES_MIN: u64 = 256 << 20;
const PART_OF_HOST: u64 = 10;

/// A table that is never fuller than this, in percent, is too large.
const USED_PERCENT: u64 = 20;

/// What was seen in less time than this says little of what will come.
const SEEN_SECONDS: u64 = 600;

pub(super) fn examine(status: &Status, knobs: &Knobs) -> Option<Finding> {
    let host = host_bytes(&fs::read_to_string("/proc/meminfo").ok()?)?;
    let now = SystemTime::now().duration_since(UNIX_EPOCH).ok()?.as_secs();
    let is_counted = knobs.get("nf_conntrack_acct") == Some(&1);
    unused(status, is_counted, host, now.saturating_sub(status.started))
}

fn host_bytes(meminfo: &str) -> Option<u64> {
    let line = meminfo
        .lines()
        .find_map(|line| line.strip_prefix("MemTotal:"))?;
    let kibibytes: u64 = line.trim().strip_suffix(" kB")?.parse().ok()?;
    Some(kibibytes << 10)
}

fn unused(status: &Status, is_counted: bool, host: u64, seconds: u64) -> Option<Finding> {
    let table = &status.table;
    let bytes = table_bytes(table.buckets, is_counted);
    let is_much = bytes >= BYTES_MIN || bytes * PART_OF_HOST >= host;
    let is_used = table.flows_peak * 100 >= table.flows_max * USED_PERCENT;
    if !is_much || is_used {
        return None;
    }
    let is_known = seconds >= SEEN_SECONDS;
    Some(Finding {
        name: "memory",
        severity: if bytes * 2 >= host {
            Severity::Warning
        } else {
            Severity::Note
        },
        message: format!("the flow table takes {} MiB", bytes >> 20),
        cause: "its memory is taken when it is made, for all the flows that it may ever hold"
            .to_owned(),
        evidence: format!(
            "room for {} flows, never more than {} at a time{}; the host has {} MiB",
            table.flows_max,
            table.flows_peak,
            if is_known {
                ""
            } else {
                " in the few minutes since the daemon started"
            },
            host >> 20
        ),
        command: Some("keepstate tune --observe".to_owned()),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_that_is_far_too_large_is_found() {
        assert_eq!(
            host_bytes("MemTotal:  2048 kB\nMemFree: 1 kB\n"),
            Some(2 << 20)
        );
        let text = include_str!("../status.example.json");
        let mut status: Status = serde_json::from_str(text).unwrap();
        let gibibyte = 1 << 30;
        assert_eq!(unused(&status, false, 24 * gibibyte, 3600), None);
        status.table.buckets = [2_000_000; 2];
        status.table.flows_max = 12_000_000;
        status.table.flows_peak = 1_000_000;
        let found = unused(&status, false, 24 * gibibyte, 3600).unwrap();
        assert_eq!(found.severity, Severity::Note);
        assert!(
            found
                .evidence
                .contains("never more than 1000000 at a time;"),
            "{found:?}"
        );
        let found = unused(&status, false, 4 * gibibyte, 60).unwrap();
        assert_eq!(found.severity, Severity::Warning);
        status.table.flows_peak = 9_000_000;
        assert_eq!(unused(&status, false, 4 * gibibyte, 3600), None);
    }
}
