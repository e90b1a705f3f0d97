//! From the model to the flat tables that the engine walks.
//!
//! Chains lie one after the other: for each family INPUT, FORWARD, OUTPUT and then the user's own.
//! Each ends in a rule that always matches. A RETURN in a built-in chain goes to that rule; a
//! `-g` in a built-in chain goes to a short chain of its own that jumps and then goes there, since
//! a RETURN at the other end of `-g` leads to the policy of the chain that the packet came from.
//!
//! Chains of mangle are led through on the way to those of filter, see [`mangle`].

mod index;
mod layout;
mod lists;
mod lower;
mod mangle;
mod remember;
#[cfg(test)]
mod tests;

use keepstate_engine::index::IndexLine;
use keepstate_engine::limits::{
    CONDITIONS_MAX, INTERFACE_PATTERNS_MAX, JUMP_DEPTH_MAX, RULE_STEPS_MAX, RULES_MAX,
};
use keepstate_engine::policy::{Condition, PolicyHeader, Rule};
use keepstate_engine::tuple::Family;
use keepstate_engine::verdict::Hook;

use crate::model::{Counters, Note, Policy, TableKind};
use crate::problem::family_name;

/// A policy in the engine's form, and what is needed to speak about it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Compiled {
    /// Its `epoch` is zero: the loader sets it.
    pub header: PolicyHeader,
    pub rules: Vec<Rule>,
    pub conditions: Vec<Condition>,
    /// The indexes of long chains, see [`keepstate_engine::index`].
    pub index: Vec<IndexLine>,
    /// By the number in [`Rule::chain`].
    pub chains: Vec<ChainInfo>,
    /// What an interface's name is compared with to get the bits of
    /// [`keepstate_engine::wire::PacketInfo::in_interfaces`], least significant bit first:
    /// `eth0`, or `eth+` for a beginning.
    pub interface_patterns: Vec<String>,
    /// For each compiled rule the one it was made of.
    pub sources: Vec<RuleSource>,
    /// Names of timeout policies, by the number that rules assign less one.
    pub timeouts: Vec<String>,
    /// What LOG and NFLOG say, each once.
    pub notes: Vec<Note>,
    /// Names of sets, by the number that conditions have for them until [`Compiled::number_sets`].
    pub sets: Vec<String>,
}

/// A chain of the compiled form.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ChainInfo {
    pub family: Family,
    pub table: TableKind,
    pub name: String,
    pub kind: ChainKind,
    /// Index of the first rule.
    pub first: u32,
    /// Index of the last rule, which always matches.
    pub end: u32,
}

/// What a chain was made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ChainKind {
    Builtin(Hook),
    User,
    /// Carries out one `-g` of a built-in chain, whose name it has, or leads through a chain of mangle.
    Continuation,
}

/// The rule that a compiled rule was made of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RuleSource {
    pub family: Family,
    /// Index into [`Compiled::chains`].
    pub chain: u32,
    /// From one; zero for what stands for no rule of the user's.
    pub number: u32,
    /// As iptables-save prints it: `-A INPUT -i lo -j ACCEPT`, `-P INPUT DROP`.
    pub text: String,
}

/// Why a policy cannot be compiled.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum CompileError {
    #[error(
        "{family}: rule {number} of chain {chain} leads to the chain {target}, which does not exist"
    )]
    ChainUnknown {
        family: &'static str,
        chain: String,
        number: u32,
        target: String,
    },
    #[error("{family}: the chain {chain} leads back to itself")]
    Loop { family: &'static str, chain: String },
    #[error(
        "{family}: chains are nested {depth} deep below {chain}, at most {JUMP_DEPTH_MAX} are possible"
    )]
    TooDeep {
        family: &'static str,
        chain: &'static str,
        depth: u32,
    },
    #[error(
        "{family}: a packet in {chain} could try {steps} rules, at most {RULE_STEPS_MAX} are possible"
    )]
    TooManySteps {
        family: &'static str,
        chain: &'static str,
        steps: u64,
    },
    #[error("{rules} rules, the ends of chains included; at most {RULES_MAX} are possible")]
    TooManyRules { rules: usize },
    #[error("more than {INTERFACE_PATTERNS_MAX} different interfaces are named")]
    TooManyInterfaces,
    #[error("more than {0} different timeout policies are named")]
    TooManyTimeouts(usize),
    #[error("{family}: rule {number} of chain {chain} has more matches than one rule may")]
    TooManyMatches {
        family: &'static str,
        chain: String,
        number: u32,
    },
    #[error("the matches of all rules ask more than {CONDITIONS_MAX} questions")]
    TooManyConditions,
    #[error("{family}: rule {number} of chain {chain} matches ports twice")]
    PortsTwice {
        family: &'static str,
        chain: String,
        number: u32,
    },
}

