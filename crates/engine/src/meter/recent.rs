//! `recent`: as xt_recent of Linux 6.18, jiffy for jiffy, but that TTLs are those that packets came with.
//!
//! An entry keeps its stamps (the lower half of the jiffies) sixteen to a slot, in a ring as long as the
//! largest `--hitcount` of its list; the further slots hang on it. All entries of a list hang together,
//! the one longest unseen first: that one makes room where the list is full, and is what `--reap` looks at.

use super::memory::{
    KEY, LAST, LINKS, LIST, LIST_COUNT, NEXT, STATE, WORD_EVICTED, WORD_LIST_MAX, add, close,
    count, list_of, lock_list, open, release, release_stale, take, unlink_found, unlock_list,
};
use super::{Meter, Trouble, begin_search, content, family_bit, masked};
use crate::condition::{flag, recent};
use crate::host::{FlowMemory, Header, Host, Packet, Repeat, Words};
use crate::limits::{CONDITIONS_MAX, METER_SLOTS, RECENT_LIST_DEFAULT, RECENT_STAMPS_MAX};
use crate::policy::Condition;
use crate::process::{Run, Scratch};
use crate::settings::checked_index;
use crate::tuple::Family;
use crate::wire::PacketInfo;

/// Stamps of a slot.
const STAMPS: u32 = 16;

/// Slots of an entry beside the first, at most.
const CHUNKS_MAX: u32 = RECENT_STAMPS_MAX / STAMPS;

/// What is known of an entry beside its stamps: the word [`LAST`].
#[derive(Clone, Copy)]
pub(super) struct Meta(pub(super) u64);

impl Meta {
    const fn new(ttl: u8, index: u32, stamps: u32, more: u32) -> Self {
        Self(
            (more as u64) << 32
                | (stamps as u64 & 0xfff) << 20
                | (index as u64 & 0xfff) << 8
                | ttl as u64,
        )
    }

    pub(super) const fn ttl(self) -> u8 {
        self.0 as u8
    }

    /// Where the next stamp goes, but for the end of the ring.
    pub(super) const fn index(self) -> u32 {
        (self.0 >> 8) as u32 & 0xfff
    }

    pub(super) const fn stamps(self) -> u32 {
        (self.0 >> 20) as u32 & 0xfff
    }

    /// The next slot with stamps.
    pub(super) const fn more(self) -> u32 {
        (self.0 >> 32) as u32
    }
}

/// In pieces that are called one after the other and not one by the other: there is little stack left.
#[inline(always)]
pub(super) fn ask<P: Packet, H: Host>(
    run: &Run<'_, P, H>,
    scratch: &mut Scratch,
    condition: &Condition,
    index: u32,
) -> Result<bool, Trouble> {
    begin_search(run, scratch, condition, content::RECENT);
    // Both families are in one list, as in Linux.
    scratch.meter.list &= !content::V6;
    list_of(run.host.flows(), &mut scratch.meter)?;
    prepare(run, scratch, condition, index)?;
    carry_out(run.host, &mut scratch.meter)
}

#[cfg_attr(target_arch = "bpf", inline(never))]
#[cfg_attr(not(target_arch = "bpf"), inline)]
fn prepare<P: Packet, H: Host>(
    run: &Run<'_, P, H>,
    scratch: &mut Scratch,
    condition: &Condition,
    index: u32,
) -> Result<(), Trouble> {
    let Scratch { info, meter, .. } = scratch;
    meter.list |= family_bit(info.family);
    meter.own = meter.list;
    let Some(more) = run.host.condition(index.wrapping_add(1) % CONDITIONS_MAX) else {
        return Err(Trouble::Full);
    };
    let [a, b, c, d, ..] = more.data;
    let address = match condition.flags & flag::DESTINATION {
        0 => &info.source,
        _ => &info.destination,
    };
    let [high, low] = masked(address, &[a, b, c, d]);
    meter.key = [high, low, 0, 0, 0];
    let [_, _, what, seconds, hits, ring, _] = condition.data;
    meter.hops = hops(run.packet, info);
    meter.ttl = if what & recent::TTL != 0 {
        meter.hops
    } else {
        0
    };
    meter.what = what;
    meter.wanted = hits;
    meter.ring = ring;
    // Without a bound each stamp is young enough.
    meter.span = match seconds {
        0 => u32::MAX,
        seconds => seconds.wrapping_mul(run.host.hertz()),
    };
    Ok(())
}

