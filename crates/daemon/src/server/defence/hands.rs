//! What carries steps out.

use std::collections::BTreeMap;

use keepstate_api::{ApplyMode, BanList, CookieChange, CookieMode, Prefix, Reply};
use keepstate_defence::{Action, Defence, Network, Order, Rules, Step, is_in_place, sync};
use keepstate_engine::settings::{COOKIES_ALWAYS, COOKIES_AUTO};
use keepstate_listing::sysctl::knob;
use serde::{Deserialize, Serialize};

use super::super::answer::chain;
use super::super::{Shared, bans, commands, cookies, sysctl};

/// How things were before the steps that are in force.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct Before {
    /// Mode of cookies, where a step has changed it.
    cookies: Option<u32>,
    /// Knobs that steps have changed: what they were, and what they were made.
    timeouts: BTreeMap<String, (u32, u32)>,
    has_rules: bool,
}

pub(super) struct Hands {
    before: Before,
    /// The rules could not be changed yet.
    is_behind: bool,
}

impl Hands {
    pub(super) const fn new(before: Before) -> Self {
        Self {
            before,
            is_behind: false,
        }
    }

    pub(super) const fn before(&self) -> &Before {
        &self.before
    }

    /// Undoes what a daemon that was killed had in force, apart from bans.
    pub(super) fn tidy(&mut self, shared: &Shared) {
        self.end_cookies(shared);
        self.end_timeouts(shared);
        if self.before.has_rules
            && let Err(why) = self.put_rules(shared, &Rules::default())
        {
            crate::complain!("keepstate: {why}");
        }
    }

    /// Carries orders out; what could not be done, and why.
    pub(super) fn carry_out(
        &mut self,
        shared: &Shared,
        defence: &Defence,
        orders: &[Order],
    ) -> Vec<(u32, String)> {
        let mut failed = Vec::new();
        let (mut made, mut changes_rules) = (Vec::new(), false);
        for order in orders {
            match order {
                Order::Tell(_) => {}
                Order::Begin(step) => {
                    if !step.commands.is_empty() {
                        changes_rules = true;
                        made.push(step.number);
                    }
                    if let Err(why) = self.take(shared, step) {
                        failed.push((step.number, why));
                    }
                }
                Order::End(step) => {
                    changes_rules |= !step.commands.is_empty();
                    self.undo(shared, step);
                }
            }
        }
        if changes_rules && let Err(why) = self.put_rules(shared, &defence.rules()) {
            failed.extend(made.into_iter().map(|number| (number, why.clone())));
            // As soon as it can be done, without those that failed.
            self.is_behind = true;
        }
        failed
    }

    fn take(&mut self, shared: &Shared, step: &Step) -> Result<(), String> {
        match &step.action {
            Action::Limit { .. } | Action::Form => Ok(()),
            Action::Cookies => self.begin_cookies(shared),
            Action::Ban { networks } => {
                let wish = bans::Wish {
                    list: BanList::Banned,
                    seconds: Some((step.until - step.began) as u32),
                    cause: Some(format!("defence, step {}", step.number)),
                    more: false,
                };
                match bans::add(shared, &wish, &prefixes(networks)) {
                    Reply::Banned(banned) if banned.refused == 0 => Ok(()),
                    Reply::Banned(banned) => {
                        Err(format!("there was no room for {} bans", banned.refused))
                    }
                    reply => Err(said(&reply)),
                }
            }
            Action::Timeouts { seconds } => {
                for (name, seconds) in seconds {
                    self.shorten(shared, name, *seconds)?;
                }
                Ok(())
            }
        }
    }

    fn undo(&mut self, shared: &Shared, step: &Step) {
        match &step.action {
            Action::Limit { .. } | Action::Form => {}
            Action::Cookies => self.end_cookies(shared),
            Action::Ban { networks } => {
                // Those that are over are gone already.
                bans::remove(shared, BanList::Banned, &prefixes(networks));
            }
            Action::Timeouts { .. } => self.end_timeouts(shared),
        }
    }

