//! Datagrams in fragments through a gateway that drops INVALID packets, answered by a real peer, and forged
//! ones. In namespaces of the test's own; skipped where there are no rights for it.

#[path = "support/both_families.rs"]
mod both_families;
#[path = "support/program.rs"]
mod program;
#[path = "support/routed.rs"]
mod routed;

use keepstate_testkit::{Namespace, programs_or_skip, root_or_skip};

const CLIENT_V4: &str = "10.81.1.2";
const GATEWAY_V4: &str = "10.81.1.1";
const SERVER_V4: &str = "10.81.2.2";
const SERVER_V6: &str = "fd81:2::2";
const GATEWAY_V6: &str = "fd81:1::1";

/// Port 7000 is open, 7001 is not; both are answered behind the gateway.
const RULES: &str = "*filter
:INPUT DROP [0:0]
:FORWARD DROP [0:0]
:OUTPUT DROP [0:0]
-A INPUT -m conntrack --ctstate INVALID -j DROP
-A INPUT -m conntrack --ctstate ESTABLISHED,RELATED -j ACCEPT
-A INPUT -m conntrack --ctstate UNTRACKED -j ACCEPT
-A INPUT -p ICMP -m conntrack --ctstate NEW -j ACCEPT
-A FORWARD -m conntrack --ctstate INVALID -j DROP
-A FORWARD -m conntrack --ctstate ESTABLISHED,RELATED -j ACCEPT
-A FORWARD -p udp --dport 7000 -m conntrack --ctstate NEW -j ACCEPT
-A FORWARD -p ICMP -m conntrack --ctstate NEW -j ACCEPT
-A OUTPUT -m conntrack --ctstate INVALID -j DROP
-A OUTPUT -j ACCEPT
COMMIT
";

const ECHO: &str = "
import select, socket
sockets = []
for family, any in ((socket.AF_INET, '0.0.0.0'), (socket.AF_INET6, '::')):
    for port in (7000, 7001):
        s = socket.socket(family, socket.SOCK_DGRAM)
        if family == socket.AF_INET6:
            s.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        s.bind((any, port))
        sockets.append(s)
while True:
    for s in select.select(sockets, [], [])[0]:
        data, peer = s.recvfrom(65536)
        s.sendto(data, peer)
";

/// Asks a server; fails unless it answers with the same bytes.
const ASK: &str = "
import os, socket, sys
address, port, size = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
family = socket.AF_INET6 if ':' in address else socket.AF_INET
s = socket.socket(family, socket.SOCK_DGRAM)
s.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 20)
s.settimeout(float(sys.argv[4]))
data = os.urandom(size)
s.sendto(data, (address, port))
sys.exit(s.recvfrom(65536)[0] != data)
";

/// Sends parts of one datagram in fragments of its own making, and fails unless it is answered.
/// Arguments: the receiver, its port, identification, and parts as FROM-UPTO in bytes, `+` behind all but
/// the last. `!` before a part spoils its bytes.
const FORGE: &str = "
import socket, struct, sys
address, port, ident = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
answers = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
answers.bind(('0.0.0.0', 0))
answers.settimeout(1)
raw = socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_RAW)
length = max(int(part.strip('+!').split('-')[1]) for part in sys.argv[4:])
whole = struct.pack('>HHHH', answers.getsockname()[1], port, length, 0)
whole += bytes(at % 251 for at in range(length - 8))
for part in sys.argv[4:]:
    start, end = (int(number) for number in part.strip('+!').split('-'))
    data = whole[start:end]
    if part.startswith('!'):
        data = bytes(byte ^ 255 for byte in data)
    flags = start // 8 | (0x2000 if part.endswith('+') else 0)
    header = struct.pack('>BBHHHBBH4s4s', 0x45, 0, 20 + len(data), ident, flags, 64, 17, 0,
        socket.inet_aton('10.81.1.2'), socket.inet_aton(address))
    raw.sendto(header + data, (address, 0))
sys.exit(answers.recvfrom(65536)[0] != whole[8:])
";

struct Network {
    client: Namespace,
    gateway: Namespace,
    server: Namespace,
    directory: std::path::PathBuf,
    instance: String,
}

impl Network {
    fn new() -> Self {
        let devices = ["outer", "inner"];
        let [client, gateway, server] = routed::routed(81, devices);
        let instance = format!("test-{}-fragments", std::process::id());
        let directory = both_families::up(&gateway, &instance, &devices, RULES);
        Self {
            client,
            gateway,
            server,
            directory,
            instance,
        }
    }

