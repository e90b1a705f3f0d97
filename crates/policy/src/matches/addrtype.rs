//! What kind of address source or destination is: `addrtype`.

use keepstate_engine::condition::{address_type, flag, kind};
use keepstate_engine::tuple::Family;

use super::{Context, Extension, Form, Lowered, Module, OptionSpec, Refusal, Value, not};
use crate::problem::Problem;

/// In the order of their numbers, as iptables has them: what is written may be the beginning of a name.
const TYPES: [&str; 12] = [
    "UNSPEC",
    "UNICAST",
    "LOCAL",
    "BROADCAST",
    "ANYCAST",
    "MULTICAST",
    "BLACKHOLE",
    "UNREACHABLE",
    "PROHIBIT",
    "THROW",
    "NAT",
    "XRESOLVE",
];

/// Those of IPv6 that can be told: from the address, and from the list of the host's own.
const KNOWN_OF_V6: u32 =
    address_type::UNSPEC | address_type::UNICAST | address_type::LOCAL | address_type::MULTICAST;

pub(super) static ADDRTYPE: Module = Module::new(
    "addrtype",
    &[
        OptionSpec::new("src-type", Form::Own(types)).negatable(),
        OptionSpec::new("dst-type", Form::Own(types)).negatable(),
        OptionSpec::new("limit-iface-in", Form::Nothing).excludes(&["limit-iface-out"]),
        OptionSpec::new("limit-iface-out", Form::Nothing).excludes(&["limit-iface-in"]),
    ],
    list,
    lower,
)
.check(
    |addrtype, _| match addrtype.has("src-type") || addrtype.has("dst-type") {
        true => Ok(()),
        false => Err(Problem::Match(
            "addrtype: you must specify --src-type or --dst-type".into(),
        )),
    },
)
.refuse(|addrtype, context| {
    // Of IPv4 Linux asks the list of the host's own addresses too, so that no address is of the other kinds.
    if context.family == Family::V4 {
        return None;
    }
    let wanted = wanted(addrtype, "src-type") | wanted(addrtype, "dst-type");
    let refused = wanted & !KNOWN_OF_V6;
    let name = TYPES.get(refused.trailing_zeros() as usize)?;
    let hint = match *name {
        "BROADCAST" => "IPv6 has no broadcast".to_owned(),
        "ANYCAST" | "UNREACHABLE" => format!(
            "`{name}' is for the whole routing table to say, which is not asked; match the addresses"
        ),
        _ => format!("no address is `{name}' for the rules; match the networks themselves"),
    };
    Some(Refusal {
        error: "Invalid argument",
        hint,
    })
});

fn types(_: &Context<'_>, text: &str) -> Result<Value, Problem> {
    let mut bits = 0;
    for word in text.split(',') {
        let begins = |name: &&str| {
            let beginning = name.get(..word.len());
            beginning.is_some_and(|beginning| beginning.eq_ignore_ascii_case(word))
        };
        let number = TYPES.iter().position(begins);
        match number {
            Some(number) if !word.is_empty() => bits |= 1 << number,
            _ => return Err(Problem::Match(format!("addrtype: bad type \"{text}\""))),
        }
    }
    let named = TYPES.iter().enumerate();
    let named = named.filter(|(number, _)| bits >> number & 1 != 0);
    let names: Vec<&str> = named.map(|(_, name)| *name).collect();
    Ok(Value::Words(names.join(","), bits))
}

fn wanted(addrtype: &Extension, option: &str) -> u32 {
    match addrtype.find(option).map(|given| &given.value) {
        Some(Value::Words(_, bits)) => *bits,
        _ => 0,
    }
}

fn list(addrtype: &Extension, _: bool) -> String {
    let mut text = String::from(" ADDRTYPE match");
    for (option, side) in [("src-type", "src"), ("dst-type", "dst")] {
        if let Some(given) = addrtype.find(option) {
            let sign = if given.negated { "!" } else { "" };
            text += &format!(" {side}-type {sign}{}", given.value);
        }
    }
    for (option, side) in [("limit-iface-in", "in"), ("limit-iface-out", "out")] {
        if addrtype.has(option) {
            text += &format!(" limit-{side}");
        }
    }
    text
}

fn lower(addrtype: &Extension, lowered: &mut Lowered) {
    let limit = match (
        addrtype.has("limit-iface-in"),
        addrtype.has("limit-iface-out"),
    ) {
        (true, _) => address_type::OF_INCOMING,
        (_, true) => address_type::OF_OUTGOING,
        _ => 0,
    };
    for (option, side) in [("src-type", 0), ("dst-type", flag::DESTINATION)] {
        if let Some(given) = addrtype.find(option) {
            let flags = not(given.negated) | side;
            // Addresses of the host come and go.
            lowered.ask_packet(
                kind::ADDRESS_TYPE,
                flags,
                &[wanted(addrtype, option), limit],
            );
        }
    }
}
