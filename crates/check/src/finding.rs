//! What is found, and how it is told.

use annotate_snippets::{AnnotationKind, Group, Level, Renderer, Snippet};
use keepstate_policy::{Span, Style, WrittenAt};
use serde::Serialize;

/// What is wrong. Names and numbers are a contract: they never get another meaning.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Code {
    NeverMatches,
    LogTooLate,
    LimitVoid,
    LimitBypassed,
    LogUnlimited,
    InvalidAccepted,
    EstablishedMissing,
    Order,
    NotrackOneWay,
    UntrackedRefused,
    LockOut,
    PolicyFirst,
    Ipv6Open,
    MaskComment,
    HitCount,
    ChainUnused,
    TablesKept,
    FiltersNothing,
    NotSearched,
    RejectUnlimited,
    SizeUnfit,
    TimeoutUnfit,
    NeighboursRefused,
    SynproxyLoose,
}

/// Number, name and a sentence for each.
const CODES: [(Code, &str, &str, &str); 24] = [
    (
        Code::NeverMatches,
        "KS001",
        "never-matches",
        "No packet reaches the rule that it would match.",
    ),
    (
        Code::LogTooLate,
        "KS002",
        "log-too-late",
        "A LOG stands behind the rule that ends the way of its packets.",
    ),
    (
        Code::LimitVoid,
        "KS003",
        "limit-void",
        "A limit stands behind the rule that accepts what it should limit.",
    ),
    (
        Code::LimitBypassed,
        "KS004",
        "limit-bypassed",
        "Some of what a limit should count is accepted before it.",
    ),
    (
        Code::LogUnlimited,
        "KS005",
        "log-unlimited",
        "A LOG without a limit lets strangers fill the log.",
    ),
    (
        Code::InvalidAccepted,
        "KS006",
        "invalid-accepted",
        "Packets of state INVALID can be accepted.",
    ),
    (
        Code::EstablishedMissing,
        "KS007",
        "established-missing",
        "No rule accepts packets of flows that were accepted.",
    ),
    (
        Code::Order,
        "KS008",
        "order",
        "INVALID, ESTABLISHED and NEW do not stand in this order.",
    ),
    (
        Code::NotrackOneWay,
        "KS009",
        "notrack-one-way",
        "One direction is not tracked and the other one is.",
    ),
    (
        Code::UntrackedRefused,
        "KS010",
        "untracked-refused",
        "Packets that are not tracked are accepted by no rule.",
    ),
    (
        Code::LockOut,
        "KS011",
        "lock-out",
        "No rule lets an administrator in.",
    ),
    (
        Code::PolicyFirst,
        "KS012",
        "policy-first",
        "A script shuts the door before it opens it for its own connection.",
    ),
    (
        Code::Ipv6Open,
        "KS013",
        "ipv6-open",
        "IPv4 is filtered and IPv6 is not.",
    ),
    (
        Code::MaskComment,
        "KS014",
        "mask-comment",
        "A mask does not mean what the comment says.",
    ),
    (
        Code::HitCount,
        "KS015",
        "hit-count",
        "What --hitcount counts is often taken for something else.",
    ),
    (
        Code::ChainUnused,
        "KS016",
        "chain-unused",
        "No rule leads to the chain.",
    ),
    (
        Code::TablesKept,
        "KS017",
        "tables-kept",
        "A script empties one table and leaves another.",
    ),
    (
        Code::FiltersNothing,
        "KS018",
        "filters-nothing",
        "A chain accepts everything, whatever its rules say.",
    ),
    (
        Code::NotSearched,
        "KS019",
        "not-searched",
        "There are too many rules to compare all of them.",
    ),
    (
        Code::RejectUnlimited,
        "KS020",
        "reject-unlimited",
        "A REJECT without a limit answers a flood whose senders may be forged.",
    ),
    (
        Code::SizeUnfit,
        "KS021",
        "size-unfit",
        "A size of the tracker does not fit what it is for.",
    ),
    (
        Code::TimeoutUnfit,
        "KS022",
        "timeout-unfit",
        "A timeout does not fit what it is for.",
    ),
    (
        Code::NeighboursRefused,
        "KS023",
        "neighbours-refused",
        "IPv6 hosts cannot find this one.",
    ),
    (
        Code::SynproxyLoose,
        "KS024",
        "synproxy-loose",
        "An ACK that may begin a flow does not come to SYNPROXY.",
    ),
];

impl Code {
    pub fn all() -> impl Iterator<Item = Self> {
        CODES.iter().map(|(code, ..)| *code)
    }

    /// `KS001`.
    pub fn number(self) -> &'static str {
        CODES[self as usize].1
    }

    /// `never-matches`.
    pub fn name(self) -> &'static str {
        CODES[self as usize].2
    }

    /// What it is about, in a sentence.
    pub fn about(self) -> &'static str {
        CODES[self as usize].3
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Severity {
    /// Works, and is perhaps not what was meant.
    Note,
    Warning,
}

