//! Events, and flows that packets and hands make together.

use std::io::{Read, Write};
use std::process::{Child, Stdio};
use std::time::Duration;

use keepstate_testkit::{programs_or_skip, run};

use super::bench::{Bench, Outcome};
use super::{can_run, words};

/// `conntrack -E` in the background.
pub(crate) struct Listener(Child);

impl Listener {
    pub(crate) fn theirs(bench: &Bench, options: &[String]) -> Self {
        Self::start(bench.kernel.command("conntrack"), options)
    }

    pub(crate) fn ours(bench: &Bench, options: &[String]) -> Self {
        let mut command = bench.ours.command(&bench.link.display().to_string());
        command.env("KEEPSTATE_INSTANCE", &bench.instance);
        Self::start(command, options)
    }

    fn start(mut command: std::process::Command, options: &[String]) -> Self {
        command.arg("-E").args(options);
        let child = command
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn();
        Self(child.expect("conntrack can be started"))
    }

    /// Interrupts it, as a terminal does.
    fn interrupt(&self) {
        let process = self.0.id().to_string();
        run(std::process::Command::new("kill").args(["-INT", &process]));
    }

    pub(crate) fn stop(mut self) -> Outcome {
        self.interrupt();
        let mut output = std::process::Output {
            status: self.0.wait().expect("conntrack ends"),
            stdout: Vec::new(),
            stderr: Vec::new(),
        };
        let stdout = self.0.stdout.as_mut().expect("its output was asked for");
        stdout
            .read_to_end(&mut output.stdout)
            .expect("it can be read");
        let stderr = self.0.stderr.as_mut().expect("its words were asked for");
        stderr
            .read_to_end(&mut output.stderr)
            .expect("they can be read");
        let printed = String::from_utf8_lossy(&output.stdout);
        let lines = printed
            .lines()
            .map(|line| without_program(without_time(line)));
        output.stdout = lines.collect::<String>().into_bytes();
        Outcome::of(&output)
    }
}

/// Neither says when it begins to listen, and the last event may be on its way.
pub(crate) fn settle() {
    std::thread::sleep(Duration::from_millis(1000));
}

/// A line without the number and name of the program behind it.
fn without_program(line: &str) -> String {
    let end = line.find(" portid=").unwrap_or(line.len());
    format!("{}\n", &line[..end])
}

/// A line without the time in front of it.
fn without_time(line: &str) -> &str {
    match line.split_once("]\t") {
        Some((time, rest)) if time.starts_with('[') => rest,
        _ => line,
    }
}

const OPERATIONS: [&str; 7] = [
    "-I -s 10.0.0.1 -d 10.0.0.2 -p tcp --sport 1 --dport 2 -t 900 --state ESTABLISHED \
     -u SEEN_REPLY,ASSURED -m 5",
    "-I -s 10.0.0.3 -d 10.0.0.2 -p udp --sport 1 --dport 53 -t 800 -w 7",
    "-I -s fd00::3 -d fd00::2 -p icmpv6 --icmpv6-type 128 --icmpv6-code 0 --icmpv6-id 7 -t 600",
    "-U -s 10.0.0.1 -m 9",
    "-U -s 10.0.0.1 -t 500",
    "-D -p tcp",
    "-F",
];

#[test]
fn events_are_told_as_by_conntrack() {
    if !can_run("events_are_told_as_by_conntrack") {
        return;
    }
    let bench = Bench::new("events");
    for options in [
        "",
        "-o id,extended",
        "-o timestamp",
        "-o ktimestamp",
        "-o xml",
        "-o save",
        "-e NEW",
        "-e UPDATES,DESTROY -p tcp",
        "-f ipv6",
        "-s 10.0.0.0/31 -o extended",
        "-w 7",
        "-m 9",
    ] {
        let words_of = words(options);
        let theirs = Listener::theirs(&bench, &words_of);
        let ours = Listener::ours(&bench, &words_of);
        settle();
        for operation in OPERATIONS {
            bench.theirs(&words(operation));
            bench.ours(&words(operation));
        }
        settle();
        let (theirs, ours) = (theirs.stop(), ours.stop());
        assert!(!ours.printed.is_empty());
        assert!(
            ours.is_like(&theirs),
            "conntrack -E {options}\n  theirs: {theirs:#?}\n  ours: {ours:#?}"
        );
    }
}

