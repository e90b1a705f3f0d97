//! What a service manager is told (sd_notify(3)): a datagram of `NAME=value` lines to the socket that it names.

use std::io;
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::thread;
use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};

/// So long a manager that does not read is waited for: nothing else may hang on it, least of all the end.
const PATIENCE: Duration = Duration::from_secs(1);

/// The service manager, if there is one.
#[derive(Debug)]
pub(crate) struct Manager(Option<UnixDatagram>);

impl Manager {
    /// As the environment says.
    pub(crate) fn of_environment() -> Self {
        let path = std::env::var_os("NOTIFY_SOCKET");
        Self(path.and_then(|path| connect(path.as_bytes()).ok()))
    }

    pub(crate) fn try_clone(&self) -> io::Result<Self> {
        let socket = self.0.as_ref().map(UnixDatagram::try_clone);
        Ok(Self(socket.transpose()?))
    }

    pub(crate) fn ready(&self, status: &str) {
        self.tell(&format!("READY=1\nSTATUS={status}"));
    }

    /// Followed by [`Self::ready`].
    pub(crate) fn reloading(&self) {
        let now = clock_gettime(ClockId::Monotonic);
        let microseconds = now.tv_sec as u64 * 1_000_000 + now.tv_nsec as u64 / 1000;
        self.tell(&format!("RELOADING=1\nMONOTONIC_USEC={microseconds}"));
    }

    pub(crate) fn stopping(&self) {
        self.tell("STOPPING=1");
    }

    /// Tells it twice in each period that it waits for (WatchdogSec) that `is_alive`, which may hang if something
    /// does. The thread ends with the process.
    pub(crate) fn watch(&self, is_alive: impl Fn() -> bool + Send + 'static) -> io::Result<()> {
        let Some(period) = watchdog_period() else {
            return Ok(());
        };
        let manager = self.try_clone()?;
        let thread = thread::Builder::new().name("watchdog".to_owned());
        let spawned = thread.spawn(move || {
            loop {
                if is_alive() {
                    manager.tell("WATCHDOG=1");
                }
                thread::sleep(period / 2);
            }
        });
        spawned.map(drop)
    }

    /// Errors are its own: it may be gone, or not read.
    fn tell(&self, text: &str) {
        if let Some(socket) = &self.0 {
            let _ = socket.send(text.as_bytes());
        }
    }
}

fn connect(path: &[u8]) -> io::Result<UnixDatagram> {
    let address = match path {
        [b'@', name @ ..] => SocketAddr::from_abstract_name(name)?,
        path => SocketAddr::from_pathname(std::ffi::OsStr::from_bytes(path))?,
    };
    let socket = UnixDatagram::unbound()?;
    socket.set_write_timeout(Some(PATIENCE))?;
    socket.connect_addr(&address)?;
    Ok(socket)
}

/// `None` where nobody waits for this process.
fn watchdog_period() -> Option<Duration> {
    let number = |name| std::env::var(name).ok()?.parse::<u64>().ok();
    let is_meant = number("WATCHDOG_PID").is_none_or(|pid| pid == u64::from(std::process::id()));
    let microseconds = number("WATCHDOG_USEC").filter(|period| *period != 0 && is_meant)?;
    Some(Duration::from_micros(microseconds))
}
