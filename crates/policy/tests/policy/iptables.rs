//! The same commands to iptables 1.8.9 in a namespace and to us: same output, same messages, same
//! exit codes, same rules afterwards.

use keepstate_engine::tuple::Family;
use keepstate_policy::{
    FileKind, Flush, Policy, RestoreOptions, ShowCounters, UseCounters, parse_rules, save_tables,
};
use keepstate_testkit::{Namespace, programs_or_skip, root_or_skip};

use std::io::Write as _;
use std::process::{Command, Stdio};

/// What it says each time it would look for the name of a label, where there is no file of names: we take
/// numbers for their names in silence.
const NO_LABEL_NAMES: &str =
    "Warning: cannot open /etc/xtables/connlabel.conf: No such file or directory\n";

/// What a program did.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Outcome {
    pub(crate) code: i32,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

/// Both worlds.
pub(crate) struct Twin {
    pub(crate) namespace: Namespace,
    policy: Policy,
}

impl Twin {
    pub(crate) fn new(test: &str) -> Option<Self> {
        if !root_or_skip(test) || !programs_or_skip(test, &["iptables", "ip6tables", "nsenter"]) {
            return None;
        }
        let version = Command::new("iptables").arg("-V").output().unwrap();
        if version.stdout != b"iptables v1.8.9 (nf_tables)\n" {
            keepstate_testkit::skip(test, "iptables is not 1.8.9 (nf_tables)");
            return None;
        }
        let namespace = Namespace::new("policy");
        // Makes the table, which we always have.
        namespace.run("iptables", &["-L"]);
        namespace.run("ip6tables", &["-L"]);
        Some(Self {
            namespace,
            policy: Policy::default(),
        })
    }

    pub(crate) fn theirs(&self, program: &str, arguments: &[String], input: &str) -> Outcome {
        let mut command = self.namespace.command(program);
        command.args(arguments).stdin(Stdio::piped());
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let _ = child.stdin.take().unwrap().write_all(input.as_bytes());
        let output = child.wait_with_output().unwrap();
        let text =
            |bytes: &[u8]| String::from_utf8_lossy(bytes).replace("(nf_tables)", "(keepstate)");
        Outcome {
            code: output.status.code().unwrap(),
            stdout: text(&output.stdout),
            // Some of its messages end in an empty line, others do not.
            stderr: text(&output.stderr)
                .replace("\n\n", "\n")
                .replace(NO_LABEL_NAMES, ""),
        }
    }

    fn ours(&mut self, program: &str, arguments: &[String]) -> Outcome {
        let family = family_of(program);
        match self.policy.apply_command(family, arguments) {
            Ok(output) => Outcome {
                code: 0,
                stdout: output.stdout,
                stderr: String::new(),
            },
            Err(error) => Outcome {
                code: error.exit_code().into(),
                stdout: String::new(),
                // The reason, which iptables leaves to the kernel's log.
                stderr: error
                    .iptables_text(program)
                    .split_inclusive('\n')
                    .filter(|line| !line.starts_with("hint: "))
                    .collect(),
            },
        }
    }

    #[track_caller]
    fn check(&mut self, line: &str) {
        self.check_all(line);
    }

    /// Runs commands, one a line, and shows all that differ.
    #[track_caller]
    fn check_all(&mut self, lines: &str) {
        let mut differences = String::new();
        let lines = lines.lines().map(str::trim);
        for line in lines.filter(|line| !line.is_empty()) {
            let words = shell_words(line);
            let (program, arguments) = words.split_first().unwrap();
            let theirs = self.theirs(program, arguments, "");
            let ours = self.ours(program, arguments);
            if ours != theirs {
                let lines = |outcome: &Outcome| -> Vec<String> {
                    let text = format!("{}{}", outcome.stdout, outcome.stderr);
                    text.lines().map(String::from).collect()
                };
                let (our_lines, their_lines) = (lines(&ours), lines(&theirs));
                differences += &format!("{line}\n");
                let longest = our_lines.len().max(their_lines.len());
                for index in 0..longest {
                    let (ours, theirs) = (our_lines.get(index), their_lines.get(index));
                    if ours != theirs {
                        differences += &format!("   ours {ours:?}\n theirs {theirs:?}\n");
                    }
                }
                differences += &format!("  exit {} and {}\n", ours.code, theirs.code);
            }
        }
        assert!(differences.is_empty(), "{differences}");
    }

    /// Compares the whole ruleset, in every form in which it can be printed.
    #[track_caller]
    fn check_listings(&mut self) {
        for program in ["iptables", "ip6tables"] {
            for options in [
                "-S",
                "-S -v",
                "-L",
                "-L -n",
                "-L -v",
                "-L -v -n",
                "-nvxL",
                "-vL --line-numbers",
                "-nL -x --line",
            ] {
                self.check(&format!("{program} {options}"));
            }
            for (counters, options) in [
                (ShowCounters::No, vec![]),
                (ShowCounters::Yes, vec!["-c".to_string()]),
            ] {
                let theirs = self.theirs(&format!("{program}-save"), &options, "").stdout;
                let theirs: String = theirs
                    .split_inclusive('\n')
                    .filter(|line| !line.starts_with('#'))
                    .collect();
                let ruleset = self.policy.ruleset(family_of(program));
                assert_eq!(save_tables(ruleset, counters), theirs);
            }
        }
    }

    /// Restores a file in both worlds.
    #[track_caller]
    fn check_restore(&mut self, text: &str, flags: &str) {
        let words = shell_words(flags);
        let theirs = self.theirs("iptables-restore", &words, text);
        let has = |flag: &str| words.iter().any(|word| word == flag);
        let options = RestoreOptions {
            counters: if has("-c") {
                UseCounters::Yes
            } else {
                UseCounters::No
            },
            flush: if has("-n") { Flush::No } else { Flush::Yes },
            table: None,
        };
        let ours = self.policy.restore(Family::V4, text, options);
        assert_eq!(
            ours.is_ok(),
            theirs.code == 0,
            "{text}\n{ours:?}\n{theirs:?}"
        );
        self.check("iptables -S -v");
    }
}

pub(crate) fn family_of(program: &str) -> Family {
    match program {
        "iptables" => Family::V4,
        _ => Family::V6,
    }
}

/// Words between blanks; single quotes join.
pub(crate) fn shell_words(line: &str) -> Vec<String> {
    let mut words = Vec::new();
    let mut quoted = false;
    let mut word: Option<String> = None;
    for character in line.chars() {
        match character {
            '\'' => {
                quoted = !quoted;
                word.get_or_insert_default();
            }
            ' ' if !quoted => words.extend(word.take()),
            other => word.get_or_insert_default().push(other),
        }
    }
    words.extend(word);
    words
}

