//! Matches that do not fit into a rule: what a rule's [`Condition`]s ask of a packet.
//!
//! The walk over the rules stops at a rule whose own fields match and that has conditions. The stage
//! [`Stage::Weigh`] goes on from there: in one loop it asks the conditions of a rule one by one
//! and, between two rules that have some, tries rules as the walk does, up to the verdict. So
//! packets that meet no such rule never enter the stage, and those that do enter it once.
//!
//! Targets that say something of a packet and let the walk go on (LOG, MARK) are the last condition of
//! their rule: one that does something, and holds.
//!
//! All conditions of a rule must hold. [`flag::OR`] joins one to those after it: it is enough when
//! one of them holds. [`flag::NOT`] turns one round, but what a packet does not have (the ports of a
//! fragment, the flow of an INVALID packet) holds neither way, as in iptables.

mod act;
mod address;
mod back;
mod chunks;
mod counted;
mod flow;
mod header;
mod options;
mod text;
mod when;

pub use options::Scan;
pub use text::BYTES_PER_DATA;

use crate::asked::Asker;
use crate::host::{Host, Packet, Repeat};
use crate::judge;
use crate::limits::WALK_ROUNDS_MAX;
use crate::meter;
use crate::policy::{Condition, DecidedBy, NO_RULE, Walk};
use crate::process::{Run, Scratch, Stage};
use crate::raw;
use crate::set;
use crate::trace::{RuleTrial, Step};

