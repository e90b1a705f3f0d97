//! Timeout policies: their names and protocols here, their seconds in the settings.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Mutex;

use keepstate_api::{FailureKind, Reply, TimeoutPolicy};
use keepstate_engine::limits::TIMEOUT_POLICIES_MAX;
use keepstate_engine::settings::{Settings, TIMEOUTS};
use keepstate_listing::timeout as listing;
use serde::{Deserialize, Serialize};

use super::Shared;
use super::connection::failure;
use super::plane::Plane;
use crate::lock;

const FILE: &str = "timeouts.json";

/// The policies that there are. The lock is held before that of the settings.
pub(crate) struct Timeouts {
    directory: PathBuf,
    kept: Mutex<Vec<Kept>>,
}

/// What a later daemon must know of a policy that is not in the kernel.
#[derive(Clone, Serialize, Deserialize)]
struct Kept {
    /// What records have of it: one for the first of [`Settings::policies`].
    number: u8,
    name: String,
    version: u8,
    protocol: u8,
}

impl Timeouts {
    /// What an earlier daemon has left. Of a policy whose seconds are gone nothing is left.
    pub(crate) fn recall(directory: PathBuf, settings: &Settings) -> Self {
        let text = fs::read_to_string(directory.join(FILE)).unwrap_or_default();
        let mut kept: Vec<Kept> = serde_json::from_str(&text).unwrap_or_default();
        kept.retain(|policy| {
            seconds(settings, policy.number).is_some_and(|own| *own != [0; TIMEOUTS])
        });
        Self {
            directory,
            kept: Mutex::new(kept),
        }
    }

    pub(super) fn list(&self, plane: &dyn Plane) -> Reply {
        let settings = plane.settings();
        let kept = lock(&self.kept);
        let told = kept.iter().map(|policy| {
            let Kept {
                number,
                name,
                version,
                protocol,
            } = policy.clone();
            let blank = listing::TimeoutPolicy {
                name,
                version,
                protocol,
                seconds: BTreeMap::new(),
            };
            let own = seconds(&settings, number).unwrap_or(&[0; TIMEOUTS]);
            let listing::TimeoutPolicy { name, seconds, .. } = blank.decompiled(own);
            TimeoutPolicy {
                name,
                version,
                protocol,
                seconds,
            }
        });
        Reply::TimeoutPolicies {
            policies: told.collect(),
        }
    }

    /// Writes down what there is; the error is for whoever asked for it.
    fn keep(&self, kept: &[Kept]) -> Result<(), String> {
        let text = serde_json::to_string(kept).map_err(|error| error.to_string())?;
        let path = self.directory.join(FILE);
        fs::write(&path, text).map_err(|error| format!("{}: {error}", path.display()))
    }
}

/// Numbers of the policies that there are, by their names, from where a daemon keeps them.
pub(super) fn numbers(directory: &Path) -> BTreeMap<String, u8> {
    let text = fs::read_to_string(directory.join(FILE)).unwrap_or_default();
    let kept: Vec<Kept> = serde_json::from_str(&text).unwrap_or_default();
    let named = kept.into_iter().map(|policy| (policy.name, policy.number));
    named.collect()
}

fn seconds(settings: &Settings, number: u8) -> Option<&[u32; TIMEOUTS]> {
    settings.policies.get(usize::from(number).checked_sub(1)?)
}

/// Makes a policy. One of that name that is there already is changed, if it is for the same protocol:
/// flows that have it follow.
pub(super) fn add(shared: &Shared, policy: TimeoutPolicy) -> Reply {
    let invalid = |message: String| failure(FailureKind::Invalid, message);
    let TimeoutPolicy {
        name,
        version,
        protocol,
        seconds,
    } = policy;
    if !matches!(version, 4 | 6) {
        return invalid("policies are for version 4 or 6".to_owned());
    }
    let timeouts = &shared.timeouts;
    let mut kept = lock(&timeouts.kept);
    let there = kept.iter().find(|policy| policy.name == name);
    let number = match there {
        Some(there) if (there.version, there.protocol) != (version, protocol) => {
            return invalid(format!("{name} is there, for another protocol"));
        }
        Some(there) => there.number,
        None => {
            let is_free = |number: &u8| kept.iter().all(|policy| policy.number != *number);
            let mut numbers = 1..=TIMEOUT_POLICIES_MAX as u8;
            match numbers.find(is_free) {
                Some(number) => number,
                None => {
                    return invalid(format!("there are {TIMEOUT_POLICIES_MAX} policies already"));
                }
            }
        }
    };
    let is_new = there.is_none();
    let text = listing::TimeoutPolicy {
        name: name.clone(),
        version,
        protocol,
        seconds,
    };
    let stored = shared.change_settings(|settings| {
        let compiled = text.compile(settings).map_err(|error| error.to_string())?;
        if let Some(slot) = settings.policies.get_mut(usize::from(number) - 1) {
            *slot = compiled;
        }
        Ok(())
    });
    if let Err(message) = stored {
        return invalid(message);
    }
    if is_new {
        kept.push(Kept {
            number,
            name,
            version,
            protocol,
        });
    }
    timeouts.keep(&kept).map_or_else(invalid, |()| Reply::Done)
}

/// Removes a policy, or all. Flows that have it are left with the timeouts of the sysctls.
pub(super) fn remove(shared: &Shared, name: Option<&str>) -> Reply {
    let invalid = |message: String| failure(FailureKind::Invalid, message);
    let timeouts = &shared.timeouts;
    let mut kept = lock(&timeouts.kept);
    let goes = |policy: &Kept| name.is_none_or(|name| policy.name == name);
    let gone: Vec<u8> = kept
        .iter()
        .filter(|policy| goes(policy))
        .map(|policy| policy.number)
        .collect();
    if let (Some(name), true) = (name, gone.is_empty()) {
        return invalid(format!("there is no timeout policy {name}"));
    }
    let used = kept
        .iter()
        .find(|policy| goes(policy) && shared.rules.name_timeouts(&policy.name));
    if let Some(Kept { name, .. }) = used {
        return invalid(format!("a rule in force names the timeout policy {name}"));
    }
    let result: Result<(), std::convert::Infallible> = shared.change_settings(|settings| {
        for number in &gone {
            if let Some(slot) = settings.policies.get_mut(usize::from(*number) - 1) {
                *slot = [0; TIMEOUTS];
            }
        }
        Ok(())
    });
    let Ok(()) = result;
    kept.retain(|policy| !goes(policy));
    timeouts.keep(&kept).map_or_else(invalid, |()| Reply::Done)
}
