//! Who may use the control socket, and a line for each change that somebody asked for.

use std::fmt::{self, Debug, Write as _};
use std::io;
use std::os::unix::fs::{PermissionsExt as _, chown};
use std::os::unix::net::UnixStream;
use std::path::Path;

use keepstate_api::{Reply, Request};
use rustix::process::geteuid;

use super::events;
use crate::journal::{Journal, Priority};

/// Who may connect besides root.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Access {
    /// Number of the group that the socket belongs to; `None` for root's.
    pub group: Option<u32>,
    /// Mode of the socket, such as `0o660`.
    pub mode: u32,
    /// Whether others than root may change anything.
    pub others_may_change: bool,
}

impl Access {
    /// For root alone.
    pub const ROOT: Self = Self {
        group: None,
        mode: 0o600,
        others_may_change: false,
    };

    /// Gives the socket its group and mode.
    pub(super) fn put(&self, socket: &Path) -> io::Result<()> {
        // In this order nobody is let in who is not to be.
        std::fs::set_permissions(socket, std::fs::Permissions::from_mode(0o600))?;
        chown(socket, None, Some(self.group.unwrap_or(0)))?;
        std::fs::set_permissions(socket, std::fs::Permissions::from_mode(self.mode))
    }

    /// Whether whoever is at the other end may change anything.
    pub(super) fn may_change(&self, peer: &Peer) -> bool {
        // A client whose credentials cannot be told may not.
        let is_owner = peer.uid == Some(0) || peer.uid == Some(geteuid().as_raw());
        is_owner || self.others_may_change
    }
}

impl Default for Access {
    fn default() -> Self {
        Self::ROOT
    }
}

/// The program at the other end of a connection, as it was when it connected.
#[derive(Clone, Debug)]
pub(super) struct Peer {
    uid: Option<u32>,
    pid: u32,
    name: String,
}

impl Peer {
    pub(super) fn of(client: &UnixStream) -> Self {
        let credentials = rustix::net::sockopt::socket_peercred(client).ok();
        let program = events::program(client);
        let name = program.as_ref().and_then(|program| program.name.clone());
        Self {
            uid: credentials.map(|credentials| credentials.uid.as_raw()),
            pid: program.map_or(0, |program| program.pid),
            name: name.unwrap_or_else(|| "?".to_owned()),
        }
    }
}

/// What became of a request that was to change something.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Carried {
    Done,
    Failed,
    Forbidden,
}

impl Carried {
    /// By the reply; of those that are lists every element was carried out.
    pub(super) fn of(reply: &Reply) -> Self {
        match reply {
            Reply::Failed(_) | Reply::Refused { .. } | Reply::Unable { .. } => Self::Failed,
            Reply::Printed(printed) if printed.exit_code != 0 => Self::Failed,
            Reply::SetsDone {
                failure: Some(_), ..
            } => Self::Failed,
            _ => Self::Done,
        }
    }

    const fn name(self) -> &'static str {
        match self {
            Self::Done => "done",
            Self::Failed => "failed",
            Self::Forbidden => "forbidden",
        }
    }
}

/// What a request asks for, in some words: kept while it is carried out.
pub(super) fn words(request: &Request) -> String {
    let mut words = Bounded(String::new());
    // It ends with an error where there is more.
    if write!(words, "{request:?}").is_err() {
        words.0.push_str("...");
    }
    words.0
}

/// The audit line of a request. Whoever keeps it adds the time.
pub(super) fn tell(journal: &Journal, peer: &Peer, words: &str, carried: Carried) {
    let uid = peer
        .uid
        .map_or_else(|| "?".to_owned(), |uid| uid.to_string());
    let (pid, outcome) = (peer.pid.to_string(), carried.name());
    let line = format!(
        "audit: uid={uid} pid={pid} program={:?} outcome={outcome} request={words}",
        peer.name
    );
    let fields = [
        ("KEEPSTATE_UID", uid),
        ("KEEPSTATE_PID", pid),
        ("KEEPSTATE_PROGRAM", peer.name.clone()),
        ("KEEPSTATE_OUTCOME", outcome.to_owned()),
        ("KEEPSTATE_REQUEST", words.to_owned()),
    ];
    journal.write(Priority::Notice, &line, &fields);
}

/// Longest that a request is told of, in bytes.
const WORDS_BYTES_MAX: usize = 200;

/// Takes so many bytes and no more. What goes in is as `Debug` writes it: text is quoted, without line breaks.
struct Bounded(String);

impl fmt::Write for Bounded {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        for character in text.chars() {
            if self.0.len() + character.len_utf8() > WORDS_BYTES_MAX {
                return Err(fmt::Error);
            }
            self.0.push(character);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use keepstate_api::{ApplyMode, RuleFamily, RuleFile};

    use super::*;

    #[test]
    fn a_request_is_one_short_line_whatever_it_holds() {
        let request = Request::SetSysctl {
            assignment: "a=1\nkeepstate: audit: uid=0".to_owned(),
        };
        assert_eq!(
            words(&request),
            r#"SetSysctl { assignment: "a=1\nkeepstate: audit: uid=0" }"#
        );
        let file = RuleFile {
            origin: "rules".to_owned(),
            family: RuleFamily::Detect,
            text: "x".repeat(1 << 20),
        };
        let request = Request::Apply {
            files: vec![file],
            mode: ApplyMode::Swap,
        };
        let told = words(&request);
        assert!(
            told.starts_with(r#"Apply { files: [RuleFile { origin: "rules""#),
            "{told}"
        );
        assert_eq!(told.len(), WORDS_BYTES_MAX + 3);
    }

    #[test]
    fn only_root_changes_anything_unless_it_is_said_otherwise() {
        let peer = |uid| Peer {
            uid,
            pid: 1,
            name: String::new(),
        };
        let stranger = Some(geteuid().as_raw() + 1);
        assert!(Access::ROOT.may_change(&peer(Some(0))));
        assert!(!Access::ROOT.may_change(&peer(stranger)));
        assert!(!Access::ROOT.may_change(&peer(None)));
        let open = Access {
            others_may_change: true,
            ..Access::ROOT
        };
        assert!(open.may_change(&peer(stranger)));
    }
}
