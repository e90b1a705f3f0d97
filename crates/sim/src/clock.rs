//! The virtual clock of a replay.

use keepstate_engine::time::{TICKS_PER_SECOND, Tick};

/// Which time the engine is told.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Timing {
    /// The capture's own.
    #[default]
    Capture,
    /// All packets come at once.
    Flat,
}

/// Ticks before the first packet, so that times before it can be told.
const START_TICKS: u64 = 3600 * TICKS_PER_SECOND as u64;

const NANOSECONDS_PER_TICK: u64 = 1_000_000_000 / TICKS_PER_SECOND as u64;

/// Turns the times of frames into ticks that never go back.
///
/// Ticks are counted in 64 bits here: captures that were joined have gaps of years, and a
/// [`Tick`] wraps after eight of them.
#[derive(Clone, Copy, Debug)]
pub struct Clock {
    timing: Timing,
    first_ns: Option<u64>,
    latest_ns: u64,
}

impl Clock {
    pub const fn new(timing: Timing) -> Self {
        Self {
            timing,
            first_ns: None,
            latest_ns: 0,
        }
    }

    /// Takes in the time of a frame; nanoseconds since the first frame, negative for a frame that
    /// is stamped before it. A frame without a time comes when the last one came.
    pub fn advance(&mut self, time_ns: Option<u64>) -> i64 {
        let time_ns = time_ns.unwrap_or(self.latest_ns);
        let first_ns = *self.first_ns.get_or_insert(time_ns);
        self.latest_ns = self.latest_ns.max(time_ns);
        let elapsed = i128::from(time_ns) - i128::from(first_ns);
        elapsed.clamp(i128::from(i64::MIN), i128::from(i64::MAX)) as i64
    }

    /// Ticks since the clock's start.
    pub fn ticks(&self) -> u64 {
        let elapsed = match (self.timing, self.first_ns) {
            (Timing::Capture, Some(first_ns)) => self.latest_ns.saturating_sub(first_ns),
            (Timing::Capture, None) | (Timing::Flat, _) => 0,
        };
        START_TICKS + elapsed / NANOSECONDS_PER_TICK
    }

    pub fn now(&self) -> Tick {
        Tick(self.ticks() as u32)
    }

    /// The capture's time, for start times of flows.
    pub const fn wall_ns(&self) -> u64 {
        self.latest_ns
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn never_goes_back() {
        let mut clock = Clock::new(Timing::Capture);
        assert_eq!(clock.advance(Some(5_000_000_000)), 0);
        assert_eq!(clock.advance(Some(7_000_000_000)), 2_000_000_000);
        let before = clock.ticks();
        assert_eq!(clock.advance(Some(4_000_000_000)), -1_000_000_000);
        assert_eq!(clock.ticks(), before);
        assert_eq!(clock.advance(None), 2_000_000_000);
    }

    #[test]
    fn flat_time_stands_still() {
        let mut clock = Clock::new(Timing::Flat);
        clock.advance(Some(0));
        let before = clock.now();
        assert_eq!(clock.advance(Some(u64::MAX)), i64::MAX);
        assert_eq!(clock.now(), before);
    }
}
