//! Profiles: settings that belong together, for what a machine does.

use keepstate_engine::settings::Timeout;

/// A profile.
#[derive(Debug)]
pub struct Profile {
    pub name: &'static str,
    /// What it is for, in a sentence.
    pub sentence: &'static str,
    /// Where it differs from the defaults.
    pub changes: &'static [Change],
}

/// A timeout that a profile changes.
#[derive(Debug)]
pub struct Change {
    pub timeout: Timeout,
    pub seconds: u32,
    pub why: &'static str,
}

const fn change(timeout: Timeout, seconds: u32, why: &'static str) -> Change {
    Change {
        timeout,
        seconds,
        why,
    }
}

pub const PROFILES: &[Profile] = &[
    Profile {
        name: "default",
        sentence: "Linux's timeouts.",
        changes: &[],
    },
    Profile {
        name: "web",
        sentence: "A web server: many short connections, few of them idle.",
        changes: &[
            change(
                Timeout::TcpEstablished,
                300,
                "an idle connection is not worth five days; one that lives on sends keep-alives",
            ),
            change(
                Timeout::TcpTimeWait,
                30,
                "most records of a busy web server wait here",
            ),
        ],
    },
    Profile {
        name: "game",
        sentence: "A game server: UDP streams with long pauses, and TCP beside them.",
        changes: &[
            change(
                Timeout::UdpStream,
                600,
                "players pause; nf_conntrack_udp_timeout would lengthen the lives of unanswered \
                 datagrams alone",
            ),
            change(
                Timeout::TcpEstablished,
                1800,
                "lobbies and chat are idle for minutes, not for days",
            ),
        ],
    },
    Profile {
        name: "database",
        sentence: "A database server: few connections, pooled and idle for hours.",
        changes: &[
            change(
                Timeout::TcpEstablished,
                86_400,
                "a pool is idle overnight, and what is idle for longer is gone",
            ),
            change(
                Timeout::TcpSynRecv,
                30,
                "application servers are near: a handshake that takes longer fails",
            ),
            change(
                Timeout::TcpTimeWait,
                60,
                "as long as the other end keeps it",
            ),
        ],
    },
    Profile {
        name: "gateway",
        sentence: "A gateway for a network: the least that RFCs ask of one, and not much more.",
        changes: &[
            change(
                Timeout::TcpEstablished,
                7440,
                "two hours and four minutes (RFC 5382 REQ-5)",
            ),
            change(Timeout::UdpStream, 300, "five minutes (RFC 4787 REQ-5)"),
            change(Timeout::Icmp, 60, "a minute (RFC 5508 REQ-2)"),
            change(Timeout::Icmpv6, 60, "as for ICMP"),
        ],
    },
];

/// The profile of a name.
pub fn profile(name: &str) -> Option<&'static Profile> {
    PROFILES.iter().find(|profile| profile.name == name)
}

impl Profile {
    /// All timeouts that any profile changes, and what they are with this one: those that it does
    /// not name are what they are by default, so that nothing of an earlier profile is left.
    pub fn timeouts(&self) -> Vec<(Timeout, u32, Option<&'static str>)> {
        let changes = PROFILES.iter().flat_map(|profile| profile.changes);
        let is_changed: Vec<Timeout> = changes.map(|change| change.timeout).collect();
        let managed = Timeout::ALL
            .iter()
            .filter(|timeout| is_changed.contains(timeout));
        managed
            .map(|timeout| {
                let own = self
                    .changes
                    .iter()
                    .find(|change| change.timeout == *timeout);
                let seconds = own.map_or(timeout.default_seconds(), |change| change.seconds);
                (*timeout, seconds, own.map(|change| change.why))
            })
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_change_has_a_name_and_changes_something() {
        for profile in PROFILES {
            for change in profile.changes {
                assert!(!change.timeout.sysctl().is_empty());
                assert_ne!(change.seconds, change.timeout.default_seconds());
            }
        }
    }

    #[test]
    fn a_game_server_keeps_streams_and_not_the_unanswered() {
        let game = profile("game").unwrap().timeouts();
        let has = |wanted| {
            game.iter()
                .any(|(timeout, seconds, _)| (*timeout, *seconds) == wanted)
        };
        assert!(has((Timeout::UdpStream, 600)) && has((Timeout::TcpEstablished, 1800)));
        assert!(game.iter().all(|(timeout, ..)| *timeout != Timeout::Udp));
    }

    #[test]
    fn one_profile_undoes_another() {
        let names = |name: &str| -> Vec<Timeout> {
            let timeouts = profile(name).unwrap().timeouts();
            timeouts.iter().map(|(timeout, ..)| *timeout).collect()
        };
        assert_eq!(names("web"), names("game"));
        let default = profile("default").unwrap().timeouts();
        for (timeout, seconds, why) in default {
            assert_eq!((seconds, why), (timeout.default_seconds(), None));
        }
    }
}
