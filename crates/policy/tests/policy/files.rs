//! Whole files: what is accepted, and how what is not is shown.

use keepstate_engine::tuple::Family;
use keepstate_policy::{Diagnostic, FileKind, Policy, Style, compile, parse_rules};

/// The diagnostics of a file, one a line.
fn told(text: &str, kind: FileKind) -> String {
    let parsed = parse_rules(text, kind);
    let lines = parsed.diagnostics.iter().map(|one| format!("{one}\n"));
    lines.collect()
}

#[track_caller]
fn check(text: &str, expected: &str) {
    let expected: String = expected
        .lines()
        .map(|line| format!("{}\n", line.trim()))
        .filter(|line| line != "\n")
        .collect();
    assert_eq!(told(text, FileKind::Detect), expected, "{text}");
}

/// The base template of the tutorial, section 7.1.
const BASE_TEMPLATE: &str = "#!/bin/bash
# 状态防火墙配置脚本

# 清空现有规则
iptables -F
iptables -X
iptables -Z

# 设置默认策略
iptables -P INPUT DROP
iptables -P FORWARD DROP  
iptables -P OUTPUT ACCEPT

# 允许本地回环
iptables -A INPUT -i lo -j ACCEPT

# 允许已建立的连接
iptables -A INPUT -m conntrack --ctstate ESTABLISHED,RELATED -j ACCEPT

# 丢弃无效连接
iptables -A INPUT -m conntrack --ctstate INVALID -j DROP

# 允许新的SSH连接
iptables -A INPUT -p tcp --dport 22 -m conntrack --ctstate NEW -j ACCEPT

# 保存规则
service iptables save
";

/// The rules of section 3.3.
const STATE_MATCHES: &str = "
# 允许已建立连接的数据包通过
iptables -A INPUT -m conntrack --ctstate ESTABLISHED,RELATED -j ACCEPT

# 允许新的SSH连接
iptables -A INPUT -p tcp --dport 22 -m conntrack --ctstate NEW -j ACCEPT  

# 拒绝无效连接
iptables -A INPUT -m conntrack --ctstate INVALID -j DROP

# 允许内网主机建立新连接
iptables -A FORWARD -s 192.168.1.0/24 -m conntrack --ctstate NEW -j ACCEPT
";

#[test]
fn the_tutorials_scripts_are_understood() {
    let template = crate::common::read(BASE_TEMPLATE, FileKind::Detect);
    assert_eq!(template.families, [Family::V4]);
    let notes: Vec<String> = template
        .diagnostics
        .iter()
        .map(Diagnostic::to_string)
        .collect();
    assert_eq!(notes, ["27:1: `service iptables save' does nothing here"]);
    let expected = "\
*filter
:INPUT DROP [0:0]
:FORWARD DROP [0:0]
:OUTPUT ACCEPT [0:0]
[0:0] -A INPUT -i lo -j ACCEPT
[0:0] -A INPUT -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT
[0:0] -A INPUT -m conntrack --ctstate INVALID -j DROP
[0:0] -A INPUT -p tcp -m tcp --dport 22 -m conntrack --ctstate NEW -j ACCEPT
COMMIT
";
    assert_eq!(crate::common::printed(&template.policy.v4.filter), expected);
    let matches = crate::common::read(STATE_MATCHES, FileKind::Detect);
    assert_eq!(matches.policy.v4.filter.rule_count(), 4);
    compile(&matches.policy).unwrap();
}

