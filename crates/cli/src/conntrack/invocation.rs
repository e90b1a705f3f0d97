//! A command line, understood.

use std::net::IpAddr;

use keepstate_api::{FlowStatus, prefix_mask};
use keepstate_engine::conntrack::sctp::SctpState;
use keepstate_policy::Protocol;

use super::getopt::{Key, Scanner};
use super::labels::{self, Labels};
use super::nat;
use super::options::{self, Command, Given};
use super::output::Output;
use super::problem::Problem;
use super::protocol::{Detail, Kind, TCP_STATES};
use super::values::{address, signed, unsigned};

/// What a command line says.
#[derive(Debug, Default)]
pub(super) struct Invocation {
    pub(super) command: Option<Command>,
    pub(super) table: Table,
    pub(super) given: Given,
    pub(super) family: Option<Family>,
    pub(super) protocol: Option<u8>,
    pub(super) original: Direction,
    pub(super) reply: Direction,
    pub(super) source_mask: Option<IpAddr>,
    pub(super) destination_mask: Option<IpAddr>,
    pub(super) details: Vec<Detail>,
    pub(super) icmp_type: Option<u8>,
    pub(super) icmp_code: Option<u8>,
    pub(super) icmp_id: Option<u16>,
    pub(super) state: Option<&'static str>,
    /// SCTP's verification tags.
    pub(super) tags: [Option<u32>; 2],
    pub(super) seconds: u32,
    pub(super) status: Status,
    pub(super) mark: Mark,
    pub(super) zone: u16,
    pub(super) direction_zones: [u16; 2],
    pub(super) id: u32,
    pub(super) security_mark: u32,
    pub(super) output: Output,
    pub(super) events: Events,
    pub(super) buffer_bytes: i64,
    pub(super) labels: Labels,
    /// What is expected: `--tuple-…` and `--mask-port-…`.
    pub(super) expected: Direction,
    pub(super) port_mask: u16,
}

/// One of conntrack's tables.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Table {
    #[default]
    Conntrack,
    Expect,
    Dying,
    Unconfirmed,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Family {
    V4,
    V6,
}

/// The addresses and ports of one direction.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Direction {
    pub(super) source: Option<IpAddr>,
    pub(super) destination: Option<IpAddr>,
    pub(super) source_port: Option<u16>,
    pub(super) destination_port: Option<u16>,
}

/// `-u`: bits that are set and bits that are not.
#[derive(Clone, Debug, Default)]
pub(super) struct Status {
    pub(super) set: Vec<FlowStatus>,
    pub(super) unset: Vec<FlowStatus>,
}

/// `-m`.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Mark {
    pub(super) value: u32,
    pub(super) mask: u32,
}

/// `-e`; none of them means all.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Events {
    pub(super) new: bool,
    pub(super) updates: bool,
    pub(super) destroy: bool,
}

impl Invocation {
    /// Understands a command line. The first argument is the program's name. Remarks go to `say`.
    pub(super) fn parse(arguments: &[String], say: &mut dyn FnMut(&str)) -> Result<Self, Problem> {
        let mut invocation = Self::default();
        let mut scanner = Scanner::new(arguments, options::takes);
        loop {
            let protocol = invocation.protocol.map(Kind::of);
            let details = protocol.into_iter().flat_map(Kind::longs);
            let mut longs = options::longs().chain(details);
            let Some((key, value)) = scanner.option(&mut longs)? else {
                break;
            };
            match key {
                Key::Detail(detail) => invocation.detail(detail, value.unwrap_or_default())?,
                Key::Letter(letter) => invocation.option(letter, value, &mut scanner, say)?,
            }
        }
        invocation.finish()?;
        Ok(invocation)
    }

