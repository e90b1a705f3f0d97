//! Steps: when they are taken, against whom not, and how they end.

use std::net::IpAddr;

use keepstate_defence::{
    Action, AttackKind, Defence, Exemption, Exemptions, Gauges, Held, Mode, Network, Order,
    Progress, Sample, Signal, StepState, Why, is_in_place, sync,
};
use keepstate_engine::tuple::Family;
use keepstate_policy::{FileKind, Policy, ShowCounters, parse_rules, save};

const GAUGES: Gauges = Gauges {
    flows: 100,
    flows_max: 10_000,
    half_open: 10,
    half_open_max: 8000,
};

fn address(text: &str) -> IpAddr {
    text.parse().expect("an address")
}

fn syn(source: IpAddr, progress: Progress) -> Sample {
    Sample {
        source,
        destination: address("192.0.2.1"),
        source_port: 4000,
        destination_port: 80,
        protocol: 6,
        length: 40,
        hop_limit: 55,
        sequence: 1,
        signal: if progress == Progress::Completed {
            Signal::Ack
        } else {
            Signal::Syn
        },
        progress,
        is_invalid: false,
        weight: 1.0,
    }
}

/// Some seconds in which these sources send a thousand SYNs each.
fn flood(defence: &mut Defence, sources: &[&str], seconds: std::ops::Range<u64>) -> Vec<Order> {
    let mut orders = Vec::new();
    for second in seconds {
        for source in sources {
            for _ in 0..1000 {
                defence.note(&syn(address(source), Progress::Passed));
            }
        }
        orders.extend(defence.tick(second, &GAUGES));
    }
    orders
}

fn actions(defence: &Defence) -> Vec<(&'static str, StepState)> {
    let steps = defence.steps().iter();
    steps.map(|step| (step.action.name(), step.state)).collect()
}

fn exempt(network: &str, why: Why) -> Exemptions {
    let network = network.parse().expect("a network");
    Exemptions(vec![Exemption { network, why }])
}

#[test]
fn the_mildest_step_comes_first_and_a_ban_late() {
    let mut defence = Defence::new(Mode::Act);
    flood(&mut defence, &["203.0.113.9"], 1..30);
    let active = StepState::Active;
    let taken = actions(&defence);
    assert_eq!(
        taken,
        [
            ("limit sources", active),
            ("SYN cookies", active),
            ("ban", active)
        ]
    );
    let began: Vec<u64> = defence.steps().iter().map(|step| step.began).collect();
    assert_eq!(began, [2, 6, 10]);
    assert_eq!(defence.attacks()[0].kind, AttackKind::SynFlood);
    // Steps end a minute after it, a ban after its ten.
    let mut ended = Vec::new();
    for second in 30..700 {
        for order in defence.tick(second, &GAUGES) {
            if let Order::End(step) = order {
                ended.push((step.number, second));
            }
        }
    }
    assert!(defence.attacks()[0].is_over);
    assert_eq!(ended.len(), 3);
    assert!(
        ended[..2]
            .iter()
            .all(|(_, second)| (85..105).contains(second)),
        "{ended:?}"
    );
    assert_eq!(ended[2], (3, 610));
}

#[test]
fn those_who_are_exempt_are_left_alone() {
    for why in [Why::NeverBan, Why::Operator, Why::Gateway, Why::Resolver] {
        let mut defence = Defence::new(Mode::Act);
        defence.set_exemptions(exempt("203.0.113.0/24", why));
        flood(&mut defence, &["203.0.113.9"], 1..30);
        let names: Vec<&str> = actions(&defence).iter().map(|it| it.0).collect();
        assert_eq!(names, ["SYN cookies"], "{why:?}");
    }
}

#[test]
fn whoever_was_a_client_before_is_neither_limited_nor_banned() {
    let mut defence = Defence::new(Mode::Act);
    let client = address("203.0.113.9");
    for second in 1..40 {
        for _ in 0..30 {
            defence.note(&syn(client, Progress::Passed));
            defence.note(&syn(client, Progress::Completed));
        }
        defence.tick(second, &GAUGES);
    }
    assert!(defence.attacks().is_empty());
    flood(&mut defence, &["203.0.113.9", "203.0.113.10"], 40..70);
    let banned = defence.steps().iter().find_map(|step| match &step.action {
        Action::Ban { networks } => Some(networks.clone()),
        _ => None,
    });
    let other: Network = "203.0.113.10".parse().expect("a network");
    assert_eq!(banned, Some(vec![other]));
    let limit = &defence.steps()[0];
    assert!(
        limit
            .commands
            .iter()
            .all(|rule| rule.contains("203.0.113.10")),
        "{limit:?}"
    );
}

