//! Random rulesets of nearly everything that rules may say, as text for iptables-restore and for us.

use keepstate_engine::tuple::Family;
use keepstate_sim::traffic::Random;

use crate::random_rarities::Rarities;

/// Chains of one's own in each table.
const CHAINS: u64 = 4;

/// Lists (`recent`, `hashlimit`) and chains are named after `seed`: the kernel keeps lists while rules are exchanged.
pub(crate) fn ruleset(family: Family, seed: u64) -> String {
    let mut writer = Writer {
        random: Random::new(seed * 2 + family as u64),
        family,
        seed,
        serial: 0,
        rarities: Rarities::new(family, seed),
    };
    let tables: [(&str, &[&str]); 3] = [
        ("raw", &["PREROUTING", "OUTPUT"]),
        (
            "mangle",
            &["PREROUTING", "INPUT", "FORWARD", "OUTPUT", "POSTROUTING"],
        ),
        ("filter", &["INPUT", "FORWARD", "OUTPUT"]),
    ];
    tables
        .iter()
        .map(|(table, chains)| writer.table(table, chains))
        .collect()
}

struct Writer {
    random: Random,
    family: Family,
    seed: u64,
    serial: u32,
    rarities: Option<Rarities>,
}

impl Writer {
    fn table(&mut self, table: &str, chains: &[&str]) -> String {
        let mut text = format!("*{table}\n");
        for chain in chains {
            let drops = table == "filter" && self.random.happens(40);
            let policy = if drops { "DROP" } else { "ACCEPT" };
            text += &format!(":{chain} {policy} [0:0]\n");
        }
        for own in 0..CHAINS {
            text += &format!(":C{own} - [0:0]\n");
        }
        let length_max = match table {
            "raw" => 4,
            "mangle" => 5,
            _ => 14,
        };
        for chain in chains {
            for _ in 0..self.random.below(length_max) {
                text += &format!("-A {chain}{}\n", self.rule(table, chain, 0));
            }
        }
        for own in 0..CHAINS {
            for _ in 0..self.random.below(5) {
                text += &format!("-A C{own}{}\n", self.rule(table, "", own + 1));
            }
        }
        text + "COMMIT\n"
    }

    /// `first` is the first chain of one's own that it may jump to.
    fn rule(&mut self, table: &str, chain: &str, first: u64) -> String {
        let mut rule = self.addresses();
        rule += &self.interfaces(chain);
        rule += &self.protocol();
        for _ in 0..self.random.below(3) {
            rule += &self.extension(table, chain);
        }
        let target = self.target(table, chain, first);
        let Some(rarities) = &mut self.rarities else {
            return rule + &target;
        };
        let protocol = named_protocol(&rule).to_owned();
        rule += &rarities.matches(table, chain, &protocol);
        rule + &rarities.target(table, chain, &protocol).unwrap_or(target)
    }

    fn one(&mut self, choices: &[&str]) -> String {
        choices[self.random.below(choices.len() as u64) as usize].to_string()
    }

