//! The rules in force: their text, their counters, and the change from one policy to the next.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use keepstate_api::{
    Applied, ApplyMode, PolicyStatus, RuleFamily, RuleFile, RuleProblem, RulesText,
};
use keepstate_engine::policy::{Condition, POLICY_NONE, POLICY_UNSETTLED, PolicyHeader, target};
use keepstate_engine::settings::SETTING_SYNPROXY;
use keepstate_engine::tuple::Family;
use keepstate_policy::model::{Note, Policy};
use keepstate_policy::{
    Compiled, Diagnostic, FileKind, ShowCounters, Style, compile, missing_set, missing_sets,
    parse_rules, save_tables,
};
use serde::{Deserialize, Serialize};

use super::guard::{self, Pending};
use super::plane::{Plane, PlaneError};
use super::{sets, timeouts, unix_seconds};

/// Why rules were not put in force.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ApplyError {
    #[error("the rules have errors")]
    Rules(Vec<RuleProblem>),
    #[error(transparent)]
    Plane(#[from] PlaneError),
    #[error("the text of the rules cannot be kept in {0}")]
    Keep(PathBuf, #[source] io::Error),
    #[error("{0}")]
    Guard(&'static str),
}

/// The rules in force, and those that come back unless somebody confirms.
pub(super) struct State {
    pub(super) in_force: InForce,
    pub(super) pending: Option<Pending>,
}

impl State {
    /// The conditions of the rules in force.
    pub(super) fn conditions(&self) -> impl Iterator<Item = &Condition> {
        let known = match &self.in_force {
            InForce::Known(known) => Some(known),
            InForce::Nothing | InForce::Unknown => None,
        };
        known
            .into_iter()
            .flat_map(|known| &known.compiled.conditions)
    }

    /// The lists of `recent` and `hashlimit` that rules in force name, with the kind of their condition.
    pub(super) fn meter_lists(&self) -> impl Iterator<Item = (Family, &str, u16)> {
        let policy = match &self.in_force {
            InForce::Known(known) => Some(&known.policy),
            InForce::Nothing | InForce::Unknown => None,
        };
        policy.into_iter().flat_map(Policy::meter_lists)
    }

    /// The conditions of the rules in force, each with the family of its rule and the condition behind it.
    pub(super) fn condition_pairs(&self) -> impl Iterator<Item = (Family, [Condition; 2])> {
        let known = match &self.in_force {
            InForce::Known(known) => Some(known),
            InForce::Nothing | InForce::Unknown => None,
        };
        known.into_iter().flat_map(|known| {
            let compiled = &known.compiled;
            let rules = compiled.rules.iter().zip(&compiled.sources);
            rules.flat_map(|(rule, source)| {
                let first = rule.conditions as usize;
                let end = first + rule.condition_count as usize;
                let own = compiled.conditions.get(first..end).unwrap_or_default();
                let pairs = own.windows(2).filter_map(|pair| pair.try_into().ok());
                pairs.map(|pair| (source.family, pair))
            })
        })
    }

    /// Whether rules that may come back name a set.
    pub(super) fn would_name(&self, set: &str) -> bool {
        let kept = self.pending.as_ref().map(Pending::before);
        let texts = kept.into_iter().flat_map(|kept| [&kept.v4, &kept.v6]);
        texts
            .into_iter()
            .any(|text| !missing_sets(text, |name| name != set).is_empty())
    }
}

/// What is in force.
pub(super) enum InForce {
    /// No policy: everything passes.
    Nothing,
    Known(Box<Known>),
    /// A policy that an earlier daemon loaded, and whose text is lost.
    Unknown,
}

/// A policy with its text.
pub(super) struct Known {
    policy: Policy,
    compiled: Compiled,
    pub(super) origins: Vec<String>,
    applied: u64,
}

impl Known {
    fn has_synproxy(&self) -> bool {
        let mut rules = self.compiled.rules.iter();
        rules.any(|rule| rule.target == target::SYNPROXY)
    }
}

/// What is kept in a file for the next daemon.
#[derive(Clone, Serialize, Deserialize)]
pub(super) struct Kept {
    origins: Vec<String>,
    applied: u64,
    v4: String,
    v6: String,
}

/// The name of a rule, for events.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct RuleName {
    pub(crate) chain: String,
    /// Zero for the chain's policy.
    pub(crate) number: u32,
}

/// The rules in force. Changes come one after the other.
pub struct Rules {
    directory: PathBuf,
    /// What LOG and NFLOG say, of the rules in force and of those before them, whose packets may still be on
    /// their way.
    notes: Mutex<[Vec<Note>; 2]>,
    state: Mutex<State>,
}

/// The text of the policy in force, and of the one that is about to be.
///
/// A daemon that is killed between writing the second and flipping leaves a file that does not fit
/// the rules in the kernel; [`Rules::recall`] takes the file that does.
const CURRENT: &str = "rules.json";
const NEXT: &str = "rules.next.json";

impl Rules {
    /// Rules whose text is kept in a directory.
    pub fn new(directory: PathBuf) -> Self {
        Self {
            directory,
            notes: Mutex::default(),
            state: Mutex::new(State {
                in_force: InForce::Nothing,
                pending: None,
            }),
        }
    }

    /// Where the text is kept.
    pub(crate) fn directory(&self) -> PathBuf {
        self.directory.clone()
    }

    /// Finds out what an earlier daemon put in force.
    pub fn recall(&self, plane: &dyn Plane) -> Result<(), PlaneError> {
        let (header, rules) = plane.policy()?;
        let mut state = self.lock();
        state.pending = Pending::recall(&self.directory);
        let in_force = &mut state.in_force;
        if header.flags & POLICY_NONE != 0 {
            *in_force = InForce::Nothing;
            return Ok(());
        }
        *in_force = InForce::Unknown;
        for name in [NEXT, CURRENT] {
            let Some(known) = recall_from(plane, &self.directory.join(name)) else {
                continue;
            };
            if known.compiled.rules == rules && is_loaded_from(&known.compiled.header, &header) {
                plane.recognize(&known.compiled);
                self.remember_notes(&known.compiled);
                *in_force = InForce::Known(Box::new(known));
                return Ok(());
            }
        }
        Ok(())
    }

    fn remember_notes(&self, compiled: &Compiled) {
        let mut notes = crate::lock(&self.notes);
        let [before, _] = std::mem::take(&mut *notes);
        *notes = [compiled.notes.clone(), before];
    }

    /// What the LOG or NFLOG with this number says.
    pub(crate) fn note(&self, number: u32) -> Option<Note> {
        let notes = crate::lock(&self.notes);
        let mut all = notes.iter().flatten();
        all.find(|note| note.number == number).cloned()
    }

    /// Checks files, and puts them in force.
    pub fn apply(
        &self,
        plane: &dyn Plane,
        files: &[RuleFile],
        mode: ApplyMode,
    ) -> Result<Applied, ApplyError> {
        let mut state = self.lock();
        let mut policy = match &state.in_force {
            InForce::Known(known) => known.counted(plane)?,
            InForce::Nothing | InForce::Unknown => Policy::default(),
        };
        let (families, notes) = merge(plane, &mut policy, files)?;
        let count = |family| policy.ruleset(family).rule_count() as u32;
        let applied = Applied {
            mode,
            rules: [Family::V4, Family::V6]
                .map(|family| families.contains(&family).then(|| count(family))),
            notes,
        };
        let mut origins: Vec<_> = files.iter().map(|file| file.origin.clone()).collect();
        // Both families may be of one.
        origins.dedup();
        self.replace(plane, &mut state, policy, origins, mode)?;
        Ok(applied)
    }

    /// Puts a policy in force, all of it or nothing; or only looks whether it could be.
    pub(super) fn replace(
        &self,
        plane: &dyn Plane,
        state: &mut State,
        policy: Policy,
        origins: Vec<String>,
        mode: ApplyMode,
    ) -> Result<(), ApplyError> {
        let known = self.known(plane, policy, origins)?;
        if mode == ApplyMode::Check {
            return Ok(());
        }
        if state.pending.is_some() {
            return Err(ApplyError::Guard(guard::WAITING));
        }
        let guarded = match mode {
            ApplyMode::Guarded { seconds } => {
                Some(Pending::begin(plane, &state.in_force, seconds)?)
            }
            ApplyMode::Check | ApplyMode::Swap => None,
        };
        if let Some(pending) = &guarded {
            pending.keep(&self.directory)?;
        }
        if let Err(error) = self.swap(plane, &known) {
            guard::forget(&self.directory);
            return Err(error);
        }
        state.in_force = InForce::Known(Box::new(known));
        state.pending = guarded;
        Ok(())
    }

    fn known(
        &self,
        plane: &dyn Plane,
        policy: Policy,
        origins: Vec<String>,
    ) -> Result<Known, ApplyError> {
        let problem = |error: &dyn std::fmt::Display| {
            ApplyError::Rules(vec![whole_file_problem(&origins.join(", "), &error)])
        };
        let mut compiled = compile(&policy).map_err(|error| problem(&error))?;
        number_timeouts(&self.directory, &mut compiled).map_err(|name| {
            problem(&format!(
                "there is no timeout policy {name}: make it by keepstate timeout add"
            ))
        })?;
        compiled
            .number_sets(|name| sets::number(plane, name))
            .map_err(|name| problem(&missing_set(&name)))?;
        Ok(Known {
            applied: unix_seconds(),
            origins,
            policy,
            compiled,
        })
    }

    /// Brings back what was in force before, whoever else waits for confirmation.
    pub(super) fn bring_back(
        &self,
        plane: &dyn Plane,
        state: &mut State,
        kept: &Kept,
    ) -> Result<(), ApplyError> {
        let policy = kept.policy().ok_or(ApplyError::Guard(
            "the rules before cannot be read any more",
        ))?;
        let known = self.known(plane, policy, kept.origins.clone())?;
        self.swap(plane, &known)?;
        state.in_force = InForce::Known(Box::new(known));
        Ok(())
    }

    /// Whether the rules in force have SYNPROXY.
    pub(super) fn have_synproxy(&self) -> bool {
        matches!(&self.lock().in_force, InForce::Known(known) if known.has_synproxy())
    }

    /// Whether the rules in force name a timeout policy.
    pub(crate) fn name_timeouts(&self, name: &str) -> bool {
        match &self.lock().in_force {
            InForce::Known(known) => known.compiled.timeouts.iter().any(|known| known == name),
            InForce::Nothing | InForce::Unknown => false,
        }
    }

    fn swap(&self, plane: &dyn Plane, known: &Known) -> Result<(), ApplyError> {
        let next = self.directory.join(NEXT);
        let keep = |error| ApplyError::Keep(next.clone(), error);
        let text = serde_json::to_string(&known.kept()).map_err(|error| keep(error.into()))?;
        std::fs::write(&next, text).map_err(keep)?;
        let counters = known.compiled.initial_counters(&known.policy);
        self.remember_notes(&known.compiled);
        if known.has_synproxy() {
            // First, so that the first connection is known for what it is.
            let mut settings = plane.settings();
            settings.flags |= SETTING_SYNPROXY;
            plane.store_settings(&settings);
        }
        plane.swap_policy(&known.compiled, &counters)?;
        // From here on the rules are in force, whatever becomes of the file: the next daemon looks
        // at both names.
        let _ = std::fs::rename(&next, self.directory.join(CURRENT));
        Ok(())
    }

    /// Both families with their counters, `None` when the text is lost.
    pub(crate) fn text(&self, plane: &dyn Plane) -> Result<Option<RulesText>, PlaneError> {
        let policy = match &self.lock().in_force {
            InForce::Nothing => Policy::default(),
            InForce::Known(known) => known.counted(plane)?,
            InForce::Unknown => return Ok(None),
        };
        Ok(Some(texts(&policy, ShowCounters::Yes)))
    }

    pub(crate) fn status(&self, plane: &dyn Plane) -> Result<Option<PolicyStatus>, PlaneError> {
        let state = self.lock();
        let now = plane.now();
        let confirm_within = state.pending.as_ref().map(|it| it.seconds_left(now));
        Ok(match &state.in_force {
            InForce::Nothing => None,
            InForce::Known(known) => Some(PolicyStatus {
                origins: known.origins.clone(),
                applied: Some(known.applied),
                rules: Some(
                    [Family::V4, Family::V6]
                        .map(|family| known.policy.ruleset(family).rule_count() as u32),
                ),
                compiled_rules: known.compiled.header.rules,
                confirm_within,
            }),
            InForce::Unknown => Some(PolicyStatus {
                origins: Vec::new(),
                applied: None,
                rules: None,
                compiled_rules: plane.policy()?.0.rules,
                confirm_within,
            }),
        })
    }

    /// The name of a compiled rule. An event that was under way while the policy changed may get
    /// the name of the rule that has this number now.
    pub(crate) fn name(&self, rule: u32) -> Option<RuleName> {
        match &self.lock().in_force {
            InForce::Known(known) => {
                let source = known.compiled.sources.get(rule as usize)?;
                let chain = known.compiled.chains.get(source.chain as usize)?;
                Some(RuleName {
                    chain: chain.name.clone(),
                    number: source.number,
                })
            }
            InForce::Nothing | InForce::Unknown => None,
        }
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, State> {
        // What is in force is replaced as a whole: a panic elsewhere leaves it right.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Known {
    /// The policy with what its rules have counted.
    pub(super) fn counted(&self, plane: &dyn Plane) -> Result<Policy, PlaneError> {
        let counters = plane.rule_counters()?;
        let mut policy = self.policy.clone();
        let read = |index: u32| counters.get(index as usize).copied();
        self.compiled
            .store_counters(&mut policy, |index| read(index).unwrap_or_default());
        Ok(policy)
    }

    fn kept(&self) -> Kept {
        self.kept_as(&self.policy, ShowCounters::No)
    }

    /// As what the next daemon needs, with what has been counted.
    pub(super) fn kept_counted(&self, plane: &dyn Plane) -> Result<Kept, PlaneError> {
        Ok(self.kept_as(&self.counted(plane)?, ShowCounters::Yes))
    }

    fn kept_as(&self, policy: &Policy, counters: ShowCounters) -> Kept {
        let RulesText { v4, v6 } = texts(policy, counters);
        Kept {
            origins: self.origins.clone(),
            applied: self.applied,
            v4,
            v6,
        }
    }
}

impl Kept {
    /// No rules: everything passes.
    pub(super) fn nothing() -> Self {
        let RulesText { v4, v6 } = texts(&Policy::default(), ShowCounters::No);
        Self {
            origins: Vec::new(),
            applied: 0,
            v4,
            v6,
        }
    }

    fn policy(&self) -> Option<Policy> {
        let mut policy = Policy::default();
        for (family, text) in [(Family::V4, &self.v4), (Family::V6, &self.v6)] {
            let parsed = parse_rules(text, FileKind::Save(family));
            if parsed.has_errors() {
                return None;
            }
            policy.merge(parsed);
        }
        Some(policy)
    }
}

fn recall_from(plane: &dyn Plane, path: &Path) -> Option<Known> {
    let text = std::fs::read(path).ok()?;
    let kept: Kept = serde_json::from_slice(&text).ok()?;
    let policy = kept.policy()?;
    let mut compiled = compile(&policy).ok()?;
    number_timeouts(path.parent()?, &mut compiled).ok()?;
    compiled
        .number_sets(|name| sets::number(plane, name))
        .ok()?;
    Some(Known {
        policy,
        compiled,
        origins: kept.origins,
        applied: kept.applied,
    })
}

/// Puts the numbers of timeout policies that records keep in the place of those that a compiled
/// policy has for their names. The error is a name that there is not.
fn number_timeouts(directory: &Path, compiled: &mut Compiled) -> Result<(), String> {
    if compiled.timeouts.is_empty() {
        return Ok(());
    }
    let known = timeouts::numbers(directory);
    let find = |name: &String| known.get(name).copied().ok_or_else(|| name.clone());
    let numbers: Vec<u8> = compiled
        .timeouts
        .iter()
        .map(find)
        .collect::<Result<_, _>>()?;
    for rule in &mut compiled.rules {
        let Some(index) = usize::from(rule.assigned.timeout()).checked_sub(1) else {
            continue;
        };
        if let Some(number) = numbers.get(index) {
            rule.assigned = rule.assigned.with_timeout(*number);
        }
    }
    Ok(())
}

/// Whether a policy in the kernel is a compiled one, but for what was added on loading it.
fn is_loaded_from(compiled: &PolicyHeader, loaded: &PolicyHeader) -> bool {
    *compiled
        == PolicyHeader {
            epoch: compiled.epoch,
            generation: compiled.generation,
            settled: compiled.settled,
            flags: loaded.flags & !POLICY_UNSETTLED,
            ..*loaded
        }
}

fn texts(policy: &Policy, counters: ShowCounters) -> RulesText {
    RulesText {
        v4: save_tables(&policy.v4, counters),
        v6: save_tables(&policy.v6, counters),
    }
}

/// What cannot be read of the files. Sets are not asked for.
pub(crate) fn errors(files: &[RuleFile]) -> Vec<RuleProblem> {
    let of_file = |file: &RuleFile| {
        let parsed = parse_rules(&file.text, file_kind(file));
        let errors = parsed.diagnostics.iter().filter(|told| told.is_error());
        let told = errors.map(|error| problem(&file.origin, error));
        told.collect::<Vec<_>>()
    };
    files.iter().flat_map(of_file).collect()
}

/// Reads the files into the policy. A family that no file speaks of stays as it is.
fn merge(
    plane: &dyn Plane,
    policy: &mut Policy,
    files: &[RuleFile],
) -> Result<(Vec<Family>, Vec<RuleProblem>), ApplyError> {
    let mut families = Vec::new();
    let (mut errors, mut notes) = (Vec::new(), Vec::new());
    for file in files {
        let parsed = parse_rules(&file.text, file_kind(file));
        let missing = missing_sets(&file.text, |name| sets::number(plane, name).is_some());
        for diagnostic in parsed.diagnostics.iter().chain(&missing) {
            let list = if diagnostic.is_error() {
                &mut errors
            } else {
                &mut notes
            };
            list.push(problem(&file.origin, diagnostic));
        }
        let twice = parsed
            .families
            .iter()
            .find(|family| families.contains(*family));
        if let Some(family) = twice {
            let family = ["IPv4", "IPv6"][*family as usize];
            let message = format!("the file before this one has rules of {family} too");
            errors.push(whole_file_problem(&file.origin, &message));
        }
        families.extend(&parsed.families);
        if !parsed.has_errors() {
            policy.merge(parsed);
        }
    }
    if errors.is_empty() {
        Ok((families, notes))
    } else {
        Err(ApplyError::Rules(errors))
    }
}

fn file_kind(file: &RuleFile) -> FileKind {
    let family = match file.family {
        RuleFamily::Detect => None,
        RuleFamily::V4 => Some(Family::V4),
        RuleFamily::V6 => Some(Family::V6),
    };
    FileKind::of(&file.text, family)
}

pub(super) fn problem(origin: &str, diagnostic: &Diagnostic) -> RuleProblem {
    RuleProblem {
        origin: origin.to_owned(),
        line: diagnostic.span.line,
        column: diagnostic.span.column,
        message: diagnostic.problem.to_string(),
        rendered: diagnostic.render(origin, Style::Plain),
    }
}

fn whole_file_problem(origin: &str, message: &impl ToString) -> RuleProblem {
    let message = message.to_string();
    RuleProblem {
        origin: origin.to_owned(),
        line: 0,
        column: 0,
        rendered: format!("error: {message}\n --> {origin}"),
        message,
    }
}
