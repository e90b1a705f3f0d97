//! The programs that change, compare and keep rules, by the names that scripts call them by.

mod bench;
mod guard;
mod iptables;
mod manual;
mod offline;
mod shell;
mod targets;
mod templates;
