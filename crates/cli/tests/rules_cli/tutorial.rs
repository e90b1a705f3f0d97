//! The tutorial's shell blocks, run one after the other as they stand, and what each has done to packets.
//!
//! Three hosts: the firewall, one outside (10.9.0.2, and 192.168.100.5 of a DMZ), one inside (192.168.1.10 and .100).
//! Where a block asks for what cannot be (the tutorial is wrong in places), what is asserted is what Linux does with it.

use std::time::Duration;

use keepstate_testkit::{Namespace, Running, require_program, shared_dir_or_skip};

use crate::bench::{Bench, wait_until};
use crate::offline::text;
use crate::shell;

/// What is asserted of each block, in the order of the tutorial.
const BLOCKS: [(&str, Check); 19] = [
    (
        "a ping while it runs is in both listings, and told of as NEW",
        listed,
    ),
    ("packets of a flow are counted from then on", counted),
    (
        "a connection to port 80 has no record, one to port 81 has",
        untracked,
    ),
    (
        "nothing: without -t TCP's state, conntrack makes no entry",
        nothing_inserted,
    ),
    (
        "of INPUT: a second packet, SSH, an invalid one; of FORWARD: one from inside; each counts in its rule",
        states,
    ),
    (
        "the numbers printed are those of the flows that packets made",
        numbers,
    ),
    (
        "the knobs have changed; a new flow is tracked as before",
        bigger,
    ),
    (
        "flows of packets are gone, and a closed connection is a second later",
        flushed,
    ),
    ("what is printed is what a new flow gets", timeouts),
    ("a connection and a closed one get these timeouts", shorter),
    (
        "an unanswered datagram gets 600 seconds, a connection 1800",
        longer,
    ),
    (
        "nine connections are answered, the tenth is refused",
        recent,
    ),
    (
        "twenty connections at once are answered, the next are refused",
        connections,
    ),
    (
        "an invalid segment is dropped by the first rule, and never logged",
        invalid,
    ),
    (
        "nothing but what is said: the knobs are not there, and connections are made as before",
        cookies,
    ),
    (
        "port 22 connects, port 80 does not answer, nor does a ping; an answer comes back in",
        base,
    ),
    (
        "forty connections are answered: the rule that accepts stands before all limits",
        web,
    ),
    (
        "192.168.1.10 connects to port 3306, others are refused and logged",
        database,
    ),
    (
        "inside and DMZ connect through: what accepts 192.168.0.0/16 stands before the limit and before what rejects",
        gateway,
    ),
];

/// Is told what the script printed.
type Check = fn(&Hosts, &str);

struct Hosts {
    bench: Bench,
    inside: Namespace,
    _servers: [Running; 2],
}

/// Accepts connections to the ports that it is told, and closes those that their client closes.
const SERVER: &str = "
import selectors, socket, sys
s = selectors.DefaultSelector()
for port in map(int, sys.argv[1:]):
    l = socket.socket()
    l.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    l.bind(('', port)); l.listen(256)
    s.register(l, selectors.EVENT_READ, True)
while True:
    for key, _ in s.select():
        if key.data:
            s.register(key.fileobj.accept()[0], selectors.EVENT_READ, False)
        else:
            try: gone = not key.fileobj.recv(64)
            except OSError: gone = True
            if gone: s.unregister(key.fileobj); key.fileobj.close()
";

/// Connects so many times, keeps all open until the end, and prints what became of each.
const CLIENT: &str = "
import socket, sys, errno
source, to, port, count = sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
kept = []
for _ in range(count):
    s = socket.socket()
    s.settimeout(2)
    s.bind((source, 0))
    try:
        s.connect((to, port)); print('ok')
    except socket.timeout:
        print('silence')
    except OSError as e:
        print(errno.errorcode[e.errno])
    kept.append(s)
";

/// A segment with SYN and FIN from port 4000, its checksum right.
const INVALID: &str = "
import socket, struct, sys
a, b, port = socket.inet_aton(sys.argv[1]), socket.inet_aton(sys.argv[2]), int(sys.argv[3])
def segment(c):
    return struct.pack('!HHIIBBHHH', 4000, port, 1, 0, 0x50, 0x03, 1024, c, 0)
data = a + b + struct.pack('!BBH', 0, 6, 20) + segment(0)
c = sum(struct.unpack('!16H', data))
while c >> 16: c = (c & 0xffff) + (c >> 16)
s = socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_TCP)
s.sendto(segment(~c & 0xffff), (sys.argv[2], 0))
";

