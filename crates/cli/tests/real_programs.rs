//! Real programs of others through a policy-DROP firewall, in namespaces of the test's own.

use std::path::PathBuf;
use std::process::Command;

use keepstate_testkit::{Namespace, programs_or_skip, root_or_skip, run};

const KEEPSTATE: &str = env!("CARGO_BIN_EXE_keepstate");

const SERVER_V4: &str = "10.77.0.1";
const CLIENT_V4: &str = "10.77.0.2";
const SERVER_V6: &str = "fd77::1";
const CLIENT_V6: &str = "fd77::2";

/// The tutorial's base template, as `iptables-save` writes it.
const BASE_V4: &str = "*filter
:INPUT DROP [0:0]
:FORWARD DROP [0:0]
:OUTPUT ACCEPT [0:0]
-A INPUT -i lo -j ACCEPT
-A INPUT -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT
-A INPUT -m conntrack --ctstate INVALID -j DROP
-A INPUT -p tcp -m tcp --dport 22 -m conntrack --ctstate NEW -j ACCEPT
COMMIT
";

/// The same for IPv6, which needs neighbour discovery: untracked, as in Linux.
const BASE_V6: &str = "*filter
:INPUT DROP [0:0]
:FORWARD DROP [0:0]
:OUTPUT ACCEPT [0:0]
-A INPUT -i lo -j ACCEPT
-A INPUT -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT
-A INPUT -m conntrack --ctstate INVALID -j DROP
-A INPUT -p ipv6-icmp -m conntrack --ctstate UNTRACKED -j ACCEPT
-A INPUT -p tcp -m tcp --dport 22 -m conntrack --ctstate NEW -j ACCEPT
COMMIT
";

/// A server behind Keepstate, and a client.
struct Hosts {
    server: Namespace,
    client: Namespace,
    directory: PathBuf,
    instance: String,
}

impl Hosts {
    fn new(label: &str) -> Self {
        let server = Namespace::new(&format!("{label}s"));
        let client = Namespace::new(&format!("{label}c"));
        server.connect("eth0", &client, "eth0");
        for (host, v4, v6) in [
            (&server, SERVER_V4, SERVER_V6),
            (&client, CLIENT_V4, CLIENT_V6),
        ] {
            host.address("eth0", &format!("{v4}/24"));
            host.address("eth0", &format!("{v6}/64"));
        }
        let name = format!("keepstate-{label}-{}", std::process::id());
        let directory = std::env::temp_dir().join(&name);
        std::fs::create_dir_all(&directory).unwrap();
        std::fs::write(directory.join("v4"), BASE_V4).unwrap();
        std::fs::write(directory.join("v6"), BASE_V6).unwrap();
        Self {
            server,
            client,
            directory,
            instance: name,
        }
    }

    fn keepstate(&self, words: &[&str]) -> Command {
        let mut command = self.server.command(KEEPSTATE);
        command.args(words).args(["--instance", &self.instance]);
        command
    }

    fn up(&self) {
        let (v4, v6) = (self.directory.join("v4"), self.directory.join("v6"));
        let words = ["up", "--interface", "eth0"];
        run(self
            .keepstate(&words)
            .arg("--rules")
            .arg(v4)
            .arg("--rules6")
            .arg(v6));
    }

    fn flows(&self) -> String {
        run(&mut self.keepstate(&["flows"]))
    }

    fn daemon_id(&self) -> String {
        let status = run(&mut self.keepstate(&["status", "--json"]));
        let status: serde_json::Value = serde_json::from_str(&status).unwrap();
        status["pid"].to_string()
    }
}

impl Drop for Hosts {
    fn drop(&mut self) {
        let _ = self.keepstate(&["down"]).output();
        let _ = std::fs::remove_dir_all(&self.directory);
    }
}

