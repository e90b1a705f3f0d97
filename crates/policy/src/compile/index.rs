//! Indexes of long chains, see [`keepstate_engine::index`]: which masks their tables have, and which rules go
//! into which table.
//!
//! A table's mask is chosen of what rules name, rounded to a few lengths: greedily, the one that leaves most of
//! the rules with few others to share their bits with. What no mask does this for stays outside of the tables
//! and is tried by every packet that comes to it.

use std::collections::{HashMap, HashSet};
use std::hash::{DefaultHasher, Hash, Hasher};

use keepstate_engine::index::{BUCKET_ENTRIES, Fields, IndexLine, KEYS, TABLE_LINES, Table};
use keepstate_engine::limits::{INDEX_LINES_MAX, INDEX_TABLES_MAX};
use keepstate_engine::policy::{
    NO_RULE, RULE_DESTINATION_PORT, RULE_NOT_DESTINATION, RULE_NOT_DESTINATION_PORT,
    RULE_NOT_PROTOCOL, RULE_NOT_SOURCE, RULE_NOT_SOURCE_PORT, RULE_PROTOCOL, RULE_SOURCE_PORT,
    Rule,
};
use keepstate_engine::tuple::{Address, Family};

use super::{ChainInfo, Compiled};

/// So many rules are passed over at once, or none: to search costs about as much as to try ten.
const GAP_MIN: usize = 16;

/// Rules that have the same bits under a table's mask, at first and where nothing better is left.
const ALIKE_MAX: [u16; 2] = [3, 6];

/// Rules that a table is made for.
const TABLE_RULES_MIN: usize = 8;

/// Shapes from which masks are made.
const SHAPES_MAX: usize = 16;

/// How many leading bits of each field a rule names, or a mask keeps; of the protocol all or none.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
struct Shape([u8; 5]);

/// Adds the indexes of all chains that are worth one.
pub(super) fn build(compiled: &mut Compiled) {
    compiled.header.index_keys = keys(&compiled.rules);
    for chain in compiled.chains.clone() {
        let rules = (chain.end - chain.first) as usize;
        if rules > GAP_MIN {
            chain_index(compiled, &chain);
        }
    }
}

/// Keys that hang on all rules, so that nobody who has a few of them made (by being banned, say) can choose
/// addresses that share a bucket. The same rules always have the same keys.
fn keys(rules: &[Rule]) -> [u32; KEYS] {
    let mut hasher = DefaultHasher::new();
    for rule in rules {
        (rule.source, rule.source_mask).hash(&mut hasher);
        (rule.destination, rule.destination_mask).hash(&mut hasher);
        (rule.source_port, rule.destination_port).hash(&mut hasher);
        (rule.flags, rule.protocol, rule.target).hash(&mut hasher);
    }
    std::array::from_fn(|_| {
        0_u8.hash(&mut hasher);
        hasher.finish() as u32
    })
}

fn chain_index(compiled: &mut Compiled, chain: &ChainInfo) {
    let rules = &compiled.rules[chain.first as usize..chain.end as usize];
    let keys = compiled.header.index_keys;
    let room = INDEX_LINES_MAX as usize - compiled.index.len();
    let index = Index::of(rules, chain.family, &keys, room);
    if index.lines() > room {
        return;
    }
    let always = index.next_always();
    let is_worth_it = |number: usize| always[number] - number > GAP_MIN;
    if !(0..rules.len()).any(is_worth_it) {
        return;
    }
    let line = compiled.index.len() as u32;
    index.write(&mut compiled.index, chain.first);
    let rules = &mut compiled.rules[chain.first as usize..chain.end as usize];
    for (number, rule) in rules.iter_mut().enumerate() {
        if is_worth_it(number) {
            rule.index = line;
            rule.always = chain.first + always[number] as u32;
        }
    }
}

/// The tables of a chain; rules by their numbers from the beginning of the chain.
struct Index {
    tables: Vec<Made>,
    /// Whether each rule is in a table.
    is_found: Vec<bool>,
}

