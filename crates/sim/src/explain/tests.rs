use keepstate_engine::rate::Rate;
use keepstate_engine::refusal::{FORM_PROTOCOL, FORM_V4, Form, form_range};
use keepstate_engine::verdict::Reason;

use super::*;
use crate::locals::{LocalAddress, Locals};

#[track_caller]
fn check(expression: &str, expected: &str) {
    let local: LocalAddress = "10.0.0.1".parse().expect("an address");
    let options = Options {
        locals: Locals::new(vec![local]),
        ..Options::default()
    };
    let expression = expression.parse().expect("an expression");
    let explanation = explain_expression(expression, options);
    let lines = explanation.lines.iter();
    let text: Vec<String> = lines
        .map(|line| format!("{}: {}", line.topic, line.text))
        .collect();
    assert_eq!(text.join("\n"), expected);
}

#[test]
fn a_first_segment() {
    check(
        "tcp 10.0.0.5:5000 > 10.0.0.1:22 syn",
        "packet: tcp 10.0.0.5:5000 > 10.0.0.1:22 syn\n\
         parse: IPv4, tcp, 40 bytes, flags syn, seq 1000, ack 0, window 64240\n\
         tuple: tcp src=10.0.0.5 dst=10.0.0.1 sport=5000 dport=22\n\
         lookup: no flow has this tuple\n\
         window: seq 1000 <= 1001, end 1001 >= 1001, ack 0 <= 0 and >= 4294901296\n\
         state: NEW\n\
         flow: recorded\n\
         verdict: ACCEPT",
    );
}

#[test]
fn an_answer() {
    check(
        "udp 10.0.0.53:53 > 10.0.0.1:4000 state established reply",
        "before: udp 10.0.0.1:4000 > 10.0.0.53:53\n\
         before: udp 10.0.0.53:53 > 10.0.0.1:4000\n\
         packet: udp 10.0.0.53:53 > 10.0.0.1:4000\n\
         parse: IPv4, udp, 28 bytes\n\
         tuple: udp src=10.0.0.53 dst=10.0.0.1 sport=53 dport=4000\n\
         lookup: found, reply direction, 30 s left\n\
         state: ESTABLISHED\n\
         verdict: ACCEPT",
    );
}

#[test]
fn an_error_about_a_flow() {
    check(
        "icmp 10.0.0.53 > 10.0.0.1 port-unreachable state related \
         quoting udp 10.0.0.1:4000 > 10.0.0.53:53",
        "before: udp 10.0.0.1:4000 > 10.0.0.53:53\n\
         packet: icmp 10.0.0.53 > 10.0.0.1 type 3 code 3 len 28\n\
         parse: IPv4, icmp, 56 bytes\n\
         quotes: udp src=10.0.0.1 dst=10.0.0.53 sport=4000 dport=53\n\
         lookup: found, reply direction, 30 s left\n\
         state: RELATED\n\
         verdict: ACCEPT",
    );
}

#[test]
fn a_forged_reset() {
    let expression = "tcp 10.0.0.5:5000 > 10.0.0.1:22 rst seq 99999999 state established";
    let expression = expression.parse().expect("an expression");
    let explanation = explain_expression(expression, Options::default());
    assert_eq!(explanation.outcome.state, State::Invalid);
    let window = explanation.lines.iter().find(|line| line.topic == "window");
    let window = window.expect("a window check");
    assert!(
        window.text.starts_with("seq 99999999 NOT <= 66161"),
        "{}",
        window.text
    );
    assert_eq!(window.tone, Tone::Bad);
}

/// The record that this expression's prelude leaves, played 100 seconds before.
fn known_flow(expression: &str, settings: &Settings, now: Tick) -> KnownFlow {
    let mut expression: Expression = expression.parse().expect("an expression");
    let table = Options::table(settings);
    let flows = table.as_slices();
    let plane = Plane::new(flows, *settings, LoadedPolicy::NONE, ());
    for packet in expression.prelude() {
        let ip = packet.ip();
        plane.judge(&ip, &arrival(&ip, &Options::default()), now);
    }
    let mut known = None;
    let buckets = 0..settings.buckets[0];
    keepstate_engine::table::visit(&flows, Family::V4, buckets, now, |entry| {
        known = Some(KnownFlow {
            key: entry.key,
            record: entry.record,
            warm: entry.warm,
        });
    });
    known.expect("a record")
}

