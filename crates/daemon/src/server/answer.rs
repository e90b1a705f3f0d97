//! What is answered to each request.

use std::collections::BTreeMap;
use std::io::{self, Write};
use std::net::IpAddr;
use std::os::unix::net::UnixStream;
use std::sync::atomic::Ordering;

use keepstate_api::{
    ControlStatus, FailureKind, PolicyText, Query, RawRecord, Reply, Request, Running, Status,
    TableStatus, Traffic, engine_address, frame,
};
use keepstate_engine::host::{FlowMemory, Words};
use keepstate_engine::record::Record;
use keepstate_engine::settings::{
    SETTING_DROP_EVENTS, SETTING_FLOW_EVENTS, SETTING_SAMPLES, Settings,
};
use keepstate_engine::table::{self, Lookup, gauges};
use keepstate_engine::tuple::{Side, Tuple, is_icmp};
use keepstate_engine::verdict::Reason;
use keepstate_plane::Counters;

use super::access::Carried;
use super::connection::{Output, failure};
use super::plane::PlaneError;
use super::rules::ApplyError;
use super::{
    Origin, Shared, bans, commands, cookies, defence, edit, expectations, flows, meters, sets,
    survey, sysctl, timeouts,
};

/// Answers one request, all but those that end the conversation. Errors are the client's.
pub(super) fn answer(
    shared: &Shared,
    request: Request,
    output: &mut Output,
) -> io::Result<Carried> {
    let Some(reply) = reply_to(shared, request, output)? else {
        return Ok(Carried::Done);
    };
    frame::write(output, &reply)?;
    Ok(Carried::of(&reply))
}

/// The reply to a request; `None` where replies were written already.
fn reply_to(shared: &Shared, request: Request, output: &mut Output) -> io::Result<Option<Reply>> {
    let reply = match request {
        Request::Flows { filter } => return flows::list(shared, &filter, output).map(|()| None),
        Request::Survey {
            filter,
            order,
            count,
        } => Ok(survey::survey(shared, &filter, order, count)),
        Request::ResetCounters { filter } => {
            return flows::reset_counters(shared, &filter, output).map(|()| None);
        }
        Request::Remove { filter } => return flows::remove(shared, &filter, output).map(|()| None),
        Request::Flush { filter } => return flows::flush(shared, &filter, output).map(|()| None),
        Request::Change { filter, change } => {
            return edit::change(shared, &filter, &change, output).map(|()| None);
        }
        Request::Expectations { family } => {
            return expectations::list(shared, family.as_deref(), output).map(|()| None);
        }
        Request::FindExpectation { query } => Ok(expectations::find(shared, &query)),
        Request::RemoveExpectation { query } => Ok(expectations::remove(shared, &query)),
        Request::InsertExpectation { expectation } => {
            Ok(expectations::insert(shared, &expectation, output))
        }
        Request::FlushExpectations => Ok(expectations::flush(shared)),
        Request::Find { query } => Ok(flows::find(shared, &query)),
        Request::Insert { flow } => Ok(edit::insert(shared, &flow, output)),
        Request::Bans { list } => return bans::list(shared, list, output).map(|()| None),
        Request::ListSets { name, terse } => {
            return sets::list(shared, name.as_deref(), terse, output).map(|()| None);
        }
        Request::Sysctl { name } => {
            return sysctl::tell(shared, name.as_deref(), output).map(|()| None);
        }
        Request::MeterLists => Ok(meters::lists(shared)),
        Request::MeterEntries { list } => {
            return meters::told(meters::list(shared, &list, output), output).map(|()| None);
        }
        Request::ChangeRecent { name, change } => meters::change(shared, &name, change),
        Request::Status => status(shared).map(|status| Reply::Status(Box::new(status))),
        Request::Apply { files, mode } => match shared.rules.apply(&*shared.plane, &files, mode) {
            Ok(applied) => Ok(Reply::Applied(applied)),
            Err(ApplyError::Rules(problems)) => Ok(Reply::Refused { problems }),
            Err(ApplyError::Plane(error)) => Err(error),
            Err(error) => Ok(failure(FailureKind::Failed, chain(&error))),
        },
        Request::Confirm => Ok(done(shared.rules.confirm())),
        Request::RollBack => Ok(done(shared.rules.roll_back(&*shared.plane))),
        Request::Iptables { family, arguments } => {
            commands::iptables(shared, family, &arguments).map(Reply::Printed)
        }
        Request::Restore { restore } => commands::restore(shared, &restore).map(Reply::Printed),
        Request::Policy => policy_text(shared).map(Reply::Policy),
        Request::Running { query, sender } => running(shared, query, sender),
        Request::TimeoutPolicies => Ok(shared.timeouts.list(&*shared.plane)),
        Request::AddTimeoutPolicy { policy } => Ok(timeouts::add(shared, policy)),
        Request::RemoveTimeoutPolicy { name } => Ok(timeouts::remove(shared, name.as_deref())),
        Request::Ban {
            list,
            networks,
            seconds,
            cause,
            limit,
            more,
        } => {
            let wish = bans::Wish {
                list,
                seconds,
                cause,
                rate: limit,
                more,
            };
            Ok(bans::add(shared, &wish, &networks))
        }
        Request::Unban { list, networks } => Ok(bans::remove(shared, list, &networks)),
        Request::FlushBans { list } => Ok(bans::flush(shared, list)),
        Request::Sets { commands, exist } => Ok(sets::run_commands(shared, &commands, exist)),
        Request::Cookies => cookies::status(shared).map(Reply::Cookies),
        Request::SetCookies(change) => cookies::set(shared, &change),
        Request::Defence => defence::status(shared),
        Request::SetDefence { mode } => defence::set_mode(shared, mode),
        Request::UndoDefence { step } => Ok(defence::undo(shared, step)),
        Request::SetSysctl { assignment } => Ok(sysctl::set(shared, &assignment)),
        Request::HandOver
        | Request::Events { .. }
        | Request::Packets { .. }
        | Request::ReadOnly
        | Request::Session { .. }
        | Request::Shutdown { .. } => {
            unreachable!("answered by the connection itself")
        }
    };
    let reply = reply.unwrap_or_else(|error| failure(FailureKind::Failed, chain(&error)));
    Ok(Some(reply))
}

