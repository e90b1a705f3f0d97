//! What is wrong with a firewall that runs: from its counters alone. `doctor` asks the host as well.

mod causes;

use keepstate_api::{DefenceStatus, Status};
use keepstate_defence::{Attack, Mode, Step, StepState};
use keepstate_engine::limits::{RATED_LOAD_PERCENT, SLOTS_PER_BUCKET};
use serde_json::{Value, json};

pub(crate) use self::causes::cause;

/// All that [`of_status`] can find.
pub(crate) const NAMES: [&str; 11] = [
    "unattached",
    "no-policy",
    "policy-unconfirmed",
    "table-full",
    "buckets-full",
    "half-open",
    "flows-refused",
    "expiry-late",
    "events-lost",
    "xdp-generic",
    "drops",
];

/// What [`of_defence`] finds.
pub(crate) const FLOOD: &str = "flood";
pub(crate) const STEP: &str = "step";

/// How bad it is. The order is that of the lists.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Severity {
    /// Packets are lost, or nothing is filtered.
    Error,
    /// They will be, or something does not do what it looks like.
    Warning,
    /// Worth knowing.
    Note,
}

impl Severity {
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Error => "error",
            Self::Warning => "warning",
            Self::Note => "note",
        }
    }
}

/// Something found, with what brought it about and what to do. Names are a contract.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Finding {
    pub(crate) name: &'static str,
    pub(crate) severity: Severity,
    pub(crate) message: String,
    pub(crate) cause: String,
    pub(crate) evidence: String,
    /// What mends it; `None` where nothing needs to be done.
    pub(crate) command: Option<String>,
}

impl Finding {
    pub(crate) fn to_json(&self) -> Value {
        json!({
            "name": self.name,
            "severity": self.severity.name(),
            "message": self.message,
            "cause": self.cause,
            "evidence": self.evidence,
            "command": self.command,
        })
    }
}

/// A table that is fuller than this, in percent, is told of; at the second number it is an error.
const FULL_PERCENT: [u64; 2] = [80, 95];

/// Expired flows are removed within a second; beyond this many milliseconds the search does not keep up.
const LAG_MS_MAX: u64 = 2000;

/// Drops of one reason that are worth a note: so many, and this part of all packets.
const DROPS_MIN: u64 = 100;
const DROPS_PART: u64 = 100;

/// What the daemon's status says, the worst first. Counters count since the programs were loaded, or
/// since `before`, where that is known.
pub(crate) fn of_status(status: &Status, before: Option<&Status>) -> Vec<Finding> {
    let mut found = Vec::new();
    found.extend(unattached(status));
    found.extend(policy(status));
    found.extend(fullness(status));
    found.extend(dense(status));
    found.extend(half_open(status));
    found.extend(refused(status, before));
    found.extend(lag(status));
    found.extend(lost_events(status, before));
    found.extend(generic_xdp(status));
    found.extend(reasons(status, before));
    found.sort_by_key(|finding| finding.severity);
    found
}

/// Attacks that go on, and steps that are in force against them. Their names are `flood` and `step`.
pub(crate) fn of_defence(defence: &DefenceStatus) -> Vec<Finding> {
    let attacks = defence.attacks.iter().filter(|attack| !attack.is_over);
    let attacks = attacks.map(|attack| Finding {
        name: FLOOD,
        severity: Severity::Error,
        message: format!("{} goes on", attack.kind.name()),
        cause: "somebody sends more than what is usual here".to_owned(),
        evidence: attack.evidence.clone(),
        // Where it only looks, a word is enough.
        command: Some(match would_be_met(defence, attack) {
            true => "keepstate defence mode act".to_owned(),
            false => format!("keepstate defence explain {}", attack.number),
        }),
    });
    let steps = defence
        .steps
        .iter()
        .filter(|step| step.state == StepState::Active);
    let steps = steps.map(|step| Finding {
        name: STEP,
        severity: Severity::Warning,
        message: "a step against a flood is in force".to_owned(),
        cause: "the defence acts by itself".to_owned(),
        evidence: step.evidence.clone(),
        command: Some(format!("keepstate defence undo {}", step.number)),
    });
    attacks.chain(steps).collect()
}

fn would_be_met(defence: &DefenceStatus, attack: &Attack) -> bool {
    let mut steps = defence.steps.iter();
    let is_proposed =
        |step: &Step| step.attack == attack.number && step.state == StepState::Proposed;
    defence.mode == Mode::Observe && steps.any(is_proposed)
}

