//! Each template under the scans of nmap and the packets of hping3, beside the same rules in the kernel's own iptables: what
//! a stranger learns of either host is what the template says, and the same.

use std::collections::BTreeMap;
use std::io::Write as _;
use std::process::Stdio;
use std::str::FromStr;
use std::time::Instant;

use keepstate_testkit::{Namespace, Running, programs_or_skip, root_or_skip};

use crate::bench::KEEPSTATE;

/// Answers on these ports, and not on 9999 and 27016, of every address, by TCP with a connection and by UDP with the same datagram.
const SERVE: &str = "
import selectors, socket, sys
selector = selectors.DefaultSelector()
for kind, ports in ((socket.SOCK_STREAM, (22, 80, 443, 3306)), (socket.SOCK_DGRAM, (53, 27015))):
    for port in ports:
        s = socket.socket(socket.AF_INET6, kind)
        s.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        s.bind(('::', port))
        if kind == socket.SOCK_STREAM:
            s.listen(64)
        selector.register(s, selectors.EVENT_READ, kind)
print('ready', flush=True)
while True:
    for key, _ in selector.select():
        if key.data == socket.SOCK_STREAM:
            key.fileobj.accept()[0].close()
        else:
            data, peer = key.fileobj.recvfrom(2048)
            key.fileobj.sendto(data or b'x', peer)
";

/// The two firewalls, by the second number of their addresses.
const WIRES: [&str; 2] = ["9", "8"];

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Family {
    V4,
    V6,
}

impl Family {
    fn address(self, wire: &str, part: u8, host: u8) -> String {
        match self {
            Self::V4 => format!("10.{wire}.{part}.{host}"),
            Self::V6 => format!("fd00:{wire}:{part}::{host}"),
        }
    }

    fn network(self, address: &str) -> String {
        match self {
            Self::V4 => format!("{address}/24"),
            Self::V6 => format!("{address}/64"),
        }
    }
}

/// The third number of addresses: the wire of firewall and scanner, and the two networks behind the firewall.
const OUTSIDE: u8 = 1;
const INSIDE: u8 = 2;
const DMZ: u8 = 3;

const FAMILIES: [Family; 2] = [Family::V4, Family::V6];

/// A scanner before two gateways, one with Keepstate and one with the kernel's tables, each with a host behind it.
struct Place {
    scanner: Namespace,
    gateways: [Namespace; 2],
    _behind: [Namespace; 2],
    _servers: Vec<Running>,
    instance: String,
}

impl Place {
    fn new(test: &str, label: &str) -> Option<Self> {
        let programs = ["nmap", "hping3", "iptables", "ip6tables", "python3", "ip"];
        if !root_or_skip(test) || !programs_or_skip(test, &programs) {
            return None;
        }
        let scanner = Namespace::new("scanner");
        let gateways = [label, "kernel"].map(Namespace::new);
        let behind = ["behind", "behind"].map(Namespace::new);
        let mut servers = Vec::new();
        for ((wire, gateway), behind) in WIRES.iter().zip(&gateways).zip(&behind) {
            wire_up(wire, &scanner, gateway, behind);
            for host in [gateway, behind] {
                servers.push(host.spawn("python3", &["-c", SERVE]));
                host.wait_for_listener(3306);
            }
        }
        let place = Self {
            scanner,
            gateways,
            _behind: behind,
            _servers: servers,
            instance: format!("test-{}-{label}", std::process::id()),
        };
        place.keepstate(&["up"]);
        Some(place)
    }

    #[track_caller]
    fn keepstate(&self, arguments: &[&str]) -> String {
        let words = [arguments, &["--instance", &self.instance]].concat();
        self.gateways[0].run(KEEPSTATE, &words)
    }

    /// A template here, and what our iptables-save makes of it in the kernel of the other.
    #[track_caller]
    fn apply(&self, template: &[&str]) {
        self.keepstate(&[&["template", "apply"], template].concat());
        let [ours, theirs] = &self.gateways;
        for program in ["iptables", "ip6tables"] {
            let mut save = ours.command(KEEPSTATE);
            let save = save.arg(format!("{program}-save"));
            let saved = save.env("KEEPSTATE_INSTANCE", &self.instance).output();
            let saved = saved.expect("keepstate runs").stdout;
            let mut restore = theirs.command(&format!("{program}-restore"));
            let restore = restore.stdin(Stdio::piped()).spawn();
            let mut restore = restore.expect("iptables-restore runs");
            let mut input = restore.stdin.take().expect("its input is a pipe");
            input.write_all(&saved).expect("it reads");
            drop(input);
            let said = String::from_utf8_lossy(&saved);
            assert!(restore.wait().expect("it ends").success(), "{said}");
        }
    }

