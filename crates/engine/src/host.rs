//! What a plane (the kernel programs, the simulator) provides to the engine.

use crate::answer::Answer;
use crate::cookie;
use crate::event::Event;
use crate::index::IndexLine;
use crate::limits::WAY_INTERFACES_MAX;
use crate::notice::Notice;
use crate::policy::{Condition, PolicyHeader, Rule};
use crate::settings::Settings;
use crate::time::{TICKS_PER_SECOND, Tick};
use crate::trace::Step;
use crate::tuple::{Address, Family};
use crate::verdict::Hook;
use crate::wire::PacketInfo;

/// Bytes of a packet from the start of its link-layer header (or IP header where there is none).
#[allow(
    clippy::len_without_is_empty,
    reason = "nobody asks whether a packet is empty"
)]
pub trait Packet {
    type Header: Header;
    type Payload: Payload;

    /// Length of the packet, including bytes that cannot be read.
    fn len(&self) -> u32;

    /// `size` bytes at `offset`, or `None` when they are not all there (or out of direct reach).
    /// Callers pass a constant `size` of at most 64.
    fn header(&self, offset: u32, size: u32) -> Option<Self::Header>;

    /// `length` bytes at `offset`, one to [`crate::limits::HELPER_BYTES_MAX`], to be read one by one;
    /// `None` when they are not all there. Until the next call for the same packet.
    fn payload(&self, offset: u32, length: u32) -> Option<Self::Payload>;

    /// Ones' complement sum (RFC 1071) of `length` bytes at `offset`, as if they stood at an even
    /// offset, not complemented; `None` when the bytes cannot all be reached.
    fn sum(&self, offset: u32, length: u32) -> Option<u16>;
}

/// A view of bytes whose presence was checked by [`Packet::header`]. Reads beyond the checked
/// size are a defect of the caller: the verifier refuses them, and the simulator answers zero.
pub trait Header: Copy {
    fn u8(self, at: u32) -> u8;
    /// Big-endian.
    fn u16(self, at: u32) -> u16;
    /// Big-endian.
    fn u32(self, at: u32) -> u32;
}

/// Bytes that [`Packet::payload`] gave. What lies beyond them is any byte.
pub trait Payload: Copy {
    fn byte(self, at: u32) -> u8;
}

/// 64-bit words in memory that several CPUs share.
pub trait Words: Copy {
    /// Atomic read, at least acquire.
    fn load(self, word: u32) -> u64;
    /// Atomic write, at least release.
    fn store(self, word: u32, value: u64);
    /// Compare-and-swap, sequentially consistent; returns the value found, which equals `old`
    /// exactly when the swap was done.
    fn compare_exchange(self, word: u32, old: u64, new: u64) -> u64;
    /// Atomic wrapping addition.
    fn add(self, word: u32, amount: u64);
    /// Asks for the cache line of a word, and waits for nothing. Changes nothing but time.
    fn prefetch(self, _word: u32) {}
}

/// The memory of a flow table. Indexes beyond the table give `None`.
pub trait FlowMemory {
    type Words: Words;

    /// One word: the tags of a bucket's slots, slot 0 in the least significant byte.
    fn tags(&self, family: Family, bucket: u32) -> Option<Self::Words>;

    /// The words of a slot, see [`crate::record`].
    fn slot(&self, family: Family, bucket: u32, slot: u32) -> Option<Self::Words>;

    /// [`crate::limits::WARM_WORDS`] words.
    fn warm(&self, family: Family, bucket: u32, slot: u32) -> Option<Self::Words>;

    /// [`crate::limits::ACCOUNTING_WORDS`] words, `None` where the table was made without.
    fn accounting(&self, family: Family, bucket: u32, slot: u32) -> Option<Self::Words>;

    /// [`crate::limits::EXPECTATION_WORDS`] words of a foretold flow, see [`crate::expect`]; `None`
    /// where a plane has no helpers.
    fn expectation(&self, _index: u32) -> Option<Self::Words> {
        None
    }

    /// [`crate::limits::HELPER_STATE_WORDS`] words of what a helper remembers, as above.
    fn helper_state(&self, _index: u32) -> Option<Self::Words> {
        None
    }

    /// [`crate::limits::LABEL_WORDS`] words of a flow's labels, see [`crate::labels`]; `None` where a plane
    /// has none.
    fn labels(&self, _bucket: u32, _slot: u32) -> Option<Self::Words> {
        None
    }

    /// The word that a rate of answers is kept in, below [`crate::limits::ANSWER_RATES`], see
    /// [`crate::reject`]; `None` where nothing is ever answered.
    fn answer_rate(&self, _index: u32) -> Option<Self::Words> {
        None
    }

