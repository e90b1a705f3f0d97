//! One iptables command, from words to what it asks for.

mod extension;

use keepstate_engine::tuple::Family;

use crate::diagnostic::nearest;
use crate::fault::Fault;
use crate::lexer::{Word, written_at};
use crate::model::{Counters, TableKind};
use crate::options::{self, Argument, Opt, OptionDefinition, definition, may_be_negated};
use crate::problem::{Problem, family_name};
use crate::rule::{RuleBuilder, RuleSpec};

/// What one command asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Command {
    pub(crate) verb: Verb,
    /// The option that named the verb, for messages.
    pub(crate) named_by: Word,
    pub(crate) table: TableName,
    pub(crate) listing: Listing,
}

/// What is to be done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Verb {
    Append(Word, RuleSpec),
    Insert(Word, u32, RuleSpec),
    Replace(Word, u32, RuleSpec),
    Delete(Word, RuleSpec),
    DeleteNumber(Word, u32),
    Check(Word, RuleSpec),
    List(Option<Word>, Option<u32>, ThenZero),
    ListRules(Option<Word>, Option<u32>, ThenZero),
    Flush(Option<Word>),
    Zero(Option<Word>, Option<u32>),
    NewChain(Word),
    DeleteChain(Option<Word>),
    RenameChain(Word, Word),
    Policy(Word, Word, Option<Counters>),
    Help,
    Version,
}

/// Whether `-Z` stands beside `-L` or `-S`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ThenZero {
    No,
    Yes,
}

/// The tables of iptables.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum TableName {
    Known(TableKind),
    /// One that iptables has and we do not have yet.
    Foreign(Word),
}

impl TableName {
    pub(crate) fn parse(word: &Word) -> Result<Self, Fault> {
        match word.text.as_str() {
            "filter" => Ok(Self::Known(TableKind::Filter)),
            "raw" => Ok(Self::Known(TableKind::Raw)),
            "mangle" => Ok(Self::Known(TableKind::Mangle)),
            "nat" | "security" => Ok(Self::Foreign(word.clone())),
            name => Err(Fault::at(word, Problem::TableUnknown(name.into()))),
        }
    }
}

/// How `-L` prints.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Listing {
    pub(crate) numeric: bool,
    pub(crate) verbose: bool,
    pub(crate) exact: bool,
    pub(crate) line_numbers: bool,
}

/// Where the command stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Place {
    CommandLine,
    /// In a file for iptables-restore, within this table.
    Restore,
}

/// Reads a command; `words` begin after the program's name.
pub(crate) fn parse(family: Family, place: Place, words: &[Word]) -> Result<Command, Fault> {
    let mut parser = Parser {
        family,
        place,
        words,
        at: 0,
        negation: None,
        builder: RuleBuilder::new(family),
        verb: None,
        then_zero: ThenZero::No,
        table: TableName::Known(TableKind::Filter),
        counters: None,
        used: Vec::new(),
    };
    while let Some(word) = parser.next() {
        parser.word(word).map_err(|fault| parser.or_table(fault))?;
    }
    parser.finish()
}