fn unattached(status: &Status) -> Option<Finding> {
    status.interfaces.is_empty().then(|| Finding {
        name: "unattached",
        severity: Severity::Error,
        message: "no interface is filtered".to_owned(),
        cause: "the programs hang on no interface".to_owned(),
        evidence: "`keepstate status` lists none".to_owned(),
        command: Some("keepstate down && keepstate up".to_owned()),
    })
}

fn policy(status: &Status) -> Option<Finding> {
    let Some(policy) = &status.policy else {
        return Some(Finding {
            name: "no-policy",
            severity: Severity::Warning,
            message: "everything passes".to_owned(),
            cause: "no rules are in force".to_owned(),
            evidence: "`keepstate status`: policy none".to_owned(),
            command: Some("keepstate apply FILE --confirm 60".to_owned()),
        });
    };
    let seconds = policy.confirm_within?;
    Some(Finding {
        name: "policy-unconfirmed",
        severity: Severity::Warning,
        message: format!("the rules before come back in {seconds} s"),
        cause: "rules were applied with --confirm, and nobody has confirmed them".to_owned(),
        evidence: format!("{} s are left", seconds),
        command: Some("keepstate confirm".to_owned()),
    })
}

fn fullness(status: &Status) -> Option<Finding> {
    let table = &status.table;
    let percent = table.flows * 100 / table.flows_max.max(1);
    let [warning, error] = FULL_PERCENT;
    let severity = match percent {
        percent if percent >= error => Severity::Error,
        percent if percent >= warning => Severity::Warning,
        _ => return None,
    };
    Some(Finding {
        name: "table-full",
        severity,
        message: format!("the flow table is {percent} % full"),
        cause: "more flows at a time than the table is made for, or timeouts that keep them long"
            .to_owned(),
        evidence: format!("{} of {} flows", table.flows, table.flows_max),
        command: Some(format!(
            "keepstate sysctl -w net.netfilter.nf_conntrack_max={}",
            table.flows_max.saturating_mul(2)
        )),
    })
}

/// Buckets that are full while the table is not: there are too few of them, or the hash spreads badly.
fn dense(status: &Status) -> Option<Finding> {
    let table = &status.table;
    let buckets = table.buckets.iter().min().copied().unwrap_or(0);
    let slots = u64::from(buckets) * u64::from(SLOTS_PER_BUCKET);
    let rated = slots * u64::from(RATED_LOAD_PERCENT) / 100;
    let is_crowded = table.flows_peak * 100 >= slots * u64::from(RATED_LOAD_PERCENT);
    let (cause, evidence) = if table.flows_max > rated {
        (
            "there may be more flows than the buckets are made for",
            format!(
                "{buckets} buckets hold {rated} flows well, and {} are allowed",
                table.flows_max
            ),
        )
    } else if table.refused > 0 && !is_crowded && table.flows_peak < table.half_open_max {
        // Nor can it have been half-open flows that had no room.
        (
            "new flows found their buckets full while the table was not: the hash spreads these flows badly",
            format!(
                "{} refused, and never more than {} of {slots} slots taken",
                table.refused, table.flows_peak
            ),
        )
    } else {
        return None;
    };
    Some(Finding {
        name: "buckets-full",
        severity: Severity::Warning,
        message: "new flows may find no room before the table is full".to_owned(),
        cause: cause.to_owned(),
        evidence,
        command: Some(format!(
            "keepstate sysctl -w net.netfilter.nf_conntrack_buckets={}",
            buckets.saturating_mul(2)
        )),
    })
}

fn half_open(status: &Status) -> Option<Finding> {
    let table = &status.table;
    let percent = table.half_open * 100 / table.half_open_max.max(1);
    (percent >= FULL_PERCENT[0]).then(|| Finding {
        name: "half-open",
        severity: Severity::Warning,
        message: format!("half-open flows take {percent} % of what they may"),
        cause: "a SYN flood, a scan, or servers that do not answer: the oldest of them go first"
            .to_owned(),
        evidence: format!("{} of {}", table.half_open, table.half_open_max),
        command: Some(
            "keepstate sysctl -w net.netfilter.nf_conntrack_tcp_timeout_syn_sent=20".to_owned(),
        ),
    })
}

fn refused(status: &Status, before: Option<&Status>) -> Option<Finding> {
    let earlier = before.map_or(0, |before| before.table.refused);
    let refused = status.table.refused.saturating_sub(earlier);
    (refused != 0).then(|| Finding {
        name: "flows-refused",
        severity: Severity::Error,
        message: format!("{refused} new flows found no room"),
        cause: "the table was full, and nothing in it could be given up".to_owned(),
        evidence: format!(
            "{} refused, {} evicted, {} of {} in use",
            refused, status.table.evicted, status.table.flows, status.table.flows_max
        ),
        command: Some(format!(
            "keepstate sysctl -w net.netfilter.nf_conntrack_max={}",
            status.table.flows_max.saturating_mul(2)
        )),
    })
}

