//! Flows that helpers foretell: a bounded table in memory that all CPUs share, without locks.
//!
//! Buckets of eight places, by the hash of what is expected to be the destination. A place is given out
//! by compare-and-swap of its control word, written, and published by a last store; whoever reads one
//! reads the control word again afterwards.
//!
//! **An end for each.** An expectation serves one flow, unless it is permanent: the first packet that is
//! let in as RELATED takes it out by compare-and-swap, so of two CPUs one gets it. It ends with its
//! age. And it ends with its master: that record is looked up where it was, and must have the same
//! key and the same moment of birth. What has ended so is found by nobody, and its place is free for
//! the next.
//!
//! **No room** (`nf_conntrack_expect_max`, or the eight places of a bucket): none is made, which is
//! counted, and the packet passes; its data connection is then NEW. The flow's own oldest one makes
//! room first where the helper allows no more at a time, so nobody can fill the table with one flow.
//!
//! At worst, two packets of one flow that ask for an expectation at the same moment on two CPUs leave
//! one more than the flow may have, until it expires.

pub mod by_hand;
mod forget;
mod survey;
mod tell;

use self::forget::remove_oldest;
pub(crate) use self::forget::{deadline_of_lasting, forget_lasting, forget_noted};
pub(crate) use self::survey::moved;
pub use self::survey::{remove_if, sweep, visit};
use self::tell::tell;

use crate::event::{EventKind, told};
use crate::helper::state::{self, Kind};
use crate::helper::{self, sip};
use crate::host::{FlowMemory, Host, Repeat, Words};
use crate::limits::{EXPECTATION_BUCKETS, EXPECTATION_SLOTS, EXPECTATIONS_PER_BUCKET};
use crate::process::{OtherTable, Run, Scratch, Stage};
use crate::record::{ASSIGNED, CONTROL_WORD, Control, KEY_WORD, Warm};
use crate::settings::{SETTING_NEWER_TABLE, Settings};
use crate::table::{Hash, Place, gauges};
use crate::time::Tick;
use crate::trace::Step;
use crate::track::count;
use crate::tuple::{Address, Family, FlowKey, KEY_WORD0_FOREIGN_BITS, Side};
use crate::wire::transport::{TCP, UDP};

/// No place in the table.
pub(crate) const NOWHERE: u32 = u32::MAX;

/// Any port of the source will do.
pub const ANY_SOURCE_PORT: u8 = 1 << 0;
/// Any source will do.
pub const ANY_SOURCE: u8 = 1 << 1;
/// Stays when it was used.
pub const PERMANENT: u8 = 1 << 2;
/// A program made it: which bits of the source count stands apart.
pub(crate) const BY_HAND: u8 = 1 << 5;
/// Nobody is told of its end: a rule has chosen which events are told of its flow.
pub(crate) const QUIET_END: u8 = 1 << 6;
/// Two bits: what kind of media, for whom it may concern.
const CLASS_SHIFT: u32 = 3;

/// The bits of flags that stand for a class.
pub(crate) const fn class(number: u8) -> u8 {
    (number & 3) << CLASS_SHIFT
}

// Words of an expectation. The control word: deadline (32), version (16), helper (8), state (8).
const WORD_CONTROL: u32 = 0;
/// Source port (16), destination port (16), family (8), zone (16), protocol (8).
const WORD_NAME: u32 = 1;
const WORD_DESTINATION: u32 = 2;
const WORD_SOURCE: u32 = 4;
/// Birth of the master (16), the side of it that began (8), flags (8).
const WORD_KIND: u32 = 6;
/// Family (8), slot (8), bucket (32) of the master.
const WORD_PLACE: u32 = 7;
const WORD_MASTER: u32 = 8;
/// With [`BY_HAND`]: which bits of the source's address (two words) and port count.
const WORD_MASK: u32 = 13;
const WORD_PORT_MASK: u32 = 15;

const STATE_FREE: u64 = 0;
const STATE_WRITTEN: u64 = 1;
const STATE_LIVE: u64 = 2;
const STATE_MASK: u64 = 0xff;

/// The control word of a place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ExpectationControl(pub u64);

impl ExpectationControl {
    const fn is_live(self, now: Tick) -> bool {
        self.0 & STATE_MASK == STATE_LIVE && !self.deadline().has_passed(now)
    }

    pub const fn deadline(self) -> Tick {
        Tick((self.0 >> 32) as u32)
    }

    /// Number of the helper that foretold it.
    pub const fn helper(self) -> u8 {
        (self.0 >> 8) as u8
    }