/// What a rule does. Negation is its caller's; `--update` alone must know of it.
#[inline(always)]
pub(super) fn carry_out<H: Host>(host: &H, meter: &mut Meter) -> Result<bool, Trouble> {
    let flows = host.flows();
    lock_list(flows, meter)?;
    let mut done = look(host, meter);
    if done.is_ok() && meter.victim != 0 {
        let removed = remove(host, meter);
        done = removed.and(done);
    }
    if done.is_ok() && meter.begins {
        let begun = begin(host, meter);
        done = begun.and(done);
    }
    if done.is_ok() && meter.entry != 0 {
        stamp(flows, meter);
    }
    unlock_list(flows, meter);
    done
}

#[inline(always)]
fn hops<P: Packet>(packet: &P, info: &PacketInfo) -> u8 {
    let at = match info.family {
        Family::V4 => 8,
        Family::V6 => 7,
    };
    let header = packet.header(info.ip_offset + at, 1);
    header.map_or(0, |header| header.u8(0))
}

/// Looks the key at hand up, and says what is to be done.
#[cfg_attr(target_arch = "bpf", inline(never))]
#[cfg_attr(not(target_arch = "bpf"), inline)]
fn look<H: Host>(host: &H, meter: &mut Meter) -> Result<bool, Trouble> {
    let flows = host.flows();
    let what = meter.what;
    open(host, meter)?;
    close(flows, meter);
    release_stale(flows, meter);
    if meter.found == 0 {
        if what & recent::SET == 0 {
            return Ok(false);
        }
        meter.begins = true;
        meter.victim = crowded_out(flows, meter);
        let [high, low, ..] = meter.key;
        meter.kept = [high, low];
        return Ok(true);
    }
    let entry = meter.found;
    if what & recent::SET != 0 {
        meter.entry = entry;
        return Ok(true);
    }
    if what & recent::REMOVE != 0 {
        meter.victim = entry;
        return Ok(true);
    }
    let holds = has_hits(flows, meter);
    let is_negated = what & recent::NOT != 0;
    if what & recent::UPDATE != 0 && holds != is_negated {
        meter.entry = entry;
    }
    if what & recent::REAP != 0 {
        meter.victim = over(flows, meter);
    }
    Ok(holds)
}

/// The entry that must make room for one more; zero for none.
#[inline(always)]
fn crowded_out<M: FlowMemory>(flows: &M, meter: &Meter) -> u32 {
    let most = match flows.meter(0).map_or(0, |all| all.load(WORD_LIST_MAX)) {
        0 => RECENT_LIST_DEFAULT as u64,
        most => most,
    };
    let Some(list) = flows.meter(meter.header) else {
        return 0;
    };
    if list.load(LIST_COUNT) < most {
        return 0;
    }
    count(flows, WORD_EVICTED);
    (list.load(LINKS) >> 32) as u32
}

