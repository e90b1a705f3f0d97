//! Compiled rules: what the compiler writes and the engine walks.
//!
//! A policy is a flat array of [`Rule`]s. Each chain is a run of rules that ends in a rule that
//! always matches: the policy of a built-in chain, RETURN in a user's chain. Jumps name the index
//! of the first rule of a chain. What does not fit into a rule stands in an array of
//! [`Condition`]s, a run for each rule.

pub use crate::assigned::Assigned;
use crate::foreseen::Trail;
use crate::host::{Host, Repeat};
use crate::index::{KEYS, Search};
use crate::limits::{JUMP_DEPTH_MAX, RULES_PER_ROUND, WALK_ROUNDS_MAX};
use crate::process::Scratch;
use crate::trace::{RuleTrial, Step};
use crate::trial::try_rule;
use crate::verdict::State;
use crate::wire::PacketInfo;

/// What a policy's rules need of a packet and where each built-in chain starts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct PolicyHeader {
    /// Index of the first rule of INPUT, FORWARD and OUTPUT, for IPv4 and then IPv6.
    pub entry: [[u32; 3]; 2],
    pub rules: u32,
    pub conditions: u32,
    /// Number of this policy in [`crate::record`]'s cached outcomes, below
    /// [`crate::limits::POLICY_EPOCHS`].
    pub epoch: u32,
    /// Bits `POLICY_*`.
    pub flags: u32,
    /// Rules whose outcome a record may remember, by number less one: index of the rule, or
    /// [`NO_RULE`].
    pub cached: [u32; 8],
    pub settled: SettledInterfaces,
    /// Index of the first rule of PREROUTING and OUTPUT in the table raw, for IPv4 and then IPv6;
    /// meaningful with [`POLICY_RAW`].
    pub raw_entry: [[u32; 2]; 2],
    /// Keys of the hash tables of all indexes, see [`crate::index`].
    pub index_keys: [u32; KEYS],
    /// Where a packet goes on that FORWARD or OUTPUT has accepted, for IPv4 and IPv6: rules of mangle's
    /// POSTROUTING, or [`NO_RULE`].
    pub after: [u32; 2],
    /// Another for each policy and each change of [`PolicyHeader::settled`]. Wraps.
    pub generation: u32,
    pub reserved: u32,
}

/// What nearly all packets answer to some of the interface patterns: `lo`, say, which does not fit
/// any interface that packets are judged on.
///
/// A remembered outcome was found with these answers and none to any other pattern, and serves
/// only packets that give them too. So whoever chooses the patterns may choose badly, or late when
/// an interface comes or goes: then packets walk that need not, but none gets another's outcome.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct SettledInterfaces {
    /// Which patterns, a bit each.
    pub patterns: u64,
    /// Which of them nearly all packets match; their interface is the one the packet came by, or
    /// leaves by if it was made here.
    pub answers: u64,
}

impl SettledInterfaces {
    /// No rule that names an interface has a part in what is remembered.
    pub const NONE: Self = Self {
        patterns: 0,
        answers: 0,
    };
}

/// No policy is loaded: everything is accepted, but still tracked.
pub const POLICY_NONE: u32 = 1 << 0;
/// Some rule names an incoming or outgoing interface.
pub const POLICY_USES_INTERFACES: u32 = 1 << 1;
/// No outcome is remembered or taken from memory: [`PolicyHeader::settled`] is about to change,
/// and the epoch with it.
pub const POLICY_UNSETTLED: u32 = 1 << 2;

/// There are rules in the table raw, or it drops.
pub const POLICY_RAW: u32 = 1 << 3;

/// "No rule" where an index is expected.
pub const NO_RULE: u32 = u32::MAX;