    fn begin_cookies(&mut self, shared: &Shared) -> Result<(), String> {
        if self.before.cookies.is_some() {
            return Ok(());
        }
        let before = shared.plane.settings().cookies.mode;
        let set = cookies::set(shared, &of(CookieMode::Always));
        self.before.cookies = Some(before);
        match set {
            Ok(Reply::Cookies(status)) if status.active => Ok(()),
            Ok(Reply::Cookies(status)) => {
                self.end_cookies(shared);
                Err(status.obstacles.join("; "))
            }
            Ok(reply) => Err(said(&reply)),
            Err(error) => Err(chain(&error)),
        }
    }

    fn end_cookies(&mut self, shared: &Shared) {
        let Some(before) = self.before.cookies.take() else {
            return;
        };
        if shared.plane.settings().cookies.mode != COOKIES_ALWAYS {
            // Somebody has said otherwise since.
            return;
        }
        let mode = match before {
            COOKIES_ALWAYS => CookieMode::Always,
            COOKIES_AUTO => CookieMode::Auto,
            _ => CookieMode::Never,
        };
        if let Err(error) = cookies::set(shared, &of(mode)) {
            crate::complain!("keepstate: {}", chain(&error));
        }
    }

    /// Never makes one longer.
    fn shorten(&mut self, shared: &Shared, name: &str, seconds: u32) -> Result<(), String> {
        let is = knob(name).and_then(|knob| knob.value(&shared.plane.settings()));
        let Some(is) = is.filter(|is| *is > seconds) else {
            return Ok(());
        };
        match sysctl::set(shared, &format!("{name}={seconds}")) {
            Reply::Done => {
                self.before.timeouts.insert(name.to_owned(), (is, seconds));
                Ok(())
            }
            reply => Err(said(&reply)),
        }
    }

    fn end_timeouts(&mut self, shared: &Shared) {
        for (name, (was, made)) in std::mem::take(&mut self.before.timeouts) {
            let is = knob(&name).and_then(|knob| knob.value(&shared.plane.settings()));
            if is == Some(made) {
                sysctl::set(shared, &format!("{name}={was}"));
            }
        }
    }

    /// Puts the rules in again where somebody has put others in force.
    pub(super) fn see_to_rules(&mut self, shared: &Shared, wanted: &Rules) {
        if wanted.is_empty() && !self.is_behind {
            return;
        }
        let is_right = || {
            let state = shared.rules.lock();
            let policy = commands::current(shared, &state).ok().flatten();
            policy.is_none_or(|mut policy| is_in_place(&mut policy, wanted))
        };
        if self.is_behind || !is_right() {
            self.is_behind = self.put_rules(shared, wanted).is_err();
        }
    }

    fn put_rules(&mut self, shared: &Shared, wanted: &Rules) -> Result<(), String> {
        let mut state = shared.rules.lock();
        let current = commands::current(shared, &state).map_err(|error| chain(&error))?;
        let Some(mut policy) = current else {
            return Err(commands::UNKNOWN.to_owned());
        };
        sync(&mut policy, wanted).map_err(|error| error.to_string())?;
        let origins = commands::origins(&state, "defence");
        let mode = ApplyMode::Swap;
        let replaced = shared
            .rules
            .replace(&*shared.plane, &mut state, policy, origins, mode);
        replaced.map_err(|error| commands::told(&error))?;
        self.before.has_rules = !wanted.is_empty();
        self.is_behind = false;
        Ok(())
    }
}

fn prefixes(networks: &[Network]) -> Vec<Prefix> {
    let prefix = |network: &Network| Prefix::new(network.address(), network.length());
    networks.iter().filter_map(prefix).collect()
}

fn said(reply: &Reply) -> String {
    match reply {
        Reply::Failed(failure) => failure.message.clone(),
        _ => "it could not be done".to_owned(),
    }
}

/// For this host.
fn of(mode: CookieMode) -> CookieChange {
    CookieChange {
        mode: Some(mode),
        ..CookieChange::default()
    }
}
