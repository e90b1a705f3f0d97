//! Rules that do nothing: by what the rules say, and by what they counted.

use std::time::{SystemTime, UNIX_EPOCH};

use keepstate_api::{PolicyText, Status};
use keepstate_check::{Severity as CheckSeverity, Source, Subject, check};
use keepstate_engine::tuple::Family;
use keepstate_policy::{FileKind, Policy, parse_rules};

use crate::health::{Finding, Severity};
use crate::ruleset::{self, CountedRule};

/// A rule that has matched nothing for so long may never.
const IDLE_SECONDS: u64 = 86_400;

pub(super) fn examine(text: &PolicyText, status: &Status) -> Vec<Finding> {
    let mut found = Vec::new();
    found.extend(checked(text));
    found.extend(idle(text, status));
    found
}

/// Which rule or policy refused most, where many packets were refused so.
pub(super) fn name_refusers(found: &mut [Finding], text: &PolicyText) {
    let Some(rules) = &text.rules else {
        return;
    };
    let rules = ruleset::counted(rules);
    let refusals = [
        ("rule_drop", "DROP", false),
        ("rule_reject", "REJECT", false),
        ("policy_drop", "DROP", true),
    ];
    for (reason, target, is_policy) in refusals {
        let refuses = |rule: &&CountedRule| {
            let mut words = rule.text.split(' ');
            rule.number.is_none() == is_policy && words.any(|word| word == target)
        };
        let most = rules.iter().filter(refuses).max_by_key(|rule| rule.packets);
        let ends = format!(" {reason}");
        let told = found
            .iter_mut()
            .find(|finding| finding.name == "drops" && finding.message.ends_with(&ends));
        if let (Some(most), Some(finding)) = (most.filter(|rule| rule.packets > 0), told) {
            finding.evidence += &match most.number {
                Some(number) => format!(
                    "; most by {} {} {number}: {} ({} packets)",
                    most.family, most.chain, most.text, most.packets
                ),
                None => format!(
                    "; most in {} {} ({} packets)",
                    most.family, most.chain, most.packets
                ),
            };
        }
    }
}

/// What `keepstate check running` would warn of, in one finding.
fn checked(text: &PolicyText) -> Option<Finding> {
    let rules = text.rules.as_ref()?;
    let mut subject = Subject {
        policy: Policy::default(),
        families: Vec::new(),
        sources: Vec::new(),
        source_of: [None; 2],
        is_running: true,
    };
    for (family, text) in [(Family::V4, &rules.v4), (Family::V6, &rules.v6)] {
        let parsed = parse_rules(text, FileKind::Save(family));
        if parsed.has_errors() {
            return None;
        }
        for family in &parsed.families {
            subject.source_of[*family as usize] = Some(subject.sources.len());
            if !subject.families.contains(family) {
                subject.families.push(*family);
            }
        }
        subject.policy.merge(parsed);
        subject.sources.push(Source {
            origin: "running".to_owned(),
            text: text.clone(),
        });
    }
    let findings = check(&subject);
    let warnings: Vec<_> = findings
        .iter()
        .filter(|finding| finding.severity == CheckSeverity::Warning)
        .collect();
    let first = warnings.first()?;
    Some(Finding {
        name: "rules",
        severity: Severity::Warning,
        message: match warnings.len() {
            1 => "a mistake in the rules in force".to_owned(),
            count => format!("{count} mistakes in the rules in force"),
        },
        cause: format!("the first: {}", first.message),
        evidence: format!("{} {}", first.code.number(), first.location.rule),
        command: Some("keepstate check running".to_owned()),
    })
}

fn idle(text: &PolicyText, status: &Status) -> Option<Finding> {
    let applied = status.policy.as_ref()?.applied?;
    let now = SystemTime::now().duration_since(UNIX_EPOCH).ok()?.as_secs();
    let seconds = now.saturating_sub(applied);
    if seconds < IDLE_SECONDS {
        return None;
    }
    let rules = ruleset::counted(text.rules.as_ref()?);
    let mut idle = rules
        .iter()
        .filter(|rule| rule.packets == 0 && rule.number.is_some());
    let first = idle.next()?;
    Some(Finding {
        name: "rules-idle",
        severity: Severity::Note,
        message: format!(
            "{} rules have matched nothing in {} days",
            idle.count() + 1,
            seconds / 86_400
        ),
        cause: "nothing comes that they are for, or rules before them take it".to_owned(),
        evidence: format!("the first: {} {} {}", first.family, first.chain, first.text),
        command: Some("keepstate check running".to_owned()),
    })
}
