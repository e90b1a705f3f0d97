//! Labels of flows, and events that rules have chosen, in both planes.

use keepstate_daemon::twin::Entry;
use keepstate_engine::table::gauges;
use keepstate_engine::time::Tick;
use keepstate_sim::traffic::{Mood, Traffic};

use crate::pair::{Memory, Twins};
use crate::{compiled, ethernet};

const PACKETS: usize = 10_000;

/// Labels are set by packets of both directions, of new and of known flows, by such that are dropped, by errors
/// and by rules whose other conditions fail; and asked for before and after.
const RULES: &str = "*raw
-A PREROUTING -p udp --dport 1:3000 -j CT --ctevents new,destroy
-A PREROUTING -p udp -j CT --ctevents related,assured,mark --expevents new
-A PREROUTING -p tcp --dport 1:30000 -j CT --ctevents protoinfo,reply,secmark
-A PREROUTING -m connlabel ! --label 3
-A PREROUTING -m connlabel --label 3 --set
COMMIT
*filter
:INPUT DROP [0:0]
:FORWARD DROP [0:0]
:OUTPUT DROP [0:0]
-A FORWARD -m connlabel --label 0
-A FORWARD -m connlabel ! --label 127
-A FORWARD -p tcp --dport 1:2000 -m connlabel --label 0 --set
-A FORWARD -p tcp -m connlabel --label 63 --set -m length --length 1:1
-A FORWARD -m length --length 60:90 -m connlabel --label 64 --set
-A FORWARD -p udp -m conntrack --ctdir REPLY -m connlabel --label 127 --set
-A FORWARD -p icmp -m connlabel ! --label 5 --set
-A FORWARD -m connlabel --label 64 -m connlabel --label 127
-A FORWARD -m connlabel --label 63 -m statistic --mode nth --every 9 --packet 0 -j DROP
-A FORWARD -m conntrack --ctstate INVALID -j DROP
-A FORWARD -j ACCEPT
-A OUTPUT -p udp -m connlabel --label 9 --set -j ACCEPT
-A OUTPUT -j ACCEPT
COMMIT
";

#[test]
fn labels_fare_alike() {
    if !keepstate_testkit::root_or_skip("labels_fare_alike") {
        return;
    }
    let policy = compiled(RULES);
    for (seed, mood) in [
        (31, Mood::Hostile),
        (32, Mood::Fragmented),
        (33, Mood::Lossy),
    ] {
        let memory = Memory::new();
        let mut twins = Twins::new(&memory, &policy);
        for (number, packet) in Traffic::new(seed, mood).take(PACKETS).enumerate() {
            let entry = match number / 256 % 4 {
                3 => Entry::EgressEthernet,
                _ => Entry::IngressXdp,
            };
            let now = Tick::from_nanoseconds(packet.time_ns);
            twins.compare(&ethernet(&packet.ip), entry, now, "labels");
            if number % 997 == 0 {
                twins.compare_helpers("labels");
            }
        }
        twins.compare_helpers("labels");
        assert!(twins.gauge(gauges::INSERTED) > 250, "{mood:?}");
        let (labelled, refused) = (twins.labelled(), twins.gauge(gauges::LABELS_REFUSED));
        println!("{mood:?}: {labelled} places with labels, {refused} refused");
        assert!(labelled > 50, "{mood:?}");
        assert!(twins.compare_rule_counters() > 12, "{mood:?}");
    }
}
