//! SYNPROXY: the handshake with the client, the one with the server, and what is translated between them.

#[path = "support/compiled.rs"]
mod compiled;
#[path = "support/loaded.rs"]
mod loaded;

use std::net::IpAddr;

use compiled::compiled;
use keepstate_engine::conntrack::tcp::TcpState;
use keepstate_engine::limits::{
    SYNPROXY_PER_BUCKET, SYNPROXY_PERIOD_SECONDS, SYNPROXY_SERVER_SECONDS,
};
use keepstate_engine::process::{Arrival, Checksums, Path};
use keepstate_engine::settings::{COOKIES_AUTO, SETTING_SYNPROXY, SETTING_TCP_LOOSE, Settings};
use keepstate_engine::table;
use keepstate_engine::time::{TICKS_PER_SECOND, Tick};
use keepstate_engine::tuple::Family;
use keepstate_engine::verdict::{Reason, Verdict};
use keepstate_engine::wire::{Link, PacketInfo, parse};
use keepstate_flowmemory::{Accounting, OwnedTable, SliceTable, buckets_for};
use keepstate_sim::build::{ACK, Body, CWR, ECE, FIN, PSH, Packet, RST, SYN, Tcp};
use keepstate_sim::packet::Bytes;
use keepstate_sim::plane::Plane;
use loaded::loaded;

const FLOWS_MAX: u32 = 200;
const NOW: Tick = Tick(160_000);

/// Numbers of the client's SYN and of the server's, close to where they wrap.
const CLIENT: u32 = 0xffff_fffa;
const SERVER: u32 = 0x7fff_fff9;

/// Size, SACK, timestamps, scale 5.
const ALL: &[u8] = &[
    2, 4, 0x05, 0x78, 4, 2, 8, 10, 0, 0, 0, 7, 0, 0, 0, 0, 1, 3, 3, 5,
];
const SIZE: &[u8] = &[2, 4, 0x05, 0x78];
/// Size, SACK, scale 5.
const NO_STAMPS: &[u8] = &[2, 4, 0x05, 0x78, 1, 1, 4, 2, 1, 3, 3, 5];
/// What a server says.
const ANSWER: &[u8] = &[
    2, 4, 0x05, 0xb4, 4, 2, 8, 10, 0, 1, 0, 0, 0, 0, 0, 7, 1, 3, 3, 7,
];

const RULES: &str = "*raw
-A PREROUTING -p tcp --dport 80:9999 --syn -j CT --notrack
COMMIT
*filter
:INPUT DROP [0:0]
:FORWARD DROP [0:0]
:OUTPUT ACCEPT [0:0]
-A FORWARD -p tcp --dport 80 -m conntrack --ctstate INVALID,UNTRACKED -j SYNPROXY --sack-perm --timestamp --wscale 7 --mss 1460 --ecn
-A FORWARD -p tcp --dport 81:9999 -m conntrack --ctstate INVALID,UNTRACKED -j SYNPROXY
-A FORWARD -m conntrack --ctstate INVALID -j DROP
-A FORWARD -m conntrack --ctstate ESTABLISHED -j ACCEPT
COMMIT
";

struct Gateway<'a> {
    plane: Plane<SliceTable<'a>>,
    family: Family,
    /// Whether senders leave the sum of the pseudo-header alone in the checksum.
    partial: bool,
    port: u16,
    server_port: u16,
}

/// What came of a packet.
#[derive(Debug)]
enum Came {
    /// Nothing: it was dropped.
    Nothing(Reason),
    Back(Seen),
    On(Seen),
}

#[derive(Debug)]
struct Seen {
    info: PacketInfo,
    options: Vec<u8>,
    payload: Vec<u8>,
}

impl Came {
    #[track_caller]
    fn on(self) -> Seen {
        match self {
            Self::On(seen) => seen,
            other => panic!("{other:?}"),
        }
    }

    #[track_caller]
    fn back(self) -> Seen {
        match self {
            Self::Back(seen) => seen,
            other => panic!("{other:?}"),
        }
    }

