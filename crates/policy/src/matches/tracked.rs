//! What `-m conntrack` says beside states.

use keepstate_engine::condition::{flag, flow_status, kind};
use keepstate_engine::tuple::Family;

use super::{Context, Extension, Form, Lowered, Module, OptionSpec, Value, not};
use crate::model::PortRange;
use crate::network::Network;
use crate::problem::Problem;
use crate::protocol::Protocol;
use crate::services;

pub(super) static CONNTRACK: Module = Module::new(
    "conntrack",
    &[
        OptionSpec::new("ctproto", Form::Own(protocol)).negatable(),
        OptionSpec::new("ctorigsrc", Form::Own(network)).negatable(),
        OptionSpec::new("ctorigdst", Form::Own(network)).negatable(),
        OptionSpec::new("ctreplsrc", Form::Own(network)).negatable(),
        OptionSpec::new("ctrepldst", Form::Own(network)).negatable(),
        OptionSpec::new("ctorigsrcport", Form::Own(ports)).negatable(),
        OptionSpec::new("ctorigdstport", Form::Own(ports)).negatable(),
        OptionSpec::new("ctreplsrcport", Form::Own(ports)).negatable(),
        OptionSpec::new("ctrepldstport", Form::Own(ports)).negatable(),
        OptionSpec::new("ctstatus", Form::Own(status)).negatable(),
        OptionSpec::new(
            "ctexpire",
            Form::Range {
                most: u32::MAX as u64,
            },
        )
        .negatable(),
        OptionSpec::new("ctdir", Form::Own(direction)),
    ],
    list,
    lower,
);

fn protocol(_: &Context<'_>, text: &str) -> Result<Value, Problem> {
    Ok(Value::Number(Protocol::parse(text)?.0.into()))
}

/// A mask must be a prefix: iptables drops others in silence.
fn network(context: &Context<'_>, text: &str) -> Result<Value, Problem> {
    let network = Network::parse(context.family, text)?;
    match network.prefix() {
        Some(_) => {
            let address = text.split_once('/').map_or(text, |(address, _)| address);
            let Network { address, .. } = Network::parse(context.family, address)?;
            Ok(Value::FlowNetwork(address, network))
        }
        None => Err(Problem::MaskInvalid(text.into())),
    }
}

fn ports(_: &Context<'_>, text: &str) -> Result<Value, Problem> {
    let range = services::range(text, None)?;
    Ok(Value::Ports(None, vec![range]))
}

const STATUSES: [(&str, u32); 4] = [
    ("EXPECTED", flow_status::EXPECTED),
    ("SEEN_REPLY", flow_status::SEEN_REPLY),
    ("ASSURED", flow_status::ASSURED),
    ("CONFIRMED", flow_status::CONFIRMED),
];

fn status(_: &Context<'_>, text: &str) -> Result<Value, Problem> {
    let mut mask = 0;
    for name in text.split(',') {
        let found = STATUSES
            .iter()
            .find(|(known, _)| known.eq_ignore_ascii_case(name));
        match found {
            Some((_, bit)) => mask |= bit,
            None if name.eq_ignore_ascii_case("NONE") => {}
            None => return Err(Problem::Match(format!("Bad ctstatus \"{text}\""))),
        }
    }
    let names = STATUSES.iter().filter(|(_, bit)| mask & bit != 0);
    let names: Vec<_> = names.map(|(name, _)| *name).collect();
    let names = if mask == 0 {
        "NONE".into()
    } else {
        names.join(",")
    };
    Ok(Value::Words(names, mask))
}

fn direction(_: &Context<'_>, text: &str) -> Result<Value, Problem> {
    let known = [("ORIGINAL", 0), ("REPLY", 1)];
    let found = known
        .iter()
        .find(|(name, _)| name.eq_ignore_ascii_case(text));
    match found {
        Some((name, number)) => Ok(Value::Word(name, *number)),
        None => Err(Problem::Match(format!(
            "conntrack: Bad value for \"--ctdir\" option: \"{text}\""
        ))),
    }
}

/// Without the states, which come before.
fn list(conntrack: &Extension, _: bool) -> String {
    let line = |given: &super::Given| {
        let sign = if given.negated { " !" } else { "" };
        format!("{sign} {} {}", given.name, given.value)
    };
    conntrack.given.iter().map(line).collect()
}

fn lower(conntrack: &Extension, lowered: &mut Lowered) {
    let with_state = if lowered.with_state {
        flag::WITH_STATE
    } else {
        0
    };
    for given in &conntrack.given {
        let flags = with_state | not(given.negated) | sides(given.name);
        match &given.value {
            Value::Number(protocol) => {
                lowered.ask_flow(kind::FLOW_PROTOCOL, flags, &[*protocol as u32]);
            }
            Value::FlowNetwork(_, network) => {
                let [a, b, c, d] = network.address;
                let data = match lowered.family {
                    Family::V4 => [a, network.mask[0], 0, 0, 0],
                    Family::V6 => [a, b, c, d, network.prefix().unwrap_or(128)],
                };
                lowered.ask_flow(kind::FLOW_ADDRESS, flags, &data);
            }
            Value::Ports(_, ranges) => {
                for PortRange { first, last } in ranges {
                    let data = [u32::from(*first), u32::from(*last)];
                    lowered.ask_flow(kind::FLOW_PORT, flags, &data);
                }
            }
            Value::Words(_, mask) => lowered.ask_packet(kind::FLOW_STATUS, flags, &[*mask]),
            Value::Range(low, high) => {
                let data = [*low as u32, *high as u32];
                lowered.ask_packet(kind::FLOW_EXPIRY, flags, &data);
            }
            Value::Word(_, direction) => {
                lowered.ask_flow(kind::FLOW_DIRECTION, flags, &[*direction]);
            }
            _ => {}
        }
    }
}

fn sides(name: &str) -> u16 {
    let reply = if name.starts_with("ctrepl") {
        flag::REPLY
    } else {
        0
    };
    let is_destination = name.ends_with("dst") || name.ends_with("dstport");
    reply | if is_destination { flag::DESTINATION } else { 0 }
}
