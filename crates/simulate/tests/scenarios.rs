//! The scenarios in `examples/attacks`, with seeds that nobody has chosen for them.

use std::path::Path;

use keepstate_defence::{AttackKind, StepState};
use keepstate_simulate::{Report, Scenario, html, run, text};

fn scenario(name: &str) -> Scenario {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../examples/attacks");
    let path = directory.join(name).with_extension("toml");
    let text = std::fs::read_to_string(&path).expect("the scenario is there");
    Scenario::parse(&text).unwrap_or_else(|error| panic!("{name}: {error}"))
}

/// Plays it, and holds it against what must be true of each.
#[track_caller]
fn play(name: &str, seed: u64, seconds_to_detection: u64) -> Report {
    let report = run(&scenario(name), seed).expect("the rules are right");
    for attack in &report.attacks {
        let after = attack.after_seconds;
        assert!(
            after.is_some_and(|after| after <= seconds_to_detection),
            "{name}: {attack:?}"
        );
    }
    assert!(
        report.false_alarms.is_empty(),
        "{name}: {:?}",
        report.false_alarms
    );
    assert!(
        report.wrong_bans.is_empty(),
        "{name}: {:?}",
        report.wrong_bans
    );
    for legitimate in &report.legitimate {
        assert!(
            legitimate.loss_under_attack_percent <= 2.0 && legitimate.whole.served > 0,
            "{name}: {legitimate:?}"
        );
    }
    for step in &report.steps {
        assert_ne!(
            step.step.state,
            StepState::Failed,
            "{name}: {:?}",
            step.step
        );
    }
    report
}

/// What is let through of an attack while steps have had their time.
#[track_caller]
fn is_stopped(report: &Report, from: u64, to: u64, share: f64) {
    let rows = report
        .rows
        .iter()
        .filter(|row| (from..to).contains(&row.second));
    let (sent, passed) = rows.fold((0.0, 0.0), |(sent, passed), row| {
        (sent + row.attack, passed + row.attack_passed)
    });
    assert!(sent > 0.0 && passed <= share * sent, "{passed} of {sent}");
}

#[test]
fn syn_floods() {
    for name in ["syn-spoofed", "syn-few", "syn-never-ban", "ipv6", "nat"] {
        let report = play(name, 11, 4);
        is_stopped(&report, 38, 50, 0.01);
        assert!(report.flows_peak < report.flows_max);
    }
    assert_eq!(play("syn-never-ban", 12, 4).networks_banned, 0);
}

#[test]
fn other_floods_of_tcp() {
    for name in ["syn-ack", "ack", "rst"] {
        is_stopped(&play(name, 21, 4), 38, 50, 0.01);
    }
}

#[test]
fn floods_without_connections() {
    for name in ["udp", "icmp", "fragments", "table", "port-scan"] {
        is_stopped(&play(name, 31, 5), 40, 50, 0.02);
    }
}

#[test]
fn reflections() {
    for name in ["dns", "ntp", "ssdp", "memcached"] {
        let report = play(&format!("reflection-{name}"), 41, 4);
        assert_eq!(report.attacks[0].recognised, Some(AttackKind::Reflection));
    }
}

/// Over all addresses of a network behind this host: no single one of them crosses its threshold.
#[test]
fn carpets() {
    for name in ["udp", "syn", "dns", "ntp", "ipv6"] {
        let report = play(&format!("carpet-{name}"), 45, 3);
        is_stopped(&report, 34, 50, 0.01);
        let networks = report.recognised.iter();
        let networks: Vec<_> = networks
            .map(|it| it.destination.map(|to| to.to_string()))
            .collect();
        let whole = if name == "ipv6" {
            "2001:db8:1:7::/64"
        } else {
            "192.0.2.0/24"
        };
        assert_eq!(networks, [Some(whole.to_owned())], "{name}");
    }
}

/// A server that answers all does not hide a flood.
#[test]
fn floods_that_are_answered() {
    is_stopped(&play("dns-queries-forged", 47, 3), 34, 50, 0.01);
    for name in ["dns-queries", "ping"] {
        let report = play(name, 47, 3);
        is_stopped(&report, 30, 50, 0.2);
        // In whose name they come is not known.
        assert_eq!(report.networks_banned, 0, "{name}");
        let limits = report
            .steps
            .iter()
            .any(|it| it.step.action.name() == "limit sources");
        assert!(limits, "{name}");
    }
}

