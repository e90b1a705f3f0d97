//! What the tests of the workspace share: skipping aloud, finding the shared captures, and
//! network namespaces that vanish with the test.
//!
//! A test that cannot run here (no rights, no program, no captures) calls [`skip()`] and returns.
//! It still counts as passed for the test harness, so `cargo xtask test` reads the log that
//! [`skip()`] writes and counts it as skipped, by name.
//!
//! These functions panic instead of returning errors: a test wants the stack trace.

mod namespace;
mod skip;

use std::path::{Path, PathBuf};
use std::process::Command;

pub use crate::namespace::{Namespace, Running};
pub use crate::skip::{SKIP_LOG, skip};

/// Environment variable that names the directory of shared material.
pub const SHARED: &str = "KEEPSTATE_SHARED";

/// The directory of shared material (captures with their labels), where there is one.
pub fn shared_dir() -> Option<PathBuf> {
    let directory = match std::env::var_os(SHARED) {
        Some(named) => PathBuf::from(named),
        None => workspace_root().join("../shared"),
    };
    directory.is_dir().then_some(directory)
}

/// [`shared_dir`], or `None` after having recorded that `test` is skipped.
pub fn shared_dir_or_skip(test: &str) -> Option<PathBuf> {
    let found = shared_dir();
    if found.is_none() {
        skip(
            test,
            &format!("no ../shared beside the workspace and no {SHARED}"),
        );
    }
    found
}

/// The directory that holds the workspace's `Cargo.toml`.
pub fn workspace_root() -> PathBuf {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    here.ancestors()
        .nth(2)
        .expect("this crate lies two directories below the root")
        .to_path_buf()
}

/// Whether this process runs as root with the rights to make namespaces and load programs.
pub fn is_root() -> bool {
    const CAP_NET_ADMIN: u64 = 1 << 12;
    const CAP_SYS_ADMIN: u64 = 1 << 21;
    let Ok(status) = std::fs::read_to_string("/proc/self/status") else {
        return false;
    };
    let field = |name: &str| {
        let line = status.lines().find(|line| line.starts_with(name))?;
        line.split_whitespace().nth(1)
    };
    let capabilities = field("CapEff:").and_then(|hex| u64::from_str_radix(hex, 16).ok());
    let needed = CAP_NET_ADMIN | CAP_SYS_ADMIN;
    field("Uid:") == Some("0") && capabilities.is_some_and(|held| held & needed == needed)
}

/// [`is_root`], recording that `test` is skipped where it is false.
pub fn root_or_skip(test: &str) -> bool {
    let root = is_root();
    if !root {
        skip(test, "needs root (CAP_NET_ADMIN and CAP_SYS_ADMIN)");
    }
    root
}

/// Whether `program` can be found, also where only root's `PATH` leads.
pub fn require_program(program: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .chain(["/usr/sbin", "/sbin", "/usr/local/sbin"].map(PathBuf::from))
        .any(|directory| directory.join(program).is_file())
}

/// Whether all `programs` can be found, recording that `test` is skipped where one is missing.
pub fn programs_or_skip(test: &str, programs: &[&str]) -> bool {
    match programs.iter().find(|program| !require_program(program)) {
        None => true,
        Some(missing) => {
            skip(test, &format!("the program {missing} is not installed"));
            false
        }
    }
}

/// Runs a command to its end and returns what it printed; panics when it fails.
#[track_caller]
pub fn run(command: &mut Command) -> String {
    let output = command
        .output()
        .unwrap_or_else(|error| panic!("cannot start {command:?}: {error}"));
    assert!(
        output.status.success(),
        "{command:?} failed ({}):\n{}{}",
        output.status,
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr),
    );
    String::from_utf8_lossy(&output.stdout).into_owned()
}