    /// What nmap says of each port of both firewalls, or of the hosts behind them: the same.
    #[track_caller]
    fn scan(&self, family: Family, scan: &str, part: u8) -> Ports {
        let [here, there] = self.scan_both(family, scan, part);
        assert_eq!(here, there, "{family:?} {scan} of {part}: here, Linux");
        here
    }

    #[track_caller]
    fn scan_both(&self, family: Family, scan: &str, part: u8) -> [Ports; 2] {
        let host = if part == OUTSIDE { 1 } else { 2 };
        let targets = WIRES.map(|wire| family.address(wire, part, host));
        let ports = match scan.contains('U') {
            true => "T:22,80,443,3306,9999,U:53,27015,27016",
            false => "22,80,443,3306,9999",
        };
        let words = format!(
            "-n -Pn --disable-arp-ping --min-hostgroup 2 --max-retries 1 --min-rtt-timeout 200ms \
             --initial-rtt-timeout 200ms --max-rtt-timeout 400ms --min-rate 40 -oX - -p {ports} {scan}"
        );
        let mut arguments: Vec<&str> = words.split(' ').collect();
        if family == Family::V6 {
            arguments.push("-6");
        }
        arguments.extend(targets.iter().map(String::as_str));
        let mut found = ports_of(&self.scanner.run("nmap", &arguments));
        targets.map(|address| found.remove(&address).expect("nmap tells of each host"))
    }

    /// How many answers hping3 gets to so many packets, a millisecond apart, from either firewall.
    #[track_caller]
    fn answers(&self, words: &str, count: u32) -> [u32; 2] {
        WIRES.map(|wire| {
            let address = Family::V4.address(wire, OUTSIDE, 1);
            let words = format!("-n -q -i u1000 -c {count} {words} {address}");
            let output = self
                .scanner
                .command("hping3")
                .args(words.split(' '))
                .output();
            let said = output.expect("hping3 runs").stderr;
            let said = String::from_utf8_lossy(&said).into_owned();
            number_after(&said, "transmitted, ")
        })
    }

    /// How many packets come to the scanner from a port of either firewall while it sends so many there with senders that are not its own.
    #[track_caller]
    fn backscatter(&self, words: &str, port: u16, count: u32) -> [u64; 2] {
        WIRES.map(|wire| {
            let address = Family::V4.address(wire, OUTSIDE, 1);
            self.scanner.run("iptables", &["-t", "raw", "-F"]);
            let rule = format!("-t raw -A PREROUTING -p tcp -s {address} --sport {port} -j DROP");
            self.scanner
                .run("iptables", &rule.split(' ').collect::<Vec<_>>());
            let words = format!("-n -q -i u1000 -c {count} {words} -p {port} {address}");
            self.scanner
                .succeeds("hping3", &words.split(' ').collect::<Vec<_>>());
            let counted = self
                .scanner
                .run("iptables", &["-t", "raw", "-S", "PREROUTING", "-v"]);
            self.scanner.run("iptables", &["-t", "raw", "-F"]);
            number_after(&counted, "-c ")
        })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.gateways[0].succeeds(KEEPSTATE, &["down", "--instance", &self.instance]);
    }
}

/// Joins a gateway to the scanner, which is its way to everybody else, and to the host behind it.
fn wire_up(wire: &str, scanner: &Namespace, gateway: &Namespace, behind: &Namespace) {
    let to = format!("to{wire}");
    scanner.connect(&to, gateway, "outer");
    behind.connect("gate", gateway, "inner");
    for family in FAMILIES {
        let address = |part, host| family.address(wire, part, host);
        for (part, host, device, its) in [
            (OUTSIDE, scanner, to.as_str(), "outer"),
            (INSIDE, behind, "gate", "inner"),
            (DMZ, behind, "gate", "inner"),
        ] {
            gateway.address(its, &family.network(&address(part, 1)));
            host.address(device, &family.network(&address(part, 2)));
        }
        for part in [INSIDE, DMZ] {
            scanner.route(&[
                &family.network(&address(part, 0)),
                "via",
                &address(OUTSIDE, 1),
            ]);
        }
        gateway.route(&["default", "via", &address(OUTSIDE, 2)]);
        behind.route(&["default", "via", &address(INSIDE, 1)]);
    }
    gateway.sysctl("net.ipv4.ip_forward", "1");
    gateway.sysctl("net.ipv6.conf.all.forwarding", "1");
}

