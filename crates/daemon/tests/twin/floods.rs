//! Bans and SYN cookies in both planes.

use std::net::IpAddr;

use keepstate_daemon::twin::Entry;
use keepstate_engine::ban::{self, Kind, Network, RATE_LENGTH_MAX};
use keepstate_engine::limits::FORMS_MAX;
use keepstate_engine::rate::Rate;
use keepstate_engine::refusal::{FORM_FRAGMENT, FORM_PROTOCOL, FORM_V4, FORM_V6, Form, form_range};
use keepstate_engine::settings::{
    COOKIE_ECN, COOKIE_SACK, COOKIE_SCALING, COOKIE_TIMESTAMPS, COOKIES_ALWAYS, COOKIES_AUTO,
    SETTING_BANS, SETTING_COOKIES, SETTING_FORMS,
};
use keepstate_engine::table::gauges;
use keepstate_engine::time::Tick;
use keepstate_engine::tuple::Family;
use keepstate_engine::verdict::{Hook, Reason};
use keepstate_flowmemory::{FamilySlices, SliceTable};
use keepstate_sim::build::{ACK, Body, CWR, ECE, FIN, Packet, RST, SYN, Tcp};
use keepstate_sim::locals::{LocalAddress, Locals};
use keepstate_sim::packet::ones_complement_sum;
use keepstate_sim::traffic::{Mood, Random, Traffic};

use crate::pair::{Memory, Twins};
use crate::{compiled, ethernet, policy};

const PACKETS: usize = 20_000;

#[test]
fn bans_fare_alike() {
    if !keepstate_testkit::root_or_skip("bans_fare_alike") {
        return;
    }
    let memory = Memory::new();
    let mut twins = Twins::new(&memory, &policy());
    let mut random = Random::new(5);
    twins.change_settings(|settings| {
        settings.flags |= SETTING_BANS;
        settings.bans.lengths[ban::list(Kind::Ban, Family::V4)][..3].copy_from_slice(&[32, 31, 29]);
        settings.bans.lengths[ban::list(Kind::Ban, Family::V6)][..3]
            .copy_from_slice(&[128, 127, 64]);
        for kind in [Kind::Exempt, Kind::Spared] {
            settings.bans.lengths[ban::list(kind, Family::V4)][0] = 32;
            settings.bans.lengths[ban::list(kind, Family::V6)][0] = 128;
        }
    });
    for (number, packet) in Traffic::new(31, Mood::Hostile).take(PACKETS).enumerate() {
        let now = Tick::from_nanoseconds(packet.time_ns);
        if number % 50 == 0 {
            change_bans(&twins, &memory, &mut random, &packet.ip, now);
        }
        if number % 60 == 0 {
            change_forms(&mut twins, &mut random, &packet.ip, now);
        }
        let entry = match number / 512 % 4 {
            3 => Entry::EgressEthernet,
            2 => Entry::IngressTc,
            _ => Entry::IngressXdp,
        };
        twins.compare(&ethernet(&packet.ip), entry, now, "bans");
    }
    let banned = twins
        .kernel
        .reason_counter(Reason::Banned)
        .expect("counters");
    let counted = |reason| twins.kernel.reason_counter(reason).expect("counters");
    let (limited, formed) = (counted(Reason::Limited), counted(Reason::FormRefused));
    println!("{banned} of {PACKETS} banned, {limited} beyond a limit, {formed} of a form");
    assert!(banned > 500 && banned < PACKETS as u64 / 2);
    assert!(limited > 100 && formed > 60);
}

