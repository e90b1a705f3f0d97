//! Which interfaces `keepstate up` filters on when none is named, while they come and go. Skipped
//! where there are no rights for it.

#[path = "support/program.rs"]
mod program;

use std::path::Path;
use std::process::Output;
use std::time::{Duration, Instant};

use keepstate_testkit::{Namespace, programs_or_skip, root_or_skip, skip, workspace_root};

/// A namespace with a daemon, and a neighbour.
struct Host {
    namespace: Namespace,
    peer: Namespace,
    instance: String,
}

impl Host {
    fn new(label: &str) -> Self {
        Self {
            namespace: Namespace::new(label),
            peer: Namespace::new("peer"),
            instance: format!("test-{}-{label}", std::process::id()),
        }
    }

    fn keepstate(&self, arguments: &[&str]) -> Output {
        program::keepstate(&self.namespace, &self.instance, arguments)
    }

    #[track_caller]
    fn succeeds(&self, arguments: &[&str]) -> String {
        program::succeeds(&self.namespace, &self.instance, arguments)
    }

    fn up(&self) {
        let rules = workspace_root().join("examples/base.sh");
        self.succeeds(&["up", "--rules", &rules.display().to_string()]);
    }

    /// Names of the interfaces that are attached.
    fn attached(&self) -> Vec<String> {
        let status = self.succeeds(&["status", "--json"]);
        let status: serde_json::Value = serde_json::from_str(&status).expect("status is JSON");
        let interfaces = status["interfaces"].as_array().expect("a list");
        let name = |interface: &serde_json::Value| interface["name"].as_str().map(str::to_owned);
        interfaces.iter().filter_map(name).collect()
    }

    #[track_caller]
    fn comes_to_be_attached(&self, names: &[&str]) {
        let deadline = Instant::now() + Duration::from_secs(20);
        while self.attached() != names {
            assert!(Instant::now() < deadline, "{:?}", self.attached());
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// Pins of attachments, those of interfaces that are gone included.
    fn pinned(&self) -> usize {
        let directory = Path::new("/sys/fs/bpf/keepstate").join(&self.instance);
        let entries = std::fs::read_dir(directory).into_iter().flatten().flatten();
        let names = entries.map(|entry| entry.file_name().to_string_lossy().into_owned());
        names.filter(|name| name.starts_with("link_")).count()
    }

    fn is_reached(&self, address: &str) -> bool {
        self.peer.succeeds("ping", &["-c", "1", "-W", "1", address])
    }

    /// A bridge; `false` where the kernel has none.
    fn add_bridge(&self, name: &str) -> bool {
        let made = ["link", "add", name, "type", "bridge"];
        if !self.namespace.succeeds("ip", &made) {
            return false;
        }
        self.namespace.up(name);
        true
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        self.keepstate(&["down"]);
    }
}

fn can_run(test: &str) -> bool {
    root_or_skip(test) && programs_or_skip(test, &["ip", "nsenter", "ping"])
}

/// As iptables sees it: packets are the bridge's, once.
#[test]
fn a_bridge_is_filtered_and_its_ports_are_not() {
    const NAME: &str = "a_bridge_is_filtered_and_its_ports_are_not";
    if !can_run(NAME) {
        return;
    }
    let host = Host::new("bridge");
    if !host.add_bridge("br0") {
        skip(NAME, "the kernel has no bridges");
        return;
    }
    host.peer.connect("outer", &host.namespace, "port");
    host.namespace
        .run("ip", &["link", "set", "port", "master", "br0"]);
    host.namespace.address("br0", "10.9.0.1/24");
    host.peer.address("outer", "10.9.0.2/24");
    host.up();
    assert_eq!(host.attached(), ["br0"]);
    assert!(!host.is_reached("10.9.0.1"), "the rules are not in force");
    let ping = ["-c", "3", "-i", "0.2", "-W", "2", "10.9.0.2"];
    host.namespace.run("ping", &ping);
    let status = host.succeeds(&["status"]);
    // The peer's request; three requests and three answers of ours: each counted once.
    assert!(status.contains("reason      policy_drop 1\n"), "{status}");
    assert!(status.contains("state       ESTABLISHED 5\n"), "{status}");
    let flows = host.succeeds(&["flows", "-p", "icmp"]);
    assert_eq!(flows.lines().count(), 1, "{flows}");
}

#[test]
fn interfaces_are_followed() {
    const NAME: &str = "interfaces_are_followed";
    if !can_run(NAME) {
        return;
    }
    let host = Host::new("follow");
    host.up();
    assert_eq!(host.attached(), Vec::<String>::new());
    host.peer.connect("outer", &host.namespace, "late");
    host.comes_to_be_attached(&["late"]);
    host.namespace.address("late", "10.9.0.1/24");
    host.peer.address("outer", "10.9.0.2/24");
    assert!(!host.is_reached("10.9.0.1"), "the rules are not in force");

    if host.add_bridge("br0") {
        let master = ["link", "set", "late", "master", "br0"];
        host.namespace.run("ip", &master);
        host.comes_to_be_attached(&["br0"]);
        host.namespace
            .run("ip", &["link", "set", "late", "nomaster"]);
        host.comes_to_be_attached(&["late", "br0"]);
        host.namespace.run("ip", &["link", "del", "br0"]);
        host.comes_to_be_attached(&["late"]);
    }
    host.namespace.run("ip", &["link", "del", "late"]);
    host.comes_to_be_attached(&[]);
    let deadline = Instant::now() + Duration::from_secs(10);
    while host.pinned() != 0 {
        assert!(Instant::now() < deadline, "attachments to nothing are left");
        std::thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn a_named_interface_is_found_again() {
    const NAME: &str = "a_named_interface_is_found_again";
    if !can_run(NAME) {
        return;
    }
    let host = Host::new("named");
    host.peer.connect("outer", &host.namespace, "inner");
    host.peer.connect("outer2", &host.namespace, "other");
    host.succeeds(&["up", "-i", "inner"]);
    assert_eq!(host.attached(), ["inner"]);
    host.namespace.run("ip", &["link", "del", "inner"]);
    host.comes_to_be_attached(&[]);
    host.peer.connect("outer", &host.namespace, "inner");
    host.comes_to_be_attached(&["inner"]);
}
