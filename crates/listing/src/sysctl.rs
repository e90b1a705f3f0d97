//! Settings by the names that the kernel's tracker gives them.

use keepstate_engine::limits::EXPECTATIONS_MAX;
use keepstate_engine::settings::{
    SETTING_ACCOUNTING, SETTING_CHECKSUM, SETTING_TCP_BE_LIBERAL, SETTING_TCP_IGNORE_INVALID_RST,
    SETTING_TCP_LOOSE, SETTING_TIMESTAMP, Settings, Timeout,
};
use keepstate_engine::time::TIMEOUT_SECONDS_MAX;

const PREFIX: &str = "nf_conntrack_";

const SWITCHES: &[(&str, u32)] = &[
    ("nf_conntrack_acct", SETTING_ACCOUNTING),
    ("nf_conntrack_checksum", SETTING_CHECKSUM),
    ("nf_conntrack_tcp_be_liberal", SETTING_TCP_BE_LIBERAL),
    (
        "nf_conntrack_tcp_ignore_invalid_rst",
        SETTING_TCP_IGNORE_INVALID_RST,
    ),
    ("nf_conntrack_tcp_loose", SETTING_TCP_LOOSE),
    ("nf_conntrack_timestamp", SETTING_TIMESTAMP),
];

/// Counts of retransmissions that the engine keeps.
const MAX_RETRANS_LIMIT: u32 = 63;

/// One setting, checked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sysctl {
    Switch {
        flag: u32,
        value: Switch,
    },
    Timeout {
        timeout: Timeout,
        seconds: u32,
    },
    TcpMaxRetrans(u32),
    /// `nf_conntrack_max`: how many flows there may be.
    FlowsMax(u32),
    /// `nf_conntrack_expect_max`: how many flows may be expected.
    ExpectMax(u32),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Switch {
    Off,
    On,
}

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SysctlError {
    #[error("`{0}`: expected NAME=VALUE")]
    NoValue(String),
    #[error("there is no setting `{0}`")]
    UnknownName(String),
    #[error("{name}: `{value}` is no number from {min} to {max}")]
    BadValue {
        name: String,
        value: String,
        min: u32,
        max: u32,
    },
}

impl Sysctl {
    /// Reads `NAME=VALUE`; the name may begin with `net.netfilter.` or `net/netfilter/`.
    pub fn parse(text: &str) -> Result<Self, SysctlError> {
        let (name, value) = text
            .split_once('=')
            .ok_or_else(|| SysctlError::NoValue(text.to_owned()))?;
        let (name, value) = (name.trim(), value.trim());
        let short = name
            .strip_prefix("net.netfilter.")
            .or_else(|| name.strip_prefix("net/netfilter/"))
            .unwrap_or(name);
        let number = |min: u32, max: u32| {
            let parsed = value.parse().ok();
            let within = parsed.filter(|number| (min..=max).contains(number));
            within.ok_or_else(|| SysctlError::BadValue {
                name: short.to_owned(),
                value: value.to_owned(),
                min,
                max,
            })
        };
        if let Some((_, flag)) = SWITCHES.iter().find(|(name, _)| *name == short) {
            let value = match number(0, 1)? {
                0 => Switch::Off,
                _ => Switch::On,
            };
            return Ok(Self::Switch { flag: *flag, value });
        }
        if let Some(timeout) = timeout(short) {
            let seconds = number(0, TIMEOUT_SECONDS_MAX)?;
            return Ok(Self::Timeout { timeout, seconds });
        }
        match short {
            "nf_conntrack_tcp_max_retrans" => number(0, MAX_RETRANS_LIMIT).map(Self::TcpMaxRetrans),
            "nf_conntrack_max" => number(1, u32::MAX).map(Self::FlowsMax),
            "nf_conntrack_expect_max" => number(1, EXPECTATIONS_MAX).map(Self::ExpectMax),
            _ => Err(SysctlError::UnknownName(name.to_owned())),
        }
    }

    /// Puts the setting in force. The size of a table is set where the table is made.
    pub fn apply(self, settings: &mut Settings) {
        match self {
            Self::Switch { flag, value } => match value {
                Switch::On => settings.flags |= flag,
                Switch::Off => settings.flags &= !flag,
            },
            Self::Timeout { timeout, seconds } => {
                if let Some(slot) = settings.timeouts.get_mut(timeout as usize) {
                    *slot = seconds;
                }
            }
            Self::TcpMaxRetrans(count) => settings.tcp_max_retrans = count,
            Self::FlowsMax(_) => {}
            Self::ExpectMax(count) => settings.expectations_max = count,
        }
    }
}

/// All settings by name, in the order of their names.
pub fn values(settings: &Settings) -> Vec<(&'static str, u32)> {
    let switches = SWITCHES.iter();
    let mut values: Vec<_> = switches
        .map(|(name, flag)| (*name, u32::from(settings.has(*flag))))
        .collect();
    let timeouts = Timeout::ALL.iter();
    let named = timeouts.filter(|timeout| !timeout.sysctl().is_empty());
    values.extend(named.map(|timeout| (timeout.sysctl(), settings.seconds(*timeout))));
    values.push(("nf_conntrack_tcp_max_retrans", settings.tcp_max_retrans));
    values.push(("nf_conntrack_max", settings.flows_max));
    values.push(("nf_conntrack_expect_max", settings.expectations_max));
    values.sort_unstable();
    values
}

fn timeout(name: &str) -> Option<Timeout> {
    let known = name.starts_with(PREFIX);
    let mut all = Timeout::ALL.iter().copied();
    all.find(|timeout| known && timeout.sysctl() == name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_the_kernel_has() {
        assert_eq!(
            Sysctl::parse("nf_conntrack_tcp_loose=0"),
            Ok(Sysctl::Switch {
                flag: SETTING_TCP_LOOSE,
                value: Switch::Off
            })
        );
        assert_eq!(
            Sysctl::parse("net.netfilter.nf_conntrack_udp_timeout = 10"),
            Ok(Sysctl::Timeout {
                timeout: Timeout::Udp,
                seconds: 10
            })
        );
        assert_eq!(
            Sysctl::parse("net/netfilter/nf_conntrack_max=100"),
            Ok(Sysctl::FlowsMax(100))
        );
        assert_eq!(
            Sysctl::parse("nf_conntrack_expect_max=9"),
            Ok(Sysctl::ExpectMax(9))
        );
    }

    #[test]
    fn refuses_the_rest() {
        for text in [
            "",
            "=",
            "nf_conntrack_tcp_loose",
            "nf_conntrack_tcp_loose=2",
            "nf_conntrack_tcp_loose=yes",
            "nf_conntrack_max=0",
            "nf_conntrack_expect_max=4097",
            "nf_conntrack_udp_timeout=-1",
            "nf_conntrack_udp_timeout=4294967295",
            "nf_conntrack_nonsense=1",
            "net.ipv4.ip_forward=1",
            "loose=1",
        ] {
            assert!(Sysctl::parse(text).is_err(), "{text}");
        }
    }
}