/// A crowd that asks a DNS server the same is none of them.
#[test]
fn a_crowd_that_asks_is_no_attack() {
    let mut scenario = scenario("dns-queries-forged");
    scenario.attack.clear();
    let mut crowd = scenario.legitimate.last().expect("dns").clone();
    crowd.clients = 5000;
    crowd.rate = 3000.0;
    crowd.begin = 25;
    scenario.legitimate.push(crowd);
    let report = run(&scenario, 48).expect("a report");
    assert!(report.recognised.is_empty(), "{:?}", report.recognised);
}

/// The numbers of what comes in a connection that there is are not its own.
#[test]
fn floods_in_connections() {
    is_stopped(&play("one-flow-ack", 49, 3), 27, 50, 0.001);
    for name in ["one-flow-udp", "one-flow-ping"] {
        let report = play(name, 49, 5);
        assert_eq!(report.attacks[0].recognised, Some(AttackKind::FlowFlood));
        is_stopped(&report, 33, 50, 0.06);
    }
}

#[test]
fn connections() {
    is_stopped(&play("connections", 51, 4), 42, 50, 0.05);
    play("slow", 51, 30);
}

#[test]
fn mixtures() {
    play("mix", 61, 5);
    play("flash-crowd-and-flood", 62, 4);
}

#[test]
fn a_crowd_is_no_attack() {
    for seed in 0..4 {
        let report = play("flash-crowd", seed, 0);
        assert!(report.recognised.is_empty() && report.steps.is_empty());
    }
}

#[test]
fn a_hundred_million_packets_a_second() {
    let report = play("syn-hundred-million", 71, 4);
    assert!(report.thinned >= 1000.0);
    assert!(text(&report).contains("thinned"));
    is_stopped(&report, 38, 50, 0.01);
}

#[test]
fn the_same_seed_gives_the_same_report() {
    let json = |seed| {
        let report = run(&scenario("mix"), seed).expect("a report");
        (serde_json::to_string(&report).expect("JSON"), html(&report))
    };
    let (first, second) = (json(5), json(5));
    assert_eq!(first, second);
    assert_ne!(json(6).0, first.0);
}

/// Without steps the same flood does harm, or the simulator could not show what they are good for.
#[test]
fn who_only_observes_changes_nothing() {
    let mut scenario = scenario("syn-spoofed");
    scenario.mode = keepstate_defence::Mode::Observe;
    let report = run(&scenario, 3).expect("a report");
    assert!(!report.steps.is_empty());
    let is_proposed = |state| state == StepState::Proposed;
    assert!(report.steps.iter().all(|it| is_proposed(it.step.state)));
    assert_eq!(report.attacks[0].sent, report.attacks[0].passed);
    let acting = play("syn-spoofed", 3, 4);
    assert!(report.half_open_peak > acting.half_open_peak);
}

#[test]
fn mistakes_are_named() {
    let parse = |text: &str| Scenario::parse(text).expect_err("a mistake").to_string();
    let base = "title = \"x\"\nseconds = 5\nservers = [\"192.0.2.1\"]\n";
    let wrong = format!("{base}[[attack]]\nkind = \"teardrop\"\n");
    assert!(
        parse(&wrong).contains("line 5, column 8"),
        "{}",
        parse(&wrong)
    );
    let attack = "[[attack]]\nkind = \"syn\"\nbegin = 1\nend = 3\n";
    assert!(parse(&format!("{base}{attack}rate = 1e9\n")).contains("rate of attack 1"));
    let other = format!("{base}{attack}rate = 10\nnetwork = \"2001:db8::/32\"\n");
    assert!(parse(&other).contains("family"));
    assert!(parse("seconds = 5").contains("title"));
    let scenario = format!("{base}rules = \"-A INPUT --nonsense\"\n");
    let scenario = Scenario::parse(&scenario).expect("the rules are text here");
    assert!(run(&scenario, 1).is_err());
}
