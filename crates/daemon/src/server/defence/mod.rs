//! Floods: the recogniser and its ladder, with the firewall that they watch and act on.
//!
//! Samples come with the events of the programs. Once a second they are counted, and what the ladder orders is
//! carried out by what there is anyway: bans, cookies, knobs, and rules as iptables would make them.

mod hands;
mod host;
mod sessions;

use std::fs;
use std::path::PathBuf;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use keepstate_api::{DefenceStatus, DefenceSummary, FailureKind, Reply, Session};
use keepstate_defence::{
    Attack, Defence, Exemption, Exemptions, Gauges, Memory, Mode, Network, Order, SURVEY_SECONDS,
    Sample, StepState, WALK_SECONDS, Why, held, next_mask, stream,
};
use keepstate_engine::ban::Kind;
use keepstate_engine::event::{Event, EventKind};
use keepstate_engine::host::{FlowMemory, Words};
use keepstate_engine::refusal::{FORM_WORDS, Form};
use keepstate_engine::settings::{SETTING_ACCOUNTING, SETTING_SAMPLES, Settings};
use keepstate_engine::table::{self, gauges};
use keepstate_engine::time::Tick;
use rustix::time::{ClockId, clock_gettime};
use serde::{Deserialize, Serialize};

use self::hands::Hands;
use self::sessions::Sessions;
use super::connection::failure;
use super::plane::PlaneError;
use super::{Shared, bans};
use crate::lock;

/// What outlives the daemon.
const FILE: &str = "defence.json";

const SECOND: Duration = Duration::from_secs(1);

/// How often it is seen to that the rules are still there: somebody may have put others in force.
const RULES_SECONDS: u64 = 5;

/// How often it is written down how attacks go on, besides when steps begin and end.
const KEEP_SECONDS: u64 = 5;

/// Samples of a second that are kept; what comes beyond counts as lost.
const SAMPLES_MAX: usize = 65_536;

/// Buckets that are read before the clock is looked at again.
const BUCKETS_PER_STEP: u32 = 1024;

/// The defence, its hands, and what has been sampled since its last second.
pub(crate) struct Keeper {
    directory: PathBuf,
    samples: Mutex<Waiting>,
    sessions: Mutex<Sessions>,
    state: Mutex<State>,
}

#[derive(Default)]
struct Waiting {
    samples: Vec<Sample>,
    lost: u64,
}

struct State {
    defence: Defence,
    hands: Hands,
    /// Events that the programs had lost at the last second.
    lost_before: u64,
    taken: u64,
    lost: u64,
    exempt: Vec<Exemption>,
    kept: Kept,
    /// Second in which that was written.
    kept_at: u64,
    /// Second in which the table is walked next.
    walk_at: u64,
}

/// What a later daemon must know: the mode, what was before the steps that are in force, and these.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
struct Kept {
    mode: Mode,
    hands: hands::Before,
    #[serde(default)]
    memory: Memory,
}

impl Keeper {
    pub(crate) fn recall(directory: PathBuf) -> Self {
        let text = fs::read_to_string(directory.join(FILE)).unwrap_or_default();
        let kept: Kept = serde_json::from_str(&text).unwrap_or_default();
        let now = now();
        let mut defence = Defence::begun_at(kept.mode, now);
        defence.remember(kept.memory.clone());
        Self {
            directory,
            samples: Mutex::default(),
            sessions: Mutex::default(),
            state: Mutex::new(State {
                defence,
                hands: Hands::new(kept.hands.clone()),
                lost_before: 0,
                taken: 0,
                lost: 0,
                exempt: Vec::new(),
                kept,
                kept_at: now,
                walk_at: now,
            }),
        }
    }

    /// Takes in an event of the programs; `false` if it is none of a sample.
    pub(crate) fn note(&self, event: &Event) -> bool {
        if event.kind != EventKind::Sample as u8 {
            return false;
        }
        if let Some(sample) = Sample::of(event) {
            let mut waiting = lock(&self.samples);
            if waiting.samples.len() < SAMPLES_MAX {
                waiting.samples.push(sample);
            } else {
                waiting.lost += 1;
            }
        }
        true
    }

