//! Floods within flows that were answered, and what is as heavy and none.

use std::net::IpAddr;

use keepstate_defence::{
    AttackKind, Defence, Exemption, Exemptions, Gauges, Mode, Network, Order, Progress, Sample,
    Signal, Stream, Why, is_in_place, sync,
};
use keepstate_engine::time::{TICKS_PER_SECOND, Tick};
use keepstate_engine::tuple::{Family, FlowKey};
use keepstate_policy::{FileKind, Policy, parse_rules};

const SERVER: &str = "192.0.2.1";
/// When flows begin, once the daemon knows what is usual.
const BEGIN: u64 = 30;

/// A flow from somebody, as it grows each second: packets and their bytes, answers and theirs.
#[derive(Clone, Copy)]
struct Flow {
    source: &'static str,
    port: u16,
    begin: u64,
    packets: u64,
    bytes: u64,
    answers: u64,
    answer_bytes: u64,
}

const QUIET: Flow = Flow {
    source: "198.51.100.7",
    port: 4433,
    begin: BEGIN,
    packets: 0,
    bytes: 0,
    answers: 0,
    answer_bytes: 0,
};

fn address(text: &str) -> IpAddr {
    text.parse().expect("an address")
}

/// The end of a handshake, or of a question that was answered.
fn answered(source: &str, protocol: u8) -> Sample {
    Sample {
        source: address(source),
        destination: address(SERVER),
        source_port: 4000,
        destination_port: 443,
        protocol,
        length: 60,
        hop_limit: 55,
        sequence: 1,
        signal: if protocol == 6 {
            Signal::Ack
        } else {
            Signal::Udp
        },
        progress: Progress::Completed,
        is_invalid: false,
        weight: 1.0,
    }
}

fn stream(flow: &Flow, second: u64) -> Option<Stream> {
    let seconds = second.checked_sub(flow.begin)? + 1;
    let source = address(flow.source);
    let IpAddr::V4(v4) = source else {
        panic!("{source}");
    };
    Some(Stream {
        key: FlowKey {
            family: Family::V4,
            words: [u64::from(flow.port) << 16, v4.to_bits().into(), 0, 0, 0],
        },
        source,
        destination: address(SERVER),
        source_port: 5000,
        destination_port: flow.port,
        protocol: 17,
        counters: [
            flow.packets,
            flow.packets * flow.bytes,
            flow.answers,
            flow.answers * flow.answer_bytes,
        ]
        .map(|count| count * seconds),
    })
}

fn walk(defence: &mut Defence, flows: &[Flow], second: u64) {
    defence.begin_walk(Tick(second as u32 * TICKS_PER_SECOND), second);
    let streams = flows.iter().filter_map(|flow| stream(flow, second));
    streams.for_each(|stream| defence.stream(&stream, 1.0));
}

/// Plays flows until a second. Whoever is `known` was there before.
fn play(defence: &mut Defence, flows: &[Flow], known: &[Sample], until: u64) -> Vec<Order> {
    let mut orders = Vec::new();
    for second in 1..until {
        if second == 5 {
            known.iter().for_each(|sample| defence.note(sample));
        }
        if second % 2 == 0 || defence.is_watching_flows() {
            walk(defence, flows, second);
        }
        orders.extend(defence.tick(second, &Gauges::default()));
    }
    orders
}

fn names(defence: &Defence) -> Vec<&'static str> {
    let steps = defence.steps().iter();
    steps.map(|step| step.action.name()).collect()
}

