//! Flows for clients: listed, found, and removed.

use std::collections::HashSet;
use std::io;

use keepstate_api::{
    EventKind, Filter, Flow, Program, Query, Reply, Unable, engine_address, frame, label_numbers,
};
use keepstate_engine::conntrack;
use keepstate_engine::event::told;
use keepstate_engine::host::{FlowMemory, Words};
use keepstate_engine::labels;
use keepstate_engine::record::{ASSIGNED, CONTROL_WORD, Control, Record};
use keepstate_engine::settings::{SETTING_ACCOUNTING, SETTING_FLOW_EVENTS, Settings};
use keepstate_engine::table::{self, Entry, Hash, Lookup};
use keepstate_engine::time::Tick;
use keepstate_engine::tuple::{FlowKey, Oriented, Tuple};
use keepstate_listing as listing;

use super::connection::Output;
use super::tables::Table;
use super::{Shared, events};

/// Buckets that are read before what was found is written: some thousand flows are in memory at
/// a time, however many there are.
const BUCKETS_PER_STEP: u32 = 512;

/// How often a record is taken in hand again because a packet changed it meanwhile.
pub(super) const EDIT_TRIES_MAX: u32 = 64;

/// A flow as clients see it.
pub(super) fn describe(shared: &Shared, entry: &Entry, now: Tick) -> Flow {
    let table = shared.plane.table();
    describe_under(&shared.plane.settings(), &table.flows(), entry, now)
}

/// As [`describe`], for many flows: settings are long.
pub(super) fn describe_under<M: FlowMemory>(
    settings: &Settings,
    common: &M,
    entry: &Entry,
    now: Tick,
) -> Flow {
    let id = Hash::of(&entry.key, settings).id;
    let labels = match entry.record.has(ASSIGNED) {
        true => labels::of_flow(common, id, entry.key.family, entry.warm.assigned.born()),
        false => [0; 2],
    };
    let mut flow = Flow {
        id,
        labels: label_numbers(&labels),
        ..Flow::from_table(entry, now)
    };
    if !is_counted(settings, entry) {
        for endpoints in [&mut flow.original, &mut flow.reply] {
            (endpoints.packets, endpoints.bytes) = (None, None);
        }
    }
    flow
}

/// A flow as it can be listed, with what filters ask for.
pub(super) fn listed_under(settings: &Settings, entry: &Entry, now: Tick) -> listing::Entry {
    let mut listed = listing::Entry::from_table(entry, now);
    listed.counters = listed.counters.filter(|_| is_counted(settings, entry));
    listed
}

/// Where flows are not counted there may be room for counters, for the sake of start times or of
/// later.
fn is_counted(settings: &Settings, entry: &Entry) -> bool {
    let was_counted = entry.counters().is_some_and(|[original, ..]| original != 0);
    was_counted || settings.has(SETTING_ACCOUNTING)
}

pub(super) fn list(shared: &Shared, filter: &Filter, output: &mut Output) -> io::Result<()> {
    tell_each(shared, filter, output, |_, _, _, flow| Ok(Some(flow)))
}

/// Lists flows with the counters that they had until now.
pub(super) fn reset_counters(
    shared: &Shared,
    filter: &Filter,
    output: &mut Output,
) -> io::Result<()> {
    tell_each(shared, filter, output, |table, entry, now, _| {
        let mut entry = *entry;
        take_counters(table, &mut entry);
        Ok(Some(describe(shared, &entry, now)))
    })
}

/// Removes flows and tells them.
pub(super) fn remove(shared: &Shared, filter: &Filter, output: &mut Output) -> io::Result<()> {
    let by = &caller(shared, output);
    let by = by.as_ref();
    tell_each(shared, filter, output, |table, entry, now, _| {
        Ok(take_out(shared, by, filter, (table, entry), now))
    })
}

