//! The steps that are taken against an attack, from the mildest on.

use serde::{Deserialize, Serialize};

use crate::answered;
use crate::attack::{Attack, AttackKind, HeavySource};
use crate::defence::Gauges;
use crate::detect::Learned;
use crate::exempt::Exemptions;
use crate::limit;
use crate::network::Network;
use crate::refusal::{Form as Refused, Limit};
use crate::rule::Rule;
use crate::sample::{Signal, TCP};
use crate::sketch::Modes;
use crate::view::{Form, View};
use crate::within::{self, Within};

/// A measure.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "action", rename_all = "snake_case")]
pub enum Action {
    /// New flows of each network of this length are dropped beyond a rate (connections held beyond a number).
    Limit {
        per_source: u32,
        prefix_length: u8,
        /// Without any, every source is limited.
        networks: Vec<Network>,
    },
    /// SYNs are answered with cookies.
    Cookies,
    /// New flows of one form are dropped.
    Form,
    /// Nothing is taken from these networks, and their flows are ended.
    Ban { networks: Vec<Network> },
    /// Unanswered flows are kept for less time: knobs and their seconds.
    Timeouts { seconds: Vec<(String, u32)> },
}

impl Action {
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Limit { .. } => "limit sources",
            Self::Cookies => "SYN cookies",
            Self::Form => "drop by form",
            Self::Ban { .. } => "ban",
            Self::Timeouts { .. } => "shorten timeouts",
        }
    }
}

