//! Connections that are held open.

use std::net::IpAddr;

use keepstate_engine::conntrack::tcp::TcpState;
use keepstate_engine::record::ASSURED;
use keepstate_engine::settings::{Settings, Timeout};
use keepstate_engine::table::Entry;
use keepstate_engine::time::Tick;

use crate::sample::{TCP, address};

/// How often they are looked for, in seconds.
pub const SURVEY_SECONDS: u64 = 10;

/// Seconds without a packet after which a connection counts as held open. Somebody who holds many sends now and
/// then, and not to all at once.
const IDLE_SECONDS: u32 = 3;

/// A connection that is established and not used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Held {
    pub source: IpAddr,
    pub destination: IpAddr,
    pub source_port: u16,
    pub destination_port: u16,
    /// Sequence number after the last byte that its originator has sent.
    pub end: u32,
}

/// Who holds a connection open, and to whom; `None` for one that is used, or that is none.
pub fn held(entry: &Entry, settings: &Settings, now: Tick) -> Option<Held> {
    let control = entry.control;
    let is_established = control.tcp_state() as u8 == TcpState::Established as u8;
    if entry.key.protocol() != TCP || !is_established || control.status() & ASSURED == 0 {
        return None;
    }
    let left = control.deadline().seconds_left(now);
    let idle = settings
        .seconds(Timeout::TcpEstablished)
        .saturating_sub(left);
    if idle < IDLE_SECONDS {
        return None;
    }
    let tuple = entry.key.tuple(control.originator());
    let family = entry.key.family;
    let [originator, _] = entry.record.windows;
    Some(Held {
        source: address(family, tuple.source),
        destination: address(family, tuple.destination),
        source_port: tuple.source_port,
        destination_port: tuple.destination_port,
        end: originator.end,
    })
}
