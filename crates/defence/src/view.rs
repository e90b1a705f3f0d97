//! What samples add up to.

use std::collections::HashMap;
use std::net::IpAddr;

use crate::held::Held;
use crate::network::Network;
use crate::sample::{Progress, SIGNALS, Sample, Signal, TCP};
use crate::sketch::{Distinct, Modes, SpaceSaving};
use crate::stream::Streams;

/// Counts halve each second, so an even rate adds up to twice itself.
pub(crate) const FADE: f64 = 0.5;

const SAMPLES_MIN: f64 = 16.0;

/// Sampled handshakes of one source: what few of them stand for is far above what a client makes.
const HANDSHAKES_OF_ONE_MIN: f64 = 4.0;

/// How many standard deviations packets without answers must be above none: where one sample stands for many packets, the
/// difference of packets and answers is chance alone now and then.
const DEVIATIONS: f64 = 3.0;

/// Each answered flow may have sent its first packet more than once.
const TRIES: f64 = 1.25;

/// Destinations that are counted apart, by the length of their prefix: each address, and the networks that it is in.
const DESTINATIONS: [usize; 3] = [256, 64, 64];
const DESTINATION_LENGTHS_V4: [u8; 3] = [32, 24, 16];
const DESTINATION_LENGTHS_V6: [u8; 3] = [128, 64, 48];
/// Sources of each length of prefix: those of more than a thousandth of all are known.
const SOURCES: usize = 1024;
/// Clients that have completed something, see [`View::is_known`].
const CLIENTS: usize = 8192;
/// Clients are forgotten by half in ten minutes.
const CLIENT_FADE: f64 = 0.998_845;

/// Lengths of prefix by which sources are counted.
const LENGTHS_V4: [u8; 2] = [32, 24];
const LENGTHS_V6: [u8; 3] = [64, 56, 48];

#[derive(Clone, Debug, Default)]
pub(crate) struct Counts {
    /// Packets without an answer, and those of them that were let through.
    seen: [f64; SIGNALS],
    passed: [f64; SIGNALS],
    refused: [f64; SIGNALS],
    /// Handshakes of TCP; other flows that were answered.
    pub(crate) completed: f64,
    pub(crate) replied: f64,
    /// How many samples all of this rests on: of packets without an answer, by signal, and of handshakes.
    samples: [f64; SIGNALS],
    completions: f64,
    /// How far from the truth chance may have brought them: their variances.
    seen_variance: [f64; SIGNALS],
    completed_variance: f64,
    replied_variance: f64,
}

impl Counts {
    fn add(&mut self, sample: &Sample) {
        let signal = sample.signal as usize;
        match sample.progress {
            Progress::Passed | Progress::Refused => self.samples[signal] += 1.0,
            Progress::Completed => self.completions += 1.0,
            Progress::Replied => {}
        }
        let square = sample.weight * sample.weight;
        match sample.progress {
            Progress::Passed | Progress::Refused => {
                self.seen[signal] += sample.weight;
                self.seen_variance[signal] += square;
                if sample.progress == Progress::Passed {
                    self.passed[signal] += sample.weight;
                } else {
                    self.refused[signal] += sample.weight;
                }
            }
            Progress::Replied if sample.protocol != TCP => {
                self.replied += sample.weight;
                self.replied_variance += square;
            }
            Progress::Replied => {}
            Progress::Completed if sample.protocol == TCP => {
                self.completed += sample.weight;
                self.completed_variance += square;
            }
            Progress::Completed => {}
        }
    }

    fn fade(&mut self) {
        self.seen.iter_mut().for_each(|count| *count *= FADE);
        // What a step has stopped must not be seen in it a second later.
        self.passed = [0.0; SIGNALS];
        self.refused = [0.0; SIGNALS];
        self.samples.iter_mut().for_each(|count| *count *= FADE);
        self.completions *= FADE;
        self.completed *= FADE;
        self.replied *= FADE;
        for variance in &mut self.seen_variance {
            *variance *= FADE * FADE;
        }
        self.completed_variance *= FADE * FADE;
        self.replied_variance *= FADE * FADE;
    }

    /// Whether a rate rests on enough samples to be believed: with sixteen the standard error is a quarter.
    pub(crate) fn is_sure_of(&self, signal: Signal) -> bool {
        self.samples[signal as usize] >= SAMPLES_MIN
    }

    pub(crate) fn is_sure_of_handshakes(&self) -> bool {
        self.completions >= SAMPLES_MIN
    }

    /// Of a single source, where it is known of all together that they are many.
    pub(crate) fn has_handshakes(&self) -> bool {
        self.completions >= HANDSHAKES_OF_ONE_MIN
    }

