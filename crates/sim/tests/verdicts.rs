//! Random rulesets of raw, mangle and filter for both families, with the same packets through a namespace with the real
//! iptables and through the native plane: the same verdict on each packet, and the same counters of each rule.
//!
//! Every packet has a number of its own (the identification of IPv4, the flow label of IPv6). A set of nftables behind all tables
//! of iptables keeps the numbers of those that came through.
//!
//! `KEEPSTATE_VERDICT_SEEDS=FIRST..END` says which rulesets.

#[expect(
    dead_code,
    reason = "packets of this host are sent too, by a program of its own"
)]
#[path = "support/beside_linux.rs"]
mod beside_linux;
#[path = "support/loaded.rs"]
mod loaded;
#[path = "support/random_packets.rs"]
mod random_packets;
#[path = "support/random_rarities.rs"]
mod random_rarities;
#[path = "support/random_rules.rs"]
mod random_rules;
#[expect(dead_code, reason = "the rules are random")]
#[path = "support/sets.rs"]
mod sets;

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::io::{BufRead as _, BufReader, Write as _};
use std::ops::Range;
use std::process::{Child, ChildStdout, Stdio};

use beside_linux::{ARRIVAL, feed, store_counters};
use keepstate_engine::host::Way;
use keepstate_engine::process::{Arrival, Path};
use keepstate_engine::settings::{SETTING_ACCOUNTING, SETTING_TCP_BE_LIBERAL, Settings};
use keepstate_engine::time::Tick;
use keepstate_engine::tuple::Family;
use keepstate_engine::verdict::Verdict;
use keepstate_engine::wire::Link;
use keepstate_flowmemory::{Accounting, OwnedTable};
use keepstate_policy::model::{Counters, Interface, Table, Target};
use keepstate_policy::{Compiled, FileKind, Policy, compile, parse_rules};
use keepstate_sim::locals::Locals;
use keepstate_sim::plane::Plane;
use keepstate_sim::routes::KnownRoute;
use keepstate_testkit::{Namespace, programs_or_skip, root_or_skip};
use loaded::loaded;
use random_packets::{Case, OWN_HOPS, OWN_V4, OWN_V6, cases, is_liberal};
use random_rules::ruleset;

const FLOWS_MAX: u32 = 1024;
const SEEDS: Range<u64> = 0..12;

/// Addresses of the host.
const OWN: [&str; 2] = ["10.0.0.1/32", "2001:db8::1/128"];
/// Reads lines: `i` and the frame of a packet from outside, `o` and a packet of this host, `.` when all are to be through.
const PLAY: &str = "
import socket, sys, time
outside = socket.socket(socket.AF_PACKET, socket.SOCK_RAW)
outside.bind(('sender', 0))
own = {4: socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_RAW),
       6: socket.socket(socket.AF_INET6, socket.SOCK_RAW, socket.IPPROTO_RAW)}
for line in sys.stdin:
    if line[0] == '.':
        time.sleep(0.02)
        print('.', flush=True)
        continue
    packet = bytes.fromhex(line[1:])
    if line[0] == 'i':
        outside.send(packet)
        continue
    try:
        if packet[0] >> 4 == 4:
            own[4].sendto(packet, (socket.inet_ntop(socket.AF_INET, packet[16:20]), 0))
        else:
            own[6].sendto(packet, (socket.inet_ntop(socket.AF_INET6, packet[24:40]), 0))
    except PermissionError:
        pass
";

const NOTHING: &str = "*raw\nCOMMIT\n*mangle\nCOMMIT\n*filter\nCOMMIT\n";

/// Keeps the numbers of what came through.
const SEEN: &str = "
table inet seen {
    set v4 { typeof ip id; flags dynamic; size 65535; }
    set v6 { typeof ip6 flowlabel; flags dynamic; size 65535; }
    chain input {
        type filter hook input priority 200;
        add @v4 { ip id }
        add @v6 { ip6 flowlabel }
    }
    chain postrouting {
        type filter hook postrouting priority 300;
        add @v4 { ip id }
        add @v6 { ip6 flowlabel }
    }
}
";

