//! The way of one packet, step by step, in words.

use std::fmt::Display;

use keepstate_engine::ban;
use keepstate_engine::conntrack::sctp::SctpState;
use keepstate_engine::helper;
use keepstate_engine::host::FlowMemory;
use keepstate_engine::process::{Arrival, Checksums, Outcome};
use keepstate_engine::record::{Record, Warm};
use keepstate_engine::settings::{BanSettings, SETTING_BANS, SETTING_FORMS, Settings};
use keepstate_engine::table::{Displaced, HalfOpen, Hash, NewFlow, Opening, insert};
use keepstate_engine::time::Tick;
use keepstate_engine::trace::{RuleTrial, Step, WindowCheck};
use keepstate_engine::tuple::{Direction, Family, FlowKey, Tuple};
use keepstate_engine::verdict::{Hook, Reason, State, Verdict};
use keepstate_engine::wire::transport::{SCTP, TCP};
use keepstate_engine::wire::{Fragment, Link, PacketInfo};
use keepstate_listing::{address, protocol_name};

use crate::capture::Frame;
use crate::clock::{Clock, Timing};
use crate::expression::{Expression, flag_names};
use crate::naming;
use crate::plane::{LoadedPolicy, Plane, Recorder};
use crate::replay::{Judged, Options, Replay};

/// What became of a packet, and why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Explanation {
    pub lines: Vec<Line>,
    pub outcome: Outcome,
}

/// One step of the way.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Line {
    pub topic: &'static str,
    pub text: String,
    pub tone: Tone,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tone {
    /// Something was found out.
    Plain,
    /// It is as it should be: a rule matched, a packet passes.
    Good,
    /// The packet is refused.
    Bad,
    /// Looked at and passed over.
    Faint,
}

/// What a packet meets.
#[derive(Clone, Debug)]
pub struct Circumstances {
    pub settings: Settings,
    pub now: Tick,
    /// Flows that are known already.
    pub flows: Vec<KnownFlow>,
    /// What is said of the packet's sender: bans, limits, and who is left alone.
    pub senders: Vec<ban::Entry>,
}

/// A flow of another plane's table.
#[derive(Clone, Copy, Debug)]
pub struct KnownFlow {
    pub key: FlowKey,
    pub record: Record,
    pub warm: Warm,
}

/// Explains a packet that an expression describes. What must have come before is played first,
/// without rules: the flow is there, whatever the rules would have said to its beginning.
pub fn explain_expression(expression: Expression, options: Options) -> Explanation {
    let circumstances = Circumstances {
        settings: options.settings(),
        now: Clock::new(Timing::Flat).now(),
        flows: Vec::new(),
        senders: Vec::new(),
    };
    explain_under(expression, options, &circumstances)
}

/// As [`explain_expression`], with flows that are known already.
pub fn explain_under(
    mut expression: Expression,
    options: Options,
    circumstances: &Circumstances,
) -> Explanation {
    let Circumstances {
        mut settings, now, ..
    } = *circumstances;
    settings.bans = BanSettings {
        buckets: SENDER_BUCKETS,
        ..settings.bans
    };
    let table = Options::table(&settings).with_bans(SENDER_BUCKETS);
    let flows = table.as_slices();
    let said = know_senders(&flows, &mut settings, &circumstances.senders);
    for known in &circumstances.flows {
        know(&flows, &settings, known, now);
        expression.fit_to(known);
    }
    let mut before = settings;
    before.flags &= !(SETTING_BANS | SETTING_FORMS);
    let past = Plane::new(flows, before, LoadedPolicy::NONE, ());
    let mut lines = Vec::new();
    for packet in expression.prelude() {
        let ip = packet.ip();
        past.judge(&ip, &arrival(&ip, &options), now);
        lines.push(line("before", words(&ip)));
    }
    let ip = expression.packet.ip();
    lines.push(line("packet", words(&ip)));
    lines.extend(said);
    let arrival = arrival(&ip, &options);
    let recorder = Recorder::default();
    let mut plane = Plane::new(flows, settings, options.policy, recorder);
    plane.locals = options.locals;
    plane.out_interfaces = options.out_interfaces;
    let outcome = plane.judge(&ip, &arrival, now);
    let steps = plane.observer.take();
    let narrator = Narrator {
        policy: plane.policy(),
        now,
    };
    lines.extend(narrator.lines(&steps, &outcome));
    Explanation { lines, outcome }
}

/// Room for what is said of one sender.
const SENDER_BUCKETS: u32 = 16;

