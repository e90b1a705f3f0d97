//! Timeout policies in the words of nfct (conntrack-tools 1.4.7).

use std::collections::BTreeMap;
use std::fmt::{self, Display, Formatter};

use keepstate_engine::settings::{Settings, TIMEOUTS, Timeout};
use keepstate_engine::time::TIMEOUT_SECONDS_MAX;

/// Longest name in bytes, as in Linux.
pub const NAME_BYTES_MAX: usize = 31;

/// Protocols that have timeouts: nfct's names and their numbers. Any other is `generic`.
const PROTOCOLS: &[(&str, u8)] = &[
    ("icmp", 1),
    ("tcp", 6),
    ("udp", 17),
    ("gre", 47),
    ("icmpv6", 58),
    ("sctp", 132),
    ("udplite", 136),
    ("generic", 255),
];

/// Number of a protocol by nfct's name.
pub fn protocol_number(name: &str) -> Option<u8> {
    let mut protocols = PROTOCOLS.iter();
    protocols
        .find(|(own, _)| *own == name)
        .map(|(_, number)| *number)
}

/// Timeouts of a protocol, in the order in which they are listed, with nfct's names for them. Empty for
/// a protocol that the engine does not know.
pub fn states(protocol: u8) -> Vec<(String, Timeout)> {
    let prefix = match protocol {
        1 => "nf_conntrack_icmp_",
        6 => "nf_conntrack_tcp_timeout_",
        17 | 136 => "nf_conntrack_udp_",
        47 => "nf_conntrack_gre_",
        58 => "nf_conntrack_icmpv6_",
        132 => "nf_conntrack_sctp_timeout_",
        255 => "nf_conntrack_generic_",
        _ => return Vec::new(),
    };
    let has_streams = matches!(protocol, 17 | 47 | 136);
    let all = Timeout::ALL.iter().filter_map(|timeout| {
        let state = match (timeout, timeout.sysctl().strip_prefix(prefix)?) {
            (_, "timeout") if has_streams => "unreplied",
            (_, "timeout_stream") => "replied",
            (Timeout::TcpMaxRetrans, _) => "retrans",
            (_, state) => state,
        };
        Some((state.to_owned(), *timeout))
    });
    let mut states: Vec<_> = all.collect();
    if protocol == 6 {
        // It has no sysctl, and stands before those that are no states.
        let retrans = states.iter().position(|(state, _)| state == "retrans");
        let at = retrans.unwrap_or(states.len());
        states.insert(at, ("syn_sent2".to_owned(), Timeout::TcpSynSent2));
    }
    states
}

/// A timeout policy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TimeoutPolicy {
    pub name: String,
    /// 4 or 6.
    pub version: u8,
    pub protocol: u8,
    /// Seconds by state.
    pub seconds: BTreeMap<String, u32>,
}

/// Why there can be no such policy.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TimeoutPolicyError {
    #[error("`{0}` is no name: 1 to {NAME_BYTES_MAX} printable letters without spaces")]
    Name(String),
    #[error("protocol {0} has no timeouts of its own")]
    Protocol(u8),
    #[error("`{state}` is no state of the protocol; it has {known}")]
    State { state: String, known: String },
    #[error("{state}: {seconds} is no number from 1 to {TIMEOUT_SECONDS_MAX}")]
    Seconds { state: String, seconds: u32 },
}

impl TimeoutPolicy {
    /// What the engine is told. A state that the policy does not name is what its sysctl is now, as in
    /// Linux.
    pub fn compile(&self, settings: &Settings) -> Result<[u32; TIMEOUTS], TimeoutPolicyError> {
        let is_graphic = |byte: u8| byte.is_ascii_graphic();
        if !(1..=NAME_BYTES_MAX).contains(&self.name.len()) || !self.name.bytes().all(is_graphic) {
            return Err(TimeoutPolicyError::Name(self.name.clone()));
        }
        let states = states(self.protocol);
        if states.is_empty() {
            return Err(TimeoutPolicyError::Protocol(self.protocol));
        }
        let mut compiled = [0; TIMEOUTS];
        for (state, timeout) in &states {
            let own = self.seconds.get(state).copied();
            if let Some(seconds) = own
                && !(1..=TIMEOUT_SECONDS_MAX).contains(&seconds)
            {
                let state = state.clone();
                return Err(TimeoutPolicyError::Seconds { state, seconds });
            }
            if let Some(slot) = compiled.get_mut(*timeout as usize) {
                *slot = own.unwrap_or_else(|| settings.seconds(*timeout));
            }
        }
        let is_known = |state: &&String| states.iter().any(|(own, _)| own == *state);
        if let Some(state) = self.seconds.keys().find(|state| !is_known(state)) {
            let names: Vec<&str> = states.iter().map(|(name, _)| name.as_str()).collect();
            return Err(TimeoutPolicyError::State {
                state: state.clone(),
                known: names.join(", "),
            });
        }
        Ok(compiled)
    }

