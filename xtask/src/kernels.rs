//! `cargo xtask kernels`: the kernel programs on other kernels.
//!
//! Debian's kernels are downloaded, not installed, and booted in qemu without hardware help. All
//! of the system is an initial file system in memory: busybox and our own test programs, linked
//! statically. Nothing is written outside of `target/kernels`.

use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};

use crate::shell::{self, Tool};
use crate::tally::Tally;

const TOOLS: &[Tool] = &[
    tool(
        "qemu-system-x86_64",
        "qemu-system-x86",
        "booting other kernels",
    ),
    tool("busybox", "busybox-static", "a shell in the machine"),
    tool("cpio", "cpio", "packing the machine's file system"),
    tool("dpkg-deb", "dpkg", "unpacking kernels"),
    tool("apt-get", "apt", "downloading kernels"),
];

/// Where Debian's kernels come from. Lists of their own: the machine's are left alone.
const SOURCES: &str = "\
deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] http://deb.debian.org/debian bookworm main
deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] http://deb.debian.org/debian bookworm-backports main
";

/// Kernels by the beginning of their version: the oldest supported; the newest backport.
const SERIES: &[&str] = &["6.1.", ""];
/// Debian's smallest: what the programs need is built in.
const FLAVOUR: &str = "-cloud-amd64";
/// An emulated machine is some twenty times slower than this one.
const BOOT_SECONDS_MAX: u64 = 1_200;
const MEMORY: &str = "3G";
/// Marks a line of ours on the machine's console.
const MARK: &str = "KEEPSTATE-RESULT";
/// Lines of the console that are shown when something failed.
const LINES_OF_FAILURE: usize = 60;

pub(crate) fn run(arguments: &[String]) -> anyhow::Result<ExitCode> {
    let missing = shell::provide(TOOLS);
    ensure!(
        missing.is_empty(),
        "cannot go on without {}",
        missing[0].program
    );
    let directory = shell::target_directory()?.join("kernels");
    std::fs::create_dir_all(&directory)?;
    let programs = build_programs(&directory)?;
    let root = make_root(&directory, &programs)?;
    let mut total = Tally::default();
    for package in packages(&directory, arguments)? {
        let image = fetch(&directory, &package)?;
        total.add(boot(&package, &image, &root, &programs)?);
    }
    print!("{}", total.report());
    Ok(total.exit_code())
}

const fn tool(program: &'static str, package: &'static str, purpose: &'static str) -> Tool {
    Tool {
        program,
        package,
        purpose,
    }
}

/// The daemon's tests (the twin test among them) and its examples (one shows what the verifier
/// says), as static executables.
fn build_programs(directory: &Path) -> anyhow::Result<Vec<PathBuf>> {
    // Examples are built as the programs that they are: `cargo test` would make empty tests of them.
    let mut programs = build_static(directory, &["test", "--no-run", "--tests"])?;
    programs.extend(build_static(directory, &["build", "--examples"])?);
    ensure!(
        !programs.is_empty(),
        "the daemon has neither tests nor examples"
    );
    Ok(programs)
}

fn build_static(directory: &Path, command: &[&str]) -> anyhow::Result<Vec<PathBuf>> {
    let triple = shell::host_triple()?;
    let output = shell::cargo()
        .args(command)
        .args(["--quiet", "--release", "--package", "keepstate-daemon"])
        .args(["--message-format", "json", "--target", &triple])
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
    let messages = String::from_utf8_lossy(&output.stdout);
    let label = "\"executable\":\"";
    let found = messages
        .lines()
        .filter_map(|line| line.split_once(label)?.1.split('"').next());
    // Tests build the package's own programs too; those lie beside, not in `deps`.
    let is_wanted = |path: &PathBuf| {
        let wanted = ["deps", "examples"];
        path.parent()
            .is_some_and(|parent| wanted.iter().any(|name| parent.ends_with(name)))
    };
    Ok(found.map(PathBuf::from).filter(is_wanted).collect())
}

/// Packs a file system whose first program runs all of `programs`.
fn make_root(directory: &Path, programs: &[PathBuf]) -> anyhow::Result<PathBuf> {
    let tree = directory.join("root");
    if tree.exists() {
        std::fs::remove_dir_all(&tree)?;
    }
    for name in ["bin", "dev", "proc", "sys", "tmp", "run", "tests"] {
        std::fs::create_dir_all(tree.join(name))?;
    }
    let busybox = shell::find("busybox").context("busybox was there a moment ago")?;
    std::fs::copy(busybox, tree.join("bin/busybox"))?;
    for program in programs {
        let name = program.file_name().context("a program has a name")?;
        std::fs::copy(program, tree.join("tests").join(name))?;
    }
    let init = tree.join("init");
    std::fs::write(&init, INIT)?;
    shell::run(Command::new("chmod").arg("755").arg(&init))?;
    let packed = directory.join("root.cpio");
    let script = r#"cd "$1" && find . | cpio --quiet -o -H newc > "$2""#;
    shell::run(
        Command::new("sh")
            .args(["-c", script, "sh"])
            .arg(&tree)
            .arg(&packed),
    )?;
    Ok(packed)
}

