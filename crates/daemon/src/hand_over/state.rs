//! What is not a flow, from the socket of one daemon to that of another.

use std::collections::BTreeMap;

use keepstate_api::{
    ApplyMode, Ban, BanList, Client, ClientError, CookieChange, MeterKind, NewExpectation,
    PREFIXES_MAX, Query, RecentChange, Reply, Request, RuleFamily, RuleFile, SET_COMMANDS_MAX,
    SetChange, SetCommand, SetInfo,
};

use super::HandOverError;

/// Settings that are no knobs, timeout policies, sets, rules and their counters, bans, lists of `recent`.
pub(super) fn carry(from: &mut Client, to: &mut Client) -> Result<(), HandOverError> {
    carry_timeouts(from, to)?;
    carry_sets(from, to)?;
    carry_rules(from, to)?;
    for list in [BanList::Never, BanList::Banned] {
        carry_bans(from, to, list)?;
    }
    carry_cookies(from, to)?;
    carry_recent(from, to)
}

fn unexpected() -> HandOverError {
    ClientError::Unexpected.into()
}

/// Asks for a change, which must be made.
fn order(to: &mut Client, request: &Request) -> Result<Reply, HandOverError> {
    match to.ask(request)? {
        Reply::Unable { why } => Err(HandOverError::State(format!(
            "something of the daemon before cannot be kept: {why:?}"
        ))),
        reply => Ok(reply),
    }
}

fn carry_timeouts(from: &mut Client, to: &mut Client) -> Result<(), HandOverError> {
    let Reply::TimeoutPolicies { policies } = from.ask(&Request::TimeoutPolicies)? else {
        return Err(unexpected());
    };
    for policy in policies {
        order(to, &Request::AddTimeoutPolicy { policy })?;
    }
    Ok(())
}

fn carry_sets(from: &mut Client, to: &mut Client) -> Result<(), HandOverError> {
    let mut sets: Vec<(SetInfo, Vec<SetCommand>)> = Vec::new();
    from.send(&Request::ListSets {
        name: None,
        terse: false,
    })?;
    loop {
        match from.reply()? {
            Reply::Set(info) => sets.push((info, Vec::new())),
            Reply::SetEntries { entries } => {
                let Some((info, commands)) = sets.last_mut() else {
                    return Err(unexpected());
                };
                commands.extend(entries.into_iter().map(|entry| {
                    SetCommand::Add(SetChange {
                        set: info.name.clone(),
                        entry: entry.entry,
                        timeout: entry.timeout,
                        nomatch: entry.nomatch,
                        before: None,
                        after: None,
                    })
                }));
            }
            Reply::FlowsEnd { .. } => break,
            _ => return Err(unexpected()),
        }
    }
    // Lists come after what they hold.
    sets.sort_by_key(|(info, _)| info.kind == "list:set");
    for (info, entries) in sets {
        let create = std::iter::once(SetCommand::Create(info));
        let commands: Vec<SetCommand> = create.chain(entries).collect();
        for part in commands.chunks(SET_COMMANDS_MAX) {
            let request = Request::Sets {
                commands: part.to_vec(),
                exist: true,
            };
            match to.ask(&request)? {
                Reply::SetsDone { failure: None, .. } => {}
                Reply::SetsDone {
                    failure: Some(why), ..
                } => return Err(HandOverError::State(why)),
                _ => return Err(unexpected()),
            }
        }
    }
    Ok(())
}

fn carry_rules(from: &mut Client, to: &mut Client) -> Result<(), HandOverError> {
    let Reply::Status(status) = from.ask(&Request::Status)? else {
        return Err(unexpected());
    };
    let Some(policy) = status.policy else {
        return Ok(());
    };
    let Reply::Policy(text) = from.ask(&Request::Policy)? else {
        return Err(unexpected());
    };
    let rules = text.rules.ok_or_else(|| {
        HandOverError::State(
            "the text of the rules in force is lost: put rules in force by the daemon before, then upgrade".to_owned(),
        )
    })?;
    let origin = policy.origins.join(", ");
    let files = [(RuleFamily::V4, rules.v4), (RuleFamily::V6, rules.v6)];
    let files = files.map(|(family, text)| RuleFile {
        origin: origin.clone(),
        family,
        text,
    });
    let request = Request::Apply {
        files: files.to_vec(),
        mode: ApplyMode::Swap,
    };
    match to.ask(&request)? {
        Reply::Applied(_) => Ok(()),
        Reply::Refused { problems } => {
            let told: Vec<_> = problems
                .into_iter()
                .map(|problem| problem.rendered)
                .collect();
            let told = told.join("\n");
            Err(HandOverError::State(format!(
                "this version does not take the rules in force:\n{told}"
            )))
        }
        _ => Err(unexpected()),
    }
}

