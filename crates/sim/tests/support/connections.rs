//! What `connlimit` counts, here and with Linux: a mix of connections that begin, answer and end, packet by packet through a
//! namespace that forwards them, and the same counters afterwards.
//!
//! Some connections stay up all the time, so that there is always something to count: where there is nothing, Linux drops the packet
//! and we do not (docs/rules.md).

use keepstate_engine::time::Tick;
use keepstate_engine::tuple::Family;
use keepstate_engine::verdict::Hook;
use keepstate_flowmemory::{Accounting, OwnedTable};
use keepstate_policy::model::Counters;
use keepstate_policy::{Policy, compile};
use keepstate_sim::plane::Plane;
use keepstate_sim::traffic::Random;
use keepstate_testkit::{Namespace, programs_or_skip, root_or_skip};

use super::beside_linux::{self, ARRIVAL, feed, send, store_counters};
use super::loaded::loaded;
use super::{FLOWS_MAX, parse, sum};

const FRAMES: usize = 700;

/// Linux looks for connections that are no more once a jiffy, of 10 ms at most: each packet has a jiffy of its own.
const BETWEEN_FRAMES: &str = "0.011";

const BOTH: &str = "
-p tcp --syn -m connlimit --connlimit-above 4
-p tcp --syn -m connlimit --connlimit-upto 3
-p tcp -m connlimit --connlimit-above 4
-p tcp -m connlimit --connlimit-upto 3
-p udplite -m connlimit --connlimit-above 2 --connlimit-daddr
-p udplite -m connlimit ! --connlimit-upto 4 --connlimit-mask 0
-p udplite -m conntrack --ctstate NEW -m connlimit --connlimit-above 2 --connlimit-daddr
-p tcp --syn -m connlimit --connlimit-above 14 --connlimit-mask 0 --connlimit-daddr
-p tcp -m connlimit --connlimit-above 0 --connlimit-daddr
-p tcp --syn -m connlimit --connlimit-above 12 --connlimit-mask @30 -j DROP
-p udplite -m connlimit --connlimit-above 5 --connlimit-mask @29 -j DROP
-m connlimit --connlimit-above 7 --connlimit-mask @31
-m connlimit --connlimit-above 15 --connlimit-mask 24
-m connlimit --connlimit-above 16 --connlimit-mask 20 --connlimit-daddr
-m conntrack --ctstate NEW -m connlimit --connlimit-above 7 --connlimit-mask @31
";

fn table(family: Family) -> String {
    // The last bits of an address.
    let rules = [29, 30, 31].iter().fold(BOTH.to_string(), |rules, bits| {
        let length = match family {
            Family::V4 => *bits,
            Family::V6 => 96 + bits,
        };
        rules.replace(&format!("@{bits}"), &length.to_string())
    });
    let lines = rules.lines().filter(|line| !line.is_empty());
    let rules: String = lines.map(|line| format!("-A FORWARD {line}\n")).collect();
    format!(
        "*filter\n:INPUT ACCEPT [0:0]\n:FORWARD ACCEPT [0:0]\n:OUTPUT DROP [0:0]\n{rules}COMMIT\n"
    )
}

#[test]
fn connlimit_counts_what_linux_counts() {
    const NAME: &str = "connlimit_counts_what_linux_counts";
    let programs = ["iptables", "ip6tables", "python3", "nsenter", "sysctl"];
    if !root_or_skip(NAME) || !programs_or_skip(NAME, &programs) {
        return;
    }
    let frames = frames();
    let mut policy = Policy::default();
    for family in [Family::V4, Family::V6] {
        policy.merge(parse(&table(family), family));
    }
    judge(&mut policy, &frames);

    let namespace = Namespace::new("connlimit");
    prepare(&namespace);
    send(&namespace, "filter", &frames, BETWEEN_FRAMES);
    let mut differences = String::new();
    for (family, program) in [(Family::V4, "iptables"), (Family::V6, "ip6tables")] {
        let saved = namespace.run(&format!("{program}-save"), &["-c", "-t", "filter"]);
        let theirs = counters(&parse(&saved, family).policy, family);
        let ours = counters(&policy, family);
        assert_eq!(ours.len(), theirs.len());
        for ((line, ours), (_, theirs)) in ours.iter().zip(&theirs) {
            println!("{program} {line}: {}", ours.packets);
            if ours != theirs || ours.packets == 0 {
                differences += &format!("{program} {line}: {ours:?}, Linux {theirs:?}\n");
            }
        }
    }
    assert!(differences.is_empty(), "{differences}");
}

