//! A flow's record: its fields, and how they lie in the words of a slot.
//!
//! ```text
//!            63........48 47........32 31........16 15.......8 7........0
//! control    | deadline (32)            | retrans (6) win0 (1) last (4) tcp (4) flags (6) lock slot (2) version (8) |
//! window 0,1 | end                      | maxend                  |   originator, then responder
//! window 2,3 | maxwin                   | maxack                  |   originator, then responder
//! detail     | last_end                 | ack hash (12) scales (8) flags (12) |
//! key word 0 | port first | port second |   zone     | protocol | cached  |
//! key words  addresses: one word for IPv4, four for IPv6
//! ```
//!
//! So a record is 8 words for IPv4, one cache line, and 11 of 16 for IPv6. What only the handshake,
//! resets and marks need lies apart, in two [`Warm`] words. The key comes last, so that all other
//! words have the same place for both families: code that changes a record need not know which
//! of them it is, and neither need the kernel's verifier.
//!
//! **Concurrency.** Every change of a record changes its control word by compare-and-swap and
//! adds one to its version. Changes of more than that word set the lock bit first and clear it
//! with the last write; readers that see the bit, or a control word that changed while they read,
//! read again. See [`crate::table`] for what each race can do at worst.

use crate::conntrack::tcp::{SegmentKind, TcpState};
use crate::host::Words;
use crate::policy::Assigned;
use crate::settings::TimeoutPolicy;
use crate::time::Tick;
use crate::tuple::{Direction, Side};

/// What a slot holds, in the control word.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum SlotState {
    /// Nothing, or not yet published.
    Free = 0,
    Live = 1,
    /// Taken out; its tag is about to be cleared.
    Dead = 2,
    /// A copy of a record that is about to be taken out of an older table: nobody comes upon it before
    /// that has happened, and from then on it is as good as live. See [`crate::table::transfer`].
    Coming = 3,
}

/// Packets in both directions were seen.
pub const SEEN_REPLY: u8 = 1 << 0;
/// Not given up early: a handshake was completed, or a stream of datagrams was seen both ways.
pub const ASSURED: u8 = 1 << 1;
/// Foretold by a helper.
pub const EXPECTED: u8 = 1 << 2;
/// The second endpoint in canonical order began.
pub const ORIGINATOR_IS_SECOND: u8 = 1 << 3;
/// The timeout was set by hand and is not renewed.
pub const FIXED_TIMEOUT: u8 = 1 << 4;
/// A rule assigned something to the flow: see [`Warm::assigned`].
pub const ASSIGNED: u8 = 1 << 5;

/// `td_*` of one direction, as the kernel calls them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Window {
    /// Largest sequence number sent, plus one.
    pub end: u32,
    /// Largest sequence number that may be sent, plus one.
    pub max_end: u32,
    /// Largest window advertised, in bytes, scaled.
    pub max_window: u32,
    /// Largest acknowledgement sent.
    pub max_ack: u32,
    /// Shift of this side's window.
    pub scale: u8,
    /// Bits `WINDOW_*`.
    pub flags: u8,
}

impl Window {
    /// Nothing was seen of this direction.
    pub const EMPTY: Self = Self {
        end: 0,
        max_end: 0,
        max_window: 0,
        max_ack: 0,
        scale: 0,
        flags: 0,
    };
}

/// The side sent a window scale option.
pub const WINDOW_SCALED: u8 = 1 << 0;
/// The side permits selective acknowledgements.
pub const WINDOW_SACK_PERMITTED: u8 = 1 << 1;
/// The side sent the first FIN.
pub const WINDOW_CLOSE_INITIATED: u8 = 1 << 2;
/// The window check is lenient: the connection was picked up in its middle.
pub const WINDOW_LIBERAL: u8 = 1 << 3;
/// The side sent data that is not yet acknowledged.
pub const WINDOW_UNACKNOWLEDGED: u8 = 1 << 4;
/// `max_ack` is known.
pub const WINDOW_MAX_ACK_KNOWN: u8 = 1 << 5;

/// The fields of a record that every packet needs.
///
/// UDP uses `windows[0].end` as the tick from which the flow counts as a stream, GRE keeps its
/// timeouts in `windows[0]` and SCTP its tags and flags in both: see there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Record {
    pub deadline: Tick,
    /// Bits [`SEEN_REPLY`] and so on.
    pub status: u8,
    /// For SCTP the one whose number its own state has.
    pub tcp_state: TcpState,
    /// Kind of the last segment that was let through.
    pub last_kind: SegmentKind,
    /// Direction of the last segment that was let through.
    pub last_direction: Direction,
    /// The same acknowledgement seen again, up to 63 times.
    pub retransmissions: u8,
    /// The last window advertised was zero.
    pub last_window_is_zero: bool,
    /// By direction.
    pub windows: [Window; 2],
    /// Sequence number after the last segment that was let through.
    pub last_end: u32,
    /// Twelve bits that tell the last acknowledgement from another (sequence number,
    /// acknowledgement and window).
    pub last_ack_hash: u16,
    /// Whose timeouts it has. Not in these words: with [`ASSIGNED`] it stands in the warm ones.
    pub timeouts: TimeoutPolicy,
}

