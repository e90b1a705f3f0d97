//! Routes of the host, as programs look them up for `-m rpfilter`.
//!
//! They are those of the tables local and main, without those for one type of service or for some senders. Where rules of
//! policy routing (`ip rule`) name other tables, an answer may go by any of them: what the rules ask for is not looked at.

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use aya::maps::MapData;
use aya::maps::lpm_trie::{Key, LpmTrie};
use keepstate_engine::condition::kind;
use keepstate_engine::host::Way;
use keepstate_engine::policy::Condition;
use keepstate_engine::tuple::Family;
use keepstate_plane::{LOCAL_KEY_BITS, ROUTES_MAX, local_key};

use crate::attach::AttachError;
use crate::kernel::KernelError;
use crate::mapped::Raw;
use crate::netlink::{Netlink, find, number, short};
use crate::server::PlaneError;

const RTA_DST: u16 = 1;
const RTA_OIF: u16 = 4;
const RTA_PRIORITY: u16 = 6;
const RTA_MULTIPATH: u16 = 9;
const RTA_TABLE: u16 = 15;

const ROUTE_HEADER_BYTES: usize = 12;
const NEXT_HOP_BYTES: usize = 8;
const AF_INET6: u8 = 10;
/// FR_ACT_TO_TBL of `struct fib_rule_hdr`, whose bytes are those of `struct rtmsg`.
const RULE_TO_TABLE: u8 = 1;
const TABLE_DEFAULT: u32 = 253;
const TABLE_MAIN: u32 = 254;
const TABLE_LOCAL: u32 = 255;
const HOP_DEAD: u32 = 1;
const ROUTE_CLONED: u32 = 0x200;

/// Bits and bytes of a key.
type Network = (u32, [u32; 5]);

/// What the map holds.
pub(crate) type Ways = BTreeMap<Network, Way>;

/// The map of the programs.
pub struct Routes {
    map: LpmTrie<MapData, [u32; 5], Raw<Way>>,
    /// What it holds; `None` where a daemon before this one wrote it.
    known: Option<Ways>,
    /// Whether a policy asks for routes.
    is_wanted: bool,
    is_told: bool,
    /// There were too many, which takes long to see: they are not looked at again before this moment.
    pause: Option<Instant>,
}

/// Between two looks at more routes than there is room for.
const PAUSE: Duration = Duration::from_secs(60);

impl Routes {
    pub(crate) const fn new(map: LpmTrie<MapData, [u32; 5], Raw<Way>>) -> Self {
        Self {
            map,
            known: None,
            is_wanted: false,
            is_told: false,
            pause: None,
        }
    }

    /// From now on routes are followed if one of these conditions asks for them.
    pub(crate) fn want<'a>(
        &mut self,
        mut conditions: impl Iterator<Item = &'a Condition>,
    ) -> Result<(), PlaneError> {
        self.is_wanted = conditions.any(|condition| condition.kind == kind::WAY_BACK);
        self.follow()
    }

    /// Writes the routes that there are now.
    pub(crate) fn follow(&mut self) -> Result<(), PlaneError> {
        if !self.is_wanted || self.pause.is_some_and(|end| Instant::now() < end) {
            return Ok(());
        }
        let ways = Netlink::open().and_then(|netlink| {
            let mut reading = Reading::default();
            netlink.show_rules(|body| {
                let _ = reading.take_rule(body);
            })?;
            netlink.show_routes(|body| {
                let _ = reading.take(body);
            })?;
            Ok(reading)
        });
        let mut reading = ways.map_err(AttachError::Netlink)?;
        let ways = reading.united();
        let Reading { count, hops, .. } = reading;
        let is_lost = count > ROUTES_MAX as usize;
        if (is_lost || hops > 0) && !self.is_told {
            self.is_told = true;
            let what = match is_lost {
                true => format!(
                    "more than {ROUTES_MAX} routes: `-m rpfilter' knows none of them, and lets every sender pass"
                ),
                false => format!(
                    "{hops} routes lead to more than {} interfaces: `-m rpfilter' knows the first ones",
                    keepstate_engine::limits::WAY_INTERFACES_MAX
                ),
            };
            crate::complain!("keepstate: {what}");
        }
        self.is_told &= is_lost || hops > 0;
        self.pause = is_lost.then(|| Instant::now() + PAUSE);
        Ok(self.put(if is_lost { unknown() } else { ways })?)
    }

    /// Makes the map hold this.
    pub(crate) fn put(&mut self, ways: Ways) -> Result<(), KernelError> {
        let known = match self.known.take() {
            Some(known) => known,
            None => self.read(),
        };
        // What is new comes first, so that no address is without a way in between; unless there is no room for both.
        let gone = known.keys().filter(|network| !ways.contains_key(network));
        let gone: Vec<Network> = gone.copied().collect();
        let fits = ways.len() + gone.len() <= ROUTES_MAX as usize;
        if !fits {
            self.remove(&gone)?;
        }
        for ((bits, data), way) in &ways {
            if known.get(&(*bits, *data)) != Some(way) {
                self.map.insert(&Key::new(*bits, *data), Raw(*way), 0)?;
            }
        }
        if fits {
            self.remove(&gone)?;
        }
        self.known = Some(ways);
        Ok(())
    }

    fn remove(&mut self, networks: &[Network]) -> Result<(), KernelError> {
        for (bits, data) in networks {
            self.map.remove(&Key::new(*bits, *data))?;
        }
        Ok(())
    }

    fn read(&self) -> Ways {
        let entries = self.map.iter().flatten();
        entries
            .map(|(key, Raw(way))| ((key.prefix_len(), key.data()), way))
            .collect()
    }
}

