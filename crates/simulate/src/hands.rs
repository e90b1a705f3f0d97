//! What carries steps out in the simulated host.

use std::collections::BTreeMap;
use std::net::IpAddr;

use keepstate_defence::{Action, Defence, Limit, Network, Order, Refusals, Step, sync};
use keepstate_engine::ban::{self, Entry, Kind, Put, Sender};
use keepstate_engine::limits::{BAN_LENGTHS_MAX, FORMS_MAX};
use keepstate_engine::rate::{RATE_PERIOD_MAX, Rate};
use keepstate_engine::refusal::Form;
use keepstate_engine::settings::{
    COOKIES_ALWAYS, SETTING_BANS, SETTING_COOKIES, SETTING_FORMS, TIMEOUTS,
};
use keepstate_engine::table;
use keepstate_engine::tuple::{Address, Family};
use keepstate_policy::{Policy, compile};
use keepstate_sim::sysctl::Sysctl;

use crate::world::{World, loaded};

pub(crate) struct Hands {
    policy: Policy,
    thinned: f64,
    /// Whether the host's TCP takes cookies.
    cookies: bool,
    /// By step, what there was before it.
    timeouts: BTreeMap<u32, [u32; TIMEOUTS]>,
    entries: Vec<(Network, Kind)>,
    refusals: Refusals,
    /// Networks that were banned at any time.
    pub(crate) banned: Vec<Network>,
}

impl Hands {
    pub(crate) fn new(policy: Policy, thinned: f64, cookies: bool) -> Self {
        Self {
            policy,
            thinned,
            cookies,
            timeouts: BTreeMap::new(),
            entries: Vec::new(),
            refusals: Refusals::default(),
            banned: Vec::new(),
        }
    }

    /// Puts the rules in force that there are without any step.
    pub(crate) fn begin(&mut self, world: &mut World<'_>, never: &[Network]) -> Result<(), String> {
        let compiled = compile(&self.policy).map_err(|error| error.to_string())?;
        world.plane.replace_policy(loaded(Some(&compiled)));
        for network in never {
            self.put(world, network, Kind::Exempt, (None, None));
        }
        Ok(())
    }

    pub(crate) fn carry_out(
        &mut self,
        world: &mut World<'_>,
        defence: &mut Defence,
        orders: &[Order],
    ) {
        let mut makes_rules = false;
        for order in orders {
            match order {
                Order::Tell(_) => {}
                Order::Begin(step) => {
                    makes_rules |= step.makes_rules();
                    if let Err(why) = self.take(world, step) {
                        defence.failed(step.number, why);
                    }
                }
                Order::Extend(step) => {
                    if let Err(why) = self.take(world, step) {
                        defence.failed(step.number, why);
                    }
                }
                Order::End(step) => {
                    makes_rules |= step.makes_rules();
                    self.undo(world, step);
                }
            }
        }
        self.refuse(world, defence.refusals(), defence.now());
        if makes_rules && let Err(why) = self.put_rules(world, defence) {
            for order in orders {
                if let Order::Begin(step) = order
                    && step.makes_rules()
                {
                    defence.failed(step.number, why.clone());
                }
            }
            // Those that were there before.
            let _ = self.put_rules(world, defence);
        }
    }

    fn put_rules(&self, world: &mut World<'_>, defence: &Defence) -> Result<(), String> {
        let mut policy = self.policy.clone();
        let rules = defence.rules().scaled(self.thinned);
        sync(&mut policy, &rules).map_err(|error| error.to_string())?;
        let compiled = compile(&policy).map_err(|error| error.to_string())?;
        world.plane.replace_policy(loaded(Some(&compiled)));
        Ok(())
    }

    /// Puts limits and forms in force, where they are others than those that are.
    fn refuse(&mut self, world: &mut World<'_>, wanted: Refusals, second: u64) {
        if wanted == self.refusals {
            return;
        }
        let before = std::mem::replace(&mut self.refusals, wanted);
        let goes_on = |it: &Limit| {
            let mut limits = self.refusals.limits.iter();
            limits.any(|limit| (limit.network, limit.rate()) == (it.network, it.rate()))
        };
        // What goes on keeps what it has counted.
        let over: Vec<_> = before.limits.iter().filter(|it| !goes_on(it)).collect();
        for limit in over {
            self.take_out(world, &limit.network, Kind::Ban, true);
        }
        for network in &before.spared {
            self.take_out(world, network, Kind::Spared, false);
        }
        for limit in self.refusals.limits.clone() {
            let rate = Rate {
                kinds: limit.kinds,
                ..thin(limit.per_second, self.thinned)
            };
            let left = Some(limit.until.saturating_sub(second));
            self.put(world, &limit.network, Kind::Ban, (left, Some(rate)));
        }
        for network in self.refusals.spared.clone() {
            self.put(world, &network, Kind::Spared, (None, None));
        }
        let now = world.tick();
        let settings = &mut world.plane.settings;
        settings.forms = [Form::NONE; FORMS_MAX as usize];
        for (to, form) in settings.forms.iter_mut().zip(&self.refusals.forms) {
            let left = form.until.saturating_sub(second);
            *to = form.compiled(now.after_seconds(left as u32));
        }
        settings.flags &= !SETTING_FORMS;
        if !self.refusals.forms.is_empty() {
            settings.flags |= SETTING_FORMS;
        }
        self.publish(world);
    }

