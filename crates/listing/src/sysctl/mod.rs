//! Settings by the names that the kernel's tracker gives them.

mod file;
mod knob;
mod name;
mod number;
pub mod profile;
#[cfg(test)]
mod tests;

pub use self::file::{Assignment, Item, expand, has_wildcard, parse, wildcard_match};
pub use self::knob::{Kind, Knob, knob, knobs};
pub use self::name::{dotted, slashed};
use keepstate_engine::settings::{
    SETTING_ACCOUNTING, SETTING_ACCOUNTING_ENDS, SETTING_EVENTS_ALWAYS, SETTING_EVENTS_NEVER,
    Settings, Timeout,
};
use keepstate_engine::tuple::Family;

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
    /// `nf_conntrack_buckets`: buckets of each family.
    Buckets(u32),
    /// `nf_conntrack_expect_max`: how many flows may be expected.
    ExpectMax(u32),
    /// `nf_conntrack_log_invalid`: a protocol, 255 for all.
    LogInvalid(u32),
    Events(Events),
    FragmentSeconds(Family, u32),
    FragmentHigh(Family, u32),
    FragmentLow(Family, u32),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Switch {
    Off,
    On,
}

/// `nf_conntrack_events`: when flows are told of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Events {
    Never = 0,
    Always = 1,
    /// While somebody listens.
    Asked = 2,
}

/// Why a setting cannot be read or made.
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
    #[error("{0} cannot be set, it can only be read")]
    ReadOnly(String),
}

impl Sysctl {
    /// Reads `NAME=VALUE`; the name may begin with `net.netfilter.` or `net/netfilter/`.
    pub fn parse(text: &str) -> Result<Self, SysctlError> {
        let (name, value) = text
            .split_once('=')
            .ok_or_else(|| SysctlError::NoValue(text.to_owned()))?;
        Self::of(name.trim(), value.trim())
    }

    /// A setting of this name and value, the value as the kernel would read it.
    pub fn of(name: &str, value: &str) -> Result<Self, SysctlError> {
        let knob = knob(name).ok_or_else(|| SysctlError::UnknownName(name.to_owned()))?;
        let name = || knob.name.to_owned();
        if matches!(knob.kind, Kind::Count) {
            return Err(SysctlError::ReadOnly(name()));
        }
        let (min, max) = knob.bounds();
        let parsed = number::parse(value).and_then(|number| u32::try_from(number).ok());
        let within = parsed.filter(|number| (min..=max).contains(number));
        let number = within.ok_or_else(|| SysctlError::BadValue {
            name: name(),
            value: value.to_owned(),
            min,
            max,
        })?;
        Ok(match knob.kind {
            Kind::Switch { flag, .. } => Self::Switch {
                flag,
                value: if number == 0 { Switch::Off } else { Switch::On },
            },
            Kind::Timeout(timeout) => Self::Timeout {
                timeout,
                seconds: number,
            },
            Kind::TcpMaxRetrans => Self::TcpMaxRetrans(number),
            Kind::ExpectMax => Self::ExpectMax(number),
            Kind::LogInvalid => Self::LogInvalid(number),
            Kind::Events => Self::Events(match number {
                0 => Events::Never,
                1 => Events::Always,
                _ => Events::Asked,
            }),
            Kind::FragmentSeconds(family) => Self::FragmentSeconds(family, number),
            Kind::FragmentHigh(family) => Self::FragmentHigh(family, number),
            Kind::FragmentLow(family) => Self::FragmentLow(family, number),
            Kind::Buckets => Self::Buckets(number),
            Kind::FlowsMax | Kind::Count => Self::FlowsMax(number),
        })
    }

    /// Puts the setting in force. The size of a table is set where the table is made.
    pub fn apply(self, settings: &mut Settings) {
        match self {
            Self::Switch {
                flag: SETTING_ACCOUNTING,
                value,
            } => switch_accounting(settings, value),
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
            Self::ExpectMax(count) => settings.expectations_max = count,
            Self::LogInvalid(protocol) => settings.log_invalid = protocol,
            Self::Events(events) => {
                settings.flags &= !(SETTING_EVENTS_NEVER | SETTING_EVENTS_ALWAYS);
                settings.flags |= match events {
                    Events::Never => SETTING_EVENTS_NEVER,
                    Events::Always => SETTING_EVENTS_ALWAYS,
                    Events::Asked => 0,
                };
            }
            Self::FragmentSeconds(family, seconds) => {
                settings.fragments[family as usize].seconds = seconds;
            }
            Self::FragmentHigh(family, bytes) => {
                settings.fragments[family as usize].high_bytes = bytes;
            }
            Self::FragmentLow(family, bytes) => {
                settings.fragments[family as usize].low_bytes = bytes;
            }
            Self::FlowsMax(_) | Self::Buckets(_) => {}
        }
    }
}

/// As in Linux a flow keeps the counters that it began with, and a flow that began without them
/// never gets any.
const fn switch_accounting(settings: &mut Settings, value: Switch) {
    match value {
        Switch::On => {
            settings.flags |= SETTING_ACCOUNTING;
            settings.flags &= !SETTING_ACCOUNTING_ENDS;
        }
        Switch::Off if settings.has(SETTING_ACCOUNTING) => {
            settings.flags |= SETTING_ACCOUNTING_ENDS;
        }
        Switch::Off => {}
    }
}

/// All that can be read from settings by name, in the order of the names: everything but
/// `nf_conntrack_count`.
pub fn values(settings: &Settings) -> Vec<(&'static str, u32)> {
    let knobs = knobs().into_iter();
    knobs
        .filter_map(|knob| Some((knob.name, knob.value(settings)?)))
        .collect()
}

/// What settings say of a table that is to be made, the last of each kind counting: flows, and buckets.
pub fn table_size(sysctls: &[Sysctl]) -> (Option<u32>, Option<u32>) {
    let last = |pick: fn(&Sysctl) -> Option<u32>| sysctls.iter().rev().find_map(pick);
    let flows = last(|sysctl| match sysctl {
        Sysctl::FlowsMax(flows) => Some(*flows),
        _ => None,
    });
    let buckets = last(|sysctl| match sysctl {
        Sysctl::Buckets(buckets) => Some(*buckets),
        _ => None,
    });
    (flows, buckets)
}
