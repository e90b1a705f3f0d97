//! Chains of hundreds of rules, which both planes walk by their index.

use keepstate_daemon::twin::Entry;
use keepstate_engine::policy::NO_RULE;
use keepstate_engine::time::Tick;
use keepstate_engine::tuple::Family;
use keepstate_sim::traffic::{Mood, Traffic};

use crate::long_chains;
use crate::pair::{Memory, Twins};
use crate::{compiled_for, ethernet};

const RULESETS: std::ops::RangeInclusive<u64> = 5..=8;
const PACKETS: usize = 3_000;

#[test]
fn long_chains_fare_alike() {
    if !keepstate_testkit::root_or_skip("long_chains_fare_alike") {
        return;
    }
    for seed in RULESETS {
        let [v4, v6] = [Family::V4, Family::V6].map(|family| long_chains::rules(seed, family));
        let policy = compiled_for(&v4, &v6);
        let indexed = policy.rules.iter().filter(|rule| rule.index != NO_RULE);
        assert!(indexed.count() > 500, "the chains have an index");
        let memory = Memory::new();
        let mut twins = Twins::new(&memory, &policy);
        let mood = [Mood::Lossy, Mood::Hostile, Mood::Fragmented][seed as usize % 3];
        for (number, packet) in Traffic::new(seed, mood).take(PACKETS).enumerate() {
            let entry = match number % 5 {
                4 if mood != Mood::Fragmented => Entry::EgressEthernet,
                _ => Entry::IngressXdp,
            };
            let now = Tick::from_nanoseconds(packet.time_ns);
            twins.compare(
                &ethernet(&packet.ip),
                entry,
                now,
                &format!("ruleset {seed}"),
            );
        }
        assert!(twins.compare_rule_counters() > 20);
    }
}