/// The number that stands behind the last of these marks.
#[track_caller]
fn number_after<N: FromStr>(text: &str, mark: &str) -> N {
    let word = text
        .rsplit_once(mark)
        .and_then(|(_, rest)| rest.split(' ').next());
    word.and_then(|word| word.parse().ok()).expect(text)
}

/// `tcp/22` and `open syn-ack`.
type Ports = BTreeMap<String, String>;

/// The hosts of nmap's XML.
fn ports_of(xml: &str) -> BTreeMap<String, Ports> {
    let hosts = xml.split("<host ").skip(1).map(|host| {
        let ports = host.split("<port ").skip(1).map(|port| {
            let said = |name| attribute(port, name);
            let name = format!("{}/{}", said("protocol"), said("portid"));
            (name, format!("{} {}", said("state"), said("reason")))
        });
        (attribute(host, "addr").to_owned(), ports.collect())
    });
    hosts.collect()
}

fn attribute<'a>(text: &'a str, name: &str) -> &'a str {
    let rest = text.split_once(&format!("{name}=\""));
    let (_, rest) = rest.unwrap_or_else(|| panic!("nmap says no {name} in {text}"));
    rest.split('"').next().unwrap_or_default()
}

/// These ports as they are said to be, and all others silent.
fn found(said: &[(&str, &str)]) -> Ports {
    let silent = |protocol: &str, ports: &[u16], state: &str| -> Ports {
        let lines = ports
            .iter()
            .map(|port| (format!("{protocol}/{port}"), format!("{state} no-response")));
        lines.collect()
    };
    let mut ports = silent("tcp", &TCP, "filtered");
    ports.extend(silent("udp", &[53, 27015, 27016], "open|filtered"));
    for (port, state) in said {
        ports.insert((*port).to_owned(), (*state).to_owned());
    }
    ports
}

fn all_tcp(state: &str) -> Ports {
    TCP.iter()
        .map(|port| (format!("tcp/{port}"), state.to_owned()))
        .collect()
}

const TCP: [u16; 5] = [22, 80, 443, 3306, 9999];
/// A template, and what it shows.
type Found<'a> = (&'a [&'a str], &'a [(&'a str, &'a str)]);

const OPEN: &str = "open syn-ack";

