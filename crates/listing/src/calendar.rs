//! Dates as C's `asctime` writes them.

use std::fmt::{self, Display, Formatter};

const SECONDS_PER_DAY: i64 = 86_400;
const MONTHS: [&str; 12] = [
    "Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec",
];
const WEEKDAYS: [&str; 7] = ["Sun", "Mon", "Tue", "Wed", "Thu", "Fri", "Sat"];

/// A second of the Gregorian calendar.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Date {
    pub year: i64,
    /// From 1.
    pub month: u8,
    /// From 1.
    pub day: u8,
    /// From 0, Sunday.
    pub weekday: u8,
    pub hour: u8,
    pub minute: u8,
    pub second: u8,
}

impl Date {
    /// Of seconds since 1970, those that a time zone is ahead of UTC included.
    pub const fn of(seconds: i64) -> Self {
        let days = seconds.div_euclid(SECONDS_PER_DAY);
        let second = seconds.rem_euclid(SECONDS_PER_DAY);
        // Days since 1 March of the year 0, so that leap days end a year, in eras of 400 years.
        let shifted = days + 719_468;
        let era = shifted.div_euclid(146_097);
        let day_of_era = shifted.rem_euclid(146_097);
        let year_of_era =
            (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
        let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
        let month_from_march = (5 * day_of_year + 2) / 153;
        let month = if month_from_march < 10 {
            month_from_march + 3
        } else {
            month_from_march - 9
        };
        Self {
            year: year_of_era + era * 400 + (month <= 2) as i64,
            month: month as u8,
            day: (day_of_year - (153 * month_from_march + 2) / 5 + 1) as u8,
            weekday: (days + 4).rem_euclid(7) as u8,
            hour: (second / 3600) as u8,
            minute: (second / 60 % 60) as u8,
            second: (second % 60) as u8,
        }
    }
}

impl Display for Date {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let name = |names: &[&'static str], index: u8| {
            names.get(usize::from(index)).copied().unwrap_or("?")
        };
        write!(
            f,
            "{} {} {:2} {:02}:{:02}:{:02} {}",
            name(&WEEKDAYS, self.weekday),
            name(&MONTHS, self.month - 1),
            self.day,
            self.hour,
            self.minute,
            self.second,
            self.year
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn days_that_are_easily_missed() {
        let check = |seconds, text: &str| assert_eq!(Date::of(seconds).to_string(), text);
        check(0, "Thu Jan  1 00:00:00 1970");
        check(-1, "Wed Dec 31 23:59:59 1969");
        check(951_782_399, "Mon Feb 28 23:59:59 2000");
        check(951_782_400, "Tue Feb 29 00:00:00 2000");
        check(1_709_251_199, "Thu Feb 29 23:59:59 2024");
        check(4_107_542_400, "Mon Mar  1 00:00:00 2100");
        check(1_795_367_817, "Sun Nov 22 17:16:57 2026");
    }
}
