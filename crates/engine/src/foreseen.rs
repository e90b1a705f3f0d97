//! What the rules say of every SYN to a destination, so that a flood of them is answered without asking again.
//!
//! Of the SYNs of a flood each has another sender, and most rulesets look at nothing of them but where they go. A walk
//! that looked at nothing else says the same of all: that the SYN is answered with a cookie, here or for a server
//! behind this host. It is believed for a quarter of a second, by the CPU that walked and under the policy in force. Each
//! rule that the walk counted is counted as before.
//!
//! What the walk may have looked at is in the key of a line: destination and port, flags, zone, patterns of the incoming
//! interface. A walk that looked at anything else (the sender, a limit, an index, where the packet leaves) is not remembered.

use crate::condition::{flag, kind};
use crate::cookie;
use crate::expect::NOWHERE;
use crate::host::{FlowMemory, Host, Packet, Words};
use crate::judge::Judgement;
use crate::limits::{FORESEEN_LINES, FORESEEN_RULES_MAX, FORESEEN_TICKS, FORESEEN_WORDS};
use crate::policy::{
    Assigned, Condition, RULE_NOT_SOURCE, RULE_OUT_INTERFACE, RULE_SOURCE_PORT, Rule,
};
use crate::process::{Path, Run, Scratch, Stage};
use crate::raw;
use crate::settings::{SETTING_COOKIES, SETTING_SYNPROXY, checked_index};
use crate::synproxy;
use crate::table::{self, gauges};
use crate::time::Tick;
use crate::trace::RuleTrial;
use crate::track::{self, Flow, Tracked};
use crate::verdict::{Hook, Reason, State, Verdict};
use crate::wire::transport::{TCP, tcp_flag};
use crate::wire::{self, Fragment, PacketInfo};

/// What becomes of the SYNs that a line is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Fate {
    /// Nothing is known.
    Unknown = 0,
    /// The rules let them in, and they are for this host.
    Cookie = 1,
    /// They have no flow, and a rule of FORWARD gives them to SYNPROXY.
    Synproxy = 2,
}

/// The rules that a walk has counted, and whether it looked at nothing but what is in the key of a line.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Trail {
    rules: [u32; FORESEEN_RULES_MAX as usize],
    count: u32,
    is_lost: bool,
}

impl Trail {
    pub(crate) const LOST: Self = Self {
        rules: [0; FORESEEN_RULES_MAX as usize],
        count: 0,
        is_lost: true,
    };

    /// Begins anew, for a packet whose fate may be worth knowing.
    #[inline(always)]
    pub(crate) fn begin<H: Host>(&mut self, host: &H, info: &PacketInfo) {
        self.count = 0;
        self.is_lost = !is_plain_syn(host, info);
    }

    /// A rule was tried.
    #[inline(always)]
    pub(crate) fn tried(&mut self, rule: &Rule, trial: RuleTrial) {
        if !self.is_lost && looks_beyond(rule, trial) {
            self.is_lost = true;
        }
    }

    /// A rule was counted.
    #[inline(always)]
    pub(crate) fn counted(&mut self, at: u32) {
        if self.is_lost {
            return;
        }
        match self.rules.get_mut(checked_index(self.count as usize)) {
            Some(place) => {
                *place = at;
                self.count += 1;
            }
            None => self.is_lost = true,
        }
    }

    /// A condition is asked.
    #[inline(always)]
    pub(crate) const fn asked(&mut self, condition: &Condition) {
        let Condition { kind, flags, data } = *condition;
        let sides = flags & (flag::SOURCE | flag::DESTINATION);
        let is_of_key = match kind {
            kind::TCP_FLAGS => true,
            kind::PORTS => sides == flag::DESTINATION,
            kind::ADDRESS_TYPE => sides == flag::DESTINATION && data[1] == 0,
            _ => false,
        };
        if !is_of_key {
            self.is_lost = true;
        }
    }

    /// Something else was looked at.
    #[inline(always)]
    pub(crate) const fn lose(&mut self) {
        self.is_lost = true;
    }
}

