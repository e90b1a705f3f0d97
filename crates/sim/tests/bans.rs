//! Bans: the table beside a plain list, and what becomes of packets.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr};

use keepstate_engine::ban::{self, Entry, Kind, Network, Put, Sender};
use keepstate_engine::limits::BAN_LENGTHS_MAX;
use keepstate_engine::process::{Arrival, Checksums, Path};
use keepstate_engine::settings::{SETTING_BANS, Settings};
use keepstate_engine::time::Tick;
use keepstate_engine::tuple::Family;
use keepstate_engine::verdict::{Reason, Verdict};
use keepstate_engine::wire::Link;
use keepstate_flowmemory::{Accounting, OwnedTable, ban_buckets_for, bans_for};
use keepstate_sim::build::{Body, Packet, Udp};
use keepstate_sim::plane::{LoadedPolicy, Plane};
use keepstate_sim::traffic::Random;

const NOW: Tick = Tick(5_000);

fn settings(buckets: u32) -> Settings {
    let mut settings = Settings::defaults(64, [16; 2]);
    settings.bans.buckets = buckets;
    let mut random = Random::new(9);
    settings.hash_keys = [0; 12].map(|_| random.number() as u32);
    settings
}

fn set_lengths(settings: &mut Settings, kind: Kind, family: Family, lengths: &[u8]) {
    let list = &mut settings.bans.lengths[ban::list(kind, family)];
    *list = [0; BAN_LENGTHS_MAX as usize];
    list[..lengths.len()].copy_from_slice(lengths);
}

fn network(family: Family, address: [u32; 4], length: u8) -> Network {
    let words = if family == Family::V4 { 1 } else { 4 };
    let mut bits = u32::from(length);
    let mut masked = [0; 4];
    for (to, word) in masked.iter_mut().zip(address).take(words) {
        let own = bits.min(32);
        bits -= own;
        *to = if own == 0 {
            0
        } else {
            word & (u32::MAX << (32 - own))
        };
    }
    Network {
        family,
        address: masked,
        length,
    }
}

fn entry(network: Network, kind: Kind, deadline: Option<Tick>) -> Entry {
    Entry {
        network,
        kind,
        rate: None,
        deadline,
        began: NOW,
        cause: 7,
    }
}

/// As many as a table is for, all of which must find a place, be found, and go.
#[test]
fn a_table_takes_as_many_as_it_is_for() {
    const BANS: u32 = 1 << 18;
    let buckets = ban_buckets_for(BANS);
    assert!(bans_for(buckets) >= BANS);
    let table = OwnedTable::new([16; 2], Accounting::No).with_bans(buckets);
    let (flows, settings) = (table.as_slices(), settings(buckets));
    let networks = || {
        (0..BANS).map(|number| match number % 3 {
            0 => network(Family::V4, [number << 8, 0, 0, 0], 24),
            1 => network(Family::V4, [0x0a00_0000 + number, 0, 0, 0], 32),
            _ => network(Family::V6, [0x2001_0db8, number, 0, 0], 64),
        })
    };
    for network in networks() {
        let put = ban::put(&flows, &settings, &entry(network, Kind::Ban, None));
        assert_eq!(put, Put::New, "{network:?}");
    }
    let mut seen = 0;
    ban::visit(&flows, 0..buckets, |entry| {
        assert_eq!(
            (entry.kind, entry.cause, entry.deadline),
            (Kind::Ban, 7, None)
        );
        seen += 1;
    });
    assert_eq!(seen, BANS);
    for network in networks() {
        assert!(
            ban::remove(&flows, &settings, &network, Kind::Ban),
            "{network:?}"
        );
        assert!(
            !ban::remove(&flows, &settings, &network, Kind::Ban),
            "{network:?}"
        );
    }
}

