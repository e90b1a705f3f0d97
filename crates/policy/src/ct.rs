//! The target CT of the table raw.

use std::fmt;

use keepstate_engine::event::told;

/// What `-j CT` says of the packet's flow.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CtTarget {
    /// The packet has none.
    pub notrack: bool,
    /// Name of the helper that reads along.
    pub helper: Option<String>,
    /// Name of the timeout policy.
    pub timeout: Option<String>,
    /// In which zone its flow is.
    pub zone: Option<u16>,
    /// Which events are told of it, bits of [`EVENTS`].
    pub events: Option<u16>,
    /// Which of its expectations, bits of [`EXPECTATION_EVENTS`].
    pub expectation_events: Option<u16>,
}

/// Events of a flow by name, in the order in which iptables prints them, and what the engine has of each: nothing
/// where it never happens.
pub(crate) const EVENTS: &[(&str, u8)] = &[
    ("new", told::NEW),
    ("related", told::RELATED),
    ("destroy", told::DESTROY),
    ("reply", told::REPLY),
    ("assured", told::ASSURED),
    ("protoinfo", told::PROTOCOL),
    ("helper", told::OTHER),
    ("mark", told::MARK),
    ("natseqinfo", told::OTHER),
    ("secmark", told::OTHER),
];

/// Events of expectations.
pub(crate) const EXPECTATION_EVENTS: &[(&str, u8)] = &[("new", told::EXPECTED)];

/// A bit for each name of a list; an error for one that is not known.
pub(crate) fn parse_events<'a>(known: &[(&str, u8)], list: &'a str) -> Result<u16, &'a str> {
    list.split(',').try_fold(0, |bits, name| {
        let found = known.iter().position(|(event, _)| *event == name);
        found.map(|number| bits | 1 << number).ok_or(name)
    })
}

fn named(known: &[(&'static str, u8)], bits: u16) -> impl Iterator<Item = (&'static str, u8)> {
    let set = known.iter().enumerate();
    set.filter(move |(number, _)| bits >> number & 1 != 0)
        .map(|(_, event)| *event)
}

impl fmt::Display for CtTarget {
    /// As `-L` prints it, without dashes.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.write_options(f, " ")
    }
}

impl CtTarget {
    /// The engine's bits of the events that are told, where some were chosen.
    pub(crate) fn told(&self) -> Option<u8> {
        if self.events.is_none() && self.expectation_events.is_none() {
            return None;
        }
        let flow = named(EVENTS, self.events.unwrap_or(0));
        let expected = named(EXPECTATION_EVENTS, self.expectation_events.unwrap_or(0));
        Some(flow.chain(expected).fold(0, |bits, (_, bit)| bits | bit))
    }

    /// Each option with `before` before its name, in the order in which iptables prints them.
    pub(crate) fn write_options(&self, f: &mut impl fmt::Write, before: &str) -> fmt::Result {
        if self.notrack {
            write!(f, "{before}notrack")?;
        }
        if let Some(helper) = &self.helper {
            write!(f, "{before}helper {helper}")?;
        }
        if let Some(timeout) = &self.timeout {
            write!(f, "{before}timeout {timeout}")?;
        }
        let lists = [
            ("ctevents", EVENTS, self.events),
            ("expevents", EXPECTATION_EVENTS, self.expectation_events),
        ];
        for (option, known, bits) in lists {
            let Some(bits) = bits.filter(|bits| *bits != 0) else {
                continue;
            };
            let names: Vec<_> = named(known, bits).map(|(name, _)| name).collect();
            write!(f, "{before}{option} {}", names.join(","))?;
        }
        match self.zone {
            // As iptables has it: zone 0 is where flows are anyway.
            None | Some(0) => Ok(()),
            Some(zone) => write!(f, "{before}zone {zone}"),
        }
    }
}
