//! Networks from which nothing is taken, or only so many new flows a second; those that are never banned, and those
//! whom no form of packets is held against: one table of all, asked for the sender of each packet from
//! outside before anything else.
//!
//! An entry lies where its network's address, length and kind hash to, in one of a few
//! buckets. A lookup goes by length: it asks once for each length of prefix that is in use, which is once
//! where single addresses are banned. A bucket that was full when an entry came says so, and only then
//! is the next one read. The daemon alone writes; packets read without a lock, and a packet that reads
//! an entry while it is written misses it or finds it, as if it had come a moment earlier or later.
//!
//! A ban is over when its deadline has passed, whether or not anybody is there to take it out.
//!
//! **Packets of established flows are not asked about.** Whoever bans a network ends its flows; from then on nothing
//! from there gets as far as the short way (`steady`), since that takes a record which remembers that the rules
//! let packets of this direction pass when the flow was answered. Only a packet that went the long way
//! has made it remember that, and before that it was asked about. A packet that the short way leaves is asked about then.

mod write;

pub use self::write::{clear, look, put, remove, remove_if, retain, visit};

use crate::host::{FlowMemory, Host, Repeat, Words};
use crate::limits::{BAN_BUCKET_SLOTS, BAN_BUCKETS_PROBED_MAX, BAN_LENGTHS_MAX};
use crate::process::{Outcome, Path, Scratch, Stage};
use crate::rate::Rate;
use crate::refusal;
use crate::settings::{SETTING_BANS, SETTING_FORMS, Settings, checked_index};
use crate::table::{leading, next_bucket, words_hash};
use crate::time::Tick;
use crate::trace::Step;
use crate::tuple::{Address, Family};
use crate::verdict::{Reason, State};
use crate::wire::Unparsed;

/// What an entry says of its network.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Kind {
    /// Nothing is taken from it; or, with a rate, no more new flows than that.
    Ban = 0,
    /// It is neither banned nor limited, whatever else is said.
    Exempt = 1,
    /// What it sends is not held against forms, see [`crate::refusal`].
    Spared = 2,
}

/// How many lists there are, see [`list`].
pub const LISTS: usize = 6;

/// A network.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Network {
    pub family: Family,
    pub address: Address,
    /// Bits that count, 1 to 32 or 128.
    pub length: u8,
}

/// An entry of the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry {
    pub network: Network,
    pub kind: Kind,
    /// Of [`Kind::Ban`]: how many flows a network may begin that is limited and not banned. For IPv6 its prefix
    /// has at most [`RATE_LENGTH_MAX`] bits.
    pub rate: Option<Rate>,
    /// `None` for ever.
    pub deadline: Option<Tick>,
    pub began: Tick,
    /// A number of the daemon's.
    pub cause: u16,
}

/// What became of an entry that was [`put`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Put {
    New,
    /// It was there, and is now as given.
    Changed,
    /// The network is banned, and stays so: it is not limited instead.
    Outranked,
    /// All buckets where it might lie are full.
    Full,
}

/// Which of [`crate::settings::BanSettings::lengths`] is that of a kind and family.
pub const fn list(kind: Kind, family: Family) -> usize {
    kind as usize * 2 + family as usize
}

// A head: deadline in the low half, above it what follows.
const LENGTH: u32 = 0xff;
const FAMILY: u32 = 1 << 8;
const EXEMPT: u32 = 1 << 9;
const FOR_EVER: u32 = 1 << 10;
/// In slot 0: some entry that belongs here, or further down, lies in a later bucket. Stays.
const SPILLED: u32 = 1 << 11;
const USED: u32 = 1 << 12;
const SPARED: u32 = 1 << 13;
/// A limit and no ban. Of the address only the high word is there; in place of the low one stands the rate.
const LIMIT: u32 = 1 << 14;
const FINGERPRINT_SHIFT: u32 = 16;
/// What two heads of the same network have in common.
const SAME: u32 = LENGTH | FAMILY | EXEMPT | SPARED | USED | 0xffff << FINGERPRINT_SHIFT;

