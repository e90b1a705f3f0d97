//! `cargo xtask`: everything the workspace needs beyond `cargo build`.

mod bench;
mod bpf;
mod btf;
mod docs;
mod fuzz;
mod kernels;
mod package;
mod shell;
mod stack;
mod tally;
mod test;
mod transitions;

use std::process::ExitCode;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let Some((name, rest)) = arguments.split_first() else {
        print!("{}", usage());
        return ExitCode::from(2);
    };
    let Some(task) = TASKS.iter().find(|task| task.name == name) else {
        eprint!("xtask: there is no task `{name}`\n\n{}", usage());
        return ExitCode::from(2);
    };
    match (task.run)(rest) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("xtask {name}: {error:#}");
            ExitCode::FAILURE
        }
    }
}

struct Task {
    name: &'static str,
    arguments: &'static str,
    help: &'static str,
    run: fn(&[String]) -> anyhow::Result<ExitCode>,
}

const TASKS: &[Task] = &[
    Task {
        name: "test",
        arguments: "[ARGUMENTS OF CARGO TEST]",
        help: "run every test; install or name what is missing; count what was skipped",
        run: test::run,
    },
    Task {
        name: "bpf",
        arguments: "[--check]",
        help: "build the BPF object from source; --check compares it with the committed one",
        run: bpf::run,
    },
    Task {
        name: "bench",
        arguments: "[engine | kernel | peer | count]...",
        help: "what a packet costs, in both planes and in the kernel's own tracker",
        run: bench::run,
    },
    Task {
        name: "fuzz",
        arguments: "[--seconds N] [TARGET]...",
        help: "fuzz parsers and engine, guided by coverage, N seconds each (60)",
        run: fuzz::run,
    },
    Task {
        name: "package",
        arguments: "[deb | rpm | static]...",
        help: "a static program, and packages of it",
        run: package::run,
    },
    Task {
        name: "kernels",
        arguments: "[--load] [PACKAGE]...",
        help: "boot Debian's 6.1 and newest backports in qemu; twin test and daemon there, or (--load) the verifier alone",
        run: kernels::run,
    },
    Task {
        name: "docs",
        arguments: "",
        help: "rewrite the documents that are generated from the source",
        run: docs::run,
    },
];

fn usage() -> String {
    let mut text = String::from("usage: cargo xtask TASK\n\n");
    for task in TASKS {
        text += &format!("  {} {}\n      {}\n", task.name, task.arguments, task.help);
    }
    text
}
