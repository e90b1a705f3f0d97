//! What the compiler makes of a ruleset.

use keepstate_engine::policy::{Assigned, NO_RULE, POLICY_RAW, target};

use super::*;
use crate::{FileKind, parse_rules};

const BASE_TEMPLATE: &str = "#!/bin/bash
# 清空现有规则
iptables -F
iptables -X
iptables -Z
iptables -P INPUT DROP
iptables -P FORWARD DROP  
iptables -P OUTPUT ACCEPT
iptables -A INPUT -i lo -j ACCEPT
iptables -A INPUT -m conntrack --ctstate ESTABLISHED,RELATED -j ACCEPT
iptables -A INPUT -m conntrack --ctstate INVALID -j DROP
iptables -A INPUT -p tcp --dport 22 -m conntrack --ctstate NEW -j ACCEPT
# 保存规则
service iptables save
";

#[track_caller]
fn policy_of(text: &str) -> Policy {
    parse_rules(text, FileKind::Detect).into_policy().unwrap()
}

/// Each compiled rule on a line: where it stands, what it does, what it was made of.
fn shown(compiled: &Compiled) -> String {
    let rules = compiled.rules.iter().zip(&compiled.sources).enumerate();
    let lines = rules.map(|(index, (rule, source))| {
        let verb = match rule.target {
            target::CONTINUE => "go on".into(),
            target::ACCEPT => "accept".into(),
            target::DROP => "drop".into(),
            target::RETURN => "return".into(),
            target::JUMP => format!("jump {}", rule.jump),
            _ => format!("goto {}", rule.jump),
        };
        format!("{index} {verb}: {}\n", source.text)
    });
    lines.collect()
}

#[test]
fn the_base_template_compiles_to_its_rules_and_policies() {
    let compiled = compile(&policy_of(BASE_TEMPLATE)).unwrap();
    let expected = "\
0 accept: -A INPUT -i lo -j ACCEPT
1 accept: -A INPUT -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT
2 drop: -A INPUT -m conntrack --ctstate INVALID -j DROP
3 accept: -A INPUT -p tcp -m tcp --dport 22 -m conntrack --ctstate NEW -j ACCEPT
4 drop: -P INPUT DROP
5 drop: -P FORWARD DROP
6 accept: -P OUTPUT ACCEPT
7 accept: -P INPUT ACCEPT
8 accept: -P FORWARD ACCEPT
9 accept: -P OUTPUT ACCEPT
";
    assert_eq!(shown(&compiled), expected);
    assert_eq!(compiled.header.entry, [[0, 5, 6], [7, 8, 9]]);
    assert_eq!(compiled.interface_patterns, ["lo"]);
    assert_eq!(compiled.header.cached, [5, 6, 7, 8, 9, 1, 0, NO_RULE]);
    assert_eq!(compiled, compile(&policy_of(BASE_TEMPLATE)).unwrap());
}

#[test]
fn returns_and_gotos_of_built_in_chains_end_at_their_policy() {
    let text = "*filter\n:INPUT DROP\n:foo - [0:0]\n-A INPUT -j RETURN\n-A INPUT -g foo\n\
                -A INPUT -j foo\n-A foo -j RETURN\nCOMMIT\n";
    let compiled = compile(&policy_of(text)).unwrap();
    let expected = "\
0 goto 3: -A INPUT -j RETURN
1 goto 4: -A INPUT -g foo
2 jump 8: -A INPUT -j foo
3 drop: -P INPUT DROP
4 jump 8: part of -A INPUT -g foo
5 goto 3: part of -A INPUT -g foo
6 accept: -P FORWARD ACCEPT
7 accept: -P OUTPUT ACCEPT
8 return: -A foo -j RETURN
9 return: the end of foo
10 accept: -P INPUT ACCEPT
11 accept: -P FORWARD ACCEPT
12 accept: -P OUTPUT ACCEPT
";
    assert_eq!(shown(&compiled), expected);
    for (rule, source) in compiled.rules.iter().zip(&compiled.sources) {
        let chain = &compiled.chains[rule.chain as usize];
        assert_eq!(source.chain, rule.chain);
        assert_eq!(rule.hook != 0, matches!(chain.kind, ChainKind::Builtin(_)));
    }
}

/// `-N` for some chains and `-A` for some rules.
fn policy_with(chains: u32, rules: impl Iterator<Item = String>) -> Policy {
    let mut policy = Policy::default();
    let names = (0..chains).map(|number| format!("-N c{number}"));
    for command in names.chain(rules) {
        let arguments: Vec<&str> = command.split(' ').collect();
        policy.apply_command(Family::V4, &arguments).unwrap();
    }
    policy
}

#[test]
fn loops_are_refused_where_a_packet_could_enter_them() {
    let ring = ["-A c0 -j c1", "-A c1 -g c0"].map(String::from);
    assert!(compile(&policy_with(2, ring.clone().into_iter())).is_ok());
    let entered = ring.into_iter().chain(["-A OUTPUT -j c1".into()]);
    let error = compile(&policy_with(2, entered)).unwrap_err();
    assert!(matches!(error, CompileError::Loop { .. }), "{error}");
}

