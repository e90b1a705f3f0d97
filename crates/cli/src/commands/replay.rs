//! `keepstate replay`: a capture through the engine, packet by packet.

use std::fs::File;
use std::io::{Read, Write};
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context;
use clap::{Args, ValueEnum};
use keepstate_engine::verdict::{Hook, State, Verdict};
use keepstate_sim::capture::Reader;
use keepstate_sim::clock::Timing;
use keepstate_sim::expression;
use keepstate_sim::locals::{LocalAddress, Locals};
use keepstate_sim::replay::{Judged, Options, Replay, Totals};
use keepstate_sim::sysctl::Sysctl;

use crate::output::{Colour, Paint, stdout};

/// Replay a capture through the engine, without rights and without traffic.
#[derive(Debug, Args)]
pub(crate) struct Arguments {
    /// A pcap or pcapng file; `-` for standard input.
    capture: PathBuf,

    /// An address of the host that the capture is judged for, with /LENGTH for its network.
    /// Without one, every packet is FORWARDed.
    #[arg(long = "local", value_name = "ADDR")]
    locals: Vec<LocalAddress>,

    /// How packets are printed.
    #[arg(long, value_enum, default_value_t = Output::Text)]
    output: Output,

    /// The clock: the capture's own, or one that stands still.
    #[arg(long, value_enum, default_value_t = TimingArgument::Capture)]
    timing: TimingArgument,

    /// A setting of the tracker by its sysctl name, such as nf_conntrack_tcp_loose=0.
    #[arg(long = "sysctl", value_name = "NAME=VALUE", value_parser = Sysctl::parse)]
    sysctls: Vec<Sysctl>,

    /// Flows that the table holds (nf_conntrack_max).
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=FLOWS_MAX))]
    flows_max: Option<u32>,
}

/// Beyond this many flows a table takes more memory than a machine that replays will have.
const FLOWS_MAX: i64 = 1 << 26;

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
    let input = open(&arguments.capture)?;
    let name = arguments.capture.display();
    let mut reader = Reader::new(input).with_context(|| name.to_string())?;
    let options = options(&arguments);
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
        let deciding = Deciding::of(&judged, &replay);
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

fn open(capture: &PathBuf) -> anyhow::Result<Box<dyn Read>> {
    if capture.as_os_str() == "-" {
        return Ok(Box::new(std::io::stdin().lock()));
    }
    let file = File::open(capture).with_context(|| capture.display().to_string())?;
    Ok(Box::new(file))
}

fn options(arguments: &Arguments) -> Options {
    let mut sysctls = arguments.sysctls.clone();
    sysctls.extend(arguments.flows_max.map(Sysctl::FlowsMax));
    Options {
        timing: match arguments.timing {
            TimingArgument::Capture => Timing::Capture,
            TimingArgument::Flat => Timing::Flat,
        },
        locals: Locals::new(arguments.locals.clone()),
        sysctls,
        ..Options::default()
    }
}

/// The chain and rule that gave a packet its verdict.
struct Deciding<'a> {
    chain: Option<&'a str>,
    /// Number in the chain; `None` for the chain's policy.
    rule: Option<u32>,
}

impl<'a> Deciding<'a> {
    fn of(judged: &Judged, _replay: &'a Replay<'_>) -> Self {
        Self {
            chain: judged.outcome.hook.map(Hook::chain),
            rule: None,
        }
    }
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
            .rule
            .map_or("-".to_owned(), |number| number.to_string()),
        outcome
            .flow
            .map_or("-".to_owned(), |flow| format!("{flow:08x}")),
        judged.tcp_state.map_or("-", |state| state.name()),
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
        number(deciding.rule)?,
        quoted(outcome.reason.map(|reason| reason.name()))?,
        number(outcome.flow)?,
        quoted(judged.tcp_state.map(|state| state.name()))?,
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
