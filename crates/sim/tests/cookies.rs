//! SYN cookies: what a SYN is answered with, and what the segment that brings the cookie back makes.

#[path = "support/compiled.rs"]
mod compiled;
#[path = "support/loaded.rs"]
mod loaded;

use std::net::IpAddr;

use compiled::compiled;
use keepstate_engine::conntrack::tcp::TcpState;
use keepstate_engine::host::{FlowMemory, Words};
use keepstate_engine::limits::COOKIE_SECONDS;
use keepstate_engine::process::{Arrival, Checksums, Outcome, Path};
use keepstate_engine::settings::{
    COOKIE_ECN, COOKIE_SACK, COOKIE_SCALING, COOKIE_TIMESTAMPS, COOKIES_ALWAYS, COOKIES_AUTO,
    SETTING_COOKIES, Settings,
};
use keepstate_engine::table::{self, gauges};
use keepstate_engine::time::Tick;
use keepstate_engine::tuple::Family;
use keepstate_engine::verdict::{Reason, State, Verdict};
use keepstate_engine::wire::{Link, PacketInfo, parse};
use keepstate_flowmemory::{Accounting, OwnedTable, SliceTable, buckets_for};
use keepstate_sim::build::{ACK, Body, CWR, ECE, FIN, PSH, Packet, RST, SYN, Tcp};
use keepstate_sim::locals::{LocalAddress, Locals};
use keepstate_sim::packet::Bytes;
use keepstate_sim::plane::Plane;
use loaded::loaded;

const FLOWS_MAX: u32 = 200;
const NOW: Tick = Tick(160_000);
const SEQUENCE: u32 = 0xffff_fff0;

/// Sizes, SACK, timestamps (value 7), scale 5.
const ALL: &[u8] = &[
    2, 4, 0x05, 0xb4, 4, 2, 8, 10, 0, 0, 0, 7, 0, 0, 0, 0, 1, 3, 3, 5,
];
const SIZE_AND_SCALE: &[u8] = &[2, 4, 0x05, 0x00, 1, 3, 3, 5];

/// The rules that most hosts have: a SYN to an open port, and what belongs to something.
const RULES: &str = "*filter
:INPUT DROP [0:0]
:FORWARD ACCEPT [0:0]
:OUTPUT ACCEPT [0:0]
-A INPUT -m conntrack --ctstate INVALID -j DROP
-A INPUT -m conntrack --ctstate ESTABLISHED -j ACCEPT
-A INPUT -p tcp --syn --dport 80 -m conntrack --ctstate NEW -j ACCEPT
COMMIT
";

struct Host<'a>(Plane<SliceTable<'a>>);

fn with_host(mode: u32, test: impl FnOnce(&mut Host<'_>)) {
    let buckets = [buckets_for(FLOWS_MAX); 2];
    let table = OwnedTable::new(buckets, Accounting::No);
    let mut settings = Settings::defaults(FLOWS_MAX, buckets);
    settings.cookies.mode = mode;
    settings.cookies.options = COOKIE_TIMESTAMPS | COOKIE_SCALING | COOKIE_SACK | COOKIE_ECN;
    if mode != 0 {
        settings.flags |= SETTING_COOKIES;
    }
    let compiled = compiled([Family::V4, Family::V6].map(|family| (family, RULES)));
    let loaded = loaded(&compiled);
    let mut plane = Plane::new(table.as_slices(), settings, loaded, ());
    let local = |address: &str| address.parse::<LocalAddress>().expect("an address");
    plane.locals = Locals::new(vec![local("10.0.0.1"), local("fd00::1")]);
    test(&mut Host(plane));
}

#[derive(Clone, Copy)]
struct Client {
    family: Family,
    port: u16,
}

const V4: Client = Client {
    family: Family::V4,
    port: 4000,
};
const V6: Client = Client {
    family: Family::V6,
    port: 4000,
};

impl Host<'_> {
    fn judge(&self, ip: &[u8], path: Path, now: Tick) -> Outcome {
        self.0.judge(ip, &arrival(ip, path), now)
    }

    fn send(&self, client: Client, segment: Tcp, now: Tick) -> Outcome {
        let (own, host) = addresses(client.family);
        let segment = Tcp {
            source_port: client.port,
            destination_port: 80,
            window: 501,
            ..segment
        };
        let packet = Packet::new(own, host, Body::Tcp(segment));
        self.judge(&packet.ip(), Path::Ingress, now)
    }

    fn syn(&self, client: Client, options: &[u8], now: Tick) -> Outcome {
        let segment = Tcp {
            sequence: SEQUENCE,
            flags: SYN,
            options: options.to_vec(),
            ..Tcp::default()
        };
        self.send(client, segment, now)
    }

    fn ack(&self, client: Client, cookie: u32, timestamps: Option<u32>, now: Tick) -> Outcome {
        let options = timestamps.map_or(Vec::new(), |echo| {
            let mut options = vec![1, 1, 8, 10, 0, 0, 0, 9];
            options.extend(echo.to_be_bytes());
            options
        });
        let segment = Tcp {
            sequence: SEQUENCE.wrapping_add(1),
            acknowledgement: cookie.wrapping_add(1),
            flags: ACK | PSH,
            options,
            payload: vec![1; 10],
            ..Tcp::default()
        };
        self.send(client, segment, now)
    }

    fn gauge(&self, gauge: u32) -> u64 {
        self.0.flows.gauges().expect("there are gauges").load(gauge)
    }

    /// The records there are.
    fn records(&self, now: Tick) -> Vec<table::Entry> {
        let mut found = Vec::new();
        for (family, buckets) in [Family::V4, Family::V6]
            .into_iter()
            .zip(self.0.settings.buckets)
        {
            table::visit(&self.0.flows, family, 0..buckets, now, |entry| {
                found.push(*entry)
            });
        }
        found
    }
}

