//! TCP, as Linux tracks it.
//!
//! [`transitions`] says what a segment's kind does to a state, `window` whether its numbers fit.
//! This file puts the two together, with the exceptions that real stacks make necessary.

mod exceptions;
pub mod transitions;
mod window;

use self::exceptions::{Exception, exception};
use self::transitions::{Transition, transition};
use self::window::{
    Judgement, acknowledgement_hash, check, check_steady, first_window, segment_end,
};
pub(crate) use self::window::{may_have_sent, reach};
use crate::host::{FlowMemory, Host, Packet};
use crate::process::Run;
use crate::record::{
    ASSURED, FIXED_TIMEOUT, LAST_CHALLENGE_EXPECTED, LAST_SACK_PERMITTED, LAST_SCALED, Record,
    SEEN_REPLY, WINDOW_CLOSE_INITIATED, WINDOW_LIBERAL, WINDOW_SACK_PERMITTED, WINDOW_SCALED,
    WINDOW_UNACKNOWLEDGED, Warm, Window,
};
use crate::settings::{SETTING_TCP_LOOSE, Settings, Timeout, TimeoutPolicy};
use crate::time::Tick;
use crate::trace::Step;
use crate::tuple::Direction;
use crate::verdict::Reason;
use crate::wire::PacketInfo;
use crate::wire::tcp_options::{SynOptions, has_options};
use crate::wire::transport::tcp_flag;

/// State of a connection, with the kernel's numbers (they stand in netlink messages).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum TcpState {
    None = 0,
    SynSent = 1,
    SynRecv = 2,
    Established = 3,
    FinWait = 4,
    CloseWait = 5,
    LastAck = 6,
    TimeWait = 7,
    Close = 8,
    SynSent2 = 9,
}

impl TcpState {
    pub const ALL: [Self; 10] = [
        Self::None,
        Self::SynSent,
        Self::SynRecv,
        Self::Established,
        Self::FinWait,
        Self::CloseWait,
        Self::LastAck,
        Self::TimeWait,
        Self::Close,
        Self::SynSent2,
    ];

    /// The state with this number; numbers beyond the last count as none.
    pub const fn from_number(number: u8) -> Self {
        match number {
            1 => Self::SynSent,
            2 => Self::SynRecv,
            3 => Self::Established,
            4 => Self::FinWait,
            5 => Self::CloseWait,
            6 => Self::LastAck,
            7 => Self::TimeWait,
            8 => Self::Close,
            9 => Self::SynSent2,
            _ => Self::None,
        }
    }

    /// The timeout of this state.
    pub const fn timeout(self) -> Timeout {
        match self {
            Self::None => Timeout::TcpNone,
            Self::SynSent => Timeout::TcpSynSent,
            Self::SynRecv => Timeout::TcpSynRecv,
            Self::Established => Timeout::TcpEstablished,
            Self::FinWait => Timeout::TcpFinWait,
            Self::CloseWait => Timeout::TcpCloseWait,
            Self::LastAck => Timeout::TcpLastAck,
            Self::TimeWait => Timeout::TcpTimeWait,
            Self::Close => Timeout::TcpClose,
            Self::SynSent2 => Timeout::TcpSynSent2,
        }
    }

    /// Whether one side has begun to close: such a record may be reused or given up.
    pub const fn is_closing(self) -> bool {
        matches!(
            self,
            Self::FinWait | Self::CloseWait | Self::LastAck | Self::TimeWait | Self::Close
        )
    }

    pub const fn name(self) -> &'static str {
        match self {
            Self::None => "NONE",
            Self::SynSent => "SYN_SENT",
            Self::SynRecv => "SYN_RECV",
            Self::Established => "ESTABLISHED",
            Self::FinWait => "FIN_WAIT",
            Self::CloseWait => "CLOSE_WAIT",
            Self::LastAck => "LAST_ACK",
            Self::TimeWait => "TIME_WAIT",
            Self::Close => "CLOSE",
            Self::SynSent2 => "SYN_SENT2",
        }
    }
}

