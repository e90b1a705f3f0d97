//! The process that may connect to the daemon, and hands connections to the one that may not.

use std::io::{IoSlice, IoSliceMut, Read};
use std::mem::MaybeUninit;
use std::net::SocketAddr;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::process::{Command, ExitCode, Stdio};

use anyhow::{Context, bail};
use keepstate_api::{Client, ClientError, Hello, Instance, Reply, Request};
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, recvmsg, sendmsg,
};

/// Longest answer: a greeting or an error.
const ANSWER_BYTES_MAX: usize = 4096;

/// What the page may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Access {
    Ask,
    /// Who has the token may change things.
    Change,
}

/// What is served.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Pages {
    All(Access),
    /// `/metrics`, where no address stands.
    Metrics,
}

impl Pages {
    pub(super) const fn access(self) -> Access {
        match self {
            Self::All(access) => access,
            Self::Metrics => Access::Ask,
        }
    }
}

#[derive(Clone, Debug)]
pub(crate) struct Settings {
    pub(crate) instance: Instance,
    pub(crate) listen: SocketAddr,
    pub(crate) pages: Pages,
    /// User and group of the process that speaks HTTP.
    pub(crate) user: u32,
}

/// Starts the other process and serves it until it ends.
pub(crate) fn keep(settings: &Settings) -> anyhow::Result<ExitCode> {
    let (own, theirs) = UnixStream::pair()?;
    let mut command = Command::new("/proc/self/exe");
    command
        .arg(match settings.pages {
            Pages::All(_) => "web",
            Pages::Metrics => "metrics",
        })
        .args(["--worker", "--listen", &settings.listen.to_string()])
        .arg0("keepstate")
        .stdin(Stdio::from(OwnedFd::from(theirs)))
        .env_clear();
    if settings.pages.access() == Access::Change {
        command.arg("--allow-changes");
    }
    if rustix::process::geteuid().is_root() {
        // Supplementary groups go with the user.
        command.gid(settings.user).uid(settings.user);
    }
    let mut worker = command
        .spawn()
        .context("cannot start the process that serves")?;
    drop(command);
    let result = hand_out(settings, own);
    let status = worker.wait()?;
    result?;
    if !status.success() {
        bail!("the process that serves ended: {status}");
    }
    Ok(ExitCode::SUCCESS)
}

/// A connection for each byte.
fn hand_out(settings: &Settings, mut own: UnixStream) -> anyhow::Result<()> {
    let mut wish = [0];
    while own.read(&mut wish)? != 0 {
        match connect(settings) {
            Ok((stream, hello)) => send(&own, &serde_json::to_vec(&hello)?, Some(&stream))?,
            Err(error) => {
                let mut said = format!("{error:#}").into_bytes();
                said.truncate(ANSWER_BYTES_MAX);
                send(&own, &said, None)?;
            }
        }
    }
    Ok(())
}

fn connect(settings: &Settings) -> anyhow::Result<(UnixStream, Hello)> {
    let mut client = Client::connect(&settings.instance)?;
    if settings.pages.access() == Access::Ask {
        match client.ask(&Request::ReadOnly)? {
            Reply::Done => {}
            _ => return Err(ClientError::Unexpected.into()),
        }
    }
    Ok(client.into_parts()?)
}

fn send(own: &UnixStream, bytes: &[u8], stream: Option<&UnixStream>) -> anyhow::Result<()> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    let descriptors = stream.map(|stream| [stream.as_fd()]);
    if let Some(descriptors) = &descriptors {
        // The space is made for one.
        control.push(SendAncillaryMessage::ScmRights(descriptors));
    }
    sendmsg(
        own,
        &[IoSlice::new(bytes)],
        &mut control,
        SendFlags::NOSIGNAL,
    )?;
    Ok(())
}

/// The other end: asks for a connection.
pub(super) fn receive(broker: &UnixStream) -> anyhow::Result<Client> {
    rustix::io::write(broker, &[1]).context("the process that connects is gone")?;
    let mut bytes = vec![0; ANSWER_BYTES_MAX];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let mut parts = [IoSliceMut::new(&mut bytes)];
    let received = recvmsg(broker, &mut parts, &mut control, RecvFlags::CMSG_CLOEXEC)?;
    let descriptors = control.drain().filter_map(|message| match message {
        RecvAncillaryMessage::ScmRights(rights) => Some(rights),
        _ => None,
    });
    let descriptor = descriptors.flatten().next();
    let said = &bytes[..received.bytes];
    match descriptor {
        Some(descriptor) => {
            let hello = serde_json::from_slice(said)?;
            Ok(Client::from_parts(UnixStream::from(descriptor), hello)?)
        }
        None if said.is_empty() => bail!("the process that connects is gone"),
        None => bail!("{}", String::from_utf8_lossy(said)),
    }
}
