//! From a packet to the record of its flow: lookup, state machine, update.

use crate::account;
use crate::conntrack::icmp::{self, Message};
use crate::conntrack::tcp::{self, Advance, TcpState};
use crate::conntrack::{self, Tracker};
use crate::cookie;
use crate::event::{EventKind, told};
use crate::expect::{self, NOWHERE, Search};
use crate::fragment;
use crate::helper;
use crate::host::{FlowMemory, Host, Packet, Words};
use crate::process::{Arrival, OtherTable, Run, Scratch, Stage};
use crate::quoted;
use crate::record::{
    ASSIGNED, ASSURED, CachedOutcomes, Control, EXPECTED, FlowAssigned, Record, SEEN_REPLY, Warm,
};
use crate::sample::{self, Noted};
use crate::settings::{SETTING_NEWER_TABLE, SETTING_OLDER_TABLE, TimeoutPolicy};
use crate::synproxy;
use crate::table::{self, Found, HalfOpen, Hash, Insert, Lookup, NewFlow, Place, Seen};
use crate::tell::{changed, emit, emit_displaced};
use crate::trace::Step;
use crate::tuple::{Direction, Family, rest};
use crate::unseen;
use crate::verdict::{Reason, State};
use crate::wire;

/// What tracking made of a packet. The record is in the scratch memory.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Tracked {
    pub(crate) state: State,
    /// Set when the state is INVALID.
    pub(crate) reason: Option<Reason>,
    pub(crate) flow: Flow,
}

/// What a packet has to do with a record.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Flow {
    /// Nothing.
    None,
    /// It would make one.
    Begins,
    /// It belongs to one.
    Known(Direction),
    /// It ended one: the record is gone.
    Ended(Direction),
    /// It is an error about one, or the record was busy.
    Passing(Direction),
}

impl Tracked {
    pub(crate) const NOTHING: Self = Self::without_flow(State::None, None);
    /// A packet that has no flow on purpose.
    pub(crate) const UNTRACKED: Self = Self::without_flow(State::Untracked, None);

    const fn without_flow(state: State, reason: Option<Reason>) -> Self {
        Self {
            state,
            reason,
            flow: Flow::None,
        }
    }

    pub(crate) const fn invalid(reason: Reason) -> Self {
        Self::without_flow(State::Invalid, Some(reason))
    }

    pub(crate) const fn direction(&self) -> Option<Direction> {
        match &self.flow {
            Flow::None => None,
            Flow::Begins => Some(Direction::Original),
            Flow::Known(direction) | Flow::Ended(direction) | Flow::Passing(direction) => {
                Some(*direction)
            }
        }
    }
}

/// What a record is looked up for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Purpose {
    /// The packet belongs to its flow.
    Flow,
    /// The packet is an error that quotes one of its packets.
    Error,
    /// The packet is a later fragment of a datagram that belongs to it.
    Fragment,
}

/// What [`look`] found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Sight {
    Found,
    Missing,
    Busy,
}

/// Names the packet's flow, or the one that it quotes.
#[inline(always)]
pub(crate) fn name<P: Packet, H: Host>(run: &Run<'_, P, H>, scratch: &mut Scratch) -> Stage {
    scratch.zone = run.arrival.zone;
    if let Some(reason) = scratch.info.damage {
        if matches!(reason, Reason::FragmentWithoutPorts) {
            return Stage::Fragment;
        }
        return to_rules(scratch, Tracked::invalid(reason));
    }
    scratch.purpose = Purpose::Flow;
    if matches!(
        Tracker::of(scratch.info.protocol, scratch.info.family),
        Tracker::Icmp
    ) {
        match Message::of(scratch.info.family, icmp::kind(&scratch.info)) {
            Message::Untracked => {
                return to_rules(scratch, Tracked::UNTRACKED);
            }
            Message::Error => scratch.purpose = Purpose::Error,
            Message::Other => return to_rules(scratch, Tracked::invalid(Reason::IcmpBadType)),
            Message::Request | Message::ReplyTo(_) => {}
        }
    }
    let named = match scratch.purpose {
        Purpose::Flow | Purpose::Fragment => name_flow(run, scratch),
        Purpose::Error => quoted::name_quoted(run, scratch),
    };
    match named {
        Ok(()) => Stage::Look,
        Err(reason) => to_rules(scratch, Tracked::invalid(reason)),
    }
}

