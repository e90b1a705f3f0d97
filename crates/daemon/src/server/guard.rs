//! Rules that wait for confirmation: unless it comes in time, those before them come back.
//!
//! What comes back and when lies in a file, so that it happens whatever becomes of the client. A daemon
//! that dies meanwhile leaves the new rules filtering; the next one keeps to the time, and does at once
//! what is overdue.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use keepstate_api::CONFIRM_SECONDS_MAX;
use keepstate_engine::time::Tick;
use serde::{Deserialize, Serialize};

use super::Shared;
use super::answer::chain;
use super::plane::Plane;
use super::rules::{ApplyError, InForce, Kept, Rules};

/// Why nothing else can be changed meanwhile: what would come back was not made with it in mind.
pub(super) const WAITING: &str = "rules wait for confirmation: `keepstate confirm` keeps them, \
                                  `keepstate confirm --rollback` brings those before them back";

const UNKNOWN: &str = "the text of the rules in force is not known, so they could not come back: \
                       apply without --confirm";

const NOTHING: &str = "no rules wait for confirmation";

const TOO_LONG: &str = "rules wait for confirmation for 1 to 86400 seconds";

const FILE: &str = "rules.pending.json";

/// How often the time is looked at.
const STEP: Duration = Duration::from_millis(250);

/// What comes back, and when.
#[derive(Clone, Serialize, Deserialize)]
pub(super) struct Pending {
    /// A [`Tick`] of the plane. It goes on while no daemon runs, and starts anew with the machine, as
    /// the directory does that this is kept in.
    deadline: u32,
    before: Kept,
}

impl Pending {
    pub(super) fn begin(
        plane: &dyn Plane,
        in_force: &InForce,
        seconds: u32,
    ) -> Result<Self, ApplyError> {
        if !(1..=CONFIRM_SECONDS_MAX).contains(&seconds) {
            return Err(ApplyError::Guard(TOO_LONG));
        }
        let before = match in_force {
            InForce::Nothing => Kept::nothing(),
            InForce::Known(known) => known.kept_counted(plane)?,
            InForce::Unknown => return Err(ApplyError::Guard(UNKNOWN)),
        };
        let deadline = plane.now().after_seconds(seconds).0;
        Ok(Self { deadline, before })
    }

    /// What an earlier daemon has left.
    pub(super) fn recall(directory: &Path) -> Option<Self> {
        let text = std::fs::read(directory.join(FILE)).ok()?;
        serde_json::from_slice(&text).ok()
    }

    pub(super) fn keep(&self, directory: &Path) -> Result<(), ApplyError> {
        let path = directory.join(FILE);
        let text = serde_json::to_string(self)
            .map_err(|error| ApplyError::Keep(path.clone(), error.into()))?;
        std::fs::write(&path, text).map_err(|error| ApplyError::Keep(path, error))
    }

    pub(super) const fn before(&self) -> &Kept {
        &self.before
    }

    pub(super) fn seconds_left(&self, now: Tick) -> u32 {
        Tick(self.deadline).seconds_left(now)
    }

    fn is_due(&self, now: Tick) -> bool {
        Tick(self.deadline).has_passed(now)
    }
}

/// Nothing comes back any more.
pub(super) fn forget(directory: &Path) {
    // Where it was not there, nothing is to be done.
    let _ = std::fs::remove_file(directory.join(FILE));
}

impl Rules {
    /// Keeps the rules that wait.
    pub fn confirm(&self) -> Result<(), ApplyError> {
        match self.lock().pending.take() {
            Some(_) => forget(&self.directory()),
            None => return Err(ApplyError::Guard(NOTHING)),
        }
        Ok(())
    }

    /// Brings the rules before those that wait back.
    pub fn roll_back(&self, plane: &dyn Plane) -> Result<(), ApplyError> {
        let mut state = self.lock();
        let Some(pending) = state.pending.clone() else {
            return Err(ApplyError::Guard(NOTHING));
        };
        self.bring_back(plane, &mut state, &pending.before)?;
        state.pending = None;
        forget(&self.directory());
        Ok(())
    }

    /// Whether rules wait, and their time has passed.
    fn is_overdue(&self, plane: &dyn Plane) -> bool {
        let state = self.lock();
        state
            .pending
            .as_ref()
            .is_some_and(|it| it.is_due(plane.now()))
    }
}

/// Looks at the time until the server ends.
pub(super) fn run(shared: &Arc<Shared>) {
    loop {
        if shared.rules.is_overdue(&*shared.plane) {
            match shared.rules.roll_back(&*shared.plane) {
                Ok(()) => {
                    crate::complain!("keepstate: nobody confirmed: the rules before are back")
                }
                // Tried again: what was not confirmed must not stay for want of a disk.
                Err(error) => crate::complain!(
                    "keepstate: the rules before cannot be brought back: {}",
                    chain(&error)
                ),
            }
        }
        if shared.sleep(STEP) {
            return;
        }
    }
}

#[cfg(test)]
#[path = "guard_tests.rs"]
mod tests;
