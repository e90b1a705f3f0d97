//! Slots, chains and locks.

use super::{Meter, Trouble, bucket_of, content};
use crate::host::{FlowMemory, Host, Repeat, Words};
use crate::limits::{
    METER_BUCKETS, METER_CHAIN_MAX, METER_LIST_BUCKETS, METER_SLOTS, METER_STALE_JIFFIES,
    METER_TRIES_MAX, METER_WAITS_MAX,
};

// Words of slot 0, which is no entry.
/// First free slot, and above it a number that grows with each change.
const WORD_FREE: u32 = 0;
/// Slots that were ever used.
const WORD_FRESH: u32 = 1;
/// Slots in use.
pub const WORD_USED: u32 = 2;
/// Packets that were dropped because no slot was free.
pub const WORD_FULL: u32 = 3;
/// Packets that were dropped because other CPUs were in their way.
pub const WORD_BUSY: u32 = 4;
/// Entries of `recent` that made room for others before their time.
pub const WORD_EVICTED: u32 = 5;
/// Entries that a list of `recent` may have (`ip_list_tot`), zero for Linux's default.
pub const WORD_LIST_MAX: u32 = 6;

// Words of an entry.
/// The next of its chain, or of whatever it hangs on.
pub(super) const NEXT: u32 = 0;
pub(super) const LIST: u32 = 1;
/// Five words.
pub(super) const KEY: u32 = 2;
/// Last word of the key; of an entry of `recent`, where more stamps are and what is known of it.
pub(super) const LAST: u32 = 6;
/// When it is over, or what it hangs on and what hangs on it.
pub(super) const LINKS: u32 = 7;
/// Eight words of what is remembered.
pub(super) const STATE: u32 = 8;

/// Of a list: held by a CPU.
pub(super) const LIST_LOCK: u32 = STATE;
/// Of a list: entries.
pub(super) const LIST_COUNT: u32 = STATE + 1;

pub(super) fn count<M: FlowMemory>(flows: &M, word: u32) {
    if let Some(words) = flows.meter(0) {
        words.add(word, 1);
    }
}

/// Takes a word by the jiffies in its upper half; what stands in the lower.
pub(super) fn lock<const WORD: u32, M: FlowMemory>(
    flows: &M,
    words: M::Words,
    now: u64,
) -> Option<u32> {
    let mut taking = Taking::<WORD, M> {
        flows,
        words,
        stamp: now as u32 | 1,
        found: 0,
        is_held: false,
    };
    flows.repeat(METER_WAITS_MAX, &mut taking);
    taking.is_held.then_some(taking.found)
}

/// The word is a constant: the verifier wants to know where it is.
struct Taking<'a, const WORD: u32, M: FlowMemory> {
    flows: &'a M,
    words: M::Words,
    stamp: u32,
    found: u32,
    is_held: bool,
}

impl<const WORD: u32, M: FlowMemory> Repeat for Taking<'_, WORD, M> {
    fn step(&mut self) -> bool {
        let old = self.words.load(WORD);
        let holder = (old >> 32) as u32;
        let age = self.stamp.wrapping_sub(holder) as i32;
        if holder != 0 && age < METER_STALE_JIFFIES {
            self.flows.relax();
            return true;
        }
        let held = (self.stamp as u64) << 32 | old & 0xffff_ffff;
        if self.words.compare_exchange(WORD, old, held) != old {
            return true;
        }
        self.found = old as u32;
        self.is_held = true;
        false
    }
}

/// Takes the bucket of the key at hand and looks for its entry.
#[cfg_attr(target_arch = "bpf", inline(never))]
#[cfg_attr(not(target_arch = "bpf"), inline)]
pub(super) fn open<H: Host>(host: &H, meter: &mut Meter) -> Result<(), Trouble> {
    meter.bucket = bucket_of(host.settings(), meter.list, &meter.key);
    open_bucket(host.flows(), meter)
}

#[inline(always)]
fn open_bucket<M: FlowMemory>(flows: &M, meter: &mut Meter) -> Result<(), Trouble> {
    let Some(head) = flows.meter_head(meter.bucket) else {
        return Err(Trouble::Full);
    };
    let Some(first) = lock::<0, M>(flows, head, meter.now) else {
        return Err(Trouble::Busy);
    };
    meter.first = first;
    find(flows, meter);
    Ok(())
}

/// Lets go of it.
#[inline(always)]
pub(super) fn close<M: FlowMemory>(flows: &M, meter: &Meter) {
    if let Some(head) = flows.meter_head(meter.bucket) {
        head.store(0, meter.first as u64);
    }
}

/// Looks through the chain. Without an entry `previous` is its last.
#[inline(always)]
fn find<M: FlowMemory>(flows: &M, meter: &mut Meter) {
    meter.at = meter.first;
    meter.previous = 0;
    meter.found = 0;
    meter.stale = 0;
    flows.repeat(METER_CHAIN_MAX, &mut Find { flows, meter });
}