pub(crate) const fn to_rules(scratch: &mut Scratch, tracked: Tracked) -> Stage {
    scratch.tracked = tracked;
    Stage::Judge
}

#[cfg_attr(target_arch = "bpf", inline(never))]
#[cfg_attr(not(target_arch = "bpf"), inline)]
pub(crate) fn name_flow<P: Packet, H: Host>(
    run: &Run<'_, P, H>,
    scratch: &mut Scratch,
) -> Result<(), Reason> {
    let tuple = conntrack::tuple_of(&scratch.info, scratch.zone);
    let Some(oriented) = conntrack::orient(tuple) else {
        return Err(Reason::IcmpBadType);
    };
    run.host.trace(Step::Named(tuple, oriented));
    scratch.oriented = oriented;
    scratch.hash = Hash::of(&scratch.oriented.key, run.host.settings());
    Ok(())
}

/// As [`name`], for a packet that has ports and quotes nothing.
#[inline(always)]
pub(crate) fn name_ordinary<H: Host>(arrival: &Arrival, host: &H, scratch: &mut Scratch) {
    let Scratch {
        purpose,
        info,
        oriented,
        hash,
        ..
    } = scratch;
    *purpose = Purpose::Flow;
    match info.family {
        Family::V4 => oriented.name_v4(
            (info.source[0], info.source_port),
            (info.destination[0], info.destination_port),
            rest(arrival.zone, info.protocol),
        ),
        Family::V6 => *oriented = conntrack::tuple_of(info, arrival.zone).orient(),
    }
    *hash = Hash::of(&oriented.key, host.settings());
}

/// Looks into the other of two tables, whose size is another.
#[inline(always)]
pub(crate) fn look_elsewhere<H: Host>(host: &H, scratch: &mut Scratch) -> Stage {
    scratch.other_table = OtherTable::Seen;
    scratch.guesses = None;
    scratch.hash = Hash::of(&scratch.oriented.key, host.settings());
    look(host, scratch)
}

/// Finds the record of the flow.
#[inline(always)]
pub(crate) fn look<H: Host>(host: &H, scratch: &mut Scratch) -> Stage {
    let is_seen = scratch.other_table == OtherTable::Seen;
    if !is_seen && host.settings().has(SETTING_OLDER_TABLE) {
        // What is in the older table counts: see `table::transfer`.
        return Stage::Elsewhere;
    }
    scratch.sight = find(host, scratch);
    let is_older = host.settings().has(SETTING_NEWER_TABLE);
    match (scratch.purpose, scratch.sight) {
        (Purpose::Error | Purpose::Fragment, Sight::Missing) if is_older => Stage::Elsewhere,
        (Purpose::Error, _) => {
            let tracked = quoted::judge_error(host, scratch);
            to_rules(scratch, tracked)
        }
        (Purpose::Fragment, sight) => {
            fragment::join(host, scratch, sight);
            Stage::Conclude
        }
        (Purpose::Flow, Sight::Busy) => {
            unseen::note(host, scratch.hash.id, scratch.now);
            let tracked = Tracked {
                state: State::Established,
                reason: None,
                flow: Flow::Passing(Direction::Original),
            };
            to_rules(scratch, tracked)
        }
        (Purpose::Flow, Sight::Missing) => {
            if scratch.info.protocol == wire::transport::SCTP {
                if is_older {
                    return Stage::Elsewhere;
                }
                host.trace(Step::NotFound);
                expect::nothing_expected(scratch);
                return Stage::Associate;
            }
            if !is_older {
                host.trace(Step::NotFound);
                if cookie::may_prove(host, scratch) {
                    return Stage::Prove;
                }
            }
            expect::before_beginning(host, scratch)
        }
        (Purpose::Flow, Sight::Found) => advancing(host, scratch),
    }
}

