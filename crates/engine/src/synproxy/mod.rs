//! SYN cookies for hosts behind this one: the target SYNPROXY (RFC 4987 section 3.6).
//!
//! A SYN is answered in the place of the server, with a cookie for its number and a window of zero. The segment that
//! brings the cookie back becomes our SYN to the server, with the client's number and options, and makes the record
//! (`open`). The server's SYN-ACK becomes the news of a window for the client (`rewrite`); its answer completes
//! the handshake with the server. From then on numbers are translated (`translate`): the server's are off by as
//! much as the cookie is from the number that it has chosen, and likewise its timestamps.
//!
//! The record holds the numbers of each side as that side sends them.
//!
//! One packet comes out for each that comes in, so the server's SYN-ACK cannot be acknowledged and the client be
//! told at once, as Linux does. Instead the client is sent a byte that it has (the place of our SYN), and so
//! answers (RFC 9293 section 3.8.4). Where it does not, the server's next SYN-ACK is acknowledged here.

mod agreed;
mod header;
mod learned;
mod number;
mod places;
mod segments;
mod unanswered;

pub use agreed::{
    OPTION_ECN, OPTION_MSS, OPTION_SACK, OPTION_SCALE, OPTION_TIMESTAMPS, RuleOptions,
};
pub use number::{TURN_SHIFT, period, turn};
pub(crate) use places::moved;
pub use places::{put, told};
pub(crate) use unanswered::{is_active, is_always, is_judged};

use crate::answer::segment::{self, Heading, NO_SCALE, Segment};
use crate::conntrack::tcp::TcpState;
use crate::conntrack::{self, tcp};
use crate::cookie;
use crate::expect;
use crate::helper;
use crate::host::{FlowMemory, Host, Packet, Words};
use crate::judge::Judgement;
use crate::limits::COOKIE_SYN_BYTES;
use crate::policy::NO_RULE;
use crate::process::{Outcome, Run, Scratch, Stage, tell_refusal};
use crate::record::{ASSIGNED, CONTROL_WORD, Control, FlowAssigned, Warm};
use crate::settings::{SETTING_COOKIES, SETTING_SYNPROXY, TimeoutPolicy};
use crate::table;
use crate::track::{self, Flow, Tracked};
use crate::tuple::Direction;
use crate::verdict::{Hook, Reason, State, Verdict};
use crate::wire;
use crate::wire::tcp_options::SynOptions;
use crate::wire::transport::{TCP, tcp_flag};
use agreed::{Agreed, LEARNS, Numbers, READY, TIMESTAMPS, unscaled, window};
use places::{Search, WORD_AGREED, WORD_NUMBERS};
use unanswered::{is_of_no_flow, let_through};

/// What is to be done with the packet once it was let through.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Part {
    None = 0,
    /// Becomes the SYN to the server, of a connection whose record is new.
    Open = 1,
    /// Becomes that SYN once more.
    OpenAgain = 2,
    /// The server's SYN-ACK becomes the news for the client.
    Tell = 3,
    /// The server's SYN-ACK, which has come before, is answered.
    Acknowledge = 4,
    /// Numbers are translated.
    Translate = 5,
    /// Nothing: it is a SYN that goes on to the server as it is.
    LetThrough = 6,
}

/// What the stages here hand on, in scratch memory.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Synproxy {
    pub(crate) part: Part,
    numbers: Numbers,
    agreed: Agreed,
    search: Search,
    server: learned::Search,
    shift: header::Shift,
    /// What was added to the acknowledgements that the packet was read with.
    shifted: u32,
    /// The window that it was read with.
    window: u16,
    walk: header::Walk,
}

impl Synproxy {
    pub(crate) const NOTHING: Self = Self {
        part: Part::None,
        numbers: Numbers(0),
        agreed: Agreed(0),
        search: Search::NOTHING,
        server: learned::Search::NOTHING,
        shift: header::Shift::NONE,
        shifted: 0,
        window: 0,
        walk: header::Walk::NOTHING,
    };
}

