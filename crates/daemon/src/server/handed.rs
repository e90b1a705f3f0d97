//! Flows on their way from one daemon to another whose maps have another layout, see [`crate::hand_over`].
//!
//! Windows are not handed over, but for their scale and options: while a record is on its way, packets move the
//! ones that it had. The new record learns them from the next packet of each side, and is lenient, as that of a connection
//! which was picked up in its middle: what was in flight then may be more than those packets tell.

use std::collections::HashMap;
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::io;
use std::ops::Range;

use keepstate_api::{FlowChange, Handed, Reply, frame};
use keepstate_engine::conntrack::tcp::TcpState;
use keepstate_engine::conntrack::{Tracker, half_open, orient};
use keepstate_engine::helper;
use keepstate_engine::host::{FlowMemory, Words};
use keepstate_engine::policy::Assigned;
use keepstate_engine::record::{ASSIGNED, FlowAssigned, Record, WINDOW_LIBERAL, Warm};
use keepstate_engine::synproxy;
use keepstate_engine::table::{self, Entry, Hash, Insert, NOT_COUNTED, Opening, Place};
use keepstate_engine::time::Tick;
use keepstate_engine::tuple::{Family, Oriented};

use super::connection::Output;
use super::tables::Table;
use super::{Shared, edit, flows};

/// Buckets that are read before what was found is written.
const BUCKETS_PER_STEP: u32 = 512;

/// What one connection was told already: a number for what is handed over of each flow.
#[derive(Default)]
pub(super) struct Told(HashMap<(u8, [u64; 5]), u64>);

impl Told {
    /// Tells what was not told yet.
    pub(super) fn tell(&mut self, shared: &Shared, output: &mut Output) -> io::Result<()> {
        let mut shown = 0;
        for table in shared.plane.tables() {
            for (family, buckets) in table.families() {
                let mut next = 0;
                while next < buckets {
                    let end = buckets.min(next.saturating_add(BUCKETS_PER_STEP));
                    shown += self.tell_part(shared, (&table, family, next..end), output)?;
                    next = end;
                }
            }
        }
        frame::write(output, &Reply::FlowsEnd { shown })
    }

    fn tell_part(
        &mut self,
        shared: &Shared,
        (table, family, buckets): (&Table, Family, Range<u32>),
        output: &mut Output,
    ) -> io::Result<u64> {
        let now = shared.plane.now();
        let mut news = Vec::new();
        table::visit(&table.flows(), family, buckets, now, |entry| {
            let name = (family as u8, entry.key.words);
            let digest = digest(entry);
            if self.0.insert(name, digest) != Some(digest) {
                news.push(*entry);
            }
        });
        for entry in &news {
            let reply = Reply::Handed(Box::new(handed(shared, entry, now)));
            frame::write(output, &reply)?;
        }
        Ok(news.len() as u64)
    }
}

fn digest(entry: &Entry) -> u64 {
    let mut hasher = DefaultHasher::new();
    let Record {
        status, tcp_state, ..
    } = entry.record;
    (status, tcp_state as u8, entry.warm.mark).hash(&mut hasher);
    entry.warm.assigned.0.hash(&mut hasher);
    hasher.finish()
}

fn handed(shared: &Shared, entry: &Entry, now: Tick) -> Handed {
    let assigned = match entry.record.has(ASSIGNED) {
        true => entry.warm.assigned,
        false => FlowAssigned::default(),
    };
    Handed {
        flow: flows::describe(shared, entry, now),
        timeout: assigned.timeout(),
        events: assigned.is_masked().then_some((assigned.0 >> 32) as u8),
        synproxy: proxied(shared, entry, assigned),
    }
}

fn proxied(shared: &Shared, entry: &Entry, assigned: FlowAssigned) -> Option<[u64; 2]> {
    if !assigned.has_synproxy() {
        return None;
    }
    let (table, settings) = (shared.plane.table(), shared.plane.settings());
    let id = Hash::of(&entry.key, &settings).id;
    synproxy::told(&table.flows(), (id, entry.key.family, assigned.born()))
}

/// What became of a flow that was handed over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Taken {
    Made,
    /// It is there already; what changed since was brought up to date where no packet has met it yet.
    There,
    /// There is no room, or it is no flow that this version knows.
    Refused,
}

