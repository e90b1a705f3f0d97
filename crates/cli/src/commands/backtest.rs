//! `keepstate backtest`: whose verdict other rules would change.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Context;
use clap::Args;
use keepstate_engine::verdict::Verdict;
use keepstate_policy::{Compiled, Policy, compile};
use keepstate_sim::backtest::{Backtest, Changed, Side};
use keepstate_sim::capture::Reader;
use keepstate_sim::locals::{LocalAddress, Locals};
use keepstate_sim::plane::LoadedPolicy;
use keepstate_sim::replay::Options;
use serde_json::json;

use crate::output::{Colour, Paint, stdout};
use crate::rules::{interface_bits, loaded, parsed_file};
use crate::running::{InstanceArgument, rules_in_force};
use crate::simulation::open;

/// Judge a capture by two rulesets, and list the flows that do not fare alike.
///
/// Each ruleset keeps a memory of its own: what one drops at the beginning has no flow there.
#[derive(Debug, Args)]
pub(crate) struct Arguments {
    /// A pcap or pcapng file; `-` for standard input.
    capture: PathBuf,

    /// The rules as they are; those of the running daemon when none are named.
    #[arg(long, value_name = "FILE")]
    current: Option<PathBuf>,

    /// The rules as they might be.
    #[arg(long, value_name = "FILE")]
    candidate: PathBuf,

    /// An address of the host that packets are judged for, with /LENGTH for its network.
    ///
    /// Without one, every packet is FORWARDed.
    #[arg(long = "local", value_name = "ADDR")]
    locals: Vec<LocalAddress>,

    /// Name of the interface that all packets come in by, for rules with `-i`.
    #[arg(long, value_name = "NAME")]
    in_interface: Option<String>,

    /// Name of the interface that forwarded packets go out by, for rules with `-o`.
    #[arg(long, value_name = "NAME")]
    out_interface: Option<String>,

    /// A JSON document for programs.
    #[arg(long)]
    json: bool,

    #[command(flatten)]
    instance: InstanceArgument,
}

pub(crate) fn run(arguments: &Arguments) -> anyhow::Result<ExitCode> {
    let current = match &arguments.current {
        Some(file) => policy_of(file, Policy::default())?,
        None => rules_in_force(&mut arguments.instance.connect()?)?,
    };
    // As `keepstate apply` would: a family that the file says nothing of keeps its rules.
    let candidate = policy_of(&arguments.candidate, current.clone())?;
    let options = [current, candidate].map(|policy| {
        let compiled = compile(&policy)?;
        Ok::<_, anyhow::Error>(options(arguments, &compiled))
    });
    let [current, candidate] = options;
    let (current, candidate) = (current?, candidate?);

    let name = arguments.capture.display();
    let mut reader = Reader::new(open(&arguments.capture)?).with_context(|| name.to_string())?;
    let tables = [&current, &candidate].map(|options| Options::table(&options.settings()));
    let mut backtest = Backtest::new(&tables, [current, candidate]);
    while let Some(frame) = reader.next_frame().with_context(|| name.to_string())? {
        backtest.judge(&frame);
    }
    print(arguments, &backtest)?;
    Ok(ExitCode::SUCCESS)
}

fn policy_of(file: &Path, base: Policy) -> anyhow::Result<Policy> {
    let mut policy = base;
    policy.merge(parsed_file(file)?);
    Ok(policy)
}

fn options(arguments: &Arguments, compiled: &Compiled) -> Options {
    Options {
        policy: loaded(Some(compiled)),
        locals: Locals::new(arguments.locals.clone()),
        in_interfaces: interface_bits(Some(compiled), arguments.in_interface.as_deref()),
        out_interfaces: interface_bits(Some(compiled), arguments.out_interface.as_deref()),
        ..Options::default()
    }
}

fn print(arguments: &Arguments, backtest: &Backtest<'_>) -> anyhow::Result<()> {
    let mut out = stdout();
    let changed = backtest.changed();
    if arguments.json {
        let flows = changed.iter().map(|it| {
            json!({
                "flow": it.packet,
                "first_packet": it.number,
                "packets": it.packets,
                "current": side_json(&it.sides[0], backtest.policy(0)),
                "candidate": side_json(&it.sides[1], backtest.policy(1)),
            })
        });
        let document = json!({
            "packets": backtest.packets(),
            "flows": flows.collect::<Vec<_>>(),
            "not_listed": backtest.not_listed(),
        });
        serde_json::to_writer(&mut out, &document)?;
        writeln!(out)?;
        out.flush()?;
        return Ok(());
    }
    let colour = Colour::of_stdout();
    for it in changed {
        write_flow(&mut out, it, backtest, colour)?;
    }
    writeln!(
        out,
        "{} of {} packets would fare otherwise, in {} flows",
        backtest.packets_changed(),
        backtest.packets(),
        changed.len()
    )?;
    if backtest.not_listed() != 0 {
        writeln!(
            out,
            "{} of them in flows beyond those listed",
            backtest.not_listed()
        )?;
    }
    out.flush()?;
    Ok(())
}

fn write_flow(
    out: &mut impl Write,
    it: &Changed,
    backtest: &Backtest<'_>,
    colour: Colour,
) -> std::io::Result<()> {
    writeln!(
        out,
        "{}  ({} packets, first {})",
        it.packet, it.packets, it.number
    )?;
    for (index, label) in ["current", "candidate"].into_iter().enumerate() {
        let side = &it.sides[index];
        let paint = match side.verdict {
            Verdict::Accept => Paint::Good,
            Verdict::Drop | Verdict::Reject => Paint::Bad,
        };
        writeln!(
            out,
            "  {label:<9}  {:<6}  {:<11}  {}",
            colour.paint(paint, side.verdict.name()),
            side.state.name(),
            rule_text(side, backtest.policy(index))
        )?;
    }
    Ok(())
}

/// `INPUT 3: -A INPUT ...`, `INPUT policy`, or why no rule was asked.
fn rule_text(side: &Side, policy: &LoadedPolicy) -> String {
    let reason = side.reason.map(|reason| reason.name());
    match (policy.deciding(side.rule), reason) {
        (Some(decided), _) => match decided.number {
            Some(number) => format!("{} {number}: {}", decided.chain, policy.text(side.rule)),
            None => format!("{} policy", decided.chain),
        },
        (None, Some(reason)) => reason.to_owned(),
        (None, None) => "no rules".to_owned(),
    }
}

fn side_json(side: &Side, policy: &LoadedPolicy) -> serde_json::Value {
    let decided = policy.deciding(side.rule);
    json!({
        "verdict": side.verdict.name(),
        "state": side.state.name(),
        "chain": decided.as_ref().map(|decided| decided.chain),
        "rule": decided.as_ref().and_then(|decided| decided.number),
        "text": decided.as_ref().and_then(|it| it.number).map(|_| policy.text(side.rule)),
        "reason": side.reason.map(|reason| reason.name()),
    })
}
