//! The table `expect`.

use std::io::Write;
use std::sync::atomic::Ordering;
use std::sync::mpsc::{RecvTimeoutError, sync_channel};
use std::thread;

use keepstate_api::{ClientError, EventKind, EventKinds, Expectation, Reply, Request};
use keepstate_listing::Telling;

use super::act::{Session, connect};
use super::events::{PATIENCE, interruption};
use super::invocation::Invocation;
use super::output::Frame;
use super::problem::{BANNER, Problem};
use crate::output::stdout;

/// What conntrack says when there is none.
const MISSING: &str = "No such file or directory";

impl Session {
    /// `-L expect`; of IPv4 unless told otherwise, as with conntrack.
    pub(super) fn list_expected(&mut self, invocation: &Invocation) -> Result<(), Problem> {
        let mut out = stdout();
        let mut frame = Frame::new(&invocation.output, "expect");
        let family = invocation.family_filter().family;
        let family = Some(family.unwrap_or_else(|| "ipv4".to_owned()));
        self.count = self.expectations(family, |expectation| {
            frame.open(&mut out)?;
            print(&mut out, invocation, expectation, Telling::Listed)?;
            Ok(())
        })?;
        frame.close(&mut out)?;
        Ok(out.flush()?)
    }

    pub(super) fn count_expected(&mut self) -> Result<(), Problem> {
        let count = self.expectations(Some("ipv4".to_owned()), |_| Ok(()))?;
        Ok(writeln!(stdout(), "{count}")?)
    }

    pub(super) fn get_expected(&mut self, invocation: &Invocation) -> Result<(), Problem> {
        let query = invocation.original_packet()?;
        match self.ask(&Request::FindExpectation { query })? {
            Reply::Expectation(expectation) => {
                let mut out = stdout();
                Frame::new(&invocation.output, "expect").open(&mut out)?;
                print(&mut out, invocation, &expectation, Telling::Listed)?;
                Ok(out.flush()?)
            }
            Reply::Unable { .. } => Err(Problem::failed(MISSING)),
            _ => Err(ClientError::Unexpected.into()),
        }
    }

    pub(super) fn delete_expected(&mut self, invocation: &Invocation) -> Result<(), Problem> {
        let query = invocation.original_packet()?;
        match self.ask(&Request::RemoveExpectation { query })? {
            Reply::Done => Ok(()),
            Reply::Unable { .. } => Err(Problem::failed(MISSING)),
            _ => Err(ClientError::Unexpected.into()),
        }
    }

    pub(super) fn flush_expected(&mut self) -> Result<(), Problem> {
        match self.ask(&Request::FlushExpectations)? {
            Reply::Done => {
                eprintln!("{BANNER}: expectation table has been emptied.");
                Ok(())
            }
            _ => Err(ClientError::Unexpected.into()),
        }
    }

    /// Shows `each` the expectations of a family; how many there are.
    fn expectations(
        &mut self,
        family: Option<String>,
        mut each: impl FnMut(&Expectation) -> Result<(), Problem>,
    ) -> Result<u64, Problem> {
        self.client()?.send(&Request::Expectations { family })?;
        loop {
            match self.client()?.reply()? {
                Reply::Expectation(expectation) => each(&expectation)?,
                Reply::FlowsEnd { shown } => return Ok(shown),
                _ => return Err(ClientError::Unexpected.into()),
            }
        }
    }
}

/// Events that wait to be printed; what comes beyond is lost, and counted.
const QUEUE_EVENTS: usize = 4096;

/// `-E expect`: tells what is expected and what is not any more, until it is interrupted.
pub(super) fn follow(invocation: &Invocation) -> Result<(), Problem> {
    let interrupted = interruption()?;
    let mut client = connect()?;
    let kinds = EventKinds::Expectations;
    match client.ask(&Request::Events { kinds })? {
        Reply::Listening => {}
        _ => return Err(ClientError::Unexpected.into()),
    }
    let (queue, replies) = sync_channel(QUEUE_EVENTS);
    thread::spawn(move || {
        // Ends with the daemon, or when nobody listens any more.
        while queue.send(client.reply()).is_ok() {}
    });
    let mut out = stdout();
    let mut frame = Frame::new(&invocation.output, "expect");
    let mut count = 0_u64;
    while !interrupted.load(Ordering::Relaxed) {
        let event = match replies.recv_timeout(PATIENCE) {
            Ok(Ok(Reply::Event(event))) => event,
            Ok(Ok(Reply::EventsLost { count })) => {
                eprintln!("{BANNER}: WARNING: {count} events were lost.");
                continue;
            }
            Ok(Ok(_)) => return Err(ClientError::Unexpected.into()),
            Ok(Err(error)) => return Err(error.into()),
            Err(RecvTimeoutError::Timeout) => {
                out.flush()?;
                continue;
            }
            Err(RecvTimeoutError::Disconnected) => break,
        };
        let Some(expectation) = &event.expectation else {
            continue;
        };
        let telling = match event.kind {
            EventKind::Unexpected => Telling::Ended,
            _ => Telling::New,
        };
        frame.open(&mut out)?;
        print(&mut out, invocation, expectation, telling)?;
        count += 1;
    }
    frame.close(&mut out)?;
    out.flush()?;
    eprintln!("{BANNER}: {count} expectation events have been shown.");
    Ok(())
}

fn print(
    out: &mut impl Write,
    invocation: &Invocation,
    expectation: &Expectation,
    telling: Telling,
) -> std::io::Result<()> {
    let output = &invocation.output;
    let mut style = output.style(telling, 1);
    let listed = expectation.to_listing();
    if output.json {
        serde_json::to_writer(&mut *out, expectation)?;
        return writeln!(out);
    }
    if output.xml {
        style.when = output.timestamp;
        return writeln!(out, "{}", listed.xml(style));
    }
    if output.timestamp {
        let (seconds, rest) = (style.now_ns / 1_000_000_000, style.now_ns % 1_000_000_000);
        write!(out, "[{seconds}.{:<6}]\t", rest / 1000)?;
    }
    writeln!(out, "{}", listed.line(style))
}