    fn option(
        &mut self,
        letter: char,
        value: Option<&str>,
        scanner: &mut Scanner<'_>,
        say: &mut dyn FnMut(&str),
    ) -> Result<(), Problem> {
        let text = value.unwrap_or_default();
        match letter {
            'L' | 'I' | 'D' | 'G' | 'F' | 'E' | 'V' | 'h' | 'C' | 'S' | 'U' | 'A' => {
                let table = if value.is_none() {
                    scanner.following()
                } else {
                    None
                };
                return self.command(letter, table);
            }
            's' | 'd' | 'r' | 'q' | '[' | ']' | '{' | '}' => return self.address(letter, text),
            'n' | 'g' | 'j' => {
                self.given.add(letter);
                let following = if value.is_none() {
                    scanner.following()
                } else {
                    None
                };
                return match following {
                    Some(text) => self.nat(letter, text),
                    None => Ok(()),
                };
            }
            'a' => {
                say("WARNING: ignoring -a, deprecated option.");
                return Ok(());
            }
            '>' => {
                let following = if value.is_none() {
                    scanner.following()
                } else {
                    None
                };
                let removed = self.labels.removed.get_or_insert_default();
                if let Some(list) = following {
                    removed.extend(labels::numbers(list)?);
                }
            }
            'l' => self.labels.wanted.extend(labels::numbers(text)?),
            '<' => self.labels.added.extend(labels::numbers(text)?),
            'p' => self.protocol = Some(protocol(text)?),
            'f' => self.family(family_named(text)?)?,
            't' => self.seconds = signed(text) as u32,
            'u' => parse_status(text, &mut self.status, say)?,
            'e' => parse_events(text, &mut self.events, say)?,
            'o' => self.output.add(text, say)?,
            'm' => self.mark = parse_mark(text),
            'w' => self.zone = unsigned(text).0 as u16,
            '(' => self.direction_zones[0] = unsigned(text).0 as u16,
            ')' => self.direction_zones[1] = unsigned(text).0 as u16,
            'i' => self.id = unsigned(text).0 as u32,
            'c' => self.security_mark = unsigned(text).0 as u32,
            'b' => self.buffer_bytes = signed(text),
            _ => {}
        }
        self.given.add(letter);
        Ok(())
    }

    fn command(&mut self, letter: char, table: Option<&str>) -> Result<(), Problem> {
        let table = table.map_or(Ok(Table::Conntrack), table_named)?;
        let is_internal = matches!(table, Table::Dying | Table::Unconfirmed);
        if is_internal && letter != 'L' {
            let message = "Can't do that command with tables `dying' and `unconfirmed'";
            return Err(Problem::usage(message));
        }
        let command = command_of(letter, table == Table::Expect).ok_or_else(|| {
            let name = options::long_name(letter);
            Problem::Usage(format!("Can't do --{name} on expectations"))
        })?;
        if self.command.is_some() {
            return Err(Problem::usage("Invalid commands combination"));
        }
        self.command = Some(command);
        self.table = table;
        Ok(())
    }

    fn family(&mut self, family: Family) -> Result<(), Problem> {
        match self.family {
            Some(other) if other != family => Err(Problem::usage("mismatched address family")),
            _ => {
                self.family = Some(family);
                Ok(())
            }
        }
    }

    fn address(&mut self, letter: char, text: &str) -> Result<(), Problem> {
        let (address, mask) = self.masked_address(letter, text)?;
        self.given.add(letter);
        let (slot, mask_slot, mask_letter) = match letter {
            's' => (&mut self.original.source, Some(&mut self.source_mask), '{'),
            'd' => (
                &mut self.original.destination,
                Some(&mut self.destination_mask),
                '}',
            ),
            'r' => (&mut self.reply.source, None, ' '),
            'q' => (&mut self.reply.destination, None, ' '),
            '{' => (&mut self.source_mask, None, ' '),
            '}' => (&mut self.destination_mask, None, ' '),
            '[' => (&mut self.expected.source, Some(&mut self.source_mask), '{'),
            _ => (
                &mut self.expected.destination,
                Some(&mut self.destination_mask),
                '}',
            ),
        };
        *slot = Some(address);
        if let (Some(mask_slot), Some(mask)) = (mask_slot, mask) {
            *mask_slot = Some(mask);
            self.given.add(mask_letter);
        }
        Ok(())
    }

