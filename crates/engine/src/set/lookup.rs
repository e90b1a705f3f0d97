//! Whether a packet is in a set.

use super::entry::{NOMATCH, SPILLED, is_over, is_same};
use super::{Name, PROTOCOL_SHIFT, Search, head, next, side};
use crate::condition::Held;
use crate::host::{FlowMemory, Host, Repeat, Words};
use crate::limits::{SET_BUCKET_SLOTS, SET_BUCKETS_PROBED_MAX, SET_LENGTHS_MAX, SET_MEMBERS_MAX};
use crate::policy::Condition;
use crate::process::Scratch;
use crate::set::edit;
use crate::set::head::{Shape, Type};
use crate::settings::{Settings, checked_index};
use crate::time::Tick;
use crate::tuple::{Address, Family};
use crate::wire::{Fragment, PacketInfo, transport};

/// What is looked for.
#[derive(Clone, Copy, Debug)]
pub struct Target {
    pub address: Address,
    pub family: Family,
    /// Protocol and port, or type and code.
    pub port: Option<(u8, u16)>,
}

impl Search {
    /// Begins with a target, for a rule that names these sides.
    #[inline(always)]
    pub fn begin(&mut self, target: &Target, sides: u32, now: Tick) {
        self.address = target.address;
        self.family = target.family;
        self.set_port(target.port);
        self.restart(sides, now);
    }

    /// As [`Self::begin`], with what a packet has on the sides that a condition names.
    #[inline(always)]
    fn begin_packet(&mut self, info: &PacketInfo, sides: u32, now: Tick) {
        self.address = match sides & side::SOURCE {
            0 => info.destination,
            _ => info.source,
        };
        self.family = info.family;
        self.set_port(port_of(info, sides));
        self.restart(sides, now);
    }

    #[inline(always)]
    fn set_port(&mut self, port: Option<(u8, u16)>) {
        self.has_port = port.is_some();
        self.port = match port {
            Some((protocol, port)) => u64::from(protocol) << PROTOCOL_SHIFT | u64::from(port),
            None => 0,
        };
        self.own_port = self.port;
    }

    #[inline(always)]
    const fn restart(&mut self, sides: u32, now: Tick) {
        self.sides = sides;
        self.now = now;
        self.list = 0;
        self.member = 0;
        self.lengths = [0; 2];
        self.probe = 0;
        self.found = 0;
    }
}

/// Protocol and port as xt_set sees them: other protocols than these have the port zero.
#[inline(always)]
fn port_of(info: &PacketInfo, sides: u32) -> Option<(u8, u16)> {
    let is_start = !matches!(info.fragment, Fragment::Later);
    let port = match info.protocol {
        transport::TCP | transport::UDP | transport::SCTP | transport::UDPLITE => {
            if !is_start || !info.has_ports() {
                return None;
            }
            match sides & side::SECOND_SOURCE {
                0 => info.destination_port,
                _ => info.source_port,
            }
        }
        transport::ICMP | transport::ICMPV6 => {
            if !is_start {
                return None;
            }
            info.destination_port
        }
        _ => 0,
    };
    Some((info.protocol, port))
}

/// Asks a condition on a set. A function of its own, for what it keeps on the stack.
#[cfg_attr(target_arch = "bpf", inline(never))]
#[cfg_attr(not(target_arch = "bpf"), inline)]
pub(crate) fn ask<H: Host>(host: &H, scratch: &mut Scratch, condition: &Condition) -> Held {
    let Scratch {
        info, now, members, ..
    } = scratch;
    let [set, sides, ..] = condition.data;
    members.begin_packet(info, sides, *now);
    Held::of(find(host.flows(), host.settings(), set, members))
}

/// Adds what a rule's target says.
#[cfg_attr(target_arch = "bpf", inline(never))]
#[cfg_attr(not(target_arch = "bpf"), inline)]
pub(crate) fn add<H: Host>(host: &H, scratch: &mut Scratch, condition: &Condition) -> Held {
    let Scratch {
        info, now, members, ..
    } = scratch;
    let [set, sides, seconds, ..] = condition.data;
    members.begin_packet(info, sides, *now);
    edit::add_packet(host.flows(), host.settings(), set, seconds, members);
    Held::Yes
}

/// Removes what a rule's target says.
#[cfg_attr(target_arch = "bpf", inline(never))]
#[cfg_attr(not(target_arch = "bpf"), inline)]
pub(crate) fn delete<H: Host>(host: &H, scratch: &mut Scratch, condition: &Condition) -> Held {
    let Scratch {
        info, now, members, ..
    } = scratch;
    let [set, sides, ..] = condition.data;
    members.begin_packet(info, sides, *now);
    edit::remove_packet(host.flows(), host.settings(), set, members);
    Held::Yes
}

/// Whether what a search is about is in a set. An entry that says `nomatch` keeps it out.
#[inline(always)]
pub fn find<M: FlowMemory>(flows: &M, settings: &Settings, set: u32, search: &mut Search) -> bool {
    search.enter(flows, set);
    let mut lookup = Lookup {
        flows,
        settings,
        search,
    };
    flows.repeat(STEPS_MAX, &mut lookup);
    lookup.search.found != 0
}

