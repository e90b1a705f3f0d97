//! The window check, after Guido van Rooij, "Real Stateful TCP Packet Filtering in IP Filter"
//! (SANE 2000), as Linux 6.18 does it.
//!
//! For each direction the tracker knows how far the sender has come (`end`), how far it may go
//! (`max_end`) and the largest window it advertised (`max_window`). A segment is in window when
//!
//! 1. it starts no later than its sender may go,
//! 2. it ends no earlier than one window of its receiver before what the sender has sent,
//! 3. it acknowledges nothing that was not seen,
//! 4. it acknowledges nothing too old.

use super::{Segment, SegmentKind};
use crate::host::Host;
use crate::record::{
    Record, WINDOW_LIBERAL, WINDOW_MAX_ACK_KNOWN, WINDOW_SACK_PERMITTED, WINDOW_SCALED,
    WINDOW_UNACKNOWLEDGED, Warm, Window,
};
use crate::settings::{SETTING_TCP_BE_LIBERAL, Settings};
use crate::trace::{Step, WindowCheck};
use crate::tuple::Direction;
use crate::verdict::Reason;
use crate::wire::PacketInfo;
use crate::wire::tcp_options::{SynOptions, has_options};
use crate::wire::transport::tcp_flag;

use super::TcpState;

/// How far an acknowledgement may lag at least, whatever the window: it may be delayed.
const ACK_LAG_MIN: u32 = 66_000;

/// What the window check says of a segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Judgement {
    Inside,
    /// Out of window, and let through as if inside since the check is lenient. Moves no window.
    Tolerated,
    /// Out of window, but harmless: passes without moving the state.
    Ignored,
    Outside(Reason),
}

/// The numbers of a segment.
#[derive(Clone, Copy)]
pub(super) struct Numbers {
    pub(super) sequence: u32,
    /// Sequence number after the segment; SYN and FIN count.
    pub(super) end: u32,
    ack: u32,
    /// Highest edge acknowledged, selectively or not.
    sack: u32,
    /// Not scaled.
    raw_window: u16,
}

/// Whether sequence number `a` is before `b` (RFC 9293 section 3.4).
pub(super) const fn before(a: u32, b: u32) -> bool {
    (a.wrapping_sub(b) as i32) < 0
}

const fn after(a: u32, b: u32) -> bool {
    before(b, a)
}

/// Sequence number after a segment.
#[inline(always)]
pub(super) fn segment_end(info: &PacketInfo) -> u32 {
    let payload = info
        .transport_length
        .wrapping_sub(u32::from(info.tcp_header_length));
    let syn = u32::from(info.tcp_flags & tcp_flag::SYN != 0);
    let fin = u32::from(info.tcp_flags & tcp_flag::FIN != 0);
    info.tcp_sequence
        .wrapping_add(payload)
        .wrapping_add(syn + fin)
}

/// The window of the first segment of a connection.
pub(super) fn first_window(info: &PacketInfo) -> Window {
    let end = segment_end(info);
    let max_window = at_least_one(u32::from(info.tcp_window));
    if info.tcp_flags & tcp_flag::SYN == 0 {
        // Picked up in the middle: scale and history are unknown.
        let max_end = end.wrapping_add(max_window);
        let flags = WINDOW_SACK_PERMITTED | WINDOW_LIBERAL;
        return Window {
            end,
            max_end,
            max_window,
            max_ack: 0,
            scale: 0,
            flags,
        };
    }
    let mut window = Window {
        end,
        max_end: end,
        max_window,
        ..Window::default()
    };
    learn_options(info, &mut window);
    window
}

const fn at_least_one(window: u32) -> u32 {
    if window == 0 { 1 } else { window }
}

/// What a SYN's options say of its sender. A segment without options changes nothing.
fn learn_options(info: &PacketInfo, window: &mut Window) {
    if !has_options(info) {
        return;
    }
    let SynOptions {
        scale,
        sack_permitted,
    } = info.options.syn;
    window.scale = 0;
    window.flags &= WINDOW_LIBERAL;
    if let Some(scale) = scale {
        window.scale = scale;
        window.flags |= WINDOW_SCALED;
    }
    if sack_permitted {
        window.flags |= WINDOW_SACK_PERMITTED;
    }
}

/// The sender's first SYN, or one that replaces an earlier one.
fn begin_sender(info: &PacketInfo, end: u32, record: &mut Record, direction: Direction) {
    let sender = record.window_mut(direction);
    sender.end = end;
    sender.max_end = end;
    sender.max_window = at_least_one(u32::from(info.tcp_window));
    learn_options(info, sender);
    // RFC 7323 section 2.2: both sides must offer scaling, or neither scales.
    let both = record.windows[0].flags & record.windows[1].flags;
    if matches!(direction, Direction::Reply) && both & WINDOW_SCALED == 0 {
        record.windows[0].scale = 0;
        record.windows[1].scale = 0;
    }
}

