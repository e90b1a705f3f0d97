//! `keepstate events`: what happens, while it happens.

use std::io::Write;
use std::process::ExitCode;

use clap::Args;
use keepstate_api::{Event, EventKind, EventKinds, Reply, Request, Subject};
use keepstate_listing::ShowTimeout;

use crate::expression;
use crate::output::{Colour, Paint};
use crate::running::{InstanceArgument, unexpected};

/// Tell what happens to flows and packets, a line each, in the words of `conntrack -E`.
#[derive(Debug, Args)]
pub(crate) struct Arguments {
    /// Go on until interrupted. There is no other way: nothing is kept of what is past.
    #[arg(long, required = true)]
    follow: bool,

    /// Which events, such as `src 10.0.0.0/8 and reason tcp_*`: see docs/filters.md.
    #[arg(value_name = "FILTER", num_args = 0..)]
    expression: Vec<String>,

    /// Flows that begin, change and end, and no packets.
    #[arg(long, conflicts_with = "drops")]
    flows: bool,

    /// Packets that were dropped or INVALID, and no flows.
    #[arg(long)]
    drops: bool,

    /// End after so many events.
    #[arg(long, value_name = "N")]
    count: Option<u64>,

    /// Print a JSON object for each event.
    #[arg(long)]
    json: bool,

    #[command(flatten)]
    instance: InstanceArgument,
}

pub(crate) fn run(arguments: &Arguments) -> anyhow::Result<ExitCode> {
    let kinds = match (arguments.flows, arguments.drops) {
        (true, _) => EventKinds::Flows,
        (_, true) => EventKinds::Drops,
        _ => EventKinds::All,
    };
    let expression = expression::given(&arguments.expression)?;
    let fits = |event: &Event| {
        let expression = expression.as_ref();
        expression.is_none_or(|expression| expression.matches(&Subject::of_event(event)))
    };
    let mut client = arguments.instance.connect()?;
    match client.ask(&Request::Events { kinds })? {
        Reply::Listening => {}
        _ => return Err(unexpected()),
    }
    let colour = Colour::of_stdout();
    let mut left = arguments.count.unwrap_or(u64::MAX);
    while left > 0 {
        let mut out = std::io::stdout().lock();
        match client.reply()? {
            Reply::Event(event) if !fits(&event) => {}
            Reply::Event(event) if arguments.json => {
                left -= 1;
                serde_json::to_writer(&mut out, &event)?;
                writeln!(out)?;
            }
            Reply::Event(event) => {
                left -= 1;
                writeln!(out, "{}", line(&event, colour))?;
            }
            Reply::EventsLost { count } if arguments.json => writeln!(out, "{{\"lost\":{count}}}")?,
            Reply::EventsLost { count } => writeln!(out, "   [LOST] {count} events")?,
            _ => return Err(unexpected()),
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// An event in one line.
pub(crate) fn line(event: &Event, colour: Colour) -> String {
    let paint = match event.kind {
        EventKind::New | EventKind::Expected => Paint::Good,
        EventKind::Update => Paint::Plain,
        EventKind::Destroy | EventKind::Unexpected => Paint::Faint,
        EventKind::Drop => Paint::Bad,
        EventKind::Invalid => Paint::Doubtful,
    };
    let mark = format!("{:>10}", event.kind.mark());
    let mark = colour.paint(paint, mark);
    let entry = event.flow.to_listing();
    let Some(packet) = &event.packet else {
        let timeout = match event.kind {
            EventKind::Destroy => ShowTimeout::No,
            _ => ShowTimeout::Yes,
        };
        return format!("{mark} {}", entry.event(timeout));
    };
    format!("{mark} {} {packet}", entry.packet())
}
