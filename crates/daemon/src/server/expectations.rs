//! What is answered about flows that are expected.

use std::io;

use keepstate_api::{
    Ends, Event, EventKind, Expectation, Flow, NewExpectation, Program, Query, Reply, Unable,
    engine_address, frame,
};
use keepstate_engine::event::told;
use keepstate_engine::expect::{self, by_hand};
use keepstate_engine::record::{ORIGINATOR_IS_SECOND, Record, Warm};
use keepstate_engine::settings::SETTING_FLOW_EVENTS;
use keepstate_engine::time::Tick;
use keepstate_engine::tuple::Side;
use keepstate_engine::wire::transport::{TCP, UDP};
use keepstate_listing as listing;

use super::connection::Output;
use super::tables::Table;
use super::{Shared, flows, unix_nanoseconds};

/// Shows the expectations of a family, or of both.
pub(super) fn list(shared: &Shared, family: Option<&str>, output: &mut Output) -> io::Result<()> {
    let now = shared.plane.now();
    let mut found = Vec::new();
    visit(shared, now, |expectation| {
        let name = ["ipv4", "ipv6"][expectation.family as usize];
        if family.is_none_or(|family| family == name) {
            found.push(Expectation::new(expectation, now));
        }
    });
    let shown = found.len() as u64;
    for expectation in found {
        frame::write(output, &Reply::Expectation(Box::new(expectation)))?;
    }
    frame::write(output, &Reply::FlowsEnd { shown })
}

/// The expectation that a packet would meet.
pub(super) fn find(shared: &Shared, query: &Query) -> Reply {
    let now = shared.plane.now();
    let mut found = None;
    visit(shared, now, |expectation| {
        let expectation = Expectation::new(expectation, now);
        if found.is_none() && is_meant(&expectation, query) {
            found = Some(expectation);
        }
    });
    match found {
        Some(expectation) => Reply::Expectation(Box::new(expectation)),
        None => Reply::Unable {
            why: Unable::Missing,
        },
    }
}

/// Takes that expectation out.
pub(super) fn remove(shared: &Shared, query: &Query) -> Reply {
    let now = shared.plane.now();
    let mut ended = Vec::new();
    expect::remove_if(
        &shared.plane.table().flows(),
        |expectation| is_meant(&Expectation::new(expectation, now), query),
        |expectation| ended.push(*expectation),
    );
    tell(shared, &ended);
    match ended.len() {
        0 => Reply::Unable {
            why: Unable::Missing,
        },
        _ => Reply::Done,
    }
}

/// Makes one.
pub(super) fn insert(shared: &Shared, wanted: &NewExpectation, output: &Output) -> Reply {
    match try_insert(shared, wanted, output) {
        Ok(()) => Reply::Done,
        Err(why) => Reply::Unable { why },
    }
}

fn try_insert(shared: &Shared, wanted: &NewExpectation, output: &Output) -> Result<(), Unable> {
    let now = shared.plane.now();
    let NewExpectation {
        master, expected, ..
    } = wanted;
    let first = shared.expectations.lock();
    let _one_at_a_time = first.unwrap_or_else(std::sync::PoisonError::into_inner);
    let addresses = [expected.source, expected.destination, wanted.source_mask];
    let [source, destination, source_mask] = addresses.map(engine_address);
    let family = source.0;
    let name = flows::name(master).ok_or(Unable::Invalid)?;
    if [destination.0, source_mask.0, name.key.family] != [family; 3] {
        return Err(Unable::Invalid);
    }
    // Helpers expect these alone, and packets look for no others.
    if ![TCP, UDP].contains(&expected.protocol) {
        return Err(Unable::Unsupported);
    }
    let wanted = by_hand::Wanted {
        protocol: expected.protocol,
        source: source.1,
        destination: destination.1,
        source_port: expected.source_port,
        destination_port: expected.destination_port,
        source_mask: source_mask.1,
        port_mask: wanted.port_mask,
    };
    let settings = shared.plane.settings();
    let (_, owner) = flows::locate(shared, &name.key, now).ok_or(Unable::Missing)?;
    let tables = shared.plane.tables();
    let tables: Vec<_> = tables.iter().map(Table::flows).collect();
    match by_hand::make(&tables, &settings, &wanted, &owner, now) {
        by_hand::Made::Done(made, ended) => {
            tell(shared, ended.as_slice());
            if owner.warm.assigned.tells(told::EXPECTED) {
                publish(
                    shared,
                    EventKind::Expected,
                    &made,
                    flows::caller(shared, output),
                );
            }
            Ok(())
        }
        by_hand::Made::Exists => Err(Unable::Exists),
        by_hand::Made::Clash => Err(Unable::Busy),
        by_hand::Made::NoHelper => Err(Unable::Unsupported),
        by_hand::Made::Full => Err(Unable::Full),
    }
}

/// Takes all of them out.
pub(super) fn flush(shared: &Shared) -> Reply {
    let mut ended = Vec::new();
    expect::remove_if(
        &shared.plane.table().flows(),
        |_| true,
        |expectation| ended.push(*expectation),
    );
    tell(shared, &ended);
    Reply::Done
}

fn is_meant(expectation: &Expectation, query: &Query) -> bool {
    let packet = Ends {
        source: query.source,
        destination: query.destination,
        source_port: query.source_port,
        destination_port: query.destination_port,
    };
    expectation.zone == query.zone && expectation.is_met_by(&packet, query.protocol)
}

/// Takes out what has ended, and tells of it.
pub(super) fn sweep(shared: &Shared) {
    let now = shared.plane.now();
    let mut ended = Vec::new();
    let tables = shared.plane.tables();
    let flows: Vec<_> = tables.iter().map(Table::flows).collect();
    expect::sweep(&flows, now, |expectation| ended.push(*expectation));
    tell(shared, &ended);
}

fn visit(shared: &Shared, now: Tick, mut show: impl FnMut(&expect::Expectation)) {
    let tables = shared.plane.tables();
    let flows: Vec<_> = tables.iter().map(Table::flows).collect();
    expect::visit(&flows, now, |_, expectation| show(expectation));
}

fn tell(shared: &Shared, ended: &[expect::Expectation]) {
    if !shared.plane.settings().has(SETTING_FLOW_EVENTS) {
        return;
    }
    for expectation in ended.iter().filter(|ended| ended.tells_its_end()) {
        publish(shared, EventKind::Unexpected, expectation, None);
    }
}

fn publish(
    shared: &Shared,
    kind: EventKind,
    expectation: &expect::Expectation,
    by: Option<Program>,
) {
    if shared.plane.settings().has(SETTING_FLOW_EVENTS) {
        let now = shared.plane.now();
        let record = Record {
            status: match expectation.master_originator {
                Side::First => 0,
                Side::Second => ORIGINATOR_IS_SECOND,
            },
            ..Record::EMPTY
        };
        let master = listing::Entry::new(&expectation.master, &record, &Warm::default(), now);
        shared.hub.publish(Event {
            time_ns: unix_nanoseconds(),
            kind,
            flow: Flow::from_listing(&master),
            packet: None,
            expectation: Some(Expectation::new(expectation, now)),
            by,
        });
    }
}
