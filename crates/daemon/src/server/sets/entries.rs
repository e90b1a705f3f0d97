//! Entries of sets as ipset writes them.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

use keepstate_api::engine_address;
use keepstate_engine::set::{Entry, Shape, Target, Type};
use keepstate_engine::tuple::Family;

/// Entries that one command may stand for.
const ENTRIES_PER_COMMAND_MAX: u64 = 65_536;

/// Protocols by name; others go by number.
const PROTOCOLS: [(&str, u8); 10] = [
    ("icmp", 1),
    ("igmp", 2),
    ("tcp", 6),
    ("udp", 17),
    ("gre", 47),
    ("esp", 50),
    ("ah", 51),
    ("icmpv6", 58),
    ("sctp", 132),
    ("udplite", 136),
];
const ICMP: u8 = 1;
const ICMPV6: u8 = 58;

/// Types of ICMP by name.
const ICMP_NAMES: [(&str, u8, u16); 4] = [
    ("echo-reply", ICMP, 0),
    ("echo-request", ICMP, 8 << 8),
    ("echo-request", ICMPV6, 128 << 8),
    ("echo-reply", ICMPV6, 129 << 8),
];

/// One entry that a command stands for, and its length.
pub(super) type Named = (Target, u32);

/// What a command's entry stands for in a content of this shape. The error is what ipset says.
pub(super) fn parse(shape: &Shape, text: &str) -> Result<Vec<Named>, String> {
    let (address, port) = match (shape.kind, text.split_once(',')) {
        (Type::AddressPort, Some((address, port))) => (address, Some(port)),
        (Type::AddressPort, None) => {
            return Err(format!(
                "Syntax error: Second element is missing from {text}."
            ));
        }
        (_, None) => (text, None),
        (_, Some(_)) => {
            return Err(format!(
                "Syntax error: Elem separator in {text}, but settype {} supports none.",
                shape.kind.name()
            ));
        }
    };
    let ports = match port {
        Some(port) => parse_ports(port)?,
        None => vec![None],
    };
    let networks = networks(shape, address)?;
    if networks.len() as u64 * ports.len() as u64 > ENTRIES_PER_COMMAND_MAX {
        return Err(too_many());
    }
    let all = networks.iter().flat_map(|(address, length)| {
        let (family, words) = engine_address(*address);
        ports.iter().map(move |port| {
            let target = Target {
                address: words,
                family,
                port: *port,
            };
            (target, u32::from(*length))
        })
    });
    Ok(all.collect())
}

fn too_many() -> String {
    format!("Syntax error: more than {ENTRIES_PER_COMMAND_MAX} elements by one command")
}

fn networks(shape: &Shape, text: &str) -> Result<Vec<(IpAddr, u8)>, String> {
    let is_network = shape.kind == Type::Network;
    if let Some((from, to)) = text.split_once('-') {
        let (IpAddr::V4(from), IpAddr::V4(to)) = (address(shape, from)?, address(shape, to)?)
        else {
            return Err(format!("Syntax error: a range of IPv6 addresses: {text}"));
        };
        let (from, to) = (u64::from(from.to_bits()), u64::from(to.to_bits()));
        let (from, to) = (from.min(to), from.max(to));
        return if is_network {
            Ok(blocks(from, to))
        } else {
            singles(shape, from, to)
        };
    }
    let bits = shape.bits();
    let (first, length) = match text.split_once('/') {
        Some((first, length)) => {
            let number = u8::from_str(length).ok().filter(|length| *length <= bits);
            let range = format!("Syntax error: '{length}' is out of range 0-{bits}");
            (address(shape, first)?, number.ok_or(range)?)
        }
        None => (address(shape, text)?, bits),
    };
    if is_network && length == 0 {
        return Err("The value of the CIDR parameter of the IP address is invalid".into());
    }
    match first {
        _ if is_network => Ok(vec![(first, length)]),
        IpAddr::V4(first) => {
            let size = 1_u64 << (32 - length);
            let from = u64::from(first.to_bits()) & !(size - 1);
            singles(shape, from, from + size - 1)
        }
        IpAddr::V6(_) if length < bits => Err(format!(
            "Syntax error: a network of IPv6 in a set of addresses: {text}"
        )),
        IpAddr::V6(_) => Ok(vec![(first, shape.netmask)]),
    }
}

fn address(shape: &Shape, text: &str) -> Result<IpAddr, String> {
    let (parsed, version) = match shape.family {
        Family::V4 => (Ipv4Addr::from_str(text).ok().map(IpAddr::V4), 4),
        Family::V6 => (Ipv6Addr::from_str(text).ok().map(IpAddr::V6), 6),
    };
    parsed.ok_or_else(|| {
        format!("Syntax error: cannot parse {text}: resolving to IPv{version} address failed")
    })
}

/// The addresses of a range, each once under the set's netmask.
fn singles(shape: &Shape, from: u64, to: u64) -> Result<Vec<(IpAddr, u8)>, String> {
    let step = 1_u64 << (32 - u64::from(shape.netmask.min(32)));
    let from = from & !(step - 1);
    if (to - from) / step >= ENTRIES_PER_COMMAND_MAX {
        return Err(too_many());
    }
    if from == 0 && shape.kind == Type::Address {
        return Err("Null-valued element, cannot be stored in a hash type of set".into());
    }
    let all = (from..=to).step_by(step as usize);
    Ok(all.map(|bits| (v4(bits), shape.netmask)).collect())
}