fn addresses(family: Family) -> (IpAddr, IpAddr) {
    let [client, host] = match family {
        Family::V4 => ["10.0.0.2", "10.0.0.1"],
        Family::V6 => ["fd00::2", "fd00::1"],
    };
    let address = |text: &str| text.parse().expect("an address");
    (address(client), address(host))
}

fn arrival(ip: &[u8], path: Path) -> Arrival {
    Arrival {
        link: if ip[0] >> 4 == 4 {
            Link::Ipv4
        } else {
            Link::Ipv6
        },
        path,
        checksums: Checksums::Unverified,
        zone: 0,
        interfaces: 0,
    }
}

/// What was sent back, if all of it is right.
fn parsed(answer: &[u8]) -> PacketInfo {
    let settings = Settings::defaults(1, [4; 2]);
    let info = parse(&Bytes(answer), &arrival(answer, Path::Ingress), &settings);
    let info = info.expect("a whole packet");
    assert_eq!(info.damage, None, "{answer:02x?}");
    assert_eq!(info.tcp_ack, SEQUENCE.wrapping_add(1));
    assert_eq!((info.source_port, info.destination_port), (80, 4000));
    info
}

fn options(answer: &[u8], info: &PacketInfo) -> Vec<u8> {
    answer[info.transport_offset as usize + 20..].to_vec()
}

/// The record is the one that the handshake would have made had it been seen.
#[test]
fn a_cookie_makes_the_record_that_a_handshake_makes() {
    for client in [V4, V6] {
        for (sent, echoed) in [
            (ALL, true),
            (&ALL[..16], true),
            (&ALL[..4], false),
            (&[], false),
        ] {
            with_host(COOKIES_ALWAYS, |cookies| {
                let outcome = cookies.syn(client, sent, NOW);
                assert_eq!(outcome.reason, Some(Reason::CookieSent));
                assert_eq!(
                    (outcome.state, outcome.verdict),
                    (State::New, Verdict::Drop)
                );
                assert!(cookies.records(NOW).is_empty());
                let answer = cookies.0.take_answer().expect("an answer");
                let info = parsed(&answer);
                assert_eq!(info.tcp_flags, SYN | ACK);
                let told = options(&answer, &info);
                let echo = echoed.then(|| u32::from_be_bytes(told[8..12].try_into().unwrap()));
                let done = cookies.ack(client, info.tcp_sequence, echo, NOW);
                assert_eq!(
                    (done.state, done.verdict),
                    (State::Established, Verdict::Accept)
                );
                let [made] = cookies.records(NOW)[..] else {
                    panic!("one record");
                };
                with_host(0, |plain| {
                    plain.syn(client, sent, NOW);
                    assert_eq!(
                        plain.judge(&answer, Path::Local, NOW).state,
                        State::Established
                    );
                    plain.ack(client, info.tcp_sequence, echo, NOW);
                    let [seen] = plain.records(NOW)[..] else {
                        panic!("one record");
                    };
                    let mut seen = seen.record;
                    if !echoed {
                        // The host forgets what it has no timestamp for, and so do we.
                        for (seen, made) in seen.windows.iter_mut().zip(made.record.windows) {
                            seen.flags = made.flags;
                            seen.scale = made.scale;
                        }
                    }
                    assert_eq!(made.record, seen, "{sent:?}");
                });
                assert_eq!(cookies.gauge(gauges::HALF_OPEN), 0);
                assert_eq!(cookies.gauge(gauges::COOKIES_ACCEPTED), 1);
            });
        }
    }
}