/// The first program of the machine.
const INIT: &str = r#"#!/bin/busybox sh
/bin/busybox --install -s /bin
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t devtmpfs dev /dev
mount -t bpf bpf /sys/fs/bpf
ip link set lo up
export KEEPSTATE_SKIP_LOG=/tmp/skipped RUST_BACKTRACE=0
touch /tmp/skipped
for program in /tests/*; do
    "$program"
    echo "KEEPSTATE-RESULT $? ${program##*/}"
done
cat /tmp/skipped
poweroff -f
"#;

/// Names of the packages of the kernels to boot: those of the arguments, else one of each series.
fn packages(directory: &Path, arguments: &[String]) -> anyhow::Result<Vec<String>> {
    let lists = directory.join("apt");
    for name in ["lists/partial", "archives/partial"] {
        std::fs::create_dir_all(lists.join(name))?;
    }
    std::fs::write(lists.join("sources.list"), SOURCES)?;
    shell::run(apt("apt-get", directory).args(["update", "-qq"]))?;
    if !arguments.is_empty() {
        return Ok(arguments.to_vec());
    }
    let output = apt("apt-cache", directory)
        .args([
            "search",
            "--names-only",
            "^linux-image-[0-9].*-cloud-amd64$",
        ])
        .output()
        .context("cannot start apt-cache")?;
    let text = String::from_utf8_lossy(&output.stdout);
    let names: Vec<_> = text
        .lines()
        .filter_map(|line| line.split_whitespace().next())
        .collect();
    let newest = |series: &&str| {
        let begin = format!("linux-image-{series}");
        let of_series = names.iter().filter(|name| name.starts_with(&begin));
        of_series
            .max_by_key(|name| version(name))
            .map(|name| (*name).to_owned())
    };
    let found: Vec<_> = SERIES.iter().filter_map(newest).collect();
    ensure!(
        found.len() == SERIES.len(),
        "the archive has no kernels of some series: {found:?}"
    );
    Ok(found)
}

/// The numbers in a name, which order versions.
fn version(name: &str) -> Vec<u32> {
    let name = name.trim_end_matches(FLAVOUR);
    let parts = name.split(|character: char| !character.is_ascii_digit());
    parts.filter_map(|digits| digits.parse().ok()).collect()
}

fn apt(program: &str, directory: &Path) -> Command {
    let lists = directory.join("apt");
    let mut command = Command::new(program);
    for (option, path) in [
        ("Dir::Etc::sourcelist", lists.join("sources.list")),
        ("Dir::Etc::sourceparts", PathBuf::from("-")),
        ("Dir::State::lists", lists.join("lists")),
        ("Dir::Cache", lists),
    ] {
        command
            .arg("-o")
            .arg(format!("{option}={}", path.display()));
    }
    command
}

/// The bootable image of a package.
fn fetch(directory: &Path, package: &str) -> anyhow::Result<PathBuf> {
    let tree = directory.join(package);
    if !tree.join("boot").exists() {
        std::fs::create_dir_all(&tree)?;
        shell::run(
            apt("apt-get", directory)
                .args(["download", "-q", package])
                .current_dir(&tree),
        )?;
        let script = "for archive in *.deb; do dpkg-deb -x \"$archive\" . ; done; rm -f -- *.deb";
        shell::run(Command::new("sh").args(["-c", script]).current_dir(&tree))?;
    }
    let entries = std::fs::read_dir(tree.join("boot"))?
        .flatten()
        .map(|entry| entry.path());
    let is_image = |path: &PathBuf| {
        path.file_name()
            .is_some_and(|name| name.to_string_lossy().starts_with("vmlinuz"))
    };
    entries
        .into_iter()
        .find(is_image)
        .with_context(|| format!("{package} holds no kernel"))
}

