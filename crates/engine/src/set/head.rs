//! The heads of sets: which there are, which content each of them has, and what a content is.

use crate::host::{FlowMemory, Words};
use crate::limits::SET_MEMBERS_MAX;
use crate::tuple::Family;

// Words of a head. The first five are of the set with this number, the others of the content with it.
/// One more than the content; zero where no set has this number.
pub const CONTENT: u32 = 0;
/// Four words: up to 31 bytes, the first in the lowest byte, and zeros.
pub const NAME: u32 = 1;
pub const NAME_WORDS: u32 = 4;
/// See [`Shape`]; zero where there is no such content.
pub const SHAPE: u32 = 8;
/// Seconds that an entry lasts unless told otherwise, zero for ever; above it `hashsize`, which is kept to be shown.
pub const TIMEOUT: u32 = 9;
/// Entries that there may be (`maxelem`).
pub const ENTRIES_MAX: u32 = 10;
/// Entries that there are, those whose time is over included until they are taken out.
pub const COUNT: u32 = 11;
/// Entries that were refused for want of room.
pub const REFUSED: u32 = 12;
/// Two words: lengths of prefix that entries may have. Length `n` is bit `n - 1`.
pub const LENGTHS: u32 = 13;
/// Of a list: its members, in order. One more than a set's number in the low half with [`MEMBER_FOR_EVER`],
/// the deadline above it; zero after the last.
pub const MEMBERS: u32 = 16;

pub const MEMBER_FOR_EVER: u64 = 1 << 31;
/// The number within such a word.
pub const MEMBER_NUMBER: u64 = 0xffff;

const IN_USE: u64 = 1 << 0;
const TIMED: u64 = 1 << 1;
const OF_V6: u64 = 1 << 2;
const TYPE_SHIFT: u32 = 8;
const NETMASK_SHIFT: u32 = 16;

/// What a set holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Type {
    /// `hash:ip`
    Address = 0,
    /// `hash:net`
    Network = 1,
    /// `hash:ip,port`
    AddressPort = 2,
    /// `list:set`
    List = 3,
}

impl Type {
    pub const ALL: [Self; 4] = [Self::Address, Self::Network, Self::AddressPort, Self::List];

    /// As ipset calls it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Address => "hash:ip",
            Self::Network => "hash:net",
            Self::AddressPort => "hash:ip,port",
            Self::List => "list:set",
        }
    }

    /// Sides of a packet that a rule must name.
    pub(super) const fn has_port(self) -> bool {
        matches!(self, Self::AddressPort)
    }
}

/// What does not change of a content.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shape {
    pub kind: Type,
    pub family: Family,
    /// Whether entries may have an end.
    pub is_timed: bool,
    /// Bits of an address that count in a [`Type::Address`]; all of them in other types.
    pub netmask: u8,
}

impl Shape {
    pub const fn word(&self) -> u64 {
        let timed = if self.is_timed { TIMED } else { 0 };
        let family = match self.family {
            Family::V4 => 0,
            Family::V6 => OF_V6,
        };
        IN_USE
            | timed
            | family
            | (self.kind as u64) << TYPE_SHIFT
            | (self.netmask as u64) << NETMASK_SHIFT
    }

    #[inline(always)]
    pub const fn of(word: u64) -> Option<Self> {
        if word & IN_USE == 0 {
            return None;
        }
        Some(Self {
            kind: match (word >> TYPE_SHIFT) as u8 {
                0 => Type::Address,
                1 => Type::Network,
                2 => Type::AddressPort,
                _ => Type::List,
            },
            family: if word & OF_V6 == 0 {
                Family::V4
            } else {
                Family::V6
            },
            is_timed: word & TIMED != 0,
            netmask: (word >> NETMASK_SHIFT) as u8,
        })
    }

    /// Bits of an address of the family.
    pub const fn bits(&self) -> u8 {
        match self.family {
            Family::V4 => 32,
            Family::V6 => 128,
        }
    }
}

/// The content that a set has now, with its head.
#[inline(always)]
pub fn content<M: FlowMemory>(flows: &M, set: u32) -> Option<(u32, M::Words)> {
    let number = flows.set_head(set)?.load(CONTENT) as u32;
    if number == 0 {
        return None;
    }
    let content = number - 1;
    Some((content, flows.set_head(content)?))
}

/// Adds a length to those that a content's entries have. Packets do so too; the daemon alone takes any away.
pub fn add_length<W: Words>(words: W, length: u32) {
    let (word, bit) = match length {
        0..=64 => (LENGTHS, 1 << (length.wrapping_sub(1) & 63)),
        _ => (LENGTHS + 1, 1 << (length.wrapping_sub(65) & 63)),
    };
    let old = words.load(word);
    // Who comes in between adds one too: once more, and else the next sweep does.
    if old & bit == 0 && words.compare_exchange(word, old, old | bit) != old {
        let old = words.load(word);
        words.compare_exchange(word, old, old | bit);
    }
}

