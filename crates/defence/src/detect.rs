//! What is an attack, and what is none.

use std::collections::BTreeMap;

use crate::answered::{self, ANSWERED};
use crate::attack::{AttackKind, HeavySource};
use crate::baseline::Baseline;
use crate::defence::Gauges;
use crate::ladder::{KNOWN_SECONDS, SHARE_OF_SERVICE};
use crate::network::Network;
use crate::sample::{SIGNALS, Signal};
use crate::sketch::SpaceSaving;
use crate::spread;
use crate::view::{Form, Sender, Target, View, rate};
use crate::within::Within;

/// Below these rates (packets a second, by [`Signal`]) nothing is a flood, however unusual.
const FLOORS: [f64; SIGNALS] = [
    100.0, 100.0, 300.0, 200.0, 500.0, 200.0, 200.0, 100.0, 300.0,
];

/// Seconds of which the form of packets is learned at a time, as many later.
const LATEST_SECONDS: u64 = 3;

/// How often as much as usual is an attack.
pub(crate) const TIMES_USUAL: f64 = 4.0;

/// Handshakes a second of one destination below which there is no flood of them.
const CONNECTIONS_FLOOR: f64 = 200.0;
/// As long as nothing is known to be usual.
const CONNECTIONS_FLOOR_AT_FIRST: f64 = 2000.0;
/// What share of handshakes a few must make: each makes more than any client, so less than half will do.
const CONNECTIONS_SHARE: f64 = 0.4;
/// More than so many times what half of all seconds have had is not usual, even if some had it.
const MIDDLES: f64 = 1.5;
/// Handshakes a second that no single honest client makes for long; one behind which many
/// sit is known by what is usual.
const CONNECTIONS_OF_ONE: f64 = 20.0;

/// Connections held open to one destination, and by one source.
const HELD_FLOOR: f64 = 500.0;
const HELD_BY_ONE: f64 = 20.0;

/// Connections to one destination on which nothing was sent, and what share of those that were made lately.
const SILENT_FLOOR: f64 = 300.0;
const SILENT_SHARE: f64 = 0.5;

/// However much each of them stands for, so many must have been found.
const HELD_MIN: f64 = 16.0;

/// Ports in ten to twenty seconds that did not answer a source.
const SCANNED_PORTS: f64 = 50.0;

/// More scanners than these that together send more packets a second than that are none: a flood to random ports, whose
/// senders may be forged, looks like as many scans.
const SCANNERS: usize = 32;
const FLOOD_OF_SCANNERS: f64 = 10_000.0;

/// How much more its network sends than one that scans.
const OF_MANY: f64 = 16.0;

/// Percent of the table, and new flows a second without answers, that together are an attack on it.
const TABLE_PERCENT: f64 = 50.0;
const TABLE_FLOOR: f64 = 1000.0;

/// What share of an attack a few sources must send for it to be theirs, and how many are a few.
const THEIR_SHARE: f64 = 0.5;
pub(crate) const A_FEW: usize = 64;

/// Destinations of which something is learned.
const SCOPES: usize = 384;

/// A destination, by itself or with all of its network, or all.
pub(crate) type Scope = Option<Network>;

/// What is usual for a destination.
#[derive(Clone, Debug, Default)]
pub(crate) struct Learned {
    unanswered: [Baseline; SIGNALS],
    /// Of what is answered without a handshake.
    pub(crate) asked: [Baseline; ANSWERED.len()],
    completed: Baseline,
    held: Baseline,
    silent: Baseline,
    /// The form of packets in calm seconds.
    pub(crate) calm: [Form; SIGNALS],
    /// That of the last seconds, of which nobody knows yet whether an attack begins in them.
    latest: [[Form; SIGNALS]; 2],
    last: u64,
}

