//! A firewall between two namespaces, with its programs by their names.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use keepstate_testkit::{Namespace, programs_or_skip, root_or_skip};

pub(crate) const KEEPSTATE: &str = env!("CARGO_BIN_EXE_keepstate");

const NAMES: [&str; 6] = [
    "iptables",
    "ip6tables",
    "iptables-save",
    "ip6tables-save",
    "iptables-restore",
    "ip6tables-restore",
];

/// A daemon in a namespace, a peer that sees it from outside, and the kernel's tables in another.
pub(crate) struct Bench {
    pub(crate) kernel: Namespace,
    pub(crate) ours: Namespace,
    pub(crate) peer: Namespace,
    pub(crate) instance: String,
    pub(crate) directory: PathBuf,
}

/// What a program did.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Outcome {
    pub(crate) code: i32,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl Outcome {
    pub(crate) fn of(output: &Output) -> Self {
        let text =
            |bytes: &[u8]| String::from_utf8_lossy(bytes).replace("(nf_tables)", "(keepstate)");
        Self {
            code: output.status.code().unwrap_or(-1),
            stdout: text(&output.stdout),
            // Some messages end in an empty line, others do not.
            stderr: text(&output.stderr).replace("\n\n", "\n"),
        }
    }
}

impl Bench {
    /// `None` where there are no rights for it.
    pub(crate) fn new(test: &str, label: &str) -> Option<Self> {
        let programs = ["ip", "iptables", "ip6tables", "nsenter", "ping", "kill"];
        if !root_or_skip(test) || !programs_or_skip(test, &programs) {
            return None;
        }
        let instance = format!("test-{}-{label}", std::process::id());
        let directory = std::env::temp_dir().join(&instance);
        std::fs::create_dir_all(directory.join("etc")).expect("a directory can be made");
        for name in NAMES {
            let link = directory.join(name);
            let _ = std::fs::remove_file(&link);
            std::os::unix::fs::symlink(KEEPSTATE, &link).expect("a link can be made");
        }
        let [kernel, ours, peer] = ["kernel", label, "peer"].map(Namespace::new);
        peer.connect("outer", &ours, "inner");
        ours.address("inner", "10.9.0.1/24");
        peer.address("outer", "10.9.0.2/24");
        // Makes the tables, which ours always has.
        kernel.run("iptables", &["-L"]);
        kernel.run("ip6tables", &["-L"]);
        Some(Self {
            kernel,
            ours,
            peer,
            instance,
            directory,
        })
    }

    /// With a daemon that runs.
    pub(crate) fn up(test: &str, label: &str) -> Option<Self> {
        let bench = Self::new(test, label)?;
        bench.succeeds(&["up"]);
        Some(bench)
    }

    pub(crate) fn command(&self, program: &Path) -> Command {
        let mut command = self.ours.command(&program.display().to_string());
        command
            .env("KEEPSTATE_INSTANCE", &self.instance)
            .env("KEEPSTATE_CONFIG", self.directory.join("etc"))
            .env_remove("SSH_CONNECTION");
        command
    }

    /// A subcommand of keepstate.
    pub(crate) fn keepstate(&self, arguments: &[&str]) -> Output {
        let mut command = self.command(Path::new(KEEPSTATE));
        command.args(arguments).args(["--instance", &self.instance]);
        command.output().expect("the program can be started")
    }

    /// As [`Self::keepstate`], of the instance that the environment names.
    pub(crate) fn keepstate_plain(&self, arguments: &[&str]) -> Outcome {
        run(self.command(Path::new(KEEPSTATE)).args(arguments), "")
    }

    #[track_caller]
    pub(crate) fn succeeds(&self, arguments: &[&str]) -> String {
        let output = self.keepstate(arguments);
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        let wrong = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{arguments:?}: {said}{wrong}");
        said
    }

    /// Ours, by a link of its name.
    pub(crate) fn ours(&self, words: &[&str], input: &str) -> Outcome {
        let (program, arguments) = words.split_first().expect("a command has a name");
        let mut command = self.command(&self.directory.join(program));
        run(command.args(arguments), input)
    }

    /// The kernel's.
    pub(crate) fn theirs(&self, words: &[&str], input: &str) -> Outcome {
        let (program, arguments) = words.split_first().expect("a command has a name");
        run(self.kernel.command(program).args(arguments), input)
    }

    /// Whether the peer gets an answer from the firewall.
    pub(crate) fn answers(&self) -> bool {
        self.peer
            .succeeds("ping", &["-c", "1", "-W", "1", "10.9.0.1"])
    }

    pub(crate) fn file(&self, name: &str, text: &str) -> String {
        let path = self.directory.join(name);
        std::fs::write(&path, text).expect("a file can be written");
        path.display().to_string()
    }

    pub(crate) fn kill_daemon(&self) {
        let text = self.succeeds(&["status", "--json"]);
        let status: serde_json::Value = serde_json::from_str(&text).expect("status is JSON");
        let process = status["pid"].to_string();
        let killed = Command::new("kill").args(["-9", &process]).status();
        assert!(killed.expect("kill can be started").success());
        let gone = || !Path::new(&format!("/proc/{process}/exe")).exists();
        assert!(wait_until(Duration::from_secs(10), gone), "it does not die");
    }
}

impl Drop for Bench {
    fn drop(&mut self) {
        self.keepstate(&["down"]);
        let _ = std::fs::remove_dir_all(&self.directory);
    }
}

pub(crate) fn wait_until(patience: Duration, condition: impl Fn() -> bool) -> bool {
    let deadline = Instant::now() + patience;
    while Instant::now() < deadline {
        if condition() {
            return true;
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    false
}

fn run(command: &mut Command, input: &str) -> Outcome {
    command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let mut child = command.spawn().expect("the program can be started");
    // One that does not read its input is no failure of the test.
    let _ = child
        .stdin
        .take()
        .expect("its input is a pipe")
        .write_all(input.as_bytes());
    Outcome::of(&child.wait_with_output().expect("the program ends"))
}