#[inline(always)]
fn advancing<H: Host>(host: &H, scratch: &mut Scratch) -> Stage {
    if scratch.info.protocol == wire::transport::SCTP {
        Stage::Associate
    } else {
        synproxy::before_advancing(host, scratch)
    }
}

/// Looks the flow up, and puts what it finds into the scratch memory.
#[inline(always)]
fn find<H: Host>(host: &H, scratch: &mut Scratch) -> Sight {
    let now = scratch.now;
    let Scratch {
        oriented,
        hash,
        record,
        ..
    } = scratch;
    let flows = host.flows();
    let mut result = match scratch.guesses {
        // In the kernel there is one packet at a time, and the verifier need not look here.
        Some([place, _]) if !cfg!(target_arch = "bpf") => {
            table::lookup_at(flows, &oriented.key, place, now, record)
        }
        _ => Lookup::Missing,
    };
    if matches!(result, Lookup::Missing) {
        result = table::lookup(flows, &oriented.key, hash, now, record);
    }
    match result {
        Lookup::Found(found) => {
            scratch.seen = Seen {
                place: found.place,
                control: found.control,
                digest: found.digest,
                cached: found.cached,
            };
            Sight::Found
        }
        Lookup::Missing => Sight::Missing,
        Lookup::Busy(_) => Sight::Busy,
    }
}

/// Advances the record by the packet, or begins one.
#[inline(always)]
pub(crate) fn advance<P: Packet, H: Host>(run: &Run<'_, P, H>, scratch: &mut Scratch) -> Stage {
    if !matches!(scratch.sight, Sight::Found) {
        let tracked = begin_flow(run, scratch);
        return to_rules(scratch, tracked);
    }
    let direction = direction_of(scratch);
    run.host.trace(Step::Found(scratch.record, direction));
    scratch.uses_warm = read_warm(run.host, scratch);
    scratch.given = helper::given(run.host, scratch.seen.place, &scratch.record);
    scratch.record.timeouts = TimeoutPolicy(scratch.given.timeout());
    unseen::forgets_windows(scratch);
    scratch.tracked = Tracked {
        state: state_of(&scratch.record, direction),
        reason: None,
        flow: Flow::Known(direction),
    };
    let Scratch {
        info, record, warm, ..
    } = scratch;
    scratch.advance = conntrack::advance(run, info, direction, record, warm);
    if unseen::may_explain(run.host, scratch) {
        return Stage::Look;
    }
    Stage::Write
}

pub(crate) fn direction_of(scratch: &Scratch) -> Direction {
    Direction::of(scratch.oriented.side, scratch.record.originator())
}

#[inline(always)]
fn begin_flow<P: Packet, H: Host>(run: &Run<'_, P, H>, scratch: &mut Scratch) -> Tracked {
    let Scratch {
        oriented,
        info,
        record,
        warm,
        ..
    } = scratch;
    let is_proven = matches!(scratch.cookie, cookie::Part::Proven);
    if !is_proven {
        record.timeouts = TimeoutPolicy(scratch.assigned.timeout());
        if let Err(reason) = conntrack::begin(run, info, oriented, record, warm) {
            return Tracked::invalid(reason);
        }
    }
    let mut assigned = scratch.assigned;
    if scratch.search.found != NOWHERE && scratch.search.helper != 0 {
        assigned = assigned.with_helper(scratch.search.helper);
    }
    if assigned.is_for_record() {
        record.status |= ASSIGNED;
        warm.assigned = FlowAssigned::new(assigned, run.now);
    }
    let state = if is_proven {
        State::Established
    } else if scratch.search.found == NOWHERE {
        State::New
    } else {
        record.status |= EXPECTED;
        warm.mark = scratch.search.mark;
        State::Related
    };
    scratch.given = warm.assigned;
    Tracked {
        state,
        reason: None,
        flow: Flow::Begins,
    }
}

pub(crate) const fn tracked_new(begun: Result<(), Reason>) -> Tracked {
    match begun {
        Ok(()) => Tracked {
            state: State::New,
            reason: None,
            flow: Flow::Begins,
        },
        Err(reason) => Tracked::invalid(reason),
    }
}

