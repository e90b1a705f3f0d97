//! The forms that conntrack's `-o` names: lines, XML, and commands that make the flow again.

use std::fmt::{self, Display, Formatter};
use std::net::IpAddr;

use keepstate_engine::conntrack::sctp;
use keepstate_engine::labels;
use keepstate_engine::limits::LABELS_MAX;
use keepstate_engine::record::{ASSURED, EXPECTED, FIXED_TIMEOUT, SEEN_REPLY};
use keepstate_engine::tuple::{Direction, Family, Tuple};
use keepstate_engine::wire::transport::{GRE, ICMP, ICMPV6, SCTP, TCP, UDP, UDPLITE};

use crate::calendar::Date;
use crate::{AddressForm, DCCP, Entry, address, icmp_type, protocol_name};

const NANOSECONDS: u64 = 1_000_000_000;

/// What is said of a flow.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Telling {
    /// It is there.
    #[default]
    Listed,
    /// A packet began it, or changed it.
    New,
    Updated,
    /// A program made it, or changed it.
    Made,
    Changed,
    Ended,
}

/// What a form shows beside the flow itself.
#[derive(Clone, Copy, Debug)]
pub struct Style {
    pub telling: Telling,
    /// `-o extended`.
    pub network_layer: bool,
    /// `-o id`; XML has it always.
    pub id: bool,
    /// `-o ktimestamp`.
    pub start: bool,
    /// `-o timestamp`, which lines have in front of them and XML within.
    pub when: bool,
    /// How many hold the record, as the kernel counts: the table, and who asked for the flow.
    pub references: u32,
    /// Nanoseconds since 1970 at which the flow is told, or ended.
    pub now_ns: u64,
    /// Seconds that local time is ahead of UTC at a second since 1970.
    pub utc_offset: fn(i64) -> i64,
    /// Names of labels, where they are to be shown.
    pub label_name: Option<fn(u32) -> Option<&'static str>>,
}

impl Default for Style {
    fn default() -> Self {
        Self {
            telling: Telling::Listed,
            network_layer: false,
            id: false,
            start: false,
            when: false,
            references: 1,
            now_ns: 0,
            utc_offset: |_| 0,
            label_name: None,
        }
    }
}

impl Style {
    pub(crate) fn date(&self, nanoseconds: u64) -> Date {
        let seconds = (nanoseconds / NANOSECONDS) as i64;
        Date::of(seconds.saturating_add((self.utc_offset)(seconds)))
    }

    fn shows_counters(&self) -> bool {
        matches!(self.telling, Telling::Listed | Telling::Ended)
    }

    fn shows_mark(&self, mark: u32) -> bool {
        mark != 0
            || matches!(
                self.telling,
                Telling::Listed | Telling::Made | Telling::Changed
            )
    }

    /// A flow whose time was up has none left to show.
    fn shows_timeout(&self, seconds: u32) -> bool {
        seconds != 0 || self.telling != Telling::Ended
    }
}

impl Entry {
    /// A line of `conntrack -L`, `-E` and the rest, without a line feed.
    pub const fn line(&self, style: Style) -> Line<'_> {
        Line(self, style)
    }

    /// The element `flow` of `-o xml`.
    pub const fn xml(&self, style: Style) -> Xml<'_> {
        Xml(self, style)
    }

    /// The command of `-o save`.
    pub const fn save(&self, telling: Telling) -> Save<'_> {
        Save(self, telling)
    }

    /// XML names the states of SCTP by TCP's names with the same numbers, as conntrack does.
    fn xml_state(&self) -> Option<&'static str> {
        match self.original().protocol {
            TCP | SCTP => Some(self.record.tcp_state.name()),
            _ => None,
        }
    }

    fn seconds_lasted(&self, style: &Style) -> Option<u64> {
        let started = self.started_ns?;
        Some(style.now_ns.saturating_sub(started) / NANOSECONDS)
    }
}

