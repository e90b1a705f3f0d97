//! A TCP header whose numbers are translated: sequence number, acknowledgement, SACK blocks (RFC 2018) and timestamps
//! (RFC 7323), with the checksum (RFC 1624).

use super::agreed::{self, Agreed, PARTIAL};
use super::{WORD_AGREED, places};
use crate::answer::{Answer, checksum};
use crate::host::{Header, Host, Packet, Repeat, Words};
use crate::limits::TCP_OPTION_BYTES_MAX;
use crate::process::{Run, Scratch};
use crate::settings::checked_index;
use crate::track;
use crate::wire::Fragment;
use crate::wire::transport::{fold, pseudo_header_sum};

const HEADER_BYTES: u32 = 20;
const HEADER_BYTES_MAX: u32 = HEADER_BYTES + TCP_OPTION_BYTES_MAX;
const WINDOW_AT: u32 = 14;
const CHECKSUM_AT: u32 = 16;

/// What is added to the numbers of a segment.
#[derive(Clone, Copy, Debug)]
pub(super) struct Shift {
    pub(super) sequence: u32,
    /// To SACK blocks too.
    pub(super) acknowledgement: u32,
    /// To the timestamp.
    pub(super) value: u32,
    /// To the timestamp that is echoed.
    pub(super) echo: u32,
    /// Bits that the window is shifted by to the left, and then to the right.
    pub(super) window: [u32; 2],
}

impl Shift {
    pub(super) const NONE: Self = Self {
        sequence: 0,
        acknowledgement: 0,
        value: 0,
        echo: 0,
        window: [0; 2],
    };
}

/// How far options are read.
#[derive(Clone, Copy, Debug)]
pub(super) struct Walk {
    at: u32,
    end: u32,
}

impl Walk {
    pub(super) const NOTHING: Self = Self { at: 0, end: 0 };
}

/// Whether a segment's checksum is still to be completed, as a local peer leaves it: it is then the sum of the
/// pseudo-header. One segment of 65,536 with such a checksum could as well have a whole one; it is taken for what
/// the last one was that could not.
#[cfg_attr(target_arch = "bpf", inline(never))]
pub(super) fn is_partial<P: Packet, H: Host>(run: &Run<'_, P, H>, scratch: &Scratch) -> bool {
    let info = &scratch.info;
    let before = scratch.synproxy.agreed;
    let bit = PARTIAL << track::direction_of(scratch) as u64;
    let stored = run.packet.header(info.transport_offset + CHECKSUM_AT, 2);
    let (Some(stored), Fragment::Whole) = (stored, info.fragment) else {
        return false;
    };
    // Of the segment as it came: what became of it has another length.
    let length = info.ip_offset + info.ip_length - info.transport_offset;
    let halves = |length: u32| (length >> 16) + (length & 0xffff);
    let pseudo = pseudo_header_sum(info) - halves(info.transport_length) + halves(length);
    if stored.u16(0) != fold(pseudo) {
        note(run, scratch, bit, 0);
        return false;
    }
    match run.packet.sum(info.transport_offset, length) {
        Some(sum) if fold(pseudo + u32::from(sum)) == 0xffff => before.has(bit),
        _ => {
            note(run, scratch, bit, bit);
            true
        }
    }
}

/// Keeps a bit of what is known of the connection. Two packets at a time may undo each other's: the next one puts
/// it right.
#[inline(always)]
fn note<P: Packet, H: Host>(run: &Run<'_, P, H>, scratch: &Scratch, bit: u64, value: u64) {
    let Agreed(old) = scratch.synproxy.agreed;
    if old & bit == value {
        return;
    }
    if let Some(words) = places::found(run.host.flows(), &scratch.synproxy.search) {
        let old = words.load(WORD_AGREED);
        words.compare_exchange(WORD_AGREED, old, old & !bit | value);
    }
}

/// Puts the translated header in the place of the packet's.
#[inline(always)]
pub(super) fn rewrite<P: Packet, H: Host>(run: &Run<'_, P, H>, scratch: &mut Scratch) -> bool {
    let is_partial = is_partial(run, scratch);
    if !copy(run.packet, scratch) {
        return false;
    }
    let before = sum(&scratch.answer);
    add(&mut scratch.answer, 4, scratch.synproxy.shift.sequence);
    add(
        &mut scratch.answer,
        8,
        scratch.synproxy.shift.acknowledgement,
    );
    scale(&mut scratch.answer, scratch.synproxy.shift.window);
    let end = scratch.answer.length;
    scratch.synproxy.walk = Walk {
        at: HEADER_BYTES,
        end,
    };
    run.host
        .repeat(TCP_OPTION_BYTES_MAX, &mut Options { scratch });
    if !is_partial {
        let after = sum(&scratch.answer);
        let old = read(&scratch.answer, CHECKSUM_AT) >> 16;
        let changed = u64::from(!old & 0xffff) + u64::from(checksum(before)) + after;
        let new = u32::from(checksum(changed));
        // Wraps round to what it is to be, and leaves the other half of the word.
        add(
            &mut scratch.answer,
            CHECKSUM_AT,
            new.wrapping_sub(old) << 16,
        );
    }
    run.host.rewrite(&scratch.info, &scratch.answer)
}

