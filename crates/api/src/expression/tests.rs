use std::net::IpAddr;

use keepstate_engine::conntrack::sctp::SctpState;
use keepstate_engine::conntrack::tcp::TcpState;
use keepstate_engine::record::{ASSURED, EXPECTED, Record, SEEN_REPLY};
use keepstate_engine::tuple::Tuple;
use keepstate_engine::verdict::Reason;
use keepstate_listing::{Counters, Entry};
use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;
use proptest::sample::select;

use super::*;
use crate::event::{Event, PacketEvent};
use crate::flow::Flow;

// Few values, so that conditions are met about as often as not.
const ADDRESSES: [&str; 5] = [
    "10.0.0.1",
    "10.0.0.200",
    "192.0.2.7",
    "fd00::1",
    "fd00::ffff",
];
const NETWORKS: [&str; 6] = [
    "10.0.0.1",
    "10.0.0.0/25",
    "0.0.0.0/0",
    "fd00::/16",
    "fd00::1",
    "10.0.0.1/255.0.0.255",
];
const PROTOCOLS: [u8; 7] = [6, 17, 1, 58, 132, 47, 50];
const STATES: [State; 5] = [
    State::New,
    State::Established,
    State::Related,
    State::Invalid,
    State::Untracked,
];

fn small() -> impl Strategy<Value = u64> {
    select(vec![0_u64, 1, 22, 80, 443, 1000])
}

fn numbers() -> impl Strategy<Value = Numbers> {
    let range = (small(), small()).prop_map(|(a, b)| (a.min(b), a.max(b)));
    prop_oneof![
        vec(range, 1..3).prop_map(Numbers::Ranges),
        small().prop_map(Numbers::Not),
        small().prop_map(Numbers::Below),
        small().prop_map(Numbers::Above),
        small().prop_map(Numbers::AtMost),
        small().prop_map(Numbers::AtLeast),
    ]
}

fn term() -> impl Strategy<Value = Term> {
    let end = || select(vec![End::Source, End::Destination, End::Either]);
    let address = select(NETWORKS.to_vec()).prop_map(|text| text.parse().unwrap());
    let field = select(vec![
        Field::Packets,
        Field::Bytes,
        Field::Zone,
        Field::Left,
        Field::Rule,
        Field::Length,
    ]);
    let flag = select(vec![
        Flag::Replied,
        Flag::Unreplied,
        Flag::Assured,
        Flag::Expected,
    ]);
    let event = select(vec![
        EventKind::New,
        EventKind::Destroy,
        EventKind::Drop,
        EventKind::Invalid,
    ]);
    let reason = select(vec!["policy_drop", "tcp_*", "rule_drop", "*"]);
    let state = select(vec!["ESTABLISHED", "SYN_SENT", "NONE", "COOKIE_WAIT"]);
    prop_oneof![
        select(PROTOCOLS.to_vec()).prop_map(Term::Protocol),
        select(vec![Family::V4, Family::V6]).prop_map(Term::Family),
        (end(), address).prop_map(|(end, address)| Term::Address(end, address)),
        (end(), numbers()).prop_map(|(end, numbers)| Term::Port(end, numbers)),
        (field, numbers()).prop_map(|(field, numbers)| Term::Number(field, numbers)),
        (0..4_u32, 0..4_u32).prop_map(|(value, mask)| Term::Mark(MarkFilter {
            value: value & mask,
            mask
        })),
        state.prop_map(Term::ProtocolState),
        select(STATES.to_vec()).prop_map(Term::PacketState),
        flag.prop_map(Term::Flag),
        select(vec!["ftp", "sip"]).prop_map(|name| Term::Helper(name.to_owned())),
        event.prop_map(Term::Event),
        select(vec![Verdict::Accept, Verdict::Drop, Verdict::Reject]).prop_map(Term::Verdict),
        reason.prop_map(|name| Term::Reason(name.to_owned())),
        select(vec!["INPUT", "lan"]).prop_map(|name| Term::Chain(name.to_owned())),
    ]
}

fn expression() -> impl Strategy<Value = Expression> {
    term()
        .prop_map(Expression::Term)
        .prop_recursive(4, 24, 3, |inner| {
            prop_oneof![
                inner
                    .clone()
                    .prop_map(|part| Expression::Not(Box::new(part))),
                vec(inner.clone(), 2..4).prop_map(Expression::And),
                vec(inner, 2..4).prop_map(Expression::Or),
            ]
        })
}

