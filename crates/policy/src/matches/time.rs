//! `-m time`, in UTC.

use keepstate_engine::condition::{flag, kind};

use super::{Context, Extension, Form, Lowered, Module, OptionSpec, Value};
use crate::problem::Problem;

const SECONDS_PER_DAY: u32 = 24 * 60 * 60;
const DAY_END: u32 = SECONDS_PER_DAY - 1;
/// The last second that 31 bits hold, as in iptables.
const DATE_END: u32 = i32::MAX as u32;
const ALL_WEEK_DAYS: u32 = 0xfe;
const ALL_MONTH_DAYS: u32 = 0xffff_fffe;

const WEEK_DAYS: [&str; 7] = ["Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun"];

pub(super) static TIME: Module = Module::new(
    "time",
    &[
        OptionSpec::new("timestart", Form::Own(time_of_day)),
        OptionSpec::new("timestop", Form::Own(time_of_day)),
        OptionSpec::new("monthdays", Form::Own(month_days)).negatable(),
        OptionSpec::new("weekdays", Form::Own(week_days)).negatable(),
        OptionSpec::new("datestart", Form::Own(date)),
        OptionSpec::new("datestop", Form::Own(date)),
        OptionSpec::new("kerneltz", Form::Nothing).aliases(&["localtz"]),
        OptionSpec::new("utc", Form::Nothing).saved(""),
        OptionSpec::new("contiguous", Form::Nothing),
    ],
    list,
    lower,
)
.check(|time, _| {
    // iptables prints such a rule and cannot read it again.
    let excludes_all = |given: &super::Given| {
        let all = [ALL_WEEK_DAYS, ALL_MONTH_DAYS];
        given.negated && matches!(&given.value, Value::Words(_, days) if all.contains(days))
    };
    if time.given.iter().any(excludes_all) {
        let text = "time: `!' excludes every day, so the rule would never match";
        return Err(Problem::Match(text.into()));
    }
    if time.has("kerneltz") {
        let text = "time: the kernel's time zone is not known here; write the times in UTC";
        return Err(Problem::Match(text.into()));
    }
    let Bounds { from, to, .. } = Bounds::of(time);
    match time.has("contiguous") && from < to {
        true => Err(Problem::Match(
            "time: --contiguous only makes sense when stoptime is smaller than starttime".into(),
        )),
        false => Ok(()),
    }
})
.complete(complete);

/// As the kernel keeps it: what was negated is turned round, one end of a day brings the other.
fn complete(time: &mut Extension, _: &Context<'_>) {
    for given in &mut time.given {
        let all = match given.name {
            "weekdays" => ALL_WEEK_DAYS,
            "monthdays" => ALL_MONTH_DAYS,
            _ => continue,
        };
        if let (true, Value::Words(_, days)) = (given.negated, &given.value) {
            given.value = days_value(given.name, all & !days);
        }
        given.negated = false;
    }
    let is_all = |given: &super::Given| match (given.name, &given.value) {
        ("weekdays", Value::Words(_, days)) => *days == ALL_WEEK_DAYS,
        ("monthdays", Value::Words(_, days)) => *days == ALL_MONTH_DAYS,
        ("datestart", Value::Date(0)) | ("utc", _) => true,
        _ => false,
    };
    time.given.retain(|given| !is_all(given));
    let Bounds { from, to, .. } = Bounds::of(time);
    if (from, to) == (0, DAY_END) {
        let is_time = |given: &super::Given| matches!(given.name, "timestart" | "timestop");
        time.given.retain(|given| !is_time(given));
    } else {
        time.default("timestart", Value::TimeOfDay(from));
        time.default("timestop", Value::TimeOfDay(to));
    }
    time.default("datestop", Value::Date(DATE_END));
}

struct Bounds {
    from: u32,
    to: u32,
    date_from: u32,
    date_to: u32,
    week_days: u32,
    month_days: u32,
}