/// Runs the programs on a kernel.
fn boot(package: &str, image: &Path, root: &Path, programs: &[PathBuf]) -> anyhow::Result<Tally> {
    println!("{package}: booting");
    let console = root.with_file_name(format!("{package}.log"));
    let took = emulate(image, root, &console)?;
    let log = std::fs::read(&console)?;
    let log = String::from_utf8_lossy(&log).replace('\r', "");
    let tally = judge(package, &log, programs);
    for line in log.lines().filter(|line| tells(line)) {
        println!("{package}: {line}");
    }
    if tally.has_failed() {
        let lines: Vec<_> = log.lines().collect();
        println!(
            "{}",
            lines[lines.len().saturating_sub(LINES_OF_FAILURE)..].join("\n")
        );
    }
    println!(
        "{package}: {} s, all that was printed: {}",
        took.as_secs(),
        console.display()
    );
    Ok(tally)
}

fn emulate(image: &Path, root: &Path, console: &Path) -> anyhow::Result<Duration> {
    let started = Instant::now();
    let mut child = Command::new("qemu-system-x86_64")
        .args(["-accel", "tcg", "-cpu", "max", "-smp", "2", "-m", MEMORY])
        .args([
            "-nodefaults",
            "-nographic",
            "-no-reboot",
            "-serial",
            "stdio",
        ])
        .arg("-kernel")
        .arg(image)
        .arg("-initrd")
        .arg(root)
        .args(["-append", "console=ttyS0 panic=-1 quiet"])
        .stdin(Stdio::null())
        .stdout(std::fs::File::create(console)?)
        .spawn()
        .context("cannot start qemu")?;
    while child.try_wait()?.is_none() {
        if started.elapsed() > Duration::from_secs(BOOT_SECONDS_MAX) {
            println!("not done after {BOOT_SECONDS_MAX} s");
            child.kill()?;
            child.wait()?;
            break;
        }
        std::thread::sleep(Duration::from_millis(200));
    }
    Ok(started.elapsed())
}

/// Counts what ran: each test of a test program, and each example that ended well.
fn judge(package: &str, log: &str, programs: &[PathBuf]) -> Tally {
    let mut tally = Tally::default();
    for line in log.lines() {
        tally.read(line);
    }
    tally.read_skip_log(log);
    let results: Vec<_> = log.lines().filter_map(result).collect();
    for program in programs {
        let name = program.file_name().unwrap_or_default().to_string_lossy();
        let status = results
            .iter()
            .find(|(_, of)| *of == name)
            .map(|(status, _)| *status);
        let is_test = program
            .parent()
            .is_some_and(|parent| parent.ends_with("deps"));
        match status {
            // Its tests have been counted one by one.
            Some("0") if is_test => {}
            Some(_) if is_test && tally.has_failed() => {}
            Some("0") => tally.pass(),
            Some(status) => tally.fail(&format!("{package}: {name} (exit status {status})")),
            None => tally.fail(&format!("{package}: {name} (did not end)")),
        }
    }
    tally
}

/// Exit status and name, of a line that [`INIT`] printed.
fn result(line: &str) -> Option<(&str, &str)> {
    line.split_once(MARK)?.1.trim().split_once(' ')
}

/// Lines of the programs that are worth repeating.
fn tells(line: &str) -> bool {
    ["test ", "SKIPPED ", MARK]
        .iter()
        .any(|begin| line.starts_with(begin))
        || line.contains("instructions")
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::{judge, result, version};

    #[test]
    fn a_program_without_tests_passes_nothing() {
        let programs = [
            PathBuf::from("release/deps/twin-1"),
            PathBuf::from("release/examples/shows"),
        ];
        let log = "test result: ok. 0 passed; 0 failed; 0 ignored; 0 measured; 0 filtered out\n\
                   KEEPSTATE-RESULT 0 twin-1\nKEEPSTATE-RESULT 0 shows\n";
        assert_eq!(
            judge("kernel", log, &programs).report(),
            "1 passed, 0 failed, 0 skipped\n"
        );
        let report = judge("kernel", "KEEPSTATE-RESULT 1 shows\n", &programs).report();
        assert!(
            report.ends_with("0 passed, 2 failed, 0 skipped\n"),
            "{report}"
        );
    }

    #[test]
    fn versions_are_ordered_by_number() {
        let name = |version: &str| format!("linux-image-{version}-cloud-amd64");
        assert!(version(&name("6.12.95+deb12")) > version(&name("6.12.9+deb12")));
        assert!(version(&name("6.1.0-50")) > version(&name("6.1.0-47")));
        assert!(version(&name("6.12.90+deb12.1")) > version(&name("6.12.90+deb12")));
    }

    #[test]
    fn results_are_read_from_the_console() {
        assert_eq!(
            result("KEEPSTATE-RESULT 101 twin-0a"),
            Some(("101", "twin-0a"))
        );
        assert_eq!(result("test twin ... ok"), None);
    }
}
