//! Knobs of the host's TCP against SYN floods, as scripts set them beside the tracker's. Here they are Keepstate's, and the host's
//! stay as they are.
//!
//! | file below `/proc/sys/net/ipv4` | here |
//! | --- | --- |
//! | `tcp_syncookies` | `keepstate cookies mode`: 0 never, 1 auto, 2 always |
//! | `tcp_max_syn_backlog` | half-open connections to one destination above which cookies begin; they end at a quarter of it |
//! | `tcp_synack_retries` | `nf_conntrack_tcp_timeout_syn_recv`, as long as TCP would wait for the answer to its last SYN-ACK |

use keepstate_api::{
    Client, ClientError, CookieChange, CookieMode, CookieStatus, Instance, Reply, Request,
};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Knob {
    Syncookies,
    Backlog,
    Retries,
}

/// The longest that TCP waits (`TCP_SYNACK_RETRIES` is a byte, but nobody waits for hours).
const RETRIES_MAX: u32 = 15;

const SYN_RECV: &str = "nf_conntrack_tcp_timeout_syn_recv";

/// Why a value was not taken.
pub(super) enum Refused {
    /// Nothing that the kernel would take either.
    Invalid,
    Failed(ClientError),
}

impl From<ClientError> for Refused {
    fn from(error: ClientError) -> Self {
        Self::Failed(error)
    }
}

impl Knob {
    pub(super) const ALL: [Self; 3] = [Self::Syncookies, Self::Backlog, Self::Retries];

    /// Below `/proc/sys/net/ipv4`.
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Syncookies => "tcp_syncookies",
            Self::Backlog => "tcp_max_syn_backlog",
            Self::Retries => "tcp_synack_retries",
        }
    }

    pub(super) fn read(self, instance: &Instance) -> Result<String, ClientError> {
        let mut client = Client::connect(instance)?;
        let value = match self {
            Self::Syncookies => match cookies(&mut client, &Request::Cookies)?.mode {
                CookieMode::Never => 0,
                CookieMode::Auto => 1,
                CookieMode::Always => 2,
            },
            Self::Backlog => {
                cookies(&mut client, &Request::Cookies)?
                    .destination_marks
                    .high
            }
            Self::Retries => retries(seconds(&mut client)?),
        };
        Ok(format!("{value}\n"))
    }

    pub(super) fn write(self, instance: &Instance, value: &str) -> Result<(), Refused> {
        let value: u32 = value.parse().map_err(|_| Refused::Invalid)?;
        let mut client = Client::connect(instance)?;
        let change = match self {
            Self::Syncookies => CookieChange {
                mode: Some(mode(value)?),
                ..CookieChange::default()
            },
            Self::Backlog => CookieChange {
                destination_high: Some(value),
                destination_low: Some(value / 4),
                ..CookieChange::default()
            },
            Self::Retries if value > RETRIES_MAX => return Err(Refused::Invalid),
            Self::Retries => {
                let assignment = format!("{SYN_RECV}={}", waiting(value));
                client.ask(&Request::SetSysctl { assignment })?;
                return Ok(());
            }
        };
        let status = cookies(&mut client, &Request::SetCookies(change))?;
        if self == Self::Syncookies {
            for obstacle in &status.obstacles {
                eprintln!("keepstate: of the host itself, {obstacle}");
            }
        }
        Ok(())
    }
}

const fn mode(value: u32) -> Result<CookieMode, Refused> {
    match value {
        0 => Ok(CookieMode::Never),
        1 => Ok(CookieMode::Auto),
        2 => Ok(CookieMode::Always),
        _ => Err(Refused::Invalid),
    }
}

fn cookies(client: &mut Client, request: &Request) -> Result<Box<CookieStatus>, ClientError> {
    match client.ask(request)? {
        Reply::Cookies(status) => Ok(status),
        _ => Err(ClientError::Unexpected),
    }
}

fn seconds(client: &mut Client) -> Result<u32, ClientError> {
    let name = Some(SYN_RECV.to_owned());
    match client.ask(&Request::Sysctl { name })? {
        Reply::Sysctl { value, .. } => u32::try_from(value).map_err(|_| ClientError::Unexpected),
        _ => Err(ClientError::Unexpected),
    }
}

/// Seconds until TCP gives a SYN up that it has answered again so often: a second, and twice as long each time (RFC 6298
/// section 5.5).
const fn waiting(retries: u32) -> u32 {
    (2 << retries) - 1
}

/// How often TCP answers in so many seconds, or a little more.
const fn retries(seconds: u32) -> u32 {
    let mut retries = 0;
    while retries < RETRIES_MAX && waiting(retries) < seconds {
        retries += 1;
    }
    retries
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn retries_are_a_time() {
        assert_eq!([0, 3, 5].map(waiting), [1, 15, 63]);
        assert_eq!([1, 15, 60, 63, 64].map(retries), [0, 3, 5, 5, 6]);
        assert_eq!(retries(u32::MAX), RETRIES_MAX);
    }
}
