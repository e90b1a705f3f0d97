//! Agreement with Linux: every labelled capture, replayed and compared packet by packet.
//!
//! `oracle-expected.tsv` (name, packets, cause) lists how many packets of which comparison are known to differ. The test
//! fails when a count grows, and when one shrinks: then the list is to be lowered.

#[path = "support/oracle.rs"]
#[allow(dead_code, reason = "the example uses the rest")]
mod oracle;

use std::collections::BTreeMap;

use keepstate_testkit::{shared_dir_or_skip, skip};
use oracle::{Depth, Difference, cases, compare};

const EXPECTED: &str = include_str!("oracle-expected.tsv");

#[test]
fn states_are_those_of_linux() {
    const TEST: &str = "oracle::states_are_those_of_linux";
    let Some(shared) = shared_dir_or_skip(TEST) else {
        return;
    };
    let expected = expected();
    let mut complaints = Vec::new();
    let (mut packets, mut differing) = (0, 0);
    for case in cases(&shared) {
        if !case.capture.exists() || !case.labels.exists() {
            skip(
                TEST,
                &format!("{} is not in the shared material", case.name),
            );
            continue;
        }
        let comparison = compare(&case, Depth::States);
        let count = comparison.differences.len();
        packets += comparison.packets;
        differing += count;
        let known = expected.get(case.name.as_str()).copied().unwrap_or(0);
        if count < known {
            complaints.push(format!(
                "{}: {count} packets differ, {known} are listed: lower the list",
                case.name
            ));
        }
        if count > known {
            complaints.push(format!(
                "{}: {count} packets differ, {known} are listed; first:",
                case.name
            ));
            let first = comparison.first_of_each_flow();
            complaints.extend(first.iter().take(3).map(|difference| describe(difference)));
        }
    }
    println!("{packets} packets compared, {differing} differ");
    assert!(complaints.is_empty(), "{}", complaints.join("\n"));
}

/// Name of a comparison and number of packets that are known to differ.
fn expected() -> BTreeMap<&'static str, usize> {
    let lines = EXPECTED.lines().filter(|line| !line.starts_with('#'));
    lines
        .map(|line| {
            let (name, count) = line.split_once('\t').expect("name and count");
            let count = count.split('\t').next().unwrap_or_default();
            (name, count.parse().expect("a count"))
        })
        .collect()
}

fn describe(difference: &Difference) -> String {
    let row = &difference.row;
    let ours = difference.judged.map_or("nothing".to_owned(), |judged| {
        let tcp_state = judged.protocol_state().unwrap_or("-");
        format!("{} {tcp_state}", judged.outcome.state.name())
    });
    let wrong = match (difference.wrong_state, difference.wrong_tcp_state) {
        (true, _) => "state",
        (false, _) => "TCP state",
    };
    format!(
        "  frame {}: {wrong} differs: ours {ours}, Linux {} {}",
        row.column("frame"),
        row.column("label"),
        row.column("state"),
    )
}

/// `docs/differences.md` names every comparison that differs, with the same number.
#[test]
fn differences_are_documented() {
    let path = keepstate_testkit::workspace_root().join("docs/differences.md");
    let document = std::fs::read_to_string(path).expect("the document");
    for (name, count) in expected() {
        let row = format!("| {name} | {count} |");
        assert!(document.contains(&row), "docs/differences.md lacks `{row}`");
    }
    let listed: usize = expected().values().sum();
    assert!(document.contains(&format!("\n{listed} packets differ")));
}
