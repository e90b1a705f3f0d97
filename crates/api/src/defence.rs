//! Floods, and what is done about them.

use keepstate_defence::{Attack, Exemption, Mode, Step};
use serde::{Deserialize, Serialize};

/// How the defence stands.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct DefenceStatus {
    pub mode: Mode,
    /// Seconds since the daemon began to look: what attacks and steps count in.
    pub now: u64,
    /// One packet in so many is sampled.
    pub one_in: u32,
    /// Flows are counted (`nf_conntrack_acct`), so floods within them can be seen.
    #[serde(default)]
    pub counts_flows: bool,
    /// Samples that were taken in, and those that were lost on the way.
    pub samples: u64,
    pub lost: u64,
    /// Who is left alone, apart from the networks of `never-ban`.
    pub exempt: Vec<Exemption>,
    /// The latest 256 and their steps, oldest first.
    pub attacks: Vec<Attack>,
    pub steps: Vec<Step>,
    /// Numbers of the steps that the request has ended: another mode may take none.
    #[serde(default)]
    pub ended: Vec<u32>,
}