    const fn version(self) -> u16 {
        (self.0 >> 16) as u16
    }

    /// The next version of this word.
    const fn next(self, state: u64, helper: u8, deadline: Tick) -> Self {
        let version = self.version().wrapping_add(1) as u64;
        Self((deadline.0 as u64) << 32 | version << 16 | (helper as u64) << 8 | state)
    }

    const fn freed(self) -> Self {
        self.next(STATE_FREE, 0, Tick(0))
    }
}

/// What a flow expects. Its ports are those of the first packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Expectation {
    pub family: Family,
    pub protocol: u8,
    pub zone: u16,
    pub source: Address,
    pub destination: Address,
    pub source_port: u16,
    pub destination_port: u16,
    /// Bits `ANY_*`, [`PERMANENT`], and those of [`Expectation::class`].
    pub flags: u8,
    /// Which bits of the source count.
    pub source_mask: Address,
    pub port_mask: u16,
    pub helper: u8,
    pub deadline: Tick,
    pub master: FlowKey,
    pub master_originator: Side,
}

/// What a helper has read of a flow that is to come, in scratch memory.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Wanted {
    pub(crate) source: Address,
    pub(crate) destination: Address,
    pub(crate) port: u16,
    pub(crate) protocol: u8,
    pub(crate) flags: u8,
    /// For how long.
    pub(crate) seconds: u32,
}

/// Where a search of a bucket has come to, in scratch memory.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Search {
    at: u32,
    name: u64,
    /// The expectation that was found.
    pub(crate) found: u32,
    pub(crate) control: u64,
    /// Whether it is the flow's own.
    is_own: u8,
    /// A place to write to, and what its control word was.
    room: u32,
    room_control: u64,
    /// Mark of the master.
    pub(crate) mark: u32,
    /// Helper that the new flow gets, zero for none.
    pub(crate) helper: u8,
}

impl Search {
    pub(crate) const NOTHING: Self = Self {
        at: 0,
        name: 0,
        found: NOWHERE,
        control: 0,
        is_own: 0,
        room: NOWHERE,
        room_control: 0,
        mark: 0,
        helper: 0,
    };
}

impl Wanted {
    pub(crate) const NOTHING: Self = Self {
        source: [0; 4],
        destination: [0; 4],
        port: 0,
        protocol: 0,
        flags: 0,
        seconds: 0,
    };
}

/// The stage that begins a flow: a search first, where anything is expected.
#[inline(always)]
pub(crate) fn before_beginning<H: Host>(host: &H, scratch: &mut Scratch) -> Stage {
    let was_sought = scratch.other_table == OtherTable::Seen && !is_older(host);
    if was_sought && scratch.search.found != NOWHERE {
        // The flow that expects it is in the older table.
        return Stage::Advance;
    }
    nothing_expected(scratch);
    let gauges = host.flows().gauges();
    match gauges.map_or(0, |words| words.load(gauges::EXPECTATIONS)) {
        0 => beginning(host),
        _ => Stage::Foretold,
    }
}

/// Notes that no expectation was met. Without it, what an earlier packet met would be taken for this one's.
#[inline(always)]
pub(crate) fn nothing_expected(scratch: &mut Scratch) {
    scratch.search.found = NOWHERE;
}

/// What comes when nothing more is to be looked for: a flow begins, in the newer table if there are two.
#[inline(always)]
pub(crate) fn beginning<H: Host>(host: &H) -> Stage {
    match is_older(host) {
        true => Stage::Elsewhere,
        false => Stage::Advance,
    }
}

/// Whether there is a newer table than the one at hand.
#[inline(always)]
fn is_older<H: Host>(host: &H) -> bool {
    host.settings().has(SETTING_NEWER_TABLE)
}

/// Looks for an expectation that the packet of an unknown flow meets.
#[cfg_attr(target_arch = "bpf", inline(never))]
#[cfg_attr(not(target_arch = "bpf"), inline)]
pub(crate) fn seek<H: Host>(host: &H, scratch: &mut Scratch) -> Stage {
    let info = &scratch.info;
    if info.protocol == TCP || info.protocol == UDP {
        let zone = scratch.oriented.key.zone();
        let name = name(info.family, info.protocol, zone, info.destination_port);
        let destination = info.destination;
        scratch.search = Search {
            at: bucket(host, name, &destination),
            name,
            ..Search::NOTHING
        };
        let flows = host.flows();
        flows.repeat(EXPECTATIONS_PER_BUCKET, &mut Seek { flows, scratch });
        if scratch.search.found != NOWHERE {
            let helper = ExpectationControl(scratch.search.control).helper();
            host.trace(Step::Foretold(helper));
        }
    }
    beginning(host)
}

