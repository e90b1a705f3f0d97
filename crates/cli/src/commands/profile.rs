//! `keepstate profile`: settings that belong together.

use std::fs;
use std::io::{self, IsTerminal, Write};
use std::path::Path;
use std::process::ExitCode;

use anyhow::{Context, bail};
use clap::{Args, ValueEnum};
use keepstate_api::{Client, Reply, Request};
use keepstate_listing::sysctl::profile::{PROFILES, Profile, profile};
use serde_json::json;

use crate::config::ConfigArgument;
use crate::output::stdout;
use crate::running::{InstanceArgument, unexpected};

/// Show what a profile changes, and put it in force.
///
/// Profiles are default, web, game, database and gateway. `keepstate profile NAME` is
/// `keepstate profile apply NAME`.
#[derive(Debug, Args)]
pub(crate) struct Arguments {
    /// What to do, or the profile to apply.
    #[arg(value_enum)]
    action: Action,

    /// The profile to show or apply.
    #[arg(value_parser = named)]
    name: Option<&'static Profile>,

    /// Do not ask.
    #[arg(long, short)]
    yes: bool,

    /// Write the profile to sysctl.d/50-profile.conf as well, for later starts.
    #[arg(long)]
    save: bool,

    /// Print JSON.
    #[arg(long)]
    json: bool,

    #[command(flatten)]
    config: ConfigArgument,

    #[command(flatten)]
    instance: InstanceArgument,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Action {
    List,
    Show,
    Apply,
    Default,
    Web,
    Game,
    Database,
    Gateway,
}

fn named(name: &str) -> Result<&'static Profile, String> {
    let names: Vec<&str> = PROFILES.iter().map(|profile| profile.name).collect();
    profile(name).ok_or_else(|| format!("profiles are {}", names.join(", ")))
}

/// A knob that a profile changes.
struct Difference {
    name: &'static str,
    old: u64,
    new: u32,
    why: &'static str,
}

pub(crate) fn run(arguments: &Arguments) -> anyhow::Result<ExitCode> {
    let shorthand = match arguments.action {
        Action::List => return list(arguments),
        Action::Show | Action::Apply => None,
        Action::Default => profile("default"),
        Action::Web => profile("web"),
        Action::Game => profile("game"),
        Action::Database => profile("database"),
        Action::Gateway => profile("gateway"),
    };
    let wanted = match (shorthand, arguments.name) {
        (Some(_), Some(_)) => bail!("one profile at a time"),
        (shorthand, name) => shorthand.or(name).context("which profile?")?,
    };
    let mut client = arguments.instance.connect()?;
    let differences = differences(wanted, &mut client)?;
    if arguments.action == Action::Show {
        if arguments.json {
            show_json(wanted, &differences, Applied::No)?;
        } else {
            show(wanted, &differences)?;
        }
        return Ok(ExitCode::SUCCESS);
    }
    apply(arguments, wanted, &differences, &mut client)
}

fn list(arguments: &Arguments) -> anyhow::Result<ExitCode> {
    let mut out = stdout();
    for profile in PROFILES {
        let Profile { name, sentence, .. } = profile;
        if arguments.json {
            writeln!(out, "{}", json!({ "name": name, "sentence": sentence }))?;
        } else {
            writeln!(out, "{name:<9} {sentence}")?;
        }
    }
    out.flush()?;
    Ok(ExitCode::SUCCESS)
}

/// What a profile would change.
fn differences(profile: &Profile, client: &mut Client) -> anyhow::Result<Vec<Difference>> {
    let mut list = Vec::new();
    for (timeout, new, why) in profile.timeouts() {
        let name = timeout.sysctl();
        let request = Request::Sysctl {
            name: Some(name.to_owned()),
        };
        let Reply::Sysctl { value: old, .. } = client.ask(&request)? else {
            return Err(unexpected());
        };
        // The end of the answer.
        client.reply()?;
        if old != u64::from(new) {
            let why = why.unwrap_or("the default");
            list.push(Difference {
                name,
                old,
                new,
                why,
            });
        }
    }
    Ok(list)
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Applied {
    No,
    Yes,
}

fn show_json(
    profile: &Profile,
    differences: &[Difference],
    applied: Applied,
) -> anyhow::Result<()> {
    let changes = differences.iter().map(|change| {
        let Difference {
            name,
            old,
            new,
            why,
        } = change;
        json!({ "name": name, "old": old, "new": new, "why": why })
    });
    let told = json!({
        "profile": profile.name,
        "applied": applied == Applied::Yes,
        "changes": changes.collect::<Vec<_>>(),
    });
    let mut out = stdout();
    writeln!(out, "{told}")?;
    out.flush()?;
    Ok(())
}

fn show(profile: &Profile, differences: &[Difference]) -> anyhow::Result<()> {
    let mut out = stdout();
    if differences.is_empty() {
        writeln!(out, "Nothing differs from the profile {}.", profile.name)?;
    }
    for change in differences {
        let Difference {
            name,
            old,
            new,
            why,
        } = change;
        writeln!(out, "net.netfilter.{name}: {old} -> {new} ({why})")?;
    }
    out.flush()?;
    Ok(())
}

fn apply(
    arguments: &Arguments,
    profile: &Profile,
    differences: &[Difference],
    client: &mut Client,
) -> anyhow::Result<ExitCode> {
    if arguments.json && !arguments.yes {
        bail!("--json asks nobody: add --yes");
    }
    if !arguments.json {
        show(profile, differences)?;
    }
    if !arguments.yes && !differences.is_empty() && !confirms()? {
        println!("Nothing was changed.");
        return Ok(ExitCode::FAILURE);
    }
    for change in differences {
        let assignment = format!("{}={}", change.name, change.new);
        match client.ask(&Request::SetSysctl { assignment })? {
            Reply::Done => {}
            _ => return Err(unexpected()),
        }
    }
    if arguments.save {
        save(&arguments.config.directory(), profile)?;
    }
    if arguments.json {
        show_json(profile, differences, Applied::Yes)?;
    } else if !differences.is_empty() {
        println!("The profile {} is in force.", profile.name);
    }
    Ok(ExitCode::SUCCESS)
}

/// Asks whoever sits there.
fn confirms() -> anyhow::Result<bool> {
    if !io::stdin().is_terminal() {
        bail!("nothing was changed: nobody is there to be asked, add --yes");
    }
    print!("Apply? [y/N] ");
    io::stdout().flush()?;
    let mut answer = String::new();
    io::stdin().read_line(&mut answer)?;
    Ok(matches!(answer.trim(), "y" | "Y" | "yes"))
}

/// Writes all that the profile says, whether or not it is so already: the file is for later starts.
fn save(directory: &Path, profile: &Profile) -> anyhow::Result<()> {
    let directory = directory.join("sysctl.d");
    let path = directory.join("50-profile.conf");
    let mut text = format!("# The profile {}. {}\n", profile.name, profile.sentence);
    for (timeout, seconds, why) in profile.timeouts() {
        if let Some(why) = why {
            text.push_str(&format!("# {why}\n"));
        }
        text.push_str(&format!("net.netfilter.{} = {seconds}\n", timeout.sysctl()));
    }
    let context = || path.display().to_string();
    fs::create_dir_all(&directory).with_context(context)?;
    fs::write(&path, text).with_context(context)
}
