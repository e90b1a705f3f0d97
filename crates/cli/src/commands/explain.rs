//! `keepstate explain`: why a packet would pass, or not.

pub(crate) mod running;

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, bail};
use clap::{Args, ValueEnum};
use keepstate_sim::capture::Reader;
use keepstate_sim::explain::{Explanation, Line, Tone, explain_expression, explain_frame};
use keepstate_sim::expression::{Expression, Pretended};
use keepstate_sim::plane::Recorder;
use keepstate_sim::replay::{Options, Replay};
use serde_json::json;

use crate::output::{Colour, Paint, stdout};
use crate::running::InstanceArgument;
use crate::simulation::{SimulationArguments, open};

/// Explain what becomes of a packet, step by step.
///
/// The packet is described in words: `tcp 10.0.0.5:5000 > 10.0.0.1:22 syn in eth0`,
/// `udp [2001:db8::5]:5000 > [2001:db8::1]:53 len 30`,
/// `icmp 10.0.0.9 > 10.0.0.1 unreachable quoting udp 10.0.0.1:4000 > 10.0.0.53:53`.
/// `state established` pretends that it belongs to a flow, `reply` that the other end began it.
///
/// Without `--rules` it is judged as the running daemon's programs would: by the rules in force, the
/// settings, and the record that its flow has now.
#[derive(Debug, Args)]
pub(crate) struct Arguments {
    /// The packet, in words.
    #[arg(required_unless_present = "capture", value_name = "PACKET")]
    packet_words: Option<Expression>,

    /// A packet of this capture, after those before it.
    #[arg(
        long,
        value_name = "FILE",
        requires = "packet",
        conflicts_with = "packet_words"
    )]
    capture: Option<PathBuf>,

    /// Number of that packet, from one.
    #[arg(long, value_name = "N", requires = "capture")]
    packet: Option<u64>,

    /// The state to pretend, as `state` in the packet's words.
    #[arg(long, value_enum, conflicts_with = "capture")]
    state: Option<StateArgument>,

    /// Print a JSON object.
    #[arg(long)]
    json: bool,

    #[command(flatten)]
    simulation: SimulationArguments,

    #[command(flatten)]
    instance: InstanceArgument,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum StateArgument {
    New,
    Established,
    Related,
}

pub(crate) fn run(arguments: Arguments) -> anyhow::Result<ExitCode> {
    let explanation = match (
        &arguments.packet_words,
        &arguments.capture,
        arguments.packet,
    ) {
        (Some(expression), _, _) => of_words(expression.clone(), &arguments)?,
        (None, Some(capture), Some(packet)) => of_capture(capture, packet, &arguments)?,
        // clap requires one of them.
        (None, _, _) => bail!("no packet is named"),
    };
    let mut out = stdout();
    if arguments.json {
        serde_json::to_writer(&mut out, &as_json(&explanation))?;
        writeln!(out)?;
    } else {
        print(&mut out, &explanation, Colour::of_stdout())?;
    }
    out.flush()?;
    Ok(ExitCode::SUCCESS)
}

fn of_words(mut expression: Expression, arguments: &Arguments) -> anyhow::Result<Explanation> {
    if let Some(state) = arguments.state {
        let pretended = match state {
            StateArgument::New => Pretended::New,
            StateArgument::Established => Pretended::Established,
            StateArgument::Related => Pretended::Related,
        };
        expression.pretend(pretended)?;
    }
    if !arguments.simulation.names_rules() {
        match arguments.instance.connect_if_running()? {
            Some(mut client) => {
                return running::explain(&mut client, expression, &arguments.simulation);
            }
            None => eprintln!(
                "keepstate: no daemon is running and no --rules are given: there are no rules"
            ),
        }
    }
    let options = arguments.simulation.options(
        expression.in_interface.as_deref(),
        expression.out_interface.as_deref(),
    )?;
    Ok(explain_expression(expression, options))
}

fn of_capture(capture: &Path, packet: u64, arguments: &Arguments) -> anyhow::Result<Explanation> {
    let name = || capture.display().to_string();
    let mut reader = Reader::new(open(capture)?).with_context(name)?;
    let options = arguments.simulation.options(None, None)?;
    let settings = options.settings();
    let table = Options::table(&settings);
    let mut replay = Replay::new(&table, settings, options, Recorder::default());
    while let Some(frame) = reader.next_frame().with_context(name)? {
        if frame.number == packet {
            return Ok(explain_frame(&mut replay, &frame));
        }
        replay.judge(&frame);
        replay.plane().observer.take();
    }
    bail!("{}: there are only {} packets", name(), reader.frames());
}

fn as_json(explanation: &Explanation) -> serde_json::Value {
    let outcome = &explanation.outcome;
    json!({
        "state": outcome.state.name(),
        "verdict": outcome.verdict.name(),
        "reason": outcome.reason.map(|reason| reason.name()),
        "steps": steps(explanation),
    })
}

/// Of each step what it is about, and what came of it.
pub(crate) fn steps(explanation: &Explanation) -> serde_json::Value {
    let step = |line: &Line| json!({"topic": line.topic, "text": line.text});
    explanation.lines.iter().map(step).collect()
}

/// A line for each step.
pub(crate) fn print(
    out: &mut impl Write,
    explanation: &Explanation,
    colour: Colour,
) -> std::io::Result<()> {
    for line in &explanation.lines {
        let paint = match line.tone {
            Tone::Plain => Paint::Plain,
            Tone::Good => Paint::Good,
            Tone::Bad => Paint::Bad,
            Tone::Faint => Paint::Faint,
        };
        writeln!(out, "{:<8} {}", line.topic, colour.paint(paint, &line.text))?;
    }
    Ok(())
}
