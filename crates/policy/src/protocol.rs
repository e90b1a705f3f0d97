//! IP protocols by name.

use crate::problem::Problem;

/// An IP protocol number; zero means all of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Protocol(pub u8);

impl Protocol {
    pub const ALL: Self = Self(0);
    pub const ICMP: Self = Self(1);
    pub const ICMPV6: Self = Self(58);

    pub fn parse(text: &str) -> Result<Self, Problem> {
        if let Some(number) = parse_number(text) {
            return u8::try_from(number)
                .map(Self)
                .map_err(|_| Problem::ProtocolUnknown(text.into()));
        }
        let name = text.to_ascii_lowercase();
        let known = ALIASES.iter().chain(NAMES).find(|entry| entry.1 == name);
        known
            .map(|entry| Self(entry.0))
            .ok_or_else(|| Problem::ProtocolUnknown(text.into()))
    }

    /// The name that iptables prints, where the protocol has one.
    pub fn name(self) -> Option<&'static str> {
        let known = NAMES.iter().find(|entry| entry.0 == self.0);
        known.map(|entry| entry.1)
    }

    /// The name or else the number.
    pub fn name_or_number(self) -> String {
        match self.name() {
            Some(name) => name.into(),
            None => self.0.to_string(),
        }
    }

    /// All names that [`Self::parse`] takes.
    pub(crate) fn names() -> impl Iterator<Item = &'static str> {
        ALIASES.iter().chain(NAMES).map(|entry| entry.1)
    }
}

/// A decimal or hexadecimal number, as iptables takes both here.
fn parse_number(text: &str) -> Option<u32> {
    match text.strip_prefix("0x") {
        Some(digits) if digits.bytes().all(|byte| byte.is_ascii_hexdigit()) => {
            u32::from_str_radix(digits, 16).ok()
        }
        Some(_) => None,
        None if text.bytes().all(|byte| byte.is_ascii_digit()) => text.parse().ok(),
        None => None,
    }
}

/// Names that are read and never printed.
const ALIASES: &[(u8, &str)] = &[
    (0, "all"),
    (0, "ip"),
    (0, "hopopt"),
    (4, "ipv4"),
    (58, "icmpv6"),
    (58, "icmp6"),
    (135, "ipv6-mh"),
    (135, "mh"),
];

/// The names that stand in `/etc/protocols` of current distributions.
const NAMES: &[(u8, &str)] = &[
    (1, "icmp"),
    (2, "igmp"),
    (3, "ggp"),
    (4, "ipencap"),
    (5, "st"),
    (6, "tcp"),
    (8, "egp"),
    (9, "igp"),
    (12, "pup"),
    (17, "udp"),
    (20, "hmp"),
    (22, "xns-idp"),
    (27, "rdp"),
    (29, "iso-tp4"),
    (33, "dccp"),
    (36, "xtp"),
    (37, "ddp"),
    (38, "idpr-cmtp"),
    (41, "ipv6"),
    (43, "ipv6-route"),
    (44, "ipv6-frag"),
    (45, "idrp"),
    (46, "rsvp"),
    (47, "gre"),
    (50, "esp"),
    (51, "ah"),
    (57, "skip"),
    (58, "ipv6-icmp"),
    (59, "ipv6-nonxt"),
    (60, "ipv6-opts"),
    (73, "rspf"),
    (81, "vmtp"),
    (88, "eigrp"),
    (89, "ospf"),
    (93, "ax.25"),
    (94, "ipip"),
    (97, "etherip"),
    (98, "encap"),
    (103, "pim"),
    (108, "ipcomp"),
    (112, "vrrp"),
    (115, "l2tp"),
    (124, "isis"),
    (132, "sctp"),
    (133, "fc"),
    (135, "mobility-header"),
    (136, "udplite"),
    (137, "mpls-in-ip"),
    (138, "manet"),
    (139, "hip"),
    (140, "shim6"),
    (141, "wesp"),
    (142, "rohc"),
    (143, "ethernet"),
];