#[test]
fn what_is_not_known_is_an_error_at_its_place() {
    check(
        "iptables -A INPUT -p tcp --dprot 22",
        "1:26: unknown option \"--dprot\" (did you mean `--dport'?)",
    );
    check(
        "iptables -A INPUT --dport 22",
        "1:19: unknown option \"--dport\" (`--dport' needs `-p tcp' or `-p udp' before it)",
    );
    check(
        "iptables -A INPUT --ctstate NEW",
        "1:19: unknown option \"--ctstate\" (`--ctstate' needs `-m conntrack' before it)",
    );
    check(
        "iptables -A INPUT -m conntrack --ctstate NWE",
        "1:42: Bad ctstate \"NWE\" (did you mean `NEW'?)",
    );
    check(
        "iptables -A INPUT -m contrack",
        "1:22: Couldn't load match `contrack' (did you mean `conntrack'?)",
    );
    check(
        "iptables -A INPUT -m cpu --cpu 1",
        "1:22: the match \"cpu\" is not supported yet (packets are not told apart by CPU; `-m statistic' shares them out)",
    );
    check(
        "iptables -A INPUT -j TEE",
        "1:22: the target TEE is not supported yet (packets are not sent elsewhere; leave that to the kernel's own iptables)",
    );
    check(
        "iptables -A INPUT -p tcp --dports 22,80",
        "1:26: unknown option \"--dports\" (`--dports' needs `-m multiport' before it)",
    );
    check(
        "iptables -A INPTU -j DROP",
        "1:13: No chain/target/match by that name. (did you mean `INPUT'?)",
    );
    check(
        "iptables -A INPUT -j DORP",
        "1:22: Chain 'DORP' does not exist (did you mean `DROP'?)",
    );
    check(
        "iptables -A INPUT -dport 22",
        "1:19: \"-d\" must stand apart from its argument, with a space between them (did you mean `--dport'?)",
    );
    check(
        "iptables -A INPUT -s ! 10.0.0.1",
        "1:22: host/network `!' not found (write `!' before the option: `! -s ADDRESS')",
    );
    check(
        "iptables -t nat -A POSTROUTING -j MASQUERADE",
        "1:13: table `nat' cannot be had: Keepstate translates no addresses. Leave that to a router \
         beside this host, and write rules of filter for the addresses that are seen here",
    );
    check(
        "iptables -A INPUT --log-prefix x",
        "1:19: unknown option \"--log-prefix\" (`--log-prefix' needs `-j LOG' before it)",
    );
    check(
        "iptables -P INPUT drop",
        "1:19: Bad policy name. (did you mean `DROP'?)",
    );
    check(
        "iptalbes -F",
        "1:1: `iptalbes' is not a command that a rules file may have (did you mean `iptables'?)",
    );
    check("iptables", "1:1: no command specified");
    check(
        "set -e\nmodprobe x",
        "
        1:1: `set' is not a command that a rules file may have
        2:1: `modprobe' is not a command that a rules file may have",
    );
}

#[test]
fn what_only_a_shell_can_do_is_refused() {
    check("for s in $A; do\n  iptables -A INPUT -s $s\ndone", "
        1:10: the shell would interpret `$'; here it is not (let a shell run the script: `keepstate shell SCRIPT')
        2:24: the shell would interpret `$'; here it is not (let a shell run the script: `keepstate shell SCRIPT')
        3:1: `done' is not a command that a rules file may have");
    check(
        "iptables -A INPUT -m comment --comment 'a",
        "1:40: this quotation mark is not closed",
    );
}

#[test]
fn errors_of_a_whole_file_are_told_together() {
    let text = "*filter\n:INPUT DROP [x]\n:foo ACCEPT\n-A INPUT --bad\n[1:2 -A INPUT\n  -A FORWARD -o eth0 -x\n\
                -A OUTPUT -L\n-A INPUT -j bar\nCOMMIT\n-A INPUT\n*nat\n:PREROUTING ACCEPT [0:0]\n\
                -A POSTROUTING -j MASQUERADE\n-A POSTROUTING\nCOMMIT\n*raw\n:OUTPUT ACCEPT [1:2]\nCOMMIT\n*filter";
    check(
        text,
        "
        2:13: counters are written as [PACKETS:BYTES]
        3:6: the chain foo is not a built-in chain: its policy must be `-'
        4:10: unknown option \"--bad\"
        5:1: counters are written as [PACKETS:BYTES]
        6:22: Illegal option `-x' with this command
        7:11: Cannot use -L with -A
        8:13: Chain 'bar' does not exist
        10:1: a line outside of a table: \"*filter\" is expected first
        13:1: table `nat' cannot be had: Keepstate translates no addresses. Leave that to a router \
         beside this host, and write rules of filter for the addresses that are seen here
        19:8: COMMIT expected",
    );
}

