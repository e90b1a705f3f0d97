//! SCTP (RFC 9260), as Linux tracks it.
//!
//! [`transitions`] says what a chunk does to a state. This file holds the verification tags: each
//! side names in its INIT or INIT ACK the tag that packets *to* it must carry (RFC 9260 section 8.5).
//!
//! **An INIT may be forged**: its own tag is zero, so whoever knows addresses and ports can send one. It
//! may as well be true, where an end has lost its memory (RFC 9260 section 5.2). Linux takes its tag at
//! once, and whatever comes with the old one is INVALID from then on. Here a tag that differs from a
//! known one is an *offer*: both are right until a COOKIE ECHO carries the tag that answered the INIT, and only
//! then do the new tags take the old ones' place. While an association is established, packets with an
//! offered tag may go on with the handshake and do nothing else.

pub(crate) mod chunks;
pub mod transitions;

pub use self::chunks::ChunkKind;
pub use self::transitions::SctpState;

use self::chunks::{Chunk, Kinds, Survey, Walk};
use self::transitions::{Transition, transition};
use crate::conntrack::renew;
use crate::host::{Header, Host, Packet, Repeat};
use crate::limits::SCTP_CHUNKS_MAX;
use crate::process::{Run, Scratch};
use crate::record::{ASSURED, Record};
use crate::trace::Step;
use crate::tuple::Direction;
use crate::verdict::Reason;
use crate::wire::crc32c;
use crate::wire::transport::SCTP_HEADER_BYTES;

/// In the flags of a window: the side sent an INIT, and no COOKIE ACK was seen since.
const INIT_SEEN: u8 = 1 << 0;
/// The last heartbeat with a wrong tag came from this side.
const HEARTBEAT_UNMATCHED: u8 = 1 << 1;

/// The tag in the packet is the receiver's, not the sender's (RFC 9260 section 8.5.1).
const FLAG_T: u8 = 1 << 0;

/// Chunks that nothing can begin with (RFC 9260 section 8.4).
const NEVER_FIRST: Kinds = Kinds::of(&[
    ChunkKind::Abort,
    ChunkKind::ShutdownComplete,
    ChunkKind::CookieAck,
    ChunkKind::Data,
    ChunkKind::Other,
]);

/// Chunks whose tags are looked at one by one, or not at all.
const TAGGED_BY_CHUNK: Kinds = Kinds::of(&[
    ChunkKind::Init,
    ChunkKind::ShutdownComplete,
    ChunkKind::CookieEcho,
    ChunkKind::Abort,
    ChunkKind::ShutdownAck,
    ChunkKind::Heartbeat,
    ChunkKind::HeartbeatAck,
]);

/// What may carry the tag of an association that is asked for and not made, and is not
/// [`TAGGED_BY_CHUNK`].
const ANSWERS_TO_OFFER: Kinds = Kinds::of(&[ChunkKind::InitAck, ChunkKind::Error]);

impl SctpState {
    /// Of an association's record.
    pub const fn of(record: &Record) -> Self {
        Self::from_number(record.tcp_state as u8)
    }

    /// Notes the state of an association.
    pub const fn store(self, record: &mut Record) {
        record.tcp_state = crate::conntrack::tcp::TcpState::from_number(self as u8);
    }
}

/// Whether there is something that a forged INIT could destroy.
const fn is_guarded(record: &Record) -> bool {
    record.has(ASSURED) && !matches!(SctpState::of(record), SctpState::Closed)
}

/// The verification tag that packets in this direction carry, zero where it is not known.
pub fn tag(record: &Record, direction: Direction) -> u32 {
    record.window(direction).end
}

/// Notes a verification tag.
pub fn set_tag(record: &mut Record, direction: Direction, tag: u32) {
    record.window_mut(direction).end = tag;
}

/// The tag that packets of an association which is asked for would carry.
fn offered(record: &Record, direction: Direction) -> u32 {
    record.window(direction).max_end
}

fn set_offered(record: &mut Record, direction: Direction, tag: u32) {
    record.window_mut(direction).max_end = tag;
}

