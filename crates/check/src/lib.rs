//! What is wrong with rules that are right, and how two rulesets differ.
//!
//! - [`check`] looks through a policy and gives [`Finding`]s, each with a stable code and a place.
//! - [`mend()`] gives the policy that it would rather see, where it knows one.
//! - [`sarif`] is the form that CI systems read.
//! - [`difference`] compares two policies chain by chain.
//!
//! That a rule never matches is said only where it is certain: the packets of one rule lie within those
//! of others before it. What cannot be told for certain is not said.

#![forbid(unsafe_code)]

mod checks;
pub mod difference;
mod facts;
mod finding;
mod mend;
mod reach;
mod region;
pub mod sarif;
mod settings;

use keepstate_engine::tuple::Family;
use keepstate_policy::Policy;

pub use self::finding::{Code, Finding, Location, Severity, Source};
pub use self::mend::{Mended, mend, patch};
pub use self::settings::without_settings;

/// What is to be checked.
#[derive(Clone, Debug)]
pub struct Subject {
    pub policy: Policy,
    /// The families that the texts speak of.
    pub families: Vec<Family>,
    pub sources: Vec<Source>,
    /// Index into `sources` of the text of each family, IPv4 first.
    pub source_of: [Option<usize>; 2],
    /// The rules are those that filter: what they say nothing of is not said elsewhere.
    pub is_running: bool,
}

/// All findings, in the order of families, tables and chains.
pub fn check(subject: &Subject) -> Vec<Finding> {
    checks::run(subject)
}
