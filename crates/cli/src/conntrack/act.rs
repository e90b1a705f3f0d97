//! What the commands do.

use std::io::Write;

use keepstate_api::{Client, ClientError, Flow, Instance, Reply, Request, Unable};
use keepstate_listing::{Style, Telling};

use super::invocation::{Invocation, Table};
use super::options::Command;
use super::output::Frame;
use super::problem::{BANNER, Problem, refusal};
use super::{stats, usage};
use crate::output::stdout;
use crate::progress::while_waiting;

type Out = std::io::BufWriter<std::io::StdoutLock<'static>>;

/// Names the daemon that is meant, where several run: conntrack's own options have no room for it.
const INSTANCE_VARIABLE: &str = "KEEPSTATE_INSTANCE";

/// How many hold a record that is listed, and one that was looked up for whoever asked: the
/// kernel shows these numbers.
const LISTED: u32 = 1;
const LOOKED_UP: u32 = 2;

/// A connection that is made when it is needed, and how many flows were shown over it.
#[derive(Default)]
pub(super) struct Session {
    client: Option<Client>,
    pub(super) count: u64,
}

impl Session {
    pub(super) fn client(&mut self) -> Result<&mut Client, Problem> {
        if self.client.is_none() {
            self.client = Some(connect()?);
        }
        self.client
            .as_mut()
            .ok_or_else(|| Problem::failed("no connection"))
    }

    pub(super) fn ask(&mut self, request: &Request) -> Result<Reply, Problem> {
        Ok(self.client()?.ask(request)?)
    }

    /// Does what a command line says.
    pub(super) fn run(&mut self, invocation: &Invocation) -> Result<(), Problem> {
        let Some(command) = invocation.command else {
            return Ok(usage::print(invocation)?);
        };
        match command {
            Command::List => self.list(invocation),
            Command::Get => self.get(invocation),
            Command::Create | Command::Add => self.create(invocation, command),
            Command::Update => self.update(invocation),
            Command::Delete => self.delete(invocation),
            Command::Flush => self.flush(invocation),
            Command::Count => self.count_flows(),
            Command::Event => super::events::follow(self, invocation),
            Command::Stats => stats::flows(self.ask(&Request::Status)?),
            Command::StatsExpected => stats::expectations(self.ask(&Request::Status)?),
            Command::Version => Ok(writeln!(stdout(), "{BANNER}")?),
            Command::Help => Ok(usage::print(invocation)?),
            Command::ListExpected => self.list_expected(invocation),
            Command::CountExpected => self.count_expected(),
            Command::FlushExpected => self.flush_expected(),
            Command::CreateExpected => self.create_expected(invocation),
            Command::GetExpected => self.get_expected(invocation),
            Command::DeleteExpected => self.delete_expected(invocation),
            Command::EventExpected => super::expected::follow(invocation),
        }
    }

    fn list(&mut self, invocation: &Invocation) -> Result<(), Problem> {
        if invocation.table != Table::Conntrack {
            // A record is made when the rules have accepted its packet, and is gone when it ends.
            return Ok(());
        }
        if invocation.given.has('z') && invocation.given.has_any("psdrqmcuiwl()") {
            return Err(Problem::usage("Can't use -z with filtering parameters"));
        }
        let filter = invocation.filter()?;
        let names_no_bit = filter.status.set.is_empty() && filter.status.unset.is_empty();
        if invocation.given.has('u') && names_no_bit {
            return Err(Problem::failed(refusal(Unable::Invalid)));
        }
        let request = if invocation.given.has('z') {
            Request::ResetCounters { filter }
        } else {
            Request::Flows { filter }
        };
        let mut out = stdout();
        let mut frame = Frame::new(&invocation.output, "conntrack");
        let style = labelled(invocation, invocation.output.style(Telling::Listed, LISTED));
        self.count = self.client()?.flows(&request, |flow: Flow| {
            frame.open(&mut out)?;
            invocation.output.print(&mut out, &flow, style, "")?;
            Ok::<_, Problem>(())
        })?;
        frame.close(&mut out)?;
        Ok(out.flush()?)
    }

    fn get(&mut self, invocation: &Invocation) -> Result<(), Problem> {
        let query = invocation.original_packet()?;
        let flow = match self.ask(&Request::Find { query })? {
            Reply::Flow(flow) => flow,
            Reply::Unable { why } => return Err(Problem::failed(refusal(why))),
            _ => return Err(ClientError::Unexpected.into()),
        };
        // The packet may be one of the other direction: then the flow is not what was named.
        if !invocation.filter()?.matches(&flow) {
            return Ok(());
        }
        self.count = 1;
        let mut out = stdout();
        let mut frame = Frame::new(&invocation.output, "conntrack");
        frame.open(&mut out)?;
        let style = labelled(
            invocation,
            invocation.output.style(Telling::Listed, LOOKED_UP),
        );
        invocation.output.print(&mut out, &flow, style, "")?;
        Ok(out.flush()?)
    }

