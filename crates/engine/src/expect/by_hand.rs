//! Expectations that a program makes for a flow, as `conntrack -I expect` does. For user space.
//!
//! They lie among those of helpers and are met, counted, listed and ended like these. Of their source any
//! bits may count, which stand in words that helpers leave alone.

use super::{
    ANY_SOURCE_PORT, BY_HAND, Expectation, ExpectationControl, QUIET_END, STATE_LIVE, STATE_MASK,
    STATE_WRITTEN, WORD_CONTROL, WORD_DESTINATION, WORD_KIND, WORD_MASK, WORD_MASTER, WORD_NAME,
    WORD_PLACE, WORD_PORT_MASK, WORD_SOURCE, bucket_of, gone, master, name, place_word,
    store_address, survey,
};
use crate::helper;
use crate::helper::state::{self, Kind};
use crate::host::{FlowMemory, Words};
use crate::limits::{EXPECTATION_SLOTS, EXPECTATIONS_PER_BUCKET};
use crate::record::{ASSIGNED, FlowAssigned};
use crate::settings::Settings;
use crate::table::{Entry, Hash, gauges};
use crate::time::Tick;
use crate::track::count;
use crate::tuple::Address;

/// What became of it.
#[allow(
    clippy::large_enum_variant,
    reason = "one at a time, taken apart at once, where there is no heap"
)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Made {
    /// It is there; the one that made room for it, if the helper allows its flows no more.
    Done(Expectation, Option<Expectation>),
    /// Its packet is expected already.
    Exists,
    /// Some of its packets are expected already.
    Clash,
    /// The flow has no helper, to which an expectation belongs.
    NoHelper,
    /// `nf_conntrack_expect_max`, or the places of its bucket.
    Full,
}

/// What is expected: the first packet, and which bits of its source count.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Wanted {
    pub protocol: u8,
    pub source: Address,
    pub destination: Address,
    pub source_port: u16,
    pub destination_port: u16,
    pub source_mask: Address,
    pub port_mask: u16,
}

/// Whether there is an expectation that this packet meets, whoever made it.
pub fn is_expected<M: FlowMemory>(
    tables: &[M],
    settings: &Settings,
    wanted: &Wanted,
    owner: &Entry,
    now: Tick,
) -> bool {
    let exact = Wanted {
        source_mask: [u32::MAX; 4],
        port_mask: u16::MAX,
        ..*wanted
    };
    overlaps(tables, settings, &exact, owner, now)
}

/// Makes one for a flow. To be called by one thread at a time.
pub fn make<M: FlowMemory>(
    tables: &[M],
    settings: &Settings,
    wanted: &Wanted,
    owner: &Entry,
    now: Tick,
) -> Made {
    let Some(flows) = tables.first() else {
        return Made::Full;
    };
    if is_expected(tables, settings, wanted, owner, now) {
        return Made::Exists;
    }
    let assigned = owner.warm.assigned;
    let has_helper = owner.record.has(ASSIGNED) && assigned.helper() != 0;
    let Some(helper) = helper::numbered(assigned.helper()).filter(|_| has_helper) else {
        return Made::NoHelper;
    };
    if overlaps(tables, settings, wanted, owner, now) {
        return Made::Clash;
    }
    let ended = make_room(flows, owner, helper.expectations_max);
    let first = bucket_in(settings, wanted, owner);
    for index in first..first + EXPECTATIONS_PER_BUCKET {
        let Some(words) = flows.expectation(index) else {
            break;
        };
        let old = ExpectationControl(words.load(WORD_CONTROL));
        let state = old.0 & STATE_MASK;
        if state == STATE_WRITTEN || is_alive(tables, words, old, now) {
            continue;
        }
        let was_counted = state == STATE_LIVE;
        let held = flows
            .gauges()
            .map_or(0, |words| words.load(gauges::EXPECTATIONS));
        if held >= settings.expectations_max.into() && !was_counted {
            break;
        }
        let written = old.next(STATE_WRITTEN, 0, Tick(0));
        if words.compare_exchange(WORD_CONTROL, old.0, written.0) != old.0 {
            continue;
        }
        fill(words, wanted, owner);
        let deadline = now.after_seconds(helper.timeout);
        let control = written.next(STATE_LIVE, helper.number, deadline);
        words.store(WORD_CONTROL, control.0);
        count(
            flows,
            match was_counted {
                true => gauges::EXPECTATIONS_DELETED,
                false => gauges::EXPECTATIONS,
            },
        );
        count(flows, gauges::EXPECTATIONS_CREATED);
        note(flows, settings, owner, (index, control));
        return Made::Done(survey::read(words, control), ended);
    }
    count(flows, gauges::EXPECTATIONS_REFUSED);
    Made::Full
}

/// Lets what the helper expects next push it out in its turn. A flow that was never read has no notes, and
/// its first expectation comes beside this one.
fn note<M: FlowMemory>(
    flows: &M,
    settings: &Settings,
    owner: &Entry,
    (index, control): (u32, ExpectationControl),
) {
    let id = Hash::of(&owner.key, settings).id;
    let assigned = owner.warm.assigned;
    let max = helper::expectations_max(assigned.helper());
    if let Some(at) = state::number_of(flows, id, owner.key.family, assigned.born()) {
        state::note(flows, at, Kind::Passing, max, index, control.version());
    }
}

