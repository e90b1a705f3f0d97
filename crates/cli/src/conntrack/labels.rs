//! Labels of flows, by the names of `/etc/xtables/connlabel.conf`.

use std::sync::OnceLock;

use keepstate_engine::limits::LABELS_MAX;
use keepstate_policy::LabelNames;

use super::invocation::Invocation;
use super::options::Command;
use super::problem::Problem;

/// Numbers of labels that a command line names.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Labels {
    /// `-l`: those that a flow must have.
    pub(super) wanted: Vec<u16>,
    pub(super) added: Vec<u16>,
    /// `--label-del`: all, where none is named.
    pub(super) removed: Option<Vec<u16>>,
}

fn names() -> Option<&'static LabelNames> {
    static NAMES: OnceLock<Option<LabelNames>> = OnceLock::new();
    let names = NAMES.get_or_init(|| match LabelNames::read() {
        Ok(names) => Some(names),
        Err(error) => {
            eprintln!("nfct_labelmap_new: {}", c_text(&error));
            None
        }
    });
    names.as_ref()
}

/// An error as the C library has it, without the number that Rust adds.
fn c_text(error: &std::io::Error) -> String {
    let text = error.to_string();
    match text.rsplit_once(" (os error ") {
        Some((text, _)) => text.to_owned(),
        None => text,
    }
}

/// The name of a label.
pub(super) fn name(label: u32) -> Option<&'static str> {
    names()?.name(label)
}

/// Numbers of the labels of a comma-separated list.
pub(super) fn numbers(list: &str) -> Result<Vec<u16>, Problem> {
    let number = |label: &str| {
        let found = names().and_then(|names| names.number(label));
        let found = found.and_then(|number| u16::try_from(number).ok());
        found.ok_or_else(|| Problem::Usage(format!("unknown label '{label}'")))
    };
    list.split(',').map(number).collect()
}

/// Complains about labels that do not go with each other, or that no flow can have.
pub(super) fn check(invocation: &Invocation) -> Result<(), Problem> {
    let Invocation { given, labels, .. } = invocation;
    // conntrack reads the file for each of these, whether it needs it or not.
    if given.has_any("l<>") || invocation.output.labels {
        names();
    }
    if given.has('<') && given.has('>') {
        let text = "cannot use --label-add and --label-del at the same time";
        return Err(Problem::Other(text.to_owned()));
    }
    let is_none = |label: &&u16| u32::from(**label) >= LABELS_MAX;
    let sets = matches!(
        invocation.command,
        Some(Command::Create | Command::Add | Command::Update)
    );
    match labels.added.iter().find(is_none).filter(|_| sets) {
        Some(_) => Err(Problem::failed("Numerical result out of range")),
        None => Ok(()),
    }
}
