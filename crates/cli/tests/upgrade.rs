//! A daemon whose maps have another layout takes over while packets come.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use keepstate_testkit::{Namespace, Running, programs_or_skip, root_or_skip, run};

const KEEPSTATE: &str = env!("CARGO_BIN_EXE_keepstate");

/// No layout will ever have this number.
const OTHER_LAYOUT: &str = "1000000";

/// A packet whose record is lost finds no mercy: `nf_conntrack_tcp_loose` is off, and only a SYN begins a flow.
const RULES: &str = "*filter
:INPUT DROP [0:0]
:FORWARD DROP [0:0]
:OUTPUT DROP [0:0]
-A INPUT -m conntrack --ctstate ESTABLISHED,RELATED -j ACCEPT
-A INPUT -m set --match-set friends src -p tcp -m tcp --syn --dport 5201 -j ACCEPT
-A INPUT -p icmp -j ACCEPT
-A OUTPUT -m conntrack --ctstate ESTABLISHED,RELATED -j ACCEPT
COMMIT
";

struct Hosts {
    server: Namespace,
    client: Namespace,
    directory: PathBuf,
    instance: String,
}

impl Hosts {
    fn new() -> Self {
        let (server, client) = (Namespace::new("upgs"), Namespace::new("upgc"));
        server.connect("eth0", &client, "eth0");
        server.address("eth0", "10.79.0.1/24");
        client.address("eth0", "10.79.0.2/24");
        let instance = format!("upgrade-{}", std::process::id());
        let directory = std::env::temp_dir().join(format!("keepstate-{instance}"));
        std::fs::create_dir_all(&directory).unwrap();
        Self {
            server,
            client,
            directory,
            instance,
        }
    }

    fn keepstate(&self, words: &[&str]) -> Command {
        let mut command = self.server.command(KEEPSTATE);
        command
            .args(words)
            .env("KEEPSTATE_INSTANCE", &self.instance);
        command
    }

    fn says(&self, words: &[&str]) -> String {
        run(&mut self.keepstate(words))
    }

    fn status(&self) -> serde_json::Value {
        serde_json::from_str(&self.says(&["status", "--json"])).unwrap()
    }

    /// Ends the daemon; the programs filter on.
    fn end_daemon(&self) {
        let id = self.status()["pid"].to_string();
        run(Command::new("kill").arg(&id));
        let deadline = Instant::now() + Duration::from_secs(20);
        while std::fs::exists(format!("/proc/{id}")).unwrap() {
            assert!(Instant::now() < deadline, "the daemon does not end");
            thread::sleep(Duration::from_millis(10));
        }
    }

    /// Names of the flows that are there, and what does not change from packet to packet.
    fn flows(&self) -> BTreeSet<String> {
        let listed = self.says(&["flows", "--json"]);
        let flows = listed.lines().map(|line| {
            let mut flow: serde_json::Value = serde_json::from_str(line).unwrap();
            let fields = flow.as_object_mut().unwrap();
            for changing in ["seconds_left", "id"] {
                fields.remove(changing);
            }
            for direction in ["original", "reply"] {
                let ends = fields[direction].as_object_mut().unwrap();
                for changing in ["packets", "bytes", "window"] {
                    ends.remove(changing);
                }
            }
            flow.to_string()
        });
        flows.collect()
    }

    /// Bytes that flows to the port have counted.
    fn bytes(&self) -> u64 {
        let listed = self.says(&["flows", "--json", "dst", "port", "5201"]);
        let flows = listed.lines().map(|line| {
            let flow: serde_json::Value = serde_json::from_str(line).unwrap();
            flow["original"]["bytes"].as_u64().unwrap()
        });
        flows.sum()
    }
}

impl Drop for Hosts {
    fn drop(&mut self) {
        let _ = self.keepstate(&["down"]).output();
        let _ = std::fs::remove_dir_all(&self.directory);
    }
}

