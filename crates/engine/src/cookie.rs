//! SYN cookies for connections to this host (RFC 4987 section 3.6).
//!
//! While they are in use, the SYN of a connection that the rules accept makes no record: it is answered
//! here with a SYN-ACK whose sequence number the host's own TCP recognises. The segment that
//! brings the number back makes a record as if the handshake had been seen, and goes on to the host,
//! which makes a socket of it. One that brings a number which is none goes nowhere.
//!
//! The options of the SYN are kept where TCP itself keeps them when it sends cookies: the size of
//! segments in the cookie, window scale, SACK and ECN in the low bits of the timestamp.

use crate::answer::segment::{self, Heading, NO_SCALE, Segment};
use crate::conntrack::tcp::Advance;
use crate::conntrack::{self, tcp};
use crate::expect;
use crate::host::{FlowMemory, Host, Packet, Words};
use crate::limits::{COOKIE_MSS_V4, COOKIE_MSS_V6, COOKIE_SECONDS, COOKIE_SYN_BYTES};
use crate::process::{self, Outcome, Path, Run, Scratch, Stage};
use crate::record::{SEEN_REPLY, Warm};
use crate::settings::{
    COOKIE_ECN, COOKIE_SACK, COOKIE_SCALING, COOKIE_TIMESTAMPS, COOKIES_ALWAYS, COOKIES_AUTO,
    SETTING_COOKIES, TimeoutPolicy,
};
use crate::table::{gauges, pressure};
use crate::time::{TICKS_PER_SECOND, Tick};
use crate::track;
use crate::tuple::{Direction, Family};
use crate::verdict::{Hook, Reason, State};
use crate::wire::tcp_options::{Options, SynOptions};
use crate::wire::transport::{TCP, tcp_flag};
use crate::wire::{self, Fragment, PacketInfo};

/// What cookies have to do with a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Part {
    None = 0,
    /// It was a SYN, and what is to be sent back is in the scratch memory.
    Answered = 1,
    /// It brought a cookie back, and its record is in the scratch memory.
    Proven = 2,
    /// It is a SYN between ports whose last connection is in TIME-WAIT. Where that is kept by this host's own TCP, a segment that
    /// brings a cookie back would be taken for one of it; the SYN is not (RFC 9293 section 3.6.1).
    Unwanted = 3,
}

/// What a plane says of the number that a segment acknowledges.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Check {
    /// A cookie, and no older than [`COOKIE_SECONDS`].
    Right,
    /// None. Nobody can tell forged ones from those that are too old.
    Wrong,
    /// None, but this host has a connection that the segment is of.
    Connected,
}

// What TCP keeps in the low bits of a timestamp.
pub(crate) const OPTION_BITS: u32 = 6;
/// In place of a scale: none.
pub(crate) const OPTION_SCALE: u32 = 0xf;
pub(crate) const OPTION_SACK: u32 = 1 << 4;
pub(crate) const OPTION_ECN: u32 = 1 << 5;

// The word of `gauges::COOKIES`: when the last cookie was sent in the low half.
/// Cookies are sent, with [`COOKIES_AUTO`].
pub const ACTIVE: u64 = 1 << 32;
const SENT: u64 = 1 << 33;

/// Whether a packet that the rules have accepted is a SYN to be answered.
#[inline(always)]
pub(crate) fn is_due<H: Host>(host: &H, scratch: &Scratch) -> bool {
    use tcp_flag::{ACK, FIN, RST, SYN};
    host.settings().has(SETTING_COOKIES)
        && host.can_answer()
        && scratch.info.protocol == TCP
        && scratch.info.tcp_flags & (SYN | ACK | RST | FIN) == SYN
        && !matches!(scratch.cookie, Part::Unwanted)
        && matches!(scratch.judgement.hook, Hook::Input)
        && matches!(scratch.tracked.state, State::New)
        && is_active(host, &scratch.info)
}