    /// Seconds by state, as the engine was told.
    pub fn decompiled(self, compiled: &[u32; TIMEOUTS]) -> Self {
        let states = states(self.protocol).into_iter();
        let seconds = states.filter_map(|(state, timeout)| {
            let seconds = *compiled.get(timeout as usize)?;
            Some((state, seconds))
        });
        Self {
            seconds: seconds.collect(),
            ..self
        }
    }
}

impl Display for TimeoutPolicy {
    /// As `nfct list timeout`, without a last line feed.
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        // The kernel's numbers of address families.
        let family = if self.version == 4 { 2 } else { 10 };
        let Self { name, protocol, .. } = self;
        writeln!(
            f,
            ".{name} = {{\n\t.l3proto = {family},\n\t.l4proto = {protocol},"
        )?;
        writeln!(f, "\t.policy = {{")?;
        for (state, _) in states(self.protocol) {
            let seconds = self.seconds.get(&state).copied().unwrap_or_default();
            writeln!(f, "\t\t.{} = {seconds},", state.to_uppercase())?;
        }
        write!(f, "\t}},\n}};")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn policy(protocol: &str, seconds: &[(&str, u32)]) -> TimeoutPolicy {
        TimeoutPolicy {
            name: "test".to_owned(),
            version: 4,
            protocol: protocol_number(protocol).unwrap(),
            seconds: seconds
                .iter()
                .map(|(state, seconds)| ((*state).to_owned(), *seconds))
                .collect(),
        }
    }

    #[test]
    fn tcp_is_listed_as_nfct_does() {
        let mut settings = Settings::defaults(100, [16; 2]);
        settings.timeouts[Timeout::TcpLastAck as usize] = 31;
        let policy = policy(
            "tcp",
            &[("established", 100), ("close", 11), ("syn_sent2", 7)],
        );
        let compiled = policy.compile(&settings).unwrap();
        assert_eq!(compiled[Timeout::TcpEstablished as usize], 100);
        assert_eq!(compiled[Timeout::Udp as usize], 0);
        assert_eq!(
            policy.decompiled(&compiled).to_string(),
            ".test = {\n\t.l3proto = 2,\n\t.l4proto = 6,\n\t.policy = {\n\t\t.SYN_SENT = 120,\n\
             \t\t.SYN_RECV = 60,\n\t\t.ESTABLISHED = 100,\n\t\t.FIN_WAIT = 120,\n\
             \t\t.CLOSE_WAIT = 60,\n\t\t.LAST_ACK = 31,\n\t\t.TIME_WAIT = 120,\n\t\t.CLOSE = 11,\n\
             \t\t.SYN_SENT2 = 7,\n\t\t.RETRANS = 300,\n\t\t.UNACKNOWLEDGED = 300,\n\t},\n};"
        );
    }

    #[test]
    fn others_have_the_states_of_nfct() {
        for (protocol, known) in [
            ("udp", &["unreplied", "replied"][..]),
            ("icmp", &["timeout"]),
            ("icmpv6", &["timeout"]),
            ("generic", &["timeout"]),
        ] {
            let states = states(protocol_number(protocol).unwrap());
            let names: Vec<&str> = states.iter().map(|(name, _)| name.as_str()).collect();
            assert_eq!(names, known, "{protocol}");
        }
    }

    #[test]
    fn what_cannot_be_is_refused() {
        let settings = Settings::defaults(100, [16; 2]);
        let refused = |policy: TimeoutPolicy| policy.compile(&settings).unwrap_err().to_string();
        assert_eq!(
            refused(policy("udp", &[("established", 1)])),
            "`established` is no state of the protocol; it has unreplied, replied"
        );
        assert_eq!(
            refused(policy("udp", &[("replied", 0)])),
            "replied: 0 is no number from 1 to 134217727"
        );
        for name in ["", "a b", "ä", &"x".repeat(32)] {
            let policy = TimeoutPolicy {
                name: name.to_owned(),
                ..policy("udp", &[])
            };
            assert!(refused(policy).contains("is no name"), "{name:?}");
        }
    }
}
