//! The namespaces that other tests rely on.

use std::path::Path;

use keepstate_testkit::{Namespace, programs_or_skip, root_or_skip};

#[test]
fn two_namespaces_reach_each_other_and_vanish() {
    let test = "two_namespaces_reach_each_other_and_vanish";
    if !root_or_skip(test) || !programs_or_skip(test, &["ip", "nsenter", "ping"]) {
        return;
    }
    let client = Namespace::new("client");
    let server = Namespace::new("server");
    client.connect("eth0", &server, "eth0");
    for (address, target) in [("10.9.0.1", "10.9.0.2"), ("fd09::1", "fd09::2")] {
        let length = if address.contains(':') { 64 } else { 24 };
        client.address("eth0", &format!("{address}/{length}"));
        server.address("eth0", &format!("{target}/{length}"));
        client.run("ping", &["-c1", "-W2", target]);
    }
    assert!(!client.succeeds("ping", &["-c1", "-W1", "10.9.0.3"]));

    let sleeper = server.spawn("sleep", &["60"]);
    let paths = [client.name(), server.name()].map(|name| format!("/run/netns/{name}"));
    drop((client, server));
    for path in &paths {
        assert!(!Path::new(path).exists(), "{path} is still there");
    }
    drop(sleeper);
}