/// Copies the header; `false` where it does not lie there.
#[cfg_attr(target_arch = "bpf", inline(never))]
fn copy<P: Packet>(packet: &P, scratch: &mut Scratch) -> bool {
    let Scratch { info, answer, .. } = scratch;
    let length = u32::from(info.tcp_header_length);
    if !(HEADER_BYTES..=HEADER_BYTES_MAX).contains(&length) {
        return false;
    }
    *answer = Answer::NOTHING;
    answer.length = length;
    let mut at = 0;
    for word in &mut answer.words {
        if at >= length || at >= HEADER_BYTES_MAX {
            break;
        }
        let Some(bytes) = packet.header(info.transport_offset + at, 4) else {
            return false;
        };
        *word = bytes.u32(0).to_be();
        at += 4;
    }
    true
}

/// Of 32-bit words in network order, not folded.
fn sum(header: &Answer) -> u64 {
    let mut sum = 0;
    for word in &header.words {
        sum += u64::from(u32::from_be(*word));
    }
    sum
}

/// Says the window as its receiver reads it.
#[inline(always)]
fn scale(header: &mut Answer, [left, right]: [u32; 2]) {
    let old = read(header, WINDOW_AT) >> 16;
    let new = agreed::window(old, left, right);
    add(header, WINDOW_AT, new.wrapping_sub(old) << 16);
}

/// The word of the header that this byte is in.
#[inline(always)]
fn word(header: &Answer, at: u32) -> u32 {
    let word = header.words.get(checked_index((at / 4) as usize));
    u32::from_be(word.copied().unwrap_or(0))
}

/// Four bytes from this one on.
#[inline(always)]
fn read(header: &Answer, at: u32) -> u32 {
    let pair = u64::from(word(header, at)) << 32 | u64::from(word(header, at + 4));
    (pair >> (32 - 8 * (at & 3))) as u32
}

/// Adds to the four bytes from this one on, as a number.
#[inline(always)]
fn add(header: &mut Answer, at: u32, amount: u32) {
    let shift = 32 - 8 * (at & 3);
    let pair = u64::from(word(header, at)) << 32 | u64::from(word(header, at + 4));
    let mask = 0xffff_ffff_u64 << shift;
    let new = u64::from(((pair >> shift) as u32).wrapping_add(amount)) << shift;
    let pair = pair & !mask | new;
    put(header, at, (pair >> 32) as u32);
    put(header, at + 4, pair as u32);
}

#[inline(always)]
fn put(header: &mut Answer, at: u32, value: u32) {
    if let Some(word) = header.words.get_mut(checked_index((at / 4) as usize)) {
        *word = value.to_be();
    }
}

const END: u32 = 0;
const NOP: u32 = 1;
const SACK: u32 = 5;
const TIMESTAMPS: u32 = 8;

/// A walk over the options of a header, one a step.
struct Options<'a> {
    scratch: &'a mut Scratch,
}

impl Repeat for Options<'_> {
    fn step(&mut self) -> bool {
        let Scratch {
            answer, synproxy, ..
        } = &mut *self.scratch;
        let Walk { at, end } = synproxy.walk;
        if at >= end {
            return false;
        }
        let head = read(answer, at);
        let (kind, length) = (head >> 24, head >> 16 & 0xff);
        if kind == END {
            return false;
        }
        if kind == NOP {
            synproxy.walk.at += 1;
            return true;
        }
        if length < 2 || length > end - at {
            return false;
        }
        let shift = synproxy.shift;
        if kind == TIMESTAMPS && length == 10 {
            add(answer, at + 2, shift.value);
            add(answer, at + 6, shift.echo);
        }
        if kind == SACK && (length - 2) & 7 == 0 {
            for edge in 0..8 {
                if edge * 4 + 2 < length {
                    add(answer, at + 2 + edge * 4, shift.acknowledgement);
                }
            }
        }
        synproxy.walk.at += length;
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_may_lie_at_any_byte() {
        let mut header = Answer::NOTHING;
        for at in 20..28 {
            header.words = [0x1111_1111; _];
            let before = read(&header, at);
            add(&mut header, at, 0x0102_0304);
            assert_eq!(read(&header, at), before + 0x0102_0304, "{at}");
            add(&mut header, at, 0_u32.wrapping_sub(0x0102_0304));
            assert_eq!(header.words, [0x1111_1111; _], "{at}");
        }
    }
}
