//! The search for flows whose time is up.

use std::ops::Range;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use keepstate_api::{EventKind, ExpiryStatus};
use keepstate_engine::event::told;
use keepstate_engine::fragment;
use keepstate_engine::host::{FlowMemory as _, Words as _};
use keepstate_engine::limits::FRAGMENT_BUCKETS;
use keepstate_engine::settings::{
    SETTING_ACCOUNTING, SETTING_ACCOUNTING_ENDS, SETTING_FLOW_EVENTS, Settings, Timeout,
};
use keepstate_engine::table::{self, Entry, gauges};
use keepstate_engine::time::{TICKS_PER_SECOND, Tick};

use super::aftermath::Aftermath;
use super::answer::chain;
use super::tables::Table;
use super::{Shared, events, expectations};

/// The whole table is gone through in this time, in steps; so late is the end of a flow at most, and a
/// step more.
const ROUND: Duration = Duration::from_millis(500);
const STEPS: u32 = 10;

/// Rounds between two looks at what takes longer than a table of a million flows: expectations, and
/// whether any flow is still counted.
const ROUNDS_OF_OTHERS: u32 = 8;

/// What the search has done.
#[derive(Default)]
pub(crate) struct Expiry {
    /// Set when a deadline was set by hand, which may be any.
    pub(super) was_edited: AtomicBool,
    removed: AtomicU64,
    round_ms: AtomicU64,
    lag_ms: AtomicU64,
    /// Most flows at a time.
    peak: AtomicU64,
}

impl Expiry {
    pub(crate) fn status(&self) -> ExpiryStatus {
        ExpiryStatus {
            removed: self.removed.load(Ordering::Relaxed),
            round_ms: self.round_ms.load(Ordering::Relaxed),
            lag_ms: self.lag_ms.load(Ordering::Relaxed),
        }
    }

    pub(crate) fn peak(&self) -> u64 {
        self.peak.load(Ordering::Relaxed)
    }
}

/// Searches round after round until the server ends.
pub(crate) fn run(shared: &Shared, mut aftermath: Aftermath) {
    let mut due = Due::default();
    for round in 0_u32.. {
        let begun = Instant::now();
        let mut lag_ms = 0;
        if round % ROUNDS_OF_OTHERS == 0 {
            expectations::sweep(shared);
            if let Err(error) = shared.plane.sweep_meters() {
                crate::complain!("keepstate: {}", chain(&error));
            }
            if round > 0 {
                aftermath.clear(&*shared.plane);
            }
            if let Err(error) = shared.plane.resize(None) {
                crate::complain!("keepstate: {}", chain(&error));
            }
            if shared.plane.settings().has(SETTING_ACCOUNTING_ENDS) && !finds_counted(shared) {
                end_accounting(shared);
            }
        }
        due.begin(shared);
        for step in 0..STEPS {
            shared
                .expiry
                .peak
                .fetch_max(flows(shared), Ordering::Relaxed);
            lag_ms = lag_ms.max(search(shared, &mut due, step));
            if shared.sleep((ROUND / STEPS * (step + 1)).saturating_sub(begun.elapsed())) {
                return;
            }
        }
        let expiry = &shared.expiry;
        let round_ms = begun.elapsed().as_millis() as u64;
        expiry.round_ms.store(round_ms, Ordering::Relaxed);
        expiry.lag_ms.store(lag_ms, Ordering::Relaxed);
    }
}

fn flows(shared: &Shared) -> u64 {
    let table = shared.plane.table();
    let memory = table.flows();
    let count = memory.gauges().map_or(0, |words| words.load(gauges::COUNT));
    // A removal may be counted before its insertion.
    (count as i64).max(0) as u64
}

/// When the buckets of the table are worth a look.
///
/// A record whose bucket was looked at lasts at least until the first deadline that was seen there; one
/// that was made or changed since lasts at least as long as the shortest timeout that there is. So a bucket
/// need not be looked at before the earlier of the two, which leaves most of the table alone in most
/// rounds.
#[derive(Default)]
struct Due {
    /// By family, by bucket.
    at: [Vec<Tick>; 2],
    /// The shortest timeout, in ticks.
    shortest: u32,
}

impl Due {
    /// Takes note of what changed since the last round.
    fn begin(&mut self, shared: &Shared) {
        let plane = &*shared.plane;
        let shortest = shortest(&plane.settings());
        let tables = plane.tables();
        let sizes = |tables: &[Table]| tables.last().map(|table| table.buckets);
        let is_same =
            self.at.each_ref().map(|at| at.len() as u32) == sizes(&tables).unwrap_or([0; 2]);
        let was_edited = shared.expiry.was_edited.swap(false, Ordering::Relaxed);
        if !is_same || tables.len() > 1 || was_edited || shortest < self.shortest {
            let now = plane.now();
            let buckets = sizes(&tables).unwrap_or([0; 2]);
            self.at = buckets.map(|buckets| vec![now; buckets as usize]);
        }
        self.shortest = shortest;
    }
}

/// The shortest timeout in force, in ticks.
fn shortest(settings: &Settings) -> u32 {
    let named = Timeout::ALL
        .iter()
        .map(|timeout| settings.seconds(*timeout));
    let policies = settings.policies.iter().flatten().copied();
    let seconds = named.chain(policies.filter(|seconds| *seconds != 0)).min();
    seconds.unwrap_or(0).saturating_mul(TICKS_PER_SECOND)
}

/// The buckets of a step.
fn part(buckets: u32, step: u32) -> Range<u32> {
    let bound = |step: u32| (u64::from(buckets) * u64::from(step) / u64::from(STEPS)) as u32;
    bound(step)..bound(step + 1)
}

/// Whether a flow has counters.
fn finds_counted(shared: &Shared) -> bool {
    (0..STEPS).any(|step| finds_counted_in(shared, step))
}

fn finds_counted_in(shared: &Shared, step: u32) -> bool {
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
fn search(shared: &Shared, due: &mut Due, step: u32) -> u64 {
    let plane = &*shared.plane;
    let tells = plane.settings().has(SETTING_FLOW_EVENTS);
    let (mut removed, mut latest) = (0, 0);
    let tables = plane.tables();
    let last = tables.last().expect("there is always a table");
    fragment::sweep(&last.flows(), part(FRAGMENT_BUCKETS, step), plane.now());
    for (number, table) in tables.iter().enumerate() {
        let is_last = number + 1 == tables.len();
        let flows = table.flows();
        for ((family, buckets), at) in table.families().into_iter().zip(&mut due.at) {
            let now = plane.now();
            let mut show = |entry: &Entry| {
                removed += 1;
                latest = latest.max(now.0.wrapping_sub(entry.record.deadline.0));
                let (kind, events) = (EventKind::Destroy, told::DESTROY);
                if tells {
                    events::publish_record(shared, kind, entry, now, None, events);
                }
            };
            let part = part(buckets, step);
            if !is_last || at.len() != buckets as usize {
                // While there are two tables, or the size has just changed.
                table::sweep(&flows, family, part, now, show);
                continue;
            }
            for (bucket, due_at) in part
                .clone()
                .zip(&mut at[part.start as usize..part.end as usize])
            {
                if due_at.has_passed(now) {
                    let first = table::sweep(&flows, family, bucket..bucket + 1, now, &mut show);
                    *due_at = Tick(now.0.wrapping_add(first.min(due.shortest)));
                }
            }
        }
    }
    shared.expiry.removed.fetch_add(removed, Ordering::Relaxed);
    u64::from(latest) * 1000 / u64::from(TICKS_PER_SECOND)
}
