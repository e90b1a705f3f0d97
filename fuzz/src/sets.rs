//! Sets against maps of the standard library: the same members after each operation.

use std::collections::HashMap;

use keepstate_engine::set::head::{self, Definition};
use keepstate_engine::set::{self, Put, Search, Shape, Target, Type, Wish, side};
use keepstate_engine::settings::Settings;
use keepstate_engine::time::Tick;
use keepstate_engine::tuple::{Address, Family};
use keepstate_flowmemory::{Accounting, OwnedTable, SliceTable};

/// Bytes of one operation: what to do, in which set, two that make the address, its length, a number.
const OPERATION_BYTES: usize = 6;
/// A small table, which is full now and then.
const BUCKETS: u32 = 4;
const ENTRIES_MAX: u32 = 24;

/// The sets; the last one is a list of the others.
const SHAPES: [(Type, Family, u8); 5] = [
    (Type::Address, Family::V4, 30),
    (Type::Network, Family::V4, 32),
    (Type::Network, Family::V6, 128),
    (Type::AddressPort, Family::V4, 32),
    (Type::List, Family::V4, 32),
];
const LIST: usize = 4;
const LENGTHS: [u8; 6] = [1, 8, 24, 31, 32, 32];
const LENGTHS_V6: [u8; 6] = [1, 63, 64, 65, 127, 128];

pub(crate) fn run(data: &[u8]) {
    let memory = OwnedTable::new([3, 2], Accounting::No).with_sets(BUCKETS);
    let mut settings = Settings::defaults(40, [3, 2]);
    settings.sets.buckets = BUCKETS;
    for (key, number) in settings.hash_keys.iter_mut().zip(0x9e37_79b9_u32..) {
        *key = number.wrapping_mul(0x85eb_ca6b);
    }
    let mut check = Check {
        flows: memory.as_slices(),
        settings,
        now: Tick(u32::MAX - 40),
        contents: [0, 1, 2, 3, 4],
        model: HashMap::new(),
        members: [None; LIST],
    };
    for (number, (kind, family, netmask)) in (0..).zip(SHAPES) {
        let shape = Shape {
            kind,
            family,
            is_timed: true,
            netmask,
        };
        let definition = Definition {
            shape,
            timeout: 0,
            hashsize: 64,
            entries_max: ENTRIES_MAX,
        };
        head::define(&check.flows, number, number, &[b'a'; 32], &definition);
    }
    for operation in data.chunks_exact(OPERATION_BYTES) {
        check.operate(operation);
    }
    check.compare_entries();
}

pub(crate) fn seeds() -> Vec<Vec<u8>> {
    let one = |n: u8| [n % 3, n / 3 % 5, n.wrapping_mul(37), n, n % 7, n / 2];
    let filling = (0..200_u8).flat_map(|n| [0, n % 4, n, n / 2, n % 6, 0]);
    let churning = (0..250_u8).flat_map(|n| {
        let [.., address, low, length, value] = one(n);
        [n % 8, n % 5, address, low, length, value]
    });
    vec![
        filling.collect(),
        churning.collect(),
        (0..240).flat_map(one).collect(),
    ]
}

/// What an entry is known by: content, address, length, protocol and port.
type Key = (u32, Address, u8, (u8, u16));

#[derive(Clone, Copy, Debug, PartialEq)]
struct Known {
    deadline: Option<Tick>,
    is_nomatch: bool,
}

impl Known {
    fn is_over(&self, now: Tick) -> bool {
        self.deadline
            .is_some_and(|deadline| deadline.has_passed(now))
    }
}

struct Check<'a> {
    flows: SliceTable<'a>,
    settings: Settings,
    now: Tick,
    /// Which content each set has.
    contents: [u32; 5],
    model: HashMap<Key, Known>,
    members: [Option<Known>; LIST],
}