    /// Writes down what a later daemon must know, if it has changed.
    fn keep(&self, state: &mut State) {
        let kept = Kept {
            mode: state.defence.mode(),
            hands: state.hands.before().clone(),
            memory: state.defence.memory(),
        };
        state.kept_at = now();
        if kept == state.kept {
            return;
        }
        let path = self.directory.join(FILE);
        // It holds nothing but numbers and names.
        let text = serde_json::to_string(&kept).unwrap_or_default();
        match fs::write(&path, text) {
            Ok(()) => state.kept = kept,
            Err(error) => crate::complain!("keepstate: {}: {error}", path.display()),
        }
    }
}

/// Counts and acts, second for second, until the server ends.
pub(super) fn run(shared: &Shared) {
    {
        let mut state = lock(&shared.defence.state);
        // What a daemon has left that was killed.
        let State { hands, defence, .. } = &mut *state;
        hands.tidy(shared, defence);
        let active = defence.steps().iter();
        let active = active.filter(|it| it.state == StepState::Active).count();
        if active > 0 {
            crate::complain!(
                "keepstate: {active} steps of an earlier daemon go on: `keepstate defence status`"
            );
        }
        shared.defence.keep(&mut state);
        sample(shared, state.defence.mode(), 0);
        state.lost_before = lost_events(shared);
    }
    while !shared.sleep(SECOND) {
        second(shared);
    }
    // Nobody would end them.
    let mut state = lock(&shared.defence.state);
    let orders = state.defence.finish();
    act(shared, &mut state, &orders);
    shared.defence.keep(&mut state);
    let mode = Mode::Off;
    sample(shared, mode, 0);
}

/// Seconds of a clock that goes on where a daemon ends.
fn now() -> u64 {
    let now = clock_gettime(ClockId::Boottime);
    u64::try_from(now.tv_sec).unwrap_or(0)
}

fn second(shared: &Shared) {
    let Waiting { samples, lost } = std::mem::take(&mut *lock(&shared.defence.samples));
    let now = now();
    let (is_survey, is_walk) = {
        let state = lock(&shared.defence.state);
        if state.defence.mode() == Mode::Off {
            return;
        }
        let is_survey = now.is_multiple_of(SURVEY_SECONDS) || state.exempt.is_empty();
        (is_survey, is_survey || now >= state.walk_at)
    };
    if is_walk {
        walk(shared, is_survey, now);
    }
    let mut state = lock(&shared.defence.state);
    let events_lost = lost_events(shared);
    // Events of other kinds are lost with them; the larger the flood, the fewer.
    let lost = lost + events_lost.saturating_sub(state.lost_before);
    state.lost_before = events_lost;
    state.taken += samples.len() as u64;
    state.lost += lost;
    let all = samples.len() as u64 + lost;
    let share = all as f64 / samples.len().max(1) as f64;
    for sample in &samples {
        let weight = sample.weight * share;
        state.defence.note(&Sample { weight, ..*sample });
    }
    if is_survey {
        let exempt = exemptions(shared);
        state.exempt.clone_from(&exempt);
        state.defence.set_exemptions(Exemptions(exempt));
    }
    let mask = shared.plane.settings().samples.mask;
    let next = next_mask(mask, all);
    if next != mask {
        sample(shared, state.defence.mode(), next);
    }
    let orders = state.defence.tick(now, &levels(shared));
    act(shared, &mut state, &orders);
    if !orders.is_empty() || now >= state.kept_at + KEEP_SECONDS {
        shared.defence.keep(&mut state);
    }
    if now.is_multiple_of(RULES_SECONDS) {
        let rules = state.defence.rules();
        state.hands.see_to_rules(shared, &rules);
    }
}

