//! FTP (RFC 959, RFC 2428): the control connection says where the next data connection goes.
//!
//! Each direction is read byte by byte (`line`), across segments: what was read lies in the
//! state (`helper::state`) of the flow, with the sequence number of the byte that comes next. A
//! retransmission is read from there on. Behind a hole reading goes on as soon as a segment begins
//! where an earlier one ended, after the end of a line; if the hole is filled first, from there.
//!
//! A port opens towards the two ends of the control connection alone, whatever address is named.

use super::line::{Line, Speaker};
use super::{EXPECTED_SECONDS, state};
use crate::expect::{ANY_SOURCE, ANY_SOURCE_PORT, Wanted};
use crate::host::{FlowMemory, Host, Packet, Payload, Repeat, Words};
use crate::limits::HELPER_BYTES_MAX;
use crate::process::{Run, Scratch, Stage};
use crate::tuple::{Address, Direction, Family};
use crate::verdict::State;
use crate::wire::transport::TCP;

/// Whose lines are read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Protocol {
    Ftp,
    /// See `helper::irc`.
    Irc,
}

/// Word of the state where a direction's part begins; there are seven for each.
const fn word_of(direction: Direction) -> u32 {
    state::WORD_OWN + direction as u32 * 7
}

/// Reads a segment.
#[inline(always)]
pub(super) fn read<P: Packet, H: Host>(
    run: &Run<'_, P, H>,
    scratch: &mut Scratch,
    protocol: Protocol,
) -> Stage {
    let info = &scratch.info;
    let header = info.tcp_header_length as u32;
    let length = info.transport_length.wrapping_sub(header);
    let is_read = info.protocol == TCP
        && matches!(scratch.tracked.state, State::Established)
        && info.transport_length > header;
    let Some(direction) = scratch.tracked.direction().filter(|_| is_read) else {
        return Stage::Conclude;
    };
    if matches!((protocol, direction), (Protocol::Irc, Direction::Reply)) {
        return Stage::Conclude;
    }
    let read = if length > HELPER_BYTES_MAX {
        HELPER_BYTES_MAX
    } else {
        length
    };
    let at = info.transport_offset + header;
    let Some(payload) = run.packet.payload(at, read) else {
        return Stage::Conclude;
    };
    let flows = run.host.flows();
    state::acquire(run.host, scratch);
    let Some(words) = flows.helper_state(scratch.state) else {
        return Stage::Conclude;
    };
    load(words, scratch, direction, protocol);
    scratch.line.end = read;
    scratch.line.found = 0;
    let ends_line = read == length && payload.byte(read - 1) == b'\n';
    let sequence = scratch.info.tcp_sequence;
    if scratch.line.begin(sequence, length, ends_line) {
        run.host
            .repeat(HELPER_BYTES_MAX, &mut Reader { payload, scratch });
        scratch.line.finish(sequence, length, read);
    }
    store(words, &scratch.line, direction);
    state::release(words, scratch);
    if scratch.line.found == 0 {
        return Stage::Conclude;
    }
    let (source, flags) = match protocol {
        Protocol::Ftp => (scratch.info.destination, ANY_SOURCE_PORT),
        Protocol::Irc => ([0; 4], ANY_SOURCE | ANY_SOURCE_PORT),
    };
    scratch.wanted = Wanted {
        source,
        destination: scratch.info.source,
        port: scratch.line.found,
        protocol: TCP,
        flags,
        seconds: EXPECTED_SECONDS,
    };
    Stage::Expect
}

fn load<W: Words>(words: W, scratch: &mut Scratch, direction: Direction, protocol: Protocol) {
    let at = word_of(direction);
    let line = &mut scratch.line;
    line.unpack([
        words.load(at),
        words.load(at + 1),
        words.load(at + 2),
        words.load(at + 3),
        words.load(at + 4),
    ]);
    line.asked = words.load(word_of(Direction::Original) + 5) as u8;
    line.speaker = match (protocol, direction) {
        (Protocol::Irc, _) => Speaker::Chatter,
        (Protocol::Ftp, Direction::Original) => Speaker::Client,
        (Protocol::Ftp, Direction::Reply) => Speaker::Server,
    };
}

fn store<W: Words>(words: W, line: &Line, direction: Direction) {
    let at = word_of(direction);
    let [a, b, c, d, e] = line.pack();
    words.store(at, a);
    words.store(at + 1, b);
    words.store(at + 2, c);
    words.store(at + 3, d);
    words.store(at + 4, e);
    words.store(word_of(Direction::Original) + 5, line.asked as u64);
}

struct Reader<'a, B> {
    payload: B,
    scratch: &'a mut Scratch,
}

impl<B: Payload> Repeat for Reader<'_, B> {
    fn step(&mut self) -> bool {
        let Scratch { line, info, .. } = &mut *self.scratch;
        if line.at >= line.end {
            return false;
        }
        let byte = self.payload.byte(line.at);
        line.at += 1;
        line.take(byte, info.family, &info.source);
        true
    }
}

/// Reads a text of one side from its beginning, as a fresh line: the port that it opens, zero for none.
/// For tests and fuzzing.
pub fn read_text(text: &[u8], speaker: Speaker, family: Family, sender: &Address) -> u16 {
    let mut line = Line::FRESH;
    line.speaker = speaker;
    line.begin_line();
    line.asked = u8::MAX;
    for byte in text {
        line.take(*byte, family, sender);
    }
    line.found
}
