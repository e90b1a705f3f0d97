//! What leaves the machine: ended flows for a collector, read back by Wireshark's decoder, and alerts.

#[path = "support/bench.rs"]
mod bench;
#[path = "support/program.rs"]
mod program;

use std::path::PathBuf;
use std::time::{Duration, Instant};

use bench::Bench;
use keepstate_sim::build::{Body, Checksum, Packet, Udp};
use keepstate_sim::capture::Writer;
use keepstate_testkit::{Running, programs_or_skip, root_or_skip, workspace_root};
use serde_json::Value;

/// A firewall that counts flows, and a place for what is told.
struct Exporter {
    bench: Bench,
    directory: PathBuf,
}

impl Exporter {
    fn up(label: &str) -> Self {
        let more = [
            "nf_conntrack_acct=1",
            "nf_conntrack_timestamp=1",
            "nf_conntrack_udp_timeout=1",
        ];
        let bench = Bench::up(label, &more.map(|sysctl| ["--sysctl", sysctl]).concat());
        let directory = std::env::temp_dir().join(format!("keepstate-{}", bench.instance));
        std::fs::create_dir_all(&directory).unwrap();
        Self { bench, directory }
    }

    /// A command of the program that goes on.
    fn spawn(&self, arguments: &[&str]) -> Running {
        let arguments = [arguments, &["--instance", &self.bench.instance]].concat();
        self.bench.namespace.spawn(program::KEEPSTATE, &arguments)
    }

    fn file(&self, name: &str) -> String {
        self.directory.join(name).display().to_string()
    }

    #[track_caller]
    fn read(&self, name: &str, is_whole: impl Fn(&str) -> bool) -> String {
        let deadline = Instant::now() + Duration::from_secs(60);
        loop {
            let text = std::fs::read_to_string(self.file(name)).unwrap_or_default();
            if is_whole(&text) {
                return text;
            }
            assert!(Instant::now() < deadline, "{name}: {text}");
            std::thread::sleep(Duration::from_millis(50));
        }
    }
}

impl Drop for Exporter {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.directory);
    }
}

fn base() -> String {
    workspace_root()
        .join("examples/base.sh")
        .display()
        .to_string()
}

/// Writes each datagram that comes to a port in hexadecimal digits, a line each.
const COLLECTOR: &str = "import socket, sys\n\
     s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)\n\
     s.bind(('10.9.0.2', 4739))\n\
     out = open(sys.argv[1], 'w')\n\
     print('ready', flush=True)\n\
     while True:\n\
     \x20 out.write(s.recv(65536).hex() + '\\n'); out.flush()\n";

