//! Replay: the frames of a capture, one after the other, through the engine.

use std::collections::BTreeMap;

use keepstate_engine::conntrack::sctp::SctpState;
use keepstate_engine::conntrack::tcp::TcpState;
use keepstate_engine::host::FlowMemory;
use keepstate_engine::limits::CONDITIONS_MAX;
use keepstate_engine::process::{Arrival, Checksums, Outcome};
use keepstate_engine::record::Record;
use keepstate_engine::settings::{SETTING_ACCOUNTING, SETTING_TIMESTAMP, Settings};
use keepstate_engine::table::{self, Hash, Lookup};
use keepstate_engine::time::Tick;
use keepstate_engine::tuple::Family;
use keepstate_engine::verdict::{Reason, State, Verdict};
use keepstate_engine::wire::transport::TCP;
use keepstate_flowmemory::{Accounting, OwnedTable, SliceTable, table_size};
use keepstate_listing::Entry;

use crate::capture::{Frame, NetworkPacket, network_packet};
use crate::clock::{Clock, Timing};
use crate::locals::Locals;
use crate::naming;
use crate::plane::{LoadedPolicy, Observer, Plane};
use crate::sweeper::Sweeper;
use crate::sysctl::{self, Sysctl};

/// Flows that a replay has room for unless told otherwise.
pub const FLOWS_MAX_DEFAULT: u32 = 262_144;

/// Keys of the hash. Fixed, so that two replays of a capture name its flows alike; nobody waits
/// for a replay, so that nobody gains from colliding flows.
const HASH_KEYS: [u32; 12] = [
    0x243f_6a88,
    0x85a3_08d3,
    0x1319_8a2e,
    0x0370_7344,
    0xa409_3822,
    0x299f_31d0,
    0x082e_fa98,
    0xec4e_6c89,
    0x4528_21e6,
    0x38d0_1377,
    0xbe54_66cf,
    0x34e9_0c6c,
];

/// How a capture is replayed.
#[derive(Clone, Debug)]
pub struct Options {
    pub timing: Timing,
    pub policy: LoadedPolicy,
    pub locals: Locals,
    pub sysctls: Vec<Sysctl>,
    /// Bits of the interface patterns that the incoming interface matches.
    pub in_interfaces: u64,
    /// Bits of the interface patterns that the outgoing interface matches.
    pub out_interfaces: u64,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            timing: Timing::Capture,
            policy: LoadedPolicy::NONE,
            locals: Locals::default(),
            sysctls: Vec::new(),
            in_interfaces: 0,
            out_interfaces: 0,
        }
    }
}

impl Options {
    /// The settings of the replay; their sizes are those that [`Self::table`] makes.
    pub fn settings(&self) -> Settings {
        let (flows, buckets) = sysctl::table_size(&self.sysctls);
        let (flows_max, buckets) = table_size(flows, buckets, FLOWS_MAX_DEFAULT);
        let mut settings = Settings::defaults(flows_max, [buckets, buckets]);
        settings.hash_keys = HASH_KEYS;
        for sysctl in &self.sysctls {
            sysctl.apply(&mut settings);
        }
        settings
    }

    /// A table for these settings.
    pub fn table(settings: &Settings) -> OwnedTable {
        let accounting = if settings.has(SETTING_ACCOUNTING) || settings.has(SETTING_TIMESTAMP) {
            Accounting::Yes
        } else {
            Accounting::No
        };
        OwnedTable::new(settings.buckets, accounting)
            .with_helpers()
            .with_answers()
            .with_conditions(CONDITIONS_MAX as usize)
            .with_meters()
    }
}

/// What became of a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Judged {
    /// From one.
    pub number: u64,
    /// Nanoseconds since the first frame.
    pub time_ns: i64,
    pub outcome: Outcome,
    /// State of the TCP connection that the packet, or what it quotes, names; also where the
    /// engine refused the packet before it looked.
    pub tcp_state: Option<TcpState>,
    /// The same for SCTP.
    pub sctp_state: Option<SctpState>,
}

impl Judged {
    /// Name of the state of the connection or association.
    pub fn protocol_state(&self) -> Option<&'static str> {
        let tcp = self.tcp_state.map(TcpState::name);
        tcp.or_else(|| self.sctp_state.map(SctpState::name))
    }
}

/// A replay under way. It borrows the table that [`Options::table`] made.
pub struct Replay<'t, O = ()> {
    plane: Plane<SliceTable<'t>, O>,
    clock: Clock,
    sweeper: Sweeper,
    in_interfaces: u64,
    totals: Totals,
}

