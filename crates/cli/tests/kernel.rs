//! The firewall in the kernel, in network namespaces of the tests' own: what is put up, taken over
//! and taken down. Skipped where there are no rights for it.

#[path = "support/program.rs"]
mod program;

use std::cell::OnceCell;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use keepstate_testkit::{Namespace, programs_or_skip, root_or_skip, workspace_root};

/// A namespace with a device, and a daemon that goes with it.
struct Bench {
    namespace: Namespace,
    peer: Namespace,
    instance: String,
    /// Number of the map that all programs use, once it was asked for.
    plane_map: OnceCell<String>,
}

impl Bench {
    fn new(label: &str) -> Self {
        let namespace = Namespace::new(label);
        let peer = Namespace::new("peer");
        peer.connect("outer", &namespace, "inner");
        namespace.address("inner", "10.9.0.1/24");
        peer.address("outer", "10.9.0.2/24");
        let instance = format!("test-{}-{label}", std::process::id());
        Self {
            namespace,
            peer,
            instance,
            plane_map: OnceCell::new(),
        }
    }

    /// To be called while it is up, so that its programs are known when it is down.
    fn remember_programs(&self) {
        let pin = format!("/sys/fs/bpf/keepstate/{}/PLANE", self.instance);
        let shown = self
            .namespace
            .run("bpftool", &["map", "show", "pinned", &pin]);
        let id = shown
            .split(':')
            .next()
            .expect("bpftool begins with the number");
        self.plane_map.get_or_init(|| id.trim().to_owned());
    }

    fn keepstate(&self, arguments: &[&str]) -> Output {
        program::keepstate(&self.namespace, &self.instance, arguments)
    }

    #[track_caller]
    fn succeeds(&self, arguments: &[&str]) -> String {
        program::succeeds(&self.namespace, &self.instance, arguments)
    }

    fn daemon(&self) -> u32 {
        let text = self.succeeds(&["status", "--json"]);
        let status: serde_json::Value = serde_json::from_str(&text).expect("status is JSON");
        status["pid"].as_u64().expect("status has a process") as u32
    }

    fn kill_daemon(&self) {
        let process = self.daemon();
        let killed = Command::new("kill")
            .args(["-9", &process.to_string()])
            .status();
        assert!(killed.expect("kill can be started").success());
        let gone = || !Path::new(&format!("/proc/{process}/exe")).exists();
        assert!(wait_until(gone), "the daemon does not die");
    }

    fn pins(&self) -> PathBuf {
        Path::new("/sys/fs/bpf/keepstate").join(&self.instance)
    }

    /// Makes the programs that are up look like those of another build.
    fn disguise_programs(&self) {
        let pin = self.pins().join("PLANE").display().to_string();
        let element = ["pinned", &pin, "key", "0", "0", "0", "0"];
        let shown = self.namespace.run(
            "bpftool",
            &[&["-j", "map", "lookup"], &element[..]].concat(),
        );
        let shown: serde_json::Value = serde_json::from_str(&shown).expect("bpftool prints JSON");
        let mut bytes: Vec<&str> = shown["value"]
            .as_array()
            .expect("the value is a list of bytes")
            .iter()
            .filter_map(|byte| byte.as_str())
            .collect();
        // After two words of 32 bits comes the number of the build.
        bytes[8] = if bytes[8] == "0x00" { "0x01" } else { "0x00" };
        let mut update = [&["map", "update"], &element[..], &["value"]].concat();
        update.append(&mut bytes);
        self.namespace.run("bpftool", &update);
        for name in self.stage_pins() {
            let pin = self.pins().join(&name);
            std::fs::rename(&pin, self.pins().join(format!("{name}0"))).expect("pins have names");
        }
    }

    /// Numbers of the programs that hang on the device: those of links, which are pinned, and those
    /// of filters.
    fn attached(&self) -> Vec<u64> {
        let ask = |arguments: &[&str]| -> serde_json::Value {
            let shown = self.namespace.run("bpftool", arguments);
            serde_json::from_str(&shown).expect("bpftool prints JSON")
        };
        let pins = std::fs::read_dir(self.pins()).expect("it is up").flatten();
        let paths = pins.map(|pin| pin.path().display().to_string());
        let links = paths.filter(|path| path.contains("/link_"));
        let mut ids: Vec<u64> = links
            .map(|link| ask(&["-j", "link", "show", "pinned", &link]))
            .filter_map(|link| link["prog_id"].as_u64())
            .collect();
        let net = ask(&["-j", "net", "show", "dev", "inner"]);
        let filters = net[0]["tc"].as_array().into_iter().flatten();
        // A later bpftool shows links here too.
        let filters = filters.filter(|filter| filter["kind"].as_str().is_some_and(is_clsact));
        ids.extend(filters.filter_map(|filter| filter["id"].as_u64()));
        ids
    }

