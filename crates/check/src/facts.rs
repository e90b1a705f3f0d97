//! What is known of a rule.
//!
//! Matches are taken from the text that iptables-save prints for them, so that one that is new to this
//! crate is understood as far as its name goes: it narrows what the rule matches, and nobody knows how.

use keepstate_policy::Specification;
use keepstate_policy::model::{Rule, StateSet, Target};

use crate::region::{Ports, Region, normal_ports};

/// A match with its words, as `-m NAME ...` prints them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Module {
    pub(crate) name: String,
    pub(crate) words: Vec<String>,
}

impl Module {
    /// The word after an option.
    pub(crate) fn value(&self, option: &str) -> Option<&str> {
        let at = self.words.iter().position(|word| word == option)?;
        self.words.get(at + 1).map(String::as_str)
    }
}

/// See the module.
#[derive(Clone, Debug)]
pub(crate) struct Facts {
    /// All that it matches, and perhaps more.
    pub(crate) region: Region,
    /// Nothing beyond what it matches is in the region.
    pub(crate) exact: bool,
    pub(crate) modules: Vec<Module>,
    pub(crate) action: Action,
}

/// What becomes of a packet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Action {
    Accept,
    /// DROP or REJECT.
    Refuse,
    Return,
    Jump(String),
    Goto(String),
    /// LOG or NFLOG; the walk goes on.
    Log,
    /// The walk goes on, or that is not known.
    Other,
}

/// Matches that limit how often something may happen, or how much of it there may be.
const LIMITS: [&str; 4] = ["limit", "hashlimit", "connlimit", "recent"];

impl Facts {
    pub(crate) fn of(rule: &Rule) -> Self {
        let text = Specification(rule).to_string();
        let mut facts = Self {
            region: Region::of(rule),
            exact: true,
            modules: modules(&text),
            action: action(&rule.target),
        };
        for index in 0..facts.modules.len() {
            let module = facts.modules[index].clone();
            facts.narrow(&module);
        }
        facts
    }

    pub(crate) fn module(&self, name: &str) -> Option<&Module> {
        self.modules.iter().find(|module| module.name == name)
    }

    /// A match that limits.
    pub(crate) fn limit(&self) -> Option<&Module> {
        self.modules
            .iter()
            .find(|module| LIMITS.contains(&module.name.as_str()))
    }

    pub(crate) fn comment(&self) -> Option<&str> {
        self.module("comment")?.value("--comment")
    }

    /// Takes a match into the region; what is not understood makes it inexact.
    fn narrow(&mut self, module: &Module) {
        match module.name.as_str() {
            "comment" => return,
            "tcp" | "udp" | "udplite" | "sctp" | "dccp" | "multiport" | "conntrack" | "state" => {}
            _ => {
                self.exact = false;
                return;
            }
        }
        let mut words = module.words.iter().map(String::as_str);
        let mut negated = false;
        while let Some(word) = words.next() {
            if word == "!" {
                negated = true;
                continue;
            }
            let Some(option) = word.strip_prefix("--") else {
                // An argument of an option that was not understood.
                continue;
            };
            let argument = || words.clone().next().unwrap_or_default();
            let understood = match option {
                "sport" | "source-port" | "sports" | "source-ports" => {
                    narrow_ports(&mut self.region.source_ports, argument(), negated)
                }
                "dport" | "destination-port" | "dports" | "destination-ports" => {
                    narrow_ports(&mut self.region.destination_ports, argument(), negated)
                }
                "ctstate" | "state" => self.narrow_states(argument(), negated),
                _ => false,
            };
            self.exact &= understood;
            negated = false;
        }
    }

    fn narrow_states(&mut self, names: &str, negated: bool) -> bool {
        let mut states = 0;
        for name in names.split(',') {
            match StateSet::state_named(name) {
                Some(state) => states |= state.bit(),
                // SNAT and DNAT are no states that packets have here.
                None => return false,
            }
        }
        self.region.states &= if negated { !states } else { states };
        true
    }
}

fn narrow_ports(ports: &mut Ports, list: &str, negated: bool) -> bool {
    let mut ranges = Vec::new();
    for range in list.split(',') {
        let (first, last) = range.split_once(':').unwrap_or((range, range));
        let first = if first.is_empty() { "0" } else { first };
        let last = if last.is_empty() { "65535" } else { last };
        match (first.parse(), last.parse()) {
            (Ok(first), Ok(last)) => ranges.push((first, last)),
            _ => return false,
        }
    }
    // Two lists at once are hardly ever meant: the later one is left out, which errs towards more.
    if ports.is_some() {
        return false;
    }
    *ports = Some(normal_ports(ranges, negated));
    true
}

fn action(target: &Target) -> Action {
    match target {
        Target::Accept => Action::Accept,
        Target::Drop => Action::Refuse,
        Target::Return => Action::Return,
        Target::Jump(chain) => Action::Jump(chain.to_string()),
        Target::Goto(chain) => Action::Goto(chain.to_string()),
        other => match other.name() {
            "REJECT" => Action::Refuse,
            "LOG" | "NFLOG" | "ULOG" => Action::Log,
            _ => Action::Other,
        },
    }
}

/// The matches of a rule that iptables-save printed, in their order.
fn modules(text: &str) -> Vec<Module> {
    let mut modules: Vec<Module> = Vec::new();
    let mut words = split(text).into_iter();
    while let Some(word) = words.next() {
        match word.as_str() {
            "-m" => modules.extend(words.next().map(|name| Module {
                name,
                words: Vec::new(),
            })),
            // The target comes last, with words of its own.
            "-j" | "-g" => break,
            _ => {
                if let Some(module) = modules.last_mut() {
                    module.words.push(word);
                }
            }
        }
    }
    modules
}

/// Words of a line of iptables-save.
pub(crate) fn split(text: &str) -> Vec<String> {
    let mut words = Vec::new();
    let mut word: Option<String> = None;
    let (mut quoted, mut escaped) = (false, false);
    for character in text.chars() {
        match character {
            _ if escaped => {
                word.get_or_insert_default().push(character);
                escaped = false;
            }
            '\\' if quoted => escaped = true,
            '"' => {
                quoted = !quoted;
                word.get_or_insert_default();
            }
            ' ' if !quoted => words.extend(word.take()),
            _ => word.get_or_insert_default().push(character),
        }
    }
    words.extend(word);
    words
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn matches_are_told_by_their_text() {
        let text = " -s 10.0.0.0/8 -p tcp -m multiport ! --dports 80,443 -m comment --comment \"a \\\"b\\\" -m x\" -m recent --rcheck --seconds 60 --name X -j LOG --log-prefix \"P: \"";
        let modules = modules(text);
        let names: Vec<&str> = modules.iter().map(|module| module.name.as_str()).collect();
        assert_eq!(names, ["multiport", "comment", "recent"]);
        assert_eq!(modules[0].words, ["!", "--dports", "80,443"]);
        assert_eq!(modules[1].value("--comment"), Some("a \"b\" -m x"));
        assert_eq!(modules[2].value("--seconds"), Some("60"));
    }
}