struct Parser<'a> {
    family: Family,
    place: Place,
    words: &'a [Word],
    at: usize,
    /// The `!` that waits for its option.
    negation: Option<&'a Word>,
    builder: RuleBuilder,
    verb: Option<(Opt, &'a Word, Operands)>,
    then_zero: ThenZero,
    table: TableName,
    counters: Option<Counters>,
    /// Options other than verbs, as written.
    used: Vec<(Opt, &'a Word)>,
}

/// The words that belong to a verb.
#[derive(Default)]
struct Operands {
    first: Option<Word>,
    second: Option<Word>,
}

impl<'a> Parser<'a> {
    fn next(&mut self) -> Option<&'a Word> {
        let word = self.words.get(self.at)?;
        self.at += 1;
        Some(word)
    }

    /// What else is wrong is no news where the table cannot be had.
    fn or_table(&self, fault: Fault) -> Fault {
        let TableName::Foreign(name) = &self.table else {
            return fault;
        };
        Fault::at(name, Problem::TableNotSupported(name.text.clone()))
    }

    /// The next word, unless it is an option or `!`.
    fn next_operand(&mut self) -> Option<&'a Word> {
        let word = self.words.get(self.at)?;
        if word.text.starts_with(['-', '!']) {
            return None;
        }
        self.at += 1;
        Some(word)
    }

    fn word(&mut self, word: &'a Word) -> Result<(), Fault> {
        let text = word.text.as_str();
        if text == "!" {
            if self.negation.replace(word).is_some() {
                return Err(Fault::at(word, Problem::NegationTwice));
            }
            if self.at == self.words.len() {
                return Err(Fault::at(word, Problem::NegationDangling));
            }
            return Ok(());
        }
        if let Some(name) = text.strip_prefix("--").filter(|name| !name.is_empty()) {
            return self.long(word, name);
        }
        match text.strip_prefix('-') {
            Some(letters) if !letters.is_empty() => self.letters(word, letters),
            _ => Err(Fault::at(word, Problem::ArgumentBad(text.into()))),
        }
    }

    /// `-v`, `-nvL`, `-w5`.
    fn letters(&mut self, word: &'a Word, letters: &str) -> Result<(), Fault> {
        for (index, letter) in letters.char_indices() {
            let Some(known) = options::short(letter) else {
                let shown = format!("-{letter}");
                let (problem, hint) = match letters.chars().count() {
                    1 => options::unrecognised(&shown),
                    // `-dport` is more likely a slip for `--dport` than a row of letters.
                    _ => {
                        let (problem, _) = options::unrecognised(&shown);
                        (problem, self.doubled_dash(letters))
                    }
                };
                return Err(Fault::at(word, problem).hint(hint));
            };
            let rest = &letters[index + letter.len_utf8()..];
            if rest.is_empty() || known.argument == Argument::None {
                self.option(known, word, None)?;
                continue;
            }
            if known.argument == Argument::Required {
                let problem = Problem::ArgumentAttached(known.shown());
                return Err(Fault::at(word, problem).hint(self.doubled_dash(letters)));
            }
            let attached = Word {
                text: rest.into(),
                span: word.span,
            };
            return self.option(known, word, Some(attached));
        }
        Ok(())
    }

    fn doubled_dash(&self, letters: &str) -> Option<String> {
        let mut names = options::DEFINITIONS.iter().flat_map(|known| known.long);
        let found = names.find(|name| letters.len() > 2 && letters.starts_with(**name));
        found.map(|name| format!("did you mean `--{name}'?"))
    }

    /// `--dport`, `--dport=22`, `--destination-p`.
    fn long(&mut self, word: &'a Word, name: &str) -> Result<(), Fault> {
        let (name, attached) = match name.split_once('=') {
            Some((name, value)) => (name, Some(value)),
            None => (name, None),
        };
        let mut found = self.find_long(word, name)?;
        let mut extension = self.find_extension(word, name, found)?;
        if found.is_none() && extension.is_none() && self.builder.load_implied(word) {
            found = self.find_long(word, name)?;
            extension = self.find_extension(word, name, found)?;
        }
        if let Some(option) = extension {
            return self.extension(option, word, attached);
        }
        let Some(known) = found else {
            let (problem, hint) = options::unrecognised(&word.text);
            return Err(Fault::at(word, problem).hint(hint));
        };
        if attached.is_some() && known.argument == Argument::None {
            let problem = Problem::ArgumentUnexpected(format!("--{name}"));
            return Err(Fault::at(word, problem));
        }
        let attached = attached.map(|value| Word {
            text: value.into(),
            span: word.span,
        });
        self.option(known, word, attached)
    }

    fn option(
        &mut self,
        known: &'static OptionDefinition,
        word: &'a Word,
        attached: Option<Word>,
    ) -> Result<(), Fault> {
        let negation = self.negation.take();
        if let Some(sign) = negation.filter(|_| !may_be_negated(known.option)) {
            return Err(Fault::at(sign, Problem::NegationMisplaced(known.shown())));
        }
        let argument = match (known.argument, attached) {
            (_, Some(attached)) => Some(attached),
            (Argument::None, None) => None,
            (Argument::Optional, None) => self.next_operand().cloned(),
            (Argument::Required, None) => Some(self.next().cloned().ok_or_else(|| {
                let shown = word.text.clone();
                Fault::at(word, Problem::ArgumentMissing(shown))
            })?),
        };
        if is_verb(known.option) {
            return self.verb(known, word, argument);
        }
        self.check_repetition(known, word)?;
        self.used.push((known.option, word));
        let Some(argument) = argument else {
            return self.switch(known.option, word, negation.is_some());
        };
        match known.option {
            Opt::Table => self.set_table(word, &argument),
            Opt::SetCounters => self.set_counters(word, &argument),
            Opt::Wait | Opt::WaitInterval => check_wait(&argument),
            Opt::TcpFlags => self.tcp_flags(word, &argument, negation.is_some()),
            option => self.builder.option(option, &argument, negation.is_some()),
        }
    }

    /// An option without an argument.
    fn switch(&mut self, option: Opt, word: &Word, negated: bool) -> Result<(), Fault> {
        let other = match option {
            Opt::Syn => return self.builder.syn(word, negated),
            Opt::Fragment => return self.builder.fragments(word, negated),
            Opt::Notrack => return self.builder.set_notrack(word),
            Opt::Ipv4 => Family::V4,
            Opt::Ipv6 => Family::V6,
            _ => return Ok(()),
        };
        if other != self.family {
            let problem = Problem::FamilyOption(match other {
                Family::V4 => "-4",
                Family::V6 => "-6",
            });
            let hint = format!("this is a command for {}", family_name(self.family));
            return Err(Fault::at(word, problem).hint(Some(hint)));
        }
        Ok(())
    }

    fn check_repetition(&self, known: &OptionDefinition, word: &Word) -> Result<(), Fault> {
        let once = matches!(
            known.option,
            Opt::Protocol
                | Opt::Source
                | Opt::Destination
                | Opt::InInterface
                | Opt::OutInterface
                | Opt::SetCounters
                | Opt::Fragment
        );
        let target = |option| matches!(option, Opt::Jump | Opt::Goto);
        let again = self.used.iter().any(|(used, _)| {
            (once && *used == known.option) || (target(*used) && target(known.option))
        });
        if again {
            return Err(Fault::at(word, Problem::OptionTwice(known.shown())));
        }
        Ok(())
    }

    fn verb(
        &mut self,
        known: &OptionDefinition,
        word: &'a Word,
        argument: Option<Word>,
    ) -> Result<(), Fault> {
        let mut operands = Operands {
            first: argument,
            second: None,
        };
        if takes_second_operand(known.option, operands.first.is_some()) {
            operands.second = self.next_operand().cloned();
        }
        let Some((earlier, _, earlier_operands)) = &self.verb else {
            self.verb = Some((known.option, word, operands));
            return Ok(());
        };
        let lists = |option: Opt| matches!(option, Opt::List | Opt::ListRules);
        if lists(*earlier) && known.option == Opt::Zero && operands.first.is_none() {
            self.then_zero = ThenZero::Yes;
            return Ok(());
        }
        let bare_zero = *earlier == Opt::Zero && earlier_operands.first.is_none();
        if lists(known.option) && bare_zero {
            self.then_zero = ThenZero::Yes;
            self.verb = Some((known.option, word, operands));
            return Ok(());
        }
        Err(Fault::at(
            word,
            Problem::CommandsTwo {
                first: definition(*earlier).shown(),
                second: known.shown(),
            },
        ))
    }

    fn set_table(&mut self, word: &Word, argument: &Word) -> Result<(), Fault> {
        if self.place == Place::Restore {
            return Err(Fault::at(word, Problem::TableInRestore));
        }
        self.table = TableName::parse(argument).map_err(|fault| {
            let known = ["filter", "nat", "mangle", "raw", "security"];
            let near = nearest(&argument.text, known.into_iter());
            fault.hint(near.map(|name| format!("did you mean `{name}'?")))
        })?;
        Ok(())
    }

    /// `-c 1 2` or `-c 1,2`.
    fn set_counters(&mut self, word: &Word, argument: &Word) -> Result<(), Fault> {
        let (packets, bytes) = match argument.text.split_once(',') {
            Some((packets, bytes)) => (packets, Some(bytes)),
            None => (
                argument.text.as_str(),
                self.next_operand().map(|word| word.text.as_str()),
            ),
        };
        let Some(bytes) = bytes else {
            return Err(Fault::at(word, Problem::CounterArguments("-c".into())));
        };
        let number = |text: &str| {
            parse_u64(text).ok_or_else(|| Fault::at(argument, Problem::CounterInvalid(text.into())))
        };
        let counters = Counters {
            packets: number(packets)?,
            bytes: number(bytes)?,
        };
        self.builder.set_counters(counters);
        self.counters = Some(counters);
        Ok(())
    }

    fn has(&self, option: Opt) -> bool {
        self.used.iter().any(|(used, _)| *used == option)
    }

    fn finish(mut self) -> Result<Command, Fault> {
        let Some((option, named_by, operands)) = self.verb.take() else {
            let end = self.words.last().map(|word| word.span).unwrap_or_default();
            return Err(Fault::at_span(end, Problem::CommandMissing));
        };
        self.check_legality(option, &operands)?;
        let listing = Listing {
            numeric: self.has(Opt::Numeric),
            verbose: self.has(Opt::Verbose),
            exact: self.has(Opt::Exact),
            line_numbers: self.has(Opt::LineNumbers),
        };
        if let Some(chain) = operands.first.as_ref().filter(|_| describes_rule(option)) {
            self.check_interfaces(chain)?;
        }
        let mut spec = self.builder.finish()?;
        let place = written_at(named_by, self.words);
        spec.rules.iter_mut().for_each(|rule| rule.place = place);
        let then_zero = self.then_zero;
        let verb = make_verb(option, named_by, operands, spec, then_zero, self.counters)?;
        Ok(Command {
            verb,
            named_by: named_by.clone(),
            table: self.table,
            listing,
        })
    }

    /// iptables refuses options that the command cannot use.
    fn check_legality(&self, verb: Opt, operands: &Operands) -> Result<(), Fault> {
        for (option, word) in &self.used {
            let legal = match option {
                Opt::Table
                | Opt::Verbose
                | Opt::Wait
                | Opt::WaitInterval
                | Opt::Ipv4
                | Opt::Ipv6 => true,
                Opt::Numeric | Opt::Exact | Opt::LineNumbers => verb == Opt::List,
                Opt::SetCounters => {
                    matches!(verb, Opt::Append | Opt::Insert | Opt::Replace | Opt::Policy)
                }
                _ if verb == Opt::Delete => operands.second.is_none(),
                _ => describes_rule(verb),
            };
            if !legal {
                let shown = definition(*option).shown();
                return Err(Fault::at(word, Problem::OptionIllegal(shown)));
            }
        }
        Ok(())
    }

    fn check_interfaces(&self, chain: &Word) -> Result<(), Fault> {
        let (forbidden, option, chain) = match chain.text.as_str() {
            "INPUT" => (Opt::OutInterface, "-o", "INPUT"),
            "PREROUTING" => (Opt::OutInterface, "-o", "PREROUTING"),
            "OUTPUT" => (Opt::InInterface, "-i", "OUTPUT"),
            "POSTROUTING" => (Opt::InInterface, "-i", "POSTROUTING"),
            _ => return Ok(()),
        };
        match self.used.iter().find(|(used, _)| *used == forbidden) {
            Some((_, word)) => Err(Fault::at(word, Problem::InterfaceInChain { option, chain })),
            None => Ok(()),
        }
    }
}

