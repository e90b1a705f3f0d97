//! The daemon as a service: its configuration, who may ask it what, and what it tells a service manager.

use std::fs;
use std::os::unix::net::UnixDatagram;
use std::path::PathBuf;
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use keepstate_testkit::{Namespace, programs_or_skip, root_or_skip, workspace_root};

const KEEPSTATE: &str = env!("CARGO_BIN_EXE_keepstate");

/// A number that no group on the machine should have.
const GROUP: &str = "54321";

struct Service {
    namespace: Namespace,
    /// Its end of the wire keeps the other one there.
    _peer: Namespace,
    instance: String,
    directory: PathBuf,
    manager: UnixDatagram,
    daemon: Option<Child>,
}

impl Service {
    /// A daemon in the foreground, with a configuration of its own and a service manager that is this test.
    fn start(label: &str, configuration: &str) -> Self {
        let namespace = Namespace::new(label);
        let peer = Namespace::new("peer");
        peer.connect("outer", &namespace, "inner");
        namespace.address("inner", "10.9.0.1/24");
        let instance = format!("test-{}-{label}", std::process::id());
        let directory = std::env::temp_dir().join(format!("keepstate-{instance}"));
        fs::create_dir_all(&directory).unwrap();
        fs::write(directory.join("keepstate.toml"), configuration).unwrap();
        let base = workspace_root().join("examples/base.sh");
        fs::copy(base, directory.join("base.sh")).unwrap();
        let manager = UnixDatagram::bind(directory.join("notify")).unwrap();
        manager
            .set_read_timeout(Some(Duration::from_secs(120)))
            .unwrap();
        let mut service = Self {
            namespace,
            _peer: peer,
            instance,
            directory,
            manager,
            daemon: None,
        };
        let mut command = service.namespace.command(KEEPSTATE);
        let log = fs::File::create(service.directory.join("log")).unwrap();
        command
            .args(["daemon", "--instance", &service.instance, "--config"])
            .arg(&service.directory)
            .env("NOTIFY_SOCKET", service.directory.join("notify"))
            .env("WATCHDOG_USEC", "400000")
            .stdout(Stdio::null())
            .stderr(log);
        service.daemon = Some(command.spawn().unwrap());
        let told = service.told(|told| told.starts_with("READY=1"));
        assert_eq!(told, "READY=1\nSTATUS=1 interface, 0 flows, rules in force");
        service
    }

    /// The next message that is meant.
    #[track_caller]
    fn told(&self, is_meant: impl Fn(&str) -> bool) -> String {
        let mut buffer = [0; 512];
        loop {
            let length = self.manager.recv(&mut buffer).unwrap_or_else(|error| {
                panic!("nothing is told: {error}: {}", self.log());
            });
            let text = String::from_utf8_lossy(&buffer[..length]).into_owned();
            if is_meant(&text) {
                return text;
            }
        }
    }

    fn log(&self) -> String {
        fs::read_to_string(self.directory.join("log")).unwrap()
    }

    fn configure(&self, configuration: &str) {
        fs::write(self.directory.join("keepstate.toml"), configuration).unwrap();
        let pid = self.daemon.as_ref().unwrap().id();
        let pid = rustix::process::Pid::from_raw(pid as i32).unwrap();
        rustix::process::kill_process(pid, rustix::process::Signal::HUP).unwrap();
        let told = self.told(|told| told.starts_with("RELOADING=1"));
        let since_boot = told.strip_prefix("RELOADING=1\nMONOTONIC_USEC=").unwrap();
        assert!(since_boot.parse::<u64>().unwrap() > 0);
        self.told(|told| told.starts_with("READY=1"));
    }

    /// What a command prints that somebody else than root gives, and whether it succeeded.
    fn as_other(&self, group: &str, arguments: &[&str]) -> (bool, String) {
        let mut command = self.namespace.command("setpriv");
        command
            .args(["--reuid", "65534", "--regid", group, "--clear-groups", "--"])
            .arg(KEEPSTATE)
            .args(arguments)
            .env("KEEPSTATE_INSTANCE", &self.instance);
        let output = command.output().unwrap();
        let said = [output.stdout, output.stderr].concat();
        let said = String::from_utf8_lossy(&said).into_owned();
        (output.status.success(), said)
    }

    #[track_caller]
    fn succeeds(&self, arguments: &[&str]) -> String {
        let mut command = self.namespace.command(KEEPSTATE);
        command
            .args(arguments)
            .env("KEEPSTATE_INSTANCE", &self.instance);
        let output = command.output().unwrap();
        let wrong = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{arguments:?}: {wrong}");
        String::from_utf8(output.stdout).unwrap()
    }

