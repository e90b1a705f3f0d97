//! Harnesses that feed untrusted bytes to the parsers and the engine, and check what must hold
//! whatever the bytes are.
//!
//! A harness is a function of bytes that panics when something is wrong. `cargo test` runs each on
//! its seeds and on mutations of them; `cargo xtask fuzz` runs it under libFuzzer, guided by
//! coverage.

#![forbid(unsafe_code)]

mod capture;
mod engine;
mod helper;
mod random;
mod rules;
mod sets;
mod sysctl;
mod table;
mod wire;

pub use crate::random::Random;

/// A harness.
#[derive(Debug)]
pub struct Target {
    pub name: &'static str,
    /// Panics when something is wrong.
    pub run: fn(&[u8]),
    /// Inputs to begin with, made by our own code.
    pub seeds: fn() -> Vec<Vec<u8>>,
}

pub const TARGETS: &[Target] = &[
    Target {
        name: "wire",
        run: wire::run,
        seeds: wire::seeds,
    },
    Target {
        name: "engine",
        run: engine::run,
        seeds: engine::seeds,
    },
    Target {
        name: "helper",
        run: helper::run,
        seeds: helper::seeds,
    },
    Target {
        name: "rules",
        run: rules::run,
        seeds: rules::seeds,
    },
    Target {
        name: "sysctl",
        run: sysctl::run,
        seeds: sysctl::seeds,
    },
    Target {
        name: "table",
        run: table::run,
        seeds: table::seeds,
    },
    Target {
        name: "sets",
        run: sets::run,
        seeds: sets::seeds,
    },
    Target {
        name: "capture",
        run: capture::run,
        seeds: capture::seeds,
    },
];

/// The harness of this name.
pub fn target(name: &str) -> Option<&'static Target> {
    TARGETS.iter().find(|target| target.name == name)
}