/// Makes the record of a flow that was handed over.
pub(super) fn take_in(shared: &Shared, handed: &Handed) -> Taken {
    let listing = handed.flow.to_listing();
    let Some(oriented) = orient(listing.tuples[0]) else {
        return Taken::Refused;
    };
    let plane = &*shared.plane;
    let (now, table) = (plane.now(), plane.table());
    let settings = table.settings(&plane.settings());
    let mut record = edit::oriented(listing.record, &oriented);
    record.deadline = now.after_seconds(handed.flow.seconds_left);
    if Tracker::of(handed.flow.protocol, oriented.key.family) == Tracker::Udp {
        // As of a record that was made by hand.
        record.windows[0].end = now.0;
    }
    for (own, told) in record
        .windows
        .iter_mut()
        .zip([&handed.flow.original, &handed.flow.reply])
    {
        if let Some(told) = told.window {
            (own.scale, own.flags) = (told.scale, told.flags | WINDOW_LIBERAL);
        }
    }
    let assigned = assigned(handed, now);
    if assigned != FlowAssigned::default() {
        record.status |= ASSIGNED;
    }
    let warm = Warm {
        mark: handed.flow.mark,
        assigned,
        ..Warm::default()
    };
    let hash = Hash::of(&oriented.key, &settings);
    let new = table::NewFlow {
        key: &oriented.key,
        hash: &hash,
        record: &record,
        warm: &warm,
        half_open: half_open(record.status, handed.flow.protocol),
        opening: opening(handed),
    };
    match edit::insert_record(shared, &table, &settings, &new, now) {
        Insert::Done(place) => {
            count_replies(&table, place, handed);
            if let Some(told) = handed.synproxy {
                let name = (hash.id, oriented.key.family, assigned.born());
                if !synproxy::put(&table.flows(), name, place, told) {
                    return Taken::Refused;
                }
            }
            if edit::put_labels(shared, &handed.flow.labels, &oriented.key, place, now).is_err() {
                return Taken::Refused;
            }
            Taken::Made
        }
        Insert::Exists => {
            bring_up_to_date(shared, handed, &oriented, now);
            Taken::There
        }
        Insert::Full | Insert::Contended => Taken::Refused,
    }
}

fn assigned(handed: &Handed, now: Tick) -> FlowAssigned {
    let name = handed.flow.helper.as_deref();
    let helper = helper::HELPERS
        .iter()
        .find(|helper| Some(helper.name) == name);
    let is_plain = helper.is_none() && handed.timeout == 0 && handed.events.is_none();
    if is_plain && handed.synproxy.is_none() {
        return FlowAssigned::default();
    }
    let assigned = Assigned::new(helper.map_or(0, |helper| helper.number), handed.timeout);
    let assigned = match handed.events {
        Some(events) => assigned.with_events(events),
        None => assigned,
    };
    let assigned = FlowAssigned::new(assigned, now);
    match handed.synproxy {
        Some(_) => assigned.with_synproxy(),
        None => assigned,
    }
}

fn opening(handed: &Handed) -> Opening {
    let own = &handed.flow.original;
    Opening {
        packets: own.packets.unwrap_or(NOT_COUNTED),
        bytes: own.bytes.unwrap_or(0),
        start: handed.flow.started_ns.unwrap_or(0),
    }
}

/// Adds what the flow's replies have counted: a record begins without.
fn count_replies(table: &Table, place: Place, handed: &Handed) {
    let memory = table.flows();
    let reply = &handed.flow.reply;
    let (Some(words), Some(packets), Some(bytes)) = (
        memory.accounting(place.family, place.bucket, place.slot),
        reply.packets,
        reply.bytes,
    ) else {
        return;
    };
    words.add(2, packets);
    words.add(3, bytes);
}

/// A packet went by the other daemon's programs while the record was on its way: it ended the connection, or was the
/// first answer.
fn bring_up_to_date(shared: &Shared, handed: &Handed, oriented: &Oriented, now: Tick) {
    let Some((table, entry)) = flows::locate(shared, &oriented.key, now) else {
        return;
    };
    let flow = &handed.flow;
    let was_met = entry
        .record
        .windows
        .iter()
        .any(|window| window.max_window != 0);
    let is_same = flow.tcp_state.as_deref() == Some(entry.record.tcp_state.name());
    if was_met || is_same || entry.record.tcp_state == TcpState::None {
        return;
    }
    let change = FlowChange {
        seconds: Some(flow.seconds_left),
        state: flow.tcp_state.clone(),
        ..FlowChange::default()
    };
    // A packet that comes first knows better.
    edit::change_quietly(&table, &entry, &change, now);
}