struct Seek<'a, M> {
    flows: &'a M,
    scratch: &'a mut Scratch,
}

impl<M: FlowMemory> Repeat for Seek<'_, M> {
    fn step(&mut self) -> bool {
        let scratch = &mut *self.scratch;
        let at = scratch.search.at;
        scratch.search.at = at.wrapping_add(1);
        let Some(words) = self.flows.expectation(at) else {
            return false;
        };
        let control = ExpectationControl(words.load(WORD_CONTROL));
        if !control.is_live(scratch.now) || !fits(words, scratch) {
            return true;
        }
        let Some(warm) = master(self.flows, words, control.helper(), scratch.now) else {
            return true;
        };
        if words.load(WORD_CONTROL) != control.0 {
            return true;
        }
        scratch.search.found = at;
        scratch.search.control = control.0;
        scratch.search.mark = warm.mark;
        scratch.search.helper = match words.load(WORD_KIND) as u8 & PERMANENT {
            0 => 0,
            _ => sip::of_call(scratch.info.protocol),
        };
        false
    }
}

/// Whether a packet is what is expected.
fn fits<W: Words>(words: W, scratch: &Scratch) -> bool {
    let info = &scratch.info;
    let kind = words.load(WORD_KIND);
    let name = words.load(WORD_NAME);
    let named = (name ^ scratch.search.name) & !(0xffff << 48) == 0;
    let any_port = kind & ANY_SOURCE_PORT as u64 != 0;
    let mut port_bits = (name >> 48) as u16 ^ info.source_port;
    let [a, b, c, d] = info.source;
    let mut high = words.load(WORD_SOURCE) ^ pair(a, b);
    let mut low = words.load(WORD_SOURCE + 1) ^ pair(c, d);
    if kind & BY_HAND as u64 != 0 {
        high &= words.load(WORD_MASK);
        low &= words.load(WORD_MASK + 1);
        port_bits &= words.load(WORD_PORT_MASK) as u16;
    }
    let port = any_port || port_bits == 0;
    let any_source = kind & ANY_SOURCE as u64 != 0;
    let source = any_source || high | low == 0;
    named && port && source && differs(words, WORD_DESTINATION, &info.destination) == 0
}

/// Takes the expectation that [`seek`] found; `false` when another CPU was first.
#[inline(always)]
pub(crate) fn take<H: Host>(host: &H, found: u32, control: u64) -> bool {
    let flows = host.flows();
    let Some(words) = flows.expectation(found) else {
        return false;
    };
    if words.load(WORD_KIND) & PERMANENT as u64 != 0 {
        count(flows, gauges::EXPECTATIONS_MET);
        return true;
    }
    let freed = ExpectationControl(control).freed();
    if words.compare_exchange(WORD_CONTROL, control, freed.0) != control {
        return false;
    }
    count(flows, gauges::EXPECTATIONS_MET);
    gone(flows);
    // Whoever gets the place next writes to it only after it has claimed it: what is read here may
    // be that, seldom, and then an event is wrong.
    tell(host, EventKind::Unexpected, words, control, found);
    true
}

/// Puts what a helper wants into the table.
#[cfg_attr(target_arch = "bpf", inline(never))]
#[cfg_attr(not(target_arch = "bpf"), inline)]
pub(crate) fn make<P, H: Host>(run: &Run<'_, P, H>, scratch: &mut Scratch) -> Stage {
    let host = run.host;
    let flows = host.flows();
    let Wanted {
        protocol,
        port,
        destination,
        ..
    } = scratch.wanted;
    host.trace(Step::Expects(port));
    if scratch.given.is_masked() {
        scratch.wanted.flags |= QUIET_END;
    }
    let zone = scratch.oriented.key.zone();
    let name = name(scratch.info.family, protocol, zone, port);
    scratch.search = Search {
        at: bucket(host, name, &destination),
        name,
        ..Search::NOTHING
    };
    let mut survey = Survey {
        flows,
        scratch,
        keeps_all: host.settings().has_two_tables(),
    };
    flows.repeat(EXPECTATIONS_PER_BUCKET, &mut survey);
    if scratch.search.found == NOWHERE {
        remove_oldest(host, scratch);
        add(host, scratch);
    } else if scratch.search.is_own != 0 {
        renew(flows, scratch);
    } else {
        // Another flow of the same two hosts expects the same.
        count(flows, gauges::EXPECTATIONS_REFUSED);
    }
    if matches!(Kind::of(scratch.wanted.flags), Kind::Lasting) {
        sip::last_as_registered(host, scratch);
    }
    sip::next(scratch)
}

