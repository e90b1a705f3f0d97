//! `cargo xtask package`: a static program, and packages of it for Debian's and Red Hat's tools.
//!
//! What is in them stands in `crates/cli/Cargo.toml`. Manual pages and completions are written by the program
//! itself, from the definition of its command line.

use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use anyhow::{Context as _, bail, ensure};

use crate::shell;

const TARGET: &str = "x86_64-unknown-linux-musl";
/// Cargo's subcommands that write packages, and the versions that are known to do.
const MAKERS: [(&str, &str); 2] = [("cargo-deb", "~3.8"), ("cargo-generate-rpm", "~0.21")];
const COMPLETIONS: [(&str, &str); 3] = [
    ("bash", "keepstate.bash"),
    ("zsh", "_keepstate"),
    ("fish", "keepstate.fish"),
];

pub(crate) fn run(arguments: &[String]) -> anyhow::Result<ExitCode> {
    let wanted: Vec<&str> = match arguments {
        [] => vec!["deb", "rpm"],
        some => some.iter().map(String::as_str).collect(),
    };
    for maker in &wanted {
        ensure!(
            ["deb", "rpm", "static"].contains(maker),
            "there are deb, rpm and static, not {maker}"
        );
    }
    let directory = shell::target_directory()?.join("package");
    std::fs::create_dir_all(directory.join("completions"))?;
    let program = build(&directory)?;
    write_pages(&directory, &program)?;
    println!("{}", program.display());
    for maker in wanted {
        if maker != "static" {
            println!("{}", pack(maker, &directory)?.display());
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// Linked with musl, so that it runs on any Linux of this architecture.
fn build(directory: &Path) -> anyhow::Result<PathBuf> {
    if shell::find("rustup").is_some() {
        shell::run(Command::new("rustup").args(["target", "add", TARGET]))?;
    }
    let build = directory.join("build");
    shell::run(
        shell::cargo()
            .args(["build", "--release", "--locked", "--quiet"])
            .args(["--package", "keepstate-cli", "--target", TARGET])
            .arg("--target-dir")
            .arg(&build)
            .env("RUSTFLAGS", "-Cstrip=symbols"),
    )?;
    let program = directory.join("keepstate");
    let built = build.join(TARGET).join("release/keepstate");
    std::fs::copy(&built, &program).with_context(|| format!("cannot copy {}", built.display()))?;
    Ok(program)
}

fn write_pages(directory: &Path, program: &Path) -> anyhow::Result<()> {
    let manual = directory.join("man");
    let _ = std::fs::remove_dir_all(&manual);
    shell::run(Command::new(program).arg("manual").arg(&manual))?;
    for (name, file) in COMPLETIONS {
        let output = Command::new(program).args(["completions", name]).output()?;
        ensure!(output.status.success(), "no completions for {name}");
        std::fs::write(directory.join("completions").join(file), output.stdout)?;
    }
    Ok(())
}

fn pack(kind: &str, directory: &Path) -> anyhow::Result<PathBuf> {
    let [deb, rpm] = MAKERS;
    let (maker, version) = if kind == "deb" { deb } else { rpm };
    if shell::find(maker).is_none() {
        println!("installing {maker} {version}");
        shell::run(shell::cargo().args([
            "install",
            "--quiet",
            "--locked",
            maker,
            "--version",
            version,
        ]))?;
    }
    let package = directory.join(format!("keepstate.{kind}"));
    let mut command = shell::cargo();
    match kind {
        "deb" => command
            .args([
                "deb",
                "--package",
                "keepstate-cli",
                "--no-build",
                "--no-strip",
            ])
            .arg("--output")
            .arg(&package),
        "rpm" => command
            .current_dir(shell::root())
            .args(["generate-rpm", "--package", "crates/cli"])
            .arg("--output")
            .arg(&package),
        other => bail!("there is no maker of {other}"),
    };
    shell::run(&mut command)?;
    Ok(package)
}