#[test]
fn answers_say_what_the_host_keeps() {
    with_host(COOKIES_ALWAYS, |host| {
        let answered = |host: &Host<'_>, sent: &[u8]| {
            host.syn(V4, sent, NOW);
            let answer = host.0.take_answer().expect("an answer");
            options(&answer, &parsed(&answer))
        };
        let milliseconds = 160_000_u32 * 1000 / 16;
        let value = (milliseconds & !0x3f) | 0x10 | 5;
        let value = if value > milliseconds {
            value - 0x40
        } else {
            value
        };
        let mut expected = vec![2, 4, 0x05, 0xb4, 4, 2, 8, 10];
        expected.extend(value.to_be_bytes());
        expected.extend([0, 0, 0, 7, 1, 3, 3, 7]);
        assert_eq!(answered(host, ALL), expected);
        // Nobody keeps a scale without a timestamp.
        assert_eq!(answered(host, SIZE_AND_SCALE), [2, 4, 0x05, 0x00]);
        assert_eq!(answered(host, &[]), []);
        let jumbo = [2, 4, 0x23, 0x28];
        assert_eq!(answered(host, &jumbo), [2, 4, 0x05, 0xb4]);
        host.0.settings.cookies.options = COOKIE_TIMESTAMPS;
        assert_eq!(answered(host, ALL).len(), 16);
        host.0.settings.cookies.options = COOKIE_SCALING | COOKIE_SACK;
        assert_eq!(answered(host, ALL), [2, 4, 0x05, 0xb4]);
    });
}

#[test]
fn ecn_is_answered_where_a_timestamp_keeps_it() {
    with_host(COOKIES_ALWAYS, |host| {
        for (sent, flags) in [(ALL, SYN | ACK | ECE), (SIZE_AND_SCALE, SYN | ACK)] {
            let segment = Tcp {
                sequence: SEQUENCE,
                flags: SYN | ECE | CWR,
                options: sent.to_vec(),
                ..Tcp::default()
            };
            host.send(V4, segment, NOW);
            let answer = host.0.take_answer().expect("an answer");
            assert_eq!(parsed(&answer).tcp_flags, flags);
        }
    });
}

#[test]
fn forged_and_old_cookies_are_refused() {
    with_host(COOKIES_ALWAYS, |host| {
        host.syn(V4, ALL, NOW);
        let answer = host.0.take_answer().expect("an answer");
        let cookie = parsed(&answer).tcp_sequence;
        let refused = |outcome: Outcome| {
            assert_eq!(outcome.reason, Some(Reason::CookieRefused));
            assert_eq!(
                (outcome.state, outcome.verdict),
                (State::Invalid, Verdict::Drop)
            );
        };
        refused(host.ack(V4, cookie ^ 1, None, NOW));
        refused(host.ack(Client { port: 4001, ..V4 }, cookie, None, NOW));
        refused(host.ack(V6, cookie, None, NOW));
        refused(host.ack(V4, cookie, None, NOW.after_seconds(2 * COOKIE_SECONDS)));
        assert!(host.records(NOW).is_empty());
        let taken = host.ack(V4, cookie, None, NOW.after_seconds(COOKIE_SECONDS / 2));
        assert_eq!(taken.state, State::Established);
    });
}