    /// Packets a second.
    pub(crate) fn seen(&self, signal: Signal) -> f64 {
        rate(self.seen[signal as usize])
    }

    /// Of the second that ends.
    pub(crate) const fn passed(&self, signal: Signal) -> f64 {
        self.passed[signal as usize]
    }

    /// As [`Self::passed`].
    pub(crate) const fn refused(&self, signal: Signal) -> f64 {
        self.refused[signal as usize]
    }

    /// Packets a second that nothing answers.
    pub(crate) fn unanswered(&self, signal: Signal) -> f64 {
        let (answered, _) = self.answered(signal);
        (self.seen(signal) - TRIES * rate(answered)).max(0.0)
    }

    /// Whether there are packets that nothing answers, and it is not chance.
    pub(crate) fn is_unanswered(&self, signal: Signal) -> bool {
        let (_, variance) = self.answered(signal);
        let variance = self.seen_variance[signal as usize] + TRIES * TRIES * variance;
        self.unanswered(signal) > DEVIATIONS * rate(variance.sqrt())
    }

    /// Whether most of what was let through was answered.
    pub(crate) fn is_answered(&self, signal: Signal) -> bool {
        let (answered, _) = self.answered(signal);
        let is_asked = matches!(signal, Signal::Udp | Signal::Icmp);
        is_asked && rate(answered) > self.passed(signal) / 2.0
    }

    /// What answered flows count for, and the variance of that.
    const fn answered(&self, signal: Signal) -> (f64, f64) {
        match signal {
            Signal::Syn => (self.completed, self.completed_variance),
            Signal::Udp | Signal::Icmp | Signal::Other | Signal::Reflected => {
                (self.replied, self.replied_variance)
            }
            _ => (0.0, 0.0),
        }
    }
}

/// Packets a second that a count stands for.
pub(crate) fn rate(count: f64) -> f64 {
    count * (1.0 - FADE)
}

/// The form of packets.
#[derive(Clone, Debug, Default)]
pub(crate) struct Form {
    pub(crate) source_port: Modes,
    pub(crate) destination_port: Modes,
    pub(crate) length: Modes,
    pub(crate) protocol: Modes,
    pub(crate) hop_limit: Modes,
}

impl Form {
    fn add(&mut self, sample: &Sample) {
        let weight = sample.weight;
        self.source_port.add(u32::from(sample.source_port), weight);
        let port = u32::from(sample.destination_port);
        self.destination_port.add(port, weight);
        self.length.add(sample.length, weight);
        self.protocol.add(u32::from(sample.protocol), weight);
        self.hop_limit.add(u32::from(sample.hop_limit), weight);
    }

    pub(crate) fn fade(&mut self, factor: f64) {
        self.source_port.fade(factor);
        self.destination_port.fade(factor);
        self.length.fade(factor);
        self.protocol.fade(factor);
        self.hop_limit.fade(factor);
    }

    /// Takes in another's commonest values.
    pub(crate) fn learn(&mut self, other: &Self) {
        let pairs = [
            (&mut self.source_port, &other.source_port),
            (&mut self.destination_port, &other.destination_port),
            (&mut self.length, &other.length),
            (&mut self.protocol, &other.protocol),
            (&mut self.hop_limit, &other.hop_limit),
        ];
        for (modes, other) in pairs {
            modes.merge(other);
        }
    }
}

#[derive(Clone, Debug, Default)]
pub(crate) struct Target {
    pub(crate) counts: Counts,
    /// Of packets without answers, by signal.
    pub(crate) forms: [Form; SIGNALS],
    pub(crate) sources: Distinct,
    pub(crate) destinations: Distinct,
}

impl Target {
    fn add(&mut self, sample: &Sample) {
        self.counts.add(sample);
        if matches!(sample.progress, Progress::Passed | Progress::Refused) {
            self.forms[sample.signal as usize].add(sample);
            self.sources.add(sample.source);
            self.destinations.add(sample.destination);
        }
    }

    fn fade(&mut self) {
        self.counts.fade();
        self.forms.iter_mut().for_each(|form| form.fade(FADE));
        self.sources.turn();
        self.destinations.turn();
    }
}

#[derive(Clone, Debug, Default)]
pub(crate) struct Sender {
    pub(crate) counts: Counts,
    /// Ports of destinations that did not answer, and how many packets one of them was last sampled for.
    pub(crate) ports: Distinct,
    pub(crate) weight: f64,
}