#[test]
fn a_flow_that_is_known_already() {
    let options = Options::default();
    let settings = options.settings();
    let then = Tick(1_000_000);
    let flow = "tcp 10.0.0.5:5000 > 10.0.0.1:22 state established";
    let circumstances = Circumstances {
        settings,
        now: Tick(1_000_000 + 100 * 16),
        flows: vec![known_flow(flow, &settings, then)],
        senders: Vec::new(),
    };
    let explain = |packet: &str| {
        let expression = packet.parse().expect("an expression");
        explain_under(expression, options.clone(), &circumstances)
    };
    let reply = explain("tcp 10.0.0.1:22 > 10.0.0.5:5000");
    assert_eq!(reply.outcome.state, State::Established);
    let lookup = reply.lines.iter().find(|line| line.topic == "lookup");
    let lookup = lookup.map(|line| line.text.as_str());
    assert_eq!(
        lookup,
        Some("found, reply direction, ESTABLISHED, 431900 s left")
    );
    let forged = explain("tcp 10.0.0.5:5000 > 10.0.0.1:22 rst seq 1");
    assert_eq!(forged.outcome.reason, Some(Reason::TcpBadReset));
    let window = forged.lines.iter().find(|line| line.topic == "window");
    let window = window.map(|line| line.text.as_str()).unwrap_or_default();
    assert!(
        window.starts_with("seq 1 <= ") && window.contains(", end 1 NOT >= "),
        "{window}"
    );
    let other = explain("tcp 10.0.0.5:5001 > 10.0.0.1:22");
    assert_eq!(other.outcome.state, State::New);
}

#[test]
fn what_is_said_of_a_sender_and_its_packets() {
    let options = Options::default();
    let mut settings = options.settings();
    settings.flags |= SETTING_BANS | SETTING_FORMS;
    settings.forms[0] = Form {
        flags: FORM_V4 | FORM_PROTOCOL,
        until: 2_000_000,
        protocol: 17,
        destination_ports: form_range(99, 99),
        ..Form::NONE
    };
    let entry = |kind, length, rate| ban::Entry {
        network: ban::Network {
            family: Family::V4,
            address: [0x0a00_0000, 0, 0, 0],
            length,
        },
        kind,
        rate,
        deadline: None,
        began: Tick(0),
        cause: 0,
    };
    let explain = |packet: &str, senders: Vec<ban::Entry>| {
        let circumstances = Circumstances {
            settings,
            now: Tick(1_000_000),
            flows: Vec::new(),
            senders,
        };
        let expression = packet.parse().expect("an expression");
        let told = explain_under(expression, options.clone(), &circumstances);
        let sender = told.lines.iter().find(|line| line.topic == "sender");
        let sender = sender.map(|line| line.text.clone()).unwrap_or_default();
        (told.outcome.reason, sender)
    };
    let syn = "tcp 10.0.0.5:5000 > 10.0.0.1:22 syn";
    let ban = entry(ban::Kind::Ban, 24, None);
    let limit = entry(ban::Kind::Ban, 24, Some(Rate::per_second(9)));
    let banned = explain(syn, vec![ban]);
    assert_eq!(
        banned,
        (Some(Reason::Banned), "10.0.0.0/24 is banned".into())
    );
    let exempt = explain(syn, vec![entry(ban::Kind::Exempt, 8, None), ban]);
    assert_eq!(exempt.0, None);
    let limited = explain(syn, vec![limit]);
    assert!(
        limited.0.is_none() && limited.1.contains("9 new flows"),
        "{limited:?}"
    );
    let udp = "udp 10.0.0.5:5000 > 10.0.0.1:99";
    assert_eq!(explain(udp, Vec::new()).0, Some(Reason::FormRefused));
    let spared = vec![entry(ban::Kind::Spared, 8, None)];
    assert_eq!(explain(udp, spared).0, None);
    // Of a flow that is there already.
    let known = "udp 10.0.0.5:5000 > 10.0.0.1:99 state established";
    assert_eq!(explain(known, Vec::new()).0, None);
}