/// The fewest networks that make up a range.
fn blocks(mut from: u64, to: u64) -> Vec<(IpAddr, u8)> {
    let mut all = Vec::new();
    while from <= to {
        let mut size = if from == 0 {
            1 << 31
        } else {
            from & from.wrapping_neg()
        };
        while from + size - 1 > to {
            size /= 2;
        }
        all.push((v4(from), 32 - size.trailing_zeros() as u8));
        from += size;
    }
    all
}

fn v4(bits: u64) -> IpAddr {
    Ipv4Addr::from_bits(bits as u32).into()
}

type Port = Option<(u8, u16)>;

fn parse_ports(text: &str) -> Result<Vec<Port>, String> {
    let (protocol, ports) = match text.split_once(':') {
        Some((name, ports)) => (protocol(name)?, ports),
        None => (6, text),
    };
    let wrong = || format!("Syntax error: cannot parse '{ports}' as a port");
    let (first, last) = match protocol {
        ICMP | ICMPV6 => {
            let mut known = ICMP_NAMES.iter();
            let named = known.find(|(name, of, _)| *name == ports && *of == protocol);
            let number = match (named, ports.split_once('/')) {
                (Some((.., number)), _) => *number,
                (None, Some((kind, code))) => {
                    let both = (u8::from_str(kind), u8::from_str(code));
                    let (Ok(kind), Ok(code)) = both else {
                        return Err(wrong());
                    };
                    u16::from_be_bytes([kind, code])
                }
                _ => return Err(wrong()),
            };
            (number, number)
        }
        6 | 17 | 132 | 136 => {
            let (first, last) = ports.split_once('-').unwrap_or((ports, ports));
            let first = u16::from_str(first).map_err(|_| wrong())?;
            (first, u16::from_str(last).map_err(|_| wrong())?)
        }
        _ if ports == "0" => (0, 0),
        _ => {
            let name = protocol_name(protocol);
            return Err(format!(
                "Syntax error: Protocol {name} can be used with pseudo port value 0 only."
            ));
        }
    };
    let all = first.min(last)..=first.max(last);
    Ok(all.map(|port| Some((protocol, port))).collect())
}

fn protocol(name: &str) -> Result<u8, String> {
    let mut known = PROTOCOLS.iter();
    let named = known
        .find(|(known, _)| *known == name)
        .map(|(_, number)| *number);
    let number = named
        .or_else(|| u8::from_str(name).ok())
        .filter(|number| *number != 0);
    number.ok_or_else(|| format!("Syntax error: cannot parse '{name}' as a protocol"))
}

fn protocol_name(number: u8) -> String {
    let mut known = PROTOCOLS.iter();
    let named = known.find(|(_, known)| *known == number);
    named.map_or_else(|| number.to_string(), |(name, _)| (*name).to_owned())
}

/// An entry as it is listed.
pub(super) fn text(shape: &Shape, entry: &Entry) -> String {
    let [a, b, c, d] = entry.address;
    let address: IpAddr = match shape.family {
        Family::V4 => Ipv4Addr::from_bits(a).into(),
        Family::V6 => {
            let words = [a, b, c, d].into_iter();
            let bits = words.fold(0, |bits, word| bits << 32 | u128::from(word));
            Ipv6Addr::from_bits(bits).into()
        }
    };
    match shape.kind {
        Type::Network if entry.length != shape.bits() => format!("{address}/{}", entry.length),
        Type::AddressPort => {
            let name = protocol_name(entry.protocol);
            match entry.protocol {
                ICMP | ICMPV6 => {
                    let [kind, code] = entry.port.to_be_bytes();
                    format!("{address},{name}:{kind}/{code}")
                }
                _ => format!("{address},{name}:{}", entry.port),
            }
        }
        _ => address.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shape(kind: Type, netmask: u8) -> Shape {
        Shape {
            kind,
            family: Family::V4,
            is_timed: false,
            netmask,
        }
    }

    #[test]
    fn a_range_becomes_the_fewest_networks() {
        let text = |range: &str| -> Vec<String> {
            let all = networks(&shape(Type::Network, 32), range).expect("a range");
            all.iter()
                .map(|(address, length)| format!("{address}/{length}"))
                .collect()
        };
        assert_eq!(
            text("10.0.0.0-10.0.0.6"),
            ["10.0.0.0/30", "10.0.0.4/31", "10.0.0.6/32"]
        );
        assert_eq!(
            text("0.0.0.0-255.255.255.255"),
            ["0.0.0.0/1", "128.0.0.0/1"]
        );
        assert_eq!(text("255.255.255.255"), ["255.255.255.255/32"]);
    }

    #[test]
    fn what_is_too_much_is_refused() {
        for (kind, text) in [
            (Type::Address, "10.0.0.0/8"),
            (Type::Address, "0.0.0.0"),
            (Type::Address, "1.2.3.4,80"),
            (Type::AddressPort, "1.2.3.4"),
            (Type::AddressPort, "1.2.3.0/24,1-1000"),
            (Type::AddressPort, "1.2.3.4,gre:5"),
            (Type::AddressPort, "1.2.3.4,icmp:8"),
            (Type::Network, "1.2.3.4/0"),
            (Type::Network, "1.2.3.4/33"),
            (Type::Network, "::1"),
        ] {
            assert!(parse(&shape(kind, 32), text).is_err(), "{text}");
        }
        let all = parse(&shape(Type::Address, 24), "10.0.0.0-10.0.3.9").expect("a range");
        assert_eq!(all.len(), 4);
        let all = parse(&shape(Type::AddressPort, 32), "10.0.0.0/30,udp:53-55");
        assert_eq!(all.expect("a network and ports").len(), 12);
    }
}
