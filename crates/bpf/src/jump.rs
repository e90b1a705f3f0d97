//! From the XDP program of one stage to that of the next. TC's programs jump by a number in a
//! register: what this takes of their stack is more than Linux 6.1 has left.

use core::arch::asm;
use core::ffi::c_void;

use aya_ebpf::maps::ProgramArray;
use keepstate_engine::process::Stage;
use keepstate_plane::WITNESS_STAGE;

/// Jumps to the program of a stage, of those in `programs`; comes back only if there is none.
///
/// # Safety
///
/// `context` is the calling program's own, and the array holds programs of its kind alone.
#[inline(always)]
pub unsafe fn to_stage(context: *mut c_void, programs: &'static ProgramArray, stage: Stage) {
    // SAFETY: as the caller says.
    unsafe {
        match stage {
            Stage::Look => jump::<{ Stage::Look as i32 }>(context, programs),
            Stage::Advance => jump::<{ Stage::Advance as i32 }>(context, programs),
            Stage::Write => jump::<{ Stage::Write as i32 }>(context, programs),
            Stage::Judge => jump::<{ Stage::Judge as i32 }>(context, programs),
            Stage::Insert => jump::<{ Stage::Insert as i32 }>(context, programs),
            Stage::Name => jump::<{ Stage::Name as i32 }>(context, programs),
            Stage::Parse => jump::<{ Stage::Parse as i32 }>(context, programs),
            Stage::Associate => jump::<{ Stage::Associate as i32 }>(context, programs),
            Stage::Fragment => jump::<{ Stage::Fragment as i32 }>(context, programs),
            Stage::First => jump::<{ Stage::First as i32 }>(context, programs),
            Stage::Settle => jump::<{ Stage::Settle as i32 }>(context, programs),
            Stage::Conclude => jump::<{ Stage::Conclude as i32 }>(context, programs),
            Stage::Raw => jump::<{ Stage::Raw as i32 }>(context, programs),
            Stage::Foretold => jump::<{ Stage::Foretold as i32 }>(context, programs),
            Stage::Help => jump::<{ Stage::Help as i32 }>(context, programs),
            Stage::Expect => jump::<{ Stage::Expect as i32 }>(context, programs),
            Stage::Message => jump::<{ Stage::Message as i32 }>(context, programs),
            Stage::Elsewhere => jump::<{ Stage::Elsewhere as i32 }>(context, programs),
            Stage::Label => jump::<{ Stage::Label as i32 }>(context, programs),
            Stage::Weigh => jump::<{ Stage::Weigh as i32 }>(context, programs),
            Stage::Cookie => jump::<{ Stage::Cookie as i32 }>(context, programs),
            Stage::Prove => jump::<{ Stage::Prove as i32 }>(context, programs),
            Stage::Answer => jump::<{ Stage::Answer as i32 }>(context, programs),
            Stage::Synproxy => jump::<{ Stage::Synproxy as i32 }>(context, programs),
            Stage::Open => jump::<{ Stage::Open as i32 }>(context, programs),
            Stage::Translate => jump::<{ Stage::Translate as i32 }>(context, programs),
            Stage::Greet => jump::<{ Stage::Greet as i32 }>(context, programs),
            Stage::Foreseen => jump::<{ Stage::Foreseen as i32 }>(context, programs),
            Stage::Rewrite => jump::<{ Stage::Rewrite as i32 }>(context, programs),
            Stage::Refuse => jump::<{ Stage::Refuse as i32 }>(context, programs),
            Stage::Done | Stage::Steady => {}
        }
    }
}

/// As [`to_stage`], to the program that hands over judged packets.
///
/// # Safety
///
/// As there.
#[inline(always)]
pub unsafe fn to_witness(context: *mut c_void, programs: &'static ProgramArray) {
    // SAFETY: as the caller says.
    unsafe { jump::<{ WITNESS_STAGE as i32 }>(context, programs) }
}

/// A tail call (helper 12) whose number stands in the instruction: the kernel then makes a plain
/// jump of it (Linux 5.5), where a number in a register costs an indirect one, with all that
/// guards against speculation. Written out, since a compiler would join the calls into one.
#[inline(always)]
unsafe fn jump<const STAGE: i32>(context: *mut c_void, programs: &'static ProgramArray) {
    // SAFETY: as the caller says; the registers of arguments and result are given up.
    unsafe {
        asm!(
            "r3 = {stage}",
            "call 12",
            stage = const STAGE,
            inout("r1") context => _,
            inout("r2") (&raw const *programs) => _,
            lateout("r0") _,
            out("r3") _,
            out("r4") _,
            out("r5") _,
        );
    }
}