#[test]
fn random_rulesets_give_every_packet_the_verdict_that_linux_gives_it() {
    const NAME: &str = "random_rulesets_give_every_packet_the_verdict_that_linux_gives_it";
    let programs = [
        "iptables",
        "ip6tables",
        "nft",
        "conntrack",
        "ipset",
        "python3",
        "nsenter",
    ];
    if !root_or_skip(NAME) || !programs_or_skip(NAME, &programs) {
        return;
    }
    let linux = Linux::new();
    let mut wrong = String::new();
    let (mut accepted, mut dropped) = (0, 0);
    for seed in seeds() {
        let cases = cases(seed);
        let (passed, differences) = compare(&linux, seed, &cases);
        accepted += passed;
        dropped += cases.len() - passed;
        if !differences.is_empty() {
            let first = first_difference(&linux, seed, &cases);
            let _ = writeln!(
                wrong,
                "seed {seed}:\n{differences}of these the first:\n{first}"
            );
            for family in [Family::V4, Family::V6] {
                println!("seed {seed}, {family:?}:\n{}", ruleset(family, seed));
            }
        }
    }
    println!("{accepted} packets accepted, {dropped} dropped");
    assert!(wrong.is_empty(), "{wrong}");
    assert!(
        accepted > 500 && dropped > 500,
        "{accepted} accepted, {dropped} dropped"
    );
}

/// How many packets Linux lets pass, and what differs.
fn compare(linux: &Linux, seed: u64, cases: &[Case]) -> (usize, String) {
    let texts = [Family::V4, Family::V6].map(|family| ruleset(family, seed));
    let (ours, policy) = judge(&texts, cases, is_liberal(seed));
    let (theirs, counted) = linux.judge(&texts, cases, is_liberal(seed));
    let differences = differences(cases, (&ours, &policy), (&theirs, &counted));
    (theirs.len(), differences)
}

/// With the packet that is the first to make a difference.
fn first_difference(linux: &Linux, seed: u64, cases: &[Case]) -> String {
    let (mut same, mut differs) = (0, cases.len());
    while differs - same > 1 {
        let middle = usize::midpoint(same, differs);
        if compare(linux, seed, &cases[..middle]).1.is_empty() {
            same = middle;
        } else {
            differs = middle;
        }
    }
    let (_, differences) = compare(linux, seed, &cases[..differs]);
    let Case { number, path, ip } = &cases[same];
    let hex: String = ip.iter().map(|byte| format!("{byte:02x}")).collect();
    format!("{differences}after packet {number} ({path:?}): {hex}\n")
}

fn seeds() -> Range<u64> {
    let Ok(text) = std::env::var("KEEPSTATE_VERDICT_SEEDS") else {
        return SEEDS;
    };
    let ends = text.split_once("..");
    let ends = ends.and_then(|(first, end)| Some(first.parse().ok()?..end.parse().ok()?));
    ends.expect("KEEPSTATE_VERDICT_SEEDS is FIRST..END")
}

/// The numbers of the packets that pass, and the rules with their counters.
fn judge(texts: &[String; 2], cases: &[Case], is_liberal: bool) -> (BTreeSet<u32>, Policy) {
    let mut policy = Policy::default();
    for (text, family) in texts.iter().zip([Family::V4, Family::V6]) {
        policy.merge(parse(text, family));
    }
    let mut compiled = compile(&policy).expect("the rules compile");
    compiled
        .number_sets(sets::number)
        .expect("all sets are known");
    let settings = settings(is_liberal);
    let memory = OwnedTable::new(settings.buckets, Accounting::Yes)
        .with_conditions(compiled.conditions.len())
        .with_sets(sets::BUCKETS)
        .with_meters()
        .with_helpers()
        .with_answers();
    sets::define(&memory.as_slices(), &settings);
    let mut plane = Plane::new(memory.as_slices(), settings, loaded(&compiled), ());
    let now = std::time::UNIX_EPOCH.elapsed().expect("it is after 1970");
    plane.set_wall_clock(now.as_nanos() as u64);
    plane.routes = Some(known_routes());
    plane.interface = RECEIVER;
    plane.locals = Locals::new(
        OWN.map(|address| address.parse().expect("an address"))
            .to_vec(),
    );
    plane.out_interfaces = bits(&compiled, "nowhere");
    let mut passed = BTreeSet::new();
    for case in cases {
        let device = match case.path {
            Path::Ingress => "receiver",
            Path::Local => "nowhere",
        };
        let arrival = Arrival {
            path: case.path,
            interfaces: bits(&compiled, device),
            ..ARRIVAL
        };
        let outcome = match case.path {
            Path::Ingress => plane.judge(&frame(&case.ip), &arrival, Tick(1_000)),
            Path::Local => {
                let link = if case.ip[0] >> 4 == 4 {
                    Link::Ipv4
                } else {
                    Link::Ipv6
                };
                plane.judge(&case.ip, &Arrival { link, ..arrival }, Tick(1_000))
            }
        };
        if outcome.verdict == Verdict::Accept {
            passed.insert(case.number);
        }
    }
    store_counters(&compiled, &mut policy, &plane);
    (passed, policy)
}