fn entry() -> impl Strategy<Value = Entry> {
    let port = || small().prop_map(|port| port as u16);
    let ends = (select(ADDRESSES.to_vec()), select(ADDRESSES.to_vec()));
    let tuple = (ends, select(PROTOCOLS.to_vec()), port(), port(), port());
    let counters = option::of((small(), small(), small(), small()));
    let status = select(vec![0, SEEN_REPLY, SEEN_REPLY | ASSURED, EXPECTED]);
    let helper = select(vec![None, Some("ftp"), Some("sip")]);
    let state = (
        select(TcpState::ALL.to_vec()),
        select(SctpState::ALL.to_vec()),
    );
    (tuple, counters, status, helper, state, 0..4_u32, small()).prop_map(
        |(tuple, counters, status, helper, (tcp_state, sctp_state), mark, left)| {
            let ((source, destination), protocol, source_port, destination_port, zone) = tuple;
            let address = |text: &str| crate::engine_address(text.parse().unwrap());
            let ((family, source), (other, destination)) = (address(source), address(destination));
            let destination = if family == other { destination } else { source };
            let original = Tuple {
                family,
                source,
                destination,
                source_port,
                destination_port,
                protocol,
                zone,
            };
            let reply = Tuple {
                source: destination,
                destination: source,
                source_port: destination_port,
                destination_port: source_port,
                ..original
            };
            let mut record = Record {
                status,
                ..Record::EMPTY
            };
            match protocol {
                6 => record.tcp_state = tcp_state,
                132 => sctp_state.store(&mut record),
                _ => {}
            }
            let counters = counters.map(|(packets, bytes, reply_packets, reply_bytes)| {
                let counters = |packets, bytes| Counters { packets, bytes };
                [
                    counters(packets, bytes),
                    counters(reply_packets, reply_bytes),
                ]
            });
            Entry {
                labels: Default::default(),
                tuples: [original, reply],
                record,
                mark,
                helper,
                seconds_left: left as u32,
                id: 0,
                started_ns: None,
                counters,
            }
        },
    )
}

fn event() -> impl Strategy<Value = Event> {
    let reasons = vec![Reason::PolicyDrop, Reason::RuleDrop, Reason::TcpBadFlags];
    let packet = (
        select(STATES.to_vec()),
        select(vec![Verdict::Accept, Verdict::Drop]),
        option::of(select(reasons)),
        option::of(select(vec!["INPUT", "lan"])),
        option::of(small()),
        small(),
    );
    let packet =
        option::of(packet.prop_map(
            |(state, verdict, reason, chain, rule, length)| PacketEvent {
                state: state.name().to_owned(),
                verdict: verdict.name().to_owned(),
                reason: reason.map(|reason| reason.name().to_owned()),
                chain: chain.map(str::to_owned),
                rule: rule.map(|rule| rule as u32),
                length: length as u32,
                window: None,
            },
        ));
    (entry(), packet, any::<bool>()).prop_map(|(entry, packet, begins)| Event {
        time_ns: 0,
        kind: match (&packet, begins) {
            (None, true) => EventKind::New,
            (None, false) => EventKind::Destroy,
            (Some(_), true) => EventKind::Drop,
            (Some(_), false) => EventKind::Invalid,
        },
        flow: Flow::from_listing(&entry),
        packet,
        expectation: None,
        by: None,
    })
}

