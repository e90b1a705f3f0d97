//! Skipping a test so that somebody notices.

use std::fs::OpenOptions;
use std::io::Write;

/// Environment variable that names the file to which skipped tests are appended, a line each.
pub const SKIP_LOG: &str = "KEEPSTATE_SKIP_LOG";

/// Records that the test `name` did not run and why. The caller returns right after.
pub fn skip(name: &str, why: &str) {
    let line = format!("SKIPPED {name}: {why}\n");
    eprint!("{line}");
    let Some(path) = std::env::var_os(SKIP_LOG) else {
        return;
    };
    // One write call in append mode: tests of several processes do not mix their lines.
    let written = OpenOptions::new()
        .create(true)
        .append(true)
        .open(&path)
        .and_then(|mut log| log.write_all(line.as_bytes()));
    if let Err(error) = written {
        panic!("cannot record in {}: {error}", path.to_string_lossy());
    }
}