/// Answers a SYN that a rule has given to SYNPROXY, or looks at the cookie that a segment brings back.
#[inline(always)]
pub(crate) fn ask<P: Packet, H: Host>(run: &Run<'_, P, H>, scratch: &mut Scratch) -> Stage {
    let host = run.host;
    let is_syn = scratch.info.tcp_flags & tcp_flag::SYN != 0;
    if matches!(scratch.judgement.hook, Hook::Input) && host.settings().has(SETTING_COOKIES) {
        // For this host its own cookies do. One that comes back was looked at before the rules.
        if is_syn && host.can_answer() {
            let is_wanted = !matches!(scratch.cookie, cookie::Part::Unwanted);
            return match is_wanted && is_of_no_flow(host, scratch) {
                true => Stage::Cookie,
                false => let_through(scratch),
            };
        }
    }
    let is_forward = matches!(scratch.judgement.hook, Hook::Forward);
    let is_due =
        || is_active(host, &scratch.info) && (is_always(host) || is_of_no_flow(host, scratch));
    if is_syn && is_forward && !is_due() {
        return let_through(scratch);
    }
    let is_sound = scratch.info.damage.is_none();
    if !is_forward || !is_sound || !host.can_answer() || !cookie::is_answerable(&scratch.info) {
        return refuse(scratch, Reason::SynproxyUnanswerable);
    }
    // The short way has not read them.
    wire::read_options(run.packet, host, &mut scratch.info);
    wire::tcp_options::forget_others(&mut scratch.info);
    if is_syn {
        return match answer(host, scratch) {
            true => {
                scratch.cookie = cookie::Part::Answered;
                refuse(scratch, Reason::SynproxySent)
            }
            false => refuse(scratch, Reason::SynproxyUnanswerable),
        };
    }
    match prove(run, scratch) {
        Some(()) => Stage::Insert,
        None => refuse(scratch, Reason::SynproxyRefused),
    }
}

const fn refuse(scratch: &mut Scratch, reason: Reason) -> Stage {
    scratch.synproxy.part = Part::None;
    scratch.refusal = Some(reason);
    Stage::Conclude
}

/// Sends the SYN-ACK with a cookie.
#[cfg_attr(target_arch = "bpf", inline(never))]
fn answer<H: Host>(host: &H, scratch: &mut Scratch) -> bool {
    let rule = host.rule(scratch.judgement.rule);
    let mut allowed = RuleOptions(rule.map_or(0, |rule| rule.assigned.0));
    if allowed == RuleOptions(0) {
        allowed = learned::options(host, scratch);
    }
    let Scratch {
        info,
        answer,
        now,
        sent,
        ..
    } = scratch;
    let options = info.options;
    // Not as an `Option`, whose payload would be undefined.
    let (is_stamped, echo) = match options.timestamps {
        Some([value, _]) => (true, value),
        None => (false, 0),
    };
    let kept = allowed.kept(info);
    let is_kept = |bits: u32| kept & bits != 0;
    let ecn = match is_kept(cookie::OPTION_ECN) {
        true => tcp_flag::ECE,
        false => 0,
    };
    let has_mss = options.mss != 0 && allowed.has(OPTION_MSS);
    let syn_ack = Segment {
        heading: Heading::Back,
        sequence: number::make(host.settings(), info, (options.mss, kept), *now),
        acknowledgement: info.tcp_sequence.wrapping_add(1),
        flags: tcp_flag::SYN | tcp_flag::ACK | ecn,
        // Nothing is to be sent before there is a server to take it.
        window: 0,
        mss: if has_mss { (allowed.0 >> 16) as u16 } else { 0 },
        has_timestamps: is_stamped && allowed.has(OPTION_TIMESTAMPS),
        timestamps: [host.milliseconds(*now), echo],
        scale: match kept & cookie::OPTION_SCALE {
            cookie::OPTION_SCALE => NO_SCALE,
            _ => allowed.scale(),
        },
        sack_permitted: is_kept(cookie::OPTION_SACK),
        probes: false,
        is_partial: false,
    };
    segment::write(info, &syn_ack, answer);
    *sent = syn_ack.sequence;
    host.answer(info, answer)
}

