//! Every bound of the engine, each with its reason. Relations between them are asserted below.

/// Slots in a bucket. One tag byte for each fits in one 64-bit word, so that claiming a slot and
/// checking its neighbours is a single compare-and-swap.
pub const SLOTS_PER_BUCKET: u32 = 8;

/// Words (8 bytes each) of an IPv4 record: one cache line.
pub const SLOT_WORDS_V4: u32 = 8;

/// Words of an IPv6 record: two cache lines, the key alone takes 40 bytes.
pub const SLOT_WORDS_V6: u32 = 16;

/// Words of the part of a record that a packet in steady state does not touch.
pub const WARM_WORDS: u32 = 2;

/// Words of counters and timestamps: packets and bytes for each direction, start time.
pub const ACCOUNTING_WORDS: u32 = 5;

/// Share of the slots, in percent, that may be in use before inserts are refused. Two choices of
/// pairs of eight-slot buckets hold this and some more before a record finds no place; a test
/// measures it.
pub const RATED_LOAD_PERCENT: u32 = 80;

/// How often a record is read because another CPU changed it meanwhile. That CPU had to fetch the
/// cache line for it, so it does not do so again and again within a few nanoseconds.
pub const RECORD_READS_MAX: u32 = 4;

/// How often a packet looks at a record that another CPU is writing. The writer holds it for a
/// few nanoseconds; after this many looks it has been descheduled.
pub const WRITER_WAITS_MAX: u32 = 64;

/// Rounds of an insert. One is enough, unless other CPUs insert into the same buckets at the same
/// instant; each round waits for one of them.
pub const INSERT_ROUNDS_MAX: u32 = 3;

/// How often an insert looks at a slot that another CPU has claimed and not yet published, which
/// takes it two or three misses of the cache.
pub const CLAIMER_WAITS_MAX: u32 = 256;

/// How often a record that is moved to another table is taken in hand again because a packet changed it
/// meanwhile: each time takes less than a microsecond, and packets of one flow do not come so often.
pub const MOVE_TRIES_MAX: u32 = 64;

/// Confirmed records make room for new ones while less than one in this many of the records that there
/// may be is half-open. At that share a key's four buckets have a half-open one with a chance of 98 %,
/// and a flood can take no more than it from confirmed flows.
pub const EARLY_DROP_HALF_OPEN_SHARE: u32 = 8;

/// Half-open records may be more than their limit by one in this many of it, where a new one's four buckets have none
/// that could go for it. They have one nearly always while their own family's fill the limit; but a flood of
/// the other family's must not lock it out. Less than half of what the limit keeps free, unless that was set.
pub const HALF_OPEN_MARGIN_SHARE: u32 = 16;

/// How often a compare-and-swap of a tags word is tried again. Each failure means that another
/// CPU changed that bucket within the last few nanoseconds.
pub const TAG_RETRIES_MAX: u32 = 4;

/// Packet bytes before the IP header: Ethernet, two VLAN tags, PPPoE.
pub const LINK_HEADER_BYTES_MAX: u32 = 14 + 2 * 4 + 8;

/// VLAN tags that are looked through (802.1ad outside, 802.1Q inside).
pub const VLAN_TAGS_MAX: u32 = 2;

/// IPv6 extension headers that are looked through. Linux has no limit of its own; longer chains
/// are not seen outside of attacks.
pub const IPV6_EXTENSIONS_MAX: u32 = 8;

/// Bytes of TCP options (RFC 9293 section 3.1: data offset is four bits of 32-bit words).
pub const TCP_OPTION_BYTES_MAX: u32 = 40;

/// Bytes of DCCP options (RFC 4340 section 5.1: data offset is a byte of 32-bit words, twelve bytes of them the header's).
pub const DCCP_OPTION_BYTES_MAX: u32 = 1008;

/// Chunks of an SCTP packet that `--chunk-types` looks at: more than a packet of 1,500 bytes has. One with more matches nothing.
pub const SCTP_CHUNKS_ASKED_MAX: u32 = 376;