    #[track_caller]
    fn logs(&self, wanted: &str) {
        let deadline = Instant::now() + Duration::from_secs(10);
        while !self.log().contains(wanted) {
            assert!(Instant::now() < deadline, "{wanted}: {}", self.log());
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        let mut command = self.namespace.command(KEEPSTATE);
        let down = command.args(["down", "--instance", &self.instance]);
        let _ = down.output();
        if let Some(mut daemon) = self.daemon.take() {
            let _ = daemon.kill();
            let _ = daemon.wait();
        }
        let _ = fs::remove_dir_all(&self.directory);
    }
}

fn configuration(more: &str) -> String {
    format!("interfaces = [\"inner\"]\nrules = \"base.sh\"\nsocket_group = \"{GROUP}\"\n{more}")
}

#[test]
fn a_group_may_look_and_root_may_change_and_each_change_is_told() {
    let test = "a_group_may_look_and_root_may_change_and_each_change_is_told";
    if !root_or_skip(test) || !programs_or_skip(test, &["ip", "setpriv"]) {
        return;
    }
    let service = Service::start("group", &configuration("never_ban = [\"10.9.0.0/24\"]\n"));
    let never = service.succeeds(&["never-ban", "list"]);
    assert!(never.contains("10.9.0.0/24"), "{never}");
    let (succeeded, said) = service.as_other(GROUP, &["status"]);
    assert!(succeeded && said.contains("inner"), "{said}");
    let (succeeded, said) = service.as_other("65534", &["status"]);
    assert!(!succeeded && said.contains("root"), "{said}");
    for command in [
        &["ban", "add", "192.0.2.1"][..],
        &["trace", "--count", "1"],
        &["iptables", "-F"],
    ] {
        let (succeeded, said) = service.as_other(GROUP, command);
        assert!(
            !succeeded && said.contains("may change nothing"),
            "{command:?}: {said}"
        );
    }
    service.logs("outcome=forbidden request=Ban { list: Banned, networks: [");
    service.succeeds(&["ban", "add", "192.0.2.1"]);
    service.logs("outcome=done request=Ban { list: Banned, networks: [");
    service.logs("keepstate: audit: uid=65534 pid=");
    service.logs("keepstate: audit: uid=0 pid=");
    // The configuration may say otherwise, also while the daemon runs.
    service.configure(&configuration("group_may_change = true\n"));
    let (succeeded, said) = service.as_other(GROUP, &["ban", "add", "192.0.2.2"]);
    assert!(succeeded, "{said}");
}

#[test]
fn what_is_read_anew_is_put_in_force_or_nothing_is() {
    let test = "what_is_read_anew_is_put_in_force_or_nothing_is";
    if !root_or_skip(test) || !programs_or_skip(test, &["ip"]) {
        return;
    }
    let service = Service::start("reload", &configuration(""));
    service.told(|told| told == "WATCHDOG=1");
    let rules = || service.succeeds(&["iptables-save"]);
    assert!(!rules().contains("--dport 8080"));
    let mut base = fs::read_to_string(service.directory.join("base.sh")).unwrap();
    base.push_str("iptables -A INPUT -p tcp --dport 8080 -j ACCEPT\n");
    fs::write(service.directory.join("base.sh"), base).unwrap();
    service.configure(&configuration("flows_max = 5000\ndefence = \"act\"\n"));
    assert!(rules().contains("--dport 8080"), "{}", service.log());
    let status = service.succeeds(&["status", "--json"]);
    assert!(status.contains("\"flows_max\": 5000"), "{status}");
    let defence = service.succeeds(&["defence", "status", "--json"]);
    assert!(defence.contains("\"act\""), "{defence}");
    // A mistake changes nothing.
    fs::write(
        service.directory.join("base.sh"),
        "iptables -P INPUT ACCEPT\n",
    )
    .unwrap();
    service.configure(&configuration("flow_max = 6000\n"));
    service.logs("keepstate.toml:4:1: unknown key `flow_max`");
    assert!(rules().contains("--dport 8080"));
    // The table grows by programs that are loaded anew, with what the daemon may still do.
    service.succeeds(&["sysctl", "-w", "net.netfilter.nf_conntrack_max=300000"]);
    let status = service.succeeds(&["status", "--json"]);
    assert!(status.contains("\"flows_max\": 300000"), "{status}");
    let log = service.log();
    assert!(!log.contains("not restricted"), "{log}");
    let pid = service.daemon.as_ref().unwrap().id();
    let stands = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = |name: &str| stands.lines().find(|line| line.starts_with(name));
    // CAP_CHOWN, NET_ADMIN, NET_RAW, PERFMON, BPF.
    let kept: u64 = 1 | 1 << 12 | 1 << 13 | 1 << 38 | 1 << 39;
    for name in ["CapEff:", "CapPrm:", "CapBnd:"] {
        let wanted = format!("{name}\t{kept:016x}");
        assert_eq!(line(name), Some(wanted.as_str()));
    }
    assert_eq!(line("Seccomp:"), Some("Seccomp:\t2"));
    // The service manager has read nothing for seconds: its socket is full.
    service.succeeds(&["down"]);
}
