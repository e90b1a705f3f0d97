//! The way of nearly all packets, in one piece: the flow is established, its record lies where
//! its tags say, the segment's numbers fit, and the record remembers that the rules let it pass.
//!
//! Nothing here decides anything by itself: lookup, window check, timeouts and remembered outcomes
//! are those of the other stages. Whatever is not as ordinary as that is left to them, before
//! anything is written.

use crate::account;
use crate::ban;
use crate::conntrack::tcp::{self, TcpState};
use crate::conntrack::udp;
use crate::host::{Host, Packet, Words};
use crate::judge;
use crate::process::{Arrival, Outcome, Path, Scratch, Stage};
use crate::raw;
use crate::record::{ASSIGNED, ASSURED, Control, Record, SEEN_REPLY, StateWords};
use crate::table::{self, Kind, Place, Seen, V4, V6};
use crate::time::Tick;
use crate::track::{self, Sight};
use crate::tuple::{Direction, Family};
use crate::verdict::{State, Verdict};
use crate::wire::transport::{TCP, UDP, tcp_flag};
use crate::wire::{Fragment, PacketInfo, tcp_options};

/// Whether a packet may be of a flow in steady state: one that by itself changes no state.
#[inline(always)]
pub(crate) fn is_ordinary<P: Packet>(packet: &P, info: &mut PacketInfo) -> bool {
    use tcp_flag::{ACK, FIN, RST, SYN, URG};
    if info.damage.is_some() || !matches!(info.fragment, Fragment::Whole) {
        return false;
    }
    // Programs read these in a stage from which no way leads back here; rules must count alike elsewhere.
    if !cfg!(target_arch = "bpf") && info.has_extensions() {
        return false;
    }
    match info.protocol {
        TCP => {
            info.tcp_flags & (SYN | FIN | RST | URG | ACK) == ACK
                && tcp_options::read_ordinary(packet, info)
        }
        UDP => true,
        _ => false,
    }
}

/// Names the flow and asks for what [`advance`] will need, as soon as it has its name: while it comes from
/// memory, checksums can be verified. Whether it is known already that there is no such flow.
#[inline(always)]
pub(crate) fn approach<H: Host>(arrival: &Arrival, host: &H, scratch: &mut Scratch) -> bool {
    track::name_ordinary(arrival, host, scratch);
    if !cfg!(target_arch = "bpf") {
        table::prefetch_tags(host.flows(), scratch.info.family, &scratch.hash);
        return false;
    }
    // Programs have no instruction that only asks, so the record is looked for at once.
    scratch.sight = match seen(host, scratch) {
        Some(()) => Sight::Found,
        None => Sight::Missing,
    };
    matches!(scratch.sight, Sight::Missing)
}

/// [`Stage::Done`] when the packet was judged, else the first of the other stages.
#[inline(always)]
pub(crate) fn advance<H: Host>(host: &H, path: Path, scratch: &mut Scratch) -> Stage {
    let found = if cfg!(target_arch = "bpf") {
        matches!(scratch.sight, Sight::Found).then_some(())
    } else {
        seen(host, scratch)
    };
    if found.is_none() {
        let next = raw::before(host, scratch, Stage::Look);
        // Programs have asked about its sender: they knew then that it is missing.
        return match cfg!(target_arch = "bpf") {
            true => next,
            false => ban::ask_late(host, path, scratch, next),
        };
    }
    let passed = match scratch.oriented.key.family {
        Family::V4 => pass::<V4, H>(host, path, scratch),
        Family::V6 => pass::<V6, H>(host, path, scratch),
    };
    match passed {
        Some(()) => Stage::Done,
        None => {
            let next = raw::before(host, scratch, Stage::Look);
            ban::ask_late(host, path, scratch, next)
        }
    }
}

/// Notes where the record is, and what its control word was.
#[inline(always)]
fn seen<H: Host>(host: &H, scratch: &mut Scratch) -> Option<()> {
    match scratch.oriented.key.family {
        Family::V4 => seen_of::<V4, H>(host, scratch),
        Family::V6 => seen_of::<V6, H>(host, scratch),
    }
}

#[inline(always)]
fn seen_of<K: Kind, H: Host>(host: &H, scratch: &mut Scratch) -> Option<()> {
    let Scratch {
        oriented,
        hash,
        seen,
        guesses,
        ..
    } = scratch;
    let guessed = match *guesses {
        Some([place, _]) if !cfg!(target_arch = "bpf") => {
            table::see::<K, _>(host.flows(), &oriented.key, place, seen)
        }
        _ => None,
    };
    if guessed.is_some() {
        return guessed;
    }
    let early = |place| account::prefetch(host, place);
    table::glance::<K, _>(host.flows(), &oriented.key, hash, seen, early)
}

#[inline(always)]
fn pass<K: Kind, H: Host>(host: &H, path: Path, scratch: &mut Scratch) -> Option<()> {
    let Seen { place, control, .. } = scratch.seen;
    let place = Place {
        family: K::FAMILY,
        ..place
    };
    if !is_at_rest(control, &scratch.info, scratch.now) {
        return None;
    }
    let direction = Direction::of(scratch.oriented.side, control.originator());
    let judgement = judge::recall(host, path, scratch, direction)?;
    if !matches!(judgement.verdict, Verdict::Accept) {
        return None;
    }
    let words = K::words(host.flows(), place)?;
    if is_tcp(&scratch.info) {
        advance_tcp(host, scratch, words, direction)?;
    } else {
        let state = StateWords::load(words);
        let new = udp::advance_steady(host.settings(), control, state, scratch.now)?;
        table::renew_steady(words, control, new)?;
    }
    let info = &scratch.info;
    account::count_packet(host, place, direction, info.ip_length);
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
        sctp_state: None,
    };
    Some(())
}

/// Whether a record is that of an established flow that nothing is about to happen to.
#[inline(always)]
fn is_at_rest(control: Control, info: &PacketInfo, now: Tick) -> bool {
    let (needed, state) = if is_tcp(info) {
        (SEEN_REPLY | ASSURED, TcpState::Established)
    } else {
        (SEEN_REPLY, TcpState::None)
    };
    // Flows that something was assigned to are left to the other stages: it stands in their warm words.
    control.status() & (needed | ASSIGNED) == needed
        && control.tcp_state() as u8 == state as u8
        && !control.deadline().has_passed(now)
}

/// Advances the record by a segment; `None` if more changes than what every segment changes, or
/// another CPU changed the record meanwhile.
#[inline(always)]
fn advance_tcp<H: Host, W: Words>(
    host: &H,
    scratch: &mut Scratch,
    words: W,
    direction: Direction,
) -> Option<()> {
    let (now, control) = (scratch.now, scratch.seen.control);
    let Scratch { info, record, .. } = scratch;
    let state = StateWords::load(words);
    let digest = state.digest();
    *record = Record::from_words_of(control, state.sender_first(direction), direction);
    if !tcp::advance_steady(host, info, record, now) {
        return None;
    }
    let written = (
        record.control(control).mirrored(direction),
        record.words_of(direction).sender_first(direction),
    );
    table::update_steady(words, (control, digest), written)
}

const fn is_tcp(info: &PacketInfo) -> bool {
    info.protocol == TCP
}
