//! Names of daemons that run side by side, and where each has its files.

use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;

/// Where sockets, locks and logs are.
const RUN: &str = "/run/keepstate";

/// Where each instance pins its programs, maps and links.
const PINS: &str = "/sys/fs/bpf/keepstate";

/// Longest name: it is part of the path of a socket, which has 108 bytes.
const NAME_BYTES_MAX: usize = 48;

/// The name of a daemon. Letters, digits, `-` and `_` only: it becomes part of paths.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Instance(String);

/// Not a name.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is no name of an instance: 1 to {NAME_BYTES_MAX} letters, digits, `-` and `_`")]
pub struct InstanceError(String);

impl Instance {
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The directory that holds the files of all instances.
    pub fn run_directory() -> &'static Path {
        Path::new(RUN)
    }

    /// The directory that holds the pins of all instances.
    pub fn pins_directory() -> &'static Path {
        Path::new(PINS)
    }

    pub fn socket(&self) -> PathBuf {
        self.run_file("sock")
    }

    /// Held by the daemon for as long as it runs.
    pub fn lock(&self) -> PathBuf {
        self.run_file("lock")
    }

    pub fn log(&self) -> PathBuf {
        self.run_file("log")
    }

    /// What a later daemon must know that is not in the kernel: the text of the rules.
    pub fn state_directory(&self) -> PathBuf {
        Path::new(RUN).join(&self.0)
    }

    /// Pinned programs, maps and links.
    pub fn pins(&self) -> PathBuf {
        Path::new(PINS).join(&self.0)
    }

    /// What an earlier daemon pinned, of another layout, while its flows are handed over. No instance has such a name.
    pub fn pins_before(&self) -> PathBuf {
        Path::new(PINS).join(format!("{}+before", self.0))
    }

    /// The program of the daemon that ran last: it can read what it pinned.
    pub fn program(&self) -> PathBuf {
        self.state_directory().join("program")
    }

    /// Whether programs are pinned, which filter with a daemon or without. Who may not look is told of none.
    pub fn filters(&self) -> bool {
        std::fs::read_dir(self.pins()).is_ok_and(|mut pins| pins.next().is_some())
    }

    fn run_file(&self, extension: &str) -> PathBuf {
        Path::new(RUN).join(format!("{}.{extension}", self.0))
    }
}

impl Default for Instance {
    fn default() -> Self {
        Self("default".to_owned())
    }
}

impl FromStr for Instance {
    type Err = InstanceError;

    fn from_str(name: &str) -> Result<Self, InstanceError> {
        let is_legal = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_';
        let length_fits = (1..=NAME_BYTES_MAX).contains(&name.len());
        if !length_fits || !name.bytes().all(is_legal) {
            return Err(InstanceError(name.to_owned()));
        }
        Ok(Self(name.to_owned()))
    }
}

impl fmt::Display for Instance {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_cannot_leave_their_directory() {
        for name in ["", ".", "..", "a/b", "a b", "a\0", "ä", &"x".repeat(49)] {
            assert!(name.parse::<Instance>().is_err(), "{name:?}");
        }
        let instance: Instance = "gate-1_b".parse().unwrap();
        assert_eq!(instance.socket(), Path::new("/run/keepstate/gate-1_b.sock"));
    }
}
