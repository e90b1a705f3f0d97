//! Cards that change packets before the programs see them. What a card does, ethtool tells.

use std::process::Command;

use keepstate_api::Status;

use crate::health::{Finding, Severity};

/// What merges segments into one that was never sent: its length and its window are no sender's. XDP in the driver
/// excludes both, generic XDP does not.
const MERGES: [(&str, &str); 2] = [("large-receive-offload", "lro"), ("rx-gro-hw", "rx-gro-hw")];

pub(super) fn examine(status: &Status) -> Vec<Finding> {
    let names = status.interfaces.iter().map(|attachment| &attachment.name);
    // Without ethtool nothing is known.
    let told = names.filter_map(|name| Some((name, features(name)?)));
    told.filter_map(|(name, text)| merging(name, &text))
        .collect()
}

fn features(interface: &str) -> Option<String> {
    let output = Command::new("ethtool")
        .args(["-k", interface])
        .output()
        .ok()?;
    output
        .status
        .success()
        .then(|| String::from_utf8_lossy(&output.stdout).into_owned())
}

fn merging(interface: &str, features: &str) -> Option<Finding> {
    let is_on = |name: &str| {
        let mut lines = features
            .lines()
            .filter_map(|line| line.trim().split_once(':'));
        lines.any(|(own, value)| own == name && value.trim_start().starts_with("on"))
    };
    let on: Vec<_> = MERGES.into_iter().filter(|(name, _)| is_on(name)).collect();
    let (first, _) = on.first()?;
    let switches: Vec<String> = on.iter().map(|(_, short)| format!("{short} off")).collect();
    Some(Finding {
        name: "offload",
        severity: Severity::Warning,
        message: format!("{interface} merges packets before they are judged"),
        cause: "the card makes one of several: lengths, rates and windows are those of no packet that was sent"
            .to_owned(),
        evidence: format!("ethtool -k {interface}: {first}: on"),
        command: Some(format!("ethtool -K {interface} {}", switches.join(" "))),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_card_that_merges_is_found() {
        let off = "Features for eth0:\nlarge-receive-offload: off [fixed]\nrx-gro-hw: off\n";
        assert_eq!(merging("eth0", off), None);
        let on = off.replace("rx-gro-hw: off", "rx-gro-hw: on");
        let found = merging("eth0", &on).unwrap();
        assert_eq!(
            found.command.as_deref(),
            Some("ethtool -K eth0 rx-gro-hw off")
        );
        assert_eq!(found.evidence, "ethtool -k eth0: rx-gro-hw: on");
    }
}