/// Whether a rule that was tried so far looked at the sender, or at where the packet leaves.
#[inline(always)]
fn looks_beyond(rule: &Rule, trial: RuleTrial) -> bool {
    let [a, b, c, d] = rule.source_mask;
    let names = |flags: u32| rule.flags & flags != 0;
    match trial {
        RuleTrial::State | RuleTrial::Protocol => false,
        RuleTrial::SourcePort | RuleTrial::Source | RuleTrial::OutInterface => true,
        RuleTrial::DestinationPort => names(RULE_SOURCE_PORT),
        RuleTrial::Destination | RuleTrial::InInterface => {
            names(RULE_SOURCE_PORT | RULE_NOT_SOURCE) || a | b | c | d != 0
        }
        RuleTrial::Matched | RuleTrial::Condition(_) => {
            names(RULE_SOURCE_PORT | RULE_NOT_SOURCE | RULE_OUT_INTERFACE) || a | b | c | d != 0
        }
    }
}

// Words of a line. The key comes first: destination (two words), interfaces, what else is asked for.
const KEY_WORDS: u32 = 4;
/// Generation of the policy, and in the high half when the line is over.
const VALID: u32 = 4;
/// The rule that decided; then the fate (bits 32-39) and how many rules are counted (40-47).
const DECIDED: u32 = 5;
/// Two rules in each.
const COUNTED: u32 = 6;

const FATE_SHIFT: u32 = 32;
const COUNT_SHIFT: u32 = 40;

const _: () = assert!(COUNTED + FORESEEN_RULES_MAX / 2 == FORESEEN_WORDS);

#[inline(always)]
fn key(info: &PacketInfo, zone: u16) -> [u64; KEY_WORDS as usize] {
    let [a, b, c, d] = info.destination;
    let joined = |high: u32, low: u32| u64::from(high) << 32 | u64::from(low);
    let ports = u32::from(info.destination_port) << 16 | u32::from(zone);
    let rest = (info.family as u32) << 8 | u32::from(info.tcp_flags);
    [
        joined(a, b),
        joined(c, d),
        info.in_interfaces,
        joined(ports, rest),
    ]
}

/// The line of a destination. Destinations share lines by chance; a sender who makes them share finds the rules asked as they
/// are without all this.
#[inline(always)]
fn line<H: Host>(host: &H, info: &PacketInfo) -> Option<<H::Flows as FlowMemory>::Words> {
    let [a, b, c, d] = info.destination;
    let word = a ^ b ^ c ^ d;
    let folded = word ^ word >> 16 ^ u32::from(info.destination_port);
    host.flows()
        .foreseen((folded ^ folded >> 6) % FORESEEN_LINES)
}

/// Whether a packet is one of those that this is about.
#[inline(always)]
fn is_plain_syn<H: Host>(host: &H, info: &PacketInfo) -> bool {
    use tcp_flag::{ACK, FIN, RST, SYN};
    host.settings().flags & (SETTING_COOKIES | SETTING_SYNPROXY) != 0
        && host.can_answer()
        && info.protocol == TCP
        && info.tcp_flags & (SYN | ACK | RST | FIN) == SYN
        && info.damage.is_none()
        && matches!(info.fragment, Fragment::Whole)
}

/// Whether the stage here comes first.
#[inline(always)]
pub(crate) fn may_be<H: Host>(host: &H, path: Path, info: &PacketInfo) -> bool {
    matches!(path, Path::Ingress)
        && !host.is_traced()
        && is_plain_syn(host, info)
        && (cookie::is_active(host, info) || host.settings().has(SETTING_SYNPROXY))
}

/// Remembers what was said of a SYN whose way so far [`Trail`] knows.
#[cfg_attr(target_arch = "bpf", inline(never))]
pub(crate) fn learn<H: Host>(host: &H, scratch: &Scratch, fate: Fate) {
    let Scratch { info, trail, .. } = scratch;
    // Of an earlier round the trail has the rules too.
    if trail.is_lost || scratch.rounds != 0 {
        return;
    }
    let Some(line) = line(host, info) else {
        return;
    };
    for (word, value) in (0..).zip(key(info, scratch.zone)) {
        line.store(word, value);
    }
    let until = scratch.now.0.wrapping_add(FORESEEN_TICKS);
    line.store(
        VALID,
        u64::from(until) << 32 | u64::from(host.policy().generation),
    );
    let decided = u64::from(scratch.judgement.rule);
    let what = (fate as u64) << FATE_SHIFT | u64::from(trail.count) << COUNT_SHIFT;
    line.store(DECIDED, what | decided);
    let [a, b, c, d, e, f, g, h] = trail.rules;
    for (word, [low, high]) in (COUNTED..).zip([[a, b], [c, d], [e, f], [g, h]]) {
        line.store(word, u64::from(high) << 32 | u64::from(low));
    }
}

