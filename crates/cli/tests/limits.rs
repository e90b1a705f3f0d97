//! Rules that remember sources, on a host with a real server and a real client. In namespaces of the test's own;
//! skipped where there are no rights for it.

#[path = "support/program.rs"]
mod program;

use std::path::PathBuf;
use std::time::Duration;

use keepstate_testkit::{Namespace, programs_or_skip, root_or_skip};
use serde_json::Value;

const RULES: &str = "*filter
:INPUT ACCEPT [0:0]
:FORWARD DROP [0:0]
:OUTPUT ACCEPT [0:0]
-A INPUT -m conntrack --ctstate ESTABLISHED -j ACCEPT
-A INPUT -p tcp --syn --dport 8001 -m recent --name ssh --set
-A INPUT -p tcp --syn --dport 8001 -m recent --name ssh --update --seconds 60 --hitcount 4 -j DROP
-A INPUT -p tcp --syn --dport 8002 -m hashlimit --hashlimit-above 3/min --hashlimit-burst 3 \
--hashlimit-mode srcip --hashlimit-name ssh -j DROP
-A INPUT -p tcp --syn --dport 8003 -m connlimit --connlimit-above 2 -j DROP
COMMIT
";

/// Listens on the three ports, and ends a connection when its client does.
const SERVE: &str = "
import socket, threading
def serve(c):
    c.recv(1)
    c.close()
def listen(port):
    s = socket.create_server(('', port), backlog=16)
    while True:
        threading.Thread(target=serve, args=(s.accept()[0],)).start()
for port in (8001, 8002, 8003):
    threading.Thread(target=listen, args=(port,)).start()
";

/// Connects to a port some times and prints of each time whether it could; with a third argument, ends the
/// first connection and tries once more. Too short to send a SYN again, which would count.
const CONNECT: &str = "
import socket, sys, time
held = []
def attempt():
    try:
        held.append(socket.create_connection(('10.92.0.1', int(sys.argv[1])), 0.8))
        print('yes')
    except TimeoutError:
        print('no')
for _ in range(int(sys.argv[2])):
    attempt()
if len(sys.argv) > 3:
    held.pop(0).close()
    time.sleep(0.3)
    attempt()
";

struct Network {
    client: Namespace,
    server: Namespace,
    rules: PathBuf,
    instance: String,
}

impl Network {
    fn new() -> Self {
        let [client, server] = ["client", "server"].map(Namespace::new);
        client.connect("eth0", &server, "eth0");
        client.address("eth0", "10.92.0.2/24");
        server.address("eth0", "10.92.0.1/24");
        let instance = format!("test-{}-limits", std::process::id());
        let rules = std::env::temp_dir().join(&instance);
        std::fs::write(&rules, RULES).expect("rules can be written");
        let network = Self {
            client,
            server,
            rules,
            instance,
        };
        let rules = network.rules.display().to_string();
        network.succeeds(&["up", "--interface", "eth0", "--rules", &rules]);
        network
    }

    #[track_caller]
    fn succeeds(&self, arguments: &[&str]) -> String {
        program::succeeds(&self.server, &self.instance, arguments)
    }

    fn status(&self) -> Value {
        serde_json::from_str(&self.succeeds(&["status", "--json"])).expect("JSON")
    }

    /// How the attempts ended, one after the other.
    fn connect(&self, arguments: &[&str]) -> Vec<String> {
        let printed = self
            .client
            .run("python3", &[&["-c", CONNECT], arguments].concat());
        printed.lines().map(str::to_owned).collect()
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        let _ = program::keepstate(&self.server, &self.instance, &["down"]);
        let _ = std::fs::remove_file(&self.rules);
    }
}

#[test]
fn the_connection_that_is_too_many_is_refused() {
    const NAME: &str = "the_connection_that_is_too_many_is_refused";
    if !root_or_skip(NAME) || !programs_or_skip(NAME, &["ip", "nsenter", "python3", "ss"]) {
        return;
    }
    let network = Network::new();
    let _server = network.server.spawn("python3", &["-c", SERVE]);
    for port in [8001, 8002, 8003] {
        network.server.wait_for_listener(port);
    }
    let pid = network.status()["pid"].clone();
    let three = ["yes", "yes", "yes"];
    assert_eq!(
        network.connect(&["8001", "5"]),
        [&three[..], &["no", "no"]].concat()
    );
    assert_eq!(
        network.connect(&["8002", "4"]),
        [&three[..], &["no"]].concat()
    );
    assert_eq!(
        network.connect(&["8003", "3", "more"]),
        ["yes", "yes", "no", "yes"]
    );
    // The daemon looks through the memory each second: what is in use stays, what is over goes.
    std::thread::sleep(Duration::from_millis(2500));
    assert_eq!(network.connect(&["8001", "1"]), ["no"]);
    assert_eq!(network.connect(&["8002", "1"]), ["no"]);
    assert_eq!(network.connect(&["8003", "3"]), ["yes", "yes", "no"]);
    let status = network.status();
    assert_eq!(status["pid"], pid);
    let reasons = &status["traffic"]["reasons"];
    assert_eq!(reasons["rule_drop"], 7, "{reasons}");
}
