//! `cargo xtask test`: runs every test and tells what ran and what did not.
//!
//! A test that cannot run here appends a line to the file named by `KEEPSTATE_SKIP_LOG` and
//! passes (crate `keepstate-testkit`). It is counted as skipped here.

use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};
use std::sync::{Mutex, PoisonError};

use anyhow::{Context as _, ensure};
use serde_json::Value;

use crate::shell::{self, Tool};
use crate::tally::Tally;

/// What the tests call. Each test skips itself where its programs are missing.
const TOOLS: &[Tool] = &[
    tool("ip", "iproute2", "network namespaces"),
    tool(
        "ss",
        "iproute2",
        "waiting for servers in network namespaces",
    ),
    tool("nsenter", "util-linux", "network namespaces"),
    tool("ping", "iputils-ping", "ICMP end to end"),
    tool("curl", "curl", "TCP end to end"),
    tool("sysctl", "procps", "the command line of sysctl"),
    tool("iperf3", "iperf3", "TCP end to end"),
    tool("hping3", "hping3", "segments out of window"),
    tool("scapy3", "python3-scapy", "SCTP and GRE"),
    tool("python3", "python3", "small servers in network namespaces"),
    tool("tcpdump", "tcpdump", "the commands of the manual"),
    tool("setpriv", "util-linux", "commands of users without rights"),
    tool(
        "tshark",
        "tshark",
        "captures and flow records read by another program",
    ),
];

pub(crate) fn run(arguments: &[String]) -> anyhow::Result<ExitCode> {
    for tool in shell::provide(TOOLS) {
        println!(
            "without {}: the tests that need it are skipped",
            tool.program
        );
    }
    let log = std::env::temp_dir().join(format!("keepstate-skipped-{}", std::process::id()));
    std::fs::write(&log, "").with_context(|| format!("cannot write {}", log.display()))?;
    let mut tally = if arguments.is_empty() {
        all(&log)?
    } else {
        let mut chosen = cargo_test(&log);
        told(chosen.args(["--no-fail-fast"]).args(arguments), "")?
    };
    tally.read_skip_log(&std::fs::read_to_string(&log)?);
    std::fs::remove_file(&log)?;
    print!("{}", tally.report());
    Ok(tally.exit_code())
}

/// What begins so many flows a second that it needs the machine for itself.
const ALONE: &str = "resize";

/// Every program of tests, two at a time: the tests wait for packets for half of their time.
fn all(log: &Path) -> anyhow::Result<Tally> {
    let programs = built(log)?.into_iter();
    let (alone, programs): (Vec<_>, Vec<_>) = programs.partition(|program| program.name() == ALONE);
    let programs = Mutex::new(programs.into_iter());
    let next = || {
        let mut programs = programs.lock().unwrap_or_else(PoisonError::into_inner);
        programs.next()
    };
    let work = || {
        let mut tally = Tally::default();
        while let Some(program) = next() {
            tally.add(program.run(log)?);
        }
        anyhow::Ok(tally)
    };
    let mut tally = std::thread::scope(|scope| {
        let beside = scope.spawn(work);
        let mut tally = work()?;
        let beside = beside.join();
        tally.add(beside.unwrap_or_else(|panic| std::panic::resume_unwind(panic))?);
        anyhow::Ok(tally)
    })?;
    for program in alone {
        tally.add(program.run(log)?);
    }
    tally.add(told(cargo_test(log).args(["--no-fail-fast", "--doc"]), "")?);
    Ok(tally)
}

/// A program of tests.
struct Program {
    file: PathBuf,
    /// Where cargo would start it: in its package.
    directory: PathBuf,
}

impl Program {
    /// As its package calls it: the file's name ends with a hash of what it was built from.
    fn name(&self) -> String {
        let name = self.file.file_name().unwrap_or_default().to_string_lossy();
        let name = name.rsplit_once('-').map_or(&*name, |(name, _)| name);
        name.to_owned()
    }

    fn run(&self, log: &Path) -> anyhow::Result<Tally> {
        let mut command = Command::new(&self.file);
        command.current_dir(&self.directory).env(SKIP_LOG, log);
        told(&mut command, &format!("{}: ", self.name()))
    }
}

/// Builds the programs.
fn built(log: &Path) -> anyhow::Result<Vec<Program>> {
    let output = cargo_test(log)
        .args(["--no-run", "--message-format", "json-render-diagnostics"])
        .stderr(Stdio::inherit())
        .output()
        .context("cannot start cargo test")?;
    ensure!(output.status.success(), "the tests cannot be built");
    let messages = String::from_utf8_lossy(&output.stdout);
    messages
        .lines()
        .filter_map(|line| program(line).transpose())
        .collect()
}

/// What a message of cargo's says of a program of tests, where it does.
fn program(message: &str) -> anyhow::Result<Option<Program>> {
    let message: Value = serde_json::from_str(message).context("cargo speaks another language")?;
    let is_test = message["profile"]["test"] == true;
    let (Some(file), true) = (message["executable"].as_str(), is_test) else {
        return Ok(None);
    };
    let manifest = message["manifest_path"].as_str().map(Path::new);
    let directory = manifest
        .and_then(Path::parent)
        .context("a program of no package")?;
    Ok(Some(Program {
        file: file.into(),
        directory: directory.into(),
    }))
}

fn cargo_test(log: &Path) -> Command {
    let mut command = shell::cargo();
    command.args(["test", "--workspace"]).env(SKIP_LOG, log);
    command
}

/// Runs a command, and counts the tests it tells of. `before` stands before each of its lines.
fn told(command: &mut Command, before: &str) -> anyhow::Result<Tally> {
    let mut child = command
        .stdout(Stdio::piped())
        .spawn()
        .with_context(|| format!("cannot start {command:?}"))?;
    let output = child.stdout.take().expect("was asked for above");
    let mut tally = Tally::default();
    for line in BufReader::new(output).lines() {
        let line = line.context("cannot read what tests print")?;
        // Nobody may be listening any more; the tests go on all the same.
        let _ = writeln!(std::io::stdout(), "{before}{line}");
        tally.read(&line);
    }
    let status = child.wait()?;
    if !status.success() && !tally.has_failed() {
        // A build that fails or a program that crashes gives no count.
        tally.fail(&format!("{before}{command:?} ({status})"));
    }
    Ok(tally)
}

const SKIP_LOG: &str = "KEEPSTATE_SKIP_LOG";

const fn tool(program: &'static str, package: &'static str, purpose: &'static str) -> Tool {
    Tool {
        program,
        package,
        purpose,
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::program;

    #[test]
    fn programs_of_tests_are_told_from_what_they_call() {
        let message = |is_test: bool, executable: &str| {
            format!(
                r#"{{"manifest_path":"/here/crates/cli/Cargo.toml","profile":{{"test":{is_test}}},"executable":{executable}}}"#
            )
        };
        let file = r#""/here/target/debug/deps/floods-0a1b""#;
        let found = program(&message(true, file)).expect("it is a message");
        let found = found.expect("it is a program of tests");
        assert_eq!(found.file, Path::new("/here/target/debug/deps/floods-0a1b"));
        assert_eq!(found.directory, Path::new("/here/crates/cli"));
        assert_eq!(found.name(), "floods");
        for other in [message(false, file), message(true, "null")] {
            assert!(program(&other).expect("it is a message").is_none());
        }
        assert!(program("   Compiling").is_err());
    }
}