/// Connections that were found held open at the last survey.
#[derive(Clone, Debug)]
pub(crate) struct Survey {
    pub(crate) all: f64,
    /// What each connection that was found stands for.
    pub(crate) weight: f64,
    pub(crate) targets: SpaceSaving<IpAddr, ()>,
    /// By address (IPv6: /64), and by /24 (IPv6: /48).
    pub(crate) sources: [SpaceSaving<Network, ()>; 2],
    /// Connections whose clients have sent nothing since the handshake, by destination, as far as handshakes were sampled; and
    /// on how many samples that rests.
    pub(crate) silent: SpaceSaving<IpAddr, u32>,
}

impl Survey {
    fn new() -> Self {
        Self {
            all: 0.0,
            weight: 1.0,
            targets: SpaceSaving::new(DESTINATIONS[0]),
            sources: [(); 2].map(|()| SpaceSaving::new(SOURCES)),
            silent: SpaceSaving::new(DESTINATIONS[0]),
        }
    }
}

/// Seconds after which ports are counted anew.
const PORT_SECONDS: u64 = 10;

/// Handshakes that are remembered, to see whether something follows; what comes beyond is not.
const HANDSHAKES: usize = 8192;
/// For how long, in seconds; and how long a connection must have been there without a byte from its client.
const HANDSHAKE_SECONDS: u64 = 40;
const SILENT_SECONDS: u64 = 5;

/// What a connection is known by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Ends {
    source: IpAddr,
    destination: IpAddr,
    ports: [u16; 2],
}

impl Ends {
    const fn of(sample: &Sample) -> Self {
        Self {
            source: sample.source,
            destination: sample.destination,
            ports: [sample.source_port, sample.destination_port],
        }
    }

    const fn of_held(held: &Held) -> Self {
        Self {
            source: held.source,
            destination: held.destination,
            ports: [held.source_port, held.destination_port],
        }
    }
}

/// The end of a handshake that was sampled.
#[derive(Clone, Copy, Debug)]
struct Handshake {
    /// Of what the client sends next.
    sequence: u32,
    weight: f64,
    second: u64,
}

#[derive(Clone, Debug)]
pub(crate) struct View {
    pub(crate) all: Target,
    /// By the place of their length, the longest first.
    pub(crate) targets: [SpaceSaving<Network, Target>; 3],
    /// By the place of their length among the family's.
    pub(crate) v4: [SpaceSaving<Network, Sender>; 2],
    pub(crate) v6: [SpaceSaving<Network, Sender>; 3],
    pub(crate) held: Survey,
    pub(crate) streams: Streams,
    handshakes: HashMap<Ends, Handshake>,
    /// Since when: who has completed a handshake (or has gone on after an answer), and who was answered without one.
    clients: SpaceSaving<Network, Option<u64>>,
    /// Since when, both ends, and of TCP alone.
    shaken: SpaceSaving<Network, Option<u64>>,
    askers: SpaceSaving<Network, Option<u64>>,
    seconds: u64,
}

impl View {
    pub(crate) fn new(now: u64) -> Self {
        Self {
            all: Target::default(),
            targets: DESTINATIONS.map(SpaceSaving::new),
            v4: LENGTHS_V4.map(|_| SpaceSaving::new(SOURCES)),
            v6: LENGTHS_V6.map(|_| SpaceSaving::new(SOURCES)),
            held: Survey::new(),
            streams: Streams::default(),
            handshakes: HashMap::new(),
            clients: SpaceSaving::new(CLIENTS),
            shaken: SpaceSaving::new(CLIENTS),
            askers: SpaceSaving::new(CLIENTS),
            seconds: now,
        }
    }

    pub(crate) fn add(&mut self, sample: &Sample) {
        self.all.add(sample);
        let lengths = match sample.destination.is_ipv4() {
            true => DESTINATION_LENGTHS_V4,
            false => DESTINATION_LENGTHS_V6,
        };
        for (length, targets) in lengths.into_iter().zip(&mut self.targets) {
            let network = Network::of(sample.destination, length);
            targets.add(network, sample.weight).add(sample);
        }
        let port = (sample.destination, sample.destination_port);
        let is_unanswered = matches!(sample.progress, Progress::Passed | Progress::Refused);
        for (network, sketch) in self.levels(sample.source) {
            let sender = sketch.add(network, sample.weight);
            sender.counts.add(sample);
            if is_unanswered && matches!(sample.signal, Signal::Syn | Signal::Udp) {
                sender.ports.add(port);
                sender.weight = sample.weight;
            }
        }
        if sample.progress == Progress::Replied && sample.protocol != TCP {
            let since = self.askers.add(client(sample.source), sample.weight);
            since.get_or_insert(self.seconds);
        }
        if sample.progress == Progress::Completed {
            let seconds = self.seconds;
            let since = self.clients.add(client(sample.source), sample.weight);
            since.get_or_insert(seconds);
            if sample.protocol == TCP {
                for end in [sample.source, sample.destination] {
                    let since = self.shaken.add(client(end), sample.weight);
                    since.get_or_insert(seconds);
                }
            }
            if sample.protocol == TCP && self.handshakes.len() < HANDSHAKES {
                let handshake = Handshake {
                    sequence: sample.sequence,
                    weight: sample.weight,
                    second: seconds,
                };
                self.handshakes.insert(Ends::of(sample), handshake);
            }
        }
    }