/// What a segment's flags make it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum SegmentKind {
    Syn = 0,
    SynAck = 1,
    Fin = 2,
    Ack = 3,
    Rst = 4,
    /// None of these flags.
    None = 5,
}

impl SegmentKind {
    pub const ALL: [Self; 6] = [
        Self::Syn,
        Self::SynAck,
        Self::Fin,
        Self::Ack,
        Self::Rst,
        Self::None,
    ];

    /// The kind of a segment with these flags.
    pub const fn of(flags: u8) -> Self {
        if flags & tcp_flag::RST != 0 {
            Self::Rst
        } else if flags & tcp_flag::SYN != 0 {
            if flags & tcp_flag::ACK != 0 {
                Self::SynAck
            } else {
                Self::Syn
            }
        } else if flags & tcp_flag::FIN != 0 {
            Self::Fin
        } else if flags & tcp_flag::ACK != 0 {
            Self::Ack
        } else {
            Self::None
        }
    }

    /// The kind with this number; numbers beyond the last count as none.
    pub const fn from_number(number: u8) -> Self {
        match number {
            0 => Self::Syn,
            1 => Self::SynAck,
            2 => Self::Fin,
            3 => Self::Ack,
            4 => Self::Rst,
            _ => Self::None,
        }
    }
}

/// What a segment does to its flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Advance {
    /// Let through; the record has changed.
    Pass,
    /// Likewise, and Linux counts neither the packet nor its bytes.
    PassUncounted,
    /// Let through; the connection is over before it began, and its record goes.
    PassAndForget,
    /// INVALID. The record may have changed (an invalid FIN or RST is remembered).
    Refuse(Reason),
    /// A new connection under the tuple of one that has ended: its record goes, and the segment
    /// is looked at again as the first of a connection.
    Reopen,
}

/// A segment, and what it is to its connection.
pub(super) struct Segment<'a> {
    pub(super) info: &'a PacketInfo,
    pub(super) kind: SegmentKind,
    pub(super) direction: Direction,
    /// Whose timeouts the connection has.
    pub(super) timeouts: TimeoutPolicy,
}

/// Writes the record that the first segment of a connection makes; the error says why it makes
/// none.
#[inline(always)]
pub(crate) fn begin<P: Packet, H: Host>(
    run: &Run<'_, P, H>,
    info: &PacketInfo,
    record: &mut Record,
    warm: &mut Warm,
) -> Result<(), Reason> {
    let settings = run.host.settings();
    let timeouts = record.timeouts;
    let kind = SegmentKind::of(info.tcp_flags);
    let state = match transition(Direction::Original, kind, TcpState::None) {
        Transition::To(state) => state,
        Transition::Ignore | Transition::Invalid => return Err(Reason::TcpNoConnection),
    };
    let is_syn = matches!(state, TcpState::SynSent);
    if !is_syn && !settings.has(SETTING_TCP_LOOSE) {
        return Err(Reason::TcpPickupDisabled);
    }
    let reply = if is_syn {
        Window::EMPTY
    } else {
        Window {
            flags: WINDOW_SACK_PERMITTED | WINDOW_LIBERAL,
            ..Window::EMPTY
        }
    };
    *record = Record {
        last_window_is_zero: true,
        windows: [first_window(info), reply],
        ..Record::EMPTY
    };
    let segment = Segment {
        info,
        kind,
        direction: Direction::Original,
        timeouts,
    };
    if let Judgement::Outside(reason) = check(run.host, &segment, record, warm) {
        return Err(reason);
    }
    record.last_kind = kind;
    record.tcp_state = state;
    let mut seconds = timeout_seconds(record, &segment, settings);
    if !is_syn {
        seconds = at_most_unacknowledged(seconds, timeouts, settings);
    }
    record.deadline = run.now.after_seconds(seconds);
    Ok(())
}

/// Whether a segment needs the record's [`Warm`] words: all but those of an established
/// connection in steady state do.
pub const fn needs_warm(record: &Record, info: &PacketInfo) -> bool {
    !(record.has(ASSURED)
        && matches!(record.tcp_state, TcpState::Established)
        && matches!(SegmentKind::of(info.tcp_flags), SegmentKind::Ack))
}