#[test]
fn base_template_with_real_programs() {
    let name = "base_template_with_real_programs";
    let programs = [
        "ip", "ss", "nginx", "curl", "ping", "dig", "dnsmasq", "iperf3", "nmap", "nsenter",
    ];
    if !root_or_skip(name) || !programs_or_skip(name, &programs) {
        return;
    }
    let hosts = Hosts::new("real");
    let (server, client) = (&hosts.server, &hosts.client);
    let _web = start_nginx(&hosts);
    hosts.up();

    for address in [SERVER_V4, "[fd77::1]"] {
        let url = |port: u16| format!("http://{address}:{port}/");
        let page = client.run("curl", &["-s", "-m", "5", &url(22)]);
        assert!(page.contains("remembered"), "{page}");
        assert!(
            !client.succeeds("curl", &["-s", "-m", "1", &url(80)]),
            "port 80 must be shut"
        );
    }
    for (inside, outside) in [(SERVER_V4, CLIENT_V4), (SERVER_V6, CLIENT_V6)] {
        server.run("ping", &["-c", "3", "-i", "0.2", "-W", "2", outside]);
        assert!(
            !client.succeeds("ping", &["-c", "1", "-W", "1", inside]),
            "{inside} answered"
        );
    }
    names_are_resolved(&hosts);
    bulk_data_flows(&hosts);
    a_scan_sees_the_open_port_alone(&hosts);
    let flows = hosts.flows();
    assert!(
        flows.contains("dport=22") && flows.contains("[ASSURED]"),
        "{flows}"
    );
}

fn start_nginx(hosts: &Hosts) -> keepstate_testkit::Running {
    let page = hosts.directory.join("index.html");
    std::fs::write(page, "this connection is remembered\n").unwrap();
    let configuration = format!(
        "daemon off; pid {0}/nginx.pid; error_log {0}/error.log;
        events {{}}
        http {{ access_log off; server {{ root {0};
        listen 22; listen [::]:22; listen 80; listen [::]:80; }} }}",
        hosts.directory.display()
    );
    let file = hosts.directory.join("nginx.conf");
    std::fs::write(&file, configuration).unwrap();
    // Its workers give up root and must be able to read the page.
    run(Command::new("chmod")
        .args(["-R", "a+rX"])
        .arg(&hosts.directory));
    let running = hosts
        .server
        .spawn("nginx", &["-c", &file.display().to_string()]);
    hosts.server.wait_for_listener(22);
    running
}

/// UDP, with the question from inside.
fn names_are_resolved(hosts: &Hosts) {
    let words = [
        "--no-daemon",
        "--no-resolv",
        "--no-hosts",
        "--address=/remembered.test/192.0.2.7",
    ];
    let _dns = hosts.client.spawn("dnsmasq", &words);
    hosts.client.wait_for_listener(53);
    for server in [CLIENT_V4, CLIENT_V6] {
        let at = format!("@{server}");
        let answer = hosts
            .server
            .run("dig", &["+short", "+time=2", &at, "remembered.test"]);
        assert_eq!(answer.trim(), "192.0.2.7");
    }
}

fn bulk_data_flows(hosts: &Hosts) {
    let _iperf = hosts.client.spawn("iperf3", &["-s"]);
    hosts.client.wait_for_listener(5201);
    for address in [CLIENT_V4, CLIENT_V6] {
        for direction in [None, Some("-R")] {
            let mut words = vec!["-c", address, "-t", "1", "-J"];
            words.extend(direction);
            let report = hosts.server.run("iperf3", &words);
            let report: serde_json::Value = serde_json::from_str(&report).unwrap();
            let bits = report["end"]["sum_received"]["bits_per_second"]
                .as_f64()
                .unwrap_or(0.0);
            assert!(bits > 1e6, "{address} {direction:?}: {bits} bit/s");
        }
    }
}