impl Bounds {
    fn of(time: &Extension) -> Self {
        let given = |name, default| match time.find(name).map(|given| &given.value) {
            Some(Value::TimeOfDay(number) | Value::Date(number) | Value::Words(_, number)) => {
                *number
            }
            _ => default,
        };
        Self {
            from: given("timestart", 0),
            to: given("timestop", DAY_END),
            date_from: given("datestart", 0),
            date_to: given("datestop", DATE_END),
            week_days: given("weekdays", ALL_WEEK_DAYS),
            month_days: given("monthdays", ALL_MONTH_DAYS),
        }
    }
}

fn time_of_day(_: &Context<'_>, text: &str) -> Result<Value, Problem> {
    let parts: Vec<_> = text.split(':').map(decimal).collect();
    let seconds = match parts.as_slice() {
        [Some(hour), Some(minute)] => Some((*hour, *minute, 0)),
        [Some(hour), Some(minute), Some(second)] => Some((*hour, *minute, *second)),
        _ => None,
    };
    let valid = seconds.filter(|(hour, minute, second)| *hour < 24 && *minute < 60 && *second < 60);
    match valid {
        Some((hour, minute, second)) => Ok(Value::TimeOfDay(hour * 3600 + minute * 60 + second)),
        None => Err(Problem::Match(format!(
            "invalid time \"{text}\" specified, should be hh:mm[:ss] format and within the boundaries"
        ))),
    }
}

/// Leading zeros do not make a number octal here.
fn decimal(text: &str) -> Option<u32> {
    let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    text.parse().ok().filter(|_| digits)
}

fn week_days(_: &Context<'_>, text: &str) -> Result<Value, Problem> {
    let mut days = 0;
    for name in text.split(',') {
        let number = decimal(name).filter(|number| (1..=7).contains(number));
        let named = WEEK_DAYS.iter().position(|day| {
            // Two letters are enough.
            name.len() >= 2 && name.is_ascii() && day[..2].eq_ignore_ascii_case(&name[..2])
        });
        let day = number.or_else(|| named.map(|index| index as u32 + 1));
        let Some(day) = day else {
            let text = format!("{name} is not a valid day specifier");
            return Err(Problem::Match(text));
        };
        days |= 1 << day;
    }
    Ok(days_value("weekdays", days))
}

fn month_days(_: &Context<'_>, text: &str) -> Result<Value, Problem> {
    let mut days = 0;
    for name in text.split(',') {
        let day = decimal(name).filter(|day| (1..=31).contains(day));
        let Some(day) = day else {
            let text = format!("{name} is not a valid day for --monthdays");
            return Err(Problem::Match(text));
        };
        days |= 1 << day;
    }
    Ok(days_value("monthdays", days))
}

fn days_value(name: &str, days: u32) -> Value {
    let set = (1..32u32).filter(|day| days >> day & 1 != 0);
    let text = |day: u32| match name {
        "weekdays" => WEEK_DAYS[(day - 1) as usize % 7].to_string(),
        _ => day.to_string(),
    };
    let texts: Vec<_> = set.map(text).collect();
    Value::Words(texts.join(","), days)
}

/// `2024-01-02T03:04:05`, of which only the year must be there.
fn date(_: &Context<'_>, text: &str) -> Result<Value, Problem> {
    let bad = || {
        Problem::Match(format!(
            "Invalid date \"{text}\" specified. Should be YYYY[-MM[-DD[Thh[:mm[:ss]]]]]"
        ))
    };
    let (day, time) = match text.split_once('T') {
        Some((day, time)) => (day, Some(time)),
        None => (text, None),
    };
    let numbers: Option<Vec<u32>> = day.split('-').map(decimal).collect();
    let numbers = numbers.ok_or_else(bad)?;
    let (year, month, day) = match (numbers.as_slice(), time) {
        ([year], None) => (*year, 1, 1),
        ([year, month], None) => (*year, *month, 1),
        ([year, month, day], _) => (*year, *month, *day),
        _ => return Err(bad()),
    };
    let times: Option<Vec<u32>> =
        time.map_or(Some(vec![0]), |time| time.split(':').map(decimal).collect());
    let times = times.ok_or_else(bad)?;
    let part = |index: usize| times.get(index).copied().unwrap_or(0);
    let (hour, minute, second) = (part(0), part(1), part(2));
    let is_date = (1970..=2038).contains(&year) && (1..=12).contains(&month);
    let is_date = is_date && (1..=31).contains(&day) && times.len() <= 3;
    if !is_date || hour > 23 || minute > 59 || second > 59 {
        return Err(bad());
    }
    let seconds = u64::from(days_since_1970(year, month, day)) * u64::from(SECONDS_PER_DAY)
        + u64::from(hour * 3600 + minute * 60 + second);
    let seconds = u32::try_from(seconds)
        .ok()
        .filter(|seconds| *seconds <= DATE_END);
    seconds.map(Value::Date).ok_or_else(bad)
}