/// One entry for all addresses of each family.
fn unknown() -> Ways {
    let families = [Family::V4, Family::V6].into_iter();
    families
        .map(|family| {
            let key = (LOCAL_KEY_BITS, local_key(family, &[0; 4]));
            (key, Way::OF_NO_TABLE)
        })
        .collect()
}

/// Routes as they are read.
#[derive(Default)]
struct Reading {
    /// Families and tables that rules of policy routing name, beside the usual ones.
    named: BTreeSet<(u8, u32)>,
    /// Local and main, which are one.
    usual: Routing,
    others: BTreeMap<u32, Routing>,
    count: usize,
    /// Routes that lead to more interfaces than are kept.
    hops: usize,
}

/// What packets are routed by.
#[derive(Default)]
struct Routing {
    ways: Ways,
    /// Of the best route to each network: its table and metric.
    best: BTreeMap<Network, (u32, u32)>,
}

impl Reading {
    /// Takes a rule of policy routing; `None` if it names no table of its own.
    fn take_rule(&mut self, body: &[u8]) -> Option<()> {
        let header = body.get(..ROUTE_HEADER_BYTES)?;
        let table = find(body.get(ROUTE_HEADER_BYTES..)?, RTA_TABLE);
        let table = table.and_then(|value| number(value, 0));
        let table = table.unwrap_or(u32::from(header[4]));
        let is_usual = matches!(table, 0 | TABLE_DEFAULT | TABLE_MAIN | TABLE_LOCAL);
        if header[7] == RULE_TO_TABLE && !is_usual {
            self.named.insert((header[0], table));
        }
        Some(())
    }

    /// Every network of some table, with the interfaces that any table has for it.
    fn united(&mut self) -> Ways {
        let usual = std::mem::take(&mut self.usual.ways);
        let networks = self.others.values().flat_map(|routing| routing.ways.keys());
        let networks: BTreeSet<Network> = networks.chain(usual.keys()).copied().collect();
        if networks.len() == usual.len() && self.others.is_empty() {
            return usual;
        }
        let united = networks.into_iter().map(|network| {
            let own = most_specific(&usual, network).copied();
            let is_local = own.is_some_and(|way| way.kind == Way::LOCAL);
            let mut way = own.unwrap_or(Way {
                kind: 0,
                interfaces: [0; _],
            });
            let others = self.others.values().filter(|_| !is_local);
            let others = others.filter_map(|routing| most_specific(&routing.ways, network));
            // A table may call everybody local, for a proxy.
            for other in others.filter(|other| other.kind == Way::ROUTE) {
                way.kind = Way::ROUTE;
                let interfaces = other.interfaces.iter().filter(|interface| **interface != 0);
                self.hops += interfaces
                    .filter(|interface| !add(&mut way, **interface))
                    .count();
            }
            (network, way)
        });
        united.collect()
    }

