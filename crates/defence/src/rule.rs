//! Rules that are made against an attack, as iptables takes them: those that count connections which are there, and packets within
//! flows. All else is refused before the rules, see [`crate::refusal`].
//!
//! They stand in chains of their own before all others of filter: [`CHAIN`], where only packets come to that no
//! established flow is of, and one for all packets.

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
/// The chain of those that packets of established flows are held against too.
const CHAIN_OF_FLOWS: &str = "KEEPSTATE-DEFENCE-FLOWS";
/// Chains, and what leads there.
const CHAINS: [(&str, &[&str]); 2] = [(CHAIN, &CONDITION), (CHAIN_OF_FLOWS, &[])];

/// A rule that drops.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Rule {
    pub(crate) is_v4: bool,
    /// Its matches.
    pub(crate) matches: Vec<String>,
    /// Of the step that made it.
    pub(crate) step: u32,
    /// It is held against packets of established flows too.
    #[serde(default)]
    pub(crate) is_of_flows: bool,
}

impl Rule {
    const fn chain(&self) -> &'static str {
        if self.is_of_flows {
            CHAIN_OF_FLOWS
        } else {
            CHAIN
        }
    }

    fn arguments(&self) -> Vec<String> {
        let mut words = owned(&["-t", TABLE, "-A", self.chain()]);
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

/// What counts packets or connections.
const SCALED: [&str; 3] = [
    "--connlimit-above",
    "--hashlimit-above",
    "--hashlimit-burst",
];

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
                let (number, unit) = match word.strip_suffix("/sec") {
                    Some(number) => (number, "/sec"),
                    None => (word.as_str(), ""),
                };
                if SCALED.contains(&before.as_str()) {
                    let number = number.parse::<f64>().unwrap_or(1.0) / by;
                    *word = format!("{:.0}{unit}", number.max(1.0));
                }
                before.clone_from(word);
            }
        }
        self
    }

    fn of(&self, is_v4: bool, chain: &'static str) -> impl Iterator<Item = &Rule> {
        let rules = self.rules.iter();
        rules.filter(move |rule| rule.is_v4 == is_v4 && rule.chain() == chain)
    }

    /// The commands that fill a chain: after those who are left alone.
    fn commands(&self, is_v4: bool, chain: &'static str) -> Vec<Vec<String>> {
        let mut own = self.of(is_v4, chain).peekable();
        if own.peek().is_none() {
            return Vec::new();
        }
        let exempt = self.exempt.0.iter();
        let exempt = exempt.filter(|exemption| exemption.network.is_v4() == is_v4);
        let passed_over = exempt.map(|exemption| {
            let network = exemption.network.to_string();
            owned(&["-t", TABLE, "-A", chain, "-s", &network, "-j", "RETURN"])
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
        for (chain, condition) in CHAINS {
            let commands = wanted.commands(family == Family::V4, chain);
            if commands.is_empty() {
                continue;
            }
            run(policy, family, &owned(&["-t", TABLE, "-N", chain]))?;
            for command in &commands {
                run(policy, family, command)?;
            }
            for from in FROM {
                run(policy, family, &jump("-I", from, (chain, condition)))?;
            }
        }
    }
    Ok(())
}

/// Whether the chain is jumped to from where it should be, for all rules that are wanted.
pub fn is_in_place(policy: &mut Policy, wanted: &Rules) -> bool {
    [Family::V4, Family::V6].into_iter().all(|family| {
        CHAINS.into_iter().all(|to| {
            let is_wanted = wanted.of(family == Family::V4, to.0).next().is_some();
            let mut from = FROM.into_iter();
            !is_wanted || from.all(|from| run(policy, family, &jump("-C", from, to)).is_ok())
        })
    })
}

fn jump(command: &str, from: &str, (chain, condition): (&str, &[&str])) -> Vec<String> {
    let mut words = owned(&["-t", TABLE, command, from]);
    words.extend(owned(condition));
    words.extend(owned(&["-j", chain]));
    words
}

/// Where there is nothing of ours, all of this does nothing.
fn take_out(policy: &mut Policy, family: Family) {
    for to in CHAINS {
        for from in FROM {
            while run(policy, family, &jump("-D", from, to)).is_ok() {}
        }
        if run(policy, family, &owned(&["-t", TABLE, "-F", to.0])).is_ok() {
            let _ = run(policy, family, &owned(&["-t", TABLE, "-X", to.0]));
        }
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
