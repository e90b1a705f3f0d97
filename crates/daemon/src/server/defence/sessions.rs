//! Whoever runs commands of `keepstate` from a session of SSH: the commands tell where it comes from.

use std::fs;
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use keepstate_api::Session;

use super::host;

/// Sessions that are remembered; of more, those that were told of last.
const SESSIONS_MAX: usize = 64;

/// For how long a session is believed that is no connection of this host (it ends in a container, or at another host
/// from which the command came).
const BELIEVED: Duration = Duration::from_hours(1);

#[derive(Default)]
pub(super) struct Sessions(Vec<(Session, Instant)>);

impl Sessions {
    /// Whether it was not known.
    pub(super) fn note(&mut self, session: Session, now: Instant) -> bool {
        let before = self.0.len();
        self.0.retain(|(known, _)| *known != session);
        let is_new = self.0.len() == before;
        if self.0.len() == SESSIONS_MAX {
            self.0.remove(0);
        }
        self.0.push((session, now));
        is_new
    }

    /// Where those come from that go on: an hour after the last command, and longer while the connection is there.
    pub(super) fn clients(&mut self, now: Instant) -> Vec<IpAddr> {
        if self.0.is_empty() {
            return Vec::new();
        }
        let files = ["/proc/net/tcp", "/proc/net/tcp6"];
        let texts = files.map(|file| fs::read_to_string(file).unwrap_or_default());
        self.going_on(&texts, now)
    }

    fn going_on(&mut self, texts: &[String], now: Instant) -> Vec<IpAddr> {
        let lines = texts.iter().flat_map(|text| text.lines());
        let there: Vec<[SocketAddr; 2]> = lines.filter_map(host::established).collect();
        self.0.retain(|(session, at)| {
            now.duration_since(*at) < BELIEVED || there.contains(&[session.server, session.client])
        });
        self.0
            .iter()
            .map(|(session, _)| session.client.ip())
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[cfg(target_endian = "little")]
    fn a_session_is_believed_for_an_hour_or_as_long_as_it_lasts() {
        let session = |text| Session::parse(text).expect("a session");
        let (here, elsewhere) = (
            session("10.10.0.5 50000 127.0.0.1 8022"),
            session("203.0.113.9 1 192.0.2.1 22"),
        );
        let now = Instant::now();
        let mut sessions = Sessions::default();
        assert!(sessions.note(here, now) && sessions.note(elsewhere, now));
        assert!(!sessions.note(here, now));
        let text = "   1: 0100007F:1F56 05000A0A:C350 01 00000000:00000000 00:00000000 00000000";
        let texts = [text.to_owned()];
        assert_eq!(sessions.going_on(&texts, now).len(), 2);
        let later = now + BELIEVED;
        assert_eq!(sessions.going_on(&texts, later), [here.client.ip()]);
        assert!(sessions.going_on(&[], later).is_empty());
        for number in 0..2 * SESSIONS_MAX as u16 {
            let client = SocketAddr::new(here.client.ip(), number);
            sessions.note(Session { client, ..here }, now);
        }
        assert_eq!(sessions.0.len(), SESSIONS_MAX);
    }
}