    /// Takes one; `None` if it is none for everybody.
    fn take(&mut self, body: &[u8]) -> Option<()> {
        let header = body.get(..ROUTE_HEADER_BYTES)?;
        let attributes = body.get(ROUTE_HEADER_BYTES..)?;
        let (family, bits, source_bits, service) = (header[0], header[1], header[2], header[3]);
        let flags = number(header, 8)?;
        let word = |kind| find(attributes, kind).and_then(|value| number(value, 0));
        let table = word(RTA_TABLE).unwrap_or(u32::from(header[4]));
        let is_usual = matches!(table, TABLE_MAIN | TABLE_LOCAL);
        if !(is_usual || self.named.contains(&(family, table)))
            || source_bits != 0
            || service != 0
            || flags & ROUTE_CLONED != 0
        {
            return None;
        }
        let family = match family {
            AF_INET6 => Family::V6,
            _ => Family::V4,
        };
        let kind = match (header[7], family) {
            // RTN_UNICAST; IPv6 sends to groups as to anybody else.
            (1, _) | (5, Family::V6) => Way::ROUTE,
            (2, _) => Way::LOCAL,
            _ => 0,
        };
        let mut interfaces = Vec::new();
        match find(attributes, RTA_MULTIPATH) {
            Some(hops) => interfaces.extend(next_hops(hops)),
            None if flags & HOP_DEAD == 0 => interfaces.extend(word(RTA_OIF)),
            None => {}
        }
        if interfaces.is_empty() && kind == Way::ROUTE {
            return None;
        }
        self.count += 1;
        if self.count > ROUTES_MAX as usize {
            return None;
        }
        let network = (LOCAL_KEY_BITS + u32::from(bits), key(family, attributes)?);
        let routing = match is_usual {
            true => &mut self.usual,
            false => self.others.entry(table).or_default(),
        };
        let rank = (
            TABLE_LOCAL.wrapping_sub(table),
            word(RTA_PRIORITY).unwrap_or(0),
        );
        self.hops += usize::from(!routing.enter(network, rank, kind, &interfaces));
        Some(())
    }
}

impl Routing {
    /// The best one counts; of IPv6, where the interface is asked for with the address, all of a table. Whether there was
    /// room for its interfaces.
    fn enter(&mut self, network: Network, rank: (u32, u32), kind: u32, interfaces: &[u32]) -> bool {
        let (_, [family, ..]) = network;
        let is_v6 = family == (Family::V6 as u32).to_be();
        let fresh = Way {
            kind,
            interfaces: [0; _],
        };
        match self.best.entry(network) {
            Entry::Vacant(place) => {
                place.insert(rank);
                self.ways.insert(network, fresh);
            }
            Entry::Occupied(mut place) => {
                let (table, metric) = *place.get();
                let adds = is_v6 && rank.0 == table;
                if !adds && rank >= (table, metric) {
                    return true;
                }
                if !adds {
                    place.insert(rank);
                    self.ways.insert(network, fresh);
                }
            }
        }
        let way = self.ways.get_mut(&network);
        way.is_none_or(|way| interfaces.iter().all(|interface| add(way, *interface)))
    }
}

/// Whether there was room for one more interface.
fn add(way: &mut Way, interface: u32) -> bool {
    if way.interfaces.contains(&interface) {
        return true;
    }
    let place = way.interfaces.iter_mut().find(|place| **place == 0);
    place.map(|place| *place = interface).is_some()
}

/// What a table says of a network's addresses.
fn most_specific(ways: &Ways, (bits, key): Network) -> Option<&Way> {
    (LOCAL_KEY_BITS..=bits).rev().find_map(|bits| {
        let mut masked = key;
        for (index, word) in (0..).zip(&mut masked) {
            let known = bits.saturating_sub(index * 32).min(32);
            let mask = u32::MAX.checked_shl(32 - known).unwrap_or(0);
            *word &= mask.to_be();
        }
        ways.get(&(bits, masked))
    })
}

/// Interfaces of `struct rtnexthop`s that are alive.
fn next_hops(mut bytes: &[u8]) -> Vec<u32> {
    let mut interfaces = Vec::new();
    while let Some(length) = short(bytes, 0).map(usize::from) {
        let flags = bytes.get(2).copied().unwrap_or(0);
        if let Some(interface) = number(bytes, 4)
            && u32::from(flags) & HOP_DEAD == 0
        {
            interfaces.push(interface);
        }
        let next = length.next_multiple_of(4).max(NEXT_HOP_BYTES);
        bytes = bytes.get(next..).unwrap_or_default();
    }
    interfaces
}

