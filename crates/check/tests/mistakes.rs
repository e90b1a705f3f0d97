//! The mistakes of the tutorial that concern rules, and the neighbours of each that are none.

use keepstate_check::{
    Code, Finding, Source, Subject, check, mend, patch, sarif, without_settings,
};
use keepstate_engine::tuple::Family;
use keepstate_policy::{FileKind, Policy, Style, parse_rules};

/// A script, or a file of iptables-save.
#[track_caller]
fn subject(text: &str) -> Subject {
    let parsed = parse_rules(text, FileKind::Detect);
    assert!(!parsed.has_errors(), "{:?}", parsed.diagnostics);
    let families = parsed.families.clone();
    let mut policy = Policy::default();
    policy.merge(parsed);
    let source_of = [Family::V4, Family::V6].map(|family| families.contains(&family).then_some(0));
    Subject {
        policy,
        families,
        sources: vec![Source {
            origin: "rules.sh".into(),
            text: text.into(),
        }],
        source_of,
        is_running: false,
    }
}

#[track_caller]
fn findings(text: &str) -> Vec<Finding> {
    check(&subject(text))
}

/// The findings of a code, as `line: message`.
#[track_caller]
fn told(text: &str, code: Code) -> Vec<String> {
    let findings = findings(text).into_iter();
    findings
        .filter(|finding| finding.code == code)
        .map(|finding| {
            let line = finding.location.place.0.map_or(0, |place| place.line);
            format!("{line}: {}", finding.message)
        })
        .collect()
}

#[track_caller]
fn finds(text: &str, code: Code, line: u32) {
    let told = told(text, code);
    let begins = format!("{line}: ");
    assert!(
        told.iter().any(|one| one.starts_with(&begins)),
        "{told:?}\n{:#?}",
        findings(text)
    );
}

#[track_caller]
fn is_silent(text: &str, code: Code) {
    assert_eq!(told(text, code), Vec::<String>::new());
}

const ESTABLISHED: &str =
    "iptables -A INPUT -m conntrack --ctstate ESTABLISHED,RELATED -j ACCEPT\n";
const INVALID: &str = "iptables -A INPUT -m conntrack --ctstate INVALID -j DROP\n";
const SSH: &str = "iptables -A INPUT -p tcp --dport 22 -m conntrack --ctstate NEW -j ACCEPT\n";

#[test]
fn mistake_2_notrack_needs_both_directions_and_an_accept() {
    let one = "iptables -t raw -A PREROUTING -p tcp --dport 80 -j CT --notrack\n";
    let other = "iptables -t raw -A OUTPUT -p tcp --sport 80 -j CT --notrack\n";
    let accept = "iptables -A INPUT -p tcp --dport 80 -m conntrack --ctstate UNTRACKED -j ACCEPT\n";
    finds(one, Code::NotrackOneWay, 1);
    is_silent(&format!("{one}{other}"), Code::NotrackOneWay);
    let shut = format!("{one}{other}iptables -P INPUT DROP\niptables -P FORWARD DROP\n");
    finds(&shut, Code::UntrackedRefused, 1);
    is_silent(&format!("{shut}{accept}"), Code::UntrackedRefused);
    // The mirror must be for the same port.
    let wrong = "iptables -t raw -A OUTPUT -p tcp --sport 81 -j NOTRACK\n";
    finds(&format!("{one}{wrong}"), Code::NotrackOneWay, 1);
    let mended = mend(&subject(one));
    let patch = patch(&Policy::default(), &mended.policy, &[Family::V4]);
    assert!(
        patch.contains("+-A OUTPUT -p tcp -m tcp --sport 80 -j CT --notrack"),
        "{patch}"
    );
}

