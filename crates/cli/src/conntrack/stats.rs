//! `-S`: the tracker's counters, by the names that the kernel has for them.

use std::io::Write;

use keepstate_api::{ClientError, Reply};

use super::problem::Problem;
use crate::output::stdout;

/// Counters of all CPUs in one line: the table counts for itself, not for a CPU.
pub(super) fn flows(reply: Reply) -> Result<(), Problem> {
    let Reply::Status(status) = reply else {
        return Err(ClientError::Unexpected.into());
    };
    let invalid = status.traffic.states.get("INVALID").copied().unwrap_or(0);
    let table = &status.table;
    writeln!(
        stdout(),
        "cpu=0   \tfound=0 invalid={invalid} insert={} insert_failed={} drop={} early_drop={} \
         error=0 search_restart={} clash_resolve=0 chaintoolong=0 ",
        status.control.inserted,
        table.contended,
        table.refused,
        table.evicted,
        table.busy,
    )?;
    Ok(())
}

pub(super) fn expectations(reply: Reply) -> Result<(), Problem> {
    let Reply::Status(status) = reply else {
        return Err(ClientError::Unexpected.into());
    };
    let table = &status.table;
    writeln!(
        stdout(),
        "cpu=0   \texpect_new={} expect_create={} expect_delete={} ",
        table.expectations_met,
        table.expectations_created,
        table.expectations_deleted,
    )?;
    Ok(())
}
