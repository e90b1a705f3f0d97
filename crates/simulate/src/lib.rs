//! `keepstate simulate`: modelled traffic and attacks on the virtual clock, through the engine and
//! the same recogniser and ladder that the daemon has.
//!
//! Packets of a rate that is too high to judge each of them are thinned: see [`run::run`].

#![forbid(unsafe_code)]

mod attacker;
mod client;
mod hands;
mod html;
mod recorded;
mod report;
mod run;
mod scenario;
mod world;

pub use html::html;
pub use recorded::{CapturePlan, Recording, RecordingError};
pub use report::{Report, text};
pub use run::{SimulateError, run, run_watched};
pub use scenario::{Scenario, ScenarioError};
pub use world::loaded;
