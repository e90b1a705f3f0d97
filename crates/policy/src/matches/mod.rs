//! The matches beside those that a rule has fields for: one [`Module`] each, a table of options
//! and what it does with their values.
//!
//! Names, checks and messages are those of iptables 1.8.9; a test holds them against the program.

mod address;
mod addrtype;
mod chunks;
mod counted;
mod flow;
mod frame;
mod header;
mod icmp;
mod label;
mod marking;
mod placed;
mod ports;
mod rate;
mod rpfilter;
mod set;
mod sources;
mod synproxy;
mod targets;
mod tcp;
mod text;
mod time;
mod tracked;
mod value;

use std::fmt;

use keepstate_engine::condition::{flag, kind};
use keepstate_engine::policy::Condition;
use keepstate_engine::tuple::Family;

pub(crate) use ports::in_order;
pub(crate) use set::NAMING as NAMING_SETS;
pub use set::SET_NAME_BYTES_MAX;
pub(crate) use sources::recent_name;
pub(crate) use sources::{connections_list, list_words};
pub use sources::{rate_list, recent_list};
pub use targets::{Note, NoteTarget};
pub use tcp::TcpFlags;
pub(crate) use tcp::{tcp_flags, tcp_option};
pub(crate) use value::Value;

use crate::fault::Fault;
use crate::lexer::Word;
use crate::model::{Fragments, Test};
use crate::problem::Problem;
use crate::protocol::Protocol;

