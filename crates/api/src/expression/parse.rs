//! From words to an expression, by recursive descent.

use keepstate_engine::conntrack::sctp::SctpState;
use keepstate_engine::conntrack::tcp::TcpState;
use keepstate_engine::helper;
use keepstate_engine::tuple::Family;
use keepstate_engine::verdict::{Reason, State, Verdict};
use keepstate_listing::protocol_name;

use super::lexer::{Kind, Token, tokens};
use super::{EXPRESSION_DEPTH_MAX, End, Expression, ExpressionError, Field, Flag, Numbers, Term};
use crate::event::EventKind;
use crate::filter::MarkFilter;

/// Protocols that are a term by themselves.
const PROTOCOLS: [(&str, u8); 11] = [
    ("tcp", 6),
    ("udp", 17),
    ("icmp", 1),
    ("icmpv6", 58),
    ("icmp6", 58),
    ("ipv6-icmp", 58),
    ("sctp", 132),
    ("udplite", 136),
    ("gre", 47),
    ("esp", 50),
    ("ah", 51),
];

const FLAGS: [(&str, Flag); 4] = [
    ("replied", Flag::Replied),
    ("unreplied", Flag::Unreplied),
    ("assured", Flag::Assured),
    ("expected", Flag::Expected),
];

const FAMILIES: [(&str, Family); 4] = [
    ("ip", Family::V4),
    ("ipv4", Family::V4),
    ("ip6", Family::V6),
    ("ipv6", Family::V6),
];

const FIELDS: [(&str, Field); 6] = [
    ("packets", Field::Packets),
    ("bytes", Field::Bytes),
    ("zone", Field::Zone),
    ("left", Field::Left),
    ("rule", Field::Rule),
    ("length", Field::Length),
];

const STATES: [State; 5] = [
    State::New,
    State::Established,
    State::Related,
    State::Invalid,
    State::Untracked,
];

const EVENTS: [(&str, EventKind); 5] = [
    ("new", EventKind::New),
    ("update", EventKind::Update),
    ("destroy", EventKind::Destroy),
    ("drop", EventKind::Drop),
    ("invalid", EventKind::Invalid),
];

/// Words that begin a term and want more.
const OPENERS: [&str; 15] = [
    "src", "dst", "host", "net", "port", "proto", "family", "state", "ctstate", "mark", "helper",
    "event", "verdict", "reason", "chain",
];

pub(super) fn parse(text: &str) -> Result<Expression, ExpressionError> {
    let tokens = tokens(text)?;
    let end = text.chars().count() as u32 + 1;
    let mut parser = Parser {
        tokens: &tokens,
        end,
        depth: 0,
    };
    let expression = parser.or()?;
    match parser.tokens.first() {
        None => Ok(expression),
        Some(token) if token.kind == Kind::Sign(")") => {
            Err(token.error("no bracket is open that this could close"))
        }
        Some(token) => Err(token.error("`and` or `or` is missing before this")),
    }
}

struct Parser<'t, 'a> {
    tokens: &'t [Token<'a>],
    /// Column after the last character.
    end: u32,
    depth: u32,
}

impl Token<'_> {
    fn error(&self, message: impl Into<String>) -> ExpressionError {
        ExpressionError {
            column: self.column,
            message: message.into(),
        }
    }

    fn is_one_of(&self, word: &str, sign: &str) -> bool {
        match self.kind {
            Kind::Word(own) => own.eq_ignore_ascii_case(word),
            Kind::Sign(own) => own == sign,
        }
    }
}