    #[track_caller]
    fn nothing(self) -> Reason {
        match self {
            Self::Nothing(reason) => reason,
            other => panic!("{other:?}"),
        }
    }
}

fn with_gateway(test: impl Fn(&mut Gateway<'_>)) {
    for family in [Family::V4, Family::V6] {
        for partial in [false, true] {
            let buckets = [buckets_for(FLOWS_MAX); 2];
            let table = OwnedTable::new(buckets, Accounting::No).with_helpers();
            let mut settings = Settings::defaults(FLOWS_MAX, buckets);
            settings.flags |= SETTING_SYNPROXY;
            settings.flags &= !SETTING_TCP_LOOSE;
            settings.synproxy.secrets = [[1, 2, 3, 4], [5, 6, 7, 8]];
            let compiled = compiled([Family::V4, Family::V6].map(|family| (family, RULES)));
            let plane = Plane::new(table.as_slices(), settings, loaded(&compiled), ());
            test(&mut Gateway {
                plane,
                family,
                partial,
                port: 4000,
                server_port: 80,
            });
        }
    }
}

fn seen(bytes: &[u8], partial: bool) -> Seen {
    let mut arrival = arrival(bytes);
    if partial {
        arrival.checksums = Checksums::UnverifiedOrPartial;
    }
    let settings = Settings::defaults(1, [4; 2]);
    let info = parse(&Bytes(bytes), &arrival, &settings).expect("a whole packet");
    assert_eq!(info.damage, None, "{bytes:02x?}");
    if partial {
        let at = info.transport_offset as usize + 16;
        let whole = [bytes[at], bytes[at + 1]];
        assert_eq!(whole, pseudo(bytes, &info), "{bytes:02x?}");
    }
    let header = info.transport_offset as usize;
    let data = header + usize::from(info.tcp_header_length);
    let end = header + info.transport_length as usize;
    Seen {
        info,
        options: bytes[header + 20..data].to_vec(),
        payload: bytes[data..end].to_vec(),
    }
}

/// The sum of the pseudo-header.
fn pseudo(bytes: &[u8], info: &PacketInfo) -> [u8; 2] {
    let addresses = match info.family {
        Family::V4 => &bytes[12..20],
        Family::V6 => &bytes[8..40],
    };
    let words = addresses
        .chunks(2)
        .map(|pair| u32::from(pair[0]) << 8 | u32::from(pair[1]));
    let mut sum = words.sum::<u32>() + 6 + info.transport_length;
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    (sum as u16).to_be_bytes()
}

fn arrival(ip: &[u8]) -> Arrival {
    Arrival {
        link: if ip[0] >> 4 == 4 {
            Link::Ipv4
        } else {
            Link::Ipv6
        },
        path: Path::Ingress,
        checksums: Checksums::UnverifiedOrPartial,
        zone: 0,
        interfaces: 0,
    }
}

impl Gateway<'_> {
    fn addresses(&self) -> (IpAddr, IpAddr) {
        let [client, server] = match self.family {
            Family::V4 => ["10.0.0.2", "192.0.2.80"],
            Family::V6 => ["fd00::2", "2001:db8::80"],
        };
        (client.parse().expect("one"), server.parse().expect("one"))
    }

    fn send(&self, from_client: bool, segment: Tcp, now: Tick) -> Came {
        let (client, server) = self.addresses();
        let (source, destination, ports) = match from_client {
            true => (client, server, (self.port, self.server_port)),
            false => (server, client, (self.server_port, self.port)),
        };
        let segment = Tcp {
            source_port: ports.0,
            destination_port: ports.1,
            window: 501,
            ..segment
        };
        let mut packet = Packet::new(source, destination, Body::Tcp(segment)).ip();
        if self.partial {
            let info = parse(&Bytes(&packet), &arrival(&packet), &self.plane.settings);
            let info = info.expect("a whole packet");
            let at = info.transport_offset as usize + 16;
            let sum = pseudo(&packet, &info);
            packet[at..at + 2].copy_from_slice(&sum);
        }
        let outcome = self.plane.judge(&packet, &arrival(&packet), now);
        let (answer, changed) = (self.plane.take_answer(), self.plane.take_changed(&packet));
        if let Some(answer) = answer {
            assert_eq!(outcome.verdict, Verdict::Drop);
            return Came::Back(seen(&answer, false));
        }
        match outcome.verdict {
            Verdict::Accept => Came::On(seen(&changed.unwrap_or(packet), self.partial)),
            _ => Came::Nothing(outcome.reason.expect("one")),
        }
    }

    fn client(&self, sequence: u32, acknowledgement: u32, flags: u8, options: &[u8]) -> Came {
        let segment = Tcp {
            sequence,
            acknowledgement,
            flags,
            options: options.to_vec(),
            ..Tcp::default()
        };
        self.send(true, segment, NOW)
    }

    fn server(&self, sequence: u32, acknowledgement: u32, flags: u8, options: &[u8]) -> Came {
        let segment = Tcp {
            sequence,
            acknowledgement,
            flags,
            options: options.to_vec(),
            ..Tcp::default()
        };
        self.send(false, segment, NOW)
    }

    /// The handshake up to the news for the client: cookie, and the timestamp that came with it.
    fn open(&self) -> (u32, u32) {
        let (cookie, stamp) = self.ask(ALL);
        self.client(
            CLIENT.wrapping_add(1),
            cookie.wrapping_add(1),
            ACK,
            &stamps(9, stamp),
        )
        .on();
        self.server(SERVER, CLIENT.wrapping_add(1), SYN | ACK, ANSWER)
            .on();
        (cookie, stamp)
    }

    fn ask(&self, options: &[u8]) -> (u32, u32) {
        let answer = self.client(CLIENT, 0, SYN, options).back();
        let stamp = answer.options.get(8..12);
        let stamp = stamp.map_or(0, |bytes| {
            u32::from_be_bytes(bytes.try_into().expect("four"))
        });
        (answer.info.tcp_sequence, stamp)
    }

    fn state(&self) -> Option<TcpState> {
        let mut states = Vec::new();
        for (family, buckets) in [Family::V4, Family::V6]
            .into_iter()
            .zip(self.plane.settings.buckets)
        {
            table::visit(&self.plane.flows, family, 0..buckets, NOW, |entry| {
                states.push(entry.record.tcp_state);
            });
        }
        assert!(states.len() < 2);
        states.pop()
    }
}