#[test]
fn nesting_is_limited_and_the_message_names_the_limit() {
    let nested = |depth: u32| {
        let inner = (1..depth).map(|number| format!("-A c{} -j c{number}", number - 1));
        policy_with(depth, inner.chain(["-A INPUT -j c0".into()]))
    };
    assert!(compile(&nested(JUMP_DEPTH_MAX)).is_ok());
    let error = compile(&nested(JUMP_DEPTH_MAX + 1)).unwrap_err();
    assert!(error.to_string().contains("at most 8"), "{error}");
    // Going without coming back needs no room.
    let gone = (1..3000).map(|number| format!("-A c{} -g c{number}", number - 1));
    let policy = policy_with(3000, gone.chain(["-A INPUT -j c0".into()]));
    assert!(compile(&policy).is_ok());
}

#[test]
fn long_ways_are_refused() {
    let doubling = (1..6).flat_map(|number| {
        let jump = format!("-A c{} -j c{number}", number - 1);
        std::iter::repeat_n(jump, 10)
    });
    let policy = policy_with(6, doubling.chain(["-A INPUT -j c0".into()]));
    let error = compile(&policy).unwrap_err();
    assert!(
        matches!(error, CompileError::TooManySteps { .. }),
        "{error}"
    );
    assert!(error.to_string().contains("65536"), "{error}");
}

#[test]
fn interfaces_are_limited_and_both_families_share_them() {
    let rules = |count: u32| (0..count).map(|number| format!("-A INPUT -i eth{number}"));
    let mut policy = policy_with(0, rules(INTERFACE_PATTERNS_MAX));
    let last = ["-A", "INPUT", "-i", "eth63"];
    policy.apply_command(Family::V6, &last).unwrap();
    let compiled = compile(&policy).unwrap();
    assert_eq!(compiled.interface_patterns.len(), 64);
    assert_eq!(compiled.interface_patterns[63], "eth63");
    let error = compile(&policy_with(0, rules(INTERFACE_PATTERNS_MAX + 1))).unwrap_err();
    assert_eq!(error, CompileError::TooManyInterfaces);
}

#[test]
fn the_table_raw_follows_and_assigns() {
    let text = "*raw\n:PREROUTING ACCEPT\n:OUTPUT DROP\n\
                -A PREROUTING -p tcp --dport 21 -j CT --helper ftp --timeout slow\n\
                -A PREROUTING -p udp -j NOTRACK\n-A PREROUTING -j RETURN\nCOMMIT\n";
    let compiled = compile(&policy_of(text)).unwrap();
    assert_eq!(compiled.header.flags & POLICY_RAW, POLICY_RAW);
    assert_eq!(compiled.header.entry, [[0, 1, 2], [3, 4, 5]]);
    assert_eq!(compiled.header.raw_entry, [[6, 10], [11, 12]]);
    let assigned = compiled.rules[6..9].iter().map(|rule| rule.assigned);
    let ftp = Assigned::new(keepstate_engine::helper::FTP, 1);
    let expected = [ftp, Assigned::NOTRACK, Assigned::NOTHING];
    assert_eq!(assigned.collect::<Vec<_>>(), expected);
    assert_eq!(compiled.rules[8].jump, 9, "RETURN goes to the policy");
    assert_eq!(compiled.timeouts, ["slow"]);
    assert!(compiled.rules[6..].iter().all(|rule| rule.hook == 0));
    assert!(compiled.sources[7].text.starts_with("-t raw -A PREROUTING"));
    let without = compile(&policy_of("*raw\nCOMMIT\n")).unwrap();
    assert_eq!(without.header.flags & POLICY_RAW, 0);
    let mut policy = policy_of(text);
    compiled.store_counters(&mut policy, |index| Counters {
        packets: index.into(),
        bytes: 0,
    });
    assert_eq!(
        policy.v4.raw.rules("PREROUTING").unwrap()[1]
            .counters
            .packets,
        7
    );
    assert_eq!(policy.v6.raw.builtin(Hook::Output).counters.packets, 12);
}

#[test]
fn counters_go_to_the_engine_and_back() {
    let text =
        "*filter\n:INPUT DROP [1:2]\n:foo - [0:0]\n[3:4] -A INPUT -g foo\n[5:6] -A foo\nCOMMIT\n";
    let mut policy = policy_of(text);
    let compiled = compile(&policy).unwrap();
    let counters = compiled.initial_counters(&policy);
    let counted = |index: usize| (counters[index].packets, counters[index].bytes);
    assert_eq!([counted(0), counted(1)], [(3, 4), (1, 2)]);
    assert_eq!([counted(2), counted(3)], [(0, 0), (0, 0)]);
    let before = policy.clone();
    policy.zero_counters();
    assert_ne!(policy, before);
    compiled.store_counters(&mut policy, |index| counters[index as usize]);
    assert_eq!(policy, before);
}
