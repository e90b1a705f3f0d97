//! The table changes its size while iperf3 runs and fifty thousand flows begin each second, and the daemon is
//! killed meanwhile: no flow is lost, no packet refused, not one. Skipped where there are no rights for it.

#[path = "support/program.rs"]
mod program;

use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use keepstate_plane::names;
use keepstate_testkit::{Namespace, Running, programs_or_skip, root_or_skip};
use serde_json::Value;

/// Answers come in by their record alone: what begins from outside is dropped, but what is sent to port 9.
const RULES: &str = "iptables -P INPUT DROP\n\
    iptables -A INPUT -m conntrack --ctstate ESTABLISHED,RELATED -j ACCEPT\n\
    iptables -A INPUT -p udp --dport 9 -j ACCEPT\n";

/// Answers each datagram from the address that it was sent to.
const ECHO: &str = "
import socket
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
s.setsockopt(socket.IPPROTO_IP, 8, 1)
s.setsockopt(socket.SOL_SOCKET, 33, 1 << 24)
s.bind(('', 7))
while True:
    data, extra, _, sender = s.recvmsg(64, 64)
    s.sendmsg([data], [(socket.IPPROTO_IP, 8, extra[0][2])], 0, sender)
";

/// Begins flows, each to an address of its own, and goes on with earlier ones; ends with the number of flows.
const FLOWS: &str = "
import socket, sys, time, signal
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
s.setsockopt(socket.SOL_SOCKET, 33, 1 << 24)
s.bind(('10.9.0.1', 4000))
going = True
def end(*_):
    global going
    going = False