fn lag(status: &Status) -> Option<Finding> {
    let lag = status.expiry.lag_ms;
    (lag > LAG_MS_MAX).then(|| Finding {
        name: "expiry-late",
        severity: Severity::Warning,
        message: format!("expired flows are removed {lag} ms late"),
        cause: "the daemon has too little processor time for its table".to_owned(),
        evidence: format!("a round takes {} ms", status.expiry.round_ms),
        command: Some(format!("renice -n -5 -p {}", status.pid)),
    })
}

fn lost_events(status: &Status, before: Option<&Status>) -> Option<Finding> {
    let lost = |status: &Status| status.events.lost_in_kernel + status.events.lost_by_listeners;
    let lost_now = lost(status).saturating_sub(before.map_or(0, lost));
    (lost_now != 0).then(|| Finding {
        name: "events-lost",
        severity: Severity::Note,
        message: format!("{lost_now} events were not told"),
        cause: "more happened than who listens could read; counters are right all the same"
            .to_owned(),
        evidence: format!(
            "{} lost in the ring, {} by slow readers, {} listening",
            status.events.lost_in_kernel, status.events.lost_by_listeners, status.events.listeners
        ),
        command: Some("keepstate events --follow --drops".to_owned()),
    })
}

fn generic_xdp(status: &Status) -> Vec<Finding> {
    let attached = status.interfaces.iter();
    let generic = attached.filter(|attachment| attachment.ingress == "xdp generic");
    let findings = generic.map(|attachment| Finding {
        name: "xdp-generic",
        severity: Severity::Note,
        message: format!(
            "{} is filtered after the kernel has made its packets",
            attachment.name
        ),
        cause: "its driver, or its MTU, has no native XDP: packets cost more".to_owned(),
        evidence: format!("in by {}", attachment.ingress),
        command: Some(format!("ethtool -i {0}; ip link show {0}", attachment.name)),
    });
    findings.collect()
}

fn reasons(status: &Status, before: Option<&Status>) -> Vec<Finding> {
    let earlier = |name: &str| {
        let counts = before.map(|before| &before.traffic.reasons);
        counts
            .and_then(|counts| counts.get(name))
            .copied()
            .unwrap_or(0)
    };
    let packets = |status: &Status| status.traffic.states.values().sum::<u64>();
    let all = packets(status).saturating_sub(before.map_or(0, packets));
    let counts = status.traffic.reasons.iter();
    let counts = counts.map(|(name, count)| (name, count.saturating_sub(earlier(name))));
    let found = counts.filter_map(|(name, count)| {
        let cause = cause(name)?;
        let is_much = count >= DROPS_MIN && count * DROPS_PART >= all;
        (is_much || (cause.severity == Severity::Error && count != 0)).then(|| Finding {
            name: "drops",
            severity: cause.severity,
            message: format!("{count} packets with the reason {name}"),
            cause: format!("{} {}", cause.sentence, cause.text),
            evidence: format!("{count} of {all} packets"),
            command: Some(cause.command.to_owned()),
        })
    });
    found.collect()
}

#[cfg(test)]
mod tests {
    #[test]
    fn buckets_that_are_too_few_or_uneven_are_found() {
        let text = include_str!("../status.example.json");
        let mut status: keepstate_api::Status = serde_json::from_str(text).unwrap();
        // 1000 buckets have 8000 slots, of which 6400 are taken well.
        status.table.buckets = [1000; 2];
        status.table.flows_max = 6400;
        status.table.flows_peak = 3000;
        status.table.refused = 0;
        assert_eq!(super::dense(&status), None);
        status.table.refused = 7;
        let found = super::dense(&status).unwrap();
        assert_eq!(
            found.evidence,
            "7 refused, and never more than 3000 of 8000 slots taken"
        );
        status.table.half_open_max = 3000;
        assert_eq!(super::dense(&status), None);
        status.table.flows_peak = 6400;
        assert_eq!(super::dense(&status), None);
        status.table.flows_max = 6401;
        let found = super::dense(&status).unwrap();
        assert!(
            found.evidence.contains("1000 buckets hold 6400"),
            "{found:?}"
        );
    }

    #[test]
    fn all_names_are_listed() {
        let source = include_str!("mod.rs");
        let given = source
            .lines()
            .filter_map(|line| line.trim().strip_prefix("name: \""));
        let mut given: Vec<_> = given.filter_map(|name| name.strip_suffix("\",")).collect();
        let mut listed = super::NAMES.to_vec();
        given.sort_unstable();
        listed.sort_unstable();
        assert_eq!(given, listed);
    }
}
