//! `keepstate replay`: a capture through the engine, packet by packet.

use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context;
use clap::{Args, ValueEnum};
use keepstate_engine::verdict::{Hook, State, Verdict};
use keepstate_sim::capture::Reader;
use keepstate_sim::clock::Timing;
use keepstate_sim::expression;
use keepstate_sim::plane::LoadedPolicy;
use keepstate_sim::replay::{Judged, Options, Replay, Totals};

use crate::output::{Colour, Paint, stdout};
use crate::simulation::{SimulationArguments, open};

/// Replay a capture through the engine, without rights and without traffic.
#[derive(Debug, Args)]
pub(crate) struct Arguments {
    /// A pcap or pcapng file; `-` for standard input.
    capture: PathBuf,

    /// How packets are printed: text, if not jsonl.
    #[arg(long, value_enum, default_value_t = Output::Text, hide_possible_values = true, hide_default_value = true)]
    output: Output,

    /// The clock: of the capture, or flat, standing still.
    #[arg(long, value_enum, default_value_t = TimingArgument::Capture, hide_possible_values = true, hide_default_value = true)]
    timing: TimingArgument,

    /// Name of the interface that all packets come in by, for rules with `-i`.
    #[arg(long, value_name = "NAME")]
    in_interface: Option<String>,

    /// Name of the interface that forwarded packets go out by, for rules with `-o`.
    #[arg(long, value_name = "NAME")]
    out_interface: Option<String>,

    #[command(flatten)]
    simulation: SimulationArguments,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Output {
    /// A line for each packet, for people.
    Text,
    /// A JSON object for each packet; totals go to standard error.
    Jsonl,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum TimingArgument {
    Capture,
    Flat,
}

pub(crate) fn run(arguments: Arguments) -> anyhow::Result<ExitCode> {
    let in_interface = arguments.in_interface.as_deref();
    let out_interface = arguments.out_interface.as_deref();
    let options = Options {
        timing: match arguments.timing {
            TimingArgument::Capture => Timing::Capture,
            TimingArgument::Flat => Timing::Flat,
        },
        ..arguments.simulation.options(in_interface, out_interface)?
    };
    let name = arguments.capture.display();
    let input = open(&arguments.capture)?.beside_output();
    let mut reader = Reader::new(input).with_context(|| name.to_string())?;
    let settings = options.settings();
    let table = Options::table(&settings);
    let mut replay = Replay::new(&table, settings, options, ());

    let mut out = stdout();
    let colour = Colour::of_stdout();
    if arguments.output == Output::Text {
        writeln!(out, "{TEXT_HEADER}")?;
    }
    let damage = loop {
        let frame = match reader.next_frame() {
            Ok(Some(frame)) => frame,
            Ok(None) => break None,
            Err(error) => break Some(error),
        };
        let judged = replay.judge(&frame);
        let deciding = deciding(&judged, replay.plane().policy());
        match arguments.output {
            Output::Text => {
                let packet = expression::describe(&frame);
                write_text(&mut out, &judged, &deciding, &packet, colour)?;
            }
            Output::Jsonl => write_jsonl(&mut out, &judged, &deciding)?,
        }
    };
    match arguments.output {
        Output::Text => {
            writeln!(out)?;
            write_totals(&mut out, &replay)?;
            out.flush()?;
        }
        Output::Jsonl => {
            out.flush()?;
            write_totals(&mut std::io::stderr().lock(), &replay)?;
        }
    }
    // What could be read was reported; the damage is told last, where it is seen.
    match damage {
        Some(error) => Err(error).with_context(|| name.to_string()),
        None => Ok(ExitCode::SUCCESS),
    }
}

/// The chain that gave a packet its verdict and the rule's number in it; no number for the policy.
fn deciding<'a>(judged: &Judged, policy: &'a LoadedPolicy) -> Deciding<'a> {
    let outcome = &judged.outcome;
    let decided = policy.deciding(outcome.rule);
    decided.map_or(
        Deciding {
            chain: outcome.hook.map(Hook::chain),
            number: None,
        },
        |decided| Deciding {
            chain: Some(decided.chain),
            number: decided.number,
        },
    )
}

struct Deciding<'a> {
    chain: Option<&'a str>,
    number: Option<u32>,
}