/// Fields that only the handshake, resets and marks need.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Warm {
    /// Connection mark.
    pub mark: u32,
    /// Window of the last segment, not scaled. Exact only where the state machine reads it.
    pub last_window: u16,
    /// Window scale of an ignored SYN.
    pub last_scale: u8,
    /// Bits `LAST_*`.
    pub last_flags: u8,
    /// Acknowledgement of an ignored challenge ACK.
    pub last_ack: u32,
    /// With [`ASSIGNED`].
    pub assigned: FlowAssigned,
}

/// What rules assigned to a flow: bits 0-7 its [`crate::helper`], 8-12 its timeout policy, 13 that bits
/// 32-39 say which [events](crate::event::told) are told of it, 14 that [SYNPROXY](crate::synproxy) has opened it, and 16-31 when its record was made (low
/// bits of the tick), which tells it from an earlier one in its place.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FlowAssigned(pub u64);

impl FlowAssigned {
    pub const fn new(assigned: Assigned, now: Tick) -> Self {
        let events = match assigned.events() {
            Some(events) => 1 << 13 | (events as u64) << 32,
            None => 0,
        };
        let born = (now.0 as u64 & 0xffff) << 16;
        Self(assigned.helper() as u64 | (assigned.timeout() as u64) << 8 | events | born)
    }

    /// Whether a rule has chosen which events are told of the flow.
    pub const fn is_masked(self) -> bool {
        self.0 & 1 << 13 != 0
    }

    /// Whether any of these events is told of the flow: all are, unless a rule has chosen some.
    pub const fn tells(self, events: u8) -> bool {
        !self.is_masked() || (self.0 >> 32) as u8 & events != 0
    }

    /// Number of the helper, zero for none.
    pub const fn helper(self) -> u8 {
        self.0 as u8
    }

    /// Number of the timeout policy, zero for none.
    pub const fn timeout(self) -> u8 {
        (self.0 >> 8) as u8 & 0x1f
    }

    /// The same, of a connection that SYNPROXY has opened.
    #[must_use]
    pub const fn with_synproxy(self) -> Self {
        Self(self.0 | 1 << 14)
    }

    /// Whether SYNPROXY has opened the connection.
    pub const fn has_synproxy(self) -> bool {
        self.0 & 1 << 14 != 0
    }

    /// When the record was made, roughly.
    pub const fn born(self) -> u16 {
        (self.0 >> 16) as u16
    }
}

/// An ignored SYN carried a window scale.
pub const LAST_SCALED: u8 = 1 << 0;
/// An ignored SYN permitted selective acknowledgements.
pub const LAST_SACK_PERMITTED: u8 = 1 << 1;
/// The next ACK may be a challenge ACK (RFC 5961 section 4), not the acknowledgement of a FIN.
pub const LAST_CHALLENGE_EXPECTED: u8 = 1 << 2;
/// Both sides sent a SYN.
pub const LAST_SIMULTANEOUS_OPEN: u8 = 1 << 3;

/// The control word of a slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Control(pub u64);

const SLOT_STATE_SHIFT: u32 = 8;
const LOCK_BIT: u64 = 1 << 10;
const STATUS_SHIFT: u32 = 11;
const TCP_STATE_SHIFT: u32 = 17;
const LAST_KIND_SHIFT: u32 = 21;
const LAST_DIRECTION_SHIFT: u32 = 24;
const WINDOW_ZERO_SHIFT: u32 = 25;
const RETRANSMISSIONS_SHIFT: u32 = 26;
const DEADLINE_SHIFT: u32 = 32;
const VERSION_MASK: u64 = 0xff;

/// Largest count of retransmissions that fits.
pub const RETRANSMISSIONS_MAX: u8 = 63;

impl Control {
    pub const fn slot_state(self) -> SlotState {
        match (self.0 >> SLOT_STATE_SHIFT) & 3 {
            1 => SlotState::Live,
            2 => SlotState::Dead,
            3 => SlotState::Coming,
            _ => SlotState::Free,
        }
    }

