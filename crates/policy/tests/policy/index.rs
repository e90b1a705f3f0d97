//! Walks by an index against walks rule by rule: the same answer and the same counters, for random chains of
//! addresses, networks, ports and whatever else stands among them.

use keepstate_engine::policy::NO_RULE;
use keepstate_engine::tuple::Family;
use keepstate_engine::verdict::{Hook, State};
use keepstate_policy::{FileKind, Network, Policy, compile};

use crate::walk::{Fast, Probe};

const RULESETS: u64 = 1_000;
const PROBES: usize = 60;

/// xorshift64.
struct Random(u64);

impl Random {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 16) % limit
    }

    fn is_one_in(&mut self, count: u64) -> bool {
        self.below(count) == 0
    }

    fn of<'a>(&mut self, words: &[&'a str]) -> &'a str {
        words[self.below(words.len() as u64) as usize]
    }
}

/// Few enough that packets meet rules.
fn address(random: &mut Random, family: Family) -> String {
    let (a, b) = (random.below(4), random.below(24));
    match family {
        Family::V4 => format!("10.{}.{a}.{b}", random.below(2)),
        Family::V6 => format!("2001:db8:{}:{a}::{b:x}", random.below(2)),
    }
}

fn network(random: &mut Random, family: Family) -> String {
    let address = address(random, family);
    let suffix = match family {
        Family::V4 => random.of(&[
            "",
            "",
            "",
            "",
            "",
            "",
            "",
            "/32",
            "/32",
            "/31",
            "/30",
            "/27",
            "/24",
            "/16",
            "/255.255.0.255",
        ]),
        Family::V6 => random.of(&[
            "", "", "", "", "", "", "/128", "/128", "/127", "/126", "/120", "/64", "/48",
        ]),
    };
    address + suffix
}

/// What a chain of a shape in use is made of.
fn rule(random: &mut Random, family: Family, shape: u64) -> String {
    let mut words = String::new();
    let not = |random: &mut Random| if random.is_one_in(60) { " !" } else { "" };
    if shape != 2 && !random.is_one_in(40) {
        words += &format!("{} -s {}", not(random), network(random, family));
    }
    if shape == 3 || random.is_one_in(8) {
        words += &format!("{} -d {}", not(random), network(random, family));
    }
    if random.is_one_in(25) {
        words += random.of(&[
            " -m conntrack --ctstate NEW",
            " -m state --state ESTABLISHED,RELATED",
        ]);
    }
    if shape == 2 || random.is_one_in(3) {
        words += random.of(&[" -p tcp", " -p udp"]);
        if !random.is_one_in(30) {
            let low = 1000 + random.below(60);
            let port = match random.below(30) {
                0 => format!("{low}:{}", low + random.below(40)),
                1 => format!("{low}:"),
                _ => low.to_string(),
            };
            words += &format!(
                "{} {} {port}",
                not(random),
                random.of(&["--dport", "--dport", "--sport"])
            );
        }
    }
    words
}

fn ruleset(random: &mut Random, family: Family) -> String {
    const CHAINS: u64 = 3;
    let mut text = String::from("*filter\n:INPUT DROP [0:0]\n");
    for chain in 0..CHAINS {
        text += &format!(":c{chain} - [0:0]\n");
    }
    for chain in 0..=CHAINS {
        let name = if chain == 0 {
            "INPUT".into()
        } else {
            format!("c{}", chain - 1)
        };
        let shape = random.below(4);
        let length = if random.is_one_in(3) {
            random.below(20)
        } else {
            random.below(160)
        };
        for _ in 0..length {
            let mut words = rule(random, family, shape);
            if random.is_one_in(30) {
                words += random.of(&[" -i eth0", " ! -i eth+", " -i lo"]);
            }
            let target = match random.below(12) {
                0 => String::new(),
                1 => " -j RETURN".into(),
                2 | 3 if chain < CHAINS => {
                    let to = chain + random.below(CHAINS - chain);
                    format!(" -{} c{to}", random.of(&["j", "g"]))
                }
                4..=7 => " -j ACCEPT".into(),
                _ => " -j DROP".into(),
            };
            text += &format!("-A {name}{words}{target}\n");
        }
    }
    text + "COMMIT\n"
}

fn probe(random: &mut Random, family: Family) -> Probe {
    let network = |random: &mut Random| {
        let text = address(random, family);
        Network::parse(family, &text).expect("an address").address
    };
    Probe {
        source: network(random),
        destination: network(random),
        protocol: if random.is_one_in(4) { 17 } else { 6 },
        source_port: 1000 + random.below(100) as u16,
        destination_port: 1000 + random.below(100) as u16,
        state: if random.is_one_in(3) {
            State::Established
        } else {
            State::New
        },
        incoming: random.of(&["eth0", "lo", "wlan0"]),
        outgoing: "",
        hook: Hook::Input,
    }
}