const TEXT_HEADER: &str =
    "     n         time  state        verdict  chain    rule  flow      tcp_state    packet";

fn write_text(
    out: &mut impl Write,
    judged: &Judged,
    deciding: &Deciding<'_>,
    packet: &str,
    colour: Colour,
) -> anyhow::Result<()> {
    let outcome = &judged.outcome;
    let state_paint = match outcome.state {
        State::Invalid => Paint::Bad,
        State::New => Paint::Doubtful,
        State::Established | State::Related => Paint::Good,
        State::None | State::Untracked => Paint::Faint,
    };
    let verdict_paint = match outcome.verdict {
        Verdict::Accept => Paint::Good,
        Verdict::Drop | Verdict::Reject => Paint::Bad,
    };
    write!(
        out,
        "{:>6} {:>12}  {:<11}  {:<7}  {:<7}  {:>4}  {:<8}  {:<11}  {packet}",
        judged.number,
        Seconds(judged.time_ns),
        colour.paint(state_paint, outcome.state.name()),
        colour.paint(verdict_paint, outcome.verdict.name()),
        deciding.chain.unwrap_or("-"),
        deciding
            .number
            .map_or("-".to_owned(), |number| number.to_string()),
        outcome
            .flow
            .map_or("-".to_owned(), |flow| format!("{flow:08x}")),
        judged.protocol_state().unwrap_or("-"),
    )?;
    if let Some(reason) = outcome.reason {
        write!(out, "  {}", colour.paint(Paint::Doubtful, reason.name()))?;
    }
    writeln!(out)?;
    Ok(())
}

/// The keys and their order are a contract.
fn write_jsonl(
    out: &mut impl Write,
    judged: &Judged,
    deciding: &Deciding<'_>,
) -> anyhow::Result<()> {
    let outcome = &judged.outcome;
    let quoted = |text: Option<&str>| serde_json::to_string(&text);
    let number = |number: Option<u32>| serde_json::to_string(&number);
    writeln!(
        out,
        "{{\"n\":{},\"time\":{},\"state\":{},\"verdict\":{},\"chain\":{},\"rule\":{},\
         \"reason\":{},\"flow\":{},\"tcp_state\":{}}}",
        judged.number,
        Seconds(judged.time_ns),
        quoted(Some(outcome.state.name()))?,
        quoted(Some(outcome.verdict.name()))?,
        quoted(deciding.chain)?,
        number(deciding.number)?,
        quoted(outcome.reason.map(|reason| reason.name()))?,
        number(outcome.flow)?,
        quoted(judged.protocol_state())?,
    )?;
    Ok(())
}

fn write_totals(out: &mut impl Write, replay: &Replay<'_>) -> anyhow::Result<()> {
    let Totals {
        packets,
        states,
        verdicts,
        reasons,
    } = replay.totals();
    writeln!(out, "packets  {packets}")?;
    let counts = |counts: &mut dyn Iterator<Item = (&str, u64)>| {
        let words: Vec<String> = counts
            .map(|(name, count)| format!("{name} {count}"))
            .collect();
        words.join("  ")
    };
    let mut by_state = states.iter().map(|(name, count)| (*name, *count));
    writeln!(out, "state    {}", counts(&mut by_state))?;
    let mut by_verdict = verdicts.iter().map(|(name, count)| (*name, *count));
    writeln!(out, "verdict  {}", counts(&mut by_verdict))?;
    let mut by_reason = reasons
        .iter()
        .map(|(reason, count)| (reason.name(), *count));
    writeln!(out, "reason   {}", counts(&mut by_reason))?;
    let flows = replay.flows();
    writeln!(out, "flows    {}", flows.len())?;
    for flow in &flows {
        writeln!(out, "{}", flow.conntrack())?;
    }
    Ok(())
}

/// Nanoseconds, printed as seconds with six decimals.
struct Seconds(i64);

impl std::fmt::Display for Seconds {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let sign = if self.0 < 0 { "-" } else { "" };
        let microseconds = (self.0.unsigned_abs() + 500) / 1000;
        let text = format!(
            "{sign}{}.{:06}",
            microseconds / 1_000_000,
            microseconds % 1_000_000
        );
        f.pad_integral(true, "", &text)
    }
}