impl Learned {
    fn learn(&mut self, target: &Target, held: [f64; 2], now: u64) {
        for signal in Signal::ALL {
            let usual = &mut self.unanswered[signal as usize];
            usual.learn(target.counts.unanswered(signal));
            self.latest[0][signal as usize].learn(&target.forms[signal as usize]);
            self.calm[signal as usize].fade(0.99);
        }
        for (usual, signal) in self.asked.iter_mut().zip(ANSWERED) {
            usual.learn(target.counts.seen(signal));
        }
        if now.is_multiple_of(LATEST_SECONDS) {
            let latest = std::mem::take(&mut self.latest[0]);
            let before = std::mem::replace(&mut self.latest[1], latest);
            for (calm, before) in self.calm.iter_mut().zip(&before) {
                calm.learn(before);
            }
        }
        self.completed.learn(rate(target.counts.completed));
        self.held.learn(held[0]);
        self.silent.learn(held[1]);
        self.last = now;
    }
}

/// An attack as one second shows it.
pub(crate) struct Finding {
    pub(crate) kind: AttackKind,
    pub(crate) scope: Scope,
    pub(crate) rate: f64,
    pub(crate) passed: f64,
    pub(crate) threshold: f64,
    pub(crate) usual: f64,
    pub(crate) sources: f64,
    pub(crate) heavy: Vec<HeavySource>,
    pub(crate) evidence: String,
}

#[derive(Clone, Debug, Default)]
pub(crate) struct Detector {
    pub(crate) learned: BTreeMap<Scope, Learned>,
    pub(crate) within: Within,
}

impl Detector {
    /// What a second shows. What is under attack now learns nothing.
    pub(crate) fn look(&mut self, view: &View, gauges: &Gauges, now: u64) -> Vec<Finding> {
        let mut findings = self.floods(view, now);
        let mut of_connections = Vec::new();
        for target in view.targets[0].iter() {
            self.look_at(
                (Some(target.key), now),
                &target.value,
                view,
                &mut of_connections,
            );
        }
        let apart: Vec<AttackKind> = of_connections.iter().map(|it| it.kind).collect();
        let mut whole = Vec::new();
        self.look_at((None, now), &view.all, view, &mut whole);
        // What is aimed at one address is told of once.
        whole.retain(|finding| !apart.contains(&finding.kind));
        findings.append(&mut of_connections);
        findings.append(&mut whole);
        if let Some(scan) = scans(view) {
            findings.retain(|finding| !is_of_scan(finding, &scan));
            findings.push(scan);
        }
        findings.extend(exhaustion(view, gauges, &findings));
        let within = self.within.look(view, now);
        findings.retain(|finding| !self.within.has_all(finding));
        findings.extend(within);
        self.learn(view, &findings, now);
        findings
    }

    /// Floods of packets, each where it is aimed at: an address, a network, or all.
    fn floods(&self, view: &View, now: u64) -> Vec<Finding> {
        let mut findings = Vec::new();
        let everything = [(None, &view.all)];
        for targets in &view.targets {
            let targets = targets.iter().map(|it| (Some(it.key), &it.value));
            let wider = targets.flat_map(|target| self.floods_to(target, (view, now)));
            spread::take_in(&mut findings, wider.collect(), view);
        }
        let whole = everything.map(|target| self.floods_to(target, (view, now)));
        spread::take_in(&mut findings, whole.into_iter().flatten().collect(), view);
        findings
    }

    fn floods_to(
        &self,
        (scope, target): (Scope, &Target),
        (view, now): (&View, u64),
    ) -> Vec<Finding> {
        let learned = self.learned.get(&scope);
        let flood = |signal| flood((scope, target), signal, learned, view);
        let mut found: Vec<Finding> = Signal::ALL.into_iter().filter_map(flood).collect();
        for of in ANSWERED.into_iter().enumerate() {
            let answered = answered::flood((scope, target), of, learned, (view, now));
            let is_new = |it: &Finding| found.iter().all(|known| known.kind != it.kind);
            found.extend(answered.filter(is_new));
        }
        found
    }

