//! From a packet to the record of its flow: lookup, state machine, update.

use crate::conntrack::icmp::{self, Message};
use crate::conntrack::tcp::{self, Advance};
use crate::conntrack::{self, Tracker};
use crate::event::{Event, EventKind};
use crate::host::{FlowMemory, Host, Packet, Words};
use crate::process::Scratch;
use crate::record::{CachedOutcomes, Control, EXPECTED, Record, SEEN_REPLY, Warm};
use crate::settings::{SETTING_ACCOUNTING, SETTING_FLOW_EVENTS, SETTING_TIMESTAMP};
use crate::table::{self, Found, HalfOpen, Hash, Insert, Lookup, NewFlow, Place, gauges};
use crate::time::Tick;
use crate::trace::Step;
use crate::tuple::{Direction, Tuple};
use crate::verdict::{Reason, State};
use crate::wire;

/// What tracking made of a packet. The record is in the scratch memory.
pub(crate) struct Tracked<W> {
    pub(crate) state: State,
    /// Set when the state is INVALID.
    pub(crate) reason: Option<Reason>,
    pub(crate) flow: Flow<W>,
}

/// What a packet has to do with a record.
pub(crate) enum Flow<W> {
    /// Nothing.
    None,
    /// It would make one.
    Begins,
    /// It belongs to one.
    Known(Known<W>),
    /// It ended one: the record is gone.
    Ended(Direction),
    /// It is an error about one, or the record was busy.
    Passing(Direction),
}

/// A record as the packet left it.
#[derive(Clone, Copy)]
pub(crate) struct Known<W> {
    pub(crate) place: Place,
    pub(crate) words: W,
    pub(crate) control: Control,
    pub(crate) cached: u8,
    pub(crate) direction: Direction,
}

impl<W> Tracked<W> {
    const fn without_flow(state: State, reason: Option<Reason>) -> Self {
        Self {
            state,
            reason,
            flow: Flow::None,
        }
    }

    const fn invalid(reason: Reason) -> Self {
        Self::without_flow(State::Invalid, Some(reason))
    }

    pub(crate) const fn direction(&self) -> Option<Direction> {
        match &self.flow {
            Flow::None => None,
            Flow::Begins => Some(Direction::Original),
            Flow::Known(known) => Some(known.direction),
            Flow::Ended(direction) | Flow::Passing(direction) => Some(*direction),
        }
    }
}

/// How a packet is to be tracked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trackable {
    /// By the flow whose name is in the scratch memory.
    Flow,
    /// By the flow that it quotes.
    Error,
    /// Not at all.
    Untracked,
    /// Not at all, since it is INVALID.
    Invalid(Reason),
}

/// Names the packet's flow.
pub(crate) fn name<H: Host>(host: &H, scratch: &mut Scratch, zone: u16) -> Trackable {
    if let Some(reason) = scratch.info.damage {
        return Trackable::Invalid(reason);
    }
    if matches!(
        Tracker::of(scratch.info.protocol, scratch.info.family),
        Tracker::Icmp
    ) {
        match Message::of(scratch.info.family, icmp::kind(&scratch.info)) {
            Message::Untracked => return Trackable::Untracked,
            Message::Error => return Trackable::Error,
            Message::Other => return Trackable::Invalid(Reason::IcmpBadType),
            Message::Request | Message::ReplyTo(_) => {}
        }
    }
    let tuple = conntrack::tuple_of(&scratch.info, zone);
    let Some(oriented) = conntrack::orient(tuple) else {
        return Trackable::Invalid(Reason::IcmpBadType);
    };
    host.trace(Step::Named(tuple, oriented));
    scratch.oriented = oriented;
    scratch.hash = Hash::of(&scratch.oriented.key, host.settings());
    Trackable::Flow
}

/// Finds the packet's flow and advances it; `None` when another CPU came in between.
pub(crate) fn track<P: Packet, H: Host>(
    packet: &P,
    host: &H,
    scratch: &mut Scratch,
    trackable: Trackable,
    zone: u16,
    now: Tick,
) -> Option<Tracked<<H::Flows as FlowMemory>::Words>> {
    match trackable {
        Trackable::Flow => {}
        Trackable::Error => return Some(track_error(packet, host, scratch, zone, now)),
        Trackable::Untracked => return Some(Tracked::without_flow(State::Untracked, None)),
        Trackable::Invalid(reason) => return Some(Tracked::invalid(reason)),
    }
    match table::lookup(host.flows(), &scratch.oriented.key, &scratch.hash, now) {
        Lookup::Found(found) => continue_flow(packet, host, scratch, &found, now),
        Lookup::Missing => {
            host.trace(Step::NotFound);
            Some(begin_flow(packet, host, scratch, now))
        }
        Lookup::Busy(_) => {
            count(host.flows(), gauges::BUSY);
            Some(Tracked {
                state: State::Established,
                reason: None,
                flow: Flow::Passing(Direction::Original),
            })
        }
    }
}

