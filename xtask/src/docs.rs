//! `cargo xtask docs`: documents that are generated from the source.

use std::process::ExitCode;

use anyhow::Context as _;
use keepstate_engine::settings::Timeout;
use keepstate_engine::verdict::Reason;
use keepstate_listing::sysctl::profile::PROFILES;
use keepstate_listing::sysctl::{self, Kind};

use crate::{shell, transitions};

pub(crate) fn run(_arguments: &[String]) -> anyhow::Result<ExitCode> {
    for (name, text) in generated() {
        let path = shell::root().join(name);
        std::fs::write(&path, text).with_context(|| format!("cannot write {name}"))?;
        println!("wrote {name}");
    }
    Ok(ExitCode::SUCCESS)
}

/// Paths below the root, and what they must hold.
fn generated() -> [(&'static str, String); 4] {
    [
        ("docs/reasons.md", reasons()),
        ("docs/sysctl.md", knobs()),
        ("docs/timeouts.md", timeouts()),
        ("docs/transitions.md", transitions::document()),
    ]
}

fn reasons() -> String {
    let mut text = String::from(
        "# Reasons\n\n\
         Why a packet is INVALID or was dropped. Numbers and names are stable: events, counters,\n\
         `replay`, `explain` and metrics use them. Generated from `crates/engine/src/verdict.rs` by\n\
         `cargo xtask docs`.\n\n\
         | number | name | meaning |\n| --- | --- | --- |\n",
    );
    for reason in Reason::ALL {
        let number = *reason as u8;
        text += &format!(
            "| {number} | `{}` | {} |\n",
            reason.name(),
            reason.sentence()
        );
    }
    text
}

fn timeouts() -> String {
    let mut text = String::from(
        "# Timeouts\n\n\
         How long a record lives after its last packet, by protocol and state, unless set otherwise.\n\
         The values are Linux 6.18's. Generated from `crates/engine/src/settings.rs` by\n\
         `cargo xtask docs`.\n\n\
         | timeout | seconds | sysctl below `net.netfilter` |\n| --- | --- | --- |\n",
    );
    for timeout in Timeout::ALL {
        let sysctl = match timeout.sysctl() {
            "" => "none".to_owned(),
            name => format!("`{name}`"),
        };
        text += &format!(
            "| {timeout:?} | {} | {sysctl} |\n",
            timeout.default_seconds()
        );
    }
    text
}

/// The document of the knobs but for its tables, whose places are marked.
const KNOBS: &str = include_str!("docs/sysctl.md");

fn knobs() -> String {
    let mut table = String::from(
        "| name below `net.netfilter` | default | smallest, largest | what it does here |\n\
         | --- | ---: | --- | --- |\n",
    );
    for knob in sysctl::knobs() {
        let default = match knob.default() {
            Some(default) => default.to_string(),
            None => "by the table".to_owned(),
        };
        let (min, max) = knob.bounds();
        let bounds = match knob.kind {
            Kind::Count => "read only".to_owned(),
            Kind::FlowsMax => format!("{min}, by memory"),
            _ => format!("{min}, {max}"),
        };
        let name = match knob.path().strip_prefix("net/netfilter/") {
            Some(name) => name.to_owned(),
            None => knob.full_name(),
        };
        let sentence = knob.sentence;
        table += &format!("| `{name}` | {default} | {bounds} | {sentence} |\n");
    }
    let mut profiles = String::from("| profile | sets | to | why |\n| --- | --- | ---: | --- |\n");
    for profile in PROFILES {
        if profile.changes.is_empty() {
            profiles += &format!(
                "| `{}` | nothing: {} | | |\n",
                profile.name, profile.sentence
            );
        }
        for change in profile.changes {
            let (name, seconds, why) = (change.timeout.sysctl(), change.seconds, change.why);
            profiles += &format!("| `{}` | `{name}` | {seconds} | {why} |\n", profile.name);
        }
    }
    KNOBS
        .replace("KNOBS\n", &table)
        .replace("PROFILES\n", &profiles)
}

#[cfg(test)]
mod tests {
    use super::generated;
    use crate::shell;

    #[test]
    fn generated_documents_are_current() {
        for (name, text) in generated() {
            let written = std::fs::read_to_string(shell::root().join(name)).unwrap_or_default();
            assert!(written == text, "{name} is stale: run cargo xtask docs");
        }
    }
}
