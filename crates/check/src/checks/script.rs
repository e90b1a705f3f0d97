//! What scripts do one line after the other, where a file of iptables-save is one step.

use keepstate_engine::tuple::Family;
use keepstate_policy::model::{ChainPolicy, TableKind};
use keepstate_policy::{FileKind, WrittenAt, script_lines};

use crate::Subject;
use crate::checks::family_name;
use crate::facts::Facts;
use crate::finding::{Code, Finding, Location, Severity};

pub(super) fn check(subject: &Subject, findings: &mut Vec<Finding>) {
    for family in [Family::V4, Family::V6] {
        let Some(index) = subject.source_of[family as usize] else {
            continue;
        };
        let Some(source) = subject.sources.get(index) else {
            continue;
        };
        let is_saved = FileKind::of(&source.text, Some(family)) != FileKind::Detect;
        if is_saved || !subject.families.contains(&family) {
            continue;
        }
        policy_first(subject, family, index, findings);
        tables_kept(&source.text, family, index, findings);
    }
}

/// `-P INPUT DROP` before the rules that let the script's own connection live.
fn policy_first(subject: &Subject, family: Family, source: usize, findings: &mut Vec<Finding>) {
    let table = subject.policy.ruleset(family).table(TableKind::Filter);
    let Some(hook) = table.hook_named("INPUT") else {
        return;
    };
    let chain = table.builtin(hook);
    let WrittenAt(Some(policy)) = chain.place else {
        return;
    };
    let accepts = chain.rules.iter().find(|rule| {
        let facts = Facts::of(rule);
        facts.action == crate::facts::Action::Accept && !facts.region.is_loopback()
    });
    let Some((Some(accept), rule)) = accepts.map(|rule| (rule.place.0, rule)) else {
        return;
    };
    if chain.policy != ChainPolicy::Drop || policy.line > accept.line {
        return;
    }
    let location = |place, rule: String| Location {
        source: Some(source),
        place: WrittenAt(Some(place)),
        table: "filter",
        chain: "INPUT".into(),
        number: 0,
        rule,
    };
    let rule = format!("-A INPUT{}", keepstate_policy::Specification(rule));
    findings.push(Finding {
        code: Code::PolicyFirst,
        severity: Severity::Warning,
        family: family_name(family),
        message:
            "run by a shell, this shuts out the one who runs it: the rules that let him in come \
                  later"
                .into(),
        location: location(policy, "-P INPUT DROP".into()),
        related: vec![("until here".into(), location(accept, rule))],
        help: Some(
            "set the policy last, or let `keepstate apply' put all in force in one step".into(),
        ),
        fix: Vec::new(),
    });
}

/// `-F` of filter, and none of raw.
fn tables_kept(text: &str, family: Family, source: usize, findings: &mut Vec<Finding>) {
    let program = match family {
        Family::V4 => "iptables",
        Family::V6 => "ip6tables",
    };
    let mut filter = None;
    for (line, words) in script_lines(text) {
        let own = words
            .first()
            .is_some_and(|word| word.rsplit('/').next() == Some(program));
        let flushes = words
            .iter()
            .position(|word| word == "-F" || word == "--flush");
        let Some(at) = flushes.filter(|_| own) else {
            continue;
        };
        let names_chain = words.get(at + 1).is_some_and(|word| !word.starts_with('-'));
        let table = words
            .iter()
            .position(|word| word == "-t" || word == "--table");
        let table = table.and_then(|at| words.get(at + 1)).map(String::as_str);
        match table {
            Some("raw") => return,
            None | Some("filter") if !names_chain => {
                filter.get_or_insert((line, words.join(" ").chars().count() as u32));
            }
            _ => {}
        }
    }
    let Some((line, length)) = filter else {
        return;
    };
    let span = keepstate_policy::Span {
        line,
        column: 1,
        length,
    };
    findings.push(Finding {
        code: Code::TablesKept,
        severity: Severity::Note,
        family: family_name(family),
        message: "this empties the table filter alone: rules of raw stay".into(),
        location: Location {
            source: Some(source),
            place: WrittenAt(Some(span)),
            table: "filter",
            chain: String::new(),
            number: 0,
            rule: format!("{program} -F"),
        },
        related: Vec::new(),
        help: Some(format!("add `{program} -t raw -F'")),
        fix: Vec::new(),
    });
}
