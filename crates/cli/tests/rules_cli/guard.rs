//! Rules that come back by themselves, connections that are not cut, and rules that are kept.

use std::io::{BufRead, BufReader, Write};

use std::process::Stdio;
use std::time::Duration;

use crate::bench::{Bench, KEEPSTATE, wait_until};

const OPEN: &str = "*filter\n:INPUT ACCEPT [0:0]\nCOMMIT\n";
const SHUT: &str = "*filter\n:INPUT DROP [0:0]\nCOMMIT\n";

/// More than the second after which they come back.
const PATIENCE: Duration = Duration::from_secs(10);

#[test]
fn rules_that_nobody_confirms_come_back() {
    let Some(bench) = Bench::up("rules_that_nobody_confirms_come_back", "guard") else {
        return;
    };
    let (open, shut) = (bench.file("open", OPEN), bench.file("shut", SHUT));
    bench.succeeds(&["apply", &open]);
    assert!(bench.answers());
    let said = bench.succeeds(&["apply", &shut, "--confirm", "2"]);
    assert!(said.contains("keepstate confirm"), "{said}");
    assert!(!bench.answers(), "the new rules are not in force");
    assert!(
        wait_until(PATIENCE, || bench.answers()),
        "the old rules stay away"
    );
    let late = bench.keepstate(&["confirm"]);
    assert!(
        !late.status.success(),
        "there is nothing to confirm any more"
    );

    // Confirmed rules stay.
    bench.succeeds(&["apply", &shut, "--confirm", "2"]);
    let meanwhile = bench.keepstate(&["apply", &open]);
    let said = String::from_utf8_lossy(&meanwhile.stderr).into_owned();
    assert!(said.contains("wait for confirmation"), "{said}");
    let unsaved = bench.keepstate(&["save"]);
    assert!(!unsaved.status.success(), "rules that wait are not kept");
    assert!(bench.succeeds(&["status"]).contains("confirm"));
    bench.succeeds(&["confirm"]);
    std::thread::sleep(Duration::from_secs(3));
    assert!(!bench.answers(), "the old rules came back");

    // And what is refused at once comes back at once.
    bench.succeeds(&["apply", &open, "--confirm", "600"]);
    assert!(bench.answers());
    bench.succeeds(&["confirm", "--rollback"]);
    assert!(!bench.answers(), "the rules before are not in force");
}

#[test]
fn rules_come_back_when_the_daemon_died_meanwhile() {
    let Some(bench) = Bench::up("rules_come_back_when_the_daemon_died_meanwhile", "died") else {
        return;
    };
    let (open, shut) = (bench.file("open", OPEN), bench.file("shut", SHUT));
    bench.succeeds(&["apply", &open]);
    bench.succeeds(&["apply", &shut, "--confirm", "1"]);
    bench.kill_daemon();
    std::thread::sleep(Duration::from_secs(2));
    assert!(
        !bench.answers(),
        "nobody is there to bring the old rules back"
    );
    bench.succeeds(&["up"]);
    assert!(
        wait_until(PATIENCE, || bench.answers()),
        "the next daemon forgot"
    );
    bench.succeeds(&["down"]);
}

