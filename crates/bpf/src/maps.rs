//! The maps. Sizes given as 1 are set by the loader.

use aya_ebpf::bindings::BPF_F_MMAPABLE;
use aya_ebpf::macros::map;
use aya_ebpf::maps::{Array, HashMap, LpmTrie, PerCpuArray, ProgramArray, RingBuf};
use keepstate_engine::limits::{
    EXPECTATION_SLOTS, EXPECTATION_WORDS, FORESEEN_LINES, FORESEEN_WORDS, FRAGMENT_BUCKETS, HELPER_BYTES_MAX, HELPER_STATE_WORDS, HELPER_STATES as HELPER_STATES_MAX, METER_SLOTS, METER_WORDS, SET_BUCKET_WORDS, SET_HEAD_WORDS, SETS_MAX, ANSWER_RATES as ANSWER_RATES_MAX, BAN_BUCKET_WORDS, LABEL_BUCKETS, NOTICE_BYTES_MAX, SYNPROXY_TABLE_BUCKETS,
};
use keepstate_engine::host::Way;
use keepstate_engine::index::IndexLine;
use keepstate_engine::notice::Notice;
use keepstate_engine::policy::{Condition, PolicyHeader, Rule};
use keepstate_engine::process::{Arrival, Scratch};
use keepstate_engine::table::gauges;
use keepstate_plane::{
    BUCKET_ACCOUNTING_WORDS, BUCKET_SLOT_WORDS_V4, BUCKET_SLOT_WORDS_V6, BUCKET_WARM_WORDS, CONDITION_ENTRIES, Counters, EVENT_RING_BYTES, FRAGMENT_VALUE_WORDS, INTERFACES_MAX, METER_HEADS as METER_HEADS_MAX, Interface, InterfaceKey, POLICY_SLOTS, Plane, RULE_ENTRIES, Report, RuleCounter, STAGES, ANSWER_RING_BYTES, INDEX_ENTRIES, LABEL_VALUE_WORDS, SYNPROXY_VALUE_WORDS, LOCALS_MAX, ROUTES_MAX, NOTICE_RING_BYTES, WITNESS_BYTES_MAX, WITNESS_RING_BYTES, Witness,
};

#[map]
pub static PLANE: Array<Plane> = Array::with_max_entries(1, BPF_F_MMAPABLE);

#[map]
pub static TAGS4: Array<u64> = Array::with_max_entries(1, BPF_F_MMAPABLE);
#[map]
pub static TAGS6: Array<u64> = Array::with_max_entries(1, BPF_F_MMAPABLE);

#[map]
pub static SLOTS4: Array<[u64; BUCKET_SLOT_WORDS_V4]> = Array::with_max_entries(1, BPF_F_MMAPABLE);
#[map]
pub static SLOTS6: Array<[u64; BUCKET_SLOT_WORDS_V6]> = Array::with_max_entries(1, BPF_F_MMAPABLE);

#[map]
pub static WARM4: Array<[u64; BUCKET_WARM_WORDS]> = Array::with_max_entries(1, BPF_F_MMAPABLE);
#[map]
pub static WARM6: Array<[u64; BUCKET_WARM_WORDS]> = Array::with_max_entries(1, BPF_F_MMAPABLE);

#[map]
pub static ACCOUNTING4: Array<[u64; BUCKET_ACCOUNTING_WORDS]> =
    Array::with_max_entries(1, BPF_F_MMAPABLE);
#[map]
pub static ACCOUNTING6: Array<[u64; BUCKET_ACCOUNTING_WORDS]> =
    Array::with_max_entries(1, BPF_F_MMAPABLE);

#[map]
pub static GAUGES: Array<[u64; gauges::WORDS as usize]> =
    Array::with_max_entries(1, BPF_F_MMAPABLE);

#[map]
pub static FRAGMENTS: Array<[u64; FRAGMENT_VALUE_WORDS]> =
    Array::with_max_entries(FRAGMENT_BUCKETS, BPF_F_MMAPABLE);
#[map]
pub static EXPECTATIONS: Array<[u64; EXPECTATION_WORDS as usize]> =
    Array::with_max_entries(EXPECTATION_SLOTS, BPF_F_MMAPABLE);
#[map]
pub static HELPER_STATES: Array<[u64; HELPER_STATE_WORDS as usize]> =
    Array::with_max_entries(HELPER_STATES_MAX, BPF_F_MMAPABLE);

/// What rules remember of sources, and the buckets through which it is found.
#[map]
pub static METERS: Array<[u64; METER_WORDS as usize]> =
    Array::with_max_entries(METER_SLOTS, BPF_F_MMAPABLE);
#[map]
pub static METER_HEADS: Array<u64> = Array::with_max_entries(METER_HEADS_MAX, BPF_F_MMAPABLE);
#[map]
pub static BANS: Array<[u64; BAN_BUCKET_WORDS as usize]> =
    Array::with_max_entries(1, BPF_F_MMAPABLE);
#[map]
pub static SETS: Array<[u64; SET_BUCKET_WORDS as usize]> =
    Array::with_max_entries(1, BPF_F_MMAPABLE);
#[map]
pub static SET_HEADS: Array<[u64; SET_HEAD_WORDS as usize]> =
    Array::with_max_entries(SETS_MAX, BPF_F_MMAPABLE);
#[map]
pub static LABELS: Array<[u64; LABEL_VALUE_WORDS]> =
    Array::with_max_entries(LABEL_BUCKETS, BPF_F_MMAPABLE);
