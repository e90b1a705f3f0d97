//! The command line of `replay` and `explain`, as scripts see it.

use std::io::Write;
use std::path::PathBuf;
use std::process::{Command, Output, Stdio};

use keepstate_sim::story;

const RULES: &str = "\
*filter
:INPUT DROP [0:0]
:FORWARD DROP [0:0]
:OUTPUT ACCEPT [0:0]
:admin - [0:0]
-A INPUT -i lo -j ACCEPT
-A INPUT -m conntrack --ctstate INVALID -j DROP
-A INPUT -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT
-A INPUT -p tcp -m tcp --dport 22 -m conntrack --ctstate NEW -j admin
-A INPUT -p icmp -j ACCEPT
-A admin -s 10.0.0.0/8 -j ACCEPT
COMMIT
";

/// A directory of files for one test.
struct Files(PathBuf);

impl Files {
    fn new(test: &str) -> Self {
        let directory = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(test);
        std::fs::create_dir_all(&directory).expect("a directory");
        let files = Self(directory);
        files.add("story.pcap", &story::capture());
        files.add("rules", RULES.as_bytes());
        files
    }

    fn add(&self, name: &str, content: &[u8]) {
        std::fs::write(self.0.join(name), content).expect("it is written");
    }

    fn keepstate(&self, arguments: &[&str]) -> Output {
        let mut command = Command::new(env!("CARGO_BIN_EXE_keepstate"));
        command.args(arguments).current_dir(&self.0);
        command.output().expect("it runs")
    }
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

#[track_caller]
fn check_exit(output: &Output, code: i32) {
    let errors = text(&output.stderr);
    assert_eq!(output.status.code(), Some(code), "{errors}");
}

const AS_SERVER: [&str; 6] = [
    "replay",
    "story.pcap",
    "--rules",
    "rules",
    "--local",
    "10.0.0.1",
];

#[test]
fn jsonl_has_the_keys_of_the_contract() {
    let files = Files::new("jsonl");
    let output = files.keepstate(&[&AS_SERVER[..], &["--output", "jsonl"]].concat());
    check_exit(&output, 0);
    let stdout = text(&output.stdout);
    let lines: Vec<&str> = stdout.lines().collect();
    assert_eq!(lines.len(), story::frames().len());
    for (number, line) in lines.iter().enumerate() {
        let value: serde_json::Value = serde_json::from_str(line).expect("JSON");
        let object = value.as_object().expect("an object");
        assert_eq!(object.len(), 9, "{line}");
        let mut at = 0;
        for key in [
            "n",
            "time",
            "state",
            "verdict",
            "chain",
            "rule",
            "reason",
            "flow",
            "tcp_state",
        ] {
            let found = line.find(&format!("\"{key}\":")).expect(key);
            assert!(found >= at, "{line}");
            at = found;
        }
        assert_eq!(object["n"], number + 1);
    }
    // Through the chain `admin`, which has one rule; then remembered, by the third rule of INPUT.
    assert!(
        lines[0].starts_with(
            "{\"n\":1,\"time\":0.000000,\"state\":\"NEW\",\"verdict\":\"ACCEPT\",\
             \"chain\":\"admin\",\"rule\":1,\"reason\":null,\"flow\":"
        ),
        "{}",
        lines[0]
    );
    assert!(
        lines[2].contains(
            "\"state\":\"ESTABLISHED\",\"verdict\":\"ACCEPT\",\"chain\":\"INPUT\",\"rule\":3,"
        ),
        "{}",
        lines[2]
    );
    let totals = text(&output.stderr);
    assert!(totals.contains("reason   "), "{totals}");
}

#[test]
fn text_ends_with_totals_and_flows() {
    let files = Files::new("text");
    let output = files.keepstate(&AS_SERVER);
    check_exit(&output, 0);
    let stdout = text(&output.stdout);
    let (packets, totals) = stdout.split_once("\n\n").expect("an empty line");
    assert_eq!(packets.lines().count(), story::frames().len() + 1);
    assert!(!stdout.contains('\x1b'), "no colour but on a terminal");
    let lines: Vec<&str> = totals.lines().collect();
    assert_eq!(lines[0], format!("packets  {}", story::frames().len()));
    for reason in [
        "policy_drop",
        "tcp_bad_checksum",
        "icmp_bad_checksum",
        "tcp_bad_flags",
    ] {
        assert!(lines[3].contains(reason), "{totals}");
    }
    let login = "TIME_WAIT src=10.0.0.5 dst=10.0.0.1 sport=50022 dport=22 \
                 src=10.0.0.1 dst=10.0.0.5 sport=22 dport=50022 [ASSURED] mark=0 use=1";
    assert!(totals.contains(login), "{totals}");
}

#[test]
fn without_local_addresses_everything_is_forwarded() {
    let files = Files::new("forward");
    let output = files.keepstate(&["replay", "story.pcap", "--output", "jsonl"]);
    check_exit(&output, 0);
    assert!(
        text(&output.stdout)
            .lines()
            .all(|line| line.contains("\"chain\":\"FORWARD\""))
    );
}

#[test]
fn settings_have_their_sysctl_names() {
    let files = Files::new("sysctl");
    let invalid = |arguments: &[&str]| {
        let output =
            files.keepstate(&[&["replay", "story.pcap", "--output", "jsonl"], arguments].concat());
        check_exit(&output, 0);
        text(&output.stdout)
            .lines()
            .filter(|line| line.contains("INVALID"))
            .count()
    };
    let by_default = invalid(&[]);
    let unverified = invalid(&["--sysctl", "net.netfilter.nf_conntrack_checksum=0"]);
    assert_eq!(unverified + 2, by_default);
    let liberal = invalid(&["--sysctl", "nf_conntrack_tcp_be_liberal=1"]);
    assert!(liberal < by_default);
    let output = files.keepstate(&["replay", "story.pcap", "--sysctl", "nf_conntrack_magic=1"]);
    check_exit(&output, 2);
    assert!(text(&output.stderr).contains("nf_conntrack_magic"));
}

#[test]
fn a_cut_capture_is_reported_as_far_as_it_goes() {
    let files = Files::new("cut");
    let whole = story::capture();
    files.add("cut.pcap", &whole[..whole.len() - 3]);
    let output = files.keepstate(&["replay", "cut.pcap", "--output", "jsonl"]);
    check_exit(&output, 1);
    assert_eq!(
        text(&output.stdout).lines().count(),
        story::frames().len() - 1
    );
    assert!(
        text(&output.stderr).contains("cut at byte"),
        "{}",
        text(&output.stderr)
    );
}

#[test]
fn wrong_rules_are_shown_with_their_place() {
    let files = Files::new("rules");
    files.add("rules", b"iptables -A INPUT -p tcp --dprot 22 -j ACCEPT\n");
    let output = files.keepstate(&AS_SERVER);
    check_exit(&output, 1);
    let errors = text(&output.stderr);
    assert!(errors.contains("--dprot"), "{errors}");
    assert!(output.stdout.is_empty());
}

#[test]
fn reads_standard_input_and_stops_with_its_reader() {
    let files = Files::new("pipe");
    let mut command = Command::new(env!("CARGO_BIN_EXE_keepstate"));
    command.args(["replay", "-"]).stdin(Stdio::piped());
    let mut child = command.stdout(Stdio::piped()).spawn().expect("it runs");
    // Nobody reads what it prints.
    drop(child.stdout.take());
    let mut input = child.stdin.take().expect("a pipe");
    input.write_all(&story::capture()).expect("it reads");
    drop(input);
    assert_eq!(child.wait().expect("it ends").code(), Some(0));
    let _ = files;
}

#[test]
fn usage_errors_exit_with_two() {
    let files = Files::new("usage");
    for arguments in [
        &["replay"][..],
        &["replay", "story.pcap", "--local", "eth0"],
        &["replay", "story.pcap", "--output", "xml"],
        &["replay", "story.pcap", "--flows-max", "0"],
        &["explain"],
        &["explain", "tcp 10.0.0.5:5000"],
        &["nonsense"],
    ] {
        check_exit(&files.keepstate(arguments), 2);
    }
    check_exit(&files.keepstate(&["replay", "absent.pcap"]), 1);
}

#[test]
fn explain_names_the_rule() {
    let files = Files::new("explain");
    let explain = |packet: &str| {
        let output =
            files.keepstate(&["explain", packet, "--rules", "rules", "--local", "10.0.0.1"]);
        check_exit(&output, 0);
        text(&output.stdout)
    };
    let admitted = explain("tcp 10.0.0.5:5000 > 10.0.0.1:22 syn");
    assert!(
        admitted.ends_with("verdict  ACCEPT, by rule 1 of admin\n"),
        "{admitted}"
    );
    let stranger = explain("tcp 192.0.2.5:5000 > 10.0.0.1:22 syn");
    assert!(
        stranger.ends_with("verdict  DROP, by the policy of INPUT (policy_drop)\n"),
        "{stranger}"
    );
    assert!(
        stranger.contains("-A admin -s 10.0.0.0/8 -j ACCEPT"),
        "{stranger}"
    );
    assert!(
        stranger.contains("no: the source is 192.0.2.5"),
        "{stranger}"
    );
    let local = explain("tcp 127.0.0.1:5000 > 10.0.0.1:80 syn in lo");
    assert!(
        local.ends_with("verdict  ACCEPT, by rule 1 of INPUT\n"),
        "{local}"
    );
}

#[test]
fn explain_tells_of_a_packet_in_a_capture() {
    let files = Files::new("explain-capture");
    let output = files.keepstate(&[
        "explain",
        "--capture",
        "story.pcap",
        "--packet",
        "3",
        "--rules",
        "rules",
        "--local",
        "10.0.0.1",
    ]);
    check_exit(&output, 0);
    let stdout = text(&output.stdout);
    assert!(
        stdout.contains("tcp      SYN_RECV -> ESTABLISHED"),
        "{stdout}"
    );
    let output = files.keepstate(&["explain", "--capture", "story.pcap", "--packet", "9999"]);
    check_exit(&output, 1);
}
