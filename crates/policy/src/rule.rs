//! Builds rules out of the options that describe one.

mod extension;

use keepstate_engine::tuple::Family;

use crate::ct;
use crate::diagnostic::nearest;
use crate::fault::Fault;
use crate::lexer::Word;
use crate::matches::{self, Context};
use crate::model::{
    ChainName, Counters, CtTarget, Extension, Interface, Match, PortProtocol, PortRange, Ports,
    Rule, StateSet, StateSpelling, States, Target, Test,
};
use crate::network::Network;
use crate::options::{FOREIGN_MATCHES, FOREIGN_TARGETS, Opt, Owner, definition, instead_of};
use crate::problem::Problem;
use crate::protocol::Protocol;
use crate::services;
pub(crate) use extension::Meant;

/// Rules that one command may stand for, through lists of addresses.
pub const RULES_PER_COMMAND_MAX: usize = 4096;

/// Longest comment, in bytes.
pub const COMMENT_BYTES_MAX: usize = 255;

/// Longest name of a timeout policy or a helper, in bytes.
const CT_NAME_BYTES_MAX: usize = 31;

/// What a command says about a rule. Lists of addresses make several rules of one.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct RuleSpec {
    pub(crate) rules: Vec<Rule>,
    /// The word that names the target.
    pub(crate) target: Option<Word>,
    /// Whether a list of addresses was given.
    pub(crate) address_list: bool,
}

/// Collects what a rule's options say.
pub(crate) struct RuleBuilder {
    family: Family,
    rule: Rule,
    sources: Vec<Option<Test<Network>>>,
    destinations: Vec<Option<Test<Network>>>,
    target: Option<Word>,
    /// The words after `-m`, with the match that each has brought; `None` is one that says
    /// nothing yet.
    modules: Vec<Module>,
}

struct Module {
    kind: ModuleKind,
    named_by: Word,
    content: Option<Match>,
    /// What it says that no field is for.
    extension: Option<Extension>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum ModuleKind {
    Ports(PortProtocol),
    States(StateSpelling),
    Comment,
    Extension,
}

impl RuleBuilder {
    pub(crate) fn new(family: Family) -> Self {
        Self {
            family,
            rule: Rule::default(),
            sources: vec![None],
            destinations: vec![None],
            target: None,
            modules: Vec::new(),
        }
    }

    /// Whether the options of this owner are available.
    pub(crate) fn has(&self, owner: Owner) -> bool {
        if owner == Owner::Ct {
            return matches!(self.rule.target, Target::Ct(_));
        }
        if owner == Owner::Tcp {
            let tcp = ModuleKind::Ports(PortProtocol::Tcp);
            return self.modules.iter().any(|module| module.kind == tcp);
        }
        self.modules
            .iter()
            .any(|module| module.kind.owner() == owner)
    }

    /// Loads `-m tcp` or `-m udp` where `-p` named that protocol, as iptables does when it meets an
    /// option that it does not know.
    pub(crate) fn load_implied(&mut self, word: &Word) -> bool {
        let protocol = self.rule.protocol.as_ref().filter(|test| !test.negated);
        let ports = [PortProtocol::Tcp, PortProtocol::Udp]
            .into_iter()
            .find(|ports| protocol.is_some_and(|test| test.value == ports.protocol()));
        let implied = protocol.and_then(|test| matches::implied(test.value.0, self.family));
        if let Some(module) = implied.filter(|module| !self.has_extension(module.name)) {
            self.modules.push(Module::of_extension(module, word));
            return true;
        }
        let Some(ports) = ports.filter(|_| !self.has(Owner::Ports)) else {
            return false;
        };
        self.modules
            .push(Module::new(ModuleKind::Ports(ports), word));
        true
    }

