//! What rules match here, and what Linux's own match: the same frames into a namespace with the real
//! iptables and into the native plane, and the same counters afterwards.

#[path = "support/beside_linux.rs"]
mod beside_linux;
#[path = "support/connections.rs"]
mod connections;
#[path = "support/loaded.rs"]
mod loaded;
#[path = "support/sets.rs"]
mod sets;

use beside_linux::{ARRIVAL, feed, send, store_counters};
use keepstate_engine::host::Way;
use keepstate_engine::time::Tick;
use keepstate_engine::tuple::Family;
use keepstate_engine::verdict::Hook;
use keepstate_flowmemory::{Accounting, OwnedTable};
use keepstate_policy::model::Counters;
use keepstate_policy::{FileKind, Policy, compile, parse_rules};
use keepstate_sim::locals::Locals;
use keepstate_sim::plane::Plane;
use keepstate_sim::routes::KnownRoute;
use keepstate_sim::traffic::Random;
use keepstate_testkit::{Namespace, programs_or_skip, root_or_skip};
use loaded::loaded;
use std::net::IpAddr;

const FLOWS_MAX: u32 = 1024;
const FRAMES: usize = 3_000;

/// In the table raw, which sees packets before anything else has looked at them.
const BOTH: &str = "
-p tcp -m multiport --dports 0:9000,20000
-p tcp -m multiport ! --sports 1,2,3,4,5,6,7,8,9,10,11,12,20:30000
-p udp -m multiport --ports 1,2,3,4,5,6,7,8,9,10,11,12,20:9000
-p udplite -m multiport --ports 20:30000
-p sctp -m multiport ! --dports 20:30000
-p dccp -m multiport --sports 20:30000
-p sctp --dport 1:40000
-p dccp ! --sport 1:40000
-p sctp --chunk-types all DATA,INIT
-p sctp ! --chunk-types all DATA
-p sctp --chunk-types any DATA:Be,ABORT:T
-p sctp ! --chunk-types any I_DATA,FORWARD_TSN
-p sctp --chunk-types only DATA,INIT:,ABORT:t,I_DATA
-p sctp ! --chunk-types only DATA:E,INIT
-p sctp --chunk-types only ALL
-p sctp --chunk-types any ALL
-p sctp --chunk-types all ALL
-p sctp --chunk-types all NONE
-p dccp --dccp-types REQUEST,DATA,INVALID
-p dccp ! --dccp-types RESET
-p dccp --dccp-option 1
-p dccp --dccp-option 38
-p dccp ! --dccp-option 44 --sport 0:40000
-m rpfilter
-m rpfilter --invert
-m rpfilter --loose
-m rpfilter --loose --invert
-m rpfilter --accept-local
-m rpfilter --loose --accept-local --validmark
-p tcp --tcp-flags SYN,ACK,FIN,RST SYN
-p tcp ! --syn
-p tcp --tcp-flags ALL FIN,PSH,URG
-p tcp ! --tcp-flags ALL NONE
-p tcp --tcp-option 8
-p tcp --tcp-option 2
-p tcp ! --tcp-option 3
-p tcp -m tcpmss --mss 1000:30000
-p tcp -m tcpmss ! --mss 1000:30000
-p tcp -m ecn --ecn-tcp-ece
-p tcp -m ecn ! --ecn-tcp-cwr --ecn-ip-ect 1
-m length --length 60:100
-m length ! --length 60:100
-m length --length 100:60
-m dscp --dscp 0
-m dscp ! --dscp-class AF11
-m tos --tos 0x10/0x10
-m tos ! --tos 0x14/0x3c
-m ecn ! --ecn-ip-ect 0
-m mac --mac-source 02:00:00:00:00:02
-m mac ! --mac-source 02:00:00:00:00:02
-m pkttype --pkt-type unicast
-m pkttype ! --pkt-type multicast
-m pkttype --pkt-type broadcast
-m statistic --mode nth --every 7 --packet 3
-p udp -m statistic --mode nth ! --every 2 --packet 0
-m statistic --mode nth --every 1 --packet 0
-m statistic --mode random --probability 0
-m statistic --mode random --probability 1
-m mark --mark 0
-m mark ! --mark 0
-m string --algo bm --string ab
-m string --algo kmp --string aabaab
-m string --algo bm ! --string bbb --from 20 --to 90
-m string --algo kmp --string ABBA --icase
-m string --algo bm --hex-string |0000| --from 10 --to 12
-m time --datestop 2037-01-01
-m time ! --monthdays 1,2,3 --datestop 2030-01-01
-m limit --limit 1/day --limit-burst 17
-p tcp -m limit --limit 2/day
-m recent --set --name all
-m recent --rcheck --hitcount 20 --name all
-m recent ! --rcheck --seconds 3600 --hitcount 90 --name all
-m recent --rcheck --rttl --name all
-m recent --update --seconds 3600 --hitcount 7 --rttl --name ttl
-p tcp -m recent --set --name ttl
-p udp -m recent --remove --name ttl
-p tcp -m recent --set --name to --rdest
-m recent --update --seconds 3600 --reap --name to --rdest
-m recent ! --update --hitcount 256 --name to --rdest
-p sctp -m recent ! --remove --name to --rdest
-m hashlimit --hashlimit-above 1/hour --hashlimit-burst 9 --hashlimit-mode srcip --hashlimit-name h1
-m hashlimit --hashlimit-above 1/hour --hashlimit-burst 3 --hashlimit-mode srcip --hashlimit-name h1
-m hashlimit --hashlimit-upto 1/hour --hashlimit-burst 2 --hashlimit-mode srcip,dstip --hashlimit-name h2
-p tcp -m hashlimit --hashlimit-upto 1/hour --hashlimit-burst 1 --hashlimit-mode dstport --hashlimit-name h3
-p udp -m hashlimit --hashlimit-above 1/hour --hashlimit-burst 1 --hashlimit-mode srcport --hashlimit-name h4
-p dccp -m hashlimit --hashlimit-upto 1/hour --hashlimit-burst 1 --hashlimit-mode srcport,dstport --hashlimit-name h5
-m hashlimit --hashlimit-upto 1/hour --hashlimit-burst 1 --hashlimit-mode srcip,dstip,dstport --hashlimit-name h6
-m hashlimit --hashlimit-upto 1/hour --hashlimit-burst 4 --hashlimit-mode srcip --hashlimit-name h7 --hashlimit-srcmask 30
-m hashlimit --hashlimit-upto 1/hour --hashlimit-burst 4 --hashlimit-mode srcip --hashlimit-name h8 --hashlimit-htable-max 5 --hashlimit-htable-size 5 --hashlimit-srcmask 30
-m hashlimit --hashlimit-upto 1b/s --hashlimit-mode srcip,dstip --hashlimit-name h9
-m hashlimit --hashlimit-above 2/sec --hashlimit-burst 9 --hashlimit-mode srcip --hashlimit-name i0 --hashlimit-rate-match --hashlimit-rate-interval 3600
-m hashlimit --hashlimit-upto 5kb/s --hashlimit-mode srcip --hashlimit-name i1 --hashlimit-rate-match --hashlimit-rate-interval 3600
-m length --length 0:100 -m dscp ! --dscp 0 -p udp -m multiport --dports 0:30000
-m addrtype --dst-type LOCAL
-m addrtype ! --dst-type LOCAL --src-type UNICAST
-m addrtype --src-type LOCAL
-m addrtype --dst-type MULTICAST
-m addrtype --dst-type UNICAST
-m addrtype ! --src-type UNICAST
-m addrtype --dst-type UNSPEC
-m addrtype --dst-type LOCAL --limit-iface-in
";