/// See [`Entry::line`].
#[derive(Clone, Copy, Debug)]
pub struct Line<'a>(&'a Entry, Style);

impl Display for Line<'_> {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let Self(entry, style) = self;
        f.write_str(match style.telling {
            Telling::Listed => "",
            Telling::New | Telling::Made => "    [NEW] ",
            Telling::Updated | Telling::Changed => " [UPDATE] ",
            Telling::Ended => "[DESTROY] ",
        })?;
        let tuple = entry.original();
        if style.network_layer {
            let (number, name) = network_layer(tuple.family);
            write!(f, "{name:<8} {number} ")?;
        }
        let protocol = tuple.protocol;
        write!(f, "{:<8} {protocol}", protocol_name(protocol))?;
        if style.shows_timeout(entry.seconds_left) {
            write!(f, " {}", entry.seconds_left)?;
        }
        if let Some(state) = entry.protocol_state() {
            write!(f, " {state}")?;
        }
        let counted = if style.shows_counters() {
            **entry
        } else {
            Entry {
                counters: None,
                ..**entry
            }
        };
        counted.write_directions(f, AddressForm::Short)?;
        self.write_end(f)
    }
}

impl Line<'_> {
    fn write_end(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let Self(entry, style) = self;
        if style.shows_mark(entry.mark) {
            write!(f, " mark={}", entry.mark)?;
        }
        if entry.original().zone != 0 {
            write!(f, " zone={}", entry.original().zone)?;
        }
        if style.shows_counters()
            && let Some(seconds) = entry.seconds_lasted(style)
        {
            write!(f, " delta-time={seconds}")?;
        }
        if style.shows_counters()
            && style.start
            && let Some(started) = entry.started_ns
        {
            write!(f, " [start={}]", style.date(started))?;
            if style.telling == Telling::Ended {
                write!(f, " [stop={}]", style.date(style.now_ns))?;
            }
        }
        if let Some(helper) = entry.helper {
            write!(f, " helper={helper}")?;
        }
        if style.telling == Telling::Listed {
            write!(f, " use={}", style.references)?;
        }
        if style.id {
            write!(f, " id={}", entry.id)?;
        }
        let Some(label_name) = style.label_name.filter(|_| entry.labels != [0; 2]) else {
            return Ok(());
        };
        f.write_str(" labels")?;
        for (number, name) in named_labels(entry, label_name).enumerate() {
            let before = if number == 0 { '=' } else { ',' };
            write!(f, "{before}{name}")?;
        }
        Ok(())
    }
}

/// The names of a flow's labels, of those that have one.
fn named_labels(
    entry: &Entry,
    name: fn(u32) -> Option<&'static str>,
) -> impl Iterator<Item = &'static str> {
    let set = (0..LABELS_MAX).filter(|label| labels::has(&entry.labels, *label));
    set.filter_map(name)
}

/// See [`Entry::xml`].
#[derive(Clone, Copy, Debug)]
pub struct Xml<'a>(&'a Entry, Style);

impl Display for Xml<'_> {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let Self(entry, style) = self;
        f.write_str(match style.telling {
            Telling::Listed => "<flow>",
            Telling::New | Telling::Made => "<flow type=\"new\">",
            Telling::Updated | Telling::Changed => "<flow type=\"update\">",
            Telling::Ended => "<flow type=\"destroy\">",
        })?;
        let [original, reply] = &entry.tuples;
        self.write_direction(f, original, Direction::Original)?;
        self.write_direction(f, reply, Direction::Reply)?;
        f.write_str("<meta direction=\"independent\">")?;
        self.write_independent(f)?;
        f.write_str("</meta>")?;
        if let Some(helper) = entry.helper {
            write!(f, "<helper>{helper}</helper>")?;
        }
        if style.when {
            write_when(f, &style.date(style.now_ns))?;
        }
        f.write_str("</flow>")
    }
}

