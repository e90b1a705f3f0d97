//! Options of matches that a rule has no fields for, and what `-m tcp` says beside ports.

use keepstate_engine::tuple::Family;

use super::RuleBuilder;
use crate::fault::Fault;
use crate::lexer::Word;
use crate::matches::{Context, OptionSpec};
use crate::model::{Extension, Fragments, Match, PortProtocol, Ports, Target, TcpFlags, Test};
use crate::options::Owner;
use crate::problem::Problem;

/// What the name of an option may stand for, among those of matches.
pub(crate) enum Meant {
    Nothing,
    Exact(&'static OptionSpec),
    /// It begins the name of this one alone.
    Begun(&'static OptionSpec),
    /// It begins the names of these.
    Several(String),
}

impl RuleBuilder {
    pub(super) fn has_extension(&self, name: &str) -> bool {
        self.extensions()
            .any(|extension| extension.module.name == name)
    }

    /// The target and matches with options of their own, the last match first.
    fn extensions(&self) -> impl Iterator<Item = &Extension> {
        let target = match &self.rule.target {
            Target::Extended(extension) => Some(extension),
            _ => None,
        };
        let modules = self.modules.iter().rev();
        let matches = modules.filter_map(|module| module.extension.as_ref());
        target.into_iter().chain(matches)
    }

    /// The option of a match that this name is meant for.
    pub(crate) fn extension_option(&self, name: &str) -> Meant {
        let mut extensions = self.extensions();
        if let Some(exact) = extensions.find_map(|extension| extension.module.exact(name)) {
            return Meant::Exact(exact);
        }
        let begun = self
            .extensions()
            .flat_map(|extension| extension.module.begun(name));
        let mut begun: Vec<_> = begun.collect();
        begun.dedup_by_key(|option| option.name);
        match begun.as_slice() {
            [] => Meant::Nothing,
            [option] => Meant::Begun(option),
            _ => {
                let names = begun.iter().map(|option| format!("--{}", option.name));
                Meant::Several(names.collect::<Vec<_>>().join(" "))
            }
        }
    }

    /// Takes an option of a match.
    pub(crate) fn extension(
        &mut self,
        option: &'static OptionSpec,
        word: &Word,
        negated: bool,
    ) -> Result<(), Fault> {
        let context = Context {
            family: self.family,
            protocol: self.rule.protocol.as_ref(),
        };
        if let Target::Extended(extension) = &mut self.rule.target
            && extension.module.exact(option.name).is_some()
        {
            return extension.option(&context, option, word, negated);
        }
        let mut extensions = self.modules.iter_mut().rev();
        let owner = extensions.find_map(|module| {
            let extension = module.extension.as_mut();
            extension.filter(|extension| extension.module.exact(option.name).is_some())
        });
        match owner {
            Some(owner) => owner.option(&context, option, word, negated),
            None => Err(Fault::at(word, Problem::ArgumentBad(word.text.clone()))),
        }
    }

    /// `--tcp-flags`.
    pub(crate) fn tcp_flags(
        &mut self,
        mask: &Word,
        wanted: &Word,
        negated: bool,
    ) -> Result<(), Fault> {
        let value = TcpFlags::parse(&mask.text, &wanted.text)
            .map_err(|problem| Fault::at(mask, problem))?;
        self.set_flags(mask, Test { value, negated })
    }

    /// `--syn`.
    pub(crate) fn syn(&mut self, word: &Word, negated: bool) -> Result<(), Fault> {
        let value = TcpFlags::SYN;
        self.set_flags(word, Test { value, negated })
    }

    fn set_flags(&mut self, word: &Word, test: Test<TcpFlags>) -> Result<(), Fault> {
        let Some(ports) = self.tcp(word)? else {
            return Ok(());
        };
        match ports.flags.replace(test) {
            Some(_) => {
                let text = "Only one of `--syn' or `--tcp-flags'  allowed";
                Err(Fault::at(word, Problem::Match(text.into())))
            }
            None => Ok(()),
        }
    }

    /// `--tcp-option`.
    pub(super) fn tcp_option(&mut self, word: &Word, negated: bool) -> Result<(), Fault> {
        let number = word.text.parse().ok().filter(|number: &u8| *number != 0);
        let Some(value) = number else {
            let text = format!("Bad TCP option \"{}\"", word.text);
            return Err(Fault::at(word, Problem::Match(text)));
        };
        let Some(ports) = self.tcp(word)? else {
            return Ok(());
        };
        match ports.option.replace(Test { value, negated }) {
            Some(_) => {
                let text = "Only one `--tcp-option' allowed";
                Err(Fault::at(word, Problem::Match(text.into())))
            }
            None => Ok(()),
        }
    }

    /// What `-m tcp` says so far.
    fn tcp(&mut self, word: &Word) -> Result<Option<&mut Ports>, Fault> {
        let module = self.module(Owner::Ports, word)?;
        let tcp = Ports::of(PortProtocol::Tcp);
        let content = module.content.get_or_insert(Match::Ports(tcp));
        match content {
            Match::Ports(ports) => Ok(Some(ports)),
            _ => Ok(None),
        }
    }

    /// `-f`.
    pub(crate) fn fragments(&mut self, word: &Word, negated: bool) -> Result<(), Fault> {
        if self.family == Family::V6 {
            let text = "`-f' is not supported in IPv6, use -m frag instead";
            return Err(Fault::at(word, Problem::Match(text.into())));
        }
        self.rule.fragment = Some(if negated {
            Fragments::Others
        } else {
            Fragments::Later
        });
        Ok(())
    }
}