/// All buckets for each length, of all members of a list.
const STEPS_MAX: u32 = SET_MEMBERS_MAX * (SET_LENGTHS_MAX * SET_BUCKETS_PROBED_MAX + 1);

impl Search {
    /// Goes on with the content of a set, if the packet has what it holds; a list only where no other is at hand.
    #[inline(always)]
    fn enter<M: FlowMemory>(&mut self, flows: &M, set: u32) {
        let Some((content, words)) = head::content(flows, set) else {
            return;
        };
        let Some(shape) = Shape::of(words.load(head::SHAPE)) else {
            return;
        };
        if matches!(shape.kind, Type::List) {
            if self.list == 0 {
                self.list = content + 1;
            }
            return;
        }
        self.content = content;
        if self.fits(&shape) {
            self.lengths = [words.load(head::LENGTHS), words.load(head::LENGTHS + 1)];
        }
    }

    /// Whether a packet, and the rule that asks, have what the entries of a content are made of.
    #[inline(always)]
    pub(super) fn fits(&mut self, shape: &Shape) -> bool {
        self.own_port = if shape.kind.has_port() { self.port } else { 0 };
        let is_family = matches!(
            (shape.family, self.family),
            (Family::V4, Family::V4) | (Family::V6, Family::V6)
        );
        is_family && (!shape.kind.has_port() || (self.has_port && self.sides & side::SECOND != 0))
    }

    /// Goes on to the next length of the content at hand; `false` where there is none.
    #[inline(always)]
    fn begin_length(&mut self, settings: &Settings) -> bool {
        let length = longest(self.lengths);
        let [low, high] = self.lengths;
        self.lengths = match length {
            0 => return false,
            1..=64 => [low & !(1 << ((length - 1) & 63)), high],
            _ => [low, high & !(1 << ((length - 65) & 63))],
        };
        self.name_as(length, settings);
        true
    }

    /// Goes on with the next member of the list at hand; `false` where there is none.
    #[inline(always)]
    fn next_member<M: FlowMemory>(&mut self, flows: &M) -> bool {
        if self.list == 0 || self.member >= SET_MEMBERS_MAX {
            return false;
        }
        let Some(words) = flows.set_head(self.list - 1) else {
            return false;
        };
        let index = checked_index(self.member as usize) as u32 & (SET_MEMBERS_MAX - 1);
        let word = words.load(head::MEMBERS + index);
        let number = (word & head::MEMBER_NUMBER) as u32;
        if number == 0 {
            return false;
        }
        self.member += 1;
        let is_for_ever = word & head::MEMBER_FOR_EVER != 0;
        if is_for_ever || !Tick((word >> 32) as u32).has_passed(self.now) {
            self.enter(flows, number - 1);
        }
        true
    }
}

/// The longest of a content's lengths, zero where there is none.
#[inline(always)]
pub const fn longest(lengths: [u64; 2]) -> u32 {
    let [low, high] = lengths;
    match high {
        0 => 64 - low.leading_zeros(),
        _ => 128 - high.leading_zeros(),
    }
}

/// A search for the entries that something is in, a bucket a step.
struct Lookup<'a, M> {
    flows: &'a M,
    settings: &'a Settings,
    search: &'a mut Search,
}

impl<M: FlowMemory> Repeat for Lookup<'_, M> {
    #[inline(always)]
    fn step(&mut self) -> bool {
        let search = &mut *self.search;
        if search.probe == 0 && !search.begin_length(self.settings) {
            return search.next_member(self.flows);
        }
        let Some(words) = self.flows.sets(search.bucket) else {
            search.probe = 0;
            return true;
        };
        match scan(words, &search.name) {
            Scanned::Found(entry) if !is_over(entry, search.now) => {
                search.probe = 0;
                let is_nomatch = entry & NOMATCH != 0;
                if is_nomatch == (search.sides & side::NOMATCH != 0) {
                    search.found = entry;
                    return false;
                }
                // A member of a list may still have it.
                search.lengths = [0; 2];
            }
            Scanned::GoesOn if search.probe + 1 < SET_BUCKETS_PROBED_MAX => {
                search.probe += 1;
                search.bucket = next(self.settings, search.bucket, &search.name);
            }
            _ => search.probe = 0,
        }
        true
    }
}

/// What a bucket has of a name.
enum Scanned {
    /// Its head.
    Found(u64),
    Missing,
    /// It may be in the next bucket.
    GoesOn,
}

#[inline(always)]
fn scan<W: Words>(words: W, name: &Name) -> Scanned {
    for slot in 0..SET_BUCKET_SLOTS {
        let head = words.load(slot);
        if is_same(words, slot, head, name) {
            return Scanned::Found(head);
        }
    }
    if words.load(0) & SPILLED != 0 {
        Scanned::GoesOn
    } else {
        Scanned::Missing
    }
}
