//! iptables, iptables-save and iptables-restore against a running daemon, beside the real ones
//! against the kernel: same output, same messages, same exit codes, same rules.

use crate::bench::Bench;

/// Both do the same; `input` goes to either.
#[track_caller]
fn check(bench: &Bench, line: &str, input: &str) {
    let words: Vec<&str> = line.split_whitespace().collect();
    let (ours, theirs) = (bench.ours(&words, input), bench.theirs(&words, input));
    assert_eq!(ours, theirs, "{line}\n{input}");
}

/// What iptables-save prints, without the times.
#[track_caller]
fn saved(bench: &Bench, line: &str) -> String {
    let words: Vec<&str> = line.split_whitespace().collect();
    let text = |printed: String| -> String {
        let lines = printed.lines().filter(|line| !line.starts_with('#'));
        lines.map(|line| format!("{line}\n")).collect()
    };
    let (ours, theirs) = (bench.ours(&words, ""), bench.theirs(&words, ""));
    assert_eq!(ours.code, 0, "{ours:?}");
    let (ours, theirs) = (text(ours.stdout), text(theirs.stdout));
    assert_eq!(ours, theirs, "{line}");
    ours
}

#[test]
fn commands_do_what_iptables_does() {
    let Some(bench) = Bench::up("commands_do_what_iptables_does", "commands") else {
        return;
    };
    for line in [
        "iptables -N web",
        "iptables -A INPUT -i lo -j ACCEPT",
        "iptables -A INPUT -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT",
        "iptables -A INPUT -p tcp --dport 80 -j web",
        "iptables -A web -s 10.0.0.0/8,192.168.0.0/16 -j ACCEPT",
        "iptables -I INPUT 2 ! -s 10.9.0.0/24 -p udp --dport 53 -j DROP",
        "iptables -v -A INPUT -p icmp -j ACCEPT",
        "iptables -P FORWARD DROP",
        "iptables -C INPUT -i lo -j ACCEPT",
        "iptables -C INPUT -i eth7 -j ACCEPT",
        "iptables -D INPUT 99",
        "iptables -E web www",
        "iptables -X www",
        "iptables -R INPUT 2 -p udp --dport 5353 -j DROP",
        "iptables -w 5 -D INPUT -p udp --dport 5353 -j DROP",
        "iptables -t raw -A PREROUTING -p udp --dport 53 -j CT --notrack",
        "iptables -t raw -S",
        "iptables -L -n -v -x --line-numbers",
        "iptables -L www -n",
        "iptables -S INPUT 2",
        "iptables -vS",
        "iptables -A NOPE -j ACCEPT",
        "iptables -A INPUT -j NOPE",
        "iptables -A INPUT --dport 22 -j ACCEPT",
        "iptables --zork",
        "iptables -t zork -L",
        "ip6tables -A INPUT -s 2001:db8::/32 -p ipv6-icmp -j ACCEPT",
        "ip6tables -S",
        "iptables -Z INPUT",
        "iptables -F www",
    ] {
        check(&bench, line, "");
    }
    saved(&bench, "iptables-save");
    saved(&bench, "iptables-save -c");
    saved(&bench, "iptables-save -t raw");
    // Neighbours are looked for all the time, so that policies count.
    let v6 = bench.ours(&["ip6tables-save"], "").stdout;
    assert!(
        v6.contains("\n-A INPUT -s 2001:db8::/32 -p ipv6-icmp -j ACCEPT\nCOMMIT\n"),
        "{v6}"
    );
    let help = bench.ours(&["iptables", "--version"], "");
    assert_eq!(help.stdout, "iptables v1.8.9 (keepstate)\n");
    let as_subcommand = bench.keepstate_plain(&["iptables", "-S", "FORWARD"]);
    assert_eq!(
        as_subcommand,
        bench.theirs(&["iptables", "-S", "FORWARD"], "")
    );

    // What a rule has counted is kept by the next command.
    assert!(bench.answers());
    bench.ours(&["iptables", "-A", "INPUT", "-p", "tcp", "-j", "DROP"], "");
    let counted = bench.ours(&["iptables", "-L", "INPUT", "-nvx"], "").stdout;
    let icmp = counted.lines().find(|line| line.contains(" 1    -- "));
    let icmp = icmp.expect("the rule for ICMP is listed");
    assert!(icmp.split_whitespace().next() == Some("1"), "{counted}");
    let status = bench.succeeds(&["status"]);
    assert!(status.contains("iptables"), "{status}");
}

