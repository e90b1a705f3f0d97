//! Floods that are answered: questions to a server that answers each, echo requests. What is not answered does not tell them.

use crate::attack::{AttackKind, HeavySource};
use crate::detect::{Finding, Learned, Scope, TIMES_USUAL, heavy};
use crate::ladder::{KNOWN_SECONDS, is_telling};
use crate::sample::Signal;
use crate::view::{Form, Sender, Target, View};

/// What is answered without a handshake.
pub(crate) const ANSWERED: [Signal; 2] = [Signal::Udp, Signal::Icmp];

/// New flows a second of one destination below which there is no flood of them.
const FLOOR: f64 = 500.0;
/// As long as nothing is known to be usual.
const FLOOR_AT_FIRST: f64 = 2000.0;
/// New flows a second that no single client begins for long.
const OF_ONE: f64 = 50.0;
/// What share of a flood a few sources must send for it to be theirs.
const THEIR_SHARE: f64 = 0.5;
/// Calm packets that must have been seen before their form is held against others.
const CALM_MIN: f64 = 20.0;

/// More new flows than usual that a few begin who were not there before, or that all come in one form as from one sender: a
/// crowd of clients does neither.
pub(crate) fn flood(
    (scope, target): (Scope, &Target),
    (place, signal): (usize, Signal),
    learned: Option<&Learned>,
    (view, now): (&View, u64),
) -> Option<Finding> {
    let counts = &target.counts;
    let asked = counts.seen(signal);
    let baseline = learned.map(|it| &it.asked[place]);
    let is_new = baseline.is_none_or(|it| it.is_new());
    let usual = baseline.map_or(0.0, |it| it.usual());
    let floor = if is_new { FLOOR_AT_FIRST } else { FLOOR };
    let threshold = floor.max(TIMES_USUAL * usual);
    if !counts.is_sure_of(signal) || asked <= threshold {
        return None;
    }
    let mut heavy = heavy(view, asked, |Sender { counts, .. }| {
        counts.is_sure_of(signal).then(|| counts.seen(signal))
    });
    let before = now.saturating_sub(KNOWN_SECONDS);
    let is_client = |it: &HeavySource| it.rate <= OF_ONE || view.is_known(&it.network, before);
    heavy.retain(|source| !is_client(source));
    let theirs: f64 = heavy.iter().map(|source| source.rate).sum();
    let form = &target.forms[signal as usize];
    let how = if theirs >= THEIR_SHARE * asked {
        format!(
            "{} sources that were not there before begin {theirs:.0} of them",
            heavy.len()
        )
    } else if let Some(feature) = single_sender(form, &learned?.calm[signal as usize]) {
        heavy.clear();
        format!("nearly all have the same {feature}, which is not usual: they come from one sender")
    } else {
        return None;
    };
    Some(Finding {
        kind: AttackKind::of(signal),
        scope,
        rate: asked,
        passed: counts.passed(signal).min(asked),
        threshold,
        usual,
        sources: target.sources.estimate(),
        evidence: format!(
            "{asked:.0} new flows a second, more than {threshold:.0}; usual are {usual:.0}; they are answered, and {how}"
        ),
        heavy,
    })
}

/// What shows that packets of many addresses come from one sender. Their length does not: a crowd may ask the same.
pub(crate) fn single_sender(form: &Form, calm: &Form) -> Option<&'static str> {
    if calm.hop_limit.total() < CALM_MIN {
        return None;
    }
    let features = [
        ("TTL", &form.hop_limit, &calm.hop_limit),
        ("source port", &form.source_port, &calm.source_port),
    ];
    let found = features
        .into_iter()
        .find(|(_, own, usual)| is_telling(own, usual));
    found.map(|(name, ..)| name)
}