    fn not(&mut self) -> &'static str {
        if self.random.happens(25) { " !" } else { "" }
    }

    fn number(&mut self, below: u64) -> u64 {
        self.random.below(below)
    }

    fn address(&mut self) -> String {
        let number = self.number(5);
        match self.family {
            Family::V4 => format!("10.0.0.{number}"),
            Family::V6 => format!("2001:db8::{number}"),
        }
    }

    fn network(&mut self) -> String {
        let bits = match self.family {
            Family::V4 => [32, 31, 30, 24],
            Family::V6 => [128, 127, 126, 64],
        };
        format!("{}/{}", self.address(), bits[self.number(4) as usize])
    }

    fn addresses(&mut self) -> String {
        let mut text = String::new();
        for option in ["-s", "-d"] {
            if self.random.happens(20) {
                text += &format!("{} {option} {}", self.not(), self.network());
            }
        }
        text
    }

    fn interfaces(&mut self, chain: &str) -> String {
        let devices = ["receiver", "nowhere", "re+", "no+", "eth0"];
        let mut text = String::new();
        if matches!(chain, "PREROUTING" | "INPUT" | "FORWARD") && self.random.happens(15) {
            text += &format!("{} -i {}", self.not(), self.one(&devices));
        }
        if matches!(chain, "OUTPUT" | "FORWARD" | "POSTROUTING") && self.random.happens(15) {
            text += &format!("{} -o {}", self.not(), self.one(&devices));
        }
        text
    }

    fn protocol(&mut self) -> String {
        match self.number(10) {
            0..3 => format!(" -p tcp{}", self.of_tcp()),
            3 => format!(
                " -p udp{}",
                self.ports(&["53", "4000", "4000:4001", "1:60"])
            ),
            4 => self.of_icmp(),
            5 => {
                let protocols = [
                    "tcp",
                    "udp",
                    "sctp",
                    "udplite",
                    "icmp",
                    "ipv6-icmp",
                    "47",
                    "99",
                ];
                format!("{} -p {}", self.not(), self.one(&protocols))
            }
            6 => {
                let protocol = self.one(&["tcp", "udp", "sctp", "udplite"]);
                let (not, which) = (self.not(), self.one(&["--dports", "--sports", "--ports"]));
                let ports =
                    self.one(&["22,80", "53,4000:4001", "50000:50003", "22,53,50001:50004"]);
                format!(" -p {protocol} -m multiport{not} {which} {ports}")
            }
            _ => String::new(),
        }
    }

    /// At most one of them negated: of two, iptables 1.8.9 makes a test of both at once, which one is enough to pass.
    fn ports(&mut self, ports: &[&str]) -> String {
        let mut text = String::new();
        for option in ["--sport", "--dport"] {
            if self.random.happens(35) {
                let not = if text.contains('!') { "" } else { self.not() };
                text += &format!("{not} {option} {}", self.one(ports));
            }
        }
        text
    }

    fn of_tcp(&mut self) -> String {
        let mut text = self.ports(&["22", "80", "22:80", "50000:50002", "50003"]);
        if self.random.happens(30) {
            text += self.not();
            text += &self.one(&[
                " --syn",
                " --tcp-flags SYN,ACK,FIN,RST SYN",
                " --tcp-flags ALL NONE",
                " --tcp-flags ACK ACK",
                " --tcp-flags FIN,RST RST",
                " --tcp-flags SYN,FIN SYN,FIN",
            ]);
        }
        if self.random.happens(6) {
            text += &format!(
                "{} --tcp-option {}",
                self.not(),
                self.one(&["2", "3", "8", "5"])
            );
        }
        if self.random.happens(6) {
            let range = self.one(&["1:1459", "1460", "1400:1500"]);
            text +=
                &format!(" -p tcp -m tcpmss{} --mss {range}", self.not()).replace(" -p tcp", "");
        }
        text
    }

    fn of_icmp(&mut self) -> String {
        let not = self.not();
        match self.family {
            Family::V4 => {
                let kind = self.one(&[
                    "echo-request",
                    "echo-reply",
                    "3",
                    "3/3",
                    "time-exceeded",
                    "any",
                    "timestamp-request",
                ]);
                let not = if kind == "any" { "" } else { not };
                format!(" -p icmp -m icmp{not} --icmp-type {kind}")
            }
            Family::V6 => {
                let kind = self.one(&[
                    "echo-request",
                    "echo-reply",
                    "1",
                    "1/4",
                    "packet-too-big",
                    "133",
                ]);
                format!(" -p ipv6-icmp -m icmp6{not} --icmpv6-type {kind}")
            }
        }
    }

    fn extension(&mut self, table: &str, chain: &str) -> String {
        let not = self.not();
        let tracked = table != "raw";
        match self.number(24) {
            0..5 if tracked => self.states(),
            5..8 if tracked => self.conntrack(),
            8 => format!(" -m mark{not} --mark {}", self.mark()),
            9 if tracked => format!(" -m connmark{not} --mark {}", self.mark()),
            10 => format!(
                " -m length{not} --length {}",
                self.one(&["0:60", "40", "61:200", "52:1500"])
            ),
            11 => self.hops(),
            12 => match self.number(3) {
                0 => format!(" -m dscp{not} --dscp {}", self.one(&["0", "0x0a", "46"])),
                1 => format!(
                    " -m tos{not} --tos {}",
                    self.one(&["0x10/0x10", "0x28", "0x00/0x3f"])
                ),
                _ => format!(" -m ecn{not} --ecn-ip-ect {}", self.number(4)),
            },
            13 => {
                let every = 2 + self.number(5);
                let packet = self.number(every);
                format!(" -m statistic --mode nth{not} --every {every} --packet {packet}")
            }
            14 => format!(
                " -m limit --limit 1/hour --limit-burst {}",
                1 + self.number(12)
            ),
            15 => self.recent(),
            16 => self.hashlimit(),
            18 if tracked => self.connbytes(),
            19 if !matches!(chain, "OUTPUT" | "POSTROUTING" | "") => match self.number(2) {
                0 => format!(" -m mac{not} --mac-source 02:00:00:00:00:02"),
                _ => format!(
                    " -m pkttype{not} --pkt-type {}",
                    self.one(&["unicast", "broadcast", "multicast"])
                ),
            },
            20 => self.range(),
            21 => format!(
                " -m addrtype{not} --{}-type {}",
                self.one(&["src", "dst"]),
                self.one(&["LOCAL", "UNICAST", "MULTICAST"])
            ),
            22 => format!(
                " -m string{not} --string {} --algo bm --to 200",
                self.one(&["AAAA", "UU", "aaa"])
            ),
            _ => format!(" -m comment --comment \"rule {}\"", self.number(100)),
        }
    }

    fn states(&mut self) -> String {
        let states = self.one(&[
            "NEW",
            "ESTABLISHED",
            "RELATED",
            "INVALID",
            "UNTRACKED",
            "RELATED,ESTABLISHED",
            "INVALID,NEW",
            "NEW,UNTRACKED",
            "NEW,RELATED,ESTABLISHED",
        ]);
        let not = self.not();
        match self.number(5) {
            0 => format!(" -m state{not} --state {states}"),
            _ => format!(" -m conntrack{not} --ctstate {states}"),
        }
    }

    fn conntrack(&mut self) -> String {
        let mut text = " -m conntrack".to_string();
        let mut said = [false; 7];
        for _ in 0..=self.number(2) {
            let which = self.number(7) as usize;
            if std::mem::replace(&mut said[which], true) {
                continue;
            }
            let not = self.not();
            text += &match which {
                0 => {
                    let side = self.one(&["orig", "repl"]);
                    let end = self.one(&["src", "dst"]);
                    let option = format!("--ct{side}{end}");
                    format!("{not} {option} {}", self.network())
                }
                1 => {
                    let status = [
                        "NONE",
                        "SEEN_REPLY",
                        "ASSURED",
                        "CONFIRMED",
                        "SEEN_REPLY,ASSURED",
                        "EXPECTED",
                    ];
                    format!("{not} --ctstatus {}", self.one(&status))
                }
                2 => format!(" --ctdir {}", self.one(&["ORIGINAL", "REPLY"])),
                3 => format!(
                    "{not} --ctproto {}",
                    self.one(&["6", "17", "1", "58", "132"])
                ),
                4 => format!(
                    "{not} --ctorigdstport {}",
                    self.one(&["22", "80", "53:4000"])
                ),
                5 => format!(
                    "{not} --ctreplsrcport {}",
                    self.one(&["22:80", "4000", "80"])
                ),
                _ => format!(
                    "{not} --ctstate {}",
                    self.one(&["NEW", "ESTABLISHED", "RELATED,ESTABLISHED"])
                ),
            };
        }
        text
    }

    fn mark(&mut self) -> String {
        let mask = self.one(&["", "/0xff", "/0x1", "/0xf0"]);
        format!("{:#x}{mask}", self.number(4) | self.number(3) << 4)
    }

    fn hops(&mut self) -> String {
        let value = self.one(&["2", "63", "64", "99", "255"]);
        let how = self.one(&["eq", "lt", "gt"]);
        let not = if how == "eq" { self.not() } else { "" };
        match self.family {
            Family::V4 => format!(" -m ttl{not} --ttl-{how} {value}"),
            Family::V6 => format!(" -m hl{not} --hl-{how} {value}"),
        }
    }

    fn name(&mut self) -> String {
        self.serial += 1;
        format!("L{}-{}-{}", self.seed, self.family as u8, self.serial)
    }

    fn recent(&mut self) -> String {
        // Some lists are met by several rules.
        let name = match self.number(2) {
            0 => self.name(),
            _ => format!("L{}-{}", self.seed, self.family as u8),
        };
        let not = self.not();
        let what = match self.number(4) {
            0 => "--set".to_string(),
            1 => "--remove".to_string(),
            2 => format!("--rcheck --hitcount {}", 1 + self.number(12)),
            _ => format!("--update --seconds 3600 --hitcount {}", 1 + self.number(12)),
        };
        let side = self.one(&["--rsource", "--rdest"]);
        format!(" -m recent{not} {what} --name {name} {side}")
    }

    fn hashlimit(&mut self) -> String {
        format!(
            " -m hashlimit --hashlimit-{} 1/hour --hashlimit-burst {} --hashlimit-mode {} --hashlimit-name {}",
            self.one(&["upto", "above"]),
            1 + self.number(12),
            self.one(&["srcip", "dstip", "srcip,dstip"]),
            self.name()
        )
    }

    fn connbytes(&mut self) -> String {
        format!(
            " -m connbytes{} --connbytes {} --connbytes-dir {} --connbytes-mode {}",
            self.not(),
            self.one(&["2:5", "1:3", "100:1000", "4:"]),
            self.one(&["original", "reply", "both"]),
            self.one(&["packets", "bytes", "avgpkt"])
        )
    }

    fn range(&mut self) -> String {
        let (not, side) = (self.not(), self.one(&["src", "dst"]));
        let (first, last) = match self.family {
            Family::V4 => ("10.0.0.2", "10.0.0.3"),
            Family::V6 => ("2001:db8::2", "2001:db8::3"),
        };
        format!(" -m iprange{not} --{side}-range {first}-{last}")
    }

    fn target(&mut self, table: &str, chain: &str, first: u64) -> String {
        if first < CHAINS && self.random.happens(25) {
            let to = first + self.number(CHAINS - first);
            return format!(" {} C{to}", self.one(&["-j", "-j", "-g"]));
        }
        let choice = self.number(20);
        match (table, choice) {
            ("raw", 0) => " -j CT --notrack".into(),
            ("raw", 18) => format!(" -j CT --zone {}", self.number(3)),
            ("raw", 19) => " -j NOTRACK".into(),
            ("raw", 11) => " -j DROP".into(),
            ("mangle", 0) => " -j DROP".into(),
            (_, 1..4) => format!(" -j MARK {}", self.set_mark()),
            (_, 4..7) => format!(" -j CONNMARK {}", self.connmark()),
            ("filter", 7..9) => format!(" -j REJECT{}", self.reject(chain)),
            ("filter", 9..12) => " -j DROP".into(),
            (_, 12..15) => " -j ACCEPT".into(),
            (_, 15..17) => " -j RETURN".into(),
            (_, 17) => " -j LOG --log-prefix \"x \"".into(),
            _ => String::new(),
        }
    }

    fn set_mark(&mut self) -> String {
        let mark = self.mark();
        let plain = mark.split('/').next().unwrap_or(&mark).to_string();
        match self.number(5) {
            0 => format!("--set-xmark {mark}"),
            1 => format!("--and-mark {plain}"),
            2 => format!("--or-mark {plain}"),
            3 => format!("--xor-mark {plain}"),
            _ => format!("--set-mark {mark}"),
        }
    }

    fn connmark(&mut self) -> String {
        match self.number(5) {
            0 => "--save-mark".into(),
            1 => "--restore-mark".into(),
            2 => "--save-mark --nfmask 0xf --ctmask 0xff".into(),
            3 => "--restore-mark --nfmask 0xff --ctmask 0xf".into(),
            _ => self.set_mark(),
        }
    }

    fn reject(&mut self, _chain: &str) -> String {
        match self.family {
            Family::V4 => self.one(&["", " --reject-with icmp-host-prohibited"]),
            Family::V6 => self.one(&["", " --reject-with icmp6-adm-prohibited"]),
        }
    }
}

/// The protocol that a rule is for; `!` where it is for all others.
fn named_protocol(rule: &str) -> &str {
    match rule.split_once(" -p ") {
        Some((before, _)) if before.ends_with('!') => "!",
        Some((_, after)) => after.split(' ').next().unwrap_or_default(),
        None => "",
    }
}
