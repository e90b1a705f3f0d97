//! The program of the daemon before, which tells what it has kept.

use std::fs::{self, File};
use std::io::{self, Read};
use std::os::fd::AsRawFd;
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::thread;

use keepstate_api::{Instance, Shutdown};
use rustix::fs::MemfdFlags;

use crate::kernel::{Kernel, TEST_LAYOUT, layout, pinned_build};
use crate::kernel_plane::KernelPlane;
use crate::run::RunError;
use crate::server::{Access, Plane, Rules, Server};

/// The hidden subcommand that [`tell`] is.
const SUBCOMMAND: &str = "hand-over";

/// Answers as a daemon would on what is pinned in a directory, on a socket, until the standard input ends. Without a
/// socket only whether it could.
pub fn tell(instance: &Instance, pins: &Path, socket: Option<&Path>) -> Result<bool, RunError> {
    if !matches!(pinned_build(pins)?, Some((found, _)) if found == layout()) {
        return Ok(false);
    }
    let Some(socket) = socket else {
        return Ok(true);
    };
    let plane: Arc<dyn Plane> = Arc::new(KernelPlane::new(Kernel::adopt(pins)?, pins.to_owned())?);
    let rules = Arc::new(Rules::new(instance.state_directory()));
    rules.recall(&*plane)?;
    let server = Server::tell(instance.clone(), socket, plane, rules, Access::default())?;
    let stopper = server.stopper();
    thread::spawn(move || {
        let _ = io::stdin().read_to_end(&mut Vec::new());
        stopper.stop(Shutdown::Filtering);
    });
    server.wait();
    Ok(true)
}

/// Keeps a copy of a program for the next daemon.
pub(crate) fn keep(program: &Path, instance: &Instance) -> io::Result<()> {
    let kept = instance.program();
    if program == kept {
        return Ok(());
    }
    let next = kept.with_extension("next");
    let mut from = File::open(program)?;
    let mut to = File::options()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o700)
        .open(&next)?;
    io::copy(&mut from, &mut to)?;
    drop(to);
    fs::rename(next, kept)
}

/// The program of the daemon that runs, if one does.
pub(super) fn running(instance: &Instance) -> Option<PathBuf> {
    let stream = UnixStream::connect(instance.socket()).ok()?;
    let peer = rustix::net::sockopt::socket_peercred(&stream).ok()?;
    Some(format!("/proc/{}/exe", peer.pid.as_raw_nonzero()).into())
}

/// Whether a program can tell what is pinned in a directory.
pub(super) fn knows(program: &Path, pins: &Path) -> bool {
    let Ok(image) = image(program) else {
        return false;
    };
    // The daemon may write to few files, and /dev/null is none of them.
    let output = bare(&image).arg("--pins").arg(pins).output();
    output.is_ok_and(|output| output.status.success())
}

/// A copy of a program in memory, which can be started wherever the file lies.
pub(super) fn image(program: &Path) -> io::Result<File> {
    let memory = rustix::fs::memfd_create("keepstate", MemfdFlags::CLOEXEC)?;
    let mut image = File::from(memory);
    io::copy(&mut File::open(program)?, &mut image)?;
    Ok(image)
}

fn bare(image: &File) -> Command {
    let mut command = Command::new(format!("/proc/self/fd/{}", image.as_raw_fd()));
    command.arg(SUBCOMMAND).env_remove(TEST_LAYOUT);
    command
}

/// It, to be told the socket on which to answer.
pub(super) fn command(image: &File, instance: &Instance) -> Command {
    let mut command = bare(image);
    command
        .arg("--instance")
        .arg(instance.as_str())
        .arg("--pins")
        .arg(instance.pins_before())
        .arg("--socket");
    command
}