impl Action {
    /// Those that it is aimed at, by name.
    pub fn networks(&self) -> &[Network] {
        match self {
            Self::Limit { networks, .. } | Self::Ban { networks } => networks,
            Self::Cookies | Self::Form | Self::Timeouts { .. } => &[],
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum StepState {
    /// Not carried out: it is what would be done.
    Proposed,
    Active,
    /// Its time was up.
    Over,
    /// By an operator.
    Undone,
    /// It could not be carried out; the note says why.
    Failed,
}

/// A measure that was taken, or would be.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Step {
    pub number: u32,
    /// Number of the attack.
    pub attack: u32,
    #[serde(flatten)]
    pub action: Action,
    pub state: StepState,
    /// Seconds of the defence's time.
    pub began: u64,
    /// When it ends unless the attack goes on; a ban ends then whatever happens.
    pub until: u64,
    /// Why this step and not another.
    pub cause: String,
    /// What the attack was known by at that moment.
    pub evidence: String,
    /// Who was left alone, or why it failed.
    pub note: Option<String>,
    /// What it has refused, as rules of iptables; where it counts connections that are there, the rules that it made.
    pub commands: Vec<String>,
    #[serde(skip)]
    pub(crate) rules: Vec<Rule>,
    #[serde(skip)]
    pub(crate) limits: Vec<Limit>,
    #[serde(skip)]
    pub(crate) forms: Vec<Refused>,
}

impl Step {
    /// Whether rules are put among the others for it.
    pub const fn makes_rules(&self) -> bool {
        !self.rules.is_empty()
    }
}

/// What whoever carries steps out has to do.
#[derive(Clone, Debug, PartialEq)]
pub enum Order {
    /// An attack has begun, or is over.
    Tell(Box<Attack>),
    /// Carry out; for rules, limits and forms this is done with [`crate::Defence::rules`] and
    /// [`crate::Defence::refusals`] alone.
    Begin(Step),
    /// Carry out beside what was done of the step: it names other networks.
    Extend(Step),
    /// Undo.
    End(Step),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Rung {
    Limit,
    /// Packets within flows are counted too.
    Police,
    Cookies,
    Form,
    Ban,
    Timeouts,
}

impl Rung {
    /// The rungs of a kind of attack, the mildest first.
    const fn of(kind: AttackKind) -> &'static [Self] {
        use Rung::{Ban, Cookies, Form, Limit, Police, Timeouts};
        match kind {
            AttackKind::SynFlood => &[Limit, Cookies, Form, Ban, Timeouts],
            AttackKind::UdpFlood | AttackKind::IcmpFlood => &[Limit, Form, Police, Ban, Timeouts],
            AttackKind::Reflection
            | AttackKind::SynAckFlood
            | AttackKind::AckFlood
            | AttackKind::RstFlood
            | AttackKind::OtherFlood => &[Limit, Form, Ban, Timeouts],
            AttackKind::FragmentFlood => &[Limit, Form, Ban],
            AttackKind::ConnectionFlood | AttackKind::SlowConnections | AttackKind::PortScan => {
                &[Limit, Ban]
            }
            AttackKind::FlowFlood => &[Police, Ban],
            AttackKind::TableExhaustion => &[Limit, Timeouts, Ban],
        }
    }

    pub(crate) fn of_step(step: &Step) -> Self {
        match &step.action {
            Action::Limit { .. } if step.rules.iter().any(|it| it.is_of_flows) => Self::Police,
            Action::Limit { .. } => Self::Limit,
            Action::Cookies => Self::Cookies,
            Action::Form => Self::Form,
            Action::Ban { .. } => Self::Ban,
            Action::Timeouts { .. } => Self::Timeouts,
        }
    }
}

/// What a step is chosen by.
pub(crate) struct Situation<'a> {
    pub(crate) attack: &'a Attack,
    pub(crate) view: &'a View,
    pub(crate) within: &'a Within,
    pub(crate) learned: Option<&'a Learned>,
    pub(crate) gauges: &'a Gauges,
    pub(crate) exempt: &'a Exemptions,
    /// Number of the step.
    pub(crate) number: u32,
    /// What steps against the attack refuse already.
    pub(crate) forms: &'a [Refused],
}

/// A step as it is chosen.
pub(crate) struct Choice {
    pub(crate) action: Action,
    pub(crate) rules: Vec<Rule>,
    pub(crate) limits: Vec<Limit>,
    pub(crate) forms: Vec<Refused>,
    pub(crate) cause: String,
    pub(crate) note: Option<String>,
}

/// Steps by form against one attack: it may change its form, and there is room for eight.
pub(crate) const FORM_STEPS_MAX: usize = 3;

/// Networks that one step bans.
const BANNED_MAX: usize = 64;
/// A client that completed connections so long before an attack is no part of it.
pub(crate) const KNOWN_SECONDS: u64 = 10;
/// What share of an attack has a feature for it to be one of its form; and of calm traffic, for the form to
/// tell the two apart.
const SHARE_OF_ATTACK: f64 = 0.8;
const SHARE_OF_CALM: f64 = 0.1;
/// From which share of a reflection on a service is one of its own; so there are at most five.
pub(crate) const SHARE_OF_SERVICE: f64 = 0.2;
/// Calm packets that must have been seen before a form of SYNs is believed.
const CALM_MIN: f64 = 20.0;
/// Percent of the table, or of what may be half-open, from which on timeouts are shortened.
const CROWDED_PERCENT: u64 = 25;

/// The next rung that applies and was not tried.
pub(crate) fn next(situation: &Situation<'_>, tried: &[Rung]) -> Option<Choice> {
    let rungs = Rung::of(situation.attack.kind).iter();
    let mut untried = rungs.filter(|rung| !tried.contains(rung));
    untried.find_map(|rung| match rung {
        Rung::Limit => limit::limit(situation),
        Rung::Police => within::police(situation),
        Rung::Cookies => Some(Choice {
            action: Action::Cookies,
            rules: Vec::new(),
            limits: Vec::new(),
            forms: Vec::new(),
            cause: "a SYN that is answered with a cookie makes no flow, and forged senders do not come back"
                .to_owned(),
            note: None,
        }),
        // An attack that goes on in another form is met by another.
        Rung::Form => by_form(situation).filter(|choice| {
            let own = |form: &Refused| situation.forms.iter().any(|it| it.is_same_as(form));
            !choice.forms.iter().all(own)
        }),
        Rung::Ban => ban(situation),
        Rung::Timeouts => timeouts(situation),
    })
}

/// Whether nearly all of an attack has a feature in common that hardly anything usual has.
pub(crate) fn is_telling(attack: &Modes, usual: &Modes) -> bool {
    let common = attack.top().filter(|(_, share)| *share >= SHARE_OF_ATTACK);
    common.is_some_and(|(value, _)| usual.share(value) <= SHARE_OF_CALM)
}

fn by_form(situation: &Situation<'_>) -> Option<Choice> {
    let Situation {
        attack,
        view,
        learned,
        ..
    } = situation;
    let signal = attack.kind.signal()?;
    let target = view.target(attack.destination)?;
    let form = &target.forms[signal as usize];
    let nothing = Form::default();
    let calm = learned.map_or(&nothing, |learned| &learned.calm[signal as usize]);
    // Such packets, of no flow, are no client's.
    let is_foreign = matches!(
        signal,
        Signal::SynAck | Signal::Ack | Signal::Rst | Signal::Reflected
    );
    let has_ports = !matches!(signal, Signal::Icmp | Signal::Other | Signal::Fragment);
    // Of all others it is known.
    let has_protocol = matches!(signal, Signal::Other | Signal::Fragment);
    let features = [
        ("sport", form.source_port, calm.source_port, has_ports),
        (
            "dport",
            form.destination_port,
            calm.destination_port,
            has_ports,
        ),
        ("protocol", form.protocol, calm.protocol, has_protocol),
        ("length", form.length, calm.length, true),
        ("TTL", form.hop_limit, calm.hop_limit, true),
    ];
    let mut is_telling = is_foreign;
    let (mut refused, mut named) = (form_of(situation), Vec::new());
    let mut is_of_kind_alone = true;
    for (feature, modes, usual, applies) in features {
        let Some((value, share)) = modes.top() else {
            continue;
        };
        if !applies || share < SHARE_OF_ATTACK {
            continue;
        }
        let of_calm = usual.share(value);
        is_telling |= of_calm <= SHARE_OF_CALM;
        is_of_kind_alone = false;
        match feature {
            "sport" => refused.source_port = u16::try_from(value).ok(),
            "dport" => refused.destination_port = u16::try_from(value).ok(),
            "protocol" => refused.protocol = u8::try_from(value).ok(),
            "length" => refused.length = u16::try_from(value).ok(),
            _ => refused.hop_limit = u8::try_from(value).ok(),
        }
        named.push(format!(
            "{feature} {value}: {:.0} % of it, {:.0} % of what is usual",
            100.0 * share,
            100.0 * of_calm
        ));
    }
    let is_unknown = signal == Signal::Syn && calm.length.total() < CALM_MIN;
    // Of what is answered, a crowd may ask the same.
    let is_answered = target.counts.is_answered(signal);
    is_telling &= !is_answered || answered::single_sender(form, calm).is_some();
    if !is_telling || is_unknown || is_of_kind_alone && !is_foreign {
        return None;
    }
    let mut forms = vec![refused];
    if signal == Signal::Reflected && forms[0].source_port.is_none() {
        // From several services: all of UDP would be too much.
        let ports = form
            .source_port
            .shares()
            .filter(|(_, share)| *share >= SHARE_OF_SERVICE);
        let ports = ports.filter_map(|(port, _)| u16::try_from(port).ok());
        let of_port = |port| Refused {
            source_port: Some(port),
            ..forms[0].clone()
        };
        forms = ports.map(of_port).collect();
        if forms.is_empty() {
            return None;
        }
    }
    if signal == Signal::Icmp && attack.destination.is_none() {
        // Its number is another for each family.
        forms = [(true, 1), (false, 58)]
            .map(|(is_v4, protocol)| Refused {
                is_v4: Some(is_v4),
                protocol: Some(protocol),
                ..forms[0].clone()
            })
            .to_vec();
    }
    Some(Choice {
        action: Action::Form,
        rules: Vec::new(),
        limits: Vec::new(),
        forms,
        cause: if named.is_empty() {
            "packets of this kind that no flow knows are no client's".to_owned()
        } else {
            named.join("; ")
        },
        note: None,
    })
}

/// All packets of an attack's signal to its destination.
fn form_of(situation: &Situation<'_>) -> Refused {
    let attack = situation.attack;
    let (protocol, flags) = match attack.kind.signal() {
        Some(Signal::Syn) => (Some(TCP), Some((FIN | SYN | RST | ACK, SYN))),
        Some(Signal::SynAck) => (Some(TCP), Some((FIN | SYN | RST | ACK, SYN | ACK))),
        Some(Signal::Ack) => (Some(TCP), Some((SYN | RST, 0))),
        Some(Signal::Rst) => (Some(TCP), Some((RST, RST))),
        Some(Signal::Udp | Signal::Reflected) => (Some(UDP), None),
        Some(Signal::Icmp) => {
            let is_v6 = attack.destination.is_some_and(|it| !it.is_v4());
            (Some(if is_v6 { 58 } else { 1 }), None)
        }
        Some(Signal::Fragment | Signal::Other) | None => (None, None),
    };
    Refused {
        is_v4: attack.destination.map(|destination| destination.is_v4()),
        destination: attack.destination,
        protocol,
        flags,
        is_fragment: attack.kind == AttackKind::FragmentFlood,
        step: situation.number,
        ..Refused::default()
    }
}

const FIN: u8 = 1;
const SYN: u8 = 2;
const RST: u8 = 4;
const ACK: u8 = 16;
const UDP: u8 = 17;

/// The sources that may be banned, and who is spared, and why.
pub(crate) fn bannable(situation: &Situation<'_>) -> (Vec<Network>, Vec<String>) {
    let Situation {
        attack,
        view,
        exempt,
        ..
    } = situation;
    let (mut networks, mut spared) = (Vec::new(), Vec::new());
    for HeavySource { network, .. } in &attack.heavy {
        let before = attack.began.saturating_sub(KNOWN_SECONDS);
        if let Some(why) = exempt.of(network) {
            spared.push(format!("{network} {}", why.words()));
        } else if view.is_known(network, before) {
            spared.push(format!("{network} has clients from before the attack"));
        } else if !attack.kind.has_real_sources() && view.is_known(network, attack.last_seen) {
            spared.push(format!("{network} has clients"));
        } else if networks.len() < BANNED_MAX {
            networks.push(*network);
        }
    }
    (networks, spared)
}

fn ban(situation: &Situation<'_>) -> Option<Choice> {
    let (networks, mut spared) = bannable(situation);
    if networks.is_empty() {
        return None;
    }
    spared.truncate(8);
    Some(Choice {
        cause: match networks.len() {
            1 => "one source sends it on in spite of milder steps".to_owned(),
            count => format!("{count} sources send it on in spite of milder steps"),
        },
        action: Action::Ban { networks },
        rules: Vec::new(),
        limits: Vec::new(),
        forms: Vec::new(),
        note: (!spared.is_empty()).then(|| format!("left alone: {}", spared.join("; "))),
    })
}

fn timeouts(situation: &Situation<'_>) -> Option<Choice> {
    let Gauges {
        flows,
        flows_max,
        half_open,
        half_open_max,
        ..
    } = *situation.gauges;
    let is_crowded = |used: u64, most: u64| used * 100 > most * CROWDED_PERCENT;
    if !is_crowded(flows, flows_max) && !is_crowded(half_open, half_open_max) {
        return None;
    }
    let knobs: &[(&str, u32)] = match situation.attack.kind {
        AttackKind::SynFlood | AttackKind::AckFlood => &[
            ("nf_conntrack_tcp_timeout_syn_recv", 10),
            ("nf_conntrack_tcp_timeout_syn_sent", 20),
        ],
        AttackKind::UdpFlood | AttackKind::Reflection => &[("nf_conntrack_udp_timeout", 10)],
        AttackKind::IcmpFlood => &[("nf_conntrack_icmp_timeout", 5)],
        AttackKind::TableExhaustion => &[
            ("nf_conntrack_tcp_timeout_syn_recv", 10),
            ("nf_conntrack_tcp_timeout_syn_sent", 20),
            ("nf_conntrack_udp_timeout", 10),
            ("nf_conntrack_icmp_timeout", 5),
        ],
        _ => return None,
    };
    Some(Choice {
        action: Action::Timeouts {
            seconds: knobs
                .iter()
                .map(|(name, value)| ((*name).to_owned(), *value))
                .collect(),
        },
        rules: Vec::new(),
        limits: Vec::new(),
        forms: Vec::new(),
        cause: format!(
            "{flows} of {flows_max} flows are taken, {half_open} half-open: those that nobody answers go sooner"
        ),
        note: None,
    })
}

/// Connections to an attack's destination.
pub(crate) fn matches_of(attack: &Attack, is_v4: bool) -> Option<Vec<String>> {
    let mut matches = words("-p tcp --syn");
    if let Some(destination) = attack.destination {
        if destination.is_v4() != is_v4 {
            return None;
        }
        matches.extend([String::from("-d"), destination.to_string()]);
    }
    Some(matches)
}

pub(crate) fn words(text: &str) -> Vec<String> {
    text.split_whitespace().map(str::to_owned).collect()
}
