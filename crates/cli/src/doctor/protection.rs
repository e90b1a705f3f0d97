//! Protection that is there and does nothing: rules and modes that something else undoes, and ways past them.

use keepstate_api::{Client, CookieMode, CookieStatus, PolicyText, Reply, Request, Status};
use keepstate_daemon::netlink::{HostAddress, Interface, LinkLayer, Netlink, Role};

use super::knobs::Knobs;
use crate::health::{self, Finding, Severity};
use crate::ruleset;
use crate::running::unexpected;

const LOOSE: &str = "nf_conntrack_tcp_loose";

pub(super) fn examine(
    client: &mut Client,
    status: &Status,
    knobs: &Knobs,
    text: &PolicyText,
) -> anyhow::Result<Vec<Finding>> {
    let Reply::Defence(defence) = client.ask(&Request::Defence)? else {
        return Err(unexpected());
    };
    let Reply::Cookies(cookies) = client.ask(&Request::Cookies)? else {
        return Err(unexpected());
    };
    let mut found = health::of_defence(&defence);
    found.extend(without_cookies(&cookies));
    found.extend(loose(text, knobs));
    found.extend(ways_past(status));
    Ok(found)
}

/// SYNPROXY takes ACKs that are INVALID. Where any ACK may begin a flow there are none, and forged ones pass as NEW.
fn loose(text: &PolicyText, knobs: &Knobs) -> Option<Finding> {
    if knobs.get(LOOSE) == Some(&0) {
        return None;
    }
    let rules = ruleset::counted(text.rules.as_ref()?);
    let proxy = rules.iter().find(|rule| {
        let mut words = rule.text.split(' ');
        words.any(|word| word == "SYNPROXY")
    })?;
    Some(Finding {
        name: "synproxy-loose",
        severity: Severity::Warning,
        message: "SYNPROXY can be gone round with an ACK".to_owned(),
        cause: format!(
            "{LOOSE} lets any ACK begin a flow: it is NEW instead of INVALID, and does not come to the rule. It is 1 \
             again after `keepstate down`, unless `keepstate save` kept it"
        ),
        evidence: format!("{LOOSE} = 1; -A {} {}", proxy.chain, proxy.text),
        command: Some(format!(
            "keepstate sysctl -w net.netfilter.{LOOSE}=0; keepstate save"
        )),
    })
}

/// Cookies that are wanted, and that the host's own settings forbid.
fn without_cookies(cookies: &CookieStatus) -> Option<Finding> {
    let is_pressed = cookies.half_open > u64::from(cookies.marks.high)
        || cookies.half_open_of_destination > u64::from(cookies.destination_marks.high);
    let is_wanted = match cookies.mode {
        CookieMode::Never => false,
        CookieMode::Auto => is_pressed,
        CookieMode::Always => true,
    };
    let obstacle = cookies.obstacles.first().filter(|_| is_wanted)?;
    Some(Finding {
        name: "cookies-forbidden",
        severity: Severity::Warning,
        message: "SYN cookies are wanted, and the host does not take them as they should be"
            .to_owned(),
        cause: obstacle.clone(),
        evidence: format!(
            "`keepstate cookies status`; {} half-open flows",
            cookies.half_open
        ),
        command: Some("sysctl -w net.ipv4.tcp_syncookies=2 net.ipv4.tcp_timestamps=2".to_owned()),
    })
}

/// Interfaces with addresses on which nothing is judged.
fn ways_past(status: &Status) -> Vec<Finding> {
    let read = || {
        let netlink = Netlink::open()?;
        Ok::<_, std::io::Error>((netlink.interfaces()?, netlink.host_addresses()?))
    };
    // Who may not ask is told nothing.
    let (interfaces, addresses) = read().unwrap_or_default();
    let attached: Vec<u32> = status.interfaces.iter().map(|it| it.index).collect();
    let open = unjudged(&interfaces, &addresses, &attached);
    let found = open.into_iter().map(|interface| Finding {
        name: "not-attached",
        severity: Severity::Note,
        message: format!("what comes by {} is judged by no rule", interface.name),
        cause: match interface.layer {
            LinkLayer::Ethernet => "other interfaces were named when the daemon was started",
            _ => "it is no Ethernet interface (a tunnel, say): these are filtered on where they are named",
        }
        .to_owned(),
        evidence: format!("{} has an address, and `keepstate status` does not list it", interface.name),
        command: Some("keepstate down; keepstate up, with -i for each, or none for all of Ethernet".to_owned()),
    });
    found.collect()
}

fn unjudged<'a>(
    interfaces: &'a [Interface],
    addresses: &[HostAddress],
    attached: &[u32],
) -> Vec<&'a Interface> {
    let is_open = |interface: &&Interface| {
        let below = interface.vlan.map(|(_, below)| below);
        let is_judged = |index: u32| attached.contains(&index);
        interface.layer != LinkLayer::Loopback
            && interface.role == Role::Station
            && addresses.iter().any(|it| it.interface == interface.index)
            && !is_judged(interface.index)
            && !below.is_some_and(is_judged)
    };
    interfaces.iter().filter(is_open).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn interface(index: u32, layer: LinkLayer) -> Interface {
        Interface {
            index,
            name: format!("if{index}"),
            layer,
            role: Role::Station,
            vlan: None,
        }
    }

    #[test]
    fn interfaces_that_nobody_judges_are_found() {
        let mut interfaces = vec![
            interface(1, LinkLayer::Loopback),
            interface(2, LinkLayer::Ethernet),
            interface(3, LinkLayer::Other),
            interface(4, LinkLayer::Ethernet),
            interface(5, LinkLayer::Ethernet),
            interface(6, LinkLayer::Ethernet),
        ];
        interfaces[3].vlan = Some((7, 2));
        interfaces[4].role = Role::Port;
        let address = |interface| HostAddress {
            address: [10, 0, 0, 1].into(),
            prefix: 24,
            broadcast: None,
            interface,
            is_loopback: false,
        };
        // The sixth has none.
        let addresses: Vec<_> = (1..=5).map(address).collect();
        let open = |attached: &[u32]| -> Vec<u32> {
            let found = unjudged(&interfaces, &addresses, attached);
            found.iter().map(|it| it.index).collect()
        };
        assert_eq!(open(&[2]), [3]);
        assert_eq!(open(&[3]), [2, 4]);
        assert_eq!(open(&[2, 3]), [] as [u32; 0]);
    }

    #[test]
    fn synproxy_wants_a_tracker_that_is_not_loose() {
        let text = |rule: &str| PolicyText {
            rules: Some(keepstate_api::RulesText {
                v4: format!("*filter\n:FORWARD DROP [0:0]\n[0:0] -A FORWARD {rule}\nCOMMIT\n"),
                v6: String::new(),
            }),
        };
        let knobs = |loose| Knobs::from([(LOOSE.to_owned(), loose)]);
        let proxy = text("-p tcp -m conntrack --ctstate INVALID,UNTRACKED -j SYNPROXY --mss 1460");
        assert!(loose(&proxy, &knobs(1)).is_some());
        assert_eq!(loose(&proxy, &knobs(0)), None);
        assert_eq!(loose(&text("-p tcp -j DROP"), &knobs(1)), None);
    }
}
