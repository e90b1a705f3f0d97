//! Captures as honest traffic.

use std::path::Path;

use keepstate_sim::build::{ACK, Body, PSH, Packet, SYN, Tcp, Udp};
use keepstate_sim::capture::Writer;
use keepstate_simulate::{Recording, RecordingError, Report, Scenario, run, text};

/// What public captures hold: HTTP, mail, DNS, conferences (QUIC and STUN among them), files.
const CAPTURES: [&str; 8] = [
    "arki-http-post-upload.pcap",
    "arki-smtp-decrypted.pcap",
    "ndpi-teams.pcap",
    "ndpi-zoom-p2p.pcapng",
    "ndpi-stun-signal.pcapng",
    "ndpi-whatsapp.pcap",
    "ndpi-wow.pcap",
    "suri-ftp-epsv.pcap",
];

const FLOOD: &str =
    "[[attack]]\nkind = \"syn\"\nspoofed = true\nrate = 15000\nport = 443\nbegin = 15\nend = 45\n";

fn scenario(captures: &str, attacks: &str, more: &str) -> String {
    format!(
        "title = \"captures\"\nseconds = 60\nservers = [\"192.0.2.1\", \"2001:db8:1::1\"]\n{more}\n{captures}{attacks}"
    )
}

fn capture(file: &str, more: &str) -> String {
    format!("[[capture]]\nfile = \"{file}\"\nloop = true\n{more}\n")
}

fn play(toml: &str, directory: &Path, seed: u64) -> Report {
    let mut scenario = Scenario::parse(toml).unwrap_or_else(|error| panic!("{error}\n{toml}"));
    scenario.open_captures(directory).expect("captures");
    run(&scenario, seed).expect("no rules")
}

/// Looped and with other clients, in calm and while SYNs are answered with cookies, whose numbers the captures do not have.
#[test]
fn public_captures_are_served_in_calm_and_under_a_flood() {
    let Some(shared) = keepstate_testkit::shared_dir_or_skip(
        "public_captures_are_served_in_calm_and_under_a_flood",
    ) else {
        return;
    };
    let directory = shared.join("captures/public");
    let captures: String = CAPTURES
        .iter()
        .map(|file| capture(file, "network = \"198.51.0.0/16\"\nspeed = 4"))
        .collect();
    let calm = play(&scenario(&captures, "", ""), &directory, 1);
    for honest in &calm.legitimate {
        assert!(
            honest.whole.begun > 0 && honest.whole.failed == 0,
            "{}",
            text(&calm)
        );
    }
    let flooded = play(&scenario(&captures, FLOOD, ""), &directory, 1);
    let told = text(&flooded);
    assert!(told.contains("SYN cookies"), "{told}");
    for (honest, calm) in flooded.legitimate.iter().zip(&calm.legitimate) {
        assert_eq!(honest.whole.begun, calm.whole.begun, "{told}");
        assert!(
            honest.loss_under_attack_percent <= 2.0,
            "{}: {told}",
            honest.kind
        );
    }
    assert!(
        flooded.wrong_bans.is_empty() && flooded.false_alarms.is_empty(),
        "{told}"
    );
    assert_eq!(
        play(&scenario(&captures, FLOOD, ""), &directory, 1),
        flooded,
        "the same seed"
    );
}

/// A connection of a question and an answer, and a datagram, between these two.
fn written() -> Vec<u8> {
    let ends = ["10.1.1.1", "10.9.9.9"].map(|text| text.parse().expect("an address"));
    let segment = |is_client: bool, sequence, acknowledgement, flags, bytes| {
        let (from, to, ports) = match is_client {
            true => (ends[0], ends[1], [40_000, 80]),
            false => (ends[1], ends[0], [80, 40_000]),
        };
        let body = Tcp {
            source_port: ports[0],
            destination_port: ports[1],
            sequence,
            acknowledgement,
            flags,
            window: 64_000,
            payload: vec![0; bytes],
            ..Tcp::default()
        };
        Packet::new(from, to, Body::Tcp(body)).ethernet()
    };
    let question = Udp {
        source_port: 5000,
        destination_port: 53,
        payload: vec![0; 30],
    };
    let packets = [
        segment(true, 100, 0, SYN, 0),
        segment(false, 7000, 101, SYN | ACK, 0),
        segment(true, 101, 7001, ACK, 0),
        segment(true, 101, 7001, ACK | PSH, 50),
        segment(false, 7001, 151, ACK | PSH, 90),
        Packet::new(ends[0], ends[1], Body::Udp(question)).ethernet(),
    ];
    let mut writer = Writer::new(Vec::new()).expect("memory");
    for (number, packet) in (0_u64..).zip(&packets) {
        writer.write(number * 10_000_000, packet).expect("memory");
    }
    writer.finish().expect("memory")
}

#[test]
fn what_the_scenario_says_of_a_capture_holds() {
    let directory = std::env::temp_dir().join(format!("keepstate-recorded-{}", std::process::id()));
    std::fs::create_dir_all(&directory).expect("a directory");
    std::fs::write(directory.join("two.pcap"), written()).expect("a file");
    let report = |captures: &str, more: &str| play(&scenario(captures, "", more), &directory, 3);
    let once = "[[capture]]\nfile = \"two.pcap\"\n";
    assert_eq!(report(once, "").legitimate[0].whole.served, 2);
    // Its addresses are not this host's: it is forwarded.
    let as_is = format!("{once}as_is = true\n");
    assert_eq!(report(&as_is, "").legitimate[0].whole.served, 2);
    let only_input = "rules = '''\n*filter\n:INPUT ACCEPT [0:0]\n:FORWARD DROP [0:0]\n:OUTPUT ACCEPT [0:0]\nCOMMIT\n'''";
    assert_eq!(report(&as_is, only_input).legitimate[0].whole.failed, 2);
    assert_eq!(report(once, only_input).legitimate[0].whole.served, 2);
    let copies = format!("{once}network = \"198.51.0.0/16\"\ncopies = 50\n");
    let copied = report(&copies, "");
    assert_eq!(copied.legitimate[0].whole.served, 100);
    assert!(copied.flows_peak >= 90, "{}", copied.flows_peak);
    // One round takes a second and the pause between two.
    let looped = report(&capture("two.pcap", "begin = 10\nend = 20"), "");
    assert!(
        (16..=20).contains(&looped.legitimate[0].whole.served),
        "{}",
        text(&looped)
    );
    let _ = std::fs::remove_dir_all(&directory);
}

#[test]
fn what_cannot_be_played_is_said() {
    assert!(matches!(
        Recording::read(&b"text"[..]),
        Err(RecordingError::Capture(_))
    ));
    let empty = &written()[..24];
    assert!(matches!(Recording::read(empty), Err(RecordingError::Empty)));
    let wrong = [
        ("copies = 3", "no network says"),
        ("speed = 0", "must be above 0"),
        ("speed = nan", "must be above 0"),
        ("colour = 1", "unknown field"),
    ];
    for (field, told) in wrong {
        let error = Scenario::parse(&scenario(&capture("x.pcap", field), "", "")).unwrap_err();
        assert!(error.to_string().contains(told), "{field}: {error}");
    }
    let mut missing = Scenario::parse(&scenario(&capture("x.pcap", ""), "", "")).expect("right");
    let error = missing.open_captures(Path::new("/nowhere")).unwrap_err();
    assert_eq!(error.to_string(), "x.pcap");
}
