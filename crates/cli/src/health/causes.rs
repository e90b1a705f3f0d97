//! What is behind a reason when many packets have it.

use keepstate_engine::verdict::Reason;

use super::Severity;

pub(crate) struct Cause {
    pub(crate) severity: Severity,
    pub(crate) sentence: &'static str,
    pub(crate) text: &'static str,
    pub(crate) command: &'static str,
}

/// By the beginning of a reason's name; the first that fits counts.
const CAUSES: [(&str, Severity, &str, &str); 14] = [
    (
        "stage_missing",
        Severity::Error,
        "An upgrade was cut off, or somebody removed pinned programs.",
        "keepstate down && keepstate up",
    ),
    (
        "table_full",
        Severity::Error,
        "The table is too small for what comes.",
        "keepstate tune --observe",
    ),
    (
        "fragment_table_full",
        Severity::Warning,
        "A flood of fragments, or a path whose MTU is too small.",
        "keepstate events --follow 'reason fragment_*'",
    ),
    (
        "fragment_",
        Severity::Note,
        "Damaged or forged fragments.",
        "keepstate events --follow 'reason fragment_*'",
    ),
    (
        "tcp_sequence_over_window",
        Severity::Warning,
        "Some packets of these connections go another way (asymmetric routing), or a middlebox rewrites numbers.",
        "keepstate sysctl -w net.netfilter.nf_conntrack_tcp_be_liberal=1",
    ),
    (
        "tcp_ack_of_unseen_data",
        Severity::Warning,
        "Only one direction of these connections is seen: asymmetric routing.",
        "keepstate sysctl -w net.netfilter.nf_conntrack_tcp_be_liberal=1",
    ),
    (
        "tcp_pickup_disabled",
        Severity::Warning,
        "Connections from before the firewall, or whose record has ended: their timeouts may be too short.",
        "keepstate sysctl -w net.netfilter.nf_conntrack_tcp_loose=1",
    ),
    (
        "tcp_no_connection",
        Severity::Note,
        "Scans, late segments of connections that have ended, or timeouts that are too short.",
        "keepstate events --follow 'reason tcp_no_connection'",
    ),
    (
        "tcp_bad_flags",
        Severity::Note,
        "A scan.",
        "keepstate events --follow 'reason tcp_bad_flags'",
    ),
    (
        "icmp_no_request",
        Severity::Note,
        "Replies to requests that went another way, or backscatter.",
        "keepstate events --follow 'reason icmp_no_request'",
    ),
    (
        "policy_drop",
        Severity::Note,
        "What no rule lets through; in a firewall that is as it should be.",
        "keepstate events --follow 'reason policy_drop'",
    ),
    (
        "rule_",
        Severity::Note,
        "What the rules refuse.",
        "keepstate top",
    ),
    (
        "insert_contended",
        Severity::Warning,
        "Many new flows at once in a table that is nearly full.",
        "keepstate tune --observe",
    ),
    (
        "record_busy",
        Severity::Warning,
        "Many CPUs have packets of one flow: the card spreads a flow over its queues.",
        "ethtool -n IFACE rx-flow-hash tcp4",
    ),
];

/// `None` for a name that is no reason.
pub(crate) fn cause(name: &str) -> Option<Cause> {
    let reason = Reason::ALL.iter().find(|reason| reason.name() == name)?;
    let known = CAUSES
        .iter()
        .find(|(beginning, ..)| name.starts_with(beginning));
    let (severity, text, command) = match known {
        Some((_, severity, text, command)) => (*severity, *text, *command),
        // A checksum may be wrong because hardware has yet to write it.
        None if name.ends_with("_checksum") => (
            Severity::Warning,
            "Damage on the way, or checksums that a virtual card leaves to hardware that is not there.",
            "ethtool -K IFACE rx off tx off",
        ),
        None => (
            Severity::Note,
            "Damaged or forged packets.",
            "keepstate events --follow --drops",
        ),
    };
    Some(Cause {
        severity,
        sentence: reason.sentence(),
        text,
        command,
    })
}
