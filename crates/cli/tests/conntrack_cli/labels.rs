//! Labels, by the names of a file that both programs see, and expectations that are made by hand.

use keepstate_testkit::{Running, programs_or_skip};

use super::bench::{Bench, Outcome};
use super::{can_run, words};

/// Names as libnetfilter_conntrack takes them, or passes over.
const NAMES: &str = "0 zero\n  2 two\n7\n5 five-extra\n6 \"six\"\n1 one\n1 uno\n9 one\n0x0a ten\n127 last\n\
                     128 far\n#8 eight\n";

/// Runs a program with these names in `/etc/xtables/connlabel.conf`, or without that file.
const WITH_NAMES: &str = "
set -e
mount -t tmpfs none /mnt
mkdir /mnt/upper /mnt/work
mount -t overlay none -o lowerdir=/etc,upperdir=/mnt/upper,workdir=/mnt/work /etc
mkdir -p /etc/xtables
printf '%s' \"$1\" > /etc/xtables/connlabel.conf
[ -n \"$1\" ] || rm /etc/xtables/connlabel.conf
shift
exec \"$@\"
";

fn theirs(bench: &Bench, names: &str, line: &str) -> Outcome {
    let mut command = bench.kernel.command("unshare");
    command.args(["-m", "sh", "-c", WITH_NAMES, "sh", names, "conntrack"]);
    Outcome::of(&command.args(words(line)).output().expect("unshare runs"))
}

fn ours(bench: &Bench, names: &str, line: &str) -> Outcome {
    let mut command = bench.ours.command("unshare");
    let link = bench.link.display().to_string();
    command.args(["-m", "sh", "-c", WITH_NAMES, "sh", names, &link]);
    command.env("KEEPSTATE_INSTANCE", &bench.instance);
    Outcome::of(&command.args(words(line)).output().expect("unshare runs"))
}

fn compare(bench: &Bench, names: &str, lines: &str) {
    let lines = lines.lines().map(str::trim);
    for line in lines.filter(|line| !line.is_empty()) {
        let (theirs, ours) = (theirs(bench, names, line), ours(bench, names, line));
        assert!(
            ours.is_like(&theirs),
            "conntrack {line}\n  theirs: {theirs:#?}\n  ours: {ours:#?}"
        );
    }
}

/// What only ours does: beside Linux 6.18 `-U` answers `Operation not supported` to any label.
fn check(bench: &Bench, line: &str, code: i32, held: &str) {
    let outcome = ours(bench, NAMES, line);
    let text = format!("{}\n{}", outcome.printed.join("\n"), outcome.said);
    assert_eq!(outcome.code, Some(code), "conntrack {line}\n{text}");
    assert!(
        text.contains(held),
        "conntrack {line}\n{text}\nwithout `{held}`"
    );
}

#[test]
fn labels_are_shown_as_by_conntrack() {
    let test = "labels_are_shown_as_by_conntrack";
    if !can_run(test) || !programs_or_skip(test, &["iptables", "unshare"]) {
        return;
    }
    let rule = "iptables -A INPUT -p udp --dport 7 -m connlabel --label 3 --set\n";
    let bench = Bench::with("labels", rule, &[]);
    // Without such a rule the kernel's flows have no room for labels.
    let rule = words(rule);
    let rule: Vec<&str> = rule.iter().map(String::as_str).collect();
    bench.kernel.run(rule[0], &rule[1..]);
    let packet = "exec 3<>/dev/udp/10.9.0.1/7; echo x >&3";
    for far in [&bench.kernel_peer, &bench.our_peer] {
        let _ = far.command("bash").args(["-c", packet]).output();
    }
    let make = "-I -s 10.0.0.1 -d 10.0.0.2 -p udp --dport 2 -t 100 --sport";
    compare(
        &bench,
        "",
        "
        -L -o labels -p tcp
        -L -l one
        -L -o labels,xml -p tcp
        -D -l zero,one
        -U --label-del -p tcp
        -E -l one
        ",
    );
    compare(
        &bench,
        NAMES,
        &format!(
            "
            {make} 1 --label-add one,last
            {make} 2
            {make} 3 --label-add ten --label-add zero
            {make} 4 --label-add far
            {make} 5 --label-add uno
            {make} 6 --label-add six
            {make} 6 --label-add \"six\"
            {make} 6 -l one
            -A -s 10.0.0.1 -d 10.0.0.2 -p udp --dport 2 -t 100 --sport 1 --label-add two
            -A -s 10.0.0.1 -d 10.0.0.2 -p udp --dport 2 -t 100 --sport 9 --label-add two -m 7
            -A -s 10.0.0.1 -d 10.0.0.2 -p udp --dport 2 -t 100 --sport 9 --label-add two -o labels
            -L --src 10.0.0.1
            -L -o labels --src 10.0.0.1
            -L -o labels,extended,id --src 10.0.0.1
            -L -o labels,xml --src 10.0.0.1
            -L -o xml --src 10.0.0.1
            -L -o save --src 10.0.0.1
            -L -o labels,save
            -L -l one
            -L --label one -o xml
            -L -l one -l last
            -L -l one,zero
            -L -l one,last,nope
            -L -l five-extra
            -L -l far
            -L -l ''
            -L -l zero,
            -L -l 1
            -L -z -l one
            -G -s 10.0.0.1 -d 10.0.0.2 -p udp --sport 1 --dport 2
            -G -s 10.0.0.1 -d 10.0.0.2 -p udp --sport 1 --dport 2 -o labels
            -G -s 10.0.0.1 -d 10.0.0.2 -p udp --sport 1 --dport 2 -l one
            -G -s 10.0.0.1 -d 10.0.0.2 -p udp --sport 1 --dport 2 -l two
            -G -s 10.0.0.1 -d 10.0.0.2 -p udp --sport 1 --dport 2 --label-add two
            -L --label-add one
            -L --label-del one
            -D --label-add one
            -U --label-add
            -U --label-add one --label-del two
            -U --label-del nope
            -U --label-add last -l zero,one
            -U -m 3 -l five-extra
            -D -l nope
            -D -l five-extra
            -D -l one
            -D -l two -o labels
            -L -o labels -p udp --dport 2
            -L -o labels -p udp --dport 7
            -L -o labels,xml -p udp --dport 7
            "
        ),
    );
    check(
        &bench,
        "-U -p udp --sport 2 --label-add two,last",
        0,
        "1 flow entries have been updated",
    );
    check(
        &bench,
        "-U -p udp --sport 2 --label-add last",
        1,
        "0 flow entries have been updated",
    );
    check(&bench, "-L -l two", 0, "use=1 labels=two,last");
    check(
        &bench,
        "-U -l two --label-del last -m 5 -o labels",
        0,
        "mark=5 use=2 labels=two",
    );
    check(
        &bench,
        "-U -p udp --sport 2 --label-del",
        0,
        "1 flow entries",
    );
    check(
        &bench,
        "-U -p udp --sport 2 --label-del",
        1,
        "0 flow entries",
    );
    check(&bench, "-L -l two", 0, "0 flow entries have been shown");
    check(&bench, "-L -l ten -o json", 0, "\"labels\":[0,10]");
    check(
        &bench,
        "-U -l ten --label-add far",
        1,
        "Numerical result out of range",
    );
}

/// A server and a client of FTP that say nothing, and keep their connection.
const SESSION: &str = "
import socket, time
s = socket.create_server(('10.9.0.1', 21))
c, _ = s.accept()
time.sleep(60)
";
const CLIENT: &str = "
import socket, time
c = socket.create_connection(('10.9.0.1', 21), source_address=('10.9.0.2', 40001))
print('there', flush=True)
time.sleep(60)
";
/// Whether a connection from this port gets through to a port where nobody listens: it is refused then.
const KNOCK: &str = "
import socket, sys
c = socket.socket()
c.bind(('10.9.0.2', int(sys.argv[1])))
c.settimeout(1)
try: c.connect(('10.9.0.1', int(sys.argv[2])))
except ConnectionRefusedError: print('refused')
except TimeoutError: print('silence')
";

const RULES: &str = "iptables -t raw -A PREROUTING -p tcp --dport 21 -j CT --helper ftp
iptables -A INPUT -m conntrack --ctstate ESTABLISHED,RELATED -j ACCEPT
iptables -A INPUT -p tcp --dport 21 -j ACCEPT
iptables -P INPUT DROP
";

#[test]
fn expectations_by_hand_let_in_what_they_name() {
    let test = "expectations_by_hand_let_in_what_they_name";
    if !can_run(test) || !programs_or_skip(test, &["iptables", "python3"]) {
        return;
    }
    let bench = Bench::with("by-hand", RULES, &[]);
    for command in RULES.lines() {
        let command = words(command);
        let command: Vec<&str> = command.iter().map(String::as_str).collect();
        bench.kernel.run(command[0], &command[1..]);
    }
    let worlds = [
        (&bench.kernel, &bench.kernel_peer),
        (&bench.ours, &bench.our_peer),
    ];
    let sessions: Vec<[Running; 2]> = worlds
        .map(|(near, far)| {
            let server = near.spawn("python3", &["-c", SESSION]);
            while !near.run("ss", &["-Hltn"]).contains("10.9.0.1:21") {
                std::thread::sleep(std::time::Duration::from_millis(20));
            }
            [server, far.spawn("python3", &["-c", CLIENT])]
        })
        .into();
    for (near, _) in worlds {
        while !near.run("ss", &["-Htn"]).contains("10.9.0.2:40001") {
            std::thread::sleep(std::time::Duration::from_millis(20));
        }
    }
    let events = super::live::Listener::ours(&bench, &words("expect"));
    super::live::settle();
    let master = "-s 10.9.0.2 -d 10.9.0.1 -p tcp --sport 40001 --dport 21";
    let whole = "--mask-src 255.255.255.255 --mask-dst 255.255.255.255";
    let ports = "--tuple-port-src 0 --tuple-port-dst 5000 --mask-port-src 0 --mask-port-dst 65535";
    let from = "--tuple-src 10.9.0.2 --tuple-dst 10.9.0.1";
    // What conntrack refuses by itself, or the kernel for it. What it has made is of no protocol that there
    // is: 1.4.7 sends a wrong number.
    for line in [
        format!(
            "-I expect -s 10.9.0.2 -d 10.9.0.1 -p udp --sport 40001 --dport 21 {from} {whole} {ports} -t 9"
        ),
        format!(
            "-I expect -s 10.9.0.2 -d 10.9.0.1 -p tcp --sport 40002 --dport 21 {from} {whole} {ports} -t 9"
        ),
        format!("-I expect {master} {whole} {ports} --tuple-src 10.9.0.2 -t 9"),
        format!("-I expect {master} {whole} {ports} {from}"),
        format!("-I expect {master} {from} {ports} -t 9"),
        format!("-I expect {master} {whole} {from} --tuple-port-src 0 --tuple-port-dst 5000 -t 9"),
        format!("-I expect {master} {whole} {ports} {from} -t 9 -m 5"),
        format!("-I expect {master} {whole} {ports} --tuple-src fd00::1 --tuple-dst 10.9.0.1 -t 9"),
        "-I expect".to_owned(),
        "-L expect".to_owned(),
        format!("-I expect {master} {from} {whole} {ports} -t 77"),
        format!("-I expect {master} {from} {whole} {ports} -t 77"),
        "-C expect".to_owned(),
    ] {
        compare(&bench, "", &line);
    }
    let knock = |source: &str, port: &str| {
        let said = bench.our_peer.run("python3", &["-c", KNOCK, source, port]);
        said.trim().to_owned()
    };
    let listed = "src=10.9.0.2 dst=10.9.0.1 sport=0 dport=5000 mask-src=255.255.255.255 \
                  mask-dst=255.255.255.255 sport=0 dport=65535 master-src=10.9.0.2 \
                  master-dst=10.9.0.1 sport=40001 dport=21 class=0 helper=ftp";
    check(&bench, "-L expect", 0, listed);
    check(&bench, "-L expect -o json", 0, "\"source_port_mask\":0");
    assert_eq!(knock("41000", "5001"), "silence");
    assert_eq!(knock("41001", "5000"), "refused");
    // Once.
    check(&bench, "-L expect", 0, "0 expectations have been shown");
    assert_eq!(knock("41002", "5000"), "silence");
    // Another takes the place of the one before: the helper allows one. Some bits of the port count.
    let near = "--tuple-src 10.9.0.0/24 --tuple-dst 10.9.0.1 --mask-dst 255.255.255.255";
    check(
        &bench,
        &format!("-I expect {master} {from} {whole} {ports} -t 77"),
        0,
        "",
    );
    let ports =
        "--tuple-port-src 41472 --tuple-port-dst 5002 --mask-port-src 0xff00 --mask-port-dst 65535";
    let ports = ports.replace("0xff00", "65280");
    check(
        &bench,
        &format!("-I expect {master} {near} {ports} -t 77"),
        0,
        "",
    );
    check(
        &bench,
        "-L expect",
        0,
        "mask-src=255.255.255.0 mask-dst=255.255.255.255 sport=65280",
    );
    check(
        &bench,
        &format!("-I expect {master} {near} {ports} -t 77"),
        1,
        "File exists",
    );
    assert_eq!(knock("41003", "5000"), "silence");
    assert_eq!(knock("42000", "5002"), "silence");
    assert_eq!(knock("41480", "5002"), "refused");
    let told = events.stop();
    let told: Vec<&str> = told.printed.iter().map(|line| line.trim()).collect();
    let count = |kind: &str, held: &str| {
        let fits = |line: &&&str| line.starts_with(kind) && line.contains(held);
        told.iter().filter(fits).count()
    };
    assert_eq!(count("[NEW]", "dport=5000 mask"), 2, "{told:#?}");
    assert_eq!(count("[DESTROY]", "dport=5000 mask"), 2, "{told:#?}");
    let masked = "src=10.9.0.0 dst=10.9.0.1 sport=41472 dport=5002 mask-src=255.255.255.0";
    assert_eq!(count("[NEW]", masked), 1, "{told:#?}");
    assert_eq!(count("[DESTROY]", masked), 1, "{told:#?}");
    drop(sessions);
}
