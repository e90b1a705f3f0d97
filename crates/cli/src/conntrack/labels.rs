//! Labels of flows: records have none.

use std::path::Path;

use super::invocation::Invocation;
use super::problem::Problem;

/// Where their names stand.
const LABEL_FILE: &str = "/etc/xtables/connlabel.conf";

/// Complains about the first label that is named, as conntrack does about one that it does not
/// know.
pub(super) fn refuse(invocation: &Invocation) -> Result<(), Problem> {
    let names_labels = invocation.given.has_any("l<>") || invocation.output.labels;
    if names_labels && !Path::new(LABEL_FILE).exists() {
        eprintln!("nfct_labelmap_new: No such file or directory");
    }
    let first = invocation.labels.first();
    let first = first.and_then(|labels| labels.split(',').next());
    match first {
        Some(label) => Err(Problem::Usage(format!("unknown label '{label}'"))),
        None => Ok(()),
    }
}