#[test]
fn mistake_10_an_accept_before_what_it_makes_void() {
    // 7.4: the reject of the DMZ stands behind the accept of everything inside.
    let gateway = "iptables -A FORWARD -m conntrack --ctstate ESTABLISHED,RELATED -j ACCEPT\n\
                   iptables -A FORWARD -s 192.168.0.0/16 -m conntrack --ctstate NEW -j ACCEPT\n\
                   iptables -A FORWARD -s 192.168.100.0/24 -d 192.168.1.0/24 -m conntrack --ctstate NEW -j DROP\n";
    finds(gateway, Code::NeverMatches, 3);
    let subject = subject(gateway);
    let finding = check(&subject)
        .into_iter()
        .find(|finding| finding.code == Code::NeverMatches)
        .unwrap();
    assert_eq!(finding.related[0].1.number, 2);
    let shown = finding.render(&subject.sources, Style::Plain);
    assert!(shown.contains("rules.sh:3:10"), "{shown}");
    assert!(shown.contains("this rule takes all of them"), "{shown}");
    let mended = mend(&subject);
    let patch = patch(&subject.policy, &mended.policy, &[Family::V4]);
    assert!(
        patch.contains(
            " -j DROP\n+-A FORWARD -s 192.168.0.0/16 -m conntrack --ctstate NEW -j ACCEPT"
        ),
        "{patch}"
    );
}

#[test]
fn mistake_11_the_policy_comes_first_ipv6_stays_open_and_tables_are_kept() {
    let script = format!("iptables -F\niptables -P INPUT DROP\n{ESTABLISHED}{INVALID}{SSH}");
    finds(&script, Code::PolicyFirst, 2);
    finds(&script, Code::TablesKept, 1);
    assert_eq!(told(&script, Code::Ipv6Open).len(), 1);
    let careful = format!(
        "iptables -t raw -F\niptables -F\n{INVALID}{ESTABLISHED}{SSH}iptables -P INPUT DROP\n\
         ip6tables -P INPUT DROP\n"
    );
    for code in [Code::PolicyFirst, Code::TablesKept, Code::Ipv6Open] {
        is_silent(&careful, code);
    }
    // A file of iptables-save is one step.
    let saved = "*filter\n:INPUT DROP [0:0]\n-A INPUT -p tcp -m conntrack --ctstate NEW,ESTABLISHED -j ACCEPT\nCOMMIT\n";
    is_silent(saved, Code::PolicyFirst);
}

#[test]
fn invalid_and_established_are_missed() {
    finds(
        "iptables -A INPUT -p tcp --dport 22 -j ACCEPT\niptables -A INPUT -j DROP\n",
        Code::InvalidAccepted,
        1,
    );
    is_silent(
        &format!("{INVALID}iptables -A INPUT -p tcp --dport 22 -j ACCEPT\n"),
        Code::InvalidAccepted,
    );
    is_silent(
        &format!("{SSH}iptables -P INPUT DROP\n"),
        Code::InvalidAccepted,
    );
    finds(
        &format!("{SSH}iptables -P INPUT DROP\n"),
        Code::EstablishedMissing,
        1,
    );
    is_silent(
        &format!("{ESTABLISHED}{SSH}iptables -P INPUT DROP\n"),
        Code::EstablishedMissing,
    );
    // Section 3.3 alone: INVALID is dropped after what it could be taken for, and all else passes.
    finds(&format!("{ESTABLISHED}{SSH}{INVALID}"), Code::Order, 3);
    is_silent(&format!("{INVALID}{ESTABLISHED}{SSH}"), Code::Order);
    finds(&format!("{SSH}{ESTABLISHED}"), Code::Order, 2);
    finds(ESTABLISHED, Code::FiltersNothing, 1);
}

#[test]
fn an_administrator_is_locked_out() {
    let shut = format!("iptables -P INPUT DROP\niptables -A INPUT -i lo -j ACCEPT\n{ESTABLISHED}");
    finds(&shut, Code::LockOut, 1);
    is_silent(&format!("{shut}{SSH}"), Code::LockOut);
    is_silent(
        &format!("iptables -N admin\n{shut}iptables -A INPUT -s 10.0.0.1 -j admin\n"),
        Code::LockOut,
    );
}

