//! INVALID, ESTABLISHED and NEW: whether each is spoken of, and in which order.

use keepstate_engine::verdict::State;
use keepstate_policy::model::ChainPolicy;

use crate::checks::Look;
use crate::facts::{Action, Facts};
use crate::finding::{Code, Finding, Severity};

pub(super) fn check(look: &Look<'_>, findings: &mut Vec<Finding>) {
    for chain in ["INPUT", "FORWARD"] {
        let Some(hook) = look.table.hook_named(chain) else {
            continue;
        };
        let facts = look.facts(chain);
        if facts.is_empty() {
            continue;
        }
        let policy = look.table.builtin(hook).policy;
        invalid(look, chain, facts, policy, findings);
        established(look, chain, facts, policy, findings);
        order(look, chain, facts, findings);
    }
}

fn has(rule: &Facts, state: State) -> bool {
    rule.region.states & state.bit() != 0
}

/// It speaks of this state, and not of any that comes as the first of a flow.
fn is_about(rule: &Facts, state: State) -> bool {
    has(rule, state) && !has(rule, State::New)
}

fn drops_invalid(rule: &Facts) -> bool {
    rule.action == Action::Refuse
        && rule.exact
        && has(rule, State::Invalid)
        && rule.region.is_of_states_alone()
}

fn invalid(
    look: &Look<'_>,
    chain: &str,
    facts: &[Facts],
    policy: ChainPolicy,
    findings: &mut Vec<Finding>,
) {
    for (index, rule) in facts.iter().enumerate() {
        if drops_invalid(rule) {
            return;
        }
        if rule.action != Action::Accept || rule.region.is_loopback() || !has(rule, State::Invalid)
        {
            continue;
        }
        let message =
            "this rule accepts packets of state INVALID too: nothing before it drops them".into();
        let location = look.location(chain, index);
        findings.push(with_drop(look, chain, message, location));
        return;
    }
    if policy == ChainPolicy::Accept && facts.iter().any(|rule| rule.region.states != u16::MAX) {
        let message = format!("{chain} accepts packets of state INVALID: no rule drops them");
        let location = look.location_of_chain(chain);
        findings.push(with_drop(look, chain, message, location));
    }
}

fn with_drop(look: &Look<'_>, chain: &str, message: String, location: crate::Location) -> Finding {
    let mut finding = look.finding(Code::InvalidAccepted, Severity::Warning, message, location);
    let words = ["-m", "conntrack", "--ctstate", "INVALID", "-j", "DROP"];
    finding.help = Some(format!(
        "put `-A {chain} {}' before the rules that accept",
        words.join(" ")
    ));
    let facts = look.facts(chain);
    let first = facts.iter().take_while(|rule| rule.region.is_loopback());
    let number = (first.count() + 1).to_string();
    let insert = [&["-I", chain, &number], &words[..]].concat();
    finding.fix = vec![look.command(&insert)];
    finding
}

/// New connections are accepted, and the packets after the first are not.
fn established(
    look: &Look<'_>,
    chain: &str,
    facts: &[Facts],
    policy: ChainPolicy,
    findings: &mut Vec<Finding>,
) {
    let ends_in_drop = policy == ChainPolicy::Drop
        || facts.iter().any(|rule| {
            rule.action == Action::Refuse
                && rule.exact
                && rule.region.is_of_states_alone()
                && has(rule, State::Established)
        });
    if !ends_in_drop {
        return;
    }
    let accepts = |rule: &&Facts| {
        matches!(
            rule.action,
            Action::Accept | Action::Jump(_) | Action::Goto(_)
        ) && !rule.region.is_loopback()
    };
    let accepted = facts.iter().filter(accepts);
    let mut first_new = None;
    for (index, rule) in facts.iter().enumerate().filter(|(_, rule)| accepts(rule)) {
        if has(rule, State::New) && !has(rule, State::Established) {
            first_new.get_or_insert(index);
        }
    }
    let Some(first_new) = first_new else {
        return;
    };
    if accepted.clone().any(|rule| has(rule, State::Established)) {
        return;
    }
    let message = "only the first packet of a connection is accepted: no rule accepts what follows"
        .to_owned();
    let location = look.location(chain, first_new);
    let mut finding = look.finding(
        Code::EstablishedMissing,
        Severity::Warning,
        message,
        location,
    );
    let words = [
        "-m",
        "conntrack",
        "--ctstate",
        "ESTABLISHED,RELATED",
        "-j",
        "ACCEPT",
    ];
    finding.help = Some(format!("add `-A {chain} {}'", words.join(" ")));
    let number = (first_new + 1).to_string();
    let insert = [&["-I", chain, &number], &words[..]].concat();
    finding.fix = vec![look.command(&insert)];
    findings.push(finding);
}

fn order(look: &Look<'_>, chain: &str, facts: &[Facts], findings: &mut Vec<Finding>) {
    let place = |wanted: &dyn Fn(&Facts) -> bool| facts.iter().position(wanted);
    let accepts = |rule: &Facts| rule.action == Action::Accept;
    let invalid = place(&|rule| {
        rule.action == Action::Refuse
            && is_about(rule, State::Invalid)
            && !has(rule, State::Established)
    });
    let established = place(&|rule| {
        accepts(rule) && is_about(rule, State::Established) && rule.region.is_of_states_alone()
    });
    let new = place(&|rule| accepts(rule) && has(rule, State::New) && !rule.region.is_loopback());
    let mut tell = |late: usize, early: usize, message: &str, label: &str| {
        let location = look.location(chain, late);
        let mut finding = look.finding(Code::Order, Severity::Note, message.to_owned(), location);
        let related = look.location(chain, early);
        finding.related.push((label.to_owned(), related));
        finding.help = Some("the order is INVALID, then ESTABLISHED,RELATED, then NEW".into());
        finding.fix = look.moved_before(chain, late, early);
        findings.push(finding);
    };
    if let (Some(invalid), Some(established)) = (invalid, established)
        && established < invalid
    {
        let message = "INVALID is dropped after ESTABLISHED is accepted";
        tell(invalid, established, message, "INVALID comes before this");
    }
    if let (Some(established), Some(new)) = (established, new)
        && new < established
    {
        let message = "packets of known flows come here by way of the rules for new ones";
        tell(
            established,
            new,
            message,
            "ESTABLISHED,RELATED comes before this",
        );
    }
}
