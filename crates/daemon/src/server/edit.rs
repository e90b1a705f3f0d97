//! Records that are made and changed by hand.
//!
//! Nothing here takes the lock bit of a record: the daemon may be killed at any instruction. All
//! that is changed lies in the control word, but for the mark; see [`Draft::publish`].

use std::io;
use std::ops::ControlFlow;
use std::sync::atomic::Ordering;

use keepstate_api::{
    Event, EventKind, Filter, Flow, FlowChange, FlowStatus, MarkChange, NewFlow, Program, Reply,
    Unable, frame, labels_of,
};
use keepstate_engine::conntrack::sctp::{self, SctpState};
use keepstate_engine::conntrack::tcp::TcpState;
use keepstate_engine::conntrack::{Tracker, gre, half_open};
use keepstate_engine::event::{Event as EngineEvent, EventKind as EngineKind, told};
use keepstate_engine::host::{FlowMemory, Words};
use keepstate_engine::labels;
use keepstate_engine::record::{
    ASSIGNED, ASSURED, CONTROL_WORD, Control, EXPECTED, FIXED_TIMEOUT, ORIGINATOR_IS_SECOND,
    Record, SEEN_REPLY, Warm,
};
use keepstate_engine::settings::{
    SETTING_ACCOUNTING, SETTING_ACCOUNTING_ENDS, SETTING_FLOW_EVENTS, SETTING_TIMESTAMP, Settings,
};
use keepstate_engine::table::{
    self, Displaced, Entry, HalfOpen, Hash, Insert, NOT_COUNTED, Opening, Place,
};
use keepstate_engine::time::Tick;
use keepstate_engine::tuple::{Direction, FlowKey, Oriented, Side, is_icmp};

use super::connection::Output;
use super::tables::Table;
use super::{Shared, events, flows, unix_nanoseconds};

/// Makes a record.
pub(super) fn insert(shared: &Shared, flow: &NewFlow, output: &Output) -> Reply {
    let by = flows::caller(shared, output);
    match try_insert(shared, by.as_ref(), flow) {
        Ok(()) => {
            shared.tally.inserted.fetch_add(1, Ordering::Relaxed);
            Reply::Done
        }
        Err(why) => Reply::Unable { why },
    }
}

/// What the counters of a record made by hand begin with.
fn opening(settings: &Settings) -> Opening {
    let is_counted =
        settings.flags & (SETTING_ACCOUNTING | SETTING_ACCOUNTING_ENDS) == SETTING_ACCOUNTING;
    Opening {
        packets: if is_counted { 0 } else { NOT_COUNTED },
        bytes: 0,
        start: if settings.has(SETTING_TIMESTAMP) {
            unix_nanoseconds()
        } else {
            0
        },
    }
}

fn try_insert(shared: &Shared, by: Option<&Program>, flow: &NewFlow) -> Result<(), Unable> {
    let oriented = flows::name(&flow.first).ok_or(Unable::Invalid)?;
    check_name(flow, &oriented)?;
    let plane = &*shared.plane;
    let (now, table) = (plane.now(), plane.table());
    let settings = table.settings(&plane.settings());
    if plane.tables().len() > 1 && flows::locate(shared, &oriented.key, now).is_some() {
        // In the older one.
        return Err(Unable::Exists);
    }
    let record = first_record(flow, &oriented, &settings, now)?;
    let warm = Warm {
        mark: flow.mark,
        ..Warm::default()
    };
    let new = table::NewFlow {
        key: &oriented.key,
        hash: &Hash::of(&oriented.key, &settings),
        record: &record,
        warm: &warm,
        half_open: half_open(record.status, flow.first.protocol),
        opening: opening(&settings),
    };
    match insert_record(shared, &table, &settings, &new, now) {
        Insert::Done(place) => put_labels(shared, &flow.labels, &oriented.key, place, now)?,
        Insert::Exists => return Err(Unable::Exists),
        Insert::Full => return Err(Unable::Full),
        Insert::Contended => return Err(Unable::Busy),
    }
    if let Some((_, entry)) = flows::locate(shared, &oriented.key, now) {
        events::publish_record(shared, EventKind::New, &entry, now, by, told::NEW);
    }
    Ok(())
}

/// Makes a record that no packet makes. Those that went for it are told of, and expiry looks at it.
pub(super) fn insert_record(
    shared: &Shared,
    table: &Table,
    settings: &Settings,
    new: &table::NewFlow<'_>,
    now: Tick,
) -> Insert {
    let mut displaced = Displaced::NOTHING;
    let inserted = table::insert(&table.flows(), new, settings, now, &mut displaced);
    shared.expiry.was_edited.store(true, Ordering::Relaxed);
    tell_displaced(shared, settings, &displaced, new.key);
    inserted
}

