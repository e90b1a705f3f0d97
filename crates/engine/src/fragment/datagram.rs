//! Unfinished datagrams.
//!
//! A hash table of a fixed size: a datagram has one bucket of eight slots, by the keyed hash of what RFC 791
//! and RFC 8200 call one datagram (addresses, identification, protocol in IPv4), zone and whether it
//! was made here. A slot holds, in words:
//!
//! ```text
//! 0       control: deadline (32) | 0 (24) | phase (8)
//! 1 to 5  key: identification (32) zone (16) protocol (8) path (8); sender; receiver
//! 6       ports (32) | end, if the last fragment was seen (16) | policy's epoch (2) direction (2) hook (2)
//!         verdict (2) state (3)
//! 7       rule (32) | TCP's sequence number of byte 0 (32)
//! 8       checksum and length so far, see [`Share`]
//! 9 on    runs of bytes that were seen: from (32) | up to (32), zero for none
//! ```
//!
//! **Concurrency.** A fragment takes its bucket by compare-and-swap of a word, does a bounded amount of work
//! and gives it back; another one waits a bounded time and is then dropped (`fragment_busy`).
//! Who sweeps takes no bucket: it frees slots whose time is over by compare-and-swap of their control word,
//! which everybody changes in this way alone. While a first fragment is with the rules its bucket is free;
//! what comes meanwhile is ahead of it.
//!
//! **Room.** In a full bucket goes, in this order: what is over, what has no first fragment,
//! what is oldest. A fragment ahead of its first one never takes the place of a datagram that was judged.

use super::SeenBefore;
use super::bucket::{
    CONTROL, DECISION, KEY, NONE, RULE, RUNS, SHARES, Search, add, is_key, lock, note_end, phase,
    rank, rank_of, unlock,
};
use super::decision::Decision;
use super::runs::{Fit, Meets, rounded, run};
use super::whole::{Share, Whole};
use crate::host::{FlowMemory, Host, Words};
use crate::limits::{FRAGMENT_BUCKETS, FRAGMENT_RUNS_MAX, FRAGMENT_SLOTS};
use crate::process::{Arrival, Path, Scratch};
use crate::settings::Settings;
use crate::table::{Hash, gauges};
use crate::time::Tick;
use crate::track;
use crate::tuple::{Family, FlowKey};
use crate::verdict::Reason;
use crate::wire::PacketInfo;
use crate::wire::fragment::{Piece, Rest};
use crate::wire::transport::ICMPV6;

/// What becomes of a fragment by what is known of its datagram.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Admission {
    /// It is to be judged.
    First,
    /// [`Datagram::decision`] says it.
    Later,
    /// It is ahead of the first.
    Ahead,
    /// It is of a datagram that was complete without it.
    Orphan,
    Refused(Reason),
}

/// The datagram of the fragment at hand.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Datagram {
    pub(super) piece: Piece,
    pub(super) key: FlowKey,
    pub(super) bucket: u32,
    slot: u32,
    /// Hash of sender, receiver and protocol.
    pub(super) pair: u32,
    pub(super) seen_before: SeenBefore,
    pub(super) decision: Decision,
    /// What it adds to checksum and length.
    pub(super) share: Share,
    /// What its completion shows.
    pub(super) whole: Whole,
    /// End of the bytes that were seen without a gap around it.
    pub(super) reach: u32,
    /// How long it is remembered, and how many may be.
    seconds: u32,
    most: u32,
}

impl Datagram {
    /// Of no packet.
    pub(crate) const EMPTY: Self = Self {
        piece: Piece::EMPTY,
        key: FlowKey {
            family: Family::V4,
            words: [0; 5],
        },
        bucket: 0,
        slot: 0,
        pair: 0,
        seen_before: SeenBefore::No,
        decision: Decision::NOTHING,
        share: Share(0),
        whole: Whole::Sound,
        reach: 0,
        seconds: 0,
        most: 0,
    };

    pub(super) const fn is_first(&self) -> bool {
        self.piece.start == 0
    }

