//! The log of INVALID packets that `nf_conntrack_log_invalid` asks for: a line each on the standard
//! error, up to a rate. Whoever sends INVALID packets must not be able to fill a disk with them.

use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use keepstate_api::{Event, EventKind};

use crate::lock;

/// Lines in a [`PERIOD`].
const LINES_MAX: u32 = 20;
const PERIOD: Duration = Duration::from_secs(1);

/// See the module.
#[derive(Default)]
pub(crate) struct InvalidLog {
    period: Mutex<Option<Period>>,
    logged: AtomicU64,
    not_logged: AtomicU64,
}

struct Period {
    begun: Instant,
    lines: u32,
    left_out: u64,
}

impl InvalidLog {
    /// Takes note of a packet; the lines to be written, if any.
    pub(crate) fn note(&self, event: &Event, now: Instant) -> Vec<String> {
        let Some(packet) = &event.packet else {
            return Vec::new();
        };
        let mut lines: Vec<String> = self.close(now).into_iter().collect();
        let mut slot = lock(&self.period);
        let period = slot.get_or_insert(Period {
            begun: now,
            lines: 0,
            left_out: 0,
        });
        if period.lines >= LINES_MAX {
            period.left_out += 1;
            self.not_logged.fetch_add(1, Ordering::Relaxed);
            return lines;
        }
        period.lines += 1;
        self.logged.fetch_add(1, Ordering::Relaxed);
        let verdict = match event.kind {
            EventKind::Invalid => "passed",
            _ => "dropped",
        };
        let entry = event.flow.to_listing();
        lines.push(format!("{verdict} {} {packet}", entry.packet()));
        lines
    }

    /// Ends a period whose time is up; what is to be said of it. To be called now and then.
    pub(crate) fn close(&self, now: Instant) -> Option<String> {
        let mut slot = lock(&self.period);
        let is_over = |period: &mut Period| now.duration_since(period.begun) >= PERIOD;
        let over = slot.take_if(is_over)?;
        (over.left_out != 0).then(|| format!("{} more INVALID packets", over.left_out))
    }

    /// Packets that were logged, and packets that were not.
    pub(crate) fn counts(&self) -> (u64, u64) {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        (read(&self.logged), read(&self.not_logged))
    }
}

#[cfg(test)]
mod tests {
    use keepstate_engine::event::Event as EngineEvent;
    use keepstate_engine::time::Tick;

    use super::*;
    use crate::server::{Rules, events};

    fn invalid() -> Event {
        let event = EngineEvent {
            key: [
                (22 << 48) | (4000 << 32) | (6 << 8),
                0x0a00_0001_0a00_0005,
                0,
                0,
                0,
            ],
            control: (900 << 32) | 800,
            detail: [50_000, 50_100, 1000, 2000],
            kind: 4,
            reason: 24,
            state: 1,
            side: 1,
            rule: keepstate_engine::policy::NO_RULE,
            length: 140,
            ..EngineEvent::default()
        };
        let rules = Rules::new(std::path::PathBuf::new());
        events::describe(&event, &rules, Tick(0)).unwrap()
    }

    #[test]
    fn a_line_has_the_reason_and_the_arithmetic() {
        let log = InvalidLog::default();
        assert_eq!(
            log.note(&invalid(), Instant::now()),
            [
                "passed tcp      6 src=10.0.0.5 dst=10.0.0.1 sport=4000 dport=22 state=INVALID \
                 reason=tcp_sequence_over_window rule=INPUT:policy len=140 seq=50000 end=50100 \
                 window=1000..2000 ack=900 ack_max=800"
            ]
        );
    }

    #[test]
    fn a_flood_is_counted_and_not_written() {
        let log = InvalidLog::default();
        let begun = Instant::now();
        let event = invalid();
        let lines: usize = (0..1000).map(|_| log.note(&event, begun).len()).sum();
        assert_eq!(lines, LINES_MAX as usize);
        assert_eq!(log.close(begun), None);
        let later = begun + PERIOD;
        let lines = log.note(&event, later);
        assert_eq!(lines[0], "980 more INVALID packets");
        assert_eq!(lines.len(), 2);
        assert_eq!(log.counts(), (21, 980));
        assert_eq!(log.close(later + PERIOD), None);
    }
}