impl Xml<'_> {
    fn write_direction(
        &self,
        f: &mut Formatter<'_>,
        tuple: &Tuple,
        direction: Direction,
    ) -> fmt::Result {
        let (number, name) = network_layer(tuple.family);
        let (label, index) = match direction {
            Direction::Original => ("original", 0),
            Direction::Reply => ("reply", 1),
        };
        let [source, destination] =
            [tuple.source, tuple.destination].map(|words| address(tuple.family, &words));
        write!(f, "<meta direction=\"{label}\">")?;
        write!(f, "<layer3 protonum=\"{number}\" protoname=\"{name}\">")?;
        write!(f, "<src>{source}</src><dst>{destination}</dst></layer3>")?;
        let protocol = tuple.protocol;
        let name = protocol_name(protocol);
        write!(f, "<layer4 protonum=\"{protocol}\" protoname=\"{name}\">")?;
        let ports = (tuple.source_port, tuple.destination_port);
        match protocol {
            TCP | UDP | SCTP | DCCP | UDPLITE => {
                write!(f, "<sport>{}</sport><dport>{}</dport>", ports.0, ports.1)?;
            }
            GRE => write!(
                f,
                "<srckey>{:#x}</srckey><dstkey>{:#x}</dstkey>",
                ports.0, ports.1
            )?,
            _ => {}
        }
        f.write_str("</layer4>")?;
        if self.1.shows_counters()
            && let Some(counters) = self.0.counters.as_ref().and_then(|both| both.get(index))
        {
            let (packets, bytes) = (counters.packets, counters.bytes);
            write!(f, "<counters><packets>{packets}</packets>")?;
            write!(f, "<bytes>{bytes}</bytes></counters>")?;
        }
        f.write_str("</meta>")
    }

    fn write_independent(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let Self(entry, style) = self;
        if let Some(state) = entry.xml_state() {
            write!(f, "<state>{state}</state>")?;
        }
        if style.shows_timeout(entry.seconds_left) {
            write!(f, "<timeout>{}</timeout>", entry.seconds_left)?;
        }
        if style.shows_mark(entry.mark) {
            write!(f, "<mark>{}</mark>", entry.mark)?;
        }
        if entry.original().zone != 0 {
            write!(f, "<zone>{}</zone>", entry.original().zone)?;
        }
        if let Some(name) = style.label_name.filter(|_| entry.labels != [0; 2]) {
            f.write_str("<labels>")?;
            for label in named_labels(entry, name) {
                write!(f, "<label>{label}</label>")?;
            }
            f.write_str("</labels>")?;
        }
        if style.telling == Telling::Listed {
            write!(f, "<use>{}</use>", style.references)?;
        }
        write!(f, "<id>{}</id>", entry.id)?;
        if entry.record.has(ASSURED) {
            f.write_str("<assured/>")?;
        }
        if !entry.record.has(SEEN_REPLY) {
            f.write_str("<unreplied/>")?;
        }
        if !style.shows_counters() {
            return Ok(());
        }
        if style.start
            && let Some(started) = entry.started_ns
        {
            write!(f, "<timestamp><start>{started}</start>")?;
            if style.telling == Telling::Ended {
                write!(f, "<stop>{}</stop>", style.now_ns)?;
            }
            f.write_str("</timestamp>")?;
        }
        match entry.seconds_lasted(style) {
            Some(seconds) => write!(f, "<deltatime>{seconds}</deltatime>"),
            None => Ok(()),
        }
    }
}

pub(crate) fn write_when(f: &mut Formatter<'_>, date: &Date) -> fmt::Result {
    let (hour, minute, second) = (date.hour, date.minute, date.second);
    write!(f, "<when><hour>{hour}</hour><min>{minute:02}</min>")?;
    write!(f, "<sec>{second:02}</sec><wday>{}</wday>", date.weekday + 1)?;
    write!(f, "<day>{}</day><month>{}</month>", date.day, date.month)?;
    write!(f, "<year>{}</year></when>", date.year)
}