/// What is known of connections that SYNPROXY has opened.
#[map]
pub static SYNPROXY: Array<[u64; SYNPROXY_VALUE_WORDS]> =
    Array::with_max_entries(SYNPROXY_TABLE_BUCKETS, BPF_F_MMAPABLE);

/// Bytes of the packet at hand that a helper reads.
#[map]
pub static PAYLOAD: PerCpuArray<[u8; HELPER_BYTES_MAX as usize]> =
    PerCpuArray::with_max_entries(1, 0);

#[map]
pub static POLICIES: Array<PolicyHeader> = Array::with_max_entries(POLICY_SLOTS, 0);
#[map]
pub static RULES: Array<Rule> = Array::with_max_entries(RULE_ENTRIES, BPF_F_MMAPABLE);
#[map]
pub static CONDITIONS: Array<Condition> =
    Array::with_max_entries(CONDITION_ENTRIES, BPF_F_MMAPABLE);
/// The indexes of long chains.
#[map]
pub static INDEX: Array<IndexLine> = Array::with_max_entries(INDEX_ENTRIES, BPF_F_MMAPABLE);
/// What conditions remember, a word for each.
#[map]
pub static CONDITION_STATES: Array<u64> = Array::with_max_entries(CONDITION_ENTRIES, BPF_F_MMAPABLE);
/// Rates of answers, for [`keepstate_engine::answer`].
#[map]
pub static ANSWER_RATES: Array<u64> = Array::with_max_entries(ANSWER_RATES_MAX, 0);
#[map]
pub static RULE_COUNTERS: PerCpuArray<RuleCounter> = PerCpuArray::with_max_entries(RULE_ENTRIES, 0);

#[map]
pub static COUNTERS: PerCpuArray<Counters> = PerCpuArray::with_max_entries(1, 0);

/// What the engine works with while it judges a packet. No program is interrupted by another on
/// the same CPU: all of them run with bottom halves disabled.
pub struct Memory {
    pub scratch: Scratch,
    pub arrival: Arrival,
    /// Slot of the policy that was in force when the packet came.
    pub slot: u32,
    pub clock: Milliseconds,
    pub woken: Woken,
}

/// When this CPU last woke who reads events.
pub struct Woken {
    /// The kernel's, its low half.
    pub jiffies: u32,
    /// Events since then.
    pub unannounced: u32,
}

/// How far the kernel's monotonic clock is ahead of its jiffies, as of a tick. Reading that clock costs as much as the whole of a
/// short answer; both move on together, at most a millisecond apart within a tick.
pub struct Milliseconds {
    pub tick: u32,
    pub ahead: u32,
}

#[map]
pub static SCRATCH: PerCpuArray<Memory> = PerCpuArray::with_max_entries(1, 0);

/// For [`keepstate_engine::host::FlowMemory::forget`].
#[map]
pub static FORGOTTEN: PerCpuArray<u32> = PerCpuArray::with_max_entries(1, 0);

/// What this CPU knows of destinations of SYNs.
#[map]
pub static FORESEEN: PerCpuArray<[u64; FORESEEN_WORDS as usize]> =
    PerCpuArray::with_max_entries(FORESEEN_LINES, 0);

#[map]
pub static INTERFACES: HashMap<InterfaceKey, Interface> =
    HashMap::with_max_entries(INTERFACES_MAX, 0);

/// Addresses of the host, see [`keepstate_plane::local_key`].
#[map]
pub static LOCALS: LpmTrie<[u32; 5], u64> = LpmTrie::with_max_entries(LOCALS_MAX, 0);

/// Routes of the host, likewise.
#[map]
pub static ROUTES: LpmTrie<[u32; 5], Way> = LpmTrie::with_max_entries(ROUTES_MAX, 0);

#[map]
pub static EVENTS: RingBuf = RingBuf::with_byte_size(EVENT_RING_BYTES, 0);

/// What LOG and NFLOG tell of, and packets that are to be answered: [`NoticeBytes`] as far as they are filled.
/// Two, so that a flood of lines keeps no answer from being sent.
#[map]
pub static NOTICES: RingBuf = RingBuf::with_byte_size(NOTICE_RING_BYTES, 0);
#[map]
pub static ANSWERS: RingBuf = RingBuf::with_byte_size(ANSWER_RING_BYTES, 0);

/// A notice and the packet's bytes, while they are put together.
#[repr(C)]
pub struct NoticeBytes {
    pub notice: Notice,
    pub bytes: [u8; NOTICE_BYTES_MAX as usize],
}

#[map]
pub static NOTICE: PerCpuArray<NoticeBytes> = PerCpuArray::with_max_entries(1, 0);

/// Judged packets for whoever traces: [`WitnessBytes`] as far as they are filled.
#[map]
pub static WITNESSES: RingBuf = RingBuf::with_byte_size(WITNESS_RING_BYTES, 0);

/// A judged packet, while it is put together.
#[repr(C)]
pub struct WitnessBytes {
    pub witness: Witness,
    pub bytes: [u8; WITNESS_BYTES_MAX as usize],
}

#[map]
pub static WITNESS: PerCpuArray<WitnessBytes> = PerCpuArray::with_max_entries(1, 0);

#[map]
pub static REPORT: Array<Report> = Array::with_max_entries(1, BPF_F_MMAPABLE);

/// The programs of the later stages, by number of the stage, for packets that came by XDP and by
/// TC.
#[map]
pub static STAGES_XDP: ProgramArray = ProgramArray::with_max_entries(STAGES, 0);
#[map]
pub static STAGES_TC: ProgramArray = ProgramArray::with_max_entries(STAGES, 0);
