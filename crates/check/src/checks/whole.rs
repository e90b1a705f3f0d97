//! What rules as a whole leave open or shut.

use keepstate_engine::tuple::Family;
use keepstate_engine::verdict::State;
use keepstate_policy::model::{ChainPolicy, Table};

use crate::Subject;
use crate::checks::{Look, family_name};
use crate::facts::{Action, Facts};
use crate::finding::{Code, Finding, Location, Severity};

const TCP: u8 = 6;
const ICMPV6: u8 = 58;

/// Types of ICMPv6 by which routers and neighbours find each other, as rules name them.
const NEIGHBOURS: [&str; 8] = [
    "135",
    "136",
    "135/0",
    "136/0",
    "neighbour-solicitation",
    "neighbor-solicitation",
    "neighbour-advertisement",
    "neighbor-advertisement",
];

pub(super) fn check_family(filter: &Look<'_>, findings: &mut Vec<Finding>) {
    lock_out(filter, findings);
    neighbours(filter, findings);
    for chain in ["INPUT", "FORWARD"] {
        filters_nothing(filter, chain, findings);
    }
}

/// Whether a new TCP connection can come in, from wherever and to whichever port.
fn lets_in(table: &Table) -> bool {
    let Some(hook) = table.hook_named("INPUT") else {
        return true;
    };
    let input = table.builtin(hook);
    for rule in input.rules.iter().map(Facts::of) {
        let is_new = rule.region.has_protocol(TCP) && rule.region.states & State::New.bit() != 0;
        if is_new && leads(&rule) {
            return true;
        }
        // What comes behind it is for nobody.
        if rule.action == Action::Refuse && rule.exact && rule.region.is_of_states_alone() && is_new
        {
            return false;
        }
    }
    input.policy == ChainPolicy::Accept
}

/// Whether a rule lets something of strangers pass, or leads to where that may be.
fn leads(rule: &Facts) -> bool {
    let leads = matches!(
        rule.action,
        Action::Accept | Action::Jump(_) | Action::Goto(_)
    );
    leads && !rule.region.is_loopback()
}

/// Of IPv6, without which no host finds this one.
fn neighbours(filter: &Look<'_>, findings: &mut Vec<Finding>) {
    let hook = filter.table.hook_named("INPUT");
    let Some(hook) = hook.filter(|_| filter.family == Family::V6) else {
        return;
    };
    let accepts = |rule: &Facts| {
        let types = rule.module("icmp6").and_then(|module| module.words.last());
        let is_meant = types.is_none_or(|name| NEIGHBOURS.contains(&name.as_str()));
        let is_untracked = rule.region.states & State::Untracked.bit() != 0;
        leads(rule) && is_meant && is_untracked && rule.region.has_protocol(ICMPV6)
    };
    let is_open = filter.table.builtin(hook).policy == ChainPolicy::Accept;
    if is_open || filter.facts("INPUT").iter().any(accepts) {
        return;
    }
    let message =
        "INPUT drops what IPv6 finds its neighbours by: a minute later nobody reaches this host"
            .to_owned();
    let location = filter.location_of_chain("INPUT");
    let mut finding = filter.finding(
        Code::NeighboursRefused,
        Severity::Warning,
        message,
        location,
    );
    finding.help = Some(
        "such packets are in no flow: `-A INPUT -p ipv6-icmp -m conntrack --ctstate UNTRACKED -j ACCEPT'".into(),
    );
    let words = "-I INPUT 1 -p ipv6-icmp -m conntrack --ctstate UNTRACKED -j ACCEPT";
    finding.fix = vec![filter.command(&words.split(' ').collect::<Vec<_>>())];
    findings.push(finding);
}

/// The families together leave no way in: an administrator needs but one.
fn lock_out(filter: &Look<'_>, findings: &mut Vec<Finding>) {
    let families = filter.subject.families.iter();
    let mut tables = families.map(|family| &filter.subject.policy.ruleset(*family).filter);
    if tables.any(lets_in) {
        return;
    }
    let message =
        "INPUT drops all new TCP connections: who administers this host from afar is locked \
                   out"
        .to_owned();
    let location = filter.location_of_chain("INPUT");
    let mut finding = filter.finding(Code::LockOut, Severity::Warning, message, location);
    finding.help = Some(
        "accept your own: `-A INPUT -p tcp --dport 22 -m conntrack --ctstate NEW -j ACCEPT'; apply \
         with --confirm 60"
            .into(),
    );
    findings.push(finding);
}

/// Rules that accept, before a policy that accepts the rest.
fn filters_nothing(filter: &Look<'_>, chain: &str, findings: &mut Vec<Finding>) {
    let Some(hook) = filter.table.hook_named(chain) else {
        return;
    };
    let facts = filter.facts(chain);
    let only_accepts = facts
        .iter()
        .all(|rule| matches!(rule.action, Action::Accept | Action::Log | Action::Return));
    let accepts = facts.iter().any(|rule| rule.action == Action::Accept);
    let policy = filter.table.builtin(hook).policy;
    if policy != ChainPolicy::Accept || !only_accepts || !accepts {
        return;
    }
    let message = format!("{chain} accepts everything: no rule refuses, and its policy is ACCEPT");
    let location = filter.location_of_chain(chain);
    let mut finding = filter.finding(Code::FiltersNothing, Severity::Warning, message, location);
    finding.help = Some(format!("end it with `-P {chain} DROP'"));
    finding.fix = vec![filter.command(&["-P", chain, "DROP"])];
    findings.push(finding);
}

/// IPv4 refuses something, and IPv6 nothing.
pub(super) fn check_families(subject: &Subject, findings: &mut Vec<Finding>) {
    let v4 = &subject.policy.v4.filter;
    let v6 = &subject.policy.v6.filter;
    let refuses = |table: &Table| {
        let shut = ["INPUT", "FORWARD"].into_iter().any(|chain| {
            let hook = table.hook_named(chain);
            hook.is_some_and(|hook| table.builtin(hook).policy == ChainPolicy::Drop)
        });
        let refuses = |facts: Facts| facts.action == Action::Refuse;
        shut || table.all_rules().map(Facts::of).any(refuses)
    };
    let speaks_of_v6 = subject.families.contains(&Family::V6);
    if !subject.families.contains(&Family::V4) || !refuses(v4) || refuses(v6) {
        return;
    }
    let message = match speaks_of_v6 || subject.is_running {
        true => "IPv6 is open: it refuses nothing, while IPv4 does",
        false => "nothing is said of IPv6: it stays as it is, and open if nothing was said before",
    };
    let source = subject.source_of[usize::from(speaks_of_v6)].or(subject.source_of[0]);
    findings.push(Finding {
        code: Code::Ipv6Open,
        severity: Severity::Warning,
        family: family_name(Family::V6),
        message: message.into(),
        location: Location {
            source,
            table: "filter",
            chain: "INPUT".into(),
            rule: "ip6tables -P INPUT ACCEPT".into(),
            ..Location::default()
        },
        related: Vec::new(),
        help: Some(
            "say the same for IPv6: a second file, or ip6tables beside each iptables".into(),
        ),
        fix: Vec::new(),
    });
}