/// Carries out, and tells the log.
fn act(shared: &Shared, state: &mut State, orders: &[Order]) {
    for order in orders {
        match order {
            Order::Tell(attack) => crate::complain!("keepstate: {}", told(attack)),
            Order::Begin(step) => crate::complain!(
                "keepstate: step {} against attack {}: {}, because {}",
                step.number,
                step.attack,
                step.action.name(),
                step.cause
            ),
            Order::Extend(step) => eprintln!(
                "keepstate: step {} takes in {} networks more",
                step.number,
                step.action.networks().len()
            ),
            Order::End(step) => {
                crate::complain!(
                    "keepstate: step {} ends: {}",
                    step.number,
                    step.action.name()
                );
            }
        }
    }
    let State { defence, hands, .. } = state;
    for (number, why) in hands.carry_out(shared, defence, orders) {
        crate::complain!("keepstate: step {number} failed: {why}");
        defence.failed(number, why);
    }
    if let Some(why) = hands.refuse(shared, defence.refusals(), defence.now()) {
        eprintln!("keepstate: {why}");
    }
}

fn told(attack: &Attack) -> String {
    let at = attack
        .destination
        .map_or_else(String::new, |it| format!(" to {it}"));
    let Attack {
        number,
        kind,
        evidence,
        ..
    } = attack;
    let kind = kind.name();
    if attack.is_over {
        return format!("attack {number} is over: {kind}{at}");
    }
    format!("attack {number}: {kind}{at}: {evidence}")
}

fn sample(shared: &Shared, mode: Mode, mask: u32) {
    let result: Result<(), std::convert::Infallible> = shared.change_settings(|settings| {
        settings.samples.mask = mask;
        settings.flags &= !SETTING_SAMPLES;
        if mode != Mode::Off {
            settings.flags |= SETTING_SAMPLES;
        }
        Ok(())
    });
    let Ok(()) = result;
}

fn lost_events(shared: &Shared) -> u64 {
    shared
        .plane
        .counters()
        .map_or(0, |counters| counters.events_lost)
}

fn levels(shared: &Shared) -> Gauges {
    let settings = shared.plane.settings();
    let table = shared.plane.table();
    let memory = table.flows();
    // A removal that is counted before its insertion must not look like 2^64 flows.
    let level = |word| {
        memory
            .gauges()
            .map_or(0, |words| (words.load(word) as i64).max(0) as u64)
    };
    Gauges {
        flows: level(gauges::COUNT),
        flows_max: settings.flows_max.into(),
        half_open: level(gauges::HALF_OPEN),
        half_open_max: settings.half_open_max.into(),
    }
}

/// Counts the connections that are held open, where it is a survey, and how fast flows grow, where they are counted. Of a large
/// table that takes seconds on a busy machine, in which whoever asks for the status must not wait: the state is taken
/// for one step after another.
fn walk(shared: &Shared, is_survey: bool, now: u64) {
    let settings = shared.plane.settings();
    let is_counted = settings.has(SETTING_ACCOUNTING);
    let began = Instant::now();
    {
        let mut state = lock(&shared.defence.state);
        if is_survey {
            state.defence.begin_survey();
        }
        if is_counted {
            state.defence.begin_walk(shared.plane.now(), now);
        }
    }
    let (mut connections, mut streams) = (Vec::new(), Vec::new());
    for table in shared.plane.tables() {
        for (family, buckets) in table.families() {
            for start in (0..buckets).step_by(BUCKETS_PER_STEP as usize) {
                let end = buckets.min(start.saturating_add(BUCKETS_PER_STEP));
                let now = shared.plane.now();
                table::visit(&table.flows(), family, start..end, now, |entry| {
                    if is_survey {
                        connections.extend(held(entry, &settings, now));
                    }
                    if is_counted {
                        streams.extend(stream(entry));
                    }
                });
                let mut state = lock(&shared.defence.state);
                for held in connections.drain(..) {
                    state.defence.hold(&held, 1.0);
                }
                for stream in streams.drain(..) {
                    state.defence.stream(&stream, 1.0);
                }
            }
        }
    }
    let mut state = lock(&shared.defence.state);
    let is_watching = state.defence.is_watching_flows();
    state.walk_at = now + pause(began.elapsed(), is_watching, is_counted);
}