/// Whether cookies are sent now to whoever connects to where a SYN goes.
#[inline(always)]
pub(crate) fn is_active<H: Host>(host: &H, syn: &PacketInfo) -> bool {
    match host.settings().cookies.mode {
        COOKIES_AUTO => is_needed(host, syn),
        mode => mode == COOKIES_ALWAYS,
    }
}

/// Whether too many flows are half-open, in all or towards one destination. With low marks below the high ones: what is
/// half-open then goes in a minute or two, and must not bring the flood back.
#[cfg_attr(target_arch = "bpf", inline(never))]
pub(crate) fn is_needed<H: Host>(host: &H, syn: &PacketInfo) -> bool {
    let cookies = &host.settings().cookies;
    let cell = pressure::Cell::of(&syn.destination, syn.destination_port);
    let (high, low) = (cookies.destination_high, cookies.destination_low);
    cell.is_pressed(host.flows(), high, low) || is_table_pressed(host)
}

#[inline(always)]
fn is_table_pressed<H: Host>(host: &H) -> bool {
    let cookies = &host.settings().cookies;
    let Some(words) = host.flows().gauges() else {
        return false;
    };
    let state = words.load(gauges::COOKIES);
    // A removal that is counted first must not look like a flood.
    let half_open = words.load(gauges::HALF_OPEN) as i64;
    let was = state & ACTIVE != 0;
    let limit = if was { cookies.low } else { cookies.high };
    let is = half_open > i64::from(limit);
    if is != was {
        // Another packet that comes in between finds the same.
        words.compare_exchange(gauges::COOKIES, state, state ^ ACTIVE);
    }
    is
}

/// Answers a SYN.
#[inline(always)]
pub(crate) fn answer<H: Host>(host: &H, scratch: &mut Scratch) -> Stage {
    let is_answered = is_answerable(&scratch.info) && send(host, scratch).is_some();
    scratch.refusal = Some(if is_answered {
        scratch.cookie = Part::Answered;
        note_sent(host, scratch.now);
        Reason::CookieSent
    } else {
        Reason::CookieUnanswerable
    });
    Stage::Conclude
}

/// Nobody sends SYNs in fragments, with options of IP or with extension headers, but to get past this.
pub(crate) fn is_answerable(info: &PacketInfo) -> bool {
    let header = match info.family {
        Family::V4 => 20,
        Family::V6 => 40,
    };
    matches!(info.fragment, Fragment::Whole) && info.transport_offset - info.ip_offset == header
}

#[inline(always)]
fn send<H: Host>(host: &H, scratch: &mut Scratch) -> Option<()> {
    let Scratch {
        info,
        answer,
        now,
        sent,
        ..
    } = scratch;
    let has_options = wire::tcp_options::has_options(info);
    let mut options = info.options;
    if !has_options {
        // Of another packet.
        options = Options::NONE;
    }
    let sequence = host.cookie(info, options.mss, *now)?;
    let cookies = &host.settings().cookies;
    let may = |bit: u32| cookies.options & bit != 0;
    let echo = options.timestamps.map(|[value, _]| value);
    let echo = echo.filter(|_| may(COOKIE_TIMESTAMPS));
    let kept = Kept {
        scale: options.syn.scale,
        sack_permitted: options.syn.sack_permitted && may(COOKIE_SACK),
        ecn: is_ecn_setup(info) && may(COOKIE_ECN),
    };
    let kept = if echo.is_some() { kept } else { Kept::NOTHING };
    let mss = match info.family {
        Family::V4 => COOKIE_MSS_V4,
        Family::V6 => COOKIE_MSS_V6,
    };
    let ecn = if kept.ecn { tcp_flag::ECE } else { 0 };
    let syn_ack = Segment {
        heading: Heading::Back,
        sequence,
        acknowledgement: info.tcp_sequence.wrapping_add(1),
        flags: ecn | tcp_flag::SYN | tcp_flag::ACK,
        window: cookies.window as u16,
        mss: options.mss.min(mss),
        has_timestamps: echo.is_some(),
        timestamps: [kept.timestamp(host.milliseconds(*now)), echo.unwrap_or(0)],
        scale: match kept.scale {
            Some(_) if may(COOKIE_SCALING) => cookies.scale as u8,
            _ => NO_SCALE,
        },
        sack_permitted: kept.sack_permitted,
        probes: false,
        is_partial: false,
    };
    segment::write(info, &syn_ack, answer);
    *sent = sequence;
    host.answer(info, answer).then_some(())
}

