//! Rules that are made against an attack, as iptables takes them.
//!
//! They stand in a chain of their own, [`CHAIN`], before all others: for SYNs in the table raw, where no flow has
//! been looked up yet; for all else in filter, where only packets come to it that no established flow is of.

use keepstate_engine::tuple::Family;
use keepstate_policy::Policy;
use serde::{Deserialize, Serialize};

use crate::exempt::Exemptions;

/// The chain in which the rules stand.
pub const CHAIN: &str = "KEEPSTATE-DEFENCE";

/// Exempt networks for which there may be rules; with more, no source is limited.
pub(crate) const EXEMPT_RULES_MAX: usize = 256;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum TableName {
    Raw,
    Filter,
}

impl TableName {
    const ALL: [Self; 2] = [Self::Raw, Self::Filter];

    const fn name(self) -> &'static str {
        match self {
            Self::Raw => "raw",
            Self::Filter => "filter",
        }
    }

    /// Built-in chains that jump to [`CHAIN`].
    const fn from(self) -> &'static [&'static str] {
        match self {
            Self::Raw => &["PREROUTING"],
            Self::Filter => &["INPUT", "FORWARD"],
        }
    }

    /// What a packet must be to go there.
    const fn condition(self) -> &'static [&'static str] {
        match self {
            Self::Raw => &[],
            Self::Filter => &["-m", "conntrack", "--ctstate", "INVALID,NEW"],
        }
    }
}

/// What a rule goes by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum By {
    Form,
    Source,
}

/// A rule that drops.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Rule {
    pub(crate) is_v4: bool,
    pub(crate) table: TableName,
    pub(crate) by: By,
    /// Its matches.
    pub(crate) matches: Vec<String>,
    /// Of the step that made it.
    pub(crate) step: u32,
}

impl Rule {
    fn arguments(&self) -> Vec<String> {
        let mut words = owned(&["-t", self.table.name(), "-A", CHAIN]);
        words.extend(self.matches.iter().cloned());
        words.extend(owned(&["-m", "comment", "--comment"]));
        words.push(format!("step {}", self.step));
        words.extend(owned(&["-j", "DROP"]));
        words
    }

    /// As a command.
    pub(crate) fn text(&self) -> String {
        let program = if self.is_v4 { "iptables" } else { "ip6tables" };
        let words = self.arguments();
        let quoted = words.iter().map(|word| {
            if word.contains(' ') {
                format!("\"{word}\"")
            } else {
                word.clone()
            }
        });
        let words: Vec<String> = quoted.collect();
        format!("{program} {}", words.join(" "))
    }
}

/// The rules of all steps that are in force, and who they pass over.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Rules {
    pub(crate) rules: Vec<Rule>,
    pub(crate) exempt: Exemptions,
}

/// A rule could not be put among the others.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RuleError(pub String);

impl std::fmt::Display for RuleError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for RuleError {}

impl Rules {
    pub const fn is_empty(&self) -> bool {
        self.rules.is_empty()
    }

    /// For traffic of which only one packet in so many is there: limits are as many times lower.
    #[must_use]
    pub fn scaled(mut self, by: f64) -> Self {
        for rule in &mut self.rules {
            let mut before = String::new();
            for word in &mut rule.matches {
                let is_limit = before == "--hashlimit-above";
                if is_limit && let Some(rate) = word.strip_suffix("/sec") {
                    let rate = rate.parse::<f64>().unwrap_or(1.0) / by;
                    *word = format!("{:.0}/minute", (rate * 60.0).max(1.0));
                } else if matches!(&*before, "--hashlimit-burst" | "--connlimit-above") {
                    let number = word.parse::<f64>().unwrap_or(1.0) / by;
                    *word = format!("{:.0}", number.max(1.0));
                }
                before.clone_from(word);
            }
        }
        self
    }

    fn of(&self, is_v4: bool, table: TableName) -> Vec<&Rule> {
        let own = |rule: &&Rule| rule.is_v4 == is_v4 && rule.table == table;
        self.rules.iter().filter(own).collect()
    }

    /// The commands that fill the chain: rules by form after those whom no rule touches, rules by source after
    /// those who are never banned.
    fn commands(&self, is_v4: bool, table: TableName) -> Vec<Vec<String>> {
        let rules = self.of(is_v4, table);
        let mut commands = Vec::new();
        for by in [By::Form, By::Source] {
            let mut own = rules.iter().filter(|rule| rule.by == by).peekable();
            if own.peek().is_none() {
                continue;
            }
            let exempt = self.exempt.0.iter().filter(|exemption| {
                let in_rules = by == By::Source || exemption.why.passes_forms();
                exemption.network.is_v4() == is_v4 && in_rules
            });
            for exemption in exempt {
                let network = exemption.network.to_string();
                let words = [
                    "-t",
                    table.name(),
                    "-A",
                    CHAIN,
                    "-s",
                    &network,
                    "-j",
                    "RETURN",
                ];
                commands.push(owned(&words));
            }
            commands.extend(own.map(|rule| rule.arguments()));
        }
        commands
    }
}

fn owned(words: &[&str]) -> Vec<String> {
    words.iter().map(|word| (*word).to_owned()).collect()
}

/// Makes the rules of a policy those that are wanted, and leaves all others as they are.
pub fn sync(policy: &mut Policy, wanted: &Rules) -> Result<(), RuleError> {
    for family in [Family::V4, Family::V6] {
        for table in TableName::ALL {
            take_out(policy, family, table);
            let commands = wanted.commands(family == Family::V4, table);
            if commands.is_empty() {
                continue;
            }
            run(policy, family, &owned(&["-t", table.name(), "-N", CHAIN]))?;
            for command in &commands {
                run(policy, family, command)?;
            }
            for chain in table.from() {
                run(policy, family, &jump(table, "-I", chain))?;
            }
        }
    }
    Ok(())
}

/// Whether the chain is jumped to from where it should be, for all rules that are wanted.
pub fn is_in_place(policy: &mut Policy, wanted: &Rules) -> bool {
    [Family::V4, Family::V6].into_iter().all(|family| {
        TableName::ALL.into_iter().all(|table| {
            let is_wanted = !wanted.of(family == Family::V4, table).is_empty();
            let mut chains = table.from().iter();
            !is_wanted || chains.all(|chain| run(policy, family, &jump(table, "-C", chain)).is_ok())
        })
    })
}

fn jump(table: TableName, command: &str, chain: &str) -> Vec<String> {
    let mut words = owned(&["-t", table.name(), command, chain]);
    words.extend(owned(table.condition()));
    words.extend(owned(&["-j", CHAIN]));
    words
}

/// Where there is nothing of ours, all of this does nothing.
fn take_out(policy: &mut Policy, family: Family, table: TableName) {
    for chain in table.from() {
        while run(policy, family, &jump(table, "-D", chain)).is_ok() {}
    }
    if run(policy, family, &owned(&["-t", table.name(), "-F", CHAIN])).is_ok() {
        let _ = run(policy, family, &owned(&["-t", table.name(), "-X", CHAIN]));
    }
}

fn run(policy: &mut Policy, family: Family, words: &[String]) -> Result<(), RuleError> {
    let program = match family {
        Family::V4 => "iptables",
        Family::V6 => "ip6tables",
    };
    let applied = policy.apply_command(family, words).map(drop);
    applied.map_err(|error| RuleError(error.iptables_text(program).trim().to_owned()))
}
