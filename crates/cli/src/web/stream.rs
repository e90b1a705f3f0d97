//! Events for a page, as they come (server-sent events).

use std::io::Write;
use std::time::Duration;

use keepstate_api::{Client, ClientError, EventKinds, Expression, Reply, Request, Subject};

const HEAD: &str = "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nCache-Control: no-store\r\n\
                    X-Content-Type-Options: nosniff\r\nConnection: close\r\n\r\n";

/// A page that was closed is found out by writing to it.
const SILENCE_MAX: Duration = Duration::from_secs(5);

/// Tells until the page or the daemon is gone. Without a filter, dropped and INVALID packets.
pub(super) fn tell(
    mut client: Client,
    filter: Option<&Expression>,
    mut page: impl Write,
) -> anyhow::Result<()> {
    let kinds = match filter {
        Some(_) => EventKinds::All,
        None => EventKinds::Drops,
    };
    client.ask(&Request::Events { kinds })?;
    client.set_patience(Some(SILENCE_MAX))?;
    page.write_all(HEAD.as_bytes())?;
    page.flush()?;
    loop {
        match client.reply() {
            Ok(Reply::Event(event)) => {
                if filter.is_none_or(|filter| filter.matches(&Subject::of_event(&event))) {
                    let colour = crate::output::Colour::Off;
                    let line = crate::commands::events::line(&event, colour);
                    let told = serde_json::json!({ "event": event, "line": line });
                    write!(page, "data: {told}\n\n")?;
                    page.flush()?;
                }
            }
            Ok(Reply::EventsLost { count }) => {
                write!(page, "data: {{\"lost\":{count}}}\n\n")?;
                page.flush()?;
            }
            // What was read of a line before the time was up stays: lines are short and come whole.
            Err(ClientError::Silent) => {
                page.write_all(b": nothing yet\n\n")?;
                page.flush()?;
            }
            Ok(_) => {}
            Err(error) => return Err(error.into()),
        }
    }
}
