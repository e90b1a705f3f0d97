//! `-m rpfilter` by the routes that the kernel has, as they come and go.

use std::time::Duration;

use crate::bench::{Bench, wait_until};

/// An address of the peer that the firewall has no route to.
const STRANGER: &str = "192.0.2.9";
const STRANGER_V6: &str = "2001:db8:9::9";

/// Routes are read every two seconds; the machine may be busy.
const PATIENCE: Duration = Duration::from_secs(20);

fn pings(bench: &Bench, from: &str, to: &str) -> bool {
    let words = ["-c", "1", "-W", "1", "-I", from, to];
    bench.peer.succeeds("ping", &words)
}

/// Packets that the first rule of raw's PREROUTING has dropped.
fn dropped(bench: &Bench, program: &str) -> u64 {
    let listed = bench.ours(&[program, "-t", "raw", "-nvxL", "PREROUTING"], "");
    let line = listed.stdout.lines().nth(2).unwrap_or_default();
    let count = line.split_whitespace().next();
    count.and_then(|word| word.parse().ok()).unwrap_or(0)
}

#[test]
fn a_sender_without_a_way_back_is_dropped_until_there_is_one() {
    const NAME: &str = "a_sender_without_a_way_back_is_dropped_until_there_is_one";
    let Some(bench) = Bench::up(NAME, "back") else {
        return;
    };
    for (host, device, address) in [
        (&bench.ours, "inner", "fd00::1/64"),
        (&bench.peer, "outer", "fd00::2/64"),
        (&bench.peer, "lo", "2001:db8:9::9/128"),
    ] {
        host.run("ip", &["address", "add", address, "dev", device, "nodad"]);
    }
    bench.peer.up("lo");
    bench.peer.address("lo", &format!("{STRANGER}/32"));
    for (program, stranger, to, known, via) in [
        ("iptables", STRANGER, "10.9.0.1", "10.9.0.2", "10.9.0.2"),
        ("ip6tables", STRANGER_V6, "fd00::1", "fd00::2", "fd00::2"),
    ] {
        let rule = "-t raw -A PREROUTING -m rpfilter --invert -j DROP";
        let words: Vec<&str> = std::iter::once(program).chain(rule.split(' ')).collect();
        let added = bench.ours(&words, "");
        assert_eq!(added.code, 0, "{}", added.stderr);
        assert!(pings(&bench, known, to), "who has a way back is let in");
        assert!(!pings(&bench, stranger, to));
        let count = dropped(&bench, program);
        assert!(count > 0, "{count} packets dropped");
        bench.ours.route(&[stranger, "via", via]);
        assert!(
            wait_until(PATIENCE, || pings(&bench, stranger, to)),
            "the route is not known"
        );
        bench.kill_daemon();
        assert!(pings(&bench, stranger, to), "the routes outlive the daemon");
        bench.succeeds(&["up"]);
        let family = if program == "iptables" { "-4" } else { "-6" };
        bench.ours.run("ip", &[family, "route", "del", stranger]);
        // By another interface there is one, which is not enough.
        bench
            .ours
            .run("ip", &[family, "route", "add", stranger, "dev", "lo"]);
        let before = dropped(&bench, program);
        let is_dropped = || !pings(&bench, stranger, to) && dropped(&bench, program) > before;
        assert!(wait_until(PATIENCE, is_dropped), "the route is still known");
        // A table that a rule of policy routing names is a way back, and one in which everybody is local is none.
        let policy = |words: &str| {
            let words: Vec<&str> = [family].into_iter().chain(words.split(' ')).collect();
            bench.ours.run("ip", &words);
        };
        policy("route add local default dev lo table 78");
        policy("rule add fwmark 1 lookup 78");
        policy(&format!("route add {stranger} via {via} table 77"));
        assert!(!pings(&bench, stranger, to), "nobody names the table");
        policy(&format!("rule add from {to} lookup 77"));
        assert!(
            wait_until(PATIENCE, || pings(&bench, stranger, to)),
            "the table is not asked"
        );
    }
}
