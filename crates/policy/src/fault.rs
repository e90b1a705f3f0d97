//! A problem at a place, before the text around it is known.

use crate::diagnostic::{Diagnostic, Severity, Span};
use crate::lexer::Word;
use crate::problem::Problem;

/// What parsers and checks return; whoever holds the text makes a [`Diagnostic`] of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Fault {
    pub(crate) problem: Problem,
    pub(crate) span: Span,
    pub(crate) hint: Option<String>,
}

impl Fault {
    pub(crate) fn at(word: &Word, problem: Problem) -> Self {
        Self::at_span(word.span, problem)
    }

    pub(crate) fn at_span(span: Span, problem: Problem) -> Self {
        Self {
            problem,
            span,
            hint: None,
        }
    }

    #[must_use]
    pub(crate) fn hint(self, hint: Option<String>) -> Self {
        Self { hint, ..self }
    }

    /// A problem of the whole command, which has no word of its own, is shown at `span`.
    #[must_use]
    pub(crate) fn or_at(self, span: Span) -> Self {
        match self.span.line {
            0 => Self { span, ..self },
            _ => self,
        }
    }

    /// With the line of the place, out of the whole `text`.
    pub(crate) fn in_text(self, lines: &[&str], severity: Severity) -> Diagnostic {
        let index = self.span.line.saturating_sub(1) as usize;
        Diagnostic {
            severity,
            problem: self.problem,
            span: self.span,
            line: lines.get(index).copied().unwrap_or_default().into(),
            hint: self.hint,
        }
    }
}
