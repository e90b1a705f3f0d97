//! `cargo xtask bench`: what a packet costs, in both planes and in the kernel's own tracker.

use std::process::ExitCode;

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
        program: "perf",
        package: "linux-perf",
        purpose: "instruction counts",
    },
    Tool {
        program: "valgrind",
        package: "valgrind",
        purpose: "instruction counts",
    },
];

pub(crate) fn run(arguments: &[String]) -> anyhow::Result<ExitCode> {
    for tool in shell::provide(TOOLS) {
        println!("without {}: no {}", tool.program, tool.purpose);
    }
    shell::run(
        shell::cargo()
            .args([
                "run",
                "--profile",
                "measured",
                "--quiet",
                "--package",
                "keepstate-benches",
                "--",
            ])
            .args(arguments),
    )?;
    Ok(ExitCode::SUCCESS)
}
