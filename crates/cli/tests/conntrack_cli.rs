//! The command line of conntrack: each line below runs in a namespace of the kernel's tracker by
//! Debian's program, and in one with Keepstate by ours; what both print must be the same.
//! Skipped where there are no rights for it, or no such program.

use std::path::PathBuf;
use std::process::{Command, Output};

use keepstate_testkit::{Namespace, programs_or_skip, root_or_skip, workspace_root};

const KEEPSTATE: &str = env!("CARGO_BIN_EXE_keepstate");

/// Command lines that both answer alike, in this order. `#` begins a remark.
const SAME: &str = include_str!("conntrack_cli/same.txt");

/// Command lines that only we answer like this: each with its exit code and what its output holds.
const OURS: &str = include_str!("conntrack_cli/ours.txt");

/// Fewer lines than this would mean that the list was cut.
const LINES_MIN: usize = 150;

/// Seconds by which two timeouts may differ: one program runs after the other.
const TIMEOUT_SLACK: i64 = 6;

/// A namespace with the kernel's tracker, and one with ours.
struct Bench {
    kernel: Namespace,
    ours: Namespace,
    _peer: Namespace,
    instance: String,
    link: PathBuf,
}

impl Bench {
    fn new(label: &str) -> Self {
        let ours = Namespace::new(label);
        let peer = Namespace::new("peer");
        peer.connect("outer", &ours, "inner");
        ours.address("inner", "10.9.0.1/24");
        let instance = format!("test-{}-{label}", std::process::id());
        let link = std::env::temp_dir().join(&instance).join("conntrack");
        let directory = link.parent().expect("the link lies in a directory");
        std::fs::create_dir_all(directory).expect("a directory can be made");
        let _ = std::fs::remove_file(&link);
        std::os::unix::fs::symlink(KEEPSTATE, &link).expect("a link can be made");
        let bench = Self {
            kernel: Namespace::new("kernel"),
            ours,
            _peer: peer,
            instance,
            link,
        };
        let rules = workspace_root().join("examples/base.sh");
        let rules = rules.display().to_string();
        let up = bench.keepstate(&["up", "--rules", &rules, "--instance", &bench.instance]);
        assert!(
            up.status.success(),
            "{}",
            String::from_utf8_lossy(&up.stderr)
        );
        bench
    }

    fn keepstate(&self, arguments: &[&str]) -> Output {
        let mut command = self.ours.command(KEEPSTATE);
        run(command.args(arguments))
    }

    /// The program of Debian, beside the kernel's tracker.
    fn theirs(&self, words: &[String]) -> Outcome {
        Outcome::of(&run(self.kernel.command("conntrack").args(words)))
    }

    /// Ours: by a link of that name.
    fn ours(&self, words: &[String]) -> Outcome {
        let mut command = self.ours.command(&self.link.display().to_string());
        Outcome::of(&run(command
            .args(words)
            .env("KEEPSTATE_INSTANCE", &self.instance)))
    }

    /// Ours: as a subcommand.
    fn subcommand(&self, words: &[String]) -> Outcome {
        let mut command = self.ours.command(KEEPSTATE);
        command.env("KEEPSTATE_INSTANCE", &self.instance);
        Outcome::of(&run(command.arg("conntrack").args(words)))
    }
}

impl Drop for Bench {
    fn drop(&mut self) {
        self.keepstate(&["down", "--instance", &self.instance]);
        if let Some(directory) = self.link.parent() {
            let _ = std::fs::remove_dir_all(directory);
        }
    }
}

fn run(command: &mut Command) -> Output {
    command
        .output()
        .unwrap_or_else(|error| panic!("cannot start {command:?}: {error}"))
}

/// What a program printed, with all that is by chance taken out of it.
#[derive(Debug, PartialEq, Eq)]
struct Outcome {
    /// Lines in alphabetical order: tables have orders of their own.
    printed: Vec<String>,
    /// The timeouts of these lines.
    timeouts: Vec<i64>,
    said: String,
    code: Option<i32>,
}

impl Outcome {
    fn of(output: &Output) -> Self {
        let printed = String::from_utf8_lossy(&output.stdout);
        let mut lines: Vec<(String, Option<i64>)> = printed.lines().map(without_chance).collect();
        lines.sort();
        let timeouts = lines.iter().filter_map(|(_, timeout)| *timeout).collect();
        Self {
            printed: lines.into_iter().map(|(line, _)| line).collect(),
            timeouts,
            said: String::from_utf8_lossy(&output.stderr).into_owned(),
            code: output.status.code(),
        }
    }

    fn is_like(&self, other: &Self) -> bool {
        let pairs = self.timeouts.iter().zip(&other.timeouts);
        self.printed == other.printed
            && self.said == other.said
            && self.code == other.code
            && self.timeouts.len() == other.timeouts.len()
            && pairs
                .into_iter()
                .all(|(a, b)| (a - b).abs() <= TIMEOUT_SLACK)
    }
}

/// A line without its identifier and timeout, and the timeout.
fn without_chance(line: &str) -> (String, Option<i64>) {
    let line = cut_number(line, "id=", |before| {
        !before.contains("type=") || before.contains("use=")
    });
    let line = cut_number(&line.0, "<id>", |_| true);
    for mark in ["<timeout>", "-t "] {
        let (cut, number) = cut_number(&line.0, mark, |_| true);
        if number.is_some() {
            return (cut, number);
        }
    }
    // A line of words: a name, a number, and the timeout.
    let words: Vec<&str> = line.0.split(' ').collect();
    let numbers = words
        .iter()
        .enumerate()
        .filter(|(_, word)| !word.is_empty());
    let mut numbers = numbers.filter(|(_, word)| word.bytes().all(|byte| byte.is_ascii_digit()));
    let index = if line.0.starts_with("ipv") { 2 } else { 1 };
    let Some((at, text)) = numbers.nth(index) else {
        return (line.0, None);
    };
    let number = text.parse().ok();
    let mut words = words.clone();
    words[at] = "T";
    (words.join(" "), number)
}

/// A line without the number behind a mark, the last one for which `fits` says so of what is
/// before it.
fn cut_number(line: &str, mark: &str, fits: impl Fn(&str) -> bool) -> (String, Option<i64>) {
    let found = line.rfind(mark).filter(|at| fits(&line[..*at]));
    let Some(at) = found else {
        return (line.to_owned(), None);
    };
    let start = at + mark.len();
    let digits = line[start..].bytes().take_while(u8::is_ascii_digit).count();
    let number = line[start..start + digits].parse().ok();
    (
        format!("{}*{}", &line[..start], &line[start + digits..]),
        number,
    )
}

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
