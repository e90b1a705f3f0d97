//! Whom to leave alone, as far as this host knows: itself, whoever is logged in, gateways, resolvers.

use std::fs;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use keepstate_defence::{Exemption, Network, Why};
use nix::ifaddrs::getifaddrs;

/// The port that operators come by, and what names others.
const SSH_PORT: u16 = 22;
const SSHD_CONFIG: &str = "/etc/ssh/sshd_config";

/// Of each kind, so that nobody who opens many connections makes a list without end.
const EACH_MAX: usize = 64;

/// `sessions` are the addresses that commands have come from.
pub(super) fn exemptions(sessions: Vec<IpAddr>) -> Vec<Exemption> {
    let kinds: [(Why, Vec<IpAddr>); 4] = [
        (Why::Own, own()),
        (Why::Operator, [operators(), sessions].concat()),
        (Why::Gateway, gateways()),
        (Why::Resolver, resolvers()),
    ];
    let mut exempt = Vec::new();
    for (why, mut addresses) in kinds {
        addresses.sort();
        addresses.dedup();
        addresses.truncate(EACH_MAX);
        exempt.extend(addresses.into_iter().map(|address| Exemption {
            network: Network::of(address, 128),
            why,
        }));
    }
    exempt
}

fn own() -> Vec<IpAddr> {
    let Ok(interfaces) = getifaddrs() else {
        return Vec::new();
    };
    let addresses = interfaces.filter_map(|interface| {
        let address = interface.address?;
        let v4 = address.as_sockaddr_in().map(|it| IpAddr::V4(it.ip()));
        v4.or_else(|| address.as_sockaddr_in6().map(|it| IpAddr::V6(it.ip())))
    });
    addresses.collect()
}

/// Ends of established connections to the ports of SSH.
fn operators() -> Vec<IpAddr> {
    let config = fs::read_to_string(SSHD_CONFIG).unwrap_or_default();
    let ports = ssh_ports(&config);
    let files = ["/proc/net/tcp", "/proc/net/tcp6"];
    let texts = files.map(|file| fs::read_to_string(file).unwrap_or_default());
    texts
        .iter()
        .flat_map(|text| text.lines().filter_map(|line| operator(line, &ports)))
        .collect()
}

/// Port 22, and those that `Port` and `ListenAddress` name in a configuration of sshd, if they can be read.
fn ssh_ports(config: &str) -> Vec<u16> {
    let named = config.lines().filter_map(|line| {
        let mut words = line.split([' ', '\t', '=']).filter(|word| !word.is_empty());
        let (key, value) = (words.next()?, words.next()?);
        match &*key.to_ascii_lowercase() {
            "port" => value.parse().ok(),
            "listenaddress" => value.parse::<SocketAddr>().ok().map(|it| it.port()),
            _ => None,
        }
    });
    std::iter::once(SSH_PORT).chain(named).collect()
}

fn operator(line: &str, ports: &[u16]) -> Option<IpAddr> {
    let [own, other] = established(line)?;
    ports.contains(&own.port()).then(|| other.ip())
}

/// Both ends of an established connection, the own one first, from a line of `/proc/net/tcp`: number, own end, other
/// end, state.
pub(super) fn established(line: &str) -> Option<[SocketAddr; 2]> {
    const ESTABLISHED: &str = "01";
    let mut words = line.split_whitespace().skip(1);
    let mut end = || {
        let (address, port) = words.next()?.split_once(':')?;
        let port = u16::from_str_radix(port, 16).ok()?;
        Some(SocketAddr::new(address_of(address)?, port))
    };
    let ends = [end()?, end()?];
    (words.next()? == ESTABLISHED).then_some(ends)
}

/// Words of 32 bits in the machine's order, in hexadecimal.
fn address_of(hex: &str) -> Option<IpAddr> {
    let mut bytes = Vec::new();
    for start in (0..hex.len()).step_by(8) {
        let word = u32::from_str_radix(hex.get(start..start + 8)?, 16).ok()?;
        bytes.extend(word.to_ne_bytes());
    }
    if let Ok(v4) = <[u8; 4]>::try_from(&*bytes) {
        return Some(Ipv4Addr::from(v4).into());
    }
    let v6 = Ipv6Addr::from(<[u8; 16]>::try_from(&*bytes).ok()?);
    Some(v6.to_ipv4_mapped().map_or(IpAddr::V6(v6), IpAddr::V4))
}

fn gateways() -> Vec<IpAddr> {
    let v4 = fs::read_to_string("/proc/net/route").unwrap_or_default();
    let v6 = fs::read_to_string("/proc/net/ipv6_route").unwrap_or_default();
    let v4 = v4.lines().skip(1).filter_map(|line| {
        let gateway = address_of(line.split_whitespace().nth(2)?)?;
        (!gateway.is_unspecified()).then_some(gateway)
    });
    let v6 = v6.lines().filter_map(|line| {
        // Here in the order of the wire.
        let bits = u128::from_str_radix(line.split_whitespace().nth(4)?, 16).ok()?;
        (bits != 0).then(|| Ipv6Addr::from_bits(bits).into())
    });
    v4.chain(v6).collect()
}

fn resolvers() -> Vec<IpAddr> {
    let text = fs::read_to_string("/etc/resolv.conf").unwrap_or_default();
    let named = text
        .lines()
        .filter_map(|line| line.trim().strip_prefix("nameserver"));
    let addresses = named.filter_map(|rest| rest.split('%').next()?.trim().parse().ok());
    addresses.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_of_proc_are_read() {
        let line = "   1: 0100007F:0016 05000A0A:C350 01 00000000:00000000 00:00000000 00000000";
        #[cfg(target_endian = "little")]
        assert_eq!(
            operator(line, &[22]),
            Some(Ipv4Addr::new(10, 10, 0, 5).into())
        );
        assert_eq!(operator(&line.replace(":0016", ":0050"), &[22]), None);
        #[cfg(target_endian = "little")]
        assert!(operator(&line.replace(":0016", ":0050"), &[22, 80]).is_some());
        assert_eq!(operator(&line.replace(" 01 ", " 0A "), &[22]), None);
        assert_eq!(
            operator("  sl  local_address rem_address   st", &[22]),
            None
        );
        let config =
            "# Port 9\nPort 2222\nListenAddress 10.0.0.1:2022\nListenAddress ::\nport=443\n";
        assert_eq!(ssh_ports(config), [22, 2222, 2022, 443]);
        let mapped = "0000000000000000FFFF00000100A8C0";
        #[cfg(target_endian = "little")]
        assert_eq!(
            address_of(mapped),
            Some(Ipv4Addr::new(192, 168, 0, 1).into())
        );
    }
}
