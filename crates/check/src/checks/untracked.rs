//! NOTRACK: both directions, and somebody who accepts what is not tracked.

use keepstate_engine::verdict::State;
use keepstate_policy::model::{ChainPolicy, Rule, Target};

use crate::checks::Look;
use crate::facts::Action;
use crate::finding::{Code, Finding, Severity};
use crate::region::Region;

const CHAINS: [&str; 2] = ["PREROUTING", "OUTPUT"];

pub(super) fn check(raw: &Look<'_>, filter: &Look<'_>, findings: &mut Vec<Finding>) {
    for chain in CHAINS {
        for (index, facts) in raw.facts(chain).iter().enumerate() {
            let untracks = raw.rule(chain, index).is_some_and(is_notrack);
            // What lo carries goes out and comes in by itself: both directions meet both chains.
            if !untracks || facts.region.is_loopback() {
                continue;
            }
            one_way(raw, chain, index, &facts.region, findings);
            refused(raw, filter, (chain, index), &facts.region, findings);
        }
    }
}

fn is_notrack(rule: &Rule) -> bool {
    match &rule.target {
        Target::Notrack => true,
        Target::Ct(ct) => ct.notrack,
        _ => false,
    }
}

fn one_way(
    raw: &Look<'_>,
    chain: &str,
    index: usize,
    region: &Region,
    findings: &mut Vec<Finding>,
) {
    let mirror = region.mirrored();
    let is_mirror = |(chain, index): (&str, usize)| {
        let other = &raw.facts(chain)[index].region;
        let without_interfaces = other.mirrored().mirrored();
        raw.rule(chain, index).is_some_and(is_notrack) && without_interfaces.holds(&mirror)
    };
    let places = CHAINS
        .into_iter()
        .flat_map(|chain| (0..raw.facts(chain).len()).map(move |index| (chain, index)));
    // A rule for all packets of a protocol is its own mirror, but the other chain needs it too.
    let other = match chain {
        "PREROUTING" => "OUTPUT",
        _ => "PREROUTING",
    };
    let mut mirrors = places.filter(|place| *place != (chain, index) && is_mirror(*place));
    if mirrors.any(|(found, at)| found == other || (found, at) != (chain, index)) {
        return;
    }
    let message =
        "only one direction is not tracked: the answers begin flows of their own, or are \
                   INVALID"
            .to_owned();
    let location = raw.location(chain, index);
    let mut finding = raw.finding(Code::NotrackOneWay, Severity::Warning, message, location);
    finding.help = Some(format!(
        "add the same rule with its ends exchanged (--sport for --dport, -d for -s) to {other}, or to \
         PREROUTING where packets are forwarded"
    ));
    finding.fix = vec![mirrored_command(raw, chain, index, other)];
    findings.push(finding);
}

/// The rule with its ends exchanged.
fn mirrored_command(raw: &Look<'_>, chain: &str, index: usize, other: &str) -> Vec<String> {
    let rule = raw.rule(chain, index);
    let text = rule.map(|rule| keepstate_policy::Specification(rule).to_string());
    let words = crate::facts::split(&text.unwrap_or_default());
    let exchanged = words.into_iter().map(|word| match word.as_str() {
        "-s" => "-d".into(),
        "-d" => "-s".into(),
        "-i" => "-o".into(),
        "-o" => "-i".into(),
        "--sport" => "--dport".into(),
        "--dport" => "--sport".into(),
        "--sports" => "--dports".into(),
        "--dports" => "--sports".into(),
        _ => word,
    });
    let mut command = raw.command(&["-A", other]);
    command.extend(exchanged);
    command
}

/// Nobody accepts such packets where the policy is to drop.
fn refused(
    raw: &Look<'_>,
    filter: &Look<'_>,
    (chain, index): (&str, usize),
    region: &Region,
    findings: &mut Vec<Finding>,
) {
    let judges: &[&str] = match chain {
        "PREROUTING" => &["INPUT", "FORWARD"],
        _ => &["OUTPUT"],
    };
    let untracked = State::Untracked.bit();
    let passes = |chain: &&&str| {
        let hook = filter.table.hook_named(chain);
        let policy = hook.map(|hook| filter.table.builtin(hook).policy);
        let accepts = filter.facts(chain).iter().any(|rule| {
            let leads = matches!(
                rule.action,
                Action::Accept | Action::Jump(_) | Action::Goto(_)
            );
            leads
                && rule.region.states & untracked != 0
                && !rule.region.is_loopback()
                && rule.region.meet(region).is_some()
        });
        // A host that says nothing of what it forwards is no router.
        let is_meant = *chain != &"FORWARD" || !filter.facts(chain).is_empty();
        accepts || (is_meant && policy == Some(ChainPolicy::Accept))
    };
    if judges.iter().any(|chain| passes(&chain)) {
        return;
    }
    let message = format!(
        "packets that are not tracked are in no flow, and no rule of {} accepts them",
        judges.join(" or ")
    );
    let location = raw.location(chain, index);
    let mut finding = raw.finding(Code::UntrackedRefused, Severity::Warning, message, location);
    finding.help = Some("accept them there: `-m conntrack --ctstate UNTRACKED -j ACCEPT'".into());
    findings.push(finding);
}