/// Looks for the same expectation, and for room.
struct Survey<'a, M> {
    flows: &'a M,
    scratch: &'a mut Scratch,
    /// The flows that expect may be in another table.
    keeps_all: bool,
}

impl<M: FlowMemory> Repeat for Survey<'_, M> {
    fn step(&mut self) -> bool {
        let scratch = &mut *self.scratch;
        let at = scratch.search.at;
        scratch.search.at = at.wrapping_add(1);
        let Some(words) = self.flows.expectation(at) else {
            return false;
        };
        let control = ExpectationControl(words.load(WORD_CONTROL));
        if control.0 & STATE_MASK == STATE_WRITTEN {
            return true;
        }
        let alive = control.is_live(scratch.now)
            && (self.keeps_all
                || master(self.flows, words, control.helper(), scratch.now).is_some());
        if !alive {
            scratch.search.room = at;
            scratch.search.room_control = control.0;
            return true;
        }
        if !is_same(words, scratch) {
            return true;
        }
        scratch.search.found = at;
        scratch.search.control = control.0;
        let own = words.load(WORD_PLACE) == place_word(scratch.seen.place);
        scratch.search.is_own = own as u8;
        false
    }
}

fn is_same<W: Words>(words: W, scratch: &Scratch) -> bool {
    let wanted = &scratch.wanted;
    let name = words.load(WORD_NAME) == scratch.search.name;
    let flags = words.load(WORD_KIND) as u8 == wanted.flags;
    let source = differs(words, WORD_SOURCE, &wanted.source);
    name && flags && (source | differs(words, WORD_DESTINATION, &wanted.destination)) == 0
}

fn add<H: Host>(host: &H, scratch: &mut Scratch) {
    let flows = host.flows();
    let held = flows
        .gauges()
        .map_or(0, |words| words.load(gauges::EXPECTATIONS));
    let old = ExpectationControl(scratch.search.room_control);
    let was_counted = old.0 & STATE_MASK == STATE_LIVE;
    let full = held >= host.settings().expectations_max as u64 && !was_counted;
    let words = flows.expectation(scratch.search.room);
    let (false, Some(words)) = (full, words) else {
        count(flows, gauges::EXPECTATIONS_REFUSED);
        return;
    };
    let written = old.next(STATE_WRITTEN, 0, Tick(0));
    if words.compare_exchange(WORD_CONTROL, old.0, written.0) != old.0 {
        count(flows, gauges::EXPECTATIONS_REFUSED);
        return;
    }
    fill(words, scratch);
    let deadline = scratch.now.after_seconds(scratch.wanted.seconds);
    let control = written.next(STATE_LIVE, scratch.given.helper(), deadline);
    words.store(WORD_CONTROL, control.0);
    if was_counted {
        count(flows, gauges::EXPECTATIONS_DELETED);
    } else {
        count(flows, gauges::EXPECTATIONS);
    }
    count(flows, gauges::EXPECTATIONS_CREATED);
    note(flows, scratch, scratch.search.room, control);
    if scratch.given.tells(told::EXPECTED) {
        tell(
            host,
            EventKind::Expected,
            words,
            control.0,
            scratch.search.room,
        );
    }
}

fn fill<W: Words>(words: W, scratch: &Scratch) {
    let wanted = &scratch.wanted;
    words.store(WORD_NAME, scratch.search.name);
    store_address(words, WORD_DESTINATION, &wanted.destination);
    store_address(words, WORD_SOURCE, &wanted.source);
    let born = (scratch.given.born() as u64) << 16;
    let side = (scratch.record.originator() as u64) << 8;
    words.store(WORD_KIND, born | side | wanted.flags as u64);
    words.store(WORD_PLACE, place_word(scratch.seen.place));
    let [a, b, c, d, e] = scratch.oriented.key.words;
    words.store(WORD_MASTER, a);
    words.store(WORD_MASTER + 1, b);
    words.store(WORD_MASTER + 2, c);
    words.store(WORD_MASTER + 3, d);
    words.store(WORD_MASTER + 4, e);
}