#[test]
fn rules_are_read_and_printed_as_iptables_does() {
    let Some(mut twin) = Twin::new("rules_are_read_and_printed_as_iptables_does") else {
        return;
    };
    twin.check_all(
        "
        iptables -N foo
        iptables -A INPUT -p tcp --dport 22 -m state --state NEW,ESTABLISHED -j ACCEPT
        iptables -A INPUT -p tcp --dport ssh:http --sport 1024: -m conntrack --ctstate UNTRACKED,ESTABLISHED,RELATED,NEW,INVALID -j DROP
        iptables -A INPUT ! -s 10.0.0.0/8 ! -d 1.2.3.4 ! -i eth+ -p udp ! --dport 53 -m conntrack ! --ctstate NEW -j ACCEPT
        iptables -A INPUT -s 10.0.0.1,10.0.0.2 -d 1.1.1.1,2.2.2.2 -j ACCEPT
        iptables -A INPUT -s 10.0.0.1/255.255.0.0 -d 1.1.1.1/255.0.255.0 -j ACCEPT
        iptables -A INPUT -p icmp -j ACCEPT
        iptables -A INPUT -p 47 -j ACCEPT
        iptables -A INPUT -p 200 -j ACCEPT
        iptables -A INPUT -p all -j ACCEPT
        iptables -A INPUT -p 0 -j ACCEPT
        iptables -A INPUT -p 0x6 -j ACCEPT
        iptables -A INPUT -p ipv6-icmp -j ACCEPT
        iptables -A INPUT -p esp
        iptables -A INPUT ! -p tcp
        iptables -A INPUT -p TCP -j DROP
        iptables -A INPUT -p sctp -j DROP
        iptables -A INPUT -p ah -j DROP
        iptables -A INPUT -p ipencap -j DROP
        iptables -A INPUT -p udplite -j DROP
        iptables -A INPUT -j foo
        iptables -A INPUT -p tcp --dport 5 -g foo
        iptables -A foo -j RETURN
        iptables -A foo
        iptables -A INPUT -m comment --comment 'hello world' -j ACCEPT
        iptables -A INPUT -m comment --comment 'a\"b\\c $x' -j ACCEPT
        iptables -A INPUT -m comment --comment -dash -j ACCEPT
        iptables -A INPUT -m comment --comment '' -j ACCEPT
        iptables -A INPUT -m comment --comment 'äö' -j ACCEPT
        iptables -A INPUT -m comment --comment a_b -m comment --comment 'c d'
        iptables -A INPUT -m comment --comment hello -p tcp --dport 80 -i lo -j ACCEPT
        iptables -A INPUT -p tcp -m comment --comment hello -m tcp --dport 80 -m conntrack --ctstate NEW -m state --state NEW -j ACCEPT
        iptables -A INPUT -p tcp -m conntrack --ctstate NEW --dport 22 -j ACCEPT
        iptables -A INPUT -m tcp -p tcp --dport 1 -m tcp --sport 2 -j ACCEPT
        iptables -A INPUT -p tcp -m tcp -j ACCEPT
        iptables -A INPUT -p udp --sport 0:65535 --dport : -j ACCEPT
        iptables -A INPUT -p udp --dport 5:5 -j ACCEPT
        iptables -A INPUT -p udp --dport domain -j ACCEPT
        iptables -A INPUT -p tcp --dport :80
        iptables -A INPUT -m conntrack --ctstate new,Established -j ACCEPT
        iptables -A INPUT -m conntrack --ctstate NEW,NEW -j ACCEPT
        iptables -A INPUT -m state ! --state NEW -j ACCEPT
        iptables -A INPUT -m state --state NEW -m state --state INVALID -j ACCEPT
        iptables -A INPUT -s 1.2.3 -j ACCEPT
        iptables -A INPUT -s 0/0 -j ACCEPT
        iptables -A INPUT -s 10/8 -j ACCEPT
        iptables -A INPUT -i + -j ACCEPT
        iptables -A INPUT -i e+h -j ACCEPT
        iptables -A INPUT -c 10 20 -j ACCEPT
        iptables -A INPUT -c 99999 99999 -j ACCEPT
        iptables -A INPUT -c 100000 123456789 -j ACCEPT
        iptables -A INPUT -c 9999999 9999999999 -j ACCEPT
        iptables -A INPUT -c 99999999999,99999999999999 -j ACCEPT
        iptables -A INPUT -c 99999999999999 99999999999999999 -j ACCEPT
        iptables -A FORWARD ! -i + -o eth0+ -j ACCEPT
        iptables -A FORWARD -i eth0 -o eth0 -j RETURN
        iptables --append FORWARD --protocol tcp --src 1.2.3.4 --destination-p 22 --sport :80 --jump DROP
        iptables -A FORWARD --proto tcp --dst 1.2.3.4/255.255.255.255 --dport=22 -j DROP
        iptables -I INPUT -s 1.0.0.1,1.0.0.2 -j ACCEPT
        iptables -I INPUT 2 -s 3.0.0.1,3.0.0.2 -j ACCEPT
        iptables -P FORWARD DROP
        ip6tables -A INPUT -p icmpv6 -j ACCEPT
        ip6tables -A INPUT -p icmp -j ACCEPT
        ip6tables -A INPUT -s fe80::/10 -d ::1 -p tcp --dport 22 -j ACCEPT
        ip6tables -A INPUT -s 2001:db8::1/ffff:ffff:: ! -d 2001:db8::/ffff:0:ffff:: -j DROP
        ip6tables -A INPUT -s ::ffff:1.2.3.4 -j DROP
        ip6tables -A INPUT -s ::1.2.3.4 -j DROP
        ip6tables -A INPUT -s ::0.1.0.0 -j DROP
        ip6tables -A INPUT -s ::ffff:0:0/96 -j DROP
        ip6tables -A INPUT -s ::/0 -j DROP
        ip6tables -A INPUT -s 1:2:0:3:0:4:5:6 -j DROP
        ip6tables -A INPUT -s 1:0:0:3:4:0:0:6 -d 64:ff9b::1.2.3.4 -j DROP
        ip6tables -A FORWARD ! -i lo ! -o eth0 -p 200 -j DROP
        ip6tables -A INPUT -p hopopt -j DROP
        ip6tables -A INPUT -p mh -j DROP
        ",
    );
    twin.check_listings();
}