/// Interfaces that one route may lead to, for `rpfilter`; others of it are not known.
pub const WAY_INTERFACES_MAX: usize = 7;

/// Largest window scale (RFC 7323 section 2.3).
pub const TCP_WINDOW_SCALE_MAX: u8 = 14;

/// Chunks of one SCTP packet: as many as fit into the longest, since none is shorter than its header.
pub const SCTP_CHUNKS_MAX: u32 = 65_536 / 4;

/// Rounds of a CRC32c: sixteen bytes each, and up to fifteen single ones at the end.
pub const CRC_ROUNDS_MAX: u32 = 65_536 / 16 + 15;

/// Payload and what comes before it, of a datagram (RFC 791, RFC 8200): lengths are 16 bits.
pub const DATAGRAM_BYTES_MAX: u32 = 65_535;

/// Offsets of fragments count in these.
pub const FRAGMENT_UNIT_BYTES: u32 = 8;

/// Buckets of unfinished datagrams: with eight in each, 4,096 of them, 800 KiB. Linux stops at 4 MiB
/// of held fragments, which is about as many datagrams of two.
pub const FRAGMENT_BUCKETS: u32 = 512;

/// Unfinished datagrams in a bucket.
pub const FRAGMENT_SLOTS: u32 = 8;

/// Words of an unfinished datagram: control, key, what was decided, its checksum, and the runs that were seen.
pub const FRAGMENT_WORDS: u32 = 9 + FRAGMENT_RUNS_MAX;

/// Words that a bucket has beside its slots.
pub const FRAGMENT_BUCKET_WORDS: u32 = 8;

/// Parts of a datagram that were seen with gaps between them. In any order that occurs there are one or
/// two; 64 KiB in 1,500 bytes each, shuffled at random, have eleven.
pub const FRAGMENT_RUNS_MAX: u32 = 16;

/// What an unfinished datagram counts for where Linux counts bytes of held fragments: so its default,
/// 4 MiB, is all that there are.
pub const FRAGMENT_DATAGRAM_BYTES: u32 = 1024;

/// Seconds that an unfinished datagram is remembered, unless set (RFC 791; `ipfrag_time`).
pub const FRAGMENT_SECONDS_V4: u32 = 30;

/// The same of IPv6 (RFC 8200 section 4.5; `nf_conntrack_frag6_timeout`).
pub const FRAGMENT_SECONDS_V6: u32 = 60;

/// How often a fragment looks at a bucket that another CPU works on, for some hundred nanoseconds.
pub const FRAGMENT_WAITS_MAX: u32 = 512;

/// Datagrams that a sender may begin one after the other, towards one receiver, without any of them going
/// on. Networks lose some fragments, not all but the first; queues of a sender that take turns begin
/// as many at once as there are queues.
pub const FRAGMENT_FIRSTS_MAX: u32 = 16;

/// Fragments that may come ahead of their first one, after a datagram that was let through: a
/// datagram of 64 KiB in reverse order, at 1,500 bytes each.
pub const FRAGMENT_EARLY_MAX: u32 = 48;

/// Packets longer than this are not judged (a GSO super-packet is at most this long).
pub const PACKET_BYTES_MAX: u32 = 65_535 + LINK_HEADER_BYTES_MAX;

/// Rules of one policy, both families together, the end of each chain included: 20,000 of each
/// family, and chains for them. 128 bytes each, twice, and 16 bytes a CPU for what each counts.
pub const RULES_MAX: u32 = 40_960;

/// Conditions (the matches of rules that do not fit in the rule itself) of one policy.
pub const CONDITIONS_MAX: u32 = 32_768;

/// Depth of jumps between chains. iptables refuses loops and allows deep nesting; no ruleset in
/// use is known to nest deeper than a handful.
pub const JUMP_DEPTH_MAX: u32 = 8;