#[test]
fn rules_are_hidden_across_jumps() {
    let tcp = "iptables -N web\niptables -A INPUT -p tcp -j web\n";
    finds(
        &format!("{tcp}iptables -A web -p udp -j DROP\n"),
        Code::NeverMatches,
        3,
    );
    finds(
        &format!("{tcp}iptables -A web -j ACCEPT\niptables -A INPUT -p tcp --dport 25 -j DROP\n"),
        Code::NeverMatches,
        4,
    );
    // Some come back.
    is_silent(
        &format!(
            "{tcp}iptables -A web -s 10.0.0.1 -j RETURN\niptables -A web -j ACCEPT\n\
             iptables -A INPUT -p tcp --dport 25 -j DROP\n"
        ),
        Code::NeverMatches,
    );
    finds(
        "iptables -N alone\niptables -A alone -j DROP\n",
        Code::ChainUnused,
        2,
    );
    // States that two rules share.
    finds(
        "iptables -A INPUT -m conntrack --ctstate NEW -j DROP\n\
         iptables -A INPUT -m conntrack --ctstate ESTABLISHED,RELATED -j ACCEPT\n\
         iptables -A INPUT -p tcp -m conntrack --ctstate NEW,ESTABLISHED -j ACCEPT\n",
        Code::NeverMatches,
        3,
    );
}

#[test]
fn findings_are_told_in_sarif() {
    let subject = subject(&format!("{SSH}iptables -P INPUT DROP\n"));
    let findings = check(&subject);
    let log = sarif::log(&findings, &subject.sources);
    assert_eq!(log["version"], "2.1.0");
    let run = &log["runs"][0];
    let result = &run["results"][0];
    let index = result["ruleIndex"].as_u64().unwrap() as usize;
    assert_eq!(
        run["tool"]["driver"]["rules"][index]["id"],
        result["ruleId"]
    );
    let place = &result["locations"][0]["physicalLocation"];
    assert_eq!(place["artifactLocation"]["uri"], "rules.sh");
    assert_eq!(place["region"]["startLine"], 1);
}

#[test]
fn a_log_comes_before_what_ends_the_way_and_has_a_limit() {
    finds(
        "iptables -A INPUT -p tcp --dport 23 -j REJECT --reject-with tcp-reset\n\
         iptables -A INPUT -p tcp --dport 23 -m limit --limit 5/min -j LOG --log-prefix 'telnet: '\n",
        Code::LogTooLate,
        2,
    );
    is_silent(
        "iptables -A INPUT -p tcp --dport 23 -m limit --limit 5/min -j LOG --log-prefix 'telnet: '\n\
         iptables -A INPUT -p tcp --dport 23 -j REJECT --reject-with tcp-reset\n",
        Code::LogTooLate,
    );
    finds(
        "iptables -A INPUT -p udp -j LOG\niptables -A INPUT -p udp -j DROP\n",
        Code::LogUnlimited,
        1,
    );
    is_silent(
        "iptables -A INPUT -p udp -m limit --limit 3/sec -j LOG\niptables -A INPUT -p udp -j DROP\n",
        Code::LogUnlimited,
    );
}

#[test]
fn a_reject_for_everybody_has_a_limit() {
    let script = "iptables -A INPUT -p tcp --dport 3306 -j REJECT --reject-with tcp-reset\n";
    finds(script, Code::RejectUnlimited, 1);
    for words in ["-m limit --limit 20/sec", "-s 10.0.0.0/8"] {
        let limited = script.replace("-j REJECT", &format!("{words} -j REJECT"));
        is_silent(&limited, Code::RejectUnlimited);
    }
    let subject = subject(script);
    let patch = patch(&subject.policy, &mend(&subject).policy, &[Family::V4]);
    assert!(
        patch.contains("--dport 3306 -m limit --limit 20/sec -j REJECT --reject-with tcp-reset"),
        "{patch}"
    );
}

#[test]
fn mangle_only_marks_and_hides_nothing_of_filter() {
    is_silent(
        "iptables -t mangle -A PREROUTING -p tcp -j ACCEPT\n\
         iptables -A INPUT -p tcp --dport 22 -j ACCEPT\niptables -P INPUT DROP\n",
        Code::NeverMatches,
    );
}

/// A script with settings, or a file of nothing else: as `keepstate check` reads it.
#[track_caller]
fn subject_with_settings(text: &str) -> Subject {
    let mut subject = subject(&without_settings(text));
    for source in &mut subject.sources {
        text.clone_into(&mut source.text);
    }
    subject
}

