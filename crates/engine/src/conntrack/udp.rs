//! UDP: a flow, and a stream once it has lasted. UDP-Lite: a stream as soon as it is answered.

use super::{renew, unanswered};
use crate::record::{ASSURED, Control, FIXED_TIMEOUT, Record, SEEN_REPLY, StateWords};
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

pub(super) fn advance(settings: &Settings, record: &mut Record, now: Tick) {
    if record.has(SEEN_REPLY) && is_stream(Tick(record.windows[0].end), now) {
        renew(settings, Timeout::UdpStream, record, now);
        record.status |= ASSURED;
    } else {
        renew(settings, Timeout::Udp, record, now);
    }
}

/// What [`advance`] makes of the control word of an answered flow; `None` where that is not all
/// that changes.
#[inline(always)]
pub(crate) fn advance_steady(
    settings: &Settings,
    control: Control,
    state: StateWords,
    now: Tick,
) -> Option<Control> {
    let status = control.status();
    let timeout = match is_stream(state.first_end(), now) {
        true if status & ASSURED == 0 => return None,
        true => Timeout::UdpStream,
        false => Timeout::Udp,
    };
    if status & FIXED_TIMEOUT != 0 {
        return Some(control);
    }
    Some(control.with_deadline(now.after_seconds(settings.seconds(timeout))))
}

fn is_stream(from: Tick, now: Tick) -> bool {
    from.has_passed(now) && from != now
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
