//! What the one writer does with the table.

use core::ops::Range;

use super::{
    BAN_BUCKET_SLOTS, BAN_BUCKETS_PROBED_MAX, EXEMPT, Entry, FAMILY, FOR_EVER, HIGH, Kind, LENGTH,
    LIMIT, LOW, NOTES, Name, Network, Put, SPARED, SPILLED, USED, find, is_over, next,
};
use crate::host::{FlowMemory, Words};
use crate::rate::Rate;
use crate::settings::Settings;
use crate::time::Tick;
use crate::tuple::Family;

/// Puts an entry into the table, or changes the one that is there. For one writer alone.
pub fn put<M: FlowMemory>(flows: &M, settings: &Settings, entry: &Entry) -> Put {
    let mut name = Name::of(
        entry.network.family,
        &entry.network.address,
        entry.network.length,
        entry.kind,
    );
    let mut bucket = name.hash(settings);
    let mut meta = match entry.deadline {
        Some(_) => name.meta,
        None => name.meta | FOR_EVER,
    };
    let mut low = name.low;
    if let Some(rate) = entry.rate {
        meta |= LIMIT;
        low = rate.word();
    }
    let deadline = entry.deadline.unwrap_or_default();
    let head = u64::from(meta) << 32 | u64::from(deadline.0);
    let notes = u64::from(entry.began.0) << 32 | u64::from(entry.cause);
    if let Some((words, slot)) = find(flows, settings, &name, bucket) {
        let before = words.load(slot);
        let is_limit = |head: u64| (head >> 32) as u32 & LIMIT != 0;
        if is_limit(head) && !is_limit(before) && !is_over(before, entry.began) {
            return Put::Outranked;
        }
        // What was counted stays with a limit that is as it was.
        if !is_limit(head) || !is_limit(before) || !Rate::is_same(words.load(LOW + slot), low) {
            words.store(LOW + slot, low);
        }
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
            words.store(LOW + slot, low);
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
    remove_if(flows, settings, network, kind, |_| true)
}

/// As [`remove`], of an entry that this is true of.
pub fn remove_if<M: FlowMemory>(
    flows: &M,
    settings: &Settings,
    network: &Network,
    kind: Kind,
    is_meant: impl FnOnce(&Entry) -> bool,
) -> bool {
    let mut name = Name::of(network.family, &network.address, network.length, kind);
    let bucket = name.hash(settings);
    let Some((words, slot)) = find(flows, settings, &name, bucket) else {
        return false;
    };
    if !entry(words, slot).is_some_and(|entry| is_meant(&entry)) {
        return false;
    }
    set_head(words, slot, 0);
    true
}

/// Shows the entry of a network, if there is one. For the writer.
pub fn look<M: FlowMemory>(
    flows: &M,
    settings: &Settings,
    network: &Network,
    kind: Kind,
    show: impl FnOnce(&Entry),
) {
    let mut name = Name::of(network.family, &network.address, network.length, kind);
    let bucket = name.hash(settings);
    let found = find(flows, settings, &name, bucket);
    if let Some(entry) = found.and_then(|(words, slot)| entry(words, slot)) {
        show(&entry);
    }
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
    let (high, mut low) = (words.load(HIGH + slot), words.load(LOW + slot));
    let rate = (meta & LIMIT != 0).then(|| Rate::of_word(core::mem::take(&mut low)));
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
        kind: match meta & (EXEMPT | SPARED) {
            0 => Kind::Ban,
            EXEMPT => Kind::Exempt,
            _ => Kind::Spared,
        },
        rate,
        deadline: (meta & FOR_EVER == 0).then_some(Tick(head as u32)),
        began: Tick((notes >> 32) as u32),
        cause: notes as u16,
    })
}
