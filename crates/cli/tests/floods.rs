//! SYN cookies and bans on a host with a real server, real clients and forged packets. In namespaces of the test's
//! own; skipped where there are no rights for it.

#[path = "support/both_families.rs"]
mod both_families;
#[path = "support/program.rs"]
mod program;

use std::time::Duration;

use keepstate_testkit::{Namespace, Running, programs_or_skip, root_or_skip};
use serde_json::Value;

const SERVER_V4: &str = "10.91.0.1";
const SERVER_V6: &str = "fd91::1";
const PORT: u16 = 8080;

const RULES: &str = "*filter
:INPUT DROP [0:0]
:FORWARD DROP [0:0]
:OUTPUT ACCEPT [0:0]
-A INPUT -m conntrack --ctstate INVALID -j DROP
-A INPUT -m conntrack --ctstate ESTABLISHED -j ACCEPT
-A INPUT -p tcp --syn --dport 8080 -m conntrack --ctstate NEW -j ACCEPT
-A INPUT -p ICMP -j ACCEPT
COMMIT
";

/// Sends 300,000 bytes to whoever connects.
const SERVE: &str = "
import socket, threading
s = socket.create_server(('::', 8080), family=socket.AF_INET6, dualstack_ipv6=True, backlog=64)
def serve(c):
    try:
        c.sendall(bytes(300000))
    except OSError:
        pass
    c.close()
while True:
    threading.Thread(target=serve, args=(s.accept()[0],)).start()
";

/// Fails unless all of it arrives within the given seconds. From a port, if there is a third argument.
const FETCH: &str = "
import socket, sys
s = socket.socket(socket.AF_INET6 if ':' in sys.argv[1] else socket.AF_INET)
s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
s.settimeout(float(sys.argv[2]))
if len(sys.argv) > 3:
    s.bind(('', int(sys.argv[3])))
s.connect((sys.argv[1], 8080))
length = 0
while data := s.recv(65536):
    length += len(data)
sys.exit(length != 300000)
";