struct Made {
    shape: Shape,
    family: Family,
    buckets: Vec<IndexLine>,
}

impl Index {
    fn of(rules: &[Rule], family: Family, keys: &[u32; KEYS], room: usize) -> Self {
        let named: Vec<Shape> = rules.iter().map(|rule| Shape::of(rule, family)).collect();
        let mut index = Self {
            tables: Vec::new(),
            is_found: vec![false; rules.len()],
        };
        // The first rule is never searched for.
        let mut left: Vec<usize> = (1..rules.len()).collect();
        left.retain(|number| named[*number] != Shape::NOTHING);
        let mut sorter = Sorter {
            rules,
            named: &named,
            family,
            keys,
            alike: 0,
        };
        let mut chosen: Vec<(Shape, Vec<usize>)> = Vec::new();
        for alike in ALIKE_MAX {
            sorter.alike = alike;
            while chosen.len() < INDEX_TABLES_MAX as usize
                && let Some((shape, members)) = sorter.best(&left)
            {
                let taken: HashSet<usize> = members.iter().copied().collect();
                left.retain(|number| !taken.contains(number));
                chosen.push((shape, members));
            }
        }
        sorter.place_rest(left, &mut chosen);
        for (shape, members) in chosen {
            let buckets = sorter.buckets(shape, &members, room.saturating_sub(index.lines()));
            for entry in buckets.iter().flatten().filter(|entry| **entry != 0) {
                index.is_found[(entry & 0xffff) as usize] = true;
            }
            index.tables.push(Made {
                shape,
                family,
                buckets,
            });
        }
        index
    }

    fn lines(&self) -> usize {
        let lines = |table: &Made| TABLE_LINES as usize + table.buckets.len();
        self.tables.iter().map(lines).sum()
    }

    /// For each rule the next one that is in no table; behind the last there is the chain's end.
    fn next_always(&self) -> Vec<usize> {
        let mut next = vec![self.is_found.len(); self.is_found.len()];
        for number in (1..next.len()).rev() {
            next[number - 1] = match self.is_found[number] {
                true => next[number],
                false => number,
            };
        }
        next
    }

    /// Tables first, then their buckets.
    fn write(&self, lines: &mut Vec<IndexLine>, base: u32) {
        let mut first = lines.len() + self.tables.len() * TABLE_LINES as usize;
        for (number, made) in self.tables.iter().enumerate() {
            let (masks, mut table) = made.shape.masks(made.family);
            table.first = first as u32;
            table.buckets = made.buckets.len() as u32 - 1;
            table.base = base;
            table.left = (self.tables.len() - number) as u32 - 1;
            lines.extend([masks, table.line()]);
            first += made.buckets.len();
        }
        for made in &self.tables {
            lines.extend(&made.buckets);
        }
    }
}

/// Looks for masks, and fills tables.
struct Sorter<'a> {
    rules: &'a [Rule],
    named: &'a [Shape],
    family: Family,
    keys: &'a [u32; KEYS],
    /// So many rules may have the same bits.
    alike: u16,
}

