//! What is played.

use std::net::IpAddr;
use std::path::Path;
use std::sync::Arc;

use keepstate_defence::{AttackKind, Mode, Network};
use serde::{Deserialize, Serialize};

use crate::recorded::{CapturePlan, Recording, RecordingError};

/// A scenario, as its file says it.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Scenario {
    pub title: String,
    /// Virtual seconds, at most an hour.
    pub seconds: u32,
    #[serde(default = "act")]
    pub mode: Mode,
    /// Rules as iptables-save prints them, or a script; without any, all is accepted.
    #[serde(default)]
    pub rules: String,
    /// Addresses of this host; packets to others are forwarded.
    pub servers: Vec<IpAddr>,
    /// `nf_conntrack_max`.
    #[serde(default = "flows_max")]
    pub flows_max: u32,
    /// Knobs, as NAME=VALUE.
    #[serde(default)]
    pub sysctls: Vec<String>,
    #[serde(default)]
    pub never_ban: Vec<Network>,
    /// Whether the host's TCP takes cookies back (`tcp_syncookies` is 2).
    #[serde(default = "yes")]
    pub cookies: bool,
    #[serde(default)]
    pub legitimate: Vec<Legitimate>,
    /// Honest traffic from captures; with [`Scenario::open_captures`] they are read.
    #[serde(default)]
    pub capture: Vec<CapturePlan>,
    #[serde(default)]
    pub attack: Vec<AttackPlan>,
}

/// Honest traffic.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Legitimate {
    pub kind: LegitimateKind,
    /// How many clients there are, in these networks.
    pub clients: u32,
    pub network: Network,
    /// All clients are behind one address.
    #[serde(default)]
    pub nat: bool,
    /// Connections (questions) a second that all of them begin; of sessions, how many there are.
    pub rate: f64,
    #[serde(default)]
    pub server: Option<IpAddr>,
    pub port: u16,
    #[serde(default)]
    pub begin: u32,
    #[serde(default)]
    pub end: Option<u32>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LegitimateKind {
    /// A connection with a question and an answer.
    Web,
    /// A datagram and its answer.
    Dns,
    /// Connections that last, with something to say every five seconds.
    Session,
}

/// An attack.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AttackPlan {
    pub kind: PlanKind,
    /// Packets a second, at most a hundred million; connections a second where these are made.
    pub rate: f64,
    /// How many senders there are; with `spoofed` each packet has another.
    #[serde(default = "one")]
    pub sources: u32,
    #[serde(default)]
    pub spoofed: bool,
    /// Where the senders are.
    #[serde(default = "anywhere")]
    pub network: Network,
    #[serde(default)]
    pub target: Option<Network>,
    #[serde(default = "http")]
    pub port: u16,
    /// Bytes of an IP packet.
    #[serde(default)]
    pub length: Option<u16>,
    /// TTL or hop limit that all of its packets come with; by their sender unless said.
    #[serde(default)]
    pub ttl: Option<u8>,
    /// Its target answers each packet that reaches it (`udp`, `icmp`).
    #[serde(default)]
    pub answered: bool,
    /// All packets of a sender are of one flow (`udp`, `icmp`, `ack`), whose handshake was completed first.
    #[serde(default)]
    pub one_flow: bool,
    pub begin: u32,
    pub end: u32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum PlanKind {
    Syn,
    SynAck,
    Ack,
    Rst,
    Udp,
    Dns,
    Ntp,
    Ssdp,
    Memcached,
    Icmp,
    Fragments,
    /// Completed handshakes.
    Connections,
    /// Completed handshakes that are held open.
    Slow,
    /// New flows to many destinations.
    Table,
    PortScan,
}

impl PlanKind {
    /// As what it may be recognised.
    pub(crate) const fn recognised_as(self) -> &'static [AttackKind] {
        use AttackKind as A;
        match self {
            Self::Syn => &[A::SynFlood],
            Self::SynAck => &[A::SynAckFlood],
            Self::Ack => &[A::AckFlood],
            Self::Rst => &[A::RstFlood],
            Self::Udp => &[A::UdpFlood, A::FlowFlood],
            Self::Dns | Self::Ntp | Self::Ssdp | Self::Memcached => &[A::Reflection],
            Self::Icmp => &[A::IcmpFlood, A::FlowFlood],
            Self::Fragments => &[A::FragmentFlood],
            // Each is a little of the other, and whoever is refused knocks on.
            Self::Connections => &[A::ConnectionFlood, A::SlowConnections, A::SynFlood],
            Self::Slow => &[A::SlowConnections, A::ConnectionFlood, A::SynFlood],
            // To all of them together it is a flood too.
            Self::Table => &[A::TableExhaustion, A::UdpFlood, A::PortScan],
            Self::PortScan => &[A::PortScan, A::SynFlood],
        }
    }

    pub(crate) const fn makes_connections(self) -> bool {
        matches!(self, Self::Connections | Self::Slow)
    }
}

const fn act() -> Mode {
    Mode::Act
}

const fn flows_max() -> u32 {
    262_144
}

const fn yes() -> bool {
    true
}

const fn one() -> u32 {
    1
}