/// Rules that one packet may try. The compiler refuses a policy with a longer path.
pub const RULE_STEPS_MAX: u32 = 65_536;

/// Cells in which half-open connections are counted by destination: a power of two, far more than one host has listeners
/// or a gateway has servers that are busy.
pub const PRESSURE_CELLS: u32 = 4096;

/// Cells of each of two rows in which half-open flows are counted by source network: a power of two. Two networks share both of
/// theirs with a probability of one in 16 million.
pub const ORIGIN_CELLS: u32 = 4096;

/// What part of the half-open flows that there may be must be there before source networks are held to a share: below half
/// there is room for everybody.
pub const ORIGIN_PRESSURE_SHARE: u32 = 2;

/// What part of them one network may then have before its new flows take the place of others. It takes a dozen networks to fill
/// the table together.
pub const ORIGIN_SHARE: u32 = 16;

/// However small the table is, a network may have as many.
pub const ORIGIN_FLOWS_MIN: u32 = 32;

/// Destinations of which a CPU remembers what becomes of SYNs to them, see [`crate::foreseen`]: more than are under
/// attack at a time.
pub const FORESEEN_LINES: u32 = 64;

/// Words that such a line takes.
pub const FORESEEN_WORDS: u32 = 6 + FORESEEN_RULES_MAX / 2;

/// Rules that such a SYN is counted by. The chains of a gateway or of UFW before the rule that accepts come to as many.
pub const FORESEEN_RULES_MAX: u32 = 8;

/// How long that is believed, in ticks: routes and addresses of the host may change meanwhile.
pub const FORESEEN_TICKS: u32 = 4;

/// Rules that are tried in one round of the loop that walks them: the call of a loop's body costs
/// as much as trying a rule, and the kernel's verifier follows each of them.
pub const RULES_PER_ROUND: u32 = 4;

/// Hash tables of a chain's index, each with a mask of its own. Each costs a search a few nanoseconds;
/// rulesets of many addresses, networks and ports need one to five.
pub const INDEX_TABLES_MAX: u32 = 8;

/// Tables that are asked in one round of the walk.
pub const INDEX_TABLES_PER_ROUND: u32 = 4;

/// Lines of all indexes of one policy, 32 bytes each: enough for all rules with one in each, and tables
/// begin with a bucket for one or two. A chain for which nothing is left is walked rule by rule.
pub const INDEX_LINES_MAX: u32 = 2 * RULES_MAX;

/// Rounds of a walk. Each tries a rule or asks a condition, which the compiler counts, and looks
/// into some tables of an index or, where there are more, is followed by rounds that do.
pub const WALK_ROUNDS_MAX: u32 = RULE_STEPS_MAX * INDEX_TABLES_MAX.div_ceil(INDEX_TABLES_PER_ROUND);

/// Conditions of one rule. A rule of iptables-save may hold as many ports and matches as its line
/// has room for; each condition is a step of the walk.
pub const CONDITIONS_PER_RULE_MAX: u32 = 255;

/// How often a condition's memory is tried to be changed. Each failure means that another packet
/// was counted meanwhile.
pub const CONDITION_TRIES_MAX: u32 = 8;

/// Slots for what `recent`, `hashlimit` and `connlimit` remember, all rules together: 8 MiB. Linux's default
/// for one table of `hashlimit` alone is as many.
pub const METER_SLOTS: u32 = 65_536;

/// Words of such a slot.
pub const METER_WORDS: u32 = 16;

/// Buckets through which they are found, and those of the lists themselves; powers of two.
pub const METER_BUCKETS: u32 = 65_536;
pub const METER_LIST_BUCKETS: u32 = 256;

/// Entries in the chain of one bucket. With a slot for each bucket one of more than twelve is not to
/// be expected in the lifetime of a machine; beyond this there is no room.
pub const METER_CHAIN_MAX: u32 = 64;

/// How often a packet looks at a bucket or list that another CPU holds, for less than a microsecond each time.
pub const METER_WAITS_MAX: u32 = 4096;