fn key(family: Family, attributes: &[u8]) -> Option<[u32; 5]> {
    let mut address = [0; 4];
    if let Some(bytes) = find(attributes, RTA_DST) {
        for (place, word) in address.iter_mut().zip(bytes.chunks_exact(4)) {
            *place = u32::from_be_bytes(word.try_into().ok()?);
        }
    }
    Some(local_key(family, &address))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A route as the kernel tells of it.
    fn route(header: [u8; 12], attributes: &[(u16, &[u8])]) -> Vec<u8> {
        let mut body = header.to_vec();
        for (kind, value) in attributes {
            body.extend((value.len() as u16 + 4).to_ne_bytes());
            body.extend(kind.to_ne_bytes());
            body.extend(*value);
        }
        body
    }

    fn header(family: u8, bits: u8, table: u8, kind: u8) -> [u8; 12] {
        [family, bits, 0, 0, table, 0, 0, kind, 0, 0, 0, 0]
    }

    #[test]
    fn the_best_route_to_a_network_counts() {
        let word = |number: u32| number.to_ne_bytes();
        let hops: Vec<u8> = [(3u32, 0u8), (4, 1), (5, 0)]
            .into_iter()
            .flat_map(|(interface, flags)| {
                [&[8, 0, flags, 0][..], &interface.to_ne_bytes()].concat()
            })
            .collect();
        let mut reading = Reading::default();
        let net: &[u8] = &[10, 0, 0, 0];
        let main = |kind| header(2, 8, 254, kind);
        let routes = [
            route(main(1), &[(1, net), (4, &word(7)), (6, &word(20))]),
            route(main(1), &[(1, net), (4, &word(8)), (6, &word(10))]),
            // By a table that no rule names.
            route(header(2, 8, 99, 1), &[(1, net), (4, &word(9))]),
            route(header(2, 0, 254, 1), &[(9, &hops)]),
            route(header(2, 16, 254, 6), &[(1, &[10, 1, 0, 0])]),
            route(header(10, 64, 254, 1), &[(1, &[0xfe; 16]), (4, &word(7))]),
            route(
                header(10, 64, 254, 1),
                &[(1, &[0xfe; 16]), (4, &word(8)), (6, &word(9))],
            ),
            route(header(2, 32, 255, 2), &[(1, &[10, 0, 0, 1]), (4, &word(8))]),
        ];
        for body in &routes {
            reading.take(body);
        }
        let ways = reading.united();
        let way = |family, bits: u32, address| {
            let key = (LOCAL_KEY_BITS + bits, local_key(family, &address));
            let way = ways.get(&key).expect("the route is known");
            let mut interfaces = way.interfaces.to_vec();
            interfaces.retain(|interface| *interface != 0);
            (way.kind, interfaces)
        };
        let v4 = Family::V4;
        assert_eq!(way(v4, 8, [0x0a00_0000, 0, 0, 0]), (Way::ROUTE, vec![8]));
        assert_eq!(way(v4, 0, [0; 4]), (Way::ROUTE, vec![3, 5]));
        assert_eq!(way(v4, 16, [0x0a01_0000, 0, 0, 0]), (0, vec![]));
        assert_eq!(way(v4, 32, [0x0a00_0001, 0, 0, 0]), (Way::LOCAL, vec![8]));
        assert_eq!(
            way(Family::V6, 64, [0xfefe_fefe; 4]),
            (Way::ROUTE, vec![7, 8])
        );
        assert_eq!(ways.len(), 5);
        assert_eq!(reading.hops, 0);
    }

    #[test]
    fn tables_of_policy_routing_add_to_the_usual_ones() {
        let word = |number: u32| number.to_ne_bytes();
        let mut reading = Reading::default();
        reading.take_rule(&route(header(2, 0, 100, RULE_TO_TABLE), &[]));
        // One that is unreachable, and those that are there anyway.
        reading.take_rule(&route(header(2, 0, 99, 7), &[]));
        reading.take_rule(&route(header(2, 0, 254, RULE_TO_TABLE), &[]));
        let net: &[u8] = &[10, 0, 0, 0];
        let routes = [
            route(header(2, 0, 254, 1), &[(4, &word(3))]),
            route(header(2, 0, 100, 1), &[(4, &word(4))]),
            route(header(2, 0, 99, 1), &[(4, &word(9))]),
            route(header(10, 0, 100, 1), &[(4, &word(9))]),
            route(header(2, 8, 100, 1), &[(1, net), (4, &word(5))]),
            route(header(2, 16, 254, 6), &[(1, &[10, 1, 0, 0])]),
            route(header(2, 32, 255, 2), &[(1, &[10, 0, 0, 1]), (4, &word(3))]),
        ];
        for body in &routes {
            reading.take(body);
        }
        let ways = reading.united();
        let way = |bits: u32, address: u32| {
            let key = (
                LOCAL_KEY_BITS + bits,
                local_key(Family::V4, &[address, 0, 0, 0]),
            );
            let way = ways.get(&key).expect("the route is known");
            let interfaces = way.interfaces.iter().filter(|interface| **interface != 0);
            (way.kind, interfaces.copied().collect::<Vec<_>>())
        };
        assert_eq!(way(0, 0), (Way::ROUTE, vec![3, 4]));
        assert_eq!(way(8, 0x0a00_0000), (Way::ROUTE, vec![3, 5]));
        assert_eq!(way(16, 0x0a01_0000), (Way::ROUTE, vec![5]));
        assert_eq!(way(32, 0x0a00_0001), (Way::LOCAL, vec![3]));
        assert_eq!((ways.len(), reading.hops), (4, 0));
    }
}