/// Writes the record back as the packet leaves it, or takes it out; `None` when another CPU came
/// in between.
#[inline(always)]
pub(crate) fn write<H: Host>(host: &H, scratch: &mut Scratch) -> Option<Stage> {
    let direction = direction_of(scratch);
    match scratch.advance {
        Advance::Reopen => {
            if matches!(scratch.record.tcp_state, TcpState::TimeWait) {
                scratch.cookie = cookie::Part::Unwanted;
            }
            return forget_ended(host, scratch);
        }
        Advance::PassAndForget => {
            // First: afterwards its counters may be another's.
            account::count_packet(host, scratch.seen.place, direction, scratch.info.ip_length);
            take_out(host, scratch)?;
            if matches!(direction, Direction::Reply) {
                scratch.record.status |= SEEN_REPLY;
            }
            scratch.tracked.flow = Flow::Ended(direction);
        }
        Advance::Pass | Advance::PassUncounted => {
            if matches!(direction, Direction::Reply) {
                scratch.record.status |= SEEN_REPLY;
            }
            write_back(host, scratch)?;
            if matches!(scratch.advance, Advance::Pass) {
                account::count_packet(host, scratch.seen.place, direction, scratch.info.ip_length);
            }
        }
        Advance::Refuse(reason) => {
            write_back(host, scratch)?;
            scratch.tracked.state = State::Invalid;
            scratch.tracked.reason = Some(reason);
        }
    }
    Some(Stage::Judge)
}

/// Takes the record of a connection that has ended out, for a packet that begins another.
pub(crate) fn forget_ended<H: Host>(host: &H, scratch: &mut Scratch) -> Option<Stage> {
    take_out(host, scratch)?;
    scratch.sight = Sight::Missing;
    Some(expect::before_beginning(host, scratch))
}

fn take_out<H: Host>(host: &H, scratch: &Scratch) -> Option<()> {
    let seen = &scratch.seen;
    if !table::remove(host.flows(), seen.place, seen.control) {
        return None;
    }
    // As the packet that ended it left it: a connection that was refused is closed.
    let control = scratch.record.control(seen.control);
    emit(host, EventKind::Destroy, scratch, control, told::DESTROY);
    Some(())
}

/// Whether a packet reads and writes the warm words of its record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum WarmUse {
    No,
    Yes,
}

#[inline(always)]
fn read_warm<H: Host>(host: &H, scratch: &mut Scratch) -> WarmUse {
    scratch.warm = Warm::default();
    let is_tcp = scratch.info.protocol == wire::transport::TCP;
    if !is_tcp || !tcp::needs_warm(&scratch.record, &scratch.info) {
        return WarmUse::No;
    }
    match warm_words(host, scratch.seen.place) {
        Some(words) => {
            scratch.warm = Warm::read(words);
            WarmUse::Yes
        }
        None => WarmUse::No,
    }
}

fn warm_words<H: Host>(host: &H, place: Place) -> Option<<H::Flows as FlowMemory>::Words> {
    host.flows().warm(place.family, place.bucket, place.slot)
}

/// State of a packet in a flow whose record it has found.
pub(crate) const fn state_of(record: &Record, direction: Direction) -> State {
    match direction {
        Direction::Reply => State::Established,
        Direction::Original if record.has(SEEN_REPLY) => State::Established,
        Direction::Original if record.has(EXPECTED) => State::Related,
        Direction::Original => State::New,
    }
}

