//! How the firewall stands.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// What `keepstate status --json` prints.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Status {
    pub instance: String,
    pub version: String,
    pub pid: u32,
    /// Seconds since 1970.
    pub started: u64,
    /// The daemon found programs and flows of an earlier one.
    pub adopted: bool,
    pub interfaces: Vec<Attachment>,
    pub policy: Option<PolicyStatus>,
    pub table: TableStatus,
    pub traffic: Traffic,
    pub expiry: ExpiryStatus,
    #[serde(default)]
    pub bans: crate::BanStatus,
    #[serde(default)]
    pub defence: DefenceSummary,
    pub events: EventStatus,
    pub control: ControlStatus,
}

/// What goes on of floods; `keepstate defence status` has more.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct DefenceSummary {
    pub mode: keepstate_defence::Mode,
    /// Attacks that go on, by name.
    pub attacks: Vec<String>,
    /// Steps in force, by name.
    pub steps: Vec<String>,
}

/// An interface and what hangs on it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Attachment {
    pub name: String,
    pub index: u32,
    /// `xdp native`, `xdp generic`, `tcx` or `clsact`.
    pub ingress: String,
    /// `tcx` or `clsact`.
    pub egress: String,
}

/// The policy in force.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PolicyStatus {
    /// Files it came from; empty when that is not known any more.
    pub origins: Vec<String>,
    /// Seconds since 1970.
    pub applied: Option<u64>,
    /// Rules of IPv4 and of IPv6; `None` when only the compiled rules are known.
    pub rules: Option<[u32; 2]>,
    /// Rules as compiled, both families, chain ends included.
    pub compiled_rules: u32,
    /// Seconds until the rules before come back unless these are confirmed.
    #[serde(default)]
    pub confirm_within: Option<u32>,
}

/// Both families in the form of iptables-save.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RulesText {
    pub v4: String,
    pub v6: String,
}

/// The flow table.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TableStatus {
    pub flows: u64,
    pub flows_max: u64,
    pub half_open: u64,
    pub half_open_max: u64,
    /// Buckets of the IPv4 and of the IPv6 table.
    pub buckets: [u32; 2],
    pub inserted: u64,
    pub removed: u64,
    pub evicted: u64,
    pub refused: u64,
    pub contended: u64,
    pub busy: u64,
    /// Datagrams of which some fragments were seen and not all.
    #[serde(default)]
    pub fragments: u64,
    /// Of those before them: not completed in time, and given up for want of room.
    #[serde(default)]
    pub fragments_expired: u64,
    #[serde(default)]
    pub fragments_full: u64,
    /// Flows that helpers expect now, and how many there may be.
    #[serde(default)]
    pub expectations: u64,
    #[serde(default)]
    pub expectations_max: u64,
    /// Expectations ever made, of these met, and ended in any way.
    #[serde(default)]
    pub expectations_created: u64,
    #[serde(default)]
    pub expectations_met: u64,
    #[serde(default)]
    pub expectations_deleted: u64,
    /// Expectations that were not made: no room, or another flow's already.
    #[serde(default)]
    pub expectations_refused: u64,
    /// Packets that a helper could not read for want of memory for their flow.
    #[serde(default)]
    pub unread: u64,
    /// Labels that found no place.
    #[serde(default)]
    pub labels_refused: u64,
    /// Most flows at a time since the daemon started, looked at twenty times a second.
    #[serde(default)]
    pub flows_peak: u64,
}

/// Packets since the programs were loaded.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Traffic {
    pub states: BTreeMap<String, u64>,
    pub verdicts: BTreeMap<String, u64>,
    /// INVALID packets and drops.
    pub reasons: BTreeMap<String, u64>,
}

/// The search for expired flows.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExpiryStatus {
    pub removed: u64,
    /// How long the last search of the whole table took.
    pub round_ms: u64,
    /// How long after its deadline a record was removed, at worst, in the last round.
    pub lag_ms: u64,
}

/// Events since the daemon started.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct EventStatus {
    pub listeners: u32,
    /// Lost since the programs were loaded, because the ring was full.
    pub lost_in_kernel: u64,
    /// Lost because a client read too slowly.
    pub lost_by_listeners: u64,
    /// INVALID packets that `nf_conntrack_log_invalid` had logged, and those that were too many.
    #[serde(default)]
    pub logged: u64,
    #[serde(default)]
    pub not_logged: u64,
}

/// The control socket since the daemon started.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ControlStatus {
    pub connections: u64,
    pub requests: u64,
    /// Lines that were no request, or too long.
    pub malformed: u64,
    /// Connections refused because there were too many.
    pub refused: u64,
    /// Flows made by hand.
    #[serde(default)]
    pub inserted: u64,
}
