//! What goes wrong, in conntrack's words and with its exit codes.

use std::io;

use keepstate_api::{ClientError, Unable};

/// How conntrack begins each line that it says on the standard error.
pub(super) const BANNER: &str = "conntrack v1.4.7 (conntrack-tools)";

/// Why a command was not carried out.
#[derive(Debug)]
pub(super) enum Problem {
    /// The command line is wrong: exit code 2.
    Usage(String),
    /// Anything else: exit code 1.
    Other(String),
    /// Nobody reads what is printed any more.
    Reader,
}

impl Problem {
    pub(super) fn usage(message: impl Into<String>) -> Self {
        Self::Usage(message.into())
    }

    /// An operation of the firewall that failed.
    pub(super) fn failed(cause: impl AsRef<str>) -> Self {
        Self::Other(format!("Operation failed: {}", cause.as_ref()))
    }
}

impl From<ClientError> for Problem {
    fn from(error: ClientError) -> Self {
        match error {
            ClientError::Forbidden(_) => {
                Self::failed("sorry, you must be root or get CAP_NET_ADMIN capability to do this")
            }
            error => Self::failed(chain(&error)),
        }
    }
}

impl From<io::Error> for Problem {
    fn from(error: io::Error) -> Self {
        if error.kind() == io::ErrorKind::BrokenPipe {
            Self::Reader
        } else {
            Self::Other(error.to_string())
        }
    }
}

fn chain(error: &dyn std::error::Error) -> String {
    match error.source() {
        None => error.to_string(),
        Some(cause) => format!("{error}: {}", chain(cause)),
    }
}

/// A refusal as the C library names the error that the kernel would give.
pub(super) const fn refusal(why: Unable) -> &'static str {
    match why {
        Unable::Exists => "Such conntrack exists, try -U to update",
        Unable::Missing => "such conntrack doesn't exist",
        Unable::Unsupported => "Operation not supported",
        Unable::Busy => "Device or resource busy",
        Unable::Full => "not enough memory",
        Unable::Invalid => "invalid parameters",
    }
}