impl PolicyHeader {
    /// Accepts everything.
    pub const NONE: Self = Self {
        entry: [[NO_RULE; 3]; 2],
        rules: 0,
        conditions: 0,
        epoch: 0,
        flags: POLICY_NONE,
        cached: [NO_RULE; 8],
        settled: SettledInterfaces::NONE,
        raw_entry: [[NO_RULE; 2]; 2],
        index_keys: [0; KEYS],
        after: [NO_RULE; 2],
        generation: 0,
        reserved: 0,
    };

    /// The settled patterns, for a packet that gives the settled answers; `None` for one that does
    /// not, which has no part in remembered outcomes.
    #[inline(always)]
    pub(crate) const fn settled_for(&self, interfaces: u64) -> Option<u64> {
        let SettledInterfaces { patterns, answers } = self.settled;
        if self.flags & POLICY_UNSETTLED != 0 || (interfaces ^ answers) & patterns != 0 {
            return None;
        }
        Some(patterns)
    }
}

/// One rule, 128 bytes. A rule matches when every field that its flags name matches, and every
/// condition of its run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct Rule {
    /// A packet's address matches when `address & mask == value`.
    pub source: [u32; 4],
    pub source_mask: [u32; 4],
    pub destination: [u32; 4],
    pub destination_mask: [u32; 4],
    /// Bits `RULE_*`.
    pub flags: u32,
    /// Mask of [`crate::verdict::State::bit`].
    pub states: u32,
    /// Inclusive bounds; meaningful with [`RULE_SOURCE_PORT`].
    pub source_port: [u16; 2],
    /// Inclusive bounds; meaningful with [`RULE_DESTINATION_PORT`].
    pub destination_port: [u16; 2],
    /// IP protocol; meaningful with [`RULE_PROTOCOL`].
    pub protocol: u8,
    /// Bit of the pattern of the incoming interface; meaningful with [`RULE_IN_INTERFACE`].
    pub in_interface: u8,
    /// Bit of the pattern of the outgoing interface; meaningful with [`RULE_OUT_INTERFACE`].
    pub out_interface: u8,
    /// A number of [`target`].
    pub target: u8,
    /// Chain to jump to: index of its first rule.
    pub jump: u32,
    /// Index of the first condition.
    pub conditions: u32,
    pub condition_count: u32,
    /// The rule's number in its chain, from one; zero for the chain's end.
    pub number: u32,
    /// Number of the chain, for names: an index into the compiler's list.
    pub chain: u32,
    /// With [`target::ASSIGN`].
    pub assigned: Assigned,
    /// For a rule of a built-in chain one more than the number of its [`crate::verdict::Hook`],
    /// else zero. Only the outcome of such a rule may be remembered in records.
    pub hook: u32,
    pub reserved: u32,
    /// Line of the first table of the chain's index, to be searched when this rule does not match;
    /// [`NO_RULE`] where the next rule is tried. See [`crate::index`].
    pub index: u32,
    /// With an index: the next rule that is in none of its tables.
    pub always: u32,
}

const _: () = assert!(size_of::<Rule>() == 128);

impl Rule {
    /// Matches every packet, and does nothing.
    pub const ALWAYS: Self = Self {
        source: [0; 4],
        source_mask: [0; 4],
        destination: [0; 4],
        destination_mask: [0; 4],
        flags: RULE_FLOW_ONLY,
        states: 0,
        source_port: [0; 2],
        destination_port: [0; 2],
        protocol: 0,
        in_interface: 0,
        out_interface: 0,
        target: target::CONTINUE,
        jump: NO_RULE,
        conditions: 0,
        condition_count: 0,
        number: 0,
        chain: 0,
        hook: 0,
        assigned: Assigned::NOTHING,
        reserved: 0,
        index: NO_RULE,
        always: 0,
    };
}

