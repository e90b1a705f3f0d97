//! `keepstate sysctl` beside procps' sysctl, and what the knobs do to flows that exist. In network
//! namespaces of the tests' own; skipped where there are no rights for it.

mod bench;
mod knobs;
mod profiles;

use keepstate_testkit::{programs_or_skip, root_or_skip};

use self::bench::Bench;

fn can_run(test: &str) -> bool {
    root_or_skip(test)
        && programs_or_skip(test, &["ip", "nsenter", "sysctl", "ping", "bash", "iperf3"])
}

const FILES: &[(&str, &str)] = &[
    (
        "a.conf",
        "# comment
; comment two
   # indented

net.netfilter.nf_conntrack_udp_timeout = 33
net.netfilter.nf_conntrack_udp_timeout_stream=   77   
  net/netfilter/nf_conntrack_icmp_timeout=5
nonsense line
net.netfilter.nonsense = 3
-net.netfilter.nonsense2 = 3
-net.netfilter.nf_conntrack_acct = 1
net.netfilter.nf_conntrack_acct = 7
-net.netfilter.nf_conntrack_acct = 7
net.netfilter.nf_conntrack_acct
-net.netfilter.nf_conntrack_tcp_loose
= 5
net.netfilter.nf_conntrack_tcp_loose =
net.netfilter.nf_conntrack_generic_timeout = 3 # trailing
net.netfilter.nf_conntrack_t*_loose = 0
net.netfilter.nf_conntrack_log_invalid = 6
kernel.nonsense = 4
",
    ),
    ("b.conf", "net.netfilter.nf_conntrack_acct=0"),
    ("empty.conf", ""),
    (
        "wild.conf",
        "net.netfilter.nf_conntrack_*_loose = 0
-net.netfilter.nf_conntrack_tcp_loose
net.netfilter.nf_conntrack_?dp_timeout = 11
net.netfilter.nf_conntrack_udp_timeout = 12
net.netfilter.nf_conntrack_icmp*timeout = 13
net/netfilter.nf_conntrack_acct = 1
",
    ),
    (
        "twice.conf",
        "net.netfilter.nf_conntrack_udp_timeout = 11
net.netfilter.nf_conntrack_udp_timeout = 12
",
    ),
];

/// The words of a line, in quotes where they have spaces.
fn words(line: &str) -> Vec<String> {
    let line = line.replace('@', "net.netfilter.nf_conntrack_");
    let line = line.replace("nf_conntrack_nonsense", "nonsense");
    let mut words = Vec::new();
    for (index, part) in line.split('"').enumerate() {
        if index % 2 == 1 {
            words.push(part.to_owned());
        } else {
            words.extend(part.split_whitespace().map(str::to_owned));
        }
    }
    words
}

#[test]
fn command_lines_do_what_they_do_with_procps() {
    if !can_run("command_lines_do_what_they_do_with_procps") {
        return;
    }
    let bench = Bench::new("same");
    bench.succeeds(&["up"]);
    for (name, text) in FILES {
        bench.write(name, text);
    }
    let mut different = Vec::new();
    let lines = include_str!("same.txt").lines();
    for line in lines.filter(|line| !line.starts_with("# ")) {
        let words = words(line);
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        let (ours, theirs) = (bench.sysctl(&words), bench.theirs(&words));
        if ours != theirs {
            different.push(format!("{line}\n  ours   {ours:?}\n  theirs {theirs:?}"));
        }
    }
    assert!(different.is_empty(), "{}", different.join("\n"));
}

/// Of all the kernel's knobs those that are here.
const NAMES: &str =
    "^net[.]((netfilter[.])?nf_conntrack|ipv4[.]ipfrag_(high_thresh|low_thresh|time))";

#[test]
fn every_name_is_listed_in_the_kernels_order() {
    if !can_run("every_name_is_listed_in_the_kernels_order") {
        return;
    }
    let bench = Bench::new("names");
    bench.succeeds(&["up"]);
    let ours = bench.sysctl(&["-aN"]);
    let theirs = bench.theirs(&["-aN", "-r", NAMES]);
    let has = |name: &str| ours.printed.lines().any(|line| line == name);
    // Protocols that come later have no name yet.
    let is_of_later = |name: &&str| {
        let later = ["nf_conntrack_sctp_", "nf_conntrack_gre_"];
        !has(name) && later.iter().any(|prefix| name.contains(prefix))
    };
    let theirs: Vec<&str> = theirs
        .printed
        .lines()
        .filter(|name| !is_of_later(name))
        .collect();
    // It is not in every namespace.
    let ours: Vec<&str> = ours.printed.lines().collect();
    let ours: Vec<&str> = ours
        .into_iter()
        .filter(|name| *name != "net.nf_conntrack_max" || theirs.contains(name))
        .collect();
    assert_eq!(ours, theirs);
    let max = bench.sysctl(&["-n", "net.nf_conntrack_max"]);
    assert_eq!(max.printed, "262144\n");
    let script = format!("{}/sysctl -a | head -n 1", bench.directory.display());
    let cut = bench.script(&script);
    assert_eq!(
        (cut.printed.lines().count(), cut.complained.as_str()),
        (1, "")
    );
    // As the kernel has them, where they are not of the table's size.
    let is_of_table = |line: &&str| {
        ["_count", "_max", "_buckets"]
            .iter()
            .any(|end| line.contains(&format!("{end} =")) && !line.contains("expect"))
    };
    let values = |text: &str| -> Vec<String> {
        let lines = text.lines().filter(|line| !is_of_table(line));
        lines
            .filter(|line| ours.contains(&line.split(' ').next().unwrap_or_default()))
            .map(str::to_owned)
            .collect()
    };
    let (mine, kernels) = (bench.sysctl(&["-a"]), bench.theirs(&["-a", "-r", NAMES]));
    assert_eq!(values(&mine.printed), values(&kernels.printed));
}

#[test]
fn what_cannot_be_set_is_refused_in_a_sentence() {
    if !can_run("what_cannot_be_set_is_refused_in_a_sentence") {
        return;
    }
    let bench = Bench::new("refused");
    let alone = bench.sysctl(&["net.netfilter.nf_conntrack_acct"]);
    assert_eq!(alone.code, Some(1));
    assert!(
        alone.complained.contains("no daemon is running"),
        "{alone:?}"
    );
    bench.succeeds(&["up"]);
    for (words, said, code) in [
        (
            "net.netfilter.nf_conntrack_buckets=3",
            "setting key \"net.netfilter.nf_conntrack_buckets\": Invalid argument",
            1,
        ),
        (
            "net.netfilter.nf_conntrack_max=2000000000",
            "MiB are free",
            1,
        ),
        (
            "net.netfilter.nf_conntrack_udp_timeout=-1",
            "Invalid argument",
            1,
        ),
        (
            "kernel.pid_max=1",
            "kernel.pid_max is the kernel's and no knob of Keepstate",
            1,
        ),
        ("kernel.pid_max", "no knob of Keepstate", 1),
    ] {
        let outcome = bench.sysctl(&[words]);
        assert!(outcome.complained.contains(said), "{outcome:?}");
        assert_eq!((outcome.code, outcome.printed.as_str()), (Some(code), ""));
    }
}