/// Where a finding is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Location {
    /// Index into the texts that were checked; `None` for what was not written.
    pub source: Option<usize>,
    pub place: WrittenAt,
    pub table: &'static str,
    pub chain: String,
    /// From one; zero for the chain's policy or the chain as a whole.
    pub number: usize,
    /// The rule as iptables-save prints it.
    pub rule: String,
}

/// Something found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    pub code: Code,
    pub severity: Severity,
    /// `ipv4` or `ipv6`.
    pub family: &'static str,
    pub message: String,
    pub location: Location,
    /// Other rules that it is about, each with what it does.
    pub related: Vec<(String, Location)>,
    pub help: Option<String>,
    /// iptables commands that mend it, program's name and all, in order.
    pub(crate) fix: Vec<Vec<String>>,
}

/// A text that was checked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Source {
    /// As messages call it: the path of a file.
    pub origin: String,
    pub text: String,
}

impl Finding {
    /// Several lines for an operator, in the manner of a compiler.
    pub fn render(&self, sources: &[Source], style: Style) -> String {
        let renderer = match style {
            Style::Plain => Renderer::plain(),
            Style::Colour => Renderer::styled(),
        };
        let level = match self.severity {
            Severity::Warning => Level::WARNING,
            Severity::Note => Level::NOTE,
        };
        let title = one_line(&format!("{} [{}]", self.message, self.code.number()));
        let own = Shown::new(&self.location, sources, "");
        let related: Vec<Shown> = self
            .related
            .iter()
            .filter_map(|(what, location)| Shown::new(location, sources, what))
            .collect();
        let mut group = Group::with_title(level.primary_title(title.as_str()));
        for (index, shown) in own.iter().chain(&related).enumerate() {
            let kind = match index {
                0 => AnnotationKind::Primary,
                _ => AnnotationKind::Context,
            };
            let mut annotation = kind.span(shown.start..shown.end);
            if !shown.label.is_empty() {
                annotation = annotation.label(shown.label.as_str());
            }
            group = group.element(
                Snippet::source(shown.line.as_str())
                    .line_start(shown.number)
                    .path(shown.origin.as_str())
                    .annotation(annotation),
            );
        }
        let help = self.help.as_deref().map(one_line);
        if let Some(help) = &help {
            group = group.element(Level::HELP.message(help.as_str()));
        }
        renderer.render(&[group])
    }
}

/// A line of a source, or the rule itself where there is no source.
struct Shown {
    origin: String,
    line: String,
    number: usize,
    /// Bytes of `line`.
    start: usize,
    end: usize,
    label: String,
}

/// Characters of a line that are shown.
const LINE_CHARACTERS_MAX: usize = 240;

impl Shown {
    /// `None` for what the source does not have.
    fn new(location: &Location, sources: &[Source], label: &str) -> Option<Self> {
        let label = label.to_owned();
        let Some(source) = location.source.and_then(|index| sources.get(index)) else {
            let line = one_line(match location.rule.as_str() {
                "" => &location.chain,
                rule => rule,
            });
            return Some(Self {
                origin: "rules".into(),
                start: 0,
                end: line.len(),
                line,
                number: location.number.max(1),
                label,
            });
        };
        let span = location.place.0?;
        let number = span.line as usize;
        let line = source.text.lines().nth(number.checked_sub(1)?)?;
        let line: String = one_line(line).chars().take(LINE_CHARACTERS_MAX).collect();
        let (start, end) = bytes(&line, span);
        Some(Self {
            origin: source.origin.clone(),
            line,
            number,
            start,
            end,
            label,
        })
    }
}

/// The bytes of a place in its line.
fn bytes(line: &str, span: Span) -> (usize, usize) {
    let at = |characters: usize| {
        let mut indexes = line.char_indices().map(|(index, _)| index);
        indexes.nth(characters).unwrap_or(line.len())
    };
    let first = span.column.saturating_sub(1) as usize;
    let start = at(first);
    (
        start,
        at(first.saturating_add(span.length as usize)).max(start),
    )
}

fn one_line(text: &str) -> String {
    text.replace(char::is_control, " ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_stand_at_their_places() {
        for (index, (code, number, name, about)) in CODES.iter().enumerate() {
            assert_eq!(*code as usize, index);
            assert_eq!(*number, format!("KS{:03}", index + 1));
            assert!(
                name.chars()
                    .all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-')
            );
            assert!(about.ends_with('.'));
        }
    }

    #[test]
    fn codes_are_documented() {
        let document = include_str!("../../../docs/check.md");
        for code in Code::all() {
            let row = format!("| {} | {} |", code.number(), code.name());
            assert!(document.contains(&row), "{row}");
        }
    }
}