/// Routes of the host beside those that its addresses bring along: network, and what `ip route` adds it with.
const ROUTES: [(&str, &str); 10] = [
    ("10.0.0.8/30", "dev sender"),
    ("10.0.0.10/32", "dev receiver"),
    ("10.0.0.12/32", "blackhole"),
    ("10.0.0.13/32", "nexthop dev sender nexthop dev receiver"),
    ("10.0.0.15/32", "dev sender metric 5"),
    ("2001:db8::/125", "dev receiver"),
    ("2001:db8::8/126", "dev sender"),
    ("2001:db8::c/128", "blackhole"),
    ("2001:db8::d/128", "dev sender and dev receiver metric 9"),
    ("fc00::/16", "dev receiver"),
];

/// The same, for the native plane, with what addresses bring along.
fn known_routes() -> Vec<KnownRoute> {
    let own = [
        ("10.0.0.0/29", "dev receiver"),
        ("10.0.0.5/32", "local dev receiver"),
        ("10.0.0.7/32", "broadcast"),
        ("2001:db8::6/128", "local dev receiver"),
        // Of the table local, for each device that is up.
        ("ff00::/8", "dev sender dev receiver"),
    ];
    let all = ROUTES.iter().chain(&own);
    all.map(|(network, how)| {
        let (address, bits) = network.split_once('/').expect("a network");
        let (family, network) = match address.parse().expect("an address") {
            IpAddr::V4(address) => (Family::V4, [address.to_bits(), 0, 0, 0]),
            IpAddr::V6(address) => {
                let bits = address.to_bits();
                let words = [96, 64, 32, 0].map(|shift| (bits >> shift) as u32);
                (Family::V6, words)
            }
        };
        let mut way = Way {
            kind: match how {
                _ if how.starts_with("local") => Way::LOCAL,
                _ if how.contains("dev") => Way::ROUTE,
                _ => 0,
            },
            interfaces: [0; _],
        };
        let named = [("sender", SENDER), ("receiver", RECEIVER)];
        let named = named.iter().filter(|(name, _)| how.contains(name));
        for (place, (_, index)) in way.interfaces.iter_mut().zip(named) {
            *place = *index;
        }
        KnownRoute {
            family,
            network,
            bits: bits.parse().expect("a length"),
            way,
        }
    })
    .collect()
}