#[test]
fn the_table_raw_is_read_and_printed_as_iptables_does() {
    let Some(mut twin) = Twin::new("the_table_raw_is_read_and_printed_as_iptables_does") else {
        return;
    };
    // Makes the tables, which we always have.
    twin.namespace.run("iptables", &["-t", "raw", "-L"]);
    twin.namespace.run("ip6tables", &["-t", "raw", "-L"]);
    twin.check_all(
        "
        iptables -P INPUT ACCEPT
        iptables -t raw -A PREROUTING -p tcp --dport 21 -j CT --helper ftp
        iptables -t raw -A PREROUTING -p udp --dport 69 -j CT --helper tftp
        iptables -t raw -A PREROUTING -p udp --dport 53 -j CT --notrack
        iptables -t raw -A PREROUTING -p tcp -j CT --notrack --helper ftp
        iptables -t raw -A PREROUTING -i eth0 -s 10.0.0.0/8 -m comment --comment 'no flow' -j NOTRACK
        iptables -t raw -A OUTPUT -p udp --sport 53 -j NOTRACK
        iptables -t raw -A OUTPUT -o lo -j CT
        iptables -t raw -A OUTPUT -p udp --dport 1 -j CT --zone 5
        iptables -t raw -A OUTPUT -p tcp -j CT --zone 0x10 --helper ftp
        iptables -t raw -A OUTPUT -j CT --notrack --zone 65535
        iptables -t raw -A OUTPUT -j CT --zone 010
        iptables -t raw -A OUTPUT -j CT --zone 5 --zone 6
        iptables -t raw -A OUTPUT -j CT --zone 65536
        iptables -t raw -A OUTPUT -j CT --zone x
        iptables -t raw -A OUTPUT -j CT --zone -1
        iptables -t raw -A OUTPUT -j CT --zone
        iptables -t raw -D OUTPUT -p udp --dport 1 -j CT --zone 5
        iptables -t raw -A OUTPUT -p udp -j CT --ctevents new,destroy
        iptables -t raw -A OUTPUT -p udp -j CT --ctevents secmark,natseqinfo,mark,helper,protoinfo,assured,reply,destroy,related,new
        iptables -t raw -A OUTPUT -p udp -j CT --expevents new --ctevents assured --zone 3
        iptables -t raw -A OUTPUT -p udp -j CT --notrack --ctevents new
        iptables -t raw -A OUTPUT -p tcp -j CT --helper ftp --ctevents new,new --expevents new
        iptables -t raw -A OUTPUT -p udp -j CT --ctevents new --ctevents destroy
        iptables -t raw -A OUTPUT -p udp -j CT --expevents new --expevents new
        iptables -t raw -A OUTPUT -p udp -j CT --ctevents new,xx
        iptables -t raw -A OUTPUT -p udp -j CT --ctevents NEW
        iptables -t raw -A OUTPUT -p udp -j CT --ctevents new,
        iptables -t raw -A OUTPUT -p udp -j CT --ctevents label
        iptables -t raw -A OUTPUT -p udp -j CT --expevents destroy
        iptables -t raw -A OUTPUT -p udp -j CT --ctevents
        iptables -t raw -D OUTPUT -p udp -j CT --ctevents destroy,new
        iptables -t raw -N INPUT
        iptables -t raw -N own
        iptables -t raw -A own -p tcp -j CT --helper ftp
        iptables -t raw -A own -j RETURN
        iptables -t raw -A PREROUTING -j own
        iptables -t raw -A PREROUTING -g own
        iptables -t raw -A OUTPUT -j INPUT
        iptables -t raw -A PREROUTING -j DROP
        iptables -t raw -v -A PREROUTING -p tcp --dport 21 -j CT --helper ftp
        iptables -t raw -v -A OUTPUT -p udp -j NOTRACK
        iptables -t raw -C PREROUTING -p tcp --dport 21 -j CT --helper ftp
        iptables -t raw -C PREROUTING -p udp --dport 53 -j NOTRACK
        iptables -t raw -D PREROUTING -p udp --dport 53 -j CT --notrack
        iptables -t raw -P OUTPUT DROP
        iptables -t raw -L
        iptables -t raw -nvL
        iptables -t raw -S
        iptables -t raw -S PREROUTING 2
        iptables -t raw -A PREROUTING -p tcp -j CT --helper
        iptables -t raw -A PREROUTING -p tcp -j CT --helper ftp --helper ftp
        iptables -t raw -A PREROUTING -j CT --helper ftp
        iptables -t raw -A PREROUTING ! -p udp -j CT --helper ftp
        iptables -t raw -I PREROUTING -p udp -j CT --helper ftp
        iptables -t raw -R PREROUTING 1 -p tcp -j CT --helper nosuch
        iptables -A INPUT -p tcp -j CT --helper ftp
        iptables -A INPUT -j NOTRACK
        iptables -t raw -A PREROUTING -o eth0 -j ACCEPT
        iptables -t raw -A OUTPUT -i eth0 -j ACCEPT
        iptables -t raw -A FORWARD -j ACCEPT
        iptables -t raw -A PREROUTING -j FORWARD
        iptables -A INPUT -j PREROUTING
        iptables -t raw -A PREROUTING -p tcp ! --helper ftp -j CT
        iptables -t raw -A PREROUTING --notrack -j CT
        iptables -t raw -A PREROUTING -j CT --notrack foo
        iptables -N CT
        iptables -N NOTRACK
        iptables -t raw -Z
        iptables -t raw -F own
        ip6tables -P FORWARD DROP
        ip6tables -t raw -A PREROUTING -p tcp --dport 21 -j CT --helper ftp
        ip6tables -t raw -S
        ",
    );
    for program in ["iptables", "ip6tables"] {
        let theirs = twin.theirs(&format!("{program}-save"), &[], "").stdout;
        let lines = theirs.lines().filter(|line| !line.starts_with('#'));
        let theirs: String = lines.map(|line| format!("{line}\n")).collect();
        let ruleset = twin.policy.ruleset(family_of(program));
        assert_eq!(save_tables(ruleset, ShowCounters::No), theirs);
    }
    twin.check_restore(
        "*raw\n:PREROUTING ACCEPT [0:0]\n:OUTPUT DROP [3:4]\n:own - [0:0]\n\
         -A PREROUTING -p tcp -m tcp --dport 21 -j CT --helper ftp\n-A own -j NOTRACK\nCOMMIT\n\
         *filter\n:INPUT DROP [0:0]\nCOMMIT\n",
        "",
    );
    twin.check("iptables -t raw -S -v");
}

#[test]
fn commands_change_rules_as_iptables_does() {
    let Some(mut twin) = Twin::new("commands_change_rules_as_iptables_does") else {
        return;
    };
    twin.check_all(
        "
        iptables -N foo
        iptables -N bar
        iptables -A foo -j bar
        iptables -A INPUT -c 1 2 -j foo
        iptables -A INPUT -c 3 4 -s 1.1.1.1 -j ACCEPT
        iptables -A INPUT -c 5 6 -s 2.2.2.2 -j ACCEPT
        iptables -A INPUT -c 5 6 -s 2.2.2.2 -j ACCEPT
        iptables -Z INPUT 1
        iptables -L INPUT 2 -n -v
        iptables -nL INPUT 99
        iptables -S INPUT 2
        iptables -S INPUT 99
        iptables -S foo
        iptables -C INPUT -s 2.2.2.2 -j ACCEPT
        iptables -v -C INPUT -s 2.2.2.2 -j ACCEPT
        iptables -D INPUT -s 2.2.2.2 -j ACCEPT
        iptables -D INPUT -s 1.1.1.1,9.9.9.9 -j ACCEPT
        iptables -D INPUT -s 1.1.1.1,2.2.2.2 -j ACCEPT
        iptables -v -R INPUT 1 -s 1.2.3.4 -j DROP
        iptables -v -I INPUT -i lo ! -s 1.2.3.4 -p tcp --sport 4 -g foo
        iptables -v -A FORWARD ! -i lo ! -o eth0 -s 1.2.3.4/24 ! -p 200
        iptables -v -A FORWARD -p tcp --dport 22 -m comment --comment hi -j DROP
        iptables -v -D INPUT -s 1.2.3.4 -j DROP
        iptables -v -D INPUT 1
        ip6tables -v -A FORWARD ! -i lo ! -o eth0 -s fe80::1 ! -p 200
        iptables -A FORWARD -c 3 4
        iptables -L FORWARD -Z -v
        iptables -Z -L FORWARD
        iptables -E foo foo2
        iptables -v -N vv
        iptables -v -X vv
        iptables -X foo2
        iptables -F foo2
        iptables -X
        iptables -v -F
        iptables -v -X bar
        iptables -X
        iptables -P INPUT DROP
        iptables -w -L INPUT
        iptables -w 5 -L INPUT
        iptables -w5 -L INPUT
        iptables --wait 5 -nvL INPUT
        iptables -t filter -4 -LINPUT -n
        iptables -V
        iptables -t raw -F
        ",
    );
    twin.check_listings();
}