#[track_caller]
fn told_of_settings(text: &str) -> Vec<String> {
    let subject = subject_with_settings(text);
    let findings = check(&subject).into_iter();
    let wanted = [Code::SizeUnfit, Code::TimeoutUnfit];
    findings
        .filter(|finding| wanted.contains(&finding.code))
        .map(|finding| {
            let line = finding.location.place.0.map_or(0, |place| place.line);
            let rendered = finding.render(&subject.sources, Style::Plain);
            assert!(
                rendered.contains(&format!("rules.sh:{line}:")),
                "{rendered}"
            );
            format!("{line} {}", finding.code.number())
        })
        .collect()
}

#[test]
fn mistakes_5_6_7_and_12_sizes_and_timeouts_that_do_not_fit() {
    let script = "#!/bin/sh\n\
        sysctl -w net.netfilter.nf_conntrack_max=65536\n\
        sysctl -w net.netfilter.nf_conntrack_buckets=16384\n\
        iptables -P INPUT ACCEPT\n\
        echo 1 > /proc/sys/net/netfilter/nf_conntrack_tcp_timeout_time_wait\n\
        echo 120 > /proc/sys/net/netfilter/nf_conntrack_tcp_timeout_close\n\
        echo 300 > /proc/sys/net/netfilter/nf_conntrack_udp_timeout\n\
        sysctl -w net.ipv4.tcp_syncookies=1\n\
        modprobe nf_conntrack hashsize=16384\n";
    let expected = [
        "2 KS021", "3 KS021", "5 KS022", "6 KS022", "7 KS022", "8 KS021", "9 KS021",
    ];
    assert_eq!(told_of_settings(script), expected);
    let file = "# /etc/sysctl.d/50-conntrack.conf\n\
        net.netfilter.nf_conntrack_tcp_timeout_established = 60\n\
        net.netfilter.nf_conntrack_udp_timeout = 60\n\
        net.netfilter.nf_conntrack_udp_timeout_stream = 30\n";
    assert_eq!(told_of_settings(file), ["2 KS022", "3 KS022", "4 KS022"]);
    let right = "net.netfilter.nf_conntrack_max = 1048576\n\
        net.netfilter.nf_conntrack_buckets = 1048576\n\
        net.netfilter.nf_conntrack_tcp_timeout_established = 7440\n\
        net.netfilter.nf_conntrack_tcp_timeout_time_wait = 60\n\
        net.netfilter.nf_conntrack_udp_timeout = 30\n\
        net.netfilter.nf_conntrack_udp_timeout_stream = 180\n";
    assert_eq!(told_of_settings(right), Vec::<String>::new());
}

#[test]
fn an_entry_of_hashlimit_outlives_its_rate() {
    let rule = |options: &str| {
        format!(
            "iptables -A INPUT -p tcp --syn -m hashlimit --hashlimit-above 2/min --hashlimit-mode srcip \
             --hashlimit-name x {options} -j DROP\n"
        )
    };
    finds(
        &rule("--hashlimit-htable-expire 10000"),
        Code::TimeoutUnfit,
        1,
    );
    is_silent(&rule("--hashlimit-htable-expire 30000"), Code::TimeoutUnfit);
    is_silent(&rule(""), Code::TimeoutUnfit);
}

