//! The way of nearly all packets, in one piece: the flow is established, its record lies where
//! its tags say, the segment's numbers fit, and the record remembers that the rules let it pass.
//!
//! Nothing here decides anything by itself: lookup, window check, timeouts and remembered outcomes
//! are those of the other stages. Whatever is not as ordinary as that is left to them, before
//! anything is written.

use crate::conntrack::tcp::{self, TcpState};
use crate::conntrack::udp;
use crate::host::{Host, Words};
use crate::judge;
use crate::process::{Outcome, Path, Scratch, Stage};
use crate::raw;
use crate::record::{ASSURED, Control, Record, SEEN_REPLY, StateWords};
use crate::table::{self, Kind, Place, V4, V6};
use crate::time::Tick;
use crate::track::{self, Seen};
use crate::tuple::{Direction, Family};
use crate::verdict::{State, Verdict};
use crate::wire::PacketInfo;
use crate::wire::transport::{TCP, UDP, tcp_flag};

/// Whether a packet may be of a flow in steady state: one that by itself changes no state.
pub(crate) const fn is_ordinary(info: &PacketInfo) -> bool {
    use tcp_flag::{ACK, FIN, RST, SYN, URG};
    match info.protocol {
        TCP => info.tcp_flags & (SYN | FIN | RST | URG | ACK) == ACK,
        UDP => true,
        _ => false,
    }
}

/// [`Stage::Done`] when the packet was judged, else the first of the other stages.
#[inline(always)]
pub(crate) fn advance<H: Host>(host: &H, path: Path, scratch: &mut Scratch) -> Stage {
    if host.is_traced() {
        return raw::before(host, scratch, Stage::Look);
    }
    let passed = match scratch.oriented.key.family {
        Family::V4 => pass::<V4, H>(host, path, scratch),
        Family::V6 => pass::<V6, H>(host, path, scratch),
    };
    match passed {
        Some(()) => Stage::Done,
        None => raw::before(host, scratch, Stage::Look),
    }
}

#[cfg_attr(target_arch = "bpf", inline(never))]
#[cfg_attr(not(target_arch = "bpf"), inline)]
fn pass<K: Kind, H: Host>(host: &H, path: Path, scratch: &mut Scratch) -> Option<()> {
    let place = place::<K, H>(host, scratch)?;
    let found = table::open::<K, _>(host.flows(), &scratch.oriented.key, place)?;
    if !is_at_rest(found.control, &scratch.info, scratch.now) {
        return None;
    }
    let words = found.words;
    let direction = Direction::of(scratch.oriented.side, found.control.originator());
    scratch.seen = Seen {
        place,
        control: found.control,
        cached: found.cached,
    };
    let judgement = judge::recall(host, path, scratch, direction)?;
    if !matches!(judgement.verdict, Verdict::Accept)
        || !advance_record(host, scratch, words, direction)
    {
        return None;
    }
    let (control, state) = written(scratch, direction);
    table::update_steady(words, scratch.seen.control, control, state)?;
    let info = &scratch.info;
    track::account(host, scratch.seen.place, direction, info.ip_length);
    host.count_rule(judgement.rule, info.ip_length);
    scratch.outcome = Outcome {
        state: State::Established,
        verdict: Verdict::Accept,
        reason: None,
        hook: Some(judgement.hook),
        rule: judgement.rule,
        flow: Some(scratch.hash.id),
        direction: Some(direction),
        tcp_state: is_tcp(info).then_some(TcpState::Established),
    };
    Some(())
}

/// Where the record is, most likely.
#[inline(always)]
fn place<K: Kind, H: Host>(host: &H, scratch: &Scratch) -> Option<Place> {
    match scratch.guess {
        // In the kernel there is one packet at a time, and the verifier need not look here.
        Some(place) if !cfg!(target_arch = "bpf") => Some(place),
        _ => {
            let early = |place| track::touch_accounting(host, place);
            table::glance::<K, _>(host.flows(), &scratch.oriented.key, &scratch.hash, early)
        }
    }
}

/// Whether a record is that of an established flow that nothing is about to happen to.
#[inline(always)]
fn is_at_rest(control: Control, info: &PacketInfo, now: Tick) -> bool {
    let (needed, state) = if is_tcp(info) {
        (SEEN_REPLY | ASSURED, TcpState::Established)
    } else {
        (SEEN_REPLY, TcpState::None)
    };
    control.status() & needed == needed
        && control.tcp_state() as u8 == state as u8
        && !control.deadline().has_passed(now)
}

/// Advances the record by the packet; `false` if more changes than what every packet changes.
#[inline(always)]
fn advance_record<H: Host, W: Words>(
    host: &H,
    scratch: &mut Scratch,
    words: W,
    direction: Direction,
) -> bool {
    let (now, control, state) = (scratch.now, scratch.seen.control, StateWords::load(words));
    let Scratch { info, record, .. } = scratch;
    if is_tcp(info) {
        // The sender first: then each field has its place, and none has to be looked for.
        *record = Record::from_words(control.mirrored(direction), state.mirrored(direction));
        return tcp::advance_steady(host, info, record, now);
    }
    *record = Record::from_words(control, state);
    udp::advance(host.settings(), record, now);
    record.status == control.status()
}

/// What is to stand in the slot of the record that [`advance_record`] has made.
#[inline(always)]
fn written(scratch: &Scratch, direction: Direction) -> (Control, StateWords) {
    let Scratch {
        info, record, seen, ..
    } = scratch;
    let (control, state) = (record.control(seen.control), record.words());
    if is_tcp(info) {
        (control.mirrored(direction), state.mirrored(direction))
    } else {
        (control, state)
    }
}

const fn is_tcp(info: &PacketInfo) -> bool {
    info.protocol == TCP
}
