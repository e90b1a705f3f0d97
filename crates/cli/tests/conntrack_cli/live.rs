//! Events, and flows that packets and hands make together.

use std::io::{Read, Write};
use std::process::{Child, Stdio};
use std::time::Duration;

use keepstate_sim::build::{Body, Chunk, Packet, Sctp, chunk};
use keepstate_testkit::{Namespace, programs_or_skip, run};

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

/// Packets of protocols that no program here speaks, from `peer` and, where it answers, from `near`.
fn send_raw(peer: &Namespace, near: &Namespace) {
    let sctp = |is_answer: bool, port: u16, tag: u32, chunk: Chunk| {
        let ports = if is_answer {
            [9999, port]
        } else {
            [port, 9999]
        };
        let body = Body::Sctp(Sctp {
            source_port: ports[0],
            destination_port: ports[1],
            tag,
            chunks: vec![chunk],
        });
        (is_answer, body)
    };
    let gre = |is_answer: bool, payload: [u8; 8]| {
        let body = Body::Other {
            protocol: 47,
            payload: payload.to_vec(),
        };
        (is_answer, body)
    };
    const PLAIN: [u8; 8] = [0, 0, 8, 0, 0, 0, 0, 0];
    for (is_answer, body) in [
        sctp(false, 7001, 0, Chunk::introducing(chunk::INIT, 11)),
        sctp(true, 7001, 11, Chunk::introducing(chunk::INIT_ACK, 22)),
        sctp(false, 7001, 22, Chunk::new(chunk::COOKIE_ECHO)),
        sctp(true, 7001, 11, Chunk::new(chunk::COOKIE_ACK)),
        sctp(false, 7002, 77, Chunk::new(chunk::SHUTDOWN_ACK)),
        // Refused: nothing begins with it.
        sctp(false, 7003, 0, Chunk::new(chunk::DATA)),
        gre(false, PLAIN),
        gre(true, PLAIN),
        gre(false, PLAIN),
        gre(false, [0x30, 1, 0x88, 0x0b, 0, 0, 0, 5]),
    ] {
        send(if is_answer { near } else { peer }, is_answer, body);
    }
}

fn send(from: &Namespace, is_answer: bool, body: Body) {
    let (mut source, mut destination) = ("10.9.0.2", "10.9.0.1");
    if is_answer {
        (source, destination) = (destination, source);
    }
    let packet = Packet::new(
        source.parse().expect("an address"),
        destination.parse().expect("an address"),
        body,
    );
    // Behind the IP header, which the socket writes.
    let payload = packet.ip().split_off(20);
    let hex: String = payload.iter().map(|byte| format!("{byte:02x}")).collect();
    let script = format!(
        "import socket; s = socket.socket(socket.AF_INET, socket.SOCK_RAW, {}); \
         s.sendto(bytes.fromhex('{hex}'), ('{destination}', 0))",
        packet.protocol()
    );
    assert!(from.succeeds("python3", &["-c", &script]));
}

#[test]
fn packets_make_the_same_flows_and_events() {
    let test = "packets_make_the_same_flows_and_events";
    if !can_run(test) || !programs_or_skip(test, &["ping", "curl", "iptables", "python3"]) {
        return;
    }
    // By default three seconds, and it takes a while until all have been listed.
    let knobs = ["cookie_wait", "cookie_echoed", "shutdown_ack_sent"]
        .map(|state| format!("nf_conntrack_sctp_timeout_{state}=60"));
    let knobs: Vec<&str> = knobs.iter().map(String::as_str).collect();
    let bench = Bench::with("packets", "iptables -P INPUT ACCEPT\n", &knobs);
    let_kernel_track(&bench);
    let options = words("-f ipv4");
    let theirs = Listener::theirs(&bench, &options);
    let ours = Listener::ours(&bench, &options);
    settle();
    let pairs = [
        (&bench.kernel_peer, &bench.kernel),
        (&bench.our_peer, &bench.ours),
    ];
    for (peer, near) in pairs {
        assert!(peer.succeeds("ping", &["-c", "1", "-e", "77", "10.9.0.1"]));
        // Nobody listens there: refused.
        let url = "http://10.9.0.1:22/";
        assert!(!peer.succeeds("curl", &["-s", "--local-port", "40000", url]));
        send_raw(peer, near);
    }
    for line in [
        "-L -f ipv4",
        "-L -p sctp -o save",
        "-L -p sctp -o xml",
        "-L -p gre",
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

/// Sockets of this kernel, through our programs: their checksums are right, whatever Linux's own
/// tracker says of them.
#[test]
fn udplite_sockets_talk_through_the_programs() {
    let test = "udplite_sockets_talk_through_the_programs";
    if !can_run(test) || !programs_or_skip(test, &["python3"]) {
        return;
    }
    let rules = "iptables -P INPUT DROP\n\
                 iptables -A INPUT -m conntrack --ctstate INVALID -j DROP\n\
                 iptables -A INPUT -p udplite -j ACCEPT\n";
    let bench = Bench::with("lite", rules, &[]);
    let serve = "import socket; s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM, 136); \
                 s.bind(('10.9.0.1', 4000)); s.settimeout(10); print('ready', flush=True); \
                 data, peer = s.recvfrom(100); s.sendto(data, peer)";
    let mut server = bench
        .ours
        .command("python3")
        .args(["-c", serve])
        .stdout(Stdio::piped())
        .spawn()
        .expect("python3 can be started");
    let mut ready = [0; 5];
    let stdout = server.stdout.as_mut().expect("its output was asked for");
    if stdout.read_exact(&mut ready).is_err() {
        let _ = server.wait();
        keepstate_testkit::skip(test, "this kernel has no UDP-Lite");
        return;
    }
    // The checksum covers the header and the first two bytes.
    let ask = "import socket; s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM, 136); \
               s.setsockopt(136, 10, 10); s.settimeout(5); s.bind(('10.9.0.2', 4001)); \
               s.sendto(b'hello', ('10.9.0.1', 4000)); assert s.recv(100) == b'hello'";
    assert!(bench.our_peer.succeeds("python3", &["-c", ask]));
    assert!(server.wait().expect("the server ends").success());
    let listed = bench.ours(&words("-L -p udplite"));
    assert_eq!(listed.printed.len(), 1, "{listed:?}");
    let line = "src=10.9.0.2 dst=10.9.0.1 sport=4001 dport=4000 src=10.9.0.1 dst=10.9.0.2 sport=4000 dport=4001";
    assert!(listed.printed[0].contains(line), "{listed:?}");
}