const fn anywhere() -> Network {
    Network::of(IpAddr::V4(std::net::Ipv4Addr::UNSPECIFIED), 0)
}

const fn http() -> u16 {
    80
}

/// An hour.
pub(crate) const SECONDS_MAX: u32 = 3600;
/// A hundred million.
pub(crate) const RATE_MAX: f64 = 1e8;
/// Senders and clients that are kept apart.
pub(crate) const SENDERS_MAX: u32 = 1 << 20;
pub(crate) const PLANS_MAX: usize = 64;
/// Copies of a capture that are played side by side.
pub(crate) const COPIES_MAX: u32 = 10_000;

/// What is wrong with a scenario.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ScenarioError {
    /// With line and column.
    #[error("{0}")]
    Toml(#[from] toml::de::Error),
    #[error("{0}")]
    Value(String),
    #[error("{file}")]
    Capture {
        file: String,
        #[source]
        error: RecordingError,
    },
}

impl Scenario {
    pub fn parse(text: &str) -> Result<Self, ScenarioError> {
        let scenario: Self = toml::from_str(text)?;
        scenario.check().map_err(ScenarioError::Value)?;
        Ok(scenario)
    }

    /// Reads the captures that are to be played; paths are relative to a directory.
    pub fn open_captures(&mut self, directory: &Path) -> Result<(), ScenarioError> {
        self.open_captures_from(0, directory)
    }

    /// As [`Self::open_captures`], from one of them on.
    pub fn open_captures_from(
        &mut self,
        first: usize,
        directory: &Path,
    ) -> Result<(), ScenarioError> {
        for plan in self.capture.iter_mut().skip(first) {
            let recording = Recording::open(&directory.join(&plan.file));
            let recording = recording.map_err(|error| ScenarioError::Capture {
                file: plan.file.clone(),
                error,
            })?;
            plan.recording = Arc::new(recording);
        }
        self.check().map_err(ScenarioError::Value)
    }

    fn check(&self) -> Result<(), String> {
        let within = |name: &str, value: f64, most: f64| {
            if value.is_finite() && value > 0.0 && value <= most {
                Ok(())
            } else {
                Err(format!(
                    "{name} is {value}, and must be above 0 and at most {most}"
                ))
            }
        };
        within("seconds", self.seconds.into(), SECONDS_MAX.into())?;
        within("flows_max", self.flows_max.into(), f64::from(1 << 26))?;
        if self.servers.is_empty() {
            return Err("servers names no address".to_owned());
        }
        if self.legitimate.len() > PLANS_MAX || self.attack.len() > PLANS_MAX {
            return Err(format!("more than {PLANS_MAX} kinds of traffic"));
        }
        for (number, plan) in (1..).zip(&self.legitimate) {
            let name = |field: &str| format!("{field} of legitimate traffic {number}");
            within(&name("rate"), plan.rate, 1e6)?;
            within(&name("clients"), plan.clients.into(), SENDERS_MAX.into())?;
            let server = plan.server.unwrap_or(self.servers[0]);
            if server.is_ipv4() != plan.network.is_v4() {
                return Err(format!(
                    "{} is of another family than {server}",
                    name("network")
                ));
            }
        }
        if self.capture.len() > PLANS_MAX {
            return Err(format!("more than {PLANS_MAX} captures"));
        }
        for (number, plan) in (1..).zip(&self.capture) {
            let name = |field: &str| format!("{field} of capture {number}");
            within(&name("copies"), plan.copies.into(), COPIES_MAX.into())?;
            within(&name("speed"), plan.speed, 1e6)?;
            if plan.copies > 1 && plan.network.is_none() {
                return Err(format!(
                    "{} is above 1, and no network says where their clients are",
                    name("copies")
                ));
            }
        }
        for (number, plan) in (1..).zip(&self.attack) {
            let name = |field: &str| format!("{field} of attack {number}");
            within(&name("rate"), plan.rate, RATE_MAX)?;
            within(&name("sources"), plan.sources.into(), SENDERS_MAX.into())?;
            if plan.answered && !matches!(plan.kind, PlanKind::Udp | PlanKind::Icmp) {
                return Err(format!(
                    "{} is of no use: only udp and icmp are answered",
                    name("answered")
                ));
            }
            if plan.one_flow && !matches!(plan.kind, PlanKind::Udp | PlanKind::Icmp | PlanKind::Ack)
            {
                return Err(format!(
                    "{} is of no use: only udp, icmp and ack have it",
                    name("one_flow")
                ));
            }
            if plan.begin >= plan.end {
                return Err(format!("{} is not after its begin", name("end")));
            }
            if plan.network.is_v4() != self.target(plan).is_v4() {
                return Err(format!(
                    "{} is of another family than its target",
                    name("network")
                ));
            }
            if plan
                .length
                .is_some_and(|length| !(20..=9000).contains(&length))
            {
                return Err(format!("{} is not from 20 to 9000", name("length")));
            }
        }
        Ok(())
    }

    /// What an attack is aimed at: the first server unless it says another.
    pub(crate) fn target(&self, plan: &AttackPlan) -> Network {
        plan.target
            .unwrap_or_else(|| Network::of(self.servers[0], 128))
    }
}
