//! What real stacks do beside the table of transitions: challenge ACKs, simultaneous opens, and the
//! RSTs that may be believed.

use super::window::before;
use super::{Segment, SegmentKind, TcpState};
use crate::record::{
    ASSURED, LAST_CHALLENGE_EXPECTED, LAST_SIMULTANEOUS_OPEN, Record, SEEN_REPLY,
    WINDOW_MAX_ACK_KNOWN, Warm,
};
use crate::settings::{SETTING_TCP_IGNORE_INVALID_RST, Settings};
use crate::tuple::Direction;
use crate::verdict::Reason;
use crate::wire::PacketInfo;

/// What the table of transitions cannot say.
pub(super) enum Exception {
    None,
    /// Another state than the table's.
    State(TcpState),
    /// This state, and the numbers need not fit.
    SkipWindow(TcpState),
    /// Let through, nothing changes but `warm`.
    PassUnchanged,
    Refuse(Reason),
}

#[inline(always)]
pub(super) fn exception(
    settings: &Settings,
    segment: &Segment<'_>,
    record: &Record,
    warm: &mut Warm,
    (from, to): (TcpState, TcpState),
) -> Exception {
    let Segment {
        info,
        kind,
        direction,
        ..
    } = *segment;
    match (to, kind) {
        (TcpState::TimeWait, SegmentKind::Ack)
            if matches!(from, TcpState::LastAck)
                && record.last_direction != direction
                && matches!(record.last_kind, SegmentKind::Syn)
                && warm.last_flags & LAST_CHALLENGE_EXPECTED != 0 =>
        {
            warm.last_flags &= !LAST_CHALLENGE_EXPECTED;
            Exception::PassUnchanged
        }
        (TcpState::SynSent2, _) => {
            warm.last_flags |= LAST_SIMULTANEOUS_OPEN;
            Exception::None
        }
        (TcpState::SynRecv, SegmentKind::Ack)
            if matches!(direction, Direction::Reply)
                && warm.last_flags & LAST_SIMULTANEOUS_OPEN != 0 =>
        {
            Exception::State(TcpState::Established)
        }
        (TcpState::Close, SegmentKind::Rst) => reset(settings, info, direction, record, warm, from),
        _ => Exception::None,
    }
}

/// A RST is believed only when it is at the number its receiver expects (RFC 5961 section 3); one
/// inside the window passes, and the connection stays until the receiver has agreed.
#[inline(always)]
fn reset(
    settings: &Settings,
    info: &PacketInfo,
    direction: Direction,
    record: &Record,
    warm: &Warm,
    from: TcpState,
) -> Exception {
    if record.tcp_state.is_closing() {
        // The tuple may be in use again already; the numbers are those of the old connection.
        return Exception::SkipWindow(TcpState::Close);
    }
    let receiver = record.window(direction.other());
    let after_syn = matches!(record.last_kind, SegmentKind::Syn);
    let after_ack = matches!(record.last_kind, SegmentKind::Ack);
    let mut state = TcpState::Close;
    if receiver.flags & WINDOW_MAX_ACK_KNOWN != 0 && !after_syn {
        let sequence = info.tcp_sequence;
        let established = matches!(record.tcp_state, TcpState::Established) && record.has(ASSURED);
        if sequence == 0 && !established {
            return Exception::None;
        }
        if before(sequence, receiver.max_ack) && !settings.has(SETTING_TCP_IGNORE_INVALID_RST) {
            return Exception::Refuse(Reason::TcpBadReset);
        }
        if !established || sequence == receiver.max_ack {
            return Exception::None;
        }
        let follows_data =
            after_ack && record.last_direction == direction && sequence == record.last_end;
        if follows_data {
            return Exception::None;
        }
        state = from;
    }
    let after_its_syn = after_syn && record.last_direction != direction;
    let answers_let_through =
        (record.has(SEEN_REPLY) && after_its_syn) || (!record.has(ASSURED) && after_ack);
    if answers_let_through && info.tcp_ack == record.last_end {
        return Exception::SkipWindow(state);
    }
    let answers_challenge = matches!(from, TcpState::SynSent)
        && after_ack
        && matches!(record.last_direction, Direction::Reply)
        && info.tcp_sequence == warm.last_ack;
    if answers_challenge {
        return Exception::SkipWindow(state);
    }
    Exception::State(state)
}
