//! `connlimit`: as nf_conncount of Linux 6.18.
//!
//! For each source (or network) that a rule counts there is an entry, and the flows that were counted hang on
//! it, the first first. A flow is counted when a packet of it comes by before it is ASSURED, whatever becomes of that, and once.
//! Before that those are let go that are no more: not in the table, or TCP connections that are closed.
//!
//! A packet of an ASSURED flow adds nothing, unless nothing is counted: then Linux 6.18 takes the zero for a want of memory and drops the
//! packet (the last one of a connection as a rule). Here its flow counts as one, as it did up to Linux 6.17.

use super::memory::{
    KEY, LAST, LINKS, LIST, NEXT, STATE, add, close, open, release, release_stale, take,
};
use super::{Meter, Standing, Trouble, content, prefix};
use crate::asked::Asker;
use crate::condition::flag;
use crate::conntrack::{self, tcp::TcpState};
use crate::host::{FlowMemory, Host, Packet, Repeat, Words};
use crate::limits::{CONNECTIONS_GONE_MAX, CONNECTIONS_WALKED_MAX};
use crate::policy::Condition;
use crate::process::{Run, Scratch};
use crate::record::ASSURED;
use crate::settings::Settings;
use crate::table::{self, Hash};
use crate::time::Tick;
use crate::track::Flow;
use crate::tuple::{Family, FlowKey};
use crate::wire::transport::TCP;

// Words of an entry; `LINKS` has the first of its flows above the last.
const COUNT: u32 = STATE;
/// Jiffies at which flows were let go, plus one, and above it how many were left.
const LOOKED: u32 = STATE + 1;

// Words of a flow: its name stands where entries have their key.
/// Jiffies at which it was counted, and above them the CPU.
const COUNTED: u32 = STATE;

/// In pieces, as `recent`.
#[inline(always)]
pub(super) fn ask<P: Packet, H: Host>(
    run: &Run<'_, P, H>,
    scratch: &mut Scratch,
    condition: &Condition,
) -> Result<bool, Trouble> {
    prepare(run, scratch, condition);
    open(run.host, &mut scratch.meter)?;
    note_standing(run.host, scratch);
    if is_to_be_looked_at(run.host.flows(), &scratch.meter) {
        let (family, now) = (scratch.info.family, scratch.now);
        let_go(run.host, &mut scratch.meter, family, now);
    }
    let found = tally(run.host, scratch)?;
    Ok(found > scratch.meter.wanted)
}

#[cfg_attr(target_arch = "bpf", inline(never))]
#[cfg_attr(not(target_arch = "bpf"), inline)]
fn prepare<P: Packet, H: Host>(run: &Run<'_, P, H>, scratch: &mut Scratch, condition: &Condition) {
    let [_, _, limit, length, ..] = condition.data;
    let now = run.host.jiffies(run.now);
    let family = scratch.info.family;
    scratch
        .meter
        .begin(condition, content::CONNECTIONS, family, now);
    let address = match condition.flags & flag::DESTINATION {
        0 => &scratch.info.source,
        _ => &scratch.info.destination,
    };
    let [high, low] = prefix(address, length);
    scratch.meter.key = [high, low, 0, 0, u64::from(scratch.zone)];
    scratch.meter.is_long = true;
    scratch.meter.cpu = run.host.cpu();
    scratch.meter.wanted = limit;
}

/// Notes what the packet's flow is called, and how far it has come.
#[cfg_attr(target_arch = "bpf", inline(never))]
#[cfg_attr(not(target_arch = "bpf"), inline)]
fn note_standing<H: Host>(host: &H, scratch: &mut Scratch) {
    scratch.meter.name = name(scratch);
    let is_raw = matches!(scratch.asked.table, Asker::Raw);
    scratch.meter.standing = Standing::Begins;
    // A record that a first packet finds is of a connection that is over.
    if !is_raw && matches!(scratch.tracked.flow, Flow::Begins) {
        return;
    }
    let meter = &mut scratch.meter;
    meter.flow.family = scratch.info.family;
    meter.flow.words = meter.name;
    note_hash(host.settings(), &meter.flow, &mut meter.hash);
    let record = table::peek(host.flows(), &meter.flow, &meter.hash, scratch.now);
    scratch.meter.standing = match record {
        Some(control) if control.status() & ASSURED != 0 => Standing::Assured,
        Some(_) => Standing::Known,
        None if matches!(scratch.tracked.flow, Flow::Ended(_)) && !is_raw => Standing::Known,
        None => Standing::Begins,
    };
}