/// The kernel tracks where rules ask for states.
fn let_kernel_track(bench: &Bench) {
    let rule = words("-A INPUT -m conntrack --ctstate NEW -j ACCEPT");
    let rule: Vec<&str> = rule.iter().map(String::as_str).collect();
    bench.kernel.run("iptables", &rule);
}

#[test]
fn packets_make_the_same_flows_and_events() {
    let test = "packets_make_the_same_flows_and_events";
    if !can_run(test) || !programs_or_skip(test, &["ping", "curl", "iptables"]) {
        return;
    }
    let bench = Bench::new("packets");
    let_kernel_track(&bench);
    // The end of the connection that is refused shows another state: see docs/conntrack.md.
    let options = words("-f ipv4 -e NEW,UPDATES");
    let theirs = Listener::theirs(&bench, &options);
    let ours = Listener::ours(&bench, &options);
    settle();
    for peer in [&bench.kernel_peer, &bench.our_peer] {
        assert!(peer.succeeds("ping", &["-c", "1", "-e", "77", "10.9.0.1"]));
        // Nobody listens there: refused.
        let url = "http://10.9.0.1:22/";
        assert!(!peer.succeeds("curl", &["-s", "--local-port", "40000", url]));
    }
    for line in [
        "-L -f ipv4",
        "-L -p icmp -o extended",
        "-L -o xml -s 10.9.0.2",
        "-D -p icmp",
    ] {
        let (theirs, ours) = (bench.theirs(&words(line)), bench.ours(&words(line)));
        assert!(
            ours.is_like(&theirs),
            "{line}\n  theirs: {theirs:#?}\n  ours: {ours:#?}"
        );
        assert!(!ours.printed.is_empty());
    }
    settle();
    let (theirs, ours) = (theirs.stop(), ours.stop());
    assert!(
        ours.is_like(&theirs),
        "theirs: {theirs:#?}\n  ours: {ours:#?}"
    );
}

#[test]
fn a_flow_made_by_hand_is_one_of_packets() {
    let test = "a_flow_made_by_hand_is_one_of_packets";
    if !can_run(test) || !programs_or_skip(test, &["ping"]) {
        return;
    }
    let rules = "iptables -P INPUT DROP\n\
                 iptables -A INPUT -m conntrack --ctstate ESTABLISHED -j ACCEPT\n";
    let bench = Bench::with("hand", rules, &[]);
    let ping = || {
        let ping = ["-c", "1", "-W", "2", "-e", "78", "10.9.0.1"];
        bench.our_peer.succeeds("ping", &ping)
    };
    assert!(!ping(), "the rules let it through");
    let make = "-I -s 10.9.0.2 -d 10.9.0.1 -p icmp --icmp-type 8 --icmp-code 0 --icmp-id 78 -t 900 -m 4 \
                -u SEEN_REPLY";
    assert_eq!(bench.ours(&words(make)).code, Some(0));
    assert!(ping(), "its packets do not find it");
    let listed = bench.ours(&words("-L -p icmp"));
    assert_eq!(listed.printed.len(), 1, "{listed:?}");
    assert!(listed.timeouts[0] <= 30, "it was not renewed: {listed:?}");
    assert!(listed.printed[0].contains("mark=4"), "{listed:?}");
}