const DATAGRAM: &str = "
import socket, sys
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
s.sendto(b'x', (sys.argv[1], int(sys.argv[2])))
";

const OURS: &str = "10.9.0.1";
const OUTSIDE: &str = "10.9.0.2";

impl Hosts {
    fn new(bench: Bench) -> Self {
        let inside = Namespace::new("inside");
        inside.connect("lan", &bench.ours, "lan1");
        bench.ours.address("lan1", "192.168.1.1/24");
        inside.address("lan", "192.168.1.100/24");
        inside.address("lan", "192.168.1.10/24");
        inside.route(&["default", "via", "192.168.1.1"]);
        bench.ours.address("inner", "192.168.100.1/24");
        bench.peer.address("outer", "192.168.100.5/24");
        bench.peer.route(&["192.168.1.0/24", "via", OURS]);
        bench.ours.sysctl("net.ipv4.ip_forward", "1");
        let ports = ["-c", SERVER, "22", "80", "81", "443", "3306", "8080"];
        let servers = [
            bench.ours.spawn("python3", &ports),
            inside.spawn("python3", &ports),
        ];
        bench.ours.wait_for_listener(8080);
        inside.wait_for_listener(8080);
        let hosts = Self {
            bench,
            inside,
            _servers: servers,
        };
        // Until the interface that has come is judged too.
        let is_attached = || hosts.bench.succeeds(&["status"]).contains("lan1");
        assert!(wait_until(Duration::from_secs(20), is_attached));
        hosts
    }

    fn python(from: &Namespace, arguments: &[&str]) -> Vec<String> {
        let mut command = from.command("python3");
        let output = command.arg("-c").args(arguments).output();
        let output = output.expect("python3 can be started");
        assert!(output.status.success(), "{}", text(&output.stderr));
        text(&output.stdout).lines().map(str::to_owned).collect()
    }

    /// What becomes of connections from an address of the host outside to one of a host's.
    fn connect(&self, source: &str, to: &str, port: u16, count: usize) -> Vec<String> {
        let from = match source.starts_with("192.168.1.") {
            true => &self.inside,
            false => &self.bench.peer,
        };
        let (port, count) = (port.to_string(), count.to_string());
        Self::python(from, &[CLIENT, source, to, &port, &count])
    }

    /// From outside to the firewall.
    #[track_caller]
    fn connects(&self, port: u16, expected: &str) {
        let done = self.connect(OUTSIDE, OURS, port, 1);
        assert_eq!(done, [expected], "port {port}");
    }

    fn invalid(&self, port: &str) {
        Self::python(&self.bench.peer, &[INVALID, OUTSIDE, OURS, port]);
        std::thread::sleep(Duration::from_millis(200));
    }

    fn flows(&self, options: &[&str]) -> String {
        let words = [&["conntrack", "-L"], options].concat();
        self.bench.keepstate_plain(&words).stdout
    }

    /// The seconds that the flow of a port has left, of those in a state.
    fn seconds(&self, protocol: &str, port: &str, state: &str) -> u64 {
        let listed = self.flows(&["-p", protocol, "--dport", port]);
        let lines = listed.lines().filter(|line| line.contains(state));
        let words = lines.map(|line| line.split_whitespace().nth(2));
        let seconds = words.filter_map(|word| word?.parse().ok()).max();
        seconds.unwrap_or_else(|| panic!("no {state} flow of port {port}: {listed}"))
    }

    fn knob(&self, name: &str) -> String {
        let name = format!("net.netfilter.{name}");
        let read = self.bench.keepstate_plain(&["sysctl", "-n", &name]);
        read.stdout.trim().to_owned()
    }

    /// Packets that the rule counted that iptables-save prints so.
    #[track_caller]
    fn packets(&self, rule: &str) -> u64 {
        let saved = self.bench.ours(&["iptables-save", "-c"], "").stdout;
        let line = saved.lines().find(|line| line.contains(rule));
        let count = line.and_then(|line| line.strip_prefix('[')?.split(':').next()?.parse().ok());
        count.unwrap_or_else(|| panic!("no rule {rule}: {saved}"))
    }

    /// Makes a connection that is closed by both ends.
    fn closed(&self, port: u16) {
        self.connects(port, "ok");
        std::thread::sleep(Duration::from_millis(300));
    }
}