/// What comes next for a SYN: what is known of its destination, or the way of all packets.
#[inline(always)]
pub(crate) fn ask<P: Packet, H: Host>(run: &Run<'_, P, H>, scratch: &mut Scratch) -> Stage {
    let host = run.host;
    let zone = run.arrival.zone;
    // Tags come from memory: they are asked for first, and looked at last.
    track::name_ordinary(run.arrival, host, scratch);
    let is_free = !table::may_hold(host.flows(), scratch.info.family, &scratch.hash);
    let fate = known(host, scratch, zone);
    raw::forget(host, scratch);
    scratch.zone = zone;
    scratch.search.found = NOWHERE;
    let may = match fate {
        Fate::Unknown => false,
        Fate::Cookie => {
            wire::read_opening(run.packet, host, &mut scratch.info);
            // Without SYNPROXY nothing else has led here.
            let is_sure = !host.settings().has(SETTING_SYNPROXY);
            is_of_no_flow(host, is_free) && (is_sure || cookie::is_active(host, &scratch.info))
        }
        Fate::Synproxy => {
            let is_always = synproxy::is_always(host);
            is_always || cookie::is_needed(host, &scratch.info) && is_of_no_flow(host, is_free)
        }
    };
    if !may {
        return Stage::Name;
    }
    count(host, &scratch.info);
    if matches!(fate, Fate::Cookie) {
        scratch.tracked = Tracked {
            state: State::New,
            reason: None,
            flow: Flow::Begins,
        };
        return cookie::answer(host, scratch);
    }
    scratch.tracked = Tracked::UNTRACKED;
    scratch.assigned = Assigned::NOTRACK;
    Stage::Synproxy
}

/// Whether no record is of the packet's flow, and none is expected.
#[inline(always)]
fn is_of_no_flow<H: Host>(host: &H, has_no_tag: bool) -> bool {
    let gauges = host.flows().gauges();
    let expected = gauges.map_or(0, |words| words.load(gauges::EXPECTATIONS));
    has_no_tag && expected == 0 && !host.settings().has_two_tables()
}

/// The fate of a SYN, whose rule is then in the scratch memory.
#[inline(always)]
fn known<H: Host>(host: &H, scratch: &mut Scratch, zone: u16) -> Fate {
    let Scratch {
        info,
        judgement,
        now,
        ..
    } = scratch;
    let Some(line) = line(host, info) else {
        return Fate::Unknown;
    };
    // In one comparison, so that there is but one path for the kernel's verifier.
    let [a, b, c, d] = key(info, zone);
    let valid = line.load(VALID);
    let difference = (line.load(0) ^ a)
        | (line.load(1) ^ b)
        | (line.load(2) ^ c)
        | (line.load(3) ^ d)
        | u64::from(valid as u32 ^ host.policy().generation);
    if difference != 0 || Tick((valid >> 32) as u32).has_passed(*now) {
        return Fate::Unknown;
    }
    let decided = line.load(DECIDED);
    judgement.rule = decided as u32;
    judgement.cacheable = None;
    match (decided >> FATE_SHIFT) as u8 {
        1 => {
            judgement.hook = Hook::Input;
            judgement.verdict = Verdict::Accept;
            judgement.reason = None;
            Fate::Cookie
        }
        2 => {
            judgement.hook = Hook::Forward;
            judgement.verdict = Verdict::Drop;
            judgement.reason = Some(Reason::SynproxySent);
            Fate::Synproxy
        }
        _ => Fate::Unknown,
    }
}

/// Counts the rules as the walk did.
#[inline(always)]
fn count<H: Host>(host: &H, info: &PacketInfo) {
    let Some(line) = line(host, info) else {
        return;
    };
    let mut left = (line.load(DECIDED) >> COUNT_SHIFT) as u8;
    for word in COUNTED..FORESEEN_WORDS {
        let rules = line.load(word);
        for rule in [rules as u32, (rules >> 32) as u32] {
            if left == 0 {
                return;
            }
            left -= 1;
            host.count_rule(rule, info.ip_length);
        }
    }
}

impl Judgement {
    /// Whether the rules have given a SYN that has no flow to SYNPROXY, for a host behind this one.
    pub(crate) const fn is_synproxy_ahead(&self) -> bool {
        matches!(self.hook, Hook::Forward) && matches!(self.reason, Some(Reason::SynproxySent))
    }
}
