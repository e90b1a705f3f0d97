//! Time as the engine counts it: ticks of a sixteenth of a second.
//!
//! A deadline must fit into 32 bits beside the rest of a record. Milliseconds in 32 bits wrap
//! after 25 days, and a record that nobody swept for that long would come back to life; sixteenths
//! wrap after 8.5 years and are finer than the one second that timeouts are given in.

/// Ticks in a second.
pub const TICKS_PER_SECOND: u32 = 16;

/// Longest timeout in seconds: half the range of [`Tick`], beyond which a deadline would look past.
pub const TIMEOUT_SECONDS_MAX: u32 = (1 << 31) / TICKS_PER_SECOND - 1;

/// A point in time, in sixteenths of a second since a start that the plane chooses. Wraps.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tick(pub u32);

impl Tick {
    /// The tick that a time in nanoseconds falls into.
    pub const fn from_nanoseconds(nanoseconds: u64) -> Self {
        Self((nanoseconds / (1_000_000_000 / TICKS_PER_SECOND as u64)) as u32)
    }

    /// This time and `seconds` more; more than [`TIMEOUT_SECONDS_MAX`] count as that many.
    #[must_use]
    pub const fn after_seconds(self, seconds: u32) -> Self {
        let bounded = if seconds > TIMEOUT_SECONDS_MAX {
            TIMEOUT_SECONDS_MAX
        } else {
            seconds
        };
        Self(self.0.wrapping_add(bounded * TICKS_PER_SECOND))
    }

    /// Whether this time has come at `now`.
    pub const fn has_passed(self, now: Self) -> bool {
        (now.0.wrapping_sub(self.0) as i32) >= 0
    }

    /// Ticks from `now` until this time, zero when it has passed.
    pub const fn ticks_left(self, now: Self) -> u32 {
        if self.has_passed(now) {
            0
        } else {
            self.0.wrapping_sub(now.0)
        }
    }

    /// Whole seconds from `now` until this time, rounded down as the kernel prints them.
    pub const fn seconds_left(self, now: Self) -> u32 {
        self.ticks_left(now) / TICKS_PER_SECOND
    }
}