impl Check<'_> {
    fn operate(&mut self, operation: &[u8]) {
        let [what, set, high, low, length, value] = *operation else {
            return;
        };
        let set = usize::from(set) % SHAPES.len();
        let known = Known {
            deadline: (value % 4 != 0).then(|| Tick(self.now.0.wrapping_add(u32::from(value / 4)))),
            is_nomatch: value & 64 != 0 && SHAPES[set].0 == Type::Network,
        };
        let (address, length, port) = key_of(set, high, low, length, value);
        match what % 8 {
            0..3 if set == LIST => self.join(usize::from(low) % LIST, known),
            0..3 => self.put(set, (address, length, port), known, value & 32 != 0),
            3 if set != LIST => self.remove(set, (address, length, port)),
            4 => self.now = Tick(self.now.0.wrapping_add(u32::from(value % 8))),
            // Those of one type.
            5 => {
                head::swap(&self.flows, 1, 2);
                head::swap(&self.flows, 1, 2);
                head::swap(&self.flows, 0, 3);
                self.contents.swap(0, 3);
            }
            6 => self.sweep(),
            _ => {}
        }
        for sides in [0, side::SECOND, side::SECOND | side::NOMATCH] {
            self.compare(set, address, port, sides);
            self.compare(LIST, address, port, sides);
        }
    }

    fn content(&self, set: usize) -> (u32, Shape) {
        let (number, words) = head::content(&self.flows, set as u32).expect("it was made");
        assert_eq!(number, self.contents[set]);
        let definition = head::definition(words).expect("it was made");
        (number, definition.shape)
    }

    fn search(&self, shape: &Shape, address: Address, port: (u8, u16)) -> Search {
        let mut search = Search::NOTHING;
        let target = Target {
            address,
            family: shape.family,
            port: (shape.kind == Type::AddressPort).then_some(port),
        };
        search.begin(&target, 0, self.now);
        search
    }

    fn put(
        &mut self,
        set: usize,
        (address, length, port): (Address, u8, (u8, u16)),
        known: Known,
        changes: bool,
    ) {
        let (content, shape) = self.content(set);
        let length = length_for(&shape, length);
        let port = port_for(&shape, port);
        let mut search = self.search(&shape, address, port);
        let wish = Wish {
            content,
            length: u32::from(length),
            deadline: known.deadline,
            is_nomatch: known.is_nomatch,
            changes,
        };
        let key = (content, masked(&shape, address, length), length, port);
        let before = self.model.get(&key).copied();
        let lasts = before.is_some_and(|before| !before.is_over(self.now));
        match set::put(&self.flows, &self.settings, &wish, &mut search) {
            Put::New => {
                assert!(!lasts, "{key:?} was there");
                self.model.insert(key, known);
            }
            Put::Changed => {
                assert!(lasts && changes, "{key:?}");
                self.model.insert(key, known);
            }
            Put::Exists => assert!(lasts && !changes, "{key:?}"),
            Put::Full => assert!(before.is_none(), "{key:?}"),
            Put::Busy => panic!("busy without another CPU"),
        }
    }

    fn remove(&mut self, set: usize, (address, length, port): (Address, u8, (u8, u16))) {
        let (content, shape) = self.content(set);
        let (length, port) = (length_for(&shape, length), port_for(&shape, port));
        let mut search = self.search(&shape, address, port);
        let gone = set::remove(
            &self.flows,
            &self.settings,
            content,
            u32::from(length),
            &mut search,
        );
        let key = (content, masked(&shape, address, length), length, port);
        let known = self.model.remove(&key);
        let lasted = known.is_some_and(|known| !known.is_over(self.now));
        assert_eq!(gone, lasted, "{key:?}");
    }

    fn join(&mut self, member: usize, known: Known) {
        self.members[member] = Some(known);
        let mut words = self
            .members
            .iter()
            .zip(1_u64..)
            .filter_map(|(known, number)| {
                let word = match (*known)?.deadline {
                    Some(deadline) => number | u64::from(deadline.0) << 32,
                    None => number | head::MEMBER_FOR_EVER,
                };
                Some(word)
            });
        let list: Vec<u64> = words.by_ref().collect();
        head::set_members(&self.flows, LIST as u32, &list);
    }

    fn sweep(&mut self) {
        let now = self.now;
        let mut over = Vec::new();
        set::visit(&self.flows, 0..BUCKETS, |place, entry| {
            if entry.is_over(now) {
                over.push((place, entry.content));
            }
        });
        for (place, content) in over {
            assert!(set::take_out(&self.flows, place, content));
        }
        self.model.retain(|_, known| !known.is_over(now));
        self.compare_entries();
    }

    /// What a packet learns.
    fn compare(&self, set: usize, address: Address, port: (u8, u16), sides: u32) {
        for family in [Family::V4, Family::V6] {
            let mut search = Search::NOTHING;
            let target = Target {
                address,
                family,
                port: Some(port),
            };
            search.begin(&target, sides, self.now);
            let found = set::find(&self.flows, &self.settings, set as u32, &mut search);
            let expected = match set {
                LIST => (0..LIST).any(|member| {
                    let known = self.members[member];
                    known.is_some_and(|known| !known.is_over(self.now))
                        && self.holds(member, family, address, port, sides)
                }),
                set => self.holds(set, family, address, port, sides),
            };
            assert_eq!(
                found, expected,
                "set {set}, {family:?} {address:x?} {port:?}, {sides}"
            );
        }
    }

    /// The most specific entry decides.
    fn holds(
        &self,
        set: usize,
        family: Family,
        address: Address,
        port: (u8, u16),
        sides: u32,
    ) -> bool {
        let (content, shape) = self.content(set);
        let needs_port = shape.kind == Type::AddressPort;
        if family != shape.family || (needs_port && sides & side::SECOND == 0) {
            return false;
        }
        let fits = |key: &Key| {
            let (of, network, length, own) = *key;
            of == content
                && masked(&shape, address, length) == network
                && own == port_for(&shape, port)
        };
        let alive = self
            .model
            .iter()
            .filter(|(_, known)| !known.is_over(self.now));
        let best = alive
            .filter(|(key, _)| fits(key))
            .max_by_key(|(key, _)| key.2);
        best.is_some_and(|(_, known)| known.is_nomatch == (sides & side::NOMATCH != 0))
    }

    fn compare_entries(&self) {
        let mut seen = HashMap::new();
        set::visit(&self.flows, 0..BUCKETS, |_, entry| {
            let key = (
                entry.content,
                entry.address,
                entry.length,
                (entry.protocol, entry.port),
            );
            let known = Known {
                deadline: entry.deadline,
                is_nomatch: entry.is_nomatch,
            };
            assert_eq!(seen.insert(key, known), None, "twice: {key:?}");
        });
        assert_eq!(seen, self.model);
        for set in 0..LIST {
            let (content, words) = head::content(&self.flows, set as u32).expect("it was made");
            let count = self.model.keys().filter(|key| key.0 == content).count();
            assert_eq!(head::count(words), count as u64);
        }
    }
}

