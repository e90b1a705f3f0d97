//! Where whoever runs a program is logged in from, as sshd tells it.

use std::fs;
use std::net::{IpAddr, SocketAddr};

use serde::{Deserialize, Serialize};

/// A connection of SSH.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Session {
    pub client: SocketAddr,
    pub server: SocketAddr,
}

const VARIABLE: &str = "SSH_CONNECTION";

/// Processes between a program and the shell that was logged into.
const ANCESTORS_MAX: usize = 32;

impl Session {
    /// That of this process, or of the nearest process that it comes from which has one: sudo keeps the variable from
    /// what it runs. `None` where there is none, or it cannot be read.
    pub fn own() -> Option<Self> {
        if let Ok(text) = std::env::var(VARIABLE) {
            return Self::parse(&text);
        }
        let mut process = std::process::id();
        for _ in 0..ANCESTORS_MAX {
            process = parent(process)?;
            let Ok(environment) = fs::read(format!("/proc/{process}/environ")) else {
                continue;
            };
            let found = environment.split(|byte| *byte == 0).find_map(|variable| {
                let text = std::str::from_utf8(variable).ok()?;
                text.strip_prefix(VARIABLE)?.strip_prefix('=')
            });
            if let Some(text) = found {
                return Self::parse(text);
            }
        }
        None
    }

    /// `CLIENT PORT SERVER PORT`. Addresses that are of one link only have a name behind them, which is left out.
    pub fn parse(text: &str) -> Option<Self> {
        let mut words = text.split_ascii_whitespace();
        let mut end = || {
            let (address, port) = (words.next()?, words.next()?);
            let address: IpAddr = address.split('%').next()?.parse().ok()?;
            Some(SocketAddr::new(address.to_canonical(), port.parse().ok()?))
        };
        let (client, server) = (end()?, end()?);
        words.next().is_none().then_some(Self { client, server })
    }
}

fn parent(process: u32) -> Option<u32> {
    let text = fs::read_to_string(format!("/proc/{process}/status")).ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix("PPid:"))?;
    line.trim().parse().ok().filter(|parent| *parent > 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_sshd_writes_is_read() {
        let session = Session::parse("203.0.113.9 50022 192.0.2.1 2222").unwrap();
        assert_eq!(session.client.to_string(), "203.0.113.9:50022");
        assert_eq!(session.server.port(), 2222);
        let link = Session::parse("fe80::9%eth0 1 fe80::1%eth0 22").unwrap();
        assert_eq!(link.client.ip().to_string(), "fe80::9");
        let mapped = Session::parse("::ffff:203.0.113.9 1 ::ffff:192.0.2.1 22").unwrap();
        assert!(mapped.client.is_ipv4());
        for text in [
            "",
            "203.0.113.9 1 192.0.2.1",
            "203.0.113.9 1 192.0.2.1 99999",
            "a 1 b 2",
        ] {
            assert_eq!(Session::parse(text), None, "{text}");
        }
    }

    #[test]
    fn every_process_but_the_first_has_a_parent() {
        assert!(parent(std::process::id()).is_some());
        assert_eq!(parent(1), None);
    }
}
