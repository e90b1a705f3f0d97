//! The other end of the control socket.

use std::io::{self, BufReader, BufWriter, Write};
use std::ops::RangeInclusive;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use crate::flow::Flow;
use crate::frame::{self, FrameError, REPLY_BYTES_MAX};
use crate::instance::Instance;
use crate::message::{Failure, Hello, PROTOCOL, PROTOCOLS_OF_HAND_OVER, Reply, Request};
use crate::meter::{MeterEntry, MeterList};
use crate::session::Session;

/// How long a daemon that hangs up before it has said anything may take to be gone: while a process
/// dies its socket takes connections that nobody will answer.
const DYING_PATIENCE: Duration = Duration::from_secs(5);

/// How long a daemon may take to greet: one that was stopped or hangs never does.
const GREETING_PATIENCE: Duration = Duration::from_secs(20);

/// Why a daemon could not be asked.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ClientError {
    #[error("no daemon is running (nobody listens on {0})")]
    NotRunning(PathBuf),
    #[error(
        "the socket {0} belongs to root, and to the group that keepstate.toml names: be one of them"
    )]
    Forbidden(PathBuf),
    #[error("cannot connect to {path}")]
    Connect {
        path: PathBuf,
        #[source]
        error: io::Error,
    },
    #[error(
        "the daemon is of another version (it speaks version {found} of the protocol, this program {PROTOCOL}): \
         `keepstate up --check` says whether this one can take over from it, by `systemctl restart keepstate`, \
         or by SIGTERM and `keepstate up`"
    )]
    Version { found: u32 },
    #[error("the daemon hung up")]
    HungUp,
    #[error("the daemon does not answer")]
    Silent,
    #[error("the daemon cannot be understood")]
    Frame(#[source] FrameError),
    #[error(transparent)]
    Refused(#[from] Failure),
    #[error("the daemon answered something else than was asked")]
    Unexpected,
}

impl From<FrameError> for ClientError {
    fn from(error: FrameError) -> Self {
        match error {
            FrameError::Cut => Self::HungUp,
            FrameError::Io(error) if is_hang_up(&error) => Self::HungUp,
            // How a socket says that a time is up.
            FrameError::Io(error) if error.kind() == io::ErrorKind::WouldBlock => Self::Silent,
            error => Self::Frame(error),
        }
    }
}

/// Whether a connection ended because the other end is no more.
fn is_hang_up(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe | io::ErrorKind::NotConnected
    )
}

/// A connection to a daemon. Calls block.
#[derive(Debug)]
pub struct Client {
    input: BufReader<UnixStream>,
    output: BufWriter<UnixStream>,
    hello: Hello,
}

impl Client {
    /// Connects to the daemon of an instance. It is told which session of SSH this program runs in, so that
    /// the defence leaves that alone.
    pub fn connect(instance: &Instance) -> Result<Self, ClientError> {
        let mut client = Self::connect_to(&instance.socket())?;
        if let Some(session) = Session::own() {
            client.ask(&Request::Session { session })?;
        }
        Ok(client)
    }

    /// A daemon that is dying is waited for, until nobody listens any more.
    pub fn connect_to(path: &Path) -> Result<Self, ClientError> {
        Self::connect_by(path, PROTOCOL..=PROTOCOL)
    }

    /// As [`Self::connect_to`], to what tells what a daemon of an earlier version has kept.
    pub fn connect_to_teller(path: &Path) -> Result<Self, ClientError> {
        Self::connect_by(path, PROTOCOLS_OF_HAND_OVER)
    }

    fn connect_by(path: &Path, protocols: RangeInclusive<u32>) -> Result<Self, ClientError> {
        let deadline = Instant::now() + DYING_PATIENCE;
        loop {
            match Self::greet(path, GREETING_PATIENCE, &protocols) {
                Err(ClientError::HungUp) if Instant::now() < deadline => {
                    thread::sleep(Duration::from_millis(10));
                }
                result => return result,
            }
        }
    }

    fn greet(
        path: &Path,
        patience: Duration,
        protocols: &RangeInclusive<u32>,
    ) -> Result<Self, ClientError> {
        let stream = UnixStream::connect(path).map_err(|error| match error.kind() {
            io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused => {
                ClientError::NotRunning(path.to_owned())
            }
            io::ErrorKind::PermissionDenied => ClientError::Forbidden(path.to_owned()),
            _ => ClientError::Connect {
                path: path.to_owned(),
                error,
            },
        })?;
        stream
            .set_read_timeout(Some(patience))
            .map_err(FrameError::Io)?;
        let mut input = BufReader::new(stream.try_clone().map_err(FrameError::Io)?);
        let hello: Hello = frame::read(&mut input, REPLY_BYTES_MAX)?.ok_or(ClientError::HungUp)?;
        if !protocols.contains(&hello.protocol) {
            return Err(ClientError::Version {
                found: hello.protocol,
            });
        }
        stream.set_read_timeout(None).map_err(FrameError::Io)?;
        Ok(Self {
            input,
            output: BufWriter::new(stream),
            hello,
        })
    }

