//! Floods within flows that were answered: no packet of theirs is sampled, and their counters tell.
//!
//! Much honest traffic is as heavy: downloads and uploads over QUIC, tunnels, calls, files over NFS, one resolver that asks another. Hence nobody is
//! accused for what is heavy alone. Either next to nothing comes back, which no protocol that heeds its path
//! does; or somebody who was not there before asks and is answered, packet for packet, far more than is usual.

use std::collections::BTreeMap;
use std::net::IpAddr;

use keepstate_engine::rate::{RATE_ICMP, RATE_UDP};
use keepstate_engine::tuple::FlowKey;
use keepstate_engine::wire::transport::UDP;

use crate::attack::{AttackKind, HeavySource};
use crate::baseline::Baseline;
use crate::detect::{Finding, TIMES_USUAL, by_weight};
use crate::ladder::{Action, Choice, KNOWN_SECONDS, Situation, Step};
use crate::limit;
use crate::network::Network;
use crate::refusal::{Form, Limit};
use crate::sample::Signal;
use crate::stream::Fast;
use crate::view::View;

/// Packets a second within the flows of one destination below which there is no flood: of flows that hardly anything comes back
/// on, and of all.
const FLOOR_ONE_WAY: f64 = 10_000.0;
const FLOOR: f64 = 20_000.0;
/// As long as nothing is known to be usual, so many times that.
const AT_FIRST: f64 = 4.0;
const SECONDS_AT_FIRST: u64 = 20;

/// One answer to so many packets is none: QUIC and TCP in a tunnel acknowledge at least one in fifty.
const PACKETS_OF_ANSWER: f64 = 100.0;

/// Answers to as many questions, and from how many bytes on a packet is no question. Uploads have large packets, and fewer
/// answers, that are small; downloads have more answers.
const ANSWERED: std::ops::RangeInclusive<f64> = 0.9..=1.1;
const QUESTION_BYTES: f64 = 300.0;
const ECHOED: std::ops::RangeInclusive<f64> = 0.95..=1.05;

/// Refused packets of those who were accused by which it is seen that a flood goes on.
const GOES_ON: f64 = 500.0;

/// Destinations of which something is known.
const DESTINATIONS: usize = 64;

#[derive(Clone, Debug, Default)]
pub(crate) struct Within {
    usual: BTreeMap<IpAddr, Baseline>,
    /// Calm seconds, whatever came.
    seconds: u64,
    /// Those that the attacks of this second are made of.
    pub(crate) accused: Vec<Fast>,
    /// Whose packets are looked for when their flows are gone, by destination, with the threshold.
    named: BTreeMap<IpAddr, Named>,
}

#[derive(Clone, Debug)]
struct Named {
    senders: Vec<HeavySource>,
    threshold: f64,
    usual: f64,
    last: u64,
}

/// How long senders are remembered that send no more.
const NAMED_SECONDS: u64 = 60;

impl Within {
    /// What a second shows; what is under attack learns nothing.
    pub(crate) fn look(&mut self, view: &View, now: u64) -> Vec<Finding> {
        let mut of: BTreeMap<IpAddr, Vec<Fast>> = BTreeMap::new();
        for fast in &view.streams.fast {
            if is_suspect(fast, view) {
                let known = of.entry(fast.stream.destination);
                known.or_default().push(*fast);
            }
        }
        self.accused.clear();
        let mut findings = Vec::new();
        for (destination, flows) in &of {
            if let Some(finding) = self.judge(*destination, flows) {
                self.remember(*destination, &finding, now);
                self.accused.extend(flows);
                findings.push(finding);
            }
        }
        self.go_on(view, now, &mut findings);
        self.learn(&of, &findings);
        findings
    }