#[test]
fn refusals_are_worded_as_iptables_words_them() {
    let Some(mut twin) = Twin::new("refusals_are_worded_as_iptables_words_them") else {
        return;
    };
    twin.check_all(
        "
        iptables -A INPUT -s 5.5.5.5 -j ACCEPT
        iptables -N foo
        iptables -A foo -j ACCEPT
        iptables -N foo
        iptables -X INPUT
        iptables -N INPUT
        iptables -X foo
        iptables -X bar
        iptables -D INPUT -s 9.9.9.9 -j ACCEPT
        iptables -D INPUT
        iptables -D INPUT 99
        iptables -D INPUT 0
        iptables -I INPUT 99 -j ACCEPT
        iptables -I INPUT 0 -j DROP
        iptables -I INPUT x -j DROP
        iptables -R INPUT 99 -j ACCEPT
        iptables -R INPUT -s 8.8.8.8 -j ACCEPT
        iptables -R INPUT 1 -s 8.8.8.8,9.9.9.9 -j ACCEPT
        iptables -A nochain -j ACCEPT
        iptables -C nochain -j ACCEPT
        iptables -A INPUT -j nochain
        iptables -A INPUT -j NOSUCH
        iptables -A INPUT -g ACCEPT
        iptables -F nochain
        iptables -Z nochain
        iptables -P foo DROP
        iptables -P nochain DROP
        iptables -P INPUT
        iptables -P INPUT DROP -p tcp
        iptables -P INPUT DROP extra
        iptables -E nosuch bar2
        iptables -E foo
        iptables -E foo foo
        iptables -E foo INPUT
        iptables -E foo x y
        iptables -N verylongchainname_verylongchainname
        iptables -N -foo
        iptables -N !foo
        iptables -N ACCEPT
        iptables -N REJECT
        iptables -N 'a b'
        iptables -N
        iptables -N a b
        iptables -F a b
        iptables -F INPUT -p tcp
        iptables -X a -j DROP
        iptables -D INPUT 1 -j DROP
        iptables -D INPUT 1 2
        iptables -A INPUT -o eth0 -j ACCEPT
        iptables -A OUTPUT -i eth0 -j ACCEPT
        iptables -A INPUT -p tcp --dport 99999 -j ACCEPT
        iptables -A INPUT -p tcp --dport 30:20 -j ACCEPT
        iptables -A INPUT -p tcp --dport blah -j ACCEPT
        iptables -A INPUT -p tcp --dport 22,23 -j ACCEPT
        iptables -A INPUT -p tcp --dport 1:2:3 -j ACCEPT
        iptables -A INPUT -p tcp --dport ''
        iptables -A INPUT -p tcp --dport -1
        iptables -A INPUT --dport 22 -j ACCEPT
        iptables -A INPUT --dport 22 -p tcp -j ACCEPT
        iptables -A INPUT -m tcp --dport 22 -j ACCEPT
        iptables -A INPUT -p tcp -m udp --dport 53 -j ACCEPT
        iptables -A INPUT -p foo -j ACCEPT
        iptables -A INPUT -p 256 -j DROP
        iptables -A INPUT ! -p all -j DROP
        iptables -A INPUT -p tcp -p udp -j ACCEPT
        iptables -A INPUT -s foo.bar.invalid -j ACCEPT
        iptables -A INPUT -s 1.2.3.4/33 -j ACCEPT
        iptables -A INPUT -s 1.2.3.4/ -j ACCEPT
        iptables -A INPUT -s 1.2.3.4/-1 -j ACCEPT
        iptables -A INPUT -s 256.1.1.1 -j ACCEPT
        iptables -A INPUT -s 1.2.3.4.5 -j ACCEPT
        iptables -A INPUT -s '' -j ACCEPT
        iptables -A INPUT -s 1.2.3.4,1.2.3.5, -j ACCEPT
        iptables -A INPUT ! -s 1.2.3.4,1.2.3.5 -j ACCEPT
        iptables -A INPUT -s 1.1.1.1 -s 2.2.2.2 -j ACCEPT
        iptables -A INPUT -m conntrack --ctstate FOO -j ACCEPT
        iptables -A INPUT -m conntrack --ctstate NEW, -j ACCEPT
        iptables -A INPUT -m conntrack --ctstate '' -j ACCEPT
        iptables -A INPUT -m conntrack --ctstate NEW --ctstate INVALID -j ACCEPT
        iptables -A INPUT -m conntrack -j ACCEPT
        iptables -A INPUT -m state -j ACCEPT
        iptables -A INPUT -m state --state FOO -j ACCEPT
        iptables -A INPUT -m comment -j ACCEPT
        iptables -A INPUT -m comment --comment a --comment b
        iptables -A INPUT --nosuch -j ACCEPT
        iptables -A INPUT --comment a
        iptables -A INPUT -q
        iptables -A INPUT -j
        iptables -A INPUT -p
        iptables -A INPUT -m
        iptables -A INPUT -m conntrack --ctstate
        iptables -A INPUT -p tcp --sport
        iptables -A INPUT extra -j ACCEPT
        iptables -A INPUT -j ACCEPT -j DROP
        iptables -A INPUT -j ACCEPT --foo
        iptables -A INPUT -i verylonginterfacename0 -j ACCEPT
        iptables -A INPUT -i '' -j ACCEPT
        iptables -A INPUT ! -j DROP
        iptables -A INPUT ! ! -s 1.2.3.4 -j DROP
        iptables -A INPUT -j DROP !
        iptables -A INPUT ! -c 1 2
        iptables -A INPUT -n -j DROP
        iptables -A INPUT -x -j DROP
        iptables -C INPUT -c 9 9 -j ACCEPT
        iptables -A INPUT -c 1
        iptables -L -F
        iptables -A INPUT -L
        iptables -F -Z
        iptables -L -p tcp
        iptables -S -n
        iptables -L INPUT x
        iptables -L INPUT 0
        iptables -L INPUT FORWARD
        iptables -w x -L INPUT
        iptables -t nosuch -L
        iptables
        iptables -A
        iptables --foo
        ip6tables -A INPUT -s 1.2.3.4 -j DROP
        ip6tables -A INPUT -s 1::/129
        ip6tables -A INPUT -s ::1/ffff:ffff
        ip6tables -A INPUT -s fe80::1%eth0
        ip6tables -N foo
        ip6tables -X foo
        ip6tables -X foo
        ",
    );
    twin.check_listings();
}

#[test]
fn files_are_restored_as_iptables_restore_does() {
    let Some(mut twin) = Twin::new("files_are_restored_as_iptables_restore_does") else {
        return;
    };
    let files = [
        (
            ":INPUT DROP [5:6]\n:FORWARD ACCEPT [0:0]\n:OUTPUT ACCEPT [0:0]\n:foo - [0:0]\n[1:2] -A INPUT -j foo\n",
            "",
        ),
        (
            ":INPUT DROP [5:6]\n:foo - [0:0]\n[1:2] -A INPUT -j foo\n",
            "-c",
        ),
        ("-A INPUT -j DROP\n", "-n"),
        (":foo - [0:0]\n", "-n"),
        ("-A INPUT --bad\n", ""),
        ("-A INPUT -j bar\n:bar - [0:0]\n", ""),
        (":INPUT FOO [0:0]\n", ""),
        ("foo\n", ""),
        ("  -A INPUT -j DROP\n", ""),
        ("-A INPUT -t filter -j DROP\n", ""),
        (
            "-N foo\n-A foo -j DROP\n-I INPUT -j foo\n-P INPUT DROP\n",
            "",
        ),
        ("-A INPUT -j DROP # comment\n", ""),
        ("[5:6]-A INPUT -j DROP\n", "-c"),
        ("-A INPUT -m comment --comment 'a \"b' -j DROP\n", ""),
        (
            "-A INPUT -m comment --comment \"a\\\"b\\\\c\" -j DROP\n",
            "",
        ),
        ("-A INPUT -m comment --comment a\"b c\"d -j DROP\n", ""),
        ("*filter\n", ""),
        ("COMMIT x\n", ""),
        ("-F INPUT\n-Z\n-X\n", "-n"),
        (":INPUT - [1:2]\n", ""),
        (":foo - [3:4]\n:foo - [3:4]\n", "-c"),
        ("[5:6] -A INPUT -c 7 8 -j DROP\n", "-c"),
        ("# a comment\n\n-A INPUT -s 10.0.0.0/8 -j ACCEPT\n", ""),
    ];
    for (body, flags) in files {
        twin.check_restore(&format!("*filter\n{body}COMMIT\n"), flags);
    }
    twin.check_restore("*filter\n-A INPUT -j DROP\n", "");
    twin.check_restore("-A INPUT -j DROP\n", "");
    twin.check_restore("*nosuch\nCOMMIT\n", "");
    twin.check_restore("*filter\nCOMMIT\n*filter\n-A INPUT -j ACCEPT\nCOMMIT\n", "");
}

#[test]
fn what_iptables_saves_is_read_and_printed_byte_by_byte() {
    let Some(mut twin) = Twin::new("what_iptables_saves_is_read_and_printed_byte_by_byte") else {
        return;
    };
    twin.check_all(
        "
        iptables -N web
        iptables -P INPUT DROP
        iptables -A INPUT -i lo -c 7 700 -j ACCEPT
        iptables -A INPUT -m conntrack --ctstate ESTABLISHED,RELATED -c 12345678901 98765432109876 -j ACCEPT
        iptables -A INPUT -p tcp -m tcp --dport 80:443 -m comment --comment 'the web' -g web
        iptables -A web ! -s 10.0.0.0/8 -m state ! --state INVALID -j RETURN
        ip6tables -A INPUT -s fe80::/10 -p udp --sport 546:547 -j ACCEPT
        ",
    );
    let both: String = ["iptables-save", "ip6tables-save"]
        .map(|program| twin.theirs(program, &["-c".into()], "").stdout)
        .concat();
    let parsed = parse_rules(&both, FileKind::Detect);
    assert_eq!(parsed.families, [Family::V4, Family::V6]);
    assert_eq!(parsed.into_policy().unwrap(), twin.policy);
    twin.check_listings();
}

