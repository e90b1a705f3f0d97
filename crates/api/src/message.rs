//! Requests and replies.

use std::ops::RangeInclusive;

use serde::{Deserialize, Serialize};

use crate::ban::{Ban, BanList, Banned, Prefix};
use crate::cookies::{CookieChange, CookieStatus};
use crate::defence::DefenceStatus;
use crate::edit::{FlowChange, NewExpectation, NewFlow, Unable};
use crate::event::{Event, EventKinds};
use crate::expectation::Expectation;
use crate::filter::Filter;
use crate::flow::{Flow, Handed, RawRecord};
use crate::meter::{MeterEntry, MeterList, RecentChange};
use crate::packet::{JudgedPacket, Packets};
use crate::session::Session;
use crate::set::{SetCommand, SetEntry, SetInfo};
use crate::status::{RulesText, Status};
use crate::survey::{Order, Survey};

/// Version of everything in this crate that crosses the socket. A client refuses another.
pub const PROTOCOL: u32 = 10;

/// Versions in which a daemon of this one is told what one of an earlier version has kept ([`Request::HandOver`]): that, and
/// what is asked besides, has meant the same since the first of them. Fields may come to it, but none may go.
pub const PROTOCOLS_OF_HAND_OVER: RangeInclusive<u32> = 10..=PROTOCOL;

/// The first line, from the daemon.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hello {
    pub protocol: u32,
    /// Version of the daemon.
    pub version: String,
    pub instance: String,
    pub pid: u32,
}