/// A timestamp option of a segment: value and echo.
fn stamps(value: u32, echo: u32) -> Vec<u8> {
    let mut options = vec![1, 1, 8, 10];
    options.extend(value.to_be_bytes());
    options.extend(echo.to_be_bytes());
    options
}

fn blocks(edges: [u32; 2]) -> Vec<u8> {
    let mut options = vec![1, 1, 5, 10];
    options.extend(edges.into_iter().flat_map(u32::to_be_bytes));
    options
}

#[test]
fn a_connection_is_opened_translated_and_closed() {
    with_gateway(|gateway| {
        let answer = gateway.client(CLIENT, 0, SYN | ECE | CWR, ALL).back();
        assert_eq!(answer.info.tcp_flags, SYN | ACK | ECE);
        assert_eq!(
            (answer.info.tcp_ack, answer.info.tcp_window),
            (CLIENT.wrapping_add(1), 0)
        );
        assert_eq!(answer.options[..4], [2, 4, 0x05, 0xb4]);
        assert_eq!(answer.options[4..8], [4, 2, 8, 10]);
        assert_eq!(answer.options[12..], [0, 0, 0, 7, 1, 3, 3, 7]);
        assert_eq!(gateway.state(), None, "no record before the cookie is back");
        let cookie = answer.info.tcp_sequence;
        let stamp = u32::from_be_bytes(answer.options[8..12].try_into().expect("four"));

        let (next, acknowledged) = (CLIENT.wrapping_add(1), cookie.wrapping_add(1));
        let syn = gateway
            .client(next, acknowledged, ACK, &stamps(9, stamp))
            .on();
        assert_eq!(syn.info.tcp_flags, SYN | ECE | CWR);
        assert_eq!((syn.info.tcp_sequence, syn.info.tcp_ack), (CLIENT, 0));
        // The size that the client named, and its own timestamp.
        assert_eq!(syn.options[..8], [2, 4, 0x05, 0x78, 4, 2, 8, 10]);
        assert_eq!(syn.options[8..], [0, 0, 0, 9, 0, 0, 0, 0, 1, 3, 3, 5]);
        assert_eq!(gateway.state(), Some(TcpState::SynSent));

        let news = gateway.server(SERVER, next, SYN | ACK, ANSWER).on();
        assert_eq!((news.info.tcp_flags, news.info.tcp_sequence), (ACK, cookie));
        assert_eq!((news.info.tcp_ack, news.info.tcp_window), (next, 501 >> 7));
        assert_eq!(news.options, stamps(stamp, 7));
        assert_eq!(news.payload, [0]);
        assert_eq!(gateway.state(), Some(TcpState::SynRecv));

        let ack = gateway
            .client(next, acknowledged, ACK, &stamps(10, stamp))
            .on();
        assert_eq!(
            (ack.info.tcp_sequence, ack.info.tcp_ack),
            (next, SERVER.wrapping_add(1))
        );
        assert_eq!(ack.options, stamps(10, 0x0001_0000));
        assert_eq!(gateway.state(), Some(TcpState::Established));

        // Data of the server, more of it, and what the client says of a gap.
        let first = Tcp {
            sequence: SERVER.wrapping_add(1),
            acknowledgement: next,
            flags: ACK | PSH,
            options: stamps(0x0001_0005, 10),
            payload: b"hello".to_vec(),
            ..Tcp::default()
        };
        let data = gateway.send(false, first.clone(), NOW).on();
        assert_eq!(
            (data.info.tcp_sequence, data.info.tcp_ack),
            (acknowledged, next)
        );
        assert_eq!(data.options, stamps(stamp.wrapping_add(5), 10));
        assert_eq!(data.payload, b"hello");
        let later = Tcp {
            sequence: SERVER.wrapping_add(16),
            ..first
        };
        gateway.send(false, later, NOW).on();
        let edges = [acknowledged.wrapping_add(15), acknowledged.wrapping_add(20)];
        let at = acknowledged.wrapping_add(5);
        let ack = gateway.client(next, at, ACK, &blocks(edges)).on();
        assert_eq!(ack.info.tcp_ack, SERVER.wrapping_add(6));
        assert_eq!(
            ack.options,
            blocks([SERVER.wrapping_add(16), SERVER.wrapping_add(21)])
        );

        // Closed by halves.
        let end = acknowledged.wrapping_add(20);
        let fin = gateway.client(next, end, FIN | ACK, &[]).on();
        assert_eq!(fin.info.tcp_ack, SERVER.wrapping_add(21));
        assert_eq!(gateway.state(), Some(TcpState::FinWait));
        let fin = gateway
            .server(
                SERVER.wrapping_add(21),
                next.wrapping_add(1),
                FIN | ACK,
                &[],
            )
            .on();
        assert_eq!(fin.info.tcp_sequence, end);
        let last = gateway
            .client(next.wrapping_add(1), end.wrapping_add(1), ACK, &[])
            .on();
        assert_eq!(last.info.tcp_ack, SERVER.wrapping_add(22));
        assert_eq!(gateway.state(), Some(TcpState::TimeWait));
    });
}

