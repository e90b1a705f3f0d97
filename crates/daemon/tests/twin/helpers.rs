//! Helpers and the table raw in both planes.

use keepstate_daemon::twin::Entry;
use keepstate_engine::table::gauges;
use keepstate_engine::time::Tick;
use keepstate_sim::sessions::Sessions;

use crate::pair::{Memory, Twins, part};
use crate::{compiled, ethernet};

const PACKETS: usize = 20_000;

/// The first rules look at the interface, so that some packets' walks depend on more than the flow.
const RULES: &str = "*raw
:PREROUTING ACCEPT [0:0]
:OUTPUT ACCEPT [0:0]
:own - [0:0]
-A PREROUTING -i out+ -p udp --sport 3001 -j DROP
-A PREROUTING -p udp --sport 3002 -j NOTRACK
-A PREROUTING -p tcp --dport 21 -j own
-A PREROUTING -p udp --dport 69 -j CT --helper tftp
-A PREROUTING -p tcp --sport 60001 --dport 6667 -j CT --helper irc --zone 9
-A PREROUTING -p tcp --dport 60001 -j CT --zone 9
-A PREROUTING -p tcp --dport 3000:3020 -j CT --zone 9
-A PREROUTING -p tcp --dport 6667 -j CT --helper irc
-A PREROUTING -p udp --dport 5060 -j CT --helper sip
-A PREROUTING -p tcp --dport 5060 -j CT --helper sip
-A OUTPUT -p tcp --dport 21 -j CT --helper ftp
-A OUTPUT -p udp --dport 69 -j CT --helper tftp
-A OUTPUT -p udp --dport 5060 -j CT --helper sip
-A OUTPUT -p udp --sport 3003 -j CT --notrack
-A own -p tcp -j CT --helper ftp --timeout slow
-A own -j CT --notrack
COMMIT
*filter
:INPUT DROP [0:0]
:FORWARD DROP [0:0]
:OUTPUT DROP [0:0]
-A FORWARD -m conntrack --ctstate ESTABLISHED,RELATED -j ACCEPT
-A FORWARD -p tcp --dport 21 -j ACCEPT
-A FORWARD -p udp --dport 69 -j ACCEPT
-A FORWARD -p tcp --dport 6667 -j ACCEPT
-A FORWARD -p udp --dport 5060 -j ACCEPT
-A FORWARD -p tcp --dport 5060 -j ACCEPT
-A FORWARD -m conntrack --ctstate UNTRACKED -j ACCEPT
-A OUTPUT -m conntrack --ctstate ESTABLISHED,RELATED -j ACCEPT
-A OUTPUT -p tcp --dport 21 -j ACCEPT
-A OUTPUT -p udp --dport 69 -j ACCEPT
-A OUTPUT -p udp --dport 5060 -j ACCEPT
COMMIT
";

#[test]
fn sessions_with_helpers_fare_alike() {
    if !keepstate_testkit::root_or_skip("sessions_with_helpers_fare_alike") {
        return;
    }
    let policy = compiled(RULES);
    for (seed, entries) in [
        (1, [Entry::IngressXdp; 2]),
        (2, [Entry::EgressEthernet, Entry::IngressXdp]),
    ] {
        let memory = Memory::new();
        let mut twins = Twins::new(&memory, &policy);
        for (number, packet) in Sessions::new(seed).take(part(PACKETS)).enumerate() {
            let now = Tick::from_nanoseconds(packet.time_ns);
            let entry = entries[number % 2];
            twins.compare(&ethernet(&packet.ip), entry, now, "sessions");
            if number % 97 == 0 {
                twins.compare_helpers("sessions");
            }
        }
        twins.compare_helpers("sessions");
        assert!(twins.compare_rule_counters() > 5);
        let [created, deleted] = [gauges::EXPECTATIONS_CREATED, gauges::EXPECTATIONS_DELETED]
            .map(|gauge| twins.gauge(gauge));
        println!("seed {seed}: {created} expected, {deleted} met, replaced or forgotten");
        assert!(created > part(250) as u64 && deleted > part(200) as u64);
    }
}