fn make_verb(
    option: Opt,
    named_by: &Word,
    operands: Operands,
    spec: RuleSpec,
    then_zero: ThenZero,
    counters: Option<Counters>,
) -> Result<Verb, Fault> {
    let Operands { first, second } = operands;
    let shown = || definition(option).shown();
    let missing = |problem| Fault::at(named_by, problem);
    let chain = || {
        let problem = Problem::ArgumentMissing(shown());
        first.clone().ok_or_else(|| missing(problem))
    };
    let number = second.as_ref().map(rule_number).transpose();
    Ok(match option {
        Opt::Append => Verb::Append(chain()?, spec),
        Opt::Check => Verb::Check(chain()?, spec),
        Opt::Insert => Verb::Insert(chain()?, number?.unwrap_or(1), spec),
        Opt::Delete => match number? {
            Some(number) => Verb::DeleteNumber(chain()?, number),
            None => Verb::Delete(chain()?, spec),
        },
        Opt::Replace => {
            let number = number?.ok_or_else(|| missing(Problem::RuleNumberMissing(shown())))?;
            if spec.address_list {
                return Err(missing(Problem::AddressListReplacing));
            }
            Verb::Replace(chain()?, number, spec)
        }
        Opt::List => Verb::List(first, number?, then_zero),
        Opt::ListRules => Verb::ListRules(first, number?, then_zero),
        Opt::Flush => Verb::Flush(first),
        Opt::Zero => Verb::Zero(first, number?),
        Opt::NewChain => Verb::NewChain(chain()?),
        Opt::DeleteChain => Verb::DeleteChain(first),
        Opt::RenameChain => {
            let problem = Problem::RenameArguments(shown());
            Verb::RenameChain(chain()?, second.ok_or_else(|| missing(problem))?)
        }
        Opt::Policy => {
            let problem = Problem::PolicyArguments(shown());
            Verb::Policy(chain()?, second.ok_or_else(|| missing(problem))?, counters)
        }
        Opt::Version => Verb::Version,
        _ => Verb::Help,
    })
}

