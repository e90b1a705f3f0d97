//! Mixtures of attacks and honest traffic that nobody has chosen: what must be true of all of them.
//!
//! `KEEPSTATE_SWEEP` says how many are played, `KEEPSTATE_SWEEP_SEED` with which number the first begins. A mixture that
//! fails is printed as a scenario, for `keepstate simulate`.

use std::fmt::Write;
use std::sync::atomic::{AtomicU64, Ordering};

use keepstate_sim::traffic::Random;
use keepstate_simulate::{Report, Scenario, run, text as told};

/// In the usual run of tests.
const MIXTURES: u64 = 3;

/// Seconds from an attack's begin until it is named. What is held open is looked for every ten seconds.
const SECONDS_TO_DETECTION: u64 = 6;
const SECONDS_TO_DETECTION_HELD: u64 = 40;

/// What is less of all packets has too few of the 2,000 samples a second that there are.
const SHARE_SEEN: f64 = 0.03;

/// Percent of honest conversations that may fail, where so many were played that one of them is less than that.
const LOSS_PERCENT: f64 = 2.0;
const PLAYED_MIN: u64 = 100;

const RULES: &str = "*filter
:INPUT DROP [0:0]
:FORWARD DROP [0:0]
:OUTPUT ACCEPT [0:0]
-A INPUT -m conntrack --ctstate INVALID -j DROP
-A INPUT -m conntrack --ctstate ESTABLISHED,RELATED -j ACCEPT
-A INPUT -p icmp -j ACCEPT
-A INPUT -p tcp -m multiport --dports 22,80,443 -j ACCEPT
-A INPUT -p udp -m udp --dport 53 -j ACCEPT
COMMIT
";

fn number(name: &str, otherwise: u64) -> u64 {
    let said = std::env::var(name).ok();
    said.map_or(otherwise, |text| text.parse().expect("a number"))
}

/// From one to the other, by orders of magnitude.
fn between(random: &mut Random, least: f64, most: f64) -> f64 {
    let place = random.below(1 << 20) as f64 / f64::from(1 << 20);
    (least * (most / least).powf(place)).round()
}

fn one_of<'a>(random: &mut Random, of: &[&'a str]) -> &'a str {
    of[random.below(of.len() as u64) as usize]
}

