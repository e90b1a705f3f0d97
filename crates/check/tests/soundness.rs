//! A rule that is said to be hidden decides for no packet, and counts none, whatever the rules are.

#[path = "../../policy/tests/policy/common.rs"]
#[allow(dead_code, reason = "its own tests use the rest")]
mod common;

use std::collections::BTreeSet;

use keepstate_check::{Code, Finding, Severity, Subject, check, mend};
use keepstate_engine::tuple::{Address, Family};
use keepstate_engine::verdict::{Hook, State};
use keepstate_policy::model::{HOOKS, Interface, Match, PortRange, Rule, Table, Target, Test};
use keepstate_policy::{FileKind, Network, Policy};
use proptest::prelude::*;
use proptest::sample::select;

/// A packet as rules see it.
#[derive(Clone, Debug)]
struct Probe {
    addresses: [Address; 2],
    protocol: u8,
    ports: [u16; 2],
    state: State,
    interfaces: [&'static str; 2],
    hook: Hook,
}

/// The rules that a packet matches, chain by chain.
fn matched(table: &Table, probe: &Probe) -> BTreeSet<(String, usize)> {
    let mut seen = BTreeSet::new();
    walk(table, probe.hook.chain(), probe, &mut seen);
    seen
}

/// Whether the packet met its end.
fn walk(table: &Table, chain: &str, probe: &Probe, seen: &mut BTreeSet<(String, usize)>) -> bool {
    for (index, rule) in table.rules(chain).unwrap().iter().enumerate() {
        if !matches(rule, probe) {
            continue;
        }
        seen.insert((chain.to_owned(), index));
        match &rule.target {
            Target::Accept | Target::Drop => return true,
            Target::Return => return false,
            Target::Goto(to) => return walk(table, to.as_str(), probe, seen),
            Target::Jump(to) if walk(table, to.as_str(), probe, seen) => return true,
            _ => {}
        }
    }
    false
}

fn matches(rule: &Rule, probe: &Probe) -> bool {
    fn holds<T>(test: Option<&Test<T>>, compare: impl Fn(&T) -> bool) -> bool {
        test.is_none_or(|test| compare(&test.value) != test.negated)
    }
    let within = |side: usize| move |network: &Network| network.contains(&probe.addresses[side]);
    let named = |side: usize| move |it: &Interface| it.matches(probe.interfaces[side]);
    holds(rule.source.as_ref(), within(0))
        && holds(rule.destination.as_ref(), within(1))
        && holds(rule.in_interface.as_ref(), named(0))
        && holds(rule.out_interface.as_ref(), named(1))
        && holds(rule.protocol.as_ref(), |it| it.0 == probe.protocol)
        && rule.matches.iter().all(|one| {
            if let Match::States(states) = one {
                return states.set.contains(probe.state) != states.negated;
            }
            if let Match::Ports(ports) = one {
                let port = |side: usize| {
                    move |range: &PortRange| (range.first..=range.last).contains(&probe.ports[side])
                };
                return holds(ports.source.as_ref(), port(0))
                    && holds(ports.destination.as_ref(), port(1));
            }
            true
        })
}

fn probes(addresses: &'static [&'static str], family: Family) -> impl Strategy<Value = Probe> {
    let address = move || {
        (select(addresses), 0..4u32).prop_map(move |(text, noise)| {
            let mut address = Network::parse(family, text).unwrap().address;
            address[if family == Family::V4 { 0 } else { 3 }] ^= noise;
            address
        })
    };
    let port = || select(vec![0, 20, 22, 53, 80, 81, 1023, 1024, 65535]);
    let interface = || select(vec!["lo", "eth0", "eth1", "wlan0"]);
    let state = select(vec![
        State::Invalid,
        State::New,
        State::Established,
        State::Related,
        State::Untracked,
    ]);
    (
        [address(), address()],
        select(vec![1u8, 6, 17]),
        [port(), port()],
        state,
        [interface(), interface()],
        select(HOOKS.to_vec()),
    )
        .prop_map(
            |(addresses, protocol, ports, state, interfaces, hook)| Probe {
                addresses,
                protocol,
                ports,
                state,
                interfaces: [
                    if hook == Hook::Output {
                        ""
                    } else {
                        interfaces[0]
                    },
                    if hook == Hook::Input {
                        ""
                    } else {
                        interfaces[1]
                    },
                ],
                hook,
            },
        )
}