    fn look_at(
        &self,
        (scope, now): (Scope, u64),
        target: &Target,
        view: &View,
        findings: &mut Vec<Finding>,
    ) {
        let learned = self.learned.get(&scope);
        findings.extend(connections(scope, target, learned, (view, now)));
        let held = held(scope, learned, view);
        findings.extend(held.or_else(|| silent(scope?, learned, view)));
    }

    /// What is under attack learns nothing, nor from how it began.
    fn learn(&mut self, view: &View, findings: &[Finding], now: u64) {
        let is_of = |finding: &Finding, scope: &Network| {
            let attacked = finding.scope.as_ref();
            attacked.is_some_and(|attacked| attacked.overlaps(scope))
        };
        let attacked = self.learned.iter_mut().filter(|(scope, _)| match scope {
            None => !findings.is_empty(),
            Some(scope) => findings.iter().any(|it| is_of(it, scope)),
        });
        for (_, learned) in attacked {
            learned.latest = Default::default();
        }
        if findings.is_empty() {
            let all = self.learned.entry(None).or_default();
            all.learn(&view.all, [view.held.all, 0.0], now);
        }
        let targets = view.targets.iter().flat_map(SpaceSaving::iter);
        for target in targets.filter(|target| findings.iter().all(|it| !is_of(it, &target.key))) {
            let learned = self.learned.entry(Some(target.key)).or_default();
            let address = target.key.is_one().then(|| target.key.address());
            let held = address.and_then(|it| view.held.targets.get(&it));
            let silent = address.and_then(|it| view.held.silent.get(&it));
            let count = [held.map(|it| it.count), silent.map(|it| it.count)];
            learned.learn(&target.value, count.map(Option::unwrap_or_default), now);
        }
        while self.learned.len() > SCOPES {
            let named = self.learned.iter().filter(|(scope, _)| scope.is_some());
            let oldest = named.min_by_key(|(_, learned)| learned.last);
            let Some(oldest) = oldest.map(|(scope, _)| *scope) else {
                return;
            };
            self.learned.remove(&oldest);
        }
    }
}

/// Packets of a kind that nothing answers, to one destination.
fn flood(
    (scope, target): (Scope, &Target),
    signal: Signal,
    learned: Option<&Learned>,
    view: &View,
) -> Option<Finding> {
    let counts = &target.counts;
    let unanswered = counts.unanswered(signal);
    let usual = learned.map_or(0.0, |it| it.unanswered[signal as usize].usual());
    let threshold = FLOORS[signal as usize].max(TIMES_USUAL * usual);
    let seen = counts.seen(signal);
    let is_sure = counts.is_sure_of(signal) && counts.is_unanswered(signal);
    if !is_sure || unanswered <= threshold || unanswered < seen / 2.0 {
        return None;
    }
    let heavy = heavy(view, unanswered, |Sender { counts, .. }| {
        let is_sure = counts.is_sure_of(signal);
        is_sure.then(|| counts.unanswered(signal))
    });
    let sources = target.sources.estimate();
    let to = match scope {
        Some(scope) if !scope.is_one() => {
            format!("; to about {:.0} addresses", target.destinations.estimate())
        }
        _ => String::new(),
    };
    Some(Finding {
        kind: AttackKind::of(signal),
        scope,
        rate: unanswered,
        passed: counts.passed(signal).min(unanswered),
        threshold,
        usual,
        sources,
        evidence: format!(
            "{unanswered:.0} packets a second without answers of {seen:.0}, more than {threshold:.0}; \
             usual are {usual:.0}; about {sources:.0} sources{}{to}",
            whence(&heavy)
        ) + &services(signal, &target.forms[signal as usize]),
        heavy,
    })
}

