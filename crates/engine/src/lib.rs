//! The packet engine: it parses a packet, finds or makes the record of its connection, advances
//! the protocol's state machine and asks the rules for a verdict.
//!
//! The same source runs in the kernel (crate `keepstate-bpf`) and in user space (crate
//! `keepstate-sim`). It therefore has no allocation, no clock, no I/O, no `unsafe` and no Cargo
//! features; what differs between the two planes stands behind the traits of [`host`].
//!
//! Entry point: [`process::process`].

#![no_std]
#![forbid(unsafe_code)]

mod account;
pub mod answer;
mod arrival;
mod asked;
mod assigned;
mod associate;
pub mod ban;
pub mod between;
pub mod condition;
pub mod conntrack;
pub mod cookie;
pub mod event;
pub mod expect;
pub mod foreseen;
pub mod fragment;
pub mod helper;
pub mod host;
pub mod index;
mod judge;
pub mod labels;
pub mod limits;
pub mod meter;
pub mod notice;
mod outcome;
pub mod policy;
pub mod process;
mod quoted;
pub mod rate;
mod raw;
pub mod record;
pub mod refusal;
pub mod reject;
pub mod sample;
pub mod set;
pub mod settings;
mod stage;
mod steady;
pub mod synproxy;
pub mod table;
mod tell;
pub mod time;
pub mod trace;
mod track;
mod trial;
pub mod tuple;
mod unseen;
pub mod verdict;
pub mod wire;
