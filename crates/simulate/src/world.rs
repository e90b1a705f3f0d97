//! The host under attack: the engine's native plane, and a server that answers.

use std::cell::RefCell;

use keepstate_engine::event::{Event, EventKind};
use keepstate_engine::host::{FlowMemory, Words};
use keepstate_engine::process::{Arrival, Checksums, Outcome, Path};
use keepstate_engine::settings::{
    COOKIE_SACK, COOKIE_SCALING, COOKIE_TIMESTAMPS, SETTING_SAMPLES, Settings,
};
use keepstate_engine::table::{gauges, sweep};
use keepstate_engine::time::{TICKS_PER_SECOND, Tick};
use keepstate_engine::tuple::Family;
use keepstate_engine::verdict::Verdict;
use keepstate_engine::wire::Link;
use keepstate_flowmemory::{OwnedTable, SliceTable, ban_buckets_for, table_size};
use keepstate_policy::Compiled;
use keepstate_sim::locals::{LocalAddress, Locals};
use keepstate_sim::naming::endpoints;
use keepstate_sim::plane::{LoadedPolicy, Observer, Plane, RuleName};
use keepstate_sim::replay::Options;
use keepstate_sim::sysctl::Sysctl;

use crate::scenario::Scenario;

/// Nanoseconds of a second.
pub(crate) const SECOND: u64 = 1_000_000_000;

/// The clock does not begin at zero, where no deadline could have passed.
const START: u64 = 1000 * SECOND;

/// Networks that may be banned.
const BANS: u32 = 1 << 16;

/// Keeps samples.
#[derive(Default)]
pub(crate) struct Samples(pub(crate) RefCell<Vec<Event>>);

impl Observer for Samples {
    fn event(&self, event: &Event) {
        if event.kind == EventKind::Sample as u8 {
            self.0.borrow_mut().push(*event);
        }
    }
}

/// A compiled policy as a plane takes it, with its names; without one, everything is accepted.
pub fn loaded(compiled: Option<&Compiled>) -> LoadedPolicy {
    let Some(compiled) = compiled else {
        return LoadedPolicy::NONE;
    };
    let names = compiled.sources.iter().map(|source| {
        let chain = compiled.chains.get(source.chain as usize);
        RuleName {
            chain: chain.map(|chain| chain.name.clone()).unwrap_or_default(),
            text: source.text.clone(),
        }
    });
    LoadedPolicy {
        header: compiled.header,
        rules: compiled.rules.clone(),
        conditions: compiled.conditions.clone(),
        index: compiled.index.clone(),
        names: names.collect(),
    }
}

/// The settings of a scenario, for a table of which only one flow in so many is there.
pub(crate) fn settings(scenario: &Scenario, thinned: f64) -> Result<Settings, String> {
    let mut sysctls = Vec::new();
    for text in &scenario.sysctls {
        sysctls.push(Sysctl::parse(text).map_err(|error| error.to_string())?);
    }
    let flows = (f64::from(scenario.flows_max) / thinned).max(FLOWS_MIN);
    let (flows_max, buckets) = table_size(Some(flows as u32), None, flows as u32);
    let mut settings = Settings::defaults(flows_max, [buckets; 2]);
    for sysctl in sysctls {
        sysctl.apply(&mut settings);
    }
    settings.hash_keys = [0x9e37_79b9; 12];
    settings.bans.buckets = ban_buckets_for(BANS);
    settings.flags |= SETTING_SAMPLES;
    settings.cookies.options = COOKIE_TIMESTAMPS | COOKIE_SCALING | COOKIE_SACK;
    Ok(settings)
}

/// However thin traffic is, the table has as many.
const FLOWS_MIN: f64 = 128.0;

pub(crate) fn table(settings: &Settings) -> OwnedTable {
    Options::table(settings).with_bans(settings.bans.buckets)
}

/// What systems begin with, and how many routers are between.
fn ttl_of(ip: &[u8]) -> u8 {
    let source = if is_v6(ip) {
        ip.get(8..24)
    } else {
        ip.get(12..16)
    };
    let bytes = source.unwrap_or_default().iter();
    let hash = bytes.fold(0x811c_9dc5_u32, |hash, byte| {
        (hash ^ u32::from(*byte)).wrapping_mul(0x0100_0193)
    });
    let begins = if hash & 1 == 0 { 64 } else { 128 };
    begins - 4 - (hash >> 8) as u8 % 24
}