impl<'a> Parser<'_, 'a> {
    fn or(&mut self) -> Result<Expression, ExpressionError> {
        let mut parts = vec![self.and()?];
        while self.takes("or", "||") {
            parts.push(self.and()?);
        }
        Ok(alone_or(parts, Expression::Or))
    }

    fn and(&mut self) -> Result<Expression, ExpressionError> {
        let mut parts = vec![self.not()?];
        while self.takes("and", "&&") {
            parts.push(self.not()?);
        }
        Ok(alone_or(parts, Expression::And))
    }

    fn not(&mut self) -> Result<Expression, ExpressionError> {
        if self.depth == EXPRESSION_DEPTH_MAX {
            return Err(ExpressionError {
                column: self.column(),
                message: format!("nested more than {EXPRESSION_DEPTH_MAX} deep"),
            });
        }
        self.depth += 1;
        let inner = self.not_within();
        self.depth -= 1;
        inner
    }

    fn not_within(&mut self) -> Result<Expression, ExpressionError> {
        if self.takes("not", "!") {
            return Ok(Expression::Not(Box::new(self.not()?)));
        }
        let opening = self.column();
        if !self.takes("(", "(") {
            return self.term();
        }
        let inner = self.or()?;
        if self.takes(")", ")") {
            return Ok(inner);
        }
        match self.tokens.first() {
            Some(token) => Err(token.error("`and`, `or` or `)` is missing before this")),
            None => Err(ExpressionError {
                column: opening,
                message: "this bracket is not closed".to_owned(),
            }),
        }
    }

    fn term(&mut self) -> Result<Expression, ExpressionError> {
        let (token, word) = self.word("a condition")?;
        let lower = word.to_ascii_lowercase();
        if let Some(protocol) = of(&PROTOCOLS, &lower) {
            return self.of_protocol(Term::Protocol(protocol));
        }
        if let Some(flag) = of(&FLAGS, &lower) {
            return Ok(Expression::Term(Term::Flag(flag)));
        }
        if let Some(family) = of(&FAMILIES, &lower) {
            return self.of_protocol(Term::Family(family));
        }
        if let Some(field) = of(&FIELDS, &lower) {
            let numbers = self.numbers(u64::MAX)?;
            return Ok(Expression::Term(Term::Number(field, numbers)));
        }
        self.opened(token, &lower).map(Expression::Term)
    }

    /// `tcp dst port 22` is what users of tcpdump write for `tcp and dst port 22`.
    fn of_protocol(&mut self, protocol: Term) -> Result<Expression, ExpressionError> {
        const QUALIFIED: [&str; 5] = ["src", "dst", "port", "host", "net"];
        let next = self.tokens.first();
        let qualifies =
            next.is_some_and(|next| QUALIFIED.iter().any(|word| next.is_one_of(word, "")));
        let protocol = Expression::Term(protocol);
        if !qualifies {
            return Ok(protocol);
        }
        Ok(protocol.and(self.term()?))
    }

    fn opened(&mut self, token: Token<'_>, word: &str) -> Result<Term, ExpressionError> {
        match word {
            "src" => self.of_end(End::Source),
            "dst" => self.of_end(End::Destination),
            "host" | "net" => self.address(End::Either),
            "port" => self.port(End::Either),
            "proto" => self.named("a protocol", protocol).map(Term::Protocol),
            "family" => {
                let known = |word: &str| of(&FAMILIES, word);
                self.named("`ipv4` or `ipv6`", known).map(Term::Family)
            }
            "state" => {
                let name = self.named_of("a state of TCP or SCTP", &protocol_states());
                name.map(Term::ProtocolState)
            }
            "ctstate" => {
                let names = STATES.map(State::name);
                let name = self.named_of("a state of packets", &names)?;
                let found = STATES.into_iter().find(|state| state.name() == name);
                Ok(Term::PacketState(found.unwrap_or(State::None)))
            }
            "mark" => self.mark(),
            "helper" => {
                let names = helper::HELPERS.iter().map(|helper| helper.name);
                let name = self.named_of("a helper", &names.collect::<Vec<_>>());
                name.map(|name| Term::Helper(name.to_owned()))
            }
            "event" => {
                let known = |word: &str| of(&EVENTS, word);
                let what = "`new`, `update`, `destroy`, `drop` or `invalid`";
                self.named(what, known).map(Term::Event)
            }
            "verdict" => {
                const ALL: [Verdict; 3] = [Verdict::Accept, Verdict::Drop, Verdict::Reject];
                let known = |word: &str| {
                    ALL.into_iter()
                        .find(|verdict| verdict.name().eq_ignore_ascii_case(word))
                };
                self.named("`accept`, `drop` or `reject`", known)
                    .map(Term::Verdict)
            }
            "reason" => self.reason(),
            "chain" => {
                let (_, name) = self.word("the name of a chain")?;
                Ok(Term::Chain(name.to_owned()))
            }
            _ => {
                let hint = closest(word, &beginnings());
                Err(token.error(format!("`{word}` is not a word of filters{hint}")))
            }
        }
    }

    fn of_end(&mut self, end: End) -> Result<Term, ExpressionError> {
        if self.takes("port", "") {
            return self.port(end);
        }
        let _ = self.takes("host", "") || self.takes("net", "");
        self.address(end)
    }

    fn address(&mut self, end: End) -> Result<Term, ExpressionError> {
        let (token, word) = self.word("an address")?;
        let filter = word.parse();
        let filter = filter.map_err(|error: crate::FilterError| token.error(error.to_string()))?;
        Ok(Term::Address(end, filter))
    }

    fn port(&mut self, end: End) -> Result<Term, ExpressionError> {
        let numbers = self.numbers(u64::from(u16::MAX))?;
        Ok(Term::Port(end, numbers))
    }

    fn mark(&mut self) -> Result<Term, ExpressionError> {
        let (token, word) = self.word("a mark")?;
        let (value, mask) = word.split_once('/').unwrap_or((word, "0xffffffff"));
        let bits = |text| number(text, u64::from(u32::MAX));
        match (bits(value), bits(mask)) {
            // Both are within 32 bits.
            (Some(value), Some(mask)) if value & !mask == 0 => Ok(Term::Mark(MarkFilter {
                value: value as u32,
                mask: mask as u32,
            })),
            (Some(_), Some(_)) => Err(token.error("bits are wanted that the mask leaves out")),
            _ => Err(token.error(format!("`{word}` is not MARK or MARK/MASK"))),
        }
    }

    fn reason(&mut self) -> Result<Term, ExpressionError> {
        let (token, word) = self.word("a reason")?;
        let names: Vec<_> = Reason::ALL.iter().map(|reason| reason.name()).collect();
        let lower = word.to_ascii_lowercase();
        if names.iter().any(|name| super::named(&lower, name)) {
            return Ok(Term::Reason(lower));
        }
        let hint = closest(&lower, &names);
        Err(token.error(format!("`{word}` is no reason{hint}")))
    }

    /// `22`, `22,80,8000-8100`, `> 1024`.
    fn numbers(&mut self, max: u64) -> Result<Numbers, ExpressionError> {
        const COMPARISONS: [&str; 7] = ["==", "!=", "<=", ">=", "<", ">", "="];
        let sign = self.tokens.first().and_then(|token| match token.kind {
            Kind::Sign(sign) => COMPARISONS.into_iter().find(|known| *known == sign),
            Kind::Word(_) => None,
        });
        if sign.is_some() {
            self.tokens = &self.tokens[1..];
        }
        let (token, word) = self.word("a number")?;
        let wrong = |text: &str| token.error(format!("`{text}` is not a number up to {max}"));
        let one = |text: &str| number(text, max).ok_or_else(|| wrong(text));
        match sign {
            Some("!=") => return Ok(Numbers::Not(one(word)?)),
            Some("<") => return Ok(Numbers::Below(one(word)?)),
            Some(">") => return Ok(Numbers::Above(one(word)?)),
            Some("<=") => return Ok(Numbers::AtMost(one(word)?)),
            Some(">=") => return Ok(Numbers::AtLeast(one(word)?)),
            Some(_) => {
                let number = one(word)?;
                return Ok(Numbers::Ranges(vec![(number, number)]));
            }
            None => {}
        }
        let ranges = word.split(',').map(|part| {
            let Some((first, last)) = part.split_once(['-', ':']) else {
                return one(part).map(|number| (number, number));
            };
            let (first, last) = (one(first)?, one(last)?);
            if first > last {
                return Err(token.error(format!("`{part}` runs backwards")));
            }
            Ok((first, last))
        });
        Ok(Numbers::Ranges(ranges.collect::<Result<_, _>>()?))
    }

    fn named<T>(
        &mut self,
        what: &str,
        known: impl Fn(&str) -> Option<T>,
    ) -> Result<T, ExpressionError> {
        let (token, word) = self.word(what)?;
        known(&word.to_ascii_lowercase())
            .ok_or_else(|| token.error(format!("`{word}` is not {what}")))
    }

    fn named_of(
        &mut self,
        what: &str,
        names: &[&'static str],
    ) -> Result<&'static str, ExpressionError> {
        let (token, word) = self.word(what)?;
        let found = names.iter().find(|name| name.eq_ignore_ascii_case(word));
        found.copied().ok_or_else(|| {
            let hint = closest(word, names);
            token.error(format!("`{word}` is not {what}{hint}"))
        })
    }

    fn word(&mut self, what: &str) -> Result<(Token<'a>, &'a str), ExpressionError> {
        match self.tokens.first() {
            Some(token) => match token.kind {
                Kind::Word(word) => {
                    self.tokens = &self.tokens[1..];
                    Ok((*token, word))
                }
                Kind::Sign(sign) => Err(token.error(format!("`{sign}` where {what} is expected"))),
            },
            None => Err(ExpressionError {
                column: self.end,
                message: format!("the filter ends where {what} is expected"),
            }),
        }
    }

    /// Takes the next word or sign if it is this one.
    fn takes(&mut self, word: &str, sign: &str) -> bool {
        match self.tokens.split_first() {
            Some((first, rest)) if first.is_one_of(word, sign) => {
                self.tokens = rest;
                true
            }
            _ => false,
        }
    }

    fn column(&self) -> u32 {
        self.tokens.first().map_or(self.end, |token| token.column)
    }
}