/// Who held a bucket so long ago is no more: ten seconds at the highest rate, 100 at the lowest.
pub const METER_STALE_JIFFIES: i32 = 10_000;

/// How often a free slot is tried to be taken or given back; each failure means that another CPU did so.
pub const METER_TRIES_MAX: u32 = 64;

/// Stamps that an entry of `recent` keeps at most, and so the largest `--hitcount`.
pub const RECENT_STAMPS_MAX: u32 = 256;

/// Entries of a list of `recent`, unless set (`ip_list_tot`).
pub const RECENT_LIST_DEFAULT: u32 = 100;

/// Flows that a look of `connlimit` lets go at most, and goes through at most.
pub const CONNECTIONS_GONE_MAX: u32 = 64;
pub const CONNECTIONS_WALKED_MAX: u32 = METER_SLOTS;

/// Longest text that is searched for in a packet (`XT_STRING_MAX_PATTERN_SIZE`).
pub const TEXT_BYTES_MAX: u32 = 128;

/// Different interface names (`eth0`, `eth+`) in one policy: one bit of a word for each.
pub const INTERFACE_PATTERNS_MAX: u32 = 64;

/// Expectations that may lie in one bucket of their table.
pub const EXPECTATIONS_PER_BUCKET: u32 = 8;

/// Buckets of the table of expectations; a power of two.
pub const EXPECTATION_BUCKETS: u32 = 1024;

/// Places for expectations: twice as many as there may be, so that seldom all eight of a bucket are
/// taken.
pub const EXPECTATION_SLOTS: u32 = EXPECTATION_BUCKETS * EXPECTATIONS_PER_BUCKET;

/// Largest `nf_conntrack_expect_max`, and its default, as Linux has it on machines of any size.
pub const EXPECTATIONS_MAX: u32 = EXPECTATION_SLOTS / 2;

/// Words of an expectation.
pub const EXPECTATION_WORDS: u32 = 16;

/// Places of a bucket where the state of a helped flow may lie.
pub const HELPER_STATES_PER_BUCKET: u32 = 8;

/// Buckets of the table of these states; a power of two.
pub const HELPER_STATE_BUCKETS: u32 = 512;

/// Flows that helpers can read at a time, all helpers together.
pub const HELPER_STATES: u32 = HELPER_STATE_BUCKETS * HELPER_STATES_PER_BUCKET;

/// Words of a helped flow's state.
pub const HELPER_STATE_WORDS: u32 = 16;

/// Places of a bucket where the labels of a flow may lie.
pub const LABELS_PER_BUCKET: u32 = 8;

/// Buckets of labels; a power of two: with eight places in each 65,536 flows may have labels, in 2 MiB.
pub const LABEL_BUCKETS: u32 = 8192;

/// Words of a flow's labels: whose they are, where its record is, and 128 bits.
pub const LABEL_WORDS: u32 = 4;

/// Labels that a flow may have, as in the kernel.
pub const LABELS_MAX: u32 = 128;

/// How often a word of labels is tried to be changed. Each failure means that another packet has changed it
/// meanwhile.
pub const LABEL_TRIES_MAX: u32 = 4;

/// Bytes of one packet that a helper reads; a power of two, above what an Ethernet frame carries.
pub const HELPER_BYTES_MAX: u32 = 2048;

/// How long a telephone may be registered for, in seconds: a day. Registrars grant minutes or an hour.
pub const SIP_REGISTRATION_SECONDS_MAX: u32 = 86_400;

/// Bytes of a packet that are handed over with a notice: a power of two, above what an Ethernet frame
/// carries and what an ICMP error may quote.
pub const NOTICE_BYTES_MAX: u32 = 2048;

/// Bytes of a packet that LOG asks for: its headers, and those of a packet that an ICMP error quotes.
pub const LOG_BYTES: u32 = 512;

/// Rates of answers: one for all together, and [`ANSWER_PEERS`] for those that are answered.
pub const ANSWER_RATES: u32 = 1 + ANSWER_PEERS;

