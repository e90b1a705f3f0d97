//! What the kernel programs and the daemon agree on: names of the maps, and what lies in them.
//!
//! The daemon may be newer than the programs that it finds pinned. It adopts them only when
//! [`LAYOUT`] is the same in both, so any change of a type below, or of the engine types that
//! they hold, raises that number.

#![no_std]
#![forbid(unsafe_code)]

use keepstate_engine::limits::{ACCOUNTING_WORDS, SLOT_WORDS_V4, SLOT_WORDS_V6, SLOTS_PER_BUCKET};
use keepstate_engine::limits::{CONDITIONS_MAX, INDEX_LINES_MAX, RULES_MAX, WARM_WORDS};
use keepstate_engine::limits::{FRAGMENT_BUCKET_WORDS, FRAGMENT_SLOTS, FRAGMENT_WORDS};
use keepstate_engine::limits::{LABEL_WORDS, LABELS_PER_BUCKET};
use keepstate_engine::limits::{METER_BUCKETS, METER_LIST_BUCKETS};
use keepstate_engine::limits::{SYNPROXY_PER_BUCKET, SYNPROXY_WORDS};
use keepstate_engine::settings::Settings;
use keepstate_engine::tuple::{Address, Family};
use keepstate_engine::verdict::REASON_COUNTERS;

/// Version of everything in this file.
pub const LAYOUT: u32 = 10;

/// Two policies: the one in force, and the one being written.
pub const POLICY_SLOTS: u32 = 2;

/// Rules, conditions, lines of indexes and rule counters of both policies.
pub const RULE_ENTRIES: u32 = POLICY_SLOTS * RULES_MAX;
pub const CONDITION_ENTRIES: u32 = POLICY_SLOTS * CONDITIONS_MAX;
pub const INDEX_ENTRIES: u32 = POLICY_SLOTS * INDEX_LINES_MAX;

/// Interfaces (VLANs on top of an attached one included) that can be told apart.
pub const INTERFACES_MAX: u32 = 4096;

/// Bytes of the ring that carries events; a power of two and a multiple of the page size.
pub const EVENT_RING_BYTES: u32 = 1 << 20;

/// Events of one CPU that may follow one that woke the reader within the same jiffy and wake nobody: a thirtieth of what the
/// ring holds.
pub const UNANNOUNCED_EVENTS_MAX: u32 = 256;

/// How long the reader that has found events waits to be woken before it looks again: longer than the longest jiffy (ten
/// milliseconds), in which events may have come that wake nobody.
pub const EVENT_PAUSE_MILLISECONDS: u64 = 12;

/// Bytes of the rings that carry notices to be written and packets to be answered, likewise. A second's answers
/// fit, at 200 bytes each.
pub const NOTICE_RING_BYTES: u32 = 1 << 20;
pub const ANSWER_RING_BYTES: u32 = 1 << 18;

/// Bytes of the ring that carries [`Witness`]es, likewise: some thousand packets of a few hundred bytes.
pub const WITNESS_RING_BYTES: u32 = 1 << 20;

/// Words of a bucket in each of the maps that make up a flow table.
pub const BUCKET_SLOT_WORDS_V4: usize = (SLOTS_PER_BUCKET * SLOT_WORDS_V4) as usize;
pub const BUCKET_SLOT_WORDS_V6: usize = (SLOTS_PER_BUCKET * SLOT_WORDS_V6) as usize;
pub const BUCKET_WARM_WORDS: usize = (SLOTS_PER_BUCKET * WARM_WORDS) as usize;
pub const BUCKET_ACCOUNTING_WORDS: usize = (SLOTS_PER_BUCKET * ACCOUNTING_WORDS) as usize;

/// Words of a bucket of unfinished datagrams: its slots, and what it has beside them.
pub const FRAGMENT_VALUE_WORDS: usize =
    (FRAGMENT_SLOTS * FRAGMENT_WORDS + FRAGMENT_BUCKET_WORDS) as usize;

/// Buckets of what rules remember of sources, those of the lists among them.
pub const METER_HEADS: u32 = METER_BUCKETS + METER_LIST_BUCKETS;
/// Words of a bucket of labels.
pub const LABEL_VALUE_WORDS: usize = (LABELS_PER_BUCKET * LABEL_WORDS) as usize;

