//! What goes wrong in ways that are hard to see, each brought about: the doctor names the cause, and a command against it.

#[path = "support/bench.rs"]
mod bench;
#[path = "support/program.rs"]
mod program;

use bench::Bench;
use keepstate_testkit::{programs_or_skip, root_or_skip, run};
use serde_json::Value;

/// Two connections may wait, and nobody takes them.
const NEVER_ACCEPTS: &str = "import socket, time\n\
    s = socket.create_server(('10.9.0.1', 22), backlog=1)\n\
    time.sleep(600)\n";
const CONNECTS: &str = "import socket, time\n\
    socks = [socket.socket() for _ in range(12)]\n\
    for s in socks: s.setblocking(False); s.connect_ex(('10.9.0.1', 22))\n\
    time.sleep(1)\n";
const DATAGRAMS: &str = "import socket\n\
    s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)\n\
    for _ in range(150): s.sendto(b'x', ('10.9.0.1', 7))\n";

impl Bench {
    /// A command line of iptables or sysctl.
    #[track_caller]
    fn called(&self, line: &str) {
        let mut command = self.namespace.command(program::KEEPSTATE);
        command.args(line.split(' '));
        run(command.env("KEEPSTATE_INSTANCE", &self.instance));
    }

    /// What the doctor says by this name, and whose message or evidence has this text.
    fn found(&self, name: &str, text: &str) -> Option<Value> {
        let output = program::keepstate(&self.namespace, &self.instance, &["doctor", "--json"]);
        let told: Value = serde_json::from_slice(&output.stdout).expect("JSON");
        let findings = told["findings"].as_array().expect("a list").clone();
        findings
            .into_iter()
            .find(|it| it["name"] == name && it.to_string().contains(text))
    }

    #[track_caller]
    fn mends(&self, name: &str, text: &str, command: &str) {
        let finding = self.found(name, text);
        let finding = finding.unwrap_or_else(|| panic!("{name} with {text} is not found"));
        let told = finding["command"].as_str().unwrap_or_default();
        assert!(told.contains(command), "{finding}");
    }
}

fn can_run(test: &str) -> bool {
    root_or_skip(test) && programs_or_skip(test, &["ip", "python3"])
}

#[test]
fn connections_that_begin_slowly_are_explained() {
    if !can_run("connections_that_begin_slowly_are_explained") {
        return;
    }
    let bench = Bench::up("slow", &[]);
    assert_eq!(bench.found("listen-full", ""), None);
    let _server = bench.namespace.spawn("python3", &["-c", NEVER_ACCEPTS]);
    bench.namespace.wait_for_listener(22);
    bench.peer.run("python3", &["-c", CONNECTS]);
    bench.mends("listen-full", "port 22", "ss -ltnp 'sport = :22'");

    // Refused by a rule, which is named.
    bench.called("iptables -I INPUT -p udp --dport 7 -j DROP");
    bench.peer.run("python3", &["-c", DATAGRAMS]);
    let drop = "most by ipv4 INPUT 1: -p udp -m udp --dport 7 -j DROP (150 packets)";
    bench.mends("drops", drop, "keepstate");

    // A rule that is passed over for its match is told so by the match's name.
    bench.called("iptables -I INPUT -p udp -m length --length 500:600 -j ACCEPT");
    let told = bench.succeeds(&["explain", "udp 10.9.0.2:5 > 10.9.0.1:7 len 9 in inner"]);
    assert!(told.contains("no: length does not hold"), "{told}");
}

#[test]
fn protection_that_does_not_bite_is_explained() {
    if !can_run("protection_that_does_not_bite_is_explained") {
        return;
    }
    let bench = Bench::up("bite", &[]);
    for name in ["synproxy-loose", "cookies-forbidden", "not-attached"] {
        assert_eq!(bench.found(name, ""), None);
    }
    assert_eq!(bench.found("rules", "2 mistakes"), None);
    // A limit behind the rule that accepts what it should count.
    bench.called(
        "iptables -A INPUT -p tcp --dport 22 --syn -m connlimit --connlimit-above 3 -j DROP",
    );
    bench.mends("rules", "2 mistakes", "keepstate check running");

    bench.called("iptables -t raw -A PREROUTING -p tcp --dport 443 --syn -j CT --notrack");
    bench.called(
        "iptables -A FORWARD -p tcp --dport 443 -m conntrack --ctstate INVALID,UNTRACKED -j SYNPROXY --mss 1460",
    );
    let loose = "nf_conntrack_tcp_loose=0";
    bench.mends("synproxy-loose", "NEW instead of INVALID", loose);
    bench.called(&format!("sysctl -w net.netfilter.{loose}"));
    assert_eq!(bench.found("synproxy-loose", ""), None);

    bench.succeeds(&["cookies", "mode", "always"]);
    bench.mends("cookies-forbidden", "", "net.ipv4.tcp_syncookies=2");
    bench.namespace.sysctl("net.ipv4.tcp_syncookies", "2");
    bench.namespace.sysctl("net.ipv4.tcp_timestamps", "2");
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(10);
    while bench.found("cookies-forbidden", "").is_some() {
        assert!(
            std::time::Instant::now() < deadline,
            "the sysctls are not seen"
        );
    }

    bench.peer.connect("far", &bench.namespace, "aside");
    bench.namespace.address("aside", "10.10.0.1/24");
    bench.mends("not-attached", "aside", "keepstate up");
}
