use keepstate_engine::conntrack::tcp::TcpState;
use keepstate_engine::record::ORIGINATOR_IS_SECOND;
use keepstate_engine::tuple::Side;

use super::*;

const SSH: Tuple = Tuple {
    family: Family::V4,
    source: [0x0a00_0005, 0, 0, 0],
    destination: [0x0a00_0001, 0, 0, 0],
    source_port: 5000,
    destination_port: 22,
    protocol: TCP,
    zone: 0,
};

fn record(status: u8, tcp_state: TcpState, seconds: u32) -> Record {
    Record {
        deadline: Tick(0).after_seconds(seconds),
        status,
        tcp_state,
        ..Record::EMPTY
    }
}

fn entry(tuple: Tuple, status: u8, tcp_state: TcpState, seconds: u32) -> Entry {
    let oriented = if keepstate_engine::tuple::is_icmp(tuple.protocol) {
        tuple.orient_query(Side::First)
    } else {
        tuple.orient()
    };
    let side = match oriented.side {
        Side::First => 0,
        Side::Second => ORIGINATOR_IS_SECOND,
    };
    let record = record(status | side, tcp_state, seconds);
    Entry::new(&oriented.key, &record, &Warm::default(), Tick(0))
}

#[track_caller]
fn check(entry: &Entry, conntrack: &str, proc: &str) {
    assert_eq!(entry.conntrack().to_string(), conntrack);
    assert_eq!(entry.proc().to_string(), proc);
}

#[test]
fn tcp_established() {
    let entry = entry(SSH, SEEN_REPLY | ASSURED, TcpState::Established, 431_999);
    check(
        &entry,
        "tcp      6 431999 ESTABLISHED src=10.0.0.5 dst=10.0.0.1 sport=5000 dport=22 \
         src=10.0.0.1 dst=10.0.0.5 sport=22 dport=5000 [ASSURED] mark=0 use=1",
        "ipv4     2 tcp      6 431999 ESTABLISHED src=10.0.0.5 dst=10.0.0.1 sport=5000 dport=22 \
         src=10.0.0.1 dst=10.0.0.5 sport=22 dport=5000 [ASSURED] mark=0 zone=0 use=2",
    );
}

#[test]
fn tcp_half_open_in_a_zone_with_counters_and_mark() {
    let mut entry = entry(Tuple { zone: 7, ..SSH }, 0, TcpState::SynSent, 119);
    entry.mark = 66;
    entry.counters = Some([
        Counters {
            packets: 1,
            bytes: 60,
        },
        Counters::default(),
    ]);
    check(
        &entry,
        "tcp      6 119 SYN_SENT src=10.0.0.5 dst=10.0.0.1 sport=5000 dport=22 packets=1 bytes=60 \
         [UNREPLIED] src=10.0.0.1 dst=10.0.0.5 sport=22 dport=5000 packets=0 bytes=0 mark=66 \
         zone=7 use=1",
        "ipv4     2 tcp      6 119 SYN_SENT src=10.0.0.5 dst=10.0.0.1 sport=5000 dport=22 \
         packets=1 bytes=60 [UNREPLIED] src=10.0.0.1 dst=10.0.0.5 sport=22 dport=5000 packets=0 \
         bytes=0 mark=66 zone=7 use=2",
    );
}

#[test]
fn icmp_echo() {
    let ping = Tuple {
        protocol: ICMP,
        source_port: 26,
        destination_port: 8 << 8,
        ..SSH
    };
    check(
        &entry(ping, 0, TcpState::None, 29),
        "icmp     1 29 src=10.0.0.5 dst=10.0.0.1 type=8 code=0 id=26 [UNREPLIED] src=10.0.0.1 \
         dst=10.0.0.5 type=0 code=0 id=26 mark=0 use=1",
        "ipv4     2 icmp     1 29 src=10.0.0.5 dst=10.0.0.1 type=8 code=0 id=26 [UNREPLIED] \
         src=10.0.0.1 dst=10.0.0.5 type=0 code=0 id=26 mark=0 zone=0 use=2",
    );
}

#[test]
fn ipv6_and_protocols_without_a_tracker() {
    let tuple = Tuple {
        family: Family::V6,
        source: [0x2001_0db8, 0, 0, 1],
        destination: [0x2001_0db8, 0, 0, 2],
        source_port: 0,
        destination_port: 0,
        protocol: 50,
        zone: 0,
    };
    check(
        &entry(tuple, SEEN_REPLY, TcpState::None, 599),
        "unknown  50 599 src=2001:db8::1 dst=2001:db8::2 src=2001:db8::2 dst=2001:db8::1 mark=0 \
         use=1",
        "ipv6     10 unknown  50 599 src=2001:0db8:0000:0000:0000:0000:0000:0001 \
         dst=2001:0db8:0000:0000:0000:0000:0000:0002 \
         src=2001:0db8:0000:0000:0000:0000:0000:0002 \
         dst=2001:0db8:0000:0000:0000:0000:0000:0001 mark=0 zone=0 use=2",
    );
}
