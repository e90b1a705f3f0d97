//! Ports by name, from `/etc/services` where there is one.

use std::sync::OnceLock;

use crate::model::{PortProtocol, PortRange};
use crate::problem::Problem;

struct Service {
    name: String,
    /// Whether this is the name to print for the port.
    primary: bool,
    port: u16,
    protocol: PortProtocol,
}

/// The port of this service.
pub(crate) fn port_named(name: &str, protocol: PortProtocol) -> Option<u16> {
    let found = services()
        .iter()
        .find(|service| service.protocol == protocol && service.name == name);
    found.map(|service| service.port)
}

/// `22`, `1:9`, `1:`, `:9`.
pub(crate) fn range(text: &str, protocol: Option<PortProtocol>) -> Result<PortRange, Problem> {
    let Some((first, last)) = text.split_once(':') else {
        let port = port_of_any(text, protocol)?;
        return Ok(PortRange {
            first: port,
            last: port,
        });
    };
    let end = |text: &str, default| match text {
        "" => Ok(default),
        _ => port_of_any(text, protocol),
    };
    let (first, last) = (end(first, 0)?, end(last, u16::MAX)?);
    if first > last {
        return Err(Problem::PortRangeInverted);
    }
    Ok(PortRange { first, last })
}

/// A decimal number or a service's name. Octal and hexadecimal numbers, which iptables takes by way
/// of the C library, are refused: `022` rarely means `18`.
pub(crate) fn port(text: &str, protocol: Option<PortProtocol>) -> Result<u16, Problem> {
    let invalid = || Problem::PortInvalid(text.into());
    if !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit()) {
        let plain = text == "0" || !text.starts_with('0');
        return text.parse().ok().filter(|_| plain).ok_or_else(invalid);
    }
    let named = protocol.and_then(|protocol| port_named(text, protocol));
    named.ok_or_else(invalid)
}

/// The same, with the names of other protocols where this one has none such; TCP knows its own alone, as in iptables.
fn port_of_any(text: &str, protocol: Option<PortProtocol>) -> Result<u16, Problem> {
    port(text, protocol).or_else(|problem| {
        let mut services = services().iter();
        let is_tcp = protocol == Some(PortProtocol::Tcp);
        let found = services.find(|service| !is_tcp && service.name == text);
        found.map(|service| service.port).ok_or(problem)
    })
}

/// The service on this port.
pub(crate) fn name_of_port(port: u16, protocol: PortProtocol) -> Option<&'static str> {
    let found = services()
        .iter()
        .find(|service| service.primary && service.protocol == protocol && service.port == port);
    found.map(|service| service.name.as_str())
}

/// All names, for hints.
pub(crate) fn names() -> impl Iterator<Item = &'static str> {
    services().iter().map(|service| service.name.as_str())
}

fn services() -> &'static [Service] {
    static SERVICES: OnceLock<Vec<Service>> = OnceLock::new();
    SERVICES.get_or_init(|| {
        let system = std::fs::read("/etc/services").unwrap_or_default();
        let services = parse(&String::from_utf8_lossy(&system));
        if services.is_empty() {
            return parse(WELL_KNOWN);
        }
        services
    })
}

fn parse(text: &str) -> Vec<Service> {
    text.lines().filter_map(parse_line).flatten().collect()
}

/// `name port/protocol alias...`, and everything after `#` is a comment.
fn parse_line(line: &str) -> Option<Vec<Service>> {
    let line = line.split('#').next()?;
    let mut words = line.split_whitespace();
    let name = words.next()?;
    let (port, protocol) = words.next()?.split_once('/')?;
    let (port, protocol) = (port.parse().ok()?, PortProtocol::named(protocol)?);
    let service = |name: &str, primary| Service {
        name: name.into(),
        primary,
        port,
        protocol,
    };
    let aliases = words.map(|alias| service(alias, false));
    Some([service(name, true)].into_iter().chain(aliases).collect())
}

/// For systems without `/etc/services`.
const WELL_KNOWN: &str = "
ftp-data 20/tcp
ftp 21/tcp
ssh 22/tcp
telnet 23/tcp
smtp 25/tcp mail
domain 53/tcp
domain 53/udp
bootps 67/udp
bootpc 68/udp
tftp 69/udp
http 80/tcp www
pop3 110/tcp pop-3
ntp 123/udp
imap2 143/tcp imap
snmp 161/udp
snmp-trap 162/udp snmptrap
ldap 389/tcp
https 443/tcp
https 443/udp
submission 587/tcp
ldaps 636/tcp
imaps 993/tcp
pop3s 995/tcp
mysql 3306/tcp
postgresql 5432/tcp postgres
";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_well_known_ports_are_known() {
        for services in [services(), &parse(WELL_KNOWN)] {
            let port = |name: &str| {
                let found = services.iter().find(|service| service.name == name);
                found.map(|service| service.port)
            };
            assert_eq!(port("ssh"), Some(22));
            assert_eq!(port("http"), Some(80));
            assert_eq!(port("domain"), Some(53));
        }
        assert_eq!(name_of_port(443, PortProtocol::Tcp), Some("https"));
        assert_eq!(port_named("nothing", PortProtocol::Udp), None);
    }
}
