//! Rule files on the command line, for commands that judge packets in user space.

use std::fs;
use std::io::{IsTerminal, Read};
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use clap::Args;
use keepstate_engine::tuple::Family;
use keepstate_policy::model::Interface;
use keepstate_policy::{Compiled, FileKind, Parsed, Policy, Style, compile, parse_rules};
pub(crate) use keepstate_simulate::loaded;

#[derive(Debug, Default, Args)]
pub(crate) struct RuleArguments {
    /// Rules: an iptables-save file, or a script of iptables commands.
    ///
    /// `-` for standard input. May stand twice, once for each family. Without any, everything is accepted.
    #[arg(long = "rules", value_name = "FILE")]
    files: Vec<PathBuf>,

    /// Rules for IPv6, as ip6tables-save prints them.
    #[arg(long = "rules6", value_name = "FILE")]
    file6: Option<PathBuf>,
}

impl RuleArguments {
    pub(crate) const fn are_named(&self) -> bool {
        !self.files.is_empty() || self.file6.is_some()
    }

    /// The policy that the files make; tells on standard error what is wrong with them.
    pub(crate) fn load(&self) -> anyhow::Result<Option<Compiled>> {
        if !self.are_named() {
            return Ok(None);
        }
        let mut policy = Policy::default();
        for file in &self.files {
            merge(&mut policy, file, FileKind::Detect)?;
        }
        if let Some(file) = &self.file6 {
            merge(&mut policy, file, FileKind::Save(Family::V6))?;
        }
        let compiled = compile(&policy)?;
        warn_of_sets(&compiled);
        Ok(Some(compiled))
    }
}

/// Says that nothing is in the sets that rules name, where they are judged without the daemon.
pub(crate) fn warn_of_sets(compiled: &Compiled) {
    if !compiled.sets.is_empty() {
        let names = compiled.sets.join(", ");
        eprintln!("keepstate: what is in sets only the daemon knows, here they are empty: {names}");
    }
}

fn merge(policy: &mut Policy, file: &Path, kind: FileKind) -> anyhow::Result<()> {
    policy.merge(parsed(file, kind)?);
    Ok(())
}

/// A file that says itself what it is about, without errors.
pub(crate) fn parsed_file(file: &Path) -> anyhow::Result<Parsed> {
    parsed(file, FileKind::Detect)
}

fn parsed(file: &Path, kind: FileKind) -> anyhow::Result<Parsed> {
    let origin = file.display().to_string();
    let parsed = parse_rules(&read(file)?, kind);
    let style = if std::io::stderr().is_terminal() {
        Style::Colour
    } else {
        Style::Plain
    };
    for diagnostic in &parsed.diagnostics {
        eprintln!("{}", diagnostic.render(&origin, style));
    }
    if parsed.has_errors() {
        bail!("{origin}: the rules cannot be used");
    }
    Ok(parsed)
}

pub(crate) fn read(file: &Path) -> anyhow::Result<String> {
    let bytes = if file.as_os_str() == "-" {
        let mut bytes = Vec::new();
        std::io::stdin().read_to_end(&mut bytes).map(|_| bytes)
    } else {
        fs::read(file)
    };
    let bytes = bytes.with_context(|| file.display().to_string())?;
    String::from_utf8(bytes).with_context(|| format!("{}: not text", file.display()))
}

/// A bit for each interface pattern of the policy that the name matches.
pub(crate) fn interface_bits(compiled: Option<&Compiled>, name: Option<&str>) -> u64 {
    let (Some(compiled), Some(name)) = (compiled, name) else {
        return 0;
    };
    let patterns = compiled.interface_patterns.iter().enumerate();
    patterns
        .filter(|(_, pattern)| Interface::new(pattern).is_ok_and(|pattern| pattern.matches(name)))
        .fold(0, |bits, (number, _)| bits | (1 << number))
}
