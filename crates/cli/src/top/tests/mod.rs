//! Screens, held against pictures in text.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::Path;
use std::time::Duration;

use keepstate_api::{
    Attachment, ControlStatus, Endpoints, Event, EventKind, EventStatus, ExpiryStatus, Flow,
    PacketEvent, PolicyStatus, RulesText, Source, Status, Survey, TableStatus, Traffic,
};
use ratatui::Terminal;
use ratatui::backend::TestBackend;
use ratatui::crossterm::event::{KeyCode, KeyEvent, KeyModifiers};

use super::feed::News;
use super::keys::{self, Deed};
use super::model::{Mode, Model, Pane};
use super::view;
use crate::ruleset;

/// Set to write the pictures anew.
const UPDATE: &str = "KEEPSTATE_UPDATE_SNAPSHOTS";

fn picture(model: &Model, (width, height): (u16, u16), now: u64) -> String {
    let mut terminal = Terminal::new(TestBackend::new(width, height)).unwrap();
    let drawn = terminal.draw(|frame| view::draw(frame, model, Duration::from_secs(now)));
    drawn.unwrap();
    let buffer = terminal.backend().buffer().clone();
    let mut text = String::new();
    for line in buffer.content.chunks(usize::from(width)) {
        let line: String = line.iter().map(|cell| cell.symbol()).collect();
        text += line.trim_end();
        text.push('\n');
    }
    text
}

#[track_caller]
fn assert_picture(name: &str, model: &Model, size: (u16, u16)) {
    let found = picture(model, size, 12);
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/top/tests/snapshots");
    let path = directory.join(format!("{name}.snap"));
    if std::env::var_os(UPDATE).is_some() {
        std::fs::write(&path, &found).unwrap();
    }
    let wanted = std::fs::read_to_string(&path).unwrap_or_default();
    assert_eq!(
        found, wanted,
        "{name} looks different: look at it, then set {UPDATE}"
    );
}

fn status(second: u64) -> Status {
    let counts = |counts: &[(&str, u64)]| -> BTreeMap<String, u64> {
        let counts = counts.iter();
        counts
            .map(|(name, count)| ((*name).to_owned(), *count))
            .collect()
    };
    Status {
        bans: Default::default(),
        defence: Default::default(),
        instance: "default".to_owned(),
        version: "0.1.0".to_owned(),
        pid: 4711,
        started: 0,
        adopted: false,
        interfaces: vec![Attachment {
            name: "eth0".to_owned(),
            index: 2,
            ingress: "xdp generic".to_owned(),
            egress: "tcx".to_owned(),
        }],
        policy: Some(PolicyStatus {
            origins: vec!["base.sh".to_owned()],
            applied: Some(0),
            rules: Some([4, 4]),
            compiled_rules: 12,
            confirm_within: None,
        }),
        table: TableStatus {
            flows: 217_000,
            flows_max: 262_144,
            half_open: 12_000,
            half_open_max: 229_376,
            buckets: [40_960; 2],
            inserted: 1_000_000 + second * 1500,
            removed: 783_000,
            evicted: 3,
            refused: 0,
            contended: 0,
            busy: 0,
            fragments: 0,
            fragments_expired: 0,
            fragments_full: 0,
            expectations: 0,
            expectations_max: 256,
            expectations_created: 0,
            expectations_met: 0,
            expectations_deleted: 0,
            expectations_refused: 0,
            unread: 0,
            flows_peak: 0,
            labels_refused: 0,
        },
        traffic: Traffic {
            states: counts(&[
                ("ESTABLISHED", 9_000_000 + second * 84_000),
                ("NEW", 1_000_000),
            ]),
            verdicts: counts(&[("ACCEPT", 9_900_000), ("DROP", 100_000 + second * 320)]),
            reasons: counts(&[
                ("policy_drop", 100_000 + second * 320),
                ("tcp_bad_flags", 7),
            ]),
        },
        expiry: ExpiryStatus::default(),
        events: EventStatus {
            lost_in_kernel: 12,
            ..EventStatus::default()
        },
        control: ControlStatus::default(),
    }
}

