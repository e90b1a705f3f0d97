//! What rules remember of sources (`recent`, `hashlimit`, `connlimit`), over time and changes of the rules.
//!
//! Its memory is changed by programs alone, which nobody takes off their CPU while they hold a bucket: the
//! daemon runs one for what it has to do.

use std::collections::HashSet;

use aya::programs::{TestRun as _, TestRunOptions};
use keepstate_engine::condition::kind;
use keepstate_engine::limits::METER_SLOTS;
use keepstate_engine::meter::{content, list_number};
use keepstate_engine::policy::Condition;
use keepstate_engine::time::{TICKS_PER_SECOND, Tick};
use keepstate_plane::{
    METER_CLEAR, METER_FAILED, METER_HEADS, METER_LET_GO, METER_NOW, METER_SWEEP, MeterOrder, names,
};

use crate::clock;
use crate::kernel::{KernelError, Programs};
use crate::mapped::bytes_of;

/// Buckets or slots that one run goes through: packets of the CPU that it runs on wait for it.
const STEP: u32 = 4096;

/// Bytes of the shortest frame that a program is run with.
const FRAME_BYTES: usize = 64;

/// Runs the program; what it returned, `None` where it could not do as it was told.
pub(crate) fn run(programs: &mut Programs, order: &MeterOrder) -> Result<Option<u32>, KernelError> {
    let mut frame = bytes_of(order).to_vec();
    frame.resize(FRAME_BYTES, 0);
    let options = TestRunOptions {
        data_in: Some(&frame),
        ..TestRunOptions::default()
    };
    let result = programs.classifier(names::METER)?.test_run(options)?;
    Ok((result.return_value != METER_FAILED).then_some(result.return_value))
}

/// The kernel's jiffies, and how many there are in a second.
pub(crate) fn jiffies(
    multiplier: u64,
    now: Tick,
    run: impl Fn(&MeterOrder) -> Result<Option<u32>, KernelError>,
) -> Result<(u64, u32), KernelError> {
    let hertz = clock::rate(multiplier);
    // Rough, but by far less than half of 32 bits.
    let rough = u64::from(now.0) * u64::from(hertz) / u64::from(TICKS_PER_SECOND);
    let exact = run(&MeterOrder {
        what: METER_NOW,
        ..MeterOrder::default()
    })?;
    let ahead = exact.map_or(0, |exact| exact.wrapping_sub(rough as u32).cast_signed());
    Ok((rough.saturating_add_signed(i64::from(ahead)), hertz))
}

/// Takes out what is over.
pub(crate) fn sweep(
    run: impl Fn(&MeterOrder) -> Result<Option<u32>, KernelError>,
) -> Result<(), KernelError> {
    for (what, all) in [(METER_LET_GO, METER_SLOTS), (METER_SWEEP, METER_HEADS)] {
        for first in (0..all).step_by(STEP as usize) {
            run(&MeterOrder {
                what,
                first,
                buckets: STEP.min(all - first),
                ..MeterOrder::default()
            })?;
        }
    }
    Ok(())
}

/// Takes a list out that no rule names any more.
pub(crate) fn forget(
    list: u64,
    run: impl Fn(&MeterOrder) -> Result<Option<u32>, KernelError>,
) -> Result<(), KernelError> {
    let is_recent = list & content::MASK == content::RECENT;
    let list = list & !content::MASK;
    if is_recent {
        run(&MeterOrder {
            list,
            what: METER_CLEAR,
            ..MeterOrder::default()
        })?;
    }
    for first in (0..METER_HEADS).step_by(STEP as usize) {
        run(&MeterOrder {
            list,
            what: METER_SWEEP,
            first,
            buckets: STEP.min(METER_HEADS - first),
            ..MeterOrder::default()
        })?;
    }
    Ok(())
}

/// The lists that the conditions of a policy name, with what lies in them.
pub(crate) fn lists<'a>(conditions: impl Iterator<Item = &'a Condition>) -> HashSet<u64> {
    let named = conditions.filter_map(|condition| {
        let content = match condition.kind {
            kind::RECENT => content::RECENT,
            kind::RATE => content::RATE,
            // Their flows go by themselves.
            _ => return None,
        };
        let [low, high, ..] = condition.data;
        Some(list_number(low, high) | content)
    });
    named.collect()
}
