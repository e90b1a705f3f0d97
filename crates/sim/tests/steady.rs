//! The short way of a packet against the long one: same outcomes, same tables, word by word.

use std::sync::atomic::{AtomicU64, Ordering::SeqCst};

use keepstate_engine::host::Host as _;
use keepstate_engine::limits::{
    ACCOUNTING_WORDS, SLOT_WORDS_V4, SLOT_WORDS_V6, SLOTS_PER_BUCKET, WARM_WORDS,
};
use keepstate_engine::policy::{
    NO_RULE, POLICY_NONE, POLICY_UNSETTLED, PolicyHeader, RULE_FLOW_ONLY, RULE_IN_INTERFACE,
    RULE_STATES, Rule, SettledInterfaces, target,
};
use keepstate_engine::process::{Arrival, Checksums, Outcome, Path, Scratch, Stage, prepare, step};
use keepstate_engine::settings::{SETTING_ACCOUNTING, Settings};
use keepstate_engine::table::gauges;
use keepstate_engine::time::Tick;
use keepstate_engine::verdict::{State, Verdict};
use keepstate_engine::wire::Link;
use keepstate_flowmemory::{FamilySlices, SliceTable, buckets_for};
use keepstate_sim::packet::Bytes;
use keepstate_sim::plane::{BATCH_PACKETS_MAX, Batch, LoadedPolicy, Observer, Plane};
use keepstate_sim::traffic::{Mood, Traffic};

const FLOWS_MAX: u32 = 512;
const PACKETS: usize = 60_000;

/// Listens to every step, so that none is passed over.
struct Listener;

impl Observer for Listener {
    fn wants_steps(&self) -> bool {
        true
    }
}

#[test]
fn both_ways_lead_to_the_same() {
    for (seed, mood) in [(11, Mood::Lossy), (12, Mood::Hostile)] {
        let memories = [Memory::new(), Memory::new()];
        let short = Plane::new(memories[0].table(), settings(), policy(), ());
        let long = Plane::new(memories[1].table(), settings(), policy(), Listener);
        assert!(long.is_traced() && !short.is_traced());
        for packet in Traffic::new(seed, mood).take(PACKETS) {
            let now = Tick::from_nanoseconds(packet.time_ns);
            let arrival = arrival(&packet.ip);
            let outcomes = (
                short.judge(&packet.ip, &arrival, now),
                long.judge(&packet.ip, &arrival, now),
            );
            assert_eq!(outcomes.0, outcomes.1, "{mood:?}: {:02x?}", packet.ip);
        }
        assert_eq!(memories[0].words(), memories[1].words(), "{mood:?}");
        for rule in 0..policy().header.rules {
            assert_eq!(short.rule_counter(rule), long.rule_counter(rule));
        }
    }
}

/// Packets of one flow may follow each other in a batch: each finds the record as the one before left it.
#[test]
fn a_batch_fares_as_its_packets_one_by_one() {
    let memories = [Memory::new(), Memory::new()];
    let together = Plane::new(memories[0].table(), settings(), policy(), ());
    let alone = Plane::new(memories[1].table(), settings(), policy(), ());
    let mut batch = Batch::default();
    let packets: Vec<_> = Traffic::new(13, Mood::Lossy).take(PACKETS).collect();
    let mut judged = 0;
    for chunk in packets.chunk_by(|one, other| one.ip[0] >> 4 == other.ip[0] >> 4) {
        let most = 1 + judged % BATCH_PACKETS_MAX;
        for chunk in chunk.chunks(most) {
            let now = Tick::from_nanoseconds(chunk[0].time_ns);
            let arrival = arrival(&chunk[0].ip);
            let mut outcomes = Vec::new();
            let bytes = chunk.iter().map(|packet| packet.ip.as_slice());
            let keep = |outcome| outcomes.push(outcome);
            together.judge_batch(&mut batch, bytes.clone(), &arrival, now, keep);
            let expected: Vec<_> = bytes.map(|ip| alone.judge(ip, &arrival, now)).collect();
            assert_eq!(outcomes, expected);
            judged += chunk.len();
        }
    }
    assert_eq!(judged, PACKETS);
    assert_eq!(memories[0].words(), memories[1].words());
}

#[test]
fn most_packets_of_established_flows_go_the_short_way() {
    let (established, short) = established_and_short(policy());
    println!("{short} of {established} packets of established flows");
    assert!(short > established / 4, "{short} of {established}");
}

/// `-i lo -j ACCEPT` stands first, and no packet comes by an interface that fits.
#[test]
fn a_rule_with_a_settled_interface_keeps_nobody_from_the_short_way() {
    let (established, usual) = established_and_short(policy());
    let settled = SettledInterfaces {
        patterns: 1,
        answers: 0,
    };
    let short = |change: fn(&mut PolicyHeader)| {
        let mut policy = policy_with_loopback();
        policy.header.settled = settled;
        change(&mut policy.header);
        established_and_short(policy)
    };
    assert_eq!(short(|_| {}), (established, usual));
    let none = (established, 0);
    let unsettled = short(|header| header.settled = SettledInterfaces::NONE);
    assert_eq!(unsettled, none);
    assert_eq!(short(|header| header.settled.answers = 1), none);
    assert_eq!(short(|header| header.flags |= POLICY_UNSETTLED), none);
}