fn carry_bans(from: &mut Client, to: &mut Client, list: BanList) -> Result<(), HandOverError> {
    // One request for those that are alike.
    type Alike = (Option<u32>, Option<String>, Option<u32>);
    let mut alike: BTreeMap<Alike, Vec<_>> = BTreeMap::new();
    from.send(&Request::Bans { list })?;
    loop {
        match from.reply()? {
            Reply::Ban(Ban {
                network,
                seconds_left,
                cause,
                limit,
                ..
            }) => alike
                .entry((seconds_left, cause, limit))
                .or_default()
                .push(network),
            Reply::FlowsEnd { .. } => break,
            _ => return Err(unexpected()),
        }
    }
    for ((seconds, cause, limit), networks) in alike {
        for part in networks.chunks(PREFIXES_MAX) {
            order(
                to,
                &Request::Ban {
                    list,
                    networks: part.to_vec(),
                    seconds,
                    cause: cause.clone(),
                    limit,
                    // No flow ends by them: those that they end have ended.
                    more: true,
                },
            )?;
        }
    }
    Ok(())
}

fn carry_cookies(from: &mut Client, to: &mut Client) -> Result<(), HandOverError> {
    let Reply::Cookies(status) = from.ask(&Request::Cookies)? else {
        return Err(unexpected());
    };
    let change = CookieChange {
        mode: Some(status.mode),
        synproxy: Some(status.synproxy),
        high: Some(status.marks.high),
        low: Some(status.marks.low),
        destination_high: Some(status.destination_marks.high),
        destination_low: Some(status.destination_marks.low),
    };
    order(to, &Request::SetCookies(change)).map(drop)
}

/// Who is on the lists of `recent`; the stamps are those of now.
fn carry_recent(from: &mut Client, to: &mut Client) -> Result<(), HandOverError> {
    let Reply::MeterLists { lists } = from.ask(&Request::MeterLists)? else {
        return Err(unexpected());
    };
    for list in lists
        .into_iter()
        .filter(|list| list.kind == MeterKind::Recent)
    {
        let mut addresses = Vec::new();
        from.meter::<HandOverError>(list.clone(), |entry| {
            if let keepstate_api::MeterEntry::Recent(entry) = entry {
                addresses.push(entry.address);
            }
            Ok(())
        })?;
        for address in addresses {
            let change = RecentChange::Add { address };
            let name = list.name.clone();
            order(to, &Request::ChangeRecent { name, change })?;
        }
    }
    Ok(())
}

/// Flows that are expected, which belong to flows that are there by now. One that cannot be made is left out: helpers
/// make another with the next message.
pub(super) fn carry_expectations(from: &mut Client, to: &mut Client) -> Result<(), HandOverError> {
    let mut expectations = Vec::new();
    from.send(&Request::Expectations { family: None })?;
    loop {
        match from.reply()? {
            Reply::Expectation(expectation) => expectations.push(expectation),
            Reply::FlowsEnd { .. } => break,
            _ => return Err(unexpected()),
        }
    }
    for told in expectations {
        let query = |ends: &keepstate_api::Ends, protocol| Query {
            source: ends.source,
            destination: ends.destination,
            protocol,
            source_port: ends.source_port,
            destination_port: ends.destination_port,
            zone: told.zone,
        };
        let (source_mask, port_mask) = told.masks();
        let expectation = NewExpectation {
            master: query(&told.master, 6),
            expected: query(&told.expected, told.protocol),
            source_mask,
            port_mask,
        };
        to.ask(&Request::InsertExpectation { expectation })?;
    }
    Ok(())
}
