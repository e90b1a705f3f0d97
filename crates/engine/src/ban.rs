//! Networks from which nothing is taken, and those that are never banned: one table of both, asked
//! for the sender of each packet from outside before anything else.
//!
//! An entry lies where its network's address, length and kind hash to, in one of a few
//! buckets. A lookup goes by length: it asks once for each length of prefix that is in use, which is once
//! where single addresses are banned. A bucket that was full when an entry came says so, and only then
//! is the next one read. The daemon alone writes; packets read without a lock, and a packet that reads
//! an entry while it is written misses it or finds it, as if it had come a moment earlier or later.
//!
//! A ban is over when its deadline has passed, whether or not anybody is there to take it out.

use core::ops::Range;

use crate::host::{FlowMemory, Host, Repeat, Words};
use crate::limits::{BAN_BUCKET_SLOTS, BAN_BUCKETS_PROBED_MAX, BAN_LENGTHS_MAX};
use crate::process::{Arrival, Outcome, Path, Scratch, Stage};
use crate::settings::{SETTING_BANS, Settings, checked_index};
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
    /// Nothing is taken from it.
    Ban = 0,
    /// It is never banned, whatever bans say.
    Exempt = 1,
}

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
const KIND: u32 = 1 << 9;
const FOR_EVER: u32 = 1 << 10;
/// In slot 0: some entry that belongs here, or further down, lies in a later bucket. Stays.
const SPILLED: u32 = 1 << 11;
const USED: u32 = 1 << 12;
const FINGERPRINT_SHIFT: u32 = 16;
/// What two heads of the same network have in common.
const SAME: u32 = LENGTH | FAMILY | KIND | USED | 0xffff << FINGERPRINT_SHIFT;

// Words of a bucket: heads of all slots first, which are all that a packet reads that finds nothing.
const HIGH: u32 = BAN_BUCKET_SLOTS;
const LOW: u32 = 2 * BAN_BUCKET_SLOTS;
const NOTES: u32 = 3 * BAN_BUCKET_SLOTS;

