//! Commands carried out: `iptables -A ...` against a policy.

use std::collections::HashSet;

use keepstate_engine::helper;
use keepstate_engine::limits::RULES_MAX;
use keepstate_engine::tuple::Family;

use crate::command::{self, Command, Listing, Place, TableName, ThenZero, Verb};
use crate::diagnostic::{Diagnostic, Severity, Span, WrittenAt, nearest};
use crate::fault::Fault;
use crate::lexer::{Word, argument_words};
use crate::matches::{Context, Refusal};
use crate::model::{
    ChainName, ChainPolicy, Counters, CtTarget, Match, Policy, Rule, Table, TableKind, Target,
};
use crate::print::{list, save};
use crate::problem::Problem;
use crate::rule::RuleSpec;

/// The version of iptables whose behaviour is followed.
pub const IPTABLES_VERSION: &str = "v1.8.9 (keepstate)";

/// What a command printed, and whether the policy is another one now.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CommandOutput {
    pub stdout: String,
    pub changed: bool,
    /// Why the command did nothing, where it was taken all the same.
    pub note: Option<Problem>,
}

/// A refused command. The policy is as it was.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{diagnostic}")]
pub struct CommandError {
    pub diagnostic: Diagnostic,
}

impl CommandError {
    /// What iptables would exit with.
    pub const fn exit_code(&self) -> u8 {
        self.diagnostic.problem.exit_code()
    }

    /// What iptables would print to standard error. `program` is `iptables` or `ip6tables`.
    pub fn iptables_text(&self, program: &str) -> String {
        let problem = &self.diagnostic.problem;
        let help = format!("Try `{program} -h' or '{program} --help' for more information.");
        let said = match (problem, self.exit_code()) {
            (Problem::ArgumentBad(_), _) => format!("{problem}\n{help}\n"),
            (_, 1) => format!("{program}: {problem}\n"),
            (_, 2) => format!("{program} {IPTABLES_VERSION}: {problem}\n{help}\n"),
            (_, 3) => format!(
                "{program} {IPTABLES_VERSION}: {problem}\n\
                 Perhaps {program} or your kernel needs to be upgraded.\n"
            ),
            _ => format!("{program} {IPTABLES_VERSION}: {problem}\n"),
        };
        // Where iptables leaves the reason to the kernel's log, and where the refusal is ours.
        match (problem, &self.diagnostic.hint) {
            (Problem::RuleRefused { .. } | Problem::NotSupported { .. }, Some(hint)) => {
                format!("{said}hint: {hint}\n")
            }
            _ => said,
        }
    }
}

impl Policy {
    /// Carries out one command; `arguments` begin after the program's name. It is done wholly or
    /// not at all.
    pub fn apply_command<S: AsRef<str>>(
        &mut self,
        family: Family,
        arguments: &[S],
    ) -> Result<CommandOutput, CommandError> {
        let (words, line) = argument_words(arguments);
        let outcome = command::parse(family, Place::CommandLine, &words)
            .and_then(|command| apply(self, family, &command));
        let whole = Span {
            line: 1,
            column: 1,
            length: line.chars().count() as u32,
        };
        outcome.map_err(|fault| CommandError {
            diagnostic: fault.or_at(whole).in_text(&[&line], Severity::Error),
        })
    }
}

/// Whether a command of iptables leaves the rules and their counters as they are. One that cannot be read does.
pub fn only_lists<S: AsRef<str>>(family: Family, arguments: &[S]) -> bool {
    let (words, _) = argument_words(arguments);
    let Ok(command) = command::parse(family, Place::CommandLine, &words) else {
        return true;
    };
    matches!(
        command.verb,
        Verb::List(_, _, ThenZero::No)
            | Verb::ListRules(_, _, ThenZero::No)
            | Verb::Check(..)
            | Verb::Help
            | Verb::Version
    )
}