/// What the place of this number held when its control word was this one, before it was freed.
pub fn read_ended<M: FlowMemory>(flows: &M, index: u32, control: u64) -> Option<Expectation> {
    let words = flows.expectation(index)?;
    let control = ExpectationControl(control);
    let is_untouched = || words.load(WORD_CONTROL) == control.freed().0;
    let expectation = is_untouched().then(|| survey::read(words, control))?;
    is_untouched().then_some(expectation)
}

/// Takes out the oldest that the flow expects, where its helper allows no more.
fn make_room<M: FlowMemory>(flows: &M, owner: &Entry, max: u32) -> Option<Expectation> {
    let mut held = 0;
    let mut oldest: Option<(M::Words, ExpectationControl)> = None;
    for index in 0..EXPECTATION_SLOTS {
        let words = flows.expectation(index)?;
        let control = ExpectationControl(words.load(WORD_CONTROL));
        if control.0 & STATE_MASK != STATE_LIVE || !is_of(words, owner) {
            continue;
        }
        held += 1;
        // A deadline stands for the age: all of a flow's expectations last equally long.
        let is_older = oldest.is_none_or(|(_, other)| {
            let ahead = control.deadline().0.wrapping_sub(other.deadline().0);
            (ahead as i32) < 0
        });
        if is_older {
            oldest = Some((words, control));
        }
    }
    let (words, control) = oldest.filter(|_| held >= max)?;
    let expectation = survey::read(words, control);
    if words.compare_exchange(WORD_CONTROL, control.0, control.freed().0) != control.0 {
        return None;
    }
    gone(flows);
    Some(expectation)
}

fn is_of<W: Words>(words: W, owner: &Entry) -> bool {
    let mut key = (0..).zip(owner.key.words);
    (words.load(WORD_KIND) >> 16) as u16 == owner.warm.assigned.born()
        && key.all(|(at, word)| words.load(WORD_MASTER + at) == word)
}

fn is_alive<M: FlowMemory>(
    tables: &[M],
    words: M::Words,
    control: ExpectationControl,
    now: Tick,
) -> bool {
    let mut tables = tables.iter();
    control.is_live(now)
        && tables.any(|flows| master(flows, words, control.helper(), now).is_some())
}

/// Whether a packet of this source could meet what is expected already.
fn overlaps<M: FlowMemory>(
    tables: &[M],
    settings: &Settings,
    wanted: &Wanted,
    owner: &Entry,
    now: Tick,
) -> bool {
    let Some(flows) = tables.first() else {
        return false;
    };
    let first = bucket_in(settings, wanted, owner);
    let named = name_of(wanted, owner);
    (first..first + EXPECTATIONS_PER_BUCKET).any(|index| {
        let Some(words) = flows.expectation(index) else {
            return false;
        };
        let control = ExpectationControl(words.load(WORD_CONTROL));
        let other = survey::read(words, control);
        let is_named = (words.load(WORD_NAME) ^ named) & !(0xffff << 48) == 0;
        is_named
            && other.destination == wanted.destination
            && (0..4).all(|at| {
                let both = other.source_mask[at] & wanted.source_mask[at];
                (other.source[at] ^ wanted.source[at]) & both == 0
            })
            && (other.source_port ^ wanted.source_port) & other.port_mask & wanted.port_mask == 0
            && is_alive(tables, words, control, now)
    })
}

fn name_of(wanted: &Wanted, owner: &Entry) -> u64 {
    let zone = owner.key.zone();
    name(
        owner.key.family,
        wanted.protocol,
        zone,
        wanted.destination_port,
    )
}

fn bucket_in(settings: &Settings, wanted: &Wanted, owner: &Entry) -> u32 {
    bucket_of(settings, name_of(wanted, owner), &wanted.destination)
}

fn fill<W: Words>(words: W, wanted: &Wanted, owner: &Entry) {
    let assigned: FlowAssigned = owner.warm.assigned;
    let port = (wanted.source_port as u64) << 48;
    words.store(WORD_NAME, name_of(wanted, owner) | port);
    store_address(words, WORD_DESTINATION, &wanted.destination);
    store_address(words, WORD_SOURCE, &wanted.source);
    store_address(words, WORD_MASK, &wanted.source_mask);
    words.store(WORD_PORT_MASK, wanted.port_mask.into());
    let mut flags = BY_HAND;
    if wanted.port_mask == 0 {
        flags |= ANY_SOURCE_PORT;
    }
    if assigned.is_masked() {
        flags |= QUIET_END;
    }
    let born = (assigned.born() as u64) << 16;
    let side = (owner.record.originator() as u64) << 8;
    words.store(WORD_KIND, born | side | flags as u64);
    words.store(WORD_PLACE, place_word(owner.place));
    for (at, word) in (WORD_MASTER..).zip(owner.key.words) {
        words.store(at, word);
    }
}