/// Gives a flow that was just made its labels, or takes it out again.
pub(super) fn put_labels(
    shared: &Shared,
    numbers: &[u16],
    key: &FlowKey,
    place: Place,
    now: Tick,
) -> Result<(), Unable> {
    let set = labels_of(numbers);
    if set == [0; 2] {
        return Ok(());
    }
    let flows = shared.plane.table();
    let flows = flows.flows();
    let found = (Hash::of(key, &shared.plane.settings()).id, place);
    let keeps_all = shared.plane.tables().len() > 1;
    // What an earlier flow of this name may have left is cleared.
    let clear = set.map(|word| !word);
    if labels::edit(&flows, found, set, clear, keeps_all, now) != labels::Changed::Refused {
        return Ok(());
    }
    let words = flows.slot(place.family, place.bucket, place.slot);
    let control = words.map_or(0, |words| words.load(CONTROL_WORD));
    table::remove(&flows, place, Control(control));
    Err(Unable::Full)
}

/// Whether packets could ever belong to the flow.
fn check_name(flow: &NewFlow, oriented: &Oriented) -> Result<(), Unable> {
    let first = &flow.first;
    let has_ports = (first.source_port, first.destination_port) != (0, 0);
    let has_state = match Tracker::of(first.protocol, oriented.key.family) {
        Tracker::Tcp | Tracker::Sctp => true,
        Tracker::Udp | Tracker::UdpLite | Tracker::Gre => false,
        // A reply begins nothing.
        Tracker::Icmp if oriented.side == Side::Second => return Err(Unable::Invalid),
        Tracker::Icmp => false,
        Tracker::Generic if is_icmp(first.protocol) => return Err(Unable::Invalid),
        Tracker::Generic if has_ports => return Err(Unable::Unsupported),
        Tracker::Generic => false,
    };
    if flow.state.is_some() && !has_state {
        return Err(Unable::Unsupported);
    }
    Ok(())
}

fn first_record(
    flow: &NewFlow,
    oriented: &Oriented,
    settings: &Settings,
    now: Tick,
) -> Result<Record, Unable> {
    let record = Record {
        deadline: now.after_seconds(flow.seconds),
        status: status_bits(&flow.status, 0)?,
        ..Record::EMPTY
    };
    let mut record = self::oriented(record, oriented);
    let tracker = Tracker::of(flow.first.protocol, oriented.key.family);
    if let Some(state) = &flow.state {
        set_state(&mut record, tracker, state)?;
    }
    match tracker {
        // An answered flow is a stream from its next packet on, as in the kernel.
        Tracker::Udp => record.windows[0].end = now.0,
        Tracker::Sctp => {
            let [original, reply] = flow.tags;
            sctp::set_tag(&mut record, Direction::Original, original);
            sctp::set_tag(&mut record, Direction::Reply, reply);
        }
        Tracker::Gre => gre::note_timeouts(settings, &mut record),
        _ => {}
    }
    Ok(record)
}

/// The record of a flow whose first packet has this name.
pub(super) fn oriented(mut record: Record, oriented: &Oriented) -> Record {
    if oriented.side == Side::Second || oriented.key.is_reflexive() {
        record.status |= ORIGINATOR_IS_SECOND;
    }
    record
}

/// The bits of a status; an error for those that nobody sets by hand.
fn status_bits(status: &[FlowStatus], present: u8) -> Result<u8, Unable> {
    status.iter().try_fold(0, |bits, status| match status {
        FlowStatus::SeenReply => Ok(bits | SEEN_REPLY),
        FlowStatus::Assured => Ok(bits | ASSURED),
        FlowStatus::FixedTimeout => Ok(bits | FIXED_TIMEOUT),
        FlowStatus::Expected if present & EXPECTED != 0 => Ok(bits),
        FlowStatus::Expected => Err(Unable::Busy),
        FlowStatus::Offload => Err(Unable::Unsupported),
    })
}

/// Notes the state of this name, of protocols that have any.
fn set_state(record: &mut Record, tracker: Tracker, name: &str) -> Result<(), Unable> {
    match tracker {
        Tracker::Tcp => {
            let mut states = TcpState::ALL.into_iter();
            let found = states.find(|state| state.name() == name);
            record.tcp_state = found.ok_or(Unable::Invalid)?;
        }
        Tracker::Sctp => SctpState::named(name).ok_or(Unable::Invalid)?.store(record),
        _ => return Err(Unable::Unsupported),
    }
    Ok(())
}

