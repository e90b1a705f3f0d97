//! The machine's file system: our programs, the tools that they call, and kernel modules.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context as _, ensure};

use super::archive::{self, Kernel};
use crate::shell;

/// Tools that the tests call and that busybox's applets cannot stand in for.
const GUEST_TOOLS: &[&str] = &["ip", "tc", "bpftool", "ping", "nsenter"];

/// What Debian has as modules, in the order in which they are to be loaded: devices of the tests,
/// and what filters hang on before tcx.
const MODULES: &[&str] = &[
    "veth",
    "tunnel4",
    "ip_tunnel",
    "ipip",
    "sch_ingress",
    "cls_bpf",
];

/// Captures and attacks for the twin test, where there are any: named by a variable, else beside the
/// workspace.
const SHARED: &str = "KEEPSTATE_SHARED";
const SHARED_PACKETS: &[&str] = &["captures/public", "attacks"];

/// Executables, linked statically.
pub(super) struct Programs {
    /// Tests and examples, which the machine runs one after the other.
    pub(super) tests: Vec<PathBuf>,
    /// The firewall itself, which tests call where it was built.
    keepstate: Option<PathBuf>,
}

const DAEMON: [&str; 2] = ["--package", "keepstate-daemon"];
/// Shows what the verifier says. An example is built as the program that it is: `cargo test` would make an
/// empty test of it.
const LOADER: [&str; 3] = ["build", "--example", "verified"];

/// The example that shows what the verifier says, alone; with libraries, as it is built anyway.
pub(super) fn build_loader() -> anyhow::Result<Programs> {
    let output = shell::cargo()
        .args([&LOADER[..], &DAEMON, &EXECUTABLES].concat())
        .stderr(Stdio::inherit())
        .output()
        .context("cannot start cargo")?;
    ensure!(output.status.success(), "the loader could not be built");
    Ok(Programs {
        tests: executables(&output.stdout),
        keepstate: None,
    })
}

/// The twin test, the example that shows what the verifier says, and the tests of the
/// program in namespaces.
pub(super) fn build_programs(directory: &Path) -> anyhow::Result<Programs> {
    let cli = ["--package", "keepstate-cli"];
    let build =
        |command: &[&str], package: &[&str]| build_static(directory, &[command, package].concat());
    let mut tests = build(&LOADER, &DAEMON)?;
    tests.extend(build(&["test", "--no-run", "--test", "twin"], &DAEMON)?);
    tests.extend(build(&["test", "--no-run", "--test", "kernel"], &cli)?);
    let keepstate = build(&["build", "--bin", "keepstate"], &cli)?;
    let keepstate = keepstate.into_iter().next();
    // Tests build the packages' own programs too; those lie beside, not in `deps`.
    let is_wanted = |path: &PathBuf| {
        let wanted = ["deps", "examples"];
        path.parent()
            .is_some_and(|parent| wanted.iter().any(|name| parent.ends_with(name)))
    };
    tests.retain(is_wanted);
    ensure!(!tests.is_empty(), "there are neither tests nor examples");
    Ok(Programs {
        tests,
        keepstate: Some(keepstate.context("the firewall was not built")?),
    })
}

fn build_static(directory: &Path, command: &[&str]) -> anyhow::Result<Vec<PathBuf>> {
    let triple = shell::host_triple()?;
    let output = shell::cargo()
        .args(command)
        .args(["--release", "--target", &triple])
        .args(EXECUTABLES)
        .arg("--target-dir")
        .arg(directory.join("build"))
        .env("RUSTFLAGS", "-Ctarget-feature=+crt-static -Cstrip=symbols")
        .stderr(Stdio::inherit())
        .output()
        .context("cannot start cargo")?;
    ensure!(
        output.status.success(),
        "the static programs could not be built"
    );
    Ok(executables(&output.stdout))
}

/// What of cargo's messages names programs.
const EXECUTABLES: [&str; 3] = ["--quiet", "--message-format", "json"];

fn executables(messages: &[u8]) -> Vec<PathBuf> {
    let messages = String::from_utf8_lossy(messages);
    let label = "\"executable\":\"";
    let found = messages
        .lines()
        .filter_map(|line| line.split_once(label)?.1.split('"').next());
    found.map(PathBuf::from).collect()
}

/// Packs a file system whose first program runs all tests.
pub(super) fn pack_base(directory: &Path, programs: &Programs) -> anyhow::Result<PathBuf> {
    let tree = fresh(&directory.join("root"))?;
    for name in ["bin", "dev", "proc", "sys", "tmp", "run", "tests"] {
        std::fs::create_dir_all(tree.join(name))?;
    }
    let busybox = shell::find("busybox").context("busybox was there a moment ago")?;
    std::fs::copy(busybox, tree.join("bin/busybox"))?;
    for program in &programs.tests {
        let name = program.file_name().context("a program has a name")?;
        std::fs::copy(program, tree.join("tests").join(name))?;
        copy_libraries(&tree, program)?;
    }
    // The tests know the program, and the examples' rules, by where they are here.
    if let Some(keepstate) = &programs.keepstate {
        copy_in(&tree, keepstate, keepstate)?;
    }
    for entry in std::fs::read_dir(shell::root().join("examples"))?.flatten() {
        if entry.path().is_file() {
            copy_in(&tree, &entry.path(), &entry.path())?;
        }
    }
    for tool in GUEST_TOOLS {
        install(&tree, tool)?;
    }
    let shared = std::env::var_os(SHARED).map(PathBuf::from);
    let shared = shared.unwrap_or_else(|| shell::root().join("../shared"));
    for packets in SHARED_PACKETS {
        copy_tree(&shared.join(packets), &tree.join("shared").join(packets))?;
    }
    let init = tree.join("init");
    std::fs::write(&init, INIT)?;
    shell::run(Command::new("chmod").arg("755").arg(&init))?;
    pack(&tree, &directory.join("root.cpio"))
}

