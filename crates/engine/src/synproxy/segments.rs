//! The segments of SYNPROXY's own.

use super::agreed::TIMESTAMPS;
use crate::answer::segment::{Heading, NO_SCALE, Segment};
use crate::process::Scratch;
use crate::wire::transport::tcp_flag;

/// Whether the segments of this connection have timestamps and this one has; value and echo.
fn timestamps(scratch: &Scratch) -> [u32; 3] {
    match scratch.info.options.timestamps {
        Some([value, echo]) if scratch.synproxy.agreed.has(TIMESTAMPS) => [1, value, echo],
        _ => [0; 3],
    }
}

/// Our SYN: the client's, as far as it is known.
pub(super) fn syn(scratch: &Scratch) -> Segment {
    let Scratch {
        info,
        record,
        synproxy,
        ..
    } = scratch;
    let kept = synproxy.agreed.kept();
    let ecn = if kept.ecn {
        tcp_flag::ECE | tcp_flag::CWR
    } else {
        0
    };
    let [has_timestamps, value, _] = timestamps(scratch);
    Segment {
        heading: Heading::Onward,
        sequence: record.windows[0].end.wrapping_sub(1),
        acknowledgement: 0,
        flags: tcp_flag::SYN | ecn,
        window: info.tcp_window,
        mss: synproxy.agreed.mss(),
        has_timestamps: has_timestamps != 0,
        timestamps: [value, 0],
        scale: kept.scale.unwrap_or(NO_SCALE),
        sack_permitted: kept.sack_permitted,
        probes: false,
        is_partial: false,
    }
}

/// Tells the client that there is a window.
pub(super) fn news(scratch: &Scratch) -> Segment {
    let Scratch { info, synproxy, .. } = scratch;
    let numbers = synproxy.numbers;
    let [has_timestamps, value, echo] = timestamps(scratch);
    Segment {
        heading: Heading::Onward,
        sequence: info.tcp_sequence.wrapping_add(numbers.sequence()),
        acknowledgement: info.tcp_ack,
        flags: tcp_flag::ACK,
        window: info.tcp_window >> synproxy.agreed.told(),
        mss: 0,
        has_timestamps: has_timestamps != 0,
        timestamps: [value.wrapping_sub(numbers.timestamp()), echo],
        scale: NO_SCALE,
        sack_permitted: false,
        probes: true,
        is_partial: false,
    }
}

/// Completes the handshake with the server.
pub(super) fn acknowledgement(scratch: &Scratch) -> Segment {
    let Scratch { info, record, .. } = scratch;
    let client = &record.windows[0];
    let window = client.max_window >> (client.scale & 0xf);
    let [has_timestamps, value, echo] = timestamps(scratch);
    Segment {
        heading: Heading::Back,
        sequence: info.tcp_ack,
        acknowledgement: info.tcp_sequence.wrapping_add(1),
        flags: tcp_flag::ACK,
        window: if window > 0xffff {
            0xffff
        } else {
            window as u16
        },
        mss: 0,
        has_timestamps: has_timestamps != 0,
        timestamps: [echo, value],
        scale: NO_SCALE,
        sack_permitted: false,
        probes: false,
        is_partial: false,
    }
}