/// Numbers of the devices, for the native plane.
const SENDER: u32 = 8;
const RECEIVER: u32 = 7;

/// Addresses of the host.
const OWN: [&str; 2] = ["10.0.0.5/29", "2001:db8::6/128"];

const V4: &str = "
-m addrtype --dst-type BROADCAST
-m addrtype --dst-type LOCAL,BROADCAST,MULTICAST
-m addrtype ! --dst-type UNICAST,MULTICAST
-m hashlimit --hashlimit-upto 1/hour --hashlimit-burst 9 --hashlimit-name h0
-m recent --set --name masked --mask 255.255.255.252
-m recent --rcheck --hitcount 33 --name masked --mask 255.255.255.252
-m iprange --src-range 10.0.0.3-10.0.0.9
-m iprange ! --src-range 10.0.0.3-10.0.0.9 --dst-range 10.0.0.1-10.0.0.12
-m ttl --ttl-eq 64
-m ttl --ttl-lt 64
-m ttl --ttl-gt 64
-m ttl --ttl-lt 0
-m ttl ! --ttl-eq 64
-f
! -f
-p icmp --icmp-type echo-request
-p icmp ! --icmp-type 3/3
-p icmp --icmp-type 3
-p icmp --icmp-type any
";

const V6: &str = "
-m addrtype --dst-type LOCAL,UNICAST
-m addrtype --dst-type LOCAL,MULTICAST
-m addrtype ! --dst-type MULTICAST --src-type UNICAST
-m recent --set --name masked6 --mask ffff:ffff:ffff:ffff:ffff:ffff:ffff:fff8
-m recent --rcheck --hitcount 60 --name masked6 --mask ffff:ffff:ffff:ffff:ffff:ffff:ffff:fff8
-m iprange --src-range 2001:db8::3-2001:db8::9
-m iprange ! --dst-range 2001:db8::3-2001:db8::9
-m hl --hl-eq 64
-m hl --hl-lt 64
-m hl --hl-gt 64
-p ipv6-icmp --icmpv6-type echo-request
-p ipv6-icmp ! --icmpv6-type 1/3
-p ipv6-icmp --icmpv6-type 1
";