    /// Takes one option with its argument.
    pub(crate) fn option(&mut self, option: Opt, word: &Word, negated: bool) -> Result<(), Fault> {
        match option {
            Opt::Source => self.sources = self.addresses(word, negated)?,
            Opt::Destination => self.destinations = self.addresses(word, negated)?,
            Opt::InInterface => self.rule.in_interface = interface(word, negated)?,
            Opt::OutInterface => self.rule.out_interface = interface(word, negated)?,
            Opt::Protocol => self.rule.protocol = protocol(word, negated)?,
            Opt::Jump | Opt::Goto => self.target(option, word)?,
            Opt::Match => self.load(word)?,
            Opt::SourcePort | Opt::DestinationPort => self.port(option, word, negated)?,
            Opt::CtState => self.states(StateSpelling::Conntrack, word, negated)?,
            Opt::State => self.states(StateSpelling::State, word, negated)?,
            Opt::Comment => self.comment(word)?,
            Opt::TcpOption => self.tcp_option(word, negated)?,
            Opt::Helper | Opt::CtTimeout => self.ct_name(option, word)?,
            Opt::Zone => self.zone(word)?,
            Opt::CtEvents | Opt::ExpectationEvents => self.ct_events(option, word)?,
            _ => return Err(Fault::at(word, Problem::ArgumentBad(word.text.clone()))),
        }
        Ok(())
    }

    /// `--notrack`.
    pub(crate) fn set_notrack(&mut self, word: &Word) -> Result<(), Fault> {
        let Target::Ct(ct) = &mut self.rule.target else {
            return Ok(());
        };
        if std::mem::replace(&mut ct.notrack, true) {
            return Err(ct_twice("notrack", word));
        }
        Ok(())
    }

    fn ct_name(&mut self, option: Opt, word: &Word) -> Result<(), Fault> {
        let Target::Ct(CtTarget {
            helper, timeout, ..
        }) = &mut self.rule.target
        else {
            return Ok(());
        };
        let (name, place) = match option {
            Opt::Helper => ("helper", helper),
            _ => ("timeout", timeout),
        };
        let odd = |c: char| c.is_whitespace() || c.is_control() || c == '"';
        if word.text.is_empty() || word.text.contains(odd) || word.text.len() > CT_NAME_BYTES_MAX {
            return Err(Fault::at(word, Problem::CtName(word.text.clone())));
        }
        match place.replace(word.text.clone()) {
            Some(_) => Err(ct_twice(name, word)),
            None => Ok(()),
        }
    }

    fn zone(&mut self, word: &Word) -> Result<(), Fault> {
        let Target::Ct(ct) = &mut self.rule.target else {
            return Ok(());
        };
        let text = word.text.as_str();
        if text == "mark" {
            let hint = "give the number of a zone, and a rule for each mark";
            return Err(Fault::at(word, Problem::CtZoneMark).hint(Some(hint.into())));
        }
        let zone = number(text).and_then(|zone| u16::try_from(zone).ok());
        let zone = zone.ok_or_else(|| Fault::at(word, Problem::CtZone(text.into())))?;
        match ct.zone.replace(zone) {
            Some(_) => Err(ct_twice("zone", word)),
            None => Ok(()),
        }
    }

    fn ct_events(&mut self, option: Opt, word: &Word) -> Result<(), Fault> {
        let Target::Ct(ct) = &mut self.rule.target else {
            return Ok(());
        };
        let (name, known, place) = match option {
            Opt::CtEvents => ("ctevents", ct::EVENTS, &mut ct.events),
            _ => (
                "expevents",
                ct::EXPECTATION_EVENTS,
                &mut ct.expectation_events,
            ),
        };
        let events = ct::parse_events(known, &word.text).map_err(|unknown| {
            let problem = Problem::CtEvent(unknown.into());
            let hint = nearest(unknown, known.iter().map(|(name, _)| *name))
                .map(|name| format!("did you mean `{name}'?"));
            Fault::at(word, problem).hint(hint)
        })?;
        match place.replace(events) {
            Some(_) => Err(ct_twice(name, word)),
            None => Ok(()),
        }
    }

    pub(crate) fn set_counters(&mut self, counters: Counters) {
        self.rule.counters = counters;
    }