impl Sorter<'_> {
    /// The mask that most rules can be found by, and these rules. Of two that are as good, the longer one:
    /// fewer packets come to it in vain.
    fn best(&self, left: &[usize]) -> Option<(Shape, Vec<usize>)> {
        let mut shapes = self.candidates(left);
        shapes.sort_unstable_by_key(|shape| std::cmp::Reverse((shape.bits(), *shape)));
        let mut best: Option<(Shape, Vec<usize>)> = None;
        for shape in shapes {
            let members = self.members(shape, left);
            let most = best
                .as_ref()
                .map_or(TABLE_RULES_MIN - 1, |(_, most)| most.len());
            if members.len() > most {
                let is_all = members.len() == left.len();
                best = Some((shape, members));
                if is_all {
                    break;
                }
            }
        }
        best
    }

    /// What most rules name, what any two of these have in common, and each field by itself.
    fn candidates(&self, left: &[usize]) -> Vec<Shape> {
        let mut counts: HashMap<Shape, usize> = HashMap::new();
        for number in left {
            *counts
                .entry(self.named[*number].rounded(self.family))
                .or_default() += 1;
        }
        let mut common: Vec<(usize, Shape)> = counts
            .into_iter()
            .map(|(shape, count)| (count, shape))
            .collect();
        common.sort_unstable_by(|one, other| other.cmp(one));
        common.truncate(SHAPES_MAX);
        let mut shapes = HashSet::new();
        for (_, one) in &common {
            shapes.extend(common.iter().map(|(_, other)| one.meet(*other)));
            shapes.extend(one.fields());
        }
        shapes.remove(&Shape::NOTHING);
        shapes.into_iter().collect()
    }

    /// The rules that name all of a mask's bits and share them with few others.
    fn members(&self, shape: Shape, left: &[usize]) -> Vec<usize> {
        let mut members: Vec<usize> = left.to_vec();
        members.retain(|number| shape.is_named_by(self.named[*number]));
        let size = (members.len() * 4).next_power_of_two();
        let (masks, mut table) = shape.masks(self.family);
        table.buckets = size as u32 - 1;
        let places: Vec<usize> = members
            .iter()
            .map(|number| self.place(*number, &masks, &table).0)
            .collect();
        let mut counts = vec![0_u16; size];
        // Where nothing better is left, the first of those that are alike: another table takes the next.
        let is_partly = self.alike == ALIKE_MAX[1];
        if !is_partly {
            for place in &places {
                counts[*place] = counts[*place].saturating_add(1);
            }
        }
        let mut places = places.iter();
        members.retain(|_| {
            let Some(count) = places.next().map(|place| &mut counts[*place]) else {
                return false;
            };
            *count = count.saturating_add(u16::from(is_partly));
            *count <= self.alike
        });
        members
    }

    /// Adds rules that no table was made for to those that have room for them.
    fn place_rest(&self, mut left: Vec<usize>, chosen: &mut [(Shape, Vec<usize>)]) {
        for (shape, members) in chosen {
            let (masks, mut table) = shape.masks(self.family);
            table.buckets = u16::MAX.into();
            let place = |number: &usize| self.place(*number, &masks, &table);
            let mut counts: HashMap<(usize, u32), u16> = HashMap::new();
            for number in members.iter() {
                *counts.entry(place(number)).or_default() += 1;
            }
            left.retain(|number| {
                let count = match shape.is_named_by(self.named[*number]) {
                    true => counts.entry(place(number)).or_default(),
                    false => return true,
                };
                *count += 1;
                let has_room = *count <= self.alike;
                members.extend(has_room.then_some(*number));
                !has_room
            });
            members.sort_unstable();
        }
    }

    /// Puts rules into buckets. Those for which a bucket has no room are left out, unless twice as many buckets
    /// help.
    fn buckets(&self, shape: Shape, members: &[usize], room: usize) -> Vec<IndexLine> {
        let (masks, mut table) = shape.masks(self.family);
        let mut size = (members.len() * 2 / 3).next_power_of_two();
        for is_last in [false, false, true] {
            table.buckets = size as u32 - 1;
            let mut buckets: Vec<IndexLine> = vec![[0; BUCKET_ENTRIES]; size];
            let mut is_full = false;
            for number in members {
                let (bucket, fingerprint) = self.place(*number, &masks, &table);
                let free = buckets[bucket].iter_mut().find(|entry| **entry == 0);
                match free {
                    Some(entry) => *entry = fingerprint << 16 | *number as u32,
                    None => is_full = true,
                }
            }
            if !is_full || is_last || size * 2 > room {
                return buckets;
            }
            size *= 2;
        }
        Vec::new()
    }

    fn place(&self, number: usize, masks: &IndexLine, table: &Table) -> (usize, u32) {
        let rule = &self.rules[number];
        let [source_port, _] = rule.source_port;
        let [destination_port, _] = rule.destination_port;
        let fields = Fields {
            family: self.family,
            source: &rule.source,
            destination: &rule.destination,
            ports: u32::from(source_port) << 16 | u32::from(destination_port),
            protocol: rule.protocol,
        };
        let place = fields.place(masks, table, self.keys);
        (place.bucket as usize, place.fingerprint)
    }
}