#[test]
fn what_was_undone_is_not_done_again() {
    let mut defence = Defence::new(Mode::Act);
    flood(&mut defence, &["203.0.113.9"], 1..4);
    assert_eq!(defence.undo(Some(7)), []);
    assert_eq!(defence.undo(Some(1)).len(), 1);
    flood(&mut defence, &["203.0.113.9"], 4..12);
    let limits = actions(&defence)
        .into_iter()
        .filter(|step| step.0 == "limit sources");
    let limits: Vec<StepState> = limits.map(|step| step.1).collect();
    assert_eq!(limits, [StepState::Undone]);
    // To look on is to undo.
    let ended = defence.set_mode(Mode::Observe);
    assert!(!ended.is_empty() && defence.rules().is_empty());
}

#[test]
fn who_observes_orders_nothing() {
    let mut defence = Defence::new(Mode::Observe);
    let orders = flood(&mut defence, &["203.0.113.9"], 1..30);
    assert!(orders.iter().all(|order| matches!(order, Order::Tell(_))));
    assert!(defence.rules().is_empty());
    assert!(
        actions(&defence)
            .iter()
            .all(|step| step.1 == StepState::Proposed)
    );
    let mut off = Defence::new(Mode::Off);
    flood(&mut off, &["203.0.113.9"], 1..30);
    assert!(off.attacks().is_empty());
}

#[test]
fn rules_come_and_go_and_leave_all_others() {
    let text = "*filter\n:INPUT DROP [0:0]\n-A INPUT -p tcp --dport 80 -j ACCEPT\nCOMMIT\n";
    let mut policy = Policy::default();
    policy.merge(parse_rules(text, FileKind::Save(Family::V4)));
    let saved = |policy: &Policy| save(policy.ruleset(Family::V4), ShowCounters::No, "");
    let before = saved(&policy);
    let mut defence = Defence::new(Mode::Act);
    defence.set_exemptions(exempt("198.51.100.0/24", Why::NeverBan));
    for second in 1..4 {
        defence.begin_survey();
        for source_port in 0..600 {
            let held = Held {
                source: address("203.0.113.9"),
                destination: address("192.0.2.1"),
                source_port,
                destination_port: 80,
                end: 1,
            };
            defence.hold(&held, 1.0);
        }
        defence.tick(second, &GAUGES);
    }
    let rules = defence.rules();
    assert!(!is_in_place(&mut policy, &rules));
    sync(&mut policy, &rules).expect("the rules are right");
    let with = saved(&policy);
    assert!(is_in_place(&mut policy, &rules));
    let place = |part: &str| with.find(part).unwrap_or_else(|| panic!("{part}: {with}"));
    assert!(place("-s 198.51.100.0/24 -j RETURN") < place("-s 203.0.113.9/32"));
    assert!(with.contains("-A INPUT -m conntrack --ctstate INVALID,NEW -j KEEPSTATE-DEFENCE"));
    // As often as one likes.
    sync(&mut policy, &rules).expect("the rules are right");
    assert_eq!(saved(&policy), with);
    defence.undo(None);
    sync(&mut policy, &defence.rules()).expect("nothing is wanted");
    assert_eq!(strip(&saved(&policy)), strip(&before));
}

/// Without a table that has no rules, which is printed once it was used.
fn strip(text: &str) -> String {
    let lines = text.lines().filter(|line| !line.starts_with('#'));
    let lines: Vec<&str> = lines.collect();
    let joined = lines.join("\n");
    match (joined.find("*raw"), joined.find("*filter")) {
        (Some(raw), Some(filter)) if raw < filter => joined[filter..].to_owned(),
        _ => joined,
    }
}

