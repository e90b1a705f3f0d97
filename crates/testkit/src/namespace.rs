//! Network namespaces of a test's own.

use std::io::Read;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use crate::run;

/// A network namespace that is removed, with every process in it, when this value goes.
///
/// Names carry the process id of the test, so that what a killed test left behind is known and
/// removed by the next one.
#[derive(Debug)]
pub struct Namespace {
    name: String,
}

impl Namespace {
    /// Makes an empty namespace with its loopback up.
    #[track_caller]
    pub fn new(label: &str) -> Self {
        static SERIAL: AtomicU32 = AtomicU32::new(0);
        remove_stale();
        let serial = SERIAL.fetch_add(1, Ordering::Relaxed);
        let name = format!("{PREFIX}{}-{serial}-{label}", std::process::id());
        run(Command::new("ip").args(["netns", "add", &name]));
        let namespace = Self { name };
        namespace.up("lo");
        namespace
    }

    pub fn name(&self) -> &str {
        &self.name
    }

    /// Joins this namespace and `other` by a pair of virtual Ethernet devices, both up.
    #[track_caller]
    pub fn connect(&self, device: &str, other: &Self, other_device: &str) {
        run(Command::new("ip")
            .args(["link", "add", device, "netns", &self.name])
            .args([
                "type",
                "veth",
                "peer",
                "name",
                other_device,
                "netns",
                &other.name,
            ]));
        self.up(device);
        other.up(other_device);
    }

    /// Gives a device an address (`10.0.0.1/24`, `fd00::1/64`), usable at once.
    #[track_caller]
    pub fn address(&self, device: &str, address: &str) {
        let mut command = self.command("ip");
        command.args(["address", "add", address, "dev", device]);
        if address.contains(':') {
            // Duplicate address detection would keep it tentative for a second.
            command.arg("nodad");
        }
        run(&mut command);
    }

    /// Adds a route, in the words of `ip route add`.
    #[track_caller]
    pub fn route(&self, words: &[&str]) {
        let family = if words.iter().any(|word| word.contains(':')) {
            "-6"
        } else {
            "-4"
        };
        run(self
            .command("ip")
            .args([family, "route", "add"])
            .args(words));
    }

    #[track_caller]
    pub fn up(&self, device: &str) {
        run(self.command("ip").args(["link", "set", device, "up"]));
    }

    /// Sets a knob below `/proc/sys`, named with dots.
    #[track_caller]
    pub fn sysctl(&self, name: &str, value: &str) {
        let path = format!("/proc/sys/{}", name.replace('.', "/"));
        run(self
            .command("sh")
            .args(["-c", r#"printf %s "$1" > "$2""#, "sh", value, &path]));
    }

    /// A command that will run inside.
    ///
    /// `nsenter` and not `ip netns exec`: the latter mounts a fresh `/sys`, which hides bpffs.
    pub fn command(&self, program: &str) -> Command {
        let mut command = Command::new("nsenter");
        command
            .arg(format!("--net=/run/netns/{}", self.name))
            .arg("--")
            .arg(program);
        command
    }

    /// Runs a program inside to its end and returns what it printed; panics when it fails.
    #[track_caller]
    pub fn run(&self, program: &str, arguments: &[&str]) -> String {
        run(self.command(program).args(arguments))
    }

    /// Whether a program inside ends well. What it prints is thrown away.
    #[track_caller]
    pub fn succeeds(&self, program: &str, arguments: &[&str]) -> bool {
        let mut command = self.command(program);
        command
            .args(arguments)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        let status = command.status();
        status
            .unwrap_or_else(|error| panic!("cannot start {command:?}: {error}"))
            .success()
    }

    /// Starts a program inside that is killed when the returned value goes.
    #[track_caller]
    pub fn spawn(&self, program: &str, arguments: &[&str]) -> Running {
        let mut command = self.command(program);
        command
            .args(arguments)
            .stdin(Stdio::null())
            .stdout(Stdio::piped());
        let child = command.stderr(Stdio::piped()).spawn();
        Running {
            child: child.unwrap_or_else(|error| panic!("cannot start {command:?}: {error}")),
        }
    }

    /// Waits until something inside listens on a TCP port; panics after ten seconds.
    #[track_caller]
    pub fn wait_for_listener(&self, port: u16) {
        let deadline = Instant::now() + Duration::from_secs(10);
        let filter = format!("sport = :{port}");
        while self.run("ss", &["-Hltn", &filter]).trim().is_empty() {
            assert!(Instant::now() < deadline, "nothing listens on port {port}");
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        remove(&self.name);
    }
}

/// A program that runs beside the test. Dropping it kills it.
#[derive(Debug)]
pub struct Running {
    child: Child,
}

impl Running {
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Kills it and returns what it printed to its standard output and error.
    pub fn stop(mut self) -> String {
        // Errors here mean that it has ended already.
        let _ = self.child.kill();
        self.printed()
    }

    /// Waits until it has ended by itself, and returns what it printed.
    pub fn finish(mut self) -> String {
        self.printed()
    }

    fn printed(&mut self) -> String {
        let mut printed = String::new();
        if let Some(mut stream) = self.child.stdout.take() {
            let _ = stream.read_to_string(&mut printed);
        }
        if let Some(mut stream) = self.child.stderr.take() {
            let _ = stream.read_to_string(&mut printed);
        }
        printed
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

const PREFIX: &str = "kst-";

/// Removes a namespace and the processes in it. Called while unwinding: must not panic.
fn remove(name: &str) {
    let list = |_: &str| Command::new("ip").args(["netns", "pids", name]).output();
    if let Ok(output) = list(name) {
        for process in String::from_utf8_lossy(&output.stdout).split_whitespace() {
            let _ = Command::new("kill").args(["-9", process]).status();
        }
    }
    let _ = Command::new("ip")
        .args(["netns", "delete", name])
        .stderr(Stdio::null())
        .status();
}

/// Removes the namespaces of tests whose process is gone.
fn remove_stale() {
    let Ok(entries) = std::fs::read_dir("/run/netns") else {
        return;
    };
    for name in entries
        .flatten()
        .filter_map(|entry| entry.file_name().into_string().ok())
    {
        let owner = name
            .strip_prefix(PREFIX)
            .and_then(|rest| rest.split('-').next());
        let Some(process) = owner.and_then(|text| text.parse::<u32>().ok()) else {
            continue;
        };
        if !Path::new(&format!("/proc/{process}")).exists() {
            remove(&name);
        }
    }
}