/// Carries out a command that has been read.
pub(crate) fn apply(
    policy: &mut Policy,
    family: Family,
    command: &Command,
) -> Result<CommandOutput, Fault> {
    match &command.verb {
        Verb::Help => return Ok(printed(usage(family))),
        Verb::Version => {
            let program = save::program(family);
            return Ok(printed(format!("{program} {IPTABLES_VERSION}\n")));
        }
        _ => {}
    }
    let kind = match &command.table {
        TableName::Known(kind) => *kind,
        TableName::Foreign(name) => return foreign_table(name, &command.verb),
    };
    let verbose = command.listing.verbose;
    let table = policy.ruleset_mut(family).table_mut(kind);
    match &command.verb {
        Verb::List(chain, number, then_zero) => {
            let range = existing(table, chain.as_ref())?;
            let mut stdout = list::list(table, family, range, *number, command.listing);
            let changed = *then_zero == ThenZero::Yes;
            if changed {
                stdout += &zero(table, range, None, verbose);
            }
            Ok(CommandOutput {
                stdout,
                changed,
                note: None,
            })
        }
        Verb::ListRules(chain, number, then_zero) => {
            let range = existing(table, chain.as_ref())?;
            let mut stdout = save::list_rules(table, range, *number, verbose);
            let changed = *then_zero == ThenZero::Yes;
            if changed {
                stdout += &zero(table, range, None, verbose);
            }
            Ok(CommandOutput {
                stdout,
                changed,
                note: None,
            })
        }
        Verb::Check(chain, spec) => check(table, family, chain, spec, command.listing),
        Verb::Append(..)
        | Verb::Insert(..)
        | Verb::Replace(..)
        | Verb::Delete(..)
        | Verb::DeleteNumber(..) => change_rules(table, family, command).map(changed),
        _ => change_chains(table, command).map(changed),
    }
}

fn printed(stdout: String) -> CommandOutput {
    CommandOutput {
        stdout,
        ..CommandOutput::default()
    }
}

fn changed(stdout: String) -> CommandOutput {
    CommandOutput {
        stdout,
        changed: true,
        note: None,
    }
}

/// Other tables are empty: emptying them is done already, everything else cannot be done.
fn foreign_table(name: &Word, verb: &Verb) -> Result<CommandOutput, Fault> {
    let empties = match verb {
        Verb::Flush(None) | Verb::DeleteChain(None) | Verb::Zero(None, _) => true,
        Verb::Policy(_, policy, _) => policy.text == "ACCEPT",
        _ => false,
    };
    if !empties {
        let problem = Problem::TableNotSupported(name.text.clone());
        return Err(Fault::at(name, problem));
    }
    Ok(CommandOutput {
        note: Some(Problem::NoteEmptyTable(name.text.clone())),
        ..CommandOutput::default()
    })
}

/// The chain's name, if the table has it; `None` stands for all chains.
fn existing<'a>(table: &Table, chain: Option<&'a Word>) -> Result<Option<&'a str>, Fault> {
    let Some(chain) = chain else { return Ok(None) };
    match table.rules(&chain.text) {
        Some(_) => Ok(Some(chain.text.as_str())),
        None => Err(chain_unknown(table, chain, Problem::ChainUnknown)),
    }
}

fn chain_unknown(table: &Table, chain: &Word, problem: Problem) -> Fault {
    let near = nearest(&chain.text, table.chain_names());
    Fault::at(chain, problem).hint(near.map(|name| format!("did you mean `{name}'?")))
}

/// Refuses rules that lead to a chain that is not there.
fn check_target(table: &Table, spec: &RuleSpec) -> Result<(), Fault> {
    let Some(word) = &spec.target else {
        return Ok(());
    };
    let chain = spec.rules.first().and_then(|rule| rule.target.chain());
    match chain {
        Some(chain) if table.hook_named(chain.as_str()).is_some() => {
            let problem = Problem::TargetBuiltin(chain.to_string());
            Err(Fault::at(word, problem))
        }
        Some(chain) if !table.user.contains_key(chain) => {
            let problem = Problem::TargetUnknown(chain.to_string());
            let names = table.chain_names().chain(["ACCEPT", "DROP", "RETURN"]);
            let near = nearest(&word.text, names);
            Err(Fault::at(word, problem).hint(near.map(|name| format!("did you mean `{name}'?"))))
        }
        _ => Ok(()),
    }
}