    /// Whether the slot has a record: live, or coming.
    pub const fn holds_record(self) -> bool {
        self.0 & ((SlotState::Live as u64) << SLOT_STATE_SHIFT) != 0
    }

    pub const fn is_locked(self) -> bool {
        self.0 & LOCK_BIT != 0
    }

    pub const fn deadline(self) -> Tick {
        Tick((self.0 >> DEADLINE_SHIFT) as u32)
    }

    pub const fn status(self) -> u8 {
        (self.0 >> STATUS_SHIFT) as u8 & 0x3f
    }

    pub const fn tcp_state(self) -> TcpState {
        TcpState::from_number((self.0 >> TCP_STATE_SHIFT) as u8 & 0xf)
    }

    pub const fn originator(self) -> Side {
        if self.status() & ORIGINATOR_IS_SECOND != 0 {
            Side::Second
        } else {
            Side::First
        }
    }

    /// This word, locked.
    #[must_use]
    pub const fn locked(self) -> Self {
        Self(self.0 | LOCK_BIT)
    }

    /// This word with another slot state and the next version.
    #[must_use]
    pub const fn with_slot_state(self, state: SlotState) -> Self {
        let cleared = self.0 & !(3 << SLOT_STATE_SHIFT) & !VERSION_MASK;
        Self(cleared | ((state as u64) << SLOT_STATE_SHIFT) | self.next_version())
    }

    /// This word with more bits of the status and the next version.
    #[must_use]
    pub const fn with_status(self, status: u8) -> Self {
        let kept = self.0 & !VERSION_MASK;
        Self(kept | ((status as u64 & 0x3f) << STATUS_SHIFT) | self.next_version())
    }

    /// This word with another deadline and the next version.
    #[must_use]
    pub const fn with_deadline(self, deadline: Tick) -> Self {
        let kept = self.0 & 0xffff_ff00;
        Self(kept | ((deadline.0 as u64) << DEADLINE_SHIFT) | self.next_version())
    }

    /// This word as if `direction` were the original one, see [`Record::from_words_of`].
    #[must_use]
    pub const fn mirrored(self, direction: Direction) -> Self {
        Self(self.0 ^ ((direction as u64) << LAST_DIRECTION_SHIFT))
    }

    /// Whether all but the version is the same.
    pub const fn differs_only_in_version(self, other: Self) -> bool {
        (self.0 ^ other.0) & !VERSION_MASK == 0
    }

    const fn next_version(self) -> u64 {
        self.0.wrapping_add(1) & VERSION_MASK
    }
}

/// Word of a slot that holds the [`Control`] word.
pub const CONTROL_WORD: u32 = 0;
/// Words of a slot before its key, the control word included.
pub const STATE_WORDS: u32 = 6;
/// Word of a slot where its key starts.
pub const KEY_WORD: u32 = STATE_WORDS;
const WORD_WINDOWS: u32 = 1;
const WORD_DETAIL: u32 = 5;

// In the detail word: flags of the originator, of the responder, and then their scales.
const FLAGS_BITS: u32 = 6;
const SCALES_SHIFT: u32 = 12;
const SCALE_BITS: u32 = 4;

/// Of [`StateWords::digest`]: odd, with bits well spread.
const DIGEST_MULTIPLIER: u64 = 0x9e37_79b9_7f4a_7c15;

/// The words of a slot between its control word and its key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StateWords(pub [u64; STATE_WORDS as usize - 1]);

impl StateWords {
    pub fn load<W: Words>(words: W) -> Self {
        Self([
            words.load(WORD_WINDOWS),
            words.load(WORD_WINDOWS + 1),
            words.load(WORD_WINDOWS + 2),
            words.load(WORD_WINDOWS + 3),
            words.load(WORD_DETAIL),
        ])
    }

    pub fn store<W: Words>(self, words: W) {
        let [ends_original, ends_reply, wins_original, wins_reply, detail] = self.0;
        words.store(WORD_WINDOWS, ends_original);
        words.store(WORD_WINDOWS + 1, ends_reply);
        words.store(WORD_WINDOWS + 2, wins_original);
        words.store(WORD_WINDOWS + 3, wins_reply);
        words.store(WORD_DETAIL, detail);
    }

    /// `windows[0].end`, as UDP uses it.
    pub(crate) const fn first_end(self) -> Tick {
        let [ends, ..] = self.0;
        Tick((ends >> 32) as u32)
    }

    /// A number that tells how far both sides have come: two moments of a connection have the same
    /// when neither `end` nor `max_end` moved in between, or else by a chance of one in 2^64.
    pub const fn digest(self) -> u64 {
        let [a, b, ..] = self.0;
        a.wrapping_mul(DIGEST_MULTIPLIER).wrapping_add(b)
    }