    /// The rules, one for each pair of addresses.
    pub(crate) fn finish(self) -> Result<RuleSpec, Fault> {
        let Self {
            rule,
            sources,
            destinations,
            target,
            modules,
            family,
        } = self;
        let mut rule = rule;
        if let (Target::Extended(extension), Some(word)) = (&mut rule.target, &target) {
            let context = Context {
                family,
                protocol: rule.protocol.as_ref(),
            };
            let finished = extension.finish(&context);
            finished.map_err(|problem| Fault::at(word, problem))?;
        }
        for module in modules {
            let context = Context {
                family,
                protocol: rule.protocol.as_ref(),
            };
            let finished = module.finish(&context)?;
            rule.matches.push(finished);
        }
        let mut rules = Vec::new();
        for source in &sources {
            for destination in &destinations {
                rules.push(Rule {
                    source: source.clone(),
                    destination: destination.clone(),
                    ..rule.clone()
                });
            }
        }
        Ok(RuleSpec {
            address_list: rules.len() > 1,
            rules,
            target,
        })
    }

    fn addresses(&self, word: &Word, negated: bool) -> Result<Vec<Option<Test<Network>>>, Fault> {
        let count = word.text.split(',').count();
        if count > 1 && negated {
            return Err(Fault::at(word, Problem::AddressListNegated));
        }
        let others = self.sources.len().max(self.destinations.len());
        if count.saturating_mul(others) > RULES_PER_COMMAND_MAX {
            let problem = Problem::AddressListTooLong(RULES_PER_COMMAND_MAX);
            return Err(Fault::at(word, problem));
        }
        let networks = word.text.split(',').map(|text| {
            let network = Network::parse(self.family, text)
                .map_err(|problem| address_fault(word, text, problem))?;
            match (network.is_any(), negated) {
                (true, true) => Err(Fault::at(word, Problem::AddressNever(text.into()))),
                (true, false) => Ok(None),
                (false, _) => Ok(Some(Test {
                    value: network,
                    negated,
                })),
            }
        });
        networks.collect()
    }

    fn target(&mut self, option: Opt, word: &Word) -> Result<(), Fault> {
        if let Some(target) = Target::named(&word.text).filter(|_| option == Opt::Jump) {
            self.rule.target = target;
            self.target = Some(word.clone());
            return Ok(());
        }
        if FOREIGN_TARGETS.contains(&word.text.as_str()) {
            let what = format!("the target {}", word.text);
            let fault = Fault::at(word, Problem::NotSupported { what });
            return Err(fault.hint(instead_of(&word.text)));
        }
        let chain = ChainName::new(&word.text).map_err(|_| {
            let problem = Problem::TargetUnknown(word.text.clone());
            Fault::at(word, problem)
        })?;
        self.rule.target = match option {
            Opt::Goto => Target::Goto(chain),
            _ => Target::Jump(chain),
        };
        self.target = Some(word.clone());
        Ok(())
    }

    fn load(&mut self, word: &Word) -> Result<(), Fault> {
        if let Some(module) = matches::named(&word.text, self.family) {
            self.modules.push(Module::of_extension(module, word));
            return Ok(());
        }
        let kind = match word.text.as_str() {
            "tcp" => ModuleKind::Ports(PortProtocol::Tcp),
            "udp" => ModuleKind::Ports(PortProtocol::Udp),
            "conntrack" => ModuleKind::States(StateSpelling::Conntrack),
            "state" => ModuleKind::States(StateSpelling::State),
            "comment" => ModuleKind::Comment,
            name if FOREIGN_MATCHES.contains(&name) => {
                let what = format!("the match \"{name}\"");
                let fault = Fault::at(word, Problem::NotSupported { what });
                return Err(fault.hint(instead_of(name)));
            }
            name => {
                let known = ["tcp", "udp", "conntrack", "state", "comment"];
                let known = known.into_iter().chain(matches::names());
                let known = known.chain(FOREIGN_MATCHES.iter().copied());
                let hint = nearest(name, known).map(|name| format!("did you mean `{name}'?"));
                let problem = Problem::MatchUnknown(name.into());
                return Err(Fault::at(word, problem).hint(hint));
            }
        };
        // One match of each protocol holds all of its ports, however often it is named.
        let ports = matches!(kind, ModuleKind::Ports(_));
        if !ports || !self.modules.iter().any(|module| module.kind == kind) {
            self.modules.push(Module::new(kind, word));
        }
        Ok(())
    }

