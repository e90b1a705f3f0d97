//! TFTP (RFC 1350): a request goes to port 69, and the answer comes from a port that the server
//! chooses for the transfer (section 4).

use super::EXPECTED_SECONDS;
use crate::expect::{ANY_SOURCE_PORT, Wanted};
use crate::host::{Host, Packet, Payload};
use crate::process::{Run, Scratch, Stage};
use crate::tuple::Direction;
use crate::wire::transport::UDP;

const UDP_HEADER_BYTES: u32 = 8;

// Section 5.
const READ_REQUEST: u8 = 1;
const WRITE_REQUEST: u8 = 2;

/// Expects an answer from any port of the server to the port that asked.
#[inline(always)]
pub(super) fn read<P: Packet, H: Host>(run: &Run<'_, P, H>, scratch: &mut Scratch) -> Stage {
    let info = &scratch.info;
    let is_request = info.protocol == UDP
        && info.transport_length >= UDP_HEADER_BYTES + 2
        && matches!(scratch.tracked.direction(), Some(Direction::Original));
    if !is_request {
        return Stage::Conclude;
    }
    let at = info.transport_offset + UDP_HEADER_BYTES;
    let Some(payload) = run.packet.payload(at, 2) else {
        return Stage::Conclude;
    };
    if payload.byte(0) != 0 || !matches!(payload.byte(1), READ_REQUEST | WRITE_REQUEST) {
        return Stage::Conclude;
    }
    scratch.wanted = Wanted {
        source: info.destination,
        destination: info.source,
        port: info.source_port,
        protocol: UDP,
        flags: ANY_SOURCE_PORT,
        seconds: EXPECTED_SECONDS,
    };
    Stage::Expect
}
