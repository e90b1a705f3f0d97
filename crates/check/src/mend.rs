//! The rules as they might better be.

use keepstate_engine::tuple::Family;
use keepstate_policy::{Policy, ShowCounters, save_tables};
use similar::TextDiff;

use crate::finding::Finding;
use crate::{Subject, check};

/// How often a policy is mended and looked at again: each time one finding goes.
const ROUNDS_MAX: usize = 200;

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
    for _ in 0..ROUNDS_MAX {
        let findings = check(&subject);
        let next = findings.iter().find_map(|finding| {
            let policy = carried_out(&subject.policy, finding)?;
            let left = check(&Subject {
                policy: policy.clone(),
                ..subject.clone()
            });
            // What only turns one finding into another mends nothing.
            (left.len() < findings.len()).then(|| (policy, finding.message.clone()))
        });
        let Some((policy, message)) = next else {
            break;
        };
        subject.policy = policy;
        done.push(message);
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
