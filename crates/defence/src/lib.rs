//! Floods: what they are known by, and what is done about them.
//!
//! [`Defence`] is told of samples of packets ([`Sample`]) and once a second of how the table stands
//! ([`Gauges`]). It counts in bounded memory, compares with what it has learned, and orders steps of a ladder, each with
//! its evidence, its time to live and its undo. It has no clock, does no I/O and carries out
//! nothing: the daemon does, and the simulator, with the same code in between.

#![forbid(unsafe_code)]

mod answered;
mod attack;
mod baseline;
mod defence;
mod detect;
mod exempt;
mod held;
mod ladder;
mod limit;
mod network;
mod refusal;
mod rule;
mod sample;
mod sketch;
mod spread;
mod stream;
mod view;
mod within;

pub use attack::{Attack, AttackKind, HeavySource};
pub use baseline::Baseline;
pub use defence::{Defence, Gauges, Memory, Mode};
pub use exempt::{Exemption, Exemptions, Why};
pub use held::{Held, SURVEY_SECONDS, held};
pub use ladder::{Action, Order, Step, StepState};
pub use network::Network;
pub use refusal::{Form, Limit, Refusals};
pub use rule::{CHAIN, RuleError, Rules, is_in_place, sync};
pub use sample::{Progress, Sample, Signal, next_mask};
pub use sketch::{Distinct, Modes, SpaceSaving};
pub use stream::{Stream, WALK_SECONDS, stream};
