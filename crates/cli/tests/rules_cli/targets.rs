//! REJECT, LOG, NFLOG and marks with real traffic; what REJECT answers is held against the kernel's own.

use std::path::Path;
use std::time::Duration;

use keepstate_testkit::{Namespace, require_program};

use crate::bench::{Bench, wait_until};

const REJECTS: &str = "\
    -A INPUT -p tcp -m tcp --dport 81 -j REJECT --reject-with tcp-reset\n\
    -A INPUT -p tcp -m tcp --dport 82 -j REJECT\n\
    -A INPUT -p udp -j REJECT\n";

fn table(rules: &str) -> String {
    format!(
        "*filter\n:INPUT ACCEPT [0:0]\n:FORWARD ACCEPT [0:0]\n:OUTPUT ACCEPT [0:0]\n{rules}COMMIT\n"
    )
}

fn bench(test: &str, label: &str) -> Option<Bench> {
    if !require_program("python3") {
        keepstate_testkit::skip(test, "there is no python3");
        return None;
    }
    let bench = Bench::up(test, label)?;
    bench.ours.address("inner", "fd00::1/64");
    bench.peer.address("outer", "fd00::2/64");
    Some(bench)
}

/// Runs Python in a namespace; what it prints.
fn python(namespace: &Namespace, arguments: &[&str]) -> String {
    let output = namespace.command("python3").args(arguments).output();
    let output = output.expect("python3 can be started");
    let wrong = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{wrong}");
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn restore(bench: &Bench, rules: &str) {
    for program in ["iptables-restore", "ip6tables-restore"] {
        let restored = bench.ours(&[program], &table(rules));
        assert_eq!(restored.code, 0, "{}", restored.stderr);
    }
}

#[test]
fn what_reject_answers_is_what_linux_answers() {
    let Some(bench) = bench("what_reject_answers_is_what_linux_answers", "answers") else {
        return;
    };
    restore(&bench, REJECTS);
    let other = Namespace::new("linux");
    other.connect("outer", &bench.kernel, "inner");
    bench.kernel.address("inner", "10.9.0.1/24");
    bench.kernel.address("inner", "fd00::1/64");
    other.address("outer", "10.9.0.2/24");
    other.address("outer", "fd00::2/64");
    for program in ["iptables-restore", "ip6tables-restore"] {
        let restored = bench.theirs(&[program], &table(REJECTS));
        assert_eq!(restored.code, 0, "{}", restored.stderr);
    }
    // Until the addresses of IPv6 may be used.
    std::thread::sleep(Duration::from_secs(3));
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/rules_cli/answers.py");
    let script = script.display().to_string();
    let theirs = python(&other, &[&script, "1.5"]);
    let ours = python(&bench.peer, &[&script, "1.5"]);
    println!("{theirs}");
    assert_eq!(ours, theirs);
    let unanswered = theirs.lines().filter(|line| line.ends_with("None")).count();
    assert_eq!(
        unanswered, 4,
        "resets and wrong checksums alone are not answered"
    );
}

/// Connects, or sends a datagram, and prints the name of the error.
const CLIENT: &str = "
import errno, socket, sys
for case in sys.argv[1:]:
    kind, address, port = case.split(',')
    family = socket.AF_INET6 if ':' in address else socket.AF_INET
    s = socket.socket(family, socket.SOCK_STREAM if kind == 'tcp' else socket.SOCK_DGRAM)
    s.settimeout(8)
    try:
        s.connect((address, int(port)))
        s.send(b'x' * 100)
        s.recv(10)
        print(case, 'answered')
    except OSError as error:
        print(case, errno.errorcode.get(error.errno, 'timeout'))
";

#[test]
fn programs_learn_at_once_that_they_are_refused() {
    let Some(bench) = bench("programs_learn_at_once_that_they_are_refused", "refused") else {
        return;
    };
    let own = "\
        -A OUTPUT -p tcp -m tcp --dport 83 -j REJECT --reject-with tcp-reset\n\
        -A OUTPUT -p tcp -m tcp --dport 84 -j REJECT\n\
        -A OUTPUT -p udp -m udp --dport 85 -j REJECT\n";
    restore(&bench, &format!("{REJECTS}{own}"));
    std::thread::sleep(Duration::from_secs(2));
    let check = |namespace: &Namespace, cases: &[&str]| {
        let said = python(namespace, &[&["-c", CLIENT], cases].concat());
        for (line, case) in said.lines().zip(cases) {
            assert_eq!(line, format!("{case} ECONNREFUSED"), "{said}");
        }
    };
    check(
        &bench.peer,
        &[
            "tcp,10.9.0.1,81",
            "tcp,10.9.0.1,82",
            "udp,10.9.0.1,53",
            "tcp,fd00::1,81",
            "tcp,fd00::1,82",
            "udp,fd00::1,53",
        ],
    );
    // Nobody listens there: without the rules the peer would refuse as well, and these count.
    check(
        &bench.ours,
        &[
            "tcp,10.9.0.2,83",
            "tcp,10.9.0.2,84",
            "udp,10.9.0.2,85",
            "tcp,fd00::2,83",
            "tcp,fd00::2,84",
            "udp,fd00::2,85",
        ],
    );
    let listed = bench.ours(&["iptables", "-nvxL", "OUTPUT"], "").stdout;
    let counted = |line: &&str| line.contains("REJECT") && !line.trim_start().starts_with("0 ");
    assert_eq!(listed.lines().filter(counted).count(), 3, "{listed}");
}

#[test]
fn packets_are_logged_kept_and_marked() {
    let Some(bench) = bench("packets_are_logged_kept_and_marked", "logged") else {
        return;
    };
    let rules = "*mangle\n-A PREROUTING -p icmp -j MARK --set-mark 5\n\
                 -A PREROUTING -p icmp -j CONNMARK --save-mark\nCOMMIT\n\
                 *filter\n-A INPUT -m mark --mark 5 -j LOG --log-prefix \"ping: \"\n\
                 -A INPUT -p icmp -j NFLOG --nflog-group 9 --nflog-prefix \"kept here\"\nCOMMIT\n";
    let restored = bench.ours(&["iptables-restore"], rules);
    assert_eq!(restored.code, 0, "{}", restored.stderr);
    assert!(bench.answers());
    let listed = bench.keepstate_plain(&["conntrack", "-L"]).stdout;
    assert!(listed.contains("mark=5"), "{listed}");
    let log = format!("/run/keepstate/{}.log", bench.instance);
    if !Path::new("/dev/log").exists() {
        let read = || std::fs::read_to_string(&log).unwrap_or_default();
        let line = || {
            read()
                .lines()
                .any(|line| line.starts_with("<4>ping: IN=inner OUT= MAC="))
        };
        assert!(wait_until(Duration::from_secs(5), line), "{}", read());
        let text = read();
        let line = text
            .lines()
            .find(|line| line.contains("ping: "))
            .expect("it is there");
        assert!(
            line.contains(" SRC=10.9.0.2 DST=10.9.0.1 LEN=84 TOS=0x00 PREC=0x00 TTL=64 "),
            "{line}"
        );
        assert!(line.contains(" PROTO=ICMP TYPE=8 CODE=0 ID="), "{line}");
        assert!(line.ends_with(" SEQ=1 MARK=0x5 "), "{line}");
    }
    let capture = format!("/var/log/keepstate/{}-nflog-9.pcapng", bench.instance);
    let is_kept = || std::fs::metadata(&capture).is_ok_and(|file| file.len() > 200);
    assert!(
        wait_until(Duration::from_secs(5), is_kept),
        "nothing was kept"
    );
    if require_program("tshark") {
        let arguments = [
            "-r",
            &capture,
            "-T",
            "fields",
            "-e",
            "frame.comment",
            "-e",
            "icmp.type",
        ];
        let said = bench.ours.run("tshark", &arguments);
        assert_eq!(said.trim_end(), "kept here\t8");
    }
    let _ = std::fs::remove_file(&capture);
}