fn table(family: Family) -> String {
    let (own, digit) = match family {
        Family::V4 => (V4, "4"),
        Family::V6 => (V6, "6"),
    };
    let rules = format!("{BOTH}{own}{}", sets::RULES.replace('@', digit));
    let lines = rules.lines().filter(|line| !line.is_empty());
    let rules: String = lines
        .map(|line| format!("-A PREROUTING {line}\n"))
        .collect();
    format!("*raw\n:PREROUTING ACCEPT [0:0]\n:OUTPUT ACCEPT [0:0]\n{rules}COMMIT\n")
}

#[test]
fn rules_match_what_linux_matches() {
    const NAME: &str = "rules_match_what_linux_matches";
    let programs = ["iptables", "ip6tables", "ipset", "python3", "nsenter"];
    if !root_or_skip(NAME) || !programs_or_skip(NAME, &programs) {
        return;
    }
    let mut random = Random::new(5);
    let frames: Vec<Vec<u8>> = (0..FRAMES).map(|_| frame(&mut random)).collect();
    let mut policy = Policy::default();
    for family in [Family::V4, Family::V6] {
        policy.merge(parse(&table(family), family));
    }
    judge(&mut policy, &frames);

    let namespace = Namespace::new("matches");
    prepare(&namespace);
    send(&namespace, "raw", &frames, "0");
    let mut differences = String::new();
    let mut matched = 0;
    for (family, program) in [(Family::V4, "iptables"), (Family::V6, "ip6tables")] {
        let saved = namespace.run(&format!("{program}-save"), &["-c", "-t", "raw"]);
        let theirs = counters(&parse(&saved, family), family);
        let ours = counters(&policy, family);
        assert_eq!(ours.len(), theirs.len());
        for ((line, ours), (_, theirs)) in ours.iter().zip(&theirs) {
            matched += usize::from(ours.packets != 0);
            if ours != theirs {
                differences += &format!("{program} {line}: {ours:?}, Linux {theirs:?}\n");
            }
        }
    }
    assert!(differences.is_empty(), "{differences}");
    assert!(matched > 125, "only {matched} rules matched");
}

fn parse(text: &str, family: Family) -> keepstate_policy::Parsed {
    let parsed = parse_rules(text, FileKind::Save(family));
    assert!(!parsed.has_errors(), "{:?}", parsed.diagnostics);
    parsed
}

trait Tables {
    fn tables(&self) -> &Policy;
}

impl Tables for Policy {
    fn tables(&self) -> &Policy {
        self
    }
}

impl Tables for keepstate_policy::Parsed {
    fn tables(&self) -> &Policy {
        &self.policy
    }
}

/// Each rule with what it counted.
fn counters(policy: &impl Tables, family: Family) -> Vec<(String, Counters)> {
    let table = &policy.tables().ruleset(family).raw;
    let rules = &table.builtin(Hook::Prerouting).rules;
    let line = |rule| keepstate_policy::Specification(rule).to_string();
    rules
        .iter()
        .map(|rule| (line(rule), rule.counters))
        .collect()
}

/// Shows the frames to the native plane.
fn judge(policy: &mut Policy, frames: &[Vec<u8>]) {
    let mut compiled = compile(policy).expect("the rules compile");
    compiled
        .number_sets(sets::number)
        .expect("all sets are known");
    let loaded = loaded(&compiled);
    let mut settings = beside_linux::settings(FLOWS_MAX);
    settings.sets.buckets = sets::BUCKETS;
    let memory = OwnedTable::new(settings.buckets, Accounting::No)
        .with_conditions(compiled.conditions.len())
        .with_sets(sets::BUCKETS)
        .with_meters();
    sets::define(&memory.as_slices(), &settings);
    let mut plane = Plane::new(memory.as_slices(), settings, loaded, ());
    let own = OWN.map(|address| address.parse().expect("an address"));
    plane.locals = Locals::new(own.to_vec());
    plane.routes = Some(known_routes());
    plane.interface = RECEIVER;
    let now = std::time::UNIX_EPOCH.elapsed().expect("it is after 1970");
    plane.set_wall_clock(now.as_nanos() as u64);
    for frame in frames {
        plane.judge(frame, &ARRIVAL, Tick(1_000));
    }
    store_counters(&compiled, policy, &plane);
}

