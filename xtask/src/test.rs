//! `cargo xtask test`: runs every test and tells what ran and what did not.
//!
//! A test that cannot run here appends a line to the file named by `KEEPSTATE_SKIP_LOG` and
//! passes (crate `keepstate-testkit`). It is counted as skipped here.

use std::io::{BufRead, BufReader, Write};
use std::process::{ExitCode, Stdio};

use anyhow::Context as _;

use crate::shell::{self, Tool};

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
    tool("python3", "python3", "small servers in network namespaces"),
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

    let mut child = shell::cargo()
        .args(["test", "--workspace", "--no-fail-fast"])
        .args(arguments)
        .env("KEEPSTATE_SKIP_LOG", &log)
        .stdout(Stdio::piped())
        .spawn()
        .context("cannot start cargo test")?;
    let output = child.stdout.take().expect("was asked for above");
    let mut tally = Tally::default();
    for line in BufReader::new(output).lines() {
        let line = line.context("cannot read what cargo test prints")?;
        // Nobody may be listening any more; the tests go on all the same.
        let _ = writeln!(std::io::stdout(), "{line}");
        tally.read(&line);
    }
    let status = child.wait()?;
    if !status.success() && tally.failed == 0 {
        // A build that fails or a test program that crashes gives no count.
        tally.failed = 1;
        tally.failures.push(format!("cargo test itself ({status})"));
    }
    tally.read_skip_log(&std::fs::read_to_string(&log)?);
    std::fs::remove_file(&log)?;
    print!("{}", tally.report());
    Ok(if tally.failed == 0 {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

const fn tool(program: &'static str, package: &'static str, purpose: &'static str) -> Tool {
    Tool {
        program,
        package,
        purpose,
    }
}

/// What has been learnt from the output of the tests.
#[derive(Debug, Default)]
struct Tally {
    passed: usize,
    failed: usize,
    failures: Vec<String>,
    skipped: Vec<String>,
}

impl Tally {
    fn read(&mut self, line: &str) {
        if let Some(counts) = line.strip_prefix("test result: ") {
            let count = |what: &str| {
                let mut words = counts
                    .split([' ', ';'])
                    .rev()
                    .skip_while(|word| *word != what);
                words
                    .nth(1)
                    .and_then(|number| number.parse::<usize>().ok())
                    .unwrap_or(0)
            };
            self.passed += count("passed");
            self.failed += count("failed");
        } else if let Some((name, outcome)) = line
            .strip_prefix("test ")
            .and_then(|rest| rest.rsplit_once(" ... "))
        {
            match outcome
                .split_once(", ")
                .unwrap_or((outcome, "by the test harness"))
            {
                ("FAILED", _) => self.failures.push(name.to_owned()),
                ("ignored", why) => self.skipped.push(format!("{name}: {why}")),
                _ => {}
            }
        }
    }

    /// Tests that skipped themselves have been counted as passed: takes them off.
    fn read_skip_log(&mut self, log: &str) {
        for line in log.lines().filter_map(|line| line.strip_prefix("SKIPPED ")) {
            self.passed = self.passed.saturating_sub(1);
            self.skipped.push(line.to_owned());
        }
    }

    fn report(&self) -> String {
        let mut text = String::new();
        for name in &self.failures {
            text += &format!("FAILED {name}\n");
        }
        for name in &self.skipped {
            text += &format!("SKIPPED {name}\n");
        }
        let skipped = self.skipped.len();
        text + &format!(
            "{} passed, {} failed, {skipped} skipped\n",
            self.passed, self.failed
        )
    }
}

#[cfg(test)]
mod tests {
    use super::Tally;

    #[test]
    fn counts_what_cargo_prints_and_what_tests_logged() {
        let mut tally = Tally::default();
        for line in [
            "test a::b ... ok",
            "test a::c ... FAILED",
            "test a::d ... ignored, needs an hour",
            "test e - f (line 3) ... ignored",
            "test result: FAILED. 2 passed; 1 failed; 2 ignored; 0 measured; 0 filtered out; \
             finished in 0.00s",
            "test result: ok. 40 passed; 0 failed; 0 ignored; 0 measured; 0 filtered out",
        ] {
            tally.read(line);
        }
        tally.read_skip_log("SKIPPED pings: needs root\n");
        assert_eq!(
            tally.report(),
            "FAILED a::c\n\
             SKIPPED a::d: needs an hour\n\
             SKIPPED e - f (line 3): by the test harness\n\
             SKIPPED pings: needs root\n\
             41 passed, 1 failed, 3 skipped\n"
        );
    }
}
