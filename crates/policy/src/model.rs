//! Rules as an operator thinks of them: families, chains, rules, matches, targets.

mod ports;
mod states;

use std::collections::BTreeMap;
use std::fmt;

use keepstate_engine::tuple::Family;
use keepstate_engine::verdict::Hook;

pub use crate::ct::CtTarget;
use crate::diagnostic::WrittenAt;
use crate::matches;
pub use crate::matches::{Extension, Note, NoteTarget, TcpFlags};
use crate::network::Network;
use crate::problem::Problem;
use crate::protocol::Protocol;
pub use ports::{PortProtocol, PortRange, Ports};
pub use states::StateSet;

/// The rules of both families, which know nothing of each other.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Policy {
    pub v4: Ruleset,
    pub v6: Ruleset,
}

impl Default for Policy {
    /// Accepts everything.
    fn default() -> Self {
        Self {
            v4: Ruleset::new(Family::V4),
            v6: Ruleset::new(Family::V6),
        }
    }
}

impl Policy {
    pub fn ruleset(&self, family: Family) -> &Ruleset {
        match family {
            Family::V4 => &self.v4,
            Family::V6 => &self.v6,
        }
    }

    pub fn ruleset_mut(&mut self, family: Family) -> &mut Ruleset {
        match family {
            Family::V4 => &mut self.v4,
            Family::V6 => &mut self.v6,
        }
    }

    /// Sets all counters to zero.
    pub fn zero_counters(&mut self) {
        for ruleset in [&mut self.v4, &mut self.v6] {
            for kind in TableKind::ALL {
                ruleset.table_mut(kind).zero_counters();
            }
        }
    }

    /// Whether the raw table does anything, in either family.
    pub(crate) fn uses_raw(&self) -> bool {
        self.v4.raw.decides() || self.v6.raw.decides()
    }

    /// Whether the mangle table of a family does anything.
    pub(crate) fn uses_mangle(&self, family: Family) -> bool {
        self.ruleset(family).mangle.decides()
    }
}

/// The tables of one family.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ruleset {
    pub family: Family,
    pub filter: Table,
    pub raw: Table,
    pub mangle: Table,
}

impl Ruleset {
    pub fn new(family: Family) -> Self {
        Self {
            family,
            filter: Table::new(TableKind::Filter),
            raw: Table::new(TableKind::Raw),
            mangle: Table::new(TableKind::Mangle),
        }
    }

    pub fn table(&self, kind: TableKind) -> &Table {
        match kind {
            TableKind::Filter => &self.filter,
            TableKind::Raw => &self.raw,
            TableKind::Mangle => &self.mangle,
        }
    }

    pub fn table_mut(&mut self, kind: TableKind) -> &mut Table {
        match kind {
            TableKind::Filter => &mut self.filter,
            TableKind::Raw => &mut self.raw,
            TableKind::Mangle => &mut self.mangle,
        }
    }

    /// Rules of all tables.
    pub fn rule_count(&self) -> usize {
        let tables = TableKind::ALL.map(|kind| self.table(kind).rule_count());
        tables.iter().sum()
    }
}

/// Which table.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum TableKind {
    /// Judges packets whose flow is known.
    #[default]
    Filter,
    /// Sees packets before their flow is looked up.
    Raw,
    /// Marks packets and flows before filter judges them, and after it.
    Mangle,
}

impl TableKind {
    /// In the order in which iptables-save prints them.
    pub const ALL: [Self; 3] = [Self::Mangle, Self::Raw, Self::Filter];

    pub const fn name(self) -> &'static str {
        match self {
            Self::Filter => "filter",
            Self::Raw => "raw",
            Self::Mangle => "mangle",
        }
    }

    /// Its built-in chains, in the order in which iptables prints them.
    pub const fn hooks(self) -> &'static [Hook] {
        match self {
            Self::Filter => &HOOKS,
            Self::Raw => &RAW_HOOKS,
            Self::Mangle => &MANGLE_HOOKS,
        }
    }

    /// Its built-in chain of this name.
    pub fn hook_named(self, name: &str) -> Option<Hook> {
        let mut hooks = self.hooks().iter().copied();
        hooks.find(|hook| hook.chain() == name)
    }
}

/// The built-in chains of the table filter.
pub const HOOKS: [Hook; 3] = [Hook::Input, Hook::Forward, Hook::Output];

/// The built-in chains of the table raw.
pub const RAW_HOOKS: [Hook; 2] = [Hook::Prerouting, Hook::Output];

/// The built-in chains of the table mangle.
pub const MANGLE_HOOKS: [Hook; 5] = [
    Hook::Prerouting,
    Hook::Input,
    Hook::Forward,
    Hook::Output,
    Hook::Postrouting,
];

/// One table: its built-in chains and the user's own, which iptables sorts by name.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Table {
    pub kind: TableKind,
    /// By hook; those that the kind does not have stay empty.
    builtin: [BuiltinChain; 5],
    pub user: BTreeMap<ChainName, Vec<Rule>>,
}

impl Table {
    pub fn new(kind: TableKind) -> Self {
        Self {
            kind,
            ..Self::default()
        }
    }

