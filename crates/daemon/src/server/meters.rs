//! What rules remember of sources, told to clients and changed by them.

use std::collections::BTreeSet;
use std::io;

use keepstate_api::{
    FailureKind, MeterEntry, MeterKind, MeterList, RateEntry, RecentChange, RecentEntry, Reply,
    engine_address, frame,
};
use keepstate_engine::condition::kind;
use keepstate_engine::meter::{self, content, list_number};
use keepstate_engine::policy::Condition;
use keepstate_engine::tuple::Family;
use keepstate_listing::address;
use keepstate_plane::{METER_ADD, METER_CLEAR, METER_REMOVE, MeterOrder};
use keepstate_policy::{rate_list, recent_list};

use super::Shared;
use super::answer::chain;
use super::connection::{Output, failure};
use super::plane::PlaneError;

/// The lists that the rules in force name.
pub(super) fn lists(shared: &Shared) -> Reply {
    let rules = shared.rules.lock();
    let mut lists = BTreeSet::new();
    for (family, name, condition) in rules.meter_lists() {
        let kind = match (condition, family) {
            (kind::RECENT, _) => MeterKind::Recent,
            (_, Family::V4) => MeterKind::Hashlimit,
            (_, Family::V6) => MeterKind::Hashlimit6,
        };
        lists.insert(MeterList {
            kind,
            name: name.to_owned(),
        });
    }
    Reply::MeterLists {
        lists: lists.into_iter().collect(),
    }
}

pub(super) fn list(
    shared: &Shared,
    list: &MeterList,
    output: &mut Output,
) -> Result<io::Result<()>, PlaneError> {
    let Some(conditions) = conditions(shared, list) else {
        return Ok(frame::write(output, &unknown(&list.name)));
    };
    let time = shared.plane.jiffies()?;
    Ok(match list.kind {
        MeterKind::Recent => tell_recent(shared, &conditions, time, output),
        MeterKind::Hashlimit => tell_rates(shared, Family::V4, &conditions, time, output),
        MeterKind::Hashlimit6 => tell_rates(shared, Family::V6, &conditions, time, output),
    })
}

pub(super) fn change(
    shared: &Shared,
    name: &str,
    change: RecentChange,
) -> Result<Reply, PlaneError> {
    let list = MeterList {
        kind: MeterKind::Recent,
        name: name.to_owned(),
    };
    let Some([condition, _]) = conditions(shared, &list) else {
        return Ok(unknown(name));
    };
    let (what, address) = match change {
        RecentChange::Add { address } => (METER_ADD, Some(address)),
        RecentChange::Remove { address } => (METER_REMOVE, Some(address)),
        RecentChange::Flush => (METER_CLEAR, None),
    };
    let (family, address) = match address {
        Some(address) => engine_address(address),
        None => (Family::V4, [0; 4]),
    };
    let order = MeterOrder {
        list: number_of(&condition),
        address,
        what,
        family: family as u32,
        ring: ring_of(&condition),
        ..MeterOrder::default()
    };
    Ok(match shared.plane.change_meter(&order)? {
        Some(_) => Reply::Done,
        None => failure(
            FailureKind::Failed,
            "there is no room to remember one more address, or packets kept its list busy",
        ),
    })
}

fn unknown(name: &str) -> Reply {
    failure(
        FailureKind::Invalid,
        format!("no rule in force names the list {name}"),
    )
}

/// The condition that says what a list is like, and the one behind it.
fn conditions(shared: &Shared, list: &MeterList) -> Option<[Condition; 2]> {
    let (kind, number, family) = match list.kind {
        MeterKind::Recent => (kind::RECENT, recent_list(&list.name), None),
        MeterKind::Hashlimit => (kind::RATE, rate_list(&list.name), Some(Family::V4)),
        MeterKind::Hashlimit6 => (kind::RATE, rate_list(&list.name), Some(Family::V6)),
    };
    let rules = shared.rules.lock();
    let mut pairs = rules.condition_pairs();
    let found = pairs.find(|(own, [condition, _])| {
        condition.kind == kind
            && number_of(condition) == number
            && family.is_none_or(|family| family == *own)
    });
    found.map(|(_, pair)| pair)
}

const fn number_of(condition: &Condition) -> u64 {
    let [low, high, ..] = condition.data;
    list_number(low, high)
}

/// Stamps that an entry keeps, less one.
const fn ring_of(condition: &Condition) -> u32 {
    let [_, _, _, _, _, ring, _] = condition.data;
    ring
}

/// The one longest unseen first: that one makes room for another.
fn tell_recent(
    shared: &Shared,
    [condition, _]: &[Condition; 2],
    (now, hertz): (u64, u32),
    output: &mut Output,
) -> io::Result<()> {
    let table = shared.plane.table();
    let list = number_of(condition) | content::RECENT;
    let ring = ring_of(condition);
    let mut entries = Vec::new();
    meter::recent_entries(&table.flows(), list, |entry| {
        let stamps = entry.stamps.iter().take(entry.stamp_count);
        let stamps: Vec<u64> = stamps.map(|stamp| whole(*stamp, now)).collect();
        let last = entry.index.wrapping_sub(1) & ring;
        let last_seen = stamps.get(last as usize).copied().unwrap_or(0);
        let idle = now.saturating_sub(last_seen);
        entries.push(RecentEntry {
            address: address(entry.family, &entry.address),
            ttl: entry.ttl,
            last_seen,
            idle_ms: idle * 1000 / u64::from(hertz.max(1)),
            oldest: entry.index,
            stamps,
        });
    });
    entries.sort_by_key(|entry| (entry.last_seen, entry.address));
    let shown = entries.len() as u64;
    for entry in entries {
        let entry = MeterEntry::Recent(entry);
        frame::write(output, &Reply::MeterEntry { entry })?;
    }
    frame::write(output, &Reply::FlowsEnd { shown })
}

/// The time that the lower half of jiffies stands for: not later than now.
const fn whole(stamp: u32, now: u64) -> u64 {
    let age = (now as u32).wrapping_sub(stamp);
    now.wrapping_sub(age as u64)
}

fn tell_rates(
    shared: &Shared,
    family: Family,
    [condition, more]: &[Condition; 2],
    time: (u64, u32),
    output: &mut Output,
) -> io::Result<()> {
    let table = shared.plane.table();
    let hertz = i64::from(time.1.max(1));
    let mut entries = Vec::new();
    meter::rate_entries(&table.flows(), [condition, more], time, |entry| {
        if entry.family == family {
            entries.push(RateEntry {
                source: address(family, &entry.source),
                destination: address(family, &entry.destination),
                source_port: entry.source_port,
                destination_port: entry.destination_port,
                seconds_left: entry.left / hertz,
                credit: entry.credit,
                credit_max: entry.cap,
                cost: entry.cost,
            });
        }
    });
    entries.sort_by_key(|entry| (entry.source, entry.destination, entry.destination_port));
    let shown = entries.len() as u64;
    for entry in entries {
        let entry = MeterEntry::Rate(entry);
        frame::write(output, &Reply::MeterEntry { entry })?;
    }
    frame::write(output, &Reply::FlowsEnd { shown })
}

/// Tells the client what kept a list from being told.
pub(super) fn told(
    told: Result<io::Result<()>, PlaneError>,
    output: &mut Output,
) -> io::Result<()> {
    told.unwrap_or_else(|error| frame::write(output, &failure(FailureKind::Failed, chain(&error))))
}
