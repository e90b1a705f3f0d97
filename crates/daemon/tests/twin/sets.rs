//! Sets in both planes: asked and changed by rules, and by the daemon's hand in between.

use keepstate_daemon::twin::Entry;
use keepstate_engine::set::head::{self, Definition};
use keepstate_engine::set::{self, Search, Shape, Target, Type, Wish};
use keepstate_engine::time::Tick;
use keepstate_engine::tuple::Family;
use keepstate_flowmemory::{FamilySlices, SetSlices, SliceTable};
use keepstate_sim::traffic::{Mood, Random, Traffic};

use crate::pair::{Memory, Twins};
use crate::{compiled_for, ethernet};

const PACKETS: usize = 10_000;

/// `@` stands for the number of the family.
const RULES: &str = "*raw
-A PREROUTING -m set --match-set nets@ src
-A PREROUTING -m statistic --mode nth --every 40 --packet 0 -j SET --add-set nets@ dst --timeout 1
COMMIT
*filter
:INPUT ACCEPT [0:0]
:FORWARD ACCEPT [0:0]
:OUTPUT ACCEPT [0:0]
-A FORWARD -m set --match-set hosts@ src
-A FORWARD -m set ! --match-set hosts@ dst
-A FORWARD -m set --match-set nets@ dst --return-nomatch
-A FORWARD -m set --match-set ports@ src
-A FORWARD -m set --match-set ports@ src,dst
-A FORWARD -m set --match-set ports@ dst,src
-A FORWARD -m set ! --match-set list@ src,dst
-A FORWARD -m set --match-set seen@ src
-A FORWARD -p udp -m statistic --mode nth --every 3 --packet 0 -j SET --add-set seen@ src --timeout 2 --exist
-A FORWARD -p tcp --syn -j SET --add-set ports@ src,dst --exist --del-set seen@ dst
-A FORWARD -m length --length 60:70 -j SET --add-set hosts@ src
-A FORWARD -m length --length 71:80 -j SET --del-set hosts@ src
-A FORWARD -m length --length 81:84 -j SET --del-set ports@ dst,src
-A FORWARD -m set --match-set seen@ src -m set --match-set hosts@ dst -m statistic --mode nth --every 2 --packet 0 -j DROP
-A OUTPUT -m set --match-set hosts@ dst -j SET --del-set hosts@ dst
COMMIT
";

const NAMES: [&str; 5] = ["hosts", "nets", "ports", "seen", "list"];

fn number(name: &str) -> Option<u32> {
    let (name, family) = name.split_at(name.len() - 1);
    let at = NAMES.iter().position(|known| *known == name)?;
    Some(at as u32 * 2 + u32::from(family == "6"))
}

fn shape(number: u32) -> Shape {
    let (family, bits) = match number % 2 {
        0 => (Family::V4, 32),
        _ => (Family::V6, 128),
    };
    let (kind, netmask) = match number / 2 {
        0 => (Type::Address, bits - 3),
        1 => (Type::Network, bits),
        2 => (Type::AddressPort, bits),
        3 => (Type::Address, bits),
        _ => (Type::List, bits),
    };
    Shape {
        kind,
        family,
        is_timed: number / 2 != 2,
        netmask,
    }
}

fn define(flows: &SliceTable<'_>) {
    for number in 0..NAMES.len() as u32 * 2 {
        let definition = Definition {
            shape: shape(number),
            timeout: 3,
            hashsize: 64,
            entries_max: if number / 2 == 2 { 40 } else { 1000 },
        };
        // Contents lie elsewhere than the sets that have them.
        head::define(flows, number, 15 - number, &[b'x'; 32], &definition);
    }
    for family in 0..2 {
        let members = [1, 0, 2].map(|set| (set * 2 + family + 1) | head::MEMBER_FOR_EVER);
        head::set_members(flows, 8 + family as u32, &members);
    }
}

#[test]
fn sets_fare_alike() {
    if !keepstate_testkit::root_or_skip("sets_fare_alike") {
        return;
    }
    let mut policy = compiled_for(&RULES.replace('@', "4"), &RULES.replace('@', "6"));
    policy.number_sets(number).expect("all sets have numbers");
    for (seed, mood) in [
        (61, Mood::Hostile),
        (62, Mood::Fragmented),
        (63, Mood::Lossy),
    ] {
        let memory = Memory::new();
        let mut twins = Twins::new(&memory, &policy);
        let maps = &twins.kernel.kernel.maps;
        let kernel = SliceTable::new([FamilySlices::NONE; 2], &[]).with_sets(SetSlices {
            buckets: maps.sets.words(),
            heads: maps.set_heads.words(),
        });
        define(&kernel);
        define(&memory.table());
        let mut random = Random::new(seed);
        for (index, packet) in Traffic::new(seed, mood).take(PACKETS).enumerate() {
            let now = Tick::from_nanoseconds(packet.time_ns);
            if index % 20 == 0 {
                let maps = &twins.kernel.kernel.maps;
                let kernel = SliceTable::new([FamilySlices::NONE; 2], &[]).with_sets(SetSlices {
                    buckets: maps.sets.words(),
                    heads: maps.set_heads.words(),
                });
                let settings = twins.native.settings;
                change(
                    [memory.table(), kernel],
                    &settings,
                    &mut random,
                    &packet.ip,
                    now,
                );
            }
            let entry = match index / 256 % 4 {
                3 => Entry::EgressEthernet,
                2 => Entry::IngressTc,
                _ => Entry::IngressXdp,
            };
            twins.compare(&ethernet(&packet.ip), entry, now, "sets");
            if index % 97 == 0 {
                memory.compare_sets(&twins.kernel.kernel.maps, "sets");
            }
        }
        memory.compare_sets(&twins.kernel.kernel.maps, "sets");
        let counted = twins.compare_rule_counters();
        println!("{mood:?}: {counted} rules matched");
        assert!(counted > 20, "{mood:?}: {counted}");
    }
}

/// Puts in, or takes out, something of a packet, in both planes.
fn change(
    planes: [SliceTable<'_>; 2],
    settings: &keepstate_engine::settings::Settings,
    random: &mut Random,
    ip: &[u8],
    now: Tick,
) {
    let word = |at: usize| {
        let bytes = ip.get(at..at + 4).unwrap_or(&[0; 4]);
        u32::from_be_bytes(bytes.try_into().expect("four bytes"))
    };
    let (family, address) = match ip.first().is_some_and(|byte| byte >> 4 == 6) {
        true => (Family::V6, [8, 12, 16, 20].map(word)),
        false => (Family::V4, [word(12), 0, 0, 0]),
    };
    let number = random.below(4) as u32 * 2 + family as u32;
    let shape = shape(number);
    let length = match shape.kind {
        Type::Network => u32::from(shape.bits()) - [0, 1, 3, 8][random.below(4) as usize],
        _ => u32::from(shape.netmask),
    };
    let port = (shape.kind == Type::AddressPort).then(|| (6, random.below(100) as u16));
    let wish = Wish {
        content: 15 - number,
        length,
        deadline: (random.below(3) != 0).then(|| Tick(now.0 + random.below(400) as u32)),
        is_nomatch: shape.kind == Type::Network && random.below(3) == 0,
        changes: random.below(2) == 0,
    };
    let removes = random.below(4) == 0;
    for flows in planes {
        let mut search = Search::NOTHING;
        let target = Target {
            address,
            family,
            port,
        };
        search.begin(&target, 0, now);
        if removes {
            set::remove(&flows, settings, wish.content, length, &mut search);
        } else {
            set::put(&flows, settings, &wish, &mut search);
        }
    }
}
