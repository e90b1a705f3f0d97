//! The regular expression of `-r`.

use regex_lite::Regex;

/// A pattern. One that is none fits nothing, as with procps.
#[derive(Debug)]
pub(super) struct Pattern(Option<Regex>);

impl Pattern {
    pub(super) fn new(text: &str) -> Self {
        Self(Regex::new(text).ok())
    }

    pub(super) fn fits(&self, text: &str) -> bool {
        self.0.as_ref().is_some_and(|regex| regex.is_match(text))
    }
}