/// Words of a bucket of connections that SYNPROXY has opened.
pub const SYNPROXY_VALUE_WORDS: usize = (SYNPROXY_PER_BUCKET * SYNPROXY_WORDS) as usize;

/// Places for stages of a packet's way that are programs of their own, by number of the
/// [`keepstate_engine::process::Stage`]. Not each number has one.
pub const STAGES: u32 = 64;

/// Place beside the stages of the program that hands over judged packets: the last one.
pub const WITNESS_STAGE: u32 = STAGES - 1;

/// Places for the entry programs of a load of another layout, whose flows are handed over: see [`names::BEFORE`].
pub const BEFORE_INGRESS: u32 = STAGES - 2;
pub const BEFORE_EGRESS_ETHERNET: u32 = STAGES - 3;
pub const BEFORE_EGRESS_BARE: u32 = STAGES - 4;

/// Names of maps and programs in the object, and of their pins.
pub mod names {
    use keepstate_engine::process::Stage;

    pub const PLANE: &str = "PLANE";
    pub const TAGS: [&str; 2] = ["TAGS4", "TAGS6"];
    pub const SLOTS: [&str; 2] = ["SLOTS4", "SLOTS6"];
    pub const WARM: [&str; 2] = ["WARM4", "WARM6"];
    pub const ACCOUNTING: [&str; 2] = ["ACCOUNTING4", "ACCOUNTING6"];
    pub const GAUGES: &str = "GAUGES";
    pub const FRAGMENTS: &str = "FRAGMENTS";
    pub const BANS: &str = "BANS";
    pub const SETS: &str = "SETS";
    pub const SET_HEADS: &str = "SET_HEADS";
    pub const EXPECTATIONS: &str = "EXPECTATIONS";
    pub const HELPER_STATES: &str = "HELPER_STATES";
    pub const METERS: &str = "METERS";
    pub const METER_HEADS: &str = "METER_HEADS";
    pub const LABELS: &str = "LABELS";
    pub const SYNPROXY: &str = "SYNPROXY";
    pub const POLICIES: &str = "POLICIES";
    pub const RULES: &str = "RULES";
    pub const CONDITIONS: &str = "CONDITIONS";
    pub const INDEX: &str = "INDEX";
    pub const CONDITION_STATES: &str = "CONDITION_STATES";
    pub const RULE_COUNTERS: &str = "RULE_COUNTERS";
    pub const COUNTERS: &str = "COUNTERS";
    pub const INTERFACES: &str = "INTERFACES";
    pub const EVENTS: &str = "EVENTS";
    pub const NOTICES: &str = "NOTICES";
    pub const ANSWERS: &str = "ANSWERS";
    pub const WITNESSES: &str = "WITNESSES";
    pub const ANSWER_RATES: &str = "ANSWER_RATES";
    /// Addresses of the host, see [`super::local_key`].
    pub const LOCALS: &str = "LOCALS";
    /// Routes of the host, see [`super::local_key`].
    pub const ROUTES: &str = "ROUTES";
    pub const REPORT: &str = "REPORT";
    /// Programs of the later stages. Pinned too: an array of programs that no process and no pin
    /// holds forgets them.
    pub const STAGES_XDP: &str = "STAGES_XDP";
    pub const STAGES_TC: &str = "STAGES_TC";