/// Looks at checksum and chunks of a packet, before it is known whose it is.
#[cfg_attr(target_arch = "bpf", inline(never))]
#[cfg_attr(not(target_arch = "bpf"), inline)]
pub(crate) fn survey<P: Packet, H: Host>(
    run: &Run<'_, P, H>,
    scratch: &mut Scratch,
) -> Option<Reason> {
    let Scratch {
        info, chunks: walk, ..
    } = scratch;
    let Some(header) = run.packet.header(info.transport_offset, SCTP_HEADER_BYTES) else {
        return Some(Reason::SctpTruncated);
    };
    let tag = header.u32(4);
    if !crc32c::is_right(run, info, walk) {
        return Some(Reason::SctpBadChecksum);
    }
    let mut survey = Survey {
        packet: run.packet,
        walk,
    };
    survey.begin(info, tag);
    run.host.repeat(SCTP_CHUNKS_MAX, &mut survey);
    if walk.seen == Kinds::default() {
        return Some(Reason::SctpBadChunks);
    }
    walk.fault
}

/// Makes the record of a new association in the scratch memory; the error says why there is none.
#[cfg_attr(target_arch = "bpf", inline(never))]
#[cfg_attr(not(target_arch = "bpf"), inline)]
pub(crate) fn begin<P: Packet, H: Host>(
    run: &Run<'_, P, H>,
    scratch: &mut Scratch,
) -> Result<(), Reason> {
    let Scratch {
        chunks: walk,
        record,
        ..
    } = scratch;
    if walk.seen.meets(NEVER_FIRST) {
        return Err(Reason::SctpNoAssociation);
    }
    *record = Record::EMPTY;
    if walk.seen.meets(Kinds::of(&[ChunkKind::Heartbeat])) {
        set_tag(record, Direction::Original, walk.tag);
    }
    // Out of the blue: the answer will have the same tag (RFC 9260 section 8.4).
    if walk.seen.meets(Kinds::of(&[ChunkKind::ShutdownAck])) {
        set_tag(record, Direction::Reply, walk.tag);
    }
    take_chunks(run, scratch, Direction::Original)
}

/// Advances an association by a packet's chunks.
#[cfg_attr(target_arch = "bpf", inline(never))]
#[cfg_attr(not(target_arch = "bpf"), inline)]
pub(crate) fn take_chunks<P: Packet, H: Host>(
    run: &Run<'_, P, H>,
    scratch: &mut Scratch,
    direction: Direction,
) -> Result<(), Reason> {
    let Scratch {
        info,
        chunks: walk,
        record,
        ..
    } = scratch;
    let before = SctpState::of(record);
    walk.start(info);
    if !walk.seen.meets(TAGGED_BY_CHUNK) && walk.tag != tag(record, direction) {
        walk.is_unproven = walk.tag == offered(record, direction) && walk.tag != 0;
        let goes_on = !is_guarded(record) || !walk.seen.exceeds(ANSWERS_TO_OFFER);
        if !walk.is_unproven || !goes_on {
            return Err(Reason::SctpBadTag);
        }
    }
    let mut chunks = Chunks {
        packet: run.packet,
        walk,
        record,
        direction,
    };
    run.host.repeat(SCTP_CHUNKS_MAX, &mut chunks);
    if let Some(reason) = walk.fault {
        return Err(reason);
    }
    let state = SctpState::of(record);
    run.host.trace(Step::SctpState(before, state));
    if !walk.keeps_timeout {
        renew(run.host.settings(), state.timeout(), record, run.now);
    }
    Ok(())
}

/// The second walk: what each chunk does.
struct Chunks<'a, P> {
    packet: &'a P,
    walk: &'a mut Walk,
    record: &'a mut Record,
    direction: Direction,
}

/// What becomes of a chunk whose tag was looked at.
enum Tagged {
    /// It does what the table of transitions says.
    Goes,
    /// It is let through and changes nothing.
    Passes,
}

