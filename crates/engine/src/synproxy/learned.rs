//! What servers say in their SYN-ACKs, for rules that name no options: then clients are agreed with on what the server
//! has.
//!
//! Of a server that is not known yet most is assumed, since nothing is learned of what nobody offers it; for the same
//! reason what is known is forgotten after a while. Kept behind [`super::places`], in the same table.

use super::agreed::{
    OPTION_MSS, OPTION_SACK, OPTION_SCALE, OPTION_TIMESTAMPS, RuleOptions, TIMESTAMPS,
};
use super::number;
use crate::host::{FlowMemory, Host, Repeat, Words};
use crate::limits::{
    SYNPROXY_BUCKETS, SYNPROXY_PER_BUCKET, SYNPROXY_SERVER_BUCKETS, SYNPROXY_SERVER_SECONDS,
    TCP_MSS_DEFAULT,
};
use crate::process::Scratch;
use crate::time::{TICKS_PER_SECOND, Tick};
use crate::tuple::Address;

/// What stands for the server, zero for nobody.
const WORD_SERVER: u32 = 0;
/// Somebody writes.
const BUSY: u64 = 1;
/// What it has, as a rule would say it (32), and since when that is known (ticks, 32).
const WORD_SAID: u32 = 1;

/// What clients are told of windows, which are shifted to fit it: 16 MiB at most, to 256 bytes.
pub(super) const SCALE: u8 = 8;

/// Of servers that are not known. The size goes through every network of IPv6.
const ASSUMED: RuleOptions = RuleOptions::new(
    OPTION_MSS | OPTION_SCALE | OPTION_SACK | OPTION_TIMESTAMPS,
    SCALE,
    1220,
);

const NOWHERE: u32 = u32::MAX;

/// A search of a bucket, in scratch memory.
#[derive(Clone, Copy, Debug)]
pub(super) struct Search {
    server: u64,
    now: Tick,
    bucket: u32,
    next: u32,
    found: u32,
    /// Where what is known has been known for longest, and for how long.
    oldest: u32,
    age: u32,
}

impl Search {
    pub(super) const NOTHING: Self = Self {
        server: 0,
        now: Tick(0),
        bucket: SYNPROXY_BUCKETS,
        next: 0,
        found: NOWHERE,
        oldest: NOWHERE,
        age: 0,
    };
}

/// Ticks for which this is known.
const fn age(said: u64, now: Tick) -> u32 {
    now.0.wrapping_sub((said >> 32) as u32)
}

const fn is_valid(said: u64, now: Tick) -> bool {
    age(said, now) < SYNPROXY_SERVER_SECONDS * TICKS_PER_SECOND
}

struct Find<'a, M> {
    flows: &'a M,
    search: &'a mut Search,
}

impl<M: FlowMemory> Repeat for Find<'_, M> {
    fn step(&mut self) -> bool {
        let slot = self.search.next;
        self.search.next = slot.wrapping_add(1);
        let Some(words) = self.flows.synproxy(self.search.bucket, slot) else {
            return false;
        };
        let server = words.load(WORD_SERVER);
        if server == self.search.server {
            self.search.found = slot;
            return false;
        }
        let age = match server {
            0 => u32::MAX,
            _ => age(words.load(WORD_SAID), self.search.now),
        };
        if server != BUSY && age >= self.search.age {
            self.search.oldest = slot;
            self.search.age = age;
        }
        true
    }
}

#[inline(always)]
fn at<M: FlowMemory>(flows: &M, bucket: u32, slot: u32) -> Option<M::Words> {
    match slot {
        NOWHERE => None,
        slot => flows.synproxy(bucket, slot),
    }
}

#[cfg_attr(target_arch = "bpf", inline(never))]
fn look<H: Host>(host: &H, search: &mut Search, server: &Address, port: u16, now: Tick) {
    let server = number::server(&host.settings().hash_keys, server, port);
    *search = Search {
        server: if server > BUSY { server } else { BUSY + 1 },
        now,
        bucket: SYNPROXY_BUCKETS + (server >> 32) as u32 % SYNPROXY_SERVER_BUCKETS,
        ..Search::NOTHING
    };
    let flows = host.flows();
    flows.repeat(SYNPROXY_PER_BUCKET, &mut Find { flows, search });
}

/// What the server has that a SYN goes to.
#[inline(always)]
pub(super) fn options<H: Host>(host: &H, scratch: &mut Scratch) -> RuleOptions {
    let Scratch {
        info,
        synproxy,
        now,
        ..
    } = scratch;
    let search = &mut synproxy.server;
    look(host, search, &info.destination, info.destination_port, *now);
    let words = at(host.flows(), search.bucket, search.found);
    match words.map(|words| words.load(WORD_SAID)) {
        Some(said) if is_valid(said, *now) => RuleOptions(said & 0xffff_ffff),
        _ => ASSUMED,
    }
}

/// Takes note of what a server's SYN-ACK says.
#[inline(always)]
pub(super) fn learn<H: Host>(host: &H, scratch: &mut Scratch) {
    let Scratch {
        info,
        synproxy,
        now,
        ..
    } = scratch;
    let search = &mut synproxy.server;
    look(host, search, &info.source, info.source_port, *now);
    let flows = host.flows();
    let found = at(flows, search.bucket, search.found);
    let old = match found.map(|words| words.load(WORD_SAID)) {
        Some(said) if is_valid(said, *now) => said,
        _ => u64::from(now.0) << 32 | ASSUMED.0,
    };
    let mut has = old & 0xff;
    let options = &info.options;
    for (bit, was_offered, is_there) in [
        (
            OPTION_SACK,
            synproxy.agreed.kept().sack_permitted,
            options.syn.sack_permitted,
        ),
        (
            OPTION_TIMESTAMPS,
            synproxy.agreed.has(TIMESTAMPS),
            options.timestamps.is_some(),
        ),
    ] {
        if was_offered {
            has = if is_there { has | bit } else { has & !bit };
        }
    }
    let size = match options.mss {
        0 => TCP_MSS_DEFAULT,
        size => size,
    };
    let said = old >> 32 << 32 | RuleOptions::new(has, SCALE, size).0;
    if let Some(words) = found {
        if words.load(WORD_SAID) != said {
            words.store(WORD_SAID, said);
        }
        return;
    }
    let Some(words) = at(flows, search.bucket, search.oldest) else {
        return;
    };
    let server = words.load(WORD_SERVER);
    if server != BUSY && words.compare_exchange(WORD_SERVER, server, BUSY) == server {
        words.store(WORD_SAID, said);
        words.store(WORD_SERVER, search.server);
    }
}