/// Peers whose rate of answers is kept apart, by their addresses' hash; a power of two. Two that share
/// one get what one would: 4,096 words are little, and a peer that is answered often is seldom one of many.
pub const ANSWER_PEERS: u32 = 4096;

/// Answers of the whole host in a second, and at once (`icmp_msgs_per_sec`, as it was before Linux 6.11
/// raised it to 10,000): a flood of forged senders makes no more backscatter than this.
pub const ANSWERS_PER_SECOND: u32 = 1000;

/// ICMP errors that one peer gets at once; then one in a second (`icmp_ratelimit`, `XRLIM_BURST_FACTOR`).
pub const ANSWER_ERRORS_BURST: u32 = 6;

/// Resets that one peer gets in a second, and at once. Linux knows no limit: that is as many as a
/// scan or a browser needs, and too few to be of use against a forged sender.
pub const ANSWER_RESETS_PER_SECOND: u32 = 100;

/// How often a rate's word is tried to be changed. Each failure means that another answer was counted.
pub const ANSWER_TRIES_MAX: u32 = 8;

/// Outcomes for established packets that a record can remember: three bits, zero is "none".
pub const CACHED_OUTCOMES_MAX: u32 = 7;

/// Number of policies that can be told apart in a record: two bits. The daemon clears what
/// older policies left behind before a number comes round again.
pub const POLICY_EPOCHS: u32 = 4;

/// Entries of a bucket of bans. All heads lie in one cache line.
pub const BAN_BUCKET_SLOTS: u32 = 8;

/// Words of such a bucket: head, two of the address and notes for each entry.
pub const BAN_BUCKET_WORDS: u32 = 4 * BAN_BUCKET_SLOTS;

/// Buckets in which a ban may lie. With two in three slots taken every fifth bucket is full, and all twelve
/// of a network are so for none of a hundred million (a test fills a table).
pub const BAN_BUCKETS_PROBED_MAX: u32 = 12;

/// Entries of a bucket of sets, and its words: head, two of the address, and the rest of the name for each.
pub const SET_BUCKET_SLOTS: u32 = 8;
pub const SET_BUCKET_WORDS: u32 = 4 * SET_BUCKET_SLOTS;

/// Buckets in which an entry of a set may lie: as for bans.
pub const SET_BUCKETS_PROBED_MAX: u32 = BAN_BUCKETS_PROBED_MAX;

/// Lengths of prefix that one set may have: all there are.
pub const SET_LENGTHS_MAX: u32 = 128;

/// Sets that there may be. A kernel begins with room for 256.
pub const SETS_MAX: u32 = 1024;

/// Words of a set's head, see [`crate::set::head`].
pub const SET_HEAD_WORDS: u32 = 48;

/// Members of a list of sets; a power of two. Each may cost a packet as much as a set.
pub const SET_MEMBERS_MAX: u32 = 32;

/// Attempts to write an entry that other CPUs write too.
pub const SET_TRIES_MAX: u32 = 4;

/// Different lengths of prefix that bans of one family may have at a time: each costs a packet a lookup.
/// All that IPv4 has.
pub const BAN_LENGTHS_MAX: u32 = 32;

/// Forms that are refused at a time: a packet that begins a flow is held against each. As many attacks as are met
/// by their form at once are seldom more than two.
pub const FORMS_MAX: u32 = 8;

/// Words of an answer: the headers of IPv6 and TCP, and the options of a SYN-ACK.
pub const ANSWER_WORDS: usize = (40 + 20 + COOKIE_TCP_OPTION_BYTES_MAX as usize) / 4;

/// Segment size, SACK and timestamps, window scale.
pub const COOKIE_TCP_OPTION_BYTES_MAX: u32 = 20;

/// Largest segment size that a cookie's answer asks for: what fits into an Ethernet frame.
pub const COOKIE_MSS_V4: u16 = 1460;
pub const COOKIE_MSS_V6: u16 = 1440;

