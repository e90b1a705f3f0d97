//! `keepstate template`: rules for common hosts, to begin with.

use std::io::Write;
use std::process::ExitCode;

use clap::{Args, Subcommand};
use keepstate_api::{ApplyMode, CONFIRM_SECONDS_MAX, RuleFamily, RuleFile};

use super::apply::put;
use crate::output::stdout;
use crate::running::InstanceArgument;
use crate::template::{Parameters, TEMPLATES, Template};

/// Rules for common hosts, for IPv4 and IPv6.
#[derive(Debug, Args)]
pub(crate) struct Arguments {
    #[command(subcommand)]
    task: Task,
}

#[derive(Debug, Subcommand)]
enum Task {
    /// Name them all, with what they take.
    List {
        /// Print JSON.
        #[arg(long)]
        json: bool,
    },
    /// Print one as a file for `keepstate apply`.
    Show {
        name: Template,

        #[command(flatten)]
        parameters: Parameters,
    },
    /// Put one in force.
    Apply {
        name: Template,

        #[command(flatten)]
        parameters: Parameters,

        /// As with `keepstate apply`.
        #[arg(long, value_name = "SECONDS",
              value_parser = clap::value_parser!(u32).range(1..=i64::from(CONFIRM_SECONDS_MAX)))]
        confirm: Option<u32>,

        /// As with `keepstate apply`.
        #[arg(long)]
        force: bool,

        #[command(flatten)]
        instance: InstanceArgument,
    },
}

pub(crate) fn run(arguments: &Arguments) -> anyhow::Result<ExitCode> {
    let mut out = stdout();
    match &arguments.task {
        Task::List { json: true } => {
            let known = TEMPLATES.map(|template| {
                serde_json::json!({
                    "name": template.name(),
                    "about": template.about(),
                    "options": template.options(),
                })
            });
            serde_json::to_writer_pretty(&mut out, &known)?;
            writeln!(out)?;
        }
        Task::List { json: false } => {
            for template in TEMPLATES {
                writeln!(out, "{:<9} {}", template.name(), template.about())?;
                writeln!(out, "          {}", template.options().join(" "))?;
            }
        }
        Task::Show { name, parameters } => write!(out, "{}", name.text(parameters)?)?,
        Task::Apply {
            name,
            parameters,
            confirm,
            force,
            instance,
        } => {
            let file = RuleFile {
                origin: format!("template {}", name.name()),
                family: RuleFamily::Detect,
                text: name.text(parameters)?,
            };
            let mode = match confirm {
                Some(seconds) => ApplyMode::Guarded { seconds: *seconds },
                None => ApplyMode::Swap,
            };
            return put(&mut instance.connect()?, vec![file], mode, *force);
        }
    }
    out.flush()?;
    Ok(ExitCode::SUCCESS)
}