/// A scan is a flood of sorts too; whose senders all scan, and none faster than that, is told of once.
fn is_of_scan(finding: &Finding, scan: &Finding) -> bool {
    const RATE_OF_SCANNER: f64 = 1000.0;
    let scans = |source: &HeavySource| {
        let is_same = |it: &HeavySource| source.network.overlaps(&it.network);
        source.rate < RATE_OF_SCANNER && scan.heavy.iter().any(is_same)
    };
    let is_kind = matches!(finding.kind, AttackKind::SynFlood | AttackKind::UdpFlood);
    is_kind && !finding.heavy.is_empty() && finding.heavy.iter().all(scans)
}

const fn whence(heavy: &[HeavySource]) -> &'static str {
    if heavy.is_empty() {
        ", none of them heavy: spread or forged"
    } else {
        ", most of it from a few"
    }
}

/// Which services reflect it.
fn services(signal: Signal, form: &Form) -> String {
    if signal != Signal::Reflected {
        return String::new();
    }
    let ports = form.source_port.shares();
    let ports = ports.filter(|(_, share)| *share >= SHARE_OF_SERVICE);
    let mut ports: Vec<String> = ports.map(|(port, _)| port.to_string()).collect();
    ports.sort_unstable();
    match ports.is_empty() {
        true => String::new(),
        false => format!("; from port {}", ports.join(", ")),
    }
}

/// The sources that send most of something, at the longest prefix at which a few do.
pub(crate) fn heavy(
    view: &View,
    total: f64,
    of: impl Fn(&Sender) -> Option<f64>,
) -> Vec<HeavySource> {
    let levels = [
        &view.v4[0],
        &view.v6[0],
        &view.v4[1],
        &view.v6[1],
        &view.v6[2],
    ];
    for sketch in levels {
        let found = of_level(sketch, total, &of);
        if !found.is_empty() {
            return found;
        }
    }
    Vec::new()
}

fn of_level(
    sketch: &SpaceSaving<Network, Sender>,
    total: f64,
    of: impl Fn(&Sender) -> Option<f64>,
) -> Vec<HeavySource> {
    let mut sources: Vec<HeavySource> = sketch
        .iter()
        .filter_map(|counted| {
            Some(HeavySource {
                network: counted.key,
                // What is beside a count began with it: it holds nothing of an earlier key.
                rate: of(&counted.value)?,
                error: rate(counted.error),
            })
        })
        .filter(|source| source.rate * A_FEW as f64 * 2.0 >= total)
        .collect();
    by_weight(&mut sources);
    sources.truncate(A_FEW);
    let sum: f64 = sources.iter().map(|source| source.rate).sum();
    if sum < THEIR_SHARE * total {
        sources.clear();
    }
    sources
}

pub(crate) fn by_weight(sources: &mut [HeavySource]) {
    sources.sort_by(|a, b| b.rate.total_cmp(&a.rate).then(a.network.cmp(&b.network)));
}