/// Seconds until the next walk: a large table is walked for a twentieth of the time at most.
fn pause(took: Duration, is_watching: bool, is_counted: bool) -> u64 {
    if !is_counted {
        return SURVEY_SECONDS;
    }
    let least = if is_watching { 1 } else { WALK_SECONDS };
    let bearable = (20 * took).as_secs() + 1;
    bearable.clamp(least, SURVEY_SECONDS)
}

fn exemptions(shared: &Shared) -> Vec<Exemption> {
    let sessions = lock(&shared.defence.sessions).clients(Instant::now());
    let mut exempt = host::exemptions(sessions);
    bans::visit(shared, Kind::Exempt, |prefix| {
        exempt.push(Exemption {
            network: Network::of(prefix.address(), prefix.length()),
            why: Why::NeverBan,
        });
    });
    exempt
}

/// Somebody who may change things runs commands from there: he is left alone from now on.
pub(super) fn note_session(shared: &Shared, session: Session) {
    if !lock(&shared.defence.sessions).note(session, Instant::now()) {
        return;
    }
    let exemption = Exemption {
        network: Network::of(session.client.ip(), 128),
        why: Why::Operator,
    };
    let mut state = lock(&shared.defence.state);
    if !state.exempt.contains(&exemption) {
        state.exempt.push(exemption);
        let exempt = state.exempt.clone();
        state.defence.set_exemptions(Exemptions(exempt));
    }
}

/// Forms that are refused now, as the engine has them.
pub(super) fn forms(settings: &Settings, now: Tick) -> Vec<[u32; FORM_WORDS]> {
    let is_used = |form: &&Form| form.flags != 0 && !Tick(form.until).has_passed(now);
    let forms = settings.forms.iter().filter(is_used);
    forms.map(|form| form.words()).collect()
}

pub(super) fn summary(shared: &Shared) -> DefenceSummary {
    let state = lock(&shared.defence.state);
    let attacks = state.defence.attacks().iter();
    let going_on = attacks.filter(|attack| !attack.is_over);
    let steps = state.defence.steps().iter();
    let active = steps.filter(|step| step.state == StepState::Active);
    DefenceSummary {
        mode: state.defence.mode(),
        attacks: going_on
            .map(|attack| attack.kind.name().to_owned())
            .collect(),
        steps: active.map(|step| step.action.name().to_owned()).collect(),
    }
}

pub(super) fn status(shared: &Shared) -> Result<Reply, PlaneError> {
    let state = lock(&shared.defence.state);
    Ok(describe(shared, &state, Vec::new()))
}

fn describe(shared: &Shared, state: &State, ended: Vec<u32>) -> Reply {
    let is_shown = |exemption: &&Exemption| exemption.why != Why::NeverBan;
    let settings = shared.plane.settings();
    Reply::Defence(Box::new(DefenceStatus {
        mode: state.defence.mode(),
        now: now(),
        one_in: settings.samples.mask.saturating_add(1),
        counts_flows: settings.has(SETTING_ACCOUNTING),
        samples: state.taken,
        lost: state.lost,
        exempt: state.exempt.iter().filter(is_shown).copied().collect(),
        attacks: state.defence.attacks().to_vec(),
        steps: state.defence.steps().to_vec(),
        ended,
    }))
}

pub(super) fn set_mode(shared: &Shared, mode: Mode) -> Result<Reply, PlaneError> {
    let mut state = lock(&shared.defence.state);
    let orders = state.defence.set_mode(mode);
    act(shared, &mut state, &orders);
    shared.defence.keep(&mut state);
    sample(shared, mode, shared.plane.settings().samples.mask);
    let ended = orders.iter().filter_map(|order| match order {
        Order::End(step) => Some(step.number),
        _ => None,
    });
    Ok(describe(shared, &state, ended.collect()))
}

pub(super) fn undo(shared: &Shared, step: Option<u32>) -> Reply {
    let mut state = lock(&shared.defence.state);
    let orders = state.defence.undo(step);
    if let (Some(number), true) = (step, orders.is_empty()) {
        return failure(
            FailureKind::Invalid,
            format!("step {number} is not in force"),
        );
    }
    act(shared, &mut state, &orders);
    shared.defence.keep(&mut state);
    Reply::Undone {
        steps: orders.len() as u32,
    }
}