#[test]
fn a_flow_of_which_nothing_is_answered_any_more_is_ended() {
    let mut defence = Defence::new(Mode::Act);
    let flood = Flow {
        packets: 150_000,
        bytes: 60,
        answers: 3,
        answer_bytes: 60,
        ..QUIET
    };
    let orders = play(&mut defence, &[flood], &[], BEGIN + 5);
    let [attack] = defence.attacks() else {
        panic!("{:?}", defence.attacks());
    };
    assert_eq!(attack.kind, AttackKind::FlowFlood);
    assert!(attack.began <= BEGIN + 4, "{attack:?}");
    assert!(
        attack
            .evidence
            .contains("UDP from 198.51.100.7 port 5000 to port 4433"),
        "{}",
        attack.evidence
    );
    let [step] = defence.steps() else {
        panic!("{:?}", defence.steps());
    };
    assert_eq!(
        step.commands,
        [
            "iptables -t filter -A KEEPSTATE-DEFENCE-FLOWS -s 198.51.100.7 -d 192.0.2.1 -p udp -m hashlimit \
          --hashlimit-above 1250/sec --hashlimit-burst 1250 --hashlimit-mode srcip --hashlimit-srcmask 32 \
          --hashlimit-name ks-step1 -m comment --comment \"step 1\" -j DROP"
        ]
    );
    assert!(orders.iter().any(|order| matches!(order, Order::Begin(_))));
    let parsed = parse_rules("*filter\n:INPUT ACCEPT [0:0]\nCOMMIT\n", FileKind::Detect);
    let mut policy = Policy::default();
    policy.merge(parsed);
    sync(&mut policy, &defence.rules()).expect("a rule");
    assert!(is_in_place(&mut policy, &defence.rules()));
    defence.undo(None);
    assert!(defence.rules().is_empty());
}

/// One that a rule drops is no reason for a ban.
#[test]
fn a_flow_that_is_held_back_is_not_banned() {
    let mut defence = Defence::new(Mode::Act);
    let flood = Flow {
        packets: 50_000,
        bytes: 60,
        ..QUIET
    };
    for second in 1..BEGIN + 20 {
        if second > BEGIN + 3 {
            let refused = Sample {
                progress: Progress::Refused,
                weight: 50.0,
                ..answered(flood.source, 17)
            };
            (0..980).for_each(|_| defence.note(&refused));
        }
        walk(&mut defence, &[flood], second);
        defence.tick(second, &Gauges::default());
    }
    assert_eq!(defence.attacks().len(), 1, "{:?}", defence.attacks());
    assert_eq!(names(&defence), ["limit sources"]);
}

/// Who sends on is banned.
#[test]
fn a_flow_that_is_not_held_back_is_banned() {
    let mut defence = Defence::new(Mode::Act);
    let flood = Flow {
        packets: 50_000,
        bytes: 60,
        ..QUIET
    };
    play(&mut defence, &[flood], &[], BEGIN + 20);
    assert_eq!(names(&defence), ["limit sources", "ban"]);
}

/// A server that is asked answers, and so begins flows that were ended anew.
#[test]
fn floods_from_who_was_asked_are_seen_too() {
    let mut defence = Defence::new(Mode::Act);
    let own = Exemption {
        network: Network::of(address(SERVER), 32),
        why: Why::Own,
    };
    defence.set_exemptions(Exemptions(vec![own]));
    for second in 1..BEGIN + 8 {
        defence.begin_walk(Tick(second as u32 * TICKS_PER_SECOND), second);
        let flood = Flow {
            packets: 90_000,
            bytes: 60,
            ..QUIET
        };
        if let Some(stream) = stream(&flood, second) {
            let [packets, bytes, ..] = stream.counters;
            let turned = Stream {
                source: stream.destination,
                destination: stream.source,
                source_port: stream.destination_port,
                destination_port: stream.source_port,
                counters: [7, 420, packets, bytes],
                ..stream
            };
            defence.stream(&turned, 1.0);
        }
        defence.tick(second, &Gauges::default());
    }
    let [attack] = defence.attacks() else {
        panic!("{:?}", defence.attacks());
    };
    assert_eq!(attack.destination, Some(Network::of(address(SERVER), 32)));
}

#[test]
fn questions_that_are_answered_one_by_one_are_a_flood_of_strangers_alone() {
    let flood = Flow {
        packets: 40_000,
        bytes: 900,
        answers: 39_000,
        answer_bytes: 900,
        ..QUIET
    };
    let mut defence = Defence::new(Mode::Act);
    play(&mut defence, &[flood], &[], BEGIN + 6);
    assert_eq!(names(&defence), ["limit sources"]);
    let mut defence = Defence::new(Mode::Act);
    play(
        &mut defence,
        &[flood],
        &[answered(flood.source, 17)],
        BEGIN + 8,
    );
    assert!(defence.attacks().is_empty(), "{:?}", defence.attacks());
}