    /// The connection once more, to end it from another thread that does not wait for a reply.
    pub fn hang_up_handle(&self) -> io::Result<UnixStream> {
        self.input.get_ref().try_clone()
    }

    /// The connection, for another process to go on with; between two conversations nothing is buffered.
    pub fn into_parts(self) -> io::Result<(UnixStream, Hello)> {
        let stream = self.output.into_inner().map_err(io::Error::from)?;
        Ok((stream, self.hello))
    }

    /// A connection that another process has made.
    pub fn from_parts(stream: UnixStream, hello: Hello) -> io::Result<Self> {
        Ok(Self {
            input: BufReader::new(stream.try_clone()?),
            output: BufWriter::new(stream),
            hello,
        })
    }

    pub const fn hello(&self) -> &Hello {
        &self.hello
    }

    /// How long [`Self::reply`] waits; `None` for ever.
    pub fn set_patience(&self, patience: Option<Duration>) -> io::Result<()> {
        self.input.get_ref().set_read_timeout(patience)
    }

    /// Asks, and waits for the first reply.
    pub fn ask(&mut self, request: &Request) -> Result<Reply, ClientError> {
        self.send(request)?;
        self.reply()
    }

    pub fn send(&mut self, request: &Request) -> Result<(), ClientError> {
        frame::write(&mut self.output, request).map_err(FrameError::Io)?;
        self.output.flush().map_err(FrameError::Io)?;
        Ok(())
    }

    /// The next reply. A failure is an error.
    pub fn reply(&mut self) -> Result<Reply, ClientError> {
        let reply = frame::read(&mut self.input, REPLY_BYTES_MAX)?;
        match reply.ok_or(ClientError::HungUp)? {
            Reply::Failed(failure) => Err(failure.into()),
            reply => Ok(reply),
        }
    }

    /// Lists flows; returns how many there were.
    pub fn flows<E: From<ClientError>>(
        &mut self,
        request: &Request,
        mut show: impl FnMut(Flow) -> Result<(), E>,
    ) -> Result<u64, E> {
        self.send(request)?;
        loop {
            match self.reply()? {
                Reply::Flow(flow) => show(*flow)?,
                Reply::FlowsEnd { shown } => return Ok(shown),
                _ => return Err(ClientError::Unexpected.into()),
            }
        }
    }

    /// Lists what rules remember of sources.
    pub fn meter<E: From<ClientError>>(
        &mut self,
        list: MeterList,
        mut show: impl FnMut(MeterEntry) -> Result<(), E>,
    ) -> Result<(), E> {
        self.send(&Request::MeterEntries { list })?;
        loop {
            match self.reply()? {
                Reply::MeterEntry { entry } => show(entry)?,
                Reply::FlowsEnd { .. } => return Ok(()),
                _ => return Err(ClientError::Unexpected.into()),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixListener;

    use super::*;

    struct Socket(PathBuf);

    impl Socket {
        fn new(label: &str) -> Self {
            let name = format!("keepstate-client-{label}-{}", std::process::id());
            Self(std::env::temp_dir().join(name))
        }
    }

    impl Drop for Socket {
        fn drop(&mut self) {
            let _ = std::fs::remove_file(&self.0);
        }
    }

    #[test]
    fn a_daemon_that_dies_unasked_is_not_running() {
        let socket = Socket::new("dies");
        let listener = UnixListener::bind(&socket.0).unwrap();
        let path = socket.0.clone();
        let client = thread::spawn(move || Client::connect_to(&path));
        // One client is hung up on, another waits to be accepted, when the socket goes.
        drop(listener.accept().unwrap());
        thread::sleep(Duration::from_millis(100));
        drop(listener);
        let error = client.join().unwrap().unwrap_err();
        assert!(matches!(error, ClientError::NotRunning(_)), "{error}");
    }

    #[test]
    fn a_daemon_that_hangs_is_not_waited_for() {
        let socket = Socket::new("hangs");
        let _listener = UnixListener::bind(&socket.0).unwrap();
        let error = Client::greet(&socket.0, Duration::from_millis(50), &(PROTOCOL..=PROTOCOL))
            .unwrap_err();
        assert!(matches!(error, ClientError::Silent), "{error}");
    }

    #[test]
    fn a_daemon_that_dies_within_a_conversation_has_hung_up() {
        let socket = Socket::new("hangs-up");
        let listener = UnixListener::bind(&socket.0).unwrap();
        let path = socket.0.clone();
        let client = thread::spawn(move || {
            let mut client = Client::connect_to(&path).unwrap();
            client.ask(&Request::Status).unwrap_err()
        });
        let (mut stream, _) = listener.accept().unwrap();
        let hello = Hello {
            protocol: PROTOCOL,
            version: String::new(),
            instance: String::new(),
            pid: 1,
        };
        frame::write(&mut stream, &hello).unwrap();
        drop(stream);
        let error = client.join().unwrap();
        assert!(matches!(error, ClientError::HungUp), "{error}");
    }
}