/// Each packet comes by an interface of its own choice: what is remembered of one must not serve
/// another that the rules treat otherwise, whatever is said to be settled.
#[test]
fn memories_do_not_show() {
    for (seed, patterns, answers) in [(21, 0b01, 0), (22, 0b11, 0b01), (23, 0b10, 0)] {
        let memories = [Memory::new(), Memory::new()];
        let mut settled = policy_with_loopback();
        settled.header.settled = SettledInterfaces { patterns, answers };
        let remembers = Plane::new(memories[0].table(), settings(), settled, ());
        let mut forgets = policy_with_loopback();
        forgets.header.cached = [NO_RULE; 8];
        let forgets = Plane::new(memories[1].table(), settings(), forgets, ());
        for (number, packet) in Traffic::new(seed, Mood::Lossy).take(PACKETS).enumerate() {
            let now = Tick::from_nanoseconds(packet.time_ns);
            let arrival = Arrival {
                // Nearly all by the same.
                interfaces: if number % 5 == 0 {
                    (number as u64 / 5) & 3
                } else {
                    answers
                },
                ..arrival(&packet.ip)
            };
            // All chains are one here, and a memory names the first of them.
            let judged = |plane: &Plane<_, _>| Outcome {
                hook: None,
                ..plane.judge(&packet.ip, &arrival, now)
            };
            let outcomes = (judged(&remembers), judged(&forgets));
            assert_eq!(outcomes.0, outcomes.1, "{patterns:b}: {:02x?}", packet.ip);
        }
        for rule in 0..policy_with_loopback().header.rules {
            assert_eq!(remembers.rule_counter(rule), forgets.rule_counter(rule));
        }
        let [with, without] = memories.map(|memory| memory.words());
        assert_eq!(with != without, patterns & 1 != 0, "{patterns:b}");
    }
}

/// Accepted packets of established flows, and how many of them went the short way.
fn established_and_short(policy: LoadedPolicy) -> (u32, u32) {
    let memory = Memory::new();
    let plane = Plane::new(memory.table(), settings(), policy, ());
    let mut scratch = Scratch::default();
    let (mut established, mut short) = (0, 0);
    for packet in Traffic::new(13, Mood::Lossy).take(PACKETS) {
        let now = Tick::from_nanoseconds(packet.time_ns);
        let (bytes, arrival) = (Bytes(&packet.ip), arrival(&packet.ip));
        let mut stage = prepare(&bytes, &arrival, &plane, &mut scratch, now);
        let mut steps = 0;
        while stage != Stage::Done {
            stage = step(&bytes, &arrival, &plane, &mut scratch, stage);
            steps += 1;
        }
        let outcome = scratch.outcome();
        if (outcome.state, outcome.verdict) == (State::Established, Verdict::Accept) {
            established += 1;
            short += u32::from(steps == 1);
        }
    }
    (established, short)
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

fn settings() -> Settings {
    let buckets = buckets_for(FLOWS_MAX);
    let mut settings = Settings::defaults(FLOWS_MAX, [buckets, buckets]);
    settings.flags |= SETTING_ACCOUNTING;
    settings
}

/// Invalid packets are dropped, all others pass; what established ones meet is remembered.
fn policy() -> LoadedPolicy {
    let rule = |states: u32, target: u8, number: u32| Rule {
        flags: RULE_STATES | RULE_FLOW_ONLY,
        states,
        target,
        number,
        hook: 1,
        ..Rule::ALWAYS
    };
    let end = Rule {
        flags: RULE_FLOW_ONLY,
        target: target::ACCEPT,
        hook: 1,
        ..Rule::ALWAYS
    };
    let mut header = PolicyHeader {
        rules: 3,
        entry: [[0; 3]; 2],
        cached: [NO_RULE; 8],
        ..PolicyHeader::NONE
    };
    header.flags &= !POLICY_NONE;
    header.cached[0] = 1;
    LoadedPolicy {
        header,
        rules: vec![
            rule(u32::from(State::Invalid.bit()), target::DROP, 1),
            rule(u32::from(State::Established.bit()), target::ACCEPT, 2),
            end,
        ],
        ..LoadedPolicy::NONE
    }
}

/// The same after a rule that accepts what comes by an interface of the first pattern.
fn policy_with_loopback() -> LoadedPolicy {
    let mut policy = policy();
    let first = Rule {
        flags: RULE_FLOW_ONLY | RULE_IN_INTERFACE,
        target: target::ACCEPT,
        number: 1,
        hook: 1,
        ..Rule::ALWAYS
    };
    policy.rules.insert(0, first);
    policy.header.rules += 1;
    policy.header.cached[0] += 1;
    policy.header.cached[1] = 0;
    policy
}

/// A flow table's memory.
struct Memory {
    families: [[Vec<AtomicU64>; 4]; 2],
    gauges: Vec<AtomicU64>,
}

impl Memory {
    fn new() -> Self {
        let words = |count: u32| (0..count).map(|_| AtomicU64::new(0)).collect::<Vec<_>>();
        let [v4, v6] = settings().buckets;
        let family = |buckets: u32, slot_words: u32| {
            let slots = buckets * SLOTS_PER_BUCKET;
            [
                words(buckets),
                words(slots * slot_words),
                words(slots * WARM_WORDS),
                words(slots * ACCOUNTING_WORDS),
            ]
        };
        Self {
            families: [family(v4, SLOT_WORDS_V4), family(v6, SLOT_WORDS_V6)],
            gauges: words(gauges::WORDS),
        }
    }

    fn table(&self) -> SliceTable<'_> {
        let families = self
            .families
            .each_ref()
            .map(|[tags, slots, warm, accounting]| FamilySlices {
                tags,
                slots,
                warm,
                accounting,
            });
        SliceTable::new(families, &self.gauges)
    }

    fn words(&self) -> Vec<u64> {
        let arrays = self.families.iter().flatten().chain([&self.gauges]);
        arrays.flatten().map(|word| word.load(SeqCst)).collect()
    }
}