/// What an expression means, from what `--json` prints and nothing else.
fn direct(
    expression: &Expression,
    event: Option<EventKind>,
    flow: &Flow,
    packet: Option<&PacketEvent>,
) -> bool {
    let again = |inner: &Expression| direct(inner, event, flow, packet);
    let term = match expression {
        Expression::Term(term) => term,
        Expression::Not(inner) => return !again(inner),
        Expression::And(parts) => return !parts.iter().any(|part| !again(part)),
        Expression::Or(parts) => return parts.iter().any(again),
    };
    let original = &flow.original;
    let sum = |one: Option<u64>, other: Option<u64>| one.zip(other).map(|(one, other)| one + other);
    let is_flow = packet.is_none();
    match term {
        Term::Protocol(protocol) => flow.protocol == *protocol,
        Term::Family(Family::V4) => flow.family == "ipv4",
        Term::Family(Family::V6) => flow.family == "ipv6",
        Term::Address(end, network) => {
            let is_in = |address: IpAddr| network.contains(address);
            match end {
                End::Source => is_in(original.source),
                End::Destination => is_in(original.destination),
                End::Either => is_in(original.source) || is_in(original.destination),
            }
        }
        Term::Port(end, wanted) => {
            let source = original.source_port.or(original.source_key);
            let destination = original.destination_port.or(original.destination_key);
            let fits = |port: Option<u16>| among(wanted, port.map(u64::from));
            match end {
                End::Source => fits(source),
                End::Destination => fits(destination),
                End::Either => fits(source) || fits(destination),
            }
        }
        Term::Number(field, wanted) => among(
            wanted,
            match field {
                Field::Packets => sum(original.packets, flow.reply.packets),
                Field::Bytes => sum(original.bytes, flow.reply.bytes),
                Field::Zone => Some(u64::from(flow.zone)),
                Field::Left => is_flow.then_some(u64::from(flow.seconds_left)),
                Field::Rule => packet.and_then(|packet| packet.rule).map(u64::from),
                Field::Length => packet.map(|packet| u64::from(packet.length)),
            },
        ),
        Term::Mark(mark) => flow.mark & mark.mask == mark.value,
        Term::ProtocolState(state) => is_flow && flow.protocol_state() == Some(*state),
        Term::PacketState(state) => match packet {
            Some(packet) => packet.state == state.name(),
            None if flow.replied => *state == State::Established,
            None if flow.expected => *state == State::Related,
            None => *state == State::New,
        },
        Term::Flag(Flag::Replied) => is_flow && flow.replied,
        Term::Flag(Flag::Unreplied) => is_flow && !flow.replied,
        Term::Flag(Flag::Assured) => is_flow && flow.assured,
        Term::Flag(Flag::Expected) => is_flow && flow.expected,
        Term::Helper(name) => flow.helper.as_ref() == Some(name),
        Term::Event(kind) => event == Some(*kind),
        Term::Verdict(verdict) => packet.is_some_and(|packet| packet.verdict == verdict.name()),
        Term::Reason(pattern) => {
            let reason = packet.and_then(|packet| packet.reason.as_deref());
            let beginning = pattern.trim_end_matches('*');
            let is_whole = beginning == pattern;
            reason.is_some_and(|reason| {
                reason == pattern || (!is_whole && reason.starts_with(beginning))
            })
        }
        Term::Chain(chain) => packet.is_some_and(|packet| packet.chain.as_ref() == Some(chain)),
    }
}

fn among(wanted: &Numbers, number: Option<u64>) -> bool {
    number.is_some_and(|number| match wanted {
        Numbers::Ranges(ranges) => ranges.iter().any(|(a, b)| number >= *a && number <= *b),
        Numbers::Not(other) => number != *other,
        Numbers::Below(other) => number < *other,
        Numbers::Above(other) => number > *other,
        Numbers::AtMost(other) => number <= *other,
        Numbers::AtLeast(other) => number >= *other,
    })
}

proptest! {
    #[test]
    fn flows_and_events_match_as_their_fields_say(
        expression in expression(), entry in entry(), event in event(),
    ) {
        let flow = Flow::from_listing(&entry);
        prop_assert_eq!(
            expression.matches(&Subject::of_flow(&entry)),
            direct(&expression, None, &flow, None)
        );
        prop_assert_eq!(
            expression.matches(&Subject::of_event(&event)),
            direct(&expression, Some(event.kind), &event.flow, event.packet.as_ref())
        );
    }

    #[test]
    fn what_is_printed_is_read_as_the_same(expression in expression()) {
        let text = expression.to_string();
        prop_assert_eq!(text.parse::<Expression>(), Ok(expression), "{}", text);
    }

    #[test]
    fn no_text_is_too_strange(words in "[a-z0-9 ()!<>=&|,./:*\\-]{0,60}", signs in any::<String>()) {
        for text in [words, signs] {
            let columns = text.chars().count() as u32 + 1;
            if let Err(error) = text.parse::<Expression>() {
                prop_assert!((1..=columns).contains(&error.column), "{text:?}: {error}");
            }
        }
    }
}