/// Makes the record of a connection whose cookie has come back, as its SYN would have.
#[inline(always)]
fn prove<P: Packet, H: Host>(run: &Run<'_, P, H>, scratch: &mut Scratch) -> Option<()> {
    if matches!(
        scratch.tracked.flow,
        Flow::Known(_) | Flow::Ended(_) | Flow::Passing(_)
    ) {
        return None;
    }
    let (content, sequence) = check(run.host, scratch)?;
    track::name_flow(run, scratch).ok()?;
    expect::nothing_expected(scratch);
    let info = &scratch.info;
    let (is_stamped, echo) = match info.options.timestamps {
        Some([_, echo]) => (true, echo),
        None => (false, 0),
    };
    let rule = run.host.rule(scratch.judgement.rule);
    let options = RuleOptions(rule.map_or(0, |rule| rule.assigned.0));
    let learns = options == RuleOptions(0);
    let told = if learns {
        learned::SCALE
    } else {
        options.scale()
    };
    let agreed = Agreed::new(number::size(content), content, is_stamped, told);
    scratch.synproxy.agreed = if learns { agreed.learning() } else { agreed };
    scratch.synproxy.numbers = Numbers::new(info.tcp_ack.wrapping_sub(1), echo);
    scratch.synproxy.part = Part::Open;
    begin(run, scratch, sequence).then_some(())?;
    scratch.tracked = Tracked {
        state: State::New,
        reason: None,
        flow: Flow::Begins,
    };
    scratch.judgement.verdict = Verdict::Accept;
    scratch.judgement.reason = None;
    scratch.judgement.cacheable = None;
    Some(())
}

/// What the cookie holds, and the number of the client's SYN. What looks into a window of zero
/// has the number before its next (RFC 9293 section 3.8.6.1).
#[cfg_attr(target_arch = "bpf", inline(never))]
fn check<H: Host>(host: &H, scratch: &Scratch) -> Option<(u32, u32)> {
    let info = &scratch.info;
    for back in [1, 0] {
        let sequence = info.tcp_sequence.wrapping_sub(back);
        if let Some(content) = number::check(host.settings(), info, sequence, scratch.now) {
            return Some((content, sequence));
        }
    }
    None
}

#[cfg_attr(target_arch = "bpf", inline(never))]
fn begin<P: Packet, H: Host>(run: &Run<'_, P, H>, scratch: &mut Scratch, sequence: u32) -> bool {
    let timeouts = TimeoutPolicy(scratch.assigned.timeout());
    let assigned = FlowAssigned::new(scratch.assigned, run.now).with_synproxy();
    let kept = scratch.synproxy.agreed.kept();
    let Scratch {
        oriented,
        info,
        record,
        warm,
        given,
        ..
    } = scratch;
    info.tcp_flags = tcp_flag::SYN;
    info.tcp_sequence = sequence;
    info.tcp_ack = 0;
    info.tcp_window = unscaled(info.tcp_window, &kept);
    info.tcp_header_length = COOKIE_SYN_BYTES;
    info.transport_length = u32::from(COOKIE_SYN_BYTES);
    info.options.syn = SynOptions {
        scale: kept.scale,
        sack_permitted: kept.sack_permitted,
    };
    record.timeouts = timeouts;
    *warm = Warm::default();
    let begun = tcp::begin(run, info, record, warm);
    record.timeouts = timeouts;
    conntrack::note_originator(oriented, record);
    record.status |= ASSIGNED;
    warm.assigned = assigned;
    *given = assigned;
    begun.is_ok()
}

