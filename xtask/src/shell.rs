//! Running other programs, and getting them where they are missing.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context as _, ensure};

/// The directory that holds the workspace's `Cargo.toml`.
pub(crate) fn root() -> PathBuf {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    here.parent()
        .expect("this crate lies in the root")
        .to_path_buf()
}

/// The cargo that runs this program, in the workspace's root.
pub(crate) fn cargo() -> Command {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.current_dir(root());
    command
}

/// Where cargo puts what it builds.
pub(crate) fn target_directory() -> anyhow::Result<PathBuf> {
    let own = std::env::current_exe().context("cannot tell where this program lies")?;
    let directory = own
        .ancestors()
        .nth(2)
        .context("this program lies in target/PROFILE")?;
    Ok(directory.to_path_buf())
}

/// The machine that rustc compiles for unless told otherwise.
pub(crate) fn host_triple() -> anyhow::Result<String> {
    let rustc = std::env::var_os("RUSTC").unwrap_or_else(|| "rustc".into());
    let output = Command::new(rustc)
        .arg("-vV")
        .output()
        .context("cannot start rustc")?;
    let text = String::from_utf8_lossy(&output.stdout);
    let host = text.lines().find_map(|line| line.strip_prefix("host: "));
    Ok(host.context("rustc names no host")?.to_owned())
}

/// Runs a command to its end; an error when it fails.
pub(crate) fn run(command: &mut Command) -> anyhow::Result<()> {
    let status = command
        .status()
        .with_context(|| format!("cannot start {command:?}"))?;
    ensure!(status.success(), "{command:?} failed ({status})");
    Ok(())
}

/// A program that some task calls, and where it comes from.
pub(crate) struct Tool {
    pub(crate) program: &'static str,
    /// The Debian package that holds it.
    pub(crate) package: &'static str,
    pub(crate) purpose: &'static str,
}

/// Those of `tools` that cannot be had: installs what is missing where that is possible, names
/// it where not.
pub(crate) fn provide(tools: &[Tool]) -> Vec<&Tool> {
    let missing = |tools: &mut Vec<&Tool>| tools.retain(|tool| find(tool.program).is_none());
    let mut wanted: Vec<&Tool> = tools.iter().collect();
    missing(&mut wanted);
    if wanted.is_empty() {
        return wanted;
    }
    for tool in &wanted {
        println!("missing: {} (for {})", tool.program, tool.purpose);
    }
    let mut packages: Vec<&str> = wanted.iter().map(|tool| tool.package).collect();
    packages.sort_unstable();
    packages.dedup();
    if is_root() && find("apt-get").is_some() {
        println!("installing: {}", packages.join(" "));
        if let Err(error) = install(&packages) {
            println!("could not be installed: {error:#}");
        }
        missing(&mut wanted);
    } else {
        println!("to get them: sudo apt-get install {}", packages.join(" "));
    }
    wanted
}

/// Where a program is, also where only root's `PATH` leads.
pub(crate) fn find(program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .chain(["/usr/sbin", "/sbin", "/usr/local/sbin"].map(PathBuf::from))
        .map(|directory| directory.join(program))
        .find(|file| file.is_file())
}

pub(crate) fn is_root() -> bool {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find(|line| line.starts_with("Uid:"));
    line.and_then(|line| line.split_whitespace().nth(2)) == Some("0")
}

fn install(packages: &[&str]) -> anyhow::Result<()> {
    let apt = |arguments: &[&str]| {
        run(Command::new("apt-get")
            .args(arguments)
            .env("DEBIAN_FRONTEND", "noninteractive")
            .stdout(Stdio::null()))
    };
    apt(&["update", "-q"])?;
    let mut arguments = vec!["install", "-qy", "--no-install-recommends"];
    arguments.extend(packages);
    apt(&arguments)
}
