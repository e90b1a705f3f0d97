//! Events on their way from the programs to whoever listens.

use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use keepstate_api::{
    Event, EventKind, EventKinds, EventStatus, Expectation, Flow, PacketEvent, Program, WindowEvent,
};
use keepstate_engine::event::{Event as EngineEvent, EventKind as EngineKind};
use keepstate_engine::host::Words;
use keepstate_engine::labels;
use keepstate_engine::policy::NO_RULE;
use keepstate_engine::record::{ASSIGNED, Control, Record, Warm};
use keepstate_engine::settings::{SETTING_DROP_EVENTS, SETTING_FLOW_EVENTS};
use keepstate_engine::table::{Entry, Hash};
use keepstate_engine::time::Tick;
use keepstate_engine::tuple::{Family, FlowKey, Side, Tuple, is_icmp};
use keepstate_engine::verdict::{Hook, Reason};
use keepstate_engine::{expect, helper};
use keepstate_listing as listing;

use super::log::InvalidLog;
use super::rules::{RuleName, Rules};
use super::{Shared, flows, unix_nanoseconds};

/// Events that wait for a client; one that does not read loses those beyond.
const QUEUE_EVENTS: usize = 16_384;

/// Who listens.
#[derive(Default)]
pub(crate) struct Hub {
    listeners: Mutex<Vec<Listener>>,
    lost: AtomicU64,
}

struct Listener {
    number: u64,
    kinds: EventKinds,
    queue: SyncSender<Arc<Event>>,
    lost: Arc<AtomicU64>,
}

/// A client's end. Dropping it does not unsubscribe: see [`Hub::unsubscribe`].
pub(crate) struct Subscription {
    pub(crate) number: u64,
    pub(crate) events: Receiver<Arc<Event>>,
    /// Events lost since this was last set to zero.
    pub(crate) lost: Arc<AtomicU64>,
}

impl Hub {
    pub(crate) fn subscribe(&self, kinds: EventKinds) -> Subscription {
        let (queue, events) = sync_channel(QUEUE_EVENTS);
        let lost = Arc::new(AtomicU64::new(0));
        let mut listeners = self.lock();
        let number = listeners.last().map_or(0, |last| last.number + 1);
        listeners.push(Listener {
            number,
            kinds,
            queue,
            lost: Arc::clone(&lost),
        });
        Subscription {
            number,
            events,
            lost,
        }
    }

    pub(crate) fn unsubscribe(&self, number: u64) {
        self.lock().retain(|listener| listener.number != number);
    }

    /// What the programs must tell so that everybody gets what they asked for: `SETTING_*` bits.
    pub(crate) fn wanted(&self) -> u32 {
        let flags = |kinds| match kinds {
            EventKinds::All => SETTING_FLOW_EVENTS | SETTING_DROP_EVENTS,
            EventKinds::Flows | EventKinds::Expectations => SETTING_FLOW_EVENTS,
            EventKinds::Drops => SETTING_DROP_EVENTS,
        };
        let listeners = self.lock();
        listeners
            .iter()
            .fold(0, |bits, listener| bits | flags(listener.kinds))
    }

    pub(crate) fn publish(&self, event: Event) {
        let event = Arc::new(event);
        for listener in self.lock().iter() {
            if !listener.kinds.includes(event.kind) {
                continue;
            }
            // A listener that is gone is removed by its connection.
            if let Err(TrySendError::Full(_)) = listener.queue.try_send(Arc::clone(&event)) {
                listener.lost.fetch_add(1, Ordering::Relaxed);
                self.lost.fetch_add(1, Ordering::Relaxed);
            }
        }
    }