#[test]
fn matches_are_read_and_printed_as_iptables_does() {
    let Some(mut twin) = Twin::new("matches_are_read_and_printed_as_iptables_does") else {
        return;
    };
    twin.check_all(
        "
        iptables -A INPUT -p tcp -m multiport --dports 22,80:90,http
        iptables -A INPUT -p tcp -m multiport ! --sports 22,80 -j ACCEPT
        iptables -A INPUT -p udp -m multiport --ports 53,1000:2000
        iptables -A INPUT -p tcp -m multiport --dports 1 --sports 2
        iptables -A INPUT -m multiport --dports 1
        iptables -A INPUT -p icmp -m multiport --dports 1
        iptables -A INPUT -p tcp -m multiport
        iptables -A INPUT -p tcp -m multiport --dports 1,2,3,4,5,6,7,8,9,10,11,12,13,14,15,16
        iptables -A INPUT -p tcp -m multiport --dports 5:3
        iptables -A INPUT -p tcp -m multiport --dports x
        iptables -A INPUT -p tcp -m multiport --source-ports 1 --destination-ports 2
        iptables -A INPUT -m iprange --src-range 10.0.0.1-10.0.0.9
        iptables -A INPUT -m iprange ! --src-range 10.0.0.1-10.0.0.9 --dst-range 1.1.1.1-2.2.2.2
        iptables -A INPUT -m iprange --src-range 10.0.0.1
        iptables -A INPUT -m iprange --src-range x
        iptables -A INPUT -m iprange --src-range 10.0.0.1-x
        iptables -A INPUT -m iprange
        ip6tables -A INPUT -m iprange --src-range ::1-::9
        iptables -A INPUT -p tcp --tcp-flags SYN,ACK SYN
        iptables -A INPUT -p tcp ! --tcp-flags ALL NONE
        iptables -A INPUT -p tcp --syn
        iptables -A INPUT -p tcp ! --syn -j DROP
        iptables -A INPUT -p tcp --tcp-option 5
        iptables -A INPUT -p tcp ! --tcp-option 5 --dport 3
        iptables -A INPUT -p tcp --tcp-flags SYN,ACK
        iptables -A INPUT -p tcp --tcp-flags FOO SYN
        iptables -A INPUT -p tcp --tcp-flags SYN FOO
        iptables -A INPUT -p tcp --tcp-option 256
        iptables -A INPUT -p tcp --tcp-option 0
        iptables -A INPUT -p tcp --syn --syn
        iptables -A INPUT -p tcp --tcp-option 3 --tcp-option 4
        iptables -A INPUT -p icmp --icmp-type 8
        iptables -A INPUT -p icmp --icmp-type echo-request
        iptables -A INPUT -p icmp ! --icmp-type destination-unreachable
        iptables -A INPUT -p icmp --icmp-type network-unreachable
        iptables -A INPUT -p icmp --icmp-type 3/4
        iptables -A INPUT -p icmp --icmp-type any
        iptables -A INPUT -p icmp --icmp-type 255
        iptables -A INPUT -p icmp --icmp-type 256
        iptables -A INPUT -p icmp --icmp-type foo
        iptables -A INPUT -p icmp --icmp-type 3/256
        iptables -A INPUT -p icmp --icmp-type ping
        iptables -A INPUT -p icmp --icmp-type ech
        iptables -A INPUT -p icmp -m icmp
        iptables -A INPUT -p icmp --icmp-type 8 --icmp-type 9
        iptables -A INPUT --icmp-type 8
        iptables -A INPUT -p tcp -m icmp --icmp-type 8
        iptables -A INPUT -p icmp --icmp-type 77/3
        ip6tables -A INPUT -p icmpv6 --icmpv6-type 128
        ip6tables -A INPUT -p icmpv6 --icmpv6-type echo-request
        ip6tables -A INPUT -p icmpv6 -m icmp6 ! --icmpv6-type 1/4
        ip6tables -A INPUT -p icmpv6 --icmpv6-type router-advertisement
        ip6tables -A INPUT -p icmpv6 --icmpv6-type destination-unreachable
        ip6tables -A INPUT -p icmpv6 --icmpv6-type foo
        ip6tables -A INPUT -p icmpv6 -m icmp6
        ip6tables -A INPUT -p icmpv6 --icmpv6-type 1/256
        ip6tables -A INPUT -p icmpv6 --icmpv6-type 200
        iptables -A INPUT -p udplite --dport 3
        iptables -A INPUT -p udplite -m udp --dport 3
        iptables -A INPUT -p sctp --dport 5
        iptables -A INPUT -p sctp --sport 5:9 ! --dport 6
        iptables -A INPUT -p dccp --dport 5
        iptables -A INPUT -m length --length 5
        iptables -A INPUT -m length ! --length 5:10
        iptables -A INPUT -m length --length 5:
        iptables -A INPUT -m length --length :9
        iptables -A INPUT -m length --length x
        iptables -A INPUT -m length --length 9:5
        iptables -A INPUT -m length --length 70000
        iptables -A INPUT -m length
        iptables -A INPUT -m ttl --ttl-eq 5
        iptables -A INPUT -m ttl ! --ttl-eq 5
        iptables -A INPUT -m ttl --ttl 5
        iptables -A INPUT -m ttl --ttl-lt 5
        iptables -A INPUT -m ttl --ttl-gt 5
        iptables -A INPUT -m ttl --ttl-gt 256
        iptables -A INPUT -m ttl --ttl-gt 5 --ttl-lt 6
        iptables -A INPUT -m ttl ! --ttl-gt 5
        iptables -A INPUT -m ttl
        ip6tables -A INPUT -m hl --hl-eq 5
        ip6tables -A INPUT -m hl ! --hl-eq 5
        ip6tables -A INPUT -m hl --hl-lt 5
        ip6tables -A INPUT -m hl --hl-gt 5
        ip6tables -A INPUT -m hl
        iptables -A INPUT -m dscp --dscp 10
        iptables -A INPUT -m dscp ! --dscp 0x10
        iptables -A INPUT -m dscp --dscp-class EF
        iptables -A INPUT -m dscp --dscp-class foo
        iptables -A INPUT -m dscp --dscp 64
        iptables -A INPUT -m dscp --dscp 1 --dscp-class EF
        iptables -A INPUT -m dscp
        iptables -A INPUT -m tos --tos 0x10
        iptables -A INPUT -m tos --tos 0x10/0x3f
        iptables -A INPUT -m tos ! --tos Minimize-Delay
        iptables -A INPUT -m tos --tos foo
        iptables -A INPUT -m tos --tos 256
        iptables -A INPUT -m tos
        iptables -A INPUT -p tcp -m ecn --ecn-tcp-cwr
        iptables -A INPUT -p tcp -m ecn ! --ecn-tcp-ece --ecn-ip-ect 2
        iptables -A INPUT -m ecn --ecn-ip-ect 1
        iptables -A INPUT -m ecn --ecn-ip-ect 4
        iptables -A INPUT -m ecn --ecn-tcp-cwr
        iptables -A INPUT -m ecn
        iptables -A INPUT -m mac --mac-source 00:11:22:33:44:Aa
        iptables -A INPUT -m mac ! --mac-source 0:1:2:3:4:5
        iptables -A INPUT -m mac --mac-source 00:11
        iptables -A INPUT -m mac
        iptables -A INPUT -m pkttype --pkt-type broadcast
        iptables -A INPUT -m pkttype ! --pkt-type multicast
        iptables -A INPUT -m pkttype --pkt-type unicast
        iptables -A INPUT -m pkttype --pkt-type host
        iptables -A INPUT -m pkttype --pkt-type bcast
        iptables -A INPUT -m pkttype --pkt-type foo
        iptables -A INPUT -m addrtype --dst-type LOCAL
        iptables -A INPUT -m addrtype --src-type local,BROADCAST ! --dst-type unicast,MULTICAST,UNSPEC
        iptables -A INPUT -m addrtype ! --src-type loc --limit-iface-in
        iptables -A FORWARD -m addrtype --dst-type LOCAL --limit-iface-out -j ACCEPT
        iptables -A INPUT -m addrtype --dst-type LOCAL --limit-iface-out --limit-iface-in
        iptables -A INPUT -m addrtype --dst-type NOWHERE
        iptables -A INPUT -m addrtype --limit-iface-in
        iptables -A INPUT -m addrtype
        ip6tables -A INPUT -m addrtype --dst-type LOCAL ! --src-type UNICAST
        ip6tables -A INPUT -m addrtype --dst-type BROADCAST
        iptables -A INPUT -m pkttype
        iptables -A INPUT -m statistic --mode nth --every 3
        iptables -A INPUT -m statistic --mode nth --every 3 --packet 2
        iptables -A INPUT -m statistic --mode nth ! --every 3 --packet 2
        iptables -A INPUT -m statistic --mode nth --every 3 --packet 3
        iptables -A INPUT -m statistic --mode random --probability 0.5
        iptables -A INPUT -m statistic --mode random ! --probability 0.33
        iptables -A INPUT -m statistic --mode random --probability 1.5
        iptables -A INPUT -m statistic --mode foo
        iptables -A INPUT -m statistic --mode random
        iptables -A INPUT -m statistic --mode nth
        iptables -A INPUT -m statistic --mode nth --every 0
        iptables -A INPUT -m statistic --mode nth --probability 0.1
        iptables -A INPUT -m statistic
        iptables -A INPUT -m mark --mark 1
        iptables -A INPUT -m mark ! --mark 0x10/0xff
        iptables -A INPUT -m mark --mark 1/
        iptables -A INPUT -m mark --mark x
        iptables -A INPUT -m mark --mark 0x100000000
        iptables -A INPUT -m mark
        iptables -A INPUT -m connmark --mark 5
        iptables -A INPUT -m connmark ! --mark 5/7
        iptables -A INPUT -m connmark
        iptables -A INPUT -m connlabel --label 3
        iptables -A INPUT -m connlabel ! --label 127 --set
        iptables -A INPUT -m connlabel --set --label 0x10
        iptables -A INPUT -m connlabel --label 128
        iptables -A INPUT -m connlabel --label one
        iptables -A INPUT -m connlabel --label 1x
        iptables -A INPUT -m connlabel --label -1
        iptables -A INPUT -m connlabel --label 1 --label 2
        iptables -A INPUT -m connlabel --label 1 --set --set
        iptables -A INPUT -m connlabel --label 1 ! --set
        iptables -A INPUT -m connlabel --set
        iptables -A INPUT -m connlabel
        iptables -D INPUT -m connlabel --label 3
        iptables -A INPUT -p tcp -m tcpmss --mss 100:200
        iptables -A INPUT -p tcp -m tcpmss ! --mss 100
        iptables -A INPUT -p tcp -m tcpmss --mss 100:
        iptables -A INPUT -p tcp -m tcpmss --mss 200:100
        iptables -A INPUT -p tcp -m tcpmss
        iptables -A INPUT -m tcpmss --mss 1
        iptables -A INPUT -f
        iptables -A INPUT ! -f -j DROP
        iptables -A INPUT -f -p tcp
        ip6tables -A INPUT -f
        iptables -A INPUT -f -f
        iptables -A INPUT -m time --timestart 08:00 --timestop 18:00
        iptables -A INPUT -m time --timestart 08:00:30 --timestop 18:00 --weekdays Mon,Tue,Fri
        iptables -A INPUT -m time --monthdays 1,15,31
        iptables -A INPUT -m time ! --monthdays 1
        iptables -A INPUT -m time --datestart 2024-01-02T03:04:05 --datestop 2025-01-01
        iptables -A INPUT -m time --datestart 2024
        iptables -A INPUT -m time --timestart 22:00 --timestop 6:00 --contiguous
        iptables -A INPUT -m time --utc
        iptables -A INPUT -m time
        iptables -A INPUT -m time --timestart x
        iptables -A INPUT -m time --weekdays Foo
        iptables -A INPUT -m time --monthdays 32
        iptables -A INPUT -m time --datestart x
        iptables -A INPUT -m time --timestart 1:00 --timestart 2:00
        iptables -A INPUT -m time --contiguous
        iptables -A INPUT -m conntrack --ctproto tcp
        iptables -A INPUT -m conntrack ! --ctproto 6 --ctstate NEW
        iptables -A INPUT -m conntrack --ctorigsrc 10.0.0.0/8 --ctorigdst 1.2.3.4
        iptables -A INPUT -m conntrack ! --ctreplsrc 10.0.0.0/8 ! --ctrepldst 1.2.3.4
        iptables -A INPUT -m conntrack --ctorigsrcport 5 --ctorigdstport 6:7
        iptables -A INPUT -m conntrack --ctreplsrcport 5 ! --ctrepldstport 6:7
        iptables -A INPUT -m conntrack --ctproto tcp --ctorigdstport 22
        iptables -A INPUT -m conntrack --ctstatus ASSURED,SEEN_REPLY
        iptables -A INPUT -m conntrack ! --ctstatus NONE
        iptables -A INPUT -m conntrack --ctstatus CONFIRMED,EXPECTED
        iptables -A INPUT -m conntrack --ctstatus foo
        iptables -A INPUT -m conntrack --ctexpire 10
        iptables -A INPUT -m conntrack ! --ctexpire 10:20
        iptables -A INPUT -m conntrack --ctexpire x
        iptables -A INPUT -m conntrack --ctdir ORIGINAL
        iptables -A INPUT -m conntrack ! --ctdir REPLY
        iptables -A INPUT -m conntrack --ctdir reply --ctstate NEW --ctstatus ASSURED --ctexpire 5 --ctproto udp --ctorigsrc 1.1.1.1
        iptables -A INPUT -m conntrack --ctdir foo
        iptables -A INPUT -m conntrack --ctproto foo
        iptables -A INPUT -m conntrack --ctproto 0
        ip6tables -A INPUT -m conntrack --ctorigsrc fe80::/10
        iptables -A INPUT -m conntrack --ctproto tcp --ctproto udp
        iptables -A INPUT -m connbytes --connbytes 100:200 --connbytes-dir both --connbytes-mode packets
        iptables -A INPUT -m connbytes ! --connbytes 100 --connbytes-dir original --connbytes-mode bytes
        iptables -A INPUT -m connbytes --connbytes :100 --connbytes-dir reply --connbytes-mode avgpkt
        iptables -A INPUT -m connbytes --connbytes 100 --connbytes-dir reply
        iptables -A INPUT -m connbytes --connbytes 200:100 --connbytes-dir reply --connbytes-mode bytes
        iptables -A INPUT -m connbytes --connbytes x --connbytes-dir reply --connbytes-mode bytes
        iptables -A INPUT -m connbytes --connbytes 1 --connbytes-dir foo --connbytes-mode bytes
        iptables -A INPUT -m connbytes --connbytes 1 --connbytes-dir both --connbytes-mode foo
        iptables -A INPUT -m connbytes
        iptables -A INPUT -m helper --helper ftp
        iptables -A INPUT -m helper ! --helper ftp
        iptables -A INPUT -m helper --helper ''
        iptables -A INPUT -m helper --helper ftp-2121
        iptables -A INPUT -m helper
        iptables -A INPUT -m string --algo bm --string 'GET /'
        iptables -A INPUT -m string --algo kmp ! --string abc --icase --from 10 --to 100
        iptables -A INPUT -m string --algo bm --hex-string '|00 01|ab|ff|'
        iptables -A INPUT -m string --string a
        iptables -A INPUT -m string --algo bm
        iptables -A INPUT -m string --algo foo --string a
        iptables -A INPUT -m string --algo bm --string a --from 70000
        iptables -A INPUT -m string --algo bm --string a --hex-string b
        iptables -A INPUT -m string --algo bm --hex-string '|0|'
        iptables -A INPUT -m string --algo bm --hex-string '|00'
        iptables -A INPUT -m string --algo bm --string ''
        iptables -A INPUT -m limit --limit 3/hour
        iptables -A INPUT -m limit --limit 10/min --limit-burst 7
        iptables -A INPUT -m limit --limit 1/s
        iptables -A INPUT -m limit --limit 5
        iptables -A INPUT -m limit --limit 5/day
        iptables -A INPUT -m limit
        iptables -A INPUT -m limit --limit-burst 3
        iptables -A INPUT -m limit --limit x
        iptables -A INPUT -m limit --limit 5/x
        iptables -A INPUT -m limit --limit 0
        iptables -A INPUT -m limit --limit 10001/s
        iptables -A INPUT -m limit --limit 10000/s --limit-burst 10000
        iptables -A INPUT -m limit --limit 1/day --limit-burst 100
        iptables -A INPUT -m limit --limit-burst 0
        iptables -A INPUT -m limit --limit-burst 10001
        iptables -A INPUT -m limit ! --limit 5/min
        iptables -A INPUT -m limit --limit 7/sec
        iptables -A INPUT -m limit --limit 3/min --limit 4/min
        iptables -A INPUT -m limit --limit 1500/min
        ",
    );
    twin.check_listings();
}