/// Puts what is said of a sender into an empty table, and into words.
fn know_senders<M: FlowMemory>(
    flows: &M,
    settings: &mut Settings,
    senders: &[ban::Entry],
) -> Vec<Line> {
    let mut lines = Vec::new();
    for entry in senders {
        let ban::Network {
            family,
            address,
            length,
        } = entry.network;
        ban::put(flows, settings, entry);
        let list = &mut settings.bans.lengths[ban::list(entry.kind, family)];
        if let Some(to) = list.iter_mut().find(|to| **to == 0 || **to == length) {
            *to = length;
        }
        let network = format!("{}/{length}", keepstate_listing::address(family, &address));
        lines.push(match (entry.kind, entry.rate) {
            (ban::Kind::Ban, None) => bad("sender", format!("{network} is banned")),
            (ban::Kind::Ban, Some(rate)) => line(
                "sender",
                format!(
                    "{network} is limited to {} new flows a second; this may be the first",
                    rate.flows >> rate.period
                ),
            ),
            (ban::Kind::Exempt, _) => good("sender", format!("{network} is never banned")),
            (ban::Kind::Spared, _) => good("sender", format!("{network} is held against no form")),
        });
    }
    lines
}

/// Puts a flow into an empty table, where there is room for it.
fn know<M: FlowMemory>(flows: &M, settings: &Settings, known: &KnownFlow, now: Tick) {
    let mut displaced = Displaced::NOTHING;
    let flow = NewFlow {
        key: &known.key,
        hash: &Hash::of(&known.key, settings),
        record: &known.record,
        warm: &known.warm,
        half_open: HalfOpen::No,
        opening: Opening::NONE,
    };
    insert(flows, &flow, settings, now, &mut displaced);
}

/// Explains the next frame of a replay.
pub fn explain_frame(replay: &mut Replay<'_, Recorder>, frame: &Frame<'_>) -> Explanation {
    replay.plane().observer.take();
    let Judged { outcome, .. } = replay.judge(frame);
    let steps = replay.plane().observer.take();
    let mut lines = vec![line("packet", crate::expression::describe(frame))];
    let narrator = Narrator {
        policy: replay.plane().policy(),
        now: replay.now(),
    };
    lines.extend(narrator.lines(&steps, &outcome));
    Explanation { lines, outcome }
}

fn arrival(ip: &[u8], options: &Options) -> Arrival {
    Arrival {
        link: if ip.first().is_some_and(|byte| byte >> 4 == 6) {
            Link::Ipv6
        } else {
            Link::Ipv4
        },
        path: options.locals.path_of(naming::endpoints(ip)),
        checksums: Checksums::Unverified,
        zone: 0,
        interfaces: options.in_interfaces,
    }
}

fn words(ip: &[u8]) -> String {
    crate::expression::describe_ip(ip).unwrap_or_else(|| "not IP".to_owned())
}

fn line(topic: &'static str, text: impl Into<String>) -> Line {
    Line {
        topic,
        text: text.into(),
        tone: Tone::Plain,
    }
}

/// Columns that rules are padded to at most.
const TEXT_WIDTH_MAX: usize = 80;

struct Narrator<'a> {
    policy: &'a LoadedPolicy,
    now: Tick,
}

