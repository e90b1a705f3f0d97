//! Floods within flows that were answered: no packet of theirs is sampled, and their counters tell.
//!
//! Much honest traffic is as heavy: downloads and uploads over QUIC, tunnels, calls, files over NFS, one resolver that asks another. Hence nobody is
//! accused for what is heavy alone. Either next to nothing comes back, which no protocol that heeds its path
//! does; or somebody who was not there before asks and is answered, packet for packet, far more than is usual.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::IpAddr;

use keepstate_engine::wire::transport::{ICMP, ICMPV6, UDP};

use crate::attack::{AttackKind, HeavySource};
use crate::baseline::Baseline;
use crate::detect::{Finding, TIMES_USUAL, by_weight};
use crate::ladder::{Action, Choice, KNOWN_SECONDS, Situation, words};
use crate::limit;
use crate::network::Network;
use crate::rule::{EXEMPT_RULES_MAX, Rule};
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

/// From which share on a flood that rules refuse counts as met.
const SHARE_REFUSED: f64 = 0.8;

/// Destinations of which something is known.
const DESTINATIONS: usize = 64;

#[derive(Clone, Debug, Default)]
pub(crate) struct Within {
    usual: BTreeMap<IpAddr, Usual>,
    /// Calm seconds, whatever came.
    seconds: u64,
    /// Those that the attacks of this second are made of.
    pub(crate) accused: Vec<Fast>,
    /// Senders that were, and when at last.
    before: BTreeMap<Network, u64>,
}

/// What is usual, and what came in the last seconds, of which nobody knows yet whether an attack begins in them.
#[derive(Clone, Debug)]
struct Usual {
    baseline: Baseline,
    latest: VecDeque<f64>,
}

const LATEST_SECONDS: usize = 6;

impl Usual {
    fn learn(&mut self, rate: f64) {
        self.latest.push_back(rate);
        if self.latest.len() > LATEST_SECONDS
            && let Some(rate) = self.latest.pop_front()
        {
            self.baseline.learn(rate);
        }
    }

    fn is_known(&self) -> bool {
        self.baseline.is_new() || self.baseline.usual() > 0.0
    }
}

/// How many of them, and for how long.
const REMEMBERED_MAX: usize = 1024;
const SECONDS_REMEMBERED: u64 = 600;

impl Within {
    /// What a second shows; what is under attack learns nothing.
    pub(crate) fn look(&mut self, view: &View, now: u64) -> Vec<Finding> {
        let mut of: BTreeMap<IpAddr, Vec<Fast>> = BTreeMap::new();
        for fast in &view.streams.fast {
            if self.is_suspect(fast, view) {
                let known = of.entry(fast.stream.destination);
                known.or_default().push(*fast);
            }
        }
        self.accused.clear();
        let mut findings = Vec::new();
        for (destination, flows) in &of {
            if let Some(finding) = self.judge(*destination, flows, view) {
                self.remember(&finding, now);
                self.accused.extend(flows);
                findings.push(finding);
            }
        }
        self.learn(&of, &findings);
        findings
    }

    /// Whether all senders of a flood are among those who were accused: what is refused of their flows is no other.
    pub(crate) fn has_all(&self, finding: &Finding) -> bool {
        let is_kind = matches!(
            finding.kind,
            AttackKind::UdpFlood | AttackKind::IcmpFlood | AttackKind::Reflection
        );
        let is_accused = |source: &HeavySource| {
            let mut accused = self.accused.iter();
            accused.any(|it| source.network.overlaps(&it.network()))
        };
        is_kind && !finding.heavy.is_empty() && finding.heavy.iter().all(is_accused)
    }

    fn is_suspect(&self, fast: &Fast, view: &View) -> bool {
        let (network, before) = (fast.network(), fast.since.saturating_sub(KNOWN_SECONDS));
        if is_one_way(fast) {
            // Some send files with TCP for a guide, and heed their path by it.
            return !view.has_shaken_hands(&network, before);
        }
        let was_accused = self.before.contains_key(&network);
        is_question(fast) && (was_accused || !fast.is_asked && !view.is_known(&network, before))
    }

    /// Who was accused is nobody's client by that.
    fn remember(&mut self, finding: &Finding, now: u64) {
        self.before
            .retain(|_, last| *last + SECONDS_REMEMBERED > now);
        for source in &finding.heavy {
            if self.before.len() < REMEMBERED_MAX || self.before.contains_key(&source.network) {
                self.before.insert(source.network, now);
            }
        }
    }

    fn judge(&self, destination: IpAddr, flows: &[Fast], view: &View) -> Option<Finding> {
        let usual = self.usual.get(&destination).map(|it| &it.baseline);
        let is_new = self.seconds < SECONDS_AT_FIRST || usual.is_some_and(Baseline::is_new);
        let usual = usual.map_or(0.0, Baseline::usual);
        let floor = |of: f64| (if is_new { of * AT_FIRST } else { of }).max(TIMES_USUAL * usual);
        let sum = |of: &dyn Fn(&&Fast) -> bool| -> f64 {
            flows.iter().filter(of).map(|fast| fast.rate).sum()
        };
        let (rate, one_way) = (sum(&|_| true), sum(&|fast| is_one_way(fast)));
        let (threshold, what) = if one_way > floor(FLOOR_ONE_WAY) {
            (floor(FLOOR_ONE_WAY), "hardly anything comes back")
        } else if rate > floor(FLOOR) {
            let what = "each asks and is answered, from senders who were not there before";
            (floor(FLOOR), what)
        } else {
            return None;
        };
        let heavy = senders(flows);
        let refused: f64 = heavy.iter().map(|it| refused(view, &it.network)).sum();
        let most = flows.iter().max_by(|a, b| a.rate.total_cmp(&b.rate))?;
        Some(Finding {
            kind: AttackKind::FlowFlood,
            scope: Some(Network::of(destination, 128)),
            rate,
            passed: passed(rate, refused, threshold),
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
                let usual = || Usual {
                    baseline: Baseline::of(&before),
                    latest: VecDeque::new(),
                };
                self.usual.entry(*destination).or_insert_with(usual);
            }
        }
        for (destination, usual) in &mut self.usual {
            if is_calm(destination) {
                let flows = of.get(destination).into_iter().flatten();
                usual.learn(flows.map(|fast| fast.rate).sum());
            } else {
                usual.latest.clear();
            }
        }
        self.usual
            .retain(|it, usual| of.contains_key(it) || usual.is_known());
    }
}

