//! GRE: an unanswered flow, or one that was answered.
//!
//! A record keeps the timeouts that were in force when it was made, as Linux's do: a setting that changes
//! later is for flows that begin later.

use super::unanswered;
use crate::record::{ASSURED, FIXED_TIMEOUT, Record, SEEN_REPLY};
use crate::settings::{Settings, Timeout};
use crate::time::Tick;

pub(super) fn begin(settings: &Settings, now: Tick) -> Record {
    let mut record = unanswered(settings, Timeout::Gre, now);
    note_timeouts(settings, &mut record);
    record
}

/// Notes the timeouts now in force.
pub fn note_timeouts(settings: &Settings, record: &mut Record) {
    let now = (
        settings.seconds(Timeout::Gre),
        settings.seconds(Timeout::GreStream),
    );
    set_timeouts(record, now);
}

/// Notes timeouts, see [`timeouts`].
pub const fn set_timeouts(record: &mut Record, (unanswered, stream): (u32, u32)) {
    let [first, _] = &mut record.windows;
    first.end = unanswered;
    first.max_end = stream;
}

/// Seconds of an unanswered flow, and of an answered one.
pub const fn timeouts(record: &Record) -> (u32, u32) {
    let [first, _] = &record.windows;
    (first.end, first.max_end)
}

pub(super) fn advance(record: &mut Record, now: Tick) {
    let (unanswered, stream) = timeouts(record);
    let is_stream = record.has(SEEN_REPLY);
    if is_stream {
        record.status |= ASSURED;
    }
    if !record.has(FIXED_TIMEOUT) {
        record.deadline = now.after_seconds(if is_stream { stream } else { unanswered });
    }
}