fn settings(is_liberal: bool) -> Settings {
    let mut settings = beside_linux::settings(FLOWS_MAX);
    settings.flags |= SETTING_ACCOUNTING;
    settings.sets.buckets = sets::BUCKETS;
    if is_liberal {
        settings.flags |= SETTING_TCP_BE_LIBERAL;
    }
    settings
}

/// Numbers of devices, for the native plane.
const RECEIVER: u32 = 7;
const NOWHERE: u32 = 8;

/// Everybody is behind `nowhere`, and the host has its own addresses.
fn known_routes() -> Vec<KnownRoute> {
    let route = |family, network, bits, kind| {
        let mut interfaces = [0; _];
        interfaces[0] = NOWHERE;
        KnownRoute {
            family,
            network,
            bits,
            way: Way { kind, interfaces },
        }
    };
    let own_v6 = u128::from_be_bytes(OWN_V6);
    vec![
        route(Family::V4, [0; 4], 0, Way::ROUTE),
        route(Family::V6, [0; 4], 0, Way::ROUTE),
        route(
            Family::V4,
            [u32::from_be_bytes(OWN_V4), 0, 0, 0],
            32,
            Way::LOCAL,
        ),
        route(
            Family::V6,
            [96, 64, 32, 0].map(|shift| (own_v6 >> shift) as u32),
            128,
            Way::LOCAL,
        ),
    ]
}

fn bits(compiled: &Compiled, name: &str) -> u64 {
    let patterns = compiled.interface_patterns.iter().enumerate();
    let bit = |(bit, pattern): (usize, &String)| {
        let pattern = Interface::new(pattern).expect("a name");
        u64::from(pattern.matches(name)) << bit
    };
    patterns.map(bit).fold(0, |bits, bit| bits | bit)
}

fn frame(ip: &[u8]) -> Vec<u8> {
    let mut frame = vec![2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2];
    frame.extend(if ip[0] >> 4 == 4 {
        [0x08, 0x00]
    } else {
        [0x86, 0xdd]
    });
    frame.extend(ip);
    frame
}

fn parse(text: &str, family: Family) -> keepstate_policy::Parsed {
    let parsed = parse_rules(text, FileKind::Save(family));
    assert!(!parsed.has_errors(), "{:?}\n{text}", parsed.diagnostics);
    parsed
}

/// A namespace with the real iptables.
struct Linux {
    namespace: Namespace,
    player: Child,
    answers: std::cell::RefCell<BufReader<ChildStdout>>,
}

impl Linux {
    fn new() -> Self {
        let namespace = Namespace::new("verdicts");
        beside_linux::connect(&namespace);
        let addresses = [
            "10.0.0.1/32 dev nowhere",
            "2001:db8::1/128 dev nowhere nodad",
        ];
        beside_linux::forward(&namespace, &addresses);
        for (name, value) in [
            ("net.ipv6.conf.sender.disable_ipv6", "1"),
            ("net.ipv6.conf.void.disable_ipv6", "1"),
            ("net.ipv4.conf.all.send_redirects", "0"),
            ("net.ipv4.conf.receiver.accept_redirects", "0"),
            ("net.netfilter.nf_conntrack_acct", "1"),
        ] {
            namespace.sysctl(name, value);
        }
        feed(namespace.command("nft").args(["-f", "-"]), SEEN);
        feed(namespace.command("ipset").arg("restore"), &sets::script());
        let mut player = namespace
            .command("python3")
            .args(["-c", PLAY])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("python3 runs");
        let answers = BufReader::new(player.stdout.take().expect("the output is piped")).into();
        Self {
            namespace,
            player,
            answers,
        }
    }