    /// An address, and its mask where one is written that is shorter than it.
    fn masked_address(
        &mut self,
        letter: char,
        text: &str,
    ) -> Result<(IpAddr, Option<IpAddr>), Problem> {
        let (name, length) = match text.split_once('/') {
            Some((name, length)) => (name, Some(length)),
            None => (text, None),
        };
        let Some(address) = address(name) else {
            return Err(Problem::Usage(format!("Invalid IP address `{text}'")));
        };
        let family = if address.is_ipv4() {
            Family::V4
        } else {
            Family::V6
        };
        self.family(family)?;
        let Some(length) = length else {
            return Ok((address, None));
        };
        if !"sd[]".contains(letter) {
            let name = options::long_name(letter);
            let message = format!("CIDR notation unavailable for `--{name}'");
            return Err(Problem::Usage(message));
        }
        let length = length.parse::<u32>().ok();
        let mask = length.and_then(|length| prefix_mask(address.is_ipv4(), length));
        let mask = mask.ok_or_else(|| Problem::usage("Invalid netmask"))?;
        let is_whole = Some(mask) == prefix_mask(address.is_ipv4(), width(address));
        Ok((address, (!is_whole).then_some(mask)))
    }

    /// `-n`, `-g` and `-j` with an address: flows here have no other addresses than their own, so
    /// that it is right is all that matters.
    fn nat(&mut self, letter: char, text: &str) -> Result<(), Problem> {
        let name = nat::without_port(text)?;
        self.masked_address(letter, name)?;
        Ok(())
    }

    fn detail(&mut self, detail: Detail, text: &str) -> Result<(), Problem> {
        let number = signed(text);
        self.details.push(detail);
        match detail {
            Detail::SourcePort => self.original.source_port = Some(self.port(text)),
            Detail::DestinationPort => self.original.destination_port = Some(self.port(text)),
            Detail::ReplySourcePort => self.reply.source_port = Some(self.port(text)),
            Detail::ReplyDestinationPort => self.reply.destination_port = Some(self.port(text)),
            Detail::TupleSourcePort => self.expected.source_port = Some(self.port(text)),
            Detail::TupleDestinationPort => {
                self.expected.destination_port = Some(self.port(text));
            }
            Detail::MaskSourcePort => self.port_mask = self.port(text),
            Detail::IcmpType => self.icmp_type = Some(number as u8),
            Detail::IcmpCode => self.icmp_code = Some(number as u8),
            Detail::IcmpId => self.icmp_id = Some(number as u16),
            Detail::State if self.protocol == Some(6) => self.state = Some(tcp_state(text)?),
            Detail::State if self.protocol == Some(132) => self.state = Some(sctp_state(text)?),
            Detail::State if self.protocol == Some(DCCP) => dccp_state(text)?,
            Detail::Role => dccp_role(text)?,
            // In network order, as conntrack takes them.
            Detail::OriginalTag => self.tags[0] = Some((number as u32).swap_bytes()),
            Detail::ReplyTag => self.tags[1] = Some((number as u32).swap_bytes()),
            _ => {}
        }
        Ok(())
    }

    fn port(&self, text: &str) -> u16 {
        if self.protocol.map(Kind::of) == Some(Kind::Gre) {
            unsigned(text).0 as u16
        } else {
            signed(text) as u16
        }
    }

    fn finish(&mut self) -> Result<(), Problem> {
        if self.given.has('j') && self.given.has_any("ng") {
            let message = "cannot specify `--src-nat' or `--dst-nat' with `--any-nat'";
            return Err(Problem::usage(message));
        }
        let Some(command) = self.command else {
            return Ok(());
        };
        command.check(self.given)?;
        labels::check(self)?;
        if let Some(protocol) = self.protocol
            && command != Command::Help
        {
            Kind::of(protocol).check(command, &self.details)?;
        }
        Ok(())
    }
}

const fn width(address: IpAddr) -> u32 {
    if address.is_ipv4() { 32 } else { 128 }
}

const fn command_of(letter: char, expected: bool) -> Option<Command> {
    Some(match (letter, expected) {
        ('L', false) => Command::List,
        ('I', false) => Command::Create,
        ('A', false) => Command::Add,
        ('U', false) => Command::Update,
        ('D', false) => Command::Delete,
        ('G', false) => Command::Get,
        ('F', false) => Command::Flush,
        ('E', false) => Command::Event,
        ('C', false) => Command::Count,
        ('S', false) => Command::Stats,
        ('V', _) => Command::Version,
        ('h', _) => Command::Help,
        ('L', true) => Command::ListExpected,
        ('I', true) => Command::CreateExpected,
        ('D', true) => Command::DeleteExpected,
        ('G', true) => Command::GetExpected,
        ('F', true) => Command::FlushExpected,
        ('E', true) => Command::EventExpected,
        ('C', true) => Command::CountExpected,
        ('S', true) => Command::StatsExpected,
        _ => return None,
    })
}