/// Bans, spares or releases a network of a packet's sender, in both planes.
fn change_bans(twins: &Twins<'_>, memory: &Memory, random: &mut Random, ip: &[u8], now: Tick) {
    let settings = twins.native.settings;
    let kernel = SliceTable::new([FamilySlices::NONE; 2], &[]);
    let kernel = kernel.with_bans(twins.kernel.kernel.maps.bans.words());
    let word = |at: usize| {
        let bytes = ip.get(at..at + 4).unwrap_or(&[0; 4]);
        u32::from_be_bytes(bytes.try_into().expect("four bytes"))
    };
    let kind = match random.below(6) {
        0 => Kind::Exempt,
        1 => Kind::Spared,
        _ => Kind::Ban,
    };
    let choose = |lengths: [u8; 3], random: &mut Random| match kind {
        Kind::Ban => lengths[random.below(3) as usize],
        Kind::Exempt | Kind::Spared => lengths[0],
    };
    let (family, mut address, length) = if ip.first().is_some_and(|byte| byte >> 4 == 6) {
        let length = choose([128, 127, 64], random);
        (Family::V6, [8, 12, 16, 20].map(word), length)
    } else {
        let length = choose([32, 31, 29], random);
        (Family::V4, [word(12), 0, 0, 0], length)
    };
    match (family, length) {
        (Family::V4, length) => address[0] &= u32::MAX << (32 - length),
        (Family::V6, 127) => address[3] &= !1,
        (Family::V6, 64) => (address[2], address[3]) = (0, 0),
        _ => {}
    }
    let network = Network {
        family,
        address,
        length,
    };
    let may_be_limited = kind == Kind::Ban && length <= RATE_LENGTH_MAX;
    let entry = ban::Entry {
        network,
        kind,
        rate: (may_be_limited && random.below(2) == 0).then(|| Rate {
            flows: 1 + random.below(3) as u32,
            period: random.below(8) as u32,
            kinds: 1 + random.below(15) as u32,
        }),
        deadline: (random.below(4) != 0).then(|| Tick(now.0 + random.below(400) as u32)),
        began: now,
        cause: 1,
    };
    let releases = random.below(3) == 0;
    for flows in [memory.table(), kernel] {
        if releases {
            ban::remove(&flows, &settings, &network, kind);
        } else {
            ban::put(&flows, &settings, &entry);
        }
    }
}

/// Refuses what looks like a packet in some of its features, in both planes.
fn change_forms(twins: &mut Twins<'_>, random: &mut Random, ip: &[u8], now: Tick) {
    let mut form = Form {
        until: now.0 + 400,
        flags: [FORM_V4, FORM_V6, FORM_V4 | FORM_V6][random.below(3) as usize],
        ..Form::NONE
    };
    let byte = |at: usize| ip.get(at).copied().unwrap_or(0);
    let is_v6 = byte(0) >> 4 == 6;
    let (protocol, hop_limit) = if is_v6 {
        (byte(6), byte(7))
    } else {
        (byte(9), byte(8))
    };
    if random.below(2) == 0 {
        form.flags |= FORM_PROTOCOL;
        form.protocol = protocol.into();
    }
    match random.below(6) {
        0 => form.tcp_flags = [2 | 2 << 16, 18 | 2 << 16, 4 | 4 << 16][random.below(3) as usize],
        1 => form.flags |= FORM_FRAGMENT,
        2 => form.lengths = form_range(0, 60 + random.below(200) as u16),
        3 => form.source_ports = form_range(1024, random.below(65_536) as u16),
        4 => form.destination_ports = form_range(0, 1024),
        _ => form.hop_limits = form_range(hop_limit.into(), hop_limit.into()),
    }
    if random.below(3) == 0 && !is_v6 {
        let word = ip.get(16..20).unwrap_or(&[0; 4]);
        form.destination_mask[0] = u32::MAX << [0, 1, 8][random.below(3) as usize];
        let word = u32::from_be_bytes(word.try_into().expect("four bytes"));
        form.destination[0] = word ^ [0, 1, 256][random.below(3) as usize];
    }
    let place = random.below(u64::from(FORMS_MAX)) as usize;
    twins.change_settings(|settings| {
        settings.flags |= SETTING_FORMS;
        // Most packets go past all of them.
        settings.forms = [Form::NONE; FORMS_MAX as usize];
        settings.forms[place] = form;
        settings.forms[(place + 3) % FORMS_MAX as usize].until = now.0;
    });
}

const RULES: &str = "*filter
:INPUT DROP [0:0]
:OUTPUT ACCEPT [0:0]
-A INPUT -m conntrack --ctstate INVALID -j DROP
-A INPUT -m conntrack --ctstate ESTABLISHED -j ACCEPT
-A INPUT -p tcp --syn --dport 80:81 -m conntrack --ctstate NEW -j ACCEPT
-A INPUT -p tcp --dport 82 -m string --string x --algo bm -j DROP
-A INPUT -p tcp --dport 82 -j ACCEPT
COMMIT
";