pub const RULE_PROTOCOL: u32 = 1 << 0;
pub const RULE_SOURCE_PORT: u32 = 1 << 1;
pub const RULE_DESTINATION_PORT: u32 = 1 << 2;
pub const RULE_IN_INTERFACE: u32 = 1 << 3;
pub const RULE_OUT_INTERFACE: u32 = 1 << 4;
pub const RULE_STATES: u32 = 1 << 5;
pub const RULE_NOT_SOURCE: u32 = 1 << 6;
pub const RULE_NOT_DESTINATION: u32 = 1 << 7;
pub const RULE_NOT_PROTOCOL: u32 = 1 << 8;
pub const RULE_NOT_SOURCE_PORT: u32 = 1 << 9;
pub const RULE_NOT_DESTINATION_PORT: u32 = 1 << 10;
pub const RULE_NOT_IN_INTERFACE: u32 = 1 << 11;
pub const RULE_NOT_OUT_INTERFACE: u32 = 1 << 12;
pub const RULE_NOT_STATES: u32 = 1 << 13;
/// The rule looks at nothing that differs between the established packets of one direction of a
/// flow, but for the interfaces that it names.
pub const RULE_FLOW_ONLY: u32 = 1 << 14;

/// Targets of rules.
pub mod target {
    /// Count and go on.
    pub const CONTINUE: u8 = 0;
    pub const ACCEPT: u8 = 1;
    pub const DROP: u8 = 2;
    /// Back to the calling chain; in a built-in chain, on to its policy (the compiler turns that
    /// into a jump to the chain's end).
    pub const RETURN: u8 = 3;
    /// On to another chain, and back after it.
    pub const JUMP: u8 = 4;
    /// On to another chain, without coming back.
    pub const GOTO: u8 = 5;
    /// Say what becomes of the packet's flow, unless a rule before has said so, and go on.
    pub const ASSIGN: u8 = 6;
    /// Drop, and answer with what [`super::Rule::assigned`] says: see [`crate::reject`].
    pub const REJECT: u8 = 7;
    /// Accept as far as this table goes: back to where its first chain was jumped to from.
    pub const LEAVE: u8 = 8;
    /// Hand a SYN, or what may bring a cookie back, to [`crate::synproxy`], with the options that
    /// [`super::Rule::assigned`] says.
    pub const SYNPROXY: u8 = 9;
}

/// A match that does not fit into a rule, 32 bytes: see [`crate::condition`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct Condition {
    pub kind: u16,
    pub flags: u16,
    pub data: [u32; 7],
}

/// What rules look at.
#[derive(Clone, Copy)]
pub struct Question<'a> {
    pub info: &'a PacketInfo,
    pub state: State,
    /// Which interface patterns each interface matches: none where there is no such interface.
    pub in_interfaces: u64,
    pub out_interfaces: u64,
    /// Patterns whose answers above are those of every packet that may use a remembered outcome.
    pub settled_in: u64,
    pub settled_out: u64,
}

impl Question<'_> {
    /// Whether another packet of the same direction of a flow could fare differently with a rule.
    #[inline(always)]
    fn depends_on(&self, rule: &Rule, trial: RuleTrial) -> DependsOn {
        // What a rule itself holds is of the flow. Its conditions are not asked unless that matches.
        if rule.flags & RULE_FLOW_ONLY == 0 && matches!(trial, RuleTrial::Matched) {
            return DependsOn::Packet;
        }
        let is_settled = match trial {
            // The rule was done with before it came to interfaces.
            RuleTrial::State
            | RuleTrial::Protocol
            | RuleTrial::SourcePort
            | RuleTrial::DestinationPort
            | RuleTrial::Source
            | RuleTrial::Destination => true,
            _ => {
                let is_open = |flag, settled: u64, pattern: u8| {
                    rule.flags & flag != 0 && settled >> (pattern & 63) & 1 == 0
                };
                !is_open(RULE_IN_INTERFACE, self.settled_in, rule.in_interface)
                    && !is_open(RULE_OUT_INTERFACE, self.settled_out, rule.out_interface)
            }
        };
        match is_settled {
            true => DependsOn::Flow,
            false => DependsOn::Packet,
        }
    }
}

