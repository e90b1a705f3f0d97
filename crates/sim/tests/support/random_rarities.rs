//! What the usual rules of random rulesets lack: sets, lists of connections, times, ways back, helpers, DCCP and SCTP.

use keepstate_engine::tuple::Family;
use keepstate_sim::traffic::Random;

/// Of the associations that come from here.
pub(crate) const TAG: [u8; 4] = [0, 0, 0, 9];

/// Draws from numbers of its own, so that the usual rules are those of their seed.
pub(crate) struct Rarities {
    random: Random,
    digit: u8,
}

impl Rarities {
    /// Each fourth ruleset has none.
    pub(crate) fn new(family: Family, seed: u64) -> Option<Self> {
        let digit = match family {
            Family::V4 => 4,
            Family::V6 => 6,
        };
        let random = Random::new(seed.wrapping_mul(31) + u64::from(digit));
        (!seed.is_multiple_of(4)).then_some(Self { random, digit })
    }

    fn one<'a>(&mut self, choices: &[&'a str]) -> &'a str {
        choices[self.random.below(choices.len() as u64) as usize]
    }

    fn not(&mut self) -> &'static str {
        if self.random.happens(25) { " !" } else { "" }
    }

    /// More matches for a rule that names `protocol`, if any.
    pub(crate) fn matches(&mut self, table: &str, chain: &str, protocol: &str) -> String {
        if !self.random.happens(25) {
            return String::new();
        }
        let (not, digit) = (self.not(), self.digit);
        match self.random.below(8) {
            0..3 => {
                let set = self.one(&["hosts", "nets", "ports", "seen", "list"]);
                let way = self.one(&["src", "dst"]);
                let port = match set {
                    "ports" | "list" => self.one(&["", ",src", ",dst"]),
                    _ => "",
                };
                format!(" -m set{not} --match-set {set}{digit} {way}{port}")
            }
            3 => {
                let when = self.one(&[
                    "--datestart 2001-02-03T04:05:06",
                    "--datestop 2001-02-03",
                    "--weekdays Mon,Tue,Wed",
                    "! --monthdays 1,2,3,5,8,13,21,30",
                    "--timestart 00:00 --timestop 12:00",
                    "--timestart 18:30 --timestop 06:15 --contiguous",
                ]);
                format!(" -m time {when}")
            }
            4 if chain == "PREROUTING" => {
                let how = self.one(&["", " --loose", " --accept-local", " --loose --validmark"]);
                let invert = self.one(&["", " --invert"]);
                format!(" -m rpfilter{how}{invert}")
            }
            5 if table != "raw" => {
                format!(" -m helper{not} --helper {}", self.one(&["ftp", "tftp"]))
            }
            6 if protocol.is_empty() => match self.random.below(2) {
                0 => format!(
                    " -p sctp -m sctp{not} --chunk-types {} {}",
                    self.one(&["any", "all", "only"]),
                    self.one(&["INIT", "DATA,SACK", "INIT,ABORT:T", "DATA:Be"])
                ),
                _ => format!(
                    " -p dccp -m dccp{not} --dccp-types {}",
                    self.one(&["REQUEST", "DATA,ACK", "RESET,INVALID"])
                ),
            },
            _ => String::new(),
        }
    }

    /// A target in place of another. Not `tcp-reset', which closes a flow in Linux and changes none here.
    pub(crate) fn target(&mut self, table: &str, chain: &str, protocol: &str) -> Option<String> {
        if !self.random.happens(15) {
            return None;
        }
        let digit = self.digit;
        match self.random.below(5) {
            0 | 1 => {
                let what = self.one(&["--add-set", "--del-set"]);
                let set = self.one(&["hosts", "seen", "seen"]);
                let way = self.one(&["src", "dst"]);
                Some(format!(" -j SET {what} {set}{digit} {way}"))
            }
            2 => Some(" -j NFLOG --nflog-group 5 --nflog-prefix x".into()),
            4 if table == "raw" && !chain.is_empty() && protocol == "tcp" => {
                Some(" -j CT --helper ftp".into())
            }
            4 if table == "raw" && !chain.is_empty() && protocol == "udp" => {
                Some(" -j CT --helper tftp".into())
            }
            _ => None,
        }
    }

    /// Hop-by-hop options, or those for the destination.
    pub(crate) fn options(&mut self) -> u8 {
        if self.random.happens(50) { 0 } else { 60 }
    }

    /// Whether a packet gets a header more, and another comes after it.
    pub(crate) fn is_odd(&mut self) -> bool {
        self.random.happens(8)
    }

    /// A packet of SCTP or DCCP of nobody else, for the addresses of this one.
    pub(crate) fn message(&mut self) -> (u8, Vec<u8>) {
        let port = (self.random.below(u64::from(u16::MAX)) as u16).to_be_bytes();
        let mut bytes = vec![port[0], port[1], 0, 80];
        if self.random.happens(50) {
            // Length of the header in words; coverage and checksum; type, and a number of 48 bits.
            bytes.extend([
                4,
                0,
                0,
                0,
                (self.random.below(11) as u8) << 1 | 1,
                0,
                0,
                1,
                0,
                0,
                0,
                2,
            ]);
            return (33, bytes);
        }
        // No tag, no checksum; INIT with its tag, window, streams and first number.
        bytes.extend([0; 8]);
        bytes.extend([1, 0, 0, 20]);
        bytes.extend(TAG);
        bytes.extend([0, 0, 0x40, 0, 0, 1, 0, 1, 0, 0, 0, 1]);
        (132, bytes)
    }
}