/// Makes an entry.
#[cfg_attr(target_arch = "bpf", inline(never))]
#[cfg_attr(not(target_arch = "bpf"), inline)]
fn begin<H: Host>(host: &H, meter: &mut Meter) -> Result<(), Trouble> {
    let flows = host.flows();
    let Some(list) = flows.meter(meter.header) else {
        return Err(Trouble::Full);
    };
    let [high, low] = meter.kept;
    let stamped = Meta::new(meter.hops, 1, 1, 0);
    meter.key = [high, low, 0, 0, 0];
    meter.ttl = if meter.what & recent::TTL != 0 {
        meter.hops
    } else {
        0
    };
    meter.list = meter.own;
    open(host, meter)?;
    // Not part of the name, but kept where others have the end of theirs.
    let [_, _, _, _, last] = &mut meter.key;
    *last = stamped.0;
    let made = add(flows, meter);
    meter.found = made.unwrap_or(0);
    close(flows, meter);
    release_stale(flows, meter);
    let Some(words) = flows.meter(meter.found) else {
        return Err(Trouble::Full);
    };
    if meter.found == 0 {
        return Err(Trouble::Full);
    }
    words.store(STATE, meter.now & 0xffff_ffff);
    list.add(LIST_COUNT, 1);
    append(flows, meter);
    Ok(())
}

/// Adds the entry that was found at the end of its list.
#[inline(always)]
fn append<M: FlowMemory>(flows: &M, meter: &Meter) {
    let (Some(list), Some(words)) = (flows.meter(meter.header), flows.meter(meter.found)) else {
        return;
    };
    let ends = list.load(LINKS);
    let newest = ends & 0xffff_ffff;
    words.store(LINKS, newest << 32);
    let found = meter.found as u64;
    if newest == 0 {
        list.store(LINKS, found << 32 | found);
        return;
    }
    set_next(flows, newest as u32, found);
    list.store(LINKS, ends & !0xffff_ffff | found);
}

/// Takes it out of the list's order.
#[cfg_attr(target_arch = "bpf", inline(never))]
#[cfg_attr(not(target_arch = "bpf"), inline)]
fn detach<M: FlowMemory>(flows: &M, header: u32, entry: u32) {
    let (Some(list), Some(words)) = (flows.meter(header), flows.meter(entry)) else {
        return;
    };
    let links = words.load(LINKS);
    let (previous, next) = (links >> 32, links & 0xffff_ffff);
    let ends = list.load(LINKS);
    let (mut oldest, mut newest) = (ends >> 32, ends & 0xffff_ffff);
    if previous == 0 {
        oldest = next;
    } else {
        set_next(flows, previous as u32, next);
    }
    if next == 0 {
        newest = previous;
    } else if let Some(words) = flows.meter(next as u32) {
        let after = words.load(LINKS) & 0xffff_ffff;
        words.store(LINKS, previous << 32 | after);
    }
    list.store(LINKS, oldest << 32 | newest);
}

fn set_next<M: FlowMemory>(flows: &M, entry: u32, next: u64) {
    if let Some(words) = flows.meter(entry) {
        let links = words.load(LINKS);
        words.store(LINKS, links & !0xffff_ffff | next);
    }
}

/// Takes the entry that is to go out of list and chain, and gives back its slots. The key at hand is
/// then that entry's.
#[cfg_attr(target_arch = "bpf", inline(never))]
#[cfg_attr(not(target_arch = "bpf"), inline)]
fn remove<H: Host>(host: &H, meter: &mut Meter) -> Result<(), Trouble> {
    let flows = host.flows();
    let entry = meter.victim;
    let (Some(words), Some(list)) = (flows.meter(entry), flows.meter(meter.header)) else {
        return Ok(());
    };
    let meta = Meta(words.load(LAST));
    meter.list = words.load(LIST);
    meter.key = [words.load(KEY), words.load(KEY + 1), 0, 0, 0];
    // Another entry of the same address has another TTL.
    meter.ttl = meta.ttl();
    open(host, meter)?;
    let is_it = meter.found == entry;
    if is_it {
        unlink_found(flows, meter);
    }
    close(flows, meter);
    release_stale(flows, meter);
    if !is_it {
        return Ok(());
    }
    detach(flows, meter.header, entry);
    list.add(LIST_COUNT, u64::MAX);
    words.store(NEXT, meta.more() as u64);
    meter.at = entry;
    meter.count = 1;
    flows.repeat(CHUNKS_MAX, &mut ToLast { flows, meter });
    release(flows, entry, meter.at, meter.count);
    Ok(())
}

