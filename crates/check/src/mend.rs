//! The rules as they might better be.

use keepstate_engine::tuple::Family;
use keepstate_policy::{Policy, ShowCounters, save_tables};
use similar::TextDiff;

use crate::finding::Finding;
use crate::{Subject, check};

/// How often a policy is looked at again, for small ones: each proposal is tried by itself.
const CHECKS_MAX: usize = 1000;

/// Looking at a policy costs the square of its rules; beyond this sum no more is proposed.
const COST_MAX: usize = 2_000_000_000;

/// A mended policy.
#[derive(Clone, Debug)]
pub struct Mended {
    pub policy: Policy,
    /// Findings that went, by their messages, in order.
    pub done: Vec<String>,
}

/// Mends what can be mended without knowing more than the rules say.
pub fn mend(subject: &Subject) -> Mended {
    let mut subject = subject.clone();
    let mut done = Vec::new();
    let rules = subject.policy.v4.rule_count() + subject.policy.v6.rule_count();
    let mut checks_left = (COST_MAX / rules.pow(2).max(1)).clamp(1, CHECKS_MAX);
    let mut findings = check(&subject);
    'mending: loop {
        for finding in &findings {
            let Some(policy) = carried_out(&subject.policy, finding) else {
                continue;
            };
            if checks_left == 0 {
                break 'mending;
            }
            checks_left -= 1;
            let next = Subject {
                policy,
                ..subject.clone()
            };
            let left = check(&next);
            // What only turns one finding into another mends nothing.
            if left.len() < findings.len() {
                done.push(finding.message.clone());
                (subject, findings) = (next, left);
                continue 'mending;
            }
        }
        break;
    }
    Mended {
        policy: subject.policy,
        done,
    }
}

fn carried_out(policy: &Policy, finding: &Finding) -> Option<Policy> {
    if finding.fix.is_empty() {
        return None;
    }
    let mut policy = policy.clone();
    for command in &finding.fix {
        let (program, arguments) = command.split_first()?;
        let family = match program.as_str() {
            "ip6tables" => Family::V6,
            _ => Family::V4,
        };
        policy.apply_command(family, arguments).ok()?;
    }
    Some(policy)
}

/// What changes, as `diff -u` prints it, in the form of iptables-save; empty when nothing does.
pub fn patch(old: &Policy, new: &Policy, families: &[Family]) -> String {
    let mut text = String::new();
    for family in families {
        let name = match family {
            Family::V4 => "rules.v4",
            Family::V6 => "rules.v6",
        };
        let [old, new] =
            [old, new].map(|policy| save_tables(policy.ruleset(*family), ShowCounters::No));
        let diff = TextDiff::from_lines(&old, &new);
        text += &diff
            .unified_diff()
            .header(&format!("a/{name}"), &format!("b/{name}"))
            .to_string();
    }
    text
}