/// Connections to this host: SYNs with all kinds of options, cookies brought back, forged and late, and what comes
/// after that; with cookies always, never and only in need.
#[test]
fn cookies_fare_alike() {
    if !keepstate_testkit::root_or_skip("cookies_fare_alike") {
        return;
    }
    let memory = Memory::new();
    let mut twins = Twins::new(&memory, &compiled(RULES));
    let local = |address: &str| address.parse::<LocalAddress>().expect("an address");
    twins.native.locals = Locals::new(vec![local("10.0.0.1"), local("fd00::1")]);
    twins.kernel.set_hook(Hook::Input);
    let mut random = Random::new(17);
    let mut clients = vec![Client::default(); 64];
    for number in 0..PACKETS {
        // Days pass now and then, so that connections end.
        let days = number as u32 / 250 * 6;
        let now = Tick(10_000 + number as u32 / 8).after_seconds(days * 86_400);
        if number % 1000 == 0 {
            let turn = number / 1000;
            twins.change_settings(|settings| {
                settings.flags |= SETTING_COOKIES;
                settings.cookies.mode = [COOKIES_ALWAYS, COOKIES_AUTO, 0, COOKIES_AUTO][turn % 4];
                settings.cookies.high = [8, 8, 8, 10_000][turn % 4];
                settings.cookies.low = 2;
                settings.cookies.destination_high = 4;
                settings.cookies.destination_low = 1;
                settings.cookies.options = [
                    COOKIE_TIMESTAMPS | COOKIE_SCALING | COOKIE_SACK,
                    0,
                    COOKIE_TIMESTAMPS | COOKIE_ECN,
                    COOKIE_TIMESTAMPS | COOKIE_SCALING,
                ][turn % 4];
            });
        }
        let index = random.below(clients.len() as u64) as usize;
        let (packet, is_egress) = clients[index].next(index, &mut random);
        let entry = if is_egress {
            Entry::EgressEthernet
        } else {
            Entry::IngressXdp
        };
        let mut frame = packet.ethernet();
        if index == 2 && !is_egress {
            give_option(&mut frame);
        }
        if index % 8 == 7 && !is_egress {
            frame.splice(12..12, [0x81, 0, 0, 9]);
        }
        let answered = twins.answered;
        twins.compare(&frame, entry, now, "cookies");
        if twins.answered > answered {
            let cookies = twins.last_answer.clone().expect("it was answered");
            clients[index].take(&cookies);
        }
    }
    let counted = |reason| twins.kernel.reason_counter(reason).expect("counters");
    let (sent, refused) = (counted(Reason::CookieSent), counted(Reason::CookieRefused));
    let unanswerable = counted(Reason::CookieUnanswerable);
    let accepted = twins.gauge(gauges::COOKIES_ACCEPTED);
    println!("{sent} sent, {accepted} accepted, {refused} refused, {unanswerable} unanswerable");
    assert!(sent > 500 && accepted > 150 && refused > 50 && unanswerable > 20);
    assert!(twins.compare_rule_counters() > 4);
}

/// An option of IPv4, which nobody sends.
fn give_option(frame: &mut Vec<u8>) {
    frame.splice(34..34, [1, 1, 1, 0]);
    frame[14] = 0x46;
    frame[17] += 4;
    (frame[24], frame[25]) = (0, 0);
    let sum = !ones_complement_sum(&frame[14..38]);
    frame[24..26].copy_from_slice(&sum.to_be_bytes());
}

/// How much a forged cookie is off. The next number would be the cookie of another segment size.
const FORGED: u32 = 1000;

#[derive(Clone, Copy, Default)]
struct Client {
    port: u16,
    sequence: u32,
    /// What the host sent last: its number and its timestamp.
    answer: Option<(u32, u32)>,
}