impl Narrator<'_> {
    fn lines(&self, steps: &[Step], outcome: &Outcome) -> Vec<Line> {
        let mut lines = Vec::new();
        let mut info = PacketInfo::EMPTY;
        let mut state = State::None;
        for step in steps {
            match step {
                Step::Parsed(parsed) => info = *parsed,
                Step::State(decided, _) => state = *decided,
                _ => {}
            }
            lines.extend(self.of_step(step, &info, state, outcome));
        }
        lines
    }

    fn of_step(
        &self,
        step: &Step,
        info: &PacketInfo,
        state: State,
        outcome: &Outcome,
    ) -> Option<Line> {
        Some(match step {
            Step::Parsed(info) => parsed(info),
            Step::NotParsed(None) => line("parse", "not IP: passes unjudged"),
            Step::NotParsed(Some(reason)) => bad("parse", reason.sentence()),
            Step::Banned => bad("ban", Reason::Banned.sentence()),
            Step::Refused(reason) => bad("refuse", reason.sentence()),
            Step::Named(tuple, _) => line("tuple", tuple_words(tuple)),
            Step::Found(record, direction) => {
                let mut text = format!("found, {} direction", direction_name(*direction));
                match info.protocol {
                    TCP => text.push_str(&format!(", {}", record.tcp_state.name())),
                    SCTP => text.push_str(&format!(", {}", SctpState::of(record).name())),
                    _ => {}
                }
                let seconds = record.deadline.seconds_left(self.now);
                text.push_str(&format!(", {seconds} s left"));
                line("lookup", text)
            }
            Step::NotFound => line("lookup", "no flow has this tuple"),
            Step::Foretold(number) => {
                let name = helper::numbered(*number).map_or("a helper", |helper| helper.name);
                line("expected", format!("{name} foretold this flow"))
            }
            Step::Zone(zone) => line("zone", format!("the rules say {zone}")),
            Step::Expects(port) => line("helper", format!("expects a flow to port {port}")),
            Step::Quoted(tuple) => line("quotes", tuple_words(tuple)),
            Step::TcpState(from, to) => line("tcp", format!("{} -> {}", from.name(), to.name())),
            Step::SctpState(from, to) => line("sctp", format!("{} -> {}", from.name(), to.name())),
            Step::Windowed(check) => windowed(check, outcome.state),
            Step::State(state, None) => line("state", state.name()),
            Step::State(state, Some(reason)) => bad(
                "state",
                format!(
                    "{}: {} ({})",
                    state.name(),
                    reason.sentence(),
                    reason.name()
                ),
            ),
            Step::Chain(hook) => line("chain", self.chain(*hook)),
            Step::Rule(index, trial) => self.rule(*index, *trial, info, state),
            Step::Cached(index) => line(
                "rule",
                format!("{} gave this flow's verdict before", self.name(*index)),
            ),
            Step::Inserted => line("flow", "recorded"),
            Step::Verdict(verdict) => self.verdict(*verdict, outcome),
        })
    }

    fn chain(&self, hook: Hook) -> String {
        let why = match hook {
            Hook::Input => "the destination is local",
            Hook::Forward => "neither end is local",
            Hook::Output => "the source is local",
            Hook::Prerouting => "before its flow is looked up",
            Hook::Postrouting => "on its way out",
        };
        format!("{}: {why}", hook.chain())
    }

    fn rule(&self, index: u32, trial: RuleTrial, info: &PacketInfo, state: State) -> Line {
        let text = self.numbered(index);
        let source = address(info.family, &info.source);
        let destination = address(info.family, &info.destination);
        let differs = |what: &str, value: &dyn Display| format!("{what} is {value}");
        let why = match trial {
            RuleTrial::Matched => {
                return Line {
                    topic: "rule",
                    text: format!("{text}  matches"),
                    tone: Tone::Good,
                };
            }
            RuleTrial::Source => differs("the source", &source),
            RuleTrial::Destination => differs("the destination", &destination),
            RuleTrial::Protocol => differs("the protocol", &protocol_words(info.protocol)),
            RuleTrial::SourcePort => differs("the source port", &info.source_port),
            RuleTrial::DestinationPort => differs("the destination port", &info.destination_port),
            RuleTrial::InInterface => "the incoming interface is another".to_owned(),
            RuleTrial::OutInterface => "the outgoing interface is another".to_owned(),
            RuleTrial::State => differs("the state", &state.name()),
            RuleTrial::Condition(number) => {
                let rule = self.policy.rules.get(index as usize);
                let at = rule.map(|rule| rule.conditions.wrapping_add(number) as usize);
                let asked = at.and_then(|at| self.policy.conditions.get(at));
                let name = conditions::name(asked.map_or(0, |condition| condition.kind));
                format!("{name} does not hold")
            }
        };
        Line {
            topic: "rule",
            text: format!("{text}  no: {why}"),
            tone: Tone::Faint,
        }
    }

    fn verdict(&self, verdict: Verdict, outcome: &Outcome) -> Line {
        let mut text = verdict.name().to_owned();
        if self.policy.rules.get(outcome.rule as usize).is_some() {
            text.push_str(&format!(", by {}", self.name(outcome.rule)));
        }
        if let Some(reason) = outcome.reason {
            text.push_str(&format!(" ({})", reason.name()));
        }
        let tone = match verdict {
            Verdict::Accept => Tone::Good,
            Verdict::Drop | Verdict::Reject => Tone::Bad,
        };
        Line {
            topic: "verdict",
            text,
            tone,
        }
    }

    /// `rule 3 of INPUT`, or `the policy of INPUT`.
    fn name(&self, index: u32) -> String {
        let deciding = self.policy.deciding(index);
        let chain = deciding.map_or("?", |deciding| deciding.chain);
        match deciding.and_then(|deciding| deciding.number) {
            Some(number) => format!("rule {number} of {chain}"),
            None => format!("the policy of {chain}"),
        }
    }

    /// A rule with its number in its chain, as wide as the longest of the policy.
    fn numbered(&self, index: u32) -> String {
        let names = &self.policy.names;
        let number = self.policy.deciding(index).and_then(|rule| rule.number);
        let number = number.map_or(String::new(), |number| number.to_string());
        let text = names.get(index as usize).map_or("?", |name| &name.text);
        let longest = names.iter().map(|name| name.text.chars().count()).max();
        let width = longest.unwrap_or(0).min(TEXT_WIDTH_MAX);
        format!("{number:>3} {text:<width$}")
    }
}

