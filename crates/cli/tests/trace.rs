//! Live packets traced, and dropped ones captured and read back by Wireshark's own reader.

#[path = "support/bench.rs"]
mod bench;
#[path = "support/program.rs"]
mod program;

use std::time::{Duration, Instant};

use bench::Bench;
use keepstate_testkit::{programs_or_skip, root_or_skip};
use serde_json::Value;

impl Bench {
    /// Runs a command of the program that listens, and traffic again and again until it ends.
    #[track_caller]
    fn while_listening(&self, arguments: &[&str], traffic: impl Fn()) -> String {
        let arguments = [arguments, &["--instance", &self.instance]].concat();
        let mut command = self.namespace.command(program::KEEPSTATE);
        command.args(&arguments);
        command.stdout(std::process::Stdio::piped());
        let mut listening = command.spawn().unwrap();
        let deadline = Instant::now() + Duration::from_secs(60);
        while listening.try_wait().unwrap().is_none() {
            assert!(Instant::now() < deadline, "{arguments:?} does not end");
            traffic();
            std::thread::sleep(Duration::from_millis(100));
        }
        let output = listening.wait_with_output().unwrap();
        assert!(output.status.success(), "{arguments:?}");
        String::from_utf8(output.stdout).unwrap()
    }

    /// A query from the peer to a port that the rules do not open.
    fn refused(&self) {
        let script = "import socket\n\
             s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)\n\
             s.sendto(b'y' * 20, ('10.9.0.1', 9))\n";
        self.peer.run("python3", &["-c", script]);
    }

    /// A connection to ssh's port, where nothing listens: SYN and RST.
    fn connection(&self) {
        let script = "import socket\n\
             s = socket.socket()\n\
             s.connect_ex(('10.9.0.1', 22))\n";
        self.peer.run("python3", &["-c", script]);
    }
}

fn can_run(test: &str) -> bool {
    root_or_skip(test) && programs_or_skip(test, &["ip", "python3"])
}

#[test]
fn a_live_packet_is_traced_from_its_headers_to_its_verdict() {
    if !can_run("a_live_packet_is_traced_from_its_headers_to_its_verdict") {
        return;
    }
    let bench = Bench::up("trace", &[]);
    let trace = ["trace", "--match", "dst port 9", "--count", "1"];
    let told = bench.while_listening(&trace, || bench.refused());
    for line in [
        "packet   udp 10.9.0.2:",
        "parse    IPv4, udp, 48 bytes",
        "lookup   no flow has this tuple",
        "state    NEW",
        "chain    INPUT: the destination is local",
        "-A INPUT -p tcp",
        "verdict  DROP, by the policy of INPUT",
        "kernel   DROP, in by inner, state=NEW",
    ] {
        assert!(told.contains(line), "{line}: {told}");
    }
    assert!(!told.contains("not those that it took"), "{told}");
    let trace = ["trace", "--json", "--match", "port 22", "--count", "6"];
    let told = bench.while_listening(&trace, || bench.connection());
    let packets: Vec<Value> = told
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    assert_eq!(packets.len(), 6, "{told}");
    for packet in &packets {
        assert_eq!(packet["agrees"], true, "{packet}");
        assert_eq!(packet["kernel"]["verdict"], "ACCEPT", "{packet}");
    }
    let has = |way: &str, state: &str| {
        let mut packets = packets.iter();
        packets.any(|packet| packet["way"] == way && packet["kernel"]["state"] == state)
    };
    assert!(has("in", "NEW") && has("out", "ESTABLISHED"), "{told}");
}

#[test]
fn dropped_packets_are_captured_with_verdict_and_reason_as_comments() {
    let test = "dropped_packets_are_captured_with_verdict_and_reason_as_comments";
    if !can_run(test) || !programs_or_skip(test, &["tshark"]) {
        return;
    }
    let bench = Bench::up("capture", &[]);
    let name = format!("keepstate-capture-{}.pcapng", std::process::id());
    let path = std::env::temp_dir().join(name);
    let file = path.display().to_string();
    let capture = ["capture", "--dropped", "--count", "3", "-w", &file];
    bench.while_listening(&capture, || {
        bench.refused();
        bench.connection();
    });
    let fields = ["frame.comment", "frame.interface_name", "udp.dstport"];
    let fields = fields.iter().flat_map(|field| ["-e", field]);
    let arguments: Vec<&str> = ["-r", &file, "-T", "fields"]
        .into_iter()
        .chain(fields)
        .collect();
    let output = std::process::Command::new("tshark")
        .args(&arguments)
        .output()
        .unwrap();
    let told = String::from_utf8(output.stdout).unwrap();
    let wanted = "DROP state=NEW reason=policy_drop rule=INPUT:policy len=62: ";
    let lines: Vec<&str> = told.lines().collect();
    assert_eq!(lines.len(), 3, "{told}");
    for line in lines {
        assert!(line.starts_with(wanted), "{line}");
        assert!(line.ends_with("\tinner\t9"), "{line}");
    }
    std::fs::remove_file(path).unwrap();
}
