//! Clients of the control socket.

use std::io::{self, BufReader, BufWriter, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc::RecvTimeoutError;
use std::thread;
use std::time::Duration;

use keepstate_api::frame::{self, FrameError, REQUEST_BYTES_MAX};
use keepstate_api::{EventKinds, Failure, FailureKind, Hello, PROTOCOL, Reply, Request};
use rustix::net::RecvFlags;

use super::access::{self, Carried, Peer};
use super::{Ending, Shared, answer, commands, defence, handed, open, witnesses};
use crate::lock;

/// Clients at a time.
const CONNECTIONS_MAX: u32 = 64;

/// A client that sends nothing for so long, or does not read what it asked for, is hung up on.
const PATIENCE: Duration = Duration::from_secs(60);

/// How often a listener without events is looked after.
pub(super) const LISTENER_PATIENCE: Duration = Duration::from_millis(500);

/// Events that are written before the buffer is flushed, while more wait.
const EVENTS_PER_FLUSH: u32 = 256;

pub(super) type Output = BufWriter<UnixStream>;

/// Accepts clients until the server ends.
pub(super) fn accept(shared: &Arc<Shared>, listener: &UnixListener) {
    for stream in listener.incoming() {
        if shared.is_ending() {
            return;
        }
        match stream {
            Ok(stream) => welcome(shared, stream),
            // Out of descriptors, for instance: others may hang up meanwhile.
            Err(_) => thread::sleep(Duration::from_millis(50)),
        }
    }
}

fn welcome(shared: &Arc<Shared>, stream: UnixStream) {
    let tally = &shared.tally;
    tally.connections.fetch_add(1, Ordering::Relaxed);
    if open(tally) >= CONNECTIONS_MAX {
        tally.refused.fetch_add(1, Ordering::Relaxed);
        let mut stream = stream;
        let _ = stream.set_write_timeout(Some(Duration::from_millis(100)));
        let _ = frame::write(&mut stream, &hello(shared));
        let _ = frame::write(&mut stream, &failure(FailureKind::Busy, "too many clients"));
        return;
    }
    tally.open.fetch_add(1, Ordering::Relaxed);
    let theirs = Arc::clone(shared);
    let thread = thread::Builder::new().name("client".to_owned());
    let spawned = thread.spawn(move || {
        // Errors are the client's: it hung up, or does not read.
        let _ = serve(&theirs, stream);
        theirs.tally.open.fetch_sub(1, Ordering::Relaxed);
    });
    if spawned.is_err() {
        tally.open.fetch_sub(1, Ordering::Relaxed);
        tally.refused.fetch_add(1, Ordering::Relaxed);
    }
}

fn hello(shared: &Shared) -> Hello {
    Hello {
        protocol: PROTOCOL,
        version: env!("CARGO_PKG_VERSION").to_owned(),
        instance: shared.instance.as_str().to_owned(),
        pid: std::process::id(),
    }
}

pub(super) fn failure(kind: FailureKind, message: impl Into<String>) -> Reply {
    Reply::Failed(Failure {
        kind,
        message: message.into(),
    })
}

/// Answers one client until it hangs up.
fn serve(shared: &Arc<Shared>, stream: UnixStream) -> io::Result<()> {
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    let mut input = BufReader::new(stream.try_clone()?);
    let peer = Peer::of(&stream);
    let mut is_read_only = !lock(&shared.access).may_change(&peer);
    let mut output = BufWriter::new(stream);
    frame::write(&mut output, &hello(shared))?;
    output.flush()?;
    let mut told = handed::Told::default();
    loop {
        let request: Request = match frame::read(&mut input, REQUEST_BYTES_MAX) {
            Ok(Some(request)) => request,
            Ok(None) => return Ok(()),
            Err(FrameError::Malformed(error)) => {
                shared.tally.malformed.fetch_add(1, Ordering::Relaxed);
                frame::write(
                    &mut output,
                    &failure(FailureKind::Malformed, error.to_string()),
                )?;
                output.flush()?;
                continue;
            }
            Err(error @ FrameError::TooLong { .. }) => {
                shared.tally.malformed.fetch_add(1, Ordering::Relaxed);
                frame::write(
                    &mut output,
                    &failure(FailureKind::TooLong, error.to_string()),
                )?;
                return output.flush();
            }
            Err(_) => return Ok(()),
        };
        shared.tally.requests.fetch_add(1, Ordering::Relaxed);
        match request {
            // Every command says it: no line for that. Who may change nothing is not believed.
            Request::Session { session } => {
                if !is_read_only {
                    defence::note_session(shared, session);
                }
                frame::write(&mut output, &Reply::Done)?;
            }
            request if is_read_only && !commands::only_asks(&request) => {
                shared.tally.refused.fetch_add(1, Ordering::Relaxed);
                let message = "this connection may change nothing: root may, and whom the configuration names";
                access::tell(
                    &shared.journal,
                    &peer,
                    &access::words(&request),
                    Carried::Forbidden,
                );
                frame::write(&mut output, &failure(FailureKind::Forbidden, message))?;
            }
            Request::ReadOnly => {
                is_read_only = true;
                frame::write(&mut output, &Reply::Done)?;
            }
            Request::HandOver => told.tell(shared, &mut output)?,
            Request::Events { kinds } => return follow(shared, kinds, &mut output),
            Request::Packets { which } => return witnesses::follow(shared, which, &mut output),
            Request::Shutdown { leave } => {
                access::tell(
                    &shared.journal,
                    &peer,
                    &access::words(&request),
                    Carried::Done,
                );
                let client = Some(output.get_ref().try_clone()?);
                shared.end(Ending { leave, client });
                return Ok(());
            }
            request if commands::only_asks(&request) => {
                answer::answer(shared, request, &mut output).map(drop)?
            }
            request => {
                let words = access::words(&request);
                let carried = answer::answer(shared, request, &mut output);
                access::tell(
                    &shared.journal,
                    &peer,
                    &words,
                    *carried.as_ref().unwrap_or(&Carried::Failed),
                );
                carried?;
            }
        }
        output.flush()?;
    }
}

/// Tells events until the client hangs up or the server ends.
fn follow(shared: &Arc<Shared>, kinds: EventKinds, output: &mut Output) -> io::Result<()> {
    let subscription = shared.hub.subscribe(kinds);
    shared.update_wanted_events();
    let result = tell(shared, &subscription, output);
    shared.hub.unsubscribe(subscription.number);
    shared.update_wanted_events();
    result
}

fn tell(
    shared: &Shared,
    subscription: &super::events::Subscription,
    output: &mut Output,
) -> io::Result<()> {
    frame::write(output, &Reply::Listening)?;
    output.flush()?;
    let mut lost_in_kernel = answer::lost_in_kernel(shared);
    loop {
        match subscription.events.recv_timeout(LISTENER_PATIENCE) {
            Ok(first) => {
                frame::write(output, &Reply::Event(Box::new((*first).clone())))?;
                let more = subscription.events.try_iter();
                for event in more.take(EVENTS_PER_FLUSH as usize) {
                    frame::write(output, &Reply::Event(Box::new((*event).clone())))?;
                }
            }
            Err(RecvTimeoutError::Timeout) => {
                if shared.is_ending() || has_hung_up(output.get_ref()) {
                    return Ok(());
                }
            }
            Err(RecvTimeoutError::Disconnected) => return Ok(()),
        }
        let lost_now = answer::lost_in_kernel(shared);
        let lost = subscription.lost.swap(0, Ordering::Relaxed) + (lost_now - lost_in_kernel);
        lost_in_kernel = lost_now;
        if lost != 0 {
            frame::write(output, &Reply::EventsLost { count: lost })?;
        }
        output.flush()?;
    }
}

pub(super) fn has_hung_up(stream: &UnixStream) -> bool {
    let mut byte = [0; 1];
    let flags = RecvFlags::PEEK | RecvFlags::DONTWAIT;
    matches!(rustix::net::recv(stream, &mut byte, flags), Ok((0, _)))
}
