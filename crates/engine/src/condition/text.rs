//! Conditions on the bytes of a packet (`-m string`): a search by the failure function of Knuth,
//! Morris and Pratt, which the compiler works out.

use super::options::NOT_FOUND;
use super::{Held, Scan, flag, kind};
use crate::host::{Host, Packet, Payload, Repeat};
use crate::limits::{HELPER_BYTES_MAX, TEXT_BYTES_MAX};
use crate::policy::Condition;
use crate::process::{Run, Scratch};
use crate::settings::checked_index;

/// Bytes in the data of one condition.
pub const BYTES_PER_DATA: u32 = 28;

#[cfg_attr(target_arch = "bpf", inline(never))]
#[cfg_attr(not(target_arch = "bpf"), inline)]
pub(super) fn ask<P: Packet, H: Host>(
    run: &Run<'_, P, H>,
    scratch: &mut Scratch,
    condition: &Condition,
    index: u32,
) -> Held {
    let [from, to, length, ..] = condition.data;
    let Scratch { info, scan, .. } = scratch;
    let there = info.ip_length.saturating_sub(from);
    let looked_at = if there > HELPER_BYTES_MAX {
        HELPER_BYTES_MAX
    } else {
        there
    };
    if looked_at == 0 || length == 0 || length > TEXT_BYTES_MAX {
        return Held::No;
    }
    let Some(payload) = run.packet.payload(info.ip_offset + from, looked_at) else {
        return Held::No;
    };
    *scan = Scan {
        at: 0,
        end: looked_at,
        wanted: 0,
        found: NOT_FOUND,
    };
    let mut search = Search {
        host: run.host,
        payload,
        length,
        first: index.wrapping_add(1),
        any_case: u32::from(condition.flags & flag::ANY_CASE),
        scan,
    };
    run.host.repeat(2 * HELPER_BYTES_MAX, &mut search);
    // All of it lies between the two offsets.
    Held::of(scan.found != NOT_FOUND && scan.found + length <= to.saturating_sub(from))
}

/// `wanted` is how many bytes before the one at hand fit.
struct Search<'a, B, H> {
    host: &'a H,
    payload: B,
    length: u32,
    /// The first condition with data.
    first: u32,
    any_case: u32,
    scan: &'a mut Scan,
}

impl<B: Payload, H: Host> Search<'_, B, H> {
    /// A byte of the data.
    #[inline(always)]
    fn data(&self, at: u32) -> Option<u8> {
        let condition = self
            .host
            .condition(self.first.wrapping_add(at / BYTES_PER_DATA))?;
        if condition.kind != kind::DATA {
            return None;
        }
        let at = at % BYTES_PER_DATA;
        let word = condition.data.get(checked_index(at as usize / 4))?;
        Some((*word >> (8 * (at & 3))) as u8)
    }
}

impl<B: Payload, H: Host> Repeat for Search<'_, B, H> {
    fn step(&mut self) -> bool {
        if self.scan.at >= self.scan.end {
            return false;
        }
        let fitting = self.scan.wanted;
        let Some(wanted) = self.data(fitting) else {
            return false;
        };
        let mut byte = self.payload.byte(self.scan.at);
        if self.any_case != 0 {
            byte = byte.to_ascii_lowercase();
        }
        if byte == wanted {
            self.scan.at += 1;
            self.scan.wanted = fitting + 1;
            if self.scan.wanted == self.length {
                self.scan.found = self.scan.at - self.length;
                return false;
            }
            return true;
        }
        if fitting == 0 {
            self.scan.at += 1;
            return true;
        }
        // What fitted before, without the last byte: how much of the text does its end begin?
        let padded = self.length.div_ceil(BYTES_PER_DATA) * BYTES_PER_DATA;
        let Some(shorter) = self.data(padded + fitting - 1) else {
            return false;
        };
        self.scan.wanted = u32::from(shorter);
        true
    }
}