/// Whether flows are to be let go of the entry that was found.
#[inline(always)]
fn is_to_be_looked_at<M: FlowMemory>(flows: &M, meter: &Meter) -> bool {
    meter.found != 0
        && (matches!(meter.standing, Standing::Known) || !was_just_looked_at(flows, meter))
}

/// Counts the packet's flow, and lets go of the bucket; how many there are.
#[cfg_attr(target_arch = "bpf", inline(never))]
#[cfg_attr(not(target_arch = "bpf"), inline)]
fn tally<H: Host>(host: &H, scratch: &mut Scratch) -> Result<u32, Trouble> {
    let flows = host.flows();
    let counted = tally_held(flows, scratch);
    close(flows, &scratch.meter);
    release_stale(flows, &scratch.meter);
    counted
}

#[inline(always)]
fn tally_held<M: FlowMemory>(flows: &M, scratch: &mut Scratch) -> Result<u32, Trouble> {
    if scratch.meter.found == 0 {
        let Some(slot) = add(flows, &mut scratch.meter) else {
            return Err(Trouble::Full);
        };
        scratch.meter.found = slot;
        if let Some(words) = flows.meter(slot) {
            words.store(COUNT, 0);
            words.store(LOOKED, 0);
        }
    } else if scratch.meter.is_counted || matches!(scratch.meter.standing, Standing::Assured) {
        let entry = flows.meter(scratch.meter.found);
        let count = entry.map_or(0, |words| words.load(COUNT));
        if count != 0 {
            return Ok(count as u32);
        }
    }
    append(flows, &mut scratch.meter)
}

/// Linux looks once a jiffy, unless very many have come since.
#[inline(always)]
fn was_just_looked_at<M: FlowMemory>(flows: &M, meter: &Meter) -> bool {
    let Some(words) = flows.meter(meter.found) else {
        return true;
    };
    let looked = words.load(LOOKED);
    let left = looked >> 32;
    let is_now = looked as u32 == meter.now as u32 | 1 << 31;
    is_now && words.load(COUNT).wrapping_sub(left) < u64::from(CONNECTIONS_GONE_MAX)
}

/// The name that the packet's flow has, or would have.
#[inline(always)]
fn name(scratch: &Scratch) -> [u64; 5] {
    let has_none =
        !matches!(scratch.asked.table, Asker::Raw) && matches!(scratch.tracked.flow, Flow::None);
    if has_none {
        return conntrack::tuple_of(&scratch.info, scratch.zone)
            .orient()
            .key
            .words;
    }
    scratch.oriented.key.words
}

/// Adds a flow to the entry that was found.
#[inline(always)]
fn append<M: FlowMemory>(flows: &M, meter: &mut Meter) -> Result<u32, Trouble> {
    let Some(entry) = flows.meter(meter.found) else {
        return Err(Trouble::Full);
    };
    let Some(slot) = take(flows) else {
        return Err(Trouble::Full);
    };
    let Some(words) = flows.meter(slot) else {
        return Err(Trouble::Full);
    };
    let [a, b, c, d, e] = meter.name;
    words.store(NEXT, 0);
    words.store(LIST, 0);
    words.store(KEY, a);
    words.store(KEY + 1, b);
    words.store(KEY + 2, c);
    words.store(KEY + 3, d);
    words.store(LAST, e);
    words.store(COUNTED, (meter.cpu as u64) << 32 | meter.now & 0xffff_ffff);
    let ends = entry.load(LINKS);
    let last = ends & 0xffff_ffff;
    let slot = slot as u64;
    if last == 0 {
        entry.store(LINKS, slot << 32 | slot);
    } else {
        if let Some(words) = flows.meter(last as u32) {
            words.store(NEXT, slot);
        }
        entry.store(LINKS, ends & !0xffff_ffff | slot);
    }
    let count = entry.load(COUNT) + 1;
    entry.store(COUNT, count);
    Ok(count as u32)
}

