//! The same frames through Linux's own iptables and through the native plane.

use std::io::Write as _;
use std::process::{Command, Stdio};
use std::time::Duration;

use keepstate_engine::process::{Arrival, Checksums, Path};
use keepstate_engine::settings::{SETTING_CHECKSUM, Settings};
use keepstate_engine::wire::Link;
use keepstate_flowmemory::{SliceTable, buckets_for};
use keepstate_policy::model::Counters;
use keepstate_policy::{Compiled, Policy};
use keepstate_sim::plane::Plane;
use keepstate_testkit::Namespace;

/// Sends the frames that it reads, with a pause after each, by the device `sender`.
const SEND: &str = "
import socket, sys, time
s = socket.socket(socket.AF_PACKET, socket.SOCK_RAW)
s.bind(('sender', 0))
pause = float(sys.argv[1])
for line in sys.stdin.read().split():
    s.send(bytes.fromhex(line))
    if pause:
        time.sleep(pause)
";

/// As they come from the wire.
pub(crate) const ARRIVAL: Arrival = Arrival {
    link: Link::Ethernet,
    path: Path::Ingress,
    checksums: Checksums::Trusted,
    zone: 0,
    interfaces: 0,
};

/// Of a table for so many flows.
pub(crate) fn settings(flows_max: u32) -> Settings {
    let mut settings = Settings::defaults(flows_max, [buckets_for(flows_max); 2]);
    settings.flags &= !SETTING_CHECKSUM;
    // Without keys all sources would lie in one bucket.
    for (key, number) in settings.hash_keys.iter_mut().zip(1_u32..) {
        *key = 0x9e37_79b9_u32.wrapping_mul(2 * number + 1);
    }
    settings
}

/// Gives the rules what the plane has counted.
pub(crate) fn store_counters(
    compiled: &Compiled,
    policy: &mut Policy,
    plane: &Plane<SliceTable<'_>, ()>,
) {
    compiled.store_counters(policy, |index| {
        let counted = plane.rule_counter(index);
        Counters {
            packets: counted.packets,
            bytes: counted.bytes,
        }
    });
}

/// Runs a program to its end, which reads this.
#[track_caller]
pub(crate) fn feed(command: &mut Command, text: &str) {
    let child = command.stdin(Stdio::piped()).spawn();
    let mut child = child.unwrap_or_else(|error| panic!("cannot start {command:?}: {error}"));
    let mut input = child.stdin.take().expect("the input is piped");
    input.write_all(text.as_bytes()).expect("the program reads");
    drop(input);
    assert!(child.wait().expect("it ends").success(), "{command:?}");
}

/// Makes the device `receiver`, and its peer `sender`.
pub(crate) fn connect(namespace: &Namespace) {
    ip(
        namespace,
        &[
            "link add name sender type veth peer name receiver",
            "link set dev receiver address 02:00:00:00:00:01",
            "link set sender up",
            "link set receiver up",
        ],
    );
}

/// Forwards what comes by `receiver`, to a device on whose other end it is for nobody. The host has these addresses (as
/// `ip address add` takes them).
pub(crate) fn forward(namespace: &Namespace, addresses: &[&str]) {
    ip(
        namespace,
        &[
            "link add name nowhere type veth peer name void",
            "link set nowhere arp off",
            "link set void up",
            "link set nowhere up",
        ],
    );
    for address in addresses {
        ip(namespace, &[&format!("address add {address}")]);
    }
    ip(
        namespace,
        &[
            "route add default dev nowhere",
            "-6 route add default dev nowhere",
        ],
    );
    for (name, value) in [
        ("net.ipv4.ip_forward", "1"),
        ("net.ipv6.conf.all.forwarding", "1"),
        ("net.ipv4.conf.all.rp_filter", "0"),
        ("net.ipv4.conf.receiver.rp_filter", "0"),
        ("net.netfilter.nf_conntrack_checksum", "0"),
    ] {
        namespace.sysctl(name, value);
    }
}

fn ip(namespace: &Namespace, commands: &[&str]) {
    for command in commands {
        let words: Vec<_> = command.split(' ').collect();
        namespace.run("ip", &words);
    }
}

/// Zeroes a table's counters, hands the frames to `receiver` by way of its peer `sender`, and waits until it has
/// seen them.
pub(crate) fn send(namespace: &Namespace, table: &str, frames: &[Vec<u8>], pause: &str) {
    // IPv6 speaks up by itself when a device comes up: what it sent is not to be counted. It would ask for routers
    // again and again.
    for device in ["sender", "receiver"] {
        namespace.sysctl(&format!("net.ipv6.conf.{device}.router_solicitations"), "0");
    }
    std::thread::sleep(Duration::from_secs(3));
    for program in ["iptables", "ip6tables"] {
        namespace.run(program, &["-t", table, "-Z"]);
    }
    let hex = |frame: &Vec<u8>| frame.iter().map(|byte| format!("{byte:02x}")).collect();
    let lines: Vec<String> = frames.iter().map(hex).collect();
    let mut python = namespace.command("python3");
    feed(python.args(["-c", SEND, pause]), &lines.join("\n"));
    std::thread::sleep(Duration::from_millis(300));
}
