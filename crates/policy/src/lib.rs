//! iptables rules: text, model, and the engine's compiled form.
//!
//! - [`parse_rules`] reads a file of iptables-save or a script of iptables commands into a
//!   [`Policy`] and a list of [`Diagnostic`]s.
//! - [`Policy::apply_command`] carries out one `iptables` command; [`Policy::restore`] does what
//!   iptables-restore does.
//! - [`save`] and [`save_table`] print rules as iptables-save does.
//! - [`compile()`] turns a policy into what [`keepstate_engine::policy`] walks.
//!
//! Nothing that is written is ever skipped: what is not known is an error at its place.

#![forbid(unsafe_code)]

mod apply;
mod command;
mod compile;
mod complaint;
mod connlabel;
mod ct;
mod diagnostic;
mod fault;
mod file;
mod lexer;
mod matches;
mod meters;
pub mod model;
mod network;
mod options;
mod print;
mod problem;
mod protocol;
mod restore;
mod rule;
mod services;
mod sets;

pub use apply::{CommandError, CommandOutput, IPTABLES_VERSION, only_lists};
pub use compile::{ChainInfo, ChainKind, CompileError, Compiled, RuleSource, compile};
pub use complaint::Complaint;
pub use connlabel::{LABEL_FILE, LabelNames};
pub use diagnostic::{Diagnostic, Severity, Span, Style, WrittenAt};
pub use file::{FileKind, Parsed, parse_rules, script_lines};
pub use matches::{SET_NAME_BYTES_MAX, rate_list, recent_list};
pub use model::{Policy, Ruleset};
pub use network::Network;
pub use print::save::{ShowCounters, Specification, save, save_only, save_table, save_tables};
pub use problem::Problem;
pub use protocol::Protocol;
pub use restore::{Flush, RestoreOptions, UseCounters};
pub use rule::{COMMENT_BYTES_MAX, RULES_PER_COMMAND_MAX};
pub use sets::{missing_set, missing_sets};