const fn is_verb(option: Opt) -> bool {
    matches!(
        option,
        Opt::Append
            | Opt::Check
            | Opt::Delete
            | Opt::Insert
            | Opt::Replace
            | Opt::List
            | Opt::ListRules
            | Opt::Flush
            | Opt::Zero
            | Opt::NewChain
            | Opt::DeleteChain
            | Opt::RenameChain
            | Opt::Policy
            | Opt::Help
            | Opt::Version
    )
}

const fn describes_rule(verb: Opt) -> bool {
    matches!(
        verb,
        Opt::Append | Opt::Check | Opt::Delete | Opt::Insert | Opt::Replace
    )
}

fn takes_second_operand(verb: Opt, has_first: bool) -> bool {
    let takes = matches!(
        verb,
        Opt::Delete
            | Opt::Insert
            | Opt::Replace
            | Opt::List
            | Opt::ListRules
            | Opt::Zero
            | Opt::RenameChain
            | Opt::Policy
    );
    takes && has_first
}

fn rule_number(word: &Word) -> Result<u32, Fault> {
    let digits = word.text.bytes().all(|byte| byte.is_ascii_digit());
    let number = word
        .text
        .parse()
        .ok()
        .filter(|number| digits && *number > 0);
    number.ok_or_else(|| Fault::at(word, Problem::RuleNumberInvalid(word.text.clone())))
}

/// Nothing here waits for another program's lock: changes are atomic.
fn check_wait(argument: &Word) -> Result<(), Fault> {
    let numeric = argument.text.bytes().all(|byte| byte.is_ascii_digit());
    match numeric && !argument.text.is_empty() {
        true => Ok(()),
        false => Err(Fault::at(argument, Problem::WaitInvalid)),
    }
}

/// Digits alone: no sign.
pub(crate) fn parse_u64(text: &str) -> Option<u64> {
    let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    digits.then(|| text.parse().ok()).flatten()
}