/// Lets flows go that are no more.
#[cfg_attr(target_arch = "bpf", inline(never))]
#[cfg_attr(not(target_arch = "bpf"), inline)]
pub(super) fn let_go<H: Host>(host: &H, meter: &mut Meter, family: Family, now: Tick) {
    let flows = host.flows();
    let Some(entry) = flows.meter(meter.found) else {
        return;
    };
    meter.at = (entry.load(LINKS) >> 32) as u32;
    meter.previous = 0;
    meter.count = 0;
    let mut going = Going {
        flows,
        settings: host.settings(),
        meter,
        family,
        now,
    };
    flows.repeat(CONNECTIONS_WALKED_MAX, &mut going);
    if meter.is_counted {
        return;
    }
    let left = entry.load(COUNT);
    entry.store(LOOKED, left << 32 | u64::from(meter.now as u32 | 1 << 31));
}

struct Going<'a, M> {
    flows: &'a M,
    settings: &'a Settings,
    meter: &'a mut Meter,
    family: Family,
    now: Tick,
}

impl<M: FlowMemory> Repeat for Going<'_, M> {
    fn step(&mut self) -> bool {
        let at = self.meter.at;
        if at == 0 || self.meter.count > CONNECTIONS_GONE_MAX {
            return false;
        }
        let Some(words) = self.flows.meter(at) else {
            return false;
        };
        let next = words.load(NEXT);
        self.meter.at = next as u32;
        let is_gone = self.is_gone(words);
        if self.meter.is_counted {
            return false;
        }
        if !is_gone {
            self.meter.previous = at;
            return true;
        }
        self.meter.count += 1;
        unhook(self.flows, self.meter, next);
        release(self.flows, at, at, 1);
        true
    }
}

impl<M: FlowMemory> Going<'_, M> {
    #[inline(always)]
    fn is_gone(&mut self, words: M::Words) -> bool {
        // In scratch memory: there is no stack left for it.
        let key = &mut self.meter.flow;
        key.family = self.family;
        key.words = [
            words.load(KEY),
            words.load(KEY + 1),
            words.load(KEY + 2),
            words.load(KEY + 3),
            words.load(LAST),
        ];
        note_hash(self.settings, key, &mut self.meter.hash);
        match table::peek(self.flows, key, &self.meter.hash, self.now) {
            Some(_)
                if matches!(self.meter.standing, Standing::Known)
                    && key.words == self.meter.name =>
            {
                self.meter.is_counted = true;
                false
            }
            Some(control) => {
                let state = control.tcp_state();
                key.protocol() == TCP && matches!(state, TcpState::TimeWait | TcpState::Close)
            }
            // It may be in the other table.
            None if self.settings.has_two_tables() => false,
            None => {
                // Another CPU may have the flow's first packet at hand.
                let counted = words.load(COUNTED);
                let age = (self.meter.now as u32).wrapping_sub(counted as u32);
                (counted >> 32) as u32 == self.meter.cpu || age >= 2
            }
        }
    }
}

/// Apart, so that its stack is free again.
#[cfg_attr(target_arch = "bpf", inline(never))]
#[cfg_attr(not(target_arch = "bpf"), inline)]
fn note_hash(settings: &Settings, key: &FlowKey, hash: &mut Hash) {
    *hash = Hash::of(key, settings);
}

/// Takes what follows `previous` off the entry that was found.
#[inline(always)]
fn unhook<M: FlowMemory>(flows: &M, meter: &Meter, next: u64) {
    let Some(entry) = flows.meter(meter.found) else {
        return;
    };
    let ends = entry.load(LINKS);
    let (mut first, mut last) = (ends >> 32, ends & 0xffff_ffff);
    if meter.previous == 0 {
        first = next;
    } else if let Some(words) = flows.meter(meter.previous) {
        words.store(NEXT, next);
    }
    if next == 0 {
        last = u64::from(meter.previous);
    }
    entry.store(LINKS, first << 32 | last);
    entry.store(COUNT, entry.load(COUNT).wrapping_sub(1));
}

/// Whether nothing hangs on an entry.
pub(super) fn is_empty<W: Words>(words: W) -> bool {
    words.load(COUNT) == 0
}