    /// Whether a packet could fare otherwise without the table.
    fn decides(&self) -> bool {
        let drops = |chain: &BuiltinChain| chain.policy != ChainPolicy::Accept;
        self.builtin.iter().any(drops) || self.rule_count() != 0
    }

    /// Whether iptables-save would print it: filter always, others once they have something.
    pub(crate) fn is_shown(&self) -> bool {
        self.kind == TableKind::Filter || self.decides() || !self.user.is_empty()
    }

    /// The built-in chain of this name.
    pub fn hook_named(&self, name: &str) -> Option<Hook> {
        self.kind.hook_named(name)
    }

    pub fn builtin(&self, hook: Hook) -> &BuiltinChain {
        &self.builtin[hook as usize]
    }

    pub fn builtin_mut(&mut self, hook: Hook) -> &mut BuiltinChain {
        &mut self.builtin[hook as usize]
    }

    /// The rules of a chain of either kind.
    pub fn rules(&self, chain: &str) -> Option<&Vec<Rule>> {
        match self.hook_named(chain) {
            Some(hook) => Some(&self.builtin(hook).rules),
            None => self.user.get(chain),
        }
    }

    pub fn rules_mut(&mut self, chain: &str) -> Option<&mut Vec<Rule>> {
        match self.hook_named(chain) {
            Some(hook) => Some(&mut self.builtin_mut(hook).rules),
            None => self.user.get_mut(chain),
        }
    }

    /// The names of all chains, in the order in which iptables prints them.
    pub fn chain_names(&self) -> impl Iterator<Item = &str> {
        let own = self.user.keys().map(ChainName::as_str);
        let hooks = self.kind.hooks().iter();
        hooks.map(|hook| hook.chain()).chain(own)
    }

    /// All rules of all chains.
    pub fn all_rules(&self) -> impl Iterator<Item = &Rule> {
        let builtin = self.builtin.iter().flat_map(|chain| &chain.rules);
        builtin.chain(self.user.values().flatten())
    }

    pub fn all_rules_mut(&mut self) -> impl Iterator<Item = &mut Rule> {
        let builtin = self.builtin.iter_mut().flat_map(|chain| &mut chain.rules);
        builtin.chain(self.user.values_mut().flatten())
    }

    pub fn rule_count(&self) -> usize {
        let builtin = self.builtin.iter().map(|chain| chain.rules.len());
        builtin.chain(self.user.values().map(Vec::len)).sum()
    }

    /// How many rules jump or go to a chain of the user.
    pub fn references(&self, chain: &str) -> usize {
        let refers = |rule: &&Rule| rule.target.chain().is_some_and(|to| to.as_str() == chain);
        self.all_rules().filter(refers).count()
    }

    pub fn zero_counters(&mut self) {
        for chain in &mut self.builtin {
            chain.counters = Counters::default();
        }
        for rule in self.all_rules_mut() {
            rule.counters = Counters::default();
        }
    }
}

/// INPUT, for instance.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct BuiltinChain {
    pub policy: ChainPolicy,
    /// What reached the policy.
    pub counters: Counters,
    pub rules: Vec<Rule>,
    /// Of the policy.
    pub place: WrittenAt,
}

/// What becomes of a packet that no rule of a built-in chain decided.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ChainPolicy {
    #[default]
    Accept,
    Drop,
}

impl ChainPolicy {
    pub const fn name(self) -> &'static str {
        match self {
            Self::Accept => "ACCEPT",
            Self::Drop => "DROP",
        }
    }

    pub fn named(name: &str) -> Option<Self> {
        [Self::Accept, Self::Drop]
            .into_iter()
            .find(|policy| policy.name() == name)
    }
}

/// Packets and bytes that a rule matched.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    pub packets: u64,
    pub bytes: u64,
}

/// Longest name of a chain of the user, in bytes.
pub const CHAIN_NAME_BYTES_MAX: usize = 28;

/// Words that iptables knows as targets, so that no chain may have their name.
const TARGET_NAMES: [&str; 13] = [
    "ACCEPT", "DROP", "RETURN", "QUEUE", "REJECT", "LOG", "CT", "NOTRACK", "MARK", "CONNMARK",
    "SYNPROXY", "NFLOG", "SET",
];

/// The name of a chain of the user: at most [`CHAIN_NAME_BYTES_MAX`] bytes, no spaces, not the
/// name of a target. That it is no built-in chain's is for the table to say.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ChainName(String);