fn counters(policy: &Policy, family: Family) -> Vec<(String, Counters)> {
    let chain = policy.ruleset(family).filter.builtin(Hook::Forward);
    let line = |rule| keepstate_policy::Specification(rule).to_string();
    let rules = chain.rules.iter();
    rules.map(|rule| (line(rule), rule.counters)).collect()
}

fn judge(policy: &mut Policy, frames: &[Vec<u8>]) {
    let compiled = compile(policy).expect("the rules compile");
    let mut settings = beside_linux::settings(FLOWS_MAX);
    // The clock of the simulator goes by sixteenths of a second, Linux has them all within some seconds.
    for timeout in &mut settings.timeouts {
        *timeout = timeout.saturating_mul(10).min(1 << 23);
    }
    let memory = OwnedTable::new(settings.buckets, Accounting::No)
        .with_conditions(compiled.conditions.len())
        .with_meters();
    let plane = Plane::new(memory.as_slices(), settings, loaded(&compiled), ());
    for (frame, number) in frames.iter().zip(1_000..) {
        plane.judge(frame, &ARRIVAL, Tick(number));
    }
    store_counters(&compiled, policy, &plane);
}

/// What comes by `receiver` leaves by a device on whose other end it is for nobody.
fn prepare(namespace: &Namespace) {
    beside_linux::connect(namespace);
    beside_linux::forward(namespace, &["192.0.2.1/32 dev nowhere"]);
    for (program, family) in [("iptables", Family::V4), ("ip6tables", Family::V6)] {
        let mut restore = namespace.command(&format!("{program}-restore"));
        feed(&mut restore, &table(family));
    }
}

/// A connection, and how far it has come.
#[derive(Clone, Copy)]
struct Connection {
    v6: bool,
    is_tcp: bool,
    client: u8,
    server: u8,
    port: u16,
    step: usize,
}

/// Handshake and end of a TCP connection: whether the client sends, flags, number, acknowledgement.
const STEPS: [(bool, u8, u32, u32); 6] = [
    (true, 0x02, 1000, 0),
    (false, 0x12, 5000, 1001),
    (true, 0x10, 1001, 5001),
    (true, 0x11, 1001, 5001),
    (false, 0x11, 5001, 1002),
    (true, 0x10, 1002, 5002),
];
const RESET: (bool, u8, u32, u32) = (true, 0x04, 1001, 0);

/// A connection of each client to each server, which never ends.
fn standing() -> Vec<Vec<u8>> {
    let mut frames = Vec::new();
    for number in 0..20 {
        let connection = Connection {
            v6: number % 2 == 0,
            is_tcp: true,
            client: number / 2 % 5,
            server: number / 10,
            port: 1_000,
            step: 0,
        };
        for (from_client, flags, number, acknowledged) in &STEPS[..3] {
            frames.push(frame(
                &connection,
                *from_client,
                (*flags, *number, *acknowledged),
            ));
        }
    }
    frames
}