/// What a condition asks: numbers of [`Condition::kind`]. Each says what stands in
/// [`Condition::data`]; bounds are inclusive.
pub mod kind {
    /// Belongs to the condition before it.
    pub const DATA: u16 = 0;
    /// Up to seven ranges of ports, `low | high << 16`; with [`super::flag::SOURCE`] and
    /// [`super::flag::DESTINATION`] either of them may fit.
    pub const PORTS: u16 = 1;
    /// An address that is not below this one.
    pub const ADDRESS_FROM: u16 = 2;
    /// An address that is not above this one.
    pub const ADDRESS_TO: u16 = 3;
    /// TCP flags: mask, what is left.
    pub const TCP_FLAGS: u16 = 4;
    /// Kind of a TCP option that is there.
    pub const TCP_OPTION: u16 = 5;
    /// ICMP type (256 for any), bounds of the code.
    pub const ICMP: u16 = 6;
    /// Bounds of the length of the IP packet.
    pub const LENGTH: u16 = 7;
    /// Bounds of TTL or hop limit.
    pub const HOPS: u16 = 8;
    /// TOS or traffic class: mask, what is left.
    pub const TOS: u16 = 9;
    /// Source MAC address: its first four bytes, the other two.
    pub const MAC: u16 = 10;
    /// Number of a [`super::packet_type`].
    pub const PACKET_TYPE: u16 = 11;
    /// A later fragment.
    pub const FRAGMENT: u16 = 12;
    /// Bounds of TCP's maximum segment size.
    pub const SEGMENT_SIZE: u16 = 13;
    /// Mark of the packet: mask, what is left.
    pub const MARK: u16 = 14;
    /// Mark of the flow: mask, what is left.
    pub const FLOW_MARK: u16 = 15;
    /// Protocol of the flow.
    pub const FLOW_PROTOCOL: u16 = 16;
    /// An address of the flow, see [`super::flag`]: the address, then the mask for IPv4 and the
    /// length of the prefix for IPv6.
    pub const FLOW_ADDRESS: u16 = 17;
    /// Bounds of a port of the flow.
    pub const FLOW_PORT: u16 = 18;
    /// Bits of [`super::flow_status`], any of which must be set.
    pub const FLOW_STATUS: u16 = 19;
    /// Bounds of the seconds that the flow has left.
    pub const FLOW_EXPIRY: u16 = 20;
    /// Number of the packet's direction.
    pub const FLOW_DIRECTION: u16 = 21;
    /// Number of the flow's helper, zero for any.
    pub const FLOW_HELPER: u16 = 22;
    /// Counters of the flow: [`super::flow_counted`], directions (bits), from and to as two words each.
    pub const FLOW_COUNTERS: u16 = 23;
    /// Every so many packets: how many less one, and which (both counted from zero).
    pub const NTH: u16 = 24;
    /// Chance: the bound below which 31 random bits must lie.
    pub const RANDOM: u16 = 25;
    /// Credit for each packet, in 10,000ths of a second; how many packets may come at once.
    pub const LIMIT: u16 = 26;
    /// Seconds since 1970 from and to, seconds of the day from and to, days of the month (bits),
    /// days of the week (bits; Monday is 1).
    pub const TIME: u16 = 27;
    /// Bytes in the packet: bounds of the offset from the IP header, how many; then in
    /// [`DATA`] the bytes, and for each how many bytes before it begin the text anew.
    pub const TEXT: u16 = 28;
    /// An address in a list: the list (two words), bits of [`super::recent`], seconds, hits, stamps that
    /// are kept, less one; then in [`DATA`] the mask.
    pub const RECENT: u16 = 60;
    /// A rate for each source: the list (two words), bits of [`super::rate`], lengths of the prefixes of
    /// source and destination (bytes), burst, milliseconds until an entry is over, how many there may be
    /// (zero for any number); then in [`DATA`] the cost of a packet in millionths of a second (or of bytes,
    /// as xt_hashlimit has it; low word first), and the interval in seconds.
    pub const RATE: u16 = 61;
    /// More flows of a source than this: the list (two words), how many, length of the prefix.
    pub const CONNECTIONS: u16 = 62;
    /// Something of the packet in a set: its number, bits of [`crate::set::side`].
    pub const SET: u16 = 70;
    /// Not asked but done, and holds: it is put into a set. Number and sides as above, seconds or
    /// [`crate::set::TIMEOUT_OF_SET`].
    pub const SET_ADD: u16 = 71;
    /// Likewise: it is taken out of one.
    pub const SET_DEL: u16 = 72;
    /// Not asked but done, and holds: the packet is told of, by the number of the note.
    pub const LOG: u16 = 80;
    /// The packet is handed over: number of the note, how many bytes of it from the IP header on.
    pub const CAPTURE: u16 = 81;
    /// The mark of the packet: bits that are cleared, bits that are then turned over.
    pub const SET_MARK: u16 = 82;
    /// The same of the flow, then the whole is shifted ([`super::SHIFT_RIGHT`]).
    pub const SET_FLOW_MARK: u16 = 83;
    /// The flow gets the mark of the packet: masks of packet and flow, a shift.
    pub const SAVE_MARK: u16 = 84;
    /// The packet gets the mark of the flow: likewise.
    pub const RESTORE_MARK: u16 = 85;
    /// Number of a label of the flow; not zero if it shall be set where it is not.
    pub const FLOW_LABEL: u16 = 90;
    /// Kinds of an address, bits of [`super::address_type`]; whose it must be.
    pub const ADDRESS_TYPE: u16 = 91;
    /// States, bits of [`crate::verdict::State::bit`], where they must not be asked before what stands before them.
    pub const STATES: u16 = 92;
    /// Type of a DCCP packet: a bit for each.
    pub const DCCP_TYPES: u16 = 93;
    /// Number of a DCCP option that is there.
    pub const DCCP_OPTION: u16 = 94;
    /// Chunks of an SCTP packet: classes ([`super::chunk::class`], a bit for each), how many of them must be there
    /// (one of [`super::chunk`]), then for up to four classes which flags they must have: mask, bits, class and one more.
    pub const SCTP_CHUNKS: u16 = 95;
    /// The way back to the sender: bits of [`super::way_back`].
    pub const WAY_BACK: u16 = 96;
}

/// What [`kind::SCTP_CHUNKS`] asks for, and the classes of chunks that it tells apart.
pub mod chunk {
    /// Each of those wanted is there.
    pub const ALL: u32 = 0;
    /// One of them.
    pub const ANY: u32 = 1;
    /// Nothing but them.
    pub const ONLY: u32 = 2;
    /// Chunks that have no name in iptables.
    pub const OTHER: u32 = 22;
    /// Never met: what wants it in [`ALL`] holds for no packet.
    pub const NEVER: u32 = 31;

    /// Those of RFC 9260 by their numbers, then RFC 8260, RFC 5061, RFC 6525, RFC 4820, RFC 3758 and others in their order.
    #[inline(always)]
    pub const fn class(number: u8) -> u32 {
        match number {
            0..=14 => number as u32,
            64 => 15,
            128 => 16,
            130 => 17,
            132 => 18,
            192 => 19,
            193 => 20,
            194 => 21,
            _ => OTHER,
        }
    }
}

/// How [`kind::WAY_BACK`] is asked.
pub mod way_back {
    /// By any interface.
    pub const LOOSE: u32 = 1 << 0;
    /// An address of this host is one that answers may go to.
    pub const ACCEPT_LOCAL: u32 = 1 << 1;
}

/// In the third word of [`kind::SET_FLOW_MARK`], [`kind::SAVE_MARK`] and [`kind::RESTORE_MARK`]: by how many bits the
/// mark is shifted on its way, to the left unless this is set.
pub const SHIFT_RIGHT: u32 = 1 << 8;

