//! The checks, a file for each thing that they are about.

mod hiding;
mod limits;
mod proxy;
mod script;
mod sizes;
mod states;
mod untracked;
mod whole;

use keepstate_engine::tuple::Family;
use keepstate_policy::model::{Rule, Table, TableKind};
use keepstate_policy::{Specification, WrittenAt};

use crate::Subject;
use crate::facts::Facts;
use crate::finding::{Code, Finding, Location, Severity};
use crate::reach::Reach;

pub(crate) fn run(subject: &Subject) -> Vec<Finding> {
    let mut findings = Vec::new();
    for family in [Family::V4, Family::V6] {
        if !subject.families.contains(&family) {
            continue;
        }
        let ruleset = subject.policy.ruleset(family);
        let looks = TableKind::ALL.map(|kind| Look {
            subject,
            family,
            table: ruleset.table(kind),
            reach: Reach::new(ruleset.table(kind)),
        });
        for look in &looks {
            hiding::check(look, &mut findings);
            limits::check(look, &mut findings);
        }
        let [_, raw, filter] = &looks;
        states::check(filter, &mut findings);
        untracked::check(raw, filter, &mut findings);
        proxy::check(filter, &mut findings);
        whole::check_family(filter, &mut findings);
    }
    whole::check_families(subject, &mut findings);
    script::check(subject, &mut findings);
    sizes::check(subject, &mut findings);
    findings
}

/// A table that is looked at.
struct Look<'a> {
    subject: &'a Subject,
    family: Family,
    table: &'a Table,
    reach: Reach<'a>,
}

impl<'a> Look<'a> {
    fn rule(&self, chain: &str, index: usize) -> Option<&'a Rule> {
        self.table.rules(chain)?.get(index)
    }

    fn facts(&self, chain: &str) -> &[Facts] {
        self.reach.chains.get(chain).map_or(&[], Vec::as_slice)
    }

    /// Where a rule is.
    fn location(&self, chain: &str, index: usize) -> Location {
        let rule = self.rule(chain, index);
        Location {
            source: self.subject.source_of[self.family as usize],
            place: rule.map(|rule| rule.place).unwrap_or_default(),
            table: self.table.kind.name(),
            chain: chain.to_owned(),
            number: index + 1,
            rule: rule
                .map(|rule| format!("-A {chain}{}", Specification(rule)))
                .unwrap_or_default(),
        }
    }

    /// Where a chain's policy is, or the chain itself.
    fn location_of_chain(&self, chain: &str) -> Location {
        let hook = self.table.hook_named(chain);
        let builtin = hook.map(|hook| self.table.builtin(hook));
        let first = self.rule(chain, 0).map(|rule| rule.place);
        let place = match builtin.map(|builtin| builtin.place) {
            Some(WrittenAt(Some(span))) => WrittenAt(Some(span)),
            _ => first.unwrap_or_default(),
        };
        Location {
            source: self.subject.source_of[self.family as usize],
            place,
            table: self.table.kind.name(),
            chain: chain.to_owned(),
            number: 0,
            rule: match builtin {
                Some(builtin) => format!("-P {chain} {}", builtin.policy.name()),
                None => format!("-N {chain}"),
            },
        }
    }

    fn finding(
        &self,
        code: Code,
        severity: Severity,
        message: String,
        location: Location,
    ) -> Finding {
        Finding {
            code,
            severity,
            family: family_name(self.family),
            message,
            location,
            related: Vec::new(),
            help: None,
            fix: Vec::new(),
        }
    }

    /// An iptables command on this table.
    fn command(&self, words: &[&str]) -> Vec<String> {
        let program = match self.family {
            Family::V4 => "iptables",
            Family::V6 => "ip6tables",
        };
        let fixed = [program, "-t", self.table.kind.name()];
        fixed
            .iter()
            .chain(words)
            .map(|word| (*word).to_owned())
            .collect()
    }

    /// What lets a rule stand before another one, further up.
    fn moved_before(&self, chain: &str, index: usize, before: usize) -> Vec<Vec<String>> {
        let Some(rule) = self.rule(chain, index) else {
            return Vec::new();
        };
        let from = (index + 1).to_string();
        let to = (before + 1).to_string();
        let mut insert = self.command(&["-I", chain, &to]);
        insert.extend(crate::facts::split(&Specification(rule).to_string()));
        vec![self.command(&["-D", chain, &from]), insert]
    }
}

pub(crate) const fn family_name(family: Family) -> &'static str {
    match family {
        Family::V4 => "ipv4",
        Family::V6 => "ipv6",
    }
}