impl ChainName {
    pub fn new(name: &str) -> Result<Self, Problem> {
        if name.is_empty() || name.chars().any(|c| c.is_whitespace() || c.is_control()) {
            return Err(Problem::ChainNameInvalid(name.into()));
        }
        if let Some(first @ ('-' | '!')) = name.chars().next() {
            return Err(Problem::ChainNameStart(first));
        }
        if name.len() > CHAIN_NAME_BYTES_MAX {
            return Err(Problem::ChainNameTooLong(name.into()));
        }
        if TARGET_NAMES.contains(&name) {
            return Err(Problem::ChainNameIsTarget);
        }
        Ok(Self(name.into()))
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl std::borrow::Borrow<str> for ChainName {
    fn borrow(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for ChainName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// One rule. It matches when everything that it names matches.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Rule {
    pub source: Option<Test<Network>>,
    pub destination: Option<Test<Network>>,
    pub in_interface: Option<Test<Interface>>,
    pub out_interface: Option<Test<Interface>>,
    pub protocol: Option<Test<Protocol>>,
    /// `-f`: later fragments alone, or all others.
    pub fragment: Option<Fragments>,
    /// In the order in which they were written.
    pub matches: Vec<Match>,
    pub target: Target,
    pub counters: Counters,
    pub place: WrittenAt,
}

impl Rule {
    /// Whether the two are the same rule, whatever they have counted.
    pub fn same_as(&self, other: &Self) -> bool {
        self.source == other.source
            && self.destination == other.destination
            && self.in_interface == other.in_interface
            && self.out_interface == other.out_interface
            && self.protocol == other.protocol
            && self.fragment == other.fragment
            && self.matches == other.matches
            && self.target == other.target
    }
}

/// What `-f` and `! -f` match.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fragments {
    Later,
    /// What is no later fragment.
    Others,
}

/// Something to compare with, and whether the comparison is turned round by `!`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Test<T> {
    pub value: T,
    pub negated: bool,
}

/// An interface's name, or the beginning of one (`eth+`).
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Interface(String);

/// Longest name of an interface, in bytes.
pub const INTERFACE_NAME_BYTES_MAX: usize = 15;

impl Interface {
    pub fn new(name: &str) -> Result<Self, Problem> {
        if name.is_empty() {
            return Err(Problem::InterfaceEmpty);
        }
        if name.len() > INTERFACE_NAME_BYTES_MAX {
            return Err(Problem::InterfaceTooLong(name.into()));
        }
        if name
            .chars()
            .any(|c| c == '/' || c.is_whitespace() || c.is_control())
        {
            return Err(Problem::InterfaceCharacter(name.into()));
        }
        Ok(Self(name.into()))
    }

    /// As written, `+` included.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether an interface of this name is meant.
    pub fn matches(&self, name: &str) -> bool {
        match self.0.strip_suffix('+') {
            Some(beginning) => name.starts_with(beginning),
            None => name == self.0,
        }
    }
}

/// What `-m` brings.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Match {
    Ports(Ports),
    States(States),
    /// `-m conntrack` with more than states.
    Tracked(Option<States>, Extension),
    Comment(String),
    /// Any other.
    Extension(Extension),
}

/// `-m conntrack --ctstate` or `-m state --state`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct States {
    pub spelling: StateSpelling,
    pub set: StateSet,
    pub negated: bool,
}

/// Which of the two matches was written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StateSpelling {
    Conntrack,
    State,
}

impl StateSpelling {
    /// Name of the match.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Conntrack => "conntrack",
            Self::State => "state",
        }
    }

    /// Name of its option, without the dashes; also how `-L` names it.
    pub const fn option(self) -> &'static str {
        match self {
            Self::Conntrack => "ctstate",
            Self::State => "state",
        }
    }
}

/// What a rule does with a packet that it matches.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Target {
    /// Count it and go on.
    #[default]
    None,
    Accept,
    Drop,
    Return,
    Jump(ChainName),
    Goto(ChainName),
    /// `CT --notrack` in an older spelling.
    Notrack,
    Ct(CtTarget),
    /// REJECT, LOG and others that have options.
    Extended(Extension),
}

impl Target {
    /// As `-g` and `-L` name it, and `-j` but for NOTRACK; empty for [`Target::None`].
    pub fn name(&self) -> &str {
        match self {
            Self::None => "",
            Self::Accept => "ACCEPT",
            Self::Drop => "DROP",
            Self::Return => "RETURN",
            Self::Notrack | Self::Ct(_) => "CT",
            Self::Extended(extension) => extension.module.name,
            Self::Jump(chain) | Self::Goto(chain) => chain.as_str(),
        }
    }

    /// The chain it leads to.
    pub fn chain(&self) -> Option<&ChainName> {
        match self {
            Self::Jump(chain) | Self::Goto(chain) => Some(chain),
            _ => None,
        }
    }

    /// Follows a chain that is called otherwise now.
    pub(crate) fn rename(&mut self, from: &str, to: &ChainName) {
        match self {
            Self::Jump(chain) | Self::Goto(chain) if chain.as_str() == from => *chain = to.clone(),
            _ => {}
        }
    }

    /// The target of this name that is no chain.
    pub fn named(name: &str) -> Option<Self> {
        match name {
            "NOTRACK" => Some(Self::Notrack),
            "CT" => Some(Self::Ct(CtTarget::default())),
            _ => {
                let extended = matches::target_named(name).map(Extension::new);
                let mut plain = [Self::Accept, Self::Drop, Self::Return].into_iter();
                let plain = plain.find(|target| target.name() == name);
                plain.or(extended.map(Self::Extended))
            }
        }
    }
}
