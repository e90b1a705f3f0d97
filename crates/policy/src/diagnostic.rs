//! Where something is wrong, shown with the line around it.

use std::fmt;

use annotate_snippets::{AnnotationKind, Group, Level, Renderer, Snippet};

use crate::problem::Problem;

/// A place in a text. Lines and columns count from one, columns and length count characters.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Span {
    pub line: u32,
    pub column: u32,
    pub length: u32,
}

/// Where something was written, as far as that is known. It is no part of what was written: two things
/// that differ in this alone are equal.
#[derive(Clone, Copy, Debug, Default)]
pub struct WrittenAt(pub Option<Span>);

impl PartialEq for WrittenAt {
    fn eq(&self, _: &Self) -> bool {
        true
    }
}

impl Eq for WrittenAt {}

/// Whether what was read can be used all the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Severity {
    Error,
    Note,
}

/// Something to tell about a text that was read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Diagnostic {
    pub severity: Severity,
    pub problem: Problem,
    pub span: Span,
    /// The whole line that `span` is in.
    pub line: String,
    /// What may have been meant.
    pub hint: Option<String>,
}

/// How to render.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Style {
    Plain,
    /// With colours for a terminal.
    Colour,
}

impl Diagnostic {
    pub fn is_error(&self) -> bool {
        self.severity == Severity::Error
    }

    /// Several lines for an operator: what is wrong, where, and what may have been meant.
    pub fn render(&self, origin: &str, style: Style) -> String {
        let renderer = match style {
            Style::Plain => Renderer::plain(),
            Style::Colour => Renderer::styled(),
        };
        let level = match self.severity {
            Severity::Error => Level::ERROR,
            Severity::Note => Level::NOTE,
        };
        // A file may have a line of any length; the part around the place is enough.
        let excerpt = Excerpt::new(&self.line, self.span);
        let title = one_line(&self.problem.to_string());
        let snippet = Snippet::source(excerpt.text.as_str())
            .line_start(self.span.line as usize)
            .path(origin)
            .annotation(AnnotationKind::Primary.span(excerpt.start..excerpt.end));
        let mut group = Group::with_title(level.primary_title(title.as_str())).element(snippet);
        let hint = self.hint.as_deref().map(one_line);
        if let Some(hint) = &hint {
            group = group.element(Level::HELP.message(hint.as_str()));
        }
        renderer.render(&[group])
    }
}

/// One line: `LINE:COLUMN: message`.
impl fmt::Display for Diagnostic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let message = one_line(&self.problem.to_string());
        write!(f, "{}:{}: {message}", self.span.line, self.span.column)?;
        match &self.hint {
            Some(hint) => write!(f, " ({})", one_line(hint)),
            None => Ok(()),
        }
    }
}

/// Characters of a line that are shown on each side of the place.
const EXCERPT_CHARACTERS: usize = 120;

/// The part of a line around a place, free of characters that would move a terminal's cursor.
struct Excerpt {
    text: String,
    /// Bytes of `text`.
    start: usize,
    end: usize,
}

impl Excerpt {
    fn new(line: &str, span: Span) -> Self {
        let at = span.column.saturating_sub(1) as usize;
        let skip = at.saturating_sub(EXCERPT_CHARACTERS);
        let length = (span.length as usize).clamp(1, EXCERPT_CHARACTERS);
        let (mut text, mut start, mut end) = (String::new(), 0, 0);
        let shown = line.chars().skip(skip).take(2 * EXCERPT_CHARACTERS + 1);
        for (offset, character) in shown.enumerate() {
            if offset + skip == at {
                start = text.len();
            }
            text.push(if character.is_control() {
                ' '
            } else {
                character
            });
            if offset + skip < at + length {
                end = text.len();
            }
        }
        // A place at the end of the line is shown on a space of its own.
        if at >= line.chars().count() {
            start = text.len();
            text.push(' ');
            end = text.len();
        }
        Self { text, start, end }
    }
}

fn one_line(text: &str) -> String {
    text.replace(char::is_control, " ")
}

/// The one of `known` that is closest to `word`, if it is close enough to be a slip.
pub(crate) fn nearest<'a>(word: &str, known: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    let allowed = match word.chars().count() {
        0..=2 => 0,
        3..=5 => 1,
        6..=40 => 2,
        _ => return None,
    };
    let distances = known.map(|candidate| (edit_distance(word, candidate), candidate));
    let best = distances.min_by_key(|(distance, _)| *distance)?;
    (best.0 <= allowed && best.0 > 0).then_some(best.1)
}

/// Levenshtein's distance, neighbours swapped counting one.
fn edit_distance(from: &str, to: &str) -> usize {
    let (from, to): (Vec<char>, Vec<char>) = (from.chars().collect(), to.chars().collect());
    let mut before_last: Vec<usize> = Vec::new();
    let mut last: Vec<usize> = (0..=to.len()).collect();
    for (i, a) in from.iter().enumerate() {
        let mut row = vec![i + 1];
        for (j, b) in to.iter().enumerate() {
            let replaced = last[j] + usize::from(a != b);
            let mut best = replaced.min(last[j + 1] + 1).min(row[j] + 1);
            let swapped = i > 0 && j > 0 && from[i - 1] == *b && to[j - 1] == *a;
            if swapped {
                best = best.min(before_last[j - 1] + 1);
            }
            row.push(best);
        }
        before_last = last;
        last = row;
    }
    last[to.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slips_are_found_and_other_words_are_not() {
        let known = ["--dport", "--sport", "--ctstate"];
        let nearest = |word| nearest(word, known.into_iter());
        assert_eq!(nearest("--dprot"), Some("--dport"));
        assert_eq!(nearest("--cstate"), Some("--ctstate"));
        assert_eq!(nearest("--hitcount"), None);
        assert_eq!(nearest(&"x".repeat(100_000)), None);
    }

    #[test]
    fn a_place_anywhere_can_be_rendered() {
        for line in ["", "x", "\t-A INPÜT\u{1b}[2J", &"long ".repeat(500)] {
            for column in [0, 1, 3, 200, 2500, u32::MAX] {
                for length in [0, 1, 5, u32::MAX] {
                    let span = Span {
                        line: 7,
                        column,
                        length,
                    };
                    let diagnostic = Diagnostic {
                        severity: Severity::Error,
                        problem: Problem::CommitMissing,
                        span,
                        line: line.into(),
                        hint: Some("a\nb".into()),
                    };
                    let text = diagnostic.render("file", Style::Plain);
                    assert!(text.contains("COMMIT expected"), "{text}");
                }
            }
        }
    }
}
