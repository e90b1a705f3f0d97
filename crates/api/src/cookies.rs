//! SYN cookies.

use serde::{Deserialize, Serialize};

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CookieMode {
    Never,
    /// While more flows are half-open than there should be.
    Auto,
    Always,
}

/// Half-open flows above which cookies begin to be sent, and those at which they end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CookieMarks {
    pub high: u32,
    pub low: u32,
}

/// What is to be changed; what is `None` stays.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct CookieChange {
    /// For this host.
    pub mode: Option<CookieMode>,
    /// For hosts behind this one, where a rule says SYNPROXY: never `Never`.
    pub synproxy: Option<CookieMode>,
    pub high: Option<u32>,
    pub low: Option<u32>,
    /// The same two of the connections to one destination.
    pub destination_high: Option<u32>,
    pub destination_low: Option<u32>,
}

/// How cookies stand.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CookieStatus {
    pub mode: CookieMode,
    pub synproxy: CookieMode,
    /// Whether they are sent now, for whatever destination.
    pub active: bool,
    /// Half-open flows in the table.
    pub half_open: u64,
    pub marks: CookieMarks,
    /// Half-open connections to the destination that has most.
    pub half_open_of_destination: u64,
    pub destination_marks: CookieMarks,
    /// Destinations that have too many.
    pub destinations_pressed: u32,
    pub sent: u64,
    pub accepted: u64,
    pub refused: u64,
    pub unanswerable: u64,
    /// Window scale of the answers; `None` where the host scales none.
    pub scale: Option<u32>,
    /// What of the host's settings keeps cookies from being sent or being good.
    pub obstacles: Vec<String>,
}