#[test]
fn counters_and_start_times_are_shown_as_by_conntrack() {
    let test = "counters_and_start_times_are_shown_as_by_conntrack";
    if !can_run(test) || !programs_or_skip(test, &["ping", "iptables"]) {
        return;
    }
    let knobs = ["nf_conntrack_acct=1", "nf_conntrack_timestamp=1"];
    let bench = Bench::with("counters", "iptables -P INPUT ACCEPT\n", &knobs);
    let_kernel_track(&bench);
    let make = "-I -s 10.0.0.1 -d 10.0.0.2 -p tcp --sport 1 --dport 2 -t 900 --state ESTABLISHED";
    for peer in [&bench.kernel_peer, &bench.our_peer] {
        assert!(peer.succeeds("ping", &["-c", "3", "-i", "0.2", "-e", "77", "10.9.0.1"]));
    }
    for line in [
        make,
        "-L -f ipv4",
        "-L -f ipv4 -o ktimestamp",
        "-L -f ipv4 -o xml",
        "-L -f ipv4 -o xml,ktimestamp",
        "-L -f ipv4 -o ktimestamp,id,extended",
        "-G -s 10.0.0.1 -d 10.0.0.2 -p tcp --sport 1 --dport 2",
        "-L -z -f ipv4",
        "-L -z -f ipv4",
        "-D -p icmp",
        "-D -p tcp -o extended",
    ] {
        let (theirs, ours) = (bench.theirs(&words(line)), bench.ours(&words(line)));
        assert!(
            ours.is_like(&theirs),
            "{line}\n  theirs: {theirs:#?}\n  ours: {ours:#?}"
        );
    }
}

/// A file of commands that make flows, a port each.
fn commands(bench: &Bench, action: &str, ports: std::ops::Range<u32>) -> String {
    let path = bench.link.with_file_name("commands");
    let mut file = std::fs::File::create(&path).expect("a file can be made");
    for number in ports {
        let [high, low] = [number >> 8, number & 0xff];
        let name = format!("-s 10.1.{high}.{low} -d 10.0.0.2 -p udp --sport 7 --dport 53");
        let rest = if action == "-I" { "-t 900" } else { "" };
        writeln!(file, "{action} {name} {rest}").expect("it can be written");
    }
    path.display().to_string()
}

/// The source addresses of flows that lines leave behind.
fn state_after(printed: &str) -> std::collections::BTreeSet<String> {
    let mut state = std::collections::BTreeSet::new();
    for line in printed.lines() {
        let source = line
            .split(" src=")
            .nth(1)
            .and_then(|rest| rest.split(' ').next());
        let source = source.expect("each line names a source").to_owned();
        if line.starts_with("[DESTROY]") {
            state.remove(&source);
        } else {
            state.insert(source);
        }
    }
    state
}

#[test]
fn lost_events_are_counted_and_made_up_for() {
    if !can_run("lost_events_are_counted_and_made_up_for") {
        return;
    }
    let bench = Bench::new("lost");
    let load = |path: String| {
        let loaded = bench.ours(&["-R".to_owned(), path]);
        assert_eq!(loaded.code, Some(0), "{loaded:?}");
    };
    // One event may wait, and nobody reads what is printed.
    let mut listener = Listener::ours(&bench, &words("-b 1"));
    settle();
    load(commands(&bench, "-I", 0..3000));
    load(commands(&bench, "-D", 0..1000));
    let mut stdout = listener.0.stdout.take().expect("its output was asked for");
    let reader = std::thread::spawn(move || {
        let mut printed = String::new();
        stdout.read_to_string(&mut printed).expect("it prints text");
        printed
    });
    // It looks at the table as soon as nothing more happens.
    std::thread::sleep(Duration::from_secs(4));
    listener.interrupt();
    listener.0.wait().expect("it ends");
    let printed = reader.join().expect("it was read");
    let mut said = String::new();
    let mut stderr = listener.0.stderr.take().expect("its words were asked for");
    stderr.read_to_string(&mut said).expect("it says text");
    assert!(
        said.contains("events were lost; the flows that are there follow"),
        "{said}"
    );
    assert!(said.contains("resynchronised by"), "{said}");
    let listed = bench.ours(&words("-L"));
    assert_eq!(listed.printed.len(), 2000);
    let (told, there) = (
        state_after(&printed),
        state_after(&listed.printed.join("\n")),
    );
    let wrong: Vec<_> = told.symmetric_difference(&there).take(5).collect();
    assert!(wrong.is_empty(), "{wrong:?}\n{said}");
}