/// What a client may ask.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "request", rename_all = "snake_case", deny_unknown_fields)]
pub enum Request {
    /// Answered by [`Reply::Status`].
    Status,
    /// Answered by [`Reply::Applied`] or [`Reply::Refused`].
    Apply {
        files: Vec<RuleFile>,
        mode: ApplyMode,
    },
    /// The rules that wait for it stay. Answered by [`Reply::Done`].
    Confirm,
    /// The rules before those that wait for confirmation come back. Answered by [`Reply::Done`].
    RollBack,
    /// What `iptables` or `ip6tables` does with these arguments, the program's name not among them.
    /// Answered by [`Reply::Printed`].
    Iptables {
        family: RuleFamily,
        arguments: Vec<String>,
    },
    /// What `iptables-restore` or `ip6tables-restore` does. Answered by [`Reply::Printed`].
    Restore { restore: Restore },
    /// Answered by [`Reply::Policy`].
    Policy,
    /// Answered by any number of [`Reply::Flow`], then [`Reply::FlowsEnd`].
    Flows { filter: Filter },
    /// Flows with all that a daemon of another layout takes over: those that were not told by this connection before,
    /// or have changed in more than their windows, counters and time. Answered by any number of [`Reply::Handed`], then
    /// [`Reply::FlowsEnd`].
    HandOver,
    /// What stands out among the flows, at most [`SURVEY_COUNT_MAX`](crate::SURVEY_COUNT_MAX) of
    /// each kind. Answered by [`Reply::Survey`].
    Survey {
        filter: Filter,
        order: Order,
        count: u32,
    },
    /// Where whoever asks is logged in from. Answered by [`Reply::Done`].
    Session { session: Session },
    /// From now on this connection may ask, and change nothing. Answered by [`Reply::Done`].
    ReadOnly,
    /// As [`Request::Flows`]; afterwards the counters of the flows are zero.
    ResetCounters { filter: Filter },
    /// The flow of a packet. Answered by [`Reply::Flow`] or [`Reply::Unable`].
    Find { query: Query },
    /// Makes a record. Answered by [`Reply::Done`] or [`Reply::Unable`].
    Insert { flow: NewFlow },
    /// Changes records, and tells those that it changed as [`Request::Flows`] does;
    /// [`Reply::Unable`] instead of the end when it stopped.
    Change { filter: Filter, change: FlowChange },
    /// Removes records, and tells them as [`Request::Flows`] does.
    Remove { filter: Filter },
    /// Removes records. Answered by [`Reply::FlowsEnd`].
    Flush { filter: Filter },
    /// Flows that are expected, of a family (`ipv4`, `ipv6`) or of both. Answered by any number of
    /// [`Reply::Expectation`], then [`Reply::FlowsEnd`].
    Expectations { family: Option<String> },
    /// The expectation that a packet would meet. Answered by [`Reply::Expectation`] or
    /// [`Reply::Unable`].
    FindExpectation { query: Query },
    /// Removes it. Answered by [`Reply::Done`] or [`Reply::Unable`].
    RemoveExpectation { query: Query },
    /// Makes one. Answered by [`Reply::Done`] or [`Reply::Unable`].
    InsertExpectation { expectation: NewExpectation },
    /// Removes all expectations. Answered by [`Reply::Done`].
    FlushExpectations,
    /// Answered by [`Reply::Listening`], then any number of [`Reply::Event`] and
    /// [`Reply::EventsLost`] until the client hangs up.
    Events { kinds: EventKinds },
    /// Packets with their bytes, as they are judged from now on. Answered by [`Reply::Listening`], then any number
    /// of [`Reply::Packet`] and [`Reply::EventsLost`] until the client hangs up.
    Packets { which: Packets },
    /// What `keepstate explain` needs to judge a packet as the kernel would. Answered by
    /// [`Reply::Running`].
    Running {
        query: Option<Query>,
        /// Who sends the packet.
        #[serde(default)]
        sender: Option<std::net::IpAddr>,
    },
    /// A knob by its name below `net.netfilter`, or all. Answered by [`Reply::Sysctl`] for each,
    /// then [`Reply::Done`].
    Sysctl { name: Option<String> },
    /// `NAME=VALUE`. Answered by [`Reply::Done`].
    SetSysctl { assignment: String },
    /// Answered by [`Reply::TimeoutPolicies`].
    TimeoutPolicies,
    /// Answered by [`Reply::Done`].
    AddTimeoutPolicy { policy: TimeoutPolicy },
    /// Removes one, or all. Answered by [`Reply::Done`].
    RemoveTimeoutPolicy { name: Option<String> },
    /// Puts networks on a list, [`crate::PREFIXES_MAX`] at most. Answered by [`Reply::Banned`].
    Ban {
        list: BanList,
        networks: Vec<Prefix>,
        /// `None` for ever.
        seconds: Option<u32>,
        cause: Option<String>,
        /// New flows a second that they may begin, where they are limited and not banned.
        #[serde(default)]
        limit: Option<u32>,
        /// More networks follow: their flows are ended with the last of them.
        more: bool,
    },
    /// Takes networks off a list. Answered by [`Reply::Unbanned`].
    Unban {
        list: BanList,
        networks: Vec<Prefix>,
    },
    /// Answered by any number of [`Reply::Ban`], then [`Reply::FlowsEnd`].
    Bans { list: BanList },
    /// Empties a list. Answered by [`Reply::FlowsEnd`].
    FlushBans { list: BanList },
    /// Answered by [`Reply::Cookies`].
    Cookies,
    /// What is not named stays. Answered by [`Reply::Cookies`].
    SetCookies(CookieChange),
    /// Answered by [`Reply::Defence`].
    Defence,
    /// Says what is done about floods. Answered by [`Reply::Defence`].
    SetDefence { mode: keepstate_defence::Mode },
    /// Undoes a step of the ladder, or all that are in force; they are not taken again against the same attack.
    /// Answered by [`Reply::Undone`].
    UndoDefence { step: Option<u32> },
    /// Carries out commands on sets, [`crate::SET_COMMANDS_MAX`] at most, up to the first that fails. Answered by
    /// [`Reply::SetsDone`].
    Sets {
        commands: Vec<SetCommand>,
        /// What is there already, or is not there, is no error.
        exist: bool,
    },
    /// Answered by [`Reply::Set`] for each set, with any number of [`Reply::SetEntries`] behind it, then
    /// [`Reply::FlowsEnd`].
    ListSets {
        name: Option<String>,
        /// Without entries.
        terse: bool,
    },
    /// What rules remember of sources: the lists that they name. Answered by [`Reply::MeterLists`].
    MeterLists,
    /// Answered by any number of [`Reply::MeterEntry`], then [`Reply::FlowsEnd`].
    MeterEntries { list: MeterList },
    /// Changes a list of `recent`. Answered by [`Reply::Done`].
    ChangeRecent { name: String, change: RecentChange },
    /// Answered by [`Reply::Done`]; then the daemon ends.
    Shutdown { leave: Shutdown },
}

