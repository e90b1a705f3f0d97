//! `cargo xtask docs`: documents that are generated from the source.

use std::process::ExitCode;

use anyhow::Context as _;
use keepstate_engine::settings::Timeout;
use keepstate_engine::verdict::Reason;

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
fn generated() -> [(&'static str, String); 3] {
    [
        ("docs/reasons.md", reasons()),
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