fn endpoints(source: (&str, u16), destination: (&str, u16), bytes: u64) -> Endpoints {
    let address = |text: &str| -> IpAddr { text.parse().unwrap() };
    Endpoints {
        source: address(source.0),
        destination: address(destination.0),
        source_port: Some(source.1),
        destination_port: Some(destination.1),
        source_key: None,
        destination_key: None,
        icmp: None,
        packets: Some(bytes / 700),
        bytes: Some(bytes),
        window: None,
    }
}

fn flow(id: u32, source: &str, port: u16, bytes: u64) -> Flow {
    let destination = if source.contains(':') {
        "2001:db8:ffff:1234::25"
    } else {
        "192.0.2.80"
    };
    let is_udp = port == 53;
    Flow {
        labels: Vec::new(),
        family: if source.contains(':') { "ipv6" } else { "ipv4" }.to_owned(),
        protocol: if is_udp { 17 } else { 6 },
        protocol_name: if is_udp { "udp" } else { "tcp" }.to_owned(),
        zone: 0,
        original: endpoints((source, 40_000 + id as u16), (destination, port), bytes),
        reply: endpoints((destination, port), (source, 40_000 + id as u16), bytes * 3),
        tcp_state: (!is_udp).then(|| {
            if port == 25 {
                "SYN_SENT"
            } else {
                "ESTABLISHED"
            }
            .to_owned()
        }),
        sctp: None,
        gre_timeouts: None,
        replied: port != 25,
        assured: port == 443,
        expected: false,
        fixed_timeout: false,
        mark: 0,
        helper: None,
        seconds_left: if is_udp { 28 } else { 431_990 },
        id,
        started_ns: None,
    }
}

fn survey(second: u64) -> Survey {
    let sources = ["203.0.113.9", "10.0.0.5", "2001:db8:1::a"];
    let sources = sources.iter().zip([150_000_u64, 900, 3]);
    let sources = sources.map(|(address, flows)| Source {
        address: address.parse().unwrap(),
        flows,
        unreplied: if flows > 1000 { 140_000 } else { 0 },
        packets: flows * 3,
        bytes: flows * 2048,
    });
    Survey {
        flows: 217_000,
        top: vec![
            flow(1, "10.0.0.5", 443, 90_000_000 + second * 1_000_000),
            flow(2, "2001:db8:aaaa:bbbb:cccc:dddd:eeee:1", 443, 500_000),
            flow(3, "10.0.0.5", 53, 1400),
            flow(4, "203.0.113.9", 25, 700),
        ],
        sources: sources.collect(),
        ..Survey::default()
    }
}

fn refusal(number: u8) -> Event {
    let is_first = number.is_multiple_of(3);
    let mut flow = flow(u32::from(number), "203.0.113.9", 23, 0);
    flow.seconds_left = 0;
    Event {
        time_ns: (3600 + u64::from(number)) * 1_000_000_000,
        kind: EventKind::Drop,
        flow,
        packet: Some(PacketEvent {
            state: if is_first { "INVALID" } else { "NEW" }.to_owned(),
            verdict: "DROP".to_owned(),
            reason: Some(
                if is_first {
                    "tcp_bad_flags"
                } else {
                    "policy_drop"
                }
                .to_owned(),
            ),
            chain: Some("INPUT".to_owned()),
            rule: is_first.then_some(3),
            length: 40,
            window: None,
        }),
        expectation: None,
        by: None,
    }
}

/// Ten seconds of a day like others.
fn model() -> Model {
    let mut model = Model::new();
    let rules = |second: u64| {
        let hits = second * 84_000;
        ruleset::counted(&RulesText {
            v4: format!(
                "*filter\n:INPUT DROP [{}:400]\n:FORWARD DROP [0:0]\n:OUTPUT ACCEPT [900:90000]\n\
                 [12:720] -A INPUT -i lo -j ACCEPT\n\
                 [{hits}:{}] -A INPUT -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT\n\
                 [7:280] -A INPUT -m conntrack --ctstate INVALID -j DROP\n\
                 [0:0] -A INPUT -p tcp -m tcp --dport 22 -m conntrack --ctstate NEW -j ACCEPT\nCOMMIT\n",
                second * 320,
                hits * 900,
            ),
            v6: String::new(),
        })
    };
    for second in 1..=10 {
        let now = Duration::from_secs(second);
        model.take(News::Status(Box::new(status(second * second))), now);
        model.take(News::Survey(Box::new(survey(second))), now);
        model.take(News::Rules(rules(second)), now);
        for number in 0..5 {
            model.take(News::Event(Box::new(refusal(number))), now);
        }
    }
    model.take(News::Lost(3), Duration::from_secs(11));
    model
}

