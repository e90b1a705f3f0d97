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

/// How cookies stand.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CookieStatus {
    pub mode: CookieMode,
    /// Whether they are sent now.
    pub active: bool,
    /// Half-open flows, those above which cookies begin to be sent, and those at which they end.
    pub half_open: u64,
    pub high: u32,
    pub low: u32,
    pub sent: u64,
    pub accepted: u64,
    pub refused: u64,
    pub unanswerable: u64,
    /// Window scale of the answers; `None` where the host scales none.
    pub scale: Option<u32>,
    /// What of the host's settings keeps cookies from being sent or being good.
    pub obstacles: Vec<String>,
}
