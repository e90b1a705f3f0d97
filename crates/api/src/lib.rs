//! What the daemon and its clients say to each other.
//!
//! The control socket carries lines of JSON. The daemon speaks first, a [`Hello`] that says which
//! version of this protocol it speaks; then each line from the client is a [`Request`], answered
//! by one [`Reply`] or, for lists and events, by several. [`Client`] is the other end.
//!
//! Everything is bounded: a line by [`frame::REQUEST_BYTES_MAX`], the connections by the daemon.

#![forbid(unsafe_code)]

mod ban;
mod client;
mod cookies;
mod defence;
mod edit;
mod event;
mod expectation;
pub mod expression;
mod filter;
mod flow;
pub mod frame;
mod instance;
mod message;
mod meter;
mod packet;
mod session;
mod set;
mod status;
mod survey;

pub use self::ban::{
    Ban, BanList, BanStatus, Banned, CAUSE_BYTES_MAX, PREFIXES_MAX, Prefix, PrefixError,
};
pub use self::client::{Client, ClientError};
pub use self::cookies::{CookieChange, CookieMarks, CookieMode, CookieStatus};
pub use self::defence::DefenceStatus;
pub use self::edit::{FlowChange, MarkChange, NewExpectation, NewFlow, Unable};
pub use self::event::{Event, EventKind, EventKinds, PacketEvent, Program, WindowEvent};
pub use self::expectation::{Ends, Expectation};
pub use self::expression::{Expression, ExpressionError, Subject};
pub use self::filter::{
    AddressFilter, Filter, FilterError, FlowStatus, Foreign, MarkFilter, Replied, StatusFilter,
    prefix_mask,
};
pub use self::flow::{
    Endpoints, Flow, Handed, Icmp, RawRecord, Window, engine_address, label_numbers, labels_of,
};
pub use self::instance::{Instance, InstanceError};
pub use self::message::{
    Applied, ApplyMode, CONFIRM_SECONDS_MAX, Failure, FailureKind, Hello, PROTOCOL,
    PROTOCOLS_OF_HAND_OVER, PolicyText, Printed, Query, Reply, Request, Restore, RuleFamily,
    RuleFile, RuleProblem, Running, SenderEntry, Shutdown, TimeoutPolicy,
};
pub use self::meter::{MeterEntry, MeterKind, MeterList, RateEntry, RecentChange, RecentEntry};
pub use self::packet::{JudgedPacket, Packets, Way};
pub use self::session::Session;
pub use self::set::{SET_COMMANDS_MAX, SetChange, SetCommand, SetEntry, SetInfo};
pub use self::status::{
    Attachment, ControlStatus, DefenceSummary, EventStatus, ExpiryStatus, PolicyStatus, RulesText,
    Status, TableStatus, Traffic,
};
pub use self::survey::{Order, SURVEY_COUNT_MAX, Source, Survey};
