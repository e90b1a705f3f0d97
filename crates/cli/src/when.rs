//! The time as C's `ctime` prints it.

use std::time::{SystemTime, UNIX_EPOCH};

use crate::conntrack::zone::utc_offset;

const SECONDS_A_DAY: i64 = 86_400;

const MONTHS: [&str; 12] = [
    "Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec",
];

/// The first of January 1970 was a Thursday.
const WEEKDAYS: [&str; 7] = ["Thu", "Fri", "Sat", "Sun", "Mon", "Tue", "Wed"];

/// Local time now: `Wed Nov 25 19:56:32 2026`.
pub(crate) fn now_as_date_prints_it() -> String {
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    let seconds = now.map_or(0, |since| since.as_secs() as i64);
    printed(seconds + utc_offset(seconds))
}

fn printed(local: i64) -> String {
    let (days, seconds) = (
        local.div_euclid(SECONDS_A_DAY),
        local.rem_euclid(SECONDS_A_DAY),
    );
    let (year, month, day) = civil(days);
    let weekday = WEEKDAYS[days.rem_euclid(7) as usize];
    let month = MONTHS[month - 1];
    let (hour, minute, second) = (seconds / 3600, seconds / 60 % 60, seconds % 60);
    format!("{weekday} {month} {day:>2} {hour:02}:{minute:02}:{second:02} {year}")
}

/// Year, month and day of a day since 1970, both from one.
fn civil(days: i64) -> (i64, usize, i64) {
    let is_leap = |year: i64| year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
    // The calendar repeats itself every 400 years, which have 146,097 days.
    let mut year = 1970 + days.div_euclid(146_097) * 400;
    let mut left = days.rem_euclid(146_097);
    loop {
        let length = if is_leap(year) { 366 } else { 365 };
        if left < length {
            break;
        }
        left -= length;
        year += 1;
    }
    let february = if is_leap(year) { 29 } else { 28 };
    let lengths = [31, february, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31];
    let mut month = 1;
    for length in lengths {
        if left < length {
            break;
        }
        left -= length;
        month += 1;
    }
    (year, month, left + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_printed_as_date_does() {
        assert_eq!(printed(0), "Thu Jan  1 00:00:00 1970");
        assert_eq!(printed(951_782_399), "Mon Feb 28 23:59:59 2000");
        assert_eq!(printed(951_782_400), "Tue Feb 29 00:00:00 2000");
        assert_eq!(printed(1_795_636_592), "Wed Nov 25 19:56:32 2026");
        assert_eq!(printed(-1), "Wed Dec 31 23:59:59 1969");
    }
}
