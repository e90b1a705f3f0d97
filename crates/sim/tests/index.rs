//! Packets that walk by the index of long chains, beside the same packets that try rule by rule: same outcome,
//! same counters, same records. Conditions, both tables, jumps and remembered outcomes among it.

#[path = "support/long_chains.rs"]
mod long_chains;

use keepstate_engine::policy::NO_RULE;
use keepstate_engine::process::{Arrival, Checksums, Path};
use keepstate_engine::settings::{SETTING_CHECKSUM, Settings};
use keepstate_engine::time::Tick;
use keepstate_engine::tuple::Family;
use keepstate_engine::verdict::Verdict;
use keepstate_engine::wire::Link;
use keepstate_flowmemory::{Accounting, OwnedTable, buckets_for};
use keepstate_policy::{FileKind, Policy, compile, parse_rules};
use keepstate_sim::plane::{LoadedPolicy, Plane};
use keepstate_sim::traffic::{Mood, Traffic};

const FLOWS_MAX: u32 = 4096;
const RULESETS: u64 = 60;
const PACKETS: usize = 3_000;

#[test]
fn packets_fare_alike_with_an_index_and_without() {
    let (mut accepted, mut remembered) = (0, 0);
    for seed in 1..=RULESETS {
        let mut policy = Policy::default();
        for family in [Family::V4, Family::V6] {
            let text = long_chains::rules(seed, family);
            let parsed = parse_rules(&text, FileKind::Save(family));
            assert!(!parsed.has_errors(), "{:?}", parsed.diagnostics);
            policy.merge(parsed);
        }
        let compiled = compile(&policy).expect("the rules compile");
        let indexed = compiled.rules.iter().filter(|rule| rule.index != NO_RULE);
        assert!(indexed.count() > 500, "the chains have an index");
        let by_index = LoadedPolicy {
            header: compiled.header,
            rules: compiled.rules,
            conditions: compiled.conditions,
            index: compiled.index,
            names: Vec::new(),
        };
        let one_by_one = LoadedPolicy {
            index: Vec::new(),
            ..by_index.clone()
        };
        let buckets = buckets_for(FLOWS_MAX);
        let mut settings = Settings::defaults(FLOWS_MAX, [buckets; 2]);
        settings.flags &= !SETTING_CHECKSUM;
        let conditions = by_index.conditions.len();
        let memory = [(); 2].map(|()| {
            OwnedTable::new(settings.buckets, Accounting::No).with_conditions(conditions)
        });
        let plane =
            |number: usize, policy| Plane::new(memory[number].as_slices(), settings, policy, ());
        let planes = [plane(0, by_index), plane(1, one_by_one)];
        let mood = [Mood::Lossy, Mood::Hostile, Mood::Fragmented][seed as usize % 3];
        for (number, packet) in Traffic::new(seed, mood).take(PACKETS).enumerate() {
            let arrival = Arrival {
                link: match packet.ip.first().map(|byte| byte >> 4) {
                    Some(6) => Link::Ipv6,
                    _ => Link::Ipv4,
                },
                path: if number % 7 == 0 {
                    Path::Local
                } else {
                    Path::Ingress
                },
                checksums: Checksums::Trusted,
                zone: 0,
                interfaces: 1 << (number % 3),
            };
            let now = Tick::from_nanoseconds(packet.time_ns);
            let [one, other] = planes
                .each_ref()
                .map(|plane| plane.judge(&packet.ip, &arrival, now));
            assert_eq!(one, other, "ruleset {seed}, packet {number}");
            accepted += u32::from(one.verdict == Verdict::Accept);
        }
        let [one, other] = &planes;
        for rule in 0..one.policy().rules.len() as u32 {
            assert_eq!(
                one.rule_counter(rule),
                other.rule_counter(rule),
                "ruleset {seed}, rule {rule}"
            );
            remembered += u32::from(one.rule_counter(rule).packets != 0);
        }
    }
    println!("{accepted} packets accepted, {remembered} rules matched");
    assert!(accepted > 10_000 && remembered > 1_000);
}