/// Changes records, and tells those that it changed.
pub(super) fn change(
    shared: &Shared,
    filter: &Filter,
    change: &FlowChange,
    output: &mut Output,
) -> io::Result<()> {
    let mut shown = 0;
    let by = flows::caller(shared, output);
    let walked = flows::for_each(shared, filter, |table, entry, now, _| {
        match change_one(shared, by.as_ref(), filter, change, (table, entry), now) {
            Ok(None) => Ok(()),
            Ok(Some(flow)) => {
                shown += 1;
                frame::write(output, &Reply::Flow(Box::new(flow))).map_err(ControlFlow::Break)
            }
            Err(why) => Err(ControlFlow::Continue(why)),
        }
    });
    let last = match walked {
        Ok(()) => Reply::FlowsEnd { shown },
        Err(ControlFlow::Continue(why)) => Reply::Unable { why },
        Err(ControlFlow::Break(error)) => return Err(error),
    };
    frame::write(output, &last)
}

/// Changes one record; the flow as it then is, or `None` when there was nothing to change.
fn change_one(
    shared: &Shared,
    by: Option<&Program>,
    filter: &Filter,
    change: &FlowChange,
    (table, entry): (&Table, &Entry),
    now: Tick,
) -> Result<Option<Flow>, Unable> {
    let (mut table, mut entry) = (table.clone(), *entry);
    let mut tried_mark = None;
    for _ in 0..flows::EDIT_TRIES_MAX {
        let mut draft = Draft::new(change, &entry, now)?;
        if tried_mark == Some(entry.warm.mark) {
            // From an earlier try: flipping its bits again would take them back.
            draft.mark = entry.warm.mark;
        } else if !draft.differs(&entry, now) {
            let is_changed = change_labels(shared, by, change, &entry, now)?;
            return Ok(is_changed.then(|| flows::describe(shared, &entry, now)));
        }
        tried_mark = Some(draft.mark);
        if let Some(changed) = draft.publish(&table.flows(), &entry) {
            shared.expiry.was_edited.store(true, Ordering::Relaxed);
            let events = draft.events(&entry);
            events::publish_record(shared, EventKind::Update, &changed, now, by, events);
            change_labels(shared, by, change, &changed, now)?;
            return Ok(Some(flows::describe(shared, &changed, now)));
        }
        match flows::again(shared, filter, (&table, &entry), now) {
            Some(current) => (table, entry) = current,
            None => return Ok(None),
        }
    }
    Err(Unable::Busy)
}

/// Changes a record that nobody is told of, unless a packet changes it at the same moment.
pub(super) fn change_quietly(table: &Table, entry: &Entry, change: &FlowChange, now: Tick) {
    if let Ok(draft) = Draft::new(change, entry, now) {
        draft.publish(&table.flows(), entry);
    }
}

/// Changes a record's labels; whether any of them was another.
fn change_labels(
    shared: &Shared,
    by: Option<&Program>,
    change: &FlowChange,
    entry: &Entry,
    now: Tick,
) -> Result<bool, Unable> {
    let [set, clear] = change.labels.each_ref().map(|labels| labels_of(labels));
    if set == [0; 2] && (clear == [0; 2] || !entry.record.has(ASSIGNED)) {
        return Ok(false);
    }
    let plane = &*shared.plane;
    let (tables, settings) = (plane.tables(), plane.settings());
    // The record may have moved, which is said by where it is found.
    let (table, entry) = flows::locate(shared, &entry.key, now).ok_or(Unable::Missing)?;
    let found = (Hash::of(&entry.key, &settings).id, entry.place);
    match labels::edit(&table.flows(), found, set, clear, tables.len() > 1, now) {
        labels::Changed::No => return Ok(false),
        labels::Changed::Refused => return Err(Unable::Full),
        labels::Changed::Yes => {}
    }
    let tells = !entry.record.has(ASSIGNED) || entry.warm.assigned.tells(told::OTHER);
    if tells && settings.has(SETTING_FLOW_EVENTS) {
        let (_, entry) = flows::locate(shared, &entry.key, now).ok_or(Unable::Missing)?;
        let flow = flows::describe(shared, &entry, now);
        let event = events::of_record(shared, EventKind::Update, &entry, now, by);
        shared.hub.publish(Event { flow, ..event });
    }
    Ok(true)
}

/// A record as it shall be.
struct Draft {
    record: Record,
    mark: u32,
}

