//! The steps that are taken against an attack, from the mildest on.

use serde::{Deserialize, Serialize};

use crate::attack::{Attack, AttackKind, HeavySource};
use crate::defence::Gauges;
use crate::detect::Learned;
use crate::exempt::Exemptions;
use crate::network::Network;
use crate::rule::{By, EXEMPT_RULES_MAX, Rule, TableName};
use crate::sample::Signal;
use crate::view::{Form, View};

/// A measure.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "action", rename_all = "snake_case")]
pub enum Action {
    /// New flows of each network of this length are dropped beyond a rate (connections held beyond a number).
    Limit { per_source: u32, prefix_length: u8 },
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
    /// The rules that it made.
    pub commands: Vec<String>,
    #[serde(skip)]
    pub(crate) rules: Vec<Rule>,
}

/// What whoever carries steps out has to do.
#[derive(Clone, Debug, PartialEq)]
pub enum Order {
    /// An attack has begun, or is over.
    Tell(Box<Attack>),
    /// Carry out; for steps that make rules this is done with [`crate::Defence::rules`] alone.
    Begin(Step),
    /// Undo.
    End(Step),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Rung {
    Limit,
    Cookies,
    Form,
    Ban,
    Timeouts,
}

impl Rung {
    /// The rungs of a kind of attack, the mildest first.
    const fn of(kind: AttackKind) -> &'static [Self] {
        use Rung::{Ban, Cookies, Form, Limit, Timeouts};
        match kind {
            AttackKind::SynFlood => &[Limit, Cookies, Form, Ban, Timeouts],
            AttackKind::UdpFlood
            | AttackKind::Reflection
            | AttackKind::IcmpFlood
            | AttackKind::SynAckFlood
            | AttackKind::AckFlood
            | AttackKind::RstFlood
            | AttackKind::OtherFlood => &[Limit, Form, Ban, Timeouts],
            AttackKind::FragmentFlood => &[Ban],
            AttackKind::ConnectionFlood | AttackKind::SlowConnections | AttackKind::PortScan => {
                &[Limit, Ban]
            }
            AttackKind::TableExhaustion => &[Limit, Timeouts, Ban],
        }
    }