#[test]
fn a_client_without_options_gets_none() {
    with_gateway(|gateway| {
        for (options, expected) in [(SIZE, &[2, 4, 0x05, 0x78][..]), (&[], &[2, 4, 0x02, 0x18])] {
            gateway.port += 1;
            let answer = gateway.client(CLIENT, 0, SYN, options).back();
            assert_eq!(answer.options.is_empty(), options.is_empty());
            let next = CLIENT.wrapping_add(1);
            let at = answer.info.tcp_sequence.wrapping_add(1);
            let syn = gateway.client(next, at, ACK, &[]).on();
            assert_eq!(syn.options, expected);
            let news = gateway.server(SERVER, next, SYN | ACK, SIZE).on();
            assert_eq!((news.info.tcp_window, news.options.len()), (501, 0));
            let ack = gateway.client(next, at, ACK, &[]).on();
            assert_eq!(ack.info.tcp_ack, SERVER.wrapping_add(1));
            gateway.client(next, at, RST | ACK, &[]).on();
        }
    });
}

/// Where there are no timestamps, as with Windows, the cookie keeps the options.
#[test]
fn options_are_kept_without_timestamps() {
    with_gateway(|gateway| {
        let answer = gateway.client(CLIENT, 0, SYN, NO_STAMPS).back();
        assert_eq!(
            answer.options,
            [2, 4, 0x05, 0xb4, 1, 1, 4, 2, 1, 3, 3, 7],
            "size, SACK, scale"
        );
        let next = CLIENT.wrapping_add(1);
        let at = answer.info.tcp_sequence.wrapping_add(1);
        let syn = gateway.client(next, at, ACK, &[]).on();
        assert_eq!(
            syn.options,
            [2, 4, 0x05, 0x78, 1, 1, 4, 2, 1, 3, 3, 5],
            "likewise"
        );
        assert_eq!(syn.info.tcp_window, 501 << 5, "that of a SYN is not scaled");
        let news = gateway.server(SERVER, next, SYN | ACK, NO_STAMPS).on();
        assert_eq!((news.info.tcp_window, news.options.len()), (501 >> 7, 0));
        let ack = gateway.client(next, at, ACK, &[]).on();
        assert_eq!(ack.info.tcp_ack, SERVER.wrapping_add(1));
        assert_eq!(ack.info.tcp_window, 501, "both have scales");
    });
}

