//! What the screen shows, and how news change it. Nothing here asks the time or the daemon.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::net::IpAddr;
use std::time::Duration;

use keepstate_api::{Event, Flow, Order, Query, Request, Status, Survey};

use super::feed::{News, Wish};
use crate::health::{self, Finding};
use crate::ruleset::CountedRule;

/// Seconds that the curves go back.
pub(super) const HISTORY: usize = 120;

/// Refused packets that are kept to be looked at.
const PACKETS_MAX: usize = 1000;

/// Refusals told apart by rule and reason; beyond that the longest silent goes.
const REFUSALS_MAX: usize = 200;

/// Changes of the open flow that are kept.
const LIFE_MAX: usize = 100;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Pane {
    Overview,
    Flows,
    Sources,
    Rules,
    Refusals,
    HalfOpen,
    Alerts,
}

impl Pane {
    pub(super) const ALL: [Self; 7] = [
        Self::Overview,
        Self::Flows,
        Self::Sources,
        Self::Rules,
        Self::Refusals,
        Self::HalfOpen,
        Self::Alerts,
    ];

    pub(super) const fn title(self) -> &'static str {
        match self {
            Self::Overview => "Overview",
            Self::Flows => "Flows",
            Self::Sources => "Sources",
            Self::Rules => "Rules",
            Self::Refusals => "Refusals",
            Self::HalfOpen => "Half-open",
            Self::Alerts => "Alerts",
        }
    }
}

/// What keys mean now.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Mode {
    Browse,
    Typing {
        text: String,
        error: Option<String>,
    },
    Confirm {
        question: String,
        request: Box<Request>,
    },
    /// The life of one flow.
    Open(Box<Life>),
    /// Packets that were refused alike.
    Packets(Refused),
    Help,
}

/// An open flow: what it is, and what it was since it was opened.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Life {
    pub(super) flow: Flow,
    pub(super) query: Query,
    pub(super) is_gone: bool,
    /// When, and what changed.
    pub(super) changes: VecDeque<(Duration, String)>,
}

/// By what a packet was refused, and why.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Refused {
    pub(super) reason: String,
    pub(super) rule: String,
}

#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Refusal {
    pub(super) count: u64,
    pub(super) last: Duration,
    /// Of the last second that is over.
    pub(super) rate: u64,
    this_second: u64,
}

/// Of a second.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Rates {
    pub(super) packets: f64,
    pub(super) new_flows: f64,
    pub(super) drops: f64,
}

pub(super) struct Model {
    pub(super) pane: Pane,
    pub(super) mode: Mode,
    pub(super) wish: Wish,
    pub(super) is_frozen: bool,
    pub(super) status: Option<Status>,
    /// When it came.
    status_at: Duration,
    /// That of a minute or so ago, which alerts are held against.
    before: Option<(Duration, Box<Status>)>,
    pub(super) rates: Rates,
    pub(super) history: VecDeque<Rates>,
    pub(super) survey: Option<Survey>,
    survey_at: Duration,
    /// Bytes a second, by number of flow.
    pub(super) flow_rates: HashMap<u32, f64>,
    pub(super) rules: Vec<CountedRule>,
    rules_at: Duration,
    /// Packets a second, by place in `rules`.
    pub(super) rule_rates: Vec<f64>,
    pub(super) refusals: BTreeMap<Refused, Refusal>,
    pub(super) packets: VecDeque<Event>,
    pub(super) lost: u64,
    pub(super) alerts: Vec<Finding>,
    /// Attacks that go on, and what is done about them.
    floods: Vec<Finding>,
    pub(super) silent: Option<String>,
    pub(super) said: Option<String>,
    selected: [usize; Pane::ALL.len()],
}

/// Alerts look at what happened within this time.
const ALERT_WINDOW: Duration = Duration::from_secs(60);

impl Model {
    pub(super) fn new() -> Self {
        Self {
            pane: Pane::Overview,
            mode: Mode::Browse,
            wish: Wish::default(),
            is_frozen: false,
            status: None,
            status_at: Duration::ZERO,
            before: None,
            rates: Rates::default(),
            history: VecDeque::new(),
            survey: None,
            survey_at: Duration::ZERO,
            flow_rates: HashMap::new(),
            rules: Vec::new(),
            rules_at: Duration::ZERO,
            rule_rates: Vec::new(),
            refusals: BTreeMap::new(),
            packets: VecDeque::new(),
            lost: 0,
            alerts: Vec::new(),
            floods: Vec::new(),
            silent: None,
            said: None,
            selected: [0; Pane::ALL.len()],
        }
    }