/// A table by a beginning of its name.
fn table_named(text: &str) -> Result<Table, Problem> {
    let tables = [
        ("expect", Table::Expect),
        ("conntrack", Table::Conntrack),
        ("dying", Table::Dying),
        ("unconfirmed", Table::Unconfirmed),
    ];
    let found = tables.iter().find(|(name, _)| name.starts_with(text));
    found
        .map(|(_, table)| *table)
        .ok_or_else(|| Problem::Usage(format!("unknown type `{text}'")))
}

fn protocol(text: &str) -> Result<u8, Problem> {
    let error = || Problem::Usage(format!("`{text}' unsupported protocol"));
    if text.starts_with(|c: char| c.is_ascii_digit()) {
        let (number, rest) = unsigned(text);
        return u8::try_from(number)
            .ok()
            .filter(|_| rest.is_empty())
            .ok_or_else(error);
    }
    // conntrack's own names come before those of the system.
    let own = OWN_PROTOCOLS.iter();
    let mut own = own.filter(|(name, _)| text.eq_ignore_ascii_case(name));
    if let Some((_, number)) = own.next() {
        return Ok(*number);
    }
    match std::fs::read_to_string("/etc/protocols") {
        Ok(list) => protocol_among(&list, text).ok_or_else(error),
        Err(_) => match Protocol::parse(text) {
            Ok(Protocol(number)) => Ok(number),
            Err(_) => Err(error()),
        },
    }
}

/// Protocols that conntrack knows of itself.
const OWN_PROTOCOLS: &[(&str, u8)] = &[
    ("tcp", 6),
    ("udp", 17),
    ("udplite", 136),
    ("sctp", 132),
    ("dccp", DCCP),
    ("icmp", 1),
    ("icmpv6", 58),
    ("gre", 47),
];

/// The number of a protocol by its name or another name of it in `/etc/protocols`, letter by letter as
/// getprotobyname(3) looks for it.
fn protocol_among(list: &str, name: &str) -> Option<u8> {
    let entries = list.lines().map(|line| match line.split_once('#') {
        Some((entry, _)) => entry,
        None => line,
    });
    let mut numbers = entries.filter_map(|entry| {
        let mut words = entry.split_ascii_whitespace();
        let (first, number) = (words.next()?, words.next()?);
        let is_named = first == name || words.any(|alias| alias == name);
        is_named.then(|| number.parse().ok()).flatten()
    });
    numbers.next()
}

fn family_named(text: &str) -> Result<Family, Problem> {
    if text.starts_with("ipv4") {
        Ok(Family::V4)
    } else if text.starts_with("ipv6") {
        Ok(Family::V6)
    } else {
        Err(Problem::Usage(format!("`{text}' unsupported protocol")))
    }
}

fn tcp_state(text: &str) -> Result<&'static str, Problem> {
    let found = TCP_STATES.iter().find(|state| **state == text);
    match found {
        Some(&"LISTEN") => Ok("SYN_SENT2"),
        Some(state) => Ok(state),
        None => Err(Problem::Usage(format!("unknown TCP state `{text}'"))),
    }
}

fn sctp_state(text: &str) -> Result<&'static str, Problem> {
    let found = SctpState::named(text).map(SctpState::name);
    found.ok_or_else(|| Problem::Usage(format!("unknown SCTP state `{text}'")))
}

const DCCP: u8 = 33;
const DCCP_STATES: &[&str] = &[
    "NONE", "REQUEST", "RESPOND", "PARTOPEN", "OPEN", "CLOSEREQ", "CLOSING", "TIMEWAIT", "IGNORE",
    "INVALID",
];