/// What [`kind::ADDRESS_TYPE`] tells apart, and whose address it asks for.
pub mod address_type {
    pub const UNSPEC: u32 = 1 << 0;
    pub const UNICAST: u32 = 1 << 1;
    pub const LOCAL: u32 = 1 << 2;
    pub const BROADCAST: u32 = 1 << 3;
    pub const MULTICAST: u32 = 1 << 5;
    /// Of the interface that the packet came by, where there is one.
    pub const OF_INCOMING: u32 = 1;
    /// Of the one that it leaves by, where that is known.
    pub const OF_OUTGOING: u32 = 2;
}

/// What [`kind::RECENT`] is to do; one of the first four.
pub mod recent {
    pub const SET: u32 = 1 << 0;
    pub const CHECK: u32 = 1 << 1;
    pub const UPDATE: u32 = 1 << 2;
    pub const REMOVE: u32 = 1 << 3;
    pub const TTL: u32 = 1 << 4;
    pub const REAP: u32 = 1 << 5;
    /// The condition is turned round, which `--update` must know.
    pub const NOT: u32 = 1 << 6;
    /// No packet does it: the TTL that an entry has stays.
    pub const BY_HAND: u32 = 1 << 7;
}

/// How [`kind::RATE`] counts, and what it tells apart.
pub mod rate {
    pub const DESTINATION: u32 = 1 << 0;
    pub const DESTINATION_PORT: u32 = 1 << 1;
    pub const SOURCE: u32 = 1 << 2;
    pub const SOURCE_PORT: u32 = 1 << 3;
    pub const ABOVE: u32 = 1 << 4;
    pub const BYTES: u32 = 1 << 5;
    pub const MATCH: u32 = 1 << 6;
}

/// Bits of [`Condition::flags`]. Bits 8 to 15 are how many conditions after it belong to it: the
/// others that it is joined to, or its data.
pub mod flag {
    pub const NOT: u16 = 1 << 0;
    pub const OR: u16 = 1 << 1;
    pub const SOURCE: u16 = 1 << 2;
    pub const DESTINATION: u16 = 1 << 3;
    /// Of the reply direction of a flow.
    pub const REPLY: u16 = 1 << 4;
    /// The match also names states: without a flow these alone are asked.
    pub const WITH_STATE: u16 = 1 << 5;
    /// Letters fit in either case.
    pub const ANY_CASE: u16 = 1 << 6;
    /// A day begins at the time it is from.
    pub const CONTIGUOUS: u16 = 1 << 7;
    pub const COUNT_SHIFT: u32 = 8;
}

/// In a [`kind::CAPTURE`]: all bytes, as far as they are handed over.
pub const CAPTURE_WHOLE: u32 = u32::MAX;

/// Whom a frame is for.
pub mod packet_type {
    pub const UNICAST: u32 = 0;
    pub const BROADCAST: u32 = 1;
    pub const MULTICAST: u32 = 2;
}

/// What is known of a flow.
pub mod flow_status {
    pub const EXPECTED: u32 = 1 << 0;
    pub const SEEN_REPLY: u32 = 1 << 1;
    pub const ASSURED: u32 = 1 << 2;
    pub const CONFIRMED: u32 = 1 << 3;
}

/// What [`kind::FLOW_COUNTERS`] looks at.
pub mod flow_counted {
    pub const PACKETS: u32 = 0;
    pub const BYTES: u32 = 1;
    /// Bytes by packets.
    pub const AVERAGE: u32 = 2;
}

/// Whether a condition holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Held {
    Yes,
    No,
    /// The packet does not have what is asked for: as little as its contrary.
    Neither,
    /// The packet must be dropped: there is no room to remember its source.
    NoRoom,
    /// Likewise: other CPUs are in its way.
    Busy,
}

impl Held {
    #[inline(always)]
    pub(crate) const fn of(holds: bool) -> Self {
        if holds { Self::Yes } else { Self::No }
    }
}

/// The stage that goes on through the rules from one that has conditions.
#[inline(always)]
pub(crate) fn weigh<P: Packet, H: Host>(run: &Run<'_, P, H>, scratch: &mut Scratch) -> Stage {
    let mut weighing = Weighing { run, scratch };
    run.host.repeat(WALK_ROUNDS_MAX, &mut weighing);
    match scratch.asked.table {
        Asker::Filter => judge::answered(run.host, scratch),
        Asker::Raw => raw::answered(run.host, scratch),
    }
}

