//! What needs no daemon: comparing rulesets, and rehearsing one on a capture.

use std::process::{Command, Output};

use crate::bench::KEEPSTATE;

pub(crate) fn keepstate(arguments: &[&str]) -> Output {
    let mut command = Command::new(KEEPSTATE);
    command
        .args(arguments)
        .output()
        .expect("the program can be started")
}

pub(crate) fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// A directory of files that goes with the test.
pub(crate) struct Files(std::path::PathBuf);

impl Files {
    pub(crate) fn new(label: &str) -> Self {
        let name = format!("keepstate-offline-{label}-{}", std::process::id());
        let directory = std::env::temp_dir().join(name);
        std::fs::create_dir_all(&directory).expect("a directory can be made");
        Self(directory)
    }

    pub(crate) fn write(&self, name: &str, content: &str) -> String {
        let path = self.0.join(name);
        std::fs::write(&path, content).expect("a file can be written");
        path.display().to_string()
    }
}

impl Drop for Files {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

#[test]
fn diff_tells_what_differs_and_whether() {
    let files = Files::new("diff");
    let old = files.write(
        "old",
        "iptables -A INPUT -s 10.0.0.1 -j ACCEPT\niptables -A INPUT -j DROP\n",
    );
    let new = files.write(
        "new",
        "*filter\n:INPUT DROP [0:0]\n-A INPUT -s 10.0.0.1 -j ACCEPT\n-A INPUT -s 10.0.0.2 -j ACCEPT\nCOMMIT\n",
    );
    let same = keepstate(&["diff", &old, &old]);
    assert_eq!(
        (same.status.code(), text(&same.stdout).as_str()),
        (Some(0), "")
    );
    let differs = keepstate(&["diff", &old, &new]);
    assert_eq!(differs.status.code(), Some(1));
    assert_eq!(
        text(&differs.stdout),
        "ipv4 filter INPUT\n  ~ policy ACCEPT -> DROP\n  - 2    -A INPUT -j DROP\n  \
         + 2    -A INPUT -s 10.0.0.2/32 -j ACCEPT\n"
    );
    let json = keepstate(&["diff", &old, &new, "--json"]);
    let document: serde_json::Value = serde_json::from_slice(&json.stdout).expect("JSON");
    assert_eq!(document["changes"][0]["change"], "policy");
    assert_eq!(document["changes"].as_array().map(Vec::len), Some(3));
    let missing = keepstate(&["diff", &old, "/nonexistent"]);
    assert_eq!(missing.status.code(), Some(2));
}

#[test]
fn backtest_lists_the_flows_that_fare_otherwise() {
    const NAME: &str = "backtest_lists_the_flows_that_fare_otherwise";
    let Some(shared) = keepstate_testkit::shared_dir_or_skip(NAME) else {
        return;
    };
    let capture = shared.join("captures/public/arki-http-post-upload.pcap");
    let capture = capture.display().to_string();
    let files = Files::new("backtest");
    let open = files.write("open", "iptables -P FORWARD ACCEPT\n");
    let shut = files.write(
        "shut",
        "iptables -A FORWARD -m conntrack --ctstate NEW -j DROP\n",
    );
    let ask = |current: &str, candidate: &str| {
        let words = [
            "backtest",
            &capture,
            "--current",
            current,
            "--candidate",
            candidate,
            "--json",
        ];
        let output = keepstate(&words);
        assert!(output.status.success(), "{}", text(&output.stderr));
        serde_json::from_slice::<serde_json::Value>(&output.stdout).expect("JSON")
    };
    let same = ask(&open, &open);
    assert_eq!(same["flows"].as_array().map(Vec::len), Some(0));
    let changed = ask(&open, &shut);
    let flows = changed["flows"].as_array().expect("a list of flows");
    assert!(!flows.is_empty(), "{changed}");
    let first = &flows[0];
    assert_eq!(first["current"]["verdict"], "ACCEPT");
    assert_eq!(first["candidate"]["verdict"], "DROP");
    assert_eq!(first["candidate"]["chain"], "FORWARD");
    assert_eq!(first["candidate"]["rule"], 1);
    assert_eq!(first["current"]["rule"], serde_json::Value::Null);
    let words = [
        "backtest",
        &capture,
        "--current",
        &open,
        "--candidate",
        &shut,
    ];
    let told = text(&keepstate(&words).stdout);
    assert!(
        told.contains("FORWARD 1: -A FORWARD -m conntrack --ctstate NEW -j DROP"),
        "{told}"
    );
}

/// The base template of the tutorial, section 7.1, as it stands there.
const TUTORIAL_BASE: &str = "#!/bin/bash
# 清空现有规则
iptables -F
iptables -X
iptables -Z

# 设置默认策略
iptables -P INPUT DROP
iptables -P FORWARD DROP
iptables -P OUTPUT ACCEPT

iptables -A INPUT -i lo -j ACCEPT
iptables -A INPUT -m conntrack --ctstate ESTABLISHED,RELATED -j ACCEPT
iptables -A INPUT -m conntrack --ctstate INVALID -j DROP
iptables -A INPUT -p tcp --dport 22 -m conntrack --ctstate NEW -j ACCEPT
service iptables save
";

#[test]
fn check_tells_what_it_finds_and_whether() {
    let files = Files::new("check");
    let script = files.write("base.sh", TUTORIAL_BASE);
    let output = keepstate(&["check", &script]);
    assert_eq!(output.status.code(), Some(1), "{}", text(&output.stderr));
    let told = text(&output.stdout);
    for expected in [
        "KS008",
        "KS012",
        "KS013",
        "KS017",
        "base.sh:8:19",
        "base.sh:14:10",
    ] {
        assert!(told.contains(expected), "{expected}\n{told}");
    }
    let json = keepstate(&["check", &script, "--json"]);
    let document: serde_json::Value = serde_json::from_slice(&json.stdout).expect("JSON");
    let found = document["findings"].as_array().expect("a list");
    assert_eq!(found.len(), 4, "{document}");
    assert_eq!(found[0]["location"]["file"], script.as_str());
    let sarif = keepstate(&["check", &script, "--sarif"]);
    let document: serde_json::Value = serde_json::from_slice(&sarif.stdout).expect("JSON");
    assert_eq!(
        document["runs"][0]["results"].as_array().map(Vec::len),
        Some(4)
    );
    let fix = keepstate(&["check", &script, "--fix"]);
    let patch = text(&fix.stdout);
    assert!(patch.contains("--- a/rules.v4"), "{patch}");
    assert!(
        patch.contains("+-A INPUT -m conntrack --ctstate INVALID -j DROP"),
        "{patch}"
    );

    let broken = files.write("broken", "iptables -A INPUT --zork");
    assert_eq!(keepstate(&["check", &broken]).status.code(), Some(2));
    assert_eq!(keepstate(&["check", "/nonexistent"]).status.code(), Some(2));
}
