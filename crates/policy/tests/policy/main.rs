//! Tests of the whole crate, in one program so that they share [`common`].

mod common;
mod files;
mod flags;
mod hostile;
mod index;
mod iptables;
mod walk;
