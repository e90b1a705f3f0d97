//! `keepstate config`: the file that says how the daemon starts.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, bail};
use clap::{Args, Subcommand};

use crate::config::{ConfigArgument, Configuration};

/// Look at keepstate.toml, which says how the daemon starts.
#[derive(Debug, Args)]
pub(crate) struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Say what is wrong with it, and change nothing.
    Check {
        /// The file; that of the daemon when none is named.
        file: Option<PathBuf>,

        #[command(flatten)]
        config: ConfigArgument,
    },
}

pub(crate) fn run(arguments: &Arguments) -> anyhow::Result<ExitCode> {
    let Command::Check { file, config } = &arguments.command;
    let path = file.clone().unwrap_or_else(|| config.file());
    let name = path.display().to_string();
    if !path.exists() {
        bail!("{name}: there is no such file");
    }
    let configuration = Configuration::read(&path).map_err(anyhow::Error::msg)?;
    let changing = configuration.changing();
    changing.map_err(|error| anyhow::anyhow!("{name}: {error}"))?;
    let files = [
        ("rules", &configuration.rules),
        ("rules6", &configuration.rules6),
    ];
    for (key, file) in files {
        let Some(file) = file else {
            continue;
        };
        let read = std::fs::read(file);
        read.with_context(|| format!("{name}: {key} = \"{}\"", file.display()))?;
    }
    println!("{name} is right");
    Ok(ExitCode::SUCCESS)
}
