//! `keepstate completions` and `keepstate manual`: what packages are made with.

use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Context as _;
use clap::{Args, Command, CommandFactory as _};
use clap_complete::Shell;
use clap_mangen::roff::{Roff, bold, italic, roman};

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
    let path = directory.join(FILE_PAGE);
    fs::write(&path, file_page()).with_context(|| format!("cannot write {}", path.display()))?;
    Ok(ExitCode::SUCCESS)
}

const FILE_PAGE: &str = "keepstate.toml.5";

/// The file that is shipped, which names all keys with what they are; a test holds it against them.
const SHIPPED: &str = include_str!("../../../../packaging/keepstate.toml");

/// keepstate.toml(5): of each key what the shipped file says.
fn file_page() -> String {
    let mut page = Roff::new();
    page.control("TH", ["keepstate.toml", "5"]);
    page.control("SH", ["NAME"]);
    page.text([roman(
        "keepstate.toml - how Keepstate's daemon and the commands beside it start",
    )]);
    page.control("SH", ["SYNOPSIS"]);
    page.text([italic("/etc/keepstate/keepstate.toml")]);
    page.control("SH", ["DESCRIPTION"]);
    page.text([roman(
        "Options of the command line count for more than this file. A key that is not known, or a value that cannot be, \
         is an error with line and column, and nothing starts; keepstate config check says what is wrong. \
         Values that are shown are those without the file, but for names.",
    )]);
    page.control("SH", ["KEYS"]);
    let mut told = String::new();
    for line in SHIPPED.lines() {
        if let Some(text) = line.strip_prefix("## ") {
            told.push_str(text);
            told.push(' ');
            continue;
        }
        let key = line.strip_prefix("# ").unwrap_or(line);
        let is_section = key.starts_with('[');
        if is_section {
            page.control("SS", [key]);
        } else if key.contains(" = ") {
            page.control("TP", []);
            page.text([bold(key)]);
        } else {
            continue;
        }
        page.text([roman(told.trim_end())]);
        told.clear();
    }
    page.control("SH", ["SEE ALSO"]);
    page.text([roman(
        "keepstate(1), keepstate-config(1), keepstate-daemon(1)",
    )]);
    page.render()
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
        let help = argument.get_long_help().or(argument.get_help());
        let help = help.map(|help| {
            told(&help)
                .replace(".\n\n", "\n\n")
                .replace("\n\n", ". ")
                .replace('\n', " ")
        });
        let help = help.unwrap_or_default();
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
    fn the_page_of_the_file_says_something_of_each_key() {
        let page = file_page();
        for wanted in [
            ".TP\n\\fBflows_max = 262144\\fR\nFlows that there is room for.",
            ".SS [alerts]\nWho is told what goes wrong",
            "\\fBdomain = 0\\fR",
        ] {
            assert!(page.contains(wanted), "{wanted}\n{page}");
        }
    }

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