/// What remembers something of each source.
#[test]
fn lists_and_rates_are_read_and_printed_alike() {
    let Some(mut twin) = Twin::new("lists_and_rates_are_read_and_printed_alike") else {
        return;
    };
    twin.check_all(
        "iptables -N t
        iptables -A t -m recent --set
        iptables -A t -m recent --name ssh --rcheck --seconds 60 --hitcount 4 --rttl --rdest
        iptables -A t -m recent --name ssh ! --update --seconds 60 --reap --mask 255.255.255.0 --rsource
        iptables -A t -m recent --remove --name x
        iptables -A t -m recent --name y
        iptables -A t -m recent --set --rcheck
        iptables -A t -m recent --set --seconds 5
        iptables -A t -m recent --set --hitcount 5
        iptables -A t -m recent --set --rttl
        iptables -A t -m recent --update --reap
        iptables -A t -m recent --update --hitcount 0
        iptables -A t -m recent --update --hitcount 255
        iptables -A t -m recent --update --seconds 0
        iptables -A t -m recent --update --seconds 99999999999
        iptables -A t -m recent --update --mask 255.0.255.0
        iptables -A t -m recent --set --rsource --rdest
        iptables -A t -m recent --remove --reap
        iptables -A t -m recent ! --set --name q
        iptables -A t -m recent --name z ! --rcheck
        iptables -A t -m hashlimit --hashlimit-upto 5/min --hashlimit-mode srcip --hashlimit-name ssh
        iptables -A t -m hashlimit --hashlimit-above 100/sec --hashlimit-burst 200 --hashlimit-mode srcip,dstport --hashlimit-name web --hashlimit-srcmask 24 --hashlimit-htable-expire 30000
        iptables -A t -m hashlimit --hashlimit-upto 512kb/s --hashlimit-name b
        iptables -A t -m hashlimit --hashlimit-above 1mb/s --hashlimit-burst 2mb --hashlimit-name b2 --hashlimit-mode dstip
        iptables -A t -m hashlimit --hashlimit 3/hour --hashlimit-name c --hashlimit-mode srcip,srcport,dstip,dstport --hashlimit-htable-size 100 --hashlimit-htable-max 200 --hashlimit-htable-gcinterval 500 --hashlimit-dstmask 16
        iptables -A t -m hashlimit --hashlimit-upto 10/sec --hashlimit-name d --hashlimit-rate-match --hashlimit-rate-interval 5
        iptables -A t -m hashlimit --hashlimit-upto 10/sec --hashlimit-name e --hashlimit-rate-match
        iptables -A t -m hashlimit --hashlimit-above 100kb/s --hashlimit-name f --hashlimit-rate-match --hashlimit-rate-interval 2
        iptables -A t -m hashlimit --hashlimit-above 100b/s --hashlimit-name g
        iptables -A t -m hashlimit ! --hashlimit-upto 5/min --hashlimit-name h
        iptables -A t -m hashlimit --hashlimit-name h
        iptables -A t -m hashlimit --hashlimit-upto 5/min
        iptables -A t -m hashlimit --hashlimit-upto 0/min --hashlimit-name h2
        iptables -A t -m hashlimit --hashlimit-upto 5/fortnight --hashlimit-name h2
        iptables -A t -m hashlimit --hashlimit-upto 99999999/sec --hashlimit-name h2
        iptables -A t -m hashlimit --hashlimit-upto 5/day --hashlimit-burst 0 --hashlimit-name h2
        iptables -A t -m hashlimit --hashlimit-upto 5/day --hashlimit-burst 1000001 --hashlimit-name h3
        iptables -A t -m hashlimit --hashlimit-upto 5/day --hashlimit-mode foo --hashlimit-name h5
        iptables -A t -m hashlimit --hashlimit-upto 5/day --hashlimit-mode srcip,srcip --hashlimit-name h6
        iptables -A t -m hashlimit --hashlimit-upto 5/day --hashlimit-srcmask 24 --hashlimit-name h8
        iptables -A t -m hashlimit --hashlimit-upto 7/min --hashlimit-name h9 --hashlimit-htable-expire 60000
        iptables -A t -m hashlimit --hashlimit-upto 120/min --hashlimit-name i0
        iptables -A t -m hashlimit --hashlimit-upto 1000000/sec --hashlimit-name i1
        iptables -A t -m hashlimit --hashlimit-upto 1000001/sec --hashlimit-name i2
        iptables -A t -m hashlimit --hashlimit-upto 3mb/s --hashlimit-burst 1kb --hashlimit-name i3
        iptables -A t -m hashlimit --hashlimit-upto 3mb/s --hashlimit-burst 10 --hashlimit-name i4
        iptables -A t -m hashlimit --hashlimit-upto 3000b/s --hashlimit-burst 10kb --hashlimit-name i5
        iptables -A t -m hashlimit --hashlimit-upto 5/s --hashlimit-burst 10kb --hashlimit-name i6
        iptables -A t -m hashlimit --hashlimit-upto 5/s --hashlimit-above 3/s --hashlimit-name i7
        iptables -A t -m hashlimit --hashlimit-upto 5000mb/s --hashlimit-name i8
        iptables -A t -m hashlimit --hashlimit-upto 10b/s --hashlimit-name i9
        iptables -A t -m hashlimit --hashlimit-upto 5/s --hashlimit-name n --hashlimit-rate-interval 4
        iptables -A t -p tcp --syn -m connlimit --connlimit-above 3
        iptables -A t -m connlimit --connlimit-upto 10 --connlimit-mask 24 --connlimit-daddr
        iptables -A t -m connlimit ! --connlimit-above 5 --connlimit-saddr
        iptables -A t -m connlimit ! --connlimit-upto 5 --connlimit-mask 0
        iptables -A t -m connlimit
        iptables -A t -m connlimit --connlimit-above 3 --connlimit-upto 3
        iptables -A t -m connlimit --connlimit-above 3 --connlimit-saddr --connlimit-daddr
        iptables -A t -m connlimit --connlimit-above x
        iptables -A t -m connlimit --connlimit-above 4294967295
        iptables -A t -m connlimit --connlimit-above 4294967296
        ip6tables -N t
        ip6tables -A t -m recent --set
        ip6tables -A t -m recent --set --mask ffff:ffff:ffff:: --name o --rdest
        ip6tables -A t -m connlimit --connlimit-above 3 --connlimit-mask 64
        ip6tables -A t -m connlimit --connlimit-above 3 --connlimit-mask 129
        ip6tables -A t -m connlimit --connlimit-upto 3
        ip6tables -A t -m hashlimit --hashlimit-upto 5/s --hashlimit-name n --hashlimit-mode srcip --hashlimit-srcmask 64
        ip6tables -A t -m hashlimit --hashlimit-upto 5/s --hashlimit-name n2 --hashlimit-mode srcip --hashlimit-srcmask 129",
    );
    twin.check_listings();
}

