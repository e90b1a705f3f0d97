//! Debian's conntrack beside the kernel's tracker, and ours beside Keepstate.

use std::path::PathBuf;
use std::process::{Command, Output};

use keepstate_testkit::Namespace;

const KEEPSTATE: &str = env!("CARGO_BIN_EXE_keepstate");

/// Seconds by which two timeouts may differ: one program runs after the other.
const TIMEOUT_SLACK: i64 = 6;

/// A namespace with the kernel's tracker, and one with ours.
pub(crate) struct Bench {
    pub(crate) kernel: Namespace,
    pub(crate) ours: Namespace,
    pub(crate) kernel_peer: Namespace,
    pub(crate) our_peer: Namespace,
    pub(crate) instance: String,
    pub(crate) link: PathBuf,
}

impl Bench {
    pub(crate) fn new(label: &str) -> Self {
        Self::with(label, "iptables -P INPUT ACCEPT\n", &[])
    }

    /// With rules, and knobs that are set in both namespaces.
    pub(crate) fn with(label: &str, rules: &str, knobs: &[&str]) -> Self {
        let [kernel, kernel_peer] = pair("kernel");
        let [ours, our_peer] = pair(label);
        let instance = format!("test-{}-{label}", std::process::id());
        let link = std::env::temp_dir().join(&instance).join("conntrack");
        let directory = link.parent().expect("the link lies in a directory");
        std::fs::create_dir_all(directory).expect("a directory can be made");
        let _ = std::fs::remove_file(&link);
        std::os::unix::fs::symlink(KEEPSTATE, &link).expect("a link can be made");
        let bench = Self {
            kernel,
            ours,
            kernel_peer,
            our_peer,
            instance,
            link,
        };
        let script = bench.link.with_file_name("rules.sh");
        std::fs::write(&script, rules).expect("a script can be written");
        let rules = script.display().to_string();
        let mut arguments = vec!["up", "--rules", &rules, "--instance", &bench.instance];
        for knob in knobs {
            let (name, value) = knob.split_once('=').expect("a knob has a value");
            bench.kernel.sysctl(&format!("net.netfilter.{name}"), value);
            arguments.extend(["--sysctl", knob]);
        }
        let up = bench.keepstate(&arguments);
        assert!(
            up.status.success(),
            "{}",
            String::from_utf8_lossy(&up.stderr)
        );
        bench
    }

    pub(crate) fn keepstate(&self, arguments: &[&str]) -> Output {
        let mut command = self.ours.command(KEEPSTATE);
        run(command.args(arguments))
    }

    /// The program of Debian, beside the kernel's tracker.
    pub(crate) fn theirs(&self, words: &[String]) -> Outcome {
        Outcome::of(&run(self.kernel.command("conntrack").args(words)))
    }

    /// Ours: by a link of that name.
    pub(crate) fn ours(&self, words: &[String]) -> Outcome {
        let mut command = self.ours.command(&self.link.display().to_string());
        Outcome::of(&run(command
            .args(words)
            .env("KEEPSTATE_INSTANCE", &self.instance)))
    }

    /// Ours: as a subcommand.
    pub(crate) fn subcommand(&self, words: &[String]) -> Outcome {
        let mut command = self.ours.command(KEEPSTATE);
        command.env("KEEPSTATE_INSTANCE", &self.instance);
        Outcome::of(&run(command.arg("conntrack").args(words)))
    }
}

/// Two namespaces with a wire between them.
fn pair(label: &str) -> [Namespace; 2] {
    let (near, far) = (Namespace::new(label), Namespace::new("peer"));
    far.connect("outer", &near, "inner");
    near.address("inner", "10.9.0.1/24");
    far.address("outer", "10.9.0.2/24");
    [near, far]
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
pub(crate) struct Outcome {
    /// Lines in alphabetical order: tables have orders of their own.
    pub(crate) printed: Vec<String>,
    /// The timeouts of these lines.
    pub(crate) timeouts: Vec<i64>,
    pub(crate) said: String,
    pub(crate) code: Option<i32>,
}

impl Outcome {
    pub(crate) fn of(output: &Output) -> Self {
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

    pub(crate) fn is_like(&self, other: &Self) -> bool {
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
    let line = without_times(line);
    if let Some((before, after)) = line.split_once(" proto=") {
        // An expectation: its timeout stands in front.
        let start = before.rfind(' ').map_or(0, |space| space + 1);
        let (mark, timeout) = before.split_at(start);
        return (format!("{mark}T proto={after}"), timeout.parse().ok());
    }
    let line = cut_number(&line, "id=");
    let line = cut_number(&line.0, "<id>");
    for mark in ["<timeout>", "-t "] {
        let (cut, number) = cut_number(&line.0, mark);
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
    let index = if line.0.contains("ipv4 ") || line.0.contains("ipv6 ") {
        2
    } else {
        1
    };
    let Some((at, text)) = numbers.nth(index) else {
        return (line.0, None);
    };
    let number = text.parse().ok();
    let mut words = words.clone();
    words[at] = "T";
    (words.join(" "), number)
}

/// A line without points in time and the seconds between them.
fn without_times(line: &str) -> String {
    let mut line = line.to_owned();
    for mark in ["[start=", "[stop="] {
        if let Some((before, after)) = line.split_once(mark) {
            // As long as the dates that asctime writes.
            let date = after.find(']').filter(|length| *length == 24);
            let date = date.expect("a date ends with a bracket");
            line = format!("{before}{mark}*{}", &after[date..]);
        }
    }
    for mark in ["delta-time=", "<deltatime>", "<start>", "<stop>"] {
        line = cut_number(&line, mark).0;
    }
    line
}

/// A line without the number behind the last such mark, and the number.
fn cut_number(line: &str, mark: &str) -> (String, Option<i64>) {
    let found = line.rfind(mark);
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