    fn create(&mut self, invocation: &Invocation, command: Command) -> Result<(), Problem> {
        let flow = invocation.new_flow()?;
        match self.ask(&Request::Insert { flow })? {
            Reply::Done => {
                self.count += 1;
                Ok(())
            }
            Reply::Unable {
                why: Unable::Exists,
            } if command == Command::Add => Ok(()),
            Reply::Unable { why } => Err(Problem::failed(refusal(why))),
            _ => Err(ClientError::Unexpected.into()),
        }
    }

    fn update(&mut self, invocation: &Invocation) -> Result<(), Problem> {
        let request = Request::Change {
            filter: invocation.filter_by_tuples()?,
            change: invocation.change(),
        };
        let style = invocation.output.style(Telling::Listed, LOOKED_UP);
        let ends = invocation.change().seconds == Some(0);
        let mut ended = 0;
        self.tell(&request, |out, flow| {
            // Looked for once more, as conntrack does, a flow whose time is over is not found.
            if ends {
                ended += 1;
                return Ok(());
            }
            invocation.output.print(out, flow, style, "")
        })?;
        self.count -= ended;
        Ok(())
    }

    fn delete(&mut self, invocation: &Invocation) -> Result<(), Problem> {
        let filter = invocation.filter()?;
        let output = &invocation.output;
        let telling = if output.save {
            Telling::Ended
        } else {
            Telling::Listed
        };
        // It prints no labels of what it deletes, not even with `-o labels`.
        let style = Style {
            label_name: None,
            ..output.style(telling, LISTED)
        };
        self.tell(&Request::Remove { filter }, |out, flow| {
            output.print(out, flow, style, "")
        })
    }

    /// Shows flows until the daemon says that there are no more, or why it stopped.
    fn tell(
        &mut self,
        request: &Request,
        mut print: impl FnMut(&mut Out, &Flow) -> std::io::Result<()>,
    ) -> Result<(), Problem> {
        let mut out = stdout();
        self.client()?.send(request)?;
        loop {
            match self.client()?.reply()? {
                Reply::Flow(flow) => {
                    self.count += 1;
                    print(&mut out, &flow)?;
                }
                Reply::FlowsEnd { .. } => return Ok(out.flush()?),
                Reply::Unable { why } => {
                    out.flush()?;
                    return Err(Problem::failed(refusal(why)));
                }
                _ => return Err(ClientError::Unexpected.into()),
            }
        }
    }

    fn flush(&mut self, invocation: &Invocation) -> Result<(), Problem> {
        let filter = invocation.family_filter();
        let request = Request::Flush { filter };
        match while_waiting("emptying the table", || self.ask(&request))? {
            Reply::FlowsEnd { .. } => {
                eprintln!("{BANNER}: connection tracking table has been emptied.");
                Ok(())
            }
            _ => Err(ClientError::Unexpected.into()),
        }
    }

    fn count_flows(&mut self) -> Result<(), Problem> {
        match self.ask(&Request::Status)? {
            Reply::Status(status) => Ok(writeln!(stdout(), "{}", status.table.flows)?),
            _ => Err(ClientError::Unexpected.into()),
        }
    }

    fn create_expected(&mut self, invocation: &Invocation) -> Result<(), Problem> {
        let expectation = invocation.new_expectation()?;
        let why = match self.ask(&Request::InsertExpectation { expectation })? {
            Reply::Done => return Ok(()),
            Reply::Unable { why } => why,
            _ => return Err(ClientError::Unexpected.into()),
        };
        Err(Problem::failed(match why {
            Unable::Missing => "master conntrack not found",
            Unable::Exists => "File exists",
            why => refusal(why),
        }))
    }
}

/// Flows that are looked for by their labels are shown with them.
fn labelled(invocation: &Invocation, style: Style) -> Style {
    let asked = invocation.given.has('l');
    Style {
        label_name: style.label_name.or(asked.then_some(super::labels::name)),
        ..style
    }
}

/// A connection to the daemon that the environment names.
pub(super) fn connect() -> Result<Client, Problem> {
    let name = std::env::var(INSTANCE_VARIABLE).unwrap_or_else(|_| "default".to_owned());
    let instance: Instance = name
        .parse()
        .map_err(|error| Problem::Other(format!("{INSTANCE_VARIABLE}: {error}")))?;
    Ok(Client::connect(&instance)?)
}

/// What is said at the end, and whether the command counts as done.
pub(super) fn summary(command: Command, count: u64) -> Option<(String, bool)> {
    let what = match command {
        Command::List | Command::Get => "flow entries have been shown",
        Command::Create => "flow entries have been created",
        Command::Add => "flow entries have been added",
        Command::Update => "flow entries have been updated",
        Command::Delete => "flow entries have been deleted",
        Command::Event => "flow events have been shown",
        Command::ListExpected | Command::DeleteExpected => "expectations have been shown",
        _ => return None,
    };
    let may_be_none = matches!(
        command,
        Command::List | Command::Add | Command::Event | Command::ListExpected
    );
    Some((format!("{count} {what}."), count != 0 || may_be_none))
}