/// Handshakes that a few sources make far more of than clients do. Many sources with a few
/// each are a crowd.
fn connections(
    scope: Scope,
    target: &Target,
    learned: Option<&Learned>,
    (view, now): (&View, u64),
) -> Option<Finding> {
    let completed = rate(target.counts.completed);
    let usual = learned.map_or(0.0, |it| it.completed.usual());
    // A daemon that has just begun to look knows of nobody behind one address yet.
    let is_new = learned.is_none_or(|it| it.completed.is_new());
    let floor = if is_new {
        CONNECTIONS_FLOOR_AT_FIRST
    } else {
        CONNECTIONS_FLOOR
    };
    let threshold = floor.max(TIMES_USUAL * usual);
    if completed <= floor || !target.counts.is_sure_of_handshakes() {
        return None;
    }
    let share = CONNECTIONS_SHARE * completed;
    let mut heavy = heavy(view, share / THEIR_SHARE, |Sender { counts, .. }| {
        counts.has_handshakes().then(|| rate(counts.completed))
    });
    heavy.retain(|source| source.rate > CONNECTIONS_OF_ONE);
    let sum = |of: &[HeavySource]| -> f64 { of.iter().map(|source| source.rate).sum() };
    let theirs = sum(&heavy);
    if theirs < share {
        return None;
    }
    if completed <= threshold {
        // As many as all that is usual, from a few who were not there before: whatever else there is is beside them.
        let before = now.saturating_sub(KNOWN_SECONDS);
        heavy.retain(|source| !view.is_known(&source.network, before));
        // A crowd that has just come is not usual yet, and must not hide them.
        let middle = learned.map_or(0.0, |it| it.completed.middle());
        if is_new || sum(&heavy) <= floor.max(usual.min(MIDDLES * middle)) {
            return None;
        }
    }
    let theirs = sum(&heavy);
    Some(Finding {
        kind: AttackKind::ConnectionFlood,
        scope,
        rate: completed,
        passed: completed,
        threshold,
        usual,
        sources: heavy.len() as f64,
        evidence: format!(
            "{completed:.0} handshakes a second; usual are {usual:.0}; {} sources make {theirs:.0} of them, each more than \
             {CONNECTIONS_OF_ONE}",
            heavy.len()
        ),
        heavy,
    })
}

fn held(scope: Scope, learned: Option<&Learned>, view: &View) -> Option<Finding> {
    let held = match scope {
        None => view.held.all,
        Some(scope) => view.held.targets.get(&scope.address())?.certain(),
    };
    let usual = learned.map_or(0.0, |it| it.held.middle());
    let threshold = HELD_FLOOR.max(TIMES_USUAL * usual);
    if held <= threshold {
        return None;
    }
    let of_one = HELD_BY_ONE.max(HELD_MIN * view.held.weight);
    for sketch in &view.held.sources {
        let mut heavy: Vec<HeavySource> = sketch
            .iter()
            .filter(|counted| counted.certain() > of_one)
            .map(|counted| HeavySource {
                network: counted.key,
                rate: counted.certain(),
                error: counted.error,
            })
            .collect();
        by_weight(&mut heavy);
        heavy.truncate(A_FEW);
        let theirs: f64 = heavy.iter().map(|source| source.rate).sum();
        if theirs >= THEIR_SHARE * held {
            return Some(Finding {
                kind: AttackKind::SlowConnections,
                scope,
                rate: held,
                passed: held,
                threshold,
                usual,
                sources: heavy.len() as f64,
                evidence: format!(
                    "{held:.0} connections are held open and hardly used, more than {threshold:.0}; usual are \
                     {usual:.0}; {} sources hold {theirs:.0} of them",
                    heavy.len()
                ),
                heavy,
            });
        }
    }
    None
}

/// Connections that nothing came of, from senders of whom each holds a few: a crowd asks for something.
fn silent(scope: Network, learned: Option<&Learned>, view: &View) -> Option<Finding> {
    let address = scope.address();
    let counted = view.held.silent.get(&address)?;
    let silent = counted.certain();
    let usual = learned.map_or(0.0, |it| it.silent.middle());
    let threshold = SILENT_FLOOR.max(TIMES_USUAL * usual);
    let made = view.handshakes(Some(address));
    let is_sure = f64::from(counted.value) >= HELD_MIN;
    if !is_sure || silent <= threshold || silent < SILENT_SHARE * made {
        return None;
    }
    let target = view.target(Some(scope));
    Some(Finding {
        kind: AttackKind::SlowConnections,
        scope: Some(scope),
        rate: silent,
        passed: silent,
        threshold,
        usual,
        sources: target.map_or(0.0, |target| target.sources.estimate()),
        evidence: format!(
            "nothing was sent on {silent:.0} of {made:.0} connections made of late, more than {threshold:.0}; \
             usual are {usual:.0}; no few hold most of them"
        ),
        heavy: Vec::new(),
    })
}

