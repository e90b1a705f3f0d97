//! Sizes and timeouts that do not fit: of the tracker, where they are set beside rules, and of `hashlimit`.

use keepstate_policy::WrittenAt;

use super::Look;
use crate::Subject;
use crate::facts::Facts;
use crate::finding::{Code, Finding, Location, Severity};
use crate::settings::{Setting, settings};

/// What Linux, and Keepstate, have without being told.
const FLOWS_DEFAULT: u64 = 262_144;

/// Below this a timeout of TIME_WAIT is taken for a way to empty it.
const TIME_WAIT_LEAST: u64 = 10;

/// An idle connection that is forgotten earlier ends under the hands of whoever reads before he types.
const ESTABLISHED_LEAST: u64 = 300;

/// CLOSE follows a reset, and has ten seconds.
const CLOSE_MOST: u64 = 60;

pub(super) fn check(subject: &Subject, findings: &mut Vec<Finding>) {
    for (source, text) in subject.sources.iter().enumerate() {
        let set = settings(&text.text);
        for setting in &set {
            let Ok(value) = setting.value.parse() else {
                continue;
            };
            if let Some(found) = fault_of(setting, value, &set) {
                findings.push(finding(source, setting, found));
            }
        }
    }
}

/// Code, what is wrong, and what to do.
type Fault = (Code, Severity, String, &'static str);

fn fault_of(setting: &Setting, value: u64, all: &[Setting]) -> Option<Fault> {
    let other = |name: &str| {
        let found = all.iter().rev().find(|other| other.name == name)?;
        found.value.parse::<u64>().ok()
    };
    let (size, timeout) = (Code::SizeUnfit, Code::TimeoutUnfit);
    let name = setting.name.as_str();
    let seconds = name
        .strip_prefix("nf_conntrack_")
        .or(name.strip_prefix("ip_conntrack_"));
    let fault: Fault = match (name, seconds) {
        ("nf_conntrack_max" | "ip_conntrack_max", _) if value < FLOWS_DEFAULT => (
            size,
            Severity::Warning,
            format!("{value} flows are fewer than there is room for without this: {FLOWS_DEFAULT}"),
            "leave it out, or see `keepstate tune' for how many this host needs",
        ),
        ("nf_conntrack_buckets" | "hashsize", _)
            if value < other("nf_conntrack_max").unwrap_or(FLOWS_DEFAULT) =>
        {
            (
                size,
                Severity::Note,
                format!("{value} buckets: a quarter of the maximum was right long ago; Linux takes as many as there are flows now"),
                "leave it out: buckets follow the maximum",
            )
        }
        (_, Some("tcp_timeout_time_wait")) if value < TIME_WAIT_LEAST => (
            timeout,
            Severity::Warning,
            format!("this lets connections in TIME_WAIT live for {value} s; it empties nothing"),
            "leave it at 120 s; `conntrack -D --state TIME_WAIT' takes out those that there are",
        ),
        (_, Some("tcp_timeout_established")) if value < ESTABLISHED_LEAST => (
            timeout,
            Severity::Warning,
            format!("a connection that is silent for {value} s is forgotten, and its next packet is refused or NEW"),
            "RFC 5382 asks for two hours and four minutes; floods are held off by limits",
        ),
        (_, Some("tcp_timeout_close")) if value >= CLOSE_MOST => (
            timeout,
            Severity::Note,
            format!("CLOSE is what follows a reset, for 10 s; it is to last {value} s"),
            "connections that close in peace are in FIN_WAIT: nf_conntrack_tcp_timeout_fin_wait",
        ),
        (_, Some("udp_timeout"))
            if other("nf_conntrack_udp_timeout_stream").unwrap_or(120) < value =>
        {
            (
                timeout,
                Severity::Warning,
                format!("a datagram without an answer is remembered for {value} s, longer than a flow with answers"),
                "what goes both ways has nf_conntrack_udp_timeout_stream (120 s): a game server needs that one",
            )
        }
        (_, Some("udp_timeout_stream")) if value < other("nf_conntrack_udp_timeout").unwrap_or(30) => (
            timeout,
            Severity::Warning,
            format!("a flow with answers is remembered for {value} s, shorter than a datagram without any"),
            "nf_conntrack_udp_timeout is for datagrams without an answer (30 s), this for what goes both ways (120 s)",
        ),
        ("tcp_syncookies", _) if value == 1 => (
            size,
            Severity::Note,
            "cookies of the kernel keep its own backlog from filling; each SYN still makes a record in its tracker".into(),
            "`keepstate cookies mode auto' answers before a record is made, `-j SYNPROXY' does so for hosts behind this one",
        ),
        _ => return None,
    };
    Some(fault)
}

fn finding(source: usize, setting: &Setting, (code, severity, message, help): Fault) -> Finding {
    Finding {
        code,
        severity,
        family: "",
        message,
        location: Location {
            source: Some(source),
            place: WrittenAt(Some(setting.span)),
            table: "",
            chain: String::new(),
            number: 0,
            rule: format!("{} = {}", setting.name, setting.value),
        },
        related: Vec::new(),
        help: Some(help.to_owned()),
        fix: Vec::new(),
    }
}

/// An entry of `hashlimit` that is over before its rate has counted: who waits so long has the whole burst again.
pub(super) fn expiry(
    look: &Look<'_>,
    chain: &str,
    index: usize,
    rule: &Facts,
    findings: &mut Vec<Finding>,
) {
    let Some(hashlimit) = rule.module("hashlimit") else {
        return;
    };
    let rate = ["--hashlimit-above", "--hashlimit-upto"];
    let rate = rate.iter().find_map(|option| hashlimit.value(option));
    let expire = hashlimit.value("--hashlimit-htable-expire");
    let (Some(rate), Some(Ok(milliseconds))) = (rate, expire.map(str::parse::<u64>)) else {
        return;
    };
    let Some(period) = period(rate).filter(|period| milliseconds < *period) else {
        return;
    };
    let message = format!(
        "a sender is forgotten after {milliseconds} ms, and {rate} gives him a packet in {period} ms: after that silence he has the whole burst again"
    );
    let location = look.location(chain, index);
    let mut finding = look.finding(Code::TimeoutUnfit, Severity::Warning, message, location);
    finding.help = Some("leave `--hashlimit-htable-expire' out: it follows the rate".into());
    findings.push(finding);
}

/// Milliseconds for a packet.
fn period(rate: &str) -> Option<u64> {
    let (amount, unit) = rate.split_once('/')?;
    let seconds = match unit {
        "sec" => 1,
        "min" => 60,
        "hour" => 3600,
        "day" => 86_400,
        _ => return None,
    };
    let amount: u64 = amount.parse().ok()?;
    (seconds * 1000_u64).checked_div(amount)
}