/// Whatever the rule has said of it, and whether or not the server scales windows.
#[test]
fn windows_are_what_their_reader_takes_them_for() {
    with_gateway(|gateway| {
        let scale_2 = [NO_STAMPS[..11].to_vec(), vec![2]].concat();
        for (answer, of_server, of_client) in [
            (&scale_2[..], 501 << 2 >> 7, 501),
            (SIZE, 501 >> 7, 501 << 5),
        ] {
            gateway.port += 1;
            let (cookie, stamp) = gateway.ask(ALL);
            let (next, at) = (CLIENT.wrapping_add(1), cookie.wrapping_add(1));
            let segment = stamps(9, stamp);
            gateway.client(next, at, ACK, &segment).on();
            let news = gateway.server(SERVER, next, SYN | ACK, answer).on();
            assert_eq!(
                news.info.tcp_window,
                501 >> 7,
                "that of a SYN is not scaled"
            );
            let ack = gateway.client(next, at, ACK, &segment).on();
            assert_eq!(ack.info.tcp_window, of_client);
            let ack = gateway.server(SERVER.wrapping_add(1), next, ACK, &[]).on();
            assert_eq!(ack.info.tcp_window, of_server);
            gateway.client(next, at, RST | ACK, &segment).on();
        }
    });
}