/// What a replay counted.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Totals {
    pub packets: u64,
    pub states: BTreeMap<&'static str, u64>,
    pub verdicts: BTreeMap<&'static str, u64>,
    pub reasons: BTreeMap<Reason, u64>,
}

impl<'t, O: Observer> Replay<'t, O> {
    pub fn new(table: &'t OwnedTable, settings: Settings, options: Options, observer: O) -> Self {
        let sweeper = Sweeper::new(&settings);
        let mut plane = Plane::new(table.as_slices(), settings, options.policy, observer);
        plane.locals = options.locals;
        plane.out_interfaces = options.out_interfaces;
        Self {
            plane,
            clock: Clock::new(options.timing),
            sweeper,
            in_interfaces: options.in_interfaces,
            totals: Totals::default(),
        }
    }

    /// Judges the next frame.
    pub fn judge(&mut self, frame: &Frame<'_>) -> Judged {
        let time_ns = self.clock.advance(frame.time_ns);
        self.plane.set_wall_clock(self.clock.wall_ns());
        self.sweeper.run(&self.plane.flows, self.clock.ticks());
        let (outcome, states) = match network_packet(frame) {
            NetworkPacket::NotJudged => (NOT_JUDGED, (None, None)),
            NetworkPacket::Packet {
                link,
                bytes,
                network,
            } => {
                let ip = bytes.get(network..).unwrap_or_default();
                let arrival = Arrival {
                    link,
                    path: self.plane.locals.path_of(naming::endpoints(ip)),
                    checksums: Checksums::Unverified,
                    zone: 0,
                    interfaces: self.in_interfaces,
                };
                let outcome = self.plane.judge(&bytes, &arrival, self.clock.now());
                let states = match (outcome.state, outcome.tcp_state, outcome.sctp_state) {
                    (State::None, ..) => (None, None),
                    (_, None, None) => self.named_states(ip),
                    (_, tcp, sctp) => (tcp, sctp),
                };
                (outcome, states)
            }
        };
        self.totals.count(&outcome);
        Judged {
            number: frame.number,
            time_ns,
            outcome,
            tcp_state: states.0,
            sctp_state: states.1,
        }
    }

    pub const fn plane(&self) -> &Plane<SliceTable<'t>, O> {
        &self.plane
    }

    pub const fn totals(&self) -> &Totals {
        &self.totals
    }

    pub fn now(&self) -> Tick {
        self.clock.now()
    }

    /// The flows that are alive now.
    pub fn flows(&self) -> Vec<Entry> {
        let mut entries = Vec::new();
        let [v4, v6] = self.plane.settings.buckets;
        for (family, buckets) in [(Family::V4, v4), (Family::V6, v6)] {
            table::visit(&self.plane.flows, family, 0..buckets, self.now(), |entry| {
                entries.push(Entry::from_table(entry, self.now()));
            });
        }
        entries
    }

    fn named_states(&self, ip: &[u8]) -> (Option<TcpState>, Option<SctpState>) {
        let Some(tuple) = naming::connection_tuple(ip) else {
            return (None, None);
        };
        let Some(record) = record_of(&self.plane.flows, &self.plane.settings, &tuple, self.now())
        else {
            return (None, None);
        };
        match tuple.protocol {
            TCP => (Some(record.tcp_state), None),
            _ => (None, Some(SctpState::of(&record))),
        }
    }
}

/// Record of the connection with this tuple.
fn record_of<M: FlowMemory>(
    flows: &M,
    settings: &Settings,
    tuple: &keepstate_engine::tuple::Tuple,
    now: Tick,
) -> Option<Record> {
    let key = tuple.orient().key;
    let mut record = Record::EMPTY;
    match table::lookup(flows, &key, &Hash::of(&key, settings), now, &mut record) {
        Lookup::Found(_) => Some(record),
        Lookup::Missing | Lookup::Busy(_) => None,
    }
}

/// The outcome for frames that a tracker would not see.
const NOT_JUDGED: Outcome = Outcome {
    state: State::None,
    verdict: Verdict::Accept,
    reason: None,
    hook: None,
    rule: keepstate_engine::policy::NO_RULE,
    flow: None,
    direction: None,
    tcp_state: None,
    sctp_state: None,
};

impl Totals {
    fn count(&mut self, outcome: &Outcome) {
        self.packets += 1;
        *self.states.entry(outcome.state.name()).or_default() += 1;
        *self.verdicts.entry(outcome.verdict.name()).or_default() += 1;
        if let Some(reason) = outcome.reason {
            *self.reasons.entry(reason).or_default() += 1;
        }
    }
}