fn subject(text: &str, family: Family) -> Subject {
    let mut policy = Policy::default();
    policy.merge(common::read(text, FileKind::Save(family)));
    Subject {
        policy,
        families: vec![family],
        sources: Vec::new(),
        source_of: [None; 2],
        is_running: false,
    }
}

fn says_hidden(finding: &Finding) -> bool {
    matches!(
        finding.code,
        Code::NeverMatches | Code::LogTooLate | Code::LimitVoid
    )
}

/// How many rules were said to be hidden.
fn agree(text: &str, family: Family, probes: &[Probe]) -> usize {
    let subject = subject(text, family);
    let table = &subject.policy.ruleset(family).filter;
    let findings = check(&subject);
    let hidden: BTreeSet<(String, usize)> = findings
        .iter()
        .filter(|finding| says_hidden(finding))
        .map(|finding| (finding.location.chain.clone(), finding.location.number - 1))
        .collect();
    for probe in probes {
        let seen = matched(table, probe);
        let wrong: Vec<_> = seen.intersection(&hidden).collect();
        assert!(wrong.is_empty(), "{wrong:?} match {probe:?}\n{text}");
    }
    hidden.len()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn hidden_rules_of_ipv4_match_nothing(
        text in common::table(common::ADDRESSES_V4),
        probes in prop::collection::vec(probes(common::ADDRESSES_V4, Family::V4), 200),
    ) {
        agree(&text, Family::V4, &probes);
    }

    #[test]
    fn hidden_rules_of_ipv6_match_nothing(
        text in common::table(common::ADDRESSES_V6),
        probes in prop::collection::vec(probes(common::ADDRESSES_V6, Family::V6), 200),
    ) {
        agree(&text, Family::V6, &probes);
    }

    #[test]
    fn mended_rules_have_fewer_findings_and_are_rules(
        text in common::table(common::ADDRESSES_V4),
    ) {
        let subject = subject(&text, Family::V4);
        let before = check(&subject);
        let mended = mend(&subject);
        let after = check(&Subject { policy: mended.policy.clone(), ..subject });
        prop_assert!(after.len() + mended.done.len() <= before.len());
        let printed = common::printed(&mended.policy.v4.filter);
        common::read(&printed, FileKind::Save(Family::V4));
    }
}

/// The random rulesets are such that the checks above have something to say.
#[test]
fn hidden_rules_are_found_in_random_rulesets() {
    use proptest::strategy::ValueTree;
    use proptest::test_runner::TestRunner;

    let mut runner = TestRunner::deterministic();
    let mut found = 0;
    for _ in 0..100 {
        let tree = common::table(common::ADDRESSES_V4)
            .new_tree(&mut runner)
            .unwrap();
        found += agree(&tree.current(), Family::V4, &[]);
    }
    assert!(found > 100, "only {found} in 100 rulesets");
}

/// 20,000 rules are looked through, and a rule at the end finds the one at the beginning.
#[test]
fn large_rulesets_are_searched() {
    let mut text = String::from("*filter\n:INPUT DROP [0:0]\n-A INPUT -s 10.0.0.0/16 -j DROP\n");
    for index in 0..20_000_u32 {
        let address = std::net::Ipv4Addr::from_bits(0xc000_0000 + index);
        text += &format!(
            "-A INPUT -s {address} -p tcp --dport 22 -m conntrack --ctstate NEW -j ACCEPT\n"
        );
    }
    text += "-A INPUT -s 10.0.3.4 -j DROP\nCOMMIT\n";
    let findings = check(&subject(&text, Family::V4));
    let hidden: Vec<&Finding> = findings.iter().filter(|it| says_hidden(it)).collect();
    assert_eq!(hidden.len(), 1);
    assert_eq!(hidden[0].severity, Severity::Warning);
    assert_eq!(hidden[0].related[0].1.number, 1);
}
