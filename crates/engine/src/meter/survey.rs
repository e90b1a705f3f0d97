//! Work on what is remembered, for the daemon and for listings.

use super::memory::{
    KEY, LAST, LINKS, LIST, NEXT, WORD_USED, list_of, lock, lock_list, release, unlock_list,
};
use super::rate::{Config, Scale};
use super::recent::{self, Meta, stamp_at};
use super::{Meter, Trouble, connections, content, family_bit, list_number, memory};
use crate::condition;
use crate::host::{FlowMemory, Host, Repeat, Words};
use crate::limits::{METER_BUCKETS, METER_CHAIN_MAX, METER_SLOTS, RECENT_STAMPS_MAX};
use crate::policy::Condition;
use crate::time::Tick;
use crate::tuple::{Address, Family};

/// A change of a list of `recent` by hand.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Edit {
    pub list: u64,
    pub family: Family,
    pub address: Address,
    pub what: Change,
    /// Stamps that an entry keeps, less one.
    pub ring: u32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Change {
    Add = 0,
    Remove = 1,
    Clear = 2,
}

impl Change {
    pub const fn from_number(number: u8) -> Self {
        match number {
            0 => Self::Add,
            1 => Self::Remove,
            _ => Self::Clear,
        }
    }
}

/// Changes a list; `false` where there is no room, or others were in the way.
#[cfg_attr(target_arch = "bpf", inline(never))]
#[cfg_attr(not(target_arch = "bpf"), inline)]
pub fn edit<H: Host>(host: &H, edit: &Edit, now: Tick, meter: &mut Meter) -> bool {
    edit_list(host, edit, host.jiffies(now), meter).is_ok()
}

fn edit_list<H: Host>(host: &H, edit: &Edit, now: u64, meter: &mut Meter) -> Result<(), Trouble> {
    *meter = Meter {
        list: edit.list | content::RECENT,
        now,
        ..Meter::NOTHING
    };
    list_of(host.flows(), meter)?;
    if matches!(edit.what, Change::Clear) {
        lock_list(host.flows(), meter)?;
        let done = recent::clear(host, meter);
        unlock_list(host.flows(), meter);
        return done;
    }
    meter.list |= family_bit(edit.family);
    meter.own = meter.list;
    let [high, low] = super::masked(&edit.address, &[u32::MAX; 4]);
    meter.key = [high, low, 0, 0, 0];
    meter.ring = edit.ring;
    meter.what = match edit.what {
        Change::Add => condition::recent::SET | condition::recent::BY_HAND,
        _ => condition::recent::REMOVE,
    };
    recent::carry_out(host, meter).map(|_| ())
}

/// Whether anything is remembered.
pub fn is_used<M: FlowMemory>(flows: &M) -> bool {
    flows.meter(0).is_some_and(|all| all.load(WORD_USED) != 0)
}

/// Takes what is over out of so many buckets from one on, and what belongs to a list that is no more.
/// Returns how many entries went. `dropped` is a list's number, zero for none.
pub fn sweep<H: Host>(
    host: &H,
    first: u32,
    buckets: u32,
    dropped: u64,
    now: Tick,
    meter: &mut Meter,
) -> u32 {
    *meter = Meter {
        now: host.jiffies(now),
        bucket: first,
        cpu: host.cpu(),
        ..Meter::NOTHING
    };
    let mut sweeping = Sweeping {
        host,
        meter,
        dropped,
        gone: 0,
    };
    host.repeat(buckets, &mut sweeping);
    sweeping.gone
}

struct Sweeping<'a, H> {
    host: &'a H,
    meter: &'a mut Meter,
    dropped: u64,
    gone: u32,
}

impl<H: Host> Repeat for Sweeping<'_, H> {
    fn step(&mut self) -> bool {
        let flows = self.host.flows();
        let bucket = self.meter.bucket;
        let Some(head) = flows.meter_head(bucket) else {
            return false;
        };
        if head.load(0) as u32 != 0 {
            self.gone += sweep_bucket(self.host, self.meter, self.dropped);
        }
        self.meter.bucket = bucket + 1;
        true
    }
}