    pub const XDP_STAGES: [(Stage, &str); 30] = [
        (Stage::Look, "xdp_look"),
        (Stage::Advance, "xdp_advance"),
        (Stage::Write, "xdp_write"),
        (Stage::Judge, "xdp_judge"),
        (Stage::Insert, "xdp_insert"),
        (Stage::Name, "xdp_name"),
        (Stage::Parse, "xdp_parse"),
        (Stage::Associate, "xdp_associate"),
        (Stage::Fragment, "xdp_fragment"),
        (Stage::First, "xdp_first"),
        (Stage::Settle, "xdp_settle"),
        (Stage::Conclude, "xdp_conclude"),
        (Stage::Raw, "xdp_raw"),
        (Stage::Foretold, "xdp_foretold"),
        (Stage::Help, "xdp_help"),
        (Stage::Expect, "xdp_expect"),
        (Stage::Message, "xdp_message"),
        (Stage::Elsewhere, ELSEWHERE[0]),
        (Stage::Label, "xdp_label"),
        (Stage::Weigh, "xdp_weigh"),
        (Stage::Cookie, "xdp_cookie"),
        (Stage::Prove, "xdp_prove"),
        (Stage::Answer, "xdp_answer"),
        (Stage::Synproxy, "xdp_synproxy"),
        (Stage::Open, "xdp_open"),
        (Stage::Translate, "xdp_translate"),
        (Stage::Greet, "xdp_greet"),
        (Stage::Rewrite, "xdp_rewrite"),
        (Stage::Refuse, "xdp_refuse"),
        (Stage::Foreseen, "xdp_foreseen"),
    ];
    pub const TC_STAGES: [(Stage, &str); 24] = [
        (Stage::Look, "tc_look"),
        (Stage::Advance, "tc_advance"),
        (Stage::Write, "tc_write"),
        (Stage::Judge, "tc_judge"),
        (Stage::Insert, "tc_insert"),
        (Stage::Name, "tc_name"),
        (Stage::Parse, "tc_parse"),
        (Stage::Associate, "tc_associate"),
        (Stage::Fragment, "tc_fragment"),
        (Stage::First, "tc_first"),
        (Stage::Settle, "tc_settle"),
        (Stage::Conclude, "tc_conclude"),
        (Stage::Raw, "tc_raw"),
        (Stage::Foretold, "tc_foretold"),
        (Stage::Help, "tc_help"),
        (Stage::Expect, "tc_expect"),
        (Stage::Message, "tc_message"),
        (Stage::Elsewhere, ELSEWHERE[1]),
        (Stage::Label, "tc_label"),
        (Stage::Weigh, "tc_weigh"),
        (Stage::Answer, "tc_answer"),
        (Stage::Synproxy, "tc_synproxy"),
        (Stage::Translate, "tc_translate"),
        (Stage::Refuse, "tc_refuse"),
    ];

    /// The programs that hand over judged packets, of XDP and of TC.
    pub const WITNESS: [&str; 2] = ["xdp_witness", "tc_witness"];

    /// Where a packet goes on that comes from the other of two tables, by XDP and by TC. Pinned, so that they
    /// can be put among the stages of another load.
    pub const ELSEWHERE: [&str; 2] = ["xdp_elsewhere", "tc_elsewhere"];

    /// Where a packet of TC goes on whose flow is not known yet while flows are handed over from a load of another
    /// layout: to that load's programs. One of XDP goes there at once, since there is one entry program.
    pub const BEFORE: &str = "tc_before";

    /// What the stages of a packet's way hand on. Pinned for each build: loads of one build share it, so
    /// that a packet may go from the stages of one to those of another.
    pub const SCRATCH: &str = "SCRATCH";

    /// Maps that each of two tables has of its own; all others they have in common.
    pub const OF_TABLE: [&str; 9] = [
        PLANE,
        TAGS[0],
        TAGS[1],
        SLOTS[0],
        SLOTS[1],
        WARM[0],
        WARM[1],
        ACCOUNTING[0],
        ACCOUNTING[1],
    ];

    /// The other maps.
    pub const COMMON: [&str; 27] = [
        GAUGES,
        FRAGMENTS,
        EXPECTATIONS,
        HELPER_STATES,
        LABELS,
        POLICIES,
        RULES,
        CONDITIONS,
        CONDITION_STATES,
        RULE_COUNTERS,
        COUNTERS,
        INTERFACES,
        EVENTS,
        REPORT,
        METERS,
        METER_HEADS,
        BANS,
        INDEX,
        NOTICES,
        ANSWERS,
        ANSWER_RATES,
        SETS,
        SET_HEADS,
        LOCALS,
        WITNESSES,
        SYNPROXY,
        ROUTES,
    ];

    /// All maps, in the order in which they are pinned.
    pub fn maps() -> impl Iterator<Item = &'static str> {
        OF_TABLE.into_iter().chain(COMMON)
    }

    /// XDP: packets that arrive on an Ethernet device.
    pub const INGRESS_XDP: &str = "ingress_xdp";
    /// TC: packets that arrive on a device without link-layer header.
    pub const INGRESS_TC: &str = "ingress_tc";
    /// TC: packets made on this host, leaving through an Ethernet device.
    pub const EGRESS_ETHERNET: &str = "egress_ethernet";
    /// TC: packets made on this host, leaving through a device without link-layer header.
    pub const EGRESS_BARE: &str = "egress_bare";
    /// Run by the daemon to read the clock that the programs read.
    pub const CLOCK: &str = "clock";

    /// Run by the daemon to change what rules remember of sources, see [`super::MeterOrder`].
    pub const METER: &str = "meter";

    pub const PROGRAMS: [&str; 6] = [
        INGRESS_XDP,
        INGRESS_TC,
        EGRESS_ETHERNET,
        EGRESS_BARE,
        CLOCK,
        METER,
    ];

    /// Programs that are pinned.
    pub fn pinned_programs() -> impl Iterator<Item = &'static str> {
        PROGRAMS.into_iter().chain(ELSEWHERE).chain([BEFORE])
    }
}