#[test]
fn only_what_rules_accept_for_this_host_is_answered() {
    with_host(COOKIES_ALWAYS, |host| {
        let (own, here) = addresses(Family::V4);
        let syn = |port: u16| {
            Body::Tcp(Tcp {
                source_port: 1,
                destination_port: port,
                flags: SYN,
                ..Tcp::default()
            })
        };
        let closed = Packet::new(own, here, syn(81)).ip();
        let outcome = host.judge(&closed, Path::Ingress, NOW);
        assert_eq!(outcome.reason, Some(Reason::PolicyDrop));
        let behind = Packet::new(own, "10.0.0.9".parse().expect("an address"), syn(80)).ip();
        let outcome = host.judge(&behind, Path::Ingress, NOW);
        assert_eq!(
            (outcome.state, outcome.verdict),
            (State::New, Verdict::Accept)
        );
        assert_eq!(host.0.take_answer(), None);
        assert_eq!(host.records(NOW).len(), 1);
        // An option of IP.
        let mut odd = Packet::new(own, here, syn(80)).ip();
        odd.splice(20..20, [1, 1, 1, 0]);
        odd[0] = 0x46;
        odd[3] += 4;
        (odd[10], odd[11]) = (0, 0);
        let sum = !keepstate_sim::packet::ones_complement_sum(&odd[..24]);
        odd[10..12].copy_from_slice(&sum.to_be_bytes());
        let outcome = host.judge(&odd, Path::Ingress, NOW);
        assert_eq!(outcome.reason, Some(Reason::CookieUnanswerable));
        // Not where nothing can be sent back.
        host.0.cookies = None;
        assert_eq!(host.syn(V4, ALL, NOW).verdict, Verdict::Accept);
    });
}

#[test]
fn cookies_begin_above_one_mark_and_end_at_another() {
    with_host(COOKIES_AUTO, |host| {
        host.0.settings.cookies.destination_high = 1000;
        host.0.settings.cookies.high = 10;
        host.0.settings.cookies.low = 4;
        let syn = |host: &Host<'_>, port| host.syn(Client { port, ..V4 }, ALL, NOW).reason;
        for port in 1..=11 {
            assert_eq!(syn(host, port), None);
        }
        assert_eq!(syn(host, 12), Some(Reason::CookieSent));
        let answer = host.0.take_answer().expect("an answer");
        let info = parse(
            &Bytes(&answer),
            &arrival(&answer, Path::Ingress),
            &host.0.settings,
        );
        let cookie = info.expect("a whole packet").tcp_sequence;
        let entries = host.records(NOW);
        let remove = |entry: &table::Entry| {
            assert!(table::remove(&host.0.flows, entry.place, entry.control));
        };
        entries.iter().take(6).for_each(remove);
        assert_eq!(host.gauge(gauges::HALF_OPEN), 5);
        assert_eq!(syn(host, 13), Some(Reason::CookieSent));
        entries.iter().skip(6).take(1).for_each(remove);
        assert_eq!(syn(host, 14), None);
        // What was sent before is good for as long as it is.
        let client = Client { port: 12, ..V4 };
        assert_eq!(
            host.ack(client, cookie, None, NOW).state,
            State::Established
        );
        let late = NOW.after_seconds(COOKIE_SECONDS + 1);
        let stranger = host.ack(Client { port: 99, ..V4 }, 1, None, late);
        assert_ne!(stranger.reason, Some(Reason::CookieRefused));
    });
}

/// A destination is an address and a port.
#[test]
fn cookies_are_sent_for_the_destination_that_has_too_many() {
    with_host(COOKIES_AUTO, |host| {
        host.0.settings.cookies.high = 1000;
        host.0.settings.cookies.destination_high = 3;
        host.0.settings.cookies.destination_low = 1;
        for (pressed, other) in [(V4, V6), (V6, V4)] {
            let syn = |port| host.syn(Client { port, ..pressed }, ALL, NOW).reason;
            for port in 1..=4 {
                assert_eq!(syn(port), None);
            }
            assert_eq!(syn(5), Some(Reason::CookieSent));
            // It has a record: TCP answers it as it did before.
            assert_eq!(syn(1), None);
            let port = 100 + u16::from(pressed.family == Family::V6);
            assert_eq!(host.syn(Client { port, ..other }, ALL, NOW).reason, None);
            assert_eq!(table::pressure(&host.0.flows), (4, 1));
            let entries = host.records(NOW);
            let of_pressed = |entry: &&table::Entry| entry.key.family == pressed.family;
            for entry in entries.iter().filter(of_pressed).take(3) {
                assert_eq!(syn(6), Some(Reason::CookieSent));
                assert!(table::remove(&host.0.flows, entry.place, entry.control));
            }
            assert_eq!(syn(7), None);
            for entry in host.records(NOW) {
                assert!(table::remove(&host.0.flows, entry.place, entry.control));
            }
            assert_eq!(table::pressure(&host.0.flows), (0, 0));
            assert_eq!(syn(8), None);
            for entry in host.records(NOW) {
                assert!(table::remove(&host.0.flows, entry.place, entry.control));
            }
        }
    });
}

