//! The target CT of the table raw.

use std::fmt;

/// What `-j CT` says of the packet's flow.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CtTarget {
    /// The packet has none.
    pub notrack: bool,
    /// Name of the helper that reads along.
    pub helper: Option<String>,
    /// Name of the timeout policy.
    pub timeout: Option<String>,
    /// In which zone its flow is.
    pub zone: Option<u16>,
}

impl fmt::Display for CtTarget {
    /// As `-L` prints it, without dashes.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.write_options(f, " ")
    }
}

impl CtTarget {
    /// Each option with `before` before its name, in the order in which iptables prints them.
    pub(crate) fn write_options(&self, f: &mut impl fmt::Write, before: &str) -> fmt::Result {
        if self.notrack {
            write!(f, "{before}notrack")?;
        }
        if let Some(helper) = &self.helper {
            write!(f, "{before}helper {helper}")?;
        }
        if let Some(timeout) = &self.timeout {
            write!(f, "{before}timeout {timeout}")?;
        }
        match self.zone {
            // As iptables has it: zone 0 is where flows are anyway.
            None | Some(0) => Ok(()),
            Some(zone) => write!(f, "{before}zone {zone}"),
        }
    }
}
