//! SYNPROXY on a gateway between real clients and a real server, with forged packets and lost ones. In namespaces of the
//! test's own; skipped where there are no rights for it.

#[path = "support/both_families.rs"]
mod both_families;
#[path = "support/program.rs"]
mod program;
#[path = "support/routed.rs"]
mod routed;

use keepstate_testkit::{Namespace, programs_or_skip, root_or_skip};
use serde_json::Value;

const SERVER_V4: &str = "10.97.2.2";
const SERVER_V6: &str = "fd97:2::2";
const PORT: u16 = 8080;

const RULES: &str = "*raw
-A PREROUTING -i eth0 -p tcp --syn --dport 8080:8081 -j CT --notrack
COMMIT
*filter
:INPUT ACCEPT [0:0]
:FORWARD DROP [0:0]
:OUTPUT ACCEPT [0:0]
-A FORWARD -i eth0 -p tcp --dport 8080:8081 -m conntrack --ctstate INVALID,UNTRACKED -j SYNPROXY --sack-perm --timestamp --wscale 10 --mss 1440
-A FORWARD -m conntrack --ctstate INVALID -j DROP
-A FORWARD -m conntrack --ctstate ESTABLISHED,RELATED -j ACCEPT
-A FORWARD -p ICMP -j ACCEPT
COMMIT
";

/// Sends back what it gets until its peer has said all, and then a digest of it.
const SERVE: &str = "
import hashlib, socket, threading
s = socket.create_server(('::', 8080), family=socket.AF_INET6, dualstack_ipv6=True, backlog=64)
def serve(c):
    digest = hashlib.sha256()
    try:
        c.sendall(b'hello')
        while data := c.recv(65536):
            digest.update(data)
            c.sendall(data)
        c.sendall(digest.digest())
    except OSError:
        pass
    c.close()
while True:
    threading.Thread(target=serve, args=(s.accept()[0],)).start()
";

/// Sends so many bytes, and fails unless they come back, with their digest, within the given seconds. Lets the server
/// speak first unless there is a fourth argument.
const TALK: &str = "
import hashlib, os, socket, sys, threading
address, count, seconds = sys.argv[1], int(sys.argv[2]), float(sys.argv[3])
s = socket.create_connection((address, 8080), seconds)
s.settimeout(seconds)
sent = hashlib.sha256()
def send():
    left = count
    while left:
        data = os.urandom(min(left, 65536))
        sent.update(data)
        s.sendall(data)
        left -= len(data)
    s.shutdown(socket.SHUT_WR)
sender = threading.Thread(target=send)
if len(sys.argv) > 4:
    sender.start()
greeting = b''
while len(greeting) < 5:
    greeting += s.recv(5 - len(greeting))
if len(sys.argv) <= 4:
    sender.start()
came, tail, length = hashlib.sha256(), b'', 0
while data := s.recv(65536):
    length += len(data)
    tail += data
    came.update(tail[:-32])
    tail = tail[-32:]
sender.join()
sys.exit(greeting != b'hello' or length != count + 32 or tail != sent.digest() or came.digest() != tail)
";

/// Fails unless the connection is refused within the given seconds.
const REFUSED: &str = "
import socket, sys
try:
    s = socket.create_connection((sys.argv[1], 8081), 5)
    s.settimeout(5)
    s.recv(1)
except ConnectionResetError:
    sys.exit(0)
sys.exit(1)
";

/// Greets whoever connects to a port that nobody has listened to so far, and closes.
const GREET: &str = "
import socket
s = socket.create_server(('::', 8081), family=socket.AF_INET6, dualstack_ipv6=True, backlog=64)
while True:
    c = s.accept()[0]
    c.sendall(b'hello')
    c.close()
";

/// Fails unless it is greeted, from one port.
const GREETED: &str = "
import socket, sys
s = socket.socket(socket.AF_INET6 if ':' in sys.argv[1] else socket.AF_INET)
s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
s.settimeout(5)
s.bind(('', 5555))
s.connect((sys.argv[1], 8081))
greeting = b''
while data := s.recv(10):
    greeting += data
sys.exit(greeting != b'hello')
";