    /// Takes in news that came at `now`, a time since the screen was opened.
    pub(super) fn take(&mut self, news: News, now: Duration) {
        match news {
            News::Silent(why) => self.silent = Some(why),
            News::Said(text) => self.said = Some(text),
            News::Flow(flow) => self.live(flow, now),
            // A screen that is frozen shows what was; only its connection is told of.
            _ if self.is_frozen => {}
            News::Status(status) => self.take_status(*status, now),
            News::Survey(survey) => self.take_survey(*survey, now),
            News::Defence(defence) => self.floods = health::of_defence(&defence),
            News::Rules(rules) => self.take_rules(rules, now),
            News::Event(event) => self.take_packet(*event, now),
            News::Lost(count) => self.lost += count,
        }
    }

    fn take_status(&mut self, status: Status, now: Duration) {
        self.silent = None;
        if let Some(old) = &self.status
            && old.pid == status.pid
        {
            let seconds = (now - self.status_at).as_secs_f64().max(0.001);
            let rate = |new: u64, old: u64| new.saturating_sub(old) as f64 / seconds;
            self.rates = Rates {
                packets: rate(packets(&status), packets(old)),
                new_flows: rate(status.table.inserted, old.table.inserted),
                drops: rate(drops(&status), drops(old)),
            };
            self.history.push_back(self.rates);
            if self.history.len() > HISTORY {
                self.history.pop_front();
            }
        }
        self.tick_refusals();
        let is_old = self.before.as_ref().is_none_or(|(then, before)| {
            now.saturating_sub(*then) > ALERT_WINDOW || before.pid != status.pid
        });
        if is_old {
            self.before = Some((now, Box::new(status.clone())));
        }
        let before = self.before.as_ref().map(|(_, status)| &**status);
        self.alerts = self.floods.clone();
        self.alerts.extend(health::of_status(&status, before));
        self.status = Some(status);
        self.status_at = now;
    }

    /// A second is over.
    fn tick_refusals(&mut self) {
        for refusal in self.refusals.values_mut() {
            refusal.rate = std::mem::take(&mut refusal.this_second);
        }
    }

    fn take_survey(&mut self, survey: Survey, now: Duration) {
        if let Some(old) = &self.survey {
            let seconds = (now - self.survey_at).as_secs_f64().max(0.001);
            let before = old
                .top
                .iter()
                .filter_map(|flow| Some((flow.id, bytes(flow)?)));
            let before: HashMap<u32, u64> = before.collect();
            let rates = survey.top.iter().filter_map(|flow| {
                let grown = bytes(flow)?.saturating_sub(*before.get(&flow.id)?);
                Some((flow.id, grown as f64 / seconds))
            });
            self.flow_rates = rates.collect();
        }
        self.survey = Some(survey);
        self.survey_at = now;
    }

    fn take_rules(&mut self, rules: Vec<CountedRule>, now: Duration) {
        let seconds = (now.saturating_sub(self.rules_at)).as_secs_f64().max(0.001);
        let before = std::mem::replace(&mut self.rules, rules);
        let rates = self.rules.iter().enumerate().map(|(place, rule)| {
            let old = before.get(place).filter(|old| old.text == rule.text);
            old.map_or(0.0, |old| {
                rule.packets.saturating_sub(old.packets) as f64 / seconds
            })
        });
        self.rule_rates = rates.collect();
        self.rules_at = now;
    }

    fn take_packet(&mut self, event: Event, now: Duration) {
        let Some(refused) = refused(&event) else {
            return;
        };
        if !self.refusals.contains_key(&refused) && self.refusals.len() >= REFUSALS_MAX {
            let oldest = self.refusals.iter().min_by_key(|(_, refusal)| refusal.last);
            if let Some(oldest) = oldest.map(|(refused, _)| refused.clone()) {
                self.refusals.remove(&oldest);
            }
        }
        let refusal = self.refusals.entry(refused).or_default();
        refusal.count += 1;
        refusal.this_second += 1;
        refusal.last = now;
        self.packets.push_back(event);
        if self.packets.len() > PACKETS_MAX {
            self.packets.pop_front();
        }
    }

    fn live(&mut self, found: Option<Box<Flow>>, now: Duration) {
        let Mode::Open(life) = &mut self.mode else {
            return;
        };
        let Some(flow) = found else {
            if !std::mem::replace(&mut life.is_gone, true) {
                life.changes
                    .push_back((now, "the flow has ended".to_owned()));
            }
            return;
        };
        life.is_gone = false;
        for change in changes(&life.flow, &flow) {
            life.changes.push_back((now, change));
        }
        while life.changes.len() > LIFE_MAX {
            life.changes.pop_front();
        }
        life.flow = *flow;
    }

    pub(super) fn open(&mut self, flow: Flow, now: Duration) {
        let query = crate::exactly::query(&flow);
        self.wish.open = Some(query);
        self.mode = Mode::Open(Box::new(Life {
            flow,
            query,
            is_gone: false,
            changes: VecDeque::from([(now, "opened".to_owned())]),
        }));
    }