/// Removes flows and says how many.
pub(super) fn flush(shared: &Shared, filter: &Filter, output: &mut Output) -> io::Result<()> {
    let by = &caller(shared, output);
    let by = by.as_ref();
    let mut shown = 0;
    let walked = for_each(shared, filter, |table, entry, now, _| {
        shown += u64::from(take_out(shared, by, filter, (table, entry), now).is_some());
        Ok::<_, std::convert::Infallible>(())
    });
    let Ok(()) = walked;
    frame::write(output, &Reply::FlowsEnd { shown })
}

pub(super) fn find(shared: &Shared, query: &Query) -> Reply {
    let now = shared.plane.now();
    let Some(oriented) = name(query) else {
        return Reply::Unable {
            why: Unable::Invalid,
        };
    };
    match locate(shared, &oriented.key, now) {
        Some((_, entry)) => Reply::Flow(Box::new(describe(shared, &entry, now))),
        None => Reply::Unable {
            why: Unable::Missing,
        },
    }
}

/// The name of a packet's flow; `None` when it is not that of any.
pub(super) fn name(query: &Query) -> Option<Oriented> {
    let (family, source) = engine_address(query.source);
    let (other, destination) = engine_address(query.destination);
    if family != other {
        return None;
    }
    conntrack::orient(Tuple {
        family,
        source,
        destination,
        source_port: query.source_port,
        destination_port: query.destination_port,
        protocol: query.protocol,
        zone: query.zone,
    })
}

/// Who asks, where somebody will be told.
pub(super) fn caller(shared: &Shared, output: &Output) -> Option<Program> {
    let tells = shared.plane.settings().has(SETTING_FLOW_EVENTS);
    tells.then(|| events::program(output.get_ref())).flatten()
}

/// The record of a name, and where it is.
pub(super) fn locate(shared: &Shared, key: &FlowKey, now: Tick) -> Option<(Table, Entry)> {
    let settings = shared.plane.settings();
    // The older first: what is there counts.
    shared.plane.tables().into_iter().find_map(|table| {
        let entry = locate_in(&table, &settings, key, now)?;
        Some((table, entry))
    })
}

fn locate_in(table: &Table, settings: &Settings, key: &FlowKey, now: Tick) -> Option<Entry> {
    let memory = table.flows();
    let hash = table.hash(key, settings);
    let mut record = Record::EMPTY;
    let found = table::lookup(&memory, key, &hash, now, &mut record);
    let place = match found {
        Lookup::Found(found) => found.place,
        Lookup::Busy(place) => place,
        Lookup::Missing => return None,
    };
    let mut located = None;
    table::visit(
        &memory,
        place.family,
        place.bucket..place.bucket + 1,
        now,
        |entry| {
            if entry.key == *key {
                located = Some(*entry);
            }
        },
    );
    located
}

/// The record as it is now, if it is still there and the filter fits it.
pub(super) fn again(
    shared: &Shared,
    filter: &Filter,
    (table, entry): (&Table, &Entry),
    now: Tick,
) -> Option<(Table, Entry)> {
    let (table, current) = match reread(table, entry, now) {
        Some(current) => (table.clone(), current),
        // It may have moved to another table.
        None if shared.plane.tables().len() > 1 => locate(shared, &entry.key, now)?,
        None => return None,
    };
    // Packets mostly move windows and deadlines. What filters ask for is seldom another, and the
    // less is done before the next try, the better is its chance.
    let is_alike = current.warm.mark == entry.warm.mark
        && current.record.status == entry.record.status
        && current.record.tcp_state == entry.record.tcp_state
        && filter.seconds_left.is_none()
        && filter.expression.is_none();
    (is_alike || filter.matches(&describe(shared, &current, now))).then_some((table, current))
}

/// Reads a record again; `None` when it is gone.
fn reread(table: &Table, entry: &Entry, now: Tick) -> Option<Entry> {
    let memory = table.flows();
    let place = entry.place;
    let buckets = place.bucket..place.bucket + 1;
    for _ in 0..EDIT_TRIES_MAX {
        let mut met = None;
        table::visit(&memory, place.family, buckets.clone(), now, |found| {
            if found.place == place {
                met = Some(*found);
            }
        });
        if let Some(current) = met {
            return (current.key == entry.key).then_some(current);
        }
        // One that is there was too busy to be read.
        let words = memory.slot(place.family, place.bucket, place.slot)?;
        if !Control(words.load(CONTROL_WORD)).holds_record() {
            return None;
        }
        std::thread::yield_now();
    }
    None
}

