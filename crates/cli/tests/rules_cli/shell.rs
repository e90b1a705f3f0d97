//! Scripts for the kernel's firewall, run for ours: the tutorial's, block by block, as they stand.

use std::process::Output;

use keepstate_testkit::{require_program, shared_dir_or_skip};

use crate::bench::{Bench, KEEPSTATE};
use crate::offline::text;

/// Runs a script to its end. What would never end is ended after some seconds; accounting, where it is
/// turned on for the first time, loads the programs anew and may take longer.
fn run(bench: &Bench, script: &str) -> Output {
    let seconds = if script.contains("conntrack -E") {
        "10"
    } else {
        "120"
    };
    let file = bench.file("script.sh", script);
    let mut command = bench.command("timeout".as_ref());
    command.args([
        seconds,
        KEEPSTATE,
        "shell",
        "--instance",
        &bench.instance,
        &file,
    ]);
    command.output().expect("timeout can be started")
}

#[track_caller]
fn succeeds(bench: &Bench, script: &str) -> String {
    let output = run(bench, script);
    let (said, wrong) = (text(&output.stdout), text(&output.stderr));
    assert_eq!(output.status.code(), Some(0), "{script}\n{said}{wrong}");
    said
}

/// What a script might have changed of the machine.
fn host(bench: &Bench) -> Vec<String> {
    let read = |path: &str| bench.ours.run("cat", &[path]);
    let mounts = std::fs::read_to_string("/proc/self/mounts").expect("there are mounts");
    // Other tests mount namespaces meanwhile.
    let ours = [
        "keepstate",
        " fuse",
        " /proc/",
        " /etc/",
        " /usr/",
        " /run/keepstate",
    ];
    let mounts = mounts
        .lines()
        .filter(|line| ours.iter().any(|part| line.contains(part)));
    vec![
        read("/proc/sys/net/netfilter/nf_conntrack_acct"),
        read("/proc/sys/net/netfilter/nf_conntrack_max"),
        read("/proc/sys/net/ipv4/tcp_syncookies"),
        read("/proc/sys/net/ipv4/tcp_synack_retries"),
        bench.ours.run("iptables", &["-S"]),
        std::fs::read_to_string("/etc/sysctl.conf").unwrap_or_default(),
        mounts.collect(),
    ]
}

fn bench(test: &str, label: &str) -> Option<Bench> {
    let has = ["timeout", "bash"].into_iter().all(require_program);
    if !has || !std::path::Path::new("/dev/fuse").exists() {
        keepstate_testkit::skip(test, "there is no /dev/fuse, timeout or bash");
        return None;
    }
    Bench::up(test, label)
}