impl Shape {
    const NOTHING: Self = Self([0; 5]);

    fn of(rule: &Rule, family: Family) -> Self {
        let has = |flag: u32, not: u32| rule.flags & (flag | not) == flag;
        let address = |mask: &Address, not: u32| match has(0, not) {
            true => leading_ones(mask, family),
            false => 0,
        };
        let port = |[low, high]: [u16; 2], flag, not| match has(flag, not) {
            true => (low ^ high).leading_zeros() as u8,
            false => 0,
        };
        Self([
            address(&rule.source_mask, RULE_NOT_SOURCE),
            address(&rule.destination_mask, RULE_NOT_DESTINATION),
            port(rule.source_port, RULE_SOURCE_PORT, RULE_NOT_SOURCE_PORT),
            port(
                rule.destination_port,
                RULE_DESTINATION_PORT,
                RULE_NOT_DESTINATION_PORT,
            ),
            if has(RULE_PROTOCOL, RULE_NOT_PROTOCOL) {
                8
            } else {
                0
            },
        ])
    }

    /// The next shorter lengths of those that masks have.
    fn rounded(self, family: Family) -> Self {
        let address = match family {
            Family::V4 => 4,
            Family::V6 => 8,
        };
        let Self([source, destination, ports @ .., protocol]) = self;
        let [source_port, destination_port] = ports.map(|length| length - length % 8);
        Self([
            source - source % address,
            destination - destination % address,
            source_port,
            destination_port,
            protocol,
        ])
    }

    fn meet(self, other: Self) -> Self {
        let mut pairs = self.0.into_iter().zip(other.0);
        Self(std::array::from_fn(|_| {
            pairs.next().map_or(0, |(one, other)| one.min(other))
        }))
    }

    /// Each field by itself.
    fn fields(self) -> impl Iterator<Item = Self> {
        (0..self.0.len()).map(move |kept| {
            let mut one = Self::NOTHING;
            one.0[kept] = self.0[kept];
            one
        })
    }

    fn is_named_by(self, other: Self) -> bool {
        self.meet(other) == self
    }

    fn bits(self) -> u32 {
        self.0.iter().map(|length| u32::from(*length)).sum()
    }

    /// What stands in a table of this mask, but for its buckets.
    fn masks(self, family: Family) -> (IndexLine, Table) {
        let Self([source, destination, source_port, destination_port, protocol]) = self;
        let [s0, s1, s2, s3] = mask(source, family);
        let [d0, d1, d2, d3] = mask(destination, family);
        let port = |length: u8| u32::from(!(u16::MAX.checked_shr(length.into()).unwrap_or(0)));
        let table = Table {
            ports: port(source_port) << 16 | port(destination_port),
            protocol: if protocol == 0 { 0 } else { u8::MAX.into() },
            first: 0,
            buckets: 0,
            base: 0,
            left: 0,
        };
        ([s0, s1, s2, s3, d0, d1, d2, d3], table)
    }
}

fn leading_ones(mask: &Address, family: Family) -> u8 {
    let words = match family {
        Family::V4 => 1,
        Family::V6 => 4,
    };
    let mut length = 0;
    for word in &mask[..words] {
        length += word.leading_ones() as u8;
        if *word != u32::MAX {
            break;
        }
    }
    length
}

fn mask(length: u8, family: Family) -> Address {
    debug_assert!(family == Family::V6 || length <= 32, "no such prefix");
    std::array::from_fn(|word| {
        let bits = u32::from(length).saturating_sub(word as u32 * 32).min(32);
        !(u32::MAX.checked_shr(bits).unwrap_or(0))
    })
}

const _: () = assert!(NO_RULE > INDEX_LINES_MAX);
