//! The flags of the manual pages of iptables 1.8.9, each in its forms: the real iptables-restore takes the same rules in one
//! go, and both print them alike.

use std::fmt::Write as _;

use keepstate_policy::Policy;

use crate::iptables::{Twin, family_of, shell_words};

/// A rule a line: family, table, chain, and the rest as a shell would take it.
const RULES: &str = include_str!("flags.txt");

const TABLES: [&str; 3] = ["raw", "mangle", "filter"];

#[test]
fn each_flag_is_taken_and_printed_as_iptables_does() {
    let Some(twin) = Twin::new("each_flag_is_taken_and_printed_as_iptables_does") else {
        return;
    };
    for set in ["s hash:ip", "s6 hash:ip family inet6"] {
        let words: Vec<&str> = format!("create {set}").leak().split(' ').collect();
        twin.namespace.run("ipset", &words);
    }
    let mut policy = Policy::default();
    let mut differences = String::new();
    let mut count = 0;
    for (digit, program) in [("4", "iptables"), ("6", "ip6tables")] {
        let own = RULES.lines().filter_map(|line| line.strip_prefix(digit));
        let own: Vec<Vec<String>> = own.map(shell_words).collect();
        let mut text = String::new();
        for table in TABLES {
            let _ = writeln!(text, "*{table}");
            if table == "filter" {
                text += ":c1 - [0:0]\n";
            }
            for words in own.iter().filter(|words| words[0] == table) {
                let quoted = words[2..]
                    .iter()
                    .map(|word| format!("\"{}\"", word.replace('"', "\\\"")));
                let quoted: Vec<String> = quoted.collect();
                let _ = writeln!(text, "-A {} {}", words[1], quoted.join(" "));
                count += 1;
            }
            text += "COMMIT\n";
        }
        let restored = twin.theirs(&format!("{program}-restore"), &[], &text);
        assert_eq!(restored.code, 0, "{}", restored.stderr);
        let options = keepstate_policy::RestoreOptions {
            counters: keepstate_policy::UseCounters::No,
            flush: keepstate_policy::Flush::Yes,
            table: None,
        };
        let ours = policy.restore(family_of(program), &text, options);
        assert!(ours.is_ok(), "{ours:?}");
        for table in TABLES {
            let words = ["-t", table, "-S"].map(String::from);
            let theirs = twin.theirs(program, &words, "").stdout;
            let ours = policy.apply_command(family_of(program), &words);
            let ours = ours.expect("the table is listed").stdout;
            assert_eq!(ours.lines().count(), theirs.lines().count());
            for (ours, theirs) in ours.lines().zip(theirs.lines()) {
                if ours != theirs {
                    let _ = writeln!(differences, "  ours {ours}\ntheirs {theirs}");
                }
            }
        }
    }
    assert!(differences.is_empty(), "{differences}");
    assert!(count > 1_000, "only {count} rules");
}
