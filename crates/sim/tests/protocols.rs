//! SCTP, GRE, UDP-Lite and a reset of TCP, packet by packet.

use std::net::{IpAddr, Ipv4Addr};

use keepstate_engine::conntrack::sctp::SctpState;
use keepstate_engine::process::{Arrival, Checksums, Outcome, Path};
use keepstate_engine::settings::{SETTING_CHECKSUM, Settings, Timeout};
use keepstate_engine::time::Tick;
use keepstate_engine::verdict::{Reason, State};
use keepstate_engine::wire::Link;
use keepstate_flowmemory::{Accounting, OwnedTable, SliceTable, buckets_for};
use keepstate_sim::build::{
    ACK, Body, Checksum, Chunk, Packet, RST, SYN, Sctp, Tcp, UdpLite, chunk,
};
use keepstate_sim::plane::{LoadedPolicy, Plane};

const FLOWS_MAX: u32 = 100;
const CLIENT: IpAddr = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 10));
const SERVER: IpAddr = IpAddr::V4(Ipv4Addr::new(198, 51, 100, 20));

/// What packets to the client carry, and to the server.
const TO_CLIENT: u32 = 0x1111;
const TO_SERVER: u32 = 0x2222;
/// What the forger would have them carry.
const FORGED: u32 = 0x6666;

struct Bench<'a> {
    plane: Plane<SliceTable<'a>>,
    seconds: u32,
    checksums: Checksums,
}

impl<'a> Bench<'a> {
    fn new(table: &'a OwnedTable, settings: Settings) -> Self {
        Self {
            plane: Plane::new(table.as_slices(), settings, LoadedPolicy::NONE, ()),
            seconds: 1000,
            checksums: Checksums::Unverified,
        }
    }

    fn judge(&self, ip: &[u8]) -> Outcome {
        let arrival = Arrival {
            link: Link::Ipv4,
            path: Path::Ingress,
            checksums: self.checksums,
            zone: 0,
            interfaces: 0,
        };
        self.plane
            .judge(ip, &arrival, Tick(0).after_seconds(self.seconds))
    }

    #[track_caller]
    fn expect(&self, packet: &Packet, state: State, sctp: SctpState) {
        let outcome = self.judge(&packet.ip());
        assert_eq!(
            (outcome.state, outcome.sctp_state),
            (state, Some(sctp)),
            "{:?}",
            outcome.reason
        );
    }

    #[track_caller]
    fn expect_reason(&self, packet: &Packet, reason: Reason) {
        let outcome = self.judge(&packet.ip());
        assert_eq!(
            (outcome.state, outcome.reason),
            (State::Invalid, Some(reason))
        );
    }

    #[track_caller]
    fn set_up(&self) {
        self.expect(
            &to_server(0, init(chunk::INIT, TO_CLIENT)),
            State::New,
            SctpState::Closed,
        );
        let init_ack = init(chunk::INIT_ACK, TO_SERVER);
        self.expect(
            &to_client(TO_CLIENT, init_ack),
            State::Established,
            SctpState::CookieWait,
        );
        self.expect(
            &to_server(TO_SERVER, of(chunk::COOKIE_ECHO)),
            State::Established,
            SctpState::CookieEchoed,
        );
        self.expect(
            &to_client(TO_CLIENT, of(chunk::COOKIE_ACK)),
            State::Established,
            SctpState::Established,
        );
    }

    #[track_caller]
    fn expect_data_both_ways(&self) {
        for packet in [
            to_server(TO_SERVER, of(chunk::DATA)),
            to_client(TO_CLIENT, of(chunk::DATA)),
        ] {
            self.expect(&packet, State::Established, SctpState::Established);
        }
    }
}

fn of(kind: u8) -> Vec<Chunk> {
    vec![Chunk::new(kind)]
}

fn init(kind: u8, tag: u32) -> Vec<Chunk> {
    vec![Chunk::introducing(kind, tag)]
}

fn packet(to_server: bool, tag: u32, chunks: Vec<Chunk>) -> Packet {
    let (source, destination, ports) = if to_server {
        (CLIENT, SERVER, (7777, 9999))
    } else {
        (SERVER, CLIENT, (9999, 7777))
    };
    let body = Sctp {
        source_port: ports.0,
        destination_port: ports.1,
        tag,
        chunks,
    };
    Packet::new(source, destination, Body::Sctp(body))
}

fn to_server(tag: u32, chunks: Vec<Chunk>) -> Packet {
    packet(true, tag, chunks)
}