fn done(result: Result<(), ApplyError>) -> Reply {
    match result {
        Ok(()) => Reply::Done,
        Err(error) => failure(FailureKind::Failed, chain(&error)),
    }
}

/// The last word to the client that asked for the end.
pub(super) fn send_ending(mut client: UnixStream, result: Result<(), String>) {
    let reply = match result {
        Ok(()) => Reply::Done,
        Err(message) => failure(FailureKind::Failed, message),
    };
    // The client may be gone.
    let _ = frame::write(&mut client, &reply);
    let _ = client.flush();
}

/// An error with its causes, in one line.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let more = error.to_string();
        if !text.ends_with(&more) {
            text.push_str(": ");
            text.push_str(&more);
        }
        cause = error.source();
    }
    text
}

/// Events that the programs found no room for; zero where that cannot be told.
pub(super) fn lost_in_kernel(shared: &Shared) -> u64 {
    shared
        .plane
        .counters()
        .map_or(0, |counters| counters.events_lost)
}

fn status(shared: &Shared) -> Result<Status, PlaneError> {
    let plane = &*shared.plane;
    let counters = plane.counters()?;
    let tally = &shared.tally;
    let read = |counter: &std::sync::atomic::AtomicU64| counter.load(Ordering::Relaxed);
    Ok(Status {
        instance: shared.instance.as_str().to_owned(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        pid: std::process::id(),
        started: shared.started,
        adopted: shared.origin == Origin::Adopted,
        interfaces: plane.attachments(),
        policy: shared.rules.status(plane)?,
        table: table_status(shared),
        traffic: traffic(&counters),
        expiry: shared.expiry.status(),
        bans: shared.bans.status(plane),
        defence: defence::summary(shared),
        events: shared.hub.status(counters.events_lost, &shared.log),
        control: ControlStatus {
            connections: read(&tally.connections),
            requests: read(&tally.requests),
            malformed: read(&tally.malformed),
            refused: read(&tally.refused),
            inserted: read(&tally.inserted),
        },
    })
}

pub(super) fn table_status(shared: &Shared) -> TableStatus {
    let settings = shared.plane.settings();
    let table = shared.plane.table();
    let memory = table.flows();
    let gauge = |word| memory.gauges().map_or(0, |words| words.load(word));
    // A removal that is counted before its insertion must not look like 2^64 flows.
    let level = |word| (gauge(word) as i64).max(0) as u64;
    TableStatus {
        flows: level(gauges::COUNT),
        flows_max: u64::from(settings.flows_max),
        half_open: level(gauges::HALF_OPEN),
        half_open_max: u64::from(settings.half_open_max),
        buckets: table.buckets,
        inserted: gauge(gauges::INSERTED),
        removed: gauge(gauges::REMOVED),
        evicted: gauge(gauges::EVICTED),
        refused: gauge(gauges::REFUSED),
        contended: gauge(gauges::CONTENDED),
        busy: gauge(gauges::BUSY),
        fragments: level(gauges::FRAGMENTS),
        fragments_expired: gauge(gauges::FRAGMENTS_EXPIRED),
        fragments_full: gauge(gauges::FRAGMENTS_FULL),
        expectations: level(gauges::EXPECTATIONS),
        expectations_max: u64::from(settings.expectations_max),
        expectations_met: gauge(gauges::EXPECTATIONS_MET),
        expectations_created: gauge(gauges::EXPECTATIONS_CREATED),
        expectations_deleted: gauge(gauges::EXPECTATIONS_DELETED),
        expectations_refused: gauge(gauges::EXPECTATIONS_REFUSED),
        unread: gauge(gauges::UNREAD),
        labels_refused: gauge(gauges::LABELS_REFUSED),
        flows_peak: shared.expiry.peak().max(level(gauges::COUNT)),
    }
}

fn traffic(counters: &Counters) -> Traffic {
    let named = |counts: &[u64], name: &dyn Fn(u8) -> Option<&'static str>| {
        let numbered = (0..).zip(counts);
        let counted = numbered.filter(|(_, count)| **count != 0);
        let named = counted.map(|(number, count)| {
            let name = name(number).map_or_else(|| number.to_string(), str::to_owned);
            (name, *count)
        });
        named.collect::<BTreeMap<_, _>>()
    };
    Traffic {
        states: named(&counters.states, &|number| Some(super::state_name(number))),
        verdicts: named(&counters.verdicts, &|number| {
            Some(super::verdict_name(number))
        }),
        reasons: named(&counters.reasons, &|number| {
            Reason::from_number(number).map(Reason::name)
        }),
    }
}

