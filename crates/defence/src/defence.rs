//! The defence as a whole: from second to second.

use std::collections::BTreeMap;

use keepstate_engine::time::Tick;
use serde::{Deserialize, Serialize};

use crate::attack::{Attack, AttackKind};
use crate::detect::{Detector, Finding, Scope};
use crate::exempt::{Exemptions, Why};
use crate::held::Held;
use crate::ladder::{
    self, Action, Choice, FORM_STEPS_MAX, Order, Rung, Situation, Step, StepState,
};
use crate::limit;
use crate::refusal::{Form, Limit, Refusals};
use crate::rule::{Rule, Rules};
use crate::sample::Sample;
use crate::stream::Stream;
use crate::view::View;

/// What is done when an attack is recognised.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Mode {
    /// Nothing is sampled.
    Off,
    /// It is told, with what would be done.
    #[default]
    Observe,
    Act,
}

/// How the table stands.
#[derive(Clone, Copy, Debug, Default)]
pub struct Gauges {
    pub flows: u64,
    pub flows_max: u64,
    pub half_open: u64,
    pub half_open_max: u64,
}

/// Seconds in a row that show the same before it is an attack.
const CONFIRM_SECONDS: u32 = 2;
/// Seconds without a sign of it after which an attack is over.
const CALM_SECONDS: u64 = 10;
/// Seconds that a step is given before the next.
const SETTLE_SECONDS: u64 = 4;
/// How long a step outlives the last sign of its attack, and how long a ban lasts.
const STEP_SECONDS: u64 = 60;
const BAN_SECONDS: u64 = 600;
/// Attacks and steps that are kept to be told of.
const ATTACKS_MAX: usize = 256;
const STEPS_MAX: usize = 1024;

/// Attacks, and steps with what they are made of.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Memory {
    attacks: Vec<Attack>,
    steps: Vec<Remembered>,
    numbers: [u32; 2],
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Remembered {
    step: Step,
    rules: Vec<Rule>,
    limits: Vec<Limit>,
    forms: Vec<Form>,
}

#[derive(Debug)]
pub struct Defence {
    mode: Mode,
    view: View,
    detector: Detector,
    exempt: Exemptions,
    suspects: BTreeMap<(AttackKind, Scope), u32>,
    attacks: Vec<Attack>,
    steps: Vec<Step>,
    numbers: [u32; 2],
    now: u64,
}

impl Defence {
    pub fn new(mode: Mode) -> Self {
        Self::begun_at(mode, 0)
    }

    /// Where seconds do not count from zero.
    pub fn begun_at(mode: Mode, now: u64) -> Self {
        Self {
            mode,
            view: View::new(now),
            detector: Detector::default(),
            exempt: Exemptions::default(),
            suspects: BTreeMap::new(),
            attacks: Vec::new(),
            steps: Vec::new(),
            numbers: [0; 2],
            now,
        }
    }

    /// What a later one must know to go on.
    pub fn memory(&self) -> Memory {
        let steps = self.steps.iter().map(|step| Remembered {
            step: step.clone(),
            rules: step.rules.clone(),
            limits: step.limits.clone(),
            forms: step.forms.clone(),
        });
        Memory {
            attacks: self.attacks.clone(),
            steps: steps.collect(),
            numbers: self.numbers,
        }
    }

    /// Goes on where an earlier one was ended, by the same clock: what it had in force is.
    pub fn remember(&mut self, memory: Memory) {
        let steps = memory.steps.into_iter().map(|it| Step {
            rules: it.rules,
            limits: it.limits,
            forms: it.forms,
            ..it.step
        });
        self.steps = steps.collect();
        self.attacks = memory.attacks;
        self.numbers = memory.numbers;
    }

    /// Nobody will end steps any more, and bans end by themselves. What comes after is another attack.
    pub fn finish(&mut self) -> Vec<Order> {
        for attack in &mut self.attacks {
            attack.is_over = true;
        }
        self.end(StepState::Over, |step| {
            step.state == StepState::Active && !matches!(step.action, Action::Ban { .. })
        })
    }

    pub const fn mode(&self) -> Mode {
        self.mode
    }

    /// Steps that are in force end, where the new mode takes none.
    pub fn set_mode(&mut self, mode: Mode) -> Vec<Order> {
        self.mode = mode;
        if mode == Mode::Act {
            // What was proposed may now be taken.
            self.steps.retain(|step| step.state != StepState::Proposed);
            return Vec::new();
        }
        self.end(StepState::Over, |step| step.state == StepState::Active)
    }

    pub fn set_exemptions(&mut self, exempt: Exemptions) {
        // What this host sends is no attack on it.
        let own = exempt.0.iter().filter(|it| it.why == Why::Own);
        self.view.streams.own = own.map(|it| it.network).collect();
        self.exempt = exempt;
    }

    pub fn note(&mut self, sample: &Sample) {
        self.view.add(sample);
    }

    /// Before the connections that are held open are counted anew with [`Self::hold`].
    pub fn begin_survey(&mut self) {
        self.view.let_go();
    }

