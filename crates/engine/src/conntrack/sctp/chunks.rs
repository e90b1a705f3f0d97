//! The chunks of an SCTP packet (RFC 9260 section 3).

use crate::host::{Header, Packet, Repeat};
use crate::verdict::Reason;
use crate::wire::PacketInfo;
use crate::wire::transport::SCTP_HEADER_BYTES;

/// Bytes of a chunk's header.
const CHUNK_HEADER_BYTES: u32 = 4;

/// Bytes of INIT and INIT ACK behind that, parameters not counted.
const INIT_BYTES: u32 = 16;

/// What a chunk is to tracking.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum ChunkKind {
    Init = 0,
    InitAck = 1,
    CookieEcho = 2,
    CookieAck = 3,
    Heartbeat = 4,
    HeartbeatAck = 5,
    Shutdown = 6,
    ShutdownAck = 7,
    ShutdownComplete = 8,
    Abort = 9,
    Error = 10,
    Data = 11,
    /// Acknowledgements, and what is not known.
    Other = 12,
}

impl ChunkKind {
    pub const ALL: [Self; 13] = [
        Self::Init,
        Self::InitAck,
        Self::CookieEcho,
        Self::CookieAck,
        Self::Heartbeat,
        Self::HeartbeatAck,
        Self::Shutdown,
        Self::ShutdownAck,
        Self::ShutdownComplete,
        Self::Abort,
        Self::Error,
        Self::Data,
        Self::Other,
    ];

    /// The kind of a chunk of this type (RFC 9260 section 3.2).
    pub const fn of(number: u8) -> Self {
        match number {
            0 => Self::Data,
            1 => Self::Init,
            2 => Self::InitAck,
            4 => Self::Heartbeat,
            5 => Self::HeartbeatAck,
            6 => Self::Abort,
            7 => Self::Shutdown,
            8 => Self::ShutdownAck,
            9 => Self::Error,
            10 => Self::CookieEcho,
            11 => Self::CookieAck,
            14 => Self::ShutdownComplete,
            _ => Self::Other,
        }
    }

    const fn bit(self) -> u16 {
        1 << self as u16
    }
}

/// A set of kinds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Kinds(u16);

impl Kinds {
    pub(super) const fn of(kinds: &[ChunkKind]) -> Self {
        let (mut set, mut index) = (0, 0);
        while index < kinds.len() {
            set |= kinds[index].bit();
            index += 1;
        }
        Self(set)
    }

    pub(super) const fn meets(self, other: Self) -> bool {
        self.0 & other.0 != 0
    }

    /// Whether there are kinds besides those of `other`.
    pub(super) const fn exceeds(self, other: Self) -> bool {
        self.0 & !other.0 != 0
    }
}

/// One chunk.
#[derive(Clone, Copy)]
pub(super) struct Chunk {
    pub(super) kind: ChunkKind,
    pub(super) flags: u8,
    /// Its length is what it says; zero is never right.
    is_empty: bool,
    /// Offset of its header.
    at: u32,
}

/// A packet's way through its chunks, and what was found. Lies in the scratch memory, since the
/// kernel's verifier follows every value of what a loop keeps on the stack.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Walk {
    /// Offset of the next chunk.
    pub(crate) at: u32,
    /// Where the packet ends.
    pub(crate) end: u32,
    /// Offset of the first chunk.
    first: u32,
    /// Checksum so far, see [`crate::wire::crc32c`].
    pub(crate) crc: u32,
    /// Verification tag of the packet.
    pub(super) tag: u32,
    /// Kinds of all its chunks.
    pub(super) seen: Kinds,
    /// What is wrong.
    pub(super) fault: Option<Reason>,
    /// The packet does not renew the timeout.
    pub(crate) keeps_timeout: bool,
    /// Its tag is that of an association which is asked for and not made.
    pub(super) is_unproven: bool,
}

impl Walk {
    pub(crate) const NOTHING: Self = Self {
        at: 0,
        end: 0,
        first: 0,
        crc: 0,
        tag: 0,
        seen: Kinds(0),
        fault: None,
        keeps_timeout: false,
        is_unproven: false,
    };

    /// At the first chunk of a packet.
    pub(super) const fn start(&mut self, info: &PacketInfo) {
        self.first = info.transport_offset + SCTP_HEADER_BYTES;
        self.at = self.first;
        self.end = info.transport_offset + info.transport_length;
        self.fault = None;
        self.keeps_timeout = false;
        self.is_unproven = false;
    }

    /// The next chunk. A last one whose header is cut is none; one that ends behind the packet is.
    #[inline(always)]
    pub(super) fn next<P: Packet>(&mut self, packet: &P) -> Option<Chunk> {
        let at = self.at;
        if self.end.saturating_sub(at) < CHUNK_HEADER_BYTES {
            return None;
        }
        let header = packet.header(at, CHUNK_HEADER_BYTES)?;
        let length = u32::from(header.u16(2));
        // Chunks are padded to words.
        self.at = at + ((length + 3) & !3);
        Some(Chunk {
            kind: ChunkKind::of(header.u8(0)),
            flags: header.u8(1),
            is_empty: length == 0,
            at,
        })
    }

    /// The tag that an INIT or INIT ACK introduces its sender with.
    #[inline(always)]
    pub(super) fn initiate_tag<P: Packet>(&self, packet: &P, chunk: &Chunk) -> Option<u32> {
        let at = chunk.at + CHUNK_HEADER_BYTES;
        if self.end.saturating_sub(at) < INIT_BYTES {
            return None;
        }
        Some(packet.header(at, INIT_BYTES)?.u32(0))
    }
}

/// The first walk: which chunks there are, and whether they may stand together.
pub(super) struct Survey<'a, P> {
    pub(super) packet: &'a P,
    pub(super) walk: &'a mut Walk,
}

/// Chunks that must be alone in their packet (RFC 9260 section 6.10).
const ALONE: Kinds = Kinds::of(&[
    ChunkKind::Init,
    ChunkKind::InitAck,
    ChunkKind::ShutdownComplete,
]);

/// Chunks that must be the first of their packet (RFC 9260 sections 3.3.11 and 3.3.12).
const FIRST: Kinds = Kinds::of(&[ChunkKind::CookieEcho, ChunkKind::CookieAck]);

impl<P: Packet> Repeat for Survey<'_, P> {
    #[inline(always)]
    fn step(&mut self) -> bool {
        let Some(chunk) = self.walk.next(self.packet) else {
            return false;
        };
        let kind = Kinds(chunk.kind.bit());
        self.walk.seen.0 |= kind.0;
        let is_first = chunk.at == self.walk.first;
        let is_misplaced = !is_first && (self.walk.seen.meets(ALONE) || kind.meets(FIRST));
        if is_misplaced || chunk.is_empty {
            self.walk.fault = Some(Reason::SctpBadChunks);
            return false;
        }
        true
    }
}

impl<P: Packet> Survey<'_, P> {
    pub(super) fn begin(&mut self, info: &PacketInfo, tag: u32) {
        self.walk.start(info);
        self.walk.seen = Kinds(0);
        self.walk.tag = tag;
    }
}
