//! Knobs by their sysctl names.

use std::io;

use keepstate_api::{FailureKind, Reply, frame};
use keepstate_engine::host::{FlowMemory, Words};
use keepstate_engine::limits::SLOTS_PER_BUCKET;
use keepstate_engine::settings::{SETTING_ACCOUNTING, SETTING_TIMESTAMP, Settings};
use keepstate_engine::table::gauges;
use keepstate_engine::tuple::Family;
use keepstate_flowmemory::{buckets_for, rated_flows};
use keepstate_listing::sysctl::{Kind, Sysctl, knob, knobs};

use super::Shared;
use super::answer::chain;
use super::connection::{Output, failure};
use super::plane::Plane;

/// Tells one knob, or all in the order of their names.
pub(super) fn tell(shared: &Shared, name: Option<&str>, output: &mut Output) -> io::Result<()> {
    let told = match name {
        None => knobs(),
        Some(name) => knob(name).into_iter().collect(),
    };
    let settings = shared.plane.settings();
    for knob in &told {
        let value = match knob.kind {
            Kind::Count => count(&*shared.plane),
            _ => u64::from(knob.value(&settings).unwrap_or_default()),
        };
        let name = knob.name.to_owned();
        frame::write(output, &Reply::Sysctl { name, value })?;
    }
    let last = match name {
        Some(name) if told.is_empty() => {
            let message = format!("there is no setting `{name}`");
            failure(FailureKind::Invalid, message)
        }
        _ => Reply::Done,
    };
    frame::write(output, &last)
}

/// Flows in the table.
fn count(plane: &dyn Plane) -> u64 {
    let table = plane.table();
    let memory = table.flows();
    let gauge = memory.gauges().map_or(0, |words| words.load(gauges::COUNT));
    // A removal that is counted before its insertion must not look like 2^64 flows.
    (gauge as i64).max(0) as u64
}

pub(super) fn set(shared: &Shared, assignment: &str) -> Reply {
    let invalid = |message: String| failure(FailureKind::Invalid, message);
    let sysctl = match Sysctl::parse(assignment) {
        Ok(sysctl) => sysctl,
        Err(error) => return invalid(error.to_string()),
    };
    let fits = fit(&*shared.plane, sysctl);
    let result = fits
        .and_then(|()| shared.change_settings(|settings| put(&*shared.plane, settings, sysctl)));
    if matches!(sysctl, Sysctl::Events(_)) {
        shared.update_wanted_events();
    }
    result.map_or_else(invalid, |()| Reply::Done)
}

/// Makes the table one that a setting asks for, or is possible with.
pub(crate) fn fit(plane: &dyn Plane, sysctl: Sysctl) -> Result<(), String> {
    let [v4, v6] = plane.table().buckets;
    let wanted = match sysctl {
        Sysctl::FlowsMax(flows) if flows > rated_flows(v4.min(v6)) => buckets_for(flows),
        Sysctl::Buckets(buckets) => {
            // Pairs in two halves.
            let wanted = buckets.next_multiple_of(4);
            if [wanted; 2] == [v4, v6] {
                return Ok(());
            }
            wanted
        }
        _ => return Ok(()),
    };
    plane.resize(Some(wanted)).map_err(|error| chain(&error))
}

/// Puts a setting into settings. The table must [fit] it.
pub(crate) fn put(
    plane: &dyn Plane,
    settings: &mut Settings,
    sysctl: Sysctl,
) -> Result<(), String> {
    let mut changed = *settings;
    sysctl.apply(&mut changed);
    if changed
        .fragments
        .iter()
        .any(|of| of.low_bytes > of.high_bytes)
    {
        return Err("the low threshold would be above the high one".to_owned());
    }
    if let Sysctl::FlowsMax(flows) = sysctl {
        changed.flows_max = flows;
        changed.half_open_max = flows - flows / 8;
    }
    let counts = SETTING_ACCOUNTING | SETTING_TIMESTAMP;
    if changed.flags & !settings.flags & counts != 0 && !has_accounting(plane) {
        let made = plane.make_accounting();
        made.map_err(|error| format!("there is no room for counters: {}", chain(&error)))?;
    }
    *settings = changed;
    Ok(())
}

fn has_accounting(plane: &dyn Plane) -> bool {
    let table = plane.table();
    let [v4, _] = table.buckets;
    let last = v4.saturating_sub(1);
    table
        .flows()
        .accounting(Family::V4, last, SLOTS_PER_BUCKET - 1)
        .is_some()
}
