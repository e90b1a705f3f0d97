//! Packets fare the same whether the daemon removes what has expired each second, or has been dead all the
//! time: an expired record is met by nobody.

#[path = "support/compiled.rs"]
mod compiled;
#[path = "support/listed.rs"]
mod listed;
#[path = "support/loaded.rs"]
mod loaded;

use compiled::compiled;
use keepstate_engine::host::{FlowMemory as _, Words as _};
use keepstate_engine::limits::FRAGMENT_BUCKETS;
use keepstate_engine::process::{Arrival, Checksums, Path};
use keepstate_engine::settings::Settings;
use keepstate_engine::table::{gauges, sweep};
use keepstate_engine::time::{TICKS_PER_SECOND, Tick};
use keepstate_engine::tuple::Family;
use keepstate_engine::wire::Link;
use keepstate_engine::{expect, fragment};
use keepstate_flowmemory::{Accounting, OwnedTable, SliceTable, buckets_for};
use keepstate_sim::plane::Plane;
use keepstate_sim::traffic::{Mood, Traffic};
use listed::flows;
use loaded::loaded;

const PACKETS: usize = 30_000;
/// So many that nothing makes room: what would go depends on what the daemon has removed.
const FLOWS_MAX: u32 = 60_000;
/// Now and then nothing comes for ten minutes.
const PACKETS_PER_SILENCE: usize = 2_000;
const SILENCE_NS: u64 = 600_000_000_000;

const FAMILIES: [Family; 2] = [Family::V4, Family::V6];

const RULES: &str = "*raw
-A PREROUTING -p tcp --dport 21 -j CT --helper ftp
-A PREROUTING -p udp --dport 69 -j CT --helper tftp
COMMIT
*filter
-A FORWARD -m conntrack --ctstate INVALID -j DROP
-A FORWARD -p tcp --dport 4242 -j DROP
-A FORWARD -p udp --dport 1:4000 -m conntrack --ctstate NEW -m statistic --mode nth --every 3 --packet 0 -j DROP
COMMIT
";

#[test]
fn nobody_meets_what_has_expired_while_the_daemon_is_away() {
    for (seed, mood) in [
        (51, Mood::Hostile),
        (52, Mood::Lossy),
        (53, Mood::Fragmented),
    ] {
        compare(seed, mood);
    }
}

fn compare(seed: u64, mood: Mood) {
    let buckets = [buckets_for(FLOWS_MAX); 2];
    let settings = Settings::defaults(FLOWS_MAX, buckets);
    let compiled = compiled(FAMILIES.map(|family| (family, RULES)));
    let table = || {
        let table = OwnedTable::new(buckets, Accounting::Yes).with_helpers();
        table.with_conditions(compiled.conditions.len())
    };
    let (attended, unattended) = (table(), table());
    let plane = |table| Plane::new(table, settings, loaded(&compiled), ());
    let attended = plane(attended.as_slices());
    let unattended = plane(unattended.as_slices());

    let (mut removed, mut swept, mut now) = (0, Tick(0), Tick(0));
    for (index, packet) in Traffic::new(seed, mood).take(PACKETS).enumerate() {
        let silence = SILENCE_NS * (index / PACKETS_PER_SILENCE) as u64;
        now = Tick::from_nanoseconds(packet.time_ns + silence);
        if now.0.wrapping_sub(swept.0) >= TICKS_PER_SECOND {
            removed += remove_expired(&attended.flows, buckets, now);
            swept = now;
        }
        let arrival = arrival(&packet.ip);
        assert_eq!(
            unattended.judge(&packet.ip, &arrival, now),
            attended.judge(&packet.ip, &arrival, now),
            "packet {index} of {mood:?}: {:02x?}",
            packet.ip
        );
    }
    let flows = [attended.flows, unattended.flows].map(|table| flows(&table, buckets, now));
    assert_eq!(flows[0], flows[1]);
    assert!(removed > PACKETS / 50, "{removed} were removed");
    let gauges = unattended.flows.gauges().expect("there are gauges");
    assert_eq!(gauges.load(gauges::EVICTED), 0);
}

/// What the daemon does each second.
fn remove_expired(table: &SliceTable<'_>, buckets: [u32; 2], now: Tick) -> usize {
    let mut removed = 0;
    for (family, buckets) in FAMILIES.into_iter().zip(buckets) {
        sweep(table, family, 0..buckets, now, |_| removed += 1);
    }
    expect::sweep(&[*table], now, |_| {});
    fragment::sweep(table, 0..FRAGMENT_BUCKETS, now);
    removed
}

fn arrival(ip: &[u8]) -> Arrival {
    Arrival {
        link: match ip[0] >> 4 {
            4 => Link::Ipv4,
            _ => Link::Ipv6,
        },
        path: Path::Ingress,
        checksums: Checksums::Trusted,
        zone: 0,
        interfaces: 0,
    }
}