#[test]
fn another_layout_takes_over_without_losing_a_packet_or_a_record() {
    let name = "another_layout_takes_over_without_losing_a_packet_or_a_record";
    let programs = ["ip", "ss", "ping", "iperf3", "nsenter", "kill"];
    if !root_or_skip(name) || !programs_or_skip(name, &programs) {
        return;
    }
    let hosts = Hosts::new();
    begin(&hosts);
    let (server, client) = (&hosts.server, &hosts.client);
    let _server = server.spawn("iperf3", &["-s", "-p", "5201"]);
    server.wait_for_listener(5201);
    let words = [
        "-c",
        "10.79.0.1",
        "-p",
        "5201",
        "-P",
        "2",
        "-b",
        "50M",
        "-t",
        "600",
    ];
    let _transfer = client.spawn("iperf3", &words);
    let ping = client.spawn("ping", &["-i", "0.01", "-q", "10.79.0.1"]);
    // Control and two streams.
    wait_for(|| hosts.bytes() > 1 << 20 && hosts.flows().len() == 4);
    hosts.says(&[
        "conntrack",
        "-U",
        "-p",
        "tcp",
        "--dport",
        "5201",
        "--mark",
        "7",
    ]);
    let before = hosts.flows();
    let counted = hosts.bytes();

    hosts.end_daemon();
    let check = hosts
        .keepstate(&["up", "--check"])
        .env("KEEPSTATE_TEST_LAYOUT", OTHER_LAYOUT)
        .output()
        .unwrap();
    assert!(check.status.success(), "{check:?}");
    let told = run(hosts
        .keepstate(&["up", "--interface", "eth0"])
        .env("KEEPSTATE_TEST_LAYOUT", OTHER_LAYOUT));
    assert!(told.contains("took over"), "{told}");

    assert_eq!(hosts.flows(), before);
    assert!(hosts.bytes() > counted, "counters begin where they were");
    let now = hosts.bytes();
    wait_for(|| hosts.bytes() > now + (1 << 20));
    state_is_there(&hosts);
    let status = hosts.status();
    let reasons = &status["traffic"]["reasons"];
    assert!(
        reasons.as_object().is_none_or(serde_json::Map::is_empty),
        "no packet was dropped or INVALID: {reasons}"
    );
    assert_no_ping_is_lost(ping);
    who_cannot_read_it_leaves_it_alone(&hosts);
}

fn begin(hosts: &Hosts) {
    let rules = hosts.directory.join("v4");
    std::fs::write(&rules, RULES).unwrap();
    let words = "up --interface eth0 --flows-max 4096 --sysctl nf_conntrack_acct=1 --sysctl \
                 nf_conntrack_tcp_loose=0 --sysctl nf_conntrack_tcp_timeout_established=4321";
    hosts.says(&words.split_whitespace().collect::<Vec<_>>());
    hosts.says(&["set", "create", "friends", "hash:net"]);
    hosts.says(&["set", "add", "friends", "10.79.0.0/24"]);
    hosts.says(&["apply", rules.to_str().unwrap(), "--force"]);
    hosts.says(&["ban", "add", "203.0.113.0/24", "--for", "1h"]);
}

fn state_is_there(hosts: &Hosts) {
    assert!(hosts.says(&["ban", "list"]).contains("203.0.113.0/24"));
    assert!(
        hosts
            .says(&["set", "save"])
            .contains("add friends 10.79.0.0/24")
    );
    let established = "net.netfilter.nf_conntrack_tcp_timeout_established";
    assert_eq!(hosts.says(&["sysctl", "-n", established]).trim(), "4321");
    let rules = hosts.says(&["iptables-save"]);
    assert!(rules.contains("--match-set friends src"), "{rules}");
    assert!(rules.contains(":OUTPUT DROP"), "{rules}");
    assert_eq!(hosts.status()["table"]["flows_max"], 4096);
}

/// What `ping` says when it is interrupted: each packet was answered, but for one that may be on its way.
#[track_caller]
fn assert_no_ping_is_lost(ping: Running) {
    // nsenter has become it.
    run(Command::new("kill").args(["-INT", &ping.id().to_string()]));
    let told = ping.finish();
    let line = told
        .lines()
        .find(|line| line.contains("packets transmitted"));
    let line = line.unwrap_or_default();
    let mut counts = line.split(", ").map(|part| {
        let number = part.split(' ').next().unwrap_or_default();
        number.parse::<u64>().unwrap_or_default()
    });
    let (sent, received) = (counts.next().unwrap(), counts.next().unwrap());
    assert!(sent > 100 && sent - received <= 1, "{line}");
}

/// The program that made these maps is told to be one of another layout: nobody can read them.
fn who_cannot_read_it_leaves_it_alone(hosts: &Hosts) {
    hosts.end_daemon();
    let refused = hosts
        .keepstate(&["up", "--interface", "eth0"])
        .output()
        .unwrap();
    let told = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(!refused.status.success());
    assert!(
        told.contains("filters here (its maps have layout 1000000"),
        "{told}"
    );
    assert!(told.contains("keepstate down"), "{told}");
    hosts
        .client
        .run("ping", &["-c", "2", "-i", "0.2", "-W", "2", "10.79.0.1"]);
}

#[track_caller]
fn wait_for(is_so: impl Fn() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(60);
    while !is_so() {
        assert!(Instant::now() < deadline, "nothing comes of it");
        thread::sleep(Duration::from_millis(50));
    }
}