/// Refuses matches and targets that the kernel refuses when a rule is made.
fn check_extensions(
    kind: TableKind,
    family: Family,
    command: &Command,
    spec: &RuleSpec,
) -> Result<(), Fault> {
    let Some((chain, change)) = made(&command.verb) else {
        return Ok(());
    };
    let Some(rule) = spec.rules.first() else {
        return Ok(());
    };
    let context = Context {
        family,
        protocol: rule.protocol.as_ref(),
    };
    let matches = rule.matches.iter().filter_map(|one| match one {
        Match::Extension(extension) | Match::Tracked(_, extension) => Some(extension),
        _ => None,
    });
    let target = match &rule.target {
        Target::Extended(extension) => Some(extension),
        _ => None,
    };
    for extension in matches.chain(target) {
        let refusal = extension.refusal(&context);
        let refusal = refusal.or_else(|| extension.misplaced(kind, &chain.text));
        if let Some(Refusal { error, hint }) = refusal {
            let chain_name = chain.text.clone();
            let problem = Problem::RuleRefused {
                change,
                error,
                chain: chain_name,
            };
            let name = extension.module.name;
            let hint = format!("{name}: {hint}");
            return Err(Fault::at(chain, problem).hint(Some(hint)));
        }
    }
    Ok(())
}

/// The chain that gets a rule, and what iptables calls that.
const fn made(verb: &Verb) -> Option<(&Word, &'static str)> {
    match verb {
        Verb::Append(chain, _) => Some((chain, "RULE_APPEND")),
        Verb::Insert(chain, ..) => Some((chain, "RULE_INSERT")),
        Verb::Replace(chain, ..) => Some((chain, "RULE_REPLACE")),
        _ => None,
    }
}

/// Refuses what the kernel refuses of CT rules when they are made.
fn check_ct(table: &Table, command: &Command, spec: &RuleSpec) -> Result<(), Fault> {
    let Some((chain, change)) = made(&command.verb) else {
        return Ok(());
    };
    let (Some(rule), Some(word)) = (spec.rules.first(), &spec.target) else {
        return Ok(());
    };
    let refuse = |error, hint| {
        let chain = chain.text.clone();
        let problem = Problem::RuleRefused {
            change,
            error,
            chain,
        };
        Err(Fault::at(word, problem).hint(Some(hint)))
    };
    let ct = match &rule.target {
        Target::Ct(ct) => ct,
        Target::Notrack => &CtTarget::default(),
        _ => return Ok(()),
    };
    if table.kind != TableKind::Raw {
        let hint = "this target is for the table raw: `-t raw -A PREROUTING ...'";
        return refuse("Invalid argument", hint.into());
    }
    let Some(name) = &ct.helper else {
        return Ok(());
    };
    let protocol = rule.protocol.as_ref().filter(|test| !test.negated);
    let Some(protocol) = protocol else {
        let hint = format!("the helper {name} needs `-p' with its protocol");
        return refuse("No such file or directory", hint);
    };
    if helper::named(name, protocol.value.0).is_none() {
        let known: Vec<_> = helper::HELPERS.iter().map(|helper| helper.name).collect();
        let known = known.join(", ");
        let hint = format!("no helper {name} for that protocol; there are: {known}");
        return refuse("No such file or directory", hint);
    }
    Ok(())
}

fn check(
    table: &Table,
    family: Family,
    chain: &Word,
    spec: &RuleSpec,
    listing: Listing,
) -> Result<CommandOutput, Fault> {
    check_target(table, spec)?;
    let missing = || Fault::at(chain, Problem::RuleMissing);
    let rules = table.rules(&chain.text).ok_or_else(missing)?;
    let found = |wanted: &Rule| rules.iter().any(|rule| rule.same_as(wanted));
    if !spec.rules.iter().all(found) {
        return Err(missing());
    }
    Ok(printed(echo(family, &spec.rules, listing)))
}

/// What `-v` prints for each rule.
fn echo(family: Family, rules: &[Rule], listing: Listing) -> String {
    if !listing.verbose {
        return String::new();
    }
    let lines = rules.iter().map(|rule| list::echo(family, rule));
    lines.collect()
}

