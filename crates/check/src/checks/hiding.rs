//! Rules that no packet reaches, and chains that nothing leads to.

use crate::checks::Look;
use crate::facts::Action;
use crate::finding::{Code, Finding, Severity};
use crate::reach::Hidden;

pub(super) fn check(look: &Look<'_>, findings: &mut Vec<Finding>) {
    let chains = look.table.chain_names();
    for chain in chains {
        if look.reach.is_unused(chain) {
            findings.push(unused(look, chain));
            continue;
        }
        for index in 0..look.facts(chain).len() {
            if let Some(hidden) = look.reach.hidden(chain, index) {
                findings.push(never_matches(look, chain, index, &hidden));
            }
        }
    }
    if look.reach.gave_up() {
        let message = "there are so many rules that not all were compared".to_owned();
        let location = look.location_of_chain(look.table.kind.hooks()[0].chain());
        findings.push(look.finding(Code::NotSearched, Severity::Note, message, location));
    }
}

fn unused(look: &Look<'_>, chain: &str) -> Finding {
    let message = format!("no rule leads to the chain {chain}");
    let location = look.location_of_chain(chain);
    look.finding(Code::ChainUnused, Severity::Note, message, location)
}

fn never_matches(look: &Look<'_>, chain: &str, index: usize, hidden: &Hidden) -> Finding {
    let facts = &look.facts(chain)[index];
    let location = look.location(chain, index);
    let takers = match hidden {
        Hidden::Behind(takers) => takers.as_slice(),
        Hidden::NeverSent | Hidden::Impossible => {
            let message = match hidden {
                Hidden::Impossible => "this rule can match no packet: what it says excludes itself",
                _ => "this rule never matches: what leads to its chain sends no such packets",
            };
            let finding = look.finding(
                Code::NeverMatches,
                Severity::Warning,
                message.into(),
                location,
            );
            return removed(look, finding, chain, index);
        }
    };
    let (code, message) = match (&facts.action, facts.limit()) {
        (Action::Log, _) => (
            Code::LogTooLate,
            "this LOG never happens: its packets have met their end before it".to_owned(),
        ),
        (_, Some(limit)) => (
            Code::LimitVoid,
            format!(
                "this `{}' never counts: its packets do not come here",
                limit.name
            ),
        ),
        _ => (
            Code::NeverMatches,
            "this rule never matches: its packets do not come here".to_owned(),
        ),
    };
    let mut finding = look.finding(code, Severity::Warning, message, location);
    for (taker_chain, taker) in takers {
        let label = match takers.len() {
            1 => "this rule takes all of them".to_owned(),
            _ => "this rule takes some of them".to_owned(),
        };
        let related = look.location(taker_chain, *taker);
        finding.related.push((label, related));
    }
    let same_chain = takers.iter().all(|(taker, _)| taker == chain);
    let first = takers.iter().map(|(_, taker)| *taker).min().unwrap_or(0);
    let same_end = takers.iter().all(|(taker_chain, taker)| {
        look.facts(taker_chain)
            .get(*taker)
            .is_some_and(|taker| taker.action == facts.action)
    });
    if same_end && code == Code::NeverMatches {
        finding.help = Some("it says what is done already: leave it out".into());
        return removed(look, finding, chain, index);
    }
    if same_chain {
        finding.help = Some("put it before the rule that takes its packets".into());
        finding.fix = look.moved_before(chain, index, first);
    } else {
        finding.help = Some("put it before the jump to its chain, or leave it out".into());
    }
    finding
}

fn removed(look: &Look<'_>, mut finding: Finding, chain: &str, index: usize) -> Finding {
    finding.fix = vec![look.command(&["-D", chain, &(index + 1).to_string()])];
    finding
}