#[test]
fn rules_that_cut_off_their_operator_are_refused() {
    let Some(bench) = Bench::up("rules_that_cut_off_their_operator_are_refused", "cut") else {
        return;
    };
    let shut = bench.file("shut", SHUT);
    let narrow = bench.file(
        "narrow",
        "*filter\n:INPUT DROP [0:0]\n-A INPUT -m conntrack --ctstate ESTABLISHED -j ACCEPT\nCOMMIT\n",
    );
    // A shell that serves a connection, as sshd does: what it starts inherits the socket.
    let script = bench.file(
        "serve.py",
        "import socket, subprocess, sys\n\
         s = socket.socket(); s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)\n\
         s.bind(('10.9.0.1', 2222)); s.listen(1); print('ready', flush=True)\n\
         c, _ = s.accept(); f = c.makefile('r')\n\
         for line in f:\n\
         \x20   done = subprocess.run(line.split(), capture_output=True, text=True)\n\
         \x20   c.sendall(f'{done.returncode} {done.stdout}{done.stderr}'.replace(chr(10), ' ').encode() + b'\\n')\n",
    );
    let mut server = bench.command("python3".as_ref());
    let mut server = server
        .arg(&script)
        .stdout(Stdio::piped())
        .spawn()
        .expect("python can be started");
    let mut ready = String::new();
    let mut said = BufReader::new(server.stdout.take().expect("its output is a pipe"));
    said.read_line(&mut ready).expect("the server is ready");
    let mut operator = bench.peer.command("python3");
    let mut operator = operator
        .args(["-c", "import socket, sys\nc = socket.create_connection(('10.9.0.1', 2222)); f = c.makefile('r')\nfor line in sys.stdin:\n    c.sendall(line.encode()); print(f.readline(), end='', flush=True)\n"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("python can be started");
    let mut to = operator.stdin.take().expect("its input is a pipe");
    let mut from = BufReader::new(operator.stdout.take().expect("its output is a pipe"));
    let mut order = |words: &str| {
        let instance = &bench.instance;
        writeln!(to, "{KEEPSTATE} {words} --instance {instance}").expect("it listens");
        let mut answer = String::new();
        from.read_line(&mut answer).expect("it answers");
        answer
    };
    let refused = order(&format!("apply {shut}"));
    assert!(refused.starts_with("1 "), "{refused}");
    assert!(
        refused.contains("your connection from 10.9.0.2:"),
        "{refused}"
    );
    assert!(refused.contains("nothing was changed"), "{refused}");
    assert!(bench.answers(), "the rules are in force all the same");
    // What is in a set counts, by the list that names it too.
    let by_set = bench.file(
        "by-set",
        "*filter\n:INPUT ACCEPT [0:0]\n-A INPUT -m set --match-set all src -j DROP\nCOMMIT\n",
    );
    let set = |words: &str| {
        let words: Vec<&str> = ["set"].into_iter().chain(words.split(' ')).collect();
        assert_eq!(bench.keepstate_plain(&words).code, 0, "{words:?}");
    };
    set("create bad hash:net");
    set("create all list:set");
    set("add all bad");
    set("add bad 10.9.1.0/24");
    let taken = order(&format!("apply {by_set}"));
    assert!(
        taken.starts_with("0 ") && !taken.contains("connection"),
        "{taken}"
    );
    set("add bad 10.9.0.0/24");
    assert!(!bench.answers(), "the set does not count");
    set("del bad 10.9.0.0/24");
    let open = bench.file("open", OPEN);
    assert!(order(&format!("apply {open}")).starts_with("0 "));
    set("add bad 10.9.0.0/24");
    let refused = order(&format!("apply {by_set}"));
    assert!(refused.starts_with("1 "), "{refused}");
    assert!(refused.contains("--match-set all src -j DROP"), "{refused}");
    // What keeps the connection is taken, with a warning that it is the last one.
    let narrowed = order(&format!("apply {narrow}"));
    assert!(narrowed.starts_with("0 "), "{narrowed}");
    assert!(narrowed.contains("no other could be made"), "{narrowed}");
    // The connection is cut where that was forced, and comes back since nobody could confirm.
    let answer = order(&format!("apply {shut} --force --confirm 1"));
    assert!(answer.starts_with("0 "), "{answer}");
    let after = order("status");
    assert!(after.starts_with("0 "), "{after}");
    let _ = (operator.kill(), server.kill());
    let _ = (operator.wait(), server.wait());
}

#[test]
fn kept_rules_are_in_force_after_the_next_start() {
    let Some(bench) = Bench::up("kept_rules_are_in_force_after_the_next_start", "kept") else {
        return;
    };
    let shut = bench.file("shut", SHUT);
    bench.succeeds(&["apply", &shut]);
    let said = bench.succeeds(&["save"]);
    assert!(said.contains("rules.v4: 0 rules"), "{said}");
    let v4 = std::fs::read_to_string(bench.directory.join("etc/rules.v4")).expect("it is there");
    assert!(v4.starts_with("# Generated by iptables-save"), "{v4}");
    assert!(v4.contains(":INPUT DROP [0:0]"), "{v4}");
    // As after a boot: nothing is left of the old programs.
    bench.succeeds(&["down"]);
    assert!(bench.answers());
    bench.succeeds(&["up"]);
    assert!(!bench.answers(), "the rules are not in force");
    // Rules that are named come first, and what filters already stays.
    let open = bench.file("open", OPEN);
    bench.succeeds(&["apply", &open]);
    bench.kill_daemon();
    bench.succeeds(&["up"]);
    assert!(bench.answers(), "the kept rules replaced those in force");
    bench.succeeds(&["down"]);
    bench.succeeds(&["up", "--rules", &open]);
    assert!(
        bench.answers(),
        "the kept rules replaced those that were named"
    );
}

#[test]
fn sets_are_kept_with_the_rules_that_name_them() {
    const NAME: &str = "sets_are_kept_with_the_rules_that_name_them";
    let Some(bench) = Bench::up(NAME, "kept-sets") else {
        return;
    };
    let set = |words: &str| {
        let words: Vec<&str> = ["set"].into_iter().chain(words.split(' ')).collect();
        let done = bench.keepstate_plain(&words);
        assert_eq!(done.code, 0, "{words:?}: {}", done.stderr);
        done.stdout
    };
    set("create bad hash:net timeout 0 maxelem 1000");
    set("add bad 10.9.0.2");
    set("add bad 198.51.100.0/24 timeout 3600");
    set("create six hash:ip family inet6");
    set("add six 2001:db8::1");
    set("create web hash:ip,port");
    set("add web 192.0.2.1,tcp:80");
    // The list is made before what it holds, and must be read after it.
    set("create all list:set size 4");
    set("add all bad");
    set("add all web");
    let rules = bench.file(
        "named",
        "iptables -A INPUT -m set --match-set all src -j DROP\n",
    );
    bench.succeeds(&["apply", &rules]);
    assert!(!bench.answers(), "the set does not count");
    let said = bench.succeeds(&["save"]);
    assert!(said.contains("ipsets: 4 sets"), "{said}");
    let file = bench.directory.join("etc/ipsets");
    let read = || std::fs::read_to_string(&file).expect("sets are kept");
    let without_times = |text: &str| -> Vec<String> {
        let lines = text.lines().map(|line| line.split(" timeout 3").next());
        lines
            .map(|line| line.unwrap_or_default().to_owned())
            .collect()
    };
    assert_eq!(without_times(&read()), without_times(&set("save")));

    // The machine starts anew.
    bench.succeeds(&["down"]);
    assert!(bench.answers());
    bench.succeeds(&["up"]);
    assert!(!bench.answers(), "the rules or their sets are not in force");
    assert_eq!(without_times(&read()), without_times(&set("save")));
    set("del bad 10.9.0.2");
    assert!(bench.answers(), "the rules do not ask the set");

    // A line that is wrong stops the start, and is named.
    bench.succeeds(&["down"]);
    let kept = read();
    for (line, wrong) in [
        (1, "add nobody 10.0.0.1\n"),
        (2, "create x hash:ip\ncreate x hash:net\n"),
        (1, "create y hash:mac\n"),
    ] {
        std::fs::write(&file, wrong).expect("it can be written");
        let refused = bench.keepstate(&["up"]);
        assert!(!refused.status.success(), "{wrong}");
        let said = String::from_utf8_lossy(&refused.stderr).into_owned();
        assert!(said.contains(&format!("ipsets:{line}: ")), "{said}");
    }
    std::fs::write(&file, kept).expect("it can be written");
    bench.succeeds(&["up"]);

    // Without sets there is no file.
    let open = bench.file("open", OPEN);
    bench.succeeds(&["apply", &open]);
    set("destroy");
    bench.succeeds(&["save"]);
    assert!(!file.exists(), "the file of sets stayed");
}
