//! What rules remember of sources, listed and changed, beside what the kernel's own files say: both are asked by the
//! same packets, in one namespace.

use std::process::Output;

use keepstate_testkit::require_program;

use crate::bench::{Bench, KEEPSTATE};
use crate::offline::text;

/// Jiffies that may lie between the two looks at one packet, on a busy machine.
const APART: u64 = 60;

/// Seconds between two programs that list, on a busy machine.
const SECONDS_APART: u64 = 40;

const RULES: &str = "\
    -A INPUT -p udp -m udp --dport 1000 -m recent --set --name seen\n\
    -A INPUT -p udp -m udp --dport 1001 -m recent --update --hitcount 3 --name seen\n\
    -A INPUT -p udp -m udp --dport 1002 -m recent --set --name to --rdest\n\
    -A INPUT -p udp -m udp --dport 1003 -m recent --remove --name seen\n";

const RATES: &str = "\
    -A INPUT -p udp -m hashlimit --hashlimit-upto 1/hour --hashlimit-burst 7 --hashlimit-mode srcip,dstport --hashlimit-name packets --hashlimit-htable-expire 600000\n\
    -A INPUT -p udp -m hashlimit --hashlimit-above 1kb/s --hashlimit-burst 3kb --hashlimit-mode dstip --hashlimit-name bytes --hashlimit-htable-expire 600000\n\
    -A INPUT -p udp -m hashlimit --hashlimit-above 1/sec --hashlimit-burst 2 --hashlimit-mode srcip --hashlimit-name match --hashlimit-htable-expire 600000 --hashlimit-rate-match --hashlimit-rate-interval 600\n";

/// Sends a datagram for each word `SOURCE>DESTINATION:PORT/TTL`.
const SEND: &str = "
import socket, sys
for word in sys.argv[1:]:
    source, rest = word.split('>')
    rest, ttl = rest.split('/')
    to, port = rest.rsplit(':', 1)
    six = ':' in source
    s = socket.socket(socket.AF_INET6 if six else socket.AF_INET, socket.SOCK_DGRAM)
    s.bind((source, 0))
    if six:
        s.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_UNICAST_HOPS, int(ttl))
    else:
        s.setsockopt(socket.IPPROTO_IP, socket.IP_TTL, int(ttl))
    s.sendto(b'x' * 40, (to, int(port)))
";

fn bench(test: &str, label: &str) -> Option<Bench> {
    let has = ["python3", "timeout"].into_iter().all(require_program);
    if !has || !std::path::Path::new("/dev/fuse").exists() {
        keepstate_testkit::skip(test, "there is no /dev/fuse, python3 or timeout");
        return None;
    }
    let bench = Bench::up(test, label)?;
    for address in ["10.9.0.3/24", "10.9.0.4/24", "fd00::2/64", "fd00::3/64"] {
        let words = ["address", "add", address, "dev", "outer", "nodad"];
        let words = &words[..if address.contains(':') { 6 } else { 5 }];
        bench.peer.run("ip", words);
    }
    let words = ["address", "add", "fd00::1/64", "dev", "inner", "nodad"];
    bench.ours.run("ip", &words);
    let chains = ":INPUT ACCEPT [0:0]\n:FORWARD ACCEPT [0:0]\n:OUTPUT ACCEPT [0:0]\n";
    let rules = format!("*filter\n{chains}{RULES}{RATES}COMMIT\n");
    for program in ["iptables-restore", "ip6tables-restore"] {
        let file = bench.file("rules", &rules);
        bench.ours.run(program, &[&file]);
        let restored = bench.ours(&[program], &rules);
        assert_eq!(restored.code, 0, "{}", restored.stderr);
    }
    Some(bench)
}

fn send(bench: &Bench, words: &[&str]) {
    let mut command = bench.peer.command("python3");
    let sent = command.args(["-c", SEND]).args(words).output();
    let sent = sent.expect("python3 can be started");
    assert!(sent.status.success(), "{}", text(&sent.stderr));
    std::thread::sleep(std::time::Duration::from_millis(200));
}

/// What the kernel's own file holds.
fn theirs(bench: &Bench, path: &str) -> String {
    bench.ours.run("cat", &[&format!("/proc/net/{path}")])
}

fn shell(bench: &Bench, script: &str) -> Output {
    let file = bench.file("script.sh", script);
    let mut command = bench.command("timeout".as_ref());
    let words = ["120", KEEPSTATE, "shell", "--instance", &bench.instance];
    let run = command.args(words).arg(&file).output();
    run.expect("timeout can be started")
}