    /// Whether all senders of a flood are among those who were accused: what is refused of their flows is no other.
    pub(crate) fn has_all(&self, finding: &Finding) -> bool {
        let is_kind = matches!(
            finding.kind,
            AttackKind::UdpFlood | AttackKind::IcmpFlood | AttackKind::Reflection
        );
        let mut named = self.named.values().flat_map(|it| &it.senders);
        let mut is_named =
            |source: &HeavySource| named.any(|it| it.network.overlaps(&source.network));
        is_kind && !finding.heavy.is_empty() && finding.heavy.iter().all(&mut is_named)
    }

    fn judge(&self, destination: IpAddr, flows: &[Fast]) -> Option<Finding> {
        let usual = self.usual.get(&destination);
        let is_new = self.seconds < SECONDS_AT_FIRST || usual.is_some_and(Baseline::is_new);
        let usual = usual.map_or(0.0, Baseline::usual);
        let floor = |of: f64| (if is_new { of * AT_FIRST } else { of }).max(TIMES_USUAL * usual);
        let sum = |of: &dyn Fn(&&Fast) -> bool| -> f64 {
            flows.iter().filter(of).map(|fast| fast.rate).sum()
        };
        let (all, one_way) = (sum(&|_| true), sum(&|fast| is_one_way(fast)));
        let (threshold, rate, what) = if one_way > floor(FLOOR_ONE_WAY) {
            let threshold = floor(FLOOR_ONE_WAY);
            (threshold, all, "hardly anything comes back")
        } else if all > floor(FLOOR) {
            let what = "each asks and is answered, from senders who were not there before";
            (floor(FLOOR), all, what)
        } else {
            return None;
        };
        let heavy = senders(flows);
        let most = flows.iter().max_by(|a, b| a.rate.total_cmp(&b.rate))?;
        Some(Finding {
            kind: AttackKind::FlowFlood,
            scope: Some(Network::of(destination, 128)),
            rate,
            passed: rate,
            threshold,
            usual,
            sources: heavy.len() as f64,
            evidence: format!(
                "{rate:.0} packets a second within {} that {} answered, more than {threshold:.0}; usual in such flows are {usual:.0}; \
                 {what}; the heaviest is {}",
                count(flows.len(), "flow"),
                if flows.len() == 1 { "was" } else { "were" },
                told(most)
            ),
            heavy,
        })
    }

    fn remember(&mut self, destination: IpAddr, finding: &Finding, now: u64) {
        let named = self.named.entry(destination).or_insert_with(|| Named {
            senders: Vec::new(),
            threshold: 0.0,
            usual: 0.0,
            last: now,
        });
        named.last = now;
        (named.threshold, named.usual) = (finding.threshold, finding.usual);
        for source in &finding.heavy {
            let is_new = |it: &HeavySource| it.network != source.network;
            if named.senders.len() < super::detect::A_FEW && named.senders.iter().all(is_new) {
                named.senders.push(*source);
            }
        }
    }

    /// Once their flows are ended and new ones refused, that is what is seen of them.
    fn go_on(&mut self, view: &View, now: u64, findings: &mut Vec<Finding>) {
        for (destination, named) in &mut self.named {
            let refused = named.senders.iter().map(|it| refused(view, &it.network));
            let refused: f64 = refused.sum();
            let at = Network::of(*destination, 128);
            if let Some(finding) = findings.iter_mut().find(|it| it.scope == Some(at)) {
                finding.rate += refused;
                continue;
            }
            if refused < GOES_ON {
                continue;
            }
            named.last = now;
            findings.push(Finding {
                kind: AttackKind::FlowFlood,
                scope: Some(at),
                rate: refused,
                passed: 0.0,
                threshold: named.threshold,
                usual: named.usual,
                sources: named.senders.len() as f64,
                evidence: format!(
                    "{refused:.0} packets a second still come from {} whose flows were ended, and are refused",
                    count(named.senders.len(), "sender")
                ),
                heavy: named.senders.clone(),
            });
        }
        self.named
            .retain(|_, named| named.last + NAMED_SECONDS > now);
    }