fn change_rules(table: &mut Table, family: Family, command: &Command) -> Result<String, Fault> {
    let (chain, spec) = match &command.verb {
        Verb::Append(chain, spec)
        | Verb::Insert(chain, _, spec)
        | Verb::Replace(chain, _, spec)
        | Verb::Delete(chain, spec) => (chain, Some(spec)),
        Verb::DeleteNumber(chain, _) => (chain, None),
        _ => return Ok(String::new()),
    };
    if let Some(spec) = spec {
        check_target(table, spec)?;
        check_ct(table, command, spec)?;
        check_extensions(table.kind, family, command, spec)?;
    }
    let added = spec.map_or(0, |spec| spec.rules.len());
    if table.rule_count() + added > RULES_MAX as usize {
        return Err(Fault::at(chain, Problem::TooManyRules(RULES_MAX)));
    }
    if table.rules(&chain.text).is_none() {
        return Err(chain_unknown(table, chain, Problem::ChainUnknown));
    }
    let Some(rules) = table.rules_mut(&chain.text) else {
        return Err(Fault::at(chain, Problem::ChainUnknown));
    };
    let index = |number: u32| number as usize - 1;
    let refuse = |problem| Err(Fault::at(chain, problem));
    match &command.verb {
        Verb::Append(_, spec) => rules.extend_from_slice(&spec.rules),
        Verb::Insert(_, number, _) if index(*number) > rules.len() => {
            return refuse(Problem::InsertionTooFar);
        }
        // Each goes to the same place, as with iptables, so that a list ends up turned round.
        Verb::Insert(_, number, spec) => {
            let reversed = spec.rules.iter().rev().cloned();
            rules.splice(index(*number)..index(*number), reversed);
        }
        Verb::Replace(_, number, spec) => {
            match (rules.get_mut(index(*number)), spec.rules.first()) {
                (Some(rule), Some(new)) => *rule = new.clone(),
                _ => return refuse(Problem::ReplacementTooFar),
            }
        }
        Verb::DeleteNumber(_, number) if index(*number) >= rules.len() => {
            return refuse(Problem::DeletionTooFar);
        }
        Verb::DeleteNumber(_, number) => {
            rules.remove(index(*number));
        }
        Verb::Delete(_, spec) => delete(rules, chain, spec)?,
        _ => {}
    }
    Ok(match spec {
        Some(spec) => echo(family, &spec.rules, command.listing),
        None => String::new(),
    })
}

/// Removes the first rule like each of `spec`; all or none.
fn delete(rules: &mut Vec<Rule>, chain: &Word, spec: &RuleSpec) -> Result<(), Fault> {
    let mut doomed: Vec<usize> = Vec::new();
    for wanted in &spec.rules {
        let found = rules
            .iter()
            .enumerate()
            .position(|(index, rule)| rule.same_as(wanted) && !doomed.contains(&index));
        doomed.push(found.ok_or_else(|| Fault::at(chain, Problem::RuleMissing))?);
    }
    doomed.sort_unstable();
    for index in doomed.into_iter().rev() {
        rules.remove(index);
    }
    Ok(())
}

fn change_chains(table: &mut Table, command: &Command) -> Result<String, Fault> {
    let verbose = command.listing.verbose;
    match &command.verb {
        Verb::Flush(chain) => {
            let range = existing(table, chain.as_ref())?;
            let names = names_in(table, range);
            for name in &names {
                if let Some(rules) = table.rules_mut(name) {
                    rules.clear();
                }
            }
            Ok(announce("Flushing", &names, verbose))
        }
        Verb::Zero(chain, number) => {
            let range = existing(table, chain.as_ref())?;
            Ok(zero(table, range, *number, verbose))
        }
        Verb::NewChain(word) => {
            let name = new_name(table, word, Problem::ChainExists)?;
            table.user.insert(name, Vec::new());
            Ok(String::new())
        }
        Verb::DeleteChain(chain) => delete_chains(table, chain.as_ref(), verbose),
        Verb::RenameChain(from, to) => rename(table, from, to),
        Verb::Policy(chain, policy, counters) => set_policy(table, chain, policy, *counters),
        _ => Ok(String::new()),
    }
}

fn names_in(table: &Table, range: Option<&str>) -> Vec<String> {
    match range {
        Some(name) => vec![name.into()],
        None => table.chain_names().map(String::from).collect(),
    }
}

fn announce(what: &str, names: &[String], verbose: bool) -> String {
    if !verbose {
        return String::new();
    }
    let lines = names.iter().map(|name| format!("{what} chain `{name}'\n"));
    lines.collect()
}

/// Sets counters to zero; a number beyond the chain's end is nothing to do, as with iptables.
fn zero(table: &mut Table, range: Option<&str>, number: Option<u32>, verbose: bool) -> String {
    let names = names_in(table, range);
    for name in &names {
        let Some(rules) = table.rules_mut(name) else {
            continue;
        };
        match number {
            Some(number) => {
                if let Some(rule) = rules.get_mut(number as usize - 1) {
                    rule.counters = Counters::default();
                }
                continue;
            }
            None => rules
                .iter_mut()
                .for_each(|rule| rule.counters = Counters::default()),
        }
        if let Some(hook) = table.hook_named(name) {
            table.builtin_mut(hook).counters = Counters::default();
        }
    }
    match number {
        Some(_) => String::new(),
        None => announce("Zeroing", &names, verbose),
    }
}

