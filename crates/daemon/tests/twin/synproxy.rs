//! SYNPROXY in both planes: clients and servers that say things in any order.

use std::collections::HashMap;
use std::net::IpAddr;

use keepstate_daemon::twin::Entry;
use keepstate_engine::settings::{COOKIES_AUTO, SETTING_SYNPROXY, SETTING_TCP_LOOSE};
use keepstate_engine::time::Tick;
use keepstate_engine::tuple::Family;
use keepstate_engine::verdict::Reason;
use keepstate_sim::build::{ACK, Body, CWR, ECE, FIN, PSH, Packet, RST, SYN, Tcp};
use keepstate_sim::traffic::Random;

use crate::pair::{Memory, Twins, part};
use crate::{compiled, ethernet};

const STEPS: usize = 12_000;

const RULES: &str = "*raw
-A PREROUTING -p tcp --dport 80:81 --syn -j CT --notrack
COMMIT
*filter
:INPUT DROP [0:0]
:FORWARD DROP [0:0]
:OUTPUT ACCEPT [0:0]
-A FORWARD -p tcp --dport 80 -m conntrack --ctstate INVALID,UNTRACKED -j SYNPROXY --sack-perm --timestamp --wscale 7 --mss 1460 --ecn
-A FORWARD -p tcp --dport 81 -m conntrack --ctstate INVALID,UNTRACKED -j SYNPROXY
-A FORWARD -m conntrack --ctstate ESTABLISHED,NEW -j ACCEPT
COMMIT
";

const CLIENT: u32 = 0xffff_fff0;
const SERVER: u32 = 0x1000;
const PORTS: u64 = 5;

type Peer = (Family, u16);

/// What a client knows of the answer to its SYN: cookie and timestamp.
type Answers = HashMap<(bool, u16), (u32, u32)>;

#[test]
fn synproxy_fares_alike() {
    if !keepstate_testkit::root_or_skip("synproxy_fares_alike") {
        return;
    }
    let memory = Memory::new();
    let policy = compiled(RULES);
    let mut twins = Twins::new(&memory, &policy);
    twins.change_settings(|settings| {
        settings.flags |= SETTING_SYNPROXY;
        settings.flags &= !SETTING_TCP_LOOSE;
        settings.synproxy.secrets = [[1, 2, 3, 4], [5, 6, 7, 8]];
    });
    let mut random = Random::new(77);
    let mut answers = Answers::new();
    let mut now = Tick(100_000);
    for step in 0..part(STEPS) {
        if step % (part(STEPS) / 4) == 0 {
            let mode = [0, COOKIES_AUTO][step / (part(STEPS) / 4) % 2];
            twins.change_settings(|settings| {
                settings.synproxy.mode = mode;
                settings.cookies.destination_high = 2;
                settings.cookies.destination_low = 1;
            });
        }
        // A minute passes now and then, and makes a cookie old.
        now.0 += match random.below(200) {
            0 => 1_000,
            chance => u32::from(chance < 50),
        };
        let family = [Family::V4, Family::V6][random.below(2) as usize];
        let peer = (family, 4000 + random.below(PORTS) as u16);
        let (from_client, segment) = segment(
            &mut random,
            answers.get(&(family == Family::V4, peer.1)).copied(),
        );
        let mut frame = ethernet(&packet(peer, from_client, segment.clone()));
        if random.below(4) == 0 {
            leave_partial(&mut frame);
        }
        let before = twins.answered;
        twins.compare(&frame, Entry::IngressXdp, now, "synproxy");
        if twins.answered != before && segment.flags & (SYN | ACK) == SYN {
            let answer = twins.last_answer.clone().expect("there is one");
            let tcp = &answer[if family == Family::V4 { 20 } else { 40 }..];
            let word = |at: usize| u32::from_be_bytes(tcp[at..at + 4].try_into().expect("four"));
            let stamp = if tcp.len() >= 36 { word(28) } else { 0 };
            answers.insert((family == Family::V4, peer.1), (word(4), stamp));
        }
    }
    twins.compare_helpers("synproxy");
    for reason in [
        Reason::SynproxySent,
        Reason::SynproxyRefused,
        Reason::SynproxyEarly,
        Reason::SynproxyAnswered,
    ] {
        let count = twins.kernel.reason_counter(reason).expect("counters");
        println!("{count} {}", reason.name());
        assert!(count > 20 || part(STEPS) < STEPS, "{}", reason.name());
    }
    println!("{} changed", twins.changed);
    assert!(twins.changed > part(STEPS) / 5);
}

