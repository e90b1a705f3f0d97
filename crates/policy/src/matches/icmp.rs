//! `-m icmp` and `-m icmp6`.

use keepstate_engine::condition::kind;
use keepstate_engine::tuple::Family;

use super::{Context, Extension, Form, Lowered, Module, OptionSpec, Refusal, Value, not, value};
use crate::problem::Problem;

const ICMP_PROTOCOL: u8 = 1;
const ICMPV6_PROTOCOL: u8 = 58;

/// Type that fits all, for IPv4 alone.
const ANY: u8 = 255;

/// What the engine calls any type.
const ENGINE_ANY: u32 = 256;

pub(super) static ICMP: Module = Module::new(
    "icmp",
    &[OptionSpec::new("icmp-type", Form::Own(icmp_type))
        .negatable()
        .must()],
    |icmp, numeric| list(icmp, "icmp", NAMES_V4, numeric),
    lower,
)
.family(Family::V4)
.refuse(|_, context| needs(context, ICMP_PROTOCOL, "icmp"));

pub(super) static ICMP6: Module = Module::new(
    "icmp6",
    &[OptionSpec::new("icmpv6-type", Form::Own(icmpv6_type))
        .negatable()
        .must()],
    |icmp, numeric| list(icmp, "ipv6-icmp", NAMES_V6, numeric),
    lower,
)
.family(Family::V6)
.refuse(|_, context| needs(context, ICMPV6_PROTOCOL, "ipv6-icmp"));

fn needs(context: &Context<'_>, protocol: u8, name: &str) -> Option<Refusal> {
    (!context.is(protocol)).then(|| Refusal {
        error: "Invalid argument",
        hint: format!("this match needs `-p {name}' before it"),
    })
}

fn icmp_type(_: &Context<'_>, text: &str) -> Result<Value, Problem> {
    parse(text, NAMES_V4, "ICMP")
}

fn icmpv6_type(_: &Context<'_>, text: &str) -> Result<Value, Problem> {
    parse(text, NAMES_V6, "ICMPv6")
}

/// A type by number or name; the beginning of a name is enough, where it begins no other.
fn parse(text: &str, names: &[Name], protocol: &str) -> Result<Value, Problem> {
    let lower = text.to_ascii_lowercase();
    let begins = |name: &&Name| name.0.to_ascii_lowercase().starts_with(&lower);
    let exact = names.iter().find(|name| name.0.eq_ignore_ascii_case(text));
    let mut begun = names.iter().filter(begins);
    let said = |text| Err(Problem::Match(text));
    if let (None, Some(first), Some(second)) = (exact, begun.next(), begun.next()) {
        let (first, second) = (first.0, second.0);
        return said(format!(
            "Ambiguous {protocol} type `{text}': `{first}' or `{second}'?"
        ));
    }
    let found = exact
        .or_else(|| names.iter().find(begins))
        .filter(|_| !text.is_empty());
    if let Some(name) = found {
        return Ok(Value::Icmp(name.1, name.2));
    }
    let byte = |text: &str| value::number(text).and_then(|number| u8::try_from(number).ok());
    let (kind, code) = match text.split_once('/') {
        Some((kind, code)) => (kind, Some(code)),
        None => (text, None),
    };
    let Some(kind) = byte(kind) else {
        return said(format!("Unknown {protocol} type `{kind}'"));
    };
    match code.map(byte) {
        None => Ok(Value::Icmp(kind, None)),
        // To the kernel this is any type, whatever the code.
        Some(Some(ANY)) if kind == ANY => Ok(Value::Icmp(ANY, None)),
        Some(Some(code)) => Ok(Value::Icmp(kind, Some(code))),
        Some(None) => said(format!("Unknown {protocol} code `{text}'")),
    }
}

fn list(icmp: &Extension, protocol: &str, names: &[Name], numeric: bool) -> String {
    let given = &icmp.given[0];
    let Value::Icmp(kind, code) = given.value else {
        return String::new();
    };
    let sign = if given.negated { "!" } else { "" };
    let named = names.iter().find(|name| (name.1, name.2) == (kind, code));
    if let Some(name) = named.filter(|_| !numeric) {
        return format!(" {protocol} {sign}{}", name.0);
    }
    let gap = if given.negated { " !" } else { "" };
    let code = code.map_or(String::new(), |code| format!(" code {code}"));
    format!(" {protocol}{gap}type {kind}{code}")
}