#[test]
fn what_is_lost_of_the_handshake_is_sent_again() {
    with_gateway(|gateway| {
        let (cookie, stamp) = gateway.ask(ALL);
        let (next, at) = (CLIENT.wrapping_add(1), cookie.wrapping_add(1));
        // The first is lost before it comes here: the client looks into its window.
        let syn = gateway.client(CLIENT, at, ACK, &stamps(9, stamp)).on();
        assert_eq!((syn.info.tcp_flags, syn.info.tcp_sequence), (SYN, CLIENT));
        // Our SYN is lost.
        for sequence in [CLIENT, next] {
            let again = gateway.client(sequence, at, ACK, &stamps(300, stamp)).on();
            assert_eq!(
                (again.info.tcp_flags, again.info.tcp_sequence),
                (SYN, CLIENT)
            );
            assert_eq!(again.options[8..12], [0, 0, 1, 44]);
        }
        let fin = gateway
            .client(next, at, FIN | ACK, &stamps(301, stamp))
            .on();
        assert_eq!(fin.info.tcp_flags, SYN);
        // What the client is told is lost, and so the server says it again.
        gateway.server(SERVER, next, SYN | ACK, ANSWER).on();
        let ack = gateway.server(SERVER, next, SYN | ACK, ANSWER).back();
        assert_eq!((ack.info.tcp_flags, ack.info.tcp_sequence), (ACK, next));
        assert_eq!(ack.info.tcp_ack, SERVER.wrapping_add(1));
        assert_eq!(ack.options, stamps(7, 0x0001_0000));
        // One of another connection.
        let other = gateway.server(SERVER.wrapping_add(9), next, SYN | ACK, ANSWER);
        assert_eq!(other.nothing(), Reason::SynproxyEarly);
        let probe = gateway.client(CLIENT, at, ACK, &stamps(302, stamp)).on();
        assert_eq!(probe.info.tcp_ack, SERVER.wrapping_add(1));
    });
}

#[test]
fn resets_have_the_number_that_is_expected() {
    with_gateway(|gateway| {
        let (cookie, stamp) = gateway.ask(ALL);
        let (next, at) = (CLIENT.wrapping_add(1), cookie.wrapping_add(1));
        gateway.client(next, at, ACK, &stamps(9, stamp)).on();
        // Before there is an answer, the server has nothing to say but that it will not.
        let early = gateway.server(SERVER, next, ACK, &[]);
        assert_eq!(early.nothing(), Reason::SynproxyEarly);
        let refused = gateway.server(0, next, RST | ACK, &[]).on();
        assert_eq!(
            (refused.info.tcp_sequence, refused.info.tcp_ack),
            (at, next)
        );
        assert_eq!(gateway.state(), None);

        gateway.port += 1;
        let (cookie, stamp) = gateway.open();
        let at = cookie.wrapping_add(1);
        gateway.client(next, at, ACK, &stamps(10, stamp)).on();
        let reset = gateway.server(SERVER.wrapping_add(1), 0, RST, &[]).on();
        assert_eq!((reset.info.tcp_sequence, reset.info.tcp_ack), (at, 0));
        assert_eq!(gateway.state(), Some(TcpState::Close));
    });
}

#[test]
fn only_its_own_young_cookie_opens_a_connection() {
    with_gateway(|gateway| {
        let (cookie, stamp) = gateway.ask(ALL);
        let (next, at) = (CLIENT.wrapping_add(1), cookie.wrapping_add(1));
        let ack = |sequence, acknowledgement, now| {
            let segment = Tcp {
                sequence,
                acknowledgement,
                flags: ACK,
                options: stamps(9, stamp),
                ..Tcp::default()
            };
            gateway.send(true, segment, now)
        };
        // One bit off, the number of another SYN, another port.
        for bit in 0..32 {
            assert_eq!(
                ack(next, at ^ 1 << bit, NOW).nothing(),
                Reason::SynproxyRefused
            );
        }
        assert_eq!(
            ack(next.wrapping_add(2), at, NOW).nothing(),
            Reason::SynproxyRefused
        );
        let period = SYNPROXY_PERIOD_SECONDS * TICKS_PER_SECOND;
        let late = |periods: u32| Tick(NOW.0 + periods * period);
        assert_eq!(ack(next, at, late(2)).nothing(), Reason::SynproxyRefused);
        // As many periods later as the cookie's bits can tell apart.
        assert_eq!(ack(next, at, late(32)).nothing(), Reason::SynproxyRefused);
        assert_eq!(ack(next, at, late(64)).nothing(), Reason::SynproxyRefused);
        assert_eq!(gateway.state(), None);
        assert_eq!(ack(next, at, late(1)).on().info.tcp_flags, SYN);
    });
}

