//! What knobs do to flows of real packets, and what is kept of them.

use std::process::Stdio;
use std::time::{Duration, Instant};

use keepstate_testkit::{Running, programs_or_skip};

use crate::bench::Bench;
use crate::can_run;

const PATIENCE: Duration = Duration::from_secs(10);

#[track_caller]
fn wait_until(what: &str, condition: impl Fn() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !condition() {
        assert!(Instant::now() < deadline, "{what}");
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// A program that sends a datagram from the same port again and again.
fn stream(bench: &Bench, port: u16) -> Running {
    let script = format!(
        "exec 3<>/dev/udp/10.9.0.2/{port}; while :; do echo x >&3; sleep 0.1; done 2>/dev/null"
    );
    let running = bench.ours.spawn("bash", &["-c", &script]);
    wait_until("the stream has no record", || {
        bench.flows(&["-L", "-p", "udp"]).contains(&dport(port))
    });
    running
}

fn dport(port: u16) -> String {
    format!("dport={port} ")
}

/// The line of a flow to a port.
fn line(bench: &Bench, options: &[&str], port: u16) -> String {
    let list = bench.flows(&[&["-L", "-p", "udp"], options].concat());
    let mut lines = list.lines().filter(|line| line.contains(&dport(port)));
    lines.next().unwrap_or_default().to_owned()
}

/// Packets that a flow was counted for, `None` where it is not counted.
fn packets(bench: &Bench, port: u16) -> Option<u64> {
    let line = line(bench, &[], port);
    let (_, rest) = line.split_once("packets=")?;
    rest.split(' ').next()?.parse().ok()
}

#[test]
fn accounting_is_switched_as_the_kernel_does() {
    if !can_run("accounting_is_switched_as_the_kernel_does") {
        return;
    }
    let bench = Bench::new("acct");
    bench.succeeds(&["up"]);
    let set = |assignment: &str| {
        let name = format!("net.netfilter.nf_conntrack_{assignment}");
        let outcome = bench.sysctl(&["-q", &name]);
        assert_eq!(outcome.code, Some(0), "{outcome:?}");
    };
    let _before = stream(&bench, 5000);
    assert_eq!(packets(&bench, 5000), None);
    // The table was made without room for counters, and no packet is lost while that is made.
    let mut ping = bench.peer.command("ping");
    ping.args(["-q", "-c", "300", "-i", "0.02", "10.9.0.1"]);
    let ping = ping
        .stdout(Stdio::piped())
        .spawn()
        .expect("ping can be started");
    let begun = Instant::now();
    set("acct=1");
    println!("room for counters was made in {:?}", begun.elapsed());
    let said = ping.wait_with_output().expect("ping ends").stdout;
    let said = String::from_utf8_lossy(&said);
    assert!(
        said.contains("300 packets transmitted, 300 received"),
        "{said}"
    );
    let _during = stream(&bench, 5001);
    wait_until("nothing is counted", || {
        packets(&bench, 5001).is_some_and(|count| count > 3)
    });
    let before = line(&bench, &[], 5000);
    assert_eq!(packets(&bench, 5000), None, "it began without: {before}");
    set("acct=0");
    let _after = stream(&bench, 5002);
    let counted = packets(&bench, 5001).expect("it began with counters");
    wait_until("a flow with counters is not counted any more", || {
        packets(&bench, 5001).is_some_and(|count| count > counted)
    });
    assert_eq!(packets(&bench, 5000), None);
    assert_eq!(packets(&bench, 5002), None);
    let acct = bench.sysctl(&["-n", "net.netfilter.nf_conntrack_acct"]);
    assert_eq!(acct.printed, "0\n");

    set("timestamp=1");
    let _stamped = stream(&bench, 5003);
    set("timestamp=0");
    assert!(line(&bench, &["-o", "ktimestamp"], 5003).contains("[start="));
    assert!(!line(&bench, &["-o", "ktimestamp"], 5002).contains("[start="));

    // What the daemon made meanwhile is taken over, and taken down, as what it began with.
    let status: serde_json::Value =
        serde_json::from_str(&bench.succeeds(&["status", "--json"]).printed).expect("it is JSON");
    let killed = bench
        .ours
        .succeeds("kill", &["-9", &status["pid"].to_string()]);
    assert!(killed);
    bench.succeeds(&["up"]);
    let counted = packets(&bench, 5001).expect("the next daemon finds the counters");
    wait_until("the next daemon does not see it counted", || {
        packets(&bench, 5001).is_some_and(|count| count > counted)
    });
    bench.succeeds(&["down"]);
    let pins = std::path::Path::new("/sys/fs/bpf/keepstate").join(&bench.instance);
    assert!(!pins.exists());
}

#[test]
fn timeouts_are_in_force_from_the_next_packet_on() {
    if !can_run("timeouts_are_in_force_from_the_next_packet_on") {
        return;
    }
    let bench = Bench::new("timeouts");
    bench.succeeds(&["up"]);
    let _listener = bench.peer.spawn("iperf3", &["-s", "-p", "7000"]);
    bench.peer.wait_for_listener(7000);
    // A byte each time a file is there.
    let script = "exec 3<>/dev/tcp/10.9.0.2/7000; while :; do [ -e send ] && rm send && \
                  printf x >&3; sleep 0.05; done";
    let mut command = bench.ours.command("bash");
    let client = command.args(["-c", script]).current_dir(&bench.directory);
    let mut client = client.spawn().expect("bash can be started");
    let left = || -> Option<u64> {
        let list = bench.flows(&["-L", "-p", "tcp", "--state", "ESTABLISHED"]);
        list.split_whitespace().nth(2)?.parse().ok()
    };
    wait_until("nothing is established", || left().is_some());
    assert!(
        left().is_some_and(|seconds| seconds > 431_000),
        "{:?}",
        left()
    );
    bench.sysctl(&[
        "-q",
        "net.netfilter.nf_conntrack_tcp_timeout_established=1000",
    ]);
    assert!(
        left().is_some_and(|seconds| seconds > 431_000),
        "deadlines stay"
    );
    bench.write("send", "");
    wait_until("the next packet does not bring it", || {
        left().is_some_and(|seconds| (900..=1000).contains(&seconds))
    });
    let _ = client.kill();
    let _ = client.wait();

    // On the clock of the machine.
    bench.sysctl(&["-q", "net.netfilter.nf_conntrack_icmp_timeout=1"]);
    bench.ours.run("ping", &["-c", "1", "-W", "2", "10.9.0.2"]);
    let icmp = || bench.flows(&["-L", "-p", "icmp"]);
    let begun = Instant::now();
    assert!(icmp().contains("icmp     1 "), "{}", icmp());
    wait_until("it does not expire", || icmp().is_empty());
    let lasted = begun.elapsed();
    assert!(lasted < Duration::from_secs(3), "it lasted {lasted:?}");
}

#[test]
fn invalid_packets_are_logged_with_their_arithmetic() {
    let test = "invalid_packets_are_logged_with_their_arithmetic";
    if !can_run(test) || !programs_or_skip(test, &["hping3"]) {
        return;
    }
    let bench = Bench::new("log");
    bench.succeeds(&["up"]);
    let _listener = bench.ours.spawn("iperf3", &["-s", "-p", "7000"]);
    bench.ours.wait_for_listener(7000);
    let script = "exec 3<>/dev/tcp/10.9.0.1/7000; sleep 60";
    let _client = bench.peer.spawn("bash", &["-c", script]);
    let established = || bench.flows(&["-L", "-p", "tcp", "--state", "ESTABLISHED"]);
    wait_until("nothing is established", || !established().is_empty());
    let list = established();
    let (_, rest) = list.split_once("sport=").expect("it has ports");
    let port = rest.split(' ').next().expect("a port is a word").to_owned();
    let strangers = || {
        // Wherever the window is, one of them is beyond it.
        for sequence in ["1", "1073741825", "2147483649", "3221225473"] {
            let options = [
                "-q", "-c", "1", "-A", "-k", "-s", &port, "-p", "7000", "-M", sequence,
            ];
            bench
                .peer
                .succeeds("hping3", &[&options[..], &["10.9.0.1"]].concat());
        }
    };
    let log = || {
        let path = format!("/run/keepstate/{}.log", bench.instance);
        std::fs::read_to_string(path).unwrap_or_default()
    };
    strangers();
    bench.sysctl(&["-q", "net.netfilter.nf_conntrack_log_invalid=17"]);
    strangers();
    std::thread::sleep(Duration::from_millis(500));
    assert!(!log().contains("INVALID"), "{}", log());
    bench.sysctl(&["-q", "net.netfilter.nf_conntrack_log_invalid=6"]);
    strangers();
    let wanted = "state=INVALID reason=tcp_sequence_over_window";
    wait_until("nothing is logged", || log().contains(wanted));
    let log = log();
    let line = log
        .lines()
        .find(|line| line.contains(wanted))
        .expect("it is there");
    println!("{line}");
    for part in [
        "keepstate: passed tcp      6 src=10.9.0.2 dst=10.9.0.1 ",
        " seq=",
        " end=",
        " window=",
        " ack=",
        " ack_max=",
    ] {
        assert!(line.contains(part), "{line}");
    }
    let status = bench.succeeds(&["status"]).printed;
    assert!(status.contains("log         "), "{status}");
}

#[test]
fn files_are_read_by_every_start() {
    if !can_run("files_are_read_by_every_start") {
        return;
    }
    let bench = Bench::new("files");
    bench.write(
        "sysctl.conf",
        "net.netfilter.nf_conntrack_max = 5000\nnet.netfilter.nf_conntrack_udp_timeout = 41\n",
    );
    bench.write(
        "sysctl.d/20-b.conf",
        "net.netfilter.nf_conntrack_udp_timeout = 40\n  net.netfilter.nf_conntrack_icmp_timeout = x\n\
         nonsense\nnet.netfilter.nonsense = 1\nnet.netfilter.nf_conntrack_gen*timeout = 42\n",
    );
    bench.write("sysctl.d/ignored", "net.netfilter.nf_conntrack_acct = 1\n");
    let values = || {
        let names = [
            "max",
            "udp_timeout",
            "icmp_timeout",
            "generic_timeout",
            "acct",
        ];
        let names = names.map(|name| format!("net.netfilter.nf_conntrack_{name}"));
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        bench.sysctl(&[&["-n"], &names[..]].concat()).printed
    };
    let up = bench.succeeds(&["up"]);
    let file = bench.directory.join("sysctl.d/20-b.conf");
    for problem in [
        ":2:45: nf_conntrack_icmp_timeout: `x` is no number from 0 to 134217727",
        ":3:1: this is no NAME = VALUE",
        ":4:1: there is no setting `net.netfilter.nonsense`",
    ] {
        let problem = format!("keepstate: {}{problem}\n", file.display());
        assert!(up.complained.contains(&problem), "{}", up.complained);
    }
    assert_eq!(values(), "5000\n41\n30\n42\n0\n");
    // What is set by hand goes with the table.
    bench.sysctl(&["-q", "net.netfilter.nf_conntrack_udp_timeout=99"]);
    bench.succeeds(&["down"]);
    bench.succeeds(&["up", "--sysctl", "nf_conntrack_generic_timeout=43"]);
    assert_eq!(values(), "5000\n41\n30\n43\n0\n");
    bench.sysctl(&["-q", "net.netfilter.nf_conntrack_udp_timeout=99"]);
    let system = bench.sysctl(&["--system"]);
    let main = bench.directory.join("sysctl.conf");
    let applied = format!(
        "* Applying {} ...\n* Applying {} ...\n",
        file.display(),
        main.display()
    );
    assert!(system.printed.starts_with(&applied), "{system:?}");
    assert_eq!(values(), "5000\n41\n30\n42\n0\n");
    bench.sysctl(&["-q", "net.netfilter.nf_conntrack_udp_timeout=99"]);
    let default = bench.sysctl(&["-p"]);
    assert!(
        default.printed.ends_with("udp_timeout = 41\n"),
        "{default:?}"
    );
}

#[test]
fn timeout_policies_are_made_in_the_words_of_nfct() {
    if !can_run("timeout_policies_are_made_in_the_words_of_nfct") {
        return;
    }
    let bench = Bench::new("policies");
    bench.succeeds(&["up"]);
    bench.succeeds(&[
        "timeout",
        "add",
        "web",
        "inet",
        "tcp",
        "established",
        "100",
        "close",
        "9",
    ]);
    bench.succeeds(&["timeout", "add", "dns", "inet6", "udp", "replied", "20"]);
    let list = bench.succeeds(&["timeout", "list"]).printed;
    assert!(
        list.starts_with(".web = {\n\t.l3proto = 2,\n\t.l4proto = 6,\n\t.policy = {\n"),
        "{list}"
    );
    assert!(
        list.contains("\t\t.ESTABLISHED = 100,\n") && list.contains("\t\t.CLOSE = 9,\n"),
        "{list}"
    );
    let dns = ".dns = {\n\t.l3proto = 10,\n\t.l4proto = 17,\n\t.policy = {\n\t\t.UNREPLIED = 30,\n\
               \t\t.REPLIED = 20,\n\t},\n};\n";
    assert_eq!(bench.succeeds(&["timeout", "get", "dns"]).printed, dns);
    bench.succeeds(&["timeout", "delete", "web"]);
    assert_eq!(bench.succeeds(&["timeout", "list"]).printed, dns);
    for (words, said) in [
        (&["delete", "web"][..], "there is no timeout policy web"),
        (
            &["add", "x", "inet", "udp", "established", "1"],
            "is no state of the protocol",
        ),
        (
            &["add", "x", "inet", "udp", "replied"],
            "how many seconds for replied?",
        ),
        (&["add", "x", "inet", "ospf"], "has no timeouts of its own"),
    ] {
        let refused = bench.keepstate(&[&["timeout"], words].concat());
        assert_eq!(refused.code, Some(1));
        assert!(refused.complained.contains(said), "{refused:?}");
    }
    bench.succeeds(&["timeout", "flush"]);
    assert_eq!(bench.succeeds(&["timeout", "list", "--json"]).printed, "");
}
