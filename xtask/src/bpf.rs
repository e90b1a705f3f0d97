//! `cargo xtask bpf`: builds the BPF object from source.
//!
//! That takes the source of `core` and a linker of the LLVM that the compiler was built with. Debian's
//! `rustc-web`, `cargo-web` and `rust-web-src` fit together, and `bpf-linker` with its LLVM; the
//! stable toolchain that builds all the rest is not touched.

use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use anyhow::{Context as _, bail, ensure};

use crate::btf;
use crate::shell::{self, Tool};
use crate::stack;

/// The object beside its source.
const OBJECT: &str = "crates/bpf/keepstate.bpf.o";
const TARGET: &str = "bpfel-unknown-none";
/// Debian's own: a toolchain in front of it in `PATH` has no source of `core`.
const RUSTC: &str = "/usr/bin/rustc";
const CARGO: &str = "/usr/bin/cargo";
/// Of the LLVM that `bpf-linker` is built with.
const OBJCOPY: &str = "/usr/lib/llvm-22/bin/llvm-objcopy";
const LINKER: &str = "bpf-linker";
const LINKER_HINT: &str = "RUSTFLAGS=\"-L native=/usr/lib/llvm-22/lib\" cargo install bpf-linker \
    --version 0.13.0 --no-default-features --features llvm-22";

const TOOLS: &[Tool] = &[
    Tool {
        program: RUSTC,
        package: "rustc-web",
        purpose: "compiling for BPF",
    },
    Tool {
        program: CARGO,
        package: "cargo-web",
        purpose: "compiling for BPF",
    },
    Tool {
        program: "/usr/lib/rustlib/src/rust/library/core/Cargo.toml",
        package: "rust-web-src",
        purpose: "the source of core",
    },
    Tool {
        program: OBJCOPY,
        package: "llvm-22",
        purpose: "stripping the object",
    },
];

