//! What an earlier packet left in scratch memory must not show: a program finds there what the last packet
//! on the same CPU left, and packets of one flow may come by several.

#[path = "support/compiled.rs"]
mod compiled;
#[path = "support/loaded.rs"]
mod loaded;

use std::cell::RefCell;
use std::collections::BTreeMap;

use compiled::compiled;
use keepstate_engine::event::Event;
use keepstate_engine::process::{Arrival, Checksums, Path, Scratch, process};
use keepstate_engine::settings::{
    SETTING_ACCOUNTING, SETTING_DROP_EVENTS, SETTING_FLOW_EVENTS, Settings,
};
use keepstate_engine::time::Tick;
use keepstate_engine::tuple::Family;
use keepstate_engine::wire::Link;
use keepstate_flowmemory::{Accounting, OwnedTable, buckets_for};
use keepstate_sim::packet::Bytes;
use keepstate_sim::plane::{LoadedPolicy, Observer, Plane};
use keepstate_sim::sessions::Sessions;
use keepstate_sim::traffic::{Mood, Random, Timed, Traffic};
use loaded::loaded;

/// Small, so that records make room for others.
const FLOWS_MAX: u32 = 512;
const PACKETS: usize = 40_000;
const PACKETS_OF_OTHERS: usize = 10_000;

const RULES: &str = "*raw
-A PREROUTING -p tcp --dport 21 -j CT --helper ftp
-A PREROUTING -p udp --dport 69 -j CT --helper tftp
-A PREROUTING -p udp --dport 5060 -j CT --helper sip
-A PREROUTING -p udp --sport 3002 -j NOTRACK
-A PREROUTING -p tcp --dport 3000:3020 -j CT --zone 9
COMMIT
*filter
:FORWARD DROP [0:0]
-A FORWARD -m conntrack --ctstate INVALID -j DROP
-A FORWARD -m conntrack --ctstate ESTABLISHED,RELATED -j ACCEPT
-A FORWARD -p udp -m recent --name udp --update --seconds 2 --hitcount 6 -j DROP
-A FORWARD -p udp -m recent --name udp --set
-A FORWARD -p icmp -m hashlimit --hashlimit-above 2/s --hashlimit-mode srcip,dstip --hashlimit-name icmp -j DROP
-A FORWARD -p tcp -m connlimit --connlimit-above 3 -j DROP
-A FORWARD -p tcp -m length --length 40:60 --dport 1:50000 -j ACCEPT
-A FORWARD -p udp --dport 1:40000 -j ACCEPT
-A FORWARD -p icmp -j ACCEPT
-A FORWARD -p sctp -m multiport --dports 1:60000 -j ACCEPT
COMMIT
";

#[test]
fn what_was_left_in_scratch_memory_does_not_show() {
    for (seed, mood) in [
        (31, Mood::Hostile),
        (32, Mood::Lossy),
        (33, Mood::Fragmented),
    ] {
        compare(Traffic::new(seed, mood), &format!("{mood:?}"));
    }
    compare(Sessions::new(34), "sessions");
}

/// Judges packets by two planes: one has clean scratch memory for each, the other what some packet of a
/// third left there.
fn compare(packets: impl Iterator<Item = Timed>, what: &str) {
    let tables = [table(), table()];
    let [clean, used] = [&tables[0], &tables[1]]
        .map(|table| Plane::new(table.as_slices(), settings(), policy(), Events::default()));
    let left = left_by_others();
    let mut random = Random::new(1);
    for (number, packet) in packets.take(PACKETS).enumerate() {
        let mut scratch = left[random.below(left.len() as u64) as usize];
        let now = Tick::from_nanoseconds(packet.time_ns);
        let arrival = arrival(&packet.ip);
        let outcomes = (
            clean.judge(&packet.ip, &arrival, now),
            process(&Bytes(&packet.ip), &arrival, &used, &mut scratch, now),
        );
        assert_eq!(outcomes.0, outcomes.1, "{what}, packet {number}");
        let events = (clean.observer.0.take(), used.observer.0.take());
        assert_eq!(events.0, events.1, "{what}, packet {number}");
    }
}

/// Scratch memory after packets that fared differently.
fn left_by_others() -> Vec<Scratch> {
    let table = table();
    let plane = Plane::new(table.as_slices(), settings(), policy(), ());
    let mut left = BTreeMap::new();
    let traffic = [Mood::Lossy, Mood::Hostile, Mood::Fragmented]
        .map(|mood| Traffic::new(41, mood).take(PACKETS_OF_OTHERS));
    let sessions = Sessions::new(42).take(PACKETS_OF_OTHERS);
    for packet in sessions.chain(traffic.into_iter().flatten()) {
        let now = Tick::from_nanoseconds(packet.time_ns);
        let mut scratch = Scratch::default();
        let arrival = arrival(&packet.ip);
        let outcome = process(&Bytes(&packet.ip), &arrival, &plane, &mut scratch, now);
        let reason = outcome.reason.map(|reason| reason as u8);
        // The protocol, where it is IPv4.
        let protocol = packet.ip.get(9);
        left.insert(
            (outcome.state as u8, reason, outcome.rule, protocol.copied()),
            scratch,
        );
    }
    assert!(left.len() > 40);
    left.into_values().collect()
}

#[derive(Default)]
struct Events(RefCell<Vec<Event>>);

impl Observer for Events {
    fn event(&self, event: &Event) {
        self.0.borrow_mut().push(*event);
    }
}

fn table() -> OwnedTable {
    let buckets = buckets_for(FLOWS_MAX);
    OwnedTable::new([buckets, buckets], Accounting::Yes)
        .with_helpers()
        .with_meters()
}

fn settings() -> Settings {
    let buckets = buckets_for(FLOWS_MAX);
    let mut settings = Settings::defaults(FLOWS_MAX, [buckets, buckets]);
    settings.flags |= SETTING_ACCOUNTING | SETTING_FLOW_EVENTS | SETTING_DROP_EVENTS;
    for (key, number) in settings.hash_keys.iter_mut().zip(1_u32..) {
        *key = number;
    }
    settings
}

/// For both families.
fn policy() -> LoadedPolicy {
    let v6 = RULES.replace("icmp", "ipv6-icmp");
    let compiled = compiled([(Family::V4, RULES), (Family::V6, &v6)]);
    loaded(&compiled)
}

fn arrival(ip: &[u8]) -> Arrival {
    Arrival {
        link: match ip.first().map(|byte| byte >> 4) {
            Some(6) => Link::Ipv6,
            _ => Link::Ipv4,
        },
        path: Path::Ingress,
        checksums: Checksums::Unverified,
        zone: 0,
        interfaces: 0,
    }
}
