//! Matches on the flow of a packet, on connections written out by hand.

#[path = "support/loaded.rs"]
mod loaded;

use std::net::IpAddr;

use keepstate_engine::process::{Arrival, Checksums, Path};
use keepstate_engine::settings::{SETTING_ACCOUNTING, Settings};
use keepstate_engine::time::Tick;
use keepstate_engine::tuple::Family;
use keepstate_engine::verdict::{Hook, State};
use keepstate_engine::wire::Link;
use keepstate_flowmemory::{Accounting, OwnedTable, buckets_for};
use keepstate_policy::{FileKind, Policy, compile, parse_rules};
use keepstate_sim::build::{ACK, Body, Packet, SYN, Tcp};
use keepstate_sim::plane::Plane;
use loaded::loaded;

const FLOWS_MAX: u32 = 64;

/// What Linux's xt_conntrack and xt_connbytes match of SYN, SYN-ACK, ACK and a SYN-ACK that belongs
/// to nothing: how many packets of the four.
const CASES: &[(&str, u64)] = &[
    ("-m conntrack --ctproto 6", 3),
    ("-m conntrack ! --ctproto 17", 3),
    ("-m conntrack --ctproto 17", 0),
    ("-m conntrack --ctdir ORIGINAL", 2),
    ("-m conntrack --ctdir REPLY", 1),
    ("-m conntrack --ctorigsrc CLIENT", 3),
    ("-m conntrack ! --ctorigsrc CLIENT", 0),
    ("-m conntrack --ctorigdst SERVER", 3),
    ("-m conntrack --ctreplsrc SERVER", 3),
    ("-m conntrack --ctrepldst NETWORK", 3),
    ("-m conntrack ! --ctrepldst NETWORK", 0),
    ("-m conntrack --ctorigsrcport 4000", 3),
    ("-m conntrack --ctorigdstport 79:81", 3),
    ("-m conntrack --ctreplsrcport 80", 3),
    ("-m conntrack ! --ctrepldstport 4000", 0),
    ("-m conntrack --ctstate NEW --ctproto 6", 1),
    ("-m conntrack --ctstate ESTABLISHED ! --ctorigdstport 80", 0),
    ("-m conntrack --ctstate INVALID --ctproto 17", 1),
    ("-m conntrack --ctstate INVALID ! --ctproto 17", 1),
    ("-m conntrack --ctstatus CONFIRMED", 2),
    ("-m conntrack ! --ctstatus CONFIRMED", 1),
    ("-m conntrack --ctstatus SEEN_REPLY", 2),
    ("-m conntrack --ctstatus ASSURED", 1),
    ("-m conntrack --ctstatus NONE", 0),
    ("-m conntrack ! --ctstatus NONE", 3),
    ("-m conntrack --ctexpire 60", 1),
    ("-m conntrack --ctexpire 100:", 1),
    ("-m conntrack --ctexpire 0", 1),
    ("-m connmark --mark 0", 3),
    ("-m connmark ! --mark 0", 0),
    ("-m helper --helper ftp", 0),
    (
        "-m connbytes --connbytes 1 --connbytes-dir both --connbytes-mode packets",
        3,
    ),
    (
        "-m connbytes --connbytes 2 --connbytes-dir both --connbytes-mode packets",
        2,
    ),
    (
        "-m connbytes ! --connbytes 2 --connbytes-dir original --connbytes-mode packets",
        2,
    ),
    (
        "-m connbytes --connbytes 1 --connbytes-dir reply --connbytes-mode bytes",
        2,
    ),
    (
        "-m connbytes --connbytes 40:70 --connbytes-dir both --connbytes-mode avgpkt",
        3,
    ),
];

#[test]
fn flows_are_matched_as_linux_matches_them() {
    for (family, client, server, network) in [
        (Family::V4, "10.0.0.2", "10.9.0.1", "10.0.0.0/16"),
        (Family::V6, "2001:db8::2", "2001:db9::1", "2001:db8::/31"),
    ] {
        // Whichever end stands first in a flow's key.
        for (client, server) in [(client, server), (server, client)] {
            let network = if client.ends_with('2') {
                network
            } else {
                client
            };
            let cases = CASES.iter().map(|(text, count)| {
                let text = text.replace("CLIENT", client).replace("SERVER", server);
                (text.replace("NETWORK", network), *count)
            });
            judge(family, client, server, &cases.collect::<Vec<_>>());
        }
    }
}

fn judge(family: Family, client: &str, server: &str, cases: &[(String, u64)]) {
    let rules = cases.iter().map(|(text, _)| format!("-A FORWARD {text}\n"));
    let rules: String = rules.collect();
    let text = format!("*filter\n:FORWARD ACCEPT [0:0]\n{rules}COMMIT\n");
    let parsed = parse_rules(&text, FileKind::Save(family));
    assert!(!parsed.has_errors(), "{:?}", parsed.diagnostics);
    let mut policy = Policy::default();
    policy.merge(parsed);
    let compiled = compile(&policy).expect("the rules compile");
    let loaded = loaded(&compiled);
    let buckets = buckets_for(FLOWS_MAX);
    let mut settings = Settings::defaults(FLOWS_MAX, [buckets, buckets]);
    settings.flags |= SETTING_ACCOUNTING;
    let memory = OwnedTable::new(settings.buckets, Accounting::Yes)
        .with_conditions(compiled.conditions.len())
        .with_meters();
    let plane = Plane::new(memory.as_slices(), settings, loaded, ());
    let segments = [
        (client, server, 4000, 80, SYN, State::New),
        (server, client, 80, 4000, SYN | ACK, State::Established),
        (client, server, 4000, 80, ACK, State::Established),
        (server, client, 81, 4000, SYN | ACK, State::Invalid),
    ];
    for (from, to, source_port, destination_port, flags, state) in segments {
        let address = |text: &str| -> IpAddr { text.parse().expect("an address") };
        let is_reply = flags & ACK != 0 && flags & SYN != 0;
        let body = Body::Tcp(Tcp {
            source_port,
            destination_port,
            sequence: if is_reply {
                500
            } else {
                100 + u32::from(flags & ACK != 0)
            },
            acknowledgement: if is_reply {
                101
            } else {
                501 * u32::from(flags & ACK != 0)
            },
            flags,
            window: 65_535,
            ..Tcp::default()
        });
        let arrival = Arrival {
            link: match family {
                Family::V4 => Link::Ipv4,
                Family::V6 => Link::Ipv6,
            },
            path: Path::Ingress,
            checksums: Checksums::Trusted,
            zone: 0,
            interfaces: 0,
        };
        let packet = Packet::new(address(from), address(to), body);
        let outcome = plane.judge(&packet.ip(), &arrival, Tick(1_000));
        assert_eq!(outcome.state, state);
    }
    compiled.store_counters(&mut policy, |index| {
        let counted = plane.rule_counter(index);
        keepstate_policy::model::Counters {
            packets: counted.packets,
            bytes: counted.bytes,
        }
    });
    let rules = &policy.ruleset(family).filter.builtin(Hook::Forward).rules;
    for ((text, count), rule) in cases.iter().zip(rules) {
        assert_eq!(rule.counters.packets, *count, "{text}");
    }
}