fn set_ttl(ip: &mut [u8], ttl: u8) {
    if is_v6(ip) {
        ip[7] = ttl;
        return;
    }
    // RFC 1624: what is added to the header is taken from its sum.
    let sum = u16::from_be_bytes([ip[10], ip[11]]);
    let more = u32::from(!sum) + 0xffff - (u32::from(ip[8]) << 8) + (u32::from(ttl) << 8);
    let more = (more & 0xffff) + (more >> 16);
    let more = (more & 0xffff) + (more >> 16);
    ip[8] = ttl;
    ip[10..12].copy_from_slice(&(!(more as u16)).to_be_bytes());
}

pub(crate) fn is_v6(ip: &[u8]) -> bool {
    ip.first().is_some_and(|byte| byte >> 4 == 6)
}

pub(crate) struct World<'t> {
    pub(crate) plane: Plane<SliceTable<'t>, Samples>,
    /// Nanoseconds since the scenario's begin.
    pub(crate) now: u64,
}

impl<'t> World<'t> {
    pub(crate) fn new(table: &'t OwnedTable, settings: Settings, scenario: &Scenario) -> Self {
        let mut plane = Plane::new(
            table.as_slices(),
            settings,
            LoadedPolicy::NONE,
            Samples::default(),
        );
        let servers = scenario.servers.iter().map(|address| LocalAddress {
            address: *address,
            prefix: if address.is_ipv4() { 32 } else { 128 },
        });
        plane.locals = Locals::new(servers.collect());
        Self { plane, now: 0 }
    }

    pub(crate) fn tick(&self) -> Tick {
        let ticks_per_ns = u64::from(TICKS_PER_SECOND);
        Tick(((START + self.now) / (SECOND / ticks_per_ns)) as u32)
    }

    /// A packet from outside; what became of it. Its TTL is one that its sender's packets come with always, unless
    /// another is said.
    pub(crate) fn receive(&self, ip: &[u8], ttl: Option<u8>) -> Outcome {
        let mut ip = ip.to_vec();
        let ttl = ttl.unwrap_or_else(|| ttl_of(&ip));
        set_ttl(&mut ip, ttl);
        self.judge(&ip, Path::Ingress, Checksums::Unverified)
    }

    /// A packet of a capture, as it is. Its checksums may have been left to hardware, or cut off.
    pub(crate) fn pass(&self, ip: &[u8]) -> Outcome {
        let path = self.plane.locals.path_of(endpoints(ip));
        self.judge(ip, path, Checksums::Trusted)
    }

    /// A packet that the server sends, which is this host or behind it; whether it got out.
    pub(crate) fn send(&self, ip: &[u8]) -> bool {
        let path = self.plane.locals.path_of(endpoints(ip));
        let outcome = self.judge(ip, path, Checksums::Trusted);
        outcome.verdict == Verdict::Accept
    }

    fn judge(&self, ip: &[u8], path: Path, checksums: Checksums) -> Outcome {
        let arrival = Arrival {
            link: if is_v6(ip) { Link::Ipv6 } else { Link::Ipv4 },
            path,
            checksums,
            zone: 0,
            interfaces: 0,
        };
        self.plane.judge(ip, &arrival, self.tick())
    }

    /// Takes out what is over, as the daemon does each second.
    pub(crate) fn sweep(&self) {
        let [v4, v6] = self.plane.settings.buckets;
        for (family, buckets) in [(Family::V4, v4), (Family::V6, v6)] {
            sweep(&self.plane.flows, family, 0..buckets, self.tick(), |_| {});
        }
    }

    pub(crate) fn gauge(&self, word: u32) -> u64 {
        let words = self.plane.flows.gauges();
        words.map_or(0, |words| (words.load(word) as i64).max(0) as u64)
    }

    pub(crate) fn flows(&self) -> [u64; 2] {
        [self.gauge(gauges::COUNT), self.gauge(gauges::HALF_OPEN)]
    }
}
