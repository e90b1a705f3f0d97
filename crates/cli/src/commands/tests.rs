//! What holds for all commands, found by their definitions.

use clap::{Command, CommandFactory as _};

use super::{Arguments, OVERVIEW};

/// Each command that does something, with its whole name, as it stands at 80 columns.
fn leaves() -> Vec<(String, Command)> {
    fn add(found: &mut Vec<(String, Command)>, command: &Command, name: &str) {
        let mut own = command
            .get_subcommands()
            .filter(|own| own.get_name() != "help")
            .peekable();
        if own.peek().is_none() {
            found.push((name.to_owned(), command.clone()));
        }
        for own in own {
            add(found, own, format!("{name} {}", own.get_name()).trim());
        }
    }
    let mut command = Arguments::command().term_width(80);
    command.build();
    let mut found = Vec::new();
    add(&mut found, &command, "");
    assert!(found.len() > 50, "{}", found.len());
    found
}

/// They print the help of the program that they are called after.
fn has_own_help(command: &Command) -> bool {
    command
        .get_arguments()
        .any(|argument| argument.get_id() == "help")
}

#[test]
fn help_fits_a_screen() {
    let mut too_large = Vec::new();
    for (name, mut command) in leaves()
        .into_iter()
        .filter(|(_, command)| has_own_help(command))
    {
        let help = command.render_help().to_string();
        let wide = help.lines().map(|line| line.chars().count()).max();
        if help.lines().count() > 23 || wide > Some(80) {
            too_large.push(format!(
                "{name}: {} lines, {wide:?}\n{help}",
                help.lines().count()
            ));
        }
    }
    assert!(too_large.is_empty(), "{}", too_large.join("\n"));
    assert!(OVERVIEW.lines().count() < 24);
    assert!(OVERVIEW.lines().all(|line| line.chars().count() <= 80));
}

#[test]
fn the_overview_names_every_command() {
    let words: Vec<&str> = OVERVIEW
        .split(|letter: char| !(letter.is_alphanumeric() || letter == '-'))
        .collect();
    let all = Arguments::command();
    let shown = all.get_subcommands();
    for command in shown.filter(|command| !command.is_hide_set()) {
        assert!(
            words.contains(&command.get_name()),
            "{}",
            command.get_name()
        );
    }
}

/// Commands that list nothing, or in a form that programs read: rules, OpenMetrics, IPFIX, completions.
const WITHOUT_JSON: [&str; 26] = [
    "demo",
    "up",
    "down",
    "apply",
    "confirm",
    "save",
    "template show",
    "template apply",
    "shell",
    "top",
    "web",
    "metrics",
    "alerts",
    "ipfix",
    "capture",
    "replay",
    "daemon",
    "config check",
    "completions",
    "manual",
    "timeout add",
    "timeout delete",
    "timeout flush",
    "recent add",
    "recent remove",
    "recent flush",
];

#[test]
fn every_list_has_json() {
    let lacking: Vec<String> = leaves()
        .into_iter()
        .filter(|(_, command)| has_own_help(command) && !command.is_hide_set())
        .filter(|(_, command)| {
            command
                .get_arguments()
                .all(|argument| argument.get_id() != "json")
        })
        .map(|(name, _)| name)
        .collect();
    assert_eq!(lacking, WITHOUT_JSON);
}