/// Bits of the longest prefix that is limited: all of IPv4, and of IPv6 those of a network.
pub const RATE_LENGTH_MAX: u8 = 64;

// Words of a bucket: heads of all slots first, which are all that a packet reads that finds nothing.
const HIGH: u32 = BAN_BUCKET_SLOTS;
const LOW: u32 = 2 * BAN_BUCKET_SLOTS;
const NOTES: u32 = 3 * BAN_BUCKET_SLOTS;

/// What a packet's sender and its kind have to say, as far as its headers were read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Asked {
    Nothing,
    Banned,
    /// It begins a flow: limits and forms are asked before anything else, see [`refusal`].
    Begins,
}

#[inline(always)]
pub(crate) fn ask<H: Host>(
    host: &H,
    path: Path,
    parsed: Result<(), Unparsed>,
    scratch: &mut Scratch,
) -> Asked {
    let has_sender = matches!(parsed, Ok(()) | Err(Unparsed::Extended));
    if !has_sender || !is_asked(host.settings(), path) {
        return Asked::Nothing;
    }
    if is_refused(host, scratch) {
        return Asked::Banned;
    }
    if parsed.is_ok() && refusal::is_due_first(host.settings(), scratch) {
        return Asked::Begins;
    }
    Asked::Nothing
}

/// As [`ask`], of a packet that could have been of an established flow, and is not or has more to say to it.
#[inline(always)]
pub(crate) fn ask_late<H: Host>(host: &H, path: Path, scratch: &mut Scratch, next: Stage) -> Stage {
    if is_asked(host.settings(), path) && is_refused(host, scratch) {
        return refuse(host, scratch);
    }
    next
}

#[inline(always)]
const fn is_asked(settings: &Settings, path: Path) -> bool {
    settings.has(SETTING_BANS | SETTING_FORMS) && matches!(path, Path::Ingress)
}

/// Whether its sender is banned; a limit of it is then in the scratch memory.
#[inline(always)]
fn is_refused<H: Host>(host: &H, scratch: &mut Scratch) -> bool {
    let settings = host.settings();
    let Scratch {
        sender, info, now, ..
    } = scratch;
    sender.family = info.family;
    sender.address = info.source;
    sender.now = *now;
    sender.limit = NOWHERE;
    sender.refusal = refusal::Part::ToBeAsked;
    settings.has(SETTING_BANS) && is_banned(host.flows(), settings, sender)
}

/// What becomes of a packet whose sender is banned: it is counted, and no event tells of it.
#[inline(always)]
pub(crate) fn refuse<H: Host>(host: &H, scratch: &mut Scratch) -> Stage {
    host.trace(Step::Banned);
    scratch.outcome = Outcome {
        state: State::None,
        ..Outcome::refused(Reason::Banned)
    };
    Stage::Done
}

/// Whether nothing is taken from an address. Where it is limited, [`Sender`] knows by which entry.
#[cfg_attr(target_arch = "bpf", inline(never))]
pub fn is_banned<M: FlowMemory>(flows: &M, settings: &Settings, sender: &mut Sender) -> bool {
    seek(flows, settings, sender, Kind::Ban);
    sender.is_found
}

/// Whether an address is spared forms.
#[cfg_attr(target_arch = "bpf", inline(never))]
pub(crate) fn is_spared<M: FlowMemory>(
    flows: &M,
    settings: &Settings,
    sender: &mut Sender,
) -> bool {
    seek(flows, settings, sender, Kind::Spared);
    sender.is_found
}

#[inline(always)]
fn seek<M: FlowMemory>(flows: &M, settings: &Settings, sender: &mut Sender, kind: Kind) {
    sender.kind = kind;
    sender.is_found = false;
    sender.round = 0;
    sender.probe = 0;
    let mut search = Search {
        flows,
        settings,
        sender,
    };
    flows.repeat(STEPS_MAX, &mut search);
}

