//! How two policies differ: rules added, removed and moved, chain by chain.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use keepstate_engine::tuple::Family;
use keepstate_policy::model::{Table, TableKind};
use keepstate_policy::{Policy, Specification};
use serde::Serialize;
use similar::{Algorithm, DiffOp, capture_diff_slices_deadline};

/// How long the shortest way from one chain to another is looked for. A longer one is right too.
const PATIENCE: Duration = Duration::from_secs(2);

/// One difference.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Change {
    /// `ipv4` or `ipv6`.
    pub family: &'static str,
    pub table: &'static str,
    pub chain: String,
    #[serde(flatten)]
    pub what: What,
}

/// Rules are named by their numbers in the old and in the new chain, from one.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(tag = "change", rename_all = "snake_case")]
pub enum What {
    ChainAdded,
    ChainRemoved,
    Policy {
        old: &'static str,
        new: &'static str,
    },
    Added {
        new: usize,
        rule: String,
    },
    Removed {
        old: usize,
        rule: String,
    },
    Moved {
        old: usize,
        new: usize,
        rule: String,
    },
}

/// What must be changed in the families of `old` to come to `new`. Counters do not count.
pub fn difference(old: &Policy, new: &Policy, families: &[Family]) -> Vec<Change> {
    let mut changes = Vec::new();
    for family in [Family::V4, Family::V6] {
        if !families.contains(&family) {
            continue;
        }
        for kind in TableKind::ALL {
            let tables = [old, new].map(|policy| policy.ruleset(family).table(kind));
            of_tables(family, tables, &mut changes);
        }
    }
    changes
}

fn of_tables(family: Family, [old, new]: [&Table; 2], changes: &mut Vec<Change>) {
    let mut names: Vec<&str> = old.chain_names().collect();
    names.extend(new.chain_names().filter(|name| old.rules(name).is_none()));
    for name in names {
        let whats = of_chain([old, new], name);
        changes.extend(whats.into_iter().map(|what| Change {
            family: match family {
                Family::V4 => "ipv4",
                Family::V6 => "ipv6",
            },
            table: new.kind.name(),
            chain: name.to_owned(),
            what,
        }));
    }
}

fn of_chain([old, new]: [&Table; 2], name: &str) -> Vec<What> {
    let mut whats = Vec::new();
    match (old.rules(name), new.rules(name)) {
        (None, Some(_)) => whats.push(What::ChainAdded),
        (Some(_), None) => whats.push(What::ChainRemoved),
        _ => {}
    }
    if let Some(hook) = new.hook_named(name) {
        let [was, is] = [old, new].map(|table| table.builtin(hook).policy);
        if was != is {
            whats.push(What::Policy {
                old: was.name(),
                new: is.name(),
            });
        }
    }
    let [before, after] = [old, new].map(|table| {
        let rules = table.rules(name).into_iter().flatten();
        rules
            .map(|rule| format!("-A {name}{}", Specification(rule)))
            .collect::<Vec<_>>()
    });
    whats.extend(of_rules(&before, &after));
    whats
}

/// Rules that are the same text on both sides and neither stay in their order are moved.
fn of_rules(before: &[String], after: &[String]) -> Vec<What> {
    let deadline = Instant::now() + PATIENCE;
    let operations = capture_diff_slices_deadline(Algorithm::Myers, before, after, Some(deadline));
    let (mut removed, mut added) = (Vec::new(), Vec::new());
    for operation in operations {
        if matches!(operation, DiffOp::Equal { .. }) {
            continue;
        }
        removed.extend(operation.old_range());
        added.extend(operation.new_range());
    }
    let mut waiting: BTreeMap<&str, Vec<usize>> = BTreeMap::new();
    for index in removed.iter().rev() {
        waiting.entry(&before[*index]).or_default().push(*index);
    }
    // In the order of the new chain; what is removed stands where it stood in the old one.
    let mut whats: Vec<(usize, What)> = Vec::new();
    for index in added {
        let rule = after[index].clone();
        let new = index + 1;
        let from = waiting.get_mut(rule.as_str()).and_then(Vec::pop);
        let what = match from {
            Some(old) => What::Moved {
                old: old + 1,
                new,
                rule,
            },
            None => What::Added { new, rule },
        };
        whats.push((index, what));
    }
    for index in waiting.into_values().flatten() {
        let rule = before[index].clone();
        whats.push((
            index,
            What::Removed {
                old: index + 1,
                rule,
            },
        ));
    }
    whats.sort_by_key(|(index, what)| (*index, !matches!(what, What::Removed { .. })));
    whats.into_iter().map(|(_, what)| what).collect()
}

#[cfg(test)]
mod tests {
    use keepstate_policy::{FileKind, parse_rules};

    use super::*;

    fn policy(rules: &str) -> Policy {
        parse_rules(rules, FileKind::Script).into_policy().unwrap()
    }

    fn changes(old: &str, new: &str) -> Vec<What> {
        let changes = difference(&policy(old), &policy(new), &[Family::V4]);
        changes.into_iter().map(|change| change.what).collect()
    }

    #[test]
    fn equal_rules_do_not_differ_whatever_they_counted() {
        let rules = "iptables -A INPUT -p tcp --dport 22 -j ACCEPT\niptables -N x";
        assert_eq!(changes(rules, rules), []);
        let counted = "iptables -A INPUT -c 5 6 -p tcp --dport 22 -j ACCEPT\niptables -N x";
        assert_eq!(changes(rules, counted), []);
    }

    #[test]
    fn each_kind_of_change_is_told() {
        let old = "iptables -A INPUT -s 10.0.0.1 -j ACCEPT\n\
                   iptables -A INPUT -s 10.0.0.2 -j ACCEPT\n\
                   iptables -A INPUT -s 10.0.0.3 -j ACCEPT\n\
                   iptables -N gone";
        let new = "iptables -P INPUT DROP\n\
                   iptables -A INPUT -s 10.0.0.3 -j ACCEPT\n\
                   iptables -A INPUT -s 10.0.0.1 -j ACCEPT\n\
                   iptables -A INPUT -s 10.0.0.4 -j DROP\n\
                   iptables -N made";
        let told = changes(old, new);
        let rule = |address: &str, target: &str| format!("-A INPUT -s {address}/32 -j {target}");
        assert!(told.contains(&What::ChainAdded), "{told:?}");
        assert!(told.contains(&What::ChainRemoved), "{told:?}");
        assert!(told.contains(&What::Policy {
            old: "ACCEPT",
            new: "DROP"
        }));
        assert!(told.contains(&What::Added {
            new: 3,
            rule: rule("10.0.0.4", "DROP")
        }));
        assert!(told.contains(&What::Removed {
            old: 2,
            rule: rule("10.0.0.2", "ACCEPT")
        }));
        let moved = |what: &&What| matches!(what, What::Moved { .. });
        assert_eq!(told.iter().filter(moved).count(), 1, "{told:?}");
    }

    #[test]
    fn families_that_nobody_spoke_of_are_left_out() {
        let other = policy("ip6tables -P INPUT DROP");
        assert_eq!(difference(&Policy::default(), &other, &[Family::V4]), []);
        assert_eq!(
            difference(&Policy::default(), &other, &[Family::V6]).len(),
            1
        );
    }
}
