//! The clock that the programs read, as the daemon reads it.
//!
//! The programs count in jiffies, whose rate is fixed when a kernel is built and told nowhere.
//! It is measured once, when the maps are made, by letting the kernel run a program that returns
//! the count.

use std::sync::Mutex;
use std::time::{Duration, Instant};

use aya::programs::{TestRun as _, TestRunOptions};
use keepstate_engine::time::{TICKS_PER_SECOND, Tick};
use keepstate_plane::{TICK_SHIFT, names};

use crate::kernel::{KernelError, Programs};

/// Rates that kernels are built with.
const RATES: [u32; 10] = [24, 48, 100, 128, 200, 250, 256, 300, 1000, 1024];

/// How long the rate is measured, at least. Between two edges the error is a fraction of [`EDGE`].
const MEASURED: Duration = Duration::from_millis(100);

/// How well the time of a change must be known, and how many changes are waited for.
const EDGE: Duration = Duration::from_micros(500);
const EDGE_TRIES_MAX: u32 = 32;

/// A reading serves for so long; both clocks run at the same rate.
const KEPT: Duration = Duration::from_secs(1);

/// [`keepstate_plane::Plane::tick_multiplier`] with which the programs return jiffies.
pub(crate) const JIFFIES: u64 = 1 << TICK_SHIFT;

/// The multiplier for jiffies at this rate.
pub(crate) fn multiplier(rate: u32) -> u64 {
    (u64::from(TICKS_PER_SECOND) << TICK_SHIFT) / u64::from(rate)
}

/// The rate that a multiplier is for. It was rounded down, so the quotient is the rate and less than one more.
pub(crate) fn rate(multiplier: u64) -> u32 {
    ((u64::from(TICKS_PER_SECOND) << TICK_SHIFT) / multiplier.max(1)) as u32
}

/// Jiffies in a second. The multiplier must be [`JIFFIES`].
pub(crate) fn measure_rate(programs: &mut Programs) -> Result<u32, KernelError> {
    let (first, begun) = edge(programs, Duration::ZERO)?;
    let (last, ended) = edge(programs, MEASURED)?;
    let jiffies = f64::from(last.wrapping_sub(first));
    let rate = jiffies / ended.duration_since(begun).as_secs_f64();
    let distance = |known: &u32| (f64::from(*known) / rate).ln().abs();
    let nearest = RATES
        .into_iter()
        .min_by(|a, b| distance(a).total_cmp(&distance(b)));
    Ok(nearest.expect("the list is not empty"))
}

/// Waits, then for a change of the count whose time is known well.
fn edge(programs: &mut Programs, wait: Duration) -> Result<(u32, Instant), KernelError> {
    std::thread::sleep(wait);
    let mut before = (read(programs)?, Instant::now());
    let mut best = None;
    let mut tries = 0;
    while tries < EDGE_TRIES_MAX {
        let now = (read(programs)?, Instant::now());
        // On a busy machine much may lie between two readings, and the change anywhere in it.
        let between = now.1.duration_since(before.1);
        if now.0 != before.0 {
            tries += 1;
            if best.is_none_or(|(least, _)| between < least) {
                best = Some((between, now));
            }
            if between < EDGE {
                break;
            }
        }
        before = now;
    }
    Ok(best.map_or(before, |(_, edge)| edge))
}

fn read(programs: &mut Programs) -> Result<u32, KernelError> {
    let options = TestRunOptions {
        // The shortest frame that the kernel takes.
        data_in: Some(&[0; 64]),
        ..TestRunOptions::default()
    };
    let program = programs.classifier(names::CLOCK)?;
    let result = program.test_run(options)?;
    Ok(result.return_value)
}

/// The engine's time, cheap to ask for.
#[derive(Default)]
pub(crate) struct Clock {
    reading: Mutex<Option<(Instant, Tick)>>,
}

impl Clock {
    /// Off by a sixteenth of a second at most. When the kernel cannot be asked, time goes on from
    /// the last reading.
    pub(crate) fn now(&self, programs: &Mutex<Programs>) -> Tick {
        let mut reading = crate::lock(&self.reading);
        let is_old = reading.is_none_or(|(at, _)| at.elapsed() > KEPT);
        if is_old && let Ok(tick) = read(&mut crate::lock(programs)) {
            *reading = Some((Instant::now(), Tick(tick)));
        }
        let Some((at, tick)) = *reading else {
            return Tick(0);
        };
        let passed = Tick::from_nanoseconds(at.elapsed().as_nanos() as u64);
        Tick(tick.0.wrapping_add(passed.0))
    }
}