fn a_scan_sees_the_open_port_alone(hosts: &Hosts) {
    let words = [
        "-n",
        "-Pn",
        "-sS",
        "-p",
        "20-25,80,443",
        "--max-retries",
        "1",
        "-oG",
        "-",
    ];
    let report = hosts
        .client
        .run("nmap", &[&words[..], &[SERVER_V4]].concat());
    let ports = report
        .lines()
        .find(|line| line.contains("Ports:"))
        .unwrap_or_default();
    assert!(ports.contains("22/open/tcp"), "{report}");
    assert_eq!(report.matches("/open/").count(), 1, "{report}");
    assert!(!report.contains("/closed/"), "{report}");
}

#[test]
fn nothing_is_lost_when_the_daemon_is_killed_under_load() {
    let name = "nothing_is_lost_when_the_daemon_is_killed_under_load";
    if !root_or_skip(name) || !programs_or_skip(name, &["ip", "ping", "iperf3", "nsenter"]) {
        return;
    }
    let hosts = Hosts::new("kill");
    hosts.up();
    let _iperf = hosts.client.spawn("iperf3", &["-s"]);
    hosts.client.wait_for_listener(5201);
    let load = hosts.server.spawn("iperf3", &["-c", CLIENT_V4, "-t", "8"]);
    let words = ["-c", "250", "-i", "0.02", "-q", CLIENT_V4];
    let pings = hosts
        .server
        .command("ping")
        .args(words)
        .stdout(std::process::Stdio::piped())
        .spawn();
    let pings = pings.unwrap();
    std::thread::sleep(std::time::Duration::from_millis(1_000));
    let before = established(&hosts.flows());
    assert!(!before.is_empty(), "no flow of the load");
    run(Command::new("kill").args(["-9", &hosts.daemon_id()]));
    std::thread::sleep(std::time::Duration::from_millis(1_500));
    // A new daemon adopts what goes on.
    run(&mut hosts.keepstate(&["up", "--interface", "eth0"]));
    let after = established(&hosts.flows());
    for flow in &before {
        assert!(after.contains(flow), "lost: {flow}");
    }
    let output = pings.wait_with_output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(text.contains(" 0% packet loss"), "{text}");
    drop(load);
    // The policy is still in force: nothing new gets in.
    assert!(
        !hosts
            .client
            .succeeds("ping", &["-c", "1", "-W", "1", SERVER_V4])
    );
}

/// Tuples of established TCP flows.
fn established(flows: &str) -> Vec<String> {
    let lines = flows.lines().filter(|line| line.contains("ESTABLISHED"));
    let tuple = |line: &str| {
        let words = line.split_whitespace();
        words
            .filter(|word| word.contains("port=") || word.contains("src="))
            .collect::<String>()
    };
    lines.map(tuple).collect()
}

#[test]
fn down_leaves_nothing_behind() {
    let name = "down_leaves_nothing_behind";
    if !root_or_skip(name) || !programs_or_skip(name, &["ip", "tc", "bpftool", "nsenter"]) {
        return;
    }
    let hosts = Hosts::new("down");
    hosts.up();
    let attached = hosts.server.run("ip", &["-d", "link", "show", "eth0"]);
    assert!(attached.contains("xdp"), "{attached}");
    run(&mut hosts.keepstate(&["down"]));
    let left = hosts.server.run("ip", &["-d", "link", "show", "eth0"]);
    assert!(!left.contains("prog/xdp"), "{left}");
    let qdisc = hosts.server.run("tc", &["qdisc", "show", "dev", "eth0"]);
    assert!(!qdisc.contains("clsact"), "{qdisc}");
    let net = hosts.server.run("bpftool", &["net", "show"]);
    assert!(!net.contains("eth0"), "{net}");
    let pins = std::path::Path::new("/sys/fs/bpf/keepstate").join(&hosts.instance);
    assert!(!pins.exists(), "{} is left", pins.display());
    assert!(
        hosts
            .client
            .succeeds("ping", &["-c", "1", "-W", "2", SERVER_V4]),
        "still filtered"
    );
}
