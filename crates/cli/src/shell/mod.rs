//! A shell for scripts that were written for the kernel's own firewall: their programs and files are
//! Keepstate's.
//!
//! The script runs in a mount namespace of its own. There, a directory with links to this program comes
//! first in PATH, and this program lies over the absolute paths of those that the machine has. Files of
//! the tracker below `/proc` are answered by a FUSE file system in this process, which asks the daemon.
//! The kernel takes all of it away with the last process of the namespace.

mod files;
mod lists;
mod mounts;
mod service;
mod tcp;

use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, ExitStatus};

use anyhow::{Context, bail};
use keepstate_api::{Client, Instance};

use self::mounts::Stage;
pub(crate) use self::service::run as service;

/// What is to be run: by `sh`, or by the interpreter that its first line names.
pub(crate) struct Job<'a> {
    pub(crate) script: &'a Path,
    pub(crate) arguments: &'a [String],
    pub(crate) instance: &'a Instance,
    /// Where what outlives the machine's next start is kept.
    pub(crate) config: &'a Path,
}

/// Longest first line of a script that is looked at, as the kernel does.
const INTERPRETER_BYTES_MAX: usize = 256;

pub(crate) fn run(job: &Job<'_>) -> anyhow::Result<ExitCode> {
    if !rustix::process::geteuid().is_root() {
        bail!("a shell for scripts needs root: it gives them a view of files of their own");
    }
    // What cannot be asked now cannot be asked by the script either.
    Client::connect(job.instance).context("start a daemon with `keepstate up`")?;
    let interpreter = interpreter(job.script)?;
    let stage = Stage::set(job.instance, job.config)?;
    let mut command = Command::new(&interpreter[0]);
    command.args(&interpreter[1..]).arg(job.script);
    command.args(job.arguments);
    command.env("PATH", stage.search_path());
    command.env("KEEPSTATE_INSTANCE", job.instance.as_str());
    command.env(crate::config::VARIABLE, job.config);
    if let Some(service) = stage.real_service() {
        command.env(mounts::REAL_SERVICE, service);
    }
    let status = command
        .status()
        .with_context(|| format!("{} cannot be started", interpreter[0]))?;
    drop(stage);
    Ok(exit_code(status))
}

/// The words after `#!`, or `sh`.
fn interpreter(script: &Path) -> anyhow::Result<Vec<String>> {
    let name = || script.display().to_string();
    let bytes = std::fs::read(script).with_context(name)?;
    let first = bytes
        .split(|byte| *byte == b'\n')
        .next()
        .unwrap_or_default();
    let first = &first[..first.len().min(INTERPRETER_BYTES_MAX)];
    let line = String::from_utf8_lossy(first);
    let words: Vec<String> = line
        .strip_prefix("#!")
        .into_iter()
        .flat_map(str::split_whitespace)
        .map(str::to_owned)
        .collect();
    if words.is_empty() {
        return Ok(vec!["sh".into()]);
    }
    Ok(words)
}

/// As shells tell it: 128 and the signal's number.
fn exit_code(status: ExitStatus) -> ExitCode {
    use std::os::unix::process::ExitStatusExt;

    let code = status
        .code()
        .or_else(|| status.signal().map(|signal| 128 + signal));
    ExitCode::from(code.and_then(|code| u8::try_from(code).ok()).unwrap_or(1))
}

/// Where programs are looked for that scripts call by their whole paths.
fn program_directories() -> [PathBuf; 6] {
    [
        "/usr/local/sbin",
        "/usr/local/bin",
        "/usr/sbin",
        "/usr/bin",
        "/sbin",
        "/bin",
    ]
    .map(PathBuf::from)
}