/// See [`Entry::save`].
#[derive(Clone, Copy, Debug)]
pub struct Save<'a>(&'a Entry, Telling);

impl Display for Save<'_> {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let Self(entry, telling) = self;
        f.write_str(match telling {
            Telling::Listed | Telling::New | Telling::Made => "-A",
            Telling::Updated | Telling::Changed => "-U",
            Telling::Ended => "-D",
        })?;
        if *telling != Telling::Ended || entry.seconds_left != 0 {
            write!(f, " -t {}", entry.seconds_left)?;
        }
        let names = [
            (EXPECTED, "EXPECTED"),
            (SEEN_REPLY, "SEEN_REPLY"),
            (ASSURED, "ASSURED"),
            (FIXED_TIMEOUT, "FIXED_TIMEOUT"),
        ];
        let set = names.iter().filter(|(bit, _)| entry.record.has(*bit));
        let set: Vec<&str> = set.map(|(_, name)| *name).collect();
        let status = if set.is_empty() {
            "UNSET".to_owned()
        } else {
            set.join(",")
        };
        write!(f, " -u {status}")?;
        let [original, reply] = &entry.tuples;
        if original.zone != 0 {
            write!(f, " -w {}", original.zone)?;
        }
        let shown = |words| -> IpAddr { address(original.family, words) };
        let (source, destination) = (shown(&original.source), shown(&original.destination));
        write!(f, " -s {source} -d {destination}")?;
        let (source, destination) = (shown(&reply.source), shown(&reply.destination));
        write!(f, " -r {source} -q {destination}")?;
        write_details(f, entry)
    }
}

fn write_details(f: &mut Formatter<'_>, entry: &Entry) -> fmt::Result {
    let [original, reply] = &entry.tuples;
    let protocol = original.protocol;
    match protocol_name(protocol) {
        "unknown" => write!(f, " -p {protocol}")?,
        name => write!(f, " -p {name}")?,
    }
    match protocol {
        TCP | UDP | SCTP | UDPLITE => {
            let (source, destination) = (original.source_port, original.destination_port);
            write!(f, " --sport {source} --dport {destination}")?;
            let (source, destination) = (reply.source_port, reply.destination_port);
            write!(
                f,
                " --reply-port-src {source} --reply-port-dst {destination}"
            )?;
        }
        ICMP | ICMPV6 => {
            let name = protocol_name(protocol);
            let kind = icmp_type(original, Direction::Original);
            let code = original.destination_port & 0xff;
            let id = original.source_port;
            write!(
                f,
                " --{name}-type {kind} --{name}-code {code} --{name}-id {id}"
            )?;
        }
        GRE => {
            let (source, destination) = (original.source_port, original.destination_port);
            write!(f, " --srckey {source} --dstkey {destination}")?;
            let (source, destination) = (reply.source_port, reply.destination_port);
            write!(f, " --reply-key-src {source} --reply-key-dst {destination}")?;
        }
        _ => {}
    }
    if let Some(state) = entry.protocol_state() {
        write!(f, " --state {state}")?;
    }
    if protocol == SCTP {
        // conntrack shows and takes the tags in network order.
        let [original, reply] = [Direction::Original, Direction::Reply]
            .map(|direction| sctp::tag(&entry.record, direction).swap_bytes());
        write!(f, " --orig-vtag {original} --reply-vtag {reply}")?;
    }
    Ok(())
}

/// Number and name of an address's family.
pub(crate) const fn network_layer_of(address: &IpAddr) -> (u8, &'static str) {
    match address {
        IpAddr::V4(_) => network_layer(Family::V4),
        IpAddr::V6(_) => network_layer(Family::V6),
    }
}

const fn network_layer(family: Family) -> (u8, &'static str) {
    match family {
        Family::V4 => (2, "ipv4"),
        Family::V6 => (10, "ipv6"),
    }
}
