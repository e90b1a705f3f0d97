//! `-m multiport`, and the ports of SCTP and DCCP.

use keepstate_engine::condition::{flag, kind};

use super::{Context, Extension, Form, Lowered, Module, OptionSpec, Value, chunks, not};
use crate::model::{PortProtocol, PortRange, Ports, Test};
use crate::problem::Problem;
use crate::services;

/// Ports that one multiport may name; a range is two (`XT_MULTI_PORTS`).
const PORTS_MAX: usize = 15;

/// Ranges that one condition holds.
const RANGES_PER_CONDITION: usize = 7;

const SCTP_NUMBER: u8 = 132;

const PROTOCOLS: [u8; 5] = [6, 17, 136, SCTP_NUMBER, 33];

pub(super) static MULTIPORT: Module = Module::new(
    "multiport",
    &[
        OptionSpec::new("source-ports", Form::Own(list_of_ports))
            .aliases(&["sports"])
            .saved("sports")
            .negatable()
            .excludes(&["destination-ports", "ports"]),
        OptionSpec::new("destination-ports", Form::Own(list_of_ports))
            .aliases(&["dports"])
            .saved("dports")
            .negatable()
            .excludes(&["source-ports", "ports"]),
        OptionSpec::new("ports", Form::Own(list_of_ports))
            .negatable()
            .excludes(&["source-ports", "destination-ports"]),
    ],
    list,
    lower,
)
.check(|multiport, _| match multiport.given.is_empty() {
    true => Err(Problem::Match("multiport expection an option".into())),
    false => Ok(()),
});

pub(super) static SCTP: Module = of_protocol("sctp", SCTP_OPTIONS, |own, numeric| {
    list_range(own, "sctp", numeric)
})
.refuse(|_, context| chunks::refuse(context, SCTP_NUMBER, "sctp"));

pub(super) static DCCP: Module = of_protocol("dccp", DCCP_OPTIONS, |own, numeric| {
    list_range(own, "dccp", numeric)
})
.refuse(|_, context| chunks::refuse(context, 33, "dccp"));

const SOURCE_PORT: OptionSpec = OptionSpec::new("source-port", Form::Own(range_of_ports))
    .aliases(&["sport"])
    .saved("sport")
    .negatable();

const DESTINATION_PORT: OptionSpec = OptionSpec::new("destination-port", Form::Own(range_of_ports))
    .aliases(&["dport"])
    .saved("dport")
    .negatable();

const SCTP_OPTIONS: &[OptionSpec] = &[SOURCE_PORT, DESTINATION_PORT, chunks::CHUNK_TYPES];

const DCCP_OPTIONS: &[OptionSpec] = &[
    SOURCE_PORT,
    DESTINATION_PORT,
    chunks::DCCP_TYPES,
    chunks::DCCP_OPTION,
];

const fn of_protocol(
    name: &'static str,
    options: &'static [OptionSpec],
    list: fn(&Extension, bool) -> String,
) -> Module {
    Module::new(name, options, list, |own, lowered| {
        lower(own, lowered);
        chunks::lower(own, lowered);
    })
}

/// The protocol whose services are meant.
fn protocol(context: &Context<'_>) -> Result<Option<PortProtocol>, Problem> {
    let said = |text: &str| Err(Problem::Match(text.into()));
    let Some(test) = context.protocol.filter(|test| !test.negated) else {
        return said("multiport needs `-p tcp', `-p udp', `-p udplite', `-p sctp' or `-p dccp'");
    };
    if !PROTOCOLS.contains(&test.value.0) {
        return said("multiport only works with TCP, UDP, UDPLITE, SCTP and DCCP");
    }
    Ok(services_of(test.value.0))
}

/// Services of other protocols have no names.
const fn services_of(protocol: u8) -> Option<PortProtocol> {
    match protocol {
        6 => Some(PortProtocol::Tcp),
        17 => Some(PortProtocol::Udp),
        _ => None,
    }
}

fn list_of_ports(context: &Context<'_>, text: &str) -> Result<Value, Problem> {
    let protocol = protocol(context)?;
    let mut ranges = Vec::new();
    let mut count = 0;
    for part in text.split(',') {
        let range = match part.split_once(':') {
            Some((first, last)) => {
                count += 2;
                PortRange {
                    first: services::port(first, protocol)?,
                    last: services::port(last, protocol)?,
                }
            }
            None => {
                count += 1;
                let port = services::port(part, protocol)?;
                PortRange {
                    first: port,
                    last: port,
                }
            }
        };
        if count > PORTS_MAX {
            return Err(Problem::Match("too many ports specified".into()));
        }
        if range.first > range.last || (range.first == range.last && part.contains(':')) {
            return Err(Problem::Match("invalid portrange specified".into()));
        }
        ranges.push(range);
    }
    Ok(Value::Ports(protocol, ranges))
}