    /// The match that an option of `owner` belongs to: the last one named.
    fn module(&mut self, owner: Owner, word: &Word) -> Result<&mut Module, Fault> {
        let modules = self.modules.iter_mut().rev();
        let found = modules
            .into_iter()
            .find(|module| module.kind.owner() == owner);
        found.ok_or_else(|| Fault::at(word, Problem::ArgumentBad(word.text.clone())))
    }

    fn port(&mut self, option: Opt, word: &Word, negated: bool) -> Result<(), Fault> {
        let module = self.module(Owner::Ports, word)?;
        let ModuleKind::Ports(protocol) = module.kind else {
            return Ok(());
        };
        let value = services::range(&word.text, Some(protocol)).map_err(|problem| {
            let known = nearest(&word.text, services::names());
            Fault::at(word, problem).hint(known.map(|name| format!("did you mean `{name}'?")))
        })?;
        let content = module
            .content
            .get_or_insert(Match::Ports(Ports::of(protocol)));
        let Match::Ports(ports) = content else {
            return Ok(());
        };
        let slot = match option {
            Opt::SourcePort => &mut ports.source,
            _ => &mut ports.destination,
        };
        if slot.is_some() {
            let problem = Problem::MatchOptionTwice {
                module: protocol.name(),
                option: definition(option).long[0],
            };
            return Err(Fault::at(word, problem));
        }
        // From the first port on, what is left is a range too, and iptables prints that.
        let (value, negated) = match value {
            PortRange { first: 0, last } if negated && !matches!(last, 0 | u16::MAX) => {
                let rest = PortRange {
                    first: last + 1,
                    last: u16::MAX,
                };
                (rest, false)
            }
            _ => (value, negated),
        };
        // A range of all ports says nothing; iptables does not print it either.
        if value != PortRange::ALL || negated {
            *slot = Some(Test { value, negated });
        }
        Ok(())
    }

    fn states(&mut self, spelling: StateSpelling, word: &Word, negated: bool) -> Result<(), Fault> {
        let kind = ModuleKind::States(spelling);
        let set = state_set(spelling, word)?;
        let module = self.module(kind.owner(), word)?;
        if module.content.is_some() {
            let problem = Problem::MatchOptionTwice {
                module: spelling.name(),
                option: spelling.option(),
            };
            return Err(Fault::at(word, problem));
        }
        module.content = Some(Match::States(States {
            spelling,
            set,
            negated,
        }));
        Ok(())
    }

    fn comment(&mut self, word: &Word) -> Result<(), Fault> {
        if word.text.len() > COMMENT_BYTES_MAX {
            return Err(Fault::at(word, Problem::CommentTooLong));
        }
        if word.text.contains(['\n', '\r', '\0']) {
            return Err(Fault::at(word, Problem::CommentCharacter));
        }
        let module = self.module(Owner::Comment, word)?;
        if module.content.is_some() {
            let problem = Problem::MatchOptionTwice {
                module: "comment",
                option: "comment",
            };
            return Err(Fault::at(word, problem));
        }
        module.content = Some(Match::Comment(word.text.clone()));
        Ok(())
    }
}

impl Module {
    fn new(kind: ModuleKind, named_by: &Word) -> Self {
        Self {
            kind,
            named_by: named_by.clone(),
            content: None,
            extension: (kind == ModuleKind::States(StateSpelling::Conntrack))
                .then(|| Extension::new(matches::CONNTRACK)),
        }
    }

    fn of_extension(module: &'static matches::Module, named_by: &Word) -> Self {
        Self {
            extension: Some(Extension::new(module)),
            ..Self::new(ModuleKind::Extension, named_by)
        }
    }