    /// A connection that is established and not used.
    pub fn hold(&mut self, held: &Held, weight: f64) {
        self.view.hold(held, weight);
    }

    /// Before the flows of the table are told of anew with [`Self::stream`].
    pub fn begin_walk(&mut self, tick: Tick, now: u64) {
        self.view.streams.begin(tick, now);
    }

    /// A flow that was answered, and how many it stands for.
    pub fn stream(&mut self, stream: &Stream, weight: f64) {
        self.view.streams.note(stream, weight);
    }

    /// Whether flows are part of an attack that goes on: then the table is to be walked soon.
    pub fn is_watching_flows(&self) -> bool {
        let of_flows = |it: &Attack| it.kind == AttackKind::FlowFlood && !it.is_over;
        self.attacks.iter().any(of_flows)
    }

    /// Ends a second; `now` counts them.
    pub fn tick(&mut self, now: u64, gauges: &Gauges) -> Vec<Order> {
        self.now = now;
        let mut orders = Vec::new();
        if self.mode != Mode::Off {
            let findings = self.detector.look(&self.view, gauges, now);
            self.match_up(findings, &mut orders);
            self.close(&mut orders);
            self.climb(gauges, &mut orders);
        }
        orders.extend(self.end(StepState::Over, |step| {
            step.state == StepState::Active && step.until <= now
        }));
        self.view.fade(now);
        self.forget();
        orders
    }

    /// The attacks there are, and those that were.
    pub fn attacks(&self) -> &[Attack] {
        &self.attacks
    }

    pub fn steps(&self) -> &[Step] {
        &self.steps
    }

    /// Seconds of the last tick.
    pub const fn now(&self) -> u64 {
        self.now
    }

    /// Undoes a step (or, with `None`, all); it is not taken again against the same attack.
    pub fn undo(&mut self, number: Option<u32>) -> Vec<Order> {
        self.end(StepState::Undone, |step| {
            step.state == StepState::Active && number.is_none_or(|number| step.number == number)
        })
    }

    /// A step could not be carried out.
    pub fn failed(&mut self, number: u32, why: String) {
        if let Some(step) = self.steps.iter_mut().find(|step| step.number == number) {
            step.state = StepState::Failed;
            step.note = Some(why);
        }
    }

    /// The rules that are to be in force.
    pub fn rules(&self) -> Rules {
        let active = self.steps.iter().filter(|it| it.state == StepState::Active);
        Rules {
            rules: active.flat_map(|step| step.rules.iter().cloned()).collect(),
            exempt: self.exempt.clone(),
        }
    }

    /// What is to be refused before the rules.
    pub fn refusals(&self) -> Refusals {
        let mut refusals = Refusals::default();
        let active = self.steps.iter().filter(|it| it.state == StepState::Active);
        for step in active {
            let until = step.until;
            for limit in &step.limits {
                refusals.limit(Limit { until, ..*limit });
            }
            let forms = step.forms.iter().cloned();
            refusals
                .forms
                .extend(forms.map(|form| Form { until, ..form }));
        }
        if !refusals.forms.is_empty() {
            let exempt = self.exempt.0.iter().filter(|it| it.why.passes_forms());
            refusals.spared = exempt.map(|exemption| exemption.network).collect();
        }
        refusals
    }

    fn end(&mut self, state: StepState, is_meant: impl Fn(&Step) -> bool) -> Vec<Order> {
        let mut orders = Vec::new();
        for step in self.steps.iter_mut().filter(|step| is_meant(step)) {
            step.state = state;
            step.until = step.until.min(self.now);
            orders.push(Order::End(step.clone()));
        }
        orders
    }

    fn match_up(&mut self, findings: Vec<Finding>, orders: &mut Vec<Order>) {
        let seen: Vec<_> = findings.iter().map(|it| (it.kind, it.scope)).collect();
        self.suspects.retain(|suspect, _| seen.contains(suspect));
        for finding in findings {
            let now = self.now;
            let is_same = |it: &&mut Attack| {
                !it.is_over && (it.kind, it.destination) == (finding.kind, finding.scope)
            };
            if let Some(attack) = self.attacks.iter_mut().find(is_same) {
                update(attack, finding, now);
                continue;
            }
            // One that comes in pulses: what is in force against it goes on, and is not chosen anew each time.
            let steps = &self.steps;
            let is_back = |it: &&mut Attack| {
                let is_met = |step: &Step| {
                    let is_ban = matches!(step.action, Action::Ban { .. });
                    let is_active = step.state == StepState::Active && step.until > now;
                    step.attack == it.number && is_active && !is_ban
                };
                (it.kind, it.destination) == (finding.kind, finding.scope)
                    && steps.iter().any(is_met)
            };
            if let Some(attack) = self.attacks.iter_mut().rev().find(is_back) {
                attack.is_over = false;
                update(attack, finding, now);
                orders.push(Order::Tell(Box::new(attack.clone())));
                continue;
            }
            let times = self
                .suspects
                .entry((finding.kind, finding.scope))
                .or_insert(0);
            *times += 1;
            if *times < CONFIRM_SECONDS {
                continue;
            }
            self.numbers[0] += 1;
            let mut attack = Attack {
                number: self.numbers[0],
                kind: finding.kind,
                destination: finding.scope,
                began: now,
                last_seen: now,
                is_over: false,
                rate: 0.0,
                peak: 0.0,
                passed: 0.0,
                threshold: 0.0,
                usual: 0.0,
                sources: 0.0,
                heavy: Vec::new(),
                evidence: String::new(),
            };
            update(&mut attack, finding, now);
            orders.push(Order::Tell(Box::new(attack.clone())));
            self.attacks.push(attack);
        }
    }