/// Arguments: flags and how many. From many senders.
const FORGE: &str = "
import random, socket, struct, sys
flags, count = int(sys.argv[1]), int(sys.argv[2])
raw = socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_RAW)
target = socket.inet_aton('10.97.2.2')
def summed(data):
    total = sum(struct.unpack('>%dH' % (len(data) // 2), data))
    while total >> 16:
        total = (total & 0xffff) + (total >> 16)
    return ~total & 0xffff
for number in range(count):
    sender = socket.inet_aton('10.98.%d.%d' % (number // 250 % 250, 2 + number % 250))
    fields = [1024 + number, 8080, random.getrandbits(32), random.getrandbits(32), 5 << 4, flags, 512]
    tcp = struct.pack('>HHIIBBHHH', *fields, 0, 0)
    checksum = summed(sender + target + struct.pack('>HH', 6, len(tcp)) + tcp)
    tcp = struct.pack('>HHIIBBHHH', *fields, checksum, 0)
    header = struct.pack('>BBHHHBBH4s4s', 0x45, 0, 40, 0, 0, 64, 6, 0, sender, target)
    raw.sendto(header + tcp, ('10.97.2.2', 0))
";

const SYN: &str = "2";
const ACK: &str = "16";

struct Network {
    client: Namespace,
    gateway: Namespace,
    server: Namespace,
    directory: std::path::PathBuf,
    instance: String,
}

impl Network {
    fn new() -> Self {
        let devices = ["eth0", "eth1"];
        let [client, gateway, server] = routed::routed(97, devices);
        let instance = format!("test-{}-synproxy", std::process::id());
        let directory = both_families::up(&gateway, &instance, &devices, RULES);
        let network = Self {
            client,
            gateway,
            server,
            directory,
            instance,
        };
        // It has the command line of procps, and so no option for the instance.
        let mut sysctl = network.gateway.command(program::KEEPSTATE);
        sysctl.args(["sysctl", "-w", "net.netfilter.nf_conntrack_tcp_loose=0"]);
        keepstate_testkit::run(sysctl.env("KEEPSTATE_INSTANCE", &network.instance));
        // A veth takes what the other end's XDP sends back where it has a program too.
        for (host, name) in network.peers() {
            program::succeeds(host, &name, &["up", "--interface", "eth0"]);
        }
        network
    }

    fn peers(&self) -> [(&Namespace, String); 2] {
        [
            (&self.client, format!("{}-client", self.instance)),
            (&self.server, format!("{}-server", self.instance)),
        ]
    }

    #[track_caller]
    fn succeeds(&self, arguments: &[&str]) -> String {
        program::succeeds(&self.gateway, &self.instance, arguments)
    }

    fn status(&self) -> Value {
        let text = self.succeeds(&["status", "--json"]);
        serde_json::from_str(&text).expect("JSON")
    }

    fn counted(&self, reason: &str) -> u64 {
        let status = self.status();
        status["traffic"]["reasons"][reason].as_u64().unwrap_or(0)
    }

    fn talks(&self, address: &str, bytes: &str, seconds: &str) -> bool {
        let arguments = ["-c", TALK, address, bytes, seconds];
        self.client.succeeds("python3", &arguments)
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        let _ = program::keepstate(&self.gateway, &self.instance, &["down"]);
        for (host, name) in self.peers() {
            let _ = program::keepstate(host, &name, &["down"]);
        }
        let _ = std::fs::remove_dir_all(&self.directory);
    }
}

#[test]
fn a_server_is_reached_through_synproxy() {
    const NAME: &str = "a_server_is_reached_through_synproxy";
    if !root_or_skip(NAME)
        || !programs_or_skip(NAME, &["ip", "nsenter", "python3", "iptables", "ip6tables"])
    {
        return;
    }
    let network = Network::new();
    let _server = network.server.spawn("python3", &["-c", SERVE]);
    network.server.wait_for_listener(PORT);
    clients(&network);
    transfers(&network);
    for address in [SERVER_V4, SERVER_V6] {
        let arguments = ["-c", REFUSED, address];
        assert!(network.client.succeeds("python3", &arguments), "{address}");
    }
    once_more_from_the_same_port(&network);
    forgeries(&network);
    waits(&network);
    losses(&network);
}

/// With and without each of the options, on either side.
fn clients(network: &Network) {
    let names = ["tcp_timestamps", "tcp_window_scaling", "tcp_sack"];
    for host in [&network.client, &network.server] {
        for without in [None, Some(0), Some(1), Some(2)] {
            for (number, name) in names.iter().enumerate() {
                let value = if without == Some(number) { "0" } else { "1" };
                host.sysctl(&format!("net.ipv4.{name}"), value);
            }
            for address in [SERVER_V4, SERVER_V6] {
                let talks = network.talks(address, "400000", "30");
                assert!(talks, "{address} without {without:?}: {}", network.status());
            }
        }
        host.sysctl("net.ipv4.tcp_sack", "1");
    }
    assert!(network.counted("synproxy_sent") >= 16);
}

/// Bytes of each transfer, for long ones by hand.
const BYTES_VARIABLE: &str = "KEEPSTATE_SYNPROXY_BYTES";
const BYTES: u64 = 16 << 20;
/// At least so many come through in a second, there and back.
const BYTES_A_SECOND: u64 = 4 << 20;

/// With timestamps and without, for numbers that wrap and windows that fill.
fn transfers(network: &Network) {
    let bytes = std::env::var(BYTES_VARIABLE).map_or(BYTES, |text| text.parse().expect("a number"));
    let seconds = (60 + bytes / BYTES_A_SECOND).to_string();
    for timestamps in ["0", "1"] {
        let client = &network.client;
        client.sysctl("net.ipv4.tcp_timestamps", timestamps);
        for address in [SERVER_V4, SERVER_V6] {
            let talks = network.talks(address, &bytes.to_string(), &seconds);
            assert!(talks, "{address}: {}", network.status());
        }
    }
}

/// The server closes first, and so is in TIME_WAIT when the client comes again; and so is the record.
fn once_more_from_the_same_port(network: &Network) {
    let _server = network.server.spawn("python3", &["-c", GREET]);
    network.server.wait_for_listener(8081);
    let dropped = network.counted("policy_drop");
    for mode in ["always", "auto"] {
        network.succeeds(&["cookies", "synproxy", mode]);
        for address in [SERVER_V4, SERVER_V6] {
            for turn in 0..3 {
                let arguments = ["-c", GREETED, address];
                let greeted = network.client.succeeds("python3", &arguments);
                assert!(greeted, "{mode}, {address}, turn {turn}");
            }
        }
    }
    assert_eq!(network.counted("policy_drop"), dropped);
    network.succeeds(&["cookies", "synproxy", "always"]);
}

fn forgeries(network: &Network) {
    let flows = || network.status()["table"]["flows"].as_u64();
    let (before, refused) = (flows(), network.counted("synproxy_refused"));
    for flags in [ACK, SYN] {
        let arguments = ["-c", FORGE, flags, "400"];
        network.client.run("python3", &arguments);
    }
    assert!(network.counted("synproxy_refused") >= refused + 400);
    assert!(network.counted("synproxy_sent") >= 400);
    assert!(flows() <= before, "forged packets have made flows");
    assert!(network.talks(SERVER_V4, "1000", "5"));
}

/// With `auto`, clients reach the server as if there were no SYNPROXY until many connections to it are half-open.
fn waits(network: &Network) {
    let marks = ["--destination-high", "100", "--destination-low", "50"];
    network.succeeds(&[&["cookies", "synproxy", "auto"][..], &marks].concat());
    let sent = || network.counted("synproxy_sent");
    let before = sent();
    for address in [SERVER_V4, SERVER_V6] {
        assert!(network.talks(address, "100000", "10"), "{address}");
    }
    assert_eq!(sent(), before);
    network.client.run("python3", &["-c", FORGE, SYN, "400"]);
    let flooded = sent();
    assert!(
        (before + 290..before + 310).contains(&flooded),
        "{before} {flooded}"
    );
    let status = network.succeeds(&["cookies", "status", "--json"]);
    let status: Value = serde_json::from_str(&status).expect("JSON");
    assert_eq!(status["destinations_pressed"], 1, "{status}");
    assert!(network.talks(SERVER_V4, "100000", "10"));
    assert!(sent() > flooded);
    // That of IPv6 is another destination.
    let sent_before = sent();
    assert!(network.talks(SERVER_V6, "100000", "10"));
    assert_eq!(sent(), sent_before);
    network.succeeds(&["cookies", "synproxy", "always"]);
}

/// One packet in twenty is lost at each end of each way. Clients speak first: nobody knows of one whose only ACK is lost
/// and that waits.
fn losses(network: &Network) {
    let drop = "-p tcp -m statistic --mode random --probability 0.05 -j DROP";
    let drop: Vec<&str> = drop.split(' ').collect();
    for host in [&network.client, &network.server] {
        for program in ["iptables", "ip6tables"] {
            for chain in ["INPUT", "OUTPUT"] {
                host.run(program, &[&["-A", chain][..], &drop].concat());
            }
        }
    }
    for number in 0..6 {
        let address = [SERVER_V4, SERVER_V6][number % 2];
        let arguments = ["-c", TALK, address, "20000", "120", "first"];
        let talks = network.client.succeeds("python3", &arguments);
        assert!(talks, "{number}: {}", network.status());
    }
}