fn is_one_way(fast: &Fast) -> bool {
    fast.answers * PACKETS_OF_ANSWER < fast.rate
}

/// What was refused is sampled, and so not known exactly.
fn passed(rate: f64, refused: f64, threshold: f64) -> f64 {
    let passed = (rate - refused).max(0.0);
    match refused >= SHARE_REFUSED * rate {
        true => passed.min(threshold / 4.0),
        false => passed,
    }
}

/// Whether it goes to somebody who answers, and no upload looks like it.
fn is_question(fast: &Fast) -> bool {
    let share = fast.answers / fast.rate;
    let is_echo = ECHOED.contains(&(fast.answer_length / fast.length.max(1.0)));
    ANSWERED.contains(&share)
        || share < *ANSWERED.end() && (fast.length <= QUESTION_BYTES || is_echo)
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
        sure.map(|it| counts.refused(it)).sum()
    })
}

/// Packets a second that each sender may send to whom it floods, or each flow of its, where others sit behind its address.
const LIMIT_MIN: u32 = 200;

/// By rules that count packets: a flow that was ended would begin again with what the server has not answered yet.
pub(crate) fn police(situation: &Situation<'_>) -> Option<Choice> {
    let Situation {
        attack,
        view,
        exempt,
        ..
    } = situation;
    if exempt.0.len() > EXEMPT_RULES_MAX {
        return None;
    }
    let accused = own(situation);
    let before = attack.began.saturating_sub(KNOWN_SECONDS);
    let senders = attack.heavy.len().max(1) as f64;
    let per_source = ((attack.threshold / 8.0 / senders) as u32).max(LIMIT_MIN);
    let (mut rules, mut networks, mut spared) = (Vec::new(), Vec::new(), Vec::new());
    for HeavySource { network, .. } in &attack.heavy {
        if let Some(why) = exempt.of(network) {
            spared.push(format!("{network} {}", why.words()));
            continue;
        }
        let is_other = attack
            .destination
            .is_some_and(|it| it.is_v4() != network.is_v4());
        if is_other {
            continue;
        }
        let flows = accused.iter().filter(|fast| fast.network() == *network);
        let mut protocols: BTreeSet<u8> = flows.map(|fast| fast.stream.protocol).collect();
        protocols.extend(match attack.kind {
            AttackKind::UdpFlood => Some(UDP),
            AttackKind::IcmpFlood if network.is_v4() => Some(ICMP),
            AttackKind::IcmpFlood => Some(ICMPV6),
            _ => None,
        });
        for protocol in protocols {
            let is_shared = protocol == UDP && view.is_known(network, before);
            rules.push(rule(situation, network, protocol, (per_source, is_shared)));
        }
        networks.push(*network);
        if rules.len() >= limit::COUNTED_MAX {
            break;
        }
    }
    let length = networks.first()?.length();
    Some(Choice {
        rules,
        limits: Vec::new(),
        forms: Vec::new(),
        cause: format!(
            "{} of it: each may send {per_source} packets a second there",
            limit::who(networks.len(), length, ["sends", "send"])
        ),
        action: Action::Limit {
            per_source,
            prefix_length: length,
            networks,
        },
        note: (!spared.is_empty()).then(|| format!("left alone: {}", spared.join("; "))),
    })
}

fn rule(
    situation: &Situation<'_>,
    network: &Network,
    protocol: u8,
    (per_source, is_shared): (u32, bool),
) -> Rule {
    let protocol = match protocol {
        UDP => "udp",
        ICMP => "icmp",
        _ => "ipv6-icmp",
    };
    let mut matches = vec!["-s".to_owned(), network.to_string()];
    if let Some(destination) = situation.attack.destination {
        matches.extend(["-d".to_owned(), destination.to_string()]);
    }
    let mode = if is_shared { "srcip,srcport" } else { "srcip" };
    matches.extend(words(&format!(
        "-p {protocol} -m hashlimit --hashlimit-above {per_source}/sec --hashlimit-burst {per_source} \
         --hashlimit-mode {mode} --hashlimit-srcmask {} --hashlimit-name ks-step{}",
        network.length(),
        situation.number
    )));
    Rule {
        is_v4: network.is_v4(),
        matches,
        step: situation.number,
        is_of_flows: true,
    }
}

fn own(situation: &Situation<'_>) -> Vec<Fast> {
    let accused = situation.within.accused.iter();
    let is_own = |fast: &&Fast| {
        let destination = situation.attack.destination;
        destination.is_some_and(|it| it.contains(fast.stream.destination))
    };
    accused.filter(is_own).copied().collect()
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