#[test]
fn an_error_is_shown_with_the_words_around_it() {
    let text = "*filter\n-A INPUT -p tcp --dprot 22 -j ACCEPT\nCOMMIT\n";
    let parsed = parse_rules(text, FileKind::Detect);
    let expected = "\
error: unknown option \"--dprot\"
 --> rules.v4:2:17
  |
2 | -A INPUT -p tcp --dprot 22 -j ACCEPT
  |                 ^^^^^^^
  |
  = help: did you mean `--dport'?";
    assert_eq!(
        parsed.diagnostics[0].render("rules.v4", Style::Plain),
        expected
    );
}

#[test]
fn the_family_of_a_saved_file_is_told_from_its_text() {
    let rules = "*filter\n:INPUT DROP [0:0]\nCOMMIT\n";
    let told = |text: &str| crate::common::read(text, FileKind::Detect).families;
    assert_eq!(told(rules), [Family::V4]);
    assert_eq!(
        told(&format!("# Generated by ip6tables-save v1\n{rules}")),
        [Family::V6]
    );
    assert_eq!(
        told("*filter\n-A INPUT -s fe80::/10 -j DROP\nCOMMIT\n"),
        [Family::V6]
    );
    assert_eq!(
        told("*filter\n-A INPUT -p ipv6-icmp -j DROP\nCOMMIT\n"),
        [Family::V6]
    );
    let both =
        format!("# Generated by iptables-save\n{rules}# Generated by ip6tables-save\n{rules}");
    assert_eq!(told(&both), [Family::V4, Family::V6]);
    let kind = FileKind::Save(Family::V6);
    assert_eq!(crate::common::read(rules, kind).families, [Family::V6]);
    let wrong = parse_rules(&both, kind);
    assert!(wrong.has_errors());
}

#[test]
fn a_script_may_speak_of_both_families_and_files_can_be_merged() {
    let script = "iptables -P INPUT DROP; ip6tables -P INPUT DROP\n/sbin/iptables -t nat -F\n";
    let parsed = crate::common::read(script, FileKind::Detect);
    assert_eq!(parsed.families, [Family::V4, Family::V6]);
    let mut policy = Policy::default();
    policy.merge(crate::common::read(
        "iptables -P INPUT DROP",
        FileKind::Detect,
    ));
    policy.merge(crate::common::read(
        "ip6tables -P INPUT DROP",
        FileKind::Detect,
    ));
    assert_eq!(policy, parsed.policy);
    assert!(
        crate::common::read("", FileKind::Detect)
            .families
            .is_empty()
    );
}

#[test]
fn a_refused_command_leaves_the_policy_as_it_was() {
    let mut policy = crate::common::read(BASE_TEMPLATE, FileKind::Script).policy;
    let before = policy.clone();
    for command in [
        "-D INPUT -i lo,eth0 -j ACCEPT",
        "-D INPUT -s 1.1.1.1,2.2.2.2",
        "-I INPUT 9 -s 1.1.1.1,2.2.2.2 -j DROP",
        "-A INPUT -j nowhere",
        "-X INPUT",
        "-E INPUT other",
    ] {
        let words: Vec<&str> = command.split(' ').collect();
        let error = policy.apply_command(Family::V4, &words).unwrap_err();
        assert_ne!(error.exit_code(), 0, "{command}");
        assert_eq!(policy, before, "{command}");
    }
}
