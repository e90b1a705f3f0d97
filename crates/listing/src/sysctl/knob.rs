//! The list of knobs: every name that Linux 6.18's tracker has below `net.netfilter`, and what it takes
//! from `net.ipv4` for fragments.

use keepstate_engine::limits::{EXPECTATIONS_MAX, FRAGMENT_SECONDS_V4, FRAGMENT_SECONDS_V6};
use keepstate_engine::settings::{
    LOG_INVALID_ALL, SETTING_ACCOUNTING, SETTING_ACCOUNTING_ENDS, SETTING_CHECKSUM,
    SETTING_EVENTS_ALWAYS, SETTING_EVENTS_NEVER, SETTING_TCP_BE_LIBERAL,
    SETTING_TCP_IGNORE_INVALID_RST, SETTING_TCP_LOOSE, SETTING_TIMESTAMP, Settings, Timeout,
};
use keepstate_engine::time::TIMEOUT_SECONDS_MAX;
use keepstate_engine::tuple::Family;

use super::Events;
use super::name::{dotted, slashed};

/// Pairs of buckets in two halves.
const BUCKETS_MIN: u32 = 4;
/// As many slots as there can be flows (`nf_conntrack_max`), and no more than a map can have bytes.
const BUCKETS_MAX: u32 = 1 << 21;

/// A knob.
#[derive(Clone, Copy, Debug)]
pub struct Knob {
    /// Below `net.netfilter`.
    pub name: &'static str,
    pub kind: Kind,
    /// What it does here, in a sentence.
    pub sentence: &'static str,
}

/// What lies behind a knob.
#[derive(Clone, Copy, Debug)]
pub enum Kind {
    /// A bit of [`Settings::flags`].
    Switch {
        flag: u32,
        default: u32,
    },
    Timeout(Timeout),
    TcpMaxRetrans,
    FlowsMax,
    ExpectMax,
    LogInvalid,
    Events,
    /// How many flows there are. Read only, in Linux too.
    Count,
    Buckets,
    /// Of [`Settings::fragments`]. Linux lets IPv4 have its own below `net.ipv4`.
    FragmentSeconds(Family),
    FragmentHigh(Family),
    FragmentLow(Family),
}

const NETFILTER: &str = "net/netfilter";

// What the knobs of both families' fragments do.
const FRAGMENT_HIGH: &str = "No datagram begins while as many are unfinished as this holds at 1,024 bytes each, both families \
                             together. 4,194,304 and more: all that there is room for.";
const FRAGMENT_LOW: &str = "Kept, and of no effect: as in Linux since 4.17.";
const FRAGMENT_SECONDS: &str =
    "Seconds that an unfinished datagram is remembered; for those that begin.";

/// All but the timeouts.
const OTHERS: &[Knob] = &[
    switch(
        "nf_conntrack_acct",
        SETTING_ACCOUNTING,
        0,
        "Flows that begin are counted: packets and bytes of each direction.",
    ),
    Knob {
        name: "nf_conntrack_buckets",
        kind: Kind::Buckets,
        sentence: "Buckets of the table of each family, eight flows each, rounded up to a multiple of four. \
                   May change at any time; refused where the flows that there are do not fit. Lowers \
                   `nf_conntrack_max` to what so many buckets are for (four fifths).",
    },
    switch(
        "nf_conntrack_checksum",
        SETTING_CHECKSUM,
        1,
        "Packets with a wrong checksum are INVALID.",
    ),
    Knob {
        name: "nf_conntrack_count",
        kind: Kind::Count,
        sentence: "Flows in the table, expired ones that nobody has removed yet included.",
    },
    Knob {
        name: "nf_conntrack_events",
        kind: Kind::Events,
        sentence: "0: nobody is told of flows. 1 and 2: whoever listens is told; while nobody listens \
                   nothing is made, with 1 as well.",
    },
    Knob {
        name: "nf_conntrack_expect_max",
        kind: Kind::ExpectMax,
        sentence: "Flows that helpers may foretell at a time.",
    },
    Knob {
        name: "nf_conntrack_frag6_high_thresh",
        kind: Kind::FragmentHigh(Family::V6),
        sentence: FRAGMENT_HIGH,
    },
    Knob {
        name: "nf_conntrack_frag6_low_thresh",
        kind: Kind::FragmentLow(Family::V6),
        sentence: FRAGMENT_LOW,
    },
    Knob {
        name: "nf_conntrack_frag6_timeout",
        kind: Kind::FragmentSeconds(Family::V6),
        sentence: FRAGMENT_SECONDS,
    },
    Knob {
        name: "nf_conntrack_log_invalid",
        kind: Kind::LogInvalid,
        sentence: "INVALID packets of this protocol (255: of all) are logged by the daemon, with \
                   their reason, and told to whoever follows events.",
    },
    Knob {
        name: "nf_conntrack_max",
        kind: Kind::FlowsMax,
        sentence: "Flows that there may be, both families together; the table grows where it is too small \
                   for them. Also `net.nf_conntrack_max`.",
    },
    Knob {
        name: "ipfrag_high_thresh",
        kind: Kind::FragmentHigh(Family::V4),
        sentence: FRAGMENT_HIGH,
    },
    Knob {
        name: "ipfrag_low_thresh",
        kind: Kind::FragmentLow(Family::V4),
        sentence: FRAGMENT_LOW,
    },
    Knob {
        name: "ipfrag_time",
        kind: Kind::FragmentSeconds(Family::V4),
        sentence: FRAGMENT_SECONDS,
    },
    switch(
        "nf_conntrack_tcp_be_liberal",
        SETTING_TCP_BE_LIBERAL,
        0,
        "Segments out of window are let through; only RSTs are not.",
    ),
    switch(
        "nf_conntrack_tcp_ignore_invalid_rst",
        SETTING_TCP_IGNORE_INVALID_RST,
        0,
        "RSTs before what their receiver has acknowledged are let through.",
    ),
    switch(
        "nf_conntrack_tcp_loose",
        SETTING_TCP_LOOSE,
        1,
        "Connections may be picked up in their middle.",
    ),
    Knob {
        name: "nf_conntrack_tcp_max_retrans",
        kind: Kind::TcpMaxRetrans,
        sentence: "Retransmissions without an answer after which the timeout is \
                   `nf_conntrack_tcp_timeout_max_retrans`. Counted to 63: more than that is never.",
    },
    switch(
        "nf_conntrack_timestamp",
        SETTING_TIMESTAMP,
        0,
        "Flows that begin keep the time when they did.",
    ),
];