fn renew<M: FlowMemory>(flows: &M, scratch: &Scratch) {
    let Some(words) = flows.expectation(scratch.search.found) else {
        return;
    };
    let old = ExpectationControl(scratch.search.control);
    let new = old.next(
        STATE_LIVE,
        scratch.given.helper(),
        scratch.now.after_seconds(scratch.wanted.seconds),
    );
    if words.compare_exchange(WORD_CONTROL, old.0, new.0) == old.0 {
        note(flows, scratch, scratch.search.found, new);
    }
}

fn note<M: FlowMemory>(flows: &M, scratch: &Scratch, index: u32, control: ExpectationControl) {
    let max = helper::expectations_max(scratch.given.helper());
    let kind = Kind::of(scratch.wanted.flags);
    state::note(flows, scratch.state, kind, max, index, control.version());
}

fn gone<M: FlowMemory>(flows: &M) {
    if let Some(words) = flows.gauges() {
        words.add(gauges::EXPECTATIONS, u64::MAX);
        words.add(gauges::EXPECTATIONS_DELETED, 1);
    }
}

/// The warm words of the flow that expects; `None` when its record is gone.
fn master<M: FlowMemory, W: Words>(flows: &M, words: W, helper: u8, now: Tick) -> Option<Warm> {
    let place = place_of(words.load(WORD_PLACE));
    let slot = flows.slot(place.family, place.bucket, place.slot)?;
    let control = Control(slot.load(CONTROL_WORD));
    let mut difference = (slot.load(KEY_WORD) ^ words.load(WORD_MASTER)) & !KEY_WORD0_FOREIGN_BITS;
    difference |= slot.load(KEY_WORD + 1) ^ words.load(WORD_MASTER + 1);
    if matches!(place.family, Family::V6) {
        let slot = flows.slot(Family::V6, place.bucket, place.slot)?;
        difference |= slot.load(KEY_WORD + 2) ^ words.load(WORD_MASTER + 2);
        difference |= slot.load(KEY_WORD + 3) ^ words.load(WORD_MASTER + 3);
        difference |= slot.load(KEY_WORD + 4) ^ words.load(WORD_MASTER + 4);
    }
    let is_live = control.holds_record()
        && control.status() & ASSIGNED != 0
        && !control.deadline().has_passed(now);
    if difference != 0 || !is_live {
        return None;
    }
    let warm = Warm::read(flows.warm(place.family, place.bucket, place.slot)?);
    let born = (words.load(WORD_KIND) >> 16) as u16;
    let same = warm.assigned.helper() == helper && warm.assigned.born() == born;
    same.then_some(warm)
}

fn bucket<H: Host>(host: &H, name: u64, destination: &Address) -> u32 {
    bucket_of(host.settings(), name, destination)
}

#[inline(always)]
fn bucket_of(settings: &Settings, name: u64, destination: &Address) -> u32 {
    let [a, b, c, d] = *destination;
    let key = FlowKey {
        family: Family::V6,
        words: [name << 8, pair(a, b), pair(c, d), 0, 0],
    };
    let hash = Hash::of(&key, settings);
    (hash.id % EXPECTATION_BUCKETS) * EXPECTATIONS_PER_BUCKET
}

/// The word that tells one expectation of a destination from another, without a source port.
const fn name(family: Family, protocol: u8, zone: u16, port: u16) -> u64 {
    (port as u64) << 32 | (family as u64) << 24 | (zone as u64) << 8 | protocol as u64
}

const fn place_word(place: Place) -> u64 {
    (place.family as u64) << 40 | (place.slot as u64) << 32 | place.bucket as u64
}

const fn place_of(word: u64) -> Place {
    Place {
        family: match (word >> 40) as u8 {
            0 => Family::V4,
            _ => Family::V6,
        },
        slot: (word >> 32) as u32 & 0xff,
        bucket: word as u32,
    }
}

const fn pair(high: u32, low: u32) -> u64 {
    (high as u64) << 32 | low as u64
}

fn differs<W: Words>(words: W, at: u32, address: &Address) -> u64 {
    let [a, b, c, d] = *address;
    (words.load(at) ^ pair(a, b)) | (words.load(at + 1) ^ pair(c, d))
}

fn store_address<W: Words>(words: W, at: u32, address: &Address) {
    let [a, b, c, d] = *address;
    words.store(at, pair(a, b));
    words.store(at + 1, pair(c, d));
}

const _: () = assert!(EXPECTATION_SLOTS == EXPECTATION_BUCKETS * EXPECTATIONS_PER_BUCKET);