    /// The word that a condition of a rule remembers, see [`crate::condition`]; the index is one of
    /// [`Host::condition`] and [`Host::condition_base`] more.
    fn condition_state(&self, _index: u32) -> Option<Self::Words> {
        None
    }

    /// [`crate::limits::METER_WORDS`] words of what rules remember of sources, see [`crate::meter`]; `None`
    /// where a plane has no such memory.
    fn meter(&self, _slot: u32) -> Option<Self::Words> {
        None
    }

    /// The word of a bucket of it.
    fn meter_head(&self, _bucket: u32) -> Option<Self::Words> {
        None
    }

    /// [`crate::limits::SYNPROXY_WORDS`] words of a connection that SYNPROXY has opened, see [`crate::synproxy`];
    /// `None` where a plane opens none.
    fn synproxy(&self, _bucket: u32, _slot: u32) -> Option<Self::Words> {
        None
    }

    /// Counters of the table as a whole, see [`crate::table::gauges`].
    fn gauges(&self) -> Option<Self::Words>;

    /// [`crate::limits::FRAGMENT_WORDS`] words of an unfinished datagram, `None` where fragments are not followed.
    fn fragment(&self, _bucket: u32, _slot: u32) -> Option<Self::Words> {
        None
    }

    /// [`crate::limits::FRAGMENT_BUCKET_WORDS`] words of a bucket of them.
    fn fragment_bucket(&self, _bucket: u32) -> Option<Self::Words> {
        None
    }

    /// [`crate::limits::BAN_BUCKET_WORDS`] words of a bucket of bans, see [`crate::ban`]; `None` where nobody can be
    /// banned.
    fn bans(&self, _bucket: u32) -> Option<Self::Words> {
        None
    }

    /// [`crate::limits::SET_BUCKET_WORDS`] words of a bucket of sets, see [`crate::set`]; `None` where there are none.
    fn sets(&self, _bucket: u32) -> Option<Self::Words> {
        None
    }

    /// [`crate::limits::SET_HEAD_WORDS`] words of a set's head.
    fn set_head(&self, _set: u32) -> Option<Self::Words> {
        None
    }

    /// [`crate::limits::FORESEEN_WORDS`] words of a line that this CPU alone reads and writes, see [`crate::foreseen`];
    /// `None` where a plane asks the rules each time.
    fn foreseen(&self, _line: u32) -> Option<Self::Words> {
        None
    }

    /// The value itself, of which the kernel's verifier then knows nothing: it walks the ways that differ in it alone once
    /// from here on, and not each.
    fn forget(&self, value: u32) -> u32 {
        value
    }

    /// Called while waiting for another CPU.
    fn relax(&self) {}

    /// As [`Host::repeat`], for loops of the table that are seldom entered or long: the kernel's
    /// verifier walks through such a body once, and through a plain loop round by round.
    fn repeat<R: Repeat>(&self, limit: u32, body: &mut R) {
        for _ in 0..limit {
            if !body.step() {
                return;
            }
        }
    }
}

/// A loop body with a state, for [`Host::repeat`] and [`FlowMemory::repeat`].
pub trait Repeat {
    /// One round; `false` ends the loop.
    fn step(&mut self) -> bool;
}

/// Where a packet goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Route {
    pub hook: Hook,
    /// Which interface patterns of the policy the outgoing interface matches, a bit each.
    pub out_interfaces: u64,
    /// Index of that interface, zero where it is not known.
    pub out_index: u32,
}

/// An address that is the host's own, or means it with others.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Local {
    /// One of [`crate::condition::address_type`].
    pub kind: u32,
    /// Index of the interface that has it.
    pub interface: u32,
}

/// Where packets to an address go: the most specific route to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct Way {
    /// One of the numbers below; another for routes that lead nowhere.
    pub kind: u32,
    /// Indexes of the interfaces that it leads to, zero behind the last.
    pub interfaces: [u32; WAY_INTERFACES_MAX],
}

impl Way {
    /// By a gateway, or to a neighbour.
    pub const ROUTE: u32 = 1;
    /// To this host itself.
    pub const LOCAL: u32 = 2;
    /// Routes are not known.
    pub const UNKNOWN: u32 = 3;
    /// Nobody knows of any.
    pub const OF_NO_TABLE: Self = Self {
        kind: Self::UNKNOWN,
        interfaces: [0; WAY_INTERFACES_MAX],
    };
}

/// Jiffies in a second where no kernel says otherwise.
pub const NATIVE_HERTZ: u32 = 1000;

/// Everything else the engine asks for while it judges one packet.
pub trait Host {
    type Flows: FlowMemory;