    /// See [`Decision::sequence`]; SYN and FIN count.
    pub(super) const fn sequence_of_start(&self, info: &PacketInfo) -> u32 {
        use crate::wire::transport::tcp_flag::{FIN, SYN};
        let shown = info.ip_offset + info.ip_length - info.transport_offset;
        let before = self.piece.end.wrapping_sub(shown);
        let flags = (info.tcp_flags & SYN != 0) as u32 + (info.tcp_flags & FIN != 0) as u32;
        info.tcp_sequence
            .wrapping_add(flags)
            .wrapping_sub(before)
            .wrapping_sub(info.tcp_header_length as u32)
    }

    /// Sets key and hashes.
    #[cfg_attr(target_arch = "bpf", inline(never))]
    #[cfg_attr(not(target_arch = "bpf"), inline)]
    pub(super) fn name(&mut self, info: &PacketInfo, arrival: &Arrival, settings: &Settings) {
        let path = match arrival.path {
            Path::Ingress => 0,
            Path::Local => 1,
        };
        let zone = u64::from(arrival.zone) << 16;
        // The path where ports are, since the lowest byte is not hashed.
        let pair = (path << 32) | zone | (u64::from(self.piece.protocol) << 8);
        let [v4, v6] = &settings.fragments;
        let own = match info.family {
            Family::V4 => v4,
            Family::V6 => v6,
        };
        self.seconds = own.seconds;
        self.most = own.datagrams_max();
        self.key.family = info.family;
        self.write_addresses(info);
        self.set_first_word(pair);
        self.pair = Hash::of(&self.key, settings).id;
        let protocol = match info.family {
            Family::V4 => self.piece.protocol,
            // RFC 8200: the identification alone, whatever the fragment says comes next.
            Family::V6 => ICMPV6,
        };
        let id = u64::from(self.piece.id) << 32;
        self.set_first_word(id | zone | (u64::from(protocol) << 8) | path);
        self.bucket = Hash::of(&self.key, settings).id & (FRAGMENT_BUCKETS - 1);
    }

    fn set_first_word(&mut self, word: u64) {
        let [first, ..] = &mut self.key.words;
        *first = word;
    }

    /// Sender first: the two directions have nothing to do with each other.
    fn write_addresses(&mut self, info: &PacketInfo) {
        let join = |high: u32, low: u32| (u64::from(high) << 32) | u64::from(low);
        let ([a, b, c, d], [e, f, g, h]) = (info.source, info.destination);
        let [_, first, second, third, fourth] = &mut self.key.words;
        match info.family {
            Family::V4 => (*first, *second, *third, *fourth) = (join(a, e), 0, 0, 0),
            Family::V6 => {
                (*first, *second) = (join(a, b), join(c, d));
                (*third, *fourth) = (join(e, f), join(g, h));
            }
        }
    }
}

/// Adds a fragment to its datagram.
#[inline(always)]
pub(super) fn admit<H: Host>(host: &H, scratch: &mut Scratch) -> Admission {
    let now = scratch.now;
    let datagram = &mut scratch.datagram;
    let flows = host.flows();
    if !lock(flows, datagram.bucket) {
        return Admission::Refused(Reason::FragmentBusy);
    }
    let admission = admit_locked(flows, datagram, now);
    unlock(flows, datagram.bucket);
    admission
}