#[test]
fn targets_are_read_and_printed_as_iptables_does() {
    let Some(mut twin) = Twin::new("targets_are_read_and_printed_as_iptables_does") else {
        return;
    };
    twin.check_all(
        r#"
        iptables -A INPUT -j REJECT
        iptables -A INPUT -p tcp -j REJECT --reject-with tcp-reset
        iptables -A INPUT -p tcp -j REJECT --reject-with tcp-rst
        iptables -A INPUT -p tcp -j REJECT --reject-with TCP
        iptables -A INPUT -j REJECT --reject-with icmp
        iptables -A INPUT -j REJECT --reject-with icmp-p
        iptables -A INPUT -j REJECT --reject-with net-unreach
        iptables -A INPUT -j REJECT --reject-with host-unreach
        iptables -A INPUT -j REJECT --reject-with port-unreach
        iptables -A INPUT -j REJECT --reject-with proto-unreach
        iptables -A INPUT -j REJECT --reject-with net-prohib
        iptables -A INPUT -j REJECT --reject-with host-prohib
        iptables -A INPUT -j REJECT --reject-with icmp-admin-prohibited
        iptables -A INPUT -j REJECT --reject-with bogus
        iptables -A INPUT -j REJECT --reject-with icmp6-no-route
        iptables -A INPUT -j REJECT --reject-with tcp-reset
        iptables -A INPUT -p udp -j REJECT --reject-with tcp-reset
        iptables -A INPUT ! -p tcp -j REJECT --reject-with tcp-reset
        iptables -A INPUT -j REJECT --reject-with
        iptables -A INPUT -j REJECT --reject-with net-unreach --reject-with net-unreach
        iptables -A INPUT -j REJECT ! --reject-with net-unreach
        iptables -A INPUT --reject-with net-unreach
        iptables -v -A INPUT -j REJECT
        iptables -C INPUT -j REJECT --reject-with icmp-port-unreachable
        iptables -D INPUT -j REJECT
        iptables -t raw -A PREROUTING -j REJECT
        iptables -t mangle -A PREROUTING -j REJECT
        ip6tables -A INPUT -j REJECT
        ip6tables -A INPUT -j REJECT --reject-with no-route
        ip6tables -A INPUT -j REJECT --reject-with adm-prohibited
        ip6tables -A INPUT -j REJECT --reject-with addr-unreach
        ip6tables -A INPUT -j REJECT --reject-with port-unreach
        ip6tables -A INPUT -p tcp -j REJECT --reject-with tcp-reset
        ip6tables -A INPUT -j REJECT --reject-with policy-fail
        ip6tables -A INPUT -j REJECT --reject-with reject-route
        ip6tables -A INPUT -j REJECT --reject-with icmp6-p
        ip6tables -A INPUT -j REJECT --reject-with icmp-port-unreachable
        iptables -A INPUT -j LOG
        iptables -A INPUT -j LOG --log-prefix foo
        iptables -A INPUT -j LOG --log-prefix 'foo bar: '
        iptables -A INPUT -j LOG --log-prefix 'a"b\c'
        iptables -A INPUT -j LOG --log-prefix ''
        iptables -A INPUT -j LOG --log-prefix 123456789012345678901234567890123
        iptables -A INPUT -j LOG --log-level 0
        iptables -A INPUT -j LOG --log-level 4
        iptables -A INPUT -j LOG --log-level 7
        iptables -A INPUT -j LOG --log-level 8
        iptables -A INPUT -j LOG --log-level debug
        iptables -A INPUT -j LOG --log-level warning
        iptables -A INPUT -j LOG --log-level error
        iptables -A INPUT -j LOG --log-level panic
        iptables -A INPUT -j LOG --log-level warn
        iptables -A INPUT -j LOG --log-level 0x5
        iptables -A INPUT -j LOG --log-tcp-sequence --log-tcp-options --log-ip-options --log-uid --log-macdecode
        iptables -A INPUT -j LOG --log-tcp-sequence --log-tcp-sequence
        iptables -A INPUT -j LOG --log-tcp-s
        iptables -A INPUT -j LOG ! --log-uid
        iptables -A INPUT -j LOG --log-level 4 --log-prefix x --log-level 3
        iptables -A INPUT -j LOG --bogus
        iptables -A INPUT -j LOG -m limit
        iptables -A INPUT -m limit --limit 5/min -j LOG --log-prefix 'IPTables-Dropped: ' --log-level 4
        iptables -v -A INPUT -j LOG --log-prefix 'a b'
        iptables -C INPUT -j LOG --log-level 4
        ip6tables -A FORWARD -j LOG --log-prefix six
        iptables -A INPUT -j NFLOG
        iptables -A INPUT -j NFLOG --nflog-group 5
        iptables -A INPUT -j NFLOG --nflog-group 65536
        iptables -A INPUT -j NFLOG --nflog-group x
        iptables -A INPUT -j NFLOG --nflog-prefix 'abc def'
        iptables -A INPUT -j NFLOG --nflog-prefix 1234567890123456789012345678901234567890123456789012345678901234
        iptables -A INPUT -j NFLOG --nflog-size 100
        iptables -A INPUT -j NFLOG --nflog-size 0
        iptables -A INPUT -j NFLOG --nflog-threshold 5
        iptables -A INPUT -j NFLOG --nflog-threshold 65536
        iptables -A INPUT -j NFLOG --nflog-group 5 --nflog-prefix p --nflog-size 20 --nflog-threshold 7
        iptables -A INPUT -j NFLOG --nflog-group 0 --nflog-threshold 0
        iptables -A INPUT -j MARK --set-mark 5
        iptables -t raw -A PREROUTING -j MARK --set-mark 5
        "#,
    );
    twin.check_listings();
}