fn prepare(namespace: &Namespace) {
    beside_linux::connect(namespace);
    feed(namespace.command("ipset").arg("restore"), &sets::script());
    for (program, family) in [("iptables", Family::V4), ("ip6tables", Family::V6)] {
        let text = table(family).replacen(
            "-A PREROUTING",
            "-A PREROUTING ! -i receiver -j ACCEPT\n-A PREROUTING",
            1,
        );
        feed(&mut namespace.command(&format!("{program}-restore")), &text);
        namespace.run(program, &["-t", "raw", "-D", "PREROUTING", "1"]);
        // Nothing is answered, and nobody asked for.
        namespace.run(program, &["-t", "raw", "-A", "OUTPUT", "-j", "DROP"]);
    }
    for address in OWN {
        let mut words = vec!["address", "add", address, "dev", "receiver"];
        if address.contains(':') {
            words.push("nodad");
        }
        namespace.run("ip", &words);
    }
    for (network, how) in ROUTES {
        for how in how.split(" and ") {
            let words = match how {
                "blackhole" => format!("route add blackhole {network}"),
                _ => format!("route add {network} {how}"),
            };
            let words: Vec<&str> = words.split(' ').collect();
            namespace.run("ip", &words);
        }
    }
}

/// A frame with any of the things that rules look at, whole and otherwise as it should be.
fn frame(random: &mut Random) -> Vec<u8> {
    let v6 = random.happens(40);
    let destination = match random.below(10) {
        0 => [0xff; 6],
        1 => [0x01, 0, 0x5e, 0, 0, 5],
        _ => [2, 0, 0, 0, 0, 1],
    };
    let source = [2, 0, 0, 0, 0, if random.happens(70) { 2 } else { 3 }];
    let protocol = match random.below(8) {
        0..=2 => 6,
        3 => 17,
        4 => 132,
        5 => 33,
        6 => 136,
        _ if v6 => 58,
        _ => 1,
    };
    let transport = transport(random, protocol);
    let class = if random.happens(50) {
        0
    } else {
        random.number() as u8
    };
    let hops = [1, 63, 64, 65, 255][random.below(5) as usize];
    let (from, to) = (random.below(16) as u8, random.below(16) as u8);
    let mut packet = Vec::new();
    packet.extend(destination);
    packet.extend(source);
    if v6 {
        let word = 6 << 12 | u16::from(class) << 4;
        packet.extend([0x86, 0xdd]);
        packet.extend(word.to_be_bytes());
        packet.extend([0, 0]);
        packet.extend((transport.len() as u16).to_be_bytes());
        packet.extend([protocol, hops]);
        packet.extend(v6_address(from, SOURCES_V6, random));
        packet.extend(v6_address(to, DESTINATIONS_V6, random));
    } else {
        packet.extend([0x08, 0x00]);
        let mut header = vec![0x45, class];
        header.extend((20 + transport.len() as u16).to_be_bytes());
        header.extend([0, 1, 0, 0, hops, protocol, 0, 0]);
        header.extend([10, 0, 0, from]);
        header.extend(match random.below(20) {
            0 => [224, 0, 0, 5],
            1 => [255; 4],
            _ => [10, 0, 0, to],
        });
        let sum = sum(&header);
        header[10..12].copy_from_slice(&sum.to_be_bytes());
        packet.extend(header);
    }
    packet.extend(transport);
    packet
}

/// Beginnings of addresses of other kinds.
const SOURCES_V6: [[u8; 2]; 3] = [[0xfc, 0], [0xe0, 0], [0x01, 0]];
const DESTINATIONS_V6: [[u8; 2]; 3] = [[0xff, 0x0e], [0xe0, 0], [0xfd, 0]];

