//! `keepstate doctor`: what is wrong, why, how that is known, and what mends it.

mod host;
mod knobs;
mod memory;
mod offload;
mod protection;
mod rules;
mod sockets;

use keepstate_api::{Client, Filter, Instance, Order, Reply, Request, Survey};

use crate::health::{self, Finding, Severity};
use crate::running::unexpected;

/// All that is found, the worst first.
pub(crate) fn examine(client: &mut Client) -> anyhow::Result<Vec<Finding>> {
    let Reply::Status(status) = client.ask(&Request::Status)? else {
        return Err(unexpected());
    };
    let survey = survey(client)?;
    let knobs = knobs::read(client)?;
    let Reply::Policy(rules) = client.ask(&Request::Policy)? else {
        return Err(unexpected());
    };
    let mut found = health::of_status(&status, None);
    rules::name_refusers(&mut found, &rules);
    found.extend(knobs::examine(&status, &survey, &knobs));
    found.extend(rules::examine(&rules, &status));
    found.extend(protection::examine(client, &status, &knobs, &rules)?);
    found.extend(memory::examine(&status, &knobs));
    found.extend(host::examine());
    found.extend(offload::examine(&status));
    found.extend(sockets::examine());
    found.sort_by_key(|finding| finding.severity);
    Ok(found)
}

/// What can be said of a host on which no daemon runs.
pub(crate) fn examine_host(instance: &Instance) -> Vec<Finding> {
    let mut found = host::examine();
    if instance.filters() {
        found.push(abandoned(instance));
    }
    found.extend(sockets::examine());
    found.sort_by_key(|finding| finding.severity);
    found
}

fn abandoned(instance: &Instance) -> Finding {
    Finding {
        name: "no-daemon",
        severity: Severity::Error,
        message: "programs filter, and no daemon runs".to_owned(),
        cause: "it was killed, or could not start: nothing can be changed, and expired flows stay in the table"
            .to_owned(),
        evidence: format!("{} holds programs", instance.pins().display()),
        command: Some("keepstate up".to_owned()),
    }
}

fn survey(client: &mut Client) -> anyhow::Result<Survey> {
    let request = Request::Survey {
        filter: Filter::default(),
        order: Order::Left,
        count: 1,
    };
    match client.ask(&request)? {
        Reply::Survey(survey) => Ok(*survey),
        _ => Err(unexpected()),
    }
}