/// Compiles both families. The same policy always gives the same tables.
pub fn compile(policy: &Policy) -> Result<Compiled, CompileError> {
    layout::check_size(policy)?;
    let mut compiled = Compiled {
        header: PolicyHeader {
            flags: 0,
            ..PolicyHeader::NONE
        },
        rules: Vec::new(),
        conditions: Vec::new(),
        index: Vec::new(),
        chains: Vec::new(),
        interface_patterns: Vec::new(),
        sources: Vec::new(),
        timeouts: Vec::new(),
        notes: Vec::new(),
        sets: Vec::new(),
    };
    let mut steps = [0u64; 2];
    for kind in [TableKind::Filter, TableKind::Mangle, TableKind::Raw] {
        if kind == TableKind::Raw && !policy.uses_raw() {
            continue;
        }
        for family in [Family::V4, Family::V6] {
            if kind == TableKind::Mangle && !policy.uses_mangle(family) {
                continue;
            }
            let layout = layout::Layout::new(family, policy.ruleset(family).table(kind))?;
            let worst = layout.check()?;
            if kind != TableKind::Raw {
                // A packet walks through both, and through what leads from one to the other.
                let ways = match kind {
                    TableKind::Mangle => mangle::WAY_STEPS,
                    TableKind::Filter | TableKind::Raw => 0,
                };
                let steps = &mut steps[family as usize];
                *steps = steps.saturating_add(worst).saturating_add(ways);
                if *steps > u64::from(RULE_STEPS_MAX) {
                    return Err(CompileError::TooManySteps {
                        family: family_name(family),
                        chain: Hook::Forward.chain(),
                        steps: *steps,
                    });
                }
            }
            lower::table(&mut compiled, &layout)?;
            if kind == TableKind::Mangle {
                mangle::lead_through(&mut compiled, &layout);
            }
        }
    }
    lists::settle(&mut compiled);
    compiled.header.rules = compiled.rules.len() as u32;
    compiled.header.conditions = compiled.conditions.len() as u32;
    compiled.header.cached = remember::choose(&compiled);
    index::build(&mut compiled);
    Ok(compiled)
}

impl Compiled {
    /// The counters that the policy's rules had, by compiled rule.
    pub fn initial_counters(&self, policy: &Policy) -> Vec<Counters> {
        let mut policy = policy.clone();
        let places = self.sources.iter();
        let read = |source| self.place(&mut policy, source).map(|counters| *counters);
        places.map(read).map(Option::unwrap_or_default).collect()
    }

    /// Writes counters, by compiled rule, into the policy that this was compiled of.
    pub fn store_counters(&self, policy: &mut Policy, counters: impl Fn(u32) -> Counters) {
        for (index, source) in self.sources.iter().enumerate() {
            if let Some(place) = self.place(policy, source) {
                *place = counters(index as u32);
            }
        }
    }

    /// Where the model counts what a compiled rule matches; nowhere for the end of a user's chain.
    fn place<'a>(&self, policy: &'a mut Policy, source: &RuleSource) -> Option<&'a mut Counters> {
        let chain = self.chains.get(source.chain as usize)?;
        let table = policy.ruleset_mut(source.family).table_mut(chain.table);
        match (chain.kind, source.number) {
            (ChainKind::Continuation, _) | (ChainKind::User, 0) => None,
            (ChainKind::Builtin(hook), 0) => Some(&mut table.builtin_mut(hook).counters),
            (_, number) => {
                let rules = table.rules_mut(&chain.name)?;
                let rule = rules.get_mut(number as usize - 1)?;
                Some(&mut rule.counters)
            }
        }
    }
}