/// Arguments: flags, how many, and the network of the senders, whose last byte is counted up.
const FORGE: &str = "
import random, socket, struct, sys
flags, count, network = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
raw = socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_RAW)
target = socket.inet_aton('10.91.0.1')
def summed(data):
    total = sum(struct.unpack('>%dH' % (len(data) // 2), data))
    while total >> 16:
        total = (total & 0xffff) + (total >> 16)
    return ~total & 0xffff
for number in range(count):
    sender = socket.inet_aton(network + str(2 + number % 250))
    fields = [1024 + number, 8080, random.getrandbits(32), random.getrandbits(32), 5 << 4, flags, 512]
    tcp = struct.pack('>HHIIBBHHH', *fields, 0, 0)
    checksum = summed(sender + target + struct.pack('>HH', 6, len(tcp)) + tcp)
    tcp = struct.pack('>HHIIBBHHH', *fields, checksum, 0)
    header = struct.pack('>BBHHHBBH4s4s', 0x45, 0, 40, 0, 0, 64, 6, 0, sender, target)
    raw.sendto(header + tcp, ('10.91.0.1', 0))
";

const SYN: &str = "2";
const ACK: &str = "16";

struct Network {
    client: Namespace,
    server: Namespace,
    directory: std::path::PathBuf,
    instance: String,
}

impl Network {
    fn new(label: &str) -> Self {
        let [client, server] = ["client", "server"].map(Namespace::new);
        client.connect("eth0", &server, "eth0");
        for (host, v4, v6) in [
            (&client, "10.91.0.2/24", "fd91::2/64"),
            (&server, "10.91.0.1/24", "fd91::1/64"),
        ] {
            host.address("eth0", v4);
            host.address("eth0", v6);
        }
        let instance = format!("test-{}-{label}", std::process::id());
        let directory = both_families::up(&server, &instance, &["eth0"], RULES);
        let network = Self {
            client,
            server,
            directory,
            instance,
        };
        // A veth takes what the other end's XDP sends back where it has a program too.
        program::succeeds(
            &network.client,
            &network.peer(),
            &["up", "--interface", "eth0"],
        );
        network
    }

    fn peer(&self) -> String {
        format!("{}-peer", self.instance)
    }

    #[track_caller]
    fn succeeds(&self, arguments: &[&str]) -> String {
        program::succeeds(&self.server, &self.instance, arguments)
    }

    #[track_caller]
    fn json(&self, arguments: &[&str]) -> Value {
        let text = self.succeeds(&[arguments, &["--json"]].concat());
        serde_json::from_str(&text).expect("JSON")
    }

    fn cookies(&self, counter: &str) -> u64 {
        self.json(&["cookies", "status"])[counter]
            .as_u64()
            .unwrap_or(0)
    }

    fn fetches(&self, address: &str, seconds: &str) -> bool {
        let arguments = ["-c", FETCH, address, seconds];
        self.client.succeeds("python3", &arguments)
    }

    fn forge(&self, flags: &str, count: &str, network: &str) {
        let arguments = ["-c", FORGE, flags, count, network];
        self.client.run("python3", &arguments);
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        let _ = program::keepstate(&self.server, &self.instance, &["down"]);
        let _ = program::keepstate(&self.client, &self.peer(), &["down"]);
        let _ = std::fs::remove_dir_all(&self.directory);
    }
}

#[test]
fn a_server_is_reached_by_cookies() {
    const NAME: &str = "a_server_is_reached_by_cookies";
    if !root_or_skip(NAME) || !programs_or_skip(NAME, &["ip", "nsenter", "python3"]) {
        return;
    }
    let network = Network::new("cookies");
    let _server = network.server.spawn("python3", &["-c", SERVE]);
    network.server.wait_for_listener(PORT);
    // The host's TCP would refuse them: none are sent.
    let refused = network.json(&["cookies", "mode", "always"]);
    assert_eq!(refused["active"], false);
    assert_eq!(refused["obstacles"].as_array().map(Vec::len), Some(2));
    assert!(network.fetches(SERVER_V4, "5"));
    network.server.sysctl("net.ipv4.tcp_syncookies", "2");
    network.server.sysctl("net.ipv4.tcp_timestamps", "2");
    let taken = network.json(&["cookies", "mode", "always"]);
    assert_eq!(taken["active"], true);
    assert_eq!(taken["sent"], 0);
    clients(&network);
    once_more_from_the_same_port(&network);
    forgeries(&network);
    only_in_need(&network);
}

/// With and without each of the options.
fn clients(network: &Network) {
    let names = ["tcp_timestamps", "tcp_window_scaling", "tcp_sack"];
    let mut connections = 0;
    for without in [None, Some(0), Some(1), Some(2)] {
        for (number, name) in names.iter().enumerate() {
            let value = if without == Some(number) { "0" } else { "1" };
            network.client.sysctl(&format!("net.ipv4.{name}"), value);
        }
        for address in [SERVER_V4, SERVER_V6] {
            assert!(
                network.fetches(address, "5"),
                "{address} without {without:?}"
            );
            connections += 1;
            assert_eq!(network.cookies("accepted"), connections);
        }
    }
    network.client.sysctl("net.ipv4.tcp_sack", "1");
    let flows = network.json(&["status"])["table"]["half_open"].as_u64();
    assert_eq!(flows, Some(0));
}

/// The server closes first, and so is in TIME_WAIT when the client comes again.
fn once_more_from_the_same_port(network: &Network) {
    let accepted = network.cookies("accepted");
    for address in [SERVER_V4, SERVER_V6] {
        for turn in 0..3 {
            let arguments = ["-c", FETCH, address, "5", "5555"];
            let fetches = network.client.succeeds("python3", &arguments);
            assert!(fetches, "{address}, turn {turn}");
        }
    }
    // The first time of each alone.
    assert_eq!(network.cookies("accepted"), accepted + 2);
}

fn forgeries(network: &Network) {
    let flows = || network.json(&["status"])["table"]["flows"].as_u64();
    let (before, accepted) = (flows(), network.cookies("accepted"));
    network.forge(ACK, "50", "10.91.0.");
    network.forge(SYN, "300", "10.92.0.");
    assert_eq!(network.cookies("refused"), 50);
    assert!(network.cookies("sent") >= 300);
    assert_eq!(network.cookies("accepted"), accepted);
    assert!(flows() <= before, "forged packets have made flows");
    assert!(network.fetches(SERVER_V4, "5"));
}

fn only_in_need(network: &Network) {
    let mode = ["cookies", "mode", "auto", "--high", "20", "--low", "5"];
    assert_eq!(network.json(&mode)["active"], false);
    let sent = network.cookies("sent");
    assert!(network.fetches(SERVER_V4, "5"));
    assert_eq!(network.cookies("sent"), sent);
    network.forge(SYN, "200", "10.93.0.");
    let status = network.json(&["cookies", "status"]);
    assert_eq!(status["active"], true);
    assert_eq!(status["half_open"], 21);
    let accepted = network.cookies("accepted");
    assert!(network.fetches(SERVER_V6, "5"));
    assert_eq!(network.cookies("accepted"), accepted + 1);
}

#[test]
fn the_banned_are_shut_out() {
    const NAME: &str = "the_banned_are_shut_out";
    if !root_or_skip(NAME) || !programs_or_skip(NAME, &["ip", "nsenter", "python3"]) {
        return;
    }
    let network = Network::new("bans");
    let _server = network.server.spawn("python3", &["-c", SERVE]);
    network.server.wait_for_listener(PORT);
    assert!(network.fetches(SERVER_V4, "5"));
    let banned = network.json(&["ban", "add", "10.91.0.2", "--cause", "a test"]);
    assert_eq!(
        (&banned["new"], &banned["flows_ended"]),
        (&1.into(), &1.into())
    );
    assert!(!network.fetches(SERVER_V4, "1"));
    assert!(network.fetches(SERVER_V6, "5"));
    let reasons = &network.json(&["status"])["traffic"]["reasons"];
    assert!(reasons["banned"].as_u64() > Some(0), "{reasons}");
    // Exemptions count for more.
    network.succeeds(&["never-ban", "add", "10.91.0.0/24"]);
    assert!(network.fetches(SERVER_V4, "5"));
    network.succeeds(&["never-ban", "del", "10.91.0.0/24"]);
    assert!(!network.fetches(SERVER_V4, "1"));
    // Without the daemon bans hold, and end.
    network.succeeds(&["ban", "add", "fd91::/64", "--for", "3s"]);
    let pid = network.json(&["status"])["pid"].to_string();
    network.server.run("kill", &["-9", &pid]);
    assert!(!network.fetches(SERVER_V4, "1"));
    std::thread::sleep(Duration::from_secs(3));
    assert!(network.fetches(SERVER_V6, "5"));
    network.succeeds(&["up", "--interface", "eth0"]);
    let list = network.json(&["ban", "list"]);
    assert_eq!(
        (&list["network"], &list["cause"]),
        (&"10.91.0.2".into(), &"a test".into())
    );
    network.succeeds(&["ban", "flush"]);
    assert!(network.fetches(SERVER_V4, "5"));
    let missing = program::keepstate(
        &network.server,
        &network.instance,
        &["ban", "del", "1.2.3.4"],
    );
    assert!(!missing.status.success());
}

/// A flood of SYNs to the server's port, 2,000 a second, as long as it takes to see what comes of it.
fn flood(network: &Network, from: &[&str]) -> Running {
    let port = PORT.to_string();
    let shape = ["-q", "-S", "-p", &port, "-i", "u500", "-c", "60000"];
    network
        .client
        .spawn("hping3", &[&shape[..], from, &["10.91.0.1"]].concat())
}

impl Network {
    fn defence(&self) -> Value {
        self.json(&["defence", "history"])
    }

    /// Waits until the defence shows something, at most so many seconds.
    #[track_caller]
    fn waits_for(&self, seconds: u64, what: &str, is_there: impl Fn(&Value) -> bool) -> Value {
        for _ in 0..seconds * 4 {
            let status = self.defence();
            if is_there(&status) {
                return status;
            }
            std::thread::sleep(Duration::from_millis(250));
        }
        panic!("{what}: {:#}", self.defence());
    }

    /// A command of iptables or sysctl; what it prints.
    fn as_iptables(&self, words: &str) -> String {
        let mut command = self.server.command(program::KEEPSTATE);
        command.env("KEEPSTATE_INSTANCE", &self.instance);
        let output = command.args(words.split(' ')).output();
        let output = output.expect("it can be started");
        assert!(output.status.success(), "{words}: {output:?}");
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    fn rules(&self) -> String {
        let text = self.as_iptables("iptables-save");
        // Without the time of day.
        let lines = text.lines().filter(|line| !line.starts_with('#'));
        lines.collect::<Vec<_>>().join("\n")
    }
}

fn has_step(status: &Value, action: &str, state: &str) -> bool {
    let steps = status["steps"].as_array().expect("a list");
    steps
        .iter()
        .any(|step| step["action"] == action && step["state"] == state)
}

#[test]
fn a_forged_flood_is_met_with_cookies() {
    const NAME: &str = "a_forged_flood_is_met_with_cookies";
    let programs = ["ip", "nsenter", "python3", "hping3"];
    if !root_or_skip(NAME) || !programs_or_skip(NAME, &programs) {
        return;
    }
    let network = Network::new("forged");
    let _server = network.server.spawn("python3", &["-c", SERVE]);
    network.server.wait_for_listener(PORT);
    network.server.sysctl("net.ipv4.tcp_syncookies", "2");
    network.server.sysctl("net.ipv4.tcp_timestamps", "2");
    assert_eq!(network.defence()["mode"], "observe");
    let mode = network.json(&["cookies", "status"])["mode"].clone();
    let _flood = flood(&network, &["--rand-source"]);
    let seen = network.waits_for(15, "nothing is proposed", |status| {
        has_step(status, "cookies", "proposed")
    });
    let attack = &seen["attacks"][0];
    assert_eq!(
        (&attack["kind"], &attack["destination"]),
        (&"syn_flood".into(), &SERVER_V4.into())
    );
    assert_eq!(attack["heavy"].as_array().map(Vec::len), Some(0));
    assert_eq!(network.json(&["cookies", "status"])["mode"], mode);
    // Now it acts.
    network.succeeds(&["defence", "mode", "act"]);
    let acting = network.waits_for(15, "no cookies", |status| {
        has_step(status, "cookies", "active")
    });
    assert_eq!(acting["steps"].as_array().map(Vec::len), Some(1));
    network.waits_for(10, "it is not stopped", |status| {
        status["attacks"][0]["passed"].as_f64() < Some(20.0)
    });
    assert!(network.fetches(SERVER_V4, "5"), "a client is kept out");
    assert!(network.cookies("accepted") > 0);
    let told = network.succeeds(&["defence", "explain"]);
    assert!(
        told.contains("SYN flood") && told.contains("because"),
        "{told}"
    );
    // Undone, and not taken again.
    network.succeeds(&["defence", "undo"]);
    assert_eq!(network.json(&["cookies", "status"])["mode"], mode);
    assert!(has_step(&network.defence(), "cookies", "undone"));
    std::thread::sleep(Duration::from_secs(6));
    assert!(!has_step(&network.defence(), "cookies", "active"));
}

#[test]
fn a_flood_of_one_sender_is_limited() {
    const NAME: &str = "a_flood_of_one_sender_is_limited";
    let programs = ["ip", "nsenter", "python3", "hping3"];
    if !root_or_skip(NAME) || !programs_or_skip(NAME, &programs) {
        return;
    }
    let network = Network::new("limited");
    let _server = network.server.spawn("python3", &["-c", SERVE]);
    network.server.wait_for_listener(PORT);
    let before = network.rules();
    network.succeeds(&["defence", "mode", "act"]);
    let _flood = flood(&network, &["-a", "10.94.0.9"]);
    let limited = network.waits_for(15, "nothing is limited", |status| {
        has_step(status, "limit", "active")
    });
    let rule = limited["steps"][0]["commands"][0].as_str().expect("a rule");
    assert!(
        rule.contains("-s 10.94.0.9") && rule.contains("hashlimit"),
        "{rule}"
    );
    // It stands among the bans, and not among the rules.
    assert_eq!(network.rules(), before);
    let listed = || network.succeeds(&["ban", "list"]);
    assert!(
        listed().contains("10.94.0.9") && listed().contains("limited to"),
        "{}",
        listed()
    );
    let told = network.succeeds(&["status"]);
    assert!(told.contains("steps in force: limit sources"), "{told}");
    let packet = "tcp 10.94.0.9:5000 > 10.91.0.1:8080 syn in eth0";
    let told = network.succeeds(&["explain", packet]);
    assert!(told.contains("10.94.0.9/32 is limited to"), "{told}");
    network.waits_for(10, "it is not stopped", |status| {
        status["attacks"][0]["passed"].as_f64() < Some(40.0)
    });
    assert!(network.fetches(SERVER_V4, "5"));
    // At the height of it the daemon is killed: the limit holds, and the next daemon goes on with attack and step.
    let limited = || {
        let status = network.json(&["status"]);
        status["traffic"]["reasons"]["limited"]
            .as_u64()
            .unwrap_or(0)
    };
    let limited_by = network.defence()["steps"][0].clone();
    let (then, pid) = (limited(), network.json(&["status"])["pid"].to_string());
    network.server.run("kill", &["-9", &pid]);
    std::thread::sleep(Duration::from_secs(2));
    network.succeeds(&["up", "--interface", "eth0"]);
    assert!(then > 0 && limited() > then + 1000, "{then}, {}", limited());
    let went_on = network.defence();
    assert_eq!(went_on["mode"], "act");
    assert_eq!(
        went_on["steps"][0]["number"], limited_by["number"],
        "{went_on}"
    );
    assert_eq!(
        went_on["steps"][0]["began"], limited_by["began"],
        "{went_on}"
    );
    assert!(has_step(&went_on, "limit", "active"), "{went_on}");
    network.waits_for(10, "the attack does not go on", |status| {
        let attack = &status["attacks"][0];
        attack["number"] == limited_by["attack"] && attack["rate"].as_f64() > Some(100.0)
    });
    assert!(network.fetches(SERVER_V4, "5"));
    network.succeeds(&["defence", "undo"]);
    assert!(!listed().contains("limited to"), "{}", listed());
}

/// Answers the first datagram of each sender.
const ANSWER_ONCE: &str = "
import socket
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
s.bind(('', 8080))
known = set()
while True:
    data, sender = s.recvfrom(2048)
    if sender not in known:
        known.add(sender)
        s.sendto(data, sender)
";

/// Its packets are not sampled: the flow's counters tell.
#[test]
fn a_flood_within_an_answered_flow_is_held_back() {
    const NAME: &str = "a_flood_within_an_answered_flow_is_held_back";
    if !root_or_skip(NAME) || !programs_or_skip(NAME, &["ip", "nsenter", "python3", "hping3"]) {
        return;
    }
    let network = Network::new("within");
    let _server = network.server.spawn("python3", &["-c", ANSWER_ONCE]);
    network.as_iptables("iptables -A INPUT -p udp --dport 8080 -j ACCEPT");
    let told = network.succeeds(&["defence", "mode", "act"]);
    assert!(told.contains("nf_conntrack_acct"), "{told}");
    network.as_iptables("sysctl -w net.netfilter.nf_conntrack_acct=1");
    // As long as it takes to know what is usual.
    std::thread::sleep(Duration::from_secs(22));
    let shape = ["-q", "-2", "--flood", "-k", "-s", "5000", "-p", "8080"];
    let _flood = network
        .client
        .spawn("hping3", &[&shape[..], &[SERVER_V4]].concat());
    let limited = network.waits_for(20, "nothing is limited", |status| {
        has_step(status, "limit", "active")
    });
    let attack = &limited["attacks"][0];
    assert_eq!(attack["kind"], "flow_flood", "{limited:#}");
    let rule = "-s 10.91.0.2/32 -d 10.91.0.1/32 -p udp -m hashlimit";
    assert!(network.rules().contains(rule), "{}", network.rules());
    network.waits_for(20, "it is not held back", |status| {
        let attack = &status["attacks"][0];
        attack["passed"].as_f64() < Some(0.1 * attack["rate"].as_f64().unwrap_or(0.0))
    });
    let observed = network.succeeds(&["defence", "mode", "observe"]);
    assert!(
        observed.contains("ended       step 1, limit sources"),
        "{observed}"
    );
    assert!(!network.rules().contains("DEFENCE"), "{}", network.rules());
}

/// Datagrams of forged senders: there is nobody to limit, and all look alike.
#[test]
fn a_forged_flood_is_refused_by_its_form() {
    const NAME: &str = "a_forged_flood_is_refused_by_its_form";
    let programs = ["ip", "nsenter", "python3", "hping3"];
    if !root_or_skip(NAME) || !programs_or_skip(NAME, &programs) {
        return;
    }
    let network = Network::new("form");
    let _server = network.server.spawn("python3", &["-c", SERVE]);
    network.server.wait_for_listener(PORT);
    let mut opens = network.server.command(program::KEEPSTATE);
    opens.env("KEEPSTATE_INSTANCE", &network.instance);
    let rule = "iptables -A INPUT -p udp --dport 9999 -j ACCEPT";
    let status = opens.args(rule.split(' ')).status();
    assert!(status.expect("it can be started").success());
    network.succeeds(&["defence", "mode", "act"]);
    let shape = [
        "-q", "--udp", "-p", "9999", "-i", "u300", "-c", "60000", "-d", "64",
    ];
    let from = ["--rand-source", "10.91.0.1"];
    let _flood = network
        .client
        .spawn("hping3", &[&shape[..], &from].concat());
    let met = network.waits_for(40, "no form is refused", |status| {
        has_step(status, "form", "active")
    });
    let rule = met["steps"][0]["commands"][0].as_str().expect("a rule");
    assert!(
        rule.contains("-d 10.91.0.1 -p udp --dport 9999 -m length --length 92 -m ttl --ttl-eq 64"),
        "{rule}"
    );
    network.waits_for(10, "it is not stopped", |status| {
        status["attacks"][0]["passed"].as_f64() < Some(20.0)
    });
    let refused = || {
        let status = network.json(&["status"]);
        status["traffic"]["reasons"]["form_refused"].as_u64()
    };
    for _ in 0..40 {
        if refused() > Some(500) {
            break;
        }
        std::thread::sleep(Duration::from_millis(250));
    }
    assert!(refused() > Some(500), "{:?}", refused());
    assert!(network.fetches(SERVER_V4, "5"));
    let packet = "udp 198.51.100.9:5000 > 10.91.0.1:9999 len 64 in eth0";
    let told = network.succeeds(&["explain", packet]);
    assert!(told.contains("Packets of this form are refused"), "{told}");
    let told = network.succeeds(&["defence", "mode", "observe"]);
    let number = &met["steps"][0]["number"];
    let ended = format!("ended       step {number}, drop by form: `keepstate defence explain");
    assert!(told.contains(&ended), "{told}");
    let told = network.succeeds(&["defence", "mode", "observe"]);
    assert!(told.contains("no step was in force"), "{told}");
    let told = network.succeeds(&["explain", packet]);
    assert!(!told.contains("of this form"), "{told}");
}
