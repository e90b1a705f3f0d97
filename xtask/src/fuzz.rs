//! `cargo xtask fuzz`: the harnesses of `fuzz/` under libFuzzer, guided by coverage.
//!
//! LLVM's coverage pass is reached by stable flags of rustc; no sanitizer is needed where no
//! `unsafe` is.

use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};

use anyhow::{Context as _, bail, ensure};
use keepstate_fuzz::{TARGETS, Target};

use crate::shell;

/// Each target gets so long unless told otherwise.
const SECONDS: u64 = 60;
/// Longest input that libFuzzer makes, in bytes.
const INPUT_BYTES_MAX: u32 = 4_096;
/// An input that takes longer than this is reported as a hang.
const SECONDS_PER_INPUT_MAX: u32 = 5;

/// How much of libFuzzer's output is shown with a finding.
const LINES_OF_FINDING: usize = 25;

/// What `cargo-fuzz` passes, without the sanitizer.
const COVERAGE_FLAGS: &str = "--cfg fuzzing -Cpasses=sancov-module \
    -Cllvm-args=-sanitizer-coverage-level=4 -Cllvm-args=-sanitizer-coverage-inline-8bit-counters \
    -Cllvm-args=-sanitizer-coverage-pc-table -Cllvm-args=-sanitizer-coverage-trace-compares";

pub(crate) fn run(arguments: &[String]) -> anyhow::Result<ExitCode> {
    let (seconds, targets) = parse(arguments)?;
    let directory = shell::target_directory()?.join("fuzz");
    let program = build(&directory)?;
    let mut found = false;
    for target in targets {
        found |= !fuzz(target, &program, &directory, seconds)?;
    }
    Ok(if found {
        ExitCode::FAILURE
    } else {
        ExitCode::SUCCESS
    })
}

fn parse(arguments: &[String]) -> anyhow::Result<(u64, Vec<&'static Target>)> {
    let mut seconds = SECONDS;
    let mut targets = Vec::new();
    let mut rest = arguments.iter();
    while let Some(argument) = rest.next() {
        if argument == "--seconds" {
            let number = rest.next().context("--seconds needs a number")?;
            seconds = number
                .parse()
                .with_context(|| format!("`{number}` is no number"))?;
        } else if let Some(target) = keepstate_fuzz::target(argument) {
            targets.push(target);
        } else {
            let names: Vec<_> = TARGETS.iter().map(|target| target.name).collect();
            bail!("there is no target `{argument}`, only {}", names.join(", "));
        }
    }
    if targets.is_empty() {
        targets = TARGETS.iter().collect();
    }
    Ok((seconds, targets))
}

fn build(directory: &Path) -> anyhow::Result<PathBuf> {
    // With a target named, the flags are not for build scripts and macros.
    let triple = shell::host_triple()?;
    shell::run(
        shell::cargo()
            .args([
                "build",
                "--release",
                "--quiet",
                "--manifest-path",
                "fuzz/libfuzzer/Cargo.toml",
            ])
            .args(["--target", &triple])
            .arg("--target-dir")
            .arg(directory.join("build"))
            .env("RUSTFLAGS", COVERAGE_FLAGS),
    )?;
    Ok(directory
        .join("build")
        .join(triple)
        .join("release/keepstate-libfuzzer"))
}

/// Whether the target came through without a finding.
fn fuzz(target: &Target, program: &Path, directory: &Path, seconds: u64) -> anyhow::Result<bool> {
    let corpus = directory.join("corpus").join(target.name);
    let findings = directory.join("findings").join(target.name);
    for path in [&corpus, &findings] {
        std::fs::create_dir_all(path)?;
    }
    for (index, seed) in (target.seeds)().iter().enumerate() {
        std::fs::write(corpus.join(format!("seed-{index}")), seed)?;
    }
    let output = Command::new(program)
        .arg(&corpus)
        .arg(format!("-artifact_prefix={}/", findings.display()))
        .arg(format!("-max_total_time={seconds}"))
        .arg(format!("-max_len={INPUT_BYTES_MAX}"))
        .arg(format!("-timeout={SECONDS_PER_INPUT_MAX}"))
        .args(["-print_final_stats=1", "-use_value_profile=1"])
        .env("KEEPSTATE_FUZZ_TARGET", target.name)
        .stdin(Stdio::null())
        .output()
        .with_context(|| format!("cannot start {}", program.display()))?;
    let log = String::from_utf8_lossy(&output.stderr);
    if !output.status.success() {
        let lines: Vec<_> = log.lines().collect();
        println!(
            "{}",
            lines[lines.len().saturating_sub(LINES_OF_FINDING)..].join("\n")
        );
        println!(
            "{}: FOUND something; the input lies in {}",
            target.name,
            findings.display()
        );
        return Ok(false);
    }
    let executions = statistic(&log, "number_of_executed_units")?;
    ensure!(executions > 0, "{}: nothing was executed", target.name);
    let rate = statistic(&log, "average_exec_per_sec")?;
    let edges = edges(&log).unwrap_or("unknown");
    println!(
        "{}: {executions} executions in {seconds} s ({rate} a second), {edges} edges, nothing found",
        target.name
    );
    Ok(true)
}

fn statistic(log: &str, name: &str) -> anyhow::Result<u64> {
    let label = format!("stat::{name}:");
    let line = log.lines().find_map(|line| line.strip_prefix(&label));
    let number = line.with_context(|| format!("libFuzzer printed no {name}:\n{log}"))?;
    Ok(number.trim().parse()?)
}

/// Coverage at the end, of a line like `#65536 DONE cov: 1234 ft: 5678 ...`.
fn edges(log: &str) -> Option<&str> {
    let line = log.lines().rev().find(|line| line.contains(" cov: "))?;
    line.split_once(" cov: ")?.1.split_whitespace().next()
}

#[cfg(test)]
mod tests {
    use super::{edges, statistic};

    #[test]
    fn reads_what_libfuzzer_prints() {
        let log = "#2\tINITED cov: 5 ft: 6 corp: 1/1b\n#9\tDONE   cov: 77 ft: 80\n\
                   stat::number_of_executed_units: 1234\n";
        assert_eq!(edges(log), Some("77"));
        assert_eq!(statistic(log, "number_of_executed_units").unwrap(), 1234);
        assert!(statistic(log, "average_exec_per_sec").is_err());
    }
}