/// What a walk found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Answer {
    /// [`target::ACCEPT`], [`target::DROP`] or [`target::REJECT`], or [`target::CONTINUE`] when the walk took too many
    /// steps.
    pub target: u8,
    /// Whether a rule decided, or the policy of the chain.
    pub decided_by: DecidedBy,
    /// Index of the rule that decided.
    pub rule: u32,
    /// Whether every rule that was tried looked at nothing but the flow and settled interfaces,
    /// see [`RULE_FLOW_ONLY`].
    pub depends_on: DependsOn,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DecidedBy {
    Rule,
    ChainPolicy,
    /// A match of the rule could not remember the packet's source, or could not look it up.
    NoRoom,
    Busy,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DependsOn {
    Flow,
    Packet,
}

/// Walks rules that have no conditions from the first rule of a built-in chain.
pub fn walk<H: Host>(host: &H, entry: u32, question: &Question<'_>) -> Answer {
    let mut progress = Progress::from(entry, NO_RULE);
    let mut walk = Walk {
        host,
        question,
        progress: &mut progress,
        trail: &mut Trail::LOST.clone(),
    };
    host.repeat(WALK_ROUNDS_MAX, &mut walk);
    progress.answer
}

/// As [`walk`], all of it in scratch memory, up to a rule that has conditions and otherwise matches:
/// then [`Progress::is_weighing`], and [`crate::condition`] goes on from there. A function of its
/// own, since the kernel's verifier walks through a loop's body for each way that leads to it.
#[cfg_attr(target_arch = "bpf", inline(never))]
#[cfg_attr(not(target_arch = "bpf"), inline)]
pub(crate) fn walk_in<H: Host>(host: &H, scratch: &mut Scratch) {
    let Scratch {
        info,
        asked,
        walk,
        trail,
        ..
    } = scratch;
    *walk = Progress::from(asked.entry, asked.after);
    let mut walk = Walk {
        host,
        question: &asked.question(info),
        progress: walk,
        trail,
    };
    host.repeat(WALK_ROUNDS_MAX, &mut walk);
}

/// In place of [`Progress::after`] where the walk has gone on.
const GONE_ON: u32 = NO_RULE - 1;

/// How far a walk has come.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Progress {
    /// Rule to try next.
    pub(crate) at: u32,
    depth: u32,
    returns: [u32; JUMP_DEPTH_MAX as usize],
    /// Where the walk goes on once it has accepted, [`NO_RULE`] for nowhere, or [`GONE_ON`].
    after: u32,
    /// What the first rule has assigned that did.
    pub(crate) assigned: Assigned,
    /// Condition of the rule `at` to be asked next, [`NO_RULE`] while rules are tried.
    pub(crate) condition: u32,
    /// While it is on, `at` is the nearest rule that it has found.
    pub(crate) search: Search,
    pub(crate) answer: Answer,
}

impl Progress {
    pub(crate) const START: Self = Self {
        at: NO_RULE,
        depth: 0,
        returns: [0; JUMP_DEPTH_MAX as usize],
        after: NO_RULE,
        assigned: Assigned::NOTHING,
        condition: NO_RULE,
        search: Search::NONE,
        answer: Answer {
            target: target::CONTINUE,
            decided_by: DecidedBy::ChainPolicy,
            rule: NO_RULE,
            depends_on: DependsOn::Flow,
        },
    };

    const fn from(entry: u32, after: u32) -> Self {
        Self {
            at: entry,
            after,
            ..Self::START
        }
    }

    /// Whether the rule to try next waits for its conditions.
    pub(crate) const fn is_weighing(&self) -> bool {
        self.condition != NO_RULE
    }

    /// The rule whose conditions are asked.
    pub(crate) const fn rule(&self) -> u32 {
        self.at
    }

