//! Lines for the journal, with fields that one can ask for (`journalctl KEEPSTATE_REASON=tcp_sequence_over_window`), by
//! its own protocol (systemd.io/JOURNAL_NATIVE_PROTOCOL). Where the journal does not listen, lines go to the
//! standard error without fields.

use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::sync::Mutex;

use crate::lock;

const SOCKET: &str = "/run/systemd/journal/socket";

/// Longest entry; fields beyond are left out. The kernel takes datagrams of 200 KiB, and lines here are short.
const ENTRY_BYTES_MAX: usize = 8192;

/// Severity of a line (RFC 5424 section 6.2.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Priority {
    Warning = 4,
    Notice = 5,
    Info = 6,
}

/// Where lines go.
pub struct Journal {
    path: PathBuf,
    socket: Mutex<Option<UnixDatagram>>,
}

impl Journal {
    /// The host's journal, where there is one.
    pub fn open() -> Self {
        Self::at(Path::new(SOCKET))
    }

    fn at(path: &Path) -> Self {
        Self {
            path: path.to_owned(),
            socket: Mutex::new(connect(path)),
        }
    }

    /// Writes a line with fields. Their names are capital letters and `_`.
    pub fn write(&self, priority: Priority, line: &str, fields: &[(&str, String)]) {
        // Without a service manager whoever started this reads the standard error.
        if !is_service() || !self.send(&entry(priority, line, fields)) {
            crate::complain!("keepstate: {line}");
        }
    }

    fn send(&self, entry: &[u8]) -> bool {
        let mut socket = lock(&self.socket);
        let sent = |socket: &UnixDatagram| socket.send(entry).is_ok();
        if socket.as_ref().is_some_and(sent) {
            return true;
        }
        // The journal may have been started anew.
        *socket = connect(&self.path);
        socket.as_ref().is_some_and(sent)
    }
}

/// Whether a service manager has started this process with the journal as its standard error.
fn is_service() -> bool {
    std::env::var_os("JOURNAL_STREAM").is_some()
}

fn connect(path: &Path) -> Option<UnixDatagram> {
    let socket = UnixDatagram::unbound().ok()?;
    socket.connect(path).ok()?;
    // A journal that does not read must hold nothing up.
    socket.set_nonblocking(true).ok()?;
    Some(socket)
}

fn entry(priority: Priority, line: &str, fields: &[(&str, String)]) -> Vec<u8> {
    let mut entry = Vec::new();
    add(&mut entry, "MESSAGE", &format!("keepstate: {line}"));
    add(&mut entry, "PRIORITY", &(priority as u8).to_string());
    add(&mut entry, "SYSLOG_IDENTIFIER", "keepstate");
    for (name, value) in fields {
        if entry.len() + name.len() + value.len() + 10 <= ENTRY_BYTES_MAX {
            add(&mut entry, name, value);
        }
    }
    entry
}

/// A value with a line break is preceded by its length, eight bytes, the lowest first.
fn add(entry: &mut Vec<u8>, name: &str, value: &str) {
    entry.extend(name.as_bytes());
    if value.contains('\n') {
        entry.push(b'\n');
        entry.extend((value.len() as u64).to_le_bytes());
    } else {
        entry.push(b'=');
    }
    entry.extend(value.as_bytes());
    entry.push(b'\n');
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_entry_has_its_fields_and_a_line_break_makes_no_field() {
        let path = std::env::temp_dir().join(format!("keepstate-journal-{}", std::process::id()));
        let _ = std::fs::remove_file(&path);
        let listener = UnixDatagram::bind(&path).unwrap();
        let journal = Journal::at(&path);
        let fields = [
            ("KEEPSTATE_REASON", "policy_drop".to_owned()),
            ("KEEPSTATE_REQUEST", "a\nPRIORITY=0".to_owned()),
        ];
        assert!(journal.send(&entry(Priority::Notice, "a line", &fields)));
        let mut buffer = [0; 1024];
        let length = listener.recv(&mut buffer).unwrap();
        let mut wanted = b"MESSAGE=keepstate: a line\nPRIORITY=5\nSYSLOG_IDENTIFIER=keepstate\n\
            KEEPSTATE_REASON=policy_drop\nKEEPSTATE_REQUEST\n"
            .to_vec();
        wanted.extend([12, 0, 0, 0, 0, 0, 0, 0]);
        wanted.extend(b"a\nPRIORITY=0\n");
        assert_eq!(buffer[..length], wanted);
        // It listens again at the same place.
        drop(listener);
        std::fs::remove_file(&path).unwrap();
        assert!(!journal.send(b"MESSAGE=lost\n"));
        let listener = UnixDatagram::bind(&path).unwrap();
        assert!(journal.send(b"MESSAGE=heard\n"));
        assert_eq!(listener.recv(&mut buffer).unwrap(), 14);
        std::fs::remove_file(&path).unwrap();
    }
}