/// How a filter is understood.
fn reads(text: &str, canonical: &str) {
    let expression: Expression = text
        .parse()
        .unwrap_or_else(|error| panic!("{text}: {error}"));
    assert_eq!(expression.to_string(), canonical, "{text}");
}

#[test]
fn ways_to_say_it() {
    reads(
        "dst port 22 and state established",
        "dst port 22 and state established",
    );
    reads(
        "src net 10.0.0.0/8 or not proto udp",
        "src 10.0.0.0/8 or not proto udp",
    );
    reads("tcp dst port 22", "proto tcp and dst port 22");
    reads("not tcp port 22", "not (proto tcp and port 22)");
    reads(
        "a_b or tcp".replace("a_b", "UDP").as_str(),
        "proto udp or proto tcp",
    );
    reads(
        "tcp or udp and assured",
        "proto tcp or (proto udp and assured)",
    );
    reads(
        "(tcp or udp) && !assured",
        "(proto tcp or proto udp) and not assured",
    );
    reads("port 22,80,8000-8100", "port 22,80,8000-8100");
    reads(
        "bytes > 10k and packets<=3",
        "bytes > 10000 and packets <= 3",
    );
    reads("port = 22", "port 22");
    reads("port >= 1024", "port >= 1024");
    reads("mark 0x10/0xf0", "mark 0x10/0xf0");
    reads("mark 7", "mark 0x7");
    reads("reason tcp_*", "reason tcp_*");
    reads(
        "ctstate NEW and verdict DROP",
        "ctstate new and verdict drop",
    );
    reads("host fd00::1", "host fd00::1");
    reads("proto icmp6 or proto 89", "proto icmpv6 or proto 89");
    reads("ip6 src fd00::/16", "ipv6 and src fd00::/16");
    reads("chain INPUT and rule 4", "chain INPUT and rule 4");
}

fn fails(text: &str, column: u32, message: &str) {
    let error = text.parse::<Expression>().expect_err(text);
    assert_eq!((error.column, &*error.message), (column, message), "{text}");
}

#[test]
fn mistakes_have_a_column() {
    fails("", 1, "the filter ends where a condition is expected");
    fails(
        "dst prot 22",
        5,
        "`prot` is neither an address nor ADDRESS/PREFIX",
    );
    fails("tcp udp", 5, "`and` or `or` is missing before this");
    fails("(tcp", 1, "this bracket is not closed");
    fails("(tcp udp)", 6, "`and`, `or` or `)` is missing before this");
    fails("tcp)", 4, "no bracket is open that this could close");
    fails(
        "tcp and",
        8,
        "the filter ends where a condition is expected",
    );
    fails("port 70000", 6, "`70000` is not a number up to 65535");
    fails("port 9-2", 6, "`9-2` runs backwards");
    fails("port 22,", 6, "`` is not a number up to 65535");
    fails(
        "state etablished",
        7,
        "`etablished` is not a state of TCP or SCTP; is `established` meant?",
    );
    fails(
        "reason policydrop",
        8,
        "`policydrop` is no reason; is `policy_drop` meant?",
    );
    fails(
        "assred",
        1,
        "`assred` is not a word of filters; is `assured` meant?",
    );
    fails("port ) 3", 6, "`)` where a number is expected");
    fails(
        "src 10.0.0.0/33",
        5,
        "`10.0.0.0/33` is neither an address nor ADDRESS/PREFIX",
    );
    fails("tcp ; rm", 5, "`;` has no meaning here");
    fails(
        "mark 0xff/0x0f",
        6,
        "bits are wanted that the mask leaves out",
    );
    let deep = "(".repeat(100) + "tcp";
    fails(&deep, 65, "nested more than 64 deep");
    let long = "tcp or ".repeat(1000) + "udp";
    fails(&long, 1, "7003 bytes, and a filter may have 4096");
}

#[test]
fn what_no_flow_has_is_known() {
    let alone = |text: &str| {
        let expression: Expression = text.parse().unwrap();
        expression.of_packets_alone().map(ToString::to_string)
    };
    assert_eq!(
        alone("tcp and not (reason tcp_* or udp)"),
        Some("reason tcp_*".to_owned())
    );
    assert_eq!(alone("tcp and bytes > 3"), None);
}