const fn switch(name: &'static str, flag: u32, default: u32, sentence: &'static str) -> Knob {
    Knob {
        name,
        kind: Kind::Switch { flag, default },
        sentence,
    }
}

/// All knobs, in the order of their names.
pub fn knobs() -> Vec<Knob> {
    let named = Timeout::ALL
        .iter()
        .filter(|timeout| !timeout.sysctl().is_empty());
    let timeouts = named.map(|timeout| Knob {
        name: timeout.sysctl(),
        kind: Kind::Timeout(*timeout),
        sentence: "Seconds that a flow lasts after its last packet; in force from its next packet on.",
    });
    let mut knobs: Vec<Knob> = timeouts.chain(OTHERS.iter().copied()).collect();
    knobs.sort_unstable_by_key(|knob| knob.name);
    knobs
}

/// The knob of a name: alone, with dots or with slashes.
pub fn knob(name: &str) -> Option<Knob> {
    let path = slashed(name);
    let path = match path.as_str() {
        "net/nf_conntrack_max" => "nf_conntrack_max",
        path => path,
    };
    let is_named = |knob: &Knob| knob.name == path || knob.path() == path;
    knobs().into_iter().find(is_named)
}

impl Knob {
    /// Below `/proc/sys`.
    pub fn path(&self) -> String {
        let directory = match self.kind {
            Kind::FragmentSeconds(Family::V4)
            | Kind::FragmentHigh(Family::V4)
            | Kind::FragmentLow(Family::V4) => "net/ipv4",
            _ => NETFILTER,
        };
        format!("{directory}/{}", self.name)
    }

    pub fn full_name(&self) -> String {
        dotted(&self.path())
    }

    /// The smallest and the largest number that can be set.
    pub const fn bounds(&self) -> (u32, u32) {
        match self.kind {
            Kind::Switch { .. } => (0, 1),
            Kind::Timeout(_) => (0, TIMEOUT_SECONDS_MAX),
            Kind::TcpMaxRetrans => (0, 255),
            Kind::FlowsMax => (1, i32::MAX as u32),
            Kind::ExpectMax => (1, EXPECTATIONS_MAX),
            Kind::LogInvalid => (0, LOG_INVALID_ALL),
            Kind::Events => (0, Events::Asked as u32),
            Kind::Buckets => (BUCKETS_MIN, BUCKETS_MAX),
            Kind::Count => (0, u32::MAX),
            Kind::FragmentSeconds(_) => (0, TIMEOUT_SECONDS_MAX),
            Kind::FragmentHigh(_) | Kind::FragmentLow(_) => (0, i32::MAX as u32),
        }
    }

    /// What it is unless it is set; `None` where that depends.
    pub const fn default(&self) -> Option<u32> {
        match self.kind {
            Kind::Switch { default, .. } => Some(default),
            Kind::Timeout(timeout) => Some(timeout.default_seconds()),
            Kind::TcpMaxRetrans => Some(3),
            Kind::ExpectMax => Some(EXPECTATIONS_MAX),
            Kind::LogInvalid => Some(0),
            Kind::Events => Some(Events::Asked as u32),
            Kind::FlowsMax | Kind::Count | Kind::Buckets => None,
            Kind::FragmentSeconds(Family::V4) => Some(FRAGMENT_SECONDS_V4),
            Kind::FragmentSeconds(Family::V6) => Some(FRAGMENT_SECONDS_V6),
            Kind::FragmentHigh(_) => Some(4 << 20),
            Kind::FragmentLow(_) => Some(3 << 20),
        }
    }

    /// What it is set to; `None` for what settings do not tell.
    pub fn value(&self, settings: &Settings) -> Option<u32> {
        let ends = settings.has(SETTING_ACCOUNTING_ENDS);
        Some(match self.kind {
            Kind::Switch { flag, .. } if flag == SETTING_ACCOUNTING && ends => 0,
            Kind::Switch { flag, .. } => u32::from(settings.has(flag)),
            Kind::Timeout(timeout) => settings.seconds(timeout),
            Kind::TcpMaxRetrans => settings.tcp_max_retrans,
            Kind::FlowsMax => settings.flows_max,
            Kind::ExpectMax => settings.expectations_max,
            Kind::LogInvalid => settings.log_invalid,
            Kind::Events if settings.has(SETTING_EVENTS_NEVER) => 0,
            Kind::Events if settings.has(SETTING_EVENTS_ALWAYS) => 1,
            Kind::Events => Events::Asked as u32,
            Kind::Count => return None,
            Kind::Buckets => settings.buckets[0],
            Kind::FragmentSeconds(family) => settings.fragments[family as usize].seconds,
            Kind::FragmentHigh(family) => settings.fragments[family as usize].high_bytes,
            Kind::FragmentLow(family) => settings.fragments[family as usize].low_bytes,
        })
    }
}