    fn learn(&mut self, of: &BTreeMap<IpAddr, Vec<Fast>>, findings: &[Finding]) {
        let is_calm = |destination: &IpAddr| {
            let mut scopes = findings.iter().filter_map(|it| it.scope);
            !scopes.any(|scope| scope.contains(*destination))
        };
        self.seconds += u64::from(findings.is_empty());
        for destination in of.keys() {
            if self.usual.len() < DESTINATIONS && is_calm(destination) {
                // Until now there were none.
                let before = vec![0.0; self.seconds.min(SECONDS_AT_FIRST) as usize];
                let usual = || Baseline::of(&before);
                self.usual.entry(*destination).or_insert_with(usual);
            }
        }
        for (destination, usual) in &mut self.usual {
            if is_calm(destination) {
                let flows = of.get(destination).into_iter().flatten();
                usual.learn(flows.map(|fast| fast.rate).sum());
            }
        }
        self.usual
            .retain(|it, usual| of.contains_key(it) || usual.is_new() || usual.usual() > 0.0);
    }
}

fn is_one_way(fast: &Fast) -> bool {
    fast.answers * PACKETS_OF_ANSWER < fast.rate
}

fn is_suspect(fast: &Fast, view: &View) -> bool {
    let before = fast.since.saturating_sub(KNOWN_SECONDS);
    if is_one_way(fast) {
        // Some send files with TCP for a guide, and heed their path by it.
        return !view.has_shaken_hands(&fast.network(), before);
    }
    let share = fast.answers / fast.rate;
    let is_echo = ECHOED.contains(&(fast.answer_length / fast.length.max(1.0)));
    let is_asked = ANSWERED.contains(&share)
        || share < *ANSWERED.end() && (fast.length <= QUESTION_BYTES || is_echo);
    is_asked && !view.is_known(&fast.network(), before)
}

/// The senders of flows, the heaviest first.
fn senders(flows: &[Fast]) -> Vec<HeavySource> {
    let mut rates: BTreeMap<Network, f64> = BTreeMap::new();
    for fast in flows {
        *rates.entry(fast.network()).or_default() += fast.rate;
    }
    let senders = rates.into_iter();
    let mut heavy: Vec<HeavySource> = senders
        .map(|(network, rate)| HeavySource {
            network,
            rate,
            error: 0.0,
        })
        .collect();
    by_weight(&mut heavy);
    heavy.truncate(super::detect::A_FEW);
    heavy
}

fn refused(view: &View, network: &Network) -> f64 {
    let sketch = if network.is_v4() {
        &view.v4[0]
    } else {
        &view.v6[0]
    };
    let signals = [Signal::Udp, Signal::Reflected, Signal::Icmp];
    let counts = sketch.get(network).map(|it| &it.value.counts);
    counts.map_or(0.0, |counts| {
        let sure = signals.into_iter().filter(|it| counts.is_sure_of(*it));
        sure.map(|it| counts.seen(it)).sum()
    })
}

/// The senders of flows may begin hardly any, and these are ended.
pub(crate) fn limit(situation: &Situation<'_>) -> Option<Choice> {
    let mut networks = limit::limitable(situation);
    networks.truncate(limit::LIMITED_MAX);
    let length = networks.first()?.length();
    let accused = own(situation);
    let protocols = || accused.iter().map(|fast| fast.stream.protocol);
    let kinds = match (
        protocols().all(|it| it == UDP),
        protocols().any(|it| it == UDP),
    ) {
        (true, _) => RATE_UDP,
        (false, false) => RATE_ICMP,
        (false, true) => RATE_UDP | RATE_ICMP,
    };
    let limits = networks.iter().map(|network| Limit {
        network: *network,
        per_second: 1,
        period: limit::period_of(situation.attack.kind),
        kinds,
        step: situation.number,
        until: 0,
    });
    let ends = of_networks(&accused, &networks);
    Some(Choice {
        limits: limits.collect(),
        rules: Vec::new(),
        forms: Vec::new(),
        cause: format!(
            "{} of it: {}, and as long as this lasts each may begin one flow more",
            limit::who(networks.len(), length, ["sends", "send"]),
            match ends.len() {
                1 => "the flow is ended".to_owned(),
                count => format!("their {count} flows are ended"),
            }
        ),
        ends,
        action: Action::Limit {
            per_source: 1,
            prefix_length: length,
            networks,
        },
        note: None,
    })
}

