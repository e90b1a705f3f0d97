//! Settings that do not fit the flows that there are.

use std::collections::BTreeMap;

use keepstate_api::{Client, Reply, Request, Status, Survey};

use crate::health::{Finding, Severity};
use crate::running::unexpected;

/// A part of all flows, in percent, that is worth a word.
const MANY_PERCENT: u64 = 50;

/// Below this many flows parts say little.
const FLOWS_MIN: u64 = 1000;

/// Linux's own default, five days: longer than nearly any connection is silent.
const ESTABLISHED_SECONDS: u64 = 432_000;

/// Values by their sysctl names, without what all of these begin with.
pub(super) type Knobs = BTreeMap<String, u64>;

pub(super) fn examine(status: &Status, survey: &Survey, knobs: &Knobs) -> Vec<Finding> {
    let mut found = Vec::new();
    found.extend(waiting(
        survey,
        "TIME_WAIT",
        "nf_conntrack_tcp_timeout_time_wait",
        30,
        knobs,
    ));
    found.extend(waiting(
        survey,
        "CLOSE_WAIT",
        "nf_conntrack_tcp_timeout_close_wait",
        30,
        knobs,
    ));
    found.extend(waiting(
        survey,
        "SYN_SENT",
        "nf_conntrack_tcp_timeout_syn_sent",
        20,
        knobs,
    ));
    found.extend(established(status, survey, knobs));
    found.extend(uncounted(knobs));
    found.extend(switched_off(knobs));
    found
}

pub(super) fn read(client: &mut Client) -> anyhow::Result<Knobs> {
    client.send(&Request::Sysctl { name: None })?;
    let mut knobs = BTreeMap::new();
    loop {
        match client.reply()? {
            Reply::Sysctl { name, value } => drop(knobs.insert(name, value)),
            Reply::Done => return Ok(knobs),
            _ => return Err(unexpected()),
        }
    }
}

fn set(name: &str, value: u64) -> Option<String> {
    Some(format!("keepstate sysctl -w net.netfilter.{name}={value}"))
}

/// A state that lives too long for how many flows are in it.
fn waiting(
    survey: &Survey,
    state: &str,
    name: &str,
    better: u64,
    knobs: &Knobs,
) -> Option<Finding> {
    let count = survey.states.get(state).copied().unwrap_or(0);
    let seconds = *knobs.get(name)?;
    let percent = count * 100 / survey.flows.max(1);
    let is_much = survey.flows >= FLOWS_MIN && percent >= MANY_PERCENT && seconds > better;
    is_much.then(|| Finding {
        name: "timeout-too-long",
        severity: Severity::Warning,
        message: format!("{percent} % of all flows are in {state}"),
        cause: format!("they stay there for {seconds} s"),
        evidence: format!("{count} of {} flows; {name} = {seconds}", survey.flows),
        command: set(name, better),
    })
}

fn established(status: &Status, survey: &Survey, knobs: &Knobs) -> Option<Finding> {
    let name = "nf_conntrack_tcp_timeout_established";
    let seconds = *knobs.get(name)?;
    let count = survey.states.get("ESTABLISHED").copied().unwrap_or(0);
    let part = count * 100 / status.table.flows_max.max(1);
    (seconds >= ESTABLISHED_SECONDS && part >= MANY_PERCENT).then(|| Finding {
        name: "timeout-too-long",
        severity: Severity::Warning,
        message: format!("established connections take {part} % of the table"),
        cause: format!("those whose ends are gone without a word stay for {seconds} s"),
        evidence: format!(
            "{count} of {} flows; {name} = {seconds}",
            status.table.flows_max
        ),
        command: Some("keepstate profile apply web".to_owned()),
    })
}

fn uncounted(knobs: &Knobs) -> Option<Finding> {
    let name = "nf_conntrack_acct";
    (knobs.get(name) == Some(&0)).then(|| Finding {
        name: "not-counted",
        severity: Severity::Note,
        message: "flows have no counters".to_owned(),
        cause: "accounting is off, as in Linux".to_owned(),
        evidence: format!("{name} = 0: bytes and packets of flows are not known"),
        command: set(name, 1),
    })
}

fn switched_off(knobs: &Knobs) -> Vec<Finding> {
    const KNOBS: [(&str, u64, &str); 2] = [
        (
            "nf_conntrack_checksum",
            0,
            "packets with wrong checksums pass as valid",
        ),
        (
            "nf_conntrack_tcp_be_liberal",
            1,
            "segments out of window pass as valid, forged ones among them",
        ),
    ];
    let off = KNOBS
        .into_iter()
        .filter(|(name, value, _)| knobs.get(*name) == Some(value));
    let found = off.map(|(name, value, effect)| Finding {
        name: "check-off",
        severity: Severity::Note,
        message: effect.to_owned(),
        cause: format!("{name} is {value}"),
        evidence: format!("keepstate sysctl net.netfilter.{name}"),
        command: set(name, 1 - value),
    });
    found.collect()
}