#[test]
fn scans_of_each_template_find_what_it_opens() {
    let Some(place) = Place::new("scans_of_each_template_find_what_it_opens", "scanned") else {
        return;
    };
    let near = all_addresses(|family, wire| family.address(wire, OUTSIDE, 2));
    let far = all_addresses(|family, wire| family.address(wire, OUTSIDE, 77));
    let ssh = ("tcp/22", OPEN);
    let hosts: [Found<'_>; 5] = [
        (&["base"], &[ssh]),
        (&["web"], &[ssh, ("tcp/80", OPEN), ("tcp/443", OPEN)]),
        (
            &["game", "--udp-ports", "27015,27016"],
            &[
                ssh,
                ("udp/27015", "open udp-response"),
                ("udp/27016", "closed port-unreach"),
            ],
        ),
        (
            &["database", "--app-servers", &near],
            &[ssh, ("tcp/3306", OPEN)],
        ),
        (
            &["database", "--app-servers", &far],
            &[ssh, ("tcp/3306", "closed reset")],
        ),
    ];
    for (template, said) in hosts {
        place.apply(template);
        for_both_families(|family| {
            let ports = place.scan(family, "-sSU", OUTSIDE);
            assert_eq!(ports, found(said), "{template:?} {family:?}");
            if template == ["web"] {
                for scan in ["-sF", "-sN", "-sX", "-sM"] {
                    let ports = place.scan(family, scan, OUTSIDE);
                    assert_eq!(
                        ports,
                        all_tcp("open|filtered no-response"),
                        "{scan} {family:?}"
                    );
                }
                // A segment in the middle may begin a flow (`nf_conntrack_tcp_loose`), where a SYN may.
                let ports = place.scan(family, "-sA", OUTSIDE);
                let mut expected = all_tcp("filtered no-response");
                for port in ["tcp/22", "tcp/80", "tcp/443"] {
                    expected.insert(port.into(), "unfiltered reset".into());
                }
                assert_eq!(ports, expected, "-sA {family:?}");
            }
        });
    }
    let [inside, dmz] = [INSIDE, DMZ]
        .map(|part| all_addresses(|family, wire| family.network(&family.address(wire, part, 0))));
    place.apply(&[
        "gateway",
        "--inside",
        &inside,
        "--dmz",
        &dmz,
        "--tcp-ports",
        "80",
    ]);
    for_both_families(|family| {
        for (part, said) in [
            (OUTSIDE, vec![ssh]),
            (INSIDE, vec![]),
            (DMZ, vec![("tcp/80", OPEN)]),
        ] {
            let ports = place.scan(family, "-sSU", part);
            assert_eq!(ports, found(&said), "gateway {part} {family:?}");
        }
        let ports = place.scan(family, "-sX", DMZ);
        assert_eq!(
            ports,
            all_tcp("open|filtered no-response"),
            "gateway {family:?}"
        );
    });
}

#[test]
fn forged_and_broken_packets_learn_nothing_of_a_template() {
    let Some(place) = Place::new(
        "forged_and_broken_packets_learn_nothing_of_a_template",
        "forged",
    ) else {
        return;
    };
    const COUNT: u32 = 100;
    place.apply(&["base"]);
    // A header in two fragments is put together by Linux, and never accepted here.
    let [here, _] = place.scan_both(Family::V4, "-sS -f", OUTSIDE);
    assert_eq!(here, all_tcp("filtered no-response"));
    assert_eq!(place.answers("-1", COUNT), [COUNT; 2], "ping");
    for silent in [
        "-S -p 80",
        "-F -p 22",
        "-SF -p 22",
        "-SR -p 22",
        "-SA -p 22",
        "-R -p 22",
        "-FPU -p 22",
        "-Y -p 22",
        "-2 -p 53",
        "-S -p 22 -b",
        "-1 -C 13",
        "-1 -C 17",
        "-0 -H 99",
    ] {
        assert_eq!(place.answers(silent, 20), [0; 2], "{silent}");
    }
    // The senders that are forged are told what the template tells everybody, and nothing else.
    for (silent, port) in [
        ("-S --rand-source", 80),
        ("-A --rand-source", 80),
        ("-FPU --rand-source", 22),
        ("-S -a 127.0.0.1", 22),
        ("-S -a 224.0.0.1", 22),
        ("-S -a 255.255.255.255", 22),
    ] {
        assert_eq!(
            place.backscatter(silent, port, COUNT),
            [0; 2],
            "{silent} {port}"
        );
    }
    // Each of which is sent once more when a second has passed.
    let answers = place.backscatter("-S -a 198.51.100.7", 22, 20);
    assert!(
        answers.iter().all(|count| (20..=40).contains(count)),
        "{answers:?}"
    );
    // A flood of them that a rule rejects makes no flood of answers: 20 a second, after a burst of 5.
    let far = all_addresses(|family, wire| family.address(wire, OUTSIDE, 77));
    place.apply(&["database", "--app-servers", &far]);
    let begin = Instant::now();
    let answers = place.backscatter("-S --rand-source", 3306, 1_000);
    let bound = 6 + 20 * (begin.elapsed().as_secs() + 1);
    for count in answers {
        assert!((1..=bound).contains(&count), "{answers:?}, {bound}");
    }
}

fn all_addresses(address: impl Fn(Family, &str) -> String) -> String {
    let all = FAMILIES.map(|family| WIRES.map(|wire| address(family, wire)).join(","));
    all.join(",")
}

fn for_both_families(scan: impl Fn(Family) + Sync) {
    std::thread::scope(|threads| {
        for family in FAMILIES {
            let scan = &scan;
            threads.spawn(move || scan(family));
        }
    });
}