/// A match that `-m` names.
pub(crate) struct Module {
    pub(crate) name: &'static str,
    /// The family that alone has it.
    family: Option<Family>,
    /// In the order in which iptables-save prints them.
    options: &'static [OptionSpec],
    /// What is wrong with the options together.
    check: fn(&Extension, &Context<'_>) -> Result<(), Problem>,
    /// What the kernel says of it, and why.
    refuse: fn(&Extension, &Context<'_>) -> Option<Refusal>,
    /// Fills in what was not said.
    complete: fn(&mut Extension, &Context<'_>),
    /// As `-L` prints it; `true` for numbers in place of names.
    list: fn(&Extension, bool) -> String,
    lower: fn(&Extension, &mut Lowered),
}

/// A rule that iptables takes and the kernel does not.
pub(crate) struct Refusal {
    pub(crate) error: &'static str,
    pub(crate) hint: String,
}

/// An option of a match.
pub(crate) struct OptionSpec {
    /// As messages name it.
    pub(crate) name: &'static str,
    /// Other names.
    aliases: &'static [&'static str],
    /// As it is printed; not at all if empty.
    saved: &'static str,
    pub(crate) form: Form,
    negation: Negation,
    need: Need,
    /// Names of options that may not stand beside it.
    excludes: &'static [&'static str],
    /// Name of an option that must stand beside it.
    also: Option<&'static str>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Negation {
    Refused,
    Allowed,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Need {
    May,
    Must,
}

/// What follows an option.
#[derive(Clone, Copy)]
pub(crate) enum Form {
    Nothing,
    Number {
        least: u64,
        most: u64,
    },
    /// `5`, `5:9`, `5:`, `:9`.
    Range {
        most: u64,
    },
    /// `value/mask`.
    Mark,
    Own(fn(&Context<'_>, &str) -> Result<Value, Problem>),
    /// The same with two words, that are given with a space between them.
    Pair(fn(&Context<'_>, &str) -> Result<Value, Problem>),
}

impl OptionSpec {
    const fn new(name: &'static str, form: Form) -> Self {
        Self {
            name,
            aliases: &[],
            saved: name,
            form,
            negation: Negation::Refused,
            need: Need::May,
            excludes: &[],
            also: None,
        }
    }

    const fn negatable(self) -> Self {
        Self {
            negation: Negation::Allowed,
            ..self
        }
    }

    const fn must(self) -> Self {
        Self {
            need: Need::Must,
            ..self
        }
    }

    const fn aliases(self, aliases: &'static [&'static str]) -> Self {
        Self { aliases, ..self }
    }

    const fn saved(self, saved: &'static str) -> Self {
        Self { saved, ..self }
    }

    const fn excludes(self, excludes: &'static [&'static str]) -> Self {
        Self { excludes, ..self }
    }

    const fn also(self, also: &'static str) -> Self {
        Self {
            also: Some(also),
            ..self
        }
    }

    fn names(&self) -> impl Iterator<Item = &'static str> {
        [self.name].into_iter().chain(self.aliases.iter().copied())
    }
}

impl Module {
    const fn new(
        name: &'static str,
        options: &'static [OptionSpec],
        list: fn(&Extension, bool) -> String,
        lower: fn(&Extension, &mut Lowered),
    ) -> Self {
        Self {
            name,
            family: None,
            options,
            check: |_, _| Ok(()),
            refuse: |_, _| None,
            complete: |_, _| {},
            list,
            lower,
        }
    }

    const fn family(self, family: Family) -> Self {
        Self {
            family: Some(family),
            ..self
        }
    }

    const fn check(self, check: fn(&Extension, &Context<'_>) -> Result<(), Problem>) -> Self {
        Self { check, ..self }
    }

    const fn refuse(self, refuse: fn(&Extension, &Context<'_>) -> Option<Refusal>) -> Self {
        Self { refuse, ..self }
    }

    const fn complete(self, complete: fn(&mut Extension, &Context<'_>)) -> Self {
        Self { complete, ..self }
    }

    pub(crate) fn exact(&'static self, name: &str) -> Option<&'static OptionSpec> {
        let mut options = self.options.iter();
        options.find(|option| option.names().any(|known| known == name))
    }

    /// The options whose name begins so.
    pub(crate) fn begun<'a>(
        &'static self,
        name: &'a str,
    ) -> impl Iterator<Item = &'static OptionSpec> + use<'a> {
        let begins = move |option: &&OptionSpec| option.names().any(|long| long.starts_with(name));
        self.options.iter().filter(begins)
    }
}

/// The rule around a match.
pub(crate) struct Context<'a> {
    pub(crate) family: Family,
    pub(crate) protocol: Option<&'a Test<Protocol>>,
}

impl Context<'_> {
    /// Whether the rule is for this protocol alone.
    fn is(&self, protocol: u8) -> bool {
        self.protocol
            .is_some_and(|test| !test.negated && test.value.0 == protocol)
    }
}

/// A match as it was written.
#[derive(Clone)]
pub struct Extension {
    pub(crate) module: &'static Module,
    given: Vec<Given>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Given {
    name: &'static str,
    negated: bool,
    pub(crate) value: Value,
}

impl PartialEq for Extension {
    fn eq(&self, other: &Self) -> bool {
        self.module.name == other.module.name && self.given == other.given
    }
}

impl Eq for Extension {}

impl fmt::Debug for Extension {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

/// As iptables-save prints it, `-m` included.
impl fmt::Display for Extension {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, " -m {}", self.module.name)?;
        self.write_options(f)
    }
}

impl Extension {
    /// Without `-m` and its name.
    pub(crate) fn write_options(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for option in self.module.options {
            let Some(given) = self.find(option.name) else {
                continue;
            };
            let value = given.value.to_string();
            if option.saved.is_empty() || value == Value::UNSAVED {
                continue;
            }
            let sign = if given.negated { " !" } else { "" };
            write!(f, "{sign} --{}", option.saved)?;
            if !value.is_empty() {
                write!(f, " {value}")?;
            }
        }
        Ok(())
    }
}

impl Extension {
    pub(crate) const fn new(module: &'static Module) -> Self {
        Self {
            module,
            given: Vec::new(),
        }
    }

    pub(crate) const fn is_empty(&self) -> bool {
        self.given.is_empty()
    }

    /// Takes an option.
    pub(crate) fn option(
        &mut self,
        context: &Context<'_>,
        option: &'static OptionSpec,
        word: &Word,
        negated: bool,
    ) -> Result<(), Fault> {
        let module = self.module.name;
        let fail = |problem| Err(Fault::at(word, problem));
        if self.find(option.name).is_some() {
            let option = option.name;
            return fail(Problem::MatchOptionTwice { module, option });
        }
        if negated && option.negation == Negation::Refused {
            let text = format!("{module}: option \"--{}\" cannot be inverted.", option.name);
            return fail(Problem::Match(text));
        }
        let value = value::parse(context, module, option, &word.text)
            .map_err(|problem| Fault::at(word, problem))?;
        self.given.push(Given {
            name: option.name,
            negated,
            value,
        });
        Ok(())
    }

    /// All options are there.
    pub(crate) fn finish(&mut self, context: &Context<'_>) -> Result<(), Problem> {
        let module = self.module.name;
        (self.module.check)(self, context)?;
        for option in self.module.options {
            let is_given = self.find(option.name).is_some();
            if option.need == Need::Must && !is_given {
                let option = option.name;
                return Err(Problem::MatchOptionMissing { module, option });
            }
            if !is_given {
                continue;
            }
            let said = |text| Err(Problem::Match(text));
            if let Some(also) = option.also
                && self.find(also).is_none()
            {
                let name = option.name;
                return said(format!(
                    "{module}: option \"--{name}\" also requires \"--{also}\"."
                ));
            }
            let mut excludes = option.excludes.iter();
            if let Some(other) = excludes.find(|other| self.find(other).is_some()) {
                let name = option.name;
                return said(format!(
                    "{module}: option \"--{name}\" cannot be used together with \"--{other}\"."
                ));
            }
        }
        (self.module.complete)(self, context);
        let place = |given: &Given| {
            let mut options = self.module.options.iter();
            options.position(|option| option.name == given.name)
        };
        self.given.sort_by_key(place);
        Ok(())
    }

    /// What the kernel says of it, if it refuses the rule.
    pub(crate) fn refusal(&self, context: &Context<'_>) -> Option<Refusal> {
        (self.module.refuse)(self, context)
    }

    pub(crate) fn list(&self, numeric: bool) -> String {
        (self.module.list)(self, numeric)
    }

    /// How many conditions it is compiled to.
    pub(crate) fn condition_count(&self) -> usize {
        let mut lowered = Lowered {
            family: Family::V4,
            conditions: Vec::new(),
            sets: Vec::new(),
            flow_only: true,
            with_state: false,
        };
        self.lower(&mut lowered);
        lowered.conditions.len()
    }

    pub(crate) fn lower(&self, lowered: &mut Lowered) {
        (self.module.lower)(self, lowered);
    }

    pub(crate) fn find(&self, name: &str) -> Option<&Given> {
        self.given.iter().find(|given| given.name == name)
    }

    fn has(&self, name: &str) -> bool {
        self.find(name).is_some()
    }

    /// A number that was given.
    fn number(&self, name: &str) -> Option<u64> {
        match self.find(name)?.value {
            Value::Number(number) => Some(number),
            _ => None,
        }
    }

    /// Sets what was not given.
    fn default(&mut self, name: &'static str, value: Value) {
        if !self.has(name) {
            self.given.push(Given {
                name,
                negated: false,
                value,
            });
        }
    }
}

/// Conditions of one rule.
pub(crate) struct Lowered {
    pub(crate) family: Family,
    pub(crate) conditions: Vec<Condition>,
    /// Which of them name a set.
    pub(crate) sets: Vec<(usize, String)>,
    /// Nothing that is asked differs between the packets of one direction of a flow.
    pub(crate) flow_only: bool,
    /// The match names states too.
    pub(crate) with_state: bool,
}

impl Lowered {
    /// Asks something of each packet anew.
    fn ask_packet(&mut self, kind: u16, flags: u16, data: &[u32]) {
        self.flow_only = false;
        self.ask_flow(kind, flags, data);
    }

    /// Asks what is the same for all packets of one direction of a flow.
    fn ask_flow(&mut self, kind: u16, flags: u16, data: &[u32]) {
        let mut condition = Condition {
            kind,
            flags,
            data: [0; 7],
        };
        for (place, word) in condition.data.iter_mut().zip(data) {
            *place = *word;
        }
        self.conditions.push(condition);
    }

    /// Whether something has been asked that counts the packets it is asked of.
    pub(crate) fn counts(&self) -> bool {
        self.conditions.iter().any(|condition| {
            matches!(
                condition.kind,
                kind::NTH
                    | kind::LIMIT
                    | kind::RECENT
                    | kind::RATE
                    | kind::CONNECTIONS
                    | kind::FLOW_LABEL
            )
        })
    }

    /// The packet is in one of these states.
    pub(crate) fn states(&mut self, states: u32) {
        self.ask_flow(kind::STATES, 0, &[states]);
    }

    /// `-f`, or its contrary.
    pub(crate) fn fragments(&mut self, fragments: Fragments) {
        let negated = fragments == Fragments::Others;
        self.ask_packet(kind::FRAGMENT, not(negated), &[]);
    }

    /// Joins the conditions since `first`: one of them is enough.
    fn join_since(&mut self, first: usize) {
        let joined = &mut self.conditions[first..];
        let count = joined.len();
        for (number, condition) in joined.iter_mut().enumerate() {
            let others = count - number - 1;
            if others != 0 {
                condition.flags |= flag::OR | (others as u16) << flag::COUNT_SHIFT;
            }
        }
    }
}

const fn not(negated: bool) -> u16 {
    if negated { flag::NOT } else { 0 }
}

const MODULES: &[&Module] = &[
    &ports::MULTIPORT,
    &ports::SCTP,
    &ports::DCCP,
    &address::IPRANGE,
    &icmp::ICMP,
    &icmp::ICMP6,
    &header::LENGTH,
    &header::TTL,
    &header::HL,
    &header::DSCP,
    &header::TOS,
    &header::ECN,
    &tcp::TCPMSS,
    &frame::MAC,
    &frame::PKTTYPE,
    &addrtype::ADDRTYPE,
    &rpfilter::RPFILTER,
    &counted::STATISTIC,
    &counted::LIMIT,
    &rate::HASHLIMIT,
    &sources::RECENT,
    &sources::CONNLIMIT,
    &set::SET,
    &flow::MARK,
    &flow::CONNMARK,
    &flow::CONNBYTES,
    &flow::HELPER,
    &label::CONNLABEL,
    &time::TIME,
    &text::STRING,
];

/// What `-m conntrack` says beside states.
pub(crate) static CONNTRACK: &Module = &tracked::CONNTRACK;

/// The match of this name.
pub(crate) fn named(name: &str, family: Family) -> Option<&'static Module> {
    let mut modules = MODULES.iter().copied();
    modules.find(|module| module.name == name && module.family.is_none_or(|only| only == family))
}

/// The match that `-p` brings along.
pub(crate) fn implied(protocol: u8, family: Family) -> Option<&'static Module> {
    match (protocol, family) {
        (1, Family::V4) => Some(&icmp::ICMP),
        (58, Family::V6) => Some(&icmp::ICMP6),
        (132, _) => Some(&ports::SCTP),
        (33, _) => Some(&ports::DCCP),
        _ => None,
    }
}

/// Targets with options of their own.
const TARGETS: &[&Module] = &[
    &targets::REJECT,
    &targets::LOG,
    &targets::NFLOG,
    &marking::MARK,
    &marking::CONNMARK,
    &synproxy::SYNPROXY,
    &set::TARGET,
];

/// The target of this name.
pub(crate) fn target_named(name: &str) -> Option<&'static Module> {
    TARGETS.iter().copied().find(|module| module.name == name)
}

/// The target that has an option of this name.
pub(crate) fn target_of(option: &str) -> Option<&'static str> {
    let mut targets = TARGETS.iter();
    let found = targets.find(|module| module.exact(option).is_some())?;
    Some(found.name)
}

/// The names of all.
pub(crate) fn names() -> impl Iterator<Item = &'static str> {
    MODULES.iter().map(|module| module.name)
}

/// The match that has an option of this name.
pub(crate) fn owner_of(option: &str) -> Option<&'static str> {
    let mut modules = MODULES.iter();
    let found = modules.find(|module| module.exact(option).is_some())?;
    Some(found.name)
}