/// The packed file system, with modules of a kernel behind it: the kernel unpacks one after the
/// other.
pub(super) fn with_modules(
    directory: &Path,
    base: &Path,
    package: &str,
    kernel: &Kernel,
) -> anyhow::Result<PathBuf> {
    let tree = fresh(&directory.join("modules"))?;
    let modules = tree.join("modules");
    std::fs::create_dir_all(&modules)?;
    for (number, module) in MODULES.iter().enumerate() {
        let plain = format!("{module}.ko");
        let packed = format!("{module}.ko.xz");
        let found = archive::find(&kernel.tree, &|name| name == plain || name == packed);
        let found = found.with_context(|| format!("the kernel has no module {module}"))?;
        let target = modules.join(format!("{number}-{plain}"));
        if found.extension().is_some_and(|extension| extension == "xz") {
            let unpack = r#"exec xz -dc "$1" > "$2""#;
            shell::run(
                Command::new("sh")
                    .args(["-c", unpack, "sh"])
                    .args([&found, &target]),
            )?;
        } else {
            std::fs::copy(&found, &target)?;
        }
    }
    let packed = pack(&tree, &directory.join("modules.cpio"))?;
    let whole = directory.join(format!("{package}.initrd"));
    let mut bytes = std::fs::read(base)?;
    bytes.extend(std::fs::read(packed)?);
    std::fs::write(&whole, bytes)?;
    Ok(whole)
}

/// An empty directory.
fn fresh(tree: &Path) -> anyhow::Result<PathBuf> {
    if tree.exists() {
        std::fs::remove_dir_all(tree)?;
    }
    std::fs::create_dir_all(tree)?;
    Ok(tree.to_path_buf())
}

fn pack(tree: &Path, packed: &Path) -> anyhow::Result<PathBuf> {
    let script = r#"cd "$1" && find . | cpio --quiet -o -H newc > "$2""#;
    shell::run(
        Command::new("sh")
            .args(["-c", script, "sh"])
            .args([tree, packed]),
    )?;
    Ok(packed.to_path_buf())
}

/// Copies a file to the place in the machine that `place` is here.
fn copy_in(tree: &Path, file: &Path, place: &Path) -> anyhow::Result<()> {
    let target = tree.join(place.strip_prefix("/").unwrap_or(place));
    if let Some(parent) = target.parent() {
        std::fs::create_dir_all(parent)?;
    }
    std::fs::copy(file, &target).with_context(|| format!("cannot copy {}", file.display()))?;
    Ok(())
}

fn copy_tree(from: &Path, to: &Path) -> anyhow::Result<()> {
    if !from.is_dir() {
        return Ok(());
    }
    std::fs::create_dir_all(to)?;
    for entry in std::fs::read_dir(from)?.flatten() {
        let target = to.join(entry.file_name());
        if entry.path().is_dir() {
            copy_tree(&entry.path(), &target)?;
        } else {
            std::fs::copy(entry.path(), target)?;
        }
    }
    Ok(())
}

/// Copies a program and its libraries.
fn install(tree: &Path, tool: &str) -> anyhow::Result<()> {
    let program = shell::find(tool).with_context(|| format!("{tool} was there a moment ago"))?;
    copy_in(tree, &program, &Path::new("/usr/bin").join(tool))?;
    copy_libraries(tree, &program)
}

/// What a program is linked with, if anything.
fn copy_libraries(tree: &Path, program: &Path) -> anyhow::Result<()> {
    let output = Command::new("ldd")
        .arg(program)
        .output()
        .context("cannot start ldd")?;
    let text = String::from_utf8_lossy(&output.stdout);
    let libraries = text.split_whitespace().filter(|word| word.starts_with('/'));
    for library in libraries.map(Path::new) {
        copy_in(tree, library, library)?;
    }
    Ok(())
}

/// The first program of the machine. `verified` comes first: it says soonest what the verifier
/// refuses. The demo's tests take long and show nothing new here; tests run one after the other,
/// since each has to wait for the verifier.
const INIT: &str = r#"#!/bin/busybox sh
/bin/busybox --install -s /bin
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t devtmpfs dev /dev
mount -t bpf bpf /sys/fs/bpf
ip link set lo up
for module in /modules/*; do
    insmod "$module"
done
export PATH=/usr/bin:/bin KEEPSTATE_SHARED=/shared KEEPSTATE_SKIP_LOG=/tmp/skipped RUST_BACKTRACE=0
export KEEPSTATE_TWIN_SHARE=5
touch /tmp/skipped
echo "KEEPSTATE-KERNEL $(uname -srv)"
for program in /tests/verified* /tests/[!v]*; do
    [ -e "$program" ] || continue
    "$program" --show-output --test-threads 1 --skip demo
    echo "KEEPSTATE-RESULT $? ${program##*/}"
done
cat /tmp/skipped
poweroff -f
"#;