fn mixture(seed: u64) -> String {
    let mut random = Random::new(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
    let random = &mut random;
    let is_v6 = random.below(5) == 0;
    let server = if is_v6 { "2001:db8:1::1" } else { "192.0.2.1" };
    let mut text = format!("title = \"mixture {seed}\"\nseconds = 75\nservers = [\"{server}\"]\n");
    if random.below(4) != 0 {
        let rules = RULES.replace("-p icmp ", if is_v6 { "-p ipv6-icmp " } else { "-p icmp " });
        let _ = writeln!(text, "rules = '''\n{rules}'''");
    }
    if random.below(4) == 0 {
        text.push_str("cookies = false\n");
    }
    let never = if is_v6 {
        "2001:db8:9::/48"
    } else {
        "198.18.0.0/16"
    };
    let has_never = random.below(3) == 0;
    if has_never {
        let _ = writeln!(text, "never_ban = [\"{never}\"]");
    }
    honest(random, is_v6, &mut text);
    for _ in 0..=random.below(3) {
        let network = match random.below(4) {
            0 if has_never => never,
            // Where honest clients are.
            1 if is_v6 => "2001:db8:7::/48",
            1 => "203.0.113.0/24",
            2 if is_v6 => "2001:db8:a000::/40",
            2 => "100.64.0.0/12",
            _ if is_v6 => "2001::/16",
            _ => "0.0.0.0/0",
        };
        attack(random, network, &mut text);
    }
    text
}

fn honest(random: &mut Random, is_v6: bool, text: &mut String) {
    let [crowd, nat, near] = if is_v6 {
        [
            "2001:db8:c000::/36",
            "2001:db8:7:77::1/128",
            "2001:db8:7::/48",
        ]
    } else {
        ["198.51.0.0/16", "203.0.113.77/32", "203.0.113.0/24"]
    };
    let mut add = |kind: &str, network: &str, clients: u64, rate: f64, port: u16, more: &str| {
        let _ = writeln!(
            text,
            "[[legitimate]]\nkind = \"{kind}\"\nnetwork = \"{network}\"\nclients = {clients}\nrate = {rate}\n\
             port = {port}\n{more}"
        );
    };
    let clients = between(random, 50.0, 5000.0) as u64;
    let rate = between(random, 20.0, 400.0);
    add("web", crowd, clients, rate, 80, "");
    if random.below(2) == 0 {
        let rate = between(random, 20.0, 200.0);
        add("web", nat, 500, rate, 80, "nat = true");
    }
    if random.below(2) == 0 {
        add("web", near, 60, 20.0, 443, "");
    }
    if random.below(2) == 0 {
        add("session", crowd, 30, 30.0, 22, "");
    }
    if random.below(2) == 0 {
        let rate = between(random, 20.0, 200.0);
        add("dns", crowd, 300, rate, 53, "");
    }
    if random.below(3) == 0 {
        let rate = between(random, 200.0, 1500.0);
        add("web", crowd, 20_000, rate, 80, "begin = 22\nend = 60");
    }
}

fn attack(random: &mut Random, network: &str, text: &mut String) {
    const KINDS: [&str; 15] = [
        "syn",
        "syn_ack",
        "ack",
        "rst",
        "udp",
        "dns",
        "ntp",
        "ssdp",
        "memcached",
        "icmp",
        "fragments",
        "connections",
        "slow",
        "table",
        "port_scan",
    ];
    let kind = one_of(random, &KINDS);
    let few = between(random, 1.0, 60.0);
    let many = between(random, 200.0, 20_000.0);
    let few_or_many = if random.below(2) == 0 { few } else { many };
    let (rate, sources) = match kind {
        "connections" => (between(random, 1000.0, 4000.0), few.min(30.0)),
        "slow" => (between(random, 60.0, 300.0), few),
        "port_scan" => (between(random, 200.0, 2000.0), few.min(8.0)),
        "table" => (between(random, 20_000.0, 200_000.0), few_or_many),
        _ => {
            let most = one_of(random, &["1e5", "1e5", "1e6", "1e8"]);
            let most = most.parse().expect("a number");
            (between(random, 3000.0, most), few_or_many)
        }
    };
    // Where nearly every address attacks, honest clients do too.
    let sources = match network {
        "203.0.113.0/24" => sources.min(40.0),
        _ => sources,
    };
    let begin = 25 + random.below(5);
    let end = begin + 35;
    let _ = writeln!(
        text,
        "[[attack]]\nkind = \"{kind}\"\nrate = {rate}\nsources = {sources}\nnetwork = \"{network}\"\n\
         begin = {begin}\nend = {end}"
    );
    let is_of_connections = matches!(kind, "connections" | "slow" | "port_scan");
    if !is_of_connections && random.below(3) == 0 {
        text.push_str("spoofed = true\n");
    }
    if random.below(3) == 0 {
        let _ = writeln!(text, "ttl = {}", 40 + random.below(200));
    }
    if matches!(kind, "udp" | "ack" | "icmp") && random.below(2) == 0 {
        let _ = writeln!(text, "length = {}", 100 + random.below(1200));
    }
    if kind == "udp" && random.below(2) == 0 {
        text.push_str("port = 53\n");
    }
}

/// What is wrong with how it went.
fn faults(report: &Report) -> Vec<String> {
    let mut faults = Vec::new();
    let all: f64 = report.attacks.iter().map(|attack| attack.rate).sum();
    for attack in &report.attacks {
        if attack.rate < SHARE_SEEN * all {
            continue;
        }
        let kind = format!("{:?}", attack.kind);
        let within = match &*kind {
            "Slow" => SECONDS_TO_DETECTION_HELD,
            _ => SECONDS_TO_DETECTION,
        };
        match attack.after_seconds {
            None => faults.push(format!("missed: {kind} of {}", attack.rate)),
            Some(after) if after > within => {
                faults.push(format!("late: {kind} of {} after {after}", attack.rate));
            }
            Some(_) => {}
        }
    }
    for (client, network) in &report.wrong_bans {
        faults.push(format!("wrong ban: {client} with {network}"));
    }
    for alarm in &report.false_alarms {
        faults.push(format!("false alarm: {:?}, {}", alarm.kind, alarm.evidence));
    }
    for honest in &report.legitimate {
        // Whoever shares an attacker's address shares its fate, see docs/floods.md.
        let own = honest.under_attack.failed - honest.under_attack.failed_beside_attackers;
        let played = honest.under_attack.served + own;
        let loss = 100.0 * own as f64 / played.max(1) as f64;
        if played >= PLAYED_MIN && loss > LOSS_PERCENT {
            faults.push(format!("loss: {loss:.1} % of {played} {}", honest.kind));
        }
    }
    for step in &report.steps {
        if let (keepstate_defence::StepState::Failed, Some(why)) =
            (step.step.state, &step.step.note)
            && !why.contains("takes no cookies")
        {
            faults.push(format!("failed step: {}, {why}", step.step.action.name()));
        }
    }
    faults
}

#[test]
fn whatever_comes_the_honest_are_served() {
    let first = number("KEEPSTATE_SWEEP_SEED", 1);
    let count = number("KEEPSTATE_SWEEP", MIXTURES);
    let next = AtomicU64::new(first);
    let play = || {
        let mut found = Vec::new();
        loop {
            let seed = next.fetch_add(1, Ordering::Relaxed);
            if seed >= first + count {
                return found;
            }
            let text = mixture(seed);
            let scenario = Scenario::parse(&text).unwrap_or_else(|error| panic!("{error}\n{text}"));
            let report = run(&scenario, seed).expect("the rules are right");
            let faults = faults(&report);
            if !faults.is_empty() {
                found.push((seed, faults, format!("{text}\n{}", told(&report))));
            }
        }
    };
    let mut found = std::thread::scope(|scope| {
        let players: Vec<_> = (0..2).map(|_| scope.spawn(play)).collect();
        let played = players
            .into_iter()
            .map(|player| player.join().expect("no panic"));
        played.flatten().collect::<Vec<_>>()
    });
    found.sort_by_key(|fault| fault.0);
    for (seed, faults, text) in &found {
        println!("---- {seed}\n{}\n{text}", faults.join("\n"));
    }
    assert!(found.is_empty(), "{} of {count} mixtures", found.len());
}
