//! The search for flows whose time is up.

use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use keepstate_api::{EventKind, ExpiryStatus};
use keepstate_engine::fragment;
use keepstate_engine::limits::FRAGMENT_BUCKETS;
use keepstate_engine::settings::{
    SETTING_ACCOUNTING, SETTING_ACCOUNTING_ENDS, SETTING_FLOW_EVENTS,
};
use keepstate_engine::table;
use keepstate_engine::time::TICKS_PER_SECOND;

use super::answer::chain;
use super::{Shared, events, expectations};

/// The whole table is searched in this time, in steps.
const ROUND: Duration = Duration::from_secs(4);
const STEPS: u32 = 80;

/// What the search has done.
#[derive(Default)]
pub(crate) struct Expiry {
    removed: AtomicU64,
    round_ms: AtomicU64,
    lag_ms: AtomicU64,
}

impl Expiry {
    pub(crate) fn status(&self) -> ExpiryStatus {
        ExpiryStatus {
            removed: self.removed.load(Ordering::Relaxed),
            round_ms: self.round_ms.load(Ordering::Relaxed),
            lag_ms: self.lag_ms.load(Ordering::Relaxed),
        }
    }
}

/// Searches round after round until the server ends.
pub(crate) fn run(shared: &Shared) {
    loop {
        let begun = Instant::now();
        let mut lag_ms = 0;
        expectations::sweep(shared);
        if let Err(error) = shared.plane.resize(None) {
            eprintln!("keepstate: {}", chain(&error));
        }
        let ends_at_first = shared.plane.settings().has(SETTING_ACCOUNTING_ENDS);
        let mut counted = false;
        for step in 0..STEPS {
            lag_ms = lag_ms.max(search(shared, step));
            counted = counted || (ends_at_first && finds_counted(shared, step));
            if shared.sleep(ROUND / STEPS) {
                return;
            }
        }
        let expiry = &shared.expiry;
        let round_ms = begun.elapsed().as_millis() as u64;
        expiry.round_ms.store(round_ms, Ordering::Relaxed);
        expiry.lag_ms.store(lag_ms, Ordering::Relaxed);
        if ends_at_first && !counted {
            end_accounting(shared);
        }
    }
}

/// The buckets of a step.
fn part(buckets: u32, step: u32) -> Range<u32> {
    let bound = |step: u32| (u64::from(buckets) * u64::from(step) / u64::from(STEPS)) as u32;
    bound(step)..bound(step + 1)
}

/// Whether one part of the table has flows with counters.
fn finds_counted(shared: &Shared, step: u32) -> bool {
    let plane = &*shared.plane;
    let mut found = false;
    for table in plane.tables() {
        for (family, buckets) in table.families() {
            let part = part(buckets, step);
            table::visit(&table.flows(), family, part, plane.now(), |entry| {
                found |= entry.counters().is_some();
            });
        }
    }
    found
}

/// Accounting was turned off, and no flow has counters any more: packets need not be counted.
fn end_accounting(shared: &Shared) {
    let result: Result<(), std::convert::Infallible> = shared.change_settings(|settings| {
        // It may have been turned on again.
        if settings.has(SETTING_ACCOUNTING_ENDS) {
            settings.flags &= !(SETTING_ACCOUNTING | SETTING_ACCOUNTING_ENDS);
        }
        Ok(())
    });
    let Ok(()) = result;
}

/// Searches one part of the table; returns how late the latest removal was.
fn search(shared: &Shared, step: u32) -> u64 {
    let plane = &*shared.plane;
    let settings = plane.settings();
    let tells = settings.has(SETTING_FLOW_EVENTS);
    let (mut removed, mut latest) = (0, 0);
    let flows = plane.table();
    fragment::sweep(&flows.flows(), part(FRAGMENT_BUCKETS, step), plane.now());
    let tables = plane.tables();
    let parts = tables
        .iter()
        .flat_map(|table| table.families().map(|family| (table, family)));
    for (table, (family, buckets)) in parts {
        let now = plane.now();
        table::sweep(&table.flows(), family, part(buckets, step), now, |entry| {
            removed += 1;
            latest = latest.max(now.0.wrapping_sub(entry.record.deadline.0));
            if tells {
                let kind = EventKind::Destroy;
                let event = events::of_record(shared, kind, entry, now, None);
                shared.hub.publish(event);
            }
        });
    }
    shared.expiry.removed.fetch_add(removed, Ordering::Relaxed);
    u64::from(latest) * 1000 / u64::from(TICKS_PER_SECOND)
}
