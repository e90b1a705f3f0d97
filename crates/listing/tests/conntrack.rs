//! Our lines beside those of the real `conntrack -L` and of the kernel's own listing, for entries
//! of known content that `conntrack -I` makes in a namespace.

use std::process::Command;

use keepstate_engine::conntrack::sctp::SctpState;
use keepstate_engine::conntrack::tcp::TcpState;
use keepstate_engine::record::{ASSURED, Record, SEEN_REPLY, Warm};
use keepstate_engine::time::Tick;
use keepstate_engine::tuple::{Family, Side, Tuple, is_icmp};
use keepstate_listing::Entry;
use keepstate_testkit::{Namespace, programs_or_skip, root_or_skip, run};

struct Case {
    insert: &'static str,
    tuple: Tuple,
    status: u8,
    tcp_state: TcpState,
}

const HOST: Tuple = Tuple {
    family: Family::V4,
    source: [0x0a00_0005, 0, 0, 0],
    destination: [0x0a00_0001, 0, 0, 0],
    source_port: 5000,
    destination_port: 53,
    protocol: 17,
    zone: 0,
};

fn cases() -> Vec<Case> {
    vec![
        Case {
            insert: "-p tcp -s 10.0.0.5 -d 10.0.0.1 --sport 5000 --dport 22 --state ESTABLISHED \
                     -u SEEN_REPLY,ASSURED",
            tuple: Tuple {
                protocol: 6,
                destination_port: 22,
                ..HOST
            },
            status: SEEN_REPLY | ASSURED,
            tcp_state: TcpState::Established,
        },
        Case {
            insert: "-p tcp -s 10.0.0.5 -d 10.0.0.1 --sport 5001 --dport 22 --state SYN_SENT",
            tuple: Tuple {
                protocol: 6,
                source_port: 5001,
                destination_port: 22,
                ..HOST
            },
            status: 0,
            tcp_state: TcpState::SynSent,
        },
        Case {
            insert: "-p udp -s 10.0.0.5 -d 10.0.0.1 --sport 5000 --dport 53",
            tuple: HOST,
            status: 0,
            tcp_state: TcpState::None,
        },
        Case {
            insert: "-p icmp -s 10.0.0.5 -d 10.0.0.1 --icmp-type 8 --icmp-code 0 --icmp-id 26",
            tuple: Tuple {
                protocol: 1,
                source_port: 26,
                destination_port: 8 << 8,
                ..HOST
            },
            status: 0,
            tcp_state: TcpState::None,
        },
        Case {
            insert: "-p udp -s 2001:db8::1 -d 2001:db8::2 --sport 5000 --dport 53 -u SEEN_REPLY",
            tuple: Tuple {
                family: Family::V6,
                source: [0x2001_0db8, 0, 0, 1],
                destination: [0x2001_0db8, 0, 0, 2],
                ..HOST
            },
            status: SEEN_REPLY,
            tcp_state: TcpState::None,
        },
        Case {
            insert: "-p sctp -s 10.0.0.5 -d 10.0.0.1 --sport 5000 --dport 53 --state ESTABLISHED \
                     --orig-vtag 1 --reply-vtag 2 -u SEEN_REPLY,ASSURED",
            tuple: Tuple {
                protocol: 132,
                ..HOST
            },
            status: SEEN_REPLY | ASSURED,
            tcp_state: TcpState::from_number(SctpState::Established as u8),
        },
        Case {
            insert: "-p gre -s 10.0.0.5 -d 10.0.0.1 --srckey 5000 --dstkey 53",
            tuple: Tuple {
                protocol: 47,
                ..HOST
            },
            status: 0,
            tcp_state: TcpState::None,
        },
        Case {
            insert: "-p udplite -s 10.0.0.5 -d 10.0.0.1 --sport 5000 --dport 53",
            tuple: Tuple {
                protocol: 136,
                ..HOST
            },
            status: 0,
            tcp_state: TcpState::None,
        },
        Case {
            insert: "-p dccp -s 10.0.0.5 -d 10.0.0.1 --sport 5000 --dport 53 --state OPEN \
                     --role client",
            tuple: Tuple {
                source_port: 0,
                destination_port: 0,
                protocol: 33,
                ..HOST
            },
            status: 0,
            tcp_state: TcpState::None,
        },
    ]
}

#[test]
fn lines_are_those_of_conntrack_and_of_the_kernel() {
    const TEST: &str = "listing::lines_are_those_of_conntrack_and_of_the_kernel";
    if !root_or_skip(TEST) || !programs_or_skip(TEST, &["conntrack", "ip"]) {
        return;
    }
    for case in cases() {
        let namespace = Namespace::new("listing");
        let inside = |command: &str| {
            let words = command.split_whitespace();
            let mut entered = Command::new("ip");
            run(entered
                .args(["netns", "exec", namespace.name()])
                .args(words))
        };
        inside(&format!("conntrack -I {} -t 1000 -m 5", case.insert));
        let family = match case.tuple.family {
            Family::V4 => "ipv4",
            Family::V6 => "ipv6",
        };
        let real = inside(&format!("conntrack -L -f {family}"));
        let real_proc = inside("cat /proc/net/nf_conntrack");
        let ours = entry(&case);
        assert_eq!(
            mask_timeout(&real),
            mask_timeout(&ours.conntrack().to_string())
        );
        assert_eq!(
            mask_timeout(&real_proc),
            mask_timeout(&ours.proc().to_string())
        );
    }
}

/// The timeout runs: it was set to 1000 and is 999 a moment later.
fn mask_timeout(line: &str) -> String {
    line.trim().replacen(" 999 ", " 1000 ", 1)
}

fn entry(case: &Case) -> Entry {
    let oriented = if is_icmp(case.tuple.protocol) {
        case.tuple.orient_query(Side::First)
    } else {
        case.tuple.orient()
    };
    let second = keepstate_engine::record::ORIGINATOR_IS_SECOND;
    let originator = match oriented.side {
        Side::First => 0,
        Side::Second => second,
    };
    let record = Record {
        deadline: Tick(0).after_seconds(1000),
        status: case.status | originator,
        tcp_state: case.tcp_state,
        ..Record::EMPTY
    };
    let warm = Warm {
        mark: 5,
        ..Warm::default()
    };
    Entry::new(&oriented.key, &record, &warm, Tick(0))
}