#[test]
fn who_was_there_before_is_limited_by_his_flows() {
    let flood = Flow {
        packets: 150_000,
        bytes: 60,
        ..QUIET
    };
    let mut defence = Defence::new(Mode::Act);
    play(
        &mut defence,
        &[flood],
        &[answered(flood.source, 17)],
        BEGIN + 20,
    );
    assert_eq!(names(&defence), ["limit sources"]);
    let step = &defence.steps()[0];
    assert!(
        step.commands[0].contains("--hashlimit-mode srcip,srcport"),
        "{step:?}"
    );
}

#[test]
fn exempt_networks_keep_their_flows() {
    let flood = Flow {
        packets: 150_000,
        bytes: 60,
        ..QUIET
    };
    let mut defence = Defence::new(Mode::Act);
    let network = Network::of(address(flood.source), 24);
    let why = Why::NeverBan;
    defence.set_exemptions(Exemptions(vec![Exemption { network, why }]));
    play(&mut defence, &[flood], &[], BEGIN + 20);
    assert_eq!(defence.attacks().len(), 1);
    assert!(defence.steps().is_empty(), "{:?}", defence.steps());
}

#[test]
fn what_is_observed_is_not_done() {
    let flood = Flow {
        packets: 150_000,
        bytes: 60,
        ..QUIET
    };
    let mut defence = Defence::new(Mode::Observe);
    let orders = play(&mut defence, &[flood], &[], BEGIN + 8);
    assert!(!orders.iter().any(|order| matches!(order, Order::Begin(_))));
    assert_eq!(names(&defence)[0], "limit sources");
}

#[test]
fn heavy_traffic_that_heeds_its_path_is_no_attack() {
    let of = |packets, bytes, answers, answer_bytes| Flow {
        packets,
        bytes,
        answers,
        answer_bytes,
        ..QUIET
    };
    let honest = [
        (
            "upload over QUIC, an acknowledgement for two",
            of(90_000, 1350, 45_000, 70),
        ),
        (
            "upload over QUIC, for twenty-five",
            of(90_000, 1350, 3600, 70),
        ),
        ("download over QUIC", of(15_000, 70, 90_000, 1350)),
        (
            "download over QUIC, few acknowledgements",
            of(4000, 70, 90_000, 1350),
        ),
        ("upload through WireGuard", of(100_000, 1452, 50_000, 128)),
        ("both ways through WireGuard", of(80_000, 1000, 60_000, 700)),
        ("calls of a trunk", of(5000, 200, 5000, 200)),
        ("video sent to a studio", of(8000, 1370, 10, 60)),
        ("written to NFS", of(60_000, 1450, 2700, 140)),
        ("read from NFS", of(2700, 180, 60_000, 1450)),
        (
            "questions of one resolver, before it is known",
            of(15_000, 80, 15_000, 160),
        ),
    ];
    for (name, flow) in honest {
        let mut defence = Defence::new(Mode::Act);
        play(&mut defence, &[flow], &[], BEGIN + 30);
        assert!(
            defence.attacks().is_empty(),
            "{name}: {:?}",
            defence.attacks()
        );
    }
    // One that TCP guides, as files are sent with Aspera, or iperf3 measures.
    let guided = of(100_000, 1450, 100, 60);
    let mut defence = Defence::new(Mode::Act);
    play(
        &mut defence,
        &[guided],
        &[answered(guided.source, 6)],
        BEGIN + 30,
    );
    assert!(defence.attacks().is_empty(), "{:?}", defence.attacks());
}

#[test]
fn what_was_there_when_the_daemon_began_is_usual() {
    let long = Flow {
        begin: 1,
        packets: 30_000,
        bytes: 1300,
        answers: 20,
        answer_bytes: 60,
        ..QUIET
    };
    let mut defence = Defence::new(Mode::Act);
    play(&mut defence, &[long], &[], BEGIN + 40);
    assert!(defence.attacks().is_empty(), "{:?}", defence.attacks());
}