    /// Whether all words are equal, without a branch for each.
    pub const fn is_same(self, other: Self) -> bool {
        let ([a, b, c, d, e], [v, w, x, y, z]) = (self.0, other.0);
        (a ^ v) | (b ^ w) | (c ^ x) | (d ^ y) | (e ^ z) == 0
    }

    /// These words with the windows of whoever sends in `direction` first, all but the last word,
    /// which stays as it lies; see [`Record::from_words_of`]. Twice gives the words themselves.
    /// Without branches, which the kernel's verifier would follow one by one.
    #[inline(always)]
    #[must_use]
    pub const fn sender_first(self, direction: Direction) -> Self {
        let all = 0_u64.wrapping_sub(direction as u64);
        let [end, other_end, win, other_win, detail] = self.0;
        let (ends, wins) = ((end ^ other_end) & all, (win ^ other_win) & all);
        Self([
            end ^ ends,
            other_end ^ ends,
            win ^ wins,
            other_win ^ wins,
            detail,
        ])
    }
}

/// Numbers of the sender and of the receiver of a packet in this direction, in the last word.
#[inline(always)]
const fn sides(direction: Direction) -> [u32; 2] {
    let sender = direction as u32 & 1;
    [sender, 1 - sender]
}

impl Record {
    /// A record of nothing.
    pub const EMPTY: Self = Self {
        deadline: Tick(0),
        status: 0,
        tcp_state: TcpState::None,
        last_kind: SegmentKind::None,
        last_direction: Direction::Original,
        retransmissions: 0,
        last_window_is_zero: false,
        windows: [Window::EMPTY; 2],
        last_end: 0,
        last_ack_hash: 0,
        timeouts: TimeoutPolicy::DEFAULT,
    };

    /// The originator's side.
    pub const fn originator(&self) -> Side {
        if self.status & ORIGINATOR_IS_SECOND != 0 {
            Side::Second
        } else {
            Side::First
        }
    }

    pub const fn has(&self, status: u8) -> bool {
        self.status & status != 0
    }

    pub fn window(&self, direction: Direction) -> &Window {
        let [original, reply] = &self.windows;
        match direction {
            Direction::Original => original,
            Direction::Reply => reply,
        }
    }

    pub fn window_mut(&mut self, direction: Direction) -> &mut Window {
        let [original, reply] = &mut self.windows;
        match direction {
            Direction::Original => original,
            Direction::Reply => reply,
        }
    }

    /// The control word for this record after `previous`: live, not locked, next version.
    pub const fn control(&self, previous: Control) -> Control {
        Control(
            ((self.deadline.0 as u64) << DEADLINE_SHIFT)
                | ((self.retransmissions as u64 & 0x3f) << RETRANSMISSIONS_SHIFT)
                | ((self.last_window_is_zero as u64) << WINDOW_ZERO_SHIFT)
                | ((self.last_direction as u64) << LAST_DIRECTION_SHIFT)
                | ((self.last_kind as u64 & 7) << LAST_KIND_SHIFT)
                | ((self.tcp_state as u64) << TCP_STATE_SHIFT)
                | ((self.status as u64 & 0x3f) << STATUS_SHIFT)
                | ((SlotState::Live as u64) << SLOT_STATE_SHIFT)
                | previous.next_version(),
        )
    }

    /// Reads the words after the control word.
    pub fn read<W: Words>(control: Control, words: W) -> Self {
        Self::from_words(control, StateWords::load(words))
    }

    /// The record that these words tell of.
    pub fn from_words(control: Control, words: StateWords) -> Self {
        Self::from_words_of(control, words, Direction::Original)
    }

    /// The record as if `direction` were the original one, of words with
    /// whoever sends in that direction [first](StateWords::sender_first). Then
    /// each field that a packet of this direction changes has its place, and none is looked for.
    #[inline(always)]
    pub fn from_words_of(control: Control, words: StateWords, direction: Direction) -> Self {
        let [end_sender, end_receiver, win_sender, win_receiver, detail] = words.0;
        let [sender, receiver] = sides(direction);
        let scale = |side| (detail >> (SCALES_SHIFT + SCALE_BITS * side)) as u8;
        let flags = |side| (detail >> (FLAGS_BITS * side)) as u8;
        let bits = control.mirrored(direction).0;
        Self {
            deadline: control.deadline(),
            status: control.status(),
            tcp_state: control.tcp_state(),
            last_kind: SegmentKind::from_number((bits >> LAST_KIND_SHIFT) as u8 & 7),
            last_direction: if (bits >> LAST_DIRECTION_SHIFT) & 1 == 0 {
                Direction::Original
            } else {
                Direction::Reply
            },
            retransmissions: (bits >> RETRANSMISSIONS_SHIFT) as u8 & 0x3f,
            last_window_is_zero: (bits >> WINDOW_ZERO_SHIFT) & 1 != 0,
            windows: [
                window(end_sender, win_sender, scale(sender), flags(sender)),
                window(end_receiver, win_receiver, scale(receiver), flags(receiver)),
            ],
            last_end: (detail >> 32) as u32,
            last_ack_hash: (detail >> 20) as u16 & 0xfff,
            timeouts: TimeoutPolicy::DEFAULT,
        }
    }

