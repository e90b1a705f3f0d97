//! Long options by name, and those that belong to matches.

use super::Parser;
use crate::fault::Fault;
use crate::lexer::Word;
use crate::matches::{Form, OptionSpec};
use crate::options::{self, Opt, OptionDefinition};
use crate::problem::Problem;
use crate::rule::Meant;

impl<'a> Parser<'a> {
    pub(super) fn find_long(
        &self,
        word: &Word,
        name: &str,
    ) -> Result<Option<&'static OptionDefinition>, Fault> {
        options::long(name, |owner| self.builder.has(owner))
            .map_err(|problem| Fault::at(word, problem))
    }

    /// The option of a match that is meant, if it is none of `found`.
    pub(super) fn find_extension(
        &self,
        word: &Word,
        name: &str,
        found: Option<&OptionDefinition>,
    ) -> Result<Option<&'static OptionSpec>, Fault> {
        let is_exact = found.is_some_and(|known| known.long.contains(&name));
        let meant = self.builder.extension_option(name);
        match (meant, found) {
            (Meant::Exact(option), _) => Ok(Some(option)),
            (_, Some(_)) if is_exact => Ok(None),
            (Meant::Begun(option), None) => Ok(Some(option)),
            (Meant::Begun(option), Some(known)) => Err(Fault::at(
                word,
                Problem::OptionAmbiguous {
                    option: format!("--{name}"),
                    candidates: format!("--{} --{}", known.long[0], option.name),
                },
            )),
            (Meant::Nothing, _) => Ok(None),
            (Meant::Several(candidates), _) => Err(Fault::at(
                word,
                Problem::OptionAmbiguous {
                    option: format!("--{name}"),
                    candidates,
                },
            )),
        }
    }

    pub(super) fn extension(
        &mut self,
        option: &'static OptionSpec,
        word: &'a Word,
        attached: Option<&str>,
    ) -> Result<(), Fault> {
        let negated = self.negation.take().is_some();
        let argument = match (option.form, attached) {
            (Form::Nothing, Some(_)) => {
                let problem = Problem::ArgumentUnexpected(format!("--{}", option.name));
                return Err(Fault::at(word, problem));
            }
            (Form::Nothing, None) => word.clone(),
            (_, Some(value)) => Word {
                text: value.into(),
                span: word.span,
            },
            (_, None) => self.next().cloned().ok_or_else(|| {
                let shown = word.text.clone();
                Fault::at(word, Problem::ArgumentMissing(shown))
            })?,
        };
        let argument = match option.form {
            Form::Pair(_) => self.pair(option, word, argument)?,
            _ => argument,
        };
        self.used.push((Opt::Match, word));
        self.builder.extension(option, &argument, negated)
    }

    /// The argument of an option that takes two, with the second.
    fn pair(
        &mut self,
        option: &'static OptionSpec,
        word: &Word,
        first: Word,
    ) -> Result<Word, Fault> {
        let missing = Problem::Match(format!("--{} requires two args.", option.name));
        let second = self.next_operand().cloned();
        let second = second.ok_or_else(|| Fault::at(word, missing))?;
        Ok(Word {
            text: format!("{} {}", first.text, second.text),
            span: first.span,
        })
    }

    /// `--tcp-flags MASK WANTED`.
    pub(super) fn tcp_flags(
        &mut self,
        word: &Word,
        mask: &Word,
        negated: bool,
    ) -> Result<(), Fault> {
        let missing = Problem::Match("--tcp-flags requires two args.".into());
        let wanted = self.next_operand().cloned();
        let wanted = wanted.ok_or_else(|| Fault::at(word, missing))?;
        self.builder.tcp_flags(mask, &wanted, negated)
    }
}