/// Writes the record as the packet leaves it; `None` when another CPU was first.
#[cfg_attr(target_arch = "bpf", inline(never))]
#[cfg_attr(not(target_arch = "bpf"), inline)]
pub(crate) fn write_back<H: Host>(host: &H, scratch: &mut Scratch) -> Option<()> {
    let flows = host.flows();
    let seen = &scratch.seen;
    let protocol = scratch.info.protocol;
    let (old_status, old_state) = (seen.control.status(), seen.control.tcp_state());
    let was = conntrack::half_open(old_status, protocol);
    let is = conntrack::half_open(scratch.record.status, protocol);
    if matches!((was, is), (HalfOpen::Yes, HalfOpen::No)) {
        // Before the update: a record whose update succeeded is then never evicted.
        table::confirm(flows, seen.place);
    }
    let warm = match scratch.uses_warm {
        WarmUse::Yes => Some(&scratch.warm),
        WarmUse::No => None,
    };
    let found = found(host, seen)?;
    let control = table::update(flows, &found, &scratch.record, warm, seen.cached)?;
    scratch.seen.control = control;
    scratch.seen.digest = scratch.record.words().digest();
    if old_status != scratch.record.status || old_state != scratch.record.tcp_state {
        let events = changed(
            old_status ^ scratch.record.status,
            old_state != scratch.record.tcp_state,
        );
        emit(host, EventKind::Update, scratch, control, events);
        note_progress(host, scratch, old_status);
    }
    Some(())
}

/// Where the other end has answered, or shown that it meant to.
#[inline(always)]
fn note_progress<H: Host>(host: &H, scratch: &Scratch, old: u8) {
    let gained = scratch.record.status & !old;
    if gained & ASSURED != 0 {
        sample::note(host, scratch, Noted::Completed);
    } else if gained & SEEN_REPLY != 0 {
        sample::note(host, scratch, Noted::Replied);
    }
}

/// What was found, for the table.
fn found<H: Host>(host: &H, seen: &Seen) -> Option<Found<<H::Flows as FlowMemory>::Words>> {
    let place = seen.place;
    Some(Found {
        place,
        words: host.flows().slot(place.family, place.bucket, place.slot)?,
        control: seen.control,
        digest: seen.digest,
        cached: seen.cached,
    })
}

/// Puts the record of a new flow into the table. `None` when another CPU was first.
#[inline(always)]
pub(crate) fn insert<H: Host>(host: &H, scratch: &mut Scratch) -> Option<Result<(), Reason>> {
    if host.settings().has(SETTING_NEWER_TABLE) {
        // There was none yet when it was looked for.
        return None;
    }
    let now = scratch.now;
    let Search { found, control, .. } = scratch.search;
    if found != NOWHERE && !expect::take(host, found, control) {
        return None;
    }
    let Scratch {
        oriented,
        hash,
        record,
        warm,
        displaced,
        info,
        ..
    } = scratch;
    let flow = NewFlow {
        key: &oriented.key,
        hash,
        record,
        warm,
        half_open: conntrack::half_open(record.status, info.protocol),
        opening: account::opening(host, info.ip_length),
    };
    let inserted = table::insert(host.flows(), &flow, host.settings(), now, displaced);
    emit_displaced(host, scratch);
    match inserted {
        Insert::Done(place) => {
            host.trace(Step::Inserted);
            scratch.seen.place = place;
            let control = scratch.record.control(Control(0));
            let events = if scratch.record.has(EXPECTED) {
                told::RELATED
            } else {
                told::NEW
            };
            emit(host, EventKind::New, scratch, control, events);
            Some(Ok(()))
        }
        Insert::Exists => None,
        Insert::Full => Some(Err(Reason::TableFull)),
        Insert::Contended => Some(Err(Reason::InsertContended)),
    }
}

/// Remembers the rules' outcome for the established packets of this direction. Losing a race here
/// costs the next packet a walk.
#[cfg_attr(target_arch = "bpf", inline(never))]
#[cfg_attr(not(target_arch = "bpf"), inline)]
pub(crate) fn remember<H: Host>(host: &H, scratch: &Scratch, direction: Direction, outcome: u8) {
    let seen = &scratch.seen;
    let cached = CachedOutcomes(seen.cached).with(host.policy().epoch, direction, outcome);
    let Some(found) = found(host, seen) else {
        return;
    };
    let _ = table::update(host.flows(), &found, &scratch.record, None, cached.0);
}

/// Adds one to a gauge.
pub(crate) fn count<M: FlowMemory>(flows: &M, gauge: u32) {
    if let Some(words) = flows.gauges() {
        words.add(gauge, 1);
    }
}
