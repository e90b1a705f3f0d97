//! Packets that were judged, handed to user space with their outcome, while somebody traces.
//!
//! A program of its own at the end of a packet's way. Where it is missing, packets go without it.

use core::mem::size_of;

use aya_ebpf::helpers::generated::bpf_ringbuf_output;
use keepstate_engine::verdict::Verdict;
use keepstate_plane::{
    PLANE_WITNESS_ALL, PLANE_WITNESS_DROPS, REPORT_NONE, WITNESS_BYTES_MAX, Witness,
};

use crate::host::{self, Context};
use crate::judge;
use crate::maps;
use crate::packet::masked;

/// Whether the packet whose way has ended is to be handed over.
#[inline(always)]
pub fn is_wanted() -> bool {
    let Some(plane) = host::plane() else {
        return false;
    };
    let flags = plane.flags & (PLANE_WITNESS_ALL | PLANE_WITNESS_DROPS);
    flags != 0 && fits(flags)
}

#[inline(always)]
fn fits(flags: u32) -> bool {
    let Some(memory) = judge::memory() else {
        return false;
    };
    // The bytes of one that is answered are those of the answer.
    if memory.scratch.is_answered() {
        return false;
    }
    let is_let_through = matches!(memory.scratch.outcome().verdict, Verdict::Accept);
    flags & PLANE_WITNESS_ALL != 0 || !is_let_through
}

/// Hands the packet over.
#[inline(always)]
pub fn hand_over<C: Context>(context: C, length: u32) {
    let (Some(plane), Some(memory), Some(place)) =
        (host::plane(), judge::memory(), maps::WITNESS.get_ptr_mut(0))
    else {
        return;
    };
    if length == 0 {
        return;
    }
    // SAFETY: this CPU's element, which nobody else uses while this packet is judged.
    let place = unsafe { &mut *place };
    let (scratch, arrival) = (&memory.scratch, &memory.arrival);
    let outcome = scratch.outcome();
    let captured = if length < WITNESS_BYTES_MAX { length } else { WITNESS_BYTES_MAX };
    // Changes nothing. But the verifier believes it.
    let captured = masked::<{ WITNESS_BYTES_MAX as u64 - 1 }>((captured - 1) as u64) as u32 + 1;
    place.witness = Witness {
        now: host::now(plane).0,
        length,
        captured,
        link: arrival.link as u32,
        path: arrival.path as u32,
        checksums: arrival.checksums as u32,
        interface: context.interface(),
        out_interface: scratch.out_interface(),
        state: outcome.state as u32,
        verdict: outcome.verdict as u32,
        reason: outcome.reason.map_or(REPORT_NONE, |reason| reason as u32),
        hook: outcome.hook.map_or(REPORT_NONE, |hook| hook as u32),
        rule: outcome.rule,
        has_flow: outcome.flow.is_some() as u32,
    };
    let bytes = place.bytes.as_mut_ptr();
    if context.load_bytes(0, bytes.cast(), captured) != 0 {
        return count_lost();
    }
    let size = size_of::<Witness>() as u64 + captured as u64;
    // SAFETY: the ring is a map, and that many bytes of the element are filled.
    let result = unsafe {
        bpf_ringbuf_output(
            (&raw const maps::WITNESSES).cast_mut().cast(),
            (&raw mut *place).cast(),
            size,
            0,
        )
    };
    if result != 0 {
        count_lost();
    }
}

#[inline(always)]
fn count_lost() {
    if let Some(counters) = maps::COUNTERS.get_ptr_mut(0) {
        // SAFETY: this CPU's element, see `judge::count`.
        unsafe { (*counters).witnesses_lost += 1 };
    }
}
