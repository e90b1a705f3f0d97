use std::net::Ipv4Addr;

use super::*;
use crate::build::{ACK, Body, Icmp, SYN, Tcp};
use crate::capture::{Frame, LinkType};

fn read(text: &str) -> Expression {
    text.parse()
        .unwrap_or_else(|error| panic!("{text}: {error}"))
}

#[track_caller]
fn check_error(text: &str, column: usize, words: &str) {
    let error = text.parse::<Expression>().expect_err(text);
    assert_eq!(error.column, column, "{error}");
    assert!(error.to_string().contains(words), "{error}");
}

#[test]
fn reads_a_syn() {
    let expression = read("tcp 10.0.0.5:5000 > 10.0.0.1:22 syn in eth0");
    assert_eq!(expression.packet.source, Ipv4Addr::new(10, 0, 0, 5));
    let Body::Tcp(tcp) = &expression.packet.body else {
        panic!("no segment");
    };
    assert_eq!((tcp.source_port, tcp.destination_port), (5000, 22));
    assert_eq!(tcp.flags, SYN);
    assert_eq!(expression.in_interface.as_deref(), Some("eth0"));
    assert_eq!(expression.pretended, Pretended::New);
}

#[test]
fn reads_ipv6_with_brackets() {
    let expression = read("udp [2001:db8::5]:5000 > [2001:db8::1]:53 len 30");
    assert!(expression.packet.source.is_ipv6());
    assert_eq!(expression.packet.ip().len(), 40 + 8 + 30);
    read("icmpv6 2001:db8::5 > [2001:db8::1] echo-request id 7");
}

#[test]
fn established_is_a_handshake_and_fitting_numbers() {
    let mut expression = read("tcp 10.0.0.5:5000 > 10.0.0.1:22 state established");
    let prelude = expression.prelude();
    let flags: Vec<u8> = prelude
        .iter()
        .map(|packet| match &packet.body {
            Body::Tcp(tcp) => tcp.flags,
            _ => 0,
        })
        .collect();
    assert_eq!(flags, [SYN, SYN | ACK, ACK]);
    assert!(matches!(
        expression.packet.body,
        Body::Tcp(Tcp {
            flags: ACK,
            sequence: 1001,
            acknowledgement: 5001,
            ..
        })
    ));
}

#[test]
fn a_reply_is_sent_by_the_one_who_was_called() {
    let mut expression = read("tcp 10.0.0.1:22 > 10.0.0.5:5000 state established reply");
    let prelude = expression.prelude();
    assert_eq!(prelude[0].source, Ipv4Addr::new(10, 0, 0, 5));
    assert!(matches!(
        expression.packet.body,
        Body::Tcp(Tcp {
            sequence: 5001,
            acknowledgement: 1001,
            ..
        })
    ));
}

#[test]
fn an_error_quotes() {
    let mut expression = read(
        "icmp 10.0.0.53 > 10.0.0.1 port-unreachable state related \
         quoting udp 10.0.0.1:4000 > 10.0.0.53:53",
    );
    assert!(matches!(
        expression.packet.body,
        Body::Icmp(Icmp {
            kind: 3,
            code: 3,
            ..
        })
    ));
    assert_eq!(expression.prelude().len(), 1);
}

#[test]
fn says_where_it_stopped() {
    check_error("", 1, "a protocol");
    check_error("tcpp 1.1.1.1:1 > 2.2.2.2:2", 1, "`tcpp`");
    check_error("tcp 1.1.1.1:1 < 2.2.2.2:2", 15, "`>`");
    check_error("tcp 1.1.1.1 > 2.2.2.2:2", 5, "port");
    check_error("udp 1.1.1.1:1 > 2.2.2.2:99999", 17, "99999");
    check_error("tcp 1.1.1.1:1 > [::1]:2", 17, "families");
    check_error("udp 1.1.1.1:1 > 2.2.2.2:2 syn", 27, "nothing about udp");
    check_error("tcp 1.1.1.1:1 > 2.2.2.2:2 seq", 30, "sequence number");
    check_error("tcp 1.1.1.1:1 > 2.2.2.2:2 state old", 33, "`old`");
    check_error("icmp ::1 > ::2", 1, "icmpv6");
    check_error("icmp 1.1.1.1:1 > 2.2.2.2:1", 6, "no ports");
    check_error("tcp 1.1.1.1:1 > 2.2.2.2:2 state related", 40, "quoting");
    check_error("proto 256 1.1.1.1 > 2.2.2.2", 7, "256");
    check_error("tcp ä:1 > 2.2.2.2:2", 5, "ä:1");
}