    pub(crate) fn status(&self, lost_in_kernel: u64, log: &InvalidLog) -> EventStatus {
        let (logged, not_logged) = log.counts();
        EventStatus {
            logged,
            not_logged,
            listeners: self.lock().len() as u32,
            lost_in_kernel,
            lost_by_listeners: self.lost.load(Ordering::Relaxed),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Listener>> {
        self.listeners
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

/// Tells what happened to a record otherwise than by a packet, if somebody listens and the flow tells any of
/// these [events](told).
pub(crate) fn publish_record(
    shared: &Shared,
    kind: EventKind,
    entry: &Entry,
    now: Tick,
    by: Option<&Program>,
    events: u8,
) {
    let tells = !entry.record.has(ASSIGNED) || entry.warm.assigned.tells(events);
    if tells && shared.plane.settings().has(SETTING_FLOW_EVENTS) {
        shared.hub.publish(of_record(shared, kind, entry, now, by));
    }
}

/// What happened to a record otherwise than by a packet. Labels are told of where they have changed.
pub(crate) fn of_record(
    shared: &Shared,
    kind: EventKind,
    entry: &Entry,
    now: Tick,
    by: Option<&Program>,
) -> Event {
    let mut flow = flows::describe(shared, entry, now);
    if kind != EventKind::New {
        flow.labels.clear();
    }
    Event {
        time_ns: unix_nanoseconds(),
        kind,
        flow,
        packet: None,
        expectation: None,
        by: by.cloned(),
    }
}

/// The program at the other end of a connection.
pub(crate) fn program(client: &UnixStream) -> Option<Program> {
    let credentials = rustix::net::sockopt::socket_peercred(client).ok()?;
    let pid = credentials.pid.as_raw_nonzero().get();
    let name = std::fs::read_to_string(format!("/proc/{pid}/comm"));
    Some(Program {
        pid: pid as u32,
        name: name.ok().map(|name| name.trim_end().to_owned()),
    })
}

/// An event of the programs in words, with what the table knows of its flow.
pub(crate) fn told(shared: &Shared, event: &EngineEvent) -> Option<Event> {
    let now = shared.plane.now();
    let mut told = describe(event, &shared.rules, now)?;
    if let Some(expectation) = by_hand(shared, event) {
        told.expectation = Some(Expectation::new(&expectation, now));
    }
    if told.kind.is_of_packet() || told.kind.is_of_expectation() {
        return Some(told);
    }
    let key = FlowKey {
        family: family(event)?,
        words: event.key,
    };
    told.flow.id = Hash::of(&key, &shared.plane.settings()).id;
    if matches!(told.kind, EventKind::New | EventKind::Update)
        && let Some((_, entry)) = flows::locate(shared, &key, now)
    {
        told.flow.mark = entry.warm.mark;
    }
    Some(told)
}

/// The expectation made by hand that has ended: for its addresses events have no room.
fn by_hand(shared: &Shared, event: &EngineEvent) -> Option<expect::Expectation> {
    let [.., number] = event.detail;
    if event.kind != EngineKind::Unexpected as u8 || number == 0 {
        return None;
    }
    expect::by_hand::read_ended(&shared.plane.table().flows(), number - 1, event.control)
}

fn family(event: &EngineEvent) -> Option<Family> {
    match event.family {
        0 => Some(Family::V4),
        1 => Some(Family::V6),
        _ => None,
    }
}

/// An event of the programs in words; `None` for one that is not understood.
pub(crate) fn describe(event: &EngineEvent, rules: &Rules, now: Tick) -> Option<Event> {
    let kind = kind(event)?;
    let key = FlowKey {
        family: family(event)?,
        words: event.key,
    };
    // Those of a packet and of an expectation hold something else than a record's control word.
    let record = if kind.is_of_packet() || kind.is_of_expectation() {
        Record::EMPTY
    } else {
        Record::read(Control(event.control), NoWords)
    };
    let mut entry = listing::Entry::new(&key, &record, &Warm::default(), now);
    entry.helper = helper::numbered(event.helper).map(|helper| helper.name);
    if matches!(kind, EventKind::New | EventKind::Update) {
        entry.labels = labels::told_by(&event.detail);
    }
    if kind.is_of_packet() || kind.is_of_expectation() {
        let sender = if event.side == Side::Second as u8 {
            Side::Second
        } else {
            Side::First
        };
        entry.tuples = [
            packet_tuple(&key, sender),
            packet_tuple(&key, sender.other()),
        ];
    }
    Some(Event {
        time_ns: unix_nanoseconds(),
        kind,
        flow: Flow::from_listing(&entry),
        packet: kind.is_of_packet().then(|| packet(event, rules)),
        expectation: kind
            .is_of_expectation()
            .then(|| Expectation::new(&expect::Expectation::of_event(event), now)),
        by: None,
    })
}

/// The tuple of a packet whose endpoints the engine ordered by address, ICMP or not.
fn packet_tuple(key: &FlowKey, sender: Side) -> Tuple {
    let mut tuple = key.tuple(sender);
    // Identifier and type of a message are not the one's and the other's, and stay where they are.
    if is_icmp(tuple.protocol) && sender == Side::Second {
        (tuple.source_port, tuple.destination_port) = (tuple.destination_port, tuple.source_port);
    }
    tuple
}

fn kind(event: &EngineEvent) -> Option<EventKind> {
    const NEW: u8 = EngineKind::New as u8;
    const UPDATE: u8 = EngineKind::Update as u8;
    const DESTROY: u8 = EngineKind::Destroy as u8;
    const DROP: u8 = EngineKind::Drop as u8;
    const EXPECTED: u8 = EngineKind::Expected as u8;
    const UNEXPECTED: u8 = EngineKind::Unexpected as u8;
    match event.kind {
        NEW => Some(EventKind::New),
        UPDATE => Some(EventKind::Update),
        DESTROY => Some(EventKind::Destroy),
        DROP if event.verdict == 0 => Some(EventKind::Invalid),
        DROP => Some(EventKind::Drop),
        EXPECTED => Some(EventKind::Expected),
        UNEXPECTED => Some(EventKind::Unexpected),
        _ => None,
    }
}

/// Chain and number of the rule that decided, as far as there is one.
pub(super) fn decided(rules: &Rules, rule: u32, hook: u32) -> (Option<String>, Option<u32>) {
    let decided = (rule != NO_RULE).then(|| rules.name(rule)).flatten();
    match decided {
        Some(RuleName { chain, number }) => (Some(chain), (number != 0).then_some(number)),
        None => {
            let hook = Hook::from_number(hook);
            (hook.map(|hook| hook.chain().to_owned()), None)
        }
    }
}

fn packet(event: &EngineEvent, rules: &Rules) -> PacketEvent {
    let (chain, rule) = decided(rules, event.rule, u32::from(event.hook));
    PacketEvent {
        state: super::state_name(event.state).to_owned(),
        verdict: super::verdict_name(event.verdict).to_owned(),
        reason: Reason::from_number(event.reason).map(|reason| reason.name().to_owned()),
        chain,
        rule,
        length: event.length,
        window: window(event),
    }
}

/// What a journal is told of a packet, a field each.
pub(super) fn fields(event: &Event) -> Vec<(&'static str, String)> {
    let Some(packet) = &event.packet else {
        return Vec::new();
    };
    let ends = &event.flow.original;
    let number = |number: Option<u16>| number.map(|number| number.to_string());
    let fields = [
        ("KEEPSTATE_VERDICT", Some(packet.verdict.clone())),
        ("KEEPSTATE_STATE", Some(packet.state.clone())),
        ("KEEPSTATE_REASON", packet.reason.clone()),
        ("KEEPSTATE_CHAIN", packet.chain.clone()),
        ("KEEPSTATE_RULE", packet.rule.map(|rule| rule.to_string())),
        ("KEEPSTATE_PROTOCOL", Some(event.flow.protocol_name.clone())),
        ("KEEPSTATE_SOURCE", Some(ends.source.to_string())),
        ("KEEPSTATE_DESTINATION", Some(ends.destination.to_string())),
        ("KEEPSTATE_SOURCE_PORT", number(ends.source_port)),
        ("KEEPSTATE_DESTINATION_PORT", number(ends.destination_port)),
        ("KEEPSTATE_LENGTH", Some(packet.length.to_string())),
    ];
    let fields = fields.into_iter();
    fields
        .filter_map(|(name, value)| Some((name, value?)))
        .collect()
}

fn window(event: &EngineEvent) -> Option<WindowEvent> {
    let [sequence, end, lower, upper] = event.detail;
    let is_told = event.detail != [0; 4] || event.control != 0;
    is_told.then_some(WindowEvent {
        sequence,
        end,
        lower,
        upper,
        ack: (event.control >> 32) as u32,
        ack_upper: event.control as u32,
    })
}

/// The words after a control word that came alone.
#[derive(Clone, Copy)]
struct NoWords;

impl Words for NoWords {
    fn load(self, _word: u32) -> u64 {
        0
    }

    fn store(self, _word: u32, _value: u64) {}

    fn compare_exchange(self, _word: u32, old: u64, _new: u64) -> u64 {
        !old
    }

    fn add(self, _word: u32, _amount: u64) {}
}
