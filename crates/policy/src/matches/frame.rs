//! Matches on the frame that a packet came in: `mac` and `pkttype`.

use keepstate_engine::condition::{kind, packet_type};

use super::{Context, Form, Module, OptionSpec, Value, not};
use crate::problem::Problem;

pub(super) static MAC: Module = Module::new(
    "mac",
    &[OptionSpec::new("mac-source", Form::Own(address))
        .negatable()
        .must()],
    |mac, _| {
        let given = &mac.given[0];
        let sign = if given.negated { "! " } else { "" };
        format!(" MAC {sign}{}", given.value)
    },
    |mac, lowered| {
        if let Some(given) = mac.given.first()
            && let Value::Mac([a, b, c, d, e, f]) = given.value
        {
            let data = [
                u32::from_be_bytes([a, b, c, d]),
                u32::from_be_bytes([0, 0, e, f]),
            ];
            lowered.ask_packet(kind::MAC, not(given.negated), &data);
        }
    },
);

fn address(_: &Context<'_>, text: &str) -> Result<Value, Problem> {
    let bytes: Vec<_> = text.split(':').collect();
    let byte = |text: &&str| match text.len() {
        1 | 2 => u8::from_str_radix(text, 16).ok(),
        _ => None,
    };
    let bytes: Option<Vec<u8>> = bytes.iter().map(byte).collect();
    let address = bytes.and_then(|bytes| <[u8; 6]>::try_from(bytes).ok());
    address
        .map(Value::Mac)
        .ok_or_else(|| Problem::Match("Invalid MAC address specified.".into()))
}

/// The first name of each is the one that is printed.
const TYPES: [(&str, &str, u32); 6] = [
    ("unicast", "unicast", packet_type::UNICAST),
    ("broadcast", "broadcast", packet_type::BROADCAST),
    ("multicast", "multicast", packet_type::MULTICAST),
    ("unicast", "host", packet_type::UNICAST),
    ("broadcast", "bcast", packet_type::BROADCAST),
    ("multicast", "mcast", packet_type::MULTICAST),
];

pub(super) static PKTTYPE: Module = Module::new(
    "pkttype",
    &[OptionSpec::new("pkt-type", Form::Own(packet_kind))
        .negatable()
        .must()],
    |pkttype, _| {
        let given = &pkttype.given[0];
        let sign = if given.negated { "!=" } else { "=" };
        format!(" PKTTYPE {sign} {}", given.value)
    },
    |pkttype, lowered| {
        if let Some(given) = pkttype.given.first()
            && let Value::Word(_, number) = given.value
        {
            lowered.ask_packet(kind::PACKET_TYPE, not(given.negated), &[number]);
        }
    },
);

fn packet_kind(_: &Context<'_>, text: &str) -> Result<Value, Problem> {
    let found = TYPES
        .iter()
        .find(|(_, name, _)| name.eq_ignore_ascii_case(text));
    match found {
        Some((printed, _, number)) => Ok(Value::Word(printed, *number)),
        None => Err(Problem::Match(format!("Bad packet type '{text}'"))),
    }
}