/// A small table, which is full now and then, beside a map.
#[test]
fn a_table_says_what_a_plain_list_says() {
    const ROUNDS: u32 = 60_000;
    const BUCKETS: u32 = 12;
    let table = OwnedTable::new([16; 2], Accounting::No).with_bans(BUCKETS);
    let flows = table.as_slices();
    let mut settings = settings(BUCKETS);
    let lengths = [32, 24, 31, 8];
    let lengths6 = [64, 128, 48, 127];
    for kind in [Kind::Ban, Kind::Exempt] {
        set_lengths(&mut settings, kind, Family::V4, &lengths);
        set_lengths(&mut settings, kind, Family::V6, &lengths6);
    }
    let mut random = Random::new(3);
    let mut model: HashMap<(u8, [u32; 4], u8, u8), Option<Tick>> = HashMap::new();
    let (mut full, mut banned, mut exempt) = (0, 0, 0);
    for round in 0..ROUNDS {
        let now = Tick(NOW.0 + round / 64);
        let family = if random.below(2) == 0 {
            Family::V4
        } else {
            Family::V6
        };
        let address = match family {
            Family::V4 => [
                0x0a00_0000 | (random.below(2) as u32 * 0x100) | random.below(6) as u32,
                0,
                0,
                0,
            ],
            Family::V6 => [
                0x2001_0db8,
                random.below(2) as u32,
                random.below(2) as u32,
                random.below(6) as u32,
            ],
        };
        let length = match family {
            Family::V4 => lengths[random.below(4) as usize],
            Family::V6 => lengths6[random.below(4) as usize],
        };
        let kind = if random.below(4) == 0 {
            Kind::Exempt
        } else {
            Kind::Ban
        };
        let net = network(family, address, length);
        let name = (family as u8, net.address, length, kind as u8);
        match random.below(8) {
            0 | 1 => {
                let deadline =
                    (random.below(3) != 0).then(|| Tick(now.0 + random.below(20) as u32));
                match ban::put(&flows, &settings, &entry(net, kind, deadline)) {
                    Put::New => assert_eq!(model.insert(name, deadline), None),
                    Put::Changed => assert!(model.insert(name, deadline).is_some()),
                    Put::Outranked => panic!("nothing is limited here"),
                    Put::Full => {
                        assert!(!model.contains_key(&name));
                        full += 1;
                    }
                }
            }
            2 => {
                let removed = ban::remove(&flows, &settings, &net, kind);
                assert_eq!(removed, model.remove(&name).is_some());
            }
            _ => {
                let holds = |kind: Kind| {
                    let lengths = if family == Family::V4 {
                        lengths
                    } else {
                        lengths6
                    };
                    lengths.into_iter().any(|length| {
                        let net = network(family, address, length);
                        let found = model.get(&(family as u8, net.address, length, kind as u8));
                        found.is_some_and(|deadline| deadline.is_none_or(|at| !at.has_passed(now)))
                    })
                };
                let expected = holds(Kind::Ban) && !holds(Kind::Exempt);
                let mut sender = Sender::new(family, address, now);
                assert_eq!(ban::is_banned(&flows, &settings, &mut sender), expected);
                banned += u32::from(expected);
                exempt += u32::from(holds(Kind::Ban) && holds(Kind::Exempt));
            }
        }
    }
    println!("{full} times full, {banned} banned, {exempt} exempt");
    assert!(banned > 1_000 && exempt > 1_000);
}

#[test]
fn packets_of_the_banned_go_nowhere() {
    let table = OwnedTable::new([16; 2], Accounting::No).with_bans(16);
    let mut settings = settings(16);
    set_lengths(&mut settings, Kind::Ban, Family::V4, &[24]);
    set_lengths(&mut settings, Kind::Exempt, Family::V4, &[32]);
    let flows = table.as_slices();
    let net = network(Family::V4, [0xc000_0200, 0, 0, 0], 24);
    let until = NOW.after_seconds(10);
    ban::put(&flows, &settings, &entry(net, Kind::Ban, Some(until)));
    let one = network(Family::V4, [0xc000_0207, 0, 0, 0], 32);
    ban::put(&flows, &settings, &entry(one, Kind::Exempt, None));
    let mut plane = Plane::new(flows, settings, LoadedPolicy::NONE, ());
    let judge = |plane: &Plane<_>, last: u8, path: Path, now: Tick| {
        let source = IpAddr::V4(Ipv4Addr::new(192, 0, 2, last));
        let body = Body::Udp(Udp {
            source_port: 1,
            destination_port: 2,
            ..Udp::default()
        });
        let packet = Packet::new(source, IpAddr::V4(Ipv4Addr::new(10, 0, 0, 1)), body).ip();
        let arrival = Arrival {
            link: Link::Ipv4,
            path,
            checksums: Checksums::Unverified,
            zone: 0,
            interfaces: 0,
        };
        plane.judge(&packet, &arrival, now)
    };
    // The flag alone decides whether anybody looks.
    assert_eq!(
        judge(&plane, 9, Path::Ingress, NOW).verdict,
        Verdict::Accept
    );
    plane.settings.flags |= SETTING_BANS;
    // A flow that is there already does not help.
    let refused = judge(&plane, 9, Path::Ingress, NOW);
    assert_eq!(
        (refused.verdict, refused.reason),
        (Verdict::Drop, Some(Reason::Banned))
    );
    assert_eq!(
        judge(&plane, 7, Path::Ingress, NOW).verdict,
        Verdict::Accept
    );
    assert_eq!(judge(&plane, 9, Path::Local, NOW).verdict, Verdict::Accept);
    assert_eq!(
        judge(&plane, 9, Path::Ingress, until).verdict,
        Verdict::Accept
    );
}