fn press(model: &mut Model, code: KeyCode) -> Deed {
    let key = KeyEvent::new(code, KeyModifiers::NONE);
    keys::press(model, key, Duration::from_secs(12))
}

fn type_in(model: &mut Model, text: &str) {
    for letter in text.chars() {
        press(model, KeyCode::Char(letter));
    }
}

#[test]
fn every_pane_has_its_picture() {
    let mut model = model();
    let names = [
        "overview",
        "flows",
        "sources",
        "rules",
        "refusals",
        "half-open",
        "alerts",
    ];
    for (name, key) in names.iter().zip('1'..) {
        press(&mut model, KeyCode::Char(key));
        assert_picture(name, &model, (80, 24));
    }
    press(&mut model, KeyCode::Char('1'));
    assert_picture("overview-wide", &model, (132, 40));
    press(&mut model, KeyCode::Char('?'));
    assert_picture("help", &model, (80, 24));
}

#[test]
fn a_screen_too_small_breaks_nothing() {
    let mut model = model();
    for key in '1'..='7' {
        press(&mut model, KeyCode::Char(key));
        for size in [(1, 1), (10, 3), (20, 6), (79, 10)] {
            picture(&model, size, 12);
        }
    }
    picture(&Model::new(), (80, 24), 0);
}

#[test]
fn without_a_daemon_the_screen_says_so() {
    let mut model = Model::new();
    let why = "no daemon is running (nobody listens on /run/keepstate/default/socket)";
    model.take(News::Silent(why.to_owned()), Duration::ZERO);
    assert_picture("no-daemon", &model, (80, 24));
}

#[test]
fn a_flow_is_opened_and_removed() {
    let mut model = model();
    press(&mut model, KeyCode::Char('2'));
    press(&mut model, KeyCode::Down);
    press(&mut model, KeyCode::Enter);
    let opened = model.wish.open.expect("a flow is open");
    assert_eq!(opened.source_port, 40_002);
    let mut closing = flow(2, "2001:db8:aaaa:bbbb:cccc:dddd:eeee:1", 443, 600_000);
    closing.tcp_state = Some("FIN_WAIT".to_owned());
    let later = Duration::from_secs(15);
    model.take(News::Flow(Some(Box::new(closing))), later);
    model.take(News::Flow(None), Duration::from_secs(17));
    model.take(News::Flow(None), Duration::from_secs(18));
    assert_picture("open-flow", &model, (80, 24));
    press(&mut model, KeyCode::Char('k'));
    assert_picture("kill", &model, (80, 24));
    let Deed::Send(request) = press(&mut model, KeyCode::Char('y')) else {
        panic!("nothing is sent");
    };
    let sent = serde_json::to_string(&*request).unwrap();
    assert!(
        sent.contains("\"flush\"") && sent.contains("40002"),
        "{sent}"
    );
    press(&mut model, KeyCode::Char('k'));
    assert_eq!(press(&mut model, KeyCode::Char('n')), Deed::Nothing);
    assert_eq!(model.mode, Mode::Browse);
}

/// A ban that was asked for, and how the question looks.
fn asked(model: &mut Model) -> String {
    let Mode::Confirm { question, request } = &model.mode else {
        panic!("{:?}", model.mode);
    };
    let told = format!("{question} {}", serde_json::to_string(request).unwrap());
    assert_eq!(press(model, KeyCode::Char('n')), Deed::Nothing);
    told
}