    /// The packet is dropped at that rule, which cannot be asked; `false`, the end of the walk.
    pub(crate) const fn give_up(&mut self, at: u32, decided_by: DecidedBy) -> bool {
        self.condition = NO_RULE;
        self.answer.target = target::DROP;
        self.answer.decided_by = decided_by;
        self.answer.rule = at;
        false
    }
}

pub(crate) struct Walk<'a, H> {
    pub(crate) host: &'a H,
    pub(crate) question: &'a Question<'a>,
    pub(crate) progress: &'a mut Progress,
    pub(crate) trail: &'a mut Trail,
}

impl<H: Host> Repeat for Walk<'_, H> {
    fn step(&mut self) -> bool {
        self.try_some()
    }
}

impl<H: Host> Walk<'_, H> {
    /// Tries some rules, or searches for the next; `false` at the end.
    #[inline(always)]
    pub(crate) fn try_some(&mut self) -> bool {
        for _ in 0..RULES_PER_ROUND {
            if self.progress.search.is_on() {
                break;
            }
            if !self.try_next() {
                return false;
            }
        }
        if self.progress.search.is_on() {
            self.trail.lose();
            self.search();
        }
        true
    }

    /// Tries one rule; `false` at the end.
    #[inline(always)]
    fn try_next(&mut self) -> bool {
        let at = self.progress.at;
        let Some(rule) = self.host.rule(at) else {
            return false;
        };
        let trial = try_rule(rule, self.question);
        self.trail.tried(rule, trial);
        if matches!(self.question.depends_on(rule, trial), DependsOn::Packet) {
            self.progress.answer.depends_on = DependsOn::Packet;
        }
        if !matches!(trial, RuleTrial::Matched) {
            self.host.trace(Step::Rule(at, trial));
            self.pass(at, rule);
            return true;
        }
        if rule.condition_count != 0 {
            self.progress.condition = rule.conditions;
            return false;
        }
        self.matched(at, rule)
    }

    /// A rule matches, conditions included; `false` at the end.
    #[inline(always)]
    pub(crate) fn matched(&mut self, at: u32, rule: &Rule) -> bool {
        self.host.trace(Step::Rule(at, RuleTrial::Matched));
        self.host.count_rule(at, self.question.info.ip_length);
        self.trail.counted(at);
        self.follow(at, rule)
    }

    /// Goes where a matching rule says; `false` at the end.
    fn follow(&mut self, at: u32, rule: &Rule) -> bool {
        match rule.target {
            target::CONTINUE => self.progress.at = at.wrapping_add(1),
            target::ASSIGN => {
                if self.progress.assigned.0 == 0 {
                    self.progress.assigned = rule.assigned;
                }
                self.progress.at = at.wrapping_add(1);
            }
            target::GOTO => self.progress.at = rule.jump,
            target::JUMP => {
                let Some(slot) = self.progress.returns.get_mut(self.progress.depth as usize) else {
                    return false;
                };
                *slot = at.wrapping_add(1);
                self.progress.depth += 1;
                self.progress.at = rule.jump;
            }
            target::RETURN => {
                self.progress.depth = self.progress.depth.wrapping_sub(1);
                let Some(back) = self.progress.returns.get(self.progress.depth as usize) else {
                    return false;
                };
                self.progress.at = *back;
            }
            target::LEAVE => {
                let [back, ..] = self.progress.returns;
                self.progress.depth = 0;
                self.progress.at = back;
            }
            target::ACCEPT if self.progress.after == GONE_ON => return false,
            decided => {
                self.progress.answer.target = decided;
                self.progress.answer.rule = at;
                if rule.number != 0 {
                    self.progress.answer.decided_by = DecidedBy::Rule;
                }
                if decided != target::ACCEPT || self.progress.after == NO_RULE {
                    return false;
                }
                self.progress.at = self.progress.after;
                self.progress.after = GONE_ON;
                self.progress.depth = 0;
            }
        }
        true
    }
}
