//! Rules as `iptables -L` prints them. Addresses are never looked up in the DNS, with or without
//! `-n`: a firewall that waits for a name server is no use.

use std::fmt::Write as _;

use keepstate_engine::tuple::Family;

use crate::command::Listing;
use crate::model::{
    Counters, Fragments, Interface, Match, PortRange, Ports, Rule, States, Table, Target, TcpFlags,
    Test,
};
use crate::network::Network;
use crate::protocol::Protocol;
use crate::services;

/// One chain or all of them; one rule (without a head) or all.
pub(crate) fn list(
    table: &Table,
    family: Family,
    chain: Option<&str>,
    number: Option<u32>,
    listing: Listing,
) -> String {
    let mut text = String::new();
    let chosen = table
        .chain_names()
        .filter(|name| chain.is_none_or(|chain| chain == *name));
    for name in chosen {
        if number.is_none() {
            if !text.is_empty() {
                text.push('\n');
            }
            head(&mut text, table, name, listing);
        }
        for (index, rule) in table.rules(name).into_iter().flatten().enumerate() {
            let wanted = number.is_none_or(|number| number as usize == index + 1);
            if wanted {
                line(&mut text, family, rule, index + 1, listing);
            }
        }
    }
    text
}

fn head(text: &mut String, table: &Table, name: &str, listing: Listing) {
    match table.hook_named(name) {
        Some(hook) => {
            let chain = table.builtin(hook);
            let _ = write!(text, "Chain {name} (policy {}", chain.policy.name());
            if listing.verbose {
                let packets = counter(chain.counters.packets, listing);
                let bytes = counter(chain.counters.bytes, listing);
                let _ = write!(text, " {packets} packets, {bytes} bytes");
            }
            text.push_str(")\n");
        }
        None => {
            let references = table.references(name);
            let _ = writeln!(text, "Chain {name} ({references} references)");
        }
    }
    if listing.line_numbers {
        text.push_str("num  ");
    }
    if listing.verbose {
        text.push_str(match listing.exact {
            true => "    pkts      bytes ",
            false => " pkts bytes ",
        });
    }
    text.push_str("target     prot opt ");
    if listing.verbose {
        text.push_str("in     out     ");
    }
    text.push_str("source               destination         \n");
}

fn line(text: &mut String, family: Family, rule: &Rule, number: usize, listing: Listing) {
    if listing.line_numbers {
        let _ = write!(text, "{number:<4} ");
    }
    if listing.verbose {
        let Counters { packets, bytes } = rule.counters;
        let _ = match listing.exact {
            true => write!(text, "{packets:>8} {bytes:>8} "),
            false => write!(
                text,
                "{:>5} {:>5} ",
                counter(packets, listing),
                counter(bytes, listing)
            ),
        };
    }
    let _ = write!(text, "{:<9} ", rule.target.name());
    let (sign, protocol) = protocol_text(rule.protocol.as_ref(), listing);
    let _ = write!(text, "{sign}{protocol:<4} {} ", fragment_text(rule));
    if listing.verbose {
        let any = if listing.numeric { "*" } else { "any" };
        let incoming = interface_text(rule.in_interface.as_ref(), any);
        let outgoing = interface_text(rule.out_interface.as_ref(), any);
        let _ = write!(text, " {incoming:<6} {outgoing:<6} ");
    }
    for network in [&rule.source, &rule.destination] {
        let (sign, network) = network_text(network.as_ref(), family, listing);
        let _ = write!(text, "{sign}{network:<19} ");
    }
    tail(text, rule, listing);
    text.push('\n');
}

/// What `-v` prints about a rule that a command named.
pub(crate) fn echo(family: Family, rule: &Rule) -> String {
    // As iptables does: names for protocols, numbers for everything else.
    let names = Listing::default();
    let numbers = Listing {
        numeric: true,
        ..names
    };
    let (protocol_sign, protocol) = protocol_text(rule.protocol.as_ref(), names);
    let incoming = interface_text(rule.in_interface.as_ref(), "*");
    let outgoing = interface_text(rule.out_interface.as_ref(), "*");
    let (source_sign, source) = network_text(rule.source.as_ref(), family, numbers);
    let (destination_sign, destination) = network_text(rule.destination.as_ref(), family, numbers);
    let mut text = format!(
        "{} {protocol_sign}{protocol} opt {} in {incoming} out {outgoing} \
         {source_sign}{source} {destination_sign}-> {destination}  ",
        rule.target.name(),
        fragment_text(rule)
    );
    tail(&mut text, rule, numbers);
    text.push('\n');
    text
}

/// The column `opt`.
const fn fragment_text(rule: &Rule) -> &'static str {
    match rule.fragment {
        None => "--",
        Some(Fragments::Later) => "-f",
        Some(Fragments::Others) => "!f",
    }
}