/// Whether a side may have sent a segment with this number of late: no further back than its receiver's
/// window, and nothing that was not seen (RFC 5927 section 4.1).
pub(crate) fn may_have_sent(
    settings: &Settings,
    record: &Record,
    direction: Direction,
    sequence: u32,
) -> bool {
    let [original, reply] = &record.windows;
    let (sender, receiver) = match direction {
        Direction::Original => (original, reply),
        Direction::Reply => (reply, original),
    };
    let is_lenient = (sender.flags | receiver.flags) & WINDOW_LIBERAL != 0;
    if is_lenient || settings.has(SETTING_TCP_BE_LIBERAL) || sender.max_window == 0 {
        return true;
    }
    let lag = receiver.max_window.max(ACK_LAG_MIN);
    !after(sequence, sender.end) && !before(sequence, sender.end.wrapping_sub(lag))
}

/// Moves the end of what a side has sent on to `end`: a later fragment of a segment that was let through.
pub(crate) fn reach(record: &mut Record, direction: Direction, end: u32) {
    let [original, reply] = &mut record.windows;
    let window = match direction {
        Direction::Original => original,
        Direction::Reply => reply,
    };
    if after(end, window.end) {
        window.end = end;
    }
}

/// Holds a segment against the windows and moves them on.
#[cfg_attr(target_arch = "bpf", inline(never))]
#[cfg_attr(not(target_arch = "bpf"), inline)]
pub(super) fn check<H: Host>(
    host: &H,
    segment: &Segment<'_>,
    record: &mut Record,
    warm: &mut Warm,
) -> Judgement {
    let Segment {
        info, direction, ..
    } = *segment;
    let mut numbers = read_numbers(info, record.window(direction.other()));
    if meets_unknown_sender(segment, record, &numbers) {
        return Judgement::Inside;
    }
    if info.tcp_flags & tcp_flag::ACK == 0 || is_reset_without_ack(info) {
        let seen = record.window(direction.other()).end;
        numbers.ack = seen;
        numbers.sack = seen;
    }
    let resets_syn = info.tcp_flags & tcp_flag::RST != 0
        && numbers.sequence == 0
        && matches!(record.tcp_state, TcpState::SynSent);
    if resets_syn {
        let sent = record.window(direction).end;
        numbers.sequence = sent;
        numbers.end = sent;
    }
    compare_and_advance(host, segment, record, warm, &numbers)
}

/// As [`check`], for a plain ACK of an established connection; `None` where its sender is not
/// known, and [`check`] has to.
#[inline(always)]
pub(super) fn check_steady<H: Host>(
    host: &H,
    segment: &Segment<'_>,
    record: &mut Record,
    warm: &mut Warm,
) -> Option<Judgement> {
    let Segment {
        info, direction, ..
    } = *segment;
    if record.window(direction).max_window == 0 {
        return None;
    }
    let numbers = read_numbers(info, record.window(direction.other()));
    Some(compare_and_advance(host, segment, record, warm, &numbers))
}

#[inline(always)]
fn compare_and_advance<H: Host>(
    host: &H,
    segment: &Segment<'_>,
    record: &mut Record,
    warm: &mut Warm,
    numbers: &Numbers,
) -> Judgement {
    let judgement = compare(host, segment.direction, record, numbers);
    if matches!(judgement, Judgement::Inside) {
        advance(segment, record, warm, numbers);
    }
    judgement
}

#[inline(always)]
fn read_numbers(info: &PacketInfo, receiver: &Window) -> Numbers {
    let selective = receiver.flags & WINDOW_SACK_PERMITTED != 0 && has_options(info);
    Numbers {
        sequence: info.tcp_sequence,
        end: segment_end(info),
        ack: info.tcp_ack,
        sack: if selective {
            info.options.highest
        } else {
            info.tcp_ack
        },
        raw_window: info.tcp_window,
    }
}

/// Some stacks set ACK in a RST and leave the number zero.
const fn is_reset_without_ack(info: &PacketInfo) -> bool {
    const RST_ACK: u8 = tcp_flag::RST | tcp_flag::ACK;
    info.tcp_flags & RST_ACK == RST_ACK && info.tcp_ack == 0
}