    fn stage_pins(&self) -> Vec<String> {
        let pins = std::fs::read_dir(self.pins()).expect("it is up").flatten();
        let names = pins.map(|pin| pin.file_name().to_string_lossy().into_owned());
        names.filter(|name| name.starts_with("STAGES_")).collect()
    }

    /// Files, pins, programs and queueing disciplines that carry this bench's name or hang on its
    /// device.
    fn leftovers(&self) -> Vec<String> {
        let mut found = Vec::new();
        for directory in ["/run/keepstate", "/sys/fs/bpf/keepstate"] {
            let entries = std::fs::read_dir(directory).into_iter().flatten().flatten();
            let names = entries.map(|entry| entry.path());
            let own = names.filter(|path| path.to_string_lossy().contains(&self.instance));
            found.extend(own.map(|path: PathBuf| path.display().to_string()));
        }
        let link = self
            .namespace
            .run("ip", &["-details", "link", "show", "inner"]);
        if link.contains("xdp") {
            found.push(link);
        }
        let disciplines = self.namespace.run("tc", &["qdisc", "show", "dev", "inner"]);
        if disciplines.contains("clsact") {
            found.push(disciplines);
        }
        let attached = self
            .namespace
            .run("bpftool", &["net", "show", "dev", "inner"]);
        if attached.contains("egress") || attached.contains("ingress") {
            found.push(attached);
        }
        found
    }
}

impl Drop for Bench {
    fn drop(&mut self) {
        self.keepstate(&["down"]);
    }
}

fn is_clsact(kind: &str) -> bool {
    kind.starts_with("clsact")
}

