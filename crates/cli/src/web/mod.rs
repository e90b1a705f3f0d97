//! `keepstate web`: the dashboard and `/metrics`; `keepstate metrics --listen`: that alone.
//!
//! Two processes. The one that was started may connect to the control socket, which is root's; it does that and
//! nothing else (`broker`). The other has no rights at all, speaks HTTP, and gets each connection to the daemon from
//! the first, which has told the daemon that it may only ask, unless changes were allowed on the command line.

mod broker;
mod history;
mod http;
mod link;
mod pages;
mod stream;
mod token;

pub(crate) use self::broker::{Access, Pages, Settings, keep};
pub(crate) use self::http::serve;

/// The user `nobody` on every Linux: owns nothing and may nothing.
pub(crate) const NOBODY: u32 = 65_534;
