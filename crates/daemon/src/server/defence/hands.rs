//! What carries steps out.

use std::collections::BTreeMap;

use keepstate_api::{ApplyMode, BanList, CookieChange, CookieMode, Prefix, Reply};
use keepstate_defence::{
    Action, Defence, Form, Network, Order, Refusals, Rules, Step, StepState, is_in_place, sync,
};
use keepstate_engine::ban::Kind;
use keepstate_engine::limits::FORMS_MAX;
use keepstate_engine::rate::Rate;
use keepstate_engine::refusal as engine;
use keepstate_engine::settings::{COOKIES_ALWAYS, COOKIES_AUTO, SETTING_FORMS};
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
    /// Networks that are limited, and forms that are refused: numbers of what a step has put there.
    #[serde(default)]
    limits: u64,
    #[serde(default)]
    forms: u64,
}

/// How often it is said that limits and forms go on, and for how long whom they pass over is remembered without that.
const REFRESH_SECONDS: u64 = 5;
const KEEP_SECONDS: u32 = 60;

/// What is left of a step's time, in seconds.
fn seconds_to(until: u64, now: u64) -> u32 {
    until.saturating_sub(now).clamp(1, 3600) as u32
}

pub(super) struct Hands {
    before: Before,
    /// The rules could not be changed yet.
    is_behind: bool,
    refusals: Refusals,
    /// Second in which they were put there.
    refused_at: u64,
}

impl Hands {
    pub(super) fn new(before: Before) -> Self {
        Self {
            before,
            is_behind: false,
            refusals: Refusals::default(),
            refused_at: 0,
        }
    }

    pub(super) const fn before(&self) -> &Before {
        &self.before
    }