fn key_of(set: usize, high: u8, low: u8, length: u8, value: u8) -> (Address, u8, (u8, u16)) {
    let index = usize::from(length) % LENGTHS.len();
    let port = ([6, 17, 1][usize::from(value) % 3], u16::from(value % 5));
    // Few that differ in few bits, so that networks hold one another.
    let word =
        u32::from(high & 0x83) << 24 | u32::from(low & 7) << 6 | u32::from(low >> 5) | 1 << 20;
    match SHAPES[set].1 {
        Family::V4 => ([word, 0, 0, 0], LENGTHS[index], port),
        Family::V6 => {
            let address = [
                word,
                u32::from(low & 3),
                u32::from(high & 1) << 31,
                u32::from(low >> 6),
            ];
            (address, LENGTHS_V6[index], port)
        }
    }
}

fn length_for(shape: &Shape, length: u8) -> u8 {
    match shape.kind {
        Type::Network => length.min(shape.bits()),
        _ => shape.netmask,
    }
}

fn port_for(shape: &Shape, port: (u8, u16)) -> (u8, u16) {
    match shape.kind {
        Type::AddressPort => port,
        _ => (0, 0),
    }
}

fn masked(shape: &Shape, address: Address, length: u8) -> Address {
    let bits = address
        .iter()
        .fold(0, |bits, word| bits << 32 | u128::from(*word));
    let mask = u128::MAX.checked_shl(128 - u32::from(length)).unwrap_or(0);
    let bits = bits & mask;
    let words = [96, 64, 32, 0].map(|shift| (bits >> shift) as u32);
    match shape.family {
        Family::V4 => [words[0], 0, 0, 0],
        Family::V6 => words,
    }
}
