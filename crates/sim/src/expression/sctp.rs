//! SCTP in words: chunks by name, and the set-up that comes before an established association.

use crate::build::{Chunk, Sctp, chunk};

/// What each end introduces itself with: packets to it carry this.
pub(super) const CLIENT_TAG: u32 = 1000;
pub(super) const SERVER_TAG: u32 = 5000;

const NAMES: &[(&str, u8)] = &[
    ("data", chunk::DATA),
    ("init", chunk::INIT),
    ("init-ack", chunk::INIT_ACK),
    ("sack", chunk::SACK),
    ("heartbeat", chunk::HEARTBEAT),
    ("heartbeat-ack", chunk::HEARTBEAT_ACK),
    ("abort", chunk::ABORT),
    ("shutdown", chunk::SHUTDOWN),
    ("shutdown-ack", chunk::SHUTDOWN_ACK),
    ("error", chunk::ERROR),
    ("cookie-echo", chunk::COOKIE_ECHO),
    ("cookie-ack", chunk::COOKIE_ACK),
    ("shutdown-complete", chunk::SHUTDOWN_COMPLETE),
];

/// The chunk of this name.
pub(super) fn chunk(name: &str) -> Option<Chunk> {
    let (_, kind) = NAMES.iter().find(|(known, _)| *known == name)?;
    Some(match *kind {
        chunk::INIT => Chunk::introducing(chunk::INIT, CLIENT_TAG),
        chunk::INIT_ACK => Chunk::introducing(chunk::INIT_ACK, SERVER_TAG),
        kind => Chunk::new(kind),
    })
}

/// Name of a chunk type.
pub(super) fn name(kind: u8) -> Option<&'static str> {
    let named = NAMES.iter().find(|(_, known)| *known == kind);
    named.map(|(name, _)| *name)
}

/// The packet that asks for an association.
pub(super) fn first((source_port, destination_port): (u16, u16)) -> Sctp {
    Sctp {
        source_port,
        destination_port,
        tag: 0,
        chunks: vec![Chunk::introducing(chunk::INIT, CLIENT_TAG)],
    }
}

/// INIT, INIT ACK, COOKIE ECHO, COOKIE ACK, by ports of a packet there and one back.
pub(super) fn set_up(to: &Sctp, from: &Sctp) -> [Sctp; 4] {
    let packet = |like: &Sctp, tag, chunk| Sctp {
        source_port: like.source_port,
        destination_port: like.destination_port,
        tag,
        chunks: vec![chunk],
    };
    [
        packet(to, 0, Chunk::introducing(chunk::INIT, CLIENT_TAG)),
        packet(
            from,
            CLIENT_TAG,
            Chunk::introducing(chunk::INIT_ACK, SERVER_TAG),
        ),
        packet(to, SERVER_TAG, Chunk::new(chunk::COOKIE_ECHO)),
        packet(from, CLIENT_TAG, Chunk::new(chunk::COOKIE_ACK)),
    ]
}