    fn close(&mut self, orders: &mut Vec<Order>) {
        for attack in self.attacks.iter_mut().filter(|attack| !attack.is_over) {
            if attack.last_seen < self.now {
                // It is not seen now, whether or not it is over.
                attack.rate = 0.0;
                attack.passed = 0.0;
            }
            if attack.last_seen + CALM_SECONDS <= self.now {
                attack.is_over = true;
                orders.push(Order::Tell(Box::new(attack.clone())));
            }
        }
    }

    /// Prolongs the steps against attacks that go on, and takes the next where they do not suffice.
    fn climb(&mut self, gauges: &Gauges, orders: &mut Vec<Order>) {
        for attack in self.attacks.iter().filter(|attack| !attack.is_over) {
            let (mut own, mut forms) = (Vec::new(), Vec::new());
            for step in self
                .steps
                .iter_mut()
                .filter(|it| it.attack == attack.number)
            {
                let is_ban = matches!(step.action, Action::Ban { .. });
                if step.state == StepState::Active && !is_ban {
                    step.until = attack.last_seen + STEP_SECONDS;
                }
                own.push((Rung::of_step(step), step.began));
                forms.extend(step.forms.iter().cloned());
            }
            let situation = Situation {
                attack,
                view: &self.view,
                within: &self.detector.within,
                learned: self.detector.learned.get(&attack.destination),
                gauges,
                exempt: &self.exempt,
                number: self.numbers[1] + 1,
                forms: &forms,
            };
            if attack.last_seen == self.now {
                let own = self.steps.iter_mut();
                let active =
                    |it: &&mut Step| it.attack == attack.number && it.state == StepState::Active;
                for step in own.filter(active) {
                    if let Some(more) = limit::extension(&situation, step) {
                        step.take_in(&more);
                        orders.push(Order::Extend(more));
                    }
                }
            }
            let last = own.iter().map(|(_, began)| *began).max();
            let is_settling = last.is_some_and(|began| began + SETTLE_SECONDS > self.now);
            if is_settling || attack.last_seen != self.now || attack.passed < attack.threshold / 2.0
            {
                continue;
            }
            let mut tried: Vec<Rung> = own.into_iter().map(|(rung, _)| rung).collect();
            if tried.iter().filter(|rung| **rung == Rung::Form).count() < FORM_STEPS_MAX {
                tried.retain(|rung| *rung != Rung::Form);
            }
            let Some(choice) = ladder::next(&situation, &tried) else {
                continue;
            };
            self.numbers[1] += 1;
            let lasts = match choice.action {
                Action::Ban { .. } => BAN_SECONDS,
                _ => STEP_SECONDS,
            };
            let is_taken = self.mode == Mode::Act;
            let commands = commands(&choice);
            let step = Step {
                commands,
                number: self.numbers[1],
                attack: attack.number,
                state: if is_taken {
                    StepState::Active
                } else {
                    StepState::Proposed
                },
                began: self.now,
                until: self.now + lasts,
                cause: choice.cause,
                evidence: attack.evidence.clone(),
                note: choice.note,
                rules: choice.rules,
                limits: choice.limits,
                forms: choice.forms,
                action: choice.action,
            };
            if is_taken {
                orders.push(Order::Begin(step.clone()));
            }
            self.steps.push(step);
        }
    }

    fn forget(&mut self) {
        while self.attacks.len() > ATTACKS_MAX {
            let Some(place) = self.attacks.iter().position(|attack| attack.is_over) else {
                return;
            };
            self.attacks.remove(place);
        }
        while self.steps.len() > STEPS_MAX {
            let is_past = |step: &Step| step.state != StepState::Active;
            let Some(place) = self.steps.iter().position(is_past) else {
                return;
            };
            self.steps.remove(place);
        }
    }
}

/// What a step has refused, as rules.
fn commands(choice: &Choice) -> Vec<String> {
    let rules = choice.rules.iter().map(|rule| rule.text());
    let limits = choice.limits.iter().map(Limit::text);
    let forms = choice.forms.iter().flat_map(Form::texts);
    rules.chain(limits).chain(forms).collect()
}

fn update(attack: &mut Attack, finding: Finding, now: u64) {
    attack.last_seen = now;
    attack.rate = finding.rate;
    attack.peak = attack.peak.max(finding.rate);
    attack.passed = finding.passed;
    attack.threshold = finding.threshold;
    attack.usual = finding.usual;
    attack.sources = attack.sources.max(finding.sources);
    attack.heavy = finding.heavy;
    attack.evidence = finding.evidence;
}