/// What every packet reads first. One element, mapped by the daemon.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct Plane {
    /// [`LAYOUT`] of whoever made the maps.
    pub layout: u32,
    /// Which of the two policies is in force.
    pub active: u32,
    /// Which build of the programs was loaded last.
    pub object: u64,
    /// Ticks are `jiffies * multiplier >> TICK_SHIFT`.
    pub tick_multiplier: u64,
    /// Wall clock minus the kernel's monotonic clock, in nanoseconds.
    pub wall_offset: u64,
    /// Cookies of the sockets that answers are sent through, of IPv4 and of IPv6; zero for none.
    pub answerers: [u64; 2],
    /// Bits `PLANE_*`.
    pub flags: u32,
    /// The time, with [`PLANE_TEST_CLOCK`].
    pub test_tick: u32,
    /// Number of a [`keepstate_engine::verdict::Hook`], with [`PLANE_TEST_HOOK`].
    pub test_hook: u32,
    /// One of `TABLE_*`: how far a table has come that is to take the place of another; zero for the one
    /// that is in use.
    pub table: u32,
    pub settings: Settings,
}

/// At 1,000 jiffies a second the product overflows after 550 years.
pub const TICK_SHIFT: u32 = 24;

/// Priority (`SO_PRIORITY`) of the packets that the daemon answers with.
pub const ANSWER_PRIORITY: u32 = 0x6b73_0001;

/// The clock stands at [`Plane::test_tick`].
pub const PLANE_TEST_CLOCK: u32 = 1 << 0;
/// The routing table is not asked: packets from outside meet [`Plane::test_hook`].
pub const PLANE_TEST_HOOK: u32 = 1 << 1;
/// Each outcome is written to the map [`names::REPORT`].
pub const PLANE_TEST_REPORT: u32 = 1 << 2;
/// Packets that are dropped are handed over, see [`Witness`].
pub const PLANE_WITNESS_DROPS: u32 = 1 << 3;
/// All packets are.
pub const PLANE_WITNESS_ALL: u32 = 1 << 4;

/// The table is being made: nobody uses it yet.
pub const TABLE_MADE: u32 = 1;
/// New flows are made in it, and those of the older table are moved to it.
pub const TABLE_NEWER: u32 = 2;
/// It has all flows; the older one may go.
pub const TABLE_WHOLE: u32 = 3;

/// Key of the map of interfaces.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(C)]
pub struct InterfaceKey {
    /// Index of the interface a packet was seen on.
    pub index: u32,
    /// VLAN identifier of the packet, zero without one.
    pub vlan: u32,
}

/// What the programs know of an interface.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Interface {
    /// Which interface patterns it matches, a bit each, by policy slot.
    pub patterns: [u64; POLICY_SLOTS as usize],
    /// Index of the interface that the kernel takes the packet for: the VLAN's own.
    pub index: u32,
    pub reserved: u32,
}

/// Counters of a rule, on each CPU.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct RuleCounter {
    pub packets: u64,
    pub bytes: u64,
}

/// Counters of the whole, one element on each CPU.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct Counters {
    /// INVALID packets and drops by [`keepstate_engine::verdict::Reason`].
    pub reasons: [u64; REASON_COUNTERS as usize],
    /// Packets by [`keepstate_engine::verdict::State`].
    pub states: [u64; 8],
    /// Packets by [`keepstate_engine::verdict::Verdict`].
    pub verdicts: [u64; 4],
    /// Events that found the ring full.
    pub events_lost: u64,
    /// Packets for LOG and NFLOG that found theirs full.
    pub notices_lost: u64,
    /// Packets that were to be answered, likewise.
    pub answers_lost: u64,
    /// Judged packets that were to be handed over, likewise.
    pub witnesses_lost: u64,
}

