//! `keepstate defence`: floods that are recognised, and what is done about them.

use std::io::Write;
use std::process::ExitCode;

use anyhow::{anyhow, bail};
use clap::{Args, Subcommand, ValueEnum};
use keepstate_api::{DefenceStatus, Reply, Request};
use keepstate_defence::{Action, Attack, Mode, Step, StepState};

use crate::duration::in_words;
use crate::output::stdout;
use crate::running::{Options, unexpected};

/// Recognise floods, and act against them step by step.
#[derive(Debug, Args)]
pub(crate) struct Arguments {
    #[command(subcommand)]
    action: What,
}

#[derive(Debug, Subcommand)]
enum What {
    /// Show the attacks that go on or are met by steps in force, and these steps.
    Status {
        #[command(flatten)]
        options: Options,
    },
    /// Show the attacks that there were too, and all steps.
    History {
        #[command(flatten)]
        options: Options,
    },
    /// Say what an attack was known by, and why each step was taken.
    Explain {
        /// Number of the attack; the latest unless said.
        attack: Option<u32>,

        #[command(flatten)]
        options: Options,
    },
    /// Undo a step; it is not taken again against the same attack.
    Undo {
        /// Number of the step; all that are in force unless said.
        step: Option<u32>,

        #[command(flatten)]
        options: Options,
    },
    /// Say whether steps are taken; `observe` and `off` end those that are in force, and name them.
    Mode {
        #[arg(value_enum)]
        mode: ModeName,

        #[command(flatten)]
        options: Options,
    },
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum ModeName {
    /// Say what would be done.
    Observe,
    /// Take steps.
    Act,
    /// Do not look.
    Off,
}

pub(crate) fn run(arguments: &Arguments) -> anyhow::Result<ExitCode> {
    match &arguments.action {
        What::Status { options } => show(&Request::Defence, options, |status, out| {
            let mut now = status.clone();
            let is_met = |attack: &Attack| {
                let is_of = |step: &Step| step.attack == attack.number;
                let mut active = now.steps.iter().filter(|it| it.state == StepState::Active);
                active.any(is_of)
            };
            now.attacks
                .retain(|attack| !attack.is_over || is_met(attack));
            let is_shown = |step: &Step| now.attacks.iter().any(|it| it.number == step.attack);
            now.steps
                .retain(|step| step.state == StepState::Active || is_shown(step));
            write_all(&now, out)
        }),
        What::History { options } => show(&Request::Defence, options, write_all),
        What::Explain { attack, options } => explain(*attack, options),
        What::Undo { step, options } => undo(*step, options),
        What::Mode { mode, options } => {
            let mode = match mode {
                ModeName::Observe => Mode::Observe,
                ModeName::Act => Mode::Act,
                ModeName::Off => Mode::Off,
            };
            show(&Request::SetDefence { mode }, options, |status, out| {
                write_head(status, out)?;
                write_ended(status, out)
            })
        }
    }
}

fn ask(request: &Request, options: &Options) -> anyhow::Result<DefenceStatus> {
    match options.instance.connect()?.ask(request)? {
        Reply::Defence(status) => Ok(*status),
        Reply::Failed(failure) => Err(failure.into()),
        _ => Err(unexpected()),
    }
}

fn show(
    request: &Request,
    options: &Options,
    write: impl FnOnce(&DefenceStatus, &mut dyn Write) -> std::io::Result<()>,
) -> anyhow::Result<ExitCode> {
    let status = ask(request, options)?;
    let mut out = stdout();
    if options.json {
        serde_json::to_writer_pretty(&mut out, &status)?;
        writeln!(out)?;
    } else {
        write(&status, &mut out)?;
    }
    out.flush()?;
    Ok(ExitCode::SUCCESS)
}

fn undo(step: Option<u32>, options: &Options) -> anyhow::Result<ExitCode> {
    let reply = options
        .instance
        .connect()?
        .ask(&Request::UndoDefence { step })?;
    let steps = match reply {
        Reply::Undone { steps } => steps,
        Reply::Failed(failure) => return Err(failure.into()),
        _ => return Err(unexpected()),
    };
    if options.json {
        let mut out = stdout();
        writeln!(out, "{}", serde_json::json!({ "undone": steps }))?;
        out.flush()?;
    } else {
        let noun = if steps == 1 { "step" } else { "steps" };
        eprintln!("keepstate: {steps} {noun} undone");
    }
    Ok(ExitCode::SUCCESS)
}

fn explain(number: Option<u32>, options: &Options) -> anyhow::Result<ExitCode> {
    let status = ask(&Request::Defence, options)?;
    let attacks = &status.attacks;
    let found = match number {
        None => attacks.last(),
        Some(number) => attacks.iter().find(|attack| attack.number == number),
    };
    let attack = match (found, number) {
        (Some(attack), _) => attack,
        (None, Some(number)) => bail!("there is no attack {number}, or it was too long ago"),
        (None, None) => return Err(anyhow!("no attack has been seen")),
    };
    let steps = status
        .steps
        .iter()
        .filter(|step| step.attack == attack.number);
    let steps: Vec<&Step> = steps.collect();
    let mut out = stdout();
    if options.json {
        let told = serde_json::json!({ "attack": attack, "steps": steps });
        serde_json::to_writer_pretty(&mut out, &told)?;
        writeln!(out)?;
        out.flush()?;
        return Ok(ExitCode::SUCCESS);
    }
    write_attack(attack, &status, &mut out)?;
    writeln!(out, "  known by    {}", attack.evidence)?;
    for source in &attack.heavy {
        writeln!(
            out,
            "  source      {:<40} {:.0}, and up to {:.0} more",
            source.network, source.rate, source.error
        )?;
    }
    for step in steps {
        write_step(step, &status, usize::MAX, &mut out)?;
        writeln!(out, "    known by  {}", step.evidence)?;
        if step.state != StepState::Active {
            continue;
        }
        let end = match step.action {
            Action::Ban { .. } => "after its time",
            _ => "a minute after the last sign of the attack",
        };
        writeln!(
            out,
            "    ends      {end}, or by `keepstate defence undo {}`",
            step.number
        )?;
    }
    out.flush()?;
    Ok(ExitCode::SUCCESS)
}

fn write_head(status: &DefenceStatus, out: &mut dyn Write) -> std::io::Result<()> {
    let mode = match status.mode {
        Mode::Off => "off: nothing is looked for",
        Mode::Observe => "observe: says what it would do, and does nothing",
        Mode::Act => "act",
    };
    writeln!(out, "mode        {mode}")?;
    writeln!(
        out,
        "sampling    one packet in {} of those that begin flows or are refused; {} so far, {} lost",
        status.one_in, status.samples, status.lost
    )?;
    if !status.counts_flows && status.mode != Mode::Off {
        writeln!(
            out,
            "not seen    floods within flows that were answered: `keepstate sysctl -w nf_conntrack_acct=1` counts flows"
        )?;
    }
    let exempt = status.exempt.iter();
    let exempt: Vec<String> = exempt
        .map(|it| format!("{} {}", it.network, it.why.words()))
        .collect();
    if !exempt.is_empty() {
        writeln!(out, "left alone  {}", exempt.join(", "))?;
    }
    Ok(())
}

/// What a mode that takes no steps has put an end to.
fn write_ended(status: &DefenceStatus, out: &mut dyn Write) -> std::io::Result<()> {
    if status.mode != Mode::Act && status.ended.is_empty() {
        return writeln!(out, "ended       nothing: no step was in force");
    }
    for number in &status.ended {
        let step = status.steps.iter().find(|step| step.number == *number);
        let action = step.map_or("", |step| step.action.name());
        let attack = step.map_or(0, |step| step.attack);
        writeln!(
            out,
            "ended       step {number}, {action}: `keepstate defence explain {attack}`"
        )?;
    }
    Ok(())
}

fn write_all(status: &DefenceStatus, out: &mut dyn Write) -> std::io::Result<()> {
    write_head(status, out)?;
    if status.attacks.is_empty() {
        writeln!(out, "attacks     none")?;
    }
    for attack in &status.attacks {
        write_attack(attack, status, out)?;
        for step in status
            .steps
            .iter()
            .filter(|step| step.attack == attack.number)
        {
            write_step(step, status, RULES_SHORT, out)?;
        }
    }
    let is_of_none = |step: &&Step| status.attacks.iter().all(|it| it.number != step.attack);
    for step in status.steps.iter().filter(is_of_none) {
        write_step(step, status, RULES_SHORT, out)?;
    }
    Ok(())
}

/// Rules of a step that are shown where all attacks are.
const RULES_SHORT: usize = 4;

fn write_attack(
    attack: &Attack,
    status: &DefenceStatus,
    out: &mut (impl Write + ?Sized),
) -> std::io::Result<()> {
    let at = match attack.destination {
        Some(destination) => format!("to {destination}"),
        None => "to many".to_owned(),
    };
    let ago = |second: u64| in_words(status.now.saturating_sub(second) as u32);
    let when = if attack.is_over {
        format!("over since {}", ago(attack.last_seen))
    } else {
        format!("for {}", ago(attack.began))
    };
    writeln!(
        out,
        "attack {:<4} {} {at}, {when}: {:.0} now, {:.0} at most, {:.0} let through; about {:.0} sources",
        attack.number,
        attack.kind.name(),
        attack.rate,
        attack.peak,
        attack.passed,
        attack.sources
    )
}

fn write_step(
    step: &Step,
    status: &DefenceStatus,
    rules_max: usize,
    out: &mut (impl Write + ?Sized),
) -> std::io::Result<()> {
    let state = match step.state {
        StepState::Proposed => "would be taken".to_owned(),
        StepState::Active => {
            let left = step.until.saturating_sub(status.now) as u32;
            format!("in force for {} more", in_words(left))
        }
        StepState::Over => "over".to_owned(),
        StepState::Undone => "undone".to_owned(),
        StepState::Failed => "failed".to_owned(),
    };
    writeln!(
        out,
        "  step {:<4} {}, {state}",
        step.number,
        step.action.name()
    )?;
    writeln!(out, "    because   {}", step.cause)?;
    for command in step.commands.iter().take(rules_max) {
        writeln!(out, "    rule      {command}")?;
    }
    let left = step.commands.len().saturating_sub(rules_max);
    if left > 0 {
        writeln!(
            out,
            "    rule      {left} more: `keepstate defence explain {}`",
            step.attack
        )?;
    }
    match &step.action {
        Action::Ban { networks } => {
            let networks: Vec<String> = networks.iter().map(ToString::to_string).collect();
            writeln!(out, "    banned    {}", networks.join(" "))?;
        }
        Action::Timeouts { seconds } => {
            for (name, seconds) in seconds {
                writeln!(out, "    knob      {name} = {seconds}")?;
            }
        }
        _ => {}
    }
    if let Some(note) = &step.note {
        writeln!(out, "    note      {note}")?;
    }
    Ok(())
}