fn to_client(tag: u32, chunks: Vec<Chunk>) -> Packet {
    packet(false, tag, chunks)
}

fn with_table(test: impl FnOnce(Bench<'_>)) {
    let settings = Settings::defaults(FLOWS_MAX, [buckets_for(FLOWS_MAX); 2]);
    let table = OwnedTable::new(settings.buckets, Accounting::No);
    test(Bench::new(&table, settings));
}

#[test]
fn a_forged_init_changes_nothing() {
    with_table(|bench| {
        bench.set_up();
        for forged in [
            to_server(0, init(chunk::INIT, FORGED)),
            to_client(0, init(chunk::INIT, FORGED)),
        ] {
            bench.expect(&forged, State::Established, SctpState::Established);
            bench.expect_data_both_ways();
        }
    });
}

/// The server answers, to the client: who forged the INIT does not see the answer, and knows no tag
/// but the one that it chose.
#[test]
fn who_forged_an_init_gets_no_further() {
    with_table(|bench| {
        bench.set_up();
        bench.judge(&to_server(0, init(chunk::INIT, FORGED)).ip());
        bench.expect(
            &to_client(FORGED, init(chunk::INIT_ACK, 0x7777)),
            State::Established,
            SctpState::Established,
        );
        for packet in [
            to_client(FORGED, of(chunk::DATA)),
            to_client(FORGED, of(chunk::SHUTDOWN)),
            to_client(FORGED, of(chunk::COOKIE_ACK)),
            to_server(FORGED, of(chunk::COOKIE_ECHO)),
        ] {
            bench.expect_reason(&packet, Reason::SctpBadTag);
        }
        let mut reflected = Chunk::new(chunk::ABORT);
        reflected.flags = 1;
        bench.judge(&to_server(FORGED, vec![reflected]).ip());
        bench.judge(&to_client(FORGED, of(chunk::ABORT)).ip());
        bench.expect_data_both_ways();
        // The end of what was asked for: nothing has this tag any more.
        bench.expect_reason(&to_client(FORGED, of(chunk::ERROR)), Reason::SctpBadTag);
    });
}

/// RFC 9260 section 5.2.2: the answer has a new tag, which its receiver throws away.
#[test]
fn an_init_that_comes_twice_changes_nothing() {
    with_table(|bench| {
        bench.set_up();
        for packet in [
            to_server(0, init(chunk::INIT, TO_CLIENT)),
            to_client(TO_CLIENT, init(chunk::INIT_ACK, 0x7777)),
        ] {
            bench.expect(&packet, State::Established, SctpState::Established);
        }
        bench.expect_data_both_ways();
    });
}

/// RFC 9260 section 5.2.4, action A.
#[test]
fn an_end_that_lost_its_memory_begins_again() {
    with_table(|bench| {
        bench.set_up();
        for packet in [
            to_server(0, init(chunk::INIT, 0x3333)),
            to_client(0x3333, init(chunk::INIT_ACK, 0x4444)),
            to_server(0x4444, of(chunk::COOKIE_ECHO)),
            to_client(0x3333, of(chunk::COOKIE_ACK)),
            to_server(0x4444, of(chunk::DATA)),
            to_client(0x3333, of(chunk::DATA)),
        ] {
            bench.expect(&packet, State::Established, SctpState::Established);
        }
        for packet in [
            to_server(TO_SERVER, of(chunk::DATA)),
            to_client(TO_CLIENT, of(chunk::DATA)),
        ] {
            bench.expect_reason(&packet, Reason::SctpBadTag);
        }
    });
}

#[test]
fn an_init_that_is_forged_during_the_set_up_does_not_stop_it() {
    with_table(|bench| {
        let begin = [
            to_server(0, init(chunk::INIT, TO_CLIENT)),
            to_server(0, init(chunk::INIT, FORGED)),
            to_client(FORGED, init(chunk::INIT_ACK, 0x7777)),
            to_client(TO_CLIENT, init(chunk::INIT_ACK, TO_SERVER)),
            to_server(TO_SERVER, of(chunk::COOKIE_ECHO)),
            to_client(TO_CLIENT, of(chunk::COOKIE_ACK)),
        ];
        for packet in begin {
            assert_ne!(bench.judge(&packet.ip()).state, State::Invalid);
        }
        bench.expect_data_both_ways();
    });
}

#[test]
fn an_association_ends_in_three_steps() {
    with_table(|bench| {
        bench.set_up();
        for (packet, state) in [
            (
                to_client(TO_CLIENT, of(chunk::SHUTDOWN)),
                SctpState::ShutdownRecd,
            ),
            (
                to_server(TO_SERVER, of(chunk::SHUTDOWN_ACK)),
                SctpState::ShutdownAckSent,
            ),
            (
                to_client(TO_CLIENT, of(chunk::SHUTDOWN_COMPLETE)),
                SctpState::Closed,
            ),
        ] {
            bench.expect(&packet, State::Established, state);
        }
    });
}

#[test]
fn chunks_that_may_not_stand_together_are_refused() {
    with_table(|bench| {
        let two = |first, second| vec![Chunk::new(first), Chunk::new(second)];
        let mut empty = to_server(0, of(chunk::ERROR)).ip();
        // The length of the only chunk; checksums are not looked at below.
        empty[20 + 12 + 3] = 0;
        let mut trusting = Bench { ..bench };
        trusting.checksums = Checksums::Trusted;
        assert_eq!(trusting.judge(&empty).reason, Some(Reason::SctpBadChunks));
        let bench = trusting;
        for chunks in [
            vec![],
            two(chunk::DATA, chunk::COOKIE_ECHO),
            two(chunk::SACK, chunk::COOKIE_ACK),
            vec![Chunk::introducing(chunk::INIT, 5), Chunk::new(chunk::DATA)],
            two(chunk::DATA, chunk::SHUTDOWN_COMPLETE),
        ] {
            bench.expect_reason(&to_server(0, chunks), Reason::SctpBadChunks);
        }
        bench.expect_reason(&to_server(0, of(chunk::DATA)), Reason::SctpNoAssociation);
    });
}

#[test]
fn sctp_checksums_of_every_length_are_verified() {
    with_table(|mut bench| {
        for length in 0..70_u16 {
            let mut heartbeat = Chunk::new(chunk::HEARTBEAT);
            heartbeat.value = vec![0xa5; usize::from(length)];
            let body = Sctp {
                source_port: length,
                destination_port: 9999,
                tag: 1,
                chunks: vec![heartbeat],
            };
            let mut packet = Packet::new(CLIENT, SERVER, Body::Sctp(body));
            packet.checksum = Checksum::Wrong;
            bench.expect_reason(&packet, Reason::SctpBadChecksum);
            packet.checksum = Checksum::Right;
            assert_eq!(bench.judge(&packet.ip()).state, State::New);
        }
        // What a local peer leaves to hardware is zero.
        let mut ip = to_server(0, init(chunk::INIT, 5)).ip();
        ip[28..32].fill(0);
        assert_eq!(bench.judge(&ip).reason, Some(Reason::SctpBadChecksum));
        bench.checksums = Checksums::UnverifiedOrPartial;
        assert_eq!(bench.judge(&ip).state, State::New);
    });
}

fn gre(to_server: bool, payload: &[u8]) -> Packet {
    let (source, destination) = if to_server {
        (CLIENT, SERVER)
    } else {
        (SERVER, CLIENT)
    };
    let payload = payload.to_vec();
    let body = Body::Other {
        protocol: 47,
        payload,
    };
    Packet::new(source, destination, body)
}

#[test]
fn gre_goes_by_addresses_and_pptp_by_calls() {
    with_table(|bench| {
        let plain = [0, 0, 8, 0, 1, 2, 3, 4];
        let call = |id| [0x30, 1, 0x88, 0x0b, 0, 4, 0, id];
        let flow = |packet: &Packet| {
            let outcome = bench.judge(&packet.ip());
            (outcome.state, outcome.flow)
        };
        let (state, first) = flow(&gre(true, &plain));
        assert_eq!(state, State::New);
        assert_eq!(flow(&gre(false, &plain)), (State::Established, first));
        let (state, one) = flow(&gre(true, &call(1)));
        assert_eq!(state, State::New);
        let (_, two) = flow(&gre(true, &call(2)));
        assert!(one != first && one != two);
        // Each end has identifiers of its own: without a helper nothing says which go together.
        assert_eq!(flow(&gre(false, &call(1))).0, State::New);
        let foreign = [0x30, 1, 8, 0, 0, 4, 0, 1];
        bench.expect_reason(&gre(true, &foreign), Reason::GreBadProtocol);
    });
}

#[test]
fn gre_keeps_the_timeouts_that_it_began_with() {
    with_table(|mut bench| {
        let plain = [0, 0, 8, 0, 1, 2, 3, 4];
        bench.judge(&gre(true, &plain).ip());
        bench.plane.settings.timeouts[Timeout::GreStream as usize] = 1;
        assert_eq!(
            bench.judge(&gre(false, &plain).ip()).state,
            State::Established
        );
        bench.judge(&gre(true, &plain).ip());
        bench.seconds += 179;
        assert_eq!(
            bench.judge(&gre(true, &plain).ip()).state,
            State::Established
        );
    });
}

fn lite(to_server: bool, coverage: u16, payload: &[u8]) -> Packet {
    let (source, destination, ports) = if to_server {
        (CLIENT, SERVER, (1000, 2000))
    } else {
        (SERVER, CLIENT, (2000, 1000))
    };
    let body = UdpLite {
        source_port: ports.0,
        destination_port: ports.1,
        coverage,
        payload: payload.to_vec(),
    };
    Packet::new(source, destination, Body::UdpLite(body))
}

#[test]
fn udplite_covers_what_it_says() {
    with_table(|bench| {
        for coverage in [0, 8, 9, 12, 13] {
            let packet = lite(true, coverage, b"hello");
            assert_eq!(bench.judge(&packet.ip()).state, State::New, "{coverage}");
            let mut ip = packet.ip();
            *ip.last_mut().expect("bytes") ^= 1;
            let wanted = if matches!(coverage, 0 | 13) {
                Some(Reason::UdpliteBadChecksum)
            } else {
                None
            };
            assert_eq!(bench.judge(&ip).reason, wanted, "{coverage}");
        }
        assert_eq!(
            bench.judge(&lite(false, 8, b"x").ip()).state,
            State::Established
        );
        for coverage in [1, 7, 14, 65_535] {
            bench.expect_reason(&lite(true, coverage, b"hello"), Reason::UdpliteBadCoverage);
        }
        let mut unsummed = lite(true, 0, b"hello").ip();
        unsummed[26..28].fill(0);
        assert_eq!(
            bench.judge(&unsummed).reason,
            Some(Reason::UdpliteNoChecksum)
        );
    });
}

#[test]
fn damage_is_seen_without_checksums_too() {
    with_table(|mut bench| {
        bench.plane.settings.flags &= !SETTING_CHECKSUM;
        let mut short = to_server(0, of(chunk::ERROR)).ip();
        short.truncate(20 + 11);
        short[3] = 31;
        short[10..12].fill(0);
        let sum = !keepstate_sim::packet::ones_complement_sum(&short[..20]);
        short[10..12].copy_from_slice(&sum.to_be_bytes());
        assert_eq!(bench.judge(&short).reason, Some(Reason::SctpTruncated));
    });
}

/// A RST may skip the window check where it answers a SYN of the other end. One of the SYN's own sender may not
/// (Linux 6.18, `nf_conntrack_tcp_packet`).
#[test]
fn a_reset_by_the_sender_of_the_syn_has_to_be_in_window() {
    const SENT: u32 = 0xb1f2_1ffa;
    const ANSWERED: u32 = 0x2db7_d638;
    let tcp = |to_server: bool, flags, sequence, acknowledgement| {
        let (source, destination) = match to_server {
            true => (CLIENT, SERVER),
            false => (SERVER, CLIENT),
        };
        let [source_port, destination_port] = if to_server {
            [50_003, 80]
        } else {
            [80, 50_003]
        };
        let body = Body::Tcp(Tcp {
            source_port,
            destination_port,
            sequence,
            acknowledgement,
            flags,
            window: 65_535,
            ..Tcp::default()
        });
        Packet {
            source,
            destination,
            body,
            checksum: Checksum::Right,
        }
    };
    with_table(|bench| {
        let state = |packet: Packet| bench.judge(&packet.ip()).state;
        assert_eq!(state(tcp(true, SYN, SENT, 0)), State::New);
        let unseen = tcp(false, SYN | ACK, ANSWERED, SENT + 1_000);
        assert_eq!(state(unseen), State::Invalid);
        // Old for a sender that was met with the packet before: ignored, and the flow has had its reply.
        let old = tcp(false, SYN | ACK, ANSWERED - 65_536, SENT + 1);
        assert_eq!(state(old), State::Established);
        bench.expect_reason(
            &tcp(true, RST, SENT.wrapping_add(1 << 31), 0),
            Reason::TcpSequenceOverWindow,
        );
        assert_eq!(state(tcp(true, RST, SENT + 1, 0)), State::Established);
    });
}