/// Somebody who begins to send later is limited as those are who were seen first, and banned as they are.
#[test]
fn steps_take_in_who_comes_later() {
    let mut defence = Defence::new(Mode::Act);
    flood(&mut defence, &["203.0.113.9"], 1..4);
    let limited = |defence: &Defence| {
        let refusals = defence.refusals();
        let networks = refusals
            .limits
            .iter()
            .map(|limit| limit.network.to_string());
        networks.collect::<Vec<_>>()
    };
    assert_eq!(limited(&defence), ["203.0.113.9"]);
    let orders = flood(&mut defence, &["203.0.113.9", "198.51.100.7"], 4..8);
    assert_eq!(limited(&defence), ["203.0.113.9", "198.51.100.7"]);
    let extended = orders.iter().filter_map(|order| match order {
        Order::Extend(step) => Some(step.action.networks().to_vec()),
        _ => None,
    });
    let other: Network = "198.51.100.7".parse().expect("a network");
    assert_eq!(extended.collect::<Vec<_>>(), [vec![other]]);
    let step = &defence.steps()[0];
    assert_eq!(step.commands.len(), 2);
    flood(&mut defence, &["203.0.113.9", "198.51.100.7"], 8..14);
    flood(&mut defence, &["203.0.113.9", "192.0.2.77"], 14..18);
    let banned = defence.steps().iter().find_map(|step| match &step.action {
        Action::Ban { networks } => Some(networks.len()),
        _ => None,
    });
    assert_eq!(banned, Some(3));
    // What one undoes ends for all of them.
    defence.undo(Some(1));
    assert!(limited(&defence).is_empty());
}

/// All over the world.
fn client(number: u32) -> IpAddr {
    IpAddr::V4((0x0a00_0000 + number.wrapping_mul(40_503) % 0x4000_0000).into())
}

/// Very many who complete handshakes and send nothing are no crowd; a crowd sends something.
#[test]
fn connections_that_nothing_comes_of_are_an_attack() {
    let found = |sends: u32| {
        let mut defence = Defence::new(Mode::Act);
        for second in 1..30_u64 {
            for number in 0..100_u32 {
                let source = client(second as u32 * 100 + number);
                let mut done = syn(source, Progress::Completed);
                done.sequence = 1000;
                defence.note(&done);
            }
            if second % 10 == 0 {
                defence.begin_survey();
                for number in 100..second as u32 * 100 {
                    let held = Held {
                        source: client(number),
                        destination: address("192.0.2.1"),
                        source_port: 4000,
                        destination_port: 80,
                        end: 1000 + sends,
                    };
                    defence.hold(&held, 1.0);
                }
            }
            defence.tick(second, &GAUGES);
        }
        let kinds = defence.attacks().iter().map(|attack| attack.kind);
        kinds.collect::<Vec<_>>()
    };
    assert_eq!(found(0), [AttackKind::SlowConnections]);
    assert_eq!(found(100), []);
}

/// A flood that begins in the middle of a second is not taken for what is usual.
#[test]
fn the_first_packets_of_a_flood_are_not_learned() {
    let mut defence = Defence::new(Mode::Act);
    let datagrams = |defence: &mut Defence, seconds: std::ops::Range<u64>, count: u32| {
        for second in seconds {
            for number in 0..count {
                let source = client(second as u32 * 10_000 + number);
                let mut datagram = syn(source, Progress::Passed);
                (datagram.protocol, datagram.signal) = (17, Signal::Udp);
                defence.note(&datagram);
            }
            defence.tick(second, &GAUGES);
        }
    };
    datagrams(&mut defence, 1..2, 300);
    datagrams(&mut defence, 2..8, 3000);
    assert_eq!(actions(&defence)[0], ("drop by form", StepState::Active));
    let form = &defence.refusals().forms[0];
    assert_eq!(
        (form.destination_port, form.hop_limit),
        (Some(80), Some(55))
    );
}

/// A daemon that is killed at the height of an attack: the next one has its steps, and takes the one after these.
#[test]
fn a_later_one_goes_on_where_an_earlier_one_was_ended() {
    let mut defence = Defence::new(Mode::Act);
    flood(&mut defence, &["203.0.113.9"], 1..6);
    let refusals = defence.refusals();
    assert_eq!(actions(&defence), [("limit sources", StepState::Active)]);
    let text = serde_json::to_string(&defence.memory()).expect("JSON");
    let mut later = Defence::begun_at(Mode::Act, 9);
    later.remember(serde_json::from_str(&text).expect("what was written"));
    assert_eq!(later.refusals(), refusals);
    flood(&mut later, &["203.0.113.9"], 10..30);
    let numbers = later.attacks().iter().map(|attack| attack.number);
    assert_eq!(numbers.collect::<Vec<_>>(), [1]);
    let active = StepState::Active;
    let taken = [
        ("limit sources", active),
        ("SYN cookies", active),
        ("ban", active),
    ];
    assert_eq!(actions(&later), taken);
    // One that ends by itself leaves bans alone, and what comes then is another attack.
    let ended = later.finish();
    assert_eq!(ended.len(), 2);
    assert_eq!(actions(&later)[2], ("ban", active));
    assert!(later.attacks().iter().all(|attack| attack.is_over));
    assert!(later.refusals().is_empty());
}