/// Whoever answers, is refused, gives way to another or expires is half-open no more.
#[test]
fn half_open_connections_are_counted_by_destination() {
    with_host(0, |host| {
        let counted = || table::pressure(&host.0.flows).0;
        let answer = |client: Client, flags| {
            let (own, here) = addresses(client.family);
            let segment = Tcp {
                source_port: 80,
                destination_port: client.port,
                sequence: 1,
                acknowledgement: SEQUENCE.wrapping_add(1),
                flags,
                ..Tcp::default()
            };
            let packet = Packet::new(here, own, Body::Tcp(segment)).ip();
            host.judge(&packet, Path::Local, NOW);
        };
        for client in [V4, V6] {
            host.syn(client, ALL, NOW);
            host.syn(client, ALL, NOW);
            assert_eq!(counted(), 1);
            answer(client, SYN | ACK);
            assert_eq!(counted(), 1);
            host.ack(client, 1, None, NOW);
            assert_eq!(counted(), 0);
            let refused = Client { port: 5, ..client };
            host.syn(refused, ALL, NOW);
            answer(refused, ACK | RST);
            assert_eq!(counted(), 0);
        }
        for port in 1..=1000 {
            host.syn(Client { port, ..V4 }, ALL, NOW);
        }
        let half_open = host.gauge(gauges::HALF_OPEN);
        assert!(half_open > 100 && host.gauge(gauges::EVICTED) > 500);
        assert_eq!(counted(), half_open);
        let late = NOW.after_seconds(1000);
        let [buckets, _] = host.0.settings.buckets;
        table::sweep(&host.0.flows, Family::V4, 0..buckets, late, |_| {});
        assert_eq!((counted(), host.gauge(gauges::HALF_OPEN)), (0, 0));
    });
}

/// Where the host's TCP keeps the last connection in TIME-WAIT, a segment with a cookie would be taken for one of it.
#[test]
fn a_syn_after_time_wait_goes_to_the_host() {
    with_host(COOKIES_ALWAYS, |host| {
        for client in [V4, V6] {
            let (own, server) = addresses(client.family);
            host.syn(client, ALL, NOW);
            let answer = host.0.take_answer().expect("a SYN-ACK");
            let info = parsed(&answer);
            let (cookie, told) = (info.tcp_sequence, options(&answer, &info));
            let stamp = u32::from_be_bytes(told[8..12].try_into().expect("four"));
            assert_eq!(
                host.ack(client, cookie, Some(stamp), NOW).verdict,
                Verdict::Accept
            );
            let (next, theirs) = (SEQUENCE.wrapping_add(11), cookie.wrapping_add(1));
            let answers = |sequence: u32, acknowledgement: u32, flags: u8| {
                let segment = Tcp {
                    source_port: 80,
                    destination_port: client.port,
                    sequence,
                    acknowledgement,
                    flags,
                    window: 501,
                    ..Tcp::default()
                };
                let packet = Packet::new(server, own, Body::Tcp(segment));
                host.judge(&packet.ip(), Path::Local, NOW)
            };
            let says = |sequence: u32, acknowledgement: u32, flags: u8| {
                let segment = Tcp {
                    sequence,
                    acknowledgement,
                    flags,
                    ..Tcp::default()
                };
                host.send(client, segment, NOW)
            };
            answers(theirs, next, FIN | ACK);
            says(next, theirs.wrapping_add(1), FIN | ACK);
            let last = answers(theirs.wrapping_add(1), next.wrapping_add(1), ACK);
            assert_eq!(last.tcp_state, Some(TcpState::TimeWait));

            let again = says(SEQUENCE.wrapping_add(1_000_000), 0, SYN);
            assert_eq!((again.verdict, again.state), (Verdict::Accept, State::New));
            assert_eq!(again.tcp_state, Some(TcpState::SynSent));
            assert_eq!(host.0.take_answer(), None);
            // The next client gets its cookie.
            let other = Client {
                port: 4001,
                ..client
            };
            host.syn(other, ALL, NOW);
            assert!(host.0.take_answer().is_some());
        }
    });
}