fn alone_or(
    mut parts: Vec<Expression>,
    together: impl Fn(Vec<Expression>) -> Expression,
) -> Expression {
    match parts.len() {
        1 => parts.swap_remove(0),
        _ => together(parts),
    }
}

fn of<T: Copy>(table: &[(&str, T)], word: &str) -> Option<T> {
    table
        .iter()
        .find(|(name, _)| *name == word)
        .map(|(_, value)| *value)
}

fn protocol(word: &str) -> Option<u8> {
    let by_number = word.parse().ok();
    let known = by_number.or_else(|| of(&PROTOCOLS, word));
    known.or_else(|| (0..=u8::MAX).find(|number| is_named(*number, word)))
}

fn is_named(protocol: u8, word: &str) -> bool {
    let name = protocol_name(protocol);
    name == word && name != "unknown"
}

/// Decimal or hexadecimal, with `k`, `m`, `g` for powers of 1000.
fn number(text: &str, max: u64) -> Option<u64> {
    let number = match text.strip_prefix("0x") {
        // `from_str_radix` takes a sign, and words have none.
        Some(digits) => u64::from_str_radix(digits, 16).ok()?,
        None => {
            let (digits, scale) = match text.as_bytes().last()?.to_ascii_lowercase() {
                b'k' => (&text[..text.len() - 1], 1000),
                b'm' => (&text[..text.len() - 1], 1_000_000),
                b'g' => (&text[..text.len() - 1], 1_000_000_000),
                _ => (text, 1),
            };
            digits.parse::<u64>().ok()?.checked_mul(scale)?
        }
    };
    (number <= max).then_some(number)
}