#[test]
fn restore_does_what_iptables_restore_does() {
    let Some(bench) = Bench::up("restore_does_what_iptables_restore_does", "restore") else {
        return;
    };
    let table = "*filter\n:INPUT DROP [7:700]\n:own - [0:0]\n\
                 [3:300] -A INPUT -p tcp -m tcp --dport 22 -j own\n-A own -j RETURN\nCOMMIT\n";
    let more = "*filter\n-A INPUT -s 192.0.2.1 -j ACCEPT\nCOMMIT\n";
    let raw = "*raw\n-A PREROUTING -p udp -j NOTRACK\nCOMMIT\n";
    for (line, input) in [
        ("iptables-restore", table),
        ("iptables-restore --noflush", more),
        ("iptables-restore --test", raw),
        ("iptables-restore -c", table),
        ("iptables-restore -n -T raw", &format!("{more}{raw}")),
        ("iptables-restore -w 3 -n", more),
        (
            "iptables-restore",
            "*filter\n:INPUT ACCEPT [0:0]\n-A INPUT --zork -j DROP\nCOMMIT\n",
        ),
        (
            "iptables-restore",
            "*filter\n:INPUT ACCEPT [0:0]\n-A NOPE -j DROP\nCOMMIT\n",
        ),
        ("iptables-restore", "*zork\nCOMMIT\n"),
        ("iptables-restore", "*filter\n:INPUT ACCEPT [0:0]\n"),
        ("iptables-restore", "INPUT ACCEPT [0:0]\n"),
        ("iptables-restore", "*filter\n:INPUT ZORK [0:0]\nCOMMIT\n"),
        (
            "iptables-restore",
            "*filter\n-A INPUT -s 1.2.3.4.5 -j DROP\nCOMMIT\n",
        ),
        ("iptables-restore --zork", ""),
        ("iptables-restore /nonexistent", ""),
        ("iptables-save --zork", ""),
        ("iptables-save surplus", ""),
        ("iptables-save -t zork", ""),
    ] {
        check(&bench, line, input);
        saved(&bench, "iptables-save -c");
    }
}

#[test]
fn what_is_saved_is_restored_byte_by_byte() {
    let Some(bench) = Bench::up("what_is_saved_is_restored_byte_by_byte", "bytes") else {
        return;
    };
    let table = "*raw\n:PREROUTING ACCEPT [0:0]\n:OUTPUT ACCEPT [0:0]\n\
                 -A PREROUTING -p udp -m udp --dport 53 -j CT --notrack\nCOMMIT\n\
                 *filter\n:INPUT DROP [0:0]\n:FORWARD DROP [1:2]\n:OUTPUT ACCEPT [0:0]\n:own - [0:0]\n\
                 [5:600] -A INPUT -p icmp -j own\n\
                 -A INPUT -m comment --comment \"it's \\\"quoted\\\"\" -j DROP\n\
                 -A own ! -s 10.0.0.0/255.0.0.3 -g own2\nCOMMIT\n"
        .replace(":own - [0:0]\n", ":own - [0:0]\n:own2 - [0:0]\n");
    let done = bench.ours(&["iptables-restore", "-c"], &table);
    assert_eq!(done.code, 0, "{done:?}");
    let strip = |text: &str| -> String {
        let lines = text.lines().filter(|line| !line.starts_with('#'));
        lines.map(|line| format!("{line}\n")).collect()
    };
    for options in [vec!["-c"], vec![]] {
        let save = || {
            let words = [vec!["iptables-save"], options.clone()].concat();
            bench.ours(&words, "").stdout
        };
        if options.is_empty() {
            // Without -c the counters of policies begin anew, as with iptables.
            bench.ours(&["iptables-restore"], &save());
        }
        let before = save();
        let words = [vec!["iptables-restore"], options.clone()].concat();
        let done = bench.ours(&words, &before);
        assert_eq!((done.code, done.stderr.as_str()), (0, ""), "{before}");
        assert_eq!(strip(&save()), strip(&before));
        let theirs = bench.theirs(&["iptables-restore", "--test"], &before);
        assert_eq!(theirs.code, 0, "{theirs:?}\n{before}");
    }
}

#[test]
fn other_tables_are_refused_with_advice() {
    let Some(bench) = Bench::up("other_tables_are_refused_with_advice", "tables") else {
        return;
    };
    let nat = [
        "iptables",
        "-t",
        "nat",
        "-A",
        "POSTROUTING",
        "-o",
        "eth0",
        "-j",
        "MASQUERADE",
    ];
    let refused = bench.ours(&nat, "");
    assert_ne!(refused.code, 0);
    assert!(
        refused.stderr.contains("translates no addresses"),
        "{refused:?}"
    );
    let refused = bench.ours(&["iptables", "-t", "security", "-L"], "");
    assert!(refused.stderr.contains("SELinux"), "{refused:?}");
    let empty = bench.ours(&["iptables", "-t", "nat", "-F"], "");
    assert_eq!(empty.code, 0, "{empty:?}");
    let file = "*nat\n:PREROUTING ACCEPT [0:0]\n-A PREROUTING -j DNAT --to 1.2.3.4\nCOMMIT\n";
    let refused = bench.ours(&["iptables-restore"], file);
    assert!(
        refused.stderr.contains("Error occurred at line: 3"),
        "{refused:?}"
    );
}

#[test]
fn without_a_daemon_it_is_said_how_to_start_one() {
    let Some(bench) = Bench::new("without_a_daemon_it_is_said_how_to_start_one", "absent") else {
        return;
    };
    let refused = bench.ours(&["iptables", "-L"], "");
    assert_eq!(refused.code, 3);
    assert!(refused.stderr.contains("keepstate up"), "{refused:?}");
    assert_eq!(bench.ours(&["iptables", "-V"], "").code, 0);
    let wrong = bench.ours(&["iptables", "--zork"], "");
    assert_eq!(wrong, bench.theirs(&["iptables", "--zork"], ""));
}