#[test]
fn ended_flows_are_read_by_another_programs_decoder() {
    let test = "ended_flows_are_read_by_another_programs_decoder";
    if !root_or_skip(test) || !programs_or_skip(test, &["ip", "python3", "tshark"]) {
        return;
    }
    let exporter = Exporter::up("ipfix");
    let bench = &exporter.bench;
    let datagrams = exporter.file("datagrams");
    let _collector = bench.peer.spawn("python3", &["-c", COLLECTOR, &datagrams]);
    let _exporter = exporter.spawn(&["ipfix", "--to", "10.9.0.2:4739", "--domain", "7"]);
    // A query and its answer, both of 20 bytes, again until one was exported.
    let query = "import socket\n\
         s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)\n\
         s.bind(('10.9.0.1', 4000))\n\
         for _ in range(3): s.sendto(b'x' * 20, ('10.9.0.2', 5353))\n";
    let deadline = Instant::now() + Duration::from_secs(60);
    let has_flow = |text: &str| text.contains("0a0900010a0900020fa014e911");
    while !has_flow(&std::fs::read_to_string(&datagrams).unwrap_or_default()) {
        assert!(Instant::now() < deadline, "no flow was exported");
        bench.namespace.run("python3", &["-c", query]);
        std::thread::sleep(Duration::from_millis(2500));
    }
    let text = exporter.read("datagrams", |text| text.ends_with('\n'));
    let capture = exporter.file("ipfix.pcap");
    let file = std::fs::File::create(&capture).unwrap();
    let mut writer = Writer::new(file).unwrap();
    for line in text.lines() {
        let bytes: Vec<u8> = (0..line.len())
            .step_by(2)
            .map(|at| u8::from_str_radix(&line[at..at + 2], 16).unwrap())
            .collect();
        let udp = Udp {
            source_port: 9999,
            destination_port: 4739,
            payload: bytes,
        };
        let packet = Packet {
            source: [10, 9, 0, 1].into(),
            destination: [10, 9, 0, 2].into(),
            body: Body::Udp(udp),
            checksum: Checksum::Right,
        };
        writer.write(1_000_000_000, &packet.ethernet()).unwrap();
    }
    writer.finish().unwrap();
    let output = std::process::Command::new("tshark")
        .args(["-r", &capture, "-d", "udp.port==4739,cflow", "-V"])
        .output()
        .unwrap();
    let told = String::from_utf8_lossy(&output.stdout).into_owned();
    for wanted in [
        "Version: 10",
        "Observation Domain Id: 7",
        "SrcAddr: 10.9.0.1",
        "DstAddr: 10.9.0.2",
        "SrcPort: 4000",
        "DstPort: 5353",
        "Protocol: UDP (17)",
        "Flow End Reason: Idle timeout (1)",
        // Three packets of 48 bytes; nobody answers by UDP.
        "Octets: 144",
        "Packets: 3",
        "Octets: 0 (Reverse Type 1 BYTES)",
        "Packets: 0 (Reverse Type 2 PKTS)",
        "StartTime: ",
        "EndTime: ",
    ] {
        assert!(told.contains(wanted), "{wanted}: {told}");
    }
    assert!(!told.contains("Malformed"), "{told}");
    assert!(!told.contains("No template found"), "{told}");
}

/// Refuses two requests, then takes all: a line for each body that it took.
const HOOK: &str = "import http.server, sys\n\
     out = open(sys.argv[1], 'w')\n\
     left = [503, 500]\n\
     class Hook(http.server.BaseHTTPRequestHandler):\n\
     \x20 def do_POST(self):\n\
     \x20  body = self.rfile.read(int(self.headers['Content-Length']))\n\
     \x20  code = left.pop() if left else 204\n\
     \x20  if code == 204: out.write(body.decode() + '\\n'); out.flush()\n\
     \x20  self.send_response(code); self.end_headers()\n\
     http.server.HTTPServer(('10.9.0.2', 8080), Hook).serve_forever()\n";

#[test]
fn an_alert_arrives_when_it_begins_and_when_it_is_over() {
    let test = "an_alert_arrives_when_it_begins_and_when_it_is_over";
    if !root_or_skip(test) || !programs_or_skip(test, &["ip", "python3"]) {
        return;
    }
    let exporter = Exporter::up("alerts");
    let bench = &exporter.bench;
    let taken = exporter.file("taken");
    let _hook = bench.peer.spawn("python3", &["-c", HOOK, &taken]);
    bench.peer.wait_for_listener(8080);
    let url = "http://10.9.0.2:8080/hook";
    let only = ["--only", "policy-unconfirmed", "--every", "1"];
    let _alerts = exporter.spawn(&[&["alerts", "--url", url], &only[..]].concat());
    let apply = ["apply", &base(), "--confirm", "600"];
    bench.succeeds(&apply);
    let text = exporter.read("taken", |text| text.ends_with('\n'));
    let begun: Value = serde_json::from_str(&text).unwrap();
    assert_eq!(begun["name"], "policy-unconfirmed");
    assert_eq!(begun["state"], "begins");
    assert_eq!(begun["severity"], "warning");
    assert_eq!(begun["command"], "keepstate confirm");
    assert_eq!(begun["lost"], 0);
    bench.succeeds(&["confirm"]);
    let text = exporter.read("taken", |text| text.lines().count() == 2);
    let ended: Value = serde_json::from_str(text.lines().last().unwrap()).unwrap();
    assert_eq!(ended["name"], "policy-unconfirmed");
    assert_eq!(ended["state"], "ends");
}