/// All buckets for each length, of both lists that a search for bans goes through.
const STEPS_MAX: u32 = 2 * BAN_LENGTHS_MAX * BAN_BUCKETS_PROBED_MAX;

/// Of [`Sender::limit`]: the sender is not limited.
pub(crate) const NOWHERE: u32 = u32::MAX;

/// An address, and how far it was looked for. In memory of its own, since the kernel's verifier follows
/// every value of what a loop keeps on the stack.
#[derive(Clone, Copy, Debug)]
pub struct Sender {
    family: Family,
    kind: Kind,
    pub(crate) refusal: refusal::Part,
    /// An entry of the kind that was looked for.
    is_found: bool,
    address: Address,
    pub(crate) now: Tick,
    /// Which of the lengths comes next, and which of the buckets.
    round: u32,
    probe: u32,
    bucket: u32,
    /// Bucket and slot of the limit with the longest prefix; [`NOWHERE`].
    pub(crate) limit: u32,
    limit_length: u32,
    name: Name,
}

impl Sender {
    pub const fn new(family: Family, address: Address, now: Tick) -> Self {
        Self {
            family,
            kind: Kind::Ban,
            refusal: refusal::Part::ToBeAsked,
            is_found: false,
            address,
            now,
            round: 0,
            probe: 0,
            bucket: 0,
            limit: NOWHERE,
            limit_length: 0,
            name: Name {
                high: 0,
                low: 0,
                meta: 0,
            },
        }
    }

    /// Goes on to the next length; `false` where there is none.
    #[inline(always)]
    fn begin(&mut self, settings: &Settings) -> bool {
        let lengths = settings
            .bans
            .lengths
            .get(checked_index(list(self.kind, self.family)));
        let round = checked_index(self.round as usize);
        let length = match lengths.and_then(|lengths| lengths.get(round)) {
            Some(length) if *length != 0 => *length,
            _ => return false,
        };
        self.round += 1;
        self.name = Name::of(self.family, &self.address, length, self.kind);
        self.bucket = self.name.hash(settings);
        true
    }

    /// No length is left; whether the search goes on. Who is limited may be exempt.
    #[inline(always)]
    const fn end(&mut self) -> bool {
        let goes_on = matches!(self.kind, Kind::Ban) && self.limit != NOWHERE;
        self.kind = Kind::Exempt;
        self.round = 0;
        goes_on
    }

    /// An entry was found; whether the search goes on.
    #[inline(always)]
    const fn find(&mut self, head: u64, slot: u32) -> bool {
        let meta = (head >> 32) as u32;
        match self.kind {
            Kind::Spared => {
                self.is_found = true;
                false
            }
            Kind::Exempt => {
                self.is_found = false;
                self.limit = NOWHERE;
                false
            }
            Kind::Ban if meta & LIMIT != 0 => {
                if self.limit == NOWHERE || meta & LENGTH > self.limit_length {
                    self.limit = self.bucket * BAN_BUCKET_SLOTS + slot;
                    self.limit_length = meta & LENGTH;
                }
                true
            }
            // Whoever is found on the first list is looked for on the second.
            Kind::Ban => {
                self.is_found = true;
                self.kind = Kind::Exempt;
                self.round = 0;
                true
            }
        }
    }
}

/// A search for the entries that an address is in, a bucket a step.
struct Search<'a, M> {
    flows: &'a M,
    settings: &'a Settings,
    sender: &'a mut Sender,
}

impl<M: FlowMemory> Repeat for Search<'_, M> {
    #[inline(always)]
    fn step(&mut self) -> bool {
        let sender = &mut *self.sender;
        if sender.probe == 0 && !sender.begin(self.settings) {
            return sender.end();
        }
        let Some(words) = self.flows.bans(sender.bucket) else {
            sender.probe = 0;
            return true;
        };
        match scan(words, &sender.name) {
            Scanned::Found(slot) if !is_over(words.load(slot), sender.now) => {
                sender.probe = 0;
                return sender.find(words.load(slot), slot);
            }
            Scanned::GoesOn if sender.probe + 1 < BAN_BUCKETS_PROBED_MAX => {
                sender.probe += 1;
                sender.bucket = next(self.settings, sender.bucket, &sender.name);
            }
            _ => sender.probe = 0,
        }
        true
    }
}