    /// Undoes what a daemon that was killed had in force, apart from bans and what its steps go on with.
    pub(super) fn tidy(&mut self, shared: &Shared, defence: &Defence) {
        let steps = defence.steps().iter();
        let active = steps.filter(|step| step.state == StepState::Active);
        let active: Vec<&Action> = active.map(|step| &step.action).collect();
        // Whoever undoes a step before the first second is over undoes these.
        self.refusals = defence.refusals();
        let refusals = &self.refusals;
        if self.before.limits > 0 && refusals.limits.is_empty() {
            bans::forget_kept(shared);
        }
        if self.before.forms > 0 && refusals.forms.is_empty() {
            self.put_forms(shared, &[], 0);
        }
        if !active.contains(&&Action::Cookies) {
            self.end_cookies(shared);
        }
        let is_of_timeouts = |it: &&Action| matches!(it, Action::Timeouts { .. });
        if !active.iter().any(is_of_timeouts) {
            self.end_timeouts(shared);
        }
        if self.before.has_rules
            && defence.rules().is_empty()
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
                    if step.makes_rules() {
                        changes_rules = true;
                        made.push(step.number);
                    }
                    if let Err(why) = self.take(shared, step) {
                        failed.push((step.number, why));
                    }
                }
                Order::Extend(step) => {
                    if let Err(why) = self.take(shared, step) {
                        failed.push((step.number, why));
                    }
                }
                Order::End(step) => {
                    changes_rules |= step.makes_rules();
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

    /// Puts limits and forms in force, where others are wanted than there are, and says every few seconds that they go
    /// on: what nobody says that of ends by itself. Steps for which there was no room.
    pub(super) fn refuse(&mut self, shared: &Shared, wanted: Refusals, now: u64) -> Option<String> {
        let is_same = |one: &Refusals, other: &Refusals| {
            let ends = |it: &Refusals| -> Vec<(Network, Rate)> {
                let limits = it.limits.iter();
                limits.map(|limit| (limit.network, limit.rate())).collect()
            };
            let forms = |it: &Refusals| -> Vec<Form> {
                let forms = it.forms.iter().cloned();
                forms.map(|form| Form { until: 0, ..form }).collect()
            };
            ends(one) == ends(other) && forms(one) == forms(other) && one.spared == other.spared
        };
        let is_due = now >= self.refused_at + REFRESH_SECONDS;
        let is_in_force = !wanted.is_empty() || !self.refusals.is_empty();
        if is_same(&wanted, &self.refusals) && !(is_due && is_in_force) {
            return None;
        }
        let before = std::mem::replace(&mut self.refusals, wanted);
        self.refused_at = now;
        let limited = |it: &Refusals| -> Vec<Network> {
            it.limits.iter().map(|limit| limit.network).collect()
        };
        let gone = |before: Vec<Network>, now: &[Network]| {
            let gone = before.into_iter().filter(|network| !now.contains(network));
            prefixes(&gone.collect::<Vec<_>>())
        };
        let limits_now = limited(&self.refusals);
        let over = gone(limited(&before), &limits_now);
        bans::let_go(shared, &over, Kind::Ban);
        let no_more = gone(before.spared, &self.refusals.spared);
        bans::let_go(shared, &no_more, Kind::Spared);
        self.before.limits = limits_now.len() as u64;
        self.before.forms = self.refusals.forms.len() as u64;
        let kept = self.keep(shared, now);
        let forms = std::mem::take(&mut self.refusals.forms);
        self.put_forms(shared, &forms, now);
        self.refusals.forms = forms;
        kept.err()
    }

    fn keep(&self, shared: &Shared, now: u64) -> Result<(), String> {
        let networks = |of: &[(Network, Option<Rate>)]| -> Vec<(Prefix, Option<Rate>)> {
            let all = of.iter().filter_map(|(network, rate)| {
                Some((Prefix::new(network.address(), network.length())?, *rate))
            });
            all.collect()
        };
        let mut refused = 0;
        let mut steps: Vec<u32> = self.refusals.limits.iter().map(|it| it.step).collect();
        steps.dedup();
        for step in steps {
            let own = self.refusals.limits.iter().filter(|it| it.step == step);
            let until = own.clone().map(|limit| limit.until).max().unwrap_or(now);
            let limits: Vec<_> = own
                .map(|limit| (limit.network, Some(limit.rate())))
                .collect();
            refused += bans::keep(
                shared,
                &bans::Kept {
                    networks: &networks(&limits),
                    kind: Kind::Ban,
                    seconds: seconds_to(until, now),
                    cause: &format!("defence, step {step}"),
                },
            )?;
        }
        let spared: Vec<_> = self.refusals.spared.iter().map(|it| (*it, None)).collect();
        refused += bans::keep(
            shared,
            &bans::Kept {
                networks: &networks(&spared),
                kind: Kind::Spared,
                seconds: KEEP_SECONDS,
                cause: "defence",
            },
        )?;
        match refused {
            0 => Ok(()),
            refused => Err(format!(
                "there was no room for {refused} networks among the bans"
            )),
        }
    }

    fn put_forms(&self, shared: &Shared, forms: &[Form], now: u64) {
        let tick = shared.plane.now();
        let result: Result<(), std::convert::Infallible> = shared.change_settings(|settings| {
            settings.forms = [engine::Form::NONE; FORMS_MAX as usize];
            for (to, form) in settings.forms.iter_mut().zip(forms) {
                *to = form.compiled(tick.after_seconds(seconds_to(form.until, now)));
            }
            settings.flags &= !SETTING_FORMS;
            if !forms.is_empty() {
                settings.flags |= SETTING_FORMS;
            }
            Ok(())
        });
        let Ok(()) = result;
    }

    fn take(&mut self, shared: &Shared, step: &Step) -> Result<(), String> {
        match &step.action {
            Action::Limit { .. } => Ok(()),
            Action::Form if self.refusals.forms.len() >= FORMS_MAX as usize => {
                Err(format!("{FORMS_MAX} forms are refused already"))
            }
            Action::Form => Ok(()),
            Action::Cookies => self.begin_cookies(shared),
            Action::Ban { networks } => {
                let wish = bans::Wish {
                    list: BanList::Banned,
                    seconds: Some((step.until - step.began) as u32),
                    cause: Some(format!("defence, step {}", step.number)),
                    rate: None,
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
                bans::unban(shared, &prefixes(networks));
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