/// The stage that comes before [`Stage::Advance`] for a record that was found: this one, where numbers may have to
/// be translated.
#[inline(always)]
pub(crate) fn before_advancing<H: Host>(host: &H, scratch: &mut Scratch) -> Stage {
    if !matches!(scratch.synproxy.part, Part::LetThrough) {
        scratch.synproxy.part = Part::None;
    }
    let is_tcp = scratch.info.protocol == TCP;
    let may_concern = scratch.record.has(ASSIGNED) || !matches!(next(scratch), Next::Nothing);
    if is_tcp && may_concern && host.settings().has(SETTING_SYNPROXY) {
        Stage::Translate
    } else {
        Stage::Advance
    }
}

/// What a packet may do after a connection has ended, to begin the next between the same ports.
enum Next {
    Nothing,
    /// It is its SYN.
    Opens,
    /// It brings a cookie back.
    Proves,
}

#[inline(always)]
const fn next(scratch: &Scratch) -> Next {
    use tcp_flag::{ACK, RST, SYN};
    let state = scratch.record.tcp_state;
    match scratch.info.tcp_flags & (SYN | ACK | RST) {
        _ if !matches!(state, TcpState::TimeWait | TcpState::Close) => Next::Nothing,
        SYN => Next::Opens,
        ACK => Next::Proves,
        _ => Next::Nothing,
    }
}

/// Turns the numbers of a packet into those that the record goes by, and says what is to be done with the packet.
#[inline(always)]
pub(crate) fn translate<P: Packet, H: Host>(run: &Run<'_, P, H>, scratch: &mut Scratch) -> Stage {
    let host = run.host;
    give_back(scratch);
    match next(scratch) {
        Next::Nothing => {}
        // Its numbers are its own.
        Next::Opens => return Stage::Advance,
        Next::Proves if check(host, scratch).is_some() => {
            if let Some(stage) = track::forget_ended(host, scratch) {
                return stage;
            }
        }
        Next::Proves => {}
    }
    let given = helper::given(host, scratch.seen.place, &scratch.record);
    if !given.has_synproxy() {
        return Stage::Advance;
    }
    wire::tcp_options::forget_others(&mut scratch.info);
    if !host.can_answer() {
        return drop_early(host, scratch, Reason::SynproxyUnanswerable);
    }
    let name = (scratch.hash.id, scratch.oriented.key.family, given.born());
    let Some(words) = places::find(host.flows(), &mut scratch.synproxy.search, name) else {
        return drop_early(host, scratch, Reason::SynproxyLost);
    };
    // In this order: what is ready has its numbers.
    scratch.synproxy.agreed = Agreed(words.load(WORD_AGREED));
    scratch.synproxy.numbers = Numbers(words.load(WORD_NUMBERS));
    let is_ready = scratch.synproxy.agreed.has(READY);
    let part = match track::direction_of(scratch) {
        Direction::Original => from_client(scratch, is_ready),
        Direction::Reply => from_server(scratch, is_ready),
    };
    let Some(part) = part else {
        return drop_early(host, scratch, Reason::SynproxyEarly);
    };
    scratch.synproxy.part = part;
    if matches!(part, Part::OpenAgain) {
        // The rules have let the connection in, and its record stays as old as it is.
        wire::read_options(run.packet, host, &mut scratch.info);
        let kept = scratch.synproxy.agreed.kept();
        scratch.info.tcp_window = unscaled(scratch.info.tcp_window, &kept);
        scratch.tracked = Tracked {
            state: State::New,
            reason: None,
            flow: Flow::Passing(Direction::Original),
        };
        scratch.judgement = Judgement {
            hook: Hook::Forward,
            rule: NO_RULE,
            ..Judgement::NOTHING
        };
        return Stage::Conclude;
    }
    Stage::Advance
}

/// Undoes what was done to a packet that is tracked again, since another came in between.
fn give_back(scratch: &mut Scratch) {
    if scratch.rounds != 0 {
        let back = scratch.synproxy.shifted;
        let info = &mut scratch.info;
        info.tcp_ack = info.tcp_ack.wrapping_sub(back);
        info.options.highest = info.options.highest.wrapping_sub(back);
        info.tcp_window = scratch.synproxy.window;
    }
    scratch.synproxy.shifted = 0;
    scratch.synproxy.window = scratch.info.tcp_window;
}