#[cfg_attr(target_arch = "bpf", inline(never))]
#[cfg_attr(not(target_arch = "bpf"), inline)]
fn admit_locked<M: FlowMemory>(flows: &M, datagram: &mut Datagram, now: Tick) -> Admission {
    datagram.seen_before = SeenBefore::No;
    datagram.whole = Whole::Sound;
    datagram.reach = datagram.piece.end;
    let mut search = Search {
        flows,
        datagram,
        now,
        at: 0,
        found: NONE,
        victim: 0,
        // Not a constant: verifiers before Linux 6.7 walk through the body once and take what is always so
        // in the first round for always so.
        rank: rank_of(flows, datagram, now),
    };
    flows.repeat(FRAGMENT_SLOTS, &mut search);
    let (found, victim, rank) = (search.found, search.victim, search.rank);
    datagram.slot = if found == NONE { victim } else { found };
    let Some(words) = flows.fragment(datagram.bucket, datagram.slot) else {
        return Admission::Refused(Reason::FragmentTableFull);
    };
    let control = words.load(CONTROL);
    if found == NONE {
        if rank < rank::HEADLESS && has_too_many(flows, datagram) {
            track::count(flows, gauges::FRAGMENTS_FULL);
            return Admission::Refused(Reason::FragmentTableFull);
        }
        if rank >= rank::DECIDED && !datagram.is_first() {
            track::count(flows, gauges::FRAGMENTS_FULL);
            return Admission::Refused(Reason::FragmentTableFull);
        }
        if rank >= rank::HEADLESS {
            track::count(flows, gauges::FRAGMENTS_FULL);
        }
        return start(flows, words, control, datagram, now);
    }
    match (control & phase::MASK, datagram.is_first()) {
        // As in Linux, which has forgotten such a datagram: the next one begins.
        (phase::BROKEN | phase::COMPLETE, true) => start(flows, words, control, datagram, now),
        (phase::BROKEN, false) => Admission::Refused(Reason::FragmentOverlap),
        (phase::COMPLETE, false) => Admission::Orphan,
        _ => extend(flows, words, control, datagram),
    }
}

/// Whether as many datagrams are unfinished as may be, where that is not the table's own bound.
fn has_too_many<M: FlowMemory>(flows: &M, datagram: &Datagram) -> bool {
    let gauges = flows.gauges();
    datagram.most < FRAGMENT_BUCKETS * FRAGMENT_SLOTS
        && gauges.is_some_and(|words| words.load(gauges::FRAGMENTS) >= u64::from(datagram.most))
}

/// Begins a datagram, in the place of what the slot holds.
#[inline(always)]
fn start<M: FlowMemory>(
    flows: &M,
    words: M::Words,
    old: u64,
    datagram: &Datagram,
    now: Tick,
) -> Admission {
    let piece = &datagram.piece;
    let (phase, admission) = if datagram.is_first() {
        (phase::JUDGING, Admission::First)
    } else {
        (phase::HEADLESS, Admission::Ahead)
    };
    let deadline = u64::from(now.after_seconds(datagram.seconds).0) << 32;
    if words.compare_exchange(CONTROL, old, deadline | phase) != old {
        // Swept at this very moment.
        return Admission::Refused(Reason::FragmentBusy);
    }
    note_end(flows, old, now);
    add(flows, gauges::FRAGMENTS, 1);
    let [word0, word1, word2, word3, word4] = datagram.key.words;
    words.store(KEY, word0);
    words.store(KEY + 1, word1);
    words.store(KEY + 2, word2);
    words.store(KEY + 3, word3);
    words.store(KEY + 4, word4);
    words.store(DECISION, Decision::NOTHING.word(end_of(piece)));
    words.store(RULE, 0);
    words.store(SHARES, datagram.share.0);
    words.store(RUNS, run(piece.start, rounded(piece.end)));
    for at in 1..FRAGMENT_RUNS_MAX {
        words.store(RUNS + at, 0);
    }
    admission
}

