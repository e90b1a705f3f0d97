//! The last ten minutes, so that a page that is opened has curves at once.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use keepstate_api::{DefenceStatus, Reply, Request, Status};
use serde::Serialize;

use super::link::{Broker, Link};
use crate::health::{self, Finding};

const EVERY: Duration = Duration::from_secs(1);

/// Samples that are kept, one a second.
const SAMPLES_MAX: usize = 600;

/// Alerts look at what happened within so many seconds.
const ALERT_SECONDS: usize = 60;

/// Counters at one moment; rates are the difference of two.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Sample {
    /// Milliseconds since 1970.
    pub(super) time: u64,
    pub(super) flows: u64,
    pub(super) half_open: u64,
    pub(super) inserted: u64,
    pub(super) packets: u64,
    pub(super) accepted: u64,
    pub(super) dropped: u64,
}

/// What the daemon said last.
#[derive(Clone, Debug)]
pub(super) struct Now {
    pub(super) sample: Sample,
    pub(super) status: Box<Status>,
    pub(super) defence: Box<DefenceStatus>,
    pub(super) findings: Vec<Finding>,
}

#[derive(Default)]
struct Kept {
    samples: VecDeque<Sample>,
    statuses: VecDeque<Box<Status>>,
    now: Option<Now>,
    silent: Option<String>,
}

#[derive(Clone, Default)]
pub(super) struct History(Arc<Mutex<Kept>>);

impl History {
    /// Asks the daemon every second for as long as the process lives.
    pub(super) fn keep(&self, broker: Broker) {
        let own = self.clone();
        thread::spawn(move || {
            let mut link = Link::new(broker);
            loop {
                let asked = link.ask(&Request::Status);
                match asked.and_then(|status| Ok((status, link.ask(&Request::Defence)?))) {
                    Ok((Reply::Status(status), Reply::Defence(defence))) => {
                        own.take(status, defence, unix_ms());
                    }
                    Ok(_) => own.lock().silent = Some("the daemon is not understood".to_owned()),
                    Err(error) => own.lock().silent = Some(format!("{error:#}")),
                }
                thread::sleep(EVERY);
            }
        });
    }

    fn take(&self, status: Box<Status>, defence: Box<DefenceStatus>, time: u64) {
        let verdict = |name: &str| status.traffic.verdicts.get(name).copied().unwrap_or(0);
        let sample = Sample {
            time,
            flows: status.table.flows,
            half_open: status.table.half_open,
            inserted: status.table.inserted,
            packets: status.traffic.states.values().sum(),
            accepted: verdict("ACCEPT"),
            dropped: verdict("DROP") + verdict("REJECT"),
        };
        let mut kept = self.lock();
        // The counters of other programs begin anew.
        if kept
            .statuses
            .back()
            .is_some_and(|last| last.pid != status.pid)
        {
            kept.statuses.clear();
        }
        kept.silent = None;
        kept.samples.push_back(sample.clone());
        kept.statuses.push_back(status.clone());
        if kept.samples.len() > SAMPLES_MAX {
            kept.samples.pop_front();
        }
        if kept.statuses.len() > ALERT_SECONDS {
            kept.statuses.pop_front();
        }
        let before = kept.statuses.front().map(|before| &**before);
        let mut findings = health::of_defence(&defence);
        findings.extend(health::of_status(&status, before));
        kept.now = Some(Now {
            sample,
            status,
            defence,
            findings,
        });
    }

    pub(super) fn samples(&self) -> Vec<Sample> {
        self.lock().samples.iter().cloned().collect()
    }

    /// The latest, or why there is none.
    pub(super) fn now(&self) -> Result<Now, String> {
        let kept = self.lock();
        match (&kept.silent, &kept.now) {
            (Some(why), _) => Err(why.clone()),
            (None, Some(now)) => Ok(now.clone()),
            (None, None) => Err("the daemon has not answered yet".to_owned()),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Kept> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn unix_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.unwrap_or_default().as_millis() as u64
}