#[test]
fn what_cannot_be_answered_is_dropped() {
    with_gateway(|gateway| {
        gateway.plane.cookies = None;
        let syn = gateway.client(CLIENT, 0, SYN, ALL);
        assert_eq!(syn.nothing(), Reason::SynproxyUnanswerable);
    });
}

/// Of a server that is not known, but of 1,220 bytes at most, since nobody knows the way to it.
const ASSUMED: &[u8] = &[2, 4, 0x04, 0xc4, 4, 2, 8, 10];

/// Whether a server is known to have nothing but a size of segments, by what a client is told.
fn has_size_alone(gateway: &Gateway<'_>, now: Tick) -> bool {
    let syn = Tcp {
        sequence: CLIENT,
        flags: SYN,
        options: ALL.to_vec(),
        ..Tcp::default()
    };
    let answer = gateway.send(true, syn, now).back();
    if answer.options[..8] == *ASSUMED {
        assert_eq!(answer.options[12..], [0, 0, 0, 7, 1, 3, 3, 8]);
        return false;
    }
    assert_eq!(answer.options, [2, 4, 0x05, 0x78, 1, 3, 3, 8]);
    true
}

#[test]
fn what_a_server_has_is_learned_where_the_rule_names_nothing() {
    with_gateway(|gateway| {
        for server in 81..3081 {
            gateway.server_port = server;
            gateway.port += 1;
            assert!(!has_size_alone(gateway, NOW), "{server}");
            let (cookie, stamp) = gateway.ask(ALL);
            let (next, at) = (CLIENT.wrapping_add(1), cookie.wrapping_add(1));
            gateway.client(next, at, ACK, &stamps(9, stamp)).on();
            gateway.server(SERVER, next, SYN | ACK, SIZE).on();
            gateway.client(next, at, RST | ACK, &stamps(9, stamp)).on();
            gateway.port += 1;
            assert!(has_size_alone(gateway, NOW), "{server}");
        }
        // The first have given way to the others.
        let known = |gateway: &mut Gateway<'_>, now| {
            let servers = (81..3081).filter(|server| {
                gateway.server_port = *server;
                has_size_alone(gateway, now)
            });
            servers.count()
        };
        let count = known(gateway, NOW);
        assert!((900..=1024).contains(&count), "{count}");
        let later = Tick(NOW.0 + SYNPROXY_SERVER_SECONDS * TICKS_PER_SECOND);
        assert_eq!(known(gateway, later), 0, "one may have got other options");
    });
}

/// A bucket's places are all taken: the next connection that needs one there is not opened, and leaves nothing.
#[test]
fn without_room_no_connection_is_opened() {
    with_gateway(|gateway| {
        let mut full = 0;
        // All flows of a small table fall into few buckets: fill them by hand.
        let table = &gateway.plane.flows;
        for bucket in 0..keepstate_engine::limits::SYNPROXY_BUCKETS {
            for slot in 0..SYNPROXY_PER_BUCKET {
                use keepstate_engine::host::{FlowMemory, Words};
                let words = table.synproxy(bucket, slot).expect("a place");
                // In use, and locked: as if it were just being taken.
                words.store(0, 3 << 62);
            }
        }
        let (cookie, stamp) = gateway.ask(ALL);
        let (next, at) = (CLIENT.wrapping_add(1), cookie.wrapping_add(1));
        match gateway.client(next, at, ACK, &stamps(9, stamp)) {
            Came::Nothing(Reason::SynproxyFull) => full += 1,
            other => panic!("{other:?}"),
        }
        assert_eq!((full, gateway.state()), (1, None));
    });
}