fn new_name(table: &Table, word: &Word, exists: Problem) -> Result<ChainName, Fault> {
    let refuse = |problem| Fault::at(word, problem);
    if table.rules(&word.text).is_some() {
        return Err(refuse(exists));
    }
    ChainName::new(&word.text).map_err(refuse)
}

fn delete_chains(table: &mut Table, chain: Option<&Word>, verbose: bool) -> Result<String, Fault> {
    let range = existing(table, chain)?;
    let doomed: Vec<String> = match range {
        Some(name) => vec![name.into()],
        None => table.user.keys().map(ChainName::to_string).collect(),
    };
    let span = chain.map(|word| word.span).unwrap_or_default();
    let targets = table.all_rules().filter_map(|rule| rule.target.chain());
    let referenced: HashSet<&str> = targets.map(ChainName::as_str).collect();
    for name in &doomed {
        let used = table.rules(name).is_some_and(|rules| !rules.is_empty());
        if used || table.hook_named(name).is_some() || referenced.contains(name.as_str()) {
            return Err(Fault::at_span(span, Problem::ChainBusy(name.clone())));
        }
    }
    for name in &doomed {
        table.user.remove(name.as_str());
    }
    Ok(announce("Deleting", &doomed, verbose))
}

fn rename(table: &mut Table, from: &Word, to: &Word) -> Result<String, Fault> {
    if table.hook_named(&from.text).is_some() {
        let problem = Problem::ChainBuiltinRename(from.text.clone());
        return Err(Fault::at(from, problem));
    }
    existing(table, Some(from))?;
    let name = new_name(table, to, Problem::ChainRenameExists)?;
    if let Some(rules) = table.user.remove(from.text.as_str()) {
        table.user.insert(name.clone(), rules);
    }
    for rule in table.all_rules_mut() {
        rule.target.rename(&from.text, &name);
    }
    Ok(String::new())
}

fn set_policy(
    table: &mut Table,
    chain: &Word,
    policy: &Word,
    counters: Option<Counters>,
) -> Result<String, Fault> {
    let Some(hook) = table.hook_named(&chain.text) else {
        let fault = chain_unknown(table, chain, Problem::PolicyChain);
        return Err(fault);
    };
    let value = ChainPolicy::named(&policy.text).ok_or_else(|| {
        let near = nearest(&policy.text.to_uppercase(), ["ACCEPT", "DROP"].into_iter());
        let exact = ChainPolicy::named(&policy.text.to_uppercase()).map(ChainPolicy::name);
        let hint = near.or(exact).map(|name| format!("did you mean `{name}'?"));
        Fault::at(policy, Problem::PolicyName).hint(hint)
    })?;
    let chain = table.builtin_mut(hook);
    chain.policy = value;
    chain.place = WrittenAt(Some(policy.span));
    if let Some(counters) = counters {
        chain.counters = counters;
    }
    Ok(String::new())
}

fn usage(family: Family) -> String {
    let program = save::program(family);
    let mut text = format!(
        "{program} {IPTABLES_VERSION}\n\n\
         Usage: {program} -[ACD] chain rule-specification [options]\n\
         \x20      {program} -I chain [rulenum] rule-specification [options]\n\
         \x20      {program} -R chain rulenum rule-specification [options]\n\
         \x20      {program} -D chain rulenum [options]\n\
         \x20      {program} -[LS] [chain [rulenum]] [options]\n\
         \x20      {program} -[FZ] [chain] [options]\n\
         \x20      {program} -[NX] chain\n\
         \x20      {program} -E old-chain-name new-chain-name\n\
         \x20      {program} -P chain target [options]\n\n\
         Options:\n"
    );
    for known in crate::options::DEFINITIONS {
        let short = known
            .short
            .map(|short| format!("-{short} "))
            .unwrap_or("   ".into());
        let long: Vec<_> = known.long.iter().map(|name| format!("--{name}")).collect();
        text += &format!("  {short} {}\n", long.join(" "));
    }
    text
}