    fn flows(&self) -> &Self::Flows;

    fn settings(&self) -> &Settings;

    /// The policy in force when the packet arrived.
    fn policy(&self) -> &PolicyHeader;

    /// A rule of that policy.
    fn rule(&self, index: u32) -> Option<&Rule>;

    /// A condition of that policy.
    fn condition(&self, index: u32) -> Option<&Condition>;

    /// A line of that policy's indexes; without them rules are tried one by one.
    fn index(&self, _line: u32) -> Option<&IndexLine> {
        None
    }

    /// Where the words begin that the conditions of that policy remember.
    fn condition_base(&self) -> u32 {
        0
    }

    /// The kernel's clock that rules count in. `now` is the time of the packet in ticks.
    fn jiffies(&self, now: Tick) -> u64 {
        u64::from(now.0) * u64::from(self.hertz()) / u64::from(TICKS_PER_SECOND)
    }

    /// Jiffies in a second.
    fn hertz(&self) -> u32 {
        NATIVE_HERTZ
    }

    /// 32 random bits, which need not be hard to guess.
    fn random(&self) -> u32 {
        0
    }

    /// Number of the CPU, where there are several.
    fn cpu(&self) -> u32 {
        0
    }

    /// The mark that the packet came with; zero where packets have none yet.
    fn mark(&self) -> u32 {
        0
    }

    /// Index of the interface that the packet is seen on, zero where there is none.
    fn interface(&self) -> u32 {
        0
    }

    /// Whether an address is the host's own, or the broadcast address of a network of its own.
    fn local(&self, _family: Family, _address: &Address) -> Option<Local> {
        None
    }

    /// The route to an address; `None` where there is none.
    fn way(&self, _family: Family, _address: &Address) -> Option<&Way> {
        Some(&Way::OF_NO_TABLE)
    }

    /// Hands the first bytes of the packet, as many as [`Notice::captured`] says, to whoever carries out
    /// what the notice is about. Lost, and counted, where there is no room.
    fn notify<P: Packet>(&self, _packet: &P, _notice: &Notice) {}

    /// Adds a packet to the counters of a rule.
    fn count_rule(&self, index: u32, bytes: u32);

    /// Asks the routing table. Called at most once a packet, and only when rules must be walked.
    fn route(&self, packet: &PacketInfo) -> Route;

    /// Whether packets of this kind can be sent back in place of those that come.
    fn can_answer(&self) -> bool {
        false
    }

    /// The sequence number that answers a SYN with a cookie. `mss` is what the SYN says of the size of segments,
    /// zero where it says nothing.
    fn cookie(&self, _syn: &PacketInfo, _mss: u16, _now: Tick) -> Option<u32> {
        None
    }

    /// Whether the number that a segment acknowledges answers such a SYN. The host is made to expect it.
    fn check_cookie(&self, _segment: &PacketInfo, _now: Tick) -> cookie::Check {
        cookie::Check::Wrong
    }

    /// The clock of TCP's timestamps, in milliseconds. `now` is the time of the packet in ticks.
    fn milliseconds(&self, now: Tick) -> u32 {
        (u64::from(now.0) * 1000 / u64::from(TICKS_PER_SECOND)) as u32
    }

    /// Puts an answer in the place of the packet; `false` where there is no room. Nothing of the packet is read
    /// afterwards.
    fn answer(&self, _packet: &PacketInfo, _answer: &Answer) -> bool {
        false
    }

    /// Puts a packet of our own in the place of one that goes on, likewise.
    fn send_on(&self, _packet: &PacketInfo, _answer: &Answer) -> bool {
        false
    }

    /// Puts a transport header of the same length in the place of the packet's, likewise.
    fn rewrite(&self, _packet: &PacketInfo, _header: &Answer) -> bool {
        false
    }

    /// Runs a loop body until it says so, at most `limit` times.
    fn repeat<R: Repeat>(&self, limit: u32, body: &mut R) {
        for _ in 0..limit {
            if !body.step() {
                return;
            }
        }
    }

    /// Hands an event to whoever listens. Called only where [`Settings`] ask for it.
    fn emit(&self, event: &Event);

    /// Wall clock in nanoseconds since 1970, for start times. Called only for new flows and only
    /// where [`crate::settings::SETTING_TIMESTAMP`] is set.
    fn wall_clock(&self) -> u64;

    /// Whether anybody listens to [`Host::trace`]: then no stage may be passed over.
    fn is_traced(&self) -> bool {
        false
    }

    /// Told of each step, for `explain`. Does nothing in the kernel.
    fn trace(&self, _step: Step) {}
}