/// Mistakes of the list in other words.
#[test]
fn mistakes_in_other_words_are_found() {
    let known = "iptables -A INPUT -m conntrack --ctstate INVALID -j DROP\n\
                 iptables -A INPUT -m conntrack --ctstate ESTABLISHED,RELATED -j ACCEPT\n";
    // A limit in a chain of its own, behind an accept of more ports than it counts.
    let limit = "iptables -N web\n\
        iptables -A INPUT -p tcp -m multiport --dports 22,80,443 -m conntrack --ctstate NEW -j ACCEPT\n\
        iptables -A INPUT -p tcp --dport 80 -j web\n\
        iptables -A web -p tcp -m connlimit --connlimit-above 50 --connlimit-mask 24 -m comment \
        --comment \"at most 50 from one IP\" -j REJECT --reject-with tcp-reset\n";
    finds(&format!("{known}{limit}"), Code::LimitBypassed, 6);
    finds(&format!("{known}{limit}"), Code::MaskComment, 6);
    let first = limit.replace("-m multiport --dports 22,80,443", "--dport 22");
    is_silent(&format!("{known}{first}"), Code::LimitBypassed);
    is_silent(&limit.replace("one IP", "one network"), Code::MaskComment);

    // A host that forwards nothing, whose FORWARD nobody has looked at.
    let notrack = "iptables -t raw -I PREROUTING 1 --protocol udp --destination-port 123 --jump CT --notrack\n\
                   iptables -P INPUT DROP\n";
    finds(&format!("{notrack}{known}"), Code::UntrackedRefused, 1);

    // The last rule shuts what the policy would let in.
    let ssh = "iptables -A INPUT -p tcp --dport 22 -m conntrack --ctstate NEW -j ACCEPT\n";
    let end = "iptables -A INPUT -j REJECT\n";
    assert!(!told(&format!("{known}{end}"), Code::LockOut).is_empty());
    is_silent(&format!("{known}{ssh}{end}"), Code::LockOut);
    is_silent(known, Code::LockOut);
}

#[test]
fn ipv6_without_its_neighbours_is_found() {
    let rules = "ip6tables -P INPUT DROP\n\
        ip6tables -A INPUT -m conntrack --ctstate INVALID -j DROP\n\
        ip6tables -A INPUT -m conntrack --ctstate ESTABLISHED,RELATED -j ACCEPT\n\
        ip6tables -A INPUT -p tcp --dport 22 -m conntrack --ctstate NEW -j ACCEPT\n";
    assert!(!told(rules, Code::NeighboursRefused).is_empty());
    let ping = "ip6tables -A INPUT -p ipv6-icmp -m icmp6 --icmpv6-type echo-request -j ACCEPT\n";
    assert!(!told(&format!("{rules}{ping}"), Code::NeighboursRefused).is_empty());
    for mended in [
        "ip6tables -A INPUT -p ipv6-icmp -j ACCEPT\n",
        "ip6tables -A INPUT -p ipv6-icmp -m icmp6 --icmpv6-type neighbour-solicitation -j ACCEPT\n",
        "ip6tables -A INPUT -m conntrack --ctstate UNTRACKED -j ACCEPT\n",
        "ip6tables -P INPUT ACCEPT\n",
    ] {
        is_silent(&format!("{rules}{mended}"), Code::NeighboursRefused);
    }
    let mended = mend(&subject(rules));
    assert!(
        check(&Subject {
            policy: mended.policy,
            ..subject(rules)
        })
        .iter()
        .all(|finding| finding.code != Code::NeighboursRefused)
    );
}

#[test]
fn synproxy_in_a_loose_tracker_is_found() {
    let rules = "iptables -t raw -A PREROUTING -p tcp --dport 443 --syn -j CT --notrack\n\
        iptables -A FORWARD -p tcp --dport 443 -m conntrack --ctstate INVALID,UNTRACKED -j SYNPROXY --mss 1460\n\
        iptables -A FORWARD -m conntrack --ctstate INVALID -j DROP\n";
    let found = |text: &str| {
        let findings = check(&subject_with_settings(text));
        let mut lines = findings
            .iter()
            .filter(|finding| finding.code == Code::SynproxyLoose)
            .map(|finding| finding.location.place.0.map_or(0, |place| place.line));
        lines.next()
    };
    assert_eq!(found(rules), Some(2));
    let loose = "sysctl -w net.netfilter.nf_conntrack_tcp_loose=";
    assert_eq!(found(&format!("{loose}1\n{rules}")), Some(3));
    assert_eq!(found(&format!("{loose}0\n{rules}")), None);
    is_silent(INVALID, Code::SynproxyLoose);
    let running = Subject {
        is_running: true,
        ..subject(rules)
    };
    let mut findings = check(&running).into_iter();
    assert!(findings.all(|finding| finding.code != Code::SynproxyLoose));
}