    fn take_out(&mut self, world: &World<'_>, network: &Network, kind: Kind, is_limit: bool) {
        let settings = &world.plane.settings;
        let is_meant = |entry: &Entry| entry.rate.is_some() == is_limit;
        if ban::remove_if(
            &world.plane.flows,
            settings,
            &engine(network),
            kind,
            is_meant,
        ) {
            self.entries.retain(|entry| *entry != (*network, kind));
        }
    }

    fn take(&mut self, world: &mut World<'_>, step: &Step) -> Result<(), String> {
        match &step.action {
            Action::Limit { .. } | Action::Form => {}
            Action::Cookies if !self.cookies => {
                return Err("the host's TCP takes no cookies that it has not sent".to_owned());
            }
            Action::Cookies => {
                world.plane.settings.cookies.mode = COOKIES_ALWAYS;
                world.plane.settings.flags |= SETTING_COOKIES;
            }
            Action::Timeouts { seconds } => {
                let settings = &mut world.plane.settings;
                self.timeouts.insert(step.number, settings.timeouts);
                for (name, seconds) in seconds {
                    let knob = Sysctl::parse(&format!("{name}={seconds}"));
                    knob.map_err(|error| error.to_string())?.apply(settings);
                }
            }
            Action::Ban { networks } => {
                for network in networks {
                    let seconds = Some(step.until - step.began);
                    self.put(world, network, Kind::Ban, (seconds, None));
                    self.banned.push(*network);
                }
                end_flows(world);
            }
        }
        Ok(())
    }

    fn undo(&mut self, world: &mut World<'_>, step: &Step) {
        match &step.action {
            Action::Limit { .. } | Action::Form => {}
            Action::Cookies => {
                world.plane.settings.cookies.mode = 0;
                world.plane.settings.flags &= !SETTING_COOKIES;
            }
            Action::Timeouts { .. } => {
                if let Some(before) = self.timeouts.remove(&step.number) {
                    world.plane.settings.timeouts = before;
                }
            }
            Action::Ban { networks } => {
                for network in networks {
                    self.take_out(world, network, Kind::Ban, false);
                }
                self.publish(world);
            }
        }
    }

    fn put(
        &mut self,
        world: &mut World<'_>,
        network: &Network,
        kind: Kind,
        (seconds, rate): (Option<u64>, Option<Rate>),
    ) {
        let now = world.tick();
        let entry = Entry {
            network: engine(network),
            kind,
            rate,
            deadline: seconds.map(|seconds| now.after_seconds(seconds as u32)),
            began: now,
            cause: 0,
        };
        let put = ban::put(&world.plane.flows, &world.plane.settings, &entry);
        if put != Put::Full && !self.entries.contains(&(*network, kind)) {
            self.entries.push((*network, kind));
        }
        self.publish(world);
    }

    /// Tells packets which lengths of prefix there are.
    fn publish(&self, world: &mut World<'_>) {
        let settings = &mut world.plane.settings;
        let mut lengths = [[0; BAN_LENGTHS_MAX as usize]; ban::LISTS];
        for (network, kind) in &self.entries {
            let list = &mut lengths[ban::list(*kind, engine(network).family)];
            let length = network.length();
            if let Some(free) = list.iter_mut().find(|it| **it == 0 || **it == length) {
                *free = length;
            }
        }
        settings.bans.lengths = lengths;
        settings.flags &= !SETTING_BANS;
        if self.entries.iter().any(|(_, kind)| *kind == Kind::Ban) {
            settings.flags |= SETTING_BANS;
        }
    }
}

/// A rate for traffic of which one packet in so many is there.
fn thin(per_second: u32, by: f64) -> Rate {
    // As long a period as it takes to let in a whole number of flows, and a few.
    let (mut flows, mut period) = (f64::from(per_second) / by, 0);
    while flows < 4.0 && period < RATE_PERIOD_MAX && by > 1.0 {
        flows *= 2.0;
        period += 1;
    }
    Rate {
        period,
        ..Rate::per_second(flows as u32)
    }
}

/// Ends the flows of the banned.
fn end_flows(world: &World<'_>) {
    let (flows, settings, now) = (&world.plane.flows, &world.plane.settings, world.tick());
    let is_banned =
        |family, address| ban::is_banned(flows, settings, &mut Sender::new(family, address, now));
    let mut ended = Vec::new();
    let [v4, v6] = settings.buckets;
    for (family, buckets) in [(Family::V4, v4), (Family::V6, v6)] {
        table::visit(flows, family, 0..buckets, now, |entry| {
            let ends = [entry.key.first_address(), entry.key.second_address()];
            if ends.into_iter().any(|end| is_banned(family, end)) {
                ended.push((entry.place, entry.control));
            }
        });
    }
    for (place, control) in ended {
        table::remove(flows, place, control);
    }
}

fn engine(network: &Network) -> ban::Network {
    let (family, address): (Family, Address) = match network.address() {
        IpAddr::V4(address) => (Family::V4, [address.to_bits(), 0, 0, 0]),
        IpAddr::V6(address) => {
            let bits = address.to_bits();
            let word = |shift: u32| (bits >> shift) as u32;
            (Family::V6, [word(96), word(64), word(32), word(0)])
        }
    };
    ban::Network {
        family,
        address,
        length: network.length(),
    }
}
