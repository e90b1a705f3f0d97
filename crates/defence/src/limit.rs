//! Whom a step limits, and whom it takes in later.

use keepstate_engine::rate::{RATE_ALL, RATE_ICMP, RATE_TCP, RATE_UDP};

use crate::attack::AttackKind;
use crate::ladder::{Action, Choice, KNOWN_SECONDS, Situation, Step, bannable, matches_of, words};
use crate::network::Network;
use crate::refusal::Limit;
use crate::rule::{EXEMPT_RULES_MAX, Rule};
use crate::sample::Signal;

/// Networks that one step limits at first, and with those that come later: far fewer than there is room for.
const LIMITED_MAX: usize = 64;
const EXTENDED_MAX: usize = 4096;
/// Sources whose connections one step counts, a rule each.
pub(crate) const COUNTED_MAX: usize = 32;
/// Connections that each source may hold, where very many hold a few on which nothing is sent.
const SILENT_EACH: u32 = 8;
/// New flows a second that a source may always begin.
const LIMIT_MIN: u32 = 20;
/// Connections that a source may always hold.
const HELD_MIN: u32 = 20;

/// The networks that send most of it and may be limited. Where clients are too, a limit would be theirs as well.
fn limitable(situation: &Situation<'_>) -> Vec<Network> {
    let Situation {
        attack,
        view,
        exempt,
        ..
    } = situation;
    let before = attack.began.saturating_sub(KNOWN_SECONDS);
    let may = |network: &Network| exempt.of(network).is_none() && !view.is_known(network, before);
    let named = attack.heavy.iter().map(|source| source.network);
    named.filter(may).collect()
}

pub(crate) fn limit(situation: &Situation<'_>) -> Option<Choice> {
    let attack = situation.attack;
    if attack.kind == AttackKind::SlowConnections {
        return limit_held(situation);
    }
    let mut networks = limitable(situation);
    networks.truncate(LIMITED_MAX);
    let length = networks.first()?.length();
    let per_source = ((attack.threshold / 8.0) as u32).max(LIMIT_MIN);
    let limits = networks.iter().map(|network| Limit {
        network: *network,
        per_second: per_source,
        kinds: kinds_of(attack.kind),
        step: situation.number,
        until: 0,
    });
    Some(Choice {
        limits: limits.collect(),
        rules: Vec::new(),
        forms: Vec::new(),
        cause: format!(
            "{} of it: each may begin {per_source} flows a second",
            who(networks.len(), length, ["sends", "send"])
        ),
        action: Action::Limit {
            per_source,
            prefix_length: length,
            networks,
        },
        note: None,
    })
}

pub(crate) fn who(count: usize, length: u8, [one, many]: [&str; 2]) -> String {
    match count {
        1 => format!("one network of /{length} {one} most"),
        _ => format!("{count} networks of /{length} {many} most"),
    }
}

/// What an attack is made of: its senders may have something else to say.
const fn kinds_of(kind: AttackKind) -> u32 {
    match kind.signal() {
        Some(Signal::Syn | Signal::SynAck | Signal::Ack | Signal::Rst) => RATE_TCP,
        Some(Signal::Udp | Signal::Reflected) => RATE_UDP,
        Some(Signal::Icmp) => RATE_ICMP,
        Some(Signal::Fragment | Signal::Other) | None => RATE_ALL,
    }
}

/// Connections that are there are counted by rules: an entry for a network knows how many it begins, not how many it has.
fn limit_held(situation: &Situation<'_>) -> Option<Choice> {
    let Situation { attack, exempt, .. } = situation;
    if exempt.0.len() > EXEMPT_RULES_MAX {
        return None;
    }
    let is_spread = attack.heavy.is_empty();
    let mut networks = limitable(situation);
    networks.truncate(COUNTED_MAX);
    if networks.is_empty() && !is_spread {
        return None;
    }
    let per_source = match is_spread {
        true => SILENT_EACH,
        false => ((attack.threshold / 8.0) as u32).max(HELD_MIN),
    };
    let is_v4 = |network: &Network| network.is_v4();
    let is_v4 = match (networks.first(), attack.destination) {
        (Some(first), _) => is_v4(first),
        (None, Some(destination)) => destination.is_v4(),
        (None, None) => return None,
    };
    let of_one = if is_v4 { 32 } else { 64 };
    let length = networks.first().map_or(of_one, Network::length);
    let mut matches = matches_of(attack, is_v4)?;
    matches.extend(words("-m connlimit --connlimit-above"));
    matches.push(per_source.to_string());
    matches.extend(words("--connlimit-mask"));
    matches.push(length.to_string());
    let rule = |own: Vec<String>| Rule {
        is_v4,
        matches: own.into_iter().chain(matches.iter().cloned()).collect(),
        step: situation.number,
        is_of_flows: false,
    };
    let rules = if is_spread {
        vec![rule(Vec::new())]
    } else {
        let named = networks.iter();
        named
            .map(|network| rule(vec!["-s".to_owned(), network.to_string()]))
            .collect()
    };
    Some(Choice {
        rules,
        limits: Vec::new(),
        forms: Vec::new(),
        cause: if is_spread {
            format!(
                "very many hold a few each and send nothing: each of /{length} may hold {per_source}"
            )
        } else {
            format!(
                "{} of it: each may hold {per_source} connections",
                who(networks.len(), length, ["holds", "hold"])
            )
        },
        action: Action::Limit {
            per_source,
            prefix_length: length,
            networks,
        },
        note: None,
    })
}

/// What a step that is in force has to take in: networks that send much of the attack and were not known then.
pub(crate) fn extension(situation: &Situation<'_>, step: &Step) -> Option<Step> {
    let (known, may) = match &step.action {
        Action::Limit { networks, .. } if step.rules.is_empty() => (networks, limitable(situation)),
        Action::Ban { networks } => (networks, bannable(situation).0),
        _ => return None,
    };
    let room = EXTENDED_MAX.saturating_sub(known.len());
    let is_new = |new: &Network| known.iter().all(|known| !known.overlaps(new));
    let new: Vec<Network> = may.into_iter().filter(is_new).take(room).collect();
    if new.is_empty() {
        return None;
    }
    let mut more = step.clone();
    match &mut more.action {
        Action::Limit {
            networks,
            per_source,
            ..
        } => {
            more.limits = new
                .iter()
                .map(|network| Limit {
                    network: *network,
                    per_second: *per_source,
                    kinds: kinds_of(situation.attack.kind),
                    step: step.number,
                    until: step.until,
                })
                .collect();
            *networks = new;
        }
        Action::Ban { networks } => *networks = new,
        _ => return None,
    }
    Some(more)
}

impl Step {
    /// Takes in what an [`extension`] of it names.
    pub(crate) fn take_in(&mut self, more: &Self) {
        self.limits.extend(&more.limits);
        if self.commands.len() < COMMANDS_MAX {
            self.commands.extend(more.limits.iter().map(Limit::text));
            self.commands.truncate(COMMANDS_MAX);
        }
        match (&mut self.action, &more.action) {
            (Action::Limit { networks, .. }, Action::Limit { networks: new, .. })
            | (Action::Ban { networks }, Action::Ban { networks: new }) => networks.extend(new),
            _ => {}
        }
    }
}

/// Rules of a step that are shown.
pub(crate) const COMMANDS_MAX: usize = 128;