fn begin_flow<P: Packet, H: Host>(
    packet: &P,
    host: &H,
    scratch: &mut Scratch,
    now: Tick,
) -> Tracked<<H::Flows as FlowMemory>::Words> {
    match conntrack::begin(packet, host, &scratch.info, &scratch.oriented, now) {
        Ok((record, warm)) => {
            scratch.record = record;
            scratch.warm = warm;
            Tracked {
                state: State::New,
                reason: None,
                flow: Flow::Begins,
            }
        }
        Err(reason) => Tracked::invalid(reason),
    }
}

fn continue_flow<P: Packet, H: Host>(
    packet: &P,
    host: &H,
    scratch: &mut Scratch,
    found: &Found<<H::Flows as FlowMemory>::Words>,
    now: Tick,
) -> Option<Tracked<<H::Flows as FlowMemory>::Words>> {
    let flows = host.flows();
    scratch.record = found.record;
    let direction = Direction::of(scratch.oriented.side, found.record.originator());
    host.trace(Step::Found(found.record, direction));
    let is_tcp = scratch.info.protocol == wire::transport::TCP;
    let warm_words = if is_tcp && tcp::needs_warm(&found.record, &scratch.info) {
        let place = found.place;
        flows.warm(place.family, place.bucket, place.slot)
    } else {
        None
    };
    scratch.warm = warm_words.map(Warm::read).unwrap_or_default();
    let state = state_of(&found.record, direction);
    let Scratch {
        info, record, warm, ..
    } = scratch;
    let advance = conntrack::advance(packet, host, info, direction, record, warm, now);
    match advance {
        Advance::Reopen => {
            if !table::remove(flows, found.place, found.control) {
                return None;
            }
            emit(host, EventKind::Destroy, scratch, found.control);
            Some(begin_flow(packet, host, scratch, now))
        }
        Advance::PassAndForget => {
            if !table::remove(flows, found.place, found.control) {
                return None;
            }
            emit(host, EventKind::Destroy, scratch, found.control);
            Some(Tracked {
                state,
                reason: None,
                flow: Flow::Ended(direction),
            })
        }
        Advance::Pass => {
            if matches!(direction, Direction::Reply) {
                scratch.record.status |= SEEN_REPLY;
            }
            let known = write_back(host, scratch, found, direction, warm_words)?;
            account(host, found.place, direction, scratch.info.ip_length);
            Some(Tracked {
                state,
                reason: None,
                flow: Flow::Known(known),
            })
        }
        Advance::Refuse(reason) => {
            let known = write_back(host, scratch, found, direction, warm_words)?;
            Some(Tracked {
                state: State::Invalid,
                reason: Some(reason),
                flow: Flow::Known(known),
            })
        }
    }
}

/// State of a packet in a flow whose record it has found.
const fn state_of(record: &Record, direction: Direction) -> State {
    match direction {
        Direction::Reply => State::Established,
        Direction::Original if record.has(SEEN_REPLY) => State::Established,
        Direction::Original if record.has(EXPECTED) => State::Related,
        Direction::Original => State::New,
    }
}

fn write_back<H: Host>(
    host: &H,
    scratch: &Scratch,
    found: &Found<<H::Flows as FlowMemory>::Words>,
    direction: Direction,
    warm_words: Option<<H::Flows as FlowMemory>::Words>,
) -> Option<Known<<H::Flows as FlowMemory>::Words>> {
    let flows = host.flows();
    let warm = warm_words.map(|words| (words, &scratch.warm));
    let protocol = scratch.info.protocol;
    let was = conntrack::half_open(&found.record, protocol);
    let is = conntrack::half_open(&scratch.record, protocol);
    if matches!((was, is), (HalfOpen::Yes, HalfOpen::No)) {
        // Before the update: a record whose update succeeded is then never evicted.
        table::confirm(flows, found.place);
    }
    let control = table::update(flows, found, &scratch.record, warm, found.cached)?;
    if found.record.status != scratch.record.status
        || found.record.tcp_state != scratch.record.tcp_state
    {
        emit(host, EventKind::Update, scratch, control);
    }
    Some(Known {
        place: found.place,
        words: found.words,
        control,
        cached: found.cached,
        direction,
    })
}