/// Advances a connection by one segment.
#[inline(always)]
pub(crate) fn advance<P: Packet, H: Host>(
    run: &Run<'_, P, H>,
    info: &PacketInfo,
    direction: Direction,
    record: &mut Record,
    warm: &mut Warm,
) -> Advance {
    let kind = SegmentKind::of(info.tcp_flags);
    let segment = Segment {
        info,
        kind,
        direction,
        timeouts: record.timeouts,
    };
    let old = record.tcp_state;
    let (from, to) = match transition(direction, kind, old) {
        Transition::Invalid => return Advance::Refuse(Reason::TcpBadTransition),
        Transition::To(state) if !reopens(old, state) => (old, state),
        Transition::To(_) if may_reopen(record, direction) => return Advance::Reopen,
        Transition::To(_) | Transition::Ignore => {
            if !answers_ignored_syn(info, kind, direction, record) {
                note_ignored(&segment, record, warm);
                return Advance::PassUncounted;
            }
            get_in_sync(direction, record, warm);
            (TcpState::SynSent, TcpState::SynRecv)
        }
    };
    let settings = run.host.settings();
    let exception = exception(settings, &segment, record, warm, (from, to));
    let (to, needs_window) = match exception {
        Exception::None => (to, true),
        Exception::State(state) => (state, true),
        Exception::SkipWindow(state) => (state, false),
        Exception::PassUnchanged => return Advance::PassUncounted,
        Exception::Refuse(reason) => {
            if let Some(check) = window::refused(info, direction, record, reason) {
                run.host.trace(Step::Windowed(check));
            }
            return Advance::Refuse(reason);
        }
    };
    let forget = |value: u8| run.host.flows().forget(u32::from(value)) as u8;
    let (from, to) = (forget(from as u8), forget(to as u8));
    let kind = SegmentKind::from_number(forget(kind as u8));
    let segment = Segment { kind, ..segment };
    if needs_window {
        match check(run.host, &segment, record, warm) {
            Judgement::Inside | Judgement::Tolerated => {}
            Judgement::Ignored => return Advance::PassUncounted,
            Judgement::Outside(reason) => {
                shorten_after_invalid_close(settings, &segment, record, run.now);
                return Advance::Refuse(reason);
            }
        }
    }
    // Not before the check: a compiler would ask there what the states are, and the kernel's verifier walk the check for each.
    let (from, to) = (TcpState::from_number(from), TcpState::from_number(to));
    run.host.trace(Step::TcpState(old, to));
    settle(settings, &segment, record, (from, to), run.now)
}

/// Advances an established, assured connection by a plain ACK whose sender is the original
/// direction of `record`: what [`advance`] does with it. `false` where that is not all there is
/// to it; the record is then of no use any more.
#[inline(always)]
pub(crate) fn advance_steady<H: Host>(
    host: &H,
    info: &PacketInfo,
    record: &mut Record,
    now: Tick,
) -> bool {
    let segment = Segment {
        info,
        kind: SegmentKind::Ack,
        direction: Direction::Original,
        // The records of flows with another do not come here.
        timeouts: TimeoutPolicy::DEFAULT,
    };
    // Not among what such a segment changes, see `needs_warm`.
    let mut warm = Warm::default();
    match check_steady(host, &segment, record, &mut warm) {
        Some(Judgement::Inside | Judgement::Tolerated) => {}
        Some(Judgement::Ignored | Judgement::Outside(_)) | None => return false,
    }
    const STAYS: (TcpState, TcpState) = (TcpState::Established, TcpState::Established);
    let advance = settle(host.settings(), &segment, record, STAYS, now);
    matches!(advance, Advance::Pass)
}

