//! `keepstate web`: the dashboard and `/metrics`.
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

pub(crate) use self::broker::{Access, Settings, keep};
pub(crate) use self::http::serve;
