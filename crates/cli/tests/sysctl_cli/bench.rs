//! procps' sysctl beside the kernel's tracker, and ours beside Keepstate.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use keepstate_testkit::Namespace;

pub(crate) const KEEPSTATE: &str = env!("CARGO_BIN_EXE_keepstate");

/// A namespace with Keepstate, another with the kernel's tracker, and a directory of files that both
/// programs are run in.
pub(crate) struct Bench {
    pub(crate) ours: Namespace,
    pub(crate) peer: Namespace,
    pub(crate) kernel: Namespace,
    pub(crate) instance: String,
    pub(crate) directory: PathBuf,
}

/// What a command said, and how it ended.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Outcome {
    pub(crate) printed: String,
    pub(crate) complained: String,
    pub(crate) code: Option<i32>,
}

impl Outcome {
    fn of(command: &mut Command) -> Self {
        let Output {
            status,
            stdout,
            stderr,
        } = command.output().expect("the program can be started");
        Self {
            printed: String::from_utf8_lossy(&stdout).into_owned(),
            complained: String::from_utf8_lossy(&stderr).into_owned(),
            code: status.code(),
        }
    }
}

impl Bench {
    /// Nothing is up yet.
    pub(crate) fn new(label: &str) -> Self {
        let (ours, peer) = (Namespace::new(label), Namespace::new("peer"));
        peer.connect("outer", &ours, "inner");
        ours.address("inner", "10.9.0.1/24");
        peer.address("outer", "10.9.0.2/24");
        let instance = format!("test-{}-{label}", std::process::id());
        let directory = std::env::temp_dir().join(&instance);
        std::fs::create_dir_all(directory.join("sysctl.d")).expect("a directory can be made");
        std::os::unix::fs::symlink(KEEPSTATE, directory.join("sysctl"))
            .expect("a link can be made");
        Self {
            ours,
            peer,
            kernel: Namespace::new("kernel"),
            instance,
            directory,
        }
    }

    pub(crate) fn write(&self, name: &str, text: &str) {
        std::fs::write(self.directory.join(name), text).expect("a file can be written");
    }

    /// A command of keepstate's.
    pub(crate) fn keepstate(&self, arguments: &[&str]) -> Outcome {
        let mut command = self.command(Path::new(KEEPSTATE));
        let instance = ["--instance", &self.instance];
        Outcome::of(command.args(arguments).args(instance))
    }

    #[track_caller]
    pub(crate) fn succeeds(&self, arguments: &[&str]) -> Outcome {
        let outcome = self.keepstate(arguments);
        assert_eq!(outcome.code, Some(0), "{arguments:?}: {outcome:?}");
        outcome
    }

    /// sysctl by a link to ours.
    pub(crate) fn sysctl(&self, words: &[&str]) -> Outcome {
        Outcome::of(self.command(&self.directory.join("sysctl")).args(words))
    }

    /// A line of the shell, beside ours.
    pub(crate) fn script(&self, line: &str) -> Outcome {
        Outcome::of(self.command(Path::new("bash")).args(["-c", line]))
    }

    /// conntrack as ours lists flows.
    pub(crate) fn flows(&self, words: &[&str]) -> String {
        let mut command = self.command(Path::new(KEEPSTATE));
        Outcome::of(command.arg("conntrack").args(words)).printed
    }

    /// sysctl of procps, in a namespace with the kernel's tracker.
    pub(crate) fn theirs(&self, words: &[&str]) -> Outcome {
        let mut command = self.kernel.command("sysctl");
        Outcome::of(command.args(words).current_dir(&self.directory))
    }

    fn command(&self, program: &Path) -> Command {
        let mut command = self.ours.command(&program.display().to_string());
        command
            .env("KEEPSTATE_INSTANCE", &self.instance)
            .env("KEEPSTATE_CONFIG", &self.directory)
            .current_dir(&self.directory);
        command
    }
}

impl Drop for Bench {
    fn drop(&mut self) {
        self.keepstate(&["down"]);
        let _ = std::fs::remove_dir_all(&self.directory);
    }
}