#[test]
fn the_tutorials_blocks_do_to_packets_what_they_say() {
    const NAME: &str = "the_tutorials_blocks_do_to_packets_what_they_say";
    let Some(shared) = shared_dir_or_skip(NAME) else {
        return;
    };
    if !require_program("python3") {
        keepstate_testkit::skip(NAME, "there is no python3");
        return;
    }
    let Some(bench) = shell::bench(NAME, "tutorial") else {
        return;
    };
    let document = std::fs::read_to_string(shared.join("spec/conntrack-tutorial.zh.md"));
    let blocks = blocks(&document.expect("the tutorial is there"));
    assert_eq!(blocks.len(), BLOCKS.len(), "the tutorial has other blocks");
    let hosts = Hosts::new(bench);
    let before = shell::host(&hosts.bench);
    for ((line, script), (what, check)) in blocks.iter().zip(BLOCKS) {
        println!("line {line}: {what}");
        let empty = "*filter\n:INPUT ACCEPT [0:0]\n:FORWARD ACCEPT [0:0]\nCOMMIT\n*raw\nCOMMIT\n";
        hosts.bench.ours(&["iptables-restore"], empty);
        let output = run_among_pings(&hosts, script);
        complains_as_expected(*line, script, &text(&output.stderr));
        check(&hosts, &text(&output.stdout));
    }
    assert_eq!(shell::host(&hosts.bench), before, "the host is another one");
}

/// Somebody pings while a script listens.
fn run_among_pings(hosts: &Hosts, script: &str) -> std::process::Output {
    if !script.contains("conntrack -E") && !script.contains("nf_conntrack_count") {
        return shell::run(&hosts.bench, script);
    }
    std::thread::scope(|scope| {
        let pings = scope.spawn(|| {
            for _ in 0..8 {
                hosts.bench.answers();
                std::thread::sleep(Duration::from_secs(1));
            }
        });
        let output = shell::run(&hosts.bench, script);
        pings.join().expect("pings are sent");
        output
    })
}

/// What the tutorial gets wrong itself, or what finds nothing to do here: the real programs say the same.
const EXPECTED: [&str; 4] = [
    // `conntrack -I` without -t.
    "conntrack v1.4.7",
    "Try `conntrack -h'",
    // Whose TCP must take back what is sent.
    "of the host itself, net.ipv4.tcp_",
    // The number of buckets is settled when the daemon starts.
    "nf_conntrack_buckets",
];

fn complains_as_expected(line: usize, script: &str, wrong: &str) {
    // iptables' second line of a complaint.
    let help = |line: &str| line.starts_with("Try `iptables -h'") || line.trim().is_empty();
    // What dash and bash say of a knob that was refused.
    let writes = |line: &str| {
        line.ends_with("echo: I/O error") || line.ends_with("write error: Invalid argument")
    };
    let unexpected: Vec<&str> = wrong
        .lines()
        .filter(|line| !help(line) && !writes(line))
        .filter(|line| !EXPECTED.iter().any(|expected| line.contains(expected)))
        .collect();
    assert!(
        unexpected.is_empty(),
        "line {line}: {unexpected:#?}\n{script}"
    );
}

/// The shell blocks of a Markdown file, each with the number of its first line.
fn blocks(document: &str) -> Vec<(usize, String)> {
    let mut blocks = Vec::new();
    let mut current: Option<(usize, String)> = None;
    for (index, line) in document.lines().enumerate() {
        match &mut current {
            None if line.trim_end() == "```bash" => current = Some((index + 2, String::new())),
            Some(_) if line.trim_end() == "```" => blocks.extend(current.take()),
            Some((_, text)) => {
                text.push_str(line);
                text.push('\n');
            }
            None => {}
        }
    }
    blocks
}

fn listed(_: &Hosts, said: &str) {
    assert!(said.contains("[NEW]"), "{said}");
    assert!(said.contains("icmp     1"), "{said}");
    assert!(said.contains("src=10.9.0.2"), "{said}");
}

fn counted(hosts: &Hosts, _: &str) {
    assert_eq!(hosts.knob("nf_conntrack_acct"), "1");
    hosts.connects(81, "ok");
    let listed = hosts.flows(&["-p", "tcp", "--dport", "81"]);
    // SYN, ACK, FIN at least.
    let packets = listed.split("packets=").nth(1);
    let packets = packets.and_then(|rest| rest.split(' ').next()?.parse::<u64>().ok());
    assert!(packets.is_some_and(|packets| packets >= 2), "{listed}");
}

