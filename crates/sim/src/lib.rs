//! The engine in user space: it reads captures, replays them against a policy, explains the way of
//! one packet and plays the story of the demo. Everything here runs without rights.
//!
//! What the kernel programs do with XDP and maps, [`plane`] does with slices and plain memory; the
//! packets meet the same [`keepstate_engine::process::process`].

#![forbid(unsafe_code)]

pub mod backtest;
pub mod build;
pub mod capture;
pub mod clock;
pub mod cookies;
pub mod explain;
pub mod expression;
pub mod locals;
pub mod naming;
pub mod packet;
pub mod plane;
pub mod replay;
pub mod routes;
pub mod sessions;
pub mod story;
mod sweeper;
pub mod traffic;

pub use keepstate_listing::sysctl;
