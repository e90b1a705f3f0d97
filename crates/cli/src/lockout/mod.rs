//! Whether rules would cut the connection over which an operator gives them.
//!
//! The connections looked at are those of the processes that this one descends from (sshd, for one),
//! and the one that `SSH_CONNECTION` names; where none of them is open, those of each sshd. The next packet of each, in
//! both directions, is judged by the rules in force and by the new ones, with the record that its flow has now and with
//! what is in their sets.

mod operator;
mod sets;

use std::fmt;
use std::fs;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

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
use crate::rules::{interface_bits, loaded};
use crate::running::{policy_of, unexpected};
use operator::own_connections;
use sets::KnownSets;

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
    /// What the other end is asked for before its packets can come, with IPv6.
    Neighbours,
}

impl fmt::Display for Cut {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Connection { peer, local } = self.connection;
        let what = match self.what {
            What::Connection => format!("your connection from {peer} to {local} would be cut"),
            What::NextConnection => format!(
                "your connection from {peer} to {local} would live on, but no other could be made"
            ),
            What::Neighbours => format!(
                "your connection from {peer} to {local} would live as long as its neighbours are known: they could not \
                 find this host again (accept `-p ipv6-icmp -m conntrack --ctstate UNTRACKED')"
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
        let known = &mut KnownSets::of(client);
        way.judge(known, &running, [&current, &candidate], &mut cuts)?;
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

    /// The next packets, and what they are about.
    fn packets(&self, is_known: bool) -> Vec<(Expression, What)> {
        // Without flags of its own a segment takes what fits its flow.
        let flags = if is_known { "" } else { "ack" };
        let packets = [
            (self.inward(flags), What::Connection),
            (self.outward(flags), What::Connection),
            (self.inward("syn"), What::NextConnection),
            (self.solicitation(), What::Neighbours),
        ];
        let packets = packets.into_iter();
        packets
            .filter_map(|(packet, what)| Some((packet?, what)))
            .collect()
    }

    /// How a router, or the operator's own host, looks for this one.
    fn solicitation(&self) -> Option<Expression> {
        let IpAddr::V6(local) = self.connection.local.ip() else {
            return None;
        };
        let interface = self.interface.as_ref();
        let interface = interface.map(|name| format!(" in {name}"));
        let words = format!(
            "icmpv6 fe80::1 > {local} type 135{}",
            interface.unwrap_or_default()
        );
        words.parse().ok()
    }

    fn judge(
        &self,
        known_sets: &mut KnownSets<'_>,
        running: &Running,
        policies: [&Policy; 2],
        cuts: &mut Vec<Cut>,
    ) -> anyhow::Result<()> {
        let locals = Locals::new(addresses_of_this_host()?);
        let compiled = [compile(policies[0])?, compile(policies[1])?];
        for (expression, what) in self.packets(running.record.is_some()) {
            let ends = match expression.out_interface {
                Some(_) => [self.connection.local, self.connection.peer],
                None => [self.connection.peer, self.connection.local],
            };
            let mut verdicts = Vec::new();
            for compiled in &compiled {
                let compiled = known_sets.settle(compiled, ends)?;
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
                    flows: match what {
                        What::Connection => running.record.iter().map(known).collect(),
                        What::NextConnection | What::Neighbours => Vec::new(),
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
    fn routes_are_read() {
        let table = "Iface\tDestination\tGateway \tFlags\tRefCnt\tUse\tMetric\tMask\n\
                     eth0\t00000000\t0100000A\t0003\t0\t0\t0\t00000000\t0\t0\t0\n\
                     eth1\t0002A8C0\t00000000\t0001\t0\t0\t0\t00FFFFFF\t0\t0\t0\n";
        let towards = |address: &str| route_v4(table, address.parse().unwrap());
        assert_eq!(towards("192.168.2.9").as_deref(), Some("eth1"));
        assert_eq!(towards("8.8.8.8").as_deref(), Some("eth0"));
    }
}