/// By years that begin in March, so that the leap day is a year's last.
fn days_since_1970(year: u32, month: u32, day: u32) -> u32 {
    let (year, month) = match month {
        1 | 2 => (year - 1, month + 9),
        _ => (year, month - 3),
    };
    let days = 365 * year + year / 4 - year / 100 + year / 400;
    days + (153 * month + 2) / 5 + day - 1 - 719_468
}

pub(super) fn time_text(seconds: u32) -> String {
    let (hour, minute, second) = (seconds / 3600, seconds / 60 % 60, seconds % 60);
    format!("{hour:02}:{minute:02}:{second:02}")
}

pub(super) fn date_text(seconds: u32, between: char) -> String {
    let target = seconds / SECONDS_PER_DAY;
    let mut year = 1970 + target / 366;
    while days_since_1970(year + 1, 1, 1) <= target {
        year += 1;
    }
    let mut month = 1;
    while month < 12 && days_since_1970(year, month + 1, 1) <= target {
        month += 1;
    }
    let day = target - days_since_1970(year, month, 1) + 1;
    let time = time_text(seconds % SECONDS_PER_DAY);
    format!("{year:04}-{month:02}-{day:02}{between}{time}")
}

fn list(time: &Extension, _: bool) -> String {
    let bounds = Bounds::of(time);
    let mut text = " TIME".to_string();
    if (bounds.from, bounds.to) != (0, DAY_END) {
        let (from, to) = (time_text(bounds.from), time_text(bounds.to));
        text += &format!(" from {from} to {to}");
    }
    if let Some(given) = time.find("weekdays") {
        text += &format!(" on {}", given.value);
    }
    if bounds.month_days != ALL_MONTH_DAYS {
        let set = (1..32u32).filter(|day| bounds.month_days >> day & 1 != 0);
        let days: Vec<_> = set.map(ordinal).collect();
        text += &format!(" on {}", days.join(","));
    }
    if bounds.date_from != 0 {
        text += &format!(" starting from {}", date_text(bounds.date_from, ' '));
    }
    if bounds.date_to != DATE_END {
        text += &format!(" until date {}", date_text(bounds.date_to, ' '));
    }
    text += " UTC";
    if time.has("contiguous") {
        text += " contiguous";
    }
    text
}

/// As iptables has it, which says 11st.
fn ordinal(day: u32) -> String {
    let ending = match day % 10 {
        1 => "st",
        2 => "nd",
        3 => "rd",
        _ => "th",
    };
    format!("{day}{ending}")
}

fn lower(time: &Extension, lowered: &mut Lowered) {
    let bounds = Bounds::of(time);
    let contiguous = if time.has("contiguous") {
        flag::CONTIGUOUS
    } else {
        0
    };
    let data = [
        bounds.date_from,
        bounds.date_to,
        bounds.from,
        bounds.to,
        bounds.month_days,
        bounds.week_days,
    ];
    lowered.ask_packet(kind::TIME, contiguous, &data);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_are_read_as_they_are_written() {
        let context = Context {
            family: keepstate_engine::tuple::Family::V4,
            protocol: None,
        };
        for text in [
            "1970-01-01T00:00:00",
            "2024-02-29T23:59:59",
            "2038-01-19T03:14:07",
        ] {
            let Ok(Value::Date(seconds)) = date(&context, text) else {
                panic!("{text}");
            };
            assert_eq!(date_text(seconds, 'T'), text);
        }
    }
}