fn lower(icmp: &Extension, lowered: &mut Lowered) {
    let Some(given) = icmp.given.first() else {
        return;
    };
    let Value::Icmp(kind, code) = given.value else {
        return;
    };
    let kind = match (kind, code, lowered.family) {
        (ANY, None, Family::V4) => ENGINE_ANY,
        _ => kind.into(),
    };
    let codes = code.map_or([0, 255], |code| [code.into(); 2]);
    lowered.ask_flow(kind::ICMP, not(given.negated), &[kind, codes[0], codes[1]]);
}

/// Name, type and code.
struct Name(&'static str, u8, Option<u8>);

const NAMES_V4: &[Name] = &[
    Name("any", 255, None),
    Name("echo-reply", 0, None),
    Name("pong", 0, None),
    Name("destination-unreachable", 3, None),
    Name("network-unreachable", 3, Some(0)),
    Name("host-unreachable", 3, Some(1)),
    Name("protocol-unreachable", 3, Some(2)),
    Name("port-unreachable", 3, Some(3)),
    Name("fragmentation-needed", 3, Some(4)),
    Name("source-route-failed", 3, Some(5)),
    Name("network-unknown", 3, Some(6)),
    Name("host-unknown", 3, Some(7)),
    Name("network-prohibited", 3, Some(9)),
    Name("host-prohibited", 3, Some(10)),
    Name("TOS-network-unreachable", 3, Some(11)),
    Name("TOS-host-unreachable", 3, Some(12)),
    Name("communication-prohibited", 3, Some(13)),
    Name("host-precedence-violation", 3, Some(14)),
    Name("precedence-cutoff", 3, Some(15)),
    Name("source-quench", 4, None),
    Name("redirect", 5, None),
    Name("network-redirect", 5, Some(0)),
    Name("host-redirect", 5, Some(1)),
    Name("TOS-network-redirect", 5, Some(2)),
    Name("TOS-host-redirect", 5, Some(3)),
    Name("echo-request", 8, None),
    Name("ping", 8, None),
    Name("router-advertisement", 9, None),
    Name("router-solicitation", 10, None),
    Name("time-exceeded", 11, None),
    Name("ttl-exceeded", 11, None),
    Name("ttl-zero-during-transit", 11, Some(0)),
    Name("ttl-zero-during-reassembly", 11, Some(1)),
    Name("parameter-problem", 12, None),
    Name("ip-header-bad", 12, Some(0)),
    Name("required-option-missing", 12, Some(1)),
    Name("timestamp-request", 13, None),
    Name("timestamp-reply", 14, None),
    Name("address-mask-request", 17, None),
    Name("address-mask-reply", 18, None),
];

const NAMES_V6: &[Name] = &[
    Name("destination-unreachable", 1, None),
    Name("no-route", 1, Some(0)),
    Name("communication-prohibited", 1, Some(1)),
    Name("beyond-scope", 1, Some(2)),
    Name("address-unreachable", 1, Some(3)),
    Name("port-unreachable", 1, Some(4)),
    Name("failed-policy", 1, Some(5)),
    Name("reject-route", 1, Some(6)),
    Name("packet-too-big", 2, None),
    Name("time-exceeded", 3, None),
    Name("ttl-exceeded", 3, None),
    Name("ttl-zero-during-transit", 3, Some(0)),
    Name("ttl-zero-during-reassembly", 3, Some(1)),
    Name("parameter-problem", 4, None),
    Name("bad-header", 4, Some(0)),
    Name("unknown-header-type", 4, Some(1)),
    Name("unknown-option", 4, Some(2)),
    Name("echo-request", 128, None),
    Name("ping", 128, None),
    Name("echo-reply", 129, None),
    Name("pong", 129, None),
    Name("router-solicitation", 133, None),
    Name("router-advertisement", 134, None),
    Name("neighbour-solicitation", 135, None),
    Name("neighbor-solicitation", 135, None),
    Name("neighbour-advertisement", 136, None),
    Name("neighbor-advertisement", 136, None),
    Name("redirect", 137, None),
];
