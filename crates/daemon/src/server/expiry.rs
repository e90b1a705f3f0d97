//! The search for flows whose time is up.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use keepstate_api::{EventKind, ExpiryStatus};
use keepstate_engine::settings::SETTING_FLOW_EVENTS;
use keepstate_engine::table;
use keepstate_engine::time::TICKS_PER_SECOND;
use keepstate_engine::tuple::Family;

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
        for step in 0..STEPS {
            lag_ms = lag_ms.max(search(shared, step));
            if shared.sleep(ROUND / STEPS) {
                return;
            }
        }
        let expiry = &shared.expiry;
        let round_ms = begun.elapsed().as_millis() as u64;
        expiry.round_ms.store(round_ms, Ordering::Relaxed);
        expiry.lag_ms.store(lag_ms, Ordering::Relaxed);
    }
}

/// Searches one part of the table; returns how late the latest removal was.
fn search(shared: &Shared, step: u32) -> u64 {
    let plane = &*shared.plane;
    let settings = plane.settings();
    let tells = settings.has(SETTING_FLOW_EVENTS);
    let [v4, v6] = settings.buckets;
    let (mut removed, mut latest) = (0, 0);
    for (family, buckets) in [(Family::V4, v4), (Family::V6, v6)] {
        let bound = |step: u32| (u64::from(buckets) * u64::from(step) / u64::from(STEPS)) as u32;
        let now = plane.now();
        let part = bound(step)..bound(step + 1);
        table::sweep(&plane.flows(), family, part, now, |entry| {
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
