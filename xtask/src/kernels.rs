//! `cargo xtask kernels`: the kernel programs and the daemon on other kernels.
//!
//! `--load` only loads the programs, which takes minutes.
//!
//! Debian's kernels are downloaded, not installed, and booted in qemu without hardware help. All
//! of the system is an initial file system in memory: busybox, a few tools, and our own test
//! programs, linked statically. Nothing is written outside of `target/kernels`.

mod archive;
mod root;

use std::collections::BTreeSet;
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
    tool("xz", "xz-utils", "unpacking kernel modules"),
    tool("ldd", "libc-bin", "finding the libraries of programs"),
    tool("ip", "iproute2", "namespaces in the machine"),
    tool("tc", "iproute2", "looking at what is attached"),
    tool("bpftool", "bpftool", "looking at what is attached"),
    tool("ping", "iputils-ping", "traffic in the machine"),
    tool("nsenter", "util-linux", "namespaces in the machine"),
];

/// An emulated machine is some ten times slower than this one: it takes five to twenty
/// minutes, and longer where that is busy.
const BOOT_SECONDS_MAX: u64 = 5_400;
const MEMORY: &str = "3G";
/// All that qemu can do but the instruction cmpxchg16b: qemu 7.2 comes back from it with broken
/// flags now and then, and the kernel's allocator of memory dies of that.
const CPU: &str = "max,-cx16";
/// Marks a line of ours on the machine's console.
const MARK: &str = "KEEPSTATE-RESULT";
/// Marks the line that names the kernel.
const KERNEL: &str = "KEEPSTATE-KERNEL";
/// Lines of the console that are shown when something failed.
const LINES_OF_FAILURE: usize = 60;
/// Leaves out what takes long: the tests.
const LOAD_ONLY: &str = "--load";

pub(crate) fn run(arguments: &[String]) -> anyhow::Result<ExitCode> {
    let missing = shell::provide(TOOLS);
    ensure!(
        missing.is_empty(),
        "cannot go on without {}",
        missing[0].program
    );
    let directory = shell::target_directory()?.join("kernels");
    std::fs::create_dir_all(&directory)?;
    let (options, packages): (Vec<_>, Vec<_>) = arguments
        .iter()
        .cloned()
        .partition(|argument| argument.starts_with('-'));
    ensure!(
        options.iter().all(|option| option == LOAD_ONLY),
        "the one option is {LOAD_ONLY}"
    );
    let programs = match options.is_empty() {
        true => root::build_programs(&directory)?,
        false => root::build_loader()?,
    };
    let base = root::pack_base(&directory, &programs)?;
    let mut machines = Vec::new();
    for package in archive::packages(&directory, &packages)? {
        let kernel = archive::fetch(&directory, &package)?;
        let root = root::with_modules(&directory, &base, &package, &kernel)?;
        machines.push(Machine {
            package,
            image: kernel.image,
            root,
        });
    }
    let mut total = Tally::default();
    let mut summaries = String::new();
    // A machine has two processors, and its programs keep one of them busy.
    let at_once = std::thread::available_parallelism().map_or(1, usize::from);
    for machines in machines.chunks(at_once) {
        for booted in boot_all(machines, &programs.tests) {
            let (tally, summary) = booted?;
            total.add(tally);
            summaries += &summary;
        }
    }
    print!("{summaries}{}", total.report());
    Ok(total.exit_code())
}

/// A kernel, ready to boot.
struct Machine {
    package: String,
    image: PathBuf,
    /// Its file system, packed.
    root: PathBuf,
}

type Booted = anyhow::Result<(Tally, String)>;

fn boot_all(machines: &[Machine], programs: &[PathBuf]) -> Vec<Booted> {
    std::thread::scope(|scope| {
        let start = |machine| scope.spawn(move || boot(machine, programs));
        let running: Vec<_> = machines.iter().map(start).collect();
        let end = |thread: std::thread::ScopedJoinHandle<'_, Booted>| {
            thread
                .join()
                .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        };
        running.into_iter().map(end).collect()
    })
}

const fn tool(program: &'static str, package: &'static str, purpose: &'static str) -> Tool {
    Tool {
        program,
        package,
        purpose,
    }
}

/// Runs the programs on a kernel.
fn boot(machine: &Machine, programs: &[PathBuf]) -> Booted {
    let Machine {
        package,
        image,
        root,
    } = machine;
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
    Ok((tally, summary(package, &log)))
}

fn emulate(image: &Path, root: &Path, console: &Path) -> anyhow::Result<Duration> {
    let started = Instant::now();
    let mut child = Command::new("qemu-system-x86_64")
        .args(["-accel", "tcg", "-cpu", CPU, "-smp", "2", "-m", MEMORY])
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

/// What a run on a kernel has shown, in three lines.
fn summary(package: &str, log: &str) -> String {
    // The firmware's last words stand before it on the same line.
    let mark = |line: &str| Some(line.split_once(KERNEL)?.1.trim().to_owned());
    let kernel = log.lines().find_map(mark);
    let instructions = log.lines().filter_map(|line| {
        let (program, rest) = line
            .split_once(" of 1000000 instructions")?
            .0
            .split_once(' ')?;
        Some((rest.trim().parse::<u64>().ok()?, program))
    });
    let largest = instructions.max();
    let compared = log.lines().filter_map(|line| {
        let words = line.split_once(" compared, ")?.0;
        words.rsplit(' ').next()?.parse::<u64>().ok()
    });
    let compared: u64 = compared.sum();
    let attached = log.lines().filter(|line| is_attachment(line));
    let attached: BTreeSet<_> = attached.map(str::trim).collect();
    let attached = Vec::from_iter(attached).join("; ");
    let unknown = || "unknown".to_owned();
    format!(
        "{package}: {}\n  largest program: {}\n  twin test: {compared} packets compared and \
         equal\n  attached: {}\n",
        kernel.unwrap_or_else(unknown),
        largest.map_or_else(unknown, |(count, program)| format!(
            "{program}, {count} of 1000000 instructions walked by the verifier"
        )),
        Some(attached)
            .filter(|lines| !lines.is_empty())
            .unwrap_or_else(unknown),
    )
}

/// Exit status and name, of a line that the first program of the machine printed.
fn result(line: &str) -> Option<(&str, &str)> {
    line.split_once(MARK)?.1.trim().split_once(' ')
}

/// What `keepstate up` says of an interface.
fn is_attachment(line: &str) -> bool {
    line.contains(": in by ")
}

/// Lines of the programs that are worth repeating.
fn tells(line: &str) -> bool {
    ["test ", "SKIPPED ", MARK]
        .iter()
        .any(|begin| line.starts_with(begin))
        || line.contains(KERNEL)
        || is_attachment(line)
        || line.contains("instructions")
        || line.contains(" compared, ")
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::{judge, result, summary};

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
    fn what_was_shown_is_summed_up() {
        let log = "\x1b[2JKEEPSTATE-KERNEL Linux 6.1.0\n\
                   xdp_look             7793 of 1000000 instructions,  10664 bytes\n\
                   clock                  23 of 1000000 instructions,    224 bytes\n\
                   Hostile: 30 compared, 1 left out\nboth ways: 12 compared, 0 left out\n\
                   inner: in by xdp native, out by clsact\n";
        assert_eq!(
            summary("kernel", log),
            "kernel: Linux 6.1.0\n  largest program: xdp_look, 7793 of 1000000 instructions walked \
             by the verifier\n  twin test: 42 packets compared and equal\n  attached: inner: in by \
             xdp native, out by clsact\n"
        );
        assert!(summary("kernel", "").contains("attached: unknown"));
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