fn drop_early<H: Host>(host: &H, scratch: &mut Scratch, reason: Reason) -> Stage {
    scratch.outcome = Outcome::refused(reason);
    tell_refusal(host, scratch);
    Stage::Done
}

fn from_client(scratch: &mut Scratch, is_ready: bool) -> Option<Part> {
    use tcp_flag::{ACK, RST, SYN};
    let Scratch { info, synproxy, .. } = scratch;
    let flags = info.tcp_flags & (SYN | ACK | RST);
    if !is_ready {
        return Some(match flags {
            // Our SYN was lost, or the answer to it.
            ACK => Part::OpenAgain,
            _ => Part::None,
        });
    }
    let back = 0_u32.wrapping_sub(synproxy.numbers.sequence());
    synproxy.shift = header::Shift {
        sequence: 0,
        acknowledgement: if flags & ACK == 0 { 0 } else { back },
        value: 0,
        echo: synproxy.numbers.timestamp(),
        window: synproxy.agreed.client_windows(),
    };
    let [left, right] = synproxy.shift.window;
    info.tcp_window = window(u32::from(info.tcp_window), left, right) as u16;
    let back = synproxy.shift.acknowledgement;
    info.tcp_ack = info.tcp_ack.wrapping_add(back);
    info.options.highest = info.options.highest.wrapping_add(back);
    synproxy.shifted = back;
    Some(Part::Translate)
}

fn from_server(scratch: &mut Scratch, is_ready: bool) -> Option<Part> {
    use tcp_flag::{ACK, RST, SYN};
    let Scratch {
        info,
        synproxy,
        record,
        ..
    } = scratch;
    let flags = info.tcp_flags & (SYN | ACK | RST);
    let sequence = synproxy.numbers.sequence();
    let is_first = matches!(record.tcp_state, TcpState::SynSent);
    synproxy.shift = header::Shift::NONE;
    match (flags, is_ready) {
        (SYN_ACK, false) if is_first => Some(Part::Tell),
        // Who has sent nothing but that has not got the answer.
        (SYN_ACK, true) if info.tcp_sequence.wrapping_add(1) == record.windows[1].end => {
            Some(Part::Acknowledge)
        }
        (SYN_ACK, _) => None,
        (flags, false) if flags & RST != 0 => {
            // RFC 5961 section 3.2: the number that is expected, and no other.
            let next = sequence.wrapping_add(1);
            synproxy.shift.sequence = next.wrapping_sub(info.tcp_sequence);
            Some(Part::Translate)
        }
        (_, false) => None,
        (_, true) => {
            synproxy.shift.sequence = sequence;
            synproxy.shift.value = 0_u32.wrapping_sub(synproxy.numbers.timestamp());
            synproxy.shift.window = synproxy.agreed.server_windows();
            Some(Part::Translate)
        }
    }
}

const SYN_ACK: u8 = tcp_flag::SYN | tcp_flag::ACK;

/// The stage that comes before [`Stage::Conclude`] for a packet that was judged, if there is one.
#[inline(always)]
pub(crate) const fn before_concluding(scratch: &Scratch) -> Option<Stage> {
    let is_accepted = matches!(scratch.judgement.verdict, Verdict::Accept);
    match scratch.synproxy.part {
        Part::None | Part::LetThrough => None,
        _ if !is_accepted || scratch.refusal.is_some() => None,
        Part::Open => Some(Stage::Open),
        Part::Translate => Some(Stage::Rewrite),
        Part::OpenAgain | Part::Tell | Part::Acknowledge => Some(Stage::Greet),
    }
}