fn frames() -> Vec<Vec<u8>> {
    let mut random = Random::new(23);
    let mut connections: Vec<Connection> = Vec::new();
    let mut frames = standing();
    while frames.len() < FRAMES {
        if connections.len() < 60 && random.happens(40) {
            connections.push(Connection {
                v6: random.happens(50),
                is_tcp: random.happens(65),
                client: random.below(5) as u8,
                server: random.below(2) as u8,
                port: 2000 + random.below(2_000) as u16,
                step: 0,
            });
        }
        if connections.is_empty() {
            continue;
        }
        let chosen = random.below(connections.len() as u64) as usize;
        let connection = &mut connections[chosen];
        let is_over = connection.step == STEPS.len();
        if is_over {
            connections.swap_remove(chosen);
            continue;
        }
        let (from_client, flags, number, acknowledged) = match connection.step {
            3.. if connection.is_tcp && random.happens(30) => {
                connection.step = STEPS.len() - 1;
                RESET
            }
            step => STEPS[step],
        };
        frames.push(frame(
            connection,
            from_client,
            (flags, number, acknowledged),
        ));
        // Some come twice.
        if random.happens(85) {
            connection.step += 1;
        }
    }
    frames
}

fn frame(connection: &Connection, from_client: bool, tcp: (u8, u32, u32)) -> Vec<u8> {
    let (flags, number, acknowledged) = tcp;
    let ports = [connection.port, 80];
    let [from, to] = if from_client {
        ports
    } else {
        [80, connection.port]
    };
    let mut transport = Vec::new();
    transport.extend(from.to_be_bytes());
    transport.extend(to.to_be_bytes());
    if connection.is_tcp {
        transport.extend(number.to_be_bytes());
        transport.extend(acknowledged.to_be_bytes());
        transport.extend([0x50, flags, 0x40, 0, 0, 0, 0, 0]);
    } else {
        transport.extend([0, 12, 1, 1, 1, 2, 3, 4]);
    }
    // UDP-Lite is ASSURED as soon as it is answered, UDP only once it has lasted.
    let protocol = if connection.is_tcp { 6 } else { 136 };
    let ends = [(1, connection.client), (2, connection.server)];
    let [source, destination] = if from_client {
        ends
    } else {
        [ends[1], ends[0]]
    };
    let mut packet = vec![2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2];
    if connection.v6 {
        packet.extend([0x86, 0xdd, 0x60, 0, 0, 0]);
        packet.extend((transport.len() as u16).to_be_bytes());
        packet.extend([protocol, 64]);
        for (network, host) in [source, destination] {
            packet.extend([0x20, 0x01, 0x0d, 0xb8, 0, network, 0, 0]);
            packet.extend([0, 0, 0, 0, 0, 0, 0, host]);
        }
    } else {
        packet.extend([0x08, 0x00]);
        let mut header = vec![0x45, 0];
        header.extend((20 + transport.len() as u16).to_be_bytes());
        header.extend([0, 1, 0, 0, 64, protocol, 0, 0]);
        for (network, host) in [source, destination] {
            header.extend([10, 0, network, host]);
        }
        let sum = sum(&header);
        header[10..12].copy_from_slice(&sum.to_be_bytes());
        packet.extend(header);
    }
    packet.extend(transport);
    packet
}

/// Where Linux 6.18 has nothing to count it drops: the answer to a FIN, or a reset, of a source's only connection. Here that is counted.
#[test]
fn the_last_packet_of_the_only_connection_is_counted() {
    let rules = "*filter\n:INPUT ACCEPT [0:0]\n:FORWARD DROP [0:0]\n:OUTPUT ACCEPT [0:0]\n\
        -A FORWARD -p tcp -m connlimit --connlimit-upto 1 -j ACCEPT\nCOMMIT\n";
    let mut policy = Policy::default();
    policy.merge(parse(rules, Family::V4));
    let mut connection = Connection {
        v6: false,
        is_tcp: true,
        client: 1,
        server: 1,
        port: 2_000,
        step: 0,
    };
    let step = |connection: &Connection, (from_client, flags, number, acknowledged)| {
        frame(connection, from_client, (flags, number, acknowledged))
    };
    let mut frames: Vec<_> = STEPS.iter().map(|one| step(&connection, *one)).collect();
    connection.port += 1;
    frames.extend(STEPS[..3].iter().map(|one| step(&connection, *one)));
    frames.push(step(&connection, RESET));
    judge(&mut policy, &frames);
    let counted = counters(&policy, Family::V4);
    assert_eq!(counted[0].1.packets, 10, "{counted:?}");
}
