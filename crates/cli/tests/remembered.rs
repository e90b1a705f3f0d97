//! Outcomes that records remember while interfaces come and go. Skipped where there are no rights
//! for it.

#[path = "support/program.rs"]
mod program;

use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use keepstate_daemon::kernel::Kernel;
use keepstate_daemon::mapped::Raw;
use keepstate_engine::limits::{RULES_MAX, SLOT_WORDS_V4};
use keepstate_engine::policy::{PolicyHeader, SettledInterfaces};
use keepstate_engine::record::{CONTROL_WORD, CachedOutcomes, Control, KEY_WORD, SlotState};
use keepstate_engine::tuple::Direction;
use keepstate_testkit::{Namespace, programs_or_skip, root_or_skip, workspace_root};

/// Bit of the pattern `lo`, which is the first that the rules name, and of `late`.
const LO: u64 = 0b01;
const LATE: u64 = 0b10;

/// A namespace with a daemon, and a neighbour that answers.
struct Host {
    namespace: Namespace,
    peer: Namespace,
    instance: String,
}

impl Host {
    fn new(label: &str) -> Self {
        let namespace = Namespace::new(label);
        let peer = Namespace::new("peer");
        peer.connect("outer", &namespace, "inner");
        namespace.address("inner", "10.9.0.1/24");
        peer.address("outer", "10.9.0.2/24");
        Self {
            namespace,
            peer,
            instance: format!("test-{}-{label}", std::process::id()),
        }
    }

    #[track_caller]
    fn succeeds(&self, arguments: &[&str]) -> String {
        program::succeeds(&self.namespace, &self.instance, arguments)
    }

    fn up(&self, rules: &Path) {
        self.succeeds(&["up", "--rules", &rules.display().to_string()]);
    }

    fn kernel(&self) -> Kernel {
        let pins = Path::new("/sys/fs/bpf/keepstate").join(&self.instance);
        Kernel::adopt(&pins).expect("it is up")
    }

    fn policy(&self) -> PolicyHeader {
        let maps = self.kernel().maps;
        let Raw(header) = maps.policies.get(&maps.plane().active, 0).expect("a slot");
        header
    }

    /// How many records of IPv4 remember, under the policy in force, what answers to this host
    /// meet.
    fn remembered(&self) -> usize {
        let epoch = self.policy().epoch;
        let maps = self.kernel().maps;
        let records = maps.table.slots[0].words().chunks(SLOT_WORDS_V4 as usize);
        let load = |record: &[std::sync::atomic::AtomicU64], word: u32| {
            record[word as usize].load(std::sync::atomic::Ordering::SeqCst)
        };
        let remembers = |record: &&[_]| {
            let is_live = Control(load(record, CONTROL_WORD)).slot_state() == SlotState::Live;
            let cached = CachedOutcomes(load(record, KEY_WORD) as u8);
            is_live && cached.outcome(epoch, Direction::Reply) != 0
        };
        records.filter(remembers).count()
    }

    /// Packets that a rule has matched, by its index: INPUT of IPv4 comes first.
    fn matched(&self, rule: u32) -> u64 {
        let maps = self.kernel().maps;
        let index = maps.plane().active * RULES_MAX + rule;
        let values = maps.rule_counters.get(&index, 0).expect("there are rules");
        values.iter().map(|Raw(counter)| counter.packets).sum()
    }

    #[track_caller]
    fn ping(&self, count: &str) {
        let arguments = ["-q", "-c", count, "-i", "0.05", "-W", "2", "10.9.0.2"];
        self.namespace.run("ping", &arguments);
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        let mut down = self.namespace.command(program::KEEPSTATE);
        let _ = down.args(["down", "--instance", &self.instance]).output();
    }
}

/// A child that ends with this value.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[track_caller]
fn wait_until(what: &str, condition: impl Fn() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(20);
    while !condition() {
        assert!(Instant::now() < deadline, "{what}");
        std::thread::sleep(Duration::from_millis(50));
    }
}

fn can_run(test: &str) -> bool {
    root_or_skip(test) && programs_or_skip(test, &["ip", "nsenter", "ping"])
}

#[test]
fn the_loopback_rule_that_stands_first_keeps_nothing_from_being_remembered() {
    if !can_run("the_loopback_rule_that_stands_first_keeps_nothing_from_being_remembered") {
        return;
    }
    let host = Host::new("loopback");
    host.up(&workspace_root().join("examples/base.sh"));
    let settled = SettledInterfaces {
        patterns: LO,
        answers: 0,
    };
    assert_eq!(host.policy().settled, settled);
    assert_eq!(host.remembered(), 0);
    // One answer walks and is remembered; nine are known and counted all the same.
    host.ping("10");
    assert_eq!(host.remembered(), 1);
    assert_eq!(host.matched(1), 10);
}

#[test]
fn a_new_interface_makes_memories_of_what_its_rules_say_void() {
    const LATE_RULE: u32 = 1;
    const ESTABLISHED_RULE: u32 = 2;
    if !can_run("a_new_interface_makes_memories_of_what_its_rules_say_void") {
        return;
    }
    let host = Host::new("void");
    let rules = rules_file(&host, "-i late -j DROP");
    host.up(&rules);
    let _ = std::fs::remove_file(&rules);
    assert_eq!(host.policy().settled.patterns, LO | LATE);
    let ping = ["-q", "-i", "0.05", "-c", "1000", "10.9.0.2"];
    let mut ping_command = host.namespace.command("ping");
    let ping = ping_command.args(ping).stdout(Stdio::null()).spawn();
    let _ping = Running(ping.expect("ping can be started"));
    wait_until("nothing is remembered", || host.remembered() == 1);

    host.peer.connect("outer2", &host.namespace, "late");
    wait_until("late is taken for what it was", || {
        host.policy().settled.patterns == LO
    });
    assert!(host.succeeds(&["status"]).contains("late"));
    assert_eq!(host.matched(LATE_RULE), 0);
    // The answers to the same requests come by the other way.
    let there = [
        "route",
        "add",
        "10.9.0.1/32",
        "dev",
        "outer2",
        "src",
        "10.9.0.2",
    ];
    host.peer.run("ip", &there);
    wait_until("the new rule matches nothing", || {
        host.matched(LATE_RULE) > 2
    });
    let passed = host.matched(ESTABLISHED_RULE);
    let dropped = host.matched(LATE_RULE);
    wait_until("the new rule matches no more", || {
        host.matched(LATE_RULE) > dropped + 2
    });
    assert_eq!(
        host.matched(ESTABLISHED_RULE),
        passed,
        "an outcome is stale"
    );

    host.namespace.run("ip", &["link", "del", "late"]);
    wait_until("late is still there", || {
        host.policy().settled.patterns == LO | LATE
    });
    wait_until("nothing is remembered again", || host.remembered() == 1);
    assert!(host.matched(ESTABLISHED_RULE) > passed);
}

/// The rules of the base template, with one more before that for established packets.
fn rules_file(host: &Host, rule: &str) -> PathBuf {
    let path = std::env::temp_dir().join(format!("{}.sh", host.instance));
    let text = format!(
        "iptables -P INPUT DROP\n\
         iptables -A INPUT -i lo -j ACCEPT\n\
         iptables -A INPUT {rule}\n\
         iptables -A INPUT -m conntrack --ctstate ESTABLISHED,RELATED -j ACCEPT\n"
    );
    std::fs::write(&path, text).expect("the directory for temporary files can be written to");
    path
}