impl Draft {
    fn new(change: &FlowChange, entry: &Entry, now: Tick) -> Result<Self, Unable> {
        let mut record = entry.record;
        record.status |= status_bits(&change.status, record.status)?;
        if let Some(seconds) = change.seconds {
            record.deadline = now.after_seconds(seconds);
        }
        if let Some(state) = &change.state {
            let tracker = Tracker::of(entry.key.protocol(), entry.key.family);
            set_state(&mut record, tracker, state)?;
        }
        let directions = [Direction::Original, Direction::Reply];
        for (direction, tag) in directions.into_iter().zip(change.tags) {
            // They lie apart from the control word, and only packets write there.
            if tag.is_some_and(|tag| tag != sctp::tag(&record, direction)) {
                return Err(Unable::Unsupported);
            }
        }
        let mark = match change.mark {
            Some(MarkChange { clear, flip }) => (entry.warm.mark & !clear) ^ flip,
            None => entry.warm.mark,
        };
        Ok(Self { record, mark })
    }

    fn differs(&self, entry: &Entry, now: Tick) -> bool {
        let old = &entry.record;
        self.mark != entry.warm.mark
            || self.record.status != old.status
            || self.record.tcp_state != old.tcp_state
            || self.record.deadline.seconds_left(now) != old.deadline.seconds_left(now)
    }

    /// Which events the change is.
    fn events(&self, entry: &Entry) -> u8 {
        let old = &entry.record;
        let changed = self.record.status ^ old.status;
        let of = |is_so: bool, event| if is_so { event } else { told::OTHER };
        of(self.mark != entry.warm.mark, told::MARK)
            | of(changed & SEEN_REPLY != 0, told::REPLY)
            | of(changed & ASSURED != 0, told::ASSURED)
            | of(self.record.tcp_state != old.tcp_state, told::PROTOCOL)
    }

    /// Writes it, and returns the record as it is then; `None` when a packet was first.
    ///
    /// The mark goes first, by a compare-and-swap of its own word, then the control word with its
    /// next version. When the second succeeds, no packet has written the record since it was read,
    /// and one that has read the old mark fails at its own swap and reads again. When it fails, the
    /// mark is taken back, since the slot may hold another record by now; a packet that has read
    /// it meanwhile may write it once more, so the next try may find it there. A daemon killed in
    /// between leaves a record with the new mark.
    fn publish<M: FlowMemory>(&self, memory: &M, entry: &Entry) -> Option<Entry> {
        let place = entry.place;
        let words = memory.slot(place.family, place.bucket, place.slot)?;
        let warm = memory.warm(place.family, place.bucket, place.slot)?;
        let swapped = if self.mark == entry.warm.mark {
            None
        } else {
            Some(swap_mark(warm, entry.warm.mark, self.mark)?)
        };
        let protocol = entry.key.protocol();
        let becomes = half_open(self.record.status, protocol);
        if half_open(entry.record.status, protocol) != becomes && becomes == HalfOpen::No {
            // Before the swap: a record whose swap succeeded is then never given up.
            table::confirm(memory, place);
        }
        let control = self.record.control(entry.control);
        let found = words.compare_exchange(CONTROL_WORD, entry.control.0, control.0);
        if found != entry.control.0 {
            if let Some([old, new]) = swapped {
                warm.compare_exchange(MARK_WORD, new, old);
            }
            return None;
        }
        Some(Entry {
            control,
            record: self.record,
            warm: Warm {
                mark: self.mark,
                ..entry.warm
            },
            ..*entry
        })
    }
}

/// Warm word that holds the mark, and where in it.
const MARK_WORD: u32 = 0;
const MARK_SHIFT: u32 = 32;

/// Swaps a mark for another; the word before and after, or `None` when it was not there.
fn swap_mark<W: Words>(warm: W, from: u32, to: u32) -> Option<[u64; 2]> {
    let old = warm.load(MARK_WORD);
    let new = (u64::from(to) << MARK_SHIFT) | (old & u64::from(u32::MAX));
    let is_there = (old >> MARK_SHIFT) as u32 == from;
    (is_there && warm.compare_exchange(MARK_WORD, old, new) == old).then_some([old, new])
}

/// Tells of the records that went for a new one.
fn tell_displaced(shared: &Shared, settings: &Settings, displaced: &Displaced, own: &FlowKey) {
    if !settings.has(SETTING_FLOW_EVENTS) {
        return;
    }
    let ended = [
        (&displaced.key, displaced.control),
        (own, displaced.predecessor),
    ];
    for (key, control) in ended {
        if control.0 == 0 {
            continue;
        }
        let event = EngineEvent {
            key: key.words,
            control: control.0,
            kind: EngineKind::Destroy as u8,
            family: key.family as u8,
            ..EngineEvent::default()
        };
        if let Some(event) = events::told(shared, &event) {
            shared.hub.publish(event);
        }
    }
}

#[cfg(test)]
#[path = "edit_tests.rs"]
mod tests;
