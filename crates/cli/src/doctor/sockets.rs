//! Servers that do not take the connections that wait for them: the kernel drops what comes more, after all rules.

use std::fs;
use std::thread;
use std::time::Duration;

use crate::health::{Finding, Severity};

/// How long it is looked whether connections are still dropped, where some have been.
const LOOK: Duration = Duration::from_secs(1);

/// Of /proc/net/tcp.
const LISTENING: &str = "0A";

/// A listening port and the connections that wait for its program.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Queue {
    port: u16,
    waiting: u64,
}

pub(super) fn examine() -> Option<Finding> {
    let dropped = overflows(&read("/proc/net/netstat"))?;
    if dropped == 0 {
        return None;
    }
    thread::sleep(LOOK);
    let later = overflows(&read("/proc/net/netstat"))?;
    let listeners = [read("/proc/net/tcp"), read("/proc/net/tcp6")];
    let longest = listeners.iter().filter_map(|text| longest_queue(text));
    let limit = read("/proc/sys/net/core/somaxconn").trim().parse().ok()?;
    Some(finding(
        later,
        later - dropped.min(later),
        longest.max_by_key(|queue| queue.waiting),
        limit,
    ))
}

fn read(path: &str) -> String {
    fs::read_to_string(path).unwrap_or_default()
}

/// Handshakes that were dropped since a listener's queue was full.
fn overflows(netstat: &str) -> Option<u64> {
    let mut lines = netstat.lines().filter_map(|it| it.strip_prefix("TcpExt: "));
    let (names, values) = (lines.next()?, lines.next()?);
    let mut both = names.split(' ').zip(values.split(' '));
    let (_, value) = both.find(|(name, _)| *name == "ListenOverflows")?;
    value.parse().ok()
}

fn longest_queue(sockets: &str) -> Option<Queue> {
    let queues = sockets.lines().skip(1).filter_map(|line| {
        let mut words = line.split_whitespace().skip(1);
        let (own, _, state, queues) = (words.next()?, words.next()?, words.next()?, words.next()?);
        let (_, port) = own.split_once(':')?;
        let (_, waiting) = queues.split_once(':')?;
        (state == LISTENING).then_some(Queue {
            port: u16::from_str_radix(port, 16).ok()?,
            waiting: u64::from_str_radix(waiting, 16).ok()?,
        })
    });
    queues.max_by_key(|queue| queue.waiting)
}

fn finding(all: u64, now: u64, longest: Option<Queue>, limit: u64) -> Finding {
    let longest = longest.filter(|queue| queue.waiting != 0);
    let waiting = longest.map_or_else(
        || "none waits now".to_owned(),
        |queue| format!("{} wait at port {} now", queue.waiting, queue.port),
    );
    let command = match longest {
        // One that asks for more gets no more than this.
        Some(queue) if queue.waiting >= limit => {
            format!(
                "sysctl -w net.core.somaxconn={}; then restart the server",
                limit * 2
            )
        }
        Some(queue) => format!("ss -ltnp 'sport = :{}'", queue.port),
        None => "ss -ltnp".to_owned(),
    };
    Finding {
        name: "listen-full",
        severity: if now == 0 { Severity::Note } else { Severity::Warning },
        message: "servers of this host take connections more slowly than they come".to_owned(),
        cause: "the queue of a listener was full, and the kernel drops what comes then: clients try again after a second, \
                two, four; the server needs a longer queue (Send-Q, its own `backlog`) or has to accept faster"
            .to_owned(),
        evidence: format!("ListenOverflows {all} in /proc/net/netstat, {now} in the last second; {waiting}"),
        command: Some(command),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernels_numbers_are_read() {
        let netstat = "TcpExt: SyncookiesSent ListenOverflows ListenDrops\nTcpExt: 1 77 78\nIpExt: InNoRoutes\nIpExt: 0\n";
        assert_eq!(overflows(netstat), Some(77));
        assert_eq!(overflows("TcpExt: SyncookiesSent\nTcpExt: 1\n"), None);
        assert_eq!(overflows(""), None);
        let sockets = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when\n\
            \x20  0: 0100007F:1F90 00000000:0000 0A 00000000:00000081 00:00000000\n\
            \x20  1: 0100007F:0016 0200007F:C001 01 00000000:00000FFF 00:00000000\n\
            \x20  2: 00000000:0050 00000000:0000 0A 00000000:00000003 00:00000000\n";
        let queue = longest_queue(sockets).unwrap();
        assert_eq!((queue.port, queue.waiting), (8080, 129));
        assert_eq!(longest_queue(""), None);
    }

    #[test]
    fn who_is_to_change_follows_from_the_queue() {
        let queue = |waiting| {
            Some(Queue {
                port: 8080,
                waiting,
            })
        };
        let at_limit = finding(9, 2, queue(4096), 4096);
        assert_eq!(at_limit.severity, Severity::Warning);
        assert!(at_limit.command.unwrap().contains("somaxconn=8192"));
        let own = finding(9, 0, queue(5), 4096);
        assert_eq!(own.severity, Severity::Note);
        assert_eq!(own.command.unwrap(), "ss -ltnp 'sport = :8080'");
        assert_eq!(finding(9, 0, queue(0), 4096).command.unwrap(), "ss -ltnp");
    }
}
