//! Explaining against the policy, the settings and the flows of a running daemon.

use std::fs;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use anyhow::{Context, bail};
use keepstate_api::{Client, Query, Reply, Request, Running, SenderEntry, engine_address};
use keepstate_engine::ban::{Entry, Kind, Network};
use keepstate_engine::rate::Rate;
use keepstate_engine::refusal::Form;
use keepstate_engine::settings::{COOKIES_ALWAYS, SETTING_COOKIES, Settings};
use keepstate_engine::time::Tick;
use keepstate_engine::tuple::Tuple;
use keepstate_listing::address;
use keepstate_policy::{Compiled, compile};
use keepstate_sim::explain::{Circumstances, Explanation, KnownFlow, explain_under};
use keepstate_sim::expression::Expression;
use keepstate_sim::locals::{LocalAddress, Locals};

use crate::rules::warn_of_sets;
use crate::running::{policy_of, unexpected};
use crate::simulation::SimulationArguments;

/// Judges a packet as the daemon's programs would.
pub(crate) fn explain(
    client: &mut Client,
    expression: Expression,
    arguments: &SimulationArguments,
) -> anyhow::Result<Explanation> {
    let query = expression.sought().map(|tuple| query(&tuple));
    let sender = Some(expression.packet.source);
    let Reply::Running(running) = client.ask(&Request::Running { query, sender })? else {
        return Err(unexpected());
    };
    let compiled = compiled(&running)?;
    let mut options = arguments.options_under(
        Some(&compiled),
        expression.in_interface.as_deref(),
        expression.out_interface.as_deref(),
    );
    if !arguments.names_locals() {
        options.locals = Locals::new(addresses_of_this_host()?);
    }
    let circumstances = Circumstances {
        settings: settings(&running, options.settings()),
        now: Tick(running.now),
        flows: running.record.iter().map(known).collect(),
        senders: running.senders.iter().map(sender_of).collect(),
    };
    Ok(explain_under(expression, options, &circumstances))
}

fn sender_of(entry: &SenderEntry) -> Entry {
    let (family, address) = engine_address(entry.network.address());
    Entry {
        network: Network {
            family,
            address,
            length: entry.network.length(),
        },
        kind: match entry.kind {
            0 => Kind::Ban,
            1 => Kind::Exempt,
            _ => Kind::Spared,
        },
        rate: entry.limit.map(Rate::per_second),
        deadline: None,
        began: Tick(0),
        cause: 0,
    }
}

pub(crate) fn query(tuple: &Tuple) -> Query {
    Query {
        source: address(tuple.family, &tuple.source),
        destination: address(tuple.family, &tuple.destination),
        protocol: tuple.protocol,
        source_port: tuple.source_port,
        destination_port: tuple.destination_port,
        zone: tuple.zone,
    }
}

pub(crate) fn compiled(running: &Running) -> anyhow::Result<Compiled> {
    match policy_of(&running.policy)? {
        Some(policy) => {
            let compiled = compile(&policy)?;
            warn_of_sets(&compiled);
            Ok(compiled)
        }
        None => bail!("the text of the rules in force is not known: give them with --rules"),
    }
}

/// The daemon's settings, with the table sizes of a simulation.
pub(crate) fn settings(running: &Running, sizes: Settings) -> Settings {
    let mut settings = Settings {
        flags: running.flags,
        tcp_max_retrans: running.tcp_max_retrans,
        ..sizes
    };
    for (to, from) in settings.timeouts.iter_mut().zip(&running.timeouts) {
        *to = *from;
    }
    for (to, from) in settings.forms.iter_mut().zip(&running.forms) {
        *to = Form::of_words(*from);
    }
    match running.cookies {
        None => settings.flags &= !SETTING_COOKIES,
        Some([options, scale, window]) => {
            settings.cookies.mode = COOKIES_ALWAYS;
            (settings.cookies.options, settings.cookies.scale) = (options, scale);
            settings.cookies.window = window;
        }
    }
    settings
}

pub(crate) fn known(record: &keepstate_api::RawRecord) -> KnownFlow {
    let (key, record, warm) = record.parts();
    KnownFlow { key, record, warm }
}

/// What the routing table calls local, broadcast addresses included.
pub(crate) fn addresses_of_this_host() -> anyhow::Result<Vec<LocalAddress>> {
    let mut addresses = local_v4(&read("/proc/net/fib_trie")?);
    // Not there where IPv6 is switched off.
    if let Ok(text) = fs::read_to_string("/proc/net/if_inet6") {
        addresses.extend(local_v6(&text));
    }
    Ok(addresses)
}

fn read(path: &str) -> anyhow::Result<String> {
    fs::read_to_string(path).context(path.to_owned())
}

/// `|-- 10.0.0.1`, and on the next line `/32 host LOCAL` or `/32 link BROADCAST`.
fn local_v4(trie: &str) -> Vec<LocalAddress> {
    let mut addresses: Vec<LocalAddress> = Vec::new();
    let mut leaf: Option<Ipv4Addr> = None;
    for line in trie.lines() {
        let line = line.trim();
        if let Some(address) = line.strip_prefix("|-- ") {
            leaf = address.parse().ok();
        } else if (line.ends_with("LOCAL") || line.ends_with("BROADCAST"))
            && line.starts_with("/32 ")
            && let Some(address) = leaf
            && !addresses
                .iter()
                .any(|known| known.address == IpAddr::V4(address))
        {
            addresses.push(address.into());
        }
    }
    addresses
}

/// Lines that begin with an address of 32 hexadecimal digits.
fn local_v6(interfaces: &str) -> Vec<LocalAddress> {
    let words = interfaces
        .lines()
        .filter_map(|line| line.split_whitespace().next());
    words
        .filter_map(|digits| u128::from_str_radix(digits, 16).ok())
        .map(|bits| Ipv6Addr::from_bits(bits).into())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_the_routing_table() {
        let trie = "Local:\n  +-- 0.0.0.0/0 2 0 2\n     +-- 10.0.0.0/24 2 0 2\n        \
                    +-- 10.0.0.0/30 2 0 2\n           |-- 10.0.0.0\n              \
                    /24 link UNICAST\n           |-- 10.0.0.1\n              /32 host LOCAL\n        \
                    |-- 10.0.0.255\n           /32 link BROADCAST\n";
        let addresses = local_v4(trie);
        let expected: [LocalAddress; 2] = [
            Ipv4Addr::new(10, 0, 0, 1).into(),
            Ipv4Addr::new(10, 0, 0, 255).into(),
        ];
        assert_eq!(addresses, expected);
        let interfaces = "00000000000000000000000000000001 01 80 10 80       lo\n";
        assert_eq!(local_v6(interfaces), [Ipv6Addr::LOCALHOST.into()]);
    }
}
