//! Files that nobody meant: no panic, no hang, and every diagnostic can be shown.

use std::time::{Duration, Instant};

use keepstate_engine::tuple::Family;
use keepstate_policy::{FileKind, Policy, Style, compile, parse_rules};
use proptest::prelude::*;
use proptest::sample::select;

const WORDS: &[&str] = &[
    "iptables",
    "ip6tables",
    "-A",
    "-I",
    "-D",
    "-R",
    "-L",
    "-S",
    "-F",
    "-Z",
    "-N",
    "-X",
    "-E",
    "-P",
    "-C",
    "INPUT",
    "FORWARD",
    "OUTPUT",
    "foo",
    "bar",
    "-p",
    "tcp",
    "udp",
    "all",
    "58",
    "-s",
    "-d",
    "10.0.0.0/8",
    "::1",
    "1.2.3.4,5.6.7.8",
    "!",
    "-i",
    "-o",
    "eth+",
    "+",
    "-m",
    "conntrack",
    "state",
    "comment",
    "--ctstate",
    "--state",
    "NEW",
    "NEW,INVALID",
    "--comment",
    "--dport",
    "--sport",
    "22",
    ":",
    "1:2",
    "-j",
    "-g",
    "ACCEPT",
    "DROP",
    "RETURN",
    "LOG",
    "-c",
    "1",
    "2",
    "0",
    "4294967296",
    "-t",
    "filter",
    "nat",
    "-v",
    "-nvL",
    "-w",
    "-w5",
    "--line-numbers",
    "\n",
    ";",
    "\\\n",
    "'",
    "\"",
    "#",
    "*filter\n",
    "COMMIT\n",
    ":foo - [1:2]\n",
    "[1:2]",
    "[",
    "--",
    "-",
    "--=",
    "--dport=",
    "é",
    "\u{0}",
    "service",
    "save",
    "$x",
];

/// Reads a text as every kind, shows every diagnostic and compiles what was understood.
fn survive(text: &str) {
    for kind in [
        FileKind::Detect,
        FileKind::Script,
        FileKind::Save(Family::V4),
        FileKind::Save(Family::V6),
    ] {
        let parsed = parse_rules(text, kind);
        for diagnostic in &parsed.diagnostics {
            assert!(
                diagnostic.span.line > 0 && diagnostic.span.column > 0,
                "{diagnostic}"
            );
            let shown = diagnostic.render("rules", Style::Plain);
            assert!(shown.contains("rules:"), "{shown}");
            let _ = diagnostic.render("rules", Style::Colour);
        }
        let _ = compile(&parsed.policy);
        if parsed.has_errors() {
            continue;
        }
        // What was understood can be printed and understood again.
        for family in [Family::V4, Family::V6] {
            let printed = crate::common::printed(&parsed.policy.ruleset(family).filter);
            let again = crate::common::read(&printed, FileKind::Save(family));
            assert_eq!(
                again.policy.ruleset(family),
                parsed.policy.ruleset(family),
                "{text}"
            );
        }
    }
}

fn words() -> impl Strategy<Value = Vec<&'static str>> {
    prop::collection::vec(select(WORDS), 0..40)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(3000))]

    #[test]
    fn any_text_is_survived(text in "\\PC*|(?s:.{0,200})|[ -~\n]{0,300}") {
        survive(&text);
    }

    #[test]
    fn any_row_of_words_is_survived(words in words()) {
        survive(&words.join(" "));
    }

    #[test]
    fn any_command_is_survived(words in words()) {
        let mut policy = Policy::default();
        let _ = policy.apply_command(Family::V4, &["-N", "foo"]);
        let before = policy.clone();
        for family in [Family::V4, Family::V6] {
            match policy.apply_command(family, &words) {
                Ok(output) if !output.changed => prop_assert_eq!(&policy, &before),
                Ok(_) => policy = before.clone(),
                Err(error) => {
                    prop_assert_eq!(&policy, &before);
                    prop_assert!(error.iptables_text("iptables").ends_with('\n'));
                }
            }
        }
    }

    #[test]
    fn mangled_files_are_survived(
        text in crate::common::table(crate::common::ADDRESSES_V4),
        changes in prop::collection::vec((any::<prop::sample::Index>(), select(WORDS), 0..3u8), 1..6),
    ) {
        let mut characters: Vec<char> = text.chars().collect();
        for (index, word, how) in changes {
            let at = index.index(characters.len().max(1));
            match how {
                0 => { characters.truncate(at); }
                1 => { characters.splice(at..at, word.chars()); }
                _ => { characters.splice(at..(at + 3).min(characters.len()), word.chars().take(1)); }
            }
        }
        survive(&characters.into_iter().collect::<String>());
    }
}

#[test]
fn long_files_are_read_in_linear_time() {
    let started = Instant::now();
    let rules = |count: usize| {
        let lines = (0..count).map(|n| {
            format!(
                "iptables -A INPUT -s 10.{}.{}.1 -p tcp --dport {} -j ACCEPT\n",
                n >> 8 & 255,
                n & 255,
                n % 60000
            )
        });
        lines.collect::<String>()
    };
    let parsed = crate::common::read(&rules(30_000), FileKind::Detect);
    assert_eq!(compile(&parsed.policy).unwrap().header.rules, 30_006);
    // One more than there may be, and lists that multiply.
    assert!(parse_rules(&rules(41_000), FileKind::Detect).has_errors());
    let list = vec!["10.0.0.1"; 100].join(",");
    let product = format!("iptables -A INPUT -s {list} -d {list}\n").repeat(100);
    assert!(parse_rules(&product, FileKind::Detect).has_errors());
    let chains: String = (0..20_000).map(|n| format!("iptables -N c{n}\n")).collect();
    let _ = parse_rules(&chains, FileKind::Detect);
    let nonsense = parse_rules(&"x\n".repeat(50_000), FileKind::Detect);
    assert_eq!(nonsense.diagnostics.len(), 50_000);
    assert!(
        started.elapsed() < Duration::from_secs(30),
        "{:?}",
        started.elapsed()
    );
}
