//! Rules that wait for confirmation, on a clock of the test's own.

use std::sync::Arc;
use std::time::{Duration, Instant};

use keepstate_api::{ApplyMode, ClientError, Reply, Request, RuleFamily};
use keepstate_engine::time::Tick;

use super::super::tests::{Bench, take_over};

const OPEN: &str = "*filter\n:INPUT ACCEPT [0:0]\nCOMMIT\n";
const SHUT: &str = "*filter\n:INPUT DROP [0:0]\nCOMMIT\n";

const GUARDED: ApplyMode = ApplyMode::Guarded { seconds: 60 };

fn is_shut(bench: &Bench) -> bool {
    bench.rules().v4.contains(":INPUT DROP")
}

fn wait_until_open(bench: &Bench) {
    let deadline = Instant::now() + Duration::from_secs(20);
    while is_shut(bench) {
        assert!(
            Instant::now() < deadline,
            "the rules before do not come back"
        );
        std::thread::sleep(Duration::from_millis(20));
    }
}

fn apply(bench: &Bench, text: &str, mode: ApplyMode) {
    let reply = bench.apply(text, RuleFamily::V4, mode);
    assert!(matches!(reply, Reply::Applied(_)), "{reply:?}");
}

#[test]
fn rules_come_back_when_their_time_has_passed() {
    let bench = Bench::new();
    bench.plane.set_clock(Tick(1000));
    apply(&bench, OPEN, ApplyMode::Swap);
    apply(&bench, SHUT, GUARDED);
    assert!(is_shut(&bench));
    let waiting = bench.status().policy.expect("rules").confirm_within;
    assert_eq!(waiting, Some(60));
    bench.plane.set_clock(Tick(1000).after_seconds(59));
    std::thread::sleep(super::STEP * 2);
    assert!(is_shut(&bench), "they came back too early");
    bench.plane.set_clock(Tick(1000).after_seconds(60));
    wait_until_open(&bench);
    assert_eq!(bench.status().policy.expect("rules").confirm_within, None);
}

/// Another daemon takes over, at this time.
fn start_anew(bench: &mut Bench, now: Tick) {
    bench.stop();
    bench.plane = Arc::new(take_over(&bench.plane));
    bench.plane.set_clock(now);
    bench.start();
}

#[test]
fn rules_come_back_by_the_next_daemon() {
    let mut bench = Bench::new();
    apply(&bench, OPEN, ApplyMode::Swap);
    apply(&bench, SHUT, GUARDED);
    start_anew(&mut bench, Tick(0));
    assert!(is_shut(&bench));
    let waiting = bench.status().policy.expect("rules").confirm_within;
    assert_eq!(waiting, Some(60));
    let late = Tick(0).after_seconds(1000);
    start_anew(&mut bench, late);
    wait_until_open(&bench);
    // And it is forgotten that there was something to come back.
    apply(&bench, SHUT, ApplyMode::Swap);
    start_anew(&mut bench, late);
    std::thread::sleep(super::STEP * 2);
    assert!(is_shut(&bench));
}

#[test]
fn confirmed_rules_stay_and_nothing_changes_meanwhile() {
    let bench = Bench::new();
    apply(&bench, SHUT, GUARDED);
    let mut client = bench.client();
    let file = |text: &str| Request::Apply {
        files: vec![keepstate_api::RuleFile {
            origin: "rules".into(),
            family: RuleFamily::V4,
            text: text.into(),
        }],
        mode: ApplyMode::Swap,
    };
    let refused = client.ask(&file(OPEN));
    assert!(
        matches!(refused, Err(ClientError::Refused(_))),
        "{refused:?}"
    );
    let arguments = ["-P", "INPUT", "ACCEPT"].map(String::from).to_vec();
    let family = RuleFamily::V4;
    let command = client.ask(&Request::Iptables { family, arguments });
    let Ok(Reply::Printed(printed)) = command else {
        panic!("{command:?}");
    };
    assert_eq!(printed.exit_code, 4);
    assert!(printed.stderr.contains("keepstate confirm"), "{printed:?}");
    assert!(matches!(client.ask(&Request::Confirm), Ok(Reply::Done)));
    assert!(client.ask(&Request::Confirm).is_err());
    assert!(client.ask(&Request::RollBack).is_err());
    bench.plane.set_clock(Tick(0).after_seconds(1000));
    std::thread::sleep(super::STEP * 2);
    assert!(is_shut(&bench));
    // What was there before any rules comes back as rules that accept everything.
    apply(&bench, OPEN, ApplyMode::Swap);
    apply(&bench, SHUT, GUARDED);
    assert!(matches!(client.ask(&Request::RollBack), Ok(Reply::Done)));
    assert!(!is_shut(&bench));
    let endless = ApplyMode::Guarded { seconds: 0 };
    let request = match file(OPEN) {
        Request::Apply { files, .. } => Request::Apply {
            files,
            mode: endless,
        },
        other => other,
    };
    assert!(client.ask(&request).is_err());
}