    fn judge(
        &self,
        texts: &[String; 2],
        cases: &[Case],
        is_liberal: bool,
    ) -> (BTreeSet<u32>, Policy) {
        let liberal = if is_liberal { "1" } else { "0" };
        self.namespace
            .sysctl("net.netfilter.nf_conntrack_tcp_be_liberal", liberal);
        for (text, (program, option)) in
            texts.iter().zip([("iptables", "ttl"), ("ip6tables", "hl")])
        {
            let keep =
                format!(":C3 - [0:0]\n-A OUTPUT -m {option} ! --{option}-eq {OWN_HOPS} -j DROP\n");
            let text = text.replacen(":C3 - [0:0]\n", &keep, 1);
            // The kernel keeps lists that rules name before and after a change.
            for text in [NOTHING, &text] {
                feed(
                    &mut self.namespace.command(&format!("{program}-restore")),
                    text,
                );
            }
        }
        self.namespace.run("conntrack", &["-F"]);
        self.namespace.run("ipset", &["flush"]);
        let restore = ["-exist", "restore"];
        feed(
            self.namespace.command("ipset").args(restore),
            &sets::script(),
        );
        for set in ["v4", "v6"] {
            self.namespace
                .run("nft", &["flush", "set", "inet", "seen", set]);
        }
        self.play(cases);
        let mut seen = BTreeSet::new();
        for set in ["v4", "v6"] {
            let listed = self
                .namespace
                .run("nft", &["list", "set", "inet", "seen", set]);
            let elements = listed
                .split_once("elements = {")
                .map_or("", |(_, rest)| rest);
            let elements = elements.split('}').next().unwrap_or_default();
            let numbers = elements
                .split(',')
                .filter_map(|number| number.trim().parse::<u32>().ok());
            seen.extend(numbers);
        }
        let mut policy = Policy::default();
        for (program, family) in [("iptables", Family::V4), ("ip6tables", Family::V6)] {
            policy.merge(parse(
                &self.namespace.run(&format!("{program}-save"), &["-c"]),
                family,
            ));
        }
        (seen, policy)
    }

    fn play(&self, cases: &[Case]) {
        let mut input = self.player.stdin.as_ref().expect("the input is piped");
        let mut lines = String::new();
        for case in cases {
            let (way, bytes) = match case.path {
                Path::Ingress => ('i', frame(&case.ip)),
                Path::Local => ('o', case.ip.clone()),
            };
            lines.push(way);
            for byte in bytes {
                let _ = write!(lines, "{byte:02x}");
            }
            lines.push('\n');
        }
        lines += ".\n";
        input.write_all(lines.as_bytes()).expect("python3 reads");
        let mut answer = String::new();
        let read = self.answers.borrow_mut().read_line(&mut answer);
        assert_eq!(
            (read.expect("python3 answers"), answer.as_str()),
            (2, ".\n")
        );
    }
}

impl Drop for Linux {
    fn drop(&mut self) {
        drop(self.player.stdin.take());
        let _ = self.player.wait();
    }
}

type Side<'a> = (&'a BTreeSet<u32>, &'a Policy);

/// What differs, a line each.
fn differences(cases: &[Case], ours: Side<'_>, theirs: Side<'_>) -> String {
    let mut told = String::new();
    for case in cases {
        let [here, there] = [ours.0, theirs.0].map(|passed| passed.contains(&case.number));
        if here != there {
            let hex: String = case.ip.iter().map(|byte| format!("{byte:02x}")).collect();
            let _ = writeln!(
                told,
                "packet {} {:?}: here {here}, Linux {there}: {hex}",
                case.number, case.path
            );
        }
    }
    for family in [Family::V4, Family::V6] {
        let [ours, theirs] = [ours.1, theirs.1].map(|policy| policy.ruleset(family));
        for (ours, theirs) in [
            (&ours.mangle, &theirs.mangle),
            (&ours.filter, &theirs.filter),
        ] {
            for ((line, ours), (_, theirs)) in counters(ours).iter().zip(counters(theirs)) {
                if *ours != theirs {
                    let _ = writeln!(told, "{family:?} {line}: {ours:?}, Linux {theirs:?}");
                }
            }
        }
    }
    told
}

/// Each rule and policy with what it has counted.
fn counters(table: &Table) -> Vec<(String, Counters)> {
    let mut counted = Vec::new();
    let builtin = ["PREROUTING", "INPUT", "FORWARD", "OUTPUT", "POSTROUTING"];
    let own = table.user.keys().map(|name| name.as_str());
    for chain in builtin.into_iter().chain(own) {
        for rule in table.rules(chain).into_iter().flatten() {
            // Remembered outcomes count the rule that decided, and not the way there.
            if matches!(
                rule.target,
                Target::Jump(_) | Target::Goto(_) | Target::Return
            ) {
                continue;
            }
            let line = format!("-A {chain} {}", keepstate_policy::Specification(rule));
            counted.push((line, rule.counters));
        }
    }
    counted
}
