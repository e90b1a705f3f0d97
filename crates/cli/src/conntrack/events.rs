//! `-E`: what happens, while it happens.

use keepstate_api::{ClientError, EventKind, EventKinds, Reply, Request};
use keepstate_listing::Telling;

use super::act::Session;
use super::invocation::Invocation;
use super::problem::Problem;
use crate::output::stdout;

use std::io::Write;

/// Tells events until it is interrupted.
pub(super) fn follow(session: &mut Session, invocation: &Invocation) -> Result<(), Problem> {
    let filter = invocation.filter()?;
    let kinds = EventKinds::Flows;
    let client = session.client()?;
    match client.ask(&Request::Events { kinds })? {
        Reply::Listening => {}
        _ => return Err(ClientError::Unexpected.into()),
    }
    let mut out = stdout();
    loop {
        let event = match client.reply()? {
            Reply::Event(event) => event,
            Reply::EventsLost { count } => {
                eprintln!("WARNING: {count} events were lost.");
                continue;
            }
            _ => return Err(ClientError::Unexpected.into()),
        };
        if !filter.matches(&event.flow) {
            continue;
        }
        let telling = match event.kind {
            EventKind::New => Telling::New,
            EventKind::Update => Telling::Updated,
            EventKind::Destroy => Telling::Ended,
            EventKind::Drop | EventKind::Invalid => continue,
        };
        let style = invocation.output.style(telling, 1);
        invocation.output.print(&mut out, &event.flow, style, "")?;
        out.flush()?;
    }
}

/// Nothing expects flows: there is nothing to tell until it is interrupted.
pub(super) fn wait_for_expectations() -> Result<(), Problem> {
    loop {
        std::thread::park();
    }
}
