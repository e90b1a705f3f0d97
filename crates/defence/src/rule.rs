//! Rules that are made against an attack, as iptables takes them: those that count connections which are there. All
//! else is refused before the rules, see [`crate::refusal`].
//!
//! They stand in a chain of their own, [`CHAIN`], before all others of filter, where only packets come to it that no
//! established flow is of.

use keepstate_engine::tuple::Family;
use keepstate_policy::Policy;
use serde::{Deserialize, Serialize};

use crate::exempt::Exemptions;

/// The chain in which the rules stand.
pub const CHAIN: &str = "KEEPSTATE-DEFENCE";

/// Exempt networks for which there may be rules; with more, no source is limited.
pub(crate) const EXEMPT_RULES_MAX: usize = 256;

const TABLE: &str = "filter";
/// Built-in chains that jump to [`CHAIN`].
const FROM: [&str; 2] = ["INPUT", "FORWARD"];
/// What a packet must be to go there.
const CONDITION: [&str; 4] = ["-m", "conntrack", "--ctstate", "INVALID,NEW"];

/// A rule that drops.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Rule {
    pub(crate) is_v4: bool,
    /// Its matches.
    pub(crate) matches: Vec<String>,
    /// Of the step that made it.
    pub(crate) step: u32,
}

impl Rule {
    fn arguments(&self) -> Vec<String> {
        let mut words = owned(&["-t", TABLE, "-A", CHAIN]);
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
                if before == "--connlimit-above" {
                    let number = word.parse::<f64>().unwrap_or(1.0) / by;
                    *word = format!("{:.0}", number.max(1.0));
                }
                before.clone_from(word);
            }
        }
        self
    }

    fn of(&self, is_v4: bool) -> impl Iterator<Item = &Rule> {
        self.rules.iter().filter(move |rule| rule.is_v4 == is_v4)
    }

    /// The commands that fill the chain: after those who are left alone.
    fn commands(&self, is_v4: bool) -> Vec<Vec<String>> {
        let mut own = self.of(is_v4).peekable();
        if own.peek().is_none() {
            return Vec::new();
        }
        let exempt = self.exempt.0.iter();
        let exempt = exempt.filter(|exemption| exemption.network.is_v4() == is_v4);
        let passed_over = exempt.map(|exemption| {
            let network = exemption.network.to_string();
            owned(&["-t", TABLE, "-A", CHAIN, "-s", &network, "-j", "RETURN"])
        });
        passed_over.chain(own.map(Rule::arguments)).collect()
    }
}

fn owned(words: &[&str]) -> Vec<String> {
    words.iter().map(|word| (*word).to_owned()).collect()
}

/// Makes the rules of a policy those that are wanted, and leaves all others as they are.
pub fn sync(policy: &mut Policy, wanted: &Rules) -> Result<(), RuleError> {
    for family in [Family::V4, Family::V6] {
        take_out(policy, family);
        let commands = wanted.commands(family == Family::V4);
        if commands.is_empty() {
            continue;
        }
        run(policy, family, &owned(&["-t", TABLE, "-N", CHAIN]))?;
        for command in &commands {
            run(policy, family, command)?;
        }
        for chain in FROM {
            run(policy, family, &jump("-I", chain))?;
        }
    }
    Ok(())
}

/// Whether the chain is jumped to from where it should be, for all rules that are wanted.
pub fn is_in_place(policy: &mut Policy, wanted: &Rules) -> bool {
    [Family::V4, Family::V6].into_iter().all(|family| {
        let is_wanted = wanted.of(family == Family::V4).next().is_some();
        let mut chains = FROM.into_iter();
        !is_wanted || chains.all(|chain| run(policy, family, &jump("-C", chain)).is_ok())
    })
}

fn jump(command: &str, chain: &str) -> Vec<String> {
    let mut words = owned(&["-t", TABLE, command, chain]);
    words.extend(owned(&CONDITION));
    words.extend(owned(&["-j", CHAIN]));
    words
}

/// Where there is nothing of ours, all of this does nothing.
fn take_out(policy: &mut Policy, family: Family) {
    for chain in FROM {
        while run(policy, family, &jump("-D", chain)).is_ok() {}
    }
    if run(policy, family, &owned(&["-t", TABLE, "-F", CHAIN])).is_ok() {
        let _ = run(policy, family, &owned(&["-t", TABLE, "-X", CHAIN]));
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
