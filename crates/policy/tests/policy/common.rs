//! Random rulesets, as text.

use keepstate_policy::model::Table;
use keepstate_policy::{FileKind, Parsed, parse_rules};
use proptest::prelude::*;
use proptest::sample::select;

/// How many chains of the user a random ruleset has. Each leads only to later ones.
pub(crate) const CHAINS: usize = 5;

/// A table in the form of iptables-save, for the family that its addresses belong to.
pub(crate) fn table(addresses: &'static [&'static str]) -> impl Strategy<Value = String> {
    let chains = 3 + CHAINS;
    let rules = (0..chains).map(|chain| {
        let rule = rule(chain, addresses);
        prop::collection::vec(rule, 0..8)
    });
    let policies = prop::collection::vec(select(vec!["ACCEPT", "DROP"]), 3);
    (policies, rules.collect::<Vec<_>>()).prop_map(|(policies, rules)| {
        let mut text = String::from("*filter\n");
        for (chain, policy) in policies.iter().enumerate() {
            text += &format!(":{} {policy} [{chain}:7]\n", name(chain));
        }
        for chain in 3..rules.len() {
            text += &format!(":{} - [0:0]\n", name(chain));
        }
        for rule in rules.iter().flatten() {
            text += rule;
        }
        text + "COMMIT\n"
    })
}

fn name(chain: usize) -> String {
    match chain {
        0 => "INPUT".into(),
        1 => "FORWARD".into(),
        2 => "OUTPUT".into(),
        own => format!("c{}", own - 3),
    }
}

fn rule(chain: usize, addresses: &'static [&'static str]) -> impl Strategy<Value = String> {
    let sometimes = |words: &'static [&'static str]| {
        let word = select(words);
        prop_oneof![3 => Just(String::new()), 1 => word.prop_map(|word| format!(" {word}"))]
    };
    let address = move |option: &'static str| {
        let one = (any::<bool>(), select(addresses));
        let one = one.prop_map(move |(negated, address)| {
            format!("{} {option} {address}", if negated { " !" } else { "" })
        });
        prop_oneof![2 => Just(String::new()), 1 => one]
    };
    let interface = match chain {
        0 => sometimes(&["-i lo", "! -i eth+", "-i eth0"]).boxed(),
        2 => sometimes(&["-o lo", "! -o eth+", "-o eth0"]).boxed(),
        _ => sometimes(&["-i lo", "! -o eth+", "-o eth0 -i eth1", "! -i +"]).boxed(),
    };
    let matches = sometimes(&[
        "-p tcp",
        "! -p udp",
        "-p tcp --dport 22",
        "-p udp ! --sport 53",
        "-p tcp --sport 1024: --dport 20:80",
        "-p icmp",
    ]);
    let states = sometimes(&[
        "-m conntrack --ctstate NEW",
        "-m conntrack ! --ctstate INVALID,NEW",
        "-m state --state ESTABLISHED,RELATED",
        "-m state --state NEW,ESTABLISHED -m conntrack ! --ctstate NEW",
    ]);
    let counters = (0..3u64, 0..100u64);
    let parts = (address("-s"), address("-d"), interface, matches, states);
    (counters, parts, target(chain)).prop_map(move |((packets, bytes), parts, target)| {
        let (source, destination, interface, matches, states) = parts;
        let name = name(chain);
        let what = format!("{source}{destination}{interface}{matches}{states}");
        format!("[{packets}:{bytes}] -A {name}{what} -m comment --comment \"r {bytes}\"{target}\n")
    })
}

fn target(chain: usize) -> BoxedStrategy<String> {
    let plain = select(vec!["", " -j ACCEPT", " -j DROP", " -j RETURN"]).prop_map(String::from);
    let first = chain.saturating_sub(2);
    if first >= CHAINS {
        return plain.boxed();
    }
    let leads = (any::<bool>(), first..CHAINS);
    let leads = leads.prop_map(|(goes, to)| format!(" -{} c{to}", if goes { 'g' } else { 'j' }));
    prop_oneof![plain, leads].boxed()
}

/// Reads a text that must be right.
#[track_caller]
pub(crate) fn read(text: &str, kind: FileKind) -> Parsed {
    let parsed = parse_rules(text, kind);
    assert!(!parsed.has_errors(), "{text}\n{:?}", parsed.diagnostics);
    parsed
}

/// The table as text, with its counters.
pub(crate) fn printed(table: &Table) -> String {
    keepstate_policy::save_table(table, keepstate_policy::ShowCounters::Yes)
}

pub(crate) const ADDRESSES_V4: &[&str] =
    &["10.0.0.1", "10.0.0.0/8", "10.0.0.0/255.0.0.3", "1.2.3.4"];
pub(crate) const ADDRESSES_V6: &[&str] =
    &["fe80::1", "fe80::/10", "::ffff:0:0/96", "fe00::/ff00::3"];
