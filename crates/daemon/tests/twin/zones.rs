//! Zones in both planes, fragments and errors among the packets.

use keepstate_daemon::twin::Entry;
use keepstate_engine::table::gauges;
use keepstate_engine::time::Tick;
use keepstate_sim::traffic::{Mood, Traffic};

use crate::pair::{Memory, Twins, part};
use crate::{compiled, ethernet};

const PACKETS: usize = 25_000;

/// By ports, so that the two directions of some flows are in different zones.
const RULES: &str = "*raw
-A PREROUTING -p udp --dport 1:1000 -j CT --zone 7
-A PREROUTING -p udp --sport 1:1000 -j CT --zone 7
-A PREROUTING -p tcp --dport 80 -j CT --zone 65535
-A PREROUTING -p icmp -j CT --zone 7
-A PREROUTING -p ipv6-icmp -j CT --zone 65535
-A OUTPUT -p tcp -j CT --zone 65535
COMMIT
*filter
-A FORWARD -m conntrack --ctstate INVALID -j DROP
-A FORWARD -m conntrack --ctstate ESTABLISHED -j ACCEPT
COMMIT
";

#[test]
fn zones_fare_alike() {
    if !keepstate_testkit::root_or_skip("zones_fare_alike") {
        return;
    }
    let policy = compiled(RULES);
    for (seed, mood) in [
        (21, Mood::Hostile),
        (22, Mood::Fragmented),
        (23, Mood::Lossy),
    ] {
        let memory = Memory::new();
        let mut twins = Twins::new(&memory, &policy);
        for (number, packet) in Traffic::new(seed, mood).take(part(PACKETS)).enumerate() {
            let entry = match number / 512 % 4 {
                3 => Entry::EgressEthernet,
                _ => Entry::IngressXdp,
            };
            let now = Tick::from_nanoseconds(packet.time_ns);
            twins.compare(&ethernet(&packet.ip), entry, now, "zones");
        }
        assert!(twins.gauge(gauges::INSERTED) > part(500) as u64, "{mood:?}");
        assert!(twins.compare_rule_counters() > 5, "{mood:?}");
    }
}
