//! The other end of the control socket.

use std::io::{self, BufReader, BufWriter, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::flow::Flow;
use crate::frame::{self, FrameError, REPLY_BYTES_MAX};
use crate::instance::Instance;
use crate::message::{Failure, Hello, PROTOCOL, Reply, Request};

/// Why a daemon could not be asked.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ClientError {
    #[error("no daemon is running (nobody listens on {0})")]
    NotRunning(PathBuf),
    #[error("the socket {0} belongs to root")]
    Forbidden(PathBuf),
    #[error("cannot connect to {path}")]
    Connect {
        path: PathBuf,
        #[source]
        error: io::Error,
    },
    #[error("the daemon speaks version {found} of the protocol and this program {PROTOCOL}")]
    Version { found: u32 },
    #[error("the daemon hung up")]
    HungUp,
    #[error("the daemon cannot be understood")]
    Frame(#[from] FrameError),
    #[error(transparent)]
    Refused(#[from] Failure),
    #[error("the daemon answered something else than was asked")]
    Unexpected,
}

/// A connection to a daemon. Calls block.
#[derive(Debug)]
pub struct Client {
    input: BufReader<UnixStream>,
    output: BufWriter<UnixStream>,
    hello: Hello,
}

impl Client {
    /// Connects to the daemon of an instance.
    pub fn connect(instance: &Instance) -> Result<Self, ClientError> {
        Self::connect_to(&instance.socket())
    }

    pub fn connect_to(path: &Path) -> Result<Self, ClientError> {
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
        let mut input = BufReader::new(stream.try_clone().map_err(FrameError::Io)?);
        let hello: Hello = frame::read(&mut input, REPLY_BYTES_MAX)?.ok_or(ClientError::HungUp)?;
        if hello.protocol != PROTOCOL {
            return Err(ClientError::Version {
                found: hello.protocol,
            });
        }
        Ok(Self {
            input,
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
}