fn protocol_states() -> Vec<&'static str> {
    let tcp = TcpState::ALL.into_iter().map(TcpState::name);
    let sctp = SctpState::ALL.into_iter().map(SctpState::name);
    tcp.chain(sctp).collect()
}

fn beginnings() -> Vec<&'static str> {
    let protocols = PROTOCOLS.iter().map(|(name, _)| *name);
    let flags = FLAGS.iter().map(|(name, _)| *name);
    let fields = FIELDS.iter().map(|(name, _)| *name);
    let openers = OPENERS.into_iter();
    openers
        .chain(protocols)
        .chain(flags)
        .chain(fields)
        .chain(["not"])
        .collect()
}

/// What a misspelt word may have been meant to be, ready to be appended.
fn closest(word: &str, names: &[&str]) -> String {
    let word = word.to_ascii_lowercase();
    let distances = names
        .iter()
        .map(|name| (distance(&word, &name.to_ascii_lowercase()), *name));
    match distances.min() {
        Some((distance, name)) if distance <= 2 && distance < word.len() => {
            format!("; is `{}` meant?", name.to_ascii_lowercase())
        }
        _ => String::new(),
    }
}

/// Levenshtein's distance.
fn distance(one: &str, other: &str) -> usize {
    let other: Vec<char> = other.chars().collect();
    let mut row: Vec<usize> = (0..=other.len()).collect();
    for (line, left) in one.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = line + 1;
        for (column, right) in other.iter().enumerate() {
            let changed = diagonal + usize::from(left != *right);
            diagonal = row[column + 1];
            row[column + 1] = changed.min(diagonal + 1).min(row[column] + 1);
        }
    }
    row[other.len()]
}
