//! UDP: a flow, and a stream once it has lasted. UDP-Lite: a stream as soon as it is answered.

use super::{renew, unanswered};
use crate::record::{ASSURED, Record, SEEN_REPLY};
use crate::settings::{Settings, Timeout};
use crate::time::Tick;

/// How long a flow must last before an answered one counts as a stream: one question and its
/// answer do not deserve the longer timeout (Linux 5.1).
const STREAM_AFTER_SECONDS: u32 = 2;

pub(super) fn begin(settings: &Settings, now: Tick) -> Record {
    let mut record = unanswered(settings, Timeout::Udp, now);
    record.windows[0].end = now.after_seconds(STREAM_AFTER_SECONDS).0;
    record
}

pub(crate) fn advance(settings: &Settings, record: &mut Record, now: Tick) {
    let stream_from = Tick(record.windows[0].end);
    let is_stream = record.has(SEEN_REPLY) && stream_from.has_passed(now) && stream_from != now;
    if !is_stream {
        renew(settings, Timeout::Udp, record, now);
        return;
    }
    renew(settings, Timeout::UdpStream, record, now);
    record.status |= ASSURED;
}

/// As [`advance`], for UDP-Lite: Linux does not wait there.
pub(super) fn advance_lite(settings: &Settings, record: &mut Record, now: Tick) {
    if !record.has(SEEN_REPLY) {
        renew(settings, Timeout::Udp, record, now);
        return;
    }
    renew(settings, Timeout::UdpStream, record, now);
    record.status |= ASSURED;
}