    /// Refusals, those that come most often now first.
    pub(super) fn refusals_sorted(&self) -> Vec<(&Refused, &Refusal)> {
        let mut sorted: Vec<_> = self.refusals.iter().collect();
        sorted.sort_by(|(a_name, a), (b_name, b)| {
            let by_rate = b.rate.cmp(&a.rate).then(b.count.cmp(&a.count));
            by_rate.then(a_name.cmp(b_name))
        });
        sorted
    }

    /// Kept packets of one kind, the latest first.
    pub(super) fn packets_of(&self, kind: &Refused) -> Vec<&Event> {
        let latest = self.packets.iter().rev();
        latest
            .filter(|event| refused(event).as_ref() == Some(kind))
            .collect()
    }

    /// Where most of them come from.
    pub(super) fn commonest_source(&self, kind: &Refused) -> Option<IpAddr> {
        let mut counts = BTreeMap::<IpAddr, usize>::new();
        for event in self.packets_of(kind) {
            *counts.entry(event.flow.original.source).or_default() += 1;
        }
        let most = counts.into_iter().max_by_key(|(_, count)| *count);
        most.map(|(source, _)| source)
    }

    pub(super) fn flows(&self) -> &[Flow] {
        self.survey.as_ref().map_or(&[], |survey| &survey.top)
    }

    /// Lines that the cursor can be on.
    pub(super) fn lines(&self) -> usize {
        match self.pane {
            Pane::Overview | Pane::Flows => self.flows().len(),
            Pane::Sources => self
                .survey
                .as_ref()
                .map_or(0, |survey| survey.sources.len()),
            Pane::HalfOpen => self.half_open_sources().len(),
            Pane::Rules => self.rules.len(),
            Pane::Refusals => self.refusals.len(),
            Pane::Alerts => self.alerts.len(),
        }
    }

    /// Sources by their unanswered flows.
    pub(super) fn half_open_sources(&self) -> Vec<&keepstate_api::Source> {
        let sources = self.survey.iter().flat_map(|survey| &survey.sources);
        let mut sources: Vec<_> = sources.filter(|source| source.unreplied != 0).collect();
        sources.sort_by_key(|source| (std::cmp::Reverse(source.unreplied), source.address));
        sources
    }

    pub(super) fn selected(&self) -> usize {
        let last = self.lines().saturating_sub(1);
        self.selected[self.pane as usize].min(last)
    }

    pub(super) fn select(&mut self, line: usize) {
        self.selected[self.pane as usize] = line.min(self.lines().saturating_sub(1));
    }

    pub(super) fn next_order(&mut self) {
        self.wish.order = match self.wish.order {
            Order::Bytes => Order::Packets,
            Order::Packets => Order::Left,
            Order::Left => Order::Started,
            Order::Started => Order::Bytes,
        };
    }
}

pub(super) fn packets(status: &Status) -> u64 {
    status.traffic.states.values().sum()
}

pub(super) fn drops(status: &Status) -> u64 {
    let count = |name: &str| status.traffic.verdicts.get(name).copied().unwrap_or(0);
    count("DROP") + count("REJECT")
}

/// Of both directions; `None` where flows are not counted.
pub(super) fn bytes(flow: &Flow) -> Option<u64> {
    Some(flow.original.bytes? + flow.reply.bytes?)
}

fn refused(event: &Event) -> Option<Refused> {
    let packet = event.packet.as_ref()?;
    let chain = packet.chain.as_deref().unwrap_or("-");
    let rule = match packet.rule {
        Some(rule) => format!("{chain}:{rule}"),
        None => format!("{chain}:policy"),
    };
    let reason = packet.reason.clone().unwrap_or_else(|| "none".to_owned());
    // Before the rules there is no chain's policy either.
    let rule = match packet.chain {
        Some(_) => rule,
        None => "-".to_owned(),
    };
    Some(Refused { reason, rule })
}

fn changes(old: &Flow, new: &Flow) -> Vec<String> {
    let mut changes = Vec::new();
    if old.protocol_state() != new.protocol_state() {
        let name = |flow: &Flow| flow.protocol_state().unwrap_or("-").to_owned();
        changes.push(format!("{} -> {}", name(old), name(new)));
    }
    let marks = [
        (old.replied, new.replied, "answered"),
        (old.assured, new.assured, "assured"),
    ];
    let set = marks.into_iter().filter(|(old, new, _)| !old && *new);
    changes.extend(set.map(|(_, _, name)| name.to_owned()));
    if old.mark != new.mark {
        changes.push(format!("mark {:#x} -> {:#x}", old.mark, new.mark));
    }
    changes
}
