//! Whether rules would cut the connection over which an operator gives them.
//!
//! The connections looked at are those of the processes that this one descends from (sshd, for one),
//! and the one that `SSH_CONNECTION` names. The next packet of each, in both directions, is judged by
//! the rules in force and by the new ones, with the record that its flow has now.

use std::collections::BTreeSet;
use std::fmt;
use std::fs;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::Path;

use keepstate_api::{Client, Reply, Request, RuleFamily, RuleFile, Running};
use keepstate_engine::time::Tick;
use keepstate_engine::tuple::Family;
use keepstate_engine::verdict::Verdict;
use keepstate_policy::{FileKind, Policy, compile, parse_rules};
use keepstate_sim::explain::{Circumstances, explain_under};
use keepstate_sim::expression::Expression;
use keepstate_sim::locals::Locals;
use keepstate_sim::replay::Options;

use crate::commands::explain::running::{addresses_of_this_host, known, query, settings};
use crate::rules::{interface_bits, loaded, warn_of_sets};
use crate::running::{policy_of, unexpected};

/// Generations that are looked at; a shell in a shell in a terminal multiplexer has some ten.
const ANCESTORS_MAX: usize = 64;

/// A connection between this host and the operator's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Connection {
    peer: SocketAddr,
    local: SocketAddr,
}

/// Something of the operator's that passes now and would not any more.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Cut {
    pub(crate) what: What,
    connection: Connection,
    rule: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum What {
    /// The connection that there is.
    Connection,
    /// One that would be made after it.
    NextConnection,
}

impl fmt::Display for Cut {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Connection { peer, local } = self.connection;
        let what = match self.what {
            What::Connection => format!("your connection from {peer} to {local} would be cut"),
            What::NextConnection => format!(
                "your connection from {peer} to {local} would live on, but no other could be made"
            ),
        };
        write!(f, "{what}: {}", self.rule)
    }
}

/// What files of rules would cut off. Files with errors cut nothing: they are refused anyway.
pub(crate) fn cuts(client: &mut Client, files: &[RuleFile]) -> anyhow::Result<Vec<Cut>> {
    let mut cuts = Vec::new();
    for connection in own_connections() {
        let Some(way) = Way::of(connection) else {
            continue;
        };
        let sought = way.inward("ack").and_then(|packet| packet.sought());
        let flow = Request::Running {
            query: sought.map(|tuple| query(&tuple)),
            sender: None,
        };
        let Reply::Running(running) = client.ask(&flow)? else {
            return Err(unexpected());
        };
        let Some(current) = policy_of(&running.policy)? else {
            return Ok(cuts);
        };
        let Some(candidate) = candidate(&current, files) else {
            return Ok(cuts);
        };
        way.judge(&running, [&current, &candidate], &mut cuts)?;
    }
    Ok(cuts)
}

/// The rules in force after the files; `None` when they have errors.
fn candidate(current: &Policy, files: &[RuleFile]) -> Option<Policy> {
    let mut policy = current.clone();
    for file in files {
        let family = match file.family {
            RuleFamily::Detect => None,
            RuleFamily::V4 => Some(Family::V4),
            RuleFamily::V6 => Some(Family::V6),
        };
        let parsed = parse_rules(&file.text, FileKind::of(&file.text, family));
        if parsed.has_errors() {
            return None;
        }
        policy.merge(parsed);
    }
    Some(policy)
}

/// How the packets of a connection come and go.
struct Way {
    connection: Connection,
    interface: Option<String>,
}

impl Way {
    /// `None` for what does not leave the machine.
    fn of(connection: Connection) -> Option<Self> {
        let peer = connection.peer.ip();
        (!peer.is_loopback()).then(|| Self {
            connection,
            interface: interface_towards(peer),
        })
    }

    fn inward(&self, flags: &str) -> Option<Expression> {
        self.expression(self.connection.peer, self.connection.local, "in", flags)
    }

    fn outward(&self, flags: &str) -> Option<Expression> {
        self.expression(self.connection.local, self.connection.peer, "out", flags)
    }

    fn expression(
        &self,
        from: SocketAddr,
        to: SocketAddr,
        direction: &str,
        flags: &str,
    ) -> Option<Expression> {
        let interface = self.interface.as_ref();
        let interface = interface.map(|name| format!(" {direction} {name}"));
        let words = format!("tcp {from} > {to} {flags}{}", interface.unwrap_or_default());
        words.parse().ok()
    }

