//! The index of a chain: finds the rules that may match a packet among thousands that cannot.
//!
//! The compiler puts most rules of a long chain into a few hash tables. Each table has a mask, the
//! bits of addresses, ports and protocol that all of its rules name, and finds them by what these
//! bits must be. A rule whose bits differ from a packet's cannot match it. All other rules of the
//! chain, its end among them, may match any packet; each rule says where the next of these stands
//! ([`Rule::always`]). So after a rule that did not match, the next one to try is the nearest that any
//! table finds, or that one.
//!
//! An index only ever says which rules need not be tried. Those that are left are held against the packet
//! as in a walk that has none, so a collision of hashes costs a trial, and a line that is missing a plain walk.

use crate::host::Host;
use crate::limits::INDEX_TABLES_PER_ROUND;
use crate::policy::{NO_RULE, Rule, Walk};
use crate::tuple::{Address, Family};

/// Thirty-two bytes of an index. A table begins with two: the masks of source and destination, and what
/// [`Table`] holds. Its buckets lie elsewhere, a line each: up to [`BUCKET_ENTRIES`] rules, each as
/// `fingerprint << 16 | number`, by growing number. A rule's number is counted from the beginning of its
/// chain; zero, the first rule, is in no table, since it is never searched for.
pub type IndexLine = [u32; 8];

/// Rules in one bucket.
pub const BUCKET_ENTRIES: usize = 8;

/// Lines that a table begins with.
pub const TABLE_LINES: u32 = 2;

/// Words of a packet that a mask goes over, each with its key.
pub const KEYS: usize = 10;

/// The second line of a table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Table {
    /// Mask of the ports, the source's in the upper half.
    pub ports: u32,
    /// Mask of the protocol.
    pub protocol: u32,
    /// Line of the first bucket.
    pub first: u32,
    /// Number of buckets, a power of two, less one.
    pub buckets: u32,
    /// Index of the first rule of the chain.
    pub base: u32,
    /// Tables of the chain that follow this one.
    pub left: u32,
}

impl Table {
    pub const fn line(&self) -> IndexLine {
        let Self {
            ports,
            protocol,
            first,
            buckets,
            base,
            left,
        } = *self;
        [ports, protocol, first, buckets, base, left, 0, 0]
    }

    #[inline(always)]
    const fn of(line: &IndexLine) -> Self {
        let [ports, protocol, first, buckets, base, left, ..] = *line;
        Self {
            ports,
            protocol,
            first,
            buckets,
            base,
            left,
        }
    }
}

/// What a mask goes over.
#[derive(Clone, Copy)]
pub struct Fields<'a> {
    pub family: Family,
    pub source: &'a Address,
    pub destination: &'a Address,
    /// The source's in the upper half.
    pub ports: u32,
    pub protocol: u8,
}

/// Where to look for rules.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    /// Number of the bucket.
    pub bucket: u32,
    /// Upper half of the entry.
    pub fingerprint: u32,
}

impl Fields<'_> {
    /// Where a table has rules that name these fields. A sum of products with keys that depend on all of the
    /// rules (NH, RFC 4418): two different names share a place by chance alone, whoever chose them.
    #[inline(always)]
    pub fn place(&self, masks: &IndexLine, table: &Table, keys: &[u32; KEYS]) -> Place {
        let product = |word: u32, mask: u32, key: u32| u64::from(word & mask) * u64::from(key);
        let [s0, s1, s2, s3, d0, d1, d2, d3] = *masks;
        let [source, destination] = [self.source, self.destination];
        let mut sum = product(source[0], s0, keys[0])
            .wrapping_add(product(destination[0], d0, keys[4]))
            .wrapping_add(product(self.ports, table.ports, keys[8]))
            .wrapping_add(product(u32::from(self.protocol), table.protocol, keys[9]));
        if matches!(self.family, Family::V6) {
            sum = sum
                .wrapping_add(product(source[1], s1, keys[1]))
                .wrapping_add(product(source[2], s2, keys[2]))
                .wrapping_add(product(source[3], s3, keys[3]))
                .wrapping_add(product(destination[1], d1, keys[5]))
                .wrapping_add(product(destination[2], d2, keys[6]))
                .wrapping_add(product(destination[3], d3, keys[7]));
        }
        let mixed = (sum ^ sum >> 32).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        Place {
            bucket: (mixed >> 32) as u32 & table.buckets,
            fingerprint: (mixed >> 48) as u32,
        }
    }
}

/// How far the search for the next rule has come.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Search {
    /// Line of the table to ask next, [`NO_RULE`] when nothing is searched for.
    table: u32,
    /// Lowest rule that is searched for.
    from: u32,
}

impl Search {
    pub(crate) const NONE: Self = Self {
        table: NO_RULE,
        from: 0,
    };

    pub(crate) const fn is_on(&self) -> bool {
        self.table != NO_RULE
    }
}

impl<H: Host> Walk<'_, H> {
    /// Goes on from a rule that did not match; to a search where the chain has an index.
    #[inline(always)]
    pub(crate) fn pass(&mut self, at: u32, rule: &Rule) {
        let next = at.wrapping_add(1);
        // Who watches sees each rule.
        if rule.index == NO_RULE || self.host.is_traced() {
            self.progress.at = next;
            return;
        }
        self.progress.at = rule.always;
        self.progress.search = Search {
            table: rule.index,
            from: next,
        };
    }

    /// Asks some tables for the next rule.
    #[inline(always)]
    pub(crate) fn search(&mut self) {
        // Written out, since the kernel's verifier may lose count of a loop, and then follows it without end.
        const { assert!(INDEX_TABLES_PER_ROUND == 4) };
        let _ = self.ask_table() && self.ask_table() && self.ask_table() && self.ask_table();
    }

    /// Asks one table; `false` when it was the last.
    #[inline(always)]
    fn ask_table(&mut self) -> bool {
        let Search { table: line, from } = self.progress.search;
        let found = self.found(line, from);
        let Some((rule, left)) = found else {
            self.progress.at = from;
            self.progress.search = Search::NONE;
            return false;
        };
        if rule < self.progress.at {
            self.progress.at = rule;
        }
        if left == 0 {
            self.progress.search = Search::NONE;
            return false;
        }
        self.progress.search.table = line.wrapping_add(TABLE_LINES);
        true
    }

    /// The first rule of a table that may match, from one on, or [`NO_RULE`], and how many tables there are
    /// after this one.
    #[inline(always)]
    fn found(&self, line: u32, from: u32) -> Option<(u32, u32)> {
        let info = self.question.info;
        let masks = self.host.index(line)?;
        let table = Table::of(self.host.index(line.wrapping_add(1))?);
        let fields = Fields {
            family: info.family,
            source: &info.source,
            destination: &info.destination,
            ports: u32::from(info.source_port) << 16 | u32::from(info.destination_port),
            protocol: info.protocol,
        };
        let place = fields.place(masks, &table, &self.host.policy().index_keys);
        let bucket = self.host.index(table.first.wrapping_add(place.bucket))?;
        // An entry of another fingerprint becomes a number that no rule has, and one before those that are
        // searched for wraps round beyond them: so the least is the nearest. (A branch for each entry that
        // matches is more than the kernel's verifier follows.)
        let number = from.wrapping_sub(table.base) & 0xffff;
        let mut nearest = u32::MAX;
        for entry in bucket {
            let distance = (entry ^ place.fingerprint << 16).wrapping_sub(number);
            nearest = nearest.min(distance);
        }
        if nearest <= 0xffff - number {
            return Some((from.wrapping_add(nearest), table.left));
        }
        Some((NO_RULE, table.left))
    }
}