fn range_of_ports(context: &Context<'_>, text: &str) -> Result<Value, Problem> {
    let number = context.protocol.map_or(0, |test| test.value.0);
    let protocol = services_of(number);
    // As in iptables, which knows services of SCTP alone there, and hardly any system has some.
    if number == SCTP_NUMBER && text.contains(|c: char| c.is_ascii_alphabetic()) {
        return Err(Problem::PortInvalid(text.into()));
    }
    let range = services::range(text, protocol)?;
    Ok(Value::Ports(protocol, vec![range]))
}

fn list(multiport: &Extension, numeric: bool) -> String {
    let mut text = " multiport".to_string();
    for given in &multiport.given {
        let name = match given.name {
            "source-ports" => "sports",
            "destination-ports" => "dports",
            _ => "ports",
        };
        let sign = if given.negated { " !" } else { "" };
        text += &format!(" {name} {sign}{}", ports_text(&given.value, numeric));
    }
    text
}

/// As `-m tcp` lists them.
fn list_range(own: &Extension, name: &str, numeric: bool) -> String {
    let mut text = format!(" {name}");
    for given in &own.given {
        let Value::Ports(_, ranges) = &given.value else {
            continue;
        };
        let side = if given.name == "source-port" {
            "spt"
        } else {
            "dpt"
        };
        let many = ranges.iter().any(|range| range.first != range.last);
        let many = if many { "s" } else { "" };
        let sign = if given.negated { "!" } else { "" };
        text += &format!(" {side}{many}:{sign}{}", ports_text(&given.value, numeric));
    }
    text + &chunks::list(own, numeric)
}

fn ports_text(value: &Value, numeric: bool) -> String {
    let Value::Ports(protocol, ranges) = value else {
        return String::new();
    };
    let name = |number| protocol.and_then(|protocol| services::name_of_port(number, protocol));
    let port = |number: u16| match name(number) {
        Some(name) if !numeric => name.to_string(),
        _ => number.to_string(),
    };
    let range = |range: &PortRange| match range.first == range.last {
        true => port(range.first),
        false => format!("{}:{}", port(range.first), port(range.last)),
    };
    let ranges: Vec<_> = ranges.iter().map(range).collect();
    ranges.join(",")
}

/// What `-m tcp` and `-m udp` say, as conditions in their place.
pub(crate) fn in_order(ports: &Ports, lowered: &mut Lowered) {
    if let Some(test) = &ports.flags {
        super::tcp_flags(test, lowered);
    }
    if let Some(test) = &ports.option {
        super::tcp_option(test, lowered);
    }
    let sides = [
        (&ports.source, flag::SOURCE),
        (&ports.destination, flag::DESTINATION),
    ];
    for (test, side) in sides {
        if let Some(Test { value, negated }) = test {
            let mut data = [1; RANGES_PER_CONDITION];
            data[0] = u32::from(value.first) | u32::from(value.last) << 16;
            lowered.ask_flow(kind::PORTS, side | not(*negated), &data);
        }
    }
}

/// Either one of some conditions, or none of them.
fn lower(own: &Extension, lowered: &mut Lowered) {
    for given in &own.given {
        let Value::Ports(_, ranges) = &given.value else {
            continue;
        };
        let sides = match given.name {
            "source-ports" | "source-port" => flag::SOURCE,
            "destination-ports" | "destination-port" => flag::DESTINATION,
            _ => flag::SOURCE | flag::DESTINATION,
        };
        let first = lowered.conditions.len();
        for part in ranges.chunks(RANGES_PER_CONDITION) {
            // From one to zero: nothing.
            let mut data = [1; RANGES_PER_CONDITION];
            for (place, range) in data.iter_mut().zip(part) {
                *place = u32::from(range.first) | u32::from(range.last) << 16;
            }
            lowered.ask_flow(kind::PORTS, sides | not(given.negated), &data);
        }
        if !given.negated {
            lowered.join_since(first);
        }
    }
}