struct Find<'a, M> {
    flows: &'a M,
    meter: &'a mut Meter,
}

impl<M: FlowMemory> Repeat for Find<'_, M> {
    fn step(&mut self) -> bool {
        let at = self.meter.at;
        if at == 0 {
            return false;
        }
        let Some(words) = self.flows.meter(at) else {
            return false;
        };
        let next = words.load(NEXT) as u32;
        if is_over(words, self.meter.now) && self.meter.stale == 0 {
            self.meter.stale = at;
            unlink(self.flows, self.meter, next);
            self.meter.at = next;
            return true;
        }
        if fits(words, self.meter) {
            self.meter.found = at;
            return false;
        }
        self.meter.previous = at;
        self.meter.at = next;
        true
    }
}

/// Whether an entry of `hashlimit` has had its time.
fn is_over<W: Words>(words: W, now: u64) -> bool {
    words.load(LIST) & content::MASK & !content::V6 == content::RATE
        && (now.wrapping_sub(words.load(LINKS)) as i64) >= 0
}

fn fits<W: Words>(words: W, meter: &Meter) -> bool {
    let [a, b, c, d, e] = meter.key;
    let last = words.load(LAST);
    let mut difference = words.load(LIST) ^ meter.list;
    difference |= words.load(KEY) ^ a;
    difference |= words.load(KEY + 1) ^ b;
    difference |= words.load(KEY + 2) ^ c;
    difference |= words.load(KEY + 3) ^ d;
    if meter.is_long {
        difference |= last ^ e;
    }
    let ttl = last as u8;
    let is_other = meter.ttl != 0 && ttl != 0 && ttl != meter.ttl;
    difference == 0 && !is_other
}

/// Takes what follows `previous` out of the chain.
#[inline(always)]
fn unlink<M: FlowMemory>(flows: &M, meter: &mut Meter, next: u32) {
    if meter.previous == 0 {
        meter.first = next;
    } else if let Some(words) = flows.meter(meter.previous) {
        words.store(NEXT, next as u64);
    }
}

/// Takes the entry that was found out of its chain; the slot is its caller's.
#[inline(always)]
pub(super) fn unlink_found<M: FlowMemory>(flows: &M, meter: &mut Meter) {
    if let Some(words) = flows.meter(meter.found) {
        unlink(flows, meter, words.load(NEXT) as u32);
    }
}

/// Adds an entry for the key at hand at the end of the chain that was searched.
#[cfg_attr(target_arch = "bpf", inline(never))]
#[cfg_attr(not(target_arch = "bpf"), inline)]
pub(super) fn add<M: FlowMemory>(flows: &M, meter: &mut Meter) -> Option<u32> {
    if meter.at != 0 {
        return None;
    }
    let slot = match meter.stale {
        0 => take(flows)?,
        stale => {
            forget(flows, stale);
            stale
        }
    };
    meter.stale = 0;
    let words = flows.meter(slot)?;
    let [a, b, c, d, e] = meter.key;
    words.store(NEXT, 0);
    words.store(LIST, meter.list);
    words.store(KEY, a);
    words.store(KEY + 1, b);
    words.store(KEY + 2, c);
    words.store(KEY + 3, d);
    words.store(LAST, e);
    words.store(LINKS, 0);
    if meter.previous == 0 {
        meter.first = slot;
    } else if let Some(words) = flows.meter(meter.previous) {
        words.store(NEXT, slot as u64);
    }
    Some(slot)
}

/// Counts that an entry of `hashlimit` is no more.
#[inline(always)]
fn forget<M: FlowMemory>(flows: &M, slot: u32) {
    let header = flows.meter(slot).map_or(0, |words| words.load(RATE_HEADER));
    if let Some(list) = flows.meter(header as u32)
        && header != 0
    {
        list.add(LIST_COUNT, u64::MAX);
    }
}

/// As [`forget`], for an entry of any kind.
pub(super) fn forget_rate<M: FlowMemory>(flows: &M, slot: u32) {
    let list = flows.meter(slot).map_or(0, |words| words.load(LIST));
    if list & content::MASK & !content::V6 == content::RATE {
        forget(flows, slot);
    }
}

/// Of an entry of `hashlimit`: the slot of its list.
pub(super) const RATE_HEADER: u32 = STATE + 4;

/// Gives back what a search has taken out on its way. Not while a bucket is held.
#[inline(always)]
pub(super) fn release_stale<M: FlowMemory>(flows: &M, meter: &Meter) {
    if meter.stale != 0 {
        forget(flows, meter.stale);
        release(flows, meter.stale, meter.stale, 1);
    }
}