/// `net.ipv4.ip_default_ttl`.
pub const COOKIE_HOP_LIMIT: u32 = 64;

/// How old a cookie may be, in seconds: what Linux allows, `MAX_SYNCOOKIE_AGE` minutes.
pub const COOKIE_SECONDS: u32 = 120;

/// Bytes of a SYN with some option: what it takes to read the options that it is known to have had.
pub const COOKIE_SYN_BYTES: u16 = 24;

/// Seconds of a period of SYNPROXY's cookies: one is valid to the end of the next. At least as long as a client
/// takes to answer, and too short to collect many.
pub const SYNPROXY_PERIOD_SECONDS: u32 = 64;

/// Places of a bucket where what is known of a connection that SYNPROXY has opened may lie.
pub const SYNPROXY_PER_BUCKET: u32 = 8;

/// Buckets of them; a power of two: 131,072 connections at most, in 4 MiB.
pub const SYNPROXY_BUCKETS: u32 = 16_384;

/// Words of such a place: whose it is, where the record is, two numbers, and what was agreed on.
pub const SYNPROXY_WORDS: u32 = 4;

/// Buckets behind those, of servers whose options SYNPROXY has learned; a power of two: 1,024 servers, more than stand
/// behind one gateway for most, in 32 KiB. Where a bucket is full, what has been known for longest gives way.
pub const SYNPROXY_SERVER_BUCKETS: u32 = 128;

/// Of both.
pub const SYNPROXY_TABLE_BUCKETS: u32 = SYNPROXY_BUCKETS + SYNPROXY_SERVER_BUCKETS;

/// Seconds for which what was learned of a server is believed.
pub const SYNPROXY_SERVER_SECONDS: u32 = 600;

/// What a TCP takes that says nothing of it (RFC 9293 section 3.7.1).
pub const TCP_MSS_DEFAULT: u16 = 536;

/// Timeout policies (`CT --timeout NAME`), besides the timeouts of the sysctls. They lie in the page
/// that every packet reads its settings from; rulesets in use name one or two.
pub const TIMEOUT_POLICIES_MAX: u32 = 16;

const _: () = assert!(METER_BUCKETS.is_power_of_two() && METER_LIST_BUCKETS.is_power_of_two());
// The kernel's own loop goes round 2^23 times at most.
const _: () = assert!(WALK_ROUNDS_MAX <= 1 << 23);
// A rule's number in its chain is half of an entry of an index.
const _: () = assert!(RULES_MAX <= 1 << 16);
const _: () = assert!(NOTICE_BYTES_MAX.is_power_of_two() && LOG_BYTES <= NOTICE_BYTES_MAX);
const _: () = assert!(ANSWER_PEERS.is_power_of_two());
const _: () = assert!(RULE_STEPS_MAX.is_multiple_of(RULES_PER_ROUND));
const _: () = assert!(SLOTS_PER_BUCKET * 8 == u64::BITS);
const _: () = assert!(SLOT_WORDS_V4 * 8 == 64 && SLOT_WORDS_V6 * 8 == 128);
// The numbers fit into the bits that `fragment` has for them.
const _: () = assert!(FRAGMENT_FIRSTS_MAX < 1 << 5 && FRAGMENT_EARLY_MAX < 1 << 6);
const _: () = assert!(FRAGMENT_BUCKETS.is_power_of_two() && FRAGMENT_RUNS_MAX.is_power_of_two());
// The promise of the design: 128 bytes a flow, 160 with accounting, at the rated load. One byte
// is the tag.
const _: () = assert!((SLOT_WORDS_V4 * 8 + WARM_WORDS * 8 + 1) * 100 <= 128 * RATED_LOAD_PERCENT);
const _: () = assert!(
    (SLOT_WORDS_V4 * 8 + WARM_WORDS * 8 + ACCOUNTING_WORDS * 8 + 1) * 100
        <= 160 * RATED_LOAD_PERCENT
);