#[cfg_attr(target_arch = "bpf", inline(never))]
#[cfg_attr(not(target_arch = "bpf"), inline)]
fn sweep_bucket<H: Host>(host: &H, meter: &mut Meter, dropped: u64) -> u32 {
    let flows = host.flows();
    let Some(head) = flows.meter_head(meter.bucket) else {
        return 0;
    };
    let Some(first) = lock::<0, H::Flows>(flows, head, meter.now) else {
        return 0;
    };
    meter.first = first;
    meter.kept = [first as u64, 0];
    let mut chain = Chain {
        host,
        meter,
        dropped,
        gone: 0,
    };
    flows.repeat(METER_CHAIN_MAX, &mut chain);
    let gone = chain.gone;
    head.store(0, meter.first as u64);
    gone
}

/// `kept` has the entry at hand, and the one before it.
struct Chain<'a, H> {
    host: &'a H,
    meter: &'a mut Meter,
    dropped: u64,
    gone: u32,
}

impl<H: Host> Repeat for Chain<'_, H> {
    fn step(&mut self) -> bool {
        let flows = self.host.flows();
        let [at, previous] = self.meter.kept;
        let at = at as u32;
        let Some(words) = flows.meter(at) else {
            return false;
        };
        if at == 0 {
            return false;
        }
        let next = words.load(NEXT);
        if !is_over(self.host, self.meter, at, self.dropped) {
            self.meter.kept = [next, at as u64];
            return true;
        }
        if previous == 0 {
            self.meter.first = next as u32;
        } else if let Some(words) = flows.meter(previous as u32) {
            words.store(NEXT, next);
        }
        memory::forget_rate(flows, at);
        release(flows, at, at, 1);
        self.gone += 1;
        self.meter.kept = [next, previous];
        true
    }
}

/// Whether an entry may go. Entries of `recent` go by their list, see [`Change::Clear`].
#[inline(always)]
fn is_over<H: Host>(host: &H, meter: &Meter, at: u32, dropped: u64) -> bool {
    let Some(words) = host.flows().meter(at) else {
        return false;
    };
    let list = words.load(LIST);
    let is_dropped = dropped != 0 && list & !content::MASK == dropped;
    match list & content::MASK & !content::V6 {
        content::RATE => is_dropped || (meter.now.wrapping_sub(words.load(LINKS)) as i64) >= 0,
        content::CONNECTIONS => connections::is_empty(words),
        content::LIST => is_dropped,
        _ => false,
    }
}

/// Lets the flows of `connlimit` go that are no more, in so many slots from one on; entries that are empty
/// then go with the next [`sweep`].
pub fn let_go<H: Host>(host: &H, first: u32, slots: u32, now: Tick, meter: &mut Meter) {
    *meter = Meter {
        now: host.jiffies(now),
        index: first,
        cpu: u32::MAX,
        ..Meter::NOTHING
    };
    host.repeat(slots, &mut LettingGo { host, meter, now });
}

struct LettingGo<'a, H> {
    host: &'a H,
    meter: &'a mut Meter,
    now: Tick,
}

impl<H: Host> Repeat for LettingGo<'_, H> {
    fn step(&mut self) -> bool {
        let slot = self.meter.index;
        self.meter.index = slot + 1;
        let Some(words) = self.host.flows().meter(slot) else {
            return false;
        };
        let list = words.load(LIST);
        if slot != 0 && list & content::MASK & !content::V6 == content::CONNECTIONS {
            let_go_of(self.host, self.meter, slot, self.now);
        }
        true
    }
}

#[cfg_attr(target_arch = "bpf", inline(never))]
#[cfg_attr(not(target_arch = "bpf"), inline)]
fn let_go_of<H: Host>(host: &H, meter: &mut Meter, slot: u32, now: Tick) {
    let flows = host.flows();
    let Some(words) = flows.meter(slot) else {
        return;
    };
    meter.list = words.load(LIST);
    let key = KEY;
    meter.key = [
        words.load(key),
        words.load(key + 1),
        words.load(key + 2),
        words.load(key + 3),
        words.load(LAST),
    ];
    meter.is_long = true;
    if memory::open(host, meter).is_err() {
        return;
    }
    if meter.found == slot {
        let family = match meter.list & content::V6 {
            0 => Family::V4,
            _ => Family::V6,
        };
        connections::let_go(host, meter, family, now);
    }
    memory::close(flows, meter);
    memory::release_stale(flows, meter);
}

