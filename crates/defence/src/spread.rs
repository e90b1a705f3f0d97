//! Floods that are spread over the addresses of a network (carpet bombing): each gets too little to be told by, and all of
//! them together are one flood.

use crate::detect::{Finding, Scope};
use crate::network::Network;
use crate::view::{Target, View};

/// A flood of which so few destinations get half is aimed at these.
const AIMED_AT: usize = 4;
const THEIR_SHARE: f64 = 0.5;

/// What has this share of a flood to its network is told of apart all the same.
const APART_SHARE: f64 = 0.125;

/// Takes what was found for wider networks among what was found in them: each flood is told of once, by the narrowest
/// destination that has it.
pub(crate) fn take_in(findings: &mut Vec<Finding>, wider: Vec<Finding>, view: &View) {
    for flood in wider {
        let is_part = |it: &Finding| it.kind == flood.kind && covers(flood.scope, it.scope);
        let has_parts = findings.iter().any(is_part);
        if has_parts && aimed(&flood, view) >= THEIR_SHARE * flood.rate {
            continue;
        }
        findings.retain(|it| !is_part(it) || it.rate >= APART_SHARE * flood.rate);
        findings.push(flood);
    }
}

/// What the few destinations get that get most of a flood, of those that are one step narrower than it.
fn aimed(flood: &Finding, view: &View) -> f64 {
    let Some(signal) = flood.kind.signal() else {
        return 0.0;
    };
    let counts = |target: &Target| {
        let counts = &target.counts;
        [counts.unanswered(signal), counts.seen(signal)]
    };
    let whole = view.target(flood.scope).map(counts);
    // One that is answered is known by all that it asks.
    let is_answered = whole.is_some_and(|[unanswered, _]| unanswered < flood.rate / 2.0);
    let is_narrower = |key: &Network| {
        flood
            .scope
            .is_none_or(|scope| key.length() > scope.length())
    };
    let levels = view.targets.iter().rev();
    let mut levels = levels.map(|targets| {
        let of = targets
            .iter()
            .filter(|it| is_narrower(&it.key) && covers(flood.scope, Some(it.key)));
        of.map(|it| counts(&it.value)[usize::from(is_answered)])
            .collect::<Vec<f64>>()
    });
    let mut rates = levels.find(|rates| !rates.is_empty()).unwrap_or_default();
    rates.sort_by(|a, b| b.total_cmp(a));
    rates.iter().take(AIMED_AT).sum()
}

/// Whether one destination is in the other.
fn covers(wide: Scope, narrow: Scope) -> bool {
    match (wide, narrow) {
        (None, _) => true,
        (Some(_), None) => false,
        (Some(wide), Some(narrow)) => wide.length() <= narrow.length() && wide.overlaps(&narrow),
    }
}