/// A free slot.
#[cfg_attr(target_arch = "bpf", inline(never))]
#[cfg_attr(not(target_arch = "bpf"), inline)]
pub(super) fn take<M: FlowMemory>(flows: &M) -> Option<u32> {
    let all = flows.meter(0)?;
    let mut taken = Take {
        flows,
        all,
        slot: 0,
    };
    flows.repeat(METER_TRIES_MAX, &mut taken);
    let slot = taken.slot;
    if slot == 0 {
        return None;
    }
    all.add(WORD_USED, 1);
    Some(slot)
}

struct Take<'a, M: FlowMemory> {
    flows: &'a M,
    all: M::Words,
    slot: u32,
}

impl<M: FlowMemory> Repeat for Take<'_, M> {
    fn step(&mut self) -> bool {
        let old = self.all.load(WORD_FREE);
        let free = old as u32;
        if free == 0 {
            let used = self.all.load(WORD_FRESH);
            if used + 1 >= METER_SLOTS as u64 {
                return false;
            }
            if self.all.compare_exchange(WORD_FRESH, used, used + 1) != used {
                return true;
            }
            self.slot = used as u32 + 1;
            return false;
        }
        let Some(words) = self.flows.meter(free) else {
            return false;
        };
        let next = words.load(NEXT) & 0xffff_ffff;
        if self
            .all
            .compare_exchange(WORD_FREE, old, next_free(old) | next)
            != old
        {
            return true;
        }
        self.slot = free;
        false
    }
}

const fn next_free(old: u64) -> u64 {
    (old >> 32).wrapping_add(1) << 32
}

/// Gives slots back that hang together from `first` to `last`.
#[cfg_attr(target_arch = "bpf", inline(never))]
#[cfg_attr(not(target_arch = "bpf"), inline)]
pub(super) fn release<M: FlowMemory>(flows: &M, first: u32, last: u32, slots: u32) {
    let (Some(all), Some(words)) = (flows.meter(0), flows.meter(last)) else {
        return;
    };
    if let Some(words) = flows.meter(first) {
        words.store(LIST, 0);
    }
    all.add(WORD_USED, (slots as u64).wrapping_neg());
    flows.repeat(METER_TRIES_MAX, &mut Release { all, words, first });
}

struct Release<W> {
    all: W,
    words: W,
    first: u32,
}

impl<W: Words> Repeat for Release<W> {
    fn step(&mut self) -> bool {
        let old = self.all.load(WORD_FREE);
        self.words.store(NEXT, old & 0xffff_ffff);
        let new = next_free(old) | self.first as u64;
        self.all.compare_exchange(WORD_FREE, old, new) != old
    }
}

/// Finds the slot of the list at hand; makes it if it is not there. The key is to be filled in later.
#[cfg_attr(target_arch = "bpf", inline(never))]
#[cfg_attr(not(target_arch = "bpf"), inline)]
pub(super) fn list_of<M: FlowMemory>(flows: &M, meter: &mut Meter) -> Result<(), Trouble> {
    let list = meter.list;
    meter.list = list | content::LIST;
    let mixed = (list >> 32) as u32 ^ (list >> 3) as u32;
    meter.bucket = METER_BUCKETS + mixed % METER_LIST_BUCKETS;
    meter.key = [0; 5];
    // Lists go only when no policy names them any more: a look without holding anything finds it.
    let head = flows.meter_head(meter.bucket);
    meter.first = head.map_or(0, |words| words.load(0) as u32);
    find(flows, meter);
    let mut found = meter.found;
    if found == 0 {
        open_bucket(flows, meter)?;
        found = match meter.found {
            0 => match add(flows, meter) {
                Some(slot) => begin_list(flows, slot),
                None => 0,
            },
            found => found,
        };
        close(flows, meter);
    }
    meter.list = list;
    if found == 0 {
        return Err(Trouble::Full);
    }
    meter.header = found;
    Ok(())
}

fn begin_list<M: FlowMemory>(flows: &M, slot: u32) -> u32 {
    if let Some(words) = flows.meter(slot) {
        words.store(LIST_LOCK, 0);
        words.store(LIST_COUNT, 0);
    }
    slot
}

/// Takes a list as a whole.
#[inline(always)]
pub(super) fn lock_list<M: FlowMemory>(flows: &M, meter: &Meter) -> Result<(), Trouble> {
    let Some(words) = flows.meter(meter.header) else {
        return Err(Trouble::Full);
    };
    match lock::<LIST_LOCK, M>(flows, words, meter.now) {
        Some(_) => Ok(()),
        None => Err(Trouble::Busy),
    }
}

#[inline(always)]
pub(super) fn unlock_list<M: FlowMemory>(flows: &M, meter: &Meter) {
    if let Some(words) = flows.meter(meter.header) {
        words.store(LIST_LOCK, 0);
    }
}