impl Client {
    /// Some next packet of the connection, and whether the host sends it.
    fn next(&mut self, index: usize, random: &mut Random) -> (Packet, bool) {
        let names = if index.is_multiple_of(2) {
            ["10.0.0.2", "10.0.0.1"]
        } else {
            ["fd00::2", "fd00::1"]
        };
        let [own, host] = names.map(|name| name.parse::<IpAddr>().expect("an address"));
        let mut segment = Tcp {
            source_port: self.port,
            destination_port: 80 + index as u16 % 4,
            sequence: self.sequence.wrapping_add(1),
            window: 500,
            ..Tcp::default()
        };
        match (random.below(10), self.answer) {
            (0..4, _) | (_, None) => {
                *self = Self {
                    port: 1024 + random.below(60_000) as u16,
                    sequence: random.number() as u32,
                    answer: None,
                };
                segment.source_port = self.port;
                segment.sequence = self.sequence;
                segment.flags = if random.below(3) == 0 {
                    SYN | ECE | CWR
                } else {
                    SYN
                };
                segment.options =
                    SYN_OPTIONS[random.below(SYN_OPTIONS.len() as u64) as usize].to_vec();
            }
            (choice @ 4..8, Some((number, timestamp))) => {
                segment.flags = ACK;
                segment.acknowledgement = number.wrapping_add(1 + FORGED * u32::from(choice == 4));
                segment.payload = vec![0; random.below(3) as usize * 8];
                if random.below(3) > 0 {
                    segment.options = vec![1, 1, 8, 10, 0, 0, 0, 1];
                    segment.options.extend(timestamp.to_be_bytes());
                }
            }
            (8, Some((number, _))) => {
                segment.flags = [FIN | ACK, RST][random.below(2) as usize];
                segment.acknowledgement = number.wrapping_add(1);
            }
            (_, Some((number, _))) => {
                std::mem::swap(&mut segment.source_port, &mut segment.destination_port);
                segment.flags = ACK;
                (segment.sequence, segment.acknowledgement) =
                    (number.wrapping_add(1), self.sequence.wrapping_add(1));
                return (Packet::new(host, own, Body::Tcp(segment)), true);
            }
        }
        (Packet::new(own, host, Body::Tcp(segment)), false)
    }

    /// Reads an answer, which has no IP options.
    fn take(&mut self, ip: &[u8]) {
        let tcp = if ip[0] >> 4 == 4 {
            &ip[20..]
        } else {
            &ip[40..]
        };
        let word = |at: usize| {
            tcp.get(at..at + 4).map_or(0, |bytes| {
                u32::from_be_bytes(bytes.try_into().expect("four"))
            })
        };
        self.answer = Some((word(4), word(28)));
    }
}

const SYN_OPTIONS: &[&[u8]] = &[
    &[],
    &[2, 4, 5, 0xb4],
    &[2, 4, 5, 0xb4, 1, 3, 3, 9, 1, 1, 4, 2],
    &[
        2, 4, 5, 0xb4, 4, 2, 8, 10, 0, 0, 0, 7, 0, 0, 0, 0, 1, 3, 3, 5,
    ],
    &[2, 4, 1, 0, 1, 1, 8, 10, 0, 0, 0, 7, 0, 0, 0, 0],
    &[8, 10, 0, 0, 0, 7, 0, 0, 0, 0, 3, 3],
];

/// Flows that nobody answers, most of them from two networks, with room for few.
#[test]
fn shares_of_what_is_half_open_fare_alike() {
    const FLOWS: u16 = 1_500;
    if !keepstate_testkit::root_or_skip("shares_of_what_is_half_open_fare_alike") {
        return;
    }
    let memory = Memory::new();
    let mut twins = Twins::new(&memory, &policy());
    twins.change_settings(|settings| settings.half_open_max = 96);
    let mut random = Random::new(8);
    for number in 0..FLOWS {
        let host = random.below(200);
        let (source, destination) = match random.below(8) {
            0 => (format!("100.{host}.{host}.9"), "10.0.0.1"),
            1..=3 => (format!("203.0.113.{host}"), "10.0.0.1"),
            4 => (format!("2001:db8:{host}::9"), "2001:db8::1"),
            _ => (format!("2001:db8:7777:{host}::9"), "2001:db8::1"),
        };
        let [source, destination]: [IpAddr; 2] =
            [&*source, destination].map(|text| text.parse().expect("an address"));
        let body = Body::Udp(keepstate_sim::build::Udp {
            source_port: 1024 + number,
            destination_port: 4000,
            payload: vec![0; 8],
        });
        let packet = Packet::new(source, destination, body).ip();
        let now = Tick(1_000 + u32::from(number));
        twins.compare(&ethernet(&packet), Entry::IngressXdp, now, "shares");
    }
    let (evicted, half_open) = (twins.gauge(gauges::EVICTED), twins.gauge(gauges::HALF_OPEN));
    println!("{evicted} of {FLOWS} beyond their network's share, {half_open} half-open");
    // A sixteenth more, where a flow's buckets have none that could go for it.
    assert!(evicted > 100 && half_open <= 96 + 6);
}