/// Finds room for what must be known of a new connection.
#[inline(always)]
pub(crate) fn open<H: Host>(host: &H, scratch: &mut Scratch) -> Stage {
    let flows = host.flows();
    let place = scratch.seen.place;
    let name = (
        scratch.hash.id,
        scratch.oriented.key.family,
        scratch.given.born(),
    );
    let Synproxy {
        search,
        numbers,
        agreed,
        ..
    } = &mut scratch.synproxy;
    let words = ([numbers.0, agreed.0], host.settings().has_two_tables());
    if places::lease(flows, search, name, place, words) {
        scratch.synproxy.part = Part::OpenAgain;
        return Stage::Greet;
    }
    if let Some(words) = flows.slot(place.family, place.bucket, place.slot) {
        table::remove(flows, place, Control(words.load(CONTROL_WORD)));
    }
    refuse(scratch, Reason::SynproxyFull)
}

/// Puts a segment of our own in the place of one of the handshake.
#[inline(always)]
pub(crate) fn greet<P: Packet, H: Host>(run: &Run<'_, P, H>, scratch: &mut Scratch) -> Stage {
    let host = run.host;
    let part = scratch.synproxy.part;
    scratch.synproxy.part = Part::None;
    if !matches!(scratch.tracked.state, State::New | State::Established) {
        return refuse(scratch, Reason::SynproxyEarly);
    }
    if matches!(part, Part::Tell) {
        if !make_ready(host, scratch) {
            return refuse(scratch, Reason::SynproxyLost);
        }
        if scratch.synproxy.agreed.has(LEARNS) {
            learned::learn(host, scratch);
        }
    }
    let mut segment = match part {
        Part::Tell => segments::news(scratch),
        Part::Acknowledge => segments::acknowledgement(scratch),
        _ => segments::syn(scratch),
    };
    segment.is_partial = header::is_partial(run, scratch);
    if matches!(segment.heading, Heading::Back) {
        // Sent from here: nobody adds anything.
        segment.is_partial = false;
    }
    write(scratch, &segment);
    let Scratch { info, answer, .. } = scratch;
    let is_sent = match segment.heading {
        Heading::Back => host.answer(info, answer),
        Heading::Onward => host.send_on(info, answer),
    };
    if !is_sent {
        return refuse(scratch, Reason::SynproxyUnanswerable);
    }
    if matches!(segment.heading, Heading::Back) {
        scratch.cookie = cookie::Part::Answered;
        return refuse(scratch, Reason::SynproxyAnswered);
    }
    Stage::Conclude
}

#[cfg_attr(target_arch = "bpf", inline(never))]
fn write(scratch: &mut Scratch, segment: &Segment) {
    let Scratch { info, answer, .. } = scratch;
    segment::write(info, segment, answer);
}

/// Notes how far the server's numbers are from the client's.
fn make_ready<H: Host>(host: &H, scratch: &mut Scratch) -> bool {
    let info = &scratch.info;
    let old = scratch.synproxy.numbers;
    let timestamps = info.options.timestamps;
    let value = timestamps.filter(|_| scratch.synproxy.agreed.has(TIMESTAMPS));
    let numbers = Numbers::new(
        old.sequence().wrapping_sub(info.tcp_sequence),
        value.map_or(0, |[value, _]| value.wrapping_sub(old.timestamp())),
    );
    let Some(words) = places::found(host.flows(), &scratch.synproxy.search) else {
        return false;
    };
    words.store(WORD_NUMBERS, numbers.0);
    let agreed = scratch.synproxy.agreed.ready(info.options.syn.scale);
    words.store(WORD_AGREED, agreed.0);
    scratch.synproxy.numbers = numbers;
    scratch.synproxy.agreed = agreed;
    true
}

/// Writes the translated numbers into the packet.
#[inline(always)]
pub(crate) fn rewrite<P: Packet, H: Host>(run: &Run<'_, P, H>, scratch: &mut Scratch) -> Stage {
    scratch.synproxy.part = Part::None;
    if header::rewrite(run, scratch) {
        Stage::Conclude
    } else {
        refuse(scratch, Reason::SynproxyUnanswerable)
    }
}
