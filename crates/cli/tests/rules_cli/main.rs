//! The programs that change, compare and keep rules, by the names that scripts call them by.

mod bench;
mod guard;
mod hosts;
mod iptables;
mod manual;
mod offline;
mod scanned;
mod shell;
mod sources;
mod targets;
mod templates;
mod tutorial;
mod way_back;
