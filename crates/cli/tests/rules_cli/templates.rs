//! Templates, packet by packet in user space, and the base with real traffic.

use crate::bench::Bench;
use crate::offline::{Files, keepstate, text};

/// The rules of a template.
fn shown(words: &[&str]) -> String {
    let output = keepstate(&[&["template", "show"], words].concat());
    assert!(output.status.success(), "{}", text(&output.stderr));
    text(&output.stdout)
}

/// Whether a packet passes a host with the addresses 10.0.0.1 and 2001:db8::1.
#[track_caller]
fn passes(rules: &str, packet: &str) -> bool {
    let words: Vec<&str> = packet.split_whitespace().collect();
    let locals = ["--local", "10.0.0.1", "--local", "2001:db8::1"];
    let arguments = [&["explain", packet, "--rules", rules], &locals[..]].concat();
    let output = keepstate(&arguments);
    let told = text(&output.stdout);
    assert!(
        output.status.success(),
        "{words:?}\n{}",
        text(&output.stderr)
    );
    let verdict = told
        .lines()
        .rfind(|line| line.starts_with("verdict"))
        .expect("there is a verdict");
    verdict.contains("ACCEPT")
}

#[track_caller]
fn all_pass(rules: &str, packets: &[&str]) {
    for packet in packets {
        assert!(passes(rules, packet), "{packet} is refused");
    }
}

#[track_caller]
fn none_passes(rules: &str, packets: &[&str]) {
    for packet in packets {
        assert!(!passes(rules, packet), "{packet} passes");
    }
}

#[test]
fn templates_are_listed() {
    let output = keepstate(&["template", "list"]);
    let told = text(&output.stdout);
    for name in ["base", "web", "database", "gateway", "game"] {
        assert!(told.contains(name), "{told}");
    }
}

#[test]
fn templates_let_pass_what_they_are_for_and_nothing_else() {
    let files = Files::new("templates");
    let rules = |name: &str, words: &[&str]| files.write(name, &shown(words));

    let base = rules(
        "base",
        &["base", "--allow-ssh-from", "10.0.0.0/24,2001:db8::/64"],
    );
    all_pass(
        &base,
        &[
            "tcp 10.0.0.5:5000 > 10.0.0.1:22 syn in eth0",
            "tcp [2001:db8::5]:5000 > [2001:db8::1]:22 syn in eth0",
            "tcp 10.7.0.5:80 > 10.0.0.1:5000 ack in eth0 state established reply",
            "tcp 10.0.0.1:5000 > 10.7.0.5:80 syn out eth0",
        ],
    );
    none_passes(
        &base,
        &[
            "tcp 10.7.0.5:5000 > 10.0.0.1:22 syn in eth0",
            "tcp [2001:db8:1::5]:5000 > [2001:db8::1]:22 syn in eth0",
            "tcp 10.0.0.5:5000 > 10.0.0.1:80 syn in eth0",
            "udp 10.0.0.5:5000 > 10.0.0.1:53 in eth0",
            "tcp 10.0.0.5:5000 > 10.7.0.9:22 syn in eth0",
        ],
    );

    let web = rules("web", &["web"]);
    all_pass(
        &web,
        &[
            "tcp 10.7.0.5:5000 > 10.0.0.1:443 syn in eth0",
            "tcp [2001:db8:1::5]:5000 > [2001:db8::1]:80 syn in eth0",
        ],
    );
    none_passes(&web, &["tcp 10.7.0.5:5000 > 10.0.0.1:3306 syn in eth0"]);

    let database = rules(
        "database",
        &["database", "--app-servers", "10.0.0.10,10.0.0.11"],
    );
    all_pass(
        &database,
        &["tcp 10.0.0.11:5000 > 10.0.0.1:3306 syn in eth0"],
    );
    none_passes(
        &database,
        &[
            "tcp 10.0.0.12:5000 > 10.0.0.1:3306 syn in eth0",
            "tcp [2001:db8::5]:5000 > [2001:db8::1]:3306 syn in eth0",
        ],
    );

    let gateway = rules(
        "gateway",
        &[
            "gateway",
            "--inside",
            "192.168.0.0/16",
            "--dmz",
            "192.168.100.0/24",
            "--tcp-ports",
            "80",
        ],
    );
    all_pass(
        &gateway,
        &[
            "tcp 192.168.1.5:5000 > 8.8.8.8:443 syn in eth1",
            "tcp 192.168.1.5:5000 > 192.168.100.9:22 syn in eth1",
            "tcp 8.8.8.8:5000 > 192.168.100.9:80 syn in eth0",
            "tcp 192.168.100.9:80 > 192.168.1.5:5000 ack in eth2 state established reply",
        ],
    );
    none_passes(
        &gateway,
        &[
            "tcp 192.168.100.9:5000 > 192.168.1.5:22 syn in eth2",
            "tcp 8.8.8.8:5000 > 192.168.1.5:22 syn in eth0",
            "tcp 8.8.8.8:5000 > 192.168.100.9:22 syn in eth0",
        ],
    );

    let game = rules("game", &["game", "--udp-ports", "27015,27016"]);
    all_pass(&game, &["udp 10.7.0.5:5000 > 10.0.0.1:27016 in eth0"]);
    none_passes(&game, &["udp 10.7.0.5:5000 > 10.0.0.1:27017 in eth0"]);
}

#[test]
fn the_base_template_shows_strangers_one_port() {
    let Some(bench) = Bench::up("the_base_template_shows_strangers_one_port", "base") else {
        return;
    };
    let _servers = ["22", "80"].map(|port| {
        let server = bench.ours.spawn("python3", &["-m", "http.server", port]);
        bench.ours.wait_for_listener(port.parse().expect("a port"));
        server
    });
    let connects = |port: u16| {
        let program =
            format!("import socket; socket.create_connection(('10.9.0.1', {port}), timeout=1)");
        bench.peer.succeeds("python3", &["-c", &program])
    };
    assert!(connects(22) && connects(80));
    bench.succeeds(&["template", "apply", "base"]);
    assert!(connects(22), "SSH's port is shut");
    assert!(!connects(80), "another port is open");
    assert!(bench.answers(), "ping is not answered");
    let checked = bench.keepstate(&["check", "running"]);
    assert_eq!(text(&checked.stdout), "");
    assert_eq!(checked.status.code(), Some(0));
}
