//! UDP: a flow, and a stream once it has lasted.

use super::{renew, unanswered};
use crate::record::{ASSURED, Record, SEEN_REPLY};
use crate::settings::{Settings, Timeout};
use crate::time::Tick;
use crate::tuple::Direction;

/// How long a flow must last before an answered one counts as a stream: one question and its
/// answer do not deserve the longer timeout (Linux 5.1).
const STREAM_AFTER_SECONDS: u32 = 2;

pub(super) fn begin(settings: &Settings, now: Tick) -> Record {
    let mut record = unanswered(settings, Timeout::Udp, now);
    record.windows[0].end = now.after_seconds(STREAM_AFTER_SECONDS).0;
    record
}

/// Advances a flow whose record was read with the sender in direction `first` before the other.
#[inline(always)]
pub(crate) fn advance(settings: &Settings, record: &mut Record, first: Direction, now: Tick) {
    let stream_from = Tick(record.window(first).end);
    let is_stream = record.has(SEEN_REPLY) && stream_from.has_passed(now) && stream_from != now;
    if !is_stream {
        renew(settings, Timeout::Udp, record, now);
        return;
    }
    renew(settings, Timeout::UdpStream, record, now);
    record.status |= ASSURED;
}