impl Request {
    /// Whether it leaves everything as it is, and so is open to a connection that is
    /// [`Request::ReadOnly`].
    pub const fn only_asks(&self) -> bool {
        match self {
            Self::Status
            | Self::Policy
            | Self::Flows { .. }
            | Self::HandOver
            | Self::Survey { .. }
            | Self::ReadOnly
            | Self::Session { .. }
            | Self::Find { .. }
            | Self::Expectations { .. }
            | Self::FindExpectation { .. }
            | Self::Events { .. }
            | Self::Running { .. }
            | Self::Sysctl { .. }
            | Self::Bans { .. }
            | Self::ListSets { .. }
            | Self::MeterLists
            | Self::MeterEntries { .. }
            | Self::Cookies
            | Self::Defence
            | Self::TimeoutPolicies => true,
            Self::Apply { mode, .. } => matches!(mode, ApplyMode::Check),
            // Nothing changes, but what others say to each other is not for everybody.
            Self::Packets { .. } => false,
            // Whether a command of iptables changes something only its arguments say, which the daemon reads.
            Self::Iptables { .. }
            | Self::Restore { .. }
            | Self::Confirm
            | Self::RollBack
            | Self::ResetCounters { .. }
            | Self::Insert { .. }
            | Self::Change { .. }
            | Self::Remove { .. }
            | Self::Flush { .. }
            | Self::InsertExpectation { .. }
            | Self::Ban { .. }
            | Self::Unban { .. }
            | Self::FlushBans { .. }
            | Self::SetCookies(_)
            | Self::SetDefence { .. }
            | Self::UndoDefence { .. }
            | Self::RemoveExpectation { .. }
            | Self::FlushExpectations
            | Self::SetSysctl { .. }
            | Self::Sets { .. }
            | Self::ChangeRecent { .. }
            | Self::AddTimeoutPolicy { .. }
            | Self::RemoveTimeoutPolicy { .. }
            | Self::Shutdown { .. } => false,
        }
    }
}

/// A file of rules, its text and not its path: the daemon opens no files of its clients.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RuleFile {
    /// How to call it in messages and in `status`.
    pub origin: String,
    pub family: RuleFamily,
    pub text: String,
}

/// A file for iptables-restore, with its options.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Restore {
    pub file: RuleFile,
    /// Take the counters of the file over.
    pub counters: bool,
    /// Leave the rules that are there.
    pub no_flush: bool,
    /// Only this table's part of the file.
    pub table: Option<String>,
    pub mode: ApplyMode,
}

/// Whose rules a file of iptables-save holds. Scripts say it themselves.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RuleFamily {
    /// By what the file says.
    Detect,
    V4,
    V6,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ApplyMode {
    /// Say what is wrong, and change nothing.
    Check,
    /// Put the rules in force at once, all or none.
    Swap,
    /// As `Swap`; the rules before come back unless [`Request::Confirm`] arrives in time.
    Guarded { seconds: u32 },
}

/// Longest time that rules may wait for confirmation, in seconds: a day.
pub const CONFIRM_SECONDS_MAX: u32 = 86_400;

/// What becomes of the programs when the daemon ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Shutdown {
    /// They filter on; the next daemon adopts them.
    Filtering,
    /// They are detached and removed, and all flows with them.
    Nothing,
}

/// A flow by the addresses of one of its packets, as the engine's tuple has them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Query {
    pub source: std::net::IpAddr,
    pub destination: std::net::IpAddr,
    pub protocol: u8,
    pub source_port: u16,
    pub destination_port: u16,
    pub zone: u16,
}