/// An entry of `recent`, for listings.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RecentEntry {
    pub family: Family,
    pub address: Address,
    pub ttl: u8,
    /// Where the next stamp goes.
    pub index: u32,
    /// The lower half of jiffies.
    pub stamps: [u32; RECENT_STAMPS_MAX as usize],
    pub stamp_count: usize,
}

/// Shows the entries of a list of `recent`. For user space; holds nothing, so that one that changes
/// meanwhile may be shown as it is between.
pub fn recent_entries<M: FlowMemory>(flows: &M, list: u64, mut show: impl FnMut(&RecentEntry)) {
    entries(flows, list, content::RECENT, |at, words, family| {
        let meta = Meta(words.load(LAST));
        let mut entry = RecentEntry {
            family,
            address: address(words, KEY),
            ttl: meta.ttl(),
            index: meta.index(),
            stamps: [0; RECENT_STAMPS_MAX as usize],
            stamp_count: 0,
        };
        let mut slot = at;
        for index in 0..meta.stamps().min(RECENT_STAMPS_MAX) {
            if index != 0 && index % 16 == 0 {
                slot = match slot == at {
                    true => meta.more(),
                    false => flows.meter(slot).map_or(0, |words| words.load(NEXT) as u32),
                };
            }
            let Some(words) = flows.meter(slot) else {
                break;
            };
            entry.stamps[index as usize] = stamp_at(words, index);
            entry.stamp_count += 1;
        }
        show(&entry);
    });
}

/// An entry of `hashlimit`, for listings.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RateEntry {
    pub family: Family,
    pub source: Address,
    pub destination: Address,
    pub source_port: u16,
    pub destination_port: u16,
    /// Jiffies until it is over; below zero where it is, and not taken out yet.
    pub left: i64,
    /// What xt_hashlimit prints of it: credit, its bound and what a packet takes; with rate-match the interval in
    /// seconds with 2^32 if the last one was over the rate, what came in this one, and the rate.
    pub credit: u64,
    pub cap: u64,
    pub cost: u64,
}

/// Shows the entries of the list of `hashlimit` that a condition and the one behind it speak of, as they stand at a
/// time in jiffies. For user space, as above.
pub fn rate_entries<M: FlowMemory>(
    flows: &M,
    [condition, more]: [&Condition; 2],
    (now, hertz): (u64, u32),
    mut show: impl FnMut(&RateEntry),
) {
    let [low, high, ..] = condition.data;
    let config = Config::of(condition, more);
    let scale = Scale {
        hertz: u64::from(hertz),
    };
    let list = list_number(low, high);
    entries(flows, list, content::RATE, |_, words, family| {
        let ports = words.load(LAST);
        let [credit, cap, cost] = scale.shown(&config, words, now);
        show(&RateEntry {
            family,
            source: address(words, KEY),
            destination: address(words, KEY + 2),
            source_port: (ports >> 16) as u16,
            destination_port: ports as u16,
            left: words.load(LINKS).wrapping_sub(now) as i64,
            credit,
            cap,
            cost,
        });
    });
}

fn entries<M: FlowMemory>(
    flows: &M,
    list: u64,
    content: u64,
    mut show: impl FnMut(u32, M::Words, Family),
) {
    for bucket in 0..METER_BUCKETS {
        let mut at = flows
            .meter_head(bucket)
            .map_or(0, |head| head.load(0) as u32);
        for _ in 0..METER_CHAIN_MAX {
            let Some(words) = flows.meter(at) else {
                break;
            };
            if at == 0 || at >= METER_SLOTS {
                break;
            }
            let own = words.load(LIST);
            if own & !content::V6 == list | content {
                let family = match own & content::V6 {
                    0 => Family::V4,
                    _ => Family::V6,
                };
                show(at, words, family);
            }
            at = words.load(NEXT) as u32;
        }
    }
}

fn address<W: Words>(words: W, at: u32) -> Address {
    let (high, low) = (words.load(at), words.load(at + 1));
    [
        (high >> 32) as u32,
        high as u32,
        (low >> 32) as u32,
        low as u32,
    ]
}