    pub(crate) const fn of_action(action: &Action) -> Self {
        match action {
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
    pub(crate) learned: Option<&'a Learned>,
    pub(crate) gauges: &'a Gauges,
    pub(crate) exempt: &'a Exemptions,
    /// Number of the step.
    pub(crate) number: u32,
}

/// A step as it is chosen.
pub(crate) struct Choice {
    pub(crate) action: Action,
    pub(crate) rules: Vec<Rule>,
    pub(crate) cause: String,
    pub(crate) note: Option<String>,
}

/// Sources that one step limits, a rule each.
const LIMITED_MAX: usize = 32;
/// New flows a second that a source may always begin.
const LIMIT_MIN: u32 = 20;
/// Connections that a source may always hold.
const HELD_MIN: u32 = 20;
/// Networks that one step bans.
const BANNED_MAX: usize = 64;
/// A client that completed connections so long before an attack is no part of it.
const KNOWN_SECONDS: u64 = 10;
/// What share of an attack has a feature for it to be one of its form; and of calm traffic, for the form to
/// tell the two apart.
const SHARE_OF_ATTACK: f64 = 0.8;
const SHARE_OF_CALM: f64 = 0.1;
/// Calm packets that must have been seen before a form of SYNs is believed.
const CALM_MIN: f64 = 20.0;
/// Percent of the table, or of what may be half-open, from which on timeouts are shortened.
const CROWDED_PERCENT: u64 = 25;

/// The next rung that applies and was not tried.
pub(crate) fn next(situation: &Situation<'_>, tried: &[Rung]) -> Option<Choice> {
    let rungs = Rung::of(situation.attack.kind).iter();
    let mut untried = rungs.filter(|rung| !tried.contains(rung));
    untried.find_map(|rung| match rung {
        Rung::Limit => limit(situation),
        Rung::Cookies => Some(Choice {
            action: Action::Cookies,
            rules: Vec::new(),
            cause: "a SYN that is answered with a cookie makes no flow, and forged senders do not come back"
                .to_owned(),
            note: None,
        }),
        Rung::Form => by_form(situation),
        Rung::Ban => ban(situation),
        Rung::Timeouts => timeouts(situation),
    })
}

fn limit(situation: &Situation<'_>) -> Option<Choice> {
    let Situation {
        attack,
        view,
        exempt,
        ..
    } = situation;
    let before = attack.began.saturating_sub(KNOWN_SECONDS);
    // Where clients are too, a limit would be theirs as well.
    let may = |network: &Network| exempt.of(network).is_none() && !view.is_known(network, before);
    let named = attack.heavy.iter().map(|source| source.network);
    let named: Vec<Network> = named.filter(may).take(LIMITED_MAX).collect();
    let first = named.first()?;
    let (is_v4, length) = (first.is_v4(), first.length());
    if exempt.0.len() > EXEMPT_RULES_MAX {
        return None;
    }
    let is_held = attack.kind == AttackKind::SlowConnections;
    let share = (attack.threshold / 8.0) as u32;
    let per_source = share.max(if is_held { HELD_MIN } else { LIMIT_MIN });
    let signal = attack.kind.signal();
    let mut matches = matches_of(signal, attack, is_v4)?;
    if is_held {
        matches.extend(words("-m connlimit --connlimit-above"));
        matches.push(per_source.to_string());
        matches.extend(words("--connlimit-mask"));
        matches.push(length.to_string());
    } else {
        matches.extend(words("-m hashlimit --hashlimit-above"));
        matches.push(format!("{per_source}/sec"));
        matches.extend(words("--hashlimit-burst"));
        matches.push((2 * per_source).to_string());
        matches.extend(words("--hashlimit-mode srcip --hashlimit-srcmask"));
        matches.push(length.to_string());
        matches.push("--hashlimit-name".to_owned());
        matches.push(format!("ks-step{}", situation.number));
    }
    let table = if is_held {
        TableName::Filter
    } else {
        table_of(signal)
    };
    let rules = named.iter().map(|network| {
        let mut own = words("-s");
        own.push(network.to_string());
        own.extend(matches.iter().cloned());
        Rule {
            is_v4,
            table,
            by: By::Source,
            matches: own,
            step: situation.number,
        }
    });
    let what = if is_held {
        "connections held"
    } else {
        "new flows a second"
    };
    Some(Choice {
        action: Action::Limit {
            per_source,
            prefix_length: length,
        },
        rules: rules.collect(),
        cause: format!(
            "{} networks of /{length} send most of it: each may have {per_source} {what}",
            named.len()
        ),
        note: None,
    })
}

fn by_form(situation: &Situation<'_>) -> Option<Choice> {
    let Situation {
        attack,
        view,
        learned,
        ..
    } = situation;
    let signal = attack.kind.signal()?;
    let target = match attack.destination {
        None => &view.all,
        Some(destination) => &view.targets.get(&destination)?.value,
    };
    let form = &target.forms[signal as usize];
    let nothing = Form::default();
    let calm = learned.map_or(&nothing, |learned| &learned.calm[signal as usize]);
    // Such packets, of no flow, are no client's.
    let is_foreign = matches!(
        signal,
        Signal::SynAck | Signal::Ack | Signal::Rst | Signal::Reflected
    );
    let has_ports = !matches!(signal, Signal::Icmp | Signal::Other);
    let features = [
        ("--sport", form.source_port, calm.source_port, has_ports),
        (
            "--dport",
            form.destination_port,
            calm.destination_port,
            has_ports,
        ),
        ("-m length --length", form.length, calm.length, true),
    ];
    let mut is_telling = is_foreign;
    let (mut options, mut named) = (Vec::new(), Vec::new());
    for (option, modes, usual, applies) in features {
        let Some((value, share)) = modes.top() else {
            continue;
        };
        if !applies || share < SHARE_OF_ATTACK {
            continue;
        }
        let of_calm = usual.share(value);
        is_telling |= of_calm <= SHARE_OF_CALM;
        options.extend(words(option));
        options.push(value.to_string());
        let feature = option
            .trim_start_matches("-m length ")
            .trim_start_matches('-');
        named.push(format!(
            "{feature} {value}: {:.0} % of it, {:.0} % of what is usual",
            100.0 * share,
            100.0 * of_calm
        ));
    }
    let is_unknown = signal == Signal::Syn && calm.length.total() < CALM_MIN;
    if !is_telling || is_unknown || options.is_empty() && !is_foreign {
        return None;
    }
    let families: &[bool] = match attack.destination {
        Some(address) if address.is_ipv4() => &[true],
        Some(_) => &[false],
        None => &[true, false],
    };
    let rules = families.iter().filter_map(|is_v4| {
        let mut matches = matches_of(Some(signal), attack, *is_v4)?;
        matches.extend(options.iter().cloned());
        Some(Rule {
            is_v4: *is_v4,
            table: table_of(Some(signal)),
            by: By::Form,
            matches,
            step: situation.number,
        })
    });
    let rules: Vec<Rule> = rules.collect();
    (!rules.is_empty()).then(|| Choice {
        action: Action::Form,
        rules,
        cause: if named.is_empty() {
            "packets of this kind that no flow knows are no client's".to_owned()
        } else {
            named.join("; ")
        },
        note: None,
    })
}

fn ban(situation: &Situation<'_>) -> Option<Choice> {
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
    if networks.is_empty() {
        return None;
    }
    spared.truncate(8);
    Some(Choice {
        cause: format!(
            "{} sources send it on in spite of milder steps",
            networks.len()
        ),
        action: Action::Ban { networks },
        rules: Vec::new(),
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
        cause: format!(
            "{flows} of {flows_max} flows are taken, {half_open} half-open: those that nobody answers go sooner"
        ),
        note: None,
    })
}

/// SYNs need no lookup to be known.
const fn table_of(signal: Option<Signal>) -> TableName {
    match signal {
        Some(Signal::Syn) => TableName::Raw,
        _ => TableName::Filter,
    }
}

/// The protocol and flags of a signal, towards an attack's destination.
fn matches_of(signal: Option<Signal>, attack: &Attack, is_v4: bool) -> Option<Vec<String>> {
    let protocol = match signal {
        Some(Signal::Syn) => "-p tcp --syn",
        Some(Signal::SynAck) => "-p tcp --tcp-flags FIN,SYN,RST,ACK SYN,ACK",
        Some(Signal::Ack) => "-p tcp --tcp-flags SYN,RST NONE",
        Some(Signal::Rst) => "-p tcp --tcp-flags RST RST",
        Some(Signal::Udp | Signal::Reflected) => "-p udp",
        Some(Signal::Icmp) if is_v4 => "-p icmp",
        Some(Signal::Icmp) => "-p ipv6-icmp",
        Some(Signal::Fragment | Signal::Other) | None => "",
    };
    let mut matches = Vec::new();
    if let Some(destination) = attack.destination {
        if destination.is_ipv4() != is_v4 {
            return None;
        }
        matches.extend([String::from("-d"), destination.to_string()]);
    }
    matches.extend(words(protocol));
    Some(matches)
}

fn words(text: &str) -> Vec<String> {
    text.split_whitespace().map(str::to_owned).collect()
}