fn scans(view: &View) -> Option<Finding> {
    let levels = [&view.v4[0], &view.v6[0]];
    let senders = levels.into_iter().flat_map(SpaceSaving::iter);
    let scanners = senders.filter_map(|counted| {
        let (counts, ports) = (&counted.value.counts, counted.value.ports.estimate());
        let tried = counts.seen(Signal::Syn) + counts.seen(Signal::Udp);
        let answered = rate(counts.completed + counts.replied);
        // Where one packet in several is sampled, half as many stand for more.
        let least = SCANNED_PORTS / counted.value.weight.clamp(1.0, 2.0);
        let is_scan = ports > least && answered < tried / 4.0;
        (is_scan && !is_of_many(view, &counted.key, tried)).then_some(HeavySource {
            network: counted.key,
            rate: ports,
            error: rate(counted.error),
        })
    });
    let mut heavy: Vec<HeavySource> = scanners.collect();
    let unanswered = [Signal::Syn, Signal::Udp].map(|it| view.all.counts.unanswered(it));
    if heavy.len() > SCANNERS && unanswered.iter().sum::<f64>() > FLOOD_OF_SCANNERS {
        return None;
    }
    by_weight(&mut heavy);
    heavy.truncate(A_FEW);
    let most = heavy.first()?;
    Some(Finding {
        kind: AttackKind::PortScan,
        scope: None,
        rate: most.rate,
        passed: most.rate,
        threshold: SCANNED_PORTS,
        usual: 0.0,
        sources: heavy.len() as f64,
        evidence: format!(
            "{} sources tried more than {SCANNED_PORTS} ports each in 20 seconds, {} about {:.0}, and hardly any answered",
            heavy.len(),
            most.network,
            most.rate
        ),
        heavy,
    })
}

/// Whether a source is but one of very many in its network that send as much: forged, if so.
fn is_of_many(view: &View, source: &Network, own: f64) -> bool {
    let (sketch, length) = match source.is_v4() {
        true => (&view.v4[1], 24),
        false => (&view.v6[2], 48),
    };
    let network = sketch.get(&Network::of(source.address(), length));
    network.is_some_and(|network| {
        let counts = &network.value.counts;
        counts.seen(Signal::Syn) + counts.seen(Signal::Udp) > OF_MANY * own
    })
}

/// A table that fills, by flows to many destinations.
fn exhaustion(view: &View, gauges: &Gauges, findings: &[Finding]) -> Option<Finding> {
    let counts = &view.all.counts;
    let unanswered: f64 = Signal::ALL.iter().map(|it| counts.unanswered(*it)).sum();
    let passed: f64 = Signal::ALL.iter().map(|it| counts.passed(*it)).sum();
    let percent = 100.0 * gauges.flows as f64 / gauges.flows_max.max(1) as f64;
    let is_sure = Signal::ALL.iter().any(|it| counts.is_sure_of(*it));
    let is_aimed = findings.iter().any(|finding| finding.scope.is_some());
    if is_aimed || !is_sure || percent < TABLE_PERCENT || passed.min(unanswered) < TABLE_FLOOR {
        return None;
    }
    let heavy = heavy(view, unanswered, |Sender { counts, .. }| {
        let sure = Signal::ALL.iter().filter(|it| counts.is_sure_of(**it));
        let rate: f64 = sure.map(|it| counts.unanswered(*it)).sum();
        (rate > 0.0).then_some(rate)
    });
    Some(Finding {
        kind: AttackKind::TableExhaustion,
        scope: None,
        rate: unanswered,
        passed: passed.min(unanswered),
        threshold: TABLE_FLOOR,
        usual: 0.0,
        sources: view.all.sources.estimate(),
        evidence: format!(
            "{percent:.0} percent of the table are taken, and {unanswered:.0} new flows a second to many \
             destinations are not answered{}",
            whence(&heavy)
        ),
        heavy,
    })
}