#[test]
fn a_source_is_banned_after_a_question() {
    let mut model = model();
    for pane in ['3', '6'] {
        press(&mut model, KeyCode::Char(pane));
        press(&mut model, KeyCode::Char('b'));
        let told = asked(&mut model);
        assert!(told.contains("Ban 203.0.113.9 for an hour"), "{told}");
    }
    press(&mut model, KeyCode::Char('2'));
    press(&mut model, KeyCode::Down);
    press(&mut model, KeyCode::Char('b'));
    assert!(asked(&mut model).contains("2001:db8:aaaa:bbbb:cccc:dddd:eeee:1 for"));
    press(&mut model, KeyCode::Char('5'));
    press(&mut model, KeyCode::Enter);
    press(&mut model, KeyCode::Char('b'));
    assert_picture("ban", &model, (80, 24));
    let Deed::Send(request) = press(&mut model, KeyCode::Char('y')) else {
        panic!("nothing is sent");
    };
    let sent = serde_json::to_string(&*request).unwrap();
    assert!(
        sent.contains("\"203.0.113.9\"") && sent.contains("3600"),
        "{sent}"
    );
    press(&mut model, KeyCode::Char('4'));
    press(&mut model, KeyCode::Char('b'));
    assert_eq!(model.mode, Mode::Browse);
    press(&mut model, KeyCode::Char('7'));
    press(&mut model, KeyCode::Enter);
    assert_eq!(model.pane, Pane::Sources);
}

#[test]
fn lines_lead_to_what_is_behind_them() {
    let mut model = model();
    press(&mut model, KeyCode::Char('3'));
    press(&mut model, KeyCode::Enter);
    let filter = |model: &Model| model.wish.filter.as_ref().map(ToString::to_string);
    assert_eq!(filter(&model).as_deref(), Some("src 203.0.113.9"));
    assert_picture("flows-of-source", &model, (80, 24));
    press(&mut model, KeyCode::Char('6'));
    press(&mut model, KeyCode::Enter);
    assert_eq!(
        filter(&model).as_deref(),
        Some("unreplied and src 203.0.113.9")
    );
    press(&mut model, KeyCode::Esc);
    assert_eq!(filter(&model), None);
    press(&mut model, KeyCode::Char('5'));
    press(&mut model, KeyCode::Enter);
    assert_picture("packets", &model, (80, 24));
    press(&mut model, KeyCode::Esc);
    press(&mut model, KeyCode::Char('4'));
    press(&mut model, KeyCode::Enter);
    assert_eq!(model.said.as_deref(), Some("-A INPUT -i lo -j ACCEPT"));
    press(&mut model, KeyCode::Down);
    press(&mut model, KeyCode::Down);
    press(&mut model, KeyCode::Enter);
    let Mode::Packets(kind) = &model.mode else {
        panic!("{:?}", model.mode);
    };
    assert_eq!((&*kind.reason, &*kind.rule), ("tcp_bad_flags", "INPUT:3"));
}

#[test]
fn a_filter_is_typed_and_mistakes_are_shown() {
    let mut model = model();
    press(&mut model, KeyCode::Char('/'));
    type_in(&mut model, "dst port x");
    press(&mut model, KeyCode::Enter);
    assert_picture("filter-mistake", &model, (80, 24));
    press(&mut model, KeyCode::Backspace);
    type_in(&mut model, "22");
    press(&mut model, KeyCode::Enter);
    assert_eq!(
        model.wish.filter.as_ref().unwrap().to_string(),
        "dst port 22"
    );
    press(&mut model, KeyCode::Char('/'));
    type_in(&mut model, " and verdict drop");
    press(&mut model, KeyCode::Enter);
    assert!(matches!(&model.mode, Mode::Typing { error: Some(_), .. }));
}

#[test]
fn a_frozen_screen_stands_still() {
    let mut model = model();
    let before = picture(&model, (80, 24), 12);
    press(&mut model, KeyCode::Char('f'));
    model.take(
        News::Status(Box::new(status(5000))),
        Duration::from_secs(13),
    );
    model.take(News::Survey(Box::default()), Duration::from_secs(13));
    let after = picture(&model, (80, 24), 12);
    let without_health = |text: &str| text.split_once('\n').map(|(_, rest)| rest.to_owned());
    assert_eq!(without_health(&after), without_health(&before));
    assert!(after.starts_with("FROZEN  4+4 rules"), "{after}");
}