fn untracked(hosts: &Hosts, _: &str) {
    hosts.bench.keepstate_plain(&["conntrack", "-F"]);
    for port in [80, 81] {
        hosts.connects(port, "ok");
    }
    assert!(hosts.packets("--dport 80 -j CT --notrack") >= 2);
    let listed = hosts.flows(&["-p", "tcp"]);
    assert!(listed.contains("dport=81"), "{listed}");
    let original = listed.lines().filter(|line| {
        let first = line.split("src=").nth(1).unwrap_or_default();
        first.starts_with(OUTSIDE) && first.contains("dport=80 ")
    });
    assert_eq!(original.count(), 0, "{listed}");
}

fn nothing_inserted(hosts: &Hosts, _: &str) {
    assert_eq!(hosts.flows(&["-s", "192.168.1.100", "-p", "tcp"]), "");
}

fn states(hosts: &Hosts, _: &str) {
    hosts.connects(22, "ok");
    hosts.invalid("22");
    assert!(hosts.packets("-A INPUT -m conntrack --ctstate RELATED,ESTABLISHED") >= 1);
    assert_eq!(hosts.packets("-A INPUT -p tcp -m tcp --dport 22"), 1);
    assert_eq!(hosts.packets("-A INPUT -m conntrack --ctstate INVALID"), 1);
    let through = hosts.connect("192.168.1.100", OUTSIDE, 9, 1);
    assert_eq!(through, ["ECONNREFUSED"], "nobody listens there");
    assert_eq!(hosts.packets("-A FORWARD -s 192.168.1.0/24"), 1);
}

fn numbers(hosts: &Hosts, said: &str) {
    let numbers: Vec<u64> = said
        .lines()
        .filter_map(|line| line.split_whitespace().next()?.parse().ok())
        .collect();
    let [max, count, lines] = numbers[..] else {
        panic!("three numbers are printed: {said}");
    };
    assert_eq!(max.to_string(), hosts.knob("nf_conntrack_max"));
    assert!(count >= 1 && count.abs_diff(lines) <= 2, "{said}");
}

fn bigger(hosts: &Hosts, _: &str) {
    assert_eq!(hosts.knob("nf_conntrack_max"), "65536");
    hosts.connects(81, "ok");
    assert!(
        hosts
            .flows(&["-p", "tcp", "--dport", "81"])
            .contains(OUTSIDE)
    );
}

fn flushed(hosts: &Hosts, _: &str) {
    let listed = hosts.flows(&["-p", "tcp", "--dport", "81"]);
    assert_eq!(listed, "", "flows of the block before are still there");
    assert_eq!(hosts.knob("nf_conntrack_tcp_timeout_time_wait"), "1");
    hosts.closed(80);
    let is_gone = || {
        !hosts
            .flows(&["-p", "tcp", "--dport", "80"])
            .contains("TIME_WAIT")
    };
    assert!(wait_until(Duration::from_secs(5), is_gone));
}

fn timeouts(hosts: &Hosts, said: &str) {
    let printed: u64 = said
        .lines()
        .next()
        .and_then(|line| line.parse().ok())
        .unwrap_or_else(|| panic!("no number: {said}"));
    assert_eq!(
        printed.to_string(),
        hosts.knob("nf_conntrack_tcp_timeout_established")
    );
    assert!(
        said.contains("net.netfilter.nf_conntrack_udp_timeout = "),
        "{said}"
    );
    established(hosts, printed);
}

/// A connection that is open has so many seconds left, or a little less.
#[track_caller]
fn established(hosts: &Hosts, seconds: u64) {
    let words = ["-c", CLIENT_OPEN, OURS, "81"];
    let open = hosts.bench.peer.spawn("python3", &words);
    let is_there = || {
        hosts
            .flows(&["-p", "tcp", "--dport", "81"])
            .contains("ESTABLISHED")
    };
    assert!(wait_until(Duration::from_secs(10), is_there));
    let left = hosts.seconds("tcp", "81", "ESTABLISHED");
    assert!(
        left <= seconds && left + 20 > seconds,
        "{left} of {seconds}"
    );
    open.stop();
}

const CLIENT_OPEN: &str = "
import socket, sys, time
s = socket.create_connection((sys.argv[1], int(sys.argv[2])))
time.sleep(60)
";

fn shorter(hosts: &Hosts, _: &str) {
    established(hosts, 300);
    // On a busy machine a FIN is sent again, to a socket that is gone, and a reset ends the flow.
    for _ in 0..5 {
        hosts.closed(443);
        if hosts.flows(&["--dport", "443"]).contains("TIME_WAIT") {
            break;
        }
    }
    let left = hosts.seconds("tcp", "443", "TIME_WAIT");
    assert!((10..=30).contains(&left), "{left}");
}

