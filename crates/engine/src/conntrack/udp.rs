//! UDP: a flow, and a stream once it has lasted.

use super::{renew_under, unanswered};
use crate::record::{ASSURED, Record, SEEN_REPLY};
use crate::settings::{Settings, Timeout, TimeoutPolicy};
use crate::time::Tick;

/// How long a flow must last before an answered one counts as a stream: one question and its
/// answer do not deserve the longer timeout (Linux 5.1).
const STREAM_AFTER_SECONDS: u32 = 2;

pub(super) fn begin(settings: &Settings, now: Tick) -> Record {
    let mut record = unanswered(settings, Timeout::Udp, now);
    record.windows[0].end = now.after_seconds(STREAM_AFTER_SECONDS).0;
    record
}

pub(super) fn advance(settings: &Settings, record: &mut Record, now: Tick) {
    advance_under(settings, record.timeouts, record, now);
}

/// As [`advance`], where the caller knows the policy.
#[inline(always)]
pub(crate) fn advance_under(
    settings: &Settings,
    policy: TimeoutPolicy,
    record: &mut Record,
    now: Tick,
) {
    let stream_from = Tick(record.windows[0].end);
    let is_stream = record.has(SEEN_REPLY) && stream_from.has_passed(now) && stream_from != now;
    if !is_stream {
        renew_under(settings, Timeout::Udp, policy, record, now);
        return;
    }
    renew_under(settings, Timeout::UdpStream, policy, record, now);
    record.status |= ASSURED;
}