/// An ICMP error is RELATED to the flow that it quotes, if that is known and the error goes to
/// the sender of the packet it quotes.
fn track_error<P: Packet, H: Host>(
    packet: &P,
    host: &H,
    scratch: &mut Scratch,
    zone: u16,
    now: Tick,
) -> Tracked<<H::Flows as FlowMemory>::Words> {
    const ICMP_HEADER_BYTES: u32 = 8;
    let at = scratch.info.transport_offset + ICMP_HEADER_BYTES;
    let Some(quoted) = wire::quoted(packet, scratch.info.family, at) else {
        return Tracked::invalid(Reason::IcmpErrorTruncated);
    };
    let tuple = Tuple {
        family: scratch.info.family,
        source: quoted.source,
        destination: quoted.destination,
        source_port: quoted.source_port,
        destination_port: quoted.destination_port,
        protocol: quoted.protocol,
        zone,
    };
    host.trace(Step::Quoted(tuple));
    let Some(oriented) = conntrack::orient(tuple) else {
        return Tracked::invalid(Reason::IcmpErrorNoFlow);
    };
    scratch.oriented = oriented;
    scratch.hash = Hash::of(&scratch.oriented.key, host.settings());
    let record = match table::lookup(host.flows(), &scratch.oriented.key, &scratch.hash, now) {
        Lookup::Found(found) => found.record,
        Lookup::Missing | Lookup::Busy(_) => return Tracked::invalid(Reason::IcmpErrorNoFlow),
    };
    if scratch.info.destination != quoted.source {
        return Tracked::invalid(Reason::IcmpErrorWrongAddress);
    }
    let quoted_direction = Direction::of(scratch.oriented.side, record.originator());
    scratch.record = record;
    host.trace(Step::Found(record, quoted_direction.other()));
    Tracked {
        state: State::Related,
        reason: None,
        flow: Flow::Passing(quoted_direction.other()),
    }
}

/// Puts the record of a new flow into the table. `None` when another CPU was first.
pub(crate) fn insert<H: Host>(
    host: &H,
    scratch: &Scratch,
    now: Tick,
) -> Option<Result<(), Reason>> {
    let flow = NewFlow {
        key: &scratch.oriented.key,
        hash: &scratch.hash,
        record: &scratch.record,
        warm: &scratch.warm,
        half_open: HalfOpen::Yes,
    };
    match table::insert(host.flows(), &flow, host.settings(), now) {
        Insert::Done(place) => {
            host.trace(Step::Inserted);
            note_start(host, place);
            account(host, place, Direction::Original, scratch.info.ip_length);
            let control = scratch.record.control(Control(0));
            emit(host, EventKind::New, scratch, control);
            Some(Ok(()))
        }
        Insert::Exists => None,
        Insert::Full => Some(Err(Reason::TableFull)),
        Insert::Contended => Some(Err(Reason::InsertContended)),
    }
}

/// Remembers the rules' outcome for the established packets of this direction. Losing a race here
/// costs the next packet a walk.
pub(crate) fn remember<H: Host>(
    host: &H,
    scratch: &Scratch,
    known: &Known<<H::Flows as FlowMemory>::Words>,
    outcome: u8,
) {
    let cached = CachedOutcomes(known.cached).with(host.policy().epoch, known.direction, outcome);
    let found = Found {
        place: known.place,
        words: known.words,
        control: known.control,
        record: scratch.record,
        cached: known.cached,
    };
    let _ = table::update(host.flows(), &found, &scratch.record, None, cached.0);
}

/// Words of [`FlowMemory::accounting`].
const ACCOUNTING_START: u32 = 4;

fn account<H: Host>(host: &H, place: Place, direction: Direction, bytes: u32) {
    if !host.settings().has(SETTING_ACCOUNTING) {
        return;
    }
    let Some(words) = host
        .flows()
        .accounting(place.family, place.bucket, place.slot)
    else {
        return;
    };
    let at = direction as u32 * 2;
    words.add(at, 1);
    words.add(at + 1, u64::from(bytes));
}

fn note_start<H: Host>(host: &H, place: Place) {
    if !host.settings().has(SETTING_TIMESTAMP) {
        return;
    }
    if let Some(words) = host
        .flows()
        .accounting(place.family, place.bucket, place.slot)
    {
        words.store(ACCOUNTING_START, host.wall_clock());
    }
}

/// Adds one to a gauge.
pub(crate) fn count<M: FlowMemory>(flows: &M, gauge: u32) {
    if let Some(words) = flows.gauges() {
        words.add(gauge, 1);
    }
}

fn emit<H: Host>(host: &H, kind: EventKind, scratch: &Scratch, control: Control) {
    if !host.settings().has(SETTING_FLOW_EVENTS) {
        return;
    }
    let key = &scratch.oriented.key;
    host.emit(&Event {
        key: key.words,
        control: control.0,
        kind: kind as u8,
        family: key.family as u8,
        side: scratch.oriented.side as u8,
        rule: crate::policy::NO_RULE,
        length: scratch.info.ip_length,
        ..Event::default()
    });
}