#[test]
fn the_table_mangle_is_read_and_printed_as_iptables_does() {
    let Some(mut twin) = Twin::new("the_table_mangle_is_read_and_printed_as_iptables_does") else {
        return;
    };
    let mut lines = String::new();
    for options in [
        "",
        "--set-mark 5",
        "--set-mark 5/0xff",
        "--set-mark 0xff/0x0f",
        "--set-xmark 5",
        "--set-xmark 5/0xff",
        "--and-mark 0xf0",
        "--or-mark 0xf",
        "--xor-mark 0x3",
        "--and-mark 0xffffffff",
        "--set-mark 5 --or-mark 3",
        "--set-mark 5 --set-mark 6",
        "--set-mark x",
        "--set-mark 5/",
        "--set-mark 0x1ffffffff",
        "--or-mark x",
        "--or-mark 5/3",
        "--or-mark 4294967296",
        "! --or-mark 5",
    ] {
        lines += &format!("iptables -t mangle -A PREROUTING -j MARK {options}\n");
        lines += &format!("ip6tables -t mangle -A POSTROUTING -o eth0 -j MARK {options}\n");
    }
    for options in [
        "",
        "--save-mark",
        "--restore-mark",
        "--save-mark --mask 0xff",
        "--restore-mark --mask 0xff",
        "--save-mark --nfmask 0xff --ctmask 0xff00",
        "--restore-mark --nfmask 0xff --ctmask 0xff00",
        "--save-mark --nfmask 0xff",
        "--save-mark --mask 0xff --nfmask 0xff",
        "--set-mark 5",
        "--set-mark 5/0xff",
        "--set-xmark 5/0xff",
        "--set-xmark 5",
        "--and-mark 5",
        "--or-mark 5",
        "--xor-mark 5",
        "--save-mark --restore-mark",
        "--set-mark 5 --save-mark",
        "--mask 5",
        "--nfmask 5",
        "--set-mark 1 --mask 5",
        "--mask x --save-mark",
        "--save-mark --nfmask x",
    ] {
        lines += &format!("iptables -t mangle -A FORWARD -j CONNMARK {options}\n");
    }
    twin.check_all(&lines);
    twin.check_all(
        "
        iptables -A INPUT -j CONNMARK --save-mark
        iptables -t raw -A PREROUTING -j CONNMARK --save-mark
        ip6tables -A INPUT -j DROP
        iptables -t mangle -A PREROUTING -j LOG
        iptables -t mangle -P PREROUTING DROP
        iptables -t mangle -N foo
        iptables -t mangle -A PREROUTING -o eth0 -j ACCEPT
        iptables -t mangle -A POSTROUTING -i eth0 -j ACCEPT
        iptables -t mangle -A INPUT -o eth0 -j ACCEPT
        iptables -t mangle -A OUTPUT -j foo
        iptables -t mangle -A foo -p tcp -j ACCEPT
        iptables -t mangle -L -n
        iptables -t mangle -L -v
        iptables -t mangle -S
        ",
    );
    twin.check_listings();
}