/// Adds a fragment to a datagram of which some were seen.
#[inline(always)]
fn extend<M: FlowMemory>(
    flows: &M,
    words: M::Words,
    control: u64,
    datagram: &mut Datagram,
) -> Admission {
    let piece = datagram.piece;
    let decision = words.load(DECISION);
    let end = (decision >> 16) as u32 & 0xffff;
    let mut fit = Fit {
        words,
        at: 0,
        start: piece.start,
        end: rounded(piece.end),
        meets: Meets::Nothing,
        left: NONE,
        right: NONE,
        free: NONE,
        // See `Search::rank`.
        highest: words.load(RUNS) as u32,
    };
    flows.repeat(FRAGMENT_RUNS_MAX, &mut fit);
    let has_other_end = match piece.rest {
        Rest::None => (end != 0 && end != piece.end) || fit.highest > fit.end,
        Rest::More => end != 0 && piece.end > end,
    };
    let fault = match (has_other_end, fit.meets) {
        (true, _) => Some(Reason::FragmentBadEnd),
        (false, Meets::Part) => Some(Reason::FragmentOverlap),
        _ => None,
    };
    if let Some(reason) = fault {
        // Linux gives IPv6 no more than the fragment up for a wrong end.
        if !has_other_end || matches!(datagram.key.family, Family::V4) {
            let broken = (control & !0xff) | phase::BROKEN;
            let _ = words.compare_exchange(CONTROL, control, broken);
        }
        return Admission::Refused(reason);
    }
    if matches!(fit.meets, Meets::Holds) {
        return repeated(words, control, datagram);
    }
    if !fit.place() {
        return Admission::Refused(Reason::FragmentScattered);
    }
    let end = end | end_of(&piece);
    words.store(DECISION, (decision & !0xffff_0000) | (u64::from(end) << 16));
    let shares = Share(words.load(SHARES)).and(datagram.share);
    words.store(SHARES, shares.0);
    let is_complete = end != 0 && fit.start == 0 && fit.end == rounded(end);
    let phase = match (control & phase::MASK, datagram.is_first(), is_complete) {
        (phase::HEADLESS, true, false) => phase::JUDGING,
        (phase::HEADLESS, true, true) | (phase::JUDGING, _, true) => {
            phase::JUDGING | phase::ALL_SEEN
        }
        (phase::DECIDED, _, true) => phase::COMPLETE,
        (phase, ..) => phase,
    };
    // A run ends at a whole unit, the datagram where it says.
    datagram.reach = if end == 0 { fit.end } else { fit.end.min(end) };
    if is_complete {
        datagram.whole = shares.judge(end);
    }
    if phase == phase::COMPLETE {
        add(flows, gauges::FRAGMENTS, u64::MAX);
    }
    if words.compare_exchange(CONTROL, control, (control & !0xff) | phase) != control {
        return Admission::Refused(Reason::FragmentBusy);
    }
    if datagram.is_first() {
        return Admission::First;
    }
    standing(words, control, datagram)
}

/// By what is known of the datagram of a later fragment.
#[inline(always)]
fn standing<W: Words>(words: W, control: u64, datagram: &mut Datagram) -> Admission {
    if control & phase::MASK == phase::DECIDED {
        datagram.decision = Decision::read(words);
        Admission::Later
    } else {
        Admission::Ahead
    }
}

/// Linux ignores what it has, and so may a first fragment be that says something else.
#[inline(always)]
fn repeated<W: Words>(words: W, control: u64, datagram: &mut Datagram) -> Admission {
    datagram.seen_before = SeenBefore::Yes;
    match standing(words, control, datagram) {
        Admission::Later => Admission::Later,
        _ => Admission::Refused(Reason::FragmentDuplicate),
    }
}

/// Writes down what was decided about the first fragment.
#[cfg_attr(target_arch = "bpf", inline(never))]
#[cfg_attr(not(target_arch = "bpf"), inline)]
pub(super) fn decide<H: Host>(host: &H, datagram: &Datagram, decision: &Decision) {
    let flows = host.flows();
    if !lock(flows, datagram.bucket) {
        // What follows is then without a first fragment.
        return;
    }
    if let Some(words) = flows.fragment(datagram.bucket, datagram.slot) {
        let control = words.load(CONTROL);
        let is_judging = control & phase::MASK == phase::JUDGING;
        if is_judging && is_key(words, &datagram.key) {
            let end = (words.load(DECISION) >> 16) as u32 & 0xffff;
            words.store(DECISION, decision.word(end));
            words.store(RULE, decision.rule_word());
            let phase = if control & phase::ALL_SEEN != 0 {
                add(flows, gauges::FRAGMENTS, u64::MAX);
                phase::COMPLETE
            } else {
                phase::DECIDED
            };
            let _ = words.compare_exchange(CONTROL, control, (control & !0xff) | phase);
        }
    }
    unlock(flows, datagram.bucket);
}

/// Where the datagram ends, zero if the fragment does not say.
const fn end_of(piece: &Piece) -> u32 {
    match piece.rest {
        Rest::None => piece.end,
        Rest::More => 0,
    }
}
