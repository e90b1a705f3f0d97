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

    /// Write options.md instead: all commands and options on one page.
    #[arg(long, hide = true)]
    markdown: bool,
}

pub(crate) fn run_manual(arguments: &ManualArguments) -> anyhow::Result<ExitCode> {
    let directory = &arguments.directory;
    fs::create_dir_all(directory)
        .with_context(|| format!("cannot make {}", directory.display()))?;
    let mut command = super::Arguments::command();
    command.build();
    if arguments.markdown {
        let path = directory.join(OPTIONS);
        return fs::write(&path, options_page(&command))
            .map(|()| ExitCode::SUCCESS)
            .with_context(|| format!("cannot write {}", path.display()));
    }
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

const OPTIONS: &str = "options.md";

/// All commands and options, as Markdown.
fn options_page(command: &Command) -> String {
    let mut page = "# Commands and their options\n\nMade from the program's own definitions by \
        `keepstate manual --markdown docs`; a test holds one against the other. Of `conntrack`, `set`, `sysctl`, `iptables` \
        and its kin the options are those of the programs of that name.\n"
        .to_owned();
    add_options(&mut page, command, "keepstate");
    page
}

fn add_options(page: &mut String, command: &Command, name: &str) {
    let told = |text: &dyn std::fmt::Display| text.to_string().replace('|', "\\|");
    let arguments: Vec<_> = command
        .get_arguments()
        .filter(|argument| !argument.is_hide_set() && argument.get_id() != "help")
        .collect();
    let about = command.get_about().map(|about| told(&about));
    page.push_str(&format!(
        "\n## {name}\n\n{}.\n",
        about.unwrap_or_default().trim_end_matches('.')
    ));
    if !arguments.is_empty() {
        page.push_str("\n| option | what |\n| --- | --- |\n");
    }
    for argument in arguments {
        let values: Vec<String> = argument
            .get_value_names()
            .unwrap_or_default()
            .iter()
            .map(ToString::to_string)
            .collect();
        let takes_value = argument.get_action().takes_values();
        let values = if takes_value {
            values.join(" ")
        } else {
            String::new()
        };
        let short = argument.get_short().map(|short| format!("-{short}"));
        let long = argument.get_long().map(|long| format!("--{long}"));
        let names: Vec<String> = short.into_iter().chain(long).collect();
        let names = format!("{} {values}", names.join(", "));
        let help = argument
            .get_help()
            .map(|help| told(&help))
            .unwrap_or_default();
        page.push_str(&format!("| `{}` | {help} |\n", names.trim()));
    }
    let shown = command
        .get_subcommands()
        .filter(|command| !command.is_hide_set() && command.get_name() != "help");
    for command in shown {
        add_options(page, command, &format!("{name} {}", command.get_name()));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_page_of_options_is_what_the_program_has() {
        let mut command = crate::commands::Arguments::command();
        command.build();
        let path = keepstate_testkit::workspace_root()
            .join("docs")
            .join(OPTIONS);
        let page = fs::read_to_string(path).unwrap();
        assert!(
            page == options_page(&command),
            "docs/options.md is old: run `keepstate manual --markdown docs`"
        );
    }
}