/// The lines in order.
fn sorted(list: &str) -> Vec<&str> {
    let mut lines: Vec<&str> = list.lines().collect();
    lines.sort_unstable();
    lines
}

/// Whether two lists of xt_recent are the same but for the moments of two looks at one packet.
#[track_caller]
fn same_recent(ours: &str, theirs: &str) {
    let (one, other) = (sorted(ours), sorted(theirs));
    let context = || format!("ours:\n{ours}\nLinux:\n{theirs}");
    assert_eq!(one.len(), other.len(), "{}", context());
    for (one, other) in one.iter().zip(other) {
        let words = one.split(' ').zip(other.split(' '));
        assert_eq!(
            one.split(' ').count(),
            other.split(' ').count(),
            "{}",
            context()
        );
        for (number, (one, other)) in words.enumerate() {
            let stamp = |word: &str| word.trim_end_matches(',').parse::<u64>();
            // `src=A ttl: T last_seen: S oldest_pkt: N S, S, S`.
            let is_stamp = number == 4 || number > 6;
            match (stamp(one), stamp(other)) {
                (Ok(a), Ok(b)) if is_stamp => {
                    assert!(a.abs_diff(b) <= APART, "{}", context());
                    assert_eq!(one.ends_with(','), other.ends_with(','));
                }
                _ => assert_eq!(one, other, "{}", context()),
            }
        }
    }
}

#[test]
fn lists_of_recent_are_those_of_linux_and_change_as_there() {
    const NAME: &str = "lists_of_recent_are_those_of_linux_and_change_as_there";
    let Some(bench) = bench(NAME, "recent") else {
        return;
    };
    let ours = |name: &str| bench.succeeds(&["recent", "list", name]);
    assert_eq!(bench.succeeds(&["recent", "list"]), "seen\nto\n");
    same_recent(&ours("seen"), &theirs(&bench, "xt_recent/seen"));
    send(
        &bench,
        &[
            "10.9.0.2>10.9.0.1:1000/64",
            "10.9.0.3>10.9.0.1:1000/17",
            "10.9.0.2>10.9.0.1:1001/33",
            "10.9.0.2>10.9.0.1:1000/63",
            "10.9.0.2>10.9.0.1:1000/62",
            "10.9.0.2>10.9.0.1:1001/61",
            "fd00::2>fd00::1:1000/64",
            "10.9.0.4>10.9.0.1:1000/64",
            "10.9.0.4>10.9.0.1:1003/64",
            "10.9.0.4>10.9.0.1:1002/5",
            "fd00::3>fd00::1:1002/5",
        ],
    );
    let listed = ours("seen");
    assert_eq!(listed.lines().count(), 3, "{listed}");
    same_recent(&listed, &theirs(&bench, "xt_recent/seen"));
    same_recent(&ours("to"), &theirs(&bench, "xt_recent/to"));

    // More stamps than an entry keeps here: the ring goes round.
    let many = ["10.9.0.3>10.9.0.1:1000/64"; 40];
    send(&bench, &many);
    same_recent(&ours("seen"), &theirs(&bench, "xt_recent/seen"));

    // Changed by hand, by our command and by what scripts write.
    let write = |line: &str| {
        let script = format!("echo '{line}' > /proc/net/xt_recent/seen");
        bench.ours.run("sh", &["-c", &script]);
        script
    };
    write("+10.9.0.77");
    bench.succeeds(&["recent", "add", "seen", "10.9.0.77"]);
    same_recent(&ours("seen"), &theirs(&bench, "xt_recent/seen"));
    // One that is there is stamped, and keeps its TTL.
    for line in ["+10.9.0.3", "+2001:db8::5", "-10.9.0.2", "-10.9.0.99"] {
        let script = write(line);
        let changed = shell(&bench, &format!("{script}\ncat /proc/net/xt_recent/seen"));
        assert_eq!(text(&changed.stderr), "", "{line}");
        same_recent(&text(&changed.stdout), &theirs(&bench, "xt_recent/seen"));
    }
    assert!(ours("seen").contains("src=2001:0db8:0000:0000:0000:0000:0000:0005 ttl: 0 "));
    let refused = shell(&bench, "echo 10.9.0.3 > /proc/net/xt_recent/seen");
    let said = text(&refused.stderr);
    assert!(said.contains("Need \"+ip\", \"-ip\" or \"/\""), "{said}");
    assert_ne!(refused.status.code(), Some(0));

    // What is put there counts for packets.
    let listed = shell(
        &bench,
        "ls /proc/net/xt_recent; cat /proc/net/xt_recent/other",
    );
    assert_eq!(text(&listed.stdout), "seen\nto\n");
    assert!(text(&listed.stderr).contains("No such file"));
    bench.succeeds(&["recent", "remove", "seen", "10.9.0.3", "10.9.0.77"]);
    let json = bench.succeeds(&["recent", "list", "seen", "--json"]);
    let entries: Vec<serde_json::Value> = json
        .lines()
        .map(|line| serde_json::from_str(line).expect("JSON"))
        .collect();
    assert_eq!(entries.len(), 2, "{json}");
    assert_eq!(entries[0]["address"], "fd00::2");
    assert_eq!(entries[0]["ttl"], 64);
    assert!(entries[0]["idle_ms"].as_u64().expect("a number") < 600_000);
    bench.succeeds(&["recent", "flush", "seen"]);
    assert_eq!(ours("seen"), "");
    write("/");
    assert_eq!(theirs(&bench, "xt_recent/seen"), "");
    let unknown = bench.keepstate(&["recent", "add", "nobody", "10.9.0.3"]);
    assert!(text(&unknown.stderr).contains("no rule in force names the list nobody"));
}