    /// The words after the control word.
    pub const fn words(&self) -> StateWords {
        self.words_of(Direction::Original)
    }

    /// The words of a record that was made [from words of](Self::from_words_of) this direction,
    /// sender first.
    #[inline(always)]
    pub const fn words_of(&self, direction: Direction) -> StateWords {
        let [sender, receiver] = &self.windows;
        StateWords([
            pair(sender.end, sender.max_end),
            pair(receiver.end, receiver.max_end),
            pair(sender.max_window, sender.max_ack),
            pair(receiver.max_window, receiver.max_ack),
            self.detail(direction),
        ])
    }

    #[inline(always)]
    const fn detail(&self, direction: Direction) -> u64 {
        let [first, second] = &self.windows;
        let [sender, receiver] = sides(direction);
        ((self.last_end as u64) << 32)
            | ((self.last_ack_hash as u64 & 0xfff) << 20)
            | ((first.scale as u64 & 0xf) << (SCALES_SHIFT + SCALE_BITS * sender))
            | ((second.scale as u64 & 0xf) << (SCALES_SHIFT + SCALE_BITS * receiver))
            | ((first.flags as u64 & 0x3f) << (FLAGS_BITS * sender))
            | ((second.flags as u64 & 0x3f) << (FLAGS_BITS * receiver))
    }
}

impl Warm {
    pub fn read<W: Words>(words: W) -> Self {
        let (first, second) = (words.load(0), words.load(1));
        Self {
            mark: (first >> 32) as u32,
            last_window: (first >> 16) as u16,
            last_scale: (first >> 12) as u8 & 0xf,
            last_flags: (first >> 8) as u8 & 0xf,
            last_ack: (second >> 32) as u32,
            assigned: FlowAssigned((first & 0xff) << 32 | second & 0xffff_ffff),
        }
    }

    pub fn write<W: Words>(&self, words: W) {
        let first = ((self.mark as u64) << 32)
            | ((self.last_window as u64) << 16)
            | ((self.last_scale as u64 & 0xf) << 12)
            | ((self.last_flags as u64 & 0xf) << 8)
            | self.assigned.0 >> 32 & 0xff;
        words.store(0, first);
        words.store(1, pair(self.last_ack, self.assigned.0 as u32));
    }
}

fn window(ends: u64, wins: u64, scale: u8, flags: u8) -> Window {
    Window {
        end: (ends >> 32) as u32,
        max_end: ends as u32,
        max_window: (wins >> 32) as u32,
        max_ack: wins as u32,
        scale: scale & 0xf,
        flags: flags & 0x3f,
    }
}

const fn pair(high: u32, low: u32) -> u64 {
    ((high as u64) << 32) | low as u64
}

/// What a record remembers of the rules, in the low byte of key word 0: bits 7-6 the policy's
/// epoch, bits 5-3 the outcome for the original direction, bits 2-0 for the reply direction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CachedOutcomes(pub u8);

impl CachedOutcomes {
    /// Number of the outcome for a direction under a policy, zero for none.
    pub const fn outcome(self, epoch: u32, direction: Direction) -> u8 {
        if (self.0 >> 6) as u32 != epoch {
            return 0;
        }
        match direction {
            Direction::Original => (self.0 >> 3) & 7,
            Direction::Reply => self.0 & 7,
        }
    }

    /// These outcomes with one more; those of another policy are forgotten.
    #[must_use]
    pub const fn with(self, epoch: u32, direction: Direction, outcome: u8) -> Self {
        let kept = if (self.0 >> 6) as u32 == epoch {
            self.0 & 0x3f
        } else {
            0
        };
        let outcomes = match direction {
            Direction::Original => (kept & 0o07) | ((outcome & 7) << 3),
            Direction::Reply => (kept & 0o70) | (outcome & 7),
        };
        Self(((epoch as u8 & 3) << 6) | outcomes)
    }
}