impl Default for Counters {
    fn default() -> Self {
        Self {
            reasons: [0; REASON_COUNTERS as usize],
            states: [0; 8],
            verdicts: [0; 4],
            events_lost: 0,
            notices_lost: 0,
            answers_lost: 0,
            witnesses_lost: 0,
        }
    }
}

/// "None" in a [`Report`].
pub const REPORT_NONE: u32 = u32::MAX;

/// An outcome of the engine, for tests: enumerations by their numbers, [`REPORT_NONE`] for none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Report {
    /// Grows by one with each packet that was judged.
    pub count: u32,
    pub state: u32,
    pub verdict: u32,
    pub reason: u32,
    pub hook: u32,
    pub rule: u32,
    /// One when there is a flow.
    pub has_flow: u32,
    pub flow: u32,
    pub direction: u32,
    pub tcp_state: u32,
}

/// Addresses of the host and broadcast addresses of its networks that there is room for: far more than any host has.
/// What finds no room is said, and counts for an address of somebody else.
pub const LOCALS_MAX: u32 = 16_384;

/// Routes of both families that `rpfilter` knows. Where there are more, none is known ([`Way::UNKNOWN`], for all addresses).
///
/// [`Way::UNKNOWN`]: keepstate_engine::host::Way::UNKNOWN
pub const ROUTES_MAX: u32 = 65_536;

/// Key of an address in [`names::LOCALS`] and of a network in [`names::ROUTES`]: the family's number, then the address, all in network byte order. The value is
/// the kind (one of [`keepstate_engine::condition::address_type`]) in the lower half, the interface's index in the upper.
pub const fn local_key(family: Family, address: &Address) -> [u32; 5] {
    let [a, b, c, d] = *address;
    [
        (family as u32).to_be(),
        a.to_be(),
        b.to_be(),
        c.to_be(),
        d.to_be(),
    ]
}

/// Bits of such a key before those of the address.
pub const LOCAL_KEY_BITS: u32 = 32;
/// A packet that was judged, and its outcome: enumerations by their numbers, [`REPORT_NONE`] for none. The first bytes
/// of the packet follow it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Witness {
    /// Tick of the engine's time.
    pub now: u32,
    /// Length of the frame in bytes, and how many of them follow.
    pub length: u32,
    pub captured: u32,
    /// Number of a [`keepstate_engine::wire::Link`], that the bytes begin with.
    pub link: u32,
    /// Number of a [`keepstate_engine::process::Path`].
    pub path: u32,
    /// Number of the checksums' standing ([`keepstate_engine::process::Checksums`]).
    pub checksums: u32,
    /// Index of the interface that the packet was seen on.
    pub interface: u32,
    /// Index of the one that it leaves by, where its way asked for the route; else of no meaning.
    pub out_interface: u32,
    pub state: u32,
    pub verdict: u32,
    pub reason: u32,
    pub hook: u32,
    pub rule: u32,
    /// One when the packet has a flow.
    pub has_flow: u32,
}

/// Bytes of a packet that are handed over at most, a power of two.
pub const WITNESS_BYTES_MAX: u32 = 2048;

const _: () = assert!(size_of::<Witness>() == 56);

/// What the program [`names::METER`] is to do: the bytes that it is run with.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct MeterOrder {
    pub list: u64,
    pub address: [u32; 4],
    /// One of `METER_*`.
    pub what: u32,
    /// Number of a [`keepstate_engine::tuple::Family`].
    pub family: u32,
    /// Stamps that an entry of the list keeps, less one.
    pub ring: u32,
    /// To be swept: the first bucket or slot, and how many.
    pub first: u32,
    pub buckets: u32,
    pub reserved: [u32; 3],
}

/// Numbers of [`keepstate_engine::meter::Change`].
pub const METER_ADD: u32 = 0;
pub const METER_REMOVE: u32 = 1;
pub const METER_CLEAR: u32 = 2;
/// Takes out what is over, and what belongs to [`MeterOrder::list`] if it is not zero. Returns how many went.
pub const METER_SWEEP: u32 = 3;

/// Lets flows go that are no more, from slot [`MeterOrder::first`] on.
pub const METER_LET_GO: u32 = 4;

/// Returns the lower half of the jiffies.
pub const METER_NOW: u32 = 5;

/// Returned by the program where it could not do as it was told.
pub const METER_FAILED: u32 = u32::MAX;

const _: () = assert!(size_of::<MeterOrder>() == 56);
