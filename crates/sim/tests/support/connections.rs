//! What `connlimit` counts, here and with Linux: a mix of connections that begin, answer and end, packet by packet through a
//! namespace that forwards them, and the same counters afterwards.
//!
//! The rules ask it of first packets. Asked of later ones, and where a rule drops SYNs, it does not count as Linux does in all
//! cases yet: see docs/rules.md.

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
-p tcp --syn -m connlimit --connlimit-above 3
-p tcp --syn -m connlimit --connlimit-upto 1
-p udp -m conntrack --ctstate NEW -m connlimit --connlimit-above 2 --connlimit-daddr
-p udp -m conntrack --ctstate NEW -m connlimit ! --connlimit-upto 4 --connlimit-mask 0
-p tcp --syn -m connlimit --connlimit-above 4 --connlimit-mask 0 --connlimit-daddr
-p tcp --syn -m connlimit --connlimit-above 0 --connlimit-daddr
";

const V4: &str = "
-p tcp --syn -m connlimit --connlimit-above 4 --connlimit-mask 30
-p udp -m conntrack --ctstate NEW -m connlimit --connlimit-above 5 --connlimit-mask 29 -j DROP
-m conntrack --ctstate NEW -m connlimit --connlimit-above 3 --connlimit-mask 31
-m conntrack --ctstate NEW -m connlimit --connlimit-above 5 --connlimit-mask 24
";

const V6: &str = "
-p tcp --syn -m connlimit --connlimit-above 4 --connlimit-mask 126
-p udp -m conntrack --ctstate NEW -m connlimit --connlimit-above 5 --connlimit-mask 125 -j DROP
-m conntrack --ctstate NEW -m connlimit --connlimit-above 3 --connlimit-mask 127
-m conntrack --ctstate NEW -m connlimit --connlimit-above 5 --connlimit-mask 64
-m conntrack --ctstate NEW -m connlimit --connlimit-above 6 --connlimit-mask 48 --connlimit-daddr
";

fn table(family: Family) -> String {
    let own = match family {
        Family::V4 => V4,
        Family::V6 => V6,
    };
    let rules = format!("{BOTH}{own}");
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
    for words in [
        "link add name sender type veth peer name receiver",
        "link add name nowhere type veth peer name void",
        "link set nowhere arp off",
        "link set void up",
        "link set dev receiver address 02:00:00:00:00:01",
        "link set sender up",
        "link set receiver up",
        "link set nowhere up",
        "address add 192.0.2.1/32 dev nowhere",
        "route add default dev nowhere",
        "-6 route add default dev nowhere",
    ] {
        let words: Vec<_> = words.split(' ').collect();
        namespace.run("ip", &words);
    }
    for (program, family) in [("iptables", Family::V4), ("ip6tables", Family::V6)] {
        let mut restore = namespace.command(&format!("{program}-restore"));
        feed(&mut restore, &table(family));
    }
    for assignment in [
        "net.ipv4.ip_forward=1",
        "net.ipv6.conf.all.forwarding=1",
        "net.ipv4.conf.all.rp_filter=0",
        "net.ipv4.conf.receiver.rp_filter=0",
        "net.netfilter.nf_conntrack_checksum=0",
    ] {
        namespace.run("sysctl", &["-q", "-w", assignment]);
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

fn frames() -> Vec<Vec<u8>> {
    let mut random = Random::new(23);
    let mut connections: Vec<Connection> = Vec::new();
    let mut frames = Vec::new();
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
        transport.extend([0, 12, 0, 0, 1, 2, 3, 4]);
    }
    let protocol = if connection.is_tcp { 6 } else { 17 };
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