/// No flow here has such a state: that there is one of this name is what matters.
fn dccp_state(text: &str) -> Result<(), Problem> {
    match DCCP_STATES.contains(&text) {
        true => Ok(()),
        false => Err(Problem::Usage(format!("Unknown DCCP state `{text}'"))),
    }
}

/// May be cut short, in letters of either case.
fn dccp_role(text: &str) -> Result<(), Problem> {
    let wanted = text.to_ascii_lowercase();
    let is_role = |role: &&str| role.starts_with(&wanted);
    match ["client", "server"].iter().any(is_role) {
        true => Ok(()),
        false => Err(Problem::Usage(format!("Unknown DCCP role `{text}'"))),
    }
}

fn parse_mark(text: &str) -> Mark {
    let (value, rest) = unsigned(text);
    let mask = match rest.strip_prefix('/') {
        Some(mask) => unsigned(mask).0 as u32,
        None => u32::MAX,
    };
    let value = value as u32;
    Mark { value, mask }
}

/// Names of a comma-separated list, each of which may be cut short. `take` says whether it knew
/// one, and whether that was by the name it was given.
pub(super) fn parse_names(
    text: &str,
    say: &mut dyn FnMut(&str),
    take: &mut dyn FnMut(&str) -> bool,
) -> Result<(), Problem> {
    let mut rest = text;
    loop {
        let (name, after) = match rest.split_once(',') {
            Some((name, after)) => (name, Some(after)),
            None => (rest, None),
        };
        let known = !name.is_empty() && (is_nat(name, say) || take(name));
        if !known {
            let shown = rest.strip_prefix('!').unwrap_or(rest);
            return Err(Problem::Usage(format!("Bad parameter `{shown}'")));
        }
        match after {
            Some(after) => rest = after,
            None => return Ok(()),
        }
    }
}

/// Names that conntrack passes over in every list.
fn is_nat(name: &str, say: &mut dyn FnMut(&str)) -> bool {
    for (nat, option) in [("SRC_NAT", "src-nat"), ("DST_NAT", "dst-nat")] {
        if is_beginning(name, nat) {
            say(&format!("WARNING: ignoring {nat}, use --{option} instead"));
            return true;
        }
    }
    false
}

/// Whether a name is the beginning of another, in any case.
pub(super) fn is_beginning(name: &str, of: &str) -> bool {
    let beginning = of.get(..name.len());
    beginning.is_some_and(|beginning| beginning.eq_ignore_ascii_case(name))
}

fn parse_status(text: &str, status: &mut Status, say: &mut dyn FnMut(&str)) -> Result<(), Problem> {
    const NAMES: [(&str, Option<FlowStatus>); 7] = [
        ("ASSURED", Some(FlowStatus::Assured)),
        ("SEEN_REPLY", Some(FlowStatus::SeenReply)),
        ("UNSET", None),
        ("FIXED_TIMEOUT", Some(FlowStatus::FixedTimeout)),
        ("EXPECTED", Some(FlowStatus::Expected)),
        ("OFFLOAD", Some(FlowStatus::Offload)),
        ("HW_OFFLOAD", Some(FlowStatus::Offload)),
    ];
    parse_names(text, say, &mut |name| {
        if name.starts_with("UNREPLIED") {
            status.unset.push(FlowStatus::SeenReply);
            return true;
        }
        let (name, bits) = match name.strip_prefix('!') {
            Some(name) => (name, &mut status.unset),
            None => (name, &mut status.set),
        };
        let found = NAMES
            .iter()
            .find(|(known, _)| !name.is_empty() && is_beginning(name, known));
        match found {
            Some((_, bit)) => {
                bits.extend(*bit);
                true
            }
            None => false,
        }
    })
}

fn parse_events(text: &str, events: &mut Events, say: &mut dyn FnMut(&str)) -> Result<(), Problem> {
    parse_names(text, say, &mut |name| {
        let all = is_beginning(name, "ALL");
        let new = !all && is_beginning(name, "NEW");
        let updates = !all && is_beginning(name, "UPDATES");
        let destroy = !all && is_beginning(name, "DESTROY");
        events.new |= all || new;
        events.updates |= all || updates;
        events.destroy |= all || destroy;
        all || new || updates || destroy
    })
}