/// Goes to the last of the slots that hang on one.
struct ToLast<'a, M> {
    flows: &'a M,
    meter: &'a mut Meter,
}

impl<M: FlowMemory> Repeat for ToLast<'_, M> {
    fn step(&mut self) -> bool {
        let next = match self.flows.meter(self.meter.at) {
            Some(words) => words.load(NEXT) as u32,
            None => 0,
        };
        if next == 0 {
            return false;
        }
        self.meter.at = next;
        self.meter.count += 1;
        true
    }
}

/// Whether so many stamps of the entry that was found are young enough.
#[inline(always)]
fn has_hits<M: FlowMemory>(flows: &M, meter: &mut Meter) -> bool {
    meter.at = meter.found;
    meter.index = 0;
    meter.count = 0;
    let meta = flows.meter(meter.found).map_or(0, |words| words.load(LAST));
    let mut hits = Hits {
        flows,
        meter,
        meta: Meta(meta),
        holds: false,
    };
    flows.repeat(RECENT_STAMPS_MAX, &mut hits);
    hits.holds
}

struct Hits<'a, M> {
    flows: &'a M,
    meter: &'a mut Meter,
    meta: Meta,
    holds: bool,
}

impl<M: FlowMemory> Repeat for Hits<'_, M> {
    fn step(&mut self) -> bool {
        let index = self.meter.index;
        if index >= self.meta.stamps() {
            return false;
        }
        if index != 0 && index.is_multiple_of(STAMPS) {
            self.meter.at = following(self.flows, self.meter, self.meta);
        }
        let Some(words) = self.flows.meter(self.meter.at) else {
            return false;
        };
        self.meter.index = index + 1;
        let age = (self.meter.now as u32).wrapping_sub(stamp_at(words, index));
        if age > self.meter.span {
            return true;
        }
        self.meter.count += 1;
        self.holds = self.meter.count >= self.meter.wanted;
        !self.holds
    }
}

/// The slot after the one at hand.
#[inline(always)]
fn following<M: FlowMemory>(flows: &M, meter: &Meter, meta: Meta) -> u32 {
    if meter.at == meter.found {
        return meta.more();
    }
    flows
        .meter(meter.at)
        .map_or(0, |words| words.load(NEXT) as u32)
}

/// A stamp of a slot, by its number in the ring.
#[inline(always)]
pub(super) fn stamp_at<W: Words>(words: W, index: u32) -> u32 {
    let half = (index & 1) * 32;
    (words.load(stamp_word(index)) >> half) as u32
}

#[inline(always)]
fn stamp_word(index: u32) -> u32 {
    STATE + (checked_index(index as usize) as u32 >> 1 & 7)
}

/// Stamps the entry that was found, which becomes the newest of its list.
#[cfg_attr(target_arch = "bpf", inline(never))]
#[cfg_attr(not(target_arch = "bpf"), inline)]
fn stamp<M: FlowMemory>(flows: &M, meter: &mut Meter) {
    meter.found = meter.entry;
    let Some(entry) = flows.meter(meter.found) else {
        return;
    };
    let meta = Meta(entry.load(LAST));
    let mut index = meta.index() & meter.ring;
    meter.at = meter.found;
    meter.index = 0;
    meter.wanted = index / STAMPS;
    flows.repeat(CHUNKS_MAX, &mut ToChunk { flows, meter });
    if meter.at == 0 {
        // No room for more of them: the ring is as long as it is.
        index = 0;
        meter.at = meter.found;
    }
    if let Some(words) = flows.meter(meter.at) {
        let half = (index & 1) * 32;
        let word = stamp_word(index);
        let others = words.load(word) & !(0xffff_ffff << half);
        words.store(word, others | (meter.now & 0xffff_ffff) << half);
    }
    let next = index + 1;
    let stamps = if next > meta.stamps() {
        next
    } else {
        meta.stamps()
    };
    let more = Meta(entry.load(LAST)).more();
    let ttl = match meter.what & recent::BY_HAND {
        0 => meter.hops,
        _ => meta.ttl(),
    };
    entry.store(LAST, Meta::new(ttl, next, stamps, more).0);
    detach(flows, meter.header, meter.found);
    append(flows, meter);
}