/// RFC 3168 section 6.1.1.
pub(crate) const fn is_ecn_setup(info: &PacketInfo) -> bool {
    const SETUP: u8 = tcp_flag::ECE | tcp_flag::CWR;
    info.tcp_flags & SETUP == SETUP
}

/// What a timestamp, or a cookie of SYNPROXY, keeps of a SYN.
#[derive(Clone, Copy)]
pub(crate) struct Kept {
    pub(crate) scale: Option<u8>,
    pub(crate) sack_permitted: bool,
    pub(crate) ecn: bool,
}

impl Kept {
    pub(crate) const NOTHING: Self = Self {
        scale: None,
        sack_permitted: false,
        ecn: false,
    };

    /// A timestamp of the last that are not later than `now` and hold this.
    pub(crate) const fn timestamp(&self, now: u32) -> u32 {
        let mut bits = match self.scale {
            Some(scale) => scale as u32,
            None => OPTION_SCALE,
        };
        if self.sack_permitted {
            bits |= OPTION_SACK;
        }
        if self.ecn {
            bits |= OPTION_ECN;
        }
        let timestamp = now >> OPTION_BITS << OPTION_BITS | bits;
        if timestamp > now {
            timestamp.wrapping_sub(1 << OPTION_BITS)
        } else {
            timestamp
        }
    }

    /// Of bits, or of a timestamp that holds them.
    pub(crate) const fn of(bits: u32) -> Self {
        let scale = bits & OPTION_SCALE;
        Self {
            scale: if scale == OPTION_SCALE {
                None
            } else {
                Some(scale as u8)
            },
            sack_permitted: bits & OPTION_SACK != 0,
            ecn: bits & OPTION_ECN != 0,
        }
    }
}

/// Once in a tick at most, so that CPUs need not fight for the word.
fn note_sent<H: Host>(host: &H, now: Tick) {
    let Some(words) = host.flows().gauges() else {
        return;
    };
    let old = words.load(gauges::COOKIES);
    let new = old & ACTIVE | SENT | u64::from(now.0);
    if old != new {
        words.compare_exchange(gauges::COOKIES, old, new);
    }
}

/// Whether a packet of no known flow may bring a cookie back.
#[inline(always)]
pub(crate) fn may_prove<H: Host>(host: &H, scratch: &Scratch) -> bool {
    use tcp_flag::{ACK, RST, SYN};
    host.settings().has(SETTING_COOKIES)
        && host.can_answer()
        && scratch.info.protocol == TCP
        && scratch.info.tcp_flags & (SYN | ACK | RST) == ACK
        && matches!(scratch.info.fragment, Fragment::Whole)
        && are_expected(host, scratch.now)
}

/// Cookies are valid for a while after none is sent any more.
fn are_expected<H: Host>(host: &H, now: Tick) -> bool {
    if host.settings().cookies.mode == COOKIES_ALWAYS {
        return true;
    }
    let state = match host.flows().gauges() {
        Some(words) => words.load(gauges::COOKIES),
        None => 0,
    };
    let since = now.0.wrapping_sub(state as u32);
    state & SENT != 0 && since <= COOKIE_SECONDS * TICKS_PER_SECOND
}

