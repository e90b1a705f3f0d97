//! The command line of conntrack: each line of `same.txt` runs in a namespace of the kernel's tracker by
//! Debian's program, and in one with Keepstate by ours; what both print must be the same.
//! Skipped where there are no rights for it, or no such program.

mod bench;
mod expect;
mod labels;
mod live;
mod scapy;
mod zones;

use keepstate_testkit::{programs_or_skip, root_or_skip};

use self::bench::Bench;

/// Command lines that both answer alike, in this order. `#` begins a remark.
const SAME: &str = include_str!("same.txt");

/// Command lines that only we answer like this: each with its exit code and what its output holds.
const OURS: &str = include_str!("ours.txt");

/// Fewer lines than this would mean that the list was cut.
const LINES_MIN: usize = 150;

/// Words of a command line; `''` is an empty one.
fn words(line: &str) -> Vec<String> {
    let words = line.split_ascii_whitespace();
    words.map(|word| word.replace("''", "")).collect()
}

fn command_lines(text: &str) -> impl Iterator<Item = &str> {
    text.lines()
        .map(str::trim)
        .filter(|line| !line.is_empty() && !line.starts_with('#'))
}

fn can_run(test: &str) -> bool {
    root_or_skip(test) && programs_or_skip(test, &["ip", "tc", "nsenter", "conntrack"])
}

#[test]
fn every_command_line_is_answered_as_by_conntrack() {
    if !can_run("every_command_line_is_answered_as_by_conntrack") {
        return;
    }
    let bench = Bench::new("same");
    assert!(command_lines(SAME).count() >= LINES_MIN);
    let mut wrong = Vec::new();
    for (number, line) in command_lines(SAME).enumerate() {
        let words = words(line);
        let theirs = bench.theirs(&words);
        let ours = if number % 2 == 0 {
            bench.ours(&words)
        } else {
            bench.subcommand(&words)
        };
        if !ours.is_like(&theirs) {
            wrong.push(format!(
                "conntrack {line}\n  theirs: {theirs:#?}\n  ours: {ours:#?}"
            ));
        }
    }
    assert!(
        wrong.is_empty(),
        "{} lines:\n{}",
        wrong.len(),
        wrong.join("\n")
    );
}

#[test]
fn what_differs_from_conntrack_is_as_documented() {
    if !can_run("what_differs_from_conntrack_is_as_documented") {
        return;
    }
    let bench = Bench::new("ours");
    for line in command_lines(OURS) {
        let parts: Vec<&str> = line.split(" => ").collect();
        let [line, code, held] = parts[..] else {
            panic!("`{line}` is not `COMMAND => CODE => TEXT`");
        };
        let outcome = bench.ours(&words(line));
        let text = format!("{}\n{}", outcome.printed.join("\n"), outcome.said);
        assert_eq!(outcome.code, code.parse().ok(), "conntrack {line}\n{text}");
        assert!(
            text.contains(held),
            "conntrack {line}\n{text}\nwithout `{held}`"
        );
    }
}