/// The members of a list as they are now, with their deadlines as words.
pub fn members<W: Words>(words: W) -> impl Iterator<Item = u64> {
    let all = (0..SET_MEMBERS_MAX).map(move |index| words.load(MEMBERS + index));
    all.take_while(|word| *word != 0)
}

/// What a content is made with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Definition {
    pub shape: Shape,
    /// Seconds, zero for ever. Means nothing without [`Shape::is_timed`].
    pub timeout: u32,
    /// Shown, and nothing else.
    pub hashsize: u32,
    pub entries_max: u32,
}

/// Name of a set, with zeros behind it.
pub type Name = [u8; 32];

/// Makes a set and its empty content, of numbers that are free. For one writer alone; packets see it once rules
/// name it.
pub fn define<M: FlowMemory>(
    flows: &M,
    number: u32,
    content: u32,
    name: &Name,
    definition: &Definition,
) {
    let (Some(own), Some(words)) = (flows.set_head(number), flows.set_head(content)) else {
        return;
    };
    let shape = &definition.shape;
    let [low, high] = match (shape.kind, shape.netmask) {
        (Type::Network | Type::List, _) => [0, 0],
        (_, length @ 1..=64) => [1 << (length - 1), 0],
        (_, length) => [0, 1 << (length.wrapping_sub(65) & 63)],
    };
    words.store(
        TIMEOUT,
        u64::from(definition.hashsize) << 32 | u64::from(definition.timeout),
    );
    words.store(ENTRIES_MAX, u64::from(definition.entries_max));
    words.store(COUNT, 0);
    words.store(REFUSED, 0);
    words.store(LENGTHS, low);
    words.store(LENGTHS + 1, high);
    for index in 0..SET_MEMBERS_MAX {
        words.store(MEMBERS + index, 0);
    }
    words.store(SHAPE, shape.word());
    rename(flows, number, name);
    own.store(CONTENT, u64::from(content) + 1);
}

/// Gives a set another name.
pub fn rename<M: FlowMemory>(flows: &M, number: u32, name: &Name) {
    if let Some(words) = flows.set_head(number) {
        for (index, bytes) in (0..NAME_WORDS).zip(name.chunks(8)) {
            let word = bytes
                .iter()
                .rev()
                .fold(0, |word, byte| word << 8 | u64::from(*byte));
            words.store(NAME + index, word);
        }
    }
}

/// The name of the set with this number, if there is one.
pub fn name<M: FlowMemory>(flows: &M, number: u32) -> Option<Name> {
    let words = flows.set_head(number)?;
    if words.load(CONTENT) == 0 {
        return None;
    }
    let mut name = [0; 32];
    for (index, bytes) in (0..NAME_WORDS).zip(name.chunks_mut(8)) {
        bytes.copy_from_slice(&words.load(NAME + index).to_le_bytes());
    }
    Some(name)
}

/// What a content was made with.
pub fn definition<W: Words>(words: W) -> Option<Definition> {
    let second = words.load(TIMEOUT);
    Some(Definition {
        shape: Shape::of(words.load(SHAPE))?,
        timeout: second as u32,
        hashsize: (second >> 32) as u32,
        entries_max: words.load(ENTRIES_MAX) as u32,
    })
}

/// Takes a set away. Its content must be empty, and no rule may name it.
pub fn forget<M: FlowMemory>(flows: &M, number: u32) {
    if let Some(words) = flows.set_head(number) {
        let content = words.load(CONTENT) as u32;
        words.store(CONTENT, 0);
        if let Some(words) = content
            .checked_sub(1)
            .and_then(|content| flows.set_head(content))
        {
            words.store(SHAPE, 0);
        }
    }
}

/// Exchanges the contents of two sets. A packet in between sees one of them twice.
pub fn swap<M: FlowMemory>(flows: &M, a: u32, b: u32) {
    if let (Some(a), Some(b)) = (flows.set_head(a), flows.set_head(b)) {
        let content = a.load(CONTENT);
        a.store(CONTENT, b.load(CONTENT));
        b.store(CONTENT, content);
    }
}

/// Writes the members of a list, in order: up to [`SET_MEMBERS_MAX`] words as in [`MEMBERS`]. A packet in between
/// may see one of them twice or not at all.
pub fn set_members<M: FlowMemory>(flows: &M, set: u32, members: &[u64]) {
    if let Some((_, words)) = content(flows, set) {
        for index in 0..SET_MEMBERS_MAX {
            words.store(
                MEMBERS + index,
                members.get(index as usize).copied().unwrap_or(0),
            );
        }
        words.store(COUNT, members.len() as u64);
    }
}

/// Entries of a content, those whose time is over included until they are taken out.
pub fn count<W: Words>(words: W) -> u64 {
    words.load(COUNT)
}