    fn judge(
        &self,
        running: &Running,
        policies: [&Policy; 2],
        cuts: &mut Vec<Cut>,
    ) -> anyhow::Result<()> {
        for policy in policies {
            let compiled = compile(policy)?;
            if !compiled.sets.is_empty() {
                // What is in them is not at hand here.
                warn_of_sets(&compiled);
                eprintln!("keepstate: whether the rules cut this connection was not looked at");
                return Ok(());
            }
        }
        let locals = Locals::new(addresses_of_this_host()?);
        // Without flags of its own a segment takes what fits its flow.
        let flags = if running.record.is_some() { "" } else { "ack" };
        for (expression, what) in [
            (self.inward(flags), What::Connection),
            (self.outward(flags), What::Connection),
            (self.inward("syn"), What::NextConnection),
        ] {
            let Some(expression) = expression else {
                continue;
            };
            let with_record = what == What::Connection;
            let mut verdicts = Vec::new();
            for policy in policies {
                let compiled = compile(policy)?;
                let bits = |name: &Option<String>| interface_bits(Some(&compiled), name.as_deref());
                let options = Options {
                    policy: loaded(Some(&compiled)),
                    locals: locals.clone(),
                    in_interfaces: bits(&expression.in_interface),
                    out_interfaces: bits(&expression.out_interface),
                    ..Options::default()
                };
                let circumstances = Circumstances {
                    settings: settings(running, options.settings()),
                    now: Tick(running.now),
                    flows: match with_record {
                        true => running.record.iter().map(known).collect(),
                        false => Vec::new(),
                    },
                    // What bans and limits say is the same under both.
                    senders: Vec::new(),
                };
                let names = options.policy.clone();
                let outcome = explain_under(expression.clone(), options, &circumstances).outcome;
                let rule = names.text(outcome.rule).to_owned();
                verdicts.push((outcome.verdict, rule));
            }
            // What does not pass now either is not cut by these rules.
            if let [
                (Verdict::Accept, _),
                (Verdict::Drop | Verdict::Reject, rule),
            ] = verdicts.as_slice()
            {
                let (rule, connection) = (rule.clone(), self.connection);
                cuts.push(Cut {
                    what,
                    connection,
                    rule,
                });
                return Ok(());
            }
        }
        Ok(())
    }
}

/// Connections that this process or one that it descends from works over.
fn own_connections() -> BTreeSet<Connection> {
    let mut found = BTreeSet::new();
    found.extend(
        std::env::var("SSH_CONNECTION")
            .ok()
            .and_then(|it| named(&it)),
    );
    let own_namespace = fs::read_link("/proc/self/ns/net").ok();
    let mut process = std::process::id();
    for _ in 0..ANCESTORS_MAX {
        let directory = format!("/proc/{process}");
        let directory = Path::new(&directory);
        // Taken from the environment where sudo has dropped it.
        let environment = fs::read(directory.join("environ")).unwrap_or_default();
        let ssh = environment
            .split(|byte| *byte == 0)
            .find_map(|variable| variable.strip_prefix(b"SSH_CONNECTION="));
        found.extend(ssh.and_then(|it| named(&String::from_utf8_lossy(it))));
        if fs::read_link(directory.join("ns/net")).ok() == own_namespace {
            found.extend(sockets_of(directory));
        }
        let Some(parent) = parent_of(directory) else {
            break;
        };
        process = parent;
    }
    found
}

/// `PEER PORT LOCAL PORT`, as sshd says it.
fn named(variable: &str) -> Option<Connection> {
    let words: Vec<&str> = variable.split_whitespace().collect();
    let [peer, peer_port, local, local_port] = words.as_slice() else {
        return None;
    };
    Some(Connection {
        peer: SocketAddr::new(peer.parse().ok()?, peer_port.parse().ok()?),
        local: SocketAddr::new(local.parse().ok()?, local_port.parse().ok()?),
    })
}

/// The field after the name of the program, which may have any characters, and the state.
fn parent_of(process: &Path) -> Option<u32> {
    let stat = fs::read_to_string(process.join("stat")).ok()?;
    let (_, rest) = stat.rsplit_once(')')?;
    let parent = rest.split_whitespace().nth(1)?.parse().ok()?;
    (parent > 1).then_some(parent)
}

/// The TCP connections that a process has open.
fn sockets_of(process: &Path) -> Vec<Connection> {
    let descriptors = fs::read_dir(process.join("fd"))
        .into_iter()
        .flatten()
        .flatten();
    let links = descriptors.filter_map(|entry| fs::read_link(entry.path()).ok());
    let inodes: BTreeSet<String> = links
        .filter_map(|link| {
            let link = link.to_string_lossy().into_owned();
            let inode = link.strip_prefix("socket:[")?.strip_suffix(']')?;
            Some(inode.to_owned())
        })
        .collect();
    if inodes.is_empty() {
        return Vec::new();
    }
    let tables = ["net/tcp", "net/tcp6"].map(|name| fs::read_to_string(process.join(name)));
    let lines = tables.iter().flatten().flat_map(|table| table.lines());
    lines
        .filter_map(|line| connection_of(line, &inodes))
        .collect()
}

/// A line of `/proc/net/tcp`: number, local, remote, state, six more, inode. 01 is ESTABLISHED.
fn connection_of(line: &str, inodes: &BTreeSet<String>) -> Option<Connection> {
    let words: Vec<&str> = line.split_whitespace().collect();
    let (local, peer) = (words.get(1)?, words.get(2)?);
    let is_ours = *words.get(3)? == "01" && inodes.contains(*words.get(9)?);
    is_ours.then_some(())?;
    Some(Connection {
        peer: hexadecimal(peer)?,
        local: hexadecimal(local)?,
    })
}