struct Weighing<'a, P, H> {
    run: &'a Run<'a, P, H>,
    scratch: &'a mut Scratch,
}

impl<P: Packet, H: Host> Repeat for Weighing<'_, P, H> {
    fn step(&mut self) -> bool {
        if self.scratch.walk.is_weighing() {
            return weigh_next(self.run, self.scratch);
        }
        walking(self.run, self.scratch, |walk| {
            walk.try_some() || walk.progress.is_weighing()
        })
    }
}

/// Asks the next condition of a rule; `false` at the end of the walk.
#[inline(always)]
fn weigh_next<P: Packet, H: Host>(run: &Run<'_, P, H>, scratch: &mut Scratch) -> bool {
    let (at, index) = (scratch.walk.rule(), scratch.walk.condition);
    let Some(condition) = run.host.condition(index) else {
        return false;
    };
    let Some(rule) = run.host.rule(at) else {
        return false;
    };
    scratch.trail.asked(condition);
    let is_not = condition.flags & flag::NOT != 0;
    let held = match condition.kind {
        kind::RECENT..=kind::CONNECTIONS => meter::ask(run, scratch, condition, index),
        kind::SET => set::ask(run.host, scratch, condition),
        kind::SET_ADD => set::add(run.host, scratch, condition),
        kind::SET_DEL => set::delete(run.host, scratch, condition),
        _ => ask(run, scratch, condition, index),
    };
    let holds = match held {
        Held::Yes => !is_not,
        Held::No => is_not,
        Held::Neither => false,
        Held::NoRoom => return scratch.walk.give_up(at, DecidedBy::NoRoom),
        Held::Busy => return scratch.walk.give_up(at, DecidedBy::Busy),
    };
    let is_joined = condition.flags & flag::OR != 0;
    let mut next = index.wrapping_add(1);
    if holds {
        next = next.wrapping_add(u32::from(condition.flags >> flag::COUNT_SHIFT));
    } else if !is_joined {
        let number = index.wrapping_sub(rule.conditions);
        run.host.trace(Step::Rule(at, RuleTrial::Condition(number)));
        scratch.walk.condition = NO_RULE;
        walking(run, scratch, |walk| walk.pass(at, rule));
        return true;
    }
    if next.wrapping_sub(rule.conditions) < rule.condition_count {
        scratch.walk.condition = next;
        return true;
    }
    scratch.walk.condition = NO_RULE;
    walking(run, scratch, |walk| walk.matched(at, rule))
}

/// Does something with the walk that the conditions are part of.
#[inline(always)]
fn walking<P: Packet, H: Host, T>(
    run: &Run<'_, P, H>,
    scratch: &mut Scratch,
    act: impl FnOnce(&mut Walk<'_, H>) -> T,
) -> T {
    let Scratch {
        info,
        asked,
        walk,
        trail,
        ..
    } = scratch;
    act(&mut Walk {
        host: run.host,
        question: &asked.question(info),
        progress: walk,
        trail,
    })
}

/// Whether a condition holds, before it is turned round.
#[cfg_attr(target_arch = "bpf", inline(never))]
#[cfg_attr(not(target_arch = "bpf"), inline)]
fn ask<P: Packet, H: Host>(
    run: &Run<'_, P, H>,
    scratch: &mut Scratch,
    condition: &Condition,
    index: u32,
) -> Held {
    match condition.kind {
        kind::PORTS..=kind::TCP_FLAGS | kind::ICMP..=kind::FRAGMENT => {
            header::ask(run, scratch, condition)
        }
        kind::TCP_OPTION | kind::SEGMENT_SIZE => options::ask(run, scratch, condition),
        kind::MARK => header::masked(scratch.mark, condition),
        kind::FLOW_MARK..=kind::FLOW_COUNTERS | kind::FLOW_LABEL => {
            flow::ask(run, scratch, condition)
        }
        kind::ADDRESS_TYPE => address::ask(run, scratch, condition),
        kind::DCCP_TYPES..=kind::SCTP_CHUNKS => chunks::ask(run, scratch, condition),
        kind::WAY_BACK => back::ask(run, scratch, condition),
        kind::STATES => {
            let [states, ..] = condition.data;
            Held::of(states & u32::from(scratch.asked.state.bit()) != 0)
        }
        kind::NTH..=kind::LIMIT => counted::ask(run, condition, index),
        kind::TIME => when::ask(run.host, condition),
        kind::TEXT => text::ask(run, scratch, condition, index),
        kind::LOG..=kind::RESTORE_MARK => act::act(run, scratch, condition),
        _ => Held::Neither,
    }
}