signal.signal(signal.SIGTERM, end)
begun = 0
while going:
    if begun < 60000:
        for _ in range(100):
            s.sendto(b'x', ('10.10.%d.%d' % (begun >> 8, begun & 255), 7))
            begun += 1
    for other in range(begun % 97, begun, 1 + begun // 100):
        s.sendto(b'y', ('10.10.%d.%d' % (other >> 8, other & 255), 7))
    try:
        while True:
            s.recv(64, socket.MSG_DONTWAIT)
    except BlockingIOError:
        pass
    time.sleep(0.001)
print(begun)
";

/// Begins 50,000 flows a second by frames that the stack behind the programs throws away, since they are for
/// another host. Ends when it is told to, or after 12 million, with their number.
const FLOOD: &str = "
import signal, socket, struct, sys, time
s = socket.socket(socket.AF_PACKET, socket.SOCK_RAW)
s.bind(('outer', 0x0800))
def header(sender):
    return struct.pack('!BBHHHBBH4B4B', 0x45, 0, 28, 0, 0x4000, 64, 17, 0, 10, 9, 0, sender, 10, 9, 0, 1)
def header_sum(sender):
    words = sum(struct.unpack('!10H', header(sender)))
    return ~((words & 0xffff) + (words >> 16)) & 0xffff
header_sums = [header_sum(10 + at) for at in range(200)]
frame = bytearray(bytes([2, 0, 0, 0, 0, 0x99, 2, 0, 0, 0, 0, 1, 8, 0]) + header(0) + bytes(26))
struct.pack_into('!HHHH', frame, 34, 0, 9, 8, 0)
going = True
def end(*_):
    global going
    going = False
signal.signal(signal.SIGTERM, end)
sent, begun = 0, time.monotonic()
while going and sent < 12000000:
    due = min(int((time.monotonic() - begun) * 50000), sent + 1000)
    while sent < due:
        struct.pack_into('!H', frame, 34, 1024 + sent % 60000)
        struct.pack_into('!H', frame, 24, header_sums[sent // 60000])
        frame[29] = 10 + sent // 60000
        try:
            s.send(frame)
            sent += 1
        except OSError:
            time.sleep(0.001)
    time.sleep(0.001)
print(int(sent / (time.monotonic() - begun)), 'flows a second', file=sys.stderr)
print(sent)
";

struct Bench {
    namespace: Namespace,
    peer: Namespace,
    instance: String,
    rules: PathBuf,
}

impl Bench {
    fn new(name: &str) -> Self {
        let namespace = Namespace::new(name);
        let peer = Namespace::new(&format!("{name}-peer"));
        peer.connect("outer", &namespace, "inner");
        namespace.address("inner", "10.9.0.1/24");
        peer.address("outer", "10.9.0.2/24");
        namespace.run("ip", &["route", "add", "10.10.0.0/16", "via", "10.9.0.2"]);
        peer.run("ip", &["link", "set", "lo", "up"]);
        peer.run(
            "ip",
            &["route", "add", "local", "10.10.0.0/16", "dev", "lo"],
        );
        let instance = format!("test-{}-{name}", std::process::id());
        let rules = std::env::temp_dir().join(&instance);
        std::fs::write(&rules, RULES).expect("the rules can be written");
        Self {
            namespace,
            peer,
            instance,
            rules,
        }
    }

    #[track_caller]
    fn succeeds(&self, arguments: &[&str]) -> String {
        program::succeeds(&self.namespace, &self.instance, arguments)
    }

    fn status(&self) -> Value {
        let text = self.succeeds(&["status", "--json"]);
        serde_json::from_str(&text).expect("status is JSON")
    }

    fn knob(&self, name: &str) -> u64 {
        let name = format!("net.netfilter.{name}");
        let output = self.sysctl(&["-n", &name]).output();
        let output = output.expect("keepstate can be started");
        let text = String::from_utf8_lossy(&output.stdout);
        text.trim().parse().expect("a knob is a number")
    }

    fn set(&self, assignment: &str) -> Output {
        let begun = Instant::now();
        let assignment = format!("net.netfilter.{assignment}");
        let output = self.sysctl(&["-w", &assignment]).output();
        println!("{assignment}: {:?}", begun.elapsed());
        output.expect("keepstate can be started")
    }

    /// As procps' sysctl, the command is told the instance by its environment.
    fn sysctl(&self, arguments: &[&str]) -> Command {
        let mut command = self.namespace.command(program::KEEPSTATE);
        command.arg("sysctl").args(arguments);
        command.env("KEEPSTATE_INSTANCE", &self.instance);
        command
    }

    #[track_caller]
    fn takes(&self, assignment: &str) {
        let output = self.set(assignment);
        let wrong = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{assignment}: {wrong}");
    }

    fn flows(&self) -> u64 {
        self.knob("nf_conntrack_count")
    }

    /// Ends iperf3, after this many other flows were begun: each of them was made once, and nothing was refused.
    /// Returns what is told of the table, and how many flows are iperf3's.
    #[track_caller]
    fn has_refused_nothing(&self, iperf: Running, begun: u64) -> (Value, u64) {
        signal("-INT", iperf.id());
        std::thread::sleep(Duration::from_millis(500));
        let said = iperf.stop();
        let mut status = self.status();
        println!("{begun} flows, {status:#}");
        let carried = said.lines().filter(|line| {
            // One that is interrupted does not learn what was received.
            line.starts_with("[  5]") && !line.ends_with("receiver")
        });
        let stalled = carried
            .filter(|line| line.contains(" 0.00 bits/sec"))
            .count();
        assert!(said.contains("[  5]") && stalled == 0, "{said}");
        let (table, traffic) = (status["table"].take(), &status["traffic"]);
        // Its control connection and its stream.
        let extra = table["inserted"].as_u64().expect("a number") - begun;
        assert!(extra <= 6, "flows were made again");
        assert_eq!(table["refused"], 0, "there was room");
        let reasons = &traffic["reasons"];
        assert_eq!(reasons, &serde_json::json!({}), "packets were refused");
        assert_eq!(traffic["verdicts"]["DROP"], Value::Null);
        (table, extra)
    }

    fn pins_of_newer(&self) -> usize {
        let pins = Path::new("/sys/fs/bpf/keepstate").join(&self.instance);
        let entries = std::fs::read_dir(pins).into_iter().flatten().flatten();
        let names = entries.map(|entry| entry.file_name().to_string_lossy().into_owned());
        names.filter(|name| name.ends_with("_NEXT")).count()
    }

    /// Kills the daemon in the middle of a change, and starts the next one.
    fn is_killed_while_it_changes(&self, buckets: u32, pins: usize, after: Duration) {
        let assignment = format!("net.netfilter.nf_conntrack_buckets={buckets}");
        let daemon = self.status()["pid"].as_u64().expect("a process") as u32;
        let asked = self
            .sysctl(&["-w", &assignment])
            .stderr(Stdio::null())
            .spawn();
        let mut asked = asked.expect("keepstate can be started");
        wait_until(|| self.pins_of_newer() >= pins);
        std::thread::sleep(after);
        signal("-9", daemon);
        let _ = asked.wait();
        println!("killed with {} pins of a newer table", self.pins_of_newer());
        self.succeeds(&["up"]);
        wait_until(|| self.pins_of_newer() == 0);
    }

    /// The change was ended, or undone where packets had not learned of it yet: then it is made again.
    fn comes_to(&self, buckets: u64, before: u64) {
        let now = self.knob("nf_conntrack_buckets");
        println!("{before} buckets, to be {buckets}, are {now}");
        if now == before {
            self.takes(&format!("nf_conntrack_buckets={buckets}"));
        }
        assert_eq!(self.knob("nf_conntrack_buckets"), buckets);
    }
}

impl Drop for Bench {
    fn drop(&mut self) {
        program::keepstate(&self.namespace, &self.instance, &["down"]);
        let _ = std::fs::remove_file(&self.rules);
    }
}

/// Pins of a table that is being made: its maps and the arrays of its stages.
const TABLE_PINS: usize = names::OF_TABLE.len() + 2;
/// With its programs.
const ALL_PINS: usize = TABLE_PINS + names::PROGRAMS.len() + names::ELSEWHERE.len();

fn wait_until(condition: impl Fn() -> bool) {
    // Loading programs takes seconds, and a minute where other work has the machine.
    let deadline = Instant::now() + Duration::from_secs(120);
    while !condition() {
        assert!(Instant::now() < deadline, "it does not come to that");
        std::thread::sleep(Duration::from_micros(200));
    }
}

fn signal(signal: &str, process: u32) {
    let status = Command::new("kill")
        .args([signal, &process.to_string()])
        .status();
    assert!(status.expect("kill can be started").success());
}

#[test]
fn a_table_changes_its_size_under_load_and_loses_nothing() {
    const NAME: &str = "a_table_changes_its_size_under_load_and_loses_nothing";
    if !root_or_skip(NAME) || !programs_or_skip(NAME, &["ip", "kill", "python3", "iperf3"]) {
        return;
    }
    let bench = Bench::new("resize");
    let rules = bench.rules.display().to_string();
    bench.succeeds(&["up", "--flows-max", "100000", "--rules", &rules]);
    // Flows of datagrams last for half a minute; the test may take longer.
    bench.takes("nf_conntrack_udp_timeout=3600");
    bench.takes("nf_conntrack_udp_timeout_stream=3600");
    let _echo = bench.peer.spawn("python3", &["-c", ECHO]);
    let _server = bench.peer.spawn("iperf3", &["-s"]);
    bench.peer.wait_for_listener(5201);
    let streams = ["-c", "10.9.0.2", "-t", "600", "-b", "300M", "-i", "1"];
    let iperf = bench.namespace.spawn("iperf3", &streams);
    let flows = bench.namespace.spawn("python3", &["-c", FLOWS]);
    std::thread::sleep(Duration::from_millis(300));

    bench.takes("nf_conntrack_max=400000");
    assert_eq!(bench.knob("nf_conntrack_max"), 400_000);
    assert_eq!(bench.knob("nf_conntrack_buckets"), 62_500);
    // While the programs are loaded; just when packets learn of the newer table; and while flows move.
    bench.is_killed_while_it_changes(20_000, TABLE_PINS, Duration::ZERO);
    assert_eq!(bench.knob("nf_conntrack_buckets"), 62_500, "it was undone");
    bench.is_killed_while_it_changes(20_000, ALL_PINS, Duration::ZERO);
    bench.comes_to(20_000, 62_500);
    assert_eq!(bench.knob("nf_conntrack_max"), 128_000);
    bench.is_killed_while_it_changes(40_000, ALL_PINS, Duration::from_millis(60));
    bench.comes_to(40_000, 20_000);
    let refused = bench.set("nf_conntrack_buckets=400");
    assert!(!refused.status.success());
    let said = String::from_utf8_lossy(&refused.stderr);
    assert!(said.contains("400 buckets are for 2560"), "{said}");

    signal("-TERM", flows.id());
    let begun: u64 = flows.finish().trim().parse().expect("the number of flows");
    assert!(begun > 10_000, "{begun}");
    let (table, extra) = bench.has_refused_nothing(iperf, begun);
    assert_eq!(table["removed"], 0, "flows were lost");
    assert_eq!(table["flows"], begun + extra);
}

#[test]
fn fifty_thousand_flows_begin_each_second_while_the_size_changes() {
    const NAME: &str = "fifty_thousand_flows_begin_each_second_while_the_size_changes";
    if !root_or_skip(NAME) || !programs_or_skip(NAME, &["ip", "kill", "python3", "iperf3"]) {
        return;
    }
    let bench = Bench::new("many");
    let rules = bench.rules.display().to_string();
    bench.succeeds(&["up", "--flows-max", "700000", "--rules", &rules]);
    // A quarter of a million at a time.
    bench.takes("nf_conntrack_udp_timeout=5");
    let _server = bench.peer.spawn("iperf3", &["-s"]);
    bench.peer.wait_for_listener(5201);
    let streams = ["-c", "10.9.0.2", "-t", "600", "-b", "300M", "-i", "1"];
    let iperf = bench.namespace.spawn("iperf3", &streams);
    let flood = bench.peer.spawn("python3", &["-c", FLOOD]);
    wait_until(|| bench.flows() > 50_000);
    // Larger, smaller, the number of flows alone, and larger again: each with room for all of them.
    let changes = [
        "nf_conntrack_max=900000",
        "nf_conntrack_buckets=100000",
        "nf_conntrack_max=630000",
        "nf_conntrack_buckets=140000",
    ];
    for change in changes {
        bench.takes(change);
    }
    signal("-TERM", flood.id());
    let said = flood.finish();
    println!("{said}");
    let begun = said.lines().next().map(str::parse);
    let begun: u64 = begun.and_then(Result::ok).expect("the number of flows");
    let (table, _) = bench.has_refused_nothing(iperf, begun);
    assert_eq!(table["evicted"], 0, "there was room");
}
