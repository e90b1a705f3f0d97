//! `cargo xtask bench`: what a packet costs, in both planes and in the kernel's own tracker.
//!
//! Without arguments: the engine in user space, then in the kernel beside nf_conntrack, then
//! instructions a packet. An argument names one part; `flood` is done by its name alone, since it keeps both
//! processors busy for minutes.

use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use anyhow::{Context as _, ensure};

use crate::shell::{self, Tool};

const TOOLS: &[Tool] = &[
    Tool {
        program: "clang",
        package: "clang",
        purpose: "compiling the peers' programs",
    },
    Tool {
        program: "bpftool",
        package: "bpftool",
        purpose: "loading the peers' programs",
    },
    Tool {
        program: "ip",
        package: "iproute2",
        purpose: "network namespaces",
    },
    Tool {
        program: "valgrind",
        package: "valgrind",
        purpose: "instruction counts",
    },
    Tool {
        program: "nft",
        package: "nftables",
        purpose: "floods against nft",
    },
    Tool {
        program: "iptables-restore",
        package: "iptables",
        purpose: "floods against SYNPROXY",
    },
    Tool {
        program: "ethtool",
        package: "ethtool",
        purpose: "floods",
    },
];

/// Packets of the two runs that are counted; the difference belongs to the packets alone.
const COUNTED_PACKETS: [u64; 2] = [20_000, 60_000];
/// Parts of the benchmark that can be counted, and what they are.
const COUNTED: &[(&str, &str)] = &[
    ("count-tcp-single", "established TCP, one at a time"),
    ("count-tcp-batch", "established TCP, batch of 32"),
    ("count-udp-batch", "established UDP, batch of 32"),
];

pub(crate) fn run(arguments: &[String]) -> anyhow::Result<ExitCode> {
    for tool in shell::provide(TOOLS) {
        println!("without {}: no {}", tool.program, tool.purpose);
    }
    let program = build()?;
    let names: Vec<&str> = arguments.iter().map(String::as_str).collect();
    if names.is_empty() {
        part(&program, "engine")?;
        if shell::is_root() {
            part(&program, "kernel")?;
            part(&program, "rules")?;
        } else {
            println!("SKIPPED kernel and rules: need root");
        }
        return count(&program);
    }
    for name in names {
        if name == "count" {
            count(&program)?;
        } else {
            part(&program, name)?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn build() -> anyhow::Result<PathBuf> {
    shell::run(shell::cargo().args([
        "build",
        "--profile",
        "measured",
        "--quiet",
        "--package",
        "keepstate-benches",
        "--package",
        "keepstate-cli",
    ]))?;
    Ok(shell::target_directory()?.join("measured/keepstate-benches"))
}

fn part(program: &Path, name: &str) -> anyhow::Result<()> {
    shell::run(Command::new(program).arg(name))
}

/// Prints instructions a packet, which do not depend on a quiet machine.
fn count(program: &Path) -> anyhow::Result<ExitCode> {
    if shell::find("valgrind").is_none() {
        println!("SKIPPED instruction counts: valgrind is not installed");
        return Ok(ExitCode::SUCCESS);
    }
    println!("instructions a packet in user space, generator included");
    let [few, many] = COUNTED_PACKETS;
    for (name, meaning) in COUNTED {
        let difference = instructions(program, name, many)? - instructions(program, name, few)?;
        println!(
            "{:>9.1}  {meaning}",
            difference as f64 / (many - few) as f64
        );
    }
    Ok(ExitCode::SUCCESS)
}

fn instructions(program: &Path, part: &str, packets: u64) -> anyhow::Result<u64> {
    let output = Command::new("valgrind")
        .args([
            "--tool=cachegrind",
            "--cache-sim=no",
            "--cachegrind-out-file=/dev/null",
        ])
        .arg(program)
        .arg(part)
        .env("KEEPSTATE_BENCH_PACKETS", packets.to_string())
        .output()
        .context("cannot start valgrind")?;
    let log = String::from_utf8_lossy(&output.stderr);
    ensure!(
        output.status.success(),
        "{part} failed under valgrind:\n{log}"
    );
    references(&log).with_context(|| format!("valgrind counted nothing:\n{log}"))
}

/// The number in a line like `==12== I   refs:      1,234,567`.
fn references(log: &str) -> Option<u64> {
    let line = log.lines().find(|line| line.contains("refs:"))?;
    let digits: String = line
        .split_once("refs:")?
        .1
        .chars()
        .filter(char::is_ascii_digit)
        .collect();
    digits.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::references;

    #[test]
    fn reads_what_valgrind_prints() {
        assert_eq!(
            references("==12== \n==12== I   refs:      1,234,567\n"),
            Some(1_234_567)
        );
        assert_eq!(references("==12== nothing"), None);
    }
}