/// Takes over the numbers of a sender whose window is not known yet, or that starts anew.
/// `true` when nothing is left to check: the SYN of a simultaneous open.
#[inline(always)]
fn meets_unknown_sender(segment: &Segment<'_>, record: &mut Record, numbers: &Numbers) -> bool {
    let Segment {
        info, direction, ..
    } = *segment;
    let is_syn = info.tcp_flags & tcp_flag::SYN != 0;
    let has_ack = info.tcp_flags & tcp_flag::ACK != 0;
    let sender = *record.window(direction);
    if sender.max_window == 0 {
        if is_syn {
            begin_sender(info, numbers.end, record, direction);
            return !has_ack;
        }
        pick_up_sender(record, direction, numbers);
        return false;
    }
    // RFC 9293 section 3.4.3: a TCP that starts again need only choose higher numbers.
    let opening = matches!(record.tcp_state, TcpState::SynSent | TcpState::SynRecv);
    if is_syn && opening && after(numbers.end, sender.end) {
        begin_sender(info, numbers.end, record, direction);
        return matches!(direction, Direction::Reply) && !has_ack;
    }
    false
}

fn pick_up_sender(record: &mut Record, direction: Direction, numbers: &Numbers) {
    let sender = record.window_mut(direction);
    sender.end = numbers.end;
    sender.max_window = at_least_one(u32::from(numbers.raw_window) << sender.scale);
    sender.max_end = numbers.end.wrapping_add(sender.max_window);
    let receiver = record.window_mut(direction.other());
    if receiver.max_window == 0 {
        receiver.end = numbers.sack;
        receiver.max_end = numbers.sack;
    } else if numbers.sack == receiver.end.wrapping_add(1) {
        // The answer to a keep-alive.
        receiver.end = receiver.end.wrapping_add(1);
    }
}

/// The four conditions. Moves `end` where only the first fails by no more than a window: the
/// receiver may well take the data, and its acknowledgement must then not look wrong.
#[inline(always)]
fn compare<H: Host>(
    host: &H,
    direction: Direction,
    record: &mut Record,
    numbers: &Numbers,
) -> Judgement {
    let sender = *record.window(direction);
    let receiver = *record.window(direction.other());
    let bounds = bounds(&sender, &receiver, numbers);
    host.trace(Step::Windowed(bounds));
    let reaches_lower = after(bounds.end, bounds.lower.wrapping_sub(1));
    let ack_is_seen = before(bounds.ack, bounds.ack_upper.wrapping_add(1));
    let ack_is_recent = after(bounds.ack, bounds.ack_lower.wrapping_sub(1));
    let liberal = is_liberal(&sender, host.settings());
    if !before(bounds.sequence, bounds.upper.wrapping_add(1)) {
        let overshot = bounds.end.wrapping_sub(bounds.upper).wrapping_add(1);
        let only_this_fails =
            receiver.max_window != 0 && reaches_lower && ack_is_recent && ack_is_seen;
        if only_this_fails && overshot <= receiver.max_window {
            let sender = record.window_mut(direction);
            sender.end = bounds.end;
            sender.flags |= WINDOW_UNACKNOWLEDGED;
            return unless(liberal, Judgement::Ignored);
        }
        return unless(liberal, Judgement::Outside(Reason::TcpSequenceOverWindow));
    }
    if !ack_is_seen {
        return unless(liberal, Judgement::Outside(Reason::TcpAckOfUnseenData));
    }
    if (receiver.max_window != 0 && !reaches_lower) || !ack_is_recent {
        return unless(liberal, Judgement::Ignored);
    }
    Judgement::Inside
}

#[inline(always)]
fn bounds(sender: &Window, receiver: &Window, numbers: &Numbers) -> WindowCheck {
    let ack_lag = if sender.max_window > ACK_LAG_MIN {
        sender.max_window
    } else {
        ACK_LAG_MIN
    };
    WindowCheck {
        sequence: numbers.sequence,
        end: numbers.end,
        ack: numbers.sack,
        upper: sender.max_end,
        lower: sender.end.wrapping_sub(receiver.max_window),
        ack_upper: receiver.end,
        ack_lower: receiver.end.wrapping_sub(ack_lag),
    }
}

/// The arithmetic by which a segment was refused, once more and for an event: for that it need not
/// be kept from where it was done. A segment out of window has left the windows as they were.
#[inline(always)]
pub(super) fn refused(
    info: &PacketInfo,
    direction: Direction,
    record: &Record,
    reason: Reason,
) -> Option<WindowCheck> {
    let (sender, receiver) = (record.window(direction), record.window(direction.other()));
    let numbers = read_numbers(info, receiver);
    let check = bounds(sender, receiver, &numbers);
    match reason {
        Reason::TcpSequenceOverWindow | Reason::TcpAckOfUnseenData => Some(check),
        Reason::TcpBadReset => Some(WindowCheck {
            lower: receiver.max_ack,
            ..check
        }),
        _ => None,
    }
}