/// Words of 32 bits as they lie in memory, and the port.
fn hexadecimal(text: &str) -> Option<SocketAddr> {
    let (address, port) = text.split_once(':')?;
    let port = u16::from_str_radix(port, 16).ok()?;
    let words: Option<Vec<u8>> = (0..address.len() / 8)
        .map(|index| {
            let word = u32::from_str_radix(address.get(index * 8..index * 8 + 8)?, 16).ok()?;
            Some(word.to_ne_bytes())
        })
        .collect::<Option<Vec<_>>>()
        .map(|words| words.concat());
    let bytes = words?;
    let ip = match bytes.len() {
        4 => IpAddr::from(<[u8; 4]>::try_from(bytes).ok()?),
        16 => Ipv6Addr::from(<[u8; 16]>::try_from(bytes).ok()?).to_canonical(),
        _ => return None,
    };
    Some(SocketAddr::new(ip, port))
}

/// The interface that the main table sends packets to an address by.
fn interface_towards(address: IpAddr) -> Option<String> {
    match address {
        IpAddr::V4(address) => route_v4(&fs::read_to_string("/proc/net/route").ok()?, address),
        IpAddr::V6(address) => route_v6(&fs::read_to_string("/proc/net/ipv6_route").ok()?, address),
    }
}

/// `eth0 DESTINATION GATEWAY FLAGS REFCNT USE METRIC MASK ...`, numbers as they lie in memory.
fn route_v4(table: &str, address: Ipv4Addr) -> Option<String> {
    let address = u32::from_ne_bytes(address.octets());
    let routes = table.lines().skip(1).filter_map(|line| {
        let words: Vec<&str> = line.split_whitespace().collect();
        let number = |index: usize| u32::from_str_radix(words.get(index)?, 16).ok();
        let (destination, mask) = (number(1)?, number(7)?);
        let fits = address & mask == destination;
        fits.then(|| (mask.count_ones(), words[0].to_owned()))
    });
    routes
        .max_by_key(|(length, _)| *length)
        .map(|(_, name)| name)
}

/// `DESTINATION LENGTH ... INTERFACE`, ten words; length and flags are hexadecimal.
fn route_v6(table: &str, address: Ipv6Addr) -> Option<String> {
    /// RTF_UP without RTF_REJECT, and not a route of this host itself (RTF_LOCAL).
    const WRONG: u32 = 0x8000_0200;
    let routes = table.lines().filter_map(|line| {
        let words: Vec<&str> = line.split_whitespace().collect();
        let destination = u128::from_str_radix(words.first()?, 16).ok()?;
        let length = u32::from_str_radix(words.get(1)?, 16).ok()?;
        let flags = u32::from_str_radix(words.get(8)?, 16).ok()?;
        let host_bits = 128_u32.checked_sub(length)?;
        let mask = u128::MAX.checked_shl(host_bits).unwrap_or(0);
        let fits = address.to_bits() & mask == destination && flags & WRONG == 0;
        fits.then(|| (length, words.get(9).map(|name| (*name).to_owned())))
    });
    routes.max_by_key(|(length, _)| *length)?.1
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sshd_names_connections() {
        let connection = named("192.0.2.7 50022 10.0.0.1 22").unwrap();
        assert_eq!(connection.peer, "192.0.2.7:50022".parse().unwrap());
        assert_eq!(connection.local, "10.0.0.1:22".parse().unwrap());
        assert_eq!(
            named("2001:db8::7 1 2001:db8::1 22").unwrap().local.port(),
            22
        );
        for wrong in [
            "",
            "x",
            "192.0.2.7 50022 10.0.0.1",
            "192.0.2.7 x 10.0.0.1 22",
        ] {
            assert_eq!(named(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn the_kernels_tables_are_read() {
        assert_eq!(
            hexadecimal("0100007F:0016"),
            Some("127.0.0.1:22".parse().unwrap())
        );
        let mapped = "0000000000000000FFFF00000100000A:0050";
        assert_eq!(hexadecimal(mapped), Some("10.0.0.1:80".parse().unwrap()));
        let line = "   0: 0100000A:0016 0700000A:C350 01 00000000:00000000 00:00000000 00000000     0        0 4711 1";
        let inodes = BTreeSet::from(["4711".to_owned()]);
        let connection = connection_of(line, &inodes).unwrap();
        assert_eq!(connection.peer, "10.0.0.7:50000".parse().unwrap());
        assert_eq!(connection_of(line, &BTreeSet::new()), None);

        let table = "Iface\tDestination\tGateway \tFlags\tRefCnt\tUse\tMetric\tMask\n\
                     eth0\t00000000\t0100000A\t0003\t0\t0\t0\t00000000\t0\t0\t0\n\
                     eth1\t0002A8C0\t00000000\t0001\t0\t0\t0\t00FFFFFF\t0\t0\t0\n";
        let towards = |address: &str| route_v4(table, address.parse().unwrap());
        assert_eq!(towards("192.168.2.9").as_deref(), Some("eth1"));
        assert_eq!(towards("8.8.8.8").as_deref(), Some("eth0"));
    }
}