fn wait_until(condition: impl Fn() -> bool) -> bool {
    let deadline = Instant::now() + Duration::from_secs(10);
    while Instant::now() < deadline {
        if condition() {
            return true;
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    false
}

fn interrupt(child: &Child) -> bool {
    let process = child.id().to_string();
    let status = Command::new("kill").args(["-INT", &process]).status();
    status.is_ok_and(|status| status.success())
}

/// Of `N packets transmitted, M received`, the last words of ping.
fn sent_and_received(said: &str) -> Option<(u64, u64)> {
    let line = said.lines().find(|line| line.contains(" transmitted"))?;
    let mut numbers = line.split(' ').filter_map(|word| word.parse().ok());
    Some((numbers.next()?, numbers.next()?))
}

fn can_run(test: &str) -> bool {
    root_or_skip(test)
        && programs_or_skip(test, &["ip", "tc", "bpftool", "nsenter", "kill", "ping"])
}

fn base_rules() -> String {
    workspace_root()
        .join("examples/base.sh")
        .display()
        .to_string()
}

#[test]
fn down_leaves_nothing() {
    if !can_run("down_leaves_nothing") {
        return;
    }
    let bench = Bench::new("down");
    let said = bench.succeeds(&["up", "--rules", &base_rules()]);
    println!("{said}");
    assert!(said.contains("inner: in by xdp"), "{said}");
    bench.remember_programs();
    assert!(bench.leftovers().len() > 5, "{:?}", bench.leftovers());
    let again = bench.keepstate(&["up"]);
    assert!(!again.status.success(), "two daemons for one instance");
    bench.succeeds(&["down"]);
    assert_eq!(bench.leftovers(), Vec::<String>::new());
    assert!(bench.succeeds(&["down"]).contains("Nothing was up"));
}

#[test]
fn a_start_that_fails_leaves_nothing() {
    if !can_run("a_start_that_fails_leaves_nothing") {
        return;
    }
    let bench = Bench::new("fails");
    let missing = bench.keepstate(&["up", "-i", "nonsense"]);
    let said = String::from_utf8_lossy(&missing.stderr);
    assert!(said.contains("there is no interface nonsense"), "{said}");
    assert_eq!(bench.leftovers(), Vec::<String>::new());
}

#[test]
fn a_killed_daemon_is_replaced_and_can_be_taken_down() {
    if !can_run("a_killed_daemon_is_replaced_and_can_be_taken_down") {
        return;
    }
    let bench = Bench::new("killed");
    bench.succeeds(&["up", "--rules", &base_rules()]);
    bench
        .namespace
        .run("ping", &["-c", "1", "-W", "2", "10.9.0.2"]);
    let before = bench.succeeds(&["flows", "-p", "icmp"]);
    assert!(before.contains("src=10.9.0.1 dst=10.9.0.2"), "{before}");
    bench.kill_daemon();
    // Nobody is there, and yet the rules are in force.
    assert!(
        !bench
            .peer
            .succeeds("ping", &["-c", "1", "-W", "1", "10.9.0.1"])
    );
    assert!(
        bench
            .namespace
            .succeeds("ping", &["-c", "1", "-W", "2", "10.9.0.2"])
    );

    let said = bench.succeeds(&["up"]);
    assert!(said.contains("took over"), "{said}");
    let status = bench.succeeds(&["status"]);
    assert!(
        status.contains("4 rules for IPv4") && status.contains("adopted"),
        "{status}"
    );
    assert!(status.contains("reason      policy_drop"), "{status}");
    let after = bench.succeeds(&["flows", "-p", "icmp"]);
    assert!(after.contains("src=10.9.0.1 dst=10.9.0.2"), "{after}");

    bench.kill_daemon();
    bench.succeeds(&["down"]);
    assert_eq!(bench.leftovers(), Vec::<String>::new());
}

#[test]
fn programs_of_another_build_are_replaced_without_a_loss() {
    if !can_run("programs_of_another_build_are_replaced_without_a_loss") {
        return;
    }
    let bench = Bench::new("replaced");
    bench.succeeds(&["up", "--rules", &base_rules()]);
    let ping = bench
        .namespace
        .command("ping")
        .args(["-q", "-i", "0.005", "10.9.0.2"])
        .stdout(Stdio::piped())
        .spawn()
        .expect("ping can be started");
    let before = bench.attached();
    assert_eq!(before.len(), 2, "{before:?}");
    bench.kill_daemon();
    bench.disguise_programs();
    let stages_before = bench.stage_pins();
    let said = bench.succeeds(&["up"]);
    assert!(said.contains("took over"), "{said}");
    let after = bench.attached();
    assert_eq!(after.len(), 2, "{after:?}");
    assert!(after.iter().all(|id| !before.contains(id)), "{after:?}");
    let stages = bench.stage_pins();
    assert_eq!(stages.len(), 2, "{stages:?}");
    assert!(stages.iter().all(|name| !stages_before.contains(name)));
    assert!(interrupt(&ping), "ping does not run any more");
    let output = ping.wait_with_output().expect("ping ends");
    let said = String::from_utf8_lossy(&output.stdout);
    let (sent, received) = sent_and_received(&said).expect("ping sums up");
    // The last one may be under way.
    assert!(sent > 10 && received + 1 >= sent, "{said}");
    let flows = bench.succeeds(&["flows", "-p", "icmp"]);
    assert_eq!(flows.lines().count(), 1, "{flows}");
    assert!(
        !bench
            .peer
            .succeeds("ping", &["-c", "1", "-W", "1", "10.9.0.1"])
    );
    bench.succeeds(&["down"]);
    assert_eq!(bench.leftovers(), Vec::<String>::new());
}

#[test]
fn a_device_without_ethernet_is_filtered_both_ways() {
    const NAME: &str = "a_device_without_ethernet_is_filtered_both_ways";
    if !can_run(NAME) {
        return;
    }
    let bench = Bench::new("bare");
    for (namespace, local, remote, address) in [
        (&bench.namespace, "10.9.0.1", "10.9.0.2", "10.8.0.1/24"),
        (&bench.peer, "10.9.0.2", "10.9.0.1", "10.8.0.2/24"),
    ] {
        let ends = ["local", local, "remote", remote];
        let link = ["link", "add", "tunnel", "type", "ipip"];
        if !namespace.succeeds("ip", &[&link[..], &ends].concat()) {
            keepstate_testkit::skip(NAME, "the kernel has no IPIP tunnels");
            return;
        }
        namespace.address("tunnel", address);
        namespace.up("tunnel");
    }
    let said = bench.succeeds(&["up", "-i", "tunnel", "--rules", &base_rules()]);
    println!("{said}");
    assert!(said.contains("tunnel: in by "), "{said}");
    assert!(!said.contains("by none"), "{said}");
    let from_outside = || {
        bench
            .peer
            .succeeds("ping", &["-c", "1", "-W", "1", "10.8.0.1"])
    };
    assert!(!from_outside());
    bench
        .namespace
        .run("ping", &["-c", "2", "-W", "2", "10.8.0.2"]);
    let flows = bench.succeeds(&["flows", "-p", "icmp"]);
    assert!(flows.contains("src=10.8.0.1 dst=10.8.0.2"), "{flows}");
    bench.kill_daemon();
    bench.disguise_programs();
    bench.succeeds(&["up", "-i", "tunnel"]);
    assert!(!from_outside());
    bench
        .namespace
        .run("ping", &["-c", "2", "-W", "2", "10.8.0.2"]);
    bench.succeeds(&["down"]);
    assert!(from_outside());
    let disciplines = bench.namespace.run("tc", &["qdisc", "show"]);
    assert!(!disciplines.contains("clsact"), "{disciplines}");
    assert_eq!(bench.leftovers(), Vec::<String>::new());
}

#[test]
fn rules_change_at_once_or_not_at_all() {
    if !can_run("rules_change_at_once_or_not_at_all") {
        return;
    }
    let bench = Bench::new("rules");
    bench.succeeds(&["up"]);
    let pings = || {
        bench
            .peer
            .succeeds("ping", &["-c", "1", "-W", "1", "10.9.0.1"])
    };
    assert!(pings(), "without rules everything passes");
    let broken = std::env::temp_dir().join(format!("{}.rules", bench.instance));
    std::fs::write(
        &broken,
        "iptables -P INPUT DROP\niptables -A INPUT --dprot 22\n",
    )
    .unwrap();
    let refused = bench.keepstate(&["apply", &broken.display().to_string()]);
    std::fs::remove_file(&broken).unwrap();
    assert_eq!(refused.status.code(), Some(1));
    let said = String::from_utf8_lossy(&refused.stderr);
    assert!(said.contains(":2:19"), "{said}");
    assert!(pings(), "half a file of rules is in force");
    bench.succeeds(&["apply", &base_rules()]);
    assert!(!pings(), "the rules are not in force");
}

#[test]
fn no_packet_is_lost_while_daemon_and_rules_change() {
    if !can_run("no_packet_is_lost_while_daemon_and_rules_change") {
        return;
    }
    let bench = Bench::new("load");
    bench.succeeds(&["up", "--rules", &base_rules()]);
    let mut ping = bench.namespace.command("ping");
    ping.args(["-q", "-i", "0.002", "-c", "2000", "-W", "2", "10.9.0.2"]);
    let ping = ping
        .stdout(Stdio::piped())
        .spawn()
        .expect("ping can be started");
    std::thread::sleep(Duration::from_millis(300));
    bench.kill_daemon();
    bench.succeeds(&["up"]);
    let gateway = workspace_root().join("examples/gateway.sh");
    let gateway = gateway.display().to_string();
    for _ in 0..5 {
        bench.succeeds(&["apply", &gateway]);
        bench.succeeds(&["apply", &base_rules()]);
    }
    let output = ping.wait_with_output().expect("ping ends");
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(said.contains("2000 received"), "{said}");
    let flows = bench.succeeds(&["flows", "-p", "icmp"]);
    assert_eq!(flows.lines().count(), 1, "{flows}");
}

#[test]
fn the_demo_shows_what_it_says_and_leaves_nothing() {
    if !can_run("the_demo_shows_what_it_says_and_leaves_nothing") {
        return;
    }
    let output = Command::new(program::KEEPSTATE)
        .args(["demo", "--fast"])
        .output();
    let output = output.expect("the program can be started");
    let said = String::from_utf8_lossy(&output.stdout);
    let wrong = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}{wrong}");
    assert!(said.contains("Keepstate in the kernel"), "{said}{wrong}");
    assert!(said.contains("policy_drop"), "{said}");
}

#[test]
fn a_demo_that_is_interrupted_leaves_nothing() {
    if !can_run("a_demo_that_is_interrupted_leaves_nothing") {
        return;
    }
    let mut command = Command::new(program::KEEPSTATE);
    let command = command
        .arg("demo")
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    let mut child = command.spawn().expect("the program can be started");
    let id = child.id().to_string();
    let stage = || {
        let children = std::fs::read_to_string(format!("/proc/{id}/task/{id}/children"));
        children.unwrap_or_default().trim().to_owned()
    };
    assert!(
        wait_until(|| !stage().is_empty()),
        "the demo does not begin"
    );
    // Somewhere in its middle.
    std::thread::sleep(Duration::from_secs(3));
    let stage = stage();
    let daemons = std::fs::read_to_string(format!("/proc/{stage}/task/{stage}/children"));
    assert!(
        Command::new("kill")
            .args(["-INT", &id])
            .status()
            .unwrap()
            .success()
    );
    let status = child.wait().unwrap();
    assert_eq!(status.code(), Some(130));
    let processes = daemons.unwrap_or_default();
    let mut processes = processes.split_whitespace().chain([stage.as_str()]);
    let gone = |process: &str| !Path::new(&format!("/proc/{process}/exe")).exists();
    assert!(
        processes.all(|process| wait_until(|| gone(process))),
        "processes are left"
    );
}

#[test]
fn without_rights_the_demo_says_so_and_plays_in_user_space() {
    use std::os::unix::process::CommandExt;
    let mut command = Command::new(program::KEEPSTATE);
    command.args(["demo", "--fast"]);
    if keepstate_testkit::is_root() {
        const NOBODY: u32 = 65_534;
        command.uid(NOBODY).gid(NOBODY);
    }
    let Ok(output) = command.output() else {
        keepstate_testkit::skip("without_rights", "the program cannot be run as nobody");
        return;
    };
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{said}");
    assert!(
        said.contains("Not in the kernel: this is not root."),
        "{said}"
    );
    assert!(said.contains("Everything was as it should be."), "{said}");
}
