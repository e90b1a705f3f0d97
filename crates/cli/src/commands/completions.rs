//! `keepstate completions` and `keepstate manual`: what packages are made with.

use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Context as _;
use clap::{Args, Command, CommandFactory as _};
use clap_complete::Shell;

use crate::output::stdout;

/// Print what makes a shell complete Keepstate's commands.
#[derive(Debug, Args)]
pub(crate) struct Arguments {
    shell: Shell,
}

pub(crate) fn run(arguments: &Arguments) -> anyhow::Result<ExitCode> {
    let mut script = Vec::new();
    clap_complete::generate(
        arguments.shell,
        &mut super::Arguments::command(),
        "keepstate",
        &mut script,
    );
    stdout().write_all(&script)?;
    Ok(ExitCode::SUCCESS)
}

/// Write the manual pages, one for each command, to a directory.
#[derive(Debug, Args)]
pub(crate) struct ManualArguments {
    directory: PathBuf,
}

pub(crate) fn run_manual(arguments: &ManualArguments) -> anyhow::Result<ExitCode> {
    let directory = &arguments.directory;
    fs::create_dir_all(directory)
        .with_context(|| format!("cannot make {}", directory.display()))?;
    let mut command = super::Arguments::command();
    command.build();
    write_pages(directory, &command, "keepstate")?;
    Ok(ExitCode::SUCCESS)
}

/// A page for a command and one for each of its own that is shown: `keepstate-template-show.1`.
fn write_pages(directory: &Path, command: &Command, name: &str) -> anyhow::Result<()> {
    let path = directory.join(format!("{name}.1"));
    let mut page = Vec::new();
    clap_mangen::Man::new(command.clone().display_name(name.to_owned()))
        .title(name.to_owned())
        .render(&mut page)?;
    fs::write(&path, page).with_context(|| format!("cannot write {}", path.display()))?;
    let shown = command
        .get_subcommands()
        .filter(|command| !command.is_hide_set() && command.get_name() != "help");
    for command in shown {
        write_pages(
            directory,
            command,
            &format!("{name}-{}", command.get_name()),
        )?;
    }
    Ok(())
}