/// Shows `act` each flow that the filter fits, and the client what comes back.
pub(super) fn tell_each(
    shared: &Shared,
    filter: &Filter,
    output: &mut Output,
    mut act: impl FnMut(&Table, &Entry, Tick, Flow) -> io::Result<Option<Flow>>,
) -> io::Result<()> {
    let mut shown = 0;
    for_each(shared, filter, |table, entry, now, flow| {
        let Some(flow) = act(table, entry, now, flow)? else {
            return Ok(());
        };
        shown += 1;
        frame::write(output, &Reply::Flow(Box::new(flow)))
    })?;
    frame::write(output, &Reply::FlowsEnd { shown })
}

/// Shows each flow that the filter fits, part of the table by part. `act` may change the table.
pub(super) fn for_each<E>(
    shared: &Shared,
    filter: &Filter,
    mut act: impl FnMut(&Table, &Entry, Tick, Flow) -> Result<(), E>,
) -> Result<(), E> {
    let settings = shared.plane.settings();
    let only = filter.only_family();
    let mut found = Vec::new();
    let tables = shared.plane.tables();
    // While records move from one table to another, those that were met in the first.
    let mut met = HashSet::new();
    let common = shared.plane.table();
    for (number, table) in tables.iter().enumerate() {
        let is_last = number + 1 == tables.len();
        for (family, buckets) in table.families() {
            if only.is_some_and(|only| only != family) {
                continue;
            }
            let mut next = 0;
            while next < buckets {
                let end = buckets.min(next.saturating_add(BUCKETS_PER_STEP));
                let now = shared.plane.now();
                table::visit(&table.flows(), family, next..end, now, |entry| {
                    // Many flows fall to an expression, and a description costs a microsecond.
                    if !filter.expression_fits(&listed_under(&settings, entry, now)) {
                        return;
                    }
                    let flow = describe_under(&settings, &common.flows(), entry, now);
                    if filter.matches(&flow) {
                        found.push((*entry, flow));
                    }
                });
                for (entry, flow) in found.drain(..) {
                    let name = (family as u8, entry.key.words);
                    if met.contains(&name) {
                        continue;
                    }
                    act(table, &entry, now, flow)?;
                    if !is_last {
                        met.insert(name);
                    }
                }
                next = end;
            }
        }
    }
    Ok(())
}

/// Takes a record out; the flow as it was, unless it is gone or no longer fits.
pub(super) fn take_out(
    shared: &Shared,
    by: Option<&Program>,
    filter: &Filter,
    (table, entry): (&Table, &Entry),
    now: Tick,
) -> Option<Flow> {
    let (mut table, mut entry) = (table.clone(), *entry);
    for _ in 0..EDIT_TRIES_MAX {
        if table::remove(&table.flows(), entry.place, entry.control) {
            events::publish_record(shared, EventKind::Destroy, &entry, now, by, told::DESTROY);
            let flow = describe(shared, &entry, now);
            if entry.record.has(ASSIGNED) {
                let born = entry.warm.assigned.born();
                labels::forget(&table.flows(), flow.id, entry.key.family, born);
            }
            return Some(flow);
        }
        (table, entry) = again(shared, filter, (&table, &entry), now)?;
    }
    None
}

/// Takes the counters of a record, which are then zero. No packet is counted twice or not at all.
fn take_counters(table: &Table, entry: &mut Entry) {
    const COUNTERS: usize = 4;
    if entry.counters().is_none() {
        return;
    }
    let place = entry.place;
    let memory = table.flows();
    let words = memory.accounting(place.family, place.bucket, place.slot);
    let (Some(words), Some(counters)) = (words, entry.accounting.as_mut()) else {
        return;
    };
    for (word, counter) in (0..).zip(counters.iter_mut().take(COUNTERS)) {
        *counter = words.load(word);
        words.add(word, counter.wrapping_neg());
    }
}