/// Whether a packet is refused for its sender, as far as its headers were read.
#[inline(always)]
pub(crate) fn refuses<H: Host>(
    host: &H,
    arrival: &Arrival,
    parsed: Result<(), Unparsed>,
    scratch: &mut Scratch,
) -> bool {
    let has_sender = matches!(parsed, Ok(()) | Err(Unparsed::Extended));
    if !host.settings().has(SETTING_BANS) || !has_sender || !matches!(arrival.path, Path::Ingress) {
        return false;
    }
    let Scratch {
        sender, info, now, ..
    } = scratch;
    sender.family = info.family;
    sender.address = info.source;
    sender.now = *now;
    is_banned(host.flows(), host.settings(), sender)
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

/// Whether nothing is taken from an address.
#[cfg_attr(target_arch = "bpf", inline(never))]
pub fn is_banned<M: FlowMemory>(flows: &M, settings: &Settings, sender: &mut Sender) -> bool {
    sender.kind = Kind::Ban;
    sender.round = 0;
    sender.probe = 0;
    let mut search = Search {
        flows,
        settings,
        sender,
    };
    flows.repeat(STEPS_MAX, &mut search);
    // Whoever is found on the first list is looked for on the second.
    matches!(search.sender.kind, Kind::Exempt)
}

/// All buckets for each length, of both lists.
const STEPS_MAX: u32 = 2 * BAN_LENGTHS_MAX * BAN_BUCKETS_PROBED_MAX;

/// An address, and how far it was looked for. In memory of its own, since the kernel's verifier follows
/// every value of what a loop keeps on the stack.
#[derive(Clone, Copy, Debug)]
pub struct Sender {
    family: Family,
    kind: Kind,
    address: Address,
    now: Tick,
    /// Which of the lengths comes next, and which of the buckets.
    round: u32,
    probe: u32,
    bucket: u32,
    name: Name,
}

impl Sender {
    pub const fn new(family: Family, address: Address, now: Tick) -> Self {
        Self {
            family,
            kind: Kind::Ban,
            address,
            now,
            round: 0,
            probe: 0,
            bucket: 0,
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
            return false;
        }
        let Some(words) = self.flows.bans(sender.bucket) else {
            sender.probe = 0;
            return true;
        };
        match scan(words, &sender.name) {
            Scanned::Found(slot) if !is_over(words.load(slot), sender.now) => {
                sender.probe = 0;
                sender.round = 0;
                let goes_on = matches!(sender.kind, Kind::Ban);
                sender.kind = if goes_on { Kind::Exempt } else { Kind::Ban };
                return goes_on;
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
        let meta = bits | (family as u32) << 8 | (kind as u32) << 9 | USED;
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

/// Puts an entry into the table, or changes the one that is there. For one writer alone.
pub fn put<M: FlowMemory>(flows: &M, settings: &Settings, entry: &Entry) -> Put {
    let mut name = Name::of(
        entry.network.family,
        &entry.network.address,
        entry.network.length,
        entry.kind,
    );
    let mut bucket = name.hash(settings);
    let meta = match entry.deadline {
        Some(_) => name.meta,
        None => name.meta | FOR_EVER,
    };
    let deadline = entry.deadline.unwrap_or_default();
    let head = u64::from(meta) << 32 | u64::from(deadline.0);
    let notes = u64::from(entry.began.0) << 32 | u64::from(entry.cause);
    if let Some((words, slot)) = find(flows, settings, &name, bucket) {
        words.store(NOTES + slot, notes);
        set_head(words, slot, head);
        return Put::Changed;
    }
    for _ in 0..BAN_BUCKETS_PROBED_MAX {
        let Some(words) = flows.bans(bucket) else {
            return Put::Full;
        };
        let is_free = |slot: &u32| (words.load(*slot) >> 32) as u32 & USED == 0;
        if let Some(slot) = (0..BAN_BUCKET_SLOTS).find(is_free) {
            words.store(HIGH + slot, name.high);
            words.store(LOW + slot, name.low);
            words.store(NOTES + slot, notes);
            set_head(words, slot, head);
            return Put::New;
        }
        words.store(0, words.load(0) | u64::from(SPILLED) << 32);
        bucket = next(settings, bucket, &name);
    }
    Put::Full
}

/// Takes an entry out; `false` when it is not there. For the writer alone.
pub fn remove<M: FlowMemory>(
    flows: &M,
    settings: &Settings,
    network: &Network,
    kind: Kind,
) -> bool {
    let mut name = Name::of(network.family, &network.address, network.length, kind);
    let bucket = name.hash(settings);
    let Some((words, slot)) = find(flows, settings, &name, bucket) else {
        return false;
    };
    set_head(words, slot, 0);
    true
}

/// Slot 0 keeps its mark.
fn set_head<W: Words>(words: W, slot: u32, head: u64) {
    let mark = words.load(slot) & u64::from(SPILLED) << 32;
    words.store(slot, head | mark);
}

/// Shows all entries of some buckets, those that are over included. For the writer.
pub fn visit<M: FlowMemory>(flows: &M, buckets: Range<u32>, mut show: impl FnMut(&Entry)) {
    for bucket in buckets {
        let Some(words) = flows.bans(bucket) else {
            return;
        };
        for slot in 0..BAN_BUCKET_SLOTS {
            if let Some(entry) = entry(words, slot) {
                show(&entry);
            }
        }
    }
}

/// Takes out the entries of some buckets that this is true of; with all of them gone, what they had
/// pushed aside is forgotten too, see [`clear`].
pub fn retain<M: FlowMemory>(
    flows: &M,
    buckets: Range<u32>,
    mut stays: impl FnMut(&Entry) -> bool,
) {
    for bucket in buckets {
        let Some(words) = flows.bans(bucket) else {
            return;
        };
        for slot in 0..BAN_BUCKET_SLOTS {
            if entry(words, slot).is_some_and(|entry| !stays(&entry)) {
                set_head(words, slot, 0);
            }
        }
    }
}

/// Makes the buckets as they were at first. No entry may be in the table.
pub fn clear<M: FlowMemory>(flows: &M, buckets: Range<u32>) {
    for bucket in buckets {
        if let Some(words) = flows.bans(bucket) {
            words.store(0, 0);
        }
    }
}

fn entry<W: Words>(words: W, slot: u32) -> Option<Entry> {
    let head = words.load(slot);
    let meta = (head >> 32) as u32;
    if meta & USED == 0 {
        return None;
    }
    let (high, low) = (words.load(HIGH + slot), words.load(LOW + slot));
    let notes = words.load(NOTES + slot);
    let (family, address) = if meta & FAMILY == 0 {
        (Family::V4, [(high >> 32) as u32, 0, 0, 0])
    } else {
        let halves = [high >> 32, high, low >> 32, low];
        (Family::V6, halves.map(|half| half as u32))
    };
    Some(Entry {
        network: Network {
            family,
            address,
            length: (meta & LENGTH) as u8,
        },
        kind: if meta & KIND == 0 {
            Kind::Ban
        } else {
            Kind::Exempt
        },
        deadline: (meta & FOR_EVER == 0).then_some(Tick(head as u32)),
        began: Tick((notes >> 32) as u32),
        cause: notes as u16,
    })
}