/// With `auto`, SYNs go on to the server until too many connections to it are half-open.
#[test]
fn syns_go_on_until_the_server_has_too_many() {
    with_gateway(|gateway| {
        let settings = &mut gateway.plane.settings;
        settings.synproxy.mode = COOKIES_AUTO;
        settings.cookies.high = 1000;
        settings.cookies.destination_high = 2;
        settings.cookies.destination_low = 0;
        let syn = gateway.client(CLIENT, 0, SYN, ALL).on();
        assert_eq!((syn.info.tcp_flags, syn.info.tcp_sequence), (SYN, CLIENT));
        assert_eq!(syn.options, ALL);
        assert_eq!(gateway.state(), Some(TcpState::SynSent));
        let next = CLIENT.wrapping_add(1);
        let answer = gateway.server(SERVER, next, SYN | ACK, ANSWER).on();
        assert_eq!(
            (answer.info.tcp_sequence, answer.info.tcp_window),
            (SERVER, 501)
        );
        let acknowledged = SERVER.wrapping_add(1);
        gateway
            .client(next, acknowledged, ACK, &stamps(9, 0x1_0000))
            .on();
        assert_eq!(gateway.state(), Some(TcpState::Established));

        for port in 1..=3 {
            gateway.port = port;
            gateway.client(CLIENT, 0, SYN, ALL).on();
        }
        gateway.port = 4;
        gateway.client(CLIENT, 0, SYN, ALL).back();
        // What went on to the server before does so again, and so does its answer.
        gateway.port = 1;
        gateway.client(CLIENT, 0, SYN, ALL).on();
        gateway.server(SERVER, next, SYN | ACK, ANSWER).on();
        gateway.server_port = 81;
        gateway.client(CLIENT, 0, SYN, ALL).on();
    });
}

/// The whole of a connection that the server closes first.
fn closed(gateway: &Gateway<'_>) {
    let (cookie, stamp) = gateway.open();
    let own = stamps(9, stamp);
    let (next, acknowledged) = (CLIENT.wrapping_add(1), cookie.wrapping_add(1));
    gateway.client(next, acknowledged, ACK, &own).on();
    let (last, theirs) = (SERVER.wrapping_add(1), stamps(0x1_0001, 9));
    gateway.server(last, next, FIN | ACK, &theirs).on();
    let acknowledged = acknowledged.wrapping_add(1);
    gateway.client(next, acknowledged, FIN | ACK, &own).on();
    let (last, next) = (last.wrapping_add(1), next.wrapping_add(1));
    gateway.server(last, next, ACK, &theirs).on();
    assert_eq!(gateway.state(), Some(TcpState::TimeWait));
}

#[test]
fn a_connection_follows_another_between_the_same_ports() {
    with_gateway(|gateway| {
        closed(gateway);
        let again = CLIENT.wrapping_add(1_000_000);
        let answer = gateway.client(again, 0, SYN, ALL).back();
        let proof = answer.info.tcp_sequence.wrapping_add(1);
        let stamp = u32::from_be_bytes(answer.options[8..12].try_into().expect("four"));
        let (next, own) = (again.wrapping_add(1), stamps(9, stamp));
        let forged = proof.wrapping_add(1);
        gateway.client(next, forged, ACK, &own).nothing();
        assert_eq!(gateway.state(), Some(TcpState::TimeWait));
        let syn = gateway.client(next, proof, ACK, &own).on();
        assert_eq!((syn.info.tcp_flags, syn.info.tcp_sequence), (SYN, again));
        assert_eq!(gateway.state(), Some(TcpState::SynSent));
    });
}

#[test]
fn a_syn_that_goes_on_may_follow_a_connection_that_was_translated() {
    with_gateway(|gateway| {
        closed(gateway);
        gateway.plane.settings.synproxy.mode = COOKIES_AUTO;
        let again = CLIENT.wrapping_add(1_000_000);
        let syn = gateway.client(again, 0, SYN, ALL).on();
        assert_eq!((syn.info.tcp_sequence, &syn.options[..]), (again, ALL));
        assert_eq!(gateway.state(), Some(TcpState::SynSent));
    });
}