    #[track_caller]
    fn succeeds(&self, arguments: &[&str]) -> String {
        program::succeeds(&self.gateway, &self.instance, arguments)
    }

    fn status(&self) -> serde_json::Value {
        serde_json::from_str(&self.succeeds(&["status", "--json"])).expect("status is JSON")
    }

    fn counted(&self, reason: &str) -> u64 {
        self.status()["traffic"]["reasons"][reason]
            .as_u64()
            .unwrap_or(0)
    }

    fn asks(&self, address: &str, port: &str, size: &str, seconds: &str) -> bool {
        let arguments = ["-c", ASK, address, port, size, seconds];
        self.client.succeeds("python3", &arguments)
    }

    /// Whether a datagram in these parts is answered.
    fn forges(&self, identification: &str, parts: &[&str]) -> bool {
        let to = ["-c", FORGE, SERVER_V4, "7000", identification];
        self.client.succeeds("python3", &[&to[..], parts].concat())
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        let _ = program::keepstate(&self.gateway, &self.instance, &["down"]);
        let _ = std::fs::remove_dir_all(&self.directory);
    }
}

#[test]
fn large_datagrams_pass_and_forged_ones_do_not() {
    const NAME: &str = "large_datagrams_pass_and_forged_ones_do_not";
    if !root_or_skip(NAME) || !programs_or_skip(NAME, &["ip", "ping", "nsenter", "python3"]) {
        return;
    }
    let network = Network::new();
    let _echo = network.server.spawn("python3", &["-c", ECHO]);
    let answers = || network.asks(SERVER_V4, "7000", "10", "1");
    assert!((0..20).any(|_| answers()), "the peer does not answer");
    whole_datagrams_pass(&network);
    orders(&network);
    forgeries(&network);
    let shown = network.succeeds(&["status"]);
    assert!(shown.contains("\nfragments   "), "{shown}");
}

fn whole_datagrams_pass(network: &Network) {
    for server in [SERVER_V4, SERVER_V6] {
        for size in ["4000", "60000"] {
            assert!(
                network.asks(server, "7000", size, "3"),
                "{size} bytes to {server} are not answered"
            );
            assert!(
                !network.asks(server, "7001", size, "0.5"),
                "{size} bytes to the shut port of {server} are answered"
            );
        }
    }
    // Forwarded, and to and from the gateway itself: INPUT and OUTPUT.
    for to in [SERVER_V4, SERVER_V6, GATEWAY_V4, GATEWAY_V6] {
        let ping = ["-c", "2", "-i", "0.2", "-W", "3", "-s", "8000", to];
        network.client.run("ping", &ping);
    }
    let ping = ["-c", "1", "-W", "3", "-s", "8000", CLIENT_V4];
    network.gateway.run("ping", &ping);
    let unfinished = network.status()["table"]["fragments"].as_u64();
    assert_eq!(unfinished, Some(0), "datagrams are left unfinished");
}

fn orders(network: &Network) {
    assert!(network.forges("100", &["0-64+", "64-128+", "128-150"]));
    assert!(network.forges("101", &["0-64+", "128-150", "64-128+"]));
    // Ahead of the first one, after a datagram that was let through.
    assert!(network.forges("102", &["128-150", "64-128+", "0-64+"]));
    assert!(network.forges("103", &["0-64+", "0-64+", "64-128+", "64-128+", "128-150"]));
}

fn forgeries(network: &Network) {
    for (reason, identification, parts) in [
        (
            "fragment_overlap",
            "200",
            &["0-64+", "!56-128+", "128-150"][..],
        ),
        ("fragment_overlap", "201", &["0-64+", "64-128+", "!120-150"]),
        (
            "fragment_bad_end",
            "202",
            &["0-64+", "128-150", "!144-168", "64-128+"],
        ),
        ("fragment_bad_length", "203", &["0-61+", "64-150"]),
    ] {
        let before = network.counted(reason);
        assert!(
            !network.forges(identification, parts),
            "{parts:?} is answered"
        );
        assert!(network.counted(reason) > before, "{reason} is not counted");
    }
    // What was seen comes again with other bytes: the first ones count.
    let before = network.counted("fragment_duplicate");
    assert!(network.forges("204", &["0-64+", "64-128+", "!64-128+", "128-150"]));
    assert!(network.counted("fragment_duplicate") > before);
}