fn good(topic: &'static str, text: impl Into<String>) -> Line {
    Line {
        topic,
        text: text.into(),
        tone: Tone::Good,
    }
}

fn bad(topic: &'static str, text: impl Into<String>) -> Line {
    Line {
        topic,
        text: text.into(),
        tone: Tone::Bad,
    }
}

fn parsed(info: &PacketInfo) -> Line {
    let family = match info.family {
        Family::V4 => "IPv4",
        Family::V6 => "IPv6",
    };
    let protocol = protocol_words(info.protocol);
    let mut text = format!("{family}, {protocol}, {} bytes", info.ip_length);
    match info.fragment {
        Fragment::Whole => {}
        Fragment::First => text.push_str(", first fragment"),
        Fragment::Later => text.push_str(", later fragment"),
    }
    if info.protocol == 6 && info.damage.is_none() {
        text.push_str(&format!(
            ", flags{}, seq {}, ack {}, window {}",
            flag_names(info.tcp_flags),
            info.tcp_sequence,
            info.tcp_ack,
            info.tcp_window
        ));
    }
    if info.vlan != 0 {
        text.push_str(&format!(", VLAN {}", info.vlan));
    }
    match info.damage {
        Some(reason) => bad("parse", format!("{text}; {}", reason.sentence())),
        None => line("parse", text),
    }
}

fn windowed(check: &WindowCheck, state: State) -> Line {
    let at_most = |value: u32, bound: u32| (value.wrapping_sub(bound) as i32) <= 0;
    let mark = |holds: bool| if holds { "" } else { "NOT " };
    let fits = [
        at_most(check.sequence, check.upper),
        at_most(check.lower, check.end),
        at_most(check.ack, check.ack_upper),
        at_most(check.ack_lower, check.ack),
    ];
    let [sequence_fits, end_fits, ack_fits, ack_is_recent] = fits;
    let mut text = format!(
        "seq {} {}<= {}, end {} {}>= {}, ack {} {}<= {} and {}>= {}",
        check.sequence,
        mark(sequence_fits),
        check.upper,
        check.end,
        mark(end_fits),
        check.lower,
        check.ack,
        mark(ack_fits),
        check.ack_upper,
        mark(ack_is_recent),
        check.ack_lower,
    );
    if !fits.contains(&false) {
        return line("window", text);
    }
    if state == State::Invalid {
        return bad("window", text);
    }
    text.push_str("; let pass all the same");
    line("window", text)
}

fn tuple_words(tuple: &Tuple) -> String {
    let source = address(tuple.family, &tuple.source);
    let destination = address(tuple.family, &tuple.destination);
    let protocol = protocol_words(tuple.protocol);
    match tuple.protocol {
        1 | 58 => format!(
            "{protocol} src={source} dst={destination} type={} code={} id={}",
            tuple.destination_port >> 8,
            tuple.destination_port & 0xff,
            tuple.source_port
        ),
        _ if tuple.source_port == 0 && tuple.destination_port == 0 => {
            format!("{protocol} src={source} dst={destination}")
        }
        _ => format!(
            "{protocol} src={source} dst={destination} sport={} dport={}",
            tuple.source_port, tuple.destination_port
        ),
    }
}

fn protocol_words(protocol: u8) -> String {
    match protocol_name(protocol) {
        "unknown" => format!("protocol {protocol}"),
        name => name.to_owned(),
    }
}

const fn direction_name(direction: Direction) -> &'static str {
    match direction {
        Direction::Original => "original",
        Direction::Reply => "reply",
    }
}

mod conditions;
mod live;
#[cfg(test)]
mod tests;

pub use self::live::{Live, Shadow};