const fn is_liberal(sender: &Window, settings: &Settings) -> bool {
    sender.flags & WINDOW_LIBERAL != 0 || settings.has(SETTING_TCP_BE_LIBERAL)
}

const fn unless(liberal: bool, judgement: Judgement) -> Judgement {
    if liberal {
        Judgement::Tolerated
    } else {
        judgement
    }
}

/// Moves the windows on by a segment inside them.
#[inline(always)]
fn advance(segment: &Segment<'_>, record: &mut Record, warm: &mut Warm, numbers: &Numbers) {
    let Segment {
        info,
        kind,
        direction,
        ..
    } = *segment;
    // By kind, which the short way knows beforehand. No legal RST has a SYN.
    let is_syn = matches!(kind, SegmentKind::Syn | SegmentKind::SynAck);
    let scale = if is_syn {
        0
    } else {
        record.window(direction).scale
    };
    let window = u32::from(numbers.raw_window) << scale;
    let sender = record.window_mut(direction);
    let advertised = window.wrapping_add(numbers.sack.wrapping_sub(numbers.ack));
    if sender.max_window < advertised {
        sender.max_window = advertised;
    }
    if after(numbers.end, sender.end) {
        sender.end = numbers.end;
        sender.flags |= WINDOW_UNACKNOWLEDGED;
    }
    let knows_ack = sender.flags & WINDOW_MAX_ACK_KNOWN != 0;
    let has_ack = matches!(kind, SegmentKind::Ack) || info.tcp_flags & tcp_flag::ACK != 0;
    if has_ack && (!knows_ack || after(numbers.ack, sender.max_ack)) {
        sender.max_ack = numbers.ack;
        sender.flags |= WINDOW_MAX_ACK_KNOWN;
    }
    let sender_max_end = sender.max_end;
    advance_receiver(
        record.window_mut(direction.other()),
        numbers,
        window,
        sender_max_end,
    );
    if matches!(kind, SegmentKind::Ack) {
        note_acknowledgement(direction, record, warm, numbers);
    }
}

#[inline(always)]
fn advance_receiver(receiver: &mut Window, numbers: &Numbers, window: u32, sender_max_end: u32) {
    if receiver.max_window != 0 && after(numbers.end, sender_max_end) {
        let beyond = numbers.end.wrapping_sub(sender_max_end);
        receiver.max_window = receiver.max_window.wrapping_add(beyond);
    }
    let permitted = numbers.sack.wrapping_add(window);
    if after(permitted, receiver.max_end.wrapping_sub(1)) {
        receiver.max_end = permitted.wrapping_add(u32::from(window == 0));
    }
    if numbers.ack == receiver.end {
        receiver.flags &= !WINDOW_UNACKNOWLEDGED;
    }
}

/// Counts the same acknowledgement coming again.
#[inline(always)]
fn note_acknowledgement(
    direction: Direction,
    record: &mut Record,
    warm: &mut Warm,
    numbers: &Numbers,
) {
    let hash = acknowledgement_hash(numbers.sequence, numbers.ack, numbers.raw_window);
    let is_same = record.last_direction == direction
        && record.last_end == numbers.end
        && record.last_ack_hash == hash
        && record.last_window_is_zero == (numbers.raw_window == 0);
    if is_same {
        if record.retransmissions < crate::record::RETRANSMISSIONS_MAX {
            record.retransmissions += 1;
        }
        return;
    }
    record.last_direction = direction;
    record.last_end = numbers.end;
    record.last_ack_hash = hash;
    record.last_window_is_zero = numbers.raw_window == 0;
    record.retransmissions = 0;
    warm.last_window = numbers.raw_window;
}

/// Twelve bits of sequence number, acknowledgement and window. Two segments that differ and look
/// equal would have to do so four times running before a timeout is shortened, to five minutes.
pub(super) const fn acknowledgement_hash(sequence: u32, ack: u32, window: u16) -> u16 {
    let mixed = (sequence as u64)
        .wrapping_mul(0x9e37_79b9_7f4a_7c15)
        .wrapping_add((ack as u64).wrapping_mul(0xc2b2_ae3d_27d4_eb4f))
        .wrapping_add((window as u64).wrapping_mul(0x1656_67b1_9e37_79f9));
    (mixed >> 52) as u16
}