    /// What goes to a destination, if it is counted apart; all, without one.
    pub(crate) fn target(&self, destination: Option<Network>) -> Option<&Target> {
        let Some(destination) = destination else {
            return Some(&self.all);
        };
        let mut levels = self.targets.iter();
        let counted = levels.find_map(|targets| targets.get(&destination));
        counted.map(|counted| &counted.value)
    }

    /// Handshakes to a destination that are remembered and older than a connection must be to count as held open.
    pub(crate) fn handshakes(&self, destination: Option<IpAddr>) -> f64 {
        let is_old = |it: &Handshake| it.second + SILENT_SECONDS <= self.seconds;
        let own = self.handshakes.iter().filter(|(ends, handshake)| {
            destination.is_none_or(|own| own == ends.destination) && is_old(handshake)
        });
        own.map(|(_, handshake)| handshake.weight).sum()
    }

    fn levels(
        &mut self,
        source: IpAddr,
    ) -> impl Iterator<Item = (Network, &mut SpaceSaving<Network, Sender>)> {
        let (lengths, sketches): (&[u8], &mut [_]) = if source.is_ipv4() {
            (&LENGTHS_V4, &mut self.v4)
        } else {
            (&LENGTHS_V6, &mut self.v6)
        };
        let networks = lengths
            .iter()
            .map(move |length| Network::of(source, *length));
        networks.zip(sketches)
    }

    /// A connection that is held open without having been used for some time.
    pub(crate) fn hold(&mut self, held: &Held, weight: f64) {
        let Held {
            source,
            destination,
            end,
            ..
        } = *held;
        if let Some(handshake) = self.handshakes.get(&Ends::of_held(held))
            && handshake.sequence == end
            && handshake.second + SILENT_SECONDS <= self.seconds
        {
            *self.held.silent.add(destination, handshake.weight) += 1;
        }
        self.held.all += weight;
        self.held.weight = weight;
        self.held.targets.add(destination, weight);
        let lengths = if source.is_ipv4() { [32, 24] } else { [64, 48] };
        for (length, sketch) in lengths.into_iter().zip(&mut self.held.sources) {
            sketch.add(Network::of(source, length), weight);
        }
    }

    /// Before a survey.
    pub(crate) fn let_go(&mut self) {
        self.held = Survey::new();
        let now = self.seconds;
        let is_late = |it: &Handshake| it.second + HANDSHAKE_SECONDS < now;
        self.handshakes.retain(|_, handshake| !is_late(handshake));
    }

    /// Whether somebody in a network has completed a connection, or was answered, before some second.
    pub(crate) fn is_known(&self, network: &Network, before: u64) -> bool {
        has_one(&self.clients, network, before) || has_one(&self.askers, network, before)
    }

    /// Whether somebody in a network has completed a handshake of TCP before some second.
    pub(crate) fn has_shaken_hands(&self, network: &Network, before: u64) -> bool {
        has_one(&self.shaken, network, before)
    }

    /// Ends a second.
    pub(crate) fn fade(&mut self, now: u64) {
        let turns = now / PORT_SECONDS != self.seconds / PORT_SECONDS;
        self.seconds = now;
        self.all.fade();
        for targets in &mut self.targets {
            targets.fade(FADE, Target::fade);
        }
        for sketch in self.v4.iter_mut().chain(&mut self.v6) {
            sketch.fade(FADE, |sender| {
                sender.counts.fade();
                if turns {
                    sender.ports.turn();
                }
            });
        }
        self.clients.fade(CLIENT_FADE, |_| {});
        self.shaken.fade(CLIENT_FADE, |_| {});
        self.askers.fade(CLIENT_FADE, |_| {});
    }
}

fn has_one(clients: &SpaceSaving<Network, Option<u64>>, network: &Network, before: u64) -> bool {
    let is_in = |client: &Network| network.contains(client.address()) || client.overlaps(network);
    clients.iter().any(|client| {
        let since = client.value.is_some_and(|since| since < before);
        since && client.certain() > 0.0 && is_in(&client.key)
    })
}

/// What a client is known by.
fn client(source: IpAddr) -> Network {
    Network::of(source, if source.is_ipv4() { 32 } else { 64 })
}