    /// The match, once all options have been seen.
    fn finish(self, context: &Context<'_>) -> Result<Match, Fault> {
        let protocol = context.protocol;
        if let Some(mut extension) = self
            .extension
            .filter(|extension| self.kind == ModuleKind::Extension || !extension.is_empty())
        {
            let finished = extension.finish(context);
            finished.map_err(|problem| Fault::at(&self.named_by, problem))?;
            return Ok(match (self.kind, self.content) {
                (ModuleKind::Extension, _) => Match::Extension(extension),
                (_, Some(Match::States(states))) => Match::Tracked(Some(states), extension),
                _ => Match::Tracked(None, extension),
            });
        }
        if let ModuleKind::Ports(ports) = self.kind {
            let named =
                protocol.is_some_and(|test| !test.negated && test.value == ports.protocol());
            if !named {
                let name = ports.name();
                let problem = Problem::PortsWithoutProtocol(name.to_uppercase(), name.to_string());
                return Err(Fault::at(&self.named_by, problem));
            }
        }
        let empty = match self.kind {
            ModuleKind::Ports(protocol) => {
                return Ok(self.content.unwrap_or(Match::Ports(Ports::of(protocol))));
            }
            ModuleKind::States(StateSpelling::Conntrack) => Problem::MatchEmpty("conntrack"),
            ModuleKind::States(StateSpelling::State) => Problem::MatchOptionMissing {
                module: "state",
                option: "state",
            },
            ModuleKind::Comment => Problem::MatchOptionMissing {
                module: "comment",
                option: "comment",
            },
            ModuleKind::Extension => return Err(Fault::at(&self.named_by, Problem::ProtocolNever)),
        };
        self.content.ok_or_else(|| Fault::at(&self.named_by, empty))
    }
}

impl ModuleKind {
    const fn owner(self) -> Owner {
        match self {
            Self::Ports(_) => Owner::Ports,
            Self::States(StateSpelling::Conntrack) => Owner::Conntrack,
            Self::States(StateSpelling::State) => Owner::State,
            Self::Comment => Owner::Comment,
            // Its options are found by its own table.
            Self::Extension => Owner::Iptables,
        }
    }
}

/// A number as C reads it: decimal, octal after `0`, hexadecimal after `0x`.
fn number(text: &str) -> Option<u32> {
    let digits = |text: &str, radix| {
        let fits = text.chars().all(|c| c.is_digit(radix));
        u32::from_str_radix(text, radix).ok().filter(|_| fits)
    };
    if let Some(rest) = text.strip_prefix("0x").or_else(|| text.strip_prefix("0X")) {
        return digits(rest, 16);
    }
    match text.strip_prefix('0') {
        Some(rest) if !rest.is_empty() => digits(rest, 8),
        _ => digits(text, 10),
    }
}

fn ct_twice(option: &'static str, word: &Word) -> Fault {
    let module = "CT";
    Fault::at(word, Problem::MatchOptionTwice { module, option })
}

fn address_fault(word: &Word, text: &str, problem: Problem) -> Fault {
    let hint = (text == "!").then(|| "write `!' before the option: `! -s ADDRESS'".to_string());
    Fault::at(word, problem).hint(hint)
}

fn interface(word: &Word, negated: bool) -> Result<Option<Test<Interface>>, Fault> {
    let value = Interface::new(&word.text).map_err(|problem| Fault::at(word, problem))?;
    // `+` alone is every interface.
    Ok((value.as_str() != "+" || negated).then_some(Test { value, negated }))
}

fn protocol(word: &Word, negated: bool) -> Result<Option<Test<Protocol>>, Fault> {
    let value = Protocol::parse(&word.text).map_err(|problem| {
        let known = nearest(&word.text, Protocol::names());
        Fault::at(word, problem).hint(known.map(|name| format!("did you mean `{name}'?")))
    })?;
    match (value == Protocol::ALL, negated) {
        (true, true) => Err(Fault::at(word, Problem::ProtocolNever)),
        (true, false) => Ok(None),
        (false, _) => Ok(Some(Test { value, negated })),
    }
}

fn state_set(spelling: StateSpelling, word: &Word) -> Result<StateSet, Fault> {
    let mut set = StateSet::default();
    for name in word.text.split(',') {
        if spelling == StateSpelling::Conntrack && set.insert_translated(name) {
            continue;
        }
        let Some(state) = StateSet::state_named(name) else {
            let known = StateSet::PRINTED.iter().map(|state| state.name());
            let hint = nearest(&name.to_ascii_uppercase(), known)
                .map(|name| format!("did you mean `{name}'?"));
            let problem = Problem::StateUnknown {
                option: spelling.option(),
                value: name.into(),
            };
            return Err(Fault::at(word, problem).hint(hint));
        };
        set.insert(state);
    }
    Ok(set)
}
