//! The rule parser and compiler: never panic, name places that exist, print what reads back as
//! the same, and compile to tables that the engine can walk to their end.

use keepstate_engine::policy::{NO_RULE, Rule, target};
use keepstate_engine::settings::Settings;
use keepstate_engine::time::Tick;
use keepstate_engine::tuple::Family;
use keepstate_engine::verdict::{Reason, Verdict};
use keepstate_flowmemory::{Accounting, OwnedTable};
use keepstate_policy::{
    Compiled, Diagnostic, FileKind, Policy, ShowCounters, Style, compile, parse_rules, save,
};
use keepstate_sim::plane::{LoadedPolicy, Plane};

use crate::wire::{arrival, packets};

pub(crate) fn run(data: &[u8]) {
    // The command line refuses what is not text before it comes here.
    let Ok(text) = std::str::from_utf8(data) else {
        return;
    };
    for kind in [
        FileKind::Detect,
        FileKind::Script,
        FileKind::Save(Family::V4),
    ] {
        let parsed = parse_rules(text, kind);
        for diagnostic in &parsed.diagnostics {
            check_place(text, diagnostic);
        }
        let families = parsed.families.clone();
        let Ok(policy) = parsed.into_policy() else {
            continue;
        };
        for family in families {
            check_round_trip(&policy, family);
        }
        if let Ok(compiled) = compile(&policy) {
            check_tables(&compiled);
            walk(compiled);
        }
    }
}

pub(crate) fn seeds() -> Vec<Vec<u8>> {
    let texts = [
        "*filter\n:INPUT DROP [0:0]\n:FORWARD DROP [0:0]\n:OUTPUT ACCEPT [12:3400]\n:web - [0:0]\n\
         -A INPUT -i lo -j ACCEPT\n\
         -A INPUT -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT\n\
         [7:420] -A INPUT -m conntrack --ctstate INVALID -j DROP\n\
         -A INPUT -p tcp -m tcp --dport 80:443 -m state --state NEW -j web\n\
         -A web ! -s 10.0.0.0/8 -j RETURN\n-A web -j ACCEPT\nCOMMIT\n",
        "iptables -P INPUT DROP\niptables -N web\niptables -A INPUT -p udp --sport 53 -g web\n\
         iptables -I INPUT 1 -s 192.168.1.0/255.255.255.0 -i eth+ -j ACCEPT\n\
         iptables -D INPUT 1 # a comment\nip6tables -A INPUT -p ipv6-icmp -j ACCEPT\n\
         iptables -A INPUT -m comment --comment \"two words\" -j DROP\niptables -Z\n",
        "iptables -F\niptables -X\niptables -A FORWARD -o eth1 -d 2001:db8::/32 -j ACCEPT\n",
        // Labels of flows, and what the table raw says of them.
        "*raw\n-A PREROUTING -p udp -m udp --dport 69 -j CT --helper tftp --zone 3\n\
         -A PREROUTING -p tcp -j CT --ctevents new,destroy\n-A OUTPUT -j NOTRACK\nCOMMIT\n\
         *filter\n-A INPUT -m connlabel --label 3 --set\n\
         -A INPUT -m connlabel ! --label 127 -j ACCEPT\n\
         -A INPUT -m connlabel --label 3 -j CONNMARK --set-xmark 0x5/0xff\nCOMMIT\n",
        "iptables -A INPUT -m connlabel --label 128 -j ACCEPT\n\
         iptables -A INPUT -m connlabel --label 0 --set -j DROP\n\
         ip6tables -A FORWARD -m connlabel --label 64 --set -m connlabel --label 63 -j ACCEPT\n",
    ];
    texts.map(|text| text.as_bytes().to_vec()).to_vec()
}

/// A diagnostic names a line of the text, and a place in it or right behind it.
fn check_place(text: &str, diagnostic: &Diagnostic) {
    let lines = text.lines().count().max(1) as u32;
    let span = diagnostic.span;
    // A missing COMMIT is missed behind the last line.
    assert!((1..=lines + 1).contains(&span.line), "{diagnostic:?}");
    let characters = diagnostic.line.chars().count() as u32;
    assert!(
        span.column >= 1 && span.column <= characters + 1,
        "{diagnostic:?}"
    );
    assert!(!diagnostic.render("rules", Style::Plain).is_empty());
}

fn check_round_trip(policy: &Policy, family: Family) {
    let ruleset = policy.ruleset(family);
    let printed = save(ruleset, ShowCounters::Yes, "Sun Nov 22 12:00:00 2026");
    let again = parse_rules(&printed, FileKind::Save(family));
    assert!(
        !again.has_errors(),
        "not read back:\n{printed}\n{:?}",
        again.diagnostics
    );
    let read = again.policy.ruleset(family);
    assert_eq!(
        save(read, ShowCounters::Yes, ""),
        save(ruleset, ShowCounters::Yes, ""),
        "read back as another:\n{printed}"
    );
}

/// Every index leads to something.
fn check_tables(compiled: &Compiled) {
    let count = compiled.rules.len() as u32;
    assert_eq!(compiled.header.rules, count);
    assert_eq!(compiled.sources.len(), compiled.rules.len());
    assert!(
        compiled
            .header
            .entry
            .iter()
            .flatten()
            .all(|first| *first < count)
    );
    assert!(
        compiled
            .header
            .cached
            .iter()
            .all(|rule| *rule == NO_RULE || *rule < count)
    );
    let leads_on = |rule: &&Rule| matches!(rule.target, target::JUMP | target::GOTO);
    assert!(
        compiled
            .rules
            .iter()
            .filter(leads_on)
            .all(|rule| rule.jump < count)
    );
    for rule in &compiled.rules {
        assert!((rule.chain as usize) < compiled.chains.len());
    }
}

/// Some packets meet the rules; none may try more rules than one packet may, since the compiler
/// has counted.
fn walk(compiled: Compiled) {
    const BUCKETS: [u32; 2] = [2, 2];
    let memory = OwnedTable::new(BUCKETS, Accounting::No);
    let policy = LoadedPolicy {
        header: compiled.header,
        rules: compiled.rules,
        conditions: compiled.conditions,
        index: compiled.index,
        names: Vec::new(),
    };
    let settings = Settings::defaults(16, BUCKETS);
    let plane = Plane::new(memory.as_slices(), settings, policy, ());
    for packet in packets() {
        for way in [0, 4] {
            let outcome = plane.judge(&packet.ethernet(), &arrival(way), Tick(1));
            assert_ne!(outcome.reason, Some(Reason::RuleStepsExceeded));
            if outcome.verdict == Verdict::Drop {
                assert!(outcome.reason.is_some());
            }
        }
    }
}