/// The word that a limit is counted in, by [`Sender::limit`].
#[inline(always)]
pub(crate) fn limit_of<M: FlowMemory>(flows: &M, limit: u32) -> Option<(M::Words, u32)> {
    let words = flows.bans(limit / BAN_BUCKET_SLOTS)?;
    Some((words, LOW + limit % BAN_BUCKET_SLOTS))
}

const fn is_over(head: u64, now: Tick) -> bool {
    let is_for_ever = (head >> 32) as u32 & FOR_EVER != 0;
    !is_for_ever && Tick(head as u32).has_passed(now)
}

/// What an entry is found by.
#[derive(Clone, Copy, Debug)]
struct Name {
    high: u64,
    low: u64,
    /// A head without deadline and marks.
    meta: u32,
}

impl Name {
    #[inline(always)]
    fn of(family: Family, address: &Address, length: u8, kind: Kind) -> Self {
        let [a, b, c, d] = *address;
        let bits = u32::from(length);
        let (high, low) = match family {
            Family::V4 => (u64::from(a) << 32 & leading(bits), 0),
            Family::V6 => (
                (u64::from(a) << 32 | u64::from(b)) & leading(bits),
                (u64::from(c) << 32 | u64::from(d)) & leading(bits.saturating_sub(64)),
            ),
        };
        let kind = match kind {
            Kind::Ban => 0,
            Kind::Exempt => EXEMPT,
            Kind::Spared => SPARED,
        };
        let meta = bits | (family as u32) << 8 | kind | USED;
        Self { high, low, meta }
    }

    /// Adds the fingerprint; the first bucket.
    #[inline(always)]
    fn hash(&mut self, settings: &Settings) -> u32 {
        let words = [self.high, self.low, u64::from(self.meta)];
        let (bucket, rest) = words_hash(words, settings, settings.bans.buckets);
        self.meta |= rest << FINGERPRINT_SHIFT;
        bucket
    }
}

#[inline(always)]
const fn next(settings: &Settings, bucket: u32, name: &Name) -> u32 {
    let fingerprint = (name.meta >> FINGERPRINT_SHIFT) as u16;
    next_bucket(settings.bans.buckets, bucket, fingerprint)
}

/// What a bucket has of a name.
enum Scanned {
    Found(u32),
    Missing,
    /// It may be in the next bucket.
    GoesOn,
}

#[inline(always)]
fn scan<W: Words>(words: W, name: &Name) -> Scanned {
    for slot in 0..BAN_BUCKET_SLOTS {
        let meta = (words.load(slot) >> 32) as u32;
        if (meta ^ name.meta) & SAME == 0 {
            let high = words.load(HIGH + slot) ^ name.high;
            let low = words.load(LOW + slot) ^ name.low;
            let low = if meta & LIMIT != 0 { 0 } else { low };
            if high | low == 0 {
                return Scanned::Found(slot);
            }
        }
    }
    if (words.load(0) >> 32) as u32 & SPILLED != 0 {
        Scanned::GoesOn
    } else {
        Scanned::Missing
    }
}

/// The bucket and slot of an entry.
fn find<M: FlowMemory>(
    flows: &M,
    settings: &Settings,
    name: &Name,
    first: u32,
) -> Option<(M::Words, u32)> {
    let mut bucket = first;
    for _ in 0..BAN_BUCKETS_PROBED_MAX {
        let words = flows.bans(bucket)?;
        match scan(words, name) {
            Scanned::Found(slot) => return Some((words, slot)),
            Scanned::Missing => return None,
            Scanned::GoesOn => bucket = next(settings, bucket, name),
        }
    }
    None
}