pub(crate) fn run(arguments: &[String]) -> anyhow::Result<ExitCode> {
    let is_check = match arguments {
        [] => false,
        [check] if check == "--check" => true,
        other => bail!("only --check is known, not {}", other.join(" ")),
    };
    let missing = shell::provide(TOOLS);
    ensure!(
        missing.is_empty(),
        "cannot build without {}",
        missing[0].program
    );
    let linker = linker().with_context(|| format!("{LINKER} is missing; {LINKER_HINT}"))?;
    let directory = shell::target_directory()?.join("bpf");
    let built = build(&directory, &linker)?;
    let committed = shell::root().join(OBJECT);
    let is_stale = differs(&directory, &committed, &built)?;
    let (stack, program) = stack::largest(&std::fs::read(&built)?)?;
    println!(
        "on Linux 6.1 {program} takes {stack} bytes of stack, of {}",
        stack::STACK_BYTES_MAX
    );
    // Also when checking: what is tested next is what was built from this source.
    std::fs::copy(&built, &committed).with_context(|| format!("cannot write {OBJECT}"))?;
    match (is_check, is_stale) {
        (_, false) => println!("{OBJECT} does what its source says"),
        (false, true) => println!("wrote {OBJECT}: commit it"),
        (true, true) => {
            println!("{OBJECT} was stale and is now rebuilt: run cargo xtask bpf and commit it");
            return Ok(ExitCode::FAILURE);
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn linker() -> Option<PathBuf> {
    let home = std::env::var_os("CARGO_HOME").map(PathBuf::from);
    let home = home.or_else(|| Some(PathBuf::from(std::env::var_os("HOME")?).join(".cargo")));
    let installed = home.map(|home| home.join("bin").join(LINKER));
    installed
        .filter(|path| path.is_file())
        .or_else(|| shell::find(LINKER))
}

/// The object as it is committed: without what only debuggers read.
fn build(directory: &Path, linker: &Path) -> anyhow::Result<PathBuf> {
    let source = shell::root().join("crates/bpf");
    let flags = [
        "-Zunstable-options".to_owned(),
        format!("-Clinker={}", linker.display()),
        "-Clink-arg=--btf".to_owned(),
        // With it, whatever is set to zero is a call of a loop over bytes.
        "-Clink-arg=--disable-expand-memcpy-in-order".to_owned(),
        "-Clink-arg=--cpu-features=+alu32".to_owned(),
        "-Ctarget-cpu=v3".to_owned(),
        // The same object wherever it is built.
        format!("--remap-path-prefix={}=", shell::root().display()),
        format!("--remap-path-prefix={}=cargo", cargo_home()?.display()),
    ];
    shell::run(
        Command::new(CARGO)
            .current_dir(&source)
            .args([
                "build",
                "--quiet",
                "--release",
                "--locked",
                "--target",
                TARGET,
            ])
            .args(["-Z", "build-std=core"])
            .arg("--target-dir")
            .arg(directory)
            .env("RUSTC", RUSTC)
            .env("RUSTC_BOOTSTRAP", "1")
            .env("CARGO_ENCODED_RUSTFLAGS", flags.join("\u{1f}"))
            // Set by the cargo that runs this program; they would lead to its toolchain.
            .env_remove("RUSTUP_TOOLCHAIN")
            .env_remove("RUSTFLAGS")
            .env_remove("CARGO"),
    )?;
    let linked = directory.join(TARGET).join("release/keepstate");
    let object = directory.join("keepstate.bpf.o");
    shell::run(
        Command::new(OBJCOPY)
            .arg("--strip-debug")
            .arg(&linked)
            .arg(&object),
    )?;
    mend_types(directory, &object)?;
    Ok(object)
}

fn cargo_home() -> anyhow::Result<PathBuf> {
    if let Some(home) = std::env::var_os("CARGO_HOME") {
        return Ok(home.into());
    }
    let home = std::env::var_os("HOME").context("neither CARGO_HOME nor HOME is set")?;
    Ok(PathBuf::from(home).join(".cargo"))
}

/// See [`btf::mend`].
fn mend_types(directory: &Path, object: &Path) -> anyhow::Result<()> {
    let section = directory.join("keepstate.btf");
    let dump = format!(".BTF={}", section.display());
    shell::run(
        Command::new(OBJCOPY)
            .arg("--dump-section")
            .arg(&dump)
            .arg(object)
            .arg("/dev/null"),
    )?;
    let mut bytes = std::fs::read(&section)?;
    btf::mend(&mut bytes)?;
    std::fs::write(&section, bytes)?;
    shell::run(
        Command::new(OBJCOPY)
            .arg("--update-section")
            .arg(&dump)
            .arg(object)
            .arg(object),
    )
}

/// What of an object the kernel is given: code, constants, maps, and which of them the code means.
const SECTIONS: &[&str] = &[
    ".text",
    ".rel.text",
    "classifier",
    ".relclassifier",
    "xdp.frags",
    ".relxdp.frags",
    "maps",
    ".rodata",
    ".rodata.cst16",
    "license",
];

/// Whether two objects differ in what they do. Type information names files and lines, which
/// change with any edit, and symbols carry a number that depends on where the source lies.
fn differs(directory: &Path, committed: &Path, built: &Path) -> anyhow::Result<bool> {
    if !committed.exists() {
        return Ok(true);
    }
    ensure!(
        !contents(directory, built, ".text")?.is_empty(),
        "the object that was built has no code"
    );
    for section in SECTIONS {
        if contents(directory, committed, section)? != contents(directory, built, section)? {
            println!("section {section} differs");
            return Ok(true);
        }
    }
    Ok(false)
}

/// The bytes of a section, none where the object has no such section.
fn contents(directory: &Path, object: &Path, section: &str) -> anyhow::Result<Vec<u8>> {
    let dump = directory.join("section");
    let _ = std::fs::remove_file(&dump);
    let output = Command::new(OBJCOPY)
        .arg("--dump-section")
        .arg(format!("{section}={}", dump.display()))
        .arg(object)
        .arg("/dev/null")
        .output()
        .with_context(|| format!("cannot start {OBJCOPY}"))?;
    if !output.status.success() {
        return Ok(Vec::new());
    }
    Ok(std::fs::read(&dump)?)
}