impl<P: Packet> Repeat for Chunks<'_, P> {
    #[inline(always)]
    fn step(&mut self) -> bool {
        let Some(chunk) = self.walk.next(self.packet) else {
            return false;
        };
        match self.take(&chunk) {
            Ok(()) => true,
            Err(reason) => {
                self.walk.fault = Some(reason);
                false
            }
        }
    }
}

impl<P: Packet> Chunks<'_, P> {
    #[inline(always)]
    fn take(&mut self, chunk: &Chunk) -> Result<(), Reason> {
        if matches!(self.verify(chunk)?, Tagged::Passes) {
            return Ok(());
        }
        let from = SctpState::of(self.record);
        let Transition::To(to) = transition(self.direction, chunk.kind, from) else {
            return Err(Reason::SctpBadTransition);
        };
        match chunk.kind {
            ChunkKind::Init => {
                self.take_init(chunk)?;
                // One sent again must not keep the record alive for ever.
                if matches!((from, to), (SctpState::Closed, SctpState::Closed)) {
                    self.walk.keeps_timeout = true;
                }
            }
            ChunkKind::InitAck => self.take_init_ack(chunk)?,
            _ => {}
        }
        to.store(self.record);
        if from as u8 != to as u8 && matches!(to, SctpState::Established) {
            self.record.status |= ASSURED;
        }
        Ok(())
    }

    /// The tags that have rules of their own (RFC 9260 section 8.5.1).
    #[inline(always)]
    fn verify(&mut self, chunk: &Chunk) -> Result<Tagged, Reason> {
        match chunk.kind {
            ChunkKind::Init if self.walk.tag != 0 => return Err(Reason::SctpBadTag),
            ChunkKind::Abort | ChunkKind::ShutdownComplete => return self.verify_end(chunk),
            ChunkKind::CookieEcho => self.verify_cookie_echo()?,
            ChunkKind::CookieAck => {
                self.record.window_mut(Direction::Original).flags &= !INIT_SEEN;
                self.record.window_mut(Direction::Reply).flags &= !INIT_SEEN;
            }
            ChunkKind::Heartbeat => return self.verify_heartbeat(),
            ChunkKind::HeartbeatAck => self.verify_heartbeat_ack()?,
            _ => {}
        }
        Ok(Tagged::Goes)
    }

    #[inline(always)]
    fn verify_end(&mut self, chunk: &Chunk) -> Result<Tagged, Reason> {
        let whose = if chunk.flags & FLAG_T != 0 {
            self.direction.other()
        } else {
            self.direction
        };
        if self.walk.tag == tag(self.record, whose) {
            return Ok(Tagged::Goes);
        }
        if self.walk.tag != offered(self.record, whose) || self.walk.tag == 0 {
            return Err(Reason::SctpBadTag);
        }
        if !is_guarded(self.record) {
            return Ok(Tagged::Goes);
        }
        // It ends what was asked for, and not what there is.
        set_offered(self.record, Direction::Original, 0);
        set_offered(self.record, Direction::Reply, 0);
        Ok(Tagged::Passes)
    }

    /// The cookie proves that its sender got the answer to the INIT: no stranger did.
    #[inline(always)]
    fn verify_cookie_echo(&mut self) -> Result<(), Reason> {
        let (there, back) = (self.direction, self.direction.other());
        if self.walk.tag == tag(self.record, there) {
            return Ok(());
        }
        if self.walk.tag != offered(self.record, there) || self.walk.tag == 0 {
            return Err(Reason::SctpBadTag);
        }
        set_tag(self.record, there, self.walk.tag);
        let answer = offered(self.record, back);
        if answer != 0 {
            set_tag(self.record, back, answer);
        }
        set_offered(self.record, there, 0);
        set_offered(self.record, back, 0);
        Ok(())
    }

    /// Both ends' tags may have changed on another path. A heartbeat with a wrong one is let
    /// through; that its answer has another as well shows that they did.
    #[inline(always)]
    fn verify_heartbeat(&mut self) -> Result<Tagged, Reason> {
        let known = tag(self.record, self.direction);
        if known == 0 {
            set_tag(self.record, self.direction, self.walk.tag);
        } else if known == self.walk.tag || self.is_offered_freely() {
            self.forget_unmatched();
        } else {
            self.only_heartbeat()?;
            self.forget_unmatched();
            self.record.window_mut(self.direction).flags |= HEARTBEAT_UNMATCHED;
            self.walk.keeps_timeout = true;
            return Ok(Tagged::Passes);
        }
        Ok(Tagged::Goes)
    }

    #[inline(always)]
    fn verify_heartbeat_ack(&mut self) -> Result<(), Reason> {
        let known = tag(self.record, self.direction);
        if known == 0 {
            set_tag(self.record, self.direction, self.walk.tag);
        } else if known == self.walk.tag || self.is_offered_freely() {
            self.forget_unmatched();
        } else {
            self.only_heartbeat()?;
            let asker = self.direction.other();
            if self.record.window(asker).flags & HEARTBEAT_UNMATCHED == 0 {
                return Err(Reason::SctpBadTag);
            }
            self.forget_unmatched();
            set_tag(self.record, self.direction, self.walk.tag);
            set_tag(self.record, asker, 0);
        }
        Ok(())
    }

    /// Whether the tag is offered, with nothing there that this could harm.
    fn is_offered_freely(&self) -> bool {
        let offer = offered(self.record, self.direction);
        offer != 0 && offer == self.walk.tag && !is_guarded(self.record)
    }

    fn forget_unmatched(&mut self) {
        self.record.window_mut(Direction::Original).flags &= !HEARTBEAT_UNMATCHED;
        self.record.window_mut(Direction::Reply).flags &= !HEARTBEAT_UNMATCHED;
    }

    /// A wrong tag is borne once in a packet, and never beside data.
    fn only_heartbeat(&self) -> Result<(), Reason> {
        let has_data = self.walk.seen.meets(Kinds::of(&[ChunkKind::Data]));
        if has_data || self.walk.keeps_timeout {
            return Err(Reason::SctpBadTag);
        }
        Ok(())
    }

    #[inline(always)]
    fn take_init(&mut self, chunk: &Chunk) -> Result<(), Reason> {
        let Some(introduced) = self.walk.initiate_tag(self.packet, chunk) else {
            return Err(Reason::SctpBadChunks);
        };
        let (there, back) = (self.direction, self.direction.other());
        if self.sent_init(there) && self.sent_init(back) {
            self.record.window_mut(back).flags &= !INIT_SEEN;
        }
        self.record.window_mut(there).flags |= INIT_SEEN;
        let known = tag(self.record, back);
        if known == 0 {
            set_tag(self.record, back, introduced);
        } else if known != introduced {
            set_offered(self.record, back, introduced);
            set_offered(self.record, there, 0);
        }
        Ok(())
    }

    /// RFC 9260 sections 5.2.2 and 5.2.3: an INIT ACK that answers no INIT is stale, and where both
    /// sides sent one, its tag is that of its sender's own.
    #[inline(always)]
    fn take_init_ack(&mut self, chunk: &Chunk) -> Result<(), Reason> {
        let Some(introduced) = self.walk.initiate_tag(self.packet, chunk) else {
            return Err(Reason::SctpBadChunks);
        };
        let back = self.direction.other();
        let mut known = tag(self.record, back);
        if self.walk.is_unproven && offered(self.record, back) != 0 {
            known = offered(self.record, back);
        }
        let is_asked_for = self.sent_init(back);
        let is_stale = !is_asked_for && known != 0;
        let is_collision = is_asked_for && self.sent_init(self.direction);
        if (is_stale || is_collision) && known != introduced {
            return Err(Reason::SctpBadTag);
        }
        // Also the answer to an INIT that came twice: the association goes on with its old tags.
        let is_offer = is_guarded(self.record) && tag(self.record, back) != introduced;
        if self.walk.is_unproven || is_offer {
            set_offered(self.record, back, introduced);
        } else {
            set_tag(self.record, back, introduced);
        }
        Ok(())
    }

    fn sent_init(&self, direction: Direction) -> bool {
        self.record.window(direction).flags & INIT_SEEN != 0
    }
}