#[test]
fn lists_of_hashlimit_are_those_of_linux() {
    const NAME: &str = "lists_of_hashlimit_are_those_of_linux";
    let Some(bench) = bench(NAME, "rates") else {
        return;
    };
    send(
        &bench,
        &[
            "10.9.0.2>10.9.0.1:1000/64",
            "10.9.0.2>10.9.0.1:1000/64",
            "10.9.0.3>10.9.0.1:1007/64",
            "fd00::2>fd00::1:1000/64",
            "fd00::3>fd00::1:1000/64",
            "fd00::3>fd00::1:1000/64",
        ],
    );
    // Until the credit of bytes is what it was.
    std::thread::sleep(std::time::Duration::from_secs(2));
    assert_eq!(
        bench.succeeds(&["hashlimit", "list"]),
        "bytes\nmatch\npackets\n"
    );
    for name in ["packets", "bytes", "match"] {
        let ours = bench.succeeds(&["hashlimit", "list", name]);
        same_rates(&ours, &theirs(&bench, &format!("ipt_hashlimit/{name}")));
        let six = bench.succeeds(&["hashlimit", "list", name, "-6"]);
        same_rates(&six, &theirs(&bench, &format!("ip6t_hashlimit/{name}")));
        let script = format!("cat /proc/net/ipt_hashlimit/{name} /proc/net/ip6t_hashlimit/{name}");
        let read = shell(&bench, &script);
        same_rates(&text(&read.stdout), &(ours + &six));
    }
    let refused = shell(&bench, "echo 1 > /proc/net/ipt_hashlimit/bytes");
    assert_ne!(refused.status.code(), Some(0));
}

/// `SECONDS A:P->B:P CREDIT BOUND COST`.
#[track_caller]
fn same_rates(ours: &str, theirs: &str) {
    let context = || format!("ours:\n{ours}\nLinux:\n{theirs}");
    let by_name = |list: &str| {
        let mut lines: Vec<Vec<String>> = list
            .lines()
            .map(|line| line.split(' ').map(str::to_owned).collect())
            .collect();
        lines.sort_unstable_by(|one, other| one[1].cmp(&other[1]));
        lines
    };
    let (one, other) = (by_name(ours), by_name(theirs));
    assert!(!one.is_empty(), "{}", context());
    assert_eq!(one.len(), other.len(), "{}", context());
    for (one, other) in one.iter().zip(&other) {
        assert_eq!(one[1], other[1], "{}", context());
        assert_eq!(one[3..], other[3..], "{}", context());
        let number = |word: &str| word.parse::<u64>().expect("a number");
        assert!(
            number(&one[0]).abs_diff(number(&other[0])) <= SECONDS_APART,
            "{}",
            context()
        );
        // Credit of an hour grows meanwhile.
        let slack = number(&one[4]) / 60;
        assert!(
            number(&one[2]).abs_diff(number(&other[2])) <= slack,
            "{}",
            context()
        );
    }
}