fn longer(hosts: &Hosts, _: &str) {
    established(hosts, 1800);
    Hosts::python(&hosts.bench.peer, &[DATAGRAM, OURS, "5555"]);
    let left = hosts.seconds("udp", "5555", "src=10.9.0.2");
    assert!((580..=600).contains(&left), "{left}");
}

fn recent(hosts: &Hosts, _: &str) {
    let done = hosts.connect(OUTSIDE, OURS, 80, 12);
    let expected = [vec!["ok"; 9], vec!["ECONNREFUSED"; 3]].concat();
    assert_eq!(done, expected);
    // Another address is another matter.
    assert_eq!(hosts.connect("192.168.100.5", OURS, 80, 1), ["ok"]);
    let list = hosts.bench.succeeds(&["recent", "list", "HTTP"]);
    assert!(list.contains("src=10.9.0.2 "), "{list}");
    assert_eq!(list.lines().count(), 2, "{list}");
}

fn connections(hosts: &Hosts, _: &str) {
    let done = hosts.connect(OUTSIDE, OURS, 80, 24);
    let expected = [vec!["ok"; 20], vec!["ECONNREFUSED"; 4]].concat();
    assert_eq!(done, expected);
}

fn invalid(hosts: &Hosts, _: &str) {
    hosts.invalid("80");
    assert_eq!(
        hosts.packets("-A INPUT -m conntrack --ctstate INVALID -j DROP"),
        1
    );
    assert_eq!(
        hosts.packets("-j LOG --log-prefix \"INVALID_CONNECTION: \""),
        0
    );
    hosts.connects(80, "ok");
}

fn cookies(hosts: &Hosts, _: &str) {
    hosts.connects(80, "ok");
}

fn base(hosts: &Hosts, _: &str) {
    hosts.connects(22, "ok");
    hosts.connects(80, "silence");
    assert!(!hosts.bench.answers(), "ping passes the base");
    // What the firewall asks for comes back in.
    assert!(
        hosts
            .bench
            .ours
            .succeeds("ping", &["-c", "1", "-W", "2", OUTSIDE])
    );
    let through = hosts.connect("192.168.1.100", OUTSIDE, 80, 1);
    assert_eq!(through, ["silence"], "FORWARD drops");
    let kept = std::fs::read_to_string(hosts.bench.directory.join("etc/rules.v4"));
    assert!(kept.expect("saved").contains("--dport 22"));
}

fn web(hosts: &Hosts, _: &str) {
    let done = hosts.connect(OUTSIDE, OURS, 80, 40);
    assert_eq!(done, vec!["ok"; 40]);
    assert_eq!(hosts.connect(OUTSIDE, OURS, 443, 1), ["ok"]);
    assert!(hosts.packets("-m multiport --dports 80,443") >= 82);
    for void in [
        "--set --name WEB_CONN",
        "-j LOG --log-prefix \"WEB_ABUSE: \"",
        "-m connlimit",
    ] {
        assert_eq!(hosts.packets(void), 0, "{void}");
    }
    assert_eq!(hosts.bench.succeeds(&["recent", "list", "WEB_CONN"]), "");
}

fn database(hosts: &Hosts, _: &str) {
    assert_eq!(hosts.connect("192.168.1.10", OURS, 3306, 1), ["ok"]);
    assert_eq!(
        hosts.connect("192.168.1.100", OURS, 3306, 1),
        ["ECONNREFUSED"]
    );
    hosts.connects(3306, "ECONNREFUSED");
    assert!(hosts.packets("-j LOG --log-prefix \"DB_ACCESS_DENIED: \"") >= 2);
}

fn gateway(hosts: &Hosts, _: &str) {
    let from_inside = hosts.connect("192.168.1.100", OUTSIDE, 9, 1);
    assert_eq!(from_inside, ["ECONNREFUSED"], "nobody listens there");
    assert_eq!(
        hosts.connect("192.168.100.5", "192.168.1.100", 8080, 2),
        ["ok"; 2]
    );
    assert_eq!(hosts.packets("-A FORWARD -s 192.168.0.0/16"), 3);
    assert!(hosts.packets("-A FORWARD -m conntrack --ctstate RELATED,ESTABLISHED") >= 6);
    for void in ["-m connlimit", "-A FORWARD -s 192.168.100.0/24"] {
        assert_eq!(hosts.packets(void), 0, "{void}");
    }
}