/// Goes to the slot with the wanted stamps, and makes it.
struct ToChunk<'a, M> {
    flows: &'a M,
    meter: &'a mut Meter,
}

impl<M: FlowMemory> Repeat for ToChunk<'_, M> {
    fn step(&mut self) -> bool {
        if self.meter.index >= self.meter.wanted {
            return false;
        }
        self.meter.index += 1;
        let is_first = self.meter.at == self.meter.found;
        let Some(words) = self.flows.meter(self.meter.at) else {
            self.meter.at = 0;
            return false;
        };
        let mut next = match is_first {
            true => Meta(words.load(LAST)).more(),
            false => words.load(NEXT) as u32,
        };
        if next == 0 {
            next = chunk(self.flows);
            match is_first {
                true => {
                    let kept = words.load(LAST) & 0xffff_ffff;
                    words.store(LAST, kept | (next as u64) << 32);
                }
                false => words.store(NEXT, next as u64),
            }
        }
        self.meter.at = next;
        next != 0
    }
}

/// A slot for stamps, zero for none.
#[inline(always)]
fn chunk<M: FlowMemory>(flows: &M) -> u32 {
    let Some(slot) = take(flows) else {
        return 0;
    };
    if let Some(words) = flows.meter(slot) {
        words.store(NEXT, 0);
        words.store(LIST, 0);
    }
    slot
}

/// The oldest entry of the list, if nothing has been seen of it for the time that was asked and it is not
/// about to be stamped; else zero.
#[inline(always)]
fn over<M: FlowMemory>(flows: &M, meter: &mut Meter) -> u32 {
    let list = flows.meter(meter.header).map_or(0, |list| list.load(LINKS));
    let oldest = (list >> 32) as u32;
    if oldest == 0 || oldest == meter.entry {
        return 0;
    }
    meter.found = oldest;
    match (meter.now as u32).wrapping_sub(latest(flows, meter)) > meter.span {
        true => oldest,
        false => 0,
    }
}

/// The latest stamp of the entry that was found.
#[inline(always)]
fn latest<M: FlowMemory>(flows: &M, meter: &mut Meter) -> u32 {
    let meta = flows.meter(meter.found).map_or(0, |words| words.load(LAST));
    let index = Meta(meta).index().wrapping_sub(1);
    meter.at = meter.found;
    meter.index = 0;
    let wanted = meter.wanted;
    meter.wanted = (index & 0xfff) / STAMPS;
    flows.repeat(CHUNKS_MAX, &mut ToChunk { flows, meter });
    meter.wanted = wanted;
    flows
        .meter(meter.at)
        .map_or(0, |words| stamp_at(words, index))
}

/// Takes all entries of the list at hand out, the list being held.
pub(super) fn clear<H: Host>(host: &H, meter: &mut Meter) -> Result<(), Trouble> {
    let mut clearing = Clear {
        host,
        meter,
        trouble: None,
    };
    host.repeat(METER_SLOTS, &mut clearing);
    clearing.trouble.map_or(Ok(()), Err)
}

struct Clear<'a, H> {
    host: &'a H,
    meter: &'a mut Meter,
    trouble: Option<Trouble>,
}

impl<H: Host> Repeat for Clear<'_, H> {
    fn step(&mut self) -> bool {
        let list = self.host.flows().meter(self.meter.header);
        let ends = list.map_or(0, |list| list.load(LINKS));
        self.meter.victim = (ends >> 32) as u32;
        if self.meter.victim == 0 {
            return false;
        }
        self.trouble = remove(self.host, self.meter).err();
        self.trouble.is_none()
    }
}
