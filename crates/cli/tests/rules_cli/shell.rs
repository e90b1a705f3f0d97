//! Scripts for the kernel's firewall, run for ours.

use std::process::Output;

use keepstate_testkit::require_program;

use crate::bench::{Bench, KEEPSTATE};
use crate::offline::text;

/// Runs a script to its end. What would never end is ended after some seconds; accounting, where it is
/// turned on for the first time, loads the programs anew and may take longer.
pub(crate) fn run(bench: &Bench, script: &str) -> Output {
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
pub(crate) fn host(bench: &Bench) -> Vec<String> {
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

pub(crate) fn bench(test: &str, label: &str) -> Option<Bench> {
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

    // So are the knobs of TCP against SYN floods.
    let said = succeeds(
        &bench,
        "#!/bin/bash\nset -e\ncd /proc/sys/net/ipv4\n\
         cat tcp_syncookies tcp_synack_retries\n\
         echo 2 > tcp_syncookies; echo 2048 > tcp_max_syn_backlog; echo 3 > tcp_synack_retries\n\
         cat tcp_syncookies tcp_max_syn_backlog tcp_synack_retries\n\
         sysctl -n net.netfilter.nf_conntrack_tcp_timeout_syn_recv\n\
         ! echo 7 > tcp_syncookies\n\
         keepstate cookies status | grep -c 'above 2048 and at 512'\n",
    );
    let lines: Vec<&str> = said.lines().collect();
    assert_eq!(lines, ["1", "5", "2", "2048", "3", "15", "1"], "{said}");
    assert_eq!(host(&bench), before, "the host is another one");

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

/// Written here in the shapes that scripts of others have; with how many rules of IPv4 they make, and the last line that they say.
const SCRIPTS: [(&str, usize, &str); 6] = [
    ("functions.sh", 11, "3"),
    ("here-document.sh", 11, "present"),
    ("ensure.sh", 0, "3"),
    ("called.py", 6, "10"),
    ("old-style.sh", 7, "7"),
    ("services.sh", 6, "3"),
];

#[test]
fn scripts_of_others_run_unmodified() {
    const NAME: &str = "scripts_of_others_run_unmodified";
    let Some(bench) = bench(NAME, "scripts") else {
        return;
    };
    let before = host(&bench);
    for (name, rules, last) in SCRIPTS {
        let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR"));
        let path = path.join("tests/rules_cli/scripts").join(name);
        let script = std::fs::read_to_string(path).expect("the script is there");
        let said = succeeds(&bench, &script);
        assert_eq!(said.lines().last(), Some(last), "{name}: {said}");
        let saved = bench.ours(&["iptables-save"], "").stdout;
        let count = saved.lines().filter(|line| line.starts_with("-A ")).count();
        assert_eq!(count, rules, "{name}: {saved}");
        succeeds(
            &bench,
            "for t in mangle filter; do iptables -t $t -F; iptables -t $t -X; done\n\
             iptables -P INPUT ACCEPT; iptables -P FORWARD ACCEPT",
        );
    }
    let kept = std::fs::read_to_string(bench.directory.join("etc/rules.v4")).expect("saved");
    assert!(kept.contains("--connlimit-above 10"), "{kept}");
    assert_eq!(host(&bench), before, "the host is another one");
}