/// Forms that one step refuses: each is that of one flow.
const FORMS_MAX: usize = 2;

/// The flows themselves, where others sit behind the same address.
pub(crate) fn by_form(situation: &Situation<'_>) -> Option<Choice> {
    let mut accused = own(situation);
    accused.sort_by(|a, b| b.rate.total_cmp(&a.rate));
    let is_udp = |fast: &&Fast| fast.stream.protocol == UDP;
    let flows: Vec<&Fast> = accused.iter().filter(is_udp).take(FORMS_MAX).collect();
    let form = |fast: &&Fast| Form {
        is_v4: Some(fast.stream.destination.is_ipv4()),
        destination: situation.attack.destination,
        protocol: Some(UDP),
        source_port: Some(fast.stream.source_port),
        destination_port: Some(fast.stream.destination_port),
        step: situation.number,
        ..Form::default()
    };
    let first = flows.first()?;
    let mut forms: Vec<Form> = flows.iter().map(form).collect();
    forms.dedup_by(|one, other| one.is_same_as(other));
    Some(Choice {
        cause: format!(
            "others sit behind its address: {} is ended, and refused by its ports",
            told(first)
        ),
        action: Action::Form,
        rules: Vec::new(),
        limits: Vec::new(),
        forms,
        ends: flows.iter().map(|fast| fast.stream.key).collect(),
        note: None,
    })
}

/// Flows that go on, or have begun again, in spite of a step.
pub(crate) fn begun_again(situation: &Situation<'_>, step: &Step, new: &[Network]) -> Vec<FlowKey> {
    if situation.attack.kind != AttackKind::FlowFlood {
        return Vec::new();
    }
    let accused = own(situation);
    let mut ends = of_networks(&accused, new);
    if matches!(step.action, Action::Limit { .. }) {
        ends.extend(of_networks(&accused, step.action.networks()));
    }
    let is_refused = |fast: &&Fast| {
        let ports = (
            Some(fast.stream.source_port),
            Some(fast.stream.destination_port),
        );
        let mut forms = step.forms.iter();
        forms.any(|form| (form.source_port, form.destination_port) == ports)
    };
    let refused = accused.iter().filter(is_refused);
    ends.extend(refused.map(|fast| fast.stream.key));
    ends
}

fn own(situation: &Situation<'_>) -> Vec<Fast> {
    let accused = situation.within.accused.iter();
    let is_own = |fast: &&Fast| {
        let destination = situation.attack.destination;
        destination.is_some_and(|it| it.contains(fast.stream.destination))
    };
    accused.filter(is_own).copied().collect()
}

fn of_networks(flows: &[Fast], networks: &[Network]) -> Vec<FlowKey> {
    let is_of = |fast: &&Fast| networks.iter().any(|it| it.contains(fast.stream.source));
    flows
        .iter()
        .filter(is_of)
        .map(|fast| fast.stream.key)
        .collect()
}

fn told(fast: &Fast) -> String {
    let stream = &fast.stream;
    let ends = match stream.protocol {
        UDP => format!(
            "UDP from {} port {} to port {}",
            stream.source, stream.source_port, stream.destination_port
        ),
        _ => format!("ICMP from {}", stream.source),
    };
    format!(
        "{ends}, with {:.0} packets a second of {:.0} bytes and {:.0} answers",
        fast.rate, fast.length, fast.answers
    )
}

fn count(count: usize, what: &str) -> String {
    let more = if count == 1 { "" } else { "s" };
    format!("{count} {what}{more}")
}