fn policy_text(shared: &Shared) -> Result<PolicyText, PlaneError> {
    let rules = shared.rules.text(&*shared.plane)?;
    Ok(PolicyText { rules })
}

fn running(
    shared: &Shared,
    query: Option<Query>,
    sender: Option<IpAddr>,
) -> Result<Reply, PlaneError> {
    let settings = shared.plane.settings();
    let told = SETTING_FLOW_EVENTS | SETTING_DROP_EVENTS | SETTING_SAMPLES;
    Ok(Reply::Running(Box::new(Running {
        policy: policy_text(shared)?,
        flags: settings.flags & !told,
        tcp_max_retrans: settings.tcp_max_retrans,
        timeouts: settings.timeouts.to_vec(),
        now: shared.plane.now().0,
        record: query.and_then(|query| find(shared, &settings, &query)),
        senders: sender.map_or_else(Vec::new, |sender| bans::told(shared, sender)),
        forms: defence::forms(&settings, shared.plane.now()),
        cookies: sends_cookies(shared, &settings),
    })))
}

fn sends_cookies(shared: &Shared, settings: &Settings) -> Option<[u32; 3]> {
    let cookies = &settings.cookies;
    let is_active = cookies::status(shared).is_ok_and(|status| status.active);
    is_active.then_some([cookies.options, cookies.scale, cookies.window])
}

/// The record of a flow by the addresses of one of its packets.
fn find(shared: &Shared, settings: &Settings, query: &Query) -> Option<RawRecord> {
    let (family, source) = engine_address(query.source);
    let (other, destination) = engine_address(query.destination);
    if family != other {
        return None;
    }
    let tuple = Tuple {
        family,
        source,
        destination,
        source_port: query.source_port,
        destination_port: query.destination_port,
        protocol: query.protocol,
        zone: query.zone,
    };
    let candidates = if is_icmp(query.protocol) {
        [Side::First, Side::Second].map(|side| tuple.orient_query(side))
    } else {
        [tuple.orient(); 2]
    };
    let tables = shared.plane.tables();
    let now = shared.plane.now();
    let mut places = candidates
        .iter()
        .flat_map(|oriented| tables.iter().map(move |table| (oriented, table)));
    places.find_map(|(oriented, table)| {
        let memory = table.flows();
        let hash = table.hash(&oriented.key, settings);
        let mut record = Record::EMPTY;
        let found = table::lookup(&memory, &oriented.key, &hash, now, &mut record);
        let Lookup::Found(found) = found else {
            return None;
        };
        let mut raw = None;
        let bucket = found.place.bucket;
        table::visit(&memory, family, bucket..bucket + 1, now, |entry| {
            if entry.place == found.place && entry.key == oriented.key {
                raw = Some(RawRecord::new(entry));
            }
        });
        raw
    })
}
