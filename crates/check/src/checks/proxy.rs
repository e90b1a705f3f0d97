//! SYNPROXY: an ACK that may begin a flow does not come to it.

use keepstate_policy::Specification;

use super::Look;
use crate::finding::{Code, Finding, Severity};
use crate::settings::settings;

const LOOSE: &str = "nf_conntrack_tcp_loose";

/// Of rules that run, `keepstate doctor` knows more: it asks for the knob.
pub(super) fn check(filter: &Look<'_>, findings: &mut Vec<Finding>) {
    let sources = &filter.subject.sources;
    let mut set = sources.iter().flat_map(|source| settings(&source.text));
    if filter.subject.is_running || set.any(|it| it.name == LOOSE && it.value == "0") {
        return;
    }
    let Some((chain, index)) = first(filter) else {
        return;
    };
    let message =
        format!("an ACK goes round SYNPROXY while {LOOSE} is 1, as it is unless it is set");
    let location = filter.location(&chain, index);
    let mut finding = filter.finding(Code::SynproxyLoose, Severity::Note, message, location);
    finding.help = Some(format!(
        "`keepstate sysctl -w net.netfilter.{LOOSE}=0', and `keepstate save' keeps it; a forged ACK is NEW otherwise, and \
         not INVALID"
    ));
    findings.push(finding);
}

fn first(filter: &Look<'_>) -> Option<(String, usize)> {
    filter.reach.chains.iter().find_map(|(chain, facts)| {
        let is_proxy = |index: &usize| {
            filter.rule(chain, *index).is_some_and(|rule| {
                let text = Specification(rule).to_string();
                crate::facts::split(&text)
                    .windows(2)
                    .any(|pair| pair == ["-j", "SYNPROXY"])
            })
        };
        Some((chain.to_string(), (0..facts.len()).find(is_proxy)?))
    })
}