fn v6_address(last: u8, others: [[u8; 2]; 3], random: &mut Random) -> [u8; 16] {
    let [a, b] = match random.below(30) {
        chosen @ 0..3 => others[chosen as usize],
        _ => [0x20, 0x01],
    };
    let [c, d] = if a == 0x20 { [0x0d, 0xb8] } else { [0; 2] };
    [a, b, c, d, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, last]
}

fn transport(random: &mut Random, protocol: u8) -> Vec<u8> {
    let port = |random: &mut Random| match random.below(3) {
        0 => random.below(30) as u16,
        1 => random.below(10_000) as u16,
        _ => random.number() as u16,
    };
    let mut bytes = Vec::new();
    let (from, to) = (port(random), port(random));
    bytes.extend(from.to_be_bytes());
    bytes.extend(to.to_be_bytes());
    let payload: Vec<u8> = (0..random.below(80))
        .map(|_| if random.happens(60) { b'a' } else { b'b' })
        .collect();
    match protocol {
        6 => {
            let options = tcp_options(random);
            let flags = match random.below(3) {
                0 => 0x02,
                1 => 0x10,
                _ => random.number() as u8,
            };
            bytes.extend([0; 8]);
            bytes.extend([((20 + options.len()) as u8 / 4) << 4, flags]);
            bytes.extend([0x10, 0, 0, 0, 0, 0]);
            bytes.extend(options);
        }
        17 | 136 => {
            bytes.extend((8 + payload.len() as u16).to_be_bytes());
            bytes.extend([0, 0]);
        }
        1 | 58 => {
            let kind = [0, 1, 3, 8, 11, 128, 129][random.below(7) as usize];
            bytes = vec![kind, random.below(5) as u8, 0, 0, 0, 1, 0, 1];
        }
        132 => {
            bytes.extend([0; 8]);
            for _ in 0..=random.below(4) {
                let kind = [0, 0, 1, 6, 14, 64, 192, 200][random.below(8) as usize];
                let more = random.below(6) as u8;
                bytes.extend([kind, random.below(16) as u8, 0, 4 + more]);
                bytes.extend(std::iter::repeat_n(
                    b'c',
                    usize::from(more.next_multiple_of(4)),
                ));
            }
            return bytes;
        }
        _ => {
            let (kind, is_long) = (random.below(12) as u8, random.below(2) as u8);
            let mut more = vec![0; 4 * usize::from(is_long)];
            more.extend(match kind {
                2 => vec![],
                0 => vec![0; 4],
                3..=6 | 8 | 9 => vec![0; 8],
                _ => vec![0; 12],
            });
            for _ in 0..random.below(4) {
                more.extend(match random.below(3) {
                    0 => [1, 0, 0, 0],
                    1 => [38, 4, 44, 1],
                    _ => [44, 3, 1, 0],
                });
            }
            let words = 3 + more.len() as u8 / 4;
            bytes.extend([words, 0, 0, 0, kind << 1 | is_long, 0, 0, 0]);
            bytes.extend(more);
        }
    }
    bytes.extend(payload);
    bytes
}

/// A multiple of four bytes.
fn tcp_options(random: &mut Random) -> Vec<u8> {
    let mut options = Vec::new();
    while options.len() < 32 && random.happens(60) {
        match random.below(5) {
            0 => {
                options.extend([2, 4]);
                options.extend((random.number() as u16).to_be_bytes());
            }
            1 => options.extend([1, 3, 3, 7]),
            2 => options.extend([8, 10, 2, 2, 2, 2, 3, 3, 3, 3, 1, 1]),
            3 => options.extend([4, 2, 1, 1]),
            _ => options.extend([0, 0, 2, 8]),
        }
    }
    options.truncate(40);
    options
}

/// RFC 1071.
fn sum(bytes: &[u8]) -> u16 {
    let pairs = bytes.chunks(2);
    let words = pairs.map(|pair| u32::from(pair[0]) << 8 | u32::from(*pair.get(1).unwrap_or(&0)));
    let mut sum: u32 = words.sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !(sum as u16)
}
