//! `keepstate check`: what is wrong with rules that are right.

use std::io::{IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, bail};
use clap::Args;
use keepstate_api::{Reply, Request};
use keepstate_check::{
    Finding, Severity, Source, Subject, check, mend, patch, sarif, without_settings,
};
use keepstate_engine::tuple::Family;
use keepstate_policy::{FileKind, Policy, Style, parse_rules};
use serde_json::json;

use crate::output::{Colour, stdout};
use crate::progress::while_waiting;
use crate::rules::read;
use crate::running::{InstanceArgument, unexpected};

/// Look for what is wrong with rules: those that never match, limits that never count, ways in that
/// were left open or shut.
///
/// Exit code 0 when there is nothing to warn of (notes may be told), 1 when there is, 2 when the rules
/// cannot be read.
#[derive(Debug, Args)]
pub(crate) struct Arguments {
    /// A file of iptables-save, a script of iptables commands, or a file like `sysctl.conf`; `running` for the rules in
    /// force, `-` for standard input.
    #[arg(value_name = "FILE|running")]
    rules: PathBuf,

    /// A file for IPv6, beside one for IPv4.
    file6: Option<PathBuf>,

    /// Print what would be changed, in the form of iptables-save, as `diff -u` does. Changes nothing.
    #[arg(long, conflicts_with_all = ["json", "sarif"])]
    fix: bool,

    /// A JSON document for programs.
    #[arg(long)]
    json: bool,

    /// SARIF 2.1.0, as CI systems read it.
    #[arg(long, conflicts_with = "json")]
    sarif: bool,

    #[command(flatten)]
    instance: InstanceArgument,
}

const FOUND: u8 = 1;
const TROUBLE: u8 = 2;

pub(crate) fn run(arguments: &Arguments) -> ExitCode {
    match look(arguments) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("keepstate: {error:#}");
            ExitCode::from(TROUBLE)
        }
    }
}

fn look(arguments: &Arguments) -> anyhow::Result<ExitCode> {
    let subject = match arguments.rules.as_os_str() == "running" {
        true => running(arguments)?,
        false => files(&arguments.rules, arguments.file6.as_deref())?,
    };
    if arguments.fix {
        return fix(&subject);
    }
    let findings = while_waiting("looking at the rules", || check(&subject));
    print(arguments, &subject, &findings)?;
    let warns = findings.iter().any(|it| it.severity == Severity::Warning);
    Ok(if warns {
        ExitCode::from(FOUND)
    } else {
        ExitCode::SUCCESS
    })
}

fn running(arguments: &Arguments) -> anyhow::Result<Subject> {
    let Reply::Policy(text) = arguments.instance.connect()?.ask(&Request::Policy)? else {
        return Err(unexpected());
    };
    let rules = text
        .rules
        .context("the text of the rules in force is not known")?;
    let mut subject = Subject {
        policy: Policy::default(),
        families: Vec::new(),
        sources: Vec::new(),
        source_of: [None; 2],
        is_running: true,
    };
    for (family, text) in [(Family::V4, rules.v4), (Family::V6, rules.v6)] {
        let name = ["running, iptables-save", "running, ip6tables-save"][family as usize];
        take(&mut subject, name.to_owned(), text, FileKind::Save(family))?;
    }
    Ok(subject)
}

fn files(v4: &Path, v6: Option<&Path>) -> anyhow::Result<Subject> {
    let mut subject = Subject {
        policy: Policy::default(),
        families: Vec::new(),
        sources: Vec::new(),
        source_of: [None; 2],
        is_running: false,
    };
    // A file alone says itself what it is about; beside another it is about IPv4.
    let family = v6.is_some().then_some(Family::V4);
    let named = [(Some(v4), family), (v6, Some(Family::V6))];
    for (path, family) in named {
        let Some(path) = path else {
            continue;
        };
        let text = read(path)?;
        let kind = FileKind::of(&text, family);
        take(&mut subject, path.display().to_string(), text, kind)?;
    }
    Ok(subject)
}

/// Reads a text into the subject; tells what is wrong with it on standard error.
fn take(subject: &mut Subject, origin: String, text: String, kind: FileKind) -> anyhow::Result<()> {
    let parsed = parse_rules(&without_settings(&text), kind);
    for diagnostic in parsed.diagnostics.iter().filter(|told| told.is_error()) {
        eprintln!(
            "{}",
            diagnostic.render(&origin, style(std::io::stderr().is_terminal()))
        );
    }
    if parsed.has_errors() {
        bail!("{origin}: the rules cannot be used");
    }
    for family in &parsed.families {
        subject.source_of[*family as usize] = Some(subject.sources.len());
        if !subject.families.contains(family) {
            subject.families.push(*family);
        }
    }
    subject.policy.merge(parsed);
    subject.sources.push(Source { origin, text });
    Ok(())
}

fn style(is_coloured: bool) -> Style {
    if is_coloured {
        Style::Colour
    } else {
        Style::Plain
    }
}

fn fix(subject: &Subject) -> anyhow::Result<ExitCode> {
    let mended = while_waiting("mending the rules", || mend(subject));
    let mut out = stdout();
    write!(
        out,
        "{}",
        patch(&subject.policy, &mended.policy, &subject.families)
    )?;
    out.flush()?;
    let left = check(&Subject {
        policy: mended.policy,
        ..subject.clone()
    });
    for message in &mended.done {
        eprintln!("mended: {message}");
    }
    for finding in &left {
        eprintln!(
            "left to you: {} [{}]",
            finding.message,
            finding.code.number()
        );
    }
    let changes = !mended.done.is_empty() || !left.is_empty();
    Ok(if changes {
        ExitCode::from(FOUND)
    } else {
        ExitCode::SUCCESS
    })
}

fn print(arguments: &Arguments, subject: &Subject, findings: &[Finding]) -> anyhow::Result<()> {
    let mut out = stdout();
    if arguments.json || arguments.sarif {
        let document = match arguments.sarif {
            true => sarif::log(findings, &subject.sources),
            false => {
                let found: Vec<_> = findings.iter().map(|it| as_json(it, subject)).collect();
                json!({ "findings": found })
            }
        };
        serde_json::to_writer(&mut out, &document)?;
        writeln!(out)?;
        out.flush()?;
        return Ok(());
    }
    let style = style(Colour::of_stdout() == Colour::On);
    for finding in findings {
        writeln!(out, "{}", finding.render(&subject.sources, style))?;
    }
    out.flush()?;
    Ok(())
}

fn as_json(finding: &Finding, subject: &Subject) -> serde_json::Value {
    let location = |it: &keepstate_check::Location| {
        let source = it.source.and_then(|index| subject.sources.get(index));
        json!({
            "file": source.map(|source| &source.origin),
            "line": it.place.0.map(|place| place.line),
            "column": it.place.0.map(|place| place.column),
            "table": it.table,
            "chain": it.chain,
            "number": it.number,
            "rule": it.rule,
        })
    };
    let related: Vec<_> = finding
        .related
        .iter()
        .map(|(label, place)| json!({ "what": label, "location": location(place) }))
        .collect();
    json!({
        "code": finding.code.number(),
        "name": finding.code.name(),
        "severity": finding.severity,
        "family": finding.family,
        "message": finding.message,
        "help": finding.help,
        "location": location(&finding.location),
        "related": related,
    })
}