/// What the daemon answers.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "answer", rename_all = "snake_case")]
pub enum Reply {
    Status(Box<Status>),
    Applied(Applied),
    /// The rules have errors; nothing was changed.
    Refused {
        problems: Vec<RuleProblem>,
    },
    Printed(Printed),
    Policy(PolicyText),
    Flow(Box<Flow>),
    Handed(Box<Handed>),
    Survey(Box<Survey>),
    Expectation(Box<Expectation>),
    Banned(Banned),
    Unbanned {
        removed: u64,
        /// Those that were not on the list.
        missing: Vec<Prefix>,
    },
    Ban(Ban),
    Cookies(Box<CookieStatus>),
    Defence(Box<DefenceStatus>),
    /// Steps that were in force.
    Undone {
        steps: u32,
    },
    SetsDone {
        /// Commands that were carried out.
        done: u64,
        /// Of the last of them, if it was a test.
        found: Option<bool>,
        /// What ipset says of the one after them.
        failure: Option<String>,
    },
    Set(SetInfo),
    SetEntries {
        entries: Vec<SetEntry>,
    },
    MeterLists {
        lists: Vec<MeterList>,
    },
    MeterEntry {
        entry: MeterEntry,
    },
    FlowsEnd {
        shown: u64,
    },
    Unable {
        why: Unable,
    },
    Listening,
    Event(Box<Event>),
    Packet(Box<JudgedPacket>),
    /// So many events were not told, since the client or the daemon was too slow.
    EventsLost {
        count: u64,
    },
    Running(Box<Running>),
    Sysctl {
        name: String,
        value: u64,
    },
    TimeoutPolicies {
        policies: Vec<TimeoutPolicy>,
    },
    Done,
    Failed(Failure),
}

/// Timeouts that a rule can give to flows (`-j CT --timeout NAME`).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TimeoutPolicy {
    pub name: String,
    /// 4 or 6.
    pub version: u8,
    pub protocol: u8,
    /// Seconds by state, in nfct's words; in a request those that differ from the sysctls'.
    pub seconds: std::collections::BTreeMap<String, u32>,
}

/// What a program like iptables would have printed.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Printed {
    pub stdout: String,
    pub stderr: String,
    pub exit_code: u8,
}

/// Rules are in force, or would be.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Applied {
    pub mode: ApplyMode,
    /// Rules of each family, IPv4 first; `None` where the files say nothing of a family, whose
    /// rules then stay as they are.
    pub rules: [Option<u32>; 2],
    /// What is worth knowing although nothing is wrong.
    pub notes: Vec<RuleProblem>,
}

/// Something about a file of rules.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RuleProblem {
    pub origin: String,
    pub line: u32,
    pub column: u32,
    pub message: String,
    /// Several lines that show the place.
    pub rendered: String,
}

/// The rules in force.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PolicyText {
    /// Text of iptables-save with counters, IPv4 first; `None` when the text of the rules in force
    /// is not known.
    pub rules: Option<RulesText>,
}

/// How things stand for one packet.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Running {
    pub policy: PolicyText,
    /// The engine's settings: flags, `tcp_max_retrans`, timeouts.
    pub flags: u32,
    pub tcp_max_retrans: u32,
    pub timeouts: Vec<u32>,
    /// The engine's time.
    pub now: u32,
    /// The record of the flow that was asked for, if there is one.
    pub record: Option<RawRecord>,
    /// What is known of the sender that was asked for.
    #[serde(default)]
    pub senders: Vec<SenderEntry>,
    /// Forms that are refused, as the engine has them.
    #[serde(default)]
    pub forms: Vec<[u32; 17]>,
    /// Whether SYNs are answered with cookies now, and the settings of the answers: bits of options, scale, window.
    #[serde(default)]
    pub cookies: Option<[u32; 3]>,
}

/// An entry of the table of bans, as the engine has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SenderEntry {
    pub network: Prefix,
    /// Number of its kind: banned or limited, never banned, spared forms.
    pub kind: u8,
    /// New flows a second.
    pub limit: Option<u32>,
}

/// Why a request was not carried out.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("{message}")]
pub struct Failure {
    pub kind: FailureKind,
    pub message: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FailureKind {
    /// The line is not a request.
    Malformed,
    /// The line is too long; the connection ends.
    TooLong,
    /// Too many clients; the connection ends.
    Busy,
    /// The request names what does not exist or cannot be.
    Invalid,
    /// The connection may change nothing.
    Forbidden,
    /// The kernel or the file system refused.
    Failed,
}