#[test]
fn programs_and_files_are_keepstates_and_the_hosts_are_left_alone() {
    const NAME: &str = "programs_and_files_are_keepstates_and_the_hosts_are_left_alone";
    let Some(bench) = bench(NAME, "shell") else {
        return;
    };
    let before = host(&bench);
    let said = succeeds(
        &bench,
        "#!/bin/bash\nset -e\n\
         iptables -A INPUT -p tcp --dport 22 -j ACCEPT\n\
         /usr/sbin/iptables -A INPUT -j DROP\n\
         iptables-save | grep -c '^-A'\n\
         echo 1 > /proc/sys/net/netfilter/nf_conntrack_acct\n\
         cat /proc/sys/net/netfilter/nf_conntrack_acct\n\
         sysctl -n net.netfilter.nf_conntrack_acct\n\
         echo 'net.netfilter.nf_conntrack_tcp_timeout_established = 300' >> /etc/sysctl.conf\n\
         sysctl -p\n\
         cat /proc/sys/net/netfilter/nf_conntrack_tcp_timeout_established\n\
         head -c 5 /proc/net/dev > /dev/null\n\
         service iptables save\n\
         echo arguments: $#\n",
    );
    let lines: Vec<&str> = said.lines().collect();
    assert_eq!(&lines[..3], ["2", "1", "1"], "{said}");
    assert!(lines.contains(&"300"), "{said}");
    assert_eq!(host(&bench), before, "the host is another one");
    assert!(!bench.answers(), "the rules are not in force");
    let kept = std::fs::read_to_string(bench.directory.join("etc/rules.v4")).expect("saved");
    assert!(
        kept.contains("-A INPUT -p tcp -m tcp --dport 22 -j ACCEPT"),
        "{kept}"
    );
    let settings = std::fs::read_to_string(bench.directory.join("etc/sysctl.conf"));
    assert!(settings.expect("it is there").contains("established = 300"));

    // Flows are seen where scripts look for them.
    succeeds(&bench, "iptables -F");
    assert!(bench.answers());
    let said = succeeds(
        &bench,
        "cat /proc/net/nf_conntrack; wc -l < /proc/net/nf_conntrack",
    );
    assert!(said.contains("ipv4     2 icmp     1"), "{said}");
    assert!(said.ends_with("1\n"), "{said}");
    let listed = succeeds(
        &bench,
        "ls /proc/sys/net/netfilter; conntrack -L 2>/dev/null",
    );
    assert!(
        listed.contains("nf_conntrack_udp_timeout_stream\n"),
        "{listed}"
    );
    assert!(listed.contains("src=10.9.0.2"), "{listed}");

    // What the daemon refuses is refused, and the script's exit code is handed on.
    let refused = run(
        &bench,
        "echo nonsense > /proc/sys/net/netfilter/nf_conntrack_acct; exit 7",
    );
    assert_eq!(refused.status.code(), Some(7));
    let said = text(&refused.stderr);
    assert!(
        said.contains("`nonsense` is no number from 0 to 1"),
        "{said}"
    );
    assert!(said.contains("script.sh: 1: echo:"), "{said}");
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

/// What the tutorial gets wrong itself, or what finds nothing to do here: the real programs say the same.
const EXPECTED: [&str; 4] = [
    // `conntrack -I` without -t.
    "conntrack v1.4.7",
    "Try `conntrack -h'",
    // Knobs that Keepstate has not.
    "Keepstate has no such knob",
    // The number of buckets is settled when the daemon starts.
    "nf_conntrack_buckets",
];

#[test]
fn the_tutorials_blocks_run_as_they_stand() {
    const NAME: &str = "the_tutorials_blocks_run_as_they_stand";
    let Some(shared) = shared_dir_or_skip(NAME) else {
        return;
    };
    let Some(bench) = bench(NAME, "tutorial") else {
        return;
    };
    let document = std::fs::read_to_string(shared.join("spec/conntrack-tutorial.zh.md"));
    let blocks = blocks(&document.expect("the tutorial is there"));
    assert_eq!(blocks.len(), 19, "the tutorial has other blocks");
    let before = host(&bench);
    for (line, script) in &blocks {
        bench.ours(&["iptables-restore"], "*filter\nCOMMIT\n*raw\nCOMMIT\n");
        let output = run(&bench, script);
        let wrong = text(&output.stderr);
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
        check_effect(&bench, script);
    }
    assert_eq!(host(&bench), before, "the host is another one");
}

/// What is asserted of a block beyond that it runs.
fn check_effect(bench: &Bench, script: &str) {
    let saved = || bench.ours(&["iptables-save"], "").stdout;
    let knob = |name: &str| {
        bench
            .keepstate_plain(&["sysctl", "-n", &format!("net.netfilter.{name}")])
            .stdout
    };
    if script.contains("CT --notrack") {
        assert!(saved().contains("--dport 80 -j CT --notrack"));
    }
    if script.contains("nf_conntrack_acct") {
        assert_eq!(knob("nf_conntrack_acct"), "1\n");
    }
    if script.contains("echo 65536 >") {
        assert_eq!(knob("nf_conntrack_max"), "65536\n");
    }
    if script.contains("echo 600 > ") {
        assert_eq!(knob("nf_conntrack_udp_timeout"), "600\n");
    }
    if script.contains("-s 192.168.1.0/24 -m conntrack --ctstate NEW") {
        assert_eq!(saved().matches("\n-A ").count(), 4);
    }
    if script.contains("iptables -P FORWARD DROP") {
        // The base: one port, and nothing else.
        assert!(!bench.answers(), "ping passes the base");
        let kept = std::fs::read_to_string(bench.directory.join("etc/rules.v4"));
        assert!(kept.expect("saved").contains("--dport 22"));
    }
    if script.contains("192.168.100.0/24") {
        assert!(
            saved().contains("-A FORWARD -s 192.168.0.0/16 -m conntrack --ctstate NEW -j ACCEPT")
        );
    }
}