/// Detail and control word of the event of a segment that was refused for its numbers, see
/// [`crate::event::Event`]; zeros for any other.
#[inline(always)]
pub(crate) fn arithmetic(
    reason: Reason,
    info: &PacketInfo,
    direction: Direction,
    record: &Record,
) -> ([u32; 4], u64) {
    match window::refused(info, direction, record, reason) {
        Some(check) => (
            [check.sequence, check.end, check.lower, check.upper],
            (u64::from(check.ack) << 32) | u64::from(check.ack_upper),
        ),
        None => ([0; 4], 0),
    }
}

/// A SYN to a connection that has ended.
const fn reopens(from: TcpState, to: TcpState) -> bool {
    matches!(to, TcpState::SynSent) && matches!(from, TcpState::TimeWait | TcpState::Close)
}

/// RFC 9293 section 3.6.1 allows a new SYN in TIME-WAIT. Only where a FIN or this side's RST ended
/// the connection: else both ends may still think it open.
fn may_reopen(record: &Record, direction: Direction) -> bool {
    let [original, reply] = &record.windows;
    (original.flags | reply.flags) & WINDOW_CLOSE_INITIATED != 0
        || (record.last_direction == direction && matches!(record.last_kind, SegmentKind::Rst))
}

/// A SYN-ACK that acknowledges a SYN which was ignored: the two ends agree, and the tracker is
/// the one that is wrong.
fn answers_ignored_syn(
    info: &PacketInfo,
    kind: SegmentKind,
    direction: Direction,
    record: &Record,
) -> bool {
    matches!(kind, SegmentKind::SynAck)
        && matches!(record.last_kind, SegmentKind::Syn)
        && record.last_direction != direction
        && info.tcp_ack == record.last_end
}

/// Takes over the numbers of the ignored SYN.
fn get_in_sync(direction: Direction, record: &mut Record, warm: &mut Warm) {
    warm.last_flags &= !LAST_CHALLENGE_EXPECTED;
    let mut flags = 0;
    if warm.last_flags & LAST_SCALED != 0 {
        flags |= WINDOW_SCALED;
    }
    if warm.last_flags & LAST_SACK_PERMITTED != 0 {
        flags |= WINDOW_SACK_PERMITTED;
    }
    let end = record.last_end;
    let opener = record.window_mut(direction.other());
    opener.end = end;
    opener.max_end = end;
    opener.max_window = if warm.last_window == 0 {
        1
    } else {
        u32::from(warm.last_window)
    };
    opener.scale = warm.last_scale;
    opener.flags = flags;
    // The answer introduces its sender anew.
    let answerer = record.window_mut(direction);
    *answerer = Window {
        flags: answerer.flags & WINDOW_LIBERAL,
        ..Window::EMPTY
    };
}

/// Remembers a segment that was let through unjudged, so that the answer to it is understood.
fn note_ignored(segment: &Segment<'_>, record: &mut Record, warm: &mut Warm) {
    let Segment {
        info,
        kind,
        direction,
        ..
    } = *segment;
    record.last_kind = kind;
    record.last_direction = direction;
    record.last_end = segment_end(info);
    record.last_window_is_zero = info.tcp_window == 0;
    record.last_ack_hash = acknowledgement_hash(info.tcp_sequence, 0, info.tcp_window);
    warm.last_window = info.tcp_window;
    if matches!((kind, direction), (SegmentKind::Syn, Direction::Original)) {
        let options = if has_options(info) {
            info.options.syn
        } else {
            SynOptions::default()
        };
        warm.last_scale = options.scale.unwrap_or(0);
        warm.last_flags = 0;
        if options.scale.is_some() {
            warm.last_flags |= LAST_SCALED;
        }
        if options.sack_permitted {
            warm.last_flags |= LAST_SACK_PERMITTED;
        }
        // RFC 5961 section 4: the answer may be a challenge ACK, which in LAST_ACK would pass
        // for the acknowledgement of the FIN.
        if matches!(record.tcp_state, TcpState::LastAck) {
            warm.last_flags |= LAST_CHALLENGE_EXPECTED;
        }
    }
    let is_challenge = matches!(
        (record.tcp_state, kind, direction),
        (TcpState::SynSent, SegmentKind::Ack, Direction::Reply)
    );
    if is_challenge {
        warm.last_ack = info.tcp_ack;
    }
}