fn packet((family, port): Peer, from_client: bool, segment: Tcp) -> Vec<u8> {
    let [client, server] = match family {
        Family::V4 => ["10.0.0.2", "192.0.2.80"],
        Family::V6 => ["fd00::2", "2001:db8::80"],
    };
    let address = |text: &str| text.parse::<IpAddr>().expect("an address");
    let (client, server) = (address(client), address(server));
    // The rule for one of the two names options.
    let server_port = 80 + (port & 1);
    let (source, destination, ports) = match from_client {
        true => (client, server, (port, server_port)),
        false => (server, client, (server_port, port)),
    };
    let segment = Tcp {
        source_port: ports.0,
        destination_port: ports.1,
        window: 501 + port,
        ..segment
    };
    Packet::new(source, destination, Body::Tcp(segment)).ip()
}

/// What a client or a server may say, and mostly what fits.
fn segment(random: &mut Random, answer: Option<(u32, u32)>) -> (bool, Tcp) {
    let next = CLIENT.wrapping_add(1);
    let chance = random.below(100);
    let (cookie, stamp) = answer.unwrap_or((7, 7));
    let near = |random: &mut Random, number: u32| match random.below(6) {
        0 => number.wrapping_sub(1),
        1 => number.wrapping_add(random.below(40) as u32),
        2 if random.below(8) == 0 => random.below(1 << 32) as u32,
        _ => number,
    };
    let segment = match chance {
        0..12 => Tcp {
            sequence: CLIENT,
            flags: SYN | [0, ECE | CWR][random.below(2) as usize],
            options: syn_options(random),
            ..Tcp::default()
        },
        12..55 => Tcp {
            sequence: near(random, next),
            acknowledgement: near(random, cookie.wrapping_add(1)),
            flags: [ACK, ACK, ACK, ACK | PSH, ACK | FIN, RST, RST | ACK][random.below(7) as usize],
            options: options(random, stamp, cookie),
            payload: vec![1; [0, 0, 7][random.below(3) as usize]],
            ..Tcp::default()
        },
        55..75 => Tcp {
            sequence: SERVER,
            acknowledgement: next,
            flags: SYN | ACK,
            options: syn_options(random),
            ..Tcp::default()
        },
        _ => Tcp {
            sequence: near(random, SERVER.wrapping_add(1)),
            acknowledgement: near(random, next),
            flags: [ACK, ACK | PSH, ACK | FIN, RST | ACK][random.below(4) as usize],
            options: options(random, 9, next),
            payload: vec![2; [0, 5][random.below(2) as usize]],
            ..Tcp::default()
        },
    };
    (chance < 55, segment)
}

fn syn_options(random: &mut Random) -> Vec<u8> {
    const ALL: &[u8] = &[
        2, 4, 0x05, 0x78, 4, 2, 8, 10, 0, 0, 0, 7, 0, 0, 0, 0, 1, 3, 3, 5,
    ];
    const NO_STAMPS: &[u8] = &[2, 4, 0x05, 0x78, 1, 3, 3, 2, 1, 1, 4, 2];
    match random.below(7) {
        0 => NO_STAMPS.to_vec(),
        1 => NO_STAMPS[..8].to_vec(),
        which => ALL[..[0, 4, 16, 20, 20][which as usize - 2]].to_vec(),
    }
}

/// Timestamps, blocks, both, at any byte, and what is no option.
fn options(random: &mut Random, echo: u32, edge: u32) -> Vec<u8> {
    let mut options = vec![1; random.below(4) as usize];
    if random.below(3) != 0 {
        options.extend([8, 10]);
        options.extend((random.below(9) as u32).to_be_bytes());
        options.extend(echo.to_be_bytes());
    }
    let blocks = random.below(3) as u8;
    if blocks != 0 {
        options.extend([5, 2 + 8 * blocks]);
        for number in 0..u32::from(blocks) * 2 {
            options.extend(edge.wrapping_add(number * 5).to_be_bytes());
        }
    }
    if random.below(20) == 0 {
        options.extend([random.below(256) as u8, random.below(256) as u8]);
    }
    options.truncate(40);
    options.resize(options.len().next_multiple_of(4), 0);
    options
}

/// Leaves the sum of the pseudo-header in the checksum, as a local peer does.
fn leave_partial(frame: &mut [u8]) {
    let is_v4 = frame[12] == 8;
    let (addresses, tcp) = if is_v4 { (26..34, 34) } else { (22..54, 54) };
    let words = frame[addresses].chunks(2);
    let sum: u32 = words
        .map(|pair| u32::from(pair[0]) << 8 | u32::from(pair[1]))
        .sum();
    let mut sum = sum + 6 + (frame.len() - tcp) as u32;
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    frame[tcp + 16..tcp + 18].copy_from_slice(&(sum as u16).to_be_bytes());
}