/// Looks at the cookie of such a packet.
#[inline(always)]
pub(crate) fn prove<P: Packet, H: Host>(run: &Run<'_, P, H>, scratch: &mut Scratch) -> Stage {
    let host = run.host;
    if !matches!(run.arrival.path, Path::Ingress) {
        return expect::before_beginning(host, scratch);
    }
    let check = host.check_cookie(&scratch.info, run.now);
    if matches!(check, Check::Connected) || !matches!(host.route(&scratch.info).hook, Hook::Input) {
        return expect::before_beginning(host, scratch);
    }
    if matches!(check, Check::Right) {
        wire::read_options(run.packet, host, &mut scratch.info);
        if reconstruct(run, scratch).is_some() {
            track::count(host.flows(), gauges::COOKIES_ACCEPTED);
            scratch.cookie = Part::Proven;
            return expect::before_beginning(host, scratch);
        }
    }
    scratch.outcome = Outcome::refused(Reason::CookieRefused);
    process::tell_refusal(host, scratch);
    Stage::Done
}

/// Makes the record of a connection whose handshake is known from its last segment: SYN and SYN-ACK as
/// they must have been go through the state machine, and then that segment itself.
#[inline(always)]
fn reconstruct<P: Packet, H: Host>(run: &Run<'_, P, H>, scratch: &mut Scratch) -> Option<()> {
    let PacketInfo {
        tcp_flags,
        tcp_sequence,
        tcp_ack,
        tcp_window,
        transport_length,
        tcp_header_length,
        ..
    } = scratch.info;
    let highest = scratch.info.options.highest;
    let opened = open(run, scratch);
    let Scratch {
        info, record, warm, ..
    } = scratch;
    let answered = conntrack::advance(run, info, Direction::Reply, record, warm);
    record.status |= SEEN_REPLY;

    info.tcp_flags = tcp_flags;
    info.tcp_sequence = tcp_sequence;
    info.tcp_ack = tcp_ack;
    info.tcp_window = tcp_window;
    info.transport_length = transport_length;
    info.tcp_header_length = tcp_header_length;
    info.options.syn = SynOptions::default();
    info.options.highest = highest;
    if !opened || !matches!(answered, Advance::Pass) {
        return None;
    }
    let done = conntrack::advance(run, info, Direction::Original, record, warm);
    matches!(done, Advance::Pass).then_some(())
}

/// Begins a record with the SYN that a segment followed, and makes the segment the SYN-ACK in between.
#[cfg_attr(target_arch = "bpf", inline(never))]
fn open<P: Packet, H: Host>(run: &Run<'_, P, H>, scratch: &mut Scratch) -> bool {
    let cookies = &run.host.settings().cookies;
    let timeouts = TimeoutPolicy(scratch.assigned.timeout());
    let Scratch {
        oriented,
        info,
        record,
        warm,
        ..
    } = scratch;
    let (sequence, ack) = (info.tcp_sequence, info.tcp_ack);
    let may = |bit: u32| cookies.options & bit != 0;
    let has_options = wire::tcp_options::has_options(info);
    let mut kept = match info.options.timestamps {
        Some([_, echo]) if has_options && may(COOKIE_TIMESTAMPS) => echo,
        _ => OPTION_SCALE,
    };
    if !may(COOKIE_SCALING) {
        kept |= OPTION_SCALE;
    }
    let Kept {
        scale,
        sack_permitted,
        ..
    } = Kept::of(kept);

    info.tcp_flags = tcp_flag::SYN;
    info.tcp_sequence = sequence.wrapping_sub(1);
    info.tcp_header_length = COOKIE_SYN_BYTES;
    info.transport_length = u32::from(COOKIE_SYN_BYTES);
    info.options.syn = SynOptions {
        scale,
        sack_permitted,
    };
    record.timeouts = timeouts;
    *warm = Warm::default();
    let begun = tcp::begin(run, info, record, warm);
    record.timeouts = timeouts;
    conntrack::note_originator(oriented, record);

    info.tcp_flags = tcp_flag::SYN | tcp_flag::ACK;
    info.tcp_sequence = ack.wrapping_sub(1);
    info.tcp_ack = sequence;
    info.tcp_window = cookies.window as u16;
    info.options.syn.scale = scale.map(|_| cookies.scale as u8);
    info.options.highest = sequence;
    begun.is_ok()
}