/// The end of a segment's way: it is inside the window, or its numbers do not matter.
#[inline(always)]
fn settle(
    settings: &Settings,
    segment: &Segment<'_>,
    record: &mut Record,
    (from, to): (TcpState, TcpState),
    now: Tick,
) -> Advance {
    let Segment {
        kind,
        direction,
        timeouts,
        ..
    } = *segment;
    record.last_kind = kind;
    record.last_direction = direction;
    record.tcp_state = to;
    if from != to && matches!(to, TcpState::FinWait) {
        record.window_mut(direction).flags |= WINDOW_CLOSE_INITIATED;
    }
    let mut seconds = timeout_seconds(record, segment, settings);
    if !record.has(SEEN_REPLY) {
        if matches!(kind, SegmentKind::Rst) {
            return Advance::PassAndForget;
        }
        // A SYN sent again must not keep the record alive for ever.
        if matches!((kind, from), (SegmentKind::Syn, TcpState::SynSent)) {
            return Advance::PassUncounted;
        }
        if matches!(to, TcpState::Established) {
            seconds = at_most_unacknowledged(seconds, timeouts, settings);
        }
    } else if matches!(from, TcpState::SynRecv | TcpState::Established)
        && matches!(to, TcpState::Established)
    {
        record.status |= ASSURED;
    }
    if !record.has(FIXED_TIMEOUT) {
        record.deadline = now.after_seconds(seconds);
    }
    Advance::Pass
}

#[inline(always)]
fn timeout_seconds(record: &Record, segment: &Segment<'_>, settings: &Settings) -> u32 {
    let Segment { kind, timeouts, .. } = *segment;
    let of_state = settings.seconds_under(record.tcp_state.timeout(), timeouts);
    let retransmission = settings.seconds_under(Timeout::TcpMaxRetrans, timeouts);
    let unacknowledged = settings.seconds_under(Timeout::TcpUnacknowledged, timeouts);
    let [original, reply] = &record.windows;
    let awaits_ack = (original.flags | reply.flags) & WINDOW_UNACKNOWLEDGED != 0;
    if u32::from(record.retransmissions) >= settings.tcp_max_retrans && of_state > retransmission {
        retransmission
    } else if matches!(kind, SegmentKind::Rst) {
        settings.seconds_under(Timeout::TcpClose, timeouts)
    } else if awaits_ack && of_state > unacknowledged {
        unacknowledged
    } else if record.last_window_is_zero && of_state > retransmission {
        retransmission
    } else {
        of_state
    }
}

/// A connection that was picked up and has not been answered is not worth five days.
fn at_most_unacknowledged(seconds: u32, timeouts: TimeoutPolicy, settings: &Settings) -> u32 {
    seconds.min(settings.seconds_under(Timeout::TcpUnacknowledged, timeouts))
}

/// Seconds that a record must have left before [`shorten_after_invalid_close`] shortens them.
const SHORTEN_FROM_SECONDS: u32 = 120;

/// FINs or RSTs out of window from both sides: the ends have closed what the tracker lost sight
/// of, and the record need not wait for days.
fn shorten_after_invalid_close(
    settings: &Settings,
    segment: &Segment<'_>,
    record: &mut Record,
    now: Tick,
) {
    let Segment {
        kind, direction, ..
    } = *segment;
    let closes = matches!(kind, SegmentKind::Rst | SegmentKind::Fin);
    if !closes || !record.has(ASSURED) || record.has(FIXED_TIMEOUT) {
        return;
    }
    let answered = record.last_direction != direction
        && matches!(record.last_kind, SegmentKind::Rst | SegmentKind::Fin);
    if !answered {
        record.last_kind = kind;
        record.last_direction = direction;
        return;
    }
    let left = record.deadline.seconds_left(now);
    let shortened = settings.seconds(Timeout::TcpUnacknowledged);
    if left >= SHORTEN_FROM_SECONDS && left > shortened {
        record.deadline = now.after_seconds(shortened);
    }
}