#[test]
fn what_is_described_can_be_read_again() {
    for text in [
        "tcp 10.0.0.5:5000 > 10.0.0.1:22 syn",
        "tcp 10.0.0.5:5000 > 10.0.0.1:22 psh ack len 12",
        "udp [2001:db8::5]:5000 > [2001:db8::1]:53 len 30",
        "icmp 10.0.0.5 > 10.0.0.1 type 8 code 0 len 56",
        "proto 47 10.0.0.5 > 10.0.0.1 len 20",
    ] {
        let bytes = read(text).packet.ethernet();
        let frame = Frame {
            number: 1,
            time_ns: None,
            link: LinkType::ETHERNET,
            data: &bytes,
            original_length: bytes.len() as u32,
        };
        assert_eq!(describe(&frame), text);
    }
}

#[test]
fn words_in_any_order_do_no_harm() {
    const WORDS: &[&str] = &[
        "tcp",
        "udp",
        "icmp",
        "icmpv6",
        "proto",
        ">",
        "10.0.0.1",
        "10.0.0.1:22",
        "[::1]",
        "[::1]:5",
        "::1",
        "[",
        "]:1",
        ":",
        "syn",
        "ack",
        "rst",
        "seq",
        "len",
        "65000",
        "255",
        "4294967295",
        "quoting",
        "state",
        "established",
        "related",
        "reply",
        "in",
        "out",
        "badsum",
        "type",
        "id",
        "ä",
        "",
    ];
    let mut random = crate::traffic::Random::new(3);
    for _ in 0..20_000 {
        let mut text = String::from(
            [
                "",
                "tcp 10.0.0.1:1 > 10.0.0.2:2 ",
                "icmp 1.1.1.1 > 2.2.2.2 ",
            ][random.below(3) as usize],
        );
        for _ in 0..random.below(9) {
            text.push_str(WORDS[random.below(WORDS.len() as u64) as usize]);
            text.push(' ');
        }
        match text.parse::<Expression>() {
            Ok(mut expression) => {
                expression.prelude();
                assert!(expression.packet.ip().len() <= 65_535);
            }
            Err(error) => assert!((1..=text.chars().count() + 1).contains(&error.column)),
        }
    }
}

#[test]
fn reads_chunks() {
    let expression = read("sctp 10.0.0.5:5000 > 10.0.0.1:22");
    let Body::Sctp(sctp) = &expression.packet.body else {
        panic!("no SCTP packet");
    };
    assert_eq!((sctp.tag, sctp.chunks.len()), (0, 1));
    assert_eq!(sctp.chunks[0].kind, crate::build::chunk::INIT);
    let expression = read("sctp 10.0.0.5:5000 > 10.0.0.1:22 sack data tag 7");
    let described = describe_ip(&expression.packet.ip()).expect("words");
    assert_eq!(described, "sctp 10.0.0.5:5000 > 10.0.0.1:22 sack data");
    let Body::Sctp(sctp) = &expression.packet.body else {
        panic!("no SCTP packet");
    };
    assert_eq!(sctp.tag, 7);
}

#[test]
fn an_established_association_was_set_up() {
    let mut expression = read("sctp 10.0.0.5:5000 > 10.0.0.1:22 state established reply");
    let prelude = expression.prelude();
    let said: Vec<String> = prelude
        .iter()
        .filter_map(|packet| describe_ip(&packet.ip()))
        .collect();
    assert_eq!(
        said,
        [
            "sctp 10.0.0.1:22 > 10.0.0.5:5000 init",
            "sctp 10.0.0.5:5000 > 10.0.0.1:22 init-ack",
            "sctp 10.0.0.1:22 > 10.0.0.5:5000 cookie-echo",
            "sctp 10.0.0.5:5000 > 10.0.0.1:22 cookie-ack",
        ]
    );
    assert!(describe_ip(&expression.packet.ip()).is_some_and(|words| words.ends_with(" data")));
}

#[test]
fn what_says_nothing_about_sctp_and_udplite() {
    check_error("sctp 10.0.0.5 > 10.0.0.1:22", 6, "port");
    check_error("sctp 10.0.0.5:1 > 10.0.0.1:2 syn", 30, "sctp");
    check_error("sctp 10.0.0.5:1 > 10.0.0.1:2 len 9", 30, "sctp");
    check_error("udplite 10.0.0.5:1 > 10.0.0.1:2 syn", 33, "udplite");
    let expression = read("udplite 10.0.0.5:1 > 10.0.0.1:2 len 9");
    assert_eq!(expression.packet.ip().len(), 20 + 8 + 9);
}
