//! Where lines of LOG go: to the socket of syslog or journald, and where there is none to the standard error.

use std::os::unix::net::UnixDatagram;

const SOCKET: &str = "/dev/log";

/// Name that the lines come under, as the kernel's do.
const TAG: &str = "kernel";

pub(super) struct Log(Option<UnixDatagram>);

impl Log {
    pub(super) fn open() -> Self {
        Self(connect())
    }

    /// Writes a line of a level. Its facility is the kernel's (zero), so that what sorts the kernel's lines
    /// sorts these.
    pub(super) fn write(&mut self, level: u8, line: &str) {
        let text = format!("<{level}>{TAG}: {line}");
        let sent = |socket: &UnixDatagram| socket.send(text.as_bytes()).is_ok();
        if self.0.as_ref().is_some_and(sent) {
            return;
        }
        // The logger may have been started anew.
        self.0 = connect();
        if !self.0.as_ref().is_some_and(sent) {
            crate::complain!("<{level}>{line}");
        }
    }
}

fn connect() -> Option<UnixDatagram> {
    let socket = UnixDatagram::unbound().ok()?;
    socket.connect(SOCKET).ok()?;
    // A logger that does not read must not hold answers up.
    socket.set_nonblocking(true).ok()?;
    Some(socket)
}