fn agree(family: Family) {
    let mut random = Random(0x9e37_79b9_7f4a_7c15 ^ family as u64);
    let (mut indexed, mut tried_by_index, mut tried_one_by_one) = (0, 0, 0);
    for number in 0..RULESETS {
        let text = ruleset(&mut random, family);
        let mut policy = Policy::default();
        policy.merge(crate::common::read(&text, FileKind::Save(family)));
        // Ways through doubled jumps may be longer than a policy may have.
        let Ok(compiled) = compile(&policy) else {
            continue;
        };
        let by_index = Fast::new(&policy, &compiled, &compiled.index);
        let one_by_one = Fast::new(&policy, &compiled, &[]);
        for _ in 0..PROBES {
            let probe = probe(&mut random, family);
            assert_eq!(
                by_index.answer(family, &probe),
                one_by_one.answer(family, &probe),
                "ruleset {number}: {probe:?}\n{text}"
            );
        }
        indexed += compiled
            .rules
            .iter()
            .filter(|rule| rule.index != NO_RULE)
            .count();
        tried_by_index += by_index.tried.get();
        tried_one_by_one += one_by_one.tried.get();
        assert_eq!(
            by_index.counters.into_inner(),
            one_by_one.counters.into_inner(),
            "{text}"
        );
    }
    println!("{indexed} rules with an index, {tried_by_index} tried instead of {tried_one_by_one}");
    assert!(indexed > RULESETS as usize * 20);
    assert!(tried_by_index * 3 < tried_one_by_one * 2);
}

#[test]
fn ipv4_walks_by_index_agree() {
    agree(Family::V4);
}

#[test]
fn ipv6_walks_by_index_agree() {
    agree(Family::V6);
}

/// The shapes that rulesets of thousands of rules have: whoever matches none of them meets a few.
#[test]
fn of_ten_thousand_rules_a_packet_meets_a_few() {
    type Line = fn(u64) -> String;
    let shapes: [(&str, Line); 7] = [
        ("networks close together", |n| {
            let first = 20 + n * 0x9e37 % 100;
            format!(
                "-d {first}.{}/{} -j DROP",
                scattered(n).split_once('.').unwrap().1,
                12 + n % 21
            )
        }),
        ("addresses", |n| format!("-s {} -j DROP", scattered(n))),
        ("addresses in a row", |n| {
            format!("-s 10.{}.{}.{} -j DROP", n >> 16, n >> 8 & 255, n & 255)
        }),
        ("networks and ports", |n| {
            format!(
                "-s {}/{} -p tcp --dport {} -j ACCEPT",
                scattered(n),
                8 + n % 25,
                1 + n % 1009
            )
        }),
        ("ports and addresses", |n| {
            format!("-p tcp --dport {} -s {} -j ACCEPT", 1 + n % 7, scattered(n))
        }),
        ("servers and ports", |n| {
            format!(
                "-d 10.0.{}.{} -p tcp --dport {} -j ACCEPT",
                n >> 8 & 255,
                n & 255,
                1 + n % 5
            )
        }),
        ("all of it", |n| match n % 4 {
            0 => format!("-s {} -j DROP", scattered(n)),
            1 => format!(
                "-s {}/{} -p tcp --dport {} -j ACCEPT",
                scattered(n),
                12 + n % 21,
                n % 1009
            ),
            2 => format!(
                "-p udp --dport {} -s {} -j ACCEPT",
                1 + n % 11,
                scattered(n)
            ),
            _ => format!("-d {}/{} -j DROP", scattered(n), 16 + n % 17),
        }),
    ];
    for (name, line) in shapes {
        let mut text = String::from("*filter\n:INPUT DROP [0:0]\n");
        for number in 0..10_000 {
            text += &format!("-A INPUT {}\n", line(number));
        }
        text += "COMMIT\n";
        let mut policy = Policy::default();
        policy.merge(crate::common::read(&text, FileKind::Save(Family::V4)));
        let started = std::time::Instant::now();
        let compiled = compile(&policy).expect("the rules compile");
        let elapsed = started.elapsed();
        let fast = Fast::new(&policy, &compiled, &compiled.index);
        let mut random = Random(7);
        for _ in 0..1_000 {
            let probe = Probe {
                source: [random.below(1 << 32) as u32, 0, 0, 0],
                destination: [random.below(1 << 32) as u32, 0, 0, 0],
                ..probe(&mut random, Family::V4)
            };
            fast.answer(Family::V4, &probe);
        }
        let tables = compiled.index.get(1).map_or(0, |line| line[5] + 1);
        let met = fast.tried.get() as f64 / 1_000.0;
        println!(
            "{name}: {met} rules a packet, {tables} tables, {} lines, {elapsed:?}",
            compiled.index.len()
        );
        assert!(met < 8.0, "{name}");
        assert!(tables <= 8, "{name}");
    }
}

/// An address that has nothing to do with the one before.
fn scattered(number: u64) -> String {
    let bits = (number + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32;
    format!(
        "{}.{}.{}.{}",
        bits >> 24,
        bits >> 16 & 255,
        bits >> 8 & 255,
        bits & 255
    )
}
