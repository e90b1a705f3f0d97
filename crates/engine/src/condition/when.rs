//! Conditions on the time of day and the calendar.

use super::{Held, flag};
use crate::host::Host;
use crate::policy::Condition;

const SECONDS_PER_DAY: u64 = 24 * 60 * 60;
const NANOSECONDS: u64 = 1_000_000_000;
/// All days of a month, bit 0 unused.
const ALL_DAYS: u32 = u32::MAX - 1;

#[cfg_attr(target_arch = "bpf", inline(never))]
#[cfg_attr(not(target_arch = "bpf"), inline)]
pub(super) fn ask<H: Host>(host: &H, condition: &Condition) -> Held {
    let now = host.wall_clock() / NANOSECONDS;
    Held::of(is_within(now, condition))
}

#[inline(always)]
fn is_within(now: u64, condition: &Condition) -> bool {
    let [from, to, day_from, day_to, month_days, week_days, _] = condition.data;
    if now < u64::from(from) || now > u64::from(to) {
        return false;
    }
    let second = (now % SECONDS_PER_DAY) as u32;
    let mut day = now / SECONDS_PER_DAY;
    if day_from < day_to {
        if second < day_from || second > day_to {
            return false;
        }
    } else {
        if second < day_from && second > day_to {
            return false;
        }
        // Past midnight it is still the day on which it began.
        if condition.flags & flag::CONTIGUOUS != 0 && second <= day_to {
            day = day.wrapping_sub(1);
        }
    }
    // 1 January 1970 was a Thursday; Sunday is 7.
    let week_day = (day + 3) % 7 + 1;
    if week_days >> week_day & 1 == 0 {
        return false;
    }
    month_days & ALL_DAYS == ALL_DAYS || month_days >> day_of_month(day) & 1 != 0
}

/// Day of the month, from one, of a day since 1 January 1970, by years that begin in March
/// (so that the leap day is a year's last).
#[inline(always)]
const fn day_of_month(day: u64) -> u32 {
    // From 1 March of the year 0.
    let day = day + 719_468;
    let of_era = day % 146_097;
    let year = (of_era - of_era / 1460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year + year / 4 - year / 100);
    let month = (5 * of_year + 2) / 153;
    (of_year - (153 * month + 2) / 5 + 1) as u32
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn days_of_the_month_are_those_of_the_calendar() {
        let lengths = |leap: bool| {
            [
                31,
                if leap { 29 } else { 28 },
                31,
                30,
                31,
                30,
                31,
                31,
                30,
                31,
                30,
                31,
            ]
        };
        let mut day = 0;
        for year in 1970..2110 {
            let leap = year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
            for length in lengths(leap) {
                for of_month in 1..=length {
                    assert_eq!(day_of_month(day), of_month, "{year}");
                    day += 1;
                }
            }
        }
    }
}