fn tail(text: &mut String, rule: &Rule, listing: Listing) {
    if matches!(rule.target, Target::Goto(_)) {
        text.push_str("[goto] ");
    }
    for one in &rule.matches {
        write_match(text, one, listing);
    }
    let _ = match &rule.target {
        Target::Notrack => write!(text, " NOTRACK"),
        Target::Ct(ct) => write!(text, " CT{ct}"),
        Target::Extended(extension) => write!(text, "{}", extension.list(listing.numeric)),
        _ => Ok(()),
    };
}

fn write_match(text: &mut String, one: &Match, listing: Listing) {
    let _ = match one {
        Match::Comment(comment) => write!(text, " /* {comment} */"),
        Match::States(states) => write!(text, "{}", states_text(states)),
        Match::Tracked(states, extension) => {
            let states = states.as_ref().map(states_text).unwrap_or_default();
            write!(text, "{states}{}", extension.list(listing.numeric))
        }
        Match::Extension(extension) => write!(text, "{}", extension.list(listing.numeric)),
        Match::Ports(ports) => {
            let source = ports_text("spt", ports.source.as_ref(), ports, listing);
            let destination = ports_text("dpt", ports.destination.as_ref(), ports, listing);
            let protocol = ports.protocol.name();
            let (option, flags) = (option_text(ports), flags_text(ports, listing));
            write!(text, " {protocol}{source}{destination}{option}{flags}")
        }
    };
}

fn states_text(states: &States) -> String {
    let sign = if states.negated { "! " } else { "" };
    format!(" {sign}{} {}", states.spelling.option(), states.set)
}

fn option_text(ports: &Ports) -> String {
    let Some(Test { value, negated }) = &ports.option else {
        return String::new();
    };
    let sign = if *negated { "!" } else { "" };
    format!(" option={sign}{value}")
}

fn flags_text(ports: &Ports, listing: Listing) -> String {
    let Some(Test { value, negated }) = &ports.flags else {
        return String::new();
    };
    let sign = if *negated { "!" } else { "" };
    let text = |flags: u8| match listing.numeric {
        true => format!("0x{flags:02X}"),
        false => TcpFlags::names(flags),
    };
    format!(" flags:{sign}{}/{}", text(value.mask), text(value.wanted))
}

fn ports_text(
    name: &str,
    test: Option<&Test<PortRange>>,
    ports: &Ports,
    listing: Listing,
) -> String {
    let Some(Test { value, negated }) = test else {
        return String::new();
    };
    let sign = if *negated { "!" } else { "" };
    let port = |number: u16| match services::name_of_port(number, ports.protocol) {
        Some(name) if !listing.numeric => name.to_string(),
        _ => number.to_string(),
    };
    if value.first == value.last {
        return format!(" {name}:{sign}{}", port(value.first));
    }
    format!(" {name}s:{sign}{}:{}", port(value.first), port(value.last))
}

fn protocol_text(test: Option<&Test<Protocol>>, listing: Listing) -> (char, String) {
    let sign = if test.is_some_and(|test| test.negated) {
        '!'
    } else {
        ' '
    };
    let protocol = test.map_or(Protocol::ALL, |test| test.value);
    let text = match (listing.numeric, protocol) {
        (true, Protocol(number)) => number.to_string(),
        (false, Protocol::ALL) => "all".into(),
        (false, protocol) => protocol.name_or_number(),
    };
    (sign, text)
}

fn interface_text(test: Option<&Test<Interface>>, any: &str) -> String {
    match test {
        Some(Test { value, negated }) => {
            let sign = if *negated { "!" } else { "" };
            format!("{sign}{}", value.as_str())
        }
        None => any.into(),
    }
}

fn network_text(test: Option<&Test<Network>>, family: Family, listing: Listing) -> (char, String) {
    match (test, family) {
        (Some(Test { value, negated }), _) => {
            (if *negated { '!' } else { ' ' }, value.for_listing())
        }
        (None, _) if !listing.numeric => (' ', "anywhere".into()),
        (None, Family::V4) => (' ', "0.0.0.0/0".into()),
        (None, Family::V6) => (' ', "::/0".into()),
    }
}

/// Exact, or shortened to at most five characters as long as that is possible.
fn counter(number: u64, listing: Listing) -> String {
    if listing.exact || number <= 99_999 {
        return number.to_string();
    }
    let mut rounded = number;
    for unit in ["K", "M", "G"] {
        rounded = rounded.saturating_add(500) / 1000;
        if rounded <= 9999 {
            return format!("{rounded}{unit}");
        }
    }
    format!("{}T", rounded.saturating_add(500) / 1000)
}
